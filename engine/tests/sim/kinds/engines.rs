//! Kinds of scenarios that are about several engines, their network cards, and hosts in a hurry.

use crate::dice::Dice;
use crate::scenario::{Ending, Fault, MS, Reader, SECOND, Scenario, SidePlan, US};
use machnet_engine::proto::Spread;

/// Counts of engines, as likely as they stand here.
const COUNTS: &[u8] = &[1, 2, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8, 16];

fn spread(scenario: &mut Scenario, choices: &[u8], dice: &mut Dice) {
    scenario.has_engines = true;
    scenario.give_engines(choices, dice);
}

/// Nothing goes wrong, so every connect takes one round trip, whatever engines its datagrams meet.
pub(super) fn engines(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, COUNTS, dice);
    scenario.spread = Spread::Learned;
    scenario.each_link(|link| link.bytes_per_second = 0);
    for host in &mut scenario.hosts {
        (host.inbox, host.hand_over_loss, host.hand_over_ns) = (256, 0, (200, 2 * US));
    }
    let slowest_ns = scenario.links.iter().map(|link| link.delay_ns).max().unwrap_or(0);
    scenario.connect_bound_ns = Some(2 * slowest_ns + 20 * US);
}

/// Flow after flow between the same hosts.
pub(super) fn later_flows(scenario: &mut Scenario, dice: &mut Dice) {
    engines(scenario, dice);
    scenario.connect_some(dice.between(8, 40) as usize, 200_000, dice);
    for (index, connection) in scenario.connections.iter_mut().enumerate() {
        connection.at_ns = index as u64 * dice.between(100 * US, 5 * MS);
    }
    for host in &mut scenario.hosts {
        host.naps = 0;
    }
}

/// Network cards that begin to hash differently while flows are busy or idle.
pub(super) fn rehash(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, &COUNTS[1..], dice);
    for connection in &mut scenario.connections {
        if dice.chance(500_000) {
            connection.sides[0].ending = Ending::Wait;
            connection.sides[1].ending = Ending::Wait;
            connection.sides[0].interval_ns = dice.log_between(100 * US, 20 * MS);
        }
    }
    for _ in 0..dice.between(1, 6) {
        let host = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
        let at_ns = dice.log_between(10 * US, 200 * MS);
        let queues = dice.chance(300_000).then(|| dice.between(1, 16) as u8);
        let new_key = queues.is_none() || dice.chance(500_000);
        scenario.faults.push((at_ns, Fault::Rehash { host, new_key, queues }));
    }
    if dice.chance(300_000) {
        super::loss(scenario, dice);
    }
}

/// Engines that are slow to take over, lose some, and have hardly any room.
pub(super) fn rough_hand_over(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, &COUNTS[1..], dice);
    for host in &mut scenario.hosts {
        host.inbox = dice.pick(&[1, 4, 32]);
        host.hand_over_ns = (200, dice.log_between(300, 5 * MS));
        host.hand_over_loss = dice.pick(&[0, 10_000, 100_000, 300_000]);
        host.naps = dice.pick(&[0, 0, 300_000]);
    }
}

/// The paper's handshake, alone and among others.
pub(super) fn paper(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, COUNTS, dice);
    scenario.spread = Spread::Paper;
    for host in &mut scenario.hosts {
        host.port_count = dice.pick(&[64, 256, 1024]);
    }
    match dice.between(0, 3) {
        0 => super::loss(scenario, dice),
        1 => super::connects(scenario, dice),
        2 => rehash_some(scenario, dice),
        _ => {}
    }
}

fn rehash_some(scenario: &mut Scenario, dice: &mut Dice) {
    for host in 0..scenario.hosts.len() {
        let at_ns = dice.log_between(10 * US, 200 * MS);
        scenario.faults.push((at_ns, Fault::Rehash { host, new_key: true, queues: None }));
    }
}

/// Sidecars that come back with another number of engines.
pub(super) fn reborn(scenario: &mut Scenario, dice: &mut Dice) {
    super::restart(scenario, dice);
    spread(scenario, COUNTS, dice);
    for host in &mut scenario.hosts {
        host.engines_later = dice.pick(COUNTS);
    }
}

/// Clocks that jump forward, as that of a virtual machine that was stopped. They stay below what makes a peer look dead.
pub(super) fn clock_jumps(scenario: &mut Scenario, dice: &mut Dice) {
    for _ in 0..dice.between(1, 3) {
        let host = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
        let at_ns = dice.log_between(10 * US, 100 * MS);
        let by_ns = dice.log_between(US, 3 * SECOND);
        scenario.faults.push((at_ns, Fault::Jump { host, by_ns }));
    }
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| link.loss = if lossy { 10_000 } else { 0 });
}

/// Everybody sends all at once to one host, whose link is slow and whose queue is short.
pub(super) fn bursts(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.connect_some(dice.between(8, 48) as usize, 2 << 20, dice);
    let hosts = scenario.hosts.len();
    let rate = dice.pick(&[0, 12_500_000, 125_000_000, 1_250_000_000]);
    let queue_bytes = dice.log_between(16 << 10, 1 << 20);
    for from in 1..hosts {
        let link = scenario.link(from, 0);
        link.bytes_per_second = rate;
        link.queue_bytes = queue_bytes;
    }
    let at_ns = dice.between(0, 2 * MS);
    for connection in &mut scenario.connections {
        connection.server = Some(0);
        connection.client = 1 + connection.client % (hosts - 1);
        connection.at_ns = at_ns;
        connection.sides[0].interval_ns = 0;
        connection.sides[0].reader = Reader::Prompt;
    }
}

/// Strangers ask for connections without end.
pub(super) fn flood(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, COUNTS, dice);
    scenario.flood = dice.log_between(500, 4_000) as u32;
    scenario.flood_interval_ns = dice.log_between(200, 5 * US);
}

/// Sixteen engines on every host.
pub(super) fn many_engines(scenario: &mut Scenario, dice: &mut Dice) {
    spread(scenario, &[16, 16, 8, 12], dice);
    scenario.connect_some(dice.between(4, 24) as usize, 1 << 20, dice);
    if dice.chance(300_000) {
        for connection in &mut scenario.connections {
            connection.sides = [SidePlan { sizes: vec![64; 3], ..SidePlan::quiet() }, SidePlan::quiet()];
        }
    }
    if dice.chance(300_000) {
        super::loss(scenario, dice);
    }
}

/// Hundreds of hosts with up to sixteen engines each. Most connect to a few that everybody wants, some to anybody; cards hash
/// anew and sidecars come back meanwhile.
pub(super) fn hundreds_of_hosts(scenario: &mut Scenario, dice: &mut Dice) {
    let host = scenario.hosts[0].clone();
    scenario.hosts.resize(dice.between(100, 300) as usize, host);
    scenario.link_all(dice);
    spread(scenario, &[1, 1, 1, 2, 2, 3, 4, 8, 16], dice);
    scenario.connect_some(dice.between(100, 250) as usize, 1 << 20, dice);
    for host in &mut scenario.hosts {
        // Batches that grow and grow because a pair that lands right does not exist: with so many hosts, a storm.
        if scenario.spread == Spread::Paper {
            (host.port_count, host.hears_at_all) = (256, true);
        }
    }
    let wanted = dice.between(1, 4);
    for host in &mut scenario.hosts[..wanted as usize] {
        host.engines = dice.pick(&[4, 8, 16]);
        host.engines_later = dice.pick(&[host.engines, 16]);
    }
    for connection in &mut scenario.connections {
        let server = dice.between(0, wanted - 1) as usize;
        if connection.client != server && dice.chance(700_000) {
            connection.server = Some(server);
        }
    }
    if dice.chance(300_000) {
        super::loss(scenario, dice);
    }
    for host in 0..wanted as usize {
        let at_ns = dice.log_between(10 * US, 20 * MS);
        match dice.between(0, 3) {
            0 => scenario.faults.push((at_ns, Fault::Rehash { host, new_key: true, queues: None })),
            1 => {
                scenario.faults.push((at_ns, Fault::Down { host }));
                scenario.faults.push((at_ns + dice.log_between(US, SECOND), Fault::Up { host }));
            }
            _ => {}
        }
    }
}
