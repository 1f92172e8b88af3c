package machnet

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while calls wait for it. Its zero value never comes.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	// Closed when the time has come; replaced when a new time is set after that.
	passed    chan struct{}
	hasPassed bool
}

// set moves it; the zero time is never.
func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A timer that cannot be stopped closes the channel it knows, now or in a moment: those who wait on it were in time.
	if d.passed == nil || d.hasPassed || (d.timer != nil && !d.timer.Stop()) {
		d.passed = make(chan struct{})
		d.hasPassed = false
	}
	d.timer = nil
	if at.IsZero() {
		return
	}
	passed := d.passed
	if left := time.Until(at); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(passed) })
	} else {
		d.hasPassed = true
		close(passed)
	}
}

// channel is closed when the time has come.
func (d *deadline) channel() <-chan struct{} {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// isPast tells whether the time has come.
func (d *deadline) isPast() bool {
	if d == nil {
		return false
	}
	select {
	case <-d.channel():
		return true
	default:
		return false
	}
}
