//! Queues in one process: a network without a network, for benches, for tests and for several engines in one program.
//!
//! [`MemoryNetwork`] is a small switch. Each host has one or several receive queues of [`DESCRIPTORS`] datagrams, chosen by an
//! opaque hash ([`OpaqueHash`]); what does not fit is dropped and counted by the sender, who in a real network would not know. A datagram crosses by an exchange of frames, so
//! its cost hardly depends on its length.

mod hash;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::hash::{MOST_QUEUES, OpaqueHash};
use super::{Arrival, Driver, DriverCounters};
pub use crate::frames::DESCRIPTORS;
use crate::frames::{self, Frame, Receiver, Sender};
use crate::proto::PortRange;
use crate::proto::time::Duration;

/// Largest UDP payload on Ethernet with its usual MTU of 1,500 bytes over IPv4.
pub const DEFAULT_MAX_DATAGRAM: usize = 1_472;

/// Largest `max_datagram` that a network may have: what UDP over IPv4 can carry.
pub const LARGEST_MAX_DATAGRAM: usize = 65_507;

/// Makes the ports of a network in memory.
#[derive(Debug)]
pub struct MemoryNetwork;

/// One host of a network in memory: a network card that is an LCD NIC (paper, section 3.1). It hashes and drops, nothing else.
#[derive(Clone, Copy, Debug)]
pub struct MemoryHost {
    /// Its IP address, and the UDP port that its drivers name as theirs: the first of `ports`.
    pub ip: IpAddr,
    /// The UDP ports that it sends from and receives at.
    pub ports: PortRange,
    /// Its receive queues: one for each engine.
    pub queues: usize,
}

impl MemoryNetwork {
    /// One driver for each of `addresses`, in their order, that reach each other; a port reaches itself, too. The addresses
    /// must differ. Datagrams have up to `max_datagram` bytes.
    pub fn open(addresses: &[SocketAddr], max_datagram: usize) -> Vec<MemoryDriver> {
        let host = |address: &SocketAddr| {
            let ports = PortRange::only(address.port());
            MemoryHost { ip: address.ip(), ports, queues: 1 }
        };
        let hosts: Vec<_> = addresses.iter().map(host).collect();
        Self::open_hosts(&hosts, max_datagram, [0; 2]).into_iter().flatten().collect()
    }

    /// For each of `hosts`, one driver for each of its queues. Which queue a datagram arrives at is decided by a hash of
    /// addresses and ports whose key follows from the seed, another one for each host, and can be read by nobody.
    pub fn open_hosts(hosts: &[MemoryHost], max_datagram: usize, seed: [u64; 2]) -> Vec<Vec<MemoryDriver>> {
        assert!(
            (1..=LARGEST_MAX_DATAGRAM).contains(&max_datagram),
            "no UDP network has datagrams of {max_datagram}"
        );
        for (index, host) in hosts.iter().enumerate() {
            let is_same = |other: &MemoryHost| {
                other.ip == host.ip && host.ports.ports().any(|port| other.ports.contains(port))
            };
            assert!(!hosts[..index].iter().any(is_same), "{} is given twice", host.address());
        }
        let (mut nics, mut queues, mut receivers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, host) in (0_u64..).zip(hosts) {
            let hash = |generation: u64| {
                OpaqueHash::new([seed[0] ^ number << 8, seed[1].wrapping_add(generation)], host.queues)
            };
            let hashes = (0..HASHES as u64).map(hash).collect();
            nics.push(Nic { host: *host, first_queue: queues.len(), hashes });
            for _ in 0..host.queues {
                let (sender, receiver) = frames::ring(max_datagram);
                queues.push(sender);
                receivers.push((*host, receiver));
            }
        }
        let kind = Kind::Switch(nics);
        let wiring = Arc::new(Wiring { kind, queues, generation: AtomicUsize::new(0) });
        let mut drivers = receivers
            .into_iter()
            .map(|(host, incoming)| MemoryDriver::new(host, max_datagram, Arc::clone(&wiring), incoming));
        hosts.iter().map(|host| drivers.by_ref().take(host.queues).collect()).collect()
    }

    /// A driver to which everything that it sends comes back, as if from the address that it was sent to. An engine that
    /// connects to itself, or to any other address, meets itself.
    pub fn loop_back(address: SocketAddr, max_datagram: usize) -> MemoryDriver {
        let (sender, incoming) = frames::ring(max_datagram);
        let wiring = Wiring { kind: Kind::LoopBack, queues: vec![sender], generation: AtomicUsize::new(0) };
        let host = MemoryHost { ip: address.ip(), ports: PortRange::only(address.port()), queues: 1 };
        MemoryDriver::new(host, max_datagram, Arc::new(wiring), incoming)
    }
}

impl MemoryHost {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.ports.first())
    }
}

/// Hashes of one card, so many rehashings apart; then they come again.
const HASHES: usize = 4;

/// Who is connected to whom.
#[derive(Debug)]
struct Wiring {
    kind: Kind,
    /// The receive queues of all hosts.
    queues: Vec<Sender>,
    /// How often the cards hashed anew.
    generation: AtomicUsize,
}

#[derive(Debug)]
enum Kind {
    Switch(Vec<Nic>),
    LoopBack,
}

#[derive(Debug)]
struct Nic {
    host: MemoryHost,
    first_queue: usize,
    hashes: Vec<OpaqueHash>,
}

impl Wiring {
    /// The receive queue for datagrams that go this way.
    fn queue(&self, way: &Way) -> Option<usize> {
        match &self.kind {
            Kind::Switch(nics) => {
                let takes = |nic: &&Nic| nic.host.ip == way.to.ip() && nic.host.ports.contains(way.to.port());
                let nic = nics.iter().find(takes)?;
                Some(nic.first_queue + nic.hashes[way.generation % HASHES].queue(way.from, way.to))
            }
            Kind::LoopBack => Some(0),
        }
    }
}

/// What decides where a datagram arrives, and the receive queue where that is.
#[derive(Clone, Copy, Debug)]
struct Way {
    from_port: u16,
    from: SocketAddr,
    to: SocketAddr,
    generation: usize,
    queue: Option<usize>,
}

/// One queue pair of a host of a [`MemoryNetwork`].
#[derive(Debug)]
pub struct MemoryDriver {
    address: SocketAddr,
    ports: PortRange,
    max_datagram: usize,
    wiring: Arc<Wiring>,
    incoming: Receiver,
    /// The transmit queue: frames, of which the first `queued` are full, and the receive queue that each goes to.
    frames: Box<[Frame]>,
    targets: Box<[Option<usize>]>,
    queued: usize,
    lent: Option<usize>,
    /// Most datagrams go where the one before went.
    last: Way,
    counters: DriverCounters,
}

impl MemoryDriver {
    fn new(host: MemoryHost, max_datagram: usize, wiring: Arc<Wiring>, incoming: Receiver) -> Self {
        let address = host.address();
        let from_port = address.port();
        let last = Way { from_port, from: address, to: address, generation: 0, queue: None };
        let last = Way { queue: wiring.queue(&last), ..last };
        Self {
            address,
            ports: host.ports,
            max_datagram,
            wiring,
            incoming,
            frames: (0..DESCRIPTORS).map(|_| Frame::new(max_datagram)).collect(),
            targets: vec![None; DESCRIPTORS].into_boxed_slice(),
            queued: 0,
            lent: None,
            last,
            counters: DriverCounters::default(),
        }
    }

    #[cold]
    fn look_up(&mut self, from_port: u16, to: SocketAddr, generation: usize) {
        let from = SocketAddr::new(self.address.ip(), from_port);
        self.last = Way { from_port, from, to, generation, queue: None };
        self.last.queue = self.wiring.queue(&self.last);
    }

    /// From now on every network card of the network hashes with another key, as after a live migration.
    pub fn rehash(&self) {
        self.wiring.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl Driver for MemoryDriver {
    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn max_datagram(&self) -> usize {
        self.max_datagram
    }

    fn ports(&self) -> PortRange {
        self.ports
    }

    fn receive_ports(&self) -> PortRange {
        self.ports
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&Arrival<'_>)) -> io::Result<usize> {
        let handed = self.incoming.receive(|frame| {
            let (from, to_port, bytes) = (frame.from, frame.to_port, frame.datagram());
            each(&Arrival { from, to_port, waited: Duration::ZERO, bytes });
        });
        self.counters.datagrams_received += handed as u64;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        assert!(len <= self.max_datagram, "a datagram of {len} bytes on a path for {}", self.max_datagram);
        if self.queued == DESCRIPTORS {
            return None;
        }
        let generation = self.wiring.generation.load(Ordering::Relaxed);
        if (self.last.from_port, self.last.generation) != (from_port, generation) || self.last.to != to {
            self.look_up(from_port, to, generation);
        }
        let frame = &mut self.frames[self.queued];
        frame.from = match self.wiring.kind {
            Kind::Switch(_) => self.last.from,
            Kind::LoopBack => to,
        };
        frame.to_port = to.port();
        self.targets[self.queued] = self.last.queue;
        self.lent = Some(len);
        Some(&mut frame.bytes[..len])
    }

    #[inline]
    fn commit(&mut self, len: usize) {
        let lent_len = self.lent.take().expect("a datagram is lent before it is committed");
        assert!(len <= lent_len, "{len} bytes committed of {lent_len} lent");
        self.frames[self.queued].len = u32::try_from(len).expect("UDP payloads are below 64 KiB");
        self.queued += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        let queued = std::mem::take(&mut self.queued);
        let mut start = 0;
        // Neighbours with one target cross in one burst.
        for neighbours in self.targets[..queued].chunk_by(|one, next| one == next) {
            let frames = &mut self.frames[start..start + neighbours.len()];
            start += neighbours.len();
            let Some(queue) = neighbours[0] else {
                self.counters.dropped_error += frames.len() as u64;
                continue;
            };
            let taken = self.wiring.queues[queue].exchange(frames);
            self.counters.datagrams_sent += taken as u64;
            self.counters.dropped_queue_full += (frames.len() - taken) as u64;
        }
        Ok(())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}
