//! What only kernel sockets do: the lock, the errors of opening, sizes that the interface refuses, a full send buffer.
//!
//! Tests in network namespaces need privileges; without them they say that they were skipped.
#![expect(unsafe_code, reason = "unshare, setns and setsockopt have no safe form in std")]
#![expect(clippy::unwrap_used, reason = "a test that meets an error ends")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use machnet_engine::driver::Driver;
use machnet_engine::driver::udp::{Holder, OpenError, UdpConfig, UdpDriver, UdpGroup};

/// Looks at a queue before a test gives up, with a pause of 100 us between them.
const PATIENCE: u32 = 100_000;

/// Names the address that the other process of a test is to serve.
const SERVE_VARIABLE: &str = "MACHNET_TEST_SERVE";

fn open(address: &str) -> Result<UdpDriver, OpenError> {
    UdpDriver::open(address.parse().unwrap(), &UdpConfig::default())
}

/// Opens an address that was just closed. A child process that another test is starting right now has copies of all our
/// descriptors until it runs its program, so the address may stay taken for a moment.
fn open_again(address: SocketAddr, config: &UdpConfig) -> UdpDriver {
    let mut idle = 0;
    loop {
        match UdpDriver::open(address, config) {
            Ok(driver) => return driver,
            Err(OpenError::AddressInUse { .. }) => pause(&mut idle, "the address to become free"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn queue(driver: &mut UdpDriver, to: SocketAddr, len: usize, fill: u8) -> bool {
    let Some(room) = driver.lend(driver.local_address().port(), to, len) else { return false };
    room.fill(fill);
    driver.commit(len);
    true
}

fn pause(idle: &mut u32, what: &str) {
    *idle += 1;
    assert!(*idle < PATIENCE, "gave up waiting: {what}");
    std::thread::sleep(Duration::from_micros(100));
}

/// Receives `count` datagrams and returns the length and the first byte of each.
fn receive(driver: &mut UdpDriver, count: usize) -> Vec<(usize, u8)> {
    let mut received = Vec::new();
    let mut idle = 0;
    while received.len() < count {
        let handed =
            driver.receive(|arrival| received.push((arrival.bytes.len(), arrival.bytes[0]))).unwrap();
        if handed == 0 {
            pause(&mut idle, "datagrams");
        }
    }
    assert_eq!(received.len(), count);
    received
}

#[test]
fn a_second_sidecar_in_this_process_is_refused_and_the_holder_is_named() {
    let first = open("127.0.0.1:0").unwrap();
    let address = first.local_address();
    let error = UdpDriver::open(address, &UdpConfig::default()).unwrap_err();
    assert!(
        matches!(&error, OpenError::AddressInUse { by: Holder::Sidecar { process: Some(process) }, .. }
            if *process == std::process::id()),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("another machnet sidecar"), "{text}");
    drop(first);
    open_again(address, &UdpConfig::default());
}

#[test]
fn a_second_sidecar_in_another_process_is_refused_until_it_dies_however_it_dies() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "the_other_process_serves_until_it_is_killed"])
        .env(SERVE_VARIABLE, "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, address)) = line.split_once("serving ") {
            break address.parse().unwrap();
        }
    };
    for engines in [1, 2] {
        match UdpGroup::open(address, engines, &UdpConfig::default()) {
            Err(OpenError::AddressInUse { by: Holder::Sidecar { process }, .. }) => {
                assert_eq!(process, Some(child.id()));
            }
            other => panic!("expected that the address is in use, got {other:?}"),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    open_again(address, &UdpConfig::default());
}

#[test]
#[ignore = "the other half of a test"]
fn the_other_process_serves_until_it_is_killed() {
    let Ok(address) = std::env::var(SERVE_VARIABLE) else { return };
    let driver = open(&address).unwrap();
    println!("serving {}", driver.local_address());
    // The parent kills us; if it died, do not stay for ever.
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn an_address_of_another_host_is_refused_and_our_own_ones_are_listed() {
    let error = open("192.0.2.77:31000").unwrap_err();
    assert!(matches!(error, OpenError::AddressNotLocal { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("192.0.2.77 is not an address of this host"), "{text}");
    assert!(text.contains("127.0.0.1 (lo)"), "{text}");
}

#[test]
fn addresses_that_are_not_one_address_are_refused() {
    for address in ["0.0.0.0:31000", "[::]:31000", "224.0.0.1:31000"] {
        assert!(matches!(open(address), Err(OpenError::NotOneAddress { .. })), "{address}");
    }
}

#[test]
fn a_port_that_a_plain_socket_holds_is_refused_with_advice_how_to_find_it() {
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    for engines in [1, 2] {
        let error = UdpGroup::open(address, engines, &UdpConfig::default()).unwrap_err();
        assert!(
            matches!(error, OpenError::AddressInUse { by: Holder::OtherProgram { .. }, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(&format!("ss -ulpn sport = :{}", address.port())), "{error}");
    }
}

#[test]
fn sockets_of_one_group_share_a_port_and_no_peer_is_split_among_them() {
    let mut engines = UdpGroup::open("127.0.0.1:0".parse().unwrap(), 4, &UdpConfig::default()).unwrap();
    let address = engines[0].local_address();
    assert!(engines.iter().all(|engine| engine.local_address() == address));
    let peers: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for _ in 0..10 {
        for peer in &peers {
            peer.send_to(b"x", address).unwrap();
        }
    }
    let mut seen: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
    for (index, engine) in engines.iter_mut().enumerate() {
        while engine.receive(|arrival| seen.entry(arrival.from).or_default().push(index)).unwrap() > 0 {}
    }
    assert_eq!(seen.len(), peers.len());
    assert!(seen.values().all(|by| by.len() == 10 && by.iter().all(|index| *index == by[0])), "{seen:?}");
    // The group holds the address until its last member is gone.
    let last = engines.pop().unwrap();
    drop(engines);
    assert!(matches!(
        UdpDriver::open(address, &UdpConfig::default()),
        Err(OpenError::AddressInUse { by: Holder::Sidecar { .. }, .. })
    ));
    drop(last);
    open_again(address, &UdpConfig::default());
}

/// Engines at an address of this test alone, so that nobody else has their source ports.
fn alone(last: u8, engines: usize) -> Vec<UdpDriver> {
    let [high, low] = u16::try_from(std::process::id() % 65_000).unwrap().to_be_bytes();
    let address = SocketAddr::from(([127, high, low, last], 18_500));
    UdpGroup::open(address, engines, &UdpConfig::default()).unwrap()
}

fn send_from(driver: &mut UdpDriver, port: u16, to: SocketAddr) {
    driver.lend(port, to, 1).unwrap().fill(1);
    driver.commit(1);
    driver.flush().unwrap();
}

#[test]
fn one_engine_has_one_socket_until_it_sends_from_another_port() {
    let mut driver = alone(1, 1).remove(0);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    for _ in 0..3 {
        send_from(&mut driver, 18_500, to);
    }
    assert_eq!(driver.status().source_sockets, 0);
    for _ in 0..3 {
        send_from(&mut driver, 18_501, to);
        send_from(&mut driver, 18_563, to);
    }
    assert_eq!(driver.status().source_sockets, 2);
    let mut ports: Vec<u16> = (0..9).map(|_| peer.recv_from(&mut [0; 9]).unwrap().1.port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [18_500, 18_500, 18_500, 18_501, 18_501, 18_501, 18_563, 18_563, 18_563]);
    assert_eq!(driver.counters().source_port_unavailable, 0);
}

#[test]
fn a_source_port_that_someone_else_has_is_done_without() {
    let mut driver = alone(2, 1).remove(0);
    let taken = UdpSocket::bind((driver.local_address().ip(), 18_510)).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    // One that is taken, one beyond the range.
    send_from(&mut driver, 18_510, to);
    send_from(&mut driver, 20_000, to);
    for _ in 0..2 {
        assert_eq!(peer.recv_from(&mut [0; 9]).unwrap().1, driver.local_address());
    }
    assert_eq!(driver.counters().source_port_unavailable, 2);
    drop(taken);
}

#[test]
fn what_comes_to_a_source_port_is_dropped_and_counted() {
    let mut driver = alone(3, 1).remove(0);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    send_from(&mut driver, 18_520, peer.local_addr().unwrap());
    let source = SocketAddr::new(driver.local_address().ip(), 18_520);
    for _ in 0..5 {
        peer.send_to(b"by mistake", source).unwrap();
    }
    peer.send_to(b"right", driver.local_address()).unwrap();
    assert_eq!(receive(&mut driver, 1), [(5, b'r')]);
    assert_eq!(driver.counters().dropped_source_port, 5);
    assert_eq!(driver.counters().datagrams_received, 1);
}

#[test]
fn engines_divide_the_source_ports_and_another_sidecar_gets_none_of_them() {
    let mut drivers = alone(4, 3);
    let ranges: Vec<_> =
        drivers.iter().map(|driver| (driver.ports().first(), driver.ports().last())).collect();
    assert_eq!(ranges, [(18_500, 18_563), (18_564, 18_627), (18_628, 18_691)]);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    send_from(&mut drivers[1], 18_600, peer.local_addr().unwrap());
    // A sidecar that would receive at a port that this one sends from is told so.
    let other = SocketAddr::new(drivers[0].local_address().ip(), 18_600);
    let error = UdpGroup::open(other, 2, &UdpConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::AddressInUse { by: Holder::OtherProgram { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("udp_ports"), "{error}");
}

#[test]
fn a_loopback_takes_the_largest_udp_payload_rounded_down_and_the_kernel_says_what_it_gave() {
    let driver = open("127.0.0.2:0").unwrap();
    let status = driver.status();
    assert_eq!(status.interface_mtu, 65_536);
    assert_eq!(driver.max_datagram(), 65_504);
    assert!(status.receive_buffer_bytes >= 200_000 && status.send_buffer_bytes >= 200_000, "{status:?}");
    assert_eq!(open("[::1]:0").unwrap().max_datagram(), 65_472);
}

/// Sets the option by which the kernel refuses GSO on this socket (EINVAL), as some interfaces do.
fn refuse_runs(driver: &UdpDriver) {
    set_int_option(driver.wait_fd().unwrap(), libc::SO_NO_CHECK, 1);
}

fn set_int_option(fd: BorrowedFd<'_>, name: i32, value: i32) {
    let length = u32::try_from(size_of::<i32>()).unwrap();
    // SAFETY: pointer and length name a local that outlives the call.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), length)
    };
    assert_eq!(result, 0);
}

#[test]
fn a_path_that_refuses_runs_gets_single_datagrams_and_nothing_is_lost() {
    let (mut a, mut b) = (open("127.0.0.1:0").unwrap(), open("127.0.0.1:0").unwrap());
    if !a.status().gso {
        eprintln!("SKIPPED: this kernel has no GSO for UDP");
        return;
    }
    refuse_runs(&a);
    for round in 0..3_u8 {
        for index in 0..20 {
            assert!(queue(&mut a, b.local_address(), if index == 9 { 500 } else { 900 }, index));
        }
        a.flush().unwrap();
        let expected: Vec<_> = (0..20_u8).map(|index| (if index == 9 { 500 } else { 900 }, index)).collect();
        assert_eq!(receive(&mut b, 20), expected, "round {round}");
        assert!(!a.status().gso);
        assert_eq!(a.status().gso_fallbacks, 1);
    }
    assert_eq!(a.counters().datagrams_sent, 60);
    assert_eq!(a.counters().dropped_error, 0);
}

#[test]
fn what_the_kernel_drops_at_a_full_receive_buffer_can_be_read() {
    let config = UdpConfig { socket_buffer_bytes: 8_192, ..UdpConfig::default() };
    let mut b = UdpDriver::open("127.0.0.1:0".parse().unwrap(), &config).unwrap();
    let mut a = open("127.0.0.1:0").unwrap();
    assert_eq!(b.kernel_receive_drops().unwrap(), 0);
    // Lengths that rise make no runs, so each is one to the kernel.
    for index in 0..100 {
        assert!(queue(&mut a, b.local_address(), 1_000 + index, 1));
    }
    a.flush().unwrap();
    let mut received = 0;
    while b.receive(|_| received += 1).unwrap() > 0 {}
    assert!(received < 100);
    assert_eq!(b.kernel_receive_drops().unwrap(), 100 - received);
}

/// A network namespace that a test made; it goes when the test's thread and sockets are gone.
struct Namespace(File);

impl Namespace {
    /// Makes a namespace and enters it with this thread.
    fn enter_new() -> Option<Self> {
        // SAFETY: no memory is involved; only this thread changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return None;
        }
        run("ip link set lo up");
        Some(Self(File::open("/proc/thread-self/ns/net").unwrap()))
    }

    fn enter(&self) {
        // SAFETY: no memory is involved; the descriptor is one of a namespace.
        assert_eq!(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }

    /// A path by which a child process finds the namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Keeps this thread on the processor it is on. The kernel moves packets over a veth cable through queues of the processor
/// that sends, so a sender that moves can have its packets overtake each other.
fn stay_on_one_cpu() {
    // SAFETY: all zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: no memory is involved.
    let cpu = unsafe { libc::sched_getcpu() };
    // SAFETY: the set lives on this stack and has room for every processor that the kernel names.
    unsafe { libc::CPU_SET(usize::try_from(cpu).unwrap(), &mut set) };
    // SAFETY: the set is readable for its size; 0 is this thread.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }, 0);
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "`{command}` failed");
}

/// Runs `test` with two hosts, each in its own namespace, joined by a cable of `mtu` bytes: 10.9.0.1 and fd09::1 on `va`
/// of the first, 10.9.0.2 and fd09::2 on `vb` of the second. The test begins in the first.
fn with_two_hosts(mtu: u32, test: impl FnOnce(&Namespace, &Namespace) + Send + 'static) {
    let has_ip =
        Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let thread = std::thread::spawn(move || {
        let namespaces = if has_ip { Namespace::enter_new().zip(Namespace::enter_new()) } else { None };
        let Some((second, first)) = namespaces else {
            eprintln!("SKIPPED: needs the ip command and the right to make network namespaces (root)");
            return;
        };
        run(&format!("ip link add va mtu {mtu} type veth peer name vb mtu {mtu}"));
        run(&format!("ip link set vb netns {}", second.path()));
        for (namespace, device, host) in [(&second, "vb", 2), (&first, "va", 1)] {
            namespace.enter();
            run(&format!("ip addr add 10.9.0.{host}/24 dev {device}"));
            run(&format!("ip addr add fd09::{host}/64 dev {device} nodad"));
            run(&format!("ip link set {device} up"));
        }
        test(&first, &second);
    });
    thread.join().unwrap();
}

fn open_both(
    first: &Namespace,
    second: &Namespace,
    addresses: [&str; 2],
    config: &UdpConfig,
) -> (UdpDriver, UdpDriver) {
    second.enter();
    let b = UdpDriver::open(addresses[1].parse().unwrap(), config).unwrap();
    first.enter();
    let a = UdpDriver::open(addresses[0].parse().unwrap(), config).unwrap();
    (a, b)
}

const IPV4: [&str; 2] = ["10.9.0.1:31000", "10.9.0.2:31000"];
const IPV6: [&str; 2] = ["[fd09::1]:31000", "[fd09::2]:31000"];

#[test]
fn full_datagrams_cross_cables_of_several_mtus_alone_and_in_runs() {
    for (mtu, addresses, max_datagram) in
        [(1280, IPV4, 1252), (1500, IPV4, 1472), (9000, IPV4, 8960), (1280, IPV6, 1232), (1500, IPV6, 1452)]
    {
        with_two_hosts(mtu, move |first, second| {
            let (mut a, mut b) = open_both(first, second, addresses, &UdpConfig::default());
            assert_eq!(a.max_datagram(), max_datagram);
            assert_eq!(a.status().interface_mtu, mtu);
            for count in [1, 2, 5, 7, 3] {
                for index in 0..count {
                    assert!(queue(&mut a, b.local_address(), max_datagram, index));
                }
                assert!(queue(&mut a, b.local_address(), 100, 99));
                a.flush().unwrap();
                let mut expected: Vec<_> = (0..count).map(|index| (max_datagram, index)).collect();
                expected.push((100, 99));
                assert_eq!(receive(&mut b, usize::from(count) + 1), expected);
            }
            assert_eq!(a.counters().dropped_too_large, 0);
        });
    }
}

#[test]
fn datagrams_that_the_interface_no_longer_takes_are_counted_and_smaller_ones_still_go() {
    for addresses in [IPV4, IPV6] {
        with_two_hosts(1500, move |first, second| {
            let (mut a, mut b) = open_both(first, second, addresses, &UdpConfig::default());
            let had_gso = a.status().gso;
            run("ip link set va mtu 1300");
            let to = b.local_address();
            // One alone, a run of too large ones with a tail that fits, and small ones around them.
            for (len, fill) in
                [(100, 1), (1400, 0), (200, 2), (1400, 0), (1400, 0), (1400, 0), (300, 3), (400, 4)]
            {
                assert!(queue(&mut a, to, len, fill));
            }
            a.flush().unwrap();
            assert_eq!(receive(&mut b, 4), [(100, 1), (200, 2), (300, 3), (400, 4)]);
            assert_eq!(a.counters().dropped_too_large, 4);
            assert_eq!(a.counters().datagrams_sent, 4);
            assert_eq!(a.status().gso, had_gso, "the size was to blame, not GSO");
        });
    }
}

/// One counter of /proc/net/snmp6 or, with a header line of names, /proc/net/snmp.
fn fragments_created(is_ipv6: bool) -> u64 {
    if is_ipv6 {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let line = text.lines().find(|line| line.starts_with("Ip6FragCreates")).unwrap();
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split_whitespace().position(|name| name == "FragCreates").unwrap();
    values.split_whitespace().nth(column).unwrap().parse().unwrap()
}

#[test]
fn what_the_kernel_believes_of_the_path_neither_stops_a_datagram_nor_cuts_it() {
    for (addresses, route) in
        [(IPV4, "ip route add 10.9.0.2/32 dev va"), (IPV6, "ip route add fd09::2/128 dev va")]
    {
        with_two_hosts(1500, move |first, second| {
            let (mut a, mut b) = open_both(first, second, addresses, &UdpConfig::default());
            // As after an ICMP message, true or forged, that the path takes 1,300 bytes.
            run(&format!("{route} mtu 1300"));
            let (to, max) = (b.local_address(), a.max_datagram());
            for (len, fill) in [(max, 1), (100, 2), (max, 3), (max, 4), (max - 1, 5)] {
                assert!(queue(&mut a, to, len, fill));
            }
            a.flush().unwrap();
            assert_eq!(receive(&mut b, 5), [(max, 1), (100, 2), (max, 3), (max, 4), (max - 1, 5)]);
            assert_eq!(fragments_created(to.is_ipv6()), 0);
        });
    }
}

#[test]
fn a_lock_in_another_network_namespace_is_another_lock() {
    with_two_hosts(1500, |first, second| {
        second.enter();
        let _there = open("127.0.0.1:31000").unwrap();
        first.enter();
        let _here = open("127.0.0.1:31000").unwrap();
    });
}

#[test]
fn a_datagram_above_our_interface_mtu_is_dropped_and_counted() {
    with_two_hosts(1280, |_, _| {
        let mut driver = open(IPV4[0]).unwrap();
        let plain = UdpSocket::bind("10.9.0.1:0").unwrap();
        // Between addresses of one host the cable's MTU does not matter.
        for len in [1_253, 40_000, 1_252] {
            plain.send_to(&vec![7; len], driver.local_address()).unwrap();
        }
        assert_eq!(receive(&mut driver, 1), [(1_252, 7)]);
        assert_eq!(driver.counters().dropped_truncated, 2);
        let config = UdpConfig { use_gro: false, ..UdpConfig::default() };
        drop(driver);
        let mut driver = open_again(IPV4[0].parse().unwrap(), &config);
        for len in [1_253, 40_000, 1_252] {
            plain.send_to(&vec![7; len], driver.local_address()).unwrap();
        }
        assert_eq!(receive(&mut driver, 1), [(1_252, 7)]);
        assert_eq!(driver.counters().dropped_truncated, 2);
    });
}

#[test]
fn a_full_send_buffer_keeps_what_is_queued_and_sends_it_later_in_order() {
    for use_gso in [true, false] {
        with_two_hosts(1500, move |first, second| {
            stay_on_one_cpu();
            let config = UdpConfig { socket_buffer_bytes: 32_768, use_gso, ..UdpConfig::default() };
            let (a, mut b) = open_both(first, second, IPV4, &UdpConfig::default());
            drop(a);
            let mut a = open_again(IPV4[0].parse().unwrap(), &config);
            run("tc qdisc add dev va root tbf rate 80mbit burst 20kb limit 10mb");
            let (mut sent, mut refused, mut received, mut idle) = (0_u32, 0_u32, Vec::new(), 0);
            while received.len() < 1_000 {
                let fill = u8::try_from(sent % 251).unwrap();
                if sent < 1_000 && queue(&mut a, b.local_address(), 1_000, fill) {
                    sent += 1;
                    continue;
                }
                refused += u32::from(sent < 1_000);
                a.flush().unwrap();
                if b.receive(|arrival| received.push(arrival.bytes[0])).unwrap() == 0 {
                    pause(&mut idle, "datagrams through a narrow cable");
                }
            }
            assert!(refused > 0, "the path was never full");
            assert!(received.iter().enumerate().all(|(index, fill)| usize::from(*fill) == index % 251));
            assert!(!a.is_transmit_pending());
            assert_eq!(a.counters().datagrams_sent, 1_000);
            assert_eq!(a.counters().dropped_queue_full, 0);
        });
    }
}

#[test]
fn a_peer_that_cannot_be_reached_costs_its_own_datagrams_only() {
    with_two_hosts(1500, |first, second| {
        let (mut a, mut b) = open_both(first, second, IPV4, &UdpConfig::default());
        run("ip route add unreachable 10.10.0.0/16");
        let nowhere: SocketAddr = "10.10.0.1:31000".parse().unwrap();
        for index in 0..30 {
            let to = if index % 3 == 0 { b.local_address() } else { nowhere };
            assert!(queue(&mut a, to, 500, index));
        }
        a.flush().unwrap();
        assert_eq!(receive(&mut b, 10), (0..10).map(|index| (500, index * 3)).collect::<Vec<_>>());
        assert_eq!(a.counters().dropped_error, 20);
        // The address goes away under the open socket: still no error of the driver as a whole.
        run("ip addr del 10.9.0.1/24 dev va");
        assert!(queue(&mut a, b.local_address(), 500, 0));
        a.flush().unwrap();
        assert_eq!(a.counters().dropped_error, 21);
        assert_eq!(a.receive(|_| {}).unwrap(), 0);
    });
}
