//! Instructions per message, by callgrind (figures 2 and 5).
//!
//! `instructions-64` counts one message of 64 bytes there and one back at one channel: the application's send, the engine's
//! dequeue with all checks and its private copy, the engine's enqueue, the application's receive. What these messages cause
//! besides (credit and room given back, the bell looked at) is counted beside it. `instructions-rpc` counts what engines spend on a request and its response over the network in memory, those
//! of both hosts together, acknowledgements included.

use machnet_benches::rig::{ELSEWHERE, Pair, Rig, connect_to_self};
use machnet_benches::stats::to_f64;
use machnet_benches::{callgrind, figure, roles};
use machnet_client::shm::Geometry;
use machnet_client::shm::ring::PeerFault;
use machnet_client::{Channel, Error, FlowId};
use machnet_engine::driver::memory::MemoryDriver;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::tenant::{FlowSlot, Taken, Tenant};
use std::hint::black_box;
use std::io;

const BYTES: usize = 64;
const ROUNDS: u64 = 6_400;
const WARM_UP: u64 = 3_200;

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        let batch = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(1);
        match role.as_str() {
            "channel" => channel(batch),
            "empty" => empty(),
            _ => rpc(batch),
        }
        return Ok(());
    }
    if !callgrind::is_installed() {
        println!("valgrind is not installed: no instruction is counted");
        return Ok(());
    }
    one_channel()?;
    requests()
}

fn per_message(role: &str, batch: &str, pattern: &str) -> io::Result<f64> {
    let count = callgrind::count(role, &[batch], pattern)?;
    Ok(to_f64(count) / to_f64(ROUNDS))
}

fn one_channel() -> io::Result<()> {
    println!("instructions per message of {BYTES} bytes at one channel, checks included");
    println!("{:<58} {:>9} {:>9}", "", "one by one", "32 a time");
    let stages = [
        ("send", "application: send"),
        ("dequeue", "engine: dequeue, check, keep a private copy"),
        ("enqueue", "engine: enqueue into the receive ring"),
        ("receive", "application: receive"),
        ("settle", "engine: acknowledge to the sender, take back, publish"),
    ];
    let mut sums = [0.0, 0.0];
    for (stage, name) in stages {
        if stage == "settle" {
            println!("{:<58} {:>9.1} {:>9.1}", "sum of these four: the figure", sums[0], sums[1]);
            figure("instructions-64", sums[0]);
        }
        let pattern = format!("*stage_{stage}*");
        let counts = [per_message("channel", "1", &pattern)?, per_message("channel", "32", &pattern)?];
        println!("{name:<58} {:>9.1} {:>9.1}", counts[0], counts[1]);
        println!("count: {stage} {:.1}", counts[0]);
        println!("count: {stage}-of-32 {:.1}", counts[1]);
        sums = [sums[0] + counts[0], sums[1] + counts[1]];
    }
    println!("{:<58} {:>9.1} {:>9.1}", "sum of all", sums[0], sums[1]);
    println!("The original: 569, unchecked (its C++ code on a machine like ours; shared memory only).");
    Ok(())
}

fn requests() -> io::Result<()> {
    println!();
    println!(
        "engine instructions per request and response of {BYTES} bytes, both hosts' engines, over the network in memory"
    );
    for window in ["1", "8", "32"] {
        let count = per_message("rpc", window, "*stage_engine*")?;
        println!("window {window:>2}: {count:>8.1}");
        println!("count: request-and-response-window-{window} {count:.1}");
        if window == "32" {
            figure("instructions-rpc", count);
        }
    }
    let count = per_message("empty", "1", "*stage_engine*")?;
    println!("an empty duty cycle with one channel: {count:.1}");
    println!("count: empty-cycle {count:.1}");
    println!("The original: about 2,300 cycles; eRPC: about 300 cycles.");
    Ok(())
}

// The stages do nothing but call: what they are called with and what comes of it is seen to outside of what is counted.

#[inline(never)]
fn stage_send(channel: &mut Channel, flow: FlowId, message: &[u8]) -> Result<(), Error> {
    channel.try_send(flow, message)
}

#[inline(never)]
fn stage_dequeue(tenant: &mut Tenant) -> Result<Option<Taken>, PeerFault> {
    tenant.take()
}

#[inline(never)]
fn stage_enqueue(tenant: &mut Tenant, slot: FlowSlot, message: &[u8]) -> Result<bool, PeerFault> {
    tenant.deliver_whole(slot, message)
}

#[inline(never)]
fn stage_receive(channel: &mut Channel, flow: FlowId, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
    channel.try_recv_into(flow, buffer)
}

#[inline(never)]
fn stage_settle(tenant: &mut Tenant, slot: FlowSlot, sent: &[u32]) -> Result<bool, PeerFault> {
    tenant.acknowledged(slot, sent.iter().copied());
    while let Some(returned) = tenant.take_back()? {
        black_box(returned);
    }
    tenant.publish()
}

fn channel(batch: u64) {
    let mut pair = Pair::new(Geometry::DEFAULT);
    let (message, mut buffer) = ([7_u8; BYTES], [0_u8; 4096]);
    let flow = pair.flow;
    // The first rounds touch every slot; callgrind counts by function, so they are run without the stages.
    for round in 0..WARM_UP + ROUNDS {
        if round % batch != 0 {
            continue;
        }
        if round < WARM_UP {
            turn(&mut pair, batch, &message, &mut buffer);
            continue;
        }
        let mut sent = Vec::with_capacity(64);
        for _ in 0..batch {
            stage_send(&mut pair.channel, flow, black_box(&message)).expect("there is room");
        }
        for _ in 0..batch {
            match stage_dequeue(&mut pair.tenant) {
                Ok(Some(Taken::Message { handle, .. })) => sent.push(handle),
                other => panic!("a message was published, not {other:?}"),
            }
        }
        for _ in 0..batch {
            assert_eq!(stage_enqueue(&mut pair.tenant, pair.slot, black_box(&message)), Ok(true));
        }
        stage_settle(&mut pair.tenant, pair.slot, &sent).expect("a real channel breaks no rule");
        for _ in 0..batch {
            let received = stage_receive(&mut pair.channel, flow, black_box(&mut buffer));
            assert!(matches!(received, Ok(Some(BYTES))));
        }
    }
}

/// As one round of the stages, uncounted.
fn turn(pair: &mut Pair, batch: u64, message: &[u8], buffer: &mut [u8]) {
    for _ in 0..batch {
        pair.channel.try_send(pair.flow, message).expect("there is room");
        let Ok(Some(Taken::Message { handle, .. })) = pair.tenant.take() else {
            panic!("a message was published")
        };
        assert_eq!(pair.tenant.deliver_whole(pair.slot, message), Ok(true));
        pair.tenant.acknowledged(pair.slot, std::iter::once(handle));
    }
    while let Ok(Some(returned)) = pair.tenant.take_back() {
        black_box(returned);
    }
    assert!(pair.tenant.publish().is_ok());
    for _ in 0..batch {
        assert!(matches!(pair.channel.try_recv_into(pair.flow, buffer), Ok(Some(BYTES))));
    }
}

#[inline(never)]
fn stage_engine(rig: &mut Rig<MemoryDriver>, now: Instant) -> usize {
    rig.worker.duty_cycle(now)
}

/// Duty cycles that find nothing.
fn empty() {
    let mut rig = Rig::loop_back();
    let at = ELSEWHERE.parse().expect("an address");
    let _channel = rig.while_running(|options| {
        let mut channel = options.attach_channel().expect("attaches");
        let _flows = connect_to_self(&mut channel, at);
        channel
    });
    let mut now = rig.now() + Duration::from_millis(1);
    for round in 0..WARM_UP + ROUNDS {
        now += Duration::from_nanos(100);
        if round < WARM_UP {
            rig.worker.duty_cycle(now);
        } else {
            stage_engine(&mut rig, now);
        }
    }
}

/// `window` requests are under way; the application and the engine, which is both hosts', take turns.
fn rpc(window: u64) {
    let mut rig = Rig::loop_back();
    let at = ELSEWHERE.parse().expect("an address");
    let (mut channel, client, server) = rig.while_running(|options| {
        let mut channel = options.attach_channel().expect("attaches");
        let (client, server) = connect_to_self(&mut channel, at);
        (channel, client, server)
    });
    let message = [7_u8; BYTES];
    let mut buffer = [0_u8; 4096];
    let mut now = rig.now() + Duration::from_millis(1);
    let (mut sent, mut done) = (0, 0);
    while done < WARM_UP + ROUNDS {
        while sent < done + window && channel.try_send(client, &message).is_ok() {
            sent += 1;
        }
        now += Duration::from_nanos(500);
        if done < WARM_UP {
            rig.worker.duty_cycle(now);
        } else {
            stage_engine(&mut rig, now);
        }
        while let Ok(Some(length)) = channel.try_recv_into(server, &mut buffer) {
            channel.try_send(server, &buffer[..length]).expect("as many as requests");
        }
        while let Ok(Some(_)) = channel.try_recv_into(client, &mut buffer) {
            done += 1;
        }
    }
}
