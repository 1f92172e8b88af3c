//! From the error table of `machnet-client` to JavaScript's errors, of which `lib/errors.js` makes a `MachnetError`.

use machnet_client::Error;
use napi::bindgen_prelude::{JsObjectValue, Object, Result};
use napi::{Env, JsValue};
use napi_derive::napi;

/// The numbers of all errors, by name.
#[napi(js_name = "errorCodes")]
pub fn error_codes(env: &Env) -> Result<Object<'_>> {
    let mut codes = Object::new(env)?;
    for (code, name) in Error::CODES {
        codes.set_named_property(name, code)?;
    }
    Ok(codes)
}

/// Results that become JavaScript's.
pub(crate) trait OrThrow<T> {
    /// The value, or what is to be thrown.
    fn or_throw(self, env: &Env) -> Result<T>;
}

impl<T> OrThrow<T> for std::result::Result<T, Error> {
    #[inline]
    fn or_throw(self, env: &Env) -> Result<T> {
        self.map_err(|error| describe(env, &error).unwrap_or_else(|broken| broken))
    }
}

/// The error of JavaScript. napi-rs throws it as it is only if it is an `Error`.
#[cold]
fn describe(env: &Env, error: &Error) -> Result<napi::Error> {
    let mut described = env.create_error(napi::Error::from_reason(error.to_string()))?;
    described.set_named_property("code", error.name())?;
    described.set_named_property("errno", error.code())?;
    match error {
        Error::Reset { reason, unacknowledged } => {
            described.set_named_property("reason", reason.to_string())?;
            described.set_named_property("unacknowledged", *unacknowledged)?;
        }
        Error::BufferTooSmall { needed } => described.set_named_property("needed", length(*needed))?,
        Error::MessageTooLarge { limit, .. } => described.set_named_property("limit", length(*limit))?,
        Error::Io(inner) => described.set_named_property("systemErrno", inner.raw_os_error())?,
        _ => {}
    }
    Ok(napi::Error::from(described.to_unknown()))
}

/// A length in bytes as a number of JavaScript.
pub(crate) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
