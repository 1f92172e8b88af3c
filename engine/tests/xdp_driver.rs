//! Driver xdp on veth pairs in network namespaces of our own: frames as they are on the interface, what the kernel keeps, queues,
//! checksums of local peers, faults. `driver_conformance.rs` has what every network path must do.
#![expect(clippy::unwrap_used, reason = "a test that meets an error ends")]

mod netns;

use machnet_engine::config::{Choice, XdpMode};
use machnet_engine::driver::frame::{FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use machnet_engine::driver::xdp::{self, AttachBy, Match, Mode, OpenError, Settings, XdpQueue};
use machnet_engine::proto::PortRange;
use netns::{End, Link, Shape};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

const PORTS: PortRange = PortRange::new(21_580, 21_643).unwrap();

/// Looks before a test gives up, with a pause of a millisecond between them.
const PATIENCE: u32 = 5_000;

fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

fn settings(link: &Link, end: End, queues: u32) -> Settings {
    Settings {
        interface: link.interface().to_owned(),
        frames: Match { address: Some(link.address(end)), ports: PORTS, vlan: None },
        mode: XdpMode::Auto,
        zero_copy: Choice::Auto,
        queues,
        attach_by: AttachBy::default(),
    }
}

fn try_open(link: &Link, end: End, settings: Settings) -> Result<Vec<XdpQueue>, OpenError> {
    link.run_in(end, || xdp::open_queues(settings))
}

fn open_with(link: &Link, end: End, change: impl FnOnce(&mut Settings)) -> XdpQueue {
    let mut settings = settings(link, end, 1);
    change(&mut settings);
    try_open(link, end, settings).unwrap().pop().unwrap()
}

fn open(link: &Link, end: End) -> XdpQueue {
    open_with(link, end, |_| {})
}

/// A link, and whether programs may be loaded here; says `SKIPPED` else.
fn link(shape: Shape) -> Option<Link> {
    let link = Link::with(shape)?;
    match try_open(&link, End::Left, settings(&link, End::Left, shape.queues)) {
        Err(error @ (OpenError::Permission { .. } | OpenError::Missing { .. })) => {
            println!("SKIPPED: {error}");
            None
        }
        other => {
            other.unwrap();
            Some(link)
        }
    }
}

fn mac(text: &str) -> [u8; 6] {
    text.parse::<machnet_engine::driver::MacAddress>().unwrap().0
}

/// The one's complement sum of 16-bit words, folded.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for word in part.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// A frame from one end to the other with complete checksums.
fn datagram(link: &Link, from: End, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let (source, target) = (link.address(from).octets(), link.address(from.other()).octets());
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(source);
    ip.extend(target);
    let check = (!sum(&[&ip])).to_be_bytes();
    ip[10..12].copy_from_slice(&check);
    let mut udp = [from_port.to_be_bytes(), to_port.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat();
    let check = (!sum(&[&source, &target, &[0, 17], &udp_len.to_be_bytes(), &udp, payload])).to_be_bytes();
    udp[6..8].copy_from_slice(&check);
    let mut frame = [mac(&link.mac(from.other())), mac(&link.mac(from))].concat();
    frame.extend([8, 0]);
    frame.extend([&ip[..], &udp, payload].concat());
    frame
}

fn try_send(queue: &mut XdpQueue, frame: &[u8]) -> bool {
    let Some(room) = queue.lend(frame.len()) else { return false };
    room.copy_from_slice(frame);
    queue.commit(frame.len(), SentChecksum::Complete);
    true
}

fn send(queue: &mut XdpQueue, frame: &[u8]) {
    assert!(try_send(queue, frame), "no room");
    queue.flush().unwrap();
}

/// Frames that come until there are `count`, with what is known of their checksums.
fn receive(queue: &mut XdpQueue, count: usize) -> Vec<(Vec<u8>, ReceivedChecksum)> {
    let mut frames = Vec::new();
    for _ in 0..PATIENCE {
        while queue.receive(|frame| frames.push((frame.bytes.to_vec(), frame.checksum))).unwrap() > 0 {}
        if frames.len() >= count {
            assert_eq!(frames.len(), count, "more frames came than were sent");
            return frames;
        }
        pause();
    }
    panic!("{} of {count} frames came", frames.len());
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if holds() {
            return;
        }
        pause();
    }
    panic!("{what} never happens");
}

fn kernel_socket(link: &Link, end: End, port: u16) -> UdpSocket {
    let address = (link.address(end), port);
    let socket = link.run_in(end, || UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn frames_of_every_size_pass_between_two_queues_in_both_modes() {
    let Some(link) = link(Shape::default()) else { return };
    for (wanted, found) in
        [(XdpMode::Auto, Mode::Native), (XdpMode::Native, Mode::Native), (XdpMode::Generic, Mode::Generic)]
    {
        let [mut left, mut right] = End::BOTH.map(|end| open_with(&link, end, |it| it.mode = wanted));
        assert_eq!((left.mode(), right.mode()), (Some(found), Some(found)));
        assert!(!left.is_zero_copy(), "veth has no zero-copy sockets");
        assert_eq!((left.mtu(), left.link()), (1_500, LinkState::Up));
        assert_eq!(left.mac().to_string(), link.mac(End::Left));
        for len in (0..=1_472).step_by(46).chain([1_471, 1_472]) {
            let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let frame = datagram(&link, End::Left, 21_580, 21_643, &payload);
            send(&mut left, &frame);
            let (came, _) = receive(&mut right, 1).remove(0);
            assert!(came == frame, "{found:?}: a payload of {len} came as a frame of {}", came.len());
            let answer = datagram(&link, End::Right, 21_643, 21_580, &payload);
            send(&mut right, &answer);
            assert!(receive(&mut left, 1)[0].0 == answer);
        }
    }
}

#[test]
fn many_rounds_of_the_rings_lose_no_frame_and_no_room() {
    let Some(link) = link(Shape::default()) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open(&link, end));
    let mut number = 0_u32;
    for burst in [1, 31, 32, 33, 64, 200, 256].repeat(8) {
        let first = number;
        for _ in 0..burst {
            let frame = datagram(&link, End::Left, 21_580, 21_580, &number.to_be_bytes());
            assert!(try_send(&mut left, &frame), "no room for frame {number} of a burst of {burst}");
            number += 1;
        }
        wait_until("an empty transmit ring", || {
            left.flush().unwrap();
            !left.is_transmit_pending()
        });
        let came = receive(&mut right, burst);
        let numbers = came.iter().map(|(frame, _)| u32::from_be_bytes(frame[42..46].try_into().unwrap()));
        assert!(numbers.eq(first..number), "in order, each once");
    }
    let (sent, received) = (left.counters(), right.counters());
    assert_eq!((sent.sent, received.received), (u64::from(number), u64::from(number)));
    assert_eq!((sent.dropped_queue_full, sent.dropped_error, received.missed), (0, 0, 0));
    assert!(sent.send_calls <= u64::from(number) / 8, "{} calls for {number} frames", sent.send_calls);
    assert_eq!(received.send_calls, 0);
}

#[test]
fn a_receiver_that_does_not_look_loses_frames_and_counts_them() {
    let Some(link) = link(Shape::default()) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open(&link, end));
    let frame = datagram(&link, End::Left, 21_580, 21_580, b"too many");
    for _ in 0..1_000 {
        if !try_send(&mut left, &frame) {
            left.flush().unwrap();
        }
    }
    left.flush().unwrap();
    wait_until("a loss that is counted", || right.link() == LinkState::Up && right.counters().missed > 0);
    let mut came = 0;
    wait_until("the end of what was kept", || {
        came += right.receive(|_| {}).unwrap();
        came >= 256
    });
    // Room again.
    send(&mut left, &frame);
    assert_eq!(receive(&mut right, 1)[0].0, frame);
    let mut names = Vec::new();
    right.statistics(&mut |name, value| names.push((name.to_owned(), value)));
    assert!(names.iter().any(|(name, value)| name.starts_with("rx_") && *value > 0), "{names:?}");
}

#[test]
fn the_kernel_goes_on_serving_all_other_ports_and_answers_arp_on_the_same_interface() {
    let Some(link) = link(Shape::default()) else { return };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let mut left = open_with(&link, End::Left, |it| it.mode = mode);
        let there = kernel_socket(&link, End::Left, 2_222);
        let here = kernel_socket(&link, End::Right, 3_333);
        for round in 0..20_u8 {
            here.send_to(&[round; 900], there.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 2_000];
            let (len, from) = there.recv_from(&mut buffer).unwrap();
            assert_eq!((len, buffer[0]), (900, round));
            there.send_to(b"seen", from).unwrap();
            assert_eq!(here.recv_from(&mut buffer).unwrap().0, 4);
        }
        let address = (link.address(End::Left), 2_223);
        let server = link.run_in(End::Left, || std::net::TcpListener::bind(address)).unwrap();
        let client = link.run_in(End::Right, || std::net::TcpStream::connect(address)).unwrap();
        let (served, _) = server.accept().unwrap();
        drop((client, served));
        let mut ours = 0;
        let is_arp = |bytes: &[u8]| bytes[12..14] == [8, 6];
        left.receive(|frame| ours += usize::from(!is_arp(frame.bytes))).unwrap();
        assert_eq!(ours, 0, "{mode:?}: frames of other ports came to us");
    }
}

#[test]
fn a_kernel_peers_half_checksum_is_vouched_for_in_native_mode_and_refused_in_generic_mode() {
    let Some(link) = link(Shape::default()) else { return };
    for (mode, half) in
        [(XdpMode::Native, ReceivedChecksum::Good), (XdpMode::Generic, ReceivedChecksum::Wrong)]
    {
        let mut left = open_with(&link, End::Left, |it| it.mode = mode);
        let peer = kernel_socket(&link, End::Right, 4_444);
        peer.send_to(b"whose sum?", (link.address(End::Left), 21_600)).unwrap();
        let (frame, checksum) = receive_datagrams(&mut left, 1).remove(0);
        assert_eq!((&frame[42..52], checksum), (&b"whose sum?"[..], half), "{mode:?}");
        // A complete one is left to be computed.
        let mut right = open_with(&link, End::Right, |it| it.mode = mode);
        send(&mut right, &datagram(&link, End::Right, 21_580, 21_580, b"whose sum?"));
        assert_eq!(receive_datagrams(&mut left, 1)[0].1, ReceivedChecksum::Unknown, "{mode:?}");
    }
}

#[test]
fn a_run_of_datagrams_that_the_kernel_did_not_cut_is_never_taken_for_one() {
    use machnet_engine::driver::Driver;
    use machnet_engine::driver::udp::{UdpConfig, UdpDriver};
    let Some(link) = link(Shape::default()) else { return };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let mut left = open_with(&link, End::Left, |it| it.mode = mode);
        let address = (link.address(End::Right), 23_580).into();
        let mut peer = link.run_in(End::Right, || UdpDriver::open(address, &UdpConfig::default())).unwrap();
        // Three datagrams of one length to one address leave as one run, which fits a frame.
        let to = (link.address(End::Left), 21_600).into();
        let send = |peer: &mut UdpDriver, len: usize| {
            for fill in 1..=3 {
                peer.lend(23_580, to, len).unwrap().fill(fill);
                peer.commit(len);
            }
            peer.flush().unwrap();
        };
        send(&mut peer, 400);
        let mut came = Vec::new();
        wait_until("the arrival of the run", || {
            let take = |frame: &machnet_engine::driver::frame::Frame<'_>| {
                if frame.bytes[12..14] == [8, 0] {
                    came.push((frame.bytes.len(), frame.checksum));
                }
            };
            left.receive(take).unwrap();
            came.iter().map(|(bytes, _)| bytes - 42).sum::<usize>() >= 1_200
        });
        match mode {
            XdpMode::Generic => assert_eq!(came, [(1_242, ReceivedChecksum::Wrong)]),
            _ => assert_eq!(came, [(442, ReceivedChecksum::Good); 3]),
        }
    }
}

/// As [`receive`], without the ARP frames that kernels exchange.
fn receive_datagrams(queue: &mut XdpQueue, count: usize) -> Vec<(Vec<u8>, ReceivedChecksum)> {
    let mut frames = Vec::new();
    wait_until("the arrival of all datagrams", || {
        let keep = |frame: &machnet_engine::driver::frame::Frame<'_>| {
            if frame.bytes[12..14] == [8, 0] {
                frames.push((frame.bytes.to_vec(), frame.checksum));
            }
        };
        queue.receive(keep).unwrap();
        frames.len() >= count
    });
    frames
}

#[test]
fn arp_frames_come_to_the_first_queue_and_leave_by_it() {
    let Some(link) = link(Shape::default()) else { return };
    let mut left = open(&link, End::Left);
    // Who has 10.77.x.2? Tell 10.77.x.1.
    let mut question = [[0xff; 6], mac(&link.mac(End::Left))].concat();
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(mac(&link.mac(End::Left)));
    question.extend(link.address(End::Left).octets());
    question.extend([0; 6]);
    question.extend(link.address(End::Right).octets());
    send(&mut left, &question);
    let fd = left.wait_fd().unwrap().as_raw_fd();
    wait_until("an answer that makes the descriptor readable", || is_readable(&left));
    assert!(left.prepare_sleep());
    let (answer, _) = receive(&mut left, 1).remove(0);
    assert_eq!(answer[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    assert_eq!(answer[22..28], mac(&link.mac(End::Right)));
    assert!(!is_readable(&left));
    assert_eq!(left.wait_fd().unwrap().as_raw_fd(), fd);
}

fn is_readable(queue: &XdpQueue) -> bool {
    let mut epoll = machnet_engine::sys::Epoll::new().unwrap();
    let fd: BorrowedFd<'_> = queue.wait_fd().unwrap();
    epoll.add(fd, 1, machnet_engine::sys::Watch::Readable).unwrap();
    epoll.wait(Some(0), |_| {}).unwrap() == 1
}

#[test]
fn the_descriptor_is_readable_exactly_while_a_frame_waits() {
    let Some(link) = link(Shape::default()) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open(&link, end));
    assert!(!is_readable(&right));
    for _ in 0..3 {
        send(&mut left, &datagram(&link, End::Left, 21_580, 21_580, b"wake up"));
        wait_until("a readable descriptor", || is_readable(&right));
        receive(&mut right, 1);
        assert_eq!(right.receive(|_| {}).unwrap(), 0);
        assert!(!is_readable(&right));
    }
}

#[test]
fn each_receive_queue_has_its_own_socket_and_the_kernels_hash_keeps_flows_together() {
    let Some(link) = link(Shape { queues: 4, ..Shape::default() }) else { return };
    let mut queues = try_open(&link, End::Left, settings(&link, End::Left, 4)).unwrap();
    let to = link.address(End::Left);
    let mut used = [0; 4];
    for flow in 0..32_u16 {
        let peer = kernel_socket(&link, End::Right, 5_000 + flow);
        let mut seen = None;
        for _ in 0..4 {
            peer.send_to(&flow.to_be_bytes(), (to, 21_600)).unwrap();
            let mut came = None;
            wait_until("the arrival of a datagram", || {
                for (index, queue) in queues.iter_mut().enumerate() {
                    let take = |frame: &machnet_engine::driver::frame::Frame<'_>| {
                        if frame.bytes[12..14] == [8, 0] {
                            assert_eq!(frame.bytes[42..44], flow.to_be_bytes());
                            came = Some(index);
                        }
                    };
                    queue.receive(take).unwrap();
                }
                came.is_some()
            });
            assert_eq!(*seen.get_or_insert(came), came, "flow {flow} changed its queue");
        }
        used[seen.unwrap().unwrap()] += 1;
    }
    assert!(used.iter().all(|flows| *flows > 0), "flows by queue: {used:?}");
}

#[test]
fn an_interface_with_more_queues_than_engines_is_refused_with_the_command_that_helps() {
    let Some(link) = link(Shape { queues: 2, ..Shape::default() }) else { return };
    for engines in [1, 3] {
        let error = try_open(&link, End::Left, settings(&link, End::Left, engines)).unwrap_err();
        assert!(matches!(error, OpenError::Queues { queues: 2, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("`ethtool -L mn0 rx {engines} tx {engines}`")), "{text}");
    }
}

#[test]
fn what_is_there_already_or_not_there_at_all_is_said() {
    let Some(link) = link(Shape::default()) else { return };
    let first = open(&link, End::Left);
    let mut other = settings(&link, End::Left, 1);
    for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
        other.mode = mode;
        let error = try_open(&link, End::Left, other.clone()).unwrap_err();
        assert!(matches!(error, OpenError::Occupied { program: Some(_), .. }), "{mode:?}: {error:?}");
    }
    drop(first);
    let mut nowhere = settings(&link, End::Left, 1);
    nowhere.interface = "nosuch0".to_owned();
    assert!(matches!(try_open(&link, End::Left, nowhere), Err(OpenError::NoInterface { .. })));
    let mut zero_copy = settings(&link, End::Left, 1);
    zero_copy.zero_copy = Choice::On;
    let error = try_open(&link, End::Left, zero_copy).unwrap_err();
    assert!(matches!(error, OpenError::NoZeroCopy { .. }), "{error:?}");
    open(&link, End::Left);
}

#[test]
fn a_queue_is_opened_again_at_once_and_the_interface_is_left_as_it_was() {
    let Some(link) = link(Shape::default()) else { return };
    for by in [AttachBy::LinkIfPossible, AttachBy::Netlink] {
        for mode in [XdpMode::Native, XdpMode::Generic] {
            for _ in 0..3 {
                let queue = open_with(&link, End::Left, |it| (it.attach_by, it.mode) = (by, mode));
                assert!(link.ip(End::Left, "link show mn0").contains("prog/xdp"));
                drop(queue);
            }
            wait_until("an interface without a program", || {
                !link.ip(End::Left, "link show mn0").contains("prog/xdp")
            });
        }
    }
}

#[test]
fn a_link_that_goes_down_and_up_carries_frames_again() {
    let Some(link) = link(Shape::default()) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open(&link, end));
    let frame = datagram(&link, End::Left, 21_580, 21_580, b"over the link");
    for down in End::BOTH {
        link.set_down(down);
        wait_until("two ends that are down", || {
            (left.link(), right.link()) == (LinkState::Down, LinkState::Down)
        });
        for _ in 0..1_000 {
            // Never out of room, never an error.
            assert!(try_send(&mut left, &frame));
            left.flush().unwrap();
        }
        assert!(!left.is_transmit_pending());
        link.set_up(down);
        wait_until("a link that is up", || left.link() == LinkState::Up && right.link() == LinkState::Up);
        left.flush().unwrap();
        while right.receive(|_| {}).unwrap() > 0 {}
        send(&mut left, &frame);
        assert_eq!(receive_datagrams(&mut right, 1)[0].0, frame);
    }
    assert!(left.counters().dropped_error >= 1_000);
}

#[test]
fn an_interface_that_is_set_down_before_anybody_looks_is_no_error() {
    let Some(link) = link(Shape::default()) else { return };
    let mut left = open(&link, End::Left);
    let frame = datagram(&link, End::Left, 21_580, 21_580, b"into the void");
    link.set_down(End::Left);
    for _ in 0..1_000 {
        assert!(try_send(&mut left, &frame));
        left.flush().unwrap();
    }
    assert_eq!(left.receive(|_| {}).unwrap(), 0);
    assert_eq!(left.link(), LinkState::Down);
}

#[test]
fn an_interface_that_is_deleted_and_made_again_is_found_by_all_its_queues() {
    let Some(link) = link(Shape { queues: 2, ..Shape::default() }) else { return };
    let mut queues = try_open(&link, End::Left, settings(&link, End::Left, 2)).unwrap();
    let fds: Vec<_> = queues.iter().map(|queue| queue.wait_fd().unwrap().as_raw_fd()).collect();
    for _ in 0..2 {
        link.delete();
        for queue in &mut queues {
            assert_eq!(queue.link(), LinkState::Gone);
            assert_eq!(queue.receive(|_| {}).unwrap(), 0);
            assert!(queue.lend(60).is_none());
            queue.flush().unwrap();
            assert!(!is_readable(queue));
            assert!(link.run_in(End::Left, || queue.reopen()).is_err());
            assert_eq!(queue.link(), LinkState::Gone);
        }
        link.create();
        for queue in &mut queues {
            wait_until("an interface that is back", || link.run_in(End::Left, || queue.reopen()).is_ok());
            wait_until("a link that is up", || queue.link() == LinkState::Up);
            assert_eq!(queue.mac().to_string(), link.mac(End::Left));
        }
        let mut right = try_open(&link, End::Right, settings(&link, End::Right, 2)).unwrap();
        for (index, (left, right)) in queues.iter_mut().zip(&mut right).enumerate() {
            let question = datagram(&link, End::Right, 21_580, 21_580, &[u8::try_from(index).unwrap()]);
            send(right, &question);
            assert_eq!(receive_datagrams(left, 1)[0].0, question);
            let answer = datagram(&link, End::Left, 21_580, 21_580, b"back again");
            send(left, &answer);
            assert_eq!(receive_datagrams(right, 1)[0].0, answer);
        }
    }
    assert!(fds.iter().copied().eq(queues.iter().map(|queue| queue.wait_fd().unwrap().as_raw_fd())));
}

#[test]
fn sending_on_an_interface_that_was_deleted_is_an_error_and_the_link_says_gone() {
    let Some(link) = link(Shape::default()) else { return };
    let mut left = open(&link, End::Left);
    let frame = datagram(&link, End::Left, 21_580, 21_580, b"too late");
    link.delete();
    assert!(try_send(&mut left, &frame));
    left.flush().unwrap_err();
    assert_eq!(left.link(), LinkState::Gone);
}

#[test]
fn large_frames_pass_up_to_what_one_page_holds() {
    let Some(link) = link(Shape { mtu: 3_000, ..Shape::default() }) else { return };
    for mode in [XdpMode::Auto, XdpMode::Generic] {
        let [mut left, mut right] = End::BOTH.map(|end| open_with(&link, end, |it| it.mode = mode));
        assert_eq!(left.mtu(), 3_000);
        let frame = datagram(&link, End::Left, 21_580, 21_580, &[7; 3_000 - 28]);
        send(&mut left, &frame);
        assert!(receive_datagrams(&mut right, 1)[0].0 == frame);
    }
}

#[test]
fn an_interface_with_larger_packets_than_a_page_is_used_for_those_that_fit() {
    let Some(link) = link(Shape { mtu: 9_000, ..Shape::default() }) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open(&link, end));
    let mtu = left.mtu();
    assert_eq!(mtu, 3_502);
    let frame = datagram(&link, End::Left, 21_580, 21_580, &vec![7; mtu - 28]);
    send(&mut left, &frame);
    assert!(receive_datagrams(&mut right, 1)[0].0 == frame, "{:?}", right.mode());
    let peer = kernel_socket(&link, End::Right, 6_666);
    let to: (Ipv4Addr, u16) = (link.address(End::Left), 21_600);
    peer.send_to(&[1; 5_000], to).unwrap();
    peer.send_to(b"small", to).unwrap();
    assert_eq!(&receive_datagrams(&mut left, 1)[0].0[42..47], b"small");
}

#[test]
fn only_frames_of_our_vlan_come_and_so_does_its_arp() {
    let Some(link) = link(Shape::default()) else { return };
    let [mut left, mut right] = End::BOTH.map(|end| open_with(&link, end, |it| it.frames.vlan = Some(7)));
    let tagged = |vlan: u8, bytes: &[u8]| [&bytes[..12], &[0x81, 0, 0, vlan], &bytes[12..]].concat();
    let plain = datagram(&link, End::Left, 21_580, 21_580, b"in the VLAN");
    for frame in [plain.clone(), tagged(8, &plain), tagged(7, &plain)] {
        send(&mut left, &frame);
    }
    assert_eq!(receive_datagrams_of_vlan(&mut right), tagged(7, &plain));
    // A gratuitous announcement, in other VLANs and in ours.
    let mut announcement = [[0xff; 6], mac(&link.mac(End::Left))].concat();
    announcement.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    announcement
        .extend([mac(&link.mac(End::Left)).as_slice(), &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 1]].concat());
    for frame in [announcement.clone(), tagged(8, &announcement), tagged(7, &announcement)] {
        send(&mut left, &frame);
    }
    assert!(right.prepare_sleep());
    assert_eq!(receive_datagrams_of_vlan(&mut right), tagged(7, &announcement));
}

fn receive_datagrams_of_vlan(queue: &mut XdpQueue) -> Vec<u8> {
    receive(queue, 1).remove(0).0
}
