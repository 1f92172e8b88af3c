using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Machnet.Native
{
    /// <summary>What concerns the native library as a whole.</summary>
    internal static unsafe class Library
    {
        /// <summary>MACHNET_VERSION of the header that the declarations were written from.</summary>
        internal const uint HeaderVersion = 256;

        internal const int Ok = (int)MachnetStatus.Ok;
        internal const int WouldBlock = (int)MachnetStatus.WouldBlock;
        internal const int TimedOut = (int)MachnetStatus.TimedOut;

        /// <summary>Most messages of one call that sends or receives many.</summary>
        internal const int ManyMost = 256;

        /// <summary>Whether a call that does not wait found nothing.</summary>
        internal static bool IsNothing(int status) => status == TimedOut || status == WouldBlock;

        private static volatile bool isChecked;

        /// <summary>Throws what tells the user why there is no library, or not the right one.</summary>
        internal static void Check()
        {
            if (isChecked)
            {
                return;
            }
            Check(RuntimeInformation.IsOSPlatform(OSPlatform.Linux), RuntimeInformation.ProcessArchitecture, () => NativeMethods.machnet_version());
            isChecked = true;
        }

        /// <summary>The check itself, for a platform that a test may choose.</summary>
        internal static void Check(bool isLinux, Architecture architecture, Func<uint> version)
        {
            if (!isLinux)
            {
                throw Unsupported(
                    "Machnet attaches to a sidecar on the same Linux host, and this is " + RuntimeInformation.OSDescription +
                    ". Programs that use it can be built here; run them, and `machnet up`, on Linux: in a container, a virtual machine or WSL 2");
            }
            uint found;
            try
            {
                found = version();
            }
            catch (DllNotFoundException e)
            {
                throw Unsupported(
                    "libmachnet.so was not found for Linux on " + architecture + ": the package Machnet.Native brings it for x64; elsewhere " +
                    "build it (`make install` in Machnet's sources) and name its folder in LD_LIBRARY_PATH", e);
            }
            // Before 1.0 a minor version may break what the one before promised.
            if (found >> 8 != HeaderVersion >> 8)
            {
                throw new MachnetException(
                    MachnetError.Version,
                    "libmachnet.so has version " + VersionText(found) + ", and this assembly was made for " + VersionText(HeaderVersion) +
                    ": bring the packages Machnet and Machnet.Native to the same version");
            }
        }

        internal static string VersionText(uint version) => (version >> 16) + "." + (version >> 8 & 0xff) + "." + (version & 0xff);

        private static MachnetException Unsupported(string text, Exception? cause = null) =>
            new MachnetException(MachnetError.Io, text, new PlatformNotSupportedException(text, cause));

        internal static string LastErrorText() => TextAt(NativeMethods.machnet_last_error());

        internal static string TextOf(int status) => TextAt(NativeMethods.machnet_strerror(status));

        internal static string NameOf(int status) => TextAt(NativeMethods.machnet_error_name(status));

        internal static string TextAt(byte* text) => Marshal.PtrToStringUTF8((IntPtr)text) ?? "";

        /// <summary>UTF-8 with a zero byte behind it; null for null.</summary>
        internal static byte[]? TextIn(string? text, string name)
        {
            if (text is null)
            {
                return null;
            }
            if (text.IndexOf('\0') >= 0)
            {
                throw new ArgumentException("it holds a NUL character", name);
            }
            var bytes = new byte[Encoding.UTF8.GetByteCount(text) + 1];
            Encoding.UTF8.GetBytes(text, 0, text.Length, bytes, 0);
            return bytes;
        }
    }
}
