//! The simulator's own randomness: fast, seeded, and apart from the endpoint's, so that neither disturbs the other.

/// A splitmix64 stream.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

/// Spreads every bit of `value` over all of the result.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Dice {
    /// The stream number `stream` of `seed`.
    pub(crate) const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream.wrapping_add(0x5851_F42D_4C95_7F2D))))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no numbers: {low}..={high}");
        low + self.next() % (high - low).saturating_add(1).max(1)
    }

    /// Each power of two between `low` and `high` as likely as the next.
    pub(crate) fn log_between(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "no logarithm for {low}..={high}");
        let bits = self.between(u64::from(low.ilog2()), u64::from(high.ilog2()));
        let floor = 1_u64 << bits;
        self.between(floor.max(low), (floor * 2 - 1).min(high))
    }

    /// True `parts` times in a million.
    pub(crate) const fn chance(&mut self, parts_per_million: u32) -> bool {
        parts_per_million > 0 && self.next() % 1_000_000 < parts_per_million as u64
    }

    /// One of the values.
    pub(crate) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.between(0, values.len() as u64 - 1) as usize]
    }
}
