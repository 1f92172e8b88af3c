using System;
using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>What calls are made on: a channel, flow, listener or stream, and whether this side closed it.</summary>
    internal sealed class Owner
    {
        private readonly string name;
        private readonly Owner? parent;
        private volatile bool isClosed;

        internal Owner(string name, Owner? parent)
        {
            this.name = name;
            this.parent = parent;
        }

        internal bool IsClosed => isClosed || (parent != null && parent.IsClosed);

        /// <summary>Whether this side closed this, and not only what it is a part of.</summary>
        internal bool IsClosedItself => isClosed;

        internal void Close() => isClosed = true;

        /// <summary>The exception of calls on what this side closed.</summary>
        internal ObjectDisposedException Disposed()
        {
            string closed = parent != null && parent.IsClosed ? parent.name : name;
            return new ObjectDisposedException(name, "This side has closed the " + closed.ToLowerInvariant() + ".");
        }

        /// <summary>The exception of a status, right after the call.</summary>
        internal Exception Failure(int status)
        {
            if (status == (int)MachnetStatus.Closed && IsClosed)
            {
                return Disposed();
            }
            return MachnetException.OfLastCall(status);
        }
    }
}
