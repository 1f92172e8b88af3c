using System.Net;
using Machnet.Native;

namespace Machnet
{
    /// <summary>What a channel is.</summary>
    public sealed class ChannelInfo
    {
        internal ChannelInfo(in MachnetChannelInfo native)
        {
            Channel = native.channel;
            Engine = (int)native.engine;
            SidecarProcess = (int)native.sidecar_pid;
            Local = Addresses.Of(native.local).Address;
            BufferBytes = (int)native.buffer_bytes;
            SendBuffers = (int)native.tx_buffers;
            ReceiveBuffers = (int)native.rx_buffers;
            MaxFlows = (int)native.max_flows;
            FlowCredit = (int)native.flow_credit;
        }

        /// <summary>Number of the channel, unique for the sidecar's life.</summary>
        public ulong Channel { get; }

        /// <summary>Number of the engine that serves the channel.</summary>
        public int Engine { get; }

        /// <summary>Process of the sidecar.</summary>
        public int SidecarProcess { get; }

        /// <summary>The sidecar's address.</summary>
        public IPAddress Local { get; }

        /// <summary>Bytes of one buffer.</summary>
        public int BufferBytes { get; }

        /// <summary>Buffers to send from.</summary>
        public int SendBuffers { get; }

        /// <summary>Buffers to receive into.</summary>
        public int ReceiveBuffers { get; }

        /// <summary>Most flows at a time.</summary>
        public int MaxFlows { get; }

        /// <summary>Messages of one flow that may be sent and not yet acknowledged.</summary>
        public int FlowCredit { get; }
    }
}
