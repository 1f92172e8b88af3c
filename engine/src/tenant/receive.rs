//! The receiving half of a tenant: room for messages, their way into the receive ring, and what comes back.

use super::Tenant;
use super::flows::{FlowSlot, Link};
use super::send::{Outgoing, halves};
use super::store::{Content, Received};
use machnet_client::control::LISTENER_END_VERSION;
use machnet_client::shm::bell::REASON_RECEIVE;
use machnet_client::shm::layout::{INLINE_BYTES, SLOT_WORDS, receive_done_kind, receive_kind};
use machnet_client::shm::ledger::{Extents, may_take};
use machnet_client::shm::region::write_words;
use machnet_client::shm::ring::{PeerFault, SlotHead};
use std::sync::atomic::Ordering;

/// What the application gave back or said, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned {
    /// Messages of a flow.
    Messages {
        /// Which flow.
        flow: FlowSlot,
        /// How many.
        messages: u32,
        /// Their bytes in all.
        bytes: u64,
    },
    /// The flow was accepted: it counts against this listener no longer.
    Accepted {
        /// The listener.
        listener: u32,
    },
    /// Nothing to act on.
    Nothing,
}

#[expect(clippy::cast_possible_truncation, reason = "112")]
const INLINE_LIMIT: u32 = INLINE_BYTES as u32;

impl Tenant {
    /// Room for all of a message of `len` bytes, or none now. One that is not `in_order` (an earlier message of its flow
    /// has no room yet) gets it only while the largest message would still find room behind it: messages ahead of their
    /// turn cannot be delivered, and if they filled the pool the one that they wait for could never come.
    pub fn reserve(&mut self, slot: FlowSlot, len: u32, in_order: bool) -> Option<u32> {
        let content = if in_order { self.make_room(slot, len)? } else { self.make_room_ahead(slot, len)? };
        Some(self.received.reserve(slot, content, len, !in_order))
    }

    fn make_room_ahead(&mut self, slot: FlowSlot, len: u32) -> Option<Content> {
        let inline = len as usize <= INLINE_BYTES;
        let buffers = if inline { 0 } else { self.geometry.buffers_for(len) };
        let largest = self.geometry.buffers_for(self.geometry.max_receive());
        let messages_fit = self.ahead_messages < self.geometry.receive_slots / 2;
        let buffers_fit = self.ahead_buffers + buffers <= self.rx_ledger.total() - largest;
        let room = self.outstanding < self.geometry.receive_slots && messages_fit && buffers_fit;
        let content = match (room, inline) {
            (false, _) => None,
            (true, true) => Some(Content::Inline([0; INLINE_BYTES])),
            (true, false) => self.rx_ledger.allocate(buffers).map(Content::Buffers),
        };
        if content.is_none() {
            self.starved = true;
            return None;
        }
        self.ahead_messages += 1;
        self.ahead_buffers += buffers;
        self.outstanding += 1;
        let flow = self.flows.at(slot);
        flow.outstanding += 1;
        flow.ahead += 1;
        content
    }

    fn make_room(&mut self, slot: FlowSlot, len: u32) -> Option<Content> {
        let flow = self.flows.look(slot);
        if !may_take(flow.outstanding - flow.ahead, 1, self.geometry.receive_slots - self.outstanding) {
            self.starved = true;
            return None;
        }
        let content = if len as usize <= INLINE_BYTES {
            Content::Inline([0; INLINE_BYTES])
        } else {
            let buffers = self.geometry.buffers_for(len);
            let allowed = may_take(flow.rx_buffers, buffers, self.rx_ledger.free());
            let Some(extents) = allowed.then(|| self.rx_ledger.allocate(buffers)).flatten() else {
                self.starved = true;
                return None;
            };
            self.flows.at(slot).rx_buffers += buffers;
            Content::Buffers(extents)
        };
        self.outstanding += 1;
        self.flows.at(slot).outstanding += 1;
        Some(content)
    }

    /// Bytes of a message for which there is room.
    #[inline]
    pub fn keep(&mut self, handle: u32, offset: u32, bytes: &[u8]) {
        match &mut self.received.at(handle).content {
            Content::Inline(kept) => {
                let start = offset as usize;
                kept[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Content::Buffers(extents) => {
                let extents = *extents;
                self.write(&extents, offset, bytes);
            }
        }
    }

    #[inline]
    fn write(&self, extents: &Extents, offset: u32, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (pool, size) = (self.geometry.rx_offset(), self.geometry.buffer_bytes);
        extents.pieces(pool, size, offset, length, |at, message_offset, piece| {
            let start = (message_offset - offset) as usize;
            self.ours.write_bytes(at, &bytes[start..start + piece as usize]);
        });
    }

    /// Puts a whole reserved message into the receive ring. `false`: the ring is full.
    pub fn deliver(&mut self, handle: u32) -> Result<bool, PeerFault> {
        if !self.has_ring_room()? {
            return Ok(false);
        }
        let message = *self.received.at(handle);
        match &message.content {
            Content::Inline(bytes) => {
                self.received.remove(handle);
                self.no_longer_ahead(&message);
                self.publish_inline(message.flow, &bytes[..message.len as usize]);
            }
            Content::Buffers(extents) => {
                self.received.delivered(handle);
                self.publish_buffers(message.flow, extents, message.len, handle);
            }
        }
        Ok(true)
    }

    /// Takes a whole message that came in one piece. `false`: nothing was taken.
    #[inline(always)]
    pub fn deliver_whole(&mut self, slot: FlowSlot, bytes: &[u8]) -> Result<bool, PeerFault> {
        if !self.has_ring_room()? {
            return Ok(false);
        }
        if bytes.len() > INLINE_BYTES {
            return self.deliver_whole_in_buffers(slot, bytes);
        }
        let flow = self.flows.at(slot);
        if !may_take(flow.outstanding - flow.ahead, 1, self.geometry.receive_slots - self.outstanding) {
            self.starved = true;
            return Ok(false);
        }
        self.outstanding += 1;
        flow.outstanding += 1;
        self.publish_inline(slot, bytes);
        Ok(true)
    }

    #[inline(never)]
    fn deliver_whole_in_buffers(&mut self, slot: FlowSlot, bytes: &[u8]) -> Result<bool, PeerFault> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(content) = self.make_room(slot, len) else { return Ok(false) };
        let Content::Buffers(extents) = &content else {
            unreachable!("a message of {len} bytes fits no slot")
        };
        self.write(extents, 0, bytes);
        let extents = *extents;
        let token = self.received.reserve(slot, content, len, false);
        self.received.delivered(token);
        self.publish_buffers(slot, &extents, len, token);
        Ok(true)
    }

    /// Takes a message from another application of this host: one copy, from its TX buffers to our RX buffers. `false`:
    /// nothing was taken.
    pub fn deliver_local(&mut self, slot: FlowSlot, message: &Outgoing) -> Result<bool, PeerFault> {
        match message {
            Outgoing::Inline(bytes, len) => self.deliver_whole(slot, &bytes[..*len as usize]),
            Outgoing::Buffers { region, pool_offset, buffer_bytes, extents, len } => {
                if !self.has_ring_room()? {
                    return Ok(false);
                }
                let Some(content) = self.make_room(slot, *len) else { return Ok(false) };
                let Content::Buffers(ours) = content else {
                    // A small message in buffers: allowed, if unusual. It fits the slot.
                    let mut bytes = [0; INLINE_BYTES];
                    extents.pieces(*pool_offset, *buffer_bytes, 0, *len, |at, offset, piece| {
                        region.read_bytes(at, &mut bytes[offset as usize..(offset + piece) as usize]);
                    });
                    self.publish_inline(slot, &bytes[..*len as usize]);
                    return Ok(true);
                };
                let (pool, size) = (self.geometry.rx_offset(), self.geometry.buffer_bytes);
                extents.pieces(*pool_offset, *buffer_bytes, 0, *len, |from, offset, piece| {
                    ours.pieces(pool, size, offset, piece, |to, at, part| {
                        region.copy_to(from + (at - offset) as usize, &self.ours, to, part as usize);
                    });
                });
                let token = self.received.reserve(slot, content, *len, false);
                self.received.delivered(token);
                self.publish_buffers(slot, &ours, *len, token);
                Ok(true)
            }
        }
    }

    /// A reserved message will not be delivered: its room is free again.
    pub fn discard(&mut self, handle: u32) {
        let message = self.received.remove(handle);
        self.forget_received(&message);
    }

    fn forget_received(&mut self, message: &Received) {
        self.no_longer_ahead(message);
        let flow = self.flows.at(message.flow);
        flow.outstanding -= 1;
        self.outstanding -= 1;
        if let Content::Buffers(extents) = &message.content {
            if !message.ahead {
                flow.rx_buffers -= extents.buffers();
            }
            self.rx_ledger.release(extents);
        }
        self.relieved = true;
        self.flows.reap(message.flow);
    }

    /// A message that was given room ahead of its turn gives its share of that room back.
    fn no_longer_ahead(&mut self, message: &Received) {
        if !message.ahead {
            return;
        }
        self.flows.at(message.flow).ahead -= 1;
        self.ahead_messages -= 1;
        if let Content::Buffers(extents) = &message.content {
            self.ahead_buffers -= extents.buffers();
        }
    }

    /// Events go before messages: while one waits for a slot, no message may overtake it.
    #[inline(always)]
    fn has_ring_room(&mut self) -> Result<bool, PeerFault> {
        if self.receive_ring.known_free() > 0 && self.events.is_empty() {
            return Ok(true);
        }
        self.look_for_ring_room()
    }

    #[cold]
    #[inline(never)]
    fn look_for_ring_room(&mut self) -> Result<bool, PeerFault> {
        if self.events.is_empty() && self.receive_ring.free(&*self.theirs, 1)? > 0 {
            return Ok(true);
        }
        (self.starved, self.ring_full) = (true, true);
        Ok(false)
    }

    #[inline(always)]
    fn publish_inline(&mut self, slot: FlowSlot, bytes: &[u8]) {
        let flow = self.flows.at(slot);
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_BYTES")]
        let length = bytes.len() as u16;
        flow.inline_messages += 1;
        flow.inline_bytes += u32::from(length);
        flow.delivered += 1;
        flow.delivered_bytes += u64::from(length);
        let word = u64::from(flow.handle()) | u64::from(length) << 32;
        let place = self.receive_ring.open(&self.ours);
        place[1].store(word, Ordering::Relaxed);
        write_words(place, 2, bytes);
        self.receive_ring.seal(place, SlotHead { kind: receive_kind::INLINE, count: 0, length });
        self.ring_reasons |= REASON_RECEIVE;
    }

    fn publish_buffers(&mut self, slot: FlowSlot, extents: &Extents, len: u32, token: u32) {
        let handle = self.flows.handle(slot);
        let flow = self.flows.at(slot);
        flow.delivered += 1;
        flow.delivered_bytes += u64::from(len);
        let list = extents.as_slice();
        let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
        let head = SlotHead { kind: receive_kind::BUFFERS, count, length: 0 };
        self.receive_ring.publish(&self.ours, head, |words| {
            words[1].store(u64::from(handle) | u64::from(len) << 32, Ordering::Relaxed);
            for (place, pair) in words[2..].iter().zip(list.chunks(2)) {
                let high = pair.get(1).map_or(0, |extent| extent.to_raw());
                place.store(u64::from(pair[0].to_raw()) | u64::from(high) << 32, Ordering::Relaxed);
            }
            // The last extent place is the low half of the last word; the token is the high half.
            let low = list.get(26).map_or(0, |extent| u64::from(extent.to_raw()));
            words[SLOT_WORDS - 1].store(low | u64::from(token) << 32, Ordering::Relaxed);
        });
        self.ring_reasons |= REASON_RECEIVE;
    }

    /// Tells the application something behind all messages delivered so far. Never refused: it waits if the ring is full.
    pub fn tell(&mut self, head: SlotHead, flow: u32, argument: u32, more: &[u64]) {
        let mut words = [0; SLOT_WORDS - 1];
        words[0] = u64::from(flow) | u64::from(argument) << 32;
        words[1..=more.len()].copy_from_slice(more);
        self.events.push_back((head, words));
    }

    /// Tells the application the end of a flow, and lets go of what it had sent. `reason` is a reason's code or 0.
    pub fn end_flow(&mut self, slot: FlowSlot, kind: u8, reason: u16) {
        let unacknowledged = self.forget_sent(slot);
        let handle = self.flows.handle(slot);
        self.flows.at(slot).link = Link::Ended;
        self.tell(SlotHead { kind, count: 0, length: reason }, handle, unacknowledged, &[]);
    }

    /// A connect failed: the application never learned the flow's name, so its place is free at once.
    pub fn fail_connect(&mut self, slot: FlowSlot, request: u32, reason: u16) {
        self.abandon(slot);
        self.refuse_connect(request, reason);
    }

    /// Frees a flow whose name the application never learned.
    pub fn abandon(&mut self, slot: FlowSlot) {
        self.flows.at(slot).link = Link::Ended;
        let released = self.flows.release(slot);
        assert!(released.is_ok(), "an ended flow can be released");
    }

    /// A connect failed before there was a flow.
    pub fn refuse_connect(&mut self, request: u32, reason: u16) {
        self.tell(SlotHead { kind: receive_kind::CONNECT_FAILED, count: 0, length: reason }, 0, request, &[]);
    }

    /// A listener has ended. `false`: the application would not understand, and goes on listening.
    pub fn end_listener(&mut self, listener: u32, reason: u16) -> bool {
        let understands = self.identity().version >= LISTENER_END_VERSION;
        if understands {
            let head = SlotHead { kind: receive_kind::LISTENER_ENDED, count: 0, length: reason };
            self.tell(head, 0, listener, &[]);
        }
        understands
    }

    /// Name of a flow on the rings.
    pub fn handle(&self, slot: FlowSlot) -> u32 {
        self.flows.handle(slot)
    }

    pub(super) fn flush_events(&mut self) -> Result<(), PeerFault> {
        while !self.events.is_empty() && self.receive_ring.free(&*self.theirs, 1)? > 0 {
            let Some((head, event)) = self.events.pop_front() else { break };
            self.receive_ring.publish(&self.ours, head, |words| {
                for (place, word) in words[1..].iter().zip(event) {
                    place.store(word, Ordering::Relaxed);
                }
            });
            self.ring_reasons |= REASON_RECEIVE;
            self.relieved = true;
        }
        Ok(())
    }

    /// Takes the next slot of the receive-done ring, if there is one.
    #[inline]
    pub fn take_back(&mut self) -> Result<Option<Returned>, PeerFault> {
        let region = &*self.theirs;
        let Some(slot) = self.receive_done.peek(region)? else { return Ok(None) };
        let (handle, argument) = halves(slot.word(1));
        let returned = match slot.head.kind {
            receive_done_kind::INLINE_TAKEN => {
                let flow = self.flows.resolve(handle)?;
                self.inline_taken(flow, u32::from(slot.head.length), argument)?
            }
            receive_done_kind::BUFFERS_TAKEN => {
                let message = self.received.take_back(argument).ok_or(PeerFault::Token)?;
                self.forget_received(&message);
                Returned::Messages { flow: message.flow, messages: 1, bytes: u64::from(message.len) }
            }
            receive_done_kind::ACCEPTED => {
                let flow = self.flows.resolve(handle)?;
                match self.flows.at(flow).unaccepted.take() {
                    Some(listener) => Returned::Accepted { listener },
                    None => Returned::Nothing,
                }
            }
            receive_done_kind::RELEASED => {
                let flow = self.flows.resolve(handle)?;
                let (messages, bytes) =
                    (self.flows.look(flow).inline_messages, self.flows.look(flow).inline_bytes);
                if messages > 0 {
                    self.inline_taken(flow, messages, bytes)?;
                }
                self.flows.release(flow)?;
                Returned::Nothing
            }
            _ => return Err(PeerFault::Kind),
        };
        self.receive_done.advance();
        Ok(Some(returned))
    }

    /// The application says how many in-slot messages it took, and their bytes. Their sums are what we delivered: it can
    /// name the bytes of one as another's, which changes only when its own peer learns of the room.
    #[inline]
    fn inline_taken(&mut self, slot: FlowSlot, messages: u32, bytes: u32) -> Result<Returned, PeerFault> {
        let flow = self.flows.at(slot);
        let (Some(left), Some(bytes_left)) =
            (flow.inline_messages.checked_sub(messages), flow.inline_bytes.checked_sub(bytes))
        else {
            return Err(PeerFault::Token);
        };
        // None is empty, and none is longer than its slot.
        if messages == 0 || bytes_left < left || bytes_left > left * INLINE_LIMIT {
            return Err(PeerFault::Token);
        }
        (flow.inline_messages, flow.inline_bytes) = (left, bytes_left);
        flow.outstanding -= messages;
        self.outstanding -= messages;
        self.relieved = true;
        Ok(Returned::Messages { flow: slot, messages, bytes: u64::from(bytes) })
    }

    /// Whether a message was refused room and room has come back since; asking clears it.
    #[inline]
    pub fn take_relief(&mut self) -> bool {
        if self.starved && self.relieved {
            (self.starved, self.relieved) = (false, false);
            return true;
        }
        self.relieved = false;
        false
    }

    /// A ring that was full has room again: what was refused may be offered. One look at the application's head. Asking
    /// clears it.
    pub fn ring_drained(&mut self) -> Result<bool, PeerFault> {
        let slots = self.geometry.receive_slots;
        if !self.ring_full || !self.events.is_empty() || self.receive_ring.free(&*self.theirs, slots)? == 0 {
            return Ok(false);
        }
        (self.ring_full, self.starved) = (false, false);
        Ok(true)
    }
}
