//! How the event loop hears the doorbell of a channel.

use crate::errors::OrThrow;
use crate::sys::{self, Arguments, Poll, Watching};
use crate::table::Table;
use machnet_client::Attachment;
use napi::Env;
use napi::bindgen_prelude::{Object, Result, Unknown};
use napi_derive::napi;
use std::cell::RefCell;
use std::os::fd::OwnedFd;

thread_local! {
    static WATCHES: RefCell<Table<Watched>> = const { RefCell::new(Table::new()) };
}

struct Watched {
    poll: Poll,
    attachment: Attachment,
}

/// The descriptor of a channel's doorbell in the event loop of its thread. Forgotten, it is closed.
#[napi]
pub struct Watch {
    number: u32,
}

impl Watch {
    /// A watch that is not begun. `callback` is called when the descriptor is readable and somebody waits.
    pub(crate) fn new(
        env: &Env,
        attachment: Attachment,
        descriptor: OwnedFd,
        callback: &Unknown<'_>,
    ) -> Result<Self> {
        let watched = Watched { poll: Poll::new(env, descriptor, callback)?, attachment };
        Ok(Self { number: WATCHES.with_borrow_mut(|watches| watches.insert(watched)) })
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
    sys::define(exports, "watch", watch)?;
    sys::define(exports, "beginRound", begin_round)
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
        if let Some(watched) = watches.find(number) {
            watched.poll.watch(watching);
        }
    });
    Ok(0)
}

/// `beginRound(number)`: the event loop asks for everything that it waits for, after this.
fn begin_round(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    let begun = WATCHES.with_borrow(|watches| match watches.find(number) {
        Some(watched) => watched.attachment.begin_round(),
        None => Ok(()),
    });
    begun.or_throw(arguments.env()).map(|()| 0)
}
