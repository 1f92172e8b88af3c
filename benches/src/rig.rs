//! A sidecar inside the bench, over any driver, whose engine the bench runs itself: in a thread, or step by step.

use crate::cpu;
use machnet_client::{AttachOptions, Channel, FlowId, ListenerId};
use machnet_engine::clock::Clock;
use machnet_engine::config::{Config, IdlePolicy};
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryNetwork};
use machnet_engine::sidecar::Sidecar;
use machnet_engine::worker::Worker;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// The address of the host in a network in memory.
pub const ADDRESS: &str = "10.0.0.1:31580";
/// An address that a rig whose datagrams come back reaches itself by. Its own would be the short way without datagrams.
pub const ELSEWHERE: &str = "10.0.0.2:7";
/// Nothing that a bench waits for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar whose engine no thread runs, and its directory.
#[derive(Debug)]
pub struct Rig<D: Driver> {
    /// Its engine.
    pub worker: Worker<D>,
    clock: Clock,
    sidecar: Sidecar,
    directory: PathBuf,
}

/// Settings of a sidecar for a bench on a socket in `directory`.
pub fn config(directory: &Path) -> Config {
    Config {
        socket: directory.join("machnet.sock"),
        socket_mode: 0o600,
        idle: IdlePolicy::Spin,
        ..Config::default()
    }
}

/// A new directory for a bench's sockets.
pub fn scratch_directory() -> std::io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("machnet-bench-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

impl Rig<MemoryDriver> {
    /// A sidecar whose datagrams come back to itself.
    pub fn loop_back() -> Self {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        Self::over(MemoryNetwork::loop_back(address, DEFAULT_MAX_DATAGRAM), |_| {})
    }
}

impl<D: Driver> Rig<D> {
    /// A sidecar over this driver; `change` may change its settings.
    pub fn over(driver: D, change: impl FnOnce(&mut Config)) -> Self {
        let directory = scratch_directory().expect("the directory for temporary files is writable");
        let mut config = config(&directory);
        change(&mut config);
        let (sidecar, mut workers) = Sidecar::start_stepped(&config, vec![driver])
            .expect("a sidecar in a directory of its own starts");
        let worker = workers.pop().expect("one engine for one driver");
        Self { worker, clock: Clock::start(), sidecar, directory }
    }

    /// Where to attach, for other processes.
    pub fn socket(&self) -> &Path {
        self.sidecar.socket()
    }

    /// How to attach here.
    pub fn options(&self) -> AttachOptions {
        AttachOptions::new().socket(self.sidecar.socket())
    }

    /// One turn of the engine.
    #[inline]
    pub fn step(&mut self) -> usize {
        self.worker.duty_cycle(self.clock.now())
    }

    /// Runs `setup`, which may wait for the sidecar, while another thread runs the engine.
    pub fn while_running<T>(&mut self, setup: impl FnOnce(AttachOptions) -> T) -> T {
        let (options, done) = (self.options(), AtomicBool::new(false));
        let (worker, clock) = (&mut self.worker, &self.clock);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if worker.duty_cycle(clock.now()) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let outcome = setup(options);
            done.store(true, Ordering::Relaxed);
            outcome
        })
    }

    /// As [`Self::while_running`], but the engine spins on processor `index` of those that the process may use.
    pub fn while_spinning<T>(&mut self, index: usize, run: impl FnOnce(AttachOptions) -> T) -> T {
        let (options, done) = (self.options(), AtomicBool::new(false));
        let (worker, clock) = (&mut self.worker, &self.clock);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cpu::pin(&cpu::available(), index);
                while !done.load(Ordering::Relaxed) {
                    if worker.duty_cycle(clock.now()) == 0 {
                        std::hint::spin_loop();
                    }
                }
            });
            let outcome = run(options);
            done.store(true, Ordering::Relaxed);
            outcome
        })
    }
}

impl<D: Driver> Drop for Rig<D> {
    fn drop(&mut self) {
        let _: std::io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

/// A flow of two channels: both ends, accepted. `port` is the server's, `at` the address by which the client reaches it.
pub fn connect(client: &mut Channel, server: &mut Channel, at: SocketAddr) -> (FlowId, FlowId) {
    let listener = listen(server, at.port());
    let flow = begin(client, at);
    (flow, accept(server, listener))
}

/// A flow from a channel to itself: both ends, accepted.
pub fn connect_to_self(channel: &mut Channel, at: SocketAddr) -> (FlowId, FlowId) {
    let listener = listen(channel, at.port());
    let flow = begin(channel, at);
    (flow, accept(channel, listener))
}

fn listen(server: &mut Channel, port: u16) -> ListenerId {
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    server.listen(any, 0).expect("the port is free").0
}

fn begin(client: &mut Channel, at: SocketAddr) -> FlowId {
    let flow = client.connect(at, None, Some(PATIENCE)).expect("somebody listens");
    client.send(flow, b"first", Some(PATIENCE)).expect("a new flow has room");
    flow
}

fn accept(server: &mut Channel, listener: ListenerId) -> FlowId {
    let accepted = server.accept(listener, Some(PATIENCE)).expect("the flow arrives");
    let first = server.recv(accepted, Some(PATIENCE)).expect("the first message arrives");
    assert_eq!(&*first, b"first");
    accepted
}
