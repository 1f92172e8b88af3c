//! Two engines in one thread over a network in memory, and the time.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use super::fake::{FakeApp, Told};
use machnet_client::shm::Geometry;
use machnet_engine::counters::Counter;
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryNetwork};
use machnet_engine::mailbox::{Command, Notice, Receiver, Sender, mailbox};
use machnet_engine::neighbours::join;
use machnet_engine::proto::Config;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::worker::{Settings, Worker};
use std::net::SocketAddr;

pub const UDP_PORT: u16 = 31_580;

pub struct Engine<D> {
    pub worker: Worker<D>,
    pub commands: Sender<Command>,
    pub notices: Receiver<Notice>,
}

/// Two engines, and the time.
pub struct World<D = MemoryDriver> {
    pub engines: Vec<Engine<D>>,
    pub now: Instant,
}

pub fn ip(index: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + index], UDP_PORT))
}

pub fn at(index: u8, port: u16) -> SocketAddr {
    SocketAddr::new(ip(index).ip(), port)
}

impl World {
    pub fn new() -> Self {
        Self::over(MemoryNetwork::open(&[ip(0), ip(1)], DEFAULT_MAX_DATAGRAM))
    }
}

impl<D: Driver> World<D> {
    /// Hosts of one engine with these network paths, whose addresses are [`ip`] of 0 and 1.
    pub fn over(drivers: Vec<D>) -> Self {
        Self::of_hosts(drivers.into_iter().map(|driver| vec![driver]).collect())
    }

    /// Hosts with as many engines as they have network paths; the engines are numbered through.
    pub fn of_hosts(hosts: Vec<Vec<D>>) -> Self {
        let engines = hosts.into_iter().enumerate().flat_map(|(host, drivers)| engines(host as u64, drivers));
        Self { engines: engines.collect(), now: Instant::from_nanos(1_000_000) }
    }

    pub fn attach(&self, engine: usize, channel: u64, geometry: Geometry) -> FakeApp {
        let (app, tenant) = FakeApp::new(channel, geometry);
        self.engines[engine].commands.send(Command::Attach(tenant));
        app
    }

    pub fn listen(&self, engine: usize, channel: u64, port: u16, backlog: u32) {
        let listener = u32::from(port);
        self.engines[engine].commands.send(Command::Listen { channel, port, listener, backlog });
    }

    /// Lets both engines work for so many microseconds, one cycle each per microsecond.
    pub fn run(&mut self, micros: u64) {
        self.run_slowly(micros, Duration::from_micros(1));
    }

    /// Lets both engines work for so many cycles, so far apart.
    pub fn run_slowly(&mut self, cycles: u64, apart: Duration) {
        for _ in 0..cycles {
            self.now += apart;
            for engine in &mut self.engines {
                engine.worker.duty_cycle(self.now);
            }
        }
    }

    pub fn count(&self, engine: usize, counter: Counter) -> u64 {
        self.engines[engine].worker.host().counters.value(counter)
    }

    /// Channels that ended, as the controller is told.
    pub fn ended(&self, engine: usize) -> Vec<u64> {
        let notices = std::iter::from_fn(|| self.engines[engine].notices.try_receive());
        notices
            .filter_map(
                |notice| if let Notice::Ended { channel, .. } = notice { Some(channel) } else { None },
            )
            .collect()
    }

    /// The last that an application is told of its only flow's credit, `known` if it is told nothing new. The ring may have
    /// been full: then the engine says the rest when it sees that there is room.
    pub fn credit(&mut self, app: &mut FakeApp, known: u32) -> u32 {
        let mut last = known;
        for _ in 0..10 {
            last = app.credits().last().map_or(last, |&(_, acknowledged)| acknowledged);
            self.run(100);
        }
        last
    }

    /// Connects `client` to the listener of `port` at engine `to`, whose application is `server`.
    pub fn connect(&mut self, client: &mut FakeApp, to: u8, port: u16, server: &mut FakeApp) -> (u32, u32) {
        client.connect(1, at(to, port));
        self.run(200);
        let Some(Told::Connected { flow, request: 1, .. }) = client.next() else { panic!("not connected") };
        // Over the network the server learns of the flow with its first message.
        client.send(flow, b"first");
        self.run(200);
        let Some(Told::Accepted { flow: accepted, .. }) = server.next() else { panic!("not accepted") };
        assert_eq!(server.next(), Some(Told::Message { flow: accepted, bytes: b"first".to_vec() }));
        server.accept(accepted);
        server.give_back(accepted, 1);
        self.run(200);
        client.credits();
        (flow, accepted)
    }
}

/// The engines of one host.
fn engines<D: Driver>(host: u64, drivers: Vec<D>) -> Vec<Engine<D>> {
    let count = drivers.len();
    let largest = drivers.iter().map(Driver::max_datagram).max().expect("a host has an engine");
    let engine = |(id, driver): (u8, D)| {
        let (commands, commands_in) = mailbox().expect("works");
        let (notices_out, notices) = mailbox().expect("works");
        let core = Config {
            engine: id,
            engines: u8::try_from(count).expect("works"),
            max_datagram: u32::try_from(driver.max_datagram()).expect("works"),
            cookie_secret: (count > 1).then_some([host, 9]),
            ..Config::default()
        };
        let settings = Settings {
            id: u32::from(id),
            core,
            seed: [7, host | u64::from(id) << 8],
            udp_port: UDP_PORT,
            connect_timeout: Duration::from_millis(500),
            linger: Duration::from_millis(100),
            idle: "auto",
        };
        let worker = Worker::new(settings, driver, commands_in, notices_out).expect("works");
        Engine { worker, commands, notices }
    };
    let mut engines: Vec<_> = (0..).zip(drivers).map(engine).collect();
    if count > 1 {
        for (engine, neighbours) in engines.iter_mut().zip(join(count, largest).expect("works")) {
            engine.worker.join(neighbours).expect("works");
        }
    }
    engines
}
