//! How flows begin: SYN and its answers, and the confirmation that makes a flow at the server.

use super::replies::{Remains, RemainsKind, Reply};
use super::{Endpoint, FIRST_FLOW_PORT, flow_of};
use crate::proto::flow::Flow;
use crate::proto::handshake;
use crate::proto::time::Instant;
use crate::proto::{Datagram, Event, Handling, Limits, Listening, Payload, Reason};
use crate::wire::header::{Confirm, ConnectionId, Data, Refusal, Syn, SynAck, VERSION};
use std::net::SocketAddr;

impl Endpoint {
    pub(super) fn accept(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
        confirm: &Confirm,
        payload: &mut impl Payload,
    ) -> Option<u32> {
        if !self.has_room() {
            self.decline(now, datagram, data, confirm, Reason::TooManyFlows);
            return None;
        }
        let id = self.reserve_slot();
        let from = SocketAddr::new(datagram.from.ip(), confirm.flow_port);
        let limits = Limits::from_wire(confirm.client_limits);
        if let Err(reason) = payload.accept(id, confirm.port, from, limits) {
            self.free_slot(id.index());
            self.decline(now, datagram, data, confirm, reason);
            return None;
        }
        self.counters.accepted += 1;
        let mut flow = Flow::accepted(now, id, data.id, datagram.from, confirm, &self.config);
        self.meet_client(now, &mut flow, confirm);
        self.by_remote.insert((flow.to.ip(), flow.remote), id.index());
        self.by_id.insert(data.id.0, id.index());
        self.slots[id.index() as usize].flow = Some(Box::new(flow));
        Some(id.index())
    }

    /// A confirmed connection is not taken. It is remembered as reset, because every packet of the client's first flight
    /// carries the proof, and a later one must not make the flow that an earlier one was refused.
    pub(super) fn decline(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
        confirm: &Confirm,
        reason: Reason,
    ) {
        let (way, _) = self.way_back(datagram, data);
        let remains = Remains {
            remote: confirm.client,
            way,
            next_number: u64::from(confirm.server_number) + 1,
            farewell: confirm.server_number.wrapping_add(1),
            fin: None,
            kind: RemainsKind::Reset(reason),
        };
        self.remember(now, data.id, remains);
        self.reply_reset(now, datagram, data, reason);
    }

    pub(super) fn on_syn(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        syn: &Syn,
        payload: &mut impl Payload,
    ) -> Handling {
        self.observe(datagram);
        let reason = if syn.versions.0 > VERSION || syn.versions.1 < handshake::OLDEST_VERSION {
            Some(Reason::Version)
        } else if !self.has_room() {
            Some(Reason::TooManyFlows)
        } else {
            None
        };
        let refused = match (reason, payload.listening(syn.port)) {
            (Some(reason), _) => reason,
            (None, Listening::Nobody) => Reason::Refused,
            (None, Listening::Busy) => Reason::Busy,
            (None, Listening::Open(limits)) => return self.answer_syn(now, datagram, syn, limits),
            // A directory that was not up to date leads here once more: the client asks again.
            (None, Listening::Elsewhere(engine)) => {
                return self.pass_on(engine, datagram).unwrap_or(Handling::Done);
            }
        };
        self.counters.syns_refused += 1;
        let refusal = Refusal { id: syn.client, number: syn.number, reason: refused as u8, engine: None };
        let way = self.way_to_client(now, datagram.from, syn);
        self.reply(way, Reply::Reject(refusal));
        Handling::Done
    }

    fn answer_syn(&mut self, now: Instant, datagram: &Datagram<'_>, syn: &Syn, limits: Limits) -> Handling {
        let from = datagram.from;
        let server = self.fresh_id();
        let number = self.rng.next_u32();
        let max_datagram = u16::try_from(self.config.max_datagram).unwrap_or(u16::MAX);
        let offer = handshake::offer(syn, from, number, limits, max_datagram);
        let answer = SynAck {
            client: syn.client,
            echo: syn.number,
            version: VERSION,
            engines: self.config.engines,
            server,
            number,
            limits: limits.to_wire(),
            max_datagram,
            stamp: syn.stamp,
            cookie: self.jar.issue(now, from, server, &offer),
            send_on: self.pair_of_client(now, datagram, syn),
            hears_at: self.config.receive_ports,
        };
        let way = self.way_to_client(now, from, syn);
        self.reply(way, Reply::SynAck(answer));
        Handling::Done
    }

    pub(super) fn fresh_id(&mut self) -> ConnectionId {
        loop {
            let drawn = self.rng.next_u32();
            let engines = u32::from(self.config.engines);
            // What remains when it is divided by the number of engines names ours.
            let Some(id) = (drawn - drawn % engines).checked_add(u32::from(self.config.engine)) else {
                continue;
            };
            if !self.by_id.contains_key(&id) && !self.remains.contains_key(&id) {
                return ConnectionId(id);
            }
        }
    }

    pub(super) fn on_syn_ack(&mut self, now: Instant, datagram: &Datagram<'_>, answer: &SynAck) -> Handling {
        self.observe(datagram);
        let from = datagram.from;
        let Some((index, flow)) = flow_of(&self.by_id, &mut self.slots, answer.client, from) else {
            return self.drop_answer(answer.client, datagram);
        };
        if flow.connecting.is_none() {
            self.counters.drop_late_answer += 1;
            return Handling::Done;
        }
        if !flow.is_answered_by(now, answer) {
            self.counters.drop_forged_answer += 1;
            return Handling::Done;
        }
        if !self.meet_server(now, index, datagram, answer) {
            return Handling::Done;
        }
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return Handling::Done };
        self.counters.connected += 1;
        let key = (flow.to.ip(), flow.remote);
        self.events.push_back(Event::Connected { flow: flow.id, peer: flow.peer });
        self.by_remote.insert(key, index);
        self.schedule(now, index);
        Handling::Done
    }

    /// An answer to something that we did not ask: perhaps another engine did.
    fn drop_answer(&mut self, id: ConnectionId, datagram: &Datagram<'_>) -> Handling {
        if !self.by_id.contains_key(&id.0)
            && let Some(handling) = self.pass_on(self.owner(id), datagram)
        {
            return handling;
        }
        self.counters.drop_forged_answer += 1;
        Handling::Done
    }

    pub(super) fn on_reject(&mut self, datagram: &Datagram<'_>, refusal: Refusal) -> Handling {
        let believed = flow_of(&self.by_id, &mut self.slots, refusal.id, datagram.from)
            .filter(|(_, flow)| flow.connecting.as_ref().is_some_and(|c| c.syn.number == refusal.number))
            .map(|(index, flow)| (index, flow.id));
        let (Some((index, id)), Some(reason)) = (believed, Reason::from_code(refusal.reason)) else {
            return self.drop_answer(refusal.id, datagram);
        };
        self.counters.connects_failed += 1;
        self.events.push_back(Event::ConnectFailed { flow: id, reason });
        self.remove(index);
        Handling::Done
    }

    pub(super) fn take_flow_port(&mut self) -> u16 {
        let port = self.next_flow_port;
        let (engine, engines) = (u16::from(self.config.engine), u16::from(self.config.engines));
        self.next_flow_port = port.checked_add(engines).unwrap_or(FIRST_FLOW_PORT + engine);
        port
    }
}
