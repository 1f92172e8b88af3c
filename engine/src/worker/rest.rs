//! When there is little to do: channels that are idle cost nothing, and an engine that is idle sleeps.
//!
//! A tenant that published nothing for a while is *armed*: it rings when it publishes, and is not polled until then. The
//! bells are watched by one epoll set, edge by edge, so that nothing has to be read before an engine may sleep again. While
//! the engine is busy it looks at the set, and at tenants that tell nobody when they make progress, every 20 us.

use super::Worker;
use crate::clock::Clock;
use crate::counters::Counter;
use crate::driver::Driver;
use crate::idle::{Step, Waiting};
use crate::mailbox::{Command, Receiver};
use crate::neighbours::Neighbours;
use crate::proto::time::{Duration, Instant};
use crate::sys::{self, Epoll, Watch};
use machnet_client::socket::Drained;
use std::io;

/// How often a busy engine looks at the bells of armed tenants and at the backlog.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_micros(20);
/// A tenant is armed after so many empty looks ...
const EMPTY_LOOKS: u32 = 1_000;
/// ... or after so long without anything, whichever comes first.
const EMPTY_TIME: Duration = Duration::from_millis(1);
/// So few tenants are polled even when they are idle: it costs less than waking one.
const ALWAYS_POLLED: usize = 4;
/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Longest sleep while a tenant has to drain a ring before it can be told something.
const BACKLOG_SLEEP: Duration = Duration::from_millis(5);
/// Longest sleep when the network path cannot wake the engine, or holds datagrams, or a neighbour has no room.
const BLIND_SLEEP: Duration = Duration::from_micros(50);
const DRIVER_TOKEN: u64 = u64::MAX;
const COMMAND_TOKEN: u64 = u64::MAX - 1;
const NEIGHBOUR_TOKEN: u64 = u64::MAX - 2;

pub(super) fn watch(epoll: &Epoll, driver: &impl Driver, commands: &Receiver<Command>) -> io::Result<()> {
    if let Some(descriptor) = driver.wait_fd() {
        epoll.add(descriptor, DRIVER_TOKEN, Watch::Readable)?;
    }
    epoll.add(commands.wake_fd(), COMMAND_TOKEN, Watch::Readable)
}

/// Watches the driver's descriptor once more: behind its number there is another one now, of which the set knows nothing.
pub(super) fn watch_again(epoll: &Epoll, driver: &impl Driver) -> io::Result<()> {
    let Some(descriptor) = driver.wait_fd() else { return Ok(()) };
    match epoll.add(descriptor, DRIVER_TOKEN, Watch::Readable) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

pub(super) fn watch_neighbours(epoll: &Epoll, neighbours: &Neighbours) -> io::Result<()> {
    epoll.add(neighbours.wake_fd(), NEIGHBOUR_TOKEN, Watch::Readable)
}

fn token(index: u32, generation: u32) -> u64 {
    u64::from(index) | u64::from(generation) << 32
}

impl<D: Driver> Worker<D> {
    pub(super) fn watch_tenant(&mut self, index: u32) -> io::Result<()> {
        let seat = self.host.look(index);
        self.epoll.add(seat.tenant.wake_fd(), token(index, seat.generation), Watch::Edge)
    }

    /// Looks at bells, backlog, and for tenants to be armed.
    #[inline(never)]
    pub(super) fn look_at_the_quiet(&mut self, now: Instant) -> usize {
        let mut work = self.look_at_backlog();
        self.arm_idle_tenants(now);
        let armed = self.host.seats_len() - self.host.polled.len();
        if armed > 0 {
            work += self.wait(Some(0));
        }
        work
    }

    fn arm_idle_tenants(&mut self, now: Instant) {
        let mut place = self.host.polled.len();
        while place > 0 && self.host.polled.len() > ALWAYS_POLLED {
            place -= 1;
            let index = self.host.polled[place];
            let seat = self.host.look(index);
            let idle = seat.empty_looks >= EMPTY_LOOKS || now.since(seat.last_found) >= EMPTY_TIME;
            if idle && seat.empty_looks > 0 && self.try_arm(index) {
                self.host.polled.swap_remove(place);
            }
        }
    }

    /// Arms a tenant. `false`: it published something meanwhile, and is polled on.
    fn try_arm(&mut self, index: u32) -> bool {
        self.host.settle(index);
        let seat = self.host.at(index);
        seat.tenant.arm();
        // One with too many events is not taken from; the backlog brings it back.
        if seat.tenant.has_input() && !seat.tenant.has_too_many_events() {
            seat.tenant.disarm();
            return false;
        }
        seat.polled = false;
        true
    }

    /// Tenants that could not be told something: whether their rings have room now.
    fn look_at_backlog(&mut self) -> usize {
        let mut work = 0;
        let mut place = 0;
        while place < self.backlog.len() {
            let index = self.backlog[place];
            let seat = self.host.at(index);
            match seat.tenant.ring_drained() {
                Ok(true) => {
                    self.host.relieved.push(index);
                    work += 1;
                }
                Ok(false) => {}
                Err(fault) => self.host.fault(index, fault),
            }
            self.host.publish(index);
            let seat = self.host.at(index);
            if seat.fault.is_some() || !seat.tenant.has_backlog() {
                seat.in_backlog = false;
                self.backlog.swap_remove(place);
                self.host.wake(index);
                work += 1;
            } else {
                place += 1;
            }
        }
        work
    }

    /// Waits for the bells, the network path and commands. Answers how many tenants were woken.
    fn wait(&mut self, timeout_ns: Option<u64>) -> usize {
        let Self { epoll, host, commands, .. } = self;
        let mut woken = 0;
        let result = epoll.wait(timeout_ns, |ready| match ready.token {
            DRIVER_TOKEN => {}
            COMMAND_TOKEN => commands.drain_bell(),
            NEIGHBOUR_TOKEN => {
                if let Some(neighbours) = &host.neighbours {
                    neighbours.drain_bell();
                }
            }
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of a token")]
            token => {
                let (index, generation) = (token as u32, (token >> 32) as u32);
                let Some(seat) = host.get(index).filter(|seat| seat.generation == generation) else { return };
                // A hang-up is for the controller to notice, by the socket and the process.
                if seat.tenant.drain_bell() == Drained::Some {
                    host.wake(index);
                    woken += 1;
                }
            }
        });
        if let Err(error) = result {
            self.path_failed(&error);
        }
        woken
    }

    /// Makes ready to sleep: every tenant rings from now on. `false`: something came meanwhile.
    fn arm_all(&mut self) -> bool {
        while let Some(&index) = self.host.polled.last() {
            if !self.try_arm(index) {
                return false;
            }
            self.host.polled.pop();
        }
        self.commands.is_empty()
    }

    /// Sleeps until something comes or a timer is due, if nothing came meanwhile.
    pub fn sleep(&mut self, clock: &Clock) {
        if !self.arm_all() || self.host.neighbours.as_ref().is_some_and(|n| !n.try_sleep()) {
            return;
        }
        let now = clock.now();
        let mut until = now + MAX_SLEEP;
        if let Some(due) = self.endpoint.poll_timeout() {
            until = until.min(due);
        }
        if !self.leaving.is_empty() {
            until = until.min(self.next_deadline().unwrap_or(until));
        }
        if !self.backlog.is_empty() {
            until = until.min(now + BACKLOG_SLEEP);
        }
        if let Some(due) = self.driver.poll_timeout() {
            until = until.min(due);
        }
        let is_blind = self.driver.wait_fd().is_none()
            || self.driver.is_transmit_pending()
            || !self.driver.prepare_sleep();
        if is_blind || self.host.owes_neighbours() {
            until = until.min(now + BLIND_SLEEP);
        }
        let span = until.since(now);
        if span > Duration::ZERO {
            self.host.counters.count(Counter::Sleeps);
            self.host.now = now;
            self.wait(Some(span.as_nanos()));
        }
        if let Some(neighbours) = &self.host.neighbours {
            neighbours.wake_up();
        }
        self.next_question = Instant::ZERO;
        // What is quiet is looked at soon after, not at once: the bells were just read.
        self.next_look = clock.now() + LOOK_INTERVAL;
        if !self.backlog.is_empty() {
            self.next_look = Instant::ZERO;
        }
    }
}

/// Runs an engine until it was told to end. `waiting` says what it does when it finds nothing.
pub fn run<D: Driver>(worker: &mut Worker<D>, mut waiting: Waiting, clock: &Clock) {
    sys::sleep_precisely();
    while !worker.is_finished() {
        if worker.duty_cycle(clock.now()) > 0 {
            waiting.ended();
            continue;
        }
        match waiting.step(|| clock.now().as_nanos()) {
            Step::Look => std::hint::spin_loop(),
            Step::Yield => {
                let before = clock.now();
                std::thread::yield_now();
                waiting.yielded(before.as_nanos(), clock.now().as_nanos());
            }
            Step::Sleep => {
                worker.sleep(clock);
                waiting.ended();
            }
        }
    }
}
