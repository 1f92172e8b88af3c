//! A value that threads share by holding the interpreter, without a lock of its own.
#![expect(unsafe_code, reason = "the interpreter's lock takes the place of one that the compiler knows")]

use pyo3::prelude::*;
use std::cell::{Cell, UnsafeCell};
use std::ops::Deref;

/// A value until it is taken out. Both need the interpreter, and the module says that it needs the global lock (`gil_used`), so
/// that even a build of Python that can do without has it.
pub(crate) struct Held<T> {
    value: UnsafeCell<Option<T>>,
    /// Calls that use the value and may let go of the interpreter meanwhile.
    users: Cell<usize>,
}

// SAFETY: every method takes the token of a thread that holds the interpreter, so no two run at a time. The value itself is
// reached from several threads, one after the other and, through `Using`, at a time.
unsafe impl<T: Send + Sync> Sync for Held<T> {}

impl<T> Held<T> {
    /// Holds a value.
    pub(crate) fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(Some(value)), users: Cell::new(0) }
    }

    /// The value for as long as the answer lives; nothing if it was taken.
    pub(crate) fn using<'a, 'py>(&'a self, py: Python<'py>) -> Option<Using<'a, 'py, T>> {
        // SAFETY: the interpreter is held; nobody has a unique reference, because `take` gives none out.
        let value = unsafe { &*self.value.get() }.as_ref()?;
        self.users.set(self.users.get() + 1);
        Some(Using { value, users: &self.users, _interpreter: py })
    }

    /// What a short call makes of the value, which must not let go of the interpreter.
    #[inline(always)]
    pub(crate) fn briefly<R>(&self, _py: Python<'_>, call: impl FnOnce(&T) -> R) -> Option<R> {
        // SAFETY: the interpreter is held until the call returns, so nobody takes the value meanwhile.
        unsafe { &*self.value.get() }.as_ref().map(call)
    }

    /// Takes the value out: an error while other calls use it, nothing if it was taken before.
    pub(crate) fn take(&self, _py: Python<'_>) -> Result<Option<T>, InUse> {
        if self.users.get() > 0 {
            return Err(InUse);
        }
        // SAFETY: the interpreter is held and nobody uses the value.
        Ok(unsafe { &mut *self.value.get() }.take())
    }
}

/// Another call uses the value.
#[derive(Debug)]
pub(crate) struct InUse;

/// The value in use. It is dropped by the thread that holds the interpreter, because its token does not leave that.
pub(crate) struct Using<'a, 'py, T> {
    value: &'a T,
    users: &'a Cell<usize>,
    _interpreter: Python<'py>,
}

impl<T> Deref for Using<'_, '_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Drop for Using<'_, '_, T> {
    fn drop(&mut self) {
        self.users.set(self.users.get() - 1);
    }
}
