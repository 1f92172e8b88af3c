//! Congestion control behind a small trait. Integers only; bytes are UDP payload bytes.

mod delay;
mod fixed;

pub use delay::Delay;
pub use fixed::Fixed;

use super::time::{Duration, Instant};

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug)]
pub struct AckSample {
    /// Bytes newly acknowledged.
    pub bytes: u64,
    /// A round-trip time without the peer's holding time, if the packet gives one.
    pub rtt: Option<Duration>,
    /// Least round-trip time known.
    pub min_rtt: Duration,
    /// Smoothed round-trip time.
    pub smoothed_rtt: Duration,
    /// Bytes that were in flight before this acknowledgement.
    pub in_flight: u64,
    /// Bytes of a full datagram.
    pub datagram: u64,
}

/// How much of one flow may be in flight.
pub trait Controller: core::fmt::Debug + Send {
    /// Bytes that may be in flight.
    fn window(&self) -> u64;
    /// Packets were acknowledged.
    fn on_ack(&mut self, now: Instant, sample: &AckSample);
    /// Packets of so many bytes were lost.
    fn on_loss(&mut self, now: Instant, bytes: u64);
    /// Several timeouts in a row: nothing is known any more.
    fn on_timeout(&mut self, now: Instant, datagram: u64);
}
