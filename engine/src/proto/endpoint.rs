//! All connections of one engine: who a datagram is for, who may send next, what strangers are told.

mod opening;
mod replies;
mod steering;

use replies::{MAX_REPLIES, RESET_BURST, Remains, RemainsKind, Reply};
use steering::Way;

use super::flow::{Flow, Handled, Made};
use super::handshake::{self, COOKIE_LIFETIME_S, CookieJar};
use super::hosts::Hosts;
use super::queue_map::QueueMap;
use super::rng::Rng;
use super::seq::low;
use super::time::{Duration, Instant};
use super::timers::Timers;
use super::{
    Config, Counters, Datagram, Event, FlowId, FlowStats, Handling, Learned, Limits, Payload, Reason,
    SendError, Transmit, TxHandle,
};
use crate::wire::header::{self, ConnectionId, Data, Emitter, Packet, Refusal, Syn, VERSION, WireLimits};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};

/// Packets that one flow may send before the next one's turn.
const QUANTUM: u32 = 32;
/// A wake-up is never nearer than this.
const LEAST_WAIT: Duration = Duration::from_micros(1);
/// First of the ports that name our flows at a peer.
const FIRST_FLOW_PORT: u16 = 32_768;

/// Connection ids are random: they need no hashing.
#[derive(Debug, Default, Clone, Copy)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u32(&mut self, id: u32) {
        // The table uses the upper bits too.
        self.0 = u64::from(id) | u64::from(id) << 32;
    }
}

type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    flow: Option<Box<Flow>>,
}

/// The connections of one engine.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    rng: Rng,
    jar: CookieJar,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: ById<u32>,
    /// Flows by the peer's address and name for them: resets echo those. An ordered map: its order is the same every run.
    by_remote: BTreeMap<(IpAddr, ConnectionId), u32>,
    remains: ById<Remains>,
    remains_order: VecDeque<(Instant, u32)>,
    ready: VecDeque<u32>,
    /// Packets that the first of `ready` may still send in this turn.
    quantum: u32,
    starved: Vec<u32>,
    timers: Timers,
    /// What was learned of other hosts.
    hosts: Hosts,
    /// What was learned of our own network card.
    queue_map: QueueMap,
    replies: VecDeque<(Way, Reply)>,
    resets_allowed: u64,
    resets_counted_at: Instant,
    events: VecDeque<Event>,
    emitter: Emitter,
    bundle: Vec<(TxHandle, u16)>,
    next_flow_port: u16,
    counters: Counters,
}

impl Endpoint {
    /// An endpoint without flows. `seed` decides every identifier; in production it comes from the system.
    pub fn new(config: Config, seed: [u64; 2]) -> Self {
        assert!(config.engine < config.engines, "an engine's index is below the number of engines");
        let mut rng = Rng::new(seed);
        let own_secret = [rng.next_u64(), rng.next_u64()];
        assert!(
            config.engines == 1 || config.cookie_secret.is_some(),
            "several engines share a secret, which no seed of one of them is"
        );
        let jar = CookieJar::new(config.cookie_secret.unwrap_or(own_secret));
        // Each engine of a sidecar has flow ports of its own.
        let engines = u64::from(config.engines);
        let drawn = rng.below(16_384 / engines) * engines + u64::from(config.engine);
        let next_flow_port = FIRST_FLOW_PORT + u16::try_from(drawn).unwrap_or(0);
        Self {
            jar,
            rng,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: ById::default(),
            by_remote: BTreeMap::new(),
            remains: ById::default(),
            remains_order: VecDeque::new(),
            ready: VecDeque::new(),
            quantum: QUANTUM,
            starved: Vec::new(),
            timers: Timers::default(),
            hosts: Hosts::default(),
            queue_map: QueueMap::default(),
            replies: VecDeque::with_capacity(MAX_REPLIES),
            resets_allowed: RESET_BURST,
            resets_counted_at: Instant::ZERO,
            events: VecDeque::new(),
            emitter: Emitter::default(),
            bundle: Vec::with_capacity(256),
            next_flow_port,
            counters: Counters::default(),
            config,
        }
    }

    /// One datagram from the network. Events it causes must be polled before the next one is handled.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        payload: &mut impl Payload,
    ) -> Handling {
        self.counters.datagrams_received += 1;
        self.counters.taken_over += u64::from(datagram.landed.is_some());
        match header::parse(datagram.bytes) {
            Ok(Packet::Data(data)) => self.on_data(now, datagram, &data, payload),
            Ok(Packet::Syn(syn)) => self.on_syn(now, datagram, &syn, payload),
            Ok(Packet::SynAck(answer)) => self.on_syn_ack(now, datagram, &answer),
            Ok(Packet::Reject(refusal)) => self.on_reject(datagram, refusal),
            Ok(Packet::Reset { refusal, stateless }) => {
                self.on_reset(now, datagram, refusal, stateless, payload)
            }
            Err(error) => {
                self.counters.count_parse_error(error);
                Handling::Done
            }
        }
    }

    #[inline]
    fn on_data(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
        payload: &mut impl Payload,
    ) -> Handling {
        let index = match self.by_id.get(&data.id.0) {
            Some(&index) => index,
            None => match self.on_unknown(now, datagram, data, payload) {
                Ok(index) => index,
                Err(handling) => return handling,
            },
        };
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return Handling::Done };
        if flow.to.ip() != datagram.from.ip() || flow.connecting.is_some() {
            self.counters.drop_wrong_address += 1;
            return Handling::Done;
        }
        let handled = flow.on_data(now, data, datagram, &self.config, &mut self.counters, payload);
        if handled == Handled::Used {
            if datagram.landed.is_some() || data.extended.is_some() || flow.route.is_listening() {
                self.on_landing(now, index, datagram, data);
            }
            self.after(now, index, payload);
        }
        Handling::Done
    }

    /// A packet for a flow that is not there: perhaps a client confirms, perhaps the flow ended, perhaps we were restarted.
    #[cold]
    fn on_unknown(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
        payload: &mut impl Payload,
    ) -> Result<u32, Handling> {
        self.expire_remains(now);
        if let Some(&remains) = self.remains.get(&data.id.0) {
            self.answer_late(now, &remains, datagram, data);
            return Err(Handling::Done);
        }
        if let Some(handling) = self.pass_on(self.owner(data.id), datagram) {
            self.observe(datagram);
            return Err(handling);
        }
        if let Some(confirm) = &data.confirm {
            if self.jar.check(now, datagram.from, data.id, confirm) && confirm.version == VERSION {
                return self.accept(now, datagram, data, confirm, payload).ok_or(Handling::Done);
            }
            self.counters.drop_cookie += 1;
        }
        self.counters.drop_unknown_flow += 1;
        self.reply_reset(now, datagram, data, Reason::UnknownFlow);
        Err(Handling::Done)
    }

    fn has_room(&self) -> bool {
        self.by_id.len() < self.config.max_flows as usize
    }

    fn reserve_slot(&mut self) -> FlowId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        FlowId::new(index, self.slots[index as usize].generation)
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.flow = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }

    fn on_reset(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        refusal: Refusal,
        stateless: bool,
        payload: &mut impl Payload,
    ) -> Handling {
        let from = datagram.from;
        // A stateless one names the flow as its sender's side does; only its hint tells which engine of ours owns it.
        let (index, owner) = if stateless {
            (self.by_remote.get(&(from.ip(), refusal.id)).copied(), refusal.engine)
        } else {
            (self.by_id.get(&refusal.id.0).copied(), Some(self.owner(refusal.id)))
        };
        if index.is_none()
            && let Some(handling) = owner.and_then(|owner| self.pass_on(owner, datagram))
        {
            return handling;
        }
        let reason = Reason::from_code(refusal.reason).unwrap_or(Reason::ProtocolError);
        let flow = index.and_then(|index| self.slots[index as usize].flow.as_deref());
        let believed = flow.is_some_and(|flow| {
            if flow.to.ip() != from.ip() || flow.connecting.is_some() {
                return false;
            }
            if !stateless {
                let largest = flow.receiver.packets.largest();
                let number = super::seq::expand(refusal.number, largest);
                return number + 1024 > largest && number <= largest + super::receiver::MAX_AHEAD;
            }
            flow.sender.is_outstanding(refusal.number)
        });
        match index {
            Some(index) if believed => self.end(now, index, End::Reset { reason, tell: false }, payload),
            _ => self.counters.drop_forged_answer += 1,
        }
        Handling::Done
    }

    /// Call when `poll_timeout` has passed.
    pub fn handle_timeout(&mut self, now: Instant, payload: &mut impl Payload) {
        while let Some(index) = self.timers.pop_due(now) {
            let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { continue };
            flow.wake_at = Instant::FAR_FUTURE;
            if let Some(connecting) = &flow.connecting {
                if connecting.deadline <= now {
                    let id = flow.id;
                    self.counters.connects_failed += 1;
                    self.events.push_back(Event::ConnectFailed { flow: id, reason: Reason::Timeout });
                    self.remove(index);
                    continue;
                }
            } else if flow.is_dead(now, &self.config) {
                self.end(now, index, End::Reset { reason: Reason::Timeout, tell: true }, payload);
                continue;
            } else {
                let was_searching = flow.route.is_searching();
                flow.on_timer(now, &self.config, &mut self.counters);
                if flow.route.is_searching() && !was_searching {
                    self.forget_pair(now, index);
                }
            }
            self.after(now, index, payload);
        }
        self.expire_remains(now);
    }

    /// The application gave back `messages` messages of `bytes` bytes in all: the window opens, undelivered ones are
    /// offered.
    pub fn handle_room(
        &mut self,
        now: Instant,
        flow: FlowId,
        messages: u32,
        bytes: u64,
        payload: &mut impl Payload,
    ) {
        let Some(index) = self.index_of(flow) else { return };
        if let Some(flow) = self.slots[index as usize].flow.as_deref_mut() {
            flow.on_room(messages, bytes, &mut self.counters, payload);
        }
        self.after(now, index, payload);
    }

    /// Room appeared that is not of one flow (for example another flow's buffers came home): offers what was refused, for
    /// all flows, and lets peers try again at once.
    pub fn handle_pool_room(&mut self, now: Instant, payload: &mut impl Payload) {
        for index in std::mem::take(&mut self.starved) {
            let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { continue };
            flow.starved = false;
            if flow.receiver.refused {
                flow.retry_refused(&mut self.counters, payload);
            }
            self.after(now, index, payload);
        }
    }

    /// Starts a connection to the listener of `port` at the sidecar with UDP address `to`. The outcome is an event, after
    /// `timeout` at the latest.
    pub fn connect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        port: u16,
        ours: Limits,
        timeout: Duration,
    ) -> Result<FlowId, Reason> {
        if !self.has_room() {
            return Err(Reason::TooManyFlows);
        }
        let id = self.reserve_slot();
        let client = self.fresh_id();
        let syn = Syn {
            client,
            number: self.rng.next_u32(),
            versions: (handshake::OLDEST_VERSION, VERSION),
            port,
            flow_port: self.take_flow_port(),
            limits: ours.to_wire(),
            max_datagram: u16::try_from(self.config.max_datagram).unwrap_or(u16::MAX),
            engines: self.config.engines,
            stamp: 0,
            answer_on: None,
            hears_at: Some(self.config.receive_ports),
        };
        let flow = Flow::connecting(now, id, to, syn, ours, timeout, &self.config);
        self.by_id.insert(client.0, id.index());
        self.slots[id.index() as usize].flow = Some(Box::new(flow));
        self.schedule(now, id.index());
        Ok(id)
    }

    /// Gives a message of `len` bytes to a connected flow. `acknowledged` names it when the peer has it.
    #[inline]
    pub fn send(&mut self, now: Instant, flow: FlowId, message: TxHandle, len: u32) -> Result<(), SendError> {
        let index = flow.index();
        let flow = match self.slots.get_mut(index as usize) {
            Some(Slot { generation, flow: Some(state) }) if *generation == flow.generation() => state,
            _ => return Err(SendError::UnknownFlow),
        };
        if flow.closing || flow.connecting.is_some() || flow.sender.stopped {
            return Err(SendError::UnknownFlow);
        }
        if len == 0 || len > flow.peer.max_message {
            return Err(SendError::MessageSize);
        }
        if flow.sender.outstanding() >= self.config.max_outstanding as usize {
            return Err(SendError::NoCredit);
        }
        flow.sender.push(message, len);
        if !flow.ready {
            self.schedule(now, index);
        }
        Ok(())
    }

    /// Closes in order: everything sent is delivered first. Ends with `Finished`, or with `Closed` or `Reset` if the peer
    /// ended it meanwhile. Nothing more is delivered to us. A connect that has no answer yet is given up without an event.
    pub fn close(&mut self, now: Instant, flow: FlowId, payload: &mut impl Payload) {
        let Some(index) = self.index_of(flow) else { return };
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        if flow.connecting.is_some() {
            self.remove(index);
            return;
        }
        if !flow.closing {
            flow.close(payload);
            self.after(now, index, payload);
        }
    }

    /// Ends at once and tells the peer why. No event follows; reserved room is discarded before the call returns.
    pub fn reset(&mut self, now: Instant, flow: FlowId, reason: Reason, payload: &mut impl Payload) {
        let Some(index) = self.index_of(flow) else { return };
        self.end(now, index, End::Quiet { reason }, payload);
    }

    #[inline]
    fn index_of(&self, flow: FlowId) -> Option<u32> {
        let slot = self.slots.get(flow.index() as usize)?;
        (slot.generation == flow.generation() && slot.flow.is_some()).then_some(flow.index())
    }

    /// After anything happened to a flow: it may be over, may have something to send, may want to be woken.
    #[inline]
    fn after(&mut self, now: Instant, index: u32, payload: &mut impl Payload) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        if flow.is_over() {
            self.end(now, index, End::InOrder, payload);
            return;
        }
        if flow.receiver.refused && !flow.starved {
            flow.starved = true;
            self.starved.push(index);
        }
        self.schedule(now, index);
    }

    #[inline]
    fn schedule(&mut self, now: Instant, index: u32) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        if flow.ready {
            return; // `poll_transmit` makes what it can and schedules the rest.
        }
        if flow.has_work(now) {
            flow.ready = true;
            self.ready.push_back(index);
            return;
        }
        self.wake_later(now, index);
    }

    /// A flow without work is woken when its next timer is due.
    #[inline]
    fn wake_later(&mut self, now: Instant, index: u32) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        // What is due already was dealt with, or waits for `poll_transmit`.
        let at = flow.timeout(&self.config).max(now + LEAST_WAIT);
        if at < flow.wake_at {
            flow.wake_at = at;
            self.timers.set(at, index);
        }
    }

    fn end(&mut self, now: Instant, index: u32, end: End, payload: &mut impl Payload) {
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else { return };
        flow.receiver.discard(flow.id, payload);
        let (id, unacknowledged) = (flow.id, flow.sender.unacknowledged());
        let next_number = flow.sender.next_number();
        let established = flow.connecting.is_none();
        let refusal = |reason: Reason| Refusal {
            id: flow.remote,
            number: low(next_number),
            reason: reason as u8,
            engine: None,
        };
        let (kind, farewell) = match end {
            End::InOrder => {
                self.counters.flows_closed += 1;
                let event = if flow.closing && unacknowledged == 0 {
                    Event::Finished { flow: id }
                } else {
                    Event::Closed { flow: id, unacknowledged }
                };
                self.events.push_back(event);
                let kind = if flow.closing { RemainsKind::Closed } else { RemainsKind::TookAll };
                let (largest, run) = flow.receiver.packets.first();
                let farewell = Reply::Farewell {
                    remote: flow.remote,
                    number: low(next_number),
                    acked: Some((low(largest), run)),
                    fin: flow.sender.fin(),
                };
                (kind, flow.receiver.has_fin().then_some(farewell))
            }
            End::Reset { reason, tell } => {
                self.counters.flows_reset += 1;
                self.events.push_back(Event::Reset { flow: id, reason, unacknowledged });
                let reset = Reply::Reset { refusal: refusal(reason), stateless: false };
                (RemainsKind::Reset(reason), tell.then_some(reset))
            }
            End::Quiet { reason } => {
                self.counters.flows_reset += 1;
                let reset = Reply::Reset { refusal: refusal(reason), stateless: false };
                (RemainsKind::Reset(reason), established.then_some(reset))
            }
        };
        let (local, fin) = (flow.local, flow.sender.fin());
        let way = Way { from_port: flow.route.pair.from, to: flow.to };
        let farewell_number = low(next_number);
        let remains = Remains {
            remote: flow.remote,
            way,
            next_number: next_number + 1,
            farewell: farewell_number,
            fin,
            kind,
        };
        self.remove(index);
        if let Some(farewell) = farewell {
            self.reply(way, farewell);
        }
        if established {
            self.remember(now, local, remains);
        }
    }

    fn remove(&mut self, index: u32) {
        if let Some(flow) = self.slots[index as usize].flow.take() {
            self.timers.remove(index);
            self.by_id.remove(&flow.local.0);
            let key = (flow.to.ip(), flow.remote);
            if self.by_remote.get(&key) == Some(&index) {
                self.by_remote.remove(&key);
            }
            self.free_slot(index);
        }
    }

    /// Whether `poll_transmit` may have a datagram.
    #[inline]
    pub fn has_transmit(&self) -> bool {
        !self.ready.is_empty() || !self.replies.is_empty()
    }

    /// The next datagram to send, if the windows allow one now.
    #[inline]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some((way, reply)) = self.replies.pop_front() {
            return Some(self.transmit_reply(way, reply));
        }
        while let Some(&index) = self.ready.front() {
            let made = match self.slots[index as usize].flow.as_deref_mut() {
                Some(flow) if flow.ready && flow.connecting.is_some() => self.make_syn(now, index),
                Some(flow) if flow.ready => {
                    let (emitter, bundle, counters) =
                        (&mut self.emitter, &mut self.bundle, &mut self.counters);
                    let made = flow.make(now, &self.config, emitter, bundle, counters);
                    if made.is_some() && flow.route.is_searching() {
                        steering::steer(now, flow, &self.config, &mut self.hosts, &mut self.rng);
                    }
                    made.map(|made| transmit(flow, emitter, made))
                }
                _ => None,
            };
            let Some(transmit) = made else {
                self.ready.pop_front();
                self.quantum = QUANTUM;
                if let Some(flow) = self.slots[index as usize].flow.as_deref_mut() {
                    // It had nothing to make, so it has no work: only its timer is to be set.
                    flow.ready = false;
                    self.wake_later(now, index);
                }
                continue;
            };
            self.quantum -= 1;
            if self.quantum == 0 {
                self.quantum = QUANTUM;
                self.ready.rotate_left(1);
            }
            self.counters.datagrams_sent += 1;
            return Some(transmit);
        }
        None
    }

    /// Writes the header of the datagram that the last `poll_transmit` returned into `out`, `header_len` bytes.
    #[inline]
    pub fn emit_header(&self, out: &mut [u8]) {
        let header = self.emitter.as_bytes();
        out[..header.len()].copy_from_slice(header);
    }

    /// The messages of the bundle that the last `poll_transmit` returned, in order, with their lengths.
    pub fn bundle(&self) -> &[(TxHandle, u16)] {
        &self.bundle
    }

    /// The next thing to tell.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due. The endpoint may be early, never late.
    #[inline]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many wake-ups are kept, for tests.
    #[cfg(test)]
    pub(super) fn wake_ups(&self) -> usize {
        self.timers.len()
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.by_id.len()
    }

    /// What is known of a flow.
    pub fn stats(&self, flow: FlowId) -> Option<FlowStats> {
        Some(self.slots[self.index_of(flow)? as usize].flow.as_deref()?.stats())
    }

    /// What the peer of a connected flow can take.
    pub fn peer_limits(&self, flow: FlowId) -> Option<Limits> {
        Some(self.slots[self.index_of(flow)? as usize].flow.as_deref()?.peer)
    }

    /// The client's flow port of a flow: our end of a connected one, the peer's of an accepted one.
    pub fn flow_port(&self, flow: FlowId) -> Option<u16> {
        Some(self.slots[self.index_of(flow)? as usize].flow.as_deref()?.flow_port)
    }

    /// What was learned of other hosts: bounded, whatever they do.
    pub fn learned(&self) -> impl Iterator<Item = Learned> {
        self.hosts.iter().map(|(host, known)| Learned {
            host,
            engines: known.engines,
            heard: known.heard,
            pairs: known.pairs().to_vec(),
        })
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// A packet of a flow, its header in the emitter.
#[inline]
fn transmit(flow: &Flow, emitter: &Emitter, Made { body, body_len }: Made) -> Transmit {
    Transmit {
        from_port: flow.route.pair.from,
        to: flow.to,
        flow: Some(flow.id),
        header_len: emitter.as_bytes().len(),
        body,
        body_len,
    }
}

/// How a flow ends.
#[derive(Debug, Clone, Copy)]
enum End {
    InOrder,
    /// The application is told; the peer too if it does not know yet.
    Reset {
        reason: Reason,
        tell: bool,
    },
    /// The application wanted it.
    Quiet {
        reason: Reason,
    },
}

fn flow_of<'a>(
    by_id: &ById<u32>,
    slots: &'a mut [Slot],
    id: ConnectionId,
    from: SocketAddr,
) -> Option<(u32, &'a mut Flow)> {
    let &index = by_id.get(&id.0)?;
    let flow = slots[index as usize].flow.as_deref_mut()?;
    (flow.to.ip() == from.ip()).then_some((index, flow))
}

const _: () = assert!(size_of::<WireLimits>() == 12);
