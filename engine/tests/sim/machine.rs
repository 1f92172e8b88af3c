//! One host: its network card, which only hashes, and the engines that share it.

use crate::dice::Dice;
use crate::mutant::Mutation;
use crate::oracle::{Place, State};
use crate::scenario::{HostPlan, MS, Scenario};
use crate::tenancy::Tenancy;
use crate::world::{Happening, Received, Unit, World, address};
use machnet_engine::driver::memory::OpaqueHash;
use machnet_engine::proto::{Endpoint, Handling};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What the engines of a host share: nothing but this.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) nic: OpaqueHash,
    nic_seed: u64,
    /// Engines of the present sidecar.
    pub(crate) engines: u8,
    /// How often it was started.
    pub(crate) lives: u64,
    pub(crate) is_up: bool,
    /// By how much its clock is ahead of the others'.
    pub(crate) jumped_ns: u64,
    pub(crate) secret: [u64; 2],
}

impl Machine {
    /// A host before its sidecar is started.
    pub(crate) fn new(scenario: &Scenario, host: usize) -> Self {
        let nic_seed = Dice::new(scenario.seed, 50_000 + host as u64).next();
        Self {
            nic: OpaqueHash::new([nic_seed, 0], 1),
            nic_seed,
            engines: 1,
            lives: 0,
            is_up: false,
            jumped_ns: 0,
            secret: [0; 2],
        }
    }

    /// The card hashes to so many queues from now on.
    fn set_queues(&mut self, queues: u8) {
        self.nic = OpaqueHash::new([self.nic_seed, 0], usize::from(queues));
    }

    /// The card gets another key, another number of queues, or both.
    pub(crate) fn rehash(&mut self, new_key: bool, queues: Option<u8>) {
        self.nic_seed = self.nic_seed.wrapping_add(u64::from(new_key));
        self.set_queues(queues.unwrap_or(self.engines).min(self.engines));
    }
}

impl Unit {
    /// An engine that does not run.
    pub(crate) fn absent(host: usize, engine: u8, plan: &HostPlan) -> Self {
        Self {
            host,
            engine,
            endpoint: None,
            tenancy: Tenancy::new(host, 0, (engine, 1), plan.clone()),
            up_since_ns: 0,
            received: VecDeque::new(),
            inbox: VecDeque::new(),
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
}

impl World {
    /// A sidecar starts, with as many engines as are planned for its first or its later lives.
    pub(crate) fn start_host(&mut self, host: usize) {
        let plan = self.scenario.hosts[host].clone();
        let machine = &mut self.machines[host];
        if machine.is_up {
            return;
        }
        machine.engines = if machine.lives == 0 { plan.engines } else { plan.engines_later };
        machine.is_up = true;
        let (lives, engines) = (machine.lives, machine.engines);
        machine.lives += 1;
        machine.set_queues(engines);
        let mut dice = Dice::new(self.scenario.seed, 1_000 + host as u64 * 100 + lives);
        machine.secret = [dice.next(), dice.next()];
        for engine in 0..engines {
            let unit = self.scenario.first_unit(host) + usize::from(engine);
            let config = self.config(unit);
            let fresh = Unit {
                endpoint: Some(Endpoint::new(config, [dice.next(), dice.next()])),
                tenancy: Tenancy::new(host, unit, (engine, engines), plan.clone()),
                up_since_ns: self.now_ns(),
                turn_pending: self.units[unit].turn_pending,
                ..Unit::absent(host, engine, &plan)
            };
            self.units[unit] = fresh;
        }
    }

    /// A sidecar dies. False if none ran.
    pub(crate) fn stop_host(&mut self, host: usize) -> bool {
        if !std::mem::take(&mut self.machines[host].is_up) {
            return false;
        }
        for unit in self.units.iter_mut().filter(|unit| unit.host == host) {
            unit.endpoint = None;
            unit.received.clear();
            unit.inbox.clear();
        }
        true
    }

    /// What an endpoint said of a datagram: another engine's, perhaps.
    pub(crate) fn obey(&mut self, unit: usize, handling: Handling, datagram: Received) {
        let Handling::HandOver(engine) = handling else { return };
        let (host, own) = (self.units[unit].host, self.units[unit].engine);
        if engine == own || engine >= self.machines[host].engines || datagram.landed.is_some() {
            let text = format!("unit {unit} hands a datagram of {:?} to engine {engine}", datagram.landed);
            return self.oracle.violate("engine", text);
        }
        self.oracle.totals.handed_over += 1;
        let plan = &self.scenario.hosts[host];
        let slow_ns = if self.mutant.lasts(Mutation::SlowHandOver) { MS } else { 0 };
        let delay_ns = slow_ns + self.dice.between(plan.hand_over_ns.0, plan.hand_over_ns.1);
        if self.dice.chance(plan.hand_over_loss) || self.mutant.lasts(Mutation::LoseHandOvers) {
            self.oracle.totals.hand_over_lost += 1;
            return;
        }
        let to = self.scenario.first_unit(host) + usize::from(engine);
        let datagram = Received { landed: Some(own), ..datagram };
        self.at(self.now_ns() + delay_ns, Happening::HandedOver { unit: to, datagram });
    }

    /// A datagram comes from another engine of the host.
    pub(crate) fn take_over(&mut self, unit: usize, datagram: Received) {
        let bound = self.plan(unit).inbox;
        let machine = &mut self.units[unit];
        if machine.endpoint.is_none() {
            self.oracle.totals.to_nobody += 1;
        } else if machine.inbox.len() >= bound {
            self.oracle.totals.inbox_full += 1;
        } else {
            machine.inbox.push_back(datagram);
            self.want_turn(unit);
        }
    }

    /// Where flows of which both ends know their pairs and nothing rehashes, nothing is handed over any more, but for an engine
    /// that got no answers in time and so doubts its pairs: what was handed over, and how often the sender's engine gave up.
    pub(crate) fn handed_over_of_direct(&self) -> Vec<(Place, u64, u64)> {
        let steady = self.machines.iter().all(|machine| machine.nic.queues() == usize::from(machine.engines));
        if !steady || self.scenario.rehashes() {
            return Vec::new();
        }
        let side = |place: Place| &self.oracle.connections[place.connection].sides[place.side];
        let stats = |place: Place| {
            let side = side(place);
            let stats = self.units[side.unit].endpoint.as_ref()?.stats(side.flow?)?;
            // A pair that was only foretold may turn out to be wrong.
            let other = &self.units[self.oracle.connections[place.connection].sides[1 - place.side].unit];
            let from = SocketAddr::new(address(side.host).ip(), stats.pair.from);
            let to = SocketAddr::new(address(other.host).ip(), stats.pair.to);
            let lands = self.machines[other.host].nic.queue(from, to) == usize::from(other.engine);
            (side.state == State::Open && stats.is_direct && lands).then_some(stats.taken_over)
        };
        (0..self.apps.len())
            .flat_map(|connection| [0, 1].map(|side| Place { connection, side }))
            .filter(|place| stats(place.peer()).is_some())
            .filter_map(|place| {
                let timeouts = self.units[side(place.peer()).unit].endpoint.as_ref()?.counters().timeouts;
                Some((place, stats(place)?, timeouts))
            })
            .collect()
    }
}
