package machnet

import (
	"context"
	"net"
	"net/netip"
	"time"
	"unsafe"
)

// Addr is the address of one end. It is a net.Addr.
type Addr struct {
	netip.AddrPort
}

// Network is "machnet".
func (Addr) Network() string { return "machnet" }

var _ net.Addr = Addr{}

// Listener waits for connections. It is a net.Listener; its methods may be called from any goroutine.
type Listener struct {
	ch        *Channel
	h         handle
	closed    chan struct{}
	accepting place
	deadline  deadline
	address   Addr
}

var _ net.Listener = (*Listener)(nil)

// Listen listens on an address of the sidecar such as "10.0.0.5:888" or ":888", the sidecar's own; port 0 is any free one. Up
// to 128 connections wait to be accepted. Errors: ErrAddressNotLocal, ErrAddressInUse, ErrListenRefused, ErrEngineLost,
// ErrInvalidArgument, and the context's, which does not matter to the listener later.
func (ch *Channel) Listen(ctx context.Context, address string) (*Listener, error) {
	return ch.ListenBacklog(ctx, address, 0)
}

// ListenBacklog is Listen with a limit of connections that wait to be accepted; 0: 128.
func (ch *Channel) ListenBacklog(ctx context.Context, address string, backlog uint32) (*Listener, error) {
	at, err := resolve(ctx, opListen, address)
	if err != nil {
		return nil, err
	}
	abandon := func(r result) {
		if r.code == 0 {
			listenerFree(r.handle)
		}
	}
	ask := func() result {
		if !ch.h.acquire() {
			return result{code: ErrClosed}
		}
		defer ch.h.release()
		return listen(ch.h.ptr, at, int(backlog))
	}
	r, err := offThread(ctx, opListen, ask, abandon)
	if err != nil {
		return nil, err
	}
	if r.code != 0 {
		return nil, ch.failed(r, opListen, nil)
	}
	l := &Listener{ch: ch, closed: make(chan struct{}), accepting: newPlace(), address: Addr{listenerAddress(r.handle)}}
	token := ch.pump.register(&post{receiving: &l.accepting})
	listenerSetToken(r.handle, token)
	l.h.ptr, l.h.free = r.handle, func(native unsafe.Pointer) {
		ch.pump.forget(token)
		listenerFree(native)
	}
	return l, nil
}

// Accept waits for a connection: a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.AcceptConn(context.Background())
	if err != nil {
		return nil, err // Not a nil *Conn in an interface.
	}
	return conn, nil
}

// AcceptConn waits for a connection until the context or the deadline ends the wait. Errors: ErrClosed, ErrEngineLost, ErrTimedOut,
// and the context's. No connection is lost by them.
func (l *Listener) AcceptConn(ctx context.Context) (*Conn, error) {
	flow, err := l.AcceptFlow(ctx)
	if err != nil {
		return nil, err
	}
	return newConn(flow), nil
}

// AcceptFlow is AcceptConn for a flow of messages.
func (l *Listener) AcceptFlow(ctx context.Context) (*Flow, error) {
	e := &ends{op: opAccept, ctx: ctx, deadline: &l.deadline, closed: l.closed, channelClosed: l.ch.closed}
	if !l.h.acquire() {
		return nil, closedHere(opAccept)
	}
	defer l.h.release()
	if err := e.over(); err != nil {
		return nil, err
	}
	r, err := l.ch.call(&l.accepting, e, func() result { return tryAccept(l.h.ptr) })
	if err != nil {
		return nil, err
	}
	return newFlow(l.ch, r.handle), nil
}

// SetDeadline ends waits for a connection at a point in time, also those under way. The zero time is never.
func (l *Listener) SetDeadline(at time.Time) error {
	if l.isClosed() {
		return closedHere(opAccept)
	}
	l.deadline.set(at)
	return nil
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Addr tells where it listens, with the port that was chosen for port 0.
func (l *Listener) Addr() net.Addr { return l.address }

// Close stops listening, and ends calls that wait. Connections that were not accepted yet are refused.
func (l *Listener) Close() error {
	if !l.h.acquire() {
		return closedHere(opClose)
	}
	defer l.h.release()
	if !l.h.close() {
		return closedHere(opClose)
	}
	close(l.closed)
	l.deadline.set(time.Time{})
	listenerShutdown(l.h.ptr)
	return nil
}
