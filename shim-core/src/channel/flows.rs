//! The flows of a channel as the application's end knows them.

use super::FlowId;
use super::news::{News, Told};
use super::queue::List;
use crate::error::{Error, ResetReason, Result};
use crate::shm::layout::FlowInfo;
use crate::shm::ledger::{Extents, Ledger};
use crate::shm::ring::PeerFault;
use std::collections::VecDeque;

/// No flow has this handle: its slot would be beyond the largest table.
pub(super) const NO_HANDLE: u32 = u32::MAX;

/// Most messages that a sidecar may let be unacknowledged; see `Geometry::fault`.
const MOST_CREDIT: u32 = 32_768;

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The peer closed.
    Closed,
    /// Our close is complete.
    Finished,
    /// It broke.
    Reset(ResetReason),
}

/// One place of the table.
#[derive(Debug)]
pub(crate) struct FlowState {
    handle: u32,
    /// Sends are taken: open, and not closed by us.
    pub(crate) sendable: bool,
    /// Received messages may be read from their slots: open, not closed by us, and not in channel mode.
    pub(crate) direct: bool,
    /// Somebody holds a handle to it, or may still accept it.
    pub(crate) owned: bool,
    /// We closed or aborted it: whatever still comes is given back unread.
    pub(crate) closing: bool,
    /// Its messages go into the channel's common queue.
    pub(crate) channel_mode: bool,
    /// A stream over it is read no further: nobody has to wait for messages.
    pub(crate) read_to_end: bool,
    /// Nothing more comes.
    pub(crate) end: Option<End>,
    /// Who was told that there is no message, and that there is no credit.
    pub(crate) receiving: Told,
    pub(crate) sending: Told,
    /// What the application calls it in its news.
    pub(crate) token: u64,
    /// Messages published, modulo 2^32.
    pub(crate) sent: u32,
    /// Messages acknowledged, modulo 2^32.
    pub(crate) acknowledged: u32,
    /// Credit that loans reserve.
    pub(crate) reserved: u32,
    /// Messages that may be published and not acknowledged.
    pub(crate) credit: u32,
    /// Largest message in bytes.
    pub(crate) max_message: u32,
    /// In-slot messages taken and not yet told.
    pub(crate) taken: u32,
    /// Their bytes.
    pub(crate) taken_bytes: u32,
    /// Received messages, in flow mode.
    pub(crate) list: List,
    /// Received messages that wait in the common queue, in channel mode.
    pub(crate) common: u32,
    /// TX buffers held by messages under way and by loans.
    pub(crate) held: u32,
    /// TX buffers of each message under way, with the value of `sent` after it.
    pub(crate) under_way: VecDeque<(u32, Extents)>,
    /// Messages without acknowledgement when the flow ended.
    pub(crate) lost: u32,
    /// Its ends.
    pub(crate) info: FlowInfo,
}

impl FlowState {
    fn free() -> Self {
        let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            handle: NO_HANDLE,
            sendable: false,
            direct: false,
            owned: false,
            closing: false,
            channel_mode: false,
            read_to_end: false,
            end: None,
            receiving: Told::default(),
            sending: Told::default(),
            token: 0,
            sent: 0,
            acknowledged: 0,
            reserved: 0,
            credit: 0,
            max_message: 0,
            taken: 0,
            taken_bytes: 0,
            list: List::EMPTY,
            common: 0,
            held: 0,
            under_way: VecDeque::new(),
            lost: 0,
            info: FlowInfo { peer: nowhere, local: nowhere, max_message: 0, credit: 0 },
        }
    }

    /// Messages that are neither acknowledged nor given up.
    #[inline]
    pub(crate) fn outstanding(&self) -> u32 {
        self.sent.wrapping_sub(self.acknowledged)
    }

    /// What its news say besides.
    pub(crate) fn ended_event(&self) -> u32 {
        if self.end.is_some() { News::ENDED } else { 0 }
    }

    /// Whether received messages are thrown away.
    pub(crate) fn discards(&self) -> bool {
        self.closing || !self.owned
    }

    /// Why the flow takes or gives nothing any more.
    pub(crate) fn why_over(&self) -> Error {
        match self.end {
            Some(End::Reset(reason)) if !self.closing => Error::Reset { reason, unacknowledged: self.lost },
            _ => Error::Closed,
        }
    }

    /// The engine says how many messages were acknowledged in all.
    pub(crate) fn acknowledge(
        &mut self,
        total: u32,
        ledger: &mut Ledger,
    ) -> std::result::Result<(), PeerFault> {
        if total.wrapping_sub(self.acknowledged) > self.outstanding() {
            return Err(PeerFault::Credit);
        }
        self.acknowledged = total;
        let outstanding = self.outstanding();
        while let Some((number, extents)) = self.under_way.front() {
            if self.sent.wrapping_sub(*number) < outstanding {
                break;
            }
            self.held -= extents.buffers();
            ledger.release(extents);
            self.under_way.pop_front();
        }
        Ok(())
    }

    /// The flow's last word: all its TX buffers are home.
    pub(crate) fn finish(&mut self, end: End, lost: u32, ledger: &mut Ledger) {
        self.end = Some(end);
        self.sendable = false;
        self.direct = false;
        self.lost = lost;
        for (_, extents) in self.under_way.drain(..) {
            self.held -= extents.buffers();
            ledger.release(&extents);
        }
    }
}

/// All flows of a channel. The lower half of a handle is the place, the upper a generation, so that an old handle is
/// refused rather than taken for its successor.
#[derive(Debug)]
pub(crate) struct FlowTable {
    flows: Vec<FlowState>,
    limit: usize,
}

#[inline]
fn place(handle: u32) -> usize {
    (handle & 0xffff) as usize
}

impl FlowTable {
    /// A table for `limit` flows at a time. Places are made as the engine first names them.
    pub(crate) fn new(limit: u32) -> Self {
        Self { flows: Vec::new(), limit: limit as usize }
    }

    /// The flow of a handle, if it is alive.
    #[inline]
    pub(crate) fn find(&mut self, handle: u32) -> Option<&mut FlowState> {
        match self.flows.get_mut(place(handle)) {
            Some(flow) if flow.handle == handle => Some(flow),
            _ => None,
        }
    }

    /// The flow of a handle, to look at.
    #[inline]
    pub(crate) fn look(&self, handle: u32) -> Option<&FlowState> {
        self.flows.get(place(handle)).filter(|flow| flow.handle == handle)
    }

    /// As [`Self::find`], for what the application names.
    #[inline]
    pub(crate) fn named(&mut self, id: FlowId) -> Result<&mut FlowState> {
        // Not `ok_or`: that would make and drop an error for each message.
        match self.find(id.handle) {
            Some(flow) => Ok(flow),
            None => Err(Error::UnknownFlow),
        }
    }

    /// A flow that the engine opened.
    pub(crate) fn open(
        &mut self,
        handle: u32,
        info: FlowInfo,
        max_send: u32,
    ) -> std::result::Result<&mut FlowState, PeerFault> {
        let at = place(handle);
        if at >= self.limit {
            return Err(PeerFault::Flow);
        }
        if info.credit == 0 || info.credit > MOST_CREDIT {
            return Err(PeerFault::Credit);
        }
        while self.flows.len() <= at {
            self.flows.push(FlowState::free());
        }
        let flow = &mut self.flows[at];
        if flow.handle != NO_HANDLE {
            return Err(PeerFault::Flow);
        }
        let under_way = std::mem::take(&mut flow.under_way);
        *flow = FlowState {
            handle,
            sendable: true,
            direct: true,
            owned: true,
            credit: info.credit,
            max_message: info.max_message.min(max_send),
            info,
            under_way,
            ..FlowState::free()
        };
        Ok(flow)
    }

    /// Forgets a flow; its place may be opened again.
    pub(crate) fn remove(&mut self, handle: u32) {
        if let Some(flow) = self.find(handle) {
            assert!(flow.list.is_empty() && flow.common == 0 && flow.taken == 0, "a flow went with messages");
            flow.handle = NO_HANDLE;
            flow.sendable = false;
            flow.direct = false;
        }
    }

    /// The handles of all flows.
    pub(crate) fn handles(&self) -> Vec<u32> {
        self.flows.iter().map(|flow| flow.handle).filter(|&handle| handle != NO_HANDLE).collect()
    }

    /// Whether every flow has ended.
    pub(crate) fn all_ended(&self) -> bool {
        self.flows.iter().all(|flow| flow.handle == NO_HANDLE || flow.end.is_some())
    }
}
