//! A bounded queue of datagrams with many senders and one receiver, all in one process: a receive queue of the `memory`
//! driver, and an engine's inbox for what landed at its neighbours.
//!
//! Nothing is copied and nothing is allocated: a slot always holds a frame, and a sender exchanges its full frame for the
//! slot's empty one, as a network card's descriptors do.
//!
//! ```text
//!   sequence of slot i at position p (p % DESCRIPTORS == i):
//!     p                empty, waits for the sender that claims p
//!     p + 1            full, waits for the receiver
//!     p + DESCRIPTORS  empty again, one round later
//! ```
//!
//! Both ends work in bursts: a sender fills all slots of a burst before it publishes the first, and the receiver empties all
//! that it finds before it gives back the first. So the two cores exchange many cache lines at once, not one at a time.
#![expect(
    unsafe_code,
    reason = "a slot's frame is shared between the sender that claimed it and the receiver"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use crate::driver::RECEIVE_BURST;

/// Slots of one ring: the descriptors of the LCD NIC's queue (paper, section 3.1).
pub const DESCRIPTORS: usize = 256;

/// One datagram's memory.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Room for the largest datagram.
    pub(crate) bytes: Box<[u8]>,
    /// How much of it the datagram fills.
    pub(crate) len: u32,
    /// The UDP port that the datagram goes to.
    pub(crate) to_port: u16,
    /// The engine that it landed on, where one engine hands it to another.
    pub(crate) landed: u8,
    /// Where the datagram comes from.
    pub(crate) from: SocketAddr,
}

impl Frame {
    /// The datagram.
    #[inline]
    pub(crate) fn datagram(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    /// An empty frame for datagrams of up to `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        let nowhere = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Self { bytes: vec![0; capacity].into_boxed_slice(), len: 0, to_port: 0, landed: 0, from: nowhere }
    }
}

/// One cache line, so that a datagram's descriptor crosses between cores in one transfer.
#[repr(align(64))]
struct Slot {
    sequence: AtomicUsize,
    frame: UnsafeCell<Frame>,
}

const _: () = assert!(size_of::<Slot>() == 64);

struct Ring {
    slots: Box<[Slot]>,
    /// The position that the next sender claims.
    tail: CachePadded<AtomicUsize>,
}

impl Ring {
    fn slot(&self, position: usize) -> &Slot {
        &self.slots[position % DESCRIPTORS]
    }

    /// Whether the slot of `position` is free for the sender that claims it.
    fn is_free(&self, position: usize) -> bool {
        // SYNC: slot emptied
        self.slot(position).sequence.load(Ordering::Acquire) == position
    }
}

// SAFETY: a slot's frame is touched only by the sender that claimed its position, until it stores `position + 1`, and then
// only by the one receiver, until it stores the next round's position. Release and acquire of `sequence` order the two.
unsafe impl Sync for Ring {}

/// A sending end; there may be many.
#[derive(Clone)]
pub(crate) struct Sender {
    ring: Arc<Ring>,
}

/// The receiving end; there is one.
pub(crate) struct Receiver {
    ring: Arc<Ring>,
    head: usize,
}

/// A ring whose slots hold frames of `capacity` bytes.
pub(crate) fn ring(capacity: usize) -> (Sender, Receiver) {
    let slots = (0..DESCRIPTORS)
        .map(|position| {
            let frame = UnsafeCell::new(Frame::new(capacity));
            Slot { sequence: AtomicUsize::new(position), frame }
        })
        .collect();
    let ring = Arc::new(Ring { slots, tail: CachePadded::new(AtomicUsize::new(0)) });
    (Sender { ring: Arc::clone(&ring) }, Receiver { ring, head: 0 })
}

impl Sender {
    /// Queues the first of `frames`, leaves empty ones in their place, and returns how many: fewer than all if the ring is
    /// full.
    #[inline]
    pub(crate) fn exchange(&self, frames: &mut [Frame]) -> usize {
        let Some((start, count)) = self.claim(frames.len()) else { return 0 };
        for (index, frame) in frames[..count].iter_mut().enumerate() {
            let slot = self.ring.slot(start.wrapping_add(index));
            // SAFETY: we claimed this position of an empty slot, so nobody else touches the frame until its sequence
            // is stored below.
            std::mem::swap(unsafe { &mut *slot.frame.get() }, frame);
        }
        // The first is published last: the receiver, who waits for it, then finds the whole burst.
        for index in (0..count).rev() {
            let position = start.wrapping_add(index);
            // SYNC: datagram visible
            self.ring.slot(position).sequence.store(position.wrapping_add(1), Ordering::Release);
        }
        count
    }

    /// Claims up to `wanted` free positions in a row: the first of them, and how many.
    #[inline]
    fn claim(&self, wanted: usize) -> Option<(usize, usize)> {
        let mut start = self.ring.tail.load(Ordering::Relaxed);
        // Ends: each further round means that another sender made progress.
        loop {
            let count = self.free_from(start, wanted);
            if count == 0 {
                let current = self.ring.tail.load(Ordering::Relaxed);
                if current == start {
                    return None;
                }
                start = current;
                continue;
            }
            let next = start.wrapping_add(count);
            match self.ring.tail.compare_exchange_weak(start, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((start, count)),
                Err(current) => start = current,
            }
        }
    }

    /// How many slots from `start` on are free, at most `wanted`. The receiver frees them in order, so if the last one is
    /// free, all are.
    #[inline]
    fn free_from(&self, start: usize, wanted: usize) -> usize {
        let wanted = wanted.min(DESCRIPTORS);
        if wanted > 0 && self.ring.is_free(start.wrapping_add(wanted - 1)) {
            return wanted;
        }
        (0..wanted).take_while(|index| self.ring.is_free(start.wrapping_add(*index))).count()
    }
}

impl Receiver {
    /// Lends up to [`RECEIVE_BURST`] datagrams to `each`, oldest first, then frees their slots, and returns how many.
    #[inline]
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&Frame)) -> usize {
        let mut count = 0;
        while count < RECEIVE_BURST {
            let position = self.head.wrapping_add(count);
            let slot = self.ring.slot(position);
            // SYNC: datagram visible
            if slot.sequence.load(Ordering::Acquire) != position.wrapping_add(1) {
                break;
            }
            // SAFETY: the slot is full, so no sender touches it until its sequence is stored below, and we are the only
            // receiver.
            let frame = unsafe { &*slot.frame.get() };
            each(frame);
            count += 1;
        }
        for _ in 0..count {
            // SYNC: slot emptied
            let freed = self.head.wrapping_add(DESCRIPTORS);
            self.ring.slot(self.head).sequence.store(freed, Ordering::Release);
            self.head = self.head.wrapping_add(1);
        }
        count
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("tail", &self.ring.tail).finish_non_exhaustive()
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("head", &self.head).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `count` numbers from `first` on, and returns how many were taken.
    fn send(sender: &Sender, frames: &mut [Frame], first: u32, count: usize) -> usize {
        for (frame, number) in frames[..count].iter_mut().zip(first..) {
            frame.bytes[..4].copy_from_slice(&number.to_le_bytes());
            frame.len = 4;
        }
        sender.exchange(&mut frames[..count])
    }

    fn frames(count: usize) -> Vec<Frame> {
        (0..count).map(|_| Frame::new(16)).collect()
    }

    fn number(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn a_full_ring_refuses_the_rest_of_a_burst_and_keeps_the_order_over_many_rounds() {
        let (sender, mut receiver) = ring(16);
        let mut frames = frames(100);
        let (mut sent, mut expected) = (0, 0);
        for _ in 0..10 {
            for wanted in [100, 100, 56] {
                assert_eq!(send(&sender, &mut frames, sent, 100), wanted);
                sent += u32::try_from(wanted).unwrap();
            }
            assert_eq!(send(&sender, &mut frames, sent, 100), 0);
            let each = |frame: &Frame| {
                assert_eq!(number(frame.datagram()), expected);
                expected += 1;
            };
            let mut each = each;
            for wanted in [64, 64, 64, 64, 0] {
                assert_eq!(receiver.receive(&mut each), wanted);
            }
        }
        assert_eq!(expected, 2_560);
    }

    #[test]
    fn several_senders_on_several_threads_each_keep_their_order_and_lose_nothing_they_were_promised() {
        const SENDERS: usize = 3;
        const EACH: u32 = 20_000;
        let (sender, mut receiver) = ring(16);
        let threads: Vec<_> = (0..SENDERS)
            .map(|id| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut frames = frames(40);
                    let first = u32::try_from(id << 24).unwrap();
                    let mut sent = 0;
                    while sent < EACH {
                        let count = usize::try_from(1 + sent % 40).unwrap().min((EACH - sent) as usize);
                        match send(&sender, &mut frames, first + sent, count) {
                            0 => std::thread::yield_now(),
                            taken => sent += u32::try_from(taken).unwrap(),
                        }
                    }
                })
            })
            .collect();
        let mut next = [0_u32; SENDERS];
        while next != [EACH; SENDERS] {
            let received = receiver.receive(|frame| {
                let bytes = frame.datagram();
                let id = (number(bytes) >> 24) as usize;
                assert_eq!(number(bytes) & 0xff_ffff, next[id]);
                next[id] += 1;
            });
            if received == 0 {
                std::thread::yield_now();
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
