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
            string platform = RuntimeInformation.OSDescription + " on " + RuntimeInformation.ProcessArchitecture;
            string folder = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? "linux-x64" : "linux-arm64";
            string binary = Path.Combine(AppContext.BaseDirectory, folder, "machnet");
            if (!RuntimeInformation.IsOSPlatform(OSPlatform.Linux))
            {
                Console.Error.WriteLine(
                    "dotnet machnet: the sidecar runs on Linux, and this is " + platform + "; run it in a Linux container, a virtual machine or WSL 2");
                return 1;
            }
            if (!File.Exists(binary))
            {
                Console.Error.WriteLine(
                    "dotnet machnet: the package has no sidecar for " + platform + "; build it from Machnet's sources: make install");
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

        [DllImport("libc", SetLastError = true)]
        private static extern int chmod([MarshalAs(UnmanagedType.LPUTF8Str)] string path, uint mode);

        // LPStr is UTF-8 on Linux.
        [DllImport("libc", SetLastError = true)]
        private static extern int execv(
            [MarshalAs(UnmanagedType.LPUTF8Str)] string path,
            [MarshalAs(UnmanagedType.LPArray, ArraySubType = UnmanagedType.LPStr)] string?[] arguments);
    }
}
