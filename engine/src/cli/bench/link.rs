//! One connection of the measuring client, whatever carries it.

use super::content::Content;
use crate::cli::{Exit, Failure, Outcome};
use machnet_client::{Error, Flow};
use std::time::Duration;

/// An answer: the visible number of the message that it answers, or nothing if it is not what was sent.
pub(crate) type Answer = Option<u64>;

/// One connection. Both calls leave it usable when they find nothing to do.
pub(crate) trait Link: Send {
    /// Hands over message `number` without waiting. `false`: not, or not all of it; call again with the same number.
    fn try_send(&mut self, number: u64) -> Outcome<bool>;

    /// The next answer; waits for it at most `patience`. Nothing: none came.
    fn receive(&mut self, patience: Duration) -> Outcome<Option<Answer>>;

    /// Another answer that is here already, if looking for it costs no system call.
    fn receive_more(&mut self) -> Outcome<Option<Answer>>;

    /// As much of a number as the messages carry.
    fn visible(&self, number: u64) -> u64;

    /// Whether a message may be lost for good.
    fn loses(&self) -> bool {
        false
    }
}

/// A flow of the sidecar.
#[derive(Debug)]
pub(crate) struct MachnetLink {
    flow: Flow,
    content: Content,
    /// The number that `content` shows.
    stamped: Option<u64>,
}

impl MachnetLink {
    /// Messages of `size` bytes over `flow`.
    pub(crate) fn new(flow: Flow, size: usize) -> Outcome<Self> {
        if size > flow.max_message() {
            let limit = flow.max_message();
            return Err(Failure::from(Error::MessageTooLarge { len: size, limit }));
        }
        Ok(Self { flow, content: Content::new(size), stamped: None })
    }
}

impl Link for MachnetLink {
    fn try_send(&mut self, number: u64) -> Outcome<bool> {
        if self.stamped != Some(number) {
            self.content.stamp(number);
            self.stamped = Some(number);
        }
        match self.flow.try_send(self.content.bytes()) {
            Ok(()) => Ok(true),
            Err(Error::WouldBlock) => Ok(false),
            Err(error) => Err(ended(error)),
        }
    }

    fn receive(&mut self, patience: Duration) -> Outcome<Option<Answer>> {
        if patience.is_zero() {
            return self.receive_more();
        }
        match self.flow.recv_timeout(patience) {
            Ok(message) => Ok(Some(self.content.check(&message))),
            Err(Error::TimedOut) => Ok(None),
            Err(error) => Err(ended(error)),
        }
    }

    fn receive_more(&mut self) -> Outcome<Option<Answer>> {
        match self.flow.try_recv() {
            Ok(message) => Ok(message.map(|message| self.content.check(&message))),
            Err(error) => Err(ended(error)),
        }
    }

    fn visible(&self, number: u64) -> u64 {
        self.content.visible(number)
    }
}

/// A server that goes away in the middle is the peer's doing.
fn ended(error: Error) -> Failure {
    match error {
        Error::Closed => Failure::new(Exit::Peer, "the server closed the connection"),
        Error::Reset { .. } => Failure::new(Exit::Peer, format!("lost the server: {error}")),
        other => Failure::from(other),
    }
}
