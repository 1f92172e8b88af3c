//! Received messages and loans, as objects with Python's buffer protocol.
#![expect(unsafe_code, reason = "the buffer protocol hands out pointers")]

use crate::buffer;
use crate::errors::OrRaise;
use machnet_client::TxLoan;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::{PyBytes, PyMemoryView};
use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A received message: a read-only buffer. `memoryview(message)` and `numpy.frombuffer(message)` copy nothing, `bytes(message)`
/// copies.
///
/// A large message lies in the sidecar's buffers and goes back to them when the last reference to the message, and to views of
/// it, is gone: holding many for long narrows what the peers may send.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Message {
    inner: machnet_client::Message,
}

impl Message {
    pub(crate) fn new(inner: machnet_client::Message) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Message {
    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner)
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(slf.as_any())?.get_item(key)
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        how: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(slf.as_any())?.rich_compare(other, how)
    }

    /// That of the same bytes, because they are equal.
    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyBytes::new(py, &self.inner).hash()
    }

    fn __repr__(&self) -> String {
        let place = if self.inner.is_lent() { ", lent" } else { "" };
        format!("<machnet.Message of {} bytes{place}>", self.inner.len())
    }

    /// Whether the bytes lie in the sidecar's buffers.
    #[getter]
    fn is_lent(&self) -> bool {
        self.inner.is_lent()
    }

    // SAFETY: pyo3 calls it with the pointer that Python passed.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes: &[u8] = &slf.get().inner;
        let (start, length) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the class is frozen and Python objects do not move, so the bytes stay until the object is freed, which the view's
        // reference prevents.
        unsafe { buffer::fill(slf.into_any(), view, start, length, true, flags) }
    }
}

/// Room to write a message in place: a writable buffer, from `Flow.lend`. Its bytes are arbitrary until written.
///
/// `send()` sends it; leaving a `with` block, `close()`, or the end of the last reference give back what was not sent. Release
/// every view of it first, as with a `bytearray` that is resized: else `BufferError`.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Loan {
    state: Mutex<LoanState>,
}

struct LoanState {
    loan: Option<TxLoan>,
    views: usize,
}

impl Loan {
    pub(crate) fn new(loan: TxLoan) -> Self {
        Self { state: Mutex::new(LoanState { loan: Some(loan), views: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, LoanState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> PyResult<Option<TxLoan>> {
        let mut state = self.state();
        if state.views > 0 {
            return Err(PyBufferError::new_err("there are views of the loan; release them first"));
        }
        Ok(state.loan.take())
    }
}

fn gone() -> PyErr {
    PyBufferError::new_err("the loan was sent or given back")
}

#[pymethods]
impl Loan {
    /// Sends the message. The room is gone afterwards.
    fn send(&self, py: Python<'_>) -> PyResult<()> {
        let loan = self.take()?.ok_or_else(gone)?;
        py.detach(|| loan.send()).or_raise(py)
    }

    /// Gives the room back, unless it was sent.
    fn close(&self) -> PyResult<()> {
        self.take().map(drop)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close()
    }

    fn __len__(&self) -> usize {
        self.state().loan.as_ref().map_or(0, |loan| loan.len())
    }

    // SAFETY: pyo3 calls it with the pointer that Python passed.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let mut state = slf.get().state();
        let bytes: &mut [u8] = state.loan.as_mut().ok_or_else(gone)?;
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the class is frozen and Python objects do not move; the loan is taken out only when no view is left.
        unsafe { buffer::fill(slf.clone().into_any(), view, start, length, false, flags)? };
        state.views += 1;
        Ok(())
    }

    // SAFETY: called once for each view that `__getbuffer__` filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.state().views -= 1;
    }
}
