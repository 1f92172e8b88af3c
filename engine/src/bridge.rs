//! Two applications of one host whose channels are on different engines: whole messages go from one engine to the other over
//! a bounded queue, and are copied once, from the sender's TX buffers to the receiver's RX buffers.
//!
//! It is [`crate::relay`] with a queue in the middle: the same flows, credit, events and counters. No engine touches another
//! engine's tenants. The sender's engine keeps its messages, and so the TX buffers, until the other says that they are taken,
//! or that it will touch them no more; a message that finds no room waits with the receiver's engine, in order, at most as
//! many as the sender's credit allows.
//!
//! ```text
//!   client's engine                      server's engine
//!        | Open ------------------------------> |        a listener is there: the flow is accepted
//!        | <------------------ Opened / Refused |
//!        | Message, Message, ... -------------> |
//!        | <------------------------- Taken(2)  |        credit comes back
//!        | End(close) ------------------------> |        behind all messages
//!        | <---------------------------- Gone   |        it has everything, and forgets the flow
//! ```

use crate::counters::Counter;
use crate::host::{Blocked, Host};
use crate::neighbours::Neighbours;
use crate::proto::Reason;
use crate::tenant::{FlowSlot, Link, Outgoing};
use machnet_client::shm::layout::{ConnectRequest, FlowInfo, receive_kind};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// One end of a bridged flow, by its place in the table of its engine. The generation makes the name of an end that is gone
/// answer "unknown".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct BridgeId {
    index: u32,
    generation: u32,
}

/// How an end was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// In order.
    Close,
    /// At once.
    Reset(Reason),
}

/// What one engine tells another.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// An application connects to a listener of the other engine.
    Open { client: BridgeId, port: u16, from: SocketAddr, max_message: u32 },
    /// The flow is there.
    Opened { client: BridgeId, server: BridgeId, max_message: u32 },
    /// It is not.
    Refused { client: BridgeId, reason: Reason },
    /// A message. The sender's engine keeps its bytes where they are.
    Message { to: BridgeId, message: Outgoing },
    /// So many messages more are delivered: their bytes are needed no longer.
    Taken { to: BridgeId, messages: u32 },
    /// The other end was given up.
    End { to: BridgeId, how: Ending },
    /// The answer: this end is gone as well. `took_all`: every message was delivered.
    Gone { to: BridgeId, took_all: bool },
    /// The sidecar ends, and everything that applications of this engine had sent until then was before this.
    ShuttingDown,
}

/// Our end of a flow to another engine's application.
#[derive(Debug)]
pub(crate) struct Bridge {
    id: BridgeId,
    tenant: u32,
    slot: FlowSlot,
    engine: u8,
    /// The other end, once it is known.
    theirs: Option<BridgeId>,
    /// The last message that was sent over and is not taken yet.
    last_shipped: Option<u32>,
    /// Messages sent over and not taken.
    shipped: u32,
    /// It stands in the list of those that wait for the other engine's queue.
    stalled: bool,
    /// We said that our end is given up: from then on nothing of the other one's memory is looked at.
    ended: bool,
    /// The reason with which our application is to be told, if it wanted a reset.
    reset: Option<Reason>,
    /// Messages that our application has no room for.
    inbox: VecDeque<Outgoing>,
    /// Some were thrown away, because our application closes.
    dropped_some: bool,
    /// Messages delivered that the other engine was not told of.
    untold: u32,
    /// The other end was closed behind what is in the inbox.
    end_waits: bool,
}

/// All ends of one engine.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    table: Vec<Option<Bridge>>,
    free: Vec<u32>,
    generation: u32,
    /// Those with deliveries to tell of.
    untold: Vec<BridgeId>,
    /// Those that have messages for a neighbour whose queue is full.
    stalled: VecDeque<BridgeId>,
    /// When the sidecar ends: whether the neighbours are to be told, and those that told us, one bit each.
    shutdown_untold: bool,
    shutting_down: u32,
}

impl Bridges {
    fn insert(&mut self, tenant: u32, engine: u8, theirs: Option<BridgeId>) -> BridgeId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            u32::try_from(self.table.len() - 1).unwrap_or(u32::MAX)
        });
        self.generation = self.generation.wrapping_add(1);
        let id = BridgeId { index, generation: self.generation };
        self.table[index as usize] = Some(Bridge {
            id,
            tenant,
            slot: FlowSlot::default(),
            engine,
            theirs,
            last_shipped: None,
            shipped: 0,
            stalled: false,
            ended: false,
            reset: None,
            inbox: VecDeque::new(),
            dropped_some: false,
            untold: 0,
            end_waits: false,
        });
        id
    }

    fn find(&mut self, id: BridgeId) -> Option<&mut Bridge> {
        self.table.get_mut(id.index as usize)?.as_mut().filter(|bridge| bridge.id == id)
    }

    /// One whose flow has not ended.
    fn at(&mut self, id: BridgeId) -> &mut Bridge {
        self.find(id).expect("a flow's bridge is there until the flow ends")
    }

    fn remove(&mut self, id: BridgeId) {
        if self.find(id).is_some() {
            self.table[id.index as usize] = None;
            self.free.push(id.index);
        }
    }

    /// Every end whose other end is on this engine.
    fn leading_to(&self, engine: u8) -> Vec<BridgeId> {
        self.table.iter().flatten().filter(|bridge| bridge.engine == engine).map(|bridge| bridge.id).collect()
    }

    /// The engine of the other end.
    pub(crate) fn engine_of(&self, id: BridgeId) -> Option<u8> {
        let bridge = self.table.get(id.index as usize)?.as_ref()?;
        (bridge.id == id).then_some(bridge.engine)
    }
}

impl Host {
    fn post(&mut self, engine: u8, parcel: Parcel) {
        self.neighbours.as_mut().expect("a bridge leads to a neighbour").post(engine, parcel);
    }

    /// Connects an application to one of another engine. The outcome is told later.
    pub(crate) fn connect_neighbour(&mut self, client: u32, request: u32, to: &ConnectRequest, engine: u8) {
        let address = self.ephemeral_address();
        let geometry = *self.look(client).tenant.geometry();
        // What the other can take is known with its answer.
        let info = FlowInfo { peer: to.remote, local: address, max_message: 0, credit: geometry.flow_credit };
        let id = self.bridges.insert(client, engine, None);
        let Some(slot) = self.open_flow(client, Link::Bridge(id), info) else {
            self.bridges.remove(id);
            self.at(client).tenant.refuse_connect(request, Reason::TooManyFlows as u16);
            return self.touch(client);
        };
        self.bridges.at(id).slot = slot;
        self.at(client).tenant.flow(slot).begin_connecting(request);
        let (port, max_message) = (to.remote.port(), geometry.max_receive());
        self.post(engine, Parcel::Open { client: id, port, from: address, max_message });
    }

    /// What another engine tells. Nothing is done for an end that is gone.
    pub(crate) fn handle_parcel(&mut self, from: u8, parcel: Parcel) {
        match parcel {
            Parcel::Open { client, port, from: address, max_message } => {
                if let Err(reason) = self.open_bridge(from, client, port, address, max_message) {
                    self.post(from, Parcel::Refused { client, reason });
                }
            }
            Parcel::Opened { client, server, max_message } => {
                let Some(bridge) = self.bridges.find(client) else {
                    // Our application left meanwhile.
                    let how = Ending::Reset(Reason::ApplicationGone);
                    return self.post(from, Parcel::End { to: server, how });
                };
                bridge.theirs = Some(server);
                let (tenant, slot) = (bridge.tenant, bridge.slot);
                self.announce_connected(tenant, slot, max_message);
            }
            Parcel::Refused { client, reason } => {
                if let Some(&mut Bridge { tenant, slot, .. }) = self.bridges.find(client) {
                    self.fail_connect(tenant, slot, reason as u16);
                }
            }
            Parcel::Message { to, message } => self.message_came(to, message),
            Parcel::Taken { to, messages } => self.messages_taken(to, messages),
            Parcel::End { to, how } => self.end_came(to, how),
            Parcel::Gone { to, took_all } => self.other_end_gone(to, took_all),
            Parcel::ShuttingDown => {
                self.bridges.shutting_down |= 1 << from;
                for id in self.bridges.leading_to(from) {
                    self.ship(id);
                }
            }
        }
    }

    fn open_bridge(
        &mut self,
        engine: u8,
        client: BridgeId,
        port: u16,
        from: SocketAddr,
        max_message: u32,
    ) -> Result<(), Reason> {
        let (server, listener) = self.find_listener(port)?;
        let geometry = *self.look(server).tenant.geometry();
        let local = SocketAddr::new(self.own_ip(), port);
        let info = FlowInfo { peer: from, local, max_message, credit: geometry.flow_credit };
        let id = self.bridges.insert(server, engine, Some(client));
        let Some(slot) = self.open_flow(server, Link::Bridge(id), info) else {
            self.bridges.remove(id);
            return Err(Reason::Busy);
        };
        self.bridges.at(id).slot = slot;
        self.announce(server, slot, port, listener);
        self.post(engine, Parcel::Opened { client, server: id, max_message: geometry.max_receive() });
        Ok(())
    }

    /// Sends what waits on a bridged flow to the other engine, in order, until there is no more or no room; behind the last
    /// goes a close that stood there.
    pub(crate) fn ship(&mut self, id: BridgeId) {
        let Some(&mut Bridge { tenant, slot, engine, theirs: Some(theirs), ended: false, .. }) =
            self.bridges.find(id)
        else {
            return;
        };
        while let Some(message) = self.next_to_ship(tenant, slot, id) {
            let neighbours = self.neighbours.as_mut().expect("a bridge leads to a neighbour");
            if !neighbours.has_room(engine) {
                neighbours.count_wait();
                let bridge = self.bridges.at(id);
                if !std::mem::replace(&mut bridge.stalled, true) {
                    self.bridges.stalled.push_back(id);
                }
                return;
            }
            let outgoing = self.look(tenant).tenant.outgoing(message);
            let bridge = self.bridges.at(id);
            bridge.last_shipped = Some(message);
            bridge.shipped += 1;
            self.post(engine, Parcel::Message { to: theirs, message: outgoing });
        }
        if self.look(tenant).tenant.look(slot).closing && self.may_say_end(tenant, engine) {
            self.tell_untold(id);
            let bridge = self.bridges.at(id);
            bridge.ended = true;
            bridge.dropped_some |= !bridge.inbox.is_empty();
            bridge.inbox.clear();
            self.post(engine, Parcel::End { to: theirs, how: Ending::Close });
        }
    }

    /// When the sidecar ends, what the other engine's applications sent before is delivered first.
    fn may_say_end(&self, tenant: u32, engine: u8) -> bool {
        let shuts_down = self.look(tenant).leaving.is_some_and(|leaving| leaving.is_shutdown());
        !shuts_down || self.bridges.shutting_down & 1 << engine != 0
    }

    /// The sidecar ends: the other engines are told as soon as all is sent that applications had published.
    pub(crate) fn shut_down_bridges(&mut self) {
        self.bridges.shutdown_untold = self.neighbours.is_some();
        self.tell_shutdown();
    }

    fn tell_shutdown(&mut self) {
        if !self.bridges.shutdown_untold || self.has_stalled() {
            return;
        }
        self.bridges.shutdown_untold = false;
        let Some(neighbours) = &self.neighbours else { return };
        let (own, engines) = (neighbours.engine(), u8::try_from(neighbours.engines()).unwrap_or(u8::MAX));
        for engine in (0..engines).filter(|&engine| engine != own) {
            self.post(engine, Parcel::ShuttingDown);
        }
    }

    fn next_to_ship(&mut self, tenant: u32, slot: FlowSlot, id: BridgeId) -> Option<u32> {
        let last = self.bridges.at(id).last_shipped;
        let tenant = &self.look(tenant).tenant;
        match last {
            Some(last) => tenant.sent_after(last),
            None => tenant.first_sent(slot),
        }
    }

    /// Neighbours may have room again for those that waited for it, each in turn.
    pub(crate) fn ship_stalled(&mut self) {
        for _ in 0..self.bridges.stalled.len() {
            let Some(id) = self.bridges.stalled.pop_front() else { return };
            if let Some(bridge) = self.bridges.find(id) {
                bridge.stalled = false;
                self.ship(id);
            }
        }
        self.tell_shutdown();
    }

    /// Whether something is still to be told to a neighbour that has no room for it.
    pub(crate) fn owes_neighbours(&self) -> bool {
        self.has_stalled() || self.neighbours.as_ref().is_some_and(Neighbours::has_waiting)
    }

    /// Whether flows wait for a neighbour's queue.
    #[inline]
    pub(crate) fn has_stalled(&self) -> bool {
        !self.bridges.stalled.is_empty()
    }

    /// Whether nothing is delivered to our end any more: its application closed it. When the sidecar ends, it closes all, and
    /// what was sent before is delivered still.
    fn is_deaf(&mut self, id: BridgeId) -> bool {
        let &mut Bridge { tenant, slot, ended, .. } = self.bridges.at(id);
        let seat = self.look(tenant);
        let shuts_down = seat.leaving.is_some_and(|leaving| leaving.is_shutdown());
        ended || seat.fault.is_some() || (seat.tenant.look(slot).closing && !shuts_down)
    }

    fn message_came(&mut self, id: BridgeId, message: Outgoing) {
        if self.bridges.find(id).is_none() {
            return;
        }
        if self.is_deaf(id) {
            self.bridges.at(id).dropped_some = true;
        } else if !self.bridges.at(id).inbox.is_empty() || !self.try_deliver(id, &message) {
            self.bridges.at(id).inbox.push_back(message);
        }
    }

    /// Puts a message into our application's receive ring. `false`: it has no room, and will be asked again.
    fn try_deliver(&mut self, id: BridgeId, message: &Outgoing) -> bool {
        let &mut Bridge { tenant, slot, .. } = self.bridges.at(id);
        let mut taken = self.at(tenant).tenant.deliver_local(slot, message);
        if taken == Ok(false) && self.look(tenant).tenant.has_events() {
            // No message overtakes an event, such as another flow's end that came just before.
            self.publish(tenant);
            taken = self.at(tenant).tenant.deliver_local(slot, message);
        }
        match taken {
            Ok(true) => {
                self.counters.count(Counter::MessagesRelayed);
                self.counters.count(Counter::MessagesDelivered);
                let bridge = self.bridges.at(id);
                bridge.untold += 1;
                if bridge.untold == 1 {
                    self.bridges.untold.push(id);
                }
                self.touch(tenant);
                self.wake(tenant);
                true
            }
            Ok(false) => {
                self.counters.count(Counter::NoRoom);
                let flow = self.at(tenant).tenant.flow(slot);
                if !flow.blocked {
                    flow.blocked = true;
                    self.at(tenant).blocked.push(Blocked { tenant, flow: slot });
                }
                // So that a full ring is noticed as backlog.
                self.touch(tenant);
                false
            }
            Err(fault) => {
                self.fault(tenant, fault);
                true // Its end is on its way.
            }
        }
    }

    /// Our application has room again. Answers how many messages were delivered.
    pub(crate) fn deliver_waiting(&mut self, id: BridgeId) -> u32 {
        let mut delivered = 0;
        while let Some(message) = self.bridges.find(id).and_then(|bridge| bridge.inbox.pop_front()) {
            if !self.try_deliver(id, &message) {
                self.bridges.at(id).inbox.push_front(message);
                return delivered;
            }
            delivered += 1;
        }
        self.complete_end(id);
        delivered
    }

    /// The other end was closed, and now all that stood before that is done with.
    fn complete_end(&mut self, id: BridgeId) {
        if let Some(bridge) = self.bridges.find(id)
            && bridge.end_waits
        {
            self.end_here(id, receive_kind::CLOSED, 0);
        }
    }

    /// Tells the other engine how many messages of a flow were delivered.
    fn tell_untold(&mut self, id: BridgeId) {
        let Some(bridge) = self.bridges.find(id) else { return };
        let messages = std::mem::take(&mut bridge.untold);
        let (engine, theirs) = (bridge.engine, bridge.theirs);
        if let Some(to) = theirs.filter(|_| messages > 0) {
            self.post(engine, Parcel::Taken { to, messages });
        }
    }

    /// Tells the other engines what was delivered in this cycle.
    #[inline]
    pub(crate) fn tell_taken(&mut self) {
        while let Some(id) = self.bridges.untold.pop() {
            self.tell_untold(id);
        }
    }

    fn messages_taken(&mut self, id: BridgeId, messages: u32) {
        let Some(bridge) = self.bridges.find(id) else { return };
        assert!(messages <= bridge.shipped, "an engine takes what it was sent");
        bridge.shipped -= messages;
        if bridge.shipped == 0 {
            bridge.last_shipped = None;
        }
        let (tenant, slot) = (bridge.tenant, bridge.slot);
        self.acknowledge_first(tenant, slot, messages);
    }

    fn acknowledge_first(&mut self, tenant: u32, slot: FlowSlot, messages: u32) {
        let channel = &mut self.at(tenant).tenant;
        for _ in 0..messages {
            let Some(first) = channel.first_sent(slot) else { break };
            channel.acknowledged(slot, std::iter::once(first));
        }
        self.touch(tenant);
    }

    /// The other end was given up.
    fn end_came(&mut self, id: BridgeId, how: Ending) {
        let Some(&mut Bridge { reset, .. }) = self.bridges.find(id) else { return };
        match (how, reset) {
            (Ending::Reset(reason), None) | (_, Some(reason)) => {
                self.end_here(id, receive_kind::RESET, reason as u16);
            }
            (Ending::Close, None) if self.is_deaf(id) || self.bridges.at(id).inbox.is_empty() => {
                self.end_here(id, receive_kind::CLOSED, 0);
            }
            (Ending::Close, None) => self.bridges.at(id).end_waits = true,
        }
    }

    /// Ends our end after the other one, and says so to that one's engine, if it waits for it.
    fn end_here(&mut self, id: BridgeId, kind: u8, reason: u16) {
        self.tell_untold(id);
        let bridge = self.bridges.at(id);
        let &mut Bridge { tenant, slot, engine, theirs, ended, .. } = bridge;
        let took_all = !bridge.dropped_some && bridge.inbox.is_empty();
        if let Some(to) = theirs.filter(|_| !ended) {
            self.post(engine, Parcel::Gone { to, took_all });
        }
        self.end_flow(tenant, slot, kind, reason);
    }

    /// The other engine answers our end: it is gone there as well.
    fn other_end_gone(&mut self, id: BridgeId, took_all: bool) {
        let Some(&mut Bridge { tenant, slot, reset, shipped, .. }) = self.bridges.find(id) else { return };
        if took_all {
            self.acknowledge_first(tenant, slot, shipped);
        }
        let shuts_down = self.look(tenant).leaving.is_some_and(|leaving| leaving.is_shutdown());
        let (kind, reason) = match reset {
            Some(reason) => (receive_kind::RESET, reason as u16),
            None if shuts_down => (receive_kind::RESET, Reason::ShuttingDown as u16),
            None if took_all => (receive_kind::FINISHED, 0),
            None => (receive_kind::CLOSED, 0),
        };
        self.end_flow(tenant, slot, kind, reason);
    }

    /// The application closes a bridged flow: behind the messages that wait.
    pub(crate) fn close_bridge(&mut self, index: u32, slot: FlowSlot, id: BridgeId) {
        self.at(index).tenant.flow(slot).closing = true;
        if self.is_deaf(id) {
            let bridge = self.bridges.at(id);
            bridge.dropped_some |= !bridge.inbox.is_empty();
            bridge.inbox.clear();
        }
        if self.bridges.at(id).inbox.is_empty() && self.bridges.at(id).end_waits {
            return self.end_here(id, receive_kind::CLOSED, 0);
        }
        self.ship(id);
    }

    /// Ends a bridged flow. The application is told at once, unless the other engine may be reading its TX buffers: then
    /// when that says that it does not any more. The buffers of an application that is gone, or broke a rule, can wait for
    /// nobody.
    pub(crate) fn reset_bridge(&mut self, index: u32, slot: FlowSlot, id: BridgeId, reason: Reason) {
        let seat = self.look(index);
        let is_staying = seat.fault.is_none() && seat.leaving.is_none();
        let bridge = self.bridges.at(id);
        let (engine, theirs, told) = (bridge.engine, bridge.theirs, bridge.reset.is_some());
        let waits = is_staying && bridge.shipped > 0;
        bridge.inbox.clear();
        (bridge.dropped_some, bridge.ended, bridge.reset) = (true, true, Some(reason));
        if let Some(to) = theirs.filter(|_| !told) {
            self.post(engine, Parcel::End { to, how: Ending::Reset(reason) });
        }
        if waits {
            self.at(index).tenant.flow(slot).closing = true;
        } else if self.look(index).tenant.look(slot).connecting().is_some() {
            self.fail_connect(index, slot, reason as u16);
        } else {
            self.end_flow(index, slot, receive_kind::RESET, reason as u16);
        }
    }

    /// A bridged flow ended here: what still comes for it is for nobody.
    pub(crate) fn forget_bridge(&mut self, id: BridgeId) {
        self.bridges.remove(id);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A name that no bridge has.
    pub(crate) fn id(number: usize) -> BridgeId {
        BridgeId { index: u32::try_from(number).unwrap_or(0), generation: u32::MAX }
    }

    #[test]
    fn the_name_of_an_end_that_is_gone_names_nothing_when_its_place_is_used_again() {
        let mut bridges = Bridges::default();
        let first = bridges.insert(1, 2, None);
        assert_eq!(bridges.engine_of(first), Some(2));
        bridges.remove(first);
        let second = bridges.insert(3, 4, None);
        assert_eq!(first.index, second.index);
        assert!(bridges.find(first).is_none());
        bridges.remove(first);
        assert_eq!(bridges.engine_of(second), Some(4));
    }
}
