//! The atomics of shared memory: the processor's own, or loom's when a model is checked. Chosen here and nowhere else.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};
