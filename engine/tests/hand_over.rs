//! Real engines behind network cards in memory that only hash: cards that begin to hash differently, and neighbours that are
//! slow to take what is handed over. No message is lost, and everything is counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use common::{PATIENCE, TestSidecar, counter, eventually, pattern, scratch_directory, status};
use machnet_client::{AttachOptions, Channel, Flow, FlowId};
use machnet_engine::clock::Clock;
use machnet_engine::config::Config;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryHost, MemoryNetwork};
use machnet_engine::proto::PortRange;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::sidecar::Sidecar;
use machnet_engine::status::{FlowStatus, Status};
use machnet_engine::worker::Worker;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// UDP ports of every host: enough that every engine can be reached.
const PORTS: (u16, u16) = (31_580, 32_603);

fn ip(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, [1, 2, 3][host]])
}

/// The drivers of two hosts with so many engines, and that of a third one without a sidecar, by which the test makes all
/// cards hash differently.
fn network(engines: [usize; 2], seed: u64) -> (Vec<Vec<MemoryDriver>>, MemoryDriver) {
    let ports = PortRange::new(PORTS.0, PORTS.1).unwrap();
    let host = |host, queues| MemoryHost { ip: ip(host), ports, queues };
    let hosts = [host(0, engines[0]), host(1, engines[1]), host(2, 1)];
    let mut drivers = MemoryNetwork::open_hosts(&hosts, DEFAULT_MAX_DATAGRAM, [seed, 5]);
    let hand = drivers.pop().unwrap().pop().unwrap();
    (drivers, hand)
}

fn echo(one: &Flow, other: &Flow, number: usize) {
    let message = pattern(number, 1 + number * 37 % 4_000);
    one.send_timeout(&message, PATIENCE).unwrap();
    let got = other.recv_timeout(PATIENCE).unwrap();
    assert!(*got == *message, "message {number} arrives intact");
    other.send_timeout(&got, PATIENCE).unwrap();
    drop(got);
    assert!(*one.recv_timeout(PATIENCE).unwrap() == *message, "message {number} comes back intact");
}

#[test]
fn cards_that_hash_differently_while_flows_run_cost_no_message_and_are_healed() {
    const ROUNDS: usize = 300;
    const REHASHES: usize = 5;
    let (mut drivers, hand) = network([2, 2], 1);
    let right = TestSidecar::start_over_all(drivers.pop().unwrap());
    let left = TestSidecar::start_over_all(drivers.pop().unwrap());
    let attach = |sidecar: &TestSidecar, engine| sidecar.options().engine(engine).attach().unwrap();
    let clients = [0, 1].map(|engine| attach(&left, engine));
    let servers = [0, 1].map(|engine| attach(&right, engine));
    let listeners = [0, 1].map(|engine: usize| {
        servers[engine].listen(right.at(100 + u16::try_from(engine).unwrap()), 16).unwrap()
    });
    let mut flows = Vec::new();
    for client in &clients {
        for listener in &listeners {
            let flow = client.connect(right.at(listener.local_addr().port())).unwrap();
            flows.push((flow, listener.accept_timeout(PATIENCE).unwrap()));
        }
    }
    let handed_over = || counter(&left, "handed_over_out") + counter(&right, "handed_over_out");
    let becomes_direct = || {
        eventually("every flow is direct", || {
            let before = handed_over();
            (0..5).for_each(|round| flows.iter().for_each(|(one, other)| echo(one, other, round)));
            handed_over() == before
        });
    };
    becomes_direct();
    let before = handed_over();

    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (one, other) in &flows {
            let done = &done;
            scope.spawn(move || {
                for number in 0..ROUNDS {
                    echo(one, other, number);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for rehash in 1..=REHASHES {
            let reached = rehash * ROUNDS * flows.len() / (REHASHES + 1);
            eventually("the flows go on", || done.load(Ordering::Relaxed) >= reached);
            hand.rehash();
        }
    });
    assert!(handed_over() > before, "what landed at the wrong engine was handed over");
    becomes_direct();
    let all = || {
        let engines = [&left, &right].into_iter().flat_map(|sidecar| status(sidecar).engines);
        engines.flat_map(|engine| engine.channels).flat_map(|channel| channel.flows).collect::<Vec<_>>()
    };
    // The last of them may be acknowledged a little later.
    let is_acknowledged = |flow: &FlowStatus| flow.messages_sent == flow.messages_acknowledged;
    eventually("everything is acknowledged", || all().iter().all(is_acknowledged));
    assert!(all().iter().all(|flow| flow.direct), "{:?}", all());
}

/// Two sidecars whose engines the test runs, one cycle after the other, or not at all.
struct Stepped {
    workers: [Vec<Worker<MemoryDriver>>; 2],
    sidecars: Vec<Sidecar>,
    directories: Vec<PathBuf>,
    now: Instant,
}

impl Stepped {
    fn new(drivers: Vec<Vec<MemoryDriver>>) -> Self {
        let (mut sidecars, mut directories) = (Vec::new(), Vec::new());
        let mut start = |drivers: Vec<MemoryDriver>| {
            let directory = scratch_directory();
            let config =
                Config { socket: directory.join("machnet.sock"), socket_mode: 0o600, ..Config::default() };
            let (sidecar, workers) = Sidecar::start_stepped(&config, drivers).unwrap();
            sidecars.push(sidecar);
            directories.push(directory);
            workers
        };
        let mut drivers = drivers.into_iter();
        let workers = [0, 1].map(|_| start(drivers.next().unwrap()));
        Self { workers, sidecars, directories, now: Instant::from_nanos(1_000_000) }
    }

    fn options(&self, host: usize, engine: u32) -> AttachOptions {
        AttachOptions::new().socket(self.sidecars[host].socket()).engine(engine)
    }

    /// Runs something that waits for the engines, while another thread runs them all.
    fn while_running<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let (done, clock, from) = (AtomicBool::new(false), Clock::start(), self.now);
        let time = || from + Duration::from_nanos(clock.now().as_nanos());
        let workers = &mut self.workers;
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let now = time();
                    let all = workers.iter_mut().flatten();
                    if all.map(|worker| worker.duty_cycle(now)).sum::<usize>() == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let outcome = run();
            done.store(true, Ordering::Relaxed);
            outcome
        });
        self.now = time();
        outcome
    }

    /// One cycle of every engine but those that stand still, named by host and number.
    fn step(&mut self, still: Option<(usize, usize)>) {
        self.now += Duration::from_micros(5);
        for (host, workers) in self.workers.iter_mut().enumerate() {
            for (engine, worker) in workers.iter_mut().enumerate() {
                if still != Some((host, engine)) {
                    worker.duty_cycle(self.now);
                }
            }
        }
    }

    fn handed_over(&self) -> u64 {
        self.workers[1].iter().map(Worker::handed_over).sum()
    }

    fn status(&mut self, host: usize) -> Status {
        let socket = self.sidecars[host].socket().to_owned();
        self.while_running(|| common::status_at(&socket))
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        for directory in &self.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// So many flows from one channel to another, both ends.
fn connect(stepped: &mut Stepped, flows: u16) -> [(Channel, Vec<FlowId>); 2] {
    let (left, right) = (stepped.options(0, 0), stepped.options(1, 1));
    stepped.while_running(|| {
        let (mut client, mut server) = (left.attach_channel().unwrap(), right.attach_channel().unwrap());
        let at = SocketAddr::new(ip(1), 100);
        let (listener, _) = server.listen(at, 0).unwrap();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for _ in 0..flows {
            here.push(client.connect(at, None, Some(PATIENCE)).unwrap());
            there.push(server.accept(listener, Some(PATIENCE)).unwrap());
        }
        [(client, here), (server, there)]
    })
}

#[test]
fn a_neighbour_whose_inbox_is_full_loses_datagrams_and_no_message() {
    const FLOWS: u16 = 24;
    const MESSAGES: usize = 60;
    const LEN: usize = 1_000;
    /// Turns after which a message counts as lost.
    const MOST_TURNS: usize = 1_000_000;
    // The engine that owns all flows stands still, and what reaches the other one is handed over to it.
    let owner = (1, 1);
    let (drivers, hand) = network([1, 2], 3);
    let mut stepped = Stepped::new(drivers);
    let [(mut client, here), (mut server, there)] = connect(&mut stepped, FLOWS);
    let mut buffer = vec![0; LEN];
    let mut counts = vec![[0_usize; 2]; here.len()];
    let mut exchange = |stepped: &mut Stepped, most: usize, still: Option<(usize, usize)>, turns: usize| {
        for _ in 0..turns {
            for (flow, [sent, _]) in here.iter().zip(&mut counts) {
                while *sent < most && client.try_send(*flow, &pattern(*sent, LEN)).is_ok() {
                    *sent += 1;
                }
            }
            stepped.step(still);
            for (flow, [_, received]) in there.iter().zip(&mut counts) {
                while let Some(len) = server.try_recv_into(*flow, &mut buffer).unwrap() {
                    assert!(
                        buffer[..len] == pattern(*received, LEN),
                        "message {received} intact and in order"
                    );
                    *received += 1;
                }
            }
            if counts.iter().all(|[sent, received]| *sent == most && *received == most) {
                return true;
            }
        }
        false
    };
    assert!(exchange(&mut stepped, 2, None, MOST_TURNS), "the flows work");
    // Until the card takes the flows' packets to the other engine.
    let (before, mut most) = (stepped.handed_over(), 2);
    for _ in 0..4 {
        hand.rehash();
        most += MESSAGES;
        exchange(&mut stepped, most, Some(owner), 4_000);
        let is_over = stepped.handed_over() > before;
        assert!(exchange(&mut stepped, most, None, MOST_TURNS), "no message is lost");
        if is_over {
            break;
        }
    }
    let status = stepped.status(1);
    let dropped = status.engines[0].counters["handed_over_dropped"];
    assert!(dropped > 0, "an inbox has its bound, and what exceeds it is counted");
    assert_eq!(status.engines[0].counters["handed_over_out"], status.engines[1].counters["handed_over_in"]);
}
