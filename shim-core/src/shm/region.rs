//! FENCE: the memory of a channel, created, sealed, mapped, and reached only by bounds-checked words and byte copies.
//!
//! The other side may write its region at any time, so nothing here hands out `&[u8]` into memory that it writes, except a
//! [`Lease`], which only the application takes, of buffers that its own (trusted) engine lent it.
#![expect(unsafe_code, reason = "fence: mapping shared memory and reaching into it")]

use super::atomic::AtomicU64;
use super::ring::{Memory, ReadWords, WritableMemory};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of the longest run of words that is reached often: a message slot.
const SHORT_BYTES: usize = 128;

/// Marks a mapping that may be stored into.
#[derive(Debug, Clone, Copy)]
pub struct Write;
/// Marks a mapping that may only be loaded from.
#[derive(Debug, Clone, Copy)]
pub struct Read;

const SEAL_SIZE: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
/// Later writable mappings are refused, those there are go on; and no seal is added any more.
const SEAL_WRITER: libc::c_int = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;

/// A shared region of `length` bytes in this process. Unmapped on drop; a forked child does not inherit it.
#[derive(Debug)]
pub struct Mapping<Access> {
    start: NonNull<u8>,
    length: usize,
    /// Last offset at which [`SHORT_BYTES`] lie inside.
    last_short: usize,
    generation: fork::Generation,
    access: PhantomData<Access>,
}

// SAFETY: the mapping is plain memory that every thread of the process may reach; all access is atomic or by copies of
// bytes that the channel's ownership rules give to one side at a time.
unsafe impl<Access> Send for Mapping<Access> {}
// SAFETY: as above; there is no interior state besides the memory itself.
unsafe impl<Access> Sync for Mapping<Access> {}

/// Makes a memfd of `length` bytes whose size is sealed. `name` is seen in /proc/PID/maps and nowhere else.
pub fn create(name: &std::ffi::CStr, length: usize) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string; the call has no other argument that points anywhere.
    let raw = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(raw) };
    file.set_len(length as u64)?;
    add_seals(&file, SEAL_SIZE)?;
    Ok(file.into())
}

/// Seals the application's region once it has mapped it: no new writer, no hole, no new seal.
pub fn seal_writer(region: &impl AsFd) -> io::Result<()> {
    add_seals(region, SEAL_WRITER)
}

/// Makes a read-only description of the same memory: what the application gets of the engine's region.
///
/// The mode of the memfd becomes 0400 and seals are closed, so that the description cannot be opened again for writing.
pub fn read_only(region: &impl AsFd) -> io::Result<OwnedFd> {
    let raw = region.as_fd().as_raw_fd();
    // SAFETY: plain system call on a descriptor that is open for the call.
    if unsafe { libc::fchmod(raw, 0o400) } < 0 {
        return Err(io::Error::last_os_error());
    }
    add_seals(region, libc::F_SEAL_SEAL)?;
    Ok(File::open(format!("/proc/self/fd/{raw}"))?.into())
}

/// Says whether the region has all the seals under which an engine maps an application's memory.
pub fn is_sealed(region: &impl AsFd) -> io::Result<bool> {
    // SAFETY: plain system call on a descriptor that is open for the call.
    let seals = unsafe { libc::fcntl(region.as_fd().as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(seals & (SEAL_SIZE | SEAL_WRITER) == SEAL_SIZE | SEAL_WRITER)
}

fn add_seals(region: &impl AsFd, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: plain system call on a descriptor that is open for the call.
    if unsafe { libc::fcntl(region.as_fd().as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn map<Access>(region: &impl AsFd, length: usize, protection: libc::c_int) -> io::Result<Mapping<Access>> {
    let raw = region.as_fd().as_raw_fd();
    // SAFETY: all zeros is a valid `stat`.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is writable for the call.
    if unsafe { libc::fstat(raw, &raw mut status) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain system call; fails on anything but a memfd.
    let seals = unsafe { libc::fcntl(raw, libc::F_GET_SEALS) };
    // Without these seals the other side could cut the file and every access would raise SIGBUS.
    if seals < 0
        || length < SHORT_BYTES
        || seals & SEAL_SIZE != SEAL_SIZE
        || u64::try_from(status.st_size).ok() != Some(length as u64)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed memfd of the agreed size"));
    }
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, raw, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start =
        NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mmap answered address zero"))?;
    let last_short = length.saturating_sub(SHORT_BYTES);
    let mapping =
        Mapping { start, length, last_short, generation: fork::Generation::current(), access: PhantomData };
    // SAFETY: the range was just mapped. A forked child must not write into rings that its parent goes on using.
    if unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_DONTFORK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(mapping)
}

/// Copies `into.len()` bytes of a slot from its word `first` on. They are arbitrary, as in [`Mapping::read_bytes`].
/// Panics beyond the slot.
#[inline(always)]
pub fn read_words<const N: usize>(words: ReadWords<'_, N>, first: usize, into: &mut [u8]) {
    assert!(first * 8 + into.len() <= N * 8, "range outside the slot");
    let source = words.inner().as_ptr().cast::<u8>();
    // SAFETY: the assertion keeps the range inside the words, and `into` is private memory. As in `read_bytes`, the bytes
    // are copied as opaque values of a foreign process.
    unsafe { copy_short(source.add(first * 8), into.as_mut_ptr(), into.len()) }
}

/// Copies `bytes` into a slot from its word `first` on. Panics if they do not fit.
#[inline(always)]
pub fn write_words<const N: usize>(words: &[AtomicU64; N], first: usize, bytes: &[u8]) {
    assert!(first * 8 + bytes.len() <= N * 8, "range outside the slot");
    let target = words.as_ptr().cast_mut().cast::<u8>();
    // SAFETY: the assertion keeps the range inside the words, which are atomics of memory that this side may write (only
    // `WritableMemory` hands them out); `bytes` is private. The slot is not published, so nobody is to read it yet.
    unsafe { copy_short(bytes.as_ptr(), target.add(first * 8), bytes.len()) }
}

/// Copies a short run of bytes between two places of private memory, which must be equally long.
#[inline(always)]
pub fn copy_short_slice(from: &[u8], to: &mut [u8]) {
    assert!(from.len() == to.len(), "as many bytes there as here");
    // SAFETY: both slices have that length, and an exclusive one overlaps no other.
    unsafe { copy_short(from.as_ptr(), to.as_mut_ptr(), from.len()) }
}

/// Copies a message that fits a slot. A call of `memcpy` costs more than the copy; a length that is known is copied as such.
///
/// # Safety
/// `length` bytes are readable at `from` and writable at `to`, and do not overlap.
#[inline(always)]
unsafe fn copy_short(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: each piece lies inside the `length` bytes: those from the front by the loop's condition and the one at the
    // end, which may repeat bytes, by the length.
    unsafe {
        let piece = |at: usize| std::ptr::copy_nonoverlapping(from.add(at), to.add(at), 16);
        if length < 16 {
            return copy_tiny(from, to, length);
        }
        // No loop: the compiler would make a call of `memcpy` of it.
        if length < 64 {
            piece(0);
            if length > 32 {
                piece(16);
            }
            if length > 48 {
                piece(32);
            }
            return piece(length - 16);
        }
        std::ptr::copy_nonoverlapping(from, to, 64);
        if length > 64 {
            copy_rest(from, to, length);
        }
    }
}

/// As [`copy_short`], what is behind the first 64 bytes.
///
/// # Safety
/// As for [`copy_short`].
#[inline]
unsafe fn copy_rest(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: as for `copy_short`.
    unsafe { std::ptr::copy_nonoverlapping(from.add(64), to.add(64), length - 64) }
}

/// As [`copy_short`], of fewer than 16 bytes.
///
/// # Safety
/// As for [`copy_short`].
#[inline]
unsafe fn copy_tiny(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: as for `copy_short`.
    unsafe {
        match length {
            8.. => {
                std::ptr::copy_nonoverlapping(from, to, 8);
                std::ptr::copy_nonoverlapping(from.add(length - 8), to.add(length - 8), 8);
            }
            4.. => {
                std::ptr::copy_nonoverlapping(from, to, 4);
                std::ptr::copy_nonoverlapping(from.add(length - 4), to.add(length - 4), 4);
            }
            _ => {
                for at in 0..length {
                    std::ptr::copy_nonoverlapping(from.add(at), to.add(at), 1);
                }
            }
        }
    }
}

/// The least page of the processors that we know.
const PAGE_BYTES: usize = 4096;
/// From so many bytes on the C library may copy by one string instruction.
const STRING_COPY_BYTES: usize = 2048;
/// The places within a page by which a target must not be ahead of its source for that instruction.
const SLOW_DISTANCES: std::ops::Range<usize> = 1..32;

/// Copies as `copy_nonoverlapping` does, and as fast whatever the two addresses are.
///
/// `rep movsb` takes a store for one that feeds a later load when the target is ahead of the source by less than 32 bytes,
/// the pages not considered, and on some processors (AMD's Zen 3 for one) becomes 16 times slower. Such copies are made in
/// pieces that are too short for the instruction.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
    let distance = target.addr().wrapping_sub(source.addr()) % PAGE_BYTES;
    if length > STRING_COPY_BYTES && SLOW_DISTANCES.contains(&distance) {
        // SAFETY: as the caller promises.
        return unsafe { copy_in_pieces(source, target, length) };
    }
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy_nonoverlapping(source, target, length) }
}

/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(never)]
unsafe fn copy_in_pieces(source: *const u8, target: *mut u8, length: usize) {
    for at in (0..length).step_by(STRING_COPY_BYTES) {
        let piece = STRING_COPY_BYTES.min(length - at);
        // SAFETY: the piece is inside both ranges.
        unsafe { std::ptr::copy_nonoverlapping(source.add(at), target.add(at), piece) }
    }
}

impl Mapping<Write> {
    /// Maps a sealed memfd of exactly `length` bytes for reading and writing.
    pub fn writable(region: &impl AsFd, length: usize) -> io::Result<Self> {
        map(region, length, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Copies `bytes` to `offset`. Panics if they do not fit: offsets are ours, never the other side's.
    #[inline(always)]
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let target = self.range(offset, bytes.len());
        // SAFETY: `range` checked the bounds; `bytes` is private memory and does not overlap the mapping.
        unsafe { copy(bytes.as_ptr(), target, bytes.len()) }
    }

    /// A range that the caller alone writes until it publishes it: a TX loan.
    pub fn lease_mut(self: &Arc<Self>, offset: usize, length: usize) -> LeaseMut {
        let start = self.range(offset, length);
        LeaseMut { start, length, mapping: Arc::clone(self) }
    }
}

impl Mapping<Read> {
    /// Maps a sealed memfd of exactly `length` bytes for reading.
    pub fn read_only(region: &impl AsFd, length: usize) -> io::Result<Self> {
        map(region, length, libc::PROT_READ)
    }

    /// A range that the engine lent to the application. For the application's side only: the engine must never hold a
    /// reference into memory that an application writes.
    pub fn lease(self: &Arc<Self>, offset: usize, length: usize) -> Lease {
        let start = self.range(offset, length);
        Lease { start, length, mapping: Arc::clone(self) }
    }
}

impl<Access> Mapping<Access> {
    /// Whether this is the process that mapped it, and not a forked child.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.generation.is_current()
    }

    /// Bytes of the region.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Copies `into.len()` bytes from `offset`. They are arbitrary: the other side may change them meanwhile.
    #[inline(always)]
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        let source = self.range(offset, into.len());
        // SAFETY: `range` checked the bounds; `into` is private memory. The other side may store at the same time: bytes
        // are copied as opaque values of a foreign process, and nothing is assumed about what arrives.
        unsafe { copy(source, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `length` bytes from here to `target_offset` of another region: the relay between two applications.
    #[inline]
    pub fn copy_to(&self, offset: usize, target: &Mapping<Write>, target_offset: usize, length: usize) {
        let source = self.range(offset, length);
        let target = target.range(target_offset, length);
        // SAFETY: `range` checked both bounds, and the regions are different mappings. As in `read_bytes`, the bytes are opaque.
        unsafe { copy(source, target, length) }
    }

    /// Asks the kernel to map `length` bytes at `offset` now rather than at first touch. A hint.
    pub fn prefault(&self, offset: usize, length: usize, writable: bool) {
        let start = self.range(offset, length);
        let advice = if writable { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
        // SAFETY: the range is inside the mapping; the advice changes no content. Failure only means a later page fault.
        unsafe { libc::madvise(start.cast(), length, advice) };
    }

    #[inline(always)]
    fn range(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset <= self.length && length <= self.length - offset, "range outside the region");
        // SAFETY: the assertion keeps the result inside the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    #[inline(always)]
    fn atomics<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        let start = if N * 8 <= SHORT_BYTES {
            // Words of slots and single words, which each message reaches several of: one comparison.
            let offset = offset & !7;
            assert!(offset <= self.last_short, "words outside the region");
            // SAFETY: the assertion keeps the words inside the mapping, which is longer than them (`map` checked it).
            unsafe { self.start.as_ptr().add(offset) }
        } else {
            assert!(offset.is_multiple_of(8), "words are aligned");
            self.range(offset, N * 8)
        };
        // SAFETY: in bounds, aligned (the mapping starts at a page), and lives as long as `self`. Atomics may be changed
        // by others at any time; that is what they are for. Over a read-only mapping only `ReadWords` is handed out.
        unsafe { &*start.cast::<[AtomicU64; N]>() }
    }
}

impl<Access> Memory for Mapping<Access> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> ReadWords<'_, N> {
        ReadWords::new(self.atomics(offset))
    }
}

impl WritableMemory for Mapping<Write> {
    #[inline(always)]
    fn words_mut<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        self.atomics(offset)
    }
}

impl<Access> Drop for Mapping<Access> {
    fn drop(&mut self) {
        if !self.generation.is_current() {
            return; // MADV_DONTFORK: in a forked child nothing is mapped here, or something else is.
        }
        // SAFETY: the range was mapped by `map` and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Received bytes in place, lent until dropped. The ledger of the channel keeps the engine from reusing them.
#[derive(Debug)]
pub struct Lease {
    start: *mut u8,
    length: usize,
    mapping: Arc<Mapping<Read>>,
}

impl Lease {
    /// Whether this is the process that mapped it, and not a forked child.
    pub fn is_ours(&self) -> bool {
        self.mapping.is_ours()
    }
}

// SAFETY: a lease is a shared view of bytes that nobody writes while it lives.
unsafe impl Send for Lease {}
// SAFETY: as above.
unsafe impl Sync for Lease {}

impl std::ops::Deref for Lease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        if !self.mapping.is_ours() {
            return &[]; // The mapping did not come along into the forked child.
        }
        // SAFETY: in bounds when made, mapped while `mapping` lives. Only the engine can write here, which does not before
        // the buffers are given back; an application has to trust its sidecar that far.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

/// Bytes of a message to be sent, written in place.
#[derive(Debug)]
pub struct LeaseMut {
    start: *mut u8,
    length: usize,
    mapping: Arc<Mapping<Write>>,
}

// SAFETY: the ledger gives each TX buffer to one lease at a time.
unsafe impl Send for LeaseMut {}
// SAFETY: shared access only reads.
unsafe impl Sync for LeaseMut {}

impl std::ops::Deref for LeaseMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        if !self.mapping.is_ours() {
            return &[];
        }
        // SAFETY: in bounds when made, mapped while `mapping` lives, written by this lease alone.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl std::ops::DerefMut for LeaseMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        if !self.mapping.is_ours() {
            return &mut [];
        }
        // SAFETY: as for `deref`; the exclusive borrow makes it the only access of this process.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

/// Tells a forked child from the process that attached, and still lets the child attach for itself.
pub mod fork {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A process, as far as forks go: what was made under one generation is not for another.
    #[derive(Debug, Clone, Copy)]
    pub struct Generation {
        /// A word that the kernel wipes in a forked child, whatever way it forked.
        word: &'static AtomicU64,
        number: u64,
    }

    impl Generation {
        /// The generation of this process. In a forked child it is a new one.
        pub fn current() -> Self {
            static LAST: AtomicU64 = AtomicU64::new(0);
            let word = canary();
            if word.load(Ordering::Relaxed) == 0 {
                // The counter is ordinary memory: a child goes on from its parent's value.
                let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let _ = word.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            }
            Self { word, number: word.load(Ordering::Relaxed) }
        }

        /// False in a child that was forked since. One load.
        #[inline]
        pub fn is_current(self) -> bool {
            self.word.load(Ordering::Relaxed) == self.number
        }
    }

    fn canary() -> &'static AtomicU64 {
        /// For kernels before 4.14: no protection, but no false alarm either.
        static NEVER_WIPED: AtomicU64 = AtomicU64::new(0);
        static CANARY: OnceLock<&'static AtomicU64> = OnceLock::new();
        CANARY.get_or_init(|| wiped_word().unwrap_or(&NEVER_WIPED))
    }

    fn wiped_word() -> Option<&'static AtomicU64> {
        let length = 4096;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private page at an address that the kernel chooses.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: advice on the page that was just mapped.
        if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } < 0 {
            return None;
        }
        // SAFETY: the page is aligned, zeroed, and never unmapped.
        Some(unsafe { &*page.cast::<AtomicU64>() })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_at_every_distance_and_length() {
        const MOST: usize = 3 * STRING_COPY_BYTES + 1;
        let source: Vec<u8> = (0..=250).cycle().take(MOST).collect();
        for distance in [0, 1, 16, 31, 32, 4095] {
            for length in [0, 1, 2048, 2049, 4096, 4097, MOST] {
                let mut target = vec![0xff; 2 * PAGE_BYTES + MOST];
                let ahead = (source.as_ptr().addr() + distance).wrapping_sub(target.as_ptr().addr());
                let start = ahead % PAGE_BYTES;
                // SAFETY: both ranges are inside their vectors, which are different.
                unsafe { copy(source.as_ptr(), target.as_mut_ptr().add(start), length) };
                assert_eq!(target[start..start + length], source[..length], "{distance} {length}");
                assert!(target[start + length..].iter().all(|&byte| byte == 0xff), "{distance} {length}");
            }
        }
    }
}
