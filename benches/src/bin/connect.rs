//! How flows find their engines (figures 8 and 9), in virtual time on software network cards that only hash: n engines on
//! both sides, nothing learned before. And what later flows, the paper's handshake and a learned hash make of it.
//!
//! What a datagram costs an engine is measured first, on this machine; all else is counted.

#[path = "../../../engine/tests/fleet/mod.rs"]
#[allow(dead_code, missing_docs, reason = "shared with tests of the engine, which use other parts of it")]
mod fleet;

use fleet::{Costs, Fleet, HostPlan};
use machnet_benches::stats::{Latencies, to_f64};
use machnet_benches::{cpu, figure, first_contact};
use machnet_engine::proto::rng::Rng;
use machnet_engine::proto::{FlowId, Spread};

const CONNECTS: u64 = 10_000;
/// Engines on both sides.
const ENGINES: [u8; 4] = [1, 2, 4, 8];
/// Questions and answers before a flow counts as one whose pairs are known.
const ROUNDS: u64 = 80;
/// Later flows of each pair of hosts, and questions that each asks.
const LATER: u64 = 2;
const LATER_ROUNDS: u64 = 4;
/// UDP ports of every host. A linear hash of few varying bits may miss an engine for good (docs/protocol.md, "Ports").
const PORTS: u16 = 1_024;
/// Datagrams that a card shows before its map is asked.
const OBSERVED: u64 = 64;
/// New peers that meet one host whose card was observed.
const NEW_PEERS: u64 = 100;
const SECOND: u64 = 1_000_000_000;

fn main() {
    let costs = measured_costs();
    println!(
        "virtual time: {} us round trip, {} ns for each datagram received, {} ns for each sent, {} ns to hand one over",
        costs.one_way_ns / 500,
        costs.receive_ns,
        costs.send_ns,
        costs.hand_over_ns
    );
    println!("{CONNECTS} first contacts of hosts with n engines each; {PORTS} UDP ports a host\n");
    learned(costs);
    paper(costs);
    map(costs);
    println!();
    if let Err(error) = first_contact::print() {
        println!("over the kernel's hash: not measured on this machine: {error}");
    }
}

/// Two hosts that never met, and the client's and the listener's engine.
fn strangers(engines: u8, spread: Spread, seed: u64, costs: Costs) -> (Fleet, usize, u8) {
    let mut rng = Rng::new([seed, 11]);
    let plans = [1, 2].map(|last| HostPlan {
        spread,
        ports: PORTS,
        ..HostPlan::new([10, 0, 0, last], engines, rng.next_u64())
    });
    let client = usize::try_from(rng.below(u64::from(engines))).unwrap_or(0);
    let listener = u8::try_from(rng.below(u64::from(engines))).unwrap_or(0);
    (Fleet::new(plans.to_vec(), costs), client, listener)
}

/// Connects; answers the flow and how long that took beyond the round trip.
fn connect(fleet: &mut Fleet, client: (usize, usize), listener: (usize, u8)) -> (FlowId, u64) {
    let begun_ns = fleet.now_ns;
    let flow = fleet.connect(client, listener);
    let connected = |fleet: &Fleet| fleet.connected_at(client.0, client.1, flow).is_some();
    assert!(fleet.run(50 * SECOND, connected), "a connect on a clean network succeeds");
    let at_ns = fleet.connected_at(client.0, client.1, flow).unwrap_or(0);
    (flow, (at_ns - begun_ns).saturating_sub(2 * fleet.costs.one_way_ns))
}

/// The default mode.
fn learned(costs: Costs) {
    println!("ours: established after one round trip, handed over until direct");
    println!(
        "{:<10} {:>10} {:>12} {:>12} {:>12} {:>14} {:>12} {:>12} {:>12}",
        "n x n",
        "datagrams",
        "handed over",
        "p95",
        "2n",
        "still, after",
        "later flows",
        "p50, beyond",
        "p99, beyond"
    );
    println!(
        "{:<10} {:>10} {:>12} {:>12} {:>12} {:>14} {:>12} {:>12} {:>12}",
        "", "beyond 2", "mean", "", "", "80 rounds", "handed over", "RTT, us", "RTT, us"
    );
    for engines in ENGINES {
        let (mut extra, mut still, mut later) = (0, 0, 0);
        let (mut over, mut time) = (Latencies::default(), Latencies::default());
        let mut over_sum = 0;
        for seed in 0..CONNECTS {
            let (mut fleet, client, listener) = strangers(engines, Spread::Learned, seed, costs);
            let (flow, beyond_ns) = connect(&mut fleet, (0, client), (1, listener));
            // The confirmation, which is data, has left in the same instant.
            extra += fleet.sent - 3;
            time.record(beyond_ns);
            fleet.ping_pong(0, client, flow, ROUNDS);
            let until_direct = fleet.handed_over();
            over.record(until_direct);
            over_sum += until_direct;
            fleet.ping_pong(0, client, flow, 10);
            still += fleet.handed_over() - until_direct;
            let before = fleet.handed_over();
            for _ in 0..LATER {
                let (flow, _) = connect(&mut fleet, (0, client), (1, listener));
                fleet.ping_pong(0, client, flow, LATER_ROUNDS);
            }
            later += fleet.handed_over() - before;
        }
        let mean = to_f64(over_sum) / to_f64(CONNECTS);
        println!(
            "{:<10} {:>10.3} {:>12.2} {:>12} {:>12} {:>14.4} {:>12.4} {:>12.2} {:>12.2}",
            format!("{engines} x {engines}"),
            to_f64(extra) / to_f64(CONNECTS),
            mean,
            over.at(0.95),
            2 * engines,
            to_f64(still) / to_f64(CONNECTS),
            to_f64(later) / to_f64(CONNECTS * LATER),
            time.at(0.5) / 1e3,
            time.at(0.99) / 1e3,
        );
        if engines == 4 {
            figure("connect-extra-packets-4x4", to_f64(extra) / to_f64(CONNECTS));
            figure("connect-handed-over-mean-4x4", mean);
            figure("connect-handed-over-later", to_f64(later) / to_f64(CONNECTS * LATER));
            figure("connect-p50-over-rtt-us", time.at(0.5) / 1e3);
        }
    }
    println!();
}

/// The paper's handshake.
fn paper(costs: Costs) {
    println!(
        "the paper's handshake: ln(1 - sqrt 0.95) / ln(1 - 1/n) SYNs at once, data on proven pairs only"
    );
    println!(
        "{:<10} {:>12} {:>12} {:>14} {:>16} {:>16} {:>12}",
        "n x n", "formula", "SYNs at once", "all datagrams", "first batch, %", "data handed over", "p50, us"
    );
    for engines in ENGINES {
        let (mut sent, mut syns, mut at_once, mut data) = (0, 0, 0, 0);
        let mut time = Latencies::default();
        for seed in 0..CONNECTS {
            let (mut fleet, client, listener) = strangers(engines, Spread::Paper, seed, costs);
            let (flow, beyond_ns) = connect_in_batches(&mut fleet, client, listener, &mut syns);
            time.record(beyond_ns + 2 * costs.one_way_ns);
            // The next batch would come after 300 ms.
            at_once += u64::from(beyond_ns < 250_000_000);
            sent += fleet.sent;
            fleet.ping_pong(0, client, flow, 5);
            data += fleet.hosts.iter().map(|host| host.handed_over - host.handed_over_syns).sum::<u64>();
        }
        let n = f64::from(engines);
        let formula = if engines == 1 { 1.0 } else { (1.0 - 0.95_f64.sqrt()).ln() / (1.0 - 1.0 / n).ln() };
        let percent = 100.0 * to_f64(at_once) / to_f64(CONNECTS);
        println!(
            "{:<10} {:>12.2} {:>12.1} {:>14.1} {:>16.2} {:>16.4} {:>12.1}",
            format!("{engines} x {engines}"),
            formula,
            to_f64(syns) / to_f64(CONNECTS),
            to_f64(sent) / to_f64(CONNECTS),
            percent,
            to_f64(data) / to_f64(CONNECTS),
            time.at(0.5) / 1e3,
        );
        if engines == 4 {
            figure("paper-first-batch-pct", percent);
        }
    }
    println!();
}

fn connect_in_batches(fleet: &mut Fleet, client: usize, listener: u8, syns: &mut u64) -> (FlowId, u64) {
    let begun_ns = fleet.now_ns;
    let flow = fleet.connect((0, client), (1, listener));
    fleet.run(0, |_| false);
    *syns += fleet.sent;
    let connected = |fleet: &Fleet| fleet.connected_at(0, client, flow).is_some();
    assert!(fleet.run(60 * SECOND, connected), "a connect on a clean network succeeds");
    let at_ns = fleet.connected_at(0, client, flow).unwrap_or(0);
    (flow, (at_ns - begun_ns).saturating_sub(2 * fleet.costs.one_way_ns))
}

/// The learned hash: peers that nobody met before.
fn map(costs: Costs) {
    println!(
        "the learned hash: after {OBSERVED} datagrams of other hosts, {CONNECTS} hosts that were never seen connect, and"
    );
    println!("as many are connected to. Direct at once: nothing of theirs is handed over but the SYN.");
    println!("{:<10} {:>22} {:>22}", "queues", "they connect, %", "we connect, %");
    let mut worst = f64::INFINITY;
    for queues in [4, 8, 3, 6] {
        let (incoming, outgoing) = (new_peers(queues, true, costs), new_peers(queues, false, costs));
        println!("{queues:<10} {incoming:>22.2} {outgoing:>22.2}");
        if queues.is_power_of_two() {
            worst = worst.min(incoming).min(outgoing);
        }
    }
    figure("learned-direct-pct", worst);
}

/// The share, in per cent, of connects with new peers in which what they send lands where it should from the start.
fn new_peers(engines: u8, they_connect: bool, costs: Costs) -> f64 {
    let mut direct = 0;
    for round in 0..CONNECTS / NEW_PEERS {
        let mut rng = Rng::new([round, 17]);
        let plan = HostPlan { ports: PORTS, ..HostPlan::new([10, 1, 0, 1], engines, rng.next_u64()) };
        let mut fleet = Fleet::new(vec![plan], costs);
        let own = u8::try_from(rng.below(u64::from(engines))).unwrap_or(0);
        for peer in 0..OBSERVED + NEW_PEERS {
            let [high, low] = u16::try_from(256 + rng.below(60_000)).unwrap_or(0).to_be_bytes();
            let plan = HostPlan::new([10, 1, high, low], engines, rng.next_u64());
            let host = fleet.add(HostPlan { ports: PORTS, ..plan });
            let (client, listener) =
                if they_connect { ((host, 0), (0, own)) } else { ((0, usize::from(own)), (host, 0)) };
            if peer < OBSERVED {
                observe_one(&mut fleet, client, listener);
            } else {
                let before = fleet.hosts[0].handed_over - fleet.hosts[0].handed_over_syns;
                let syn_acks = fleet.hosts[0].handed_over_syns;
                let (flow, _) = connect(&mut fleet, client, listener);
                fleet.ping_pong(client.0, client.1, flow, 3);
                let data = fleet.hosts[0].handed_over - fleet.hosts[0].handed_over_syns;
                // A SYN of theirs cannot know better; a SYN_ACK to us can.
                let answers = if they_connect { 0 } else { fleet.hosts[0].handed_over_syns - syn_acks };
                direct += u64::from(data == before && answers == 0);
            }
            // The peer goes, with all that is under way.
            fleet.hosts.truncate(1);
            fleet.run(SECOND, |_| false);
        }
    }
    100.0 * to_f64(direct) / to_f64(CONNECTS)
}

/// One datagram of a peer reaches the host: its SYN, or its answer to ours.
fn observe_one(fleet: &mut Fleet, client: (usize, usize), listener: (usize, u8)) {
    fleet.connect(client, listener);
    let before = fleet.hosts[0].received();
    assert!(fleet.run(SECOND, |fleet| fleet.hosts[0].received() > before), "the datagram comes");
    // And to its owner, if that is another engine.
    fleet.run(10 * fleet.costs.hand_over_ns, |_| false);
}

/// What a datagram costs an endpoint here, from questions and answers between two of one engine each: the best of some
/// runs, because nothing makes one quicker than it is.
fn measured_costs() -> Costs {
    const RUNS: u64 = 20;
    const QUESTIONS: u64 = 1_000;
    let (mut fleet, client, listener) = strangers(1, Spread::Learned, 1, Costs::default());
    let (flow, _) = connect(&mut fleet, (0, client), (1, listener));
    let mut run = || {
        let before = fleet.sent;
        let (time, ()) = cpu::timed(|| fleet.ping_pong(0, client, flow, QUESTIONS));
        // Each datagram is made once and handled once; this harness is part of it, so real engines are quicker.
        u64::try_from(time.as_nanos() / u128::from(fleet.sent - before) / 2).unwrap_or(u64::MAX).max(1)
    };
    let half_ns = (0..RUNS).map(|_| run()).min().unwrap_or(1);
    Costs { receive_ns: half_ns, send_ns: half_ns, ..Costs::default() }
}
