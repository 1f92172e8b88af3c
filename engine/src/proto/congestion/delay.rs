//! Delay-based control that tolerates random loss.
//!
//! The window grows by a few datagrams a round trip. When even the *least* round trip of a round tells of a queue, the window
//! shrinks to what the path holds without one, so the queue drains. All flows of a bottleneck see the same queue and shrink by
//! the same ratio, but grow by the same number of datagrams: that makes them equal (as additive increase, multiplicative
//! decrease does; Chiu and Jain, 1989). The signal is that of Swift (SIGCOMM 2020).
//!
//! A flow that comes late measures a path whose queue the others keep filled, takes that for the path, and would be content
//! with a queue that drives them away. So every few times the window shrinks much deeper, for one round trip: the queue runs
//! empty, and everybody learns what the path is (as Copa, NSDI 2018, lets its queue run empty every few round trips).
//!
//! Random loss is repaired, not obeyed. A queue that overflows shows by loss *and* delay: both together, or the loss of more
//! than a sixth, shrink the window. Loss is judged over enough datagrams that chance does not look like overflow.

use super::{AckSample, Controller};
use crate::proto::time::{Duration, Instant};

/// Window at the start, in datagrams.
const INITIAL_DATAGRAMS: u64 = 32;
/// Bytes of a datagram before the first acknowledgement tells.
const ASSUMED_DATAGRAM: u64 = 1_200;
/// Least window, in datagrams.
const MIN_DATAGRAMS: u64 = 2;
/// Largest window in bytes.
const MAX_WINDOW: u64 = 64 << 20;
/// Delay above the least from which on a round is late. Fewer than the descriptors of a queue at 12 Gb/s (256 of them are
/// 262 us), and more than an interrupt and a cycle of an engine take.
const SLACK: Duration = Duration::from_micros(100);
/// Datagrams by which the window grows in a round trip once it left the start.
const GROWTH_DATAGRAMS: u64 = 4;
/// After so many rounds without a queue the window grows by an eighth more each: the path has much room.
const CALM_ROUNDS: u32 = 4;
/// Each so-manieth time that the window shrinks for a queue, it shrinks to a quarter of what the path holds, for one round.
const DEEP_EVERY: u32 = 4;
/// Loss is judged over so many datagrams.
const JUDGED_DATAGRAMS: u64 = 32;

/// The controller.
#[derive(Debug, Clone)]
pub struct Delay {
    window: u64,
    /// Below it the window doubles every round trip.
    threshold: u64,
    datagram: u64,
    round_ends: Instant,
    round_least: Option<Duration>,
    /// The window was nearly full at some time of this round.
    round_full: bool,
    /// Bytes acknowledged and lost since loss was last judged.
    acked: u64,
    lost: u64,
    /// The packets of this round were sent before the window shrank: they tell of the old one.
    settling: bool,
    /// The window that comes back after a deep cut.
    after_drain: Option<u64>,
    calm_rounds: u32,
    queue_cuts: u32,
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            window: INITIAL_DATAGRAMS * ASSUMED_DATAGRAM,
            threshold: u64::MAX,
            datagram: ASSUMED_DATAGRAM,
            round_ends: Instant::ZERO,
            round_least: None,
            round_full: false,
            acked: 0,
            lost: 0,
            settling: false,
            after_drain: None,
            calm_rounds: 0,
            queue_cuts: 0,
        }
    }
}

impl Delay {
    fn end_round(&mut self, now: Instant, sample: &AckSample) {
        let was_settling = core::mem::take(&mut self.settling);
        if let Some(window) = self.after_drain.take() {
            self.set_window(window);
            self.threshold = self.window;
        } else if !was_settling && let Some(least) = self.round_least {
            self.judge(least.as_nanos(), sample.min_rtt.as_nanos());
        }
        if self.acked + self.lost >= JUDGED_DATAGRAMS * self.datagram {
            (self.acked, self.lost) = (0, 0);
        }
        self.round_ends = now + sample.smoothed_rtt;
        (self.round_least, self.round_full) = (None, false);
    }

    /// What a round says whose least round trip was `least_ns`, over a path that takes `path_ns` when nobody queues.
    fn judge(&mut self, least_ns: u64, path_ns: u64) {
        let queue_ns = least_ns.saturating_sub(path_ns);
        let slack_ns = SLACK.as_nanos();
        let total = self.acked + self.lost;
        let judged = total >= JUDGED_DATAGRAMS * self.datagram;
        let overflows = judged && self.lost * 50 > total && queue_ns > slack_ns / 4;
        if judged && self.lost * 6 > total {
            self.shrink_to(self.window - self.window.saturating_mul(self.lost) / total);
        } else if queue_ns > slack_ns || overflows {
            self.drain(least_ns, path_ns);
        } else if self.round_full && self.window >= self.threshold {
            let calm = if self.calm_rounds > CALM_ROUNDS { self.window / 8 } else { 0 };
            self.set_window(self.window + GROWTH_DATAGRAMS * self.datagram + calm);
        }
        self.calm_rounds = if queue_ns < slack_ns / 4 { self.calm_rounds.saturating_add(1) } else { 0 };
    }

    /// Shrinks to what the path holds without a queue; now and then deeper, so that nothing of the queue is left.
    fn drain(&mut self, least_ns: u64, path_ns: u64) {
        let held = self.window.saturating_mul(path_ns) / least_ns.max(1);
        self.queue_cuts = self.queue_cuts.wrapping_add(1);
        if self.queue_cuts.is_multiple_of(DEEP_EVERY) {
            self.after_drain = Some(held);
            self.shrink_to(held / 4);
        } else {
            // A little more, because a window of a few datagrams is a coarse measure.
            self.shrink_to(held + self.datagram);
        }
    }

    fn shrink_to(&mut self, window: u64) {
        self.set_window(window);
        self.threshold = self.window;
        self.settling = true;
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(MIN_DATAGRAMS * self.datagram, MAX_WINDOW);
    }
}

impl Controller for Delay {
    fn window(&self) -> u64 {
        self.window
    }

    fn on_ack(&mut self, now: Instant, sample: &AckSample) {
        if sample.datagram > self.datagram {
            // The path proved to take larger datagrams: the same number of them is as polite as before.
            let grown = self.window / self.datagram * sample.datagram;
            self.window = grown.min(INITIAL_DATAGRAMS * sample.datagram).max(self.window);
            self.datagram = sample.datagram;
        }
        self.acked += sample.bytes;
        self.round_full |= sample.in_flight * 4 >= self.window * 3;
        if let Some(rtt) = sample.rtt {
            self.round_least = Some(self.round_least.map_or(rtt, |least| least.min(rtt)));
        }
        if self.window < self.threshold && self.round_full {
            self.window = (self.window + sample.bytes).min(MAX_WINDOW);
        }
        if now >= self.round_ends {
            self.end_round(now, sample);
        }
    }

    fn on_loss(&mut self, _now: Instant, bytes: u64) {
        self.lost += bytes;
    }

    fn on_timeout(&mut self, _now: Instant, datagram: u64) {
        self.threshold = (self.window / 2).max(MIN_DATAGRAMS * datagram);
        self.window = MIN_DATAGRAMS * datagram;
        self.datagram = datagram;
        (self.after_drain, self.settling) = (None, false);
    }
}
