using System;
using System.IO;
using System.Net;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;
using Machnet.Waiting;

namespace Machnet
{
    /// <summary>A byte stream over a flow, both ways, in the framing that every language of Machnet shares. From <see cref="Flow.OpenStream"/>; the
    /// peer has to make a stream of its end too. One call may read while another writes; bytes of two writes at a time may mix.
    /// <para>A read of 0 bytes is the end that the peer made in order; after a reset reads throw <see cref="FlowResetException"/>. What is
    /// written goes at once: <see cref="Flush"/> does nothing.</para></summary>
    public sealed class MachnetStream : Stream
    {
        private readonly StreamSafeHandle handle;
        private readonly Owner owner;
        private readonly Channel channel;
        private readonly Source source;
        private readonly Spare<ReadOperation> freeRead = new Spare<ReadOperation>();
        private readonly Spare<WriteOperation> freeWrite = new Spare<WriteOperation>();
        private int readTimeout = Timeout.Infinite;
        private int writeTimeout = Timeout.Infinite;

        internal unsafe MachnetStream(Flow flow, StreamHandle* native)
        {
            handle = new StreamSafeHandle((IntPtr)native);
            source = new Source(handle);
            channel = flow.Channel;
            owner = new Owner("Stream", channel.Owner);
            LocalEndPoint = flow.LocalEndPoint;
            RemoteEndPoint = flow.RemoteEndPoint;
        }

        /// <summary>The address and port of this side.</summary>
        public IPEndPoint LocalEndPoint { get; }

        /// <summary>The peer's address and port.</summary>
        public IPEndPoint RemoteEndPoint { get; }

        /// <summary>Whether this side has not closed it.</summary>
        public override bool CanRead => !owner.IsClosed;

        /// <summary>Whether this side has not closed it.</summary>
        public override bool CanWrite => !owner.IsClosed;

        /// <summary>False.</summary>
        public override bool CanSeek => false;

        /// <summary>True.</summary>
        public override bool CanTimeout => true;

        /// <summary>How long a blocking read waits, in milliseconds; -1, the default, is for ever. When it has passed, reads throw
        /// <see cref="MachnetTimeoutException"/>.</summary>
        public override int ReadTimeout
        {
            get => readTimeout;
            set => readTimeout = CheckTimeout(value);
        }

        /// <summary>How long a blocking write waits for room, in milliseconds; -1, the default, is for ever. When it has passed, writes throw
        /// <see cref="MachnetTimeoutException"/>, and some of what was to be written may be.</summary>
        public override int WriteTimeout
        {
            get => writeTimeout;
            set => writeTimeout = CheckTimeout(value);
        }

        /// <summary>Not supported.</summary>
        public override long Length => throw new NotSupportedException();

        /// <summary>Not supported.</summary>
        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        /// <inheritdoc/>
        public override int Read(byte[] buffer, int offset, int count) => Read(Part(buffer, offset, count).Span);

        /// <summary>Reads what is there, and waits for it; 0 is the end.</summary>
        public override unsafe int Read(Span<byte> buffer)
        {
            if (buffer.IsEmpty)
            {
                return 0;
            }
            fixed (byte* place = buffer)
            {
                return ReadOperation.Of(this, place, buffer.Length).Go(source.In, handle, readTimeout, out int length)
                    ? length
                    : throw MachnetException.Of(Library.TimedOut);
            }
        }

        /// <inheritdoc/>
        public override int ReadByte()
        {
            Span<byte> one = stackalloc byte[1];
            return Read(one) == 0 ? -1 : one[0];
        }

        /// <inheritdoc/>
        public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
            ReadAsync(Part(buffer, offset, count), cancellationToken).AsTask();

        /// <summary>Reads what is there, and waits for it without a thread; 0 is the end. Cancelled, it has read nothing.</summary>
        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            if (buffer.IsEmpty)
            {
                return new ValueTask<int>(0);
            }
            return ReadOperation.Of(this, buffer).Go(source.In, handle, cancellationToken);
        }

        /// <inheritdoc/>
        public override void Write(byte[] buffer, int offset, int count) => Write(Part(buffer, offset, count).Span);

        /// <summary>Writes all of it, and waits for room.</summary>
        public override unsafe void Write(ReadOnlySpan<byte> buffer)
        {
            if (buffer.IsEmpty)
            {
                return;
            }
            fixed (byte* bytes = buffer)
            {
                if (!WriteOperation.Of(this, bytes, buffer.Length).Go(source.Out, handle, writeTimeout, out _))
                {
                    throw MachnetException.Of(Library.TimedOut);
                }
            }
        }

        /// <inheritdoc/>
        public override void WriteByte(byte value)
        {
            ReadOnlySpan<byte> one = stackalloc byte[] { value };
            Write(one);
        }

        /// <inheritdoc/>
        public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
            WriteAsync(Part(buffer, offset, count), cancellationToken).AsTask();

        /// <summary>Writes all of it, and waits for room without a thread. Cancelled, some of it may be written.</summary>
        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            if (buffer.IsEmpty)
            {
                return default;
            }
            return WriteOperation.Of(this, buffer).GoPlain(source.Out, handle, cancellationToken);
        }

        /// <summary>Does nothing: what is written goes at once.</summary>
        public override void Flush()
        {
        }

        /// <summary>Does nothing: what is written goes at once.</summary>
        public override Task FlushAsync(CancellationToken cancellationToken) =>
            cancellationToken.IsCancellationRequested ? Task.FromCanceled(cancellationToken) : Task.CompletedTask;

        /// <summary>Half-closes: the peer reads what was written and then the end of the stream, and this side reads on. Waits for room to say so, as
        /// long as <see cref="WriteTimeout"/>. Doing it again does nothing.</summary>
        public void CompleteWriting()
        {
            if (!new EndOperation(this).Go(source.Out, handle, writeTimeout, out _))
            {
                throw MachnetException.Of(Library.TimedOut);
            }
        }

        /// <summary>As <see cref="CompleteWriting"/>, without a thread.</summary>
        public ValueTask CompleteWritingAsync(CancellationToken cancellationToken = default) =>
            new EndOperation(this).GoPlain(source.Out, handle, cancellationToken);

        /// <summary>Ends both directions at once: the peer gets <see cref="FlowResetException"/>, not the end of the stream. The stream is still to be
        /// disposed of.</summary>
        public unsafe void Reset()
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            int status = NativeMethods.machnet_stream_reset(handle.Native);
            Exception? failure = status == Library.Ok ? null : owner.Failure(status);
            handle.Exit();
            if (failure != null)
            {
                throw failure;
            }
        }

        /// <summary>As <see cref="Flow.GetStats"/>, of the flow under the stream.</summary>
        public unsafe FlowStats GetStats()
        {
            if (!handle.TryEnter())
            {
                throw owner.Disposed();
            }
            MachnetFlowStats stats = default;
            stats.struct_size = (UIntPtr)sizeof(MachnetFlowStats);
            int status = NativeMethods.machnet_stream_stats(handle.Native, &stats);
            Exception? failure = status == Library.Ok ? null : owner.Failure(status);
            handle.Exit();
            return failure is null ? new FlowStats(stats) : throw failure;
        }

        /// <summary>Not supported.</summary>
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        /// <summary>Not supported.</summary>
        public override void SetLength(long value) => throw new NotSupportedException();

        /// <summary>Closes both directions in order behind what was written, and returns at once. Calls that wait throw
        /// <see cref="ObjectDisposedException"/>.</summary>
        protected override void Dispose(bool disposing)
        {
            if (disposing && !owner.IsClosedItself)
            {
                owner.Close();
                // What waits holds the handle, so the library closes the stream behind it.
                channel.Bell.Close(source, owner.Disposed);
                handle.TryClose();
            }
            base.Dispose(disposing);
        }

        private static int CheckTimeout(int milliseconds) =>
            milliseconds > 0 || milliseconds == Timeout.Infinite
                ? milliseconds
                : throw new ArgumentOutOfRangeException(nameof(milliseconds), "a timeout is positive, or Timeout.Infinite");

        private static Memory<byte> Part(byte[] buffer, int offset, int count) =>
            new Memory<byte>(buffer ?? throw new ArgumentNullException(nameof(buffer)), offset, count);

        private sealed unsafe class ReadOperation : Operation<int>
        {
            private readonly MachnetStream stream;
            private Memory<byte> memory;
            private byte* pinned;
            private int capacity;

            private ReadOperation(MachnetStream stream) : base(stream.channel.Bell, stream.owner)
            {
                this.stream = stream;
            }

            internal static ReadOperation Of(MachnetStream stream, Memory<byte> memory)
            {
                ReadOperation operation = stream.freeRead.Take() ?? new ReadOperation(stream);
                operation.memory = memory;
                operation.capacity = memory.Length;
                return operation;
            }

            internal static ReadOperation Of(MachnetStream stream, byte* pinned, int capacity)
            {
                ReadOperation operation = stream.freeRead.Take() ?? new ReadOperation(stream);
                operation.pinned = pinned;
                operation.capacity = capacity;
                return operation;
            }

            protected override int Ask(out int answer)
            {
                UIntPtr length = default;
                int status;
                if (pinned != null)
                {
                    status = NativeMethods.machnet_stream_try_read(stream.handle.Native, pinned, (UIntPtr)capacity, &length);
                }
                else
                {
                    fixed (byte* place = memory.Span)
                    {
                        status = NativeMethods.machnet_stream_try_read(stream.handle.Native, place, (UIntPtr)capacity, &length);
                    }
                }
                answer = (int)length;
                return status;
            }

            protected override int Await(int timeoutMilliseconds, out int answer)
            {
                UIntPtr length = default;
                int status;
                if (pinned != null)
                {
                    status = NativeMethods.machnet_stream_read(stream.handle.Native, pinned, (UIntPtr)capacity, timeoutMilliseconds, &length);
                }
                else
                {
                    fixed (byte* place = memory.Span)
                    {
                        status = NativeMethods.machnet_stream_read(stream.handle.Native, place, (UIntPtr)capacity, timeoutMilliseconds, &length);
                    }
                }
                answer = (int)length;
                return status;
            }

            protected override void Recycle()
            {
                memory = default;
                pinned = null;
                stream.freeRead.Put(this);
            }
        }

        /// <summary>Writes piece after piece.</summary>
        private sealed unsafe class WriteOperation : Operation<bool>
        {
            private readonly MachnetStream stream;
            private ReadOnlyMemory<byte> memory;
            private byte* pinned;
            private int length;
            private int done;

            private WriteOperation(MachnetStream stream) : base(stream.channel.Bell, stream.owner)
            {
                this.stream = stream;
            }

            internal static WriteOperation Of(MachnetStream stream, ReadOnlyMemory<byte> memory)
            {
                WriteOperation operation = stream.freeWrite.Take() ?? new WriteOperation(stream);
                operation.memory = memory;
                operation.length = memory.Length;
                return operation;
            }

            internal static WriteOperation Of(MachnetStream stream, byte* pinned, int length)
            {
                WriteOperation operation = stream.freeWrite.Take() ?? new WriteOperation(stream);
                operation.pinned = pinned;
                operation.length = length;
                return operation;
            }

            protected override int Ask(out bool answer)
            {
                answer = true;
                if (pinned != null)
                {
                    return WriteAll(pinned, null);
                }
                fixed (byte* bytes = memory.Span)
                {
                    return WriteAll(bytes, null);
                }
            }

            protected override int Await(int timeoutMilliseconds, out bool answer)
            {
                answer = true;
                if (pinned != null)
                {
                    return WriteAll(pinned, timeoutMilliseconds);
                }
                fixed (byte* bytes = memory.Span)
                {
                    return WriteAll(bytes, timeoutMilliseconds);
                }
            }

            protected override void Recycle()
            {
                memory = default;
                pinned = null;
                done = 0;
                stream.freeWrite.Put(this);
            }

            private int WriteAll(byte* bytes, int? timeoutMilliseconds)
            {
                while (done < length)
                {
                    UIntPtr written = default;
                    var left = (UIntPtr)(length - done);
                    int status = timeoutMilliseconds is int milliseconds
                        ? NativeMethods.machnet_stream_write(stream.handle.Native, bytes + done, left, milliseconds, &written)
                        : NativeMethods.machnet_stream_try_write(stream.handle.Native, bytes + done, left, &written);
                    if (status != Library.Ok)
                    {
                        return status;
                    }
                    done += (int)written;
                }
                return Library.Ok;
            }
        }

        private sealed class EndOperation : Operation<bool>
        {
            private readonly MachnetStream stream;

            internal EndOperation(MachnetStream stream) : base(stream.channel.Bell, stream.owner)
            {
                this.stream = stream;
            }

            protected override unsafe int Ask(out bool answer)
            {
                answer = true;
                return NativeMethods.machnet_stream_try_end(stream.handle.Native);
            }

            protected override unsafe int Await(int timeoutMilliseconds, out bool answer)
            {
                answer = true;
                return NativeMethods.machnet_stream_end(stream.handle.Native, timeoutMilliseconds);
            }

            protected override void Recycle()
            {
            }
        }
    }
}
