//! A map of the network card's hash, learned by looking where packets land: only ever a hint.
//!
//! Toeplitz hashing is linear over GF(2). With a power of two of queues, dealt out in turn, each bit of the queue's number is the
//! parity of some address and port bits. So each packet whose queue is known is a linear equation, and a few dozen of them
//! foretell where others will land; the key itself stays unknown. Where the equations contradict each other (3 or 6 queues, a
//! hash of another kind, a card that was given another key) the map starts anew, and after some times gives up for good.

use super::ports::{Pair, PortRange};
use super::rng::Rng;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Equations that only confirmed what others said before the map foretells anything.
const LEAST_CONFIRMED: u32 = 8;
/// So many confirmations show that an earlier contradiction was a change of the card's key, not of kind.
const TRUSTED: u32 = 64;
/// Contradictions before the map gives up.
const MOST_CONTRADICTIONS: u32 = 8;
/// Packets that are remembered, because the same one once more confirms nothing.
const REMEMBERED: usize = 64;
/// Pairs that are looked at to find one that lands where it should.
const MOST_DRAWS: u32 = 192;

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
    recent: VecDeque<Bits>,
    /// The last packet's: ports that were never seen have bits of which nothing is known.
    seen: Pair,
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
        family.seen = pair;
        let bits = Bits::new(ip, pair);
        let is_repeat = family.recent.contains(&bits);
        if !is_repeat {
            family.recent.truncate(REMEMBERED - 1);
            family.recent.push_front(bits);
        }
        let (bits, known) = family.reduce(bits);
        let queue = queue ^ known;
        match bits.pivot() {
            Some(pivot) => {
                let place = family.equations.partition_point(|equation| equation.pivot > pivot);
                family.equations.insert(place, Equation { pivot, bits, queue });
            }
            None if queue == 0 => {
                family.confirmed = family.confirmed.saturating_add(u32::from(!is_repeat));
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
        let family = &self.families[usize::from(ip.is_ipv6())];
        if family.confirmed < LEAST_CONFIRMED {
            return None;
        }
        let mut draw = |round| {
            let drawn = Pair { from: from.draw(rng), to: to.draw(rng) };
            match round % 3 {
                1 if to.contains(family.seen.to) => Pair { to: family.seen.to, ..drawn },
                2 if from.contains(family.seen.from) => Pair { from: family.seen.from, ..drawn },
                _ => drawn,
            }
        };
        (0..MOST_DRAWS).map(&mut draw).find(|pair| self.foretell(ip, *pair) == Some(queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// A card, and packets of a rack's hosts on ports of a range.
    struct Card {
        /// Which bits of address and ports each bit of the hash is the parity of.
        masks: [u64; 7],
        queues: u64,
        rng: Rng,
    }

    impl Card {
        fn new(seed: u64, queues: u64) -> Self {
            let mut rng = Rng::new([seed, queues]);
            Self { masks: [0; 7].map(|_: u64| rng.next_u64()), queues, rng }
        }

        fn draw(&mut self) -> (IpAddr, Pair, u8) {
            let address = 0x0a01_0000 | self.rng.next_u32() & 0xffff;
            let mut port = || 31_580 + u16::try_from(self.rng.below(64)).unwrap();
            let pair = Pair { from: port(), to: port() };
            let input = u64::from(address) << 32 | u64::from(pair.from) << 16 | u64::from(pair.to);
            let bit = |hash: u64, mask: &u64| hash << 1 | u64::from((input & mask).count_ones() % 2);
            // A table of 128 entries goes round the queues.
            let queue = self.masks.iter().fold(0, bit) % self.queues;
            (IpAddr::V4(Ipv4Addr::from_bits(address)), pair, u8::try_from(queue).unwrap())
        }
    }

    #[test]
    fn some_dozens_of_packets_foretell_where_all_others_land() {
        for queues in [2, 4, 8, 16] {
            let (mut told, mut wrong) = (0, 0);
            for seed in 0..50 {
                let (mut card, mut map) = (Card::new(seed, queues), QueueMap::default());
                for _ in 0..64 {
                    let (ip, pair, queue) = card.draw();
                    map.observe(ip, pair, queue);
                }
                for _ in 0..200 {
                    let (ip, pair, queue) = card.draw();
                    if let Some(foretold) = map.foretell(ip, pair) {
                        told += 1;
                        wrong += u32::from(foretold != queue);
                    }
                }
                assert!(!map.has_given_up());
            }
            assert!(told >= 9_900 && wrong == 0, "{queues} queues: {told} told, {wrong} wrong");
        }
    }

    #[test]
    fn a_hash_that_is_not_linear_is_noticed_and_nothing_is_foretold_of_it() {
        for queues in [3, 5, 6, 7] {
            for seed in 0..20 {
                let (mut card, mut map) = (Card::new(seed, queues), QueueMap::default());
                let (mut told, mut looked) = (0, 0);
                while !map.has_given_up() {
                    let (ip, pair, queue) = card.draw();
                    told += u32::from(map.foretell(ip, pair).is_some());
                    map.observe(ip, pair, queue);
                    looked += 1;
                    assert!(looked < 2_000, "{queues} queues, seed {seed}");
                }
                assert!(told < 20, "{queues} queues, seed {seed}: {told} of {looked}");
                // It holds nothing any more, and takes nothing.
                let (ip, pair, queue) = card.draw();
                map.observe(ip, pair, queue);
                assert!(map.families.iter().all(|family| family.equations.capacity() == 0));
            }
        }
    }

    #[test]
    fn a_card_that_gets_another_key_is_learned_anew() {
        let (mut card, mut map) = (Card::new(1, 4), QueueMap::default());
        for key in 0..20 {
            card.masks = Card::new(key, 4).masks;
            for _ in 0..300 {
                let (ip, pair, queue) = card.draw();
                map.observe(ip, pair, queue);
            }
            let (ip, pair, queue) = card.draw();
            assert_eq!(map.foretell(ip, pair), Some(queue), "key {key}");
        }
    }

    #[test]
    fn memory_is_bounded_by_the_bits_that_can_vary() {
        let mut map = QueueMap::default();
        let mut rng = Rng::new([1, 1]);
        for _ in 0..2_000 {
            let bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
            let pair = Pair { from: PortRange::new(1, 65_535).unwrap().draw(&mut rng), to: 7 };
            map.observe(IpAddr::V6(bits.into()), pair, 0);
        }
        assert!(map.families[1].equations.len() <= 161, "128 and 32 bits, and the constant");
    }
}
