//! Applications of one sidecar talk to each other through it, without a network.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use common::{PATIENCE, TestSidecar, pattern};
use machnet_client::Error;
use machnet_client::shm::Geometry;

#[test]
fn messages_of_every_size_go_round_between_two_applications() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    assert_eq!(flow.peer_addr(), listener.local_addr());
    assert_eq!(accepted.peer_addr(), flow.local_addr());
    for (number, len) in [1, 111, 112, 113, 4096, 4097, 100_000, 8 << 20].into_iter().enumerate() {
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
fn a_flow_that_was_accepted_outlives_its_listener() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    for round in 0..200 {
        let listener = server.listen("0.0.0.0:0", 8).unwrap();
        let flow = client.connect(listener.local_addr()).unwrap();
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        drop(listener); // Says so on the socket, while the accept is still in the ring.
        accepted.send_timeout(b"alive", PATIENCE).unwrap();
        assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), b"alive", "round {round}");
    }
}

#[test]
fn a_channel_connects_to_its_own_listener() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let app = sidecar.attach();
    let listener = app.listen("0.0.0.0:7", 8).unwrap();
    let flow = app.connect(sidecar.at(7)).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    flow.send(b"to myself").unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"to myself");
    accepted.send(b"and back").unwrap();
    assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), b"and back");
}

#[test]
fn a_close_comes_after_all_messages_and_tells_the_closer_when_it_is_done() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    for number in 0..200_u32 {
        flow.send_timeout(&number.to_le_bytes(), PATIENCE).unwrap();
    }
    flow.close_wait(PATIENCE).unwrap();
    for number in 0..200_u32 {
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), &number.to_le_bytes());
    }
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
}

#[test]
fn a_reset_comes_at_once_and_says_why() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    flow.send(b"first").unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"first");
    flow.abort();
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Reset { .. })));
}

#[test]
fn nobody_listening_and_a_full_backlog_are_told_apart() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    assert!(matches!(client.connect(sidecar.at(9)), Err(Error::Refused { .. })));
    let listener = server.listen("0.0.0.0:9", 2).unwrap();
    let _first = client.connect(sidecar.at(9)).unwrap();
    let _second = client.connect(sidecar.at(9)).unwrap();
    assert!(matches!(client.connect(sidecar.at(9)), Err(Error::Busy { .. })));
    let _accepted = listener.accept_timeout(PATIENCE).unwrap();
    let _third = client.connect(sidecar.at(9)).unwrap();
    assert!(matches!(server.listen("0.0.0.0:9", 2), Err(Error::AddressInUse { .. })));
    assert!(matches!(client.listen("0.0.0.0:9", 2), Err(Error::AddressInUse { .. })));
    assert!(matches!(client.listen("10.99.99.99:9", 2), Err(Error::AddressNotLocal { .. })));
    drop(listener);
    common::eventually("the port is free again", || client.listen("0.0.0.0:9", 2).is_ok());
}

#[test]
fn a_receiver_that_does_not_read_stops_its_sender_and_nobody_else() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.options().geometry(Geometry::SMALL).attach().unwrap(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let lazy = client.connect(listener.local_addr()).unwrap();
    let lazy_end = listener.accept_timeout(PATIENCE).unwrap();
    let busy = client.connect(listener.local_addr()).unwrap();
    let busy_end = listener.accept_timeout(PATIENCE).unwrap();
    let mut sent = 0_u32;
    common::eventually("the sender is stopped", || match lazy.try_send(&sent.to_le_bytes()) {
        Ok(()) => {
            sent += 1;
            false
        }
        Err(Error::WouldBlock) => lazy.unacknowledged() >= 64,
        Err(error) => panic!("{error}"),
    });
    for number in 0..1000_usize {
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
fn both_ends_close_with_messages_that_the_other_never_read() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let attach = || sidecar.options().geometry(Geometry::SMALL).attach().unwrap();
    let (server, client) = (attach(), attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    for end in [&flow, &accepted] {
        while end.try_send(&[7; 100]).is_ok() || end.unacknowledged() < 64 {
            std::thread::yield_now();
        }
    }
    flow.shutdown().unwrap();
    accepted.shutdown_wait(PATIENCE).ok();
    flow.shutdown_wait(PATIENCE).ok();
    // The channels work on.
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    flow.send_timeout(b"again", PATIENCE).unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"again");
}

#[test]
fn detaching_delivers_what_was_sent_and_tells_the_peers() {
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let server = sidecar.attach();
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let client = sidecar.attach();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    for number in 0..100_u32 {
        flow.send_timeout(&number.to_le_bytes(), PATIENCE).unwrap();
    }
    client.close().unwrap();
    for number in 0..100_u32 {
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), &number.to_le_bytes());
    }
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
}

#[test]
fn a_sidecar_that_ends_tells_its_applications() {
    let mut sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let (server, client) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    flow.send(b"last words").unwrap();
    let reader = std::thread::spawn(move || {
        let first = accepted.recv_timeout(PATIENCE).unwrap().to_vec();
        (first, accepted.recv_timeout(PATIENCE))
    });
    sidecar.sidecar.take().unwrap().shutdown(std::time::Duration::from_millis(200));
    let (first, then) = reader.join().unwrap();
    assert_eq!(first, b"last words");
    assert!(matches!(then, Err(Error::Closed | Error::Reset { .. } | Error::EngineLost)), "{then:?}");
    assert!(matches!(client.listen("0.0.0.0:0", 1), Err(Error::EngineLost)));
}
