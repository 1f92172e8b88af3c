//! Received messages and loans, as arrays over the sidecar's memory.

use crate::errors::OrThrow;
use crate::sys::{self, Exposed, Exposing};
use crate::table::Table;
use machnet_client::{Error, Geometry, Message, TxLoan};
use napi::Env;
use napi::bindgen_prelude::{BufferSlice, Either, Result, Unknown};
use napi_derive::napi;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of a channel's buffers this part is lent at most. JavaScript gives back when it collects garbage, which it may not do as long
/// as nothing happens: were all buffers lent to it, nothing could.
const LENT_PART: usize = 4;

/// What a channel has lent.
#[derive(Debug)]
pub struct Lending {
    bytes: AtomicUsize,
    most: usize,
}

impl Lending {
    /// Nothing lent yet.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let pool = geometry.rx_buffers as usize * geometry.buffer_bytes as usize;
        Self { bytes: AtomicUsize::new(0), most: pool / LENT_PART }
    }

    /// Whether a message of so many bytes may be lent.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.load(Ordering::Relaxed) + bytes <= self.most
    }
}

thread_local! {
    static LENT: RefCell<Table<Lent>> = const { RefCell::new(Table::new()) };
}

/// A message whose bytes JavaScript sees where they are. It has its number until its array is gone.
struct Lent {
    message: Option<Exposed<Message>>,
    bytes: usize,
    lending: Arc<Lending>,
}

impl Lent {
    fn count_back(&mut self) {
        self.lending.bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

/// A received message that lies where it was received.
#[napi(object, object_from_js = false)]
pub struct Received<'env> {
    /// An `ArrayBuffer` over the message, or a copy of it.
    pub bytes: Either<Unknown<'env>, BufferSlice<'env>>,
    /// Its number for `giveBack`, unless it is a copy.
    pub number: Option<u32>,
}

/// Lends a message to JavaScript, or copies it where that must be.
pub(crate) fn lend<'env>(env: &'env Env, message: Message, lending: &Arc<Lending>) -> Result<Received<'env>> {
    let bytes = message.len();
    let number = LENT
        .with_borrow_mut(|lent| lent.insert(Lent { message: None, bytes: 0, lending: Arc::clone(lending) }));
    let gone = move || {
        if let Some(mut lent) = LENT.with_borrow_mut(|lent| lent.remove(number)) {
            lent.count_back();
        }
    };
    match Exposed::make(env, Box::new(message), Some(Box::new(gone))) {
        Ok(Exposing::Done(exposed, array)) => {
            lending.bytes.fetch_add(bytes, Ordering::Relaxed);
            LENT.with_borrow_mut(|lent| {
                if let Some(lent) = lent.find_mut(number) {
                    (lent.message, lent.bytes) = (Some(exposed), bytes);
                }
            });
            Ok(Received { bytes: Either::A(array), number: Some(number) })
        }
        Ok(Exposing::Forbidden(message)) => {
            gone();
            Ok(Received { bytes: Either::B(BufferSlice::copy_from(env, &**message)?), number: None })
        }
        Err(error) => {
            gone();
            Err(error)
        }
    }
}

/// Gives a lent message back before its array is collected. The array is empty from then on.
#[napi]
pub fn give_back(env: &Env, number: u32, array: Unknown<'_>) -> Result<()> {
    let message = LENT.with_borrow_mut(|lent| {
        let Some(lent) = lent.find_mut(number) else { return Ok(None) };
        let Some(exposed) = &lent.message else { return Ok(None) };
        let message = exposed.take_back(env, &array)?;
        if message.is_some() {
            lent.count_back();
        }
        Ok(message)
    });
    message.map(drop)
}

/// From now on this thread gets copies only, as in Electron, where arrays over foreign memory are forbidden: for tests.
#[napi]
pub fn forbid_lending() {
    sys::forbid_exposing();
}

/// Room to write a message in place.
#[napi]
pub struct Loan {
    loan: Option<TxLoan>,
    exposed: Option<Exposed<TxLoan>>,
}

impl Loan {
    pub(crate) fn new(loan: TxLoan) -> Self {
        Self { loan: Some(loan), exposed: None }
    }
}

fn gone() -> Error {
    Error::InvalidArgument { what: "the loan was sent or given back".into() }
}

#[napi]
impl Loan {
    /// The room as an `ArrayBuffer`, once. None where arrays over foreign memory are forbidden.
    #[napi]
    pub fn open<'env>(&mut self, env: &'env Env) -> Result<Option<Unknown<'env>>> {
        let loan = self.loan.take().ok_or_else(gone).or_throw(env)?;
        match Exposed::make(env, Box::new(loan), None)? {
            Exposing::Done(exposed, array) => {
                self.exposed = Some(exposed);
                Ok(Some(array))
            }
            Exposing::Forbidden(loan) => {
                self.loan = Some(*loan);
                Ok(None)
            }
        }
    }

    /// Takes the room back from its array, which is empty from then on.
    #[napi]
    pub fn close(&mut self, env: &Env, array: Unknown<'_>) -> Result<()> {
        let exposed = self.exposed.take().ok_or_else(gone).or_throw(env)?;
        let loan = exposed.take_back(env, &array)?.ok_or_else(gone).or_throw(env)?;
        self.loan = Some(*loan);
        Ok(())
    }

    /// Fills a room that has no array.
    #[napi]
    pub fn fill(&mut self, env: &Env, bytes: &[u8]) -> Result<()> {
        let loan = self.loan.as_mut().filter(|loan| loan.len() == bytes.len());
        loan.ok_or_else(gone).or_throw(env)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Sends the message, whose room was taken back, if that goes now; says whether.
    #[napi]
    pub fn try_send(&mut self, env: &Env) -> Result<bool> {
        let loan = self.loan.as_mut().ok_or_else(gone).or_throw(env)?;
        match loan.try_send() {
            Err(Error::WouldBlock) => return Ok(false),
            outcome => outcome.or_throw(env)?,
        }
        self.loan = None;
        Ok(true)
    }

    /// Gives back the room, which was taken back from its array, unsent.
    #[napi]
    pub fn give_up(&mut self) {
        self.loan = None;
    }
}
