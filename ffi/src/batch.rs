//! Many messages in one call.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use machnet_client::{Error, Message, Result};

use crate::boundary::{array, borrowed, hand_out, invalid, place, status};
use crate::cancel::waiting;
use crate::common::MachnetIovec_t;
use crate::flow::{FlowHandle, message_in};
use crate::message::MessageHandle;

/// Most messages of one call that sends or receives many.
const MANY_MOST: usize = 256;

/// Sends up to `count` messages in order, each piece of `messages` being one, as many as there is credit for, without waiting.
/// At most 256 a call. Thread-safe.
///
/// Returns 0 and how many were accepted in `*sent`, at least 1; MACHNET_STATUS_WOULD_BLOCK if none could be; or as
/// `machnet_flow_try_send`, and then none was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_send_many(
    flow: *const FlowHandle,
    messages: *const MachnetIovec_t,
    count: usize,
    sent: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        send_many(flow, messages, count, sent, |flow, messages| {
            let accepted = flow.0.try_send_many(messages)?;
            if accepted == 0 && !messages.is_empty() { Err(Error::WouldBlock) } else { Ok(accepted) }
        })
    }
}

/// Sends `count` messages in order, each piece of `messages` being one; waits at most `timeout_ms` milliseconds (negative: for
/// ever) for credit. At most 256 a call. Thread-safe.
///
/// Returns 0 and how many were accepted in `*sent`: all of them, or fewer if the time passed or the flow ended behind the first; or as
/// `machnet_flow_send`, and then none was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_send_many(
    flow: *const FlowHandle,
    messages: *const MachnetIovec_t,
    count: usize,
    timeout_ms: i32,
    sent: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        send_many(flow, messages, count, sent, |flow, messages| {
            waiting(timeout_ms, |wait| flow.0.send_many(messages, wait))
        })
    }
}

/// # Safety
/// `flow` is a handle or NULL, `messages` NULL or `count` pieces, `sent` NULL or valid for a write.
unsafe fn send_many(
    flow: *const FlowHandle,
    messages: *const MachnetIovec_t,
    count: usize,
    sent: *mut usize,
    send: impl FnOnce(&FlowHandle, &[&[u8]]) -> Result<usize>,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(sent, "sent is NULL") }?;
        // SAFETY: C has so many pieces there, or it is NULL.
        let pieces = unsafe { array(messages, count.min(MANY_MOST), "messages is NULL") }?;
        let mut slices = [&[][..]; MANY_MOST];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            // SAFETY: each piece is C's promise.
            *slice = unsafe { message_in(flow, piece.base, piece.len) }?;
        }
        place.put(send(flow, &slices[..pieces.len()])?);
        Ok(())
    })
}

/// Lends up to `most` messages that are there, in order, without waiting. At most 256 a call. Thread-safe.
///
/// Returns 0 and how many in `*count`, at least 1, each in its place of `messages` and each to be released; else as
/// `machnet_flow_try_recv_loan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_recv_many(
    flow: *const FlowHandle,
    messages: *mut *mut MessageHandle,
    most: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        receive_many(flow, messages, most, count, |flow, received, most| {
            let taken = flow.0.try_recv_many(received, most)?;
            if taken == 0 { Err(Error::WouldBlock) } else { Ok(()) }
        })
    }
}

/// Waits at most `timeout_ms` milliseconds (negative: for ever) for a message, and lends it and those behind it that are there, up to
/// `most`. At most 256 a call. Thread-safe.
///
/// Returns 0 and how many in `*count`, at least 1, each in its place of `messages` and each to be released; else as
/// `machnet_flow_recv_loan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_recv_many(
    flow: *const FlowHandle,
    messages: *mut *mut MessageHandle,
    most: usize,
    timeout_ms: i32,
    count: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        receive_many(flow, messages, most, count, |flow, received, most| {
            waiting(timeout_ms, |wait| flow.0.recv_many(received, most, wait)).map(|_| ())
        })
    }
}

/// # Safety
/// `flow` is a handle or NULL, `messages` NULL or `most` places, `count` NULL or valid for a write.
unsafe fn receive_many(
    flow: *const FlowHandle,
    messages: *mut *mut MessageHandle,
    most: usize,
    count: *mut usize,
    receive: impl FnOnce(&FlowHandle, &mut Vec<Message>, usize) -> Result<()>,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(count, "count is NULL") }?;
        if messages.is_null() || most == 0 {
            return Err(invalid("messages is NULL or has no places"));
        }
        let mut received = Vec::new();
        receive(flow, &mut received, most.min(MANY_MOST))?;
        place.put(received.len());
        for (index, message) in received.into_iter().enumerate() {
            // SAFETY: C has `most` places, and at most so many are there.
            unsafe { messages.add(index).write(hand_out(MessageHandle::from(message))) };
        }
        Ok(())
    })
}
