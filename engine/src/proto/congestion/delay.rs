//! Delay-based control that tolerates random loss.
//!
//! The window grows while the least round trip of a round stays below a target above the path's own delay, and shrinks by
//! the excess when it does not, at most once a round trip (after Swift, SIGCOMM 2020). The target is generous, and the
//! *least* of a round counts, because an engine that has to wait for its CPU delays packets by a millisecond as a queue does.
//!
//! Random loss is repaired, not obeyed. A queue that overflows shows by loss *and* delay: a round with both cuts the window,
//! as does one that lost more than a sixth of its bytes.

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
/// Delay above the least that is always allowed: what a sleeping engine and the scheduler cost.
const LEAST_SLACK: Duration = Duration::from_millis(1);
/// Delay above the least from which on loss is taken for an overflowing queue.
const QUEUE_SLACK: Duration = Duration::from_micros(50);
/// Datagrams by which the window grows in a round trip once it left the start.
const GROWTH_DATAGRAMS: u64 = 2;

/// The controller.
#[derive(Debug, Clone)]
pub struct Delay {
    window: u64,
    /// Below it the window doubles every round trip.
    threshold: u64,
    datagram: u64,
    round_ends: Instant,
    round_least: Option<Duration>,
    round_acked: u64,
    round_lost: u64,
    /// The window was nearly full at some time of this round.
    round_full: bool,
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            window: INITIAL_DATAGRAMS * ASSUMED_DATAGRAM,
            threshold: u64::MAX,
            datagram: ASSUMED_DATAGRAM,
            round_ends: Instant::ZERO,
            round_least: None,
            round_acked: 0,
            round_lost: 0,
            round_full: false,
        }
    }
}

impl Delay {
    fn end_round(&mut self, now: Instant, sample: &AckSample) {
        let target = sample.min_rtt + sample.min_rtt.max(LEAST_SLACK);
        let (acked, lost) = (self.round_acked, self.round_lost);
        let queueing = sample.min_rtt + QUEUE_SLACK.max(Duration::from_nanos(sample.min_rtt.as_nanos() / 2));
        let is_queueing = self.round_least.is_some_and(|least| least > queueing);
        let overflow = lost * 6 > acked + lost || (is_queueing && lost * 50 > acked + lost);
        let late = self.round_least.filter(|&least| least > target);
        if let Some(least) = late {
            // Half the share of the round trip that is queueing, at most 3/10 of the window.
            let excess = least.less(target).as_nanos();
            let cut = (self.window / 2).saturating_mul(excess) / least.as_nanos().max(1);
            self.shrink(cut.min(self.window * 3 / 10));
        } else if overflow {
            self.shrink(self.window * 3 / 10);
        } else if self.round_full && self.window >= self.threshold {
            self.window += GROWTH_DATAGRAMS * self.datagram;
        }
        self.window = self.window.min(MAX_WINDOW);
        self.round_ends = now + sample.smoothed_rtt;
        (self.round_least, self.round_acked, self.round_lost, self.round_full) = (None, 0, 0, false);
    }

    fn shrink(&mut self, bytes: u64) {
        self.window = (self.window - bytes).max(MIN_DATAGRAMS * self.datagram);
        self.threshold = self.window;
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
        self.round_acked += sample.bytes;
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
        self.round_lost += bytes;
    }

    fn on_timeout(&mut self, _now: Instant, datagram: u64) {
        self.threshold = (self.window / 2).max(MIN_DATAGRAMS * datagram);
        self.window = MIN_DATAGRAMS * datagram;
        self.datagram = datagram;
    }
}
