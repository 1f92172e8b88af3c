//! Servers that sleep until a message comes: four threads on one processor, after the paper's figure 13.
//!
//! Engine and clients are one thread on the other processor, in turn: the clients send at their times whether answers came or
//! not (open loop, exponential gaps by a fixed seed), over the `memory` driver whose datagrams come back. A latency counts
//! from the time at which a request was due.

use machnet_benches::own_peer::MESSAGE;
use machnet_benches::rig::{self, Rig};
use machnet_benches::roles::{Role, role};
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::usage::{self, Usage};
use machnet_benches::{cpu, figure};
use machnet_client::{AttachOptions, Channel, FlowId, WaitPolicy};
use machnet_engine::driver::memory::MemoryDriver;
use rustix::thread::futex;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const LOAD: &str = "load";
const BUSY: &str = "busy";
const WAKE: &str = "wake";

/// Server threads, each with a channel and a flow.
const SERVERS: usize = 4;
/// Requests a second.
const RATES: [u32; 5] = [70_000, 227_500, 385_000, 542_500, 700_000];
/// How the servers wait.
const POLICIES: [(&str, WaitPolicy); 4] = [
    ("block", WaitPolicy::Block),
    ("auto", WaitPolicy::Auto),
    ("yield", WaitPolicy::Yield),
    ("spin", WaitPolicy::Spin),
];
const STARTS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(50);
const LOAD_TIME: Duration = Duration::from_millis(300);
/// Requests that may be under way on a flow; more wait at the client, and their time counts.
const MOST_UNDER_WAY: usize = 200;

/// What a busy server does for each request, so that the next is there before it looks.
const BUSY_WORK: Duration = Duration::from_micros(2);
const BUSY_MESSAGES: u64 = 50_000;
const BUSY_WINDOW: usize = 32;

const WAKE_STARTS: usize = 5;
const WAKES: u32 = 2_000;
/// Between two wake-ups, so that the sleeper sleeps.
const WAKE_GAP: Duration = Duration::from_micros(100);

fn main() -> io::Result<()> {
    match role() {
        Some((name, arguments)) if name == LOAD => load_role(&arguments),
        Some((name, _)) if name == BUSY => busy_role(),
        Some((name, _)) if name == WAKE => wake_role(),
        Some((name, _)) => Err(io::Error::other(format!("there is no role {name}"))),
        None => compare(),
    }
}

fn compare() -> io::Result<()> {
    let cpu_pct = compare_loads()?;
    println!();
    let system_calls = compare_busy()?;
    println!();
    let over_futex = compare_wakes()?;
    println!();
    figure("blocking-cpu-pct", cpu_pct);
    if let Some(system_calls) = system_calls {
        figure("syscalls-per-message-busy", system_calls);
    }
    figure("wake-over-futex", over_futex);
    Ok(())
}

/// The numbers that a child prints as its one line.
fn numbers(mut child: Role) -> io::Result<Vec<f64>> {
    let line = child.line()?;
    let parsed: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
    parsed.map_err(|error| io::Error::other(format!("a child said '{line}': {error}")))
}

/// The medians of several children, number by number.
fn medians(starts: &[Vec<f64>]) -> Vec<f64> {
    let count = starts.iter().map(Vec::len).min().unwrap_or(0);
    (0..count).map(|at| median(&starts.iter().map(|start| start[at]).collect::<Vec<_>>())).collect()
}

// ---- Load: latency and processor time by rate ----

/// Answers the share of its processor that blocking servers use at the highest rate.
fn compare_loads() -> io::Result<f64> {
    println!(
        "{SERVERS} server threads on one processor, each with a channel; engine and open-loop clients on the other; 64 B;"
    );
    println!(
        "medians of {STARTS} starts. CPU: of the servers' processor. Sleeps: times that a server slept, for each message."
    );
    println!();
    println!("servers  requests/s    answered/s     p50       p99     p99.9        CPU   sleeps");
    let mut cpu_pct = 0.0;
    for rate in RATES {
        for (index, (name, policy)) in POLICIES.iter().enumerate() {
            let starts = (0..STARTS)
                .map(|_| numbers(Role::start(LOAD, &[&index.to_string(), &rate.to_string()], true)?))
                .collect::<io::Result<Vec<_>>>()?;
            let [answered, p50, p99, p999, cpu, sleeps] = medians(&starts)[..] else {
                return Err(io::Error::other("a load says six numbers"));
            };
            println!(
                "{name:6} {rate:12} {answered:13.0} {:7.1} us {:7.1} us {:7.1} us {cpu:6.1} % {sleeps:7.2}",
                p50 / 1e3,
                p99 / 1e3,
                p999 / 1e3
            );
            if *policy == WaitPolicy::Block {
                cpu_pct = cpu;
            }
        }
    }
    println!(
        "The paper's blocking receive (figure 13): below 75 % of the core at 700,000 requests/s; its polling servers' p99 is"
    );
    println!("above 10 ms (constants, not of this run).");
    Ok(cpu_pct)
}

fn load_role(arguments: &[String]) -> io::Result<()> {
    let [policy, rate] = arguments else {
        return Err(io::Error::other("the role takes a policy and a rate"));
    };
    let policy: usize = policy.parse().map_err(io::Error::other)?;
    let rate: u32 = rate.parse().map_err(io::Error::other)?;
    let mut rig = Rig::loop_back();
    let (_, policy) = POLICIES[policy];
    let mut clients =
        rig.while_running(|options| Clients::open(options, SERVERS, Some(policy), Duration::ZERO));
    std::thread::scope(|scope| {
        let threads = clients.start_servers(scope);
        let (clients, rig) = (&mut clients, &mut rig);
        scope
            .spawn(move || {
                cpu::pin(&cpu::available(), 0);
                clients.load(rig, rate, WARM_UP)?;
                let before = usage_of(&threads)?;
                let start = cpu::now();
                let latencies = clients.load(rig, rate, LOAD_TIME)?;
                let took = start.elapsed().as_secs_f64();
                let used = usage_of(&threads)?.since(before);
                let answered = to_f64(latencies.count());
                let cpu = to_f64(used.on_cpu_ns) / (took * 1e9) * 100.0;
                println!(
                    "{} {} {} {} {cpu} {}",
                    answered / took,
                    latencies.at(0.5),
                    latencies.at(0.99),
                    latencies.at(0.999),
                    to_f64(used.sleeps) / answered
                );
                clients.finish(rig);
                Ok(())
            })
            .join()
            .expect("the clients do not fail")
    })
}

fn usage_of(threads: &[i32]) -> io::Result<Usage> {
    threads.iter().try_fold(Usage::default(), |sum, &thread| Ok(sum.plus(Usage::of(thread)?)))
}

/// A server's channel, until its thread takes it.
struct Server {
    channel: Channel,
    flow: FlowId,
    work: Duration,
}

impl Server {
    /// Answers until the client closes its flow.
    fn serve(mut self) {
        let mut messages = 0_u64;
        while let Ok(message) = self.channel.recv(self.flow, None) {
            let begin = cpu::now();
            while !self.work.is_zero() && begin.elapsed() < self.work {
                std::hint::spin_loop();
            }
            messages += 1;
            self.channel.send(self.flow, &message, None).expect("the client takes its answers");
        }
        std::hint::black_box(messages);
    }
}

/// One channel with a flow to each server, and what is under way.
struct Clients {
    channel: Channel,
    flows: Vec<FlowId>,
    /// When the requests under way on each flow were due, oldest first.
    due: Vec<VecDeque<Instant>>,
    servers: Vec<Server>,
    random: u64,
}

impl Clients {
    fn open(options: AttachOptions, servers: usize, policy: Option<WaitPolicy>, work: Duration) -> Self {
        let mut channel = options.clone().attach_channel().expect("the sidecar is there");
        let elsewhere: SocketAddr = rig::ELSEWHERE.parse().expect("an address");
        let (mut flows, mut opened) = (Vec::new(), Vec::new());
        for port in (elsewhere.port()..).take(servers) {
            let options = options.clone().wait_policy(policy.unwrap_or_default());
            let mut server = options.attach_channel().expect("the sidecar is there");
            let (client, flow) = rig::connect(&mut channel, &mut server, (elsewhere.ip(), port).into());
            flows.push(client);
            opened.push(Server { channel: server, flow, work });
        }
        let due = flows.iter().map(|_| VecDeque::with_capacity(MOST_UNDER_WAY)).collect();
        Self { channel, flows, due, servers: opened, random: 0x2545_F491_4F6C_DD1D }
    }

    /// Starts the servers on their processor, and answers the numbers of their threads.
    fn start_servers<'scope>(&mut self, scope: &'scope std::thread::Scope<'scope, '_>) -> Vec<i32> {
        let (told, threads) = mpsc::channel();
        let servers: Vec<Server> = self.servers.drain(..).collect();
        let count = servers.len();
        for server in servers {
            let told = told.clone();
            scope.spawn(move || {
                cpu::pin(&cpu::available(), 1);
                told.send(usage::thread()).expect("the clients wait for it");
                server.serve();
            });
        }
        threads.iter().take(count).collect()
    }

    /// Sends `rate` requests a second for so long, and steps the engine meanwhile; then waits for the answers.
    fn load(&mut self, rig: &mut Rig<MemoryDriver>, rate: u32, span: Duration) -> io::Result<Latencies> {
        let mut latencies = Latencies::default();
        let gap_ns = 1e9 / f64::from(rate);
        let start = cpu::now();
        let (mut next, mut now) = (start, start);
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        let mut place = 0;
        while now.duration_since(start) < span || self.under_way() > 0 {
            rig.step();
            self.take_answers(|due| latencies.record_since(due));
            now = cpu::now();
            if now.duration_since(start) >= span {
                waiting.clear(); // Those that were due and never sent; `answered/s` shows them.
                if now.duration_since(start) > span + rig::PATIENCE {
                    return Err(io::Error::other("servers did not answer"));
                }
                continue;
            }
            while next <= now {
                waiting.push_back(next);
                next += self.exponential(gap_ns);
            }
            while let Some(&due) = waiting.front() {
                let Some(chosen) = self.send_to_next(&mut place) else { break };
                self.due[chosen].push_back(due);
                waiting.pop_front();
            }
        }
        Ok(latencies)
    }

    /// Keeps so many requests under way on each flow until so many were answered.
    fn answered(&mut self, rig: &mut Rig<MemoryDriver>, window: usize, wanted: u64) {
        let mut answered = 0;
        while answered < wanted {
            for place in 0..self.flows.len() {
                while self.due[place].len() < window
                    && self.channel.try_send(self.flows[place], &MESSAGE).is_ok()
                {
                    self.due[place].push_back(cpu::now());
                }
            }
            rig.step();
            self.take_answers(|_| answered += 1);
        }
    }

    fn under_way(&self) -> usize {
        self.due.iter().map(VecDeque::len).sum()
    }

    /// Sends one request to the next server in turn that can take one.
    fn send_to_next(&mut self, place: &mut usize) -> Option<usize> {
        for _ in 0..self.flows.len() {
            let chosen = *place;
            *place = (*place + 1) % self.flows.len();
            let has_room = self.due[chosen].len() < MOST_UNDER_WAY;
            if has_room && self.channel.try_send(self.flows[chosen], &MESSAGE).is_ok() {
                return Some(chosen);
            }
        }
        None
    }

    fn take_answers(&mut self, mut each: impl FnMut(Instant)) {
        let mut buffer = [0; MESSAGE.len()];
        for (flow, due) in self.flows.iter().zip(&mut self.due) {
            while self.channel.try_recv_into(*flow, &mut buffer).expect("the servers live").is_some() {
                each(due.pop_front().expect("an answer has its request"));
            }
        }
    }

    /// A gap with the mean `mean_ns`, exponentially distributed.
    fn exponential(&mut self, mean_ns: f64) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let fraction = (to_f64(self.random >> 11) + 1.0) / to_f64(1 << 53);
        Duration::from_secs_f64(-fraction.ln() * mean_ns / 1e9)
    }

    /// Closes the flows, so that the servers end, while the engine runs.
    fn finish(&mut self, rig: &mut Rig<MemoryDriver>) {
        for flow in &self.flows {
            self.channel.close_flow(*flow).expect("the flow is open");
        }
        let end = cpu::now() + Duration::from_millis(50);
        while cpu::now() < end {
            rig.step();
        }
    }
}

// ---- Busy: system calls per message ----

/// Marks in the trace of system calls between which is counted.
const BEGIN: &str = "the counted part begins";
const END: &str = "the counted part ends";

/// System calls per message of engine and servers that never find nothing to do; nothing without strace.
fn compare_busy() -> io::Result<Option<f64>> {
    println!(
        "Busy servers: {SERVERS} threads on one processor, {} us of work for each request, {BUSY_WINDOW} requests under way on each flow.",
        BUSY_WORK.as_micros()
    );
    let directory = rig::scratch_directory()?;
    let trace = directory.join("trace");
    let child = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe()?)
        .args(["--role", BUSY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            println!("System calls are not counted: strace: {error}");
            return Ok(None);
        }
    };
    let alive = child.stdin.take(); // A role ends when this is closed.
    let output = child.wait_with_output()?;
    drop(alive);
    let text = std::fs::read_to_string(&trace)?;
    let _: io::Result<()> = std::fs::remove_dir_all(&directory);
    let marked = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let Some((marked, _)) = marked.filter(|_| output.status.success()) else {
        println!("System calls are not counted: strace said {}", output.status);
        return Ok(None);
    };
    // The first line is the rest of the mark's, the last one the beginning of the other's.
    let calls: Vec<&str> = marked.lines().skip(1).filter(|line| !line.contains("write(1")).collect();
    let per_message = to_f64(calls.len() as u64) / to_f64(BUSY_MESSAGES);
    println!(
        "{} system calls of all threads for {BUSY_MESSAGES} requests and responses (strace -f)",
        calls.len()
    );
    for line in calls.iter().take(5) {
        println!("    {line}");
    }
    Ok(Some(per_message))
}

fn busy_role() -> io::Result<()> {
    let mut rig = Rig::loop_back();
    let mut clients =
        rig.while_running(|options| Clients::open(options, SERVERS, Some(WaitPolicy::Block), BUSY_WORK));
    std::thread::scope(|scope| {
        clients.start_servers(scope);
        let counted = || {
            cpu::pin(&cpu::available(), 0);
            clients.answered(&mut rig, BUSY_WINDOW, BUSY_MESSAGES / 10);
            println!("{BEGIN}");
            clients.answered(&mut rig, BUSY_WINDOW, BUSY_MESSAGES);
            println!("{END}");
            clients.finish(&mut rig);
        };
        scope.spawn(counted).join().expect("the clients do not fail");
    });
    Ok(())
}

// ---- Wake-ups ----

fn compare_wakes() -> io::Result<f64> {
    println!(
        "Waking a thread that sleeps on the other processor, one way, every {} us; medians of {WAKE_STARTS} starts.",
        WAKE_GAP.as_micros()
    );
    let starts =
        (0..WAKE_STARTS).map(|_| numbers(Role::start(WAKE, &[], true)?)).collect::<io::Result<Vec<_>>>()?;
    println!();
    println!("                                              p50       p99");
    let all = medians(&starts);
    for (name, values) in Hand::ALL.map(Hand::name).into_iter().zip(all.chunks(2)) {
        println!("{name:40} {:6.2} us {:6.2} us", values[0] / 1e3, values[1] / 1e3);
    }
    let ratios =
        |over: usize| median(&starts.iter().map(|start| start[0] / start[2 * over]).collect::<Vec<_>>());
    println!(
        "over futex {:.2}, over eventfd {:.2}, over pipe {:.2}, over pipe and ppoll {:.2}",
        ratios(1),
        ratios(2),
        ratios(3),
        ratios(4)
    );
    Ok(ratios(1))
}

/// Ways to wake a sleeper.
#[derive(Clone, Copy)]
enum Hand {
    Machnet,
    Futex,
    Event,
    Pipe,
    PipePoll,
}

impl Hand {
    const ALL: [Self; 5] = [Self::Machnet, Self::Futex, Self::Event, Self::Pipe, Self::PipePoll];

    fn name(self) -> &'static str {
        match self {
            Self::Machnet => "send to recv, through a polling engine",
            Self::Futex => "futex",
            Self::Event => "eventfd, sleeping in read",
            Self::Pipe => "pipe, sleeping in read",
            Self::PipePoll => "pipe, sleeping in ppoll, then read",
        }
    }
}

/// In turns, so that all meet the machine in the same state: `WAKES` of each.
fn wake_role() -> io::Result<()> {
    const TURNS: u32 = 5;
    let mut all: Vec<Latencies> = Hand::ALL.iter().map(|_| Latencies::default()).collect();
    let mut rig = Rig::loop_back();
    let mut sleeper = MachnetSleeper::open(&mut rig);
    for _ in 0..TURNS {
        for (hand, latencies) in Hand::ALL.iter().zip(&mut all) {
            latencies.add(&match hand {
                Hand::Machnet => sleeper.wakes(&mut rig, WAKES / TURNS),
                Hand::Futex => futex_wakes(WAKES / TURNS)?,
                Hand::Event => {
                    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
                    descriptor_wakes(&event, &event, false, WAKES / TURNS)?
                }
                Hand::Pipe | Hand::PipePoll => {
                    let (read, write) = rustix::pipe::pipe()?;
                    descriptor_wakes(&read, &write, matches!(hand, Hand::PipePoll), WAKES / TURNS)?
                }
            });
        }
    }
    let line: Vec<String> = all
        .iter()
        .flat_map(|latencies| [latencies.at(0.5), latencies.at(0.99)])
        .map(|value| value.to_string())
        .collect();
    println!("{}", line.join(" "));
    Ok(())
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waker {
    Wait,
    Wake,
}

/// Runs a sleeper on the second processor, and asks `waker` on the first to wake it so many times, with a gap before each in
/// which it is asked to wait again and again.
fn hand_over(wakes: u32, mut sleep: impl FnMut() + Send, mut waker: impl FnMut(Waker) + Send) -> Latencies {
    let stamp = Stamp::new();
    let heard = AtomicU32::new(0);
    let sleeper = || {
        cpu::pin(&cpu::available(), 1);
        let mut latencies = Latencies::default();
        for _ in 0..wakes {
            sleep();
            stamp.heard(&mut latencies);
            heard.fetch_add(1, Ordering::Release);
        }
        latencies
    };
    let waker = || {
        cpu::pin(&cpu::available(), 0);
        for number in 0..wakes {
            let begin = cpu::now();
            while begin.elapsed() < WAKE_GAP || heard.load(Ordering::Acquire) < number {
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

fn futex_wakes(wakes: u32) -> io::Result<Latencies> {
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
fn descriptor_wakes(read: &OwnedFd, write: &OwnedFd, polls: bool, wakes: u32) -> io::Result<Latencies> {
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

/// A server that sleeps in `recv`.
struct MachnetSleeper {
    client: Channel,
    to: FlowId,
    server: Channel,
    from: FlowId,
}

impl MachnetSleeper {
    fn open(rig: &mut Rig<MemoryDriver>) -> Self {
        let (client, to, server, from) = rig.while_running(|options| {
            let mut client = options.clone().attach_channel().expect("the sidecar is there");
            let mut server =
                options.wait_policy(WaitPolicy::Block).attach_channel().expect("the sidecar is there");
            let at: SocketAddr = rig::ELSEWHERE.parse().expect("an address");
            let (to, from) = rig::connect(&mut client, &mut server, at);
            (client, to, server, from)
        });
        Self { client, to, server, from }
    }

    fn wakes(&mut self, rig: &mut Rig<MemoryDriver>, wakes: u32) -> Latencies {
        let Self { client, to, server, from } = self;
        hand_over(
            wakes,
            || drop(server.recv(*from, None).expect("the client lives")),
            |asked| {
                if asked == Waker::Wake {
                    client.try_send(*to, &MESSAGE).expect("one message has room");
                }
                rig.step();
            },
        )
    }
}
