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

    /// <summary>Where calls of one kind on one flow or listener wait: first come, first served. Guarded by the doorbell.</summary>
    internal sealed class Place
    {
        /// <summary>Its index among the places of the doorbell at which somebody waits; -1: it is none.</summary>
        internal int Index = -1;

        /// <summary>The doorbell's round in which the library was last asked in vain from here; 0: never, or not since something was found.</summary>
        internal long VainRound;

        private volatile Wait? first;
        private Wait? last;

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
