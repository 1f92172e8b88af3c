using System;
using System.Buffers;
using System.Threading;
using Machnet.Native;
using Machnet.Waiting;

namespace Machnet
{
    /// <summary>Room for a message to send, lent to the program where it will be sent from. Write the message, then call <see cref="Send"/>;
    /// Dispose without it gives the room back unsent. Of one thread at a time.</summary>
    public sealed unsafe class Loan : IMemoryOwner<byte>
    {
        private readonly byte* data;
        private readonly Doorbell bell;
        private IntPtr native;
        private Room? room;

        internal Loan(Doorbell bell, LoanHandle* native, int length)
        {
            this.bell = bell;
            this.native = (IntPtr)native;
            data = (byte*)NativeMethods.machnet_loan_data(native);
            Length = length;
        }

        /// <summary>Gives back what nobody sent.</summary>
        ~Loan() => Drop();

        /// <summary>The length of the message in bytes.</summary>
        public int Length { get; }

        /// <summary>The room, valid until Send or Dispose.</summary>
        public Span<byte> Span
        {
            get
            {
                if (Volatile.Read(ref native) == IntPtr.Zero)
                {
                    throw new ObjectDisposedException(nameof(Loan));
                }
                return new Span<byte>(data, Length);
            }
        }

        /// <summary>The room as memory that can be kept across an <c>await</c>. Used after Send or Dispose it throws.</summary>
        public Memory<byte> Memory
        {
            get
            {
                _ = Span;
                return (room ??= new Room(this)).Memory;
            }
        }

        /// <summary>Sends what was written into the room; it does not wait. Throws <see cref="FlowClosedException"/>,
        /// <see cref="FlowResetException"/>, <see cref="EngineLostException"/>, or <see cref="ObjectDisposedException"/> after Send or
        /// Dispose.</summary>
        public void Send()
        {
            IntPtr taken = Interlocked.Exchange(ref native, IntPtr.Zero);
            if (taken == IntPtr.Zero)
            {
                throw new ObjectDisposedException(nameof(Loan));
            }
            GC.SuppressFinalize(this);
            int status = NativeMethods.machnet_loan_send((LoanHandle*)taken);
            if (status != Library.Ok)
            {
                throw MachnetException.OfLastCall(status);
            }
        }

        /// <summary>Gives the room back unsent. After Send it does nothing.</summary>
        public void Dispose()
        {
            Drop();
            GC.SuppressFinalize(this);
        }

        private void Drop()
        {
            IntPtr taken = Interlocked.Exchange(ref native, IntPtr.Zero);
            if (taken != IntPtr.Zero)
            {
                NativeMethods.machnet_loan_drop((LoanHandle*)taken);
                bell.NoteRoom();
            }
        }

        private sealed class Room : MemoryManager<byte>
        {
            private readonly Loan loan;

            internal Room(Loan loan)
            {
                this.loan = loan;
            }

            public override Span<byte> GetSpan() => loan.Span;

            public override MemoryHandle Pin(int elementIndex = 0)
            {
                if ((uint)elementIndex > (uint)loan.Span.Length)
                {
                    throw new ArgumentOutOfRangeException(nameof(elementIndex));
                }
                return new MemoryHandle(loan.data + elementIndex, default, this);
            }

            public override void Unpin()
            {
            }

            protected override void Dispose(bool disposing)
            {
            }
        }
    }
}
