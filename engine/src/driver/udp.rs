//! Kernel UDP sockets: no root, no hugepages, any Linux. The embedded default.
//!
//! Datagrams that wait to be sent lie end to end in one buffer, so neighbours of equal length to one address leave in one
//! piece and are cut up at the very end of the kernel's path (GSO); on the other side the kernel hands such a run over in
//! one piece again (GRO). Together they bring about ten times the throughput of single datagrams. Where the kernel, or the
//! interface, cannot do it, every datagram goes by itself, many to a system call.

mod batch;
mod open;
mod source;
mod staging;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::Socket;

pub use open::{Holder, MAX_UDP_PAYLOAD, OpenError};

use self::batch::{ReceiveBatch, SendBatch};
use self::open::Opened;
use self::source::Sources;
use self::staging::Staging;
use super::lock::AddressLock;
use super::{Arrival, Driver, DriverCounters, RECEIVE_BURST, sys};
use crate::clock;
use crate::config::{share, source_ports};
use crate::proto::PortRange;
use crate::proto::time::{Duration, Instant};

/// Bytes of a receive slot when GRO may join datagrams: a run is an IP packet to the kernel, so it is below 64 KiB.
const GRO_SLOT_BYTES: usize = 65_536;

/// Pending socket errors (ICMP answers of unreachable peers) that one `receive` skips before it waits for the next call.
const MAX_SKIPPED_ERRORS: u32 = 16;

/// By how much more a receive asks for after one that got all it asked for.
const RECEIVE_LIMIT_GROWTH: usize = 8;

/// One system call receives about so many bytes where datagrams are large: they are copied on at once, and the slots should
/// still be in the processor's cache then, which the bytes on both their ways have to share.
const RECEIVE_CALL_BYTES: usize = 128 << 10;

/// A datagram that seems to have waited longer did not: the clock was set.
const LONGEST_WAIT: Duration = Duration::from_millis(1_000);

/// Most system calls of one `receive`.
const MAX_RECEIVE_CALLS: u32 = 32;

/// What can be chosen about the sockets.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Bytes asked for as the kernel's send and receive buffer. The kernel doubles it; without privileges it stops at
    /// net.core.rmem_max and wmem_max. [`UdpStatus`] tells what was given.
    pub socket_buffer_bytes: usize,
    /// Bytes of datagrams that wait between `commit` and `flush`; at least one datagram's worth is taken. More than stays in
    /// the processor's cache until the kernel copies it makes large messages slower.
    pub staging_bytes: usize,
    /// Whether to send runs in one piece where the kernel can.
    pub use_gso: bool,
    /// Whether to receive runs in one piece where the kernel can.
    pub use_gro: bool,
    /// Ports to send from, which the engines divide among themselves; `None`: 64 for each, from the one that all receive at.
    pub source_ports: Option<RangeInclusive<u16>>,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            socket_buffer_bytes: 4 << 20,
            staging_bytes: 128 << 10,
            use_gso: true,
            use_gro: true,
            source_ports: None,
        }
    }
}

/// What the kernel gave to one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpStatus {
    /// MTU in bytes of the interface that owns the local address.
    pub interface_mtu: u32,
    /// The kernel's receive buffer in bytes, bookkeeping included.
    pub receive_buffer_bytes: usize,
    /// The kernel's send buffer in bytes, bookkeeping included.
    pub send_buffer_bytes: usize,
    /// Whether runs are sent in one piece.
    pub gso: bool,
    /// Whether runs are received in one piece.
    pub gro: bool,
    /// How often GSO was given up because the path refused it after all: 0 or 1.
    pub gso_fallbacks: u64,
    /// Sockets that only send, open so far.
    pub source_sockets: usize,
}

/// The sockets of all engines of one sidecar at one address.
#[derive(Debug)]
pub struct UdpGroup;

impl UdpGroup {
    /// Opens one driver for each of `engines` engines (at least one), all at `address`; port 0 takes a free one. With
    /// several, the kernel picks the engine by a hash of addresses and ports that nobody can read (opaque RSS). No other
    /// sidecar can open the address until the last of the drivers is dropped.
    pub fn open(
        address: SocketAddr,
        engines: usize,
        config: &UdpConfig,
    ) -> Result<Vec<UdpDriver>, OpenError> {
        assert!(engines > 0, "a group has at least one engine");
        let (lock, opened) = open::open_group(address, engines, config)?;
        let lock = Arc::new(lock);
        let count = u32::try_from(engines).unwrap_or(u32::MAX);
        let all = source_ports(config.source_ports.as_ref(), lock.address().port(), count);
        let drivers = (0..).zip(opened).map(|(engine, opened)| {
            let own = share(&all, engine, count);
            let own = PortRange::new(*own.start(), *own.end()).unwrap_or(PortRange::only(*own.start()));
            UdpDriver::new(opened, Arc::clone(&lock), own, config)
        });
        Ok(drivers.collect())
    }
}

/// One non-blocking UDP socket with its batches, and those of its source ports that were used. Nothing is allocated for a
/// datagram.
#[derive(Debug)]
pub struct UdpDriver {
    socket: Socket,
    lock: Arc<AddressLock>,
    max_datagram: usize,
    incoming: ReceiveBatch,
    /// When the engine's cycle began, by the wall clock.
    cycle_ns: u64,
    /// Slots that the next receive asks for.
    receive_limit: usize,
    /// The last receive brought as many large datagrams as it asked for, so that more are likely to wait.
    more_may_wait: bool,
    staging: Staging,
    outgoing: SendBatch,
    sources: Sources,
    counters: DriverCounters,
    status: UdpStatus,
}

/// What to do about an error of the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The path is full: keep what is queued.
    Wait,
    /// This datagram is lost because a queue is full.
    DropFull,
    /// This datagram is too large for the interface.
    DropTooLarge,
    /// This datagram is lost for another reason: a route, a firewall, an address that went away.
    DropError,
    /// The socket itself is unusable.
    Fatal,
}

fn judge(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Verdict::Wait,
        Some(libc::ENOBUFS) => Verdict::DropFull,
        Some(libc::EMSGSIZE) => Verdict::DropTooLarge,
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => Verdict::Fatal,
        Some(_) => Verdict::DropError,
    }
}

/// Errors by which the kernel refuses a run as such: the interface cannot compute checksums (EIO), segmentation is not
/// possible here (EINVAL), or one datagram would be too large (EINVAL on older kernels, EMSGSIZE on newer ones).
fn may_refuse_runs(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// How many slots to ask for after a receive that asked for `limit` and filled `filled` with `bytes` bytes in all.
///
/// The kernel finds out that nothing more waits by looking once more, which costs about a quarter of a receive. So where
/// datagrams come one by one, one is asked for; where all that was asked for came, soon all slots are.
fn next_receive_limit(limit: usize, filled: usize, bytes: usize) -> usize {
    let most =
        (RECEIVE_CALL_BYTES * filled).checked_div(bytes).unwrap_or(RECEIVE_BURST).clamp(1, RECEIVE_BURST);
    if filled == limit { (limit * RECEIVE_LIMIT_GROWTH).min(most) } else { filled.clamp(1, most) }
}

/// How long a datagram lay in the socket. The wall clock may be set meanwhile: then nothing is known.
fn waited(now_ns: u64, arrived_ns: u64) -> Duration {
    let waited = Duration::from_nanos(now_ns.saturating_sub(arrived_ns));
    if waited <= LONGEST_WAIT { waited } else { Duration::ZERO }
}

impl UdpDriver {
    /// Opens the driver of a sidecar with one engine; see [`UdpGroup::open`].
    pub fn open(address: SocketAddr, config: &UdpConfig) -> Result<Self, OpenError> {
        let mut group = UdpGroup::open(address, 1, config)?;
        Ok(group.pop().expect("a group of one has one driver"))
    }

    fn new(opened: Opened, lock: Arc<AddressLock>, ports: PortRange, config: &UdpConfig) -> Self {
        let max_datagram = opened.max_datagram;
        let sources = Sources::new(lock.address(), ports, config.socket_buffer_bytes);
        // One byte more than we take shows what was too long.
        let slot_bytes = if opened.has_gro { GRO_SLOT_BYTES } else { max_datagram + 1 };
        Self {
            socket: opened.socket,
            lock,
            max_datagram,
            cycle_ns: 0,
            incoming: ReceiveBatch::new(RECEIVE_BURST, slot_bytes),
            receive_limit: 1,
            more_may_wait: false,
            staging: Staging::new(config.staging_bytes.max(max_datagram), opened.has_gso),
            outgoing: SendBatch::new(),
            sources,
            counters: DriverCounters::default(),
            status: UdpStatus {
                interface_mtu: opened.interface_mtu,
                receive_buffer_bytes: opened.receive_buffer_bytes,
                send_buffer_bytes: opened.send_buffer_bytes,
                gso: opened.has_gso,
                gro: opened.has_gro,
                gso_fallbacks: 0,
                source_sockets: 0,
            },
        }
    }

    /// What the kernel gave, and what became of it.
    pub fn status(&self) -> UdpStatus {
        UdpStatus { source_sockets: self.sources.opened(), ..self.status }
    }

    /// The lock that keeps other sidecars away; all drivers of a group share it.
    pub fn lock(&self) -> &Arc<AddressLock> {
        &self.lock
    }

    /// Datagrams that the kernel dropped because nobody read this socket in time. A system call; the count wraps at 2^32.
    pub fn kernel_receive_drops(&self) -> io::Result<u32> {
        sys::receive_drops(self.socket.as_fd())
    }

    /// Fills the batch with what waits, and says whether anything came.
    fn refill(&mut self) -> io::Result<bool> {
        self.more_may_wait = false;
        for _ in 0..MAX_SKIPPED_ERRORS {
            self.counters.receive_calls += 1;
            match self.incoming.receive(self.socket.as_fd(), self.receive_limit) {
                Ok(filled) => {
                    let bytes = self.incoming.received_bytes();
                    // Small ones are not worth a question whose answer may be no.
                    self.more_may_wait = filled == self.receive_limit && bytes >= RECEIVE_CALL_BYTES / 2;
                    self.receive_limit = next_receive_limit(self.receive_limit, filled, bytes);
                    return Ok(filled > 0);
                }
                Err(error) => match judge(&error) {
                    Verdict::Wait => {
                        self.receive_limit = 1;
                        return Ok(false);
                    }
                    Verdict::Fatal => return Err(error),
                    // An ICMP answer to something that we sent; the datagrams behind it are still there.
                    _ => self.counters.dropped_error += 1,
                },
            }
        }
        Ok(false)
    }

    /// Takes the first datagram off the queue, or finds that it must wait (`false`).
    fn drop_first_datagram(&mut self, error: io::Error) -> io::Result<bool> {
        match judge(&error) {
            Verdict::Wait => return Ok(false),
            Verdict::Fatal => return Err(error),
            Verdict::DropFull => self.counters.dropped_queue_full += 1,
            Verdict::DropTooLarge => self.counters.dropped_too_large += 1,
            Verdict::DropError => self.counters.dropped_error += 1,
        }
        self.staging.advance_datagram();
        Ok(true)
    }

    /// Sends the first run datagram by datagram, after the kernel refused it whole. If that works, runs are what the path
    /// cannot do, and no more are made; if it fails as well, the datagrams themselves are to blame. Returns whether to
    /// go on with the next run.
    fn send_apart(&mut self, refusal: &io::Error) -> io::Result<bool> {
        let datagrams = self.staging.runs()[0].datagrams;
        let mut refused_apart = 0;
        for _ in 0..datagrams {
            let run = self.staging.runs()[0];
            let bytes = &self.staging.bytes()[run.first_range()];
            self.counters.send_calls += 1;
            let socket = self.sources.socket(run.from_port).unwrap_or(&self.socket);
            match socket.send_to(bytes, &run.to.into()) {
                Ok(_) => {
                    self.counters.datagrams_sent += 1;
                    self.staging.advance_datagram();
                }
                Err(error) => {
                    refused_apart += 1;
                    if !self.drop_first_datagram(error)? {
                        return Ok(false);
                    }
                }
            }
        }
        let is_size = refusal.raw_os_error() == Some(libc::EMSGSIZE);
        if refused_apart == 0 && !is_size && self.status.gso {
            self.staging.stop_merging();
            self.status.gso = false;
            self.status.gso_fallbacks += 1;
        }
        Ok(true)
    }

    fn flush_queue(&mut self) -> io::Result<()> {
        // Each round takes something off the queue or ends the loop.
        while let Some(first) = self.staging.runs().first().copied() {
            self.counters.send_calls += 1;
            let runs = self.staging.runs();
            let same = runs.iter().position(|run| run.from_port != first.from_port).unwrap_or(runs.len());
            let socket = self.sources.socket(first.from_port).unwrap_or(&self.socket);
            match self.outgoing.send(socket.as_fd(), self.staging.bytes(), &runs[..same]) {
                Ok(0) => return Ok(()),
                Ok(sent) => self.counters.datagrams_sent += self.staging.advance(sent),
                Err(error) => {
                    let goes_on = if first.datagrams > 1 && may_refuse_runs(&error) {
                        self.send_apart(&error)?
                    } else if first.datagrams > 1 && judge(&error) != Verdict::Wait {
                        self.drop_first_run(error)?
                    } else {
                        self.drop_first_datagram(error)?
                    };
                    if !goes_on {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// A run fails as one: the route or the firewall that refused it would refuse each datagram of it.
    fn drop_first_run(&mut self, error: io::Error) -> io::Result<bool> {
        let datagrams = u64::from(self.staging.runs()[0].datagrams);
        match judge(&error) {
            Verdict::Fatal => return Err(error),
            Verdict::DropFull => self.counters.dropped_queue_full += datagrams,
            _ => self.counters.dropped_error += datagrams,
        }
        self.staging.advance(1);
        Ok(true)
    }
}

impl Driver for UdpDriver {
    fn local_address(&self) -> SocketAddr {
        self.lock.address()
    }

    fn max_datagram(&self) -> usize {
        self.max_datagram
    }

    fn ports(&self) -> PortRange {
        self.sources.range()
    }

    #[inline]
    fn begin_cycle(&mut self, _: Instant) {
        self.cycle_ns = clock::wall_ns();
    }

    fn receive(&mut self, mut each: impl FnMut(&Arrival<'_>)) -> io::Result<usize> {
        let (mut handed, mut calls) = (0, 0);
        let local_port = self.lock.address().port();
        while handed < RECEIVE_BURST {
            if self.incoming.is_drained() {
                let asks = calls == 0 || (self.more_may_wait && calls < MAX_RECEIVE_CALLS);
                calls += 1;
                if !asks || !self.refill()? {
                    break;
                }
            }
            let Some(received) = self.incoming.next() else { break };
            if received.is_truncated || received.bytes.len() > self.max_datagram {
                self.counters.dropped_truncated += 1;
                continue;
            }
            let Some(from) = received.from else {
                self.counters.dropped_error += 1;
                continue;
            };
            let waited = received.arrived_ns.map_or(Duration::ZERO, |at_ns| waited(self.cycle_ns, at_ns));
            each(&Arrival { from, to_port: local_port, waited, bytes: received.bytes });
            handed += 1;
        }
        self.counters.datagrams_received += handed as u64;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        assert!(len <= self.max_datagram, "a datagram of {len} bytes on a path for {}", self.max_datagram);
        let from_port = self.sources.resolve(from_port);
        self.staging.lend(from_port, to, len)
    }

    #[inline]
    fn commit(&mut self, len: usize) {
        self.staging.commit(len);
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.flush_queue();
        self.staging.compact();
        result
    }

    fn is_transmit_pending(&self) -> bool {
        !self.staging.runs().is_empty()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            source_port_unavailable: self.sources.unavailable,
            dropped_source_port: self.sources.dropped(),
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_datagrams_are_received_a_few_at_a_time_and_small_ones_many() {
        assert_eq!(next_receive_limit(1, 1, 100), RECEIVE_LIMIT_GROWTH);
        assert_eq!(next_receive_limit(8, 8, 8 * 1472), RECEIVE_BURST);
        assert_eq!(next_receive_limit(8, 3, 300), 3);
        assert_eq!(next_receive_limit(8, 0, 0), 1);
        assert_eq!(next_receive_limit(4, 4, 0), 4 * RECEIVE_LIMIT_GROWTH, "empty datagrams have no bytes");
        assert_eq!(next_receive_limit(1, 1, 65_504), 2);
        assert_eq!(next_receive_limit(64, 64, 64 * 65_504), 2);
        assert_eq!(next_receive_limit(2, 1, 65_504), 1);
    }
}
