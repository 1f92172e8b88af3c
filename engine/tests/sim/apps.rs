//! The applications: they connect, send, read at their own speed, close and abort.

use crate::mutant::Mutation;
use crate::oracle::{End, Place, State};
use crate::scenario::{CLOSED_PORT, ConnectionPlan, Ending, Reader, SidePlan, US};
use crate::tenancy::{Outgoing, Tenancy, Waiting};
use crate::world::{Happening, World, address, nobody};
use machnet_engine::proto::time::Duration;
use machnet_engine::proto::{FlowId, Reason, SendError};
use std::collections::VecDeque;

/// Messages that one wake-up sends before others get their turn.
const SENDS_AT_ONCE: usize = 16;

/// The application at one end of a connection.
#[derive(Debug)]
pub(crate) struct App {
    /// Lengths still to send.
    pub(crate) queue: VecDeque<u32>,
    interval_ns: u64,
    next_ns: u64,
    pipeline: Option<u32>,
    /// Sends only answers.
    replies: bool,
    pub(crate) reader: Reader,
    pub(crate) inbox: VecDeque<Waiting>,
    reads: u32,
    /// How many messages the peer plans.
    expected: u32,
    /// The server took the flow from the backlog; a client always has.
    pub(crate) accepted: bool,
    ending: Ending,
    send_pending: bool,
    read_pending: bool,
    /// When the application last was the reason that its peer waits.
    pub(crate) excused_ns: u64,
}

impl App {
    /// Both ends of a connection.
    pub(crate) fn pair(plan: &ConnectionPlan) -> [Self; 2] {
        let make = |own: &SidePlan, peer: &SidePlan, client: bool| Self {
            queue: own.sizes.iter().copied().collect(),
            interval_ns: own.interval_ns,
            next_ns: 0,
            pipeline: own.pipeline,
            replies: peer.pipeline.is_some(),
            reader: own.reader,
            inbox: VecDeque::new(),
            reads: 0,
            expected: peer.sizes.len() as u32,
            accepted: client,
            ending: own.ending,
            send_pending: false,
            read_pending: false,
            excused_ns: 0,
        };
        let mut pair =
            [make(&plan.sides[0], &plan.sides[1], true), make(&plan.sides[1], &plan.sides[0], false)];
        for side in 0..2 {
            if pair[side].replies {
                // One answer for each question, whatever the kind made of the plan.
                let questions = pair[1 - side].queue.len();
                pair[side].queue.resize(questions, 100);
                pair[1 - side].expected = questions as u32;
            }
        }
        pair
    }

    /// When the application closes or aborts, if it plans a time.
    pub(crate) const fn stops_at_ns(&self) -> Option<u64> {
        match self.ending {
            Ending::CloseAt(at_ns) | Ending::AbortAt(at_ns) => Some(at_ns),
            Ending::Wait | Ending::CloseWhenSent | Ending::CloseWhenDone => None,
        }
    }

    /// The host died and the application with it.
    pub(crate) fn forget(&mut self) {
        self.queue.clear();
        self.inbox.clear();
    }

    /// Bytes of the pool that wait for the application.
    pub(crate) fn pool_bytes(&self) -> u64 {
        self.inbox.iter().map(|waiting| waiting.charge.pool).sum()
    }
}

impl World {
    /// The flow of a place and its engine, if the application may use it.
    fn open_flow(&mut self, place: Place) -> Option<(usize, FlowId)> {
        let side = self.oracle.side(place);
        let open = side.state == State::Open;
        side.flow.filter(|_| open).map(|flow| (side.unit, flow))
    }

    pub(crate) fn connect(&mut self, connection: usize) {
        let place = Place { connection, side: 0 };
        let plan = self.scenario.connections[connection].clone();
        let unit = self.client_unit(&plan);
        self.oracle.side(place).unit = unit;
        if self.units[unit].endpoint.is_none() {
            return self.oracle.on_gone(place, End::HostDied);
        }
        let to = plan.server.map_or_else(nobody, address);
        let ours = Tenancy::limits(&self.scenario.hosts[plan.client], connection);
        let timeout = Duration::from_nanos(plan.timeout_ns);
        // No event can come before the slot is known: `connect` has no payload.
        let now = self.clock(unit);
        let machine = &mut self.units[unit];
        let Some(endpoint) = machine.endpoint.as_mut() else { return };
        match endpoint.connect(now, to, plan.port, ours, timeout) {
            Ok(flow) => {
                if let Err(text) = machine.tenancy.open(flow, place) {
                    self.oracle.violate("flow", text);
                }
                self.oracle.on_connecting(place, flow);
            }
            Err(reason) => {
                let flows = endpoint.flows();
                self.oracle.on_connect_refused_here(place, reason, flows);
            }
        }
        self.call(unit, |_, _, _| ());
    }

    pub(crate) fn accept(&mut self, place: Place) {
        let unit = self.oracle.side(place).unit;
        let backlog = &mut self.units[unit].tenancy.backlog;
        *backlog = backlog.saturating_sub(1);
        self.app(place).accepted = true;
        self.wake_sender(place, self.now_ns());
        self.wake_reader(place);
    }

    pub(crate) fn wake_sender(&mut self, place: Place, at_ns: u64) {
        if !self.app(place).send_pending {
            self.app(place).send_pending = true;
            self.at(at_ns, Happening::Send(place));
        }
    }

    fn wake_reader(&mut self, place: Place) {
        let app = self.app(place);
        if app.read_pending || app.inbox.is_empty() || !app.accepted {
            return;
        }
        let delay_ns = match app.reader {
            Reader::Prompt => self.dice.between(0, 20 * US),
            Reader::Slow(delay_ns) => delay_ns,
            Reader::Late => return,
        };
        self.app(place).read_pending = true;
        self.at(self.now_ns() + delay_ns, Happening::Read(place));
    }

    pub(crate) fn on_delivery(&mut self, place: Place, waiting: Waiting) {
        self.app(place).inbox.push_back(waiting);
        self.wake_reader(place);
    }

    pub(crate) fn everybody_reads(&mut self) {
        for connection in 0..self.apps.len() {
            for side in 0..2 {
                let place = Place { connection, side };
                if self.app(place).reader != Reader::Prompt {
                    self.oracle.totals.unread_pauses += 1;
                    self.app(place).reader = Reader::Prompt;
                    self.wake_reader(place);
                }
            }
        }
    }

    /// Whether the application has a message that it may send now. Plans the next try if only time is missing.
    fn may_send(&mut self, place: Place) -> bool {
        let sent = self.oracle.side(place).sent.len() as u32;
        let now_ns = self.now_ns();
        let app = self.app(place);
        if app.queue.is_empty() || !app.accepted || (app.replies && sent >= app.reads) {
            return false;
        }
        if app.pipeline.is_some_and(|most| sent - app.reads.min(sent) >= most) {
            return false;
        }
        if app.next_ns > now_ns {
            let next_ns = app.next_ns;
            self.wake_sender(place, next_ns);
            return false;
        }
        true
    }

    pub(crate) fn send(&mut self, place: Place) {
        self.app(place).send_pending = false;
        for _ in 0..SENDS_AT_ONCE {
            if self.open_flow(place).is_none() || !self.may_send(place) {
                return self.maybe_close(place);
            }
            if !self.send_one(place) {
                return;
            }
        }
        self.wake_sender(place, self.now_ns() + US);
    }

    /// Gives the next message to the endpoint. False if there is no credit.
    fn send_one(&mut self, place: Place) -> bool {
        let Some((unit, flow)) = self.open_flow(place) else { return false };
        let limit = self.oracle.connections[place.connection].limits[1 - place.side].max_message;
        let outstanding = self.oracle.side(place).sent.len() as u32 - self.oracle.side(place).acknowledged;
        let most = self.scenario.max_outstanding;
        if self.dice.chance(20_000) {
            self.try_wrong_size(place, unit, flow, limit, outstanding);
        }
        let Some(len) = self.app(place).queue.front().map(|len| (*len).min(limit)) else { return false };
        let handle = self.units[unit].tenancy.next_handle();
        let taken = self.call(unit, |endpoint, now, _| endpoint.send(now, flow, handle, len));
        match taken {
            Some(Ok(())) if outstanding < most => {
                let number = self.oracle.on_sent(place, len);
                self.units[unit].tenancy.outgoing.push(Outgoing { place, number, len, lent: true });
                if self.mutant.strikes(Mutation::EarlyAcknowledgement) {
                    self.oracle.on_acknowledged(place, number);
                }
                let now_ns = self.now_ns();
                let app = self.app(place);
                app.queue.pop_front();
                app.next_ns = now_ns + app.interval_ns;
                true
            }
            Some(Err(SendError::NoCredit)) if outstanding >= most => {
                self.oracle.totals.no_credit += 1;
                false
            }
            // The peer closed and takes nothing more; the end comes when everything it sent was read.
            Some(Err(SendError::UnknownFlow)) if self.oracle.side(place.peer()).closed => {
                self.app(place).queue.clear();
                false
            }
            other => {
                let text = format!(
                    "{place:?}: {len} bytes, {outstanding} of {most} outstanding, limit {limit}: {other:?}"
                );
                self.oracle.violate("send", text);
                false
            }
        }
    }

    fn try_wrong_size(&mut self, place: Place, unit: usize, flow: FlowId, limit: u32, outstanding: u32) {
        let len = if self.dice.chance(500_000) { 0 } else { limit + 1 };
        let handle = self.units[unit].tenancy.next_handle();
        let answer = self.call(unit, |endpoint, now, _| endpoint.send(now, flow, handle, len));
        let full = outstanding >= self.scenario.max_outstanding;
        let right = match answer {
            Some(Err(SendError::MessageSize)) => true,
            Some(Err(SendError::NoCredit)) => full,
            Some(Err(SendError::UnknownFlow)) => self.oracle.side(place.peer()).closed,
            _ => false,
        };
        if !right {
            self.oracle.violate("send", format!("{place:?}: {len} bytes, limit {limit}: {answer:?}"));
        }
    }

    pub(crate) fn read(&mut self, place: Place) {
        self.app(place).read_pending = false;
        let unit = self.oracle.side(place).unit;
        let most = match self.app(place).reader {
            Reader::Prompt => self.dice.between(1, 16) as usize,
            Reader::Slow(_) | Reader::Late => 1,
        };
        let app = self.app(place);
        let count = most.min(app.inbox.len());
        let taken: Vec<Waiting> = app.inbox.drain(..count).collect();
        app.reads += taken.len() as u32;
        let bytes: u64 = taken.iter().map(|waiting| u64::from(waiting.len)).sum();
        if let Some(flow) = self.oracle.side(place).flow.filter(|_| !taken.is_empty()) {
            for waiting in &taken {
                self.units[unit].tenancy.give_back(flow, waiting.len, waiting.charge);
            }
            if self.units[unit].tenancy.place(flow).is_some() {
                let messages = taken.len() as u32;
                self.call(unit, |endpoint, now, desk| endpoint.handle_room(now, flow, messages, bytes, desk));
            }
            self.room_came_home(unit);
        }
        self.wake_reader(place);
        self.wake_sender(place, self.now_ns());
    }

    /// Buffers came home: flows that were refused room may try again.
    pub(crate) fn room_came_home(&mut self, unit: usize) {
        if core::mem::take(&mut self.units[unit].tenancy.refused) {
            self.call(unit, |endpoint, now, desk| endpoint.handle_pool_room(now, desk));
        }
    }

    fn maybe_close(&mut self, place: Place) {
        let app = self.app(place);
        let sent = app.queue.is_empty() && app.accepted;
        let closes = match app.ending {
            Ending::CloseWhenSent => sent,
            Ending::CloseWhenDone => sent && app.reads >= app.expected,
            Ending::Wait | Ending::CloseAt(_) | Ending::AbortAt(_) => false,
        };
        if closes && self.open_flow(place).is_some() {
            self.close(place);
        }
    }

    /// Closes in order.
    pub(crate) fn close(&mut self, place: Place) {
        let side = self.oracle.side(place);
        let (unit, side_state) = (side.unit, side.state);
        let Some(flow) = side.flow else { return };
        self.app(place).queue.clear();
        // A connect without an answer is given up without an event.
        let gives_up = side_state == State::Connecting;
        if gives_up {
            self.oracle.on_gone(place, End::Aborted);
        } else {
            self.oracle.on_close(place);
        }
        self.call(unit, |endpoint, now, desk| endpoint.close(now, flow, desk));
        if gives_up {
            self.check_handles_home(unit, place, flow);
        }
    }

    /// The time of a planned close or abort has come.
    pub(crate) fn stop(&mut self, place: Place) {
        let side = self.oracle.side(place);
        let (unit, state) = (side.unit, side.state);
        let (Some(flow), State::Connecting | State::Open) = (side.flow, state) else { return };
        if !matches!(self.app(place).ending, Ending::AbortAt(_)) {
            return self.close(place);
        }
        self.app(place).queue.clear();
        self.oracle.on_gone(place, End::Aborted);
        self.call(unit, |endpoint, now, desk| endpoint.reset(now, flow, Reason::Aborted, desk));
        self.check_handles_home(unit, place, flow);
        self.room_came_home(unit);
    }

    /// Whether a connection's server would ever be asked.
    pub(crate) fn has_listener(&self, connection: usize) -> bool {
        let plan = &self.scenario.connections[connection];
        plan.server.is_some() && plan.port != CLOSED_PORT
    }
}
