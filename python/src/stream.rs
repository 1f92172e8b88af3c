//! Byte streams over flows: the calls under `machnet.Stream` and the transport of `machnet.aio`.

use crate::address;
use crate::buffer::View;
use crate::errors::OrRaise;
use crate::stats::FlowStats;
use crate::wait::{Patience, duration};
use machnet_client::{Error, Stream};
use pyo3::prelude::*;

/// A byte stream over a flow, from `Flow.take_raw_stream`. `machnet.Stream` is made of it.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct RawStream {
    inner: Stream,
}

impl RawStream {
    pub(crate) fn new(inner: Stream) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl RawStream {
    /// Copies what is there into a buffer: how many bytes, 0 at the end of the stream; None: nothing is there now.
    fn try_readinto(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let mut view = View::writable(buffer)?;
        self.inner.try_read(view.bytes_mut()).or_raise(py)
    }

    /// As `try_readinto`, and waits for the first byte, at most `timeout` seconds.
    #[pyo3(signature = (buffer, timeout=None))]
    fn readinto(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let mut view = View::writable(buffer)?;
        if let Some(count) = self.inner.try_read(view.bytes_mut()).or_raise(py)? {
            return Ok(count);
        }
        let patience = Patience::new(py, duration(timeout)?, None)?;
        loop {
            patience.wait(py, |wait| self.inner.flow().wait_to_recv(wait))?;
            if let Some(count) = self.inner.try_read(view.bytes_mut()).or_raise(py)? {
                return Ok(count);
            }
        }
    }

    /// Sends as many bytes as one message takes; says how many. None: there is no room now.
    fn try_write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let view = View::of(data)?;
        self.inner.try_write(view.bytes()).or_raise(py)
    }

    /// As `try_write`, and waits for room, at most `timeout` seconds.
    #[pyo3(signature = (data, timeout=None))]
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let view = View::of(data)?;
        if let Some(count) = self.inner.try_write(view.bytes()).or_raise(py)? {
            return Ok(count);
        }
        let length = self.inner.message_len(view.bytes().len());
        let patience = Patience::new(py, duration(timeout)?, None)?;
        loop {
            patience.wait(py, |wait| self.inner.flow().wait_to_send(length, wait))?;
            if let Some(count) = self.inner.try_write(view.bytes()).or_raise(py)? {
                return Ok(count);
            }
        }
    }

    /// Half-closes if there is room for it now; says whether.
    fn try_end(&self, py: Python<'_>) -> PyResult<bool> {
        self.inner.try_end().or_raise(py)
    }

    /// Half-closes: the peer reads what was written, then the end of the stream. Waits for room, at most `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn end(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        Patience::new(py, duration(timeout)?, None)?.wait(py, |wait| self.inner.end_with(wait))
    }

    /// Ends both directions: half-closes, if that can be said, and closes the flow in order.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.inner.try_end().and_then(|_| self.inner.flow().shutdown()) {
            // The flow ended already.
            Err(Error::Closed | Error::Reset { .. } | Error::EngineLost | Error::UnknownFlow) => Ok(()),
            outcome => outcome.or_raise(py),
        }
    }

    /// Ends the flow at once; what was not acknowledged may be lost.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.flow().reset().or_raise(py)
    }

    /// The peer, as (host, port).
    #[getter]
    fn peer(&self) -> (String, u16) {
        address::show(self.inner.peer_addr())
    }

    /// Our end, as (host, port).
    #[getter]
    fn local(&self) -> (String, u16) {
        address::show(self.inner.local_addr())
    }

    /// What the sidecar knows of the flow.
    fn stats(&self, py: Python<'_>) -> PyResult<FlowStats> {
        py.detach(|| self.inner.flow().stats()).or_raise(py).map(FlowStats::from)
    }
}
