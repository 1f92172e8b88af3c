//! The bytes of frames, against a parser and a builder that are not ours: what we send is valid, what we take is what we should,
//! and each frame that arrives is counted once. `FUZZ_SEED` and `FUZZ_CASES` choose; the seed is printed.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use etherparse::{
    ArpOperation, Ethernet2HeaderSlice, IcmpEchoHeader, Icmpv4Type, IpNumber, Ipv4Header, Ipv4HeaderSlice,
    NetSlice, PacketBuilder, SingleVlanHeaderSlice, SlicedPacket, TransportSlice, UdpHeaderSlice, icmpv4,
};
use machnet_engine::driver::frame::wire::{Plug, Wire, WireQueue};
use machnet_engine::driver::frame::{Framed, Setup};
use machnet_engine::driver::{Driver, DriverCounters, MacAddress, Route};
use machnet_engine::proto::PortRange;
use machnet_engine::proto::rng::Rng;
use machnet_engine::proto::time::{Duration, Instant};
use std::net::SocketAddr;

const OWN: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [10, 0, 0, 2];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PORT: u16 = 31_580;
const CASES: u64 = 100_000;
const BURST: usize = 64;

/// A host on a switch, and a second interface from which nothing comes but what a test injects.
struct Host {
    wire: Wire,
    driver: Framed<WireQueue>,
    now: Instant,
}

impl Host {
    fn new(change: impl FnOnce(&mut Setup, &mut Plug)) -> Self {
        let mut setup = Setup {
            address: OWN.into(),
            prefix_bits: 24,
            routes: Vec::new(),
            neighbours: vec![(PEER.into(), MacAddress(PEER_MAC))],
            vlan: None,
            udp_port: PORT,
            ports: PortRange::new(PORT, PORT + 63).unwrap(),
            mtu: None,
            kernel_answers: false,
        };
        let mut plug = Plug { mac: MacAddress(OWN_MAC), mtu: 1_500, queues: 1, completes_checksums: false };
        change(&mut setup, &mut plug);
        let other = Plug { mac: MacAddress(PEER_MAC), ..plug };
        let (wire, queues) = Wire::open(&[plug, other], 3);
        let driver = Framed::group(&setup, queues.into_iter().next().unwrap()).pop().unwrap();
        let mut host = Self { wire, driver, now: Instant::ZERO };
        host.pass(2_000);
        host.wire.capture();
        host
    }

    /// Time passes, a millisecond a cycle.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.driver.begin_cycle(self.now);
            self.driver.flush().unwrap();
        }
    }

    /// Gives the host a frame, and returns the datagram that came of it.
    fn take(&mut self, frame: &[u8]) -> Option<(SocketAddr, u16, Vec<u8>)> {
        assert!(self.wire.inject(0, 0, frame));
        let mut came = None;
        self.driver.receive(|it| came = Some((it.from, it.to_port, it.bytes.to_vec()))).unwrap();
        self.driver.flush().unwrap();
        came
    }

    fn send(&mut self, to: [u8; 4], bytes: &[u8]) {
        self.driver.lend(PORT + 1, SocketAddr::from((to, PORT)), bytes.len()).unwrap().copy_from_slice(bytes);
        self.driver.commit(bytes.len());
        self.driver.flush().unwrap();
    }
}

fn udp(to_port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC, OWN_MAC).ipv4(PEER, OWN, 64).udp(PORT + 5, to_port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn udp_in_vlan(vlan: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC, OWN_MAC)
        .single_vlan(vlan.try_into().unwrap())
        .ipv4(PEER, OWN, 64)
        .udp(PORT + 5, PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn echo(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC, OWN_MAC).ipv4(PEER, OWN, 64).icmpv4_echo_request(7, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn arp(operation: ArpOperation, to: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        operation,
        &PEER_MAC,
        &sender,
        &[0; 6],
        &target,
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, to).arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

/// The same frame with another IPv4 header, whose checksum is right.
fn with_header(frame: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
    change(&mut header);
    let mut changed = frame[..14].to_vec();
    header.header_checksum = header.calc_header_checksum();
    header.write_raw(&mut changed).unwrap();
    changed.extend_from_slice(&frame[34..]);
    changed
}

/// What every frame of ours must be, whatever it is for.
fn check_sent(frame: &[u8], vlan: Option<u16>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let tag = packet.vlan().map(|vlan| match vlan {
        etherparse::VlanSlice::SingleVlan(tag) => tag.vlan_identifier().value(),
        etherparse::VlanSlice::DoubleVlan(_) => panic!("two tags"),
    });
    assert_eq!(tag, vlan);
    let Some(NetSlice::Ipv4(ip)) = &packet.net else {
        assert!(matches!(packet.net, Some(NetSlice::Arp(_))), "neither IPv4 nor ARP");
        return;
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert!(header.dont_fragment && !header.more_fragments && header.fragment_offset.value() == 0);
    assert_eq!((header.time_to_live, header.options.len()), (64, 0));
    assert_eq!(header.source, OWN);
    let headers = 14 + vlan.map_or(0, |_| 4);
    assert_eq!(usize::from(header.total_len), frame.len() - headers);
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            let sum =
                udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload());
            assert_eq!(udp.checksum(), sum.unwrap());
            assert_ne!(udp.checksum(), 0);
            assert_eq!(usize::from(udp.length()), udp.payload().len() + 8);
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let header = icmp.header();
            assert_eq!(icmp.checksum(), header.icmp_type.calc_checksum(icmp.payload()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_we_send_is_valid_to_another_parser() {
    for (vlan, completes_checksums, mtu) in
        [(None, false, 1_500), (Some(7), true, 9_000), (Some(4_094), false, 1_280)]
    {
        let mut host = Host::new(|setup, plug| {
            setup.vlan = vlan;
            (plug.completes_checksums, plug.mtu) = (completes_checksums, mtu);
        });
        assert_eq!(host.driver.max_datagram(), mtu - 28);
        let mut rng = Rng::new([1, 2]);
        for len in (0..200).chain((200..mtu - 28).step_by(97)).chain([mtu - 28]) {
            let payload: Vec<u8> = (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            host.send(PEER, &payload);
            let sent = host.wire.captured();
            assert_eq!(sent.len(), 1);
            check_sent(&sent[0], vlan);
            let headers = sent[0].len() - len;
            assert_eq!(sent[0][headers..], payload);
        }
        // A question, and what is announced when the interface changes.
        host.send([10, 0, 0, 77], b"who is there?");
        host.wire.set_mac(0, MacAddress([2, 0, 0, 0, 0, 9]));
        host.pass(1_000);
        let sent = host.wire.captured();
        assert!(sent.len() >= 4, "{} frames", sent.len());
        sent.iter().for_each(|frame| check_sent(frame, vlan));
    }
}

#[test]
fn an_echo_is_answered_and_an_unserved_port_is_told_but_not_more_often_than_a_hundred_times_a_second() {
    let mut host = Host::new(|_, _| {});
    assert_eq!(host.take(&echo(b"are you there?")), None);
    let answer = host.wire.captured().pop().unwrap();
    check_sent(&answer, None);
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!() };
    assert_eq!(icmp.header().icmp_type, Icmpv4Type::EchoReply(IcmpEchoHeader { id: 7, seq: 9 }));
    assert_eq!(icmp.payload(), b"are you there?");
    assert_eq!(answer[..6], PEER_MAC);

    let refused = udp(PORT + 64, b"nobody has this port");
    host.take(&refused);
    let told = host.wire.captured().pop().unwrap();
    check_sent(&told, None);
    let packet = SlicedPacket::from_ethernet(&told).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!() };
    let port = icmpv4::DestUnreachableHeader::Port;
    assert_eq!(icmp.header().icmp_type, Icmpv4Type::DestinationUnreachable(port));
    assert_eq!(icmp.payload(), &refused[14..42]);

    for _ in 0..2_000 {
        host.take(&refused);
        host.pass(1);
    }
    let told = host.wire.captured().len();
    assert!((190..=212).contains(&told), "{told} in two seconds");
    assert_eq!(host.driver.counters().dropped_no_port, 2_001);
}

#[test]
fn an_echo_that_is_larger_than_what_we_can_send_is_not_answered() {
    let mut host = Host::new(|_, _| {});
    host.take(&echo(&[7; 1_472]));
    assert_eq!(host.wire.captured().len(), 1);
    host.take(&echo(&[7; 1_473]));
    assert_eq!(host.wire.captured().len(), 0);
    assert_eq!(host.driver.counters().control_dropped, 1);
}

#[test]
fn where_the_kernel_answers_we_do_not() {
    let mut host = Host::new(|setup, _| setup.kernel_answers = true);
    host.take(&echo(b"ping"));
    host.take(&udp(22, b"for a program of this host"));
    host.take(&arp(ArpOperation::REQUEST, [0xff; 6], PEER, OWN));
    assert_eq!(host.wire.captured().len(), 0);
    assert!(host.take(&udp(PORT, b"ours")).is_some());
}

#[test]
fn a_question_for_our_address_is_answered_to_who_asked() {
    let mut host = Host::new(|_, _| {});
    for sender in [PEER, [0; 4]] {
        host.take(&arp(ArpOperation::REQUEST, [0xff; 6], sender, OWN));
        let answer = host.wire.captured().pop().unwrap();
        check_sent(&answer, None);
        let packet = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(NetSlice::Arp(arp)) = &packet.net else { panic!() };
        assert_eq!(arp.operation(), ArpOperation::REPLY);
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&OWN_MAC[..], &OWN[..]));
        assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&PEER_MAC[..], &sender[..]));
    }
    host.take(&arp(ArpOperation::REQUEST, [0xff; 6], PEER, [10, 0, 0, 3]));
    assert_eq!(host.wire.captured().len(), 0);
}

#[test]
fn a_frame_is_taken_with_padding_and_with_a_tag_that_is_only_a_priority() {
    let mut host = Host::new(|_, _| {});
    let expected = Some((SocketAddr::from((PEER, PORT + 5)), PORT, b"x".to_vec()));
    let mut padded = udp(PORT, b"x");
    padded.resize(60, 0x5a);
    assert_eq!(host.take(&padded), expected);
    assert_eq!(host.take(&udp_in_vlan(0, b"x")), expected);
    assert_eq!(host.take(&udp_in_vlan(7, b"x")), None);
    let mut tagged = Host::new(|setup, _| setup.vlan = Some(7));
    assert_eq!(tagged.take(&udp_in_vlan(7, b"x")), expected);
    for other in [udp_in_vlan(8, b"x"), udp_in_vlan(0, b"x"), udp(PORT, b"x")] {
        assert_eq!(tagged.take(&other), None);
    }
    assert_eq!(tagged.driver.counters().dropped_not_ours, 3);
}

#[test]
fn each_thing_that_is_wrong_with_a_frame_has_its_counter() {
    type Count = fn(&DriverCounters) -> u64;
    let good = udp(PORT, b"payload");
    let changed = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let from = |source: [u8; 4]| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(PEER_MAC, OWN_MAC).ipv4(source, OWN, 64).udp(PORT, PORT);
        builder.write(&mut frame, b"x").unwrap();
        frame
    };
    let too_large = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: 1_400,
    });
    let mut needs_fragments = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, OWN_MAC).ipv4(PEER, OWN, 64).icmpv4(too_large);
    builder.write(&mut needs_fragments, &[0; 28]).unwrap();
    let not_ours: Count = |c| c.dropped_not_ours;
    let header: Count = |c| c.dropped_header;
    let fragment: Count = |c| c.dropped_fragment;
    let checksum: Count = |c| c.dropped_checksum;
    let cases: Vec<(&str, Vec<u8>, Count)> = vec![
        ("another host's frame", changed(5, 9), not_ours),
        ("a packet to everybody on the link", [&[0xff; 6], &good[6..]].concat(), not_ours),
        ("IPv6", changed(12, 0x86), not_ours),
        ("another host's packet", with_header(&good, |ip| ip.destination = [10, 0, 0, 9]), not_ours),
        ("TCP", with_header(&good, |ip| ip.protocol = IpNumber::TCP), not_ours),
        ("a frame without a header", good[..13].to_vec(), header),
        ("a packet that is cut short", good[..good.len() - 1].to_vec(), header),
        ("from a group", from([224, 0, 0, 5]), header),
        ("from everybody", from([10, 0, 0, 255]), header),
        ("from ourselves", from(OWN), header),
        ("from nobody", from([0; 4]), header),
        ("from a loop", from([127, 0, 0, 1]), header),
        ("the first fragment", with_header(&good, |ip| ip.more_fragments = true), fragment),
        ("a later fragment", with_header(&good, |ip| ip.fragment_offset = 5.try_into().unwrap()), fragment),
        ("a damaged header", changed(30, 77), checksum),
        ("a damaged payload", changed(44, 77), checksum),
        ("a UDP length beyond the packet", changed(38, 1), header),
        ("nobody's port", udp(PORT - 1, b"x"), |c| c.dropped_no_port),
        ("larger than our largest", udp(PORT, &[0; 1_473]), |c| c.dropped_truncated),
        ("an echo", echo(b"x"), |c| c.icmp_received),
        ("too large for a router", needs_fragments, |c| c.icmp_too_large),
        ("a question", arp(ArpOperation::REQUEST, [0xff; 6], PEER, OWN), |c| c.arp_received),
        ("another claims our address", arp(ArpOperation::REPLY, OWN_MAC, OWN, OWN), |c| c.arp_duplicates),
    ];
    let mut host = Host::new(|_, _| {});
    for (name, frame, count) in cases {
        let before = host.driver.counters();
        assert_eq!(host.take(&frame), None, "{name}");
        let after = host.driver.counters();
        assert_eq!(count(&after), count(&before) + 1, "{name}: {after:?}");
        assert_eq!(accounted(&after), after.frames_received, "{name}: {after:?}");
    }
    assert_eq!(host.take(&good).unwrap().2, b"payload");
    let options = with_header(&good, |ip| {
        ip.options = etherparse::Ipv4Options::try_from(&[1_u8, 1, 1, 1][..]).unwrap();
        ip.total_len += 4;
    });
    assert_eq!(host.take(&options), None, "options are not for us");
}

/// Received frames, as the counters of what became of them say.
fn accounted(c: &DriverCounters) -> u64 {
    let dropped = c.dropped_not_ours + c.dropped_header + c.dropped_fragment + c.dropped_checksum;
    c.datagrams_received
        + c.arp_received
        + c.icmp_received
        + dropped
        + c.dropped_no_port
        + c.dropped_truncated
}

#[test]
fn datagrams_wait_for_an_answer_in_small_number_and_for_a_second() {
    let mut host = Host::new(|setup, _| setup.neighbours.clear());
    // The other interface's queue, which nobody reads, must not fill up.
    host.wire.filter(|_, _| false);
    for number in 0..10 {
        host.send(PEER, &[number]);
    }
    assert_eq!(host.driver.counters().dropped_unresolved, 6, "four wait for one host");
    host.take(&arp(ArpOperation::REPLY, OWN_MAC, PEER, OWN));
    let sent: Vec<u8> = host.wire.captured().iter().filter(|f| f[12..14] == [8, 0]).map(|f| f[42]).collect();
    assert_eq!(sent, [0, 1, 2, 3], "in order");
    for host_number in 10..60 {
        host.send([10, 0, 0, host_number], b"x");
    }
    assert_eq!(host.driver.counters().dropped_unresolved, 6 + 34, "16 wait in all");
    host.pass(1_100);
    assert_eq!(host.driver.counters().dropped_unresolved, 6 + 50);
    assert_eq!(host.driver.counters().datagrams_sent, 4);
    assert!(!host.driver.is_transmit_pending());
}

#[test]
fn what_has_no_way_is_counted_and_stops_nobody() {
    let route = Route { network: [192, 168, 0, 0].into(), prefix_bits: 16, via: Some(PEER.into()) };
    let mut host = Host::new(|setup, _| setup.routes = vec![route]);
    for nowhere in [[8, 8, 8, 8], [10, 0, 0, 255], [224, 0, 0, 1]] {
        host.send(nowhere, b"x");
    }
    host.send([192, 168, 3, 4], b"by the gateway");
    assert_eq!(host.driver.counters().dropped_error, 3);
    let sent = host.wire.captured();
    assert_eq!((sent.len(), &sent[0][..6]), (1, &PEER_MAC[..]));
}

/// What the rules say of a frame: the datagram that must come of it. Written with another parser.
fn oracle(frame: &[u8], vlan: u16) -> Option<(SocketAddr, u16, Vec<u8>)> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let (mut kind, mut rest, mut tag) = (ethernet.ether_type().0, &frame[14..], 0);
    if kind == 0x8100 {
        let header = SingleVlanHeaderSlice::from_slice(rest).ok()?;
        (kind, tag, rest) = (header.ether_type().0, header.vlan_identifier().value(), &rest[4..]);
    }
    if ethernet.destination() != OWN_MAC || kind != 0x0800 || tag != vlan {
        return None;
    }
    let ip = Ipv4HeaderSlice::from_slice(rest).ok()?;
    let whole = rest.get(..usize::from(ip.total_len()))?;
    let payload = whole.get(20..)?;
    let header = ip.to_header();
    let is_sound = ip.ihl() == 5
        && plain_checksum(&rest[..20]) == [0, 0]
        && !header.is_fragmenting_payload()
        && ip.destination() == OWN
        && ip.protocol() == IpNumber::UDP;
    let source = ip.source_addr();
    let is_host = source.octets()[0] != 0
        && source.octets()[0] < 224
        && !source.is_loopback()
        && ![OWN, [10, 0, 0, 255]].contains(&source.octets());
    let udp = UdpHeaderSlice::from_slice(payload).ok()?;
    let bytes = payload.get(8..usize::from(udp.length()))?;
    let sum = udp.to_header().calc_checksum_ipv4_raw(ip.source(), ip.destination(), bytes).ok()?;
    let is_right = udp.checksum() == 0 || udp.checksum() == sum;
    let is_taken = (PORT..PORT + 64).contains(&udp.destination_port()) && bytes.len() <= 1_472;
    (is_sound && is_host && is_right && is_taken)
        .then(|| (SocketAddr::from((source, udp.source_port())), udp.destination_port(), bytes.to_vec()))
}

fn random_bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    (0..rng.below(most + 1)).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// A frame that is right, or nearly so, or nothing at all.
fn frame(rng: &mut Rng, vlan: u16) -> Vec<u8> {
    let payload = if rng.below(50) == 0 { random_bytes(rng, 2_000) } else { random_bytes(rng, 40) };
    let mut frame = match rng.below(8) {
        0 => return random_bytes(rng, 100),
        1 => echo(&payload),
        2 => arp(ArpOperation::REQUEST, [0xff; 6], PEER, OWN),
        3 => arp(ArpOperation::REPLY, OWN_MAC, [10, 0, 0, rng.below(4).to_le_bytes()[0]], OWN),
        4 => udp_in_vlan(vlan, &payload),
        5 => udp(PORT + 60 + u16::try_from(rng.below(8)).unwrap(), &payload),
        _ => udp(PORT, &payload),
    };
    if vlan != 0 && frame[12] != 0x81 && rng.below(8) > 0 {
        frame.splice(12..12, [0x81, 0, 0, vlan.to_be_bytes()[1]]);
    }
    for _ in 0..rng.below(4) {
        let at = usize::try_from(rng.below(frame.len().min(60) as u64)).unwrap();
        match rng.below(6) {
            0 => frame.truncate(at.max(1)),
            1 => frame.extend(random_bytes(rng, 30)),
            2 => frame[at] = rng.next_u64().to_le_bytes()[0],
            3 => frame[at] ^= 1 << rng.below(8),
            4 if frame.len() > 42 => frame[40..42].fill(0),
            _ => mend(&mut frame),
        }
    }
    if rng.below(2) == 0 {
        mend(&mut frame);
    }
    frame
}

/// Makes the checksum of the IPv4 header right, so that what lies behind it is looked at.
fn mend(frame: &mut [u8]) {
    let at = if frame.get(12) == Some(&0x81) { 18 } else { 14 };
    if let Some(header) = frame.get_mut(at..at + 20) {
        header[10..12].fill(0);
        let checksum = plain_checksum(header);
        header[10..12].copy_from_slice(&checksum);
    }
}

/// Of a header of 20 bytes, as RFC 1071 says it; the parser's own forgets the bit that is reserved.
fn plain_checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let [_, _, a, b] = (!((sum & 0xffff) + (sum >> 16))).to_be_bytes();
    [a, b]
}

#[test]
fn whatever_arrives_is_counted_once_and_taken_exactly_if_it_should_be() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, cases) = (number("FUZZ_SEED", 20_26), number("FUZZ_CASES", CASES));
    println!("FUZZ_SEED={seed} FUZZ_CASES={cases}");
    let mut taken = 0;
    for (round, vlan) in (0..).zip([0, 7]) {
        let mut rng = Rng::new([seed, round]);
        let mut host = Host::new(|setup, _| setup.vlan = Some(vlan).filter(|&vlan| vlan != 0));
        let mut done = 0;
        while done < cases / 2 {
            let frames: Vec<_> = (0..BURST).map(|_| frame(&mut rng, vlan)).collect();
            let expected: Vec<_> = frames.iter().filter_map(|frame| oracle(frame, vlan)).collect();
            for frame in &frames {
                assert!(host.wire.inject(0, 0, frame));
            }
            let mut came = Vec::new();
            host.driver.receive(|it| came.push((it.from, it.to_port, it.bytes.to_vec()))).unwrap();
            let differs = came.iter().zip(&expected).position(|(came, expected)| came != expected);
            let differs = differs.unwrap_or(came.len().min(expected.len()));
            assert_eq!(
                came.get(differs),
                expected.get(differs),
                "seed {seed}, round {round}, frames from {done}"
            );
            done += BURST as u64;
            taken += came.len();
            host.pass(1);
            host.wire.captured().iter().for_each(|frame| check_sent(frame, Some(vlan).filter(|&v| v != 0)));
            let counters = host.driver.counters();
            assert_eq!(counters.frames_received, done);
            assert_eq!(accounted(&counters), done, "seed {seed}, round {round}: {counters:?}");
        }
        let c = host.driver.counters();
        let all =
            [c.dropped_not_ours, c.dropped_header, c.dropped_fragment, c.dropped_checksum, c.dropped_no_port];
        assert!(cases < 10_000 || all.iter().all(|&count| count > 0), "some paths were not met: {c:?}");
    }
    assert!(taken as u64 > cases / 20, "only {taken} of {cases} were taken");
}

#[test]
fn a_broken_oracle_would_be_noticed() {
    let good = udp(PORT, b"x");
    assert!(oracle(&good, 0).is_some());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let is_free = (6..12).contains(&at);
        assert_eq!(oracle(&bad, 0).is_some(), is_free, "byte {at}");
    }
}
