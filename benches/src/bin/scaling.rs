//! What several engines bring (figure 7): requests a second in virtual time on the software NIC, and instructions for each by
//! callgrind. What an engine's work costs is measured with one engine; the rest follows from who has to do what.

use machnet_benches::fabric::{Costs, Fabric};
use machnet_benches::real::{self, Load};
use machnet_benches::stats::to_f64;
use machnet_benches::{callgrind, cpu, figure, roles};
use machnet_engine::clock::Clock;
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::MemoryDriver;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::worker::Worker;
use std::io;

const ENGINES: [usize; 4] = [1, 2, 4, 8];
const WINDOW: usize = 32;
/// Virtual time before something is measured: every flow has found its ports.
const WARM_UP: Duration = Duration::from_millis(20);
const SPAN: Duration = Duration::from_millis(50);
/// How long each line of the real machine is measured.
const REAL_SPAN: std::time::Duration = std::time::Duration::from_secs(3);
/// Requests of each engine whose instructions are counted, and the virtual time before: under valgrind everything is slow.
const COUNTED: u64 = 3_200;
const COUNTED_WARM_UP: Duration = Duration::from_millis(3);

fn main() -> io::Result<()> {
    if let Some((_, arguments)) = roles::role() {
        let engines = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(1);
        count(engines);
        return Ok(());
    }
    let costs = measure_costs();
    println!(
        "requests a second of two hosts with as many engines each, one application an engine, window {WINDOW}, in virtual time"
    );
    println!(
        "measured with one engine: {} ns a datagram, {} ns a cycle that finds nothing",
        costs.datagram_ns, costs.cycle_ns
    );
    println!("{:>8} {:>14} {:>10} {:>24}", "engines", "requests/s", "times one", "handed over meanwhile");
    let mut rates = Vec::new();
    for engines in ENGINES {
        let (rate, handed_over) = virtual_rate(engines, costs);
        rates.push(rate);
        println!("{engines:>8} {rate:>14.0} {:>10.2} {handed_over:>24}", rate / rates[0]);
    }
    figure("scaling-1-to-4", rates[2] / rates[0]);
    real();
    instructions()
}

/// One engine against two on this machine.
fn real() {
    println!();
    println!(
        "one engine against two on this machine: threads over the kernel's UDP on {} processors, {REAL_SPAN:?} each.",
        cpu::available().len()
    );
    println!(
        "Twice as many engines and applications on as many processors show what sharing costs, not what engines bring:"
    );
    println!("that would take a processor for each engine and each application.");
    println!("{:>8} {:>10} {:>14} {:>10}", "engines", "threads", "requests/s", "times one");
    let mut first = None;
    for engines in [1, 2] {
        let load = |engine| Load { engine, flows: 1, window: WINDOW };
        let loads: Vec<_> = (0..engines).map(load).collect();
        match real::run(engines, &loads, REAL_SPAN) {
            Ok(served) => {
                let answers = to_f64(served.iter().map(|one| one.answers).sum());
                let rate = answers / REAL_SPAN.as_secs_f64();
                let times = rate / *first.get_or_insert(rate);
                println!("{engines:>8} {:>10} {rate:>14.0} {times:>10.2}", 4 * engines);
            }
            Err(error) => println!("{engines:>8} not measured on this machine: {error}"),
        }
    }
}

fn connected(engines: usize) -> Fabric {
    let mut fabric = Fabric::new(engines);
    for engine in 0..engines {
        fabric.connect(engine, 1, WINDOW);
    }
    fabric
}

fn virtual_rate(engines: usize, costs: Costs) -> (f64, u64) {
    let mut fabric = connected(engines);
    fabric.run(costs, WARM_UP);
    let before = fabric.handed_over();
    let done = fabric.run(costs, SPAN);
    let seconds = to_f64(SPAN.as_nanos()) / 1e9;
    (to_f64(done) / seconds, fabric.handed_over() - before)
}

/// Real time of one engine on each side, by what its cycles moved.
fn measure_costs() -> Costs {
    let mut fabric = connected(1);
    let assumed = Costs { cycle_ns: 50, datagram_ns: 300 };
    fabric.run(assumed, WARM_UP);
    let clock = Clock::start();
    let (mut busy_ns, mut moved_in_all, mut idle_ns, mut idle) = (0, 0, 0, 0);
    let end = fabric.now() + SPAN;
    while fabric.now() < end {
        let mut spent = (0, 0);
        fabric.step(assumed, |worker, now| {
            let moved = |worker: &Worker<MemoryDriver>| {
                let counted = worker.driver().counters();
                counted.datagrams_received + counted.datagrams_sent
            };
            let (before, began) = (moved(worker), clock.now());
            let work = worker.duty_cycle(now);
            spent = (clock.now().since(began).as_nanos(), moved(worker) - before);
            work
        });
        match spent {
            (ns, 0) => (idle_ns, idle) = (idle_ns + ns, idle + 1),
            (ns, moved) => (busy_ns, moved_in_all) = (busy_ns + ns, moved_in_all + moved),
        }
    }
    let cycle_ns = idle_ns.checked_div(idle).unwrap_or(assumed.cycle_ns).max(1);
    Costs { cycle_ns, datagram_ns: busy_ns.checked_div(moved_in_all).unwrap_or(assumed.datagram_ns).max(1) }
}

fn instructions() -> io::Result<()> {
    if !callgrind::is_installed() {
        println!("valgrind is not installed: no instruction is counted");
        return Ok(());
    }
    println!();
    println!(
        "instructions of both hosts' engines for a request and its response, by how many engines each host has"
    );
    let mut counts = Vec::new();
    for engines in ENGINES {
        let count = callgrind::count("engines", &[&engines.to_string()], "*stage_engine*")?;
        let requests = COUNTED * u64::try_from(engines).unwrap_or(1);
        counts.push(to_f64(count) / to_f64(requests));
        println!("{engines:>8} {:>10.1}", counts[counts.len() - 1]);
    }
    let most = counts.iter().copied().fold(0.0, f64::max);
    figure("instructions-growth-8-engines-pct", (most / counts[0] - 1.0) * 100.0);
    Ok(())
}

#[inline(never)]
fn stage_engine(worker: &mut Worker<MemoryDriver>, now: Instant) -> usize {
    worker.duty_cycle(now)
}

/// Runs until every engine's application had as many answers, inside the stage that callgrind counts.
fn count(engines: usize) {
    let costs = Costs { cycle_ns: 200, datagram_ns: 200 };
    let mut fabric = connected(engines);
    fabric.run(costs, COUNTED_WARM_UP);
    let answers = |fabric: &Fabric| fabric.clients.iter().map(|client| client.done).sum::<u64>();
    let end = answers(&fabric) + COUNTED * u64::try_from(engines).unwrap_or(1);
    while answers(&fabric) < end {
        fabric.step(costs, stage_engine);
    }
}
