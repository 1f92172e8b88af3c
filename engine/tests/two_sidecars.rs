//! Applications of two sidecars talk over the kernel's UDP sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use common::{PATIENCE, TestSidecar, eventually, pattern};
use machnet_client::shm::Geometry;
use machnet_client::{Attachment, Error, Flow, Listener};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Two sidecars on addresses and a port that no other test has.
fn two() -> (TestSidecar, TestSidecar) {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // By process, too: other test binaries may run at the same time.
    let base = 20_000 + u16::try_from(std::process::id() % 500).unwrap() * 20;
    let port = base + number;
    let start = |address: &str| TestSidecar::start(address, |config| config.udp_port = port);
    (start("127.0.0.1"), start("127.0.0.2"))
}

fn connected(client: &Attachment, server: &TestSidecar, listener: &Listener) -> (Flow, Flow) {
    let flow = client.connect(server.at(listener.local_addr().port())).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    (flow, accepted)
}

#[test]
fn messages_of_every_size_go_round() {
    let (left, right) = two();
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    assert_eq!(flow.peer_addr(), right.at(7));
    assert_eq!(accepted.peer_addr(), flow.local_addr());
    for (number, len) in [1, 112, 113, 1400, 1500, 100_000, 8 << 20].into_iter().enumerate() {
        let message = pattern(number, len);
        flow.send_timeout(&message, PATIENCE).unwrap();
        let got = accepted.recv_timeout(PATIENCE).unwrap();
        assert!(*got == *message, "message of {len} bytes arrives intact");
        accepted.send_timeout(&got, PATIENCE).unwrap();
        drop(got);
        let back = flow.recv_timeout(PATIENCE).unwrap();
        assert!(*back == *message, "message of {len} bytes comes back intact");
    }
}

#[test]
fn thousands_of_messages_arrive_once_and_in_order_on_many_flows() {
    let (left, right) = two();
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 64).unwrap();
    let flows: Vec<_> = (0..10).map(|_| connected(&client, &right, &listener)).collect();
    std::thread::scope(|scope| {
        for (sender, receiver) in &flows {
            scope.spawn(move || {
                for number in 0..500_usize {
                    sender.send_timeout(&pattern(number, 1 + number * 7 % 3000), PATIENCE).unwrap();
                }
            });
            scope.spawn(move || {
                for number in 0..500_usize {
                    let got = receiver.recv_timeout(PATIENCE).unwrap();
                    assert!(*got == *pattern(number, 1 + number * 7 % 3000), "message {number}");
                }
            });
        }
    });
}

#[test]
fn close_reset_and_refusal_reach_the_other_host() {
    let (left, right) = two();
    let (client, server) = (left.attach(), right.attach());
    assert!(matches!(client.connect(right.at(9)), Err(Error::Refused { .. })));
    let listener = server.listen("0.0.0.0:9", 1).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    flow.send(b"last").unwrap();
    flow.close_wait(PATIENCE).unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"last");
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
    let (flow, accepted) = connected(&client, &right, &listener);
    accepted.abort();
    assert!(matches!(flow.recv_timeout(PATIENCE), Err(Error::Reset { .. })));
    let first = client.connect(right.at(9)).unwrap();
    assert!(matches!(client.connect(right.at(9)), Err(Error::Busy { .. })));
    drop(listener);
    assert!(matches!(first.recv_timeout(PATIENCE), Err(Error::Reset { .. })));
}

#[test]
fn a_host_that_does_not_answer_fails_the_connect_in_time() {
    let (left, _right) = two();
    let client = left.attach();
    let nobody = "127.0.0.77:5".parse().unwrap();
    let result = client.connect_timeout(nobody, None, Some(Duration::from_millis(300)));
    assert!(matches!(result, Err(Error::ConnectTimedOut { .. })), "{:?}", result.err());
    let elsewhere = Some("10.1.2.3".parse().unwrap());
    assert!(client.connect_timeout(nobody, elsewhere, None).is_err());
    assert!(client.connect("0.0.0.0:5").is_err());
    assert!(client.connect("224.0.0.1:5").is_err());
}

#[test]
fn a_receiver_that_does_not_read_stops_its_sender_and_nobody_else() {
    let (left, right) = two();
    let client = left.attach();
    let server = right.options().geometry(Geometry::SMALL).attach().unwrap();
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (lazy, lazy_end) = connected(&client, &right, &listener);
    let (busy, busy_end) = connected(&client, &right, &listener);
    let mut sent = 0_u32;
    while lazy.send_timeout(&sent.to_le_bytes(), Duration::from_millis(500)).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "back-pressure comes");
    }
    for number in 0..500_usize {
        busy.send_timeout(&pattern(number, 2000), PATIENCE).unwrap();
        assert!(*busy_end.recv_timeout(PATIENCE).unwrap() == *pattern(number, 2000));
    }
    for number in 0..sent {
        assert_eq!(&*lazy_end.recv_timeout(PATIENCE).unwrap(), &number.to_le_bytes());
    }
    lazy.send_timeout(b"goes on", PATIENCE).unwrap();
    assert_eq!(&*lazy_end.recv_timeout(PATIENCE).unwrap(), b"goes on");
}

#[test]
fn an_application_that_leaves_has_sent_and_its_peers_know() {
    let (left, right) = two();
    let server = right.attach();
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let client = left.attach();
    let (flow, accepted) = connected(&client, &right, &listener);
    for number in 0..100_usize {
        flow.send_timeout(&pattern(number, 5000), PATIENCE).unwrap();
    }
    drop((flow, client));
    for number in 0..100_usize {
        assert!(*accepted.recv_timeout(PATIENCE).unwrap() == *pattern(number, 5000));
    }
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
}

#[test]
fn a_sidecar_that_ends_tells_its_peers() {
    let (mut left, right) = two();
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    flow.send(b"last words").unwrap();
    left.sidecar.take().unwrap().shutdown(Duration::from_secs(2));
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"last words");
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
}

#[test]
fn strange_datagrams_are_counted_and_change_nothing() {
    let (left, right) = two();
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
    let target = right.sidecar().local_address();
    for number in 0..2000_usize {
        stranger.send_to(&pattern(number, number % 1400), target).unwrap();
    }
    flow.send(b"undisturbed").unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"undisturbed");
    eventually("all is acknowledged", || flow.unacknowledged() == 0);
}
