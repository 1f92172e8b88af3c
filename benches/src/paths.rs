//! The ways between two hosts that the bench `drivers` compares, and the floors below them.

use crate::chain::datagrams::Datagrams;
use crate::chain::frames::{Frames, Station};
use crate::chain::messages::Messages;
use crate::chain::rings::{MEMBERS, Member, Row};
use crate::chain::{self, Link, Trips};
use crate::command::{Client, Server, Up};
use crate::cpu;
use crate::network::{ADDRESSES, INTERFACE, MACS, Pair};
use crate::place::Place;
use crate::rig;
use crate::roles::Role;
use machnet_engine::config::{Config, DriverKind};
use machnet_engine::driver::Driver;
use machnet_engine::driver::frame::{FrameDriver, Framed};
use machnet_engine::driver::udp::{UdpConfig, UdpDriver};
use machnet_engine::driver::{dpdk, packet, xdp};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The UDP port of all sidecars and floors.
const UDP_PORT: u16 = 31_580;
const WARM_UP: Duration = Duration::from_millis(50);
const MEASURED: Duration = Duration::from_millis(120);
/// The role of a process of a row of bare rings, or of a row whose engines have a driver between them.
const ROW: &str = "row";
/// The role of one of two processes with a driver between them.
const PAIR: &str = "pair";

/// A socket of the kernel, and how its owners wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    over: &'static str,
    wait: &'static str,
}

impl Kernel {
    /// TCP whose owners sleep.
    pub const TCP_BLOCKING: Self = Self { over: "tcp", wait: "block" };
    /// Both ways with TCP.
    pub const TCP: [Self; 2] = [Self { over: "tcp", wait: "spin" }, Self::TCP_BLOCKING];
}

/// What carries messages between the two hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// Machnet over the kernel's UDP.
    Udp,
    /// Machnet over AF_PACKET.
    Packet,
    /// Machnet over AF_XDP.
    Xdp,
    /// Machnet over DPDK's shared memory.
    Memif,
    /// The kernel without Machnet.
    Kernel(Kernel),
}

impl Path {
    /// Machnet's drivers.
    pub const DRIVERS: [Self; 4] = [Self::Udp, Self::Packet, Self::Xdp, Self::Memif];
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Udp,
        Self::Packet,
        Self::Xdp,
        Self::Memif,
        Self::Kernel(Kernel { over: "udp", wait: "spin" }),
        Self::Kernel(Kernel { over: "udp", wait: "block" }),
        Self::Kernel(Kernel::TCP[0]),
        Self::Kernel(Kernel::TCP[1]),
    ];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Memif => "dpdk memif",
            Self::Kernel(Kernel { over: "udp", wait: "spin" }) => "kernel UDP, spin",
            Self::Kernel(Kernel { over: "udp", .. }) => "kernel UDP, block",
            Self::Kernel(Kernel { wait: "spin", .. }) => "kernel TCP, spin",
            Self::Kernel(_) => "kernel TCP, block",
        }
    }

    /// Whether those who find nothing let others have the processor, so that several connections can share two of them.
    pub fn sleeps(self) -> bool {
        !matches!(self, Self::Kernel(Kernel { wait: "spin", .. }))
    }

    fn named(name: &str) -> Option<Self> {
        Self::DRIVERS.into_iter().find(|path| path.name() == name)
    }

    /// The driver's name, of Machnet's.
    fn driver(self) -> DriverKind {
        match self {
            Self::Packet => DriverKind::Packet,
            Self::Xdp => DriverKind::Xdp,
            Self::Memif => DriverKind::Dpdk,
            Self::Udp | Self::Kernel(_) => DriverKind::Udp,
        }
    }
}

/// How much of Machnet stands above the wire of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Nothing: frames (over udp: datagrams of a bare socket).
    Frames,
    /// The driver as the engine has it: ARP, IP, UDP.
    Datagrams,
    /// The protocol on top, as in an engine's duty cycle, without channels.
    Messages,
}

impl Level {
    const ALL: [Self; 3] = [Self::Frames, Self::Datagrams, Self::Messages];

    fn name(self) -> &'static str {
        match self {
            Self::Frames => "bare frames",
            Self::Datagrams => "the driver's datagrams",
            Self::Messages => "messages of two engines, no channels",
        }
    }
}

/// Something that Machnet cannot be faster than.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Four processes and six hops over bare rings.
    Rings,
    /// Four processes: bare rings to and from the engines, bare frames between them.
    RingsAndFrames(Path),
    /// Two processes with a driver between them.
    Pair(Path, Level),
}

impl Floor {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let frames = [Path::Packet, Path::Xdp, Path::Memif];
        let pairs =
            Path::DRIVERS.into_iter().flat_map(|path| Level::ALL.map(|level| Self::Pair(path, level)));
        let pairs = pairs.filter(|pair| *pair != Self::Pair(Path::Udp, Level::Frames));
        [Self::Rings].into_iter().chain(pairs).chain(frames.map(Self::RingsAndFrames)).collect()
    }

    /// The path whose driver it needs.
    pub fn path(self) -> Option<Path> {
        match self {
            Self::Rings => None,
            Self::RingsAndFrames(path) | Self::Pair(path, _) => Some(path),
        }
    }

    /// What tables call it.
    pub fn name(self) -> String {
        match self {
            Self::Rings => "bare rings, six hops, four processes".to_owned(),
            Self::RingsAndFrames(path) => {
                format!("{}: bare rings, bare frames between, four processes", path.name())
            }
            Self::Pair(path, level) => format!("{}: {}", path.name(), level.name()),
        }
    }
}

/// Two hosts.
#[derive(Debug)]
pub struct Stage {
    pair: std::sync::Arc<Pair>,
    is_realtime: bool,
}

/// A path that carries messages.
#[derive(Debug)]
pub struct Open {
    place: Place,
    over: Vec<String>,
    /// In the order in which they end: a server whose sidecar went first would complain.
    server: Server,
    _sidecars: Vec<Up>,
    _directory: Scratch,
}

impl Open {
    /// Starts a client.
    pub fn client(&self, load: &[&str]) -> io::Result<Client> {
        let over: Vec<&str> = self.over.iter().map(String::as_str).collect();
        Client::start_at(&self.place, self.server.at, &[load, &over].concat())
    }
}

/// A directory that goes when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new() -> io::Result<Self> {
        rig::scratch_directory().map(Self)
    }

    /// The device of one side of a memif pair.
    fn memif(&self, side: usize) -> String {
        let role = ["server", "client"][side];
        format!("net_memif0,role={role},socket-abstract=no,socket={}", self.0.join("memif.sock").display())
    }
}

impl Stage {
    /// Two hosts, or why there are none.
    pub fn new() -> Result<Self, String> {
        Ok(Self { pair: std::sync::Arc::new(Pair::new()?), is_realtime: false })
    }

    /// The same hosts with processes under SCHED_FIFO.
    #[must_use]
    pub fn realtime(&self) -> Self {
        Self { pair: std::sync::Arc::clone(&self.pair), is_realtime: true }
    }

    /// Whether a floor comes up under SCHED_FIFO.
    pub fn is_possible_in_realtime(floor: Floor) -> bool {
        floor.path() != Some(Path::Memif)
    }

    /// Where the processes of one host run. Those of memif need no network, but it does not harm them.
    fn place(&self, side: usize) -> Place {
        Place { is_realtime: self.is_realtime, ..self.pair.place(side) }
    }

    /// Starts the sidecars, if any, and a server.
    pub fn open(&self, path: Path) -> io::Result<Open> {
        let directory = Scratch::new()?;
        if let Path::Kernel(Kernel { over, wait }) = path {
            let over = ["--over", over, "--wait", wait];
            let server =
                Server::start_at(&self.place(1), &[&over[..], &["--address", ADDRESSES[1]]].concat())?;
            let over = over.map(str::to_owned).to_vec();
            let place = self.place(0);
            return Ok(Open { place, over, server, _sidecars: Vec::new(), _directory: directory });
        }
        let mut sidecars = Vec::new();
        for (side, address) in ADDRESSES.into_iter().enumerate() {
            let driver = ["--driver", path.driver().name()];
            let device = directory.memif(side);
            let address_on_link = format!("{address}/24");
            let (address, more) = match path {
                Path::Memif => (&*address_on_link, &["--vdev", &*device][..]),
                Path::Udp => (address, &[][..]),
                _ => (address, &["--interface", INTERFACE][..]),
            };
            sidecars.push(Up::start_at(&self.place(side), address, UDP_PORT, &[&driver, more].concat())?);
        }
        let server = Server::start_at(&self.place(1), &["--socket", sidecars[1].socket()])?;
        let over = vec!["--socket".to_owned(), sidecars[0].socket().to_owned()];
        Ok(Open { place: self.place(0), over, server, _sidecars: sidecars, _directory: directory })
    }

    /// Measures a floor with so many messages under way.
    pub fn floor(&self, floor: Floor, window: usize) -> io::Result<Trips> {
        let directory = Scratch::new()?;
        let row = Row::new()?;
        let (role, members) = match floor {
            Floor::Rings | Floor::RingsAndFrames(_) => (ROW, MEMBERS),
            Floor::Pair(..) => (PAIR, 2),
        };
        let cpus = cpu::available();
        let start = |member: usize| {
            let side = 2 * member / members;
            let (path, level) = match floor {
                Floor::Rings => ("rings", Level::Frames),
                Floor::RingsAndFrames(path) => (path.name(), Level::Frames),
                Floor::Pair(path, level) => (path.name(), level),
            };
            let arguments =
                [window.to_string(), path.to_owned(), level.name().to_owned(), directory.memif(side)];
            let who = if role == ROW { row.arguments(member) } else { vec![side.to_string()] };
            let arguments = [arguments.to_vec(), who].concat();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let place = Place { errors: Some(directory.0.join("errors")), ..self.place(side) };
            // Two processes have a processor each; four share two as the scheduler likes. Under SCHED_FIFO the threads of
            // DPDK would not let each other have that one processor.
            let has_own = role == PAIR && !self.is_realtime;
            let place = if has_own { place.on(cpus[side % cpus.len()]) } else { place };
            Role::start_at(&place, role, &arguments, true)
        };
        // The first host's engine comes first: of a memif pair it is the one that makes the socket.
        let mut others: Vec<Role> = Vec::new();
        if role == ROW {
            for member in 1..MEMBERS {
                others.push(start(member)?);
                others.last_mut().map(Role::line).transpose().map_err(|error| explain(&directory, error))?;
            }
        }
        let mut asker = start(0)?;
        asker.line().map_err(|error| explain(&directory, error))?; // It is ready.
        if role == PAIR {
            others.push(start(1)?);
        }
        let line = asker.line().map_err(|error| explain(&directory, error))?;
        Trips::from_line(&line)
    }
}

/// What a child said before it ended.
fn explain(directory: &Scratch, error: io::Error) -> io::Error {
    let said = std::fs::read_to_string(directory.0.join("errors")).unwrap_or_default();
    said.lines().last().map_or(error, |line| io::Error::other(line.to_owned()))
}

/// The part of a child that [`Stage::floor`] started.
pub fn act(role: &str, arguments: &[String]) -> io::Result<()> {
    let [window, path, level, device, who @ ..] = arguments else {
        return Err(io::Error::other(format!("there is no role {role} with so few arguments")));
    };
    let window: usize = window.parse().map_err(io::Error::other)?;
    let path = Path::named(path);
    match role {
        ROW => act_in_row(path, device, &Member::open(who)?, window),
        PAIR => {
            let path = path.ok_or_else(|| io::Error::other("a pair has a path"))?;
            let level = Level::ALL.into_iter().find(|one| one.name() == level);
            let level = level.ok_or_else(|| io::Error::other("a pair has a level"))?;
            let side = who.first().and_then(|side| side.parse().ok()).filter(|&side: &usize| side < 2);
            let side = side.ok_or_else(|| io::Error::other("a pair has two sides, 0 and 1"))?;
            act_in_pair(path, device, level, side, window)
        }
        _ => Err(io::Error::other(format!("there is no role {role}"))),
    }
}

fn act_in_row(path: Option<Path>, device: &str, member: &Member, window: usize) -> io::Result<()> {
    let number = member.number();
    if number == 0 || number == MEMBERS - 1 {
        println!("ready");
        let link = member.link(if number == 0 { 1 } else { number - 1 })?;
        return run(link, number == 0, window);
    }
    let side = number - 1;
    let mut application = member.link(if side == 0 { 0 } else { MEMBERS - 1 })?;
    let Some(path) = path else {
        println!("ready");
        return chain::pass_on(&mut application, &mut member.link(if side == 0 { 2 } else { 1 })?);
    };
    with_frames(path, device, side, PassOn { application })
}

fn act_in_pair(path: Path, device: &str, level: Level, side: usize, window: usize) -> io::Result<()> {
    if path == Path::Udp {
        let driver = UdpDriver::open(at(side), &UdpConfig::default()).map_err(io::Error::other)?;
        return run_over(driver, level, side, window);
    }
    with_frames(path, device, side, Pairing { level, window })
}

/// The UDP address of a side.
fn at(side: usize) -> SocketAddr {
    SocketAddr::new(ADDRESSES[side].parse().expect("an address"), UDP_PORT)
}

fn run_over(driver: impl Driver, level: Level, side: usize, window: usize) -> io::Result<()> {
    println!("ready");
    let to = at(1 - side);
    match (level, side) {
        (Level::Messages, 0) => run(Messages::connecting(driver, to)?, true, window),
        (Level::Messages, _) => run(Messages::answering(driver), false, window),
        _ => run(Datagrams::new(driver, to), side == 0, window),
    }
}

/// Asks and says what it found, or answers for ever.
fn run(mut link: impl Link, asks: bool, window: usize) -> io::Result<()> {
    if !asks {
        return chain::serve(&mut link);
    }
    println!("{}", chain::ask(&mut link, window, WARM_UP, MEASURED)?.to_line());
    Ok(())
}

/// What is done with the frame driver of a path, whatever its type.
trait WithFrames {
    fn run<F: FrameDriver>(self, framed: Framed<F>, side: usize) -> io::Result<()>;
}

struct PassOn {
    application: chain::rings::Rings,
}

impl WithFrames for PassOn {
    fn run<F: FrameDriver>(mut self, framed: Framed<F>, side: usize) -> io::Result<()> {
        println!("ready");
        chain::pass_on(&mut self.application, &mut bare(framed, side))
    }
}

struct Pairing {
    level: Level,
    window: usize,
}

impl WithFrames for Pairing {
    fn run<F: FrameDriver>(self, framed: Framed<F>, side: usize) -> io::Result<()> {
        if self.level != Level::Frames {
            return run_over(framed, self.level, side, self.window);
        }
        println!("ready");
        run(bare(framed, side), side == 0, self.window)
    }
}

fn bare<F: FrameDriver>(framed: Framed<F>, side: usize) -> Frames<F> {
    let ip = |side: usize| -> Ipv4Addr { ADDRESSES[side].parse().expect("an address") };
    let to = Station { mac: MACS[1 - side], ip: ip(1 - side) };
    Frames::new(framed.into_frames(), ip(side), to, UDP_PORT)
}

/// The queue of the one engine.
fn first<Queue>(queues: Vec<Queue>) -> io::Result<Queue> {
    queues.into_iter().next().ok_or_else(|| io::Error::other("a driver without queues"))
}

fn config(path: Path, device: &str, side: usize) -> Config {
    let interface = (path != Path::Memif).then(|| INTERFACE.to_owned());
    Config {
        driver: path.driver(),
        address: at(side).ip(),
        prefix: Some(24),
        udp_port: UDP_PORT,
        interface,
        vdev: (path == Path::Memif).then(|| device.to_owned()),
        // As `machnet up` has it from its environment.
        dpdk_plugin: std::env::var_os("MACHNET_DPDK_PLUGIN").map(PathBuf::from),
        ..Config::default()
    }
}

fn with_frames(path: Path, device: &str, side: usize, what: impl WithFrames) -> io::Result<()> {
    let config = config(path, device, side);
    match path {
        Path::Packet => what.run(first(packet::open(&config).map_err(io::Error::other)?)?, side),
        Path::Xdp => what.run(first(xdp::open(&config).map_err(io::Error::other)?)?, side),
        Path::Memif => what.run(first(dpdk::open(&config).map_err(io::Error::other)?)?, side),
        Path::Udp | Path::Kernel(_) => Err(io::Error::other(format!("{} has no bare frames", path.name()))),
    }
}
