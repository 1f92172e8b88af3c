//! Received messages and loans, as objects with Python's buffer protocol.
#![expect(
    unsafe_code,
    reason = "the buffer protocol hands out pointers, and a class made by hand is functions that C calls"
)]

use crate::buffer;
use crate::errors::OrRaise;
use machnet_client::TxLoan;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::{PyMemoryView, PyString, PyType};
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What Python shows of the class of received messages.
const DOCUMENTATION: &CStr =
    c"A received message: a read-only buffer. `memoryview(message)` and `numpy.frombuffer(message)` copy nothing, `bytes(message)`
copies.

A large message lies in the sidecar's buffers and goes back to them when the last reference to the message, and to views of
it, is gone: holding many for long narrows what the peers may send.";

/// A received message on its way to Python. There its object is of a class that is made by hand, because one is made and freed for
/// each message, and pyo3's way takes longer than the message itself.
pub(crate) struct Message(machnet_client::Message);

impl Message {
    pub(crate) fn new(inner: machnet_client::Message) -> Self {
        Self(inner)
    }
}

impl<'py> IntoPyObject<'py> for Message {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        // SAFETY: a new reference, or NULL with an exception.
        unsafe { Bound::from_owned_ptr_or_err(py, new_object(py, self.0)) }
    }
}

/// An object of the class.
#[repr(C)]
struct Object {
    head: ffi::PyObject,
    message: ManuallyDrop<machnet_client::Message>,
}

/// The class; NULL until the module is imported, before which there are no messages.
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// A new object with the message; NULL with an exception if there is no memory.
#[inline]
pub(crate) fn new_object(_py: Python<'_>, message: machnet_client::Message) -> *mut ffi::PyObject {
    // SAFETY: the interpreter is held; the memory has the size and is as aligned as an object has to be, and all of it is written
    // before Python gets it.
    unsafe {
        let object: *mut Object = ffi::PyObject_Malloc(size_of::<Object>()).cast();
        if object.is_null() {
            return ffi::PyErr_NoMemory();
        }
        (&raw mut (*object).message).write(ManuallyDrop::new(message));
        ffi::PyObject_Init(object.cast(), CLASS.load(Ordering::Relaxed))
    }
}

/// A new list of all messages, which are taken out of the vector; NULL with an exception if there is no memory.
pub(crate) fn new_list(py: Python<'_>, messages: &mut Vec<machnet_client::Message>) -> *mut ffi::PyObject {
    // SAFETY: the interpreter is held; the list takes over the reference to each object, in places that it has. A list with
    // empty places may be freed.
    unsafe {
        let list = ffi::PyList_New(ffi::Py_ssize_t::try_from(messages.len()).unwrap_or(ffi::PY_SSIZE_T_MAX));
        for (place, message) in (0..).zip(messages.drain(..)) {
            let object = if list.is_null() { list } else { new_object(py, message) };
            if object.is_null() || ffi::PyList_SetItem(list, place, object) != 0 {
                ffi::Py_XDECREF(list);
                return ptr::null_mut();
            }
        }
        list
    }
}

/// The message of an object.
///
/// # Safety
/// `object` is one of the class and lives for `'a`.
unsafe fn message_in<'a>(object: *mut ffi::PyObject) -> &'a machnet_client::Message {
    // SAFETY: as the caller promises.
    unsafe { &(*object.cast::<Object>()).message }
}

/// Runs what may raise, or even panic, for a function that C calls.
fn raising(call: impl FnOnce(Python<'_>) -> PyResult<*mut ffi::PyObject>) -> *mut ffi::PyObject {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Python::attach(|py| {
            call(py).unwrap_or_else(|error| {
                error.restore(py);
                ptr::null_mut()
            })
        })
    }));
    outcome.unwrap_or_else(|payload| {
        std::mem::forget(payload); // Its drop could panic again.
        Python::attach(|py| PanicException::new_err("a defect of machnet").restore(py));
        ptr::null_mut()
    })
}

/// A view of an object's bytes.
///
/// # Safety
/// `object` is one of the class.
unsafe fn view(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<Bound<'_, PyMemoryView>> {
    // SAFETY: a live object, as the caller promises.
    PyMemoryView::from(&unsafe { Bound::from_borrowed_ptr(py, object) })
}

unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; the class was counted for the object, as for each of a class that is made at run time.
    unsafe {
        let class = ffi::Py_TYPE(object);
        ManuallyDrop::drop(&mut (*object.cast::<Object>()).message);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: Python calls it with an object of the class.
    let message = unsafe { message_in(object) };
    ffi::Py_ssize_t::try_from(message.len()).unwrap_or(ffi::PY_SSIZE_T_MAX)
}

unsafe extern "C" fn get_buffer(
    object: *mut ffi::PyObject,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> c_int {
    // SAFETY: Python calls it with an object of the class and a view to fill. The bytes stay where they are until the object is
    // freed, which the view's reference to it prevents.
    unsafe {
        let message = message_in(object);
        let bytes = message.as_ptr().cast_mut().cast();
        ffi::PyBuffer_FillInfo(view, object, bytes, length(object), 1, flags)
    }
}

unsafe extern "C" fn to_bytes(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: Python calls it with an object of the class; so many bytes are there.
    unsafe { ffi::PyBytes_FromStringAndSize(message_in(object).as_ptr().cast(), length(object)) }
}

unsafe extern "C" fn subscript(object: *mut ffi::PyObject, key: *mut ffi::PyObject) -> *mut ffi::PyObject {
    raising(|py| {
        // SAFETY: Python calls it with an object of the class, and a key.
        let (view, key) = unsafe { (view(py, object)?, Bound::from_borrowed_ptr(py, key)) };
        view.get_item(key).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn item(object: *mut ffi::PyObject, place: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    // SAFETY: Python calls it with an object of the class.
    raising(|py| unsafe { view(py, object) }?.get_item(place).map(Bound::into_ptr))
}

unsafe extern "C" fn compare(
    object: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    how: c_int,
) -> *mut ffi::PyObject {
    raising(|py| {
        let how = CompareOp::from_raw(how).ok_or_else(|| PyValueError::new_err("no such comparison"))?;
        // SAFETY: Python calls it with an object of the class, and another.
        let (view, other) = unsafe { (view(py, object)?, Bound::from_borrowed_ptr(py, other)) };
        view.rich_compare(other, how).map(Bound::into_ptr)
    })
}

/// That of the same bytes, because they are equal.
unsafe extern "C" fn hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: Python calls it with an object of the class; `bytes` is our own reference, or NULL with an exception.
    unsafe {
        let bytes = to_bytes(object, ptr::null_mut());
        if bytes.is_null() {
            return -1;
        }
        let hash = ffi::PyObject_Hash(bytes);
        ffi::Py_DECREF(bytes);
        hash
    }
}

unsafe extern "C" fn show(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: Python calls it with an object of the class.
    let message = unsafe { message_in(object) };
    let place = if message.is_lent() { ", lent" } else { "" };
    let text = format!("<machnet.Message of {} bytes{place}>", message.len());
    raising(|py| Ok(PyString::new(py, &text).into_any().into_ptr()))
}

unsafe extern "C" fn is_lent(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: Python calls it with an object of the class.
    unsafe { ffi::PyBool_FromLong(message_in(object).is_lent().into()) }
}

/// Makes the class, once.
pub(crate) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let made = CLASS.load(Ordering::Acquire);
    if !made.is_null() {
        // SAFETY: a class, to which the first call keeps a reference for ever.
        return Ok(unsafe { Bound::from_borrowed_ptr(py, made.cast()).cast_into_unchecked() });
    }
    // Python keeps the tables of methods and attributes as long as the class, which is for ever; each ends with an empty row.
    let to_bytes = ffi::PyMethodDef {
        ml_name: c"__bytes__".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: to_bytes },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: c"__bytes__($self, /)\n--\n\n".as_ptr(),
    };
    let is_lent = ffi::PyGetSetDef {
        name: c"is_lent".as_ptr(),
        get: Some(is_lent),
        set: None,
        doc: c"Whether the bytes lie in the sidecar's buffers.".as_ptr(),
        closure: ptr::null_mut(),
    };
    let methods = Box::leak(Box::new([to_bytes, ffi::PyMethodDef::zeroed()]));
    let attributes = Box::leak(Box::new([is_lent, ffi::PyGetSetDef::default()]));
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_dealloc, deallocate as *mut c_void),
        slot(ffi::Py_sq_length, length as *mut c_void),
        slot(ffi::Py_mp_length, length as *mut c_void),
        slot(ffi::Py_sq_item, item as *mut c_void),
        slot(ffi::Py_mp_subscript, subscript as *mut c_void),
        slot(ffi::Py_bf_getbuffer, get_buffer as *mut c_void),
        slot(ffi::Py_tp_richcompare, compare as *mut c_void),
        slot(ffi::Py_tp_hash, hash as *mut c_void),
        slot(ffi::Py_tp_repr, show as *mut c_void),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
        slot(ffi::Py_tp_doc, DOCUMENTATION.as_ptr().cast_mut().cast()),
        slot(0, ptr::null_mut()),
    ];
    let flags =
        ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_IMMUTABLETYPE;
    let mut specification = ffi::PyType_Spec {
        name: c"machnet.Message".as_ptr(),
        basicsize: c_int::try_from(size_of::<Object>())?,
        itemsize: 0,
        flags: c_uint::try_from(flags)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: each function is what its slot calls, for objects of the class's size; what Python keeps lives for ever.
    let class: Bound<'_, PyType> = unsafe {
        let class = ffi::PyType_FromSpec(&raw mut specification);
        Bound::from_owned_ptr_or_err(py, class)?.cast_into_unchecked()
    };
    CLASS.store(class.clone().unbind().into_ptr().cast(), Ordering::Release);
    Ok(class)
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
