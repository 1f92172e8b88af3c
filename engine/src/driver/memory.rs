//! Queues in one process: a network without a network, for benches, for tests and for several engines in one program.
//!
//! [`MemoryNetwork`] is a small switch. Each port has a receive queue of [`DESCRIPTORS`] datagrams; what does not fit is
//! dropped and counted by the sender, who in a real network would not know. A datagram crosses by an exchange of frames, so
//! its cost hardly depends on its length.

mod hash;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use self::hash::{MOST_QUEUES, OpaqueHash};
use super::{Driver, DriverCounters};
pub use crate::frames::DESCRIPTORS;
use crate::frames::{self, Frame, Receiver, Sender};

/// Largest UDP payload on Ethernet with its usual MTU of 1,500 bytes over IPv4.
pub const DEFAULT_MAX_DATAGRAM: usize = 1_472;

/// Largest `max_datagram` that a network may have: what UDP over IPv4 can carry.
pub const LARGEST_MAX_DATAGRAM: usize = 65_507;

/// Makes the ports of a network in memory.
#[derive(Debug)]
pub struct MemoryNetwork;

impl MemoryNetwork {
    /// One driver for each of `addresses`, in their order, that reach each other; a port reaches itself, too. The addresses
    /// must differ. Datagrams have up to `max_datagram` bytes.
    pub fn open(addresses: &[SocketAddr], max_datagram: usize) -> Vec<MemoryDriver> {
        assert!(
            (1..=LARGEST_MAX_DATAGRAM).contains(&max_datagram),
            "no UDP network has datagrams of {max_datagram}"
        );
        for (index, address) in addresses.iter().enumerate() {
            assert!(!addresses[..index].contains(address), "{address} is given twice");
        }
        let (senders, receivers): (Vec<_>, Vec<_>) =
            addresses.iter().map(|_| frames::ring(max_datagram)).unzip();
        let ports = addresses.iter().copied().zip(senders).collect();
        let wiring = Arc::new(Wiring::Switch(ports));
        let drivers = addresses.iter().zip(receivers);
        drivers
            .map(|(address, incoming)| {
                MemoryDriver::new(*address, max_datagram, Arc::clone(&wiring), incoming)
            })
            .collect()
    }

    /// A driver to which everything that it sends comes back, as if from the address that it was sent to. An engine that
    /// connects to itself, or to any other address, meets itself.
    pub fn loop_back(address: SocketAddr, max_datagram: usize) -> MemoryDriver {
        let (sender, incoming) = frames::ring(max_datagram);
        MemoryDriver::new(address, max_datagram, Arc::new(Wiring::LoopBack(sender)), incoming)
    }
}

/// Who is connected to whom.
#[derive(Debug)]
enum Wiring {
    Switch(Vec<(SocketAddr, Sender)>),
    LoopBack(Sender),
}

impl Wiring {
    /// The receive queue for datagrams to `to`. Ports with several queues would pick one by an opaque hash here.
    fn queue(&self, to: SocketAddr) -> Option<usize> {
        match self {
            Self::Switch(ports) => ports.iter().position(|(address, _)| *address == to),
            Self::LoopBack(_) => Some(0),
        }
    }

    fn sender(&self, queue: usize) -> &Sender {
        match self {
            Self::Switch(ports) => &ports[queue].1,
            Self::LoopBack(sender) => sender,
        }
    }
}

/// One port of a [`MemoryNetwork`]: a transmit and a receive queue.
#[derive(Debug)]
pub struct MemoryDriver {
    address: SocketAddr,
    max_datagram: usize,
    wiring: Arc<Wiring>,
    incoming: Receiver,
    /// The transmit queue: frames, of which the first `queued` are full, and the receive queue that each goes to.
    frames: Box<[Frame]>,
    targets: Box<[Option<usize>]>,
    queued: usize,
    lent: Option<usize>,
    /// The last destination with its queue: most datagrams go where the one before went.
    last: (SocketAddr, Option<usize>),
    counters: DriverCounters,
}

impl MemoryDriver {
    fn new(address: SocketAddr, max_datagram: usize, wiring: Arc<Wiring>, incoming: Receiver) -> Self {
        let last = (address, wiring.queue(address));
        Self {
            address,
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
}

impl Driver for MemoryDriver {
    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn max_datagram(&self) -> usize {
        self.max_datagram
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(SocketAddr, u16, &[u8])) -> io::Result<usize> {
        let handed = self.incoming.receive(|frame| each(frame.from, frame.to_port, frame.datagram()));
        self.counters.datagrams_received += handed as u64;
        Ok(handed)
    }

    #[inline]
    fn lend(&mut self, _from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        assert!(len <= self.max_datagram, "a datagram of {len} bytes on a path for {}", self.max_datagram);
        if self.queued == DESCRIPTORS {
            return None;
        }
        if self.last.0 != to {
            self.last = (to, self.wiring.queue(to));
        }
        let frame = &mut self.frames[self.queued];
        frame.from = match *self.wiring {
            Wiring::Switch(_) => self.address,
            Wiring::LoopBack(_) => to,
        };
        frame.to_port = to.port();
        self.targets[self.queued] = self.last.1;
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
            let taken = self.wiring.sender(queue).exchange(frames);
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
