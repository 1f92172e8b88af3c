using System;
using System.Collections.Generic;
using System.Text.Json;

namespace Machnet.Conformance
{
    /// <summary>The bytes of the suite, which sender and receiver make each for themselves.</summary>
    internal static class Contents
    {
        private const int TableBytes = 65_521;
        private static readonly byte[] Table = MakeTable();

        internal static byte[] Of(long seed, int length, long offset = 0)
        {
            var bytes = new byte[length];
            Fill(bytes, seed, offset);
            return bytes;
        }

        internal static void Fill(Span<byte> bytes, long seed, long offset)
        {
            var at = (int)((seed * 7919 + offset) % TableBytes);
            while (!bytes.IsEmpty)
            {
                int piece = Math.Min(bytes.Length, TableBytes - at);
                Table.AsSpan(at, piece).CopyTo(bytes);
                bytes = bytes.Slice(piece);
                at = 0;
            }
        }

        internal static bool Equal(ReadOnlySpan<byte> bytes, long seed, long offset = 0)
        {
            var at = (int)((seed * 7919 + offset) % TableBytes);
            while (!bytes.IsEmpty)
            {
                int piece = Math.Min(bytes.Length, TableBytes - at);
                if (!Table.AsSpan(at, piece).SequenceEqual(bytes.Slice(0, piece)))
                {
                    return false;
                }
                bytes = bytes.Slice(piece);
                at = 0;
            }
            return true;
        }

        private static byte[] MakeTable()
        {
            var table = new byte[TableBytes];
            uint x = 2463534242;
            for (int i = 0; i < TableBytes; i++)
            {
                x ^= x << 13;
                x ^= x >> 17;
                x ^= x << 5;
                table[i] = (byte)(x >> 24);
            }
            return table;
        }
    }

    /// <summary>Messages that carry their number.</summary>
    internal sealed class Series
    {
        private readonly long seed;
        private readonly List<int> lengths = new List<int>();

        internal Series(JsonElement command)
        {
            seed = command.GetProperty("seed").GetInt64();
            foreach (JsonElement length in command.GetProperty("lengths").EnumerateArray())
            {
                lengths.Add(length.GetInt32());
                Longest = Math.Max(Longest, length.GetInt32());
            }
            First = command.TryGetProperty("first", out JsonElement first) ? first.GetInt64() : 0;
            End = First + (command.TryGetProperty("count", out JsonElement count) ? count.GetInt64() : 0);
        }

        internal long First { get; }

        internal long End { get; }

        internal int Longest { get; }

        internal int Length(long number) => lengths[(int)(number % lengths.Count)];

        internal byte[] Message(long number)
        {
            var message = new byte[Length(number)];
            Write(message, number);
            return message;
        }

        internal void Write(Span<byte> message, long number)
        {
            BitConverter.TryWriteBytes(message, (uint)number);
            Contents.Fill(message.Slice(4), seed + number, 0);
        }

        internal bool Is(ReadOnlySpan<byte> message, long number) =>
            message.Length == Length(number) && BitConverter.ToUInt32(message) == number && Contents.Equal(message.Slice(4), seed + number);

        /// <summary>The number of a message; -1 if it is no right one.</summary>
        internal long NumberOf(ReadOnlySpan<byte> message)
        {
            if (message.Length < 4)
            {
                return -1;
            }
            long number = BitConverter.ToUInt32(message);
            return Is(message, number) ? number : -1;
        }
    }

    /// <summary>What a command has to answer, filled while it works.</summary>
    internal sealed class Answer : Dictionary<string, object>
    {
        internal Answer With(string name, object value)
        {
            this[name] = value;
            return this;
        }
    }
}
