//! What befalls the hosts: partitions, deaths, strangers.

use crate::monitor::Phase;
use crate::mutant::Mutation;
use crate::oracle::{End, Place, State};
use crate::scenario::{Fault, MS, US};
use crate::world::{Happening, World, address, stranger_address};

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
            Fault::Up { host } => {
                if self.hosts[host].endpoint.is_none() {
                    let lives = self.hosts[host].lives + 1;
                    let turn_pending = self.hosts[host].turn_pending;
                    self.hosts[host] = self.new_host(host, lives);
                    self.hosts[host].turn_pending = turn_pending;
                }
            }
        }
    }

    fn host_dies(&mut self, host: usize) {
        if self.hosts[host].endpoint.take().is_none() {
            return;
        }
        self.oracle.totals.restarts += 1;
        self.hosts[host].received.clear();
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

    /// Somebody sends garbage, or what it overheard, whole or cut or changed.
    pub(crate) fn stranger(&mut self) {
        let host = self.dice.between(0, self.hosts.len() as u64 - 1) as usize;
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
        let from = if spoofed { address((host + 1) % self.hosts.len()) } else { stranger_address() };
        if !spoofed {
            self.stranger_bytes[0] += bytes.len() as u64;
        }
        self.oracle.totals.stranger_sent += 1;
        self.arrive(host, from, bytes);
        self.scenario.strangers = self.scenario.strangers.saturating_sub(1);
        if self.scenario.strangers > 0 && self.phase == Phase::Active {
            let delay_ns = self.dice.log_between(US, 5 * MS);
            self.at(self.now_ns() + delay_ns, Happening::Stranger);
        }
    }
}
