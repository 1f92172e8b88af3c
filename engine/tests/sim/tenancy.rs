//! What the engine's worker does for its tenants, as a model: listeners, quotas, a pool, buffers. It implements `Payload`.

use crate::dice::Dice;
use crate::mutant::{Mutant, Mutation};
use crate::oracle::{Oracle, Place};
use crate::scenario::{self, HostPlan};
use crate::spans::Spans;
use machnet_engine::proto::{FlowId, Limits, Listening, Payload, Reason, RxHandle, TxHandle};
use std::net::SocketAddr;

/// Bytes taken from the flow's own minimum or from the pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Charge {
    pub(crate) minimum: u64,
    pub(crate) pool: u64,
    /// Taken from the pool while an earlier message was missing.
    pub(crate) early: bool,
}

/// What one flow holds.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    messages: u32,
    bytes: u64,
    minimum: u64,
    pool: u64,
}

/// A flow that the endpoint told of.
#[derive(Clone, Copy, Debug)]
struct Slot {
    flow: FlowId,
    place: Place,
    room: Room,
    reserved: u32,
}

/// Room for one message that is on its way.
#[derive(Debug)]
struct Buffer {
    flow: FlowId,
    place: Place,
    bytes: Vec<u8>,
    missing: u32,
    spans: Spans,
    charge: Charge,
}

/// A message that was given to `send`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) place: Place,
    pub(crate) number: u32,
    pub(crate) len: u32,
    /// Neither acknowledged nor its flow gone.
    pub(crate) lent: bool,
}

/// A message that waits for its application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) len: u32,
    pub(crate) charge: Charge,
}

/// What the applications must be told after a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    Accepted(Place),
    Delivered(Place, Waiting),
    Acknowledged(Place),
    RingFull(FlowId),
}

/// The tenants of one engine.
#[derive(Debug)]
pub(crate) struct Tenancy {
    pub(crate) host: usize,
    unit: usize,
    /// Which engine of how many.
    engine: (u8, u8),
    plan: HostPlan,
    slots: Vec<Option<Slot>>,
    buffers: Vec<Option<Buffer>>,
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) pool_used: u64,
    /// How much of it messages hold that came before an earlier one.
    pool_early: u64,
    /// Flows that the application has not taken yet.
    pub(crate) backlog: usize,
    /// Room was refused to somebody since the pool last grew.
    pub(crate) refused: bool,
    pub(crate) effects: Vec<Effect>,
    pub(crate) delivered: u64,
    pub(crate) acknowledged: u64,
}

impl Tenancy {
    pub(crate) const fn new(host: usize, unit: usize, engine: (u8, u8), plan: HostPlan) -> Self {
        Self {
            host,
            unit,
            engine,
            plan,
            slots: Vec::new(),
            buffers: Vec::new(),
            outgoing: Vec::new(),
            pool_used: 0,
            pool_early: 0,
            backlog: 0,
            refused: false,
            effects: Vec::new(),
            delivered: 0,
            acknowledged: 0,
        }
    }

    /// What the host offers; the tag tells the checker which connection a flow belongs to.
    pub(crate) fn limits(plan: &HostPlan, tag: usize) -> Limits {
        Limits {
            max_message: plan.max_message(),
            window_messages: plan.window_messages,
            window_bytes: plan.window_bytes().next_multiple_of(4096) + tag as u32,
        }
    }

    /// Opens the slot of a flow.
    pub(crate) fn open(&mut self, flow: FlowId, place: Place) -> Result<(), String> {
        let index = flow.index() as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        if let Some(old) = self.slots[index] {
            return Err(format!("{flow:?} takes the slot of {:?}", old.flow));
        }
        self.slots[index] = Some(Slot { flow, place, room: Room::default(), reserved: 0 });
        Ok(())
    }

    fn slot(&mut self, flow: FlowId) -> Option<&mut Slot> {
        self.slots.get_mut(flow.index() as usize)?.as_mut().filter(|slot| slot.flow == flow)
    }

    /// Which end of which connection a living flow is.
    pub(crate) fn place(&self, flow: FlowId) -> Option<Place> {
        self.slots.get(flow.index() as usize)?.filter(|slot| slot.flow == flow).map(|slot| slot.place)
    }

    /// Closes the slot of a flow that is gone. Answers how many reserved buffers never came home.
    pub(crate) fn close(&mut self, flow: FlowId) -> u32 {
        let Some(slot) = self.slot(flow).copied() else { return 0 };
        let leaked = slot.reserved;
        self.slots[flow.index() as usize] = None;
        for outgoing in &mut self.outgoing {
            outgoing.lent &= outgoing.place != slot.place;
        }
        leaked
    }

    /// Names a message for the endpoint.
    pub(crate) fn next_handle(&self) -> TxHandle {
        TxHandle(self.outgoing.len() as u32)
    }

    /// The message with this name, while its bytes may be read.
    pub(crate) fn lent(&self, handle: TxHandle) -> Option<Outgoing> {
        self.outgoing.get(handle.0 as usize).copied().filter(|outgoing| outgoing.lent)
    }

    /// Takes room for a message of the flow, or none. Beside messages out of order the largest one must always fit.
    fn take(&mut self, flow: FlowId, len: u32, in_order: bool) -> Result<Option<Charge>, String> {
        let plan = &self.plan;
        let (pool_free, len_bytes) = (plan.pool_bytes - self.pool_used, u64::from(len));
        let spare_bytes = plan.pool_bytes - u64::from(plan.max_message());
        let fits_early = in_order || self.pool_early + len_bytes <= spare_bytes;
        let (minimum_bytes, share_bytes) = (plan.minimum_bytes, plan.share_bytes);
        let limits = Self::limits(plan, 0);
        let Some(slot) = self.slot(flow) else { return Err(format!("{flow:?} is unknown")) };
        // The tag makes the client's own window a little larger.
        let window_bytes =
            u64::from(limits.window_bytes) + slot.place.connection as u64 * (1 - slot.place.side as u64);
        let room = &mut slot.room;
        if len == 0 || len > limits.max_message {
            return Err(format!("{flow:?} asks room for {len} bytes"));
        }
        if room.messages >= limits.window_messages {
            return Err(format!("{flow:?} asks room for message {} beyond its window", room.messages + 1));
        }
        if room.messages > 0 && room.bytes + len_bytes > window_bytes {
            return Err(format!("{flow:?} holds {} bytes and asks for {len} beyond its window", room.bytes));
        }
        let charge = if room.minimum + len_bytes <= minimum_bytes {
            Charge { minimum: len_bytes, pool: 0, early: false }
        } else if fits_early
            && len_bytes <= pool_free
            && (room.pool == 0 || room.pool + len_bytes <= share_bytes)
        {
            Charge { minimum: 0, pool: len_bytes, early: !in_order }
        } else {
            self.refused = true;
            return Ok(None);
        };
        room.messages += 1;
        room.bytes += len_bytes;
        room.minimum += charge.minimum;
        room.pool += charge.pool;
        self.pool_used += charge.pool;
        self.pool_early += if charge.early { charge.pool } else { 0 };
        Ok(Some(charge))
    }

    /// Room comes home.
    pub(crate) fn give_back(&mut self, flow: FlowId, len: u32, charge: Charge) {
        self.pool_used -= charge.pool;
        self.pool_early -= if charge.early { charge.pool } else { 0 };
        if let Some(slot) = self.slot(flow) {
            slot.room.messages -= 1;
            slot.room.bytes -= u64::from(len);
            slot.room.minimum -= charge.minimum;
            slot.room.pool -= charge.pool;
        }
    }

    /// Buffers that the endpoint still holds.
    pub(crate) fn buffers_out(&self) -> usize {
        self.buffers.iter().flatten().count()
    }

    fn store(&mut self, buffer: Buffer) -> RxHandle {
        self.buffers.push(Some(buffer));
        RxHandle(self.buffers.len() as u32 - 1)
    }
}

/// A tenancy with the checker beside it: what the endpoint is given as its `Payload`.
pub(crate) struct Desk<'a> {
    pub(crate) tenancy: &'a mut Tenancy,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) dice: &'a mut Dice,
    pub(crate) mutant: &'a mut Mutant,
    pub(crate) ring_full: u32,
    pub(crate) accept_fails: u32,
}

impl Desk<'_> {
    fn take(&mut self, flow: FlowId, len: u32, in_order: bool) -> Option<(Place, Charge)> {
        let place = self.tenancy.place(flow);
        match self.tenancy.take(flow, len, in_order) {
            Ok(Some(charge)) => place.map(|place| (place, charge)),
            Ok(None) => {
                self.oracle.totals.no_room += 1;
                None
            }
            Err(text) => {
                self.oracle.violate("window", text);
                None
            }
        }
    }

    /// Takes a buffer of this flow out of the table.
    fn take_buffer(&mut self, flow: FlowId, message: RxHandle) -> Option<Buffer> {
        let entry = self.tenancy.buffers.get_mut(message.0 as usize);
        match entry.filter(|entry| entry.as_ref().is_some_and(|buffer| buffer.flow == flow)) {
            Some(entry) => entry.take(),
            None => {
                self.oracle.violate("handles", format!("{flow:?} does not hold {message:?}"));
                None
            }
        }
    }

    fn ring_is_full(&mut self, flow: FlowId) -> bool {
        let full = self.dice.chance(self.ring_full);
        if full {
            self.oracle.totals.ring_full += 1;
            self.tenancy.effects.push(Effect::RingFull(flow));
        }
        full
    }

    fn hand_over(&mut self, place: Place, bytes: &[u8], charge: Charge) {
        if !self.mutant.strikes(Mutation::DropDelivery) {
            match self.mutant.hold_back(bytes) {
                Some(order) => order.iter().for_each(|held| self.oracle.on_delivered(place, held)),
                None => self.oracle.on_delivered(place, bytes),
            }
        }
        if self.mutant.strikes(Mutation::RepeatDelivery) {
            self.oracle.on_delivered(place, bytes);
        }
        self.tenancy.delivered += 1;
        let waiting = Waiting { len: bytes.len() as u32, charge };
        self.tenancy.effects.push(Effect::Delivered(place, waiting));
    }
}

impl Payload for Desk<'_> {
    fn listening(&mut self, port: u16) -> Listening {
        let host = self.tenancy.host;
        let Some(listener) = scenario::listener(port, self.tenancy.engine.1) else {
            return Listening::Nobody;
        };
        if listener != self.tenancy.engine.0 {
            return Listening::Elsewhere(listener);
        }
        if self.tenancy.backlog >= self.tenancy.plan.backlog {
            self.oracle.was_busy[host] = true;
            return Listening::Busy;
        }
        Listening::Open(Tenancy::limits(&self.tenancy.plan, 0))
    }

    fn accept(&mut self, flow: FlowId, port: u16, from: SocketAddr, peer: Limits) -> Result<(), Reason> {
        let (host, unit) = (self.tenancy.host, self.tenancy.unit);
        if scenario::listener(port, self.tenancy.engine.1) != Some(self.tenancy.engine.0) {
            self.oracle.violate("engine", format!("{flow:?} for port {port} is accepted at unit {unit}"));
        }
        let fails = self.tenancy.backlog >= self.tenancy.plan.backlog || self.dice.chance(self.accept_fails);
        let place =
            self.oracle.on_accept((host, unit), flow, port, peer, !fails).ok_or(Reason::ProtocolError)?;
        // The port of `from` is the client's flow port, not the one its datagrams come from.
        if crate::world::address(self.oracle.side(place.peer()).host).ip() != from.ip() {
            self.oracle.violate("accept", format!("{flow:?} comes from {from}"));
        }
        if fails {
            self.oracle.was_busy[host] = true;
            return Err(Reason::Busy);
        }
        if let Err(text) = self.tenancy.open(flow, place) {
            self.oracle.violate("flow", text);
        }
        self.tenancy.backlog += 1;
        self.tenancy.effects.push(Effect::Accepted(place));
        Ok(())
    }

    fn reserve(&mut self, flow: FlowId, len: u32, in_order: bool) -> Option<RxHandle> {
        let (place, charge) = self.take(flow, len, in_order)?;
        if let Some(slot) = self.tenancy.slot(flow) {
            slot.reserved += 1;
        }
        let bytes = vec![0xEE; len as usize];
        let buffer = Buffer { flow, place, bytes, missing: len, spans: Spans::default(), charge };
        Some(self.tenancy.store(buffer))
    }

    fn keep(&mut self, flow: FlowId, message: RxHandle, offset: u32, bytes: &[u8]) {
        let strikes = self.mutant.strikes(Mutation::SwapByte);
        let now_ns = self.oracle.now_ns;
        let buffer = self.tenancy.buffers.get_mut(message.0 as usize).and_then(Option::as_mut);
        let Some(buffer) = buffer.filter(|buffer| buffer.flow == flow) else {
            return self.oracle.violate("handles", format!("{flow:?} does not hold {message:?}"));
        };
        let end = offset as usize + bytes.len();
        let Some(target) = buffer.bytes.get_mut(offset as usize..end).filter(|target| !target.is_empty())
        else {
            let len = buffer.bytes.len();
            return self.oracle.violate("handles", format!("{flow:?} keeps {offset}..{end} of {len} bytes"));
        };
        target.copy_from_slice(bytes);
        if strikes {
            target[0] ^= 0x40;
        }
        let fresh = buffer.spans.add(offset, end as u32);
        if fresh == 0 {
            return;
        }
        buffer.missing -= fresh;
        let place = buffer.place;
        self.oracle.side(place).progress_ns = now_ns;
        if buffer.missing == 0 {
            self.oracle.on_whole(place, &buffer.bytes);
        }
    }

    fn deliver(&mut self, flow: FlowId, message: RxHandle) -> bool {
        if self.ring_is_full(flow) {
            return false;
        }
        let Some(buffer) = self.take_buffer(flow, message) else { return true };
        if buffer.missing > 0 {
            let text = format!("{flow:?} delivers {message:?} with {} bytes missing", buffer.missing);
            self.oracle.violate("intact", text);
        }
        if let Some(slot) = self.tenancy.slot(flow) {
            slot.reserved -= 1;
        }
        self.hand_over(buffer.place, &buffer.bytes, buffer.charge);
        true
    }

    fn deliver_whole(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        if self.ring_is_full(flow) {
            return false;
        }
        let Some((place, charge)) = self.take(flow, bytes.len() as u32, true) else { return false };
        self.hand_over(place, bytes, charge);
        true
    }

    fn discard(&mut self, flow: FlowId, message: RxHandle) {
        let Some(buffer) = self.take_buffer(flow, message) else { return };
        if self.mutant.strikes(Mutation::LoseDiscard) {
            return;
        }
        if let Some(slot) = self.tenancy.slot(flow) {
            slot.reserved -= 1;
        }
        self.tenancy.give_back(flow, buffer.bytes.len() as u32, buffer.charge);
    }

    fn acknowledged(&mut self, flow: FlowId, message: TxHandle) {
        if self.mutant.strikes(Mutation::LoseAcknowledgement) {
            return;
        }
        let Some(outgoing) = self.tenancy.lent(message) else {
            return self
                .oracle
                .violate("handles", format!("{flow:?} acknowledges {message:?}, which is not lent"));
        };
        if self.tenancy.place(flow) != Some(outgoing.place) {
            self.oracle
                .violate("handles", format!("{flow:?} acknowledges {message:?} of {:?}", outgoing.place));
        }
        self.tenancy.outgoing[message.0 as usize].lent = false;
        self.tenancy.acknowledged += 1;
        let number = outgoing.number + u32::from(self.mutant.strikes(Mutation::SwapAcknowledgements));
        self.oracle.on_acknowledged(outgoing.place, number);
        self.tenancy.effects.push(Effect::Acknowledged(outgoing.place));
    }
}
