//! Two endpoints back to back over a scripted network.

use super::time::{Duration, Instant};
use super::*;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// An application with one listener, room for everything unless told otherwise, and real bytes.
#[derive(Default)]
struct App {
    messages: HashMap<u32, Vec<u8>>,
    room: HashMap<u32, Vec<u8>>,
    next_room: u32,
    accepted: Vec<(FlowId, SocketAddr)>,
    delivered: Vec<(FlowId, Vec<u8>)>,
    acknowledged: Vec<u32>,
    refuse: bool,
}

const LIMITS: Limits = Limits { max_message: MAX_MESSAGE, window_messages: 64, window_bytes: 16 << 20 };
const PORT: u16 = 888;

impl Payload for App {
    fn listening(&mut self, port: u16) -> Listening {
        if port == PORT { Listening::Open(LIMITS) } else { Listening::Nobody }
    }
    fn accept(&mut self, flow: FlowId, _: u16, from: SocketAddr, _: Limits) -> Result<(), Reason> {
        self.accepted.push((flow, from));
        Ok(())
    }
    fn reserve(&mut self, _: FlowId, len: u32, _in_order: bool) -> Option<RxHandle> {
        if self.refuse {
            return None;
        }
        self.next_room += 1;
        self.room.insert(self.next_room, vec![0; len as usize]);
        Some(RxHandle(self.next_room))
    }
    fn keep(&mut self, _: FlowId, message: RxHandle, offset: u32, bytes: &[u8]) {
        let room = self.room.get_mut(&message.0).unwrap();
        room[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }
    fn deliver(&mut self, flow: FlowId, message: RxHandle) -> bool {
        if self.refuse {
            return false;
        }
        self.delivered.push((flow, self.room.remove(&message.0).unwrap()));
        true
    }
    fn deliver_whole(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        if self.refuse {
            return false;
        }
        self.delivered.push((flow, bytes.to_vec()));
        true
    }
    fn discard(&mut self, _: FlowId, message: RxHandle) {
        self.room.remove(&message.0);
    }
    fn acknowledged(&mut self, _: FlowId, message: TxHandle) {
        self.acknowledged.push(message.0);
    }
}

struct Host {
    address: SocketAddr,
    endpoint: Endpoint,
    app: App,
    events: Vec<Event>,
}

impl Host {
    fn new(last: u8, config: Config, seed: u64) -> Self {
        let address = SocketAddr::from(([10, 0, 0, last], 31_580));
        let endpoint = Endpoint::new(config, [seed, u64::from(last)]);
        Self { address, endpoint, app: App::default(), events: Vec::new() }
    }

    fn take(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let transmit = self.endpoint.poll_transmit(now)?;
        let mut bytes = vec![0; transmit.header_len];
        self.endpoint.emit_header(&mut bytes);
        match transmit.body {
            Body::Empty => {}
            Body::Segment { message, offset, len } => {
                let start = offset as usize;
                bytes.extend_from_slice(&self.app.messages[&message.0][start..start + len as usize]);
            }
            Body::Bundle { count } => {
                assert_eq!(usize::from(count), self.endpoint.bundle().len());
                for &(message, len) in self.endpoint.bundle() {
                    bytes.extend_from_slice(&len.to_be_bytes());
                    bytes.extend_from_slice(&self.app.messages[&message.0]);
                }
            }
            Body::Padding { len } => bytes.resize(bytes.len() + len as usize, 0),
        }
        assert_eq!(bytes.len(), transmit.header_len + transmit.body_len);
        Some((transmit.to, bytes))
    }

    fn events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.events.push(event);
        }
    }

    fn send(&mut self, now: Instant, flow: FlowId, handle: u32, bytes: Vec<u8>) {
        let len = u32::try_from(bytes.len()).unwrap();
        self.app.messages.insert(handle, bytes);
        self.endpoint.send(now, flow, TxHandle(handle), len).unwrap();
    }
}

/// A client, a server, and a wire of 20 us each way between them.
struct Net {
    now: Instant,
    hosts: [Host; 2],
    wire: VecDeque<(Instant, usize, Vec<u8>)>,
    sent: usize,
    mtu: usize,
}

const DELAY: Duration = Duration::from_micros(20);

impl Net {
    fn new() -> Self {
        Self::with([Config::default(), Config::default()])
    }

    fn with(configs: [Config; 2]) -> Self {
        let [a, b] = configs;
        Self {
            now: Instant::from_nanos(1_000_000),
            hosts: [Host::new(1, a, 7), Host::new(2, b, 8)],
            wire: VecDeque::new(),
            sent: 0,
            mtu: usize::MAX,
        }
    }

    /// Runs for `span`; `lose` says which datagrams (counted from 0, with their sender) are lost.
    fn run(&mut self, span: Duration, mut lose: impl FnMut(usize, usize, &[u8]) -> bool) {
        let end = self.now + span;
        for _ in 0..1_000_000 {
            for from in 0..2 {
                while let Some((to, bytes)) = self.hosts[from].take(self.now) {
                    assert_eq!(to, self.hosts[1 - from].address);
                    let lost = bytes.len() > self.mtu || lose(self.sent, from, &bytes);
                    self.sent += 1;
                    if !lost {
                        self.wire.push_back((self.now + DELAY, 1 - from, bytes));
                    }
                }
            }
            let mut next = self.wire.front().map_or(Instant::FAR_FUTURE, |(at, ..)| *at);
            for host in &self.hosts {
                next = next.min(host.endpoint.poll_timeout().unwrap_or(Instant::FAR_FUTURE));
            }
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while self.wire.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, to, bytes) = self.wire.pop_front().unwrap();
                let from = self.hosts[1 - to].address;
                let host = &mut self.hosts[to];
                let datagram =
                    Datagram { from, to_port: 1, landed: None, waited: Duration::ZERO, bytes: &bytes };
                let handling = host.endpoint.handle_datagram(self.now, &datagram, &mut host.app);
                assert_eq!(handling, Handling::Done);
                host.events();
            }
            for host in &mut self.hosts {
                if host.endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                    host.endpoint.handle_timeout(self.now, &mut host.app);
                    host.events();
                }
            }
        }
        panic!("the two endpoints never fall silent");
    }

    fn quietly(&mut self, span: Duration) {
        self.run(span, |_, _, _| false);
    }

    fn connect(&mut self) -> FlowId {
        let to = self.hosts[1].address;
        let timeout = Duration::from_secs(3);
        self.hosts[0].endpoint.connect(self.now, to, PORT, LIMITS, timeout).unwrap()
    }

    /// Both ends of an established flow.
    fn open(&mut self) -> (FlowId, FlowId) {
        let client = self.connect();
        self.quietly(Duration::from_millis(1));
        assert!(matches!(self.hosts[0].events[0], Event::Connected { .. }));
        (client, self.hosts[1].app.accepted[0].0)
    }
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + salt * 7 + at / 251) % 256).unwrap()).collect()
}

#[test]
fn a_connect_takes_one_round_trip_and_the_server_learns_the_flow_port() {
    let mut net = Net::new();
    let begin = net.now;
    let flow = net.connect();
    net.run(Duration::from_micros(45), |_, _, _| false);
    assert!(matches!(net.hosts[0].events[0], Event::Connected { .. }), "after {:?}", net.now - begin);
    net.quietly(Duration::from_millis(1));
    let port = net.hosts[0].endpoint.flow_port(flow).unwrap();
    assert_eq!(net.hosts[1].app.accepted[0].1, SocketAddr::from(([10, 0, 0, 1], port)));
}

#[test]
fn messages_of_all_sizes_arrive_whole_and_in_order_both_ways() {
    let mut net = Net::new();
    let ends = net.open();
    let sizes = [1, 2, 64, 111, 1_186, 1_187, 1_188, 1_200, 5_000, 70_000, 1 << 20, 8 << 20];
    for (index, &size) in (0_u32..).zip(&sizes) {
        let now = net.now;
        let bytes = pattern(size, index as usize);
        net.hosts[0].send(now, ends.0, index, bytes.clone());
        net.hosts[1].send(now, ends.1, index, bytes);
        net.hosts.iter_mut().zip([ends.0, ends.1]).for_each(|(host, flow)| {
            host.endpoint.handle_room(now, flow, 1, size as u64, &mut host.app);
        });
    }
    net.quietly(Duration::from_secs(2));
    for host in &net.hosts {
        assert_eq!(host.app.delivered.len(), sizes.len());
        for (index, (_, bytes)) in host.app.delivered.iter().enumerate() {
            assert!(*bytes == pattern(sizes[index], index), "message {index}");
        }
        assert_eq!(host.app.acknowledged, (0..u32::try_from(sizes.len()).unwrap()).collect::<Vec<_>>());
    }
}

#[test]
fn every_single_loss_of_a_short_conversation_is_repaired() {
    for lost in 0..40 {
        let mut net = Net::new();
        let client = net.connect();
        net.run(Duration::from_millis(300), |index, _, _| index == lost);
        let server = net.hosts[1].app.accepted[0].0;
        let now = net.now;
        for message in 0..20 {
            net.hosts[0].send(now, client, message, pattern(3_000, message as usize));
            net.hosts[1].send(now, server, message, pattern(64, message as usize));
        }
        net.run(Duration::from_millis(300), |index, _, _| index == lost);
        let now = net.now;
        let host = &mut net.hosts[0];
        host.endpoint.close(now, client, &mut host.app);
        net.run(Duration::from_millis(300), |index, _, _| index == lost);
        assert_eq!(net.hosts[1].app.delivered.len(), 20, "datagram {lost} lost");
        assert_eq!(net.hosts[0].app.delivered.len(), 20, "datagram {lost} lost");
        assert_eq!(
            net.hosts[0].events.last(),
            Some(&Event::Finished { flow: client }),
            "datagram {lost} lost"
        );
        assert!(
            matches!(net.hosts[1].events.last(), Some(Event::Closed { unacknowledged: 0, .. })),
            "datagram {lost} lost: {:?}",
            net.hosts[1].events
        );
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_although_the_confirmation_was_lost() {
    let mut net = Net::new();
    let client = net.connect();
    // SYN, SYN_ACK, CONFIRM: the third datagram is lost once.
    net.run(Duration::from_millis(50), |index, _, _| index == 2);
    let server = net.hosts[1].app.accepted[0].0;
    let now = net.now;
    net.hosts[1].send(now, server, 0, pattern(64, 0));
    net.quietly(Duration::from_millis(10));
    assert_eq!(net.hosts[0].app.delivered, [(client, pattern(64, 0))]);
}

#[test]
fn nobody_listening_is_told_at_once_and_a_host_away_after_the_timeout() {
    let mut net = Net::new();
    let to = net.hosts[1].address;
    let flow = net.hosts[0].endpoint.connect(net.now, to, 1, LIMITS, Duration::from_secs(3)).unwrap();
    net.quietly(Duration::from_millis(1));
    assert_eq!(net.hosts[0].events, [Event::ConnectFailed { flow, reason: Reason::Refused }]);
    let flow = net.connect();
    net.run(Duration::from_millis(2_999), |_, from, _| from == 0);
    assert_eq!(net.hosts[0].events.len(), 1);
    net.run(Duration::from_millis(2), |_, from, _| from == 0);
    assert_eq!(net.hosts[0].events[1], Event::ConnectFailed { flow, reason: Reason::Timeout });
}

#[test]
fn a_restarted_peer_is_noticed_at_the_next_message() {
    let mut net = Net::new();
    let (client, _) = net.open();
    net.hosts[1] = Host::new(2, Config::default(), 99);
    let now = net.now;
    net.hosts[0].send(now, client, 0, pattern(64, 0));
    net.quietly(Duration::from_micros(120));
    let reset = Event::Reset { flow: client, reason: Reason::UnknownFlow, unacknowledged: 1 };
    assert_eq!(net.hosts[0].events.last(), Some(&reset));
}

#[test]
fn a_client_that_was_never_heard_notices_a_restarted_peer_as_well() {
    let mut net = Net::new();
    let flow = net.connect();
    // The server got the proof, but what it said never came, and then it was started again with another secret.
    net.run(Duration::from_millis(1), |index, from, _| from == 1 && index > 1);
    assert_eq!(net.hosts[1].app.accepted.len(), 1);
    net.hosts[1] = Host::new(2, Config::default(), 99);
    net.quietly(Duration::from_millis(100));
    let [.., Event::Reset { flow: reset, reason, .. }] = net.hosts[0].events[..] else {
        panic!("{:?}", net.hosts[0].events)
    };
    assert_eq!((reset, reason), (flow, Reason::UnknownFlow));
    assert!(net.hosts[1].app.accepted.is_empty());
}

#[test]
fn a_forged_reset_is_counted_and_not_believed() {
    let mut net = Net::new();
    let (client, _) = net.open();
    let host = &mut net.hosts[0];
    for id in 0..1000_u32 {
        let mut emitter = crate::wire::header::Emitter::default();
        let id = crate::wire::header::ConnectionId(id.wrapping_mul(0x9e37_79b9));
        let refusal = crate::wire::header::Refusal { id, number: id.0, reason: 4, engine: None };
        emitter.reset(refusal, id.0.is_multiple_of(2));
        let from = SocketAddr::from(([10, 0, 0, 2], 31_580));
        let datagram =
            Datagram { from, to_port: 1, landed: None, waited: Duration::ZERO, bytes: emitter.as_bytes() };
        let _: Handling = host.endpoint.handle_datagram(net.now, &datagram, &mut host.app);
    }
    assert_eq!(host.endpoint.counters().drop_forged_answer, 1000);
    assert!(host.endpoint.stats(client).is_some());
}

#[test]
fn a_receiver_without_room_delays_its_peer_and_loses_nothing() {
    let mut net = Net::new();
    let (client, server) = net.open();
    net.hosts[1].app.refuse = true;
    let now = net.now;
    for message in 0..10 {
        net.hosts[0].send(now, client, message, pattern(4_000, message as usize));
    }
    net.quietly(Duration::from_secs(60));
    assert!(net.hosts[0].events.len() == 1, "still connected: {:?}", net.hosts[0].events);
    net.hosts[1].app.refuse = false;
    let now = net.now;
    let host = &mut net.hosts[1];
    host.endpoint.handle_pool_room(now, &mut host.app);
    net.quietly(Duration::from_millis(2));
    assert_eq!(net.hosts[1].app.delivered.len(), 10);
    assert!(net.hosts[1].app.delivered.iter().all(|(flow, _)| *flow == server));
}

#[test]
fn the_path_size_is_found_for_equal_and_unequal_peers_and_narrow_paths() {
    for (ours, theirs, path, expected) in [
        (1_252, 1_252, 1_252, 1_252),
        (1_432, 1_472, 1_472, 1_432),
        (8_972, 1_472, 1_472, 1_472),
        (8_972, 8_972, 8_972, 8_972),
        (8_972, 8_972, 1_472, 1_472),
        (65_507, 65_507, 65_507, 65_507),
        (1_472, 1_472, 1_210, 1_200),
    ] {
        let config = |max_datagram| Config { max_datagram, ..Config::default() };
        let mut net = Net::with([config(ours), config(theirs)]);
        net.mtu = path;
        let (client, _) = net.open();
        for message in 0..12 {
            let now = net.now;
            net.hosts[0].send(now, client, message, pattern(200_000, message as usize));
            net.quietly(Duration::from_millis(200));
            let host = &mut net.hosts[1];
            let flow = host.app.accepted[0].0;
            host.endpoint.handle_room(net.now, flow, 1, 200_000, &mut host.app);
        }
        assert_eq!(net.hosts[1].app.delivered.len(), 12);
        assert_eq!(
            net.hosts[0].endpoint.stats(client).unwrap().datagram_size,
            expected,
            "{ours} {theirs} {path}"
        );
    }
}

#[test]
fn a_path_that_becomes_narrower_is_noticed() {
    let config = Config { max_datagram: 8_972, ..Config::default() };
    let mut net = Net::with([config.clone(), config]);
    let (client, server) = net.open();
    for message in 0..20 {
        if message == 10 {
            net.mtu = 1_300;
        }
        let now = net.now;
        net.hosts[0].send(now, client, message, pattern(100_000, message as usize));
        net.quietly(Duration::from_millis(500));
        let host = &mut net.hosts[1];
        host.endpoint.handle_room(net.now, server, 1, 100_000, &mut host.app);
    }
    assert_eq!(net.hosts[1].app.delivered.len(), 20);
    assert!(net.hosts[0].endpoint.counters().path_black_holes > 0);
}

#[test]
fn a_silent_flow_sends_keepalives_only_and_a_dead_peer_is_noticed() {
    let mut net = Net::new();
    let (client, _) = net.open();
    net.quietly(Duration::from_secs(1));
    let before = net.sent;
    net.quietly(Duration::from_secs(100));
    let sent = net.sent - before;
    assert!((10..=45).contains(&sent), "{sent} datagrams in 100 s of silence");
    net.run(Duration::from_secs(60), |_, from, _| from == 1);
    let reset = Event::Reset { flow: client, reason: Reason::Timeout, unacknowledged: 0 };
    assert_eq!(net.hosts[0].events.last(), Some(&reset));
}

#[test]
fn both_ends_may_close_at_once() {
    let mut net = Net::new();
    let (client, server) = net.open();
    let now = net.now;
    for host in 0..2 {
        let flow = [client, server][host];
        net.hosts[host].send(now, flow, 0, pattern(10_000, 0));
        let host = &mut net.hosts[host];
        host.endpoint.close(now, flow, &mut host.app);
    }
    net.quietly(Duration::from_secs(1));
    for host in &net.hosts {
        assert!(
            matches!(host.events.last(), Some(Event::Closed { .. } | Event::Finished { .. })),
            "{:?}",
            host.events
        );
        assert_eq!(host.endpoint.flows(), 0);
        assert!(host.app.room.is_empty());
    }
}

#[test]
fn many_small_messages_share_datagrams() {
    let mut net = Net::new();
    let (client, _) = net.open();
    let (now, before) = (net.now, net.sent);
    for message in 0..60 {
        net.hosts[0].send(now, client, message, pattern(64, message as usize));
    }
    net.quietly(Duration::from_millis(5));
    assert_eq!(net.hosts[1].app.delivered.len(), 60);
    assert!(net.sent - before < 12, "{} datagrams", net.sent - before);
}

#[test]
fn wake_ups_do_not_pile_up_however_long_a_flow_talks() {
    let mut net = Net::new();
    let (client, server) = net.open();
    let mut most = 0;
    for message in 0..30_000 {
        let now = net.now;
        net.hosts[0].send(now, client, message, pattern(64, 0));
        net.quietly(Duration::from_millis(1));
        let host = &mut net.hosts[1];
        host.endpoint.handle_room(net.now, server, 1, 64, &mut host.app);
        most = most.max(net.hosts[0].endpoint.wake_ups());
    }
    assert_eq!(net.hosts[1].app.delivered.len(), 30_000);
    assert!(most < 64, "{most} wake-ups for one flow");
}

#[test]
fn a_peer_that_dies_after_its_fin_but_before_its_data_is_noticed() {
    let mut net = Net::new();
    let (client, server) = net.open();
    let now = net.now;
    net.hosts[0].send(now, client, 0, pattern(100_000, 0));
    let host = &mut net.hosts[0];
    host.endpoint.close(now, client, &mut host.app);
    // The first datagram carries the FIN; then the client's host is gone.
    let mut arrived = 0;
    net.run(Duration::from_secs(100), |_, from, _| {
        arrived += usize::from(from == 0);
        from == 0 && arrived > 2
    });
    let reset = Event::Reset { flow: server, reason: Reason::Timeout, unacknowledged: 0 };
    assert_eq!(net.hosts[1].events.last(), Some(&reset));
    assert!(net.hosts[1].app.room.is_empty());
}

#[test]
fn a_close_right_behind_messages_repeats_none_of_them() {
    let mut net = Net::new();
    let (client, _) = net.open();
    let now = net.now;
    for message in 0..7 {
        net.hosts[0].send(now, client, message, pattern(1_100, message as usize));
    }
    let host = &mut net.hosts[0];
    host.endpoint.close(now, client, &mut host.app);
    net.quietly(Duration::from_millis(50));
    assert_eq!(net.hosts[0].events.last(), Some(&Event::Finished { flow: client }));
    assert_eq!(net.hosts[0].endpoint.counters().retransmissions, 0);
}

#[test]
fn a_nudge_forgets_no_window_and_no_probe_of_the_path() {
    let mut net = Net::new();
    let (client, server) = net.open();
    net.hosts[1].app.refuse = true;
    let now = net.now;
    net.hosts[0].send(now, client, 0, pattern(64, 0));
    net.quietly(Duration::from_millis(20));
    // What the client says now is lost: a limit that is news, and the first probe for a larger path size.
    let now = net.now;
    let host = &mut net.hosts[0];
    host.endpoint.handle_room(now, client, 64, 1 << 24, &mut host.app);
    net.hosts[0].send(now, client, 1, pattern(50_000, 1));
    net.run(Duration::from_micros(200), |_, from, _| from == 0);
    net.hosts[1].app.refuse = false;
    let now = net.now;
    let host = &mut net.hosts[1];
    host.endpoint.handle_pool_room(now, &mut host.app);
    net.quietly(Duration::from_millis(100));
    assert_eq!(net.hosts[1].app.delivered.len(), 2);
    assert_eq!(net.hosts[0].endpoint.stats(client).unwrap().datagram_size, 1_472);
    assert!(net.hosts[1].endpoint.stats(server).is_some());
}
