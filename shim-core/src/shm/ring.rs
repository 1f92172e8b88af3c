//! One-way rings of slots: one producer, one consumer, no lock, no index that the other side could falsify.
//!
//! The producer writes a slot's words and stores word 0 with the sequence number last. The consumer knows which number
//! comes next. How far the consumer got, it says in a word of its own region, which the producer reads only when its last
//! reading says "full". Whoever reads a word of the other side loads it once and checks the local copy; what cannot be
//! true is a [`PeerFault`].

use super::atomic::{AtomicU64, Ordering};

/// Memory of 64-bit words that the other side may write at any time.
pub trait Memory {
    /// `N` words at a byte offset that is a multiple of 8. Panics outside: offsets are ours, never the other side's.
    fn words<const N: usize>(&self, offset: usize) -> ReadWords<'_, N>;
}

/// Memory that this side alone writes.
pub trait WritableMemory: Memory {
    /// `N` words at a byte offset, to store into.
    fn words_mut<const N: usize>(&self, offset: usize) -> &[AtomicU64; N];
}

/// Words that can be loaded only.
#[derive(Debug, Clone, Copy)]
pub struct ReadWords<'a, const N: usize>(&'a [AtomicU64; N]);

impl<'a, const N: usize> ReadWords<'a, N> {
    /// A loading view of these words.
    #[inline]
    pub fn new(words: &'a [AtomicU64; N]) -> Self {
        Self(words)
    }

    /// The words themselves, for the fence that copies them.
    #[inline(always)]
    pub(super) fn inner(&self) -> &'a [AtomicU64; N] {
        self.0
    }

    /// Word `index`, as it is now.
    #[inline(always)]
    pub fn load(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    /// Word `index`, and after it everything that was stored before its Release store.
    #[inline(always)]
    pub fn load_acquire(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Acquire)
    }
}

/// The other side broke a rule of the shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum PeerFault {
    /// A sequence number that was never due.
    #[error("a slot has a sequence number that was never due")]
    Sequence,
    /// A head beyond what was published, or one that went back.
    #[error("a ring's head is beyond what was published")]
    Head,
    /// A slot of a kind that does not exist or makes no sense now.
    #[error("a slot has an unknown kind")]
    Kind,
    /// A length that does not fit the slot, the buffers or the limit.
    #[error("a message has an impossible length")]
    Length,
    /// A flow that was never given to this side.
    #[error("a slot names a flow that does not exist")]
    Flow,
    /// A buffer outside the pool, named twice, or one that the sender does not hold.
    #[error("a slot names a buffer that its sender does not hold")]
    Buffer,
    /// More messages than the credit allows.
    #[error("more was sent than the credit allows")]
    Credit,
    /// A token or a count of messages that were never handed over.
    #[error("something was given back that was never handed over")]
    Token,
}

impl PeerFault {
    /// Every fault, for counters.
    pub const ALL: [Self; 8] = [
        Self::Sequence,
        Self::Head,
        Self::Kind,
        Self::Length,
        Self::Flow,
        Self::Buffer,
        Self::Credit,
        Self::Token,
    ];

    /// Name of the fault's counter.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sequence => "peer_fault_sequence",
            Self::Head => "peer_fault_head",
            Self::Kind => "peer_fault_kind",
            Self::Length => "peer_fault_length",
            Self::Flow => "peer_fault_flow",
            Self::Buffer => "peer_fault_buffer",
            Self::Credit => "peer_fault_credit",
            Self::Token => "peer_fault_token",
        }
    }
}

/// The fields of word 0 but for the sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotHead {
    /// What the slot is; see the `*_kind` modules of [`super::layout`].
    pub kind: u8,
    /// Number of extents.
    pub count: u8,
    /// Bytes in the slot, a reason's code, or a number of messages.
    pub length: u16,
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
impl SlotHead {
    #[inline]
    const fn pack(self, sequence: u32) -> u64 {
        sequence as u64 | (self.kind as u64) << 32 | (self.count as u64) << 40 | (self.length as u64) << 48
    }

    #[inline]
    const fn unpack(word: u64) -> (u32, Self) {
        (
            word as u32,
            Self { kind: (word >> 32) as u8, count: (word >> 40) as u8, length: (word >> 48) as u16 },
        )
    }
}

/// The producing end of a ring whose slots have `N` words.
#[derive(Debug)]
pub struct Producer<const N: usize> {
    ring_offset: usize,
    head_offset: usize,
    slots: u32,
    /// Position of the next slot to publish.
    position: u32,
    /// The consumer's head as last read and believed.
    known_head: u32,
}

impl<const N: usize> Producer<N> {
    /// The producer of a ring at `ring_offset` of its own memory, whose consumer keeps its head at `head_offset` of its own.
    /// `slots` is a power of two.
    pub fn new(ring_offset: usize, slots: u32, head_offset: usize) -> Self {
        assert!(slots.is_power_of_two() && slots >= 2, "a ring has a power of two slots");
        Self { ring_offset, head_offset, slots, position: 0, known_head: 0 }
    }

    /// Slots that can be published now. Reads the consumer's head only if fewer than `wanted` are known to be free.
    #[inline(always)]
    pub fn free(&mut self, theirs: &impl Memory, wanted: u32) -> Result<u32, PeerFault> {
        let known = self.slots - self.position.wrapping_sub(self.known_head);
        if known >= wanted {
            return Ok(known);
        }
        self.read_head(theirs)
    }

    /// Slots that are known to be free without reading the consumer's head.
    #[inline(always)]
    pub fn known_free(&self) -> u32 {
        self.slots - self.position.wrapping_sub(self.known_head)
    }

    #[cold]
    fn read_head(&mut self, theirs: &impl Memory) -> Result<u32, PeerFault> {
        // SYNC: head. The consumer is done with the slots below it.
        #[expect(clippy::cast_possible_truncation, reason = "the head is the lower half of its word")]
        let head = theirs.words::<1>(self.head_offset).load_acquire(0) as u32;
        let outstanding = self.position.wrapping_sub(head);
        if outstanding > self.position.wrapping_sub(self.known_head) {
            return Err(PeerFault::Head);
        }
        self.known_head = head;
        Ok(self.slots - outstanding)
    }

    /// Publishes one slot. `fill` stores words 1.. of the slot; word 0 is stored after it. The caller has seen `free` >= 1.
    #[inline(always)]
    pub fn publish<M: WritableMemory>(
        &mut self,
        ours: &M,
        head: SlotHead,
        fill: impl FnOnce(&[AtomicU64; N]),
    ) {
        let slot = self.open(ours);
        fill(slot);
        self.seal(slot, head);
    }

    /// The first half of `publish`: the slot to fill from word 1 on. The caller has seen `free` >= 1.
    #[inline(always)]
    pub fn open<'a, M: WritableMemory>(&self, ours: &'a M) -> &'a [AtomicU64; N] {
        assert!(self.known_free() > 0, "published into a full ring");
        ours.words_mut::<N>(self.next_offset())
    }

    /// The second half: `slot` is what `open` gave, filled.
    #[inline(always)]
    pub fn seal(&mut self, slot: &[AtomicU64; N], head: SlotHead) {
        self.position = self.position.wrapping_add(1);
        // SYNC: slot. Its words and the buffers it names are visible before its sequence number.
        slot[0].store(head.pack(self.position), Ordering::Release);
    }

    /// Byte offset, in our memory, of the slot that the next `publish` fills: for writers of whole runs of bytes.
    #[inline(always)]
    pub fn next_offset(&self) -> usize {
        self.ring_offset + (self.position & (self.slots - 1)) as usize * N * 8
    }

    /// How many slots were published, modulo 2^32.
    pub fn position(&self) -> u32 {
        self.position
    }
}

/// The consuming end of a ring whose slots have `N` words.
#[derive(Debug)]
pub struct Consumer<const N: usize> {
    ring_offset: usize,
    head_offset: usize,
    slots: u32,
    /// Position of the next slot to take, not wrapped: below `slots` an unused slot is zero.
    position: u64,
    /// The head as we last told it.
    told_head: u32,
}

/// A published slot, its word 0 already read.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a, const N: usize> {
    /// The fields of word 0.
    pub head: SlotHead,
    words: ReadWords<'a, N>,
}

impl<const N: usize> Slot<'_, N> {
    /// All its words, to copy a run of their bytes.
    #[inline(always)]
    pub fn words(&self) -> ReadWords<'_, N> {
        self.words
    }

    /// Word `index`, loaded now; load it once.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u64 {
        self.words.load(index)
    }
}

impl<const N: usize> Consumer<N> {
    /// The consumer of a ring at `ring_offset` of the producer's memory, that keeps its head at `head_offset` of its own.
    pub fn new(ring_offset: usize, slots: u32, head_offset: usize) -> Self {
        assert!(slots.is_power_of_two() && slots >= 2, "a ring has a power of two slots");
        Self { ring_offset, head_offset, slots, position: 0, told_head: 0 }
    }

    /// The next slot if it is published. Does not take it: call [`Self::advance`].
    #[inline(always)]
    pub fn peek<'a, M: Memory>(&self, theirs: &'a M) -> Result<Option<Slot<'a, N>>, PeerFault> {
        let words = theirs.words::<N>(self.next_offset());
        // SYNC: slot.
        let (sequence, head) = SlotHead::unpack(words.load_acquire(0));
        let due = low(self.position).wrapping_add(1);
        if sequence == due {
            return Ok(Some(Slot { head, words }));
        }
        let is_first_round = self.position < u64::from(self.slots);
        let before = if is_first_round { 0 } else { due.wrapping_sub(self.slots) };
        if sequence == before { Ok(None) } else { Err(PeerFault::Sequence) }
    }

    /// Byte offset, in the producer's memory, of the slot that `peek` shows: for readers of whole runs of bytes.
    #[inline(always)]
    pub fn next_offset(&self) -> usize {
        self.ring_offset + (low(self.position) & (self.slots - 1)) as usize * N * 8
    }

    /// Takes the slot that `peek` showed.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.position += 1;
    }

    /// Tells the producer how far we got, if it does not know yet. Call once per batch, after the words were read.
    #[inline]
    pub fn tell_head(&mut self, ours: &impl WritableMemory) {
        if self.told_head != low(self.position) {
            self.told_head = low(self.position);
            // SYNC: head.
            ours.words_mut::<1>(self.head_offset)[0].store(u64::from(self.told_head), Ordering::Release);
        }
    }

    /// Slots taken since the producer was last told.
    #[inline]
    pub fn untold(&self) -> u32 {
        low(self.position).wrapping_sub(self.told_head)
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "positions on the ring are modulo 2^32")]
const fn low(position: u64) -> u32 {
    position as u32
}
