using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Conformance
{
    /// <summary>The agent of the conformance suite, which ci/conformance/README.md specifies: over awaited calls, or with the argument
    /// "blocking" over those.</summary>
    internal sealed class Agent
    {
        private const int Batch = 32;
        private const int Piece = 64 * 1024;

        private readonly Calls calls;
        private readonly ConcurrentDictionary<string, object> handles = new ConcurrentDictionary<string, object>();
        private readonly ConcurrentDictionary<string, Running> tasks = new ConcurrentDictionary<string, Running>();

        private Agent(bool isBlocking)
        {
            calls = new Calls(isBlocking);
        }

        private sealed class Running
        {
            internal CancellationTokenSource Stop { get; } = new CancellationTokenSource();

            internal Task<Answer> Task { get; set; } = null!;
        }

        private static async Task<int> Main(string[] arguments)
        {
            var agent = new Agent(arguments.Contains("blocking"));
            while (Console.In.ReadLine() is string line)
            {
                Answer answer;
                string? op = null;
                try
                {
                    using JsonDocument document = JsonDocument.Parse(line);
                    JsonElement command = document.RootElement.Clone();
                    op = command.GetProperty("op").GetString();
                    answer = await agent.Run(command, CancellationToken.None);
                }
                catch (Exception e)
                {
                    answer = new Answer().With("fault", e.Message);
                }
                Console.Out.WriteLine(JsonSerializer.Serialize(answer));
                Console.Out.Flush();
                if (op == "exit")
                {
                    break;
                }
            }
            return 0;
        }

        /// <summary>Works on a command until it can be answered.</summary>
        private async Task<Answer> Run(JsonElement command, CancellationToken token)
        {
            var done = new Answer();
            try
            {
                int? milliseconds = Number(command, "timeout_ms");
                return await Do(command, new Wait(milliseconds, token), done);
            }
            catch (OperationCanceledException)
            {
                return new Answer().With("cancelled", true);
            }
            catch (MachnetException e)
            {
                return done.With("error", Error(e.Name, e.Code, e.Message));
            }
            catch (TimeoutException)
            {
                return done.With("error", Error("TimedOut", 8, "timed out"));
            }
            catch (ObjectDisposedException)
            {
                return done.With("error", Error("Closed", 17, "the flow is closed"));
            }
            catch (Exception e)
            {
                return new Answer().With("fault", e.ToString());
            }
        }

        private static Answer Error(string name, int code, string text) =>
            new Answer().With("name", name).With("code", code).With("text", text);

        private Task<Answer> Do(JsonElement command, Wait wait, Answer done)
        {
            switch (command.GetProperty("op").GetString())
            {
                case "features": return Task.FromResult(Features());
                case "start": return Start(command);
                case "join": return Join(command, wait);
                case "cancel": return Cancel(command);
                case "clear": return Clear();
                case "exit": return Task.FromResult(done);
                case "attach": return Task.FromResult(Attach(command));
                case "listen": return Task.FromResult(Listen(command));
                case "connect": return Connect(command, wait);
                case "accept": return Accept(command, wait);
                case "try_accept": return Task.FromResult(TryAccept(command));
                case "close": return Close(command);
                case "reset": return Task.FromResult(Reset(command));
                case "stats": return Task.FromResult(Stats(command));
                case "send": return Send(command, wait);
                case "try_send": return Task.FromResult(TrySend(command));
                case "recv": return Receive(command, wait);
                case "try_recv": return Task.FromResult(TryReceive(command));
                case "release": return Task.FromResult(Release(command));
                case "send_series": return SendSeries(command, wait, done);
                case "recv_series": return ReceiveSeries(command, wait, done);
                case "drain": return Drain(command, wait, done);
                case "ping": return Ping(command, wait, done);
                case "echo": return Echo(command, wait, done);
                case "supply": return Supply(command, wait, done);
                case "cancel_storm": return CancelStorm(command, wait, done);
                case "stream": return Task.FromResult(OpenStream(command));
                case "write": return Write(command, wait, done);
                case "read": return Read(command, wait, done);
                case "end": return End(command, wait);
                case "stream_echo": return StreamEcho(command, wait, done);
                case "fork": return Task.FromResult(new Answer().With("unsupported", "a .NET process cannot fork"));
                default: throw new InvalidOperationException("unknown op " + command.GetProperty("op"));
            }
        }

        // ---- the agent

        private Answer Features()
        {
            var lacks = new Answer().With("fork", "a .NET process cannot fork");
            if (calls.IsBlocking)
            {
                lacks.With("cancel", "blocking calls have timeouts; awaited ones have tokens").With("stream_cancel", "blocking calls have timeouts");
            }
            else
            {
                lacks.With("event_fd", "a channel is awaited or polled by the program: the agent over blocking calls does");
            }
            string version = Channel.LibraryVersion;
            return new Answer().With("agent", calls.IsBlocking ? "csharp-blocking" : "csharp").With("version", version).With("protocol", 1)
                .With("lacks", lacks);
        }

        private Task<Answer> Start(JsonElement command)
        {
            var running = new Running();
            JsonElement inner = command.GetProperty("command");
            running.Task = calls.IsBlocking
                ? Task.Factory.StartNew(
                    () => Run(inner, running.Stop.Token), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default).Unwrap()
                : Task.Run(() => Run(inner, running.Stop.Token));
            tasks[command.GetProperty("task").GetString()!] = running;
            return Task.FromResult(new Answer());
        }

        private async Task<Answer> Join(JsonElement command, Wait wait)
        {
            string name = command.GetProperty("task").GetString()!;
            Task<Answer> task = tasks[name].Task;
            if (wait.Timeout is TimeSpan time && await Task.WhenAny(task, Task.Delay(time)) != task)
            {
                return new Answer().With("running", true);
            }
            tasks.TryRemove(name, out _);
            return await task;
        }

        private Task<Answer> Cancel(JsonElement command)
        {
            tasks[command.GetProperty("task").GetString()!].Stop.Cancel();
            return Task.FromResult(new Answer());
        }

        private async Task<Answer> Clear()
        {
            foreach (Running running in tasks.Values)
            {
                running.Stop.Cancel();
            }
            foreach (object handle in handles.Values)
            {
                switch (handle)
                {
                    case Flow flow:
                        Ignore(flow.Reset);
                        flow.Dispose();
                        break;
                    case MachnetStream stream:
                        Ignore(stream.Reset);
                        stream.Dispose();
                        break;
                    case Message message:
                        message.Dispose();
                        break;
                }
            }
            foreach (Listener listener in handles.Values.OfType<Listener>())
            {
                listener.Dispose();
            }
            foreach (Channel channel in handles.Values.OfType<Channel>())
            {
                await channel.DisposeAsync();
            }
            foreach (Running running in tasks.Values)
            {
                await running.Task;
            }
            tasks.Clear();
            handles.Clear();
            return new Answer();
        }

        private static void Ignore(Action action)
        {
            try
            {
                action();
            }
            catch (Exception e) when (e is MachnetException || e is ObjectDisposedException)
            {
                // It is over in any case.
            }
        }

        // ---- channels, listeners, flows

        private Answer Attach(JsonElement command)
        {
            int? linger = Number(command, "linger_ms");
            Channel channel = Channel.Attach(new AttachOptions
            {
                SocketPath = command.GetProperty("socket").GetString(),
                Name = command.TryGetProperty("name", out JsonElement name) ? name.GetString() : null,
                Engine = Number(command, "engine"),
                Linger = linger is int time ? TimeSpan.FromMilliseconds(time) : (TimeSpan?)null,
            });
            Put(command, channel);
            return new Answer().With("engine", channel.Info.Engine).With("sidecar_pid", channel.Info.SidecarProcess)
                .With("local", channel.Info.Local.ToString());
        }

        private Answer Listen(JsonElement command)
        {
            Listener listener = Named<Channel>(command, "channel").Listen(command.GetProperty("address").GetString()!, Number(command, "backlog") ?? 0);
            Put(command, listener);
            return new Answer().With("address", listener.LocalEndPoint.ToString());
        }

        private async Task<Answer> Connect(JsonElement command, Wait wait) => PutFlow(
            command, await calls.Connect(Named<Channel>(command, "channel"), command.GetProperty("address").GetString()!, wait));

        private async Task<Answer> Accept(JsonElement command, Wait wait) =>
            PutFlow(command, await calls.Accept(Named<Listener>(command, "listener"), wait));

        private Answer TryAccept(JsonElement command) =>
            Named<Listener>(command, "listener").TryAccept(out Flow? flow) ? PutFlow(command, flow) : None();

        private Answer PutFlow(JsonElement command, Flow flow)
        {
            Put(command, flow);
            return new Answer().With("local", flow.LocalEndPoint.ToString()).With("peer", flow.RemoteEndPoint.ToString())
                .With("max_message", flow.MaxMessage);
        }

        private async Task<Answer> Close(JsonElement command)
        {
            object handle = Named<object>(command, "handle");
            if (handle is Channel channel)
            {
                if (calls.IsBlocking)
                {
                    channel.Close();
                }
                else
                {
                    await channel.CloseAsync();
                }
            }
            else if (handle is Flow flow && Number(command, "wait_ms") is int wait)
            {
                if (calls.IsBlocking)
                {
                    flow.Close(TimeSpan.FromMilliseconds(wait));
                }
                else
                {
                    await new Wait(wait, CancellationToken.None).For<bool>(async token =>
                    {
                        await flow.CloseAsync(token);
                        return true;
                    });
                }
            }
            else
            {
                ((IDisposable)handle).Dispose();
            }
            return new Answer();
        }

        private Answer Reset(JsonElement command)
        {
            object handle = Named<object>(command, "handle");
            if (handle is Flow flow)
            {
                flow.Reset();
            }
            else
            {
                ((MachnetStream)handle).Reset();
            }
            return new Answer();
        }

        private Answer Stats(JsonElement command)
        {
            object handle = Named<object>(command, "handle");
            FlowStats stats = handle is Flow flow ? flow.GetStats() : ((MachnetStream)handle).GetStats();
            var answer = new Answer();
            foreach (PropertyInfo property in typeof(FlowStats).GetProperties())
            {
                switch (property.GetValue(stats))
                {
                    case TimeSpan time:
                        answer.With(Snake(property.Name) + "_ns", time.Ticks * 100);
                        break;
                    case bool isLocal:
                        answer.With("local", isLocal);
                        break;
                    case long number:
                        answer.With(Snake(property.Name), number);
                        break;
                }
            }
            return answer;
        }

        private static string Snake(string name) =>
            string.Concat(name.Select((c, i) => char.IsUpper(c) ? (i > 0 ? "_" : "") + char.ToLowerInvariant(c) : c.ToString()));

        // ---- messages

        private async Task<Answer> Send(JsonElement command, Wait wait)
        {
            Flow flow = Named<Flow>(command, "flow");
            byte[] message = ContentOf(command);
            string how = How(command);
            if (how == "copy")
            {
                await calls.Send(flow, message, wait);
                return new Answer();
            }
            using Loan loan = await calls.Lend(flow, message.Length, wait);
            message.CopyTo(loan.Span);
            if (how == "loan")
            {
                loan.Send();
            }
            return new Answer();
        }

        private Answer TrySend(JsonElement command) => Named<Flow>(command, "flow").TrySend(ContentOf(command)) ? new Answer() : None();

        private async Task<Answer> Receive(JsonElement command, Wait wait)
        {
            Flow flow = Named<Flow>(command, "flow");
            if (How(command) == "into")
            {
                var buffer = new byte[Number(command, "capacity") ?? 0];
                int length = await calls.ReceiveInto(flow, buffer, wait);
                return Received(command, buffer.AsSpan(0, length));
            }
            Message message = await calls.Receive(flow, wait);
            Answer answer = Received(command, message.Span);
            if (command.TryGetProperty("as", out _))
            {
                Put(command, message);
            }
            else
            {
                message.Dispose();
            }
            return answer;
        }

        private Answer TryReceive(JsonElement command)
        {
            if (!Named<Flow>(command, "flow").TryReceive(out Message message))
            {
                return None();
            }
            using (message)
            {
                return Received(command, message.Span);
            }
        }

        private Answer Release(JsonElement command)
        {
            using Message message = Named<Message>(command, "message");
            handles.TryRemove(command.GetProperty("message").GetString()!, out _);
            return Received(command, message.Span);
        }

        private async Task<Answer> SendSeries(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            string how = How(command);
            done.With("sent", 0L);
            for (long number = series.First; number < series.End;)
            {
                switch (how)
                {
                    case "loan":
                        using (Loan loan = await calls.Lend(flow, series.Length(number), wait))
                        {
                            series.Write(loan.Span, number);
                            loan.Send();
                        }
                        number++;
                        break;
                    case "batch":
                        long from = number;
                        var messages = Enumerable.Range(0, (int)Math.Min(Batch, series.End - from))
                            .Select(i => (ReadOnlyMemory<byte>)series.Message(from + i)).ToList();
                        number += await calls.SendMany(flow, messages, wait);
                        break;
                    case "try":
                        if (!flow.TrySend(series.Message(number)))
                        {
                            return done;
                        }
                        number++;
                        break;
                    default:
                        await calls.Send(flow, series.Message(number), wait);
                        number++;
                        break;
                }
                done.With("sent", number - series.First);
            }
            return done;
        }

        private async Task<Answer> ReceiveSeries(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            long next = series.First;
            bool isRight = true;
            bool Take(ReadOnlySpan<byte> message)
            {
                isRight = isRight && next < series.End && series.Is(message, next);
                next += isRight ? 1 : 0;
                done.With("received", next - series.First);
                return isRight && next < series.End;
            }
            bool TakeMessage(Message message)
            {
                using (message)
                {
                    return Take(message.Span);
                }
            }
            done.With("received", 0L);
            var buffer = new byte[series.Longest];
            var batch = new Message[Batch];
            while (isRight && next < series.End)
            {
                switch (How(command))
                {
                    case "into":
                        int length = await calls.ReceiveInto(flow, buffer, wait);
                        Take(buffer.AsSpan(0, length));
                        break;
                    case "batch":
                        int count = await calls.ReceiveMany(flow, batch.AsMemory(0, (int)Math.Min(Batch, series.End - next)), wait);
                        for (int i = 0; i < count; i++)
                        {
                            TakeMessage(batch[i]);
                        }
                        break;
                    case "event_fd":
                        DrainReady(flow, wait, TakeMessage);
                        break;
                    case "iterator" when !calls.IsBlocking:
                        await foreach (Message message in flow.WithCancellation(wait.Token))
                        {
                            if (!TakeMessage(message))
                            {
                                break;
                            }
                        }
                        break;
                    default:
                        TakeMessage(await calls.Receive(flow, wait));
                        break;
                }
            }
            done.With("ok", isRight);
            return isRight ? done : done.With("number", next);
        }

        /// <summary>Takes what is there, then waits for the channel's descriptor.</summary>
        private static void DrainReady(Flow flow, Wait wait, Func<Message, bool> take)
        {
            var watched = new PollFd { Descriptor = flow.Channel.EventDescriptor, Events = 1 };
            while (flow.TryReceive(out Message message))
            {
                if (!take(message))
                {
                    return;
                }
            }
            if (poll(ref watched, 1, wait.Timeout is TimeSpan time ? (int)time.TotalMilliseconds : -1) == 0)
            {
                throw new TimeoutException();
            }
        }

        private async Task<Answer> Drain(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            long count = 0, sum = 0, squares = 0;
            bool isRight = true;
            done.With("count", count);
            while (true)
            {
                try
                {
                    using Message message = await calls.Receive(flow, wait);
                    long number = series.NumberOf(message.Span);
                    isRight = isRight && number >= 0;
                    sum += number;
                    squares += number * number;
                    done.With("count", ++count);
                }
                catch (FlowClosedException)
                {
                    return done.With("sum", sum).With("squares", squares).With("ok", isRight);
                }
            }
        }

        private async Task<Answer> Ping(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            done.With("received", 0L);
            for (long number = series.First; number < series.End; number++)
            {
                await calls.Send(flow, series.Message(number), wait);
                using Message answer = await calls.Receive(flow, wait);
                if (!series.Is(answer.Span, number))
                {
                    return done.With("ok", false).With("number", number);
                }
                done.With("received", number - series.First + 1);
            }
            return done.With("ok", true);
        }

        private async Task<Answer> Echo(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            long messages = 0, bytes = 0;
            while (true)
            {
                done.With("messages", messages).With("bytes", bytes);
                try
                {
                    using Message message = await calls.Receive(flow, wait);
                    await calls.Send(flow, message.Memory, wait);
                    messages++;
                    bytes += message.Length;
                }
                catch (FlowClosedException)
                {
                    return done;
                }
            }
        }

        private async Task<Answer> Supply(JsonElement command, Wait wait, Answer done)
        {
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            done.With("sent", 0L);
            for (long number = series.First; number < series.End; number++)
            {
                (await calls.Receive(flow, wait)).Dispose();
                await calls.Send(flow, series.Message(number), wait);
                done.With("sent", number - series.First + 1);
            }
            return done;
        }

        private async Task<Answer> CancelStorm(JsonElement command, Wait wait, Answer done)
        {
            if (calls.IsBlocking)
            {
                return new Answer().With("unsupported", "blocking calls have timeouts; awaited ones have tokens");
            }
            Flow flow = Named<Flow>(command, "flow");
            var series = new Series(command);
            byte[] demand = Contents.Of(0, 1);
            long cancelled = 0, won = 0;
            async Task<Message?> ReceiveCancelled()
            {
                using var stop = new CancellationTokenSource();
                ValueTask<Message> receive = flow.ReceiveAsync(stop.Token);
                stop.Cancel();
                try
                {
                    return await receive;
                }
                catch (OperationCanceledException)
                {
                    cancelled++;
                    return null;
                }
            }
            void Count(long received, bool isRight) =>
                done.With("received", received).With("cancelled", cancelled).With("won", won).With("ok", isRight);
            Count(0, true);
            for (long number = series.First; number < series.End; number++)
            {
                if (await ReceiveCancelled() != null)
                {
                    Count(number - series.First, false);
                    return done;
                }
                await calls.Send(flow, demand, wait);
                Message? raced = await ReceiveCancelled();
                won += raced is null ? 0 : 1;
                using Message message = raced ?? await calls.Receive(flow, wait);
                bool isRight = series.Is(message.Span, number);
                Count(number - series.First + (isRight ? 1 : 0), isRight);
                if (!isRight)
                {
                    return done;
                }
            }
            return done;
        }

        // ---- streams

        private Answer OpenStream(JsonElement command)
        {
            Put(command, Named<Flow>(command, "flow").OpenStream());
            handles.TryRemove(command.GetProperty("flow").GetString()!, out _);
            return new Answer();
        }

        private async Task<Answer> Write(JsonElement command, Wait wait, Answer done)
        {
            MachnetStream stream = Named<MachnetStream>(command, "stream");
            byte[] bytes = ContentOf(command);
            int chunk = Number(command, "chunk") ?? Math.Max(bytes.Length, 1);
            done.With("written", 0);
            for (int written = 0; written < bytes.Length; written += chunk)
            {
                int piece = Math.Min(chunk, bytes.Length - written);
                await calls.Write(stream, bytes.AsMemory(written, piece), wait);
                done.With("written", written + piece);
            }
            return done;
        }

        private async Task<Answer> Read(JsonElement command, Wait wait, Answer done)
        {
            MachnetStream stream = Named<MachnetStream>(command, "stream");
            var whole = new byte[Number(command, "length") ?? 0];
            int length = 0;
            bool isEnd = false;
            done.With("length", length);
            while (length < whole.Length && !isEnd)
            {
                int count = await calls.Read(stream, whole.AsMemory(length), wait);
                length += count;
                isEnd = count == 0;
                done.With("length", length);
            }
            bool isRight = Contents.Equal(whole.AsSpan(0, length), command.GetProperty("seed").GetInt64(), Number(command, "offset") ?? 0);
            return done.With("ok", isRight).With("end", isEnd);
        }

        private async Task<Answer> End(JsonElement command, Wait wait)
        {
            await calls.End(Named<MachnetStream>(command, "stream"), wait);
            return new Answer();
        }

        private async Task<Answer> StreamEcho(JsonElement command, Wait wait, Answer done)
        {
            MachnetStream stream = Named<MachnetStream>(command, "stream");
            var buffer = new byte[Piece];
            long bytes = 0;
            done.With("bytes", bytes);
            while (true)
            {
                int count = await calls.Read(stream, buffer, wait);
                if (count == 0)
                {
                    break;
                }
                await calls.Write(stream, buffer.AsMemory(0, count), wait);
                done.With("bytes", bytes += count);
            }
            await calls.End(stream, wait);
            return done;
        }

        // ---- members of commands

        private T Named<T>(JsonElement command, string member) =>
            handles.TryGetValue(command.GetProperty(member).GetString()!, out object? handle)
                ? (T)handle
                : throw new InvalidOperationException("there is no " + command.GetProperty(member));

        private void Put(JsonElement command, object handle) => handles[command.GetProperty("as").GetString()!] = handle;

        private static int? Number(JsonElement command, string member) =>
            command.TryGetProperty(member, out JsonElement number) ? number.GetInt32() : (int?)null;

        private static string How(JsonElement command) => command.TryGetProperty("how", out JsonElement how) ? how.GetString()! : "copy";

        private static byte[] ContentOf(JsonElement command) =>
            Contents.Of(command.GetProperty("seed").GetInt64(), command.GetProperty("length").GetInt32());

        private static Answer Received(JsonElement command, ReadOnlySpan<byte> message)
        {
            var answer = new Answer().With("length", message.Length);
            return command.TryGetProperty("seed", out JsonElement seed) ? answer.With("ok", Contents.Equal(message, seed.GetInt64())) : answer;
        }

        private static Answer None() => new Answer().With("none", true);

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
