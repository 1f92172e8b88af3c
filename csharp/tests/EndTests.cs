using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;

namespace Machnet.Tests
{
    [Tests]
    public sealed class EndTests
    {
        private static readonly TimeSpan Brief = TimeSpan.FromMilliseconds(20);

        public async Task ACloseInOrderComesBehindTheMessages()
        {
            using var pair = new Pair();
            await pair.Near.SendAsync(Encoding.UTF8.GetBytes("last"));
            await pair.Near.CloseAsync();
            Check.Throws<ObjectDisposedException>(() => pair.Near.Send(new byte[1]));
            Check.Throws<ObjectDisposedException>(() => pair.Near.TrySend(new byte[1]));
            Check.Throws<ObjectDisposedException>(() => pair.Near.TryReceive(out _));
            await Check.ThrowsAsync<ObjectDisposedException>(() => pair.Near.ReceiveAsync().AsTask());
            await Check.ThrowsAsync<ObjectDisposedException>(() => pair.Near.CloseAsync());
            pair.Near.Dispose();
            using (Message message = await pair.Far.ReceiveAsync())
            {
                Check.Equal("last", Encoding.UTF8.GetString(message.Span));
            }
            Check.Throws<FlowClosedException>(() => pair.Far.Receive());
            MachnetException e = await Check.ThrowsAsync<FlowClosedException>(() => pair.Far.ReceiveAsync().AsTask());
            Check.Equal(17, e.Code);
            Check.Equal("Closed", e.Name);
            Check.Throws<FlowClosedException>(() => pair.Far.Send(new byte[1]));
        }

        public void ABlockingCloseWaitsUntilThePeersSidecarHasEverything()
        {
            using var pair = new Pair();
            pair.Near.Send(new byte[1_000_000]);
            pair.Near.Close(TimeSpan.FromSeconds(30));
            using Message message = pair.Far.Receive();
            Check.Equal(1_000_000, message.Length);
        }

        public async Task ACloseThatIsCancelledGoesOn()
        {
            using var pair = new Pair();
            // More than the peer has room for while nobody reads, so that the close has to wait.
            Check.Throws<MachnetTimeoutException>(() =>
            {
                while (true)
                {
                    pair.Near.Send(new byte[100_000], TimeSpan.FromMilliseconds(300));
                }
            });
            using var stop = new CancellationTokenSource(Brief);
            await Check.ThrowsAsync<OperationCanceledException>(() => pair.Near.CloseAsync(stop.Token));
            var count = 0;
            await foreach (Message message in pair.Far)
            {
                message.Dispose();
                count++;
            }
            Check.That(count > 10, "all of it came");
        }

        public async Task AResetTellsItsReason()
        {
            using var pair = new Pair();
            Task<Message> receive = pair.Far.ReceiveAsync().AsTask();
            pair.Near.Reset();
            FlowResetException e = await Check.ThrowsAsync<FlowResetException>(() => receive);
            Check.That(e.Message.Contains("the peer aborted the flow"), e.Message);
            Check.Equal(MachnetError.Reset, e.Error);
            Check.Throws<FlowResetException>(() => pair.Far.Send(new byte[1]));
        }

        public async Task DisposeEndsTheWaitsOfThisSide()
        {
            using var pair = new Pair();
            Task first = pair.Near.ReceiveAsync().AsTask();
            Task second = pair.Near.ReceiveIntoAsync(new byte[1]).AsTask();
            Task accept = pair.Listener.AcceptAsync().AsTask();
            pair.Near.Dispose();
            pair.Listener.Dispose();
            await Check.ThrowsAsync<ObjectDisposedException>(() => first);
            await Check.ThrowsAsync<ObjectDisposedException>(() => second);
            await Check.ThrowsAsync<ObjectDisposedException>(() => accept);
            await Check.ThrowsAsync<ObjectDisposedException>(() => pair.Listener.AcceptAsync().AsTask());
            await foreach (Flow flow in pair.Listener)
            {
                throw new InvalidOperationException("a closed listener has no flows");
            }
            Task third = pair.Far.ReceiveAsync().AsTask();
            await pair.Server.CloseAsync();
            Exception e = await Check.ThrowsAsync<Exception>(() => third);
            Check.That(e is ObjectDisposedException || e is FlowClosedException, e.ToString());
            e = Check.Throws<ObjectDisposedException>(() => pair.Server.Connect("127.0.0.1:1"));
            Check.That(e.Message.Contains("This side has closed the channel."), e.Message);
            Check.Throws<ObjectDisposedException>(() => pair.Server.Listen(":0"));
            Check.Throws<ObjectDisposedException>(() => pair.Far.Send(new byte[1]));
            await pair.Server.CloseAsync();
        }

        public void DisposeEndsTheWaitsOfThreadsInTheLibrary()
        {
            using var pair = new Pair();
            var failures = new List<Exception>();
            Thread Wait(Action call)
            {
                var thread = new Thread(() =>
                {
                    try
                    {
                        call();
                    }
                    catch (Exception e)
                    {
                        lock (failures)
                        {
                            failures.Add(e);
                        }
                    }
                });
                thread.Start();
                return thread;
            }
            Thread receive = Wait(() => pair.Near.Receive());
            Thread accept = Wait(() => pair.Listener.Accept());
            Thread other = Wait(() => pair.Far.Receive());
            pair.Listener.Dispose();
            accept.Join();
            pair.Near.Dispose();
            receive.Join();
            pair.Server.Close();
            other.Join();
            foreach (Exception e in failures)
            {
                Check.That(e is ObjectDisposedException || e is FlowClosedException, e.ToString());
            }
            Check.Equal(3, failures.Count);
        }

        public async Task DisposeOfAChannelDoesNotBlock()
        {
            using var pair = new Pair(choose: options => options.Linger = TimeSpan.FromSeconds(60));
            Check.Throws<MachnetTimeoutException>(() =>
            {
                while (true)
                {
                    pair.Near.Send(new byte[100_000], TimeSpan.FromMilliseconds(300));
                }
            });
            pair.Client.Dispose();
            Task closing = pair.Client.CloseAsync();
            Check.That(!closing.IsCompleted, "it lingers behind Dispose");
            await foreach (Message message in pair.Far)
            {
                message.Dispose();
            }
            await closing;
        }

        public async Task WaitsEndWithTheirTimeAndLoseNothing()
        {
            using var pair = new Pair();
            TimeoutRounds(pair);
            Task<Message> receive = pair.Far.ReceiveAsync().AsTask();
            pair.Near.Send(new byte[1]);
            (await receive).Dispose();
            TimeoutRounds(pair);
        }

        private static void TimeoutRounds(Pair pair)
        {
            MachnetTimeoutException e = Check.Throws<MachnetTimeoutException>(() => pair.Far.Receive(Brief));
            Check.That(e.InnerException is TimeoutException, "as .NET knows it");
            Check.Equal(8, e.Code);
            Check.Throws<MachnetTimeoutException>(() => pair.Far.ReceiveInto(new byte[1], Brief));
            Check.Throws<MachnetTimeoutException>(() => pair.Far.ReceiveMany(new Message[1], TimeSpan.Zero));
            Check.Throws<MachnetTimeoutException>(() => pair.Listener.Accept(Brief));
            Check.That(!pair.Far.TryReceive(Brief, out _), "nothing was sent");
            Check.Throws<ArgumentOutOfRangeException>(() => pair.Far.Receive(TimeSpan.FromSeconds(-5)));
            pair.Near.Send(new byte[] { 7 });
            using Message message = pair.Far.Receive(TimeSpan.FromSeconds(30));
            Check.Equal((byte)7, message.Span[0]);
        }

        public async Task CancelledCallsSayWhoseTokenItWas()
        {
            using var pair = new Pair();
            using var stop = new CancellationTokenSource();
            Task receive = pair.Far.ReceiveAsync(stop.Token).AsTask();
            Task into = pair.Far.ReceiveIntoAsync(new byte[1], stop.Token).AsTask();
            Task many = pair.Far.ReceiveManyAsync(new Message[1], stop.Token).AsTask();
            Task accept = pair.Listener.AcceptAsync(stop.Token).AsTask();
            Task connect = pair.Client.ConnectAsync("127.0.0.9:1", cancellationToken: stop.Token).AsTask();
            stop.Cancel();
            foreach (Task task in new[] { receive, into, many, accept, connect })
            {
                OperationCanceledException e = await Check.ThrowsAsync<OperationCanceledException>(() => task);
                Check.That(task.IsCanceled, "a cancelled task");
                Check.That(e.CancellationToken == stop.Token || task == many || task == connect, "the token");
            }
            await Check.ThrowsAsync<OperationCanceledException>(() => pair.Far.ReceiveAsync(stop.Token).AsTask());
            await Check.ThrowsAsync<OperationCanceledException>(() => pair.Near.SendAsync(new byte[1], stop.Token).AsTask());
            await Check.ThrowsAsync<OperationCanceledException>(() => Channel.AttachAsync(null, stop.Token));
            Check.That(!pair.Far.TryReceive(Brief, out _), "a cancelled send sent nothing");
        }

        public async Task NobodyListens()
        {
            using var pair = new Pair();
            foreach (bool awaited in new[] { false, true })
            {
                ConnectException e = awaited
                    ? await Check.ThrowsAsync<ConnectException>(() => pair.Client.ConnectAsync("127.0.0.2:4711").AsTask())
                    : Check.Throws<ConnectException>(() => pair.Client.Connect("127.0.0.2:4711"));
                Check.Equal(MachnetError.Refused, e.Error);
                Check.That(e.Message.Contains("no listener on port 4711"), e.Message);
                e = awaited
                    ? await Check.ThrowsAsync<ConnectException>(() => pair.Client.ConnectAsync("127.0.0.9:1", Brief).AsTask())
                    : Check.Throws<ConnectException>(() => pair.Client.Connect("127.0.0.9:1", Brief));
                Check.Equal(MachnetError.ConnectTimedOut, e.Error);
            }
            foreach (string address in new[] { "nothing", "127.0.0.1:x", "127.0.0.1:70000", "::1:5", "[127.0.0.1]:5", "1.2.3.4" })
            {
                Check.Throws<ArgumentException>(() => pair.Client.Connect(address));
            }
            Check.Fails(MachnetError.AddressNotLocal, () => pair.Client.Listen("10.9.8.7:0"));
            Check.Fails(MachnetError.AddressInUse, () => pair.Server.Listen(new IPEndPoint(IPAddress.Any, pair.Listener.LocalEndPoint.Port)));
        }

        public void NoSidecarIsSaidWithWhatHelps()
        {
            string nowhere = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName(), "machnet.sock");
            NoSidecarException e = Check.Throws<NoSidecarException>(() => Channel.Attach(new AttachOptions { SocketPath = nowhere }));
            Check.That(e.Message.Contains("no sidecar at " + nowhere + "; start one with `machnet up`"), e.Message);
            Check.Equal(1, e.Code);
            Check.Fails(MachnetError.NoEngine, () => Hosts.Attach(Hosts.Near, options => options.Engine = 99));
            Check.Throws<ArgumentException>(() => Hosts.Attach(Hosts.Near, options => options.Name = "a\0b"));
            Check.Throws<ArgumentOutOfRangeException>(() => Hosts.Attach(Hosts.Near, options => options.MaxFlows = -1));
        }

        public async Task WhenTheSidecarDiesEveryWaitEndsAndANewOneIsAttachedTo()
        {
            int port = Sidecar.FreePort();
            var mortal = new Sidecar("127.0.0.1", port);
            using var pair = new Pair(mortal, mortal);
            using var idle = Hosts.Attach(mortal);
            using var blocking = new Pair(mortal, mortal);
            (Flow near, Flow far) = pair.Connect();
            await near.SendAsync(Encoding.UTF8.GetBytes("before"));
            await near.SendAsync(Encoding.UTF8.GetBytes("and after"));
            (await far.ReceiveAsync()).Dispose();
            Task[] waits =
            {
                near.ReceiveAsync().AsTask(),
                near.ReceiveAsync().AsTask(),
                pair.Listener.AcceptAsync().AsTask(),
                Task.Run(() => blocking.Near.Receive()),
                Task.Run(() => pair.Near.Receive()),
            };
            Task lost = pair.Client.Lost;
            Task idleLost = idle.Lost;
            mortal.Kill();
            foreach (Task wait in waits)
            {
                EngineLostException e = await Check.ThrowsAsync<EngineLostException>(() => wait);
                Check.Equal(MachnetError.EngineLost, e.Error);
            }
            await lost;
            await idleLost;
            await blocking.Client.Lost;
            Check.Throws<EngineLostException>(() => near.Send(new byte[1]));
            Check.Throws<EngineLostException>(() => pair.Client.Connect("127.0.0.1:1"));
            await Check.ThrowsAsync<EngineLostException>(() => pair.Client.ConnectAsync("127.0.0.1:1").AsTask());
            await Check.ThrowsAsync<EngineLostException>(() => idle.ConnectAsync("127.0.0.1:1").AsTask());
            Check.Throws<EngineLostException>(() => idle.Listen(":0"));
            // What had come before is still there.
            using (Message message = await far.ReceiveAsync())
            {
                Check.Equal("and after", Encoding.UTF8.GetString(message.Span));
            }
            await Check.ThrowsAsync<EngineLostException>(() => far.ReceiveAsync().AsTask());
            await pair.Client.DisposeAsync();
            var again = new Sidecar("127.0.0.1", port);
            using (var fresh = new Pair(again, again))
            {
                fresh.Near.Send(new byte[1]);
                fresh.Far.Receive().Dispose();
            }
            again.Kill();
        }

        public void TheProgramCanPollTheDescriptorItself()
        {
            using var pair = new Pair();
            int descriptor = pair.Server.EventDescriptor;
            for (int i = 0; i < 200; i++)
            {
                int sent = i;
                ThreadPool.QueueUserWorkItem(_ => pair.Near.Send(BitConverter.GetBytes(sent)));
                Message message;
                while (!pair.Far.TryReceive(out message))
                {
                    var watched = new PollFd { Descriptor = descriptor, Events = 1 };
                    Check.That(poll(ref watched, 1, 60_000) == 1, "it becomes readable");
                }
                Check.Equal(i, BitConverter.ToInt32(message.Span));
                message.Dispose();
            }
            Check.Throws<InvalidOperationException>(() => pair.Far.ReceiveAsync().AsTask().GetAwaiter().GetResult());
            pair.Near.Send(new byte[1]);
            pair.Far.Receive(TimeSpan.FromSeconds(30)).Dispose();
            _ = pair.Near.ReceiveAsync();
            Check.Throws<InvalidOperationException>(() => _ = pair.Client.EventDescriptor);
        }

        public async Task AFlowTellsWhatItIs()
        {
            using var pair = new Pair();
            Check.Equal(pair.Listener.LocalEndPoint.Port, pair.Near.RemoteEndPoint.Port);
            Check.Equal("127.0.0.2", pair.Near.RemoteEndPoint.Address.ToString());
            Check.Equal("127.0.0.1", pair.Near.LocalEndPoint.Address.ToString());
            Check.Equal(pair.Near.LocalEndPoint, pair.Far.RemoteEndPoint);
            Check.Equal(Hosts.Near.Id, pair.Client.Info.SidecarProcess);
            Check.Equal("127.0.0.1", pair.Client.Info.Local.ToString());
            Check.Equal(0, pair.Client.Info.Engine);
            await pair.Near.SendAsync(new byte[1000]);
            (await pair.Far.ReceiveAsync()).Dispose();
            FlowStats stats = pair.Near.GetStats();
            Check.Equal(1L, stats.MessagesSent);
            Check.Equal(1000L, stats.BytesSent);
            Check.That(!stats.IsLocal, "two hosts");
            stats = await pair.Far.GetStatsAsync();
            Check.Equal(1L, stats.MessagesReceived);
            Check.Equal(1000L, stats.BytesReceived);
            Check.Fails(MachnetError.InvalidArgument, () => Channel.EngineNumber("turbine"));
            using var named = Hosts.Attach(Hosts.Near, options =>
            {
                options.Engine = Channel.EngineNumber("engine0");
                options.Name = "named";
                options.Sizes = ChannelSizes.Small;
                options.MaxFlows = 4;
                options.WaitPolicy = WaitPolicy.Sleep;
            });
            Check.Equal(4, named.Info.MaxFlows);
            Check.That(named.Info.BufferBytes * named.Info.ReceiveBuffers <= 256 * 1024, "the sizes are small");
        }

        public async Task ContinuationsCanRunOnThePollersThread()
        {
            using var pair = new Pair(choose: options => options.RunContinuationsInline = true);
            Task echo = MessageTests.Echo(pair.Far);
            for (int i = 0; i < 1000; i++)
            {
                await pair.Near.SendAsync(BitConverter.GetBytes(i)).ConfigureAwait(false);
                using Message answer = await pair.Near.ReceiveAsync().ConfigureAwait(false);
                Check.Equal(i, BitConverter.ToInt32(answer.Span));
            }
            pair.Near.Dispose();
            await echo;
        }

        public void OtherSystemsAreToldWhatIsPossibleThere()
        {
            MachnetException e = Check.Throws<MachnetException>(() => Library.Check(false, Architecture.Arm64, () => 0));
            Check.That(e.InnerException is PlatformNotSupportedException && e.Message.Contains("on Linux: in a container"), e.Message);
            e = Check.Throws<MachnetException>(() => Library.Check(true, Architecture.Arm64, () => throw new DllNotFoundException()));
            Check.That(e.Message.Contains("libmachnet.so was not found for Linux on Arm64"), e.Message);
            e = Check.Throws<MachnetException>(() => Library.Check(true, Architecture.X64, () => 0x7_0301));
            Check.Equal(MachnetError.Version, e.Error);
            Check.That(e.Message.Contains("7.3.1"), e.Message);
            Check.Equal("0.1.0", Channel.LibraryVersion);
        }

        [StructLayout(LayoutKind.Sequential)]
        private struct PollFd
        {
            public int Descriptor;
            public short Events;
            public short Results;
        }

        [DllImport("libc")]
        private static extern int poll(ref PollFd watched, ulong count, int timeoutMilliseconds);
    }
}
