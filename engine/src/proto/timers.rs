//! When which flow wants attention: a heap of wake-up times that may be too early, never too late.

use super::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The wake-ups of all flows. Each flow remembers the earliest one it has in here, so a deadline that moves away costs
/// nothing until the old one comes up.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Timers {
    /// Wakes the flow of slot `index` and `generation` at `at`.
    pub(super) fn push(&mut self, at: Instant, index: u32, generation: u32) {
        self.heap.push(Reverse((at, index, generation)));
    }

    /// The earliest wake-up.
    #[inline]
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes a wake-up that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(u32, u32)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, index, generation))| (index, generation))
    }
}
