using System;

namespace Machnet
{
    /// <summary>How blocking calls wait.</summary>
    public enum WaitPolicy
    {
        /// <summary>Spins for a moment if there are processors to spare, then sleeps.</summary>
        Automatic = 0,
        /// <summary>Spins: for a thread with a processor of its own.</summary>
        Spin = 1,
        /// <summary>Yields the processor and looks again.</summary>
        Yield = 2,
        /// <summary>Sleeps at once.</summary>
        Sleep = 3,
    }

    /// <summary>How much memory a channel has.</summary>
    public enum ChannelSizes
    {
        /// <summary>Takes messages of 8 MiB both ways.</summary>
        Default = 0,
        /// <summary>256 KiB in all.</summary>
        Small = 1,
        /// <summary>For bulk.</summary>
        Large = 2,
    }

    /// <summary>What can be chosen at attach. The defaults are good for most.</summary>
    public sealed class AttachOptions
    {
        /// <summary>The sidecar's socket. Default: $MACHNET_SOCKET, else the user's own sidecar if there is one, else the system's.</summary>
        public string? SocketPath { get; set; }

        /// <summary>The name that <c>machnet status</c> shows. Default: the program's.</summary>
        public string? Name { get; set; }

        /// <summary>Number of the engine that shall serve the channel. Default: any.</summary>
        public int? Engine { get; set; }

        /// <summary>How long a close of the channel waits until what was sent is acknowledged. Default: 1 s.</summary>
        public TimeSpan? Linger { get; set; }

        /// <summary>How blocking calls wait. Awaited calls never spin.</summary>
        public WaitPolicy WaitPolicy { get; set; }

        /// <summary>How much memory the channel has.</summary>
        public ChannelSizes Sizes { get; set; }

        /// <summary>Slots of the send ring, a power of two. This and the following: 0 keeps what <see cref="Sizes"/> says.</summary>
        public int SendSlots { get; set; }

        /// <summary>Slots of the receive ring, a power of two.</summary>
        public int ReceiveSlots { get; set; }

        /// <summary>Buffers to send from.</summary>
        public int SendBuffers { get; set; }

        /// <summary>Buffers to receive into.</summary>
        public int ReceiveBuffers { get; set; }

        /// <summary>Bytes of one buffer, a power of two.</summary>
        public int BufferBytes { get; set; }

        /// <summary>Most flows at a time.</summary>
        public int MaxFlows { get; set; }

        /// <summary>Messages of one flow that may be sent and not yet acknowledged.</summary>
        public int FlowCredit { get; set; }

        /// <summary>Whether what stands behind an <c>await</c> runs on the thread that waits for all channels of the process, and not on the thread
        /// pool: that saves one wake-up, but as long as it runs, no other awaited call of the process gets its answer. Only for code that never
        /// blocks. Default: false.</summary>
        public bool RunContinuationsInline { get; set; }
    }
}
