//! The flows of one channel as the engine records them. A handle that the application names is checked here.

use crate::proto::FlowId;
use machnet_client::shm::layout::FlowInfo;
use machnet_client::shm::ring::PeerFault;
use std::collections::VecDeque;

/// No entry: the end of an intrusive list.
pub const NIL: u32 = u32::MAX;

/// A flow's place in its channel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
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
    pub sent: u32,
    /// Messages of those that the peer has.
    pub acknowledged: u32,
    /// `acknowledged` as last told to the application.
    pub told: u32,
    /// Whether the flow stands in the tenant's list of flows with credit to tell.
    pub credit_dirty: bool,
    /// First and last of the unacknowledged messages in the tenant's store.
    pub tx_list: (u32, u32),
    /// Messages reserved, or delivered and not yet given back.
    pub outstanding: u32,
    /// RX buffers among them.
    pub rx_buffers: u32,
    /// Lengths of the in-slot messages delivered and not given back.
    pub inline_lengths: VecDeque<u8>,
    /// Messages put into the receive ring since the flow opened.
    pub delivered: u64,
}

impl Flow {
    /// Messages taken and not acknowledged.
    #[inline]
    pub fn unacknowledged(&self) -> u32 {
        self.sent.wrapping_sub(self.acknowledged)
    }
}

/// The table.
#[derive(Debug)]
pub struct Flows {
    slots: Vec<Flow>,
    free: Vec<u16>,
    max: u32,
    used: u32,
}

impl Flows {
    /// A table for at most `max` flows; it grows as they come.
    pub fn new(max: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max, used: 0 }
    }

    /// Flows there are.
    pub fn len(&self) -> usize {
        self.used as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether another flow would find a place.
    pub fn has_room(&self) -> bool {
        self.used < self.max
    }

    /// A new flow, or nothing when the table is full.
    pub fn open(&mut self, link: Link, info: FlowInfo) -> Option<FlowSlot> {
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
        let (generation, mut lengths) = (flow.generation, std::mem::take(&mut flow.inline_lengths));
        lengths.clear();
        *flow = Flow { generation, used: true, link, info, inline_lengths: lengths, ..Flow::vacant(info) };
        Some(FlowSlot(slot))
    }

    /// The flow at a place that we recorded ourselves.
    #[inline]
    pub fn at(&mut self, slot: FlowSlot) -> &mut Flow {
        let flow = &mut self.slots[slot.index()];
        debug_assert!(flow.used, "a recorded flow is there");
        flow
    }

    /// The same, to look at.
    #[inline]
    pub fn look(&self, slot: FlowSlot) -> &Flow {
        &self.slots[slot.index()]
    }

    /// The name of a flow on the rings: place in the low half, generation in the high half.
    #[inline]
    pub fn handle(&self, slot: FlowSlot) -> u32 {
        u32::from(slot.0) | u32::from(self.slots[slot.index()].generation) << 16
    }

    /// The flow that the application named, if there is one.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a handle")]
    pub fn resolve(&self, handle: u32) -> Result<FlowSlot, PeerFault> {
        let (slot, generation) = (handle as u16, (handle >> 16) as u16);
        match self.slots.get(usize::from(slot)) {
            Some(flow) if flow.used && flow.generation == generation && !flow.released => Ok(FlowSlot(slot)),
            _ => Err(PeerFault::Flow),
        }
    }

    /// The application will not name the flow again: allowed once the flow ended.
    pub fn release(&mut self, slot: FlowSlot) -> Result<(), PeerFault> {
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
    pub fn reap(&mut self, slot: FlowSlot) {
        let flow = &mut self.slots[slot.index()];
        if flow.used && flow.released && flow.outstanding == 0 {
            flow.used = false;
            flow.generation = flow.generation.wrapping_add(1);
            flow.inline_lengths = VecDeque::new();
            self.used -= 1;
            self.free.push(slot.0);
        }
    }

    /// Every flow there is.
    pub fn iter(&self) -> impl Iterator<Item = (FlowSlot, &Flow)> {
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
            acknowledged: 0,
            told: 0,
            credit_dirty: false,
            tx_list: (NIL, NIL),
            outstanding: 0,
            rx_buffers: 0,
            inline_lengths: VecDeque::new(),
            delivered: 0,
        }
    }
}
