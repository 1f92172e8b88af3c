using System;
using System.Globalization;
using System.Net;
using System.Threading;
using Machnet.Native;

namespace Machnet
{
    /// <summary>Addresses and times as .NET has them, and as the library has them.</summary>
    internal static unsafe class Addresses
    {
        internal static IPEndPoint Of(MachnetAddress native)
        {
            var bytes = new ReadOnlySpan<byte>(native.bytes, native.ip_version == 4 ? 4 : 16);
            return new IPEndPoint(new IPAddress(bytes), native.port);
        }

        /// <summary>"10.0.0.5:888", "[::1]:888" or, for the sidecar's own address, ":888".</summary>
        internal static IPEndPoint Parse(string text, string name)
        {
            if (text is null)
            {
                throw new ArgumentNullException(name);
            }
            int colon = text.LastIndexOf(':');
            if (colon >= 0 && ushort.TryParse(text.Substring(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort port))
            {
                string host = text.Substring(0, colon);
                if (host.Length == 0)
                {
                    return new IPEndPoint(IPAddress.Any, port);
                }
                bool isBracketed = host.StartsWith("[", StringComparison.Ordinal) && host.EndsWith("]", StringComparison.Ordinal);
                bool hasColon = host.IndexOf(':') >= 0;
                if (isBracketed == hasColon && IPAddress.TryParse(isBracketed ? host.Substring(1, host.Length - 2) : host, out IPAddress? address))
                {
                    return new IPEndPoint(address, port);
                }
            }
            throw new ArgumentException("\"" + text + "\" is no address such as 10.0.0.5:888, [fd00::5]:888 or :888", name);
        }

        /// <summary>Whole milliseconds, rounded up; -1 is for ever.</summary>
        internal static int Milliseconds(TimeSpan? timeout)
        {
            if (!(timeout is TimeSpan time) || time == Timeout.InfiniteTimeSpan)
            {
                return -1;
            }
            if (time < TimeSpan.Zero)
            {
                throw new ArgumentOutOfRangeException(nameof(timeout), "a timeout is not negative, but for Timeout.InfiniteTimeSpan");
            }
            double milliseconds = Math.Ceiling(time.TotalMilliseconds);
            return milliseconds >= int.MaxValue ? int.MaxValue : (int)milliseconds;
        }
    }
}
