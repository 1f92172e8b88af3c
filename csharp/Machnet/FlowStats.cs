using System;
using Machnet.Native;

namespace Machnet
{
    /// <summary>What the sidecar knew of a flow when it was asked. Messages and bytes count from the opening of the flow and stay after its
    /// end; what belongs to the network path is 0 for a flow between two programs of one host, and once the flow has ended.</summary>
    public sealed class FlowStats
    {
        internal FlowStats(in MachnetFlowStats native)
        {
            SmoothedRtt = TimeSpan.FromTicks((long)(native.smoothed_rtt_ns / 100));
            MinRtt = TimeSpan.FromTicks((long)(native.min_rtt_ns / 100));
            MessagesSent = (long)native.messages_sent;
            BytesSent = (long)native.bytes_sent;
            MessagesAcknowledged = (long)native.messages_acknowledged;
            BytesAcknowledged = (long)native.bytes_acknowledged;
            MessagesReceived = (long)native.messages_received;
            BytesReceived = (long)native.bytes_received;
            Retransmissions = (long)native.retransmissions;
            DatagramsSent = (long)native.datagrams_sent;
            DatagramsReceived = (long)native.datagrams_received;
            WireBytesSent = (long)native.wire_bytes_sent;
            WireBytesReceived = (long)native.wire_bytes_received;
            CongestionWindowBytes = (long)native.congestion_window_bytes;
            BytesInFlight = (long)native.bytes_in_flight;
            PathDatagramBytes = (long)native.path_datagram_bytes;
            IsLocal = native.local != 0;
        }

        /// <summary>Smoothed round-trip time between the two sidecars, zero before the first sample. A tick is 100 ns.</summary>
        public TimeSpan SmoothedRtt { get; }

        /// <summary>Least round-trip time of the last 10 to 20 seconds, zero before the first sample.</summary>
        public TimeSpan MinRtt { get; }

        /// <summary>Messages taken from this program.</summary>
        public long MessagesSent { get; }

        /// <summary>Bytes of those.</summary>
        public long BytesSent { get; }

        /// <summary>Messages of those that the peer's sidecar has whole, or that the program on the same host was given.</summary>
        public long MessagesAcknowledged { get; }

        /// <summary>Bytes of those.</summary>
        public long BytesAcknowledged { get; }

        /// <summary>Messages put into this program's memory, read or not.</summary>
        public long MessagesReceived { get; }

        /// <summary>Bytes of those.</summary>
        public long BytesReceived { get; }

        /// <summary>Segments sent again.</summary>
        public long Retransmissions { get; }

        /// <summary>Datagrams sent, whatever they carried.</summary>
        public long DatagramsSent { get; }

        /// <summary>Datagrams received.</summary>
        public long DatagramsReceived { get; }

        /// <summary>UDP payload bytes sent: headers, acknowledgements and repeats included.</summary>
        public long WireBytesSent { get; }

        /// <summary>UDP payload bytes received.</summary>
        public long WireBytesReceived { get; }

        /// <summary>Congestion window in bytes.</summary>
        public long CongestionWindowBytes { get; }

        /// <summary>UDP payload bytes sent and neither acknowledged nor given up.</summary>
        public long BytesInFlight { get; }

        /// <summary>Largest UDP payload in bytes that was proved to reach the peer.</summary>
        public long PathDatagramBytes { get; }

        /// <summary>Whether the peer is a program of the same host, so that no packet is made.</summary>
        public bool IsLocal { get; }
    }
}
