//! One connection of the control socket: its state, and records that wait to be taken.

use super::attach::PendingAttach;
use crate::proto::time::Instant;
use machnet_client::control::Reply;
use machnet_client::socket::Seqpacket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

/// Most records that wait for an application to take them: a status of 60 MiB.
const MAX_WAITING_RECORDS: usize = 1024;

/// What a connection is about.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing yet, or only status requests.
    Fresh {
        /// It is dropped if nothing has come by then.
        deadline: Instant,
    },
    /// Welcome was said.
    Mapping {
        /// It is dropped if the application has not mapped by then.
        deadline: Instant,
        /// The channel to be.
        pending: Box<PendingAttach>,
    },
    /// A channel's.
    Attached {
        /// Its number.
        channel: u64,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Seqpacket,
    /// Tells it from an earlier one at the same place.
    pub(super) generation: u32,
    pub(super) state: State,
    /// Readable when the process has died. Watched with the socket, because a forked child may keep that open.
    pub(super) process: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
    pub(super) watches_writable: bool,
}

impl Connection {
    pub(super) fn new(socket: Seqpacket, process: OwnedFd, generation: u32, deadline: Instant) -> Self {
        let state = State::Fresh { deadline };
        Self { socket, generation, state, process, waiting: VecDeque::new(), watches_writable: false }
    }

    /// When it is to be dropped if nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Fresh { deadline } | State::Mapping { deadline, .. } => Some(deadline),
            State::Attached { .. } => None,
        }
    }

    /// Sends a record, or keeps it until the application takes more.
    pub(super) fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING_RECORDS {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the application takes no answers"));
        }
        self.waiting.push_back(reply.encode());
        self.flush()
    }

    /// Sends what waits, as far as it is taken.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(record) = self.waiting.front() {
            match self.socket.send(record, &[]) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether records wait.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}
