//! An Ethernet switch in one process, for tests and benches of what stands above the frames: it hashes to queues by a key that
//! nobody can read, loses what the test wants it to lose, and can be unplugged.

use super::framed::largest_frame;
use super::{Frame, FrameCounters, FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use crate::driver::memory::OpaqueHash;
use crate::driver::{MacAddress, RECEIVE_BURST};
use crate::frames::DESCRIPTORS;
use crate::proto::time::Duration;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::checksum::Sum;
use super::ethernet::{self, Ethernet};

/// Bytes of the shortest frame on a cable; shorter ones are padded.
const SHORTEST: usize = 60;
/// What frames are padded with: nothing may rely on its being zero.
const PADDING: u8 = 0xa5;

/// One interface that is plugged in.
#[derive(Clone, Copy, Debug)]
pub struct Plug {
    /// Its hardware address.
    pub mac: MacAddress,
    /// Bytes of its largest IP packet.
    pub mtu: usize,
    /// Its receive and transmit queues.
    pub queues: usize,
    /// Whether it writes UDP checksums.
    pub completes_checksums: bool,
}

/// What decides whether a frame arrives: its bytes, and the interface that it left.
type Filter = Box<dyn FnMut(usize, &[u8]) -> bool + Send>;

/// The switch, as a test holds it.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Switch>>);

struct Switch {
    ports: Vec<Port>,
    filter: Option<Filter>,
    capture: Option<Vec<Vec<u8>>>,
    /// Memory of frames that were received, to be used again.
    spare: Vec<Vec<u8>>,
}

struct Port {
    plug: Plug,
    link: LinkState,
    /// How often the interface was made.
    generation: u32,
    hash: OpaqueHash,
    /// The queue that the next frame without ports arrives at.
    turn: usize,
    queues: Vec<VecDeque<Vec<u8>>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("interfaces", &self.lock().ports.len()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Plugs interfaces into one switch. Returns the queues of each. The keys of their hashes follow from the seed.
    pub fn open(plugs: &[Plug], seed: u64) -> (Self, Vec<Vec<WireQueue>>) {
        let port = |(number, plug): (u64, &Plug)| Port {
            plug: *plug,
            link: LinkState::Up,
            generation: 0,
            hash: OpaqueHash::new([seed, number], plug.queues),
            turn: 0,
            queues: (0..plug.queues).map(|_| VecDeque::new()).collect(),
        };
        let ports = (0..).zip(plugs).map(port).collect();
        let wire =
            Self(Arc::new(Mutex::new(Switch { ports, filter: None, capture: None, spare: Vec::new() })));
        let queues = plugs.iter().enumerate().map(|(port, plug)| {
            let queue = |queue| WireQueue::new(wire.clone(), port, queue, *plug);
            (0..plug.queues).map(queue).collect()
        });
        let queues = queues.collect();
        (wire, queues)
    }

    fn lock(&self) -> MutexGuard<'_, Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only those frames arrive for which `filter` says so, given the number of the interface that they left.
    pub fn filter(&self, filter: impl FnMut(usize, &[u8]) -> bool + Send + 'static) {
        self.lock().filter = Some(Box::new(filter));
    }

    /// Begins to keep a copy of every frame.
    pub fn capture(&self) {
        self.lock().capture = Some(Vec::new());
    }

    /// The frames since [`Self::capture`], or since the last call.
    pub fn captured(&self) -> Vec<Vec<u8>> {
        self.lock().capture.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Plugs the cable of an interface in or out; what lies in its queues stays.
    pub fn set_up(&self, port: usize, is_up: bool) {
        self.lock().ports[port].link = if is_up { LinkState::Up } else { LinkState::Down };
    }

    /// Removes an interface.
    pub fn remove(&self, port: usize) {
        let port = &mut self.lock().ports[port];
        port.link = LinkState::Gone;
        port.generation += 1;
        port.queues.iter_mut().for_each(VecDeque::clear);
    }

    /// Makes it anew, with another hardware address. Its queues come back to it by [`FrameDriver::reopen`].
    pub fn make_again(&self, port: usize, mac: MacAddress) {
        let port = &mut self.lock().ports[port];
        port.plug.mac = mac;
        port.link = LinkState::Up;
    }

    /// Gives an interface another hardware address while it is in use.
    pub fn set_mac(&self, port: usize, mac: MacAddress) {
        self.lock().ports[port].plug.mac = mac;
    }

    /// Puts a frame into a receive queue of an interface, whomever it is for. `false`: it is full.
    pub fn inject(&self, port: usize, queue: usize, frame: &[u8]) -> bool {
        let queue = &mut self.lock().ports[port].queues[queue];
        if queue.len() < DESCRIPTORS {
            queue.push_back(frame.to_vec());
        }
        queue.len() < DESCRIPTORS
    }
}

impl Switch {
    /// Carries a frame to where it belongs. `false`: a queue there is full.
    fn carry(&mut self, from: usize, frame: &[u8]) -> bool {
        let arrives = self.filter.as_mut().is_none_or(|filter| filter(from, frame));
        if let Some(capture) = &mut self.capture {
            capture.push(frame.to_vec());
        }
        let Some((ethernet, payload)) = Ethernet::parse(frame).filter(|_| arrives) else { return true };
        let mut fits = true;
        for (number, port) in self.ports.iter_mut().enumerate() {
            let is_for = ethernet.to == port.plug.mac || ethernet.to == MacAddress::BROADCAST;
            if number == from || !is_for || port.link != LinkState::Up {
                continue;
            }
            let queue = port.queue(&ethernet, payload);
            let queue = &mut port.queues[queue];
            if queue.len() >= DESCRIPTORS {
                fits = false;
                continue;
            }
            let mut copy = self.spare.pop().unwrap_or_default();
            copy.clear();
            copy.extend_from_slice(frame);
            if copy.len() < SHORTEST {
                copy.resize(SHORTEST, PADDING);
            }
            queue.push_back(copy);
        }
        fits
    }
}

impl Port {
    /// By the hash of addresses and ports; by turns for what has none.
    fn queue(&mut self, ethernet: &Ethernet, payload: &[u8]) -> usize {
        if let Some(header) = payload.first_chunk::<24>().filter(|_| ethernet.kind == ethernet::IPV4) {
            let at = |at: usize, port: usize| {
                let ip = Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
                SocketAddr::from((ip, u16::from_be_bytes([header[port], header[port + 1]])))
            };
            return self.hash.queue(at(12, 20), at(16, 22));
        }
        self.turn = (self.turn + 1) % self.queues.len();
        self.turn
    }
}

/// One queue of an interface of a [`Wire`].
#[derive(Debug)]
pub struct WireQueue {
    wire: Wire,
    port: usize,
    queue: usize,
    plug: Plug,
    generation: u32,
    /// Frames to be sent, of which the first `queued` are.
    transmit: Vec<(Vec<u8>, usize)>,
    queued: usize,
    arrived: Vec<Vec<u8>>,
    counters: FrameCounters,
}

impl WireQueue {
    fn new(wire: Wire, port: usize, queue: usize, plug: Plug) -> Self {
        let frame = || (vec![0; largest_frame(plug.mtu)], 0);
        Self {
            wire,
            port,
            queue,
            plug,
            generation: 0,
            transmit: (0..DESCRIPTORS).map(|_| frame()).collect(),
            queued: 0,
            arrived: Vec::new(),
            counters: FrameCounters::default(),
        }
    }

    fn link_of(&self, switch: &Switch) -> LinkState {
        let port = &switch.ports[self.port];
        if port.generation == self.generation { port.link } else { LinkState::Gone }
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

impl FrameDriver for WireQueue {
    fn mac(&self) -> MacAddress {
        self.plug.mac
    }

    fn mtu(&self) -> usize {
        self.plug.mtu
    }

    fn completes_checksums(&self) -> bool {
        self.plug.completes_checksums
    }

    fn receive(&mut self, mut each: impl FnMut(&Frame<'_>)) -> io::Result<usize> {
        let mut switch = self.wire.lock();
        if self.link_of(&switch) == LinkState::Gone {
            return Err(gone());
        }
        let Switch { ports, spare, .. } = &mut *switch;
        let queue = &mut ports[self.port].queues[self.queue];
        spare.append(&mut self.arrived);
        let count = queue.len().min(RECEIVE_BURST);
        self.arrived.extend(queue.drain(..count));
        drop(switch);
        for bytes in &self.arrived {
            each(&Frame { bytes, checksum: ReceivedChecksum::Unknown, waited: Duration::ZERO });
        }
        self.counters.received += count as u64;
        self.counters.receive_calls += 1;
        Ok(count)
    }

    fn lend(&mut self, len: usize) -> Option<&mut [u8]> {
        let (frame, _) = self.transmit.get_mut(self.queued)?;
        Some(&mut frame[..len])
    }

    fn lent(&mut self, len: usize) -> &mut [u8] {
        &mut self.transmit[self.queued].0[..len]
    }

    fn commit(&mut self, len: usize, checksum: SentChecksum) {
        let (frame, committed) = &mut self.transmit[self.queued];
        if let SentChecksum::ToComplete { udp_at } = checksum {
            let udp = &mut frame[usize::from(udp_at)..len];
            let sum = Sum::default().bytes(udp).checksum();
            udp[6..8].copy_from_slice(&sum);
        }
        *committed = len;
        self.queued += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        let queued = std::mem::take(&mut self.queued);
        let mut switch = self.wire.lock();
        match self.link_of(&switch) {
            LinkState::Up => {}
            LinkState::Down => {
                self.counters.dropped_error += queued as u64;
                return Ok(());
            }
            LinkState::Gone => return Err(gone()),
        }
        for (frame, len) in &self.transmit[..queued] {
            if switch.carry(self.port, &frame[..*len]) {
                self.counters.sent += 1;
            } else {
                self.counters.dropped_queue_full += 1;
            }
        }
        self.counters.send_calls += 1;
        Ok(())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn link(&mut self) -> LinkState {
        let switch = self.wire.lock();
        let link = self.link_of(&switch);
        if link != LinkState::Gone {
            self.plug = switch.ports[self.port].plug;
        }
        link
    }

    fn reopen(&mut self) -> io::Result<()> {
        let switch = self.wire.lock();
        let port = &switch.ports[self.port];
        if port.link == LinkState::Gone {
            return Err(gone());
        }
        (self.generation, self.plug) = (port.generation, port.plug);
        Ok(())
    }

    fn counters(&self) -> FrameCounters {
        self.counters
    }

    fn statistics(&self, each: &mut dyn FnMut(&str, u64)) {
        each("interfaces", self.wire.lock().ports.len() as u64);
    }
}
