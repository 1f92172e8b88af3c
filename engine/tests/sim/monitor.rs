//! The checks that only time can fail: progress, ends in bounded time, silence, and everything home at the end.
//!
//! The bounds, in virtual time:
//! - a flow whose peer's end is gone ends within keepalive + dead-after + 2 s;
//! - if the peer's host was started again and nothing is lost on the way: within twice the time that the host was away,
//!   plus 1 s (2 s if it has several engines or we do: the first answer may miss), plus a keepalive interval if there is nothing to send;
//! - a direction with undelivered or unacknowledged messages (or a close to complete) over a connected network to a reading application makes
//!   progress within 5 s, plus 20 times what the slowest link needs for all pending bytes, plus the length of the last
//!   outage (retries back off that far), plus 15 s where more than a tenth of the datagrams is lost;
//! - a connect ends within its timeout plus 1 ms (checked in `oracle.rs`) and is noticed here 1 s later at most;
//! - idle flows exchange at most two datagrams per side and keepalive interval, and eight more in all;
//! - after the last close, endpoints hold nothing after keepalive + dead-after + 2 s more.

use crate::mutant::Mutation;
use crate::oracle::{End, Place, State};
use crate::scenario::{MOST_ENGINES, MS, Reader, SECOND};
use crate::world::{Happening, World, host_of};

/// A direction must progress within this long, see above.
const STALL_NS: u64 = 5 * SECOND;
/// Nothing lasts longer than this.
const LONGEST_NS: u64 = 2_000 * SECOND;

/// Counters that only a broken or hostile peer moves.
const IMPOSSIBLE: &[&str] = &[
    "drop_truncated",
    "drop_version",
    "drop_type",
    "drop_flags",
    "drop_field",
    "drop_number_ahead",
    "drop_wrong_address",
    "drop_contradiction",
    "drop_beyond_window",
    "drop_false_ack",
];

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The plan unfolds.
    Active,
    /// Everything is done; probes and late acknowledgements may still be under way.
    Quieting {
        until_ns: u64,
    },
    /// Nothing but keepalives may be sent.
    Idle {
        until_ns: u64,
        datagrams_before: u64,
        sides: u64,
        windows: u64,
        /// Ends of direct flows, and what was handed over for them until then.
        direct: Vec<(Place, u64, u64)>,
    },
    /// What is still open is closed.
    Closing {
        since_ns: u64,
    },
    Over,
}

impl World {
    /// Looks at everything that time can fail, and moves the phase on.
    pub(crate) fn monitor(&mut self) {
        let now_ns = self.now_ns();
        for connection in 0..self.apps.len() {
            self.check_connect_ends(connection);
            for side in 0..2 {
                let place = Place { connection, side };
                self.note_excuses(place);
                self.check_progress(place);
                self.check_end(place);
                self.check_statistics(place);
            }
        }
        for unit in 0..self.units.len() {
            let flows = self.units[unit].endpoint.as_ref().map_or(0, |endpoint| endpoint.flows());
            if flows > self.scenario.max_flows as usize {
                self.oracle.violate("limit", format!("unit {unit} has {flows} flows"));
            }
            self.check_memory(unit);
        }
        self.advance();
        if now_ns > LONGEST_NS {
            self.oracle.violate("unfinished", format!("{:?} after {} s", self.phase, LONGEST_NS / SECOND));
        }
        let step_ns = (now_ns / 20).clamp(MS, SECOND / 2);
        self.at(now_ns + step_ns, Happening::Monitor);
    }

    /// Only hosts that went through a handshake are remembered, and what is remembered of each has its bound.
    fn check_memory(&mut self, unit: usize) {
        let Some(endpoint) = self.units[unit].endpoint.as_ref() else { return };
        let hosts = self.scenario.hosts.len();
        let grown = endpoint.learned().find(|learned| {
            let is_host = host_of(learned.host, hosts).is_some();
            !is_host || learned.pairs.len() > usize::from(MOST_ENGINES)
        });
        if let Some(learned) = grown {
            self.oracle.violate("memory", format!("unit {unit} remembers {learned:?}"));
        }
    }

    fn check_connect_ends(&mut self, connection: usize) {
        let known = &self.oracle.connections[connection];
        let (state, since_ns) = (known.sides[0].state, known.sides[0].since_ns);
        if state == State::Connecting && self.now_ns() > since_ns + known.timeout_ns + SECOND {
            self.oracle.violate("connect", format!("connection {connection} has no outcome"));
        }
    }

    /// Remembers when an application was itself the reason that its peer waits.
    fn note_excuses(&mut self, receiver: Place) {
        let now_ns = self.now_ns();
        let side = self.oracle.side(receiver);
        let (unit, delivered) = (side.unit, side.delivered as usize);
        let next_len =
            self.oracle.side(receiver.peer()).sent.get(delivered).map_or(0, |message| u64::from(message.len));
        let unread_bytes: u64 = self.unread_pool_bytes(unit);
        let plan = self.plan(unit);
        let no_pool =
            next_len > plan.minimum_bytes && next_len > plan.pool_bytes.saturating_sub(unread_bytes);
        let app = self.app(receiver);
        if no_pool || !app.accepted || !app.inbox.is_empty() {
            app.excused_ns = now_ns;
        }
    }

    /// What applications that do not read promptly hold of an engine's pool.
    fn unread_pool_bytes(&self, unit: usize) -> u64 {
        let mut bytes = 0;
        for (apps, known) in self.apps.iter().zip(&self.oracle.connections) {
            for (app, side) in apps.iter().zip(&known.sides) {
                if side.unit == unit && (app.reader != Reader::Prompt || !app.accepted) {
                    bytes += app.pool_bytes();
                }
            }
        }
        bytes
    }

    fn pending_bytes(&self) -> u64 {
        let mut bytes = 0;
        for known in &self.oracle.connections {
            for side in 0..2 {
                let waiting = known.sides[side].sent.iter().skip(known.sides[1 - side].delivered as usize);
                bytes += waiting.map(|message| u64::from(message.len)).sum::<u64>();
            }
        }
        bytes
    }

    /// Starvation: something waits, nothing hinders it, nothing happens.
    fn check_progress(&mut self, sender: Place) {
        let receiver = sender.peer();
        let (from, to) = (self.oracle.side(sender).clone(), self.oracle.side(receiver).clone());
        let sent = from.sent.len() as u32;
        let waits = sent > to.delivered || sent > from.acknowledged || from.state == State::Closing;
        // When both close, neither wants messages any more, but both must end.
        let both_close = from.state == State::Closing && to.state == State::Closing;
        let applies =
            both_close || (matches!(from.state, State::Open | State::Closing) && to.state == State::Open);
        if !waits || !applies {
            return;
        }
        let Some(connected_ns) = self.connected_since_ns(sender.connection) else { return };
        let mut last_ns = to.progress_ns.max(connected_ns).max(self.app(receiver).excused_ns);
        if from.state == State::Closing {
            last_ns = last_ns.max(from.since_ns).max(to.since_ns);
        }
        if self.now_ns() < last_ns + STALL_NS {
            return;
        }
        let outage_ns = self.last_outage_ns(from.host, to.host);
        let lossy_ns = if self.scenario.worst_loss() > 100_000 { 15 * SECOND } else { 0 };
        let transfer_ns = self.pending_bytes() * SECOND / self.scenario.slowest_bytes_per_second();
        if self.now_ns() > last_ns + STALL_NS + outage_ns + lossy_ns + 20 * transfer_ns {
            let stalled_ms = (self.now_ns() - last_ns) / MS;
            let text = format!(
                "{receiver:?} has {} of {sent} messages, {} acknowledged, nothing new for {stalled_ms} ms",
                to.delivered, from.acknowledged
            );
            self.oracle.violate("starved", text);
        }
    }

    fn last_outage_ns(&self, one: usize, other: usize) -> u64 {
        let count = self.scenario.hosts.len();
        let links = [&self.scenario.links[one * count + other], &self.scenario.links[other * count + one]];
        links.iter().map(|link| link.healed_ns.saturating_sub(link.cut_ns)).max().unwrap_or(0)
    }

    /// One end is gone: the other must learn of it.
    fn check_end(&mut self, place: Place) {
        let (side, peer) = (self.oracle.side(place).clone(), self.oracle.side(place.peer()).clone());
        let gone = match peer.state {
            State::Ended(end) => Some(end),
            // The client is connected, but the server does not know.
            State::Absent if place.side == 0 => Some(End::NotTaken),
            _ => None,
        };
        let Some(end) = gone.filter(|_| matches!(side.state, State::Open | State::Closing)) else { return };
        let mut since_ns = peer.since_ns.max(side.since_ns);
        if end == End::Finished {
            // What came must still be read before the end is told.
            since_ns = since_ns.max(self.app(place).excused_ns);
        }
        let bound_ns = self.restart_bound_ns(place, end).unwrap_or_else(|| self.end_bound_ns());
        if self.now_ns() > since_ns + bound_ns {
            let late_ms = (self.now_ns() - since_ns) / MS;
            self.oracle.violate(
                "end",
                format!("{place:?} is {:?} {late_ms} ms after the peer was {end:?}", side.state),
            );
        }
    }

    /// Where nothing is lost, an end learns of a restarted peer from its first retry or keepalive after the restart;
    /// retries back off at most as far as the peer was away.
    fn restart_bound_ns(&mut self, place: Place, end: End) -> Option<u64> {
        let side = self.oracle.side(place);
        let waits = (side.sent.len() as u32) > side.acknowledged;
        let died_ns = self.oracle.side(place.peer()).since_ns;
        let connected_ns = self.connected_since_ns(place.connection)?;
        let applies = end == End::HostDied && self.scenario.worst_loss() == 0 && connected_ns > died_ns;
        let first_ns = if waits { 0 } else { self.scenario.keepalive_ns };
        let engines = self.scenario.hosts.iter().map(|host| host.engines.max(host.engines_later)).max();
        let miss_ns = if engines > Some(1) { SECOND } else { 0 };
        applies.then(|| first_ns + 2 * (connected_ns - died_ns) + SECOND + miss_ns)
    }

    fn check_statistics(&mut self, place: Place) {
        let side = self.oracle.side(place);
        let (unit, state, acknowledged, delivered) =
            (side.unit, side.state, side.acknowledged, side.delivered);
        let (packets_sent, bytes_sent) = (side.packets_sent, side.bytes_sent);
        let (Some(flow), State::Open | State::Closing) = (side.flow, state) else { return };
        let Some(endpoint) = self.units[unit].endpoint.as_ref() else { return };
        let Some(stats) = endpoint.stats(flow) else {
            return self.oracle.violate("counters", format!("{place:?} is {state:?} without statistics"));
        };
        let limit = self.scenario.max_datagram(self.units[unit].host);
        let right = stats.messages_acknowledged == u64::from(acknowledged)
            && stats.messages_delivered == u64::from(delivered)
            && stats.datagram_size <= limit
            && stats.bytes_sent == bytes_sent
            && stats.packets_sent == packets_sent
            && (stats.srtt_ns == 0 || stats.min_rtt_ns > 0);
        if !right {
            let text = format!(
                "{place:?}: {acknowledged} acknowledged, {delivered} delivered, {packets_sent} datagrams with \
                 {bytes_sent} bytes sent, limit {limit}, but {stats:?}"
            );
            self.oracle.violate("counters", text);
        }
    }

    fn advance(&mut self) {
        let now_ns = self.now_ns();
        match self.phase.clone() {
            Phase::Active if self.faults_are_over() && self.is_settled() => {
                self.scenario.strangers = 0;
                for link in &mut self.scenario.links {
                    link.calm_down();
                }
                self.phase = Phase::Quieting { until_ns: now_ns + 5 * SECOND };
            }
            Phase::Quieting { until_ns } if now_ns >= until_ns => self.begin_idle(),
            Phase::Idle { until_ns, datagrams_before, sides, windows, direct } if now_ns >= until_ns => {
                self.check_silence(datagrams_before, sides, windows);
                self.check_directness(&direct);
                self.close_the_rest();
                self.phase = Phase::Closing { since_ns: now_ns };
            }
            Phase::Closing { since_ns } => self.check_home(since_ns),
            _ => {}
        }
    }

    /// Whether every connection is over or has nothing left to do.
    fn is_settled(&self) -> bool {
        self.oracle.connections.iter().zip(&self.apps).enumerate().all(|(index, (known, apps))| {
            let [client, server] = [known.sides[0].state, known.sides[1].state];
            if client == State::Absent {
                return false;
            }
            let over = |state| matches!(state, State::Ended(_) | State::Absent);
            if over(client) && over(server) {
                return apps.iter().all(|app| app.inbox.is_empty());
            }
            let still = client == State::Open && server == State::Open && self.has_listener(index);
            still
                && apps.iter().all(|app| app.queue.is_empty() && app.inbox.is_empty() && app.accepted)
                && (0..2).all(|side| {
                    let sent = known.sides[side].sent.len() as u32;
                    sent == known.sides[1 - side].delivered && sent == known.sides[side].acknowledged
                })
        })
    }

    fn datagrams_sent(&self) -> u64 {
        self.oracle.totals.datagrams
    }

    fn begin_idle(&mut self) {
        let open = |known: &crate::oracle::Connection| {
            known.sides.iter().filter(|side| side.state.is_alive()).count()
        };
        let sides = self.oracle.connections.iter().map(open).sum::<usize>() as u64;
        let windows = 3;
        let direct = self.handed_over_of_direct();
        if self.mutant.lasts(Mutation::SecretRehash) {
            self.machines.iter_mut().for_each(|machine| machine.rehash(true, None));
        }
        self.phase = Phase::Idle {
            until_ns: self.now_ns() + windows * self.scenario.keepalive_ns,
            datagrams_before: self.datagrams_sent(),
            sides,
            windows,
            direct,
        };
    }

    /// Flows of which both ends sent on pairs that are proven go on to do so.
    fn check_directness(&mut self, before: &[(Place, u64, u64)]) {
        self.oracle.totals.direct_checks += before.len() as u64;
        for (place, count, timeouts) in self.handed_over_of_direct() {
            let earlier = before.iter().find(|(other, ..)| *other == place);
            if earlier.is_some_and(|(_, before, gave_up)| count != *before && timeouts == *gave_up) {
                let text = format!("{place:?} was direct, yet {earlier:?} became {count} handed over");
                self.oracle.violate("direct", text);
            }
        }
    }

    fn check_silence(&mut self, datagrams_before: u64, sides: u64, windows: u64) {
        self.oracle.totals.idle_checks += 1;
        let sent = self.datagrams_sent() - datagrams_before;
        // A keepalive and its answer per side and interval; the monitor may look a little late, hence one more. A side that
        // never measured the round trip may ask a few times too often the first time.
        let allowed = sides * (2 * (windows + 1) + 8);
        if sent > allowed {
            let text = format!(
                "{sent} datagrams in {windows} keepalive intervals of {sides} idle ends, {allowed} allowed"
            );
            self.oracle.violate("silence", text);
        }
        if sides > 0 && sent == 0 {
            self.oracle
                .violate("silence", format!("no keepalive in {windows} intervals of {sides} idle ends"));
        }
    }

    fn close_the_rest(&mut self) {
        for connection in 0..self.apps.len() {
            let first = self.dice.between(0, 1) as usize;
            for side in [first, 1 - first] {
                let place = Place { connection, side };
                if self.oracle.side(place).state == State::Open {
                    self.close(place);
                    break;
                }
            }
        }
    }

    /// At the end nothing may be left: no flow, no buffer, no message lent.
    fn check_home(&mut self, since_ns: u64) {
        let alive =
            self.oracle.connections.iter().flat_map(|known| &known.sides).any(|side| side.state.is_alive());
        let flows: usize = self
            .units
            .iter()
            .filter_map(|unit| unit.endpoint.as_ref())
            .map(|endpoint| endpoint.flows())
            .sum();
        if alive || flows > 0 {
            if self.now_ns() > since_ns + self.end_bound_ns() {
                self.oracle
                    .violate("end", format!("after the last close {flows} flows remain, alive: {alive}"));
            }
            return;
        }
        for unit in 0..self.units.len() {
            self.check_host_is_empty(unit);
        }
        self.phase = Phase::Over;
    }

    fn check_host_is_empty(&mut self, unit: usize) {
        let machine = &self.units[unit];
        let Some(endpoint) = machine.endpoint.as_ref() else { return };
        let buffers = machine.tenancy.buffers_out();
        let lent = machine.tenancy.outgoing.iter().filter(|outgoing| outgoing.lent).count();
        let pool_used = machine.tenancy.pool_used;
        if buffers > 0 || lent > 0 || pool_used > 0 {
            let text = format!(
                "unit {unit} still has {buffers} buffers, {pool_used} pool bytes, {lent} messages lent"
            );
            return self.oracle.violate("handles", text);
        }
        let expected = [
            ("datagrams_received", machine.datagrams_handled),
            ("datagrams_sent", machine.datagrams_sent),
            ("messages_delivered", machine.tenancy.delivered),
            ("messages_acknowledged", machine.tenancy.acknowledged),
        ];
        let counters: Vec<_> = endpoint.counters().iter().collect();
        for (name, value) in counters {
            let wrong = expected.iter().find(|(known, truth)| *known == name && *truth != value);
            if let Some((_, truth)) = wrong {
                self.oracle.violate("counters", format!("unit {unit}: {name} is {value}, but it is {truth}"));
            }
            if value > 0 && !self.has_strangers && IMPOSSIBLE.contains(&name) {
                let text =
                    format!("unit {unit}: {name} is {value}, but every datagram came from an endpoint");
                self.oracle.violate("impossible", text);
            }
        }
    }
}
