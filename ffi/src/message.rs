//! Loans: a received message read where it lies, and a message to send written where it will lie.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::ffi::c_void;

use machnet_client::{Message, TxLoan};

use crate::boundary::{status, take_back, value};

/// A received message that is lent to the program.
#[derive(Debug)]
pub struct MessageHandle(Message);

impl From<Message> for MessageHandle {
    fn from(message: Message) -> Self {
        Self(message)
    }
}

/// Room for a message to send that is lent to the program.
#[derive(Debug)]
pub struct LoanHandle(TxLoan);

impl From<TxLoan> for LoanHandle {
    fn from(loan: TxLoan) -> Self {
        Self(loan)
    }
}

/// The message's first byte, valid until the message is released. NULL only for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_message_data(message: *const MessageHandle) -> *const c_void {
    value(std::ptr::null(), || {
        // SAFETY: a handle of ours or NULL.
        let message = unsafe { message.as_ref() }?;
        Some(message.0.as_ptr().cast())
    })
}

/// The message's length in bytes; 0 only for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_message_len(message: *const MessageHandle) -> usize {
    value(0, || {
        // SAFETY: a handle of ours or NULL.
        let message = unsafe { message.as_ref() }?;
        Some(message.0.len())
    })
}

/// Gives a message back; its peer may then send more. From any thread, also after the flow and the channel were closed. NULL is
/// ignored. Consumes the handle: no other call may use it meanwhile or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_message_release(message: *mut MessageHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(message, "message is NULL") }.ok().map(drop)
    });
}

/// The first byte of the room, valid until the loan is sent or dropped. NULL only for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_loan_data(loan: *mut LoanHandle) -> *mut c_void {
    value(std::ptr::null_mut(), || {
        // SAFETY: a handle of ours or NULL; C uses a loan in one thread at a time.
        let loan = unsafe { loan.as_mut() }?;
        Some(loan.0.as_mut_ptr().cast())
    })
}

/// Sends the message that was written into the room. It does not wait: room and credit were taken when it was lent. Consumes the
/// handle, whatever it returns.
///
/// Returns 0; or MACHNET_STATUS_CLOSED, RESET, ENGINE_LOST, FORKED, or INVALID_ARGUMENT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_loan_send(loan: *mut LoanHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(loan, "loan is NULL") }?.0.send()
    })
}

/// Gives the room back unsent. NULL is ignored. Consumes the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_loan_drop(loan: *mut LoanHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(loan, "loan is NULL") }.ok().map(drop)
    });
}
