//! What is known of a flow.
#![expect(unsafe_code, reason = "the C boundary: exported names, raw pointers from C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the comments are written for C: every pointer is valid or NULL"
)]

use machnet_client::{FlowStats, Result};

use crate::boundary::{borrowed, invalid, status};
use crate::channel::{ChannelHandle, known_size};
use crate::common::MachnetFlow_t;
use crate::compat::known_flow;
use crate::flow::FlowHandle;

/// What the sidecar knew of a flow when it was asked. Set `struct_size` before asking. Messages and bytes count from the opening
/// of the flow and stay after its end; what belongs to the network path is 0 for a flow between two programs of one host, and 0
/// once the flow has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachnetFlowStats {
    /// `sizeof` this struct in the program: so much is written.
    pub struct_size: usize,
    /// Smoothed round-trip time between the two sidecars in nanoseconds, 0 before the first sample.
    pub smoothed_rtt_ns: u64,
    /// Least round-trip time of the last 10 to 20 seconds in nanoseconds, 0 before the first sample.
    pub min_rtt_ns: u64,
    /// Messages taken from this program.
    pub messages_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
    /// Messages of those that the peer's sidecar has whole, or that the program on the same host was given.
    pub messages_acknowledged: u64,
    /// Bytes of those.
    pub bytes_acknowledged: u64,
    /// Messages put into this program's memory, read or not.
    pub messages_received: u64,
    /// Bytes of those.
    pub bytes_received: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Datagrams sent, whatever they carried.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// UDP payload bytes sent: headers, acknowledgements and repeats included.
    pub wire_bytes_sent: u64,
    /// UDP payload bytes received.
    pub wire_bytes_received: u64,
    /// Congestion window in bytes.
    pub congestion_window_bytes: u64,
    /// UDP payload bytes sent and neither acknowledged nor given up.
    pub bytes_in_flight: u64,
    /// Largest UDP payload in bytes that was proved to reach the peer.
    pub path_datagram_bytes: u64,
    /// 1 if the peer is a program of the same host, so that no packet is made; else 0.
    pub local: u32,
    /// 0.
    pub reserved: u32,
}

/// What the sidecar knows of a flow. Set `stats->struct_size` to `sizeof *stats` before. A rare call: the sidecar is asked over its
/// socket, which takes tens of microseconds. Thread-safe.
///
/// Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW if it is no more, VERSION from a sidecar that is too old to know, TIMED_OUT after 5 s,
/// CLOSED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_flow_stats(flow: *const FlowHandle, stats: *mut MachnetFlowStats) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let flow = unsafe { borrowed(flow, "flow is NULL") }?;
        // SAFETY: as C promises.
        unsafe { answer(stats, || flow.0.stats()) }
    })
}

/// As `machnet_flow_stats`, of a flow made by `machnet_connect` or accepted by `machnet_listen`. `flow` as for `machnet_send`: `src` is
/// this side. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machnet_channel_flow_stats(
    channel: *const ChannelHandle,
    flow: MachnetFlow_t,
    stats: *mut MachnetFlowStats,
) -> i32 {
    status(|| {
        // SAFETY: a handle of ours or NULL.
        let channel = unsafe { borrowed(channel, "channel is NULL") }?;
        // SAFETY: as C promises.
        unsafe { answer(stats, || channel.attachment.flow_stats(known_flow(channel, flow)?)) }
    })
}

/// Fills the program's struct as far as it has room.
///
/// # Safety
/// `stats` is NULL, or its first field is set and it has as many bytes as that says.
pub(crate) unsafe fn answer(
    stats: *mut MachnetFlowStats,
    ask: impl FnOnce() -> Result<FlowStats>,
) -> Result<()> {
    if stats.is_null() {
        return Err(invalid("stats is NULL"));
    }
    // SAFETY: not NULL; C has set the first field.
    let struct_size = unsafe { (&raw const (*stats).struct_size).read() };
    let known = known_size::<MachnetFlowStats>(struct_size)?;
    let answer = for_c(&ask()?, struct_size);
    // SAFETY: C has `struct_size` bytes there, and at most as many are written.
    unsafe { std::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), stats.cast::<u8>(), known) };
    Ok(())
}

fn for_c(stats: &FlowStats, struct_size: usize) -> MachnetFlowStats {
    MachnetFlowStats {
        struct_size,
        smoothed_rtt_ns: stats.smoothed_rtt_ns,
        min_rtt_ns: stats.min_rtt_ns,
        messages_sent: stats.messages_sent,
        bytes_sent: stats.bytes_sent,
        messages_acknowledged: stats.messages_acknowledged,
        bytes_acknowledged: stats.bytes_acknowledged,
        messages_received: stats.messages_received,
        bytes_received: stats.bytes_received,
        retransmissions: stats.retransmissions,
        datagrams_sent: stats.datagrams_sent,
        datagrams_received: stats.datagrams_received,
        wire_bytes_sent: stats.wire_bytes_sent,
        wire_bytes_received: stats.wire_bytes_received,
        congestion_window_bytes: stats.congestion_window_bytes,
        bytes_in_flight: stats.bytes_in_flight,
        path_datagram_bytes: stats.path_datagram_bytes,
        local: u32::from(stats.local),
        reserved: 0,
    }
}
