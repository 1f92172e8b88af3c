//! Opening an interface: every way in which that can fail has its own words.

use std::ffi::{CString, c_int};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

use super::filter;
use super::ring::{self, Rings, Shape};
use super::run::Run;
use super::{Group, PacketQueue};
use crate::config::{Config, source_ports};
use crate::driver::frame::{Framed, Setup};
use crate::driver::interface::{self, Interface, InterfaceError};
use crate::driver::lock::{AddressLock, LockError};
use crate::driver::udp::Holder;
use crate::driver::{MacAddress, Route, sys};
use crate::proto::PortRange;

/// Least MTU that Machnet works with; IPv6's least one.
const LEAST_MTU: usize = 1_280;

/// A sidecar that was killed may take a moment to be gone: so often its address is asked for ...
const BIND_ATTEMPTS: u32 = 50;
/// ... so long apart, one second in all.
const BIND_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Bytes that the kernel may hold for frames under way, each way, bookkeeping included: more than a whole ring of large frames.
const BUFFER_BYTES: usize = 8 << 20;

/// Why driver packet was not opened. The texts say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The interface carries no Ethernet frames.
    #[error(
        "{interface} is no Ethernet interface, which driver packet needs; use --driver udp for it, or name another with \
         --interface (`ip -brief link` lists them)"
    )]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The address is one of IPv6, or stands for several.
    #[error(
        "{address} cannot be used with driver packet: it needs one IPv4 address; use --driver udp for others"
    )]
    NotOneIpv4Address {
        /// What was asked for.
        address: IpAddr,
    },
    /// Another interface has the address.
    #[error(
        "{address} is an address of {owner}, not of {interface}; leave out --interface, or choose an address of {interface}"
    )]
    AddressElsewhere {
        /// What was asked for.
        address: Ipv4Addr,
        /// The interface that was asked for.
        interface: String,
        /// The interface that has the address.
        owner: String,
    },
    /// Nobody said how large the network of the address is.
    #[error(
        "the kernel does not have {address} on {interface}, so the length of its network's prefix has to be said: --address {address}/24, \
         or whatever it is; or give it to the kernel: `ip address add {address}/24 dev {interface}`"
    )]
    NoPrefix {
        /// What was asked for.
        address: Ipv4Addr,
        /// The interface.
        interface: String,
    },
    /// The interface takes only very small packets.
    #[error(
        "{interface} takes packets of {mtu} bytes; at least 1280 are needed: `ip link set {interface} mtu 1500`"
    )]
    MtuTooSmall {
        /// Its name.
        interface: String,
        /// What it takes.
        mtu: usize,
    },
    /// We may not.
    #[error(
        "no right to open packet sockets (CAP_NET_RAW): start as root, or give the right to the program once: \
         `setcap cap_net_raw+ep $(command -v machnet)`; to try it in a network of its own: `unshare -Urn`; --driver udp needs no rights"
    )]
    NoRight,
    /// Someone else has the address and port.
    #[error("UDP {address} is in use by {by}")]
    AddressInUse {
        /// What was asked for.
        address: SocketAddr,
        /// Who has it.
        by: Holder,
    },
    /// The kernel cannot do what is needed.
    #[error("this kernel has no packet sockets (CONFIG_PACKET): use --driver udp")]
    NoPacketSockets,
    /// Anything else.
    #[error("cannot open {interface}: {doing}: {source}")]
    Other {
        /// The interface.
        interface: String,
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether this process may open packet sockets in its network namespace.
pub fn check_right() -> Result<(), OpenError> {
    match packet_socket() {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Err(OpenError::NoPacketSockets),
        Err(_) => Err(OpenError::NoRight),
    }
}

/// What to open.
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// The interface.
    pub interface: Interface,
    /// Our address.
    pub address: Ipv4Addr,
    /// Our UDP ports; the first is the one that peers send to.
    pub ports: PortRange,
    /// Frames with this VLAN tag; none: without one.
    pub vlan: Option<u16>,
    /// Whether the kernel has the address, too, and answers what is not for our ports.
    pub kernel_answers: bool,
    /// Whether frames pass by the kernel's queueing discipline (`PACKET_QDISC_BYPASS`).
    pub bypasses_queueing: bool,
}

/// The network paths of the engines of a sidecar.
pub fn open(config: &Config) -> Result<Vec<Framed<PacketQueue>>, OpenError> {
    let IpAddr::V4(address) = config.address else {
        return Err(OpenError::NotOneIpv4Address { address: config.address });
    };
    if !crate::driver::is_host(address) {
        return Err(OpenError::NotOneIpv4Address { address: config.address });
    }
    let interface = interface::find(config.interface.as_deref(), address)?;
    // In a VLAN that the driver tags itself the kernel has no part.
    let kernel_prefix = interface.prefix_of(address).filter(|_| config.vlan.is_none());
    let Some(prefix_bits) = config.prefix.or(kernel_prefix) else {
        return Err(without_prefix(address, &interface));
    };
    let ports = source_ports(config.udp_ports.as_ref(), config.udp_port, config.engines.max(1));
    let ports = PortRange::new(*ports.start(), *ports.end()).unwrap_or(PortRange::only(*ports.start()));
    let setup = Setup {
        address,
        prefix_bits,
        routes: routes(config, &interface),
        neighbours: config.neighbours.clone(),
        vlan: config.vlan,
        udp_port: config.udp_port,
        ports,
        mtu: config.mtu.and_then(|mtu| usize::try_from(mtu).ok()),
        kernel_answers: kernel_prefix.is_some(),
    };
    let packet = PacketConfig {
        interface,
        address,
        ports,
        vlan: config.vlan,
        kernel_answers: setup.kernel_answers,
        bypasses_queueing: false,
    };
    let queues = PacketGroup::open(&packet, config.engines.max(1) as usize)?;
    Ok(Framed::group(&setup, queues))
}

/// What is chosen goes before what the kernel knows.
pub(in crate::driver) fn routes(config: &Config, interface: &Interface) -> Vec<Route> {
    let mut routes = config.routes.clone();
    let network = Ipv4Addr::UNSPECIFIED;
    routes.extend(config.gateway.map(|gateway| Route { network, prefix_bits: 0, via: Some(gateway) }));
    let is_chosen = |known: &Route, all: &[Route]| {
        all.iter().any(|chosen| (chosen.network, chosen.prefix_bits) == (known.network, known.prefix_bits))
    };
    for route in &interface.routes {
        if !is_chosen(route, &routes) {
            routes.push(*route);
        }
    }
    routes
}

fn without_prefix(address: Ipv4Addr, interface: &Interface) -> OpenError {
    let name = interface.name.clone();
    match interface::find(None, address) {
        Ok(owner) if owner.index != interface.index => {
            OpenError::AddressElsewhere { address, interface: name, owner: owner.name }
        }
        _ => OpenError::NoPrefix { address, interface: name },
    }
}

/// The queues of one interface.
#[derive(Debug)]
pub struct PacketGroup;

impl PacketGroup {
    /// Opens `queues` queues (at least one). No other sidecar of this network namespace can open the address until the last
    /// of them is dropped.
    pub fn open(config: &PacketConfig, queues: usize) -> Result<Vec<PacketQueue>, OpenError> {
        assert!(queues > 0, "a group has at least one queue");
        let interface = &config.interface;
        let other = |doing| {
            let interface = interface.name.clone();
            move |source| OpenError::Other { interface, doing, source }
        };
        let Some(mac) = interface.mac else {
            return Err(OpenError::NotEthernet { interface: interface.name.clone() });
        };
        if interface.mtu < LEAST_MTU {
            return Err(OpenError::MtuTooSmall { interface: interface.name.clone(), mtu: interface.mtu });
        }
        // Before anything else is taken: without the right, nothing of it helps.
        drop(packet_socket().map_err(|error| refused(error, interface))?);
        if !interface.is_up {
            tracing::warn!("{0} is down; it carries nothing until `ip link set {0} up`", interface.name);
        }
        let (lock, reserved) = reserve(config)?;
        let name = CString::new(interface.name.as_str()).map_err(io::Error::from);
        let group = Arc::new(Group {
            interface: name.map_err(other("its name"))?,
            filter: filter::Wanted {
                address: config.address,
                ports: config.ports,
                vlan: config.vlan,
                kernel_answers: config.kernel_answers,
            },
            queues,
            shape: Shape::new(interface.mtu),
            bypasses_queueing: config.bypasses_queueing,
            fanout: Mutex::new(None),
            _lock: lock,
            _reserved: reserved,
        });
        let open_one = |_| {
            let (socket, rings) =
                open_queue(&group, interface.index).map_err(|error| refused(error, interface))?;
            Ok(PacketQueue::new(socket, rings, Arc::clone(&group), interface, mac))
        };
        (0..queues).map(open_one).collect()
    }
}

impl PacketQueue {
    fn new(socket: Socket, rings: Rings, group: Arc<Group>, interface: &Interface, mac: MacAddress) -> Self {
        Self {
            socket,
            rings,
            group,
            index: interface.index,
            mac,
            mtu: interface.mtu,
            cycle_ns: 0,
            slept_in_vain: false,
            run: Run::new(),
            counters: super::FrameCounters::default(),
            passed_filter: 0,
        }
    }
}

fn refused(source: io::Error, interface: &Interface) -> OpenError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::NoRight,
        Some(libc::EAFNOSUPPORT) => OpenError::NoPacketSockets,
        _ => OpenError::Other { interface: interface.name.clone(), doing: "making its rings", source },
    }
}

/// Receives nothing until it is bound.
fn packet_socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, None)
}

/// A socket with its rings, at that interface.
pub(super) fn open_queue(group: &Group, index: u32) -> io::Result<(Socket, Rings)> {
    let socket = packet_socket()?;
    let set = |name: c_int, value: c_int| sys::set_option(socket.as_fd(), libc::SOL_PACKET, name, value);
    // Nothing is let in before the queue is one of its group: until then it would get the frames of all queues.
    socket.attach_filter(&filter::nothing())?;
    set(libc::PACKET_VERSION, TPACKET_V2)?;
    // The kernel says in front of each frame whether it is a run of datagrams that nobody has cut up. Of a run that does not
    // fit a slot it keeps a copy for us.
    set(PACKET_VNET_HDR, 1)?;
    set(libc::PACKET_COPY_THRESH, 1)?;
    socket.set_nonblocking(true)?;
    // A frame that cannot be sent is left out; otherwise all behind it would wait.
    set(libc::PACKET_LOSS, 1)?;
    if group.bypasses_queueing {
        // Linux 3.14.
        let _: io::Result<()> = set(libc::PACKET_QDISC_BYPASS, 1);
    }
    // Linux 4.20; before it, the filter leaves out what this host sends.
    let _: io::Result<()> = set(libc::PACKET_IGNORE_OUTGOING, 1);
    for (forced, plain) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)]
    {
        let bytes = c_int::try_from(BUFFER_BYTES).unwrap_or(c_int::MAX);
        if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, forced, bytes).is_err() {
            sys::set_option(socket.as_fd(), libc::SOL_SOCKET, plain, bytes)?;
        }
    }
    let rings = Rings::new(socket.as_fd(), group.shape)?;
    ring::bind(socket.as_fd(), index)?;
    if group.queues > 1 {
        join_fanout(group, &socket, index)?;
    }
    socket.attach_filter(&filter::program(&group.filter))?;
    Ok((socket, rings))
}

/// `TPACKET_V2` and `PACKET_VNET_HDR` of linux/if_packet.h.
const TPACKET_V2: c_int = 1;
const PACKET_VNET_HDR: c_int = 15;

/// How frames are dealt out to the members of a group.
fn fanout_option(id: u16, flags: u32) -> c_int {
    let kind = libc::PACKET_FANOUT_HASH | flags;
    (u32::from(id) | kind << 16).cast_signed()
}

/// Makes the socket a member of the fanout group of this interface; the first makes the group.
fn join_fanout(group: &Group, socket: &Socket, index: u32) -> io::Result<()> {
    let join = |option| sys::set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, option);
    let mut fanout = group.fanout.lock().unwrap_or_else(PoisonError::into_inner);
    // Linux 5.7 leaves out what this host sends; before it, the filter does.
    let quiet = libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    if let Some((_, id)) = fanout.filter(|(known, _)| *known == index) {
        return join(fanout_option(id, quiet)).or_else(|_| join(fanout_option(id, 0)));
    }
    // The kernel finds a number that nobody has.
    let unique = libc::PACKET_FANOUT_FLAG_UNIQUEID;
    join(fanout_option(0, unique | quiet)).or_else(|_| join(fanout_option(0, unique)))?;
    let option = sys::int_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
    let id = u16::try_from(option.cast_unsigned() & 0xffff).expect("masked");
    *fanout = Some((index, id));
    Ok(())
}

/// Keeps other sidecars off the address. And where the kernel has it, keeps other programs off our ports, and the kernel from
/// answering that nobody has them: it sees our datagrams, too.
fn reserve(config: &PacketConfig) -> Result<(AddressLock, Vec<Socket>), OpenError> {
    let address = SocketAddr::from((config.address, config.ports.first()));
    let other = |doing| {
        let interface = config.interface.name.clone();
        move |source| OpenError::Other { interface, doing, source }
    };
    let lock =
        AddressLock::acquire_patiently(address, BIND_ATTEMPTS, BIND_PAUSE).map_err(|error| match error {
            LockError::Held { process } => {
                OpenError::AddressInUse { address, by: Holder::Sidecar { process } }
            }
            LockError::System(source) => other("taking the lock")(source),
        })?;
    if !config.kernel_answers {
        return Ok((lock, Vec::new()));
    }
    let mut reserved = Vec::new();
    for port in config.ports.ports() {
        let address = SocketAddrV4::new(config.address, port);
        // A predecessor's sockets go one after the other.
        let mut outcome = reserve_port(address);
        for _ in 1..BIND_ATTEMPTS {
            if port != config.ports.first() || !is_in_use(&outcome) {
                break;
            }
            std::thread::sleep(BIND_PAUSE);
            outcome = reserve_port(address);
        }
        match outcome {
            Ok(socket) => reserved.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != config.ports.first() => {
                tracing::warn!(
                    "UDP port {port} belongs to another program, which gets what peers send to it; choose others with udp_ports"
                );
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let by = Holder::OtherProgram { port };
                return Err(OpenError::AddressInUse { address: address.into(), by });
            }
            Err(source) => return Err(other("reserving its UDP ports")(source)),
        }
    }
    Ok((lock, reserved))
}

fn is_in_use(outcome: &io::Result<Socket>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn reserve_port(address: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.attach_filter(&filter::nothing())?;
    socket.bind(&address.into())?;
    Ok(socket)
}
