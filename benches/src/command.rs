//! The `machnet` command in a bench: sidecars, and the servers and clients of `machnet bench`, each a process of its own.
//!
//! They are started by way of a role of the bench, so that the kernel ends them when the bench ends, however it does.

use crate::roles::Role;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The role of a child that becomes the command.
pub const ROLE: &str = "machnet";

/// The command's file: `$MACHNET`, or the one beside this program.
fn program() -> io::Result<std::path::PathBuf> {
    match std::env::var_os("MACHNET") {
        Some(path) => Ok(path.into()),
        None => Ok(std::env::current_exe()?.with_file_name("machnet")),
    }
}

/// The child's part: `main` of a bench calls it in the role [`ROLE`]. Returns only why it could not.
pub fn become_command(arguments: &[String]) -> io::Error {
    let become_it = || -> io::Result<io::Error> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(Command::new(program()?).args(arguments).exec())
    };
    become_it().unwrap_or_else(|error| error)
}

/// Starts the command and waits for the first line that it says.
fn start(arguments: &[&str]) -> io::Result<(Role, String)> {
    let mut process = Role::start(ROLE, arguments, true)?;
    let line = process.line()?;
    if line.is_empty() {
        return Err(io::Error::other(format!("machnet {} ended without a word", arguments.join(" "))));
    }
    Ok((process, line))
}

/// A sidecar over UDP at an address of this machine.
#[derive(Debug)]
pub struct UdpSidecar {
    process: Role,
    socket: String,
}

impl UdpSidecar {
    /// Starts one; its socket is `NAME.sock` in `directory`.
    pub fn start(directory: &Path, name: &str, address: &str, udp_port: u16) -> io::Result<Self> {
        let socket = directory.join(format!("{name}.sock")).to_string_lossy().into_owned();
        let port = udp_port.to_string();
        let arguments =
            ["up", "--no-config", "--log-level", "error", "--socket", &socket, "--address", address];
        let (process, _) = start(&[&arguments[..], &["--udp-port", &port]].concat())?;
        Ok(Self { process, socket })
    }

    /// Its control socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Processor time that it used so far.
    pub fn processor_time(&self) -> io::Result<Duration> {
        processor_time(&self.process)
    }
}

/// A server of `machnet bench`, which returns every message.
#[derive(Debug)]
pub struct EchoServer {
    process: Role,
    address: SocketAddr,
}

impl EchoServer {
    /// Starts one on any free port; `arguments` say over what.
    pub fn start(arguments: &[&str]) -> io::Result<Self> {
        let (process, line) = start(&[&["bench", "server", "--json", "--port", "0"], arguments].concat())?;
        let said: Value = serde_json::from_str(&line)?;
        let address = said["serving"].as_str().and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| io::Error::other(format!("the server said {line}")))?;
        Ok(Self { process, address })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time that it used so far.
    pub fn processor_time(&self) -> io::Result<Duration> {
        processor_time(&self.process)
    }
}

/// What a client of `machnet bench` reports.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Answers a second.
    pub per_second: f64,
    /// 99.9 of 100 answers came within this time, in microseconds.
    pub p999_us: f64,
    /// Messages without an answer, and answers that were not what was sent.
    pub wrong: u64,
}

/// Runs a client of `machnet bench` to its end.
pub fn run_client(server: SocketAddr, arguments: &[&str]) -> io::Result<Report> {
    let server = server.to_string();
    let all = [&["bench", "client", &server, "--json"], arguments].concat();
    let output = Role::start(ROLE, &all, true)?.output()?;
    let report: Value = serde_json::from_str(&output)
        .map_err(|error| io::Error::other(format!("machnet {} said {output:?}: {error}", all.join(" "))))?;
    let number = |value: &Value| value.as_f64().ok_or_else(|| io::Error::other("the report lacks a number"));
    Ok(Report {
        per_second: number(&report["messages_per_second"])?,
        p999_us: number(&report["latency_us"]["p999"])?,
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
