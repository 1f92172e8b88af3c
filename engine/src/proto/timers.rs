//! When which flow wants attention: a heap with one wake-up for each flow, which may be too early, never too late.

use super::time::Instant;

/// Of a flow that has no wake-up.
const NOWHERE: usize = usize::MAX;

/// The wake-ups of all flows. A flow has at most one: were the old one left behind at each change, a flow that talks for
/// days would leave millions.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Time and slot; each is not later than its two children at `2 * place + 1` and `2 * place + 2`.
    heap: Vec<(Instant, u32)>,
    /// Where in the heap each slot is.
    places: Vec<usize>,
}

impl Timers {
    /// Wakes the flow of slot `index` at `at`, and not when it was said before.
    pub(super) fn set(&mut self, at: Instant, index: u32) {
        let slot = index as usize;
        if slot >= self.places.len() {
            self.places.resize(slot + 1, NOWHERE);
        }
        let mut place = self.places[slot];
        if place == NOWHERE {
            place = self.heap.len();
            self.heap.push((at, index));
        }
        self.heap[place] = (at, index);
        self.places[slot] = place;
        self.settle(place);
    }

    /// Does not wake the flow of this slot.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(place) = self.places.get_mut(index as usize) else { return };
        let place = std::mem::replace(place, NOWHERE);
        if place == NOWHERE {
            return;
        }
        self.heap.swap_remove(place);
        if let Some(&(_, moved)) = self.heap.get(place) {
            self.places[moved as usize] = place;
            self.settle(place);
        }
    }

    /// The earliest wake-up.
    #[inline]
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes a wake-up that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, index) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(index);
        Some(index)
    }

    /// How many wake-ups there are, for tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Moves an entry up or down until the order holds again.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        loop {
            let children = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(least) = children.min_by_key(|&child| self.heap[child]) else { return };
            if self.heap[place] <= self.heap[least] {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a;
        self.places[self.heap[b].1 as usize] = b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn wake_ups_agree_with_a_map(steps in prop::collection::vec((0_u8..4, 0_u32..12, 0_u64..100), 1..200)) {
            let mut timers = Timers::default();
            let mut map = BTreeMap::new();
            for (step, index, at) in steps {
                let at = Instant::from_nanos(at);
                match step {
                    0 | 1 => {
                        timers.set(at, index);
                        map.insert(index, at);
                    }
                    2 => {
                        timers.remove(index);
                        map.remove(&index);
                    }
                    _ => {
                        let least = map.iter().map(|(&index, &at)| (at, index)).min();
                        let due = least.filter(|&(least, _)| least <= at).map(|(_, index)| index);
                        prop_assert_eq!(timers.pop_due(at), due);
                        due.map(|index| map.remove(&index));
                    }
                }
                prop_assert_eq!(timers.next(), map.values().min().copied());
                prop_assert_eq!(timers.len(), map.len());
            }
        }
    }
}
