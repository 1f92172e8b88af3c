package machnet

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a connection. It is a net.Conn: a byte stream with deadlines, in the framing that every language of Machnet shares. Or it
// carries messages: SendMsg and RecvMsg, with the same deadlines. The first call of either kind decides; calls of the other
// kind answer ErrWrongMode from then on. Its methods may be called from any goroutine.
type Conn struct {
	flow        *Flow
	read, write deadline

	// Which of the two it is. Changed once, under the lock.
	mode   atomic.Int32
	mu     sync.Mutex
	stream *stream
}

var _ net.Conn = (*Conn)(nil)

// stream is the handle of a connection that is a byte stream. The places to wait are its flow's.
type stream struct {
	h handle
}

const (
	undecided = iota
	isStream
	isMessages
	// It was closed, or the library refused to make a stream of it.
	isEnded
)

func newConn(flow *Flow) *Conn { return &Conn{flow: flow} }

// asStream decides for a byte stream.
func (c *Conn) asStream(op string) (*stream, error) {
	if c.mode.Load() == isStream {
		return c.stream, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode.Load() == undecided {
		if err := c.openStream(op); err != nil {
			return nil, err
		}
	}
	switch c.mode.Load() {
	case isStream:
		return c.stream, nil
	case isMessages:
		return nil, &Error{Op: op, Code: ErrWrongMode, Text: textOf(ErrWrongMode)}
	}
	return nil, closedHere(op)
}

func (c *Conn) openStream(op string) error {
	native, ok := c.flow.h.take()
	if !ok {
		c.mode.Store(isEnded)
		return closedHere(op)
	}
	r := streamOpen(native)
	if r.code != 0 {
		c.mode.Store(isEnded)
		return c.flow.ch.failed(r, op, c.flow.closed)
	}
	c.stream = &stream{h: handle{ptr: r.handle, free: c.flow.andForget(streamFree)}}
	c.mode.Store(isStream)
	return nil
}

// Flow decides for messages and answers the flow, for contexts, batches and loans. It and the connection are closed together.
func (c *Conn) Flow() (*Flow, error) { return c.asMessages(opRecv) }

func (c *Conn) asMessages(op string) (*Flow, error) {
	if c.mode.Load() == isMessages {
		return c.flow, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.mode.Load() {
	case isStream:
		return nil, &Error{Op: op, Code: ErrWrongMode, Text: textOf(ErrWrongMode)}
	case isEnded:
		return nil, closedHere(op)
	}
	c.mode.Store(isMessages)
	return c.flow, nil
}

// SendMsg sends one message; waits for credit and room until the write deadline. As Flow.Send.
func (c *Conn) SendMsg(message []byte) error {
	flow, err := c.asMessages(opSend)
	if err != nil {
		return err
	}
	return flow.send(nil, &c.write, message)
}

// RecvMsg waits for the next message until the read deadline, and copies it into the buffer. As Flow.RecvInto.
func (c *Conn) RecvMsg(buffer []byte) (int, error) {
	flow, err := c.asMessages(opRecv)
	if err != nil {
		return 0, err
	}
	return flow.recvInto(nil, &c.read, buffer)
}

// Read reads what is there of the stream, and waits for it until the read deadline. io.EOF is the end that the peer made in order;
// errors: ErrReset, ErrNotAStream, ErrTimedOut, ErrEngineLost, ErrClosed after Close, ErrWrongMode.
func (c *Conn) Read(buffer []byte) (int, error) {
	s, err := c.asStream(opRead)
	if err != nil {
		return 0, err
	}
	if c.read.isPast() {
		return 0, timedOut(opRead)
	}
	if !s.h.acquire() {
		return 0, closedHere(opRead)
	}
	defer s.h.release()
	if len(buffer) == 0 {
		return 0, nil
	}
	r := streamTryRead(s.h.ptr, buffer)
	if r.code == ErrWouldBlock {
		c.flow.ch.pump.spin(&c.flow.receiving, func() bool {
			r = streamTryRead(s.h.ptr, buffer)
			return r.code != ErrWouldBlock
		})
	}
	if r.code == ErrWouldBlock {
		if r, err = c.readSlowly(s, buffer); err != nil {
			return 0, err
		}
	}
	if r.code != 0 {
		return 0, c.flow.ch.failed(r, opRead, c.flow.closed)
	}
	if r.count == 0 {
		return 0, io.EOF
	}
	return r.count, nil
}

func (c *Conn) readSlowly(s *stream, buffer []byte) (result, error) {
	try := func() result { return streamTryRead(s.h.ptr, buffer) }
	return c.flow.waitFor(&c.flow.receiving, c.flow.ends(nil, &c.read, opRead), try)
}

// Write writes all of it, and waits for room until the write deadline. It says how much was written before an error: ErrClosed if
// the peer closed or this side ended writing, ErrReset, ErrTimedOut, ErrEngineLost, ErrWrongMode. Writes of several goroutines do
// not mix.
func (c *Conn) Write(bytes []byte) (int, error) {
	s, err := c.asStream(opWrite)
	if err != nil {
		return 0, err
	}
	if !s.h.acquire() {
		return 0, closedHere(opWrite)
	}
	defer s.h.release()
	if c.write.isPast() {
		return 0, timedOut(opWrite)
	}
	e := c.flow.ends(nil, &c.write, opWrite)
	pump := c.flow.ch.pump
	if err := pump.takeTurn(&c.flow.sending, e); err != nil {
		return 0, err
	}
	defer c.flow.sending.leaveTurn()
	written := 0
	for written < len(bytes) {
		if written > 0 && c.write.isPast() {
			return written, timedOut(opWrite)
		}
		rest := bytes[written:]
		r, err := c.inTurn(e, func() result { return streamTryWrite(s.h.ptr, rest) })
		if err != nil {
			return written, err
		}
		written += r.count
	}
	return written, nil
}

// inTurn makes a call that does not wait, and waits for its answer. The caller has the turn to write.
func (c *Conn) inTurn(e *ends, try func() result) (result, error) {
	pump := c.flow.ch.pump
	r := try()
	if r.code == ErrWouldBlock {
		again := func() bool {
			r = try()
			return r.code != ErrWouldBlock
		}
		if err := pump.waitInTurn(&c.flow.sending, e, again); err != nil {
			return result{}, err
		}
	}
	if r.code != 0 {
		return result{}, c.flow.ch.failed(r, e.op, c.flow.closed)
	}
	return r, nil
}

// CloseWrite ends writing: the peer reads what was written and then io.EOF, and this side reads on. It waits for room to say so
// until the write deadline.
func (c *Conn) CloseWrite() error {
	s, err := c.asStream(opClose)
	if err != nil {
		return err
	}
	if !s.h.acquire() {
		return closedHere(opClose)
	}
	defer s.h.release()
	e := c.flow.ends(nil, &c.write, opClose)
	if err := e.over(); err != nil {
		return err
	}
	if err := c.flow.ch.pump.takeTurn(&c.flow.sending, e); err != nil {
		return err
	}
	defer c.flow.sending.leaveTurn()
	_, err = c.inTurn(e, func() result { return streamTryEnd(s.h.ptr) })
	return err
}

// Close closes both directions in order behind what was written, ends calls that wait, and returns at once.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.mode.Load() {
	case isStream:
		if !c.stream.h.close() {
			return closedHere(opClose)
		}
		close(c.flow.closed)
	case isEnded:
		return closedHere(opClose)
	default:
		if err := c.flow.Close(); err != nil {
			return err
		}
	}
	c.read.set(time.Time{})
	c.write.set(time.Time{})
	return nil
}

// Reset ends both directions at once: the peer gets ErrReset, not the end of the stream. The connection is still to be closed.
func (c *Conn) Reset() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode.Load() != isStream {
		return c.flow.Reset()
	}
	if !c.stream.h.acquire() {
		return closedHere(opClose)
	}
	defer c.stream.h.release()
	if r := streamReset(c.stream.h.ptr); r.code != 0 {
		return c.flow.ch.failed(r, opClose, c.flow.closed)
	}
	return nil
}

// Stats asks the sidecar what it knows of the connection. As Flow.Stats.
func (c *Conn) Stats(ctx context.Context) (Stats, error) {
	c.mu.Lock()
	s := c.stream
	if s == nil && c.mode.Load() == undecided {
		// The handle must not be in use when a stream is made of it.
		defer c.mu.Unlock()
		return askStats(context.Background(), c.flow.ch, &c.flow.h, c.flow.closed, flowStats)
	}
	c.mu.Unlock()
	if s != nil {
		return askStats(ctx, c.flow.ch, &s.h, c.flow.closed, streamStats)
	}
	return c.flow.Stats(ctx)
}

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.flow.local }

// RemoteAddr is the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.flow.peer }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(at time.Time) error {
	if err := c.SetReadDeadline(at); err != nil {
		return err
	}
	return c.SetWriteDeadline(at)
}

// SetReadDeadline ends reads and receives at a point in time, also those under way. The zero time is never.
func (c *Conn) SetReadDeadline(at time.Time) error { return c.setDeadline(&c.read, at) }

// SetWriteDeadline ends writes and sends at a point in time, also those under way. The zero time is never.
func (c *Conn) SetWriteDeadline(at time.Time) error { return c.setDeadline(&c.write, at) }

func (c *Conn) setDeadline(d *deadline, at time.Time) error {
	select {
	case <-c.flow.closed:
		return closedHere("set deadline")
	default:
	}
	d.set(at)
	return nil
}
