using System.Threading;

namespace Machnet.Waiting
{
    /// <summary>Keeps one of a kind to be used again.</summary>
    internal sealed class Spare<T>
        where T : class
    {
        private T? kept;

        internal T? Take() => Interlocked.Exchange(ref kept, null);

        internal void Put(T one) => Volatile.Write(ref kept, one);
    }
}
