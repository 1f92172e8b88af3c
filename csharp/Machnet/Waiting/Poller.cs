using System;
using System.Collections.Generic;
using System.Threading;
using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>The one thread of the process that waits for the doorbells of all channels. It starts with the first channel that somebody
    /// awaits, sleeps while nothing comes, and keeps no process alive. It holds channels weakly, but for those that are waited on.</summary>
    internal static unsafe class Poller
    {
        private const int MostEvents = 64;

        private static readonly object Gate = new object();
        private static readonly Dictionary<long, Entry> Entries = new Dictionary<long, Entry>();
        private static int epoll = -1;
        private static long lastNumber;

        /// <summary>What the poller knows of a channel.</summary>
        internal sealed class Entry
        {
            private readonly WeakReference<Doorbell> doorbell;

            internal Entry(Doorbell doorbell, int descriptor, long number)
            {
                this.doorbell = new WeakReference<Doorbell>(doorbell);
                Descriptor = descriptor;
                Number = number;
            }

            internal int Descriptor { get; }

            internal long Number { get; }

            /// <summary>Keeps what is waited on from the garbage collector.</summary>
            internal Doorbell? Kept { get; set; }

            internal Doorbell? Target => doorbell.TryGetTarget(out Doorbell? target) ? target : null;

            /// <summary>Asks for the next event; see <see cref="Epoll.Await"/>.</summary>
            internal void Await(uint events) => Epoll.Await(epoll, Descriptor, events, Number);
        }

        /// <summary>Makes a channel's doorbell known. Nothing is waited for yet.</summary>
        internal static Entry Add(Doorbell doorbell, int descriptor)
        {
            lock (Gate)
            {
                if (epoll < 0)
                {
                    epoll = Epoll.Create();
                    var thread = new Thread(Run) { IsBackground = true, Name = "machnet poller" };
                    thread.Start();
                }
                var entry = new Entry(doorbell, descriptor, ++lastNumber);
                Epoll.Watch(epoll, descriptor, entry.Number);
                Entries.Add(entry.Number, entry);
                return entry;
            }
        }

        /// <summary>To be called before the library closes the descriptor.</summary>
        internal static void Forget(long number)
        {
            lock (Gate)
            {
                if (Entries.Remove(number, out Entry? entry))
                {
                    Epoll.Forget(epoll, entry.Descriptor);
                }
            }
        }

        private static void Run()
        {
            byte* events = stackalloc byte[MostEvents * Epoll.EventBytes];
            while (true)
            {
                int count = Epoll.Wait(epoll, events, MostEvents);
                for (int i = 0; i < count; i++)
                {
                    Entry? entry;
                    lock (Gate)
                    {
                        Entries.TryGetValue(Epoll.NumberOf(events, i), out entry);
                    }
                    entry?.Target?.Ring((Epoll.EventsOf(events, i) & (Epoll.Hup | Epoll.Err)) != 0);
                }
            }
        }
    }
}
