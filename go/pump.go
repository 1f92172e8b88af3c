package machnet

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pump is the one goroutine of a channel that waits for its doorbell, and the calls that wait for the pump.
//
// The descriptor has the level-triggered rules of machnet_channel_event_fd: after calls that found nothing it is readable, or
// nothing has come. One descriptor serves all flows, and a call for one may take from the rings what another was just told is
// not there. The library then keeps the descriptor readable, but only until a whole round of an event loop has passed the news
// by, which it notices by somebody asking in vain twice. Here goroutines ask whenever they like, and the poller tells of
// nothing that was read before it looked. So the pump must not sleep on what others have disturbed:
//
//   - A call that found nothing counts itself in disturbances and wakes the pump, unless it could have harmed nobody: no other
//     call was waiting, and the pump slept armed all the while.
//   - The pump goes to sleep armed only after a round without disturbances, behind which the descriptor was not readable.
//
// So that two calls in one round never ask for the same thing, each kind of wait of a flow has one place, and a turn.
type pump struct {
	file *os.File
	raw  syscall.RawConn

	mu      sync.Mutex
	waiters []*waiter
	// Length of waiters.
	count atomic.Int64

	// How often the phase changed, and the phase in the lowest two bits.
	phase        atomic.Uint64
	disturbances atomic.Uint64
	kicked       atomic.Bool

	// Closed when the sidecar is gone.
	lost   chan struct{}
	isLost bool
	// Closed when the goroutine has ended.
	ended chan struct{}
}

// Phases. In the first the pump will look at disturbances before it sleeps.
const (
	running = iota
	armed
	// asleep though the descriptor may be readable, because nobody waits.
	idle
	phaseMask = 3
)

// waiter is one call that waits. It is used again and again, by one call at a time.
type waiter struct {
	mu   sync.Mutex
	done bool
	// Tries without waiting; true if the call has its answer.
	try   func() bool
	wake  chan struct{}
	index int
}

// newPump watches a copy of the descriptor: the library closes its own.
func newPump(fd uintptr) (*pump, error) {
	own, err := duplicate(fd)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(own, "machnet doorbell")
	raw, err := file.SyscallConn()
	if err == nil {
		// Refused for a descriptor that is not with the poller: there a wait would hold a thread.
		err = file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	p := &pump{file: file, raw: raw, lost: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p, nil
}

// stop ends the goroutine.
func (p *pump) stop() {
	p.file.Close()
	<-p.ended
}

func (p *pump) run() {
	defer close(p.ended)
	var round []*waiter
	for {
		seen := p.disturbances.Load()
		round = p.goRound(round)
		looked, again := false, false
		err := p.raw.Read(func(fd uintptr) bool {
			if looked {
				return true // Something came.
			}
			looked = true
			again = !p.maySleep(fd, seen)
			return again
		})
		p.enter(running)
		switch {
		case err == nil:
			if again {
				runtime.Gosched()
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			if p.file.SetReadDeadline(time.Time{}) != nil {
				return
			}
			p.kicked.Store(false)
		default:
			return
		}
	}
}

// maySleep tells whether whatever comes from now on will wake the pump.
func (p *pump) maySleep(fd uintptr, seen uint64) bool {
	readable, gone := look(fd)
	if gone && !p.isLost {
		p.isLost = true
		close(p.lost)
	}
	switch {
	case !readable && !gone:
		p.enter(armed)
	case p.count.Load() == 0:
		p.enter(idle)
	default:
		return false
	}
	if p.disturbances.Load() != seen {
		p.enter(running)
		return false
	}
	return true
}

// enter changes the phase. Only the pump's goroutine does.
func (p *pump) enter(phase uint64) {
	p.phase.Store((p.phase.Load()&^phaseMask + phaseMask + 1) | phase)
}

// goRound tries once for each that waits.
func (p *pump) goRound(round []*waiter) []*waiter {
	p.mu.Lock()
	round = append(round[:0], p.waiters...)
	p.mu.Unlock()
	for i, w := range round {
		w.mu.Lock()
		if !w.done && w.try() {
			w.done = true
			w.wake <- struct{}{}
		}
		w.mu.Unlock()
		round[i] = nil
	}
	return round
}

// disturbed is told of calls outside of the pump that found nothing, with the phase before the first of them, and how many of the
// waiters the caller is. A call that begins to wait later tries once more itself.
func (p *pump) disturbed(before uint64, own int64) {
	now := p.phase.Load()
	if now == before && now&phaseMask == armed && p.count.Load() <= own {
		return
	}
	p.disturbances.Add(1)
	// SYNC: the pump stores its phase and then loads disturbances; here it is the other way round.
	if p.count.Load() > 0 && p.phase.Load()&phaseMask != running && !p.kicked.Swap(true) {
		// Fails only if the pump has been stopped.
		_ = p.file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (p *pump) add(w *waiter) {
	p.mu.Lock()
	w.index = len(p.waiters)
	p.waiters = append(p.waiters, w)
	p.count.Store(int64(len(p.waiters)))
	p.mu.Unlock()
}

func (p *pump) remove(w *waiter) {
	p.mu.Lock()
	last := len(p.waiters) - 1
	p.waiters[w.index] = p.waiters[last]
	p.waiters[w.index].index = w.index
	p.waiters[last] = nil
	p.waiters = p.waiters[:last]
	p.count.Store(int64(last))
	p.mu.Unlock()
}

// place is where calls of one kind on one flow wait: one at a time, others queue.
type place struct {
	turn chan struct{}
	w    waiter
}

func newPlace() place {
	return place{turn: make(chan struct{}, 1), w: waiter{wake: make(chan struct{}, 1)}}
}

// ends is what may end a wait early.
type ends struct {
	op       string
	ctx      context.Context
	deadline *deadline
	// Closed when what the call was made on is closed, and when the channel is.
	closed, channelClosed <-chan struct{}
}

// done is the context's channel; contexts are optional here.
func (e *ends) done() <-chan struct{} {
	if e.ctx == nil {
		return nil
	}
	return e.ctx.Done()
}

// over is the error of a wait that was ended, nil if it may go on.
func (e *ends) over() error {
	if e.deadline.isPast() {
		return timedOut(e.op)
	}
	if e.ctx != nil && e.ctx.Err() != nil {
		return contextEnded(e.op, e.ctx)
	}
	return nil
}

// takeTurn waits until no other call waits at the place.
func (p *pump) takeTurn(at *place, e *ends) error {
	select {
	case at.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case at.turn <- struct{}{}:
		return nil
	case <-e.deadline.channel():
		return timedOut(e.op)
	case <-e.done():
		return contextEnded(e.op, e.ctx)
	case <-e.closed:
	case <-e.channelClosed:
	}
	return closedHere(e.op)
}

func (at *place) leaveTurn() { <-at.turn }

// wait repeats a call, which was tried in vain at the phase before, until it has its answer, or the wait is ended.
func (p *pump) wait(at *place, e *ends, before uint64, try func() bool) error {
	select {
	case at.turn <- struct{}{}:
	default:
		p.disturbed(before, 0)
		if err := p.takeTurn(at, e); err != nil {
			return err
		}
		before = p.phase.Load()
	}
	defer at.leaveTurn()
	return p.waitInTurn(at, e, before, try)
}

// waitInTurn is wait for a caller who has the turn.
func (p *pump) waitInTurn(at *place, e *ends, before uint64, try func() bool) error {
	w := &at.w
	w.mu.Lock()
	w.done, w.try = false, try
	w.mu.Unlock()
	p.add(w)
	defer func() {
		p.remove(w)
		w.mu.Lock()
		w.try = nil // It knows the caller's buffer.
		w.mu.Unlock()
	}()

	// The pump knows of it now: what came between the first try and this is found here, what comes later by the pump.
	w.mu.Lock()
	found := !w.done && try()
	w.done = w.done || found
	w.mu.Unlock()
	p.disturbed(before, 1)
	if found {
		return nil
	}

	var err error
	select {
	case <-w.wake:
		return nil
	case <-e.deadline.channel():
		err = timedOut(e.op)
	case <-e.done():
		err = contextEnded(e.op, e.ctx)
	case <-e.closed:
		err = closedHere(e.op)
	case <-e.channelClosed:
		err = closedHere(e.op)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		<-w.wake // The pump was faster: what it found is not lost.
		return nil
	}
	w.done = true
	return err
}
