//! RSS--: which engine a datagram belongs to, and which ports take a datagram there.

use super::Endpoint;
use crate::proto::flow::{Flow, Made};
use crate::proto::handshake;
use crate::proto::hosts::Hosts;
use crate::proto::ports::{Pair, PortRange};
use crate::proto::rng::Rng;
use crate::proto::seq::expand;
use crate::proto::time::Instant;
use crate::proto::{Body, Config, Datagram, Handling, Spread, Transmit};
use crate::wire::header::{Confirm, ConnectionId, Data, Path, Syn, SynAck};
use std::net::{IpAddr, SocketAddr};

/// Where a datagram goes: the port it is sent from, and the address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) from_port: u16,
    pub(super) to: SocketAddr,
}

impl Endpoint {
    /// The engine that made a connection id.
    pub(super) fn owner(&self, id: ConnectionId) -> u8 {
        engine_of(id, self.config.engines)
    }

    /// A datagram for something that we do not know: given to its engine, once; `None` if that is us.
    pub(super) fn pass_on(&mut self, owner: u8, datagram: &Datagram<'_>) -> Option<Handling> {
        if owner == self.config.engine || owner >= self.config.engines {
            return None;
        }
        if datagram.landed.is_some() {
            self.counters.drop_wrong_engine += 1;
            return Some(Handling::Done);
        }
        self.counters.handed_over += 1;
        Some(Handling::HandOver(owner))
    }

    /// Notes which queue the card's hash picked for a datagram.
    pub(super) fn observe(&mut self, datagram: &Datagram<'_>) {
        if self.config.engines > 1 {
            let queue = datagram.landed.unwrap_or(self.config.engine);
            self.queue_map.observe(datagram.from.ip(), pair_of(datagram), queue);
        }
    }

    /// A pair on which the datagrams of a host land here: known, or foretold. `its_ports`: those that it may send from, as far
    /// as we can guess; it does not use a pair that it cannot.
    fn landing_pair(&mut self, now: Instant, ip: IpAddr, its_ports: PortRange) -> Option<Pair> {
        if self.config.engines == 1 {
            return None;
        }
        let known = self.hosts.look(now, ip).and_then(|host| host.heard);
        known.or_else(|| {
            let ports = (its_ports, self.config.receive_ports);
            self.queue_map.pair_to(ip, self.config.engine, ports, &mut self.rng)
        })
    }

    /// On which pair a client's datagrams land here, to be told in the answer to its SYN.
    pub(super) fn pair_of_client(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        syn: &Syn,
    ) -> Option<Pair> {
        if self.config.engines > 1 && datagram.landed.is_none() {
            return Some(pair_of(datagram));
        }
        self.landing_pair(now, datagram.from.ip(), handshake::hears_at(syn, datagram.from))
    }

    /// The way of an answer to a SYN: the pair that the client named, one that is known to reach its engine, or any.
    pub(super) fn way_to_client(&mut self, now: Instant, from: SocketAddr, syn: &Syn) -> Way {
        let config = &self.config;
        let hears_at = handshake::hears_at(syn, from);
        let named =
            syn.answer_on.filter(|pair| config.may_send_from(pair.from) && hears_at.contains(pair.to));
        let pair = if let Some(pair) = named {
            pair
        } else if syn.engines <= 1 {
            Pair { from: config.ports.first(), to: hears_at.first() }
        } else {
            let engine = engine_of(syn.client, syn.engines);
            // The paper's answers travel on pairs of their own, so that each is a new chance.
            let known = match config.spread {
                Spread::Learned => self.hosts.look(now, from.ip()).and_then(|host| host.pair(engine)),
                Spread::Paper => None,
            };
            known.unwrap_or_else(|| draw(config.ports, hears_at, &mut self.rng))
        };
        Way { from_port: pair.from, to: SocketAddr::new(from.ip(), pair.to) }
    }

    /// The way of a stateless answer, and the engine of its receiver that owns the flow, if the packet tells.
    pub(super) fn way_back(&self, datagram: &Datagram<'_>, data: &Data<'_>) -> (Way, Option<u8>) {
        let mut to = datagram.from;
        let mut engine = None;
        if let Some(confirm) = &data.confirm {
            to.set_port(confirm.hears_at.first());
            engine = Some(engine_of(confirm.client, confirm.engines));
        } else if let Some(search) = data.extended.and_then(|extended| extended.search) {
            to.set_port(search.port);
            engine = Some(search.engine);
        }
        (Way { from_port: self.config.ports.first(), to }, engine)
    }

    /// The next SYN of a flow, if it is time.
    #[cold]
    pub(super) fn make_syn(&mut self, now: Instant, index: u32) -> Option<Transmit> {
        let flow = self.slots[index as usize].flow.as_deref_mut()?;
        if !flow.connecting.as_ref()?.is_due(now) {
            return None;
        }
        self.aim_syn(now, index);
        let flow = self.slots[index as usize].flow.as_deref_mut()?;
        if !flow.make_syn(now, &self.config, &mut self.emitter) {
            return None;
        }
        Some(super::transmit(flow, &self.emitter, Made { body: Body::Empty, body_len: 0 }))
    }

    /// Chooses the pair of the next SYN, and the one that is named for its answer.
    fn aim_syn(&mut self, now: Instant, index: u32) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        let Some(connecting) = flow.connecting.as_deref_mut() else { return };
        let config = &self.config;
        let paper = config.spread == Spread::Paper;
        let ip = flow.to.ip();
        let mut ports = PortRange::only(connecting.named_port);
        let mut server_engines = config.engines;
        if let Some(host) = self.hosts.look(now, ip) {
            if host.ports.contains(connecting.named_port) {
                ports = host.ports;
            }
            server_engines = host.engines;
            let engine = host.listener(connecting.syn.port);
            let known = engine.and_then(|engine| Some((engine, host.pair(engine)?)));
            match connecting.sends {
                0 => connecting.known = known.filter(|_| !paper),
                1 => {}
                // Two that were not answered: the pair, or what is known of the listener, is no good.
                _ => {
                    if let Some((engine, pair)) = connecting.known.take() {
                        host.forget_pair(engine, pair);
                    }
                }
            }
        }
        if paper {
            ports = connecting.guessed_ports(config);
            // An answer that proved no pair is remembered by nobody but this connect.
            server_engines = connecting.server.map_or(server_engines, |(engines, _)| engines);
        }
        flow.route.pair = match connecting.known {
            Some((_, pair)) if connecting.sends == 0 => pair,
            _ if server_engines == 1 => Pair { from: config.ports.first(), to: connecting.named_port },
            _ => draw(config.ports, ports, &mut self.rng),
        };
        flow.follow_route();
        let answer_on = if paper { None } else { self.landing_pair(now, ip, ports) };
        if let Some(flow) = self.slots[index as usize].flow.as_deref_mut()
            && let Some(connecting) = flow.connecting.as_deref_mut()
        {
            connecting.syn.answer_on = answer_on;
        }
    }

    /// The server of a connect is known. `false`: no pair is proven yet, which the paper's handshake waits for.
    pub(super) fn meet_server(
        &mut self,
        now: Instant,
        index: u32,
        datagram: &Datagram<'_>,
        answer: &SynAck,
    ) -> bool {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return false };
        let Some(connecting) = flow.connecting.as_deref_mut() else { return false };
        let config = &self.config;
        let pair = pair_of(datagram);
        let landed_on = datagram.landed.is_none().then_some(pair);
        if !connecting.on_answer(answer, landed_on, config) {
            return false;
        }
        let (mut forward, mut backward) = (connecting.forward, connecting.backward);
        let (known, port) = (connecting.known, connecting.syn.port);
        if answer.engines > 1 || config.engines > 1 {
            let host = self.hosts.meet(now, flow.to.ip(), answer.engines.max(1), answer.hears_at);
            let engine = engine_of(answer.server, answer.engines);
            host.set_listener(port, engine);
            match (forward, known) {
                (Some(pair), _) => host.set_pair(engine, pair),
                (None, Some((engine, pair))) => host.forget_pair(engine, pair),
                (None, None) => {}
            }
            forward = forward.or(host.pair(engine));
            match landed_on {
                Some(pair) => host.heard = Some(pair),
                None => host.forget_heard(pair),
            }
            backward = backward.or(host.heard);
        }
        flow.on_syn_ack(now, datagram.waited, answer, config);
        flow.route.on_peer(answer.engines, answer.hears_at, forward, config);
        if config.engines > 1 {
            flow.route.tell(backward);
        }
        flow.follow_route();
        true
    }

    /// The client of a flow that is accepted.
    pub(super) fn meet_client(&mut self, now: Instant, flow: &mut Flow, confirm: &Confirm) {
        let mut pair = None;
        if confirm.engines > 1 || self.config.engines > 1 {
            let host = self.hosts.meet(now, flow.to.ip(), confirm.engines.max(1), confirm.hears_at);
            pair = host.pair(engine_of(confirm.client, confirm.engines));
        }
        // Not where it came from: one pair serves all flows to a host with one engine.
        flow.route.pair.to = confirm.hears_at.first();
        flow.route.on_peer(confirm.engines, confirm.hears_at, pair, &self.config);
        flow.follow_route();
    }

    /// A packet of a flow landed somewhere, or tells where ours do.
    #[cold]
    pub(super) fn on_landing(&mut self, now: Instant, index: u32, datagram: &Datagram<'_>, data: &Data<'_>) {
        self.observe(datagram);
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        let number = expand(data.number, flow.receiver.packets.largest());
        let extended = data.extended.unwrap_or_default();
        if let Some(path) = extended.path {
            self.on_path(now, index, number, path);
        }
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        flow.route.on_heard();
        if self.config.engines == 1 {
            return;
        }
        let (pair, is_direct) = (pair_of(datagram), datagram.landed.is_none());
        let taught = flow.route.on_arrival(number, pair, is_direct, extended.search.is_some());
        let Some(host) = self.hosts.look(now, flow.to.ip()) else { return };
        for failed in [taught.fails, taught.doubted].into_iter().flatten() {
            host.forget_heard(failed);
        }
        if taught.works.is_some() {
            host.heard = taught.works;
        }
        if flow.route.heard().is_none() && flow.route.is_listening() {
            let ports = (flow.route.peer_ports, self.config.receive_ports);
            let foretold = || self.queue_map.pair_to(flow.to.ip(), self.config.engine, ports, &mut self.rng);
            let pair = host.heard.or_else(foretold);
            flow.route.tell(pair);
        }
    }

    /// The peer tells of a pair of ours.
    fn on_path(&mut self, now: Instant, index: u32, number: u64, path: Path) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        let before = flow.route.pair;
        if !flow.route.on_path(number, path, &self.config) {
            return;
        }
        let engine = flow.peer_engine();
        let host = self.hosts.look(now, flow.to.ip());
        match path {
            Path::Use(pair) => {
                self.counters.paths_learned += 1;
                host.into_iter().for_each(|host| host.set_pair(engine, pair));
            }
            Path::Lost => {
                self.counters.paths_lost += 1;
                host.into_iter().for_each(|host| host.forget_pair(engine, before));
            }
        }
        flow.follow_route();
    }

    /// A flow got no answers on its pair: later flows should not try it.
    #[cold]
    pub(super) fn forget_pair(&mut self, now: Instant, index: u32) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        if let Some(host) = self.hosts.look(now, flow.to.ip()) {
            host.forget_pair(flow.peer_engine(), flow.route.pair);
            self.counters.paths_lost += 1;
        }
    }
}

/// Chooses the pair of the packet that a searching flow just made: one that serves other flows, else any.
#[cold]
pub(super) fn steer(now: Instant, flow: &mut Flow, config: &Config, hosts: &mut Hosts, rng: &mut Rng) {
    if flow.route.peer_engines == 1 {
        return;
    }
    let engine = flow.peer_engine();
    let known = hosts.look(now, flow.to.ip()).and_then(|host| host.pair(engine));
    if !known.is_some_and(|pair| flow.route.believe(pair)) {
        flow.route.pair = draw(config.ports, flow.route.peer_ports, rng);
    }
    flow.follow_route();
}

/// The pair of a datagram as it was sent.
fn pair_of(datagram: &Datagram<'_>) -> Pair {
    Pair { from: datagram.from.port(), to: datagram.to_port }
}

fn draw(from: PortRange, to: PortRange, rng: &mut Rng) -> Pair {
    Pair { from: from.draw(rng), to: to.draw(rng) }
}

/// The engine of a sidecar with `engines` that made an id.
fn engine_of(id: ConnectionId, engines: u8) -> u8 {
    u8::try_from(id.0 % u32::from(engines.max(1))).unwrap_or(0)
}
