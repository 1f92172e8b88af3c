//! The only reader of the clock in the engine.

use crate::proto::time::Instant;

/// A monotonic clock that counts from its own making.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that shows a little more than zero now: zero stays free for "never".
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// Now.
    #[inline]
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn now(&self) -> Instant {
        let passed = std::time::Instant::now().duration_since(self.origin);
        Instant::from_nanos(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).saturating_add(1_000_000))
    }
}
