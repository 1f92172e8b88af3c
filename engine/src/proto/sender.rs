//! The sending half of a flow: messages cut into segments, what each packet carried, and what has to be sent again.

mod loss;

use super::congestion::{AckSample, Controller};
use super::pmtu::{BASE, PathSize};
use super::ranges::ByteRanges;
use super::rtt::Rtt;
use super::seq::expand;
use super::time::{Duration, Instant};
use super::{Counters, FlowId, Payload, TxHandle};
use crate::wire::header::{Ack, WINDOW_UNIT, WireWindow};
use std::collections::VecDeque;

/// Packets that may be overtaken before one counts as lost (RFC 9002 section 6.1.1).
const REORDER_PACKETS: u64 = 3;
/// The same after spurious losses, at most.
const MAX_REORDER_PACKETS: u64 = 512;
/// Settled packets kept behind an unsettled one at most.
const MAX_PACKETS: usize = 65_536;

/// A message that is not acknowledged.
#[derive(Debug)]
struct OutMessage {
    handle: TxHandle,
    len: u32,
    /// Bytes sent at least once: a prefix.
    sent: u32,
    acked: ByteRanges,
}

/// What a packet carried that must be sent again if it is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Nothing,
    Segment {
        message: u32,
        offset: u32,
        len: u32,
    },
    Bundle {
        first: u32,
        count: u8,
    },
    /// A probe of the path with so many bytes of UDP payload.
    Probe {
        size: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    InFlight,
    Acked,
    Lost,
}

/// Flags of a packet's content besides its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Carried {
    /// The peer will acknowledge it.
    pub(super) eliciting: bool,
    pub(super) fin: bool,
    pub(super) window: bool,
    pub(super) nudge: bool,
}

#[derive(Clone, Copy, Debug)]
struct SentPacket {
    at: Instant,
    bytes: u32,
    state: State,
    carried: Carried,
    content: Content,
}

/// Data that goes into the next packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chunk {
    Whole { message: u32, handle: TxHandle, len: u32 },
    Segment { message: u32, handle: TxHandle, offset: u32, len: u32, total: u32 },
    Bundle { first: u32, count: u8, wire_len: u32 },
}

/// What was lost besides data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostFlags {
    /// Data larger than every path takes.
    large: bool,
    pub(super) window: bool,
    pub(super) nudge: bool,
}

#[derive(Debug)]
pub(super) struct Sender {
    messages: VecDeque<OutMessage>,
    /// Number of the first of `messages`.
    base: u32,
    /// Place in `messages` of the first that was not sent entirely.
    next: usize,
    /// Message, offset and length of what is to be sent again, in this order.
    repeats: VecDeque<(u32, u32, u32)>,
    packets: VecDeque<SentPacket>,
    /// Number of the first of `packets`.
    first_number: u64,
    in_flight: u64,
    eliciting: u32,
    started_bytes: u64,
    limit_messages: u32,
    /// The peer's window in messages: what `limit_messages` was before the peer's application gave anything back.
    window_messages: u32,
    limit_units: u64,
    largest_acked: u64,
    reorder_packets: u64,
    /// After so long a packet that was overtaken counts as lost, on a path that was seen to reorder.
    patience: Duration,
    patient_until: Instant,
    loss_time: Option<Instant>,
    last_eliciting_at: Instant,
    /// When a round trip was last measured.
    sampled_at: Instant,
    /// When a nudge was last followed.
    nudged_at: Instant,
    pub(super) timeouts: u32,
    /// How often the peer was asked for its window since it last opened.
    window_probes: u32,
    /// Packets that may be sent beyond the congestion window because a timer fired.
    pub(super) probes_owed: u8,
    fin: Option<u32>,
    fin_in_flight: bool,
    pub(super) fin_acked: bool,
    /// Messages given up when the peer closed.
    abandoned: u32,
    /// The peer closed: it takes nothing more.
    pub(super) stopped: bool,
    /// Messages acknowledged since the flow opened.
    pub(super) acknowledged: u64,
    /// Segments and bundled messages sent again.
    pub(super) retransmissions: u64,
}

impl Sender {
    pub(super) fn new(first_packet: u64, limit_messages: u32, limit_bytes: u32) -> Self {
        Self {
            messages: VecDeque::new(),
            base: 0,
            next: 0,
            repeats: VecDeque::new(),
            packets: VecDeque::new(),
            first_number: first_packet,
            in_flight: 0,
            eliciting: 0,
            started_bytes: 0,
            limit_messages,
            window_messages: limit_messages,
            limit_units: u64::from(limit_bytes) / WINDOW_UNIT,
            largest_acked: first_packet - 1,
            reorder_packets: REORDER_PACKETS,
            patience: Duration::ZERO,
            patient_until: Instant::ZERO,
            loss_time: None,
            last_eliciting_at: Instant::ZERO,
            sampled_at: Instant::ZERO,
            nudged_at: Instant::ZERO,
            timeouts: 0,
            window_probes: 0,
            probes_owed: 0,
            fin: None,
            fin_in_flight: false,
            fin_acked: false,
            abandoned: 0,
            stopped: false,
            acknowledged: 0,
            retransmissions: 0,
        }
    }

    pub(super) fn push(&mut self, handle: TxHandle, len: u32) {
        self.messages.push_back(OutMessage { handle, len, sent: 0, acked: ByteRanges::default() });
    }

    /// Messages given to `push` and not acknowledged.
    pub(super) fn unacknowledged(&self) -> u32 {
        u32::try_from(self.messages.len()).unwrap_or(u32::MAX).saturating_add(self.abandoned)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.messages.len()
    }

    /// Number that the next packet will have.
    #[inline]
    pub(super) fn next_number(&self) -> u64 {
        self.first_number + self.packets.len() as u64
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether a packet with this low half of a number awaits its acknowledgement.
    pub(super) fn is_outstanding(&self, low: u32) -> bool {
        let number = expand(low, self.next_number());
        let place = number.checked_sub(self.first_number).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.packets.get(place)).is_some_and(|packet| packet.state != State::Acked)
    }

    /// The peer will be told that no message follows.
    pub(super) fn close(&mut self) {
        let count = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.fin = Some(self.base.wrapping_add(count));
    }

    /// The peer closed: nothing that is not acknowledged yet will be.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        let count = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.abandoned += count;
        self.base = self.base.wrapping_add(count);
        self.messages.clear();
        self.repeats.clear();
        self.next = 0;
    }

    /// The number of the first message that will never be sent, once we closed.
    pub(super) fn fin(&self) -> Option<u32> {
        self.fin
    }

    /// The FIN to put into the next packet, if one is due.
    pub(super) fn fin_due(&self) -> Option<u32> {
        self.fin.filter(|_| !self.fin_in_flight && !self.fin_acked)
    }

    /// New limits of the peer. Answers whether they opened the window.
    pub(super) fn on_window(&mut self, window: WireWindow) -> bool {
        let mut opened = false;
        if window.messages.wrapping_sub(self.limit_messages).cast_signed() > 0 {
            self.limit_messages = window.messages;
            opened = true;
        }
        let units = expand(window.kibibytes, self.limit_units);
        if units > self.limit_units {
            self.limit_units = units;
            opened = true;
        }
        if opened {
            self.window_probes = 0;
        }
        opened
    }

    /// Whether the message at place `index` may be begun.
    #[inline]
    fn may_start(&self, index: usize) -> bool {
        let number = self.base.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX));
        let open_messages = self.limit_messages.wrapping_sub(number);
        if open_messages.cast_signed() <= 0 {
            return false;
        }
        // One message may always be on its way, however large, once the application gave back all before it.
        open_messages == self.window_messages
            || self.started_bytes + u64::from(self.messages[index].len)
                <= self.limit_units.saturating_mul(WINDOW_UNIT)
    }

    /// Forgets repetitions that became needless because a late acknowledgement came.
    pub(super) fn drop_needless_repeats(&mut self) {
        while let Some(&(message, offset, len)) = self.repeats.front() {
            if self.place(message).is_some_and(|at| !self.messages[at].acked.contains(offset, offset + len)) {
                return;
            }
            self.repeats.pop_front();
        }
    }

    /// Whether there is something to repeat or to begin, window permitting.
    #[inline]
    pub(super) fn has_data(&self) -> bool {
        !self.repeats.is_empty()
            || self
                .messages
                .get(self.next)
                .is_some_and(|message| message.sent > 0 || self.may_start(self.next))
    }

    /// Whether messages wait for the peer's window alone.
    pub(super) fn is_window_blocked(&self) -> bool {
        self.next < self.messages.len() && !self.has_data()
    }

    /// Whether a message does not fit a datagram of `size`, so that a larger path size would help.
    pub(super) fn wants_larger(&self, size: u32) -> bool {
        self.messages.back().is_some_and(|message| message.len > size)
            || self.messages.front().is_some_and(|message| message.len > size)
    }

    /// The data of the next packet, with at most `room` bytes behind the blocks; `whole_cost`, `segment_cost` and
    /// `bundle_cost` are what the kinds of body need in front. The bundle's messages go to `bundle`.
    pub(super) fn next_chunk(
        &mut self,
        room: u32,
        bundle: &mut Vec<(TxHandle, u16)>,
        counters: &mut Counters,
    ) -> Option<Chunk> {
        const WHOLE_COST: u32 = 4;
        const SEGMENT_COST: u32 = 12;
        self.drop_needless_repeats();
        if let Some((message, offset, len)) = self.repeats.pop_front() {
            let at = self.place(message)?;
            let (handle, total) = (self.messages[at].handle, self.messages[at].len);
            counters.retransmissions += 1;
            self.retransmissions += 1;
            if len == total && len + WHOLE_COST <= room {
                return Some(Chunk::Whole { message, handle, len });
            }
            let take = len.min(room - SEGMENT_COST);
            if take < len {
                self.repeats.push_front((message, offset + take, len - take));
            }
            return Some(Chunk::Segment { message, handle, offset, len: take, total });
        }
        let index = self.next;
        let begun = self.messages.get(index)?.sent > 0;
        if !begun && !self.may_start(index) {
            return None;
        }
        let number = self.base.wrapping_add(u32::try_from(index).ok()?);
        let message = &mut self.messages[index];
        let (handle, total) = (message.handle, message.len);
        if !begun {
            self.started_bytes += u64::from(total);
        }
        if !begun && total + WHOLE_COST <= room {
            message.sent = total;
            self.next += 1;
            return Some(self.extend_bundle(number, handle, total, room - WHOLE_COST, bundle));
        }
        let offset = message.sent;
        let take = (total - offset).min(room - SEGMENT_COST);
        message.sent += take;
        if message.sent == total {
            self.next += 1;
        }
        Some(Chunk::Segment { message: number, handle, offset, len: take, total })
    }

    /// A whole message, with those behind it that fit the same packet.
    fn extend_bundle(
        &mut self,
        number: u32,
        handle: TxHandle,
        len: u32,
        room: u32,
        bundle: &mut Vec<(TxHandle, u16)>,
    ) -> Chunk {
        const ITEM_COST: u32 = 2;
        const MOST: usize = 254;
        let short = |len: u32| u16::try_from(len).unwrap_or(u16::MAX);
        let mut used = len + ITEM_COST;
        bundle.clear();
        // As `may_start` has it for messages that are not the first of a window.
        let behind = u32::try_from(self.next).unwrap_or(u32::MAX);
        let open = self.limit_messages.wrapping_sub(self.base.wrapping_add(behind)).cast_signed();
        let open = usize::try_from(open).unwrap_or(0).min(MOST - 1);
        let limit_bytes = self.limit_units.saturating_mul(WINDOW_UNIT);
        for next in self.messages.range_mut(self.next..).take(open) {
            let cost = next.len.saturating_add(ITEM_COST);
            let started = self.started_bytes + u64::from(next.len);
            if used + cost > room || started > limit_bytes {
                break;
            }
            if bundle.is_empty() {
                bundle.push((handle, short(len)));
            }
            bundle.push((next.handle, short(next.len)));
            next.sent = next.len;
            self.started_bytes = started;
            used += cost;
        }
        if bundle.is_empty() {
            return Chunk::Whole { message: number, handle, len };
        }
        self.next += bundle.len() - 1;
        let count = u8::try_from(bundle.len()).unwrap_or(u8::MAX);
        Chunk::Bundle { first: number, count, wire_len: used }
    }

    #[inline]
    fn place(&self, message: u32) -> Option<usize> {
        let place = message.wrapping_sub(self.base) as usize;
        (place < self.messages.len()).then_some(place)
    }

    /// Records the packet just made.
    #[inline]
    pub(super) fn on_sent(&mut self, now: Instant, bytes: u32, content: Content, carried: Carried) {
        let state = if carried.eliciting { State::InFlight } else { State::Acked };
        if carried.eliciting {
            self.in_flight += u64::from(bytes);
            self.eliciting += 1;
            self.last_eliciting_at = now;
        }
        if carried.fin {
            self.fin_in_flight = true;
        }
        if state == State::Acked && self.packets.is_empty() {
            self.first_number += 1; // Nothing to remember.
            return;
        }
        self.packets.push_back(SentPacket { at: now, bytes, state, carried, content });
    }

    /// An acknowledgement. `Err`: it names packets that were never sent.
    #[expect(clippy::too_many_arguments, reason = "the parts of one flow, borrowed apart")]
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        arrived: Instant,
        flow: FlowId,
        ack: &Ack<'_>,
        rtt: &mut Rtt,
        controller: &mut dyn Controller,
        path: &mut PathSize,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Result<LostFlags, ()> {
        let largest = expand(ack.largest, self.next_number());
        if largest >= self.next_number() {
            return Err(());
        }
        let in_flight = self.in_flight;
        let mut newest: Option<Instant> = None;
        let mut acked_bytes = 0;
        let (mut high, mut low) = (largest, largest.saturating_sub(u64::from(ack.run)));
        let mut ranges = ack.ranges.iter();
        loop {
            acked_bytes += self.on_range(now, low, high, largest, &mut newest, path, counters);
            let Some((gap, run)) = ranges.next() else { break };
            let Some(next_high) = low.checked_sub(u64::from(gap) + 2) else { break };
            (high, low) = (next_high, next_high.saturating_sub(u64::from(run)));
            if high < self.first_number {
                break;
            }
        }
        let held = Duration::from_micros(u64::from(ack.delay_us));
        // An acknowledgement of late packets says nothing of when it was sent.
        let newest = newest.filter(|_| largest > self.largest_acked);
        let sample = newest.map(|at| rtt.on_sample(now, arrived.since(at), held));
        if sample.is_some() {
            self.sampled_at = now;
            self.timeouts = 0;
        }
        if acked_bytes > 0 {
            self.complete(flow, counters, payload);
        }
        self.largest_acked = self.largest_acked.max(largest);
        let lost = self.detect_losses(now, rtt, controller, path, counters);
        if acked_bytes > 0 {
            controller.on_ack(
                now,
                &AckSample {
                    bytes: acked_bytes,
                    rtt: sample,
                    min_rtt: rtt.least(),
                    smoothed_rtt: rtt.smoothed(),
                    in_flight,
                    datagram: u64::from(path.current()),
                },
            );
        }
        self.forget_settled(rtt);
        Ok(lost)
    }

    /// Packets `low..=high` arrived. Answers the bytes that are newly acknowledged.
    #[expect(clippy::too_many_arguments, reason = "one range of an acknowledgement, and what it changes")]
    fn on_range(
        &mut self,
        now: Instant,
        low: u64,
        high: u64,
        largest: u64,
        newest: &mut Option<Instant>,
        path: &mut PathSize,
        counters: &mut Counters,
    ) -> u64 {
        let mut bytes = 0;
        // Upwards: the pieces of a message are then one prefix, which needs no list.
        for number in low.max(self.first_number)..=high {
            let Ok(place) = usize::try_from(number - self.first_number) else { break };
            let packet = self.packets[place];
            match packet.state {
                State::Acked => continue,
                State::InFlight => {
                    self.in_flight -= u64::from(packet.bytes);
                    self.eliciting -= 1;
                }
                State::Lost => {
                    counters.spurious_losses += 1;
                    let distance = largest.max(self.largest_acked) - number;
                    self.learn_reordering(now, packet.at, distance);
                }
            }
            if number == largest {
                *newest = Some(packet.at);
            }
            bytes += u64::from(packet.bytes);
            self.packets[place].state = State::Acked;
            self.on_packet_acked(&packet, path);
        }
        bytes
    }

    fn on_packet_acked(&mut self, packet: &SentPacket, path: &mut PathSize) {
        if packet.carried.fin {
            self.fin_acked = true;
        }
        if packet.bytes > BASE {
            path.on_large_acked();
        }
        match packet.content {
            Content::Nothing => {}
            Content::Probe { size } => path.on_probe_acked(size),
            Content::Segment { message, offset, len } => {
                if let Some(place) = self.place(message) {
                    self.messages[place].acked.insert(offset, offset + len);
                }
            }
            Content::Bundle { first, count } => {
                // Those below `base` were acknowledged before.
                let start = first.wrapping_sub(self.base).cast_signed();
                let end = start + i32::from(count);
                let place = |at: i32| usize::try_from(at).unwrap_or(0).min(self.messages.len());
                let (start, end) = (place(start), place(end));
                for message in self.messages.range_mut(start..end) {
                    message.acked.fill(message.len);
                }
            }
        }
    }

    fn complete(&mut self, flow: FlowId, counters: &mut Counters, payload: &mut impl Payload) {
        let is_whole = |message: &&OutMessage| message.acked.is_whole(message.len);
        let count = self.messages.iter().take_while(is_whole).count();
        payload.acknowledged_all(flow, self.messages.drain(..count).map(|message| message.handle));
        counters.messages_acknowledged += count as u64;
        self.acknowledged += count as u64;
        self.base = self.base.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        self.next -= count;
    }
}
