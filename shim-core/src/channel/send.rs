//! What goes to the engine: messages, connects, closes.

use super::flows::FlowState;
use super::news::Told;
use super::{Connecting, Core, FlowId};
use crate::error::{Error, Result};
use crate::shm::atomic::Ordering;
use crate::shm::layout::{ConnectRequest, INLINE_BYTES, send_kind};
use crate::shm::ledger::{Extents, may_take};
use crate::shm::region::{LeaseMut, write_words};
use crate::shm::ring::SlotHead;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Room for a message to be written in place: private memory for what fits a slot or found no single run of buffers.
#[derive(Debug)]
pub(crate) enum Room {
    /// One run of TX buffers.
    Lease(LeaseMut, Extents),
    /// Bytes that are copied into a slot when sent, and how many of them there are.
    Small([u8; INLINE_BYTES], usize),
    /// Bytes that are copied into buffers when sent.
    Private(Vec<u8>),
}

impl Room {
    /// The bytes of the message so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Lease(lease, _) => lease,
            Self::Small(bytes, length) => &bytes[..*length],
            Self::Private(bytes) => bytes,
        }
    }

    /// The same, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Lease(lease, _) => lease,
            Self::Small(bytes, length) => &mut bytes[..*length],
            Self::Private(bytes) => bytes,
        }
    }
}

impl Core {
    /// Publishes a message; `WouldBlock` without credit or room. Does not ring: call [`Self::ring_after_send`].
    pub(crate) fn try_send(&mut self, id: FlowId, message: &[u8]) -> Result<()> {
        if self.send_direct(id, message) { Ok(()) } else { self.try_send_parts(id, &[message]) }
    }

    /// The short way, which most messages go: they fit a slot, and the flow, its credit and the ring have room as far as is
    /// known without asking. Says false in any other case.
    #[inline(always)]
    pub(crate) fn send_direct(&mut self, id: FlowId, message: &[u8]) -> bool {
        let Some(flow) = self.flows.find(id.handle) else { return false };
        let length = message.len();
        let fits = length.wrapping_sub(1) < INLINE_BYTES && length <= flow.max_message as usize;
        let credit = flow.outstanding() + flow.reserved < flow.credit;
        if !fits || !credit || !flow.sendable || self.over.is_some() || self.send_ring.known_free() == 0 {
            return false;
        }
        flow.sent = flow.sent.wrapping_add(1);
        if flow.sending.is_waited_for() {
            self.news.satisfy(&mut flow.sending);
        }
        self.publish_inline(id, message);
        true
    }

    /// As [`Self::try_send`], of a message in parts.
    pub(crate) fn try_send_parts(&mut self, id: FlowId, parts: &[&[u8]]) -> Result<()> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if length <= INLINE_BYTES {
            self.may_publish(id, length, 0)?;
            let mut whole = [0; INLINE_BYTES];
            let mut at = 0;
            for part in parts {
                whole[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            self.publish_inline(id, &whole[..length]);
            let flow = self.flows.named(id)?;
            flow.sent = flow.sent.wrapping_add(1);
            return Ok(());
        }
        self.may_publish(id, length, 0)?;
        let length = u32::try_from(length).unwrap_or(u32::MAX); // `may_publish` bounded it.
        let extents = self.allocate(id, length)?;
        let (pool, buffer_bytes) = (self.geometry.tx_offset(), self.geometry.buffer_bytes);
        let mut offset = 0;
        for part in parts {
            let part_length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            extents.pieces(pool, buffer_bytes, offset, part_length, |at, message_offset, piece_length| {
                let from = (message_offset - offset) as usize;
                self.ours.write_bytes(at, &part[from..from + piece_length as usize]);
            });
            offset += part_length;
        }
        self.publish_buffers(id, length, extents);
        Ok(())
    }

    /// Wakes the engine if it sleeps. After a batch of sends.
    #[inline]
    pub(crate) fn ring_after_send(&mut self) {
        self.notify();
    }

    /// Checks everything that a message of `length` bytes needs but buffers: a flow that takes it, credit (of which the
    /// caller has `reserved`), a slot.
    #[inline]
    fn may_publish(&mut self, id: FlowId, length: usize, reserved: u32) -> Result<()> {
        self.check_over()?;
        let flow = self.flows.named(id)?;
        if !flow.sendable || length == 0 || length > flow.max_message as usize {
            return Err(why_not(flow, length));
        }
        if flow.outstanding() + flow.reserved - reserved >= flow.credit {
            self.wait_for_credit(id, reserved)?;
        }
        match self.send_ring.free(&*self.theirs, 1) {
            Ok(0) => Err(self.why_to_wait(id)),
            Ok(_) => Ok(()),
            Err(fault) => {
                self.broken(fault);
                Err(fault.into())
            }
        }
    }

    #[cold]
    fn wait_for_credit(&mut self, id: FlowId, reserved: u32) -> Result<()> {
        self.poll_send_done();
        self.check_over()?;
        let flow = self.flows.named(id)?;
        if flow.outstanding() + flow.reserved - reserved >= flow.credit {
            Err(self.why_to_wait(id))
        } else {
            Ok(())
        }
    }

    /// What to answer a send that cannot be taken now: nothing comes to help it if the flow or the sidecar has ended, and
    /// a program that only sends learns that nowhere else.
    #[cold]
    fn why_to_wait(&mut self, id: FlowId) -> Error {
        self.poll();
        match (self.check_over(), self.flows.look(id.handle)) {
            (Err(error), _) => error,
            (Ok(()), None) => Error::Closed, // It was there when the call began.
            (Ok(()), Some(flow)) if flow.sendable => Error::WouldBlock,
            (Ok(()), Some(flow)) => why_not(flow, 1),
        }
    }

    #[inline(always)]
    fn publish_inline(&mut self, id: FlowId, message: &[u8]) {
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_BYTES")]
        let length = message.len() as u16;
        let slot = self.send_ring.open(&*self.ours);
        slot[1].store(u64::from(id.handle) | u64::from(length) << 32, Ordering::Relaxed);
        write_words(slot, 2, message);
        self.send_ring.seal(slot, SlotHead { kind: send_kind::INLINE, count: 0, length });
    }

    fn publish_buffers(&mut self, id: FlowId, length: u32, extents: Extents) {
        let runs = extents.as_slice();
        let count = u8::try_from(runs.len()).unwrap_or(u8::MAX);
        let head = SlotHead { kind: send_kind::BUFFERS, count, length: 0 };
        self.send_ring.publish(&*self.ours, head, |words| {
            words[1].store(u64::from(id.handle) | u64::from(length) << 32, Ordering::Relaxed);
            for (word, pair) in words[2..].iter().zip(runs.chunks(2)) {
                let high = pair.get(1).map_or(0, |run| u64::from(run.to_raw()));
                word.store(u64::from(pair[0].to_raw()) | high << 32, Ordering::Relaxed);
            }
        });
        if let Some(flow) = self.flows.find(id.handle) {
            flow.sent = flow.sent.wrapping_add(1);
            flow.under_way.push_back((flow.sent, extents));
        }
    }

    pub(super) fn publish_plain(&mut self, kind: u8, handle: u32) {
        let head = SlotHead { kind, count: 0, length: 0 };
        self.send_ring.publish(&*self.ours, head, |words| {
            words[1].store(u64::from(handle), Ordering::Relaxed);
        });
    }

    /// Takes TX buffers for a message of the flow, as far as one flow may.
    fn allocate(&mut self, id: FlowId, length: u32) -> Result<Extents> {
        let wanted = self.geometry.buffers_for(length);
        for attempt in 0..2 {
            let flow = self.flows.named(id)?;
            if may_take(flow.held, wanted, self.tx.free())
                && let Some(extents) = self.tx.allocate(wanted)
            {
                flow.held += wanted;
                return Ok(extents);
            }
            if attempt == 0 && !self.poll_send_done() {
                break;
            }
            self.check_over()?;
        }
        Err(self.why_to_wait(id))
    }

    /// Whether a send of `length` bytes would be answered now, with success or an error.
    /// `reserved` credit is the caller's already.
    pub(crate) fn can_send(&mut self, id: FlowId, length: usize, reserved: u32) -> bool {
        if self.over.is_some() {
            return true;
        }
        let Some(flow) = self.flows.look(id.handle) else { return true };
        if !flow.sendable {
            return true;
        }
        let wanted = match u32::try_from(length) {
            Ok(length) if length as usize > INLINE_BYTES => self.geometry.buffers_for(length),
            _ => 0,
        };
        let room = wanted == 0 || may_take(flow.held, wanted, self.tx.free());
        let credit = flow.outstanding() + flow.reserved - reserved < flow.credit;
        credit && room && self.has_slot()
    }

    /// Whether the send ring has a slot, or the channel an error.
    pub(crate) fn has_slot(&mut self) -> bool {
        self.over.is_some() || self.send_ring.free(&*self.theirs, 1) != Ok(0)
    }

    /// Whether the flow has ended, or nothing more will tell.
    pub(crate) fn has_ended(&self, id: FlowId) -> bool {
        self.over.is_some() || self.flows.look(id.handle).is_none_or(|flow| flow.end.is_some())
    }

    /// Lends room for a message of `length` bytes and reserves its credit.
    pub(crate) fn lend(&mut self, id: FlowId, length: usize) -> Result<Room> {
        self.may_publish(id, length, 0)?;
        let room = if length <= INLINE_BYTES {
            Room::Small([0; INLINE_BYTES], length)
        } else {
            self.lend_buffers(id, length)?
        };
        let flow = self.flows.named(id)?;
        flow.reserved += 1;
        Ok(room)
    }

    fn lend_buffers(&mut self, id: FlowId, length: usize) -> Result<Room> {
        let extents = self.allocate(id, u32::try_from(length).unwrap_or(u32::MAX))?;
        if let [run] = extents.as_slice() {
            let start = run.first().index() * self.geometry.buffer_bytes as usize;
            return Ok(Room::Lease(self.ours.lease_mut(self.geometry.tx_offset() + start, length), extents));
        }
        self.release_buffers(id, &extents);
        Ok(Room::Private(vec![0; length]))
    }

    fn release_buffers(&mut self, id: FlowId, extents: &Extents) {
        self.tx.release(extents);
        if let Some(flow) = self.flows.find(id.handle) {
            flow.held -= extents.buffers();
        }
    }

    /// Takes back a loan that was not sent.
    pub(crate) fn return_room(&mut self, id: FlowId, room: Room) {
        if let Some(flow) = self.flows.find(id.handle) {
            flow.reserved -= 1;
        }
        if let Room::Lease(_, extents) = room {
            self.release_buffers(id, &extents);
        }
        self.note_room();
        self.changed = true;
    }

    /// Publishes a loan. On `WouldBlock`, when the ring is full or private bytes find no buffers, it stays lent.
    pub(crate) fn try_send_room(&mut self, id: FlowId, room: &mut Option<Room>) -> Result<()> {
        let Some(lent) = room else { return Err(Error::invalid("the loan was sent already")) };
        let length = lent.bytes().len();
        self.may_publish(id, length, 1)?;
        self.flows.named(id)?.reserved -= 1;
        if !matches!(lent, Room::Lease(..)) {
            let sent = self.try_send_parts(id, &[lent.bytes()]);
            if sent.is_err() {
                if let Some(flow) = self.flows.find(id.handle) {
                    flow.reserved += 1;
                }
                return sent;
            }
        }
        if let Some(Room::Lease(lease, extents)) = room.take() {
            drop(lease);
            self.publish_buffers(id, u32::try_from(length).unwrap_or(u32::MAX), extents);
        }
        self.notify();
        Ok(())
    }

    /// Asks for a connection and says the request's number; `WouldBlock` if the ring is full.
    pub(crate) fn start_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<u32> {
        self.check_over()?;
        if remote.port() == 0 || remote.ip().is_unspecified() {
            return Err(Error::invalid("connect needs the address and port of a listener"));
        }
        match self.send_ring.free(&*self.theirs, 1) {
            Ok(0) => return Err(Error::WouldBlock),
            Ok(_) => {}
            Err(fault) => {
                self.broken(fault);
                return Err(fault.into());
            }
        }
        let local = local.filter(|ip| !ip.is_unspecified());
        // Zero milliseconds mean the sidecar's default.
        let timeout_ms =
            timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1));
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let words = ConnectRequest { remote, local, timeout_ms }.to_words();
        let head = SlotHead { kind: send_kind::CONNECT, count: 0, length: 0 };
        self.send_ring.publish(&*self.ours, head, |slot| {
            slot[1].store(u64::from(request) << 32, Ordering::Relaxed);
            for (place, word) in slot[2..].iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
        });
        let local = SocketAddr::new(local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0);
        let connecting =
            Connecting { remote, local, abandoned: false, outcome: None, told: Told::default(), token: 0 };
        self.connects.insert(request, connecting);
        self.notify();
        Ok(request)
    }

    /// The outcome of a connect, once.
    pub(crate) fn try_finish_connect(&mut self, request: u32) -> Result<Option<FlowId>> {
        if self.connects.get(&request).is_some_and(|connect| connect.outcome.is_none()) {
            self.poll();
        }
        let Some(connect) = self.connects.get(&request) else { return Err(Error::UnknownFlow) };
        let Some(outcome) = connect.outcome else { return self.check_over().map(|()| None) };
        let (remote, local) = (connect.remote, connect.local);
        self.remove_connect(request);
        match outcome {
            Ok(handle) => Ok(Some(FlowId { handle })),
            Err(code) => Err(Error::of_connect(remote, local, self.udp_port, code)),
        }
    }

    /// Whether the outcome is there.
    pub(crate) fn can_finish_connect(&self, request: u32) -> bool {
        self.over.is_some() || self.connects.get(&request).is_none_or(|connect| connect.outcome.is_some())
    }

    pub(super) fn remove_connect(&mut self, request: u32) {
        if let Some(mut connect) = self.connects.remove(&request) {
            self.news.remove(&mut connect.told);
            self.forget_gone();
        }
    }

    /// Nobody waits for the connect any more: its flow is closed as soon as it is there.
    pub(crate) fn abandon_connect(&mut self, request: u32) {
        let Some(connect) = self.connects.get_mut(&request) else { return };
        connect.abandoned = true;
        self.news.satisfy(&mut connect.told);
        match connect.outcome {
            None => {}
            Some(Err(_)) => self.remove_connect(request),
            Some(Ok(handle)) => {
                self.remove_connect(request);
                self.disown(FlowId { handle });
                self.notify();
            }
        }
    }

    /// Closes in order, behind the flow's last message.
    pub(crate) fn close_flow(&mut self, id: FlowId) -> Result<()> {
        self.end_flow(id, send_kind::CLOSE)
    }

    /// Ends the flow at once.
    pub(crate) fn abort(&mut self, id: FlowId) -> Result<()> {
        self.end_flow(id, send_kind::RESET)
    }

    fn end_flow(&mut self, id: FlowId, kind: u8) -> Result<()> {
        let flow = self.flows.named(id)?;
        let first = !flow.closing;
        flow.closing = true;
        flow.sendable = false;
        flow.direct = false;
        let (ended, channel_mode) = (flow.end.is_some(), flow.channel_mode);
        self.discard(id);
        if ended && channel_mode {
            self.release(id.handle); // Nobody holds a handle that could do it later.
        }
        if !ended && self.over.is_none() && (first || kind == send_kind::RESET) {
            self.unsent_ends.push_back((kind, id.handle));
            self.flush_ends();
        }
        self.changed = true;
        self.notify();
        Ok(())
    }

    /// The flow's handle is gone: it is closed if nobody did, and released once it ended.
    pub(crate) fn disown(&mut self, id: FlowId) {
        let Some(flow) = self.flows.find(id.handle) else { return };
        flow.owned = false;
        if !flow.closing {
            let _ = self.close_flow(id); // It is there: it was just found.
        }
        if self.flows.look(id.handle).is_some_and(|flow| flow.end.is_some()) {
            self.release(id.handle);
            self.notify();
        }
    }

    /// Closes every flow.
    pub(crate) fn close_all(&mut self) {
        for handle in self.flows.handles() {
            let _ = self.close_flow(FlowId { handle }); // It is there: it was just listed.
        }
        self.flush();
    }

    /// Whether every flow has ended, or nothing more will.
    pub(crate) fn all_ended(&self) -> bool {
        self.over.is_some() || self.flows.all_ended()
    }
}

#[cold]
fn why_not(flow: &FlowState, length: usize) -> Error {
    if !flow.sendable {
        flow.why_over()
    } else if length == 0 {
        Error::EmptyMessage
    } else {
        Error::MessageTooLarge { len: length, limit: flow.max_message as usize }
    }
}
