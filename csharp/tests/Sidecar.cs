using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net;
using System.Net.Sockets;
using System.Threading.Tasks;

namespace Machnet.Tests
{
    /// <summary>A sidecar that a test has started: the binary of $MACHNET, with a socket and UDP port of its own.</summary>
    internal sealed class Sidecar
    {
        private static readonly List<Sidecar> Running = new List<Sidecar>();

        private readonly Process process;
        private readonly string folder;

        static Sidecar()
        {
            AppDomain.CurrentDomain.ProcessExit += (_, __) => StopAll();
        }

        internal Sidecar(string address, int port)
        {
            Address = address;
            Port = port;
            folder = Path.Combine(Path.GetTempPath(), "machnet-cs-" + Path.GetRandomFileName());
            Directory.CreateDirectory(folder);
            Socket = Path.Combine(folder, "machnet.sock");
            string binary = Environment.GetEnvironmentVariable("MACHNET") ?? "machnet";
            // However this process ends, its sidecars do, too.
            bool isTied = File.Exists("/usr/bin/setpriv");
            var start = new ProcessStartInfo(isTied ? "/usr/bin/setpriv" : binary)
            {
                RedirectStandardOutput = true,
                UseShellExecute = false,
            };
            if (isTied)
            {
                start.ArgumentList.Add("--pdeathsig=KILL");
                start.ArgumentList.Add(binary);
            }
            foreach (string argument in new[]
            {
                "up", "--no-config", "--socket", Socket, "--address", address, "--udp-port", port.ToString(), "--log-level", "warn",
            })
            {
                start.ArgumentList.Add(argument);
            }
            // .NET's OpenSSL is no business of the sidecar's.
            start.Environment.Remove("LD_LIBRARY_PATH");
            process = Process.Start(start)!;
            lock (Running)
            {
                Running.Add(this);
            }
            Task<bool> isUp = Task.Run(HasComeUp);
            if (!isUp.Wait(TimeSpan.FromSeconds(30)) || !isUp.Result)
            {
                Kill();
                throw new InvalidOperationException("the sidecar did not start");
            }
        }

        internal string Address { get; }

        internal int Port { get; }

        internal string Socket { get; }

        internal int Id => process.Id;

        internal static int FreePort()
        {
            using var socket = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
            return ((IPEndPoint)socket.Client.LocalEndPoint!).Port;
        }

        internal static void StopAll()
        {
            foreach (Sidecar sidecar in Running.ToArray())
            {
                sidecar.Kill();
            }
        }

        /// <summary>Ends it as a crash would.</summary>
        internal void Kill()
        {
            lock (Running)
            {
                if (!Running.Remove(this))
                {
                    return;
                }
            }
            process.Kill();
            process.WaitForExit();
            Directory.Delete(folder, recursive: true);
        }

        private bool HasComeUp()
        {
            while (process.StandardOutput.ReadLine() is string line)
            {
                if (line.StartsWith("machnet is up:", StringComparison.Ordinal))
                {
                    return true;
                }
            }
            return false;
        }
    }

    /// <summary>Two hosts that all tests use but those that end one, and what tests do with them.</summary>
    internal static class Hosts
    {
        internal static Sidecar Near { get; private set; } = null!;

        internal static Sidecar Far { get; private set; } = null!;

        internal static void Start()
        {
            int port = Sidecar.FreePort();
            Near = new Sidecar("127.0.0.1", port);
            Far = new Sidecar("127.0.0.2", port);
        }

        internal static Channel Attach(Sidecar to, Action<AttachOptions>? choose = null)
        {
            var options = new AttachOptions { SocketPath = to.Socket };
            choose?.Invoke(options);
            return Channel.Attach(options);
        }

        /// <summary>A message that tells its number and length.</summary>
        internal static byte[] Pattern(int number, int length)
        {
            var message = new byte[length];
            for (int i = 0; i < length; i++)
            {
                message[i] = (byte)(number + i * 7 + (i >> 8));
            }
            return message;
        }
    }

    /// <summary>Two channels, on one host or on two, and a flow between them.</summary>
    internal sealed class Pair : IDisposable
    {
        internal Pair(Sidecar? from = null, Sidecar? to = null, Action<AttachOptions>? choose = null)
        {
            Client = Hosts.Attach(from ?? Hosts.Near, choose);
            Server = Hosts.Attach(to ?? Hosts.Far, choose);
            Listener = Server.Listen(":0");
            (Near, Far) = Connect();
        }

        internal Channel Client { get; }

        internal Channel Server { get; }

        internal Listener Listener { get; }

        /// <summary>The client's end.</summary>
        internal Flow Near { get; }

        /// <summary>The server's end.</summary>
        internal Flow Far { get; }

        internal (Flow Near, Flow Far) Connect()
        {
            Flow near = Client.Connect(Listener.LocalEndPoint, TimeSpan.FromSeconds(30));
            return (near, Listener.Accept(TimeSpan.FromSeconds(30)));
        }

        public void Dispose()
        {
            Client.Dispose();
            Server.Dispose();
        }
    }
}
