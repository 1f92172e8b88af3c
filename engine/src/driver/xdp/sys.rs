//! FENCE: socket options, addresses and ioctls of XDP and packet sockets that neither std nor socket2 has.
#![expect(unsafe_code, reason = "fence: XDP sockets are set up by C structures and addresses of their own")]

use super::ring::Offsets;
use crate::driver::sys::read_option;
use socket2::{SockAddr, SockAddrStorage, Socket};
use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// Socket option level of XDP sockets, `SOL_XDP`.
pub(super) const SOL_XDP: libc::c_int = libc::SOL_XDP;

/// Tells the kernel where the frames of the socket are: address, length, bytes of each.
pub(super) fn register_frames(socket: &Socket, region: (u64, u64), frame_bytes: u32) -> io::Result<()> {
    /// `struct xdp_umem_reg`; Linux 6.8 gave its last word a meaning, of which zero is "none".
    #[repr(C)]
    struct Region {
        address: u64,
        bytes: u64,
        frame_bytes: u32,
        headroom: u32,
        flags: u32,
        metadata_bytes: u32,
    }
    let (address, bytes) = region;
    let region = Region { address, bytes, frame_bytes, headroom: 0, flags: 0, metadata_bytes: 0 };
    // SAFETY: pointer and length name the local `region`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            libc::XDP_UMEM_REG,
            (&raw const region).cast(),
            length_of::<Region>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where the parts of the rings lie: RX, TX, fill, completion. Linux 5.4 and later; older ones have no flags and say less.
pub(super) fn ring_offsets(socket: &Socket) -> io::Result<[Offsets; 4]> {
    let words = read_option::<[u64; 16]>(socket.as_fd(), SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
    if words[15] == 0 {
        let text = "this kernel's XDP sockets lack the wakeup flag; they need Linux 5.4 or later";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let ring = |at: usize| Offsets {
        producer: words[at],
        consumer: words[at + 1],
        entries: words[at + 2],
        flags: words[at + 3],
    };
    Ok([ring(0), ring(4), ring(8), ring(12)])
}

/// What the kernel counted at an XDP socket, `struct xdp_statistics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SocketStatistics {
    /// Frames dropped for other reasons than below: too large, or no frame to put them into.
    pub(super) rx_dropped: u64,
    /// Entries of the fill ring that the kernel did not accept.
    pub(super) rx_invalid: u64,
    /// Entries of the TX ring that the kernel did not accept.
    pub(super) tx_invalid: u64,
    /// Frames dropped because the RX ring was full.
    pub(super) rx_ring_full: u64,
    /// Frames for which the fill ring had nothing.
    pub(super) fill_ring_empty: u64,
    /// How often the TX ring was found empty.
    pub(super) tx_ring_empty: u64,
}

/// Asks the kernel what it counted.
pub(super) fn statistics(socket: &Socket) -> io::Result<SocketStatistics> {
    let words = read_option::<[u64; 6]>(socket.as_fd(), SOL_XDP, libc::XDP_STATISTICS)?;
    let [rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_ring_empty, tx_ring_empty] = words;
    Ok(SocketStatistics { rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_ring_empty, tx_ring_empty })
}

/// Whether the bound socket works without copies.
pub(super) fn is_zero_copy(socket: &Socket) -> io::Result<bool> {
    let [flags] = read_option::<[u32; 1]>(socket.as_fd(), SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Binds an XDP socket to one queue of an interface.
pub(super) fn bind_to_queue(socket: &Socket, interface: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: family(libc::AF_XDP),
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the structure is one of integers and begins with its family, like every socket address.
    socket.bind(&unsafe { socket_address(&address) })
}

/// Binds a packet socket to one protocol of one interface.
pub(super) fn bind_to_protocol(socket: &Socket, interface: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all its fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = family(libc::AF_PACKET);
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: the structure is one of integers and begins with its family, like every socket address.
    socket.bind(&unsafe { socket_address(&address) })
}

/// # Safety
/// `T` is a socket address: it begins with its family and has nothing but integers.
unsafe fn socket_address<T: Copy>(address: &T) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    assert!(size_of::<T>() <= size_of::<SockAddrStorage>());
    // SAFETY: the storage is long enough and aligned for every socket address; the caller vouches for `T`.
    unsafe { (&raw mut storage).cast::<T>().write(*address) };
    // SAFETY: the storage holds an address of that length.
    unsafe { SockAddr::new(storage, length_of::<T>()) }
}

fn family(number: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).expect("address families are small")
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes")
}

/// Queues of an interface, as `ethtool -l` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Channels {
    /// Queues that only receive.
    pub(super) rx: u32,
    /// Queues that only send.
    pub(super) tx: u32,
    /// Queues that do both.
    pub(super) combined: u32,
}

/// Asks the interface's driver how many queues it uses; an error if it does not say. `socket` is any socket of the interface's
/// network namespace.
pub(super) fn channels(socket: &Socket, name: &str) -> io::Result<Channels> {
    const GET_CHANNELS: u32 = 0x3c;
    /// `struct ethtool_channels`: the command, four maxima, and the four counts rx, tx, other and combined.
    type Words = [u32; 9];
    let words: Words = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: an array of the words of the structure that this command takes.
    let [_, _, _, _, _, rx, tx, _, combined] = unsafe { ethtool(socket, name, words) }?;
    Ok(Channels { rx, tx, combined })
}

/// One question to the interface's driver, and its answer.
///
/// # Safety
/// `words` has the size of the structure that the command in its first word takes.
unsafe fn ethtool<const N: usize>(socket: &Socket, name: &str, mut words: [u32; N]) -> io::Result<[u32; N]> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // SAFETY: an ifreq of zeros is valid: an empty name and zero in every member of its union.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_data = (&raw mut words).cast();
    // SAFETY: `request` has a name that ends in a zero and points at the structure of the command in it, which the kernel
    // reads and writes, by the caller's word within its size; both outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(words)
}
