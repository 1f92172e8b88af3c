//! A [`Driver`] on top of a [`FrameDriver`]: what the interface's frames are to the engine.

use super::super::{Arrival, Driver, DriverCounters, MacAddress, PathState, RECEIVE_BURST, Route};
use super::station::{Shared, Station, Way};
use super::{FrameDriver, LinkState, SentChecksum, ethernet, ipv4, udp};
use crate::proto::PortRange;
use crate::proto::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes of the largest IP packet that is sent: jumbo frames.
const MOST_MTU: usize = 9_000;
/// How often the link is looked at, and the table told what passed.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often an interface that is gone is looked for.
const REOPEN_INTERVAL: Duration = Duration::from_millis(200);
/// Receives that bring no datagram before the engine does something else.
const MOST_FRUITLESS_RECEIVES: u32 = 4;
/// Datagrams that wait until it is known where they go ...
const MOST_PENDING: usize = 16;
/// ... of those so many to one host, ...
const MOST_PENDING_PER_HOST: usize = 4;
/// ... for so long.
const PENDING_TIME: Duration = Duration::from_secs(1);
/// So long an engine may sleep while datagrams wait for an answer that may land at another queue.
const PENDING_SLEEP: Duration = Duration::from_millis(1);
/// Datagrams to ourselves that wait to be received.
const MOST_LOOPED: usize = 256;

/// What a host is on its network.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its address.
    pub address: Ipv4Addr,
    /// Leading bits of it that all hosts of the link share.
    pub prefix_bits: u8,
    /// Ways to hosts that are not on the link.
    pub routes: Vec<Route>,
    /// Hardware addresses that are not asked for.
    pub neighbours: Vec<(Ipv4Addr, MacAddress)>,
    /// The VLAN, 1 to 4094.
    pub vlan: Option<u16>,
    /// The UDP port that peers send to: the first of `ports`.
    pub udp_port: u16,
    /// The UDP ports that all queues send from and receive at.
    pub ports: PortRange,
    /// Bytes of the largest IP packet, if it is to be less than what the interface takes.
    pub mtu: Option<usize>,
    /// The kernel has this address on this interface, too: it answers ARP, ICMP and everything that is not for our ports. We only ask
    /// and learn.
    pub kernel_answers: bool,
}

/// A datagram whose way is not known yet.
#[derive(Debug)]
struct Pending {
    since: Instant,
    next_hop: Ipv4Addr,
    from_port: u16,
    to: (Ipv4Addr, u16),
    payload: Vec<u8>,
}

/// The datagram that is lent.
#[derive(Clone, Copy, Debug)]
enum Lent {
    Nothing,
    /// In a frame of the transmit ring, with the headers of this place.
    Frame {
        place: usize,
        from_port: u16,
        to_port: u16,
        len: usize,
    },
    /// In memory of our own.
    Aside {
        fate: Fate,
        from_port: u16,
        to: SocketAddr,
        len: usize,
    },
}

/// What becomes of a datagram that cannot leave now.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It waits until it is known where this host is.
    Wait(Ipv4Addr),
    /// It is for ourselves.
    Loop,
    TooLarge,
    NoWay,
}

/// One queue of an interface as a network path of IPv4 and UDP.
#[derive(Debug)]
pub struct Framed<F> {
    frames: F,
    station: Station,
    udp_port: u16,
    completes_checksums: bool,
    link: LinkState,
    next_look: Instant,
    lent: Lent,
    aside: Box<[u8]>,
    pending: VecDeque<Pending>,
    /// The table's generation when `pending` was last looked through.
    pending_generation: u64,
    looped: VecDeque<(u16, u16, Vec<u8>)>,
    /// The last receive found all that there was.
    is_drained: bool,
    /// Frames of ours that the frame driver counts and that carry no datagram.
    control_sent: u64,
    looped_sent: u64,
}

impl<F: FrameDriver> Framed<F> {
    /// One network path for each of the queues of one interface, which share the address and what is known of others.
    pub fn group(setup: &Setup, queues: Vec<F>) -> Vec<Self> {
        assert!(setup.ports.contains(setup.udp_port), "the port that peers send to is one of ours");
        let Some(first) = queues.first() else { return Vec::new() };
        let shared = Arc::new(Shared::new(setup, first.mac()));
        let headers = ipv4::HEADER + udp::HEADER;
        let mtu =
            queues.iter().map(FrameDriver::mtu).chain(setup.mtu).min().unwrap_or(MOST_MTU).min(MOST_MTU);
        let max_datagram = mtu.saturating_sub(headers).max(1);
        queues.into_iter().map(|frames| Self::new(setup, frames, max_datagram, Arc::clone(&shared))).collect()
    }

    fn new(setup: &Setup, frames: F, max_datagram: usize, shared: Arc<Shared>) -> Self {
        Self {
            station: Station::new(setup, frames.mac(), max_datagram, shared),
            udp_port: setup.udp_port,
            completes_checksums: frames.completes_checksums(),
            frames,
            link: LinkState::Up,
            next_look: Instant::ZERO,
            lent: Lent::Nothing,
            aside: vec![0; max_datagram].into_boxed_slice(),
            pending: VecDeque::new(),
            pending_generation: 0,
            looped: VecDeque::new(),
            is_drained: true,
            control_sent: 0,
            looped_sent: 0,
        }
    }

    /// What carries the frames.
    pub fn frames(&self) -> &F {
        &self.frames
    }

    /// The driver of its frames alone, for whoever wants them without anything above.
    pub fn into_frames(self) -> F {
        self.frames
    }

    fn is_gone(&self) -> bool {
        self.link == LinkState::Gone
    }

    /// Looks after the link.
    fn look(&mut self) {
        let now = self.station.now;
        self.next_look = now + LOOK_INTERVAL;
        if self.is_gone() {
            self.try_to_come_back();
            return;
        }
        let before = std::mem::replace(&mut self.link, self.frames.link());
        match (before, self.link) {
            (_, LinkState::Gone) => self.go(),
            // Somebody may have given a living interface another address.
            _ if self.frames.mac() != self.station.mac => self.take_over(),
            (LinkState::Down, LinkState::Up) => self.station.handle_link_up(),
            _ => {}
        }
    }

    /// The interface is another one than before, or has another hardware address.
    fn take_over(&mut self) {
        self.completes_checksums = self.frames.completes_checksums();
        let headers = ipv4::HEADER + udp::HEADER;
        self.station.most_payload = self.station.max_datagram.min(self.frames.mtu().saturating_sub(headers));
        self.station.handle_new_interface(self.frames.mac());
    }

    #[cold]
    fn go(&mut self) {
        tracing::warn!("the network interface of {} is gone", self.station.address);
        self.link = LinkState::Gone;
        self.station.handle_gone();
        self.station.counters.dropped_unresolved += self.pending.len() as u64;
        self.pending.clear();
        self.next_look = self.station.now + REOPEN_INTERVAL;
    }

    #[cold]
    fn try_to_come_back(&mut self) {
        self.next_look = self.station.now + REOPEN_INTERVAL;
        if let Err(error) = self.frames.reopen() {
            tracing::debug!("the network interface of {} is not back: {error}", self.station.address);
            return;
        }
        self.link = self.frames.link();
        if self.is_gone() {
            return;
        }
        tracing::info!("the network interface of {} is back", self.station.address);
        self.take_over();
    }

    /// What cannot go the usual way.
    #[cold]
    fn lend_otherwise(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        let fate = match to {
            SocketAddr::V4(to) if *to.ip() == self.station.address => Fate::Loop,
            SocketAddr::V4(_) if len > self.station.most_payload => Fate::TooLarge,
            SocketAddr::V4(v4) => match self.station.way(*v4.ip()) {
                Way::Ready(place) => return self.lend_frame(place, from_port, v4.port(), len),
                Way::Unresolved(next_hop) => Fate::Wait(next_hop),
                Way::None => Fate::NoWay,
            },
            SocketAddr::V6(_) => Fate::NoWay,
        };
        self.lent = Lent::Aside { fate, from_port, to, len };
        Some(&mut self.aside[..len])
    }

    #[inline]
    fn lend_frame(&mut self, place: usize, from_port: u16, to_port: u16, len: usize) -> Option<&mut [u8]> {
        let headers = self.station.headers_len();
        let frame = self.frames.lend(headers + len)?;
        self.lent = Lent::Frame { place, from_port, to_port, len };
        Some(&mut frame[headers..headers + len])
    }

    #[inline]
    fn commit_frame(&mut self, place: usize, from_port: u16, to_port: u16, len: usize) {
        let headers = self.station.headers(place);
        let len = headers.len() + len;
        let checksum = headers.write(self.frames.lent(len), from_port, to_port, self.completes_checksums);
        self.frames.commit(len, checksum);
    }

    #[cold]
    fn commit_aside(&mut self, fate: Fate, from_port: u16, to: SocketAddr, len: usize) {
        let counters = &mut self.station.counters;
        match (fate, to) {
            (Fate::Wait(next_hop), SocketAddr::V4(to)) => {
                let same = self.pending.iter().filter(|other| other.next_hop == next_hop).count();
                if same >= MOST_PENDING_PER_HOST {
                    counters.dropped_unresolved += 1;
                    return;
                }
                if self.pending.len() >= MOST_PENDING {
                    counters.dropped_unresolved += 1;
                    self.pending.pop_front();
                }
                let payload = self.aside[..len].to_vec();
                let to = (*to.ip(), to.port());
                self.pending.push_back(Pending { since: self.station.now, next_hop, from_port, to, payload });
            }
            (Fate::Loop, to) if self.looped.len() < MOST_LOOPED => {
                self.looped_sent += 1;
                self.looped.push_back((from_port, to.port(), self.aside[..len].to_vec()));
            }
            (Fate::Loop, _) => counters.dropped_queue_full += 1,
            (Fate::TooLarge, _) => counters.dropped_too_large += 1,
            (Fate::NoWay | Fate::Wait(_), _) => counters.dropped_error += 1,
        }
    }

    /// Sends the datagrams whose way is known by now.
    #[cold]
    fn send_pending(&mut self) {
        self.pending_generation = self.station.shared.generation();
        for _ in 0..self.pending.len() {
            let Some(first) = self.pending.pop_front() else { return };
            match self.station.way(first.to.0) {
                Way::Ready(place) => {
                    let Some(room) = self.lend_frame(place, first.from_port, first.to.1, first.payload.len())
                    else {
                        self.pending.push_front(first);
                        self.pending_generation = 0;
                        return;
                    };
                    room.copy_from_slice(&first.payload);
                    self.lent = Lent::Nothing;
                    self.commit_frame(place, first.from_port, first.to.1, first.payload.len());
                }
                Way::Unresolved(_) => self.pending.push_back(first),
                Way::None => self.station.counters.dropped_unresolved += 1,
            }
        }
    }

    fn drop_old_pending(&mut self) {
        let now = self.station.now;
        while self.pending.front().is_some_and(|first| now.since(first.since) >= PENDING_TIME) {
            self.pending.pop_front();
            self.station.counters.dropped_unresolved += 1;
        }
    }

    fn can_send_pending(&self) -> bool {
        !self.pending.is_empty() && self.pending_generation != self.station.shared.generation()
    }

    /// Sends our own answers and questions.
    #[cold]
    fn send_waiting(&mut self) {
        while let Some(frame) = self.station.next_waiting() {
            let Some(room) = self.frames.lend(frame.len()) else { return };
            room[..frame.len()].copy_from_slice(frame);
            let len = frame.len();
            self.frames.commit(len, SentChecksum::Complete);
            self.control_sent += 1;
            self.station.drop_waiting();
        }
    }

    #[cold]
    fn receive_looped(&mut self, mut each: impl FnMut(&Arrival<'_>)) -> usize {
        let count = self.looped.len().min(RECEIVE_BURST);
        for (from_port, to_port, bytes) in self.looped.drain(..count) {
            let from = SocketAddr::from((self.station.address, from_port));
            each(&Arrival { from, to_port, waited: Duration::ZERO, bytes: &bytes });
        }
        self.station.counters.datagrams_received += count as u64;
        count
    }

    /// The path answered with an error: what the link says of it decides whether it is one.
    #[cold]
    fn handle_error(&mut self, error: io::Error) -> io::Result<()> {
        self.look();
        if self.link == LinkState::Up { Err(error) } else { Ok(()) }
    }
}

impl<F: FrameDriver> Driver for Framed<F> {
    fn local_address(&self) -> SocketAddr {
        SocketAddr::from((self.station.address, self.udp_port))
    }

    fn max_datagram(&self) -> usize {
        self.station.max_datagram
    }

    fn ports(&self) -> PortRange {
        self.station.ports
    }

    fn receive_ports(&self) -> PortRange {
        self.station.ports
    }

    #[inline]
    fn begin_cycle(&mut self, now: Instant) {
        self.station.now = now;
        self.frames.begin_cycle();
        if now >= self.next_look {
            self.station.report_all();
            self.look();
            self.drop_old_pending();
        }
        if now >= self.station.shared.due() && !self.is_gone() {
            self.station.handle_timeout();
        }
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&Arrival<'_>)) -> io::Result<usize> {
        if !self.looped.is_empty() {
            return Ok(self.receive_looped(each));
        }
        if self.is_gone() {
            self.is_drained = true;
            return Ok(0);
        }
        let mut handed = 0;
        for _ in 0..MOST_FRUITLESS_RECEIVES {
            let Self { frames, station, .. } = self;
            let received = frames.receive(|frame| {
                if let Some(arrival) = station.handle_frame(frame) {
                    handed += 1;
                    each(&arrival);
                }
            });
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    self.station.counters.datagrams_received += handed as u64;
                    return self.handle_error(error).map(|()| handed);
                }
            };
            self.is_drained = received == 0;
            if handed > 0 || received == 0 {
                break;
            }
        }
        self.station.counters.datagrams_received += handed as u64;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        assert!(len <= self.station.max_datagram, "{len} bytes on a path for {}", self.station.max_datagram);
        if let SocketAddr::V4(v4) = to
            && len <= self.station.most_payload
            && let Some(place) = self.station.ready(*v4.ip())
        {
            return self.lend_frame(place, from_port, v4.port(), len);
        }
        self.lend_otherwise(from_port, to, len)
    }

    #[inline]
    fn commit(&mut self, len: usize) {
        match std::mem::replace(&mut self.lent, Lent::Nothing) {
            Lent::Frame { place, from_port, to_port, len: lent } => {
                assert!(len <= lent, "{len} bytes committed of {lent} lent");
                self.commit_frame(place, from_port, to_port, len);
            }
            Lent::Aside { fate, from_port, to, len: lent } => {
                assert!(len <= lent, "{len} bytes committed of {lent} lent");
                self.commit_aside(fate, from_port, to, len);
            }
            Lent::Nothing => panic!("a datagram is lent before it is committed"),
        }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        if self.is_gone() {
            return Ok(());
        }
        if self.can_send_pending() {
            self.send_pending();
        }
        if self.station.next_waiting().is_some() {
            self.send_waiting();
        }
        match self.frames.flush() {
            Ok(()) => Ok(()),
            Err(error) => self.handle_error(error),
        }
    }

    fn is_transmit_pending(&self) -> bool {
        !self.is_gone()
            && (self.station.next_waiting().is_some()
                || self.can_send_pending()
                || self.frames.is_transmit_pending())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.frames.wait_fd()
    }

    fn receives_by_call(&self) -> bool {
        // Frame drivers look into a ring.
        false
    }

    fn prepare_sleep(&mut self) -> bool {
        if self.is_gone() {
            return true;
        }
        self.is_drained && self.looped.is_empty() && self.frames.prepare_sleep()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let mut due = self.next_look;
        if !self.is_gone() {
            due = due.min(self.station.shared.due());
        }
        if !self.pending.is_empty() {
            due = due.min(self.station.now + PENDING_SLEEP);
        }
        Some(due)
    }

    fn state(&self) -> PathState {
        match self.link {
            LinkState::Up => PathState::Up,
            LinkState::Down => PathState::Down,
            LinkState::Gone => PathState::Gone,
        }
    }

    fn counters(&self) -> DriverCounters {
        let path = self.frames.counters();
        let own = self.station.counters;
        DriverCounters {
            frames_received: path.received,
            frames_missed: path.missed,
            datagrams_sent: path.sent.saturating_sub(self.control_sent) + self.looped_sent,
            receive_calls: path.receive_calls,
            send_calls: path.send_calls,
            dropped_queue_full: own.dropped_queue_full + path.dropped_queue_full,
            dropped_error: own.dropped_error + path.dropped_error,
            dropped_truncated: own.dropped_truncated + path.dropped_truncated,
            ..own
        }
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        self.frames.statistics(each);
    }
}

/// Bytes of the largest frame of a path for IP packets of `mtu` bytes.
pub(super) const fn largest_frame(mtu: usize) -> usize {
    mtu + ethernet::HEADER + ethernet::TAG
}
