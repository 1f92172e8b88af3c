//! What a measurement comes down to, for people and as JSON.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies are counted up to an hour, with three digits.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// An empty histogram of nanoseconds.
pub(crate) fn new_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LONGEST_NS, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

/// Percentiles of latency, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// The percentiles of a histogram of nanoseconds; zeros if it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            min: micros(histogram.min()),
            mean: (histogram.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

/// Nanoseconds as microseconds with at most two digits behind the point.
fn micros(nanos: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an hour in nanoseconds is exact in 53 bits")]
    let tens = (nanos as f64 / 10.0).round();
    tens / 100.0
}

/// What one `machnet bench client` found. `--json` prints it; `machnet demo` reads it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// machnet, tcp or udp.
    pub(crate) over: String,
    /// Whom it talked to.
    pub(crate) peer: String,
    /// Bytes of a message.
    pub(crate) size_bytes: usize,
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Unanswered messages a connection, in the closed loop.
    pub(crate) window: Option<usize>,
    /// Messages a second intended, in the open loop.
    pub(crate) rate: Option<f64>,
    /// How long was measured.
    pub(crate) seconds: f64,
    /// Answers counted.
    pub(crate) messages: u64,
    /// Messages without an answer.
    pub(crate) lost: u64,
    /// Answers that were not what was sent.
    pub(crate) damaged: u64,
    /// Answers a second.
    pub(crate) messages_per_second: f64,
    /// Megabytes (10^6 bytes) a second, each way.
    pub(crate) megabytes_per_second: f64,
    /// From send to answer; in the open loop from the intended time of sending.
    pub(crate) latency_us: Summary,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_recorded_values() {
        let mut histogram = new_histogram();
        for micros in 1..=1000 {
            histogram.record(micros * 1000).unwrap();
        }
        let summary = Summary::of(&histogram);
        let near = |value: f64, expected: f64| (value - expected).abs() <= expected * 0.002;
        assert!(
            near(summary.p50, 500.0) && near(summary.p99, 990.0) && near(summary.p999, 999.0),
            "{summary:?}"
        );
        assert!(
            near(summary.min, 1.0) && near(summary.max, 1000.0) && near(summary.mean, 500.5),
            "{summary:?}"
        );
        assert_eq!(Summary::of(&new_histogram()), Summary::default());
    }
}
