//! Sidecars as they run, in this process: engines in threads of their own over the kernel's UDP sockets, each host at a
//! loopback address of its own, and the kernel's hash between the engines of a host. And applications in threads, that
//! sleep when they have nothing to do.

use crate::cpu;
use crate::rig::{self, PATIENCE};
use crate::stats::Latencies;
use machnet_client::{AttachOptions, Attachment, Error, FlowId};
use machnet_engine::config::{Config, IdlePolicy, Spread};
use machnet_engine::sidecar::Sidecar;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The loopback addresses of a bench, one after the other, and the UDP port of all its sidecars.
#[derive(Debug)]
pub struct Addresses {
    next: u32,
    udp_port: u16,
}

impl Addresses {
    /// From 127.64.0.1 on, with a port that was free just now.
    pub fn new() -> io::Result<Self> {
        let udp_port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { next: Ipv4Addr::new(127, 64, 0, 0).to_bits(), udp_port })
    }

    /// A sidecar with so many engines where none was before, so that nobody has learned anything of it.
    pub fn host(&mut self, engines: u32, spread: Spread) -> io::Result<Host> {
        self.next += 1;
        Host::start(IpAddr::V4(Ipv4Addr::from_bits(self.next)), self.udp_port, engines, spread)
    }
}

/// One sidecar, and its directory.
#[derive(Debug)]
pub struct Host {
    sidecar: Sidecar,
    directory: PathBuf,
}

impl Host {
    fn start(address: IpAddr, udp_port: u16, engines: u32, spread: Spread) -> io::Result<Self> {
        let directory = rig::scratch_directory()?;
        // More engines than processors must let each other run.
        let config =
            Config { address, udp_port, engines, spread, idle: IdlePolicy::Auto, ..rig::config(&directory) };
        let sidecar = Sidecar::start(&config).map_err(io::Error::other)?;
        Ok(Self { sidecar, directory })
    }

    /// How to attach to one of its engines.
    pub fn options(&self, engine: u32) -> AttachOptions {
        AttachOptions::new().socket(self.sidecar.socket()).engine(engine)
    }

    /// A port of it.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.sidecar.local_address().ip(), port)
    }

    /// A counter, summed over its engines.
    pub fn count(&self, name: &str) -> io::Result<u64> {
        let counter = |counters: &std::collections::BTreeMap<String, u64>| counters.get(name).copied();
        let counts: Option<Vec<_>> = rig::status(self.sidecar.socket())?
            .engines
            .iter()
            .map(|engine| counter(&engine.counters))
            .collect();
        counts.map(|counts| counts.iter().sum()).ok_or_else(|| io::Error::other(format!("no counter {name}")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

/// Requests on some flows between two applications on the same engines of two hosts: so many at a time on each flow.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The engine of either host.
    pub engine: u32,
    /// Flows.
    pub flows: u16,
    /// Requests under way on each.
    pub window: usize,
}

/// What an application got.
#[derive(Debug, Default)]
pub struct Served {
    /// Answers.
    pub answers: u64,
    /// With one flow and one request under way: how long each took.
    pub times: Latencies,
}

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const END: u8 = 2;
/// A thread that nobody sends to looks this often whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// Before anything counts: every flow has found its ports.
const BEFORE: Duration = Duration::from_millis(500);
const MESSAGE: [u8; crate::MESSAGE_BYTES] = [7; crate::MESSAGE_BYTES];

/// One end of a [`Load`].
struct Application {
    attachment: Attachment,
    flows: Vec<FlowId>,
}

/// Both ends, connected.
fn connect(hosts: &[Host; 2], load: Load, port: u16) -> Result<[Application; 2], Error> {
    let client = hosts[0].options(load.engine).attach()?;
    let server = hosts[1].options(load.engine).attach()?;
    let listener = server.listen(hosts[1].at(port), 0)?;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..load.flows {
        let flow = client.connect_timeout(hosts[1].at(port), None, Some(PATIENCE))?;
        there.push(listener.accept_timeout(PATIENCE)?.into_channel_mode()?);
        here.push(flow.into_channel_mode()?);
    }
    Ok([Application { attachment: client, flows: here }, Application { attachment: server, flows: there }])
}

impl Application {
    /// Sends back what comes, until the end.
    fn answer(&self, phase: &AtomicU8) -> Result<(), Error> {
        while phase.load(Ordering::Relaxed) != END {
            match self.attachment.recv_any(LOOK) {
                Ok(asked) => self.attachment.send_to(asked.flow, &asked.message, PATIENCE)?,
                Err(Error::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks, and asks again whenever an answer comes, until the end.
    fn ask(&self, window: usize, phase: &AtomicU8) -> Result<Served, Error> {
        let (mut served, is_probe) = (Served::default(), window == 1 && self.flows.len() == 1);
        for flow in &self.flows {
            for _ in 0..window {
                self.attachment.send_to(*flow, &MESSAGE, PATIENCE)?;
            }
        }
        let mut asked = cpu::now();
        loop {
            let flow = match self.attachment.recv_any(LOOK) {
                Ok(answer) => answer.flow,
                Err(Error::TimedOut) if phase.load(Ordering::Relaxed) != END => continue,
                Err(Error::TimedOut) => return Ok(served),
                Err(error) => return Err(error),
            };
            match phase.load(Ordering::Relaxed) {
                WARM_UP => {}
                MEASURE => {
                    served.answers += 1;
                    if is_probe {
                        served.times.record_since(asked);
                    }
                }
                _ => return Ok(served),
            }
            asked = cpu::now();
            self.attachment.send_to(flow, &MESSAGE, PATIENCE)?;
        }
    }
}

/// Two hosts with so many engines each, and all these loads at the same time for so long. Answers what each got.
pub fn run(engines: u32, loads: &[Load], span: Duration) -> Result<Vec<Served>, Error> {
    let mut addresses = Addresses::new()?;
    let hosts = [addresses.host(engines, Spread::Learned)?, addresses.host(engines, Spread::Learned)?];
    let ends = loads.iter().zip(7_000..).map(|(load, port)| connect(&hosts, *load, port));
    let ends = ends.collect::<Result<Vec<_>, Error>>()?;
    let phase = AtomicU8::new(WARM_UP);
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for ([client, server], load) in ends.iter().zip(loads) {
            let phase = &phase;
            servers.push(scope.spawn(move || server.answer(phase)));
            clients.push(scope.spawn(move || client.ask(load.window, phase)));
        }
        std::thread::sleep(BEFORE);
        phase.store(MEASURE, Ordering::Relaxed);
        std::thread::sleep(span);
        phase.store(END, Ordering::Relaxed);
        let failed = "an application's thread does not panic";
        let served = clients.into_iter().map(|client| client.join().expect(failed)).collect();
        servers.into_iter().try_for_each(|server| server.join().expect(failed))?;
        served
    })
}
