//! How a blocking call waits: look a little, then give the CPU away, then sleep on the doorbell.
//!
//! Measured: spinning is fastest with a CPU of one's own and a disaster without (a spinner that outlives its time slice
//! stalls the one it waits for by milliseconds), a yield costs next to nothing when nobody else wants the CPU, and waking a
//! sleeper costs 7 to 8 us.

use crate::shm::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How a blocking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitPolicy {
    /// Spins briefly if there are CPUs for it, then yields, then sleeps on the doorbell.
    #[default]
    Auto,
    /// Never sleeps: for a thread with a CPU of its own.
    Spin,
    /// Gives the CPU away between looks, never sleeps.
    Yield,
    /// Sleeps on the doorbell at once.
    Block,
}

/// What to do until the next look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Look again.
    Spin,
    /// Let others run, then look again.
    Yield,
    /// Arm the doorbell, look again, sleep.
    Sleep,
}

const SPINS: u32 = 1000;
const YIELDS: u32 = 200;
/// A yield that takes longer means that somebody else needs the CPU for long.
const SLOW_YIELD: Duration = Duration::from_micros(500);
/// After one, so many waits sleep at once.
const WAITS_AFTER_SLOW_YIELD: u64 = 500;
/// Looks between two checks whether the sidecar is still there, for those that never sleep.
const STEPS_PER_CHECK: u32 = 4096;

/// What the waits of this process know of each other.
#[derive(Debug)]
struct Process {
    spinners: AtomicU64,
    /// Waits that are still to sleep at once.
    sleep_at_once: AtomicU64,
    cpus: u64,
}

fn process() -> &'static Process {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    PROCESS.get_or_init(|| Process {
        spinners: AtomicU64::new(0),
        sleep_at_once: AtomicU64::new(0),
        // Knows the affinity mask and the cgroup's quota.
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
    })
}

/// One wait's way through the steps.
#[derive(Debug)]
pub(crate) struct Idle {
    policy: WaitPolicy,
    spins: u32,
    yields: u32,
    steps: u32,
    counted: bool,
}

impl Idle {
    /// The beginning of a wait.
    pub(crate) fn new(policy: WaitPolicy) -> Self {
        let mut idle = Self { policy, spins: 0, yields: 0, steps: 0, counted: false };
        if policy == WaitPolicy::Auto {
            idle.begin_auto();
        }
        idle
    }

    fn begin_auto(&mut self) {
        let process = process();
        let left = process.sleep_at_once.load(Ordering::Relaxed);
        if left > 0 {
            process.sleep_at_once.store(left - 1, Ordering::Relaxed); // A hint: a lost decrement does no harm.
            return;
        }
        self.yields = YIELDS;
        self.counted = true;
        let spinners = process.spinners.fetch_add(1, Ordering::Relaxed) + 1;
        // Each spinner has an engine beside it, and often a peer of its own on the same host.
        if process.cpus > 2 * spinners {
            self.spins = SPINS;
        }
    }

    /// What to do next.
    pub(crate) fn step(&mut self) -> Step {
        self.steps = self.steps.wrapping_add(1);
        match self.policy {
            WaitPolicy::Spin => Step::Spin,
            WaitPolicy::Yield => Step::Yield,
            WaitPolicy::Block => Step::Sleep,
            WaitPolicy::Auto if self.spins > 0 => {
                self.spins -= 1;
                Step::Spin
            }
            WaitPolicy::Auto if self.yields > 0 => {
                self.yields -= 1;
                Step::Yield
            }
            WaitPolicy::Auto => {
                self.stop_counting();
                Step::Sleep
            }
        }
    }

    /// Whether it is time to ask if the sidecar is still there.
    pub(crate) fn must_check(&self) -> bool {
        self.steps.is_multiple_of(STEPS_PER_CHECK)
    }

    /// Lets others run, and notices when that took long.
    pub(crate) fn yield_now(&mut self) {
        let before = now();
        std::thread::yield_now();
        if self.policy == WaitPolicy::Auto && now().duration_since(before) > SLOW_YIELD {
            self.yields = 0;
            process().sleep_at_once.store(WAITS_AFTER_SLOW_YIELD, Ordering::Relaxed);
        }
    }

    fn stop_counting(&mut self) {
        if std::mem::take(&mut self.counted) {
            process().spinners.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.stop_counting();
    }
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
    fn auto_ends_in_sleep_and_block_begins_with_it() {
        let mut idle = Idle::new(WaitPolicy::Auto);
        let steps = (0..=SPINS + YIELDS).take_while(|_| idle.step() != Step::Sleep).count();
        assert!(steps <= (SPINS + YIELDS) as usize);
        assert_eq!(idle.step(), Step::Sleep);
        assert_eq!(Idle::new(WaitPolicy::Block).step(), Step::Sleep);
        assert_eq!(Idle::new(WaitPolicy::Spin).step(), Step::Spin);
        assert_eq!(Idle::new(WaitPolicy::Yield).step(), Step::Yield);
    }

    #[test]
    fn a_deadline_of_nothing_is_past_and_none_never_is() {
        assert!(Deadline::after(Some(Duration::ZERO)).is_past());
        assert!(!Deadline::after(None).is_past());
        assert!(!Deadline::after(Some(Duration::MAX)).is_past());
    }
}
