//! Two applications of one host, relayed by its engine (figure 17), beside ring floors and kernel TCP.
//!
//! A round trip is four crossings: application, engine, application, engine, application. Three threads that poll do not fit
//! on two processors, so that with them the scheduler is measured and not the crossing. Therefore the figures come from two
//! threads that poll: one application thread that is both ends, with a channel for each, on one processor, and the sidecar
//! with its default settings on another. TCP beside it has two processors as well: a process on each, both spinning or both
//! blocking. The usual arrangement, two application processes and a sidecar that share the processors, is printed too.

use machnet_benches::command::{self, Found, Server, Up};
use machnet_benches::roles::Role;
use machnet_benches::stats::{Latencies, median, to_f64};
use machnet_benches::{cpu, figure, floor, rig, roles};
use machnet_client::{AttachOptions, Channel, FlowId, WaitPolicy};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const STARTS: u16 = 7;
const BYTES: usize = 64;
const ROUNDS: u64 = 20_000;
/// Of those that block.
const BLOCKING_ROUNDS: u64 = 2_500;
const FLOOR_ROUNDS: u32 = 50_000;
const FIRST_PORT: u16 = 31_920;

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            command::ROLE => Err(command::become_machnet(&arguments)),
            floor::ROLE => floor::answer(&arguments),
            _ => answer_tcp(&arguments),
        };
    }
    let mut runs = Vec::new();
    for start in 0..STARTS {
        // Before and after: the host below a virtual machine may move its processors closer together meanwhile.
        let before = floor::one_way_ns(FLOOR_ROUNDS)?;
        let relayed = relayed(FIRST_PORT + start)?;
        let after = floor::one_way_ns(FLOOR_ROUNDS)?;
        runs.push(Run {
            floor: 2.0 * (before + after),
            relayed,
            tcp_spinning: tcp(true)?,
            tcp_blocking: tcp(false)?,
        });
    }
    print(&runs);
    println!();
    usual()
}

/// Round trips of one start.
struct Run {
    floor: f64,
    relayed: Trips,
    tcp_spinning: Trips,
    tcp_blocking: Trips,
}

/// Nanoseconds.
#[derive(Clone, Copy)]
struct Trips {
    mean: f64,
    p50: f64,
    p99: f64,
}

/// What a row of the table takes from a start.
type Row = fn(&Run) -> Trips;

fn print(runs: &[Run]) {
    println!(
        "round trip of {BYTES} B in ns, two threads that have a processor each; medians of {STARTS} starts"
    );
    println!("{:<44} {:>9} {:>9} {:>9} {:>12}", "", "mean", "p50", "p99", "over floors");
    let of = |field: fn(&Run) -> f64| median(&runs.iter().map(field).collect::<Vec<_>>());
    println!("{:<44} {:>9.0} {:>9} {:>9} {:>12.2}", "four ring floors", of(|run| run.floor), "", "", 1.0);
    let rows: [(&str, Row); 3] = [
        ("machnet, one thread both ends, and its engine", |run| run.relayed),
        ("kernel TCP, both processes spin", |run| run.tcp_spinning),
        ("kernel TCP, both processes block", |run| run.tcp_blocking),
    ];
    for (name, trips) in rows {
        let all =
            |field: fn(&Trips) -> f64| median(&runs.iter().map(|run| field(&trips(run))).collect::<Vec<_>>());
        let ratio = median(&runs.iter().map(|run| trips(run).mean / run.floor).collect::<Vec<_>>());
        let (mean, p50, p99) = (all(|t| t.mean), all(|t| t.p50), all(|t| t.p99));
        println!("{name:<44} {mean:>9.0} {p50:>9.0} {p99:>9.0} {ratio:>12.2}");
    }
    println!("each start, mean over four floors:");
    let each: Vec<String> =
        runs.iter().map(|run| format!("{:.0}/{:.0}", run.relayed.mean, run.floor)).collect();
    println!("    {}", each.join("  "));
    figure("samehost-over-4-floors", of(|run| run.relayed.mean / run.floor));
    figure("samehost-vs-tcp-spinning", of(|run| run.tcp_spinning.p50 / run.relayed.p50));
    figure("samehost-vs-tcp-blocking", of(|run| run.tcp_blocking.p50 / run.relayed.p50));
}

/// Times round trips. `exchange` makes one.
fn time(rounds: u64, mut exchange: impl FnMut() -> io::Result<()>) -> io::Result<Trips> {
    for _ in 0..rounds / 10 {
        exchange()?;
    }
    // The mean without clock readings in between, as the floor's; the percentiles with them.
    let (elapsed, outcome) = cpu::timed(|| (0..rounds).try_for_each(|_| exchange()));
    outcome?;
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        let (elapsed, outcome) = cpu::timed(&mut exchange);
        outcome?;
        latencies.record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }
    let mean = elapsed.as_secs_f64() * 1e9 / to_f64(rounds);
    Ok(Trips { mean, p50: latencies.at(0.5), p99: latencies.at(0.99) })
}

/// Runs on a thread that keeps to the first processor.
fn pinned<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let cpus = cpu::available();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpu::pin(&cpus, 0);
            run()
        });
        thread.join().expect("the measuring thread does not panic")
    })
}

fn relayed(port: u16) -> io::Result<Trips> {
    let sidecar = Up::start("127.0.0.1", port, &[])?;
    cpu::pin_process(sidecar.pid(), &cpu::available(), 1)?;
    let socket = sidecar.socket();
    pinned(|| {
        let attach = || AttachOptions::new().socket(socket).wait_policy(WaitPolicy::Spin).attach_channel();
        let mut client = attach().map_err(io::Error::other)?;
        let mut server = attach().map_err(io::Error::other)?;
        let at = ([127, 0, 0, 1], 7000).into();
        let (there, here) = rig::connect(&mut client, &mut server, at);
        let (mut message, mut buffer, mut number) = ([7; BYTES], [0; BYTES], 0_u64);
        time(ROUNDS, || {
            number += 1;
            message[..8].copy_from_slice(&number.to_le_bytes());
            pass(&mut client, there, &mut server, here, &message, &mut buffer)?;
            let request = buffer;
            pass(&mut server, here, &mut client, there, &request, &mut buffer)?;
            if buffer == message { Ok(()) } else { Err(io::Error::other("an answer is not its question's")) }
        })
    })
}

/// One message from one channel to the other; the receiver polls.
fn pass(
    from: &mut Channel,
    sending: FlowId,
    to: &mut Channel,
    receiving: FlowId,
    message: &[u8; BYTES],
    buffer: &mut [u8; BYTES],
) -> io::Result<()> {
    from.try_send(sending, message).map_err(io::Error::other)?;
    while to.try_recv_into(receiving, buffer).map_err(io::Error::other)?.is_none() {
        std::hint::spin_loop();
    }
    Ok(())
}

fn tcp(spins: bool) -> io::Result<Trips> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?.to_string();
    let _server = Role::start("tcp", &[&at, if spins { "spin" } else { "block" }], false)?;
    let (mut stream, _) = listener.accept()?;
    pinned(|| {
        prepare(&stream, spins)?;
        let (message, mut buffer) = ([7; BYTES], [0; BYTES]);
        time(if spins { ROUNDS } else { BLOCKING_ROUNDS }, || {
            stream.write_all(&message)?;
            read_all(&mut stream, &mut buffer)
        })
    })
}

fn prepare(stream: &TcpStream, spins: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(spins)
}

/// A whole message; one that spins asks again as long as nothing is there.
fn read_all(stream: &mut TcpStream, buffer: &mut [u8; BYTES]) -> io::Result<()> {
    let mut filled = 0;
    while filled < BYTES {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn answer_tcp(arguments: &[String]) -> io::Result<()> {
    let [at, waiting] = arguments else {
        return Err(io::Error::other("the role takes an address and how to wait"));
    };
    cpu::pin(&cpu::available(), 1);
    let mut stream = TcpStream::connect(at)?;
    prepare(&stream, waiting == "spin")?;
    let mut buffer = [0; BYTES];
    loop {
        match read_all(&mut stream, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        stream.write_all(&buffer)?;
    }
}

/// Two application processes, and a sidecar where there is one, on whatever processors the scheduler gives them.
fn usual() -> io::Result<()> {
    const STARTS: u16 = 5;
    let mut found: [Vec<Found>; 3] = Default::default();
    for start in 0..STARTS {
        let sidecar = Up::start("127.0.0.1", FIRST_PORT + 20 + start, &[])?;
        let socket = sidecar.socket();
        let over: [&[&str]; 3] =
            [&["--socket", socket], &["--over", "tcp", "--wait", "spin"], &["--over", "tcp"]];
        for (over, found) in over.into_iter().zip(&mut found) {
            let server = Server::start(over)?;
            let at = SocketAddr::from(([127, 0, 0, 1], server.at.port()));
            found.push(command::client(at, &[over, &["--seconds", "0.6", "--warm-up", "0.2"]].concat())?);
        }
    }
    println!(
        "round trip of {BYTES} B in us by machnet bench, processes not kept on processors; medians of {STARTS} starts"
    );
    println!("{:<44} {:>9} {:>9}", "", "p50", "p99");
    let names = [
        "machnet, two applications and the sidecar",
        "kernel TCP, both processes spin",
        "kernel TCP, both processes block",
    ];
    for (name, found) in names.into_iter().zip(&found) {
        let of = |field: fn(&Found) -> f64| median(&found.iter().map(field).collect::<Vec<_>>());
        println!("{name:<44} {:>9.1} {:>9.1}", of(|found| found.p50), of(|found| found.p99));
    }
    Ok(())
}
