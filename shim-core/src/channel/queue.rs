//! Received messages that wait for the application: one slab for the channel, linked into a list per flow.
//!
//! The engine never has more than `receive_slots` messages in the application's hands, so the slab has that many places
//! and no message costs an allocation.

use crate::shm::layout::{INLINE_BYTES, MAX_EXTENTS};

/// No entry.
const NONE: u32 = u32::MAX;

/// One message as its slot carried it, checked.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The slot's bytes from word 2 on: the message, or its extents and token.
    pub(crate) bytes: [u8; INLINE_BYTES],
    /// Handle of the flow it came on.
    pub(crate) flow: u32,
    /// Bytes of the message.
    pub(crate) length: u32,
    next: u32,
    /// Runs of RX buffers; 0 for a message in the slot itself.
    pub(crate) extents: u8,
}

impl Entry {
    /// An entry with the slot's bytes.
    pub(crate) fn new(flow: u32, length: u32, extents: u8, bytes: [u8; INLINE_BYTES]) -> Self {
        Self { bytes, flow, length, next: NONE, extents }
    }

    /// The runs of RX buffers: first and count.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..usize::from(self.extents).min(MAX_EXTENTS)).map(|index| {
            let raw = self.half_word(index);
            (raw & 0xffff, raw >> 16)
        })
    }

    /// The token by which the buffers are given back.
    pub(crate) fn token(&self) -> u32 {
        self.half_word(MAX_EXTENTS)
    }

    fn half_word(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }
}

/// A list of entries of one slab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// An empty list.
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE };

    /// Whether nothing is in it.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// The places for messages.
#[derive(Debug)]
pub(crate) struct Slab {
    entries: Vec<Entry>,
    limit: usize,
    free: u32,
}

impl Slab {
    /// A slab of `limit` places. Their memory is touched when first used.
    pub(crate) fn new(limit: u32) -> Self {
        Self { entries: Vec::with_capacity(limit as usize), limit: limit as usize, free: NONE }
    }

    /// Appends an entry; says false if every place is taken.
    #[must_use]
    pub(crate) fn push(&mut self, list: &mut List, entry: Entry) -> bool {
        let index = if self.free == NONE {
            if self.entries.len() == self.limit {
                return false;
            }
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.entries[index as usize].next = NONE;
        if list.tail == NONE {
            list.head = index;
        } else {
            self.entries[list.tail as usize].next = index;
        }
        list.tail = index;
        true
    }

    /// The first entry.
    pub(crate) fn front(&self, list: &List) -> Option<&Entry> {
        (list.head != NONE).then(|| &self.entries[list.head as usize])
    }

    /// Frees the first entry's place.
    pub(crate) fn pop(&mut self, list: &mut List) {
        let index = list.head;
        assert!(index != NONE, "popped from an empty list");
        let next = self.entries[index as usize].next;
        list.head = next;
        if next == NONE {
            list.tail = NONE;
        }
        self.entries[index as usize].next = self.free;
        self.free = index;
    }

    /// The list without its first entry, to look further.
    pub(crate) fn behind(&self, list: &List) -> List {
        List { head: self.entries[list.head as usize].next, tail: list.tail }
    }

    /// Moves all of `from` behind `to`.
    pub(crate) fn append(&mut self, to: &mut List, from: &mut List) {
        if from.is_empty() {
            return;
        }
        if to.tail == NONE {
            to.head = from.head;
        } else {
            self.entries[to.tail as usize].next = from.head;
        }
        to.tail = from.tail;
        *from = List::EMPTY;
    }

    /// Moves the entries of `flow` from `list` into a list of their own. Walks the list, which `receive_slots` bounds.
    pub(crate) fn extract(&mut self, list: &mut List, flow: u32) -> List {
        let (mut kept, mut taken) = (List::EMPTY, List::EMPTY);
        let mut at = list.head;
        while at != NONE {
            let entry = &mut self.entries[at as usize];
            let next = std::mem::replace(&mut entry.next, NONE);
            let mut one = List { head: at, tail: at };
            let target = if entry.flow == flow { &mut taken } else { &mut kept };
            self.append(target, &mut one);
            at = next;
        }
        *list = kept;
        taken
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn entry(flow: u32, length: u32) -> Entry {
        Entry::new(flow, length, 0, [0; INLINE_BYTES])
    }

    proptest::proptest! {
        #[test]
        fn lists_of_one_slab_agree_with_queues(steps in proptest::collection::vec((0..4_u8, 0..3_usize), 1..300)) {
            let mut slab = Slab::new(16);
            let mut lists = [List::EMPTY; 3];
            let mut oracle: [VecDeque<(u32, u32)>; 3] = Default::default();
            let mut number = 0;
            for (step, which) in steps {
                match step {
                    0 | 1 => {
                        number += 1;
                        let flow = u32::try_from(which).unwrap() + 10 * (number % 2);
                        let room = oracle.iter().map(VecDeque::len).sum::<usize>() < 16;
                        assert_eq!(slab.push(&mut lists[which], entry(flow, number)), room);
                        if room {
                            oracle[which].push_back((flow, number));
                        }
                    }
                    2 => if oracle[which].pop_front().is_some() {
                        slab.pop(&mut lists[which]);
                    }
                    _ => {
                        let flow = u32::try_from(which).unwrap();
                        let mut taken = slab.extract(&mut lists[which], flow);
                        let (moved, kept): (VecDeque<_>, VecDeque<_>) =
                            oracle[which].iter().partition(|&&(of, _)| of == flow);
                        oracle[which] = kept;
                        let other = (which + 1) % 3;
                        oracle[other].extend(moved);
                        let mut target = lists[other];
                        slab.append(&mut target, &mut taken);
                        lists[other] = target;
                    }
                }
                for (list, expected) in lists.iter().zip(&oracle) {
                    let front = slab.front(list).map(|entry| (entry.flow, entry.length));
                    assert_eq!(front, expected.front().copied());
                }
            }
        }
    }
}
