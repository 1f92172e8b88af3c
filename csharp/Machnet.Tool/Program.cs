using System;
using System.IO;
using System.Runtime.InteropServices;

namespace Machnet.Tool
{
    /// <summary>Becomes the `machnet` binary of the package: the process is replaced, so that signals and exit codes are the sidecar's own.</summary>
    internal static class Program
    {
        private const int EveryoneMayRun = 0x1ed;

        private static int Main(string[] arguments)
        {
            string? binary = Binary();
            if (binary == null)
            {
                Console.Error.WriteLine(
                    "dotnet machnet: the package has no sidecar for " + RuntimeInformation.OSDescription + " on " + RuntimeInformation.ProcessArchitecture +
                    ", only for Linux on x64 and arm64; run it in a Linux container or virtual machine, or build it from Machnet's sources");
                return 1;
            }
            // Packages do not keep the right to run a file.
            _ = chmod(binary, EveryoneMayRun);
            var all = new string?[arguments.Length + 2];
            all[0] = binary;
            arguments.CopyTo(all, 1);
            execv(binary, all);
            Console.Error.WriteLine("dotnet machnet: " + binary + " cannot be run: errno " + Marshal.GetLastWin32Error());
            return 1;
        }

        /// <summary>The binary for this machine; null if the package has none.</summary>
        private static string? Binary()
        {
            if (!RuntimeInformation.IsOSPlatform(OSPlatform.Linux)) return null;
            string? name = RuntimeInformation.ProcessArchitecture switch
            {
                Architecture.X64 => "machnet",
                Architecture.Arm64 => Path.Combine("linux-arm64", "machnet"),
                _ => null,
            };
            string? path = name == null ? null : Path.Combine(AppContext.BaseDirectory, name);
            return File.Exists(path) ? path : null;
        }

        [DllImport("libc", SetLastError = true)]
        private static extern int chmod([MarshalAs(UnmanagedType.LPUTF8Str)] string path, uint mode);

        // LPStr is UTF-8 on Linux.
        [DllImport("libc", SetLastError = true)]
        private static extern int execv(
            [MarshalAs(UnmanagedType.LPUTF8Str)] string path,
            [MarshalAs(UnmanagedType.LPArray, ArraySubType = UnmanagedType.LPStr)] string?[] arguments);
    }
}
