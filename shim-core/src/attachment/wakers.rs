//! Waits of tasks instead of threads: a call that finds nothing leaves a waker beside its interest, under the same lock.
//!
//! One task, the driver, does for tasks and threads what a waiting thread does for threads: it arms the doorbell, looks again,
//! sleeps, and drains the rings for all.

use super::Attachment;
use super::shared::{Driver, Interest, Shared, State};
use crate::channel::Core;
use crate::error::{Error, Result};
use crate::socket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A task that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    interest: Interest,
    waker: Waker,
}

/// The number of a task's registration, which ends with this.
#[derive(Debug)]
pub(crate) struct Registration {
    shared: Arc<Shared>,
    number: Option<u64>,
}

impl State {
    /// Wakes the tasks whose wait is over.
    pub(super) fn wake_tasks(&mut self) {
        let Self { core, tasks, .. } = self;
        tasks.retain(|task| {
            let is_met = task.interest.is_met(core);
            if is_met {
                task.waker.wake_by_ref();
            }
            !is_met
        });
    }

    fn forget_task(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.tasks.retain(|task| task.number != number);
        }
    }
}

impl Registration {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), number: None }
    }

    /// Tries a call; if it finds nothing, the task is woken when it may find something.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        interest: Interest,
        call: impl FnOnce(&mut Core) -> Result<Option<T>>,
    ) -> Poll<Result<T>> {
        let number = &mut self.number;
        let found = self.shared.with_state(|state| {
            state.forget_task(number.take());
            let found = call(&mut state.core).transpose();
            if found.is_none() {
                let (waker, place) = (context.waker().clone(), state.next_number);
                state.next_number += 1;
                state.tasks.push(Waiting { number: place, interest, waker });
                *number = Some(place);
            }
            Ok(found)
        });
        match found {
            Ok(None) => Poll::Pending,
            Ok(Some(outcome)) => Poll::Ready(outcome),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.number.is_some() {
            // In a forked child it is the parent's.
            let _ = self.shared.with_state(|state| {
                state.forget_task(self.number);
                Ok(())
            });
        }
    }
}

/// The channel's driver as long as it lives; it drains the rings whenever it is told that the doorbell rang.
#[derive(Debug)]
pub(crate) struct TaskDriver(Arc<Shared>);

impl TaskDriver {
    /// Makes the caller the driver and arms the doorbell.
    pub(crate) fn begin(attachment: &Attachment) -> Result<Self> {
        let shared = &attachment.shared;
        shared.with_state(|state| {
            let is_waited_on = state.driver.is_some() || state.sentinel.is_some();
            if is_waited_on || state.core.is_in_event_mode() {
                return Err(Error::invalid(
                    "the channel is waited on by a thread, or polled by its event fd",
                ));
            }
            state.driver = Some(Driver::Task);
            state.core.before_sleep();
            state.core.poll();
            Ok(())
        })?;
        Ok(Self(Arc::clone(shared)))
    }

    /// A descriptor of the doorbell for a reactor.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.0.bell.wait_fd().as_fd().try_clone_to_owned()?)
    }

    /// The doorbell may have rung: drains it and the rings, wakes whom it concerns, and arms it again. Says false once the
    /// channel is over.
    pub(crate) fn turn(&self) -> bool {
        let turned = self.0.with_state(|state| {
            let woken = socket::wait_bell(self.0.bell.wait_fd(), true, None, Some(Duration::ZERO))?;
            state.core.after_sleep(woken);
            state.core.poll();
            state.core.before_sleep();
            state.core.poll();
            state.core.check_over()
        });
        turned.is_ok()
    }
}

impl Drop for TaskDriver {
    fn drop(&mut self) {
        self.0.end_task_driver();
    }
}
