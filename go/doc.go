// Package machnet carries whole messages, and byte streams, between the programs of one machine or of several, through the
// sidecar of each machine (`machnet up`).
//
// [Dial] and [Listen] work as those of package net do, and a [Conn] is a [net.Conn]. Programs that want messages call
// [Conn.SendMsg] and [Conn.RecvMsg], or take the [Flow] under it for contexts, batches and loans. Both ends of a connection
// must agree whether it is a stream or carries messages, as they agree on a port; the first call decides.
//
// A [Channel] is the attachment to one sidecar, with memory of its own. Dial and Listen share one that is made when it is
// first needed; [Attach] makes others.
//
// # Waiting
//
// No goroutine that waits holds an operating system thread. A call tries without waiting, which takes a short cgo call; if
// there is nothing, it parks as any goroutine does. One goroutine per channel waits in Go's network poller for the channel's
// doorbell and tries again for all that are parked. A wait that ends by a deadline, a context or Close has taken nothing and
// sent nothing.
//
// Calls that ask the sidecar over its socket do hold a thread, for tens of microseconds if the sidecar is well and 5 seconds
// at most: Attach, Listen, Stats, and Channel.Close, which waits for the linger time at most. So does [Flow.CloseWait].
//
// # Errors
//
// Every error is an [*Error], but for [io.EOF] at the end of a stream. It has the stable code of docs/troubleshooting.md,
// which is itself an error to compare with:
//
//	if errors.Is(err, machnet.ErrEngineLost) { ... }
//
// errors.Is also knows the nearest [syscall.Errno], [net.ErrClosed], [os.ErrDeadlineExceeded] and the context's errors.
package machnet
