//! What an application is told about its flows.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use common::{PATIENCE, TestSidecar, eventually, pattern};
use machnet_client::control::{FailureCode, OLDEST_VERSION, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::{Error, Flow, FlowStats};
use machnet_engine::clock::Clock;
use machnet_engine::driver::fault::{FaultConfig, FaultDriver};
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryNetwork};
use raw::{RawApp, connect, hello, reply};
use std::net::SocketAddr;

const PORT: u16 = 7;

/// Two sidecars over a network in memory that loses so many datagrams of a thousand.
fn two(lose_per_mille: u16) -> (TestSidecar, TestSidecar) {
    let addresses = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], 31_580)));
    let mut sidecars = MemoryNetwork::open(&addresses, DEFAULT_MAX_DATAGRAM).into_iter().map(|driver| {
        let faults = FaultConfig { seed: [3, 4], lose_per_mille, ..FaultConfig::default() };
        let clock = Clock::start();
        TestSidecar::start_over(FaultDriver::new(driver, faults, move || clock.now()))
    });
    (sidecars.next().unwrap(), sidecars.next().unwrap())
}

/// Sends messages of these lengths one way, and one byte back for each.
fn exchange(from: &Flow, to: &Flow, lengths: &[usize]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (number, &len) in lengths.iter().enumerate() {
                from.send_timeout(&pattern(number, len), PATIENCE).unwrap();
            }
        });
        for (number, &len) in lengths.iter().enumerate() {
            assert!(*to.recv_timeout(PATIENCE).unwrap() == *pattern(number, len), "message {number}");
            to.send_timeout(b"!", PATIENCE).unwrap();
        }
        for _ in lengths {
            from.recv_timeout(PATIENCE).unwrap();
        }
    });
}

/// The last acknowledgement may still be under way when the last message is there.
fn settled(flow: &Flow) -> FlowStats {
    let is_settled = |stats: FlowStats| stats.messages_acknowledged == stats.messages_sent;
    eventually("everything is acknowledged", || is_settled(flow.stats().unwrap()));
    flow.stats().unwrap()
}

fn check_counts(client: FlowStats, server: FlowStats, lengths: &[usize]) {
    let count = lengths.len() as u64;
    let bytes = lengths.iter().sum::<usize>() as u64;
    let of = |stats: FlowStats| {
        [
            (stats.messages_sent, stats.bytes_sent),
            (stats.messages_acknowledged, stats.bytes_acknowledged),
            (stats.messages_received, stats.bytes_received),
        ]
    };
    assert_eq!(of(client), [(count, bytes), (count, bytes), (count, count)]);
    assert_eq!(of(server), [(count, count), (count, count), (count, bytes)]);
}

#[test]
fn counts_between_two_hosts_are_exact_and_the_path_is_described() {
    let (left, right) = two(0);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen(right.at(PORT), 8).unwrap();
    let flow = client.connect(right.at(PORT)).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    let lengths: Vec<usize> = (0..500).map(|number| [1, 112, 113, 1400, 40_000][number % 5]).collect();
    exchange(&flow, &accepted, &lengths);
    let (of_client, of_server) = (settled(&flow), settled(&accepted));
    check_counts(of_client, of_server, &lengths);
    for stats in [of_client, of_server] {
        assert!(!stats.local);
        assert!(stats.smoothed_rtt_ns > 0 && stats.min_rtt_ns > 0, "{stats:?}");
        assert!(stats.congestion_window_bytes > 0 && stats.path_datagram_bytes >= 1200, "{stats:?}");
        assert!(stats.datagrams_sent > 0 && stats.datagrams_received > 0, "{stats:?}");
        assert!(stats.wire_bytes_sent > stats.bytes_sent, "headers count on the wire: {stats:?}");
    }
    flow.close_wait(PATIENCE).unwrap();
    eventually("the close arrives", || matches!(accepted.try_recv(), Err(Error::Closed)));
    check_counts(of_client, accepted.stats().unwrap(), &lengths);
}

#[test]
fn a_network_that_loses_shows_in_the_retransmissions() {
    let (left, right) = two(100);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen(right.at(PORT), 8).unwrap();
    let flow = client.connect(right.at(PORT)).unwrap();
    flow.send_timeout(b"the server learns of the flow by this", PATIENCE).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    accepted.recv_timeout(PATIENCE).unwrap();
    let before = (settled(&flow), accepted.stats().unwrap());
    let lengths = [5_000; 200];
    exchange(&flow, &accepted, &lengths);
    let stats = settled(&flow);
    assert!(stats.retransmissions > 0, "{stats:?}");
    assert_eq!(stats.messages_acknowledged - before.0.messages_acknowledged, 200, "counted once each");
    assert_eq!(stats.bytes_sent - before.0.bytes_sent, 200 * 5_000, "without repeats");
    let of_server = accepted.stats().unwrap();
    assert_eq!(of_server.messages_received - before.1.messages_received, 200);
}

#[test]
fn a_flow_inside_one_host_says_so() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (client, server) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen(sidecar.at(PORT), 8).unwrap();
    let flow = client.connect(sidecar.at(PORT)).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    let lengths: Vec<usize> = (0..300).map(|number| 1 + number * 37 % 9000).collect();
    exchange(&flow, &accepted, &lengths);
    let (of_client, of_server) = (settled(&flow), settled(&accepted));
    check_counts(of_client, of_server, &lengths);
    for stats in [of_client, of_server] {
        assert!(stats.local);
        let path = [stats.smoothed_rtt_ns, stats.retransmissions, stats.congestion_window_bytes];
        assert_eq!(path, [0; 3], "there is no path");
    }
    let id = flow.into_channel_mode().unwrap();
    assert_eq!(client.flow_stats(id).unwrap().messages_sent, 300);
}

#[test]
fn a_channel_of_one_thread_is_told_the_same() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let server = sidecar.attach();
    let listener = server.listen(sidecar.at(PORT), 8).unwrap();
    let mut channel = sidecar.options().attach_channel().unwrap();
    let flow = channel.connect(sidecar.at(PORT), None, None).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    channel.send(flow, b"one", None).unwrap();
    accepted.recv_timeout(PATIENCE).unwrap();
    let stats = channel.flow_stats(flow).unwrap();
    assert_eq!((stats.messages_sent, stats.bytes_sent, stats.local), (1, 3, true));
    channel.close_flow(flow).unwrap();
}

#[test]
fn what_was_not_acknowledged_stays_so_after_the_end() {
    let (left, right) = two(0);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen(right.at(PORT), 8).unwrap();
    let flow = client.connect(right.at(PORT)).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    exchange(&flow, &accepted, &[10]);
    let before = settled(&accepted);
    flow.abort();
    eventually("the reset arrives", || matches!(accepted.try_recv(), Err(Error::Reset { .. })));
    let after = accepted.stats().unwrap();
    assert_eq!((after.messages_sent, after.bytes_acknowledged), (1, before.bytes_acknowledged));
    assert_eq!(after.path_datagram_bytes, 0, "an ended flow has no path");
}

#[test]
fn a_question_that_makes_no_sense_is_refused_by_name() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let socket = connect(sidecar.sidecar().socket());
    socket.send(&Request::FlowStats { request: 9, flow: 0 }.encode(), &[]).unwrap();
    let answer = reply(&socket);
    assert!(matches!(answer, Some(Reply::Failed { code: FailureCode::Unexpected, .. })), "{answer:?}");
    let app = RawApp::attach(sidecar.sidecar().socket(), Geometry::SMALL);
    for flow in [0, 1, 0x0001_0000, u32::MAX] {
        app.socket.send(&Request::FlowStats { request: 5, flow }.encode(), &[]).unwrap();
        let answer = reply(&app.socket);
        assert!(
            matches!(answer, Some(Reply::Failed { request: 5, code: FailureCode::NoFlow, .. })),
            "{flow}: {answer:?}"
        );
    }
}

#[test]
fn a_flow_of_another_channel_is_none() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let server = sidecar.attach();
    let listener = server.listen(sidecar.at(PORT), 8).unwrap();
    let flow = server.connect(sidecar.at(PORT)).unwrap();
    let _accepted = listener.accept_timeout(PATIENCE).unwrap();
    let stranger = RawApp::attach(sidecar.sidecar().socket(), Geometry::SMALL);
    stranger.socket.send(&Request::FlowStats { request: 1, flow: flow.handle() }.encode(), &[]).unwrap();
    let answer = reply(&stranger.socket);
    assert!(matches!(answer, Some(Reply::Failed { code: FailureCode::NoFlow, .. })), "{answer:?}");
}

#[test]
fn an_application_of_the_first_version_is_served_as_before() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let socket = connect(sidecar.sidecar().socket());
    let Request::Hello { geometry, doorbell, engine, name, .. } = hello(Geometry::SMALL, u32::MAX) else {
        panic!("no hello")
    };
    let versions = (OLDEST_VERSION, OLDEST_VERSION);
    let old = Request::Hello { versions, geometry, doorbell, engine, name };
    socket.send(&old.encode(), &[]).unwrap();
    let answer = reply(&socket);
    assert!(matches!(answer, Some(Reply::Welcome { version: OLDEST_VERSION, .. })), "{answer:?}");
}
