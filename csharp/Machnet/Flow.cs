using System;
using System.Collections.Generic;
using System.Diagnostics.CodeAnalysis;
using System.Net;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;
using Machnet.Waiting;

namespace Machnet
{
    /// <summary>A connection that carries whole messages of 1 byte to 8 MiB, in order, both ways. All its members may be used from any thread;
    /// calls of one kind are served in the order in which they were made.
    /// <para>A send returns when the sidecar has the message, which is not yet delivered. When the peer has closed, what it had sent is received
    /// first, then a receive throws <see cref="FlowClosedException"/>; after a reset likewise <see cref="FlowResetException"/>.</para>
    /// <para>A call that timed out or was cancelled has sent nothing and taken nothing.</para></summary>
    public sealed partial class Flow : IAsyncEnumerable<Message>, IAsyncDisposable, IDisposable
    {
        private readonly FlowSafeHandle handle;
        private readonly Owner owner;
        private readonly Source source;

        internal unsafe Flow(Channel channel, FlowHandle* native)
        {
            Channel = channel;
            handle = new FlowSafeHandle((IntPtr)native);
            source = new Source(handle);
            owner = new Owner(nameof(Flow), channel.Owner);
            MachnetAddress address;
            NativeMethods.machnet_flow_local_address(native, &address);
            LocalEndPoint = Addresses.Of(address);
            NativeMethods.machnet_flow_peer_address(native, &address);
            RemoteEndPoint = Addresses.Of(address);
            MaxMessage = (int)NativeMethods.machnet_flow_max_message(native);
        }

        /// <summary>The channel that the flow belongs to.</summary>
        public Channel Channel { get; }

        /// <summary>The address and port of this side.</summary>
        public IPEndPoint LocalEndPoint { get; }

        /// <summary>The peer's address and port.</summary>
        public IPEndPoint RemoteEndPoint { get; }

        /// <summary>The largest message in bytes that the flow takes.</summary>
        public int MaxMessage { get; }

        /// <summary>How many messages were sent that the peer's sidecar has not acknowledged; after the end of the flow: how many may not have
        /// arrived. 0 once this side has disposed of it.</summary>
        public unsafe int Unacknowledged
        {
            get
            {
                if (!handle.TryEnter())
                {
                    return 0;
                }
                var count = (int)NativeMethods.machnet_flow_unacknowledged(handle.Native);
                handle.Exit();
                return count;
            }
        }

        // ---- receiving ----

        /// <summary>Waits for the next message and lends it where it lies; dispose of it to give it back. Without a thread and without an
        /// allocation. Throws <see cref="FlowClosedException"/>, <see cref="FlowResetException"/>, <see cref="EngineLostException"/>,
        /// <see cref="OperationCanceledException"/>, and <see cref="ObjectDisposedException"/> when this side closes.</summary>
        public ValueTask<Message> ReceiveAsync(CancellationToken cancellationToken = default)
        {
            if (source.In.First is null && !cancellationToken.IsCancellationRequested && handle.TryEnter())
            {
                int status = ReceiveNow(out Message message);
                if (status == Library.Ok)
                {
                    handle.Exit();
                    return new ValueTask<Message>(message);
                }
                if (Library.IsNothing(status))
                {
                    return ReceiveOperation.Of(this).GoOn(source.In, handle, cancellationToken);
                }
                handle.Exit(); // The error comes again.
            }
            return ReceiveOperation.Of(this).Go(source.In, handle, cancellationToken);
        }

        /// <summary>Waits for the next message with the calling thread; for ever without a timeout. Throws as <see cref="ReceiveAsync"/>, and
        /// <see cref="MachnetTimeoutException"/>.</summary>
        public Message Receive(TimeSpan? timeout = null) =>
            TryReceive(timeout ?? Timeout.InfiniteTimeSpan, out Message message) ? message : throw MachnetException.Of(Library.TimedOut);

        /// <summary>Answers the next message if it is there.</summary>
        public bool TryReceive(out Message message)
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            int status = ReceiveNow(out message);
            Exception? failure = status == Library.Ok || Library.IsNothing(status) ? null : owner.Failure(status);
            handle.Exit();
            return failure is null ? status == Library.Ok : throw failure;
        }

        /// <summary>Waits for the next message with the calling thread; false if the time has passed. Throws as <see cref="ReceiveAsync"/>.</summary>
        public bool TryReceive(TimeSpan timeout, out Message message) =>
            ReceiveOperation.Of(this).Go(source.In, handle, Addresses.Milliseconds(timeout), out message);

        /// <summary>Waits for the next message with the calling thread, copies it into the buffer, and answers its length. Throws as
        /// <see cref="Receive"/>; and <see cref="MessageSizeException"/> if the buffer is too small, and then the message stays.</summary>
        public int ReceiveInto(Span<byte> buffer, TimeSpan? timeout = null) =>
            TryReceiveInto(buffer, timeout ?? Timeout.InfiniteTimeSpan, out int length) ? length : throw MachnetException.Of(Library.TimedOut);

        /// <summary>Copies the next message into the buffer if it is there. Throws as <see cref="ReceiveInto"/>.</summary>
        public bool TryReceiveInto(Span<byte> buffer, out int length) => TryReceiveInto(buffer, TimeSpan.Zero, out length);

        /// <summary>Waits for the next message with the calling thread and copies it into the buffer; false if the time has passed. Throws as
        /// <see cref="ReceiveInto"/>.</summary>
        public unsafe bool TryReceiveInto(Span<byte> buffer, TimeSpan timeout, out int length)
        {
            CheckRoom(buffer.Length);
            fixed (byte* place = buffer)
            {
                return ReceiveIntoOperation.Of(this, place, buffer.Length).Go(source.In, handle, Addresses.Milliseconds(timeout), out length);
            }
        }

        /// <summary>Waits for the next message, copies it into the buffer, and answers its length. Throws as <see cref="ReceiveAsync"/>; and
        /// <see cref="MessageSizeException"/> if the buffer is too small, and then the message stays.</summary>
        public ValueTask<int> ReceiveIntoAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            CheckRoom(buffer.Length);
            return ReceiveIntoOperation.Of(this, buffer).Go(source.In, handle, cancellationToken);
        }

        /// <summary>Waits for a message with the calling thread, and answers it and those behind it that are there, as many as there is room for and
        /// at most 256: the first so many of <paramref name="messages"/>, each to be disposed of. Throws as <see cref="Receive"/>.</summary>
        public int ReceiveMany(Span<Message> messages, TimeSpan? timeout = null)
        {
            CheckRoom(messages.Length);
            var operation = new ReceiveManyOperation(this, Math.Min(messages.Length, Library.ManyMost));
            if (!operation.Go(source.In, handle, Addresses.Milliseconds(timeout), out int count))
            {
                throw MachnetException.Of(Library.TimedOut);
            }
            operation.TakeAll(messages.Slice(0, count));
            return count;
        }

        /// <summary>As <see cref="ReceiveMany"/>, without waiting: 0 if no message is there.</summary>
        public int TryReceiveMany(Span<Message> messages)
        {
            CheckRoom(messages.Length);
            var operation = new ReceiveManyOperation(this, Math.Min(messages.Length, Library.ManyMost));
            if (!operation.Go(source.In, handle, 0, out int count))
            {
                return 0;
            }
            operation.TakeAll(messages.Slice(0, count));
            return count;
        }

        /// <summary>As <see cref="ReceiveMany"/>, without a thread. Throws as <see cref="ReceiveAsync"/>.</summary>
        public async ValueTask<int> ReceiveManyAsync(Memory<Message> messages, CancellationToken cancellationToken = default)
        {
            CheckRoom(messages.Length);
            var operation = new ReceiveManyOperation(this, Math.Min(messages.Length, Library.ManyMost));
            int count = await operation.Go(source.In, handle, cancellationToken).ConfigureAwait(false);
            operation.TakeAll(messages.Span.Slice(0, count));
            return count;
        }

        /// <summary>The messages that come, each to be disposed of, until the peer closes. Throws as <see cref="ReceiveAsync"/> if the flow ends
        /// otherwise.</summary>
        public async IAsyncEnumerator<Message> GetAsyncEnumerator(CancellationToken cancellationToken = default)
        {
            while (true)
            {
                Message message;
                try
                {
                    message = await ReceiveAsync(cancellationToken).ConfigureAwait(false);
                }
                catch (FlowClosedException)
                {
                    yield break;
                }
                yield return message;
            }
        }

        // ---- sending ----

        /// <summary>Sends one message, at least 1 byte; waits for credit and room, without a thread. The memory must not change until then. Throws
        /// <see cref="MessageSizeException"/>, <see cref="FlowClosedException"/>, <see cref="FlowResetException"/>,
        /// <see cref="EngineLostException"/>, <see cref="OperationCanceledException"/>, and <see cref="ObjectDisposedException"/> when this
        /// side closes.</summary>
        public ValueTask SendAsync(ReadOnlyMemory<byte> message, CancellationToken cancellationToken = default)
        {
            CheckMessage(message.Length);
            if (source.Out.First is null && !cancellationToken.IsCancellationRequested && handle.TryEnter())
            {
                int status = SendNow(message.Span);
                if (status == Library.Ok)
                {
                    handle.Exit();
                    return default;
                }
                if (Library.IsNothing(status))
                {
                    return SendOperation.Of(this, message).GoOnPlain(source.Out, handle, cancellationToken);
                }
                handle.Exit(); // The error comes again.
            }
            return SendOperation.Of(this, message).GoPlain(source.Out, handle, cancellationToken);
        }

        /// <summary>Sends a received message on, without an allocation. It must not be disposed of until then. As
        /// <see cref="SendAsync(ReadOnlyMemory{byte}, CancellationToken)"/>.</summary>
        public ValueTask SendAsync(Message message, CancellationToken cancellationToken = default) =>
            SendAsync(message.MemoryForNow, cancellationToken);

        /// <summary>Sends one message; waits for credit and room with the calling thread, for ever without a timeout. Throws as
        /// <see cref="SendAsync(ReadOnlyMemory{byte}, CancellationToken)"/>, and <see cref="MachnetTimeoutException"/>.</summary>
        public unsafe void Send(ReadOnlySpan<byte> message, TimeSpan? timeout = null)
        {
            CheckMessage(message.Length);
            fixed (byte* bytes = message)
            {
                if (!SendOperation.Of(this, bytes, message.Length).Go(source.Out, handle, Addresses.Milliseconds(timeout), out _))
                {
                    throw MachnetException.Of(Library.TimedOut);
                }
            }
        }

        /// <summary>Sends one message if there is credit and room now. Throws as <see cref="SendAsync(ReadOnlyMemory{byte}, CancellationToken)"/>.</summary>
        public bool TrySend(ReadOnlySpan<byte> message)
        {
            CheckMessage(message.Length);
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            int status = SendNow(message);
            Exception? failure = status == Library.Ok || Library.IsNothing(status) ? null : owner.Failure(status);
            handle.Exit();
            return failure is null ? status == Library.Ok : throw failure;
        }

        /// <summary>Sends messages in order, with far fewer calls into the library than <see cref="Send"/> would take. Answers how many were sent:
        /// all of them, or fewer if the time passed or the flow ended behind the first, and then the next call tells why. Throws as
        /// <see cref="Send"/> if none was.</summary>
        public int SendMany(IReadOnlyList<ReadOnlyMemory<byte>> messages, TimeSpan? timeout = null)
        {
            int milliseconds = Addresses.Milliseconds(timeout);
            int began = Environment.TickCount;
            int sent = 0;
            while (sent < CheckMessages(messages))
            {
                try
                {
                    int left = milliseconds < 0 ? -1 : Math.Max(milliseconds - unchecked(Environment.TickCount - began), 0);
                    if (!new SendManyOperation(this, messages, sent).Go(source.Out, handle, left, out int count))
                    {
                        return sent > 0 ? sent : throw MachnetException.Of(Library.TimedOut);
                    }
                    sent += count;
                }
                catch (Exception) when (sent > 0)
                {
                    break;
                }
            }
            return sent;
        }

        /// <summary>As <see cref="SendMany"/>, without waiting: 0 if there is no credit or room now.</summary>
        public int TrySendMany(IReadOnlyList<ReadOnlyMemory<byte>> messages)
        {
            if (CheckMessages(messages) == 0)
            {
                return 0;
            }
            return new SendManyOperation(this, messages, 0).Go(source.Out, handle, 0, out int count) ? count : 0;
        }

        /// <summary>As <see cref="SendMany"/>, without a thread. Cancelled behind the first, it answers how many were sent.</summary>
        public async ValueTask<int> SendManyAsync(IReadOnlyList<ReadOnlyMemory<byte>> messages, CancellationToken cancellationToken = default)
        {
            int sent = 0;
            while (sent < CheckMessages(messages))
            {
                try
                {
                    sent += await new SendManyOperation(this, messages, sent).Go(source.Out, handle, cancellationToken).ConfigureAwait(false);
                }
                catch (Exception) when (sent > 0)
                {
                    break;
                }
            }
            return sent;
        }

        /// <summary>Lends room to write a message of so many bytes where it will be sent from; waits for room and credit with the calling thread, for
        /// ever without a timeout. Throws as <see cref="Send"/>.</summary>
        public Loan Lend(int length, TimeSpan? timeout = null) =>
            new LendOperation(this, CheckMessage(length)).Go(source.Out, handle, Addresses.Milliseconds(timeout), out Loan loan)
                ? loan
                : throw MachnetException.Of(Library.TimedOut);

        /// <summary>Lends room for a message if there is room and credit now. Throws as <see cref="SendAsync(ReadOnlyMemory{byte}, CancellationToken)"/>.</summary>
        public bool TryLend(int length, [NotNullWhen(true)] out Loan? loan)
        {
            bool isThere = new LendOperation(this, CheckMessage(length)).Go(source.Out, handle, 0, out Loan lent);
            loan = isThere ? lent : null;
            return isThere;
        }

        /// <summary>As <see cref="Lend"/>, without a thread. Throws as <see cref="SendAsync(ReadOnlyMemory{byte}, CancellationToken)"/>.</summary>
        public ValueTask<Loan> LendAsync(int length, CancellationToken cancellationToken = default) =>
            new LendOperation(this, CheckMessage(length)).Go(source.Out, handle, cancellationToken);

        // ---- the rest ----

        /// <summary>Asks the sidecar what it knows of the flow, over its socket: tens of microseconds. Throws a <see cref="MachnetException"/> of
        /// UnknownFlow if it is no more, Version from a sidecar that is too old to know, TimedOut after 5 s, or EngineLost.</summary>
        public unsafe FlowStats GetStats()
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            MachnetFlowStats stats = default;
            stats.struct_size = (UIntPtr)sizeof(MachnetFlowStats);
            int status = NativeMethods.machnet_flow_stats(handle.Native, &stats);
            Exception? failure = status == Library.Ok ? null : owner.Failure(status);
            handle.Exit();
            return failure is null ? new FlowStats(stats) : throw failure;
        }

        /// <summary>As <see cref="GetStats"/>, on the thread pool.</summary>
        public Task<FlowStats> GetStatsAsync(CancellationToken cancellationToken = default) => Task.Run(GetStats, cancellationToken);

        /// <summary>Makes a byte stream of the flow, of which nothing may have been received yet and on which no call may be under way. The peer has to
        /// do the same: both ends agree on it, as they agree on a port. The flow itself is closed for this side then.</summary>
        public unsafe MachnetStream OpenStream()
        {
            if (owner.IsClosed)
            {
                throw owner.Disposed();
            }
            if (!handle.TryTake(out IntPtr native))
            {
                throw owner.IsClosed ? owner.Disposed() : (Exception)new InvalidOperationException("a call on the flow is under way");
            }
            owner.Close();
            Channel.Bell.Forget(source);
            StreamHandle* stream;
            int status = NativeMethods.machnet_stream_open((FlowHandle*)native, &stream);
            return status == Library.Ok ? new MachnetStream(this, stream) : throw MachnetException.OfLastCall(status);
        }

        /// <summary>Ends the flow at once: the peer gets <see cref="FlowResetException"/>, and what its sidecar has not acknowledged may be lost. The
        /// flow is still to be disposed of.</summary>
        public unsafe void Reset()
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            int status = NativeMethods.machnet_flow_reset(handle.Native);
            Exception? failure = status == Library.Ok ? null : owner.Failure(status);
            handle.Exit();
            if (failure != null)
            {
                throw failure;
            }
        }

        /// <summary>Closes the flow in order behind the last message sent, and returns at once: what was sent goes on its way. Calls that wait
        /// throw <see cref="ObjectDisposedException"/>.</summary>
        public unsafe void Dispose()
        {
            if (!handle.TryEnter())
            {
                return;
            }
            owner.Close();
            NativeMethods.machnet_flow_shutdown(handle.Native);
            Channel.Bell.Close(source, owner.Disposed);
            handle.TryClose();
            handle.Exit();
        }

        /// <summary>As <see cref="Dispose"/>.</summary>
        public ValueTask DisposeAsync()
        {
            Dispose();
            return default;
        }

        /// <summary>As <see cref="Dispose"/>, and waits until the peer's sidecar has everything: for ever without a timeout. Throws
        /// <see cref="FlowResetException"/> if something may be lost, <see cref="MachnetTimeoutException"/> while the close goes on, and
        /// <see cref="EngineLostException"/>.</summary>
        public void Close(TimeSpan? timeout = null) => CloseWith(Addresses.Milliseconds(timeout), null);

        /// <summary>As <see cref="Close"/>, with a thread of its own. Cancelled, the close goes on.</summary>
        public async Task CloseAsync(CancellationToken cancellationToken = default)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (!cancellationToken.CanBeCanceled)
            {
                await OnOwnThread(null).ConfigureAwait(false);
                return;
            }
            CancelSafeHandle cancel = Channel.NewCancel();
            try
            {
                using (cancellationToken.Register(Trigger, cancel))
                {
                    await OnOwnThread(cancel).ConfigureAwait(false);
                }
            }
            catch (MachnetException e) when (e.Error == MachnetError.Cancelled)
            {
                throw new OperationCanceledException(cancellationToken);
            }
            finally
            {
                cancel.TryClose();
            }
        }

        private Task OnOwnThread(CancelSafeHandle? cancel) => Task.Factory.StartNew(
            () => CloseWith(-1, cancel), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

        private static unsafe void Trigger(object? cancel) => NativeMethods.machnet_cancel_trigger(((CancelSafeHandle)cancel!).Native);

        private unsafe void CloseWith(int timeoutMilliseconds, CancelSafeHandle? cancel)
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            try
            {
                owner.Close();
                // First, so that those who wait need not wait for the peer.
                NativeMethods.machnet_flow_shutdown(handle.Native);
                Channel.Bell.Close(source, owner.Disposed);
                handle.TryClose();
                // The scope belongs to the thread, which runs nothing else meanwhile.
                NativeMethods.machnet_cancel_scope(cancel is null ? null : cancel.Native);
                int status = NativeMethods.machnet_flow_shutdown_wait(handle.Native, timeoutMilliseconds);
                NativeMethods.machnet_cancel_scope(null);
                if (status != Library.Ok)
                {
                    throw MachnetException.OfLastCall(status);
                }
            }
            finally
            {
                handle.Exit();
            }
        }

        private unsafe int ReceiveNow(out Message message)
        {
            MessageHandle* native;
            int status = Channel.Bell.IsForProgram
                ? NativeMethods.machnet_flow_try_recv_loan(handle.Native, &native)
                : NativeMethods.machnet_flow_recv_loan(handle.Native, 0, &native);
            message = status == Library.Ok ? Channel.Messages.Take(native) : default;
            return status;
        }

        private unsafe int SendNow(ReadOnlySpan<byte> message)
        {
            fixed (byte* bytes = message)
            {
                return Channel.Bell.IsForProgram
                    ? NativeMethods.machnet_flow_try_send(handle.Native, bytes, (UIntPtr)message.Length)
                    : NativeMethods.machnet_flow_send(handle.Native, bytes, (UIntPtr)message.Length, 0);
            }
        }

        private static int CheckMessage(int length)
        {
            if (length < 0)
            {
                throw new ArgumentOutOfRangeException(nameof(length), "a length is not negative");
            }
            return length > 0 ? length : throw MachnetException.Of((int)MachnetError.EmptyMessage);
        }

        private static int CheckMessages(IReadOnlyList<ReadOnlyMemory<byte>> messages) =>
            messages is null ? throw new ArgumentNullException(nameof(messages)) : messages.Count;

        private static void CheckRoom(int length)
        {
            if (length == 0)
            {
                throw new ArgumentException("there is no room to receive into");
            }
        }
    }
}
