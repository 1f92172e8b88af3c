//! recvmmsg and sendmmsg over memory that is set up once.
//!
//! Both batches keep C structures whose pointers lead into vectors of the same batch. The vectors are never resized, so the
//! pointers stay good wherever the batch itself is moved.
#![expect(unsafe_code, reason = "recvmmsg, sendmmsg and socket addresses exist only as C calls and unions")]

use std::ffi::c_int;
use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::staging::Run;

/// Most messages (datagrams or runs) of one sendmmsg.
const SEND_BATCH: usize = 64;

/// Distance that is added between receive slots, so that the first lines of all slots do not fall into one cache set.
const SLOT_SKEW_BYTES: usize = 256;

/// Every slot begins at a multiple of this. The kernel copies with `rep movsb`, which on some processors (AMD's Zen 3 for one)
/// is ten times slower to an address that is, the pages not considered, 1 to 31 bytes ahead of what is copied, and that
/// usually begins at a multiple of 32.
const SLOT_ALIGNMENT_BYTES: usize = 64;

/// A socket address of either family; both begin with the family.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

const NAME_BYTES: libc::socklen_t = length_of::<Name>();

#[expect(clippy::cast_possible_truncation, reason = "C structures of a few bytes")]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

impl Name {
    const fn empty() -> Self {
        // SAFETY: a sockaddr_in6 of zeros is valid: integers only.
        Self { v6: unsafe { mem::zeroed() } }
    }

    fn set(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: a sockaddr_in of zeros is valid: integers only.
                let mut name: libc::sockaddr_in = unsafe { mem::zeroed() };
                name.sin_family = AF_INET;
                name.sin_port = v4.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                self.v4 = name;
                length_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                // SAFETY: a sockaddr_in6 of zeros is valid: integers only.
                let mut name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
                name.sin6_family = AF_INET6;
                name.sin6_port = v6.port().to_be();
                name.sin6_flowinfo = v6.flowinfo();
                name.sin6_addr.s6_addr = v6.ip().octets();
                name.sin6_scope_id = v6.scope_id();
                self.v6 = name;
                length_of::<libc::sockaddr_in6>()
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        // SAFETY: both members begin with the family, and `empty` wrote all of the union.
        match unsafe { self.v4.sin_family } {
            AF_INET => {
                // SAFETY: the bytes are initialised and any bits make integers.
                let name = unsafe { self.v4 };
                let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(name.sin_port))))
            }
            AF_INET6 => {
                // SAFETY: the bytes are initialised and any bits make integers.
                let name = unsafe { self.v6 };
                let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                // The flow label of one datagram is not part of a peer's address.
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "families are small numbers")]
const AF_INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "families are small numbers")]
const AF_INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// Room for the control messages that a receive may bring: when the datagram arrived, and the length of each datagram of a
/// run that GRO joined. Which of them come, and in which order, is the kernel's choice.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct ReceiveControl([u8; RECEIVE_CONTROL_BYTES]);

const RECEIVE_CONTROL_BYTES: usize = CONTROL_HEADER_BYTES * 2 + size_of::<libc::timespec>() + 8;

/// Bytes in front of the data of a control message (`CMSG_LEN(0)`), and what the data is padded to.
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const CONTROL_ALIGNMENT: usize = size_of::<usize>();

/// What the control messages of one slot said.
#[derive(Clone, Copy, Default)]
struct Said {
    segment_bytes: Option<usize>,
    /// Nanoseconds of `CLOCK_REALTIME`.
    arrived_ns: Option<u64>,
}

impl ReceiveControl {
    /// Reads the control messages in the first `len` bytes, as the C macros `CMSG_FIRSTHDR` and `CMSG_NXTHDR` would.
    fn read(&self, len: usize) -> Said {
        let mut said = Said::default();
        let mut rest = &self.0[..len.min(RECEIVE_CONTROL_BYTES)];
        while let Some((header, _)) = rest.split_at_checked(CONTROL_HEADER_BYTES) {
            let length =
                usize::from_ne_bytes(*header.first_chunk().expect("a header begins with its length"));
            let int = |at: usize| {
                header.get(at..at + 4).and_then(|bytes| Some(c_int::from_ne_bytes(*bytes.first_chunk()?)))
            };
            let kind = (
                int(mem::offset_of!(libc::cmsghdr, cmsg_level)),
                int(mem::offset_of!(libc::cmsghdr, cmsg_type)),
            );
            let Some(data) = rest.get(CONTROL_HEADER_BYTES..length) else { break };
            if kind == (Some(libc::SOL_UDP), Some(libc::UDP_GRO)) {
                let bytes = data.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes));
                said.segment_bytes =
                    bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
            } else if kind == (Some(libc::SOL_SOCKET), Some(libc::SCM_TIMESTAMPNS)) {
                said.arrived_ns = nanoseconds(data);
            }
            rest = rest.get(length.next_multiple_of(CONTROL_ALIGNMENT)..).unwrap_or_default();
        }
        said
    }
}

/// A `struct timespec` as nanoseconds.
fn nanoseconds(bytes: &[u8]) -> Option<u64> {
    let (seconds, rest) = bytes.split_first_chunk()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanos = u64::try_from(i64::from_ne_bytes(*rest.first_chunk()?)).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// The one control message of a send: the length into which GSO cuts the run.
#[repr(C)]
struct SendControl {
    header: libc::cmsghdr,
    segment_bytes: u16,
}

/// One received datagram.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// The sender; `None` if the kernel named one that is no IP address.
    pub(super) from: Option<SocketAddr>,
    /// The payload.
    pub(super) bytes: &'a [u8],
    /// Whether the kernel cut it because it was longer than a slot.
    pub(super) is_truncated: bool,
    /// When it arrived, in nanoseconds of the wall clock, if the kernel says so.
    pub(super) arrived_ns: Option<u64>,
}

/// Slots for one recvmmsg, and the place up to which they were handed over.
pub(super) struct ReceiveBatch {
    bytes: Vec<u8>,
    /// Where in `bytes` the first slot begins.
    start_bytes: usize,
    stride_bytes: usize,
    headers: Vec<libc::mmsghdr>,
    names: Vec<Name>,
    controls: Vec<ReceiveControl>,
    /// Only pointed to by `headers`.
    _slices: Vec<libc::iovec>,
    /// Slots that the last receive filled, and the first of them that is not yet handed over.
    filled: usize,
    slot: usize,
    /// Of that slot: bytes handed over, length of its datagrams, sender.
    offset: usize,
    segment_bytes: usize,
    arrived_ns: Option<u64>,
    from: Option<SocketAddr>,
}

// SAFETY: the raw pointers inside lead only into vectors that the batch owns, so they move to another thread with it.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// `slots` slots, each for `slot_bytes` bytes: one datagram, or one run that GRO joined.
    pub(super) fn new(slots: usize, slot_bytes: usize) -> Self {
        let stride_bytes = slot_bytes.next_multiple_of(SLOT_SKEW_BYTES) + SLOT_SKEW_BYTES;
        // Zeroed memory comes from the system untouched: slots that are never filled cost no memory.
        let mut bytes = vec![0_u8; slots * stride_bytes + SLOT_ALIGNMENT_BYTES];
        let start_bytes = bytes.as_ptr().align_offset(SLOT_ALIGNMENT_BYTES).min(SLOT_ALIGNMENT_BYTES);
        let mut names = vec![Name::empty(); slots];
        let mut controls = vec![ReceiveControl([0; RECEIVE_CONTROL_BYTES]); slots];
        let mut slices: Vec<libc::iovec> = (0..slots)
            .map(|slot| libc::iovec {
                iov_base: bytes[start_bytes + slot * stride_bytes..].as_mut_ptr().cast(),
                iov_len: slot_bytes,
            })
            .collect();
        let headers = (0..slots)
            .map(|slot| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = (&raw mut names[slot]).cast();
                header.msg_hdr.msg_namelen = NAME_BYTES;
                header.msg_hdr.msg_iov = &raw mut slices[slot];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut controls[slot]).cast();
                header.msg_hdr.msg_controllen = size_of::<ReceiveControl>();
                header
            })
            .collect();
        Self {
            bytes,
            start_bytes,
            stride_bytes,
            headers,
            names,
            controls,
            _slices: slices,
            filled: 0,
            slot: 0,
            offset: 0,
            segment_bytes: 0,
            arrived_ns: None,
            from: None,
        }
    }

    /// Whether everything received was handed over.
    pub(super) fn is_drained(&self) -> bool {
        self.slot >= self.filled
    }

    /// Fills up to `limit` slots with what waits at the socket, without blocking, and returns how many. What was not yet
    /// handed over is lost.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_namelen = NAME_BYTES;
            header.msg_hdr.msg_controllen = size_of::<ReceiveControl>();
        }
        (self.filled, self.slot, self.offset) = (0, 0, 0);
        let slots = vector_length(limit.min(self.headers.len()));
        // SAFETY: `slots` headers, whose pointers lead into our vectors with the lengths given beside them; all of it is
        // exclusively ours during the call because we hold `&mut self`.
        let result = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                slots,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// Bytes that the last receive brought.
    pub(super) fn received_bytes(&self) -> usize {
        self.headers[..self.filled].iter().map(|header| header.msg_len as usize).sum()
    }

    /// The next datagram, in order of arrival.
    pub(super) fn next(&mut self) -> Option<Received<'_>> {
        if self.is_drained() {
            return None;
        }
        let header = &self.headers[self.slot];
        let total_bytes = header.msg_len as usize;
        if self.offset == 0 {
            self.from = self.names[self.slot].address();
            let said = self.controls[self.slot].read(header.msg_hdr.msg_controllen);
            self.segment_bytes = said.segment_bytes.unwrap_or(total_bytes);
            self.arrived_ns = said.arrived_ns;
        }
        let is_truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let start = self.start_bytes + self.slot * self.stride_bytes;
        let end = self.offset.saturating_add(self.segment_bytes).min(total_bytes);
        let range = start + self.offset..start + end;
        if end == total_bytes {
            self.slot += 1;
            self.offset = 0;
        } else {
            self.offset = end;
        }
        let arrived_ns = self.arrived_ns;
        Some(Received { from: self.from, bytes: &self.bytes[range], is_truncated, arrived_ns })
    }
}

/// Headers for one sendmmsg.
pub(super) struct SendBatch {
    headers: Vec<libc::mmsghdr>,
    names: Vec<Name>,
    slices: Vec<libc::iovec>,
    controls: Vec<SendControl>,
}

// SAFETY: the raw pointers inside lead into vectors that the batch owns, but for those into the staging, which are
// written anew by each `send` before the kernel sees them.
unsafe impl Send for SendBatch {}

impl SendBatch {
    pub(super) fn new() -> Self {
        let mut names = vec![Name::empty(); SEND_BATCH];
        let mut slices = vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        let mut controls: Vec<SendControl> = (0..SEND_BATCH).map(|_| segment_control()).collect();
        let headers = (0..SEND_BATCH)
            .map(|index| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = (&raw mut names[index]).cast();
                header.msg_hdr.msg_iov = &raw mut slices[index];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut controls[index]).cast();
                header
            })
            .collect();
        Self { headers, names, slices, controls }
    }

    /// Gives the first of `runs`, whose bytes are in `staging`, to the socket and returns how many it took. An error is
    /// of the first run; later ones show theirs when they are first.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, staging: &[u8], runs: &[Run]) -> io::Result<usize> {
        if let [Run { datagrams: 1, .. }] = runs {
            return self.send_alone(fd, staging, &runs[0]);
        }
        let count = runs.len().min(SEND_BATCH);
        for (index, run) in runs[..count].iter().enumerate() {
            let bytes = &staging[run.range()];
            let header = &mut self.headers[index].msg_hdr;
            header.msg_namelen = self.names[index].set(run.to);
            self.slices[index] =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            self.controls[index].segment_bytes = run.segment_bytes;
            header.msg_controllen = if run.datagrams > 1 { size_of::<SendControl>() } else { 0 };
        }
        // SAFETY: `count` headers, whose pointers lead into our vectors and into `staging`; the kernel only reads the
        // bytes behind `iov_base`, and everything outlives the call.
        let result = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                vector_length(count),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// The usual case of a question or an answer: about a tenth cheaper for the kernel without a header to import.
    fn send_alone(&mut self, fd: BorrowedFd<'_>, staging: &[u8], run: &Run) -> io::Result<usize> {
        let bytes = &staging[run.range()];
        let name_bytes = self.names[0].set(run.to);
        // SAFETY: pointers and lengths name `bytes` and our first name, which the kernel only reads during the call.
        let result = unsafe {
            libc::sendto(
                fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                (&raw const self.names[0]).cast(),
                name_bytes,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(1) }
    }
}

impl std::fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveBatch")
            .field("slot", &self.slot)
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch").finish_non_exhaustive()
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a header of zeros is valid: null pointers with lengths of zero.
    unsafe { mem::zeroed() }
}

fn segment_control() -> SendControl {
    // SAFETY: a control message of zeros is valid: integers only.
    let mut control: SendControl = unsafe { mem::zeroed() };
    // SAFETY: CMSG_LEN only computes.
    control.header.cmsg_len = unsafe { libc::CMSG_LEN(u16::BITS / 8) } as usize;
    control.header.cmsg_level = libc::SOL_UDP;
    control.header.cmsg_type = libc::UDP_SEGMENT;
    control
}

fn vector_length(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count).expect("batches are small")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn our_control_messages_are_laid_out_as_the_c_macros_say() {
        // SAFETY: the macros only compute.
        unsafe {
            let stamp = u32::try_from(size_of::<libc::timespec>()).unwrap();
            assert_eq!(size_of::<ReceiveControl>(), (libc::CMSG_SPACE(stamp) + libc::CMSG_SPACE(4)) as usize);
            assert_eq!(CONTROL_HEADER_BYTES, libc::CMSG_LEN(0) as usize);
            assert_eq!(size_of::<SendControl>(), libc::CMSG_SPACE(2) as usize);
            assert_eq!(offset_of!(SendControl, segment_bytes), libc::CMSG_LEN(0) as usize);
        }
    }

    #[test]
    fn addresses_of_both_families_survive_the_way_through_c() {
        for text in ["192.168.1.2:65535", "[fe80::1234%7]:9", "[::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = Name::empty();
            name.set(address);
            assert_eq!(name.address(), Some(address));
        }
        assert_eq!(Name::empty().address(), None);
    }
}
