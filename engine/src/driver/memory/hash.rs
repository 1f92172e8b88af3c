//! The hash of an LCD NIC: Toeplitz with a random key and an indirection table, none of which can be read or set (paper,
//! section 3.1). What a NIC computes is what Microsoft's "RSS hashing types" specifies; who drives it sees only the queue.
//!
//! ```text
//!   input   source address | destination address | source port | destination port     big endian
//!   hash    exclusive or of key[i .. i + 32] for every bit i of the input that is 1
//!   queue   table[hash % 128]
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Bytes of the key: enough for two IPv6 addresses and two ports, and 32 bits behind the last.
const KEY_BYTES: usize = 40;

/// Bytes of the longest input.
const MOST_INPUT_BYTES: usize = 36;

/// Entries of the indirection table.
const TABLE_ENTRIES: usize = 128;

/// Most queues: each has an entry of the table at least.
pub const MOST_QUEUES: usize = TABLE_ENTRIES;

/// Which queue of a NIC a datagram arrives at. Nothing of it can be read, not even in debug output.
#[derive(Clone)]
pub struct OpaqueHash {
    key: [u8; KEY_BYTES],
    table: [u8; TABLE_ENTRIES],
    queues: usize,
}

impl OpaqueHash {
    /// The hash of a NIC with so many queues, whose key follows from the seed. The table goes round the queues, as drivers
    /// fill it.
    pub fn new(seed: [u64; 2], queues: usize) -> Self {
        assert!((1..=MOST_QUEUES).contains(&queues), "a NIC has 1 to {MOST_QUEUES} queues, not {queues}");
        let mut table = [0; TABLE_ENTRIES];
        for (entry, queue) in table.iter_mut().zip((0..=u8::MAX).take(queues).cycle()) {
            *entry = queue;
        }
        Self { key: random_key(seed), table, queues }
    }

    /// How many queues there are.
    pub fn queues(&self) -> usize {
        self.queues
    }

    /// The queue for a datagram, both ends as they stand in its headers.
    pub fn queue(&self, from: SocketAddr, to: SocketAddr) -> usize {
        if self.queues == 1 {
            return 0;
        }
        let mut input = [0; MOST_INPUT_BYTES];
        let length = lay_out(from, to, &mut input);
        let entry = toeplitz(&self.key, &input[..length]) as usize % TABLE_ENTRIES;
        usize::from(self.table[entry])
    }
}

impl fmt::Debug for OpaqueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaqueHash").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// Any bytes that follow from the seed (SplitMix64 of its halves).
fn random_key(seed: [u64; 2]) -> [u8; KEY_BYTES] {
    let mut state = seed[0] ^ seed[1].rotate_left(32);
    let mut key = [0; KEY_BYTES];
    for (index, chunk) in key.chunks_exact_mut(8).enumerate() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state ^ seed[index % 2];
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    key
}

/// Addresses of two families, which no datagram has, count as one of no address.
fn lay_out(from: SocketAddr, to: SocketAddr, input: &mut [u8; MOST_INPUT_BYTES]) -> usize {
    let address_bytes = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            input[..4].copy_from_slice(&from.octets());
            input[4..8].copy_from_slice(&to.octets());
            8
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            input[..16].copy_from_slice(&from.octets());
            input[16..32].copy_from_slice(&to.octets());
            32
        }
        _ => 0,
    };
    input[address_bytes..address_bytes + 2].copy_from_slice(&from.port().to_be_bytes());
    input[address_bytes + 2..address_bytes + 4].copy_from_slice(&to.port().to_be_bytes());
    address_bytes + 4
}

fn toeplitz(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (index, &byte) in input.iter().enumerate() {
        let window = key[index..].first_chunk::<5>().expect("the key is longer than the input");
        let window = u64::from_be_bytes([0, 0, 0, window[0], window[1], window[2], window[3], window[4]]);
        for bit in 0..8 {
            // All ones for a bit that is 1: no branch that depends on addresses.
            let mask = 0_u32.wrapping_sub(u32::from(byte >> (7 - bit) & 1));
            #[expect(clippy::cast_possible_truncation, reason = "the 32 bits of the key from this bit on")]
            let part = (window >> (8 - bit)) as u32;
            hash ^= part & mask;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the examples of Microsoft's "Verifying the RSS Hash Calculation".
    const KNOWN_KEY: [u8; KEY_BYTES] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn hash_of(from: &str, to: &str) -> u32 {
        let mut input = [0; MOST_INPUT_BYTES];
        let length = lay_out(from.parse().unwrap(), to.parse().unwrap(), &mut input);
        toeplitz(&KNOWN_KEY, &input[..length])
    }

    #[test]
    fn the_published_examples_come_out() {
        assert_eq!(hash_of("66.9.149.187:2794", "161.142.100.80:1766"), 0x51cc_c178);
        assert_eq!(hash_of("199.92.111.2:14230", "65.69.140.83:4739"), 0xc626_b0ea);
        assert_eq!(hash_of("24.19.198.95:12898", "12.22.207.184:38024"), 0x5c2b_394a);
        assert_eq!(hash_of("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766"), 0x4020_7d3d);
    }

    #[test]
    fn every_queue_gets_its_share_and_a_pair_always_the_same() {
        let to: SocketAddr = "10.0.0.1:31580".parse().unwrap();
        for queues in [1, 2, 3, 4, 6, 8, 16] {
            let hash = OpaqueHash::new([7, queues as u64], queues);
            let mut counts = vec![0_usize; queues];
            for port in 1024..1024 + 8192 {
                let from = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
                counts[hash.queue(from, to)] += 1;
                assert_eq!(hash.queue(from, to), hash.clone().queue(from, to));
            }
            let fair = 8192 / queues;
            assert!(counts.iter().all(|&count| count > fair / 2 && count < fair * 2), "{counts:?}");
        }
    }

    #[test]
    fn another_seed_is_another_hash_and_none_shows_its_key() {
        let (one, other) = (OpaqueHash::new([1, 1], 8), OpaqueHash::new([1, 2], 8));
        let to: SocketAddr = "10.0.0.1:31580".parse().unwrap();
        let differs = |port| {
            let from = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
            one.queue(from, to) != other.queue(from, to)
        };
        assert!((1024..1088).any(differs));
        assert_eq!(format!("{one:?}"), "OpaqueHash { queues: 8, .. }");
    }

    #[test]
    fn with_a_power_of_two_the_queue_is_linear_in_the_ports() {
        // The property that a learned hash relies on: queue(a ^ b ^ c) = queue(a) ^ queue(b) ^ queue(c).
        let hash = OpaqueHash::new([3, 4], 8);
        let queue = |port: u16| hash.queue(([10, 0, 0, 2], port).into(), ([10, 0, 0, 1], 9).into());
        for port in 1024..2048_u16 {
            let (a, b) = (port.rotate_left(3), port.wrapping_mul(77));
            assert_eq!(queue(port ^ a ^ b), queue(port) ^ queue(a) ^ queue(b));
        }
    }
}
