//! Statistics of a flow.

use pyo3::prelude::*;

/// What the sidecar knew of a flow when it was asked. Messages and bytes count from the opening of the flow; what belongs to the
/// network path is 0 between two programs of one host and after the flow's end.
#[pyclass(module = "machnet", frozen, get_all)]
#[derive(Debug)]
pub(crate) struct FlowStats {
    /// The peer is a program of the same sidecar.
    local: bool,
    /// Smoothed round-trip time between the sidecars in nanoseconds, 0 before the first sample.
    smoothed_rtt_ns: u64,
    /// Least round-trip time of the last 10 to 20 seconds in nanoseconds.
    min_rtt_ns: u64,
    /// Messages taken from the program.
    messages_sent: u64,
    /// Bytes of those.
    bytes_sent: u64,
    /// Messages of those that the peer's sidecar has.
    messages_acknowledged: u64,
    /// Bytes of those.
    bytes_acknowledged: u64,
    /// Messages put into the program's memory, read or not.
    messages_received: u64,
    /// Bytes of those.
    bytes_received: u64,
    /// Segments sent again.
    retransmissions: u64,
    /// Datagrams sent.
    datagrams_sent: u64,
    /// Datagrams received.
    datagrams_received: u64,
    /// UDP payload bytes sent, headers and repeats included.
    wire_bytes_sent: u64,
    /// UDP payload bytes received.
    wire_bytes_received: u64,
    /// Congestion window in bytes.
    congestion_window_bytes: u64,
    /// UDP payload bytes on their way.
    bytes_in_flight: u64,
    /// Largest UDP payload in bytes that was proved to reach the peer.
    path_datagram_bytes: u64,
}

#[pymethods]
impl FlowStats {
    fn __repr__(&self) -> String {
        format!("<machnet.{self:?}>")
    }
}

impl From<machnet_client::FlowStats> for FlowStats {
    fn from(stats: machnet_client::FlowStats) -> Self {
        Self {
            local: stats.local,
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
        }
    }
}
