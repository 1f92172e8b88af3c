//! The thread-safe layer: many threads, event loops, forks, the death of the sidecar.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use fake::{ECHO, HOLD, SILENT, Sidecar};
use machnet_client::shm::layout::receive_kind;
use machnet_client::shm::ring::SlotHead;
use machnet_client::{
    AttachOptions, Attachment, DoorbellKind, Error, Geometry, ResetReason, WaitPolicy, socket,
};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(5);

fn options(sidecar: &Sidecar) -> AttachOptions {
    AttachOptions::new().socket(&sidecar.path).geometry(Geometry::SMALL).name("test")
}

fn attach(sidecar: &Sidecar) -> Attachment {
    options(sidecar).attach().unwrap()
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

fn readable(descriptor: BorrowedFd<'_>, timeout: Duration) -> bool {
    socket::wait_readable(descriptor, Some(timeout)).unwrap()
}

#[test]
fn threads_that_share_an_attachment_each_get_their_own_echoes() {
    for policy in [WaitPolicy::Auto, WaitPolicy::Block] {
        let sidecar = Sidecar::start();
        let attachment = options(&sidecar).wait_policy(policy).attach().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let attachment = attachment.clone();
                scope.spawn(move || {
                    let flow = attachment.connect(peer(ECHO)).unwrap();
                    for number in 0..300_u32 {
                        let length = [4, 64, 112, 113, 3000][number as usize % 5];
                        let mut message = vec![0; length];
                        message[..4].copy_from_slice(&(thread << 16 | number).to_le_bytes());
                        flow.send_timeout(&message, LONG).unwrap();
                        if number % 3 == 0 {
                            let mut buffer = [0; 3000];
                            let length = flow.recv_into(&mut buffer, Some(LONG)).unwrap();
                            assert_eq!(buffer[..length], message);
                        } else {
                            assert_eq!(*flow.recv_timeout(LONG).unwrap(), *message);
                        }
                    }
                    flow.close_wait(LONG).unwrap();
                });
            }
        });
        assert!(matches!(attachment.try_recv_any(), Ok(None)));
        sidecar.until("all flows were released", |engine| engine.released.len() == 8 && engine.all_home());
        attachment.close().unwrap();
    }
}

#[test]
fn threads_on_one_flow_share_its_messages_and_lose_none() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let total = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250_u32 {
                    // Waits that end early lose nothing.
                    let message = loop {
                        match flow.recv_timeout(Duration::from_micros(200)) {
                            Ok(message) => break message,
                            Err(Error::TimedOut) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    let number = u32::from_le_bytes(message[..].try_into().unwrap());
                    total.fetch_add(number, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        for number in 0..1000_u32 {
            flow.send_timeout(&number.to_le_bytes(), LONG).unwrap();
        }
    });
    assert_eq!(total.into_inner(), 999 * 1000 / 2);
    assert!(flow.try_recv().unwrap().is_none());
}

#[test]
fn every_blocked_thread_learns_that_the_sidecar_is_gone() {
    let mut sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flows: Vec<_> = (0..4).map(|_| attachment.connect(peer(HOLD)).unwrap()).collect();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    let pending = attachment.start_connect(peer(SILENT), None, None).unwrap();
    std::thread::scope(|scope| {
        let mut waits = Vec::new();
        for flow in &flows {
            waits.push(scope.spawn(|| flow.recv().map(drop).unwrap_err()));
        }
        waits.push(scope.spawn(|| listener.accept().map(drop).unwrap_err()));
        waits.push(scope.spawn(|| pending.finish(None).map(drop).unwrap_err()));
        waits.push(scope.spawn(|| attachment.recv_any(None).map(drop).unwrap_err()));
        // Let them sleep; the outcome is the same if some do not yet.
        std::thread::sleep(Duration::from_millis(20));
        sidecar.kill();
        for wait in waits {
            assert!(matches!(wait.join().unwrap(), Error::EngineLost));
        }
    });
    assert!(matches!(flows[0].send(b"x"), Err(Error::EngineLost)));
    assert!(matches!(attachment.listen("0.0.0.0:0", 0), Err(Error::EngineLost)));
    assert!(matches!(attachment.close(), Err(Error::EngineLost)));
}

#[test]
fn a_sender_without_credit_is_woken_by_credit_and_by_the_end() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(HOLD)).unwrap();
    while flow.try_send(b"fill").is_ok() {}
    let handle = flow.handle();
    assert_eq!(flow.unacknowledged(), Geometry::SMALL.flow_credit);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| flow.send(b"after credit"));
        std::thread::sleep(SHORT);
        sidecar.with(move |engine| engine.acknowledge(handle, 1));
        sender.join().unwrap().unwrap();
        let sender = scope.spawn(|| flow.send(b"never"));
        std::thread::sleep(SHORT);
        sidecar.with(move |engine| engine.end(handle, receive_kind::RESET, 6));
        let error = sender.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Reset { reason: ResetReason::ApplicationGone, unacknowledged: 64 }));
    });
    assert_eq!(flow.unacknowledged(), 64);
}

#[test]
fn many_messages_go_with_one_call_each_way() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let messages: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 30]).collect();
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    assert_eq!(flow.try_send_many(&slices).unwrap(), 40);
    let mut got = Vec::new();
    while got.len() < 40 {
        flow.try_recv_many(&mut got, 7).unwrap();
    }
    assert!(got.iter().zip(&messages).all(|(got, sent)| **got == **sent));
    let held = attachment.connect(peer(HOLD)).unwrap();
    let many = vec![&b"x"[..]; 100];
    assert_eq!(held.try_send_many(&many).unwrap(), 64);
    assert_eq!(held.try_send_many(&many).unwrap(), 0);
    assert!(matches!(held.try_send_many(&[b""]), Err(Error::EmptyMessage)));
}

#[test]
fn messages_are_written_in_place_and_parts_are_joined() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    for length in [1, 112, 113, 5000] {
        let mut loan = flow.lend(length).unwrap();
        assert_eq!(loan.len(), length);
        loan.fill(42);
        loan.send().unwrap();
        assert_eq!(*flow.recv_timeout(LONG).unwrap(), *vec![42; length]);
    }
    for parts in [vec![&b"ab"[..], b"", b"cde"], vec![&[1; 100], &[2; 3000], &[3; 2000]]] {
        flow.try_send_parts(&parts).unwrap();
        assert_eq!(*flow.recv_timeout(LONG).unwrap(), *parts.concat());
    }
    // Loans that are dropped go back, and so does their credit.
    let held = attachment.connect(peer(HOLD)).unwrap();
    for _ in 0..200 {
        drop(held.lend(30_000).unwrap());
        drop(held.lend(10).unwrap());
    }
    let loans: Vec<_> = (0..64).map(|_| held.lend(10).unwrap()).collect();
    assert!(matches!(held.lend(10), Err(Error::WouldBlock)));
    assert!(matches!(held.try_send(b"x"), Err(Error::WouldBlock)));
    for loan in loans {
        loan.send().unwrap();
    }
    // A loan may outlive its flow.
    let loan = flow.lend(3000).unwrap();
    drop(flow);
    sidecar.until("it was closed", |engine| engine.flows.values().any(|flow| flow.closing || flow.ended));
    assert!(matches!(loan.send(), Err(Error::Closed | Error::UnknownFlow)));
}

#[test]
fn loans_may_be_dropped_on_any_thread() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let (give, take) = std::sync::mpsc::channel();
    let dropper = std::thread::spawn(move || take.into_iter().map(drop::<machnet_client::Message>).count());
    for _ in 0..500 {
        flow.send_timeout(&[5; 4000], LONG).unwrap();
        give.send(flow.recv_timeout(LONG).unwrap()).unwrap();
    }
    drop(give);
    assert_eq!(dropper.join().unwrap(), 500);
    assert!(flow.try_recv().unwrap().is_none());
    sidecar.until("all is home", |engine| engine.all_home());
}

#[test]
fn much_that_is_dropped_goes_back_without_another_call() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    flow.send_timeout(&[5; 20_000], LONG).unwrap();
    let message = flow.recv_timeout(LONG).unwrap();
    if message.is_lent() {
        drop(message);
        sidecar.until("it went back", |engine| engine.all_home());
    }
}

#[test]
fn flows_in_channel_mode_share_one_queue_in_order_of_arrival() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let listener = attachment.listen_channel_mode("0.0.0.0:0", 16).unwrap();
    assert!(matches!(listener.try_accept(), Err(Error::WrongMode)));
    let connected = attachment.connect(peer(ECHO)).unwrap();
    connected.send(b"one").unwrap();
    sidecar.until("it was echoed", |engine| engine.out == 1);
    let ends = (connected.peer_addr(), connected.local_addr());
    let connected = connected.into_channel_mode().unwrap();
    assert_eq!(attachment.find_flow(ends.0, ends.1).unwrap(), connected);
    let one = attachment.recv_any(Some(LONG)).unwrap();
    assert_eq!((&*one.message, one.flow, one.peer), (&b"one"[..], connected, ends.0));
    sidecar.with(|engine| {
        let number = engine.listeners[0].0;
        let first = engine.arrive(number, 70);
        let second = engine.arrive(number, 71);
        engine.deliver(first, b"a");
        engine.deliver(second, &[b'b'; 3000]);
        engine.deliver(first, b"c");
        engine.end(first, receive_kind::CLOSED, 0);
    });
    let first = attachment.recv_any(Some(LONG)).unwrap();
    assert_eq!((&*first.message, first.peer.port()), (&b"a"[..], 70));
    assert_eq!(sidecar.with(|engine| engine.accepted.len()), 2);
    let mut buffer = [0; 3000];
    let error = attachment.try_recv_any_into(&mut buffer[..10]).unwrap_err();
    assert!(matches!(error, Error::BufferTooSmall { needed: 3000 }));
    let (second, from, _, length) = attachment.try_recv_any_into(&mut buffer).unwrap().unwrap();
    assert_eq!((from.port(), length), (71, 3000));
    attachment.try_send_parts_to(second, &[b"an", b"swer"]).unwrap();
    let last = attachment.recv_any(Some(LONG)).unwrap();
    assert_eq!((&*last.message, last.flow), (&b"c"[..], first.flow));
    // The ended flow goes with its last message; the others live on.
    assert!(matches!(attachment.try_send_to(first.flow, b"x"), Err(Error::UnknownFlow)));
    assert!(matches!(attachment.find_flow(first.peer, first.local), Err(Error::Closed)));
    assert!(matches!(attachment.find_flow(first.local, first.peer), Err(Error::UnknownFlow)));
    attachment.close_flow(second).unwrap();
    attachment.send_to(connected, b"still here", Some(LONG)).unwrap();
    assert_eq!(*attachment.recv_any(Some(LONG)).unwrap().message, *b"still here");
    assert!(!attachment.drop_any().unwrap());
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let id = machnet_client::FlowId::from_handle(flow.handle());
    assert!(matches!(attachment.try_send_to(id, b"x"), Err(Error::WrongMode)));
}

#[test]
fn an_event_loop_with_plain_epoll_semantics_misses_nothing() {
    for kind in [DoorbellKind::Pipe, DoorbellKind::Socket] {
        let mut sidecar = Sidecar::start();
        let attachment = options(&sidecar).doorbell(kind).attach().unwrap();
        let flow = attachment.connect(peer(HOLD)).unwrap();
        let handle = flow.handle();
        let descriptor = attachment.event_fd().unwrap();
        // Try first, wait second; the other side publishes at random moments.
        std::thread::scope(|scope| {
            let engine = &sidecar;
            scope.spawn(move || {
                for number in 0..2000_u32 {
                    engine.with(move |engine| engine.deliver(handle, &number.to_le_bytes()));
                }
            });
            for number in 0..2000_u32 {
                let message = loop {
                    if let Some(message) = flow.try_recv().unwrap() {
                        break message;
                    }
                    assert!(readable(descriptor, LONG), "message {number} was not announced");
                };
                assert_eq!(*message, number.to_le_bytes());
            }
        });
        while flow.try_recv().unwrap().is_some() {}
        // A ring that was announced but came late may leave one byte; after one more call all is quiet.
        let quiet = (0..3).any(|_| {
            assert!(flow.try_recv().unwrap().is_none());
            !readable(descriptor, SHORT)
        });
        assert!(quiet, "the descriptor stays readable without cause");
        let before = sidecar.with(|engine| engine.rings);
        sidecar.with(move |engine| (0..10).for_each(|_| engine.deliver(handle, b"burst")));
        assert!(sidecar.with(|engine| engine.rings) <= before + 1, "at most one ring per arming");
        assert!(readable(descriptor, LONG));
        while flow.try_recv().unwrap().is_some() {}
        // A send that finds no credit arms as well.
        while flow.try_send(b"fill").is_ok() {}
        sidecar.with(move |engine| engine.acknowledge(handle, 1));
        assert!(readable(descriptor, LONG));
        flow.try_send(b"one more").unwrap();
        assert!(matches!(flow.try_send(b"full"), Err(Error::WouldBlock)));
        sidecar.kill();
        let error = loop {
            assert!(readable(descriptor, LONG), "the hang-up shows");
            if let Err(error) = flow.try_recv() {
                break error;
            }
        };
        assert!(matches!(error, Error::EngineLost));
    }
}

#[test]
fn a_blocking_wait_beside_an_event_loop_takes_no_ring_from_it() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let looped = attachment.connect(peer(HOLD)).unwrap();
    let blocked = attachment.connect(peer(HOLD)).unwrap();
    let descriptor = attachment.event_fd().unwrap();
    assert!(looped.try_recv().unwrap().is_none());
    let (loop_handle, blocked_handle) = (looped.handle(), blocked.handle());
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| (0..100).map(|_| blocked.recv().unwrap().len()).sum::<usize>());
        for _ in 0..100 {
            sidecar.with(move |engine| {
                engine.deliver(loop_handle, b"for the loop");
                engine.deliver(blocked_handle, b"x");
            });
            while looped.try_recv().unwrap().is_none() {
                assert!(readable(descriptor, LONG));
            }
        }
        assert_eq!(wait.join().unwrap(), 100);
    });
}

#[test]
fn dropped_handles_close_in_order_and_leave_nothing() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let listener = attachment.listen("127.0.0.1:0", 4).unwrap();
    sidecar.with(|engine| {
        let number = engine.listeners[0].0;
        engine.arrive(number, 1)
    });
    let accepted = listener.accept_timeout(LONG).unwrap();
    drop(listener);
    sidecar.until("the listener is gone", |engine| engine.listeners.is_empty());
    drop(accepted);
    let pending = attachment.start_connect(peer(ECHO), None, None).unwrap();
    drop(pending);
    let flow = attachment.connect(peer(1000)).unwrap();
    flow.send(b"in order").unwrap();
    flow.abort();
    for _ in 0..10_000 {
        attachment.try_recv_any().unwrap();
        if sidecar.with(|engine| engine.flows.is_empty()) {
            break;
        }
    }
    sidecar.until("all were released", |engine| engine.released.len() == 3);
    drop(attachment);
}

#[test]
fn close_ends_the_waits_of_other_threads() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    std::thread::scope(|scope| {
        let recv = scope.spawn(|| flow.recv().map(drop).unwrap_err());
        let accept = scope.spawn(|| listener.accept().map(drop).unwrap_err());
        std::thread::sleep(SHORT);
        attachment.close().unwrap();
        assert!(matches!(recv.join().unwrap(), Error::Closed));
        assert!(matches!(accept.join().unwrap(), Error::Closed));
    });
    assert!(matches!(flow.send(b"x"), Err(Error::Closed)));
    attachment.close().unwrap();
}

#[test]
fn a_shut_down_listener_or_flow_ends_its_waits() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flow = attachment.connect(peer(HOLD)).unwrap();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    std::thread::scope(|scope| {
        let recv = scope.spawn(|| flow.recv().map(drop).unwrap_err());
        let accept = scope.spawn(|| listener.accept().map(drop).unwrap_err());
        std::thread::sleep(SHORT);
        flow.shutdown().unwrap();
        listener.shutdown().unwrap();
        assert!(matches!(recv.join().unwrap(), Error::Closed));
        assert!(matches!(accept.join().unwrap(), Error::Closed));
    });
    let other = attachment.connect(peer(HOLD)).unwrap();
    other.send(b"never acknowledged").unwrap();
    assert!(matches!(other.shutdown_wait(SHORT), Err(Error::TimedOut)));
    let handle = other.handle();
    sidecar.with(move |engine| engine.end(handle, receive_kind::RESET, 9));
    let error = other.shutdown_wait(LONG).unwrap_err();
    assert!(matches!(error, Error::Reset { reason: ResetReason::Timeout, unacknowledged: 1 }));
}

/// One flow's call may take from the rings what another flow's was told is not there.
#[test]
fn an_event_loop_over_many_flows_misses_nothing_whatever_its_order() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let flows: Vec<_> = (0..4).map(|_| attachment.connect(peer(HOLD)).unwrap()).collect();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    let descriptor = attachment.event_fd().unwrap();
    let handles: Vec<_> = flows.iter().map(machnet_client::Flow::handle).collect();
    std::thread::scope(|scope| {
        let engine = &sidecar;
        scope.spawn(move || {
            for number in 0..4000_u32 {
                let handle = handles[(number.wrapping_mul(2_654_435_761) >> 16) as usize % 4];
                engine.with(move |engine| engine.deliver(handle, &number.to_le_bytes()));
            }
        });
        let mut received = 0;
        while received < 4000 {
            assert!(listener.try_accept().unwrap().is_none());
            for flow in &flows {
                while flow.try_recv().unwrap().is_some() {
                    received += 1;
                }
            }
            if received < 4000 {
                assert!(readable(descriptor, LONG), "after {received}");
            }
        }
    });
}

#[test]
fn a_flow_that_the_loop_left_alone_does_not_keep_it_awake() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let (paused, active) = (attachment.connect(peer(HOLD)).unwrap(), attachment.connect(peer(HOLD)).unwrap());
    let descriptor = attachment.event_fd().unwrap();
    assert!(paused.try_recv().unwrap().is_none());
    assert!(active.try_recv().unwrap().is_none());
    let handle = paused.handle();
    sidecar.with(move |engine| (0..5).for_each(|_| engine.deliver(handle, b"for later")));
    // The loop asks for the active one only: after a few rounds it sleeps.
    let quiet = (0..10).any(|_| {
        assert!(active.try_recv().unwrap().is_none());
        !readable(descriptor, SHORT)
    });
    assert!(quiet, "the loop never comes to rest");
    let handle = active.handle();
    sidecar.with(move |engine| engine.deliver(handle, b"now"));
    assert!(readable(descriptor, LONG));
    assert_eq!(*active.try_recv().unwrap().unwrap(), *b"now");
    // Whoever comes back tries first.
    for _ in 0..5 {
        assert_eq!(*paused.try_recv().unwrap().unwrap(), *b"for later");
    }
}

/// Calls between the rounds of a loop find nothing as often as they like: what they take from the rings is announced.
#[test]
fn a_loop_that_says_when_its_rounds_begin_may_call_between_them() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let (waiting, busy) = (attachment.connect(peer(HOLD)).unwrap(), attachment.connect(peer(HOLD)).unwrap());
    let descriptor = attachment.event_fd().unwrap();
    attachment.begin_round().unwrap();
    let handle = waiting.handle();
    for _ in 0..100 {
        assert!(waiting.try_recv().unwrap().is_none());
        assert!(busy.try_recv().unwrap().is_none());
        sidecar.with(move |engine| engine.deliver(handle, b"x"));
        for _ in 0..5 {
            assert!(busy.try_recv().unwrap().is_none());
        }
        assert!(readable(descriptor, LONG), "nobody said that a message came");
        attachment.begin_round().unwrap();
        assert_eq!(*waiting.try_recv().unwrap().unwrap(), *b"x");
    }
    // What is asked for in no round any more does not keep the loop awake.
    assert!(waiting.try_recv().unwrap().is_none());
    sidecar.with(move |engine| engine.deliver(handle, b"for later"));
    let quiet = (0..10).any(|_| {
        attachment.begin_round().unwrap();
        assert!(busy.try_recv().unwrap().is_none());
        !readable(descriptor, SHORT)
    });
    assert!(quiet, "the loop never comes to rest");
    assert_eq!(*waiting.try_recv().unwrap().unwrap(), *b"for later");
}

#[test]
fn an_event_loop_learns_of_connects_flows_and_buffers() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    let (hoarder, other) = (attachment.connect(peer(HOLD)).unwrap(), attachment.connect(peer(HOLD)).unwrap());
    let descriptor = attachment.event_fd().unwrap();
    let pending = attachment.start_connect(peer(ECHO), None, None).unwrap();
    while pending.try_finish().unwrap().is_none() {
        assert!(listener.try_accept().unwrap().is_none());
        assert!(readable(descriptor, LONG));
    }
    sidecar.with(|engine| {
        let number = engine.listeners[0].0;
        engine.arrive(number, 50)
    });
    let accepted = loop {
        assert!(other.try_recv().unwrap().is_none());
        if let Some(flow) = listener.try_accept().unwrap() {
            break flow;
        }
        assert!(other.try_recv().unwrap().is_none());
        assert!(readable(descriptor, LONG));
    };
    drop(accepted);
    // The other flow has credit; the buffers it needs come with the hoarder's acknowledgements.
    while hoarder.try_send(&[1; 2048]).is_ok() {}
    assert!(matches!(other.try_send(&[2; 35 * 2048]), Err(Error::WouldBlock)));
    let handle = hoarder.handle();
    let held = hoarder.unacknowledged();
    for _ in 0..held {
        sidecar.with(move |engine| engine.acknowledge(handle, 1));
    }
    while matches!(other.try_send(&[2; 35 * 2048]), Err(Error::WouldBlock)) {
        assert!(hoarder.try_recv().unwrap().is_none());
        assert!(readable(descriptor, LONG));
    }
}

#[test]
fn a_listener_that_the_sidecar_ends_says_why_to_who_waits_and_to_who_asks() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar);
    let any = attachment.listen_channel_mode("0.0.0.0:0", 16).unwrap();
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    let is_gone = |error: &Error| {
        let text = "the sidecar refused to listen: the sidecar's network interface is gone; listen again when it is back";
        matches!(error, Error::ListenRefused { .. }) && error.to_string() == text
    };
    std::thread::scope(|scope| {
        let accepts = scope.spawn(|| listener.accept_timeout(LONG).map(drop).unwrap_err());
        let receives = scope.spawn(|| attachment.recv_any(Some(LONG)).map(drop).unwrap_err());
        let reason = ResetReason::InterfaceGone.code();
        sidecar.with(move |engine| {
            let numbers: Vec<u32> = engine.listeners.iter().map(|listener| listener.0).collect();
            for number in numbers {
                let head = SlotHead { kind: receive_kind::LISTENER_ENDED, count: 0, length: reason };
                engine.slot(head, 0, number, &[]);
            }
            // One that nobody knows any more harms nobody.
            engine.slot(
                SlotHead { kind: receive_kind::LISTENER_ENDED, count: 0, length: reason },
                0,
                77,
                &[],
            );
        });
        assert!(is_gone(&accepts.join().unwrap()));
        assert!(is_gone(&receives.join().unwrap()));
    });
    assert!(is_gone(&listener.try_accept().map(drop).unwrap_err()), "and whenever it is asked again");
    assert!(matches!(attachment.try_recv_any(), Ok(None)), "which is told once");
    drop((listener, any));
    sidecar.until("the listeners are gone", |engine| engine.listeners.is_empty());
    attachment.listen("0.0.0.0:0", 0).unwrap();
}
