//! Figure 1: one crossing of 64 bytes, from the application's call to a message that the engine has checked and copied, and
//! back, over the ring floor of the same run. Beside it what others do for two threads or processes.

use machnet_benches::application::{self, BARE};
use machnet_benches::peers::{self, CrossbeamArrayQueue, CrossbeamChannel, Rtrb};
use machnet_benches::rig::{ADDRESS, ELSEWHERE, Rig};
use machnet_benches::{MESSAGE_BYTES, bare, cpu, figure, floor, roles, stats};
use machnet_engine::tenant::Tenant;
use std::io;
use std::net::SocketAddr;

/// Times that each of them is started anew.
const STARTS: usize = 7;
/// Round trips of one start.
const ROUNDS: u32 = 200_000;
/// Slots that the engine takes in one turn, as its worker does.
const BURST: usize = 32;
/// The application in a process of its own.
const ROLE: &str = "application";

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            floor::ROLE => floor::answer(&arguments),
            ROLE => ping(&arguments),
            other => Err(io::Error::other(format!("no role {other}"))),
        };
    }
    let mut rows = rows();
    let mut floors = Vec::new();
    for _ in 0..STARTS {
        floors.push(floor::one_way_ns(ROUNDS)?);
        for row in &mut rows {
            row.times.push((row.measure)()?);
        }
    }
    print(&rows, &floors);
    Ok(())
}

struct Row {
    name: &'static str,
    measure: fn() -> io::Result<f64>,
    times: Vec<f64>,
}

fn rows() -> Vec<Row> {
    let row = |name, measure| Row { name, measure, times: Vec::new() };
    vec![
        row("crossing: application and the engine's end, two processes", crossing),
        row("whole engine, flow of one host", whole_engine_same_host),
        row("whole engine, flow through datagrams in memory", whole_engine_datagrams),
        row("rtrb, two threads", || Ok(peers::one_way_ns::<Rtrb>(ROUNDS))),
        row("crossbeam ArrayQueue, two threads", || Ok(peers::one_way_ns::<CrossbeamArrayQueue>(ROUNDS))),
        row("crossbeam bounded channel, two threads", || Ok(peers::one_way_ns::<CrossbeamChannel>(ROUNDS))),
        row("Unix socket pair, two threads, polled", || peers::socket_one_way_ns(ROUNDS / 10)),
    ]
}

fn print(rows: &[Row], floors: &[f64]) {
    println!(
        "One way of {MESSAGE_BYTES} bytes, half of the mean round trip; {STARTS} starts of {ROUNDS} rounds each."
    );
    println!("{:58} {:>8} {:>24}", "", "ns", "over the floor of its run");
    println!("{:58} {:>8} {:>8} {:>8} {:>8}", "", "median", "median", "least", "most");
    println!("{:58} {:>8.0}", "ring floor, 48 bytes, nothing checked, two processes", stats::median(floors));
    for row in rows {
        let mut ratios: Vec<f64> = row.times.iter().zip(floors).map(|(time, floor)| time / floor).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let (ns, ratio) = (stats::median(&row.times), stats::median(&ratios));
        println!("{:58} {ns:>8.0} {ratio:>8.2} {least:>8.2} {most:>8.2}", row.name);
    }
    let crossing: Vec<f64> = rows[0].times.iter().zip(floors).map(|(time, floor)| time / floor).collect();
    figure("crossing-over-floor", stats::median(&crossing));
}

/// The application in a process of its own; the bench is the engine, on the processor of the floor's asker.
fn crossing() -> io::Result<f64> {
    let bare = bare::Bare::start()?;
    let child = application::start(ROLE, bare.socket(), BARE)?;
    let serve = || {
        cpu::pin(&cpu::available(), 0);
        let mut tenant = bare.attached();
        bare::open_flow(&mut tenant);
        let mut looks = 0_u32;
        loop {
            let answer = |tenant: &mut Tenant, flow, bytes: &[u8]| {
                assert!(tenant.deliver_whole(flow, bytes).expect("an honest application"), "there is room");
            };
            if bare::take_messages(&mut tenant, BURST, answer) > 0 {
                tenant.publish().expect("an honest application");
                continue;
            }
            bare::take_returned(&mut tenant);
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1024) && bare.is_left() {
                return;
            }
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| scope.spawn(serve).join()).expect("the engine's thread does not fail");
    application::outcome(child)
}

fn whole_engine_same_host() -> io::Result<f64> {
    let own: SocketAddr = ADDRESS.parse().map_err(io::Error::other)?;
    whole_engine(&SocketAddr::new(own.ip(), 7).to_string())
}

fn whole_engine_datagrams() -> io::Result<f64> {
    whole_engine(ELSEWHERE)
}

/// A whole engine on the first processor; the application connects to itself, so that a round trip has two crossings.
fn whole_engine(at: &str) -> io::Result<f64> {
    let mut rig = Rig::loop_back();
    let socket = rig.socket().to_owned();
    rig.while_spinning(0, |_| application::outcome(application::start(ROLE, &socket, at)?))
}

/// The child's part: sends and waits for what comes back, and says the time of one way in nanoseconds.
fn ping(arguments: &[String]) -> io::Result<()> {
    let (mut channel, out, back) = application::attach(arguments)?;
    let (message, mut buffer) = ([7; MESSAGE_BYTES], [0; MESSAGE_BYTES]);
    let ns = peers::mean_one_way_ns(ROUNDS, |_| {
        while channel.try_send(out, &message).is_err() {
            std::hint::spin_loop();
        }
        while channel.try_recv_into(back, &mut buffer).expect("the flow is open").is_none() {
            std::hint::spin_loop();
        }
    });
    println!("{ns}");
    Ok(())
}
