//! Sidecars with driver xdp talk, on hosts of our own at a bridge that spreads datagrams over receive queues.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;
mod netns;

use common::{PATIENCE, TestSidecar, eventually, pattern};
use machnet_client::{Attachment, Flow};
use machnet_engine::config::{Config, DriverKind, Spread, XdpMode};
use machnet_engine::driver::xdp;
use netns::Shape;
use netns::hub::Hub;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const UDP_PORT: u16 = 22_580;

/// Two hosts with so many queues each; none, and `SKIPPED: reason`, where namespaces or XDP programs are not allowed.
fn hosts(queues: u32) -> Option<Hub> {
    if !netns::are_possible() {
        return None;
    }
    let hub = Hub::new(2, Shape { queues, ..Shape::default() });
    let mut config = Config { address: hub.address(0).into(), udp_port: UDP_PORT, ..Config::default() };
    config.engines = queues;
    match hub.run_in(0, || xdp::open(&config)) {
        Err(error @ (xdp::OpenError::Permission { .. } | xdp::OpenError::Missing { .. })) => {
            println!("SKIPPED: {error}");
            None
        }
        other => {
            other.unwrap();
            Some(hub)
        }
    }
}

/// The sidecar of a host; `change` may change its settings.
fn sidecar(hub: &Hub, host: usize, engines: u32, change: impl FnOnce(&mut Config) + Send) -> TestSidecar {
    let start = || {
        TestSidecar::start(&hub.address(host).to_string(), |config| {
            (config.driver, config.udp_port, config.engines) = (DriverKind::Xdp, UDP_PORT, engines);
            change(config);
        })
    };
    hub.run_in(host, start)
}

fn echo(one: &Flow, other: &Flow, number: usize, len: usize) {
    let message = pattern(number, len);
    one.send_timeout(&message, PATIENCE).unwrap();
    let got = other.recv_timeout(PATIENCE).unwrap();
    assert!(*got == *message, "message {number} of {len} bytes arrives intact");
    other.send_timeout(&got, PATIENCE).unwrap();
    drop(got);
    let back = one.recv_timeout(PATIENCE).unwrap();
    let differs = (0..len).find(|&at| back.get(at) != message.get(at));
    assert!(
        *back == *message,
        "message {number} comes back intact: {} bytes of {len}, others from {differs:?} on",
        back.len()
    );
}

/// Every engine of one sidecar connects to every engine of the other.
fn connect_all(
    left: &TestSidecar,
    right: &TestSidecar,
    engines: u32,
) -> (Vec<Attachment>, Vec<(Flow, Flow)>) {
    let attach = |of: &TestSidecar, engine| of.options().engine(engine).attach().unwrap();
    let (mut attachments, mut flows) = (Vec::new(), Vec::new());
    let mut listeners = Vec::new();
    for engine in 0..engines {
        let server = attach(right, engine);
        listeners.push(server.listen(right.at(100 + u16::try_from(engine).unwrap()), 16).unwrap());
        attachments.push(server);
    }
    for engine in 0..engines {
        let client = attach(left, engine);
        for listener in &listeners {
            let flow = client.connect(right.at(listener.local_addr().port())).unwrap();
            let accepted = listener.accept_timeout(PATIENCE).unwrap();
            flows.push((flow, accepted));
        }
        attachments.push(client);
    }
    (attachments, flows)
}

#[test]
fn messages_of_every_size_go_round_between_all_engines() {
    for (engines, spread) in [
        (1, Spread::Learned),
        (2, Spread::Learned),
        (4, Spread::Learned),
        (2, Spread::Paper),
        (4, Spread::Paper),
    ] {
        println!("{engines} engines, {spread:?}");
        let Some(hub) = hosts(engines) else { return };
        let [left, right] = [0, 1].map(|host| sidecar(&hub, host, engines, |config| config.spread = spread));
        let (_attachments, flows) = connect_all(&left, &right, engines);
        assert_eq!(flows.len(), (engines * engines) as usize);
        for (number, (flow, accepted)) in flows.iter().enumerate() {
            for len in [1, 112, 113, 1_400, 1_500, 100_000] {
                echo(flow, accepted, number, len);
            }
        }
        let (flow, accepted) = &flows[0];
        echo(flow, accepted, 99, 8 << 20);
    }
}

#[test]
fn drivers_xdp_and_udp_talk_in_both_directions() {
    for (first, second) in [(DriverKind::Xdp, DriverKind::Udp), (DriverKind::Udp, DriverKind::Xdp)] {
        let Some(hub) = hosts(1) else { return };
        let left = sidecar(&hub, 0, 1, |config| config.driver = first);
        let right = sidecar(&hub, 1, 1, |config| config.driver = second);
        let (_attachments, flows) = connect_all(&left, &right, 1);
        for (number, len) in [1, 64, 1_472, 40_000, 1 << 20, 8 << 20].into_iter().enumerate() {
            echo(&flows[0].0, &flows[0].1, number, len);
        }
    }
}

#[test]
fn several_engines_talk_in_generic_mode_where_not_every_queue_is_used() {
    let Some(hub) = hosts(2) else { return };
    let [left, right] =
        [0, 1].map(|host| sidecar(&hub, host, 2, |config| config.xdp_mode = XdpMode::Generic));
    let (_attachments, flows) = connect_all(&left, &right, 2);
    for (number, (flow, accepted)) in flows.iter().enumerate() {
        for len in [64, 40_000] {
            echo(flow, accepted, number, len);
        }
    }
}

#[test]
fn the_kernels_sockets_live_on_beside_a_sidecar_on_the_same_interface() {
    let Some(hub) = hosts(1) else { return };
    let [left, right] = [0, 1].map(|host| sidecar(&hub, host, 1, |_| {}));
    let (_attachments, flows) = connect_all(&left, &right, 1);
    let there = hub.run_in(1, || TcpListener::bind((hub.address(1), 22))).unwrap();
    let mut stream = hub.run_in(0, || TcpStream::connect((hub.address(1), 22))).unwrap();
    let (mut served, _) = there.accept().unwrap();
    let sockets =
        [0, 1].map(|host| hub.run_in(host, || UdpSocket::bind((hub.address(host), 5_353))).unwrap());
    for socket in &sockets {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for number in 0..50 {
        use std::io::{Read, Write};
        let mut buffer = [0; 1_000];
        echo(&flows[0].0, &flows[0].1, number, 3_000);
        stream.write_all(&[7; 1_000]).unwrap();
        served.read_exact(&mut buffer).unwrap();
        sockets[0].send_to(&[8; 1_000], sockets[1].local_addr().unwrap()).unwrap();
        assert_eq!(sockets[1].recv_from(&mut buffer).unwrap().0, 1_000);
    }
}

#[test]
fn flows_outlive_a_link_that_goes_down_and_up() {
    let Some(hub) = hosts(2) else { return };
    let [left, right] = [0, 1].map(|host| sidecar(&hub, host, 2, |_| {}));
    let (_attachments, flows) = connect_all(&left, &right, 2);
    for round in 0..2 {
        for host in [0, 1] {
            hub.ip(host, "link set mn0 down");
            for (number, (flow, _)) in flows.iter().enumerate() {
                flow.send_timeout(&pattern(number + round, 500), PATIENCE).unwrap();
            }
            hub.ip(host, "link set mn0 up");
            for (number, (flow, accepted)) in flows.iter().enumerate() {
                let got = accepted.recv_timeout(PATIENCE).unwrap();
                assert!(*got == *pattern(number + round, 500));
                drop(got);
                echo(flow, accepted, number, 2_000);
            }
        }
    }
}

#[test]
fn an_interface_that_is_deleted_ends_flows_with_a_reason_and_serves_again_when_it_is_back() {
    let Some(hub) = hosts(2) else { return };
    let [left, right] = [0, 1].map(|host| sidecar(&hub, host, 2, |config| config.connect_timeout_ms = 500));
    let (attachments, flows) = connect_all(&left, &right, 2);
    hub.delete(1);
    for (_, accepted) in &flows {
        assert!(accepted.recv_timeout(PATIENCE).is_err(), "a flow over an interface that is gone has ended");
    }
    drop((attachments, flows));
    hub.create(1);
    let client = left.attach();
    let mut server = None;
    eventually("a listener after the interface is back", || {
        let attachment = right.attach();
        let listener = attachment.listen(right.at(200), 16);
        server = listener.ok().map(|listener| (attachment, listener));
        server.is_some()
    });
    let (_attachment, listener) = server.unwrap();
    let mut flow = None;
    eventually("a flow after the interface is back", || {
        flow = client.connect(right.at(200)).ok();
        flow.is_some()
    });
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    echo(&flow.unwrap(), &accepted, 1, 10_000);
}

/// A sidecar in a process of its own, that the test may kill.
struct Process {
    child: Child,
    directory: PathBuf,
}

impl Process {
    fn start(hub: &Hub, host: usize) -> Self {
        let directory = common::scratch_directory();
        std::fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_machnet"));
        let port = UDP_PORT.to_string();
        let address = hub.address(host).to_string();
        command.args(["up", "--driver", "xdp", "--address", &address, "--udp-port", &port, "--socket"]);
        command.arg(directory.join("machnet.sock")).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = hub.run_in(host, || command.spawn().unwrap());
        Self { child, directory }
    }

    fn attach(&mut self) -> Attachment {
        let options = machnet_client::AttachOptions::new().socket(self.directory.join("machnet.sock"));
        let mut attached = None;
        eventually("a sidecar that can be attached to", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut text = String::new();
                let stderr = self.child.stderr.as_mut().unwrap();
                std::io::Read::read_to_string(stderr, &mut text).unwrap();
                panic!("the sidecar ended ({status}): {text}");
            }
            attached = options.clone().attach().ok();
            attached.is_some()
        });
        attached.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_sidecar_that_is_killed_leaves_nothing_and_a_new_one_serves_at_once() {
    let Some(hub) = hosts(1) else { return };
    let left = sidecar(&hub, 0, 1, |config| (config.dead_after_ms, config.connect_timeout_ms) = (2_000, 500));
    let client = left.attach();
    for round in 0..3 {
        let mut killed = Process::start(&hub, 1);
        let server = killed.attach();
        let listener = server.listen(SocketAddr::from((hub.address(1), 300)), 4).unwrap();
        let mut flow = None;
        eventually("a flow to a sidecar that was just started", || {
            flow = client.connect(SocketAddr::from((hub.address(1), 300))).ok();
            flow.is_some()
        });
        let flow = flow.unwrap();
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        echo(&flow, &accepted, round, 5_000);
        assert!(hub.ip(1, "link show mn0").contains("prog/xdp"));
        // kill -9
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        eventually("an interface without a program", || !hub.ip(1, "link show mn0").contains("prog/xdp"));
    }
}

#[test]
fn a_second_sidecar_at_the_same_address_is_refused_by_name() {
    let Some(hub) = hosts(1) else { return };
    let _first = sidecar(&hub, 0, 1, |_| {});
    let config = Config {
        driver: DriverKind::Xdp,
        address: hub.address(0).into(),
        udp_port: UDP_PORT,
        ..Config::default()
    };
    let error = hub.run_in(0, || xdp::open(&config)).unwrap_err();
    assert!(matches!(error, xdp::OpenError::Address { .. }), "{error:?}");
    let other_port = Config { udp_port: UDP_PORT + 100, ..config };
    let error = hub.run_in(0, || xdp::open(&other_port)).unwrap_err();
    assert!(matches!(error, xdp::OpenError::Occupied { .. }), "{error:?}");
}

#[test]
fn settings_that_do_not_fit_are_refused_with_a_sentence() {
    let Some(hub) = hosts(1) else { return };
    let config = |change: fn(&mut Config)| {
        let mut config = Config { address: hub.address(0).into(), udp_port: UDP_PORT, ..Config::default() };
        change(&mut config);
        hub.run_in(0, || xdp::open(&config)).unwrap_err().to_string()
    };
    let text = config(|config| config.address = "::1".parse().unwrap());
    assert!(text.contains("IPv4"), "{text}");
    let text = config(|config| config.address = "127.0.0.1".parse().unwrap());
    assert!(text.contains("no Ethernet interface"), "{text}");
    let text = config(|config| config.interface = Some("nosuch0".to_owned()));
    assert!(text.contains("nosuch0"), "{text}");
    let text = config(|config| config.address = "10.99.0.1".parse().unwrap());
    assert!(text.contains("10.99.0.1"), "{text}");
    let text = config(|config| config.engines = 3);
    assert!(text.contains("--engines 1"), "{text}");
}
