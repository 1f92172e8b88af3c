//! Driver packet on veth pairs in namespaces of its own: frames, faults of the interface, and what else the kernel does there.
#![allow(clippy::unwrap_used, reason = "a test that meets an error ends")]

mod netns;

use machnet_engine::driver::frame::{Frame, FrameDriver, LinkState, ReceivedChecksum, SentChecksum};
use machnet_engine::driver::packet::{OpenError, PacketConfig, PacketGroup, PacketQueue};
use machnet_engine::driver::{MacAddress, RECEIVE_BURST, interface};
use machnet_engine::proto::PortRange;
use netns::{End, Link, Shape};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

const PORT: u16 = 18_000;
const PORTS: u16 = 8;
const HEADERS: usize = 14 + 20 + 8;
/// Slots of a ring.
const SLOTS: usize = 256;

/// Looks at a queue before a test gives up, with a pause of 100 us between them.
const PATIENCE: u32 = 50_000;

fn config(link: &Link, end: End) -> PacketConfig {
    PacketConfig {
        interface: interface::find(Some(link.interface()), link.address(end)).unwrap(),
        address: link.address(end),
        ports: PortRange::new(PORT, PORT + PORTS - 1).unwrap(),
        vlan: None,
        kernel_answers: true,
        bypasses_queueing: true,
    }
}

fn open_with(
    link: &Link,
    end: End,
    queues: usize,
    change: impl FnOnce(&mut PacketConfig) + Send,
) -> Result<Vec<PacketQueue>, OpenError> {
    link.run_in(end, || {
        let mut config = config(link, end);
        change(&mut config);
        PacketGroup::open(&config, queues)
    })
}

fn open(link: &Link, end: End) -> PacketQueue {
    open_with(link, end, 1, |_| {}).unwrap().pop().unwrap()
}

fn pair() -> Option<(Link, PacketQueue, PacketQueue)> {
    let link = Link::new()?;
    let (left, right) = (open(&link, End::Left), open(&link, End::Right));
    Some((link, left, right))
}

/// A UDP datagram over IPv4 in a frame, with a VLAN tag if one is given, without a UDP checksum.
fn frame(link: &Link, from: End, to: MacAddress, ports: (u16, u16), tag: Option<u16>, len: usize) -> Vec<u8> {
    let mut bytes = to.0.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 9]);
    if let Some(tag) = tag {
        bytes.extend([0x81, 0x00]);
        bytes.extend(tag.to_be_bytes());
    }
    let total = u16::try_from(28 + len).unwrap();
    bytes.extend([0x08, 0x00]);
    let at = bytes.len();
    bytes.extend([0x45, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(link.address(from).octets());
    bytes.extend(link.address(from.other()).octets());
    let words = bytes[at..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    bytes[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend((total - 20).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((0..len).map(|place| u8::try_from((place * 7 + len) % 256).unwrap()));
    bytes
}

fn try_queue(driver: &mut PacketQueue, bytes: &[u8]) -> bool {
    let Some(room) = driver.lend(bytes.len()) else { return false };
    room.copy_from_slice(bytes);
    assert_eq!(driver.lent(bytes.len()), bytes);
    driver.commit(bytes.len(), SentChecksum::Complete);
    true
}

fn send(driver: &mut PacketQueue, bytes: &[u8]) {
    assert!(try_queue(driver, bytes), "no room");
    driver.flush().unwrap();
}

type Seen = (Vec<u8>, ReceivedChecksum);

fn receive_once(driver: &mut PacketQueue, into: &mut Vec<Seen>) -> usize {
    driver.begin_cycle();
    driver.receive(|&Frame { bytes, checksum, .. }| into.push((bytes.to_vec(), checksum))).unwrap()
}

fn receive(driver: &mut PacketQueue, count: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    for _ in 0..PATIENCE {
        if receive_once(driver, &mut seen) == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        if seen.len() >= count {
            break;
        }
    }
    assert_eq!(seen.len(), count, "frames arrived");
    seen
}

/// Waits until `done`; nothing here is about how fast.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    panic!("in vain: {what}");
}

/// Nothing that was sent before can come any more: a frame that came last is here, and it came alone.
fn assert_nothing_else(link: &Link, left: &mut PacketQueue, right: &mut PacketQueue) {
    let last = frame(link, End::Left, right.mac(), (9, PORT), None, 1);
    send(left, &last);
    assert_eq!(receive(right, 1)[0].0, last);
}

#[test]
fn two_namespaces_in_one_process_are_two_hosts() {
    let Some(link) = Link::new() else { return };
    let open = |end| link.run_in(end, || UdpSocket::bind((link.address(end), 7_000)).unwrap());
    let (left, right) = (open(End::Left), open(End::Right));
    left.send_to(b"hello", right.local_addr().unwrap()).unwrap();
    right.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = [0; 16];
    assert_eq!(right.recv_from(&mut bytes).unwrap(), (5, left.local_addr().unwrap()));
    let mac = link.mac(End::Left);
    link.delete();
    link.create();
    assert_ne!(link.mac(End::Left), mac);
    link.set_down(End::Right);
    assert!(link.ip(End::Left, "-oneline link show mn0").contains("NO-CARRIER"));
}

#[test]
fn frames_of_every_size_arrive_whole_and_unchanged_and_in_order() {
    for mtu in [1_280, 1_500, 9_000] {
        let Some(link) = Link::with(Shape { mtu, ..Shape::default() }) else { return };
        let (mut left, mut right) = (open(&link, End::Left), open(&link, End::Right));
        let mtu = usize::try_from(mtu).unwrap();
        assert_eq!(left.mtu(), mtu);
        let sizes = (1..100).chain((100..mtu - 28).step_by(97)).chain([mtu - 29, mtu - 28]);
        for len in sizes {
            let sent = frame(&link, End::Left, right.mac(), (PORT, PORT + 1), None, len);
            send(&mut left, &sent);
            let (bytes, checksum) = receive(&mut right, 1).remove(0);
            assert!(bytes == sent, "{len} bytes came as {} or changed", bytes.len());
            assert_eq!(checksum, ReceivedChecksum::Unknown, "nobody looked at what no kernel made");
        }
        let all: Vec<Vec<u8>> =
            (1..=200).map(|len| frame(&link, End::Left, right.mac(), (PORT, PORT), None, len)).collect();
        for sent in &all {
            assert!(try_queue(&mut left, sent));
        }
        left.flush().unwrap();
        assert_eq!(left.counters().send_calls - all_sizes_sent(mtu), 1, "one call for the whole batch");
        assert!(receive(&mut right, 200).into_iter().map(|(bytes, _)| bytes).eq(all));
    }
}

/// Frames that were sent one by one before the batch.
fn all_sizes_sent(mtu: usize) -> u64 {
    ((1..100).chain((100..mtu - 28).step_by(97)).count() + 2) as u64
}

#[test]
fn the_transmit_ring_has_256_slots_and_the_receive_ring_too() {
    let Some((link, mut left, mut right)) = pair() else { return };
    let bytes = frame(&link, End::Left, right.mac(), (PORT, PORT), None, 64);
    for _ in 0..3 {
        let queued = (0..SLOTS + 1).filter(|_| try_queue(&mut left, &bytes)).count();
        assert_eq!(queued, SLOTS);
        assert!(left.is_transmit_pending());
        left.flush().unwrap();
        assert!(!left.is_transmit_pending());
        let mut seen = Vec::new();
        assert_eq!(receive_once(&mut right, &mut seen), RECEIVE_BURST);
        receive(&mut right, SLOTS - RECEIVE_BURST);
    }
    // Nobody receives: the ring keeps the first, and the rest is counted as missed.
    for _ in 0..SLOTS + 50 {
        send(&mut left, &bytes);
    }
    receive(&mut right, SLOTS);
    eventually("the kernel says that a new link is up", || right.link() == LinkState::Up);
    assert_eq!(right.counters().missed, 50);
    assert_eq!(right.counters().received, 4 * SLOTS as u64);
    assert_eq!(left.counters().sent, (4 * SLOTS + 50) as u64);
    assert_nothing_else(&link, &mut left, &mut right);
}

#[test]
fn other_traffic_of_the_interface_never_reaches_the_ring() {
    let Some((link, mut left, mut right)) = pair() else { return };
    let open = |end, port| link.run_in(end, || UdpSocket::bind((link.address(end), port)).unwrap());
    let (client, server) = (open(End::Left, 7_000), open(End::Right, 7_001));
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = [0; 16];
    for _ in 0..100 {
        client.send_to(b"not ours", server.local_addr().unwrap()).unwrap();
        server.recv_from(&mut bytes).unwrap();
    }
    // Not what the own host sends, either.
    for _ in 0..10 {
        server.send_to(b"to their port", (link.address(End::Left), PORT)).unwrap();
    }
    let mut seen = Vec::new();
    eventually("the datagrams arrive at the other end", || {
        receive_once(&mut left, &mut seen);
        seen.iter().filter(|(bytes, _)| bytes[12..14] == [8, 0]).count() == 10
    });
    let mut at_right = Vec::new();
    receive_once(&mut right, &mut at_right);
    assert!(at_right.iter().all(|(bytes, _)| bytes[12..14] == [8, 6]), "only ARP: {at_right:?}");
}

#[test]
fn what_a_kernel_made_comes_with_a_good_checksum_and_the_kernel_does_not_answer_for_our_ports() {
    let Some((link, _left, mut right)) = pair() else { return };
    let to = |port| (link.address(End::Right), port);
    let client = link.run_in(End::Left, || UdpSocket::bind((link.address(End::Left), 7_000)).unwrap());
    client.connect(to(PORT + 1)).unwrap();
    client.send(b"hello").unwrap();
    let mut seen = Vec::new();
    eventually("the datagram arrives", || {
        receive_once(&mut right, &mut seen);
        seen.iter().any(|(bytes, _)| bytes.ends_with(b"hello"))
    });
    let (_, checksum) = seen.iter().find(|(bytes, _)| bytes.ends_with(b"hello")).unwrap();
    assert_eq!(*checksum, ReceivedChecksum::Good);
    // A port that nobody has is answered by the kernel, which it would do for ours, too. Errors come in the order of their causes.
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = client.recv(&mut [0; 16]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    client.connect(to(PORT + PORTS)).unwrap();
    client.send(b"nobody").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn datagrams_that_the_peers_kernel_joined_arrive_as_they_were_sent() {
    let Some((link, mut left, mut right)) = pair() else { return };
    let client = link.run_in(End::Left, || UdpSocket::bind((link.address(End::Left), 7_000)).unwrap());
    client.connect((link.address(End::Right), PORT)).unwrap();
    client.send(b"first").unwrap();
    // The kernel would cut such a run into datagrams, but hands it over whole to an interface that says it can do so itself. The first
    // fits a slot of the ring and the others do not; the last takes several receives.
    let mut seen = Vec::new();
    for (segment, count, rest) in [(400, 3, 50), (1_000, 8, 0), (1_472, 44, 100), (100, 60, 1), (500, 64, 1)]
    {
        netns::sys::set_udp_segment(client.as_fd(), u32::try_from(segment).unwrap()).unwrap();
        let whole: Vec<u8> = (0..segment * count + rest).map(|at| u8::try_from(at % 251).unwrap()).collect();
        client.send(&whole).unwrap();
        let pieces: Vec<&[u8]> = whole.chunks(segment).collect();
        seen.clear();
        let is_of_run = |(bytes, _): &&Seen| bytes[12..14] == [8, 0] && !bytes.ends_with(b"first");
        eventually("the run arrives", || {
            receive_once(&mut right, &mut seen);
            seen.iter().filter(is_of_run).count() >= pieces.len()
        });
        let came: Vec<&[u8]> = seen.iter().filter(is_of_run).map(|(bytes, _)| &bytes[HEADERS..]).collect();
        assert!(came == pieces, "{} pieces of {segment} bytes", pieces.len());
        assert!(seen.iter().filter(is_of_run).all(|(_, checksum)| *checksum == ReceivedChecksum::Good));
    }
    assert_eq!(right.counters().dropped_truncated, 0);
    assert_nothing_else(&link, &mut left, &mut right);
}

#[test]
fn a_frame_larger_than_the_interface_took_at_first_is_counted_and_left_out() {
    let Some((link, mut left, mut right)) = pair() else { return };
    for end in End::BOTH {
        link.ip(end, "link set mn0 mtu 9000");
    }
    let client = link.run_in(End::Left, || UdpSocket::bind((link.address(End::Left), 7_000)).unwrap());
    client.send_to(&[7; 5_000], (link.address(End::Right), PORT)).unwrap();
    let mut seen = Vec::new();
    eventually("it arrives", || {
        receive_once(&mut right, &mut seen);
        right.counters().dropped_truncated == 1
    });
    assert!(seen.iter().all(|(bytes, _)| bytes.len() < 100), "{seen:?}");
    assert_nothing_else(&link, &mut left, &mut right);
}

#[test]
fn a_vlan_has_its_own_frames_with_their_tags() {
    let Some(link) = Link::new() else { return };
    let mut left = open(&link, End::Left);
    let mut plain = open(&link, End::Right);
    let alone = |config: &mut PacketConfig| {
        (config.vlan, config.kernel_answers) = (Some(7), false);
        config.ports = PortRange::new(PORT + 100, PORT + 100).unwrap();
    };
    let mut tagged = open_with(&link, End::Right, 1, alone).unwrap().pop().unwrap();
    let to = plain.mac();
    let make = |tag, len| frame(&link, End::Left, to, (PORT, PORT), tag, len);
    let sent =
        [make(Some(7), 1), make(Some(8), 2), make(None, 3), make(Some(0x6007), 4), make(Some(0x2000), 5)];
    for bytes in &sent {
        send(&mut left, bytes);
    }
    let seen: Vec<_> = receive(&mut tagged, 2).into_iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(seen, [sent[0].clone(), sent[3].clone()]);
    let seen: Vec<_> = receive(&mut plain, 2).into_iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(seen, [sent[2].clone(), make(None, 5)], "a priority without a VLAN is no VLAN");
}

#[test]
fn each_frame_reaches_one_of_several_queues_and_a_flow_always_the_same() {
    let Some(link) = Link::new() else { return };
    let mut left = open(&link, End::Left);
    let mut queues = open_with(&link, End::Right, 4, |_| {}).unwrap();
    let to = queues[0].mac();
    let mut by_flow = vec![None; 64];
    for _ in 0..4 {
        for from in 0..64 {
            send(&mut left, &frame(&link, End::Left, to, (30_000 + from, PORT + from % PORTS), None, 5));
        }
        let mut came = 0;
        eventually("every frame arrives", || {
            for (index, queue) in queues.iter_mut().enumerate() {
                let mut seen = Vec::new();
                came += receive_once(queue, &mut seen);
                for (bytes, _) in seen {
                    let from = usize::from(u16::from_be_bytes([bytes[34], bytes[35]])) - 30_000;
                    assert_eq!(*by_flow[from].get_or_insert(index), index, "flow {from}");
                }
            }
            came >= 64
        });
        assert_eq!(came, 64, "each arrives once");
    }
    assert_eq!(by_flow.iter().flatten().collect::<BTreeSet<_>>().len(), 4, "{by_flow:?}");
}

#[test]
fn a_link_that_goes_down_and_up_again_carries_frames_again() {
    let Some((link, mut left, mut right)) = pair() else { return };
    eventually("the kernel says that a new link is up", || left.link() == LinkState::Up);
    link.set_down(End::Left);
    assert_eq!(left.link(), LinkState::Down);
    let bytes = frame(&link, End::Left, right.mac(), (PORT, PORT), None, 64);
    for _ in 0..3 * SLOTS {
        assert!(try_queue(&mut left, &bytes), "the ring does not fill up behind what cannot be sent");
        left.flush().unwrap();
    }
    assert_eq!(left.counters().dropped_error, 3 * SLOTS as u64);
    // The other end sees that nobody is there. The kernel may take a second to say so.
    eventually("the peer notices", || right.link() == LinkState::Down);
    link.set_up(End::Left);
    eventually("the link comes back", || left.link() == LinkState::Up && right.link() == LinkState::Up);
    assert_nothing_else(&link, &mut left, &mut right);
    let back = frame(&link, End::Right, left.mac(), (PORT, PORT), None, 64);
    send(&mut right, &back);
    assert_eq!(receive(&mut left, 1)[0].0, back);
}

#[test]
fn an_interface_that_was_deleted_and_made_again_is_found_again() {
    for queues in [1, 2] {
        let Some(link) = Link::new() else { return };
        let mut right = open(&link, End::Right);
        let mut lefts = open_with(&link, End::Left, queues, |_| {}).unwrap();
        let numbers: Vec<_> = lefts.iter().map(|left| left.wait_fd().unwrap().as_raw_fd()).collect();
        let mac = lefts[0].mac();
        link.delete();
        for left in lefts.iter_mut().chain([&mut right]) {
            assert_eq!(left.link(), LinkState::Gone);
            let bytes = frame(&link, End::Left, mac, (PORT, PORT), None, 64);
            assert!(try_queue(left, &bytes));
            left.flush().unwrap();
            assert!(!left.is_transmit_pending());
            assert_eq!(left.reopen().unwrap_err().raw_os_error(), Some(19), "ENODEV");
        }
        link.create();
        link.run_in(End::Right, || right.reopen().unwrap());
        for left in &mut lefts {
            link.run_in(End::Left, || left.reopen().unwrap());
            eventually("the kernel says that a new link is up", || left.link() == LinkState::Up);
        }
        assert_ne!(lefts[0].mac(), mac);
        assert!(lefts.iter().map(|left| left.wait_fd().unwrap().as_raw_fd()).eq(numbers));
        for left in &mut lefts {
            assert_nothing_else(&link, left, &mut right);
        }
        for port in 0..16 {
            send(&mut right, &frame(&link, End::Right, lefts[0].mac(), (PORT + port, PORT), None, 9));
        }
        let mut seen = Vec::new();
        eventually("the answers arrive", || {
            for left in &mut lefts {
                receive_once(left, &mut seen);
            }
            seen.len() >= 16
        });
        assert_eq!(seen.len(), 16, "each arrives once");
    }
}

#[test]
fn a_new_hardware_address_or_mtu_is_noticed() {
    let Some(link) = Link::new() else { return };
    let mut left = open(&link, End::Left);
    link.ip(End::Left, "link set mn0 address 02:00:00:00:77:01");
    link.ip(End::Left, "link set mn0 mtu 1400");
    left.link();
    assert_eq!((left.mac().to_string().as_str(), left.mtu()), ("02:00:00:00:77:01", 1_400));
    // More than at the beginning would not fit the rings.
    link.ip(End::Left, "link set mn0 mtu 9000");
    left.link();
    assert!((1_500..1_600).contains(&left.mtu()), "{}", left.mtu());
}

#[test]
fn an_address_has_one_sidecar_and_the_next_one_follows_at_once() {
    let Some(link) = Link::new() else { return };
    let first = open(&link, End::Left);
    let error = open_with(&link, End::Left, 1, |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::AddressInUse { .. }), "{error}");
    assert!(error.to_string().contains("another machnet sidecar"), "{error}");
    drop(first);
    let again = open(&link, End::Left);
    drop(again);
    // A program of another kind on the port that peers send to. Another test may be starting a child, which has copies of our
    // descriptors until it runs its program.
    let bind = |port| {
        let mut socket = None;
        eventually("the port is free", || {
            socket = link.run_in(End::Left, || UdpSocket::bind((link.address(End::Left), port)).ok());
            socket.is_some()
        });
        socket
    };
    let taken = bind(PORT);
    let error = open_with(&link, End::Left, 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains(&format!("ss -ulpn sport = :{PORT}")), "{error}");
    drop(taken);
    // On another of our ports it is only a warning.
    let taken = bind(PORT + 1);
    drop(open(&link, End::Left));
    drop(taken);
}

#[test]
fn an_interface_that_cannot_be_used_is_refused_with_what_helps() {
    let Some(link) = Link::new() else { return };
    let loopback = |config: &mut PacketConfig| {
        config.interface = interface::find(Some("lo"), config.address).unwrap();
    };
    let error = open_with(&link, End::Left, 1, loopback).unwrap_err().to_string();
    assert!(error.contains("lo is no Ethernet interface") && error.contains("--driver udp"), "{error}");
    link.ip(End::Left, "link set mn0 mtu 1000");
    let error = open_with(&link, End::Left, 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("ip link set mn0 mtu 1500"), "{error}");
}

#[test]
#[ignore = "run by hand, to time the driver: --ignored --nocapture"]
fn round_trips_of_64_bytes_between_two_spinning_threads() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;
    const ROUNDS: usize = 100_000;
    let ways = [(true, true), (false, true), (true, false), (false, false)];
    for (bypasses_queueing, kernel_has_addresses) in ways.into_iter().chain(ways) {
        let Some(link) = Link::with(Shape { kernel_has_addresses, ..Shape::default() }) else { return };
        let open = |end| {
            let change = |config: &mut PacketConfig| {
                config.bypasses_queueing = bypasses_queueing;
                config.kernel_answers = kernel_has_addresses;
            };
            open_with(&link, end, 1, change).unwrap().pop().unwrap()
        };
        let (mut left, mut right) = (open(End::Left), open(End::Right));
        let question = frame(&link, End::Left, right.mac(), (PORT, PORT), None, 64 - HEADERS);
        let answer = frame(&link, End::Right, left.mac(), (PORT, PORT), None, 64 - HEADERS);
        let stop = AtomicBool::new(false);
        let mut times = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut came = 0;
                    right.begin_cycle();
                    right.receive(|_| came += 1).unwrap();
                    if came > 0 {
                        send(&mut right, &answer);
                    }
                }
            });
            let mut times = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                #[expect(clippy::disallowed_methods, reason = "a timing")]
                let began = Instant::now();
                send(&mut left, &question);
                let mut came = 0;
                while came == 0 {
                    left.begin_cycle();
                    left.receive(|_| came += 1).unwrap();
                }
                times.push(began.elapsed());
            }
            stop.store(true, Ordering::Relaxed);
            times
        });
        times.sort_unstable();
        let at = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
            let place = (share * ROUNDS as f64) as usize;
            times[place]
        };
        println!(
            "bypasses queueing: {bypasses_queueing}, the kernel has the address: {kernel_has_addresses}; p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}
