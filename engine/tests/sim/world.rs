//! The event loop: hosts, their engines, the network between them, and virtual time.

use crate::apps::App;
use crate::dice::Dice;
use crate::monitor::Phase;
use crate::mutant::{Mutant, Mutation};
use crate::network::Link;
use crate::oracle::{Connection, End, Oracle, Place, Side, State, Violation};
use crate::report::{Log, Short, Totals, hex};
use crate::scenario::{ConnectionPlan, Fault, MS, PORT, SECOND, Scenario, US};
use crate::tenancy::{Desk, Effect, Tenancy};
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{Body, Config, Datagram, Endpoint, Event, FlowId, Transmit};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// More events than this in one seed are a livelock.
pub(crate) const MAX_EVENTS: u64 = 3_000_000;
/// Receive descriptors of a queue (the LCD NIC of the paper).
const DESCRIPTORS: usize = 256;
/// Datagrams that one turn of the engine handles.
const RX_BURST: usize = 64;
/// More calls of `handle_timeout` at one instant are a spin.
const MAX_TIMEOUTS_AT_ONCE: u32 = 1_000;
/// More datagrams of one host without time passing are a storm.
const MAX_DATAGRAMS_AT_ONCE: u32 = 50_000;
/// Largest header that leaves room for data in the smallest datagram.
const MAX_HEADER: usize = 256;

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Arrive { host: usize, from: SocketAddr, bytes: Vec<u8> },
    Turn { host: usize },
    Timer { host: usize },
    Room { host: usize, flow: Option<FlowId> },
    Connect { connection: usize },
    Accept(Place),
    Send(Place),
    Read(Place),
    Stop(Place),
    Fault(Fault),
    EverybodyReads,
    Peek { host: usize },
    Stranger,
    Monitor,
}

#[derive(Debug)]
struct Entry {
    at_ns: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ns, self.order) == (other.at_ns, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    /// `None` while the sidecar is down.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) tenancy: Tenancy,
    pub(crate) up_since_ns: u64,
    lives: u64,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
    turn_pending: bool,
    timer_ns: u64,
    /// Nothing to send at the last look, and nothing has happened since.
    drained: bool,
    /// `poll_timeout` at that look.
    drained_until: Option<Instant>,
    instant_ns: u64,
    timeouts_at_once: u32,
    datagrams_at_once: u32,
    pub(crate) datagrams_handled: u64,
    pub(crate) datagrams_sent: u64,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) oracle: Oracle,
    pub(crate) hosts: Vec<Host>,
    pub(crate) apps: Vec<[App; 2]>,
    pub(crate) phase: Phase,
    pub(crate) mutant: Mutant,
    pub(crate) dice: Dice,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    /// Recent datagrams, which strangers repeat.
    captured: VecDeque<Vec<u8>>,
    stranger_bytes: [u64; 2],
}

/// How a seed ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kind: &'static str,
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) totals: Totals,
}

/// The address of a host.
pub(crate) fn address(host: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1)), 31580)
}

fn host_of(address: SocketAddr, hosts: usize) -> Option<usize> {
    (0..hosts).find(|host| crate::world::address(*host) == address)
}

/// Somebody whom nobody knows.
fn stranger() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 9, 9)), 4242)
}

/// An address without a host.
pub(crate) fn nobody() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200)), 31580)
}

/// Runs a scenario to its end or its first violation.
pub(crate) fn run(scenario: Scenario, mutant: Mutant, printing: bool) -> Outcome {
    let mut world = World::new(scenario, mutant, printing);
    while world.oracle.violation.is_none() && world.phase != Phase::Over {
        world.step();
    }
    world.oracle.totals.seeds = 1;
    world.oracle.totals.virtual_ms = world.now_ns() / MS;
    Outcome {
        kind: world.scenario.kind,
        violation: world.oracle.violation.clone(),
        hash: world.oracle.log.hash(),
        totals: world.oracle.totals.clone(),
    }
}

fn known_connection(scenario: &Scenario, index: usize, plan: &ConnectionPlan) -> Connection {
    let side = |host| Side {
        host,
        flow: None,
        state: State::Absent,
        since_ns: 0,
        sent: Vec::new(),
        acknowledged: 0,
        delivered: 0,
        closed: false,
        progress_ns: 0,
    };
    let server = plan.server.unwrap_or(0);
    Connection {
        sides: [side(plan.client), side(server)],
        has_host: plan.server.is_some(),
        listens: plan.port == PORT,
        timeout_ns: plan.timeout_ns,
        limits: [
            Tenancy::limits(&scenario.hosts[plan.client], index),
            Tenancy::limits(&scenario.hosts[server], 0),
        ],
    }
}

impl World {
    fn new(scenario: Scenario, mutant: Mutant, printing: bool) -> Self {
        let plans = scenario.connections.iter().enumerate();
        let connections = plans.map(|(index, plan)| known_connection(&scenario, index, plan)).collect();
        let oracle = Oracle {
            seed: scenario.seed,
            now_ns: 0,
            connections,
            violation: None,
            totals: Totals::default(),
            log: Log::new(printing),
            dead_after_ns: scenario.dead_after_ns,
            was_busy: vec![false; scenario.hosts.len()],
            max_flows: scenario.max_flows,
        };
        let apps = scenario.connections.iter().map(App::pair).collect();
        let dice = Dice::new(scenario.seed, 2);
        let mut world = Self {
            scenario,
            oracle,
            hosts: Vec::new(),
            apps,
            phase: Phase::Active,
            mutant,
            dice,
            queue: BinaryHeap::new(),
            order: 0,
            captured: VecDeque::new(),
            stranger_bytes: [0; 2],
        };
        for host in 0..world.scenario.hosts.len() {
            let made = world.new_host(host, 0);
            world.hosts.push(made);
        }
        world.plan_everything();
        world
    }

    fn plan_everything(&mut self) {
        for connection in 0..self.scenario.connections.len() {
            let at_ns = self.scenario.connections[connection].at_ns;
            self.at(at_ns, Happening::Connect { connection });
            for side in 0..2 {
                let place = Place { connection, side };
                if let Some(at_ns) = self.app(place).stops_at_ns() {
                    self.at(at_ns, Happening::Stop(place));
                }
            }
        }
        for (at_ns, fault) in self.scenario.faults.clone() {
            self.at(at_ns, Happening::Fault(fault));
        }
        self.at(self.scenario.everybody_reads_ns, Happening::EverybodyReads);
        if self.scenario.strangers > 0 {
            self.at(1, Happening::Stranger);
        }
        for host in 0..self.hosts.len() {
            self.at(1, Happening::Peek { host });
        }
        self.at(MS, Happening::Monitor);
    }

    fn new_host(&mut self, host: usize, lives: u64) -> Host {
        let mut dice = Dice::new(self.scenario.seed, 1_000 + host as u64 * 100 + lives);
        let seed = [dice.next(), dice.next()];
        Host {
            endpoint: Some(Endpoint::new(self.config(host), seed)),
            tenancy: Tenancy::new(host, self.scenario.hosts[host].clone()),
            up_since_ns: self.now_ns(),
            lives,
            received: VecDeque::new(),
            turn_pending: false,
            timer_ns: u64::MAX,
            drained: false,
            drained_until: None,
            instant_ns: 0,
            timeouts_at_once: 0,
            datagrams_at_once: 0,
            datagrams_handled: 0,
            datagrams_sent: 0,
        }
    }

    fn config(&self, host: usize) -> Config {
        let scenario = &self.scenario;
        let keepalive_ns = if self.mutant.lasts(Mutation::Chatter) {
            scenario.keepalive_ns / 100
        } else {
            scenario.keepalive_ns
        };
        #[allow(
            clippy::needless_update,
            reason = "what the configuration may get beside these keeps its default"
        )]
        Config {
            max_datagram: scenario.max_datagram(host),
            max_flows: scenario.max_flows,
            connect_timeout: Duration::from_secs(3),
            keepalive: Duration::from_nanos(keepalive_ns),
            dead_after: Duration::from_nanos(scenario.dead_after_ns),
            min_rto: Duration::from_nanos(scenario.min_rto_ns),
            max_ack_delay: Duration::from_nanos(scenario.max_ack_delay_ns),
            congestion: scenario.congestion,
            max_outstanding: scenario.max_outstanding,
            ..Config::default()
        }
    }

    pub(crate) const fn now_ns(&self) -> u64 {
        self.oracle.now_ns
    }

    pub(crate) const fn now(&self) -> Instant {
        Instant::from_nanos(self.oracle.now_ns)
    }

    /// Plans something.
    pub(crate) fn at(&mut self, at_ns: u64, what: Happening) {
        self.order += 1;
        let at_ns = at_ns.max(self.now_ns());
        self.queue.push(Reverse(Entry { at_ns, order: self.order, what }));
    }

    pub(crate) fn app(&mut self, place: Place) -> &mut App {
        &mut self.apps[place.connection][place.side]
    }

    fn step(&mut self) {
        let Some(Reverse(entry)) = self.queue.pop() else {
            return self.oracle.violate("livelock", "nothing will ever happen again".to_owned());
        };
        self.oracle.now_ns = entry.at_ns;
        self.oracle.totals.events += 1;
        if self.oracle.totals.events > MAX_EVENTS {
            self.oracle.violate("livelock", format!("more than {MAX_EVENTS} events"));
        }
        match entry.what {
            Happening::Arrive { host, from, bytes } => self.arrive(host, from, bytes),
            Happening::Turn { host } => self.turn(host),
            Happening::Timer { host } => self.timer(host, entry.at_ns),
            Happening::Room { host, flow } => self.room(host, flow),
            Happening::Connect { connection } => self.connect(connection),
            Happening::Accept(place) => self.accept(place),
            Happening::Send(place) => self.send(place),
            Happening::Read(place) => self.read(place),
            Happening::Stop(place) => self.stop(place),
            Happening::Fault(fault) => self.fault(fault),
            Happening::EverybodyReads => self.everybody_reads(),
            Happening::Peek { host } => self.peek(host),
            Happening::Stranger => self.stranger(),
            Happening::Monitor => self.monitor(),
        }
    }

    /// Calls into a living endpoint and then does what a worker must: events, effects.
    pub(crate) fn call<R>(
        &mut self,
        host: usize,
        call: impl FnOnce(&mut Endpoint, Instant, &mut Desk<'_>) -> R,
    ) -> Option<R> {
        let now = self.now();
        let machine = &mut self.hosts[host];
        machine.drained = false;
        let endpoint = machine.endpoint.as_mut()?;
        let mut desk = Desk {
            tenancy: &mut machine.tenancy,
            oracle: &mut self.oracle,
            dice: &mut self.dice,
            mutant: &mut self.mutant,
            ring_full: self.scenario.ring_full,
            accept_fails: self.scenario.accept_fails,
        };
        let answer = call(endpoint, now, &mut desk);
        self.drain_events(host);
        self.apply_effects(host);
        Some(answer)
    }

    fn drain_events(&mut self, host: usize) {
        while let Some(event) = self.hosts[host].endpoint.as_mut().and_then(Endpoint::poll_event) {
            self.on_event(host, event);
        }
    }

    fn on_event(&mut self, host: usize, event: Event) {
        let (Event::Connected { flow, .. }
        | Event::ConnectFailed { flow, .. }
        | Event::Closed { flow, .. }
        | Event::Finished { flow }
        | Event::Reset { flow, .. }) = event;
        let now_ns = self.now_ns();
        self.oracle.log.say(now_ns, || format!("host{} {event:?}", host + 1));
        let Some(place) = self.hosts[host].tenancy.place(flow) else {
            return self.oracle.violate("flow", format!("host {host}: {event:?} of an unknown flow"));
        };
        if !matches!(event, Event::Connected { .. }) {
            self.check_handles_home(host, place, flow);
            if self.mutant.strikes(Mutation::LoseEnd) {
                return;
            }
        }
        match event {
            Event::Connected { peer, .. } => {
                self.oracle.on_connected(place, peer);
                self.at(now_ns, Happening::Send(place));
            }
            Event::ConnectFailed { reason, .. } => self.oracle.on_connect_failed(place, reason),
            Event::Closed { unacknowledged, .. } => self.oracle.on_closed(place, unacknowledged),
            Event::Finished { .. } => self.oracle.on_finished(place),
            Event::Reset { reason, unacknowledged, .. } => {
                let miscount = self.mutant.strikes(Mutation::MiscountUnacknowledged);
                let unacknowledged = if miscount { unacknowledged + 1 } else { unacknowledged };
                let wrong = self.mutant.strikes(Mutation::WrongReason);
                let reason = if wrong { machnet_engine::proto::Reason::ProtocolError } else { reason };
                let since_ns = self.connected_since_ns(place.connection);
                self.oracle.on_reset(place, reason, unacknowledged, since_ns);
            }
        }
    }

    /// A flow is gone: everything reserved for it must be, and its slot is free.
    pub(crate) fn check_handles_home(&mut self, host: usize, place: Place, flow: FlowId) {
        let leaked = self.hosts[host].tenancy.close(flow);
        if leaked > 0 {
            self.oracle.violate("handles", format!("{place:?} ended with {leaked} buffers reserved"));
        }
        let known = self.hosts[host].endpoint.as_ref().is_some_and(|endpoint| endpoint.stats(flow).is_some());
        if known {
            self.oracle.violate("flow", format!("{place:?} ended, but {flow:?} still has statistics"));
        }
    }

    fn apply_effects(&mut self, host: usize) {
        let now_ns = self.now_ns();
        for effect in core::mem::take(&mut self.hosts[host].tenancy.effects) {
            match effect {
                Effect::Accepted(place) => {
                    let delay_ns = self.scenario.connections[place.connection].accept_delay_ns;
                    self.at(now_ns + delay_ns, Happening::Accept(place));
                }
                Effect::Delivered(place, waiting) => self.on_delivery(place, waiting),
                Effect::Acknowledged(place) => self.wake_sender(place, now_ns),
                Effect::RingFull(flow) => {
                    let flow = self.dice.chance(500_000).then_some(flow);
                    let delay_ns = self.dice.between(US, 100 * US);
                    self.at(now_ns + delay_ns, Happening::Room { host, flow });
                }
            }
        }
        self.want_turn(host);
    }

    /// The engine looks at its input: at once, or after a nap.
    pub(crate) fn want_turn(&mut self, host: usize) {
        if self.hosts[host].turn_pending {
            return;
        }
        self.hosts[host].turn_pending = true;
        let naps = self.dice.chance(self.scenario.hosts[host].naps);
        self.oracle.totals.naps += u64::from(naps);
        let delay_ns = if naps { self.dice.between(50 * US, 200 * US) } else { 0 };
        self.at(self.now_ns() + delay_ns, Happening::Turn { host });
    }

    fn arrive(&mut self, host: usize, from: SocketAddr, bytes: Vec<u8>) {
        let machine = &mut self.hosts[host];
        if machine.endpoint.is_none() {
            self.oracle.totals.to_nobody += 1;
            return;
        }
        if machine.received.len() >= DESCRIPTORS {
            self.oracle.totals.descriptors_full += 1;
            return;
        }
        machine.received.push_back((from, bytes));
        self.want_turn(host);
    }

    /// One duty cycle of an engine.
    fn turn(&mut self, host: usize) {
        self.hosts[host].turn_pending = false;
        if self.hosts[host].endpoint.is_none() {
            return;
        }
        for _ in 0..RX_BURST {
            let Some((from, bytes)) = self.hosts[host].received.pop_front() else { break };
            self.hosts[host].datagrams_handled += 1;
            let datagram = Datagram { from, bytes: &bytes };
            self.call(host, |endpoint, now, desk| endpoint.handle_datagram(now, &datagram, desk));
        }
        self.run_timers(host);
        let more = self.transmit_burst(host);
        if more || !self.hosts[host].received.is_empty() {
            self.hosts[host].turn_pending = true;
            self.at(self.now_ns() + US, Happening::Turn { host });
        }
        self.set_timer(host);
    }

    fn due(&self, host: usize) -> Option<Instant> {
        let due = self.hosts[host].endpoint.as_ref().and_then(Endpoint::poll_timeout)?;
        if self.mutant.lasts(Mutation::NoTimers) {
            return None;
        }
        if self.mutant.lasts(Mutation::LateTimers) {
            return Some(due + Duration::from_secs(1));
        }
        Some(due)
    }

    fn run_timers(&mut self, host: usize) {
        if self.due(host).is_none_or(|due| due > self.now()) {
            return;
        }
        let now_ns = self.now_ns();
        let machine = &mut self.hosts[host];
        if machine.instant_ns != now_ns {
            machine.instant_ns = now_ns;
            machine.timeouts_at_once = 0;
            machine.datagrams_at_once = 0;
        }
        machine.timeouts_at_once += 1;
        if machine.timeouts_at_once > MAX_TIMEOUTS_AT_ONCE {
            self.oracle.violate("livelock", format!("host {host} has timeouts without end"));
        }
        self.call(host, |endpoint, now, desk| endpoint.handle_timeout(now, desk));
    }

    /// Sends up to a burst. True if there is more.
    fn transmit_burst(&mut self, host: usize) -> bool {
        let now = self.now();
        let now_ns = self.now_ns();
        if self.hosts[host].instant_ns != now_ns {
            self.hosts[host].instant_ns = now_ns;
            self.hosts[host].timeouts_at_once = 0;
            self.hosts[host].datagrams_at_once = 0;
        }
        for _ in 0..self.scenario.hosts[host].burst {
            let machine = &mut self.hosts[host];
            let Some(endpoint) = machine.endpoint.as_mut() else { return false };
            let Some(transmit) = endpoint.poll_transmit(now) else {
                machine.drained = true;
                machine.drained_until = endpoint.poll_timeout();
                return false;
            };
            machine.datagrams_at_once += 1;
            if machine.datagrams_at_once > MAX_DATAGRAMS_AT_ONCE {
                self.oracle.violate("livelock", format!("host {host} sends datagrams without end"));
                return false;
            }
            self.send_datagram(host, &transmit);
        }
        true
    }

    fn send_datagram(&mut self, host: usize, transmit: &Transmit) {
        let mut bytes = self.assemble(host, transmit);
        let now_ns = self.now_ns();
        let from = address(host);
        self.oracle.totals.datagrams += 1;
        self.oracle.totals.datagram_bytes += bytes.len() as u64;
        self.hosts[host].datagrams_sent += 1;
        self.oracle.log.note(&[now_ns, host as u64, bytes.len() as u64]);
        self.oracle.log.note_bytes(&bytes[..bytes.len().min(transmit.header_len)]);
        let limit = self.scenario.max_datagram(host) as usize;
        let grown = if self.mutant.strikes(Mutation::LargeDatagram) { limit } else { 0 };
        if bytes.len() + grown > limit {
            self.oracle
                .violate("size", format!("host {host} sends {} bytes, the limit is {limit}", bytes.len()));
        }
        self.oracle.log.say(now_ns, || {
            let header = hex(&bytes[..transmit.header_len.min(bytes.len())]);
            format!(
                "{} -> {} {:?} {:?} header {header}",
                Short(from),
                Short(transmit.to),
                transmit.flow,
                transmit.body
            )
        });
        if transmit.to == stranger() {
            return self.answer_stranger(bytes.len() as u64);
        }
        let Some(to) = host_of(transmit.to, self.hosts.len()) else {
            self.oracle.totals.to_nobody += 1;
            return;
        };
        if self.scenario.strangers > 0 {
            self.captured.push_back(bytes.clone());
            self.captured.truncate(32);
            if self.dice.chance(100_000) {
                self.captured.pop_front();
            }
        }
        if self.mutant.lasts(Mutation::Starve)
            && matches!(transmit.body, Body::Segment { .. } | Body::Bundle { .. })
        {
            return;
        }
        let count = self.hosts.len();
        let link: &mut Link = &mut self.scenario.links[host * count + to];
        let [first, second] = link.carry(now_ns, &mut bytes, &mut self.dice, &mut self.oracle.totals);
        if let Some(at_ns) = second {
            self.at(at_ns, Happening::Arrive { host: to, from, bytes: bytes.clone() });
        }
        if let Some(at_ns) = first {
            self.at(at_ns, Happening::Arrive { host: to, from, bytes });
        }
    }

    /// Header from the endpoint, body from the messages.
    fn assemble(&mut self, host: usize, transmit: &Transmit) -> Vec<u8> {
        let mut bytes = vec![0; transmit.header_len + transmit.body_len];
        if transmit.header_len == 0 || transmit.header_len > MAX_HEADER {
            self.oracle.violate("size", format!("a header of {} bytes", transmit.header_len));
        }
        let Some(endpoint) = self.hosts[host].endpoint.as_ref() else { return bytes };
        endpoint.emit_header(&mut bytes[..transmit.header_len]);
        let body = &mut bytes[transmit.header_len..];
        let bundle: Vec<_> = endpoint.bundle().to_vec();
        let filled = match transmit.body {
            Body::Empty => 0,
            Body::Padding { len } => {
                self.oracle.totals.probes += 1;
                len as usize
            }
            Body::Segment { message, offset, len } => {
                let target = body.get_mut(..len as usize);
                self.fill_segment(host, transmit.flow, (message, offset, len), target);
                len as usize
            }
            Body::Bundle { count } => {
                if bundle.len() != usize::from(count) || count == 0 {
                    self.oracle
                        .violate("body", format!("a bundle of {count} lists {} messages", bundle.len()));
                }
                self.oracle.totals.bundles += 1;
                self.fill_bundle(host, transmit.flow, &bundle, body)
            }
        };
        if filled != transmit.body_len {
            self.oracle
                .violate("body", format!("{:?} is {filled} bytes, not {}", transmit.body, transmit.body_len));
        }
        bytes
    }

    fn fill_bundle(
        &mut self,
        host: usize,
        flow: Option<FlowId>,
        bundle: &[(machnet_engine::proto::TxHandle, u16)],
        body: &mut [u8],
    ) -> usize {
        let mut at = 0;
        for (message, len) in bundle {
            let end = at + 2 + usize::from(*len);
            if let Some(target) = body.get_mut(at..end) {
                target[..2].copy_from_slice(&len.to_le_bytes());
                let target = Some(&mut target[2..]);
                self.fill_segment(host, flow, (*message, 0, u32::from(*len)), target);
            }
            at = end;
        }
        at
    }

    fn fill_segment(
        &mut self,
        host: usize,
        flow: Option<FlowId>,
        (message, offset, len): (machnet_engine::proto::TxHandle, u32, u32),
        target: Option<&mut [u8]>,
    ) {
        let Some(outgoing) = self.hosts[host].tenancy.lent(message) else {
            return self
                .oracle
                .violate("handles", format!("host {host} sends bytes of {message:?}, which is not lent"));
        };
        let place = outgoing.place;
        if flow.is_none() || self.oracle.side(place).flow != flow {
            self.oracle.violate("body", format!("{flow:?} sends bytes of {place:?}"));
        }
        if len == 0 || offset + len > outgoing.len {
            self.oracle.violate("body", format!("{offset}+{len} of a message of {} bytes", outgoing.len));
        }
        let key = crate::content::key(self.scenario.seed, place.connection, place.side, outgoing.number);
        if let Some(target) = target {
            crate::content::fill(key, offset as usize, target);
        }
        let message = &mut self.oracle.side(place).sent[outgoing.number as usize];
        let again = offset < message.transmitted;
        message.transmitted = message.transmitted.max(offset + len);
        self.oracle.totals.retransmissions += u64::from(again);
    }

    fn set_timer(&mut self, host: usize) {
        let Some(due) = self.due(host) else { return };
        let due_ns = due.as_nanos();
        let now_ns = self.now_ns();
        let drained = self.hosts[host].drained;
        if due_ns <= now_ns {
            // Still due: another turn, which `MAX_TIMEOUTS_AT_ONCE` bounds.
            if drained && !self.hosts[host].turn_pending {
                self.hosts[host].turn_pending = true;
                self.at(now_ns, Happening::Turn { host });
            }
            return;
        }
        if due != Instant::FAR_FUTURE && due_ns < self.hosts[host].timer_ns {
            self.hosts[host].timer_ns = due_ns;
            self.at(due_ns, Happening::Timer { host });
        }
    }

    fn timer(&mut self, host: usize, at_ns: u64) {
        if self.hosts[host].timer_ns != at_ns {
            return;
        }
        self.hosts[host].timer_ns = u64::MAX;
        if self.hosts[host].endpoint.is_none() {
            return;
        }
        if self.due(host).is_some_and(|due| due <= self.now()) {
            self.want_turn(host);
        } else {
            self.set_timer(host);
        }
    }

    /// A ring that was full has room again.
    fn room(&mut self, host: usize, flow: Option<FlowId>) {
        match flow.filter(|flow| self.hosts[host].tenancy.place(*flow).is_some()) {
            Some(flow) => self.call(host, |endpoint, now, desk| endpoint.handle_room(now, flow, 0, 0, desk)),
            None => self.call(host, |endpoint, now, desk| endpoint.handle_pool_room(now, desk)),
        };
    }

    /// An engine that said it had nothing to do before a time must have nothing to do before it.
    fn peek(&mut self, host: usize) {
        let now = self.now();
        let machine = &mut self.hosts[host];
        let idle = machine.drained && machine.received.is_empty() && !machine.turn_pending;
        if let Some(endpoint) = machine.endpoint.as_mut().filter(|_| idle) {
            let due = endpoint.poll_timeout();
            if due != machine.drained_until {
                let text = format!(
                    "host {host}: poll_timeout moved from {:?} to {due:?} by itself",
                    machine.drained_until
                );
                self.oracle.violate("timer", text);
            } else if due.is_none_or(|due| due > now) {
                self.oracle.totals.peeks += 1;
                let transmit = endpoint.poll_transmit(now);
                let event = endpoint.poll_event();
                if transmit.is_some() || event.is_some() {
                    let text =
                        format!("host {host} said nothing before {due:?}, but now {transmit:?} {event:?}");
                    self.oracle.violate("timer", text);
                }
            }
        }
        let next_ns = self.dice.log_between(20 * US, 20 * MS).max(self.now_ns() / 64);
        self.at(self.now_ns() + next_ns, Happening::Peek { host });
    }

    fn fault(&mut self, fault: Fault) {
        let now_ns = self.now_ns();
        self.oracle.log.say(now_ns, || format!("{fault:?}"));
        match fault {
            Fault::Cut { from, to } => {
                self.oracle.totals.partitions += 1;
                let link = self.scenario.link(from, to);
                link.cut_ns = if link.cuts == 0 { now_ns } else { link.cut_ns };
                link.cuts += 1;
            }
            Fault::Heal { from, to } => {
                let link = self.scenario.link(from, to);
                link.cuts -= 1;
                link.healed_ns = now_ns;
            }
            Fault::Down { host } => self.host_dies(host),
            Fault::Up { host } => {
                if self.hosts[host].endpoint.is_none() {
                    let lives = self.hosts[host].lives + 1;
                    let turn_pending = self.hosts[host].turn_pending;
                    self.hosts[host] = self.new_host(host, lives);
                    self.hosts[host].turn_pending = turn_pending;
                }
            }
        }
    }

    fn host_dies(&mut self, host: usize) {
        if self.hosts[host].endpoint.take().is_none() {
            return;
        }
        self.oracle.totals.restarts += 1;
        self.hosts[host].received.clear();
        for connection in 0..self.apps.len() {
            for side in 0..2 {
                let place = Place { connection, side };
                let (on_host, state) = (self.oracle.side(place).host, self.oracle.side(place).state);
                if on_host != host || state == State::Absent {
                    continue;
                }
                self.app(place).forget();
                if state.is_alive() {
                    self.oracle.on_gone(place, End::HostDied);
                }
            }
        }
    }

    /// Since when datagrams can travel both ways between the living hosts of a connection.
    pub(crate) fn connected_since_ns(&self, connection: usize) -> Option<u64> {
        let known = &self.oracle.connections[connection];
        let [client, server] = [known.sides[0].host, known.sides[1].host];
        if !known.has_host {
            return None;
        }
        let mut since_ns = 0;
        for (from, to) in [(client, server), (server, client)] {
            let link = &self.scenario.links[from * self.hosts.len() + to];
            if link.cuts > 0 || self.hosts[from].endpoint.is_none() {
                return None;
            }
            since_ns = since_ns.max(link.healed_ns).max(self.hosts[from].up_since_ns);
        }
        Some(since_ns)
    }

    fn answer_stranger(&mut self, bytes: u64) {
        let loud = if self.mutant.lasts(Mutation::LoudReply) { 10 } else { 1 };
        self.oracle.totals.stranger_answered += 1;
        self.stranger_bytes[1] += bytes * loud;
        let [sent, answered] = self.stranger_bytes;
        if answered > sent {
            self.oracle.violate("amplification", format!("a stranger sent {sent} bytes and got {answered}"));
        }
    }

    /// Somebody sends garbage, or what it overheard, whole or cut or changed.
    fn stranger(&mut self) {
        let host = self.dice.between(0, self.hosts.len() as u64 - 1) as usize;
        let overheard = self.captured.get(self.dice.between(0, 31) as usize).cloned();
        let garbage = overheard.is_none();
        let mut bytes = overheard.unwrap_or_else(|| {
            let len = self.dice.log_between(1, 1472) as usize;
            (0..len).map(|_| self.dice.next() as u8).collect()
        });
        match self.dice.between(0, 3) {
            0 => bytes.truncate(self.dice.between(0, bytes.len() as u64) as usize),
            1 if !bytes.is_empty() => {
                let at = self.dice.between(0, bytes.len().min(64) as u64 - 1) as usize;
                bytes[at] = self.dice.next() as u8;
            }
            _ => {}
        }
        // Garbage may also carry the address of a host that the victim knows.
        let spoofed = garbage && self.dice.chance(300_000);
        let from = if spoofed { address((host + 1) % self.hosts.len()) } else { stranger() };
        if !spoofed {
            self.stranger_bytes[0] += bytes.len() as u64;
        }
        self.oracle.totals.stranger_sent += 1;
        self.arrive(host, from, bytes);
        self.scenario.strangers = self.scenario.strangers.saturating_sub(1);
        if self.scenario.strangers > 0 && self.phase == Phase::Active {
            let delay_ns = self.dice.log_between(US, 5 * MS);
            self.at(self.now_ns() + delay_ns, Happening::Stranger);
        }
    }

    /// Whether all faults of the plan lie behind.
    pub(crate) fn faults_are_over(&self) -> bool {
        let last_ns = self.scenario.faults.iter().map(|(at_ns, _)| *at_ns).max().unwrap_or(0);
        self.now_ns() > last_ns.max(self.scenario.everybody_reads_ns)
    }

    /// The longest that a connection may wait for its first news of the end of the other side.
    pub(crate) const fn end_bound_ns(&self) -> u64 {
        self.scenario.keepalive_ns + self.scenario.dead_after_ns + 2 * SECOND
    }
}
