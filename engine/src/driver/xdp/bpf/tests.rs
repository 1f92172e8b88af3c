//! The program by the kernel's own hand, over a table of frames.

use super::*;
use crate::proto::PortRange;
use socket2::{Domain, Socket, Type};
use std::os::fd::AsFd;

const PASS: u32 = program::XDP_PASS;
const REDIRECT: u32 = 4;

const OURS: [u8; 4] = [10, 0, 0, 2];
const PORTS: PortRange = PortRange::new(31_580, 31_643).unwrap();

/// A datagram of 4 bytes: the Ethernet header with these words behind the addresses, IPv4, UDP.
fn datagram(ethernet: &[u16], to: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(ethernet.iter().flat_map(|word| word.to_be_bytes()));
    frame.extend([0x45, 0, 0, 32, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1]);
    frame.extend(to);
    frame.extend([0x7b, 0x5c]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 12, 0, 0]);
    frame.extend(b"data");
    frame
}

fn changed(mut frame: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    frame[at] = to;
    frame
}

/// Frames, what they are, and whether a program without a VLAN and one for VLAN 7 take them.
fn frames() -> Vec<(&'static str, Vec<u8>, bool, bool)> {
    let plain = || datagram(&[0x0800], OURS, 31_580);
    let tagged = |control: u16| datagram(&[0x8100, control, 0x0800], OURS, 31_580);
    let to_port = |port| datagram(&[0x0800], OURS, port);
    let tagged_to = |port| datagram(&[0x8100, 7, 0x0800], OURS, port);
    vec![
        ("a datagram of ours", plain(), true, false),
        ("to the last port", to_port(31_643), true, false),
        ("to the port before", to_port(31_579), false, false),
        ("to the port behind", to_port(31_644), false, false),
        (
            "to a port whose bytes are those of ours in the wrong order",
            to_port(31_580_u16.swap_bytes()),
            false,
            false,
        ),
        ("to SSH", to_port(22), false, false),
        ("to another address", datagram(&[0x0800], [10, 0, 0, 3], 31_580), false, false),
        ("to everybody", datagram(&[0x0800], [255; 4], 31_580), false, false),
        ("with padding behind it", [plain(), vec![0; 14]].concat(), true, false),
        ("the shortest", plain()[..42].to_vec(), true, false),
        ("cut in the UDP header", plain()[..41].to_vec(), false, false),
        ("only an Ethernet header", plain()[..14].to_vec(), false, false),
        ("that may not be cut", changed(plain(), 20, 0x40), true, false),
        ("the first fragment", changed(plain(), 20, 0x20), false, false),
        ("a later fragment", changed(plain(), 21, 1), false, false),
        ("a fragment far behind", changed(plain(), 20, 0x10), false, false),
        ("with IPv4 options", changed(plain(), 14, 0x46), false, false),
        ("of IP version 6 in an IPv4 frame", changed(plain(), 14, 0x65), false, false),
        ("TCP", changed(plain(), 23, 6), false, false),
        ("ICMP", changed(plain(), 23, 1), false, false),
        ("IPv6", datagram(&[0x86dd], OURS, 31_580), false, false),
        ("ARP", datagram(&[0x0806], OURS, 31_580), false, false),
        ("in VLAN 7", tagged(7), false, true),
        ("in VLAN 7 with a priority", tagged(0xe007), false, true),
        ("in VLAN 7 to the last port", tagged_to(31_643), false, true),
        ("in VLAN 7 to the port behind", tagged_to(31_644), false, false),
        ("in VLAN 8", tagged(8), false, false),
        ("in VLAN 263, whose low byte is 7", tagged(0x107), false, false),
        ("in VLAN 7, cut in the UDP header", tagged(7)[..45].to_vec(), false, false),
        ("in VLAN 7, ARP", datagram(&[0x8100, 7, 0x0806], OURS, 31_580), false, false),
        ("in a provider's VLAN 7", datagram(&[0x88a8, 7, 0x0800], OURS, 31_580), false, false),
    ]
}

#[test]
fn the_kernel_runs_the_program_and_takes_what_is_ours_out_of_all_frames() {
    let map = match SocketMap::new(1) {
        Ok(map) => map,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("SKIPPED: no permission to make a BPF map ({error}); run the tests as root");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let address = Some(OURS.into());
    let programs =
        [None, Some(7)].map(|vlan| Program::load(&Match { address, ports: PORTS, vlan }, &map).unwrap());
    let any = Program::load(&Match { address: None, ports: PORTS, vlan: None }, &map).unwrap();
    let answer = |program: &Program, frame: &[u8]| program.answer(frame).unwrap();

    let ours = &frames()[0].1;
    assert_eq!(answer(&programs[0], ours), PASS, "a queue without a socket keeps nothing from the kernel");
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).unwrap();
    map.set(0, socket.as_fd()).unwrap();
    for (what, frame, plain, tagged) in frames() {
        for (program, taken) in programs.iter().zip([plain, tagged]) {
            let wanted = if taken { REDIRECT } else { PASS };
            assert_eq!(answer(program, &frame), wanted, "a frame {what}");
        }
    }
    let to_other = datagram(&[0x0800], [10, 0, 0, 3], 31_580);
    assert_eq!(answer(&any, &to_other), REDIRECT, "no address was given");
}
