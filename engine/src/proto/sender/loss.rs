//! What was lost, and when to send it again: by overtaking packets, by time, by a silent tail, by a nudge.

use super::{Content, LostFlags, MAX_PACKETS, MAX_REORDER_PACKETS, REORDER_PACKETS, Sender, State};
use crate::proto::congestion::Controller;
use crate::proto::pmtu::{BASE, PathSize};
use crate::proto::rtt::Rtt;
use crate::proto::time::{Duration, Instant};
use crate::proto::{Config, Counters};

/// Longest wait between two retransmissions of the same tail.
const MAX_TIMEOUT: Duration = Duration::from_millis(500);
/// A packet called lost is remembered for so long at least.
const LEAST_MEMORY: Duration = Duration::from_millis(1);
/// What a late packet taught is believed for so long.
const PATIENCE_LASTS: Duration = Duration::from_millis(100);
/// From this timeout in a row on everything in flight counts as lost.
const GIVE_UP_TIMEOUTS: u32 = 2;

impl Sender {
    /// Declares lost what was overtaken by enough packets or enough time.
    pub(in crate::proto) fn detect_losses(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        controller: &mut dyn Controller,
        path: &mut PathSize,
        counters: &mut Counters,
    ) -> LostFlags {
        self.loss_time = None;
        let mut lost = LostFlags::default();
        let delay = rtt.loss_delay()
            + if self.reorder_packets > REORDER_PACKETS { rtt.smoothed() } else { Duration::ZERO };
        let delay = if now < self.patient_until { delay.max(self.patience) } else { delay };
        let overtaken =
            usize::try_from((self.largest_acked + 1).saturating_sub(self.first_number)).unwrap_or(0);
        for place in 0..overtaken.min(self.packets.len()) {
            let packet = self.packets[place];
            if packet.state != State::InFlight {
                continue;
            }
            let distance = self.largest_acked - (self.first_number + place as u64);
            if distance >= self.reorder_packets || packet.at + delay <= now {
                self.declare_lost(place, &mut lost, controller, path, counters, now);
            } else {
                let due = packet.at + delay;
                self.loss_time = Some(self.loss_time.map_or(due, |time| time.min(due)));
            }
        }
        suspect_path(&lost, path, counters);
        lost
    }

    fn declare_lost(
        &mut self,
        place: usize,
        lost: &mut LostFlags,
        controller: &mut dyn Controller,
        path: &mut PathSize,
        counters: &mut Counters,
        now: Instant,
    ) {
        let packet = self.packets[place];
        self.packets[place].state = State::Lost;
        self.in_flight -= u64::from(packet.bytes);
        self.eliciting -= 1;
        counters.packets_lost += 1;
        lost.window |= packet.carried.window;
        lost.nudge |= packet.carried.nudge;
        if packet.carried.fin {
            self.fin_in_flight = false;
        }
        if let Content::Probe { size } = packet.content {
            path.on_probe_lost(size);
            return;
        }
        self.repeat(packet.content);
        controller.on_loss(now, u64::from(packet.bytes));
        lost.large |= packet.bytes > BASE;
    }

    fn repeat(&mut self, content: Content) {
        match content {
            Content::Nothing | Content::Probe { .. } => {}
            Content::Segment { message, offset, len } => self.queue_repeat(message, offset, len),
            Content::Bundle { first, count } => {
                for message in (0..u32::from(count)).map(|index| first.wrapping_add(index)) {
                    if let Some(place) = self.place(message) {
                        self.queue_repeat(message, 0, self.messages[place].len);
                    }
                }
            }
        }
    }

    /// Oldest messages first: the peer may have no room for a later one before it has the earlier ones.
    fn queue_repeat(&mut self, message: u32, offset: u32, len: u32) {
        let Some(place) = self.place(message) else { return };
        let base = self.base;
        let key = (place, offset, len);
        let before = |&(message, offset, len): &(u32, u32, u32)| {
            // What was acknowledged meanwhile comes first and is dropped there.
            let ahead = message.wrapping_sub(base);
            ahead.cast_signed() < 0 || (ahead as usize, offset, len) < key
        };
        let at = self.repeats.partition_point(before);
        if self.repeats.get(at) != Some(&(message, offset, len)) {
            self.repeats.insert(at, (message, offset, len));
        }
    }

    /// Room came back at the peer: what is unacknowledged for longer than a round trip may be sent again now.
    pub(in crate::proto) fn on_nudge(&mut self, now: Instant, rtt: &Rtt) -> LostFlags {
        self.timeouts = 0;
        let mut lost = LostFlags::default();
        if self.nudged_at + rtt.smoothed() > now {
            return lost; // What was repeated then has not had the time to arrive.
        }
        self.nudged_at = now;
        let before = now.since(Instant::ZERO + rtt.loss_delay());
        for place in 0..self.packets.len() {
            let packet = self.packets[place];
            // Room says nothing about the path.
            let is_probe = matches!(packet.content, Content::Probe { .. });
            if packet.state == State::InFlight && packet.at.since(Instant::ZERO) <= before && !is_probe {
                // Not lost to the network: the window stays.
                self.packets[place].state = State::Lost;
                self.in_flight -= u64::from(packet.bytes);
                self.eliciting -= 1;
                lost.window |= packet.carried.window;
                lost.nudge |= packet.carried.nudge;
                if packet.carried.fin {
                    self.fin_in_flight = false;
                }
                self.repeat(packet.content);
            }
        }
        lost
    }

    /// A packet that was called lost has come after all: the path delays by so much more.
    pub(super) fn learn_reordering(&mut self, now: Instant, sent_at: Instant, distance: u64) {
        self.reorder_packets = self.reorder_packets.max(distance + 1).min(MAX_REORDER_PACKETS);
        let took = now.since(sent_at);
        let patience = Duration::from_nanos(took.as_nanos() / 8 * 9);
        self.patience = if now < self.patient_until { self.patience.max(patience) } else { patience };
        self.patient_until = now + PATIENCE_LASTS;
    }

    pub(super) fn forget_settled(&mut self, rtt: &Rtt) {
        let memory = rtt.smoothed().times(4).max(LEAST_MEMORY);
        while let Some(packet) = self.packets.front() {
            let keep = match packet.state {
                State::InFlight => true,
                State::Acked => false,
                // Remembered for a while, to notice that it was not lost after all; and until a later round trip was
                // measured, else a path that became slower would never be seen to answer.
                State::Lost => packet.at + memory > self.sampled_at && self.packets.len() < MAX_PACKETS,
            };
            if keep {
                return;
            }
            self.packets.pop_front();
            self.first_number += 1;
        }
    }

    /// When the tail has to be probed, if anything is in flight or the peer's window blocks.
    fn probe_time(&self, rtt: &Rtt, config: &Config) -> Option<Instant> {
        if self.eliciting == 0 && !self.is_window_blocked() {
            return None;
        }
        let first = rtt.probe_timeout(config.max_ack_delay);
        let wait = if self.timeouts == 0 && self.eliciting > 0 {
            first
        } else {
            // The answer to a probe of the window ends the timeouts, but it is no reason to ask as often again.
            let doublings = if self.eliciting > 0 { self.timeouts } else { self.window_probes };
            first.max(config.min_rto).times(1 << doublings.min(12)).min(MAX_TIMEOUT)
        };
        Some(self.last_eliciting_at + wait)
    }

    /// When `on_timer` is due.
    pub(in crate::proto) fn timeout(&self, rtt: &Rtt, config: &Config) -> Option<Instant> {
        match (self.loss_time, self.probe_time(rtt, config)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Deals with what is due at `now`.
    pub(in crate::proto) fn on_timer(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        config: &Config,
        controller: &mut dyn Controller,
        path: &mut PathSize,
        counters: &mut Counters,
    ) -> LostFlags {
        if self.loss_time.is_some_and(|time| time <= now) {
            let lost = self.detect_losses(now, rtt, controller, path, counters);
            self.forget_settled(rtt);
            return lost;
        }
        let mut lost = LostFlags::default();
        if self.probe_time(rtt, config).is_none_or(|time| time > now) {
            return lost;
        }
        self.probes_owed = 1;
        if self.eliciting == 0 {
            self.window_probes += 1;
            self.last_eliciting_at = now;
            return lost;
        }
        self.timeouts += 1;
        // The next timeout counts from here, even if nothing can be sent.
        self.last_eliciting_at = now;
        if self.timeouts < GIVE_UP_TIMEOUTS {
            counters.tail_probes += 1;
            self.repeat_oldest();
            return lost;
        }
        counters.timeouts += 1;
        for place in 0..self.packets.len() {
            if self.packets[place].state == State::InFlight {
                self.declare_lost(place, &mut lost, controller, path, counters, now);
            }
        }
        suspect_path(&lost, path, counters);
        if self.timeouts == GIVE_UP_TIMEOUTS + 1 {
            controller.on_timeout(now, u64::from(path.current()));
        }
        self.forget_settled(rtt);
        lost
    }

    /// Sends the oldest unacknowledged data once more without calling it lost.
    fn repeat_oldest(&mut self) {
        let oldest = self.packets.iter().find(|packet| {
            packet.state == State::InFlight
                && !matches!(packet.content, Content::Nothing | Content::Probe { .. })
        });
        if let Some(packet) = oldest {
            let content = packet.content;
            if self.repeats.is_empty() {
                self.repeat(content);
            }
        } else if self.packets.iter().any(|packet| packet.state == State::InFlight && packet.carried.fin) {
            self.fin_in_flight = false;
        }
    }
}

/// A burst of losses is one suspicion: an overflowing queue drops many large packets at once.
fn suspect_path(lost: &LostFlags, path: &mut PathSize, counters: &mut Counters) {
    if lost.large && path.on_large_lost() {
        counters.path_black_holes += 1;
    }
}
