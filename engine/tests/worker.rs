//! Engines and applications in one thread, step by step, over a network in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

#[path = "common/fake.rs"]
mod fake;
#[path = "common/world.rs"]
mod world;

use fake::{FakeApp, Told};
use machnet_client::shm::Geometry;
use machnet_engine::counters::Counter;
use machnet_engine::mailbox::Command;
use machnet_engine::proto::Reason;
use world::{World, at};

/// A server and a client on the same engine (`to` 0) or on two (`to` 1), connected.
fn pair(to: u8) -> (World, FakeApp, FakeApp, u32, u32) {
    let mut world = World::new();
    let mut client = world.attach(0, 1, Geometry::SMALL);
    let mut server = world.attach(usize::from(to), 2, Geometry::SMALL);
    world.listen(usize::from(to), 2, 7, 4);
    world.run(10);
    let (flow, accepted) = world.connect(&mut client, to, 7, &mut server);
    (world, client, server, flow, accepted)
}

#[test]
fn messages_are_echoed_and_acknowledged_in_order_locally_and_remotely() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, accepted) = pair(to);
        for number in 0..100_u8 {
            client.send(flow, &[number; 100]);
            world.run(100);
            assert_eq!(server.next(), Some(Told::Message { flow: accepted, bytes: vec![number; 100] }));
            server.give_back(accepted, 1);
            server.send(accepted, &[number]);
            world.run(200);
            assert_eq!(client.next(), Some(Told::Message { flow, bytes: vec![number] }));
            client.give_back(flow, 1);
        }
        world.run(2_000);
        assert_eq!(world.credit(&mut client, 0), 101, "to engine {to}");
        assert_eq!(world.credit(&mut server, 0), 100, "to engine {to}");
    }
}

#[test]
fn a_flow_that_is_not_read_keeps_its_credit_until_it_is() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, accepted) = pair(to);
        let credit = u8::try_from(client.geometry().flow_credit).unwrap();
        let mut known = 1;
        for _ in 0..2 {
            for number in 0..credit {
                client.send(flow, &[number]);
            }
            world.run(20_000);
            known = world.credit(&mut client, known);
            let first = server.all();
            assert!(!first.is_empty());
            let mut seen = 0;
            let mut waiting = first;
            while seen < credit {
                for told in std::mem::take(&mut waiting) {
                    assert_eq!(told, Told::Message { flow: accepted, bytes: vec![seen] }, "to engine {to}");
                    server.give_back(accepted, 1);
                    seen += 1;
                }
                world.run(20_000);
                waiting = server.all();
            }
            world.run(5_000);
            known = world.credit(&mut client, known);
        }
        assert_eq!(known, 1 + 2 * u32::from(credit), "to engine {to}");
    }
}

#[test]
fn a_close_stands_behind_the_messages_and_both_ends_are_told() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, accepted) = pair(to);
        for number in 0..20 {
            client.send(flow, &[number]);
        }
        client.close(flow);
        world.run(20_000);
        let told = server.all();
        assert_eq!(told.len(), 21, "{told:?}");
        assert_eq!(told[20], Told::Closed { flow: accepted, unacknowledged: 0 });
        assert_eq!(client.all(), [Told::Finished { flow }]);
        client.release(flow);
        server.release(accepted);
        world.run(100);
        // The numbers of the flows are used anew, with another generation.
        let (again, accepted_again) = world.connect(&mut client, to, 7, &mut server);
        assert_eq!((again & 0xffff, accepted_again & 0xffff), (flow & 0xffff, accepted & 0xffff));
        assert_ne!((again, accepted_again), (flow, accepted));
    }
}

#[test]
fn a_reset_reaches_both_ends_and_counts_what_was_not_acknowledged() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, accepted) = pair(to);
        server.reset(accepted);
        world.run(2_000);
        let aborted = Reason::Aborted as u16;
        assert_eq!(client.all(), [Told::Reset { flow, reason: aborted, unacknowledged: 0 }], "to {to}");
        assert_eq!(server.all(), [Told::Reset { flow: accepted, reason: aborted, unacknowledged: 0 }]);
    }
}

#[test]
fn connects_that_cannot_succeed_fail_with_their_reason() {
    let (mut world, mut client, ..) = pair(1);
    let refused = |request, reason| Told::ConnectFailed { request, reason };
    client.connect(5, at(0, 99));
    client.connect(6, at(1, 99));
    client.connect(7, at(1, 0));
    client.connect(8, "0.0.0.0:7".parse().unwrap());
    client.connect(9, "224.0.0.1:7".parse().unwrap());
    client.connect(10, "[fd00::1]:7".parse().unwrap());
    world.run(1_000);
    let mut told = client.all();
    told.sort_by_key(|told| format!("{told:?}"));
    let nobody = Reason::Refused as u16;
    let mut expected = vec![
        refused(5, nobody),
        refused(6, nobody),
        refused(7, 12),
        refused(8, 12),
        refused(9, 12),
        refused(10, 12),
    ];
    expected.sort_by_key(|told| format!("{told:?}"));
    assert_eq!(told, expected);
    client.connect(11, "10.0.0.77:7".parse().unwrap());
    world.run(600_000);
    assert_eq!(client.all(), [refused(11, Reason::Timeout as u16)]);
}

#[test]
fn an_application_that_breaks_a_rule_ends_alone() {
    let (mut world, mut client, mut server, flow, accepted) = pair(1);
    let mut bad = world.attach(0, 3, Geometry::SMALL);
    world.listen(1, 2, 8, 4);
    world.run(10);
    let (bad_flow, bad_accepted) = world.connect(&mut bad, 1, 8, &mut server);
    bad.send(bad_flow, b"still good");
    bad.misbehave();
    client.send(flow, b"mine");
    world.run(5_000);
    assert_eq!(world.ended(0), [3]);
    assert_eq!(world.count(0, Counter::FaultKind), 1);
    let told = server.all();
    assert!(told.contains(&Told::Message { flow: accepted, bytes: b"mine".to_vec() }));
    let gone = Reason::ApplicationGone as u16;
    assert!(told.contains(&Told::Reset { flow: bad_accepted, reason: gone, unacknowledged: 0 }), "{told:?}");
    client.send(flow, b"and again");
    world.run(1_000);
    assert!(server.all().contains(&Told::Message { flow: accepted, bytes: b"and again".to_vec() }));
}

#[test]
fn what_a_dead_application_had_published_is_delivered_before_its_flows_close() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, accepted) = pair(to);
        for number in 0..50 {
            client.send(flow, &[number]);
        }
        drop(client);
        world.engines[0].commands.send(Command::Gone { channel: 1 });
        world.run(20_000);
        let told = server.all();
        assert_eq!(told.len(), 51, "{told:?}");
        assert_eq!(told[50], Told::Closed { flow: accepted, unacknowledged: 0 });
        assert_eq!(world.ended(0), [1], "to engine {to}");
    }
}

#[test]
fn flows_of_a_dead_application_whose_peer_does_not_read_are_reset_when_the_linger_time_is_over() {
    for to in [0, 1] {
        let (mut world, mut client, mut server, flow, _) = pair(to);
        // More than the receiver takes without giving anything back.
        for round in 0..4 {
            for number in 0..60 {
                client.send(flow, &[round * 60 + number; 100]);
            }
            world.run(10_000);
            let taken = client.credits().last().map_or(0, |&(_, acknowledged)| acknowledged);
            if taken < 1 + 60 * u32::from(round + 1) {
                break;
            }
        }
        drop(client);
        world.engines[0].commands.send(Command::Gone { channel: 1 });
        world.run(50_000);
        assert!(world.ended(0).is_empty(), "it waits for the linger time, to engine {to}");
        world.run(60_000);
        assert_eq!(world.ended(0), [1]);
        assert_eq!(world.count(0, Counter::LingerExpired), 1);
        let told = server.all();
        let gone = Reason::ApplicationGone as u16;
        assert!(
            matches!(told.last(), Some(Told::Reset { reason, .. }) if *reason == gone),
            "{:?}",
            told.last()
        );
    }
}

#[test]
fn flows_that_nobody_accepted_are_refused_when_the_listener_is_given_up() {
    for to in [0, 1] {
        let mut world = World::new();
        let mut client = world.attach(0, 1, Geometry::SMALL);
        let _server = world.attach(usize::from(to), 2, Geometry::SMALL);
        world.listen(usize::from(to), 2, 7, 4);
        world.run(10);
        client.connect(1, at(to, 7));
        world.run(200);
        let Some(Told::Connected { flow, .. }) = client.next() else { panic!("not connected") };
        client.send(flow, b"hello?");
        world.run(500);
        world.engines[usize::from(to)].commands.send(Command::Unlisten { listener: 7 });
        world.run(2_000);
        let refused = Reason::Refused as u16;
        assert!(
            matches!(client.all()[..], [Told::Reset { reason, .. }] if reason == refused),
            "to engine {to}"
        );
        client.connect(2, at(to, 7));
        world.run(500);
        assert_eq!(client.all(), [Told::ConnectFailed { request: 2, reason: refused }]);
    }
}

#[test]
fn idle_applications_are_not_polled_and_wake_the_engine_by_their_bell() {
    let mut world = World::new();
    let mut apps: Vec<FakeApp> = (1..=50).map(|channel| world.attach(0, channel, Geometry::SMALL)).collect();
    world.run(100);
    assert!(!apps[0].ring(), "the engine still polls everybody");
    world.run(5_000);
    // A few are polled although they are idle; nearly all are armed.
    let connects = world.count(0, Counter::Connects);
    let mut rings = 0;
    for (number, app) in apps.iter_mut().enumerate() {
        app.connect(u32::try_from(number).unwrap(), at(0, 99));
        rings += usize::from(app.ring());
    }
    assert!(rings >= 40, "{rings} of 50 were armed");
    world.run(100);
    assert_eq!(world.count(0, Counter::Connects), connects + 50, "all were heard");
    for app in &mut apps {
        assert!(matches!(app.all()[..], [Told::ConnectFailed { .. }]));
    }
}

#[test]
fn an_application_that_sleeps_is_rung_once_for_what_comes() {
    let (mut world, mut client, mut server, flow, _) = pair(1);
    server.arm();
    client.send(flow, b"wake up");
    client.send(flow, b"and more");
    world.run(2_000);
    assert!(server.was_rung());
    client.send(flow, b"not asked to ring");
    world.run(2_000);
    assert!(!server.was_rung());
    assert_eq!(server.all().len(), 3);
}

#[test]
fn connects_that_fail_faster_than_they_are_read_are_taken_only_as_they_are_read() {
    let mut world = World::new();
    let mut app = world.attach(0, 1, Geometry::SMALL);
    world.run(10);
    let (mut asked, mut answered) = (0, 0);
    for _ in 0..200 {
        for _ in 0..32 {
            if app.has_send_room() {
                app.connect(asked, at(0, 99));
                asked += 1;
            }
        }
        app.ring();
        world.run(50);
    }
    assert!(asked < 1_000, "the engine stops taking them: {asked}");
    for _ in 0..1_000 {
        answered += u32::try_from(app.all().len()).unwrap();
        app.ring();
        world.run(100);
    }
    assert_eq!(answered, asked, "each is answered");
}
