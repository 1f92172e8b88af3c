//! What came for the many flows of an event loop.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use machnet_client::News;

use crate::boundary::{borrowed, invalid, place, status};
use crate::channel::ChannelHandle;
use crate::flow::{FlowHandle, ListenerHandle, PendingHandle};
use crate::stream::StreamHandle;

/// A receive finds something: a message, or how the flow ended.
pub const MACHNET_NEWS_RECEIVE: u32 = 1;
/// A send that answered MACHNET_STATUS_WOULD_BLOCK may find credit and room now, or how the flow ended.
pub const MACHNET_NEWS_SEND: u32 = 2;
/// The listener has a flow.
pub const MACHNET_NEWS_ACCEPT: u32 = 4;
/// The connect has its outcome.
pub const MACHNET_NEWS_CONNECT: u32 = 8;
/// The flow has ended: what was received before comes first.
pub const MACHNET_NEWS_ENDED: u32 = 16;
/// Of the channel: with RECEIVE, a message of a flow made by `machnet_connect` or accepted by `machnet_listen`; with SEND, credit for
/// one of those, or room for a connect that answered MACHNET_STATUS_WOULD_BLOCK.
pub const MACHNET_NEWS_CHANNEL: u32 = 32;

const _: () = assert!(
    MACHNET_NEWS_RECEIVE == News::RECEIVE
        && MACHNET_NEWS_SEND == News::SEND
        && MACHNET_NEWS_ACCEPT == News::ACCEPT
        && MACHNET_NEWS_CONNECT == News::CONNECT
        && MACHNET_NEWS_ENDED == News::ENDED
        && MACHNET_NEWS_CHANNEL == News::CHANNEL
);

/// What came for a flow, a listener, a connect or the channel since it was told last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachnetNews {
    /// Whose it is: what `machnet_flow_set_token` or its like said; 0 if nothing did, and for the channel.
    pub token: u64,
    /// What it is: some of MACHNET_NEWS_RECEIVE and its like, or'ed. Unknown bits may come; ignore them.
    pub events: u32,
    /// 0.
    pub reserved: u32,
}

/// For an event loop over many flows: writes what came since the last call, at most `most`, so that the loop tries only those
/// instead of all. Each is named by its token and is told once, as often as something comes: try it until it answers
/// MACHNET_STATUS_WOULD_BLOCK, or remember it. Who begins to wait sets the token first and tries then; messages, flows and ends are told
/// also to who never tried.
///
/// From the first call on, only this call empties the descriptor of `machnet_channel_event_fd`: when it has answered fewer than `most`,
/// either the descriptor is readable or nothing has come since. What the program does itself (it drops a loan, and a send
/// that found no room would find it now) rings no bell, and is told at the next call. Thread-safe.
///
/// Returns 0 and how many in `*count`, perhaps none. When the channel serves no more, everybody who waits has to be told, so that no
/// single one is: MACHNET_STATUS_ENGINE_LOST, SIDECAR_BROKEN or CLOSED. Else FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_take_news(
    channel: *const ChannelHandle,
    news: *mut MachnetNews,
    most: usize,
    count: *mut usize,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: checked for NULL, else C's promise.
        let mut place = unsafe { place(count, "count is NULL") }?;
        if news.is_null() || most == 0 {
            return Err(invalid("news is NULL or has no places"));
        }
        let mut taken = Vec::new();
        channel.attachment.take_news(&mut taken, most)?;
        place.put(taken.len());
        for (index, &News { token, events }) in taken.iter().enumerate() {
            // SAFETY: C has `most` places, and at most so many are there.
            unsafe { news.add(index).write(MachnetNews { token, events, reserved: 0 }) };
        }
        Ok(())
    })
}

/// What `machnet_channel_take_news` calls the flow from now on; 0 until it is set. Try the flow once behind it: what came before may have
/// been told without it. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_set_token(flow: *const FlowHandle, token: u64) -> i32 {
    // SAFETY: a handle of ours or NULL.
    status(|| unsafe { borrowed(flow, "flow is NULL") }?.0.set_token(token))
}

/// As `machnet_flow_set_token`, of the stream's flow, which also keeps the token that it had. Thread-safe.
///
/// Returns as that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_stream_set_token(stream: *const StreamHandle, token: u64) -> i32 {
    // SAFETY: a handle of ours or NULL.
    status(|| unsafe { borrowed(stream, "stream is NULL") }?.0.flow().set_token(token))
}

/// As `machnet_flow_set_token`, of a listener. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_CLOSED, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_listener_set_token(listener: *const ListenerHandle, token: u64) -> i32 {
    // SAFETY: a handle of ours or NULL.
    status(|| unsafe { borrowed(listener, "listener is NULL") }?.0.set_token(token))
}

/// As `machnet_flow_set_token`, of a connect under way. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW after the outcome was told, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_pending_set_token(pending: *const PendingHandle, token: u64) -> i32 {
    // SAFETY: a handle of ours or NULL.
    status(|| unsafe { borrowed(pending, "pending is NULL") }?.0.set_token(token))
}
