//! A channel behind a short lock, and the waits of many threads on one doorbell.
//!
//! One waiting thread, the driver, drains the rings for all and wakes the others as what they wait for comes; they sleep
//! on condition variables. When the driver leaves, it makes one of them its successor. Nobody holds the lock while waiting.
//! A message is popped by the thread that returns it, so a wait that is cut short loses nothing.

use super::cancel::{CancelFlag, Wait};
use crate::attach::{Control, Unlistener};
use crate::channel::{Channel, ChannelInfo, Core, Doorbell, FlowId, Source, Wants};
use crate::error::{Error, Result};
use crate::message::FlushReturns;
use crate::shm::region::fork::Generation;
use crate::socket;
use crate::stats::FlowStats;
use crate::wait::{Deadline, Idle, Step, WaitPolicy};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interest {
    Receive(Source),
    /// Credit and room for a message of so many bytes.
    Send(FlowId, usize),
    /// Room for a message whose credit is reserved.
    Room(FlowId, usize),
    Accept(u32),
    Connect(u32),
    /// A slot of the send ring.
    Slot,
    /// The end of a flow.
    End(FlowId),
    /// The end of all flows.
    AllEnds,
    /// Nothing of its own: a task that drives for others.
    #[cfg(feature = "tokio")]
    Nothing,
}

impl Interest {
    /// Whether a call that waits for this would be answered now.
    pub(super) fn is_met(self, core: &mut Core) -> bool {
        match self {
            Self::Receive(from) => core.can_recv(from),
            Self::Send(flow, length) => core.can_send(flow, length, 0),
            Self::Room(flow, length) => core.can_send(flow, length, 1),
            Self::Accept(listener) => core.can_accept(listener),
            Self::Connect(request) => core.can_finish_connect(request),
            Self::Slot => core.has_slot(),
            Self::End(flow) => core.has_ended(flow),
            Self::AllEnds => core.all_ended(),
            #[cfg(feature = "tokio")]
            Self::Nothing => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Driver {
    interest: Interest,
    /// In the system call, so that only the doorbell or a nudge wakes it.
    asleep: bool,
    cancel: Option<CancelFlag>,
}

#[cfg(feature = "tokio")]
impl Driver {
    /// A task: it waits for nothing of its own, and another thread never has to wake it.
    pub(super) fn of_tasks() -> Self {
        Self { interest: Interest::Nothing, asleep: false, cancel: None }
    }
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    interest: Interest,
    condition: Arc<Condvar>,
    /// Called: to take what it waited for, to drive, or to give up.
    called: bool,
    cancel: Option<CancelFlag>,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    pub(super) driver: Option<Driver>,
    waiters: Vec<Waiter>,
    /// Tasks that wait. While there are any there is a driver.
    #[cfg(feature = "tokio")]
    pub(super) tasks: Vec<super::wakers::Waiting>,
    pub(super) next_number: u64,
}

/// A channel shared by all handles of an attachment.
#[derive(Debug)]
pub(super) struct Shared {
    generation: Generation,
    state: Mutex<State>,
    control: Mutex<Control>,
    pub(super) unlistener: Unlistener,
    pub(super) bell: Arc<Doorbell>,
    pub(super) info: ChannelInfo,
    wait_policy: WaitPolicy,
    linger: Duration,
    /// Wakes a driver that sleeps on the doorbell when another thread found what it waits for: read end, write end.
    nudge: OnceLock<(OwnedFd, OwnedFd)>,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Shared {
    pub(super) fn new(channel: Channel) -> Arc<Self> {
        let Channel { core, control, info, wait_policy, linger } = channel;
        let shared = Arc::new(Self {
            generation: core.generation(),
            bell: Arc::clone(core.bell()),
            unlistener: control.unlistener(),
            state: Mutex::new(State {
                core,
                driver: None,
                waiters: Vec::new(),
                #[cfg(feature = "tokio")]
                tasks: Vec::new(),
                next_number: 0,
            }),
            control: Mutex::new(control),
            info,
            wait_policy,
            linger,
            nudge: OnceLock::new(),
        });
        let flush: Arc<dyn FlushReturns> = shared.clone();
        shared.lock().core.returns().set_flush(Arc::downgrade(&flush));
        shared
    }

    /// Answers [`Error::Forked`] in a child of the process that attached, before it could meet a lock that nobody opens.
    #[inline]
    pub(super) fn check_process(&self) -> Result<()> {
        if self.generation.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    #[inline]
    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call on the channel that does not wait.
    #[inline]
    pub(super) fn with<T>(&self, call: impl FnOnce(&mut Core) -> Result<T>) -> Result<T> {
        self.check_process()?;
        let mut state = self.lock();
        let outcome = call(&mut state.core);
        self.settle(&mut state);
        outcome
    }

    /// One call on all that the lock protects.
    #[cfg(feature = "tokio")]
    pub(super) fn with_state<T>(&self, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.check_process()?;
        let mut state = self.lock();
        let outcome = call(&mut state);
        self.settle(&mut state);
        outcome
    }

    /// Calls a thread to drive, if there is nobody who does.
    #[cfg(feature = "tokio")]
    pub(super) fn name_successor(&self) {
        if self.check_process().is_ok() {
            name_successor(&mut self.lock());
        }
    }

    /// A call that does not wait, as event mode wants it.
    #[inline]
    pub(super) fn attempt<T>(
        &self,
        wants: Wants,
        call: impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.with(|core| core.attempt(wants, call))
    }

    /// Calls those whose wait is over. At the end of whatever may have taken something out of the rings.
    #[inline]
    fn settle(&self, state: &mut State) {
        if state.driver.is_some() || !state.waiters.is_empty() {
            self.call_waiters(state);
        }
    }

    #[cold]
    fn call_waiters(&self, state: &mut State) {
        if !state.core.take_changed() {
            return;
        }
        #[cfg(feature = "tokio")]
        state.wake_tasks();
        for waiter in state.waiters.iter_mut().filter(|waiter| !waiter.called) {
            if waiter.interest.is_met(&mut state.core) {
                waiter.called = true;
                waiter.condition.notify_one();
            }
        }
        if let Some(driver) = &mut state.driver
            && driver.asleep
            && driver.interest.is_met(&mut state.core)
        {
            driver.asleep = false;
            if let Some((_, write)) = self.nudge.get() {
                socket::ring(write.as_fd(), false);
            }
        }
    }

    /// Wakes those whose waits were cancelled.
    pub(super) fn wake_cancelled(&self) {
        if self.check_process().is_err() {
            return; // The lock and those who wait are the parent's.
        }
        let state = &mut *self.lock();
        let cancelled = |flag: &Option<CancelFlag>| flag.as_ref().is_some_and(CancelFlag::is_set);
        for waiter in state.waiters.iter_mut().filter(|waiter| !waiter.called && cancelled(&waiter.cancel)) {
            waiter.called = true;
            waiter.condition.notify_one();
        }
        if let Some(driver) = &mut state.driver
            && driver.asleep
            && cancelled(&driver.cancel)
        {
            driver.asleep = false;
            if let Some((_, write)) = self.nudge.get() {
                socket::ring(write.as_fd(), false);
            }
        }
    }

    /// Repeats a call until it finds something.
    pub(super) fn wait<'a, T>(
        &self,
        wait: impl Into<Wait<'a>>,
        interest: Interest,
        mut call: impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> Result<T> {
        self.check_process()?;
        let mut state = self.lock();
        let first = call(&mut state.core).transpose();
        self.settle(&mut state);
        if let Some(outcome) = first {
            return outcome;
        }
        let Wait { timeout, canceller } = wait.into();
        if canceller.is_some_and(|canceller| !canceller.is_of(self)) {
            return Err(Error::invalid("the canceller belongs to another channel"));
        }
        let cancel = canceller.map(|canceller| canceller.flag().clone());
        let deadline = Deadline::after(timeout);
        let outcome = loop {
            if let Err(error) = may_wait(deadline, cancel.as_ref()) {
                break Err(error);
            }
            if state.driver.is_none() {
                state.driver = Some(Driver { interest, asleep: false, cancel });
                let (guard, outcome) = self.drive(state, deadline, &mut call);
                state = guard;
                state.driver = None;
                break outcome;
            }
            state = self.follow(state, deadline, interest, cancel.clone());
            let found = call(&mut state.core).transpose();
            self.settle(&mut state);
            if let Some(outcome) = found {
                break outcome;
            }
        };
        name_successor(&mut state);
        outcome
    }

    /// Sleeps until called or the deadline.
    fn follow<'a>(
        &'a self,
        mut state: Guard<'a>,
        deadline: Deadline,
        interest: Interest,
        cancel: Option<CancelFlag>,
    ) -> Guard<'a> {
        let condition = Arc::new(Condvar::new());
        let number = state.next_number;
        state.next_number += 1;
        let place = Arc::clone(&condition);
        state.waiters.push(Waiter { number, interest, condition: place, called: false, cancel });
        loop {
            state = match deadline.left() {
                None => condition.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => condition.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            let place = state.waiters.iter().position(|waiter| waiter.number == number);
            let Some(place) = place else { return state };
            if state.waiters[place].called || deadline.is_past() {
                state.waiters.swap_remove(place);
                return state;
            }
        }
    }

    /// Drains the rings for all until the own call finds something.
    fn drive<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        deadline: Deadline,
        call: &mut impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> (Guard<'a>, Result<T>) {
        let mut idle = Idle::new(self.wait_policy);
        loop {
            match idle.step() {
                Step::Spin => {
                    drop(state);
                    std::hint::spin_loop();
                    state = self.lock();
                }
                Step::Yield => {
                    drop(state);
                    idle.yield_now();
                    state = self.lock();
                }
                Step::Sleep => {
                    let found;
                    (state, found) = self.sleep(state, deadline, call);
                    if let Some(outcome) = found {
                        return (state, outcome);
                    }
                }
            }
            if idle.must_check() {
                state.core.check_alive();
            }
            state.core.poll();
            let found = call(&mut state.core).transpose();
            self.settle(&mut state);
            if let Some(outcome) = found {
                return (state, outcome);
            }
            let cancel = state.driver.as_ref().and_then(|driver| driver.cancel.as_ref());
            if let Err(error) = may_wait(deadline, cancel) {
                return (state, Err(error));
            }
        }
    }

    /// Arms the doorbell, looks again, sleeps on it without the lock. What the second look found is returned.
    fn sleep<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        deadline: Deadline,
        call: &mut impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> (Guard<'a>, Option<Result<T>>) {
        let nudge = match self.nudge() {
            Ok(nudge) => nudge,
            Err(error) => return (state, Some(Err(error))),
        };
        let watch = state.core.before_sleep();
        state.core.poll();
        let found = call(&mut state.core).transpose();
        self.settle(&mut state);
        if found.is_some() {
            state.core.after_sleep(socket::Woken::default());
            return (state, found);
        }
        set_asleep(&mut state, true);
        drop(state);
        let span = watch.span(deadline.left());
        let woken = socket::wait_bell(self.bell.wait_fd(), watch.listens(), Some(nudge.as_fd()), span);
        let mut state = self.lock();
        set_asleep(&mut state, false);
        let woken = match woken {
            Ok(woken) => woken,
            Err(error) => return (state, Some(Err(error.into()))),
        };
        if woken.nudge {
            socket::drain(nudge.as_fd());
        }
        state.core.after_sleep(woken);
        (state, None)
    }

    fn nudge(&self) -> Result<&OwnedFd> {
        if self.nudge.get().is_none() {
            let _ = self.nudge.set(socket::pipe()?); // Another thread's is as good.
        }
        self.nudge.get().map(|(read, _)| read).ok_or(Error::EngineLost)
    }

    /// Listens; says the listener's number and where.
    pub(super) fn listen(
        &self,
        local: std::net::SocketAddr,
        backlog: u32,
        channel_mode: bool,
    ) -> Result<(u32, std::net::SocketAddr)> {
        self.with(|core| {
            core.check_over()?;
            core.begin_listen();
            Ok(())
        })?;
        let backlog = if backlog == 0 { crate::DEFAULT_BACKLOG } else { backlog };
        // The control lock is held across the wait for the sidecar's answer, the channel's is not.
        let outcome = self.control.lock().unwrap_or_else(PoisonError::into_inner).listen(local, backlog);
        let listener = outcome.as_ref().ok().map(|&(listener, _)| listener);
        self.with(|core| {
            core.end_listen(listener, channel_mode);
            Ok(())
        })?;
        outcome
    }

    /// What the sidecar knows of a flow.
    pub(super) fn flow_stats(&self, flow: FlowId) -> Result<FlowStats> {
        self.with(|core| {
            core.check_over()?;
            core.look(flow).map(|_| ())
        })?;
        self.control.lock().unwrap_or_else(PoisonError::into_inner).flow_stats(flow.handle)
    }

    /// Closes all flows in order, waits for the linger time at most, and detaches.
    pub(super) fn close(&self) -> Result<()> {
        let was_over = self.with(|core| {
            let over = core.check_over();
            if over.is_ok() {
                core.close_all();
            }
            Ok(over)
        })?;
        match was_over {
            Ok(()) => {}
            Err(Error::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
        let ended = self.wait(Some(self.linger), Interest::AllEnds, |core| {
            core.poll();
            if core.all_ended() { core.check_over().map(Some) } else { Ok(None) }
        });
        match ended {
            Ok(()) | Err(Error::TimedOut) => {}
            Err(Error::Closed) => return Ok(()), // Another thread closed at the same time.
            Err(error) => return Err(error),
        }
        self.with(|core| {
            core.flush();
            core.set_over_closed();
            Ok(())
        })?;
        self.control.lock().unwrap_or_else(PoisonError::into_inner).detach()
    }
}

/// Whether a wait may go on.
fn may_wait(deadline: Deadline, cancel: Option<&CancelFlag>) -> Result<()> {
    if cancel.is_some_and(CancelFlag::is_set) {
        return Err(Error::Cancelled);
    }
    if deadline.is_past() { Err(Error::TimedOut) } else { Ok(()) }
}

fn set_asleep(state: &mut State, asleep: bool) {
    if let Some(driver) = &mut state.driver {
        driver.asleep = asleep;
    }
}

/// Whenever nobody drives and somebody waits, somebody has been called.
fn name_successor(state: &mut State) {
    if state.driver.is_none()
        && state.waiters.iter().all(|waiter| !waiter.called)
        && let Some(waiter) = state.waiters.first_mut()
    {
        waiter.called = true;
        waiter.condition.notify_one();
    }
}

impl FlushReturns for Shared {
    fn flush_returns(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.core.flush();
            self.settle(&mut state);
        }
    }
}
