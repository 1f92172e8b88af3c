//! Whole sidecars over real interfaces: two hosts in namespaces, joined by a veth pair, with every pair of drivers, with several
//! engines, and through everything that happens to an interface.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;
#[path = "common/meeting.rs"]
mod meeting;
mod netns;

use common::{PATIENCE, TestSidecar, eventually, pattern};
use machnet_client::{Attachment, Error, Flow, Listener, ResetReason};
use machnet_engine::config::{Config, DriverKind};
use netns::{End, Link, Shape};
use socket2::{Domain, Protocol, Type};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const UDP_PORT: u16 = 18_000;

/// A driver that two hosts on a veth pair can have.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    configure: fn(&mut Config),
    /// What it lacks here, if anything.
    lacks: fn() -> Option<String>,
}

/// Every driver of the matrix that needs nothing else; those with `dpdk` are in engine/tests/dpdk_sidecars.rs.
const ROWS: &[Row] = &[
    Row { name: "udp", configure: |config| config.driver = DriverKind::Udp, lacks: || None },
    Row { name: "packet", configure: |config| config.driver = DriverKind::Packet, lacks: || None },
    Row { name: "xdp", configure: |config| config.driver = DriverKind::Xdp, lacks: lacks_bpf },
];

/// Programs for the kernel need a right that the root of a user namespace of one's own does not have.
fn lacks_bpf() -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_root =
        map.split_whitespace().eq(["0", "0", "4294967295"]) && machnet_client::socket::effective_user() == 0;
    (!is_root).then(|| "driver xdp needs CAP_BPF outside of a user namespace".to_owned())
}

const PACKET: Row = ROWS[1];

fn start(link: &Link, end: End, row: Row, engines: u32) -> TestSidecar {
    link.run_in(end, || {
        TestSidecar::start(&link.address(end).to_string(), |config| {
            (row.configure)(config);
            (config.udp_port, config.engines) = (UDP_PORT, engines);
        })
    })
}

fn two(link: &Link, engines: u32) -> (TestSidecar, TestSidecar) {
    (start(link, End::Left, PACKET, engines), start(link, End::Right, PACKET, engines))
}

fn connected(client: &Attachment, server: &TestSidecar, listener: &Listener) -> (Flow, Flow) {
    let flow = client.connect_timeout(server.at(listener.local_addr().port()), None, Some(PATIENCE)).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    (flow, accepted)
}

/// The same message there and back.
fn exchange(flow: &Flow, accepted: &Flow, number: usize, len: usize) {
    meeting::echo(flow, accepted, number, len);
}

fn reaches(left_row: Row, right_row: Row) {
    if let Some(reason) = (left_row.lacks)().or_else(right_row.lacks) {
        println!("SKIPPED: {reason}");
        return;
    }
    let Some(link) = Link::new() else { return };
    let left = start(&link, End::Left, left_row, 1);
    let right = start(&link, End::Right, right_row, 1);
    for (client, server) in [(&left, &right), (&right, &left)] {
        let (of_client, of_server) = (client.attach(), server.attach());
        let listener = of_server.listen("0.0.0.0:7", 8).unwrap();
        let (flow, accepted) = connected(&of_client, server, &listener);
        for (number, len) in
            [1, 112, 113, 1_400, 1_500, 9_000, 40_000, 100_000, 8 << 20].into_iter().enumerate()
        {
            exchange(&flow, &accepted, number, len);
        }
    }
    println!("{} and {}: messages of every size, both ways", left_row.name, right_row.name);
}

/// A test for each pair of rows, so that each is counted, or skipped, on its own.
macro_rules! matrix {
    ($($name:ident: $left:literal, $right:literal;)+) => {
        mod messages_of_every_size_go_both_ways_between {
            $(#[test] fn $name() { super::reaches(super::ROWS[$left], super::ROWS[$right]); })+
        }
    };
}

matrix! {
    udp_and_udp: 0, 0;
    udp_and_packet: 0, 1;
    udp_and_xdp: 0, 2;
    packet_and_udp: 1, 0;
    packet_and_packet: 1, 1;
    packet_and_xdp: 1, 2;
    xdp_and_udp: 2, 0;
    xdp_and_packet: 2, 1;
    xdp_and_xdp: 2, 2;
}

#[test]
fn engines_of_two_hosts_find_each_other_over_the_kernels_hash() {
    for (left_engines, right_engines) in [(1, 1), (2, 2), (1, 4), (4, 2), (4, 4)] {
        let Some(link) = Link::new() else { return };
        let left = start(&link, End::Left, PACKET, left_engines);
        let right = start(&link, End::Right, PACKET, right_engines);
        meeting::all_to_all(&left, left_engines, &right, right_engines);
    }
}

#[test]
fn hosts_with_jumbo_frames_use_them() {
    let Some(link) = Link::with(Shape { mtu: 9_000, ..Shape::default() }) else { return };
    let (left, right) = two(&link, 1);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    eventually("the flow finds out what the path takes", || {
        exchange(&flow, &accepted, 1, 1 << 20);
        meeting::flows(&left)[0].datagram_size > 8_000
    });
}

#[test]
fn an_address_that_the_kernel_does_not_have_is_answered_for() {
    let Some(link) = Link::with(Shape { kernel_has_addresses: false, ..Shape::default() }) else { return };
    let alone = |end| {
        link.run_in(end, || {
            TestSidecar::start(&link.address(end).to_string(), |config| {
                (config.driver, config.udp_port) = (DriverKind::Packet, UDP_PORT);
                (config.interface, config.prefix) = (Some(link.interface().to_owned()), Some(24));
            })
        })
    };
    let (left, right) = (alone(End::Left), alone(End::Right));
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    exchange(&flow, &accepted, 1, 100_000);
}

#[test]
fn a_vlan_of_the_drivers_own_joins_two_hosts() {
    let Some(link) = Link::new() else { return };
    let tagged = |end, vlan| {
        link.run_in(end, || {
            TestSidecar::start(&link.address(end).to_string(), |config| {
                (config.driver, config.udp_port) = (DriverKind::Packet, UDP_PORT);
                (config.vlan, config.prefix) = (Some(vlan), Some(24));
                config.interface = Some(link.interface().to_owned());
            })
        })
    };
    let left = tagged(End::Left, 7);
    let right = tagged(End::Right, 7);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    exchange(&flow, &accepted, 1, 100_000);
    drop((flow, accepted, listener, server, right));
    // Another VLAN of the same cable is another network.
    let right = tagged(End::Right, 8);
    let server = right.attach();
    let _listener = server.listen("0.0.0.0:7", 8).unwrap();
    let result = client.connect_timeout(right.at(7), None, Some(Duration::from_millis(500)));
    assert!(matches!(result, Err(Error::ConnectTimedOut { .. })), "{:?}", result.err());
}

#[test]
fn a_flow_lives_through_a_link_that_goes_down_and_up_again() {
    for (down, engines) in [(End::Left, 1), (End::Right, 1), (End::Left, 2)] {
        let Some(link) = Link::new() else { return };
        let (left, right) = two(&link, engines);
        let (client, server) = (left.attach(), right.attach());
        let listener = server.listen("0.0.0.0:7", 8).unwrap();
        let (flow, accepted) = connected(&client, &right, &listener);
        exchange(&flow, &accepted, 1, 3_000);
        link.set_down(down);
        flow.send(b"on its way").unwrap();
        let nothing = accepted.recv_timeout(Duration::from_millis(100));
        assert!(matches!(nothing, Err(Error::TimedOut)), "{nothing:?}");
        link.set_up(down);
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"on its way");
        exchange(&flow, &accepted, 2, 3_000);
    }
}

#[test]
fn a_flow_lives_through_addresses_that_are_taken_away_and_given_back() {
    let Some(link) = Link::new() else { return };
    let (left, right) = two(&link, 1);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    for end in End::BOTH {
        let address = format!("{}/24", link.address(end));
        link.ip(end, &format!("address del {address} dev mn0"));
        exchange(&flow, &accepted, 1, 3_000);
        link.ip(end, &format!("address add {address} dev mn0"));
        exchange(&flow, &accepted, 2, 3_000);
    }
}

#[test]
fn a_flow_lives_through_a_new_hardware_address() {
    let Some(link) = Link::new() else { return };
    let (left, right) = two(&link, 1);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 8).unwrap();
    let (flow, accepted) = connected(&client, &right, &listener);
    exchange(&flow, &accepted, 1, 3_000);
    link.ip(End::Right, "link set mn0 address 02:00:00:00:77:02");
    exchange(&flow, &accepted, 2, 3_000);
    link.ip(End::Left, "link set mn0 address 02:00:00:00:77:01");
    exchange(&flow, &accepted, 3, 3_000);
}

#[test]
fn an_interface_that_is_deleted_ends_its_flows_and_serves_again_when_it_is_back() {
    for engines in [1, 2] {
        let Some(link) = Link::new() else { return };
        let (left, right) = two(&link, engines);
        let (client, server) = (left.attach(), right.attach());
        let listener = server.listen("0.0.0.0:7", 8).unwrap();
        let (flow, accepted) = connected(&client, &right, &listener);
        exchange(&flow, &accepted, 1, 3_000);
        link.delete();
        for end in [&flow, &accepted] {
            let outcome = end.recv_timeout(PATIENCE);
            let is_told = matches!(outcome, Err(Error::Reset { reason: ResetReason::InterfaceGone, .. }));
            assert!(is_told, "{outcome:?}");
        }
        drop((flow, accepted, listener));
        // The engine forgets a flow when it has read that the application did.
        eventually("the flow is forgotten", || meeting::flows(&left).is_empty());
        link.create();
        let listener = std::cell::OnceCell::new();
        eventually("one may listen again", || match server.listen("0.0.0.0:8", 8) {
            Ok(new) => listener.set(new).is_ok(),
            Err(_) => false,
        });
        let listener = listener.into_inner().unwrap();
        eventually("the hosts reach each other again", || {
            client.connect_timeout(right.at(8), None, Some(Duration::from_secs(1))).is_ok()
        });
        let _first = listener.accept_timeout(PATIENCE).unwrap();
        let (flow, accepted) = connected(&client, &right, &listener);
        exchange(&flow, &accepted, 2, 100_000);
    }
}

#[test]
fn messages_in_great_number_arrive_once_and_in_order() {
    let Some(link) = Link::new() else { return };
    let (left, right) = two(&link, 2);
    let (client, server) = (left.attach(), right.attach());
    let listener = server.listen("0.0.0.0:7", 64).unwrap();
    let flows: Vec<_> = (0..6).map(|_| connected(&client, &right, &listener)).collect();
    std::thread::scope(|scope| {
        for (sender, receiver) in &flows {
            scope.spawn(move || {
                for number in 0..500_usize {
                    sender.send_timeout(&pattern(number, 1 + number * 7 % 3_000), PATIENCE).unwrap();
                }
            });
            scope.spawn(move || {
                for number in 0..500_usize {
                    let got = receiver.recv_timeout(PATIENCE).unwrap();
                    assert!(*got == *pattern(number, 1 + number * 7 % 3_000), "message {number}");
                }
            });
        }
    });
}

/// Records what passes an interface, in the order in which its host sees it.
struct Tap(socket2::Socket);

impl Tap {
    fn new(link: &Link, end: End) -> Self {
        let all = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be());
        let open = || socket2::Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).unwrap();
        let socket = link.run_in(end, open);
        socket.set_nonblocking(true).unwrap();
        // As much as this user may have.
        socket.set_recv_buffer_size(64 << 20).unwrap();
        Self(socket)
    }

    /// All that passed so far, as a file that capture tools read (pcap).
    fn write_to(&self, path: &Path) -> usize {
        const SNAP_BYTES: u32 = 65_536;
        const ETHERNET: u32 = 1;
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, SNAP_BYTES, ETHERNET] {
            file.extend(u32::to_ne_bytes(word));
        }
        let (mut bytes, mut frames) = (vec![0; 1 << 16], 0);
        while let Ok(length) = (&self.0).read(&mut bytes) {
            let length_word = u32::try_from(length).unwrap();
            for word in [frames, 0, length_word, length_word] {
                file.extend(u32::to_ne_bytes(word));
            }
            file.extend(&bytes[..length]);
            frames += 1;
        }
        std::fs::write(path, file).unwrap();
        usize::try_from(frames).unwrap()
    }
}

fn tshark(capture: &Path, words: &[&str]) -> String {
    let mut command = Command::new("tshark");
    command
        .args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-r"])
        .arg(capture)
        .args(words);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_goes_out_is_valid_to_an_independent_reader() {
    if Command::new("tshark").arg("--version").output().is_err() {
        println!("SKIPPED: tshark is not installed (package tshark; ci/setup.sh installs it)");
        return;
    }
    for vlan in [None, Some(7)] {
        let Some(link) = Link::new() else { return };
        let host = |end| {
            link.run_in(end, || {
                TestSidecar::start(&link.address(end).to_string(), |config| {
                    (config.driver, config.udp_port, config.vlan) = (DriverKind::Packet, UDP_PORT, vlan);
                    config.prefix = Some(24);
                    config.interface = Some(link.interface().to_owned());
                })
            })
        };
        let tap = Tap::new(&link, End::Left);
        let (left, right) = (host(End::Left), host(End::Right));
        let (client, server) = (left.attach(), right.attach());
        let listener = server.listen("0.0.0.0:7", 8).unwrap();
        let (flow, accepted) = connected(&client, &right, &listener);
        for len in (1..70).chain([1_400, 1_500, 9_000, 40_000]) {
            exchange(&flow, &accepted, len, len);
        }
        let directory = common::scratch_directory();
        std::fs::create_dir_all(&directory).unwrap();
        let capture = directory.join("frames.pcap");
        let frames = tap.write_to(&capture);
        assert!(frames > 140, "{frames} frames");
        let wrong = tshark(&capture, &["-Y", "_ws.malformed || _ws.expert.severity == error"]);
        assert_eq!(wrong, "", "malformed frames");
        let fields = [
            "ip.checksum.status",
            "udp.checksum.status",
            "ip.flags.mf",
            "ip.frag_offset",
            "ip.len",
            "udp.length",
        ];
        let words: Vec<&str> = fields.iter().flat_map(|field| ["-e", field]).collect();
        let ours = ["-Y", "udp", "-T", "fields", "-E", "separator=,", "-e", "frame.len"];
        let lines = tshark(&capture, &[&ours[..], &words].concat());
        // The kernel takes the tag out of what comes in before a tap sees it.
        let headers = if vlan.is_some() { [14, 18] } else { [14, 14] };
        assert!(lines.lines().count() > 140, "{lines}");
        for line in lines.lines() {
            let cells: Vec<&str> = line.split(',').collect();
            let [frame, ip_status, udp_status, more, offset, ip, udp] = cells[..] else { panic!("{line}") };
            // 1: right; tshark counted itself.
            assert_eq!((ip_status, udp_status), ("1", "1"), "checksums: {line}");
            assert!(["0", "False"].contains(&more) && offset == "0", "a fragment: {line}");
            let number = |text: &str| text.parse::<usize>().unwrap();
            assert_eq!(number(ip), number(udp) + 20, "{line}");
            assert!(headers.contains(&(number(frame) - number(ip))), "{line}");
            assert!(number(ip) <= 1_500, "{line}");
        }
        if let Some(vlan) = vlan {
            let tagged = tshark(&capture, &["-Y", &format!("udp && vlan.id == {vlan}")]);
            assert!(tagged.lines().count() > 70, "what goes out has the tag: {tagged}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
