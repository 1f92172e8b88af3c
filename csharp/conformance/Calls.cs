using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Conformance
{
    /// <summary>The calls that wait, in one of the two ways in which programs make them.</summary>
    internal sealed class Calls
    {
        internal Calls(bool isBlocking)
        {
            IsBlocking = isBlocking;
        }

        internal bool IsBlocking { get; }

        internal Task<Flow> Connect(Channel channel, string address, Wait wait)
        {
            // The timeout is the sidecar's to watch; 0 is no more than a very short one.
            TimeSpan? timeout = wait.Timeout is TimeSpan time ? (TimeSpan?)(time > TimeSpan.Zero ? time : TimeSpan.FromMilliseconds(1)) : null;
            return IsBlocking
                ? Task.FromResult(channel.Connect(address, timeout))
                : channel.ConnectAsync(address, timeout, wait.Token).AsTask();
        }

        internal Task<Flow> Accept(Listener listener, Wait wait) =>
            IsBlocking ? Task.FromResult(listener.Accept(wait.Timeout)) : wait.For(token => listener.AcceptAsync(token));

        internal Task<Message> Receive(Flow flow, Wait wait) =>
            IsBlocking ? Task.FromResult(flow.Receive(wait.Timeout)) : wait.For(token => flow.ReceiveAsync(token));

        internal Task<int> ReceiveInto(Flow flow, Memory<byte> buffer, Wait wait) =>
            IsBlocking
                ? Task.FromResult(flow.ReceiveInto(buffer.Span, wait.Timeout))
                : wait.For(token => flow.ReceiveIntoAsync(buffer, token));

        internal Task<int> ReceiveMany(Flow flow, Memory<Message> messages, Wait wait) =>
            IsBlocking
                ? Task.FromResult(flow.ReceiveMany(messages.Span, wait.Timeout))
                : wait.For(token => flow.ReceiveManyAsync(messages, token));

        internal Task Send(Flow flow, ReadOnlyMemory<byte> message, Wait wait)
        {
            if (IsBlocking)
            {
                flow.Send(message.Span, wait.Timeout);
                return Task.CompletedTask;
            }
            return wait.For<bool>(async token =>
            {
                await flow.SendAsync(message, token);
                return true;
            });
        }

        internal Task<int> SendMany(Flow flow, IReadOnlyList<ReadOnlyMemory<byte>> messages, Wait wait) =>
            IsBlocking ? Task.FromResult(flow.SendMany(messages, wait.Timeout)) : wait.For(token => flow.SendManyAsync(messages, token));

        internal Task<Loan> Lend(Flow flow, int length, Wait wait) =>
            IsBlocking ? Task.FromResult(flow.Lend(length, wait.Timeout)) : wait.For(token => flow.LendAsync(length, token));

        internal Task<int> Read(MachnetStream stream, Memory<byte> buffer, Wait wait)
        {
            if (IsBlocking)
            {
                stream.ReadTimeout = wait.StreamTimeout;
                return Task.FromResult(stream.Read(buffer.Span));
            }
            return wait.For(token => stream.ReadAsync(buffer, token));
        }

        internal Task Write(MachnetStream stream, ReadOnlyMemory<byte> bytes, Wait wait)
        {
            if (IsBlocking)
            {
                stream.WriteTimeout = wait.StreamTimeout;
                stream.Write(bytes.Span);
                return Task.CompletedTask;
            }
            return wait.For<bool>(async token =>
            {
                await stream.WriteAsync(bytes, token);
                return true;
            });
        }

        internal Task End(MachnetStream stream, Wait wait)
        {
            if (IsBlocking)
            {
                stream.WriteTimeout = wait.StreamTimeout;
                stream.CompleteWriting();
                return Task.CompletedTask;
            }
            return wait.For<bool>(async token =>
            {
                await stream.CompleteWritingAsync(token);
                return true;
            });
        }
    }

    /// <summary>How long each wait of a command may take, and what cancels it.</summary>
    internal readonly struct Wait
    {
        internal Wait(int? milliseconds, CancellationToken token)
        {
            Timeout = milliseconds is int time ? TimeSpan.FromMilliseconds(time) : (TimeSpan?)null;
            Token = token;
        }

        internal TimeSpan? Timeout { get; }

        internal CancellationToken Token { get; }

        internal int StreamTimeout => Timeout is TimeSpan time ? Math.Max((int)time.TotalMilliseconds, 1) : System.Threading.Timeout.Infinite;

        /// <summary>Awaits a call whose token is cancelled when the time has passed.</summary>
        internal async Task<T> For<T>(Func<CancellationToken, ValueTask<T>> call)
        {
            if (!(Timeout is TimeSpan time))
            {
                return await call(Token);
            }
            using var stop = CancellationTokenSource.CreateLinkedTokenSource(Token);
            try
            {
                ValueTask<T> task = call(stop.Token);
                if (!task.IsCompleted)
                {
                    stop.CancelAfter(time);
                }
                return await task;
            }
            catch (OperationCanceledException) when (!Token.IsCancellationRequested)
            {
                throw new TimeoutException();
            }
        }
    }
}
