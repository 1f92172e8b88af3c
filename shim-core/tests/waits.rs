//! Waits that another thread ends, and calls with many messages.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use fake::{ECHO, HOLD, SILENT, Sidecar};
use machnet_client::{AttachOptions, Attachment, Error, Flow, Geometry, Wait, WaitPolicy};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn attach(sidecar: &Sidecar, policy: WaitPolicy) -> Attachment {
    let options = AttachOptions::new().socket(&sidecar.path).geometry(Geometry::SMALL).name("test");
    options.wait_policy(policy).attach().unwrap()
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

/// Fills the flow's credit with messages that nobody acknowledges.
fn fill(flow: &Flow) -> u32 {
    (0..).take_while(|_| flow.try_send(b"held").is_ok()).last().unwrap() + 1
}

#[test]
fn a_cancel_ends_every_kind_of_wait_of_its_own_and_no_other() {
    for policy in [WaitPolicy::Auto, WaitPolicy::Block, WaitPolicy::Yield] {
        let sidecar = Sidecar::start();
        let attachment = attach(&sidecar, policy);
        let flow = attachment.connect(peer(HOLD)).unwrap();
        let full = attachment.connect(peer(HOLD)).unwrap();
        fill(&full);
        let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
        let pending = attachment.start_connect(peer(SILENT), None, None).unwrap();
        let (canceller, other) = (attachment.canceller(), attachment.canceller());
        let wait = Wait::until(&canceller);
        std::thread::scope(|scope| {
            let mut waits = Vec::new();
            for _ in 0..2 {
                waits.push(scope.spawn(|| flow.recv_with(wait).map(drop).unwrap_err()));
            }
            waits.push(scope.spawn(|| flow.recv_into(&mut [0; 9], wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| flow.recv_many(&mut Vec::new(), 9, wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| full.send_with(b"x", wait).unwrap_err()));
            waits.push(scope.spawn(|| full.send_many(&[b"x", b"y"], wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| full.lend_with(9, wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| listener.accept_with(wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| pending.finish(wait).map(drop).unwrap_err()));
            waits.push(scope.spawn(|| attachment.recv_any(wait).map(drop).unwrap_err()));
            let stays =
                scope.spawn(|| flow.recv_with(Wait::from(LONG).or_until(&other)).map(drop).unwrap_err());
            // Let them sleep; the outcome is the same if some do not yet.
            std::thread::sleep(Duration::from_millis(20));
            canceller.cancel();
            for wait in waits {
                assert!(matches!(wait.join().unwrap(), Error::Cancelled));
            }
            assert!(!stays.is_finished() && !other.is_cancelled());
            other.cancel();
            assert!(matches!(stays.join().unwrap(), Error::Cancelled));
        });
        // Whoever comes later is told at once; without it, all is as before.
        assert!(matches!(flow.recv_with(wait), Err(Error::Cancelled)));
        assert!(matches!(flow.recv_timeout(Duration::from_millis(1)), Err(Error::TimedOut)));
    }
}

#[test]
fn what_is_there_is_answered_before_a_cancel_is() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, WaitPolicy::Auto);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let canceller = attachment.canceller();
    canceller.cancel();
    flow.send_with(b"there is credit", Wait::until(&canceller)).unwrap();
    let message = loop {
        match flow.recv_with(Wait::until(&canceller)) {
            Ok(message) => break message,
            Err(Error::Cancelled) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(&*message, b"there is credit");
}

#[test]
fn a_canceller_of_another_channel_is_refused_and_keeps_no_channel_open() {
    let sidecars = [Sidecar::start(), Sidecar::start()];
    let [one, two] = [0, 1].map(|index: usize| attach(&sidecars[index], WaitPolicy::Auto));
    let flow = one.connect(peer(HOLD)).unwrap();
    let canceller = two.canceller();
    let refused = flow.recv_with(Wait::until(&canceller));
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    drop(two);
    canceller.cancel(); // Nobody is there any more.
    assert!(canceller.is_cancelled() && canceller.clone().is_cancelled());
}

#[test]
fn a_storm_of_cancels_loses_no_message_and_doubles_none() {
    const MESSAGES: u32 = 100_000;
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, WaitPolicy::Auto);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let (cancelled, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let (hand_over, to_cancel) = std::sync::mpsc::channel::<machnet_client::Canceller>();
    std::thread::scope(|scope| {
        scope.spawn(move || to_cancel.iter().for_each(|canceller| canceller.cancel()));
        scope.spawn(|| {
            for number in 0..MESSAGES {
                flow.send_timeout(&number.to_le_bytes(), LONG).unwrap();
            }
        });
        let receiver = scope.spawn(|| {
            let mut next = 0;
            while next < MESSAGES || cancelled.load(Ordering::Relaxed) < MESSAGES {
                let canceller = attachment.canceller();
                hand_over.send(canceller.clone()).unwrap();
                match flow.recv_with(Wait::from(LONG).or_until(&canceller)) {
                    Ok(message) => {
                        assert_eq!(u32::from_le_bytes(message[..].try_into().unwrap()), next);
                        next += 1;
                    }
                    Err(Error::Cancelled) => _ = cancelled.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("{error}"),
                }
            }
            drop(hand_over);
            over.store(true, Ordering::Relaxed);
        });
        receiver.join().unwrap();
    });
    assert!(over.into_inner() && flow.try_recv().unwrap().is_none());
}

#[test]
fn a_storm_of_cancels_among_threads_that_wake_each_other_leaves_nobody_asleep() {
    for policy in [WaitPolicy::Auto, WaitPolicy::Block, WaitPolicy::Yield] {
        let sidecar = Sidecar::start();
        let attachment = attach(&sidecar, policy);
        let quiet = attachment.connect(peer(HOLD)).unwrap();
        let end = attachment.canceller();
        let (hand_over, to_cancel) = std::sync::mpsc::channel::<machnet_client::Canceller>();
        std::thread::scope(|scope| {
            // Two that find nothing of their own serve the others or sleep on the doorbell for them.
            let idle: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| quiet.recv_with(Wait::until(&end)).map(drop).unwrap_err()))
                .collect();
            scope.spawn(move || to_cancel.iter().for_each(|canceller| canceller.cancel()));
            let lively: Vec<_> = (0..4)
                .map(|_| {
                    let (attachment, hand_over) = (&attachment, hand_over.clone());
                    scope.spawn(move || {
                        let flow = attachment.connect(peer(ECHO)).unwrap();
                        for number in 0..500_u32 {
                            flow.send_timeout(&number.to_le_bytes(), LONG).unwrap();
                            let message = loop {
                                let canceller = attachment.canceller();
                                hand_over.send(canceller.clone()).unwrap();
                                match flow.recv_with(Wait::from(LONG).or_until(&canceller)) {
                                    Ok(message) => break message,
                                    Err(Error::Cancelled) => {}
                                    Err(error) => panic!("{error}"),
                                }
                            };
                            assert_eq!(*message, number.to_le_bytes());
                            // Nobody cancels this one: whoever was cancelled has to have left it awake.
                            flow.send_timeout(b"again", LONG).unwrap();
                            assert_eq!(*flow.recv_timeout(LONG).unwrap(), *b"again");
                        }
                    })
                })
                .collect();
            drop(hand_over);
            for thread in lively {
                thread.join().unwrap();
            }
            end.cancel();
            for thread in idle {
                assert!(matches!(thread.join().unwrap(), Error::Cancelled));
            }
        });
    }
}

#[test]
fn many_messages_go_and_come_in_one_call_each() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, WaitPolicy::Auto);
    let flow = attachment.connect(peer(ECHO)).unwrap();
    let bodies: Vec<Vec<u8>> =
        (0..500_usize).map(|number| vec![number.to_le_bytes()[0]; 1 + number * 7 % 600]).collect();
    let messages: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(flow.send_many(&messages, LONG).unwrap(), messages.len()));
        let (mut received, mut next) = (Vec::new(), 0);
        while next < messages.len() {
            let count = flow.recv_many(&mut received, 64, LONG).unwrap();
            assert!((1..=64).contains(&count) && count == received.len());
            for message in received.drain(..) {
                assert!(*message == *messages[next], "message {next}");
                next += 1;
            }
        }
    });
    assert_eq!(flow.send_many(&[], LONG).unwrap(), 0);
    assert_eq!(flow.recv_many(&mut Vec::new(), 0, LONG).unwrap(), 0);
}

#[test]
fn many_messages_that_find_no_end_of_credit_are_sent_in_part() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, WaitPolicy::Auto);
    let (counted, flow) = (attachment.connect(peer(HOLD)).unwrap(), attachment.connect(peer(HOLD)).unwrap());
    let credit = fill(&counted) as usize;
    let messages = vec![&b"x"[..]; credit + 5];
    assert_eq!(flow.send_many(&messages, Duration::from_millis(5)).unwrap(), credit);
    assert!(matches!(flow.send_many(&messages, Duration::from_millis(5)), Err(Error::TimedOut)));
    let too_large = vec![0; flow.max_message() + 1];
    let refused = attachment.connect(peer(ECHO)).unwrap();
    assert_eq!(refused.send_many(&[b"fits", &too_large], LONG).unwrap(), 1);
    assert!(matches!(refused.send_many(&[&too_large], LONG), Err(Error::MessageTooLarge { .. })));
}
