//! One connection.

use crate::address::{self, Address};
use crate::channel::duration;
use crate::errors::{OrThrow, length};
use crate::message::{self, Lending, Loan, Received};
use crate::stats;
use crate::sys::{self, Arguments};
use crate::table::Table;
use machnet_client::{Error, FlowStats, Stream};
use napi::bindgen_prelude::{AsyncTask, Object, Result};
use napi::{Env, ScopedTask, Task};
use napi_derive::napi;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Most messages that one call takes.
const MOST_AT_ONCE: usize = 1024;

/// What a number of JavaScript names.
pub(crate) enum Named {
    Flow(Arc<machnet_client::Flow>),
    Stream(Arc<Stream>),
    /// A flow that is becoming a stream, or failed to.
    Nothing,
}

thread_local! {
    pub(crate) static FLOWS: RefCell<Table<Named>> = const { RefCell::new(Table::new()) };
}

pub(crate) fn became_a_stream() -> Error {
    Error::InvalidArgument { what: "the flow became a stream".into() }
}

/// A call on the flow that has this number.
#[inline]
fn with<T>(
    number: u32,
    call: impl FnOnce(&Arc<machnet_client::Flow>) -> std::result::Result<T, Error>,
) -> std::result::Result<T, Error> {
    FLOWS.with_borrow(|flows| match flows.find(number) {
        Some(Named::Flow(flow)) => call(flow),
        _ => Err(became_a_stream()),
    })
}

pub(crate) fn define(exports: &mut Object<'_>) -> Result<()> {
    sys::define(exports, "trySend", try_send)?;
    sys::define(exports, "trySendMany", try_send_many)?;
    sys::define(exports, "trySendPacked", try_send_packed)?;
    sys::define(exports, "tryReceive", try_receive)?;
    sys::define(exports, "tryReceiveInto", try_receive_into)?;
    sys::define(exports, "tryReceiveMany", try_receive_many)
}

/// `trySend(number, bytes)`: 1 if it was sent, 0 if there is no room now.
fn try_send(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, bytes) = (arguments.number(0)?, arguments.bytes(1)?);
    match with(number, |flow| flow.try_send(bytes)) {
        Ok(()) => Ok(1),
        Err(Error::WouldBlock) => Ok(0),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}

/// `trySendMany(number, messages, from)`: how many were sent, from the message `from` on.
fn try_send_many(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    let messages = arguments.list(1, arguments.number(2)?)?;
    how_many_sent(arguments, with(number, |flow| flow.try_send_many(&messages)))
}

/// `trySendPacked(number, buffer, lengths, count)`: as `trySendMany`, of messages that lie one behind the other in the buffer.
fn try_send_packed(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, count) = (arguments.number(0)?, arguments.number(3)? as usize);
    let (buffer, lengths) = arguments.bytes_and_words(1, 2)?;
    let mut rest: &[u8] = buffer;
    let mut messages = Vec::with_capacity(count.min(MOST_AT_ONCE));
    for &length in lengths.iter().take(count) {
        let Some((message, behind)) = rest.split_at_checked(length as usize) else { break };
        messages.push(message);
        rest = behind;
    }
    let sent = with(number, |flow| flow.try_send_many(&messages));
    how_many_sent(arguments, sent)
}

fn how_many_sent(arguments: &Arguments<'_>, sent: std::result::Result<usize, Error>) -> Result<i32> {
    match sent {
        Ok(sent) => Ok(as_answer(sent)),
        Err(Error::WouldBlock) => Ok(0),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}

/// `tryReceive(number, buffer, from, to)`: copies the next message into that part of the buffer and says its length; 0: none is
/// there; less: it does not fit, and its length is that number's complement.
fn try_receive(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, from, to) = (arguments.number(0)?, arguments.number(2)?, arguments.number(3)?);
    let buffer = arguments.bytes_mut(1)?;
    let part = buffer.get_mut(from as usize..to as usize).unwrap_or_default();
    match with(number, |flow| flow.try_recv_into(part)) {
        Ok(received) => Ok(as_answer(received.unwrap_or(0))),
        Err(Error::BufferTooSmall { needed }) => Ok(!as_answer(needed)),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}

/// `tryReceiveInto(number, buffer)`: as `tryReceive`, but a message that does not fit is an error.
fn try_receive_into(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    let buffer = arguments.bytes_mut(1)?;
    let received = with(number, |flow| flow.try_recv_into(buffer)).or_throw(arguments.env())?;
    Ok(as_answer(received.unwrap_or(0)))
}

/// `tryReceiveMany(number, buffer, from, lengths, most)`: copies messages that are there one behind the other into the buffer,
/// each at a multiple of 8 bytes, writes their lengths, and says how many; less than 0 as `tryReceive`, if the first does not fit.
fn try_receive_many(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, from, most) =
        (arguments.number(0)?, arguments.number(2)? as usize, arguments.number(4)? as usize);
    let (buffer, lengths) = arguments.bytes_and_words(1, 3)?;
    let mut rest = buffer.get_mut(from..).unwrap_or_default();
    let mut count = 0;
    let outcome = with(number, |flow| {
        for place in lengths.iter_mut().take(most.min(MOST_AT_ONCE)) {
            let Some(received) = flow.try_recv_into(rest)? else { break };
            *place = length(received);
            count += 1;
            let next = received.next_multiple_of(8).min(rest.len());
            rest = &mut std::mem::take(&mut rest)[next..];
        }
        Ok(())
    });
    match outcome {
        // An error comes again at the next call, when nothing is before it.
        _ if count > 0 => Ok(as_answer(count)),
        Ok(()) => Ok(0),
        Err(Error::BufferTooSmall { needed }) => Ok(!as_answer(needed)),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}

/// A count or a length, none of which come near 2^31.
pub(crate) fn as_answer(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// One connection. The calls that carry messages are functions that take its number.
#[napi]
pub struct Flow {
    number: u32,
    lending: Arc<Lending>,
    peer: Address,
    local: Address,
    max_message: u32,
}

impl Flow {
    pub(crate) fn new(inner: machnet_client::Flow, lending: &Arc<Lending>) -> Self {
        let (peer, local) = (address::show(inner.peer_addr()), address::show(inner.local_addr()));
        let max_message = length(inner.max_message());
        let number = FLOWS.with_borrow_mut(|flows| flows.insert(Named::Flow(Arc::new(inner))));
        Self { number, lending: Arc::clone(lending), peer, local, max_message }
    }

    fn inner(&self, env: &Env) -> Result<Arc<machnet_client::Flow>> {
        with(self.number, |flow| Ok(Arc::clone(flow))).or_throw(env)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Dropped behind the borrow: it ends a flow.
        drop(FLOWS.with_borrow_mut(|flows| flows.remove(self.number)));
    }
}

#[napi]
impl Flow {
    /// Its number, as long as this object lives.
    #[napi(getter)]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The peer.
    #[napi(getter)]
    pub fn peer(&self) -> Address {
        self.peer.clone()
    }

    /// Our end.
    #[napi(getter)]
    pub fn local(&self) -> Address {
        self.local.clone()
    }

    /// Largest message in bytes that can be sent.
    #[napi(getter)]
    pub fn max_message(&self) -> u32 {
        self.max_message
    }

    /// Messages sent that the peer's sidecar has not acknowledged; after the flow's end those that it never did.
    #[napi]
    pub fn unacknowledged(&self) -> u32 {
        FLOWS.with_borrow(|flows| match flows.find(self.number) {
            Some(Named::Flow(flow)) => flow.unacknowledged(),
            Some(Named::Stream(stream)) => stream.flow().unacknowledged(),
            _ => 0,
        })
    }

    /// Takes the next message, which has so many bytes, where it lies. None if the channel has lent too much: then it is to be
    /// copied.
    #[napi]
    pub fn try_receive_lent<'env>(&self, env: &'env Env, bytes: u32) -> Result<Option<Received<'env>>> {
        if !self.lending.has_room(bytes as usize) {
            return Ok(None);
        }
        let Some(message) = with(self.number, |flow| flow.try_recv()).or_throw(env)? else { return Ok(None) };
        message::lend(env, message, &self.lending).map(Some)
    }

    /// Lends room of so many bytes to write a message in place. None: there is none now.
    #[napi]
    pub fn try_lend(&self, env: &Env, bytes: u32) -> Result<Option<Loan>> {
        match with(self.number, |flow| flow.lend(bytes as usize)) {
            Err(Error::WouldBlock) => Ok(None),
            outcome => outcome.or_throw(env).map(|loan| Some(Loan::new(loan))),
        }
    }

    /// Asks the sidecar what it knows of the flow, in libuv's pool.
    #[napi]
    pub fn stats(&self, env: &Env) -> Result<AsyncTask<Asking>> {
        let asked = FLOWS.with_borrow(|flows| match flows.find(self.number) {
            Some(Named::Flow(flow)) => Ok(Asking::Flow(Arc::clone(flow))),
            Some(Named::Stream(stream)) => Ok(Asking::Stream(Arc::clone(stream))),
            _ => Err(became_a_stream()),
        });
        asked.or_throw(env).map(AsyncTask::new)
    }

    /// Closes in order: what was sent is delivered first.
    #[napi]
    pub fn close(&self, env: &Env) -> Result<()> {
        match with(self.number, |flow| flow.shutdown()) {
            // The whole channel was closed before.
            Err(Error::Closed) => Ok(()),
            outcome => outcome.or_throw(env),
        }
    }

    /// Closes in order and waits, in libuv's pool, until the peer's sidecar has everything.
    #[napi]
    pub fn close_wait(&self, env: &Env, timeout_ms: f64) -> Result<AsyncTask<Finishing>> {
        let timeout = duration(Some(timeout_ms)).unwrap_or(Duration::MAX);
        Ok(AsyncTask::new(Finishing { flow: self.inner(env)?, timeout }))
    }

    /// Ends the flow at once; what was not acknowledged may be lost.
    #[napi]
    pub fn reset(&self, env: &Env) -> Result<()> {
        with(self.number, |flow| flow.reset()).or_throw(env)
    }

    /// Makes the flow a stream: its number is the stream's from then on.
    #[napi]
    pub fn become_stream(&self, env: &Env) -> Result<()> {
        let outcome = FLOWS.with_borrow_mut(|flows| {
            let named = flows.find_mut(self.number).ok_or_else(became_a_stream)?;
            match std::mem::replace(named, Named::Nothing) {
                Named::Flow(flow) => match Arc::try_unwrap(flow) {
                    Ok(flow) => *named = Named::Stream(Arc::new(Stream::new(flow)?)),
                    Err(flow) => {
                        *named = Named::Flow(flow);
                        return Err(Error::InvalidArgument {
                            what: "a call of the flow is under way".into(),
                        });
                    }
                },
                other => {
                    *named = other;
                    return Err(became_a_stream());
                }
            }
            Ok(())
        });
        outcome.or_throw(env)
    }
}

/// A question for statistics in libuv's pool.
pub enum Asking {
    Flow(Arc<machnet_client::Flow>),
    Stream(Arc<Stream>),
}

impl<'task> ScopedTask<'task> for Asking {
    type Output = std::result::Result<FlowStats, Error>;
    type JsValue = Object<'task>;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(match self {
            Self::Flow(flow) => flow.stats(),
            Self::Stream(stream) => stream.flow().stats(),
        })
    }

    fn resolve(&mut self, env: &'task Env, output: Self::Output) -> Result<Object<'task>> {
        stats::show(env, &output.or_throw(env)?)
    }
}

/// A close that waits, in libuv's pool.
pub struct Finishing {
    flow: Arc<machnet_client::Flow>,
    timeout: Duration,
}

impl Task for Finishing {
    type Output = std::result::Result<(), Error>;
    type JsValue = ();

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(self.flow.shutdown_wait(self.timeout))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> Result<()> {
        output.or_throw(&env)
    }
}
