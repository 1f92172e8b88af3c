//! The channel of a program with its sidecar.

use crate::address;
use crate::errors::OrRaise;
use crate::flow::Flow;
use crate::listener::{Listener, PendingConnect};
use crate::wait::{Patience, duration};
use machnet_client::{AttachOptions, Attachment, DoorbellKind, Error, WaitPolicy};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Attaches to a sidecar.
///
/// `socket`: its control socket; else $MACHNET_SOCKET, else the user's, else the system's. `engine`: the engine that shall serve
/// the channel; else the sidecar chooses. `name`: what `machnet status` shows; else the program's. `doorbell`: what `fileno()`
/// is, "pipe" or "socket". `wait_policy`: how calls wait, "auto", "spin", "yield" or "block". `linger`: seconds that `close`
/// waits for what was sent.
#[pyfunction]
#[pyo3(signature = (socket=None, *, engine=None, name=None, doorbell="pipe", wait_policy="auto", linger=1.0))]
pub(crate) fn attach(
    py: Python<'_>,
    socket: Option<PathBuf>,
    engine: Option<u32>,
    name: Option<String>,
    doorbell: &str,
    wait_policy: &str,
    linger: f64,
) -> PyResult<Channel> {
    let mut options = AttachOptions::new()
        .name(&name.map_or_else(|| program_name(py), Ok)?)
        .doorbell(match doorbell {
            "pipe" => DoorbellKind::Pipe,
            "socket" => DoorbellKind::Socket,
            _ => return Err(PyValueError::new_err("doorbell is \"pipe\" or \"socket\"")),
        })
        .wait_policy(match wait_policy {
            "auto" => WaitPolicy::Auto,
            "spin" => WaitPolicy::Spin,
            "yield" => WaitPolicy::Yield,
            "block" => WaitPolicy::Block,
            _ => {
                return Err(PyValueError::new_err(
                    "wait_policy is \"auto\", \"spin\", \"yield\" or \"block\"",
                ));
            }
        });
    if let Some(socket) = socket {
        options = options.socket(socket);
    }
    if let Some(engine) = engine {
        options = options.engine(engine);
    }
    if let Some(linger) = duration(Some(linger))? {
        options = options.linger(linger);
    }
    let inner = py.detach(|| options.attach()).or_raise(py)?;
    Ok(Channel { inner })
}

/// The script's name: the library itself would say "python3".
fn program_name(py: Python<'_>) -> PyResult<String> {
    let arguments: Vec<String> = py.import("sys")?.getattr("argv")?.extract()?;
    let script = arguments.first().and_then(|script| Path::new(script).file_name());
    Ok(script.map_or_else(|| "python".into(), |name| name.to_string_lossy().into_owned()))
}

/// A channel with a sidecar, from `attach`. Any thread may use it. It is closed in order at the end of a `with` block, by
/// `close()`, or with the last reference to it, its flows and its listeners.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Channel {
    inner: Attachment,
}

/// What a channel is.
#[pyclass(module = "machnet", frozen, get_all)]
pub(crate) struct ChannelInfo {
    /// Number of the channel, unique for the sidecar's life.
    channel: u64,
    /// Engine that serves it.
    engine: u32,
    /// The sidecar's process.
    sidecar_pid: u32,
    /// The address that the sidecar owns, as (host, port).
    local: (String, u16),
}

/// Ends waits from another thread: every call that was given it, now or later, raises `Cancelled`. Nothing is lost: a message
/// stays for the next receive, and one whose send was cancelled was not sent.
#[pyclass(module = "machnet", frozen)]
pub(crate) struct Canceller {
    pub(crate) inner: machnet_client::Canceller,
}

#[pymethods]
impl Canceller {
    /// Ends all waits with this canceller, and those to come.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.inner.cancel());
    }

    /// Whether it was cancelled.
    #[getter]
    fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }
}

#[pymethods]
impl Channel {
    /// Listens on an address of the sidecar ("0.0.0.0:888": its own); port 0: any free one. `backlog`: flows that may wait to be
    /// accepted; 0: 128.
    #[pyo3(signature = (address, backlog=0))]
    fn listen(&self, py: Python<'_>, address: &Bound<'_, PyAny>, backlog: u32) -> PyResult<Listener> {
        let address = address::parse(py, address)?;
        py.detach(|| self.inner.listen(address, backlog)).or_raise(py).map(Listener::new)
    }

    /// Connects to a listener. `timeout`: seconds; else the sidecar's, 3 s. `local`: the address to connect from.
    #[pyo3(signature = (address, timeout=None, *, local=None, cancel=None))]
    fn connect(
        &self,
        py: Python<'_>,
        address: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        local: Option<IpAddr>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Flow> {
        let (remote, timeout) = (address::parse(py, address)?, duration(timeout)?);
        let flow = match self.inner.start_connect(remote, local, timeout) {
            // The sidecar keeps the time, and answers.
            Ok(pending) => Patience::new(py, None, cancel)?.wait(py, |wait| pending.finish(wait))?,
            // The ring to the sidecar is full of what was sent: this waits for a place in it.
            Err(Error::WouldBlock) => {
                py.detach(|| self.inner.connect_with(remote, local, timeout)).or_raise(py)?
            }
            Err(error) => return Err(error).or_raise(py),
        };
        Ok(Flow::new(flow))
    }

    /// Begins to connect and does not wait.
    #[pyo3(signature = (address, timeout=None, *, local=None))]
    fn start_connect(
        &self,
        py: Python<'_>,
        address: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        local: Option<IpAddr>,
    ) -> PyResult<PendingConnect> {
        let (remote, timeout) = (address::parse(py, address)?, duration(timeout)?);
        self.inner.start_connect(remote, local, timeout).or_raise(py).map(PendingConnect::new)
    }

    /// What ends waits on this channel from another thread.
    fn canceller(&self) -> Canceller {
        Canceller { inner: self.inner.canceller() }
    }

    /// The descriptor to poll for readability, level-triggered: when a `try_` call found nothing, either it is readable or nothing
    /// has come since. Never read it: the calls do.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.inner.event_fd().or_raise(py)?.as_raw_fd())
    }

    /// What the channel is.
    #[getter]
    fn info(&self) -> ChannelInfo {
        let info = self.inner.info();
        ChannelInfo {
            channel: info.channel,
            engine: info.engine,
            sidecar_pid: info.sidecar_pid,
            local: address::show(info.local),
        }
    }

    /// Closes all flows in order, waits for their ends (`linger` at most), and detaches.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.close()).or_raise(py)
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
        let closed = self.close(py);
        if exception_type.is_some() { Ok(()) } else { closed }
    }
}
