//! First contacts over the kernel's hash (`SO_REUSEPORT`), with engines in real threads: what the bench `connect` shows in
//! virtual time, once more on what this machine has.

use crate::cpu;
use crate::real::{Addresses, Host};
use crate::rig::PATIENCE;
use crate::stats::{Latencies, to_f64};
use machnet_client::{Attachment, Error, Flow, Listener};
use machnet_engine::proto::Spread;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Strangers that meet, for each number of engines.
const CONNECTS: u32 = 300;
/// Engines of the client's and of the server's host, and the handshake. Each engine has a thread, and so has the application
/// that plays both ends.
const ROWS: [((u32, u32), Spread); 5] = [
    ((1, 1), Spread::Learned),
    ((1, 2), Spread::Learned),
    ((2, 1), Spread::Learned),
    ((2, 2), Spread::Learned),
    ((2, 2), Spread::Paper),
];
/// Questions and answers before a flow counts as one whose pairs are known, and those after.
const ROUNDS: u32 = 80;
const ROUNDS_AFTER: u32 = 10;
/// Later flows between the same engines, and questions that each asks.
const LATER: u32 = 2;
const LATER_ROUNDS: u32 = 4;
/// The paper's second batch leaves after 300 ms.
const FIRST_BATCH: Duration = Duration::from_millis(250);
const PORT: u16 = 7_000;

/// What many first contacts came to.
#[derive(Default)]
struct Row {
    /// Datagrams of both hosts until nothing more is sent for a new flow.
    datagrams: u64,
    handed_over: Latencies,
    handed_over_sum: u64,
    still: u64,
    later: u64,
    took: Latencies,
    at_once: u32,
}

/// Two hosts that never met, their applications, and what was handed over so far.
struct Strangers {
    hosts: [Host; 2],
    client: Attachment,
    listener: Listener,
    _server: Attachment,
}

impl Strangers {
    fn meet(
        addresses: &mut Addresses,
        engines: (u32, u32),
        spread: Spread,
        number: u32,
    ) -> Result<Self, Error> {
        let hosts = [addresses.host(engines.0, spread)?, addresses.host(engines.1, spread)?];
        let client = hosts[0].options(number % engines.0).attach()?;
        let server = hosts[1].options(number / engines.0 % engines.1).attach()?;
        let listener = server.listen(hosts[1].at(PORT), 0)?;
        Ok(Self { hosts, client, listener, _server: server })
    }

    fn at(&self) -> SocketAddr {
        self.hosts[1].at(PORT)
    }

    fn count(&self, name: &str) -> io::Result<u64> {
        Ok(self.hosts[0].count(name)? + self.hosts[1].count(name)?)
    }

    fn handed_over(&self) -> io::Result<u64> {
        Ok(self.count("handed_over_out")? + self.count("handed_over_dropped")?)
    }

    /// Datagrams sent once no engine sends any more.
    fn settled_datagrams(&self) -> io::Result<u64> {
        let mut before = self.count("path_datagrams_sent")?;
        loop {
            // Longer than an acknowledgement may be kept back, shorter than any keepalive.
            std::thread::sleep(Duration::from_millis(2));
            let now = self.count("path_datagrams_sent")?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    /// A flow, both of its ends.
    fn connect(&self) -> Result<(Flow, Flow), Error> {
        let flow = self.client.connect_timeout(self.at(), None, Some(PATIENCE))?;
        let accepted = self.listener.accept_timeout(PATIENCE)?;
        Ok((flow, accepted))
    }
}

fn ping_pong((flow, accepted): &(Flow, Flow), rounds: u32) -> Result<(), Error> {
    for _ in 0..rounds {
        for (from, to) in [(flow, accepted), (accepted, flow)] {
            from.send_timeout(&[7; crate::MESSAGE_BYTES], PATIENCE)?;
            to.recv_timeout(PATIENCE)?;
        }
    }
    Ok(())
}

impl Row {
    fn measure(addresses: &mut Addresses, engines: (u32, u32), spread: Spread) -> Result<Self, Error> {
        let mut row = Self::default();
        for number in 0..CONNECTS {
            let strangers = Strangers::meet(addresses, engines, spread, number)?;
            let (time, ends) = cpu::timed(|| strangers.connect());
            let ends = ends?;
            row.took.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            row.at_once += u32::from(time < FIRST_BATCH);
            row.datagrams += strangers.settled_datagrams()?;
            ping_pong(&ends, ROUNDS)?;
            let until_direct = strangers.handed_over()?;
            row.handed_over.record(until_direct);
            row.handed_over_sum += until_direct;
            ping_pong(&ends, ROUNDS_AFTER)?;
            let before = strangers.handed_over()?;
            row.still += before - until_direct;
            for _ in 0..LATER {
                let ends = strangers.connect()?;
                ping_pong(&ends, LATER_ROUNDS)?;
            }
            row.later += strangers.handed_over()? - before;
        }
        Ok(row)
    }

    fn mean(sum: u64) -> f64 {
        to_f64(sum) / f64::from(CONNECTS)
    }
}

/// Prints the table.
pub fn print() -> Result<(), Error> {
    let mut addresses = Addresses::new()?;
    println!(
        "over the kernel's hash, with real threads: {CONNECTS} first contacts each, every one between two sidecars that were just"
    );
    println!(
        "started. Engines and applications outnumber the {} processors, so times are those of a busy machine.",
        cpu::available().len()
    );
    println!(
        "{:<22} {:>10} {:>12} {:>6} {:>9} {:>12} {:>13} {:>14} {:>9} {:>9}",
        "n x n",
        "datagrams",
        "handed over",
        "p95",
        "expected",
        "still, after",
        "later flows",
        "within 250 ms",
        "p50, us",
        "p99, us"
    );
    println!(
        "{:<22} {:>10} {:>12} {:>6} {:>9} {:>12} {:>13} {:>14}",
        "",
        "beyond 1x1",
        "mean",
        "",
        "mean",
        format!("{ROUNDS} rounds"),
        "handed over",
        "%"
    );
    let mut least = None;
    for ((clients, servers), spread) in ROWS {
        let row = Row::measure(&mut addresses, (clients, servers), spread)?;
        let datagrams = Row::mean(row.datagrams);
        let least = *least.get_or_insert(datagrams);
        let name = if spread == Spread::Paper { ", the paper's" } else { "" };
        println!(
            "{:<22} {:>10.3} {:>12.2} {:>6.0} {:>9} {:>12.4} {:>13.4} {:>14.2} {:>9.0} {:>9.0}",
            format!("{clients} x {servers}{name}"),
            datagrams - least,
            Row::mean(row.handed_over_sum),
            row.handed_over.at(0.95),
            clients + servers - 2,
            Row::mean(row.still),
            Row::mean(row.later) / f64::from(LATER),
            100.0 * f64::from(row.at_once) / f64::from(CONNECTS),
            row.took.at(0.5) / 1e3,
            row.took.at(0.99) / 1e3,
        );
    }
    println!();
    Ok(())
}
