//! Attach, what a channel tells about itself, and the messages of its channel-mode flows.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::ffi::{c_char, c_void};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use machnet_client::{
    AttachOptions, Attachment, DoorbellKind, Error, Geometry, Listener, Result, WaitPolicy,
};

use crate::boundary::{self, answer, borrowed, hand_out, invalid, place, status, take_back, value};
use crate::cancel::waiting;
use crate::common::MachnetFlow_t;
use crate::compat::{check_length, ends_of, flow_of_arrival, known_flow};
use crate::message::MessageHandle;
use crate::status::{errno_of_code, name_of, text_of};

/// Version of this header: `major << 16 | minor << 8 | patch`. Compare it with `machnet_version()` of the library.
pub const MACHNET_VERSION: u32 = 0x00_01_00;

/// A channel: the attachment to a sidecar. From `machnet_attach_with` or `machnet_attach`.
#[derive(Debug)]
pub struct ChannelHandle {
    pub(crate) attachment: Attachment,
    /// The listeners of `machnet_listen`, which has no handle for them: they live as long as the channel.
    pub(crate) listeners: Mutex<Vec<Listener>>,
    /// Messages that a compatible call dropped because its buffer was too small.
    pub(crate) dropped_too_small: AtomicU64,
}

impl ChannelHandle {
    pub(crate) fn new(attachment: Attachment) -> Self {
        Self { attachment, listeners: Mutex::default(), dropped_too_small: AtomicU64::new(0) }
    }
}

/// An IP address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachnetAddress {
    /// The address in network byte order, as inet_ntop takes it; IPv4 in the first four bytes.
    pub bytes: [u8; 16],
    /// The port, in host byte order.
    pub port: u16,
    /// 4 or 6.
    pub ip_version: u8,
    /// 0.
    pub reserved: u8,
}

impl From<SocketAddr> for MachnetAddress {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; 16];
        let ip_version = match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                bytes[..4].copy_from_slice(&ip.octets());
                4
            }
            IpAddr::V6(ip) => {
                bytes = ip.octets();
                6
            }
        };
        Self { bytes, port: address.port(), ip_version, reserved: 0 }
    }
}

/// What can be chosen at attach. Fill it with `machnet_attach_options_init` first, then change what matters.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachnetAttachOptions {
    /// `sizeof` this struct in the program, so that it may grow in later versions.
    pub struct_size: usize,
    /// The sidecar's socket. NULL: $MACHNET_SOCKET, else the user's own sidecar if there is one, else the system's.
    pub socket_path: *const c_char,
    /// The name that `machnet status` shows. NULL: the program's.
    pub name: *const c_char,
    /// Number of the engine that shall serve the channel; -1: any.
    pub engine: i32,
    /// 0: the event fd is a pipe; 1: a stream socket.
    pub doorbell: u32,
    /// How blocking calls wait. 0: automatic; 1: spin, for a thread with a CPU of its own; 2: yield; 3: sleep at once.
    pub wait_policy: u32,
    /// How long a close of the channel waits until what was sent is acknowledged, in milliseconds. Default: 1000.
    pub linger_ms: u32,
    /// Sizes of the channel. 0: default, takes 8 MiB messages both ways; 1: small, 256 KiB in all; 2: large, for bulk.
    pub sizes: u32,
    /// Slots of the send ring, a power of two. This and the following: 0 keeps what `sizes` says.
    pub send_slots: u32,
    /// Slots of the receive ring, a power of two.
    pub receive_slots: u32,
    /// Buffers to send from.
    pub tx_buffers: u32,
    /// Buffers to receive into.
    pub rx_buffers: u32,
    /// Bytes of one buffer, a power of two.
    pub buffer_bytes: u32,
    /// Most flows at a time.
    pub max_flows: u32,
    /// Messages of one flow that may be sent and not yet acknowledged.
    pub flow_credit: u32,
}

impl Default for MachnetAttachOptions {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            socket_path: std::ptr::null(),
            name: std::ptr::null(),
            engine: -1,
            doorbell: 0,
            wait_policy: 0,
            linger_ms: 1000,
            sizes: 0,
            send_slots: 0,
            receive_slots: 0,
            tx_buffers: 0,
            rx_buffers: 0,
            buffer_bytes: 0,
            max_flows: 0,
            flow_credit: 0,
        }
    }
}

/// What a channel is. Set `struct_size` before asking.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachnetChannelInfo {
    /// `sizeof` this struct in the program: so much is written.
    pub struct_size: usize,
    /// Number of the channel, unique for the sidecar's life.
    pub channel: u64,
    /// Messages dropped by `machnet_recv` and `machnet_recvmsg` because the buffer was too small.
    pub dropped_too_small: u64,
    /// Engine that serves the channel.
    pub engine: u32,
    /// Process of the sidecar.
    pub sidecar_pid: u32,
    /// The sidecar's address.
    pub local: MachnetAddress,
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
    /// Buffers to send from.
    pub tx_buffers: u32,
    /// Buffers to receive into.
    pub rx_buffers: u32,
    /// Most flows at a time.
    pub max_flows: u32,
    /// Messages of one flow that may be sent and not yet acknowledged.
    pub flow_credit: u32,
}

/// Version of the library: `major << 16 | minor << 8 | patch`. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_version() -> u32 {
    MACHNET_VERSION
}

/// Version of the library as text, such as "0.1.0"; lives for ever. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_version_string() -> *const c_char {
    const TEXT: &std::ffi::CStr =
        match std::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => panic!("the version has no NUL"),
        };
    TEXT.as_ptr()
}

/// One sentence about a status; lives for ever, also for a number that is none. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_strerror(code: i32) -> *const c_char {
    text_of(code).as_ptr()
}

/// The name of a status, such as "NoSidecar"; "Ok" for 0 and "Unknown" for a number that is none. The same in every language, and
/// lives for ever. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_error_name(code: i32) -> *const c_char {
    name_of(code).as_ptr()
}

/// The reason of this thread's last failed call, with names, addresses and numbers. Valid until the thread's next failed call
/// or next `machnet_last_error`. Never NULL. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_last_error() -> *const c_char {
    value(text_of(0).as_ptr(), || Some(boundary::last_error_text()))
}

/// The errno nearest in meaning to a status, the one that the compatible functions would set. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_status_errno(code: i32) -> i32 {
    errno_of_code(code)
}

/// Fills `options` with the defaults. `struct_size` is `sizeof *options`. Thread-safe.
///
/// Returns 0, or MACHNET_STATUS_INVALID_ARGUMENT if `options` is NULL or smaller or larger than any version knows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_attach_options_init(
    options: *mut MachnetAttachOptions,
    struct_size: usize,
) -> i32 {
    status(|| {
        if options.is_null() {
            return Err(invalid("options is NULL"));
        }
        let defaults = MachnetAttachOptions { struct_size, ..MachnetAttachOptions::default() };
        let known = known_size::<MachnetAttachOptions>(struct_size)?;
        // SAFETY: the caller has `struct_size` bytes there; at most as many are written, from a value at least as large.
        unsafe {
            std::ptr::write_bytes(options.cast::<u8>(), 0, struct_size);
            std::ptr::copy_nonoverlapping((&raw const defaults).cast::<u8>(), options.cast::<u8>(), known);
        }
        Ok(())
    })
}

/// The number of an engine, for `engine` of the options, that is named as `machnet status` does: "engine0", "engine 0" or "0". It does
/// not ask whether there is one: `machnet_attach_with` answers MACHNET_STATUS_NO_ENGINE, with those that there are. Thread-safe.
///
/// Returns 0 and `*engine`; or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_engine_number(name: *const c_char, engine: *mut i32) -> i32 {
    status(|| {
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(engine, "engine is NULL") }?;
        // SAFETY: NULL or text from C.
        let name =
            unsafe { boundary::text(name, "name is no text") }?.ok_or_else(|| invalid("name is NULL"))?;
        let number = i32::try_from(machnet_client::engine_number(name)?);
        place.put(number.map_err(|_| invalid("no engine has so large a number"))?);
        Ok(())
    })
}

/// Attaches to a sidecar. `options` may be NULL for the defaults. Takes about a millisecond; waits at most 5 s. Thread-safe.
///
/// Returns 0 and `*channel`, to be ended with `machnet_channel_close`; or MACHNET_STATUS_NO_SIDECAR, SOCKET_PERMISSION,
/// VERSION, ATTACH_REFUSED, NO_ENGINE, TIMED_OUT, INVALID_ARGUMENT or IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_attach_with(
    options: *const MachnetAttachOptions,
    channel: *mut *mut ChannelHandle,
) -> i32 {
    status(|| {
        // SAFETY: a pointer of C's, checked for NULL; C's promise covers the rest.
        let mut place = unsafe { place(channel, "channel is NULL") }?;
        // SAFETY: as above; at most the `struct_size` bytes that C says it has are read.
        let options = unsafe { read_options(options) }?;
        // SAFETY: the texts of a filled struct are NULL or end with NUL.
        let attachment = unsafe { attach_options(&options) }?.attach()?;
        place.put(hand_out(ChannelHandle::new(attachment)));
        Ok(())
    })
}

/// Closes all flows of the channel in order, waits at most the linger time until what was sent is acknowledged, and detaches.
/// NULL is ignored. Consumes the handle: no other call may use it meanwhile or later. Flows and listeners of the channel that
/// are still open answer MACHNET_STATUS_CLOSED from now on and must still be closed.
///
/// Returns 0; or the reason why some of what was sent may be lost. The channel is gone in every case.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_close(channel: *mut ChannelHandle) -> i32 {
    status(|| {
        if channel.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, so a handle of ours that C gives up.
        let channel = unsafe { take_back(channel, "channel is NULL") }?;
        channel.attachment.close()
    })
}

/// As `machnet_channel_close`, and keeps the handle, for programs in which other threads may still use it: all calls on the channel answer
/// MACHNET_STATUS_CLOSED from now on. The handle must still be ended with `machnet_channel_close`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_shutdown(channel: *const ChannelHandle) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        unsafe { borrowed(channel, "channel is NULL") }?.attachment.close()
    })
}

/// Tells what the channel is. Set `info->struct_size` to `sizeof *info` before. Thread-safe.
///
/// Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_info(
    channel: *const ChannelHandle,
    info: *mut MachnetChannelInfo,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        if info.is_null() {
            return Err(invalid("info is NULL"));
        }
        // SAFETY: not NULL; C has set the first field.
        let struct_size = unsafe { (&raw const (*info).struct_size).read() };
        let known = known_size::<MachnetChannelInfo>(struct_size)?;
        let answer = channel_info(channel, struct_size);
        // SAFETY: C has `struct_size` bytes there, and at most as many are written.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), info.cast::<u8>(), known);
        };
        Ok(())
    })
}

/// The descriptor to poll for readability, alone or with others: poll, select, epoll level-triggered. Never read from it, never
/// close it. The first call switches the channel into event mode: from then on, when a `try_` call has answered
/// MACHNET_STATUS_WOULD_BLOCK (or a compatible one "none"), either the descriptor is readable or nothing has come since.
/// Thread-safe.
///
/// Returns 0 and `*fd`; or MACHNET_STATUS_INVALID_ARGUMENT, ENGINE_LOST or FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_event_fd(channel: *const ChannelHandle, fd: *mut i32) -> i32 {
    // SAFETY: as C promises.
    unsafe {
        answer((channel, "channel is NULL"), (fd, "fd is NULL"), |channel| {
            Ok(channel.attachment.event_fd()?.as_raw_fd())
        })
    }
}

/// Waits at most `timeout_ms` milliseconds (negative: for ever) for the next message of the flows made by `machnet_connect` or
/// accepted by `machnet_listen`, and lends it. `flow` may be NULL; else it tells whose it is, `src` being the peer. Thread-safe.
///
/// Returns 0 and `*message`, to be given back with `machnet_message_release`; or MACHNET_STATUS_TIMED_OUT, ENGINE_LOST, FORKED
/// or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_recv_loan(
    channel: *const ChannelHandle,
    timeout_ms: i32,
    flow: *mut MachnetFlow_t,
    message: *mut *mut MessageHandle,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(message, "message is NULL") }?;
        let arrival = waiting(timeout_ms, |wait| channel.attachment.recv_any(wait))?;
        if !flow.is_null() {
            // SAFETY: not NULL, so valid for a write.
            unsafe { flow.write(flow_of_arrival(arrival.peer, arrival.local)) };
        }
        place.put(hand_out(MessageHandle::from(arrival.message)));
        Ok(())
    })
}

/// Sends one message on a flow made by `machnet_connect` or accepted by `machnet_listen`; waits at most `timeout_ms`
/// milliseconds (negative: for ever) for credit. `flow` as for `machnet_send`: `src` is this side. Thread-safe.
///
/// Returns 0 when the message is accepted, which is not yet delivered; or MACHNET_STATUS_TIMED_OUT, UNKNOWN_FLOW, CLOSED,
/// RESET, MESSAGE_TOO_LARGE, EMPTY_MESSAGE, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_send(
    channel: *const ChannelHandle,
    flow: MachnetFlow_t,
    buf: *const c_void,
    len: usize,
    timeout_ms: i32,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        check_length(len)?;
        // SAFETY: C has `len` bytes there, or it is NULL.
        let message = unsafe { boundary::bytes_in(buf, len) }?;
        let (peer, local) = ends_of(flow);
        waiting(timeout_ms, |wait| channel.attachment.send_between(peer, local, message, wait))
    })
}

/// Closes one flow made by `machnet_connect` or accepted by `machnet_listen`, in order. `flow` as for `machnet_send`: `src` is
/// this side. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW, CLOSED, RESET, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_close_flow(
    channel: *const ChannelHandle,
    flow: MachnetFlow_t,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        let id = known_flow(channel, flow)?;
        channel.attachment.close_flow(id)
    })
}

/// How much of a struct both C and we know. It may have grown on either side.
pub(crate) fn known_size<T>(struct_size: usize) -> Result<usize> {
    const STRUCT_MOST: usize = 4096;
    if struct_size < size_of::<usize>() || struct_size > STRUCT_MOST {
        return Err(invalid("struct_size is not set to the size of the struct"));
    }
    Ok(struct_size.min(size_of::<T>()))
}

/// The options of C over the defaults.
///
/// # Safety
/// `options` is NULL, or has a first field and as many bytes as that says.
unsafe fn read_options(options: *const MachnetAttachOptions) -> Result<MachnetAttachOptions> {
    let mut ours = MachnetAttachOptions::default();
    if options.is_null() {
        return Ok(ours);
    }
    // SAFETY: not NULL, and the first field is there.
    let struct_size = unsafe { (&raw const (*options).struct_size).read() };
    let known = known_size::<MachnetAttachOptions>(struct_size)?;
    for beyond in known..struct_size {
        // SAFETY: within the bytes that C says it has.
        if unsafe { options.cast::<u8>().add(beyond).read() } != 0 {
            return Err(invalid("options has a field set that this version of the library does not know"));
        }
    }
    // SAFETY: `known` bytes are there on both sides, and any bytes make a value of this struct of numbers and pointers.
    unsafe { std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut ours).cast::<u8>(), known) };
    Ok(ours)
}

/// # Safety
/// The texts are NULL or end with NUL.
unsafe fn attach_options(options: &MachnetAttachOptions) -> Result<AttachOptions> {
    let mut chosen = AttachOptions::new()
        .geometry(geometry(options)?)
        .linger(Duration::from_millis(options.linger_ms.into()))
        .doorbell(match options.doorbell {
            0 => DoorbellKind::Pipe,
            1 => DoorbellKind::Socket,
            _ => return Err(invalid("doorbell is neither 0 nor 1")),
        })
        .wait_policy(match options.wait_policy {
            0 => WaitPolicy::Auto,
            1 => WaitPolicy::Spin,
            2 => WaitPolicy::Yield,
            3 => WaitPolicy::Block,
            _ => return Err(invalid("wait_policy is not 0 to 3")),
        });
    if let Ok(engine) = u32::try_from(options.engine) {
        chosen = chosen.engine(engine);
    }
    // SAFETY: as the caller promises.
    if let Some(path) = unsafe { boundary::text(options.socket_path, "socket_path is no text") }? {
        chosen = chosen.socket(path);
    }
    // SAFETY: as the caller promises.
    if let Some(name) = unsafe { boundary::text(options.name, "name is no text") }? {
        chosen = chosen.name(name);
    }
    Ok(chosen)
}

fn geometry(options: &MachnetAttachOptions) -> Result<Geometry> {
    let mut geometry = match options.sizes {
        0 => Geometry::DEFAULT,
        1 => Geometry::SMALL,
        2 => Geometry::LARGE,
        _ => return Err(invalid("sizes is not 0 to 2")),
    };
    for (chosen, field) in [
        (options.send_slots, &mut geometry.send_slots),
        (options.receive_slots, &mut geometry.receive_slots),
        (options.tx_buffers, &mut geometry.tx_buffers),
        (options.rx_buffers, &mut geometry.rx_buffers),
        (options.buffer_bytes, &mut geometry.buffer_bytes),
        (options.max_flows, &mut geometry.max_flows),
        (options.flow_credit, &mut geometry.flow_credit),
    ] {
        if chosen != 0 {
            *field = chosen;
        }
    }
    match geometry.fault() {
        None => Ok(geometry),
        Some(fault) => Err(Error::InvalidArgument { what: fault.to_owned() }),
    }
}

fn channel_info(channel: &ChannelHandle, struct_size: usize) -> MachnetChannelInfo {
    let info = channel.attachment.info();
    MachnetChannelInfo {
        struct_size,
        channel: info.channel,
        dropped_too_small: channel.dropped_too_small.load(Ordering::Relaxed),
        engine: info.engine,
        sidecar_pid: info.sidecar_pid,
        local: info.local.into(),
        buffer_bytes: info.geometry.buffer_bytes,
        tx_buffers: info.geometry.tx_buffers,
        rx_buffers: info.geometry.rx_buffers,
        max_flows: info.geometry.max_flows,
        flow_credit: info.geometry.flow_credit,
    }
}
