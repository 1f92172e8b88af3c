//! All tenants of one engine: who sits where, which flow is whose, who listens. The protocol core reaches applications
//! through it ([`Payload`]), and it keeps tenants apart: what one does wrong is noted against that one only.

mod listeners;

use crate::bridge::Bridges;
use crate::counters::{Counter, Counters};
use crate::neighbours::Neighbours;
use crate::proto::time::Instant;
use crate::proto::{Event, FlowId, Limits, Listening, Payload, Reason, RxHandle, TxHandle};
use crate::tenant::{FlowSlot, Link, Tenant};
use crate::wire::header::WINDOW_UNIT;
use machnet_client::shm::Geometry;
use machnet_client::shm::layout::{FlowInfo, receive_kind};
use machnet_client::shm::ring::{PeerFault, SlotHead};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Why a tenant takes no part any more but to have its flows closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaveCause {
    /// Its process died or its socket hung up.
    Gone,
    /// It asked to be detached, and waits.
    Detached,
    /// The sidecar shuts down.
    Shutdown,
}

/// A tenant on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// Why.
    pub cause: LeaveCause,
    /// When flows that are still not closed are reset.
    pub deadline: Instant,
}

impl Leaving {
    /// Whether the sidecar wants it, and not the application.
    pub fn is_shutdown(&self) -> bool {
        self.cause == LeaveCause::Shutdown
    }
}

/// A flow of another tenant that has a message for a tenant without room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocked {
    pub(crate) tenant: u32,
    pub(crate) flow: FlowSlot,
}

/// One tenant with what its engine notes about it.
#[derive(Debug)]
pub struct Seat {
    /// The tenant.
    pub tenant: Tenant,
    /// Tells it from an earlier tenant of the same seat.
    pub(crate) generation: u32,
    /// Something is to be published.
    touched: bool,
    /// Polled in each cycle; else armed, and woken by its doorbell.
    pub(crate) polled: bool,
    /// In the list of those that are looked at from time to time because they tell nobody of their progress.
    pub(crate) in_backlog: bool,
    /// The rule that it broke.
    pub(crate) fault: Option<PeerFault>,
    pub(crate) leaving: Option<Leaving>,
    /// Flows that did not end.
    pub(crate) live_flows: u32,
    /// Empty looks since something was found.
    pub(crate) empty_looks: u32,
    /// When something was last found.
    pub(crate) last_found: Instant,
    /// Flows of others that wait for room here.
    pub(crate) blocked: Vec<Blocked>,
}

/// A channel that listens on a port.
#[derive(Clone, Copy, Debug)]
struct Listener {
    tenant: u32,
    id: u32,
    backlog: u32,
    waiting: u32,
}

/// Whose a flow of the protocol core is.
#[derive(Clone, Copy, Debug)]
struct Route {
    flow: FlowId,
    tenant: u32,
    slot: FlowSlot,
}

/// The tenants of one engine.
#[derive(Debug)]
pub struct Host {
    own: SocketAddr,
    seats: Vec<Option<Box<Seat>>>,
    free_seats: Vec<u32>,
    generation: u32,
    routes: Vec<Option<Route>>,
    /// Who listens where. Several channels may share a port one day (pre-fork servers); the controller allows one now.
    listeners: HashMap<u16, Vec<Listener>>,
    listener_ports: HashMap<u32, u16>,
    /// Who listens on another engine of this sidecar: port to engine and listener.
    directory: HashMap<u16, (u8, u32)>,
    channels: HashMap<u64, u32>,
    next_ephemeral: u16,
    /// The other engines, if there are any.
    pub(crate) neighbours: Option<Neighbours>,
    /// Flows to their applications.
    pub(crate) bridges: Bridges,
    /// Counters of this engine.
    pub counters: Counters,
    /// Tenants to publish for.
    pub(crate) touched: Vec<u32>,
    /// Tenants to take from in each cycle.
    pub(crate) polled: Vec<u32>,
    /// Tenants that broke a rule, to be ended.
    pub(crate) faulted: Vec<u32>,
    /// Tenants that had refused room and have some again.
    pub(crate) relieved: Vec<u32>,
    /// Kept to be used again by [`Host::relay_blocked`].
    pub(crate) scratch: Vec<Blocked>,
    /// The time of this duty cycle.
    pub(crate) now: Instant,
}

/// What a tenant's channel can take, as peers are told.
pub fn limits(geometry: &Geometry) -> Limits {
    let half_pool = u64::from(geometry.rx_buffers) * u64::from(geometry.buffer_bytes) / 2;
    // What is told of it is rounded down to whole units. With one more, whoever holds one of the largest messages of the default
    // sizes, as a loop does whose variable keeps the last one, still receives the next.
    let window_bytes = u32::try_from(half_pool + WINDOW_UNIT).unwrap_or(u32::MAX);
    Limits {
        max_message: geometry.max_receive(),
        window_messages: geometry.receive_slots / 2,
        window_bytes: window_bytes.max(geometry.max_receive()),
    }
}

const FIRST_EPHEMERAL_PORT: u16 = 32_768;

impl Host {
    /// No tenants; `own` is the sidecar's IP address and UDP port.
    pub fn new(own: SocketAddr) -> Self {
        Self {
            own,
            seats: Vec::new(),
            free_seats: Vec::new(),
            generation: 0,
            routes: Vec::new(),
            listeners: HashMap::new(),
            listener_ports: HashMap::new(),
            directory: HashMap::new(),
            channels: HashMap::new(),
            next_ephemeral: FIRST_EPHEMERAL_PORT,
            neighbours: None,
            bridges: Bridges::default(),
            counters: Counters::default(),
            touched: Vec::new(),
            polled: Vec::new(),
            faulted: Vec::new(),
            relieved: Vec::new(),
            scratch: Vec::new(),
            now: Instant::ZERO,
        }
    }

    /// One of several engines: `neighbours` are its ends of the queues between them.
    pub(crate) fn join(&mut self, neighbours: Neighbours) {
        self.next_ephemeral = FIRST_EPHEMERAL_PORT + u16::from(neighbours.engine());
        self.neighbours = Some(neighbours);
    }

    /// Which of the sidecar's engines this is.
    pub fn engine(&self) -> u32 {
        self.neighbours.as_ref().map_or(0, |neighbours| u32::from(neighbours.engine()))
    }

    /// The sidecar's IP address.
    pub fn own_ip(&self) -> IpAddr {
        self.own.ip()
    }

    /// The sidecar's IP address and UDP port.
    pub fn own_address(&self) -> SocketAddr {
        self.own
    }

    /// Seats a tenant. Answers its place.
    pub fn seat(&mut self, tenant: Tenant) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let channel = tenant.identity().channel;
        let seat = Box::new(Seat {
            tenant,
            generation: self.generation,
            touched: false,
            polled: false,
            in_backlog: false,
            fault: None,
            leaving: None,
            live_flows: 0,
            empty_looks: 0,
            last_found: self.now,
            blocked: Vec::new(),
        });
        let index = match self.free_seats.pop() {
            Some(index) => {
                self.seats[index as usize] = Some(seat);
                index
            }
            None => {
                self.seats.push(Some(seat));
                u32::try_from(self.seats.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.channels.insert(channel, index);
        self.counters.count(Counter::ChannelsAttached);
        index
    }

    /// Takes a tenant, whose flows have all ended, away with its listeners.
    pub fn unseat(&mut self, index: u32) -> Option<Box<Seat>> {
        self.forget_listeners(index);
        let seat = self.seats.get_mut(index as usize)?.take()?;
        assert!(seat.live_flows == 0, "a tenant leaves after its flows");
        self.channels.remove(&seat.tenant.identity().channel);
        self.free_seats.push(index);
        for list in [&mut self.touched, &mut self.polled, &mut self.faulted, &mut self.relieved] {
            list.retain(|&other| other != index);
        }
        self.counters.count(Counter::ChannelsEnded);
        Some(seat)
    }

    /// The tenant of a channel.
    pub fn find(&self, channel: u64) -> Option<u32> {
        self.channels.get(&channel).copied()
    }

    /// A tenant that may be gone.
    #[inline]
    pub fn get(&mut self, index: u32) -> Option<&mut Seat> {
        self.seats.get_mut(index as usize)?.as_deref_mut()
    }

    /// A tenant that is there: links and routes name no other.
    #[inline]
    pub fn at(&mut self, index: u32) -> &mut Seat {
        self.seats[index as usize].as_deref_mut().expect("links and routes name seated tenants")
    }

    /// The same, to look at.
    #[inline]
    pub fn look(&self, index: u32) -> &Seat {
        self.seats[index as usize].as_deref().expect("links and routes name seated tenants")
    }

    /// As [`Self::at`], with the engine's counters beside it.
    #[inline]
    pub(crate) fn at_with_counters(&mut self, index: u32) -> (&mut Seat, &mut Counters) {
        let seat = self.seats[index as usize].as_deref_mut().expect("links and routes name seated tenants");
        (seat, &mut self.counters)
    }

    /// Every tenant with its place.
    pub fn seats(&self) -> impl Iterator<Item = (u32, &Seat)> {
        let with_index = |(index, seat): (usize, &'_ Option<Box<Seat>>)| {
            seat.is_some().then(|| u32::try_from(index).ok()).flatten()
        };
        self.seats
            .iter()
            .enumerate()
            .filter_map(with_index)
            .filter_map(|index| Some((index, self.seats[index as usize].as_deref()?)))
    }

    /// How many tenants there are.
    pub fn seats_len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is no tenant.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Something is to be published for this tenant at the end of the cycle.
    #[inline]
    pub fn touch(&mut self, index: u32) {
        let seat = self.at(index);
        if !seat.touched {
            seat.touched = true;
            self.touched.push(index);
        }
    }

    /// Publishes what was gathered for one touched tenant.
    #[inline]
    pub(crate) fn publish(&mut self, index: u32) {
        let Some(seat) = self.get(index) else { return };
        seat.touched = false;
        // One that is armed is not looked at until it rings: nothing waits for a better moment.
        let result = if seat.polled { seat.tenant.publish() } else { seat.tenant.settle() };
        let relieved = seat.tenant.take_relief();
        match result {
            Ok(true) => self.counters.count(Counter::Rings),
            Ok(false) => {}
            Err(fault) => self.fault(index, fault),
        }
        if relieved {
            self.relieved.push(index);
        }
    }

    /// Publishes all that is known for one tenant, worth it or not.
    pub(crate) fn settle(&mut self, index: u32) {
        match self.at(index).tenant.settle() {
            Ok(true) => self.counters.count(Counter::Rings),
            Ok(false) => {}
            Err(fault) => self.fault(index, fault),
        }
    }

    /// Polls the tenant in each cycle from now on: it has something to say, or is likely to answer soon.
    #[inline]
    pub(crate) fn wake(&mut self, index: u32) {
        let now = self.now;
        let seat = self.at(index);
        (seat.empty_looks, seat.last_found) = (0, now);
        if !seat.polled && seat.leaving.is_none() {
            seat.polled = true;
            seat.tenant.disarm();
            self.polled.push(index);
        }
    }

    /// Notes that the tenant broke a rule. It is ended at the end of the cycle, and takes no part until then.
    #[cold]
    pub(crate) fn fault(&mut self, index: u32, fault: PeerFault) {
        let seat = self.at(index);
        if seat.fault.is_none() {
            seat.fault = Some(fault);
            self.faulted.push(index);
        }
    }

    /// A number for our end of a new connection, which no other engine gives: each takes every so manyth.
    pub(crate) fn ephemeral_address(&mut self) -> SocketAddr {
        let port = self.next_ephemeral;
        let (engine, engines) = self.neighbours.as_ref().map_or((0, 1), |n| (n.engine(), n.engines()));
        let step = u16::try_from(engines).unwrap_or(1);
        let first = FIRST_EPHEMERAL_PORT + u16::from(engine);
        self.next_ephemeral = port.checked_add(step).unwrap_or(first);
        SocketAddr::new(self.own.ip(), port)
    }

    /// Opens a flow of a tenant if its table has room.
    pub(crate) fn open_flow(&mut self, index: u32, link: Link, info: FlowInfo) -> Option<FlowSlot> {
        let seat = self.at(index);
        let slot = seat.tenant.open_flow(link, info)?;
        seat.live_flows += 1;
        if let Link::Remote(flow) = link {
            self.set_route(flow, index, slot);
        }
        Some(slot)
    }

    fn set_route(&mut self, flow: FlowId, tenant: u32, slot: FlowSlot) {
        let place = flow.index() as usize;
        if place >= self.routes.len() {
            self.routes.resize(place + 1, None);
        }
        self.routes[place] = Some(Route { flow, tenant, slot });
    }

    /// Whose a flow of the protocol core is.
    #[inline]
    pub(crate) fn route(&self, flow: FlowId) -> Option<(u32, FlowSlot)> {
        match self.routes.get(flow.index() as usize)? {
            Some(route) if route.flow == flow => Some((route.tenant, route.slot)),
            _ => None,
        }
    }

    /// A flow ended: its link, route and place in a backlog are given up. The application is not told here.
    fn detach_flow(&mut self, index: u32, slot: FlowSlot) {
        let seat = self.at(index);
        let flow = seat.tenant.flow(slot);
        let (link, unaccepted) = (flow.link, flow.unaccepted.take());
        assert!(link != Link::Ended, "a flow ends once");
        flow.blocked = false;
        seat.live_flows -= 1;
        if let Link::Bridge(bridge) = link {
            self.forget_bridge(bridge);
        }
        // Never another flow's route: the core may have given the place to a later one, of a neighbour.
        if let Link::Remote(flow) = link
            && let Some(place) = self.routes.get_mut(flow.index() as usize)
            && place.is_some_and(|route| route.flow == flow)
        {
            *place = None;
        }
        if let Some(listener) = unaccepted {
            self.accepted(listener);
        }
    }

    /// Ends a flow and tells its application. `kind` is of [`receive_kind`], `reason` a reason's code or 0.
    pub(crate) fn end_flow(&mut self, index: u32, slot: FlowSlot, kind: u8, reason: u16) {
        self.detach_flow(index, slot);
        self.at(index).tenant.end_flow(slot, kind, reason);
        self.touch(index);
        self.wake(index);
    }

    /// Ends a flow whose connect failed and tells its application.
    pub(crate) fn fail_connect(&mut self, index: u32, slot: FlowSlot, reason: u16) {
        self.detach_flow(index, slot);
        let tenant = &mut self.at(index).tenant;
        match tenant.flow(slot).end_connecting() {
            Some(request) => tenant.fail_connect(slot, request, reason),
            None => tenant.end_flow(slot, receive_kind::RESET, reason),
        }
        self.touch(index);
        self.wake(index);
    }

    /// Takes back a flow of which the application was not told yet.
    pub(crate) fn abandon_flow(&mut self, index: u32, slot: FlowSlot) {
        self.detach_flow(index, slot);
        self.at(index).tenant.abandon(slot);
    }

    /// Tells a listener's tenant of a flow that arrived.
    pub(crate) fn announce(&mut self, index: u32, slot: FlowSlot, port: u16, listener: u32) {
        if let Some(list) = self.listeners.get_mut(&port)
            && let Some(entry) = list.iter_mut().find(|entry| entry.id == listener)
        {
            entry.waiting += 1;
        }
        let tenant = &mut self.at(index).tenant;
        let flow = tenant.flow(slot);
        flow.unaccepted = Some(listener);
        let (info, handle) = (flow.info, tenant.handle(slot));
        let head = SlotHead { kind: receive_kind::ACCEPTED, count: 0, length: 0 };
        tenant.tell(head, handle, listener, &info.to_words());
        self.counters.count(Counter::Accepts);
        self.touch(index);
        self.wake(index);
    }

    /// Tells a tenant that its connect succeeded.
    pub(crate) fn announce_connected(&mut self, index: u32, slot: FlowSlot, max_message: u32) {
        let tenant = &mut self.at(index).tenant;
        let handle = tenant.handle(slot);
        let flow = tenant.flow(slot);
        flow.info.max_message = max_message;
        let (info, request) = (flow.info, flow.end_connecting());
        let head = SlotHead { kind: receive_kind::CONNECTED, count: 0, length: 0 };
        tenant.tell(head, handle, request.unwrap_or(0), &info.to_words());
        self.touch(index);
        self.wake(index);
    }

    /// Tells the application what the protocol core says about one of its flows.
    pub fn on_event(&mut self, event: Event) {
        let (Event::Connected { flow, .. }
        | Event::ConnectFailed { flow, .. }
        | Event::Closed { flow, .. }
        | Event::Finished { flow }
        | Event::Reset { flow, .. }) = event;
        let Some((index, slot)) = self.route(flow) else { return };
        match event {
            Event::Connected { peer, .. } => self.announce_connected(index, slot, peer.max_message),
            Event::ConnectFailed { reason, .. } => self.fail_connect(index, slot, reason as u16),
            Event::Closed { .. } => self.end_flow(index, slot, receive_kind::CLOSED, 0),
            Event::Finished { .. } => {
                // The sidecar itself closed the flow to shut down: its application did not ask for it.
                if self.look(index).leaving.is_some_and(|leaving| leaving.is_shutdown()) {
                    self.end_flow(index, slot, receive_kind::RESET, Reason::ShuttingDown as u16);
                } else {
                    self.end_flow(index, slot, receive_kind::FINISHED, 0);
                }
            }
            Event::Reset { reason, .. } => self.end_flow(index, slot, receive_kind::RESET, reason as u16),
        }
    }

    /// A tenant that takes part, by flow.
    #[inline]
    fn taker(&mut self, flow: FlowId) -> Option<(u32, FlowSlot, &mut Tenant)> {
        let (index, slot) = self.route(flow)?;
        let seat = self.at(index);
        seat.fault.is_none().then_some((index, slot, &mut seat.tenant))
    }

    /// Puts messages into the receive ring of the tenant whose flow it is, each by `put`, until one is not taken. Answers
    /// how many were.
    #[inline]
    fn deliver_by<M>(
        &mut self,
        flow: FlowId,
        messages: impl Iterator<Item = M>,
        put: impl Fn(&mut Tenant, FlowSlot, M) -> Result<bool, PeerFault>,
    ) -> u32 {
        let Some((index, slot)) = self.route(flow) else { return 0 };
        let now = self.now;
        let seat = self.at(index);
        if seat.fault.is_some() {
            return 0;
        }
        let (mut taken, mut result) = (0, Ok(true));
        for message in messages {
            result = put(&mut seat.tenant, slot, message);
            if result != Ok(true) {
                break;
            }
            taken += 1;
        }
        // Also of a refusal, so that it is noticed as backlog.
        let touched = std::mem::replace(&mut seat.touched, true);
        let mut polled = true;
        if taken > 0 {
            // It is likely to answer soon.
            (seat.empty_looks, seat.last_found) = (0, now);
            polled = seat.polled;
        }
        if !touched {
            self.touched.push(index);
        }
        if !polled {
            self.wake(index);
        }
        self.counters.add(Counter::MessagesDelivered, u64::from(taken));
        match result {
            Ok(true) => {}
            Ok(false) => self.counters.count(Counter::NoRoom),
            Err(fault) => self.fault(index, fault),
        }
        taken
    }

    /// The tenant whose flow it is, and has messages that the core sends.
    #[inline]
    pub(crate) fn sender(&self, flow: FlowId) -> &Tenant {
        let (index, _) = self.route(flow).expect("the core sends messages of flows that have not ended");
        &self.look(index).tenant
    }
}

impl Payload for Host {
    fn listening(&mut self, port: u16) -> Listening {
        if let Some(engine) = self.listening_engine(port) {
            return Listening::Elsewhere(engine);
        }
        match self.find_listener(port) {
            Ok((tenant, _)) => Listening::Open(limits(self.look(tenant).tenant.geometry())),
            Err(Reason::Busy) => Listening::Busy,
            Err(_) => Listening::Nobody,
        }
    }

    fn accept(&mut self, flow: FlowId, port: u16, from: SocketAddr, peer: Limits) -> Result<(), Reason> {
        let (index, listener) = self.find_listener(port)?;
        let info = FlowInfo {
            peer: from,
            local: SocketAddr::new(self.own.ip(), port),
            max_message: peer.max_message,
            credit: self.look(index).tenant.geometry().flow_credit,
        };
        let slot = self.open_flow(index, Link::Remote(flow), info).ok_or(Reason::Busy)?;
        self.announce(index, slot, port, listener);
        Ok(())
    }

    fn reserve(&mut self, flow: FlowId, len: u32, in_order: bool) -> Option<RxHandle> {
        let (index, slot, tenant) = self.taker(flow)?;
        let room = tenant.reserve(slot, len, in_order).map(RxHandle);
        if room.is_none() {
            self.counters.count(Counter::NoRoom);
            self.touch(index);
        }
        room
    }

    #[inline]
    fn keep(&mut self, flow: FlowId, message: RxHandle, offset: u32, bytes: &[u8]) {
        if let Some((_, _, tenant)) = self.taker(flow) {
            tenant.keep(message.0, offset, bytes);
        }
    }

    fn deliver(&mut self, flow: FlowId, message: RxHandle) -> bool {
        self.deliver_by(flow, std::iter::once(message), |tenant, _, message| tenant.deliver(message.0)) == 1
    }

    #[inline]
    fn deliver_whole(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        self.deliver_by(flow, std::iter::once(bytes), Tenant::deliver_whole) == 1
    }

    #[inline]
    fn deliver_all<'a>(&mut self, flow: FlowId, messages: impl Iterator<Item = &'a [u8]>) -> u32 {
        self.deliver_by(flow, messages, Tenant::deliver_whole)
    }

    fn discard(&mut self, flow: FlowId, message: RxHandle) {
        if let Some((index, _)) = self.route(flow) {
            self.at(index).tenant.discard(message.0);
            self.touch(index);
        }
    }

    #[inline]
    fn acknowledged(&mut self, flow: FlowId, message: TxHandle) {
        self.acknowledged_all(flow, std::iter::once(message));
    }

    #[inline]
    fn acknowledged_all(&mut self, flow: FlowId, messages: impl Iterator<Item = TxHandle>) {
        if let Some((index, slot)) = self.route(flow) {
            let tenant = &mut self.at(index).tenant;
            tenant.acknowledged(slot, messages.map(|message| message.0));
            self.touch(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_one_of_the_largest_messages_can_receive_another_wherever_the_window_stands() {
        let limits = limits(&Geometry::DEFAULT);
        let largest = u64::from(limits.max_message);
        for returned in [0, 1, 1_000_000, WINDOW_UNIT - 1, WINDOW_UNIT] {
            let told = (returned + u64::from(limits.window_bytes)) / WINDOW_UNIT * WINDOW_UNIT;
            assert!(told - returned >= 2 * largest, "after {returned} bytes");
        }
    }
}
