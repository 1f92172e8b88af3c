//! What comes from the other engines of the sidecar: datagrams that landed there, and parcels of bridged flows.

use super::Worker;
use super::rest;
use crate::bridge::Parcel;
use crate::driver::{Driver, RECEIVE_BURST};
use crate::host::Host;
use crate::neighbours::Neighbours;
use crate::proto::time::{Duration, Instant};
use crate::proto::{Datagram, Handling};
use std::io;
use std::net::SocketAddr;

/// No further parcel is taken in a cycle that delivered so many bytes of messages: what comes in else would wait long.
const PARCEL_BURST_BYTES: usize = 512 << 10;

impl<D: Driver> Worker<D> {
    /// Makes this engine one of several.
    pub fn join(&mut self, mut neighbours: Neighbours) -> io::Result<()> {
        rest::watch_neighbours(&self.epoll, &neighbours)?;
        self.inbox = neighbours.take_inbox();
        self.host.join(neighbours);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn meet_neighbours(&mut self, now: Instant) -> usize {
        let Some(neighbours) = &self.host.neighbours else { return 0 };
        let engines = neighbours.engines();
        neighbours.collect();
        let mut work = self.receive_handed_over(now);
        self.first_neighbour = (self.first_neighbour + 1) % engines;
        let mut bytes = 0;
        for offset in 0..engines {
            let from = (self.first_neighbour + offset) % engines;
            let mut taken = 0;
            while let Some(parcel) = self.host.neighbours.as_ref().and_then(|n| n.next_parcel(from, taken)) {
                taken += 1;
                match &parcel {
                    Parcel::Open { port, .. } => self.notice_accepts(now, *port),
                    Parcel::Message { message, .. } => bytes += message.len() as usize,
                    _ => {}
                }
                self.host.handle_parcel(u8::try_from(from).unwrap_or(u8::MAX), parcel);
                if bytes >= PARCEL_BURST_BYTES {
                    break;
                }
            }
            work += taken;
            if bytes >= PARCEL_BURST_BYTES {
                self.look_at_neighbours_again();
                break;
            }
        }
        self.host.ship_stalled();
        if let Some(neighbours) = &mut self.host.neighbours {
            neighbours.retry();
        }
        work
    }

    fn receive_handed_over(&mut self, now: Instant) -> usize {
        let Self { inbox: Some(inbox), endpoint, host, .. } = self else { return 0 };
        let taken = inbox.receive(|from, to_port, landed, bytes| {
            let datagram = Datagram { from, to_port, landed: Some(landed), waited: Duration::ZERO, bytes };
            let handling = endpoint.handle_datagram(now, &datagram, host);
            debug_assert!(handling == Handling::Done, "what was handed over is never handed over again");
            while let Some(event) = endpoint.poll_event() {
                host.on_event(event);
            }
        });
        if taken == RECEIVE_BURST {
            self.look_at_neighbours_again();
        }
        taken
    }

    fn look_at_neighbours_again(&self) {
        if let Some(neighbours) = &self.host.neighbours {
            neighbours.look_again();
        }
    }
}

impl Host {
    /// Whether something came from another engine, or can perhaps be sent to one now.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        match &self.neighbours {
            None => false,
            Some(neighbours) => neighbours.has_mail() || self.has_stalled() || neighbours.has_waiting(),
        }
    }

    /// A datagram of another engine landed here.
    #[cold]
    #[inline(never)]
    pub(super) fn hand_over(&mut self, engine: u8, from: SocketAddr, to_port: u16, bytes: &[u8]) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.hand_over(engine, from, to_port, bytes);
        }
    }

    /// The end of a cycle: the other engines learn what is there for them.
    #[inline]
    pub(super) fn tell_neighbours(&mut self) {
        self.tell_taken();
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.notify();
        }
    }
}
