//! The engine's private record of messages: what an application sent and the peer has not acknowledged, and what was
//! received and the application has not given back.

use super::flows::{FlowSlot, NIL};
use machnet_client::shm::layout::INLINE_BYTES;
use machnet_client::shm::ledger::Extents;

/// Where a message's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// In private memory, at most 112 bytes.
    Inline([u8; INLINE_BYTES]),
    /// In buffers of the channel.
    Buffers(Extents),
}

/// A message that an application sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Its bytes: a private copy, or the application's TX buffers that it may not touch meanwhile.
    pub content: Content,
    /// Its length in bytes.
    pub len: u32,
    /// The next message of the same flow, or the next free entry.
    next: u32,
}

/// The sent messages of one channel, linked per flow in the order of sending. Grows to what credit allows, then stays.
#[derive(Debug)]
pub(super) struct SentStore {
    entries: Vec<Sent>,
    free: u32,
}

impl Default for SentStore {
    fn default() -> Self {
        Self { entries: Vec::with_capacity(64), free: NIL }
    }
}

impl SentStore {
    /// Records a message behind the last of `list`. Answers its handle.
    #[inline]
    pub(super) fn push(&mut self, list: &mut (u32, u32), content: Content, len: u32) -> u32 {
        let handle = if self.free == NIL {
            self.entries.push(Sent { content, len, next: NIL });
            u32::try_from(self.entries.len() - 1).unwrap_or(NIL)
        } else {
            let handle = self.free;
            let entry = &mut self.entries[handle as usize];
            self.free = entry.next;
            (entry.content, entry.len, entry.next) = (content, len, NIL);
            handle
        };
        if list.1 == NIL {
            list.0 = handle;
        } else {
            self.entries[list.1 as usize].next = handle;
        }
        list.1 = handle;
        handle
    }

    /// Takes the first message of `list` out, if it is `handle`: messages are acknowledged in the order of sending.
    #[inline]
    pub(super) fn pop(&mut self, list: &mut (u32, u32), handle: u32) -> &Sent {
        assert!(list.0 == handle, "messages are acknowledged in the order of sending");
        let next = self.entries[handle as usize].next;
        list.0 = next;
        if next == NIL {
            list.1 = NIL;
        }
        self.entries[handle as usize].next = self.free;
        self.free = handle;
        &self.entries[handle as usize]
    }

    /// Bytes of all messages of a list. It walks the list: for rare questions only.
    pub(super) fn bytes(&self, (first, _): (u32, u32)) -> u64 {
        let next = |sent: &&Sent| (sent.next != NIL).then(|| self.at(sent.next));
        let messages = std::iter::successors((first != NIL).then(|| self.at(first)), next);
        messages.map(|sent| u64::from(sent.len)).sum()
    }

    /// A message by its handle.
    #[inline]
    pub(super) fn at(&self, handle: u32) -> &Sent {
        &self.entries[handle as usize]
    }
}

/// State of a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free {
        next: u32,
    },
    /// Room was made; bytes are coming in.
    Reserved,
    /// In the application's hands until it gives the token back.
    Delivered,
}

/// A message that was or is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Where its bytes are.
    pub content: Content,
    /// Its length in bytes.
    pub len: u32,
    /// Whose it is.
    pub flow: FlowSlot,
    /// It was given room ahead of its turn.
    pub ahead: bool,
    state: State,
}

/// The received messages of one channel by handle; the handle of a delivered one is its token on the rings.
#[derive(Debug)]
pub(super) struct ReceivedStore {
    entries: Vec<Received>,
    free: u32,
}

impl Default for ReceivedStore {
    fn default() -> Self {
        Self { entries: Vec::with_capacity(16), free: NIL }
    }
}

impl ReceivedStore {
    /// Records room for a message.
    pub(super) fn reserve(&mut self, flow: FlowSlot, content: Content, len: u32, ahead: bool) -> u32 {
        let entry = Received { content, len, flow, ahead, state: State::Reserved };
        if self.free == NIL {
            self.entries.push(entry);
            return u32::try_from(self.entries.len() - 1).unwrap_or(NIL);
        }
        let handle = self.free;
        let place = &mut self.entries[handle as usize];
        if let State::Free { next } = place.state {
            self.free = next;
        }
        *place = entry;
        handle
    }

    /// A message by a handle of our own.
    #[inline]
    pub(super) fn at(&mut self, handle: u32) -> &mut Received {
        &mut self.entries[handle as usize]
    }

    /// The message is the application's from now on.
    pub(super) fn delivered(&mut self, handle: u32) {
        self.entries[handle as usize].state = State::Delivered;
    }

    /// Forgets a message of ours and answers what it was.
    pub(super) fn remove(&mut self, handle: u32) -> Received {
        let entry = self.entries[handle as usize];
        self.entries[handle as usize].state = State::Free { next: self.free };
        self.free = handle;
        entry
    }

    /// Forgets a message that the application gives back, if it has it.
    pub(super) fn take_back(&mut self, token: u32) -> Option<Received> {
        match self.entries.get(token as usize) {
            Some(entry) if entry.state == State::Delivered => Some(self.remove(token)),
            _ => None,
        }
    }
}

#[cfg(test)]
impl SentStore {
    /// The messages of a flow's list in order, for audits.
    pub(super) fn list(&self, (first, _): (u32, u32)) -> Vec<Sent> {
        let next = |sent: &&Sent| (sent.next != NIL).then(|| self.at(sent.next));
        std::iter::successors((first != NIL).then(|| self.at(first)), next).copied().collect()
    }
}

#[cfg(test)]
impl ReceivedStore {
    /// Every message that is reserved or in the application's hands, for audits.
    pub(super) fn held(&self) -> impl Iterator<Item = &Received> {
        self.entries.iter().filter(|entry| !matches!(entry.state, State::Free { .. }))
    }
}
