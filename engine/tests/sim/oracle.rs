//! The checker: what every connection has sent, got and been told, and whether that may be.
//!
//! It sees what applications see. Each check that an event can fail at once is here; those that only time can fail are in
//! `monitor.rs`.

use crate::content;
use crate::report::{Log, Totals};
use crate::scenario::{MS, SECOND};
use machnet_engine::proto::{FlowId, Limits, Reason};

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
    pub(crate) at_ns: u64,
}

/// One end of a connection: which connection, and 0 for the client or 1 for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) connection: usize,
    pub(crate) side: usize,
}

impl Place {
    pub(crate) const fn peer(self) -> Self {
        Self { connection: self.connection, side: 1 - self.side }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The client has not connected yet; the server has accepted nothing.
    Absent,
    Connecting,
    Open,
    /// `close` was called.
    Closing,
    Ended(End),
}

impl State {
    pub(crate) const fn is_alive(self) -> bool {
        matches!(self, Self::Connecting | Self::Open | Self::Closing)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Failed(Reason),
    Closed,
    Finished,
    Reset(Reason),
    /// `reset` was called.
    Aborted,
    HostDied,
    /// The worker answered `accept` with an error.
    NotTaken,
}

/// A message that `send` took.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) len: u32,
    /// The peer's host has had all of it.
    pub(crate) whole: bool,
    /// How much of it was transmitted at least once.
    pub(crate) transmitted: u32,
}

/// One end of a connection as the checker knows it.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// The engine that owns the flow, counted over all hosts: the one that is meant to before it is known.
    pub(crate) unit: usize,
    pub(crate) host: usize,
    pub(crate) flow: Option<FlowId>,
    pub(crate) state: State,
    pub(crate) since_ns: u64,
    pub(crate) sent: Vec<Message>,
    pub(crate) acknowledged: u32,
    pub(crate) delivered: u32,
    /// Whether `close` was ever called.
    pub(crate) closed: bool,
    /// When a byte that was new last came to this side, or a message was delivered.
    pub(crate) progress_ns: u64,
    /// Datagrams and their UDP payload bytes that the endpoint sent for the flow, connecting apart.
    pub(crate) packets_sent: u64,
    pub(crate) bytes_sent: u64,
}

/// A connection and both its ends.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) sides: [Side; 2],
    pub(crate) has_host: bool,
    pub(crate) listens: bool,
    pub(crate) timeout_ns: u64,
    /// The client's limits, as the server must see them.
    pub(crate) limits: [Limits; 2],
}

/// All connections, the first violation, the log and the totals.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) seed: u64,
    pub(crate) now_ns: u64,
    pub(crate) connections: Vec<Connection>,
    pub(crate) violation: Option<Violation>,
    pub(crate) totals: Totals,
    pub(crate) log: Log,
    pub(crate) dead_after_ns: u64,
    /// Whether a backlog was ever full, a slot table ever tight, or an accept ever refused on a host.
    pub(crate) was_busy: Vec<bool>,
    pub(crate) max_flows: u32,
    /// By how much the clocks of all hosts jumped in all.
    pub(crate) jumped_ns: u64,
    /// A connect takes no longer than this, if that is known.
    pub(crate) connect_bound_ns: Option<u64>,
}

impl Oracle {
    /// Notes the first broken rule.
    pub(crate) fn violate(&mut self, rule: &'static str, text: String) {
        self.log.say(self.now_ns, || format!("VIOLATION {rule}: {text}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, text, at_ns: self.now_ns });
        }
    }

    pub(crate) fn side(&mut self, place: Place) -> &mut Side {
        &mut self.connections[place.connection].sides[place.side]
    }

    fn enter(&mut self, place: Place, state: State) {
        let now_ns = self.now_ns;
        self.log.note(&[now_ns, place.connection as u64, place.side as u64]);
        self.log.say(now_ns, || format!("connection {}.{} is {state:?}", place.connection, place.side));
        let side = self.side(place);
        side.state = state;
        side.since_ns = now_ns;
        side.progress_ns = now_ns;
    }

    /// `connect` gave this flow.
    pub(crate) fn on_connecting(&mut self, place: Place, flow: FlowId) {
        self.totals.connects += 1;
        self.side(place).flow = Some(flow);
        self.enter(place, State::Connecting);
    }

    /// `connect` failed at once.
    pub(crate) fn on_connect_refused_here(&mut self, place: Place, reason: Reason, flows: usize) {
        if reason != Reason::TooManyFlows || flows < self.max_flows as usize {
            self.violate("connect", format!("connect answers {reason:?} with {flows} flows"));
        }
        self.enter(place, State::Ended(End::Failed(reason)));
    }

    /// A server's engine was told of a flow. Answers which connection it is.
    pub(crate) fn on_accept(
        &mut self,
        (host, unit): (usize, usize),
        flow: FlowId,
        port: u16,
        peer: Limits,
        taken: bool,
    ) -> Option<Place> {
        let connection = (peer.window_bytes % 4096) as usize;
        let place = Place { connection, side: 1 };
        let Some(known) = self.connections.get(connection) else {
            self.violate("accept", format!("{flow:?} on unit {unit} has limits of nobody: {peer:?}"));
            return None;
        };
        if known.limits[0] != peer || known.sides[1].host != host || !known.has_host || !known.listens {
            let expected = known.limits[0];
            self.violate(
                "accept",
                format!("{flow:?} on unit {unit} port {port} has {peer:?}, not {expected:?}"),
            );
            return None;
        }
        if known.sides[1].state != State::Absent {
            let state = known.sides[1].state;
            self.violate("accept", format!("connection {connection} is accepted again, was {state:?}"));
            return None;
        }
        self.side(place).unit = unit;
        self.side(place).flow = Some(flow);
        self.enter(place, if taken { State::Open } else { State::Ended(End::NotTaken) });
        Some(place)
    }

    pub(crate) fn on_connected(&mut self, place: Place, peer: Limits) {
        let expected = self.connections[place.connection].limits[1];
        if peer != expected {
            self.violate("connect", format!("peer limits {peer:?}, not {expected:?}"));
        }
        self.check_connect_time(place);
        let took_ns = self.now_ns - self.side(place).since_ns;
        if self.connect_bound_ns.is_some_and(|bound_ns| took_ns > bound_ns) {
            self.violate("round-trip", format!("{place:?} was connected only after {took_ns} ns"));
        }
        match self.side(place).state {
            State::Connecting => self.enter(place, State::Open),
            other => self.violate("connect", format!("connected while {other:?}")),
        }
        self.totals.connected += 1;
    }

    fn check_connect_time(&mut self, place: Place) {
        let timeout_ns = self.connections[place.connection].timeout_ns;
        let now_ns = self.now_ns;
        let since_ns = self.side(place).since_ns;
        if now_ns > since_ns + timeout_ns + MS {
            self.violate("connect", format!("{place:?} took {} ms", (now_ns - since_ns) / MS));
        }
    }

    pub(crate) fn on_connect_failed(&mut self, place: Place, reason: Reason) {
        if self.side(place).state != State::Connecting {
            let state = self.side(place).state;
            self.violate("connect", format!("connect fails with {reason:?} while {state:?}"));
        }
        self.check_connect_time(place);
        let waited_ns = self.now_ns - self.side(place).since_ns;
        let server_host = self.connections[place.connection].sides[1].host;
        let connection = &self.connections[place.connection];
        let taken = connection.sides[1].state;
        let truthful = match reason {
            Reason::Refused => connection.has_host && !connection.listens,
            Reason::Busy => self.was_busy[server_host],
            Reason::TooManyFlows => self.max_flows < 1024,
            Reason::Timeout => waited_ns + self.jumped_ns >= connection.timeout_ns,
            // The server may have lost interest before the client knew that it was connected.
            Reason::Aborted => taken == State::Ended(End::Aborted),
            Reason::UnknownFlow => matches!(taken, State::Ended(_) | State::Absent),
            _ => false,
        };
        if !truthful {
            self.violate("reason", format!("connect fails with {reason:?}, server side {taken:?}"));
        }
        match reason {
            Reason::Refused => self.totals.refused += 1,
            Reason::Busy => self.totals.busy += 1,
            Reason::Timeout => self.totals.connect_timeouts += 1,
            _ => {}
        }
        self.enter(place, State::Ended(End::Failed(reason)));
    }

    /// `send` took a message. Answers its number.
    pub(crate) fn on_sent(&mut self, place: Place, len: u32) -> u32 {
        self.totals.messages += 1;
        self.totals.message_bytes += u64::from(len);
        let now_ns = self.now_ns;
        if self.side(place).sent.len() as u32 == self.side(place.peer()).delivered {
            // The receiver has had nothing to wait for until now.
            self.side(place.peer()).progress_ns = now_ns;
        }
        let side = self.side(place);
        side.sent.push(Message { len, whole: false, transmitted: 0 });
        side.sent.len() as u32 - 1
    }

    fn content_key(&self, sender: Place, number: u32) -> u64 {
        content::key(self.seed, sender.connection, sender.side, number)
    }

    /// All bytes of a reserved message have come to `receiver`: which message is it?
    pub(crate) fn on_whole(&mut self, receiver: Place, bytes: &[u8]) -> Option<u32> {
        let sender = receiver.peer();
        let first = self.side(receiver).delivered;
        let count = self.side(sender).sent.len() as u32;
        let found = (first..count).find(|number| {
            let message = &self.connections[sender.connection].sides[sender.side].sent[*number as usize];
            !message.whole
                && message.len as usize == bytes.len()
                && content::matches(self.content_key(sender, *number), bytes)
        });
        match found {
            Some(number) => self.side(sender).sent[number as usize].whole = true,
            None => {
                self.violate("intact", format!("{receiver:?} has {} bytes that nobody sent", bytes.len()))
            }
        }
        found
    }

    /// A message is given to the application of `receiver`.
    pub(crate) fn on_delivered(&mut self, receiver: Place, bytes: &[u8]) {
        let sender = receiver.peer();
        let number = self.side(receiver).delivered;
        self.log.note(&[self.now_ns, 1, number.into(), bytes.len() as u64]);
        self.log.say(self.now_ns, || {
            format!(
                "connection {}.{} gets message {number}, {} bytes",
                receiver.connection,
                receiver.side,
                bytes.len()
            )
        });
        let key = self.content_key(sender, number);
        let state = self.side(receiver).state;
        if state != State::Open {
            self.violate("closed", format!("{receiver:?} gets a message while {state:?}"));
        }
        let side = self.side(sender);
        let Some(message) = side.sent.get_mut(number as usize) else {
            return self.violate("once", format!("{receiver:?} gets message {number}, which was never sent"));
        };
        let right = message.len as usize == bytes.len() && content::matches(key, bytes);
        message.whole = true;
        let len = message.len;
        if !right {
            let which = self.recognise(sender, bytes);
            self.violate(
                "order",
                format!(
                    "{receiver:?} gets {} bytes, {which}, instead of message {number} of {len} bytes",
                    bytes.len()
                ),
            );
        }
        let now_ns = self.now_ns;
        let side = self.side(receiver);
        side.delivered += 1;
        side.progress_ns = now_ns;
        self.totals.delivered += 1;
        self.totals.delivered_bytes += bytes.len() as u64;
        self.totals.large_delivered += u64::from(bytes.len() >= 1 << 20);
    }

    fn recognise(&self, sender: Place, bytes: &[u8]) -> String {
        let sent = &self.connections[sender.connection].sides[sender.side].sent;
        let found =
            (0..sent.len()).find(|number| content::matches(self.content_key(sender, *number as u32), bytes));
        found.map_or_else(|| "which nobody sent".to_owned(), |number| format!("which are message {number}"))
    }

    /// `acknowledged` was called for message `number` of `sender`.
    pub(crate) fn on_acknowledged(&mut self, sender: Place, number: u32) {
        self.log.note(&[self.now_ns, 2, number.into()]);
        let side = self.side(sender);
        let (expected, state) = (side.acknowledged, side.state);
        let whole = side.sent.get(number as usize).is_some_and(|message| message.whole);
        side.acknowledged += 1;
        let now_ns = self.now_ns;
        self.side(sender.peer()).progress_ns = now_ns;
        if number != expected {
            self.violate("acknowledged", format!("{sender:?}: message {number} instead of {expected}"));
        }
        if !whole {
            self.violate(
                "acknowledged",
                format!("{sender:?}: message {number} never came whole to the peer"),
            );
        }
        if !matches!(state, State::Open | State::Closing) {
            self.violate("acknowledged", format!("{sender:?}: message {number} while {state:?}"));
        }
        self.totals.acknowledged += 1;
    }

    fn check_unacknowledged(&mut self, place: Place, told: u32) {
        let side = self.side(place);
        let truth = side.sent.len() as u32 - side.acknowledged;
        self.totals.unacknowledged += u64::from(told);
        if told != truth {
            self.violate("unacknowledged", format!("{place:?} is told {told}, but it is {truth}"));
        }
    }

    pub(crate) fn on_closed(&mut self, place: Place, unacknowledged: u32) {
        self.totals.closed += 1;
        self.check_unacknowledged(place, unacknowledged);
        let peer_sent = self.side(place.peer()).sent.len() as u32;
        let peer_closed = self.side(place.peer()).closed;
        let (delivered, state) = (self.side(place).delivered, self.side(place).state);
        if !matches!(state, State::Open | State::Closing) {
            self.violate("closed", format!("{place:?} hears Closed while {state:?}"));
        }
        if !peer_closed {
            self.violate("closed", format!("{place:?} hears Closed, but the peer did not close"));
        }
        // Who closes itself wants nothing more.
        if state == State::Open && delivered != peer_sent {
            self.violate(
                "closed",
                format!("{place:?} hears Closed after {delivered} of {peer_sent} messages"),
            );
        }
        self.enter(place, State::Ended(End::Closed));
    }

    pub(crate) fn on_finished(&mut self, place: Place) {
        self.totals.finished += 1;
        let side = self.side(place);
        let (state, sent, acknowledged) = (side.state, side.sent.len() as u32, side.acknowledged);
        let missing = side.sent.iter().filter(|message| !message.whole).count();
        if state != State::Closing {
            self.violate("finished", format!("{place:?} hears Finished while {state:?}"));
        }
        // Two that close at once both say that they want nothing more.
        let peer_closed = self.side(place.peer()).closed;
        if !peer_closed && (missing > 0 || sent != acknowledged) {
            self.violate(
                "finished",
                format!("{place:?}: {acknowledged} of {sent} acknowledged, {missing} missing"),
            );
        }
        self.enter(place, State::Ended(End::Finished));
    }

    /// `connected_since_ns`: since when datagrams can travel both ways between two living hosts, if they can.
    pub(crate) fn on_reset(
        &mut self,
        place: Place,
        reason: Reason,
        unacknowledged: u32,
        connected_since_ns: Option<u64>,
    ) {
        self.totals.reset += 1;
        self.check_unacknowledged(place, unacknowledged);
        let state = self.side(place).state;
        if !matches!(state, State::Open | State::Closing) {
            self.violate("reset", format!("{place:?} hears Reset while {state:?}"));
        }
        let peer = self.side(place.peer()).clone();
        let silent_ns = self.dead_after_ns.saturating_sub(SECOND / 10);
        let was_connected = connected_since_ns.is_some_and(|since_ns| since_ns + silent_ns < self.now_ns);
        let truthful = match (reason, peer.state) {
            (Reason::Timeout, State::Ended(_) | State::Absent) => true,
            (Reason::Timeout, _) => !was_connected,
            (Reason::Aborted, State::Ended(End::Aborted)) => true,
            (Reason::Busy, State::Ended(End::NotTaken)) => true,
            // The server keeps nothing until the client's confirmation, and may find itself full then.
            (Reason::Busy, State::Absent) => self.was_busy[peer.host],
            (Reason::TooManyFlows, State::Absent) => self.max_flows < 1024,
            (Reason::UnknownFlow, State::Ended(_) | State::Absent) => true,
            _ => false,
        };
        if !truthful {
            self.violate(
                "reason",
                format!("{place:?} ends with {reason:?}, but the peer is {:?}", peer.state),
            );
        }
        self.enter(place, State::Ended(End::Reset(reason)));
    }

    /// `close` was called.
    pub(crate) fn on_close(&mut self, place: Place) {
        self.side(place).closed = true;
        self.enter(place, State::Closing);
    }

    /// `reset` was called, or the host died.
    pub(crate) fn on_gone(&mut self, place: Place, end: End) {
        if end == End::Aborted {
            self.totals.aborted += 1;
        }
        self.enter(place, State::Ended(end));
    }
}
