//! The command's only reader of the clock.

use std::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "the command measures real time; all its modules ask here")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
