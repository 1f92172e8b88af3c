using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>One call that waits for its answer at a place.</summary>
    internal abstract class Wait
    {
        /// <summary>The one behind it at its place.</summary>
        internal Wait? Next;

        /// <summary>Where it waits; null: it does not. Guarded by the doorbell.</summary>
        internal Place? At;

        /// <summary>Makes the call, which does not wait; false if there is no answer yet. Under the doorbell's lock.</summary>
        internal abstract bool Try();

        /// <summary>Tells its caller that the answer is there. Outside of the lock, once.</summary>
        internal abstract void Finish();

        /// <summary>Makes an exception the answer. Under the doorbell's lock, instead of Try.</summary>
        internal abstract void Fail(System.Exception error);
    }

    /// <summary>What calls wait for: a flow, listener, stream, or a connect under way.</summary>
    internal sealed class Source
    {
        private readonly NativeHandle handle;

        internal Source(NativeHandle handle)
        {
            this.handle = handle;
            In = new Place(this);
            Out = new Place(this);
        }

        /// <summary>Where waits what receives, reads, accepts, or wants a connect's outcome.</summary>
        internal Place In { get; }

        /// <summary>Where waits what sends or writes.</summary>
        internal Place Out { get; }

        /// <summary>Its name in the news; 0: it has none.</summary>
        internal ulong Token { get; private set; }

        /// <summary>Sees to it that it has a name. Under the doorbell's lock, by a call that has entered the handle.</summary>
        internal void Name(Doorbell bell)
        {
            if (Token == 0)
            {
                Token = bell.NameOf(this);
                handle.SetToken(Token); // What is over already says so when it is tried.
            }
        }
    }

    /// <summary>Where calls of one kind wait: first come, first served. Guarded by the doorbell.</summary>
    internal sealed class Place
    {
        /// <summary>Its index among the places of the doorbell at which somebody waits; -1: it is none.</summary>
        internal int Index = -1;

        private volatile Wait? first;
        private Wait? last;

        internal Place(Source? source)
        {
            Source = source;
        }

        /// <summary>What is waited for; null: the channel.</summary>
        internal Source? Source { get; }

        /// <summary>Who is next. Null means also for those without the lock that nobody is to be served before them.</summary>
        internal Wait? First => first;

        internal void Add(Wait wait)
        {
            wait.At = this;
            wait.Next = null;
            if (last is null)
            {
                first = wait;
            }
            else
            {
                last.Next = wait;
            }
            last = wait;
        }

        internal void Remove(Wait wait)
        {
            wait.At = null;
            if (ReferenceEquals(first, wait))
            {
                first = wait.Next;
                if (first is null)
                {
                    last = null;
                }
            }
            else
            {
                Wait before = first!;
                while (!ReferenceEquals(before.Next, wait))
                {
                    before = before.Next!;
                }
                before.Next = wait.Next;
                if (ReferenceEquals(last, wait))
                {
                    last = before;
                }
            }
            wait.Next = null;
        }
    }
}
