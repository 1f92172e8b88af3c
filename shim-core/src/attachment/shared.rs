//! A channel behind a short lock, and the waits of many threads on one doorbell.
//!
//! One waiting thread, the driver, drains the rings for all and wakes the others as what they wait for comes. It looks and
//! yields; a driver that goes to sleep on the doorbell becomes the sentinel. The others, followers, sleep on condition
//! variables. Nobody holds the lock while waiting. A message is popped by the thread that returns it, so a wait that is cut
//! short loses nothing.
//!
//! Whenever somebody waits there is a driver, or a sentinel who hears the doorbell, or one who was called and will come. So a
//! thread of a lively conversation drives for itself, and is not woken by another for each of its messages: who comes to wait
//! drives if nobody does, while the sentinel sleeps on, and takes over from a driver who has only served others. When it
//! leaves, it arms the doorbell for the sentinel.
//!
//! The task of a runtime is a driver too, and stays it: the doorbell is armed for it always, so all threads follow.
//!
//! Nobody misses a cancel: a flag is set before the lock is taken to call whom it concerns, and looked at under the lock
//! after which a thread is seen as one that waits.

use super::cancel::{CancelFlag, Wait};
use crate::attach::{Control, Unlistener};
use crate::channel::{Channel, ChannelInfo, Core, Doorbell, FlowId, Source, Wants, Watch};
use crate::error::{Error, Result};
use crate::message::FlushReturns;
use crate::shm::region::fork::Generation;
use crate::socket;
use crate::stats::FlowStats;
use crate::wait::{Deadline, Idle};
use crate::waiting::Step;
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
        }
    }
}

/// A driver who called so many others in a row, and found nothing of its own, gives way to the next that comes.
const SERVED_BEFORE_GIVING_WAY: u32 = 4;

/// Who drains the rings.
#[derive(Debug)]
pub(super) enum Driver {
    /// A thread, awake.
    Thread {
        /// Of its wait.
        number: u64,
        /// Others that it called.
        served: u32,
    },
    /// The task of a runtime. It hears the doorbell, and nobody takes over from it.
    #[cfg(feature = "tokio")]
    Task,
}

impl Driver {
    fn is(&self, wait: u64) -> bool {
        match self {
            Self::Thread { number, .. } => *number == wait,
            #[cfg(feature = "tokio")]
            Self::Task => false,
        }
    }

    fn gives_way(&self) -> bool {
        match self {
            Self::Thread { served, .. } => *served >= SERVED_BEFORE_GIVING_WAY,
            #[cfg(feature = "tokio")]
            Self::Task => false,
        }
    }

    /// Whether it arms the doorbell only before it sleeps or leaves, so that a sentinel beside it disturbs nothing.
    fn leaves_room_for_sentinel(&self) -> bool {
        matches!(self, Self::Thread { .. })
    }

    fn has_called(&mut self, others: u32) {
        match self {
            Self::Thread { served, .. } => *served = served.saturating_add(others),
            #[cfg(feature = "tokio")]
            Self::Task => {}
        }
    }
}

/// Who sleeps in the system call, so that only the doorbell or a nudge wakes it.
#[derive(Debug)]
pub(super) struct Sentinel {
    interest: Interest,
    /// Nudged: to take what it waited for, or to give up.
    called: bool,
    cancel: Option<CancelFlag>,
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

/// What a thread knows of its own wait.
#[derive(Debug)]
struct OwnWait {
    number: u64,
    interest: Interest,
    deadline: Deadline,
    cancel: Option<CancelFlag>,
}

impl OwnWait {
    fn may_go_on(&self) -> Result<()> {
        if is_cancelled(self.cancel.as_ref()) {
            return Err(Error::Cancelled);
        }
        if self.deadline.is_past() { Err(Error::TimedOut) } else { Ok(()) }
    }
}

fn is_cancelled(cancel: Option<&CancelFlag>) -> bool {
    cancel.is_some_and(CancelFlag::is_set)
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    /// How the last one waited that drained the rings.
    idle: Idle,
    pub(super) driver: Option<Driver>,
    pub(super) sentinel: Option<Sentinel>,
    waiters: Vec<Waiter>,
    /// Tasks that wait. While there are any, a task drives.
    #[cfg(feature = "tokio")]
    pub(super) tasks: Vec<super::wakers::Waiting>,
    pub(super) next_number: u64,
}

impl State {
    /// The task that drives reads the doorbell's bytes, so that nobody else may listen to it.
    pub(super) fn refuse_beside_task(&self) -> Result<()> {
        match self.driver {
            #[cfg(feature = "tokio")]
            Some(Driver::Task) => Err(Error::invalid(
                "a task of an AsyncAttachment listens to the channel's doorbell: its event fd is not for others",
            )),
            Some(Driver::Thread { .. }) | None => Ok(()),
        }
    }
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
    linger: Duration,
    /// Wakes the sentinel when another thread found what it waits for: read end, write end.
    nudge: OnceLock<(OwnedFd, OwnedFd)>,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Shared {
    pub(super) fn new(channel: Channel) -> Arc<Self> {
        let Channel { core, control, info, idle, linger } = channel;
        let shared = Arc::new(Self {
            generation: core.generation(),
            bell: Arc::clone(core.bell()),
            unlistener: control.unlistener(),
            state: Mutex::new(State {
                core,
                idle,
                driver: None,
                sentinel: None,
                waiters: Vec::new(),
                #[cfg(feature = "tokio")]
                tasks: Vec::new(),
                next_number: 0,
            }),
            control: Mutex::new(control),
            info,
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
    pub(super) fn with_state<T>(&self, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.check_process()?;
        let mut state = self.lock();
        let outcome = call(&mut state);
        self.settle(&mut state);
        outcome
    }

    /// The task that drove is gone: a thread that waits has to.
    #[cfg(feature = "tokio")]
    pub(super) fn end_task_driver(&self) {
        if self.check_process().is_ok() {
            let mut state = self.lock();
            state.core.after_sleep(socket::Woken::default());
            state.driver = None;
            self.hand_over(&mut state);
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
        #[cfg(feature = "tokio")]
        let do_tasks_wait = !state.tasks.is_empty();
        #[cfg(not(feature = "tokio"))]
        let do_tasks_wait = false;
        if state.sentinel.is_some() || !state.waiters.is_empty() || do_tasks_wait {
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
        let mut called = 0;
        for waiter in state.waiters.iter_mut().filter(|waiter| !waiter.called) {
            if waiter.interest.is_met(&mut state.core) {
                waiter.called = true;
                waiter.condition.notify_one();
                called += 1;
            }
        }
        if let Some(sentinel) = &mut state.sentinel
            && !sentinel.called
            && sentinel.interest.is_met(&mut state.core)
        {
            self.call_sentinel(sentinel);
            called += 1;
        }
        if let Some(driver) = &mut state.driver {
            driver.has_called(called);
        }
    }

    fn call_sentinel(&self, sentinel: &mut Sentinel) {
        sentinel.called = true;
        if let Some((_, write)) = self.nudge.get() {
            socket::ring(write.as_fd(), false);
        }
    }

    /// Wakes those whose waits were cancelled. A driver that is awake sees its flag by itself.
    pub(super) fn wake_cancelled(&self) {
        if self.check_process().is_err() {
            return; // The lock and those who wait are the parent's.
        }
        let state = &mut *self.lock();
        for waiter in &mut state.waiters {
            if !waiter.called && is_cancelled(waiter.cancel.as_ref()) {
                waiter.called = true;
                waiter.condition.notify_one();
            }
        }
        if let Some(sentinel) = &mut state.sentinel
            && !sentinel.called
            && is_cancelled(sentinel.cancel.as_ref())
        {
            self.call_sentinel(sentinel);
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
        let own = OwnWait { number: state.next_number, interest, deadline: Deadline::after(timeout), cancel };
        state.next_number += 1;
        let mut has_just_come = true;
        let outcome = loop {
            if let Err(error) = own.may_go_on() {
                break Err(error);
            }
            let mut found = None;
            (state, found) = if may_drive(&state, std::mem::take(&mut has_just_come)) {
                self.drive(state, &own, &mut call)
            } else if may_stand_by(&state) {
                // Somebody else drives: no arming, and no second look.
                self.stand_by(state, &own, Watch::Bell)
            } else {
                (self.follow(state, &own), found)
            };
            if let Some(outcome) = found.or_else(|| call(&mut state.core).transpose()) {
                break outcome;
            }
            self.settle(&mut state);
        };
        if state.driver.as_ref().is_some_and(|driver| driver.is(own.number)) {
            state.driver = None;
        }
        self.hand_over(&mut state);
        outcome
    }

    /// Somebody does not wait any more. Whoever waits on must be woken by somebody.
    fn hand_over(&self, state: &mut State) {
        self.settle(state);
        if state.driver.is_some() {
            return;
        }
        match &mut state.sentinel {
            Some(sentinel) if sentinel.called => {} // It comes, and leaves like this.
            Some(sentinel) if state.core.is_in_event_mode() => self.call_sentinel(sentinel),
            Some(_) => {
                let _: Watch = state.core.before_sleep();
                state.core.poll(); // What came before the doorbell was armed rings no bell.
                self.settle(state);
            }
            None => name_successor(state),
        }
    }

    /// Sleeps until called or the deadline.
    fn follow<'a>(&'a self, mut state: Guard<'a>, own: &OwnWait) -> Guard<'a> {
        let &OwnWait { number, interest, deadline, ref cancel } = own;
        let condition = Arc::new(Condvar::new());
        let (place, cancel) = (Arc::clone(&condition), cancel.clone());
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

    /// Drains the rings for all until the own call finds something, may wait no longer, another takes over, or it has slept.
    fn drive<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        own: &OwnWait,
        call: &mut impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> (Guard<'a>, Option<Result<T>>) {
        state.driver = Some(Driver::Thread { number: own.number, served: 0 });
        if state.sentinel.is_some() {
            state.core.after_sleep(socket::Woken::default()); // We look ourselves: nobody has to ring.
        }
        let mut idle = state.idle.clone();
        loop {
            match idle.step() {
                Step::Look => {
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
                    idle.ended();
                    state.idle = idle;
                    return self.sleep(state, own, call);
                }
            }
            if !state.driver.as_ref().is_some_and(|driver| driver.is(own.number)) {
                return (state, None);
            }
            if idle.must_check() {
                state.core.check_alive();
            }
            state.core.poll();
            let found = call(&mut state.core).transpose();
            self.settle(&mut state);
            if found.is_some() || own.may_go_on().is_err() {
                idle.ended();
                state.idle = idle;
                return (state, found);
            }
        }
    }

    /// The driver arms the doorbell, looks again, and sleeps. What the second look found is returned.
    fn sleep<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        own: &OwnWait,
        call: &mut impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> (Guard<'a>, Option<Result<T>>) {
        let watch = state.core.before_sleep();
        state.core.poll();
        let found = call(&mut state.core).transpose();
        self.settle(&mut state);
        if found.is_some() {
            state.core.after_sleep(socket::Woken::default());
            return (state, found);
        }
        state.driver = None;
        let is_in_event_mode = state.core.is_in_event_mode();
        if let Some(sentinel) = &mut state.sentinel {
            if is_in_event_mode && !sentinel.called {
                self.call_sentinel(sentinel); // The bell that it listens to is not armed: it must look at what there is.
            }
            return (self.follow(state, own), None);
        }
        self.stand_by(state, own, watch)
    }

    /// Sleeps on the doorbell.
    fn stand_by<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        own: &OwnWait,
        watch: Watch,
    ) -> (Guard<'a>, Option<Result<T>>) {
        let nudge = match self.nudge() {
            Ok(nudge) => nudge,
            Err(error) => return (state, Some(Err(error))),
        };
        let cancel = own.cancel.clone();
        state.sentinel = Some(Sentinel { interest: own.interest, called: false, cancel });
        drop(state);
        let span = watch.span(own.deadline.left());
        let woken = socket::wait_bell(self.bell.wait_fd(), watch.listens(), Some(nudge.as_fd()), span);
        let mut state = self.lock();
        state.sentinel = None;
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

/// Whether a thread that waits is to drain the rings.
fn may_drive(state: &State, has_just_come: bool) -> bool {
    if state.core.is_in_event_mode() {
        // The doorbell's byte is the application's, so a sentinel could not be woken by it: it drives, or nobody else sleeps.
        return state.driver.is_none() && state.sentinel.is_none();
    }
    match &state.driver {
        None => true,
        Some(driver) => has_just_come && driver.gives_way(),
    }
}

/// Whether a thread that is not to drive may sleep on the doorbell instead of following. Two would take each other's rings.
fn may_stand_by(state: &State) -> bool {
    state.sentinel.is_none()
        && !state.core.is_in_event_mode()
        && state.driver.as_ref().is_some_and(Driver::leaves_room_for_sentinel)
}

/// Nobody drives and nobody hears the doorbell: if somebody waits, somebody is called.
fn name_successor(state: &mut State) {
    if state.waiters.iter().all(|waiter| !waiter.called)
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
