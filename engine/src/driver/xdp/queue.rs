//! One engine's queue pair: the frame driver over an XDP socket.

use super::arp::ArpTap;
use super::attach::Mode;
use super::channel::{Channel, LARGEST_MTU};
use super::checksum;
use super::error::OpenError;
use super::group::{Facts, Group};
use crate::driver::frame::{Frame, FrameCounters, FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use crate::driver::sys::interface_now;
use crate::driver::{MacAddress, RECEIVE_BURST};
use crate::proto::time::Duration;
use crate::sys::{Epoll, Watch};
use socket2::{Domain, Socket, Type};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Receives between two looks at the ARP tap, each a system call: some 50 us of an idle engine, a millisecond of a busy one.
const RECEIVES_PER_ARP_LOOK: u32 = 256;
/// ARP frames that one look takes.
const MOST_ARP_FRAMES: usize = 16;

/// The queue that hears ARP for all.
const ARP_QUEUE: u32 = 0;

/// A queue of an interface, by an XDP socket.
#[derive(Debug)]
pub struct XdpQueue {
    group: Arc<Mutex<Group>>,
    queue: u32,
    /// None while the interface is gone.
    channel: Option<Channel>,
    arp: Option<ArpTap>,
    /// Stays, whatever socket is in it.
    epoll: Epoll,
    /// Asks for the interface as it is.
    asker: Socket,
    facts: Facts,
    /// The frame that was lent.
    lent: Option<u32>,
    /// Receives until the next look at the ARP tap.
    until_arp: u32,
    is_down: bool,
    /// What the kernel counted at the socket before the present one.
    missed_before: u64,
    counters: FrameCounters,
}

fn lock(group: &Mutex<Group>) -> MutexGuard<'_, Group> {
    // A panic of another engine ends the process anyway.
    group.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens all queues of the interface, ties the program to it, and directs our frames to them.
pub(super) fn open(group: Group) -> Result<Vec<XdpQueue>, OpenError> {
    let io = |doing| super::error::io_error(doing);
    let queues = group.settings().queues;
    let group = Arc::new(Mutex::new(group));
    let facts = lock(&group).attach(true)?;
    warn_of_large_frames(&facts);
    let open_one = |queue| {
        let mut one = XdpQueue {
            group: Arc::clone(&group),
            queue,
            channel: None,
            arp: None,
            epoll: Epoll::new().map_err(io("making an epoll descriptor"))?,
            asker: Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(io("opening a socket"))?,
            facts: facts.clone(),
            lent: None,
            until_arp: 0,
            is_down: false,
            missed_before: 0,
            counters: FrameCounters::default(),
        };
        one.connect(facts.clone(), true)?;
        Ok(one)
    };
    // All sockets before the first frame is directed: the queues begin together.
    let opened: Vec<XdpQueue> = (0..queues).map(open_one).collect::<Result<_, OpenError>>()?;
    for one in &opened {
        one.direct()?;
    }
    Ok(opened)
}

fn warn_of_large_frames(facts: &Facts) {
    let Facts { link, .. } = facts;
    if link.mtu > LARGEST_MTU {
        tracing::warn!(
            "{} has an MTU of {}; XDP sockets take frames of one page: packets of more than {LARGEST_MTU} bytes are neither sent nor \
             received (`ip link set dev {} mtu {LARGEST_MTU}` tells the peers' kernels, too)",
            link.name,
            link.mtu,
            link.name
        );
    }
}

impl XdpQueue {
    /// Where the program runs.
    pub fn mode(&self) -> Option<Mode> {
        lock(&self.group).mode()
    }

    /// Whether the network card reads and writes our frames itself.
    pub fn is_zero_copy(&self) -> bool {
        self.channel.as_ref().is_some_and(Channel::is_zero_copy)
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.facts.link.name
    }

    /// Opens the sockets at the interface as `facts` has it.
    fn connect(&mut self, facts: Facts, patience: bool) -> Result<(), OpenError> {
        let io = |doing| super::error::io_error(doing);
        let group = lock(&self.group);
        let channel = group.open_channel(&facts, self.queue, patience)?;
        let vlan = group.settings().frames.vlan;
        drop(group);
        let arp = match self.queue {
            ARP_QUEUE => {
                Some(ArpTap::open(facts.link.index, vlan).map_err(io("to hear ARP by a packet socket"))?)
            }
            _ => None,
        };
        let watch = |fd| self.epoll.add(fd, 0, Watch::Readable).map_err(io("watching a socket"));
        watch(channel.descriptor())?;
        if let Some(arp) = &arp {
            watch(arp.descriptor())?;
        }
        (self.channel, self.arp, self.facts) = (Some(channel), arp, facts);
        self.until_arp = 0;
        self.is_down = false;
        Ok(())
    }

    fn direct(&self) -> Result<(), OpenError> {
        let channel = self.channel.as_ref().expect("directed after it was opened");
        lock(&self.group).direct(self.queue, channel.descriptor())
    }

    /// The interface is gone, or the socket is of no use: closes what led there.
    fn disconnect(&mut self) {
        if self.channel.is_some() {
            self.counters.missed = self.missed();
            self.missed_before = self.counters.missed;
        }
        // Closing takes them out of the epoll, too.
        (self.channel, self.arp, self.lent) = (None, None, None);
    }

    /// Frames that were lost on their way in, over all sockets so far.
    fn missed(&self) -> u64 {
        let statistics = self.channel.as_ref().and_then(|channel| channel.statistics().ok());
        // A frame for which the fill ring had nothing is among the dropped ones, or the ring full ones, or neither, as the driver
        // sees it; the largest is what was lost at least.
        let missed = statistics.map_or(0, |it| (it.rx_dropped + it.rx_ring_full).max(it.fill_ring_empty));
        self.missed_before + missed
    }

    /// Hands over the ARP frames that wait.
    fn receive_arp(&mut self, mut each: impl FnMut(&Frame<'_>)) -> usize {
        let Some(arp) = &mut self.arp else { return 0 };
        self.until_arp = RECEIVES_PER_ARP_LOOK;
        let mut handed = 0;
        while handed < MOST_ARP_FRAMES {
            self.counters.receive_calls += 1;
            // An error is that the interface went down or away, which `link` tells.
            let Ok(Some(bytes)) = arp.next() else { break };
            each(&Frame { bytes, checksum: ReceivedChecksum::Unknown, waited: Duration::ZERO });
            handed += 1;
        }
        handed
    }
}

impl FrameDriver for XdpQueue {
    fn mac(&self) -> MacAddress {
        self.facts.link.mac
    }

    fn mtu(&self) -> usize {
        self.facts.link.mtu.min(LARGEST_MTU)
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<usize> {
        let mut handed = 0;
        if self.until_arp == 0 {
            handed += self.receive_arp(&mut each);
        } else {
            self.until_arp -= 1;
        }
        let Some(channel) = &mut self.channel else { return Ok(handed) };
        let half = self.facts.half;
        let received = channel.receive(RECEIVE_BURST - handed, |bytes| {
            let checksum = checksum::look(bytes, half);
            each(&Frame { bytes, checksum, waited: Duration::ZERO });
        });
        let received = match received {
            Ok(received) => received,
            Err(broken) => {
                self.disconnect();
                return Err(broken.into());
            }
        };
        handed += received.handed;
        self.counters.received += handed as u64;
        self.counters.dropped_truncated += received.in_pieces;
        self.counters.receive_calls += received.calls;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.lent.is_none() {
            match self.channel.as_mut()?.take_free() {
                Ok(frame) => self.lent = frame,
                Err(_) => self.disconnect(),
            }
        }
        let frame = self.lent?;
        Some(self.channel.as_mut()?.room(frame, len))
    }

    #[inline]
    fn lent(&mut self, len: usize) -> &mut [u8] {
        let frame = self.lent.expect("lent follows lend");
        let channel = self.channel.as_mut().expect("a frame was lent by the socket");
        channel.room(frame, len)
    }

    #[inline]
    fn commit(&mut self, len: usize, checksum: SentChecksum) {
        assert_eq!(checksum, SentChecksum::Complete, "XDP sockets complete no checksums");
        let frame = self.lent.take().expect("commit follows lend");
        let channel = self.channel.as_mut().expect("a frame was lent by the socket");
        if self.is_down {
            channel.put_back(frame);
            self.counters.dropped_error += 1;
        } else if channel.queue(frame, len).is_err() {
            self.disconnect();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        match channel.flush() {
            Ok(flushed) => {
                self.counters.sent += flushed.sent;
                self.counters.dropped_queue_full += flushed.dropped;
                self.counters.send_calls += flushed.calls;
                self.is_down |= flushed.is_down;
                Ok(())
            }
            // The interface was removed under the socket, or the rings are broken.
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }

    fn is_transmit_pending(&self) -> bool {
        // What waits while the interface is down leaves with the next flush after it is up.
        !self.is_down && self.channel.as_ref().is_some_and(Channel::is_pending)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        // What wakes the engine may be the ARP tap.
        self.until_arp = 0;
        true
    }

    fn link(&mut self) -> LinkState {
        if self.channel.is_none() {
            return LinkState::Gone;
        }
        match interface_now(self.asker.as_fd(), self.facts.link.index) {
            Ok(now) => {
                self.counters.missed = self.missed();
                // The kernel may say up to a second late that there is somebody at the other end again, so what is sent is
                // kept back only while the interface is set down; without a carrier the kernel drops it itself.
                self.is_down = !now.is_up;
                self.facts.link.mac = MacAddress(now.mac);
                if now.is_running { LinkState::Up } else { LinkState::Down }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                self.disconnect();
                LinkState::Gone
            }
            // The question failed, which says nothing of the interface.
            Err(_) if self.is_down => LinkState::Down,
            Err(_) => LinkState::Up,
        }
    }

    /// Must be called in the network namespace in which the queue was opened: XDP programs are tied to interfaces of the
    /// caller's.
    fn reopen(&mut self) -> io::Result<()> {
        let facts = lock(&self.group).attach(false);
        let reopened = facts.and_then(|facts| self.connect(facts, false)).and_then(|()| self.direct());
        reopened.map_err(|error| {
            self.disconnect();
            io::Error::other(error)
        })
    }

    fn counters(&self) -> FrameCounters {
        self.counters
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        let Some(channel) = &self.channel else { return };
        each("zero_copy", u64::from(channel.is_zero_copy()));
        each("native_mode", u64::from(self.mode() == Some(Mode::Native)));
        if let Ok(statistics) = channel.statistics() {
            each("rx_dropped", statistics.rx_dropped);
            each("rx_invalid_descriptors", statistics.rx_invalid);
            each("rx_ring_full", statistics.rx_ring_full);
            each("rx_fill_ring_empty", statistics.fill_ring_empty);
            each("tx_invalid_descriptors", statistics.tx_invalid);
            each("tx_ring_empty", statistics.tx_ring_empty);
        }
    }
}
