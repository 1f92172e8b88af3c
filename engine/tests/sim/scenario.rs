//! What one seed does: hosts, links, connections, and the faults that befall them. Decided before the first event.

use crate::dice::Dice;
use crate::kinds;
use crate::network::Link;
use machnet_engine::proto::{Congestion, MAX_MESSAGE, PortRange, Spread};

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The first of the ports that every host listens on: one for each engine that it may have.
pub(crate) const PORT: u16 = 7000;
/// Most engines of a host.
pub(crate) const MOST_ENGINES: u8 = 16;
/// The UDP port of every sidecar, the first of those that it sends from.
pub(crate) const BASE_PORT: u16 = 31_580;
/// A port where nobody listens.
pub(crate) const CLOSED_PORT: u16 = 7999;

/// The engine that listens on a port, at a host with so many.
pub(crate) fn listener(port: u16, engines: u8) -> Option<u8> {
    let offset = port.checked_sub(PORT).filter(|offset| *offset < u16::from(MOST_ENGINES))?;
    Some(offset as u8 % engines)
}

/// One host: its interface, its engine's habits, and the memory its applications lend.
#[derive(Clone, Debug)]
pub(crate) struct HostPlan {
    pub(crate) mtu: u32,
    /// Chance in a million that the engine sleeps 50 to 200 us before it looks at its input.
    pub(crate) naps: u32,
    /// Bytes of the pool that all flows share.
    pub(crate) pool_bytes: u64,
    /// Bytes that each flow has for itself.
    pub(crate) minimum_bytes: u64,
    /// Most bytes that one flow may take of the pool beyond its first message.
    pub(crate) share_bytes: u64,
    pub(crate) window_messages: u32,
    /// Most datagrams that one turn of the engine sends.
    pub(crate) burst: u32,
    pub(crate) backlog: usize,
    /// Engines of its first sidecar, and of those that are started later.
    pub(crate) engines: u8,
    pub(crate) engines_later: u8,
    /// UDP ports from the base port on: so many to send from, and, if it is true, to hear at as well.
    pub(crate) port_count: u16,
    pub(crate) hears_at_all: bool,
    /// Datagrams that wait at most to be taken over by an engine.
    pub(crate) inbox: usize,
    /// How long it takes to hand one over, and the chance in a million that it is lost.
    pub(crate) hand_over_ns: (u64, u64),
    pub(crate) hand_over_loss: u32,
}

impl HostPlan {
    /// The largest message that can always find room: messages out of order may fill the minimum, but never the pool.
    pub(crate) fn max_message(&self) -> u32 {
        self.pool_bytes.min(u64::from(MAX_MESSAGE)) as u32
    }

    /// Most engines of all its sidecars.
    pub(crate) fn most_engines(&self) -> u8 {
        self.engines.max(self.engines_later)
    }

    pub(crate) fn ports(&self) -> PortRange {
        PortRange::new(BASE_PORT, BASE_PORT + self.port_count - 1).unwrap()
    }

    pub(crate) fn receive_ports(&self) -> PortRange {
        if self.hears_at_all { self.ports() } else { PortRange::only(BASE_PORT) }
    }

    /// What the host offers each flow.
    pub(crate) fn window_bytes(&self) -> u32 {
        (self.share_bytes.min(self.pool_bytes) + self.minimum_bytes).min(64 << 20) as u32
    }
}

/// How an application reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Within a few microseconds.
    Prompt,
    /// One message per so many nanoseconds.
    Slow(u64),
    /// Not before `Scenario::everybody_reads_ns`.
    Late,
}

/// What an application does with its end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing: the peer or the last phase closes.
    Wait,
    /// Closes as soon as everything is given to `send`, whatever still comes.
    CloseWhenSent,
    /// Closes when everything is sent and everything that the peer plans was read.
    CloseWhenDone,
    /// Closes at this time, whatever is going on.
    CloseAt(u64),
    /// Aborts at this time.
    AbortAt(u64),
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct SidePlan {
    /// Bytes of each message, in order.
    pub(crate) sizes: Vec<u32>,
    /// Between two sends; zero: as fast as there is credit.
    pub(crate) interval_ns: u64,
    /// Only so many messages without an answer.
    pub(crate) pipeline: Option<u32>,
    pub(crate) reader: Reader,
    pub(crate) ending: Ending,
}

impl SidePlan {
    pub(crate) const fn quiet() -> Self {
        Self {
            sizes: Vec::new(),
            interval_ns: 0,
            pipeline: None,
            reader: Reader::Prompt,
            ending: Ending::Wait,
        }
    }
}

/// One connect and what follows.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPlan {
    pub(crate) client: usize,
    /// The engine of the client, if it has so many.
    pub(crate) client_engine: usize,
    /// `None`: an address without a host.
    pub(crate) server: Option<usize>,
    pub(crate) port: u16,
    pub(crate) at_ns: u64,
    pub(crate) timeout_ns: u64,
    /// How long the server's application leaves the flow in the backlog.
    pub(crate) accept_delay_ns: u64,
    /// The client's, then the server's.
    pub(crate) sides: [SidePlan; 2],
}

/// Something that befalls hosts or links at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing gets from `from` to `to`.
    Cut { from: usize, to: usize },
    /// The end of such a cut.
    Heal { from: usize, to: usize },
    /// The host's sidecar dies.
    Down { host: usize },
    /// A new one starts.
    Up { host: usize },
    /// The path between two hosts takes only smaller datagrams from now on.
    Narrow { from: usize, to: usize, mtu: u32 },
    /// The host's network card gets another key, or another number of queues.
    Rehash { host: usize, new_key: bool, queues: Option<u8> },
    /// The host's clock jumps forward.
    Jump { host: usize, by_ns: u64 },
}

/// All that one seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) kind: &'static str,
    pub(crate) hosts: Vec<HostPlan>,
    /// `hosts` times `hosts` links, the one from a to b at a * hosts + b.
    pub(crate) links: Vec<Link>,
    pub(crate) connections: Vec<ConnectionPlan>,
    pub(crate) faults: Vec<(u64, Fault)>,
    pub(crate) keepalive_ns: u64,
    pub(crate) dead_after_ns: u64,
    pub(crate) min_rto_ns: u64,
    pub(crate) max_ack_delay_ns: u64,
    pub(crate) max_outstanding: u32,
    pub(crate) max_flows: u32,
    pub(crate) congestion: Congestion,
    pub(crate) everybody_reads_ns: u64,
    /// Datagrams that somebody unknown sends.
    pub(crate) strangers: u32,
    /// SYNs that strangers send, and the time between two.
    pub(crate) flood: u32,
    pub(crate) flood_interval_ns: u64,
    /// Chance in a million that a delivery finds the ring full.
    pub(crate) ring_full: u32,
    /// Chance in a million that the worker refuses an established flow.
    pub(crate) accept_fails: u32,
    pub(crate) spread: Spread,
    /// Every connect succeeds within this long, if it does.
    pub(crate) connect_bound_ns: Option<u64>,
    /// The kind chose how many engines there are.
    pub(crate) has_engines: bool,
}

/// Most payload bytes of a typical seed.
const BUDGET_BYTES: u64 = 2 << 20;

impl Scenario {
    /// The scenario of `seed`, of the kind that it picks or of the one that is named.
    pub(crate) fn new(seed: u64, kind: Option<&str>) -> Self {
        let mut dice = Dice::new(seed, 1);
        let chosen = dice.between(0, kinds::KINDS.len() as u64 - 1) as usize;
        let (name, shape) = kind
            .and_then(|name| kinds::KINDS.iter().find(|(known, _)| *known == name))
            .unwrap_or(&kinds::KINDS[chosen]);
        let mut scenario = Self::ordinary(seed, name, &mut dice);
        shape(&mut scenario, &mut dice);
        scenario.place_engines(&mut Dice::new(seed, 3));
        scenario
    }

    /// Engines for every host, of one for all up to sixteen, and who of the applications is where.
    fn place_engines(&mut self, dice: &mut Dice) {
        if !self.has_engines {
            let choices: &[u8] = dice.pick(&[
                &[1],
                &[1],
                &[1, 2, 4],
                &[1, 2, 4],
                &[2, 4],
                &[1, 2, 3, 4, 6, 8],
                &[4, 8],
                &[1, 4, 16],
            ]);
            self.give_engines(choices, dice);
        }
        for connection in &mut self.connections {
            connection.client_engine = dice.between(0, u64::from(MOST_ENGINES) - 1) as usize;
            if connection.port == PORT {
                connection.port += dice.between(0, u64::from(MOST_ENGINES) - 1) as u16;
            }
        }
    }

    /// Gives every host so many engines as one of the choices says, and ports and queues between them.
    pub(crate) fn give_engines(&mut self, choices: &[u8], dice: &mut Dice) {
        let is_paper = dice.chance(100_000);
        let port_counts: &[u16] = if is_paper { &[64, 256] } else { &[64, 64, 64, 16, 256, 4, 1] };
        self.spread = if is_paper { Spread::Paper } else { Spread::Learned };
        let is_rough = dice.chance(200_000);
        for host in &mut self.hosts {
            host.engines = dice.pick(choices);
            host.engines_later = if dice.chance(500_000) { host.engines } else { dice.pick(choices) };
            host.port_count = dice.pick(port_counts);
            host.hears_at_all = dice.chance(600_000);
            if is_rough {
                host.inbox = dice.pick(&[256, 32, 4]);
                host.hand_over_ns.1 = dice.log_between(300, 500 * US);
                host.hand_over_loss = dice.pick(&[0, 10_000, 100_000]);
            }
        }
    }

    /// The number of a host's first engine, counted over all hosts.
    pub(crate) fn first_unit(&self, host: usize) -> usize {
        self.hosts[..host].iter().map(|host| usize::from(host.most_engines())).sum()
    }

    /// Whether some network card begins to hash differently while it runs.
    pub(crate) fn rehashes(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Rehash { .. }))
    }

    fn ordinary(seed: u64, kind: &'static str, dice: &mut Dice) -> Self {
        let count = dice.between(2, 4) as usize;
        let host = HostPlan {
            mtu: 1500,
            naps: 0,
            pool_bytes: 32 << 20,
            minimum_bytes: 64 << 10,
            share_bytes: 16 << 20,
            window_messages: 64,
            burst: 64,
            backlog: 128,
            engines: 1,
            engines_later: 1,
            port_count: 64,
            hears_at_all: true,
            inbox: 256,
            hand_over_ns: (200, 2 * US),
            hand_over_loss: 0,
        };
        let mut scenario = Self {
            seed,
            kind,
            hosts: vec![host; count],
            links: Vec::new(),
            connections: Vec::new(),
            faults: Vec::new(),
            keepalive_ns: 10 * SECOND,
            dead_after_ns: 30 * SECOND,
            min_rto_ns: 2 * MS,
            max_ack_delay_ns: dice.pick(&[0, 20 * US, 50 * US, 500 * US]),
            max_outstanding: dice.pick(&[4, 32, 256]),
            max_flows: 1024,
            congestion: if dice.chance(200_000) { Congestion::Fixed(1 << 18) } else { Congestion::Delay },
            everybody_reads_ns: 0,
            strangers: 0,
            flood: 0,
            flood_interval_ns: US,
            ring_full: 0,
            accept_fails: 0,
            spread: Spread::Learned,
            connect_bound_ns: None,
            has_engines: false,
        };
        scenario.link_all(dice);
        let connections = dice.between(1, 6) as usize;
        scenario.connect_some(connections, BUDGET_BYTES, dice);
        scenario
    }

    /// Fresh links between all hosts: those of a rack, or of a region.
    pub(crate) fn link_all(&mut self, dice: &mut Dice) {
        let count = self.hosts.len();
        let far = dice.chance(200_000);
        let delay_ns = if far { dice.log_between(MS, 20 * MS) } else { dice.log_between(2 * US, 100 * US) };
        self.links.clear();
        for from in 0..count {
            for to in 0..count {
                let mtu = self.hosts[from].mtu.min(self.hosts[to].mtu);
                let mut link = Link::clean(dice.between(delay_ns / 2, delay_ns), mtu);
                link.bytes_per_second = dice.pick(&[0, 125_000_000, 1_250_000_000]);
                self.links.push(link);
            }
        }
    }

    /// The directed link.
    pub(crate) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let count = self.hosts.len();
        &mut self.links[from * count + to]
    }

    /// Replaces the connections by `count` new ones with about `budget_bytes` of messages in all.
    pub(crate) fn connect_some(&mut self, count: usize, budget_bytes: u64, dice: &mut Dice) {
        self.connections.clear();
        for _ in 0..count {
            let connection = self.draw_connection(budget_bytes / count as u64, dice);
            self.connections.push(connection);
        }
    }

    /// A connection between two different hosts.
    pub(crate) fn draw_connection(&self, budget_bytes: u64, dice: &mut Dice) -> ConnectionPlan {
        let hosts = self.hosts.len() as u64;
        let client = dice.between(0, hosts - 1) as usize;
        let server = (client + dice.between(1, hosts - 1) as usize) % self.hosts.len();
        let pipeline = dice.chance(300_000).then(|| dice.between(1, 8) as u32);
        let both = pipeline.is_some() || dice.chance(500_000);
        let share = if both { budget_bytes / 2 } else { budget_bytes };
        let mut client_side = draw_side(share, dice);
        let mut server_side = if both { draw_side(share, dice) } else { SidePlan::quiet() };
        if pipeline.is_some() {
            client_side.pipeline = pipeline;
            server_side.sizes.resize(client_side.sizes.len(), 100);
            server_side.interval_ns = 0;
        }
        match dice.between(0, 5) {
            0 => client_side.ending = Ending::Wait,
            1 if pipeline.is_none() => server_side.ending = Ending::CloseWhenDone,
            2 if pipeline.is_none() => client_side.ending = Ending::CloseWhenSent,
            _ => client_side.ending = Ending::CloseWhenDone,
        }
        ConnectionPlan {
            client,
            client_engine: 0,
            server: Some(server),
            port: PORT,
            at_ns: dice.between(0, 2 * MS),
            timeout_ns: 3 * SECOND,
            accept_delay_ns: dice.between(0, 200 * US),
            sides: [client_side, server_side],
        }
    }

    /// Applies `change` to every link.
    pub(crate) fn each_link(&mut self, mut change: impl FnMut(&mut Link)) {
        self.links.iter_mut().for_each(&mut change);
    }

    /// What an endpoint may send in one datagram on `host`.
    pub(crate) fn max_datagram(&self, host: usize) -> u32 {
        self.hosts[host].mtu - crate::network::IP_UDP_HEADERS
    }

    /// Bytes a second of the slowest link.
    pub(crate) fn slowest_bytes_per_second(&self) -> u64 {
        let limited = self.links.iter().map(|link| link.bytes_per_second).filter(|rate| *rate > 0);
        limited.min().unwrap_or(1_250_000_000)
    }

    /// The worst chance of a loss, in parts per million, for the bounds of the monitor.
    pub(crate) fn worst_loss(&self) -> u32 {
        self.links.iter().map(|link| link.loss + link.corrupt).max().unwrap_or(0)
    }
}

/// Messages of 1 byte to 8 MiB, each power of two as likely as the next, up to the budget.
fn draw_side(budget_bytes: u64, dice: &mut Dice) -> SidePlan {
    let largest = dice.log_between(16, budget_bytes.clamp(16, u64::from(MAX_MESSAGE)));
    let most = dice.log_between(1, 64);
    let mut sizes = Vec::new();
    let mut total = 0;
    for _ in 0..most {
        let len = dice.log_between(1, largest);
        total += len;
        if total > budget_bytes {
            break;
        }
        sizes.push(len as u32);
    }
    let interval_ns = if dice.chance(300_000) { dice.log_between(US, 200 * US) } else { 0 };
    SidePlan { sizes, interval_ns, pipeline: None, reader: Reader::Prompt, ending: Ending::Wait }
}
