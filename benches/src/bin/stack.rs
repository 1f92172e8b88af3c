//! What the stack itself costs, without a kernel or a network card: one engine on one processor, and on the other one
//! application thread that is client and server at once.
//!
//! Datagrams leave the engine's queue and come back into it through the `memory` driver. A request crosses to the engine, goes
//! through the protocol, crosses to the application; its response the same way back: four crossings, so four floors is the
//! least that can be.

use machnet_benches::own_peer::{MESSAGE, OwnPeer};
use machnet_benches::rig::{self, Rig};
use machnet_benches::roles::{Role, role};
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::{callgrind, cpu, figure, floor};
use machnet_client::{AttachOptions, Channel, FlowId};
use machnet_engine::driver::memory::MemoryDriver;
use machnet_engine::proto::time::Duration as Span;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const START: &str = "start";
const COUNTED: &str = "counted";
/// Processes over which each figure is taken.
const STARTS: usize = 7;
/// The floor and the latency are measured in turn so many times in a start, because a virtual machine's processors do not
/// stay where they are: when they share a core of the host, the floor is a third of what it is when they do not.
const TURNS: usize = 9;
const FLOOR_ROUNDS: u32 = 40_000;
const WARM_UP: u32 = 20_000;
const ROUNDS: u32 = 40_000;
/// How long each rate is measured.
const RATE_TIME: Duration = Duration::from_millis(300);
/// Messages between two looks at the clock.
const RATE_CHUNK: u64 = 4_096;
/// Requests under way when many are: on how many flows, and on each.
const BATCHES: [(u16, u64); 6] = [(1, 64), (1, 128), (1, 256), (2, 128), (4, 64), (8, 64)];
/// Requests whose instructions are counted, at each window.
const COUNTED_ROUNDS: u64 = 2_000;
const COUNTED_WINDOWS: [u64; 3] = [1, 32, 256];
/// What one turn of the engine takes in the time of the counted process.
const COUNTED_STEP: Span = Span::from_micros(1);

fn main() -> io::Result<()> {
    match role() {
        Some((name, arguments)) if name == floor::ROLE => floor::answer(&arguments),
        Some((name, _)) if name == START => {
            println!("{}", start()?.into_line());
            Ok(())
        }
        Some((name, arguments)) if name == COUNTED => count_here(&arguments),
        Some((name, _)) => Err(io::Error::other(format!("there is no role {name}"))),
        None => compare(),
    }
}

/// What one process measured.
#[derive(Default)]
struct Start {
    over_floor: f64,
    floor_ns: f64,
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
    window1_krps: f64,
    window32_krps: f64,
    batched_krps: [f64; BATCHES.len()],
}

impl Start {
    /// Everything, in the order of the line by which a start tells it.
    fn values(&mut self) -> Vec<&mut f64> {
        let Self { over_floor, floor_ns, p50_ns, p99_ns, p999_ns, window1_krps, window32_krps, batched_krps } =
            self;
        let mut values = vec![over_floor, floor_ns, p50_ns, p99_ns, p999_ns, window1_krps, window32_krps];
        values.extend(batched_krps);
        values
    }

    fn into_line(mut self) -> String {
        self.values().iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ")
    }

    fn from_line(line: &str) -> io::Result<Self> {
        let mut start = Self::default();
        let mut words = line.split_whitespace();
        for value in start.values() {
            let word = words.next().ok_or_else(|| io::Error::other(format!("a start said '{line}'")))?;
            *value = word.parse().map_err(io::Error::other)?;
        }
        Ok(start)
    }
}

fn compare() -> io::Result<()> {
    let starts = (0..STARTS)
        .map(|_| Start::from_line(&Role::start(START, &[], true)?.output()?))
        .collect::<io::Result<Vec<_>>>()?;
    let middle = |of: &dyn Fn(&Start) -> f64| median(&starts.iter().map(of).collect::<Vec<_>>());

    println!(
        "64 B request and response, client and server one thread, engine on the other processor; medians of {STARTS} starts."
    );
    println!();
    let floor_ns = middle(&|start| start.floor_ns);
    println!("ring floor, one way             {floor_ns:8.0} ns");
    for (name, value) in [
        ("p50  ", middle(&|start| start.p50_ns)),
        ("p99  ", middle(&|start| start.p99_ns)),
        ("p99.9", middle(&|start| start.p999_ns)),
    ] {
        println!("round trip {name}                {value:8.0} ns   {:6.2} floors", value / floor_ns);
    }
    let over_floor: Vec<f64> = starts.iter().map(|start| start.over_floor).collect();
    let listed: Vec<String> = over_floor.iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!("p50 over the floor, by start    {}", listed.join("  "));
    println!();
    let (window1, window32) = (middle(&|start| start.window1_krps), middle(&|start| start.window32_krps));
    println!("requests under way              K requests/s of one engine");
    println!("     1                          {window1:8.0}");
    println!("    32                          {window32:8.0}");
    let mut best = 0.0_f64;
    for (index, (flows, window)) in BATCHES.iter().enumerate() {
        let krps = middle(&|start| start.batched_krps[index]);
        best = best.max(krps);
        println!(
            "{:6} on {flows} flow{}                {krps:8.0}",
            window * u64::from(*flows),
            if *flows == 1 { " " } else { "s" }
        );
    }
    println!();
    print_instructions()?;
    println!();
    println!(
        "The original, as measured on a two-processor machine like the one these goals were set on (figures of"
    );
    println!(
        "Microsoft's C++ code, constants, not of this run): p50 4.0 us; 229 K/s at window 1; 600 K/s at window 32."
    );
    println!();
    figure("stack-p50-over-floor", median(&over_floor));
    figure("stack-window32-krps", window32);
    figure("stack-batched-krps", best);
    Ok(())
}

/// One process: the floor, then the latency, then the rates.
fn start() -> io::Result<Start> {
    let mut outcome = Start::default();
    let mut rig = Rig::loop_back();
    let mut own_peer = rig.while_running(|options| OwnPeer::open(options, 7));
    let (mut floors, mut ratios, mut all) = (Vec::new(), Vec::new(), Latencies::default());
    for _ in 0..TURNS {
        let floor_ns = floor::one_way_ns(FLOOR_ROUNDS)?;
        let latencies = beside(&mut rig, |_| own_peer.round_trips(WARM_UP, ROUNDS));
        floors.push(floor_ns);
        ratios.push(latencies.at(0.5) / floor_ns);
        all.add(&latencies);
    }
    (outcome.floor_ns, outcome.over_floor) = (median(&floors), median(&ratios));
    (outcome.p50_ns, outcome.p99_ns, outcome.p999_ns) = (all.at(0.5), all.at(0.99), all.at(0.999));
    (outcome.window1_krps, outcome.window32_krps) = beside(&mut Rig::loop_back(), |options| {
        let mut pairs = Pairs::open(options, 1);
        (pairs.krps(1), pairs.krps(32))
    });
    for (index, &(flows, window)) in BATCHES.iter().enumerate() {
        outcome.batched_krps[index] =
            beside(&mut Rig::loop_back(), |options| Pairs::open(options, flows).krps(window));
    }
    Ok(outcome)
}

/// Runs the application on the processor beside that of its engine.
fn beside<T: Send>(rig: &mut Rig<MemoryDriver>, run: impl FnOnce(AttachOptions) -> T + Send) -> T {
    rig.while_spinning(0, |options| {
        let application = || {
            cpu::pin(&cpu::available(), 1);
            run(options)
        };
        std::thread::scope(|scope| scope.spawn(application).join().expect("the application does not fail"))
    })
}

/// A channel and both ends of each of its flows.
struct Pairs {
    channel: Channel,
    flows: Vec<Pair>,
}

/// A flow's client and server end, and the requests that are under way on it.
struct Pair {
    client: FlowId,
    server: FlowId,
    under_way: u64,
}

impl Pairs {
    fn open(options: AttachOptions, flows: u16) -> Self {
        let mut channel = options.attach_channel().expect("the sidecar is there");
        let at: SocketAddr = rig::ELSEWHERE.parse().expect("an address");
        let flows = (0..flows)
            .map(|number| {
                let (client, server) =
                    rig::connect_to_self(&mut channel, (at.ip(), at.port() + number).into());
                Pair { client, server, under_way: 0 }
            })
            .collect();
        Self { channel, flows }
    }

    /// Thousand requests a second with so many under way on each flow.
    fn krps(&mut self, window: u64) -> f64 {
        self.answered(window, u64::from(WARM_UP), || {});
        let (before, mut rounds) = (cpu::now(), 0);
        while before.elapsed() < RATE_TIME {
            rounds += self.answered(window, RATE_CHUNK, || {});
        }
        to_f64(rounds) / before.elapsed().as_secs_f64() / 1e3
    }

    /// Goes on until `wanted` more requests were answered; `window` stay under way on each flow. Calls `idle` after each
    /// look around.
    fn answered(&mut self, window: u64, wanted: u64, mut idle: impl FnMut()) -> u64 {
        let mut answered = 0;
        while answered < wanted {
            for pair in &mut self.flows {
                answered += pair.turn(&mut self.channel, window);
            }
            idle();
        }
        answered
    }
}

impl Pair {
    /// Sends what the window allows, answers what came, and counts the answers.
    fn turn(&mut self, channel: &mut Channel, window: u64) -> u64 {
        let mut buffer = [0; MESSAGE.len()];
        while self.under_way < window && channel.try_send(self.client, &MESSAGE).is_ok() {
            self.under_way += 1;
        }
        while channel.try_recv_into(self.server, &mut buffer).expect("the flow lives").is_some() {
            // There is credit for it: no more messages are under way than the window has.
            while channel.try_send(self.server, &buffer).is_err() {
                std::hint::spin_loop();
            }
        }
        let mut answered = 0;
        while channel.try_recv_into(self.client, &mut buffer).expect("the flow lives").is_some() {
            answered += 1;
        }
        std::hint::black_box(&buffer);
        self.under_way -= answered;
        answered
    }
}

/// Counts instructions of one request and its response, application and engine together, under valgrind if there is one.
fn print_instructions() -> io::Result<()> {
    if !callgrind::is_installed() {
        println!("Instructions are not counted: valgrind is not installed.");
        return Ok(());
    }
    println!(
        "requests under way              instructions of a request and its response, application and engine"
    );
    for window in COUNTED_WINDOWS {
        let counted = callgrind::count(COUNTED, &[&window.to_string()], "*counted_rounds*")?;
        println!("{window:6}                          {:8.0}", to_f64(counted) / to_f64(COUNTED_ROUNDS));
    }
    println!(
        "Application and engine take turns there, so that nobody counts empty looks; by stage: the bench instructions."
    );
    Ok(())
}

/// The counted process: one thread runs application and engine in turn, in a time of its own.
fn count_here(arguments: &[String]) -> io::Result<()> {
    let [window] = arguments else { return Err(io::Error::other("the role takes a window")) };
    let window: u64 = window.parse().map_err(io::Error::other)?;
    let mut rig = Rig::loop_back();
    let mut pairs = rig.while_running(|options| Pairs::open(options, 1));
    let mut now = rig.now();
    let mut step = || {
        now += COUNTED_STEP;
        rig.worker.duty_cycle(now);
    };
    // Whole windows, so that none is under way when the counting begins.
    pairs.answered(window, COUNTED_ROUNDS.next_multiple_of(window), &mut step);
    counted_rounds(&mut pairs, window, &mut step);
    Ok(())
}

#[inline(never)]
fn counted_rounds(pairs: &mut Pairs, window: u64, step: impl FnMut()) {
    pairs.answered(window, COUNTED_ROUNDS, step);
}
