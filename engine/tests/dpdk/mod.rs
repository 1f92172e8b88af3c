//! DPDK's virtual devices for tests: one environment of DPDK per process, so what needs two runs its other half in a child.
#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, each of which uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use machnet_engine::config::Choice;
use machnet_engine::driver::MacAddress;
use machnet_engine::driver::dpdk::{Device, DpdkQueue, OpenError, Settings, open_queues};
use machnet_engine::driver::frame::{
    Frame, FrameDriver, Framed, LinkState, ReceivedChecksum, SentChecksum, Setup,
};
use machnet_engine::proto::PortRange;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Looks before a test gives up, with a pause of 100 us between them.
pub const PATIENCE: u32 = 100_000;

/// Names the other half that a child is to be.
const HALF: &str = "MACHNET_TEST_DPDK_HALF";

/// The plugin that ci/dpdk.sh built.
pub fn plugin() -> PathBuf {
    let named = std::env::var_os("MACHNET_DPDK_PLUGIN").map(PathBuf::from);
    let target = Path::new(env!("CARGO_BIN_EXE_machnet")).parent().unwrap().parent().unwrap();
    let path = named.unwrap_or_else(|| target.join("dpdk/libmachnet_dpdk.so"));
    assert!(path.exists(), "{} is missing: dpdk/build.sh makes it", path.display());
    path
}

pub fn settings(device: &str, queues: u16) -> Settings {
    Settings {
        device: Device::Virtual(device.to_owned()),
        queues,
        mtu: None,
        hugepages: Choice::Auto,
        plugin: Some(plugin()),
        force: false,
    }
}

pub fn try_open(device: &str, queues: u16) -> Result<Vec<DpdkQueue>, OpenError> {
    open_queues(&settings(device, queues))
}

pub fn open(device: &str, queues: u16) -> Vec<DpdkQueue> {
    try_open(device, queues).unwrap_or_else(|error| panic!("{device}: {error}"))
}

/// A number for a device of this process that no other has.
pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A path for a socket that no other test has.
pub fn socket_path() -> PathBuf {
    std::env::temp_dir().join(format!("machnet-dpdk-{}-{}.sock", std::process::id(), number()))
}

/// Waits until `done`, which may be asked often.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    panic!("in vain: {what}");
}

pub fn until_up(queue: &mut DpdkQueue) {
    until("the link is up", || queue.link() == LinkState::Up);
}

/// Sends one frame; the ring must have room within the patience.
pub fn send(queue: &mut DpdkQueue, frame: &[u8]) {
    until("there is room for a frame", || {
        let Some(room) = queue.lend(frame.len()) else {
            queue.flush().unwrap();
            return false;
        };
        room.copy_from_slice(frame);
        true
    });
    queue.commit(frame.len(), SentChecksum::Complete);
}

/// The next `count` frames.
pub fn receive(queue: &mut DpdkQueue, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    until("frames arrive", || {
        queue.receive(|frame| frames.push(frame.bytes.to_vec())).unwrap();
        frames.len() >= count
    });
    frames
}

/// A child process that is the other half of a test, and ends with its handle.
#[derive(Debug)]
pub struct Half {
    child: Child,
    /// The child ends when this closes, also when the test dies.
    _alive: ChildStdin,
}

impl Half {
    /// The command that runs this test binary as an echo of raw frames on `device`.
    pub fn echo(device: &str, queues: u16) -> Command {
        Self::command(&format!("echo {queues} {device}"))
    }

    fn command(half: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_other_half", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(HALF, half).env("MACHNET_DPDK_PLUGIN", plugin());
        command
    }

    /// Starts it, and waits until it says that it is ready.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let alive = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines.map_while(Result::ok).any(|line| line.ends_with("ready"));
        let half = Self { child, _alive: alive };
        assert!(is_ready, "the other half ended before it was ready");
        half
    }

    /// Ends it as if by `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does; returns at once in a process that is none.
pub fn be_the_other_half() {
    let Ok(half) = std::env::var(HALF) else { return };
    let (kind, rest) = half.split_once(' ').unwrap();
    let (queues, device) = rest.split_once(' ').unwrap();
    let mut queues = open(device, queues.parse().unwrap());
    std::thread::spawn(|| {
        // The parent never writes: what ends this read is its end.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    println!("ready");
    match kind {
        "echo" => echo(&mut queues),
        other => panic!("no half {other}"),
    }
}

/// Sends every frame back to where it came from, on the queue that it came on.
fn echo(queues: &mut [DpdkQueue]) {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut work = 0;
        for queue in &mut *queues {
            work += queue.receive(|frame| frames.push(frame.bytes.to_vec())).unwrap();
            for mut frame in frames.drain(..) {
                let (to, rest) = frame.split_at_mut(6);
                to.swap_with_slice(&mut rest[..6]);
                if let Some(room) = queue.lend(frame.len()) {
                    room.copy_from_slice(&frame);
                    queue.commit(frame.len(), SentChecksum::Complete);
                }
            }
            queue.flush().unwrap();
            queue.link();
        }
        if work == 0 {
            std::thread::yield_now();
        }
    }
}

/// Hosts that are connected with each other, each with so many queues: two with one queue each by one device of vhost and one of
/// virtio, others by a hub that is like a switch, and spreads datagrams over queues as a card that only hashes does.
pub fn hosts(hosts: usize, queues: u16) -> Vec<Vec<Framed<DpdkQueue>>> {
    let ends: Vec<Vec<DpdkQueue>> = match (hosts, queues) {
        (2, 1) => <[_; 2]>::from(pair(queues)).into(),
        _ => {
            let (ours, hubs): (Vec<_>, Vec<_>) = (0..hosts).map(|_| pair(queues)).unzip();
            let macs = ours.iter().map(|queues: &Vec<DpdkQueue>| queues[0].mac()).collect();
            std::thread::spawn(move || hub(hubs, macs));
            ours
        }
    };
    let address = |index: usize| Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(index).unwrap());
    let neighbours: Vec<_> =
        ends.iter().enumerate().map(|(index, end)| (address(index), end[0].mac())).collect();
    let host = |(index, queues)| {
        let setup = Setup {
            address: address(index),
            prefix_bits: 24,
            routes: Vec::new(),
            neighbours: neighbours.clone(),
            vlan: None,
            udp_port: 18_000,
            ports: PortRange::new(18_000, 18_063).unwrap(),
            mtu: None,
            kernel_answers: false,
        };
        Framed::group(&setup, queues)
    };
    ends.into_iter().enumerate().map(host).collect()
}

/// A device of vhost and one of virtio, connected.
pub fn pair(queues: u16) -> (Vec<DpdkQueue>, Vec<DpdkQueue>) {
    let socket = socket_path();
    let mut one = open(&format!("net_vhost{},iface={},queues={queues}", number(), socket.display()), queues);
    let mut other =
        open(&format!("net_virtio_user{},path={},queues={queues}", number(), socket.display()), queues);
    for queue in one.iter_mut().chain(&mut other) {
        until_up(queue);
    }
    (one, other)
}

/// Most frames that wait for one queue in the hub.
const HUB_ROOM: usize = 4_096;

/// Passes frames on until nobody is there any more. `macs` says who is at which port.
fn hub(mut ports: Vec<Vec<DpdkQueue>>, macs: Vec<MacAddress>) {
    let queues = ports[0].len();
    let mut waiting: Vec<VecDeque<(Vec<u8>, SentChecksum)>> = vec![VecDeque::new(); ports.len() * queues];
    let mut idle = 0_u32;
    while idle < 1_000 || ports.iter_mut().any(|port| port[0].link() == LinkState::Up) {
        idle += 1;
        for (index, queue) in ports.iter_mut().flatten().enumerate() {
            while let Some((frame, checksum)) = waiting[index].front() {
                let Some(room) = queue.lend(frame.len()) else { break };
                room.copy_from_slice(frame);
                queue.commit(frame.len(), *checksum);
                waiting[index].pop_front();
                idle = 0;
            }
            queue.flush().unwrap();
            if idle.is_multiple_of(100) {
                queue.link();
            }
            let from = index / queues;
            let pass = |frame: &Frame<'_>| {
                idle = 0;
                // One that the sender's card would have completed is as incomplete on the next link.
                let checksum = match frame.checksum {
                    ReceivedChecksum::Good => SentChecksum::ToComplete { udp_at: 34 },
                    _ => SentChecksum::Complete,
                };
                let is_for = |port: &usize| frame.bytes[0] & 1 != 0 || macs[*port].0 == frame.bytes[..6];
                for to in (0..macs.len()).filter(|port| *port != from).filter(is_for) {
                    // Both ports of UDP behind the shortest headers.
                    let ports = frame.bytes.get(34..38).unwrap_or(&[0]);
                    let hash =
                        ports.iter().fold(7_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(*byte));
                    let queue = &mut waiting[to * queues + hash % queues];
                    if queue.len() < HUB_ROOM {
                        queue.push_back((frame.bytes.to_vec(), checksum));
                    }
                }
            };
            queue.receive(pass).unwrap();
        }
        if idle > 10 {
            std::thread::yield_now();
        }
    }
}
