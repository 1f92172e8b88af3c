//! The doorbell's words: who sleeps asks to be rung, who publishes looks whether to ring. At most one ring per arming.
//!
//! Two words, each written by one side: ARMED in the sleeper's region, `| reasons u8 | epoch u56 |`, and RUNG in the
//! ringer's, the epoch it answered. So the state is *polling* (no reasons), *armed*, or *rung* (RUNG equals the epoch).
//!
//! The sleeper stores ARMED, fences, and looks at its rings again before it sleeps. The ringer publishes, fences, and reads
//! ARMED. One of the two sees the other; without both fences a wake-up could be lost.

use super::atomic::{Ordering, fence};
use super::layout::{ARMED_OFFSET, RUNG_OFFSET};
use super::ring::{Memory, WritableMemory};

/// Something was put into the receive ring: a message, or the outcome or end of a flow.
pub const REASON_RECEIVE: u8 = 1;
/// Send credit or TX buffers came back.
pub const REASON_CREDIT: u8 = 2;
/// Every reason.
pub const REASON_ANY: u8 = 3;

const EPOCH_BITS: u32 = 56;

/// The side that sleeps.
#[derive(Debug, Default)]
pub struct Sleeper {
    epoch: u64,
    armed: bool,
    /// Rings that were announced and whose byte was not read yet.
    owed: bool,
}

impl Sleeper {
    /// Asks to be rung for `reasons`. After it, look at the rings once more; only then sleep.
    pub fn arm(&mut self, ours: &impl WritableMemory, reasons: u8) {
        self.epoch = (self.epoch + 1) & ((1 << EPOCH_BITS) - 1);
        self.armed = true;
        ours.words_mut::<1>(ARMED_OFFSET)[0].store(u64::from(reasons) | self.epoch << 8, Ordering::Relaxed);
        // SYNC: doorbell. Our ARMED before our second look; pairs with the fence in `Ringer::must_ring`.
        fence(Ordering::SeqCst);
    }

    /// Asks not to be rung: back to polling. A ring under way shows as `rung` later.
    pub fn disarm(&mut self, ours: &impl WritableMemory) {
        if self.armed {
            self.armed = false;
            ours.words_mut::<1>(ARMED_OFFSET)[0].store(self.epoch << 8, Ordering::Relaxed);
        }
    }

    /// Whether a byte is, or is about to be, in the doorbell: the other side answered an arming whose byte was not read yet.
    /// Call after `disarm` or before `arm`; then read the descriptor and tell [`Self::drained`] what came.
    pub fn rung(&mut self, theirs: &impl Memory) -> bool {
        if !self.owed && self.epoch != 0 && theirs.words::<1>(RUNG_OFFSET).load_acquire(0) == self.epoch {
            self.owed = true;
        }
        self.owed
    }

    /// The descriptor was read; `any` says whether something was in it. A byte that was announced may come a moment later.
    pub fn drained(&mut self, any: bool) {
        if any {
            self.owed = false;
        }
    }

    /// Whether the other side answered the present arming: its byte is in the doorbell, or about to be.
    pub fn is_answered(&self, theirs: &impl Memory) -> bool {
        self.epoch != 0 && theirs.words::<1>(RUNG_OFFSET).load_acquire(0) == self.epoch
    }
}

/// The side that publishes and rings.
#[derive(Debug, Default)]
pub struct Ringer {
    answered: u64,
}

impl Ringer {
    /// After publishing: whether the descriptor has to be written to now. Says yes once per arming.
    #[inline]
    pub fn must_ring(&mut self, ours: &impl WritableMemory, theirs: &impl Memory, reasons: u8) -> bool {
        // SYNC: doorbell. What we published before our look at ARMED; pairs with the fence in `Sleeper::arm`.
        fence(Ordering::SeqCst);
        let word = theirs.words::<1>(ARMED_OFFSET).load(0);
        if word & u64::from(reasons) == 0 {
            return false;
        }
        self.answer(ours, word >> 8)
    }

    #[cold]
    fn answer(&mut self, ours: &impl WritableMemory, epoch: u64) -> bool {
        if epoch == self.answered {
            return false;
        }
        self.answered = epoch;
        ours.words_mut::<1>(RUNG_OFFSET)[0].store(epoch, Ordering::Release);
        true
    }
}
