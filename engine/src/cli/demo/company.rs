//! How much of the processors others took while the demo measured: numbers of a busy machine say little.

use crate::cli::sys;
use std::time::Duration;

/// Ticks of `/proc/stat` a second: part of the kernel's interface on all common machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processors' account at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// Seconds that all programs used.
    used: f64,
    /// Seconds that the machine below a virtual machine gave to others.
    stolen: f64,
    /// Seconds that the demo's own processes used, once they have ended.
    ours: f64,
}

/// Processors that others used on average.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Company {
    /// Programs of this machine.
    pub(crate) programs: f64,
    /// Other virtual machines.
    pub(crate) machines: f64,
}

impl Account {
    /// Now. Nothing, if the kernel does not tell.
    pub(crate) fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let (used, stolen) = parse(&stat)?;
        Some(Self { used, stolen, ours: sys::processor_time_of_family().as_secs_f64() })
    }

    /// Who else was there since `earlier`, `elapsed` ago.
    pub(crate) fn since(self, earlier: Self, elapsed: Duration) -> Company {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let others = (self.used - earlier.used) - (self.ours - earlier.ours);
        Company {
            programs: (others / seconds).max(0.0),
            machines: ((self.stolen - earlier.stolen) / seconds).max(0.0),
        }
    }
}

/// Seconds used by programs (user, nice, system; not by interrupts, which serve the demo as well) and stolen.
fn parse(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
    Some((at(0) + at(1) + at(2), at(7)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_the_processors_is_read() {
        let stat = "cpu  100 20 30 4000 5 6 7 80 9 0\ncpu0 1 2 3\n";
        assert_eq!(parse(stat), Some((1.5, 0.8)));
        assert_eq!(parse("something else"), None);
        let account = |used, stolen, ours| Account { used, stolen, ours };
        let company = account(30.0, 2.0, 9.0).since(account(10.0, 1.0, 1.0), Duration::from_secs(10));
        assert_eq!(company, Company { programs: 1.2, machines: 0.1 });
    }
}
