//! The sending half of a tenant: slots of the send ring become checked messages and requests.

use super::Tenant;
use super::flows::{Flow, FlowSlot, Link, NIL};
use super::store::{Content, Sent};
use machnet_client::shm::layout::{ConnectRequest, INLINE_BYTES, MAX_EXTENTS, SLOT_WORDS, send_kind};
use machnet_client::shm::ledger::Extents;
use machnet_client::shm::region::{Mapping, Read, copy_short_slice};
use machnet_client::shm::ring::{PeerFault, Slot};
use std::sync::Arc;

/// What one slot of the send ring asked for, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// A message; its bytes are kept under `handle` until it is acknowledged.
    Message {
        /// Its flow.
        flow: FlowSlot,
        /// Its name in this tenant.
        handle: u32,
        /// Its length in bytes.
        len: u32,
    },
    /// Open a connection.
    Connect {
        /// The application's number for it.
        request: u32,
        /// To where.
        to: ConnectRequest,
    },
    /// Close in order.
    Close {
        /// Which flow.
        flow: FlowSlot,
    },
    /// Abort.
    Reset {
        /// Which flow.
        flow: FlowSlot,
    },
    /// A slot without consequence, such as a message for a flow that ended meanwhile.
    Nothing,
}

/// The bytes of a message on its way to another application of this host.
#[derive(Debug)]
pub enum Outgoing {
    /// In private memory.
    Inline([u8; INLINE_BYTES], u32),
    /// In TX buffers of the sending application.
    Buffers {
        /// The sender's region.
        region: Arc<Mapping<Read>>,
        /// Where its TX buffers start.
        pool_offset: usize,
        /// Size of one.
        buffer_bytes: u32,
        /// Which ones.
        extents: Extents,
        /// Length of the message.
        len: u32,
    },
}

impl Outgoing {
    /// Length of the message in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Self::Inline(_, len) | Self::Buffers { len, .. } => *len,
        }
    }

    /// Messages are never empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tenant {
    /// Takes the next slot of the send ring, if there is one.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Taken>, PeerFault> {
        let Some(slot) = self.send_ring.peek(&*self.theirs)? else { return Ok(None) };
        let (handle, len) = halves(slot.word(1));
        if slot.head.kind != send_kind::INLINE {
            return self.take_other();
        }
        if len.wrapping_sub(1) as usize >= INLINE_BYTES || u32::from(slot.head.length) != len {
            return Err(PeerFault::Length);
        }
        let (flow_slot, flow) = self.flows.named(handle)?;
        if !flow.takes(len) {
            let taken = not_taken(flow, len)?;
            self.send_ring.advance();
            return Ok(Some(taken));
        }
        flow.sent += 1;
        flow.sent_bytes += u64::from(len);
        let handle = self.sent.push_inline(&mut flow.tx_list, slot.words(), len);
        self.send_ring.advance();
        Ok(Some(Taken::Message { flow: flow_slot, handle, len }))
    }

    /// As [`Self::take`], of a slot that is no in-slot message.
    #[inline(never)]
    fn take_other(&mut self) -> Result<Option<Taken>, PeerFault> {
        let Some(slot) = self.send_ring.peek(&*self.theirs)? else { return Ok(None) };
        let (handle, argument) = halves(slot.word(1));
        let taken = match slot.head.kind {
            send_kind::BUFFERS => {
                let flow = self.flows.resolve(handle)?;
                let raw = raw_extents(&slot)?;
                self.claim(flow, &raw[..usize::from(slot.head.count)], argument)?
            }
            send_kind::CONNECT => {
                let words = std::array::from_fn(|index| slot.word(2 + index));
                Taken::Connect { request: argument, to: ConnectRequest::from_words(words) }
            }
            send_kind::CLOSE => Taken::Close { flow: self.flows.resolve(handle)? },
            send_kind::RESET => Taken::Reset { flow: self.flows.resolve(handle)? },
            _ => return Err(PeerFault::Kind),
        };
        self.send_ring.advance();
        Ok(Some(taken))
    }

    fn claim(&mut self, flow: FlowSlot, raw: &[u32], len: u32) -> Result<Taken, PeerFault> {
        if len == 0 || len > self.geometry.max_send() {
            return Err(PeerFault::Length);
        }
        let extents = self.tx_ledger.claim(raw, self.geometry.buffers_for(len))?;
        let state = self.flows.at(flow);
        if !state.takes(len) {
            self.tx_ledger.release(&extents); // Its buffers are home by the end event.
            return not_taken(state, len);
        }
        state.sent += 1;
        state.sent_bytes += u64::from(len);
        let handle = self.sent.push(&mut state.tx_list, Content::Buffers(extents), len);
        Ok(Taken::Message { flow, handle, len })
    }

    /// The first message of a flow that the peer has not acknowledged.
    pub fn first_sent(&self, flow: FlowSlot) -> Option<u32> {
        let first = self.flows.look(flow).tx_list.0;
        (first != NIL).then_some(first)
    }

    /// The message that was sent on the same flow after this one, if there is one.
    pub fn sent_after(&self, handle: u32) -> Option<u32> {
        self.sent.after(handle)
    }

    /// Length in bytes of a sent message.
    #[cfg(test)]
    pub fn sent_len(&self, handle: u32) -> u32 {
        self.sent.at(handle).len
    }

    /// The bytes of a sent message for another application of this host.
    pub fn outgoing(&self, handle: u32) -> Outgoing {
        let Sent { content, len, .. } = self.sent.at(handle);
        match content {
            Content::Inline(bytes) => Outgoing::Inline(*bytes, *len),
            Content::Buffers(extents) => Outgoing::Buffers {
                region: Arc::clone(&self.theirs),
                pool_offset: self.geometry.tx_offset(),
                buffer_bytes: self.geometry.buffer_bytes,
                extents: *extents,
                len: *len,
            },
        }
    }

    /// Copies a part of a sent message into a frame.
    #[inline]
    pub fn copy_out(&self, handle: u32, offset: u32, out: &mut [u8]) {
        match &self.sent.at(handle).content {
            Content::Inline(bytes) => {
                let start = offset as usize;
                copy_short_slice(&bytes[start..start + out.len()], out);
            }
            Content::Buffers(extents) => self.copy_out_of_buffers(extents, offset, out),
        }
    }

    fn copy_out_of_buffers(&self, extents: &Extents, offset: u32, out: &mut [u8]) {
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let (pool, bytes) = (self.geometry.tx_offset(), self.geometry.buffer_bytes);
        extents.pieces(pool, bytes, offset, length, |at, message_offset, piece| {
            let start = (message_offset - offset) as usize;
            self.theirs.read_bytes(at, &mut out[start..start + piece as usize]);
        });
    }

    /// The peer has these messages, the first ones of the flow: their TX buffers go home and the flow's credit grows.
    #[inline]
    pub fn acknowledged(&mut self, slot: FlowSlot, messages: impl Iterator<Item = u32>) {
        let flow = self.flows.at(slot);
        let mut count = 0;
        for handle in messages {
            count += 1;
            let sent = self.sent.pop(&mut flow.tx_list, handle);
            if let Content::Buffers(extents) = &sent.content {
                self.tx_ledger.release(extents);
                self.credit_is_urgent = true;
            }
        }
        flow.acknowledged += count;
        self.credit_is_urgent |= flow.untold() * 4 >= flow.info.credit;
        if !flow.credit_dirty {
            flow.credit_dirty = true;
            self.credit_dirty.push(slot);
        }
    }

    /// Bytes of a flow's messages that the peer has.
    pub fn acknowledged_bytes(&self, flow: &Flow) -> u64 {
        flow.sent_bytes - flow.forgotten_bytes - self.sent.bytes(flow.tx_list)
    }

    /// The flow ended: the engine holds none of its messages any more. Answers how many were not acknowledged.
    pub fn forget_sent(&mut self, slot: FlowSlot) -> u32 {
        let mut forgotten = 0;
        loop {
            let flow = self.flows.at(slot);
            let first = flow.tx_list.0;
            if first == NIL {
                return forgotten;
            }
            let sent = self.sent.pop(&mut flow.tx_list, first);
            flow.forgotten_bytes += u64::from(sent.len);
            if let Content::Buffers(extents) = &sent.content {
                self.tx_ledger.release(extents);
            }
            forgotten += 1;
        }
    }
}

/// Why a flow does not take a message: it ended, which the application has not seen yet, or a rule was broken.
#[cold]
fn not_taken(flow: &Flow, len: u32) -> Result<Taken, PeerFault> {
    if flow.link == Link::Ended {
        Ok(Taken::Nothing)
    } else if flow.closing {
        Err(PeerFault::Flow)
    } else if len > flow.info.max_message {
        Err(PeerFault::Length)
    } else {
        Err(PeerFault::Credit)
    }
}

/// The two halves of a word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
fn raw_extents(slot: &Slot<'_, SLOT_WORDS>) -> Result<[u32; MAX_EXTENTS + 1], PeerFault> {
    let count = usize::from(slot.head.count);
    if count == 0 || count > MAX_EXTENTS {
        return Err(PeerFault::Buffer);
    }
    let mut raw = [0; MAX_EXTENTS + 1];
    for (index, pair) in raw.chunks_exact_mut(2).take(count.div_ceil(2)).enumerate() {
        let word = slot.word(2 + index);
        (pair[0], pair[1]) = (word as u32, (word >> 32) as u32);
    }
    Ok(raw)
}
