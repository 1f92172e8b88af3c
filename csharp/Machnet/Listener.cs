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
    /// <summary>Waits for flows. <c>await foreach</c> accepts them until the listener is disposed. All its members may be used from any
    /// thread.</summary>
    public sealed class Listener : IAsyncEnumerable<Flow>, IAsyncDisposable, IDisposable
    {
        private readonly Channel channel;
        private readonly ListenerSafeHandle handle;
        private readonly Owner owner;
        private readonly Source source;

        internal unsafe Listener(Channel channel, ListenerHandle* native)
        {
            this.channel = channel;
            handle = new ListenerSafeHandle((IntPtr)native);
            source = new Source(handle);
            owner = new Owner(nameof(Listener), channel.Owner);
            MachnetAddress address;
            NativeMethods.machnet_listener_address(native, &address);
            LocalEndPoint = Addresses.Of(address);
        }

        /// <summary>Where it listens, with the port that was chosen for port 0.</summary>
        public IPEndPoint LocalEndPoint { get; }

        /// <summary>Waits for a flow with the calling thread; for ever without a timeout. Throws <see cref="MachnetTimeoutException"/>,
        /// <see cref="EngineLostException"/>, and <see cref="ObjectDisposedException"/> when this side closes.</summary>
        public Flow Accept(TimeSpan? timeout = null) =>
            new AcceptOperation(this).Go(source.In, handle, Addresses.Milliseconds(timeout), out Flow flow)
                ? flow
                : throw MachnetException.Of(Library.TimedOut);

        /// <summary>Answers a flow if one waits to be accepted.</summary>
        public bool TryAccept([NotNullWhen(true)] out Flow? flow)
        {
            bool isThere = new AcceptOperation(this).Go(source.In, handle, 0, out Flow accepted);
            flow = isThere ? accepted : null;
            return isThere;
        }

        /// <summary>Waits for a flow, without a thread. Cancelled, it has accepted none.</summary>
        public ValueTask<Flow> AcceptAsync(CancellationToken cancellationToken = default) =>
            new AcceptOperation(this).Go(source.In, handle, cancellationToken);

        /// <summary>The flows that arrive, each to be disposed of, until the listener is.</summary>
        public async IAsyncEnumerator<Flow> GetAsyncEnumerator(CancellationToken cancellationToken = default)
        {
            while (true)
            {
                Flow flow;
                try
                {
                    flow = await AcceptAsync(cancellationToken).ConfigureAwait(false);
                }
                catch (ObjectDisposedException)
                {
                    yield break;
                }
                yield return flow;
            }
        }

        /// <summary>Stops listening, and returns at once. Calls that wait throw <see cref="ObjectDisposedException"/>; flows that were not accepted
        /// yet are refused.</summary>
        public unsafe void Dispose()
        {
            if (!handle.TryEnter())
            {
                return;
            }
            owner.Close();
            NativeMethods.machnet_listener_shutdown(handle.Native);
            channel.Bell.Close(source, owner.Disposed);
            handle.TryClose();
            handle.Exit();
        }

        /// <summary>As <see cref="Dispose"/>.</summary>
        public ValueTask DisposeAsync()
        {
            Dispose();
            return default;
        }

        private sealed class AcceptOperation : Operation<Flow>
        {
            private readonly Listener listener;

            internal AcceptOperation(Listener listener) : base(listener.channel.Bell, listener.owner)
            {
                this.listener = listener;
            }

            protected override unsafe int Ask(out Flow answer)
            {
                FlowHandle* flow;
                int status = NativeMethods.machnet_listener_try_accept(listener.handle.Native, &flow);
                answer = status == Library.Ok ? new Flow(listener.channel, flow) : null!;
                return status;
            }

            protected override unsafe int Await(int timeoutMilliseconds, out Flow answer)
            {
                FlowHandle* flow;
                int status = NativeMethods.machnet_listener_accept(listener.handle.Native, timeoutMilliseconds, &flow);
                answer = status == Library.Ok ? new Flow(listener.channel, flow) : null!;
                return status;
            }

            protected override void Recycle()
            {
            }
        }
    }
}
