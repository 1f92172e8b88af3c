//! How an engine waits when it finds nothing to do: by the same rule as applications, [`machnet_client::waiting`].

pub use crate::config::IdlePolicy;
use machnet_client::WaitPolicy;
pub use machnet_client::waiting::{Step, Waiting};
use std::time::Duration;

/// Without anything for so long, an engine sleeps. An answer from a host of the same network comes sooner, and to be woken
/// for it would cost up to 50 us.
const PATIENCE: Duration = Duration::from_micros(500);

/// How one of so many engines on so many processors waits under this policy. Where there are more engines than processors,
/// none looks on without letting others run: they would stall each other.
pub fn waiting(policy: IdlePolicy, engines: usize, processors: usize) -> Waiting {
    let policy = match policy {
        IdlePolicy::Auto => WaitPolicy::Auto,
        IdlePolicy::Spin => WaitPolicy::Spin,
        IdlePolicy::Yield => WaitPolicy::Yield,
        IdlePolicy::Block => WaitPolicy::Block,
    };
    Waiting::new(policy, PATIENCE, if engines > processors { 1 } else { Waiting::cpus() })
}
