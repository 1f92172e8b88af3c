//! Processors and the clock.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The processors that this process may use, as they were at the first call: a thread that was kept on one of them since
/// sees them all. Threads and processes that a kept one starts are kept with it, so call this before.
pub fn available() -> Vec<usize> {
    static AVAILABLE: OnceLock<Vec<usize>> = OnceLock::new();
    AVAILABLE
        .get_or_init(|| match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
            Err(_) => vec![0],
        })
        .clone()
}

/// Keeps the calling thread on the `index`-th of the processors that the process may use, counted round.
pub fn pin(cpus: &[usize], index: usize) {
    let mut set = CpuSet::new();
    set.set(cpus[index % cpus.len()]);
    if let Err(error) = sched_setaffinity(None, &set) {
        println!("cannot keep a thread on processor {}: {error}", cpus[index % cpus.len()]);
    }
}

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// How long something took, with what it answered.
pub fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = now();
    let outcome = run();
    (start.elapsed(), outcome)
}

/// Processor time that a process has used, all threads together, to the nanosecond.
pub fn time_of(pid: u32) -> std::io::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        nanos += first.ok_or_else(|| std::io::Error::other("the kernel does not tell a thread's time"))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Keeps all threads of a process on the `index`-th of the processors that this one may use, counted round.
pub fn pin_process(pid: u32, cpus: &[usize], index: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpus[index % cpus.len()]);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let number = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        sched_setaffinity(number, &set)?;
    }
    Ok(())
}
