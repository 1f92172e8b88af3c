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

/// Nanoseconds of the wall clock since 1970, which the kernel stamps datagrams with. It may be set, also backwards.
#[inline]
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn wall_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
