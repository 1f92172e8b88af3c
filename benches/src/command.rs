//! The `machnet` command as a user starts it: sidecars, servers and clients in processes of their own.
//!
//! `main` of a bench that uses it calls [`become_machnet`] in the role [`ROLE`].

use crate::rig;
use crate::roles::Role;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The role of a child that becomes the command.
pub const ROLE: &str = "machnet";

/// The command: what `ci/bench.sh` names, else the one beside this program.
pub fn path() -> io::Result<PathBuf> {
    match std::env::var_os("MACHNET") {
        Some(path) => Ok(path.into()),
        None => Ok(std::env::current_exe()?.with_file_name("machnet")),
    }
}

/// Becomes `machnet ARGUMENTS`, which the kernel ends when the bench dies. Answers why it could not.
pub fn become_machnet(arguments: &[String]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    match path() {
        Ok(path) => Command::new(path).args(arguments).exec(),
        Err(error) => error,
    }
}

fn start(arguments: &[&str]) -> io::Result<Role> {
    Role::start(ROLE, arguments, true)
}

/// A sidecar, `machnet up` with the default settings, and its directory.
#[derive(Debug)]
pub struct Up {
    process: Role,
    directory: PathBuf,
}

impl Up {
    /// Starts one at an address and UDP port of this machine.
    pub fn start(address: &str, udp_port: u16, more: &[&str]) -> io::Result<Self> {
        let directory = rig::scratch_directory()?;
        let socket = directory.join("machnet.sock").to_string_lossy().into_owned();
        let port = udp_port.to_string();
        let arguments = ["up", "--no-config", "--log-level", "warn", "--socket", &socket];
        let place = ["--address", address, "--udp-port", &port];
        let mut process = start(&[&arguments[..], &place[..], more].concat())?;
        process.line()?; // It is up.
        Ok(Self { process, directory })
    }

    /// Where to attach.
    pub fn socket(&self) -> String {
        self.directory.join("machnet.sock").to_string_lossy().into_owned()
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

/// A `machnet bench server`.
#[derive(Debug)]
pub struct Server {
    /// Dropped, it ends.
    _process: Role,
    /// Where it serves.
    pub at: String,
}

impl Server {
    /// Starts one; `arguments` say what carries the messages.
    pub fn start(arguments: &[&str]) -> io::Result<Self> {
        let mut process = start(&[&["bench", "server", "--json", "--port", "0"], arguments].concat())?;
        let line = process.line()?;
        let serving: serde_json::Value = serde_json::from_str(&line)?;
        let at = serving["serving"].as_str().map(str::to_owned);
        let at = at.ok_or_else(|| io::Error::other(format!("a server said {line:?}")))?;
        Ok(Self { _process: process, at })
    }
}

/// What a `machnet bench client` found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Half of all round trips took at most so many microseconds.
    pub p50: f64,
    /// Ninety-nine of a hundred.
    pub p99: f64,
    /// Bytes there (and as many back) in a second, in millions.
    pub megabytes_per_second: f64,
}

/// Runs a `machnet bench client` against `at`.
pub fn client(at: &str, arguments: &[&str]) -> io::Result<Found> {
    let output = start(&[&["bench", "client", at, "--json"], arguments].concat())?.output()?;
    let report: serde_json::Value = serde_json::from_str(&output)?;
    let number = |value: &serde_json::Value| {
        value.as_f64().ok_or_else(|| io::Error::other(format!("a client said {output:?}")))
    };
    Ok(Found {
        p50: number(&report["latency_us"]["p50"])?,
        p99: number(&report["latency_us"]["p99"])?,
        megabytes_per_second: number(&report["megabytes_per_second"])?,
    })
}
