//! Two sidecars of several engines each over a software LCD NIC, in one thread and in virtual time: every engine has a clock
//! of its own that goes on by what its cycles cost, and the one that is furthest behind has its turn. Applications cost
//! nothing; they act when their engine has had a turn, as if each had a processor of its own.

use crate::flood::Strangers;
use crate::rig::{self, scratch_directory};
use machnet_client::{AttachOptions, Channel, FlowId};
use machnet_engine::clock::Clock;
use machnet_engine::config::Config;
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryHost, MemoryNetwork};
use machnet_engine::proto::PortRange;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::sidecar::Sidecar;
use machnet_engine::worker::Worker;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const FIRST_PORT: u16 = 31_580;
const LAST_PORT: u16 = 31_643;
/// Where the first server listens.
const PORT: u16 = 1_000;

/// Bytes of all messages.
pub const BYTES: usize = crate::MESSAGE_BYTES;

/// What engines spend.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A duty cycle that finds nothing.
    pub cycle_ns: u64,
    /// Each datagram, sent or received, with its share of everything else.
    pub datagram_ns: u64,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    /// Which sidecar's: 0 or 1.
    pub host: usize,
    /// Its number there.
    pub number: usize,
    /// Itself.
    pub worker: Worker<MemoryDriver>,
    /// Its clock.
    pub now: Instant,
    moved: u64,
}

/// Requests on some flows: up to `window` of them at a time on each.
#[derive(Debug)]
pub struct Client {
    /// The sidecar and the engine of its channel.
    pub at: (usize, usize),
    channel: Channel,
    /// The flows, each with the requests under way.
    flows: Vec<(FlowId, usize)>,
    window: usize,
    /// Requests go one by one, flow after flow, by this timetable; without one, as soon as the window allows.
    pub pace: Option<Pace>,
    /// Answers that came.
    pub done: u64,
    /// With a window of one: when the request went.
    sent: Instant,
    /// With a window of one: how long each took, in nanoseconds.
    pub times_ns: Vec<u64>,
}

/// When the requests of a client go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two requests.
    pub interval: Duration,
    /// When the next one is due.
    pub next: Instant,
    /// The flow that it goes on.
    pub flow: usize,
}

/// Strangers whose SYNs come to the second sidecar.
#[derive(Debug)]
struct Flood {
    strangers: Strangers,
    driver: MemoryDriver,
    /// Mean time between two SYNs; none: nobody asks.
    mean: Option<Duration>,
    next: Instant,
}

/// Sends back what comes.
#[derive(Debug)]
pub struct Server {
    /// The sidecar and the engine of its channel.
    pub at: (usize, usize),
    channel: Channel,
    flows: Vec<FlowId>,
}

/// Both sidecars with their engines and applications.
#[derive(Debug)]
pub struct Fabric {
    /// Every engine of both.
    pub engines: Vec<Engine>,
    /// The applications that ask.
    pub clients: Vec<Client>,
    /// The applications that answer.
    pub servers: Vec<Server>,
    flood: Flood,
    sidecars: Vec<Sidecar>,
    directories: Vec<PathBuf>,
}

/// The host of the strangers, of which no engine is run.
const STRANGERS: usize = 2;

fn ip(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, [1, 2, 3][host]])
}

impl Fabric {
    /// Two sidecars with so many engines each.
    pub fn new(engines: usize) -> Self {
        let ports = PortRange::new(FIRST_PORT, LAST_PORT).expect("a range");
        let host = |host, queues| MemoryHost { ip: ip(host), ports, queues };
        let hosts = [host(0, engines), host(1, engines), host(STRANGERS, 1)];
        let mut networks = MemoryNetwork::open_hosts(&hosts, DEFAULT_MAX_DATAGRAM, [11, 12]);
        let driver = networks.pop().and_then(|mut drivers| drivers.pop()).expect("one for each host's queue");
        let mut fabric = Self {
            flood: Flood { strangers: Strangers::new(1, PORT, 1), driver, mean: None, next: Instant::ZERO },
            engines: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            sidecars: Vec::new(),
            directories: Vec::new(),
        };
        for (host, drivers) in networks.into_iter().enumerate() {
            let directory = scratch_directory().expect("the directory for temporary files is writable");
            let config = Config { max_channels: 64, ..rig::config(&directory) };
            let (sidecar, workers) = Sidecar::start_stepped(&config, drivers).expect("a sidecar starts");
            let now = Instant::from_nanos(1);
            let engines = workers.into_iter().enumerate();
            let engines = engines.map(|(number, worker)| Engine { host, number, worker, now, moved: 0 });
            fabric.engines.extend(engines);
            fabric.sidecars.push(sidecar);
            fabric.directories.push(directory);
        }
        fabric
    }

    /// An application on engine `engine` of the first sidecar with so many flows to one on the same engine of the second.
    pub fn connect(&mut self, engine: usize, flows: usize, window: usize) {
        let number = u32::try_from(engine).expect("engines are few");
        let options = |sidecar: &Sidecar| AttachOptions::new().socket(sidecar.socket()).engine(number);
        let (left, right) = (options(&self.sidecars[0]), options(&self.sidecars[1]));
        let at = SocketAddr::new(ip(1), PORT + u16::try_from(self.clients.len()).expect("few"));
        let (client, server) = self.while_running(|| {
            let mut client = left.attach_channel().expect("attaches");
            let mut server = right.attach_channel().expect("attaches");
            let pairs: Vec<_> = (0..flows)
                .map(|flow| {
                    let port = at.port() + 1_000 * u16::try_from(flow).expect("few");
                    rig::connect(&mut client, &mut server, SocketAddr::new(at.ip(), port))
                })
                .collect();
            (
                (client, pairs.iter().map(|pair| (pair.0, 0)).collect()),
                (server, pairs.iter().map(|p| p.1).collect()),
            )
        });
        let times_ns = Vec::new();
        let (channel, flows) = client;
        let client = Client {
            at: (0, engine),
            channel,
            flows,
            window,
            pace: None,
            done: 0,
            sent: Instant::ZERO,
            times_ns,
        };
        self.clients.push(client);
        let (channel, flows) = server;
        self.servers.push(Server { at: (1, engine), channel, flows });
    }

    /// Runs `setup`, which may wait, while another thread runs all engines in real time. Virtual time goes on from there.
    fn while_running<T>(&mut self, setup: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        let from = self.engines.iter().map(|engine| engine.now).max().unwrap_or(Instant::ZERO);
        let (clock, engines) = (Clock::start(), &mut self.engines);
        let time = |clock: &Clock| from + Duration::from_nanos(clock.now().as_nanos());
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let work: usize = engines.iter_mut().map(|e| e.worker.duty_cycle(time(&clock))).sum();
                    if work == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let outcome = setup();
            done.store(true, Ordering::Relaxed);
            outcome
        });
        let now = time(&clock);
        self.engines.iter_mut().for_each(|engine| engine.now = now);
        outcome
    }

    /// One turn of the engine that is furthest behind, and of its applications. Answers its clock. `cycle` is what runs the
    /// engine, so that it can be counted.
    pub fn step(
        &mut self,
        costs: Costs,
        cycle: impl FnOnce(&mut Worker<MemoryDriver>, Instant) -> usize,
    ) -> Instant {
        let behind = self.engines.iter_mut().min_by_key(|engine| engine.now).expect("there are engines");
        self.flood.until(behind.now);
        cycle(&mut behind.worker, behind.now);
        let counted = behind.worker.driver().counters();
        let moved = counted.datagrams_received + counted.datagrams_sent;
        let spent = costs.cycle_ns + costs.datagram_ns * (moved - behind.moved);
        behind.moved = moved;
        behind.now += Duration::from_nanos(spent);
        let (at, now) = ((behind.host, behind.number), behind.now);
        for client in self.clients.iter_mut().filter(|client| client.at == at) {
            client.act(now);
        }
        for server in self.servers.iter_mut().filter(|server| server.at == at) {
            server.act();
        }
        now
    }

    /// Steps for so long in virtual time. Answers how many answers came.
    pub fn run(&mut self, costs: Costs, span: Duration) -> u64 {
        let done = |fabric: &Self| fabric.clients.iter().map(|client| client.done).sum::<u64>();
        let (before, mut now) = (done(self), self.now());
        let end = now + span;
        while now < end {
            self.step(costs, |worker, now| worker.duty_cycle(now));
            now = self.now();
        }
        done(self) - before
    }

    /// From now on strangers send a SYN to the second sidecar every so often on average, or no more of them.
    pub fn flood(&mut self, mean: Option<Duration>) {
        (self.flood.mean, self.flood.next) = (mean, self.now());
    }

    /// SYNs of strangers that reached a queue, and those that found it full.
    pub fn syns(&self) -> (u64, u64) {
        let counters = self.flood.driver.counters();
        (counters.datagrams_sent, counters.dropped_queue_full)
    }

    /// Datagrams that the engines of the second sidecar took from the network.
    pub fn received(&self) -> u64 {
        let second = self.engines.iter().filter(|engine| engine.host == 1);
        second.map(|engine| engine.worker.driver().counters().datagrams_received).sum()
    }

    /// Datagrams that those moved, in and out.
    pub fn moved(&self) -> u64 {
        self.engines.iter().filter(|engine| engine.host == 1).map(|engine| engine.moved).sum()
    }

    /// The time that every engine has reached.
    pub fn now(&self) -> Instant {
        self.engines.iter().map(|engine| engine.now).min().unwrap_or(Instant::ZERO)
    }

    /// Datagrams that landed at an engine whose they are not.
    pub fn handed_over(&self) -> u64 {
        self.engines.iter().map(|engine| engine.worker.handed_over()).sum()
    }
}

impl Flood {
    /// Sends what is due.
    fn until(&mut self, now: Instant) {
        let Some(mean) = self.mean else { return };
        while self.next <= now {
            let from_port = self.strangers.port();
            let to = SocketAddr::new(ip(1), FIRST_PORT);
            let syn = self.strangers.syn();
            let room = self.driver.lend(from_port, to, syn.len()).expect("everything is flushed");
            room.copy_from_slice(syn);
            self.driver.commit(syn.len());
            self.driver.flush().expect("memory does not fail");
            self.next += Duration::from_nanos(self.strangers.below(2 * mean.as_nanos()));
        }
    }
}

impl Client {
    fn act(&mut self, now: Instant) {
        let mut buffer = [0; BYTES];
        for (flow, outstanding) in &mut self.flows {
            while let Ok(Some(_)) = self.channel.try_recv_into(*flow, &mut buffer) {
                *outstanding -= 1;
                self.done += 1;
                if self.window == 1 {
                    self.times_ns.push(now.since(self.sent).as_nanos());
                }
            }
            while self.pace.is_none()
                && *outstanding < self.window
                && self.channel.try_send(*flow, &[7; BYTES]).is_ok()
            {
                *outstanding += 1;
                self.sent = now;
            }
        }
        while let Some(pace) = self.pace.as_mut().filter(|pace| pace.next <= now) {
            let (flow, outstanding) = &mut self.flows[pace.flow];
            if *outstanding == self.window || self.channel.try_send(*flow, &[7; BYTES]).is_err() {
                break; // It goes later.
            }
            *outstanding += 1;
            // A request that had to wait waits from when it was due.
            self.sent = pace.next;
            pace.next += pace.interval;
            pace.flow = (pace.flow + 1) % self.flows.len();
        }
    }
}

impl Server {
    fn act(&mut self) {
        let mut buffer = [0; BYTES];
        for flow in &self.flows {
            while let Ok(Some(length)) = self.channel.try_recv_into(*flow, &mut buffer) {
                self.channel.try_send(*flow, &buffer[..length]).expect("as many as requests");
            }
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for directory in &self.directories {
            let _: std::io::Result<()> = std::fs::remove_dir_all(directory);
        }
    }
}
