using System;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Tests
{
    [Tests]
    public sealed class StreamTests
    {
        public void BytesGoBothWaysBlocking()
        {
            using var pair = new Pair();
            using MachnetStream near = pair.Near.OpenStream();
            using MachnetStream far = pair.Far.OpenStream();
            byte[] bytes = Hosts.Pattern(5, 3_000_000);
            var writer = new Thread(() =>
            {
                near.Write(bytes);
                near.Write(bytes, 7, 100);
                near.WriteByte(42);
                near.CompleteWriting();
                near.CompleteWriting();
            });
            writer.Start();
            var received = new MemoryStream();
            far.CopyTo(received, 50_000);
            writer.Join();
            Check.Same(bytes.Concat(bytes.Skip(7).Take(100)).Append((byte)42).ToArray(), received.ToArray());
            Check.Equal(-1, far.ReadByte());
            // This side still writes, and the other reads on.
            far.Write(Encoding.UTF8.GetBytes("answer"));
            far.Dispose();
            Check.Equal("answer", new StreamReader(near).ReadToEnd());
        }

        public async Task BytesGoBothWaysAwaited()
        {
            using var pair = new Pair();
            await using MachnetStream near = pair.Near.OpenStream();
            await using MachnetStream far = pair.Far.OpenStream();
            Task echo = Task.Run(async () =>
            {
                await far.CopyToAsync(far);
                await far.CompleteWritingAsync();
            });
            byte[] bytes = Hosts.Pattern(5, 5_000_000);
            Task writing = Task.Run(async () =>
            {
                for (int i = 0; i < bytes.Length; i += 123_456)
                {
                    await near.WriteAsync(bytes.AsMemory(i, Math.Min(123_456, bytes.Length - i)));
                }
                await near.FlushAsync();
                await near.CompleteWritingAsync();
            });
            var received = new MemoryStream();
            await near.CopyToAsync(received);
            await Task.WhenAll(writing, echo);
            Check.Same(bytes, received.ToArray());
            Check.Equal(0, await near.ReadAsync(new byte[1]));
            Check.That(near.GetStats().MessagesSent > 0, "statistics");
        }

        public async Task LinesGoThroughReadersAndWriters()
        {
            using var pair = new Pair();
            using MachnetStream near = pair.Near.OpenStream();
            using MachnetStream far = pair.Far.OpenStream();
            var writer = new StreamWriter(near) { AutoFlush = true, NewLine = "\n" };
            var reader = new StreamReader(far);
            for (int i = 0; i < 100; i++)
            {
                await writer.WriteLineAsync("line " + i);
                Check.Equal("line " + i, await reader.ReadLineAsync());
            }
        }

        public async Task AResetIsNoEnd()
        {
            using var pair = new Pair();
            using MachnetStream near = pair.Near.OpenStream();
            using MachnetStream far = pair.Far.OpenStream();
            Task<int> read = far.ReadAsync(new byte[10]).AsTask();
            near.Reset();
            await Check.ThrowsAsync<FlowResetException>(() => read);
            Check.Throws<FlowResetException>(() => far.Write(new byte[10]));
        }

        public async Task WaitsEndWithTimeTokenAndDispose()
        {
            using var pair = new Pair();
            MachnetStream near = pair.Near.OpenStream();
            using MachnetStream far = pair.Far.OpenStream();
            Check.Equal(Timeout.Infinite, near.ReadTimeout);
            near.ReadTimeout = 20;
            Check.Throws<MachnetTimeoutException>(() => near.Read(new byte[1], 0, 1));
            using var stop = new CancellationTokenSource(20);
            await Check.ThrowsAsync<OperationCanceledException>(() => near.ReadAsync(new byte[1], 0, 1, stop.Token));
            // Nothing was lost by those.
            await far.WriteAsync(new byte[] { 9 });
            Check.Equal(9, near.ReadByte());
            Task<int> read = near.ReadAsync(new byte[1]).AsTask();
            near.Dispose();
            await Check.ThrowsAsync<ObjectDisposedException>(() => read);
            Check.Throws<ObjectDisposedException>(() => near.Write(new byte[1]));
            Check.That(!near.CanRead && !near.CanWrite && !near.CanSeek, "closed");
            Check.Equal(0, far.Read(new byte[1]));
            Check.Throws<ArgumentOutOfRangeException>(() => far.ReadTimeout = 0);
        }

        public async Task AWriterWaitsForItsReader()
        {
            using var pair = new Pair();
            using MachnetStream near = pair.Near.OpenStream();
            using MachnetStream far = pair.Far.OpenStream();
            near.WriteTimeout = 300;
            Check.Throws<MachnetTimeoutException>(() =>
            {
                while (true)
                {
                    near.Write(new byte[1_000_000]);
                }
            });
            using var stop = new CancellationTokenSource(20);
            await Check.ThrowsAsync<OperationCanceledException>(() => near.WriteAsync(new byte[100_000_000], stop.Token).AsTask());
        }

        public async Task AFlowIsOneOrTheOther()
        {
            using var pair = new Pair();
            Task receive = pair.Near.ReceiveAsync().AsTask();
            Check.Throws<InvalidOperationException>(() => pair.Near.OpenStream());
            pair.Far.Send(new byte[1]);
            await receive;
            (Flow near, Flow far) = pair.Connect();
            using MachnetStream stream = near.OpenStream();
            Check.Throws<ObjectDisposedException>(() => near.Send(new byte[1]));
            Check.Throws<ObjectDisposedException>(() => near.OpenStream());
            far.Send(new byte[] { 77 });
            Check.Fails(MachnetError.NotAStream, () => stream.Read(new byte[10]));
        }
    }
}
