//! `machnet config`: check a file, or show the settings in effect.

use super::flags::ConfigFlags;
use super::{Outcome, complain, say, text};
use clap::{Args, Subcommand};
use machnet_engine::config::{Config, KEYS, Sources};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a configuration file: every name and every value.
    Check {
        /// The file, in TOML
        file: PathBuf,
    },
    /// Print the settings that `machnet up` would use, as a file, with the origin of each.
    Show(Box<ConfigFlags>),
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.action {
        Action::Check { file } => {
            // Whether the host has one address or several does not make a file right or wrong.
            let anywhere = |_: &Config| Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
            Sources::new().file(file)?.resolve(anywhere)?;
            say(format_args!("{}: good", file.display()));
        }
        Action::Show(flags) => show(flags)?,
    }
    Ok(())
}

fn show(flags: &ConfigFlags) -> Outcome {
    let effective = flags.resolve()?;
    for warning in &effective.warnings {
        complain(format_args!("machnet: {warning}"));
    }
    let lines: Vec<_> =
        KEYS.iter().map(|key| (format!("{} = {}", key.name, key.show(&effective.config)), key)).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(40);
    for (line, key) in &lines {
        let origin = match effective.origin(key) {
            _ if key.name == "address" && effective.address_was_found => "found: the only one".to_owned(),
            origin => origin.to_string(),
        };
        say(text::wrap(&format!("{line:<width$}  # {origin}"), usize::MAX, 0));
    }
    Ok(())
}
