//! A sidecar inside the bench, over any driver, whose engine the bench runs itself: in a thread, or step by step.

use crate::cpu;
use machnet_client::control::{Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::shm::layout::{FlowInfo, receive_kind};
use machnet_client::shm::ring::SlotHead;
use machnet_client::socket::Seqpacket;
use machnet_client::{AttachOptions, Channel, FlowId, ListenerId};
use machnet_engine::clock::Clock;
use machnet_engine::config::{Config, IdlePolicy};
use machnet_engine::driver::Driver;
use machnet_engine::driver::memory::{DEFAULT_MAX_DATAGRAM, MemoryDriver, MemoryNetwork};
use machnet_engine::mailbox::Command;
use machnet_engine::proto::time::Instant;
use machnet_engine::sidecar::{Mailboxes, Sidecar};
use machnet_engine::status::Status;
use machnet_engine::tenant::{FlowSlot, Link, Taken, Tenant};
use machnet_engine::worker::Worker;
use std::io;
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
pub fn scratch_directory() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("machnet-bench-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// What a sidecar tells of itself, as `machnet status` asks it.
pub fn status(socket: &Path) -> io::Result<Status> {
    let socket = Seqpacket::connect(socket)?;
    socket.send(&Request::Status.encode(), &[])?;
    let mut text = String::new();
    loop {
        match Reply::decode(&socket.receive()?.bytes) {
            Ok(Reply::StatusText { last, text: piece }) => {
                text.push_str(&piece);
                if last {
                    return serde_json::from_str(&text).map_err(io::Error::other);
                }
            }
            other => return Err(io::Error::other(format!("no status: {other:?}"))),
        }
    }
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

    /// The time as the engine sees it.
    pub fn now(&self) -> Instant {
        self.clock.now()
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
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

/// A channel with its tenant in the bench's own hands, and one flow: no engine, no core, no network.
#[derive(Debug)]
pub struct Pair {
    /// The application's end.
    pub channel: Channel,
    /// The flow as the application names it.
    pub flow: FlowId,
    /// The engine's end.
    pub tenant: Box<Tenant>,
    /// The flow as the engine names it.
    pub slot: FlowSlot,
    _sidecar: Sidecar,
    _mailboxes: Vec<Mailboxes>,
    directory: PathBuf,
}

impl Pair {
    /// Attaches and opens the flow.
    pub fn new(geometry: Geometry) -> Self {
        let directory = scratch_directory().expect("the directory for temporary files is writable");
        let address = ADDRESS.parse().expect("an address");
        let (sidecar, mailboxes) = Sidecar::start_controller_alone(&config(&directory), address, 1)
            .expect("a sidecar in a directory of its own starts");
        let options = AttachOptions::new().socket(sidecar.socket()).geometry(geometry);
        let mut channel = options.attach_channel().expect("attaches");
        let mut tenant = loop {
            match mailboxes[0].commands.try_receive() {
                Some(Command::Attach(tenant)) => break tenant,
                _ => std::thread::yield_now(),
            }
        };
        let peer: SocketAddr = ELSEWHERE.parse().expect("an address");
        let connect = channel.start_connect(peer, None, None).expect("a new ring has room");
        let Ok(Some(Taken::Connect { request, to })) = tenant.take() else {
            panic!("a connect was published")
        };
        let limits = tenant.geometry();
        let (max_message, credit) = (limits.max_send(), limits.flow_credit);
        let info = FlowInfo { peer: to.remote, local: address, max_message, credit };
        let link = Link::Local { tenant: 0, flow: FlowSlot::default() };
        let slot = tenant.open_flow(link, info).expect("a new channel has room");
        let head = SlotHead { kind: receive_kind::CONNECTED, count: 0, length: 0 };
        let handle = tenant.handle(slot);
        tenant.tell(head, handle, request, &info.to_words());
        tenant.publish().expect("a real channel breaks no rule");
        let flow = channel.try_finish_connect(connect).expect("it succeeds").expect("the outcome is there");
        Self { channel, flow, tenant, slot, _sidecar: sidecar, _mailboxes: mailboxes, directory }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
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
