//! What every network path must do, whatever is behind it. A new driver gets one more `conformance!` line.
#![expect(unsafe_code, reason = "poll(2) has no safe form in std")]
#![expect(clippy::unwrap_used, reason = "a test that meets an error ends")]

mod dpdk;
mod netns;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use machnet_engine::config::{Config, DriverKind, XdpMode};
use machnet_engine::driver::fault::{FaultConfig, FaultDriver};
use machnet_engine::driver::frame::wire::{Plug, Wire, WireQueue};
use machnet_engine::driver::frame::{Framed, Setup};
use machnet_engine::driver::interface;
use machnet_engine::driver::memory::{self, MemoryDriver, MemoryHost, MemoryNetwork};
use machnet_engine::driver::packet::{PacketConfig, PacketGroup, PacketQueue};
use machnet_engine::driver::udp::{UdpConfig, UdpDriver, UdpGroup};
use machnet_engine::driver::xdp::{self, XdpQueue};
use machnet_engine::driver::{Driver, MacAddress, RECEIVE_BURST};
use machnet_engine::proto::PortRange;
use machnet_engine::proto::time::Instant;

use netns::hub::Hub;
use netns::{End, Link, Shape};

/// Idle looks at a queue before a test gives up, with a pause of 100 us between them.
const PATIENCE: u32 = 20_000;

/// The same tests for one kind of driver; `$open` makes as many connected ones as asked for; `ignored` tells by
/// whom they are run.
macro_rules! conformance {
    ($kind:ident, $open:expr $(, ignored $reason:literal)?) => {
        conformance!($kind, $open, if true $(, ignored $reason)?);
    };
    ($kind:ident, $open:expr, if $is_possible:expr $(, ignored $reason:literal)?) => {
        conformance!($kind, $open, $is_possible $(, $reason)?;
            every_size_arrives_whole_and_unchanged,
            a_burst_is_handed_over_in_order_and_in_portions,
            runs_of_equal_length_with_shorter_tails_keep_their_borders,
            interleaved_destinations_each_get_their_own_in_order,
            a_full_transmit_queue_says_no_and_takes_more_after_a_flush,
            a_peer_that_never_receives_neither_blocks_nor_breaks_the_sender,
            the_wait_descriptor_is_readable_exactly_while_something_waits,
            a_datagram_may_be_shorter_than_what_was_lent,
            bytes_of_earlier_datagrams_never_leak_into_later_ones,
            an_empty_datagram_is_a_datagram,
            an_answer_reaches_the_address_that_the_question_came_from,
            a_destination_that_does_not_exist_leaves_its_neighbours_alone,
            counters_agree_with_what_happened,
            a_datagram_to_oneself_comes_back,
        );
    };
    ($kind:ident, $open:expr, $is_possible:expr; $($name:ident,)+) => {
        mod $kind {
            use super::*;
            $(#[test] fn $name() { if $is_possible { checks::$name(&mut $open); } })+
        }
    };
    ($kind:ident, $open:expr, $is_possible:expr, $reason:literal; $($name:ident,)+) => {
        mod $kind {
            use super::*;
            $(#[test] #[ignore = $reason] fn $name() { if $is_possible { checks::$name(&mut $open); } })+
        }
    };
}

conformance!(udp, udp_drivers(UdpConfig::default()));
conformance!(udp_on_ipv6, udp_on_ipv6);
conformance!(udp_without_gso, udp_drivers(UdpConfig { use_gso: false, ..UdpConfig::default() }));
conformance!(udp_without_gro, udp_drivers(UdpConfig { use_gro: false, ..UdpConfig::default() }));
conformance!(
    udp_as_on_an_old_kernel,
    udp_drivers(UdpConfig { use_gso: false, use_gro: false, ..UdpConfig::default() })
);
conformance!(memory_with_usual_frames, memory_drivers(memory::DEFAULT_MAX_DATAGRAM));
conformance!(memory_with_jumbo_frames, memory_drivers(8_972));
conformance!(memory_with_the_largest_datagrams, memory_drivers(memory::LARGEST_MAX_DATAGRAM));
conformance!(fault_without_faults_over_memory, wrapped(memory_drivers(1_472), FaultConfig::default()));
conformance!(frames_of_1280_bytes, framed_drivers(1_280, None, false));
conformance!(frames_of_1500_bytes, framed_drivers(1_500, None, false));
conformance!(frames_of_9000_bytes, framed_drivers(9_000, None, false));
conformance!(frames_of_a_vlan, framed_drivers(1_500, Some(4_094), false));
conformance!(frames_whose_checksums_the_card_completes, framed_drivers(1_500, Some(2), true));
conformance!(
    fault_without_faults_over_udp,
    wrapped(udp_drivers(UdpConfig::default()), FaultConfig::default())
);
// A rate that is set but as good as never drawn sends everything through the fault driver's own memory.
conformance!(
    fault_that_holds_nothing_back_over_memory,
    wrapped(memory_drivers(1_472), FaultConfig { delay_per_mille: 1_000, ..FaultConfig::default() })
);

conformance!(packet, packet_drivers(USUAL), if netns::are_possible());
conformance!(
    packet_on_a_link_with_jumbo_frames,
    packet_drivers(Shape { mtu: 9_000, ..USUAL }),
    if netns::are_possible()
);
conformance!(
    packet_at_an_address_that_the_kernel_does_not_have,
    packet_drivers(Shape { kernel_has_addresses: false, ..USUAL }),
    if netns::are_possible()
);

conformance!(xdp_native, xdp_drivers(USUAL, XdpMode::Native), if xdp_is_possible());
conformance!(xdp_generic, xdp_drivers(USUAL, XdpMode::Generic), if xdp_is_possible());
conformance!(
    xdp_on_a_link_with_large_frames,
    xdp_drivers(Shape { mtu: 3_498, ..USUAL }, XdpMode::Auto),
    if xdp_is_possible()
);
conformance!(
    xdp_at_an_address_that_the_kernel_does_not_have,
    xdp_drivers(Shape { kernel_has_addresses: false, ..USUAL }, XdpMode::Auto),
    if xdp_is_possible()
);

conformance!(
    dpdk_over_vhost_and_virtio,
    |count| dpdk::hosts(count, 1).into_iter().flatten().collect(),
    ignored "run by ci/dpdk.sh, which builds the plugin"
);

/// The same tests for one kind of driver whose addresses have several receive queues; `$open` makes as many hosts as asked
/// for, each with so many queues.
macro_rules! conformance_of_queues {
    ($kind:ident, $open:expr $(, ignored $reason:literal)?) => {
        conformance_of_queues!($kind, $open, if true $(, ignored $reason)?);
    };
    ($kind:ident, $open:expr, if $is_possible:expr $(, ignored $reason:literal)?) => {
        conformance_of_queues!($kind, $open, $is_possible $(, $reason)?;
            a_pair_of_ports_always_reaches_the_same_queue_and_all_pairs_together_reach_every_queue,
            both_ports_are_what_the_sender_chose,
            datagrams_from_alternating_ports_keep_their_borders_and_their_order_by_port,
            every_queue_answers_from_the_address_that_was_asked,
            the_first_engine_sends_from_the_port_that_peers_send_to,
        );
    };
    ($kind:ident, $open:expr, $is_possible:expr; $($name:ident,)+) => {
        mod $kind {
            use super::*;
            $(#[test] fn $name() { if $is_possible { queue_checks::$name(&mut $open); } })+
        }
    };
    ($kind:ident, $open:expr, $is_possible:expr, $reason:literal; $($name:ident,)+) => {
        mod $kind {
            use super::*;
            $(#[test] #[ignore = $reason] fn $name() { if $is_possible { queue_checks::$name(&mut $open); } })+
        }
    };
}

conformance_of_queues!(udp_with_queues, udp_hosts(UdpConfig::default()));
conformance_of_queues!(
    udp_with_queues_as_on_an_old_kernel,
    udp_hosts(UdpConfig { use_gso: false, use_gro: false, ..UdpConfig::default() })
);
conformance_of_queues!(memory_with_queues, memory_hosts);
conformance_of_queues!(
    dpdk_over_vhost_and_virtio_with_queues,
    |hosts, queues| dpdk::hosts(hosts, u16::try_from(queues).unwrap()),
    ignored "run by ci/dpdk.sh, which builds the plugin"
);
conformance_of_queues!(frames_with_queues, |hosts, queues| framed_hosts(hosts, queues, 1_500, None, false));
conformance_of_queues!(frames_of_a_vlan_with_queues, |hosts, queues| framed_hosts(
    hosts,
    queues,
    9_000,
    Some(1),
    true
));
conformance_of_queues!(
    packet_with_queues,
    |hosts, queues| packet_hosts(hosts, queues, USUAL),
    if netns::are_possible()
);
// Not in generic mode: on a veth pair without native XDP, the kernel takes the sender's queue less one for the receiver's,
// so the last queue gets nothing. (`xdp_sidecars.rs` runs several engines in that mode.)
conformance_of_queues!(
    xdp_native_with_queues,
    |hosts, queues| xdp_hosts(hosts, queues, USUAL, XdpMode::Native),
    if xdp_is_possible()
);
conformance_of_queues!(fault_over_memory_with_queues, |hosts, queues| {
    let wrap = |inner| {
        let clock: fn() -> Instant = || Instant::ZERO;
        FaultDriver::new(inner, FaultConfig::default(), clock)
    };
    let all: Vec<Vec<MemoryDriver>> = memory_hosts(hosts, queues);
    all.into_iter().map(|host| host.into_iter().map(wrap).collect()).collect()
});

/// Hosts at addresses that no other test has, so that their source ports are free.
fn udp_hosts(config: UdpConfig) -> impl FnMut(usize, usize) -> Vec<Vec<UdpDriver>> {
    move |hosts, queues| {
        let [high, low] = u16::try_from(std::process::id() % 65_000).unwrap().to_be_bytes();
        let host = || {
            static NEXT: AtomicU8 = AtomicU8::new(1);
            let address = [127, high, low, NEXT.fetch_add(1, Ordering::Relaxed)];
            UdpGroup::open(SocketAddr::from((address, 18_000)), queues, &config).unwrap()
        };
        (0..hosts).map(|_| host()).collect()
    }
}

fn memory_hosts(hosts: usize, queues: usize) -> Vec<Vec<MemoryDriver>> {
    let host = |index: usize| MemoryHost {
        ip: [10, 0, 0, 1 + u8::try_from(index).unwrap()].into(),
        ports: PortRange::new(18_000, 18_063).unwrap(),
        queues,
    };
    let hosts: Vec<_> = (0..hosts).map(host).collect();
    MemoryNetwork::open_hosts(&hosts, memory::DEFAULT_MAX_DATAGRAM, [1, 2])
}

/// Hosts on one switch that know each other's hardware addresses. That they are asked for is tested elsewhere: here nobody has
/// to send anything before what a test sends.
fn framed_hosts(
    hosts: usize,
    queues: usize,
    mtu: usize,
    vlan: Option<u16>,
    completes_checksums: bool,
) -> Vec<Vec<Framed<WireQueue>>> {
    let numbers = || (1..=u8::MAX).take(hosts);
    let mac = |number| MacAddress([2, 0, 0, 0, 0, number]);
    let plugs: Vec<_> = numbers().map(|n| Plug { mac: mac(n), mtu, queues, completes_checksums }).collect();
    let (_, all) = Wire::open(&plugs, 7);
    let neighbours: Vec<_> = numbers().map(|number| ([10, 0, 0, number].into(), mac(number))).collect();
    let host = |(number, queues): (u8, Vec<WireQueue>)| {
        let setup = Setup {
            address: [10, 0, 0, number].into(),
            prefix_bits: 24,
            routes: Vec::new(),
            neighbours: neighbours.clone(),
            vlan,
            udp_port: 18_000,
            ports: PortRange::new(18_000, 18_063).unwrap(),
            mtu: None,
            kernel_answers: false,
        };
        Framed::group(&setup, queues)
    };
    numbers().zip(all).map(host).collect()
}

fn framed_drivers(
    mtu: usize,
    vlan: Option<u16>,
    completes_checksums: bool,
) -> impl FnMut(usize) -> Vec<Framed<WireQueue>> {
    move |count| framed_hosts(count, 1, mtu, vlan, completes_checksums).into_iter().flatten().collect()
}

const USUAL: Shape = Shape { queues: 1, mtu: 1_500, kernel_has_addresses: true };

/// The first host is at one end of a veth pair, all others at the other, each with an address of its own. They know each
/// other's hardware addresses, as in [`framed_hosts`].
fn packet_hosts(hosts: usize, queues: usize, shape: Shape) -> Vec<Vec<Framed<PacketQueue>>> {
    let link = Link::with(shape).expect("asked before");
    let end = |host: usize| if host == 0 { End::Left } else { End::Right };
    let [_, _, subnet, _] = link.address(End::Left).octets();
    let address = |host: usize| Ipv4Addr::new(10, 77, subnet, 1 + u8::try_from(host).unwrap());
    let mac = |host| link.mac(end(host)).parse::<MacAddress>().unwrap();
    let neighbours: Vec<_> = (0..hosts).map(|host| (address(host), mac(host))).collect();
    for host in (2..hosts).filter(|_| shape.kernel_has_addresses) {
        link.ip(End::Right, &format!("address add {}/24 dev mn0", address(host)));
    }
    let host = |host| {
        let ports = PortRange::new(18_000, 18_063).unwrap();
        let kernel_answers = shape.kernel_has_addresses;
        let setup = Setup {
            address: address(host),
            prefix_bits: 24,
            routes: Vec::new(),
            neighbours: neighbours.clone(),
            vlan: None,
            udp_port: 18_000,
            ports,
            mtu: None,
            kernel_answers,
        };
        let queues = link.run_in(end(host), || {
            let interface = interface::find(Some(link.interface()), address(host)).unwrap();
            let config = PacketConfig {
                interface,
                address: address(host),
                ports,
                vlan: None,
                kernel_answers,
                bypasses_queueing: true,
            };
            PacketGroup::open(&config, queues).unwrap()
        });
        Framed::group(&setup, queues)
    };
    (0..hosts).map(host).collect()
}

fn packet_drivers(shape: Shape) -> impl FnMut(usize) -> Vec<Framed<PacketQueue>> {
    move |count| packet_hosts(count, 1, shape).into_iter().flatten().collect()
}

/// Each host has an interface of its own, at a bridge that spreads datagrams over its queues. They know each other's hardware
/// addresses, as in [`framed_hosts`].
fn xdp_hosts(hosts: usize, queues: usize, shape: Shape, mode: XdpMode) -> Vec<Vec<Framed<XdpQueue>>> {
    let queues = u32::try_from(queues).unwrap();
    let hub = Hub::new(hosts, Shape { queues, ..shape });
    let mac = |host| hub.mac(host).parse::<MacAddress>().unwrap();
    let neighbours: Vec<_> = (0..hosts).map(|host| (hub.address(host), mac(host))).collect();
    let host = |host| {
        let config = Config {
            driver: DriverKind::Xdp,
            interface: Some(hub.interface().to_owned()),
            address: hub.address(host).into(),
            prefix: Some(24),
            udp_port: 18_000,
            udp_ports: Some(18_000..=18_063),
            engines: queues,
            neighbours: neighbours.clone(),
            xdp_mode: mode,
            ..Config::default()
        };
        hub.run_in(host, || xdp::open(&config).unwrap())
    };
    let opened = (0..hosts).map(host).collect();
    // The bridge has to be there for as long as the test runs, in its own thread.
    HUBS.with_borrow_mut(|hubs| hubs.push(hub));
    opened
}

thread_local! {
    static HUBS: RefCell<Vec<Hub>> = const { RefCell::new(Vec::new()) };
}

fn xdp_drivers(shape: Shape, mode: XdpMode) -> impl FnMut(usize) -> Vec<Framed<XdpQueue>> {
    move |count| xdp_hosts(count, 1, shape, mode).into_iter().flatten().collect()
}

/// Whether this process may make namespaces and load XDP programs; if not, says `SKIPPED: reason`.
fn xdp_is_possible() -> bool {
    let Some(link) = Link::new() else { return false };
    let config = Config {
        interface: Some(link.interface().to_owned()),
        address: link.address(End::Left).into(),
        udp_port: 18_000,
        ..Config::default()
    };
    let opened = link.run_in(End::Left, || xdp::open(&config));
    if let Err(error @ (xdp::OpenError::Permission { .. } | xdp::OpenError::Missing { .. })) = opened {
        println!("SKIPPED: {error}");
        return false;
    }
    opened.unwrap();
    true
}

fn udp_drivers(config: UdpConfig) -> impl FnMut(usize) -> Vec<UdpDriver> {
    move |count| {
        (0..count).map(|_| UdpDriver::open("127.0.0.1:0".parse().unwrap(), &config).unwrap()).collect()
    }
}

fn udp_on_ipv6(count: usize) -> Vec<UdpDriver> {
    let config = UdpConfig::default();
    (0..count).map(|_| UdpDriver::open("[::1]:0".parse().unwrap(), &config).unwrap()).collect()
}

fn memory_drivers(max_datagram: usize) -> impl FnMut(usize) -> Vec<MemoryDriver> {
    move |count| {
        let addresses: Vec<SocketAddr> = (0..count)
            .map(|index| SocketAddr::from(([10, 0, 0, 1], 1 + u16::try_from(index).unwrap())))
            .collect();
        MemoryNetwork::open(&addresses, max_datagram)
    }
}

type Wrapped<D> = FaultDriver<D, fn() -> Instant>;

fn wrapped<D: Driver>(
    mut open: impl FnMut(usize) -> Vec<D>,
    config: FaultConfig,
) -> impl FnMut(usize) -> Vec<Wrapped<D>> {
    move |count| {
        let clock: fn() -> Instant = || Instant::ZERO;
        open(count).into_iter().map(|inner| FaultDriver::new(inner, config.clone(), clock)).collect()
    }
}

type Open<'a, D> = &'a mut dyn FnMut(usize) -> Vec<D>;

fn pair<D: Driver>(open: Open<'_, D>) -> (D, D) {
    let mut drivers = open(2);
    let second = drivers.pop().unwrap();
    (drivers.pop().unwrap(), second)
}

/// `len` bytes that depend on `index` and on their place.
fn pattern(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| u8::try_from((index * 31 + place * 7 + place / 256) % 256).unwrap()).collect()
}

/// Queues `bytes`, and says whether there was room.
fn try_queue(driver: &mut impl Driver, to: SocketAddr, bytes: &[u8]) -> bool {
    let Some(room) = driver.lend(driver.local_address().port(), to, bytes.len()) else { return false };
    assert_eq!(room.len(), bytes.len());
    room.copy_from_slice(bytes);
    driver.commit(bytes.len());
    true
}

fn queue(driver: &mut impl Driver, to: SocketAddr, bytes: &[u8]) {
    assert!(try_queue(driver, to, bytes), "no room for {} bytes", bytes.len());
}

/// Flushes until everything that is queued has left.
fn flush(driver: &mut impl Driver) {
    driver.flush().unwrap();
    for _ in 0..PATIENCE {
        if !driver.is_transmit_pending() {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
        driver.flush().unwrap();
    }
    panic!("the driver never sends what is queued");
}

/// One receive into a list.
fn receive_once(driver: &mut impl Driver, into: &mut Vec<(SocketAddr, Vec<u8>)>) -> usize {
    let before = into.len();
    let handed = driver.receive(|arrival| into.push((arrival.from, arrival.bytes.to_vec()))).unwrap();
    assert_eq!(into.len() - before, handed, "receive returns how many it handed over");
    assert!(handed <= RECEIVE_BURST);
    handed
}

/// Receives until `count` datagrams are there.
fn receive(driver: &mut impl Driver, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut received = Vec::new();
    let mut idle = 0;
    while received.len() < count {
        if receive_once(driver, &mut received) == 0 {
            idle += 1;
            assert!(idle < PATIENCE, "only {} of {count} datagrams arrived", received.len());
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    assert_eq!(received.len(), count, "more datagrams arrived than were sent");
    received
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    assert!(ready >= 0);
    ready == 1
}

mod checks {
    use super::*;

    pub(super) fn every_size_arrives_whole_and_unchanged<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        let max = a.max_datagram();
        let few = (1..=max.min(1_600)).chain((1_600..max).step_by(1_009)).chain([max - 1, max]);
        for (index, len) in few.enumerate() {
            let sent = pattern(index, len);
            queue(&mut a, b.local_address(), &sent);
            flush(&mut a);
            let received = receive(&mut b, 1);
            assert_eq!(received[0].0, a.local_address());
            assert!(received[0].1 == sent, "{len} bytes came as {} or changed", received[0].1.len());
        }
    }

    pub(super) fn a_burst_is_handed_over_in_order_and_in_portions<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        let count = 3 * RECEIVE_BURST + 8;
        for index in 0..count {
            queue(&mut a, b.local_address(), &pattern(index, 100));
        }
        flush(&mut a);
        // Each receive checks that it hands over at most RECEIVE_BURST.
        let mut received = receive(&mut b, count);
        for (index, (_, bytes)) in received.iter().enumerate() {
            assert_eq!(*bytes, pattern(index, 100));
        }
        assert_eq!(receive_once(&mut b, &mut received), 0);
    }

    pub(super) fn runs_of_equal_length_with_shorter_tails_keep_their_borders<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        let lengths: Vec<usize> =
            [(10, 1_000, 200), (1, 300, 300), (63, 500, 1), (64, 700, 699), (70, 64, 8)]
                .into_iter()
                .flat_map(|(count, len, tail)| std::iter::repeat_n(len, count).chain([tail]))
                .collect();
        for (index, len) in lengths.iter().enumerate() {
            queue(&mut a, b.local_address(), &pattern(index, *len));
        }
        flush(&mut a);
        let received = receive(&mut b, lengths.len());
        for (index, (_, bytes)) in received.iter().enumerate() {
            assert_eq!(*bytes, pattern(index, lengths[index]), "datagram {index}");
        }
    }

    pub(super) fn interleaved_destinations_each_get_their_own_in_order<D: Driver>(open: Open<'_, D>) {
        let mut drivers = open(4);
        let mut sender = drivers.remove(0);
        let mut expected: HashMap<SocketAddr, Vec<Vec<u8>>> = HashMap::new();
        for index in 0..150_usize {
            // Runs of one, two and three to each.
            let to = drivers[(index / (1 + index % 3)) % drivers.len()].local_address();
            let bytes = pattern(index, 200 + index / 10);
            queue(&mut sender, to, &bytes);
            expected.entry(to).or_default().push(bytes);
        }
        flush(&mut sender);
        for driver in &mut drivers {
            let wanted = expected.remove(&driver.local_address()).unwrap();
            let received = receive(driver, wanted.len());
            assert!(received.iter().all(|(from, _)| *from == sender.local_address()));
            assert!(received.into_iter().map(|(_, bytes)| bytes).eq(wanted));
        }
    }

    pub(super) fn a_full_transmit_queue_says_no_and_takes_more_after_a_flush<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        for round in 0..3 {
            let mut queued = 0;
            while try_queue(&mut a, b.local_address(), &pattern(queued, 1_000)) {
                queued += 1;
                assert!(queued <= 100_000, "the queue has no end");
            }
            assert!(queued > 0, "round {round}: nothing fits");
            let counted = a.counters().datagrams_sent;
            flush(&mut a);
            assert_eq!(a.counters().datagrams_sent - counted, queued as u64);
            let received = receive(&mut b, queued);
            assert!(received.iter().enumerate().all(|(index, (_, bytes))| *bytes == pattern(index, 1_000)));
        }
    }

    pub(super) fn a_peer_that_never_receives_neither_blocks_nor_breaks_the_sender<D: Driver>(
        open: Open<'_, D>,
    ) {
        let (mut a, mut b) = pair(open);
        let mut queued = 0;
        for index in 0..20_000 {
            if !try_queue(&mut a, b.local_address(), &pattern(index, 1_000)) {
                a.flush().unwrap();
                queued += u64::from(try_queue(&mut a, b.local_address(), &pattern(index, 1_000)));
            } else {
                queued += 1;
            }
        }
        flush(&mut a);
        let counted = a.counters();
        assert_eq!(counted.datagrams_sent + counted.dropped_queue_full, queued);
        let mut received = Vec::new();
        while receive_once(&mut b, &mut received) > 0 {}
        assert!(!received.is_empty() && received.len() < 20_000);
        // What is there is the beginning, because a full queue drops what comes last.
        assert!(
            received.iter().take(100).enumerate().all(|(index, (_, bytes))| *bytes == pattern(index, 1_000))
        );
        queue(&mut a, b.local_address(), b"again");
        flush(&mut a);
        assert_eq!(receive(&mut b, 1)[0].1, b"again");
    }

    pub(super) fn the_wait_descriptor_is_readable_exactly_while_something_waits<D: Driver>(
        open: Open<'_, D>,
    ) {
        let (mut a, mut b) = pair(open);
        if b.wait_fd().is_none() {
            return;
        }
        assert!(b.prepare_sleep());
        assert!(!is_readable(b.wait_fd().unwrap()));
        for index in 0..RECEIVE_BURST + 1 {
            queue(&mut a, b.local_address(), &pattern(index, 50 + index));
        }
        flush(&mut a);
        for _ in 0..PATIENCE {
            if is_readable(b.wait_fd().unwrap()) {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        assert!(is_readable(b.wait_fd().unwrap()));
        receive(&mut b, RECEIVE_BURST + 1);
        assert_eq!(b.receive(|_| {}).unwrap(), 0);
        assert!(b.prepare_sleep());
        assert!(!is_readable(b.wait_fd().unwrap()));
    }

    pub(super) fn a_datagram_may_be_shorter_than_what_was_lent<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        let max = a.max_datagram();
        for index in 0..100 {
            let room = a.lend(a.local_address().port(), b.local_address(), 1_000.min(max)).unwrap();
            assert_eq!(room.len(), 1_000);
            room[..10 + index].copy_from_slice(&pattern(index, 10 + index));
            a.commit(10 + index);
        }
        flush(&mut a);
        let received = receive(&mut b, 100);
        assert!(received.iter().enumerate().all(|(index, (_, bytes))| *bytes == pattern(index, 10 + index)));
    }

    pub(super) fn bytes_of_earlier_datagrams_never_leak_into_later_ones<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        for _ in 0..3 {
            for _ in 0..128 {
                queue(&mut a, b.local_address(), &[0xAA; 1_000]);
            }
            flush(&mut a);
            receive(&mut b, 128);
            for index in 0..128 {
                a.lend(a.local_address().port(), b.local_address(), 1_000).unwrap()[..10 + index % 4]
                    .fill(0xBB);
                a.commit(10 + index % 4);
            }
            flush(&mut a);
            for (index, (_, bytes)) in receive(&mut b, 128).into_iter().enumerate() {
                assert_eq!(bytes, vec![0xBB; 10 + index % 4]);
            }
        }
    }

    pub(super) fn an_empty_datagram_is_a_datagram<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        for bytes in [&b"one"[..], b"", b"", b"two"] {
            queue(&mut a, b.local_address(), bytes);
        }
        flush(&mut a);
        let received = receive(&mut b, 4);
        let lengths: Vec<usize> = received.iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [3, 0, 0, 3]);
    }

    pub(super) fn an_answer_reaches_the_address_that_the_question_came_from<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        for index in 0..50 {
            queue(&mut a, b.local_address(), &pattern(index, 64));
            flush(&mut a);
            let (from, question) = receive(&mut b, 1).remove(0);
            queue(&mut b, from, &question);
            flush(&mut b);
            assert_eq!(receive(&mut a, 1)[0], (b.local_address(), pattern(index, 64)));
        }
    }

    pub(super) fn a_destination_that_does_not_exist_leaves_its_neighbours_alone<D: Driver>(
        open: Open<'_, D>,
    ) {
        let (mut a, mut b) = pair(open);
        // The discard port: low enough that no test is given it, and served nowhere by now.
        let nobody = SocketAddr::new(b.local_address().ip(), 9);
        let other_family: SocketAddr =
            if nobody.is_ipv4() { "[::1]:9".parse().unwrap() } else { "127.0.0.1:9".parse().unwrap() };
        for index in 0..30 {
            let to = [b.local_address(), nobody, b.local_address(), other_family][index % 4];
            queue(&mut a, to, &pattern(index, 100));
            if index % 7 == 0 {
                flush(&mut a);
            }
        }
        flush(&mut a);
        let received = receive(&mut b, 15);
        assert!(received.iter().enumerate().all(|(index, (_, bytes))| *bytes == pattern(index * 2, 100)));
        assert!(a.counters().dropped_error >= 7, "{:?}", a.counters());
        assert_eq!(a.receive(|_| panic!("nobody answers")).unwrap(), 0);
    }

    pub(super) fn counters_agree_with_what_happened<D: Driver>(open: Open<'_, D>) {
        let (mut a, mut b) = pair(open);
        for index in 0..100 {
            queue(&mut a, b.local_address(), &pattern(index, 10));
        }
        assert_eq!(a.counters().datagrams_sent, 0);
        flush(&mut a);
        receive(&mut b, 100);
        assert_eq!(a.counters().datagrams_sent, 100);
        assert_eq!(b.counters().datagrams_received, 100);
        for driver in [a, b] {
            let counted = driver.counters();
            assert_eq!(counted.dropped_queue_full, 0);
            assert_eq!(counted.dropped_error, 0);
            assert_eq!(counted.dropped_too_large, 0);
            assert_eq!(counted.dropped_truncated, 0);
        }
    }

    pub(super) fn a_datagram_to_oneself_comes_back<D: Driver>(open: Open<'_, D>) {
        let mut driver = open(1).pop().unwrap();
        let address = driver.local_address();
        queue(&mut driver, address, b"mirror");
        flush(&mut driver);
        assert_eq!(receive(&mut driver, 1)[0], (address, b"mirror".to_vec()));
    }
}

mod queue_checks {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Open<'a, D> = &'a mut dyn FnMut(usize, usize) -> Vec<Vec<D>>;

    const QUEUES: usize = 4;

    /// A datagram as it arrived: queue, sender, our port, payload.
    type Arrival = (usize, SocketAddr, u16, Vec<u8>);

    fn send(driver: &mut impl Driver, from_port: u16, to: SocketAddr, bytes: &[u8]) {
        loop {
            if let Some(room) = driver.lend(from_port, to, bytes.len()) {
                room.copy_from_slice(bytes);
                return driver.commit(bytes.len());
            }
            flush(driver);
        }
    }

    fn arrivals<D: Driver>(host: &mut [D], count: usize) -> Vec<Arrival> {
        let (mut arrived, mut idle) = (Vec::new(), 0);
        while arrived.len() < count {
            let before = arrived.len();
            for (queue, driver) in host.iter_mut().enumerate() {
                driver.receive(|it| arrived.push((queue, it.from, it.to_port, it.bytes.to_vec()))).unwrap();
            }
            if arrived.len() == before {
                idle += 1;
                assert!(idle < PATIENCE, "only {before} of {count} datagrams arrived");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        assert_eq!(arrived.len(), count, "more datagrams arrived than were sent");
        arrived
    }

    fn two<D>(mut hosts: Vec<Vec<D>>) -> (Vec<D>, Vec<D>) {
        let second = hosts.pop().unwrap();
        (hosts.pop().unwrap(), second)
    }

    pub(super) fn a_pair_of_ports_always_reaches_the_same_queue_and_all_pairs_together_reach_every_queue<
        D: Driver,
    >(
        open: Open<'_, D>,
    ) {
        let (mut left, mut right) = two(open(2, QUEUES));
        let to = right[0].local_address();
        let mut by_port: BTreeMap<u16, usize> = BTreeMap::new();
        for _ in 0..5 {
            let ports: Vec<u16> = left[0].ports().ports().collect();
            for &port in &ports {
                send(&mut left[0], port, to, b"x");
            }
            flush(&mut left[0]);
            for (queue, from, _, _) in arrivals(&mut right, ports.len()) {
                assert_eq!(*by_port.entry(from.port()).or_insert(queue), queue, "port {}", from.port());
            }
        }
        assert_eq!(by_port.len(), 64);
        assert_eq!(by_port.values().collect::<BTreeSet<_>>().len(), QUEUES, "{by_port:?}");
    }

    pub(super) fn both_ports_are_what_the_sender_chose<D: Driver>(open: Open<'_, D>) {
        let (mut left, mut right) = two(open(2, QUEUES));
        let ip = right[0].local_address().ip();
        for driver in &mut left {
            let from = driver.ports().last();
            let to = right[0].receive_ports().last();
            send(driver, from, SocketAddr::new(ip, to), b"x");
            flush(driver);
            let (_, sender, port, _) = arrivals(&mut right, 1).remove(0);
            assert_eq!(sender, SocketAddr::new(driver.local_address().ip(), from));
            assert_eq!(port, to);
        }
    }

    pub(super) fn datagrams_from_alternating_ports_keep_their_borders_and_their_order_by_port<D: Driver>(
        open: Open<'_, D>,
    ) {
        let (mut left, mut right) = two(open(2, QUEUES));
        let to = right[0].local_address();
        let ports: Vec<u16> = left[0].ports().ports().take(7).collect();
        let mut sent: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for index in 0..210 {
            // Runs of one, two and three from each.
            let port = ports[(index / (1 + index % 3)) % ports.len()];
            let bytes = pattern(index, 300 + index / 50);
            send(&mut left[0], port, to, &bytes);
            sent.entry(port).or_default().push(bytes);
        }
        flush(&mut left[0]);
        let mut came: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for (_, from, _, bytes) in arrivals(&mut right, 210) {
            came.entry(from.port()).or_default().push(bytes);
        }
        assert!(came == sent);
        assert_eq!(left[0].counters().datagrams_sent, 210);
    }

    pub(super) fn every_queue_answers_from_the_address_that_was_asked<D: Driver>(open: Open<'_, D>) {
        let (mut left, mut right) = two(open(2, QUEUES));
        let to = right[0].local_address();
        for driver in &mut right {
            send(driver, to.port(), left[0].local_address(), b"x");
            flush(driver);
            assert_eq!(arrivals(&mut left, 1)[0].1, to);
        }
    }

    pub(super) fn the_first_engine_sends_from_the_port_that_peers_send_to<D: Driver>(open: Open<'_, D>) {
        let hosts = open(1, QUEUES);
        let port = hosts[0][0].local_address().port();
        assert_eq!(hosts[0][0].ports().first(), port);
        assert!(hosts[0].iter().all(|driver| driver.receive_ports().contains(port)));
        assert!(hosts[0].iter().all(|driver| driver.ports().count() == 64));
    }
}
