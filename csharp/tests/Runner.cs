using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Reflection;
using System.Threading;
using System.Threading.Tasks;

namespace Machnet.Tests
{
    /// <summary>Runs the tests: all public methods of the classes marked as tests. Arguments are parts of names; without any, all run.</summary>
    internal static class Runner
    {
        /// <summary>Only what hangs takes so long.</summary>
        internal static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

        private static int Main(string[] arguments)
        {
            List<MethodInfo> tests = typeof(Runner).Assembly.GetTypes()
                .Where(type => type.GetCustomAttribute<TestsAttribute>() != null)
                .SelectMany(type => type.GetMethods(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly))
                .Where(test => !test.IsSpecialName)
                .OrderBy(test => test.DeclaringType!.Name + "." + test.Name, StringComparer.Ordinal)
                .Where(test => arguments.Length == 0 || arguments.Any(part => (test.DeclaringType!.Name + "." + test.Name).Contains(part)))
                .ToList();
            if (tests.Count == 0)
            {
                Console.WriteLine("there is no such test");
                return 2;
            }
            try
            {
                Hosts.Start();
                int failed = tests.Count(test => !Passes(test));
                Console.WriteLine($"test result: {(failed == 0 ? "ok" : "FAILED")}. {tests.Count - failed} passed; {failed} failed");
                return failed == 0 ? 0 : 1;
            }
            finally
            {
                Sidecar.StopAll();
            }
        }

        private static bool Passes(MethodInfo test)
        {
            string name = test.DeclaringType!.Name + "." + test.Name;
            var watch = Stopwatch.StartNew();
            Exception? failure = null;
            // On a thread of its own, as a program's main thread would be: most tests block.
            var thread = new Thread(() =>
            {
                try
                {
                    object instance = Activator.CreateInstance(test.DeclaringType!)!;
                    if (test.Invoke(instance, null) is Task task)
                    {
                        task.GetAwaiter().GetResult();
                    }
                }
                catch (TargetInvocationException e)
                {
                    failure = e.InnerException;
                }
                catch (Exception e)
                {
                    failure = e;
                }
            }) { IsBackground = true };
            thread.Start();
            if (!thread.Join(Patience))
            {
                failure = new TimeoutException("it hangs");
            }
            Console.WriteLine($"test {name} ... {(failure is null ? "ok" : "FAILED")} ({watch.ElapsedMilliseconds} ms)");
            if (failure != null)
            {
                Console.WriteLine(failure);
            }
            return failure is null;
        }
    }

    /// <summary>Marks a class whose public methods are tests.</summary>
    [AttributeUsage(AttributeTargets.Class)]
    internal sealed class TestsAttribute : Attribute
    {
    }

    /// <summary>What a test demands.</summary>
    internal static class Check
    {
        internal static void That(bool holds, string what)
        {
            if (!holds)
            {
                throw new InvalidOperationException("not so: " + what);
            }
        }

        internal static void Equal<T>(T expected, T found, string what = "value")
        {
            if (!EqualityComparer<T>.Default.Equals(expected, found))
            {
                throw new InvalidOperationException($"{what}: expected {expected}, found {found}");
            }
        }

        internal static void Same(ReadOnlySpan<byte> expected, ReadOnlySpan<byte> found)
        {
            Equal(expected.Length, found.Length, "length");
            if (!expected.SequenceEqual(found))
            {
                throw new InvalidOperationException("the bytes differ");
            }
        }

        internal static T Throws<T>(Action action)
            where T : Exception
        {
            try
            {
                action();
            }
            catch (T e)
            {
                return e;
            }
            throw new InvalidOperationException("it did not throw " + typeof(T).Name);
        }

        internal static async Task<T> ThrowsAsync<T>(Func<Task> action)
            where T : Exception
        {
            try
            {
                await action();
            }
            catch (T e)
            {
                return e;
            }
            throw new InvalidOperationException("it did not throw " + typeof(T).Name);
        }

        internal static MachnetException Fails(MachnetError error, Action action)
        {
            MachnetException e = Throws<MachnetException>(action);
            Equal(error, e.Error, "error");
            return e;
        }

        internal static async Task<MachnetException> FailsAsync(MachnetError error, Func<Task> action)
        {
            MachnetException e = await ThrowsAsync<MachnetException>(action);
            Equal(error, e.Error, "error");
            return e;
        }
    }
}
