//! A map of the network card's hash, learned by looking where packets land: only ever a hint.
//!
//! Toeplitz hashing is linear over GF(2). With a power of two of queues, dealt out in turn, each bit of the queue's number is the
//! parity of some address and port bits. So each packet whose queue is known is a linear equation, and a few dozen of them
//! foretell where others will land; the key itself stays unknown. Where the equations contradict each other (3 or 6 queues, a
//! hash of another kind, a card that was given another key) the map starts anew, and after some times gives up for good.

use super::ports::{Pair, PortRange};
use super::rng::Rng;
use std::net::IpAddr;

/// Equations that only confirmed what others said before the map foretells anything.
const LEAST_CONFIRMED: u32 = 8;
/// So many confirmations show that an earlier contradiction was a change of the card's key, not of kind.
const TRUSTED: u32 = 64;
/// Contradictions before the map gives up.
const MOST_CONTRADICTIONS: u32 = 8;
/// Pairs that are looked at to find one that lands where it should.
const MOST_DRAWS: u32 = 64;

/// The bits that the card hashes, and a one for its constant: address 128, the peer's port 16, our port 16, one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bits([u64; 3]);

impl Bits {
    fn new(ip: IpAddr, pair: Pair) -> Self {
        let address = match ip {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let (low, high) = (address & u128::from(u64::MAX), address >> 64);
        let rest = u64::from(pair.from) | u64::from(pair.to) << 16 | 1 << 32;
        Self([u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0), rest])
    }

    /// The highest bit that is set.
    fn pivot(self) -> Option<u32> {
        let word = (0..3).rev().find(|word| self.0[*word] != 0)?;
        Some(u32::try_from(word).unwrap_or(0) * 64 + 63 - self.0[word].leading_zeros())
    }

    fn has(self, bit: u32) -> bool {
        self.0[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }

    fn add(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word ^= more;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Equation {
    pivot: u32,
    bits: Bits,
    queue: u8,
}

/// What is known of one family of addresses: cards hash IPv4 and IPv6 differently.
#[derive(Debug, Default)]
struct Family {
    /// Independent equations, highest pivot first.
    equations: Vec<Equation>,
    confirmed: u32,
}

impl Family {
    /// What is left of the bits that no equation explains, and the queue of those that are explained.
    fn reduce(&self, mut bits: Bits) -> (Bits, u8) {
        let mut queue = 0;
        for equation in &self.equations {
            if bits.has(equation.pivot) {
                bits.add(equation.bits);
                queue ^= equation.queue;
            }
        }
        (bits, queue)
    }
}

/// The map.
#[derive(Debug, Default)]
pub(super) struct QueueMap {
    families: [Family; 2],
    contradictions: u32,
}

impl QueueMap {
    /// Whether the hash is of another kind, so that looking on is of no use.
    pub(super) fn has_given_up(&self) -> bool {
        self.contradictions >= MOST_CONTRADICTIONS
    }

    /// A packet from `ip` on `pair` landed at `queue`.
    pub(super) fn observe(&mut self, ip: IpAddr, pair: Pair, queue: u8) {
        if self.has_given_up() {
            return;
        }
        let family = &mut self.families[usize::from(ip.is_ipv6())];
        let (bits, known) = family.reduce(Bits::new(ip, pair));
        let queue = queue ^ known;
        match bits.pivot() {
            Some(pivot) => {
                let place = family.equations.partition_point(|equation| equation.pivot > pivot);
                family.equations.insert(place, Equation { pivot, bits, queue });
            }
            None if queue == 0 => {
                family.confirmed = family.confirmed.saturating_add(1);
                if family.confirmed >= TRUSTED {
                    self.contradictions = 0;
                }
            }
            None => {
                self.contradictions += 1;
                // Nothing of it is good for anything: the memory goes too when there is no next time.
                self.families = Default::default();
            }
        }
    }

    /// Where a packet from `ip` on `pair` will land, if that follows from what was seen.
    pub(super) fn foretell(&self, ip: IpAddr, pair: Pair) -> Option<u8> {
        let family = &self.families[usize::from(ip.is_ipv6())];
        if family.confirmed < LEAST_CONFIRMED {
            return None;
        }
        let (bits, queue) = family.reduce(Bits::new(ip, pair));
        bits.pivot().is_none().then_some(queue)
    }

    /// A pair on which packets from `ip` will land at `queue`, if one is found.
    pub(super) fn pair_to(
        &self,
        ip: IpAddr,
        queue: u8,
        (from, to): (PortRange, PortRange),
        rng: &mut Rng,
    ) -> Option<Pair> {
        if self.families[usize::from(ip.is_ipv6())].confirmed < LEAST_CONFIRMED {
            return None;
        }
        let mut draw = || Pair { from: from.draw(rng), to: to.draw(rng) };
        (0..MOST_DRAWS).map(|_| draw()).find(|pair| self.foretell(ip, *pair) == Some(queue))
    }
}
