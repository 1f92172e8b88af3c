//! Isolation (the paper's figure 9): three applications of 16 flows with 8 outstanding messages of 64 bytes, and a probe with
//! one, which cares for its tail. On an engine of its own it should not notice the others. In virtual time on the software
//! NIC, with a fixed cost for each datagram.

use machnet_benches::fabric::{Costs, Fabric, Pace};
use machnet_benches::flood::Flooded;
use machnet_benches::real::{self, Load};
use machnet_benches::stats::to_f64;
use machnet_benches::{cpu, figure};
use machnet_engine::proto::time::Duration;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COSTS: Costs = Costs { cycle_ns: 100, datagram_ns: 400 };
const WARM_UP: Duration = Duration::from_millis(20);
const SPAN: Duration = Duration::from_millis(400);
const APPLICATIONS: usize = 3;
const FLOWS: usize = 16;
const OUTSTANDING: usize = 8;

/// How long each line of the real machine is measured.
const REAL_SPAN: std::time::Duration = std::time::Duration::from_secs(3);
/// Requests a second of all flows together that strangers disturb, and the one whose share counts.
const RATES: [u64; 4] = [25_000, 50_000, 100_000, 200_000];
const RATE: u64 = 50_000;
/// Requests a second of the probe beside them.
const PROBE_RATE: u64 = 5_000;
/// SYNs of strangers for each datagram that the server's host gets from its peers.
const FLOOD: u64 = 10;
const SETTLING: Duration = Duration::from_millis(5);
/// SYNs of which memory is counted, and those before.
const SYNS: u64 = 1_000_000;
const SYNS_BEFORE: u64 = 50_000;

/// The probe's round trips in nanoseconds, sorted. The others are on engine 0, if there are any.
fn probe(engines: usize, engine: usize, others: usize) -> Vec<u64> {
    let mut fabric = Fabric::new(engines);
    fabric.connect(engine, 1, 1);
    for _ in 0..others {
        fabric.connect(0, FLOWS, OUTSTANDING);
    }
    fabric.run(COSTS, WARM_UP);
    fabric.clients[0].times_ns.clear();
    fabric.run(COSTS, SPAN);
    let mut times = std::mem::take(&mut fabric.clients[0].times_ns);
    times.sort_unstable();
    times
}

fn percentile(times: &[u64], per_mille: usize) -> f64 {
    let last = times.len().saturating_sub(1);
    to_f64(times.get(last.min(times.len() * per_mille / 1_000)).copied().unwrap_or(0))
}

fn main() {
    println!(
        "round trips of a probe beside {APPLICATIONS} applications of {FLOWS} flows with {OUTSTANDING} messages each, in virtual time,"
    );
    println!("with {} ns a datagram and {} ns a cycle", COSTS.datagram_ns, COSTS.cycle_ns);
    println!("{:<44} {:>9} {:>9} {:>9} {:>9}", "", "answers", "p50 us", "p99 us", "p99.9 us");
    let row = |name: &str, times: &[u64]| {
        let us = |per_mille| percentile(times, per_mille) / 1e3;
        println!("{name:<44} {:>9} {:>9.2} {:>9.2} {:>9.2}", times.len(), us(500), us(990), us(999));
        us(999)
    };
    let quiet = row("quiet: the probe alone", &probe(1, 0, 0));
    let unisolated = row("not isolated: all on one engine", &probe(1, 0, APPLICATIONS));
    let isolated = row("isolated: the probe on an engine of its own", &probe(2, 1, APPLICATIONS));
    figure("isolated-p999-over-unisolated", isolated / unisolated);
    figure("isolated-p999-over-quiet", isolated / quiet);
    real();
    flood();
    memory();
}

/// The same with real threads over the kernel's UDP.
fn real() {
    let busy = Load { engine: 0, flows: 16, window: OUTSTANDING };
    let probe = |engine| Load { engine, flows: 1, window: 1 };
    let rows = [
        ("quiet: the probe alone", 1, vec![probe(0)]),
        ("not isolated: all on one engine", 1, vec![probe(0), busy, busy, busy]),
        ("isolated: the probe on an engine of its own", 2, vec![probe(1), busy, busy, busy]),
    ];
    println!();
    println!(
        "the same on this machine: engines and applications in threads, over the kernel's UDP, {REAL_SPAN:?} each;"
    );
    println!(
        "{} processors for up to 4 engines and 8 applications, so the scheduler decides most of it",
        cpu::available().len()
    );
    println!(
        "{:<44} {:>9} {:>9} {:>9} {:>9} {:>14}",
        "", "answers", "p50 us", "p99 us", "p99.9 us", "others' reqs/s"
    );
    for (name, engines, loads) in rows {
        match real::run(engines, &loads, REAL_SPAN) {
            Ok(served) => {
                let us = |quantile| served[0].times.at(quantile) / 1e3;
                let others = to_f64(served[1..].iter().map(|one| one.answers).sum());
                println!(
                    "{name:<44} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>14.0}",
                    served[0].answers,
                    us(0.5),
                    us(0.99),
                    us(0.999),
                    others / REAL_SPAN.as_secs_f64(),
                );
            }
            Err(error) => println!("{name:<44} not measured on this machine: {error}"),
        }
    }
}

/// Flows with a timetable, quiet and while strangers flood the server's engine with SYNs.
fn flood() {
    println!();
    println!(
        "figure 26: {FLOWS} flows with a timetable beside strangers, who send {FLOOD} SYNs for each datagram that the server's host"
    );
    println!("gets from its peer, all to the only engine, in virtual time with the same costs");
    println!(
        "{:>12} {:>12} {:>12} {:>14} {:>16} {:>16} {:>16}",
        "requests/s",
        "SYNs/s",
        "answered, %",
        "queue full, %",
        "engine busy, %",
        "p99.9 quiet, us",
        "p99.9 now, us"
    );
    for rate in RATES {
        let mut fabric = Fabric::new(1);
        fabric.connect(0, 1, 1);
        fabric.connect(0, FLOWS, OUTSTANDING);
        for (client, rate) in [(0, PROBE_RATE), (1, rate)] {
            let interval = Duration::from_nanos(1_000_000_000 / rate);
            fabric.clients[client].pace = Some(Pace { interval, next: fabric.now(), flow: 0 });
        }
        fabric.run(COSTS, WARM_UP);
        let quiet = disturbed(&mut fabric, None);
        let mean = Duration::from_nanos(SPAN.as_nanos() / (FLOOD * quiet.received));
        let flooded = disturbed(&mut fabric, Some(mean));
        let kept = 100.0 * to_f64(flooded.answers) / to_f64(quiet.answers);
        let syns = flooded.syns.0 + flooded.syns.1;
        let per_second = |count| to_f64(count) * 1e9 / to_f64(SPAN.as_nanos());
        println!(
            "{rate:>12} {:>12.0} {kept:>12.2} {:>14.2} {:>16.1} {:>16.2} {:>16.2}",
            per_second(syns),
            100.0 * to_f64(flooded.syns.1) / to_f64(syns.max(1)),
            100.0 * to_f64(COSTS.datagram_ns * flooded.moved) / to_f64(SPAN.as_nanos()),
            quiet.p999_us,
            flooded.p999_us,
        );
        if rate == RATE {
            figure("flood-goodput-pct", kept);
        }
    }
}

/// What happened in a span.
struct Disturbed {
    answers: u64,
    received: u64,
    moved: u64,
    /// Those that found room and those that found the queue full.
    syns: (u64, u64),
    p999_us: f64,
}

fn disturbed(fabric: &mut Fabric, mean: Option<Duration>) -> Disturbed {
    fabric.flood(mean);
    fabric.run(COSTS, SETTLING);
    fabric.clients[0].times_ns.clear();
    let before = (fabric.clients[1].done, fabric.received(), fabric.moved(), fabric.syns());
    fabric.run(COSTS, SPAN);
    fabric.clients[0].times_ns.sort_unstable();
    let syns = fabric.syns();
    Disturbed {
        answers: fabric.clients[1].done - before.0,
        received: fabric.received() - before.1,
        moved: fabric.moved() - before.2,
        syns: (syns.0 - before.3.0, syns.1 - before.3.1),
        p999_us: percentile(&fabric.clients[0].times_ns, 999) / 1e3,
    }
}

/// What a flood leaves in memory.
fn memory() {
    let mut most = 0_i128;
    for engines in [1, 4] {
        let mut flooded = Flooded::new(engines);
        flooded.flood(SYNS_BEFORE / u64::from(engines));
        let region = Region::new(ALLOCATOR);
        let answers = flooded.flood(SYNS / u64::from(engines));
        let change = region.change();
        let grown = change.bytes_allocated as i128 - change.bytes_deallocated as i128;
        most = most.max(grown);
        println!(
            "memory, {engines} engines: {SYNS} SYNs of as many strangers, {answers} answers: {} allocations, {grown} bytes more than before",
            change.allocations + change.reallocations
        );
    }
    figure("flood-memory-bytes", most as f64);
}
