//! Strangers that ask for connections and never go on: what they send, and sidecars whose network carries nothing else.

use crate::rig::{self, scratch_directory};
use machnet_client::{AttachOptions, Channel};
use machnet_engine::clock::Clock;
use machnet_engine::driver::{Arrival, Driver, DriverCounters, RECEIVE_BURST};
use machnet_engine::proto::rng::Rng;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{MAX_MESSAGE, PortRange};
use machnet_engine::sidecar::Sidecar;
use machnet_engine::status::Status;
use machnet_engine::wire::header::{ConnectionId, Emitter, Syn, WireLimits};
use machnet_engine::worker::Worker;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// UDP ports of a flooded sidecar.
const FIRST_PORT: u16 = 31_580;
const LAST_PORT: u16 = 31_643;
const MAX_DATAGRAM: usize = 1_472;
/// The port at which engine 0's application listens; the one that is `n` higher belongs to engine `n`.
pub const PORT: u16 = 7_000;
/// Strangers ask for so many ports from [`PORT`] on, whether anybody listens there or not.
const ASKED_PORTS: u16 = 8;
/// Between two cycles of the engines.
const CYCLE: Duration = Duration::from_micros(50);

/// Makes SYNs of ever new connections, all well-formed.
#[derive(Debug)]
pub struct Strangers {
    rng: Rng,
    emitter: Emitter,
    first_port: u16,
    port_count: u16,
}

impl Strangers {
    /// Those of a seed. They ask for one of so many ports from the first on.
    pub fn new(seed: u64, first_port: u16, port_count: u16) -> Self {
        Self { rng: Rng::new([seed, 26]), emitter: Emitter::default(), first_port, port_count }
    }

    /// Any number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Somebody else every time.
    pub fn address(&mut self) -> SocketAddr {
        let ip = Ipv4Addr::from_bits(self.rng.next_u32());
        SocketAddr::new(IpAddr::V4(ip), self.port())
    }

    /// A UDP port to send from.
    pub fn port(&mut self) -> u16 {
        u16::try_from(1_024 + self.rng.below(60_000)).unwrap_or(u16::MAX)
    }

    /// The next SYN.
    pub fn syn(&mut self) -> &[u8] {
        let asked = u16::try_from(self.rng.below(self.port_count.into())).unwrap_or(0);
        self.emitter.syn(&Syn {
            client: ConnectionId(self.rng.next_u32()),
            number: self.rng.next_u32(),
            versions: (1, 1),
            port: self.first_port + asked,
            flow_port: 40_000,
            limits: WireLimits { max_message: MAX_MESSAGE, window_messages: 64, window_bytes: 1 << 20 },
            max_datagram: 1_472,
            engines: u8::try_from(1 + self.rng.below(8)).unwrap_or(1),
            stamp: self.rng.next_u64(),
            answer_on: None,
            hears_at: None,
        });
        self.emitter.as_bytes()
    }
}

/// How many SYNs are still to come on each path of a sidecar, and what was sent on them.
#[derive(Debug, Default)]
struct Tally {
    left: AtomicU64,
    answers: AtomicU64,
}

/// A network path on which SYNs come, as fast as they are taken, and on which answers vanish.
#[derive(Debug)]
pub struct FloodDriver {
    strangers: Strangers,
    ports: PortRange,
    tally: Arc<Tally>,
    room: Box<[u8]>,
    counters: DriverCounters,
}

impl Driver for FloodDriver {
    fn local_address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], FIRST_PORT))
    }

    fn max_datagram(&self) -> usize {
        MAX_DATAGRAM
    }

    fn ports(&self) -> PortRange {
        self.ports
    }

    fn receive_ports(&self) -> PortRange {
        self.ports
    }

    fn receive(&mut self, mut each: impl FnMut(&Arrival<'_>)) -> io::Result<usize> {
        let left = self.tally.left.load(Ordering::Relaxed);
        let burst = left.min(RECEIVE_BURST as u64);
        self.tally.left.store(left - burst, Ordering::Relaxed);
        for _ in 0..burst {
            let from = self.strangers.address();
            let to_port = self.ports.first() + u16::try_from(self.strangers.below(64)).unwrap_or(0);
            let bytes = self.strangers.syn();
            each(&Arrival { from, to_port, waited: Duration::ZERO, bytes });
        }
        self.counters.datagrams_received += burst;
        Ok(usize::try_from(burst).unwrap_or(0))
    }

    fn lend(&mut self, _: u16, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.room.get_mut(..len)
    }

    fn commit(&mut self, _: usize) {
        self.counters.datagrams_sent += 1;
        self.tally.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

/// A sidecar of one or several engines, with an application on each that listens, at the mercy of strangers. One thread runs
/// all engines, step by step.
#[derive(Debug)]
pub struct Flooded {
    workers: Vec<Worker<FloodDriver>>,
    tallies: Vec<Arc<Tally>>,
    now: Instant,
    _applications: Vec<Channel>,
    sidecar: Sidecar,
    directory: PathBuf,
}

impl Flooded {
    /// One with so many engines.
    pub fn new(engines: u8) -> Self {
        let ports = PortRange::new(FIRST_PORT, LAST_PORT).expect("a range");
        let tallies: Vec<_> = (0..engines).map(|_| Arc::<Tally>::default()).collect();
        let driver = |(seed, tally): (u64, &Arc<Tally>)| FloodDriver {
            strangers: Strangers::new(seed, PORT, ASKED_PORTS),
            ports,
            tally: Arc::clone(tally),
            room: vec![0; MAX_DATAGRAM].into_boxed_slice(),
            counters: DriverCounters::default(),
        };
        let drivers = (1..).zip(&tallies).map(driver).collect();
        let directory = scratch_directory().expect("the directory for temporary files is writable");
        let (sidecar, workers) =
            Sidecar::start_stepped(&rig::config(&directory), drivers).expect("a sidecar starts");
        let now = Instant::from_nanos(1_000_000_000);
        let mut flooded = Self { workers, tallies, now, _applications: Vec::new(), sidecar, directory };
        flooded._applications = flooded.while_running(|socket| {
            let listens = |engine: u8| {
                let options = AttachOptions::new().socket(socket.clone()).engine(engine.into());
                let mut channel = options.attach_channel().expect("the sidecar runs");
                let at = SocketAddr::from(([0, 0, 0, 0], PORT + u16::from(engine)));
                channel.listen(at, 0).expect("the port is free");
                channel
            };
            (0..engines).map(listens).collect()
        });
        flooded
    }

    /// Runs `ask`, which may wait for the sidecar, while another thread runs the engines.
    fn while_running<T>(&mut self, ask: impl FnOnce(PathBuf) -> T) -> T {
        let (socket, done, clock) =
            (self.sidecar.socket().to_owned(), AtomicBool::new(false), Clock::start());
        let (workers, from) = (&mut self.workers, self.now);
        let time = || from + Duration::from_nanos(clock.now().as_nanos());
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let now = time();
                    let work: usize = workers.iter_mut().map(|worker| worker.duty_cycle(now)).sum();
                    if work == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let outcome = ask(socket);
            done.store(true, Ordering::Relaxed);
            outcome
        });
        self.now = time();
        outcome
    }

    /// So many SYNs on each engine's path. Answers how many answers left.
    pub fn flood(&mut self, syns: u64) -> u64 {
        let answers = || self.tallies.iter().map(|tally| tally.answers.load(Ordering::Relaxed)).sum::<u64>();
        let before = answers();
        self.tallies.iter().for_each(|tally| tally.left.store(syns, Ordering::Relaxed));
        let mut work = 1;
        while work > 0 {
            self.now += CYCLE;
            work = self.workers.iter_mut().map(|worker| worker.duty_cycle(self.now)).sum();
        }
        answers() - before
    }

    /// What the sidecar knows now.
    pub fn status(&mut self) -> io::Result<Status> {
        self.while_running(|socket| rig::status(&socket))
    }
}

impl Drop for Flooded {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}
