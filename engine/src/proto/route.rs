//! Which UDP ports a flow's datagrams travel on, so that they land at the engine that owns it (RSS--; paper, section 4.2).
//!
//! Each direction has a pair of ports of its own. Who sends *searches*, every datagram on another pair and marked as such, until
//! the receiver says which one landed; then it sends on that one, unmarked. The receiver says it again as long as datagrams land
//! wrong. That alone repairs news that was lost, and cards and paths that begin to hash differently.

use super::Config;
use super::ports::{Pair, PortRange};
use crate::wire::header::{Extended, Path, Search};

/// Something is to be told, or the pair is to be drawn: looked at when a packet is made.
const SEARCHING: u8 = 1;
const NEWS: u8 = 2;
/// Where packets land is to be looked at: looked at when one came.
const LISTENING: u8 = 4;
/// Nothing was heard for long: whatever is heard ends that.
const DOUBTING: u8 = 8;
/// The pair is known to land where it should.
const PROVEN: u8 = 16;

/// What an arrival teaches about the peer's pairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Taught {
    /// Datagrams of the peer on this pair land here.
    pub(super) works: Option<Pair>,
    /// Datagrams on this one do not.
    pub(super) fails: Option<Pair>,
    /// The peer no longer trusts this one.
    pub(super) doubted: Option<Pair>,
}

/// The ports of one flow.
#[derive(Debug)]
pub(super) struct Route {
    state: u8,
    /// Engines of the peer's sidecar.
    pub(super) peer_engines: u8,
    /// Ports at which the peer hears.
    pub(super) peer_ports: PortRange,
    /// The pair of the last packet sent: with one engine at the peer, or proven, that of the next one too.
    pub(super) pair: Pair,
    /// A pair that failed this flow: what others learned of it is not believed.
    failed: Option<Pair>,
    /// On which of the peer's pairs its packets land here, as far as is known.
    heard: Option<Pair>,
    /// Number of the latest unmarked packet that landed here: the peer knows its pair since then.
    settled: Option<u64>,
    /// Number of the packet whose news were believed last.
    path_number: u64,
    pub(super) taken_over: u64,
}

impl Route {
    /// A route before anything is known of the peer.
    pub(super) fn new(pair: Pair, config: &Config) -> Self {
        Self {
            state: if config.engines > 1 { LISTENING } else { 0 },
            peer_engines: 1,
            peer_ports: PortRange::only(pair.to),
            pair,
            failed: None,
            heard: None,
            settled: None,
            path_number: 0,
            taken_over: 0,
        }
    }

    /// What the handshake told of the peer. `pair`: where packets to it land right, if that is known.
    pub(super) fn on_peer(&mut self, engines: u8, ports: PortRange, pair: Option<Pair>, config: &Config) {
        self.peer_engines = engines.max(1);
        self.peer_ports = ports;
        self.state &= !(SEARCHING | PROVEN);
        match pair {
            Some(pair) => {
                self.pair = pair;
                self.state |= PROVEN;
            }
            None => {
                let to = if ports.contains(self.pair.to) { self.pair.to } else { ports.first() };
                self.pair = Pair { from: config.ports.first(), to };
                self.search(config);
            }
        }
    }

    /// On this pair the peer's packets land here: it is told.
    pub(super) fn tell(&mut self, heard: Option<Pair>) {
        self.heard = heard;
        if heard.is_some() {
            self.state |= NEWS;
        }
    }

    /// Whether packets are known to land where they should.
    pub(super) fn is_direct(&self) -> bool {
        self.peer_engines == 1 || self.state & (PROVEN | SEARCHING) == PROVEN
    }

    pub(super) fn is_searching(&self) -> bool {
        self.state & SEARCHING != 0
    }

    /// Whether making a packet needs more than the pair.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.state & (SEARCHING | NEWS) != 0
    }

    /// Whether it matters where a packet landed.
    #[inline]
    pub(super) fn is_listening(&self) -> bool {
        self.state & (LISTENING | DOUBTING) != 0
    }

    /// There is more than one pair to choose from, and more than one engine to miss.
    fn may_search(&self, config: &Config) -> bool {
        self.peer_engines > 1 && (config.ports.count() > 1 || self.peer_ports.count() > 1)
    }

    fn search(&mut self, config: &Config) {
        if self.may_search(config) {
            self.state |= SEARCHING;
        }
    }

    /// Packets and the probe behind them were not answered: the pair may lead nowhere, or the peer may want to answer but not
    /// know where we hear.
    #[cold]
    pub(super) fn on_silence(&mut self, config: &Config) {
        if self.may_search(config) {
            if !self.is_searching() {
                self.failed = Some(self.pair);
            }
            self.state |= SEARCHING;
        } else if config.engines > 1 || config.ports != config.receive_ports {
            self.state |= SEARCHING | DOUBTING;
        }
    }

    /// A pair that serves other flows to the same engine.
    pub(super) fn believe(&mut self, pair: Pair) -> bool {
        if self.failed == Some(pair) {
            return false;
        }
        self.state = self.state & !SEARCHING | PROVEN;
        self.pair = pair;
        true
    }

    /// The blocks of the next packet. `confirms`: it may be the first that the peer hears of the flow.
    #[cold]
    pub(super) fn extended(&mut self, confirms: bool, config: &Config) -> Option<Extended> {
        let mut extended = Extended::default();
        if self.state & NEWS != 0 {
            extended.path = Some(self.heard.map_or(Path::Lost, Path::Use));
            if !confirms {
                self.state &= !NEWS;
            }
        }
        if self.is_searching() {
            extended.search = Some(Search { port: config.receive_ports.first(), engine: config.engine });
        }
        (extended != Extended::default()).then_some(extended)
    }

    /// The peer tells of our pair, in packet `number`. Answers whether that is news that can be used.
    #[cold]
    pub(super) fn on_path(&mut self, number: u64, path: Path, config: &Config) -> bool {
        if number < self.path_number || self.peer_engines == 1 {
            return false;
        }
        match path {
            Path::Use(pair) if !config.may_send_from(pair.from) || !self.peer_ports.contains(pair.to) => {
                false
            }
            Path::Use(pair) => {
                self.path_number = number;
                self.state = self.state & !SEARCHING | PROVEN;
                self.pair = pair;
                true
            }
            Path::Lost if self.is_searching() => false,
            Path::Lost => {
                self.path_number = number;
                self.failed = Some(self.pair);
                self.state &= !PROVEN;
                self.search(config);
                true
            }
        }
    }

    /// Something of the peer was heard.
    pub(super) fn on_heard(&mut self) {
        if self.state & DOUBTING != 0 {
            self.state &= !(DOUBTING | SEARCHING);
        }
    }

    /// A packet of the peer came on `pair`, here or (`is_direct` is false) by way of another engine. `marked`: its sender
    /// searches.
    #[cold]
    pub(super) fn on_arrival(&mut self, number: u64, pair: Pair, is_direct: bool, marked: bool) -> Taught {
        self.taken_over += u64::from(!is_direct);
        let mut taught = Taught::default();
        if self.settled.is_some_and(|settled| number < settled) {
            return taught; // Sent before the peer knew what it knows.
        }
        if marked && self.settled.is_some() {
            taught.doubted = self.heard.take();
        }
        if is_direct {
            self.heard = Some(pair);
            taught.works = Some(pair);
        } else {
            taught.fails = Some(pair);
            if self.heard == Some(pair) {
                self.heard = None;
            }
        }
        if is_direct && !marked {
            self.settled = Some(number);
            self.state &= !(LISTENING | NEWS);
            return taught;
        }
        self.settled = None;
        self.state |= LISTENING;
        // Who searches need not be told that it has to.
        if self.heard.is_some() || !marked {
            self.state |= NEWS;
        }
        taught
    }

    /// On which pair of the peer's its packets land here.
    pub(super) fn heard(&self) -> Option<Pair> {
        self.heard
    }
}
