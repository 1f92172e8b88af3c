//! A whole sidecar inside a process: its control socket, its controller, its engines.

use crate::clock::Clock;
use crate::config::{Config, Cpus, DriverKind, IdlePolicy};
use crate::controller::{self, Controller, SocketFile, SocketFileError};
use crate::driver::udp::{OpenError, UdpConfig, UdpDriver, UdpGroup};
use crate::driver::{Driver, dpdk, packet, xdp};
use crate::idle::{self, Waiting};
use crate::mailbox::{Command, Notice, Receiver, Sender, mailbox};
use crate::neighbours;
use crate::proto::time::Duration;
use crate::status::Status;
use crate::sys;
use crate::worker::{self, Worker};
use machnet_client::socket::SeqpacketListener;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Bytes of the IP and UDP headers: what the MTU has beyond a datagram.
const fn header_bytes(address: &SocketAddr) -> u32 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// Why a sidecar was not started. The texts say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A sidecar listens there already.
    #[error("another sidecar already listens on {}; attach to it, stop it, or choose another --socket", path.display())]
    SocketInUse {
        /// The control socket.
        path: PathBuf,
    },
    /// The control socket cannot be made for lack of rights.
    #[error("no permission to make the control socket {}: {source}; choose one in a directory of yours with --socket", path.display())]
    SocketPermission {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The network path cannot be opened.
    #[error(transparent)]
    Driver(#[from] OpenError),
    /// The packet socket cannot be opened.
    #[error(transparent)]
    Packet(#[from] packet::OpenError),
    /// The network path of driver xdp cannot be opened.
    #[error(transparent)]
    Xdp(#[from] xdp::OpenError),
    /// The device of driver dpdk cannot be opened.
    #[error(transparent)]
    Dpdk(#[from] dpdk::OpenError),
    /// A setting cannot be followed.
    #[error("{0}")]
    Config(String),
    /// Something else that the system refused.
    #[error("{doing}: {source}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<SocketFileError> for StartError {
    fn from(error: SocketFileError) -> Self {
        match error {
            SocketFileError::InUse { path } => Self::SocketInUse { path },
            SocketFileError::Permission { path, source } => Self::SocketPermission { path, source },
            SocketFileError::NoGroup { .. } => Self::Config(format!("{error} (socket_group)")),
            SocketFileError::Io { ref path, .. } => {
                let text = format!("{error}; choose another --socket than {}", path.display());
                Self::Config(text)
            }
        }
    }
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Io { doing, source }
}

/// A running sidecar. Dropping it ends it at once: its applications see their channels hang up.
#[derive(Debug)]
pub struct Sidecar {
    socket: PathBuf,
    local_address: SocketAddr,
    engines: Vec<Engine>,
    controller: (Sender<Notice>, Option<JoinHandle<()>>),
}

/// An engine's ends of what it and the controller tell each other.
#[derive(Debug)]
pub struct Mailboxes {
    /// What the controller says.
    pub commands: Receiver<Command>,
    /// What the engine says.
    pub notices: Sender<Notice>,
}

#[derive(Debug)]
struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// The control socket, made and not served yet.
struct ControlSocket {
    file: SocketFile,
    listener: SeqpacketListener,
}

impl ControlSocket {
    fn open(config: &Config) -> Result<Self, StartError> {
        let (file, listener) =
            SocketFile::create(&config.socket, config.socket_mode, config.socket_group.as_deref())?;
        Ok(Self { file, listener })
    }
}

impl Sidecar {
    /// Starts the engines and the controller. When it returns, applications can attach.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        // The control socket first: it is the sidecar that the user most likely has running already.
        let socket = ControlSocket::open(config)?;
        match config.driver {
            DriverKind::Udp => Self::start_engines(config, socket, open_udp(config)?),
            DriverKind::Packet => Self::start_engines(config, socket, packet::open(config)?),
            DriverKind::Xdp => Self::start_engines(config, socket, xdp::open(config)?),
            DriverKind::Dpdk => Self::start_engines(config, socket, dpdk::open(config)?),
        }
    }

    /// As [`Self::start`], with one engine for each of `drivers` instead of those that the settings name.
    pub fn start_over<D: Driver + 'static>(config: &Config, drivers: Vec<D>) -> Result<Self, StartError> {
        Self::start_engines(config, ControlSocket::open(config)?, drivers)
    }

    /// As [`Self::start_over`], but without threads for the engines: the caller runs their duty cycles, in threads of its own
    /// or step by step. Listening ends only while somebody does.
    pub fn start_stepped<D: Driver>(
        config: &Config,
        drivers: Vec<D>,
    ) -> Result<(Self, Vec<Worker<D>>), StartError> {
        Self::assemble(config, ControlSocket::open(config)?, drivers)
    }

    /// A sidecar at `local_address` of which only the controller is there: the caller is its engines, and gets the mailbox of
    /// each.
    pub fn start_controller_alone(
        config: &Config,
        local_address: SocketAddr,
        engines: usize,
    ) -> Result<(Self, Vec<Mailboxes>), StartError> {
        Self::control(config, ControlSocket::open(config)?, local_address, engines)
    }

    fn start_engines<D: Driver + 'static>(
        config: &Config,
        socket: ControlSocket,
        drivers: Vec<D>,
    ) -> Result<Self, StartError> {
        let places = Places::choose(&config.cpus, drivers.len())?;
        if config.idle == IdlePolicy::Spin && places.engines > places.processors {
            tracing::warn!(
                "idle policy spin: {} engines on {} processors stall each other; auto does not",
                places.engines,
                places.processors
            );
        }
        let (mut sidecar, workers) = Self::assemble(config, socket, drivers)?;
        // One clock for all: they must agree on the time of a cookie.
        let clock = Clock::start();
        for (index, (mut worker, engine)) in workers.into_iter().zip(&mut sidecar.engines).enumerate() {
            worker.runs_on(places.cpus.as_ref().map(|cpus| cpus[index]));
            engine.thread = Some(start_engine(worker, config.idle, &places, index, clock)?);
        }
        Ok(sidecar)
    }

    /// Everything but the engines' threads.
    fn assemble<D: Driver>(
        config: &Config,
        socket: ControlSocket,
        drivers: Vec<D>,
    ) -> Result<(Self, Vec<Worker<D>>), StartError> {
        let local_address = drivers[0].local_address();
        let engines = drivers.len();
        let largest = drivers.iter().map(Driver::max_datagram).max().unwrap_or(0);
        let (sidecar, mailboxes) = Self::control(config, socket, local_address, engines)?;
        let shared = Shared { engines, cookie_secret: random_words()? };
        let workers = (0..).zip(drivers).zip(mailboxes);
        let workers =
            workers.map(|((id, driver), mailboxes)| make_worker(id, config, driver, mailboxes, &shared));
        let mut workers = workers.collect::<Result<Vec<_>, _>>()?;
        if engines > 1 {
            let all = neighbours::join(engines, largest).map_err(io_error("making the engines' bells"))?;
            for (worker, neighbours) in workers.iter_mut().zip(all) {
                worker.join(neighbours).map_err(io_error("watching the engines' bells"))?;
            }
        }
        Ok((sidecar, workers))
    }

    /// The controller, with the mailboxes for its engines.
    fn control(
        config: &Config,
        ControlSocket { file, listener }: ControlSocket,
        local_address: SocketAddr,
        engines: usize,
    ) -> Result<(Self, Vec<Mailboxes>), StartError> {
        let _: io::Result<u64> = sys::raise_descriptor_limit();
        let (notice_sender, notices) = mailbox().map_err(io_error("making a pipe"))?;
        let (mut senders, mut mailboxes) = (Vec::new(), Vec::new());
        for _ in 0..engines {
            let (sender, commands) = mailbox().map_err(io_error("making a pipe"))?;
            senders.push(sender);
            mailboxes.push(Mailboxes { commands, notices: notice_sender.clone() });
        }
        let settings = controller::Settings {
            own: local_address,
            max_channels: config.max_channels as usize,
            status: Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                socket: config.socket.display().to_string(),
                address: local_address.to_string(),
                driver: config.driver.name().to_owned(),
                ..Status::default()
            },
        };
        let controller = Controller::new(settings, listener, senders.clone(), notices)
            .map_err(io_error("preparing the control socket"))?;
        let engines = senders.into_iter().map(|commands| Engine { commands, thread: None }).collect();
        let thread = start_controller(controller, file)?;
        let socket = config.socket.clone();
        Ok((Self { socket, local_address, engines, controller: (notice_sender, Some(thread)) }, mailboxes))
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The IP address and UDP port.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Closes all flows in order, tells the applications, and ends; what is not closed after `linger` is reset.
    pub fn shutdown(mut self, linger: std::time::Duration) {
        self.end(u32::try_from(linger.as_millis()).unwrap_or(u32::MAX));
    }

    fn end(&mut self, linger_ms: u32) {
        self.controller.0.send(Notice::ShuttingDown);
        for engine in &self.engines {
            engine.commands.send(Command::Shutdown { linger_ms });
        }
        for engine in &mut self.engines {
            join(engine.thread.take());
        }
        self.controller.0.send(Notice::Stop);
        join(self.controller.1.take());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.end(0);
    }
}

fn open_udp(config: &Config) -> Result<Vec<UdpDriver>, OpenError> {
    let address = SocketAddr::new(config.address, config.udp_port);
    let udp = UdpConfig { source_ports: config.udp_ports.clone(), ..UdpConfig::default() };
    UdpGroup::open(address, config.engines.max(1) as usize, &udp)
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // A panic was reported when it happened, and ended the process.
        let _: std::thread::Result<()> = thread.join();
    }
}

/// What the engines of a sidecar have in common: nothing that changes.
struct Shared {
    engines: usize,
    /// Any engine checks the cookies that another gave.
    cookie_secret: [u64; 2],
}

fn make_worker<D: Driver>(
    id: u32,
    config: &Config,
    driver: D,
    Mailboxes { commands, notices }: Mailboxes,
    shared: &Shared,
) -> Result<Worker<D>, StartError> {
    let small = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    let millis = |value: u32| Duration::from_millis(u64::from(value));
    let local = driver.local_address();
    let largest = u32::try_from(driver.max_datagram()).unwrap_or(u32::MAX);
    let max_datagram = match config.mtu {
        Some(mtu) => mtu.saturating_sub(header_bytes(&local)).min(largest),
        None => largest,
    };
    let core = crate::proto::Config {
        max_datagram,
        max_flows: config.max_flows,
        keepalive: millis(config.keepalive_ms),
        dead_after: millis(config.dead_after_ms),
        max_outstanding: 32_768,
        engine: small(id as usize),
        engines: small(shared.engines),
        cookie_secret: Some(shared.cookie_secret),
        spread: config.spread,
        spray_interval: millis(config.spray_interval_ms),
        ..crate::proto::Config::default()
    };
    let settings = worker::Settings {
        id,
        core,
        seed: random_words()?,
        // An engine on a port of its own choice can only hope that its peers have the default one.
        udp_port: if config.udp_port == 0 { local.port() } else { config.udp_port },
        connect_timeout: millis(config.connect_timeout_ms),
        linger: millis(config.linger_ms),
        idle: config.idle.name(),
    };
    Worker::new(settings, driver, commands, notices).map_err(io_error("preparing an engine"))
}

fn random_words() -> Result<[u64; 2], StartError> {
    let word = || {
        getrandom::u64().map_err(|error| StartError::Io {
            doing: "asking the system for random numbers",
            source: io::Error::other(error.to_string()),
        })
    };
    Ok([word()?, word()?])
}

/// A part of the sidecar that panics takes the whole down: its applications learn at once that it is gone, and whoever
/// started it can start it anew. A sidecar that lives on with half its engines would fail in stranger ways.
fn or_abort(what: &str, run: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
        tracing::error!("{what} failed by a fault of its own; the sidecar ends");
        std::process::abort();
    }
}

/// Where the engines run.
struct Places {
    engines: usize,
    /// The processor of each engine; none: wherever the system puts them.
    cpus: Option<Vec<u32>>,
    /// How many processors there are for them.
    processors: usize,
}

impl Places {
    fn choose(wanted: &Cpus, engines: usize) -> Result<Self, StartError> {
        if *wanted == Cpus::Any {
            return Ok(Self { engines, cpus: None, processors: Waiting::cpus() });
        }
        let allowed = sys::allowed_cpus().map_err(io_error("asking for the processors of this process"))?;
        let cpus = match wanted {
            Cpus::Any | Cpus::Auto if engines > allowed.len() => {
                let text = format!(
                    "cpus = \"auto\" (--pin) needs a processor for each of {engines} engines; this process may run on {}: {}",
                    allowed.len(),
                    listed(&allowed)
                );
                return Err(StartError::Config(text));
            }
            Cpus::Any | Cpus::Auto => allowed[..engines].to_vec(),
            Cpus::These(cpus) => cpus.clone(),
        };
        if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            let text = format!(
                "cpus = {cpus:?}: this process may not run on processor {cpu}; it may on {} (see taskset -p {})",
                listed(&allowed),
                std::process::id()
            );
            return Err(StartError::Config(text));
        }
        let mut different = cpus.clone();
        different.sort_unstable();
        different.dedup();
        Ok(Self { engines, processors: different.len(), cpus: Some(cpus) })
    }
}

fn listed(cpus: &[u32]) -> String {
    cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn start_engine<D: Driver + 'static>(
    mut worker: Worker<D>,
    policy: IdlePolicy,
    places: &Places,
    index: usize,
    clock: Clock,
) -> Result<JoinHandle<()>, StartError> {
    let cpu = places.cpus.as_ref().map(|cpus| cpus[index]);
    let run = move |waiting| {
        or_abort("an engine", move || worker::run(&mut worker, waiting, &clock));
    };
    let waiting = idle::waiting(policy, places.engines, places.processors);
    // The thread says itself whether it is where it should be, before the sidecar is said to be up.
    let (placed, outcome) = std::sync::mpsc::channel();
    let body = move || {
        let result = cpu.map_or(Ok(()), sys::run_on);
        let goes_on = result.is_ok();
        if placed.send(result).is_ok() && goes_on {
            run(waiting);
        }
    };
    let name = format!("machnet-eng-{index}");
    let thread = std::thread::Builder::new().name(name).spawn(body);
    let thread = thread.map_err(io_error("starting an engine's thread"))?;
    let placed = outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")));
    placed.map_err(io_error("putting an engine on its processor"))?;
    Ok(thread)
}

fn start_controller(mut controller: Controller, file: SocketFile) -> Result<JoinHandle<()>, StartError> {
    let run = move || {
        or_abort("the controller", move || {
            controller.run();
            // The socket is removed before the last connection hangs up: who attaches again finds no dead socket.
            drop(file);
        });
    };
    let name = "machnet-control".to_owned();
    std::thread::Builder::new().name(name).spawn(run).map_err(io_error("starting the controller's thread"))
}
