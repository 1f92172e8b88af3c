//! The receiving half of a flow: reassembly, order, acknowledgements owed, and the room that is advertised.

use super::ranges::{ByteRanges, PacketRanges};
use super::time::Instant;
use super::{Config, Counters, FlowId, Limits, Payload, RxHandle};
use crate::wire::header::{Body, Data, Emitter, MAX_RANGES, WINDOW_UNIT, WireWindow};
use std::collections::VecDeque;

/// Packets that ask for an acknowledgement before one is sent without data to ride on.
const ACK_EVERY: u32 = 8;
/// Separate pieces of one message that are remembered; a segment that would make one more counts as lost.
const MAX_PIECES: usize = 4_096;
/// A packet number this far above the highest one is not one that we could have missed.
pub(super) const MAX_AHEAD: u64 = 1 << 20;

/// A message of which a part is there, or that waits for an earlier one or for the application.
#[derive(Debug)]
struct InMessage {
    handle: RxHandle,
    len: u32,
    there: ByteRanges,
}

/// What became of a packet's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Taken, or known already: acknowledge the packet.
    Taken,
    /// Not taken: as if the packet had been lost.
    Refused,
}

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) packets: PacketRanges,
    largest_at: Instant,
    /// A packet that came so late that the newest ranges do not tell of it.
    late: Option<u64>,
    /// Number of the next message to deliver.
    next: u32,
    /// Messages from `next` on.
    waiting: VecDeque<Option<InMessage>>,
    /// Packets received since the last acknowledgement that ask for one.
    unacknowledged: u32,
    ack_deadline: Option<Instant>,
    ack_now: bool,
    window: Limits,
    returned_messages: u32,
    returned_bytes: u64,
    told_messages: u32,
    told_bytes: u64,
    /// Limits have to be told with the next packet.
    pub(super) window_owed: bool,
    /// The last limits that were news may not have arrived.
    window_lost: bool,
    /// The peer asked and may wait for the window: the next room that comes back is told at once.
    peer_asks: bool,
    /// A nudge has to be sent.
    pub(super) nudge_owed: bool,
    /// Something was refused since the application last gave room back.
    pub(super) refused: bool,
    /// The peer sends no message from this number on.
    fin: Option<u32>,
    /// Messages delivered since the flow opened.
    pub(super) delivered: u64,
}

impl Receiver {
    pub(super) fn new(first_packet: u64, window: Limits) -> Self {
        let told_bytes = u64::from(window.window_bytes) / WINDOW_UNIT * WINDOW_UNIT;
        Self {
            packets: PacketRanges::new(first_packet),
            largest_at: Instant::ZERO,
            late: None,
            next: 0,
            waiting: VecDeque::new(),
            unacknowledged: 0,
            ack_deadline: None,
            ack_now: false,
            window,
            returned_messages: 0,
            returned_bytes: 0,
            told_messages: window.window_messages,
            told_bytes,
            window_owed: false,
            window_lost: false,
            peer_asks: false,
            nudge_owed: false,
            refused: false,
            fin: None,
            delivered: 0,
        }
    }

    /// The peer closed and everything it sent was delivered.
    pub(super) fn is_finished(&self) -> bool {
        self.fin == Some(self.next)
    }

    /// The peer closed.
    pub(super) fn has_fin(&self) -> bool {
        self.fin.is_some()
    }

    /// The peer closed and everything it sent is here, though perhaps not delivered.
    pub(super) fn has_everything(&self) -> bool {
        self.fin.is_some_and(|fin| fin.wrapping_sub(self.next) as usize == self.waiting.len())
            && self.waiting.iter().all(|entry| entry.as_ref().is_some_and(|it| it.there.is_whole(it.len)))
    }

    /// The peer closes: no message from `number` on. `false`: that contradicts what was received.
    pub(super) fn on_fin(&mut self, number: u32) -> bool {
        if self.fin.is_some() {
            return self.fin == Some(number);
        }
        let ahead = number.wrapping_sub(self.next);
        if ahead.cast_signed() < 0 || (ahead as usize) < self.waiting.len() {
            return false;
        }
        self.fin = Some(number);
        true
    }

    /// The body of a packet that was not received before.
    #[inline]
    pub(super) fn on_body(
        &mut self,
        flow: FlowId,
        body: &Body<'_>,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Verdict {
        match *body {
            Body::None | Body::Ping { .. } | Body::Nudge => Verdict::Taken,
            Body::Whole { message, bytes } => self.on_whole(flow, message, bytes, counters, payload),
            Body::Bundle { first, items } => {
                // Mostly the whole bundle is what comes next: then it is taken in one step as far as there is room.
                let mut taken = 0;
                if first == self.next && self.waiting.is_empty() {
                    let (most, open) = (self.window.max_message as usize, self.may_take_many());
                    let fitting = items.iter().take(open).take_while(|bytes| bytes.len() <= most);
                    taken = payload.deliver_all(flow, fitting);
                    counters.messages_delivered += u64::from(taken);
                    self.delivered += u64::from(taken);
                    self.next = self.next.wrapping_add(taken);
                    if taken == items.count() {
                        return Verdict::Taken;
                    }
                }
                for (index, bytes) in (taken..).zip(items.iter().skip(taken as usize)) {
                    let number = first.wrapping_add(index);
                    if self.on_whole(flow, number, bytes, counters, payload) == Verdict::Refused {
                        return Verdict::Refused;
                    }
                }
                Verdict::Taken
            }
            Body::Segment { message, offset, total, bytes } => {
                self.on_segment(flow, message, offset, total, bytes, counters, payload)
            }
        }
    }

    #[inline]
    fn on_whole(
        &mut self,
        flow: FlowId,
        message: u32,
        bytes: &[u8],
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Verdict {
        let in_order = message == self.next && self.waiting.is_empty() && self.may_take(message);
        let fits = bytes.len() <= self.window.max_message as usize;
        if !in_order || !fits {
            let total = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            return self.on_segment(flow, message, 0, total, bytes, counters, payload);
        }
        if !payload.deliver_whole(flow, bytes) {
            return self.refuse(counters);
        }
        counters.messages_delivered += 1;
        self.delivered += 1;
        self.next = self.next.wrapping_add(1);
        Verdict::Taken
    }

    fn refuse(&mut self, counters: &mut Counters) -> Verdict {
        counters.drop_no_room += 1;
        self.refused = true;
        // The peer hears that we live, and what else we have.
        self.ack_now = true;
        Verdict::Refused
    }

    fn may_take(&self, message: u32) -> bool {
        self.told_messages.wrapping_sub(message).cast_signed() > 0
            && self.fin.is_none_or(|fin| fin.wrapping_sub(message).cast_signed() > 0)
    }

    /// How many messages may be taken from the next one on.
    fn may_take_many(&self) -> usize {
        let window = self.told_messages.wrapping_sub(self.next);
        let left = self.fin.map_or(window, |fin| window.min(fin.wrapping_sub(self.next)));
        left.cast_signed().max(0).cast_unsigned() as usize
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a segment")]
    fn on_segment(
        &mut self,
        flow: FlowId,
        message: u32,
        offset: u32,
        total: u32,
        bytes: &[u8],
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> Verdict {
        let ahead = message.wrapping_sub(self.next);
        if ahead.cast_signed() < 0 {
            return Verdict::Taken; // Delivered already.
        }
        if !self.may_take(message) || total > self.window.max_message {
            counters.drop_beyond_window += 1;
            return Verdict::Refused;
        }
        let place = ahead as usize;
        if self.waiting.get(place).is_none_or(Option::is_none) {
            let in_order =
                self.waiting.len() >= place && self.waiting.iter().take(place).all(Option::is_some);
            let Some(handle) = payload.reserve(flow, total, in_order) else {
                return self.refuse(counters);
            };
            while self.waiting.len() <= place {
                self.waiting.push_back(None);
            }
            self.waiting[place] = Some(InMessage { handle, len: total, there: ByteRanges::default() });
        }
        let Some(entry) = self.waiting[place].as_mut() else { return Verdict::Refused };
        if entry.len != total {
            counters.drop_contradiction += 1;
            return Verdict::Refused;
        }
        if entry.there.pieces() >= MAX_PIECES && !entry.there.contains(0, offset) {
            counters.drop_beyond_window += 1;
            return Verdict::Refused;
        }
        let end = offset + u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if entry.there.insert(offset, end) > 0 {
            payload.keep(flow, entry.handle, offset, bytes);
        }
        if entry.there.is_whole(total) {
            // Large messages are acknowledged when they are whole: their sender's buffers wait for it.
            self.ack_now |= u64::from(total) > 16 * WINDOW_UNIT;
            self.deliver_waiting(flow, counters, payload);
        }
        Verdict::Taken
    }

    /// Delivers what is whole and next in order. Answers whether something was.
    pub(super) fn deliver_waiting(
        &mut self,
        flow: FlowId,
        counters: &mut Counters,
        payload: &mut impl Payload,
    ) -> bool {
        let mut any = false;
        while let Some(Some(entry)) = self.waiting.front() {
            if !entry.there.is_whole(entry.len) {
                break;
            }
            if !payload.deliver(flow, entry.handle) {
                self.refused = true;
                break;
            }
            counters.messages_delivered += 1;
            self.delivered += 1;
            self.waiting.pop_front();
            self.next = self.next.wrapping_add(1);
            any = true;
        }
        any
    }

    /// The flow ends: room that was reserved is free again.
    pub(super) fn discard(&mut self, flow: FlowId, payload: &mut impl Payload) {
        for entry in self.waiting.drain(..).flatten() {
            payload.discard(flow, entry.handle);
        }
    }

    /// Notes a packet whose content was taken, and what it asks for.
    #[inline]
    pub(super) fn on_packet(&mut self, arrived: Instant, number: u64, data: &Data<'_>, config: &Config) {
        let newest = number > self.packets.largest();
        let in_order = self.packets.insert(number);
        if newest {
            self.largest_at = arrived;
        } else if self.packets.place_of(number).is_some_and(|place| place > MAX_RANGES) {
            // An acknowledgement of the newest ranges would not tell of it.
            self.late.get_or_insert(number);
        }
        if matches!(data.body, Body::None) && data.fin.is_none() && data.confirm.is_none() {
            return;
        }
        self.unacknowledged += 1;
        let urgent = matches!(data.body, Body::Ping { .. } | Body::Nudge) || data.fin.is_some();
        if urgent {
            self.window_owed = true;
            self.peer_asks = true;
        }
        if urgent || !in_order || self.unacknowledged >= ACK_EVERY {
            self.ack_now = true;
        } else if self.ack_deadline.is_none() {
            self.ack_deadline = Some(arrived + config.max_ack_delay);
        }
    }

    /// A packet came again: its acknowledgement was lost.
    pub(super) fn on_duplicate(&mut self) {
        self.ack_now = true;
        self.unacknowledged += 1;
    }

    /// The application gave room back.
    pub(super) fn on_room(&mut self, messages: u32, bytes: u64) {
        self.returned_messages = self.returned_messages.wrapping_add(messages);
        self.returned_bytes += bytes;
        let messages_gain = self.limit_messages().wrapping_sub(self.told_messages);
        let bytes_gain =
            (self.returned_bytes + u64::from(self.window.window_bytes)).saturating_sub(self.told_bytes);
        // Told when it is worth it: each half window, or when the peer asked. Where the largest message needs more than
        // half, also when the application has given everything back.
        let asked = messages > 0 && core::mem::take(&mut self.peer_asks);
        let is_tight = self.window.window_bytes / 2 < self.window.max_message;
        let all_back = super::seq::low(self.delivered) == self.returned_messages;
        if asked
            || messages_gain >= self.window.window_messages.div_ceil(2)
            || bytes_gain >= u64::from(self.window.window_bytes / 2).max(1)
            || (is_tight && all_back && bytes_gain >= WINDOW_UNIT)
        {
            self.window_owed = true;
        }
    }

    fn limit_messages(&self) -> u32 {
        self.returned_messages.wrapping_add(self.window.window_messages)
    }

    /// A packet that told limits was lost: they are news again.
    pub(super) fn on_window_lost(&mut self) {
        (self.window_owed, self.window_lost) = (true, true);
    }

    /// Whether the limits to tell are news.
    pub(super) fn window_is_news(&self) -> bool {
        let bytes = self.returned_bytes + u64::from(self.window.window_bytes);
        self.window_lost
            || self.limit_messages() != self.told_messages
            || bytes >= self.told_bytes + WINDOW_UNIT
    }

    /// Whether a packet should go out for an acknowledgement alone.
    #[inline]
    pub(super) fn ack_due(&self, now: Instant) -> bool {
        self.ack_now || self.ack_deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When an acknowledgement is due at the latest.
    pub(super) fn ack_deadline(&self) -> Option<Instant> {
        self.ack_deadline
    }

    /// Writes the ACK block if something is not acknowledged. Answers whether it did.
    #[inline]
    pub(super) fn emit_ack(&mut self, now: Instant, emitter: &mut Emitter) -> bool {
        if self.unacknowledged == 0 && !self.ack_now {
            return false;
        }
        if let Some(place) = self.late.take().and_then(|late| self.packets.place_of(late)) {
            // A packet of its own, so that the next one can tell of the newest.
            self.ack_now = true;
            let (largest, run) = self.packets.run(place);
            emitter.ack(super::seq::low(largest), run, 0, self.packets.rest(place));
            return true;
        }
        (self.unacknowledged, self.ack_now, self.ack_deadline) = (0, false, None);
        let (largest, run) = self.packets.first();
        let delay = now.since(self.largest_at).as_micros();
        let delay = u16::try_from(delay).unwrap_or(u16::MAX);
        let gapless = self.packets.is_gapless();
        let rest = self.packets.rest(0).take_while(|_| !gapless);
        emitter.ack(super::seq::low(largest), run, delay, rest);
        true
    }

    /// Writes the WINDOW block if it is owed. Answers whether it is news, which has to arrive.
    #[inline]
    pub(super) fn emit_window(&mut self, emitter: &mut Emitter) -> bool {
        if !self.window_owed {
            return false;
        }
        let news = self.window_is_news();
        (self.window_owed, self.window_lost) = (false, false);
        self.told_messages = self.limit_messages();
        let units = (self.returned_bytes + u64::from(self.window.window_bytes)) / WINDOW_UNIT;
        self.told_bytes = units * WINDOW_UNIT;
        emitter.window(WireWindow { messages: self.told_messages, kibibytes: super::seq::low(units) });
        news
    }
}
