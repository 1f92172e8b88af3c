//! A bounded queue of datagrams with many senders and one receiver, all in one process.
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

/// Slots of one ring: the descriptors of the LCD NIC's queue (paper, section 3.1).
pub const DESCRIPTORS: usize = 256;

/// One datagram's memory.
#[derive(Debug)]
pub(super) struct Frame {
    /// Room for the largest datagram.
    pub(super) bytes: Box<[u8]>,
    /// How much of it the datagram fills.
    pub(super) len: usize,
    /// Where the datagram comes from.
    pub(super) from: SocketAddr,
}

impl Frame {
    /// An empty frame for datagrams of up to `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        let nowhere = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Self { bytes: vec![0; capacity].into_boxed_slice(), len: 0, from: nowhere }
    }
}

struct Slot {
    sequence: AtomicUsize,
    frame: UnsafeCell<Frame>,
}

struct Ring {
    slots: Box<[CachePadded<Slot>]>,
    /// The position that the next sender claims.
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: a slot's frame is touched only by the sender that claimed its position, until it stores `position + 1`, and then
// only by the one receiver, until it stores the next round's position. Release and acquire of `sequence` order the two.
unsafe impl Sync for Ring {}

/// A sending end; there may be many.
#[derive(Clone)]
pub(super) struct Sender {
    ring: Arc<Ring>,
}

/// The receiving end; there is one.
pub(super) struct Receiver {
    ring: Arc<Ring>,
    head: usize,
}

/// A ring whose slots hold frames of `capacity` bytes.
pub(super) fn ring(capacity: usize) -> (Sender, Receiver) {
    let slots = (0..DESCRIPTORS)
        .map(|position| {
            let frame = UnsafeCell::new(Frame::new(capacity));
            CachePadded::new(Slot { sequence: AtomicUsize::new(position), frame })
        })
        .collect();
    let ring = Arc::new(Ring { slots, tail: CachePadded::new(AtomicUsize::new(0)) });
    (Sender { ring: Arc::clone(&ring) }, Receiver { ring, head: 0 })
}

impl Sender {
    /// Queues `frame` and leaves an empty one in its place, or says `false` and leaves it if the ring is full.
    #[inline]
    pub(super) fn exchange(&self, frame: &mut Frame) -> bool {
        let mut position = self.ring.tail.load(Ordering::Relaxed);
        // Ends: each further round means that another sender made progress.
        loop {
            let slot = &self.ring.slots[position % DESCRIPTORS];
            // SYNC: slot emptied
            let sequence = slot.sequence.load(Ordering::Acquire);
            // Positions wrap around, so which is ahead shows in their difference.
            let is_behind = sequence.wrapping_sub(position) > usize::MAX / 2;
            match (sequence == position, is_behind) {
                (false, true) => return false,
                (false, false) => position = self.ring.tail.load(Ordering::Relaxed),
                (true, _) => match self.claim(position) {
                    Err(current) => position = current,
                    Ok(()) => {
                        // SAFETY: we claimed `position` of an empty slot, so nobody else touches the frame until the
                        // store below.
                        std::mem::swap(unsafe { &mut *slot.frame.get() }, frame);
                        // SYNC: datagram visible
                        slot.sequence.store(position.wrapping_add(1), Ordering::Release);
                        return true;
                    }
                },
            }
        }
    }

    fn claim(&self, position: usize) -> Result<(), usize> {
        let next = position.wrapping_add(1);
        self.ring.tail.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }
}

impl Receiver {
    /// Lends the oldest datagram to `each` and frees its slot, or says `false` if none waits.
    #[inline]
    pub(super) fn receive(&mut self, each: impl FnOnce(SocketAddr, &[u8])) -> bool {
        let slot = &self.ring.slots[self.head % DESCRIPTORS];
        // SYNC: datagram visible
        if slot.sequence.load(Ordering::Acquire) != self.head.wrapping_add(1) {
            return false;
        }
        // SAFETY: the slot is full, so no sender touches it until the store below, and we are the only receiver.
        let frame = unsafe { &*slot.frame.get() };
        each(frame.from, &frame.bytes[..frame.len]);
        // SYNC: slot emptied
        slot.sequence.store(self.head.wrapping_add(DESCRIPTORS), Ordering::Release);
        self.head = self.head.wrapping_add(1);
        true
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

    fn send(sender: &Sender, frame: &mut Frame, value: u32) -> bool {
        frame.bytes[..4].copy_from_slice(&value.to_le_bytes());
        frame.len = 4;
        sender.exchange(frame)
    }

    fn value(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn a_full_ring_refuses_and_keeps_the_order_over_many_rounds() {
        let (sender, mut receiver) = ring(16);
        let mut frame = Frame::new(16);
        let mut expected = 0_u32;
        for round in 0..10_u32 {
            for index in 0..256 {
                assert!(send(&sender, &mut frame, round * 256 + index));
            }
            assert!(!send(&sender, &mut frame, u32::MAX));
            while receiver.receive(|_, bytes| assert_eq!(value(bytes), expected)) {
                expected += 1;
            }
        }
        assert_eq!(expected, 2560);
    }

    #[test]
    fn several_senders_on_several_threads_each_keep_their_order_and_lose_nothing_they_were_promised() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 20_000;
        let (sender, mut receiver) = ring(16);
        let threads: Vec<_> = (0..SENDERS)
            .map(|id| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut frame = Frame::new(16);
                    for index in 0..EACH {
                        while !send(&sender, &mut frame, id << 24 | index) {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0_u32; SENDERS as usize];
        while next.iter().sum::<u32>() < SENDERS * EACH {
            let received = receiver.receive(|_, bytes| {
                let id = (value(bytes) >> 24) as usize;
                assert_eq!(value(bytes) & 0xff_ffff, next[id]);
                next[id] += 1;
            });
            if !received {
                std::thread::yield_now();
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
