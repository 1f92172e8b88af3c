//! The drivers beside each other and beside the kernel's own UDP and TCP, on one pair of virtual interfaces between two network
//! namespaces; DPDK's shared-memory interface (memif) between two processes.
//!
//! Four processes share two processors: client, sidecar, sidecar, server; all wait by the rule `auto`. Beside them what no
//! driver can save: the same six hops over bare rings, and the round trip of bare frames.

use machnet_benches::chain::rings::{MEMBERS, Member, Row};
use machnet_benches::chain::{self, Trips};
use machnet_benches::command::{self, Client, Found, Server, Up};
use machnet_benches::network::{self, ADDRESSES, INTERFACE, Pair};
use machnet_benches::place::{self, Place};
use machnet_benches::roles::{self, Role};
use machnet_benches::stats::median;
use std::io;
use std::time::Duration;

const UDP_PORT: u16 = 31_580;
const WARM_UP: Duration = Duration::from_millis(100);
const MEASURED: Duration = Duration::from_millis(250);
const ROW: &str = "row";

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            command::ROLE => Err(command::become_machnet(&arguments)),
            network::ROLE => network::hold(),
            ROW => row_member(&arguments),
            _ => Err(io::Error::other(format!("there is no role {role}"))),
        };
    }
    let pair = Pair::new().map_err(io::Error::other)?;
    for realtime in [false, true] {
        for pinned in [false, true] {
            println!("realtime {realtime} pinned {pinned}");
            for _ in 0..1 {
                let trips = bare_rings(1, realtime, pinned)?;
                println!("rings {trips:?}");
                let found = udp(&pair, realtime, pinned)?;
                println!("udp {:?}", found.map(|f| (f.p50, f.p99, f.p999, f.per_second)));
                for over in ["tcp", "udp"] {
                    for wait in ["spin", "block"] {
                        let found = kernel(&pair, over, wait, realtime, pinned)?;
                        println!("{over} {wait} {:?}", found.map(|f| (f.p50, f.p99, f.p999, f.per_second)));
                    }
                }
            }
        }
    }
    Ok(())
}

fn with(place: Place, realtime: bool, cpu: Option<usize>) -> Place {
    Place { is_realtime: realtime, processor: cpu, ..place }
}

fn udp(pair: &Pair, realtime: bool, pinned: bool) -> io::Result<[Found; 4]> {
    let place = |side: usize| with(pair.place(side), realtime, pinned.then_some(side));
    let a = Up::start_at(&place(0), ADDRESSES[0], UDP_PORT, &[])?;
    let b = Up::start_at(&place(1), ADDRESSES[1], UDP_PORT, &[])?;
    let server = Server::start_at(&place(1), &["--socket", b.socket()])?;
    cells(&place(0), &server, &["--socket", a.socket()])
}

fn kernel(pair: &Pair, over: &str, wait: &str, realtime: bool, pinned: bool) -> io::Result<[Found; 4]> {
    let place = |side: usize| with(pair.place(side), realtime, pinned.then_some(side));
    let server = Server::start_at(&place(1), &["--over", over, "--wait", wait, "--address", ADDRESSES[1]])?;
    cells(&place(0), &server, &["--over", over, "--wait", wait])
}

fn cells(place: &Place, server: &Server, over: &[&str]) -> io::Result<[Found; 4]> {
    let mut all = [Found::default(); 4];
    for (cell, (window, size)) in all.iter_mut().zip([("1", "64"), ("8", "64"), ("32", "64"), ("8", "32k")]) {
        let load = ["--window", window, "--size", size, "--seconds", "0.25", "--warm-up", "0.1"];
        *cell = Client::start_at(place, server.at, &[&load[..], over].concat())?.found()?;
    }
    Ok(all)
}

fn bare_rings(window: u64, realtime: bool, pinned: bool) -> io::Result<Trips> {
    let row = Row::new()?;
    let start = |member: usize| {
        let place = with(Place::default(), realtime, pinned.then_some(member / 2));
        let arguments = [vec![window.to_string()], row.arguments(member)].concat();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Role::start_at(&place, ROW, &arguments, true)
    };
    let _others = (1..MEMBERS).map(start).collect::<io::Result<Vec<_>>>()?;
    Trips::from_line(&start(0)?.line()?)
}

fn row_member(arguments: &[String]) -> io::Result<()> {
    let (window, arguments) = arguments.split_first().ok_or_else(|| io::Error::other("no window"))?;
    let member = Member::open(arguments)?;
    match member.number() {
        0 => {
            let window = window.parse().map_err(io::Error::other)?;
            let trips = chain::ask(&mut member.link(1)?, window, WARM_UP, MEASURED)?;
            println!("{}", trips.to_line());
            Ok(())
        }
        last if last == MEMBERS - 1 => chain::serve(&mut member.link(last - 1)?),
        middle => chain::pass_on(&mut member.link(middle - 1)?, &mut member.link(middle + 1)?),
    }
}
