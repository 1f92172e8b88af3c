using System;
using System.Buffers;
using System.Threading;
using Machnet.Native;

namespace Machnet
{
    /// <summary>A received message, lent to the program where it lies. Dispose of it to give it back: while it is lent, the peer has less
    /// room to fill. It stays valid when its flow and channel are closed.
    /// <para>It is a value, so that a receive allocates nothing; copies of it are the same message. After Dispose all of them throw
    /// <see cref="ObjectDisposedException"/>.</para></summary>
    public readonly struct Message : IDisposable
    {
        private readonly MessageSlot? slot;
        private readonly long version;

        internal Message(MessageSlot slot, long version)
        {
            this.slot = slot;
            this.version = version;
        }

        /// <summary>The message's length in bytes.</summary>
        public int Length => Live().Length;

        /// <summary>The message, valid until Dispose. After it, a span that was kept must not be used: it would show memory that is the
        /// channel's again.</summary>
        public ReadOnlySpan<byte> Span => Live().ReadOnlySpan;

        /// <summary>The message as memory that can be kept across an <c>await</c>. Used after Dispose it throws, for which there is an allocation.
        /// To send it on, <see cref="Flow.SendAsync(Message, System.Threading.CancellationToken)"/> needs none.</summary>
        public ReadOnlyMemory<byte> Memory => Live().LendMemory();

        /// <summary>As <see cref="Memory"/>, for one who forgets it before Dispose.</summary>
        internal ReadOnlyMemory<byte> MemoryForNow => Live().Memory;

        /// <summary>A copy of the message.</summary>
        public byte[] ToArray() => Span.ToArray();

        /// <summary>Copies the message to the beginning of a span, which must be large enough.</summary>
        public void CopyTo(Span<byte> destination) => Span.CopyTo(destination);

        /// <summary>Gives the message back. Doing it again does nothing.</summary>
        public void Dispose() => slot?.Release(version);

        private MessageSlot Live()
        {
            if (slot is null || Volatile.Read(ref slot.Version) != version)
            {
                throw new ObjectDisposedException(nameof(Message));
            }
            return slot;
        }
    }

    /// <summary>What stands behind a <see cref="Message"/>: the handle of the library. It is used again for other messages, unless the program
    /// asked for its memory, which must not show another message later.</summary>
    internal sealed unsafe class MessageSlot : MemoryManager<byte>
    {
        /// <summary>Goes up when the message is given back.</summary>
        internal long Version;

        private readonly MessagePool pool;
        private MessageHandle* native;
        private byte* data;
        private bool isMemoryLent;

        internal MessageSlot(MessagePool pool)
        {
            this.pool = pool;
        }

        ~MessageSlot()
        {
            // A message that nobody gave back.
            if (native != null)
            {
                NativeMethods.machnet_message_release(native);
                native = null;
            }
        }

        internal int Length { get; private set; }

        internal ReadOnlySpan<byte> ReadOnlySpan => new ReadOnlySpan<byte>(data, Length);

        internal Message Take(MessageHandle* received)
        {
            native = received;
            data = (byte*)NativeMethods.machnet_message_data(received);
            Length = (int)NativeMethods.machnet_message_len(received);
            return new Message(this, Version);
        }

        internal ReadOnlyMemory<byte> LendMemory()
        {
            isMemoryLent = true;
            return Memory;
        }

        internal void Release(long version)
        {
            if (Interlocked.CompareExchange(ref Version, version + 1, version) != version)
            {
                return;
            }
            MessageHandle* given = native;
            native = null;
            data = null;
            Length = 0;
            NativeMethods.machnet_message_release(given);
            if (isMemoryLent)
            {
                GC.SuppressFinalize(this);
            }
            else
            {
                pool.Return(this);
            }
        }

        /// <inheritdoc/>
        public override Span<byte> GetSpan()
        {
            if (native == null)
            {
                throw new ObjectDisposedException(nameof(Message));
            }
            return new Span<byte>(data, Length);
        }

        /// <inheritdoc/>
        public override MemoryHandle Pin(int elementIndex = 0)
        {
            if (native == null)
            {
                throw new ObjectDisposedException(nameof(Message));
            }
            if ((uint)elementIndex > (uint)Length)
            {
                throw new ArgumentOutOfRangeException(nameof(elementIndex));
            }
            return new MemoryHandle(data + elementIndex, default, this);
        }

        /// <inheritdoc/>
        public override void Unpin()
        {
        }

        /// <inheritdoc/>
        protected override void Dispose(bool disposing)
        {
        }
    }

    /// <summary>Slots of a channel that can be used again.</summary>
    internal sealed unsafe class MessagePool
    {
        private readonly MessageSlot?[] free = new MessageSlot?[64];

        internal Message Take(MessageHandle* received)
        {
            MessageSlot?[] slots = free;
            for (int i = 0; i < slots.Length; i++)
            {
                if (slots[i] != null && Interlocked.Exchange(ref slots[i], null) is MessageSlot slot)
                {
                    return slot.Take(received);
                }
            }
            return new MessageSlot(this).Take(received);
        }

        internal void Return(MessageSlot slot)
        {
            MessageSlot?[] slots = free;
            for (int i = 0; i < slots.Length; i++)
            {
                if (slots[i] is null && Interlocked.CompareExchange(ref slots[i], slot, null) is null)
                {
                    return;
                }
            }
            GC.SuppressFinalize(slot);
        }
    }
}
