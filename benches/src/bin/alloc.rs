//! Figure 21: heap allocations per message once a flow is open, of the application and its engine together. One thread runs
//! both, step by step, so that the counting allocator sees all that either of them does and nothing else.

use machnet_benches::rig::{self, ADDRESS, ELSEWHERE, PATIENCE, Rig};
use machnet_benches::{figure, stats};
use machnet_client::{Attachment, Channel, Flow, FlowId};
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::MemoryDriver;
use machnet_engine::driver::udp::{UdpConfig, UdpDriver};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io;
use std::net::SocketAddr;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Lengths of messages: in a slot, the largest of those, the smallest in a buffer, one buffer, and many datagrams.
const SIZES: [usize; 5] = [64, 112, 113, 4096, 65_536];
/// Messages of each length before and while allocations are counted.
const WARM_UP: u64 = 2_000;
const MESSAGES: u64 = 20_000;
/// Messages sent before the first of them is received.
const BATCH: u64 = 8;
/// Turns of the engines after which a message is lost for good.
const MOST_TURNS: u32 = 1_000_000;

fn main() -> io::Result<()> {
    println!(
        "Allocations and reallocations per message, application and engines together; {MESSAGES} messages each."
    );
    println!("{:44}{}", "bytes", SIZES.map(|size| format!("{size:>10}")).concat());
    let mut most = 0.0_f64;
    let mut row = |name: &str, per_message: [f64; SIZES.len()]| {
        println!("{name:44}{}", per_message.map(|count| format!("{count:>10.4}")).concat());
        most = per_message.into_iter().fold(most, f64::max);
    };
    let own: SocketAddr = ADDRESS.parse().map_err(io::Error::other)?;
    let same_host = SocketAddr::new(own.ip(), 7);
    let elsewhere: SocketAddr = ELSEWHERE.parse().map_err(io::Error::other)?;
    row("same host, copied", of_channels(same_host));
    row("same host, lent", of_flows(same_host));
    row("datagrams in memory, copied", of_channels(elsewhere));
    row("datagrams in memory, lent", of_flows(elsewhere));
    row("datagrams over kernel UDP, copied", over_udp()?);
    println!("Copied: try_send and try_recv_into of a Channel. Lent: lend, send and try_recv of a Flow.");
    figure("allocations-per-message", most);
    Ok(())
}

/// Counts for each length. `turn` runs the engines once, `send` and `receive` say whether they did.
fn count(
    mut turn: impl FnMut(),
    mut send: impl FnMut(usize) -> bool,
    mut receive: impl FnMut(usize) -> bool,
) -> [f64; SIZES.len()] {
    SIZES.map(|size| {
        let mut pass = |messages: u64| {
            for _ in 0..messages / BATCH {
                for _ in 0..BATCH {
                    repeat(&mut turn, || send(size));
                }
                for _ in 0..BATCH {
                    repeat(&mut turn, || receive(size));
                }
            }
        };
        pass(WARM_UP);
        let region = Region::new(ALLOCATOR);
        pass(MESSAGES);
        let change = region.change();
        stats::to_f64((change.allocations + change.reallocations) as u64) / stats::to_f64(MESSAGES)
    })
}

fn repeat(turn: &mut impl FnMut(), mut attempt: impl FnMut() -> bool) {
    for _ in 0..MOST_TURNS {
        if attempt() {
            return;
        }
        turn();
    }
    panic!("a message did not arrive");
}

fn turn<D: Driver>(rig: &mut Rig<D>) {
    let now = rig.now();
    rig.worker.duty_cycle(now);
}

/// Two channels of one sidecar.
fn of_channels(at: SocketAddr) -> [f64; SIZES.len()] {
    let mut rig: Rig<MemoryDriver> = Rig::loop_back();
    let (mut client, mut server, (out, back)) = rig.while_running(|options| {
        let mut client = options.clone().attach_channel().expect("the sidecar runs");
        let mut server = options.attach_channel().expect("the sidecar runs");
        let flows = rig::connect(&mut client, &mut server, at);
        (client, server, flows)
    });
    count(|| turn(&mut rig), sender(&mut client, out), receiver(&mut server, back))
}

fn sender(channel: &mut Channel, flow: FlowId) -> impl FnMut(usize) -> bool {
    let message = vec![7; SIZES[SIZES.len() - 1]];
    move |size| channel.try_send(flow, &message[..size]).is_ok()
}

fn receiver(channel: &mut Channel, flow: FlowId) -> impl FnMut(usize) -> bool {
    let mut buffer = vec![0; SIZES[SIZES.len() - 1]];
    move |size| match channel.try_recv_into(flow, &mut buffer).expect("the flow is open") {
        Some(length) => length == size,
        None => false,
    }
}

/// Two attachments of one sidecar, whose messages are written and read in place where they do not fit a slot.
fn of_flows(at: SocketAddr) -> [f64; SIZES.len()] {
    let mut rig: Rig<MemoryDriver> = Rig::loop_back();
    let (out, back) = rig.while_running(|options| {
        let client: Attachment = options.clone().attach().expect("the sidecar runs");
        let server: Attachment = options.attach().expect("the sidecar runs");
        let listener =
            server.listen(SocketAddr::from(([0, 0, 0, 0], at.port())), 0).expect("the port is free");
        let out: Flow = client.connect(at).expect("somebody listens");
        out.send(b"first").expect("a new flow has room");
        let back = listener.accept().expect("the flow arrives");
        let first = back.recv_timeout(PATIENCE).expect("the first message arrives");
        assert_eq!(&*first, b"first");
        (out, back)
    });
    let send = |size: usize| {
        let Ok(mut loan) = out.lend(size) else { return false };
        loan[..8].copy_from_slice(&[7; 8]);
        loan.send().is_ok()
    };
    let receive =
        |size: usize| back.try_recv().expect("the flow is open").is_some_and(|message| message.len() == size);
    count(|| turn(&mut rig), send, receive)
}

/// A channel of each of two sidecars on this machine.
fn over_udp() -> io::Result<[f64; SIZES.len()]> {
    let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let open = |ip: &str| -> io::Result<Rig<UdpDriver>> {
        let address = SocketAddr::new(ip.parse().map_err(io::Error::other)?, port);
        let driver = UdpDriver::open(address, &UdpConfig::default()).map_err(io::Error::other)?;
        Ok(Rig::over(driver, |config| config.udp_port = port))
    };
    let (mut here, mut there) = (open("127.0.0.1")?, open("127.0.0.2")?);
    let (mut client, mut server, (out, back)) = here.while_running(|here| {
        there.while_running(|there| {
            let mut client = here.attach_channel().expect("the sidecar runs");
            let mut server = there.attach_channel().expect("the sidecar runs");
            let flows = rig::connect(&mut client, &mut server, SocketAddr::from(([127, 0, 0, 2], 7)));
            (client, server, flows)
        })
    });
    let both = || {
        turn(&mut here);
        turn(&mut there);
    };
    Ok(count(both, sender(&mut client, out), receiver(&mut server, back)))
}
