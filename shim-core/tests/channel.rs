//! The single-threaded channel against the smallest engine.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use fake::{BUSY, ECHO, HOLD, REFUSE, SILENT, Sidecar};
use machnet_client::control::Reply;
use machnet_client::shm::layout::{SLOT_WORDS, receive_kind};
use machnet_client::shm::ring::SlotHead;
use machnet_client::{
    AttachOptions, Channel, DoorbellKind, Error, FlowId, Geometry, PeerFault, ResetReason, WaitPolicy,
};
use std::net::SocketAddr;
use std::time::Duration;

const LONG: Option<Duration> = Some(Duration::from_secs(20));
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn options(sidecar: &Sidecar) -> AttachOptions {
    AttachOptions::new().socket(&sidecar.path).geometry(Geometry::SMALL).name("test")
}

fn attach(sidecar: &Sidecar) -> Channel {
    options(sidecar).attach_channel().unwrap()
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

fn connect(channel: &mut Channel, port: u16) -> FlowId {
    channel.connect(peer(port), None, None).unwrap()
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..251_u8).cycle().map(|index| index.wrapping_add(seed)).take(length).collect()
}

#[test]
fn messages_of_every_size_come_back_in_order() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, ECHO);
    let limit = Geometry::SMALL.max_send() as usize;
    let sizes = [1, 7, 8, 63, 64, 65, 111, 112, 113, 2047, 2048, 2049, 10_000, limit];
    for (seed, &size) in (0..).zip(&sizes) {
        let message = pattern(size, seed);
        channel.send(flow, &message, LONG).unwrap();
        let echo = channel.recv(flow, LONG).unwrap();
        assert_eq!(*echo, *message);
        assert!(!echo.is_lent() || size > 112);
        assert!(echo.is_lent() || size <= 112 || size > 2048, "one buffer is always lent");
        drop(echo); // Else it may hold the buffers that the next one needs.
        let mut buffer = vec![0; size];
        channel.send(flow, &message, LONG).unwrap();
        let length = loop {
            if let Some(length) = channel.try_recv_into(flow, &mut buffer).unwrap() {
                break length;
            }
        };
        assert_eq!(buffer[..length], message);
    }
    channel.close().unwrap();
}

#[test]
fn scattered_messages_are_gathered() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, ECHO);
    sidecar.with(|engine| engine.scatter = true);
    let message = pattern(9 * 2048 - 5, 3);
    channel.send(flow, &message, LONG).unwrap();
    let echo = channel.recv(flow, LONG).unwrap();
    assert!(!echo.is_lent());
    assert_eq!(*echo, *message);
    drop(echo);
    assert!(channel.try_recv(flow).unwrap().is_none());
    sidecar.until("the buffers are home", |engine| engine.all_home());
}

#[test]
fn a_message_that_does_not_fit_the_buffer_stays() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, ECHO);
    for size in [50, 5000] {
        channel.send(flow, &pattern(size, 1), LONG).unwrap();
        let mut small = [0; 10];
        let needed = loop {
            match channel.try_recv_into(flow, &mut small) {
                Ok(None) => {}
                Err(Error::BufferTooSmall { needed }) => break needed,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(needed, size);
        assert_eq!(*channel.recv(flow, LONG).unwrap(), *pattern(size, 1));
    }
}

#[test]
fn what_cannot_be_sent_says_why() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, ECHO);
    let limit = Geometry::SMALL.max_send() as usize;
    assert!(matches!(channel.try_send(flow, &[]), Err(Error::EmptyMessage)));
    let error = channel.try_send(flow, &vec![0; limit + 1]).unwrap_err();
    assert!(
        matches!(error, Error::MessageTooLarge { len, limit: told } if len == limit + 1 && told == limit)
    );
    let stranger = FlowId::from_handle(flow.handle() + 1);
    assert!(matches!(channel.try_send(stranger, b"x"), Err(Error::UnknownFlow)));
    assert!(matches!(channel.try_recv(stranger), Err(Error::UnknownFlow)));
    assert!(matches!(channel.close_flow(stranger), Err(Error::UnknownFlow)));
}

#[test]
fn connects_fail_with_their_reasons() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    assert!(
        matches!(channel.connect(peer(REFUSE), None, None), Err(Error::Refused { peer: p }) if p == peer(REFUSE))
    );
    assert!(matches!(channel.connect(peer(BUSY), None, None), Err(Error::Busy { .. })));
    assert!(matches!(channel.connect(peer(0), None, None), Err(Error::InvalidArgument { .. })));
    let pending = channel.start_connect(peer(SILENT), None, None).unwrap();
    assert!(matches!(channel.try_finish_connect(pending), Ok(None)));
}

#[test]
fn credit_runs_out_and_comes_back() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    let other = connect(&mut channel, ECHO);
    let credit = Geometry::SMALL.flow_credit;
    for number in 0..credit {
        channel.try_send(flow, &number.to_le_bytes()).unwrap();
    }
    assert!(matches!(channel.try_send(flow, b"more"), Err(Error::WouldBlock)));
    assert!(matches!(channel.send(flow, b"more", SHORT), Err(Error::TimedOut)));
    // Another flow does not notice.
    channel.try_send(other, b"hello").unwrap();
    assert_eq!(*channel.recv(other, LONG).unwrap(), *b"hello");
    let handle = flow.handle();
    sidecar.with(move |engine| engine.acknowledge(handle, 2));
    channel.send(flow, b"one", LONG).unwrap();
    channel.send(flow, b"two", LONG).unwrap();
    assert!(matches!(channel.try_send(flow, b"three"), Err(Error::WouldBlock)));
}

#[test]
fn tx_buffers_run_out_for_one_flow_and_not_for_the_next() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    let other = connect(&mut channel, ECHO);
    let mut sent = 0;
    while channel.try_send(flow, &pattern(2048, 0)).is_ok() {
        sent += 1;
    }
    assert!(sent > Geometry::SMALL.tx_buffers / 2 && sent < Geometry::SMALL.tx_buffers);
    channel.try_send(other, &pattern(4000, 1)).unwrap();
    assert_eq!(channel.recv(other, LONG).unwrap().len(), 4000);
    let handle = flow.handle();
    sidecar.with(move |engine| engine.acknowledge(handle, 1));
    channel.send(flow, &pattern(2048, 0), LONG).unwrap();
    // The end brings every buffer home.
    sidecar.with(move |engine| engine.end(handle, receive_kind::RESET, 9));
    let error = channel.recv(flow, LONG).unwrap_err();
    assert!(
        matches!(error, Error::Reset { reason: ResetReason::Timeout, unacknowledged } if unacknowledged == sent)
    );
    let again = connect(&mut channel, HOLD);
    for _ in 0..sent {
        channel.try_send(again, &pattern(2048, 0)).unwrap();
    }
}

#[test]
fn a_flow_that_nobody_reads_does_not_stop_the_others() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let unread = connect(&mut channel, HOLD);
    let busy = connect(&mut channel, ECHO);
    let handle = unread.handle();
    sidecar.with(move |engine| (0..20_u8).for_each(|number| engine.deliver(handle, &[number])));
    for number in 0..2000_u32 {
        channel.send(busy, &number.to_le_bytes(), LONG).unwrap();
        assert_eq!(*channel.recv(busy, LONG).unwrap(), number.to_le_bytes());
    }
    for number in 0..20 {
        assert_eq!(*channel.try_recv(unread).unwrap().unwrap(), [number]);
    }
    assert!(channel.try_recv(unread).unwrap().is_none());
}

#[test]
fn queued_messages_come_before_the_end() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    for (kind, reset) in [(receive_kind::CLOSED, false), (receive_kind::RESET, true)] {
        let flow = connect(&mut channel, HOLD);
        let handle = flow.handle();
        channel.try_send(flow, b"never acknowledged").unwrap();
        sidecar.until("it arrived", |engine| engine.flows.values().any(|flow| flow.sent == 1));
        sidecar.with(move |engine| {
            engine.deliver(handle, b"first");
            engine.deliver(handle, &[7; 3000]);
            engine.end(handle, kind, 5);
        });
        assert_eq!(*channel.recv(flow, LONG).unwrap(), *b"first");
        assert_eq!(channel.recv(flow, LONG).unwrap().len(), 3000);
        let error = channel.recv(flow, LONG).unwrap_err();
        if reset {
            assert!(matches!(error, Error::Reset { reason: ResetReason::Aborted, unacknowledged: 1 }));
        } else {
            assert!(matches!(error, Error::Closed));
        }
        assert!(channel.try_send(flow, b"late").is_err());
        assert!(matches!(channel.try_recv(flow), Err(Error::Closed | Error::Reset { .. })));
        channel.close_flow(flow).unwrap();
        assert!(matches!(channel.try_recv(flow), Err(Error::UnknownFlow)));
        sidecar.until("it was released", |engine| engine.flows.is_empty() && engine.all_home());
    }
}

#[test]
fn a_close_goes_behind_the_last_message_and_a_new_flow_gets_a_new_handle() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let mut before = Vec::new();
    for round in 0..50_u8 {
        let flow = connect(&mut channel, 1000);
        assert!(!before.contains(&flow.handle()));
        before.push(flow.handle());
        for number in 0..round % 5 {
            channel.send(flow, &[number], LONG).unwrap();
        }
        channel.close_flow(flow).unwrap();
        while channel.try_recv(flow).is_ok() {}
        assert!(channel.try_recv(flow).is_err());
    }
    channel.close().unwrap();
}

/// Lets the channel take what came, naming no flow.
fn poll(channel: &mut Channel) {
    assert!(channel.try_recv_any().unwrap().is_none());
}

#[test]
fn what_comes_for_a_closed_flow_is_given_back() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    let handle = flow.handle();
    channel.try_send(flow, b"held").unwrap();
    sidecar.with(move |engine| {
        engine.deliver(handle, b"before");
        engine.deliver(handle, &[1; 4000]);
    });
    channel.close_flow(flow).unwrap();
    sidecar.with(move |engine| {
        engine.deliver(handle, b"after");
        engine.deliver(handle, &[2; 4000]);
    });
    sidecar.until("the close came", |engine| engine.flows.values().all(|flow| flow.closing));
    assert!(sidecar.with(|engine| engine.released.is_empty()));
    sidecar.with(move |engine| engine.acknowledge(handle, 1));
    while sidecar.with(|engine| engine.released.is_empty()) {
        poll(&mut channel);
    }
    sidecar.until("all is home", |engine| engine.all_home());
}

#[test]
fn listeners_hand_out_flows_and_refuse_when_closed() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let (listener, local) = channel.listen(any, 0).unwrap();
    assert_eq!(local.port(), 5000);
    let taken = SocketAddr::from(([127, 0, 0, 1], 1));
    assert!(matches!(channel.listen(taken, 0), Err(Error::AddressInUse { address }) if address == taken));
    assert!(channel.try_accept(listener).unwrap().is_none());
    assert!(matches!(channel.accept(listener, SHORT), Err(Error::TimedOut)));
    sidecar.with(|engine| {
        let number = engine.listeners[0].0;
        let first = engine.arrive(number, 50);
        engine.deliver(first, b"from the first");
        engine.arrive(number, 51);
        engine.arrive(number, 52);
    });
    let first = channel.accept(listener, LONG).unwrap();
    let second = channel.accept(listener, LONG).unwrap();
    assert_eq!(channel.flow_addresses(first).unwrap().0.port(), 50);
    assert_eq!(channel.flow_addresses(second).unwrap().0.port(), 51);
    assert_eq!(*channel.recv(first, LONG).unwrap(), *b"from the first");
    sidecar.until("both accepted", |engine| engine.accepted.len() == 2);
    channel.unlisten(listener).unwrap();
    assert!(matches!(channel.try_accept(listener), Err(Error::Closed)));
    for _ in 0..10_000 {
        poll(&mut channel);
        if sidecar.with(|engine| engine.released.len() == 1) {
            break;
        }
    }
    sidecar
        .until("the third was refused", |engine| engine.released.len() == 1 && engine.listeners.is_empty());
}

#[test]
fn in_slot_messages_are_told_in_runs() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    let handle = flow.handle();
    sidecar.with(move |engine| engine.deliver(handle, b"alone"));
    channel.recv(flow, LONG).unwrap();
    assert_eq!(sidecar.with(|engine| engine.inline_taken), 0, "one message is not told at once");
    for _ in 0..200 {
        assert!(channel.try_recv(flow).unwrap().is_none());
    }
    sidecar.until("empty polls told it", |engine| engine.inline_taken == 1);
    for number in 0..1000_u32 {
        sidecar.with(move |engine| engine.deliver(handle, &number.to_le_bytes()));
        assert_eq!(*channel.recv(flow, LONG).unwrap(), number.to_le_bytes());
    }
    assert!(sidecar.with(|engine| engine.most_out) <= 1 + 2 * 8);
}

#[test]
fn a_killed_sidecar_is_lost_and_what_came_before_is_read_first() {
    for policy in [WaitPolicy::Auto, WaitPolicy::Spin, WaitPolicy::Yield, WaitPolicy::Block] {
        let mut sidecar = Sidecar::start();
        let mut channel = options(&sidecar).wait_policy(policy).attach_channel().unwrap();
        let flow = connect(&mut channel, HOLD);
        let handle = flow.handle();
        sidecar.with(move |engine| engine.deliver(handle, b"last words"));
        sidecar.kill();
        assert_eq!(*channel.recv(flow, LONG).unwrap(), *b"last words");
        assert!(matches!(channel.recv(flow, LONG), Err(Error::EngineLost)));
        assert!(matches!(channel.try_send(flow, b"x"), Err(Error::EngineLost)));
        assert!(matches!(channel.listen(peer(0), 0), Err(Error::EngineLost)));
    }
}

#[test]
fn a_loop_that_never_waits_notices_that_the_sidecar_is_gone() {
    let mut sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    sidecar.kill();
    let error = (0..100_000).find_map(|_| channel.try_recv(flow).err());
    assert!(matches!(error, Some(Error::EngineLost)));
}

#[test]
fn loans_outlive_the_sidecar_and_the_channel() {
    let mut sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, ECHO);
    channel.send(flow, &pattern(6000, 9), LONG).unwrap();
    let message = channel.recv(flow, LONG).unwrap();
    assert!(message.is_lent());
    sidecar.kill();
    drop(channel);
    assert_eq!(*message, *pattern(6000, 9));
}

#[test]
fn a_broken_rule_of_the_engine_ends_the_channel_with_its_name() {
    type Lie = (PeerFault, fn(&mut fake::Engine, u32));
    let lies: [Lie; 10] = [
        (PeerFault::Kind, |engine, flow| engine.slot(slot(77, 0, 0), flow, 0, &[])),
        (PeerFault::Length, |engine, flow| engine.slot(slot(receive_kind::INLINE, 0, 113), flow, 113, &[])),
        (PeerFault::Length, |engine, flow| engine.slot(slot(receive_kind::INLINE, 0, 0), flow, 0, &[])),
        (PeerFault::Flow, |engine, flow| engine.slot(slot(receive_kind::INLINE, 0, 5), flow + 1, 5, &[])),
        (PeerFault::Buffer, |engine, flow| {
            engine.slot(slot(receive_kind::BUFFERS, 1, 0), flow, 2048, &[40 | 1 << 16]);
        }),
        (PeerFault::Buffer, |engine, flow| {
            engine.slot(slot(receive_kind::BUFFERS, 28, 0), flow, 2048, &[u64::MAX; SLOT_WORDS - 2]);
        }),
        (PeerFault::Length, |engine, flow| {
            engine.slot(slot(receive_kind::BUFFERS, 1, 0), flow, u32::MAX, &[u64::MAX; SLOT_WORDS - 2]);
        }),
        (PeerFault::Token, |engine, flow| engine.slot(slot(receive_kind::CONNECTED, 0, 0), flow, 999, &[])),
        (PeerFault::Credit, |engine, flow| engine.done(1, flow, 1)),
        (PeerFault::Flow, |engine, flow| {
            engine.slot(slot(receive_kind::CLOSED, 0, 0), flow + 65_536, 0, &[])
        }),
    ];
    for (fault, lie) in lies {
        let sidecar = Sidecar::start();
        let mut channel = attach(&sidecar);
        let flow = connect(&mut channel, HOLD);
        let handle = flow.handle();
        sidecar.with(move |engine| lie(engine, handle));
        let error = channel.recv(flow, LONG).unwrap_err();
        assert!(
            matches!(error, Error::SidecarBroken(told) if told == fault),
            "{error:?} instead of {fault:?}"
        );
        assert!(matches!(channel.try_send(flow, b"x"), Err(Error::SidecarBroken(_))));
    }
}

fn slot(kind: u8, count: u8, length: u16) -> SlotHead {
    SlotHead { kind, count, length }
}

#[test]
fn an_engine_that_sends_more_than_the_slab_holds_is_broken() {
    let sidecar = Sidecar::start();
    let mut channel = attach(&sidecar);
    let flow = connect(&mut channel, HOLD);
    let handle = flow.handle();
    let mut outcome = Ok(None);
    for _ in 0..Geometry::SMALL.receive_slots + 1 {
        sidecar.with(move |engine| engine.slot(slot(receive_kind::INLINE, 0, 1), handle, 1, &[65]));
        outcome = channel.try_recv_any();
    }
    assert!(matches!(outcome, Err(Error::SidecarBroken(PeerFault::Credit))));
}

#[test]
fn answers_that_make_no_sense_are_refused_at_attach() {
    let refused = |change: fn(&mut Reply)| {
        let sidecar = Sidecar::start_with(change);
        options(&sidecar).attach_channel().map(drop).unwrap_err()
    };
    let error = refused(|reply| *reply = Reply::Attached);
    assert!(matches!(error, Error::AttachRefused { .. }));
    let error = refused(|reply| {
        if let Reply::Welcome { version, .. } = reply {
            *version = 99;
        }
    });
    assert!(matches!(error, Error::Version { .. }));
    let error = refused(|reply| {
        if let Reply::Welcome { geometry, .. } = reply {
            geometry.send_slots = 17;
        }
    });
    assert!(matches!(error, Error::AttachRefused { .. }));
    let error = refused(|reply| {
        if let Reply::Welcome { geometry, .. } = reply {
            geometry.tx_buffers += 1000; // The memfd is smaller.
        }
    });
    assert!(matches!(error, Error::Io(_)));
}

#[test]
fn a_missing_sidecar_is_named_with_what_helps() {
    let path = std::env::temp_dir().join("machnet-fake-nobody.sock");
    let error = AttachOptions::new().socket(&path).attach().unwrap_err();
    assert_eq!(error.to_string(), format!("no sidecar at {}; start one with `machnet up`", path.display()));
    let long = "x".repeat(200);
    assert!(matches!(AttachOptions::new().socket(long).attach(), Err(Error::InvalidArgument { .. })));
    let odd = Geometry { send_slots: 100, ..Geometry::SMALL };
    assert!(matches!(AttachOptions::new().geometry(odd).attach(), Err(Error::InvalidArgument { .. })));
}

#[test]
fn a_socket_doorbell_wakes_as_a_pipe_does() {
    for kind in [DoorbellKind::Pipe, DoorbellKind::Socket] {
        let mut sidecar = Sidecar::start();
        let mut channel =
            options(&sidecar).doorbell(kind).wait_policy(WaitPolicy::Block).attach_channel().unwrap();
        let flow = connect(&mut channel, ECHO);
        for number in 0..200_u32 {
            channel.send(flow, &number.to_le_bytes(), LONG).unwrap();
            assert_eq!(*channel.recv(flow, LONG).unwrap(), number.to_le_bytes());
        }
        sidecar.kill();
        assert!(matches!(channel.recv(flow, LONG), Err(Error::EngineLost)));
    }
}
