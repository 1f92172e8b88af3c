using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Tests
{
    [Tests]
    public sealed class MessageTests
    {
        private static readonly int[] Lengths = { 1, 2, 63, 64, 1_000, 1_472, 9_000, 65_535, 65_536, 1_000_000, 8_388_608 };

        public void MessagesOfEveryLengthComeBackBlocking()
        {
            using var pair = new Pair();
            var server = new Thread(() =>
            {
                for (int i = 0; i < Lengths.Length; i++)
                {
                    using Message message = pair.Far.Receive();
                    pair.Far.Send(message.Span);
                }
            });
            server.Start();
            for (int i = 0; i < Lengths.Length; i++)
            {
                byte[] question = Hosts.Pattern(i, Lengths[i]);
                pair.Near.Send(question);
                using Message answer = pair.Near.Receive();
                Check.Same(question, answer.Span);
            }
            server.Join();
        }

        public async Task MessagesOfEveryLengthComeBackAwaited()
        {
            using var pair = new Pair();
            Task server = Task.Run(async () =>
            {
                await foreach (Message message in pair.Far)
                {
                    using (message)
                    {
                        await pair.Far.SendAsync(message);
                    }
                }
            });
            for (int i = 0; i < Lengths.Length; i++)
            {
                byte[] question = Hosts.Pattern(i, Lengths[i]);
                await pair.Near.SendAsync(question);
                var buffer = new byte[question.Length];
                int length = await pair.Near.ReceiveIntoAsync(buffer);
                Check.Same(question, buffer.AsSpan(0, length));
            }
            pair.Near.Dispose();
            await server;
        }

        public async Task OrderIsKeptWithManyUnderWay()
        {
            using var pair = new Pair();
            const int Count = 20_000;
            Task sender = Task.Run(async () =>
            {
                for (int i = 0; i < Count; i++)
                {
                    await pair.Near.SendAsync(BitConverter.GetBytes(i));
                }
            });
            for (int i = 0; i < Count; i++)
            {
                using Message message = await pair.Far.ReceiveAsync();
                Check.Equal(i, BitConverter.ToInt32(message.Span));
            }
            await sender;
        }

        public async Task ReceivesQueueInTheOrderOfTheirCalls()
        {
            using var pair = new Pair();
            List<Task<Message>> receives = Enumerable.Range(0, 50).Select(_ => pair.Far.ReceiveAsync().AsTask()).ToList();
            for (int i = 0; i < receives.Count; i++)
            {
                pair.Near.Send(BitConverter.GetBytes(i));
            }
            for (int i = 0; i < receives.Count; i++)
            {
                using Message message = await receives[i];
                Check.Equal(i, BitConverter.ToInt32(message.Span));
            }
        }

        public async Task SendsQueueInTheOrderOfTheirCalls()
        {
            // Far more than there is credit for, so that most have to wait.
            using var pair = new Pair(choose: options => options.FlowCredit = 4);
            List<Task> sends = Enumerable.Range(0, 200).Select(i => pair.Near.SendAsync(BitConverter.GetBytes(i)).AsTask()).ToList();
            for (int i = 0; i < sends.Count; i++)
            {
                using Message message = await pair.Far.ReceiveAsync();
                Check.Equal(i, BitConverter.ToInt32(message.Span));
            }
            await Task.WhenAll(sends);
        }

        public async Task ManyFlowsOnOneChannelAllMakeProgress()
        {
            using var pair = new Pair();
            const int Flows = 60;
            const int Rounds = 50;
            Task server = Task.Run(async () =>
            {
                var echoes = new List<Task>();
                for (int i = 0; i < Flows; i++)
                {
                    Flow flow = await pair.Listener.AcceptAsync();
                    echoes.Add(Echo(flow));
                }
                await Task.WhenAll(echoes);
            });
            async Task Ask(int number)
            {
                await using Flow flow = await pair.Client.ConnectAsync(pair.Listener.LocalEndPoint, TimeSpan.FromSeconds(30));
                for (int i = 0; i < Rounds; i++)
                {
                    byte[] question = Hosts.Pattern(number + i, 100 + number);
                    await flow.SendAsync(question);
                    using Message answer = await flow.ReceiveAsync();
                    Check.Same(question, answer.Span);
                }
            }
            await Task.WhenAll(Enumerable.Range(0, Flows).Select(Ask));
            await server;
        }

        public async Task AnUnreadFlowHoldsUpNobodyElse()
        {
            using var pair = new Pair();
            (Flow ignoredNear, Flow ignoredFar) = pair.Connect();
            // Fills all that it may, and stays unread.
            Check.Throws<MachnetTimeoutException>(() =>
            {
                while (true)
                {
                    ignoredNear.Send(new byte[10_000], TimeSpan.FromMilliseconds(500));
                }
            });
            using var stop = new CancellationTokenSource();
            Task waiting = ignoredNear.SendAsync(new byte[10_000], stop.Token).AsTask();
            Task echo = Echo(pair.Far);
            for (int i = 0; i < 500; i++)
            {
                await pair.Near.SendAsync(BitConverter.GetBytes(i));
                using Message answer = await pair.Near.ReceiveAsync();
                Check.Equal(i, BitConverter.ToInt32(answer.Span));
            }
            Check.That(!waiting.IsCompleted, "back-pressure reached the sender");
            stop.Cancel();
            await Check.ThrowsAsync<OperationCanceledException>(() => waiting);
            using Message unread = await ignoredFar.ReceiveAsync();
            Check.Equal(10_000, unread.Length);
            pair.Near.Dispose();
            await echo;
        }

        public void ThreadsShareAChannelBlocking() => ShareAChannel(_ => { });

        public void ThreadsShareAChannelThatIsAwaitedToo() => ShareAChannel(pair =>
        {
            // The first awaited calls switch both channels over.
            _ = pair.Near.ReceiveAsync();
            _ = pair.Far.ReceiveAsync();
        });

        private static void ShareAChannel(Action<Pair> before)
        {
            using var pair = new Pair();
            before(pair);
            Exception? failure = null;
            var threads = new List<Thread>();
            for (int n = 0; n < 6; n++)
            {
                (Flow near, Flow far) = pair.Connect();
                int number = n;
                void Run(Action body)
                {
                    var thread = new Thread(() =>
                    {
                        try
                        {
                            body();
                        }
                        catch (Exception e)
                        {
                            failure = e;
                        }
                    });
                    thread.Start();
                    threads.Add(thread);
                }
                Run(() =>
                {
                    for (int i = 0; i < 300; i++)
                    {
                        using Message message = far.Receive();
                        far.Send(message.Span);
                    }
                });
                Run(() =>
                {
                    var buffer = new byte[5_000];
                    for (int i = 0; i < 300; i++)
                    {
                        byte[] question = Hosts.Pattern(number + i, 1 + i * 13);
                        near.Send(question);
                        int length = near.ReceiveInto(buffer, TimeSpan.FromSeconds(60));
                        Check.Same(question, buffer.AsSpan(0, length));
                    }
                });
            }
            threads.ForEach(thread => thread.Join());
            if (failure != null)
            {
                throw failure;
            }
        }

        public async Task BatchesGoBothWays()
        {
            using var pair = new Pair();
            List<ReadOnlyMemory<byte>> messages = Enumerable.Range(0, 1_000).Select(i => (ReadOnlyMemory<byte>)BitConverter.GetBytes(i)).ToList();
            Task<int> sender = pair.Near.SendManyAsync(messages).AsTask();
            var received = new Message[100];
            int next = 0;
            while (next < messages.Count)
            {
                int count = next % 2 == 0 ? await pair.Far.ReceiveManyAsync(received) : pair.Far.ReceiveMany(received);
                Check.That(count > 0 && count <= 100, "a batch has some messages");
                for (int i = 0; i < count; i++)
                {
                    Check.Equal(next++, BitConverter.ToInt32(received[i].Span));
                    received[i].Dispose();
                }
            }
            Check.Equal(messages.Count, await sender);
            Check.Equal(0, pair.Far.TryReceiveMany(received));
            Check.Equal(0, pair.Near.SendMany(new List<ReadOnlyMemory<byte>>()));
            Check.Equal(3, pair.Near.SendMany(messages.GetRange(0, 3)));
            Check.That(pair.Near.TrySendMany(messages.GetRange(0, 2)) == 2, "there is credit");
            for (int i = 0; i < 5; i++)
            {
                using Message message = pair.Far.Receive();
                Check.Equal(i % 3, BitConverter.ToInt32(message.Span));
            }
        }

        public async Task LoansAreWrittenWhereTheyAreSentFrom()
        {
            using var pair = new Pair();
            using (Loan loan = await pair.Near.LendAsync(300_000))
            {
                Hosts.Pattern(3, 300_000).CopyTo(loan.Memory);
                loan.Send();
                Check.Throws<ObjectDisposedException>(() => loan.Span.Clear());
                Check.Throws<ObjectDisposedException>(() => loan.Send());
            }
            using (Loan dropped = pair.Near.Lend(10))
            {
                dropped.Span.Fill(9);
            }
            Check.That(pair.Near.TryLend(5, out Loan? last), "there is room");
            "last!".Select(c => (byte)c).ToArray().CopyTo(last!.Span);
            last.Send();
            using (Message message = await pair.Far.ReceiveAsync())
            {
                Check.Same(Hosts.Pattern(3, 300_000), message.Span);
            }
            using (Message message = await pair.Far.ReceiveAsync())
            {
                Check.Equal("last!", Encoding.ASCII.GetString(message.Span));
            }
            Check.Fails(MachnetError.EmptyMessage, () => pair.Near.Lend(0));
            Check.Fails(MachnetError.MessageTooLarge, () => pair.Near.Lend(Channel.MaxMessage + 1));
        }

        public async Task AMessageIsGoneAfterDispose()
        {
            using var pair = new Pair();
            await pair.Near.SendAsync(new byte[] { 1, 2, 3 });
            Message message = await pair.Far.ReceiveAsync();
            ReadOnlyMemory<byte> memory = message.Memory;
            Message copy = message;
            Check.Equal(3, memory.Length);
            message.Dispose();
            copy.Dispose();
            Check.Throws<ObjectDisposedException>(() => _ = message.Span.Length);
            Check.Throws<ObjectDisposedException>(() => _ = copy.Length);
            Check.Throws<ObjectDisposedException>(() => _ = memory.Span.Length);
            Check.Throws<ObjectDisposedException>(() => _ = default(Message).Length);
            default(Message).Dispose();
            // Its place is used for the next, which the old one must not show.
            await pair.Near.SendAsync(new byte[] { 4 });
            using Message next = await pair.Far.ReceiveAsync();
            await pair.Near.SendAsync(new byte[] { 5 });
            Message third = await pair.Far.ReceiveAsync();
            third.Dispose();
            await pair.Near.SendAsync(new byte[] { 6 });
            using Message fourth = await pair.Far.ReceiveAsync();
            Check.Throws<ObjectDisposedException>(() => _ = third.Length);
            Check.Throws<ObjectDisposedException>(() => _ = memory.Span.Length);
            Check.Equal((byte)6, fourth.Span[0]);
            Check.Equal((byte)4, next.Span[0]);
        }

        public async Task AMessageOutlivesItsFlowAndChannel()
        {
            using var pair = new Pair();
            await pair.Near.SendAsync(Hosts.Pattern(7, 100_000));
            Message message = await pair.Far.ReceiveAsync();
            pair.Far.Dispose();
            await pair.Server.DisposeAsync();
            Check.Same(Hosts.Pattern(7, 100_000), message.Span);
            message.Dispose();
        }

        public async Task MessagesThatNobodyGaveBackAreCollected()
        {
            using var pair = new Pair();
            var lengths = 0L;
            // Several times what the channel can lend at once.
            for (int i = 0; i < 60; i++)
            {
                await pair.Near.SendAsync(new byte[1_000_000]);
                ValueTask<Message> receive = pair.Far.ReceiveAsync();
                while (!receive.IsCompleted)
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                }
                lengths += (await receive).Length;
            }
            Check.Equal(60_000_000L, lengths);
        }

        public void TryCallsDoNotWait()
        {
            using var pair = new Pair();
            Check.That(!pair.Far.TryReceive(out _), "nothing was sent");
            Check.That(!pair.Far.TryReceiveInto(new byte[4], out _), "nothing was sent");
            Check.That(!pair.Listener.TryAccept(out _), "nobody connects");
            Check.That(pair.Near.TrySend(new byte[] { 1 }), "there is credit");
            Message message;
            while (!pair.Far.TryReceive(out message))
            {
                Thread.Yield();
            }
            Check.Equal(1, message.Length);
            message.Dispose();
        }

        public async Task ABufferThatIsTooSmallTakesNothing()
        {
            using var pair = new Pair();
            pair.Near.Send(Hosts.Pattern(1, 5_000));
            var small = new byte[100];
            MessageSizeException e = Check.Throws<MessageSizeException>(() => pair.Far.ReceiveInto(small, TimeSpan.FromSeconds(30)));
            Check.Equal(MachnetError.BufferTooSmall, e.Error);
            Check.Equal(5_000, e.Needed);
            e = await Check.ThrowsAsync<MessageSizeException>(() => pair.Far.ReceiveIntoAsync(small).AsTask());
            Check.Equal(5_000, e.Needed);
            var large = new byte[e.Needed];
            Check.Equal(5_000, await pair.Far.ReceiveIntoAsync(large));
            Check.Same(Hosts.Pattern(1, 5_000), large);
            Check.Throws<ArgumentException>(() => pair.Far.ReceiveInto(default));
        }

        public void LengthsThatAreNoneAreRefused()
        {
            using var pair = new Pair();
            Check.Equal(Channel.MaxMessage, pair.Near.MaxMessage);
            Check.Fails(MachnetError.EmptyMessage, () => pair.Near.Send(default));
            Check.Fails(MachnetError.MessageTooLarge, () => pair.Near.Send(new byte[Channel.MaxMessage + 1]));
            Check.Fails(MachnetError.MessageTooLarge, () => pair.Near.TrySend(new byte[Channel.MaxMessage + 1]));
            Check.Fails(MachnetError.EmptyMessage, () => pair.Near.SendAsync(ReadOnlyMemory<byte>.Empty).AsTask());
        }

        internal static async Task Echo(Flow flow)
        {
            await foreach (Message message in flow)
            {
                using (message)
                {
                    await flow.SendAsync(message.Memory);
                }
            }
            flow.Dispose();
        }
    }
}
