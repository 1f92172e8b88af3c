//! Starts the demo's processes and measures each path and size in turn.

use super::company::Account;
use super::family::{Family, MemberId};
use super::place::{FIRST, Place, SECOND, free_udp_port};
use super::plan::{Cell, Found, Numbers, Path, Plan, Results, SIZES, THROUGHPUT_WINDOW};
use super::wires::Wire;
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
    servers: Vec<(Path, Server)>,
    /// Paths that cannot be had here, and why.
    absent: Vec<(Path, String)>,
    plan: Plan,
    /// Last, so that it goes after the processes that use it.
    place: Place,
}

/// Where a path's clients attach, if they do, and what they connect to.
#[derive(Clone)]
struct Server {
    socket: Option<String>,
    address: String,
}

/// Measures everything. Whatever happens, no process and no file stays.
pub(crate) fn measure(plan: Plan, engines: u32) -> Outcome<Results> {
    let started = clock::now();
    let account = Account::now();
    let mut progress = Progress::new();
    progress.show("starting the sidecars and a server for each path");
    let mut stage = Stage::set(plan, engines)?;
    progress.steps = (Path::ALL.len() - stage.absent.len()) * SIZES.len();
    let mut cells = Vec::new();
    // Size by size, so that whatever else this machine does meets neighbours in the table alike.
    for size in SIZES {
        for path in Path::ALL {
            if stage.is_absent(path) {
                continue;
            }
            progress.step(&format!("{} messages, {}", text::bytes(size), path.name()));
            let found = match path.excuse(size) {
                Some(reason) => Found::NotMeasured(reason),
                None => Found::Measured(stage.measure(path, size)?),
            };
            cells.push(Cell { path, size, found });
        }
    }
    progress.clear();
    let absent = std::mem::take(&mut stage.absent);
    drop(stage);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let took = clock::now().duration_since(started);
    // The stage's processes have ended, so the system knows what they used.
    let company = account.zip(Account::now()).map(|(before, after)| after.since(before, took));
    Ok(Results { cells, absent, engines, processors, company: company.unwrap_or_default(), took })
}

impl Stage {
    fn set(plan: Plan, engines: u32) -> Outcome<Self> {
        // The family watches for Ctrl-C before there is anything to clean up, and ends before its place does.
        let watched = Family::new()?;
        let place = Place::new()?;
        let mut family = watched;
        let (port, count) = (free_udp_port()?.to_string(), engines.to_string());
        let sockets = [place.socket(0), place.socket(1)];
        for ((socket, address), name) in
            sockets.iter().zip([FIRST, SECOND]).zip(["the first sidecar", "the second sidecar"])
        {
            let address = address.to_string();
            let arguments = ["up", "--no-config", "--log-level", "warn", "--socket", socket, "--address"];
            let arguments: Vec<&str> =
                arguments.into_iter().chain([&*address, "--udp-port", &port, "--engines", &count]).collect();
            let sidecar = family.start(name, &arguments)?;
            family.await_line(sidecar, PATIENCE)?;
        }
        let [first_socket, second_socket] = sockets;
        let servers = Vec::new();
        let mut stage = Self { family, first_socket, servers, absent: Vec::new(), plan, place };
        let second = SECOND.to_string();
        for path in Path::ALL {
            let (first_socket, arguments): (_, &[&str]) = match path {
                Path::Machnet => (Some(&stage.first_socket), &["--socket", &second_socket]),
                Path::SameHost => (Some(&stage.first_socket), &["--socket", &stage.first_socket]),
                Path::TcpBlocking => (None, &["--over", "tcp", "--address", &second]),
                Path::TcpSpinning => (None, &["--over", "tcp", "--wait", "spin", "--address", &second]),
                Path::Udp => (None, &["--over", "udp", "--address", &second]),
                Path::Packet | Path::Xdp | Path::Memif => continue,
            };
            let (socket, arguments) = (first_socket.cloned(), arguments.to_vec());
            let address = start_server(&mut stage.family, path, &arguments)?;
            stage.servers.push((path, Server { socket, address }));
        }
        for path in Path::WIRED {
            if let Err(reason) = stage.set_wired(path, engines)? {
                stage.absent.push((path, reason));
            }
        }
        Ok(stage)
    }

    /// Starts the two sidecars and the server of a path that has its own. The inner error says why this machine or user
    /// cannot have it.
    fn set_wired(&mut self, path: Path, engines: u32) -> Outcome<Result<(), String>> {
        let wire = match Wire::of(path, &self.place, engines) {
            Ok(wire) => wire,
            Err(reason) => return Ok(Err(reason)),
        };
        let sockets = [0, 1].map(|side| self.place.socket_of(path, side));
        let mut sidecars = Vec::new();
        for (side, socket) in sockets.iter().enumerate() {
            let own = wire.arguments(side);
            let mut arguments = vec!["up", "--no-config", "--log-level", "error", "--socket", socket];
            arguments.extend(own.iter().map(String::as_str));
            let name = format!("sidecar {} of {}", side + 1, path.name());
            let namespace = wire.namespace(side);
            sidecars.push(self.family.start_in(namespace, &name, &arguments)?);
        }
        // Both are started before either is waited for: the ends of a memif need each other.
        for &sidecar in &sidecars {
            if let Err(failure) = self.family.await_line(sidecar, PATIENCE) {
                if failure.exit == Exit::Interrupted {
                    return Err(failure);
                }
                for sidecar in sidecars {
                    self.family.dismiss(sidecar);
                }
                // The first line is ours, the second is the first that it said.
                let said = failure.text.lines().take(2).last().unwrap_or("").trim();
                return Ok(Err(said.strip_prefix("machnet: ").unwrap_or(said).to_owned()));
            }
        }
        let address = start_server(&mut self.family, path, &["--socket", &sockets[1]])?;
        let [socket, _] = sockets;
        self.servers.push((path, Server { socket: Some(socket), address }));
        Ok(Ok(()))
    }

    fn is_absent(&self, path: Path) -> bool {
        self.absent.iter().any(|(absent, _)| *absent == path)
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
        let server = self.servers.iter().find(|(of, _)| *of == path).map(|(_, server)| server.clone());
        let Server { socket, address } =
            server.ok_or_else(|| anyhow::anyhow!("there is no server for {}", path.name()))?;
        let (size, window) = (size.to_string(), window.to_string());
        let time_text = time.as_secs_f64().to_string();
        let warm_up = self.plan.warm_up.as_secs_f64().to_string();
        let mut arguments = vec!["bench", "client", &address, "--json", "--size", &size, "--window", &window];
        arguments.extend(["--seconds", &time_text, "--warm-up", &warm_up]);
        match path {
            Path::TcpBlocking => arguments.extend(["--over", "tcp"]),
            Path::TcpSpinning => arguments.extend(["--over", "tcp", "--wait", "spin"]),
            Path::Udp => arguments.extend(["--over", "udp"]),
            _ => arguments.extend(socket.iter().flat_map(|socket| ["--socket", socket])),
        }
        let name = format!("the client of {} at {} bytes", path.name(), size);
        let client: MemberId = self.family.start(&name, &arguments)?;
        let line = self.family.await_end(client, time + PATIENCE)?;
        serde_json::from_str(&line).map_err(|_| Failure::new(Exit::Failed, format!("{name} said {line:?}")))
    }
}

/// Starts the server of a path; answers where it serves.
fn start_server(family: &mut Family, path: Path, arguments: &[&str]) -> Outcome<String> {
    let name = format!("the server of {}", path.name());
    let arguments = [&["bench", "server", "--json", "--port", "0"], arguments].concat();
    let server = family.start(&name, &arguments)?;
    serving(&family.await_line(server, PATIENCE)?, &name)
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
    fn new() -> Self {
        Self { in_place: std::io::stderr().is_terminal(), step: 0, steps: 0 }
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
