//! A network in virtual time: hosts at one switch, each with a link of its own. The same seed gives the same run.
//!
//! A datagram waits until its host's transmit queue lets it go, takes the path's delay, may be lost or held back, and waits
//! once more at the switch's port to the receiver, whose queue is bounded: what does not fit is dropped. That port is the
//! bottleneck when several hosts send to one.

pub mod goodput;
pub mod machnet;
pub mod tcp;
pub mod window;

use machnet_engine::proto::rng::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Descriptors of a queue (the LCD NIC of the paper, section 3.1), at the sender and at the bottleneck.
pub const DESCRIPTORS: u64 = 256;
/// Bytes on the wire around an IP packet: Ethernet header, checksum, preamble and gap.
const FRAME_BYTES: u64 = 38;
/// An IP packet of the usual MTU with what is around it.
const FULL_FRAME_BYTES: u64 = 1_500 + FRAME_BYTES;
/// Bytes of a TCP segment on such a path, with the time stamps that every host sends: what 100 % of a link means.
const FULL_SEGMENT_BYTES: u64 = 1_448;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What all hosts of a network have in common.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Rate of each host's link, both ways.
    pub bits_per_second: u64,
    /// Round trip without any queue, half of it each way.
    pub rtt_ns: u64,
    /// Chance of a datagram to be lost, in a million.
    pub loss: u32,
    /// Chance of a datagram to be held back, in a million.
    pub reorder: u32,
    /// Longest that it is held back.
    pub held_ns: u64,
}

impl Path {
    /// A clean path of this rate and round trip.
    pub fn new(bits_per_second: u64, rtt_ns: u64) -> Self {
        Self { bits_per_second, rtt_ns, loss: 0, reorder: 0, held_ns: 0 }
    }

    /// Payload bytes a second of a transport that sends full datagrams at the rate of the link and repeats what is lost.
    pub fn ideal_bytes_per_second(&self) -> u64 {
        let kept = u64::from(1_000_000 - self.loss);
        self.bits_per_second / 8 * FULL_SEGMENT_BYTES / FULL_FRAME_BYTES * kept / 1_000_000
    }
}

/// A host: whatever speaks a protocol over the network.
pub trait Node {
    /// An IP packet's worth of bytes from another host.
    fn handle(&mut self, now_ns: u64, from: usize, bytes: &[u8]);
    /// Time passed until `next_wake`, or the host begins.
    fn wake(&mut self, now_ns: u64);
    /// When `wake` is due.
    fn next_wake(&self) -> Option<u64>;
    /// The next datagram to send and to whom.
    fn poll_transmit(&mut self, now_ns: u64) -> Option<(usize, Vec<u8>)>;
    /// Bytes of an IP packet that `handle` and `poll_transmit` do not carry.
    fn hidden_bytes(&self) -> u64;
    /// Payload bytes that applications of this host received so far.
    fn received_bytes(&self) -> u64;
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// At the switch, before the port of `to`.
    AtPort { from: usize, to: usize, bytes: Vec<u8> },
    /// At its host.
    Arrives { from: usize, to: usize, bytes: Vec<u8> },
    /// The host looks at its timers and at its transmit queue.
    Look { host: usize },
}

/// A link in one direction: until when it is busy.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    busy_until_ns: u64,
}

impl Wire {
    fn waiting_ns(&self, now_ns: u64) -> u64 {
        self.busy_until_ns.saturating_sub(now_ns)
    }

    /// Takes a frame; answers when it has left.
    fn take(&mut self, now_ns: u64, frame_ns: u64) -> u64 {
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + frame_ns;
        self.busy_until_ns
    }
}

/// What happened to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Datagrams that hosts sent.
    pub sent: u64,
    /// Lost on the path.
    pub lost: u64,
    /// Dropped by a full port.
    pub dropped: u64,
}

/// Says of a datagram at the switch, by the time, its receiver and its bytes, whether it is lost.
pub type Eats = Box<dyn FnMut(u64, usize, &[u8]) -> bool>;

/// The network and its hosts.
pub struct Lab<N> {
    path: Path,
    /// The hosts.
    pub nodes: Vec<N>,
    transmit: Vec<Wire>,
    ports: Vec<Wire>,
    happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    next: u64,
    looks: Vec<u64>,
    rng: Rng,
    now_ns: u64,
    /// What happened so far.
    pub totals: Totals,
    /// Asked for every datagram at the switch: `true` loses it.
    pub eats: Option<Eats>,
}

impl<N> std::fmt::Debug for Lab<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("path", &self.path).field("now_ns", &self.now_ns).finish_non_exhaustive()
    }
}

impl<N: Node> Lab<N> {
    /// A network of `nodes`, which begin at time 0.
    pub fn new(path: Path, nodes: Vec<N>, seed: u64) -> Self {
        let hosts = nodes.len();
        let mut lab = Self {
            path,
            nodes,
            transmit: vec![Wire::default(); hosts],
            ports: vec![Wire::default(); hosts],
            happenings: BinaryHeap::new(),
            next: 0,
            looks: vec![u64::MAX; hosts],
            rng: Rng::new([seed, 0]),
            now_ns: 0,
            totals: Totals::default(),
            eats: None,
        };
        for host in 0..hosts {
            lab.look_at(0, host);
        }
        lab
    }

    /// The time.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Lets time pass until `until_ns`, or until `done` says so, or until nothing more will happen.
    pub fn run(&mut self, until_ns: u64, mut done: impl FnMut(&[N]) -> bool) {
        while let Some(Reverse((at_ns, ..))) = self.happenings.peek() {
            if *at_ns > until_ns || done(&self.nodes) {
                break;
            }
            let Some(Reverse((at_ns, _, happening))) = self.happenings.pop() else { break };
            self.now_ns = at_ns;
            self.happen(happening);
        }
        if !done(&self.nodes) {
            self.now_ns = until_ns;
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::AtPort { from, to, bytes } => self.at_port(from, to, bytes),
            Happening::Arrives { from, to, bytes } => {
                self.nodes[to].handle(self.now_ns, from, &bytes);
                self.turn(to);
            }
            Happening::Look { host } => {
                if self.looks[host] == self.now_ns {
                    self.looks[host] = u64::MAX;
                }
                if self.nodes[host].next_wake().is_some_and(|at_ns| at_ns <= self.now_ns) || self.now_ns == 0
                {
                    self.nodes[host].wake(self.now_ns);
                }
                self.turn(host);
            }
        }
    }

    fn at_port(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if self.eats.as_mut().is_some_and(|eats| eats(self.now_ns, to, &bytes)) {
            self.totals.lost += 1;
            return;
        }
        let frame_ns = self.frame_ns(to, bytes.len());
        let full_ns = DESCRIPTORS * self.full_frame_ns();
        let port = &mut self.ports[to];
        if port.waiting_ns(self.now_ns) >= full_ns {
            self.totals.dropped += 1;
            return;
        }
        let leaves_ns = port.take(self.now_ns, frame_ns);
        self.push(leaves_ns, Happening::Arrives { from, to, bytes });
    }

    /// The host sends what it has and its transmit queue takes.
    fn turn(&mut self, host: usize) {
        let full_ns = DESCRIPTORS * self.full_frame_ns();
        while self.transmit[host].waiting_ns(self.now_ns) < full_ns {
            let Some((to, bytes)) = self.nodes[host].poll_transmit(self.now_ns) else { break };
            self.totals.sent += 1;
            let frame_ns = self.frame_ns(host, bytes.len());
            let leaves_ns = self.transmit[host].take(self.now_ns, frame_ns);
            if self.chance(self.path.loss) {
                self.totals.lost += 1;
                continue;
            }
            let held_ns =
                if self.chance(self.path.reorder) { self.rng.below(self.path.held_ns.max(1)) } else { 0 };
            let at_ns = leaves_ns + self.path.rtt_ns / 2 + held_ns;
            self.push(at_ns, Happening::AtPort { from: host, to, bytes });
        }
        if self.transmit[host].waiting_ns(self.now_ns) >= full_ns {
            let at_ns = self.transmit[host].busy_until_ns - full_ns / 2;
            self.look_at(at_ns.max(self.now_ns + 1), host);
        }
        if let Some(at_ns) = self.nodes[host].next_wake() {
            self.look_at(at_ns.max(self.now_ns + 1), host);
        }
    }

    fn frame_ns(&self, host: usize, bytes: usize) -> u64 {
        let frame_bytes = bytes as u64 + self.nodes[host].hidden_bytes() + FRAME_BYTES;
        frame_bytes * 8 * NANOS_PER_SECOND / self.path.bits_per_second
    }

    fn full_frame_ns(&self) -> u64 {
        FULL_FRAME_BYTES * 8 * NANOS_PER_SECOND / self.path.bits_per_second
    }

    fn chance(&mut self, in_a_million: u32) -> bool {
        in_a_million > 0 && self.rng.below(1_000_000) < u64::from(in_a_million)
    }

    fn look_at(&mut self, at_ns: u64, host: usize) {
        if at_ns < self.looks[host] {
            self.looks[host] = at_ns;
            self.push(at_ns, Happening::Look { host });
        }
    }

    fn push(&mut self, at_ns: u64, happening: Happening) {
        self.next += 1;
        self.happenings.push(Reverse((at_ns, self.next, happening)));
    }
}
