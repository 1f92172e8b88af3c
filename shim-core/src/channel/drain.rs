//! Taking what the engine published: messages, outcomes and ends of flows, credit.

use super::flows::End;
use super::queue::Entry;
use super::{Core, FlowId, Wants};
use crate::error::ResetReason;
use crate::shm::layout::{
    FlowInfo, INLINE_BYTES, MAX_EXTENTS, SLOT_WORDS, receive_done_kind, receive_kind, send_done_kind,
    send_kind,
};
use crate::shm::ring::{Memory, PeerFault, SlotHead};

/// A received slot, its fields loaded once.
#[derive(Clone, Copy)]
struct Taken {
    head: SlotHead,
    flow: u32,
    argument: u32,
    /// Where the slot lies in the engine's region.
    at: usize,
}

impl Core {
    /// Takes everything there is from both of the engine's rings and pushes what waited for room.
    pub(crate) fn poll(&mut self) {
        if self.over.is_some() {
            return;
        }
        if self.flush_ends() {
            self.notify();
        }
        let mut came = self.poll_send_done();
        // One turn of the ring bounds the loop, however fast the engine publishes.
        for _ in 0..self.geometry.receive_slots {
            let Some(taken) = self.next_slot() else { break };
            came = true;
            if let Err(fault) = self.take(taken) {
                return self.broken(fault);
            }
            self.receive_ring.advance();
        }
        if came {
            self.receive_ring.tell_head(&*self.ours);
            self.empty_polls = 0;
            self.changed = true;
            self.flush_returns();
            if self.flush_ends() {
                self.notify();
            }
            self.notify_if_pushed();
        } else {
            self.count_empty_poll();
        }
    }

    fn next_slot(&mut self) -> Option<Taken> {
        let at = self.receive_ring.next_offset();
        match self.receive_ring.peek(&*self.theirs) {
            Ok(None) => None,
            Ok(Some(slot)) => {
                let (flow, argument) = halves(slot.word(1));
                Some(Taken { head: slot.head, flow, argument, at })
            }
            Err(fault) => {
                self.broken(fault);
                None
            }
        }
    }

    fn take(&mut self, taken: Taken) -> Result<(), PeerFault> {
        match taken.head.kind {
            receive_kind::INLINE => self.take_inline(taken),
            receive_kind::BUFFERS => self.take_buffers(taken),
            receive_kind::CONNECTED => self.take_connected(taken),
            receive_kind::CONNECT_FAILED => self.take_connect_failed(taken),
            receive_kind::ACCEPTED => self.take_accepted(taken),
            receive_kind::CLOSED => self.take_end(taken, End::Closed),
            receive_kind::FINISHED => self.take_end(taken, End::Finished),
            receive_kind::RESET => {
                let reason = ResetReason::from_code(taken.head.length);
                self.take_end(taken, End::Reset(reason))
            }
            receive_kind::LISTENER_ENDED => {
                self.take_listener_end(taken.argument, ResetReason::from_code(taken.head.length));
                Ok(())
            }
            _ => Err(PeerFault::Kind),
        }
    }

    fn take_inline(&mut self, taken: Taken) -> Result<(), PeerFault> {
        let length = usize::from(taken.head.length);
        if length == 0 || length > INLINE_BYTES {
            return Err(PeerFault::Length);
        }
        let flow = self.receiving(taken.flow)?;
        if flow.discards() {
            if self.count_taken(taken.flow, taken.head.length) {
                self.flush_taken();
            }
            return Ok(());
        }
        self.queue(Entry::new(taken.flow, u32::from(taken.head.length), 0, self.slot_bytes(taken.at)))
    }

    fn take_buffers(&mut self, taken: Taken) -> Result<(), PeerFault> {
        let length = taken.argument;
        if length == 0 || length > self.geometry.max_receive() {
            return Err(PeerFault::Length);
        }
        if usize::from(taken.head.count) > MAX_EXTENTS {
            return Err(PeerFault::Buffer);
        }
        let entry = Entry::new(taken.flow, length, taken.head.count, self.slot_bytes(taken.at));
        let mut buffers = 0;
        for (first, count) in entry.runs() {
            if count == 0 || first + count > self.geometry.rx_buffers {
                return Err(PeerFault::Buffer);
            }
            buffers += count;
        }
        if buffers != self.geometry.buffers_for(length) {
            return Err(PeerFault::Buffer);
        }
        if self.receiving(taken.flow)?.discards() {
            self.push_done(receive_done_kind::BUFFERS_TAKEN, 0, taken.flow, entry.token());
            return Ok(());
        }
        self.queue(entry)
    }

    /// The flow that a message came on: known, and not ended.
    fn receiving(&mut self, handle: u32) -> Result<&mut super::flows::FlowState, PeerFault> {
        self.flows.find(handle).filter(|flow| flow.end.is_none()).ok_or(PeerFault::Flow)
    }

    fn queue(&mut self, entry: Entry) -> Result<(), PeerFault> {
        let Some(flow) = self.flows.find(entry.flow) else { return Err(PeerFault::Flow) };
        let list = if flow.channel_mode {
            flow.common += 1;
            self.news.note(&mut self.common_told, Wants::Any);
            &mut self.common
        } else {
            self.news.note(&mut flow.receiving, Wants::Receive(FlowId { handle: entry.flow }));
            &mut flow.list
        };
        if self.slab.push(list, entry) { Ok(()) } else { Err(PeerFault::Credit) }
    }

    pub(super) fn slot_bytes(&self, at: usize) -> [u8; INLINE_BYTES] {
        let mut bytes = [0; INLINE_BYTES];
        self.theirs.read_bytes(at + 16, &mut bytes);
        bytes
    }

    fn slot_flow_info(&self, at: usize) -> FlowInfo {
        let words = self.theirs.words::<SLOT_WORDS>(at);
        FlowInfo::from_words(std::array::from_fn(|index| words.load(2 + index)))
    }

    fn take_connected(&mut self, taken: Taken) -> Result<(), PeerFault> {
        let request = self.connects.get_mut(&taken.argument).filter(|request| request.outcome.is_none());
        let Some(request) = request else { return Err(PeerFault::Token) };
        request.outcome = Some(Ok(taken.flow));
        self.news.note(&mut request.told, Wants::Connect(taken.argument));
        let abandoned = request.abandoned;
        let info = self.slot_flow_info(taken.at);
        self.flows.open(taken.flow, info, self.geometry.max_send())?;
        self.note_room(); // The connect's slot was taken out of the ring.
        if abandoned {
            self.remove_connect(taken.argument);
            self.disown(FlowId { handle: taken.flow });
        }
        Ok(())
    }

    fn take_connect_failed(&mut self, taken: Taken) -> Result<(), PeerFault> {
        let request = self.connects.get_mut(&taken.argument).filter(|request| request.outcome.is_none());
        let Some(request) = request else { return Err(PeerFault::Token) };
        request.outcome = Some(Err(taken.head.length));
        self.news.note(&mut request.told, Wants::Connect(taken.argument));
        if request.abandoned {
            self.remove_connect(taken.argument);
        }
        self.note_room(); // The connect's slot was taken out of the ring.
        Ok(())
    }

    fn take_accepted(&mut self, taken: Taken) -> Result<(), PeerFault> {
        let info = self.slot_flow_info(taken.at);
        self.flows.open(taken.flow, info, self.geometry.max_send())?;
        let listener = taken.argument;
        if self.listeners.contains_key(&listener) {
            self.arrive(listener, taken.flow);
        } else if self.listens_pending > 0 {
            self.orphans.push((listener, taken.flow));
        } else {
            self.refuse(taken.flow);
        }
        Ok(())
    }

    /// The engine has ended a listener. One that is not known was given up by the application just before, or its reply has not
    /// come yet.
    pub(super) fn take_listener_end(&mut self, listener: u32, reason: ResetReason) {
        let Some(state) = self.listeners.get_mut(&listener) else {
            if self.listens_pending > 0 {
                self.ended_early.push((listener, reason));
            }
            return;
        };
        state.ended = Some(reason);
        if state.channel_mode {
            self.ended_any = Some(reason);
            self.news.note(&mut self.common_told, Wants::Any);
        } else {
            self.news.note(&mut state.told, Wants::Accept(listener));
        }
    }

    /// A flow came to a listener that is known.
    pub(super) fn arrive(&mut self, listener: u32, flow: u32) {
        let Some(state) = self.listeners.get_mut(&listener) else { return };
        if state.channel_mode {
            self.push_done(receive_done_kind::ACCEPTED, 0, flow, 0);
            self.enter_channel_mode(flow);
        } else {
            state.arrived.push_back(flow);
            self.news.note(&mut state.told, Wants::Accept(listener));
        }
    }

    /// Ends a flow that nobody accepted.
    pub(super) fn refuse(&mut self, handle: u32) {
        let id = FlowId { handle };
        let _ = self.abort(id); // It may have ended by itself.
        self.disown(id);
    }

    fn take_end(&mut self, taken: Taken, end: End) -> Result<(), PeerFault> {
        let Some(flow) = self.flows.find(taken.flow).filter(|flow| flow.end.is_none()) else {
            return Err(PeerFault::Flow);
        };
        flow.finish(end, taken.argument, &mut self.tx);
        let id = FlowId { handle: taken.flow };
        self.news.note(&mut flow.receiving, Wants::Receive(id));
        self.news.note(&mut flow.sending, Wants::Send(id));
        if !flow.owned || (flow.channel_mode && flow.common == 0) {
            self.release(taken.flow);
        }
        self.note_room();
        Ok(())
    }

    /// Takes credit that came back. Says whether any did.
    pub(super) fn poll_send_done(&mut self) -> bool {
        let mut came = false;
        for _ in 0..self.geometry.send_done_slots() {
            let (kind, (handle, total)) = match self.send_done.peek(&*self.theirs) {
                Ok(None) => break,
                Ok(Some(slot)) => (slot.head.kind, halves(slot.word(1))),
                Err(fault) => {
                    self.broken(fault);
                    break;
                }
            };
            if kind != send_done_kind::CREDIT {
                self.broken(PeerFault::Kind);
                break;
            }
            self.send_done.advance();
            came = true;
            // Credit may come a moment after the flow's end and find nobody; after the end nothing is under way.
            let Some(flow) = self.flows.find(handle).filter(|flow| flow.end.is_none()) else { continue };
            if let Err(fault) = flow.acknowledge(total, &mut self.tx) {
                self.broken(fault);
                break;
            }
            self.news.note(&mut flow.sending, Wants::Send(FlowId { handle }));
            self.note_room();
        }
        if came {
            self.send_done.tell_head(&*self.ours);
            self.changed = true;
        }
        came
    }

    /// Pushes CLOSE and RESET slots that waited for room. Says whether any went.
    pub(super) fn flush_ends(&mut self) -> bool {
        let mut any = false;
        while let Some(&(kind, handle)) = self.unsent_ends.front() {
            // An ended flow needs no close, and its number may be another's already.
            if self.flows.find(handle).is_some_and(|flow| flow.end.is_none()) {
                match self.send_ring.free(&*self.theirs, 1) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(fault) => {
                        self.broken(fault);
                        break;
                    }
                }
                debug_assert!(kind == send_kind::CLOSE || kind == send_kind::RESET, "only ends wait here");
                self.publish_plain(kind, handle);
                any = true;
            }
            self.unsent_ends.pop_front();
        }
        any
    }
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
