//! Sidecars of several engines, over the kernel's UDP sockets: every flow finds the engines of its two ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;
#[path = "common/meeting.rs"]
mod meeting;

use common::{PATIENCE, TestSidecar, counter, eventually, pattern, status};
use machnet_client::Error;
use machnet_client::shm::Geometry;
use machnet_engine::config::Spread;
use meeting::{connect_all, echo, flows, one_on_each};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// A sidecar with so many engines, alone at its address. All have one port, as hosts do.
fn sidecar(engines: u32) -> TestSidecar {
    sidecar_with(engines, Spread::Learned)
}

fn sidecar_with(engines: u32, spread: Spread) -> TestSidecar {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    // By process, too: other test binaries may run at the same time.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = u16::try_from(std::process::id() % 60_000).unwrap();
    let [high, low] = process.to_be_bytes();
    TestSidecar::start(&format!("127.{high}.{low}.{number}"), |config| {
        config.udp_port = 17_000;
        (config.engines, config.spread) = (engines, spread);
    })
}

/// Messages both ways between all engines of two new sidecars; after a while, everything lands where it should.
fn all_to_all(left_engines: u32, right_engines: u32) {
    meeting::all_to_all(&sidecar(left_engines), left_engines, &sidecar(right_engines), right_engines);
}

#[test]
fn one_engine_and_one_engine_talk_and_hand_nothing_over() {
    all_to_all(1, 1);
}

#[test]
fn one_engine_and_two_engines_become_direct() {
    all_to_all(1, 2);
}

#[test]
fn two_engines_and_one_engine_become_direct() {
    all_to_all(2, 1);
}

#[test]
fn two_engines_and_four_engines_become_direct() {
    all_to_all(2, 4);
}

#[test]
fn four_engines_and_four_engines_become_direct() {
    all_to_all(4, 4);
}

#[test]
fn with_the_papers_handshake_data_goes_only_on_pairs_that_are_proven() {
    let (left, right) = (sidecar_with(2, Spread::Paper), sidecar_with(4, Spread::Paper));
    let (clients, servers) = (one_on_each(&left, 2), one_on_each(&right, 4));
    let (_listeners, pairs) = connect_all(&left, &right, &clients, &servers);
    for (number, (flow, accepted)) in pairs.iter().enumerate() {
        echo(flow, accepted, number, 3_000);
    }
    let taken_over: u64 = flows(&left).iter().chain(&flows(&right)).map(|flow| flow.taken_over).sum();
    assert_eq!(taken_over, 0, "no packet of an open flow landed at the wrong engine");
}

#[test]
fn an_application_gets_the_engine_that_it_names_or_the_next_in_turn() {
    let sidecar = sidecar(3);
    let named = sidecar.options().engine(2).name("named").attach().unwrap();
    let error = sidecar.options().engine(3).attach().unwrap_err();
    assert_eq!(error.to_string(), "the sidecar has no engine3: it has engine0 to engine2");
    let others: Vec<_> = (0..6).map(|_| sidecar.attach()).collect();
    let status = status(&sidecar);
    let on = |engine: usize| status.engines[engine].channels.len();
    assert_eq!([on(0), on(1), on(2)], [2, 2, 3]);
    assert!(status.engines[2].channels.iter().any(|channel| channel.name == "named"));
    drop((named, others));
}

#[test]
fn a_port_has_one_listener_on_all_engines_together() {
    let sidecar = sidecar(4);
    let apps = one_on_each(&sidecar, 4);
    let listener = apps[1].listen(sidecar.at(7), 8).unwrap();
    for app in &apps {
        assert!(matches!(app.listen(sidecar.at(7), 8), Err(Error::AddressInUse { .. })));
    }
    drop(listener);
    // Given up by one engine's application, it is free for another's, again and again.
    for round in 0..20 {
        let app = &apps[round % 4];
        let mut listener = None;
        eventually("the port is free", || {
            listener = app.listen(sidecar.at(7), 8).ok();
            listener.is_some()
        });
        let client = &apps[(round + 1) % 4];
        let flow = client.connect(sidecar.at(7)).unwrap();
        let accepted = listener.unwrap().accept_timeout(PATIENCE).unwrap();
        echo(&flow, &accepted, round, 100);
    }
}

#[test]
fn applications_of_one_host_on_different_engines_exchange_messages_of_every_size() {
    let sidecar = sidecar(3);
    let apps = one_on_each(&sidecar, 3);
    let listener = apps[0].listen(sidecar.at(7), 8).unwrap();
    let mut open = Vec::new();
    for client in &apps[1..] {
        let flow = client.connect(sidecar.at(7)).unwrap();
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        assert_eq!(flow.peer_addr(), sidecar.at(7));
        assert_eq!(accepted.peer_addr(), flow.local_addr());
        for (number, len) in [1, 111, 112, 113, 4096, 4097, 100_000, 8 << 20].into_iter().enumerate() {
            echo(&flow, &accepted, number, len);
        }
        let stats = flow.stats().unwrap();
        assert!(stats.local);
        assert_eq!((stats.messages_sent, stats.messages_acknowledged, stats.messages_received), (8, 8, 8));
        open.push((flow, accepted));
    }
    let status = status(&sidecar);
    let flow = &status.engines[1].channels[0].flows[0];
    assert_eq!((flow.kind.as_str(), flow.peer_engine), ("local", Some(0)));
    assert_eq!(counter(&sidecar, "path_datagrams_sent"), 0, "nothing of it touches the network");
}

#[test]
fn thousands_of_messages_between_engines_arrive_once_and_in_order() {
    let sidecar = sidecar(4);
    let apps = one_on_each(&sidecar, 4);
    let listeners: Vec<_> = apps.iter().map(|app| app.listen("0.0.0.0:0", 16).unwrap()).collect();
    let mut pairs = Vec::new();
    for app in &apps {
        for listener in &listeners {
            let flow = app.connect(listener.local_addr()).unwrap();
            pairs.push((flow, listener.accept_timeout(PATIENCE).unwrap()));
        }
    }
    std::thread::scope(|scope| {
        for (sender, receiver) in &pairs {
            scope.spawn(move || {
                for number in 0..1_000_usize {
                    sender.send_timeout(&pattern(number, 1 + number * 7 % 3000), PATIENCE).unwrap();
                }
            });
            scope.spawn(move || {
                for number in 0..1_000_usize {
                    let got = receiver.recv_timeout(PATIENCE).unwrap();
                    assert!(*got == *pattern(number, 1 + number * 7 % 3000), "message {number}");
                }
            });
        }
    });
}

#[test]
fn close_reset_refusal_and_a_full_backlog_are_told_across_engines() {
    let sidecar = sidecar(2);
    let apps = one_on_each(&sidecar, 2);
    let (server, client) = (&apps[0], &apps[1]);
    assert!(matches!(client.connect(sidecar.at(9)), Err(Error::Refused { .. })));
    let listener = server.listen(sidecar.at(9), 2).unwrap();
    let connected = || {
        let flow = client.connect(sidecar.at(9)).unwrap();
        (flow, listener.accept_timeout(PATIENCE).unwrap())
    };
    let (flow, accepted) = connected();
    for number in 0..200_u32 {
        flow.send_timeout(&number.to_le_bytes(), PATIENCE).unwrap();
    }
    flow.close_wait(PATIENCE).unwrap();
    for number in 0..200_u32 {
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), &number.to_le_bytes());
    }
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
    let (flow, accepted) = connected();
    flow.send(b"first").unwrap();
    assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"first");
    accepted.abort();
    assert!(matches!(flow.recv_timeout(PATIENCE), Err(Error::Reset { .. })));
    let first = client.connect(sidecar.at(9)).unwrap();
    let _second = client.connect(sidecar.at(9)).unwrap();
    assert!(matches!(client.connect(sidecar.at(9)), Err(Error::Busy { .. })));
    let _accepted = listener.accept_timeout(PATIENCE).unwrap();
    let third = client.connect(sidecar.at(9)).unwrap();
    drop(listener);
    assert!(matches!(third.recv_timeout(PATIENCE), Err(Error::Reset { .. })));
    first.send_timeout(b"the accepted one stays", PATIENCE).unwrap();
}

#[test]
fn a_receiver_on_another_engine_that_does_not_read_stops_its_sender_and_nobody_else() {
    let sidecar = sidecar(2);
    let server = sidecar.options().engine(0).geometry(Geometry::SMALL).attach().unwrap();
    let client = sidecar.options().engine(1).attach().unwrap();
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let connect = || {
        let flow = client.connect(listener.local_addr()).unwrap();
        (flow, listener.accept_timeout(PATIENCE).unwrap())
    };
    let ((lazy, lazy_end), (busy, busy_end)) = (connect(), connect());
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
fn an_abort_takes_no_message_apart_and_the_channel_goes_on() {
    let sidecar = sidecar(2);
    let apps = one_on_each(&sidecar, 2);
    let listener = apps[0].listen("0.0.0.0:0", 8).unwrap();
    for round in 0..50_usize {
        let flow = apps[1].connect(listener.local_addr()).unwrap();
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        for number in 0..8 {
            flow.send_timeout(&pattern(round * 8 + number, 50_000), PATIENCE).unwrap();
        }
        flow.abort();
        // The buffers are used again at once: whatever is delivered of the aborted flow is what was sent.
        let next = apps[1].connect(listener.local_addr()).unwrap();
        for _ in 0..8 {
            next.send_timeout(&[0xEE; 50_000], PATIENCE).unwrap();
        }
        for number in 0..8 {
            match accepted.recv_timeout(PATIENCE) {
                Ok(message) => assert!(*message == *pattern(round * 8 + number, 50_000), "round {round}"),
                Err(Error::Reset { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        drop(listener.accept_timeout(PATIENCE).unwrap());
    }
}

#[test]
fn an_application_that_leaves_has_sent_to_other_engines_and_they_are_told() {
    let sidecar = sidecar(2);
    let server = sidecar.options().engine(0).attach().unwrap();
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let client = sidecar.options().engine(1).attach().unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    for number in 0..50_usize {
        flow.send_timeout(&pattern(number, 5000), PATIENCE).unwrap();
    }
    drop((flow, client));
    for number in 0..50_usize {
        assert!(*accepted.recv_timeout(PATIENCE).unwrap() == *pattern(number, 5000));
    }
    assert!(matches!(accepted.recv_timeout(PATIENCE), Err(Error::Closed)));
    eventually("only the server is left", || {
        status(&sidecar).engines.iter().map(|engine| engine.channels.len()).sum::<usize>() == 1
    });
}

#[test]
fn a_sidecar_that_ends_delivers_what_its_applications_sent_each_other() {
    for _ in 0..5 {
        let mut sidecar = sidecar(4);
        let apps = one_on_each(&sidecar, 4);
        let listener = apps[3].listen("0.0.0.0:0", 8).unwrap();
        let mut pairs = Vec::new();
        for app in &apps[..3] {
            let flow = app.connect(listener.local_addr()).unwrap();
            pairs.push((flow, listener.accept_timeout(PATIENCE).unwrap()));
        }
        for (flow, _) in &pairs {
            flow.send(b"last words").unwrap();
        }
        sidecar.sidecar.take().unwrap().shutdown(Duration::from_secs(5));
        for (flow, accepted) in &pairs {
            assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"last words");
            assert!(accepted.recv_timeout(PATIENCE).is_err());
            assert!(flow.recv_timeout(PATIENCE).is_err());
        }
    }
}

#[test]
fn engines_are_kept_on_the_processors_that_were_named_or_the_sidecar_says_why_not() {
    use machnet_engine::config::{Config, Cpus};
    use machnet_engine::sidecar::Sidecar;
    let allowed = machnet_engine::sys::allowed_cpus().unwrap();
    let pinned = TestSidecar::start("127.0.0.1", |config| {
        config.engines = 2;
        config.cpus = Cpus::These(vec![allowed[0], allowed[0]]);
    });
    let cpus: Vec<_> = status(&pinned).engines.iter().map(|engine| engine.cpu).collect();
    assert_eq!(cpus, [Some(allowed[0]); 2]);
    let refused = |engines, cpus| {
        let socket = common::scratch_directory().join("m.sock");
        let config = Config { socket, udp_port: 0, engines, cpus, ..Config::default() };
        Sidecar::start(&config).unwrap_err().to_string()
    };
    let beyond = allowed.iter().max().unwrap() + 1;
    let text = refused(1, Cpus::These(vec![beyond]));
    assert!(text.contains(&format!("may not run on processor {beyond}")), "{text}");
    let most = u32::try_from(allowed.len()).unwrap();
    if most < 16 {
        let text = refused(most + 1, Cpus::Auto);
        assert!(text.contains("needs a processor for each"), "{text}");
    }
}
