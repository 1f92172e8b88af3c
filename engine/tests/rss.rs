//! RSS--: flows find their engines on network cards that only hash, quickly, for good, and without leaving anything behind.

#![expect(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, missing_docs, reason = "shared with the bench `connect`, which uses other parts of it")]
mod fleet;

use fleet::{Costs, Fleet, HostPlan, PORT, UDP_PORT};
use machnet_engine::driver::memory::OpaqueHash;
use machnet_engine::proto::rng::Rng;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{Config, Datagram, Endpoint, Event, Handling, Limits, Pair, PortRange, Spread};
use machnet_engine::wire::header::{ConnectionId, Emitter, Packet, Refusal, Syn, WireLimits, parse};
use std::net::SocketAddr;

const SECOND: u64 = 1_000_000_000;

fn pair_of_hosts(engines: [u8; 2], spread: Spread, seed: u64) -> Fleet {
    let plans = engines.iter().zip(1..).map(|(engines, last)| HostPlan {
        spread,
        ..HostPlan::new([10, 0, 0, last], *engines, seed * 10 + u64::from(last))
    });
    Fleet::new(plans.collect(), Costs::default())
}

/// A flow between the engines that the seed picks, connected.
fn connected(fleet: &mut Fleet, seed: u64) -> (usize, u8, machnet_engine::proto::FlowId) {
    let mut rng = Rng::new([seed, 5]);
    let client = usize::try_from(rng.below(u64::from(fleet.hosts[0].plan.engines))).unwrap();
    let server = u8::try_from(rng.below(u64::from(fleet.hosts[1].plan.engines))).unwrap();
    let flow = fleet.connect((0, client), (1, server));
    assert!(fleet.run(SECOND, |fleet| fleet.connected_at(0, client, flow).is_some()), "seed {seed}");
    (client, server, flow)
}

fn is_direct(fleet: &Fleet, host: usize, engine: usize, flow: machnet_engine::proto::FlowId) -> bool {
    fleet.hosts[host].engines[engine].endpoint.stats(flow).unwrap().is_direct
}

#[test]
fn a_connect_takes_two_datagrams_and_one_round_trip_whatever_engines_they_meet() {
    for engines in [[1, 1], [1, 4], [4, 1], [4, 4], [8, 8], [3, 6], [16, 16]] {
        for seed in 0..50 {
            let mut fleet = pair_of_hosts(engines, Spread::Learned, seed);
            let begun_ns = fleet.now_ns;
            let (client, _, flow) = connected(&mut fleet, seed);
            let took_ns = fleet.connected_at(0, client, flow).unwrap() - begun_ns;
            let round_trip_ns = 2 * fleet.costs.one_way_ns;
            assert!(took_ns < round_trip_ns + 5_000, "{engines:?}, seed {seed}: {took_ns}");
            // The SYN, its answer, and the confirmation.
            assert_eq!(fleet.sent, 3, "{engines:?}, seed {seed}");
        }
    }
}

#[test]
fn both_directions_become_direct_and_nothing_is_handed_over_from_then_on() {
    for engines in [[1, 4], [4, 1], [2, 2], [4, 4], [3, 6], [8, 16]] {
        for seed in 0..30 {
            let mut fleet = pair_of_hosts(engines, Spread::Learned, seed);
            let (client, server, flow) = connected(&mut fleet, seed);
            fleet.ping_pong(0, client, flow, 200);
            let accepted = fleet.hosts[1].engines[usize::from(server)].app.accepted[0];
            assert!(is_direct(&fleet, 0, client, flow), "{engines:?}, seed {seed}");
            assert!(is_direct(&fleet, 1, usize::from(server), accepted), "{engines:?}, seed {seed}");
            let before = fleet.handed_over();
            fleet.ping_pong(0, client, flow, 50);
            assert_eq!(fleet.handed_over(), before, "{engines:?}, seed {seed}");
        }
    }
}

#[test]
fn later_flows_are_direct_from_their_first_datagram_and_use_no_new_pair() {
    for engines in [[4, 4], [8, 8], [3, 6], [1, 4], [4, 1]] {
        for seed in 0..30 {
            let mut fleet = pair_of_hosts(engines, Spread::Learned, seed);
            let (client, server, flow) = connected(&mut fleet, seed);
            fleet.ping_pong(0, client, flow, 200);
            let pairs = fleet.hosts.iter().map(|host| host.pairs.clone()).collect::<Vec<_>>();
            let before = fleet.handed_over();
            for _ in 0..5 {
                let later = fleet.connect((0, client), (1, server));
                assert!(fleet.run(SECOND, |fleet| fleet.connected_at(0, client, later).is_some()));
                fleet.ping_pong(0, client, later, 5);
            }
            assert_eq!(fleet.handed_over(), before, "{engines:?}, seed {seed}");
            for (host, pairs) in fleet.hosts.iter().zip(pairs) {
                let fresh: Vec<_> = host.pairs.difference(&pairs).collect();
                assert_eq!(fresh, Vec::<&Pair>::new(), "{} of {engines:?}, seed {seed}", host.plan.ip);
            }
        }
    }
}

#[test]
fn a_card_that_hashes_differently_is_noticed_and_flows_become_direct_again() {
    for seed in 0..40 {
        let mut fleet = pair_of_hosts([4, 4], Spread::Learned, seed);
        let (client, server, flow) = connected(&mut fleet, seed);
        fleet.ping_pong(0, client, flow, 100);
        for host in 0..2 {
            fleet.hosts[host].nic = OpaqueHash::new([seed + 1_000, host as u64], 4);
        }
        fleet.ping_pong(0, client, flow, 200);
        let before = fleet.handed_over();
        fleet.ping_pong(0, client, flow, 50);
        assert_eq!(fleet.handed_over(), before, "seed {seed}");
        // What was learned before the change serves nobody any more; what was learned since does.
        let later = fleet.connect((0, client), (1, server));
        fleet.run(SECOND, |fleet| fleet.connected_at(0, client, later).is_some());
        fleet.ping_pong(0, client, later, 50);
        assert_eq!(fleet.delivered(0, client, later), 50);
    }
}

#[test]
fn a_pair_that_leads_nowhere_is_left_after_a_few_timeouts() {
    for seed in 0..20 {
        let mut fleet = pair_of_hosts([4, 4], Spread::Learned, seed);
        let (client, _, flow) = connected(&mut fleet, seed);
        fleet.ping_pong(0, client, flow, 100);
        let dead = fleet.hosts[0].engines[client].endpoint.stats(flow).unwrap().pair;
        // Every datagram of the client on that pair vanishes: what one broken link of a bundle does.
        for round in 0..50 {
            let before = fleet.delivered(0, client, flow);
            fleet.send(0, client, flow);
            let answered = |fleet: &Fleet| fleet.delivered(0, client, flow) > before;
            let lose = |host: usize, pair: Pair, _: &[u8]| host == 0 && pair == dead;
            assert!(fleet.run_losing(SECOND, answered, lose), "seed {seed}, round {round}");
        }
        let stats = fleet.hosts[0].engines[client].endpoint.stats(flow).unwrap();
        assert!(stats.is_direct && stats.pair != dead, "seed {seed}: {stats:?}");
    }
}

#[test]
fn the_papers_first_batch_succeeds_as_often_as_its_formula_says() {
    for (engines, datagrams) in [(2, 6), (4, 13), (8, 28)] {
        let connects = 400;
        let mut at_once = 0;
        for seed in 0..connects {
            let mut fleet = pair_of_hosts([engines, engines], Spread::Paper, seed);
            let flow = fleet.connect((0, 0), (1, engines - 1));
            fleet.run(0, |_| false);
            assert_eq!(fleet.sent, datagrams, "SYNs of the first batch");
            let done = fleet.run(250_000_000, |fleet| fleet.connected_at(0, 0, flow).is_some());
            at_once += u64::from(done);
            assert!(fleet.run(10 * SECOND, |fleet| fleet.connected_at(0, 0, flow).is_some()));
            let syns = fleet.handed_over();
            fleet.ping_pong(0, 0, flow, 10);
            // SYNs and their answers may land anywhere, data only where it should.
            let data = fleet.hosts.iter().map(|host| host.handed_over - host.handed_over_syns).sum::<u64>();
            assert_eq!(data, 0, "{engines} engines, seed {seed}, {syns} SYNs");
            // Losers leave nothing behind.
            fleet.run(SECOND, |_| false);
            let flows: usize = fleet.hosts[1].engines.iter().map(|engine| engine.endpoint.flows()).sum();
            assert_eq!(flows, 1, "{engines} engines, seed {seed}");
        }
        assert!(at_once * 1_000 >= connects * 935, "{engines} engines: {at_once} of {connects}");
    }
}

#[test]
fn in_the_papers_mode_hosts_with_different_counts_of_engines_find_each_other() {
    for engines in [[1, 2], [1, 4], [1, 8], [2, 1], [4, 1], [2, 8], [8, 2]] {
        for seed in 0..50 {
            let mut fleet = pair_of_hosts(engines, Spread::Paper, seed);
            let listener = engines[1] - 1;
            let flow = fleet.connect((0, 0), (1, listener));
            let connected = |fleet: &Fleet| fleet.connected_at(0, 0, flow).is_some();
            assert!(fleet.run(5 * SECOND, connected), "{engines:?}, seed {seed}");
            fleet.ping_pong(0, 0, flow, 10);
            let data = fleet.hosts.iter().map(|host| host.handed_over - host.handed_over_syns).sum::<u64>();
            assert_eq!(data, 0, "{engines:?}, seed {seed}");
        }
    }
}

#[test]
fn in_the_papers_mode_the_server_may_speak_first_although_the_ack_is_lost() {
    for seed in 0..30 {
        let mut fleet = pair_of_hosts([4, 4], Spread::Paper, seed);
        let flow = fleet.connect((0, 0), (1, 2));
        let mut acks = 0;
        // The first three datagrams that confirm are lost, so the server does not know of the flow for long.
        let lose = |_: usize, _: Pair, bytes: &[u8]| {
            let confirms = matches!(parse(bytes), Ok(Packet::Data(data)) if data.confirm.is_some());
            acks += u32::from(confirms);
            confirms && acks <= 3
        };
        let accepted = |fleet: &Fleet| !fleet.hosts[1].engines[2].app.accepted.is_empty();
        assert!(fleet.run_losing(20 * SECOND, accepted, lose), "seed {seed}");
        let server_flow = fleet.hosts[1].engines[2].app.accepted[0];
        fleet.send(1, 2, server_flow);
        assert!(fleet.run(SECOND, |fleet| fleet.delivered(0, 0, flow) == 1), "seed {seed}");
        let data = fleet.hosts.iter().map(|host| host.handed_over - host.handed_over_syns).sum::<u64>();
        assert_eq!(data, 0, "seed {seed}");
    }
}

/// Of so many new peers that connect, how many send to where they should from the start: a sidecar that knows the map of its
/// card tells them on which pair. It has seen 64 datagrams of others.
fn directs_of_new_peers(engines: u8, connects: u32) -> u32 {
    let mut at_once = 0;
    for round in 0..connects / 100 {
        let mut rng = Rng::new([u64::from(round), 3]);
        let mut fleet =
            Fleet::new(vec![HostPlan::new([10, 1, 0, 1], engines, rng.next_u64())], Costs::default());
        let listener = u8::try_from(rng.below(u64::from(engines))).unwrap();
        for peer in 0..64 + 100 {
            let [high, low] = u16::try_from(256 + rng.below(60_000)).unwrap().to_be_bytes();
            let host = fleet.add(HostPlan::new([10, 1, high, low], engines, rng.next_u64()));
            let flow = fleet.connect((host, 0), (0, listener));
            let heard = fleet.hosts[0].received();
            if peer < 64 {
                assert!(fleet.run(SECOND, |fleet| fleet.hosts[0].received() > heard));
                fleet.run(10_000, |_| false);
            } else {
                assert!(fleet.run(SECOND, |fleet| fleet.connected_at(host, 0, flow).is_some()));
                let before = fleet.hosts[0].handed_over;
                fleet.ping_pong(host, 0, flow, 3);
                at_once += u32::from(fleet.hosts[0].handed_over == before);
            }
            fleet.hosts.truncate(1);
            fleet.run(SECOND, |_| false);
        }
    }
    at_once
}

#[test]
fn after_64_observed_datagrams_new_peers_are_direct_at_once_where_the_hash_is_linear() {
    for engines in [4, 8] {
        let direct = directs_of_new_peers(engines, 1_000);
        assert!(direct >= 990, "{engines} engines: {direct} of 1000");
    }
}

fn endpoint(engine: u8, engines: u8) -> Endpoint {
    let ports = PortRange::new(UDP_PORT, UDP_PORT + 63).unwrap();
    let secret = Some([1, 2]);
    let config =
        Config { engine, engines, ports, receive_ports: ports, cookie_secret: secret, ..Config::default() };
    Endpoint::new(config, [9, u64::from(engine)])
}

fn give(endpoint: &mut Endpoint, landed: Option<u8>, bytes: &[u8]) -> Handling {
    let from = SocketAddr::from(([10, 0, 0, 9], UDP_PORT + 7));
    let datagram = Datagram { from, to_port: UDP_PORT, landed, waited: Duration::ZERO, bytes };
    endpoint.handle_datagram(Instant::from_nanos(1_000_000_000), &datagram, &mut fleet::App::default())
}

#[test]
fn an_engine_answers_nothing_that_belongs_to_another_but_hands_it_over_once() {
    let mut endpoint = endpoint(1, 4);
    let mut emitter = Emitter::default();
    let others = ConnectionId(4 * 1_000 + 3);
    let refusal = Refusal { id: others, number: 1, reason: 4, engine: None };
    let makes: [fn(&mut Emitter, ConnectionId, Refusal); 4] = [
        |emitter, id, _| {
            emitter.start_data(id, 7);
            emitter.ping();
        },
        |emitter, _, refusal| emitter.reset(refusal, false),
        |emitter, _, refusal| emitter.reset(Refusal { engine: Some(3), ..refusal }, true),
        |emitter, _, refusal| emitter.reject(refusal),
    ];
    for make in makes {
        make(&mut emitter, others, refusal);
        let bytes = [emitter.as_bytes(), &[0; 8]].concat();
        assert_eq!(give(&mut endpoint, None, &bytes), Handling::HandOver(3));
        assert_eq!(give(&mut endpoint, Some(0), &bytes), Handling::Done);
        assert!(endpoint.poll_transmit(Instant::from_nanos(2_000_000_000)).is_none());
    }
    assert_eq!((endpoint.counters().handed_over, endpoint.counters().drop_wrong_engine), (4, 4));
    // Its own unknown flow is answered, wherever the packet landed.
    emitter.start_data(ConnectionId(4 * 1_000 + 1), 7);
    emitter.ping();
    let bytes = [emitter.as_bytes(), &[0; 8]].concat();
    assert_eq!(give(&mut endpoint, Some(2), &bytes), Handling::Done);
    assert!(endpoint.poll_transmit(Instant::from_nanos(2_000_000_000)).is_some());
}

/// The next datagram of an endpoint, which has no message in it.
fn take(endpoint: &mut Endpoint, now: Instant) -> Vec<u8> {
    let transmit = endpoint.poll_transmit(now).expect("it has something to say");
    let mut bytes = vec![0; transmit.header_len + transmit.body_len];
    endpoint.emit_header(&mut bytes[..transmit.header_len]);
    bytes
}

#[test]
fn a_syn_that_one_engine_answered_may_be_confirmed_at_any_other() {
    for lands_on in [0, 2, 3] {
        let now = Instant::from_nanos(1_000_000_000);
        let [to, from] = [1, 9].map(|last| SocketAddr::from(([10, 0, 0, last], UDP_PORT)));
        let mut client = Endpoint::new(Config::default(), [5, 5]);
        let limits = Limits { max_message: 1 << 20, window_messages: 9, window_bytes: 1 << 20 };
        let timeout = Duration::from_secs(1);
        let flow = client.connect(now, to, PORT + 1, limits, timeout).unwrap();
        let (mut owner, mut app) = (endpoint(1, 4), fleet::App::listening_on(1, 4));
        let mut other = endpoint(lands_on, 4);

        let syn = take(&mut client, now);
        let datagram =
            |from, to_port, landed, bytes| Datagram { from, to_port, landed, waited: Duration::ZERO, bytes };
        let handled = owner.handle_datagram(now, &datagram(from, UDP_PORT, None, &syn), &mut app);
        assert_eq!((handled, owner.flows()), (Handling::Done, 0));
        let answer = take(&mut owner, now);
        let answer = datagram(to, UDP_PORT, None, &answer);
        assert_eq!(client.handle_datagram(now, &answer, &mut fleet::App::default()), Handling::Done);
        let connected = matches!(client.poll_event(), Some(Event::Connected { flow: it, .. }) if it == flow);
        assert!(connected);

        let confirmation = take(&mut client, now);
        let landed = datagram(from, UDP_PORT, None, &confirmation);
        let nobody = &mut fleet::App::listening_on(lands_on, 4);
        assert_eq!(other.handle_datagram(now, &landed, nobody), Handling::HandOver(1));
        assert_eq!(other.flows(), 0);
        let handed = datagram(from, UDP_PORT, Some(lands_on), &confirmation);
        assert_eq!(owner.handle_datagram(now, &handed, &mut app), Handling::Done);
        assert_eq!((owner.flows(), app.accepted.len()), (1, 1));
        // Where it comes again, wherever that is, it makes no second flow.
        assert_eq!(owner.handle_datagram(now, &handed, &mut app), Handling::Done);
        assert_eq!((owner.flows(), app.accepted.len(), other.flows()), (1, 1, 0));
    }
}

#[test]
fn a_flood_of_syns_is_answered_and_forgotten() {
    let mut endpoint = endpoint(0, 4);
    let mut rng = Rng::new([4, 4]);
    let mut app = fleet::App::listening_on(0, 4);
    let mut answers = 0;
    for number in 0..200_000_u32 {
        let now = Instant::from_nanos(1_000_000_000 + u64::from(number) * 1_000);
        let mut emitter = Emitter::default();
        emitter.syn(&Syn {
            client: ConnectionId(rng.next_u32()),
            number,
            versions: (1, 1),
            port: PORT,
            flow_port: 40_000,
            limits: WireLimits { max_message: 1 << 20, window_messages: 9, window_bytes: 1 << 20 },
            max_datagram: 1_472,
            engines: u8::try_from(rng.below(9)).unwrap(),
            stamp: 0,
            answer_on: None,
            hears_at: None,
        });
        let from =
            SocketAddr::from((rng.next_u32().to_be_bytes(), 1 + u16::try_from(number % 60_000).unwrap()));
        let datagram = Datagram {
            from,
            to_port: UDP_PORT,
            landed: None,
            waited: Duration::ZERO,
            bytes: emitter.as_bytes(),
        };
        assert_eq!(endpoint.handle_datagram(now, &datagram, &mut app), Handling::Done);
        // The engine gets to its output only now and then.
        while number % 400 == 0 && endpoint.poll_transmit(now).is_some() {
            answers += 1;
        }
    }
    assert!((200_000 / 400 * 200..=200_000).contains(&answers), "{answers}");
    assert_eq!((endpoint.flows(), endpoint.learned().count()), (0, 0));
}
