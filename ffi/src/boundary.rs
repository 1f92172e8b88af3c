//! What every function of the boundary shares: no panic leaves it, a failure leaves its reason behind, and what comes in as a raw
//! pointer is checked and turned into a Rust value here.
#![expect(unsafe_code, reason = "the C boundary: raw pointers from C become references, slices and text")]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use machnet_client::{Error, Result};

use crate::status::{MachnetStatus, code_of, errno_of, text_of};

/// The longest text that is read from C, in bytes with its NUL: a path of the operating system.
const TEXT_MOST: usize = libc::PATH_MAX as usize;

thread_local! {
    /// The reason of this thread's last failed call. Kept as it came, and put into words only when somebody asks, because
    /// WouldBlock is a failure too and must cost nothing.
    static LAST: RefCell<Last> = const { RefCell::new(Last { failure: Failure::None, text: None }) };
}

struct Last {
    failure: Failure,
    text: Option<CString>,
}

enum Failure {
    None,
    Known(Error),
    Panic,
}

fn remember(failure: Failure) {
    // A thread that is ending has no thread-locals any more: then there is nobody to ask either.
    let _ = LAST.try_with(|last| last.borrow_mut().failure = failure);
}

/// The reason of this thread's last failed call in words; valid until the thread's next failed call or question.
pub(crate) fn last_error_text() -> *const c_char {
    let put_into_words = |last: &RefCell<Last>| {
        let last = &mut *last.borrow_mut();
        let text = match &last.failure {
            Failure::None => text_of(0).to_owned(),
            Failure::Panic => text_of(MachnetStatus::Internal as i32).to_owned(),
            Failure::Known(error) => CString::new(error.to_string().replace('\0', " ")).unwrap_or_default(),
        };
        last.text.insert(text).as_ptr()
    };
    LAST.try_with(put_into_words).unwrap_or_else(|_| text_of(0).as_ptr())
}

/// Runs the body of a function that C calls and turns a panic, which is a defect of ours, into `None`.
fn contained<T>(body: impl FnOnce() -> T) -> Option<T> {
    // AssertUnwindSafe: a panic may leave a channel half done. It is the program's own memory, and the engine on the other
    // side believes none of it.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) => {
            forget_payload(payload);
            remember(Failure::Panic);
            None
        }
    }
}

/// A payload's own drop could panic again, outside the catch: leak it.
fn forget_payload(payload: Box<dyn Any + Send>) {
    std::mem::forget(payload);
}

/// The frame of the functions that answer a status code.
pub(crate) fn status(body: impl FnOnce() -> Result<()>) -> i32 {
    match contained(body) {
        Some(Ok(())) => MachnetStatus::Ok as i32,
        Some(Err(error)) => {
            let code = code_of(&error);
            remember(Failure::Known(error));
            code
        }
        None => MachnetStatus::Internal as i32,
    }
}

/// The frame of the compatible functions: a value, or `failed` and errno.
pub(crate) fn posix<T>(failed: T, body: impl FnOnce() -> Result<T>) -> T {
    match contained(body) {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            set_errno(errno_of(&error));
            remember(Failure::Known(error));
            failed
        }
        None => {
            set_errno(libc::ENOTRECOVERABLE);
            failed
        }
    }
}

/// The frame of the functions that cannot fail but by a NULL pointer or a defect of ours.
pub(crate) fn value<T>(otherwise: T, body: impl FnOnce() -> Option<T>) -> T {
    contained(body).flatten().unwrap_or(otherwise)
}

/// Sets errno and remembers the reason without ending the call: for calls that succeed in part.
pub(crate) fn note(error: Error) {
    set_errno(errno_of(&error));
    remember(Failure::Known(error));
}

fn set_errno(number: i32) {
    // SAFETY: the C library answers a valid pointer to the calling thread's errno.
    unsafe { *libc::__errno_location() = number };
}

/// The one way to an InvalidArgument.
pub(crate) fn invalid(what: &'static str) -> Error {
    Error::InvalidArgument { what: what.to_owned() }
}

/// A handle from C as a reference.
///
/// # Safety
/// `handle` is NULL or came from this library as a `*mut T` and is not consumed during `'a`.
pub(crate) unsafe fn borrowed<'a, T>(handle: *const T, what: &'static str) -> Result<&'a T> {
    // SAFETY: as the caller promises.
    unsafe { handle.as_ref() }.ok_or_else(|| invalid(what))
}

/// Gives a value to C as a handle.
pub(crate) fn hand_out<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes a handle back from C.
///
/// # Safety
/// `handle` is NULL or came from [`hand_out`] and is not used again.
pub(crate) unsafe fn take_back<T>(handle: *mut T, what: &'static str) -> Result<Box<T>> {
    if handle.is_null() {
        return Err(invalid(what));
    }
    // SAFETY: not NULL, so as the caller promises a Box of ours that nobody else uses.
    Ok(unsafe { Box::from_raw(handle) })
}

/// Checks the place for an answer before anything is done, so that no answer is lost.
///
/// # Safety
/// `place` is NULL or valid for a write of `T` and of nobody else during `'a`.
pub(crate) unsafe fn place<'a, T>(place: *mut T, what: &'static str) -> Result<Place<'a, T>> {
    if place.is_null() {
        return Err(invalid(what));
    }
    Ok(Place { pointer: place, lifetime: std::marker::PhantomData })
}

/// The frame of the functions that ask a handle and put one answer into a place: both are checked before anything is done.
///
/// # Safety
/// As for [`borrowed`] and [`place`].
pub(crate) unsafe fn answer<H, T>(
    (handle, handle_is_null): (*const H, &'static str),
    (pointer, place_is_null): (*mut T, &'static str),
    ask: impl FnOnce(&H) -> Result<T>,
) -> i32 {
    status(|| {
        // SAFETY: as the caller promises.
        let handle = unsafe { borrowed(handle, handle_is_null) }?;
        // SAFETY: as the caller promises.
        let mut place = unsafe { place(pointer, place_is_null) }?;
        place.put(ask(handle)?);
        Ok(())
    })
}

/// A checked place for an answer; possibly uninitialised, so it is only ever written.
pub(crate) struct Place<'a, T> {
    pointer: *mut T,
    lifetime: std::marker::PhantomData<&'a mut T>,
}

impl<T> Place<'_, T> {
    pub(crate) fn put(&mut self, value: T) {
        // SAFETY: `place` was promised a pointer that is valid for writes while `self` lives; nothing is dropped.
        unsafe { self.pointer.write(value) };
    }
}

/// Bytes to send.
///
/// # Safety
/// `bytes` is NULL or valid for reads of `len` bytes during `'a`.
pub(crate) unsafe fn bytes_in<'a>(bytes: *const c_void, len: usize) -> Result<&'a [u8]> {
    if len == 0 {
        return Err(Error::EmptyMessage);
    }
    if bytes.is_null() {
        return Err(invalid("the buffer is NULL"));
    }
    if isize::try_from(len).is_err() {
        return Err(invalid("the length is negative"));
    }
    // SAFETY: not NULL, a length that can be, and as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) })
}

/// A buffer to receive into. Its bytes may be uninitialised in C's eyes: they are only written, and never given out.
///
/// # Safety
/// `bytes` is NULL or valid for writes of `len` bytes, of nobody else, during `'a`.
pub(crate) unsafe fn bytes_out<'a>(bytes: *mut c_void, len: usize) -> Result<&'a mut [u8]> {
    if bytes.is_null() || len == 0 {
        return Err(invalid("the buffer is NULL or has no bytes"));
    }
    if isize::try_from(len).is_err() {
        return Err(invalid("the length is negative"));
    }
    // SAFETY: not NULL, a length that can be, and as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts_mut(bytes.cast::<u8>(), len) })
}

/// An array from C; NULL is good for an empty one.
///
/// # Safety
/// `items` is NULL or valid for reads of `count` values of `T` during `'a`.
pub(crate) unsafe fn array<'a, T>(items: *const T, count: usize, what: &'static str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>()).and_then(|bytes| isize::try_from(bytes).ok());
    if items.is_null() || bytes.is_none() || !items.is_aligned() {
        return Err(invalid(what));
    }
    // SAFETY: not NULL, aligned, a length that can be, and as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(items, count) })
}

/// A text from C; NULL is `None`.
///
/// # Safety
/// `text` is NULL or ends with a NUL byte and is not written during `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &'static str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises; strnlen reads at most up to the NUL.
    let len = unsafe { libc::strnlen(text, TEXT_MOST) };
    if len == TEXT_MOST {
        return Err(invalid(what));
    }
    // SAFETY: strnlen has found the NUL.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| invalid(what))
}

/// An address in text and a port.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn address(ip: *const c_char, port: u16, what: &'static str) -> Result<SocketAddr> {
    // SAFETY: as the caller promises.
    let ip = unsafe { text(ip, what) }?.ok_or_else(|| invalid(what))?;
    let ip: IpAddr = ip.parse().map_err(|_| invalid(what))?;
    Ok(SocketAddr::new(ip, port))
}

/// An IPv4 address in text: the compatible calls know no other.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn ipv4(ip: *const c_char, what: &'static str) -> Result<Ipv4Addr> {
    // SAFETY: as the caller promises.
    let ip = unsafe { text(ip, what) }?.ok_or_else(|| invalid(what))?;
    ip.parse().map_err(|_| invalid(what))
}

/// A timeout in milliseconds, negative for ever.
pub(crate) fn timeout(timeout_ms: i32) -> Option<Duration> {
    u64::try_from(timeout_ms).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code_and_stays_inside() {
        let code = status(|| panic!("a defect (this text is expected in the test's output)"));
        assert_eq!(code, MachnetStatus::Internal as i32);
        assert_eq!(posix(-1, || panic!("another (expected too)")), -1);
        // SAFETY: the text was just made by this thread.
        let text = unsafe { CStr::from_ptr(last_error_text()) };
        assert_eq!(text, text_of(MachnetStatus::Internal as i32));
    }

    #[test]
    fn the_last_error_is_of_this_thread() {
        status(|| Err(Error::EmptyMessage));
        let mine = last_error_text();
        let other = std::thread::spawn(|| {
            // SAFETY: the text belongs to this thread and outlives the copy.
            unsafe { CStr::from_ptr(last_error_text()) }.to_owned()
        });
        assert_eq!(other.join().unwrap().as_c_str(), text_of(0));
        // SAFETY: no failed call since.
        assert_eq!(unsafe { CStr::from_ptr(mine) }.to_str().unwrap(), Error::EmptyMessage.to_string());
    }

    #[test]
    fn negative_timeouts_are_for_ever() {
        assert_eq!(timeout(-1), None);
        assert_eq!(timeout(i32::MIN), None);
        assert_eq!(timeout(0), Some(Duration::ZERO));
        assert_eq!(timeout(1500), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn text_without_an_end_is_refused() {
        let endless = vec![b'1'; TEXT_MOST + 1];
        // SAFETY: TEXT_MOST bytes are readable, and no more are read.
        let refused = unsafe { text(endless.as_ptr().cast(), "text") };
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    }
}
