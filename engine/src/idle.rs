//! How an engine waits when it finds nothing to do: as measured, neither burning a core nor stalling.
//!
//! The rule of `auto`: look on for about a thousand empty cycles if there are CPUs for all that spin; then yield. Watch how
//! long each yield takes, and yield now and then while looking on for the same reason. A short one says that nobody else
//! wants this CPU, one of some microseconds that others take turns here, so that looking on only delays them; a long one that
//! a CPU hog sits here, and the only way to be scheduled soon after a wake-up is to sleep. After some yields in vain sleep
//! anyway. No clock here: times are arguments.

pub use crate::config::IdlePolicy;
use crate::proto::time::Duration;

/// Empty cycles before nothing but yields follow.
const LOOKS: u32 = 1_024;
/// Every so many of them there is a yield: who waits for this CPU, unknown to us, waits no longer.
const LOOKS_PER_YIELD: u32 = 32;
/// Yields in vain before sleeping.
const YIELDS: u32 = 100;
/// A yield that takes longer means that another thread ran on this CPU.
const OTHERS_RAN: Duration = Duration::from_micros(4);
/// A yield that takes longer means that a thread which never sleeps ran on this CPU.
const HOG_RAN: Duration = Duration::from_micros(500);
/// For so many idle times after a hog was seen the engine sleeps at once.
const IDLES_BESIDE_HOG: u32 = 500;
/// For so many idle times after others were seen the engine does not look on before it yields.
const IDLES_BESIDE_OTHERS: u32 = 64;

/// What to do after a cycle that found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Look again.
    Look,
    /// Give the CPU away once, then look again; tell [`Idle::yielded`] how long it took.
    Yield,
    /// Sleep until something comes, and tell [`Idle::slept`].
    Sleep,
}

/// The state between two cycles with work.
#[derive(Clone, Debug)]
pub struct Idle {
    policy: IdlePolicy,
    may_spin: bool,
    looks: u32,
    yields: u32,
    beside_hog: u32,
    beside_others: u32,
}

impl Idle {
    /// `spinners` threads may look on at the same time on `cpus` CPUs.
    pub fn new(policy: IdlePolicy, spinners: usize, cpus: usize) -> Self {
        let may_spin = spinners <= cpus;
        Self { policy, may_spin, looks: 0, yields: 0, beside_hog: 0, beside_others: 0 }
    }

    /// CPUs of the affinity mask, less what the cgroup's quota takes.
    pub fn cpus() -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// The policy.
    pub fn policy(&self) -> IdlePolicy {
        self.policy
    }

    /// A cycle did something.
    #[inline]
    pub fn busy(&mut self) {
        if self.looks | self.yields != 0 {
            self.ends();
        }
    }

    fn ends(&mut self) {
        (self.looks, self.yields) = (0, 0);
        self.beside_hog = self.beside_hog.saturating_sub(1);
        self.beside_others = self.beside_others.saturating_sub(1);
    }

    /// A cycle did nothing: what now?
    #[inline]
    pub fn step(&mut self) -> Step {
        self.looks = self.looks.saturating_add(1);
        match self.policy {
            IdlePolicy::Spin => Step::Look,
            IdlePolicy::Yield => Step::Yield,
            IdlePolicy::Block => Step::Sleep,
            IdlePolicy::Auto if self.beside_hog > 0 => Step::Sleep,
            IdlePolicy::Auto if self.is_looking() => {
                if self.looks.is_multiple_of(LOOKS_PER_YIELD) {
                    Step::Yield
                } else {
                    Step::Look
                }
            }
            IdlePolicy::Auto if self.yields < YIELDS => Step::Yield,
            IdlePolicy::Auto => Step::Sleep,
        }
    }

    fn is_looking(&self) -> bool {
        self.may_spin && self.beside_others == 0 && self.looks < LOOKS
    }

    /// The CPU was given away and came back after `took`.
    pub fn yielded(&mut self, took: Duration) {
        if !self.is_looking() {
            self.yields += 1;
        }
        if took > HOG_RAN {
            self.beside_hog = IDLES_BESIDE_HOG;
        } else if took > OTHERS_RAN {
            self.beside_others = IDLES_BESIDE_OTHERS;
        }
    }

    /// The engine slept.
    pub fn slept(&mut self) {
        self.ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks and yields before a sleep where nobody else wants the CPU.
    const ALL: (u32, u32) = (LOOKS - 1 - (LOOKS / LOOKS_PER_YIELD - 1), LOOKS / LOOKS_PER_YIELD - 1 + YIELDS);

    fn steps_until_sleep(idle: &mut Idle, yield_takes: Duration) -> (u32, u32) {
        let (mut looks, mut yields) = (0, 0);
        for _ in 0..1_000_000 {
            match idle.step() {
                Step::Look => looks += 1,
                Step::Yield => {
                    yields += 1;
                    idle.yielded(yield_takes);
                }
                Step::Sleep => break,
            }
        }
        idle.slept();
        (looks, yields)
    }

    #[test]
    fn auto_looks_then_yields_then_sleeps_where_there_are_cpus() {
        let mut idle = Idle::new(IdlePolicy::Auto, 2, 2);
        assert_eq!(steps_until_sleep(&mut idle, Duration::from_nanos(300)), ALL);
    }

    #[test]
    fn auto_does_not_spin_when_spinners_outnumber_the_cpus() {
        let mut idle = Idle::new(IdlePolicy::Auto, 3, 2);
        assert_eq!(steps_until_sleep(&mut idle, Duration::from_nanos(300)), (0, YIELDS));
    }

    #[test]
    fn a_yield_that_takes_long_makes_auto_sleep_at_once_for_a_while_and_not_for_ever() {
        let mut idle = Idle::new(IdlePolicy::Auto, 1, 2);
        assert_eq!(steps_until_sleep(&mut idle, Duration::from_millis(3)), (LOOKS_PER_YIELD - 1, 1));
        for _ in 1..IDLES_BESIDE_HOG {
            assert_eq!(steps_until_sleep(&mut idle, Duration::ZERO), (0, 0));
        }
        assert_eq!(steps_until_sleep(&mut idle, Duration::ZERO), ALL);
    }

    #[test]
    fn others_on_the_cpu_end_the_spinning_but_not_the_yielding() {
        let mut idle = Idle::new(IdlePolicy::Auto, 1, 2);
        let first = steps_until_sleep(&mut idle, Duration::from_micros(10));
        assert_eq!(first, (LOOKS_PER_YIELD - 1, 1 + YIELDS), "the first yield tells");
        assert_eq!(steps_until_sleep(&mut idle, Duration::from_micros(10)), (0, YIELDS));
    }

    #[test]
    fn spin_and_yield_never_sleep_and_block_always_does() {
        for (policy, step) in [
            (IdlePolicy::Spin, Step::Look),
            (IdlePolicy::Yield, Step::Yield),
            (IdlePolicy::Block, Step::Sleep),
        ] {
            let mut idle = Idle::new(policy, 1, 1);
            for _ in 0..10_000 {
                assert_eq!(idle.step(), step);
            }
        }
    }
}
