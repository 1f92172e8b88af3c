//! Flows to come.

use crate::address;
use crate::channel::Canceller;
use crate::errors::OrRaise;
use crate::flow::Flow;
use crate::wait::{Patience, duration};
use machnet_client::Error;
use pyo3::prelude::*;

/// Waits for flows, from `Channel.listen`. Iterating accepts flows until the listener is closed; the end of a `with` block
/// closes it. Flows that it handed out live on.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Listener {
    inner: machnet_client::Listener,
}

impl Listener {
    pub(crate) fn new(inner: machnet_client::Listener) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Listener {
    /// Waits for a flow, at most `timeout` seconds.
    #[pyo3(signature = (timeout=None, *, cancel=None))]
    fn accept(&self, py: Python<'_>, timeout: Option<f64>, cancel: Option<&Canceller>) -> PyResult<Flow> {
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        patience.wait(py, |wait| self.inner.accept_with(wait)).map(Flow::new)
    }

    /// The next flow, if one is there.
    fn try_accept(&self, py: Python<'_>) -> PyResult<Option<Flow>> {
        Ok(self.inner.try_accept().or_raise(py)?.map(Flow::new))
    }

    /// As `Flow.set_token`.
    fn set_token(&self, py: Python<'_>, token: u64) -> PyResult<()> {
        self.inner.set_token(token).or_raise(py)
    }

    /// Where it listens, as (host, port).
    #[getter]
    fn address(&self) -> (String, u16) {
        address::show(self.inner.local_addr())
    }

    /// Stops listening. Flows not accepted yet are refused; a thread in `accept` gets `Closed`.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.shutdown()).or_raise(py)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Flow>> {
        let patience = Patience::new(py, None, None)?;
        let accepted = patience.wait(py, |wait| match self.inner.accept_with(wait) {
            Err(Error::Closed) => Ok(None),
            outcome => outcome.map(Some),
        });
        Ok(accepted?.map(Flow::new))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }
}

/// A connect under way, from `Channel.start_connect`. When it is dropped, the flow is closed as soon as it is there.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct PendingConnect {
    inner: machnet_client::PendingConnect,
}

impl PendingConnect {
    pub(crate) fn new(inner: machnet_client::PendingConnect) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl PendingConnect {
    /// The flow, if the connect succeeded meanwhile. It, or the error, comes once.
    fn try_finish(&self, py: Python<'_>) -> PyResult<Option<Flow>> {
        Ok(self.inner.try_finish().or_raise(py)?.map(Flow::new))
    }

    /// As `Flow.set_token`.
    fn set_token(&self, py: Python<'_>, token: u64) -> PyResult<()> {
        self.inner.set_token(token).or_raise(py)
    }

    /// Waits for the outcome. It, or the error, comes once; after a timeout or a cancel it may be asked for again.
    #[pyo3(signature = (timeout=None, *, cancel=None))]
    fn finish(&self, py: Python<'_>, timeout: Option<f64>, cancel: Option<&Canceller>) -> PyResult<Flow> {
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        patience.wait(py, |wait| self.inner.finish(wait)).map(Flow::new)
    }
}
