//! System calls of the drivers that neither `std` nor `socket2` offers, behind safe functions.
#![expect(
    unsafe_code,
    reason = "socket options, getifaddrs and questions about interfaces exist only as C calls"
)]

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::{self, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Most entries of the interface list that are looked at; a host with more has them ignored rather than looping for ever.
const MAX_INTERFACE_ADDRESSES: usize = 65_536;

/// Sets an option whose value is one C int.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = option_length::<c_int>();
    // SAFETY: the pointer and the length name the local `value`, which outlives the call; the kernel only reads it.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option whose value is one C int.
pub(super) fn int_option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    read_option::<c_int>(fd, level, name)
}

/// The process at the other end of a connected Unix socket, as it was when it began to listen (`SO_PEERCRED`). `None` if
/// it cannot be seen from our process namespace.
pub(super) fn peer_process(fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let credentials = read_option::<Credentials>(fd, libc::SOL_SOCKET, libc::SO_PEERCRED)?;
    Ok(u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0))
}

/// Datagrams that the kernel dropped at this socket because its receive buffer was full (`SO_MEMINFO`, Linux 4.12). The
/// kernel's count has 32 bits and wraps.
pub(super) fn receive_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// Index of the drop counter, `SK_MEMINFO_DROPS` in linux/sock_diag.h.
    const DROPS: usize = 8;
    let words = read_option::<[u32; DROPS + 1]>(fd, libc::SOL_SOCKET, SO_MEMINFO)?;
    Ok(words[DROPS])
}

/// What a packet socket counted since it was last asked: frames that came, and those of them for which its ring had no room
/// (`PACKET_STATISTICS`).
pub(super) fn packet_statistics(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let [came, dropped] = read_option::<[u32; 2]>(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok((came, dropped))
}

/// asm-generic/socket.h; the same on every architecture that Rust's standard library runs on but sparc and parisc.
const SO_MEMINFO: c_int = 55;

/// `struct ucred`, which not every libc declares.
#[repr(C)]
#[derive(Clone, Copy)]
struct Credentials {
    pid: libc::pid_t,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// Types of which every bit pattern is a value, so that the kernel may write any bytes into one.
///
/// # Safety
/// Implementors have no invalid bit patterns and no padding.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: three 32-bit integers.
unsafe impl Plain for Credentials {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Plain for [u32; N] {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Plain for [u64; N] {}

/// Reads an option; what the kernel does not fill stays zero.
pub(super) fn read_option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    // SAFETY: `Plain` types may be all zeros.
    let mut value: T = unsafe { mem::zeroed() };
    let mut length = option_length::<T>();
    // SAFETY: the pointer and the length name the local `value`; the kernel writes at most `length` bytes, and any bytes
    // make a valid `Plain` value.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn option_length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("socket options are a few bytes long")
}

/// One address of one interface of this network namespace.
#[derive(Clone, Debug)]
pub(super) struct InterfaceAddress {
    /// The interface's name, or for IPv4 the address's label (`eth0:1`); either is understood by [`interface_mtu`].
    pub(super) interface: CString,
    /// The address.
    pub(super) address: IpAddr,
    /// Leading bits that name the network.
    pub(super) prefix_bits: u32,
    /// Whether the interface is a loopback, which answers to its whole network (127.0.0.2 is local, too).
    pub(super) is_loopback: bool,
}

/// Every IP address of every interface that is up or down, in the kernel's order.
pub(super) fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: getifaddrs stores a list that it allocated; it is freed below and nowhere else.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut entry = list;
    for _ in 0..MAX_INTERFACE_ADDRESSES {
        if entry.is_null() {
            break;
        }
        // SAFETY: `entry` is a node of the list, which lives until freeifaddrs below.
        let node = unsafe { &*entry };
        // SAFETY: both pointers are of this node: null, or a socket address whose family says its size.
        let (address, netmask) = unsafe { (ip_of(node.ifa_addr), ip_of(node.ifa_netmask)) };
        if let Some(address) = address {
            // SAFETY: the name is a C string inside the list; it is copied before the list is freed.
            let interface = unsafe { CStr::from_ptr(node.ifa_name) }.to_owned();
            let is_loopback = node.ifa_flags & libc::IFF_LOOPBACK.unsigned_abs() != 0;
            found.push(InterfaceAddress {
                interface,
                address,
                prefix_bits: prefix_bits(netmask),
                is_loopback,
            });
        }
        entry = node.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address that is as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and every socket address begins with its family.
    match c_int::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in; read without assuming its alignment.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6; read without assuming its alignment.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

fn prefix_bits(netmask: Option<IpAddr>) -> u32 {
    match netmask {
        Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
        None => u32::MAX,
    }
}

/// The MTU in bytes (IP header included) of the interface called `name`. `socket` is any IP socket.
pub(super) fn interface_mtu(socket: BorrowedFd<'_>, name: &CStr) -> io::Result<u32> {
    let mut request = interface_request(name)?;
    ask(socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU succeeded, so the union holds the MTU; and any bits make an integer.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the MTU is negative"))
}

/// What may change about an interface while it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InterfaceNow {
    /// It was set up.
    pub(super) is_up: bool,
    /// It was set up, and there is somebody at the other end.
    pub(super) is_running: bool,
    /// Its hardware address.
    pub(super) mac: [u8; 6],
    /// Bytes of the largest IP packet.
    pub(super) mtu: u32,
}

/// The interface with that number in the network namespace of `socket`, or `ENODEV`. Takes no lock of the kernel that others
/// hold for long.
pub(super) fn interface_now(socket: BorrowedFd<'_>, index: u32) -> io::Result<InterfaceNow> {
    let mut request = interface_request(c"")?;
    request.ifr_ifru.ifru_ifindex = c_int::try_from(index).unwrap_or(-1);
    ask(socket, libc::SIOCGIFNAME, &mut request)?;
    // The name stays in the request; the answers take turns in its union.
    ask(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS succeeded, so the union holds the flags; and any bits make an integer.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    ask(socket, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR succeeded, so the union holds a hardware address; and any bits make bytes.
    let bytes = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mac = std::array::from_fn(|place| bytes[place].to_ne_bytes()[0]);
    ask(socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU succeeded, so the union holds the MTU; and any bits make an integer.
    let mtu = u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0);
    let has = |flag: c_int| flags & flag != 0;
    Ok(InterfaceNow {
        is_up: has(libc::IFF_UP),
        is_running: has(libc::IFF_UP) && has(libc::IFF_RUNNING),
        mac,
        mtu,
    })
}

/// The number of the interface of that name in the network namespace of `socket`, or `ENODEV`.
pub(super) fn interface_index(socket: BorrowedFd<'_>, name: &CStr) -> io::Result<u32> {
    let mut request = interface_request(name)?;
    ask(socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX succeeded, so the union holds the number; and any bits make an integer.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the number is negative"))
}

/// A request about the interface called `name`.
fn interface_request(name: &CStr) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq of zeros is valid: an empty name and zero in every member of its union.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let bytes = name.to_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *target = libc::c_char::from_ne_bytes([*byte]);
    }
    Ok(request)
}

/// One of the questions about an interface, whose answer the kernel writes into the request.
fn ask(socket: BorrowedFd<'_>, question: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the questions of this file take an ifreq, with a name that ends in a zero, and write nothing but that ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), question, &raw mut *request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
