//! What the subcommands that talk to a sidecar or a peer have in common.

use super::{Exit, Failure, Outcome};
use clap::{Args, ValueEnum};
use machnet_client::{AttachOptions, WaitPolicy};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Which sidecar to attach to, and how to wait.
#[derive(Clone, Debug, Args)]
pub(crate) struct AttachArguments {
    /// The socket of the sidecar; else $MACHNET_SOCKET, else the usual places
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

impl AttachArguments {
    /// Options for an attachment that `machnet status` shows as `name`.
    pub(crate) fn options(&self, name: &str) -> AttachOptions {
        let options = AttachOptions::new().name(name);
        match &self.socket {
            Some(socket) => options.socket(socket),
            None => options,
        }
    }
}

/// What to do while there is nothing to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Wait {
    /// Look on for as long as that helps, then sleep
    #[default]
    Auto,
    /// Never sleep: lowest latency, a whole core
    Spin,
    /// Never sleep, but let others run first
    Yield,
    /// Sleep at once
    Block,
}

impl Wait {
    pub(crate) fn policy(self) -> WaitPolicy {
        match self {
            Self::Auto => WaitPolicy::Auto,
            Self::Spin => WaitPolicy::Spin,
            Self::Yield => WaitPolicy::Yield,
            Self::Block => WaitPolicy::Block,
        }
    }
}

/// The address in `HOST` or `HOST:PORT`; an IPv4 address where the name has several.
pub(crate) fn resolve(text: &str, default_port: u16) -> Outcome<SocketAddr> {
    let with_port = || text.to_socket_addrs();
    let without_port = || (text, default_port).to_socket_addrs();
    let found = if text.contains(':') { with_port().or_else(|_| without_port()) } else { without_port() };
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| {
            Failure::new(Exit::Usage, format!("{text:?} is no address: write HOST or HOST:PORT ({error})"))
        })?
        .collect();
    let preferred = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    preferred.copied().ok_or_else(|| Failure::new(Exit::Usage, format!("{text:?} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port_or_get_the_default() {
        assert_eq!(resolve("10.0.0.2", 1).unwrap(), "10.0.0.2:1".parse().unwrap());
        assert_eq!(resolve("10.0.0.2:77", 1).unwrap(), "10.0.0.2:77".parse().unwrap());
        let failure = resolve("10.0.0.2:x", 1).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.text.contains("HOST:PORT"));
    }
}
