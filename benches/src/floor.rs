//! The ring floor: the cheapest message that this machine can pass.
//!
//! A ring of 256 slots for one producer and one consumer, each slot one cache line that holds 48 bytes of payload and the
//! sequence number, ping-pong between two processes on two processors. Nothing is checked, nothing is acknowledged.

use crate::{cpu, roles::Role};
use machnet_client::shm::region::{self, Mapping, Write};
use machnet_client::shm::ring::WritableMemory;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 256;
const SLOT_WORDS: usize = 8;
const RING_WORDS: usize = SLOTS * SLOT_WORDS;
const REGION_BYTES: usize = 2 * RING_WORDS * 8;
/// The role of the child that answers.
pub const ROLE: &str = "floor";

fn put(ring: &[AtomicU64; RING_WORDS], position: u64, payload: u64) {
    let slot = slot(ring, position);
    for word in &slot[1..7] {
        word.store(payload, Ordering::Relaxed);
    }
    slot[0].store(position + 1, Ordering::Release);
}

fn take(ring: &[AtomicU64; RING_WORDS], position: u64) -> u64 {
    let slot = slot(ring, position);
    while slot[0].load(Ordering::Acquire) != position + 1 {
        std::hint::spin_loop();
    }
    slot[1..7].iter().fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed))
}

#[expect(clippy::cast_possible_truncation, reason = "a place in the ring")]
fn slot(ring: &[AtomicU64; RING_WORDS], position: u64) -> &[AtomicU64] {
    let start = (position as usize % SLOTS) * SLOT_WORDS;
    &ring[start..start + SLOT_WORDS]
}

/// One-way time of one message in nanoseconds: half of the mean round trip of `rounds`, between this process on one processor
/// and a child on another.
pub fn one_way_ns(rounds: u32) -> io::Result<f64> {
    let region = region::create(c"machnet-floor", REGION_BYTES)?;
    let mapping = Mapping::<Write>::writable(&region, REGION_BYTES)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), region.as_raw_fd());
    let child = Role::start(ROLE, &[&path, &rounds.to_string()], false)?;
    let cpus = cpu::available();
    let ns = std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            cpu::pin(&cpus, 0);
            ask(&mapping, rounds)
        });
        asker.join().expect("the floor's thread does not fail")
    });
    drop(child);
    Ok(ns)
}

fn ask(mapping: &Mapping<Write>, rounds: u32) -> f64 {
    let (there, back) =
        (mapping.words_mut::<RING_WORDS>(0), mapping.words_mut::<RING_WORDS>(REGION_BYTES / 2));
    let warm_up = u64::from(rounds / 10);
    let mut start = cpu::now();
    for position in 0..u64::from(rounds) + warm_up {
        if position == warm_up {
            start = cpu::now();
        }
        put(there, position, position);
        std::hint::black_box(take(back, position));
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds) / 2.0
}

/// The child's part: answers so many messages. `main` of a bench calls it in the role [`ROLE`].
pub fn answer(arguments: &[String]) -> io::Result<()> {
    let [path, rounds] = arguments else {
        return Err(io::Error::other("the floor's role takes a file and a count"));
    };
    let rounds: u64 = rounds.parse().map_err(io::Error::other)?;
    let region = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mapping = Mapping::<Write>::writable(&region, REGION_BYTES)?;
    let (there, back) =
        (mapping.words_mut::<RING_WORDS>(0), mapping.words_mut::<RING_WORDS>(REGION_BYTES / 2));
    cpu::pin(&cpu::available(), 1);
    for position in 0..rounds + rounds / 10 {
        let payload = take(there, position);
        put(back, position, payload);
    }
    Ok(())
}
