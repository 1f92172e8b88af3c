//! How a blocking call waits.

/// How a blocking call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitPolicy {
    /// Spins briefly if there are CPUs for it, then yields, then sleeps on the doorbell.
    #[default]
    Auto,
    /// Never sleeps: for a thread with a CPU of its own.
    Spin,
    /// Gives the CPU away between looks, never sleeps.
    Yield,
    /// Sleeps on the doorbell at once.
    Block,
}
