//! `machnet up`: the sidecar of this host.

use super::flags::ConfigFlags;
use super::notify::notify;
use super::sys::Signals;
use super::{Exit, Failure, Outcome, complain, drivers, echo, say};
use clap::Args;
use machnet_engine::config::{Config, LogFormat, source_ports};
use machnet_engine::sidecar::{Sidecar, StartError};
use std::thread;
use std::time::Duration;

const EXAMPLES: &str = "\
Every setting can be given as a flag, as an environment variable (MACHNET_ and its name in
capitals, such as MACHNET_UDP_PORT) or in a configuration file; that is also the order in which
they win. `machnet config show` prints all of them with their origin.

Examples:
  machnet up                          this host has one address
  machnet up --address 10.0.0.5       this host has several
  machnet up --engines 4 --pin        four engines, each on a processor of its own
  machnet up --driver packet --interface eth1
                                      frames past the kernel's network stack (CAP_NET_RAW)
  machnet up --list-drivers           the ways to the network, and what each needs
  machnet up --config machnet.toml    settings from a file

Ctrl-C or SIGTERM closes all connections in order; a second one ends at once.";

/// Start the sidecar of this host and run it until Ctrl-C or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    flags: ConfigFlags,
    /// Name the drivers of this program, what each needs and whether it is there, and start nothing
    #[arg(long)]
    list_drivers: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.list_drivers {
        drivers::list(arguments.flags.dpdk_plugin());
        return Ok(());
    }
    let effective = arguments.flags.resolve()?;
    let config = &effective.config;
    start_log(config);
    for warning in &effective.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals =
        Signals::install().map_err(|error| anyhow::anyhow!("cannot watch for signals: {error}"))?;

    let sidecar = Sidecar::start(config).map_err(explain)?;
    if let Some(port) = config.ping_port
        && let Err(failure) = echo::start(sidecar.socket(), port)
    {
        tracing::warn!("`machnet ping` will not be answered: {}", failure.text);
    }
    announce(config, &sidecar);
    notify("READY=1");

    let signal = signals.wait().map_err(|error| anyhow::anyhow!("cannot wait for signals: {error}"))?;
    tracing::info!("{signal}: closing all connections in order; a second signal ends at once");
    notify("STOPPING=1");
    end_at_once_on_second(signals);
    sidecar.shutdown(Duration::from_millis(config.linger_ms.into()));
    tracing::info!("the sidecar has ended");
    Ok(())
}

/// One line of where it listens, and the line to try next.
fn announce(config: &Config, sidecar: &Sidecar) {
    let address = sidecar.local_address();
    let engines =
        if config.engines == 1 { "1 engine".to_owned() } else { format!("{} engines", config.engines) };
    say(format_args!(
        "machnet is up: socket {}, address {address}, driver {}, {engines}, idle policy {}",
        sidecar.socket().display(),
        config.driver.name(),
        config.idle.name(),
    ));
    if config.ping_port.is_some() && !address.ip().is_loopback() {
        say(format_args!(
            "try next, on another host where `machnet up` runs: machnet ping {}   ({} must be open both ways)",
            address.ip(),
            ports(config, address.port())
        ));
    } else if config.ping_port.is_some() {
        say(format_args!("try next: machnet ping {} --socket {}", address.ip(), sidecar.socket().display()));
    }
    tracing::info!("driver {}: {}", config.driver.name(), drivers::about(config.driver));
}

/// The ports that a firewall has to know.
fn ports(config: &Config, port: u16) -> String {
    if config.engines == 1 {
        return format!("UDP port {port}");
    }
    let all = source_ports(config.udp_ports.as_ref(), port, config.engines);
    format!("UDP ports {}-{}", all.start(), all.end())
}

fn end_at_once_on_second(mut signals: Signals) {
    let watch = move || {
        if let Ok(signal) = signals.wait() {
            complain(format_args!("machnet: second signal ({signal}): ending at once"));
            std::process::exit(Exit::Interrupted as i32);
        }
    };
    // Without the thread a second signal does nothing; the first one is still obeyed.
    let _ = thread::Builder::new().name("second-signal".to_owned()).spawn(watch);
}

fn explain(error: StartError) -> Failure {
    let exit = if matches!(error, StartError::Config(..)) { Exit::Usage } else { Exit::Failed };
    Failure::new(exit, format!("cannot start the sidecar: {error}"))
}

/// Logs go to standard error, so that standard output stays for the line of where it listens.
fn start_log(config: &Config) {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(EnvFilter::new(config.log_level.name()));
    // A log that is there already (there is none) would stay.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Plain => builder.without_time().try_init(),
    };
}
