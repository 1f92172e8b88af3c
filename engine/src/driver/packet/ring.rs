//! FENCE: the rings that a packet socket shares with the kernel (`TPACKET_V2`, packet(7) and the kernel's packet_mmap.rst).
//!
//! ```text
//! a slot: 64 of them in a block, blocks end to end, first the receive ring, then the transmit ring
//!  0         4      8         12    14    16    20     24        26         28     32
//! +---------+------+---------+-----+-----+-----+------+---------+----------+------+-----------------------------+
//! | status  | len  | snaplen | mac | net | sec | nsec | VLAN tci| VLAN tpid| pad  | receive: address; header of |
//! |         |      |         |     |     |     |      |         |          |      | the kernel, frame at `mac`  |
//! |         |      |         |     |     |     |      |         |          |      | transmit: header, frame     |
//! +---------+------+---------+-----+-----+-----+------+---------+----------+------+-----------------------------+
//! ```
//! A slot belongs to one side at a time; `status` says to whom. Both sides write the slot first and `status` last.
#![expect(
    unsafe_code,
    reason = "fence: a mapping shared with the kernel, and bind and setsockopt of packet sockets"
)]

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::run::{Piece, VIRTIO_HEADER_BYTES, header_of_a_frame};

/// Slots of each ring: as many descriptors as the LCD NIC has (paper, section 3.1).
pub(super) const SLOTS: usize = 256;
const SLOTS_OF_A_BLOCK: usize = 64;
const BLOCKS: usize = SLOTS / SLOTS_OF_A_BLOCK;

/// Bytes of the header, and of the header with the address behind it that the kernel writes on receive.
const HEADER_BYTES: usize = size_of::<libc::tpacket2_hdr>();
const RECEIVE_HEADER_BYTES: usize = HEADER_BYTES + size_of::<libc::sockaddr_ll>();
const _: () = assert!(HEADER_BYTES == 32 && RECEIVE_HEADER_BYTES == 52);

/// Where the fields are.
const STATUS: usize = mem::offset_of!(libc::tpacket2_hdr, tp_status);
const LENGTH: usize = mem::offset_of!(libc::tpacket2_hdr, tp_len);
const CAPTURED_LENGTH: usize = mem::offset_of!(libc::tpacket2_hdr, tp_snaplen);
const FRAME_OFFSET: usize = mem::offset_of!(libc::tpacket2_hdr, tp_mac);
const SECONDS: usize = mem::offset_of!(libc::tpacket2_hdr, tp_sec);
const NANOSECONDS: usize = mem::offset_of!(libc::tpacket2_hdr, tp_nsec);
const VLAN_TAG: usize = mem::offset_of!(libc::tpacket2_hdr, tp_vlan_tci);

/// What the kernel leaves between the header and a received frame: the IP header is aligned to 16, the frame begins 14 before.
const RECEIVE_OFFSET_BYTES: usize =
    (RECEIVE_HEADER_BYTES + 16).next_multiple_of(16) + VIRTIO_HEADER_BYTES - ETHERNET_BYTES;

/// Where a frame to be sent begins.
const SEND_OFFSET_BYTES: usize = HEADER_BYTES + VIRTIO_HEADER_BYTES;

/// Of frames up to this length the kernel makes a copy in one piece; from longer ones it takes pages, which costs more at first.
const MOST_LINEAR_BYTES: usize = 2_048;

const ETHERNET_BYTES: usize = 14;
const ADDRESSES_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];
const VLAN_NUMBER_BITS: u16 = 0x0fff;

/// The protocol number of all frames (`ETH_P_ALL`), in network byte order.
#[expect(clippy::cast_possible_truncation, reason = "the number 3")]
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// How large the slots are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    slot_bytes: usize,
}

impl Shape {
    /// Slots for frames with IP packets of up to `mtu` bytes, and a VLAN tag.
    pub(super) fn new(mtu: usize) -> Self {
        // SAFETY: a question without pointers.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096);
        Self::with_page(mtu, page)
    }

    /// A block is made of whole pages and of whole slots. And slots are an odd multiple of their unit, so that the headers of
    /// all slots do not fall into a few cache sets.
    fn with_page(mtu: usize, page_bytes: usize) -> Self {
        let unit = (page_bytes / SLOTS_OF_A_BLOCK).max(64);
        let needed = RECEIVE_OFFSET_BYTES + ETHERNET_BYTES + TAG_BYTES + mtu;
        let units = needed.div_ceil(unit);
        Self { slot_bytes: (units + 1 - units % 2) * unit }
    }

    const fn ring_bytes(self) -> usize {
        self.slot_bytes * SLOTS
    }

    /// Largest IP packet that both rings take.
    pub(super) fn mtu(self) -> usize {
        self.slot_bytes - RECEIVE_OFFSET_BYTES - ETHERNET_BYTES - TAG_BYTES
    }

    fn request(self) -> libc::tpacket_req {
        let small = |bytes: usize| libc::c_uint::try_from(bytes).expect("an MTU has at most 64 KiB");
        libc::tpacket_req {
            tp_block_size: small(self.slot_bytes * SLOTS_OF_A_BLOCK),
            tp_block_nr: small(BLOCKS),
            tp_frame_size: small(self.slot_bytes),
            tp_frame_nr: small(SLOTS),
        }
    }
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is this value's own, and every access to it goes through `&self` or `&mut self` of its one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // Populated at once: the first frames must not wait for page faults.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, socket.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap answered null"))?;
        Ok(Self { start, bytes })
    }

    /// A place in the mapping that has `bytes` bytes.
    fn at(&self, place: usize, bytes: usize) -> NonNull<u8> {
        assert!(
            place <= self.bytes && bytes <= self.bytes - place,
            "{place} + {bytes} is outside of the rings"
        );
        // SAFETY: inside of the mapping, as just checked.
        unsafe { self.start.add(place) }
    }

    fn word(&self, place: usize) -> &AtomicU32 {
        assert!(place.is_multiple_of(size_of::<u32>()));
        let word = self.at(place, size_of::<u32>()).cast();
        // SAFETY: inside, aligned (the mapping begins at a page), lives as long as `self`, and of a type that others may write.
        unsafe { word.as_ref() }
    }

    fn half_word(&self, place: usize) -> u16 {
        assert!(place.is_multiple_of(size_of::<u16>()));
        let word: NonNull<AtomicU16> = self.at(place, size_of::<u16>()).cast();
        // SAFETY: as in `word`.
        unsafe { word.as_ref() }.load(Ordering::Relaxed)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A frame as it lies in the receive ring.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// The frame with its VLAN tag; none if it did not fit the slot, or if the slot makes no sense.
    pub(super) bytes: Option<&'a [u8]>,
    /// Flags (`TP_STATUS_*`).
    pub(super) status: u32,
    /// Whether it is one frame.
    pub(super) piece: Piece,
    /// When it arrived, in nanoseconds of the wall clock.
    pub(super) arrived_ns: u64,
}

/// Both rings of one packet socket.
#[derive(Debug)]
pub(super) struct Rings {
    mapping: Mapping,
    shape: Shape,
    /// The slot that the kernel fills next, or has.
    receive_slot: usize,
    /// The tag of the frame in it is back in its place.
    has_tag: bool,
    /// The slot that is lent next.
    send_slot: usize,
    /// Slots before it that were committed and that the kernel has not taken yet.
    waiting: usize,
}

impl Rings {
    /// Makes the rings of a packet socket of version 2.
    pub(super) fn new(socket: BorrowedFd<'_>, shape: Shape) -> io::Result<Self> {
        let request = shape.request();
        for ring in [libc::PACKET_RX_RING, libc::PACKET_TX_RING] {
            let length = libc::socklen_t::try_from(size_of::<libc::tpacket_req>()).unwrap_or(0);
            let value = (&raw const request).cast();
            // SAFETY: pointer and length name `request`, which the kernel only reads.
            let result =
                unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, ring, value, length) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let mapping = Mapping::new(socket, 2 * shape.ring_bytes())?;
        Ok(Self { mapping, shape, receive_slot: 0, has_tag: false, send_slot: 0, waiting: 0 })
    }

    /// Slots follow each other without gaps: a block is as long as its slots.
    fn receive_place(&self) -> usize {
        self.receive_slot * self.shape.slot_bytes
    }

    fn send_place(&self, slot: usize) -> usize {
        self.shape.ring_bytes() + slot * self.shape.slot_bytes
    }

    /// Whether a frame waits.
    #[inline]
    pub(super) fn has_received(&self) -> bool {
        let status = self.mapping.word(self.receive_place() + STATUS);
        // SYNC: received slot visible
        status.load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The oldest frame in the ring, until [`Self::release`].
    #[inline]
    pub(super) fn front(&mut self) -> Option<Received<'_>> {
        let place = self.receive_place();
        // SYNC: received slot visible
        let status = self.mapping.word(place + STATUS).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let number = |at: usize| self.mapping.word(place + at).load(Ordering::Relaxed);
        let (length, captured) = (number(LENGTH), number(CAPTURED_LENGTH));
        let arrived_ns = u64::from(number(SECONDS)) * 1_000_000_000 + u64::from(number(NANOSECONDS));
        let offset = usize::from(self.mapping.half_word(place + FRAME_OFFSET));
        let tag = self.mapping.half_word(place + VLAN_TAG);
        let bytes = usize::try_from(captured).unwrap_or(usize::MAX);
        let header_at = (RECEIVE_HEADER_BYTES + VIRTIO_HEADER_BYTES..self.shape.slot_bytes)
            .contains(&offset)
            .then(|| place + offset - VIRTIO_HEADER_BYTES);
        let header = header_at.map(|at| {
            let header: NonNull<[u8; VIRTIO_HEADER_BYTES]> = self.mapping.at(at, VIRTIO_HEADER_BYTES).cast();
            // SAFETY: inside of the mapping, and ours by the status as below; bytes need no alignment.
            unsafe { header.read() }
        });
        let is_whole = length == captured
            && header.is_some()
            && (ETHERNET_BYTES..=self.shape.slot_bytes - offset).contains(&bytes);
        let bytes = is_whole.then(|| {
            let start = place + offset - TAG_BYTES;
            let slice =
                NonNull::slice_from_raw_parts(self.mapping.at(start, TAG_BYTES + bytes), TAG_BYTES + bytes);
            // SAFETY: inside of the mapping. The status, read with Acquire, gave the slot to us until `release`, which needs
            // `&mut self` and so ends this borrow; until then the kernel does not write it.
            let slice = unsafe { &mut *slice.as_ptr() };
            with_tag(slice, (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(tag), &mut self.has_tag)
        });
        let piece = header.map_or(Piece::Other, Piece::read);
        Some(Received { bytes, status, piece, arrived_ns })
    }

    /// Gives the slot of [`Self::front`] back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        let status = self.mapping.word(self.receive_place() + STATUS);
        // SYNC: received slot free
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.receive_slot = (self.receive_slot + 1) % SLOTS;
        self.has_tag = false;
    }

    /// Room for a frame of `bytes` bytes, if a slot is free.
    #[inline]
    pub(super) fn lend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        assert!(bytes <= self.shape.slot_bytes - SEND_OFFSET_BYTES, "a frame of {bytes} bytes");
        let place = self.send_place(self.send_slot);
        // SYNC: sent slot free
        let status = self.mapping.word(place + STATUS).load(Ordering::Acquire);
        if status != libc::TP_STATUS_AVAILABLE {
            return None;
        }
        let slice = NonNull::slice_from_raw_parts(self.mapping.at(place + SEND_OFFSET_BYTES, bytes), bytes);
        // SAFETY: inside of the mapping. The status, read with Acquire, says that the slot is ours until `commit`, which needs
        // `&mut self` and so ends this borrow.
        Some(unsafe { &mut *slice.as_ptr() })
    }

    /// The room that [`Self::lend`] gave, as it was written.
    #[inline]
    pub(super) fn lent(&mut self, bytes: usize) -> &mut [u8] {
        self.lend(bytes).expect("a slot that was free when it was lent stays so until it is committed")
    }

    /// Marks the slot that was lent as to be sent.
    #[inline]
    pub(super) fn commit(&mut self, bytes: usize) {
        assert!(
            (ETHERNET_BYTES..=self.shape.slot_bytes - SEND_OFFSET_BYTES).contains(&bytes),
            "{bytes} bytes"
        );
        let place = self.send_place(self.send_slot);
        let linear = if bytes <= MOST_LINEAR_BYTES { u16::try_from(bytes).unwrap_or(0) } else { 0 };
        let header: NonNull<[u8; VIRTIO_HEADER_BYTES]> =
            self.mapping.at(place + HEADER_BYTES, VIRTIO_HEADER_BYTES).cast();
        // SAFETY: inside of the mapping, and ours until the status below is stored, as `lend` found out; bytes need no alignment.
        unsafe { header.write(header_of_a_frame(linear)) };
        let length = u32::try_from(VIRTIO_HEADER_BYTES + bytes).expect("checked above");
        self.mapping.word(place + LENGTH).store(length, Ordering::Relaxed);
        // SYNC: sent slot visible
        self.mapping.word(place + STATUS).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.send_slot = (self.send_slot + 1) % SLOTS;
        self.waiting += 1;
    }

    /// Frames that were committed and that the kernel has not taken, as far as [`Self::count_taken`] saw.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    fn oldest_waiting(&self) -> usize {
        (self.send_slot + SLOTS - self.waiting) % SLOTS
    }

    /// How many frames the kernel took since the last call.
    pub(super) fn count_taken(&mut self) -> usize {
        let before = self.waiting;
        while self.waiting > 0 {
            let place = self.send_place(self.oldest_waiting());
            // SYNC: sent slot free
            let status = self.mapping.word(place + STATUS).load(Ordering::Acquire);
            if status == libc::TP_STATUS_SEND_REQUEST {
                break;
            }
            self.waiting -= 1;
        }
        before - self.waiting
    }

    /// Takes back what the kernel has not taken, and says how many that were. The kernel looks at the ring only in calls that
    /// we make, and goes on where it stopped, which is where we go on.
    pub(super) fn withdraw(&mut self) -> usize {
        let withdrawn = self.waiting;
        while self.waiting > 0 {
            let place = self.send_place(self.oldest_waiting());
            self.mapping.word(place + STATUS).store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
            self.waiting -= 1;
        }
        self.send_slot = (self.send_slot + SLOTS - withdrawn) % SLOTS;
        withdrawn
    }
}

/// The frame behind the first [`TAG_BYTES`] bytes; with the tag, which the kernel had taken out, put back in if it names a
/// VLAN. `has_tag` says whether that was done, as a frame may be looked at more than once.
fn with_tag<'a>(room: &'a mut [u8], tag: Option<u16>, has_tag: &mut bool) -> &'a [u8] {
    match tag.filter(|tag| tag & VLAN_NUMBER_BITS != 0) {
        Some(_) if *has_tag => room,
        Some(tag) => {
            *has_tag = true;
            room.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES_BYTES, 0);
            room[ADDRESSES_BYTES..ADDRESSES_BYTES + 2].copy_from_slice(&VLAN_TYPE);
            room[ADDRESSES_BYTES + 2..ADDRESSES_BYTES + TAG_BYTES].copy_from_slice(&tag.to_be_bytes());
            room
        }
        None => &room[TAG_BYTES..],
    }
}

/// From now on the socket gets the frames of that interface.
pub(super) fn bind(socket: BorrowedFd<'_>, interface_index: u32) -> io::Result<()> {
    // SAFETY: a sockaddr_ll of zeros is valid: integers only.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("families are small numbers");
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex =
        libc::c_int::try_from(interface_index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: pointer and length name `address`, which the kernel only reads.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the file behind `new` behind the number of `old`, too. What `old` was is closed.
pub(super) fn replace(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two open descriptors; `old` stays owned by whoever owns it, and stays open.
    let result = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_take_the_mtu_and_fill_blocks_of_whole_pages() {
        for page in [4_096, 16_384, 65_536] {
            for mtu in [1_280, 1_400, 1_500, 3_498, 8_896, 9_000, 9_216, 65_535] {
                let shape = Shape::with_page(mtu, page);
                assert!(shape.mtu() >= mtu, "{mtu} with pages of {page}");
                assert_eq!(shape.slot_bytes * SLOTS_OF_A_BLOCK % page, 0);
                assert!(shape.slot_bytes.is_multiple_of(libc::TPACKET_ALIGNMENT));
                assert!(shape.slot_bytes - SEND_OFFSET_BYTES >= mtu + ETHERNET_BYTES + TAG_BYTES);
            }
        }
        assert_eq!(Shape::with_page(1_500, 4_096).slot_bytes, 1_600);
    }

    #[test]
    fn a_tag_is_put_back_where_it_was() {
        let mut room: Vec<u8> = (0..40).collect();
        let frame = room[4..].to_vec();
        let mut has_tag = false;
        assert_eq!(with_tag(&mut room, None, &mut has_tag), frame);
        assert_eq!(with_tag(&mut room, Some(0xe000), &mut has_tag), frame, "a priority alone is no VLAN");
        let tagged = with_tag(&mut room, Some(0x6007), &mut has_tag).to_vec();
        assert_eq!(with_tag(&mut room, Some(0x6007), &mut has_tag), tagged, "and it stays there");
        assert_eq!(tagged[..12], frame[..12]);
        assert_eq!(tagged[12..16], [0x81, 0x00, 0x60, 0x07]);
        assert_eq!(tagged[16..], frame[12..]);
    }
}
