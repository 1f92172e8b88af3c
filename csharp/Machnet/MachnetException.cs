using System;
using System.IO;
using Machnet.Native;

namespace Machnet
{
    /// <summary>What went wrong: stable numbers and names, the same in every language of Machnet.
    /// docs/troubleshooting.md tells of each what helps.</summary>
    public enum MachnetError
    {
        /// <summary>No sidecar listens on the socket; start one with <c>machnet up</c>.</summary>
        NoSidecar = 1,
        /// <summary>The socket exists, but this user may not open it.</summary>
        SocketPermission = 2,
        /// <summary>Library and sidecar, or assembly and library, speak different versions.</summary>
        Version = 3,
        /// <summary>The sidecar refused the attach.</summary>
        AttachRefused = 4,
        /// <summary>The sidecar has no engine of that number.</summary>
        NoEngine = 5,
        /// <summary>The sidecar is gone. Attach again when it is back.</summary>
        EngineLost = 6,
        /// <summary>Nothing to receive, or no credit to send, right now.</summary>
        WouldBlock = 7,
        /// <summary>The time given to the call has passed.</summary>
        TimedOut = 8,
        /// <summary>The local address does not belong to the sidecar.</summary>
        AddressNotLocal = 9,
        /// <summary>Somebody listens there already.</summary>
        AddressInUse = 10,
        /// <summary>The sidecar refused the listener.</summary>
        ListenRefused = 11,
        /// <summary>The peer did not answer: a wrong address, a firewall, or no sidecar there.</summary>
        ConnectTimedOut = 12,
        /// <summary>The peer's sidecar answered that nobody listens on that port.</summary>
        Refused = 13,
        /// <summary>The peer's listener has too many flows waiting to be accepted.</summary>
        Busy = 14,
        /// <summary>The connection could not be made; the message has the reason.</summary>
        ConnectFailed = 15,
        /// <summary>The channel has no such flow.</summary>
        UnknownFlow = 16,
        /// <summary>The peer has closed the flow, and every message that it sent has been received.</summary>
        Closed = 17,
        /// <summary>The flow was broken off; some of the messages sent may not have arrived.</summary>
        Reset = 18,
        /// <summary>The message is larger than the peer can take, or than 8 MiB.</summary>
        MessageTooLarge = 19,
        /// <summary>A message has at least one byte.</summary>
        EmptyMessage = 20,
        /// <summary>The message is larger than the buffer; it was not taken.</summary>
        BufferTooSmall = 21,
        /// <summary>The call does not fit the flow's or the channel's mode.</summary>
        WrongMode = 22,
        /// <summary>The handle was made before a fork and used in the child.</summary>
        Forked = 23,
        /// <summary>An argument makes no sense.</summary>
        InvalidArgument = 24,
        /// <summary>The channel or the sidecar has as many flows as it can hold.</summary>
        TooManyFlows = 25,
        /// <summary>The sidecar broke the rules of the shared memory.</summary>
        SidecarBroken = 26,
        /// <summary>The operating system answered an error, or it is none that Machnet runs on; the message names it.</summary>
        Io = 27,
        /// <summary>The wait was cancelled. Calls with a token throw <see cref="OperationCanceledException"/> instead.</summary>
        Cancelled = 28,
        /// <summary>The flow is a stream here, and something else to the peer.</summary>
        NotAStream = 29,
        /// <summary>A defect of the library. Please report it.</summary>
        Internal = 1000,
    }

    /// <summary>The base of all errors of Machnet. <see cref="Exception.Message"/> says what failed, where, and what helps.</summary>
    public class MachnetException : IOException
    {
        /// <summary>An error of that kind with its text.</summary>
        public MachnetException(MachnetError error, string message, Exception? inner = null)
            : base(message, inner)
        {
            Error = error;
            HResult = (int)error;
        }

        /// <summary>What went wrong. Meant for filters: <c>catch (MachnetException e) when (e.Error == MachnetError.Refused)</c>.</summary>
        public MachnetError Error { get; }

        /// <summary>The number of <see cref="Error"/>, the same in every language of Machnet.</summary>
        public int Code => (int)Error;

        /// <summary>The name of <see cref="Error"/>, the same in every language of Machnet.</summary>
        public string Name => Error.ToString();

        /// <summary>The exception of a status that is no success, with the text of this thread's last failed call.</summary>
        internal static MachnetException OfLastCall(int status) => Of(status, Library.LastErrorText());

        internal static MachnetException Of(int status) => Of(status, Library.TextOf(status));

        internal static MachnetException Of(int status, string text)
        {
            var error = (MachnetError)status;
            switch (error)
            {
                case MachnetError.NoSidecar:
                    return new NoSidecarException(text);
                case MachnetError.EngineLost:
                case MachnetError.SidecarBroken:
                    return new EngineLostException(error, text);
                case MachnetError.TimedOut:
                    return new MachnetTimeoutException(text);
                case MachnetError.ConnectTimedOut:
                case MachnetError.Refused:
                case MachnetError.Busy:
                case MachnetError.ConnectFailed:
                    return new ConnectException(error, text);
                case MachnetError.Closed:
                    return new FlowClosedException(text);
                case MachnetError.Reset:
                    return new FlowResetException(text);
                case MachnetError.MessageTooLarge:
                case MachnetError.EmptyMessage:
                    return new MessageSizeException(error, text, 0);
                default:
                    return new MachnetException(error, text);
            }
        }
    }

    /// <summary><see cref="MachnetError.NoSidecar"/>: no sidecar answers; start one with <c>machnet up</c>.</summary>
    public sealed class NoSidecarException : MachnetException
    {
        internal NoSidecarException(string message) : base(MachnetError.NoSidecar, message) { }
    }

    /// <summary><see cref="MachnetError.EngineLost"/> or <see cref="MachnetError.SidecarBroken"/>: every call on the channel answers this from
    /// now on. The process lives on: dispose of the channel and attach again when the sidecar is back.</summary>
    public sealed class EngineLostException : MachnetException
    {
        internal EngineLostException(MachnetError error, string message) : base(error, message) { }
    }

    /// <summary><see cref="MachnetError.TimedOut"/>: the time given to the call has passed. The inner exception is a
    /// <see cref="TimeoutException"/>. What the call waited for is not lost.</summary>
    public sealed class MachnetTimeoutException : MachnetException
    {
        internal MachnetTimeoutException(string message) : base(MachnetError.TimedOut, message, new TimeoutException(message)) { }
    }

    /// <summary>A connect that failed: <see cref="MachnetError.ConnectTimedOut"/>, <see cref="MachnetError.Refused"/>,
    /// <see cref="MachnetError.Busy"/> or <see cref="MachnetError.ConnectFailed"/>.</summary>
    public sealed class ConnectException : MachnetException
    {
        internal ConnectException(MachnetError error, string message) : base(error, message) { }
    }

    /// <summary><see cref="MachnetError.Closed"/>: the peer has closed the flow in order, and every message that it sent has been received.
    /// What this side closed itself throws <see cref="ObjectDisposedException"/> instead.</summary>
    public sealed class FlowClosedException : MachnetException
    {
        internal FlowClosedException(string message) : base(MachnetError.Closed, message) { }
    }

    /// <summary><see cref="MachnetError.Reset"/>: the flow was broken off; some of the messages sent may not have arrived.</summary>
    public sealed class FlowResetException : MachnetException
    {
        internal FlowResetException(string message) : base(MachnetError.Reset, message) { }
    }

    /// <summary>A message of a length that does not do: <see cref="MachnetError.MessageTooLarge"/>,
    /// <see cref="MachnetError.EmptyMessage"/> or <see cref="MachnetError.BufferTooSmall"/>.</summary>
    public sealed class MessageSizeException : MachnetException
    {
        internal MessageSizeException(MachnetError error, string message, int needed) : base(error, message)
        {
            Needed = needed;
        }

        /// <summary>For <see cref="MachnetError.BufferTooSmall"/>: the length of the message, which was not taken. Else 0.</summary>
        public int Needed { get; }
    }
}
