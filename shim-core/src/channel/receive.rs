//! What the application takes: messages, flows that arrived; and what it gives back.

use super::news::Told;
use super::queue::Entry;
use super::{Core, FlowId, ListenerState, Wants};
use crate::error::{Error, ResetReason, Result};
use crate::message::Message;
use crate::shm::layout::{INLINE_BYTES, SLOT_WORDS, receive_done_kind, receive_kind};
use crate::shm::region::read_words;
use crate::shm::ring::ReadWords;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Every so many looks that find nothing, one goes the long way.
const QUIET_LOOKS: u32 = 8;

/// Ended channel-mode flows that are remembered.
const ENDED_MOST: usize = 1024;

/// Whose messages a call wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Those of one flow in flow mode.
    Flow(FlowId),
    /// Those of every flow in channel mode, in order of arrival.
    Any,
}

/// A channel-mode flow, named by its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) flow: FlowId,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Core {
    /// The flow's next message, if one is there. Messages that came before the flow's end come before its error.
    pub(crate) fn try_recv(&mut self, id: FlowId) -> Result<Option<Message>> {
        match self.recv_direct(id) {
            Some(message) => Ok(Some(message)),
            None => self.recv_queued(id),
        }
    }

    /// As [`Self::try_recv`], if the short way is open.
    #[inline(always)]
    pub(crate) fn recv_direct(&mut self, id: FlowId) -> Option<Message> {
        self.take_direct(id, INLINE_BYTES, |slot, length| Message::inline(length, slot))
    }

    fn recv_queued(&mut self, id: FlowId) -> Result<Option<Message>> {
        let Some(entry) = self.next_entry(Source::Flow(id))? else { return Ok(None) };
        let message = self.message_of(&entry);
        self.took_entry(Source::Flow(id), &entry);
        Ok(Some(message))
    }

    /// As [`Self::try_recv`], into the caller's buffer; the message stays if it does not fit.
    pub(crate) fn try_recv_into(&mut self, id: FlowId, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.recv_into_direct(id, buffer) {
            Some(length) => Ok(Some(length)),
            None => self.recv_queued_into(id, buffer),
        }
    }

    /// As [`Self::try_recv_into`], if the short way is open.
    #[inline(always)]
    pub(crate) fn recv_into_direct(&mut self, id: FlowId, buffer: &mut [u8]) -> Option<usize> {
        self.take_direct(id, buffer.len(), |slot, length| {
            read_words(slot, 2, &mut buffer[..length]);
            length
        })
    }

    fn recv_queued_into(&mut self, id: FlowId, buffer: &mut [u8]) -> Result<Option<usize>> {
        let Some(entry) = self.next_entry(Source::Flow(id))? else { return Ok(None) };
        self.copy_entry(&entry, buffer)?;
        self.took_entry(Source::Flow(id), &entry);
        Ok(Some(entry.length as usize))
    }

    /// The short way, which most messages go: nothing is queued for the flow, and the next slot of the ring is an in-slot
    /// message of it, of at most `room` bytes. Nothing in any other case.
    #[inline(always)]
    fn take_direct<T>(
        &mut self,
        id: FlowId,
        room: usize,
        read: impl FnOnce(ReadWords<'_, SLOT_WORDS>, usize) -> T,
    ) -> Option<T> {
        let flow = self.flows.find(id.handle)?;
        if !flow.list.is_empty() || !flow.direct {
            return None;
        }
        let Ok(Some(slot)) = self.receive_ring.peek(&*self.theirs) else { return None };
        let length = usize::from(slot.head.length);
        #[expect(clippy::cast_possible_truncation, reason = "the lower half of its word")]
        let same_flow = slot.word(1) as u32 == id.handle;
        let fits = length.wrapping_sub(1) < INLINE_BYTES && length <= room;
        if slot.head.kind != receive_kind::INLINE || !same_flow || !fits {
            return None;
        }
        let (taken, head) = (read(slot.words(), length), slot.head);
        self.receive_ring.advance();
        self.empty_polls = 0;
        flow.receiving.forget(); // What is news for it would be queued, and this way closed.
        if self.count_taken(id.handle, head.length) {
            self.after_direct();
        }
        Some(taken)
    }

    /// The short way of a look that finds nothing: the flow's messages are read from the ring, and its next slot is not there.
    /// Says false now and then all the same, so that the long way sees to credit and to what was held back.
    #[inline(always)]
    pub(crate) fn is_quiet(&mut self, id: FlowId) -> bool {
        let Some(flow) = self.flows.look(id.handle) else { return false };
        let may_come = flow.list.is_empty() && flow.direct && !self.event_mode && self.over.is_none();
        self.quiet_looks = self.quiet_looks.wrapping_add(1);
        may_come && self.receive_ring.is_empty(&*self.theirs) && !self.quiet_looks.is_multiple_of(QUIET_LOOKS)
    }

    #[inline(never)]
    fn after_direct(&mut self) {
        self.receive_ring.tell_head(&*self.ours);
        self.flush_taken();
        self.notify_if_pushed();
    }

    /// An in-slot message was taken from a queue.
    #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_BYTES")]
    fn took_inline(&mut self, entry: &Entry) {
        if self.count_taken(entry.flow, entry.length as u16) {
            self.flush_taken();
        }
    }

    /// Whether a receive would be answered now, with a message or an error.
    pub(crate) fn can_recv(&self, from: Source) -> bool {
        match from {
            _ if self.over.is_some() => true,
            Source::Any => !self.common.is_empty() || self.ended_any.is_some(),
            Source::Flow(id) => self.flows.look(id.handle).is_none_or(|flow| {
                let is_answered_without = flow.closing || flow.channel_mode || flow.read_to_end;
                !flow.list.is_empty() || flow.end.is_some() || is_answered_without
            }),
        }
    }

    /// A stream over the flow is read no further: the waits of all its readers are over.
    pub(crate) fn end_waits_to_recv(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.find(id.handle) {
            flow.read_to_end = true;
            self.changed = true;
        }
    }

    /// The next message of any channel-mode flow, with the flow it came on.
    pub(crate) fn try_recv_any(&mut self) -> Result<Option<(Ends, Message)>> {
        let Some(entry) = self.next_entry(Source::Any)? else { return Ok(None) };
        let ends = self.ends_of(&entry)?;
        let message = self.message_of(&entry);
        self.took_entry(Source::Any, &entry);
        Ok(Some((ends, message)))
    }

    /// As [`Self::try_recv_any`], into the caller's buffer; the message stays if it does not fit.
    pub(crate) fn try_recv_any_into(&mut self, buffer: &mut [u8]) -> Result<Option<(Ends, usize)>> {
        let Some(entry) = self.next_entry(Source::Any)? else { return Ok(None) };
        let ends = self.ends_of(&entry)?;
        self.copy_entry(&entry, buffer)?;
        self.took_entry(Source::Any, &entry);
        Ok(Some((ends, entry.length as usize)))
    }

    fn ends_of(&self, entry: &Entry) -> Result<Ends> {
        let id = FlowId { handle: entry.flow };
        self.look(id).map(|look| Ends { flow: id, peer: look.peer, local: look.local })
    }

    /// Copies a message into the caller's buffer and returns the engine's.
    fn copy_entry(&mut self, entry: &Entry, buffer: &mut [u8]) -> Result<()> {
        let length = entry.length as usize;
        let Some(target) = buffer.get_mut(..length) else {
            return Err(Error::BufferTooSmall { needed: length });
        };
        if entry.extents == 0 {
            target.copy_from_slice(&entry.bytes[..length]);
        } else {
            self.copy_out(entry, target);
            self.give_back(entry);
        }
        Ok(())
    }

    /// Drops the next message of a queue. Says whether there was one.
    pub(crate) fn drop_queued(&mut self, from: Source) -> Result<bool> {
        let Some(entry) = self.next_entry(from)? else { return Ok(false) };
        self.give_back(&entry);
        self.took_entry(from, &entry);
        Ok(true)
    }

    /// A copy of the first entry of a queue, looking into the rings if there is none yet.
    fn next_entry(&mut self, from: Source) -> Result<Option<Entry>> {
        if let Some(entry) = self.queued(from)? {
            return Ok(Some(entry));
        }
        self.poll();
        if let Some(entry) = self.queued(from)? {
            return Ok(Some(entry));
        }
        self.check_over()?;
        match from {
            Source::Any => self.ended_any.take().map_or(Ok(None), |reason| Err(listener_ended(reason))),
            Source::Flow(id) => {
                let flow = self.flows.named(id)?;
                if flow.end.is_some() || flow.closing { Err(flow.why_over()) } else { Ok(None) }
            }
        }
    }

    fn queued(&mut self, from: Source) -> Result<Option<Entry>> {
        let list = match from {
            Source::Any => self.common,
            Source::Flow(id) => {
                let flow = self.flows.named(id)?;
                if flow.channel_mode {
                    return Err(Error::WrongMode);
                }
                flow.list
            }
        };
        Ok(self.slab.front(&list).cloned())
    }

    /// Takes the first entry off its queue, after its bytes were taken care of.
    fn took_entry(&mut self, from: Source, entry: &Entry) {
        if entry.extents == 0 {
            self.took_inline(entry);
        }
        match from {
            Source::Flow(id) => {
                if let Some(flow) = self.flows.find(id.handle) {
                    self.slab.pop(&mut flow.list);
                }
            }
            Source::Any => {
                self.slab.pop(&mut self.common);
                if let Some(flow) = self.flows.find(entry.flow) {
                    flow.common -= 1;
                    if flow.common == 0 && flow.end.is_some() {
                        self.release(entry.flow);
                    }
                }
            }
        }
        self.notify_if_pushed();
    }

    fn message_of(&mut self, entry: &Entry) -> Message {
        let length = entry.length as usize;
        if entry.extents == 0 {
            return Message::copied(length, entry.bytes);
        }
        if entry.extents == 1
            && let Some((first, _)) = entry.runs().next()
        {
            let start = self.geometry.rx_offset() + (first * self.geometry.buffer_bytes) as usize;
            return Message::lent(self.theirs.lease(start, length), entry.token(), &self.returns);
        }
        let mut gathered = vec![0; length];
        self.copy_out(entry, &mut gathered);
        self.give_back(entry);
        Message::gathered(gathered)
    }

    fn copy_out(&self, entry: &Entry, target: &mut [u8]) {
        let mut rest = target;
        for (first, count) in entry.runs() {
            let start = self.geometry.rx_offset() + (first * self.geometry.buffer_bytes) as usize;
            let take = rest.len().min((count * self.geometry.buffer_bytes) as usize);
            let (piece, behind) = rest.split_at_mut(take);
            self.theirs.read_bytes(start, piece);
            rest = behind;
        }
        assert!(rest.is_empty(), "a message reaches beyond its buffers");
    }

    /// Returns an entry's buffers.
    fn give_back(&mut self, entry: &Entry) {
        if entry.extents > 0 {
            self.push_done(receive_done_kind::BUFFERS_TAKEN, 0, entry.flow, entry.token());
        }
    }

    /// Throws away everything that is queued for a flow.
    pub(super) fn discard(&mut self, id: FlowId) {
        let Some(flow) = self.flows.find(id.handle) else { return };
        let mut list = if flow.channel_mode {
            flow.common = 0;
            let ends = (flow.info.peer, flow.info.local);
            if self.by_ends.get(&ends) == Some(&id.handle) {
                self.by_ends.remove(&ends);
                self.remember_ended(ends);
            }
            self.slab.extract(&mut self.common, id.handle)
        } else {
            std::mem::replace(&mut flow.list, super::queue::List::EMPTY)
        };
        while let Some(entry) = self.slab.front(&list).cloned() {
            self.give_back(&entry);
            if entry.extents == 0 {
                self.took_inline(&entry);
            }
            self.slab.pop(&mut list);
        }
    }

    /// The last word about a flow that ended: the engine may use its number anew.
    pub(super) fn release(&mut self, handle: u32) {
        self.discard(FlowId { handle });
        self.flush_taken_of(handle);
        if let Some(flow) = self.flows.find(handle) {
            self.news.remove(&mut flow.receiving);
            self.news.remove(&mut flow.sending);
        }
        self.push_done(receive_done_kind::RELEASED, 0, handle, 0);
        self.flows.remove(handle);
        self.forget_gone();
        self.changed = true;
    }

    /// Puts a flow into channel mode: what is queued and what comes is found in the common queue.
    pub(crate) fn enter_channel_mode(&mut self, handle: u32) {
        let Some(flow) = self.flows.find(handle) else { return };
        if flow.channel_mode {
            return;
        }
        flow.channel_mode = true;
        flow.direct = false;
        let mut at = flow.list;
        let mut count = 0;
        while self.slab.front(&at).is_some() {
            count += 1;
            at = self.slab.behind(&at);
        }
        flow.common = count;
        self.slab.append(&mut self.common, &mut flow.list);
        self.by_ends.insert((flow.info.peer, flow.info.local), handle);
        if count > 0 {
            self.news.note(&mut self.common_told, Wants::Any);
        }
        self.changed = true;
        if flow.end.is_some() && count == 0 {
            self.release(handle);
        }
    }

    fn remember_ended(&mut self, ends: (SocketAddr, SocketAddr)) {
        if self.ended.len() == ENDED_MOST {
            self.ended.pop_front();
        }
        self.ended.push_back(ends);
    }

    /// The channel-mode flow between two ends; `Closed` if there was one lately.
    pub(crate) fn find_by_ends(&self, peer: SocketAddr, local: SocketAddr) -> Result<FlowId> {
        match self.by_ends.get(&(peer, local)) {
            Some(&handle) => Ok(FlowId { handle }),
            None if self.ended.contains(&(peer, local)) => Err(Error::Closed),
            None => Err(Error::UnknownFlow),
        }
    }

    /// Whether a flow is in channel mode.
    pub(crate) fn is_channel_mode(&self, id: FlowId) -> Result<bool> {
        self.flows.look(id.handle).map(|flow| flow.channel_mode).ok_or(Error::UnknownFlow)
    }

    /// A listen request goes out; flows may arrive before its reply is seen.
    pub(crate) fn begin_listen(&mut self) {
        self.listens_pending += 1;
    }

    /// The reply came, with the listener's number, or none if it failed.
    pub(crate) fn end_listen(&mut self, listener: Option<u32>, channel_mode: bool) {
        self.listens_pending -= 1;
        if let Some(listener) = listener {
            self.listeners.insert(
                listener,
                ListenerState {
                    channel_mode,
                    arrived: VecDeque::new(),
                    ended: None,
                    told: Told::default(),
                    token: 0,
                },
            );
        }
        for (of, reason) in std::mem::take(&mut self.ended_early) {
            self.take_listener_end(of, reason);
        }
        for (of, flow) in std::mem::take(&mut self.orphans) {
            if Some(of) == listener {
                self.arrive(of, flow);
            } else if self.listens_pending == 0 {
                self.refuse(flow);
            } else {
                self.orphans.push((of, flow));
            }
        }
        self.changed = true;
        self.notify();
    }

    /// Forgets a listener; what nobody accepted is refused.
    pub(crate) fn forget_listener(&mut self, listener: u32) -> bool {
        let Some(mut state) = self.listeners.remove(&listener) else { return false };
        self.news.remove(&mut state.told);
        self.forget_gone();
        for flow in state.arrived {
            self.refuse(flow);
        }
        self.changed = true;
        self.notify();
        true
    }

    /// The next flow that arrived at the listener.
    pub(crate) fn try_accept(&mut self, listener: u32) -> Result<Option<FlowId>> {
        let mut polled = false;
        loop {
            let Some(state) = self.listeners.get_mut(&listener) else {
                return Err(self.check_over().err().unwrap_or(Error::Closed));
            };
            if state.channel_mode {
                return Err(Error::WrongMode);
            }
            if let Some(handle) = state.arrived.pop_front() {
                self.push_done(receive_done_kind::ACCEPTED, 0, handle, 0);
                self.notify();
                return Ok(Some(FlowId { handle }));
            }
            if let Some(reason) = state.ended {
                return Err(listener_ended(reason));
            }
            if polled {
                return self.check_over().map(|()| None);
            }
            self.poll();
            polled = true;
        }
    }

    /// Whether an accept would be answered now.
    pub(crate) fn can_accept(&self, listener: u32) -> bool {
        self.over.is_some()
            || self
                .listeners
                .get(&listener)
                .is_none_or(|state| state.channel_mode || state.ended.is_some() || !state.arrived.is_empty())
    }
}

/// What the waits of a listener that the engine ended are answered.
fn listener_ended(reason: ResetReason) -> Error {
    Error::ListenRefused { text: format!("{reason}; listen again when it is back") }
}
