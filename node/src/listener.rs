//! Flows to come.

use crate::address::{self, Address};
use crate::errors::OrThrow;
use crate::flow::Flow;
use crate::message::Lending;
use napi::Env;
use napi::bindgen_prelude::Result;
use napi_derive::napi;
use std::sync::Arc;

/// Waits for flows, from `Channel.listen`.
#[napi]
pub struct Listener {
    inner: machnet_client::Listener,
    lending: Arc<Lending>,
}

impl Listener {
    pub(crate) fn new(inner: machnet_client::Listener, lending: &Arc<Lending>) -> Self {
        Self { inner, lending: Arc::clone(lending) }
    }
}

#[napi]
impl Listener {
    /// The next flow, if one is there.
    #[napi]
    pub fn try_accept(&self, env: &Env) -> Result<Option<Flow>> {
        let accepted = self.inner.try_accept().or_throw(env)?;
        Ok(accepted.map(|flow| Flow::new(flow, &self.lending)))
    }

    /// Where it listens.
    #[napi(getter)]
    pub fn address(&self) -> Address {
        address::show(self.inner.local_addr())
    }

    /// Stops listening. Flows not accepted yet are refused.
    #[napi]
    pub fn close(&self, env: &Env) -> Result<()> {
        self.inner.shutdown().or_throw(env)
    }
}

/// A connect under way, from `Channel.startConnect`. Dropped, the flow is closed as soon as it is there.
#[napi]
pub struct PendingConnect {
    inner: Option<machnet_client::PendingConnect>,
    lending: Arc<Lending>,
}

impl PendingConnect {
    pub(crate) fn new(inner: machnet_client::PendingConnect, lending: &Arc<Lending>) -> Self {
        Self { inner: Some(inner), lending: Arc::clone(lending) }
    }
}

#[napi]
impl PendingConnect {
    /// The flow, if the connect succeeded meanwhile. It, or the error, comes once.
    #[napi]
    pub fn try_finish(&self, env: &Env) -> Result<Option<Flow>> {
        let Some(inner) = &self.inner else { return Ok(None) };
        let finished = inner.try_finish().or_throw(env)?;
        Ok(finished.map(|flow| Flow::new(flow, &self.lending)))
    }

    /// Gives it up now, not when it is collected.
    #[napi]
    pub fn abandon(&mut self) {
        self.inner = None;
    }
}
