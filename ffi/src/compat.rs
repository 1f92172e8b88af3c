//! The functions of the original C library: same names, arguments, structs and answers, over this library's channels.
//!
//! Their flows are in channel mode: one `machnet_recv` returns the messages of all of them.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use std::ffi::{c_char, c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use libc::ssize_t;
use machnet_client::{AttachOptions, Error, FlowId, Geometry, Result};

use crate::boundary::{
    array, borrowed, bytes_in, bytes_out, hand_out, invalid, ipv4, note, place, posix, take_back,
};
use crate::channel::ChannelHandle;
use crate::common::{MACHNET_MSG_MAX_LEN, MachnetFlow, MachnetFlow_t, MachnetIovec_t, MachnetMsgHdr_t};

/// Most pieces of one message.
const PIECES_MOST: usize = 1024;
/// Most messages of one `machnet_sendmmsg`.
const MESSAGES_MOST: usize = 65_536;
/// Pieces of a message that need no allocation to be sent.
const PIECES_INLINE: usize = 16;
/// What `machnet_listen` answers to an address that is none.
const BAD_ADDRESS: c_int = -22;

/// Asks whether a sidecar answers. Nothing has to be set up before `machnet_attach`. Thread-safe.
///
/// Returns 0 if one does, else -1 with errno.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_init() -> c_int {
    posix(-1, || AttachOptions::new().geometry(Geometry::SMALL).attach_channel()?.close().map(|()| 0))
}

/// Attaches to the sidecar of $MACHNET_SOCKET, else of the user, else of the system. Thread-safe.
///
/// Returns a channel (a `machnet_channel_t *`), to be ended with `machnet_detach`; or NULL with errno.
#[unsafe(no_mangle)]
pub extern "C" fn machnet_attach() -> *mut c_void {
    posix(std::ptr::null_mut(), || {
        let attachment = machnet_client::attach()?;
        Ok(hand_out(ChannelHandle::new(attachment)).cast())
    })
}

/// Listens on an IPv4 address of the sidecar, given as text, and a port. Flows that arrive are accepted by themselves, and
/// `machnet_recv` returns their messages. Thread-safe.
///
/// Returns 0; -22 if `local_ip` is no IPv4 address; -1 with errno if `channel` is NULL (EINVAL), the address is not the
/// sidecar's (EADDRNOTAVAIL) or in use (EADDRINUSE), or the sidecar is gone (ENETDOWN).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listen(channel: *mut c_void, local_ip: *const c_char, port: u16) -> c_int {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        // SAFETY: NULL or text from C.
        let local = match unsafe { ipv4(local_ip, "local_ip is no IPv4 address") } {
            Ok(ip) => SocketAddr::from((ip, port)),
            Err(error) => {
                note(error);
                return Ok(BAD_ADDRESS);
            }
        };
        let listener = channel.attachment.listen_channel_mode(local, 0)?;
        channel.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        Ok(0)
    })
}

/// Connects from an address of the sidecar ("0.0.0.0" or NULL: the sidecar's own) to a listener of another host. Waits for the
/// outcome as long as the sidecar is configured to, 3 s by default. Thread-safe.
///
/// Returns 0 and `*flow`, ready for `machnet_send`; or -1 with errno: EINVAL for a NULL pointer or an address that is none,
/// EADDRNOTAVAIL for a local address that is not the sidecar's, ECONNREFUSED if nobody listens, EBUSY if the listener is full,
/// ETIMEDOUT if the peer does not answer, EHOSTUNREACH, EMFILE for too many flows, ENETDOWN if the sidecar is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_connect(
    channel: *mut c_void,
    local_ip: *const c_char,
    remote_ip: *const c_char,
    remote_port: u16,
    flow: *mut MachnetFlow_t,
) -> c_int {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(flow, "flow is NULL") }?;
        let local = if local_ip.is_null() {
            None
        } else {
            // SAFETY: text from C.
            let ip = unsafe { ipv4(local_ip, "local_ip is no IPv4 address") }?;
            (!ip.is_unspecified()).then_some(IpAddr::V4(ip))
        };
        // SAFETY: NULL or text from C.
        let remote = unsafe { ipv4(remote_ip, "remote_ip is no IPv4 address") }?;
        let remote = SocketAddr::from((remote, remote_port));
        let connected = channel.attachment.connect_timeout(remote, local, None)?;
        let (ours, peers) = (connected.local_addr(), connected.peer_addr());
        connected.into_channel_mode()?;
        place.put(MachnetFlow {
            src_ip: ipv4_number(ours),
            dst_ip: ipv4_number(peers),
            src_port: ours.port(),
            dst_port: peers.port(),
        });
        Ok(0)
    })
}

/// Sends one message of 1 to MACHNET_MSG_MAX_LEN bytes. `flow` is one that `machnet_connect` answered, or one that a message
/// came with, with its two sides swapped. Does not block. Thread-safe.
///
/// Returns 0 when the message is accepted, which is not yet delivered; or -1 with errno: EAGAIN if the flow has no credit now,
/// EPIPE if it was closed or reset, ENOTCONN if there is no such flow, EMSGSIZE if the message is larger than the peer takes or
/// than MACHNET_MSG_MAX_LEN, EINVAL for 0 bytes or a NULL pointer, ENETDOWN if the sidecar is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_send(
    channel: *const c_void,
    flow: MachnetFlow_t,
    buf: *const c_void,
    len: usize,
) -> c_int {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        check_length(len)?;
        // SAFETY: C has `len` bytes there, or it is NULL.
        let message = unsafe { bytes_in(buf, len) }?;
        let (peer, local) = ends_of(flow);
        channel.attachment.try_send_parts_between(peer, local, &[message]).map(|()| 0)
    })
}

/// Sends one message that lies in several pieces: its first `msg_size` bytes. All or nothing: either the whole message is
/// accepted or none of it. Does not block. Thread-safe.
///
/// Returns as `machnet_send`; EINVAL also if the pieces hold less than `msg_size` bytes or there are more than 1,024 of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_sendmsg(channel: *const c_void, msghdr: *const MachnetMsgHdr_t) -> c_int {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        // SAFETY: a struct of C's or NULL.
        let message = unsafe { borrowed(msghdr, "msghdr is NULL") }?;
        // SAFETY: the struct's pieces are C's promise.
        unsafe { send_pieces(channel, message) }.map(|()| 0)
    })
}

/// Sends `vlen` messages in order, each as `machnet_sendmsg` would, and stops at the first that cannot be accepted. Does not
/// block. Thread-safe.
///
/// Returns how many were accepted. If fewer than `vlen`, errno tells why the next one was not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_sendmmsg(
    channel: *const c_void,
    msghdr_iovec: *const MachnetMsgHdr_t,
    vlen: c_int,
) -> c_int {
    posix(0, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        let count = usize::try_from(vlen).map_err(|_| invalid("vlen is negative"))?.min(MESSAGES_MOST);
        // SAFETY: C has `vlen` structs there, or it is NULL.
        let messages = unsafe { array(msghdr_iovec, count, "msghdr_iovec is NULL") }?;
        let mut queued = 0;
        for message in messages {
            // SAFETY: the struct's pieces are C's promise.
            if let Err(error) = unsafe { send_pieces(channel, message) } {
                note(error);
                break;
            }
            queued += 1;
        }
        Ok(queued)
    })
}

/// Receives the next message of all flows of the channel, in the order of arrival, without blocking. `flow` may be NULL; else
/// it tells whose the message is: `src` is the peer, so swap the sides to reply. Thread-safe.
///
/// Returns the message's length in bytes; 0 if there is none; or -1 with errno: EMSGSIZE if the message was larger than `len`,
/// and it is dropped and counted (see `machnet_channel_info`); EINVAL for a NULL pointer or `len` 0; ENETDOWN if the sidecar is
/// gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_recv(
    channel: *const c_void,
    buf: *mut c_void,
    len: usize,
    flow: *mut MachnetFlow_t,
) -> ssize_t {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        // SAFETY: C has `len` bytes there, or it is NULL.
        let buffer = unsafe { bytes_out(buf, len) }?;
        let Some((from, received)) = receive_into(channel, buffer)? else { return Ok(0) };
        if !flow.is_null() {
            // SAFETY: not NULL, so valid for a write.
            unsafe { flow.write(from) };
        }
        Ok(isize::try_from(received).expect("a message is at most 8 MiB"))
    })
}

/// Receives the next message of all flows of the channel into the pieces of `msghdr`, in order, without blocking. Sets
/// `msg_size`, `flow_info` and `flags`. Thread-safe.
///
/// Returns 1; 0 if there is no message; or -1 with errno as `machnet_recv`, the pieces together being the buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_recvmsg(channel: *const c_void, msghdr: *mut MachnetMsgHdr_t) -> c_int {
    posix(-1, || {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel.cast::<ChannelHandle>(), "channel is NULL") }?;
        if msghdr.is_null() {
            return Err(invalid("msghdr is NULL"));
        }
        // SAFETY: not NULL, so a struct of C's; copied, so that nothing below depends on it.
        let mut answer = unsafe { msghdr.read() };
        // SAFETY: C has so many pieces there, or it is NULL.
        let pieces = unsafe { pieces_of(&answer) }?;
        // The pieces are checked before a message is taken, so that a wrong one costs no message.
        let room = room_of(pieces)?;
        let Some(arrival) = channel.attachment.try_recv_any()? else { return Ok(0) };
        let message: &[u8] = &arrival.message;
        if message.len() > room {
            return Err(dropped(channel, message.len()));
        }
        // SAFETY: each piece has been checked, and its bytes are C's promise.
        unsafe { scatter(message, pieces) };
        answer.msg_size = u32::try_from(message.len()).expect("a message is at most 8 MiB");
        answer.flow_info = flow_of_arrival(arrival.peer, arrival.local);
        answer.flags = 0;
        // SAFETY: as for the read.
        unsafe { msghdr.write(answer) };
        Ok(1)
    })
}

/// As `machnet_channel_close`: closes all flows in order, waits at most the linger time (1 s) until what was sent is
/// acknowledged, and detaches. NULL is ignored. Consumes the channel: no other call may use it meanwhile or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_detach(channel: *const c_void) {
    posix((), || {
        if channel.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, so a handle of ours, which C gives up; const only in the original's signature.
        let channel = unsafe { take_back(channel.cast::<ChannelHandle>().cast_mut(), "channel is NULL") }?;
        channel.attachment.close()
    });
}

/// Reserved: tells nothing, for there is no channel whose shared memory a program could bind by itself.
///
/// Returns NULL and sets `*channel_size`, unless NULL, to 0. The local address of a channel is named by `machnet_listen` and
/// `machnet_connect`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_bind(shm_fd: c_int, channel_size: *mut usize) -> *mut c_void {
    let _ = shm_fd;
    if !channel_size.is_null() {
        // SAFETY: not NULL, so valid for a write.
        unsafe { channel_size.write(0) };
    }
    std::ptr::null_mut()
}

/// How a received message names its flow: the peer is the source.
pub(crate) fn flow_of_arrival(peer: SocketAddr, local: SocketAddr) -> MachnetFlow {
    MachnetFlow {
        src_ip: ipv4_number(peer),
        dst_ip: ipv4_number(local),
        src_port: peer.port(),
        dst_port: local.port(),
    }
}

/// The channel-mode flow that a program names from its own side.
pub(crate) fn known_flow(channel: &ChannelHandle, flow: MachnetFlow) -> Result<FlowId> {
    let (peer, local) = ends_of(flow);
    channel.attachment.find_flow(peer, local)
}

/// The peer and this side of a flow that a program names from its own side.
pub(crate) fn ends_of(flow: MachnetFlow) -> (SocketAddr, SocketAddr) {
    let address = |ip, port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port));
    (address(flow.dst_ip, flow.dst_port), address(flow.src_ip, flow.src_port))
}

/// 0 for an IPv6 address, which the compatible struct cannot hold and the compatible calls cannot make.
fn ipv4_number(address: SocketAddr) -> u32 {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => 0,
    }
}

/// Refuses a length before the bytes are touched: a program may pass one that its memory does not have.
pub(crate) fn check_length(len: usize) -> Result<()> {
    if len == 0 {
        return Err(Error::EmptyMessage);
    }
    if len > MACHNET_MSG_MAX_LEN {
        return Err(Error::MessageTooLarge { len, limit: MACHNET_MSG_MAX_LEN });
    }
    Ok(())
}

/// Receives into one buffer; drops and counts a message that is too large.
fn receive_into(channel: &ChannelHandle, buffer: &mut [u8]) -> Result<Option<(MachnetFlow, usize)>> {
    match channel.attachment.try_recv_any_into(buffer) {
        Ok(None) => Ok(None),
        Ok(Some((_, peer, local, len))) => Ok(Some((flow_of_arrival(peer, local), len))),
        Err(Error::BufferTooSmall { .. }) => {
            // Another thread may have taken the large message meanwhile; then this is another one, and perhaps it fits.
            let Some(arrival) = channel.attachment.try_recv_any()? else { return Ok(None) };
            let message: &[u8] = &arrival.message;
            let Some(room) = buffer.get_mut(..message.len()) else {
                return Err(dropped(channel, message.len()));
            };
            room.copy_from_slice(message);
            Ok(Some((flow_of_arrival(arrival.peer, arrival.local), message.len())))
        }
        Err(error) => Err(error),
    }
}

fn dropped(channel: &ChannelHandle, needed: usize) -> Error {
    channel.dropped_too_small.fetch_add(1, Ordering::Relaxed);
    Error::BufferTooSmall { needed }
}

/// # Safety
/// `msg_iov` is NULL or has `msg_iovlen` pieces during `'a`.
unsafe fn pieces_of<'a>(message: &MachnetMsgHdr_t) -> Result<&'a [MachnetIovec_t]> {
    if message.msg_iovlen > PIECES_MOST {
        return Err(invalid("msg_iovlen is larger than 1024"));
    }
    // SAFETY: as the caller promises.
    unsafe { array(message.msg_iov.cast_const(), message.msg_iovlen, "msg_iov is NULL") }
}

/// How many bytes the pieces hold together; refuses a piece that is NULL but not empty.
fn room_of(pieces: &[MachnetIovec_t]) -> Result<usize> {
    let mut room: usize = 0;
    for piece in pieces {
        if piece.len > 0 && (piece.base.is_null() || isize::try_from(piece.len).is_err()) {
            return Err(invalid("a piece is NULL or too long"));
        }
        room = room.saturating_add(piece.len);
    }
    if room == 0 {
        return Err(invalid("the pieces have no bytes"));
    }
    Ok(room)
}

/// # Safety
/// `room_of` has accepted the pieces, and they are valid for writes and of nobody else.
unsafe fn scatter(mut message: &[u8], pieces: &[MachnetIovec_t]) {
    for piece in pieces {
        let (part, rest) = message.split_at(piece.len.min(message.len()));
        if !part.is_empty() {
            // SAFETY: the piece is not NULL and holds at least as many bytes; it does not overlap with our message.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), piece.base.cast::<u8>(), part.len()) };
        }
        message = rest;
    }
}

/// # Safety
/// The pieces of the message are NULL or valid for reads.
unsafe fn send_pieces(channel: &ChannelHandle, message: &MachnetMsgHdr_t) -> Result<()> {
    let len = message.msg_size as usize;
    check_length(len)?;
    // SAFETY: as the caller promises.
    let pieces = unsafe { pieces_of(message) }?;
    if room_of(pieces)? < len {
        return Err(invalid("the pieces hold less than msg_size"));
    }
    let mut inline = [&[][..]; PIECES_INLINE];
    let mut allocated;
    let parts = if pieces.len() <= PIECES_INLINE {
        &mut inline[..]
    } else {
        allocated = vec![&[][..]; pieces.len()];
        &mut allocated[..]
    };
    let (mut used, mut left) = (0, len);
    for piece in pieces.iter().filter(|piece| piece.len > 0) {
        let taken = piece.len.min(left);
        if taken == 0 {
            break;
        }
        // SAFETY: not NULL and a length that can be, as `room_of` saw; its bytes are the caller's promise.
        parts[used] = unsafe { std::slice::from_raw_parts(piece.base.cast::<u8>().cast_const(), taken) };
        used += 1;
        left -= taken;
    }
    let (peer, local) = ends_of(message.flow_info);
    channel.attachment.try_send_parts_between(peer, local, &parts[..used])
}
