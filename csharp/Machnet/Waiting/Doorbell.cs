using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;
using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>The calls that wait on a channel, and what wakes them.
    /// <para>The channel has one descriptor for all flows. When it is readable, the library tells by <c>machnet_channel_take_news</c> whom something
    /// came for, and only those calls are tried again. Other calls, of any thread and at any time, leave the descriptor and the news alone. A
    /// call that begins to wait is tried once more when its flow has a name here, so that nothing comes unnoticed in between.</para></summary>
    internal sealed unsafe class Doorbell
    {
        /// <summary>News that are taken with one call.</summary>
        private const int NewsAtOnce = 64;

        private readonly ChannelSafeHandle channel;

        /// <summary>Where somebody waits. Its lock guards everything here.</summary>
        private readonly List<Place> places = new List<Place>();

        /// <summary>What has a name.</summary>
        private readonly Dictionary<ulong, Source> sources = new Dictionary<ulong, Source>();
        private ulong lastToken;

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

        /// <summary>Where connects wait for a slot of the send ring.</summary>
        internal Place Connecting { get; } = new Place(null);

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
                place.Source?.Name(this);
                place.Add(wait);
                hasAnswer = ReferenceEquals(place.First, wait) && wait.Try();
                if (hasAnswer)
                {
                    place.Remove(wait);
                }
                else
                {
                    Enlist(place);
                    if (isLost)
                    {
                        FailTheLost(ref found);
                        hasAnswer = TakeOut(wait, ref found);
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
                    if (wasFirst)
                    {
                        AskAll(at, ref found); // The next was never asked, and may be content with less.
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
            bool isOver;
            lock (places)
            {
                isArmed = false;
                if (isClosed)
                {
                    return;
                }
                // Also what came before the hang-up.
                isOver = !TakeNews(ref found) || isHungUp;
                if (isOver)
                {
                    isLost = true;
                    FailTheLost(ref found);
                }
                Arm();
            }
            if (isOver)
            {
                lost?.TrySetResult(true);
            }
            FinishAll(found);
        }

        /// <summary>This program itself gave back room to send, of which no doorbell tells.</summary>
        internal void NoteRoom()
        {
            if (!isOn || isForProgram)
            {
                return;
            }
            Wait? found = null;
            lock (places)
            {
                if (!isClosed && !isLost && places.Count > 0)
                {
                    TakeNews(ref found); // If it is over, the poller is told, too.
                }
            }
            FinishAll(found);
        }

        /// <summary>Something is no more, or waited for nothing any more: its name is forgotten.</summary>
        internal void Forget(Source source)
        {
            lock (places)
            {
                sources.Remove(source.Token);
            }
        }

        /// <summary>A name for what something waits for from now on. Under the lock.</summary>
        internal ulong NameOf(Source source)
        {
            sources.Add(++lastToken, source);
            return lastToken;
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

        /// <summary>All who wait for something that this side has closed get the exception, and its name is forgotten.</summary>
        internal void Close(Source source, Func<Exception> error)
        {
            Wait? found = null;
            lock (places)
            {
                FailPlace(source.In, error, ref found);
                FailPlace(source.Out, error, ref found);
                sources.Remove(source.Token);
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
                // From the first time on, the news are listed. Nothing has a name yet.
                Wait? none = null;
                _ = TakeNews(ref none);
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

        /// <summary>Tries for one after another at a place, until in vain.</summary>
        private void AskAll(Place place, ref Wait? found)
        {
            while (place.First is Wait wait && wait.Try())
            {
                Leave(place, wait);
                Collect(wait, ref found);
            }
        }

        /// <summary>Tries for those to whom something came; false if the channel is over.</summary>
        private bool TakeNews(ref Wait? found)
        {
            MachnetNews* news = stackalloc MachnetNews[NewsAtOnce];
            UIntPtr count;
            do
            {
                count = UIntPtr.Zero;
                if (NativeMethods.machnet_channel_take_news(channel.Native, news, (UIntPtr)NewsAtOnce, &count) != Library.Ok)
                {
                    return false;
                }
                for (int i = 0; i < (int)count; i++)
                {
                    Tell(news[i], ref found);
                }
            }
            while ((int)count == NewsAtOnce);
            return true;
        }

        private void Tell(MachnetNews news, ref Wait? found)
        {
            const uint In = NativeMethods.MACHNET_NEWS_RECEIVE | NativeMethods.MACHNET_NEWS_ACCEPT | NativeMethods.MACHNET_NEWS_CONNECT;
            if ((news.events & NativeMethods.MACHNET_NEWS_CHANNEL) != 0)
            {
                AskAll(Connecting, ref found);
            }
            else if (sources.TryGetValue(news.token, out Source? source))
            {
                if ((news.events & (In | NativeMethods.MACHNET_NEWS_ENDED)) != 0)
                {
                    AskAll(source.In, ref found);
                }
                if ((news.events & (NativeMethods.MACHNET_NEWS_SEND | NativeMethods.MACHNET_NEWS_ENDED)) != 0)
                {
                    AskAll(source.Out, ref found);
                }
            }
        }

        /// <summary>The sidecar is gone: what came before is taken, and the others are told.</summary>
        private void FailTheLost(ref Wait? found)
        {
            // Downwards: a place that leaves is replaced by the last, which was asked.
            for (int i = places.Count - 1; i >= 0; i--)
            {
                AskAll(places[i], ref found);
            }
            while (places.Count > 0)
            {
                FailPlace(places[places.Count - 1], () => MachnetException.Of((int)MachnetError.EngineLost), ref found);
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
