//! How to wait for something that another thread brings: the one rule of applications and engines.
//!
//! Measured: looking on is fastest with a CPU of one's own and a disaster without (a spinner that outlives its time slice
//! stalls the one it waits for by milliseconds); a yield costs less than a microsecond when nobody else wants the CPU, and two
//! with a switch each way; waking a sleeper costs 7 to 50 us, most where its CPU has gone to sleep too.
//!
//! So `auto` begins by looking on, and yields every 10 us. How long a yield takes tells who else is there. At once: nobody,
//! look on. Some microseconds: others take turns here and one of them may have what is waited for, so only yield for a while.
//! Longer than a few time slices of those: a thread that never waits sits here, and the only way to be scheduled soon after a
//! wake-up is to sleep. Who waited in vain for long enough sleeps anyway. No clock here: times are arguments.
//!
//! Whoever yields must have the same time slice as the others: to Linux (EEVDF) a yield gives up the rest of a slice, so that
//! of two threads that take turns, the one with the tenfold slice runs every tenth turn.

use crate::wait::WaitPolicy;
use std::time::Duration;

/// A look costs tens of nanoseconds, and so does a look at the clock.
const LOOKS_PER_CLOCK: u32 = 8;
/// After so long there is a yield: who waits for this CPU, unknown to us, waits no longer.
const LOOK_TIME_NS: u64 = 10_000;
/// Yields in vain, at least, before a sleep: where many take turns, each must have had some.
const YIELDS: u32 = 16;
/// A yield that takes longer means that another thread ran on this CPU: two switches take longer, a system call does not.
const OTHERS_RAN_NS: u64 = 1_500;
/// A yield that takes longer means that a thread which does not wait ran on this CPU.
const HOG_RAN_NS: u64 = 500_000;
/// For so many waits after others were seen only yields follow.
const WAITS_BESIDE_OTHERS: u32 = 64;
/// For so many waits after a hog was seen for the first time they sleep at once; each further time twice as many ...
const FIRST_WAITS_BESIDE_HOG: u32 = 16;
/// ... up to so many. A wait without a hog counts one back.
const MOST_WAITS_BESIDE_HOG: u32 = 512;

/// What to do before the next look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing.
    Look,
    /// Give the CPU away once; tell [`Waiting::yielded`] how long it took.
    Yield,
    /// Sleep until something comes.
    Sleep,
}

/// What one waiting thread knows: of this wait, and of those before it.
#[derive(Clone, Debug)]
pub struct Waiting {
    policy: WaitPolicy,
    patience_ns: u64,
    may_look: bool,
    looks: u32,
    yields: u32,
    /// When this wait began to be timed; 0: not yet.
    began_ns: u64,
    /// The end of its last yield, or its beginning.
    yielded_ns: u64,
    beside_others: u32,
    beside_hog: u32,
    /// For so many waits the last hog made it sleep at once.
    hog_waits: u32,
}

impl Waiting {
    /// `auto` sleeps after waiting in vain for `patience`. With one CPU it never looks on without a yield.
    pub fn new(policy: WaitPolicy, patience: Duration, cpus: usize) -> Self {
        Self {
            policy,
            patience_ns: u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX),
            may_look: cpus > 1,
            looks: 0,
            yields: 0,
            began_ns: 0,
            yielded_ns: 0,
            beside_others: 0,
            beside_hog: 0,
            hog_waits: 0,
        }
    }

    /// CPUs of the affinity mask, less what the cgroup's quota takes.
    pub fn cpus() -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// A look found nothing: what now? `now_ns` reads a clock that never shows 0.
    #[inline]
    pub fn step(&mut self, now_ns: impl FnOnce() -> u64) -> Step {
        match self.policy {
            WaitPolicy::Spin => Step::Look,
            WaitPolicy::Yield => Step::Yield,
            WaitPolicy::Block => Step::Sleep,
            WaitPolicy::Auto => self.auto(now_ns),
        }
    }

    fn auto(&mut self, now_ns: impl FnOnce() -> u64) -> Step {
        let is_over = self.yields >= YIELDS && self.yielded_ns - self.began_ns >= self.patience_ns;
        if self.beside_hog > 0 || is_over {
            return Step::Sleep;
        }
        if !self.may_look || self.beside_others > 0 {
            return Step::Yield;
        }
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(LOOKS_PER_CLOCK) {
            return Step::Look;
        }
        let now_ns = now_ns();
        if self.began_ns == 0 {
            (self.began_ns, self.yielded_ns) = (now_ns, now_ns);
        }
        if now_ns.saturating_sub(self.yielded_ns) < LOOK_TIME_NS { Step::Look } else { Step::Yield }
    }

    /// The CPU was given away at one time and came back at another.
    pub fn yielded(&mut self, from_ns: u64, to_ns: u64) {
        if self.began_ns == 0 {
            self.began_ns = from_ns;
        }
        self.yielded_ns = to_ns.max(from_ns);
        self.yields = self.yields.saturating_add(1);
        let took_ns = to_ns.saturating_sub(from_ns);
        if took_ns > HOG_RAN_NS {
            self.hog_waits = (2 * self.hog_waits).clamp(FIRST_WAITS_BESIDE_HOG, MOST_WAITS_BESIDE_HOG);
            self.beside_hog = self.hog_waits;
        } else if took_ns > OTHERS_RAN_NS {
            self.beside_others = WAITS_BESIDE_OTHERS;
        }
    }

    /// The wait is over: something was found, or the thread slept.
    #[inline]
    pub fn ended(&mut self) {
        if self.looks | self.yields | self.beside_hog != 0 {
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        (self.looks, self.yields, self.began_ns, self.yielded_ns) = (0, 0, 0, 0);
        self.beside_others = self.beside_others.saturating_sub(1);
        if self.beside_hog > 0 {
            self.beside_hog -= 1;
        } else {
            self.hog_waits = self.hog_waits.saturating_sub(1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_micros(300);
    const LOOK_NS: u64 = 50;

    fn auto() -> Waiting {
        Waiting::new(WaitPolicy::Auto, PATIENCE, 2)
    }

    /// Waits in vain until it sleeps, on a clock of its own: answers looks, yields, and how long it took.
    fn wait(waiting: &mut Waiting, yield_ns: u64) -> (u32, u32, u64) {
        let (mut looks, mut yields, mut now_ns) = (0, 0, 1);
        for _ in 0..1_000_000 {
            now_ns += LOOK_NS;
            match waiting.step(|| now_ns) {
                Step::Look => looks += 1,
                Step::Yield => {
                    yields += 1;
                    waiting.yielded(now_ns, now_ns + yield_ns);
                    now_ns += yield_ns;
                }
                Step::Sleep => break,
            }
        }
        waiting.ended();
        (looks, yields, now_ns)
    }

    #[test]
    fn alone_it_looks_on_yields_now_and_then_and_sleeps_when_its_patience_ends() {
        let (looks, yields, took_ns) = wait(&mut auto(), 300);
        assert!((28..=30).contains(&yields), "every 10 us: {yields}");
        assert!(looks > 150 * yields, "mostly looks: {looks}");
        assert!((300_000..320_000).contains(&took_ns), "{took_ns}");
    }

    #[test]
    fn others_on_the_cpu_end_the_looking_on_and_not_for_ever() {
        let mut waiting = auto();
        let (first, _, _) = wait(&mut waiting, 4_000);
        assert!(first < 250, "the first yield tells: {first}");
        assert_eq!(wait(&mut waiting, 4_000).0, 0);
        for _ in 1..WAITS_BESIDE_OTHERS {
            assert_eq!(wait(&mut waiting, 300).0, 0, "they may come back soon");
        }
        assert!(wait(&mut waiting, 300).0 > 0);
    }

    #[test]
    fn a_wait_beside_others_that_finds_something_at_the_first_look_reads_no_clock() {
        let mut waiting = auto();
        wait(&mut waiting, 4_000);
        assert_eq!(waiting.step(|| unreachable!("a yield is timed by its caller")), Step::Yield);
    }

    #[test]
    fn where_many_take_turns_each_has_some_before_it_sleeps() {
        let (_, yields, _) = wait(&mut auto(), 100_000);
        assert_eq!(yields, YIELDS);
    }

    /// One wait beside a hog, and those that sleep at once after it: answers how many they are.
    fn waits_that_sleep_at_once(waiting: &mut Waiting) -> u32 {
        assert_eq!(wait(waiting, 3_000_000).1, 1, "the first yield tells");
        let mut count = 0;
        while waiting.beside_hog > 0 {
            assert_eq!((wait(waiting, 0).0, count < 1_000), (0, true));
            count += 1;
        }
        count
    }

    #[test]
    fn beside_a_hog_it_sleeps_at_once_for_ever_longer_and_not_for_ever() {
        let mut waiting = auto();
        let counts: Vec<u32> = (0..8).map(|_| waits_that_sleep_at_once(&mut waiting)).collect();
        assert_eq!(counts, [15, 31, 63, 127, 255, 511, 511, 511], "the wait that saw it is one of them");
        for _ in 0..MOST_WAITS_BESIDE_HOG {
            assert!(wait(&mut waiting, 300).0 > 0, "the hog is gone");
        }
        assert_eq!(waits_that_sleep_at_once(&mut waiting), 15, "and forgotten");
    }

    #[test]
    fn with_one_cpu_it_never_looks_on_without_a_yield() {
        let (looks, yields, _) = wait(&mut Waiting::new(WaitPolicy::Auto, PATIENCE, 1), 300);
        assert!(looks == 0 && yields > YIELDS);
    }

    #[test]
    fn spin_and_yield_never_sleep_and_block_always_does() {
        for (policy, step) in [
            (WaitPolicy::Spin, Step::Look),
            (WaitPolicy::Yield, Step::Yield),
            (WaitPolicy::Block, Step::Sleep),
        ] {
            let mut waiting = Waiting::new(policy, PATIENCE, 1);
            for turn in 0..10_000 {
                assert_eq!(waiting.step(|| turn + 1), step);
                if step == Step::Yield {
                    waiting.yielded(turn + 1, turn + 1);
                }
            }
        }
    }
}
