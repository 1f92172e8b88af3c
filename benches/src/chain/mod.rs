//! Processes in a row that pass a message on to the last one and back, over links of any kind: what the same hops cost without
//! Machnet, or with a part of it. All wait by the rule of Machnet's own threads, `auto`.
//!
//! The shortest row is a client and a server with one link between them. The longest that is used here has the shape of two
//! applications with their sidecars: client, engine, engine, server.

pub mod datagrams;
pub mod frames;
pub mod messages;
pub mod rings;

use crate::stats::{Latencies, to_f64};
use crate::{MESSAGE_BYTES, cpu};
use machnet_client::WaitPolicy;
use machnet_client::waiting::{Step, Waiting};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Most messages that one look takes.
pub const BURST: usize = 32;
/// Most messages under way.
pub const MAX_WINDOW: usize = 64;
/// As the library's calls have it.
const PATIENCE: Duration = Duration::from_micros(200);
/// As engines have it.
const ENGINE_PATIENCE: Duration = Duration::from_micros(500);
/// Longest sleep on a link that cannot wake its owner, as engines have it.
const BLIND_SLEEP: Duration = Duration::from_micros(50);
/// Longest sleep at all: who waits for a message that was lost says so.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// Numbers of messages that do not count.
const FIRST_GREETING: u64 = 1 << 63;
const GREETING_PATIENCE: Duration = Duration::from_millis(10);
/// So long the others may take to be there.
const NOBODY_AFTER: Duration = Duration::from_secs(6);
/// A message that has not come back after so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// One end of what joins two neighbours. A message is [`MESSAGE_BYTES`] long and begins with its number.
pub trait Link {
    /// Hands over the numbers of up to [`BURST`] messages that came, and says how many. Never waits.
    fn take(&mut self, each: impl FnMut(u64)) -> io::Result<usize>;

    /// Gives a message to the neighbour, at the latest by [`Self::flush`]. There is room for [`MAX_WINDOW`].
    fn put(&mut self, number: u64) -> io::Result<()>;

    /// Nothing more is put now.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What is readable when something comes; none if the link cannot wake anybody.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The owner is about to sleep. `false`: something came meanwhile.
    fn prepare_sleep(&mut self) -> bool;

    /// The owner is awake again.
    fn end_sleep(&mut self) {}
}

/// How a member of a row waits.
#[derive(Debug)]
struct Waiter {
    waiting: Waiting,
    origin: Instant,
}

impl Waiter {
    fn new(patience: Duration) -> Self {
        Self { waiting: Waiting::new(WaitPolicy::Auto, patience, Waiting::cpus()), origin: cpu::now() }
    }

    fn now_ns(origin: Instant) -> u64 {
        u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// A look found nothing.
    #[inline]
    fn wait(&mut self, sleep: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let origin = self.origin;
        match self.waiting.step(|| Self::now_ns(origin)) {
            Step::Look => std::hint::spin_loop(),
            Step::Yield => {
                let before = Self::now_ns(origin);
                std::thread::yield_now();
                self.waiting.yielded(before, Self::now_ns(origin));
            }
            Step::Sleep => {
                sleep()?;
                self.waiting.ended();
            }
        }
        Ok(())
    }

    /// A look found something.
    #[inline]
    fn ended(&mut self) {
        self.waiting.ended();
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: i64::from(span.subsec_nanos()) }
}

fn sleep_on(link: &mut impl Link) -> io::Result<()> {
    if link.prepare_sleep() {
        match link.wake_fd() {
            Some(fd) => {
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timespec(LONGEST_SLEEP)))?;
            }
            None => std::thread::sleep(BLIND_SLEEP),
        }
    }
    link.end_sleep();
    Ok(())
}

fn sleep_on_both(near: &mut impl Link, far: &mut impl Link) -> io::Result<()> {
    if near.prepare_sleep() && far.prepare_sleep() {
        let fds = [near.wake_fd(), far.wake_fd()];
        let limit = if fds.iter().all(Option::is_some) { LONGEST_SLEEP } else { BLIND_SLEEP };
        let mut entries: Vec<_> =
            fds.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut entries, Some(&timespec(limit)))?;
    }
    near.end_sleep();
    far.end_sleep();
    Ok(())
}

/// Returns every message, for ever.
pub fn serve(link: &mut impl Link) -> io::Result<()> {
    let mut waiter = Waiter::new(PATIENCE);
    let mut came = Vec::with_capacity(BURST);
    loop {
        link.take(|number| came.push(number))?;
        if came.is_empty() {
            waiter.wait(|| sleep_on(link))?;
            continue;
        }
        waiter.ended();
        for number in came.drain(..) {
            link.put(number)?;
        }
        link.flush()?;
    }
}

/// Passes every message on, both ways, for ever.
pub fn pass_on(near: &mut impl Link, far: &mut impl Link) -> io::Result<()> {
    let mut waiter = Waiter::new(ENGINE_PATIENCE);
    let mut came = Vec::with_capacity(BURST);
    loop {
        let mut work = near.take(|number| came.push(number))?;
        work += pass(&mut came, far)?;
        far.take(|number| came.push(number))?;
        work += pass(&mut came, near)?;
        if work == 0 {
            waiter.wait(|| sleep_on_both(near, far))?;
        } else {
            waiter.ended();
        }
    }
}

fn pass(came: &mut Vec<u64>, to: &mut impl Link) -> io::Result<usize> {
    let count = came.len();
    if count > 0 {
        for number in came.drain(..) {
            to.put(number)?;
        }
        to.flush()?;
    }
    Ok(count)
}

/// What a client found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trips {
    /// Half of all round trips took at most so many microseconds.
    pub p50: f64,
    /// Ninety-nine of a hundred.
    pub p99: f64,
    /// Nine hundred and ninety-nine of a thousand.
    pub p999: f64,
    /// Round trips a second.
    pub per_second: f64,
}

impl Trips {
    /// The line by which a child tells it.
    pub fn to_line(self) -> String {
        format!("{} {} {} {}", self.p50, self.p99, self.p999, self.per_second)
    }

    /// What such a line tells.
    pub fn from_line(line: &str) -> io::Result<Self> {
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [p50, p99, p999, per_second] => Ok(Self { p50, p99, p999, per_second }),
            _ => Err(io::Error::other(format!("a client said {line:?}"))),
        }
    }
}

/// Sends messages and times their way there and back, `window` at a time. The link may lose some while the others start.
pub fn ask(link: &mut impl Link, window: usize, warm_up: Duration, measured: Duration) -> io::Result<Trips> {
    assert!((1..=MAX_WINDOW).contains(&window), "a window from 1 to {MAX_WINDOW}");
    greet(link)?;
    let mut waiter = Waiter::new(PATIENCE);
    let mut latencies = Latencies::default();
    let begin = cpu::now();
    let mut sent_at = [begin; MAX_WINDOW];
    let (mut sent, mut answered, mut counted) = (0_u64, 0_u64, 0_u64);
    let window = u64::try_from(window).unwrap_or(1);
    let mut came = Vec::with_capacity(BURST);
    let mut now = begin;
    while now < begin + warm_up + measured {
        if sent - answered < window {
            while sent - answered < window {
                sent_at[place(sent)] = cpu::now();
                link.put(sent)?;
                sent += 1;
            }
            link.flush()?;
        }
        link.take(|number| came.push(number))?;
        if came.is_empty() {
            waiter.wait(|| sleep_on(link))?;
            if cpu::now().duration_since(sent_at[place(answered)]) > LOST_AFTER {
                return Err(io::Error::other(format!("message {answered} of {sent} was lost")));
            }
            continue;
        }
        waiter.ended();
        now = cpu::now();
        for number in came.drain(..) {
            if number != answered {
                continue; // Of a row that was there before.
            }
            answered += 1;
            if now >= begin + warm_up {
                latencies.record_since(sent_at[place(number)]);
                counted += 1;
            }
        }
    }
    let per_second = to_f64(counted) / measured.as_secs_f64();
    let at = |quantile| latencies.at(quantile) / 1e3;
    Ok(Trips { p50: at(0.5), p99: at(0.99), p999: at(0.999), per_second })
}

/// Until something comes back: the others may not be there yet, and the first datagram may ask where they are.
fn greet(link: &mut impl Link) -> io::Result<()> {
    let begin = cpu::now();
    for number in 0.. {
        link.put(FIRST_GREETING + number)?;
        link.flush()?;
        let sent = cpu::now();
        while sent.elapsed() < GREETING_PATIENCE {
            if link.take(|_| {})? > 0 {
                return Ok(());
            }
            std::thread::yield_now();
        }
        if begin.elapsed() > NOBODY_AFTER {
            break;
        }
    }
    Err(io::Error::other("nobody answers"))
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0) % MAX_WINDOW
}

/// The bytes of a message.
pub(crate) fn message(number: u64) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [7; MESSAGE_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The number of a message, if it is one.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.get(..MESSAGE_BYTES)?;
    Some(u64::from_be_bytes(bytes[..8].try_into().ok()?))
}
