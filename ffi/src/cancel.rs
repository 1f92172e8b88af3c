//! Ending waits from another thread.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::cell::RefCell;

use machnet_client::{Canceller, Result, Wait};

use crate::boundary::{answer, borrowed, hand_out, status, take_back, timeout, value};
use crate::channel::ChannelHandle;

thread_local! {
    /// What ends the waits of this thread.
    static SCOPE: RefCell<Option<Canceller>> = const { RefCell::new(None) };
}

/// Ends waits from another thread.
#[derive(Debug)]
pub struct CancelHandle(Canceller);

/// Makes what ends waits on this channel from another thread. It does not keep the channel open. Thread-safe.
///
/// Returns 0 and `*cancel`, to be ended with `machnet_cancel_free`; or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_cancel_new(
    channel: *const ChannelHandle,
    cancel: *mut *mut CancelHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((channel, "channel is NULL"), (cancel, "cancel is NULL"), |channel| {
            Ok(hand_out(CancelHandle(channel.attachment.canceller())))
        })
    }
}

/// From now on, calls of this thread that wait end with MACHNET_STATUS_CANCELLED once `cancel` is triggered; NULL: no longer. Set it
/// before a call and take it away after, on the same thread. Meanwhile the thread's calls that wait must be on the channel of
/// `cancel`; they answer MACHNET_STATUS_INVALID_ARGUMENT on another one.
///
/// Returns 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_cancel_scope(cancel: *const CancelHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let canceller = unsafe { cancel.as_ref() }.map(|cancel| cancel.0.clone());
        // A thread that is ending has no thread-locals any more, and waits for nothing.
        let _ = SCOPE.try_with(|scope| scope.replace(canceller));
        Ok(())
    })
}

/// Ends the waits of every thread in the scope of `cancel`, and those to come: it cannot be undone. What they waited for is not lost: a
/// message stays for the next receive, and a message whose send was cancelled was not sent. Not for signal handlers. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_cancel_trigger(cancel: *const CancelHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(cancel, "cancel is NULL") }?.0.cancel();
        Ok(())
    })
}

/// Forgets a canceller; threads in its scope go on as they are. NULL is ignored. Consumes the handle: no other call may use it
/// meanwhile or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_cancel_free(cancel: *mut CancelHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(cancel, "cancel is NULL") }.ok().map(drop)
    });
}

/// Makes a call that waits: at most `timeout_ms` milliseconds (negative: for ever), and until this thread's scope is cancelled.
pub(crate) fn waiting<T>(timeout_ms: i32, call: impl FnOnce(Wait<'_>) -> Result<T>) -> Result<T> {
    let wait = Wait::from(timeout(timeout_ms));
    // A copy, so that nothing is borrowed while the call waits; outside of a scope there is nothing to copy.
    match SCOPE.try_with(|scope| scope.borrow().clone()) {
        Ok(Some(canceller)) => call(wait.or_until(&canceller)),
        _ => call(wait),
    }
}
