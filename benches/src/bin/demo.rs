//! Two sidecars over loopback UDP, as `machnet demo` has them, beside a bare UDP echo that waits by the same rule (`auto`).
//!
//! `demo-p50-over-udp-echo`: four processes (client, two sidecars, server) against two, round trips of 64 B.
//! `demo-1mib-over-tcp`: eight messages of 1 MiB outstanding, against kernel TCP.
//!
//! The table of instructions and system calls by stage comes from the same path with both sidecars stepped by one thread:
//! nobody waits, so no call is made in vain, and every count is the same in every run.

use machnet_benches::command::{self, Found, Server, Up};
use machnet_benches::rig::{self, Rig};
use machnet_benches::roles::Role;
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::{callgrind, cpu, figure, roles, strace};
use machnet_client::waiting::{Step, Waiting};
use machnet_client::{Channel, FlowId, WaitPolicy};
use machnet_engine::driver::udp::{UdpConfig, UdpDriver};
use machnet_engine::driver::{Driver, DriverCounters};
use rustix::event::{PollFd, PollFlags, poll};
use std::hint::black_box;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const STARTS: u16 = 7;
const BYTES: usize = 64;
const FIRST_PORT: u16 = 31_950;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(800);
/// As the library's calls have it.
const PATIENCE: Duration = Duration::from_micros(200);
const ROUNDS: u64 = 2_000;

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            command::ROLE => Err(command::become_machnet(&arguments)),
            "echo" => Echo::bind()?.serve(),
            _ => stages(&arguments),
        };
    }
    let mut runs = Vec::new();
    for start in 0..STARTS {
        runs.push(Run { machnet: machnet(start)?, echo: echo()? });
    }
    print(&runs);
    print_throughput(&runs);
    println!();
    print_stages()
}

/// One start.
struct Run {
    machnet: Machnet,
    echo: Found,
}

struct Machnet {
    small: Found,
    small_blocking: Found,
    large: Found,
    large_tcp: Found,
}

fn machnet(start: u16) -> io::Result<Machnet> {
    let port = FIRST_PORT + start;
    let (first, second) = (Up::start("127.0.0.1", port, &[])?, Up::start("127.0.0.2", port, &[])?);
    let (here, there) = (first.socket(), second.socket());
    let time = ["--seconds", "0.8", "--warm-up", "0.2"];
    let bulk = ["--size", "1M", "--window", "8", "--seconds", "0.8", "--warm-up", "0.2"];
    let server = Server::start(&["--socket", there])?;
    let small = command::client(server.at, &[&["--socket", here], &time[..]].concat())?;
    let large = command::client(server.at, &[&["--socket", here], &bulk[..]].concat())?;
    drop(server);
    let server = Server::start(&["--socket", there, "--wait", "block"])?;
    let options = ["--socket", here, "--wait", "block"];
    let small_blocking = command::client(server.at, &[&options[..], &time[..]].concat())?;
    drop(server);
    let server = Server::start(&["--over", "tcp", "--address", "127.0.0.2"])?;
    let large_tcp = command::client(server.at, &[&["--over", "tcp"], &bulk[..]].concat())?;
    Ok(Machnet { small, small_blocking, large, large_tcp })
}

/// A socket whose owner waits by the rule of the library's calls and of the engines.
struct Echo {
    socket: UdpSocket,
    waiting: Waiting,
    origin: Instant,
}

impl Echo {
    fn bind() -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let waiting = Waiting::new(WaitPolicy::Auto, PATIENCE, Waiting::cpus());
        Ok(Self { socket, waiting, origin: cpu::now() })
    }

    fn now_ns(origin: Instant) -> u64 {
        u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let origin = self.origin;
        loop {
            match self.socket.recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.waiting.ended();
                    return outcome;
                }
            }
            match self.waiting.step(|| Self::now_ns(origin)) {
                Step::Look => std::hint::spin_loop(),
                Step::Yield => {
                    let before = Self::now_ns(origin);
                    std::thread::yield_now();
                    self.waiting.yielded(before, Self::now_ns(origin));
                }
                Step::Sleep => {
                    poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None)?;
                    self.waiting.ended();
                }
            }
        }
    }

    fn serve(mut self) -> io::Result<()> {
        println!("{}", self.socket.local_addr()?);
        let mut buffer = [0; 2_048];
        loop {
            let (length, from) = self.receive(&mut buffer)?;
            self.socket.send_to(&buffer[..length], from)?;
        }
    }
}

fn echo() -> io::Result<Found> {
    let mut server = Role::start("echo", &[], true)?;
    let at: SocketAddr = server.line()?.trim().parse().map_err(io::Error::other)?;
    let mut client = Echo::bind()?;
    let (message, mut buffer) = ([7; BYTES], [0; 2_048]);
    let mut latencies = Latencies::default();
    let begin = cpu::now();
    while begin.elapsed() < WARM_UP + MEASURED {
        let (elapsed, outcome) = cpu::timed(|| {
            client.socket.send_to(&message, at)?;
            client.receive(&mut buffer)
        });
        outcome?;
        if begin.elapsed() > WARM_UP {
            latencies.record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(Found { p50: latencies.at(0.5) / 1e3, p99: latencies.at(0.99) / 1e3, ..Found::default() })
}

/// What a row of the table takes from a start.
type Row = fn(&Run) -> Found;

fn print(runs: &[Run]) {
    println!("round trip of {BYTES} B in us over loopback UDP; medians of {STARTS} starts, taken in turns");
    println!("{:<58} {:>8} {:>8} {:>10}", "", "p50", "p99", "over echo");
    let rows: [(&str, Row); 3] = [
        ("bare UDP echo, auto: two processes", |run| run.echo),
        ("machnet, auto: client, two sidecars, server", |run| run.machnet.small),
        ("machnet, client and server block, sidecars auto", |run| run.machnet.small_blocking),
    ];
    let of = |field: &dyn Fn(&Run) -> f64| median(&runs.iter().map(field).collect::<Vec<_>>());
    for (name, row) in rows {
        let (p50, p99) = (of(&|run| row(run).p50), of(&|run| row(run).p99));
        println!("{name:<58} {p50:>8.1} {p99:>8.1} {:>10.2}", of(&|run| row(run).p50 / run.echo.p50));
    }
    figure("demo-p50-over-udp-echo", of(&|run| run.machnet.small.p50 / run.echo.p50));
}

fn print_throughput(runs: &[Run]) {
    let of = |field: &dyn Fn(&Run) -> f64| median(&runs.iter().map(field).collect::<Vec<_>>());
    println!();
    println!("messages of 1 MiB there and back, 8 outstanding, MB/s each way; medians of the same starts");
    println!("{:<58} {:>8.0}", "machnet", of(&|run| run.machnet.large.megabytes_per_second));
    println!("{:<58} {:>8.0}", "kernel TCP, blocking", of(&|run| run.machnet.large_tcp.megabytes_per_second));
    let ratio =
        |run: &Run| run.machnet.large.megabytes_per_second / run.machnet.large_tcp.megabytes_per_second;
    figure("demo-1mib-over-tcp", of(&ratio));
}

/// Both hosts in one thread.
struct Hosts {
    near: Rig<UdpDriver>,
    far: Rig<UdpDriver>,
    client: Channel,
    server: Channel,
    there: FlowId,
    here: FlowId,
}

impl Hosts {
    fn start() -> io::Result<Self> {
        let udp_port = FIRST_PORT + 30;
        let open = |ip: [u8; 4]| -> io::Result<_> {
            let driver = UdpDriver::open((ip, udp_port).into(), &UdpConfig::default());
            Ok(Rig::over(driver.map_err(io::Error::other)?, |config| config.udp_port = udp_port))
        };
        let (mut near, mut far) = (open([127, 0, 0, 1])?, open([127, 0, 0, 2])?);
        let at = ([127, 0, 0, 2], 7_000).into();
        let (client, server, there, here) = near.while_running(|near| {
            far.while_running(|far| {
                let mut client = near.attach_channel().expect("attaches");
                let mut server = far.attach_channel().expect("attaches");
                let (there, here) = rig::connect(&mut client, &mut server, at);
                (client, server, there, here)
            })
        });
        Ok(Self { near, far, client, server, there, here })
    }
}

#[inline(never)]
fn stage_client_send(hosts: &mut Hosts, message: &[u8]) {
    hosts.client.try_send(hosts.there, message).expect("there is room");
}

#[inline(never)]
fn stage_near_takes(hosts: &mut Hosts) {
    black_box(1); // Or the compiler would make one function of two that do the same.
    hosts.near.worker.duty_cycle(hosts.near.now());
}

#[inline(never)]
fn stage_far_delivers(hosts: &mut Hosts) {
    black_box(2); // Or the compiler would make one function of two that do the same.
    hosts.far.worker.duty_cycle(hosts.far.now());
}

#[inline(never)]
fn stage_server_echoes(hosts: &mut Hosts, buffer: &mut [u8]) -> bool {
    let found = hosts.server.try_recv_into(hosts.here, buffer).expect("the flow lives");
    if let Some(length) = found {
        hosts.server.try_send(hosts.here, &buffer[..length]).expect("there is room");
    }
    found.is_some()
}

#[inline(never)]
fn stage_far_takes(hosts: &mut Hosts) {
    black_box(3); // Or the compiler would make one function of two that do the same.
    hosts.far.worker.duty_cycle(hosts.far.now());
}

#[inline(never)]
fn stage_near_delivers(hosts: &mut Hosts) {
    black_box(4); // Or the compiler would make one function of two that do the same.
    hosts.near.worker.duty_cycle(hosts.near.now());
}

#[inline(never)]
fn stage_client_receives(hosts: &mut Hosts, buffer: &mut [u8]) -> bool {
    hosts.client.try_recv_into(hosts.there, buffer).expect("the flow lives").is_some()
}

/// The calls that the two drivers have made to receive and to send.
fn calls(hosts: &Hosts) -> [u64; 4] {
    let of = |counters: DriverCounters| (counters.receive_calls, counters.send_calls);
    let ((a, b), (c, d)) =
        (of(hosts.near.worker.driver().counters()), of(hosts.far.worker.driver().counters()));
    [a, b, c, d]
}

/// Makes so many round trips, stage by stage, and prints the system calls of each stage. An engine whose turn brought
/// nothing, because it had something else to do, has another.
fn stages(arguments: &[String]) -> io::Result<()> {
    let rounds: u64 = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut hosts = Hosts::start()?;
    let (message, mut buffer) = ([7; BYTES], [0; 2_048]);
    let mut counts = [[0; 2]; STAGES.len()];
    for _ in 0..rounds {
        let mut stage = 0;
        while stage < STAGES.len() {
            let before = calls(&hosts);
            let mut next = stage + 1;
            match stage {
                0 => stage_client_send(&mut hosts, &message),
                1 => stage_near_takes(&mut hosts),
                2 => stage_far_delivers(&mut hosts),
                3 if !stage_server_echoes(&mut hosts, &mut buffer) => next = 2,
                4 => stage_far_takes(&mut hosts),
                5 => stage_near_delivers(&mut hosts),
                6 if !stage_client_receives(&mut hosts, &mut buffer) => next = 5,
                _ => {}
            }
            let after = calls(&hosts);
            counts[stage][0] += after[0] - before[0] + after[2] - before[2];
            counts[stage][1] += after[1] - before[1] + after[3] - before[3];
            stage = next;
        }
    }
    if arguments.len() > 1 {
        return Ok(()); // Only the instructions are wanted.
    }
    for [receives, sends] in counts {
        println!("{receives} {sends}");
    }
    Ok(())
}

/// What a stage does, and the function that does it.
const STAGES: [(&str, &str); 7] = [
    ("client: send", "*stage_client_send*"),
    ("its engine: take from the ring, send the datagram", "*stage_near_takes*"),
    ("server's engine: receive the datagram, deliver", "*stage_far_delivers*"),
    ("server: receive, send the answer", "*stage_server_echoes*"),
    ("server's engine: take from the ring, send the datagram", "*stage_far_takes*"),
    ("client's engine: receive the datagram, deliver", "*stage_near_delivers*"),
    ("client: receive", "*stage_client_receives*"),
];

fn print_stages() -> io::Result<()> {
    let text = Role::start("stages", &[&ROUNDS.to_string()], true)?.output()?;
    let counts: Vec<[f64; 2]> = text.lines().filter_map(parse_counts).collect();
    if counts.len() != STAGES.len() {
        return Err(io::Error::other(format!("the stages said {text:?}")));
    }
    println!("a request of {BYTES} B and its answer, by stage, both sidecars stepped by one thread");
    println!("{:<58} {:>12} {:>9} {:>9}", "", "instructions", "receive", "send");
    println!("{:<58} {:>12} {:>9} {:>9}", "", "", "calls", "calls");
    let counts_instructions = callgrind::is_installed();
    let (mut instructions_sum, mut receives_sum, mut sends_sum) = (0.0, 0.0, 0.0);
    for ((name, pattern), [receives, sends]) in STAGES.into_iter().zip(counts) {
        let instructions = if counts_instructions {
            to_f64(callgrind::count("stages", &["1000", "quiet"], pattern)?) / 1_000.0
        } else {
            0.0
        };
        println!("{name:<58} {instructions:>12.0} {receives:>9.2} {sends:>9.2}");
        (instructions_sum, receives_sum, sends_sum) =
            (instructions_sum + instructions, receives_sum + receives, sends_sum + sends);
    }
    println!("{:<58} {instructions_sum:>12.0} {receives_sum:>9.2} {sends_sum:>9.2}", "sum");
    if !counts_instructions {
        println!("valgrind is not installed: no instruction was counted.");
    }
    println!("Instructions are those of user space; calls are counted by the engines' drivers.");
    print_system_calls()
}

/// Every system call of a round trip, applications and engines together: what more round trips cost more.
fn print_system_calls() -> io::Result<()> {
    let count = |rounds| strace::count("stages", &[rounds, "quiet"]);
    let (Ok(few), Ok(many)) = (count("1000"), count("3000")) else {
        println!(
            "strace is not installed or may not trace: the kernel's own count of system calls is skipped."
        );
        return Ok(());
    };
    let per_round = |(name, &count): (&String, &u64)| {
        let more = count.saturating_sub(few.get(name).copied().unwrap_or(0));
        let calls = to_f64(more) / 2_000.0;
        (calls >= 0.005).then(|| format!("{name} {calls:.2}"))
    };
    let calls: Vec<String> = many.iter().filter_map(per_round).collect();
    println!("System calls by strace, applications and engines together: {}.", calls.join(", "));
    Ok(())
}

fn parse_counts(line: &str) -> Option<[f64; 2]> {
    let (receives, sends) = line.split_once(' ')?;
    let per_round = |text: &str| Some(to_f64(text.trim().parse().ok()?) / to_f64(ROUNDS));
    Some([per_round(receives)?, per_round(sends)?])
}
