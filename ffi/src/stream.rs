//! Byte streams over flows.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::ffi::c_void;

use machnet_client::{Error, Result, Stream};

use crate::boundary::{answer, borrowed, bytes_in, bytes_out, hand_out, place, status, take_back, value};
use crate::cancel::waiting;
use crate::channel::MachnetAddress;
use crate::flow::FlowHandle;
use crate::stats::{self, MachnetFlowStats};

/// A byte stream, both ways.
#[derive(Debug)]
pub struct StreamHandle(pub(crate) Stream);

/// Makes a byte stream of a flow of which nothing was received yet. The peer has to do the same: both ends agree on it, as they agree
/// on a port. Consumes the flow's handle, whatever it returns. Thread-safe.
///
/// Returns 0 and `*stream`, to be ended with `machnet_stream_close`; or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_open(flow: *mut FlowHandle, stream: *mut *mut StreamHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        let flow = unsafe { take_back(flow, "flow is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(stream, "stream is NULL") }?;
        place.put(hand_out(StreamHandle(Stream::new(flow.0)?)));
        Ok(())
    })
}

/// The peer's address and port. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_peer_address(
    stream: *const StreamHandle,
    address: *mut MachnetAddress,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((stream, "stream is NULL"), (address, "address is NULL"), |stream| {
            Ok(stream.0.peer_addr().into())
        })
    }
}

/// The address and port of this side. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_local_address(
    stream: *const StreamHandle,
    address: *mut MachnetAddress,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((stream, "stream is NULL"), (address, "address is NULL"), |stream| {
            Ok(stream.0.local_addr().into())
        })
    }
}

/// As `machnet_flow_stats`, of the flow under the stream. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_stats(
    stream: *const StreamHandle,
    stats: *mut MachnetFlowStats,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let stream = unsafe { borrowed(stream, "stream is NULL") }?;
        // SAFETY: as C promises.
        unsafe { stats::answer(stats, || stream.0.flow().stats()) }
    })
}

/// Ends both directions at once and keeps the handle: the peer gets MACHNET_STATUS_RESET, not the end of the stream. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_reset(stream: *const StreamHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(stream, "stream is NULL") }?.0.flow().reset()
    })
}

/// Reads up to `capacity` bytes; waits at most `timeout_ms` milliseconds (negative: for ever) for the first. Thread-safe.
///
/// Returns 0 and how many in `*len`, 0 being the end of the stream; or MACHNET_STATUS_TIMED_OUT, RESET, NOT_A_STREAM, CLOSED if this side
/// closed the channel, CANCELLED, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_read(
    stream: *const StreamHandle,
    buf: *mut c_void,
    capacity: usize,
    timeout_ms: i32,
    len: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        read(stream, buf, capacity, len, |stream, buffer| {
            waiting(timeout_ms, |wait| stream.read_with(buffer, wait))
        })
    }
}

/// As `machnet_stream_read`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there are no bytes now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_try_read(
    stream: *const StreamHandle,
    buf: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        read(stream, buf, capacity, len, |stream, buffer| stream.try_read(buffer)?.ok_or(Error::WouldBlock))
    }
}

/// Writes as many of `len` bytes as one message takes, at most 65,535; waits at most `timeout_ms` milliseconds (negative: for ever)
/// for room. What is written goes at once. Call it again for the rest. Thread-safe.
///
/// Returns 0 and how many in `*written`, at least 1; or MACHNET_STATUS_TIMED_OUT, CLOSED if the peer closed or this side ended writing,
/// RESET, CANCELLED, ENGINE_LOST, FORKED, EMPTY_MESSAGE for 0 bytes, or INVALID_ARGUMENT, and then nothing was written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_write(
    stream: *const StreamHandle,
    buf: *const c_void,
    len: usize,
    timeout_ms: i32,
    written: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        write(stream, buf, len, written, |stream, bytes| {
            waiting(timeout_ms, |wait| stream.write_with(bytes, wait))
        })
    }
}

/// As `machnet_stream_write`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no room now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_try_write(
    stream: *const StreamHandle,
    buf: *const c_void,
    len: usize,
    written: *mut usize,
) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        write(stream, buf, len, written, |stream, bytes| stream.try_write(bytes)?.ok_or(Error::WouldBlock))
    }
}

/// Half-closes: the peer reads what was written and then the end of the stream, and this side reads on. Waits at most `timeout_ms`
/// milliseconds (negative: for ever) for room to say so. Doing it again does nothing. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_TIMED_OUT, RESET, CANCELLED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_end(stream: *const StreamHandle, timeout_ms: i32) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let stream = unsafe { borrowed(stream, "stream is NULL") }?;
        waiting(timeout_ms, |wait| stream.0.end_with(wait))
    })
}

/// As `machnet_stream_end`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no room now. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_try_end(stream: *const StreamHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let stream = unsafe { borrowed(stream, "stream is NULL") }?;
        if stream.0.try_end()? { Ok(()) } else { Err(Error::WouldBlock) }
    })
}

/// Closes both directions in order behind what was written, and returns at once. NULL is ignored. Consumes the handle: no other call may
/// use it meanwhile or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_close(stream: *mut StreamHandle) {
    value((), || {
        // SAFETY: a handle of ours, which C gives up, or NULL.
        unsafe { take_back(stream, "stream is NULL") }.ok().map(drop)
    });
}

/// # Safety
/// `stream` is a handle or NULL, `buf` NULL or of `capacity` bytes, `len` NULL or valid for a write.
unsafe fn read(
    stream: *const StreamHandle,
    buf: *mut c_void,
    capacity: usize,
    len: *mut usize,
    read: impl FnOnce(&Stream, &mut [u8]) -> Result<usize>,
) -> i32 {
    status(|| {
        // SAFETY: as the caller promises.
        let stream = unsafe { borrowed(stream, "stream is NULL") }?;
        // SAFETY: as the caller promises.
        let mut place = unsafe { place(len, "len is NULL") }?;
        // SAFETY: as the caller promises.
        place.put(read(&stream.0, unsafe { bytes_out(buf, capacity) }?)?);
        Ok(())
    })
}

/// # Safety
/// `stream` is a handle or NULL, `buf` NULL or of `len` bytes, `written` NULL or valid for a write.
unsafe fn write(
    stream: *const StreamHandle,
    buf: *const c_void,
    len: usize,
    written: *mut usize,
    write: impl FnOnce(&Stream, &[u8]) -> Result<usize>,
) -> i32 {
    status(|| {
        // SAFETY: as the caller promises.
        let stream = unsafe { borrowed(stream, "stream is NULL") }?;
        // SAFETY: as the caller promises.
        let mut place = unsafe { place(written, "written is NULL") }?;
        // SAFETY: as the caller promises.
        place.put(write(&stream.0, unsafe { bytes_in(buf, len) }?)?);
        Ok(())
    })
}
