//! A bad network around a good one: loses, repeats, delays, reorders and corrupts what is sent, by a seed.
//!
//! Only sending is disturbed; to disturb both directions, wrap both ends. Same seed, same datagrams, same times: same faults.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::{Driver, DriverCounters};
use crate::proto::rng::Rng;
use crate::proto::time::{Duration, Instant};

/// Datagrams that are held back at a time; while all places are taken, `lend` says no.
const HELD_DATAGRAMS: usize = 256;

/// Places that one datagram may need: one for itself, one for its repetition.
const PLACES_PER_DATAGRAM: usize = 2;

/// What goes wrong, how often (in datagrams of a thousand), and the seed that decides which. The default is: nothing.
#[derive(Clone, Debug)]
pub struct FaultConfig {
    /// Decides everything that is random.
    pub seed: [u64; 2],
    /// Datagrams that vanish.
    pub lose_per_mille: u16,
    /// Datagrams that are sent twice.
    pub repeat_per_mille: u16,
    /// Datagrams of which one bit is flipped.
    pub corrupt_per_mille: u16,
    /// Datagrams that are held back for a while.
    pub delay_per_mille: u16,
    /// Least time for which they are held back.
    pub delay_least: Duration,
    /// Longest time for which they are held back.
    pub delay_most: Duration,
    /// Datagrams that later ones overtake.
    pub reorder_per_mille: u16,
    /// Most later ones that overtake, at least 1.
    pub reorder_distance: u16,
    /// They leave after this time even if nothing overtook them.
    pub reorder_timeout: Duration,
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self {
            seed: [0; 2],
            lose_per_mille: 0,
            repeat_per_mille: 0,
            corrupt_per_mille: 0,
            delay_per_mille: 0,
            delay_least: Duration::ZERO,
            delay_most: Duration::ZERO,
            reorder_per_mille: 0,
            reorder_distance: 3,
            reorder_timeout: Duration::from_millis(1),
        }
    }
}

impl FaultConfig {
    fn is_harmless(&self) -> bool {
        let rates = [
            self.lose_per_mille,
            self.repeat_per_mille,
            self.corrupt_per_mille,
            self.delay_per_mille,
            self.reorder_per_mille,
        ];
        rates == [0; 5]
    }
}

/// What the faults did so far, in datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounters {
    /// Vanished.
    pub lost: u64,
    /// Sent once more.
    pub repeated: u64,
    /// Sent with a flipped bit.
    pub corrupted: u64,
    /// Held back for a time.
    pub delayed: u64,
    /// Held back until later ones had overtaken.
    pub reordered: u64,
}

/// When a held datagram leaves: as soon as one of the two is reached.
#[derive(Clone, Copy, Debug)]
struct Release {
    at: Instant,
    /// Compared with the number of datagrams committed so far.
    after_datagrams: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    to: SocketAddr,
    len: usize,
    place: usize,
    release: Release,
}

/// A driver whose sent datagrams meet faults. `C` tells the time; it is asked once per `commit` and `flush`, and never if
/// there are no faults.
pub struct FaultDriver<D, C> {
    inner: D,
    clock: C,
    config: FaultConfig,
    is_harmless: bool,
    rng: Rng,
    /// The memory of all places, one after the other, and last the datagram that is lent.
    bytes: Vec<u8>,
    lent: Option<(SocketAddr, usize)>,
    /// What is held back, oldest first.
    held: Vec<Held>,
    free_places: Vec<usize>,
    committed: u64,
    /// Whether the inner driver had no room, so that a datagram due now is held: nothing may pass it until the next flush.
    is_backlogged: bool,
    counters: FaultCounters,
}

impl<D: Driver, C: FnMut() -> Instant + Send> FaultDriver<D, C> {
    /// Wraps `inner`.
    pub fn new(inner: D, config: FaultConfig, clock: C) -> Self {
        assert!(config.delay_least <= config.delay_most, "the least delay is above the most");
        assert!(config.reorder_distance > 0, "to be overtaken by no datagram is no reordering");
        let is_harmless = config.is_harmless();
        let places = if is_harmless { 0 } else { HELD_DATAGRAMS };
        Self {
            bytes: vec![0; (places + 1) * inner.max_datagram()],
            inner,
            clock,
            is_harmless,
            rng: Rng::new(config.seed),
            config,
            lent: None,
            held: Vec::with_capacity(places),
            free_places: (0..places).collect(),
            committed: 0,
            is_backlogged: false,
            counters: FaultCounters::default(),
        }
    }

    /// The wrapped driver.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// What the faults did so far. What the inner driver really carried is in [`Driver::counters`].
    pub fn fault_counters(&self) -> FaultCounters {
        self.counters
    }

    fn happens(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.rng.below(1_000) < u64::from(per_mille)
    }

    fn scratch(&mut self) -> &mut [u8] {
        let start = self.bytes.len() - self.inner.max_datagram();
        &mut self.bytes[start..]
    }

    fn corrupt(&mut self, len: usize) {
        let bit = self.rng.below(len as u64 * 8);
        let index = usize::try_from(bit / 8).expect("the bit is within the datagram");
        self.scratch()[index] ^= 1 << (bit % 8);
        self.counters.corrupted += 1;
    }

    /// When the datagram that is lent leaves; `None` is at once. The draws are made in one fixed order.
    fn draw_release(&mut self) -> Option<Release> {
        let now = (self.clock)();
        if self.happens(self.config.delay_per_mille) {
            self.counters.delayed += 1;
            let spread = self.config.delay_most.less(self.config.delay_least).as_nanos();
            let extra = Duration::from_nanos(self.rng.below(spread.saturating_add(1)));
            return Some(Release { at: now + self.config.delay_least + extra, after_datagrams: u64::MAX });
        }
        if self.happens(self.config.reorder_per_mille) {
            self.counters.reordered += 1;
            let overtaking = 1 + self.rng.below(u64::from(self.config.reorder_distance));
            let at = now + self.config.reorder_timeout;
            return Some(Release { at, after_datagrams: self.committed + overtaking });
        }
        None
    }

    /// Sends the scratch datagram now if the inner driver has room, else as soon as it has.
    fn send_now(&mut self, to: SocketAddr, len: usize) {
        let start = self.bytes.len() - self.inner.max_datagram();
        let room = if self.is_backlogged { None } else { self.inner.lend(to, len) };
        match room {
            Some(room) => {
                room.copy_from_slice(&self.bytes[start..start + len]);
                self.inner.commit(len);
            }
            None => {
                self.is_backlogged = true;
                self.hold(to, len, Release { at: Instant::ZERO, after_datagrams: 0 });
            }
        }
    }

    fn hold(&mut self, to: SocketAddr, len: usize, release: Release) {
        let place = self.free_places.pop().expect("lend made sure of free places");
        let max_datagram = self.inner.max_datagram();
        let start = self.bytes.len() - max_datagram;
        self.bytes.copy_within(start..start + len, place * max_datagram);
        self.held.push(Held { to, len, place, release });
    }

    /// Gives what is due to the inner driver, oldest first, until that has no room.
    fn release_due(&mut self, now: Instant) {
        self.is_backlogged = false;
        let max_datagram = self.inner.max_datagram();
        let mut index = 0;
        while index < self.held.len() {
            let Held { to, len, place, release } = self.held[index];
            if release.at > now && release.after_datagrams > self.committed {
                index += 1;
                continue;
            }
            let Some(room) = self.inner.lend(to, len) else {
                self.is_backlogged = true;
                return;
            };
            room.copy_from_slice(&self.bytes[place * max_datagram..][..len]);
            self.inner.commit(len);
            self.held.remove(index);
            self.free_places.push(place);
        }
    }
}

impl<D: Driver, C: FnMut() -> Instant + Send> Driver for FaultDriver<D, C> {
    fn local_address(&self) -> SocketAddr {
        self.inner.local_address()
    }

    fn max_datagram(&self) -> usize {
        self.inner.max_datagram()
    }

    fn receive(&mut self, each: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        self.inner.receive(each)
    }

    fn lend(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if self.is_harmless {
            return self.inner.lend(to, len);
        }
        assert!(len <= self.inner.max_datagram(), "a datagram of {len} bytes does not fit");
        if self.is_backlogged || self.free_places.len() < PLACES_PER_DATAGRAM {
            return None;
        }
        self.lent = Some((to, len));
        Some(&mut self.scratch()[..len])
    }

    fn commit(&mut self, len: usize) {
        if self.is_harmless {
            return self.inner.commit(len);
        }
        let (to, lent_len) = self.lent.take().expect("a datagram is lent before it is committed");
        assert!(len <= lent_len, "{len} bytes committed of {lent_len} lent");
        self.committed += 1;
        if self.happens(self.config.lose_per_mille) {
            self.counters.lost += 1;
            return;
        }
        if len > 0 && self.happens(self.config.corrupt_per_mille) {
            self.corrupt(len);
        }
        match self.draw_release() {
            None => self.send_now(to, len),
            Some(release) => self.hold(to, len, release),
        }
        if self.happens(self.config.repeat_per_mille) {
            self.counters.repeated += 1;
            self.send_now(to, len);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.held.is_empty() {
            let now = (self.clock)();
            self.release_due(now);
        }
        self.inner.flush()
    }

    fn is_transmit_pending(&self) -> bool {
        !self.held.is_empty() || self.inner.is_transmit_pending()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn counters(&self) -> DriverCounters {
        self.inner.counters()
    }
}

impl<D: fmt::Debug, C> fmt::Debug for FaultDriver<D, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultDriver")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
