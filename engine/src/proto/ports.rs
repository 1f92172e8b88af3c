//! Drawing UDP ports at random.

pub use crate::wire::ports::{Pair, PortRange};

use super::rng::Rng;

impl PortRange {
    /// One of them, each as likely as the others.
    pub fn draw(self, rng: &mut Rng) -> u16 {
        let offset = rng.below(u64::from(self.count()));
        self.first() + u16::try_from(offset).unwrap_or(0)
    }
}
