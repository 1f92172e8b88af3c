//! Engines over Ethernet frames, on a switch in one process and in virtual time: addresses are asked for, links go down, hosts
//! move, interfaces vanish, and messages arrive all the same, or applications learn why not.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

#[path = "common/fake.rs"]
mod fake;
#[path = "common/world.rs"]
mod world;

use fake::{FakeApp, Told};
use machnet_client::ResetReason;
use machnet_client::shm::Geometry;
use machnet_engine::driver::frame::wire::{Plug, Wire, WireQueue};
use machnet_engine::driver::frame::{Framed, Setup};
use machnet_engine::driver::{Driver, DriverCounters, MacAddress, PathState};
use machnet_engine::mailbox::Command;
use machnet_engine::proto::time::Duration;
use machnet_engine::proto::{PortRange, Reason};
use std::net::Ipv4Addr;
use world::{UDP_PORT, World, at, ip};

const MILLISECOND: Duration = Duration::from_millis(1);

fn mac(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

/// The host with address `ip(index)`, as most tests want it.
fn setup(index: u8) -> Setup {
    let std::net::IpAddr::V4(address) = ip(index).ip() else { panic!("IPv4") };
    Setup {
        address,
        prefix_bits: 24,
        routes: Vec::new(),
        neighbours: Vec::new(),
        vlan: None,
        udp_port: UDP_PORT,
        ports: PortRange::new(UDP_PORT, UDP_PORT + 63).unwrap(),
        mtu: None,
        kernel_answers: false,
    }
}

/// Two hosts with a hardware address of their own each, `mac(0)` and `mac(1)`.
fn hosts(mtu: usize, change: impl Fn(&mut Setup)) -> (Wire, Vec<Framed<WireQueue>>) {
    let plug = |number| Plug { mac: mac(number), mtu, queues: 1, completes_checksums: false };
    let (wire, queues) = Wire::open(&[plug(0), plug(1)], 1);
    let framed = |(index, queues)| {
        let mut setup = setup(index);
        change(&mut setup);
        Framed::group(&setup, queues)
    };
    (wire, (0..).zip(queues).flat_map(framed).collect())
}

type Framework = World<Framed<WireQueue>>;

struct Pair {
    wire: Wire,
    world: Framework,
    client: FakeApp,
    server: FakeApp,
}

impl Pair {
    /// A client at the first host and a server that listens at port 7 of the second.
    fn new(mtu: usize, change: impl Fn(&mut Setup)) -> Self {
        let (wire, drivers) = hosts(mtu, change);
        let mut world = World::over(drivers);
        let client = world.attach(0, 1, Geometry::SMALL);
        let server = world.attach(1, 2, Geometry::SMALL);
        world.listen(1, 2, 7, 4);
        world.run(10);
        Self { wire, world, client, server }
    }

    fn connect(&mut self) -> (u32, u32) {
        self.world.connect(&mut self.client, 1, 7, &mut self.server)
    }

    /// Sends one message and answers after how many milliseconds it was there.
    fn send(&mut self, flow: u32, accepted: u32, number: u8) -> u64 {
        self.client.send(flow, &[number; 100]);
        for ms in 0..5_000 {
            if let Some(told) = self.server.next() {
                assert_eq!(told, Told::Message { flow: accepted, bytes: vec![number; 100] });
                self.server.give_back(accepted, 1);
                self.client.credits();
                return ms;
            }
            self.world.run_slowly(10, Duration::from_micros(100));
        }
        panic!("the message never came: {:?}", self.counters(0));
    }

    fn counters(&self, engine: usize) -> DriverCounters {
        self.world.engines[engine].worker.driver().counters()
    }
}

#[test]
fn engines_that_have_never_heard_of_each_other_connect_at_once() {
    for (mtu, vlan) in [(1_280, None), (1_500, Some(7)), (9_000, None)] {
        let mut pair = Pair::new(mtu, |setup| setup.vlan = vlan);
        // `connect` waits for 200 us of virtual time: the SYN must not be lost to the question who has the address.
        let (flow, accepted) = pair.connect();
        for number in 0..50 {
            assert_eq!(pair.send(flow, accepted, number), 1);
        }
        let counters = pair.counters(0);
        assert_eq!((counters.dropped_unresolved, counters.arp_learned), (0, 1), "{counters:?}");
        assert!((1..10).contains(&counters.arp_sent), "{counters:?}");
    }
}

#[test]
fn a_lost_question_is_asked_again_and_the_connect_succeeds() {
    let mut pair = Pair::new(1_500, |_| {});
    let mut lost = 0;
    pair.wire.filter(move |_, frame| {
        let is_question = frame[12..14] == [8, 6] && frame[38..42] == [10, 0, 0, 2];
        lost += u32::from(is_question);
        !is_question || lost > 2
    });
    pair.client.connect(1, at(1, 7));
    pair.world.run_slowly(4_500, Duration::from_micros(100));
    let Some(Told::Connected { flow, .. }) = pair.client.next() else {
        panic!("not connected after 450 ms: {:?}", pair.counters(0))
    };
    pair.client.send(flow, b"first");
    pair.world.run(1_000);
    assert!(matches!(pair.server.next(), Some(Told::Accepted { .. })));
}

#[test]
fn hosts_on_different_links_meet_by_their_gateways() {
    let far: Ipv4Addr = [192, 168, 0, 2].into();
    // The gateway is the other host's interface: it takes what is for it, whatever the way there was.
    let (wire, mut drivers) = hosts(1_500, |setup| {
        let is_near = setup.address == Ipv4Addr::new(10, 0, 0, 1);
        let via = if is_near { [10, 0, 0, 2] } else { [192, 168, 0, 1] };
        if !is_near {
            setup.address = far;
            setup.neighbours = vec![([192, 168, 0, 1].into(), mac(0))];
        } else {
            setup.neighbours = vec![([10, 0, 0, 2].into(), mac(1))];
        }
        setup.routes = vec![machnet_engine::driver::Route {
            network: [0; 4].into(),
            prefix_bits: 0,
            via: Some(via.into()),
        }];
    });
    let mut answered = 0;
    for (from, to) in [(0, 1), (1, 0)] {
        let (source, address) = (drivers[from].local_address(), drivers[to].local_address());
        drivers[from].lend(UDP_PORT, address, 3).unwrap().copy_from_slice(b"far");
        drivers[from].commit(3);
        drivers[from].flush().unwrap();
        drivers[to]
            .receive(|arrival| {
                assert_eq!((arrival.from, arrival.bytes), (source, &b"far"[..]));
                answered += 1;
            })
            .unwrap();
    }
    assert_eq!(answered, 2);
    drop(wire);
}

#[test]
fn flows_live_through_a_link_that_is_down_for_a_while() {
    let mut pair = Pair::new(1_500, |_| {});
    let (flow, accepted) = pair.connect();
    pair.send(flow, accepted, 1);
    for down in [0, 1] {
        pair.wire.set_up(down, false);
        pair.client.send(flow, &[2; 10]);
        pair.world.run_slowly(3_000, MILLISECOND);
        assert_eq!(pair.server.next(), None);
        assert_eq!(pair.world.engines[down].worker.driver().state(), PathState::Down);
        pair.wire.set_up(down, true);
        // The first look at the link, and the sender's timeout, which has grown meanwhile.
        pair.world.run_slowly(1_000, MILLISECOND);
        assert_eq!(pair.server.next(), Some(Told::Message { flow: accepted, bytes: vec![2; 10] }));
        pair.server.give_back(accepted, 1);
        assert_eq!(pair.world.engines[down].worker.driver().state(), PathState::Up);
    }
}

#[test]
fn a_peer_whose_hardware_address_changes_is_found_again_within_a_second() {
    for announces in [true, false] {
        let mut pair = Pair::new(1_500, |_| {});
        // Whose sender is its target is an announcement.
        pair.wire
            .filter(move |_, frame| announces || frame[12..14] != [8, 6] || frame[28..32] != frame[38..42]);
        let (flow, accepted) = pair.connect();
        for number in 0..10 {
            pair.send(flow, accepted, number);
        }
        pair.wire.set_mac(1, mac(0x77));
        let took = pair.send(flow, accepted, 99);
        assert!(took < 1_000, "{took} ms, announced: {announces}");
        pair.send(flow, accepted, 100);
    }
}

#[test]
fn a_forged_answer_does_not_disturb_a_flow() {
    let mut pair = Pair::new(1_500, |_| {});
    let (flow, accepted) = pair.connect();
    let mut forged = vec![0; 60];
    forged[..6].copy_from_slice(&mac(0).0);
    forged[6..12].copy_from_slice(&mac(66).0);
    forged[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    forged[22..28].copy_from_slice(&mac(66).0);
    forged[28..32].copy_from_slice(&[10, 0, 0, 2]);
    forged[32..38].copy_from_slice(&mac(0).0);
    forged[38..42].copy_from_slice(&[10, 0, 0, 1]);
    for number in 0..200 {
        pair.wire.inject(0, 0, &forged);
        assert!(pair.send(flow, accepted, number) <= 1);
        pair.world.run_slowly(20, MILLISECOND);
    }
    let counters = pair.counters(0);
    assert!(counters.arp_refused > 0, "{counters:?}");
    assert_eq!(counters.arp_learned, 1, "{counters:?}");
}

#[test]
fn flows_end_with_a_reason_when_the_interface_is_gone_and_new_ones_work_when_it_is_back() {
    let mut pair = Pair::new(1_500, |_| {});
    let (flow, _) = pair.connect();
    // A second application of the first host, and a flow between the two that never sees the network.
    let mut other = pair.world.attach(0, 3, Geometry::SMALL);
    pair.world.listen(0, 3, 9, 4);
    pair.world.run(10);
    let (local, local_accepted) = pair.world.connect(&mut pair.client, 0, 9, &mut other);
    pair.client.connect(5, "10.0.0.99:1".parse().unwrap());
    pair.world.run(10);

    pair.wire.remove(0);
    pair.world.run_slowly(100, MILLISECOND);
    assert_eq!(pair.world.engines[0].worker.driver().state(), PathState::Gone);
    let gone = ResetReason::InterfaceGone.code();
    let mut told = pair.client.all();
    told.sort_by_key(|told| format!("{told:?}"));
    let expected = [
        Told::ConnectFailed { request: 5, reason: gone },
        Told::Reset { flow, reason: gone, unacknowledged: 0 },
    ];
    assert_eq!(told, expected);

    assert_eq!(other.all(), [Told::ListenerEnded { listener: 9, reason: gone }]);

    // While it is gone, a connect fails at once, and applications of one host go on talking.
    pair.client.connect(6, at(1, 7));
    pair.client.send(local, b"here");
    pair.world.run(100);
    assert_eq!(pair.client.all(), [Told::ConnectFailed { request: 6, reason: gone }]);
    assert_eq!(other.next(), Some(Told::Message { flow: local_accepted, bytes: b"here".to_vec() }));

    // Who listened can listen again, and is there for applications of this host even now.
    pair.world.listen(0, 3, 10, 4);
    pair.world.run(10);
    pair.world.connect(&mut pair.client, 0, 10, &mut other);

    pair.wire.make_again(0, mac(0x55));
    pair.world.run_slowly(1_000, MILLISECOND);
    assert_eq!(pair.world.engines[0].worker.driver().state(), PathState::Up);
    pair.client.release(flow);
    while pair.server.next().is_some() {}
    pair.client.connect(7, at(1, 7));
    pair.world.run_slowly(1_000, MILLISECOND);
    assert!(matches!(pair.client.next(), Some(Told::Connected { request: 7, .. })), "{:?}", pair.counters(0));
    // And the listener of before is there for other hosts.
    let mut stranger = pair.world.attach(1, 4, Geometry::SMALL);
    stranger.connect(8, at(0, 10));
    pair.world.run_slowly(1_000, MILLISECOND);
    assert!(matches!(stranger.next(), Some(Told::Connected { request: 8, .. })));
}

#[test]
fn an_application_that_knows_no_end_of_listeners_goes_on_listening() {
    let mut pair = Pair::new(1_500, |_| {});
    let (mut old, tenant) = FakeApp::of_version(2, 3, Geometry::SMALL);
    pair.world.engines[1].commands.send(Command::Attach(tenant));
    pair.world.listen(1, 3, 9, 4);
    pair.world.run(10);
    pair.wire.remove(1);
    pair.world.run_slowly(100, MILLISECOND);
    pair.wire.make_again(1, mac(0x55));
    pair.world.run_slowly(1_000, MILLISECOND);
    assert_eq!(old.all(), []);
    assert!(matches!(pair.server.next(), Some(Told::ListenerEnded { listener: 7, .. })));
    pair.client.connect(1, at(1, 9));
    pair.client.connect(2, at(1, 7));
    pair.world.run_slowly(1_000, MILLISECOND);
    let mut told = pair.client.all();
    told.sort_by_key(|told| format!("{told:?}"));
    assert_eq!(told[0], Told::ConnectFailed { request: 2, reason: Reason::Refused as u16 });
    assert!(matches!(told[1], Told::Connected { request: 1, .. }), "{told:?}");
}

/// Two hosts of several engines each, a client and a server at these engines of theirs.
fn fleet(queues: usize, client_at: usize, server_at: usize, seed: u64) -> Pair {
    let plug = |number| Plug { mac: mac(number), mtu: 1_500, queues, completes_checksums: false };
    let (wire, all) = Wire::open(&[plug(0), plug(1)], seed);
    let hosts = (0..).zip(all).map(|(index, queues)| Framed::group(&setup(index), queues));
    let mut world = World::of_hosts(hosts.collect());
    let client = world.attach(client_at, 1, Geometry::SMALL);
    let server = world.attach(queues + server_at, 2, Geometry::SMALL);
    for engine in 0..queues {
        if engine == server_at {
            world.listen(queues + engine, 2, 7, 4);
        } else {
            let engine_of = u8::try_from(server_at).unwrap();
            let elsewhere = Command::ListenElsewhere { channel: 2, port: 7, engine: engine_of, listener: 7 };
            world.engines[queues + engine].commands.send(elsewhere);
        }
    }
    world.run(10);
    Pair { wire, world, client, server }
}

#[test]
fn engines_of_several_queues_find_each_other_whatever_queue_an_answer_lands_at() {
    for seed in 0..30 {
        let queues = [2, 4][usize::from(seed % 2 == 1)];
        let seed_at = usize::try_from(seed).unwrap();
        let (client_at, server_at) = (seed_at % queues, seed_at / 4 % queues);
        let mut pair = fleet(queues, client_at, server_at, seed);
        pair.client.connect(1, at(1, 7));
        pair.world.run(2_000);
        let Some(Told::Connected { flow, .. }) = pair.client.next() else {
            panic!("seed {seed}: not connected")
        };
        pair.client.send(flow, b"first");
        pair.world.run(1_000);
        let Some(Told::Accepted { flow: accepted, .. }) = pair.server.next() else { panic!("seed {seed}") };
        assert_eq!(pair.server.next(), Some(Told::Message { flow: accepted, bytes: b"first".to_vec() }));
        pair.server.accept(accepted);
        pair.server.give_back(accepted, 1);
        for number in 0..100 {
            pair.send(flow, accepted, number);
        }
        let handed_over = |world: &Framework| -> u64 {
            world.engines.iter().map(|engine| engine.worker.handed_over()).sum()
        };
        let before = handed_over(&pair.world);
        for number in 0..50 {
            pair.send(flow, accepted, number);
        }
        assert_eq!(handed_over(&pair.world), before, "seed {seed}: what was found is used");

        // One interface vanishes with all its queues and comes back with all of them.
        pair.wire.remove(0);
        pair.world.run_slowly(100, MILLISECOND);
        let gone = ResetReason::InterfaceGone.code();
        assert_eq!(pair.client.all(), [Told::Reset { flow, reason: gone, unacknowledged: 0 }], "seed {seed}");
        pair.client.release(flow);
        pair.wire.make_again(0, mac(0x55));
        pair.world.run_slowly(600, MILLISECOND);
        let is_up =
            |engine: &world::Engine<Framed<WireQueue>>| engine.worker.driver().state() == PathState::Up;
        assert!(pair.world.engines.iter().all(is_up), "seed {seed}");
        pair.client.connect(2, at(1, 7));
        pair.world.run_slowly(2_000, Duration::from_micros(100));
        assert!(matches!(pair.client.next(), Some(Told::Connected { request: 2, .. })), "seed {seed}");
    }
}
