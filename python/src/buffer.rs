//! Bytes between Python's buffer protocol and Rust.
#![expect(unsafe_code, reason = "the buffer protocol speaks in pointers")]

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::marker::PhantomData;

/// The contiguous bytes of any object that has them, held until dropped.
///
/// Only the interpreter keeps others from writing to them: use them without letting go of it, unless they are immutable. A build
/// of Python without a global lock leaves that to the program, as for every other function that takes a buffer.
pub(crate) struct View<'py> {
    raw: Box<ffi::Py_buffer>,
    is_immutable: bool,
    // Released by a thread that holds the interpreter.
    _interpreter: PhantomData<Python<'py>>,
}

impl<'py> View<'py> {
    /// The bytes to read.
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::take(object, ffi::PyBUF_SIMPLE)
    }

    /// The bytes to write.
    pub(crate) fn writable(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::take(object, ffi::PyBUF_WRITABLE)
    }

    fn take(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut raw = Box::new(ffi::Py_buffer::new());
        // SAFETY: `object` lives, the interpreter is held, and `raw` stays where it is, in its box, until it is released.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *raw, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        let is_immutable = object.is_exact_instance_of::<pyo3::types::PyBytes>();
        Ok(Self { raw, is_immutable, _interpreter: PhantomData })
    }

    /// Whether nobody can write to the bytes while the interpreter is free.
    pub(crate) fn is_immutable(&self) -> bool {
        self.is_immutable
    }

    /// The bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match usize::try_from(self.raw.len) {
            // An empty buffer may have no address.
            Ok(length) if length > 0 => {
                // SAFETY: the exporter promised `len` contiguous bytes at `buf` until release; nobody writes them meanwhile, as the
                // type's rule says.
                unsafe { std::slice::from_raw_parts(self.raw.buf.cast(), length) }
            }
            _ => &[],
        }
    }

    /// The bytes, of a view made by `writable`.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match usize::try_from(self.raw.len) {
            Ok(length) if length > 0 && self.raw.readonly == 0 => {
                // SAFETY: as above, and the exporter said that they may be written.
                unsafe { std::slice::from_raw_parts_mut(self.raw.buf.cast(), length) }
            }
            _ => &mut [],
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer, released once, and the interpreter is held because the view does not outlive it.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.raw) };
    }
}

/// Fills a view that Python asks `owner` for.
///
/// # Safety
/// `view` is the pointer that `__getbuffer__` got. The bytes stay where they are, and alive, as long as `owner` does or until
/// it is told of the release.
pub(crate) unsafe fn fill(
    owner: Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    bytes: *mut u8,
    length: usize,
    is_readonly: bool,
    flags: c_int,
) -> PyResult<()> {
    let length = isize::try_from(length).map_err(|_| PyBufferError::new_err("too long"))?;
    let py = owner.py();
    // SAFETY: the caller's promise; the view takes a reference of its own to the owner.
    let outcome = unsafe {
        ffi::PyBuffer_FillInfo(view, owner.as_ptr(), bytes.cast(), length, c_int::from(is_readonly), flags)
    };
    if outcome == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}
