//! One connection, from any thread.

use super::shared::{Interest, Shared};
use super::{Attachment, Wait, send, send_parts};
use crate::channel::{Core, End, FlowId, Room, Source, Wants};
use crate::error::{Error, Result, would_block};
use crate::message::{Message, TxLoan};
use crate::stats::FlowStats;
use std::net::SocketAddr;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::Duration;

/// One connection. It carries whole messages, in order, both ways. Dropped, it closes in order.
///
/// After the peer closed, the messages that came before are received first, then [`Error::Closed`]; after a reset likewise,
/// then [`Error::Reset`]. A send says that the sidecar has the message, not that the peer has.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    id: FlowId,
    peer: SocketAddr,
    local: SocketAddr,
    max_message: usize,
    /// False once the flow is the channel's.
    owned: bool,
}

impl Flow {
    pub(super) fn new(shared: &Arc<Shared>, id: FlowId) -> Result<Self> {
        let look = shared.with(|core| core.look(id))?;
        let (peer, local) = (look.peer, look.local);
        let max_message = look.max_message as usize;
        Ok(Self { shared: Arc::clone(shared), id, peer, local, max_message, owned: true })
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] without credit or room, [`Error::Closed`], [`Error::Reset`], [`Error::EmptyMessage`],
    /// [`Error::MessageTooLarge`], [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    #[inline]
    pub fn try_send(&self, message: &[u8]) -> Result<()> {
        self.shared.with(|core| send(core, self.id, message))
    }

    /// Sends one message made of parts, without waiting.
    ///
    /// # Errors
    /// As for [`Self::try_send`].
    pub fn try_send_parts(&self, parts: &[&[u8]]) -> Result<()> {
        self.shared.with(|core| send_parts(core, self.id, parts))
    }

    /// Sends; waits for credit and room.
    ///
    /// # Errors
    /// As for [`Self::try_send`], but never `WouldBlock`.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.send_with(message, None)
    }

    /// Sends; waits for credit and room, at most `timeout`.
    ///
    /// # Errors
    /// As for [`Self::send`], and [`Error::TimedOut`]: nothing was sent.
    pub fn send_timeout(&self, message: &[u8], timeout: Duration) -> Result<()> {
        self.send_with(message, timeout)
    }

    /// Sends; waits for credit and room as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::send`], [`Error::TimedOut`] and [`Error::Cancelled`]: then nothing was sent.
    pub fn send_with<'a>(&self, message: &[u8], wait: impl Into<Wait<'a>>) -> Result<()> {
        self.shared.wait(wait, Interest::Send(self.id, message.len()), |core| {
            let outcome = core.try_send(self.id, message);
            core.ring_after_send();
            would_block(outcome)
        })
    }

    /// Sends as many as there is credit and room for, with one doorbell; says how many.
    ///
    /// # Errors
    /// As for [`Self::try_send`] but `WouldBlock`, and only if nothing was sent.
    pub fn try_send_many(&self, messages: &[&[u8]]) -> Result<usize> {
        let mut sent = 0;
        let outcome = self.shared.with(|core| {
            let mut outcome = Ok(Some(()));
            while let (Some(message), Ok(Some(()))) = (messages.get(sent), &outcome) {
                if core.send_direct(self.id, message) {
                    sent += 1;
                    continue;
                }
                // One attempt for each: one that sends a part and waits for room for the rest would be neither found nor told.
                outcome =
                    core.attempt(Wants::Send(self.id), |core| would_block(core.try_send(self.id, message)));
                sent += usize::from(matches!(outcome, Ok(Some(()))));
            }
            core.ring_after_send();
            outcome
        });
        match outcome {
            Err(error) if sent == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// Sends all of them in order; waits for credit and room as long as `wait` says. The lock is taken once and the engine woken
    /// once for as many as there is room for. Says how many were sent: fewer than all if the wait, or the flow, came to its end
    /// behind them.
    ///
    /// # Errors
    /// As for [`Self::send_with`], and only if nothing was sent.
    pub fn send_many<'a>(&self, messages: &[&[u8]], wait: impl Into<Wait<'a>>) -> Result<usize> {
        let largest = messages.iter().map(|message| message.len()).max().unwrap_or(0);
        let mut sent = 0;
        let outcome = self.shared.wait(wait, Interest::Send(self.id, largest), |core| {
            let before = sent;
            let mut outcome = Ok(Some(()));
            while let Some(message) = messages.get(sent) {
                outcome = would_block(core.try_send(self.id, message));
                if !matches!(outcome, Ok(Some(()))) {
                    break;
                }
                sent += 1;
            }
            if sent > before {
                core.ring_after_send();
            }
            outcome
        });
        match outcome {
            Err(error) if sent == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// The next message, if one is there.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Reset`], [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Message>> {
        self.shared.with(|core| match core.recv_direct(self.id) {
            Some(message) => Ok(Some(message)),
            None => core.attempt(Wants::Receive(self.id), |core| core.try_recv(self.id)),
        })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// As for [`Self::try_recv`].
    pub fn recv(&self) -> Result<Message> {
        self.recv_with(None)
    }

    /// Waits for the next message, at most `timeout`.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], and [`Error::TimedOut`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message> {
        self.recv_with(timeout)
    }

    /// Waits for the next message as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], [`Error::TimedOut`] and [`Error::Cancelled`].
    pub fn recv_with<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Message> {
        self.shared.wait(wait, self.receive(), |core| core.try_recv(self.id))
    }

    fn receive(&self) -> Interest {
        Interest::Receive(Source::Flow(self.id))
    }

    /// Copies the next message into `buffer` without waiting; says its length in bytes, or nothing.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], and [`Error::BufferTooSmall`]: the message stays.
    #[inline]
    pub fn try_recv_into(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.shared.with(|core| match core.recv_into_direct(self.id, buffer) {
            Some(length) => Ok(Some(length)),
            None => core.attempt(Wants::Receive(self.id), |core| core.try_recv_into(self.id, buffer)),
        })
    }

    /// Copies the next message into `buffer`; says its length in bytes.
    ///
    /// # Errors
    /// As for [`Self::try_recv_into`], [`Error::TimedOut`] and [`Error::Cancelled`].
    pub fn recv_into<'a>(&self, buffer: &mut [u8], wait: impl Into<Wait<'a>>) -> Result<usize> {
        self.shared.wait(wait, self.receive(), |core| core.try_recv_into(self.id, buffer))
    }

    /// Appends the messages that are there, at most `most`, to `out`; says how many.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], only if there is no message.
    pub fn try_recv_many(&self, out: &mut Vec<Message>, most: usize) -> Result<usize> {
        if most == 0 {
            return Ok(0);
        }
        let take = |core: &mut Core| self.take_many(core, out, most);
        Ok(self.shared.attempt(Wants::Receive(self.id), take)?.unwrap_or(0))
    }

    /// Waits for a message as long as `wait` says and appends it and those behind it that are there, at most `most`, to `out`;
    /// says how many. The lock is taken once for all of them.
    ///
    /// # Errors
    /// As for [`Self::recv_with`], only if there is no message.
    pub fn recv_many<'a>(
        &self,
        out: &mut Vec<Message>,
        most: usize,
        wait: impl Into<Wait<'a>>,
    ) -> Result<usize> {
        if most == 0 {
            return Ok(0);
        }
        self.shared.wait(wait, self.receive(), |core| self.take_many(core, out, most))
    }

    fn take_many(&self, core: &mut Core, out: &mut Vec<Message>, most: usize) -> Result<Option<usize>> {
        let Some(first) = core.try_recv(self.id)? else { return Ok(None) };
        out.push(first);
        let mut count = 1;
        while count < most {
            // An error comes again at the next call, when nothing is queued before it.
            let Ok(Some(message)) = core.try_recv(self.id) else { break };
            out.push(message);
            count += 1;
        }
        Ok(Some(count))
    }

    /// Lends room of `len` bytes to write a message in place; its credit is reserved.
    ///
    /// # Errors
    /// As for [`Self::try_send`].
    pub fn lend(&self, len: usize) -> Result<TxLoan> {
        let room = self.shared.attempt(Wants::Send(self.id), |core| would_block(core.lend(self.id, len)))?;
        Ok(self.loan(room.ok_or(Error::WouldBlock)?))
    }

    /// As [`Self::lend`]; waits for credit and room as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::send_with`].
    pub fn lend_with<'a>(&self, len: usize, wait: impl Into<Wait<'a>>) -> Result<TxLoan> {
        let interest = Interest::Send(self.id, len);
        let room = self.shared.wait(wait, interest, |core| would_block(core.lend(self.id, len)))?;
        Ok(self.loan(room))
    }

    fn loan(&self, room: Room) -> TxLoan {
        TxLoan::new(Lent { shared: Arc::clone(&self.shared), id: self.id }, room)
    }

    /// What [`Attachment::take_news`] calls the flow from now on; 0 until it is set. Try the flow once behind it: what came before
    /// may have been told without it.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Forked`].
    pub fn set_token(&self, token: u64) -> Result<()> {
        self.shared.with(|core| core.set_flow_token(self.id, token))
    }

    /// Waits until a receive would be answered, with a message or an error. Another thread may take it first.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`], [`Error::Forked`].
    pub fn wait_to_recv<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        let source = Source::Flow(self.id);
        self.shared.wait(wait, self.receive(), |core| Ok(core.can_recv(source).then_some(())))
    }

    /// From now on nobody waits in [`Self::wait_to_recv`], and those who do are called.
    pub(crate) fn end_waits_to_recv(&self) -> Result<()> {
        self.shared.with(|core| {
            core.end_waits_to_recv(self.id);
            Ok(())
        })
    }

    /// Waits until a send of `len` bytes would be answered, with success or an error. Another thread may take the room first.
    ///
    /// # Errors
    /// As for [`Self::wait_to_recv`].
    pub fn wait_to_send<'a>(&self, len: usize, wait: impl Into<Wait<'a>>) -> Result<()> {
        let interest = Interest::Send(self.id, len);
        self.shared.wait(wait, interest, |core| Ok(core.can_send(self.id, len, 0).then_some(())))
    }

    /// Whether the peer closed in order, so that nothing more comes behind what is queued.
    pub fn is_closed_by_peer(&self) -> bool {
        let looked = self.shared.with(|core| core.look(self.id));
        looked.is_ok_and(|look| look.end == Some(End::Closed))
    }

    /// What a task waits with.
    #[cfg(feature = "tokio")]
    pub(crate) fn registration(&self) -> super::Registration {
        super::Registration::new(&self.shared)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_recv(
        &self,
        task: &mut super::Registration,
        context: &mut Context<'_>,
    ) -> Poll<Result<Message>> {
        task.poll(context, self.receive(), |core| core.try_recv(self.id))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_send(
        &self,
        task: &mut super::Registration,
        context: &mut Context<'_>,
        parts: &[&[u8]],
    ) -> Poll<Result<()>> {
        let length = parts.iter().map(|part| part.len()).sum();
        task.poll(context, Interest::Send(self.id, length), |core| {
            let outcome = core.try_send_parts(self.id, parts);
            core.ring_after_send();
            would_block(outcome)
        })
    }

    /// Readiness to receive or, with a length, to send so much.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_ready(
        &self,
        task: &mut super::Registration,
        context: &mut Context<'_>,
        send: Option<usize>,
    ) -> Poll<Result<()>> {
        let interest = send.map_or(self.receive(), |length| Interest::Send(self.id, length));
        task.poll(context, interest, |core| Ok(interest.is_met(core).then_some(())))
    }

    /// The peer: of a connected flow the listener it reached, of an accepted one where it came from.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Largest message in bytes that can be sent.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// Messages sent that the peer's engine has not acknowledged; after the flow's end those that it never did.
    pub fn unacknowledged(&self) -> u32 {
        let looked = self.shared.with(|core| {
            core.poll();
            core.look(self.id)
        });
        looked.map_or(0, |look| look.unacknowledged)
    }

    /// What the sidecar knows of the flow: round-trip time, messages, bytes, repeats. A rare call: the sidecar is asked over
    /// its socket, which takes tens of microseconds.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Version`] from a sidecar that is too old to know, [`Error::TimedOut`] after 5 s,
    /// [`Error::Closed`] after the channel was closed, [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn stats(&self) -> Result<FlowStats> {
        self.shared.flow_stats(self.id)
    }

    /// The flow's number on its channel, stable for its life.
    pub fn handle(&self) -> u32 {
        self.id.handle()
    }

    /// The channel it belongs to.
    pub fn attachment(&self) -> Attachment {
        Attachment { shared: Arc::clone(&self.shared) }
    }

    /// Puts the flow into channel mode: its messages come out of [`Attachment::recv_any`], those already queued first, and
    /// it is named by its id, until it ends.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn into_channel_mode(mut self) -> Result<FlowId> {
        self.shared.with(|core| {
            core.enter_channel_mode(self.id.handle);
            Ok(())
        })?;
        self.owned = false;
        Ok(self.id)
    }

    /// Closes in order, for handles that are shared: what was sent is delivered first; other calls on the flow answer
    /// `Closed` from now on, and what was received and not taken is dropped.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn shutdown(&self) -> Result<()> {
        self.shared.with(|core| {
            core.check_over()?;
            core.close_flow(self.id)
        })
    }

    /// As [`Self::shutdown`], and waits until the peer's engine has everything.
    ///
    /// # Errors
    /// As for [`Self::shutdown`]; [`Error::Reset`] with the number of messages that it never acknowledged;
    /// [`Error::Closed`] if the peer closed before it had everything; [`Error::TimedOut`]: the close goes on.
    pub fn shutdown_wait(&self, timeout: Duration) -> Result<()> {
        self.shutdown_with(Some(timeout))
    }

    /// As [`Self::shutdown_wait`], until the time has passed or the canceller has.
    ///
    /// # Errors
    /// As for [`Self::shutdown_wait`]; [`Error::Cancelled`]: the close goes on.
    pub fn shutdown_with<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        self.shutdown()?;
        self.shared.wait(wait, Interest::End(self.id), |core| {
            core.poll();
            let look = core.look(self.id)?;
            let unacknowledged = look.unacknowledged;
            match look.end {
                None => core.check_over().map(|()| None),
                Some(End::Finished) => Ok(Some(())),
                Some(End::Closed) if unacknowledged == 0 => Ok(Some(())),
                Some(End::Closed) => Err(Error::Closed),
                Some(End::Reset(reason)) => Err(Error::Reset { reason, unacknowledged }),
            }
        })
    }

    /// Closes in order and returns at once.
    ///
    /// # Errors
    /// As for [`Self::shutdown`].
    pub fn close(self) -> Result<()> {
        self.shutdown()
    }

    /// Closes in order and waits until the peer's engine has everything.
    ///
    /// # Errors
    /// As for [`Self::shutdown_wait`].
    pub fn close_wait(self, timeout: Duration) -> Result<()> {
        self.shutdown_wait(timeout)
    }

    /// Ends the flow at once, for handles that are shared; what was not acknowledged may be lost.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn reset(&self) -> Result<()> {
        self.shared.with(|core| {
            core.check_over()?;
            core.abort(self.id)
        })
    }

    /// Ends the flow at once; what was not acknowledged may be lost.
    pub fn abort(self) {
        let _ = self.reset(); // A channel that is gone took the flow with it.
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.owned {
            // In a forked child it is the parent's.
            let _ = self.shared.with(|core| {
                core.disown(self.id);
                Ok(())
            });
        }
    }
}

/// Where a loan came from.
#[derive(Debug)]
pub(crate) struct Lent {
    shared: Arc<Shared>,
    id: FlowId,
}

impl Lent {
    /// Sends what was lent; waits for a slot, and for buffers if the room was private memory.
    pub(crate) fn send(&self, room: &mut Option<Room>) -> Result<()> {
        let length = match room {
            Some(Room::Private(bytes)) => bytes.len(),
            Some(Room::Lease(..) | Room::Small(..)) | None => 0,
        };
        let id = self.id;
        let interest = if length == 0 { Interest::Slot } else { Interest::Room(id, length) };
        self.shared.wait(None, interest, |core| would_block(core.try_send_room(id, room)))
    }

    /// As [`Self::send`], without waiting.
    pub(crate) fn try_send(&self, room: &mut Option<Room>) -> Result<()> {
        let id = self.id;
        let sent = self.shared.attempt(Wants::Send(id), |core| would_block(core.try_send_room(id, room)))?;
        sent.ok_or(Error::WouldBlock)
    }

    /// Takes back what was not sent.
    pub(crate) fn give_back(&self, room: Room) {
        // In a forked child it is the parent's.
        let _ = self.shared.with(|core| {
            core.return_room(self.id, room);
            Ok(())
        });
    }
}
