//! One connection: its state, its two halves, and the packets it makes.

use super::congestion::Controller;
use super::handshake;
use super::pmtu::PathSize;
use super::ports::{Pair, PortRange};
use super::receiver::{MAX_AHEAD, Receiver, Verdict};
use super::route::Route;
use super::rtt::Rtt;
use super::sender::{Carried, Chunk, Content, LostFlags, Sender};
use super::seq::{expand, low};
use super::spray;
use super::time::{Duration, Instant};
use super::{Body, Config, Counters, Datagram, FlowId, FlowStats, Limits, Payload, Spread, TxHandle};
use crate::wire::header::{self, Confirm, ConnectionId, Data, Emitter, Extended, Syn, SynAck};
use std::net::SocketAddr;

/// First wait for an answer to a SYN; doubled each time.
const SYN_INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait between two SYNs.
const MAX_SYN_INTERVAL: Duration = Duration::from_secs(1);

/// With the paper's handshake: timeouts in a row before a proven pair is doubted.
const PAPER_PATIENCE: u32 = 5;

/// A connect that has no answer yet.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) syn: Syn,
    /// SYNs, or batches of them, that were sent.
    pub(super) sends: u32,
    pub(super) next_at: Instant,
    pub(super) deadline: Instant,
    /// The UDP port that the application named.
    pub(super) named_port: u16,
    /// The engine that is believed to listen, and a pair on which the first SYN should reach it.
    pub(super) known: Option<(u8, Pair)>,
    /// SYNs of this batch that are still to be sent.
    pub(super) batch_left: u32,
    /// The server's engines and where it hears, once an answer told of them.
    pub(super) server: Option<(u8, PortRange)>,
    /// Pairs that are proven by answers to a batch: of our datagrams, and of the server's.
    pub(super) forward: Option<Pair>,
    pub(super) backward: Option<Pair>,
}

impl Connecting {
    /// Whether a SYN is to be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.batch_left > 0 || self.next_at <= now
    }

    /// Ports to which the next SYN of a batch may go: where the server hears if it told; every other batch assumes that it
    /// hears where we do, because the more ports, the more chances.
    pub(super) fn guessed_ports(&self, config: &Config) -> PortRange {
        let batch = if self.batch_left > 0 { self.sends - 1 } else { self.sends };
        let named = PortRange::only(self.named_port);
        match self.server {
            Some((_, ports)) => ports,
            None if batch.is_multiple_of(2) && config.receive_ports.contains(self.named_port) => {
                config.receive_ports
            }
            None => named,
        }
    }

    /// The SYNs that come now, and when the next ones come: one, or as many as the paper's formula says.
    fn begin_batch(&mut self, now: Instant, config: &Config) {
        (self.batch_left, self.next_at) = match config.spread {
            Spread::Learned => (1, now + SYN_INTERVAL.times(1 << self.sends.min(8)).min(MAX_SYN_INTERVAL)),
            Spread::Paper => {
                let engines = self.server.map_or(0, |(engines, _)| engines).max(config.engines);
                (spray::next_batch(engines, self.sends), now + config.spray_interval)
            }
        };
        self.sends += 1;
    }

    /// An answer to one SYN of a batch: `true` when pairs are proven for both directions.
    pub(super) fn on_answer(&mut self, answer: &SynAck, landed_on: Option<Pair>, config: &Config) -> bool {
        let usable = |pair: &Pair| config.may_send_from(pair.from) && answer.hears_at.contains(pair.to);
        self.server = Some((answer.engines, answer.hears_at));
        self.forward = answer.send_on.filter(usable).or(self.forward);
        self.backward = landed_on.or(self.backward);
        config.spread == Spread::Learned
            || ((self.forward.is_some() || answer.engines <= 1)
                && (self.backward.is_some() || config.engines == 1))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: FlowId,
    /// Our name for it, in every packet to us.
    pub(super) local: ConnectionId,
    /// The peer's name for it.
    pub(super) remote: ConnectionId,
    pub(super) to: SocketAddr,
    /// The client's flow port.
    pub(super) flow_port: u16,
    pub(super) connecting: Option<Box<Connecting>>,
    /// Repeated until the server was heard.
    pub(super) confirm: Option<Box<Confirm>>,
    pub(super) ours: Limits,
    pub(super) peer: Limits,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) rtt: Rtt,
    controller: Box<dyn Controller>,
    path: PathSize,
    /// Which ports its datagrams travel on.
    pub(super) route: Route,
    pub(super) last_heard: Instant,
    last_sent: Instant,
    /// Since when an answer is awaited.
    asked_at: Option<Instant>,
    ping_owed: bool,
    /// Our application closed.
    pub(super) closing: bool,
    /// The flow stands in the endpoint's list of flows with something to send.
    pub(super) ready: bool,
    /// The flow stands in the endpoint's list of flows that were refused room.
    pub(super) starved: bool,
    /// Earliest wake-up in the endpoint's timers.
    pub(super) wake_at: Instant,
    stats: FlowStats,
}

/// A packet of a flow, its header in the emitter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) body: Body,
    pub(super) body_len: usize,
}

/// What a packet was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handled {
    /// Of this flow.
    Used,
    /// Not believed; counted.
    Dropped,
}

impl Flow {
    /// A flow that begins with our SYN.
    pub(super) fn connecting(
        now: Instant,
        id: FlowId,
        to: SocketAddr,
        syn: Syn,
        ours: Limits,
        timeout: Duration,
        config: &Config,
    ) -> Self {
        let connecting = Connecting {
            syn,
            sends: 0,
            next_at: now,
            deadline: now + timeout,
            named_port: to.port(),
            known: None,
            batch_left: 0,
            server: None,
            forward: None,
            backward: None,
        };
        let mut flow = Self::new(now, id, syn.client, to, u64::from(syn.number), ours, config);
        flow.flow_port = syn.flow_port;
        flow.connecting = Some(Box::new(connecting));
        flow
    }

    /// A flow that a client confirmed.
    pub(super) fn accepted(
        now: Instant,
        id: FlowId,
        server: ConnectionId,
        to: SocketAddr,
        confirm: &Confirm,
        config: &Config,
    ) -> Self {
        let ours = Limits::from_wire(confirm.server_limits);
        let mut flow = Self::new(now, id, server, to, u64::from(confirm.server_number), ours, config);
        flow.flow_port = confirm.flow_port;
        flow.establish(confirm.client, confirm.client_number, confirm.client_limits, confirm.max_datagram);
        flow
    }

    fn new(
        now: Instant,
        id: FlowId,
        local: ConnectionId,
        to: SocketAddr,
        first_number: u64,
        ours: Limits,
        config: &Config,
    ) -> Self {
        Self {
            id,
            local,
            remote: ConnectionId(0),
            to,
            flow_port: 0,
            connecting: None,
            confirm: None,
            ours,
            peer: Limits { max_message: 0, window_messages: 0, window_bytes: 0 },
            sender: Sender::new(first_number + 1, 0, 0),
            receiver: Receiver::new(0, ours),
            rtt: Rtt::new(),
            controller: config.congestion.controller(),
            path: PathSize::new(config.max_datagram),
            route: Route::new(Pair { from: config.ports.first(), to: to.port() }, config),
            last_heard: now,
            last_sent: now,
            asked_at: None,
            ping_owed: false,
            closing: false,
            ready: false,
            starved: false,
            wake_at: Instant::FAR_FUTURE,
            stats: FlowStats::default(),
        }
    }

    fn establish(
        &mut self,
        remote: ConnectionId,
        number: u32,
        limits: header::WireLimits,
        max_datagram: u16,
    ) {
        self.remote = remote;
        self.peer = Limits::from_wire(limits);
        let first = self.sender.next_number();
        self.sender = Sender::new(first, self.peer.window_messages, self.peer.window_bytes);
        self.receiver = Receiver::new(u64::from(number), self.ours);
        self.path = PathSize::new(u32::from(max_datagram).max(super::pmtu::BASE));
    }

    /// Whether this is an answer to our SYN.
    pub(super) fn is_answered_by(&self, now: Instant, answer: &SynAck) -> bool {
        let sent_at = Instant::from_nanos(answer.stamp);
        self.connecting.as_ref().is_some_and(|connecting| answer.echo == connecting.syn.number)
            && answer.version == header::VERSION
            && sent_at <= now
            && now.since(sent_at) <= Duration::from_secs(60)
    }

    /// The server answered our SYN.
    pub(super) fn on_syn_ack(&mut self, now: Instant, waited: Duration, answer: &SynAck, config: &Config) {
        let Some(connecting) = &self.connecting else { return };
        let sent_at = Instant::from_nanos(answer.stamp);
        let confirm = handshake::accept_offer(&connecting.syn, config.receive_ports, answer);
        self.rtt.on_sample(now, now.before(waited).since(sent_at), Duration::ZERO);
        self.connecting = None;
        let bound = confirm.max_datagram.min(u16::try_from(config.max_datagram).unwrap_or(u16::MAX));
        self.establish(answer.server, answer.number, answer.limits, bound);
        self.confirm = Some(Box::new(confirm));
        // Whether or not the application has something to say: the server makes the flow when it hears of it.
        self.ping_owed = true;
        self.last_heard = now;
    }

    /// The engine of the peer that owns the flow.
    pub(super) fn peer_engine(&self) -> u8 {
        u8::try_from(self.remote.0 % u32::from(self.route.peer_engines)).unwrap_or(0)
    }

    /// A DATA packet with our connection id.
    #[inline]
    pub(super) fn on_data(
        &mut self,
        now: Instant,
        data: &Data<'_>,
        datagram: &Datagram<'_>,
        config: &Config,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Handled {
        let arrived = now.before(datagram.waited);
        let largest = self.receiver.packets.largest();
        let number = expand(data.number, largest);
        if number > largest + MAX_AHEAD {
            counters.drop_number_ahead += 1;
            return Handled::Dropped;
        }
        if number <= largest && self.receiver.packets.contains(number) {
            counters.drop_duplicate += 1;
            self.receiver.on_duplicate();
            return Handled::Used;
        }
        if let Some(ack) = &data.ack {
            let (rtt, controller, path) = (&mut self.rtt, &mut *self.controller, &mut self.path);
            match self.sender.on_ack(now, arrived, self.id, ack, rtt, controller, path, counters, payload) {
                Ok(lost) => self.on_lost(lost),
                Err(()) => {
                    counters.drop_false_ack += 1;
                    return Handled::Dropped;
                }
            }
        }
        self.last_heard = now;
        self.asked_at = (self.sender.in_flight() > 0).then_some(now);
        self.confirm = None;
        self.stats.packets_received += 1;
        self.stats.bytes_received += datagram.bytes.len() as u64;
        if let Some(window) = data.window
            && self.sender.on_window(window)
        {
            self.sender.timeouts = 0;
        }
        if matches!(data.body, header::Body::Nudge) {
            let lost = self.sender.on_nudge(now, &self.rtt);
            self.on_lost(lost);
        }
        self.on_content(arrived, number, data, config, counters, payload)
    }

    fn on_content(
        &mut self,
        arrived: Instant,
        number: u64,
        data: &Data<'_>,
        config: &Config,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Handled {
        if let Some(fin) = data.fin {
            if !self.receiver.on_fin(fin) && !self.closing {
                counters.drop_contradiction += 1;
                return Handled::Dropped;
            }
            if !self.sender.stopped {
                self.sender.stop();
            }
        }
        let carries_data = matches!(
            data.body,
            header::Body::Whole { .. } | header::Body::Segment { .. } | header::Body::Bundle { .. }
        );
        if self.closing && carries_data {
            // Not acknowledged: its sender must not believe that anybody took it.
            counters.drop_after_close += 1;
            return Handled::Used;
        }
        let verdict = self.receiver.on_body(self.id, &data.body, counters, payload);
        if verdict == Verdict::Taken {
            self.receiver.on_packet(arrived, number, data, config);
        }
        Handled::Used
    }

    fn on_lost(&mut self, lost: LostFlags) {
        if lost.window {
            self.receiver.on_window_lost();
        }
        self.receiver.nudge_owed |= lost.nudge;
    }

    /// Packets go out on the pair that the route names.
    pub(super) fn follow_route(&mut self) {
        self.to.set_port(self.route.pair.to);
    }

    /// Our application closes.
    pub(super) fn close(&mut self, payload: &mut impl Payload) {
        self.closing = true;
        self.sender.close();
        self.receiver.discard(self.id, payload);
    }

    /// The application gave room back.
    pub(super) fn on_room(
        &mut self,
        messages: u32,
        bytes: u64,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) {
        self.receiver.on_room(messages, bytes);
        if self.receiver.refused {
            self.retry_refused(counters, payload);
        }
    }

    /// Offers what was refused, and asks the peer to send again what it still has.
    pub(super) fn retry_refused(&mut self, counters: &mut Counters, payload: &mut impl Payload) {
        self.receiver.refused = false;
        self.receiver.deliver_waiting(self.id, counters, payload);
        if !self.closing && !self.receiver.is_finished() {
            self.receiver.nudge_owed = true;
            self.receiver.window_owed = true;
        }
    }

    /// Whether the flow is over, our FIN and the peer's considered.
    pub(super) fn is_over(&self) -> bool {
        if self.closing
            && (self.receiver.has_fin() || (self.sender.fin_acked && self.sender.outstanding() == 0))
        {
            return true;
        }
        self.receiver.is_finished()
    }

    /// Nothing was heard for too long although something was asked.
    pub(super) fn is_dead(&self, now: Instant, config: &Config) -> bool {
        self.asked_at.is_some_and(|asked| now.since(asked.max(self.last_heard)) >= config.dead_after)
    }

    /// When `on_timer` has to be called.
    pub(super) fn timeout(&self, config: &Config) -> Instant {
        if let Some(connecting) = &self.connecting {
            return connecting.next_at.min(connecting.deadline);
        }
        let mut at = Instant::FAR_FUTURE;
        if let Some(time) = self.sender.timeout(&self.rtt, config) {
            at = at.min(time);
        }
        if let Some(time) = self.receiver.ack_deadline() {
            at = at.min(time);
        }
        if let Some(asked) = self.asked_at {
            at = at.min(asked.max(self.last_heard) + config.dead_after);
        }
        at.min(self.keepalive_at(config))
    }

    fn keepalive_at(&self, config: &Config) -> Instant {
        if self.receiver.has_everything() {
            return Instant::FAR_FUTURE; // The peer may be gone in order; our application has still to read.
        }
        self.last_heard.max(self.last_sent) + config.keepalive
    }

    /// Deals with what is due.
    pub(super) fn on_timer(&mut self, now: Instant, config: &Config, counters: &mut Counters) {
        if self.connecting.is_some() {
            return;
        }
        let (controller, path) = (&mut *self.controller, &mut self.path);
        let timeouts = counters.timeouts;
        let lost = self.sender.on_timer(now, &self.rtt, config, controller, path, counters);
        // Data goes only on proven pairs: more has to be lost until that is doubted.
        let patience = if config.spread == Spread::Paper { PAPER_PATIENCE } else { 0 };
        if counters.timeouts != timeouts && self.sender.timeouts > patience {
            self.route.on_silence(config);
        }
        self.on_lost(lost);
        if now >= self.keepalive_at(config) {
            counters.keepalives += 1;
            self.ping_owed = true;
        }
    }

    /// Whether `make` would make a packet now.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        if let Some(connecting) = &self.connecting {
            return connecting.is_due(now);
        }
        self.ping_owed
            || self.sender.probes_owed > 0
            || self.receiver.nudge_owed
            || (self.receiver.window_owed && self.receiver.window_is_news())
            || self.receiver.ack_due(now)
            || self.sender.fin_due().is_some()
            || (self.sender.has_data() && self.sender.in_flight() < self.controller.window())
    }

    /// The next SYN if it is time.
    pub(super) fn make_syn(&mut self, now: Instant, config: &Config, emitter: &mut Emitter) -> bool {
        let Some(connecting) = &mut self.connecting else { return false };
        if !connecting.is_due(now) {
            return false;
        }
        connecting.syn.stamp = now.as_nanos();
        if connecting.batch_left == 0 {
            connecting.begin_batch(now, config);
        }
        connecting.batch_left -= 1;
        emitter.syn(&connecting.syn);
        true
    }

    /// The next packet, if there is something to say and the windows allow it.
    pub(super) fn make(
        &mut self,
        now: Instant,
        config: &Config,
        emitter: &mut Emitter,
        bundle: &mut Vec<(TxHandle, u16)>,
        counters: &mut Counters,
    ) -> Option<Made> {
        self.sender.drop_needless_repeats();
        if !self.has_work(now) {
            return None;
        }
        emitter.start_data(self.remote, low(self.sender.next_number()));
        let acked = self.receiver.emit_ack(now, emitter);
        let mut carried = Carried { window: self.receiver.emit_window(emitter), ..Carried::default() };
        if let Some(confirm) = &self.confirm {
            emitter.confirm(confirm);
            carried.eliciting = true;
        }
        if let Some(fin) = self.sender.fin_due() {
            emitter.fin(fin);
            (carried.fin, carried.eliciting) = (true, true);
        }
        let extended =
            if self.route.is_busy() { self.route.extended(self.confirm.is_some(), config) } else { None };
        let body_at = emitter.as_bytes().len();
        let size = self.path.current() - extended.as_ref().map_or(0, Extended::wire_len);
        let (content, made) = self.make_body(emitter, bundle, &mut carried, counters, size);
        if let Some(extended) = &extended {
            emitter.extend(body_at, extended);
        }
        if content == Content::Nothing && made.body == Body::Empty && !carried.eliciting {
            debug_assert!(acked, "a packet that asks for nothing tells of received ones");
            counters.pure_acks += 1;
        }
        self.record(now, emitter.as_bytes().len() + made.body_len, content, carried);
        Some(made)
    }

    fn make_body(
        &mut self,
        emitter: &mut Emitter,
        bundle: &mut Vec<(TxHandle, u16)>,
        carried: &mut Carried,
        counters: &mut Counters,
        size: u32,
    ) -> (Content, Made) {
        let used = u32::try_from(emitter.as_bytes().len()).unwrap_or(u32::MAX);
        let open = self.sender.in_flight() < self.controller.window() || self.sender.probes_owed > 0;
        if open && let Some(probe) = self.path_probe() {
            carried.eliciting = true;
            let taken = self.path.current() - size;
            return self.make_probe(emitter, probe, taken, counters);
        }
        if open && let Some(chunk) = self.sender.next_chunk(size - used, bundle, counters) {
            self.sender.probes_owed = self.sender.probes_owed.saturating_sub(1);
            self.ping_owed = false;
            carried.eliciting = true;
            return emit_chunk(emitter, chunk);
        }
        if self.receiver.nudge_owed {
            self.receiver.nudge_owed = false;
            (carried.nudge, carried.eliciting) = (true, true);
            emitter.nudge();
        } else if self.ping_owed || self.sender.probes_owed > 0 || (carried.window && !carried.eliciting) {
            emitter.ping();
            carried.eliciting = true;
            self.ping_owed = false;
            self.sender.probes_owed = 0;
            return (Content::Nothing, Self::pad_ping(emitter));
        }
        (Content::Nothing, Made { body: Body::Empty, body_len: 0 })
    }

    /// A PING is as long as a RESET: a peer that was started again answers with nothing longer than what it hears.
    fn pad_ping(emitter: &Emitter) -> Made {
        match header::RESET_LEN.saturating_sub(emitter.as_bytes().len()) {
            0 => Made { body: Body::Empty, body_len: 0 },
            len => Made { body: Body::Padding { len: u32::try_from(len).unwrap_or(0) }, body_len: len },
        }
    }

    fn make_probe(
        &mut self,
        emitter: &mut Emitter,
        size: u32,
        taken: u32,
        counters: &mut Counters,
    ) -> (Content, Made) {
        emitter.ping();
        let header = u32::try_from(emitter.as_bytes().len()).unwrap_or(u32::MAX);
        self.path.on_probe_sent();
        counters.path_probes += 1;
        let len = size - header - taken;
        (Content::Probe { size }, Made { body: Body::Padding { len }, body_len: len as usize })
    }

    /// A larger path size is tried once a message is there that it would help.
    fn path_probe(&self) -> Option<u32> {
        let wanted = self.path.probe_wanted()?;
        self.sender.wants_larger(self.path.current()).then_some(wanted)
    }

    fn record(&mut self, now: Instant, bytes: usize, content: Content, carried: Carried) {
        let len = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.sender.on_sent(now, len, content, carried);
        self.last_sent = now;
        if carried.eliciting && self.asked_at.is_none() {
            self.asked_at = Some(now);
        }
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += bytes as u64;
    }

    pub(super) fn stats(&self) -> FlowStats {
        FlowStats {
            srtt_ns: if self.rtt.is_sampled() { self.rtt.smoothed().as_nanos() } else { 0 },
            min_rtt_ns: if self.rtt.is_sampled() { self.rtt.least().as_nanos() } else { 0 },
            congestion_window: self.controller.window(),
            bytes_in_flight: self.sender.in_flight(),
            datagram_size: self.path.current(),
            messages_acknowledged: self.sender.acknowledged,
            messages_delivered: self.receiver.delivered,
            retransmissions: self.sender.retransmissions,
            pair: self.route.pair,
            is_direct: self.route.is_direct(),
            remote_engine: self.peer_engine(),
            taken_over: self.route.taken_over,
            ..self.stats
        }
    }
}

fn emit_chunk(emitter: &mut Emitter, chunk: Chunk) -> (Content, Made) {
    match chunk {
        Chunk::Whole { message, handle, len } => {
            emitter.whole(message);
            let body = Body::Segment { message: handle, offset: 0, len };
            (Content::Segment { message, offset: 0, len }, Made { body, body_len: len as usize })
        }
        Chunk::Segment { message, handle, offset, len, total } => {
            emitter.segment(message, offset, total);
            let body = Body::Segment { message: handle, offset, len };
            (Content::Segment { message, offset, len }, Made { body, body_len: len as usize })
        }
        Chunk::Bundle { first, count, wire_len } => {
            emitter.bundle(first);
            let body = Body::Bundle { count };
            (Content::Bundle { first, count }, Made { body, body_len: wire_len as usize })
        }
    }
}
