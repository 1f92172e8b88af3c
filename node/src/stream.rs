//! Byte streams over flows: the calls under `Flow.duplex`. A stream has the number of the flow that it was.

use crate::errors::OrThrow;
use crate::flow::{FLOWS, Named, as_answer};
use crate::sys::{self, Arguments};
use machnet_client::{Error, Stream};
use napi::bindgen_prelude::{Object, Result};

/// What says that a call would have to wait, where 0 means something.
const NOT_NOW: i32 = -1;

fn with<T>(
    number: u32,
    call: impl FnOnce(&Stream) -> std::result::Result<T, Error>,
) -> std::result::Result<T, Error> {
    FLOWS.with_borrow(|flows| match flows.find(number) {
        Some(Named::Stream(stream)) => call(stream),
        _ => Err(Error::InvalidArgument { what: "the flow is no stream".into() }),
    })
}

pub(crate) fn define(exports: &mut Object<'_>) -> Result<()> {
    sys::define(exports, "tryRead", try_read)?;
    sys::define(exports, "tryWrite", try_write)?;
    sys::define(exports, "tryEnd", try_end)?;
    sys::define(exports, "closeStream", close)?;
    sys::define(exports, "resetStream", reset)
}

/// `tryRead(number, buffer)`: copies bytes that are there, and says how many; 0 at the end of the stream, -1: none are there.
fn try_read(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    let buffer = arguments.bytes_mut(1)?;
    let read = with(number, |stream| stream.try_read(buffer)).or_throw(arguments.env())?;
    Ok(read.map_or(NOT_NOW, as_answer))
}

/// `tryWrite(number, bytes)`: how many of the bytes were sent, at least one; -1: there is no room now.
fn try_write(arguments: &mut Arguments<'_>) -> Result<i32> {
    let (number, bytes) = (arguments.number(0)?, arguments.bytes(1)?);
    let written = with(number, |stream| stream.try_write(bytes)).or_throw(arguments.env())?;
    Ok(written.map_or(NOT_NOW, as_answer))
}

/// `tryEnd(number)`: half-closes; 1 if it did, 0 if there is no room now.
fn try_end(arguments: &mut Arguments<'_>) -> Result<i32> {
    let has_ended = with(arguments.number(0)?, Stream::try_end).or_throw(arguments.env())?;
    Ok(i32::from(has_ended))
}

/// `closeStream(number)`: half-closes, if that can be said, and closes the flow in order.
fn close(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    match with(number, |stream| stream.try_end().and_then(|_| stream.flow().shutdown())) {
        // The flow ended already.
        Ok(()) | Err(Error::Closed | Error::Reset { .. } | Error::EngineLost | Error::UnknownFlow) => Ok(0),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}

/// `resetStream(number)`: ends the flow at once.
fn reset(arguments: &mut Arguments<'_>) -> Result<i32> {
    let number = arguments.number(0)?;
    match with(number, |stream| stream.flow().reset()) {
        Ok(()) | Err(Error::Closed | Error::Reset { .. } | Error::EngineLost | Error::UnknownFlow) => Ok(0),
        Err(error) => Err(error).or_throw(arguments.env()),
    }
}
