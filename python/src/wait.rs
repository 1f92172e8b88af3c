//! How a call waits with the interpreter free, and how Ctrl-C ends it.
//!
//! Python runs signal handlers in its main thread and only when that thread asks. A wait of the main thread is therefore cut
//! into slices, between which it asks; other threads wait in one piece.

use crate::channel::Canceller;
use crate::errors::OrRaise;
use machnet_client::{Error, Wait};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::time::{Duration, Instant};

/// Longest wait of the main thread before it looks for signals.
const SLICE: Duration = Duration::from_millis(100);

/// A timeout in seconds as Python gives it; none waits for ever.
pub(crate) fn duration(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds.is_nan() => Err(PyValueError::new_err("a timeout is a number")),
        Some(seconds) if seconds <= 0.0 => Ok(Some(Duration::ZERO)),
        // What is too long for a Duration is for ever.
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds).ok()),
    }
}

/// How long one call may wait, over all its pieces.
pub(crate) struct Patience<'a> {
    deadline: Option<Instant>,
    is_sliced: bool,
    canceller: Option<&'a Canceller>,
}

impl<'a> Patience<'a> {
    /// Begins to wait.
    pub(crate) fn new(
        py: Python<'_>,
        timeout: Option<Duration>,
        canceller: Option<&'a Canceller>,
    ) -> PyResult<Self> {
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        Ok(Self { deadline, is_sliced: is_main_thread(py)?, canceller })
    }

    /// Repeats a call that waits, until its outcome is another than the end of a slice.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(Wait<'_>) -> Result<T, Error> + Send + Sync,
    ) -> PyResult<T> {
        self.outcome(py, call)?.or_raise(py)
    }

    /// As `wait`, with the call's own error apart from what a signal handler raised.
    pub(crate) fn outcome<T: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(Wait<'_>) -> Result<T, Error> + Send + Sync,
    ) -> PyResult<Result<T, Error>> {
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now()));
            let slice = if self.is_sliced { Some(left.map_or(SLICE, |left| left.min(SLICE))) } else { left };
            let mut wait = Wait::from(slice);
            if let Some(canceller) = self.canceller {
                wait = wait.or_until(&canceller.inner);
            }
            match py.detach(|| call(wait)) {
                Err(Error::TimedOut) if slice != left => py.check_signals()?,
                outcome => return Ok(outcome),
            }
        }
    }
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    static THREADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let threading = THREADING.get_or_try_init(py, || py.import("threading").map(Bound::unbind))?.bind(py);
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    threading.call_method0("get_ident")?.eq(main)
}

#[expect(clippy::disallowed_methods, reason = "waiting is about real time; no logic depends on it")]
fn now() -> Instant {
    Instant::now()
}
