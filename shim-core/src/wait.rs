//! How a blocking call waits: the steps of [`crate::waiting`], by the clock, the last of them a sleep on the doorbell.

use crate::waiting::{Step, Waiting};
use std::time::{Duration, Instant};

/// How a blocking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitPolicy {
    /// Looks on while that helps nobody else's work to wait, else yields, then sleeps on the doorbell.
    #[default]
    Auto,
    /// Never sleeps: for a thread with a CPU of its own.
    Spin,
    /// Gives the CPU away between looks, never sleeps.
    Yield,
    /// Sleeps on the doorbell at once.
    Block,
}

/// Without anything for so long, a call sleeps. A wake-up costs up to a quarter of it.
const PATIENCE: Duration = Duration::from_micros(200);
/// Looks between two checks whether the sidecar is still there, for those that never sleep.
const STEPS_PER_CHECK: u32 = 4096;

/// How the calls of one channel wait, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    waiting: Waiting,
    steps: u32,
    origin: Instant,
}

impl Idle {
    /// A channel on which nobody waited yet.
    pub(crate) fn new(policy: WaitPolicy) -> Self {
        Self { waiting: Waiting::new(policy, PATIENCE, Waiting::cpus()), steps: 0, origin: now() }
    }

    /// What to do next.
    pub(crate) fn step(&mut self) -> Step {
        self.steps = self.steps.wrapping_add(1);
        let origin = self.origin;
        self.waiting.step(|| nanos_since(origin))
    }

    /// Whether it is time to ask if the sidecar is still there.
    pub(crate) fn must_check(&self) -> bool {
        self.steps.is_multiple_of(STEPS_PER_CHECK)
    }

    /// Lets others run, and notices how long that took.
    pub(crate) fn yield_now(&mut self) {
        let before = nanos_since(self.origin);
        std::thread::yield_now();
        self.waiting.yielded(before, nanos_since(self.origin));
    }

    /// The wait is over: something was found, or the thread slept.
    pub(crate) fn ended(&mut self) {
        self.waiting.ended();
    }
}

/// Never 0.
fn nanos_since(origin: Instant) -> u64 {
    u64::try_from(now().duration_since(origin).as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

/// When a wait gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout` from now; `None` is never.
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| now().checked_add(timeout)))
    }

    /// What is left; `None` is for ever.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now()))
    }

    /// Whether it is over.
    pub(crate) fn is_past(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }
}

#[expect(clippy::disallowed_methods, reason = "waiting is about real time; no logic depends on it")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_nothing_is_past_and_none_never_is() {
        assert!(Deadline::after(Some(Duration::ZERO)).is_past());
        assert!(!Deadline::after(None).is_past());
        assert!(!Deadline::after(Some(Duration::MAX)).is_past());
    }
}
