//! Who holds which buffer: a private record that the other side cannot reach, and the only maker of [`BufIndex`].
//!
//! Each side keeps a ledger for the TX buffers (the application allocates, the engine checks what it is given) and one for
//! the RX buffers (the engine allocates).

use super::layout::MAX_EXTENTS;
use super::ring::PeerFault;

/// A buffer of the pool that the ledger belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct BufIndex(u16);

impl BufIndex {
    /// Its place in the pool.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A run of adjacent buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    first: BufIndex,
    count: u16,
}

impl Extent {
    /// The first buffer.
    #[inline]
    pub fn first(self) -> BufIndex {
        self.first
    }

    /// How many buffers.
    #[inline]
    pub fn count(self) -> u32 {
        u32::from(self.count)
    }

    /// The extent as a slot carries it.
    #[inline]
    pub fn to_raw(self) -> u32 {
        u32::from(self.first.0) | u32::from(self.count) << 16
    }
}

/// The buffers of one message, in the order of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extents {
    list: [Extent; MAX_EXTENTS],
    len: u8,
}

impl Extents {
    /// No buffers.
    pub const NONE: Self = Self { list: [Extent { first: BufIndex(0), count: 0 }; MAX_EXTENTS], len: 0 };

    /// The runs in order.
    #[inline]
    pub fn as_slice(&self) -> &[Extent] {
        &self.list[..usize::from(self.len)]
    }

    /// Number of buffers.
    pub fn buffers(&self) -> u32 {
        self.as_slice().iter().map(|extent| extent.count()).sum()
    }

    fn push(&mut self, extent: Extent) -> bool {
        let Some(place) = self.list.get_mut(usize::from(self.len)) else { return false };
        *place = extent;
        self.len += 1;
        true
    }

    /// Calls `each(region offset, message offset, length)` for every contiguous piece of the message's bytes from `offset`
    /// on, `length` in all. `pool_offset` is where the pool's buffers start, `buffer_bytes` their size.
    #[inline]
    pub fn pieces(
        &self,
        pool_offset: usize,
        buffer_bytes: u32,
        offset: u32,
        length: u32,
        mut each: impl FnMut(usize, u32, u32),
    ) {
        let (mut skip, mut left, mut at) = (offset, length, offset);
        for extent in self.as_slice() {
            if left == 0 {
                return;
            }
            let bytes = extent.count() * buffer_bytes;
            if skip >= bytes {
                skip -= bytes;
                continue;
            }
            let take = left.min(bytes - skip);
            let start = pool_offset + extent.first.index() * buffer_bytes as usize + skip as usize;
            each(start, at, take);
            (skip, at, left) = (0, at + take, left - take);
        }
        assert!(left == 0, "a message reaches beyond its buffers");
    }
}

/// The record of one pool of buffers: a bit per buffer, set while it is free (or, for a checker, not claimed).
#[derive(Debug)]
pub struct Ledger {
    free_bits: Vec<u64>,
    total: u32,
    free: u32,
    /// No word above this one has a free bit.
    highest: usize,
}

const WORD_BITS: u32 = u64::BITS;

impl Ledger {
    /// A pool of `total` buffers, all free.
    pub fn new(total: u32) -> Self {
        assert!((1..=65_535).contains(&total), "a pool has 1 to 65535 buffers");
        let words = total.div_ceil(WORD_BITS) as usize;
        let mut free_bits = vec![u64::MAX; words];
        let used = total % WORD_BITS;
        if used != 0 {
            free_bits[words - 1] = (1 << used) - 1;
        }
        Self { free_bits, total, free: total, highest: words - 1 }
    }

    /// Buffers that are free.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Buffers of the pool.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Takes `count` buffers, in one run where there is one and else in as few as a slot can name. A single buffer comes
    /// from the top and long runs from the bottom, so that small messages do not cut up the room of large ones.
    pub fn allocate(&mut self, count: u32) -> Option<Extents> {
        if count == 0 || count > self.free {
            return None;
        }
        let mut extents = Extents::NONE;
        if count == 1 {
            let first = self.take_highest()?;
            extents.push(Extent { first, count: 1 });
            return Some(extents);
        }
        if let Some(first) = self.find_run(count) {
            let extent = self.take_run(first, count);
            extents.push(extent);
            return Some(extents);
        }
        self.gather(count)
    }

    /// Frees what `allocate` gave or `claim` took.
    pub fn release(&mut self, extents: &Extents) {
        for extent in extents.as_slice() {
            let (first, count) = (u32::from(extent.first.0), extent.count());
            for (word, mask) in masks(first, count) {
                assert!(self.free_bits[word] & mask == 0, "a buffer was freed twice");
                self.free_bits[word] |= mask;
                self.highest = self.highest.max(word);
            }
            self.free += count;
        }
    }

    /// Checks extents that the other side named and takes them: in the pool, not taken, enough for `needed` buffers and
    /// no more. On a fault nothing is taken.
    pub fn claim(&mut self, raw: &[u32], needed: u32) -> Result<Extents, PeerFault> {
        let mut extents = Extents::NONE;
        let mut sum = 0;
        for &extent in raw {
            let (first, count) = (extent & 0xffff, extent >> 16);
            let fits = count > 0 && first + count <= self.total && sum + count <= needed;
            if !fits || !self.is_free(first, count) {
                self.release(&extents);
                return Err(PeerFault::Buffer);
            }
            sum += count;
            let taken = self.take_run(first, count);
            if !extents.push(taken) {
                self.release_one(taken);
                self.release(&extents);
                return Err(PeerFault::Buffer);
            }
        }
        if sum != needed {
            self.release(&extents);
            return Err(PeerFault::Buffer);
        }
        Ok(extents)
    }

    fn release_one(&mut self, extent: Extent) {
        let mut one = Extents::NONE;
        one.push(extent);
        self.release(&one);
    }

    fn is_free(&self, first: u32, count: u32) -> bool {
        masks(first, count).all(|(word, mask)| self.free_bits[word] & mask == mask)
    }

    #[expect(clippy::cast_possible_truncation, reason = "pools have at most 65535 buffers")]
    fn take_run(&mut self, first: u32, count: u32) -> Extent {
        for (word, mask) in masks(first, count) {
            self.free_bits[word] &= !mask;
        }
        self.free -= count;
        Extent { first: BufIndex(first as u16), count: count as u16 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "pools have at most 65535 buffers")]
    fn take_highest(&mut self) -> Option<BufIndex> {
        for word in (0..=self.highest).rev() {
            let bits = self.free_bits[word];
            if bits != 0 {
                self.highest = word;
                let bit = WORD_BITS - 1 - bits.leading_zeros();
                self.free_bits[word] &= !(1 << bit);
                self.free -= 1;
                return Some(BufIndex((word as u32 * WORD_BITS + bit) as u16));
            }
        }
        None
    }

    /// The lowest run of at least `count` free buffers.
    fn find_run(&self, count: u32) -> Option<u32> {
        let mut found = None;
        self.runs(|first, length| {
            if length >= count {
                found = Some(first);
            }
            found.is_none()
        });
        found
    }

    /// Several runs that are `count` buffers together: the longest ones, so that a slot can name them.
    fn gather(&mut self, count: u32) -> Option<Extents> {
        let mut longest = [(0_u32, 0_u32); MAX_EXTENTS]; // (length, first), longest first
        self.runs(|first, length| {
            if length > longest[MAX_EXTENTS - 1].0 {
                let place = longest.partition_point(|&(other, _)| other >= length);
                longest[place..].rotate_right(1);
                longest[place] = (length, first);
            }
            true
        });
        if longest.iter().map(|&(length, _)| length).sum::<u32>() < count {
            return None;
        }
        let mut extents = Extents::NONE;
        let mut left = count;
        for (length, first) in longest {
            let take = length.min(left);
            if take == 0 {
                break;
            }
            let extent = self.take_run(first, take);
            extents.push(extent);
            left -= take;
        }
        Some(extents)
    }

    /// Calls `each(first, length)` for every run of free buffers from below until it says stop.
    #[expect(clippy::cast_possible_truncation, reason = "pools have at most 65535 buffers")]
    fn runs(&self, mut each: impl FnMut(u32, u32) -> bool) {
        let (mut first, mut length) = (0, 0);
        for (word, &bits) in self.free_bits.iter().enumerate() {
            let base = word as u32 * WORD_BITS;
            let mut bit = 0;
            while bit < WORD_BITS {
                let rest = bits >> bit;
                if rest & 1 == 1 {
                    let ones = rest.trailing_ones().min(WORD_BITS - bit);
                    if length == 0 {
                        first = base + bit;
                    }
                    length += ones;
                    bit += ones;
                } else {
                    if length > 0 && !each(first, length) {
                        return;
                    }
                    length = 0;
                    bit += rest.trailing_zeros().min(WORD_BITS - bit);
                }
            }
        }
        if length > 0 {
            each(first, length);
        }
    }
}

/// The words and bits of `count` buffers from `first` on.
fn masks(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    let mut at = first;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (word, bit) = (at / WORD_BITS, at % WORD_BITS);
        let take = (WORD_BITS - bit).min(end - at);
        at += take;
        let ones = if take == WORD_BITS { u64::MAX } else { (1 << take) - 1 };
        Some((word as usize, ones << bit))
    })
}

/// Whether a flow that holds `held` of a pool may take `wanted` more while `free` are free.
///
/// A flow may hold at most twice what would be left (a dynamic threshold, Choudhury and Hahne 1998): one flow alone gets two
/// thirds of the pool, and however many flows nobody reads, a share is left for the next. A flow that holds nothing may
/// take one message of any size that fits.
#[inline]
pub fn may_take(held: u32, wanted: u32, free: u32) -> bool {
    if wanted > free {
        return false;
    }
    held == 0 || held + wanted <= 2 * (free - wanted)
}
