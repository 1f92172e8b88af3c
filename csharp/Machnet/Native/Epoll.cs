using System;
using System.Runtime.InteropServices;

namespace Machnet.Native
{
    /// <summary>The calls of the operating system that the poller makes. All blittable.</summary>
    internal static unsafe class Epoll
    {
        internal const uint In = 0x001;
        internal const uint Err = 0x008;
        internal const uint Hup = 0x010;
        internal const uint OneShot = 1u << 30;

        private const int CloseOnExec = 0x80000;
        private const int Add = 1;
        private const int Delete = 2;
        private const int Modify = 3;
        private const int Interrupted = 4;

        /// <summary>struct epoll_event is packed on x86-64 only.</summary>
        private static readonly int DataOffset = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;

        internal static readonly int EventBytes = DataOffset + 8;

        internal static int Create()
        {
            int epoll = epoll_create1(CloseOnExec);
            return epoll >= 0 ? epoll : throw Failed("epoll_create1");
        }

        internal static void Watch(int epoll, int descriptor, long number)
        {
            if (Control(epoll, Add, descriptor, OneShot, number) != 0)
            {
                throw Failed("epoll_ctl");
            }
        }

        /// <summary>Asks for the next event of a kind; hang-ups and errors are told of in every case. Once told, the descriptor is quiet until
        /// it is asked for again. A descriptor that is no more is nobody's loss.</summary>
        internal static void Await(int epoll, int descriptor, uint events, long number) =>
            Control(epoll, Modify, descriptor, events | OneShot, number);

        internal static void Forget(int epoll, int descriptor) => Control(epoll, Delete, descriptor, 0, 0);

        /// <summary>Waits for events; how many are in the buffer, which has room for <paramref name="most"/>.</summary>
        internal static int Wait(int epoll, byte* events, int most)
        {
            int count = epoll_wait(epoll, events, most, -1);
            if (count < 0 && Marshal.GetLastWin32Error() != Interrupted)
            {
                throw Failed("epoll_wait");
            }
            return Math.Max(count, 0);
        }

        internal static uint EventsOf(byte* events, int index) => *(uint*)(events + index * EventBytes);

        internal static long NumberOf(byte* events, int index) =>
            BitConverter.ToInt64(new ReadOnlySpan<byte>(events + index * EventBytes + DataOffset, 8));

        private static int Control(int epoll, int operation, int descriptor, uint events, long number)
        {
            byte* one = stackalloc byte[16];
            *(uint*)one = events;
            BitConverter.TryWriteBytes(new Span<byte>(one + DataOffset, 8), number);
            return epoll_ctl(epoll, operation, descriptor, one);
        }

        private static MachnetException Failed(string call) =>
            new MachnetException(MachnetError.Io, call + " failed with errno " + Marshal.GetLastWin32Error());

        [DllImport("libc", SetLastError = true)]
        private static extern int epoll_create1(int flags);

        [DllImport("libc", SetLastError = true)]
        private static extern int epoll_ctl(int epoll, int operation, int descriptor, byte* one);

        [DllImport("libc", SetLastError = true)]
        private static extern int epoll_wait(int epoll, byte* events, int most, int timeoutMilliseconds);
    }
}
