using System;
using System.Threading;
using System.Threading.Tasks;
using System.Threading.Tasks.Sources;
using Machnet.Native;

namespace Machnet.Waiting
{
    /// <summary>A call that waits, for a task or for a thread. It is used again and again, by one call at a time, so that waiting allocates
    /// nothing.</summary>
    internal abstract class Operation<T> : Wait, IValueTaskSource<T>, IValueTaskSource
    {
        private static readonly Action<object?> OnCancelled = state => ((Operation<T>)state!).Cancel();

        private readonly Doorbell doorbell;
        private readonly Owner owner;
        private ManualResetValueTaskSourceCore<T> core;
        private NativeHandle? held;
        private CancellationToken token;
        private CancellationTokenRegistration registration;
        private Exception? error;
        private T result = default!;
        private bool isForThread;
        private bool isDone;

        protected Operation(Doorbell doorbell, Owner owner)
        {
            this.doorbell = doorbell;
            this.owner = owner;
            core.RunContinuationsAsynchronously = !doorbell.RunsInline;
        }

        /// <summary>Makes the call; its answer comes as a task.</summary>
        internal ValueTask<T> Go(Place place, NativeHandle handle, CancellationToken cancellation)
        {
            if (cancellation.IsCancellationRequested)
            {
                Recycle();
                return new ValueTask<T>(Task.FromCanceled<T>(cancellation));
            }
            try
            {
                Enter(handle);
                // Never before others who wait.
                return place.First is null && IsAnswered(0) ? new ValueTask<T>(TakeResult()) : Start(place, cancellation);
            }
            catch (Exception e)
            {
                return new ValueTask<T>(Task.FromException<T>(e));
            }
        }

        /// <summary>As Go, for those who want to know only that it is done.</summary>
        internal ValueTask GoPlain(Place place, NativeHandle handle, CancellationToken cancellation)
        {
            ValueTask<T> task = Go(place, handle, cancellation);
            return Plain(task);
        }

        /// <summary>For a caller who entered the handle and asked in vain.</summary>
        internal ValueTask<T> GoOn(Place place, NativeHandle entered, CancellationToken cancellation)
        {
            held = entered;
            try
            {
                return Start(place, cancellation);
            }
            catch (Exception e)
            {
                return new ValueTask<T>(Task.FromException<T>(e));
            }
        }

        /// <summary>As GoOn, for those who want to know only that it is done.</summary>
        internal ValueTask GoOnPlain(Place place, NativeHandle entered, CancellationToken cancellation) => Plain(GoOn(place, entered, cancellation));

        /// <summary>Makes the call, and waits for the answer with the calling thread: at most so many milliseconds, -1 being for ever. False if
        /// the time has passed. The memory that it uses may be pinned by the caller.</summary>
        internal bool Go(Place place, NativeHandle handle, int timeoutMilliseconds, out T answer)
        {
            Enter(handle);
            bool waitsInLibrary = doorbell.WaitsInLibrary;
            bool isAnswered = (waitsInLibrary || place.First is null) && IsAnswered(waitsInLibrary ? timeoutMilliseconds : 0);
            if (!isAnswered && !waitsInLibrary && timeoutMilliseconds != 0)
            {
                isForThread = true;
                isDone = false;
                isAnswered = Begin(place) || IsDoneWithin(timeoutMilliseconds);
            }
            if (!isAnswered)
            {
                Release();
                answer = default!;
                return false;
            }
            answer = TakeResult();
            return true;
        }

        internal sealed override bool Try()
        {
            try
            {
                int status = Ask(out T answer);
                return status != Library.WouldBlock && Conclude(status, answer);
            }
            catch (Exception e)
            {
                // Only what belongs to the caller can throw: its memory. The poller lives on.
                error = e;
                return true;
            }
        }

        internal sealed override void Fail(Exception cause) => error = cause;

        internal sealed override void Finish()
        {
            if (isForThread)
            {
                lock (this)
                {
                    isDone = true;
                    Monitor.Pulse(this);
                }
            }
            else if (error != null)
            {
                core.SetException(error);
            }
            else
            {
                core.SetResult(result);
            }
        }

        /// <summary>The call that does not wait and tells the doorbell: OK with an answer, WOULD_BLOCK, or why it failed.</summary>
        protected abstract int Ask(out T answer);

        /// <summary>The call that waits in the library, so many milliseconds: OK with an answer, TIMED_OUT, or why it failed.</summary>
        protected abstract int Await(int timeoutMilliseconds, out T answer);

        /// <summary>Forgets what belongs to the caller, and makes itself available.</summary>
        protected abstract void Recycle();

        /// <summary>The exception of a status, right after the call.</summary>
        protected virtual Exception Failure(int status) => owner.Failure(status);

        private void Enter(NativeHandle handle)
        {
            if (!handle.TryEnter())
            {
                Recycle();
                throw owner.Disposed();
            }
            held = handle;
        }

        /// <summary>Makes the call directly.</summary>
        private bool IsAnswered(int timeoutMilliseconds)
        {
            int status;
            T answer;
            try
            {
                // An event loop of the program's own wants to be rung for what is not there.
                status = timeoutMilliseconds == 0 && doorbell.IsForProgram ? Ask(out answer) : Await(timeoutMilliseconds, out answer);
            }
            catch
            {
                Release();
                throw;
            }
            return !Library.IsNothing(status) && Conclude(status, answer);
        }

        private bool Conclude(int status, T answer)
        {
            if (status == Library.Ok)
            {
                result = answer;
            }
            else
            {
                error = Failure(status);
            }
            return true;
        }

        private ValueTask<T> Start(Place place, CancellationToken cancellation)
        {
            if (Begin(place))
            {
                return new ValueTask<T>(TakeResult());
            }
            short version = core.Version;
            if (cancellation.CanBeCanceled)
            {
                token = cancellation;
                // The consumer has no task yet, so nobody uses the operation again before this is set.
                registration = cancellation.Register(OnCancelled, this);
            }
            return new ValueTask<T>(this, version);
        }

        private ValueTask Plain(ValueTask<T> task)
        {
            if (task.IsCompletedSuccessfully)
            {
                _ = task.Result;
                return default;
            }
            return task.IsCompleted ? new ValueTask(task.AsTask()) : new ValueTask(this, core.Version);
        }

        private bool Begin(Place place)
        {
            try
            {
                return doorbell.Begin(place, this, owner);
            }
            catch
            {
                Release();
                throw;
            }
        }

        private void Cancel()
        {
            if (doorbell.TryAbandon(this))
            {
                error = new OperationCanceledException(token);
                Finish();
            }
        }

        /// <summary>Waits with the calling thread; false if the time has passed, and then it waits no more.</summary>
        private bool IsDoneWithin(int timeoutMilliseconds)
        {
            int began = Environment.TickCount;
            lock (this)
            {
                while (!isDone)
                {
                    int left = timeoutMilliseconds < 0 ? Timeout.Infinite : timeoutMilliseconds - unchecked(Environment.TickCount - began);
                    if (timeoutMilliseconds >= 0 && left <= 0)
                    {
                        break;
                    }
                    Monitor.Wait(this, left);
                }
                if (isDone)
                {
                    return true;
                }
            }
            // Not under the own lock: who finishes it takes that behind the doorbell's.
            if (doorbell.TryAbandon(this))
            {
                return false;
            }
            lock (this)
            {
                while (!isDone)
                {
                    Monitor.Wait(this); // It has its answer: in a moment.
                }
            }
            return true;
        }

        private T TakeResult()
        {
            T answer = result;
            Exception? failure = error;
            Release();
            if (failure != null)
            {
                throw failure;
            }
            return answer;
        }

        private void Release()
        {
            NativeHandle? handle = held;
            held = null;
            result = default!;
            error = null;
            isForThread = false;
            Recycle();
            handle?.Exit();
        }

        private void TakeFromTask()
        {
            registration.Dispose(); // Waits for the callback, so that it never meets the operation's next use.
            registration = default;
            token = default;
            core.Reset();
        }

        T IValueTaskSource<T>.GetResult(short version)
        {
            core.GetStatus(version); // Refuses a task that was awaited before.
            if (core.GetStatus(version) == ValueTaskSourceStatus.Pending)
            {
                throw new InvalidOperationException("the call has no answer yet");
            }
            TakeFromTask();
            return TakeResult();
        }

        void IValueTaskSource.GetResult(short version) => ((IValueTaskSource<T>)this).GetResult(version);

        ValueTaskSourceStatus IValueTaskSource<T>.GetStatus(short version) => core.GetStatus(version);

        ValueTaskSourceStatus IValueTaskSource.GetStatus(short version) => core.GetStatus(version);

        void IValueTaskSource<T>.OnCompleted(Action<object?> continuation, object? state, short version, ValueTaskSourceOnCompletedFlags flags) =>
            core.OnCompleted(continuation, state, version, flags);

        void IValueTaskSource.OnCompleted(Action<object?> continuation, object? state, short version, ValueTaskSourceOnCompletedFlags flags) =>
            core.OnCompleted(continuation, state, version, flags);
    }
}
