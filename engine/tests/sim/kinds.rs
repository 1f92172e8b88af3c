//! The kinds of scenarios. Each changes an ordinary one; the seed decides how.

mod engines;

use crate::dice::Dice;
use crate::scenario::{
    CLOSED_PORT, ConnectionPlan, Ending, Fault, MS, PORT, Reader, SECOND, Scenario, SidePlan, US,
};
use machnet_engine::proto::{Congestion, MAX_MESSAGE};

/// Changes a scenario.
pub(crate) type Shape = fn(&mut Scenario, &mut Dice);

/// Every kind by name, in the order in which `--list` shows them.
pub(crate) const KINDS: &[(&str, Shape)] = &[
    ("calm", |_, _| {}),
    ("loss", loss),
    ("disorder", disorder),
    ("corruption", corruption),
    ("slow-link", slow_link),
    ("partition", partition),
    ("dead-peer", dead_peer),
    ("restart", restart),
    ("mtu", mtu),
    ("naps", naps),
    ("one-message-pool", one_message_pool),
    ("small-pools", small_pools),
    ("unread", unread),
    ("slow-readers", slow_readers),
    ("aborts", aborts),
    ("both-close", both_close),
    ("connects", connects),
    ("idle", idle),
    ("strangers", strangers),
    ("large", large),
    ("many-hosts", many_hosts),
    ("engines", engines::engines),
    ("later-flows", engines::later_flows),
    ("rehash", engines::rehash),
    ("rough-hand-over", engines::rough_hand_over),
    ("paper", engines::paper),
    ("reborn", engines::reborn),
    ("clock-jumps", engines::clock_jumps),
    ("bursts", engines::bursts),
    ("flood", engines::flood),
    ("many-engines", engines::many_engines),
    ("hundreds-of-hosts", engines::hundreds_of_hosts),
    ("everything", everything),
];

fn loss(scenario: &mut Scenario, dice: &mut Dice) {
    let most = dice.pick(&[1_000_u64, 10_000, 50_000, 150_000]);
    scenario.each_link(|link| link.loss = dice.between(0, most) as u32);
}

fn disorder(scenario: &mut Scenario, dice: &mut Dice) {
    let ghosts = dice.chance(500_000);
    scenario.each_link(|link| {
        link.duplicate = dice.between(0, 100_000) as u32;
        link.reorder = dice.between(0, 200_000) as u32;
        link.jitter_ns = dice.between(0, 50 * US);
        link.ghost = if ghosts { 5_000 } else { 0 };
    });
}

fn corruption(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.each_link(|link| link.corrupt = dice.between(1_000, 50_000) as u32);
}

fn slow_link(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.connect_some(dice.between(1, 5) as usize, 1 << 20, dice);
    scenario.each_link(|link| {
        link.bytes_per_second = dice.log_between(2_000_000, 100_000_000);
        link.queue_bytes = dice.log_between(16 << 10, 512 << 10);
    });
}

/// Cuts one or both directions between two hosts for a while.
fn cut(scenario: &mut Scenario, from_ns: u64, until_ns: u64, dice: &mut Dice) {
    let hosts = scenario.hosts.len() as u64;
    let from = dice.between(0, hosts - 1) as usize;
    let to = (from + dice.between(1, hosts - 1) as usize) % scenario.hosts.len();
    scenario.faults.push((from_ns, Fault::Cut { from, to }));
    scenario.faults.push((until_ns, Fault::Heal { from, to }));
    if dice.chance(700_000) {
        scenario.faults.push((from_ns, Fault::Cut { from: to, to: from }));
        scenario.faults.push((until_ns, Fault::Heal { from: to, to: from }));
    }
}

fn partition(scenario: &mut Scenario, dice: &mut Dice) {
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| link.loss = if lossy { 10_000 } else { 0 });
    for _ in 0..dice.between(1, 4) {
        let from_ns = dice.log_between(10 * US, 30 * MS);
        let length_ns = dice.log_between(100 * US, 20 * SECOND);
        cut(scenario, from_ns, from_ns + length_ns, dice);
    }
}

/// A partition that outlives the patience of both ends.
fn dead_peer(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.keepalive_ns = dice.between(SECOND / 2, 5 * SECOND);
    scenario.dead_after_ns = dice.between(2, 5) * scenario.keepalive_ns;
    let from_ns = dice.log_between(10 * US, 30 * MS);
    let length_ns = dice.between(scenario.dead_after_ns / 2, 4 * scenario.dead_after_ns);
    for connection in &mut scenario.connections {
        if dice.chance(500_000) {
            connection.sides[0].ending = Ending::Wait;
            connection.sides[1].ending = Ending::Wait;
        }
    }
    for _ in 0..dice.between(1, 3) {
        cut(scenario, from_ns, from_ns + length_ns, dice);
    }
}

fn restart(scenario: &mut Scenario, dice: &mut Dice) {
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| {
        link.loss = if lossy { 20_000 } else { 0 };
        link.ghost = if lossy { 5_000 } else { 0 };
    });
    let first_round = scenario.connections.len();
    for _ in 0..dice.between(1, 3) {
        let host = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
        let down_ns = dice.log_between(10 * US, 30 * MS);
        let up_ns = down_ns + dice.log_between(US, 2 * SECOND);
        scenario.faults.push((down_ns, Fault::Down { host }));
        scenario.faults.push((up_ns, Fault::Up { host }));
        let mut again = scenario.draw_connection(100_000, dice);
        again.at_ns = up_ns + dice.log_between(US, 100 * MS);
        scenario.connections.push(again);
    }
    for connection in &mut scenario.connections[..first_round] {
        if dice.chance(300_000) {
            connection.sides[0].ending = Ending::Wait;
            connection.sides[1].ending = Ending::Wait;
        }
    }
}

fn mtu(scenario: &mut Scenario, dice: &mut Dice) {
    for host in &mut scenario.hosts {
        host.mtu = dice.pick(&[1280, 1460, 1500, 9000]);
    }
    scenario.link_all(dice);
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| {
        if dice.chance(400_000) {
            link.mtu = link.mtu.min(dice.pick(&[1280, 1400, 1460, 1500, 4000]));
        }
        link.loss = if lossy { 20_000 } else { 0 };
    });
    let budget = dice.pick(&[100_000, 4 << 20]);
    scenario.connect_some(dice.between(1, 5) as usize, budget, dice);
    if dice.chance(300_000) {
        let at_ns = dice.log_between(100 * US, 20 * MS);
        let mtu = dice.pick(&[1280, 1400, 1480]);
        for (from, to) in [(0, 1), (1, 0)] {
            scenario.faults.push((at_ns, Fault::Narrow { from, to, mtu }));
        }
    }
}

fn naps(scenario: &mut Scenario, dice: &mut Dice) {
    for host in &mut scenario.hosts {
        host.naps = dice.pick(&[0, 100_000, 500_000, 1_000_000]);
        host.burst = dice.pick(&[1, 8, 64]);
    }
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| link.loss = if lossy { 10_000 } else { 0 });
}

fn one_message_pool(scenario: &mut Scenario, dice: &mut Dice) {
    let minimum_bytes = dice.pick(&[1 << 10, 16 << 10]);
    for host in &mut scenario.hosts {
        host.pool_bytes = u64::from(MAX_MESSAGE);
        host.share_bytes = u64::from(MAX_MESSAGE);
        host.minimum_bytes = minimum_bytes;
    }
    scenario.each_link(|link| link.mtu = link.mtu.max(1500));
    let lossy = dice.chance(400_000);
    let flows = dice.between(2, 5) as usize;
    scenario.connect_some(flows, 1 << 20, dice);
    let server = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
    let few_large = dice.chance(150_000);
    for connection in &mut scenario.connections {
        connection.server = Some(server);
        connection.client = (server + 1) % scenario.hosts.len();
        let large = if few_large { MAX_MESSAGE } else { dice.between(1 << 20, 3 << 20) as u32 };
        connection.sides[0].sizes.truncate(6);
        connection.sides[0].sizes.push(large);
        connection.sides[0].pipeline = None;
        connection.sides[0].ending = Ending::CloseWhenDone;
    }
    if few_large {
        scenario.connections.truncate(2);
    } else {
        for host in &mut scenario.hosts {
            host.pool_bytes = 3 << 20;
            host.share_bytes = 3 << 20;
        }
    }
    scenario.each_link(|link| link.loss = if lossy { 5_000 } else { 0 });
}

fn small_pools(scenario: &mut Scenario, dice: &mut Dice) {
    for host in &mut scenario.hosts {
        host.pool_bytes = dice.log_between(4 << 10, 1 << 20);
        host.minimum_bytes = dice.log_between(1 << 10, 16 << 10);
        host.share_bytes = dice.between(host.pool_bytes / 4, host.pool_bytes);
        host.window_messages = dice.log_between(1, 64) as u32;
    }
    scenario.ring_full = dice.pick(&[0, 50_000, 300_000]);
    scenario.connect_some(dice.between(2, 16) as usize, 1 << 20, dice);
    if dice.chance(300_000) {
        loss(scenario, dice);
    }
    slow_some_readers(scenario, dice);
    scenario.everybody_reads_ns = 2 * SECOND;
}

/// One flow that nobody reads among a hundred busy ones, on one host.
fn unread(scenario: &mut Scenario, dice: &mut Dice) {
    for host in &mut scenario.hosts {
        host.pool_bytes = 1 << 20;
        host.share_bytes = 128 << 10;
        host.minimum_bytes = 8 << 10;
        host.window_messages = 16;
    }
    let flows = if dice.chance(300_000) { 101 } else { dice.between(10, 40) as usize };
    scenario.connect_some(flows, 1 << 20, dice);
    scenario.everybody_reads_ns = SECOND;
    let server = 0;
    for (index, connection) in scenario.connections.iter_mut().enumerate() {
        connection.server = Some(server);
        connection.client = 1 + index % (scenario.hosts.len() - 1);
        connection.sides[0].sizes.truncate(20);
        if index == 0 {
            connection.sides[0] = SidePlan { sizes: vec![4_000; 100], ..SidePlan::quiet() };
            connection.sides[1] = SidePlan { reader: Reader::Late, ..SidePlan::quiet() };
            connection.sides[0].ending = dice.pick(&[Ending::Wait, Ending::CloseWhenSent]);
        }
    }
}

fn slow_some_readers(scenario: &mut Scenario, dice: &mut Dice) {
    for connection in &mut scenario.connections {
        for side in &mut connection.sides {
            if dice.chance(500_000) {
                side.reader = Reader::Slow(dice.log_between(10 * US, 20 * MS));
            }
        }
    }
}

fn slow_readers(scenario: &mut Scenario, dice: &mut Dice) {
    slow_some_readers(scenario, dice);
    scenario.everybody_reads_ns = dice.log_between(MS, 60 * SECOND);
    for host in &mut scenario.hosts {
        host.window_messages = dice.log_between(1, 64) as u32;
    }
    for connection in &mut scenario.connections {
        if dice.chance(200_000) {
            connection.sides[1].reader = Reader::Late;
        }
    }
    scenario.ring_full = dice.pick(&[0, 20_000]);
}

fn aborts(scenario: &mut Scenario, dice: &mut Dice) {
    let lossy = dice.chance(500_000);
    scenario.each_link(|link| {
        link.loss = if lossy { 20_000 } else { 0 };
        link.reorder = if lossy { 50_000 } else { 0 };
    });
    scenario.accept_fails = dice.pick(&[0, 0, 200_000]);
    scenario.connect_some(dice.between(2, 12) as usize, 2 << 20, dice);
    for connection in &mut scenario.connections {
        for side in &mut connection.sides {
            let at_ns = dice.log_between(US, 50 * MS);
            side.ending = match dice.between(0, 3) {
                0 => Ending::AbortAt(at_ns),
                1 => Ending::CloseAt(at_ns),
                _ => side.ending,
            };
        }
    }
}

fn both_close(scenario: &mut Scenario, dice: &mut Dice) {
    let lossy = dice.chance(500_000);
    scenario.each_link(|link| link.loss = if lossy { 30_000 } else { 0 });
    for connection in &mut scenario.connections {
        connection.accept_delay_ns = 0;
        let at_ns = dice.log_between(100 * US, 20 * MS);
        for side in &mut connection.sides {
            side.ending = match dice.between(0, 2) {
                0 => Ending::CloseWhenSent,
                1 => Ending::CloseWhenDone,
                _ => Ending::CloseAt(at_ns + dice.between(0, 2) * dice.between(0, 100 * US)),
            };
        }
    }
}

fn connects(scenario: &mut Scenario, dice: &mut Dice) {
    let lossy = dice.chance(300_000);
    scenario.each_link(|link| link.loss = if lossy { 50_000 } else { 0 });
    for host in &mut scenario.hosts {
        host.backlog = dice.between(1, 4) as usize;
    }
    if dice.chance(200_000) {
        scenario.max_flows = dice.between(1, 6) as u32;
    }
    scenario.connect_some(dice.between(4, 40) as usize, 200_000, dice);
    for connection in &mut scenario.connections {
        connection.accept_delay_ns = dice.log_between(US, 5 * MS);
        connection.timeout_ns = dice.log_between(100 * MS, 5 * SECOND);
        match dice.between(0, 5) {
            0 => connection.port = CLOSED_PORT,
            1 => connection.server = None,
            2 => connection.sides[0].ending = Ending::CloseAt(connection.at_ns + dice.log_between(US, MS)),
            3 => connection.sides[0].ending = Ending::AbortAt(connection.at_ns + dice.log_between(US, MS)),
            _ => {}
        }
    }
    if dice.chance(300_000) {
        let host = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
        scenario.faults.push((dice.between(0, 2 * MS), Fault::Down { host }));
        scenario.faults.push((dice.between(10, 15) * SECOND, Fault::Up { host }));
    }
}

fn idle(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.keepalive_ns = dice.between(SECOND, 10 * SECOND);
    scenario.dead_after_ns = 3 * scenario.keepalive_ns;
    for connection in &mut scenario.connections {
        connection.sides[0].ending = Ending::Wait;
        connection.sides[1].ending = Ending::Wait;
        if dice.chance(300_000) {
            connection.sides = [SidePlan::quiet(), SidePlan::quiet()];
        } else if dice.chance(300_000) {
            connection.sides[0].sizes.truncate(5);
            connection.sides[0].interval_ns = dice.between(SECOND, 20 * SECOND);
        }
    }
}

fn strangers(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.strangers = dice.log_between(20, 400) as u32;
    let ghosts = dice.chance(500_000);
    scenario.each_link(|link| link.ghost = if ghosts { 10_000 } else { 0 });
}

fn large(scenario: &mut Scenario, dice: &mut Dice) {
    scenario.connections.truncate(1);
    let lossy = dice.chance(500_000);
    scenario.each_link(|link| {
        link.loss = if lossy { 5_000 } else { 0 };
        link.reorder = if lossy { 5_000 } else { 0 };
    });
    if dice.chance(500_000) {
        scenario.hosts.iter_mut().for_each(|host| host.mtu = 9000);
        scenario.each_link(|link| link.mtu = 9000);
    }
    let few = dice.chance(250_000);
    let sizes =
        if few { vec![100, MAX_MESSAGE, 1] } else { vec![100, dice.between(2 << 20, 4 << 20) as u32] };
    scenario.connections[0].sides[0] = SidePlan { sizes, ending: Ending::CloseWhenDone, ..SidePlan::quiet() };
    scenario.connections[0].sides[1] = SidePlan { sizes: vec![100; 5], ..SidePlan::quiet() };
}

fn many_hosts(scenario: &mut Scenario, dice: &mut Dice) {
    let host = scenario.hosts[0].clone();
    scenario.hosts.resize(dice.between(5, 8) as usize, host);
    scenario.link_all(dice);
    scenario.connect_some(dice.between(8, 40) as usize, 2 << 20, dice);
    if dice.chance(500_000) {
        loss(scenario, dice);
    }
}

/// All at once, and each a little.
fn everything(scenario: &mut Scenario, dice: &mut Dice) {
    let mut host = scenario.hosts[0].clone();
    host.window_messages = dice.log_between(1, 64) as u32;
    scenario.hosts.resize(dice.between(2, 8) as usize, host);
    for host in &mut scenario.hosts {
        host.mtu = dice.pick(&[1280, 1460, 1500, 9000]);
        host.naps = dice.pick(&[0, 0, 300_000]);
        host.burst = dice.pick(&[4, 64]);
        host.backlog = dice.pick(&[1, 4, 128]);
        if dice.chance(300_000) {
            host.pool_bytes = dice.log_between(64 << 10, 8 << 20);
            host.share_bytes = host.pool_bytes;
        }
    }
    scenario.link_all(dice);
    scenario.each_link(|link| {
        link.loss = dice.pick(&[0, 1_000, 20_000]);
        link.duplicate = dice.pick(&[0, 10_000]);
        link.reorder = dice.pick(&[0, 50_000]);
        link.corrupt = dice.pick(&[0, 5_000]);
        link.ghost = dice.pick(&[0, 5_000]);
        link.jitter_ns = dice.pick(&[0, 20 * US]);
    });
    scenario.connect_some(dice.between(2, 24) as usize, 1 << 20, dice);
    scenario.congestion =
        if dice.chance(200_000) { Congestion::Fixed(64 << 10) } else { scenario.congestion };
    slow_some_readers(scenario, dice);
    scenario.everybody_reads_ns = 5 * SECOND;
    for connection in &mut scenario.connections {
        let at_ns = dice.log_between(US, 20 * MS);
        for side in &mut connection.sides {
            match dice.between(0, 9) {
                0 => side.ending = Ending::AbortAt(at_ns),
                1 => side.ending = Ending::CloseAt(at_ns),
                2 => side.reader = Reader::Late,
                _ => {}
            }
        }
    }
    scenario.strangers = dice.pick(&[0, 50]);
    scenario.ring_full = dice.pick(&[0, 20_000]);
    if dice.chance(500_000) {
        let from_ns = dice.log_between(10 * US, 30 * MS);
        cut(scenario, from_ns, from_ns + dice.log_between(MS, SECOND), dice);
    }
    if dice.chance(300_000) {
        let host = dice.between(0, scenario.hosts.len() as u64 - 1) as usize;
        let down_ns = dice.log_between(10 * US, 30 * MS);
        scenario.faults.push((down_ns, Fault::Down { host }));
        scenario.faults.push((down_ns + dice.log_between(US, SECOND), Fault::Up { host }));
    }
    let nobody = ConnectionPlan {
        client: 0,
        client_engine: 0,
        server: None,
        port: PORT,
        at_ns: 0,
        timeout_ns: SECOND,
        accept_delay_ns: 0,
        sides: [SidePlan::quiet(), SidePlan::quiet()],
    };
    scenario.connections.push(nobody);
}
