//! Servers that sleep until a message comes: four threads on one processor, after the paper's figure 13.
//!
//! Engine and clients are one thread on the other processor, in turn: the clients send at their times whether answers came or
//! not (open loop, exponential gaps by a fixed seed), over the `memory` driver whose datagrams come back. A latency counts
//! from the time at which a request was due.

use machnet_benches::hand_over::{HandOvers, Waker, descriptor_wakes, futex_wakes};
use machnet_benches::own_peer::MESSAGE;
use machnet_benches::rig::{self, Rig};
use machnet_benches::roles::{Role, role};
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::usage::{self, Usage};
use machnet_benches::{cpu, figure, hand_over};
use machnet_client::{AttachOptions, Channel, FlowId, Message, WaitPolicy};
use machnet_engine::driver::memory::MemoryDriver;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const LOAD: &str = "load";
const BUSY: &str = "busy";
const WAKE: &str = "wake";

/// Server threads, each with a channel and a flow.
const SERVERS: usize = 4;
/// Requests a second.
const RATES: [u32; 5] = [70_000, 227_500, 385_000, 542_500, 700_000];
/// How the servers wait; and how long they let messages gather before they look for the next, when they found none.
const POLICIES: [(&str, WaitPolicy, Duration); 5] = [
    ("block", WaitPolicy::Block, Duration::ZERO),
    ("paused", WaitPolicy::Block, Duration::from_micros(100)),
    ("auto", WaitPolicy::Auto, Duration::ZERO),
    ("yield", WaitPolicy::Yield, Duration::ZERO),
    ("spin", WaitPolicy::Spin, Duration::ZERO),
];
const STARTS: usize = 3;
/// Of those whose processor time is a figure.
const BLOCKING_STARTS: usize = 7;
/// A start counts only if this share of the requests was answered, and half of them within [`SETTLED`]: else somebody else had
/// one of the processors, and the servers' share of theirs says nothing.
const ANSWERED_SHARE: f64 = 0.99;
const SETTLED: Duration = Duration::from_millis(1);
const WARM_UP: Duration = Duration::from_millis(50);
const LOAD_TIME: Duration = Duration::from_millis(300);
/// Requests that may be under way on a flow; more wait at the client, and their time counts.
const MOST_UNDER_WAY: usize = 200;

/// What a busy server does for each request, so that the next is there before it looks.
const BUSY_WORK: Duration = Duration::from_micros(5);
const BUSY_MESSAGES: u64 = 20_000;
const BUSY_WINDOW: usize = 32;

const WAKE_STARTS: usize = 5;
const WAKES: u32 = 2_000;

fn main() -> io::Result<()> {
    match role() {
        Some((name, arguments)) if name == LOAD => load_role(&arguments),
        Some((name, arguments)) if name == BUSY => busy_role(&arguments),
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
    if let Some(cpu_pct) = cpu_pct {
        figure("blocking-cpu-pct", cpu_pct);
    }
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

/// Answers the share of their processor that blocking servers use at the highest rate that they keep up with.
fn compare_loads() -> io::Result<Option<f64>> {
    println!(
        "{SERVERS} server threads on one processor, each with a channel; engine and open-loop clients on the other; 64 B;"
    );
    println!(
        "medians of {STARTS} starts. CPU: of the servers' processor. Sleeps: how often a server slept, for each message."
    );
    println!(
        "block, auto, yield, spin: the wait policies. paused: block, but a server that finds nothing first lets messages"
    );
    println!("gather for 100 us; a trial, no policy of the library.");
    println!();
    println!("servers  requests/s    answered/s       p50        p99      p99.9      CPU   sleeps");
    let mut cpu_pct = None;
    for rate in RATES {
        for (index, (name, policy, pause)) in POLICIES.iter().enumerate() {
            let is_figure = *policy == WaitPolicy::Block && pause.is_zero();
            let starts = (0..if is_figure { BLOCKING_STARTS } else { STARTS })
                .map(|_| numbers(Role::start(LOAD, &[&index.to_string(), &rate.to_string()], true)?))
                .collect::<io::Result<Vec<_>>>()?;
            let settled: Vec<_> = starts.iter().filter(|start| is_settled(start, rate)).cloned().collect();
            let used = if settled.is_empty() { &starts } else { &settled };
            let [answered, p50, p99, p999, cpu, sleeps] = medians(used)[..] else {
                return Err(io::Error::other("a load says six numbers"));
            };
            let note = if settled.is_empty() { "  could not keep up" } else { "" };
            println!(
                "{name:6} {rate:12} {answered:13.0} {:7.1} us {:8.1} us {:8.1} us {cpu:6.1} % {sleeps:7.2}{note}",
                p50 / 1e3,
                p99 / 1e3,
                p999 / 1e3
            );
            if is_figure {
                // The highest rate that was kept up with.
                cpu_pct = if settled.is_empty() { cpu_pct } else { Some(cpu) };
            }
        }
    }
    println!(
        "The paper's blocking receive (figure 13): below 75 % of the core at 700,000 requests/s; its polling servers' p99 is"
    );
    println!("above 10 ms (constants, not of this run).");
    Ok(cpu_pct)
}

fn is_settled(start: &[f64], rate: u32) -> bool {
    let [answered, p50_ns, ..] = start else { return false };
    *answered >= ANSWERED_SHARE * f64::from(rate) && *p50_ns <= SETTLED.as_secs_f64() * 1e9
}

fn load_role(arguments: &[String]) -> io::Result<()> {
    let [policy, rate] = arguments else {
        return Err(io::Error::other("the role takes a policy and a rate"));
    };
    let policy: usize = policy.parse().map_err(io::Error::other)?;
    let rate: u32 = rate.parse().map_err(io::Error::other)?;
    let mut rig = Rig::loop_back();
    let (_, policy, pause) = POLICIES[policy];
    let mut clients = rig.while_running(|options| {
        Clients::open(options, SERVERS, policy, Habit { work: Duration::ZERO, pause })
    });
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
    habit: Habit,
}

/// What a server does beside answering.
#[derive(Clone, Copy)]
struct Habit {
    /// For each request.
    work: Duration,
    /// When it finds none, before it waits for one.
    pause: Duration,
}

impl Server {
    fn next(&mut self, pause: Duration) -> machnet_client::Result<Message> {
        if !pause.is_zero() {
            if let Some(message) = self.channel.try_recv(self.flow)? {
                return Ok(message);
            }
            std::thread::sleep(pause);
        }
        self.channel.recv(self.flow, None)
    }

    /// Answers until the client closes its flow.
    fn serve(mut self) {
        let Habit { work, pause } = self.habit;
        if !pause.is_zero() {
            // If it cannot be had, pauses take longer.
            let _: rustix::io::Result<()> =
                rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
        }
        while let Ok(message) = self.next(pause) {
            let begin = cpu::now();
            while !work.is_zero() && begin.elapsed() < work {
                std::hint::spin_loop();
            }
            if self.channel.send(self.flow, &message, None).is_err() {
                return;
            }
        }
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
    fn open(options: AttachOptions, servers: usize, policy: WaitPolicy, habit: Habit) -> Self {
        let mut channel = options.clone().attach_channel().expect("the sidecar is there");
        let elsewhere: SocketAddr = rig::ELSEWHERE.parse().expect("an address");
        let (mut flows, mut opened) = (Vec::new(), Vec::new());
        for port in (elsewhere.port()..).take(servers) {
            let options = options.clone().wait_policy(policy);
            let mut server = options.attach_channel().expect("the sidecar is there");
            let (client, flow) = rig::connect(&mut channel, &mut server, (elsewhere.ip(), port).into());
            flows.push(client);
            opened.push(Server { channel: server, flow, habit });
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

/// Answers the system calls per message of engine, client and one server that always has a message; nothing without strace.
fn compare_busy() -> io::Result<Option<f64>> {
    println!(
        "Busy servers on one processor, {} us of work for each request, {BUSY_WINDOW} requests under way for each server;",
        BUSY_WORK.as_micros()
    );
    println!(
        "system calls of engine, client and servers for {BUSY_MESSAGES} requests and their responses (strace -f)."
    );
    let mut figure = None;
    for servers in [SERVERS, 1] {
        let calls = match busy_calls(servers) {
            Ok(calls) => calls,
            Err(error) => {
                println!("Not counted: {error}");
                return Ok(None);
            }
        };
        let total: u64 = calls.values().sum();
        let per_message = to_f64(total) / to_f64(BUSY_MESSAGES);
        let mut named: Vec<_> = calls.into_iter().collect();
        named.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let named: Vec<String> =
            named.iter().take(6).map(|(name, count)| format!("{name} {count}")).collect();
        println!("{servers} servers: {total}, for each request {per_message:.4}  {}", named.join(", "));
        figure = Some(per_message);
    }
    Ok(figure)
}

/// System calls by name between the two marks.
fn busy_calls(servers: usize) -> io::Result<BTreeMap<String, u64>> {
    let directory = rig::scratch_directory()?;
    let trace = directory.join("trace");
    let traced = trace_busy(servers, &trace).and_then(|()| std::fs::read_to_string(&trace));
    let _: io::Result<()> = std::fs::remove_dir_all(&directory);
    let text = traced?;
    let marked = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (marked, _) = marked.ok_or_else(|| io::Error::other("the trace has no marks"))?;
    let mut calls = BTreeMap::new();
    // The first line is the rest of the mark's, the last one the beginning of the other's.
    for line in
        marked.lines().skip(1).filter(|line| !line.contains("write(1,") && !line.contains(" resumed>"))
    {
        let call = line.split_whitespace().nth(1).and_then(|call| call.split('(').next()).unwrap_or("?");
        *calls.entry(call.to_owned()).or_insert(0) += 1;
    }
    Ok(calls)
}

fn trace_busy(servers: usize, trace: &Path) -> io::Result<()> {
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .arg(std::env::current_exe()?)
        .args(["--role", BUSY, &servers.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("strace: {error}")))?;
    let alive = child.stdin.take(); // A role ends when this is closed.
    let status = child.wait()?;
    drop(alive);
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("strace: {status}"))) }
}

fn busy_role(arguments: &[String]) -> io::Result<()> {
    let [servers] = arguments else { return Err(io::Error::other("the role takes a number of servers")) };
    let servers: usize = servers.parse().map_err(io::Error::other)?;
    let habit = Habit { work: BUSY_WORK, pause: Duration::ZERO };
    let mut rig = Rig::loop_back();
    let mut clients = rig.while_running(|options| Clients::open(options, servers, WaitPolicy::Block, habit));
    std::thread::scope(|scope| {
        clients.start_servers(scope);
        let counted = || {
            cpu::pin(&cpu::available(), 0);
            clients.answered(&mut rig, BUSY_WINDOW, BUSY_MESSAGES / 4);
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
        hand_over::GAP.as_micros()
    );
    let starts =
        (0..WAKE_STARTS).map(|_| numbers(Role::start(WAKE, &[], true)?)).collect::<io::Result<Vec<_>>>()?;
    println!();
    println!("                                              p50       p99   processor time of the sleeper");
    let all = medians(&starts);
    for (hand, values) in Hand::ALL.into_iter().zip(all.chunks(3)) {
        let [p50, p99, on_cpu] = [values[0] / 1e3, values[1] / 1e3, values[2] / 1e3];
        println!("{:40} {p50:6.2} us {p99:6.2} us {on_cpu:6.2} us", hand.name());
    }
    let ratios =
        |over: usize| median(&starts.iter().map(|start| start[0] / start[3 * over]).collect::<Vec<_>>());
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
    let mut all: Vec<(Latencies, Vec<f64>)> = Hand::ALL.iter().map(|_| Default::default()).collect();
    let mut rig = Rig::loop_back();
    let mut sleeper = MachnetSleeper::open(&mut rig);
    for _ in 0..TURNS {
        for (hand, (latencies, on_cpu_ns)) in Hand::ALL.iter().zip(&mut all) {
            let handed = match hand {
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
            };
            latencies.add(&handed.latencies);
            on_cpu_ns.push(handed.on_cpu_ns);
        }
    }
    for (latencies, on_cpu_ns) in &all {
        print!("{} {} {} ", latencies.at(0.5), latencies.at(0.99), median(on_cpu_ns));
    }
    println!();
    Ok(())
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

    fn wakes(&mut self, rig: &mut Rig<MemoryDriver>, wakes: u32) -> HandOvers {
        let Self { client, to, server, from } = self;
        hand_over::hand_over(
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
