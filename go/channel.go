package machnet

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unsafe"
)

// MaxMessage is the largest message: 8 MiB, in bytes. A flow may take less: see Flow.MaxMessage.
const MaxMessage = 8 << 20

// LibraryVersion is the version of the C library in this program, such as "0.1.0".
func LibraryVersion() string { return libraryVersion() }

// Sizes says how much memory a channel has.
type Sizes int

// The sizes of a channel.
const (
	// SizesDefault takes messages of 8 MiB both ways.
	SizesDefault Sizes = 0
	// SizesSmall has 256 KiB in all.
	SizesSmall Sizes = 1
	// SizesLarge is for bulk.
	SizesLarge Sizes = 2
)

type options struct {
	socket, name         string
	engineName           string
	engine               int
	linger               time.Duration
	sizes                Sizes
	maxFlows, flowCredit uint32

	sendSlots, receiveSlots, txBuffers, rxBuffers, bufferBytes uint32
}

// Option is a choice for Attach.
type Option func(*options)

// WithSocket names the sidecar's socket. Default: $MACHNET_SOCKET, else the user's own sidecar, else the system's.
func WithSocket(path string) Option { return func(o *options) { o.socket = path } }

// WithName sets the name that `machnet status` shows. Default: the program's.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithEngine says which engine shall serve the channel. Default: any.
func WithEngine(number int) Option { return func(o *options) { o.engine = number } }

// WithEngineName is WithEngine by the engine's name, as `machnet status` shows it: "engine0", or the number.
func WithEngineName(name string) Option { return func(o *options) { o.engineName = name } }

// WithLinger says how long Close of the channel waits until what was sent is acknowledged. Default: 1 s.
func WithLinger(linger time.Duration) Option { return func(o *options) { o.linger = linger } }

// WithSizes says how much memory the channel has.
func WithSizes(sizes Sizes) Option { return func(o *options) { o.sizes = sizes } }

// WithMaxFlows sets the most flows at a time.
func WithMaxFlows(flows uint32) Option { return func(o *options) { o.maxFlows = flows } }

// WithFlowCredit sets how many messages of one flow may be sent and not yet acknowledged.
func WithFlowCredit(messages uint32) Option { return func(o *options) { o.flowCredit = messages } }

// WithSendSlots sets the slots of the ring to the sidecar: a power of two. This and the like change one of WithSizes.
func WithSendSlots(slots uint32) Option { return func(o *options) { o.sendSlots = slots } }

// WithReceiveSlots sets the slots of the ring from the sidecar: a power of two.
func WithReceiveSlots(slots uint32) Option { return func(o *options) { o.receiveSlots = slots } }

// WithTxBuffers sets how many buffers there are to send from.
func WithTxBuffers(buffers uint32) Option { return func(o *options) { o.txBuffers = buffers } }

// WithRxBuffers sets how many buffers there are to receive into.
func WithRxBuffers(buffers uint32) Option { return func(o *options) { o.rxBuffers = buffers } }

// WithBufferBytes sets the bytes of one buffer: a power of two.
func WithBufferBytes(bytes uint32) Option { return func(o *options) { o.bufferBytes = bytes } }

// Channel is an attachment to a sidecar. Its methods may be called from any goroutine.
type Channel struct {
	h        handle
	pump     *pump
	closed   chan struct{}
	closing  sync.Once
	closeErr error
	// Where connects wait for a slot of the send ring.
	slot place
	info Info
}

// Info is what a channel is.
type Info struct {
	// Channel is its number, unique for the sidecar's life.
	Channel uint64
	// Engine is the number of the engine that serves it.
	Engine int
	// SidecarPID is the sidecar's process.
	SidecarPID int
	// Local is the sidecar's address.
	Local netip.Addr
	// TxBuffers is how many buffers there are to send from.
	TxBuffers int
	// RxBuffers is how many buffers there are to receive into.
	RxBuffers int
	// BufferBytes are the bytes of one buffer.
	BufferBytes int
	// MaxFlows is the most flows at a time.
	MaxFlows int
	// FlowCredit is how many messages of one flow may be sent and not yet acknowledged.
	FlowCredit int
}

// Attach attaches to a sidecar. Errors: ErrNoSidecar, ErrSocketPermission, ErrVersion, ErrAttachRefused, ErrNoEngine, ErrTimedOut,
// ErrInvalidArgument, ErrIO, and the context's.
func Attach(ctx context.Context, choices ...Option) (*Channel, error) {
	chosen := options{engine: -1, linger: -1}
	for _, choose := range choices {
		choose(&chosen)
	}
	if chosen.linger > math.MaxUint32*time.Millisecond {
		return nil, invalid(opAttach, "the linger time is too long")
	}
	if chosen.engineName != "" {
		r := engineNumber(chosen.engineName)
		if r.code != 0 {
			return nil, r.failed(opAttach)
		}
		chosen.engine = r.count
	}
	abandon := func(r result) {
		if r.code == 0 {
			channelFree(r.handle)
		}
	}
	r, err := offThread(ctx, opAttach, func() result { return attach(&chosen) }, abandon)
	if err != nil {
		return nil, err
	}
	if r.code != 0 {
		return nil, r.failed(opAttach)
	}
	return newChannel(r.handle)
}

func newChannel(native unsafe.Pointer) (*Channel, error) {
	fd := eventFD(native)
	if fd.code != 0 {
		channelFree(native)
		return nil, fd.failed(opAttach)
	}
	pump, err := newPump(native, uintptr(fd.count))
	if err != nil {
		channelFree(native)
		return nil, &Error{Op: opAttach, Code: ErrIO, Text: err.Error(), cause: err}
	}
	ch := &Channel{h: handle{ptr: native, free: channelFree}, pump: pump, closed: make(chan struct{}), slot: newPlace()}
	pump.registerChannel(&post{sending: &ch.slot})
	ch.info, _ = channelInfo(native)
	return ch, nil
}

// Info tells what the channel is.
func (ch *Channel) Info() Info { return ch.info }

// Lost is closed when the sidecar is gone. Every call on the channel answers ErrEngineLost then, once what had come before was
// taken; Attach makes a new channel when the sidecar is back.
func (ch *Channel) Lost() <-chan struct{} { return ch.pump.lost }

// Close closes all flows in order, waits at most the linger time until what was sent is acknowledged, and detaches. Every call
// on the channel, its flows and listeners answers an error that is net.ErrClosed from now on. The error tells why some of what
// was sent may be lost. The channel's memory and descriptors are freed when its flows and listeners are closed too.
func (ch *Channel) Close() error {
	ch.closing.Do(func() {
		close(ch.closed)
		if ch.h.acquire() {
			if r := channelShutdown(ch.h.ptr); r.code != 0 {
				ch.closeErr = r.failed(opClose)
			}
			ch.pump.stop()
			ch.h.release()
		}
		ch.h.close()
	})
	return ch.closeErr
}

// Dial connects to a listener at an address such as "10.0.0.5:888". Without a deadline of the context it waits as long as the
// sidecar is configured to, 3 s by default. Errors: ErrConnectTimedOut, ErrRefused, ErrBusy, ErrConnectFailed, ErrTooManyFlows,
// ErrEngineLost, ErrInvalidArgument, and the context's.
func (ch *Channel) Dial(ctx context.Context, address string) (*Conn, error) {
	flow, err := ch.Connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return newConn(flow), nil
}

// Connect is Dial for a flow of messages.
func (ch *Channel) Connect(ctx context.Context, address string) (*Flow, error) {
	remote, err := resolve(ctx, opDial, address)
	if err != nil {
		return nil, err
	}
	e := &ends{op: opDial, ctx: ctx, channelClosed: ch.closed}
	if err := e.over(); err != nil {
		return nil, err
	}
	if !ch.h.acquire() {
		return nil, closedHere(opDial)
	}
	defer ch.h.release()
	ip := append([]byte(remote.Addr().String()), 0)
	start := func() result { return startConnect(ch.h.ptr, ip, remote.Port(), timeoutOf(ctx)) }
	pending, err := ch.call(&ch.slot, e, start)
	if err != nil {
		return nil, err
	}
	defer pendingFree(pending.handle)
	outcome := newPlace()
	token := ch.pump.register(&post{receiving: &outcome})
	defer ch.pump.forget(token)
	pendingSetToken(pending.handle, token)
	flow, err := ch.call(&outcome, e, func() result { return tryFinish(pending.handle) })
	if err != nil {
		return nil, err
	}
	return newFlow(ch, flow.handle), nil
}

// call makes a call that does not wait, and waits for its answer. What it is called on is acquired.
func (ch *Channel) call(at *place, e *ends, try func() result) (result, error) {
	r := try()
	if r.code == ErrWouldBlock {
		again := func() bool {
			r = try()
			return r.code != ErrWouldBlock
		}
		if !ch.pump.spin(at, again) {
			if err := ch.pump.wait(at, e, again); err != nil {
				return result{}, err
			}
		}
	}
	if r.code != 0 {
		return result{}, ch.failed(r, e.op, e.closed)
	}
	return r, nil
}

// failed is the error of an answer on this channel, on something that closes with closed.
func (ch *Channel) failed(r result, op string, closed <-chan struct{}) *Error {
	err := r.failed(op)
	if r.code == ErrClosed {
		select {
		case <-ch.closed:
			err.closedHere = true
		case <-closed:
			err.closedHere = true
		default:
		}
	}
	return err
}

// timeoutOf is what is left until the context's deadline, for the sidecar: -1 means its own default.
func timeoutOf(ctx context.Context) int32 {
	at, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	left := (time.Until(at) + time.Millisecond - 1) / time.Millisecond
	return int32(min(max(left, 1), math.MaxInt32))
}

// resolve finds the address of "host:port". An empty host is the unspecified address.
func resolve(ctx context.Context, op, address string) (netip.AddrPort, error) {
	if at, err := netip.ParseAddrPort(address); err == nil {
		return at, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, &Error{Op: op, Code: ErrInvalidArgument, Text: "invalid argument: " + err.Error(), cause: err}
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, invalid(op, "the port of "+strconv.Quote(address)+" is no number up to 65535")
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)), nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil {
		return netip.AddrPort{}, &Error{Op: op, Code: ErrInvalidArgument, Text: "invalid argument: " + err.Error(), cause: err}
	}
	if len(found) == 0 {
		return netip.AddrPort{}, invalid(op, host+" has no address")
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(port)), nil
}

// offThread makes a call that waits for the sidecar's answer on its socket. If the context ends first, the answer is given to
// abandon when it comes.
func offThread(ctx context.Context, op string, call func() result, abandon func(result)) (result, error) {
	if ctx.Err() != nil {
		return result{}, contextEnded(op, ctx)
	}
	if ctx.Done() == nil {
		return call(), nil
	}
	answer := make(chan result, 1)
	go func() { answer <- call() }()
	select {
	case r := <-answer:
		return r, nil
	case <-ctx.Done():
		go func() { abandon(<-answer) }()
		return result{}, contextEnded(op, ctx)
	}
}

// The channel that Dial and Listen share.
var shared struct {
	mu sync.Mutex
	ch *Channel
}

// Default is the channel that Dial and Listen share: attached with the defaults at the first call, and again after the sidecar
// was lost.
func Default(ctx context.Context) (*Channel, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.ch != nil {
		select {
		case <-shared.ch.closed:
		case <-shared.ch.pump.lost:
			go shared.ch.Close()
		default:
			return shared.ch, nil
		}
		shared.ch = nil
	}
	ch, err := Attach(ctx)
	if err != nil {
		return nil, err
	}
	shared.ch = ch
	return ch, nil
}

// withDefault makes a call on the shared channel, and once more if its sidecar turns out to be gone.
func withDefault[T any](ctx context.Context, call func(*Channel) (T, error)) (T, error) {
	var none T
	for try := 0; ; try++ {
		ch, err := Default(ctx)
		if err != nil {
			return none, err
		}
		made, err := call(ch)
		if err == nil || try > 0 || !errors.Is(err, ErrEngineLost) {
			return made, err
		}
		go ch.Close()
		<-ch.closed // Default makes another one.
	}
}

// Dial connects to a listener at an address such as "10.0.0.5:888", over the channel that Default answers. As Channel.Dial.
func Dial(ctx context.Context, address string) (*Conn, error) {
	return withDefault(ctx, func(ch *Channel) (*Conn, error) { return ch.Dial(ctx, address) })
}

// Listen listens on an address of this host's sidecar such as ":888", over the channel that Default answers. As Channel.Listen.
func Listen(ctx context.Context, address string) (*Listener, error) {
	return withDefault(ctx, func(ch *Channel) (*Listener, error) { return ch.Listen(ctx, address) })
}
