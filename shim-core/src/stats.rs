//! What the sidecar knows of a flow, as numbers.

/// Statistics of one flow, from [`crate::Flow::stats`] and its like: a snapshot of what the flow's engine knew when it was
/// asked. What was sent a moment ago may not be counted yet.
///
/// Messages and bytes count from the opening of the flow and stay after its end. What belongs to the network path is 0 for a
/// flow between two applications of one host, and 0 once the flow has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[non_exhaustive]
pub struct FlowStats {
    /// The peer is an application of the same sidecar: no packet is made, so there is no round trip to measure.
    pub local: bool,
    /// Smoothed round-trip time between the two sidecars in nanoseconds, 0 before the first sample.
    pub smoothed_rtt_ns: u64,
    /// Least round-trip time of the last 10 to 20 seconds in nanoseconds, 0 before the first sample.
    pub min_rtt_ns: u64,
    /// Messages taken from the application.
    pub messages_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
    /// Messages of those that the peer's sidecar has whole, or that the application of the same host was given.
    pub messages_acknowledged: u64,
    /// Bytes of those.
    pub bytes_acknowledged: u64,
    /// Messages put into the application's memory, read or not.
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
}

impl FlowStats {
    /// How many numbers a record of the control socket carries.
    pub(crate) const WORDS: usize = 17;

    /// The numbers in the order of the record. New ones are only ever added at the end.
    pub(crate) fn to_words(self) -> [u64; Self::WORDS] {
        [
            u64::from(self.local),
            self.smoothed_rtt_ns,
            self.min_rtt_ns,
            self.messages_sent,
            self.bytes_sent,
            self.messages_acknowledged,
            self.bytes_acknowledged,
            self.messages_received,
            self.bytes_received,
            self.retransmissions,
            self.datagrams_sent,
            self.datagrams_received,
            self.wire_bytes_sent,
            self.wire_bytes_received,
            self.congestion_window_bytes,
            self.bytes_in_flight,
            self.path_datagram_bytes,
        ]
    }

    /// The same from a record. What the sidecar does not tell is 0.
    pub(crate) fn from_words(words: &[u64; Self::WORDS]) -> Self {
        Self {
            local: words[0] != 0,
            smoothed_rtt_ns: words[1],
            min_rtt_ns: words[2],
            messages_sent: words[3],
            bytes_sent: words[4],
            messages_acknowledged: words[5],
            bytes_acknowledged: words[6],
            messages_received: words[7],
            bytes_received: words[8],
            retransmissions: words[9],
            datagrams_sent: words[10],
            datagrams_received: words[11],
            wire_bytes_sent: words[12],
            wire_bytes_received: words[13],
            congestion_window_bytes: words[14],
            bytes_in_flight: words[15],
            path_datagram_bytes: words[16],
        }
    }
}
