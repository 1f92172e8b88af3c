//! How the event loop hears the doorbell of a channel.

use crate::sys::{self, Arguments, Poll, Watching};
use crate::table::Table;
use napi::Env;
use napi::bindgen_prelude::{Object, Result, Unknown};
use napi_derive::napi;
use std::cell::RefCell;
use std::os::fd::OwnedFd;

thread_local! {
    static WATCHES: RefCell<Table<Poll>> = const { RefCell::new(Table::new()) };
}

/// The descriptor of a channel's doorbell in the event loop of its thread. Forgotten, it is closed.
#[napi]
pub struct Watch {
    number: u32,
}

impl Watch {
    /// A watch that is not begun. `callback` is called when the descriptor is readable and somebody waits.
    pub(crate) fn new(env: &Env, descriptor: OwnedFd, callback: &Unknown<'_>) -> Result<Self> {
        let poll = Poll::new(env, descriptor, callback)?;
        Ok(Self { number: WATCHES.with_borrow_mut(|watches| watches.insert(poll)) })
    }
}

#[napi]
impl Watch {
    /// Its number, for `watch`.
    #[napi(getter)]
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(WATCHES.with_borrow_mut(|watches| watches.remove(self.number)));
    }
}

pub(crate) fn define(exports: &mut Object<'_>) -> Result<()> {
    sys::define(exports, "watch", watch)
}

/// `watch(number, how)`: 0 ends, 1 watches for somebody who waits, 2 for nobody just now, 3 as 1 but the program may end.
fn watch(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, how) = (arguments.number(0)?, arguments.number(1)?);
    let watching = match how {
        1 => Watching::For,
        2 => Watching::Idle,
        3 => Watching::Quietly,
        _ => Watching::No,
    };
    WATCHES.with_borrow(|watches| {
        if let Some(poll) = watches.find(number) {
            poll.watch(watching);
        }
    });
    Ok(0)
}
