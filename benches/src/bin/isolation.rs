//! Isolation (the paper's figure 9): three applications of 16 flows with 8 outstanding messages of 64 bytes, and a probe with
//! one, which cares for its tail. On an engine of its own it should not notice the others. In virtual time on the software
//! NIC, with a fixed cost for each datagram.

use machnet_benches::fabric::{Costs, Fabric};
use machnet_benches::figure;
use machnet_benches::stats::to_f64;
use machnet_engine::proto::time::Duration;

const COSTS: Costs = Costs { cycle_ns: 100, datagram_ns: 400 };
const WARM_UP: Duration = Duration::from_millis(20);
const SPAN: Duration = Duration::from_millis(400);
const APPLICATIONS: usize = 3;
const FLOWS: usize = 16;
const OUTSTANDING: usize = 8;

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
}
