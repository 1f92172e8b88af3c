//! Opening the sockets: every way in which that can fail has its own words.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::super::lock::{AddressLock, LockError};
use super::super::sys::{self, InterfaceAddress};
use super::UdpConfig;

/// Bytes of an IPv4 header without options and of a UDP header (RFC 791, RFC 768).
const IPV4_UDP_HEADERS: u32 = 28;

/// Bytes of an IPv6 header and of a UDP header (RFC 8200, RFC 768).
const IPV6_UDP_HEADERS: u32 = 48;

/// Most bytes that one UDP datagram carries over IPv4: 65,535 less the headers. IPv6 would take 20 more.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// Larger datagrams are a multiple of [`ROUNDED_TO`] long. The kernel lays their bytes end to end in its pages and copies
/// them out with `rep movsb`, which on some processors becomes many times slower when the target is ahead of its source by 1
/// to 31 bytes, the pages not considered. So where lengths are multiples of 32, and receive buffers lie at such, it never is.
const ROUNDED_FROM: usize = 4_096;

/// What large datagrams are a multiple of, in bytes.
const ROUNDED_TO: usize = 32;

/// Assumed when no interface shows the local address although it is one, as with a local route to a whole prefix.
const DEFAULT_MTU: u32 = 1_500;

/// How often another free port is asked for when the first one turns out to be another sidecar's.
const FREE_PORT_ATTEMPTS: u32 = 16;

/// Why the driver was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The address stands for several (0.0.0.0) or for none of ours by its kind (multicast).
    #[error("{} is no address that peers can answer to; choose one of this host: {}", address.ip(), Listed(local))]
    NotOneAddress {
        /// What was asked for.
        address: SocketAddr,
        /// This host's addresses with their interfaces.
        local: Vec<(IpAddr, String)>,
    },
    /// No interface of this host has the address.
    #[error("{} is not an address of this host; it has: {}", address.ip(), Listed(local))]
    AddressNotLocal {
        /// What was asked for.
        address: SocketAddr,
        /// This host's addresses with their interfaces.
        local: Vec<(IpAddr, String)>,
    },
    /// Someone else has the address and port.
    #[error("UDP {address} is in use by {by}")]
    AddressInUse {
        /// What was asked for.
        address: SocketAddr,
        /// Who has it.
        by: Holder,
    },
    /// We may not.
    #[error(
        "no permission to open UDP {address}: {source}; ports below 1024 need CAP_NET_BIND_SERVICE, others none, \
         unless a security policy says so"
    )]
    Permission {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot open UDP {address}: {doing}: {source}")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Who has an address that we wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Another sidecar, by the lock that it holds.
    Sidecar {
        /// Its process, where it can be seen.
        process: Option<u32>,
    },
    /// Another program; or a sidecar that sends from the port, which takes no lock.
    OtherProgram {
        /// The port, for the advice.
        port: u16,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar { process: Some(process) } => {
                write!(
                    f,
                    "another machnet sidecar (process {process}): attach to it, stop it or use another address"
                )
            }
            Self::Sidecar { process: None } => {
                write!(f, "another machnet sidecar: attach to it, stop it or use another address")
            }
            Self::OtherProgram { port } => write!(
                f,
                "another program, or a sidecar that sends from it (udp_ports); `ss -ulpn sport = :{port}` names it: stop it or use \
                 another port"
            ),
        }
    }
}

struct Listed<'a>(&'a [(IpAddr, String)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "none");
        }
        for (index, (address, interface)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address} ({interface})")?;
        }
        Ok(())
    }
}

/// What opening found out about one socket.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) interface_mtu: u32,
    pub(super) max_datagram: usize,
    pub(super) has_gso: bool,
    pub(super) has_gro: bool,
    pub(super) receive_buffer_bytes: usize,
    pub(super) send_buffer_bytes: usize,
}

/// Takes the lock and binds `engines` sockets to one address and port; none of them is read before all are bound, because
/// each that joins changes which socket a peer's datagrams reach.
pub(super) fn open_group(
    address: SocketAddr,
    engines: usize,
    config: &UdpConfig,
) -> Result<(AddressLock, Vec<Opened>), OpenError> {
    let interfaces = sys::interface_addresses().map_err(other(address, "listing the interfaces"))?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(OpenError::NotOneAddress { address, local: listed(&interfaces) });
    }
    let (lock, first) = bind_first(address, engines > 1, &interfaces)?;
    let bound = lock.address();
    let mut sockets = vec![first];
    for _ in 1..engines {
        sockets.push(bind(bound, true, &interfaces)?);
    }
    let opened = sockets
        .into_iter()
        .map(|socket| prepare(socket, bound, config, &interfaces))
        .collect::<Result<_, _>>()?;
    Ok((lock, opened))
}

fn bind_first(
    address: SocketAddr,
    shares_port: bool,
    interfaces: &[InterfaceAddress],
) -> Result<(AddressLock, Socket), OpenError> {
    if address.port() != 0 {
        // The lock comes first: a bind that shares the port would silently join another sidecar's group.
        let lock = lock(address)?;
        return Ok((lock, bind(address, shares_port, interfaces)?));
    }
    let mut last_error = None;
    for _ in 0..FREE_PORT_ATTEMPTS {
        let socket = bind(address, shares_port, interfaces)?;
        let bound = local_address(&socket).map_err(other(address, "reading the port"))?;
        match lock(bound) {
            Ok(lock) => return Ok((lock, socket)),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.expect("the loop ran at least once"))
}

fn lock(address: SocketAddr) -> Result<AddressLock, OpenError> {
    AddressLock::acquire(address).map_err(|error| match error {
        LockError::Held { process } => OpenError::AddressInUse { address, by: Holder::Sidecar { process } },
        LockError::System(source) => OpenError::Other { address, doing: "taking the lock", source },
    })
}

fn bind(
    address: SocketAddr,
    shares_port: bool,
    interfaces: &[InterfaceAddress],
) -> Result<Socket, OpenError> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(|source| classify(source, address, "making the socket", interfaces))?;
    socket.set_nonblocking(true).map_err(other(address, "making the socket non-blocking"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(other(address, "IPV6_V6ONLY"))?;
    }
    if shares_port {
        socket.set_reuse_port(true).map_err(other(address, "SO_REUSEPORT"))?;
    }
    socket.bind(&address.into()).map_err(|source| classify(source, address, "bind", interfaces))?;
    Ok(socket)
}

fn classify(
    source: io::Error,
    address: SocketAddr,
    doing: &'static str,
    interfaces: &[InterfaceAddress],
) -> OpenError {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => OpenError::AddressNotLocal { address, local: listed(interfaces) },
        io::ErrorKind::AddrInUse => {
            OpenError::AddressInUse { address, by: Holder::OtherProgram { port: address.port() } }
        }
        io::ErrorKind::PermissionDenied => OpenError::Permission { address, source },
        _ => OpenError::Other { address, doing, source },
    }
}

fn other(address: SocketAddr, doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Other { address, doing, source }
}

fn listed(interfaces: &[InterfaceAddress]) -> Vec<(IpAddr, String)> {
    interfaces.iter().map(|entry| (entry.address, entry.interface.to_string_lossy().into_owned())).collect()
}

pub(super) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the socket's address is no IP address"))
}

fn prepare(
    socket: Socket,
    bound: SocketAddr,
    config: &UdpConfig,
    interfaces: &[InterfaceAddress],
) -> Result<Opened, OpenError> {
    forbid_fragments(socket.as_fd(), bound).map_err(other(bound, "setting the don't-fragment bit"))?;
    let interface_mtu = match owner(bound.ip(), interfaces) {
        Some(entry) => sys::interface_mtu(socket.as_fd(), &entry.interface)
            .map_err(other(bound, "reading the interface's MTU"))?,
        None => DEFAULT_MTU,
    };
    let receive_buffer_bytes =
        widen(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, config.socket_buffer_bytes)
            .map_err(other(bound, "SO_RCVBUF"))?;
    let send_buffer_bytes = widen(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, config.socket_buffer_bytes)
        .map_err(other(bound, "SO_SNDBUF"))?;
    // Kernels before 4.18 and 5.0 know neither and say so.
    let has_gso = config.use_gso && sys::int_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
    let has_gro = config.use_gro && sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    // Without the times of arrival an engine that waits for its processor looks like a slow path; nothing else fails.
    let _: io::Result<()> = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    Ok(Opened {
        max_datagram: max_datagram(bound, interface_mtu),
        socket,
        interface_mtu,
        has_gso,
        has_gro,
        receive_buffer_bytes,
        send_buffer_bytes,
    })
}

/// Sets DF on all that we send, and has the kernel ignore what it learned of the path (`IP_PMTUDISC_PROBE`).
///
/// The protocol finds the path's size itself, from what is acknowledged (RFC 8899). With `IP_PMTUDISC_DO` the kernel would
/// also believe any ICMP "fragmentation needed" that reaches the host, forged ones included, and refuse our larger
/// datagrams for ten minutes although they would arrive. With PROBE only the interface's own MTU says EMSGSIZE.
pub(super) fn forbid_fragments(socket: BorrowedFd<'_>, bound: SocketAddr) -> io::Result<()> {
    if bound.is_ipv4() {
        return sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    }
    sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    // Without this the sending host itself would cut a datagram that its interface does not take.
    sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
}

/// Asks for a buffer of `bytes` beyond the system's limit, which only the privileged may, then within it. Returns what the
/// kernel gave; it doubles the request to pay for its own bookkeeping.
pub(super) fn widen(socket: &Socket, forced: c_int, plain: c_int, bytes: usize) -> io::Result<usize> {
    let request = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let socket = socket.as_fd();
    if sys::set_option(socket, libc::SOL_SOCKET, forced, request).is_err() {
        sys::set_option(socket, libc::SOL_SOCKET, plain, request)?;
    }
    let got = sys::int_option(socket, libc::SOL_SOCKET, plain)?;
    Ok(usize::try_from(got).unwrap_or(0))
}

/// The interface that has `ip`. A loopback answers to its whole network, so 127.0.0.2 is its, too.
fn owner(ip: IpAddr, interfaces: &[InterfaceAddress]) -> Option<&InterfaceAddress> {
    interfaces
        .iter()
        .find(|entry| entry.address == ip)
        .or_else(|| interfaces.iter().find(|entry| entry.is_loopback && is_in_network(ip, entry)))
}

fn is_in_network(ip: IpAddr, entry: &InterfaceAddress) -> bool {
    match (ip, entry.address) {
        (IpAddr::V4(ip), IpAddr::V4(address)) => {
            let differing = ip.to_bits() ^ address.to_bits();
            differing.leading_zeros() >= entry.prefix_bits
        }
        (IpAddr::V6(ip), IpAddr::V6(address)) => {
            let differing = ip.to_bits() ^ address.to_bits();
            differing.leading_zeros() >= entry.prefix_bits
        }
        _ => false,
    }
}

fn max_datagram(bound: SocketAddr, interface_mtu: u32) -> usize {
    let headers = if bound.is_ipv4() { IPV4_UDP_HEADERS } else { IPV6_UDP_HEADERS };
    let payload = interface_mtu.saturating_sub(headers);
    let payload = usize::try_from(payload).map_or(MAX_UDP_PAYLOAD, |payload| payload.min(MAX_UDP_PAYLOAD));
    if payload > ROUNDED_FROM { payload / ROUNDED_TO * ROUNDED_TO } else { payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_datagram_is_the_mtu_less_the_headers_of_the_family() {
        let v4: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:1".parse().unwrap();
        assert_eq!(max_datagram(v4, 1500), 1472);
        assert_eq!(max_datagram(v6, 1500), 1452);
        assert_eq!(max_datagram(v4, 65_536), 65_504);
        assert_eq!(max_datagram(v4, 9_000), 8_960);
        assert_eq!(max_datagram(v4, 9), 0);
    }

    #[test]
    fn a_loopback_owns_its_whole_network_and_another_interface_only_its_addresses() {
        let entry = |interface: &str, address: &str, prefix_bits, is_loopback| InterfaceAddress {
            interface: std::ffi::CString::new(interface).unwrap(),
            address: address.parse().unwrap(),
            prefix_bits,
            is_loopback,
        };
        let interfaces = [entry("lo", "127.0.0.1", 8, true), entry("eth0", "10.0.0.1", 8, false)];
        let name = |ip: &str| owner(ip.parse().unwrap(), &interfaces).map(|e| e.interface.to_str().unwrap());
        assert_eq!(name("127.9.9.9"), Some("lo"));
        assert_eq!(name("10.0.0.1"), Some("eth0"));
        assert_eq!(name("10.0.0.2"), None);
    }
}
