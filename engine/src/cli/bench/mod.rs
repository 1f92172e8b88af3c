//! `machnet bench`: latency and throughput between two hosts, over Machnet or, to compare, over the kernel's TCP and UDP.

mod client;
pub(crate) mod content;
mod kernel;
mod link;
mod load;
mod server;
pub(crate) mod summary;

use super::Outcome;
use super::peer::{AttachArguments, Wait};
use super::ping::seconds;
use clap::{Args, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::time::Duration;

/// The port of the bench server, the same over Machnet, TCP and UDP.
const DEFAULT_PORT: u16 = 5201;
/// The longest message of Machnet, in bytes.
const MAX_MESSAGE: usize = 8 << 20;
/// The longest UDP datagram over IPv4, in bytes: 65,535 less the headers of IP and UDP.
pub(crate) const MAX_UDP_MESSAGE: usize = 65_507;
/// Most connections of one client.
const MAX_CONNECTIONS: u64 = 256;

const EXAMPLES: &str = "\
Examples:
  machnet bench server                                 on one host
  machnet bench client 10.0.0.2                        on the other: 64 bytes, one at a time
  machnet bench client 10.0.0.2 --size 32k --window 8  throughput
  machnet bench client 10.0.0.2 --rate 10000           10,000 messages a second, come what may
  machnet bench server --over tcp                      the same over the kernel's TCP, and then
  machnet bench client 10.0.0.2 --over tcp             compare";

/// Measure latency and throughput between two hosts.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Return every message to the client that sent it.
    Server(ServerArguments),
    /// Send messages to a bench server and time the answers.
    Client(ClientArguments),
}

/// What carries the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Over {
    /// The sidecar of this host
    #[default]
    Machnet,
    /// The kernel's TCP, with TCP_NODELAY
    Tcp,
    /// The kernel's UDP, one message a datagram; what is lost stays lost
    Udp,
}

impl Over {
    fn name(self) -> &'static str {
        match self {
            Self::Machnet => "machnet",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What client and server have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// What carries the messages
    #[arg(long, value_enum, default_value_t)]
    over: Over,
    /// How to wait for messages; over tcp and udp, auto and yield mean block
    #[arg(long, value_enum, default_value_t)]
    wait: Wait,
    #[command(flatten)]
    attach: AttachArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServerArguments {
    /// Listen on this port; 0: any
    #[arg(short, long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Listen on this address [default: over machnet the sidecar's, else every address of this host]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// End when the first client has gone (not over udp, which does not tell)
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    /// The host of the bench server
    #[arg(value_name = "HOST[:PORT]")]
    peer: String,
    /// Bytes of a message, at most 8M; k and M stand for 1024 and 1024 k
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = message_size)]
    size: usize,
    /// Unanswered messages on each connection: the next one is sent when an answer comes
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = window, conflicts_with = "rate")]
    window: usize,
    /// Send so many messages a second on all connections together, whether answers come or not. Latency then counts from
    /// the time at which a message should have been sent, so a stall shows in all messages that it held up
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Connections at a time
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    connections: u64,
    /// Measure so many messages on each connection, for at most --seconds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Measure for so many seconds [default: 10; with --count no limit]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Seconds before the measurement that do not count
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    warm_up: Duration,
    /// Show a line of progress although standard error is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.side {
        Side::Server(arguments) => server::run(arguments),
        Side::Client(arguments) => client::run(arguments),
    }
}

/// A count of bytes such as `64`, `32k` or `8M`.
pub(crate) fn message_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1024),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let size: Option<usize> = digits.parse().ok().and_then(|count: usize| count.checked_mul(unit));
    size.filter(|size| (1..=MAX_MESSAGE).contains(size))
        .ok_or_else(|| "must be from 1 to 8M bytes, such as 64, 32k or 8M".to_owned())
}

fn window(text: &str) -> Result<usize, String> {
    let window: Option<usize> = text.parse().ok();
    window.filter(|window| (1..=65_536).contains(window)).ok_or_else(|| "must be from 1 to 65536".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.01..=100e6).contains(rate))
        .ok_or_else(|| "must be from 0.01 to 100000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_have_a_unit() {
        assert_eq!(message_size("64"), Ok(64));
        assert_eq!(message_size("32k"), Ok(32 * 1024));
        assert_eq!(message_size("8M"), Ok(8 << 20));
        for wrong in ["0", "9M", "", "k", "-1", "1G", "99999999999999999999k"] {
            assert!(message_size(wrong).is_err(), "{wrong}");
        }
    }
}
