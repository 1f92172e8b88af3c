//! Frames through a ring that the kernel shares with us (`AF_PACKET`, packet(7)): works on any Ethernet interface, with one right
//! (`CAP_NET_RAW`), and leaves everything else on the interface alone.
//!
//! The kernel copies the frames that the filter lets through into the receive ring, from where we read them without a system
//! call, and takes a whole batch from the transmit ring in one. Version 2 of the rings, never version 3, which hands frames over in
//! blocks and lets a lonely one wait for a timer. Several engines share the interface by the kernel's hash of addresses and ports
//! (`PACKET_FANOUT_HASH`), which nobody can read or set: RSS as the LCD NIC has it.

mod filter;
mod open;
mod ring;
mod run;

pub(super) use self::open::routes;
pub use self::open::{OpenError, PacketConfig, PacketGroup, check_right, open};

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use socket2::Socket;

use self::ring::{Received, Rings, Shape};
use self::run::{Piece, Run, VIRTIO_HEADER_BYTES};
use super::frame::{Frame, FrameCounters, FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use super::lock::AddressLock;
use super::{MacAddress, RECEIVE_BURST, sys};
use crate::clock;
use crate::proto::time::Duration;

/// A frame that seems to have lain longer in the ring has a time of arrival from before the clock was set.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What all queues of an interface have in common.
#[derive(Debug)]
struct Group {
    interface: CString,
    filter: filter::Wanted,
    queues: usize,
    shape: Shape,
    bypasses_queueing: bool,
    /// The fanout group that the queues are members of now, and of which interface it is.
    fanout: Mutex<Option<(u32, u16)>>,
    /// Only held: no other sidecar serves the address, and the kernel does not answer for our ports.
    _lock: AddressLock,
    _reserved: Vec<Socket>,
}

/// One receive and one transmit ring of an interface.
#[derive(Debug)]
pub struct PacketQueue {
    socket: Socket,
    rings: Rings,
    group: Arc<Group>,
    index: u32,
    mac: MacAddress,
    mtu: usize,
    /// When the engine's cycle began, by the wall clock.
    cycle_ns: u64,
    /// The engine slept, and nothing was received since.
    slept_in_vain: bool,
    /// A run of datagrams that is being handed over.
    run: Run,
    counters: FrameCounters,
    /// Frames that the kernel's filter let through.
    passed_filter: u64,
}

impl PacketQueue {
    /// What the kernel says of a frame's checksum. One that it still has to compute (`CSUMNOTREADY`) was made on this machine and
    /// never was on a cable.
    fn checksum(status: u32) -> ReceivedChecksum {
        if status & (libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_CSUM_VALID) == 0 {
            ReceivedChecksum::Unknown
        } else {
            ReceivedChecksum::Good
        }
    }

    fn count_statistics(&mut self) {
        if let Ok((came, dropped)) = sys::packet_statistics(self.socket.as_fd()) {
            self.passed_filter += u64::from(came);
            self.counters.missed += u64::from(dropped);
        }
    }

    /// The interface does not take what is queued: it is lost, as on a cable that is not there.
    #[cold]
    fn drop_queued(&mut self) {
        self.counters.dropped_error += self.rings.withdraw() as u64;
    }
}

impl PacketQueue {
    /// Hands over what is at the front of the ring and is not one frame that fits, up to a burst of it.
    #[cold]
    fn receive_run(&mut self, each: &mut impl FnMut(&Frame<'_>)) -> usize {
        if self.run.is_empty() && !self.begin_run() {
            self.counters.dropped_truncated += 1;
            self.rings.release();
            return 0;
        }
        let mut handed = 0;
        while handed < RECEIVE_BURST
            && let Some(bytes) = self.run.next()
        {
            each(&Frame { bytes, checksum: ReceivedChecksum::Good, waited: Duration::ZERO });
            handed += 1;
        }
        if self.run.is_empty() {
            self.rings.release();
        }
        handed
    }

    /// Takes the run at the front of the ring over, from the slot or, if it does not fit one, from the socket. `false`: it is none.
    fn begin_run(&mut self) -> bool {
        let Some(Received { bytes, status, piece, .. }) = self.rings.front() else { return false };
        if let (Some(bytes), Piece::Run(segment_bytes)) = (bytes, piece) {
            return self.run.fill(bytes, segment_bytes);
        }
        if status & libc::TP_STATUS_COPY == 0 {
            return false;
        }
        // It waits at the socket, whether it is a run or not.
        let Ok(bytes) = (&self.socket).read(self.run.room()) else { return false };
        match self.run.piece_in_room() {
            Piece::Run(segment_bytes) => {
                self.run.begin(bytes.saturating_sub(VIRTIO_HEADER_BYTES), segment_bytes)
            }
            _ => false,
        }
    }
}

/// How long a frame lay in the ring. The wall clock may be set meanwhile: then nothing is known.
fn waited(now_ns: u64, arrived_ns: u64) -> Duration {
    let waited = Duration::from_nanos(now_ns.saturating_sub(arrived_ns));
    if waited <= LONGEST_WAIT { waited } else { Duration::ZERO }
}

impl FrameDriver for PacketQueue {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    #[inline]
    fn begin_cycle(&mut self) {
        self.cycle_ns = clock::wall_ns();
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<usize> {
        let mut handed = 0;
        for _ in 0..RECEIVE_BURST {
            let Some(Received { bytes, status, piece, arrived_ns }) = self.rings.front() else { break };
            self.slept_in_vain = false;
            match (bytes, piece) {
                (Some(bytes), Piece::Whole) => {
                    let waited = waited(self.cycle_ns, arrived_ns);
                    each(&Frame { bytes, checksum: Self::checksum(status), waited });
                    handed += 1;
                    self.rings.release();
                }
                // What is left of a run is for the next call.
                _ if handed > 0 => break,
                _ => {
                    handed = self.receive_run(&mut each);
                    break;
                }
            }
        }
        self.counters.received += handed as u64;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, len: usize) -> Option<&mut [u8]> {
        self.rings.lend(len)
    }

    #[inline]
    fn lent(&mut self, len: usize) -> &mut [u8] {
        self.rings.lent(len)
    }

    #[inline]
    fn commit(&mut self, len: usize, checksum: SentChecksum) {
        assert!(checksum == SentChecksum::Complete, "this path completes no checksums");
        self.rings.commit(len);
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        if self.rings.waiting() == 0 {
            return Ok(());
        }
        self.counters.send_calls += 1;
        let result = self.socket.send_with_flags(&[], libc::MSG_DONTWAIT);
        self.counters.sent += self.rings.count_taken() as u64;
        let Err(error) = result else { return Ok(()) };
        match error.raw_os_error() {
            // The path is full: the frames stay where they are.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => Ok(()),
            // The interface is down, or gone: `link` says which.
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                self.drop_queued();
                Ok(())
            }
            _ => {
                self.drop_queued();
                Err(error)
            }
        }
    }

    fn is_transmit_pending(&self) -> bool {
        self.rings.waiting() > 0
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        if self.slept_in_vain {
            // An error of the interface makes the socket readable until somebody asks for it.
            let _: io::Result<Option<io::Error>> = self.socket.take_error();
        }
        self.slept_in_vain = true;
        !self.rings.has_received()
    }

    fn link(&mut self) -> LinkState {
        self.count_statistics();
        let _: io::Result<Option<io::Error>> = self.socket.take_error();
        match sys::interface_now(self.socket.as_fd(), self.index) {
            Ok(now) => {
                self.mac = MacAddress(now.mac);
                self.mtu = usize::try_from(now.mtu).unwrap_or(usize::MAX).min(self.group.shape.mtu());
                if now.is_running { LinkState::Up } else { LinkState::Down }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => LinkState::Gone,
            // Nothing is known, so nothing has changed.
            Err(_) => LinkState::Up,
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let index = sys::interface_index(self.socket.as_fd(), &self.group.interface)?;
        let now = sys::interface_now(self.socket.as_fd(), index)?;
        let (socket, rings) = open::open_queue(&self.group, index)?;
        ring::replace(self.socket.as_fd(), socket.as_fd())?;
        self.count_statistics();
        (self.rings, self.index) = (rings, index);
        // Its slot was one of the old ring.
        self.run.clear();
        self.mac = MacAddress(now.mac);
        self.mtu = usize::try_from(now.mtu).unwrap_or(usize::MAX).min(self.group.shape.mtu());
        Ok(())
    }

    fn counters(&self) -> FrameCounters {
        self.counters
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        each("passed_filter", self.passed_filter);
        each("ring_full", self.counters.missed);
    }
}
