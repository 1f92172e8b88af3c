//! Messages between two engines without channels: the protocol over a driver, as an engine's duty cycle has them.

use super::{BURST, Link, MAX_WINDOW, message, number_of};
use crate::{MESSAGE_BYTES, cpu};
use machnet_engine::clock::Clock;
use machnet_engine::driver::{Arrival, Driver};
use machnet_engine::proto::time::{Duration, Instant};
use machnet_engine::proto::{
    Body, Config, Datagram, Endpoint, Event, FlowId, Handling, Limits, Listening, Payload, Reason, RxHandle,
    TxHandle,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// The Machnet port of the one who answers.
const PORT: u16 = 7;
/// As a channel of the default size has them.
const LIMITS: Limits = Limits { max_message: 8 << 20, window_messages: 1_024, window_bytes: 16 << 20 };
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// So long the other end may take to be there.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Messages that may be unacknowledged: those under way, there and back.
const PLACES: usize = 4 * MAX_WINDOW;
/// Bytes of a message, as the core counts them.
const LENGTH: u32 = 64;
const _: () = assert!(LENGTH as usize == MESSAGE_BYTES);

/// What the core tells of messages that came.
#[derive(Debug, Default)]
struct Desk {
    flow: Option<FlowId>,
    came: Vec<u64>,
    is_gone: bool,
}

impl Payload for Desk {
    fn listening(&mut self, port: u16) -> Listening {
        if port == PORT { Listening::Open(LIMITS) } else { Listening::Nobody }
    }
    fn accept(&mut self, flow: FlowId, _: u16, _: SocketAddr, _: Limits) -> Result<(), Reason> {
        self.flow = Some(flow);
        Ok(())
    }
    fn reserve(&mut self, _: FlowId, _: u32, _: bool) -> Option<RxHandle> {
        None // Every message fits a datagram; one that came too early is repeated.
    }
    fn keep(&mut self, _: FlowId, _: RxHandle, _: u32, _: &[u8]) {}
    fn deliver(&mut self, _: FlowId, _: RxHandle) -> bool {
        false
    }
    #[inline]
    fn deliver_whole(&mut self, _: FlowId, bytes: &[u8]) -> bool {
        let private: Option<[u8; MESSAGE_BYTES]> = bytes.try_into().ok();
        let Some(private) = private else { return false };
        self.came.extend(number_of(&private));
        true
    }
    fn discard(&mut self, _: FlowId, _: RxHandle) {}
    fn acknowledged(&mut self, _: FlowId, _: TxHandle) {}
}

/// An engine's core and driver as a link to another one.
#[derive(Debug)]
pub struct Messages<D> {
    driver: D,
    endpoint: Endpoint,
    clock: Clock,
    desk: Desk,
    /// The bytes of messages that may have to be repeated.
    sent: Vec<[u8; MESSAGE_BYTES]>,
    next: usize,
}

impl<D: Driver> Messages<D> {
    /// The end that answers whoever connects.
    pub fn answering(driver: D) -> Self {
        let config = Config {
            ports: driver.ports(),
            receive_ports: driver.receive_ports(),
            max_datagram: u32::try_from(driver.max_datagram()).unwrap_or(u32::MAX),
            ..Config::default()
        };
        let seed = [u64::from(std::process::id()), 7];
        Self {
            endpoint: Endpoint::new(config, seed),
            driver,
            clock: Clock::start(),
            desk: Desk::default(),
            sent: vec![[0; MESSAGE_BYTES]; PLACES],
            next: 0,
        }
    }

    /// The end that connects to the other one at `to`.
    pub fn connecting(driver: D, to: SocketAddr) -> io::Result<Self> {
        let mut link = Self::answering(driver);
        let started = cpu::now();
        loop {
            let now = link.clock.now();
            let begun = link.endpoint.connect(now, to, PORT, LIMITS, CONNECT_TIMEOUT);
            begun.map_err(|reason| io::Error::other(format!("no flow begins: {reason:?}")))?;
            link.desk.is_gone = false;
            while link.desk.flow.is_none() && !link.desk.is_gone {
                link.cycle(link.clock.now())?;
                std::thread::yield_now();
            }
            if link.desk.flow.is_some() {
                return Ok(link);
            }
            // The other end may not be there yet.
            if started.elapsed() > PATIENCE {
                return Err(io::Error::other("the other end does not take a flow"));
            }
        }
    }

    /// As an engine's duty cycle: datagrams in, timers, datagrams out.
    #[inline]
    fn cycle(&mut self, now: Instant) -> io::Result<()> {
        let Self { driver, endpoint, desk, .. } = self;
        driver.begin_cycle(now);
        driver.receive(|&Arrival { from, to_port, waited, bytes }| {
            let datagram = Datagram { from, to_port, landed: None, waited, bytes };
            // There is no other engine to hand it over to.
            let _: Handling = endpoint.handle_datagram(now, &datagram, desk);
            while let Some(event) = endpoint.poll_event() {
                desk.on_event(event);
            }
        })?;
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now, &mut self.desk);
            while let Some(event) = self.endpoint.poll_event() {
                self.desk.on_event(event);
            }
        }
        if self.endpoint.has_transmit() || self.driver.is_transmit_pending() {
            self.transmit(now)?;
        }
        Ok(())
    }

    fn transmit(&mut self, now: Instant) -> io::Result<()> {
        while let Some(transmit) = self.endpoint.poll_transmit(now) {
            let length = transmit.header_len + transmit.body_len;
            if self.driver.lend(transmit.from_port, transmit.to, length).is_none() {
                self.driver.flush()?;
            }
            let Some(out) = self.driver.lend(transmit.from_port, transmit.to, length) else { break };
            let (header, mut body) = out[..length].split_at_mut(transmit.header_len);
            self.endpoint.emit_header(header);
            match transmit.body {
                Body::Empty => {}
                Body::Padding { .. } => body.fill(0),
                Body::Segment { message, offset, .. } => {
                    let bytes = &self.sent[message.0 as usize][offset as usize..];
                    body.copy_from_slice(&bytes[..body.len()]);
                }
                Body::Bundle { .. } => {
                    for &(message, len) in self.endpoint.bundle() {
                        let (place, rest) = body.split_at_mut(2 + usize::from(len));
                        place[..2].copy_from_slice(&len.to_be_bytes());
                        place[2..].copy_from_slice(&self.sent[message.0 as usize]);
                        body = rest;
                    }
                }
            }
            self.driver.commit(length);
        }
        self.driver.flush()
    }
}

impl Desk {
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { flow, .. } => self.flow = Some(flow),
            _ => (self.flow, self.is_gone) = (None, true),
        }
    }
}

impl<D: Driver> Link for Messages<D> {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let now = self.clock.now();
        self.cycle(now)?;
        let count = self.desk.came.len();
        if count > 0 {
            self.desk.came.drain(..).for_each(&mut each);
            if let Some(flow) = self.desk.flow {
                let messages = u32::try_from(count).unwrap_or(u32::MAX);
                let bytes = u64::from(LENGTH) * u64::from(messages);
                self.endpoint.handle_room(now, flow, messages, bytes, &mut self.desk);
            }
        }
        debug_assert!(count <= 8 * BURST, "a window's worth");
        Ok(count)
    }

    #[inline]
    fn put(&mut self, number: u64) -> io::Result<()> {
        let Some(flow) = self.desk.flow else {
            return Err(io::Error::other("the other end has closed the flow"));
        };
        let place = self.next;
        self.next = (self.next + 1) % PLACES;
        self.sent[place] = message(number);
        let handle = TxHandle(u32::try_from(place).unwrap_or(0));
        let sent = self.endpoint.send(self.clock.now(), flow, handle, LENGTH);
        sent.map_err(|error| io::Error::other(format!("a message was not taken: {error:?}")))
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.transmit(now)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.driver.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.driver.prepare_sleep()
    }
}
