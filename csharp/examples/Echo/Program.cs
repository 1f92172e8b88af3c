// A server that sends back what comes, and a client that asks it and says how long the answers took.
//
//     Echo server :7000
//     Echo client 10.0.0.5:7000
using System;
using System.Diagnostics;
using System.Threading;
using System.Threading.Tasks;
using Machnet;

internal static class Program
{
    private const int Rounds = 1000;

    private static async Task<int> Main(string[] arguments)
    {
        using var stop = new CancellationTokenSource();
        Console.CancelKeyPress += (_, pressed) =>
        {
            pressed.Cancel = true;
            stop.Cancel();
        };
        try
        {
            switch (arguments.Length == 2 ? arguments[0] : "")
            {
                case "server":
                    await Serve(arguments[1], stop.Token);
                    return 0;
                case "client":
                    await Ask(arguments[1], stop.Token);
                    return 0;
                default:
                    Console.Error.WriteLine("usage: Echo server ADDRESS | Echo client ADDRESS");
                    return 2;
            }
        }
        catch (OperationCanceledException)
        {
            return 0;
        }
        catch (MachnetException e)
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }

    private static async Task Serve(string address, CancellationToken stop)
    {
        await using Channel channel = await Channel.AttachAsync(cancellationToken: stop);
        using Listener listener = channel.Listen(address);
        Console.WriteLine("listening on " + listener.LocalEndPoint);
        await foreach (Flow flow in listener.WithCancellation(stop))
        {
            _ = Echo(flow, stop);
        }
    }

    private static async Task Echo(Flow flow, CancellationToken stop)
    {
        using (flow)
        {
            try
            {
                await foreach (Message message in flow.WithCancellation(stop))
                {
                    using (message)
                    {
                        await flow.SendAsync(message, stop);
                    }
                }
            }
            catch (Exception e) when (e is MachnetException || e is OperationCanceledException)
            {
                // The end of the flow, in order or not: its client knows.
            }
        }
    }

    private static async Task Ask(string address, CancellationToken stop)
    {
        await using Channel channel = await Channel.AttachAsync(cancellationToken: stop);
        using Flow flow = await channel.ConnectAsync(address, cancellationToken: stop);
        var question = new byte[64];
        new Random(1).NextBytes(question);
        var answer = new byte[64];
        var times = new double[Rounds];
        for (int i = 0; i < Rounds; i++)
        {
            long before = Stopwatch.GetTimestamp();
            await flow.SendAsync(question, stop);
            int length = await flow.ReceiveIntoAsync(answer, stop);
            if (!question.AsSpan().SequenceEqual(answer.AsSpan(0, length)))
            {
                throw new InvalidOperationException("another answer came");
            }
            times[i] = (Stopwatch.GetTimestamp() - before) * 1e6 / Stopwatch.Frequency;
        }
        Array.Sort(times);
        Console.WriteLine($"{Rounds} answers of 64 B; half of them within {times[Rounds / 2]:F1} us, 99 of 100 within {times[Rounds * 99 / 100]:F1} us");
    }
}
