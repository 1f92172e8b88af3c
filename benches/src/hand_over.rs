//! Waking a thread that sleeps on another processor, by the means that the system has.

use crate::cpu;
use crate::stats::{Latencies, to_f64};
use crate::usage::{self, Usage};
use rustix::thread::futex;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two wake-ups, so that the sleeper sleeps.
pub const GAP: Duration = Duration::from_micros(100);

/// Many wake-ups by one means.
#[derive(Debug)]
pub struct HandOvers {
    /// From before the wake-up until the sleeper runs.
    pub latencies: Latencies,
    /// Processor time in nanoseconds that the sleeper takes for each, going to sleep again included.
    pub on_cpu_ns: f64,
}

/// When the waker spoke, for the sleeper to see: nanoseconds since `START`.
struct Stamp {
    start: Instant,
    spoke_ns: AtomicU64,
}

impl Stamp {
    fn new() -> Self {
        Self { start: cpu::now(), spoke_ns: AtomicU64::new(0) }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn speak(&self) {
        self.spoke_ns.store(self.now_ns(), Ordering::Release);
    }

    fn heard(&self, latencies: &mut Latencies) {
        let heard = self.now_ns();
        latencies.record(heard - self.spoke_ns.load(Ordering::Acquire));
    }
}

/// What the waker is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waker {
    /// To do what it does while it waits.
    Wait,
    /// To wake the sleeper.
    Wake,
}

/// Runs a sleeper on the second processor, and asks `waker` on the first to wake it so many times, with a gap before each in
/// which it is asked to wait again and again.
pub fn hand_over(
    wakes: u32,
    mut sleep: impl FnMut() + Send,
    mut waker: impl FnMut(Waker) + Send,
) -> HandOvers {
    let stamp = Stamp::new();
    let heard = AtomicU32::new(0);
    let sleeper = || {
        cpu::pin(&cpu::available(), 1);
        let mut latencies = Latencies::default();
        let before = Usage::of(usage::thread()).unwrap_or_default();
        for _ in 0..wakes {
            sleep();
            stamp.heard(&mut latencies);
            heard.fetch_add(1, Ordering::Release);
        }
        let used = Usage::of(usage::thread()).unwrap_or_default().since(before);
        HandOvers { latencies, on_cpu_ns: to_f64(used.on_cpu_ns) / f64::from(wakes) }
    };
    let waker = || {
        cpu::pin(&cpu::available(), 0);
        for number in 0..wakes {
            let begin = cpu::now();
            while begin.elapsed() < GAP || heard.load(Ordering::Acquire) < number {
                waker(Waker::Wait);
            }
            stamp.speak();
            waker(Waker::Wake);
        }
        while heard.load(Ordering::Acquire) < wakes {
            waker(Waker::Wait);
        }
    };
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(sleeper);
        scope.spawn(waker);
        sleeper.join().expect("the sleeper does not fail")
    })
}

/// Through a futex.
pub fn futex_wakes(wakes: u32) -> io::Result<HandOvers> {
    let (word, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut taken = 0;
    let latencies = hand_over(
        wakes,
        || {
            while word.load(Ordering::Acquire) == taken {
                // It may say that the word has changed already.
                let _: rustix::io::Result<()> = futex::wait(&word, futex::Flags::PRIVATE, taken, None);
            }
            taken += 1;
        },
        |asked| match asked {
            Waker::Wait => std::hint::spin_loop(),
            Waker::Wake => {
                word.fetch_add(1, Ordering::Release);
                failed.fetch_or(futex::wake(&word, futex::Flags::PRIVATE, 1).is_err(), Ordering::Relaxed);
            }
        },
    );
    if failed.into_inner() { Err(io::Error::other("the system has no futex")) } else { Ok(latencies) }
}

/// A byte, or a count of one, through a descriptor.
pub fn descriptor_wakes(read: &OwnedFd, write: &OwnedFd, polls: bool, wakes: u32) -> io::Result<HandOvers> {
    let failed = AtomicBool::new(false);
    let latencies = hand_over(
        wakes,
        || {
            if polls {
                let mut entries = [rustix::event::PollFd::new(read, rustix::event::PollFlags::IN)];
                failed.fetch_or(rustix::event::poll(&mut entries, None).is_err(), Ordering::Relaxed);
            }
            failed.fetch_or(rustix::io::read(read, &mut [0; 8]).is_err(), Ordering::Relaxed);
        },
        |asked| match asked {
            Waker::Wait => std::hint::spin_loop(),
            Waker::Wake => {
                let written = rustix::io::write(write, &1_u64.to_le_bytes());
                failed.fetch_or(written.is_err(), Ordering::Relaxed);
            }
        },
    );
    if failed.into_inner() { Err(io::Error::other("a descriptor failed")) } else { Ok(latencies) }
}
