//! A bad network around a good one: loses, repeats, delays, reorders and corrupts what is sent, by a seed.
//!
//! Only sending is disturbed; to disturb both directions, wrap both ends. Same seed, same datagrams, same times: same faults.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::{Arrival, Driver, DriverCounters, PathState};
use crate::proto::PortRange;
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
    /// Datagrams of which one bit is flipped. The driver below computes its checksums afterwards, so the receiver's core
    /// meets the flipped bit: this is corruption that UDP's own checksum missed.
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
    from_port: u16,
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
    lent: Option<(u16, SocketAddr, usize)>,
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
    fn send_now(&mut self, from_port: u16, to: SocketAddr, len: usize) {
        let start = self.bytes.len() - self.inner.max_datagram();
        let room = if self.is_backlogged { None } else { self.inner.lend(from_port, to, len) };
        match room {
            Some(room) => {
                room.copy_from_slice(&self.bytes[start..start + len]);
                self.inner.commit(len);
            }
            None => {
                self.is_backlogged = true;
                self.hold(from_port, to, len, Release { at: Instant::ZERO, after_datagrams: 0 });
            }
        }
    }

    fn hold(&mut self, from_port: u16, to: SocketAddr, len: usize, release: Release) {
        let place = self.free_places.pop().expect("lend made sure of free places");
        let max_datagram = self.inner.max_datagram();
        let start = self.bytes.len() - max_datagram;
        self.bytes.copy_within(start..start + len, place * max_datagram);
        self.held.push(Held { from_port, to, len, place, release });
    }

    /// Gives what is due to the inner driver, oldest first, until that has no room.
    fn release_due(&mut self, now: Instant) {
        self.is_backlogged = false;
        let max_datagram = self.inner.max_datagram();
        let mut index = 0;
        while index < self.held.len() {
            let Held { from_port, to, len, place, release } = self.held[index];
            if release.at > now && release.after_datagrams > self.committed {
                index += 1;
                continue;
            }
            let Some(room) = self.inner.lend(from_port, to, len) else {
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

    fn ports(&self) -> PortRange {
        self.inner.ports()
    }

    fn receive_ports(&self) -> PortRange {
        self.inner.receive_ports()
    }

    fn begin_cycle(&mut self, now: Instant) {
        self.inner.begin_cycle(now);
    }

    fn receive(&mut self, each: impl FnMut(&Arrival<'_>)) -> io::Result<usize> {
        self.inner.receive(each)
    }

    fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if self.is_harmless {
            return self.inner.lend(from_port, to, len);
        }
        assert!(len <= self.inner.max_datagram(), "a datagram of {len} bytes does not fit");
        if self.is_backlogged || self.free_places.len() < PLACES_PER_DATAGRAM {
            return None;
        }
        self.lent = Some((from_port, to, len));
        Some(&mut self.scratch()[..len])
    }

    fn commit(&mut self, len: usize) {
        if self.is_harmless {
            return self.inner.commit(len);
        }
        let (from_port, to, lent_len) = self.lent.take().expect("a datagram is lent before it is committed");
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
            None => self.send_now(from_port, to, len),
            Some(release) => self.hold(from_port, to, len, release),
        }
        if self.happens(self.config.repeat_per_mille) {
            self.counters.repeated += 1;
            self.send_now(from_port, to, len);
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

    fn receives_by_call(&self) -> bool {
        self.inner.receives_by_call()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.inner.prepare_sleep()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn state(&self) -> PathState {
        self.inner.state()
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        self.inner.statistics(each);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::memory::{MemoryDriver, MemoryNetwork};
    use super::*;

    /// A fault driver that talks to itself, and the time that it sees.
    struct Bench<C> {
        driver: FaultDriver<MemoryDriver, C>,
        now_ns: Arc<AtomicU64>,
        next: u32,
    }

    fn bench(config: FaultConfig) -> Bench<impl FnMut() -> Instant + Send> {
        let inner = MemoryNetwork::loop_back("10.0.0.1:1".parse().unwrap(), 64);
        let now_ns = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&now_ns);
        let clock = move || Instant::from_nanos(seen.load(Ordering::Relaxed));
        Bench { driver: FaultDriver::new(inner, config, clock), now_ns, next: 0 }
    }

    impl<C: FnMut() -> Instant + Send> Bench<C> {
        /// Sends the next numbers, one flush for each, and returns what came back.
        fn exchange(&mut self, count: u32) -> Vec<u32> {
            let mut received = Vec::new();
            for _ in 0..count {
                let to = self.driver.local_address();
                if let Some(room) = self.driver.lend(1, to, 64) {
                    room.fill(0);
                    room[..4].copy_from_slice(&self.next.to_le_bytes());
                    self.driver.commit(64);
                }
                self.next += 1;
                received.extend(self.flush());
            }
            received
        }

        fn flush(&mut self) -> Vec<u32> {
            let mut received = Vec::new();
            self.driver.flush().unwrap();
            let each = |arrival: &Arrival<'_>| {
                received.push(u32::from_le_bytes(arrival.bytes[..4].try_into().unwrap()));
            };
            self.driver.receive(each).unwrap();
            received
        }
    }

    fn seeded(seed: u64) -> FaultConfig {
        FaultConfig { seed: [seed, 0], ..FaultConfig::default() }
    }

    #[test]
    fn one_seed_always_gives_the_same_faults_and_another_gives_others() {
        let run = |seed| {
            let rates = FaultConfig {
                lose_per_mille: 100,
                repeat_per_mille: 100,
                corrupt_per_mille: 100,
                delay_per_mille: 100,
                delay_most: Duration::from_micros(5),
                reorder_per_mille: 100,
                ..seeded(seed)
            };
            let mut bench = bench(rates);
            let mut received = Vec::new();
            for step in 0..2_000 {
                bench.now_ns.store(step * 1_000, Ordering::Relaxed);
                received.extend(bench.exchange(1));
            }
            (received, bench.driver.fault_counters())
        };
        let (received, counters) = run(1);
        assert_eq!((received.clone(), counters), run(1));
        assert_ne!(received, run(2).0);
        for count in
            [counters.lost, counters.repeated, counters.corrupted, counters.delayed, counters.reordered]
        {
            assert!((100..300).contains(&count), "{counters:?}");
        }
    }

    #[test]
    fn what_is_lost_is_missing_and_what_is_repeated_comes_twice() {
        let mut lossy = bench(FaultConfig { lose_per_mille: 1_000, ..seeded(1) });
        assert!(lossy.exchange(50).is_empty());
        assert_eq!(lossy.driver.fault_counters().lost, 50);
        let mut repeating = bench(FaultConfig { repeat_per_mille: 1_000, ..seeded(1) });
        assert_eq!(repeating.exchange(3), [0, 0, 1, 1, 2, 2]);
        assert_eq!(repeating.driver.counters().datagrams_sent, 6);
    }

    #[test]
    fn a_corrupted_datagram_differs_in_one_bit() {
        let mut bench = bench(FaultConfig { corrupt_per_mille: 1_000, ..seeded(3) });
        let to = bench.driver.local_address();
        for _ in 0..100 {
            bench.driver.lend(1, to, 64).unwrap().fill(0);
            bench.driver.commit(64);
            bench.driver.flush().unwrap();
            let mut flipped = 0;
            bench
                .driver
                .receive(|arrival| flipped = arrival.bytes.iter().map(|byte| byte.count_ones()).sum())
                .unwrap();
            assert_eq!(flipped, 1);
        }
    }

    #[test]
    fn a_delayed_datagram_leaves_when_its_time_has_come_and_not_before() {
        let mut bench = bench(FaultConfig {
            delay_per_mille: 1_000,
            delay_least: Duration::from_nanos(100),
            delay_most: Duration::from_nanos(100),
            ..seeded(1)
        });
        assert!(bench.exchange(3).is_empty());
        bench.now_ns.store(99, Ordering::Relaxed);
        assert!(bench.flush().is_empty());
        assert!(bench.driver.is_transmit_pending());
        bench.now_ns.store(100, Ordering::Relaxed);
        assert_eq!(bench.flush(), [0, 1, 2]);
        assert!(!bench.driver.is_transmit_pending());
    }

    #[test]
    fn reordered_datagrams_are_overtaken_by_at_most_the_distance_and_none_is_lost() {
        let mut bench = bench(FaultConfig { reorder_per_mille: 300, reorder_distance: 4, ..seeded(5) });
        let mut received = bench.exchange(1_000);
        bench.now_ns.store(1_000_000, Ordering::Relaxed);
        received.extend(bench.flush());
        let mut sorted = received.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1_000));
        for (place, number) in received.iter().enumerate() {
            let overtakers = received[..place].iter().filter(|other| *other > number).count();
            assert!(overtakers <= 4, "{number} was overtaken by {overtakers}");
        }
        assert!(!received.is_sorted());
    }

    #[test]
    fn when_all_places_are_taken_lend_says_no_until_some_are_free() {
        let mut bench = bench(FaultConfig {
            delay_per_mille: 1_000,
            delay_least: Duration::from_nanos(10),
            delay_most: Duration::from_nanos(10),
            ..seeded(1)
        });
        assert!(bench.exchange(2 * u32::try_from(HELD_DATAGRAMS).unwrap()).is_empty());
        let to = bench.driver.local_address();
        assert!(bench.driver.lend(1, to, 64).is_none());
        bench.now_ns.store(10, Ordering::Relaxed);
        let mut received = bench.flush();
        assert!(bench.driver.lend(1, to, 64).is_some());
        bench.driver.commit(64);
        for _ in 0..10 {
            received.extend(bench.flush());
        }
        assert!(received[..HELD_DATAGRAMS - 1].is_sorted());
    }
}
