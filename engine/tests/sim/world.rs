//! The event loop: hosts, their engines, the network between them, and virtual time.

use crate::apps::App;
use crate::dice::Dice;
use crate::machine::Machine;
use crate::monitor::Phase;
use crate::mutant::{Mutant, Mutation};
use crate::oracle::{Connection, Oracle, Place, Side, State, Violation};
use crate::pcap::Pcap;
use crate::report::{Log, Totals};
use crate::scenario::{BASE_PORT, CLOSED_PORT, ConnectionPlan, Fault, HostPlan, MS, SECOND, Scenario, US};
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
    /// A datagram reaches a host's network card.
    Arrive {
        host: usize,
        from: SocketAddr,
        to_port: u16,
        bytes: Vec<u8>,
    },
    /// A datagram reaches the engine that it was handed to.
    HandedOver {
        unit: usize,
        datagram: Received,
    },
    Turn {
        unit: usize,
    },
    Timer {
        unit: usize,
    },
    Room {
        unit: usize,
        flow: Option<FlowId>,
    },
    Connect {
        connection: usize,
    },
    Accept(Place),
    Send(Place),
    Read(Place),
    Stop(Place),
    Fault(Fault),
    EverybodyReads,
    Peek {
        unit: usize,
    },
    Stranger,
    Flood,
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

/// A datagram that waits for an engine.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    pub(crate) to_port: u16,
    pub(crate) landed: Option<u8>,
    pub(crate) bytes: Vec<u8>,
}

/// One engine of one host.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) host: usize,
    /// Its number at the host.
    pub(crate) engine: u8,
    /// `None` while the sidecar is down, and while it has fewer engines.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) tenancy: Tenancy,
    pub(crate) up_since_ns: u64,
    pub(crate) received: VecDeque<Received>,
    /// What other engines handed over.
    pub(crate) inbox: VecDeque<Received>,
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
    /// Network cards and what else the engines of a host share.
    pub(crate) machines: Vec<Machine>,
    /// All engines of all hosts, one host behind the other.
    pub(crate) units: Vec<Unit>,
    pub(crate) pcap: Option<Pcap>,
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
    pub(crate) pcap: Option<Vec<u8>>,
}

/// What somebody wants to see of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) printing: bool,
    pub(crate) pcap: bool,
}

/// Hosts of one /24 network.
const HOSTS_OF_NETWORK: usize = 128;
/// Most hosts: their networks end before that of the strangers.
pub(crate) const MOST_HOSTS: usize = 8 * HOSTS_OF_NETWORK;

/// The address of a host.
pub(crate) fn address(host: usize) -> SocketAddr {
    let (network, number) = (host / HOSTS_OF_NETWORK, host % HOSTS_OF_NETWORK);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, network as u8, number as u8 + 1)), BASE_PORT)
}

/// The host with this address, if it is one of so many.
pub(crate) fn host_of(ip: IpAddr, hosts: usize) -> Option<usize> {
    let IpAddr::V4(v4) = ip else { return None };
    let [10, 0, network, number] = v4.octets() else { return None };
    let number = usize::from(number).checked_sub(1).filter(|number| *number < HOSTS_OF_NETWORK)?;
    let host = usize::from(network) * HOSTS_OF_NETWORK + number;
    (host < hosts).then_some(host)
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
pub(crate) fn run(scenario: Scenario, mutant: Mutant, watch: Watch) -> Outcome {
    let mut world = World::new(scenario, mutant, watch.printing);
    world.pcap = watch.pcap.then(Pcap::default);
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
        pcap: world.pcap.map(Pcap::into_bytes),
    }
}

fn known_connection(scenario: &Scenario, index: usize, plan: &ConnectionPlan) -> Connection {
    let side = |host: usize| Side {
        unit: scenario.first_unit(host),
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
        listens: plan.port != CLOSED_PORT,
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
            jumped_ns: 0,
            connect_bound_ns: scenario.connect_bound_ns,
        };
        let apps = scenario.connections.iter().map(App::pair).collect();
        let dice = Dice::new(scenario.seed, 2);
        let has_strangers = scenario.strangers > 0;
        let mut world = Self {
            scenario,
            oracle,
            machines: Vec::new(),
            units: Vec::new(),
            pcap: None,
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
            let machine = Machine::new(&world.scenario, host);
            world.machines.push(machine);
            for engine in 0..world.scenario.hosts[host].most_engines() {
                world.units.push(Unit::absent(host, engine, &world.scenario.hosts[host]));
            }
            world.start_host(host);
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
        if self.scenario.flood > 0 {
            self.at(1, Happening::Flood);
        }
        for unit in 0..self.units.len() {
            self.at(1, Happening::Peek { unit });
        }
        self.at(MS, Happening::Monitor);
    }

    pub(crate) fn config(&self, unit: usize) -> Config {
        let scenario = &self.scenario;
        let Unit { host, engine, .. } = self.units[unit];
        let (plan, machine) = (&scenario.hosts[host], &self.machines[host]);
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
            engine,
            engines: machine.engines,
            ports: plan.ports(),
            receive_ports: plan.receive_ports(),
            spread: scenario.spread,
            cookie_secret: Some(machine.secret),
            ..Config::default()
        }
    }

    pub(crate) const fn now_ns(&self) -> u64 {
        self.oracle.now_ns
    }

    /// What an engine's clock shows.
    pub(crate) fn clock(&self, unit: usize) -> Instant {
        Instant::from_nanos(self.oracle.now_ns + self.machines[self.units[unit].host].jumped_ns)
    }

    /// How the host of an engine is made.
    pub(crate) fn plan(&self, unit: usize) -> &HostPlan {
        &self.scenario.hosts[self.units[unit].host]
    }

    /// The engine to which the client's application is attached, of those that the sidecar has now.
    pub(crate) fn client_unit(&self, plan: &ConnectionPlan) -> usize {
        let engines = usize::from(self.machines[plan.client].engines);
        self.scenario.first_unit(plan.client) + plan.client_engine % engines
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
            Happening::Arrive { host, from, to_port, bytes } => self.arrive(host, from, to_port, bytes),
            Happening::HandedOver { unit, datagram } => self.take_over(unit, datagram),
            Happening::Turn { unit } => self.turn(unit),
            Happening::Timer { unit } => self.timer(unit, entry.at_ns),
            Happening::Room { unit, flow } => self.room(unit, flow),
            Happening::Connect { connection } => self.connect(connection),
            Happening::Accept(place) => self.accept(place),
            Happening::Send(place) => self.send(place),
            Happening::Read(place) => self.read(place),
            Happening::Stop(place) => self.stop(place),
            Happening::Fault(fault) => self.fault(fault),
            Happening::EverybodyReads => self.everybody_reads(),
            Happening::Peek { unit } => self.peek(unit),
            Happening::Stranger => self.stranger(),
            Happening::Flood => self.flood(),
            Happening::Monitor => self.monitor(),
        }
    }

    /// Calls into a living endpoint and then does what a worker must: events, effects.
    pub(crate) fn call<R>(
        &mut self,
        unit: usize,
        call: impl FnOnce(&mut Endpoint, Instant, &mut Desk<'_>) -> R,
    ) -> Option<R> {
        let now = self.clock(unit);
        let machine = &mut self.units[unit];
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
        self.drain_events(unit);
        self.apply_effects(unit);
        Some(answer)
    }

    fn drain_events(&mut self, unit: usize) {
        while let Some(event) = self.units[unit].endpoint.as_mut().and_then(Endpoint::poll_event) {
            self.on_event(unit, event);
        }
    }

    fn on_event(&mut self, unit: usize, event: Event) {
        let (Event::Connected { flow, .. }
        | Event::ConnectFailed { flow, .. }
        | Event::Closed { flow, .. }
        | Event::Finished { flow }
        | Event::Reset { flow, .. }) = event;
        let now_ns = self.now_ns();
        self.oracle.log.say(now_ns, || {
            format!("host{}.{} {event:?}", self.units[unit].host + 1, self.units[unit].engine)
        });
        let Some(place) = self.units[unit].tenancy.place(flow) else {
            return self.oracle.violate("flow", format!("unit {unit}: {event:?} of an unknown flow"));
        };
        if !matches!(event, Event::Connected { .. }) {
            self.check_handles_home(unit, place, flow);
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
    pub(crate) fn check_handles_home(&mut self, unit: usize, place: Place, flow: FlowId) {
        let leaked = self.units[unit].tenancy.close(flow);
        if leaked > 0 {
            self.oracle.violate("handles", format!("{place:?} ended with {leaked} buffers reserved"));
        }
        let known = self.units[unit].endpoint.as_ref().is_some_and(|endpoint| endpoint.stats(flow).is_some());
        if known {
            self.oracle.violate("flow", format!("{place:?} ended, but {flow:?} still has statistics"));
        }
    }

    fn apply_effects(&mut self, unit: usize) {
        let now_ns = self.now_ns();
        for effect in core::mem::take(&mut self.units[unit].tenancy.effects) {
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
                    self.at(now_ns + delay_ns, Happening::Room { unit, flow });
                }
            }
        }
        self.want_turn(unit);
    }

    /// Since when datagrams can travel both ways between the living hosts of a connection.
    pub(crate) fn connected_since_ns(&self, connection: usize) -> Option<u64> {
        let known = &self.oracle.connections[connection];
        let [client, server] = [&known.sides[0], &known.sides[1]];
        if !known.has_host {
            return None;
        }
        let mut since_ns = 0;
        for (from, to) in [(client, server), (server, client)] {
            let link = &self.scenario.links[from.host * self.scenario.hosts.len() + to.host];
            if link.cuts > 0 || !self.machines[from.host].is_up {
                return None;
            }
            let up_since_ns = self.units[self.scenario.first_unit(from.host)].up_since_ns;
            since_ns = since_ns.max(link.healed_ns).max(up_since_ns);
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
