//! The `machnet` command as a user starts it: sidecars, servers and clients in processes of their own.
//!
//! `main` of a bench that uses it calls [`become_machnet`] in the role [`ROLE`].

use crate::place::Place;
use crate::rig;
use crate::roles::Role;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

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

fn start(place: &Place, arguments: &[&str]) -> io::Result<Role> {
    Role::start_at(place, ROLE, arguments, true)
}

/// A sidecar, `machnet up` with the default settings, and its directory.
#[derive(Debug)]
pub struct Up {
    process: Role,
    socket: String,
    directory: PathBuf,
}

impl Up {
    /// Starts one at an address and UDP port of this machine.
    pub fn start(address: &str, udp_port: u16, more: &[&str]) -> io::Result<Self> {
        Self::start_at(&Place::default(), address, udp_port, more)
    }

    /// As [`Self::start`], somewhere else. The error of one that does not start is what it said.
    pub fn start_at(place: &Place, address: &str, udp_port: u16, more: &[&str]) -> io::Result<Self> {
        let directory = rig::scratch_directory()?;
        let socket = directory.join("machnet.sock").to_string_lossy().into_owned();
        let port = udp_port.to_string();
        let arguments = ["up", "--no-config", "--log-level", "warn", "--socket", &socket];
        let network = ["--address", address, "--udp-port", &port];
        let errors = directory.join("errors");
        let place = Place { errors: Some(errors.clone()), ..place.clone() };
        let mut process = start(&place, &[&arguments[..], &network[..], more].concat())?;
        if let Err(error) = process.line() {
            let said = std::fs::read_to_string(errors).unwrap_or_default();
            let said = said.lines().last().map_or_else(|| error.to_string(), str::to_owned);
            let _: io::Result<()> = std::fs::remove_dir_all(&directory);
            return Err(io::Error::other(said));
        }
        Ok(Self { process, socket, directory })
    }

    /// Where to attach.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Processor time that it used so far.
    pub fn processor_time(&self) -> io::Result<Duration> {
        processor_time(&self.process)
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
    process: Role,
    /// Where it serves.
    pub at: SocketAddr,
}

impl Server {
    /// Starts one; `arguments` say what carries the messages.
    pub fn start(arguments: &[&str]) -> io::Result<Self> {
        Self::start_at(&Place::default(), arguments)
    }

    /// As [`Self::start`], somewhere else.
    pub fn start_at(place: &Place, arguments: &[&str]) -> io::Result<Self> {
        let arguments = [&["bench", "server", "--json", "--port", "0"], arguments].concat();
        let mut process = start(place, &arguments)?;
        let line = process.line()?;
        let serving: serde_json::Value = serde_json::from_str(&line)?;
        let at = serving["serving"].as_str().and_then(|at| at.parse().ok());
        let at = at.ok_or_else(|| io::Error::other(format!("a server said {line:?}")))?;
        Ok(Self { process, at })
    }

    /// Processor time that it used so far.
    pub fn processor_time(&self) -> io::Result<Duration> {
        processor_time(&self.process)
    }
}

/// What a `machnet bench client` found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Half of all round trips took at most so many microseconds.
    pub p50: f64,
    /// Ninety-nine of a hundred.
    pub p99: f64,
    /// Nine hundred and ninety-nine of a thousand.
    pub p999: f64,
    /// Answers a second.
    pub per_second: f64,
    /// Bytes there (and as many back) in a second, in millions.
    pub megabytes_per_second: f64,
    /// Messages without an answer, and answers that were not what was sent.
    pub wrong: u64,
}

/// Runs a `machnet bench client` against `at`.
pub fn client(at: SocketAddr, arguments: &[&str]) -> io::Result<Found> {
    Client::start_at(&Place::default(), at, arguments)?.found()
}

/// A `machnet bench client` that runs.
#[derive(Debug)]
pub struct Client(Role);

impl Client {
    /// Starts one against `at`.
    pub fn start_at(place: &Place, at: SocketAddr, arguments: &[&str]) -> io::Result<Self> {
        let at = at.to_string();
        Ok(Self(start(place, &[&["bench", "client", &at, "--json"], arguments].concat())?))
    }

    /// Waits for its end, and answers what it found.
    pub fn found(self) -> io::Result<Found> {
        parse_report(&self.0.output()?)
    }
}

fn parse_report(output: &str) -> io::Result<Found> {
    let report: serde_json::Value = serde_json::from_str(output)
        .map_err(|error| io::Error::other(format!("a client said {output:?}: {error}")))?;
    let number = |value: &serde_json::Value| {
        value.as_f64().ok_or_else(|| io::Error::other(format!("a client said {output:?}")))
    };
    Ok(Found {
        p50: number(&report["latency_us"]["p50"])?,
        p99: number(&report["latency_us"]["p99"])?,
        p999: number(&report["latency_us"]["p999"])?,
        per_second: number(&report["messages_per_second"])?,
        megabytes_per_second: number(&report["megabytes_per_second"])?,
        wrong: report["lost"].as_u64().unwrap_or(0) + report["damaged"].as_u64().unwrap_or(0),
    })
}

/// Processor time of all threads of a process so far, by the scheduler's count of nanoseconds.
fn processor_time(process: &Role) -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        let Ok(schedule) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue; // The thread ended meanwhile.
        };
        nanos += schedule.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Processor time of this process and of all its children that have ended, in the kernel's ticks of 10 ms.
pub fn own_processor_time() -> io::Result<Duration> {
    /// Ticks a second that the kernel shows in /proc on every architecture that Rust's standard library runs on.
    const TICKS: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    // Of proc(5): utime, stime, cutime, cstime are fields 14 to 17; the first behind the name is number 3.
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}
