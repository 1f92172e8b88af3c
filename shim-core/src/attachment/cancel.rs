//! How long a call may wait, and who may end the wait.

use super::shared::Shared;
use crate::shm::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Ends waits from another thread: every call that waits with it, now or later, answers [`crate::Error::Cancelled`]. What such
/// a call waited for is not lost: a message stays for the next receive, and a message whose send was cancelled was not sent.
///
/// Clones are one canceller. It does not keep its channel open, and works for calls on that channel only. Not to be used in a
/// signal handler.
#[derive(Clone, Debug)]
pub struct Canceller {
    shared: Weak<Shared>,
    flag: CancelFlag,
}

/// What a waiting thread looks at.
#[derive(Clone, Debug)]
pub(super) struct CancelFlag(Arc<AtomicU64>);

impl CancelFlag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

impl Canceller {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let flag = CancelFlag(Arc::new(AtomicU64::new(0)));
        Self { shared: Arc::downgrade(shared), flag }
    }

    /// Ends all waits with this canceller, and those to come.
    pub fn cancel(&self) {
        self.flag.0.store(1, Ordering::Release);
        if let Some(shared) = self.shared.upgrade() {
            shared.wake_cancelled();
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.flag.is_set()
    }

    pub(super) fn flag(&self) -> &CancelFlag {
        &self.flag
    }

    pub(super) fn is_of(&self, shared: &Shared) -> bool {
        std::ptr::eq(self.shared.as_ptr(), shared)
    }
}

/// How long a call may wait, and who may end the wait. The default waits for ever. An `Option<Duration>` is one, `None` being
/// for ever, and so is a `Duration`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait<'a> {
    pub(super) timeout: Option<Duration>,
    pub(super) canceller: Option<&'a Canceller>,
}

impl<'a> Wait<'a> {
    /// No limit but the canceller.
    pub fn until(canceller: &'a Canceller) -> Self {
        Self { timeout: None, canceller: Some(canceller) }
    }

    /// Also ends when the canceller says so.
    #[must_use]
    pub fn or_until(self, canceller: &'a Canceller) -> Self {
        Self { canceller: Some(canceller), ..self }
    }
}

impl From<Duration> for Wait<'_> {
    fn from(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), canceller: None }
    }
}

impl From<Option<Duration>> for Wait<'_> {
    fn from(timeout: Option<Duration>) -> Self {
        Self { timeout, canceller: None }
    }
}
