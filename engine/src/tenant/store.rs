//! The engine's private record of messages: what an application sent and the peer has not acknowledged, and what was
//! received and the application has not given back.

use super::flows::{FlowSlot, NIL};
use machnet_client::shm::layout::{INLINE_BYTES, SLOT_WORDS};
use machnet_client::shm::ledger::Extents;
use machnet_client::shm::region::read_words;
use machnet_client::shm::ring::ReadWords;

/// Where a message's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// In private memory, at most 112 bytes.
    Inline([u8; INLINE_BYTES]),
    /// In buffers of the channel.
    Buffers(Extents),
}

/// The most usual length of small messages.
const USUAL_BYTES: usize = 64;

/// Copies a message of `len` bytes out of its slot. The lengths of the copies are fixed, which costs less than to copy just
/// `len` bytes; what is behind the message is of the same slot and never looked at.
#[inline]
fn read_inline(slot: ReadWords<'_, SLOT_WORDS>, len: u32, into: &mut [u8; INLINE_BYTES]) {
    if len as usize <= USUAL_BYTES {
        read_words(slot, 2, &mut into[..USUAL_BYTES]);
    } else {
        read_words(slot, 2, into);
    }
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
    pub(super) fn push(&mut self, list: &mut (u32, u32), content: Content, len: u32) -> u32 {
        let handle = self.place(len);
        self.entries[handle as usize].content = content;
        self.link(list, handle);
        handle
    }

    /// As [`Self::push`], of a message that lies in a slot: its bytes are copied once, from there to here.
    #[inline]
    pub(super) fn push_inline(
        &mut self,
        list: &mut (u32, u32),
        slot: ReadWords<'_, SLOT_WORDS>,
        len: u32,
    ) -> u32 {
        let handle = self.free;
        let Some(Sent { content: Content::Inline(bytes), len: place, next }) =
            self.entries.get_mut(handle as usize)
        else {
            return self.push_inline_slowly(list, slot, len);
        };
        read_inline(slot, len, bytes);
        *place = len;
        self.free = std::mem::replace(next, NIL);
        self.link(list, handle);
        handle
    }

    /// The first free entry is none yet, or had a message in buffers before.
    #[cold]
    #[inline(never)]
    fn push_inline_slowly(
        &mut self,
        list: &mut (u32, u32),
        slot: ReadWords<'_, SLOT_WORDS>,
        len: u32,
    ) -> u32 {
        let mut bytes = [0; INLINE_BYTES];
        read_inline(slot, len, &mut bytes);
        self.push(list, Content::Inline(bytes), len)
    }

    /// A place for a message of `len` bytes, in no list.
    fn place(&mut self, len: u32) -> u32 {
        let handle = self.free;
        let Some(entry) = self.entries.get_mut(handle as usize) else { return self.grow(len) };
        self.free = entry.next;
        (entry.len, entry.next) = (len, NIL);
        handle
    }

    #[cold]
    fn grow(&mut self, len: u32) -> u32 {
        self.entries.push(Sent { content: Content::Inline([0; INLINE_BYTES]), len, next: NIL });
        u32::try_from(self.entries.len() - 1).unwrap_or(NIL)
    }

    #[inline]
    fn link(&mut self, list: &mut (u32, u32), handle: u32) {
        match self.entries.get_mut(list.1 as usize) {
            Some(last) => last.next = handle,
            None => list.0 = handle,
        }
        list.1 = handle;
    }

    /// Takes the first message of `list` out, if it is `handle`: messages are acknowledged in the order of sending.
    #[inline]
    pub(super) fn pop(&mut self, list: &mut (u32, u32), handle: u32) -> &Sent {
        assert!(list.0 == handle, "messages are acknowledged in the order of sending");
        let entry = &mut self.entries[handle as usize];
        list.0 = entry.next;
        if entry.next == NIL {
            list.1 = NIL;
        }
        entry.next = self.free;
        self.free = handle;
        entry
    }

    /// Bytes of all messages of a list. It walks the list: for rare questions only.
    pub(super) fn bytes(&self, (first, _): (u32, u32)) -> u64 {
        let next = |sent: &&Sent| (sent.next != NIL).then(|| self.at(sent.next));
        let messages = std::iter::successors((first != NIL).then(|| self.at(first)), next);
        messages.map(|sent| u64::from(sent.len)).sum()
    }

    /// The message behind this one in its list.
    pub(super) fn after(&self, handle: u32) -> Option<u32> {
        let next = self.entries[handle as usize].next;
        (next != NIL).then_some(next)
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
