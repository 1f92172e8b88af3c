//! Network paths that carry Ethernet frames, and what makes a [`Driver`](super::Driver) of one.
//!
//! A frame driver knows rings, descriptors and interrupts, and nothing of IP. What ARP, IPv4, UDP and ICMP ask for is done
//! once, above all of them.

mod arp;
mod checksum;
mod ethernet;
mod framed;
mod icmp;
mod ipv4;
mod refusal;
mod resolver;
mod routes;
mod station;
mod udp;
pub mod wire;

pub use self::framed::{Framed, Setup};
use super::MacAddress;
pub use super::Route;
use crate::proto::time::Duration;
use std::io;
use std::os::fd::BorrowedFd;

/// What is known of the UDP checksum of a frame that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceivedChecksum {
    /// Nobody looked: software has to.
    Unknown,
    /// The network card, or a kernel that made the frame on this host, vouches for it.
    Good,
    /// The network card says that it is wrong.
    Wrong,
}

/// An Ethernet frame as it arrived, without its frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the destination address on, with the VLAN tag if it came with one. May be padded behind the IP packet.
    pub bytes: &'a [u8],
    /// What is known of its UDP checksum.
    pub checksum: ReceivedChecksum,
    /// How long it lay in the receive ring when the engine's cycle began; zero where the path does not tell.
    pub waited: Duration,
}

/// Who writes the UDP checksum of a frame to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SentChecksum {
    /// The frame is complete: checksums are in it, or it has none (ARP).
    Complete,
    /// The UDP checksum field has the sum of the pseudo header only; the path completes it. Only where
    /// [`FrameDriver::completes_checksums`].
    ToComplete {
        /// Where the UDP header begins.
        udp_at: u16,
    },
}

/// Whether frames can pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Frames pass.
    Up,
    /// The interface is there and carries nothing: no cable, or set down. What is sent is dropped and counted.
    Down,
    /// The interface was removed, or the descriptors do not lead to it any more. [`FrameDriver::reopen`] may bring it back.
    Gone,
}

/// What a frame driver counted since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCounters {
    /// Frames handed over.
    pub received: u64,
    /// Frames given to the network.
    pub sent: u64,
    /// System calls made to receive; 0 where there are none.
    pub receive_calls: u64,
    /// System calls made to send.
    pub send_calls: u64,
    /// Frames that were lost on their way in because nobody took them from the ring in time, as far as the path tells.
    pub missed: u64,
    /// Frames that the path did not take because its transmit ring was full.
    pub dropped_queue_full: u64,
    /// Frames lost to any other error of the path.
    pub dropped_error: u64,
    /// Received frames that did not fit a buffer, or came in pieces.
    pub dropped_truncated: u64,
}

/// One receive and one transmit queue of an interface, used by one engine. Limited to what the LCD NIC has (paper, section
/// 3.1): nothing here can express flow steering, an RSS key or a redirection table.
///
/// All queues of an interface see its broadcasts, or only one of them does: nothing may rely on either.
pub trait FrameDriver: Send {
    /// The interface's hardware address.
    fn mac(&self) -> MacAddress;

    /// Bytes of the largest IP packet (the interface's MTU).
    fn mtu(&self) -> usize;

    /// Whether the path writes UDP checksums ([`SentChecksum::ToComplete`]).
    fn completes_checksums(&self) -> bool {
        false
    }

    /// A cycle of the engine begins: [`Frame::waited`] counts up to this time.
    fn begin_cycle(&mut self) {}

    /// Hands up to [`RECEIVE_BURST`](super::RECEIVE_BURST) waiting frames to `each`, in order of arrival, and returns how
    /// many. Never blocks. The bytes are lent for the call. An error is of the path as a whole; [`Self::link`] then tells.
    fn receive(&mut self, each: impl FnMut(&Frame<'_>)) -> io::Result<usize>;

    /// Room for one frame of at most `len` bytes, at most [`Self::mtu`] + 18 (Ethernet header and VLAN tag); or `None` when the
    /// transmit ring is full: then `flush`, and try again in the next cycle. The caller fills it and calls `commit` or `lend` (which
    /// takes the loan back) before anything else. The content is arbitrary until it is written.
    fn lend(&mut self, len: usize) -> Option<&mut [u8]>;

    /// The first `len` bytes of the frame that is lent, as they were written: what is known only when all of it is there, lengths and
    /// checksums, is written last.
    fn lent(&mut self, len: usize) -> &mut [u8];

    /// Queues the frame that was lent, cut to its first `len` bytes. Frames may be shorter than Ethernet's 60 bytes: the path
    /// pads them, or does not need it.
    fn commit(&mut self, len: usize, checksum: SentChecksum);

    /// Gives everything queued to the network. Never blocks.
    fn flush(&mut self) -> io::Result<()>;

    /// Whether committed frames still wait in the driver after a `flush`.
    fn is_transmit_pending(&self) -> bool {
        false
    }

    /// A descriptor that is readable when `receive` would hand something over; none where the path can only be polled. It
    /// stays the same number for the driver's life, also across [`Self::reopen`] (`dup2`).
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The engine is about to sleep on [`Self::wait_fd`]; what came before need not make it readable. `false`: something came meanwhile, or
    /// the path cannot wake anybody now, so it must not sleep long. Drivers whose descriptor is always right do nothing.
    fn prepare_sleep(&mut self) -> bool {
        true
    }

    /// Whether frames can pass now. Asked every 50 ms or so, and after an error: may make a system call.
    fn link(&mut self) -> LinkState;

    /// Tries to get back to the interface after [`LinkState::Gone`]; called every 200 ms or so until it works. The interface may have
    /// another index and hardware address then.
    fn reopen(&mut self) -> io::Result<()>;

    /// What was counted so far.
    fn counters(&self) -> FrameCounters;

    /// Names and values of what the path itself counts (xstats of a network card, statistics of a socket), for `machnet
    /// status`. May make system calls.
    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        let _ = each;
    }
}
