using System;
using System.Buffers;
using System.Collections.Generic;
using Machnet.Native;
using Machnet.Waiting;

namespace Machnet
{
    // The calls of a flow that may have to wait. Those that programs make for each message are kept to be used again.
    public sealed partial class Flow
    {
        private readonly Spare<ReceiveOperation> freeReceive = new Spare<ReceiveOperation>();
        private readonly Spare<ReceiveIntoOperation> freeReceiveInto = new Spare<ReceiveIntoOperation>();
        private readonly Spare<SendOperation> freeSend = new Spare<SendOperation>();

        /// <summary>The exception of a message that did not fit.</summary>
        private Exception TooSmall(int needed) =>
            new MessageSizeException(MachnetError.BufferTooSmall, Library.LastErrorText(), needed);

        private sealed class ReceiveOperation : Operation<Message>
        {
            private readonly Flow flow;

            private ReceiveOperation(Flow flow) : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
            }

            internal static ReceiveOperation Of(Flow flow) =>
                flow.freeReceive.Take() ?? new ReceiveOperation(flow);

            protected override unsafe int Ask(out Message answer)
            {
                MessageHandle* native;
                int status = NativeMethods.machnet_flow_try_recv_loan(flow.handle.Native, &native);
                answer = status == Library.Ok ? flow.Channel.Messages.Take(native) : default;
                return status;
            }

            protected override unsafe int Await(int timeoutMilliseconds, out Message answer)
            {
                MessageHandle* native;
                int status = NativeMethods.machnet_flow_recv_loan(flow.handle.Native, timeoutMilliseconds, &native);
                answer = status == Library.Ok ? flow.Channel.Messages.Take(native) : default;
                return status;
            }

            protected override void Recycle() => flow.freeReceive.Put(this);
        }

        private sealed unsafe class ReceiveIntoOperation : Operation<int>
        {
            private readonly Flow flow;
            private Memory<byte> memory;
            private byte* pinned;
            private int capacity;
            private int needed;

            private ReceiveIntoOperation(Flow flow) : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
            }

            internal static ReceiveIntoOperation Of(Flow flow, Memory<byte> memory)
            {
                ReceiveIntoOperation operation = flow.freeReceiveInto.Take() ?? new ReceiveIntoOperation(flow);
                operation.memory = memory;
                operation.capacity = memory.Length;
                return operation;
            }

            internal static ReceiveIntoOperation Of(Flow flow, byte* pinned, int capacity)
            {
                ReceiveIntoOperation operation = flow.freeReceiveInto.Take() ?? new ReceiveIntoOperation(flow);
                operation.pinned = pinned;
                operation.capacity = capacity;
                return operation;
            }

            protected override int Ask(out int answer)
            {
                UIntPtr length = default;
                int status;
                if (pinned != null)
                {
                    status = NativeMethods.machnet_flow_try_recv(flow.handle.Native, pinned, (UIntPtr)capacity, &length);
                }
                else
                {
                    fixed (byte* place = memory.Span)
                    {
                        status = NativeMethods.machnet_flow_try_recv(flow.handle.Native, place, (UIntPtr)capacity, &length);
                    }
                }
                return Answer(status, length, out answer);
            }

            protected override int Await(int timeoutMilliseconds, out int answer)
            {
                UIntPtr length = default;
                int status;
                if (pinned != null)
                {
                    status = NativeMethods.machnet_flow_recv(flow.handle.Native, pinned, (UIntPtr)capacity, timeoutMilliseconds, &length);
                }
                else
                {
                    fixed (byte* place = memory.Span)
                    {
                        status = NativeMethods.machnet_flow_recv(flow.handle.Native, place, (UIntPtr)capacity, timeoutMilliseconds, &length);
                    }
                }
                return Answer(status, length, out answer);
            }

            protected override Exception Failure(int status) =>
                status == (int)MachnetStatus.BufferTooSmall ? flow.TooSmall(needed) : base.Failure(status);

            protected override void Recycle()
            {
                memory = default;
                pinned = null;
                flow.freeReceiveInto.Put(this);
            }

            private int Answer(int status, UIntPtr length, out int answer)
            {
                needed = (int)length;
                answer = needed;
                return status;
            }
        }

        private sealed class ReceiveManyOperation : Operation<int>
        {
            private readonly Flow flow;
            private readonly IntPtr[] received;

            internal ReceiveManyOperation(Flow flow, int most) : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
                received = new IntPtr[most];
            }

            /// <summary>The messages that came.</summary>
            internal unsafe void TakeAll(Span<Message> messages)
            {
                for (int i = 0; i < messages.Length; i++)
                {
                    messages[i] = flow.Channel.Messages.Take((MessageHandle*)received[i]);
                }
            }

            protected override unsafe int Ask(out int answer)
            {
                UIntPtr count = default;
                fixed (IntPtr* places = received)
                {
                    int status = NativeMethods.machnet_flow_try_recv_many(
                        flow.handle.Native, (MessageHandle**)places, (UIntPtr)received.Length, &count);
                    answer = (int)count;
                    return status;
                }
            }

            protected override unsafe int Await(int timeoutMilliseconds, out int answer)
            {
                UIntPtr count = default;
                fixed (IntPtr* places = received)
                {
                    int status = NativeMethods.machnet_flow_recv_many(
                        flow.handle.Native, (MessageHandle**)places, (UIntPtr)received.Length, timeoutMilliseconds, &count);
                    answer = (int)count;
                    return status;
                }
            }

            protected override void Recycle()
            {
            }
        }

        private sealed unsafe class SendOperation : Operation<bool>
        {
            private readonly Flow flow;
            private ReadOnlyMemory<byte> memory;
            private byte* pinned;
            private int length;

            private SendOperation(Flow flow) : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
            }

            internal static SendOperation Of(Flow flow, ReadOnlyMemory<byte> memory)
            {
                SendOperation operation = flow.freeSend.Take() ?? new SendOperation(flow);
                operation.memory = memory;
                operation.length = memory.Length;
                return operation;
            }

            internal static SendOperation Of(Flow flow, byte* pinned, int length)
            {
                SendOperation operation = flow.freeSend.Take() ?? new SendOperation(flow);
                operation.pinned = pinned;
                operation.length = length;
                return operation;
            }

            protected override int Ask(out bool answer)
            {
                answer = true;
                if (pinned != null)
                {
                    return NativeMethods.machnet_flow_try_send(flow.handle.Native, pinned, (UIntPtr)length);
                }
                fixed (byte* bytes = memory.Span)
                {
                    return NativeMethods.machnet_flow_try_send(flow.handle.Native, bytes, (UIntPtr)length);
                }
            }

            protected override int Await(int timeoutMilliseconds, out bool answer)
            {
                answer = true;
                if (pinned != null)
                {
                    return NativeMethods.machnet_flow_send(flow.handle.Native, pinned, (UIntPtr)length, timeoutMilliseconds);
                }
                fixed (byte* bytes = memory.Span)
                {
                    return NativeMethods.machnet_flow_send(flow.handle.Native, bytes, (UIntPtr)length, timeoutMilliseconds);
                }
            }

            protected override void Recycle()
            {
                memory = default;
                pinned = null;
                flow.freeSend.Put(this);
            }
        }

        private sealed class SendManyOperation : Operation<int>
        {
            private readonly Flow flow;
            private readonly IReadOnlyList<ReadOnlyMemory<byte>> messages;
            private readonly int from;

            internal SendManyOperation(Flow flow, IReadOnlyList<ReadOnlyMemory<byte>> messages, int from)
                : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
                this.messages = messages;
                this.from = from;
            }

            protected override int Ask(out int answer) => Send(null, out answer);

            protected override int Await(int timeoutMilliseconds, out int answer) => Send(timeoutMilliseconds, out answer);

            protected override void Recycle()
            {
            }

            private unsafe int Send(int? timeoutMilliseconds, out int answer)
            {
                int count = Math.Min(messages.Count - from, Library.ManyMost);
                MachnetIovec* pieces = stackalloc MachnetIovec[count];
                var pins = new MemoryHandle[count];
                try
                {
                    for (int i = 0; i < count; i++)
                    {
                        ReadOnlyMemory<byte> message = messages[from + i];
                        pins[i] = message.Pin();
                        pieces[i].@base = pins[i].Pointer;
                        pieces[i].len = (UIntPtr)message.Length;
                    }
                    UIntPtr sent = default;
                    int status = timeoutMilliseconds is int milliseconds
                        ? NativeMethods.machnet_flow_send_many(flow.handle.Native, pieces, (UIntPtr)count, milliseconds, &sent)
                        : NativeMethods.machnet_flow_try_send_many(flow.handle.Native, pieces, (UIntPtr)count, &sent);
                    answer = (int)sent;
                    return status;
                }
                finally
                {
                    foreach (MemoryHandle pin in pins)
                    {
                        pin.Dispose();
                    }
                }
            }
        }

        private sealed class LendOperation : Operation<Loan>
        {
            private readonly Flow flow;
            private readonly int length;

            internal LendOperation(Flow flow, int length) : base(flow.Channel.Bell, flow.owner)
            {
                this.flow = flow;
                this.length = length;
            }

            protected override unsafe int Ask(out Loan answer)
            {
                LoanHandle* loan;
                int status = NativeMethods.machnet_flow_try_lend(flow.handle.Native, (UIntPtr)length, &loan);
                answer = status == Library.Ok ? new Loan(flow.Channel.Bell, loan, length) : null!;
                return status;
            }

            protected override unsafe int Await(int timeoutMilliseconds, out Loan answer)
            {
                LoanHandle* loan;
                int status = NativeMethods.machnet_flow_lend(flow.handle.Native, (UIntPtr)length, timeoutMilliseconds, &loan);
                answer = status == Library.Ok ? new Loan(flow.Channel.Bell, loan, length) : null!;
                return status;
            }

            protected override void Recycle()
            {
            }
        }
    }
}
