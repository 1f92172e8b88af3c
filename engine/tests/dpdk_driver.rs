//! Driver `dpdk` on DPDK's virtual devices, against another process, the kernel, or a second device of this process.
//!
//! ci/dpdk.sh builds the plugin and runs these one after the other.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, too; a time is printed"
)]

mod dpdk;
mod netns;

use dpdk::{Half, number, open, pair, receive, send, socket_path, try_open, until, until_up};
use machnet_engine::driver::dpdk::{DpdkQueue, plugin_info};
use machnet_engine::driver::frame::{FrameCounters, FrameDriver, Framed, LinkState, Setup};
use machnet_engine::driver::{Driver, PathState};
use machnet_engine::proto::PortRange;
use machnet_engine::proto::time::{Duration, Instant};
use netns::{End, Link, Shape};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "the other half of a test"]
fn the_other_half() {
    dpdk::be_the_other_half();
}

/// A frame of `len` bytes with a pattern, from one hardware address to another.
fn frame(len: usize, seed: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at * 7 + seed * 31 + at / 256).to_le_bytes()[0]).collect();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8]);
    // A type that nobody serves (IEEE's for experiments).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn echoed(frame: &[u8]) -> Vec<u8> {
    let mut expected = frame.to_vec();
    expected[..12].rotate_left(6);
    expected.resize(frame.len().max(60), 0);
    expected
}

/// Frames of every size go round on every queue.
fn goes_round(queues: &mut [DpdkQueue]) {
    for queue in queues {
        until_up(queue);
        // A link may be up at one end before the other end looks: what is sent meanwhile is lost.
        let hello = frame(60, 0);
        until("the other end answers", || {
            queue.link();
            send(queue, &hello);
            queue.flush().unwrap();
            queue.receive(|_| ()).unwrap() > 0
        });
        // Then the answers to all that was said too often.
        let mut silence = 0;
        until("the other end is silent", || {
            silence = if queue.receive(|_| ()).unwrap() > 0 { 0 } else { silence + 1 };
            silence > 100
        });
        let before = queue.counters();
        let longest = queue.mtu() + 14;
        let few = (14..=1_514).filter(|len| *len <= longest);
        let lengths = few.chain((1_514..longest).step_by(501)).chain([longest]);
        for (seed, len) in lengths.enumerate() {
            let sent = frame(len, seed);
            send(queue, &sent);
            queue.flush().unwrap();
            let back = receive(queue, 1);
            assert_eq!(back.len(), 1);
            assert!(back[0] == echoed(&sent), "{len} bytes came back as {} or changed", back[0].len());
        }
        // A burst keeps its order.
        let burst: Vec<_> = (0..64).map(|seed| frame(100 + seed, seed)).collect();
        burst.iter().for_each(|frame| send(queue, frame));
        queue.flush().unwrap();
        assert!(receive(queue, burst.len()).into_iter().eq(burst.iter().map(|frame| echoed(frame))));
        let after = queue.counters();
        assert_eq!(after.sent - before.sent, after.received - before.received);
        let drops = |all: FrameCounters| [all.dropped_queue_full, all.dropped_error, all.dropped_truncated];
        assert_eq!(drops(after), drops(before));
    }
}

fn memif(role: &str, socket: &Path) -> String {
    format!("net_memif{},role={role},socket={},socket-abstract=no", number(), socket.display())
}

fn over_memif(queues: u16) {
    let socket = socket_path();
    let mut ours = open(&memif("server", &socket), queues);
    let _half = Half::start(Half::echo(&memif("client", &socket), queues));
    goes_round(&mut ours);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn frames_go_round_over_memif_with_one_queue() {
    over_memif(1);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn frames_go_round_over_memif_with_two_queues() {
    over_memif(2);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn a_peer_that_is_killed_and_started_again_is_there_again() {
    let socket = socket_path();
    let mut ours = open(&memif("server", &socket), 1);
    assert_eq!(ours[0].link(), LinkState::Down);
    for _ in 0..2 {
        let half = Half::start(Half::echo(&memif("client", &socket), 1));
        goes_round(&mut ours);
        half.kill();
        until("the link is down", || ours[0].link() == LinkState::Down);
        // What is sent to nobody is dropped and counted, and blocks nothing.
        let before = ours[0].counters();
        send(&mut ours[0], &frame(100, 0));
        ours[0].flush().unwrap();
        assert!(!ours[0].is_transmit_pending());
        assert_eq!(ours[0].counters().dropped_error, before.dropped_error + 1);
    }
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn frames_go_round_over_vhost_and_virtio_with_two_queues() {
    let socket = socket_path();
    let mut ours = open(&format!("net_vhost{},iface={},queues=2", number(), socket.display()), 2);
    let other = format!("net_virtio_user{},path={},queues=2", number(), socket.display());
    let _half = Half::start(Half::echo(&other, 2));
    goes_round(&mut ours);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn a_queue_with_an_interrupt_wakes_a_sleeper_and_one_without_says_so() {
    let (mut vhost, mut virtio) = pair(1);
    assert!(vhost[0].wait_fd().is_none(), "vhost is only polled");
    assert!(!vhost[0].prepare_sleep(), "so an engine must not sleep long");
    assert!(virtio[0].wait_fd().is_some());
    for seed in 0..3 {
        assert!(virtio[0].prepare_sleep());
        send(&mut vhost[0], &frame(100, seed));
        vhost[0].flush().unwrap();
        assert!(!virtio[0].prepare_sleep(), "what came meanwhile keeps it awake");
        assert_eq!(receive(&mut virtio[0], 1), [frame(100, seed)], "and is not lost");
    }
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn frames_go_round_over_af_packet_between_two_hosts() {
    let Some(link) = Link::with(Shape { queues: 2, kernel_has_addresses: false, ..Shape::default() }) else {
        return;
    };
    let device = || format!("net_af_packet{},iface={},qpairs=1", number(), link.interface());
    let mut ours = link.run_in(End::Left, || open(&device(), 1));
    let _half = link.run_in(End::Right, || Half::start(Half::echo(&device(), 1)));
    goes_round(&mut ours);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn an_interface_that_is_deleted_is_gone_and_comes_back() {
    let Some(link) = Link::with(Shape { kernel_has_addresses: false, ..Shape::default() }) else { return };
    let device = || format!("net_af_packet{},iface={},qpairs=1", number(), link.interface());
    let mut ours = link.run_in(End::Left, || open(&device(), 1));
    until_up(&mut ours[0]);
    link.set_down(End::Left);
    until("the link is down", || ours[0].link() == LinkState::Down);
    link.set_up(End::Left);
    until_up(&mut ours[0]);
    link.delete();
    assert_eq!(ours[0].link(), LinkState::Gone);
    let queue = &mut ours[0];
    link.run_in(End::Left, || queue.reopen()).unwrap_err();
    link.create();
    assert_eq!(ours[0].link(), LinkState::Gone, "another interface of the same name is not ours yet");
    let queue = &mut ours[0];
    link.run_in(End::Left, || queue.reopen()).unwrap();
    let _half = link.run_in(End::Right, || Half::start(Half::echo(&device(), 1)));
    goes_round(&mut ours);
}

/// The kernel's UDP at one end, ours at the other: ARP, checksums and lengths are as the kernel likes them.
#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn the_kernel_talks_to_us_through_a_tap_device() {
    let Some(link) = Link::new() else { return };
    let device = format!("net_tap{},iface=mndtap", number());
    let queues = link.run_in(End::Left, || open(&device, 1));
    // DPDK gives both ends of a tap the same hardware address, and nobody believes a neighbour who has his own.
    link.ip(End::Left, "link set mndtap address 02:00:00:00:78:01");
    link.ip(End::Left, "address add 10.78.0.1/24 dev mndtap");
    link.ip(End::Left, "link set mndtap up");
    let setup = Setup {
        address: [10, 78, 0, 2].into(),
        prefix_bits: 24,
        routes: Vec::new(),
        neighbours: Vec::new(),
        vlan: None,
        udp_port: 18_000,
        ports: PortRange::new(18_000, 18_003).unwrap(),
        mtu: None,
        kernel_answers: false,
    };
    let mut ours = Framed::group(&setup, queues).pop().unwrap();
    assert_eq!(ours.state(), PathState::Up);
    let kernel = link.run_in(End::Left, || UdpSocket::bind("10.78.0.1:0").unwrap());
    kernel.set_nonblocking(true).unwrap();
    let mut now = Instant::ZERO;
    for len in [0, 1, 100, 1_000, 1_472] {
        let question: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
        kernel.send_to(&question, "10.78.0.2:18000").unwrap();
        let mut came: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
        until("the kernel's datagram arrives", || {
            now += Duration::from_millis(1);
            ours.begin_cycle(now);
            ours.receive(|arrival| came.push((arrival.from, arrival.bytes.to_vec()))).unwrap();
            ours.flush().unwrap();
            !came.is_empty()
        });
        assert_eq!(came, [(kernel.local_addr().unwrap(), question.clone())]);
        ours.lend(18_000, came[0].0, len).unwrap().copy_from_slice(&question);
        ours.commit(len);
        ours.flush().unwrap();
        let mut room = [0; 2_000];
        let mut answer = None;
        until("our datagram arrives", || {
            // It may have to ask first who has the kernel's address.
            now += Duration::from_millis(1);
            ours.begin_cycle(now);
            ours.receive(|_| panic!("the kernel says nothing more")).unwrap();
            ours.flush().unwrap();
            answer = kernel.recv_from(&mut room).ok();
            answer.is_some()
        });
        assert_eq!(answer, Some((len, "10.78.0.2:18000".parse().unwrap())));
        assert!(room[..len] == question[..]);
    }
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn the_plugin_names_its_drivers_and_the_port_its_statistics() {
    let info = plugin_info(Some(&dpdk::plugin())).unwrap();
    assert!(info.dpdk.starts_with("DPDK "), "{}", info.dpdk);
    let driver = |name: &str| info.drivers.iter().find(|driver| driver.name == name);
    // Amazon's card, and a device without any.
    assert!(driver("net_ena").unwrap().fits([0x1d0f, 0xec20, 0x1d0f, 0xec20]));
    assert!(!driver("net_memif").unwrap().fits([0x1d0f, 0xec20, 0x1d0f, 0xec20]));
    for name in [
        "net_virtio",
        "net_vmxnet3",
        "net_ixgbe",
        "net_i40e",
        "net_ice",
        "net_iavf",
        "net_netvsc",
        "net_af_packet",
    ] {
        assert!(driver(name).is_some(), "{name} is missing");
    }
    let (mut vhost, mut virtio) = pair(1);
    for seed in 0..5 {
        send(&mut virtio[0], &frame(100, seed));
    }
    virtio[0].flush().unwrap();
    receive(&mut vhost[0], 5);
    let mut found = Vec::new();
    virtio[0].statistics(&mut |name, value| found.push((name.to_owned(), value)));
    assert!(found.contains(&("tx_good_packets".to_owned(), 5)), "{found:?}");
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn what_a_device_does_not_have_is_said_in_one_sentence() {
    let said = |device: &str, queues| {
        let text = try_open(device, queues).unwrap_err().to_string();
        assert!(!text.contains('\n'), "one line: {text}");
        text
    };
    let text = said("net_ring8", 17);
    assert!(text.contains("17 are asked for: start with --engines"), "{text}");
    let text = said("net_nonsense0", 1);
    assert!(text.contains("net_nonsense0") && text.contains("--list-drivers"), "{text}");
    let text = said("net_af_packet7,iface=nosuchinterface", 1);
    assert!(text.contains("no interface nosuchinterface") && text.contains("ip link"), "{text}");
}

/// Libraries that are not the plugin, or not this one.
#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn another_library_is_refused_with_a_sentence() {
    let folder = std::env::temp_dir().join(format!("machnet-dpdk-fake-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let library = |name: &str, source: &str| {
        let (from, to) = (folder.join(name).with_extension("c"), folder.join(name));
        std::fs::write(&from, source).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&to, &from]).status().unwrap();
        assert!(built.success());
        to
    };
    let said = |path: &Path| plugin_info(Some(path)).unwrap_err().to_string();
    let newer =
        "static const unsigned table[] = {99, 4096}; const void *machnet_dpdk_table(void) { return table; }";
    let text = said(&library("newer.so", newer));
    assert!(text.contains("interface 99") && text.contains("dpdk/build.sh"), "{text}");
    let text = said(&library("other.so", "int other(void) { return 0; }"));
    assert!(text.contains("is not Machnet's plugin"), "{text}");
    let text = said(&folder.join("none.so"));
    assert!(text.contains("none.so") && text.contains("No such file"), "{text}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The C header and the Rust declarations mean the same memory.
#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn the_structures_of_c_and_rust_are_the_same() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dpdk/machnet_dpdk.h");
    let folder = std::env::temp_dir().join(format!("machnet-dpdk-abi-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let rust = machnet_engine::driver::dpdk::abi::layout();
    let mut source =
        "#include <stddef.h>\n#include <stdio.h>\n#include \"machnet_dpdk.h\"\nint main(void) {\n".to_owned();
    for (structure, field, _) in &rust {
        let value = match *field {
            "" => format!("sizeof(struct {structure})"),
            field => format!("offsetof(struct {structure}, {field})"),
        };
        source.push_str(&format!("printf(\"%zu\\n\", {value});\n"));
    }
    source.push_str("printf(\"%u\\n\", MACHNET_DPDK_ABI);\nreturn 0; }\n");
    let (from, program) = (folder.join("abi.c"), folder.join("abi"));
    std::fs::write(&from, source).unwrap();
    let built = Command::new("cc")
        .arg("-I")
        .arg(header.parent().unwrap())
        .arg(&from)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(built.unwrap().success());
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let numbers: Vec<usize> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.len(), rust.len() + 1);
    for ((structure, field, ours), theirs) in rust.iter().zip(&numbers) {
        assert_eq!(ours, theirs, "{structure}.{field}");
    }
    assert_eq!(numbers.last().copied(), Some(machnet_engine::driver::dpdk::ABI as usize));
}

/// Not a test of speed: prints what a round trip of a bare frame takes here, spinning at both ends.
#[test]
#[ignore = "run by hand: prints figures"]
fn figures_of_a_bare_frame_over_memif() {
    const ROUNDS: usize = 200_000;
    let socket = socket_path();
    let mut ours = open(&memif("server", &socket), 1).pop().unwrap();
    let _half = Half::start(Half::echo(&memif("client", &socket), 1));
    let sent = frame(64, 1);
    until("the other end answers", || {
        ours.link();
        send(&mut ours, &sent);
        ours.flush().unwrap();
        ours.receive(|_| ()).unwrap() > 0
    });
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        while ours.receive(|_| ()).unwrap() > 0 {}
        let began = std::time::Instant::now();
        send(&mut ours, &sent);
        ours.flush().unwrap();
        while ours.receive(|_| ()).unwrap() == 0 {}
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[ROUNDS * share / 1_000 - 1];
    println!("round trip p50 {:?} p99 {:?} p99.9 {:?}", at(500), at(990), at(999));
}
