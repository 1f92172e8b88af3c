//! One connection.

use crate::address;
use crate::buffer::View;
use crate::channel::Canceller;
use crate::errors::OrRaise;
use crate::held::{Held, InUse, Using};
use crate::message::{Loan, Message};
use crate::stats::FlowStats;
use crate::stream::RawStream;
use crate::wait::{Patience, duration};
use machnet_client::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// Copying more than so many bytes takes longer than letting go of the interpreter.
pub(crate) const LONG_COPY: usize = 32 * 1024;

/// One connection: whole messages of 1 byte to 8 MiB, in order, both ways. Any thread may use it.
///
/// After the peer closed, the messages that came before are received first, then `Closed` is raised; after a reset likewise,
/// then `Reset`. Iterating receives until the peer closed. The end of a `with` block closes in order.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Flow {
    /// Taken once the flow became a stream, or went into channel mode.
    inner: Held<machnet_client::Flow>,
}

impl Flow {
    pub(crate) fn new(inner: machnet_client::Flow) -> Self {
        Self { inner: Held::new(inner) }
    }

    fn flow<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<Using<'a, 'py, machnet_client::Flow>> {
        self.inner.using(py).ok_or_else(became_a_stream).or_raise(py)
    }

    /// The flow, for what it becomes; an error while other threads use it.
    fn taken(&self, py: Python<'_>) -> PyResult<machnet_client::Flow> {
        let taken =
            self.inner.take(py).map_err(|InUse| PyRuntimeError::new_err("another thread uses the flow"))?;
        taken.ok_or_else(became_a_stream).or_raise(py)
    }

    /// What a call makes of the flow that neither waits nor lets go of the interpreter; nothing if it became a stream.
    #[inline(always)]
    pub(crate) fn briefly<R>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&machnet_client::Flow) -> R,
    ) -> Option<R> {
        self.inner.briefly(py, call)
    }

    /// Waits for room, and sends; a try before has found none.
    pub(crate) fn send_patiently(
        &self,
        py: Python<'_>,
        message: &View<'_>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<()> {
        let using = self.flow(py)?;
        let flow = &*using;
        let (patience, length) = (Patience::new(py, duration(timeout)?, cancel)?, message.bytes().len());
        loop {
            patience.wait(py, |wait| flow.wait_to_send(length, wait))?;
            if try_send(py, flow, message).or_raise(py)? {
                return Ok(());
            }
        }
    }

    /// Waits for a message; a try before has found none.
    pub(crate) fn recv_patiently(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Message> {
        let using = self.flow(py)?;
        let flow = &*using;
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        patience.wait(py, |wait| flow.recv_with(wait)).map(Message::new)
    }

    /// Waits for messages; a try before has found none.
    pub(crate) fn recv_many_patiently(
        &self,
        py: Python<'_>,
        most: usize,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Vec<Message>> {
        let using = self.flow(py)?;
        let flow = &*using;
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        let found = patience.wait(py, |wait| {
            let mut found = Vec::new();
            flow.recv_many(&mut found, most, wait).map(|_| found)
        })?;
        Ok(found.into_iter().map(Message::new).collect())
    }

    /// Sends what stands behind the first `sent` messages, after a try in vain if `waits_first`; says how many were sent in all.
    pub(crate) fn send_behind(
        &self,
        py: Python<'_>,
        messages: Vec<Bound<'_, PyAny>>,
        mut sent: usize,
        mut waits_first: bool,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<usize> {
        let using = self.flow(py)?;
        let flow = &*using;
        let views = messages.iter().map(View::of).collect::<PyResult<Vec<_>>>()?;
        let bytes: Vec<&[u8]> = views.iter().map(View::bytes).collect();
        let mut patience = None;
        while let Some(next) = bytes.get(sent) {
            let tried =
                if std::mem::take(&mut waits_first) { Ok(0) } else { flow.try_send_many(&bytes[sent..]) };
            let outcome = match tried {
                Ok(0) | Err(Error::WouldBlock) => {
                    if patience.is_none() {
                        patience = Some(Patience::new(py, duration(timeout)?, cancel)?);
                    }
                    let Some(patience) = &patience else { continue };
                    patience.outcome(py, |wait| flow.wait_to_send(next.len(), wait))?
                }
                Ok(count) => {
                    sent += count;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(_) if sent > 0 => break,
                outcome => outcome.or_raise(py)?,
            }
        }
        Ok(sent)
    }
}

fn became_a_stream() -> Error {
    Error::InvalidArgument { what: "the flow became a stream, or went into channel mode".into() }
}

/// A try to send, with the interpreter free if the copy is long and nobody can write to the bytes meanwhile.
fn try_send(py: Python<'_>, flow: &machnet_client::Flow, view: &View<'_>) -> Result<bool, Error> {
    let bytes = view.bytes();
    let outcome = if bytes.len() >= LONG_COPY && view.is_immutable() {
        py.detach(|| flow.try_send(bytes))
    } else {
        flow.try_send(bytes)
    };
    match outcome {
        Err(Error::WouldBlock) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

#[pymethods]
impl Flow {
    /// Sends a message: any object with a contiguous buffer. Waits for room, at most `timeout` seconds; after `TimedOut` nothing was
    /// sent. A send says that the sidecar has the message, not that the peer has.
    #[pyo3(signature = (message, timeout=None, *, cancel=None))]
    fn send(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<()> {
        let using = self.flow(py)?;
        let flow = &*using;
        let view = View::of(message)?;
        if try_send(py, flow, &view).or_raise(py)? {
            return Ok(());
        }
        self.send_patiently(py, &view, timeout, cancel)
    }

    /// Sends if there is room now; says whether.
    fn try_send(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let view = View::of(message)?;
        let using = self.flow(py)?;
        try_send(py, &using, &view).or_raise(py)
    }

    /// Sends messages in order; says how many. Fewer than all if the timeout, a cancel or the flow's end came behind them; an
    /// exception only if none was sent.
    #[pyo3(signature = (messages, timeout=None, *, cancel=None))]
    fn send_many(
        &self,
        py: Python<'_>,
        messages: Vec<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<usize> {
        self.send_behind(py, messages, 0, false, timeout, cancel)
    }

    /// Waits for the next message, at most `timeout` seconds.
    #[pyo3(signature = (timeout=None, *, cancel=None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>, cancel: Option<&Canceller>) -> PyResult<Message> {
        let using = self.flow(py)?;
        let flow = &*using;
        if let Some(message) = flow.try_recv().or_raise(py)? {
            return Ok(Message::new(message));
        }
        self.recv_patiently(py, timeout, cancel)
    }

    /// The next message, if one is there.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        Ok(self.flow(py)?.try_recv().or_raise(py)?.map(Message::new))
    }

    /// Copies the next message into a writable buffer; says its length. `BufferTooSmall` leaves the message where it is.
    #[pyo3(signature = (buffer, timeout=None, *, cancel=None))]
    fn recv_into(
        &self,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<usize> {
        let using = self.flow(py)?;
        let flow = &*using;
        let mut view = View::writable(buffer)?;
        if let Some(length) = flow.try_recv_into(view.bytes_mut()).or_raise(py)? {
            return Ok(length);
        }
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        loop {
            patience.wait(py, |wait| flow.wait_to_recv(wait))?;
            if let Some(length) = flow.try_recv_into(view.bytes_mut()).or_raise(py)? {
                return Ok(length);
            }
        }
    }

    /// Waits for a message, at most `timeout` seconds, and takes it and those behind it that are there, at most `most`.
    #[pyo3(signature = (most=64, timeout=None, *, cancel=None))]
    fn recv_many(
        &self,
        py: Python<'_>,
        most: usize,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Vec<Message>> {
        let using = self.flow(py)?;
        let flow = &*using;
        let mut found = Vec::new();
        if most > 0 && flow.try_recv_many(&mut found, most).or_raise(py)? == 0 {
            return self.recv_many_patiently(py, most, timeout, cancel);
        }
        Ok(found.into_iter().map(Message::new).collect())
    }

    /// The messages that are there, at most `most`; perhaps none.
    #[pyo3(signature = (most=64))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Message>> {
        let mut found = Vec::new();
        self.flow(py)?.try_recv_many(&mut found, most).or_raise(py)?;
        Ok(found.into_iter().map(Message::new).collect())
    }

    /// Lends room of `length` bytes to write a message in place, without a copy. Waits for room, at most `timeout` seconds.
    #[pyo3(signature = (length, timeout=None, *, cancel=None))]
    fn lend(
        &self,
        py: Python<'_>,
        length: usize,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Loan> {
        let using = self.flow(py)?;
        let flow = &*using;
        match flow.lend(length) {
            Ok(loan) => return Ok(Loan::new(loan)),
            Err(Error::WouldBlock) => {}
            Err(error) => return Err(error).or_raise(py),
        }
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        patience.wait(py, |wait| flow.lend_with(length, wait)).map(Loan::new)
    }

    /// The peer, as (host, port).
    #[getter]
    fn peer(&self, py: Python<'_>) -> PyResult<(String, u16)> {
        Ok(address::show(self.flow(py)?.peer_addr()))
    }

    /// Our end, as (host, port).
    #[getter]
    fn local(&self, py: Python<'_>) -> PyResult<(String, u16)> {
        Ok(address::show(self.flow(py)?.local_addr()))
    }

    /// Largest message in bytes that can be sent.
    #[getter]
    fn max_message(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.flow(py)?.max_message())
    }

    /// Messages sent that the peer's sidecar has not acknowledged; after the flow's end those that it never did.
    #[getter]
    fn unacknowledged(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.flow(py)?.unacknowledged())
    }

    /// What the sidecar knows of the flow. A rare call: the sidecar is asked, which takes tens of microseconds.
    fn stats(&self, py: Python<'_>) -> PyResult<FlowStats> {
        let using = self.flow(py)?;
        let flow = &*using;
        py.detach(|| flow.stats()).or_raise(py).map(FlowStats::from)
    }

    /// Closes in order: what was sent is delivered first. With a `timeout` it waits so many seconds until the peer's sidecar has
    /// everything; after `TimedOut` the close goes on. Other calls on the flow raise `Closed` from now on.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        // What became a stream is closed with the stream.
        let Some(using) = self.inner.using(py) else { return Ok(()) };
        let flow = &*using;
        match duration(timeout)? {
            None => match flow.shutdown() {
                // The whole channel was closed before.
                Err(Error::Closed) => Ok(()),
                outcome => outcome.or_raise(py),
            },
            Some(timeout) => py.detach(|| flow.shutdown_wait(timeout)).or_raise(py),
        }
    }

    /// Ends the flow at once; what was not acknowledged may be lost. The peer gets `Reset`.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.flow(py)?.reset().or_raise(py)
    }

    /// What `Channel.take_news` calls the flow from now on. Try the flow once behind it.
    fn set_token(&self, py: Python<'_>, token: u64) -> PyResult<()> {
        self.flow(py)?.set_token(token).or_raise(py)
    }

    /// Puts the flow into channel mode: its messages, those that came before too, come out of `Channel.recv_any`, and `Channel.send_to`
    /// and its like take the number that this answers. This object is of no use afterwards; no other thread may be using it.
    fn enter_channel_mode(&self, py: Python<'_>) -> PyResult<u32> {
        self.taken(py)?.into_channel_mode().or_raise(py).map(machnet_client::FlowId::handle)
    }

    /// The calls under `machnet.Stream`. The flow is the stream's from then on; no other thread may be using it.
    fn take_raw_stream(&self, py: Python<'_>) -> PyResult<RawStream> {
        machnet_client::Stream::new(self.taken(py)?).or_raise(py).map(RawStream::new)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        let using = self.flow(py)?;
        let flow = &*using;
        let found = match flow.try_recv() {
            Ok(None) => Patience::new(py, None, None)?.outcome(py, |wait| flow.recv_with(wait))?.map(Some),
            outcome => outcome,
        };
        match found {
            Err(Error::Closed) => Ok(None),
            found => Ok(found.or_raise(py)?.map(Message::new)),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Closes; but an exception of the block matters more than one of the end.
    #[pyo3(signature = (exception_type=None, _exception=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exception_type: Option<&Bound<'_, PyAny>>,
        _exception: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let closed = self.close(py, None);
        if exception_type.is_some() { Ok(()) } else { closed }
    }
}
