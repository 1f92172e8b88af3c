//! A window that never changes: for tests and comparison.

use super::{AckSample, Controller};
use crate::proto::time::Instant;

/// A fixed window of so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Fixed(pub u64);

impl Controller for Fixed {
    fn window(&self) -> u64 {
        self.0
    }
    fn on_ack(&mut self, _now: Instant, _sample: &AckSample) {}
    fn on_loss(&mut self, _now: Instant, _bytes: u64) {}
    fn on_timeout(&mut self, _now: Instant, _datagram: u64) {}
}
