//! The calls that are made for each message, by the shortest way that the stable interface of Python has.
//!
//! Such a method stands in place of the one of the same name that pyo3 made. It takes the arguments as the interpreter has them; if
//! they are the usual ones (`bytes`, lists of `bytes`, no timeout) and nothing has to be waited for or raised, it is the whole
//! call. In every other case it has done nothing, and the method it took the place of is called. So what a call does, and what it
//! raises, is said once, there.
#![expect(unsafe_code, reason = "methods with the calling convention of C")]

use crate::buffer::View;
use crate::flow::{Flow, LONG_COPY};
use crate::message;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use std::cell::Cell;
use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Most messages that one call sends or receives by the short way.
const MOST: usize = 256;

/// The arguments of a call as the interpreter has them.
#[derive(Clone, Copy)]
struct Arguments {
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    /// The names of those at the end, or NULL.
    names: *mut ffi::PyObject,
}

impl Arguments {
    /// The arguments, none of them by name, if they are so many.
    #[inline(always)]
    fn exactly<const COUNT: usize>(&self) -> Option<[*mut ffi::PyObject; COUNT]> {
        if !self.names.is_null() || usize::try_from(self.count) != Ok(COUNT) {
            return None;
        }
        // SAFETY: the interpreter has so many there.
        Some(std::array::from_fn(|place| unsafe { *self.values.add(place) }))
    }

    /// The flow that a method was called on.
    ///
    /// # Safety
    /// `own` is one, which the interpreter sees to before it calls a method of the class, and the call has not returned.
    #[inline(always)]
    unsafe fn flow<'a>(&self, py: Python<'a>) -> &'a Flow {
        // SAFETY: as the caller promises; the interpreter holds a reference until the call returns.
        unsafe { Borrowed::from_ptr(py, self.own).cast_unchecked::<Flow>().get() }
    }
}

/// A new reference to the answer, if the short way is the whole call.
type Answer = Option<*mut ffi::PyObject>;

/// Runs the short way, and what pyo3 made where that is not enough.
#[inline(always)]
fn call(arguments: Arguments, method: usize, short: impl FnOnce(Python<'_>) -> Answer) -> *mut ffi::PyObject {
    // A panic must not reach C. The long way meets what caused it, and tells.
    let answer = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the interpreter is held by whom it calls.
        short(unsafe { Python::assume_attached() })
    }));
    match answer {
        Ok(Some(answer)) => answer,
        Ok(None) => long_way(arguments, method),
        Err(payload) => {
            std::mem::forget(payload); // Its drop could panic again.
            long_way(arguments, method)
        }
    }
}

#[cold]
#[inline(never)]
fn long_way(arguments: Arguments, method: usize) -> *mut ffi::PyObject {
    Python::attach(|py| match call_replaced(py, arguments, method) {
        Ok(answer) => answer.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    })
}

fn call_replaced<'py>(py: Python<'py>, arguments: Arguments, method: usize) -> PyResult<Bound<'py, PyAny>> {
    let Arguments { own, values, count, names } = arguments;
    // SAFETY: a value that the interpreter holds a reference to until the call returns.
    let value = |place: usize| unsafe { Bound::from_borrowed_ptr(py, *values.add(place)) };
    let by_place = usize::try_from(count)?;
    // SAFETY: as above.
    let mut all = vec![unsafe { Bound::from_borrowed_ptr(py, own) }];
    all.extend((0..by_place).map(value));
    let by_name = PyDict::new(py);
    if !names.is_null() {
        // SAFETY: a tuple of texts, which the interpreter made.
        let names = unsafe { Borrowed::from_ptr(py, names).cast_unchecked::<PyTuple>() };
        for (place, name) in names.iter().enumerate() {
            by_name.set_item(name, value(by_place + place))?;
        }
    }
    let replaced = REPLACED.get(py).and_then(|replaced| replaced.get(method));
    let replaced = replaced.ok_or_else(|| pyo3::exceptions::PySystemError::new_err("no such method"))?;
    replaced.bind(py).call(PyTuple::new(py, all)?, Some(&by_name))
}

/// The bytes of a `bytes` object, which nobody can change.
///
/// # Safety
/// The object lives for `'a`.
#[inline(always)]
unsafe fn bytes_of<'a>(object: *mut ffi::PyObject) -> Option<&'a [u8]> {
    // SAFETY: the object lives. One of a subclass goes the long way: its class could have a buffer of its own.
    unsafe {
        if ffi::PyBytes_CheckExact(object) == 0 {
            return None;
        }
        let (start, length) = (ffi::PyBytes_AsString(object), ffi::PyBytes_Size(object));
        Some(std::slice::from_raw_parts(start.cast(), usize::try_from(length).ok()?))
    }
}

#[inline(always)]
fn truth(value: bool) -> Answer {
    // SAFETY: both live as long as the interpreter.
    Some(unsafe { ffi::Py_NewRef(if value { ffi::Py_True() } else { ffi::Py_False() }) })
}

#[inline(always)]
fn nothing() -> Answer {
    // SAFETY: it lives as long as the interpreter.
    Some(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
}

/// The answer of a call whose try was in vain, so that it waits.
#[cold]
#[inline(never)]
fn waited(
    own: *mut ffi::PyObject,
    wait: impl for<'py> FnOnce(Python<'py>, &Flow) -> PyResult<Bound<'py, PyAny>>,
) -> Answer {
    Some(Python::attach(|py| {
        // SAFETY: the interpreter holds a reference until the call returns, and called a method of the class.
        let flow = unsafe { Bound::from_borrowed_ptr(py, own).cast_into_unchecked::<Flow>() };
        match wait(py, flow.get()) {
            Ok(answer) => answer.into_ptr(),
            Err(error) => {
                error.restore(py);
                ptr::null_mut()
            }
        }
    }))
}

/// Whether the message of a call was sent: nothing if the long way has to see to it.
#[inline(always)]
fn sent(py: Python<'_>, arguments: Arguments) -> Option<bool> {
    let [message] = arguments.exactly()?;
    // SAFETY: the interpreter holds a reference until the call returns.
    let bytes = unsafe { bytes_of(message) }.filter(|bytes| bytes.len() < LONG_COPY)?;
    // SAFETY: a method of the class.
    let flow = unsafe { arguments.flow(py) };
    match flow.briefly(py, |flow| flow.try_send(bytes))? {
        Ok(()) => Some(true),
        Err(machnet_client::Error::WouldBlock) => Some(false),
        Err(_) => None,
    }
}

unsafe extern "C" fn send(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 0, |py| {
        if sent(py, arguments)? {
            return nothing();
        }
        let [message] = arguments.exactly()?;
        waited(own, |py, flow| {
            // SAFETY: the interpreter holds a reference until the call returns.
            let message = unsafe { Bound::from_borrowed_ptr(py, message) };
            flow.send_patiently(py, &View::of(&message)?, None, None)?;
            Ok(py.None().into_bound(py))
        })
    })
}

unsafe extern "C" fn try_send(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 1, |py| truth(sent(py, arguments)?))
}

/// The message that was there for a call, nothing in the inner place if none was; nothing at all if the long way has to see.
#[inline(always)]
fn received(py: Python<'_>, arguments: Arguments) -> Option<Option<*mut ffi::PyObject>> {
    let [] = arguments.exactly()?;
    // SAFETY: a method of the class.
    let flow = unsafe { arguments.flow(py) };
    match flow.briefly(py, machnet_client::Flow::try_recv)? {
        Ok(Some(found)) => Some(Some(message::new_object(py, found))),
        Ok(None) => Some(None),
        Err(_) => None,
    }
}

unsafe extern "C" fn recv(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 2, |py| match received(py, arguments)? {
        Some(message) => Some(message),
        None => waited(own, |py, flow| flow.recv_patiently(py, None, None)?.into_pyobject(py)),
    })
}

unsafe extern "C" fn try_recv(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 3, |py| received(py, arguments)?.map_or_else(nothing, Some))
}

unsafe extern "C" fn send_many(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 4, |py| {
        let [list] = arguments.exactly()?;
        // SAFETY: the object lives; a list of exactly that class has no code of its own.
        let length = unsafe {
            if ffi::PyList_CheckExact(list) == 0 {
                return None;
            }
            ffi::PyList_Size(list)
        };
        let length = usize::try_from(length).ok().filter(|length| (1..=MOST).contains(length))?;
        let mut messages = [MaybeUninit::<&[u8]>::uninit(); MOST];
        for (place, message) in messages.iter_mut().take(length).enumerate() {
            // SAFETY: there are so many, and no code of Python runs that could change the list, until the call returns.
            let bytes =
                unsafe { bytes_of(ffi::PyList_GetItem(list, ffi::Py_ssize_t::try_from(place).ok()?)) };
            message.write(bytes?);
        }
        // SAFETY: so many were written.
        let messages = unsafe { &*(ptr::from_ref(&messages[..length]) as *const [&[u8]]) };
        // SAFETY: a method of the class.
        let flow = unsafe { arguments.flow(py) };
        let sent = match flow.briefly(py, |flow| flow.try_send_many(messages))? {
            Ok(sent) => sent,
            Err(machnet_client::Error::WouldBlock) => 0,
            Err(_) => return None,
        };
        if sent == length {
            // SAFETY: the interpreter is held.
            return Some(unsafe { ffi::PyLong_FromSize_t(sent) });
        }
        waited(own, |py, flow| {
            // SAFETY: the interpreter holds a reference until the call returns.
            let messages = unsafe { Bound::from_borrowed_ptr(py, list) }.extract()?;
            let sent = flow.send_behind(py, messages, sent, true, None, None)?;
            Ok(sent.into_pyobject(py)?.into_any())
        })
    })
}

thread_local! {
    /// Where messages lie between the channel and their objects; kept, so that no call allocates it.
    static FOUND: Cell<Vec<machnet_client::Message>> = const { Cell::new(Vec::new()) };
}

/// How many messages a call wants at most, if it says so by place or not at all.
fn most_of(arguments: Arguments) -> Option<usize> {
    const DEFAULT: usize = 64;
    if let Some([]) = arguments.exactly() {
        return Some(DEFAULT);
    }
    let [most] = arguments.exactly()?;
    // SAFETY: the object lives. What is no number of that class goes the long way, which raises what there is to raise.
    let most = unsafe {
        if ffi::PyLong_CheckExact(most) == 0 {
            return None;
        }
        ffi::PyLong_AsSsize_t(most)
    };
    if most < 0 {
        // SAFETY: the interpreter is held. Too large to be one, which the long way says.
        unsafe { ffi::PyErr_Clear() };
    }
    usize::try_from(most).ok()
}

/// The list of the messages that were there for a call, empty if none was; nothing if the long way has to see to it.
fn received_many(py: Python<'_>, arguments: Arguments) -> Option<(*mut ffi::PyObject, usize)> {
    let most = most_of(arguments)?;
    // SAFETY: a method of the class.
    let flow = unsafe { arguments.flow(py) };
    let mut found = FOUND.take();
    let count = flow.briefly(py, |flow| flow.try_recv_many(&mut found, most.min(MOST)))?.ok()?;
    let list = message::new_list(py, &mut found);
    FOUND.set(found);
    Some((list, count))
}

unsafe extern "C" fn recv_many(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 5, |py| {
        let (list, count) = received_many(py, arguments)?;
        let most = most_of(arguments)?;
        if count > 0 || most == 0 || list.is_null() {
            return Some(list);
        }
        // SAFETY: our own reference to an empty list.
        unsafe { ffi::Py_DECREF(list) };
        waited(own, |py, flow| flow.recv_many_patiently(py, most, None, None)?.into_pyobject(py))
    })
}

unsafe extern "C" fn try_recv_many(
    own: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments { own, values, count, names };
    call(arguments, 6, |py| received_many(py, arguments).map(|(list, _)| list))
}

/// The methods, in the order of the numbers by which they call those that they replace.
const METHODS: [(&str, ffi::PyCFunctionFastWithKeywords); 7] = [
    ("send", send),
    ("try_send", try_send),
    ("recv", recv),
    ("try_recv", try_recv),
    ("send_many", send_many),
    ("recv_many", recv_many),
    ("try_recv_many", try_recv_many),
];

/// What pyo3 made.
static REPLACED: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();

/// Puts the methods in their places.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    let class = py.get_type::<Flow>();
    let replaced = METHODS.iter().map(|(name, _)| class.getattr(*name).map(Bound::unbind));
    if REPLACED.set(py, replaced.collect::<PyResult<_>>()?).is_err() {
        return Ok(()); // Imported anew: they are there.
    }
    METHODS.iter().try_for_each(|&(name, function)| replace(&class, name, function))
}

fn replace(
    class: &Bound<'_, PyType>,
    name: &str,
    function: ffi::PyCFunctionFastWithKeywords,
) -> PyResult<()> {
    let py = class.py();
    let before = class.getattr(name)?;
    let signature: Option<String> = before.getattr("__text_signature__")?.extract()?;
    let text: Option<String> = before.getattr("__doc__")?.extract()?;
    // As Python reads both out of one text.
    let text = match signature {
        Some(signature) => format!("{name}{signature}\n--\n\n{}", text.unwrap_or_default()),
        None => text.unwrap_or_default(),
    };
    // Python keeps both pointers, and the definition, as long as the class, which is for ever.
    let keep = |text: &str| CString::new(text).map(|text| text.into_raw().cast_const());
    let (ml_name, ml_doc): (*const c_char, *const c_char) = (keep(name)?, keep(&text)?);
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name,
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc,
    }));
    // SAFETY: the class lives, the definition lives for ever, and its flags say what its function is.
    let method =
        unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition)) }?;
    class.setattr(name, method)
}
