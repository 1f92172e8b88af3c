//! Percentiles of one run, and what many starts come down to.

use hdrhistogram::Histogram;
use std::time::Instant;

/// Latencies of one run, in nanoseconds, with three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, nanos: u64) {
        self.0.record(nanos).expect("a histogram that resizes takes everything");
    }

    /// Counts the time from `before` until now.
    pub fn record_since(&mut self, before: Instant) {
        self.record(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// The latency in nanoseconds that `quantile` of all stay below; 0 of none.
    pub fn at(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { to_f64(self.0.value_at_quantile(quantile)) }
    }

    /// Counts those of another run, too.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("a histogram that resizes takes everything");
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// The middle one of several values; of an even number the mean of the middle two. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (count, half) if count % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a bench are far below 2^53")]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}
