//! Our transport as a host of the lab: the core itself, with applications that send as fast as they may and read at once.

use super::Node;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{
    Body, Config, Datagram, Endpoint, Event, FlowId, Handling, Limits, Listening, Payload, Reason, RxHandle,
    TxHandle,
};
use machnet_engine::wire::header::{self, Packet};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The port that every host listens on, and the UDP port of all.
const PORT: u16 = 7_000;
const UDP_PORT: u16 = 31_580;
/// Bytes of an IP and a UDP header.
const IP_UDP_BYTES: u64 = 28;
/// Bytes of messages that a flow keeps under way.
const UNDER_WAY_BYTES: u32 = 4 << 20;
/// Messages that it keeps under way at least.
const UNDER_WAY_MESSAGES: u32 = 8;
const LIMITS: Limits = Limits { max_message: 8 << 20, window_messages: 16_384, window_bytes: 16 << 20 };

fn address(host: usize) -> SocketAddr {
    let [.., high, low] = host.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], UDP_PORT))
}

fn host_of(address: SocketAddr) -> usize {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])),
        std::net::IpAddr::V6(_) => unreachable!("the lab has IPv4 addresses"),
    }
}

/// What an application sends on its flow.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// To whom.
    pub to: usize,
    /// Bytes of each message.
    pub message_bytes: u32,
    /// How many messages; `None`: without end.
    pub messages: Option<u64>,
    /// Most messages that are not acknowledged.
    pub outstanding: u32,
    /// When it connects.
    pub begins_ns: u64,
}

impl Load {
    /// As many messages of this length as the network takes.
    pub fn endless(to: usize, message_bytes: u32) -> Self {
        let outstanding =
            (UNDER_WAY_BYTES / message_bytes).clamp(UNDER_WAY_MESSAGES, LIMITS.window_messages / 2);
        Self { to, message_bytes, messages: None, outstanding, begins_ns: 0 }
    }
}

#[derive(Debug)]
struct Sending {
    load: Load,
    flow: Option<FlowId>,
    connected: bool,
    given: u64,
    acknowledged: u64,
}

/// The applications' side of the core.
#[derive(Debug, Default)]
struct Desk {
    room: Vec<(FlowId, u32)>,
    reserved: HashMap<u32, u32>,
    next_room: u32,
    acknowledged: Vec<FlowId>,
    received_bytes: u64,
    received_messages: u64,
}

impl Desk {
    fn take(&mut self, flow: FlowId, len: u32) {
        self.received_bytes += u64::from(len);
        self.received_messages += 1;
        self.room.push((flow, len));
    }
}

impl Payload for Desk {
    fn listening(&mut self, port: u16) -> Listening {
        if port == PORT { Listening::Open(LIMITS) } else { Listening::Nobody }
    }
    fn accept(&mut self, _: FlowId, _: u16, _: SocketAddr, _: Limits) -> Result<(), Reason> {
        Ok(())
    }
    fn reserve(&mut self, _: FlowId, len: u32, _: bool) -> Option<RxHandle> {
        self.next_room = self.next_room.wrapping_add(1);
        self.reserved.insert(self.next_room, len);
        Some(RxHandle(self.next_room))
    }
    fn keep(&mut self, _: FlowId, _: RxHandle, _: u32, _: &[u8]) {}
    fn deliver(&mut self, flow: FlowId, message: RxHandle) -> bool {
        let len = self.reserved.remove(&message.0).expect("what is delivered was reserved");
        self.take(flow, len);
        true
    }
    fn deliver_whole(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        self.take(flow, u32::try_from(bytes.len()).expect("a datagram is below 64 KiB"));
        true
    }
    fn discard(&mut self, _: FlowId, message: RxHandle) {
        self.reserved.remove(&message.0);
    }
    fn acknowledged(&mut self, flow: FlowId, _: TxHandle) {
        self.acknowledged.push(flow);
    }
}

/// A host with one engine.
#[derive(Debug)]
pub struct MachnetNode {
    endpoint: Endpoint,
    desk: Desk,
    sendings: Vec<Sending>,
}

impl MachnetNode {
    /// A host that listens and sends these loads.
    pub fn new(config: Config, seed: u64, loads: &[Load]) -> Self {
        let sending =
            |&load: &Load| Sending { load, flow: None, connected: false, given: 0, acknowledged: 0 };
        Self {
            endpoint: Endpoint::new(config, [seed, 1]),
            desk: Desk::default(),
            sendings: loads.iter().map(sending).collect(),
        }
    }

    /// Bytes of messages that a datagram carries.
    pub fn payload_bytes(datagram: &[u8]) -> u32 {
        let Ok(Packet::Data(data)) = header::parse(datagram) else { return 0 };
        let bytes = match data.body {
            header::Body::Whole { bytes, .. } | header::Body::Segment { bytes, .. } => bytes.len(),
            header::Body::Bundle { items, .. } => items.iter().map(<[u8]>::len).sum(),
            header::Body::None | header::Body::Ping { .. } | header::Body::Nudge => 0,
        };
        u32::try_from(bytes).expect("a datagram is below 64 KiB")
    }

    /// Messages received.
    pub fn received_messages(&self) -> u64 {
        self.desk.received_messages
    }

    /// Messages of our loads that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.sendings.iter().map(|sending| sending.acknowledged).sum()
    }

    /// What the core counted.
    pub fn counters(&self) -> &machnet_engine::proto::Counters {
        self.endpoint.counters()
    }

    fn after(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected { flow, .. } => {
                    let sending = self.sendings.iter_mut().find(|sending| sending.flow == Some(flow));
                    sending.expect("only our loads connect").connected = true;
                }
                Event::ConnectFailed { reason, .. } | Event::Reset { reason, .. } => {
                    panic!("a flow of the lab ended: {reason:?}")
                }
                Event::Closed { .. } | Event::Finished { .. } => {}
            }
        }
        for flow in std::mem::take(&mut self.desk.acknowledged) {
            if let Some(sending) = self.sendings.iter_mut().find(|sending| sending.flow == Some(flow)) {
                sending.acknowledged += 1;
            }
        }
        for (flow, len) in std::mem::take(&mut self.desk.room) {
            self.endpoint.handle_room(now, flow, 1, u64::from(len), &mut self.desk);
        }
        self.feed(now);
    }

    fn feed(&mut self, now: Instant) {
        for sending in &mut self.sendings {
            let Some(flow) = sending.flow.filter(|_| sending.connected) else { continue };
            while sending.given - sending.acknowledged < u64::from(sending.load.outstanding)
                && sending.load.messages.is_none_or(|most| sending.given < most)
            {
                let sent = self.endpoint.send(now, flow, TxHandle(0), sending.load.message_bytes);
                sent.expect("the flow is open and has credit");
                sending.given += 1;
            }
        }
    }
}

impl Node for MachnetNode {
    fn handle(&mut self, now_ns: u64, from: usize, bytes: &[u8]) {
        let now = Instant::from_nanos(now_ns);
        let datagram =
            Datagram { from: address(from), to_port: UDP_PORT, landed: None, waited: Duration::ZERO, bytes };
        let handling = self.endpoint.handle_datagram(now, &datagram, &mut self.desk);
        assert_eq!(handling, Handling::Done, "there is no other engine");
        self.after(now);
    }

    fn wake(&mut self, now_ns: u64) {
        let now = Instant::from_nanos(now_ns);
        for sending in &mut self.sendings {
            if sending.flow.is_none() && sending.load.begins_ns <= now_ns {
                let to = address(sending.load.to);
                let flow = self.endpoint.connect(now, to, PORT, LIMITS, Duration::from_secs(60));
                sending.flow = Some(flow.expect("an endpoint has room for a few flows"));
            }
        }
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now, &mut self.desk);
        }
        self.after(now);
    }

    fn next_wake(&self) -> Option<u64> {
        let connects = self.sendings.iter().filter(|sending| sending.flow.is_none());
        let connects = connects.map(|sending| sending.load.begins_ns).min();
        let timeout = self.endpoint.poll_timeout().map(Instant::as_nanos);
        [connects, timeout].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self, now_ns: u64) -> Option<(usize, Vec<u8>)> {
        let transmit = self.endpoint.poll_transmit(Instant::from_nanos(now_ns))?;
        let mut bytes = vec![0; transmit.header_len + transmit.body_len];
        self.endpoint.emit_header(&mut bytes[..transmit.header_len]);
        if let Body::Bundle { .. } = transmit.body {
            let mut at = transmit.header_len;
            for &(_, len) in self.endpoint.bundle() {
                bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
                at += 2 + usize::from(len);
            }
        }
        Some((host_of(transmit.to), bytes))
    }

    fn hidden_bytes(&self) -> u64 {
        IP_UDP_BYTES
    }

    fn received_bytes(&self) -> u64 {
        self.desk.received_bytes
    }
}
