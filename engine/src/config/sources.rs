//! Where settings come from, which one wins, and what is said about a wrong one.

use super::keys::{AUTO, KEYS, Key};
use super::{Config, Cpus, is_root, network, pairs_needed};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Names in the environment that begin with `MACHNET_` and are no settings.
const OTHER_NAMES: [&str; 1] = ["MACHNET_CONFIG"];

/// Names from which a nearest one is offered only if it is at least this similar (Jaro-Winkler, 0 to 1).
const SIMILAR_ENOUGH: f64 = 0.75;

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody chose it.
    Default,
    /// The file, and the line in it, from 1.
    File(PathBuf, usize),
    /// The environment variable.
    Environment(String),
    /// The flag of the command.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A setting that cannot be used. The text names the setting, the value, where it stands and what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is no TOML.
    #[error("{} line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// There is no such setting.
    #[error("{origin}: unknown setting `{name}`{}", suggestion(nearest))]
    UnknownKey {
        /// The name as written.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// The setting that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value is not allowed.
    #[error("{origin}: {name} = {value:?} is not allowed: it must be {allowed}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// The value as written.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// `address = "auto"` and there is not exactly one candidate.
    #[error("{0}")]
    NoAddress(String),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; `machnet config show` lists all settings".to_owned(),
    }
}

/// Everything that may hold settings, not checked yet.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<(PathBuf, String)>,
    environment: Vec<(String, String)>,
    flags: Vec<(&'static str, String)>,
}

/// A checked configuration that remembers where each value comes from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    /// Whether the address was chosen and not written.
    pub address_was_found: bool,
    /// Oddities that stop nothing, in words.
    pub warnings: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Effective {
    /// Where the value of the setting comes from.
    pub fn origin(&self, key: &Key) -> Origin {
        self.origins.get(key.name).cloned().unwrap_or(Origin::Default)
    }
}

/// The files that are read when none is named: the first one that exists.
pub fn default_files() -> Vec<PathBuf> {
    let system = PathBuf::from("/etc/machnet/machnet.toml");
    if is_root() {
        return vec![system];
    }
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    home.map(|home| home.join("machnet/machnet.toml")).into_iter().chain([system]).collect()
}

impl Sources {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file that must exist.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
        Ok(self.file_text(path, text))
    }

    /// Adds the first of the [`default_files`] that exists, if one does.
    pub fn default_file(self) -> Result<Self, ConfigError> {
        match default_files().iter().find(|path| path.exists()) {
            Some(path) => self.file(path),
            None => Ok(self),
        }
    }

    /// Adds a file's text, read already.
    pub fn file_text(mut self, path: &Path, text: String) -> Self {
        self.file = Some((path.to_owned(), text));
        self
    }

    /// Adds the environment: pairs of name and value, of which only `MACHNET_*` count.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = variables.into_iter().filter(|(name, _)| name.starts_with("MACHNET_")).collect();
        self.environment.sort();
        self
    }

    /// Adds what was given as flags: pairs of a setting's name and its text.
    pub fn flags(mut self, flags: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.flags = flags.into_iter().collect();
        self
    }

    /// Checks everything and lets the strongest source win. `find_address` is asked when no address is chosen, with everything
    /// else that was.
    pub fn resolve(
        self,
        find_address: impl FnOnce(&Config) -> Result<IpAddr, ConfigError>,
    ) -> Result<Effective, ConfigError> {
        let mut builder = Builder::default();
        if let Some((path, text)) = &self.file {
            builder.apply_file(path, text)?;
        }
        for (name, value) in self.environment {
            builder.apply_environment(name, &value)?;
        }
        for (name, value) in self.flags {
            let key = Key::find(name);
            assert!(key.is_some(), "the flag {name} has no entry in KEYS");
            if let Some(key) = key {
                builder.apply(key, &value, Origin::Flag(key.flag()))?;
            }
        }
        builder.finish(find_address)
    }
}

#[derive(Default)]
struct Builder {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    warnings: Vec<String>,
    address_is_chosen: bool,
}

impl Builder {
    fn apply(&mut self, key: &'static Key, value: &str, origin: Origin) -> Result<(), ConfigError> {
        if !(key.set)(&mut self.config, value) {
            return Err(ConfigError::BadValue {
                name: key.name,
                value: value.to_owned(),
                origin,
                allowed: key.allowed,
            });
        }
        if key.name == "address" {
            self.address_is_chosen = value != AUTO;
        }
        self.origins.insert(key.name, origin);
        Ok(())
    }

    fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_at(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        })?;
        // The map is sorted by name; messages follow the order of the lines.
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let origin = Origin::File(path.to_owned(), line_at(text, name.span().start));
            let name = name.get_ref().as_ref();
            let Some(key) = Key::find(name) else {
                let nearest = nearest(name);
                return Err(ConfigError::UnknownKey { name: name.to_owned(), origin, nearest });
            };
            match text_of(value.get_ref()) {
                Some(value) => self.apply(key, &value, origin)?,
                None => {
                    let value = format!("a TOML {}", value.get_ref().type_str());
                    let (name, allowed) = (key.name, key.allowed);
                    return Err(ConfigError::BadValue { name, value, origin, allowed });
                }
            }
        }
        Ok(())
    }

    fn apply_environment(&mut self, variable: String, value: &str) -> Result<(), ConfigError> {
        if OTHER_NAMES.contains(&variable.as_str()) {
            return Ok(());
        }
        let name = variable.trim_start_matches("MACHNET_").to_lowercase();
        match Key::find(&name) {
            Some(key) => self.apply(key, value, Origin::Environment(variable)),
            None => {
                // Other programs may use the prefix, so this is no error.
                let hint = nearest(&name)
                    .and_then(Key::find)
                    .map_or_else(String::new, |key| format!("; did you mean {}?", key.environment()));
                self.warnings.push(format!("the environment variable {variable} is no setting{hint}"));
                Ok(())
            }
        }
    }

    fn finish(
        mut self,
        find_address: impl FnOnce(&Config) -> Result<IpAddr, ConfigError>,
    ) -> Result<Effective, ConfigError> {
        let config = &self.config;
        if config.keepalive_ms >= config.dead_after_ms {
            return Err(ConfigError::Contradiction(format!(
                "keepalive_ms = {} must be less than dead_after_ms = {}, or silent peers are given up although they live",
                config.keepalive_ms, config.dead_after_ms
            )));
        }
        // Who chooses the range has chosen the port that it begins with.
        if let Some(ports) = &config.udp_ports
            && !self.origins.contains_key("udp_port")
        {
            self.config.udp_port = *ports.start();
        }
        check_engines(&self.config).map_err(ConfigError::Contradiction)?;
        network::check(&self.config, self.address_is_chosen).map_err(ConfigError::Contradiction)?;
        self.warnings.extend(network::settings_without_effect(&self.config));
        if !self.address_is_chosen {
            self.config.address = find_address(&self.config)?;
        }
        Ok(Effective {
            config: self.config,
            address_was_found: !self.address_is_chosen,
            warnings: self.warnings,
            origins: self.origins,
        })
    }
}

/// What only makes sense together: engines, their ports and their processors.
fn check_engines(config: &Config) -> Result<(), String> {
    let Config { engines, udp_port, .. } = *config;
    if let Some(ports) = &config.udp_ports {
        let (first, last) = (*ports.start(), *ports.end());
        if first != udp_port {
            return Err(format!(
                "udp_ports = \"{first}-{last}\" must begin with udp_port = {udp_port}, which all engines send from, too"
            ));
        }
        let needed = u32::from(pairs_needed(engines)) * engines;
        if u32::from(last - first) + 1 < needed {
            return Err(format!(
                "udp_ports = \"{first}-{last}\" are too few for engines = {engines}: {needed} are needed, so that each \
                 engine finds a port from which it reaches the right one of {engines} others; such as \"{first}-{}\"",
                (u32::from(first) + needed - 1).min(65_535)
            ));
        }
    }
    match &config.cpus {
        Cpus::These(list) if list.len() != engines as usize => Err(format!(
            "cpus = {list:?} names {} processors for engines = {engines}: it must name one for each engine",
            list.len()
        )),
        _ => Ok(()),
    }
}

/// The setting whose name is most like `name`, if one is.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('-', "_");
    let likeness = |key: &&Key| strsim::jaro_winkler(&name, key.name);
    KEYS.iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|key| likeness(key) >= SIMILAR_ENOUGH)
        .map(|key| key.name)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

/// The text that the checks expect, or nothing for what is neither text nor integer nor boolean nor a list of such. A list becomes its
/// entries with commas between, as a flag would have it.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    if let Some(yes) = value.as_bool() {
        return Some(yes.to_string());
    }
    if let Some(list) = value.as_array() {
        let entries = list
            .iter()
            .map(|entry| entry.get_ref().as_array().is_none().then(|| text_of(entry.get_ref()))?);
        return entries.collect::<Option<Vec<_>>>().map(|entries| entries.join(","));
    }
    let integer = value.as_integer()?;
    match integer.radix() {
        8 => Some(format!("0o{}", integer.as_str())),
        10 => Some(integer.as_str().to_owned()),
        radix => i64::from_str_radix(integer.as_str(), radix).ok().map(|value| value.to_string()),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
