//! A queue pair of a port as a [`FrameDriver`].

use super::plugin::RawPort;
use super::port::PortPlan;
use super::rings::{Rings, Sent, received};
use super::shared::Shared;
use crate::clock::Clock;
use crate::driver::MacAddress;
use crate::driver::frame::{Frame, FrameCounters, FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use crate::proto::time::{Duration, Instant};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

/// So long a link of memif's client is left to itself: connecting takes a moment, too.
const CONNECT_ANEW_AFTER: Duration = Duration::from_secs(1);

/// So many flushes in which the ring takes nothing, and what is staged is dropped: the protocol repeats what still matters.
const PATIENCE_FLUSHES: u32 = 4_096;

/// One queue pair of a port.
#[derive(Debug)]
pub struct DpdkQueue {
    shared: Arc<Shared>,
    number: u16,
    /// Which opening of the port the rings are of.
    generation: u64,
    /// None while the device is gone, or opened again to connect to its peer.
    rings: Option<Rings>,
    mac: MacAddress,
    mtu: u16,
    completes_checksums: bool,
    /// The descriptor of the receive interrupt, if the port has any.
    interrupt: Option<RawFd>,
    /// What arrives interrupts until that is taken back.
    is_waking: bool,
    link: LinkState,
    /// Whether the port connects to its peer only when it is opened, and so has to be opened again for another peer.
    connects_once: bool,
    clock: Clock,
    /// Since when such a port has had no peer, or the last try to find one.
    alone_since: Option<Instant>,
    /// The rings are let go of for that: the device is there, and its link is down.
    is_connecting: bool,
    /// Flushes in a row in which nothing left.
    stuck: u32,
    counters: FrameCounters,
}

impl DpdkQueue {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: u16,
        generation: u64,
        port: &Arc<RawPort>,
        mac: MacAddress,
        plan: &PortPlan,
    ) -> io::Result<Self> {
        let mut queue = Self {
            connects_once: shared.connects_once(),
            shared,
            number,
            generation,
            rings: None,
            mac,
            mtu: 0,
            completes_checksums: false,
            interrupt: None,
            is_waking: false,
            link: LinkState::Down,
            clock: Clock::start(),
            alone_since: None,
            is_connecting: false,
            stuck: 0,
            counters: FrameCounters::default(),
        };
        queue.take(port, mac, plan)?;
        Ok(queue)
    }

    /// Takes its rings of a port that was opened.
    fn take(&mut self, port: &Arc<RawPort>, mac: MacAddress, plan: &PortPlan) -> io::Result<()> {
        let rings = Rings::of(port, self.number, plan.buffer_bytes)
            .ok_or_else(|| io::Error::other(format!("the port has no queue {}", self.number)))?;
        // An interrupt's descriptor would be another after the device came back, and an engine's epoll set has the first one.
        self.interrupt = if self.generation == 0 && plan.rx_interrupts { rings.receive_fd() } else { None };
        self.rings = Some(rings);
        self.mac = mac;
        self.mtu = plan.mtu;
        self.completes_checksums = plan.completes_checksums();
        self.is_waking = false;
        self.stuck = 0;
        self.link = self.shared.link(port);
        Ok(())
    }

    /// The driver of DPDK that the port has, and what the port is called.
    pub fn device(&self) -> (&str, &str) {
        (self.shared.driver(), self.shared.name())
    }

    fn gone() -> io::Error {
        io::Error::new(io::ErrorKind::NotConnected, "the device of DPDK is gone")
    }

    /// Takes back that what arrives interrupts.
    fn stop_waking(&mut self) {
        if let (true, Some(rings), Some(_)) = (self.is_waking, &mut self.rings, self.interrupt) {
            // A queue that goes on to interrupt costs time and nothing else.
            let _: io::Result<()> = rings.wake_on_receive(false);
        }
        self.is_waking = false;
    }

    /// Nothing passes without rings, which is an error only if they will not be back by themselves.
    fn without_rings<T>(&self, nothing: T) -> io::Result<T> {
        if self.is_connecting { Ok(nothing) } else { Err(Self::gone()) }
    }

    /// The link is down, and nobody but us connects it again.
    #[cold]
    fn connect_anew(&mut self) {
        let now = self.clock.now();
        let is_time = now.since(*self.alone_since.get_or_insert(now)) >= CONNECT_ANEW_AFTER;
        if !is_time || (!self.is_connecting && !self.shared.is_awaited()) {
            return;
        }
        self.is_connecting = true;
        match self.reopen() {
            Ok(()) => {
                tracing::info!("{}: connecting to its peer anew", self.shared.name());
                self.is_connecting = false;
            }
            // The next look is soon enough: the other engines see what we see.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => tracing::debug!("{}: the peer is not back: {error}", self.shared.name()),
        }
        self.alone_since = Some(self.clock.now());
    }
}

impl FrameDriver for DpdkQueue {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu.into()
    }

    fn completes_checksums(&self) -> bool {
        self.completes_checksums
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<usize> {
        if self.is_waking {
            self.stop_waking();
        }
        let Self { rings: Some(rings), counters, .. } = self else { return self.without_rings(0) };
        let mut truncated = 0;
        let arrived = rings.receive(|bytes, flags| {
            if flags & received::IN_PIECES != 0 {
                truncated += 1;
                return;
            }
            let checksum = match flags & (received::CHECKSUM_GOOD | received::CHECKSUM_WRONG) {
                received::CHECKSUM_GOOD => ReceivedChecksum::Good,
                // Cards err: some call a sum wrong that they could not follow. Software has the last word.
                _ => ReceivedChecksum::Unknown,
            };
            each(&Frame { bytes, checksum, waited: Duration::ZERO });
        });
        counters.received += (arrived - truncated) as u64;
        counters.dropped_truncated += truncated as u64;
        Ok(arrived)
    }

    #[inline]
    fn lend(&mut self, len: usize) -> Option<&mut [u8]> {
        self.rings.as_mut()?.lend(len)
    }

    #[inline]
    fn lent(&mut self, len: usize) -> &mut [u8] {
        self.rings.as_mut().expect("a frame is lent, so there are rings").lent(len)
    }

    #[inline]
    fn commit(&mut self, len: usize, checksum: SentChecksum) {
        let udp_at = match checksum {
            SentChecksum::Complete => None,
            SentChecksum::ToComplete { udp_at } => Some(udp_at),
        };
        self.rings.as_mut().expect("commit follows lend, which had rings").commit(len, udp_at);
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        let Some(rings) = &mut self.rings else { return self.without_rings(()) };
        if rings.filled() == 0 {
            return Ok(());
        }
        let Sent { taken, refused } = rings.send();
        self.counters.sent += taken as u64;
        self.counters.dropped_error += refused as u64;
        if taken + refused > 0 || rings.filled() == 0 {
            self.stuck = 0;
        } else if self.link != LinkState::Up {
            self.counters.dropped_error += rings.drop_staged() as u64;
        } else {
            self.stuck += 1;
            if self.stuck > PATIENCE_FLUSHES {
                self.counters.dropped_queue_full += rings.drop_staged() as u64;
                self.stuck = 0;
            }
        }
        Ok(())
    }

    fn is_transmit_pending(&self) -> bool {
        self.rings.as_ref().is_some_and(|rings| rings.filled() > 0)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.as_ref()?.borrow(self.interrupt?))
    }

    fn prepare_sleep(&mut self) -> bool {
        let (Some(rings), Some(fd)) = (&mut self.rings, self.interrupt) else { return false };
        rings.drain(fd);
        if rings.wake_on_receive(true).is_err() {
            return false;
        }
        self.is_waking = true;
        // What came before the interrupt was on makes none.
        rings.look() == 0
    }

    fn link(&mut self) -> LinkState {
        self.link = match &self.rings {
            Some(rings) => self.shared.link(rings.port()),
            None if self.is_connecting => LinkState::Down,
            None => LinkState::Gone,
        };
        if !self.connects_once || self.link != LinkState::Down {
            self.alone_since = None;
        } else {
            self.connect_anew();
        }
        if self.number == 0
            && let Some(rings) = &self.rings
        {
            self.counters.missed = rings.port().missed();
        }
        self.link
    }

    fn reopen(&mut self) -> io::Result<()> {
        // The port goes when every queue has let go of it.
        self.rings = None;
        let (generation, port, mac, plan) = self.shared.reopen(self.generation)?;
        self.generation = generation;
        self.take(&port, mac, &plan)
    }

    fn counters(&self) -> FrameCounters {
        self.counters
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        // They are the port's, so one queue tells them.
        if self.number == 0
            && let Some(rings) = &self.rings
        {
            rings.port().statistics(each);
        }
    }
}
