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
	"unsafe"
)

// pump is the one goroutine of a channel that waits for its doorbell, and the calls that wait for the pump.
//
// At each ring it takes the news, which name those flows, listeners and connects for which something came, and tries for who waits
// there: for nobody else. A call that begins to wait makes itself known first and tries then, so that what came before is found by
// it, and what comes later is news. Only taking the news empties the doorbell. So when nobody waits, the pump leaves it as it is, and
// sleeps beside a descriptor that is readable until somebody comes; the sidecar rings no more meanwhile.
type pump struct {
	file   *os.File
	raw    syscall.RawConn
	native unsafe.Pointer
	news   [newsMost]news

	mu        sync.Mutex
	posts     map[uint64]*post
	lastToken uint64
	// How many calls wait.
	waiting atomic.Int64
	// Tries made for them, for tests.
	tries atomic.Uint64

	phase   atomic.Int32
	kicked  atomic.Bool
	spinner spinner

	// Closed when the sidecar is gone.
	lost   chan struct{}
	isLost bool
	// The channel serves no more, and everybody knows.
	isOver bool
	// Closed when the goroutine has ended.
	ended chan struct{}
}

// Phases. In the first the pump will look at waiting before it sleeps.
const (
	running int32 = iota
	// asleep, and woken by whatever comes.
	armed
	// asleep though the descriptor may be readable, because nobody waits.
	idle
)

// newsMost is how many news are taken at once.
const newsMost = 64

// news is what came for a token.
type news struct {
	token  uint64
	events uint32
}

// post is where the news of a token are delivered: the places of who waits for something to receive, and for room to send.
type post struct {
	receiving, sending *place
}

// channelToken names the channel's own news.
const channelToken = 0

// waiter is one call that waits. It is used again and again, by one call at a time.
type waiter struct {
	mu   sync.Mutex
	done bool
	// Tries without waiting; true if the call has its answer. Nil while nobody waits.
	try  func() bool
	wake chan struct{}
}

// newPump watches a copy of the descriptor: the library closes its own.
func newPump(native unsafe.Pointer, fd uintptr) (*pump, error) {
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
	p := &pump{
		file: file, raw: raw, native: native, posts: make(map[uint64]*post), lost: make(chan struct{}), ended: make(chan struct{}),
	}
	// From the first time on that the news are taken, a try in vain leaves the doorbell alone. What fails here fails again for who
	// waits.
	takeNews(native, &p.news)
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
	for {
		if p.waiting.Load() > 0 {
			p.serve()
		}
		looked, again := false, false
		err := p.raw.Read(func(fd uintptr) bool {
			if looked {
				return true // Something came.
			}
			looked = true
			again = !p.maySleep(fd)
			return again
		})
		p.phase.Store(running)
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

// maySleep tells whether whatever somebody waits for will wake the pump.
func (p *pump) maySleep(fd uintptr) bool {
	readable, gone := look(fd)
	if gone && !p.isLost {
		p.isLost = true
		close(p.lost)
	}
	if !readable && !gone {
		p.phase.Store(armed)
		return true
	}
	// SYNC: here the phase is stored and then waiting is loaded; in begin it is the other way round.
	p.phase.Store(idle)
	return p.isOver || p.waiting.Load() == 0
}

// serve tries for those for whom something came.
func (p *pump) serve() {
	for {
		r := takeNews(p.native, &p.news)
		if r.code != 0 {
			p.isOver = true // Whoever comes later is told by the first try.
			p.offerAll()
			return
		}
		for _, one := range p.news[:r.count] {
			p.mu.Lock()
			at := p.posts[one.token]
			p.mu.Unlock()
			if at == nil {
				continue
			}
			if at.receiving != nil && one.events&newsToReceive != 0 {
				p.offer(at.receiving)
			}
			if at.sending != nil && one.events&newsToSend != 0 {
				p.offer(at.sending)
			}
		}
		if r.count < newsMost {
			return
		}
	}
}

// offer tries for the call that waits at a place, if there is one.
func (p *pump) offer(at *place) {
	w := &at.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || w.try == nil {
		return
	}
	p.tries.Add(1)
	if w.try() {
		w.done = true
		w.wake <- struct{}{}
	}
}

// offerAll tries for everybody.
func (p *pump) offerAll() {
	p.mu.Lock()
	all := make([]*post, 0, len(p.posts))
	for _, at := range p.posts {
		all = append(all, at)
	}
	p.mu.Unlock()
	for _, at := range all {
		for _, place := range []*place{at.receiving, at.sending} {
			if place != nil {
				p.offer(place)
			}
		}
	}
}

// register makes a token whose news are delivered there.
func (p *pump) register(at *post) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastToken++
	p.posts[p.lastToken] = at
	return p.lastToken
}

// registerChannel says where the channel's own news are delivered.
func (p *pump) registerChannel(at *post) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.posts[channelToken] = at
}

func (p *pump) forget(token uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.posts, token)
}

// begin counts a call that waits.
func (p *pump) begin() {
	p.waiting.Add(1)
	if p.phase.Load() == idle {
		p.kick()
	}
}

// disturb is told of what rings no bell: this program gave room back for which another call may wait.
func (p *pump) disturb() {
	if p.waiting.Load() > 0 {
		p.kick()
	}
}

func (p *pump) kick() {
	if !p.kicked.Swap(true) {
		// Fails only if the pump has been stopped.
		_ = p.file.SetReadDeadline(time.Unix(1, 0))
	}
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

// wait repeats a call, which was tried in vain, until it has its answer, or the wait is ended.
func (p *pump) wait(at *place, e *ends, try func() bool) error {
	if err := p.takeTurn(at, e); err != nil {
		return err
	}
	defer at.leaveTurn()
	return p.waitInTurn(at, e, try)
}

// waitInTurn is wait for a caller who has the turn.
func (p *pump) waitInTurn(at *place, e *ends, try func() bool) error {
	w := &at.w
	p.begin()
	w.mu.Lock()
	w.done, w.try = false, try
	// The pump knows of it now: what came between the first try and this is found here, what comes later by the pump.
	found := try()
	w.done = found
	w.mu.Unlock()
	defer func() {
		p.waiting.Add(-1)
		w.mu.Lock()
		w.try = nil // It knows the caller's buffer.
		w.mu.Unlock()
	}()
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
