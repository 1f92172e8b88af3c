//! From the error table of `machnet-client` to the classes of `machnet.errors`, which bear the same names.

use machnet_client::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// The codes of all errors, by name.
pub(crate) fn codes(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let codes = PyDict::new(py);
    for (code, name) in Error::CODES {
        codes.set_item(name, code)?;
    }
    Ok(codes)
}

/// Results that become Python's.
pub(crate) trait OrRaise<T> {
    /// The value, or the exception of the error's name.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    #[inline]
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| exception(py, &error))
    }
}

/// The exception of an error. If there is none of that name, the package is broken, and that is the exception.
#[cold]
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|broken| broken)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || py.import("machnet.errors").map(Bound::unbind))?;
    let exception = classes.bind(py).getattr(error.name())?.call1((error.to_string(),))?;
    match error {
        Error::Reset { reason, unacknowledged } => {
            exception.setattr("reason", reason.to_string())?;
            exception.setattr("unacknowledged", *unacknowledged)?;
        }
        Error::BufferTooSmall { needed } => exception.setattr("needed", *needed)?,
        Error::MessageTooLarge { limit, .. } => exception.setattr("limit", *limit)?,
        Error::Io(inner) => exception.setattr("errno", inner.raw_os_error())?,
        _ => {}
    }
    Ok(PyErr::from_value(exception))
}
