//! What threads and processes use: processor time, and how often they went to sleep.

use std::io;

/// Processor time of one thread so far and its voluntary switches, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Nanoseconds on a processor.
    pub on_cpu_ns: u64,
    /// How often it gave the processor away because it had to wait.
    pub sleeps: u64,
}

impl Usage {
    /// Of a thread of this process, by its number ([`thread`]).
    pub fn of(thread: i32) -> io::Result<Self> {
        let directory = format!("/proc/self/task/{thread}");
        let schedule = std::fs::read_to_string(format!("{directory}/schedstat"))?;
        let status = std::fs::read_to_string(format!("{directory}/status"))?;
        let on_cpu_ns = schedule.split_whitespace().next().and_then(|word| word.parse().ok());
        let sleeps = field(&status, "voluntary_ctxt_switches:");
        match (on_cpu_ns, sleeps) {
            (Some(on_cpu_ns), Some(sleeps)) => Ok(Self { on_cpu_ns, sleeps }),
            _ => Err(io::Error::other("this kernel does not count what threads use (CONFIG_SCHED_INFO)")),
        }
    }

    /// What was used since an earlier look.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { on_cpu_ns: self.on_cpu_ns - before.on_cpu_ns, sleeps: self.sleeps - before.sleeps }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { on_cpu_ns: self.on_cpu_ns + other.on_cpu_ns, sleeps: self.sleeps + other.sleeps }
    }
}

/// The number of the calling thread.
pub fn thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The number behind a name in one of the kernel's tables, such as `VmRSS:` in `/proc/self/status`.
pub fn field(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
