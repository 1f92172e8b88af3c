//! What is said to strangers and to peers of flows that ended: answers that belong to no flow, and what is remembered for them.

use super::steering::Way;
use super::{COOKIE_LIFETIME_S, Endpoint};
use crate::proto::seq::low;
use crate::proto::time::{Duration, Instant};
use crate::proto::{Body, Datagram, Reason, Transmit};
use crate::wire::header::{self, ConnectionId, Data, Refusal, SYN_ACK_LEN, SynAck};

/// Answers to strangers that wait to be sent.
pub(super) const MAX_REPLIES: usize = 256;

/// Resets for strangers: so many at once, and one more each millisecond.
pub(super) const RESET_BURST: u64 = 64;

pub(super) const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Ended flows that are remembered.
pub(super) const MAX_TIME_WAIT: usize = 65_536;

/// For how long: longer than any cookie that could make the flow again.
pub(super) const TIME_WAIT: Duration = Duration::from_secs(COOKIE_LIFETIME_S as u64 + 5);

/// What is left of a flow that ended, so that late packets of its peer are answered rightly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remains {
    pub(super) remote: ConnectionId,
    /// The way that its last packets took.
    pub(super) way: Way,
    pub(super) next_number: u64,
    /// Low half of the number of the first packet sent for the flow after its end.
    pub(super) farewell: u32,
    /// Our FIN, if we closed: a peer that closed at the same time may not have it.
    pub(super) fin: Option<u32>,
    pub(super) kind: RemainsKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemainsKind {
    /// Everything the peer sent was delivered: any packet of it is acknowledged.
    TookAll,
    /// We closed: its FIN is acknowledged, its data is not.
    Closed,
    /// The flow was reset for this reason; the peer is told again.
    Reset(Reason),
}

/// Something to say that belongs to no flow.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    SynAck(SynAck),
    Reject(Refusal),
    Reset {
        refusal: Refusal,
        stateless: bool,
    },
    /// The end of a flow that ended in order: what of the peer's is acknowledged (the highest, and how many below it), and
    /// our FIN.
    Farewell {
        remote: ConnectionId,
        number: u32,
        acked: Option<(u32, u16)>,
        fin: Option<u32>,
    },
}

impl Endpoint {
    /// A late packet of a flow that ended.
    pub(super) fn answer_late(
        &mut self,
        now: Instant,
        remains: &Remains,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
    ) {
        if remains.way.to.ip() != datagram.from.ip() {
            self.counters.drop_wrong_address += 1;
            return;
        }
        let pings = matches!(data.body, header::Body::Ping { .. } | header::Body::Nudge);
        let carries_data = !pings && !matches!(data.body, header::Body::None);
        let asks = pings || carries_data || data.fin.is_some() || data.confirm.is_some();
        // Who acknowledges what was sent after the end has our FIN too: two that closed must not answer each other for ever.
        let knows = data.ack.is_some_and(|ack| ack.largest.wrapping_sub(remains.farewell).cast_signed() >= 0);
        match remains.kind {
            RemainsKind::Closed if knows => {}
            RemainsKind::Reset(reason) if asks => self.reply_reset(now, datagram, data, reason),
            RemainsKind::TookAll if asks => self.reply_late(data, remains, Some(data.number)),
            // Nobody took the data, so it is not acknowledged; but the peer may not know yet that we closed.
            RemainsKind::Closed if carries_data => self.reply_late(data, remains, None),
            RemainsKind::Closed if asks => self.reply_late(data, remains, Some(data.number)),
            _ => {}
        }
    }

    pub(super) fn reply_late(&mut self, data: &Data<'_>, remains: &Remains, largest: Option<u32>) {
        let Some(kept) = self.remains.get_mut(&data.id.0) else { return };
        let number = low(kept.next_number);
        kept.next_number += 1;
        let acked = largest.map(|largest| (largest, 0));
        let reply = Reply::Farewell { remote: remains.remote, number, acked, fin: remains.fin };
        self.reply(remains.way, reply);
    }

    /// Tells a stranger, or one that does not know it yet, that there is no such flow: smaller than what is answered, and
    /// not too often.
    pub(super) fn reply_reset(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        data: &Data<'_>,
        reason: Reason,
    ) {
        let passed = now.since(self.resets_counted_at).as_nanos() / RESET_INTERVAL.as_nanos();
        if passed > 0 {
            self.resets_allowed = (self.resets_allowed + passed).min(RESET_BURST);
            self.resets_counted_at = now;
        }
        if self.resets_allowed == 0 || datagram.bytes.len() < header::RESET_LEN {
            self.counters.replies_suppressed += 1;
            return;
        }
        self.resets_allowed -= 1;
        let (way, engine) = self.way_back(datagram, data);
        let refusal = Refusal { id: data.id, number: data.number, reason: reason as u8, engine };
        self.reply(way, Reply::Reset { refusal, stateless: true });
    }

    pub(super) fn reply(&mut self, way: Way, reply: Reply) {
        if self.replies.len() >= MAX_REPLIES {
            self.counters.replies_suppressed += 1;
            return;
        }
        self.replies.push_back((way, reply));
    }

    pub(super) fn remember(&mut self, now: Instant, local: ConnectionId, remains: Remains) {
        if self.remains_order.len() >= MAX_TIME_WAIT
            && let Some((_, oldest)) = self.remains_order.pop_front()
        {
            self.remains.remove(&oldest);
        }
        self.remains.insert(local.0, remains);
        self.remains_order.push_back((now + TIME_WAIT, local.0));
    }

    pub(super) fn expire_remains(&mut self, now: Instant) {
        while let Some(&(expires, id)) = self.remains_order.front() {
            if expires > now {
                return;
            }
            self.remains_order.pop_front();
            self.remains.remove(&id);
        }
    }

    pub(super) fn transmit_reply(&mut self, way: Way, reply: Reply) -> Transmit {
        match reply {
            Reply::SynAck(answer) => {
                self.emitter.syn_ack(&answer);
                debug_assert!(self.emitter.as_bytes().len() == SYN_ACK_LEN, "a SYN_ACK has one length");
            }
            Reply::Reject(refusal) => self.emitter.reject(refusal),
            Reply::Reset { refusal, stateless } => self.emitter.reset(refusal, stateless),
            Reply::Farewell { remote, number, acked, fin } => {
                self.emitter.start_data(remote, number);
                if let Some((largest, run)) = acked {
                    self.emitter.ack(largest, run, 0, std::iter::empty());
                }
                if let Some(fin) = fin {
                    self.emitter.fin(fin);
                }
            }
        }
        self.counters.datagrams_sent += 1;
        let header_len = self.emitter.as_bytes().len();
        Transmit {
            from_port: way.from_port,
            to: way.to,
            flow: None,
            header_len,
            body: Body::Empty,
            body_len: 0,
        }
    }
}
