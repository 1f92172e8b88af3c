//! Hosts with several engines behind network cards that only hash, in virtual time, for tests and benches of RSS--.
//!
//! Nothing is lost here but what a test takes away; the simulator (tests/sim) is for everything else. An engine works on one
//! datagram at a time, and each costs what [`Costs`] says. Messages are 64 bytes of nothing; a server sends each back.

use machnet_engine::driver::memory::OpaqueHash;
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{
    Body, Config, Datagram, Endpoint, Event, FlowId, Handling, Limits, Listening, Pair, Payload, PortRange,
    Reason, RxHandle, Spread, Transmit, TxHandle,
};
use machnet_engine::wire::header::{self, Packet};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

/// Bytes of every message.
pub(crate) const MESSAGE: u32 = 64;
/// The first port of listeners: the one that is `n` higher belongs to engine `n`.
pub(crate) const PORT: u16 = 7_000;
/// UDP port of every sidecar.
pub(crate) const UDP_PORT: u16 = 31_580;

const LIMITS: Limits = Limits { max_message: 1 << 20, window_messages: 256, window_bytes: 1 << 20 };

/// What things cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// From one network card to the other.
    pub(crate) one_way_ns: u64,
    /// An engine's work on a datagram that came, and on one that it sends.
    pub(crate) receive_ns: u64,
    pub(crate) send_ns: u64,
    /// From one engine to another.
    pub(crate) hand_over_ns: u64,
}

impl Default for Costs {
    fn default() -> Self {
        Self { one_way_ns: 25_000, receive_ns: 300, send_ns: 300, hand_over_ns: 500 }
    }
}

/// How a host is made.
#[derive(Clone, Debug)]
pub(crate) struct HostPlan {
    pub(crate) ip: IpAddr,
    pub(crate) engines: u8,
    /// Queues of its card: as many as engines, unless somebody sets them otherwise.
    pub(crate) queues: u8,
    /// UDP ports from [`UDP_PORT`] on.
    pub(crate) ports: u16,
    pub(crate) spread: Spread,
    pub(crate) seed: u64,
}

impl HostPlan {
    pub(crate) fn new(ip: [u8; 4], engines: u8, seed: u64) -> Self {
        Self { ip: ip.into(), engines, queues: engines, ports: 64, spread: Spread::Learned, seed }
    }
}

/// One engine's applications.
#[derive(Debug, Default)]
pub(crate) struct App {
    engine: u8,
    engines: u8,
    pub(crate) accepted: Vec<FlowId>,
    pub(crate) delivered: BTreeMap<u32, u64>,
    pub(crate) acknowledged: u64,
    /// Messages that were read, and those that a server has still to send back.
    read: Vec<FlowId>,
    echoes: Vec<FlowId>,
    clients: BTreeSet<u32>,
}

impl App {
    /// The applications of one of so many engines.
    pub(crate) fn listening_on(engine: u8, engines: u8) -> Self {
        Self { engine, engines, ..Self::default() }
    }
}

impl Payload for App {
    fn listening(&mut self, port: u16) -> Listening {
        match port.checked_sub(PORT).and_then(|offset| u8::try_from(offset).ok()) {
            Some(engine) if engine == self.engine => Listening::Open(LIMITS),
            Some(engine) if engine < self.engines => Listening::Elsewhere(engine),
            _ => Listening::Nobody,
        }
    }
    fn accept(&mut self, flow: FlowId, _: u16, _: SocketAddr, _: Limits) -> Result<(), Reason> {
        self.accepted.push(flow);
        Ok(())
    }
    fn reserve(&mut self, _: FlowId, _: u32, _: bool) -> Option<RxHandle> {
        Some(RxHandle(0))
    }
    fn keep(&mut self, _: FlowId, _: RxHandle, _: u32, _: &[u8]) {}
    fn deliver(&mut self, flow: FlowId, _: RxHandle) -> bool {
        self.deliver_whole(flow, &[])
    }
    fn deliver_whole(&mut self, flow: FlowId, _: &[u8]) -> bool {
        *self.delivered.entry(flow.index()).or_default() += 1;
        self.read.push(flow);
        if !self.clients.contains(&flow.index()) {
            self.echoes.push(flow);
        }
        true
    }
    fn discard(&mut self, _: FlowId, _: RxHandle) {}
    fn acknowledged(&mut self, _: FlowId, _: TxHandle) {
        self.acknowledged += 1;
    }
}

/// One engine.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) endpoint: Endpoint,
    pub(crate) app: App,
    pub(crate) events: Vec<(u64, Event)>,
    busy_until_ns: u64,
    timer_ns: u64,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) plan: HostPlan,
    pub(crate) nic: OpaqueHash,
    pub(crate) engines: Vec<Engine>,
    /// Datagrams that the engines gave to each other.
    pub(crate) handed_over: u64,
    /// Of those, handshakes.
    pub(crate) handed_over_syns: u64,
    /// Every pair on which something was sent.
    pub(crate) pairs: BTreeSet<Pair>,
}

impl Host {
    /// Datagrams that its engines handled.
    pub(crate) fn received(&self) -> u64 {
        self.engines.iter().map(|engine| engine.endpoint.counters().datagrams_received).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    from: SocketAddr,
    to_port: u16,
    landed: Option<u8>,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Land(usize, Frame),
    Handle(usize, usize, Frame),
    Timer(usize, usize),
    Pump(usize, usize),
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) now_ns: u64,
    pub(crate) costs: Costs,
    pub(crate) hosts: Vec<Host>,
    /// Datagrams sent, by anybody.
    pub(crate) sent: u64,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    order: u64,
}

impl Fleet {
    pub(crate) fn new(plans: Vec<HostPlan>, costs: Costs) -> Self {
        let hosts = plans.into_iter().map(start).collect();
        Self { now_ns: 1_000_000, costs, hosts, sent: 0, queue: BinaryHeap::new(), order: 0 }
    }

    /// One more host; answers its number.
    pub(crate) fn add(&mut self, plan: HostPlan) -> usize {
        self.hosts.push(start(plan));
        self.hosts.len() - 1
    }

    fn at(&mut self, at_ns: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse((at_ns, self.order, what)));
    }

    /// A connect from an engine of one host to the listener of an engine of another.
    pub(crate) fn connect(&mut self, (host, engine): (usize, usize), (to, listener): (usize, u8)) -> FlowId {
        let now = Instant::from_nanos(self.now_ns);
        let address = SocketAddr::new(self.hosts[to].plan.ip, UDP_PORT);
        let port = PORT + u16::from(listener);
        let client = &mut self.hosts[host].engines[engine];
        let flow = client
            .endpoint
            .connect(now, address, port, LIMITS, Duration::from_secs(60))
            .expect("room for a flow");
        client.app.clients.insert(flow.index());
        client.app.delivered.remove(&flow.index());
        self.at(self.now_ns, What::Pump(host, engine));
        flow
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, host: usize, engine: usize, flow: FlowId) {
        let now = Instant::from_nanos(self.now_ns);
        self.hosts[host].engines[engine]
            .endpoint
            .send(now, flow, TxHandle(0), MESSAGE)
            .expect("the flow is open");
        self.at(self.now_ns, What::Pump(host, engine));
    }

    /// Runs until `done` says so or a time has passed; answers whether it was `done`.
    pub(crate) fn run(&mut self, span_ns: u64, done: impl FnMut(&Self) -> bool) -> bool {
        self.run_losing(span_ns, done, |_, _, _| false)
    }

    /// As [`Self::run`], while `lose` takes datagrams away: by the host that sends, its pair of ports, and the
    /// bytes.
    pub(crate) fn run_losing(
        &mut self,
        span_ns: u64,
        mut done: impl FnMut(&Self) -> bool,
        mut lose: impl FnMut(usize, Pair, &[u8]) -> bool,
    ) -> bool {
        let end_ns = self.now_ns + span_ns;
        while !done(self) {
            match self.queue.pop() {
                Some(Reverse((at_ns, _, what))) if at_ns <= end_ns => {
                    self.now_ns = at_ns;
                    self.happen(what, &mut lose);
                }
                later => {
                    self.queue.extend(later);
                    self.now_ns = end_ns;
                    return done(self);
                }
            }
        }
        true
    }

    fn happen(&mut self, what: What, lose: &mut impl FnMut(usize, Pair, &[u8]) -> bool) {
        let (What::Land(host, _) | What::Handle(host, ..) | What::Timer(host, _) | What::Pump(host, _)) =
            what;
        if host >= self.hosts.len() {
            return; // It was taken away.
        }
        match what {
            What::Land(host, frame) => {
                let to = SocketAddr::new(self.hosts[host].plan.ip, frame.to_port);
                let engine = self.hosts[host].nic.queue(frame.from, to);
                self.work(host, engine, frame);
            }
            What::Handle(host, engine, frame) => self.handle(host, engine, frame, lose),
            What::Pump(host, engine) => self.pump(host, engine, lose),
            What::Timer(host, engine) => {
                let state = &mut self.hosts[host].engines[engine];
                if state.timer_ns != self.now_ns {
                    return;
                }
                state.timer_ns = u64::MAX;
                state.endpoint.handle_timeout(Instant::from_nanos(self.now_ns), &mut state.app);
                self.pump(host, engine, lose);
            }
        }
    }

    /// The engine gets to the datagram when it is done with those before.
    fn work(&mut self, host: usize, engine: usize, frame: Frame) {
        let state = &mut self.hosts[host].engines[engine];
        state.busy_until_ns = state.busy_until_ns.max(self.now_ns) + self.costs.receive_ns;
        let at_ns = state.busy_until_ns;
        self.at(at_ns, What::Handle(host, engine, frame));
    }

    fn handle(
        &mut self,
        host: usize,
        engine: usize,
        frame: Frame,
        lose: &mut impl FnMut(usize, Pair, &[u8]) -> bool,
    ) {
        let now = Instant::from_nanos(self.now_ns);
        let state = &mut self.hosts[host].engines[engine];
        let Frame { from, to_port, landed, ref bytes } = frame;
        let datagram = Datagram { from, to_port, landed, bytes, waited: Duration::ZERO };
        match state.endpoint.handle_datagram(now, &datagram, &mut state.app) {
            Handling::Done => self.pump(host, engine, lose),
            Handling::HandOver(owner) => {
                assert!(landed.is_none() && usize::from(owner) != engine, "it is handed over once");
                let is_syn = !matches!(header::parse(bytes), Ok(Packet::Data(_)));
                self.hosts[host].handed_over += 1;
                self.hosts[host].handed_over_syns += u64::from(is_syn);
                let landed = Some(u8::try_from(engine).expect("few engines"));
                let taking = &mut self.hosts[host].engines[usize::from(owner)];
                let comes_ns = self.now_ns + self.costs.hand_over_ns;
                taking.busy_until_ns = taking.busy_until_ns.max(comes_ns) + self.costs.receive_ns;
                let at_ns = taking.busy_until_ns;
                self.at(at_ns, What::Handle(host, usize::from(owner), Frame { landed, ..frame }));
            }
        }
    }

    /// Events, echoes, datagrams out, the next timer.
    fn pump(&mut self, host: usize, engine: usize, lose: &mut impl FnMut(usize, Pair, &[u8]) -> bool) {
        let now = Instant::from_nanos(self.now_ns);
        let state = &mut self.hosts[host].engines[engine];
        for flow in std::mem::take(&mut state.app.read) {
            state.endpoint.handle_room(now, flow, 1, u64::from(MESSAGE), &mut state.app);
        }
        for flow in std::mem::take(&mut state.app.echoes) {
            let _: Result<_, _> = state.endpoint.send(now, flow, TxHandle(0), MESSAGE);
        }
        while let Some(event) = state.endpoint.poll_event() {
            state.events.push((self.now_ns, event));
        }
        while let Some(transmit) = self.hosts[host].engines[engine].endpoint.poll_transmit(now) {
            self.transmit(host, engine, &transmit, lose);
        }
        let state = &mut self.hosts[host].engines[engine];
        let due_ns = state.endpoint.poll_timeout().map_or(u64::MAX, Instant::as_nanos).max(self.now_ns + 1);
        if due_ns < state.timer_ns {
            state.timer_ns = due_ns;
            self.at(due_ns, What::Timer(host, engine));
        }
    }

    fn transmit(
        &mut self,
        host: usize,
        engine: usize,
        transmit: &Transmit,
        lose: &mut impl FnMut(usize, Pair, &[u8]) -> bool,
    ) {
        let sender = &mut self.hosts[host];
        let state = &mut sender.engines[engine];
        let mut bytes = vec![0; transmit.header_len];
        state.endpoint.emit_header(&mut bytes);
        if let Body::Bundle { .. } = transmit.body {
            for (_, len) in state.endpoint.bundle() {
                bytes.extend(len.to_be_bytes());
                bytes.resize(bytes.len() + usize::from(*len), 0);
            }
        }
        bytes.resize(transmit.header_len + transmit.body_len, 0);
        state.busy_until_ns = state.busy_until_ns.max(self.now_ns) + self.costs.send_ns;
        let at_ns = state.busy_until_ns + self.costs.one_way_ns;
        let pair = Pair { from: transmit.from_port, to: transmit.to.port() };
        sender.pairs.insert(pair);
        let from = SocketAddr::new(sender.plan.ip, transmit.from_port);
        self.sent += 1;
        let to = self.hosts.iter().position(|host| host.plan.ip == transmit.to.ip());
        if let Some(to) = to
            && !lose(host, pair, &bytes)
        {
            let frame = Frame { from, to_port: transmit.to.port(), landed: None, bytes };
            self.at(at_ns, What::Land(to, frame));
        }
    }

    /// When an engine's flow was connected, if it is.
    pub(crate) fn connected_at(&self, host: usize, engine: usize, flow: FlowId) -> Option<u64> {
        let events = &self.hosts[host].engines[engine].events;
        events.iter().find_map(|(at_ns, event)| match event {
            Event::Connected { flow: connected, .. } if *connected == flow => Some(*at_ns),
            _ => None,
        })
    }

    /// How many messages came to an engine's flow.
    pub(crate) fn delivered(&self, host: usize, engine: usize, flow: FlowId) -> u64 {
        self.hosts[host].engines[engine].app.delivered.get(&flow.index()).copied().unwrap_or(0)
    }

    /// So many questions and answers, one after the other.
    pub(crate) fn ping_pong(&mut self, host: usize, engine: usize, flow: FlowId, rounds: u64) {
        for _ in 0..rounds {
            let before = self.delivered(host, engine, flow);
            self.send(host, engine, flow);
            let answered = self.run(10_000_000_000, |fleet| fleet.delivered(host, engine, flow) > before);
            assert!(answered, "no answer within ten seconds");
        }
    }

    /// Datagrams handed over at all hosts.
    pub(crate) fn handed_over(&self) -> u64 {
        self.hosts.iter().map(|host| host.handed_over).sum()
    }
}

fn start(plan: HostPlan) -> Host {
    let ports = PortRange::new(UDP_PORT, UDP_PORT + plan.ports - 1).expect("at least one port");
    let engines = (0..plan.engines).map(|engine| {
        let config = Config {
            engine,
            engines: plan.engines,
            ports,
            receive_ports: ports,
            spread: plan.spread,
            cookie_secret: Some([plan.seed, 1]),
            ..Config::default()
        };
        Engine {
            endpoint: Endpoint::new(config, [plan.seed, u64::from(engine) + 2]),
            app: App { engine, engines: plan.engines, ..App::default() },
            events: Vec::new(),
            busy_until_ns: 0,
            timer_ns: u64::MAX,
        }
    });
    Host {
        nic: OpaqueHash::new([plan.seed, 0], usize::from(plan.queues)),
        engines: engines.collect(),
        handed_over: 0,
        handed_over_syns: 0,
        pairs: BTreeSet::new(),
        plan,
    }
}
