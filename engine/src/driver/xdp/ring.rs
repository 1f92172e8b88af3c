//! FENCE: the memory that an XDP socket shares with the kernel: four rings, and the frames that they speak of.
//!
//! ```text
//!            fill ->                    -> rx
//!    frames to be filled   kernel   frames that came
//!            tx ->                      -> completion
//!    frames to be sent              frames that were sent
//! ```
//!
//! A ring has a producer's and a consumer's index that only grow, and a power of two of entries. Each side writes one index.
//! A frame belongs to the kernel from the fill or TX ring until it comes back by the RX or completion ring; [`Frames`] keeps
//! book of that, and hands out no bytes that the kernel has.
//!
//! What the kernel writes into the rings is checked like anybody's: a wrong index or address is [`Broken`], no wild access.
#![expect(unsafe_code, reason = "fence: rings and frames are mappings that the kernel reads and writes, too")]

use std::io;
use std::mem::{align_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// The flag by which the kernel says that it has to be called to go on.
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// The kernel broke a rule of the rings; the socket is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the rings of the XDP socket are broken: {0}")]
pub(super) struct Broken(&'static str);

impl Broken {
    /// A frame that came has bytes outside of the frame.
    pub(super) const BEYOND_ITS_FRAME: Self = Self("a frame came with more bytes than it has room for");
    /// A frame for receiving came back as sent, or the other way round, or one came twice.
    pub(super) const NOT_ITS_RING: Self = Self("a frame came back by the wrong ring");
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        Self::other(broken)
    }
}

/// Memory of this process that is unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; what may be done with it is up to its one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `bytes` of a ring of the socket.
    fn of_socket(socket: BorrowedFd<'_>, page_offset: libc::off_t, bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd(), page_offset)
    }

    /// `bytes` of fresh memory, all zero.
    fn of_zeros(bytes: usize) -> io::Result<Self> {
        let mapping = Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)?;
        // A forked child would make copies of the pages that are ours, and the kernel would go on with the wrong ones.
        // SAFETY: the range is the mapping.
        let result = unsafe { libc::madvise(mapping.start.as_ptr().cast(), bytes, libc::MADV_DONTFORK) };
        if result == 0 { Ok(mapping) } else { Err(io::Error::last_os_error()) }
    }

    fn map(
        bytes: usize,
        flags: libc::c_int,
        descriptor: libc::c_int,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, descriptor, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, bytes })
    }

    /// The place of `count` values of type `T` at `offset`; an error if they do not lie in the mapping, aligned.
    fn place<T>(&self, offset: usize, count: usize) -> io::Result<NonNull<T>> {
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| bytes.checked_add(offset));
        if !offset.is_multiple_of(align_of::<T>()) || end.is_none_or(|end| end > self.bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a ring's parts do not lie in it"));
        }
        // SAFETY: `offset` is within the mapping.
        Ok(unsafe { self.start.add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing that points into it outlives its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Where the parts of a ring lie in its mapping, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offsets {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) entries: u64,
    pub(super) flags: u64,
}

/// What an entry of a ring may be.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: three integers without a gap.
unsafe impl Entry for Descriptor {}

/// A frame, as the RX and TX rings name it (`struct xdp_desc`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    /// Where its bytes begin, counted from the first frame's begin.
    pub(super) address: u64,
    /// How many there are.
    pub(super) bytes: u32,
    /// `XDP_PKT_CONTD` and the like.
    pub(super) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

/// What both ends of a ring have.
#[derive(Debug)]
struct Ring<T> {
    mapping: Mapping,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the pointers lead into `mapping`, which the ring owns; indexes and flags are atomics, and an entry is touched only by the
// side that has it.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        offsets: &Offsets,
        size: u32,
    ) -> io::Result<Self> {
        assert!(size.is_power_of_two(), "a ring has a power of two of entries");
        let place = |offset: u64| {
            usize::try_from(offset)
                .ok()
                .filter(|offset| *offset < 1 << 20)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a ring's parts lie too far apart"))
        };
        let entries = place(offsets.entries)?;
        let mapping = Mapping::of_socket(socket, page_offset, entries + size as usize * size_of::<T>())?;
        Ok(Self {
            producer: mapping.place(place(offsets.producer)?, 1)?,
            consumer: mapping.place(place(offsets.consumer)?, 1)?,
            flags: mapping.place(place(offsets.flags)?, 1)?,
            entries: mapping.place(entries, size as usize)?,
            mapping,
            size,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `map` checked that the word lies in the mapping, which lives as long as `self`; everyone uses it as an atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// The place of the entry with the growing number `index`.
    fn entry(&self, index: u32) -> NonNull<T> {
        debug_assert!(self.mapping.bytes > 0);
        // SAFETY: `map` checked that `size` entries lie in the mapping, and the masked index is less.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// The end of a ring that puts entries in: fill and TX.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes.
    next: u32,
    /// How far the kernel has been seen to be.
    taken: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps our end of a ring whose size was set by a socket option.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        offsets: &Offsets,
        size: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, size)?;
        let next = ring.producer().load(Ordering::Relaxed);
        let taken = ring.consumer().load(Ordering::Relaxed);
        Ok(Self { ring, next, taken })
    }

    /// Entries that were published and that the kernel did not take yet.
    pub(super) fn waiting(&mut self) -> Result<u32, Broken> {
        // SYNC: the kernel has read the entries before its consumer index
        let taken = self.ring.consumer().load(Ordering::Acquire);
        let waiting = self.next.wrapping_sub(taken);
        if waiting > self.ring.size {
            return Err(Broken("the kernel took what was never given"));
        }
        self.taken = taken;
        Ok(waiting)
    }

    /// Writes one entry, not yet visible to the kernel; `false` if the ring is full.
    pub(super) fn push(&mut self, entry: T) -> Result<bool, Broken> {
        if self.next.wrapping_sub(self.taken) == self.ring.size && self.waiting()? == self.ring.size {
            return Ok(false);
        }
        // SAFETY: the entry lies in the ring, and the kernel does not read it before it is published.
        unsafe { self.ring.entry(self.next).write_volatile(entry) };
        self.next = self.next.wrapping_add(1);
        Ok(true)
    }

    /// Shows the kernel all that was pushed.
    pub(super) fn publish(&self) {
        // SYNC: entries visible
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel goes on only when it is called.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The end of a ring that takes entries out: RX and completion.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to take.
    next: u32,
    /// How far the kernel has been seen to be.
    given: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps our end of a ring whose size was set by a socket option.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        offsets: &Offsets,
        size: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, size)?;
        let next = ring.consumer().load(Ordering::Relaxed);
        Ok(Self { ring, next, given: next })
    }

    /// Takes the next entry. The kernel gets its place back by [`Self::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<T>, Broken> {
        if self.next == self.given {
            // SYNC: entries visible
            let given = self.ring.producer().load(Ordering::Acquire);
            if given.wrapping_sub(self.next) > self.ring.size {
                return Err(Broken("the kernel gave more than the ring holds"));
            }
            self.given = given;
            if given == self.next {
                return Ok(None);
            }
        }
        // SAFETY: the entry lies in the ring, and the kernel does not write it again before it is released; any bits are a value.
        let entry = unsafe { self.ring.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        Ok(Some(entry))
    }

    /// Gives the places of all that was taken back to the kernel.
    pub(super) fn release(&self) {
        // SYNC: the kernel has read the entries before its consumer index
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

/// The frames of one socket, and whose each of them is.
#[derive(Debug)]
pub(super) struct Frames {
    memory: Mapping,
    frame_bytes: usize,
    /// Whether the kernel has the frame.
    lent: Vec<bool>,
}

impl Frames {
    /// `count` frames of `frame_bytes` (a power of two) each, all ours.
    pub(super) fn new(count: u32, frame_bytes: usize) -> io::Result<Self> {
        assert!(frame_bytes.is_power_of_two());
        let memory = Mapping::of_zeros(count as usize * frame_bytes)?;
        Ok(Self { memory, frame_bytes, lent: vec![false; count as usize] })
    }

    /// Where they lie, for the kernel: address and length in bytes.
    pub(super) fn region(&self) -> (u64, u64) {
        (self.memory.start.as_ptr().expose_provenance() as u64, self.memory.bytes as u64)
    }

    /// From now on the frame is the kernel's. Returns its address for the rings.
    pub(super) fn lend(&mut self, frame: u32) -> u64 {
        let lent = &mut self.lent[frame as usize];
        assert!(!*lent, "frame {frame} is lent twice");
        *lent = true;
        u64::from(frame) * self.frame_bytes as u64
    }

    /// The kernel gives the frame in which `address` lies back. Returns its number, and how far into it the address is.
    #[inline]
    pub(super) fn take_back(&mut self, address: u64) -> Result<(u32, usize), Broken> {
        let address = usize::try_from(address).map_err(|_| Broken("an address beyond the frames"))?;
        let frame = address / self.frame_bytes;
        match self.lent.get_mut(frame) {
            Some(lent) if *lent => *lent = false,
            Some(_) => return Err(Broken("a frame came back that the kernel did not have")),
            None => return Err(Broken("an address beyond the frames")),
        }
        Ok((u32::try_from(frame).expect("some hundred frames"), address % self.frame_bytes))
    }

    /// `len` bytes of a frame of ours from `offset` on; `None` if the frame has less.
    #[inline]
    pub(super) fn bytes(&self, frame: u32, offset: usize, len: usize) -> Option<&[u8]> {
        let start = self.start_of(frame, offset, len)?;
        // SAFETY: `start_of` checked that the bytes lie in the mapping and are not the kernel's; ours change only by `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// The first `len` bytes of a frame of ours, to be written; `None` if the frame has less.
    #[inline]
    pub(super) fn bytes_mut(&mut self, frame: u32, len: usize) -> Option<&mut [u8]> {
        let start = self.start_of(frame, 0, len)?;
        // SAFETY: as in `bytes`, and `self` is borrowed for as long as the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    fn start_of(&self, frame: u32, offset: usize, len: usize) -> Option<NonNull<u8>> {
        assert!(!self.lent[frame as usize], "frame {frame} is the kernel's");
        if offset > self.frame_bytes || len > self.frame_bytes - offset {
            return None;
        }
        // SAFETY: the frame is one of those that the mapping was made for (the index above checked it), and the bytes end in it.
        Some(unsafe { self.memory.start.add(frame as usize * self.frame_bytes + offset) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_the_kernel_has_cannot_be_touched_and_comes_back_once() {
        let mut frames = Frames::new(4, 2048).unwrap();
        let address = frames.lend(2);
        assert_eq!(address, 2 * 2048);
        assert!(std::panic::catch_unwind(|| frames.bytes(2, 0, 1).map(<[u8]>::len)).is_err());
        assert_eq!(frames.take_back(address + 256), Ok((2, 256)));
        assert!(frames.bytes(2, 256, 2048 - 256).is_some());
        assert!(frames.bytes(2, 256, 2048 - 255).is_none());
        assert!(frames.bytes(2, 2049, 0).is_none());
        assert!(frames.bytes_mut(2, 2049).is_none());
        assert!(frames.take_back(address).is_err(), "it is ours already");
        assert!(frames.take_back(4 * 2048).is_err(), "there is no such frame");
        assert!(frames.take_back(u64::MAX).is_err());
    }

    /// A ring without a socket, of which the test is the kernel.
    fn ring(size: u32) -> (Ring<u64>, Offsets) {
        let offsets = Offsets { producer: 0, consumer: 64, entries: 192, flags: 128 };
        let mapping = Mapping::of_zeros(4096).unwrap();
        let word = |offset| mapping.place(offset, 1).unwrap();
        let ring = Ring {
            producer: word(0),
            consumer: word(64),
            flags: word(128),
            entries: mapping.place(192, size as usize).unwrap(),
            mapping,
            size,
        };
        (ring, offsets)
    }

    #[test]
    fn a_producer_stops_when_the_ring_is_full_and_goes_on_as_the_kernel_takes() {
        let (ring, _) = ring(4);
        let start = u32::MAX - 1;
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        let mut producer = Producer { next: start, taken: start, ring };
        for entry in 0..4 {
            assert_eq!(producer.push(entry), Ok(true));
        }
        assert_eq!(producer.push(4), Ok(false));
        assert_eq!(producer.ring.producer().load(Ordering::Relaxed), start, "published only when told");
        producer.publish();
        assert_eq!(producer.ring.producer().load(Ordering::Relaxed), start.wrapping_add(4));
        assert_eq!(producer.waiting(), Ok(4));
        producer.ring.consumer().store(start.wrapping_add(3), Ordering::Relaxed);
        assert_eq!((producer.push(4), producer.waiting()), (Ok(true), Ok(2)));
        producer.ring.consumer().store(start.wrapping_add(40), Ordering::Relaxed);
        assert!(producer.waiting().is_err(), "the kernel took 40 of 5");
    }

    #[test]
    fn a_consumer_takes_in_order_and_finds_an_index_that_cannot_be() {
        let (ring, _) = ring(4);
        for index in 0..4 {
            // SAFETY: one of the four entries.
            unsafe { ring.entry(index).write_volatile(u64::from(index) + 10) };
        }
        let mut consumer = Consumer { next: 0, given: 0, ring };
        assert_eq!(consumer.pop(), Ok(None));
        consumer.ring.producer().store(3, Ordering::Relaxed);
        assert_eq!([(); 4].map(|()| consumer.pop().unwrap()), [Some(10), Some(11), Some(12), None]);
        assert_eq!(consumer.ring.consumer().load(Ordering::Relaxed), 0);
        consumer.release();
        assert_eq!(consumer.ring.consumer().load(Ordering::Relaxed), 3);
        consumer.ring.producer().store(3 + 5, Ordering::Relaxed);
        assert!(consumer.pop().is_err(), "a ring of four cannot hold five");
    }

    #[test]
    fn parts_of_a_ring_that_do_not_lie_in_it_are_refused() {
        let mapping = Mapping::of_zeros(4096).unwrap();
        assert!(mapping.place::<u64>(4096, 0).is_ok());
        assert!(mapping.place::<u64>(4096, 1).is_err());
        assert!(mapping.place::<u64>(4, 1).is_err(), "not aligned");
        assert!(mapping.place::<u64>(0, usize::MAX).is_err());
    }
}
