package machnet

import (
	"sync"
	"unsafe"
)

// Message is a received message that is lent to the program where it lies in the channel's memory. While it is lent, the peer
// has less room to fill, so release it soon.
type Message struct {
	mu     sync.Mutex
	native unsafe.Pointer
	length int
}

// Len is the message's length in bytes.
func (m *Message) Len() int { return m.length }

// Bytes is the message, valid until Release; nil after. Do not write to it.
func (m *Message) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.native == nil {
		return nil
	}
	return messageBytes(m.native)
}

// Release gives the message back, also after its flow and channel were closed. Doing it again does nothing. Slices that Bytes
// answered must not be used any more.
func (m *Message) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.native != nil {
		messageFree(m.native)
		m.native = nil
	}
}

// Loan is room for a message to send, lent to the program in the channel's memory. End it with Send or Drop.
type Loan struct {
	mu     sync.Mutex
	native unsafe.Pointer
	length int
	pump   *pump
}

// Bytes is the room to write the message into, valid until Send or Drop; nil after.
func (l *Loan) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.native == nil {
		return nil
	}
	return loanBytes(l.native, l.length)
}

// Send sends what was written into the room. Errors: ErrClosed, ErrReset, ErrEngineLost, and ErrInvalidArgument after Send or Drop.
func (l *Loan) Send() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.native == nil {
		return invalid(opSend, "the loan was sent or dropped")
	}
	r := loanSend(l.native)
	l.native = nil
	if r.code != 0 {
		return r.failed(opSend)
	}
	return nil
}

// Drop gives the room back unsent. After Send it does nothing.
func (l *Loan) Drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.native != nil {
		loanFree(l.native)
		l.native = nil
		l.pump.disturb() // Another call may wait for the room.
	}
}
