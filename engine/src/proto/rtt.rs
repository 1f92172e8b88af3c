//! Round-trip time of a path: smoothed, its variation, and its least (RFC 6298; RFC 9002 section 5).

use super::time::{Duration, Instant};

/// How long a least round-trip time is believed before a new one is measured.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
/// Assumed before the first sample.
const INITIAL_RTT: Duration = Duration::from_millis(2);

/// The estimate.
#[derive(Debug, Clone)]
pub(super) struct Rtt {
    smoothed: Duration,
    variation: Duration,
    latest: Duration,
    /// Least of the last window and of the one that runs.
    least: [Duration; 2],
    window_ends: Instant,
    sampled: bool,
}

impl Rtt {
    pub(super) fn new() -> Self {
        Self {
            smoothed: INITIAL_RTT,
            variation: Duration::from_nanos(INITIAL_RTT.as_nanos() / 2),
            latest: INITIAL_RTT,
            least: [INITIAL_RTT; 2],
            window_ends: Instant::ZERO,
            sampled: false,
        }
    }

    /// A sample, and for how long the peer says that it held the packet. Answers the sample without that time.
    ///
    /// The least time is of whole samples, and what is taken off never goes below it (RFC 9002 section 5.3): both ends
    /// know the time only as of the beginning of their cycle, so a peer can seem to have held a packet for too long.
    pub(super) fn on_sample(&mut self, now: Instant, sample: Duration, held: Duration) -> Duration {
        self.note_least(now, sample);
        let sample = sample.less(held).max(self.least());
        self.latest = sample;
        if !self.sampled {
            self.sampled = true;
            self.smoothed = sample;
            self.variation = Duration::from_nanos(sample.as_nanos() / 2);
            return sample;
        }
        let (smoothed, latest) = (self.smoothed.as_nanos(), sample.as_nanos());
        let off = smoothed.abs_diff(latest);
        self.variation = Duration::from_nanos((self.variation.as_nanos() * 3 + off) / 4);
        self.smoothed = Duration::from_nanos((smoothed * 7 + latest) / 8);
        sample
    }

    fn note_least(&mut self, now: Instant, sample: Duration) {
        if now >= self.window_ends {
            self.least = if self.sampled { [self.least[1], sample] } else { [sample; 2] };
            self.window_ends = now + MIN_RTT_WINDOW;
        } else {
            self.least[1] = self.least[1].min(sample);
        }
    }

    /// Smoothed round-trip time.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// Least round-trip time of the last ten to twenty seconds, or the smoothed one before any sample.
    pub(super) fn least(&self) -> Duration {
        self.least[0].min(self.least[1])
    }

    /// Whether there was a sample.
    pub(super) fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// A packet sent this long before one that was acknowledged is lost (RFC 9002 section 6.1.2: 9/8).
    pub(super) fn loss_delay(&self) -> Duration {
        let longest = self.smoothed.max(self.latest).as_nanos();
        Duration::from_nanos((longest / 8 * 9).max(20_000))
    }

    /// When to probe a silent tail (RFC 9002 section 6.2.1).
    pub(super) fn probe_timeout(&self, max_ack_delay: Duration) -> Duration {
        let slack = self.variation.times(4).max(Duration::from_micros(10));
        self.smoothed + slack + max_ack_delay
    }
}
