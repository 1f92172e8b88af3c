//! What one queue knows besides its frames: who is where, what arrived and for whom, and what is to be answered.
//!
//! Sending to a known address takes one look into `hops` and no lock; everything else is the cold path.

use super::super::{Arrival, DriverCounters, MacAddress};
use super::arp::{self, Arp, Operation};
use super::ethernet::{self, Ethernet};
use super::icmp::{self, Message};
use super::ipv4::{self, Packet};
use super::refusal::Refusal;
use super::resolver::{Action, Answer, Heard, Resolver};
use super::routes::Routes;
use super::udp::{self, Datagram, Headers};
use super::{Frame, Setup};
use crate::proto::PortRange;
use crate::proto::time::{Duration, Instant};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Peers whose headers a queue has ready. Two that share a place cost a look at the shared table each time they alternate.
const HOPS: usize = 1024;
/// Frames of ours, answers and questions, that wait for room in the transmit ring.
const MOST_WAITING_FRAMES: usize = 64;
/// Port unreachable is sent at most so often; so many at once.
const REFUSALS_PER_SECOND: u64 = 100;
const REFUSALS_AT_ONCE: u64 = 10;

/// What all queues of one address share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) routes: Routes,
    resolver: Mutex<Resolver>,
    /// [`Resolver::generation`], for a look without the lock. Only the number counts: what it speaks of is read under the lock.
    generation: AtomicU64,
    /// [`Resolver::poll_timeout`] in nanoseconds, likewise.
    due_ns: AtomicU64,
}

impl Shared {
    pub(super) fn new(setup: &Setup, mac: MacAddress) -> Self {
        let resolver = Resolver::new(setup.address, mac, !setup.kernel_answers, &setup.neighbours);
        Self {
            routes: Routes::new(setup.address, setup.prefix_bits, &setup.routes),
            generation: AtomicU64::new(resolver.generation()),
            due_ns: AtomicU64::new(resolver.poll_timeout().as_nanos()),
            resolver: Mutex::new(resolver),
        }
    }

    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(super) fn due(&self) -> Instant {
        Instant::from_nanos(self.due_ns.load(Ordering::Relaxed))
    }

    /// An engine that ended in the middle of a change leaves a table that is a table all the same.
    fn lock(&self) -> MutexGuard<'_, Resolver> {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer that datagrams can be sent to without another thought.
#[derive(Clone, Debug)]
struct Hop {
    /// Unspecified: the place is empty.
    peer: Ipv4Addr,
    /// As of which generation of the table it holds.
    generation: u64,
    /// The host on the link that packets are handed to, and its hardware address.
    next: Ipv4Addr,
    mac: MacAddress,
    used_at: Instant,
    heard_at: Option<Instant>,
    headers: Headers,
}

/// The way of a datagram that is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// With the headers of this place.
    Ready(usize),
    /// As soon as it is known where this host on the link is.
    Unresolved(Ipv4Addr),
    /// There is none.
    None,
}

/// The state of one queue but for its frames.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Ipv4Addr,
    pub(super) ports: PortRange,
    vlan: u16,
    kernel_answers: bool,
    pub(super) max_datagram: usize,
    /// UDP payload that the interface takes now; less than was agreed on if it came back smaller.
    pub(super) most_payload: usize,
    pub(super) mac: MacAddress,
    /// When the engine's cycle began.
    pub(super) now: Instant,
    /// Whether the interface is there. Without it no hop is ready.
    pub(super) is_there: bool,
    hops: Box<[Hop]>,
    reported_at: Instant,
    /// Frames of ours that wait.
    waiting: VecDeque<Vec<u8>>,
    refusals: Allowance,
    has_warned: bool,
    pub(super) counters: DriverCounters,
}

#[inline]
fn place(peer: Ipv4Addr) -> usize {
    // Neighbours in a network have places of their own.
    let bits = peer.to_bits() as usize;
    (bits ^ bits >> 10 ^ bits >> 20) % HOPS
}

impl Station {
    pub(super) fn new(setup: &Setup, mac: MacAddress, max_datagram: usize, shared: Arc<Shared>) -> Self {
        let nowhere = Ethernet { to: mac, from: mac, vlan: setup.vlan.unwrap_or(0), kind: ethernet::IPV4 };
        let empty = Hop {
            peer: Ipv4Addr::UNSPECIFIED,
            generation: 0,
            next: Ipv4Addr::UNSPECIFIED,
            mac,
            used_at: Instant::ZERO,
            heard_at: None,
            headers: Headers::new(&nowhere, setup.address, Ipv4Addr::UNSPECIFIED),
        };
        Self {
            shared,
            address: setup.address,
            ports: setup.ports,
            vlan: setup.vlan.unwrap_or(0),
            kernel_answers: setup.kernel_answers,
            max_datagram,
            most_payload: max_datagram,
            mac,
            now: Instant::ZERO,
            is_there: true,
            hops: vec![empty; HOPS].into_boxed_slice(),
            reported_at: Instant::ZERO,
            waiting: VecDeque::new(),
            refusals: Allowance::new(REFUSALS_PER_SECOND, REFUSALS_AT_ONCE),
            has_warned: false,
            counters: DriverCounters::default(),
        }
    }

    /// Bytes before the payload of a datagram.
    #[inline]
    pub(super) fn headers_len(&self) -> usize {
        self.hops[0].headers.len()
    }

    /// The headers of a place that [`Self::way`] named.
    #[inline]
    pub(super) fn headers(&self, place: usize) -> &Headers {
        &self.hops[place].headers
    }

    /// The way to a peer, if it is known.
    #[inline]
    pub(super) fn ready(&mut self, peer: Ipv4Addr) -> Option<usize> {
        let place = place(peer);
        let hop = &mut self.hops[place];
        if hop.peer != peer || hop.generation != self.shared.generation() {
            return None;
        }
        hop.used_at = self.now;
        Some(place)
    }

    /// The way to a peer, which is asked for if need be.
    #[cold]
    pub(super) fn way(&mut self, peer: Ipv4Addr) -> Way {
        let Some(next) = self.shared.routes.next_hop(peer).filter(|_| self.is_there) else {
            return Way::None;
        };
        let place = place(peer);
        self.report(place);
        let now = self.now;
        let (answer, generation) =
            self.with_resolver(|resolver| (resolver.want(next, now), resolver.generation()));
        match answer {
            Answer::Asking => Way::Unresolved(next),
            Answer::Full => Way::None,
            Answer::Known(mac) => {
                let ethernet = Ethernet { to: mac, from: self.mac, vlan: self.vlan, kind: ethernet::IPV4 };
                let hop = &mut self.hops[place];
                if (hop.peer, hop.mac) != (peer, mac) {
                    hop.heard_at = None;
                }
                *hop = Hop {
                    peer,
                    generation,
                    next,
                    mac,
                    used_at: now,
                    heard_at: hop.heard_at,
                    headers: Headers::new(&ethernet, self.address, peer),
                };
                Way::Ready(place)
            }
        }
    }

    /// Works with the shared table, and sends what it asks for.
    fn with_resolver<R>(&mut self, work: impl FnOnce(&mut Resolver) -> R) -> R {
        let shared = Arc::clone(&self.shared);
        let mut resolver = shared.lock();
        let result = work(&mut resolver);
        while let Some(action) = resolver.next_action() {
            self.act(action);
        }
        shared.generation.store(resolver.generation(), Ordering::Relaxed);
        shared.due_ns.store(resolver.poll_timeout().as_nanos(), Ordering::Relaxed);
        result
    }

    fn act(&mut self, action: Action) {
        let (target, to) = match action {
            Action::Ask { target, to } => (target, to),
            Action::Announce => (self.address, MacAddress::BROADCAST),
        };
        let ask = Arp {
            operation: Operation::Ask,
            sender_mac: self.mac,
            sender: self.address,
            target_mac: MacAddress([0; 6]),
            target,
        };
        self.send_arp(to, &ask);
    }

    fn send_arp(&mut self, to: MacAddress, arp: &Arp) {
        if self.send(to, ethernet::ARP, arp::LEN, |out| arp.emit(out)) {
            self.counters.arp_sent += 1;
        }
    }

    /// Queues a frame of ours with `len` bytes of payload.
    fn send(&mut self, to: MacAddress, kind: u16, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        // Whoever asks for an echo chooses its length.
        let fits = len <= self.most_payload + ipv4::HEADER + udp::HEADER;
        if !fits || self.waiting.len() >= MOST_WAITING_FRAMES {
            self.counters.control_dropped += 1;
            return false;
        }
        let header = Ethernet { to, from: self.mac, vlan: self.vlan, kind };
        let mut frame = vec![0; header.len() + len];
        fill(header.emit(&mut frame));
        self.waiting.push_back(frame);
        true
    }

    fn send_icmp(&mut self, to: MacAddress, host: Ipv4Addr, len: usize, fill: impl FnOnce(&mut [u8])) {
        let total = u16::try_from(ipv4::HEADER + len).expect("a frame is below 64 KiB");
        let mut ip = ipv4::header(ipv4::ICMP, self.address, host);
        let sum = super::checksum::Sum::default().bytes(&ip);
        ipv4::complete(&mut ip, sum, total);
        let sent = self.send(to, ethernet::IPV4, usize::from(total), |out| {
            out[..ipv4::HEADER].copy_from_slice(&ip);
            fill(&mut out[ipv4::HEADER..]);
        });
        self.counters.icmp_sent += u64::from(sent);
    }

    /// The frame of ours that is to be sent next.
    pub(super) fn next_waiting(&self) -> Option<&[u8]> {
        self.waiting.front().map(Vec::as_slice)
    }

    /// That frame was sent.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.pop_front();
    }

    /// What the table has to do by now.
    pub(super) fn handle_timeout(&mut self) {
        let now = self.now;
        if self.shared.due() <= now {
            let changed = self.with_resolver(|resolver| resolver.handle_timeout(now));
            self.counters.arp_learned += u64::from(changed);
        }
    }

    /// Tells the shared table what passed since the last time.
    pub(super) fn report_all(&mut self) {
        for place in 0..HOPS {
            self.report(place);
        }
        self.reported_at = self.now;
    }

    fn report(&mut self, place: usize) {
        let Hop { peer, next, mac, used_at, heard_at, .. } = self.hops[place];
        let is_old = used_at < self.reported_at && heard_at.is_none_or(|at| at < self.reported_at);
        if peer.is_unspecified() || is_old {
            return;
        }
        let heard = self.with_resolver(|resolver| resolver.handle_traffic(next, mac, used_at, heard_at));
        self.count_heard(&heard, next, mac);
    }

    /// The interface is gone: nothing can be sent.
    pub(super) fn handle_gone(&mut self) {
        self.is_there = false;
        self.forget_hops();
        self.waiting.clear();
    }

    /// The interface is another one than before, or has another hardware address.
    pub(super) fn handle_new_interface(&mut self, mac: MacAddress) {
        (self.is_there, self.mac) = (true, mac);
        self.forget_hops();
        let now = self.now;
        self.with_resolver(|resolver| resolver.handle_new_link(mac, now));
    }

    /// The link was down and is up.
    pub(super) fn handle_link_up(&mut self) {
        let now = self.now;
        self.with_resolver(|resolver| resolver.handle_link_up(now));
    }

    fn forget_hops(&mut self) {
        for hop in &mut self.hops {
            hop.peer = Ipv4Addr::UNSPECIFIED;
        }
    }

    /// What became of a frame: a datagram for the engine, or nothing more to do.
    #[inline]
    pub(super) fn handle_frame<'a>(&mut self, frame: &Frame<'a>) -> Option<Arrival<'a>> {
        match self.accept(frame) {
            Ok(arrival) => arrival,
            Err(refusal) => {
                self.count_refusal(refusal);
                None
            }
        }
    }

    #[inline]
    fn accept<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<Arrival<'a>>, Refusal> {
        let (ethernet, payload) = Ethernet::parse(frame.bytes).ok_or(Refusal::Header)?;
        if ethernet.vlan != self.vlan || ethernet.kind != ethernet::IPV4 || ethernet.to != self.mac {
            return self.accept_other(&ethernet, payload).map(|()| None);
        }
        let packet = Packet::parse(payload)?;
        if packet.destination != self.address {
            return Err(Refusal::NotOurs);
        }
        if packet.source == self.address || !self.shared.routes.is_of_one_host(packet.source) {
            return Err(Refusal::Header);
        }
        if packet.protocol != ipv4::UDP {
            return self.accept_icmp(&ethernet, &packet).map(|()| None);
        }
        let datagram = Datagram::parse(&packet, frame.checksum)?;
        if !self.ports.contains(datagram.to) {
            return Err(self.refuse_port(&ethernet, &packet));
        }
        if datagram.payload.len() > self.max_datagram {
            return Err(Refusal::TooLarge);
        }
        let hop = &mut self.hops[place(packet.source)];
        if hop.peer == packet.source && hop.mac == ethernet.from {
            hop.heard_at = Some(self.now);
        }
        let from = SocketAddr::from((packet.source, datagram.from));
        Ok(Some(Arrival { from, to_port: datagram.to, waited: frame.waited, bytes: datagram.payload }))
    }

    #[cold]
    fn accept_other(&mut self, ethernet: &Ethernet, payload: &[u8]) -> Result<(), Refusal> {
        let is_for_us = ethernet.to == self.mac || ethernet.to == MacAddress::BROADCAST;
        // An IP packet to everybody on the link is never for one host (RFC 1122, 3.3.6).
        if ethernet.vlan != self.vlan || ethernet.kind != ethernet::ARP || !is_for_us {
            return Err(Refusal::NotOurs);
        }
        let arp = Arp::parse(payload).ok_or(Refusal::Header)?;
        self.counters.arp_received += 1;
        if arp.sender_mac == self.mac {
            return Ok(());
        }
        let now = self.now;
        let heard = self.with_resolver(|resolver| resolver.handle_arp(&arp, now));
        self.count_heard(&heard, arp.sender, arp.sender_mac);
        if heard.wants_answer {
            let answer = Arp {
                operation: Operation::Answer,
                sender_mac: self.mac,
                sender: self.address,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            self.send_arp(arp.sender_mac, &answer);
        }
        Ok(())
    }

    #[cold]
    fn accept_icmp(&mut self, ethernet: &Ethernet, packet: &Packet<'_>) -> Result<(), Refusal> {
        if packet.protocol != ipv4::ICMP {
            return Err(Refusal::NotOurs);
        }
        let message = Message::parse(packet.payload).ok_or(Refusal::Checksum)?;
        self.counters.icmp_received += 1;
        match message {
            Message::Echo(came) if !self.kernel_answers => {
                let len = came.len() + 4;
                self.send_icmp(ethernet.from, packet.source, len, |out| icmp::emit_echo_answer(out, came));
            }
            Message::FragmentationNeeded => self.counters.icmp_too_large += 1,
            Message::Echo(_) | Message::Other => {}
        }
        Ok(())
    }

    /// A datagram came for a port that is not ours: the kernel's, or nobody's.
    #[cold]
    fn refuse_port(&mut self, ethernet: &Ethernet, packet: &Packet<'_>) -> Refusal {
        if self.kernel_answers {
            return Refusal::NotOurs;
        }
        if self.refusals.take(self.now) {
            let whole = packet.whole;
            let len = icmp::HEADER + icmp::QUOTED;
            self.send_icmp(ethernet.from, packet.source, len, |out| icmp::emit_port_unreachable(out, whole));
        }
        Refusal::NoPort
    }

    #[cold]
    fn count_refusal(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::NotOurs => &mut self.counters.dropped_not_ours,
            Refusal::Header => &mut self.counters.dropped_header,
            Refusal::Fragment => &mut self.counters.dropped_fragment,
            Refusal::Checksum => &mut self.counters.dropped_checksum,
            Refusal::NoPort => &mut self.counters.dropped_no_port,
            Refusal::TooLarge => &mut self.counters.dropped_truncated,
        };
        *counter += 1;
    }

    fn count_heard(&mut self, heard: &Heard, address: Ipv4Addr, mac: MacAddress) {
        self.counters.arp_learned += u64::from(heard.learned);
        self.counters.arp_refused += u64::from(heard.rival);
        self.counters.arp_duplicates += u64::from(heard.duplicate);
        if heard.duplicate && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "the address {address} is also used by {mac}; only one host of a network can have it"
            );
        }
    }
}

/// So many a second, and a few at once.
#[derive(Debug)]
struct Allowance {
    interval: Duration,
    most: Duration,
    /// Up to when all is used up.
    used: Instant,
}

impl Allowance {
    fn new(per_second: u64, at_once: u64) -> Self {
        let interval = Duration::from_nanos(1_000_000_000 / per_second);
        Self { interval, most: interval.times(at_once - 1), used: Instant::ZERO }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.used > now + self.most {
            return false;
        }
        self.used = self.used.max(now) + self.interval;
        true
    }
}
