//! Figure 4: messages of 64 bytes in one direction, per second: from an application to its engine's end of the channel, beside
//! queues between two threads in the same run.

use machnet_benches::application::{self, BARE};
use machnet_benches::peers::{self, CrossbeamArrayQueue, CrossbeamChannel, Rtrb};
use machnet_benches::rig::{ADDRESS, ELSEWHERE, Rig};
use machnet_benches::{MESSAGE_BYTES, bare, cpu, figure, roles, stats};
use std::io;
use std::net::SocketAddr;

/// Times that each of them is started anew.
const STARTS: usize = 7;
/// Messages of one start.
const MESSAGES: u32 = 1_000_000;
/// Slots that the engine takes in one turn, as its worker does.
const BURST: usize = 32;
/// Messages under way of an application that is both ends.
const WINDOW: u32 = 64;
/// The application in a process of its own: it sends, or it sends to itself.
const SENDER: &str = "sender";
const BOTH_ENDS: &str = "both-ends";

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            SENDER => send(&arguments),
            BOTH_ENDS => send_to_self(&arguments),
            other => Err(io::Error::other(format!("no role {other}"))),
        };
    }
    let mut rows = rows();
    for _ in 0..STARTS {
        for row in &mut rows {
            row.rates.push((row.measure)()?);
        }
    }
    print(&rows);
    Ok(())
}

struct Row {
    name: &'static str,
    measure: fn() -> io::Result<f64>,
    rates: Vec<f64>,
}

/// The first is what is measured, the second what it is held against.
fn rows() -> Vec<Row> {
    let row = |name, measure| Row { name, measure, rates: Vec::new() };
    vec![
        row("streaming: application to the engine's end, two processes", to_engine),
        row("crossbeam bounded channel, two threads", || Ok(peers::per_second::<CrossbeamChannel>(MESSAGES))),
        row("crossbeam ArrayQueue, two threads", || Ok(peers::per_second::<CrossbeamArrayQueue>(MESSAGES))),
        row("rtrb, two threads", || Ok(peers::per_second::<Rtrb>(MESSAGES))),
        row("whole engine, flow of one host, one thread both ends", whole_engine_same_host),
        row("whole engine, datagrams in memory, one thread both ends", || whole_engine(ELSEWHERE)),
    ]
}

fn print(rows: &[Row]) {
    println!("Messages of {MESSAGE_BYTES} bytes, millions per second; {STARTS} starts of {MESSAGES} each.");
    println!("{:58} {:>8} {:>30}", "", "", "over crossbeam's of its run");
    println!("{:58} {:>8} {:>12} {:>8} {:>8}", "", "median", "median", "least", "most");
    for row in rows {
        let ratios = ratios(row, &rows[1]);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let (rate, ratio) = (stats::median(&row.rates) / 1e6, stats::median(&ratios));
        println!("{:58} {rate:>8.1} {ratio:>12.2} {least:>8.2} {most:>8.2}", row.name);
    }
    println!(
        "Not measured here, for want of a Java runtime and its media driver: Aeron IPC, 10 to 27 by its authors."
    );
    println!("Not measured here by design: the original Machnet, 2 to 3 on a machine of two cores.");
    figure("streaming-over-crossbeam", stats::median(&ratios(&rows[0], &rows[1])));
}

fn ratios(row: &Row, base: &Row) -> Vec<f64> {
    let mut ratios: Vec<f64> = row.rates.iter().zip(&base.rates).map(|(rate, base)| rate / base).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// The bench is the engine: it takes messages with all checks, and acknowledges each.
fn to_engine() -> io::Result<f64> {
    let bare = bare::Bare::start()?;
    let child = application::start(SENDER, bare.socket(), BARE)?;
    let receive = || {
        cpu::pin(&cpu::available(), 0);
        let mut tenant = bare.attached();
        bare::open_flow(&mut tenant);
        let mut take = |most: u64| {
            let mut taken = 0;
            while taken < most {
                let found = bare::take_messages(&mut tenant, BURST, |_, _, bytes| {
                    std::hint::black_box(bytes);
                });
                if found == 0 {
                    bare::take_returned(&mut tenant);
                    std::hint::spin_loop();
                } else {
                    tenant.publish().expect("an honest application");
                }
                taken += found as u64;
            }
            taken
        };
        let warm_up = take(u64::from(MESSAGES / 10));
        let left = peers::rounds_with_warm_up(MESSAGES) - warm_up;
        let (time, taken) = cpu::timed(|| take(left));
        stats::to_f64(taken) / time.as_secs_f64()
    };
    let rate = std::thread::scope(|scope| scope.spawn(receive).join()).expect("the engine does not fail");
    application::outcome(child)?;
    Ok(rate)
}

fn send(arguments: &[String]) -> io::Result<()> {
    let (mut channel, flow, _) = application::attach(arguments)?;
    let rate = peers::mean_rate(MESSAGES, || {
        while channel.try_send(flow, &[7; MESSAGE_BYTES]).is_err() {
            std::hint::spin_loop();
        }
    });
    println!("{rate}");
    Ok(())
}

fn whole_engine_same_host() -> io::Result<f64> {
    let own: SocketAddr = ADDRESS.parse().map_err(io::Error::other)?;
    whole_engine(&SocketAddr::new(own.ip(), 7).to_string())
}

/// A whole engine on the first processor, and on the second an application that sends to itself: each message crosses twice.
fn whole_engine(at: &str) -> io::Result<f64> {
    let mut rig = Rig::loop_back();
    let socket = rig.socket().to_owned();
    rig.while_spinning(0, |_| application::outcome(application::start(BOTH_ENDS, &socket, at)?))
}

fn send_to_self(arguments: &[String]) -> io::Result<()> {
    let (mut channel, out, back) = application::attach(arguments)?;
    let mut buffer = [0; MESSAGE_BYTES];
    let mut under_way = 0;
    let rate = peers::mean_rate(MESSAGES, || {
        loop {
            while under_way < WINDOW && channel.try_send(out, &[7; MESSAGE_BYTES]).is_ok() {
                under_way += 1;
            }
            if channel.try_recv_into(back, &mut buffer).expect("the flow is open").is_some() {
                under_way -= 1;
                return;
            }
        }
    });
    println!("{rate}");
    Ok(())
}
