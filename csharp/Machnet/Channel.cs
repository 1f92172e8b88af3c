using System;
using System.Net;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;
using Machnet.Waiting;

namespace Machnet
{
    /// <summary>An attachment to the sidecar of this host. All its members may be used from any thread.
    /// <para>Blocking calls and awaited ones can be mixed. But the first awaited call switches the channel to another way of waiting, with which
    /// blocking calls take longer to wake up: programs for which that matters use a channel for each kind.</para></summary>
    public sealed class Channel : IAsyncDisposable, IDisposable
    {
        private readonly ChannelSafeHandle handle;
        private readonly object closeGate = new object();
        private Task? closing;

        private unsafe Channel(ChannelHandle* native, bool runsInline)
        {
            handle = new ChannelSafeHandle((IntPtr)native);
            Bell = new Doorbell(handle, runsInline);
            Owner = new Owner(nameof(Channel), null);
            MachnetChannelInfo info = default;
            info.struct_size = (UIntPtr)sizeof(MachnetChannelInfo);
            NativeMethods.machnet_channel_info(native, &info);
            Info = new ChannelInfo(info);
        }

        /// <summary>The largest message: 8 MiB, in bytes. A flow may take less: see <see cref="Flow.MaxMessage"/>.</summary>
        public const int MaxMessage = 8_388_608;

        /// <summary>The version of the native library, such as "0.1.0".</summary>
        public static unsafe string LibraryVersion
        {
            get
            {
                Library.Check();
                return Library.TextAt(NativeMethods.machnet_version_string());
            }
        }

        /// <summary>The number of an engine, for <see cref="AttachOptions.Engine"/>, that is named as <c>machnet status</c> does: "engine0",
        /// "engine 0" or "0". It does not ask whether there is one. Throws a <see cref="MachnetException"/> of InvalidArgument.</summary>
        public static unsafe int EngineNumber(string name)
        {
            Library.Check();
            fixed (byte* text = Library.TextIn(name ?? throw new ArgumentNullException(nameof(name)), nameof(name)))
            {
                int engine;
                int status = NativeMethods.machnet_engine_number(text, &engine);
                return status == Library.Ok ? engine : throw MachnetException.OfLastCall(status);
            }
        }

        /// <summary>What the channel is.</summary>
        public ChannelInfo Info { get; }

        /// <summary>Completes when the sidecar is gone: every call on the channel throws <see cref="EngineLostException"/> then, once what had come
        /// before was taken. Dispose of it, and attach anew when the sidecar is back.</summary>
        public Task Lost => Bell.Lost;

        internal Doorbell Bell { get; }

        internal Owner Owner { get; }

        internal MessagePool Messages { get; } = new MessagePool();

        /// <summary>Attaches to a sidecar, which takes about a millisecond. Throws <see cref="NoSidecarException"/>, or a
        /// <see cref="MachnetException"/> of SocketPermission, Version, AttachRefused, NoEngine, TimedOut (after 5 s), InvalidArgument or Io,
        /// which it is also where Machnet does not run.</summary>
        public static unsafe Channel Attach(AttachOptions? options = null)
        {
            Library.Check();
            options ??= new AttachOptions();
            MachnetAttachOptions native;
            NativeMethods.machnet_attach_options_init(&native, (UIntPtr)sizeof(MachnetAttachOptions));
            native.engine = options.Engine ?? -1;
            native.wait_policy = (uint)options.WaitPolicy;
            native.sizes = (uint)options.Sizes;
            native.send_slots = Size(options.SendSlots, nameof(options.SendSlots));
            native.receive_slots = Size(options.ReceiveSlots, nameof(options.ReceiveSlots));
            native.tx_buffers = Size(options.SendBuffers, nameof(options.SendBuffers));
            native.rx_buffers = Size(options.ReceiveBuffers, nameof(options.ReceiveBuffers));
            native.buffer_bytes = Size(options.BufferBytes, nameof(options.BufferBytes));
            native.max_flows = Size(options.MaxFlows, nameof(options.MaxFlows));
            native.flow_credit = Size(options.FlowCredit, nameof(options.FlowCredit));
            if (options.Engine is int engine && engine < 0)
            {
                throw new ArgumentOutOfRangeException(nameof(options), "the number of an engine is not negative");
            }
            if (options.Linger != null)
            {
                native.linger_ms = (uint)Addresses.Milliseconds(options.Linger);
            }
            fixed (byte* socket = Library.TextIn(options.SocketPath, nameof(options.SocketPath)))
            fixed (byte* name = Library.TextIn(options.Name, nameof(options.Name)))
            {
                native.socket_path = socket;
                native.name = name;
                ChannelHandle* channel;
                int status = NativeMethods.machnet_attach_with(&native, &channel);
                if (status != Library.Ok)
                {
                    throw MachnetException.OfLastCall(status);
                }
                return new Channel(channel, options.RunContinuationsInline);
            }
        }

        /// <summary>As <see cref="Attach"/>, on the thread pool: the sidecar is asked over its socket.</summary>
        public static async Task<Channel> AttachAsync(AttachOptions? options = null, CancellationToken cancellationToken = default)
        {
            cancellationToken.ThrowIfCancellationRequested();
            Channel channel = await Task.Run(() => Attach(options)).ConfigureAwait(false);
            if (cancellationToken.IsCancellationRequested)
            {
                channel.Dispose();
                throw new OperationCanceledException(cancellationToken);
            }
            return channel;
        }

        /// <summary>Listens on an address of the sidecar such as "10.0.0.5:888" or, on its own one, ":888"; port 0 is any free one. As
        /// <see cref="Listen(IPEndPoint, int)"/>.</summary>
        public Listener Listen(string local, int backlog = 0) => Listen(Addresses.Parse(local, nameof(local)), backlog);

        /// <summary>Listens on an address of the sidecar (<see cref="IPAddress.Any"/>: its own) and a port (0: any free one).
        /// <paramref name="backlog"/> is how many flows may wait to be accepted; 0: 128. Throws a <see cref="MachnetException"/> of AddressNotLocal,
        /// AddressInUse, ListenRefused or EngineLost.</summary>
        public unsafe Listener Listen(IPEndPoint local, int backlog = 0)
        {
            if (local is null)
            {
                throw new ArgumentNullException(nameof(local));
            }
            uint most = Size(backlog, nameof(backlog));
            Enter();
            try
            {
                fixed (byte* ip = Library.TextIn(local.Address.ToString(), nameof(local)))
                {
                    ListenerHandle* listener;
                    int status = NativeMethods.machnet_listener_open(handle.Native, ip, (ushort)local.Port, most, &listener);
                    return status == Library.Ok ? new Listener(this, listener) : throw Owner.Failure(status);
                }
            }
            finally
            {
                handle.Exit();
            }
        }

        /// <summary>As <see cref="Listen(string, int)"/>, on the thread pool: the sidecar is asked over its socket.</summary>
        public Task<Listener> ListenAsync(string local, int backlog = 0) => ListenAsync(Addresses.Parse(local, nameof(local)), backlog);

        /// <summary>As <see cref="Listen(IPEndPoint, int)"/>, on the thread pool: the sidecar is asked over its socket.</summary>
        public Task<Listener> ListenAsync(IPEndPoint local, int backlog = 0) => Task.Run(() => Listen(local, backlog));

        /// <summary>Connects to a listener such as "10.0.0.5:888". As <see cref="Connect(IPEndPoint, TimeSpan?, IPAddress?)"/>.</summary>
        public Flow Connect(string remote, TimeSpan? timeout = null) => Connect(Addresses.Parse(remote, nameof(remote)), timeout);

        /// <summary>Connects to a listener of another host, or of this one. Without a timeout it waits as long as the sidecar is configured to, 3 s by
        /// default. <paramref name="local"/> names an address of the sidecar, if it has several. Throws <see cref="ConnectException"/>, or a
        /// <see cref="MachnetException"/> of AddressNotLocal, TooManyFlows or EngineLost.</summary>
        public unsafe Flow Connect(IPEndPoint remote, TimeSpan? timeout = null, IPAddress? local = null)
        {
            byte[] to = TextOf(remote, out ushort port);
            byte[]? from = Library.TextIn(local?.ToString(), nameof(local));
            int milliseconds = Addresses.Milliseconds(timeout);
            if (!Bell.WaitsInLibrary)
            {
                return ConnectAsync(remote, timeout, local).AsTask().GetAwaiter().GetResult();
            }
            Enter();
            try
            {
                fixed (byte* remoteIp = to)
                fixed (byte* localIp = from)
                {
                    FlowHandle* flow;
                    int status = NativeMethods.machnet_flow_connect(handle.Native, localIp, remoteIp, port, milliseconds, &flow);
                    return status == Library.Ok ? new Flow(this, flow) : throw Owner.Failure(status);
                }
            }
            finally
            {
                handle.Exit();
            }
        }

        /// <summary>Connects to a listener such as "10.0.0.5:888". As <see cref="ConnectAsync(IPEndPoint, TimeSpan?, IPAddress?, CancellationToken)"/>.</summary>
        public ValueTask<Flow> ConnectAsync(string remote, TimeSpan? timeout = null, CancellationToken cancellationToken = default) =>
            ConnectAsync(Addresses.Parse(remote, nameof(remote)), timeout, null, cancellationToken);

        /// <summary>As <see cref="Connect(IPEndPoint, TimeSpan?, IPAddress?)"/>, without a thread. Cancelled, the connect is given up.</summary>
        public async ValueTask<Flow> ConnectAsync(
            IPEndPoint remote, TimeSpan? timeout = null, IPAddress? local = null, CancellationToken cancellationToken = default)
        {
            byte[] to = TextOf(remote, out ushort port);
            byte[]? from = Library.TextIn(local?.ToString(), nameof(local));
            int milliseconds = Addresses.Milliseconds(timeout);
            var start = new StartConnect(this, to, from, port, milliseconds);
            PendingSafeHandle pending = await start.Go(Bell.Connecting, handle, cancellationToken).ConfigureAwait(false);
            var source = new Source(pending);
            try
            {
                return await new FinishConnect(this, pending).Go(source.In, pending, cancellationToken).ConfigureAwait(false);
            }
            finally
            {
                Bell.Forget(source);
                pending.TryClose();
            }
        }

        /// <summary>The descriptor to poll for readability (poll, select, epoll level-triggered), for a program with an event loop of its own. Never
        /// read from it or close it. When a <c>Try</c> call found nothing, either the descriptor is readable or nothing has come since.
        /// <para>A channel is either polled by the program or awaited: from this call on, awaited calls throw
        /// <see cref="InvalidOperationException"/>, and this call throws it after an awaited one.</para></summary>
        public int EventDescriptor
        {
            get
            {
                Enter();
                try
                {
                    return Bell.DescriptorForProgram(Owner);
                }
                finally
                {
                    handle.Exit();
                }
            }
        }

        /// <summary>Closes all flows in order, waits at most the linger time until what was sent is acknowledged, and detaches. Every call on the
        /// channel, its flows and listeners throws <see cref="ObjectDisposedException"/> from now on. Throws if some of what was sent may be
        /// lost; the channel is closed in every case.</summary>
        public Task CloseAsync()
        {
            lock (closeGate)
            {
                return closing ??= BeginClose();
            }
        }

        /// <summary>As <see cref="CloseAsync"/>, with the calling thread.</summary>
        public void Close() => CloseAsync().GetAwaiter().GetResult();

        /// <summary>Begins to close, and returns at once. A thread of its own does what <see cref="CloseAsync"/> does; the process ends only
        /// behind it, and so at most the linger time later.</summary>
        public void Dispose() => CloseAsync().ContinueWith(
            closed => _ = closed.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);

        /// <summary>As <see cref="CloseAsync"/>, but an error of the close is not thrown.</summary>
        public async ValueTask DisposeAsync()
        {
            try
            {
                await CloseAsync().ConfigureAwait(false);
            }
            catch (MachnetException)
            {
                // Whoever wants to know calls CloseAsync.
            }
        }

        internal unsafe CancelSafeHandle NewCancel()
        {
            Enter();
            try
            {
                CancelHandle* cancel;
                int status = NativeMethods.machnet_cancel_new(handle.Native, &cancel);
                return status == Library.Ok ? new CancelSafeHandle((IntPtr)cancel) : throw Owner.Failure(status);
            }
            finally
            {
                handle.Exit();
            }
        }

        private Task BeginClose()
        {
            Owner.Close();
            Bell.CloseAll(Owner.Disposed);
            var closed = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            // Not of the pool, because it lingers; and it keeps the process until what was sent is gone.
            var thread = new Thread(() => ShutDown(closed), 128 * 1024) { Name = "machnet close" };
            thread.Start();
            return closed.Task;
        }

        private unsafe void ShutDown(TaskCompletionSource<bool> closed)
        {
            Exception? failure = null;
            if (handle.TryEnter())
            {
                int status = NativeMethods.machnet_channel_shutdown(handle.Native);
                if (status != Library.Ok)
                {
                    failure = MachnetException.OfLastCall(status);
                }
                handle.IsShutDown = true;
                handle.Exit();
            }
            handle.TryClose();
            if (failure is null)
            {
                closed.SetResult(true);
            }
            else
            {
                closed.SetException(failure);
            }
        }

        private void Enter()
        {
            if (Owner.IsClosed || !handle.TryEnter())
            {
                throw Owner.Disposed();
            }
        }

        private static byte[] TextOf(IPEndPoint remote, out ushort port)
        {
            if (remote is null)
            {
                throw new ArgumentNullException(nameof(remote));
            }
            port = (ushort)remote.Port;
            return Library.TextIn(remote.Address.ToString(), nameof(remote))!;
        }

        private static uint Size(int size, string name) =>
            size >= 0 ? (uint)size : throw new ArgumentOutOfRangeException(name, "a size is not negative");

        /// <summary>Waits for a slot of the send ring, which may be full.</summary>
        private sealed class StartConnect : Operation<PendingSafeHandle>
        {
            private readonly Channel channel;
            private readonly byte[] to;
            private readonly byte[]? from;
            private readonly ushort port;
            private readonly int timeoutMilliseconds;

            internal StartConnect(Channel channel, byte[] to, byte[]? from, ushort port, int timeoutMilliseconds)
                : base(channel.Bell, channel.Owner)
            {
                this.channel = channel;
                this.to = to;
                this.from = from;
                this.port = port;
                this.timeoutMilliseconds = timeoutMilliseconds;
            }

            protected override unsafe int Ask(out PendingSafeHandle answer)
            {
                fixed (byte* remoteIp = to)
                fixed (byte* localIp = from)
                {
                    PendingHandle* pending;
                    int status = NativeMethods.machnet_flow_start_connect(
                        channel.handle.Native, localIp, remoteIp, port, timeoutMilliseconds, &pending);
                    answer = status == Library.Ok ? new PendingSafeHandle((IntPtr)pending) : null!;
                    return status;
                }
            }

            // There is no such call that does not tell the doorbell.
            protected override int Await(int timeoutMilliseconds, out PendingSafeHandle answer)
            {
                answer = null!;
                return Library.TimedOut;
            }

            protected override void Recycle()
            {
            }
        }

        /// <summary>Waits for the outcome of a connect.</summary>
        private sealed class FinishConnect : Operation<Flow>
        {
            private readonly Channel channel;
            private readonly PendingSafeHandle pending;

            internal FinishConnect(Channel channel, PendingSafeHandle pending) : base(channel.Bell, channel.Owner)
            {
                this.channel = channel;
                this.pending = pending;
            }

            protected override unsafe int Ask(out Flow answer)
            {
                FlowHandle* flow;
                int status = NativeMethods.machnet_pending_try_finish(pending.Native, &flow);
                answer = status == Library.Ok ? new Flow(channel, flow) : null!;
                return status;
            }

            protected override unsafe int Await(int timeoutMilliseconds, out Flow answer)
            {
                FlowHandle* flow;
                int status = NativeMethods.machnet_pending_finish(pending.Native, timeoutMilliseconds, &flow);
                answer = status == Library.Ok ? new Flow(channel, flow) : null!;
                return status;
            }

            protected override void Recycle()
            {
            }
        }
    }
}
