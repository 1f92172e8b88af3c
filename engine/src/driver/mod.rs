//! The contract of a network path, limited to what the LCD NIC has (paper, section 3.1).
//!
//! A driver carries datagrams between UDP addresses: whole payloads in, whole payloads out, in bursts. Nothing here can
//! express flow steering, an RSS key or a redirection table; that is on purpose. The worker is generic over its driver, so
//! there is no dynamic call per datagram.

pub mod dpdk;
pub mod fault;
pub mod frame;
pub mod interface;
pub mod lock;
mod mac;
pub mod memory;
mod netlink;
pub mod packet;
mod route;
mod sys;
pub mod udp;
pub mod xdp;

pub use self::mac::MacAddress;
pub use self::route::{Route, RouteError, address_with_prefix, is_host, network_of};
use crate::proto::PortRange;
use crate::proto::time::{Duration, Instant};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Most datagrams that one call of [`Driver::receive`] hands over.
pub const RECEIVE_BURST: usize = 64;

/// What a driver counted since it was opened. A drop reason is a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriverCounters {
    /// Datagrams handed to the worker.
    pub datagrams_received: u64,
    /// Datagrams given to the network.
    pub datagrams_sent: u64,
    /// System calls made to receive.
    pub receive_calls: u64,
    /// System calls made to send.
    pub send_calls: u64,
    /// Datagrams that the network path did not take because its queue was full; the protocol repeats them.
    pub dropped_queue_full: u64,
    /// Datagrams larger than the path takes (EMSGSIZE); path size discovery learns from their loss.
    pub dropped_too_large: u64,
    /// Datagrams lost to any other error of the path.
    pub dropped_error: u64,
    /// Received datagrams that were cut short because they were larger than `max_datagram`.
    pub dropped_truncated: u64,
    /// Received datagrams whose checksum was wrong, where the driver checks it.
    pub dropped_checksum: u64,
    /// Datagrams that peers sent to a port that we only send from.
    pub dropped_source_port: u64,
    /// Datagrams that left from another port than was asked for, because someone else has that one.
    pub source_port_unavailable: u64,
    /// Ethernet frames received, where the path carries frames. Each is one of `datagrams_received`, `arp_received`,
    /// `icmp_received` or a `dropped_` counter of received ones.
    pub frames_received: u64,
    /// Frames lost on their way in because nobody took them from the receive ring in time, as far as the path tells.
    pub frames_missed: u64,
    /// Received frames for other hosts, of other VLANs or of protocols that are not ours.
    pub dropped_not_ours: u64,
    /// Received frames that are cut short or inconsistent, have IPv4 options, or come from an address that no host has.
    pub dropped_header: u64,
    /// Received parts of packets that were cut up on their way.
    pub dropped_fragment: u64,
    /// Received datagrams for a UDP port that nobody has.
    pub dropped_no_port: u64,
    /// Datagrams to be sent whose next hop nobody answers for, or that had to wait for its answer with too many others.
    pub dropped_unresolved: u64,
    /// ARP packets received.
    pub arp_received: u64,
    /// ARP packets sent: questions, answers and announcements.
    pub arp_sent: u64,
    /// Next hops whose hardware address became known, or changed.
    pub arp_learned: u64,
    /// Claims to the address of a next hop in use that were not believed, because its holder lives.
    pub arp_refused: u64,
    /// ARP packets of others that claim to have our address.
    pub arp_duplicates: u64,
    /// ICMP packets received.
    pub icmp_received: u64,
    /// ICMP packets sent: answers to echo requests, and port unreachable.
    pub icmp_sent: u64,
    /// ICMP packets that say that a datagram was too large for its path; the size is found by trying, whatever they say.
    pub icmp_too_large: u64,
    /// ARP and ICMP packets that were not sent because too many wait, or because they would have been too large.
    pub control_dropped: u64,
}

impl DriverCounters {
    /// Every counter with the name that operators see.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("path_datagrams_received", self.datagrams_received),
            ("path_datagrams_sent", self.datagrams_sent),
            ("path_receive_calls", self.receive_calls),
            ("path_send_calls", self.send_calls),
            ("path_dropped_queue_full", self.dropped_queue_full),
            ("path_dropped_too_large", self.dropped_too_large),
            ("path_dropped_error", self.dropped_error),
            ("path_dropped_truncated", self.dropped_truncated),
            ("path_dropped_checksum", self.dropped_checksum),
            ("path_dropped_source_port", self.dropped_source_port),
            ("path_source_port_unavailable", self.source_port_unavailable),
            ("path_frames_received", self.frames_received),
            ("path_frames_missed", self.frames_missed),
            ("path_dropped_not_ours", self.dropped_not_ours),
            ("path_dropped_header", self.dropped_header),
            ("path_dropped_fragment", self.dropped_fragment),
            ("path_dropped_no_port", self.dropped_no_port),
            ("path_dropped_unresolved", self.dropped_unresolved),
            ("path_arp_received", self.arp_received),
            ("path_arp_sent", self.arp_sent),
            ("path_arp_learned", self.arp_learned),
            ("path_arp_refused", self.arp_refused),
            ("path_arp_duplicates", self.arp_duplicates),
            ("path_icmp_received", self.icmp_received),
            ("path_icmp_sent", self.icmp_sent),
            ("path_icmp_too_large", self.icmp_too_large),
            ("path_control_dropped", self.control_dropped),
        ]
        .into_iter()
    }
}

/// A datagram as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// Our UDP port that it was sent to.
    pub to_port: u16,
    /// How long it lay in the receive queue when the engine's cycle began, because the engine slept or had to wait for its
    /// processor. Zero if it came later, and where the path does not tell.
    pub waited: Duration,
    /// The UDP payload.
    pub bytes: &'a [u8],
}

/// A network path: one RX and one TX queue, used by one engine.
pub trait Driver: Send {
    /// Our own address: the local IP and the UDP port that peers send to.
    fn local_address(&self) -> SocketAddr;

    /// Largest UDP payload in bytes that our own interface takes (its MTU less the IP and UDP headers).
    fn max_datagram(&self) -> usize;

    /// UDP ports that datagrams can be sent from, besides that of [`Self::local_address`]; the first serves where it does not
    /// matter which.
    fn ports(&self) -> PortRange {
        PortRange::only(self.local_address().port())
    }

    /// UDP ports that peers may send to. What a peer sends to any of them reaches one of the engines of this address.
    fn receive_ports(&self) -> PortRange {
        PortRange::only(self.local_address().port())
    }

    /// A cycle of the engine begins, in which the network is asked: [`Arrival::waited`] counts up to `now`, and everything that
    /// the driver does in this cycle happens then.
    fn begin_cycle(&mut self, now: Instant) {
        let _ = now;
    }

    /// Hands up to [`RECEIVE_BURST`] waiting datagrams to `each`, in order of arrival, and returns how many. Never blocks.
    /// The bytes are lent for the call. An error is of the path as a whole (an interface that went away), not of a datagram.
    fn receive(&mut self, each: impl FnMut(&Arrival<'_>)) -> io::Result<usize>;

    /// Room for one datagram of at most `len` <= `max_datagram()` bytes to `to`, to be sent from our UDP port `from_port`, which
    /// is one of [`Self::ports`]; or `None` when the transmit queue is full:
    /// then `flush` and try again in the next cycle. The caller fills it and calls `commit` before anything else.
    /// The content is arbitrary until it is written.
    fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]>;

    /// Queues the datagram that was lent, cut to its first `len` bytes. Neighbours of equal length to one address may leave
    /// as one run (GSO); that is the driver's business.
    fn commit(&mut self, len: usize);

    /// Gives everything queued to the network. Never blocks: what the path does not take now either stays queued (then
    /// `lend` says no) or is dropped and counted. Called once per duty cycle.
    fn flush(&mut self) -> io::Result<()>;

    /// Whether committed datagrams still wait in the driver after a `flush`, because the path was full or (fault driver)
    /// because they are held back. An engine does not sleep for long while this is true: nothing else would send them.
    fn is_transmit_pending(&self) -> bool {
        false
    }

    /// A descriptor that is readable when `receive` would hand something over, for an engine that sleeps. Drivers that can
    /// only be polled have none. Datagrams that the driver has already taken from the system do not make it readable, so an
    /// engine sleeps only after a `receive` that returned 0.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether to receive costs a system call, even if nothing came: then an engine that has other work asks less often.
    fn receives_by_call(&self) -> bool {
        self.wait_fd().is_some()
    }

    /// The engine is about to sleep on [`Self::wait_fd`]. `false`: something came meanwhile, or the path cannot wake anybody now, so it
    /// must not sleep for long.
    fn prepare_sleep(&mut self) -> bool {
        true
    }

    /// When the driver has something of its own to do, such as asking for a hardware address once more: `begin_cycle` is to be
    /// called by then. None: never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Whether datagrams can pass.
    fn state(&self) -> PathState {
        PathState::Up
    }

    /// What was counted so far.
    fn counters(&self) -> DriverCounters;

    /// Names and values of what the path below the driver counts (a network card's xstats), for `machnet status`. May make
    /// system calls.
    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        let _ = each;
    }
}

/// Whether datagrams can pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// They can, as far as this host knows.
    Up,
    /// Not now; flows live on and repeat what is lost.
    Down,
    /// The interface does not exist any more: flows and listeners end. It may come back.
    Gone,
}

impl fmt::Display for PathState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
        })
    }
}
