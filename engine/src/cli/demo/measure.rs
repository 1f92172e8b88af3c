//! Starts the demo's processes and measures each path and size in turn.

use super::company::Account;
use super::family::{Family, MemberId};
use super::place::{FIRST, Place, SECOND, free_udp_port};
use super::plan::{Cell, Found, Numbers, Path, Plan, Results, SIZES, THROUGHPUT_WINDOW};
use crate::cli::bench::summary::Report;
use crate::cli::{Exit, Failure, Outcome, clock, complain, text};
use std::io::{IsTerminal, Write};
use std::thread;
use std::time::Duration;

/// How long a process may take to start, and a client beyond what it measures.
const PATIENCE: Duration = Duration::from_secs(15);

/// The servers and where they are.
struct Stage {
    family: Family,
    first_socket: String,
    servers: Vec<(Path, String)>,
    plan: Plan,
    /// Last, so that it goes after the processes that use it.
    _place: Place,
}

/// Measures everything. Whatever happens, no process and no file stays.
pub(crate) fn measure(plan: Plan, engines: u32) -> Outcome<Results> {
    let started = clock::now();
    let account = Account::now();
    let mut progress = Progress::new(Path::ALL.len() * SIZES.len());
    progress.show("starting two sidecars and five servers");
    let mut stage = Stage::set(plan, engines)?;
    let mut cells = Vec::new();
    // Size by size, so that whatever else this machine does meets neighbours in the table alike.
    for size in SIZES {
        for path in Path::ALL {
            progress.step(&format!("{} messages, {}", text::bytes(size), path.name()));
            let found = match path.excuse(size) {
                Some(reason) => Found::NotMeasured(reason),
                None => Found::Measured(stage.measure(path, size)?),
            };
            cells.push(Cell { path, size, found });
        }
    }
    progress.clear();
    drop(stage);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let took = clock::now().duration_since(started);
    // The stage's processes have ended, so the system knows what they used.
    let company = account.zip(Account::now()).map(|(before, after)| after.since(before, took));
    Ok(Results { cells, engines, processors, company: company.unwrap_or_default(), took })
}

impl Stage {
    fn set(plan: Plan, engines: u32) -> Outcome<Self> {
        // The family watches for Ctrl-C before there is anything to clean up, and ends before its place does.
        let watched = Family::new()?;
        let place = Place::new()?;
        let mut family = watched;
        let (port, engines) = (free_udp_port()?.to_string(), engines.to_string());
        let sockets = [place.socket(0), place.socket(1)];
        for ((socket, address), name) in
            sockets.iter().zip([FIRST, SECOND]).zip(["the first sidecar", "the second sidecar"])
        {
            let address = address.to_string();
            let arguments = ["up", "--no-config", "--log-level", "warn", "--socket", socket, "--address"];
            let arguments: Vec<&str> = arguments
                .into_iter()
                .chain([&*address, "--udp-port", &port, "--engines", &engines])
                .collect();
            let sidecar = family.start(name, &arguments)?;
            family.await_line(sidecar, PATIENCE)?;
        }
        let mut servers = Vec::new();
        for path in Path::ALL {
            let name = format!("the server of {}", path.name());
            let second = SECOND.to_string();
            let arguments: &[&str] = match path {
                Path::Machnet => &["--socket", &sockets[1]],
                Path::SameHost => &["--socket", &sockets[0]],
                Path::TcpBlocking => &["--over", "tcp", "--address", &second],
                Path::TcpSpinning => &["--over", "tcp", "--wait", "spin", "--address", &second],
                Path::Udp => &["--over", "udp", "--address", &second],
            };
            let arguments = [&["bench", "server", "--json", "--port", "0"], arguments].concat();
            let server = family.start(&name, &arguments)?;
            servers.push((path, serving(&family.await_line(server, PATIENCE)?, &name)?));
        }
        let [first_socket, _] = sockets;
        Ok(Self { family, first_socket, servers, plan, _place: place })
    }

    fn measure(&mut self, path: Path, size: usize) -> Outcome<Numbers> {
        let alone = self.run_client(path, size, 1, self.plan.latency)?;
        let together = self.run_client(path, size, THROUGHPUT_WINDOW, self.plan.throughput)?;
        Ok(Numbers {
            latency_us: alone.latency_us,
            messages_per_second: together.messages_per_second,
            megabytes_per_second: together.megabytes_per_second,
            lost: alone.lost + together.lost,
        })
    }

    fn run_client(&mut self, path: Path, size: usize, window: usize, time: Duration) -> Outcome<Report> {
        let server = self.servers.iter().find(|(of, _)| *of == path).map(|(_, address)| address.clone());
        let server = server.ok_or_else(|| anyhow::anyhow!("there is no server for {}", path.name()))?;
        let (size, window) = (size.to_string(), window.to_string());
        let time_text = time.as_secs_f64().to_string();
        let warm_up = self.plan.warm_up.as_secs_f64().to_string();
        let mut arguments = vec!["bench", "client", &server, "--json", "--size", &size, "--window", &window];
        arguments.extend(["--seconds", &time_text, "--warm-up", &warm_up]);
        match path {
            Path::Machnet | Path::SameHost => arguments.extend(["--socket", &self.first_socket]),
            Path::TcpBlocking => arguments.extend(["--over", "tcp"]),
            Path::TcpSpinning => arguments.extend(["--over", "tcp", "--wait", "spin"]),
            Path::Udp => arguments.extend(["--over", "udp"]),
        }
        let name = format!("the client of {} at {} bytes", path.name(), size);
        let client: MemberId = self.family.start(&name, &arguments)?;
        let line = self.family.await_end(client, time + PATIENCE)?;
        serde_json::from_str(&line).map_err(|_| Failure::new(Exit::Failed, format!("{name} said {line:?}")))
    }
}

/// The address in a server's first line.
fn serving(line: &str, name: &str) -> Outcome<String> {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let address = value.as_ref().and_then(|value| value["serving"].as_str()).map(str::to_owned);
    address.ok_or_else(|| Failure::new(Exit::Failed, format!("{name} said {line:?}")))
}

/// What is going on, on standard error: on a terminal one line that changes, else one line for each step.
struct Progress {
    in_place: bool,
    step: usize,
    steps: usize,
}

impl Progress {
    fn new(steps: usize) -> Self {
        Self { in_place: std::io::stderr().is_terminal(), step: 0, steps }
    }

    fn step(&mut self, what: &str) {
        self.step += 1;
        self.show(&format!("[{:2}/{}] {what}", self.step, self.steps));
    }

    fn show(&self, line: &str) {
        if self.in_place {
            let _ = write!(std::io::stderr(), "\r{line:<70}");
        } else {
            complain(line);
        }
    }

    fn clear(&self) {
        if self.in_place {
            let _ = write!(std::io::stderr(), "\r{:<70}\r", "");
        }
    }
}

impl Drop for Progress {
    /// A failure's text begins on a clean line.
    fn drop(&mut self) {
        self.clear();
    }
}
