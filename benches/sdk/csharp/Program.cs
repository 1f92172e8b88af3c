// The C# client of `ci/bench.sh sdk`; what it has to do is said in ../README.md.
using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Threading;
using System.Threading.Tasks;
using Machnet;

/// <summary>The API or the measure does not exist in this language.</summary>
internal sealed class NotHereException : Exception
{
    internal NotHereException(string what) : base(what)
    {
    }
}

/// <summary>What the command line says.</summary>
internal sealed class Chosen
{
    internal string Socket = "", At = "";
    internal string? Pipe;
    internal int Bytes = 64, Window = 32, WarmUp = 1000, Count = 10000;
    internal double PauseUs = 100;

    internal Chosen(IReadOnlyList<string> list)
    {
        for (int i = 0; i + 1 < list.Count; i += 2)
        {
            string value = list[i + 1];
            switch (list[i])
            {
                case "--socket": Socket = value; break;
                case "--at": At = value; break;
                case "--pipe": Pipe = value; break;
                case "--bytes": Bytes = int.Parse(value, CultureInfo.InvariantCulture); break;
                case "--window": Window = int.Parse(value, CultureInfo.InvariantCulture); break;
                case "--warm-up": WarmUp = int.Parse(value, CultureInfo.InvariantCulture); break;
                case "--count": Count = int.Parse(value, CultureInfo.InvariantCulture); break;
                case "--pause-us": PauseUs = double.Parse(value, CultureInfo.InvariantCulture); break;
            }
        }
    }
}

/// <summary>Messages with growing numbers, and whether the answers are theirs.</summary>
internal sealed class Numbered
{
    private readonly byte[] message;
    private ulong sent, answered;

    internal Numbered(int length)
    {
        message = new byte[length];
        message.AsSpan().Fill(7);
    }

    internal byte[] Next()
    {
        BinaryPrimitives.WriteUInt64LittleEndian(message, sent++);
        return message;
    }

    internal void Check(ReadOnlySpan<byte> answer, bool isWarmUp)
    {
        if (answer.Length != message.Length)
        {
            throw new InvalidOperationException($"an answer has {answer.Length} bytes and not {message.Length}");
        }
        if (isWarmUp && BinaryPrimitives.ReadUInt64LittleEndian(answer) != answered)
        {
            throw new InvalidOperationException("an answer is not that of its question");
        }
        answered++;
    }
}

/// <summary>A message there and one back. What is received is checked where it lies.</summary>
internal interface ILink
{
    ValueTask Send(byte[] message);

    ValueTask Receive(Numbered numbered, bool isWarmUp);
}

internal static class Program
{
    private const int NotHere = 3;

    /// <summary>CLOCK_MONOTONIC, in nanoseconds.</summary>
    private static long Now() => (long)(Stopwatch.GetTimestamp() * (1e9 / Stopwatch.Frequency));

    private static Dictionary<string, double> Quantiles(List<double> times)
    {
        times.Sort();
        double At(double share) => times[Math.Min((int)(times.Count * share), times.Count - 1)];
        return new Dictionary<string, double> { ["p50_ns"] = At(0.5), ["p99_ns"] = At(0.99), ["mean_ns"] = times.Average() };
    }

    private static async Task<Dictionary<string, double>> Latency(ILink link, Chosen chosen)
    {
        var numbered = new Numbered(chosen.Bytes);
        var times = new List<double>(chosen.Count);
        for (int round = 0; round < chosen.WarmUp + chosen.Count; round++)
        {
            byte[] message = numbered.Next();
            long before = Now();
            await link.Send(message);
            await link.Receive(numbered, round < chosen.WarmUp);
            if (round >= chosen.WarmUp)
            {
                times.Add(Now() - before);
            }
        }
        return Quantiles(times);
    }

    private static async Task<Dictionary<string, double>> Window(ILink link, Chosen chosen)
    {
        var numbered = new Numbered(chosen.Bytes);
        for (int i = 0; i < chosen.Window; i++)
        {
            await link.Send(numbered.Next());
        }
        long began = 0;
        for (int round = 0; round < chosen.WarmUp + chosen.Count; round++)
        {
            if (round == chosen.WarmUp)
            {
                began = Now();
            }
            await link.Receive(numbered, round < chosen.WarmUp);
            await link.Send(numbered.Next());
        }
        return new Dictionary<string, double> { ["messages_per_second"] = chosen.Count * 1e9 / (Now() - began) };
    }

    // ---- The calls alone

    private static void Pause(double us)
    {
        for (long until = Now() + (long)(us * 1e3); Now() < until;)
        {
        }
    }

    /// <summary>Nanoseconds a message; negative if an answer was late.</summary>
    private static double SingleRound(Flow flow, byte[] message, Chosen chosen)
    {
        bool isLate = false;
        long began = Now();
        for (int i = 0; i < chosen.Window; i++)
        {
            if (!flow.TrySend(message))
            {
                throw new InvalidOperationException("there is no credit");
            }
        }
        long spent = Now() - began;
        Pause(chosen.PauseUs);
        began = Now();
        for (int i = 0; i < chosen.Window; i++)
        {
            Message answer;
            while (!flow.TryReceive(out answer))
            {
                isLate = true;
            }
            if (answer.Length != message.Length)
            {
                throw new InvalidOperationException("an answer has another length");
            }
            answer.Dispose();
        }
        spent += Now() - began;
        return isLate ? -1 : (double)spent / chosen.Window;
    }

    private static double BatchedRound(Flow flow, ReadOnlyMemory<byte>[] messages, Message[] answers, Chosen chosen)
    {
        bool isLate = false;
        long began = Now();
        if (flow.SendMany(messages) != messages.Length)
        {
            throw new InvalidOperationException("not all were sent");
        }
        long spent = Now() - began;
        Pause(chosen.PauseUs);
        began = Now();
        for (int taken = 0; taken < chosen.Window;)
        {
            int count = flow.TryReceiveMany(answers.AsSpan(0, chosen.Window - taken));
            isLate |= count == 0;
            for (int i = 0; i < count; i++)
            {
                if (answers[i].Span.Length != messages[0].Length)
                {
                    throw new InvalidOperationException("an answer has another length");
                }
                answers[i].Dispose();
            }
            taken += count;
        }
        spent += Now() - began;
        return isLate ? -1 : (double)spent / chosen.Window;
    }

    private static Dictionary<string, double> Calls(Flow flow, Chosen chosen)
    {
        byte[] message = new Numbered(chosen.Bytes).Next();
        var messages = Enumerable.Range(0, chosen.Window).Select(_ => new ReadOnlyMemory<byte>((byte[])message.Clone())).ToArray();
        var answers = new Message[chosen.Window];
        List<double> single = new List<double>(), batched = new List<double>();
        int late = 0;
        for (int round = 0; round < chosen.WarmUp + chosen.Count; round++)
        {
            foreach ((List<double> times, double took) in new[]
            {
                (single, SingleRound(flow, message, chosen)), (batched, BatchedRound(flow, messages, answers, chosen)),
            })
            {
                if (took < 0)
                {
                    late++;
                }
                else if (round >= chosen.WarmUp)
                {
                    times.Add(took);
                }
            }
        }
        return CallsFound(single, batched, late, chosen);
    }

    private static Dictionary<string, double> CallsFound(List<double> single, List<double> batched, int late, Chosen chosen) =>
        new Dictionary<string, double>
        {
            ["single_ns"] = Quantiles(single)["p50_ns"], ["batched_ns"] = Quantiles(batched)["p50_ns"],
            ["late"] = late, ["rounds"] = chosen.Count,
        };

    /// <summary>Its calls cannot tell that they waited, so nothing is counted as late here; the pause is the same.</summary>
    private static async Task<Dictionary<string, double>> CallsAsync(Flow flow, Chosen chosen)
    {
        byte[] message = new Numbered(chosen.Bytes).Next();
        var messages = Enumerable.Range(0, chosen.Window).Select(_ => new ReadOnlyMemory<byte>((byte[])message.Clone())).ToArray();
        var answers = new Message[chosen.Window];
        List<double> single = new List<double>(), batched = new List<double>();
        for (int round = 0; round < chosen.WarmUp + chosen.Count; round++)
        {
            long began = Now();
            for (int i = 0; i < chosen.Window; i++)
            {
                await flow.SendAsync(message);
            }
            long spent = Now() - began;
            Pause(chosen.PauseUs);
            began = Now();
            for (int i = 0; i < chosen.Window; i++)
            {
                (await flow.ReceiveAsync()).Dispose();
            }
            spent += Now() - began;
            if (round >= chosen.WarmUp)
            {
                single.Add((double)spent / chosen.Window);
            }
            began = Now();
            await flow.SendManyAsync(messages);
            spent = Now() - began;
            Pause(chosen.PauseUs);
            began = Now();
            for (int taken = 0; taken < chosen.Window;)
            {
                int count = await flow.ReceiveManyAsync(answers.AsMemory(0, chosen.Window - taken));
                for (int i = 0; i < count; i++)
                {
                    answers[i].Dispose();
                }
                taken += count;
            }
            spent += Now() - began;
            if (round >= chosen.WarmUp)
            {
                batched.Add((double)spent / chosen.Window);
            }
        }
        return CallsFound(single, batched, 0, chosen);
    }

    // ---- Wake-ups

    private static byte[] Asked(Chosen chosen)
    {
        var asked = new byte[16];
        BinaryPrimitives.WriteInt64LittleEndian(asked, chosen.Count);
        BinaryPrimitives.WriteInt64LittleEndian(asked.AsSpan(8), (long)chosen.PauseUs);
        return asked;
    }

    private static Dictionary<string, double> WakeUp(Flow flow, Chosen chosen)
    {
        flow.Send(Asked(chosen));
        var times = new List<double>();
        for (int i = 0; i < chosen.Count; i++)
        {
            using Message stamp = flow.Receive();
            times.Add(Now() - BinaryPrimitives.ReadInt64LittleEndian(stamp.Span));
        }
        return Quantiles(times.Skip(chosen.WarmUp).ToList());
    }

    private static async Task<Dictionary<string, double>> WakeUpAsync(Flow flow, Chosen chosen)
    {
        await flow.SendAsync(Asked(chosen));
        var times = new List<double>();
        for (int i = 0; i < chosen.Count; i++)
        {
            using Message stamp = await flow.ReceiveAsync();
            times.Add(Now() - BinaryPrimitives.ReadInt64LittleEndian(stamp.Span));
        }
        return Quantiles(times.Skip(chosen.WarmUp).ToList());
    }

    /// <summary>.NET waits for sockets, not for pipes.</summary>
    private static async Task<Dictionary<string, double>> WakeUpOfSocket(Chosen chosen)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(chosen.Pipe + ".sock"));
        var times = new List<double>();
        var stamp = new byte[8];
        for (int i = 0; i < chosen.Count; i++)
        {
            await ReadAll(socket, stamp);
            times.Add(Now() - BinaryPrimitives.ReadInt64LittleEndian(stamp));
        }
        return Quantiles(times.Skip(chosen.WarmUp).ToList());
    }

    // ---- The APIs

    private sealed class Blocking : ILink
    {
        private readonly Flow flow;

        internal Blocking(Flow flow)
        {
            this.flow = flow;
        }

        public ValueTask Send(byte[] message)
        {
            flow.Send(message);
            return default;
        }

        public ValueTask Receive(Numbered numbered, bool isWarmUp)
        {
            using Message answer = flow.Receive();
            numbered.Check(answer.Span, isWarmUp);
            return default;
        }
    }

    private sealed class Asynchronous : ILink
    {
        private readonly Flow flow;

        internal Asynchronous(Flow flow)
        {
            this.flow = flow;
        }

        public ValueTask Send(byte[] message) => flow.SendAsync(message);

        public async ValueTask Receive(Numbered numbered, bool isWarmUp)
        {
            using Message answer = await flow.ReceiveAsync();
            numbered.Check(answer.Span, isWarmUp);
        }
    }

    private sealed class Tcp : ILink
    {
        private readonly Socket socket;
        private readonly byte[] buffer;

        internal Tcp(Socket socket, int length)
        {
            this.socket = socket;
            buffer = new byte[length];
        }

        public async ValueTask Send(byte[] message)
        {
            for (int sent = 0; sent < message.Length;)
            {
                sent += await socket.SendAsync(message.AsMemory(sent), SocketFlags.None);
            }
        }

        public async ValueTask Receive(Numbered numbered, bool isWarmUp)
        {
            await ReadAll(socket, buffer);
            numbered.Check(buffer, isWarmUp);
        }
    }

    private static async ValueTask ReadAll(Socket socket, Memory<byte> buffer)
    {
        while (buffer.Length > 0)
        {
            int count = await socket.ReceiveAsync(buffer, SocketFlags.None);
            buffer = count > 0 ? buffer.Slice(count) : throw new InvalidOperationException("the server went away");
        }
    }

    private static async Task<Dictionary<string, double>> OverMachnet(bool isAsync, string measure, Chosen chosen)
    {
        var options = new AttachOptions { SocketPath = chosen.Socket };
        using Channel channel = isAsync ? await Channel.AttachAsync(options) : Channel.Attach(options);
        using Flow flow = isAsync ? await channel.ConnectAsync(chosen.At) : channel.Connect(chosen.At);
        ILink link = isAsync ? (ILink)new Asynchronous(flow) : new Blocking(flow);
        return measure switch
        {
            "latency" => await Latency(link, chosen),
            "window" => await Window(link, chosen),
            "calls" => isAsync ? await CallsAsync(flow, chosen) : Calls(flow, chosen),
            "wakeup" => isAsync ? await WakeUpAsync(flow, chosen) : WakeUp(flow, chosen),
            _ => throw new NotHereException(measure),
        };
    }

    private static async Task<Dictionary<string, double>> OverTcp(string measure, Chosen chosen)
    {
        int colon = chosen.At.LastIndexOf(':');
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        int port = int.Parse(chosen.At.Substring(colon + 1), CultureInfo.InvariantCulture);
        await socket.ConnectAsync(new IPEndPoint(IPAddress.Parse(chosen.At.Substring(0, colon)), port));
        var link = new Tcp(socket, chosen.Bytes);
        return measure switch
        {
            "latency" => await Latency(link, chosen),
            "window" => await Window(link, chosen),
            _ => throw new NotHereException(measure),
        };
    }

    private static async Task<int> Main(string[] arguments)
    {
        if (arguments.Length < 2)
        {
            Console.Error.WriteLine("usage: csharp API MEASURE --socket PATH --at IP:PORT ...");
            return 2;
        }
        try
        {
            var chosen = new Chosen(new ArraySegment<string>(arguments, 2, arguments.Length - 2));
            string measure = arguments[1];
            Dictionary<string, double> found = arguments[0] switch
            {
                "async" when chosen.Pipe != null => await WakeUpOfSocket(chosen),
                "sync" => await OverMachnet(false, measure, chosen),
                "async" => await OverMachnet(true, measure, chosen),
                "net" => await OverTcp(measure, chosen),
                _ => throw new NotHereException(arguments[0]),
            };
            IEnumerable<string> pairs =
                found.Select(pair => $"\"{pair.Key}\": {pair.Value.ToString("F2", CultureInfo.InvariantCulture)}");
            Console.WriteLine("{" + string.Join(", ", pairs) + "}");
            return 0;
        }
        catch (NotHereException what)
        {
            Console.Error.WriteLine($"C# has no {what.Message} for {arguments[0]}");
            return NotHere;
        }
        catch (Exception failure)
        {
            Console.Error.WriteLine(failure);
            return 1;
        }
    }
}
