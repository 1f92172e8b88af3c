//! Received messages, and loans of buffers to send.

use crate::attachment::Lent;
use crate::channel::Room;
use crate::error::Result;
use crate::shm::Geometry;
use crate::shm::atomic::{AtomicU64, Ordering};
use crate::shm::layout::{INLINE_BYTES, SLOT_WORDS};
use crate::shm::region::{Lease, read_words};
use crate::shm::ring::ReadWords;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Somebody who can tell the engine of returned loans at once.
pub(crate) trait FlushReturns: Send + Sync + std::fmt::Debug {
    /// Tells it, unless the channel is in use just now: then its user will.
    fn flush_returns(&self);
}

/// Loans that were dropped, on whatever thread, until the channel's next call tells the engine.
#[derive(Debug)]
pub(crate) struct Returns {
    tokens: Mutex<Vec<u32>>,
    count: AtomicU64,
    /// Bytes that were returned and not yet told.
    bytes: AtomicU64,
    /// Above this many bytes the engine is told without waiting for a call.
    prompt_bytes: u64,
    flush: OnceLock<Weak<dyn FlushReturns>>,
}

impl Returns {
    /// Nothing returned yet.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let pool = u64::from(geometry.rx_buffers) * u64::from(geometry.buffer_bytes);
        Self {
            tokens: Mutex::new(Vec::new()),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            prompt_bytes: pool / 8,
            flush: OnceLock::new(),
        }
    }

    /// Whom to ask when much was returned. The first one stays.
    pub(crate) fn set_flush(&self, flush: Weak<dyn FlushReturns>) {
        let _ = self.flush.set(flush);
    }

    /// Whether anything waits.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Takes the tokens that wait into `taken`, which is empty.
    pub(crate) fn take(&self, taken: &mut Vec<u32>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::swap(&mut *tokens, taken);
    }

    fn put(&self, token: u32, bytes: usize) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push(token);
        // Changed under the lock only; read without it as a hint.
        self.count.store(tokens.len() as u64, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        drop(tokens);
        if before + bytes as u64 >= self.prompt_bytes
            && let Some(flush) = self.flush.get().and_then(Weak::upgrade)
        {
            flush.flush_returns();
        }
    }
}

/// Received bytes that go back when dropped.
#[derive(Debug)]
struct Lending {
    lease: Lease,
    token: u32,
    returns: Arc<Returns>,
}

impl Drop for Lending {
    fn drop(&mut self) {
        if self.lease.is_ours() {
            self.returns.put(self.token, self.lease.len());
        }
    }
}

#[derive(Debug)]
enum Body {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Lent(Lending),
    Gathered(Vec<u8>),
}

/// A received message.
///
/// Up to 112 bytes lie in the value itself. A larger one is lent by the engine without a copy, if it lies in one run of
/// buffers, and goes back when dropped, on whatever thread: holding many for long narrows what the peers may send.
#[derive(Debug)]
pub struct Message(Body);

impl Message {
    /// An in-slot message of `length` bytes, read from its slot.
    #[inline(always)]
    pub(crate) fn inline(length: usize, slot: ReadWords<'_, SLOT_WORDS>) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        // Two constant sizes are a few instructions each; one that varies is a call.
        if length <= 64 {
            read_words(slot, 2, &mut bytes[..64]);
        } else {
            read_words(slot, 2, &mut bytes);
        }
        Self::copied(length, bytes)
    }

    /// An in-slot message that was queued.
    #[inline(always)]
    pub(crate) fn copied(length: usize, bytes: [u8; INLINE_BYTES]) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_BYTES; indexing checks it")]
        let length = length as u8;
        Self(Body::Inline { length, bytes })
    }

    pub(crate) fn lent(lease: Lease, token: u32, returns: &Arc<Returns>) -> Self {
        Self(Body::Lent(Lending { lease, token, returns: Arc::clone(returns) }))
    }

    pub(crate) fn gathered(bytes: Vec<u8>) -> Self {
        Self(Body::Gathered(bytes))
    }

    /// The bytes as a vector of their own; buffers of the engine go back at once.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Body::Gathered(bytes) => bytes,
            _ => self.to_vec(),
        }
    }

    /// Whether the bytes lie in buffers of the engine.
    pub fn is_lent(&self) -> bool {
        matches!(self.0, Body::Lent(_))
    }
}

impl std::ops::Deref for Message {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Body::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Body::Lent(lending) => &lending.lease,
            Body::Gathered(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Message> for Vec<u8> {
    fn from(message: Message) -> Self {
        message.into_vec()
    }
}

impl PartialEq<[u8]> for Message {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

/// Room for a message that is written in place. Dropped unsent, it goes back.
///
/// The bytes are arbitrary until written. Small rooms, and rooms for which the pool has no single run, are private memory
/// that is copied when sent.
#[derive(Debug)]
pub struct TxLoan {
    lent: Lent,
    room: Option<Room>,
}

impl TxLoan {
    pub(crate) fn new(lent: Lent, room: Room) -> Self {
        Self { lent, room: Some(room) }
    }

    /// Sends the message. Its credit was reserved when it was lent; it waits only, and briefly, for a slot of the ring.
    ///
    /// # Errors
    /// As for `Flow::send`, but never `WouldBlock`.
    pub fn send(mut self) -> Result<()> {
        self.lent.send(&mut self.room)
    }

    /// As [`Self::send`], without waiting. After `WouldBlock` the loan is as it was.
    ///
    /// # Errors
    /// As for `Flow::try_send`; [`crate::Error::InvalidArgument`] if it was sent already.
    pub fn try_send(&mut self) -> Result<()> {
        self.lent.try_send(&mut self.room)
    }
}

impl std::ops::Deref for TxLoan {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.room.as_ref().map_or(&[], Room::bytes)
    }
}

impl std::ops::DerefMut for TxLoan {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.room.as_mut().map_or(&mut [], Room::bytes_mut)
    }
}

impl Drop for TxLoan {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.lent.give_back(room);
        }
    }
}
