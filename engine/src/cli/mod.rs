//! The `machnet` command: one file per subcommand, and what they share.

mod bench;
mod clock;
mod config;
mod demo;
mod drivers;
mod echo;
mod flags;
mod notify;
mod peer;
mod ping;
mod status;
mod sys;
mod text;
mod up;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the last line on standard error says why
  2  wrong usage or configuration
  3  no sidecar: nothing to attach to, no right to attach, or it ended meanwhile
  4  the other host or application does not answer, refuses, or is busy
  130  ended by Ctrl-C or another signal

Environment:
  MACHNET_SOCKET  the socket of the sidecar, as --socket
  MACHNET_CONFIG  the configuration file of `machnet up`, as --config";

const EXAMPLES: &str = "\
Examples:
  machnet demo                      measure it on this machine, nothing to set up
  machnet up                        start the sidecar of this host
  machnet ping 10.0.0.2             ask the sidecar of another host for an answer
  machnet status                    who is attached, and to whom they talk";

/// Fast messages between the servers of a network.
///
/// One sidecar (`machnet up`) runs on each host; applications attach to it and exchange whole messages with applications
/// on other hosts.
#[derive(Debug, Parser)]
#[command(name = "machnet", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(max_term_width = 100, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the sidecar of this host.
    Up(Box<up::Arguments>),
    /// Show what the sidecar does: applications, connections, counters.
    Status(status::Arguments),
    /// Ask a sidecar for answers and time them.
    Ping(ping::Arguments),
    /// Measure latency and throughput between two hosts.
    Bench(bench::Arguments),
    /// Measure Machnet beside the kernel's TCP and UDP, all on this machine.
    Demo(demo::Arguments),
    /// Check a configuration file, or show the settings in effect.
    Config(config::Arguments),
}

/// Why a subcommand ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

/// The exit codes other than 0, as `--help` lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NoSidecar = 3,
    Peer = 4,
    Interrupted = 130,
}

/// What subcommands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

impl From<machnet_engine::config::ConfigError> for Failure {
    fn from(error: machnet_engine::config::ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<machnet_client::Error> for Failure {
    fn from(error: machnet_client::Error) -> Self {
        use machnet_client::Error as E;
        let exit = match error {
            E::NoSidecar { .. }
            | E::SocketPermission { .. }
            | E::Version { .. }
            | E::AttachRefused { .. }
            | E::NoEngine { .. }
            | E::EngineLost => Exit::NoSidecar,
            E::ConnectTimedOut { .. } | E::Refused { .. } | E::Busy { .. } | E::ConnectFailed { .. } => {
                Exit::Peer
            }
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// Runs the command with the arguments of the process.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Ping(arguments) => ping::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(format_args!("machnet: {}", failure.text));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Writes a line to standard output at once. A reader that went away is no reason to fail.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub(crate) fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
