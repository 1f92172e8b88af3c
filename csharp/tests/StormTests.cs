using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Tests
{
    /// <summary>What goes wrong only seldom, and what must cost nothing.</summary>
    [Tests]
    public sealed class StormTests
    {
        /// <summary>Cancelled receives, and messages between them. $CANCEL_STORM is another number.</summary>
        private static readonly int Storm = int.Parse(Environment.GetEnvironmentVariable("CANCEL_STORM") ?? "100000");

        public async Task NoCancelledReceiveLosesOrDoublesAMessage()
        {
            using var pair = new Pair();
            int next = 0;
            int cancelled = 0;
            int won = 0;
            void Take(Message message)
            {
                using (message)
                {
                    Check.Equal(next++, BitConverter.ToInt32(message.Span), "message");
                }
            }
            while (next < Storm)
            {
                // One that waits in vain, and is cancelled: by this thread, or by another.
                var stop = new CancellationTokenSource();
                ValueTask<Message> receive = pair.Far.ReceiveAsync(stop.Token);
                Check.That(!receive.IsCompleted, "nothing is on its way");
                Cancel(stop, byAnother: next % 8 == 0);
                Check.That(await IsCancelled(receive, Take), "nothing came");
                cancelled++;

                // One whose message comes while it is cancelled: sooner or later, from round to round.
                await pair.Near.SendAsync(BitConverter.GetBytes(next));
                stop = new CancellationTokenSource();
                receive = pair.Far.ReceiveAsync(stop.Token);
                Thread.SpinWait(next % 97 * 10);
                Cancel(stop, byAnother: next % 8 == 1);
                if (await IsCancelled(receive, Take))
                {
                    cancelled++;
                    Take(await pair.Far.ReceiveAsync());
                }
                else
                {
                    won++;
                }
            }
            Check.That(!pair.Far.TryReceive(out _), "no message comes twice");
            Console.WriteLine($"    {next} messages, {cancelled} cancelled receives, {won} messages that were faster than their cancelling");
        }

        private static void Cancel(CancellationTokenSource stop, bool byAnother)
        {
            if (byAnother)
            {
                ThreadPool.QueueUserWorkItem(source => ((CancellationTokenSource)source!).Cancel(), stop);
            }
            else
            {
                stop.Cancel();
            }
        }

        private static async Task<bool> IsCancelled(ValueTask<Message> receive, Action<Message> take)
        {
            try
            {
                take(await receive);
                return false;
            }
            catch (OperationCanceledException)
            {
                return true;
            }
        }

        public async Task NoCancelledSendIsSent()
        {
            using var pair = new Pair(choose: options => options.FlowCredit = 4);
            int sent = 0;
            int number = 0;
            Task<List<int>> receiver = Task.Run(async () =>
            {
                var numbers = new List<int>();
                await foreach (Message message in pair.Far)
                {
                    using (message)
                    {
                        numbers.Add(BitConverter.ToInt32(message.Span));
                    }
                }
                return numbers;
            });
            var expected = new List<int>();
            while (sent < 5_000)
            {
                var stop = new CancellationTokenSource();
                ValueTask send = pair.Near.SendAsync(BitConverter.GetBytes(++number), stop.Token);
                if (!send.IsCompleted)
                {
                    ThreadPool.QueueUserWorkItem(source => ((CancellationTokenSource)source!).Cancel(), stop);
                }
                try
                {
                    await send;
                    expected.Add(number);
                    sent++;
                }
                catch (OperationCanceledException)
                {
                }
            }
            await pair.Near.CloseAsync();
            List<int> received = await receiver;
            Check.That(expected.SequenceEqual(received), "exactly what was not cancelled came");
        }

        public async Task NoCancelledAcceptLosesAFlow()
        {
            using var pair = new Pair();
            const int Flows = 300;
            Task clients = Task.Run(async () =>
            {
                for (int i = 0; i < Flows; i++)
                {
                    using Flow flow = await pair.Client.ConnectAsync(pair.Listener.LocalEndPoint, TimeSpan.FromSeconds(30));
                    await flow.SendAsync(BitConverter.GetBytes(i));
                    await flow.CloseAsync();
                }
            });
            var seen = new HashSet<int>();
            while (seen.Count < Flows)
            {
                var stop = new CancellationTokenSource();
                ValueTask<Flow> accept = pair.Listener.AcceptAsync(stop.Token);
                if (!accept.IsCompleted)
                {
                    ThreadPool.QueueUserWorkItem(source => ((CancellationTokenSource)source!).Cancel(), stop);
                }
                try
                {
                    using Flow flow = await accept;
                    using Message message = await flow.ReceiveAsync();
                    Check.That(seen.Add(BitConverter.ToInt32(message.Span)), "each once");
                }
                catch (OperationCanceledException)
                {
                }
            }
            await clients;
        }

        public async Task ManyWaitersOfOneChannelAreAllWoken()
        {
            using var pair = new Pair();
            const int Flows = 200;
            var flows = new List<(Flow Near, Flow Far)>();
            for (int i = 0; i < Flows; i++)
            {
                flows.Add(pair.Connect());
            }
            // Two threads at least send while all wait, cancel, time out and try.
            Task[] receivers = flows.Select((flow, number) => Task.Run(async () =>
            {
                for (int i = 0; i < 50; i++)
                {
                    switch ((number + i) % 4)
                    {
                        case 0:
                            _ = flow.Far.TryReceiveInto(new byte[0x100], TimeSpan.Zero, out int tried) ? Expect(tried, i) : await Receive(flow.Far, i);
                            break;
                        case 1:
                            using (var stop = new CancellationTokenSource(1))
                            {
                                try
                                {
                                    using Message message = await flow.Far.ReceiveAsync(stop.Token);
                                    Expect(message.Length, i);
                                }
                                catch (OperationCanceledException)
                                {
                                    await Receive(flow.Far, i);
                                }
                            }
                            break;
                        default:
                            await Receive(flow.Far, i);
                            break;
                    }
                }
            })).ToArray();
            Task[] senders = flows.Select(flow => Task.Run(async () =>
            {
                for (int i = 0; i < 50; i++)
                {
                    await flow.Near.SendAsync(new byte[i + 1]);
                    await Task.Yield();
                }
            })).ToArray();
            await Task.WhenAll(senders);
            await Task.WhenAll(receivers);
        }

        private static int Expect(int length, int round)
        {
            Check.Equal(round + 1, length, "length");
            return length;
        }

        private static async Task<int> Receive(Flow flow, int round)
        {
            using Message message = await flow.ReceiveAsync();
            return Expect(message.Length, round);
        }

        public void SteadySendsAndReceivesAllocateNothing()
        {
            using var pair = new Pair();
            var question = new byte[64];
            var answer = new byte[64];
            void Rounds(int count)
            {
                for (int i = 0; i < count; i++)
                {
                    pair.Near.Send(question);
                    using (Message message = pair.Far.Receive())
                    {
                        pair.Far.Send(message.Span);
                    }
                    pair.Near.ReceiveInto(answer);
                    while (!pair.Near.TrySend(question))
                    {
                    }
                    Message tried;
                    while (!pair.Far.TryReceive(out tried))
                    {
                    }
                    tried.Dispose();
                }
            }
            Rounds(100);
            long before = GC.GetAllocatedBytesForCurrentThread();
            Rounds(1_000);
            Check.Equal(0L, GC.GetAllocatedBytesForCurrentThread() - before, "bytes allocated");
        }

        public async Task SteadyAwaitedReceivesAllocateNothingOnAnyThread()
        {
            using var pair = new Pair();
            Task echo = EchoOf(pair.Far, 12_000);
            var question = new byte[64];
            using var stop = new CancellationTokenSource();
            async Task Rounds(int count)
            {
                for (int i = 0; i < count; i++)
                {
                    await pair.Near.SendAsync(question);
                    using Message message = await pair.Near.ReceiveAsync(stop.Token);
                }
            }
            await Rounds(2_000);
            long before = GC.GetTotalAllocatedBytes(precise: true);
            await Rounds(10_000);
            long bytes = GC.GetTotalAllocatedBytes(precise: true) - before;
            await echo;
            Console.WriteLine($"    {bytes} bytes in 10,000 round trips");
            // The tasks of this test itself, and now and then a segment of a queue of the thread pool.
            Check.That(bytes < 20_000, bytes + " bytes");
        }

        private static async Task EchoOf(Flow flow, int count)
        {
            for (int i = 0; i < count; i++)
            {
                using Message message = await flow.ReceiveAsync();
                await flow.SendAsync(message);
            }
        }
    }
}
