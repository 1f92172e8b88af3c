//! `machnet demo`: Machnet beside the kernel's TCP and UDP on this machine, between real processes.

mod company;
mod compare;
mod family;
mod measure;
mod place;
mod plan;
mod report;
mod wires;

use super::{Outcome, say};
use clap::{Args, value_parser};
use machnet_engine::config::MAX_ENGINES;

const DETAILS: &str = "\
It starts two sidecars (on 127.0.0.1 and 127.0.0.2), a server attached to the second, a client
attached to the first, and the same pair over the kernel's TCP and UDP; measures round trips with
one message at a time (p50, p99) and throughput with eight; and prints one table. Where it may, it
does the same over AF_PACKET and AF_XDP, between two network namespaces that it makes, and over
DPDK's shared memory; what it may not it names, with the command that helps. It needs no network,
takes about half a minute, and leaves nothing behind.";

/// Measure Machnet beside the kernel's TCP and UDP, all on this machine.
#[derive(Debug, Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Arguments {
    /// Measure for about 8 seconds instead of 25; the numbers vary more
    #[arg(long)]
    quick: bool,
    /// Engines of each of the two sidecars
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=i64::from(MAX_ENGINES)))]
    engines: u32,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let plan = if arguments.quick { plan::QUICK } else { plan::FULL };
    let results = measure::measure(plan, arguments.engines)?;
    if arguments.json {
        say(report::json(&results));
    } else {
        say(report::text(&results).trim_end());
    }
    Ok(())
}
