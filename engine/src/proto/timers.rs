//! When which flow wants attention: a heap of wake-up times that may be too early, never too late.

use super::time::Instant;

/// No place in the heap.
const ABSENT: u32 = u32::MAX;

/// The wake-ups of all flows, one each: a binary heap that knows where each flow stands, so that a flow that is woken a
/// million times leaves nothing behind.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Vec<(Instant, u32)>,
    /// Place in `heap` by slot.
    places: Vec<u32>,
}

impl Timers {
    /// Wakes the flow of slot `index` at `at` and at no other time.
    pub(super) fn set(&mut self, at: Instant, index: u32) {
        if self.places.len() <= index as usize {
            self.places.resize(index as usize + 1, ABSENT);
        }
        let place = match self.places[index as usize] {
            ABSENT => {
                self.heap.push((at, index));
                self.heap.len() - 1
            }
            place => {
                self.heap[place as usize].0 = at;
                place as usize
            }
        };
        let place = self.sift_up(place);
        self.sift_down(place);
    }

    /// Flows that have a wake-up.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The flow is gone.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(&place) = self.places.get(index as usize).filter(|&&place| place != ABSENT) else { return };
        self.take(place as usize);
    }

    /// The earliest wake-up.
    #[inline]
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes a wake-up that is due and answers whose it is.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, index) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.take(0);
        Some(index)
    }

    fn take(&mut self, place: usize) {
        let (_, index) = self.heap.swap_remove(place);
        self.places[index as usize] = ABSENT;
        if place < self.heap.len() {
            let place = self.sift_up(place);
            self.sift_down(place);
        }
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.heap.swap(place, (place - 1) / 2);
            self.settle(place);
            place = (place - 1) / 2;
        }
        self.settle(place);
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let Some(mut least) = (left < self.heap.len()).then_some(left) else { break };
            if left + 1 < self.heap.len() && self.heap[left + 1] < self.heap[left] {
                least = left + 1;
            }
            if self.heap[place] <= self.heap[least] {
                break;
            }
            self.heap.swap(place, least);
            self.settle(place);
            place = least;
        }
        self.settle(place);
    }

    fn settle(&mut self, place: usize) {
        let (_, index) = self.heap[place];
        self.places[index as usize] = u32::try_from(place).unwrap_or(ABSENT);
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;
    use crate::proto::rng::Rng;
    use crate::proto::time::Instant;
    use std::collections::BTreeMap;

    #[test]
    fn wake_ups_come_in_order_and_each_flow_has_one() {
        let seed = [11, 7];
        let mut rng = Rng::new(seed);
        let (mut timers, mut model) = (Timers::default(), BTreeMap::new());
        for _ in 0..20_000 {
            let index = u32::try_from(rng.below(50)).unwrap();
            match rng.below(4) {
                0 => {
                    timers.remove(index);
                    model.remove(&index);
                }
                1 => {
                    let now = Instant::from_nanos(rng.below(1_000));
                    match timers.pop_due(now) {
                        Some(due) => assert!(model.remove(&due).is_some_and(|at| at <= now)),
                        None => assert!(model.values().all(|&at| at > now)),
                    }
                }
                _ => {
                    let at = Instant::from_nanos(rng.below(1_000));
                    timers.set(at, index);
                    model.insert(index, at);
                }
            }
            assert_eq!(timers.next(), model.values().min().copied(), "seed {seed:?}");
            assert_eq!(timers.heap.len(), model.len());
        }
    }
}
