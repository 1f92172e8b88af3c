//! The deterministic simulator of the protocol core.
//!
//! Two to eight hosts, and some hundreds in one kind of scenario, with one to sixteen engines (an `Endpoint` each) behind a
//! network card that only hashes, a network that loses, repeats, delays, reorders, corrupts and parts them,
//! applications that misbehave in every legal way, and a checker that believes nothing. A seed decides everything.
//!
//! ```text
//! cargo test -p machnet-engine --test sim                                  self-tests, replay, a few hundred seeds
//! cargo test -p machnet-engine --test sim -- --seeds 10000 --jobs 2        as many seeds, from SIM_SEED on
//! cargo test -p machnet-engine --test sim -- --seed 42 --trace             one seed, told in full
//! cargo test -p machnet-engine --test sim -- --list                        the kinds of scenarios
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test: numbers are small by construction, and a panic is a finding"
)]

mod apps;
mod content;
mod dice;
mod duty;
mod kinds;
mod machine;
mod monitor;
mod mutant;
mod network;
mod oracle;
mod pcap;
mod report;
mod runner;
mod scenario;
mod selftest;
mod spans;
mod tenancy;
mod trouble;
mod world;

use runner::Options;
use std::process::ExitCode;

/// Seeds that a plain `cargo test` runs.
const DEFAULT_SEEDS: u64 = 300;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("sim: {text}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for (name, _) in kinds::KINDS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    runner::quiet_panics();
    let good = if let Some(count) = options.seeds {
        runner::run_seeds(&options, count).is_ok()
    } else {
        selftest::run_all(&options) && {
            let wanted = options.filter.as_ref().is_none_or(|filter| "seeds".contains(filter.as_str()));
            !wanted || runner::run_seeds(&options, DEFAULT_SEEDS).is_ok()
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
