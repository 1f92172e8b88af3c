//! The engine's private end of one channel: it checks what the application says, copies bytes, lends and reclaims buffers.
//!
//! The engine believes nothing about shared memory: the geometry is a private copy, each shared word is loaded once and the
//! local checked, an index becomes a buffer only in the ledger, and a broken rule is a [`PeerFault`] that ends this channel
//! and no other. Work per call is bounded by the caller; nothing here blocks.

mod flows;
mod receive;
mod send;
mod store;
#[cfg(test)]
mod tests;

pub use flows::{Flow, FlowSlot, Link};
pub use receive::Returned;
pub use send::{Outgoing, Taken};

use flows::{Flows, NIL};
use machnet_client::shm::Geometry;
use machnet_client::shm::bell::{REASON_CREDIT, Ringer, Sleeper};
use machnet_client::shm::layout::{
    DONE_HEAD_OFFSET, DONE_WORDS, FlowInfo, MESSAGE_HEAD_OFFSET, RING_OFFSET, SLOT_WORDS, send_done_kind,
};
use machnet_client::shm::ledger::Ledger;
use machnet_client::shm::region::{Mapping, Read, Write};
use machnet_client::shm::ring::{Consumer, PeerFault, Producer, SlotHead};
use machnet_client::socket::{self, Drained, Ring};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use store::{ReceivedStore, SentStore};

/// Failed connects that may wait for a slot of the receive ring before no more requests are taken.
const MAX_WAITING_FAILURES: usize = 64;

/// What the application is, for `machnet status`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Number of the channel, unique for the sidecar's life.
    pub channel: u64,
    /// The process that attached.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The program's own name for itself: text from outside.
    pub name: String,
    /// The version of the control messages that was agreed on.
    pub version: u32,
}

/// The engine's ends of a channel's doorbells.
#[derive(Debug)]
pub struct Bells {
    /// To wake the application.
    pub application: OwnedFd,
    /// To be woken by it; nothing when `application` is a socket that is both.
    pub engine: Option<OwnedFd>,
}

/// The engine's end of one channel.
#[derive(Debug)]
pub struct Tenant {
    identity: Identity,
    geometry: Geometry,
    /// Written by the application, mapped read-only.
    theirs: Arc<Mapping<Read>>,
    /// Written by us.
    ours: Mapping<Write>,
    send_ring: Consumer<SLOT_WORDS>,
    receive_done: Consumer<DONE_WORDS>,
    receive_ring: Producer<SLOT_WORDS>,
    send_done: Producer<DONE_WORDS>,
    ringer: Ringer,
    sleeper: Sleeper,
    bells: Bells,
    flows: Flows,
    sent: SentStore,
    received: ReceivedStore,
    /// TX buffers that the application may name: it holds those that are free here.
    tx_ledger: Ledger,
    rx_ledger: Ledger,
    /// Messages reserved, or delivered and not yet given back; at most `receive_slots`.
    outstanding: u32,
    /// Messages among them that were given room ahead of their turn, and their RX buffers.
    ahead_messages: u32,
    ahead_buffers: u32,
    /// Outcomes and ends of flows that wait for a slot of the receive ring: at most two per flow.
    events: VecDeque<(SlotHead, [u64; SLOT_WORDS - 1])>,
    /// Flows whose acknowledged count was not told yet.
    credit_dirty: Vec<FlowSlot>,
    /// One of them should not wait: buffers came back, or a good part of the flow's credit.
    credit_is_urgent: bool,
    /// Slots of the send ring and of the receive-done ring that are taken before the application is told how far we got.
    heads_untold: (u32, u32),
    /// Reasons to ring for, gathered in this cycle.
    ring_reasons: u8,
    /// A message was refused room since the last time the application gave some back.
    starved: bool,
    /// Room came back since `starved` was set.
    relieved: bool,
    /// A message found no slot of the receive ring; the application drains it without telling anybody.
    ring_full: bool,
}

impl Tenant {
    /// The engine's end of a channel whose regions are mapped and sealed.
    pub fn new(
        identity: Identity,
        geometry: Geometry,
        theirs: Mapping<Read>,
        ours: Mapping<Write>,
        bells: Bells,
    ) -> Self {
        assert!(geometry.fault().is_none(), "the controller checked the geometry");
        assert!(theirs.length() == geometry.application_bytes(), "the application's region has its size");
        assert!(ours.length() == geometry.engine_bytes(), "the engine's region has its size");
        let g = &geometry;
        Self {
            send_ring: Consumer::new(RING_OFFSET, g.send_slots, MESSAGE_HEAD_OFFSET),
            receive_done: Consumer::new(g.receive_done_offset(), g.receive_done_slots(), DONE_HEAD_OFFSET),
            receive_ring: Producer::new(RING_OFFSET, g.receive_slots, MESSAGE_HEAD_OFFSET),
            send_done: Producer::new(g.send_done_offset(), g.send_done_slots(), DONE_HEAD_OFFSET),
            ringer: Ringer::default(),
            sleeper: Sleeper::default(),
            flows: Flows::new(g.max_flows),
            sent: SentStore::default(),
            received: ReceivedStore::default(),
            tx_ledger: Ledger::new(g.tx_buffers),
            rx_ledger: Ledger::new(g.rx_buffers),
            outstanding: 0,
            ahead_messages: 0,
            ahead_buffers: 0,
            events: VecDeque::new(),
            credit_dirty: Vec::new(),
            credit_is_urgent: false,
            heads_untold: (g.send_slots / 8, g.receive_done_slots() / 8),
            ring_reasons: 0,
            starved: false,
            relieved: false,
            ring_full: false,
            identity,
            geometry,
            theirs: Arc::new(theirs),
            ours,
            bells,
        }
    }

    /// Who the application is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The sizes of the channel.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Opens a flow if the table has room.
    pub fn open_flow(&mut self, link: Link, info: FlowInfo) -> Option<FlowSlot> {
        let slot = self.flows.open(link, info)?;
        self.flows.at(slot).tx_list = (NIL, NIL);
        Some(slot)
    }

    /// A flow that we recorded.
    #[inline]
    pub fn flow(&mut self, slot: FlowSlot) -> &mut Flow {
        self.flows.at(slot)
    }

    /// The same, to look at.
    #[inline]
    pub fn look(&self, slot: FlowSlot) -> &Flow {
        self.flows.look(slot)
    }

    /// A flow that may have been freed since it was recorded.
    pub fn find(&self, slot: FlowSlot) -> Option<&Flow> {
        self.flows.find(slot)
    }

    /// The flow that the application calls so.
    pub fn named(&self, handle: u32) -> Option<&Flow> {
        self.flows.resolve(handle).ok().map(|slot| self.flows.look(slot))
    }

    /// Every flow.
    pub fn flows(&self) -> impl Iterator<Item = (FlowSlot, &Flow)> {
        self.flows.iter()
    }

    /// Whether another flow finds a place.
    pub fn has_flow_room(&self) -> bool {
        self.flows.has_room()
    }

    /// Tells the application what became known: events that waited for a slot, credit that came back, how far the rings
    /// were read; then rings it if it sleeps. Once per duty cycle for each tenant that was touched. Answers whether the
    /// bell was rung.
    ///
    /// Credit of small messages and the heads of the rings are told when it is worth it: each costs the application a cache
    /// line that it would not look at. [`Self::settle`] tells the rest.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, PeerFault> {
        if self.send_ring.untold() >= self.heads_untold.0 {
            self.send_ring.tell_head(&self.ours);
        }
        if self.receive_done.untold() >= self.heads_untold.1 {
            self.receive_done.tell_head(&self.ours);
        }
        if !self.events.is_empty() {
            self.flush_events()?;
        }
        if self.credit_is_urgent {
            self.flush_credit()?;
        }
        if self.ring_reasons == 0 { Ok(false) } else { self.ring() }
    }

    /// Whether [`Self::settle`] would tell something.
    #[inline]
    pub fn is_unsettled(&self) -> bool {
        !self.credit_dirty.is_empty()
    }

    /// Tells the application of all its credit. For a tenant that is quiet, and before its engine sleeps.
    pub fn settle(&mut self) -> Result<bool, PeerFault> {
        self.credit_is_urgent |= !self.credit_dirty.is_empty();
        self.publish()
    }

    fn ring(&mut self) -> Result<bool, PeerFault> {
        let reasons = std::mem::take(&mut self.ring_reasons);
        if !self.ringer.must_ring(&self.ours, &*self.theirs, reasons) {
            return Ok(false);
        }
        // An application whose end is gone is noticed by its control socket and process.
        let _: Ring = socket::ring(self.bells.application.as_fd(), self.bells.engine.is_none());
        Ok(true)
    }

    fn flush_credit(&mut self) -> Result<(), PeerFault> {
        let mut index = 0;
        while index < self.credit_dirty.len() {
            if self.send_done.free(&*self.theirs, 1)? == 0 {
                break; // The application does not drain its ring: told later, cumulatively.
            }
            let slot = self.credit_dirty[index];
            index += 1;
            let Some((handle, acknowledged)) = self.flows.tell_credit(slot) else { continue };
            let word = u64::from(handle) | u64::from(acknowledged) << 32;
            let head = SlotHead { kind: send_done_kind::CREDIT, count: 0, length: 0 };
            self.send_done.publish(&self.ours, head, |words| words[1].store(word, Ordering::Relaxed));
            self.ring_reasons |= REASON_CREDIT;
        }
        self.credit_dirty.drain(..index);
        self.credit_is_urgent = !self.credit_dirty.is_empty();
        Ok(())
    }

    /// Whether something waits that only the application's progress can release, of which it tells nobody.
    pub fn has_backlog(&self) -> bool {
        !self.events.is_empty() || self.credit_is_urgent || self.ring_full
    }

    /// Whether something is to be told before the next message.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether so many events wait that nothing more should be taken from the application that could cause another one:
    /// each flow has at most two, and the rest is for connects that fail.
    #[inline]
    pub fn has_too_many_events(&self) -> bool {
        self.events.len() >= 2 * self.geometry.max_flows as usize + MAX_WAITING_FAILURES
    }

    /// Asks the application to ring when it publishes. Look at the rings once more after it.
    pub fn arm(&mut self) {
        if self.sleeper.rung(&*self.theirs) {
            let any = socket::drain(self.wake_fd()) == Drained::Some;
            self.sleeper.drained(any);
        }
        self.sleeper.arm(&self.ours, machnet_client::shm::bell::REASON_ANY);
    }

    /// Back to polling.
    pub fn disarm(&mut self) {
        self.sleeper.disarm(&self.ours);
    }

    /// Empties the engine's bell of this channel.
    pub fn drain_bell(&mut self) -> Drained {
        let drained = socket::drain(self.wake_fd());
        self.sleeper.drained(drained == Drained::Some);
        drained
    }

    /// Readable when the application rang.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.bells.engine.as_ref().unwrap_or(&self.bells.application).as_fd()
    }

    /// Whether the application has published something that was not taken yet, as far as one look tells.
    #[inline]
    pub fn has_input(&self) -> bool {
        // What is not due is found by whoever takes it.
        !self.send_ring.is_empty(&*self.theirs) || !self.receive_done.is_empty(&*self.theirs)
    }
}
