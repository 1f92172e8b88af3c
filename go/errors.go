package machnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Code is the stable number of a failure, the same in every language of Machnet. It is an error, to compare with:
// errors.Is(err, machnet.ErrRefused).
type Code int32

// The codes. docs/troubleshooting.md tells of each what helps.
const (
	// ErrNoSidecar: no sidecar listens on the socket; start one with `machnet up`.
	ErrNoSidecar Code = 1
	// ErrSocketPermission: the socket exists, but this user may not open it.
	ErrSocketPermission Code = 2
	// ErrVersion: library and sidecar speak different versions.
	ErrVersion Code = 3
	// ErrAttachRefused: the sidecar refused the attach.
	ErrAttachRefused Code = 4
	// ErrNoEngine: the sidecar has no engine of that number.
	ErrNoEngine Code = 5
	// ErrEngineLost: the sidecar is gone. Attach again when it is back.
	ErrEngineLost Code = 6
	// ErrWouldBlock: nothing to receive, or no credit to send, right now.
	ErrWouldBlock Code = 7
	// ErrTimedOut: the time given to the call has passed.
	ErrTimedOut Code = 8
	// ErrAddressNotLocal: the local address does not belong to the sidecar.
	ErrAddressNotLocal Code = 9
	// ErrAddressInUse: somebody listens there already.
	ErrAddressInUse Code = 10
	// ErrListenRefused: the sidecar refused the listener.
	ErrListenRefused Code = 11
	// ErrConnectTimedOut: the peer did not answer.
	ErrConnectTimedOut Code = 12
	// ErrRefused: nobody listens on that port of the peer.
	ErrRefused Code = 13
	// ErrBusy: the peer's listener has too many flows waiting to be accepted.
	ErrBusy Code = 14
	// ErrConnectFailed: the connection could not be made.
	ErrConnectFailed Code = 15
	// ErrUnknownFlow: the channel has no such flow.
	ErrUnknownFlow Code = 16
	// ErrClosed: the flow is closed, by the peer or by this side.
	ErrClosed Code = 17
	// ErrReset: the flow was broken off; some of the messages sent may not have arrived.
	ErrReset Code = 18
	// ErrMessageTooLarge: the message is larger than the peer can take, or than 8 MiB.
	ErrMessageTooLarge Code = 19
	// ErrEmptyMessage: a message has at least one byte.
	ErrEmptyMessage Code = 20
	// ErrBufferTooSmall: the message is larger than the buffer; it was not taken. [Error.Needed] tells its length.
	ErrBufferTooSmall Code = 21
	// ErrWrongMode: a connection that is a stream was used for messages, or the other way round.
	ErrWrongMode Code = 22
	// ErrForked: the handle was made before a fork and used in the child.
	ErrForked Code = 23
	// ErrInvalidArgument: an argument makes no sense.
	ErrInvalidArgument Code = 24
	// ErrTooManyFlows: the channel or the sidecar has as many flows as it can hold.
	ErrTooManyFlows Code = 25
	// ErrSidecarBroken: the sidecar broke the rules of the shared memory.
	ErrSidecarBroken Code = 26
	// ErrIO: the operating system answered an error.
	ErrIO Code = 27
	// ErrCancelled: the context of the call was cancelled.
	ErrCancelled Code = 28
	// ErrNotAStream: the connection is a stream here, and something else to the peer.
	ErrNotAStream Code = 29
	// ErrInternal: a defect of the library. Please report it.
	ErrInternal Code = 1000
)

// Name is the code's name, the same in every language: "NoSidecar".
func (c Code) Name() string { return nameOf(c) }

// Error is one sentence about the code.
func (c Code) Error() string { return "machnet: " + textOf(c) }

// Error is what failed, and why.
type Error struct {
	// Op is the call: "dial", "recv".
	Op string
	// Code is the stable number.
	Code Code
	// Text tells the cause with names, addresses and numbers.
	Text string
	// Needed is the length of the message that did not fit, for ErrBufferTooSmall.
	Needed int

	// Whether this side closed what the call was made on.
	closedHere bool
	cause      error
}

var _ net.Error = (*Error)(nil)

// Error is the whole sentence.
func (e *Error) Error() string { return "machnet: " + e.Op + ": " + e.Text }

// Unwrap answers the context's error if a context ended the call, and errors.ErrUnsupported where no program can attach.
func (e *Error) Unwrap() error { return e.cause }

// Timeout tells whether time ran out; with it, *Error is a net.Error.
func (e *Error) Timeout() bool { return e.Code == ErrTimedOut || e.Code == ErrConnectTimedOut }

// Temporary tells whether the same call may succeed later without anything being set up again.
func (e *Error) Temporary() bool { return e.Timeout() || e.Code == ErrWouldBlock || e.Code == ErrBusy }

// Is compares with a Code; the nearest syscall.Errno; os.ErrDeadlineExceeded; net.ErrClosed if this side closed; io.EOF if the
// peer did.
func (e *Error) Is(target error) bool {
	switch target := target.(type) {
	case Code:
		return e.Code == target
	case syscall.Errno:
		return errnoOf(e.Code) == int(target)
	}
	switch target {
	case os.ErrDeadlineExceeded:
		return e.Timeout()
	case net.ErrClosed:
		return e.Code == ErrClosed && e.closedHere
	case io.EOF:
		return e.Code == ErrClosed && !e.closedHere && e.Op == opRecv
	}
	return false
}

const (
	opAttach = "attach"
	opListen = "listen"
	opAccept = "accept"
	opDial   = "dial"
	opSend   = "send"
	opRecv   = "recv"
	opRead   = "read"
	opWrite  = "write"
	opLend   = "lend"
	opClose  = "close"
	opStats  = "stats"
)

// failed is the error of an answer that is no success.
func (r result) failed(op string) *Error {
	e := &Error{Op: op, Code: r.code, Text: r.text}
	if e.Text == "" {
		e.Text = textOf(r.code)
	}
	if r.code == ErrBufferTooSmall {
		e.Needed = r.count
	}
	if !supported {
		e.cause = errors.ErrUnsupported
	}
	return e
}

func closedHere(op string) *Error {
	return &Error{Op: op, Code: ErrClosed, Text: textOf(ErrClosed), closedHere: true}
}

func timedOut(op string) *Error { return &Error{Op: op, Code: ErrTimedOut, Text: textOf(ErrTimedOut)} }

func invalid(op, what string) *Error {
	return &Error{Op: op, Code: ErrInvalidArgument, Text: "invalid argument: " + what}
}

// contextEnded is the error of a call that its context ended.
func contextEnded(op string, ctx context.Context) *Error {
	code := ErrCancelled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = ErrTimedOut
	}
	return &Error{Op: op, Code: code, Text: textOf(code), cause: ctx.Err()}
}
