using System;
using System.Runtime.InteropServices;
using System.Threading;

namespace Machnet.Native
{
    /// <summary>A handle of the native library that many threads use: it is given back when it was closed and the last call on it has
    /// returned, so that no call ever meets freed memory. What nobody closed is given back by the garbage collector.</summary>
    internal abstract class NativeHandle : SafeHandle
    {
        private const int ClosedBit = 1 << 30;

        /// <summary>Calls under way, and ClosedBit once no more may begin.</summary>
        private int state;

        protected NativeHandle(IntPtr native) : base(IntPtr.Zero, ownsHandle: true)
        {
            SetHandle(native);
        }

        public override bool IsInvalid => handle == IntPtr.Zero;

        /// <summary>The pointer, between TryEnter and Exit.</summary>
        internal IntPtr Pointer => handle;

        /// <summary>Names it for machnet_channel_take_news.</summary>
        internal virtual void SetToken(ulong token) => throw new NotSupportedException();

        /// <summary>Begins a call; false if the handle is closed.</summary>
        internal bool TryEnter()
        {
            if ((Interlocked.Increment(ref state) & ClosedBit) == 0)
            {
                return true;
            }
            Exit();
            return false;
        }

        /// <summary>Ends a call.</summary>
        internal void Exit()
        {
            if (Interlocked.Decrement(ref state) == ClosedBit)
            {
                Dispose();
            }
        }

        /// <summary>Lets no more calls begin; false if that was so before.</summary>
        internal bool TryClose()
        {
            int seen;
            do
            {
                seen = Volatile.Read(ref state);
                if ((seen & ClosedBit) != 0)
                {
                    return false;
                }
            }
            while (Interlocked.CompareExchange(ref state, seen | ClosedBit, seen) != seen);
            if (seen == 0)
            {
                Dispose(); // SafeHandle does it once, whoever comes first.
            }
            return true;
        }

        /// <summary>Gives the pointer to the caller alone; false if the handle is closed, or a call is under way.</summary>
        internal bool TryTake(out IntPtr native)
        {
            native = handle;
            if (Interlocked.CompareExchange(ref state, ClosedBit, 0) != 0)
            {
                return false;
            }
            SetHandleAsInvalid();
            return true;
        }
    }

    internal sealed unsafe class FlowSafeHandle : NativeHandle
    {
        internal FlowSafeHandle(IntPtr native) : base(native) { }

        internal FlowHandle* Native => (FlowHandle*)handle;

        internal override void SetToken(ulong token) => NativeMethods.machnet_flow_set_token(Native, token);

        protected override bool ReleaseHandle()
        {
            NativeMethods.machnet_flow_close((FlowHandle*)handle);
            return true;
        }
    }

    internal sealed unsafe class ListenerSafeHandle : NativeHandle
    {
        internal ListenerSafeHandle(IntPtr native) : base(native) { }

        internal ListenerHandle* Native => (ListenerHandle*)handle;

        internal override void SetToken(ulong token) => NativeMethods.machnet_listener_set_token(Native, token);

        protected override bool ReleaseHandle()
        {
            NativeMethods.machnet_listener_close((ListenerHandle*)handle);
            return true;
        }
    }

    internal sealed unsafe class StreamSafeHandle : NativeHandle
    {
        internal StreamSafeHandle(IntPtr native) : base(native) { }

        internal StreamHandle* Native => (StreamHandle*)handle;

        internal override void SetToken(ulong token) => NativeMethods.machnet_stream_set_token(Native, token);

        protected override bool ReleaseHandle()
        {
            NativeMethods.machnet_stream_close((StreamHandle*)handle);
            return true;
        }
    }

    internal sealed unsafe class PendingSafeHandle : NativeHandle
    {
        internal PendingSafeHandle(IntPtr native) : base(native) { }

        internal PendingHandle* Native => (PendingHandle*)handle;

        internal override void SetToken(ulong token) => NativeMethods.machnet_pending_set_token(Native, token);

        protected override bool ReleaseHandle()
        {
            NativeMethods.machnet_pending_drop((PendingHandle*)handle);
            return true;
        }
    }

    internal sealed unsafe class CancelSafeHandle : NativeHandle
    {
        internal CancelSafeHandle(IntPtr native) : base(native) { }

        internal CancelHandle* Native => (CancelHandle*)handle;

        protected override bool ReleaseHandle()
        {
            NativeMethods.machnet_cancel_free((CancelHandle*)handle);
            return true;
        }
    }

    internal sealed unsafe class ChannelSafeHandle : NativeHandle
    {
        internal ChannelSafeHandle(IntPtr native) : base(native) { }

        internal ChannelHandle* Native => (ChannelHandle*)handle;

        /// <summary>The number under which the poller knows the channel's descriptor; 0: it does not.</summary>
        internal long PollNumber;

        /// <summary>Whether machnet_channel_shutdown has returned, so that the close does not wait.</summary>
        internal volatile bool IsShutDown;

        protected override bool ReleaseHandle()
        {
            if (PollNumber != 0)
            {
                Waiting.Poller.Forget(PollNumber);
            }
            IntPtr native = handle;
            if (IsShutDown)
            {
                NativeMethods.machnet_channel_close((ChannelHandle*)native);
            }
            else
            {
                // Nobody closed it, and it may linger: that must not hold up the finalizers.
                var thread = new Thread(() => NativeMethods.machnet_channel_close((ChannelHandle*)native), 64 * 1024) { IsBackground = true };
                thread.Start();
            }
            return true;
        }
    }
}
