//! Event loops that take the news instead of asking every flow.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use fake::{ECHO, HOLD, REFUSE, Sidecar};
use machnet_client::shm::layout::receive_kind;
use machnet_client::{AttachOptions, Attachment, DoorbellKind, Error, Flow, Geometry, News, socket};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(5);
/// More than any test has news at a time.
const MANY: usize = 4096;

fn attach(sidecar: &Sidecar, kind: DoorbellKind, flows: u32) -> Attachment {
    // Room for the ends of all flows, because the fake engine keeps none back.
    let geometry = Geometry {
        max_flows: flows,
        receive_slots: (2 * flows).next_power_of_two().max(128),
        ..Geometry::SMALL
    };
    AttachOptions::new()
        .socket(&sidecar.path)
        .doorbell(kind)
        .geometry(geometry)
        .name("test")
        .attach()
        .unwrap()
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], port))
}

fn readable(descriptor: BorrowedFd<'_>, timeout: Duration) -> bool {
    socket::wait_readable(descriptor, Some(timeout)).unwrap()
}

/// A flow whose news have the token.
fn connect(attachment: &Attachment, port: u16, token: u64) -> Flow {
    let flow = attachment.connect(peer(port)).unwrap();
    flow.set_token(token).unwrap();
    flow
}

/// All that there is at once.
fn take(attachment: &Attachment) -> Vec<News> {
    let mut news = Vec::new();
    attachment.take_news(&mut news, MANY).unwrap();
    news
}

/// Takes until there are some; the descriptor has to tell of them.
fn await_news(attachment: &Attachment, descriptor: BorrowedFd<'_>) -> Vec<News> {
    loop {
        let news = take(attachment);
        if !news.is_empty() {
            return news;
        }
        assert!(readable(descriptor, LONG), "nothing was announced");
    }
}

fn quiet(attachment: &Attachment, descriptor: BorrowedFd<'_>) -> bool {
    (0..4).any(|_| take(attachment).is_empty() && !readable(descriptor, SHORT))
}

#[test]
fn a_ring_costs_tries_of_the_flow_with_news_and_of_no_idle_one() {
    const IDLE: u64 = 1000;
    const ROUNDS: u32 = 500;
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, DoorbellKind::Pipe, 1024);
    let idle: Vec<_> = (1..=IDLE).map(|token| connect(&attachment, HOLD, token)).collect();
    let busy = connect(&attachment, HOLD, IDLE + 1);
    let descriptor = attachment.event_fd().unwrap();
    for flow in &idle {
        assert!(flow.try_recv().unwrap().is_none());
    }
    assert!(quiet(&attachment, descriptor));
    let (handle, mut tries) = (busy.handle(), 0);
    for round in 0..ROUNDS {
        assert!(!readable(descriptor, Duration::ZERO), "round {round}");
        sidecar.with(move |engine| engine.deliver(handle, &round.to_le_bytes()));
        assert!(readable(descriptor, LONG), "round {round}");
        for news in take(&attachment) {
            assert_eq!(news, News { token: IDLE + 1, events: News::RECEIVE });
            assert_eq!(*busy.try_recv().unwrap().unwrap(), round.to_le_bytes());
            assert!(busy.try_recv().unwrap().is_none());
            tries += 2;
        }
    }
    assert_eq!(tries, 2 * ROUNDS, "a message, and that there is no other");
    for flow in &idle {
        assert!(flow.try_recv().unwrap().is_none());
    }
}

/// Calls of other threads take from the rings what the loop is to be told of.
#[test]
fn a_loop_that_takes_news_misses_nothing_whatever_others_take_from_the_rings() {
    const FLOWS: usize = 8;
    const MESSAGES: u32 = 4000;
    for kind in [DoorbellKind::Pipe, DoorbellKind::Socket] {
        let sidecar = Sidecar::start();
        let attachment = attach(&sidecar, kind, 64);
        let flows: Vec<_> = (0..FLOWS as u64).map(|token| connect(&attachment, HOLD, token)).collect();
        let descriptor = attachment.event_fd().unwrap();
        let handles: Vec<_> = flows.iter().map(Flow::handle).collect();
        let (over, taken_by_others) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let engine = &sidecar;
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    let handle = handles[(number.wrapping_mul(2_654_435_761) >> 16) as usize % FLOWS];
                    engine.with(move |engine| engine.deliver(handle, &number.to_le_bytes()));
                }
            });
            scope.spawn(|| {
                // It takes from two of them what it finds, and so drains the rings for all.
                for round in 0_usize.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    if flows[round % 2].try_recv().unwrap().is_some() {
                        taken_by_others.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::yield_now();
                }
            });
            let (mut received, mut news) = (0, Vec::new());
            while received + taken_by_others.load(Ordering::Relaxed) < MESSAGES {
                news.clear();
                let count = attachment.take_news(&mut news, 3).unwrap();
                assert_eq!(count, news.len());
                for one in &news {
                    let flow = usize::try_from(one.token).unwrap();
                    while flows[flow].try_recv().unwrap().is_some() {
                        received += 1;
                    }
                }
                let all = received + taken_by_others.load(Ordering::Relaxed);
                if count < 3 && all < MESSAGES && !readable(descriptor, LONG) {
                    // The other thread may have found the last one meanwhile.
                    let all = received + taken_by_others.load(Ordering::Relaxed);
                    assert_eq!(all, MESSAGES, "not announced");
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(quiet(&attachment, descriptor), "the descriptor stays readable without cause");
    }
}

#[test]
fn whoever_waits_for_credit_is_told_even_if_another_finds_it_first() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, DoorbellKind::Pipe, 64);
    let flow = connect(&attachment, HOLD, 7);
    let descriptor = attachment.event_fd().unwrap();
    assert!(quiet(&attachment, descriptor));
    let handle = flow.handle();
    // Nobody waits: credit is no news.
    flow.try_send(b"x").unwrap();
    sidecar.until("sent", move |engine| engine.flows[&handle].sent == 1);
    sidecar.with(move |engine| engine.acknowledge(handle, 1));
    assert!(readable(descriptor, LONG));
    assert_eq!(take(&attachment), []);
    while flow.try_send(b"fill").is_ok() {}
    let sent = flow.unacknowledged();
    sidecar.until("all sent", move |engine| {
        engine.flows[&handle].sent - engine.flows[&handle].acknowledged == sent
    });
    // One waits; another finds the credit first. Both learn that there was some, and the next is told again.
    sidecar.with(move |engine| engine.acknowledge(handle, 2));
    flow.try_send(b"another").unwrap();
    assert_eq!(await_news(&attachment, descriptor), [News { token: 7, events: News::SEND }]);
    flow.try_send(b"who waited").unwrap();
    assert!(matches!(flow.try_send(b"too much"), Err(Error::WouldBlock)));
    sidecar.with(move |engine| engine.acknowledge(handle, 1));
    assert_eq!(await_news(&attachment, descriptor), [News { token: 7, events: News::SEND }]);
    // The end is news for both directions.
    flow.try_send(b"x").unwrap();
    assert!(matches!(flow.try_send(b"too much"), Err(Error::WouldBlock)));
    sidecar.with(move |engine| engine.end(handle, receive_kind::RESET, 5));
    let mut events = 0;
    for news in await_news(&attachment, descriptor) {
        assert_eq!(news.token, 7);
        assert!(news.is(News::ENDED));
        events |= news.events;
    }
    assert_eq!(events, News::RECEIVE | News::SEND | News::ENDED);
}

#[test]
fn a_flow_that_waits_for_buffers_is_told_when_another_gives_its_loan_back() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, DoorbellKind::Pipe, 64);
    let (hoarder, other) = (connect(&attachment, HOLD, 1), connect(&attachment, HOLD, 2));
    take(&attachment);
    let mut loans = Vec::new();
    while let Ok(loan) = hoarder.lend(2048) {
        loans.push(loan);
    }
    assert!(matches!(other.try_send(&[2; 35 * 2048]), Err(Error::WouldBlock)));
    take(&attachment);
    loans.clear();
    // It rings no bell, but is told at the next call.
    let told: Vec<_> = take(&attachment).iter().map(|news| (news.token, news.events)).collect();
    assert!(told.contains(&(2, News::SEND)), "{told:?}");
    other.try_send(&[2; 35 * 2048]).unwrap();
}

#[test]
fn connects_listeners_channel_mode_and_ends_have_news() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, DoorbellKind::Pipe, 64);
    let descriptor = attachment.event_fd().unwrap();
    // What came before the first call is told as well.
    let early = connect(&attachment, HOLD, 1);
    let handle = early.handle();
    sidecar.with(move |engine| engine.deliver(handle, b"early"));
    assert!(readable(descriptor, LONG));
    assert_eq!(await_news(&attachment, descriptor), [News { token: 1, events: News::RECEIVE }]);
    // An outcome, of either kind.
    for (token, port) in [(2, ECHO), (3, REFUSE)] {
        let pending = attachment.start_connect(peer(port), None, None).unwrap();
        pending.set_token(token).unwrap();
        assert_eq!(await_news(&attachment, descriptor), [News { token, events: News::CONNECT }]);
        assert_eq!(pending.try_finish().is_ok(), port == ECHO);
        assert!(matches!(pending.set_token(9), Err(Error::UnknownFlow)));
    }
    // A flow at a listener: told although nobody asked before, and what came for it by then as well.
    let listener = attachment.listen("0.0.0.0:0", 0).unwrap();
    listener.set_token(4).unwrap();
    let accepted = sidecar.with(|engine| {
        let number = engine.listeners[0].0;
        engine.arrive(number, 50)
    });
    assert_eq!(await_news(&attachment, descriptor), [News { token: 4, events: News::ACCEPT }]);
    let flow = listener.try_accept().unwrap().unwrap();
    flow.set_token(5).unwrap();
    sidecar.with(move |engine| {
        engine.deliver(accepted, b"last words");
        engine.end(accepted, receive_kind::CLOSED, 0);
    });
    let ended = News { token: 5, events: News::RECEIVE | News::ENDED };
    assert_eq!(await_news(&attachment, descriptor), [ended]);
    assert_eq!(*flow.try_recv().unwrap().unwrap(), *b"last words");
    assert!(matches!(flow.try_recv(), Err(Error::Closed)));
    listener.shutdown().unwrap();
    assert!(matches!(listener.set_token(4), Err(Error::Closed)));
    // Channel mode has one queue.
    let common = connect(&attachment, HOLD, 6).into_channel_mode().unwrap();
    sidecar.with(move |engine| engine.deliver(common.handle(), b"any"));
    let channel = News { token: 0, events: News::RECEIVE | News::CHANNEL };
    assert_eq!(await_news(&attachment, descriptor), [channel]);
    assert_eq!(*attachment.try_recv_any().unwrap().unwrap().message, *b"any");
    while attachment.try_send_to(common, b"fill").is_ok() {}
    sidecar.until("sent", move |engine| engine.flows[&common.handle()].sent > 0);
    sidecar.with(move |engine| engine.acknowledge(common.handle(), 1));
    let told = await_news(&attachment, descriptor);
    assert!(told.iter().all(|news| news.is(News::CHANNEL) && news.is(News::SEND)), "{told:?}");
    assert!(quiet(&attachment, descriptor));
}

/// Flows that come and go while nobody takes the news leave nothing behind that would be told, or kept.
#[test]
fn what_became_of_flows_that_are_gone_is_not_told() {
    let sidecar = Sidecar::start();
    let attachment = attach(&sidecar, DoorbellKind::Pipe, 8);
    take(&attachment);
    let mut told = BTreeMap::new();
    for round in 0..500_u64 {
        let flow = connect(&attachment, HOLD, round);
        let handle = flow.handle();
        sidecar.with(move |engine| engine.deliver(handle, b"unread"));
        flow.close_wait(LONG).unwrap();
        if round % 100 == 99 {
            take(&attachment).iter().for_each(|news| *told.entry(news.token).or_insert(0) += 1);
        }
    }
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn everybody_learns_that_the_sidecar_is_gone() {
    for kind in [DoorbellKind::Pipe, DoorbellKind::Socket] {
        let mut sidecar = Sidecar::start();
        let attachment = attach(&sidecar, kind, 64);
        let flow = connect(&attachment, HOLD, 1);
        let descriptor = attachment.event_fd().unwrap();
        assert!(quiet(&attachment, descriptor));
        sidecar.kill();
        assert!(readable(descriptor, LONG), "the hang-up shows");
        assert!(matches!(attachment.take_news(&mut Vec::new(), MANY), Err(Error::EngineLost)));
        assert!(matches!(flow.try_recv(), Err(Error::EngineLost)));
        attachment.close().unwrap_err();
    }
}
