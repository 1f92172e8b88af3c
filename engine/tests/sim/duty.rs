//! The duty cycle of an engine: receive, timers, transmit, and the look whether it forgot something.

use crate::mutant::Mutation;
use crate::network::Link;
use crate::oracle::State;
use crate::report::{Short, decoded};
use crate::scenario::{MS, US};
use crate::world::{Happening, Received, World, address, host_of, stranger_address};
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{Body, Datagram, Endpoint, FlowId, Transmit, TxHandle};
use std::net::SocketAddr;

/// Receive descriptors of a queue (the LCD NIC of the paper).
const DESCRIPTORS: usize = 256;
/// Datagrams that one turn of the engine handles.
const RX_BURST: usize = 64;
/// More calls of `handle_timeout` at one instant are a spin.
const MAX_TIMEOUTS_AT_ONCE: u32 = 1_000;
/// More datagrams of one engine without time passing are a storm.
const MAX_DATAGRAMS_AT_ONCE: u32 = 50_000;
/// Largest header that leaves room for data in the smallest datagram.
const MAX_HEADER: usize = 256;

impl World {
    /// The engine looks at its input: at once, or after a nap.
    pub(crate) fn want_turn(&mut self, unit: usize) {
        if self.units[unit].turn_pending {
            return;
        }
        self.units[unit].turn_pending = true;
        let naps = self.dice.chance(self.plan(unit).naps);
        self.oracle.totals.naps += u64::from(naps);
        let delay_ns = if naps { self.dice.between(50 * US, 200 * US) } else { 0 };
        self.at(self.now_ns() + delay_ns, Happening::Turn { unit });
    }

    /// A datagram reaches a host; its network card picks the engine.
    pub(crate) fn arrive(&mut self, host: usize, from: SocketAddr, to_port: u16, bytes: Vec<u8>) {
        if !self.machines[host].is_up {
            self.oracle.totals.to_nobody += 1;
            return;
        }
        let plan = &self.scenario.hosts[host];
        if !plan.receive_ports().contains(to_port) {
            self.oracle.totals.to_closed_port += 1;
            return;
        }
        let to = SocketAddr::new(address(host).ip(), to_port);
        let unit = self.scenario.first_unit(host) + self.machines[host].nic.queue(from, to);
        if self.units[unit].received.len() >= DESCRIPTORS {
            self.oracle.totals.descriptors_full += 1;
            return;
        }
        self.units[unit].received.push_back(Received { from, to_port, landed: None, bytes });
        self.want_turn(unit);
    }

    /// One duty cycle of an engine.
    pub(crate) fn turn(&mut self, unit: usize) {
        self.units[unit].turn_pending = false;
        if self.units[unit].endpoint.is_none() {
            return;
        }
        for _ in 0..RX_BURST {
            let Some(received) = self.units[unit].received.pop_front() else { break };
            self.handle(unit, received);
        }
        for _ in 0..RX_BURST {
            let Some(received) = self.units[unit].inbox.pop_front() else { break };
            self.handle(unit, received);
        }
        self.run_timers(unit);
        let more = self.transmit_burst(unit);
        let waiting = &self.units[unit];
        if more || !waiting.received.is_empty() || !waiting.inbox.is_empty() {
            self.units[unit].turn_pending = true;
            self.at(self.now_ns() + US, Happening::Turn { unit });
        }
        self.set_timer(unit);
    }

    fn handle(&mut self, unit: usize, received: Received) {
        self.units[unit].datagrams_handled += 1;
        let Received { from, to_port, landed, ref bytes } = received;
        let datagram = Datagram { from, to_port, landed, waited: Duration::ZERO, bytes };
        let handling = self.call(unit, |endpoint, now, desk| endpoint.handle_datagram(now, &datagram, desk));
        if let Some(handling) = handling {
            self.obey(unit, handling, received);
        }
    }

    fn due(&self, unit: usize) -> Option<Instant> {
        let due = self.units[unit].endpoint.as_ref().and_then(Endpoint::poll_timeout)?;
        if self.mutant.lasts(Mutation::NoTimers) {
            return None;
        }
        if self.mutant.lasts(Mutation::LateTimers) {
            return Some(due + Duration::from_secs(1));
        }
        Some(due)
    }

    fn run_timers(&mut self, unit: usize) {
        if self.due(unit).is_none_or(|due| due > self.clock(unit)) {
            return;
        }
        let now_ns = self.now_ns();
        let machine = &mut self.units[unit];
        if machine.instant_ns != now_ns {
            machine.instant_ns = now_ns;
            machine.timeouts_at_once = 0;
            machine.datagrams_at_once = 0;
        }
        machine.timeouts_at_once += 1;
        if machine.timeouts_at_once > MAX_TIMEOUTS_AT_ONCE {
            self.oracle.violate("livelock", format!("unit {unit} has timeouts without end"));
        }
        self.call(unit, |endpoint, now, desk| endpoint.handle_timeout(now, desk));
    }

    /// Sends up to a burst. True if there is more.
    fn transmit_burst(&mut self, unit: usize) -> bool {
        let now = self.clock(unit);
        let now_ns = self.now_ns();
        if self.units[unit].instant_ns != now_ns {
            self.units[unit].instant_ns = now_ns;
            self.units[unit].timeouts_at_once = 0;
            self.units[unit].datagrams_at_once = 0;
        }
        for _ in 0..self.plan(unit).burst {
            let machine = &mut self.units[unit];
            let Some(endpoint) = machine.endpoint.as_mut() else { return false };
            let Some(transmit) = endpoint.poll_transmit(now) else {
                machine.drained = true;
                machine.drained_until = endpoint.poll_timeout();
                return false;
            };
            machine.datagrams_at_once += 1;
            if machine.datagrams_at_once > MAX_DATAGRAMS_AT_ONCE {
                self.oracle.violate("livelock", format!("unit {unit} sends datagrams without end"));
                return false;
            }
            self.send_datagram(unit, &transmit);
        }
        true
    }

    fn send_datagram(&mut self, unit: usize, transmit: &Transmit) {
        let mut bytes = self.assemble(unit, transmit);
        let now_ns = self.now_ns();
        let host = self.units[unit].host;
        let from = SocketAddr::new(address(host).ip(), transmit.from_port);
        self.oracle.totals.datagrams += 1;
        self.oracle.totals.datagram_bytes += bytes.len() as u64;
        self.units[unit].datagrams_sent += 1;
        self.oracle.log.note(&[now_ns, unit as u64, bytes.len() as u64]);
        self.oracle.log.note_bytes(&bytes[..bytes.len().min(transmit.header_len)]);
        self.check_ports(host, transmit);
        if let Some(pcap) = &mut self.pcap {
            pcap.add(now_ns, from, transmit.to, &bytes);
        }
        let limit = self.scenario.max_datagram(host) as usize;
        let grown = if self.mutant.strikes(Mutation::LargeDatagram) { limit } else { 0 };
        if bytes.len() + grown > limit {
            self.oracle
                .violate("size", format!("unit {unit} sends {} bytes, the limit is {limit}", bytes.len()));
        }
        self.oracle.log.say(now_ns, || {
            let engine = self.units[unit].engine;
            format!(
                "{}.{engine} -> {} {:?} {}",
                Short(from),
                Short(transmit.to),
                transmit.flow,
                decoded(&bytes)
            )
        });
        if let Some(place) = transmit.flow.and_then(|flow| self.units[unit].tenancy.place(flow)) {
            let side = self.oracle.side(place);
            if side.state != State::Connecting {
                side.packets_sent += 1;
                side.bytes_sent += bytes.len() as u64;
            }
        }
        if transmit.to.ip() == stranger_address().ip() {
            return self.answer_stranger(bytes.len() as u64);
        }
        let Some(to) = host_of(transmit.to.ip(), self.scenario.hosts.len()) else {
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
        let count = self.scenario.hosts.len();
        let to_port = transmit.to.port();
        let link: &mut Link = &mut self.scenario.links[host * count + to];
        let [first, second] = link.carry(now_ns, &mut bytes, &mut self.dice, &mut self.oracle.totals);
        if let Some(at_ns) = second {
            self.at(at_ns, Happening::Arrive { host: to, from, to_port, bytes: bytes.clone() });
        }
        if let Some(at_ns) = first {
            self.at(at_ns, Happening::Arrive { host: to, from, to_port, bytes });
        }
    }

    /// Datagrams leave only from ports that the driver has.
    fn check_ports(&mut self, host: usize, transmit: &Transmit) {
        let plan = &self.scenario.hosts[host];
        let from_port = transmit.from_port;
        if !plan.ports().contains(from_port) && !plan.receive_ports().contains(from_port) {
            self.oracle.violate("ports", format!("host {host} sends from port {from_port}"));
        }
    }

    /// Header from the endpoint, body from the messages.
    fn assemble(&mut self, unit: usize, transmit: &Transmit) -> Vec<u8> {
        let mut bytes = vec![0; transmit.header_len + transmit.body_len];
        if transmit.header_len == 0 || transmit.header_len > MAX_HEADER {
            self.oracle.violate("size", format!("a header of {} bytes", transmit.header_len));
        }
        let Some(endpoint) = self.units[unit].endpoint.as_ref() else { return bytes };
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
                self.fill_segment(unit, transmit.flow, (message, offset, len), target);
                len as usize
            }
            Body::Bundle { count } => {
                if bundle.len() != usize::from(count) || count == 0 {
                    self.oracle
                        .violate("body", format!("a bundle of {count} lists {} messages", bundle.len()));
                }
                self.oracle.totals.bundles += 1;
                self.fill_bundle(unit, transmit.flow, &bundle, body)
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
        unit: usize,
        flow: Option<FlowId>,
        bundle: &[(TxHandle, u16)],
        body: &mut [u8],
    ) -> usize {
        let mut at = 0;
        for (message, len) in bundle {
            let end = at + 2 + usize::from(*len);
            if let Some(target) = body.get_mut(at..end) {
                target[..2].copy_from_slice(&len.to_be_bytes());
                let target = Some(&mut target[2..]);
                self.fill_segment(unit, flow, (*message, 0, u32::from(*len)), target);
            }
            at = end;
        }
        at
    }

    fn fill_segment(
        &mut self,
        unit: usize,
        flow: Option<FlowId>,
        (message, offset, len): (TxHandle, u32, u32),
        target: Option<&mut [u8]>,
    ) {
        let Some(outgoing) = self.units[unit].tenancy.lent(message) else {
            return self
                .oracle
                .violate("handles", format!("unit {unit} sends bytes of {message:?}, which is not lent"));
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

    fn set_timer(&mut self, unit: usize) {
        let Some(due) = self.due(unit) else { return };
        let now_ns = self.now_ns();
        let due_ns = due.as_nanos().saturating_sub(self.machines[self.units[unit].host].jumped_ns);
        let drained = self.units[unit].drained;
        if due_ns <= now_ns {
            // Still due: another turn, which `MAX_TIMEOUTS_AT_ONCE` bounds.
            if drained && !self.units[unit].turn_pending {
                self.units[unit].turn_pending = true;
                self.at(now_ns, Happening::Turn { unit });
            }
            return;
        }
        if due != Instant::FAR_FUTURE && due_ns < self.units[unit].timer_ns {
            self.units[unit].timer_ns = due_ns;
            self.at(due_ns, Happening::Timer { unit });
        }
    }

    pub(crate) fn timer(&mut self, unit: usize, at_ns: u64) {
        if self.units[unit].timer_ns != at_ns {
            return;
        }
        self.units[unit].timer_ns = u64::MAX;
        if self.units[unit].endpoint.is_none() {
            return;
        }
        if self.due(unit).is_some_and(|due| due <= self.clock(unit)) {
            self.want_turn(unit);
        } else {
            self.set_timer(unit);
        }
    }

    /// A ring that was full has room again.
    pub(crate) fn room(&mut self, unit: usize, flow: Option<FlowId>) {
        match flow.filter(|flow| self.units[unit].tenancy.place(*flow).is_some()) {
            Some(flow) => self.call(unit, |endpoint, now, desk| endpoint.handle_room(now, flow, 0, 0, desk)),
            None => self.call(unit, |endpoint, now, desk| endpoint.handle_pool_room(now, desk)),
        };
    }

    /// An engine that said it had nothing to do before a time must have nothing to do before it.
    pub(crate) fn peek(&mut self, unit: usize) {
        let now = self.clock(unit);
        let machine = &mut self.units[unit];
        let idle = machine.drained
            && machine.received.is_empty()
            && machine.inbox.is_empty()
            && !machine.turn_pending;
        if let Some(endpoint) = machine.endpoint.as_mut().filter(|_| idle) {
            let due = endpoint.poll_timeout();
            if due != machine.drained_until {
                let text = format!(
                    "unit {unit}: poll_timeout moved from {:?} to {due:?} by itself",
                    machine.drained_until
                );
                self.oracle.violate("timer", text);
            } else if due.is_none_or(|due| due > now) {
                self.oracle.totals.peeks += 1;
                let transmit = endpoint.poll_transmit(now);
                let event = endpoint.poll_event();
                if transmit.is_some() || event.is_some() {
                    let text =
                        format!("unit {unit} said nothing before {due:?}, but now {transmit:?} {event:?}");
                    self.oracle.violate("timer", text);
                }
            }
        }
        // Where there are very many engines, each is looked at less often.
        let crowd = (self.units.len() as u64 / 64).max(1);
        let next_ns = self.dice.log_between(20 * US, 20 * MS).max(self.now_ns() / 64) * crowd;
        self.at(self.now_ns() + next_ns, Happening::Peek { unit });
    }
}
