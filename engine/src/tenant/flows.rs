//! The flows of one channel as the engine records them. A handle that the application names is checked here.

use crate::bridge::BridgeId;
use crate::proto::FlowId;
use machnet_client::shm::layout::FlowInfo;
use machnet_client::shm::ring::PeerFault;

/// No entry: the end of an intrusive list.
pub(super) const NIL: u32 = u32::MAX;

/// The name of a flow that the application may not name: its place would be beyond the largest table.
const NO_NAME: u32 = u32::MAX;
/// One generation, in a handle.
const GENERATION: u32 = 1 << 16;

/// A flow's place in its channel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct FlowSlot(u16);

impl FlowSlot {
    /// The place as an index.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a flow is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// A flow of the protocol core.
    Remote(FlowId),
    /// A flow of an application of the same sidecar: its tenant and its place there.
    Local {
        /// Index of the peer's tenant.
        tenant: u32,
        /// The peer's flow.
        flow: FlowSlot,
    },
    /// A flow of an application of the same sidecar whose channel is on another engine.
    Bridge(BridgeId),
    /// Nothing any more. The application was told, or is about to be.
    Ended,
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    /// The flow's handle while the application may name it, else [`NO_NAME`].
    name: u32,
    /// Place in the lower half, generation in the upper.
    handle: u32,
    used: bool,
    /// What it is connected to.
    pub link: Link,
    /// Addresses and limits, as the application was told.
    pub info: FlowInfo,
    /// Connect has not succeeded yet: the application's request number.
    connecting: Option<u32>,
    /// Not yet accepted by the application: the listener it counts against.
    pub unaccepted: Option<u32>,
    /// The application closed it; what still comes for it is not delivered.
    pub closing: bool,
    /// The application said that it will not name the flow again.
    released: bool,
    /// Messages taken from the application.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Messages of those that the peer has.
    pub acknowledged: u64,
    /// As many of these as the application was told of.
    told: u64,
    /// Bytes of the messages that were not acknowledged when the flow ended.
    pub forgotten_bytes: u64,
    /// Whether the flow stands in the tenant's list of flows with credit to tell. Outlives the flow, as the list does.
    pub credit_dirty: bool,
    /// Whether the flow waits for room of another application of this host.
    pub blocked: bool,
    /// First and last of the unacknowledged messages in the tenant's store.
    pub tx_list: (u32, u32),
    /// Messages reserved, or delivered and not yet given back.
    pub outstanding: u32,
    /// Messages among them that were given room ahead of their turn.
    pub(crate) ahead: u32,
    /// RX buffers of the others.
    pub rx_buffers: u32,
    /// In-slot messages delivered and not given back.
    pub inline_messages: u32,
    /// Their bytes.
    pub inline_bytes: u32,
    /// Messages put into the receive ring since the flow opened.
    pub delivered: u64,
    /// Bytes of those.
    pub delivered_bytes: u64,
}

impl Flow {
    /// Messages taken and not acknowledged.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the flow's credit")]
    pub fn unacknowledged(&self) -> u32 {
        (self.sent - self.acknowledged) as u32
    }

    /// Whether the application may send another message, of `len` bytes.
    #[inline]
    pub(super) fn takes(&self, len: u32) -> bool {
        !matches!(self.link, Link::Ended)
            && !self.closing
            && self.unacknowledged() < self.info.credit
            && len <= self.info.max_message
    }

    /// Acknowledged messages of which the application was not told.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most the flow's credit")]
    pub(super) fn untold(&self) -> u32 {
        (self.acknowledged - self.told) as u32
    }

    /// The flow's name on the rings.
    #[inline]
    pub(super) fn handle(&self) -> u32 {
        self.handle
    }

    /// The application's request to connect that has no outcome yet.
    pub fn connecting(&self) -> Option<u32> {
        self.connecting
    }

    /// The flow is of a request to connect; the application does not know its name before it succeeds.
    pub fn begin_connecting(&mut self, request: u32) {
        self.connecting = Some(request);
        self.name = NO_NAME;
    }

    /// The request has its outcome.
    pub fn end_connecting(&mut self) -> Option<u32> {
        self.name = self.handle;
        self.connecting.take()
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Flows {
    slots: Vec<Flow>,
    free: Vec<u16>,
    max: u32,
    used: u32,
}

impl Flows {
    /// A table for at most `max` flows; it grows as they come.
    pub(super) fn new(max: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max, used: 0 }
    }

    /// Whether another flow would find a place.
    pub(super) fn has_room(&self) -> bool {
        self.used < self.max
    }

    /// A new flow, or nothing when the table is full.
    pub(super) fn open(&mut self, link: Link, info: FlowInfo) -> Option<FlowSlot> {
        if !self.has_room() {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(Flow::vacant(u32::from(slot), info));
                slot
            }
        };
        self.used += 1;
        let flow = &mut self.slots[usize::from(slot)];
        let (handle, credit_dirty) = (flow.handle, flow.credit_dirty);
        *flow = Flow { name: handle, handle, credit_dirty, used: true, link, ..Flow::vacant(handle, info) };
        Some(FlowSlot(slot))
    }

    /// The flow at a place that we recorded ourselves.
    #[inline]
    pub(super) fn at(&mut self, slot: FlowSlot) -> &mut Flow {
        let flow = &mut self.slots[slot.index()];
        debug_assert!(flow.used, "a recorded flow is there");
        flow
    }

    /// The same, to look at.
    #[inline]
    pub(super) fn look(&self, slot: FlowSlot) -> &Flow {
        &self.slots[slot.index()]
    }

    /// The flow at a place that may have been freed since it was recorded.
    pub(super) fn find(&self, slot: FlowSlot) -> Option<&Flow> {
        self.slots.get(slot.index()).filter(|flow| flow.used)
    }

    /// The name of a flow on the rings: place in the low half, generation in the high half.
    #[inline]
    pub(super) fn handle(&self, slot: FlowSlot) -> u32 {
        self.slots[slot.index()].handle
    }

    /// The flow that the application named, if there is one. It was never told the name of one that is still connecting.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the place is the lower half of a handle")]
    pub(super) fn named(&mut self, handle: u32) -> Result<(FlowSlot, &mut Flow), PeerFault> {
        let place = handle as u16;
        match self.slots.get_mut(usize::from(place)) {
            Some(flow) if flow.name == handle => Ok((FlowSlot(place), flow)),
            _ => Err(PeerFault::Flow),
        }
    }

    /// As [`Self::named`], only its place.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the place is the lower half of a handle")]
    pub(super) fn resolve(&self, handle: u32) -> Result<FlowSlot, PeerFault> {
        let place = handle as u16;
        match self.slots.get(usize::from(place)) {
            Some(flow) if flow.name == handle => Ok(FlowSlot(place)),
            _ => Err(PeerFault::Flow),
        }
    }

    /// The application will not name the flow again: allowed once the flow ended.
    pub(super) fn release(&mut self, slot: FlowSlot) -> Result<(), PeerFault> {
        let flow = self.at(slot);
        if flow.link != Link::Ended {
            return Err(PeerFault::Flow);
        }
        flow.released = true;
        flow.name = NO_NAME;
        // In-slot messages of a released flow are not given back one by one.
        self.reap(slot);
        Ok(())
    }

    /// Frees the place if the flow was released and nothing of it is in the application's hands.
    pub(super) fn reap(&mut self, slot: FlowSlot) {
        let flow = &mut self.slots[slot.index()];
        if flow.used && flow.released && flow.outstanding == 0 {
            flow.used = false;
            flow.name = NO_NAME;
            flow.handle = flow.handle.wrapping_add(GENERATION);
            self.used -= 1;
            self.free.push(slot.0);
        }
    }

    /// Takes a flow from the list of those with credit to tell: its name, and how many of its messages were acknowledged,
    /// modulo 2^32. Nothing if it was released meanwhile.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the application counts modulo 2^32 likewise")]
    pub(super) fn tell_credit(&mut self, slot: FlowSlot) -> Option<(u32, u32)> {
        let flow = &mut self.slots[slot.index()];
        flow.credit_dirty = false;
        flow.told = flow.acknowledged;
        flow.used.then_some((flow.handle, flow.acknowledged as u32))
    }

    /// Every flow there is.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowSlot, &Flow)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, flow)| flow.used)
            .filter_map(|(index, flow)| Some((FlowSlot(u16::try_from(index).ok()?), flow)))
    }
}

impl Flow {
    fn vacant(handle: u32, info: FlowInfo) -> Self {
        Self {
            name: NO_NAME,
            handle,
            used: false,
            link: Link::Ended,
            info,
            connecting: None,
            unaccepted: None,
            closing: false,
            released: false,
            sent: 0,
            sent_bytes: 0,
            acknowledged: 0,
            told: 0,
            forgotten_bytes: 0,
            blocked: false,
            credit_dirty: false,
            tx_list: (NIL, NIL),
            outstanding: 0,
            ahead: 0,
            rx_buffers: 0,
            inline_messages: 0,
            inline_bytes: 0,
            delivered: 0,
            delivered_bytes: 0,
        }
    }
}
