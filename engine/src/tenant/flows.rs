//! The flows of one channel as the engine records them. A handle that the application names is checked here.

use crate::proto::FlowId;
use machnet_client::shm::layout::FlowInfo;
use machnet_client::shm::ring::PeerFault;
use std::collections::VecDeque;

/// No entry: the end of an intrusive list.
pub(super) const NIL: u32 = u32::MAX;

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
    /// Nothing any more. The application was told, or is about to be.
    Ended,
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    generation: u16,
    used: bool,
    /// What it is connected to.
    pub link: Link,
    /// Addresses and limits, as the application was told.
    pub info: FlowInfo,
    /// Connect has not succeeded yet: the application's request number.
    pub connecting: Option<u32>,
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
    /// Lengths of the in-slot messages delivered and not given back.
    pub inline_lengths: VecDeque<u8>,
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

    /// Whether the application may name it.
    #[inline]
    fn has_a_name(&self) -> bool {
        self.used && !self.released && self.connecting.is_none()
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
                self.slots.push(Flow::vacant(info));
                slot
            }
        };
        self.used += 1;
        let flow = &mut self.slots[usize::from(slot)];
        let (generation, credit_dirty) = (flow.generation, flow.credit_dirty);
        *flow = Flow { generation, credit_dirty, used: true, link, ..Flow::vacant(info) };
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
        u32::from(slot.0) | u32::from(self.slots[slot.index()].generation) << 16
    }

    /// The flow that the application named, if there is one. It was never told the name of one that is still connecting.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a handle")]
    pub(super) fn resolve(&self, handle: u32) -> Result<FlowSlot, PeerFault> {
        let (slot, generation) = (handle as u16, (handle >> 16) as u16);
        match self.slots.get(usize::from(slot)) {
            Some(flow) if flow.generation == generation && flow.has_a_name() => Ok(FlowSlot(slot)),
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
        // In-slot messages of a released flow are not given back one by one.
        self.reap(slot);
        Ok(())
    }

    /// Frees the place if the flow was released and nothing of it is in the application's hands.
    pub(super) fn reap(&mut self, slot: FlowSlot) {
        let flow = &mut self.slots[slot.index()];
        if flow.used && flow.released && flow.outstanding == 0 {
            flow.used = false;
            flow.generation = flow.generation.wrapping_add(1);
            flow.inline_lengths = VecDeque::new();
            self.used -= 1;
            self.free.push(slot.0);
        }
    }

    /// Takes a flow from the list of those with credit to tell: its name, and how many of its messages were acknowledged,
    /// modulo 2^32. Nothing if it was released meanwhile.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the application counts modulo 2^32 likewise")]
    pub(super) fn tell_credit(&mut self, slot: FlowSlot) -> Option<(u32, u32)> {
        let handle = self.handle(slot);
        let flow = &mut self.slots[slot.index()];
        flow.credit_dirty = false;
        flow.used.then_some((handle, flow.acknowledged as u32))
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
    fn vacant(info: FlowInfo) -> Self {
        Self {
            generation: 0,
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
            forgotten_bytes: 0,
            blocked: false,
            credit_dirty: false,
            tx_list: (NIL, NIL),
            outstanding: 0,
            ahead: 0,
            rx_buffers: 0,
            inline_lengths: VecDeque::new(),
            delivered: 0,
            delivered_bytes: 0,
        }
    }
}
