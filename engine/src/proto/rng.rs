//! The core's only randomness: a stream that one 256-bit seed decides.
//!
//! ChaCha-like strength is not needed against a tenant, who never sees the output, but connection identifiers must not be
//! guessed by a stranger on the network, so the stream is `SipHash-2-4` of a counter under the seed.

use core::hash::Hasher;
use siphasher::sip::SipHasher24;

/// A deterministic generator whose output cannot be predicted without the seed.
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u64; 2],
    counter: u64,
}

impl Rng {
    /// A generator that `seed` decides entirely. In production the seed comes from the operating system.
    pub const fn new(seed: [u64; 2]) -> Self {
        Self { key: seed, counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// The next 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is dropped on purpose")]
    pub fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    /// A number below `bound`, which must not be zero. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a random number below zero does not exist");
        self.next_u64() % bound
    }
}
