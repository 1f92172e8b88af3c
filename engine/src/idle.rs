//! How an engine waits when it finds nothing to do: by the same rule as applications, [`machnet_client::waiting`].

pub use crate::config::IdlePolicy;
use machnet_client::WaitPolicy;
pub use machnet_client::waiting::{Step, Waiting};
use std::time::Duration;

/// Without anything for so long, an engine sleeps. An answer from a host of the same network comes sooner, and to be woken
/// for it would cost up to 50 us.
const PATIENCE: Duration = Duration::from_micros(500);

/// How an engine waits under this policy.
pub fn waiting(policy: IdlePolicy) -> Waiting {
    let policy = match policy {
        IdlePolicy::Auto => WaitPolicy::Auto,
        IdlePolicy::Spin => WaitPolicy::Spin,
        IdlePolicy::Yield => WaitPolicy::Yield,
        IdlePolicy::Block => WaitPolicy::Block,
    };
    Waiting::new(policy, PATIENCE, Waiting::cpus())
}
