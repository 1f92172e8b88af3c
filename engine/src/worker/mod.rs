//! One engine: a core, a network path, its channels and flows; it shares nothing with the others.
//!
//! [`Worker::duty_cycle`] is one turn: commands, datagrams in, applications, timers, datagrams out, bells. Time is an
//! argument, and no thread is inside; [`run`] is the loop around it. The work of each step is bounded, so one busy
//! application or peer delays the others by a bounded time.

mod intake;
mod leave;
mod meet;
mod path;
mod report;
mod rest;
mod transmit;

pub use rest::run;

use crate::counters::Counter;
use crate::driver::{Arrival, Driver, PathState};
use crate::host::{Host, LeaveCause};
use crate::mailbox::{Command, Notice, Receiver, Sender};
use crate::neighbours::Inbox;
use crate::proto::time::{Duration, Instant};
use crate::proto::{Config, Datagram, Endpoint, Handling};
use crate::sys::Epoll;
use std::io;

/// Commands handled in one cycle.
const COMMAND_BURST: usize = 16;
/// Slots taken from each of a tenant's two rings in one cycle.
const SLOT_BURST: usize = 32;
/// An engine without flows over the network asks for datagrams only so often: those that come are first words of strangers,
/// and the question is a system call between two applications of this host.
const QUIET_RECEIVE_INTERVAL: Duration = Duration::from_micros(10);
/// Datagrams sent in one cycle.
const TRANSMIT_BURST: usize = 128;
/// No further datagram is sent in a cycle that sent so many bytes: where datagrams are large, what comes in would wait long.
const TRANSMIT_BURST_BYTES: usize = 512 << 10;

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number.
    pub id: u32,
    /// The protocol core's settings.
    pub core: Config,
    /// Random numbers from which every identifier of the engine follows.
    pub seed: [u64; 2],
    /// The UDP port of other sidecars.
    pub udp_port: u16,
    /// A connect fails after so long, if the application does not say otherwise.
    pub connect_timeout: Duration,
    /// So long the flows of an application that is gone may take to close in order.
    pub linger: Duration,
    /// How the engine waits, for the status.
    pub idle: &'static str,
}

/// One engine.
#[derive(Debug)]
pub struct Worker<D> {
    settings: Settings,
    endpoint: Endpoint,
    driver: D,
    host: Host,
    commands: Receiver<Command>,
    notices: Sender<Notice>,
    epoll: Epoll,
    /// Datagrams that landed at other engines.
    inbox: Option<Inbox>,
    /// The neighbour whose parcels are taken first in this cycle.
    first_neighbour: usize,
    /// The processor that the thread is kept on.
    cpu: Option<u32>,
    /// When armed tenants' bells and the backlog are looked at next while the engine is busy.
    next_look: Instant,
    /// When an engine without flows over the network asks it for datagrams next.
    next_question: Instant,
    /// What the driver said of the network path last.
    path: PathState,
    /// To ask the network is a system call: a driver that can only be polled costs a look.
    asks_by_call: bool,
    /// The last cycle passed over the network, because a tenant had published.
    passed_over: bool,
    /// Where in the list of polled tenants the next cycle begins.
    first_polled: usize,
    /// Tenants on their way out.
    leaving: Vec<u32>,
    /// Tenants that tell nobody when they make progress.
    backlog: Vec<u32>,
    /// When the engine ends at the latest, once it was told to.
    shutdown: Option<Instant>,
    finished: bool,
}

impl<D: Driver> Worker<D> {
    /// An engine without channels.
    pub fn new(
        settings: Settings,
        driver: D,
        commands: Receiver<Command>,
        notices: Sender<Notice>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        rest::watch(&epoll, &driver, &commands)?;
        let mut core = settings.core.clone();
        (core.ports, core.receive_ports) = (driver.ports(), driver.receive_ports());
        core.max_datagram = core.max_datagram.min(u32::try_from(driver.max_datagram()).unwrap_or(u32::MAX));
        Ok(Self {
            endpoint: Endpoint::new(core, settings.seed),
            host: Host::new(driver.local_address()),
            settings,
            path: PathState::Up,
            asks_by_call: driver.receives_by_call(),
            driver,
            commands,
            notices,
            epoll,
            inbox: None,
            first_neighbour: 0,
            cpu: None,
            next_look: Instant::ZERO,
            next_question: Instant::ZERO,
            passed_over: false,
            first_polled: 0,
            leaving: Vec::new(),
            backlog: Vec::new(),
            shutdown: None,
            finished: false,
        })
    }

    /// One turn. Answers how much was done; 0 means that nothing is to be done now.
    pub fn duty_cycle(&mut self, now: Instant) -> usize {
        self.host.now = now;
        let asks = now >= self.next_question || self.endpoint.flows() > 0;
        if asks {
            self.driver.begin_cycle(now);
            if self.driver.state() != self.path {
                self.handle_path(now);
            }
        }
        let mut work = 0;
        if now >= self.next_look {
            self.next_look = now + rest::LOOK_INTERVAL;
            work += self.look_at_the_quiet(now);
        }
        work += self.handle_commands(now);
        if self.host.has_news() {
            work += self.meet_neighbours(now);
        }
        // What a tenant published goes out before a system call asks the network, which comes next at the latest.
        let taken = self.take_from_tenants(now);
        self.passed_over = self.asks_by_call && taken > 0 && !self.passed_over;
        work += taken;
        if asks && !self.passed_over {
            work += self.receive(now);
        }
        if !self.host.relieved.is_empty() {
            work += self.handle_relief(now);
        }
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.handle_timeout(now);
            work += 1;
        }
        work += self.poll_events();
        work += self.transmit(now);
        if !self.leaving.is_empty() || self.shutdown.is_some() {
            work += self.finish_leaving(now);
        }
        work += self.publish();
        if self.host.neighbours.is_some() {
            self.host.tell_neighbours();
        }
        if !self.host.faulted.is_empty() {
            work += self.end_faulted(now);
        }
        self.host.counters.count(Counter::Cycles);
        if work > 0 {
            self.host.counters.count(Counter::BusyCycles);
        }
        work
    }

    /// The processor that the engine's thread is kept on, for the status.
    pub fn runs_on(&mut self, cpu: Option<u32>) {
        self.cpu = cpu;
    }

    /// Whether the engine was told to end and has nothing left to do.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The engine's network path, for its counters.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Datagrams that landed here and were given to the engine that they belong to.
    pub fn handed_over(&self) -> u64 {
        self.host.neighbours.as_ref().map_or(0, |neighbours| neighbours.counters().out)
    }

    /// The engine's tenants and counters, for tests and reports.
    pub fn host(&self) -> &Host {
        &self.host
    }

    #[inline]
    fn handle_commands(&mut self, now: Instant) -> usize {
        if self.commands.is_empty() { 0 } else { self.handle_waiting_commands(now) }
    }

    #[cold]
    fn handle_waiting_commands(&mut self, now: Instant) -> usize {
        for handled in 0..COMMAND_BURST {
            let Some(command) = self.commands.try_receive() else { return handled };
            self.handle_command(now, command);
        }
        COMMAND_BURST
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Attach(tenant) => {
                let channel = tenant.identity().channel;
                let index = self.host.seat(*tenant);
                if self.watch_tenant(index).is_err() || self.shutdown.is_some() {
                    self.host.unseat(index);
                    self.notices.send(Notice::Ended { channel, fault: None });
                    return;
                }
                self.host.wake(index);
            }
            Command::Gone { channel } => self.leave(now, channel, LeaveCause::Gone, self.settings.linger),
            Command::Detach { channel } => {
                self.leave(now, channel, LeaveCause::Detached, self.settings.linger);
            }
            Command::Listen { channel, port, listener, backlog } => {
                self.host.listen(channel, port, listener, backlog);
                self.notices.send(Notice::Listening { channel, listener });
            }
            Command::ListenElsewhere { channel, port, engine, listener } => {
                self.host.listens_elsewhere(port, engine, listener);
                self.notices.send(Notice::Listening { channel, listener });
            }
            Command::Unlisten { listener } => self.unlisten(now, listener),
            Command::UnlistenElsewhere { port, listener } => self.host.unlisten_elsewhere(port, listener),
            Command::Status { token } => {
                let status = Box::new(self.status());
                self.notices.send(Notice::Status { token, status });
            }
            Command::FlowStats { channel, request, flow } => {
                let stats = self.flow_stats(channel, flow).map(Box::new);
                self.notices.send(Notice::FlowStats { channel, request, stats });
            }
            Command::Shutdown { linger_ms } => {
                self.shut_down(now, Duration::from_millis(u64::from(linger_ms)));
            }
        }
    }

    fn receive(&mut self, now: Instant) -> usize {
        let Self { driver, endpoint, host, .. } = self;
        let received = driver.receive(|&Arrival { from, to_port, waited, bytes }| {
            let datagram = Datagram { from, to_port, landed: None, waited, bytes };
            if let Handling::HandOver(engine) = endpoint.handle_datagram(now, &datagram, host) {
                host.hand_over(engine, from, to_port, bytes);
            }
            while let Some(event) = endpoint.poll_event() {
                host.on_event(event);
            }
        });
        match received {
            Ok(received) => {
                // Only an empty answer says that the driver holds nothing back, so that the engine may sleep.
                self.next_question = if received == 0 { now + QUIET_RECEIVE_INTERVAL } else { Instant::ZERO };
                received
            }
            Err(error) => {
                self.path_failed(&error);
                0
            }
        }
    }

    #[inline(never)]
    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now, &mut self.host);
    }

    #[inline]
    fn poll_events(&mut self) -> usize {
        let mut events = 0;
        while let Some(event) = self.endpoint.poll_event() {
            self.host.on_event(event);
            events += 1;
        }
        events
    }

    /// Tenants that had refused room and have some again: what was refused is offered.
    #[inline(never)]
    fn handle_relief(&mut self, now: Instant) -> usize {
        let mut relieved = std::mem::take(&mut self.host.relieved);
        relieved.sort_unstable();
        relieved.dedup();
        for &index in &relieved {
            self.host.relay_blocked(index);
        }
        self.endpoint.handle_pool_room(now, &mut self.host);
        let count = relieved.len();
        relieved.clear();
        // What was noted meanwhile is for the next cycle; keep the longer-lived allocation.
        if self.host.relieved.is_empty() {
            self.host.relieved = relieved;
        }
        count
    }

    /// Publishes for every touched tenant. What that brings about is for the next cycle.
    #[inline]
    fn publish(&mut self) -> usize {
        if !self.host.touched.is_empty() {
            self.publish_touched();
        }
        self.host.relieved.len() + self.host.touched.len()
    }

    #[inline(never)]
    fn publish_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.host.touched);
        for &index in &touched {
            self.host.publish(index);
            if let Some(seat) = self.host.get(index)
                && !seat.in_backlog
                && seat.tenant.has_backlog()
            {
                seat.in_backlog = true;
                self.backlog.push(index);
            }
        }
        touched.clear();
        if self.host.touched.is_empty() {
            self.host.touched = touched;
        }
    }

    #[cold]
    fn path_failed(&mut self, error: &io::Error) {
        self.host.counters.count(Counter::PathErrors);
        if self.host.counters.value(Counter::PathErrors) == 1 {
            tracing::warn!(engine = self.settings.id, "the network path failed: {error}");
        }
    }
}
