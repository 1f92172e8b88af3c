package machnet

import (
	"context"
	"net"
	"time"
	"unsafe"
)

// Flow is a connection that carries whole messages of 1 byte to 8 MiB, in order, both ways. Its methods may be called from any
// goroutine. Send answers when the sidecar has the message, which is not yet delivered. After the peer closed, what came before
// is received first, then an error that is ErrClosed and io.EOF; after a reset likewise, then ErrReset.
//
// A call that a context or a deadline ended has sent nothing and taken nothing.
type Flow struct {
	ch                 *Channel
	h                  handle
	closed             chan struct{}
	sending, receiving place
	token              uint64
	local, peer        Addr
	maxMessage         int
}

// Stats is what the sidecar knew of a flow when it was asked. What belongs to the network path is 0 for a flow between two
// programs of one host, and once the flow has ended.
type Stats struct {
	// SmoothedRTT is the smoothed round-trip time between the sidecars, 0 before the first sample.
	SmoothedRTT time.Duration
	// MinRTT is the least of the last 10 to 20 seconds.
	MinRTT time.Duration
	// MessagesSent counts messages taken from this program.
	MessagesSent uint64
	// BytesSent are the bytes of those.
	BytesSent uint64
	// MessagesAcknowledged counts those that the peer's sidecar has whole.
	MessagesAcknowledged uint64
	// BytesAcknowledged are the bytes of those.
	BytesAcknowledged uint64
	// MessagesReceived counts messages put into this program's memory, read or not.
	MessagesReceived uint64
	// BytesReceived are the bytes of those.
	BytesReceived uint64
	// Retransmissions counts segments sent again.
	Retransmissions uint64
	// DatagramsSent counts datagrams, whatever they carried.
	DatagramsSent uint64
	// DatagramsReceived counts those received.
	DatagramsReceived uint64
	// WireBytesSent are UDP payload bytes: headers, acknowledgements and repeats included.
	WireBytesSent uint64
	// WireBytesReceived are those received.
	WireBytesReceived uint64
	// CongestionWindowBytes is the congestion window.
	CongestionWindowBytes uint64
	// BytesInFlight are UDP payload bytes sent and neither acknowledged nor given up.
	BytesInFlight uint64
	// PathDatagramBytes is the largest UDP payload that was proved to reach the peer.
	PathDatagramBytes uint64
	// Local tells that the peer is a program of the same host, so that no packet is made.
	Local bool
}

func newFlow(ch *Channel, native unsafe.Pointer) *Flow {
	local, peer := flowAddresses(native)
	f := &Flow{
		ch: ch, closed: make(chan struct{}), sending: newPlace(), receiving: newPlace(),
		local: Addr{local}, peer: Addr{peer}, maxMessage: flowMaxMessage(native),
	}
	f.token = ch.pump.register(&post{receiving: &f.receiving, sending: &f.sending})
	flowSetToken(native, f.token)
	f.h.ptr, f.h.free = native, f.andForget(flowFree)
	return f
}

// andForget also ends the flow's news.
func (f *Flow) andForget(free func(unsafe.Pointer)) func(unsafe.Pointer) {
	return func(native unsafe.Pointer) {
		f.ch.pump.forget(f.token)
		free(native)
	}
}

// LocalAddr is the address of this end.
func (f *Flow) LocalAddr() net.Addr { return f.local }

// RemoteAddr is the address of the peer.
func (f *Flow) RemoteAddr() net.Addr { return f.peer }

// MaxMessage is the largest message in bytes that the flow takes.
func (f *Flow) MaxMessage() int { return f.maxMessage }

// Channel is the channel that the flow belongs to.
func (f *Flow) Channel() *Channel { return f.ch }

func (f *Flow) ends(ctx context.Context, at *deadline, op string) *ends {
	return &ends{op: op, ctx: ctx, deadline: at, closed: f.closed, channelClosed: f.ch.closed}
}

// enter begins a call that may wait, unless its time is over before.
func (f *Flow) enter(ctx context.Context, at *deadline, op string) error {
	if ctx != nil && ctx.Err() != nil {
		return contextEnded(op, ctx)
	}
	if at.isPast() {
		return timedOut(op)
	}
	if !f.h.acquire() {
		return closedHere(op)
	}
	return nil
}

// try begins a call that does not wait.
func (f *Flow) try(op string) error {
	if !f.h.acquire() {
		return closedHere(op)
	}
	return nil
}

// answered is the error of a call that does not wait.
func (f *Flow) answered(r result, op string) error {
	if r.code == 0 {
		return nil
	}
	return f.ch.failed(r, op, f.closed)
}

// Send sends one message; waits for credit and room. Errors: ErrClosed, ErrReset, ErrMessageTooLarge, ErrEmptyMessage,
// ErrEngineLost, and the context's.
func (f *Flow) Send(ctx context.Context, message []byte) error { return f.send(ctx, nil, message) }

func (f *Flow) send(ctx context.Context, at *deadline, message []byte) error {
	if err := f.enter(ctx, at, opSend); err != nil {
		return err
	}
	defer f.h.release()
	r := trySend(f.h.ptr, message)
	if r.code == ErrWouldBlock {
		f.ch.pump.spin(&f.sending, func() bool {
			r = trySend(f.h.ptr, message)
			return r.code != ErrWouldBlock
		})
	}
	switch r.code {
	case 0:
		return nil
	case ErrWouldBlock:
		return f.sendSlowly(ctx, at, message)
	default:
		return f.ch.failed(r, opSend, f.closed)
	}
}

func (f *Flow) sendSlowly(ctx context.Context, at *deadline, message []byte) error {
	_, err := f.waitFor(&f.sending, f.ends(ctx, at, opSend), func() result { return trySend(f.h.ptr, message) })
	return err
}

// waitFor waits for the answer of a call that was made in vain.
func (f *Flow) waitFor(at *place, e *ends, try func() result) (result, error) {
	var r result
	again := func() bool {
		r = try()
		return r.code != ErrWouldBlock
	}
	if err := f.ch.pump.wait(at, e, again); err != nil {
		return result{}, err
	}
	if r.code != 0 {
		return result{}, f.ch.failed(r, e.op, f.closed)
	}
	return r, nil
}

// TrySend is Send without waiting: ErrWouldBlock if there is no credit now.
func (f *Flow) TrySend(message []byte) error {
	if err := f.try(opSend); err != nil {
		return err
	}
	defer f.h.release()
	return f.answered(trySend(f.h.ptr, message), opSend)
}

// SendMany sends messages in order, with far fewer calls into the library than Send would take. It says how many were sent: all
// of them, or fewer with the error that stopped it. Errors as for Send.
func (f *Flow) SendMany(ctx context.Context, messages [][]byte) (int, error) {
	if err := f.enter(ctx, nil, opSend); err != nil {
		return 0, err
	}
	defer f.h.release()
	sent := 0
	for sent < len(messages) {
		rest := messages[sent:]
		r, err := f.ch.call(&f.sending, f.ends(ctx, nil, opSend), func() result { return trySendMany(f.h.ptr, rest) })
		if err != nil {
			return sent, err
		}
		sent += r.count
	}
	return sent, nil
}

// TryRecvInto is RecvInto without waiting: ErrWouldBlock if there is no message now.
func (f *Flow) TryRecvInto(buffer []byte) (int, error) {
	if len(buffer) == 0 {
		return 0, invalid(opRecv, "the buffer has no bytes")
	}
	if err := f.try(opRecv); err != nil {
		return 0, err
	}
	defer f.h.release()
	r := tryRecv(f.h.ptr, buffer)
	if r.code != 0 {
		return 0, f.answered(r, opRecv)
	}
	return r.count, nil
}

// RecvInto waits for the next message and copies it into the buffer. Errors: ErrBufferTooSmall with the length in Error.Needed, and
// the message stays; ErrClosed, ErrReset, ErrEngineLost, and the context's.
func (f *Flow) RecvInto(ctx context.Context, buffer []byte) (int, error) {
	return f.recvInto(ctx, nil, buffer)
}

func (f *Flow) recvInto(ctx context.Context, at *deadline, buffer []byte) (int, error) {
	if len(buffer) == 0 {
		return 0, invalid(opRecv, "the buffer has no bytes")
	}
	if err := f.enter(ctx, at, opRecv); err != nil {
		return 0, err
	}
	defer f.h.release()
	r := tryRecv(f.h.ptr, buffer)
	if r.code == ErrWouldBlock {
		f.ch.pump.spin(&f.receiving, func() bool {
			r = tryRecv(f.h.ptr, buffer)
			return r.code != ErrWouldBlock
		})
	}
	switch r.code {
	case 0:
		return r.count, nil
	case ErrWouldBlock:
		return f.recvIntoSlowly(ctx, at, buffer)
	default:
		return 0, f.ch.failed(r, opRecv, f.closed)
	}
}

func (f *Flow) recvIntoSlowly(ctx context.Context, at *deadline, buffer []byte) (int, error) {
	r, err := f.waitFor(&f.receiving, f.ends(ctx, at, opRecv), func() result { return tryRecv(f.h.ptr, buffer) })
	return r.count, err
}

// Recv waits for the next message and answers a copy of it. Errors as for RecvInto, but never ErrBufferTooSmall.
func (f *Flow) Recv(ctx context.Context) ([]byte, error) {
	message, err := f.RecvLoan(ctx)
	if err != nil {
		return nil, err
	}
	defer message.Release()
	return append([]byte(nil), message.Bytes()...), nil
}

// RecvLoan waits for the next message and lends it where it lies; see Message. Errors as for Recv.
func (f *Flow) RecvLoan(ctx context.Context) (*Message, error) {
	if err := f.enter(ctx, nil, opRecv); err != nil {
		return nil, err
	}
	defer f.h.release()
	r := tryRecvLoan(f.h.ptr)
	if r.code == ErrWouldBlock {
		f.ch.pump.spin(&f.receiving, func() bool {
			r = tryRecvLoan(f.h.ptr)
			return r.code != ErrWouldBlock
		})
	}
	if r.code == ErrWouldBlock {
		var err error
		try := func() result { return tryRecvLoan(f.h.ptr) }
		if r, err = f.waitFor(&f.receiving, f.ends(ctx, nil, opRecv), try); err != nil {
			return nil, err
		}
	}
	if r.code != 0 {
		return nil, f.ch.failed(r, opRecv, f.closed)
	}
	return &Message{native: r.handle, length: r.count}, nil
}

// TryRecvLoan is RecvLoan without waiting: ErrWouldBlock if there is no message now.
func (f *Flow) TryRecvLoan() (*Message, error) {
	if err := f.try(opRecv); err != nil {
		return nil, err
	}
	defer f.h.release()
	r := tryRecvLoan(f.h.ptr)
	if r.code != 0 {
		return nil, f.answered(r, opRecv)
	}
	return &Message{native: r.handle, length: r.count}, nil
}

// RecvMany waits for a message and lends it and those behind it that are there, in order, at most `most` and at most 256. Each is
// to be released. Errors as for Recv.
func (f *Flow) RecvMany(ctx context.Context, most int) ([]*Message, error) {
	if most < 1 {
		return nil, invalid(opRecv, "the most messages to receive are at least one")
	}
	if err := f.enter(ctx, nil, opRecv); err != nil {
		return nil, err
	}
	defer f.h.release()
	lent := make([]unsafe.Pointer, min(most, batchMost))
	r, err := f.ch.call(&f.receiving, f.ends(ctx, nil, opRecv), func() result { return tryRecvMany(f.h.ptr, lent) })
	if err != nil {
		return nil, err
	}
	messages := make([]*Message, r.count)
	for i := range messages {
		messages[i] = &Message{native: lent[i], length: len(messageBytes(lent[i]))}
	}
	return messages, nil
}

// Lend waits for room to write a message of so many bytes where it will be sent from; see Loan. Errors as for Send.
func (f *Flow) Lend(ctx context.Context, length int) (*Loan, error) {
	if length < 0 {
		return nil, invalid(opLend, "the length is negative")
	}
	if err := f.enter(ctx, nil, opLend); err != nil {
		return nil, err
	}
	defer f.h.release()
	r, err := f.ch.call(&f.sending, f.ends(ctx, nil, opLend), func() result { return tryLend(f.h.ptr, length) })
	if err != nil {
		return nil, err
	}
	return &Loan{native: r.handle, length: length, pump: f.ch.pump}, nil
}

// TryLend is Lend without waiting: ErrWouldBlock if there is no room now.
func (f *Flow) TryLend(length int) (*Loan, error) {
	if length < 0 {
		return nil, invalid(opLend, "the length is negative")
	}
	if err := f.try(opLend); err != nil {
		return nil, err
	}
	defer f.h.release()
	r := tryLend(f.h.ptr, length)
	if r.code != 0 {
		return nil, f.answered(r, opLend)
	}
	return &Loan{native: r.handle, length: length, pump: f.ch.pump}, nil
}

// Unacknowledged tells how many messages were sent that the peer's sidecar has not acknowledged; after the end of the flow: how
// many may not have arrived. 0 after Close.
func (f *Flow) Unacknowledged() int {
	if !f.h.acquire() {
		return 0
	}
	defer f.h.release()
	return flowUnacknowledged(f.h.ptr)
}

// Stats asks the sidecar what it knows of the flow. Errors: ErrUnknownFlow if it is no more, ErrVersion from a sidecar that is too
// old to know, ErrTimedOut after 5 s, ErrClosed, ErrEngineLost, and the context's.
func (f *Flow) Stats(ctx context.Context) (Stats, error) {
	return askStats(ctx, f.ch, &f.h, f.closed, flowStats)
}

func askStats(
	ctx context.Context, ch *Channel, h *handle, closed <-chan struct{}, ask func(unsafe.Pointer) (Stats, result),
) (Stats, error) {
	answer := make(chan Stats, 1)
	call := func() result {
		if !h.acquire() {
			return result{code: ErrClosed}
		}
		defer h.release()
		stats, r := ask(h.ptr)
		answer <- stats
		return r
	}
	r, err := offThread(ctx, opStats, call, func(result) {})
	if err != nil {
		return Stats{}, err
	}
	if r.code != 0 {
		return Stats{}, ch.failed(r, opStats, closed)
	}
	return <-answer, nil
}

// Reset ends the flow at once: the peer gets ErrReset, and what its sidecar has not acknowledged may be lost. The flow is still to
// be closed.
func (f *Flow) Reset() error {
	if !f.h.acquire() {
		return closedHere(opClose)
	}
	defer f.h.release()
	if r := flowReset(f.h.ptr); r.code != 0 {
		return f.ch.failed(r, opClose, f.closed)
	}
	return nil
}

// Close closes the flow in order behind the last message sent, ends calls that wait, and returns at once.
func (f *Flow) Close() error {
	if !f.h.close() {
		return closedHere(opClose)
	}
	close(f.closed)
	return nil
}

// CloseWait is Close, and waits until the peer's sidecar has everything. Errors: ErrReset, ErrEngineLost, and the context's: the
// close goes on. It holds a thread while it waits.
func (f *Flow) CloseWait(ctx context.Context) error {
	if err := f.enter(ctx, nil, opClose); err != nil {
		return err
	}
	defer f.h.release()
	if !f.ch.h.acquire() {
		return closedHere(opClose)
	}
	cancel := cancelNew(f.ch.h.ptr)
	f.ch.h.release()
	if cancel.code != 0 {
		return f.ch.failed(cancel, opClose, f.closed)
	}
	defer cancelFree(cancel.handle)
	if err := f.Close(); err != nil {
		return err
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		cancelTrigger(cancel.handle)
		close(stopped)
	})
	r := flowShutdownWait(f.h.ptr, -1, cancel.handle)
	if !stop() {
		<-stopped
	}
	if r.code == ErrCancelled {
		return contextEnded(opClose, ctx)
	}
	if r.code != 0 {
		return f.ch.failed(r, opClose, f.closed)
	}
	return nil
}
