//! The event loop: hosts, their engines, the network between them, and virtual time.

use crate::apps::App;
use crate::dice::Dice;
use crate::monitor::Phase;
use crate::mutant::{Mutant, Mutation};
use crate::oracle::{Connection, Oracle, Place, Side, State, Violation};
use crate::report::{Log, Totals};
use crate::scenario::{ConnectionPlan, Fault, MS, PORT, SECOND, Scenario, US};
use crate::tenancy::{Desk, Effect, Tenancy};
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{Config, Endpoint, Event, FlowId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// More events than this in one seed are a livelock.
pub(crate) const MAX_EVENTS: u64 = 3_000_000;
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
    pub(crate) lives: u64,
    pub(crate) received: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(crate) turn_pending: bool,
    pub(crate) timer_ns: u64,
    /// Nothing to send at the last look, and nothing has happened since.
    pub(crate) drained: bool,
    /// `poll_timeout` at that look.
    pub(crate) drained_until: Option<Instant>,
    pub(crate) instant_ns: u64,
    pub(crate) timeouts_at_once: u32,
    pub(crate) datagrams_at_once: u32,
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
    pub(crate) captured: VecDeque<Vec<u8>>,
    pub(crate) stranger_bytes: [u64; 2],
    /// Whether bytes that no endpoint made could reach one.
    pub(crate) has_strangers: bool,
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

pub(crate) fn host_of(address: SocketAddr, hosts: usize) -> Option<usize> {
    (0..hosts).find(|host| self::address(*host) == address)
}

/// Somebody whom nobody knows.
pub(crate) fn stranger_address() -> SocketAddr {
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
        packets_sent: 0,
        bytes_sent: 0,
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
        let has_strangers = scenario.strangers > 0;
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
            has_strangers,
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

    pub(crate) fn new_host(&mut self, host: usize, lives: u64) -> Host {
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
