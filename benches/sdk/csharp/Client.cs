// The C# client of `ci/bench.sh sdk`; what it has to do is said in ../README.md.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Threading.Tasks;
using Machnet;

internal static class Client
{
    private const int NotHere = 3;

    private static async Task<int> Main(string[] arguments)
    {
        try
        {
            string? found = await Measure(arguments[0], arguments[1], new Options(arguments));
            if (found is null)
            {
                Console.Error.WriteLine(arguments[0] + " has no " + arguments[1] + " in C#");
                return NotHere;
            }
            Console.WriteLine(found);
            return 0;
        }
        catch (Exception e)
        {
            Console.Error.WriteLine(e);
            return 1;
        }
    }

    private static async Task<string?> Measure(string api, string measure, Options options)
    {
        if (measure == "wakeup" && options.Text("pipe") != null)
        {
            return api == "async" ? await WakeupOfSocket(options) : null;
        }
        if (api == "net")
        {
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            string[] at = options.Text("at")!.Split(':');
            await socket.ConnectAsync(IPAddress.Parse(at[0]), int.Parse(at[1], CultureInfo.InvariantCulture));
            var link = new SocketLink(socket, options.Bytes);
            return measure == "latency" ? await Latency(link, options) : measure == "window" ? await Window(link, options) : null;
        }
        await using Channel channel = Channel.Attach(new AttachOptions { SocketPath = options.Text("socket") });
        if (api == "sync")
        {
            using Flow flow = channel.Connect(options.Text("at")!);
            switch (measure)
            {
                case "latency": return Latency(flow, options);
                case "window": return Window(flow, options);
                case "calls": return Calls(flow, options);
                default: return null;
            }
        }
        if (api == "async")
        {
            using Flow flow = await channel.ConnectAsync(options.Text("at")!);
            switch (measure)
            {
                case "latency": return await Latency(new FlowLink(flow), options);
                case "window": return await Window(new FlowLink(flow), options);
                case "calls": return await CallsAwaited(flow, options);
                case "wakeup": return await Wakeup(flow, options);
                default: return null;
            }
        }
        return null;
    }

    // ---- one message there, one back: by blocking calls

    private static string Latency(Flow flow, Options options)
    {
        var numbered = new Numbered(options.Bytes);
        var answer = new byte[options.Bytes];
        var times = new long[options.Count];
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            byte[] message = numbered.Next();
            long before = Stopwatch.GetTimestamp();
            flow.Send(message);
            int length = flow.ReceiveInto(answer);
            long took = Stopwatch.GetTimestamp() - before;
            numbered.Check(answer.AsSpan(0, length), round < 0);
            if (round >= 0)
            {
                times[round] = took;
            }
        }
        return Quantiles(times);
    }

    private static string Window(Flow flow, Options options)
    {
        var numbered = new Numbered(options.Bytes);
        for (int i = 0; i < options.Window; i++)
        {
            flow.Send(numbered.Next());
        }
        long began = 0;
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            began = round == 0 ? Stopwatch.GetTimestamp() : began;
            using (Message answer = flow.Receive())
            {
                numbered.Check(answer.Span, round < 0);
            }
            flow.Send(numbered.Next());
        }
        return Rate(options.Count, began);
    }

    // ---- the same, awaited

    private interface ILink
    {
        ValueTask SendAsync(byte[] message);

        ValueTask<int> ReceiveAsync(byte[] answer);
    }

    private sealed class FlowLink : ILink
    {
        private readonly Flow flow;

        internal FlowLink(Flow flow)
        {
            this.flow = flow;
        }

        public ValueTask SendAsync(byte[] message) => flow.SendAsync(message);

        public ValueTask<int> ReceiveAsync(byte[] answer) => flow.ReceiveIntoAsync(answer);
    }

    private sealed class SocketLink : ILink
    {
        private readonly Socket socket;
        private readonly int length;

        internal SocketLink(Socket socket, int length)
        {
            this.socket = socket;
            this.length = length;
        }

        public async ValueTask SendAsync(byte[] message)
        {
            for (int sent = 0; sent < message.Length;)
            {
                sent += await socket.SendAsync(message.AsMemory(sent), SocketFlags.None);
            }
        }

        public async ValueTask<int> ReceiveAsync(byte[] answer)
        {
            for (int received = 0; received < length;)
            {
                int more = await socket.ReceiveAsync(answer.AsMemory(received, length - received), SocketFlags.None);
                received += more > 0 ? more : throw new InvalidOperationException("the server has closed");
            }
            return length;
        }
    }

    private static async Task<string> Latency(ILink link, Options options)
    {
        var numbered = new Numbered(options.Bytes);
        var answer = new byte[options.Bytes];
        var times = new long[options.Count];
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            byte[] message = numbered.Next();
            long before = Stopwatch.GetTimestamp();
            await link.SendAsync(message);
            int length = await link.ReceiveAsync(answer);
            long took = Stopwatch.GetTimestamp() - before;
            numbered.Check(answer.AsSpan(0, length), round < 0);
            if (round >= 0)
            {
                times[round] = took;
            }
        }
        return Quantiles(times);
    }

    private static async Task<string> Window(ILink link, Options options)
    {
        var numbered = new Numbered(options.Bytes);
        var answer = new byte[options.Bytes];
        for (int i = 0; i < options.Window; i++)
        {
            await link.SendAsync(numbered.Next());
        }
        long began = 0;
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            began = round == 0 ? Stopwatch.GetTimestamp() : began;
            int length = await link.ReceiveAsync(answer);
            numbered.Check(answer.AsSpan(0, length), round < 0);
            await link.SendAsync(numbered.Next());
        }
        return Rate(options.Count, began);
    }

    // ---- what the calls alone cost

    private static string Calls(Flow flow, Options options)
    {
        byte[] message = new Numbered(options.Bytes).Next();
        List<ReadOnlyMemory<byte>> messages = Enumerable.Range(0, options.Window).Select(_ => (ReadOnlyMemory<byte>)(byte[])message.Clone()).ToList();
        var received = new Message[options.Window];
        var rounds = new Rounds(options);
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            bool isLate = false;
            long began = Stopwatch.GetTimestamp();
            for (int i = 0; i < options.Window; i++)
            {
                Demand(flow.TrySend(message), "credit");
            }
            long spent = Stopwatch.GetTimestamp() - began;
            options.Pause();
            began = Stopwatch.GetTimestamp();
            for (int i = 0; i < options.Window; i++)
            {
                Message answer;
                while (!flow.TryReceive(out answer))
                {
                    isLate = true;
                }
                Demand(answer.Span.Length == message.Length, "the length of an answer");
                answer.Dispose();
            }
            rounds.Add(rounds.Single, round, isLate, spent + Stopwatch.GetTimestamp() - began);

            isLate = false;
            began = Stopwatch.GetTimestamp();
            Demand(flow.SendMany(messages) == messages.Count, "all sent");
            spent = Stopwatch.GetTimestamp() - began;
            options.Pause();
            began = Stopwatch.GetTimestamp();
            for (int taken = 0; taken < options.Window;)
            {
                int count = flow.TryReceiveMany(received.AsSpan(0, options.Window - taken));
                isLate = isLate || count == 0;
                taken += Release(received, count, message.Length);
            }
            rounds.Add(rounds.Batched, round, isLate, spent + Stopwatch.GetTimestamp() - began);
        }
        return rounds.ToString();
    }

    private static async Task<string> CallsAwaited(Flow flow, Options options)
    {
        byte[] message = new Numbered(options.Bytes).Next();
        List<ReadOnlyMemory<byte>> messages = Enumerable.Range(0, options.Window).Select(_ => (ReadOnlyMemory<byte>)(byte[])message.Clone()).ToList();
        var received = new Message[options.Window];
        var rounds = new Rounds(options);
        for (int round = -options.WarmUp; round < options.Count; round++)
        {
            bool isLate = false;
            long began = Stopwatch.GetTimestamp();
            for (int i = 0; i < options.Window; i++)
            {
                await flow.SendAsync(message);
            }
            long spent = Stopwatch.GetTimestamp() - began;
            options.Pause();
            began = Stopwatch.GetTimestamp();
            for (int i = 0; i < options.Window; i++)
            {
                ValueTask<Message> receive = flow.ReceiveAsync();
                isLate = isLate || !receive.IsCompleted;
                using Message answer = await receive;
                Demand(answer.Span.Length == message.Length, "the length of an answer");
            }
            rounds.Add(rounds.Single, round, isLate, spent + Stopwatch.GetTimestamp() - began);

            isLate = false;
            began = Stopwatch.GetTimestamp();
            Demand(await flow.SendManyAsync(messages) == messages.Count, "all sent");
            spent = Stopwatch.GetTimestamp() - began;
            options.Pause();
            began = Stopwatch.GetTimestamp();
            for (int taken = 0; taken < options.Window;)
            {
                ValueTask<int> receive = flow.ReceiveManyAsync(received.AsMemory(0, options.Window - taken));
                isLate = isLate || !receive.IsCompleted;
                taken += Release(received, await receive, message.Length);
            }
            rounds.Add(rounds.Batched, round, isLate, spent + Stopwatch.GetTimestamp() - began);
        }
        return rounds.ToString();
    }

    private static int Release(Message[] received, int count, int length)
    {
        for (int i = 0; i < count; i++)
        {
            Demand(received[i].Span.Length == length, "the length of an answer");
            received[i].Dispose();
        }
        return count;
    }

    private sealed class Rounds
    {
        private readonly Options options;
        private int late;

        internal Rounds(Options options)
        {
            this.options = options;
        }

        internal List<double> Single { get; } = new List<double>();

        internal List<double> Batched { get; } = new List<double>();

        internal void Add(List<double> times, int round, bool isLate, long took)
        {
            if (isLate)
            {
                late++;
            }
            else if (round >= 0)
            {
                times.Add(Nanoseconds(took) / options.Window);
            }
        }

        public override string ToString() => Json(
            ("single_ns", Middle(Single)), ("batched_ns", Middle(Batched)), ("late", late), ("rounds", options.Count));

        private static double Middle(List<double> times)
        {
            times.Sort();
            return times[times.Count / 2];
        }
    }

    // ---- wake-ups

    private static async Task<string> Wakeup(Flow flow, Options options)
    {
        await flow.SendAsync(options.Order());
        var stamp = new byte[8];
        var times = new long[options.Count];
        for (int i = 0; i < options.Count; i++)
        {
            await flow.ReceiveIntoAsync(stamp);
            times[i] = Stopwatch.GetTimestamp() - BitConverter.ToInt64(stamp);
        }
        return Quantiles(times.Skip(options.WarmUp).ToArray());
    }

    /// <summary>.NET waits for sockets, not for pipes.</summary>
    private static async Task<string> WakeupOfSocket(Options options)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(options.Text("pipe") + ".sock"));
        var link = new SocketLink(socket, 8);
        var stamp = new byte[8];
        var times = new long[options.Count];
        for (int i = 0; i < options.Count; i++)
        {
            await link.ReceiveAsync(stamp);
            times[i] = Stopwatch.GetTimestamp() - BitConverter.ToInt64(stamp);
        }
        return Quantiles(times.Skip(options.WarmUp).ToArray());
    }

    // ---- numbers

    /// <summary>Messages with growing numbers, and whether the answers are theirs.</summary>
    private sealed class Numbered
    {
        private readonly byte[] message;
        private long sent;
        private long answered;

        internal Numbered(int length)
        {
            message = new byte[length];
        }

        /// <summary>The next; the last one has been sent.</summary>
        internal byte[] Next()
        {
            BitConverter.TryWriteBytes(message, sent++);
            return message;
        }

        internal void Check(ReadOnlySpan<byte> answer, bool isWarmUp)
        {
            Demand(answer.Length == message.Length, "the length of an answer");
            Demand(!isWarmUp || BitConverter.ToInt64(answer) == answered, "the number of an answer");
            answered++;
        }
    }

    private static void Demand(bool holds, string what)
    {
        if (!holds)
        {
            throw new InvalidOperationException("not as expected: " + what);
        }
    }

    private static double Nanoseconds(long ticks) => ticks * (1e9 / Stopwatch.Frequency);

    private static string Rate(int count, long began) =>
        Json(("messages_per_second", count * 1e9 / Nanoseconds(Stopwatch.GetTimestamp() - began)));

    private static string Quantiles(long[] times)
    {
        Array.Sort(times);
        double At(double share) => Nanoseconds(times[Math.Min((int)(times.Length * share), times.Length - 1)]);
        return Json(("p50_ns", At(0.5)), ("p99_ns", At(0.99)), ("mean_ns", Nanoseconds((long)times.Average())));
    }

    private static string Json(params (string Name, double Value)[] members) =>
        "{" + string.Join(", ", members.Select(member => "\"" + member.Name + "\": " + member.Value.ToString("R", CultureInfo.InvariantCulture))) + "}";

    /// <summary>The command line.</summary>
    private sealed class Options
    {
        private readonly Dictionary<string, string> given = new Dictionary<string, string>();

        internal Options(string[] arguments)
        {
            for (int i = 2; i + 1 < arguments.Length; i += 2)
            {
                given[arguments[i].TrimStart('-')] = arguments[i + 1];
            }
        }

        internal int Bytes => Number("bytes");

        internal int Window => Number("window");

        internal int WarmUp => Number("warm-up");

        internal int Count => Number("count");

        internal string? Text(string name) => given.TryGetValue(name, out string? text) ? text : null;

        internal void Pause()
        {
            long until = Stopwatch.GetTimestamp() + (long)(PauseMicroseconds * (Stopwatch.Frequency / 1e6));
            while (Stopwatch.GetTimestamp() < until)
            {
            }
        }

        internal byte[] Order()
        {
            var order = new byte[16];
            BitConverter.TryWriteBytes(order, (long)Count);
            BitConverter.TryWriteBytes(order.AsSpan(8), (long)PauseMicroseconds);
            return order;
        }

        private double PauseMicroseconds => double.Parse(given["pause-us"], CultureInfo.InvariantCulture);

        private int Number(string name) => int.Parse(given[name], CultureInfo.InvariantCulture);
    }
}
