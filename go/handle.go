package machnet

import (
	"sync/atomic"
	"unsafe"
)

// handle is a handle of the C library that many goroutines use: it is given back when it was closed and the last call on it
// has returned, so that no call ever meets freed memory.
type handle struct {
	// Calls under way; handleClosed once no more may begin.
	state atomic.Int64
	ptr   unsafe.Pointer
	free  func(unsafe.Pointer)
}

const handleClosed = 1 << 62

// acquire begins a call; false if the handle is closed.
func (h *handle) acquire() bool {
	for {
		state := h.state.Load()
		if state&handleClosed != 0 {
			return false
		}
		if h.state.CompareAndSwap(state, state+1) {
			return true
		}
	}
}

// release ends a call.
func (h *handle) release() {
	if h.state.Add(-1) == handleClosed {
		h.free(h.ptr)
	}
}

// close lets no more calls begin; false if that was so before.
func (h *handle) close() bool {
	for {
		state := h.state.Load()
		if state&handleClosed != 0 {
			return false
		}
		if h.state.CompareAndSwap(state, state|handleClosed) {
			if state == 0 {
				h.free(h.ptr)
			}
			return true
		}
	}
}

// take gives the handle of the library to the caller, who alone knows of it; false if it is closed.
func (h *handle) take() (unsafe.Pointer, bool) {
	return h.ptr, h.state.CompareAndSwap(0, handleClosed)
}
