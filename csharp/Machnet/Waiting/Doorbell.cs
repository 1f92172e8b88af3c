using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>The calls that wait on a channel, and what wakes them.
    /// <para>The channel has one descriptor with the level-triggered rules of machnet_channel_event_fd: after a <c>try_</c> call that found
    /// nothing it is readable, or nothing has come. But one descriptor serves all flows, and the library keeps it readable for what
    /// came for one flow only until another has been asked in vain twice since. Hence two rules:</para>
    /// <para>1. <c>try_</c> calls are made only here, under the lock. All other calls use the waiting functions of the library with a timeout of
    /// 0, which find the same and tell the doorbell nothing.</para>
    /// <para>2. Between two calls from the same place all places are asked: a round. What was news for any of them is found in it.</para>
    /// <para>So a ring costs one call for each place at which somebody waits, and beginning to wait mostly costs one call in all.</para>
    /// </summary>
    internal sealed unsafe class Doorbell
    {
        /// <summary>Rounds after which a channel whose sidecar hung up must have said so on each call.</summary>
        private const int RoundsOfTheLost = 8;

        private readonly ChannelSafeHandle channel;
        private readonly List<Place> places = new List<Place>();

        /// <summary>Counts the rounds; from 1.</summary>
        private long round = 1;

        private Poller.Entry? entry;
        private volatile bool isOn;
        private bool isArmed;
        private bool isClosed;
        private bool isLost;
        private volatile bool isForProgram;
        private TaskCompletionSource<bool>? lost;

        internal Doorbell(ChannelSafeHandle channel, bool runsInline)
        {
            this.channel = channel;
            RunsInline = runsInline;
        }

        /// <summary>Whether what awaits an answer runs on the poller's thread.</summary>
        internal bool RunsInline { get; }

        /// <summary>Whether threads wait in the library, which is fast until something was awaited: then the channel is in its event mode, and
        /// a thread in the library looks only once in a millisecond.</summary>
        internal bool WaitsInLibrary => !isOn || isForProgram;

        /// <summary>Whether the program polls the descriptor itself, so that calls must tell the doorbell.</summary>
        internal bool IsForProgram => isForProgram;

        /// <summary>Lets a call wait at a place. True if it has its answer already, and then Finish is not called.</summary>
        internal bool Begin(Place place, Wait wait, Owner owner)
        {
            Wait? found = null;
            bool hasAnswer;
            lock (places)
            {
                if (isClosed || owner.IsClosed)
                {
                    throw owner.Disposed();
                }
                SwitchOn();
                place.Add(wait);
                hasAnswer = ReferenceEquals(place.First, wait) && (place.VainRound == round ? IsFoundInRound(wait, ref found) : Ask(place));
                if (hasAnswer)
                {
                    if (wait.At != null)
                    {
                        place.Remove(wait);
                    }
                }
                else
                {
                    Enlist(place);
                    if (isLost)
                    {
                        FailTheLost(ref found);
                        hasAnswer = wait.At is null && TakeOut(wait, ref found);
                    }
                }
                Arm();
            }
            FinishAll(found);
            return hasAnswer;
        }

        /// <summary>Ends a wait from outside; false if it has its answer.</summary>
        internal bool TryAbandon(Wait wait)
        {
            Wait? found = null;
            bool isAbandoned;
            lock (places)
            {
                Place? at = wait.At;
                isAbandoned = at != null;
                if (at != null)
                {
                    bool wasFirst = ReferenceEquals(at.First, wait);
                    Leave(at, wait);
                    if (wasFirst && at.First != null)
                    {
                        GoRound(ref found); // The next was never asked, and may be content with less.
                    }
                }
            }
            FinishAll(found);
            return isAbandoned;
        }

        /// <summary>The poller tells that something came, or that the sidecar hung up.</summary>
        internal void Ring(bool isHungUp)
        {
            Wait? found = null;
            lock (places)
            {
                isArmed = false;
                if (isClosed)
                {
                    return;
                }
                GoRound(ref found);
                if (isHungUp)
                {
                    isLost = true;
                    FailTheLost(ref found);
                }
                Arm();
            }
            if (isHungUp)
            {
                lost?.TrySetResult(true);
            }
            FinishAll(found);
        }

        /// <summary>Completes when the sidecar is gone.</summary>
        internal Task Lost
        {
            get
            {
                lock (places)
                {
                    lost ??= new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
                    try
                    {
                        if (!isClosed && !isLost)
                        {
                            SwitchOn();
                            Arm();
                        }
                    }
                    catch (EngineLostException)
                    {
                        isLost = true;
                    }
                    if (isLost)
                    {
                        lost.TrySetResult(true);
                    }
                    return lost.Task;
                }
            }
        }

        /// <summary>The descriptor, for a program that polls it itself. Nobody can wait through the doorbell then.</summary>
        internal int DescriptorForProgram(Owner owner)
        {
            lock (places)
            {
                if (isClosed)
                {
                    throw owner.Disposed();
                }
                if (entry != null)
                {
                    throw new InvalidOperationException(
                        "calls of this channel were awaited, so that its descriptor is Machnet's own; attach a channel for the program's event loop");
                }
                isForProgram = true;
                isOn = true;
                return Descriptor();
            }
        }

        /// <summary>All who wait at these places get the exception, now and later.</summary>
        internal void Close(Func<Exception> error, params Place[] closed)
        {
            Wait? found = null;
            lock (places)
            {
                foreach (Place place in closed)
                {
                    FailPlace(place, error, ref found);
                }
            }
            FinishAll(found);
        }

        /// <summary>All who wait get the exception, and nobody waits from now on.</summary>
        internal void CloseAll(Func<Exception> error)
        {
            Wait? found = null;
            lock (places)
            {
                isClosed = true;
                while (places.Count > 0)
                {
                    FailPlace(places[places.Count - 1], error, ref found);
                }
                if (entry != null)
                {
                    entry.Kept = null;
                    Poller.Forget(entry.Number);
                    channel.PollNumber = 0;
                }
            }
            FinishAll(found);
        }

        // ---- under the lock ----

        private int Descriptor()
        {
            int descriptor;
            int status = NativeMethods.machnet_channel_event_fd(channel.Native, &descriptor);
            return status == Library.Ok ? descriptor : throw MachnetException.OfLastCall(status);
        }

        private void SwitchOn()
        {
            if (isForProgram)
            {
                throw new InvalidOperationException(
                    "the program polls the descriptor of this channel itself, so nothing can be awaited on it: use the Try calls, or another channel");
            }
            if (entry is null)
            {
                entry = Poller.Add(this, Descriptor());
                channel.PollNumber = entry.Number;
                isOn = true;
            }
        }

        private void Arm()
        {
            if (entry is null)
            {
                return;
            }
            bool isAwaited = places.Count > 0;
            entry.Kept = isAwaited ? this : null;
            if (!isArmed && !isLost && (isAwaited || lost != null))
            {
                entry.Await(isAwaited ? Epoll.In : 0);
                isArmed = isAwaited;
            }
        }

        private void Enlist(Place place)
        {
            if (place.Index < 0)
            {
                place.Index = places.Count;
                places.Add(place);
            }
        }

        private void Leave(Place place, Wait wait)
        {
            bool wasFirst = ReferenceEquals(place.First, wait);
            place.Remove(wait);
            if (wasFirst && place.First is null && place.Index >= 0)
            {
                Place last = places[places.Count - 1];
                places[place.Index] = last;
                last.Index = place.Index;
                places.RemoveAt(places.Count - 1);
                place.Index = -1;
            }
        }

        /// <summary>Asks for the first at a place. Whatever it finds, it stays there.</summary>
        private bool Ask(Place place)
        {
            bool isFound = place.First!.Try();
            place.VainRound = isFound ? 0 : round;
            return isFound;
        }

        /// <summary>Asks for one after another at a place, until in vain.</summary>
        private void AskAll(Place place, ref Wait? found)
        {
            while (place.First is Wait wait && Ask(place))
            {
                Leave(place, wait);
                Collect(wait, ref found);
            }
        }

        private void GoRound(ref Wait? found)
        {
            round++;
            // Downwards: a place that leaves is replaced by the last, which was asked.
            for (int i = places.Count - 1; i >= 0; i--)
            {
                AskAll(places[i], ref found);
            }
        }

        /// <summary>A round for the sake of one that just began to wait, and is not to be finished if it found its answer.</summary>
        private bool IsFoundInRound(Wait wait, ref Wait? found)
        {
            Enlist(wait.At!);
            GoRound(ref found);
            return wait.At is null && TakeOut(wait, ref found);
        }

        /// <summary>The sidecar is gone: what came before was taken, and every call says EngineLost once the library has noticed.</summary>
        private void FailTheLost(ref Wait? found)
        {
            for (int i = 0; i < RoundsOfTheLost && places.Count > 0; i++)
            {
                GoRound(ref found);
            }
            if (places.Count > 0)
            {
                while (places.Count > 0)
                {
                    FailPlace(places[places.Count - 1], () => MachnetException.Of((int)MachnetError.EngineLost), ref found);
                }
            }
        }

        private void FailPlace(Place place, Func<Exception> error, ref Wait? found)
        {
            while (place.First is Wait wait)
            {
                Leave(place, wait);
                wait.Fail(error());
                Collect(wait, ref found);
            }
        }

        // ---- those who have their answer, in order, linked by Next ----

        private static void Collect(Wait wait, ref Wait? found)
        {
            wait.Next = null;
            if (found is null)
            {
                found = wait;
                return;
            }
            Wait last = found;
            while (last.Next != null)
            {
                last = last.Next;
            }
            last.Next = wait;
        }

        private static bool TakeOut(Wait wait, ref Wait? found)
        {
            if (ReferenceEquals(found, wait))
            {
                found = wait.Next;
            }
            else
            {
                for (Wait? before = found; before != null; before = before.Next)
                {
                    if (ReferenceEquals(before.Next, wait))
                    {
                        before.Next = wait.Next;
                        break;
                    }
                }
            }
            wait.Next = null;
            return true;
        }

        private static void FinishAll(Wait? found)
        {
            while (found != null)
            {
                Wait wait = found;
                found = wait.Next;
                wait.Next = null;
                wait.Finish();
            }
        }
    }
}
