using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using Machnet.Native;

namespace Machnet.Tests
{
    /// <summary>The declarations against the table of ci/layout.sh, which $LAYOUT_TABLE names: what the C compiler makes of the header.</summary>
    [Tests]
    public sealed class LayoutTests
    {
        /// <summary>What only programs for the original C library use.</summary>
        private static readonly string[] ForOldPrograms =
        {
            "machnet_init", "machnet_attach", "machnet_listen", "machnet_connect", "machnet_send", "machnet_sendmsg", "machnet_sendmmsg",
            "machnet_recv", "machnet_recvmsg", "machnet_detach", "machnet_bind",
        };

        private static readonly Dictionary<string, Type> Structs = typeof(NativeMethods).Assembly.GetTypes()
            .Where(type => type.Namespace == "Machnet.Native" && type.IsValueType && !type.IsEnum && !type.IsNested && Fields(type).Any())
            .ToDictionary(type => type.Name);

        private static IEnumerable<string[]> Table(string kind)
        {
            string path = Environment.GetEnvironmentVariable("LAYOUT_TABLE")
                ?? throw new InvalidOperationException("LAYOUT_TABLE does not name the output of ci/layout.sh");
            List<string[]> lines = File.ReadLines(path).Select(line => line.Split(' ')).Where(words => words[0] == kind).ToList();
            Check.That(lines.Count > 0, "the table has lines of the kind " + kind);
            return lines;
        }

        public void StructsHaveTheSizesOfTheHeader()
        {
            var compared = new HashSet<string>();
            foreach (string[] words in Table("size"))
            {
                if (Structs.TryGetValue(Pascal(words[1]), out Type? type))
                {
                    Check.Equal(int.Parse(words[2]), Marshal.SizeOf(type), "size of " + words[1]);
                    compared.Add(type.Name);
                }
                else
                {
                    Check.Equal("MachnetMsgHdr", words[1], "a struct without a declaration");
                }
            }
            Check.Equal(Structs.Count, compared.Count, "structs compared");
            Check.That(compared.Count >= 6, "all structs");
        }

        public void FieldsHaveTheOffsetsOfTheHeader()
        {
            int compared = 0;
            foreach (string[] words in Table("offset"))
            {
                if (Structs.TryGetValue(Pascal(words[1]), out Type? type))
                {
                    Check.Equal(int.Parse(words[3]), (int)Marshal.OffsetOf(type, words[2]), words[1] + "." + words[2]);
                    compared++;
                }
            }
            Check.Equal(Structs.Values.Sum(type => Fields(type).Count()), compared, "fields compared");
        }

        public void ConstantsHaveTheValuesOfTheHeader()
        {
            int errors = 0;
            foreach (string[] words in Table("constant"))
            {
                string name = words[1];
                long value = long.Parse(words[2]);
                if (name.StartsWith("MACHNET_STATUS_", StringComparison.Ordinal))
                {
                    string status = Pascal(name.Substring("MACHNET_STATUS_".Length).ToLowerInvariant());
                    Check.Equal(value, (long)(MachnetStatus)Enum.Parse(typeof(MachnetStatus), status), name);
                    if (value != 0)
                    {
                        Check.Equal(value, (long)(MachnetError)Enum.Parse(typeof(MachnetError), status), name);
                        Check.Equal(status, Library.NameOf((int)value), name);
                        errors++;
                    }
                }
                else if (name == "MACHNET_MSG_MAX_LEN")
                {
                    Check.Equal(value, (long)Channel.MaxMessage, name);
                }
                else if (name == "MACHNET_VERSION")
                {
                    Check.Equal(value, (long)Library.HeaderVersion, name);
                }
                else
                {
                    FieldInfo constant = typeof(NativeMethods).GetField(name, BindingFlags.NonPublic | BindingFlags.Static)
                        ?? throw new InvalidOperationException("there is no " + name);
                    Check.Equal(value, (long)(uint)constant.GetRawConstantValue()!, name);
                }
            }
            Check.Equal(Enum.GetValues(typeof(MachnetError)).Length, errors, "errors");
        }

        public void EveryFunctionOfTheHeaderIsDeclaredAndThere()
        {
            IntPtr library = NativeLibrary.Load("machnet", typeof(NativeMethods).Assembly, null);
            foreach (string[] words in Table("function"))
            {
                Check.That(NativeLibrary.TryGetExport(library, words[1], out _), "the library has " + words[1]);
                bool isDeclared = typeof(NativeMethods).GetMethod(words[1], BindingFlags.NonPublic | BindingFlags.Static) != null;
                Check.Equal(!ForOldPrograms.Contains(words[1]), isDeclared, "declared: " + words[1]);
            }
        }

        private static IEnumerable<FieldInfo> Fields(Type type) => type.GetFields(BindingFlags.Public | BindingFlags.Instance);

        /// <summary>machnet_flow_stats_t is MachnetFlowStats.</summary>
        private static string Pascal(string name)
        {
            if (name.EndsWith("_t", StringComparison.Ordinal))
            {
                name = name.Substring(0, name.Length - 2);
            }
            return string.Concat(name.Split('_').Select(word => char.ToUpperInvariant(word[0]) + word.Substring(1)));
        }
    }
}
