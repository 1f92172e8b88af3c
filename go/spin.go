package machnet

import (
	"runtime"
	"sync/atomic"
	"time"
)

// spinner is one goroutine of a channel that tries on for a while before it parks, because an answer of this host takes a few
// microseconds and parking takes more. It makes itself known to nobody: while no other call waits, the pump leaves the
// doorbell alone, and the sidecar does not ring it.
//
// Between tries other goroutines run, and now and then whatever else the operating system has for this processor: whoever we
// wait for may be there. One goroutine at a time spins; more would only take the channel from each other.
type spinner struct {
	busy atomic.Bool
	// So many waits go by before the next spins.
	rest atomic.Int32
	// How long the last rest was.
	lastRest atomic.Int32
}

const (
	// spinTime is how long it tries before it parks: several times what a large message takes there and back.
	spinTime = 100 * time.Microsecond
	// yieldTime is between two yields to the operating system, where there is more than one processor.
	yieldTime = 10 * time.Microsecond
	// othersTime is how long a yield takes when another thread ran meanwhile that does not wait itself.
	othersTime    = 500 * time.Microsecond
	triesPerClock = 4
	mostRest      = 64
)

var singleProcessor = runtime.NumCPU() == 1

// begin tells whether the caller may spin: it has to end it.
func (s *spinner) begin() bool {
	if s.rest.Load() > 0 {
		s.rest.Add(-1)
		return false
	}
	return s.busy.CompareAndSwap(false, true)
}

// end is told whether it was worth it. Waits that mostly take longer soon spin seldom.
func (s *spinner) end(found bool) {
	rest := int32(0)
	if !found {
		rest = min(max(2*s.lastRest.Load(), 1), mostRest)
	}
	s.lastRest.Store(rest)
	s.rest.Store(rest)
	s.busy.Store(false)
}

// spin repeats a call that was tried in vain, for a while, unless another call waits at the place. It tells whether the call has
// its answer.
func (p *pump) spin(at *place, try func() bool) bool {
	s := &p.spinner
	if len(at.turn) > 0 || !s.begin() {
		return false
	}
	found := s.run(try)
	s.end(found)
	return found
}

func (s *spinner) run(try func() bool) bool {
	began := time.Now()
	yielded := time.Duration(0)
	for round := 1; ; round++ {
		if try() {
			return true
		}
		runtime.Gosched()
		if !singleProcessor && round%triesPerClock != 0 {
			continue
		}
		spent := time.Since(began)
		if spent >= spinTime {
			return false
		}
		if singleProcessor || spent-yielded >= yieldTime {
			yieldProcessor()
			yielded = time.Since(began)
			if yielded-spent > othersTime {
				return false
			}
		}
	}
}
