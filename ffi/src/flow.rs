//! Flow mode: listeners that are accepted from, and flows with a receive of their own.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::ffi::{c_char, c_void};
use std::net::{IpAddr, SocketAddr};

use machnet_client::{Error, Flow, Listener, PendingConnect, Result, Wait};

use crate::boundary::{
    address, answer, borrowed, bytes_in, bytes_out, hand_out, invalid, place, status, take_back, text,
    timeout, value,
};
use crate::cancel::waiting;
use crate::channel::{ChannelHandle, MachnetAddress};
use crate::message::{LoanHandle, MessageHandle};

/// Waits for flows on an address.
#[derive(Debug)]
pub struct ListenerHandle(pub(crate) Listener);

/// A connect under way.
#[derive(Debug)]
pub struct PendingHandle(pub(crate) PendingConnect);

/// One connection.
#[derive(Debug)]
pub struct FlowHandle(pub(crate) Flow);

/// Listens on an address of the sidecar, IPv4 or IPv6 as text ("0.0.0.0": the sidecar's own), and a port (0: any free one).
/// `backlog`: how many flows may wait to be accepted; 0: 128. Thread-safe.
///
/// Returns 0 and `*listener`, to be ended with `machnet_listener_close`; or MACHNET_STATUS_ADDRESS_NOT_LOCAL, ADDRESS_IN_USE,
/// LISTEN_REFUSED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_open(
    channel: *const ChannelHandle,
    local_ip: *const c_char,
    port: u16,
    backlog: u32,
    listener: *mut *mut ListenerHandle,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(listener, "listener is NULL") }?;
        // SAFETY: NULL or text from C.
        let local = unsafe { address(local_ip, port, "local_ip is no IP address") }?;
        place.put(hand_out(ListenerHandle(channel.attachment.listen(local, backlog)?)));
        Ok(())
    })
}

/// Waits at most `timeout_ms` milliseconds (negative: for ever) for a flow. Thread-safe.
///
/// Returns 0 and `*flow`, to be ended with `machnet_flow_close` or its like; or MACHNET_STATUS_TIMED_OUT, CLOSED, ENGINE_LOST,
/// FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_accept(
    listener: *const ListenerHandle,
    timeout_ms: i32,
    flow: *mut *mut FlowHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((listener, "listener is NULL"), (flow, "flow is NULL"), |listener| {
            let accepted = waiting(timeout_ms, |wait| listener.0.accept_with(wait))?;
            Ok(hand_out(FlowHandle(accepted)))
        })
    }
}

/// As `machnet_listener_accept`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no flow now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_try_accept(
    listener: *const ListenerHandle,
    flow: *mut *mut FlowHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((listener, "listener is NULL"), (flow, "flow is NULL"), |listener| {
            Ok(hand_out(FlowHandle(listener.0.try_accept()?.ok_or(Error::WouldBlock)?)))
        })
    }
}

/// Where it listens: tells the port that was chosen for port 0. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_address(
    listener: *const ListenerHandle,
    address: *mut MachnetAddress,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((listener, "listener is NULL"), (address, "address is NULL"), |listener| {
            Ok(listener.0.local_addr().into())
        })
    }
}

/// Stops listening and keeps the handle: a thread in `machnet_listener_accept` gets MACHNET_STATUS_CLOSED. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_shutdown(listener: *const ListenerHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(listener, "listener is NULL") }?.0.shutdown()
    })
}

/// Stops listening. Flows that were not accepted yet are refused. NULL is ignored. Consumes the handle: no other call may use it
/// meanwhile or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_close(listener: *mut ListenerHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(listener, "listener is NULL") }.ok().map(drop)
    });
}

/// Connects to a listener of another host, or of this one, and waits at most `timeout_ms` milliseconds (negative: as long as the
/// sidecar is configured to, 3 s by default). Addresses are IPv4 or IPv6 as text; `local_ip` NULL: the sidecar's. Thread-safe.
///
/// Returns 0 and `*flow`, to be ended with `machnet_flow_close` or its like; or MACHNET_STATUS_CONNECT_TIMED_OUT, REFUSED, BUSY,
/// CONNECT_FAILED, ADDRESS_NOT_LOCAL, TOO_MANY_FLOWS, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_connect(
    channel: *const ChannelHandle,
    local_ip: *const c_char,
    remote_ip: *const c_char,
    remote_port: u16,
    timeout_ms: i32,
    flow: *mut *mut FlowHandle,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(flow, "flow is NULL") }?;
        // SAFETY: NULL or text from C.
        let (local, remote) = unsafe { ends(local_ip, remote_ip, remote_port) }?;
        let connect = |wait: Wait<'_>| channel.attachment.connect_with(remote, local, wait);
        let connected = waiting(timeout_ms, connect)?;
        place.put(hand_out(FlowHandle(connected)));
        Ok(())
    })
}

/// As `machnet_flow_connect`, without waiting. Thread-safe.
///
/// Returns 0 and `*pending`, to be asked with `machnet_pending_try_finish` (when the event fd is readable) and ended with
/// `machnet_pending_drop`; or MACHNET_STATUS_TOO_MANY_FLOWS, WOULD_BLOCK, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_start_connect(
    channel: *const ChannelHandle,
    local_ip: *const c_char,
    remote_ip: *const c_char,
    remote_port: u16,
    timeout_ms: i32,
    pending: *mut *mut PendingHandle,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(pending, "pending is NULL") }?;
        // SAFETY: NULL or text from C.
        let (local, remote) = unsafe { ends(local_ip, remote_ip, remote_port) }?;
        place.put(hand_out(PendingHandle(channel.attachment.start_connect(
            remote,
            local,
            timeout(timeout_ms),
        )?)));
        Ok(())
    })
}

/// The outcome of a connect. Thread-safe.
///
/// Returns 0 and `*flow`, once; MACHNET_STATUS_WOULD_BLOCK while there is none; or as `machnet_flow_connect`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_pending_try_finish(
    pending: *const PendingHandle,
    flow: *mut *mut FlowHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((pending, "pending is NULL"), (flow, "flow is NULL"), |pending| {
            Ok(hand_out(FlowHandle(pending.0.try_finish()?.ok_or(Error::WouldBlock)?)))
        })
    }
}

/// As `machnet_pending_try_finish`, but waits at most `timeout_ms` milliseconds (negative: for ever): MACHNET_STATUS_TIMED_OUT if the
/// outcome is not there by then; it can be asked for again. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_pending_finish(
    pending: *const PendingHandle,
    timeout_ms: i32,
    flow: *mut *mut FlowHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((pending, "pending is NULL"), (flow, "flow is NULL"), |pending| {
            Ok(hand_out(FlowHandle(waiting(timeout_ms, |wait| pending.0.finish(wait))?)))
        })
    }
}

/// Forgets a connect, finished or not; a flow that comes of it later is closed. NULL is ignored. Consumes the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_pending_drop(pending: *mut PendingHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(pending, "pending is NULL") }.ok().map(drop)
    });
}

/// Sends one message of `len` bytes, at least 1; waits at most `timeout_ms` milliseconds (negative: for ever) for credit.
/// Thread-safe.
///
/// Returns 0 when the message is accepted, which is not yet delivered; or MACHNET_STATUS_TIMED_OUT, CLOSED, RESET,
/// MESSAGE_TOO_LARGE, EMPTY_MESSAGE, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_send(
    flow: *const FlowHandle,
    buf: *const c_void,
    len: usize,
    timeout_ms: i32,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: C has `len` bytes there, or it is NULL.
        let message = unsafe { message_in(flow, buf, len) }?;
        waiting(timeout_ms, |wait| flow.0.send_with(message, wait))
    })
}

/// As `machnet_flow_send`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no credit now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_send(
    flow: *const FlowHandle,
    buf: *const c_void,
    len: usize,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: C has `len` bytes there, or it is NULL.
        flow.0.try_send(unsafe { message_in(flow, buf, len) }?)
    })
}

/// Receives the next message into a buffer of `capacity` bytes; waits at most `timeout_ms` milliseconds (negative: for ever).
/// One receive per flow at a time, others queue. Thread-safe.
///
/// Returns 0 and the message's length in `*len`; MACHNET_STATUS_BUFFER_TOO_SMALL and the length needed in `*len`, and the
/// message stays; TIMED_OUT; CLOSED when the peer has closed and every message is received; RESET; WRONG_MODE, ENGINE_LOST,
/// FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_recv(
    flow: *const FlowHandle,
    buf: *mut c_void,
    capacity: usize,
    timeout_ms: i32,
    len: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        receive_copy(flow, buf, capacity, len, |flow, buffer| {
            waiting(timeout_ms, |wait| flow.recv_into(buffer, wait))
        })
    }
}

/// As `machnet_flow_recv`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no message now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_recv(
    flow: *const FlowHandle,
    buf: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        receive_copy(flow, buf, capacity, len, |flow, buffer| {
            flow.try_recv_into(buffer)?.ok_or(Error::WouldBlock)
        })
    }
}

/// Lends the next message where it lies, without a copy if it lies in one piece; waits at most `timeout_ms` milliseconds
/// (negative: for ever). What is lent counts against the room that the peer may fill. Thread-safe.
///
/// Returns 0 and `*message`, to be given back with `machnet_message_release`; else as `machnet_flow_recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_recv_loan(
    flow: *const FlowHandle,
    timeout_ms: i32,
    message: *mut *mut MessageHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((flow, "flow is NULL"), (message, "message is NULL"), |flow| {
            let received = waiting(timeout_ms, |wait| flow.0.recv_with(wait))?;
            Ok(hand_out(MessageHandle::from(received)))
        })
    }
}

/// As `machnet_flow_recv_loan`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no message now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_recv_loan(
    flow: *const FlowHandle,
    message: *mut *mut MessageHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((flow, "flow is NULL"), (message, "message is NULL"), |flow| {
            let received = flow.0.try_recv()?.ok_or(Error::WouldBlock)?;
            Ok(hand_out(MessageHandle::from(received)))
        })
    }
}

/// Lends room to write a message of `len` bytes where it will be sent from, without waiting. Thread-safe.
///
/// Returns 0 and `*loan`, to be filled through `machnet_loan_data` and ended with `machnet_loan_send` or `machnet_loan_drop`;
/// or MACHNET_STATUS_WOULD_BLOCK if there is no room or credit now, CLOSED, RESET, MESSAGE_TOO_LARGE, EMPTY_MESSAGE,
/// ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_try_lend(
    flow: *const FlowHandle,
    len: usize,
    loan: *mut *mut LoanHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((flow, "flow is NULL"), (loan, "loan is NULL"), |flow| {
            Ok(hand_out(LoanHandle::from(flow.0.lend(len)?)))
        })
    }
}

/// As `machnet_flow_try_lend`; waits at most `timeout_ms` milliseconds (negative: for ever) for room and credit. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_lend(
    flow: *const FlowHandle,
    len: usize,
    timeout_ms: i32,
    loan: *mut *mut LoanHandle,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((flow, "flow is NULL"), (loan, "loan is NULL"), |flow| {
            let lent = waiting(timeout_ms, |wait| flow.0.lend_with(len, wait))?;
            Ok(hand_out(LoanHandle::from(lent)))
        })
    }
}

/// The peer's address and port. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_peer_address(
    flow: *const FlowHandle,
    address: *mut MachnetAddress,
) -> i32 {
    // SAFETY: as C promises.
    unsafe { address_of(flow, address, Flow::peer_addr) }
}

/// The address and port of this side. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_local_address(
    flow: *const FlowHandle,
    address: *mut MachnetAddress,
) -> i32 {
    // SAFETY: as C promises.
    unsafe { address_of(flow, address, Flow::local_addr) }
}

/// The largest message in bytes that the flow takes; 0 only for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_max_message(flow: *const FlowHandle) -> usize {
    value(0, || {
        // SAFETY: a handle of ours or NULL.
        unsafe { flow.as_ref() }.map(|flow| flow.0.max_message())
    })
}

/// How many messages were sent and are not yet acknowledged by the peer's sidecar; after the end of the flow: how many may not
/// have arrived. 0 for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_unacknowledged(flow: *const FlowHandle) -> u32 {
    value(0, || {
        // SAFETY: a handle of ours or NULL.
        unsafe { flow.as_ref() }.map(|flow| flow.0.unacknowledged())
    })
}

/// Closes the flow in order behind the last message sent, and keeps the handle: other calls on it, also those that wait in
/// another thread, answer MACHNET_STATUS_CLOSED. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_RESET, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_shutdown(flow: *const FlowHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(flow, "flow is NULL") }?.0.shutdown()
    })
}

/// As `machnet_flow_shutdown`, and waits at most `timeout_ms` milliseconds (negative: for ever) until the peer's sidecar has
/// everything. Keeps the handle. Thread-safe.
///
/// Returns as `machnet_flow_close_wait`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_shutdown_wait(flow: *const FlowHandle, timeout_ms: i32) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        waiting(timeout_ms, |wait| flow.0.shutdown_with(wait))
    })
}

/// Ends the flow at once and keeps the handle; what the peer's sidecar has not acknowledged may be lost. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_reset(flow: *const FlowHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(flow, "flow is NULL") }?.0.reset()
    })
}

/// Closes the flow in order behind the last message sent, and returns at once. NULL is ignored. Consumes the handle, whatever it
/// returns: no other call may use it meanwhile or later.
///
/// Returns 0; or MACHNET_STATUS_CLOSED or RESET if the flow had ended, ENGINE_LOST or FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_close(flow: *mut FlowHandle) -> i32 {
    status(|| {
        if flow.is_null() {
            return Ok(());
        }
        // SAFETY: a handle of ours, which C gives up.
        unsafe { take_back(flow, "flow is NULL") }?.0.close()
    })
}

/// Closes the flow in order and waits at most `timeout_ms` milliseconds (negative: for ever) until the peer's sidecar has
/// everything. Consumes the handle, whatever it returns.
///
/// Returns 0 if it has; or MACHNET_STATUS_TIMED_OUT or CANCELLED (the close goes on), RESET, ENGINE_LOST, FORKED, or
/// INVALID_ARGUMENT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_close_wait(flow: *mut FlowHandle, timeout_ms: i32) -> i32 {
    status(|| {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        let flow = unsafe { take_back(flow, "flow is NULL") }?;
        waiting(timeout_ms, |wait| flow.0.shutdown_with(wait))
    })
}

/// Ends the flow at once; what the peer's sidecar has not acknowledged may be lost. NULL is ignored. Consumes the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_abort(flow: *mut FlowHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(flow, "flow is NULL") }.ok().map(|flow| flow.0.abort())
    });
}

/// The two ends of a connect.
///
/// # Safety
/// The texts are NULL or end with NUL.
unsafe fn ends(
    local_ip: *const c_char,
    remote_ip: *const c_char,
    remote_port: u16,
) -> Result<(Option<IpAddr>, SocketAddr)> {
    // SAFETY: as the caller promises.
    let local = unsafe { text(local_ip, "local_ip is no text") }?;
    let local = match local {
        None => None,
        Some(ip) => Some(ip.parse::<IpAddr>().map_err(|_| invalid("local_ip is no IP address"))?),
    };
    // SAFETY: as the caller promises.
    let remote = unsafe { address(remote_ip, remote_port, "remote_ip is no IP address") }?;
    Ok((local.filter(|ip| !ip.is_unspecified()), remote))
}

/// A message to send. Its length is checked first, because a program may pass one that its memory does not have.
///
/// # Safety
/// `buf` is NULL or has `len` bytes during `'a`.
pub(crate) unsafe fn message_in<'a>(flow: &FlowHandle, buf: *const c_void, len: usize) -> Result<&'a [u8]> {
    let limit = flow.0.max_message();
    if len > limit {
        return Err(Error::MessageTooLarge { len, limit });
    }
    // SAFETY: as the caller promises.
    unsafe { bytes_in(buf, len) }
}

/// Receives by copy with `receive`, and tells the length also of a message that does not fit.
///
/// # Safety
/// `flow` is a handle or NULL, `buf` NULL or of `capacity` bytes, `len` NULL or valid for a write.
unsafe fn receive_copy(
    flow: *const FlowHandle,
    buf: *mut c_void,
    capacity: usize,
    len: *mut usize,
    receive: impl FnOnce(&Flow, &mut [u8]) -> Result<usize>,
) -> i32 {
    status(|| {
        // SAFETY: as the caller promises.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: as the caller promises.
        let mut place = unsafe { place(len, "len is NULL") }?;
        // SAFETY: as the caller promises.
        let buffer = unsafe { bytes_out(buf, capacity) }?;
        let received = receive(&flow.0, buffer);
        match received {
            Ok(len) | Err(Error::BufferTooSmall { needed: len }) => place.put(len),
            Err(_) => {}
        }
        received.map(|_| ())
    })
}

/// # Safety
/// `flow` is a handle or NULL, `address` NULL or valid for a write.
unsafe fn address_of(
    flow: *const FlowHandle,
    address: *mut MachnetAddress,
    which: impl FnOnce(&Flow) -> SocketAddr,
) -> i32 {
    status(|| {
        // SAFETY: as the caller promises.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: as the caller promises.
        unsafe { place(address, "address is NULL") }?.put(which(&flow.0).into());
        Ok(())
    })
}
