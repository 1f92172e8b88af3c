//! What idle channels cost: 1,024 processes attached with small channels, all idle but one.
//!
//! The busy one is this process: client and server at once, over the `memory` driver whose datagrams come back. A second
//! sidecar has no channel but one, and the round trips of both are measured in turn, because a virtual machine's processors
//! do not stay where they are. An idle channel leaves the list of those that the engine polls and wakes it by its own
//! doorbell: how long that takes is measured, too.

use machnet_benches::own_peer::OwnPeer;
use machnet_benches::rig::Rig;
use machnet_benches::roles::{Role, role};
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::{cpu, figure, usage};
use machnet_client::shm::Geometry;
use machnet_engine::counters::Counter;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryNetwork};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

const IDLE: &str = "idle";
/// Processes that attach and do nothing.
const IDLE_PROCESSES: usize = 1_023;
/// How often the crowd comes and goes.
const STARTS: usize = 5;
/// In each, so often are both measured in turn.
const TURNS: usize = 20;
const WARM_UP: u32 = 1_000;
const ROUNDS: u32 = 10_000;
/// So long a channel is left alone before it speaks: the engine arms it after a millisecond.
const QUIET: Duration = Duration::from_millis(3);
const WAKES: u32 = 200;
const EMPTY_CYCLES_TIME: Duration = Duration::from_millis(100);
const DEFAULT_ATTACHES: usize = 20;
/// The smallest channel whose messages may be larger than a slot.
const SMALLEST: Geometry = Geometry {
    send_slots: 16,
    receive_slots: 16,
    tx_buffers: 4,
    rx_buffers: 4,
    buffer_bytes: 1024,
    max_flows: 4,
    flow_credit: 8,
};

fn main() -> io::Result<()> {
    match role() {
        Some((name, arguments)) if name == IDLE => stay_idle(&arguments),
        Some((name, _)) => Err(io::Error::other(format!("there is no role {name}"))),
        None => compare(),
    }
}

/// A child: attaches, tells how long that took and what the two regions measure, and does nothing until it is ended.
fn stay_idle(arguments: &[String]) -> io::Result<()> {
    let [socket] = arguments else { return Err(io::Error::other("the role takes a socket")) };
    let options = machnet_client::AttachOptions::new().socket(socket).geometry(Geometry::SMALL);
    let (took, channel) = cpu::timed(|| options.attach_channel());
    let channel = channel.map_err(io::Error::other)?;
    println!("{} {}", took.as_nanos(), mapped_kib()?);
    loop {
        std::thread::park();
        std::hint::black_box(&channel);
    }
}

/// KiB of this process's mappings of channels.
fn mapped_kib() -> io::Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let bytes = maps.lines().filter(|line| line.contains("memfd:machnet-")).filter_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    });
    Ok(bytes.sum::<u64>() / 1024)
}

/// What one coming and going of the crowd showed.
struct Start {
    alone: Latencies,
    crowded: Latencies,
    /// The p50 of the crowded engine over that of the one alone, the middle of all turns.
    over_alone: f64,
    /// Nanoseconds of an engine's cycle in which nothing is found, alone and crowded.
    empty_cycle_ns: (f64, f64),
    attach_ns: Vec<f64>,
    region_kib: f64,
    /// KiB for each channel: shared memory that was touched, and the sidecar's own.
    touched_kib: f64,
    private_kib: f64,
    wakes: Latencies,
    default_attach_ns: Vec<f64>,
}

fn compare() -> io::Result<()> {
    let starts = (0..STARTS).map(|_| start()).collect::<io::Result<Vec<_>>>()?;
    let middle = |of: &dyn Fn(&Start) -> f64| middle(&starts, of);
    println!(
        "64 B round trips of one busy process beside {IDLE_PROCESSES} idle ones, each a process of its own with a small"
    );
    println!("channel; medians of {STARTS} starts.");
    println!();
    println!("                        p50        p99      p99.9   empty cycle of the engine");
    let row = |name: &str, of: &dyn Fn(&Start) -> (&Latencies, f64)| {
        let at = |quantile| middle(&|start| of(start).0.at(quantile));
        let cycle = middle(&|start| of(start).1);
        println!("{name:20}{:7.0} {:10.0} {:10.0} ns {cycle:8.0} ns", at(0.5), at(0.99), at(0.999));
    };
    row("alone", &|start| (&start.alone, start.empty_cycle_ns.0));
    row("beside 1,023 idle", &|start| (&start.crowded, start.empty_cycle_ns.1));
    let ratios: Vec<String> = starts.iter().map(|start| format!("{:.2}", start.over_alone)).collect();
    println!("p50 beside the crowd over p50 alone, by start: {}", ratios.join("  "));
    println!();
    println!(
        "An idle channel that sends (round trip of its first message after {} ms of silence):",
        QUIET.as_millis()
    );
    let wakes = |quantile| middle(&|start| start.wakes.at(quantile)) / 1e3;
    println!("p50 {:.1} us, p90 {:.1} us, p99 {:.1} us", wakes(0.5), wakes(0.9), wakes(0.99));
    println!();
    print_memory(&starts);
    println!();
    let attach = print_attach(&starts);
    println!();
    figure("channels-1024-over-1", middle(&|start| start.over_alone));
    figure("channel-min-kib", middle(&|start| start.region_kib));
    figure("attach-p50-us", attach);
    Ok(())
}

fn middle(starts: &[Start], of: &dyn Fn(&Start) -> f64) -> f64 {
    median(&starts.iter().map(of).collect::<Vec<_>>())
}

fn print_memory(starts: &[Start]) {
    let middle = |of: &dyn Fn(&Start) -> f64| middle(starts, of);
    println!("Memory of a small channel, KiB");
    println!("both regions, as mapped by the process       {:8.0}", middle(&|start| start.region_kib));
    println!("of it touched while idle                     {:8.0}", middle(&|start| start.touched_kib));
    println!("the sidecar's own                            {:8.1}", middle(&|start| start.private_kib));
    let smallest = SMALLEST.application_bytes() + SMALLEST.engine_bytes();
    println!("the smallest that carries 4 KiB messages     {:8.0}", to_f64(smallest as u64) / 1024.0);
}

/// Answers the median in microseconds.
fn print_attach(starts: &[Start]) -> f64 {
    let of = |from: usize, to: usize| {
        let all: Vec<f64> =
            starts.iter().flat_map(|start| start.attach_ns[from..to].iter().copied()).collect();
        median(&all) / 1e3
    };
    println!("Attach, as each process measured it, p50:    {:8.0} us", of(0, IDLE_PROCESSES));
    println!(
        "of the first hundred, of the last            {:8.0} us {:8.0} us",
        of(0, 100),
        of(IDLE_PROCESSES - 100, IDLE_PROCESSES)
    );
    let default: Vec<f64> = starts.iter().flat_map(|start| start.default_attach_ns.iter().copied()).collect();
    println!("with a channel of the default size           {:8.0} us", median(&default) / 1e3);
    println!(
        "The original: up to a second to attach, 32 channels of 10 MB at most, all polled (constants, not of this run)."
    );
    of(0, IDLE_PROCESSES)
}

/// A sidecar that takes many channels, and one channel of it.
fn sidecar() -> (Rig<MemoryDriver>, OwnPeer) {
    let address = machnet_benches::rig::ADDRESS.parse().expect("an address");
    let driver = MemoryNetwork::loop_back(address, DEFAULT_MAX_DATAGRAM);
    let mut rig = Rig::over(driver, |config| config.max_channels = 4_096);
    let own_peer = rig.while_running(|options| OwnPeer::open(options.geometry(Geometry::SMALL), 7));
    (rig, own_peer)
}

fn start() -> io::Result<Start> {
    let (mut rig, mut busy) = sidecar();
    let memory = Memory::now()?;
    let mut crowd = Crowd::default();
    rig.while_spinning(0, |options| crowd.gather(options.socket_path()))?;
    let memory = Memory::now()?.since(&memory);
    let (mut lonely_rig, mut lonely) = sidecar();
    let (mut alone, mut crowded, mut ratios) = (Latencies::default(), Latencies::default(), Vec::new());
    for _ in 0..TURNS {
        let one = beside(&mut lonely_rig, || lonely.round_trips(WARM_UP, ROUNDS));
        let other = beside(&mut rig, || busy.round_trips(WARM_UP, ROUNDS));
        ratios.push(other.at(0.5) / one.at(0.5));
        alone.add(&one);
        crowded.add(&other);
    }
    let empty_cycle_ns = (empty_cycle_ns(&mut lonely_rig), empty_cycle_ns(&mut rig));
    let wakes = {
        // It comes last, because the engine goes on polling the four that came first.
        let mut sleeper = rig.while_running(|options| OwnPeer::open(options.geometry(Geometry::SMALL), 8));
        beside(&mut rig, || wakes(&mut sleeper))
    };
    let default_attach_ns = rig.while_spinning(0, |options| {
        let attach = || {
            let options = options.clone();
            let (took, channel) = cpu::timed(|| options.attach_channel());
            channel.map(|_| took.as_secs_f64() * 1e9).map_err(io::Error::other)
        };
        (0..DEFAULT_ATTACHES).map(|_| attach()).collect::<io::Result<Vec<_>>>()
    })?;
    let Crowd { attach_ns, region_kib, processes } = crowd;
    rig.while_running(|_| drop(processes));
    let each = |kib: f64| kib / to_f64(IDLE_PROCESSES as u64);
    Ok(Start {
        alone,
        crowded,
        over_alone: median(&ratios),
        empty_cycle_ns,
        attach_ns,
        region_kib,
        touched_kib: each(memory.shared_kib),
        private_kib: each(memory.private_kib),
        wakes,
        default_attach_ns,
    })
}

/// Runs the application on the processor beside that of its engine, which spins.
fn beside<T: Send>(rig: &mut Rig<MemoryDriver>, run: impl FnOnce() -> T + Send) -> T {
    let application = || {
        cpu::pin(&cpu::available(), 1);
        run()
    };
    rig.while_spinning(0, |_| {
        std::thread::scope(|scope| scope.spawn(application).join().expect("the application does not fail"))
    })
}

/// What a cycle costs in which nothing is to be done.
fn empty_cycle_ns(rig: &mut Rig<MemoryDriver>) -> f64 {
    let cycles = |rig: &Rig<MemoryDriver>| rig.worker.host().counters.value(Counter::Cycles);
    let before = cycles(rig);
    let (took, ()) = cpu::timed(|| rig.while_spinning(0, |_| std::thread::sleep(EMPTY_CYCLES_TIME)));
    took.as_secs_f64() * 1e9 / to_f64(cycles(rig) - before)
}

fn wakes(sleeper: &mut OwnPeer) -> Latencies {
    let mut latencies = Latencies::default();
    for _ in 0..WAKES {
        std::thread::sleep(QUIET);
        let before = cpu::now();
        sleeper.round_trip();
        latencies.record_since(before);
    }
    latencies
}

/// The idle processes. They end when this is dropped, and also when this process ends in any way: each watches its standard
/// input.
#[derive(Default)]
struct Crowd {
    processes: Vec<Role>,
    attach_ns: Vec<f64>,
    region_kib: f64,
}

impl Crowd {
    fn gather(&mut self, socket: PathBuf) -> io::Result<()> {
        let socket = socket.to_string_lossy();
        while self.processes.len() < IDLE_PROCESSES {
            let number = self.processes.len();
            let failed = |error: io::Error| {
                io::Error::new(error.kind(), format!("only {number} idle processes could attach: {error}"))
            };
            let mut process = Role::start(IDLE, &[&socket], true).map_err(failed)?;
            let line = process.line().map_err(failed)?;
            let mut words = line.split_whitespace().map(str::parse::<f64>);
            let (Some(Ok(attach_ns)), Some(Ok(region_kib))) = (words.next(), words.next()) else {
                return Err(failed(io::Error::other(format!("one said '{line}'"))));
            };
            self.attach_ns.push(attach_ns);
            self.region_kib = region_kib;
            self.processes.push(process);
        }
        Ok(())
    }
}

/// Shared memory of the machine and private memory of this process.
struct Memory {
    shared_kib: f64,
    private_kib: f64,
}

impl Memory {
    fn now() -> io::Result<Self> {
        let (machine, own) =
            (std::fs::read_to_string("/proc/meminfo")?, std::fs::read_to_string("/proc/self/status")?);
        let read = |table: &str, name: &str| {
            usage::field(table, name)
                .map(to_f64)
                .ok_or_else(|| io::Error::other(format!("there is no {name}")))
        };
        Ok(Self { shared_kib: read(&machine, "Shmem:")?, private_kib: read(&own, "RssAnon:")? })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            shared_kib: self.shared_kib - before.shared_kib,
            private_kib: self.private_kib - before.private_kib,
        }
    }
}
