//! TCP as a host of the lab: the stack of smoltcp, for comparison inside the same network.

use super::Node;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Packet};
use std::collections::VecDeque;

const PORT: u16 = 7_000;
const MTU: usize = 1_500;
/// Room of a connection at each end.
const BUFFER_BYTES: usize = 4 << 20;

/// The host's interface: packets that came and packets that go.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Received(Vec<u8>);

#[derive(Debug)]
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        Some((Received(self.received.pop_front()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities
    }
}

fn address(host: usize) -> IpAddress {
    let [.., high, low] = host.to_be_bytes();
    IpAddress::v4(10, 0, high, low)
}

/// A host that sends without end on one connection, or receives on one.
pub struct TcpNode {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    received_bytes: u64,
    next_wake_ns: Option<u64>,
    fill: Vec<u8>,
}

impl std::fmt::Debug for TcpNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpNode").field("received_bytes", &self.received_bytes).finish_non_exhaustive()
    }
}

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_ns / 1_000).expect("the lab runs for seconds"))
}

impl TcpNode {
    /// Host number `host`; it connects to `to`, or listens.
    pub fn new(host: usize, to: Option<usize>, control: CongestionControl) -> Self {
        let mut wire = Wire::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(address(host), 8)).expect("there is room for one address");
        });
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(control);
        socket.set_nagle_enabled(false);
        match to {
            Some(to) => {
                let connected = socket.connect(interface.context(), (address(to), PORT), 40_000);
                connected.expect("a fresh socket connects");
            }
            None => socket.listen(PORT).expect("a fresh socket listens"),
        }
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let fill = vec![0; 64 << 10];
        Self { interface, wire, sockets, socket, received_bytes: 0, next_wake_ns: Some(0), fill }
    }

    fn poll(&mut self, now_ns: u64) {
        let now = instant(now_ns);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        while socket.can_recv() {
            let taken = socket.recv(|bytes| (bytes.len(), bytes.len())).expect("it can");
            self.received_bytes += taken as u64;
        }
        // Only the side that connected sends: the other's remote port is not the listener's.
        if socket.remote_endpoint().is_some_and(|remote| remote.port == PORT) {
            while socket.can_send() && socket.send_slice(&self.fill).expect("it can") > 0 {}
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let due = self.interface.poll_at(now, &self.sockets);
        // Its clock has whole microseconds: a timer is due in the next one.
        self.next_wake_ns =
            due.map(|at| u64::try_from(at.total_micros()).unwrap_or(0).max(now_ns / 1_000 + 1) * 1_000);
    }
}

impl Node for TcpNode {
    fn handle(&mut self, now_ns: u64, _: usize, bytes: &[u8]) {
        self.wire.received.push_back(bytes.to_vec());
        self.poll(now_ns);
    }

    fn wake(&mut self, now_ns: u64) {
        self.poll(now_ns);
    }

    fn next_wake(&self) -> Option<u64> {
        self.next_wake_ns
    }

    fn poll_transmit(&mut self, now_ns: u64) -> Option<(usize, Vec<u8>)> {
        if self.wire.outgoing.is_empty() {
            self.poll(now_ns);
        }
        let bytes = self.wire.outgoing.pop_front()?;
        let octets = Ipv4Packet::new_unchecked(&bytes).dst_addr().octets();
        Some((usize::from(u16::from_be_bytes([octets[2], octets[3]])), bytes))
    }

    fn hidden_bytes(&self) -> u64 {
        0
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes
    }
}
