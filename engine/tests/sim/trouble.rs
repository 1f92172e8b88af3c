//! What befalls the hosts: partitions, deaths, strangers.

use crate::monitor::Phase;
use crate::mutant::Mutation;
use crate::oracle::{End, Place, State};
use crate::scenario::{BASE_PORT, Fault, MOST_ENGINES, MS, PORT, US};
use crate::world::{Happening, World, address, stranger_address};
use machnet_engine::wire::header::{ConnectionId, Emitter, Syn, WireLimits};
use std::net::{Ipv4Addr, SocketAddr};

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) {
        let now_ns = self.now_ns();
        self.oracle.log.say(now_ns, || format!("{fault:?}"));
        match fault {
            Fault::Cut { from, to } => {
                self.oracle.totals.partitions += 1;
                let link = self.scenario.link(from, to);
                link.cut_ns = if link.cuts == 0 { now_ns } else { link.cut_ns };
                link.cuts += 1;
            }
            Fault::Heal { from, to } => {
                let link = self.scenario.link(from, to);
                link.cuts -= 1;
                link.healed_ns = now_ns;
            }
            Fault::Down { host } => self.host_dies(host),
            Fault::Narrow { from, to, mtu } => {
                let link = self.scenario.link(from, to);
                link.mtu = link.mtu.min(mtu);
                self.oracle.totals.narrowed += 1;
            }
            Fault::Up { host } => self.start_host(host),
            Fault::Rehash { host, new_key, queues } => {
                self.machines[host].rehash(new_key, queues);
                self.oracle.totals.rehashes += 1;
            }
            Fault::Jump { host, by_ns } => {
                self.machines[host].jumped_ns += by_ns;
                self.oracle.jumped_ns += by_ns;
                self.oracle.totals.clock_jumps += 1;
                for unit in 0..self.units.len() {
                    if self.units[unit].host == host {
                        self.want_turn(unit);
                    }
                }
            }
        }
    }

    fn host_dies(&mut self, host: usize) {
        if !self.stop_host(host) {
            return;
        }
        self.oracle.totals.restarts += 1;
        for connection in 0..self.apps.len() {
            for side in 0..2 {
                let place = Place { connection, side };
                let (on_host, state) = (self.oracle.side(place).host, self.oracle.side(place).state);
                if on_host != host || state == State::Absent {
                    continue;
                }
                self.app(place).forget();
                if state.is_alive() {
                    self.oracle.on_gone(place, End::HostDied);
                }
            }
        }
    }

    pub(crate) fn answer_stranger(&mut self, bytes: u64) {
        let loud = if self.mutant.lasts(Mutation::LoudReply) { 10 } else { 1 };
        self.oracle.totals.stranger_answered += 1;
        self.stranger_bytes[1] += bytes * loud;
        let [sent, answered] = self.stranger_bytes;
        if answered > sent {
            self.oracle.violate("amplification", format!("a stranger sent {sent} bytes and got {answered}"));
        }
    }

    /// One of very many who ask for a connection and never go on; what an endpoint keeps must not grow.
    pub(crate) fn flood(&mut self) {
        let hosts = self.scenario.hosts.len();
        let host = self.dice.between(0, hosts as u64 - 1) as usize;
        let word = self.dice.next();
        let syn = Syn {
            client: ConnectionId(word as u32),
            number: (word >> 32) as u32,
            versions: (1, 1),
            port: PORT + (word >> 16) as u16 % u16::from(MOST_ENGINES),
            flow_port: 40_000,
            limits: WireLimits { max_message: 1 << 20, window_messages: 64, window_bytes: 1 << 20 },
            max_datagram: 1_472,
            engines: (word >> 8) as u8 % 9,
            stamp: word,
            answer_on: None,
            hears_at: None,
        };
        let mut emitter = Emitter::default();
        emitter.syn(&syn);
        // Of the strangers' network, so that answers go nowhere.
        let ip = Ipv4Addr::new(10, 0, 8, 1 + (word >> 40) as u8 % 250);
        let from = SocketAddr::from((ip, 1_024 + (word >> 48) as u16 % 60_000));
        let plan = &self.scenario.hosts[host];
        let ports = plan.receive_ports();
        let to_port = ports.first() + self.dice.between(0, u64::from(ports.count()) - 1) as u16;
        self.oracle.totals.flood_syns += 1;
        self.arrive(host, from, to_port, emitter.as_bytes().to_vec());
        self.scenario.flood -= 1;
        if self.scenario.flood > 0 {
            self.at(self.now_ns() + self.scenario.flood_interval_ns, Happening::Flood);
        }
    }

    /// Somebody sends garbage, or what it overheard, whole or cut or changed.
    pub(crate) fn stranger(&mut self) {
        let hosts = self.scenario.hosts.len();
        let host = self.dice.between(0, hosts as u64 - 1) as usize;
        let overheard = self.captured.get(self.dice.between(0, 31) as usize).cloned();
        let garbage = overheard.is_none();
        let mut bytes = overheard.unwrap_or_else(|| {
            let len = self.dice.log_between(1, 1472) as usize;
            (0..len).map(|_| self.dice.next() as u8).collect()
        });
        match self.dice.between(0, 3) {
            0 => bytes.truncate(self.dice.between(0, bytes.len() as u64) as usize),
            1 if !bytes.is_empty() => {
                let at = self.dice.between(0, bytes.len().min(64) as u64 - 1) as usize;
                bytes[at] = self.dice.next() as u8;
            }
            _ => {}
        }
        // Garbage may also carry the address of a host that the victim knows.
        let spoofed = garbage && self.dice.chance(300_000);
        let from = if spoofed { address((host + 1) % hosts) } else { stranger_address() };
        if !spoofed {
            self.stranger_bytes[0] += bytes.len() as u64;
        }
        self.oracle.totals.stranger_sent += 1;
        self.arrive(host, from, BASE_PORT, bytes);
        self.scenario.strangers = self.scenario.strangers.saturating_sub(1);
        if self.scenario.strangers > 0 && self.phase == Phase::Active {
            let delay_ns = self.dice.log_between(US, 5 * MS);
            self.at(self.now_ns() + delay_ns, Happening::Stranger);
        }
    }
}
