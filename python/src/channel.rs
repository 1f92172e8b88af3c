//! The channel of a program with its sidecar.

use crate::address;
use crate::buffer::View;
use crate::errors::OrRaise;
use crate::flow::Flow;
use crate::listener::{Listener, PendingConnect};
use crate::message::Message;
use crate::stats::FlowStats;
use crate::wait::{Patience, duration};
use machnet_client::{AttachOptions, Attachment, DoorbellKind, Error, FlowId, Geometry, WaitPolicy};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Attaches to a sidecar.
///
/// `socket`: its control socket; else $MACHNET_SOCKET, else the user's, else the system's. `engine`: the engine that shall serve
/// the channel, by number or by name as `machnet status` shows it ("engine0"); else the sidecar chooses. `name`: what
/// `machnet status` shows; else the program's. `doorbell`: what `fileno()` is, "pipe" or "socket". `wait_policy`: how calls wait,
/// "auto", "spin", "yield" or "block". `linger`: seconds that `close` waits for what was sent.
///
/// `sizes`: the memory of the channel; "default" takes messages of 8 MiB both ways, "small" is 256 KiB in all, "large" is for bulk.
/// What follows changes one of them: the slots of the two rings (a power of two), the buffers each way, the bytes of a buffer (a
/// power of two), the most flows at a time, and how many messages of a flow may be sent and not yet acknowledged.
#[pyfunction]
#[pyo3(signature = (
    socket=None, *, engine=None, name=None, doorbell="pipe", wait_policy="auto", linger=1.0, sizes="default",
    send_slots=None, receive_slots=None, tx_buffers=None, rx_buffers=None, buffer_bytes=None, max_flows=None,
    flow_credit=None,
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn attach(
    py: Python<'_>,
    socket: Option<PathBuf>,
    engine: Option<Engine>,
    name: Option<String>,
    doorbell: &str,
    wait_policy: &str,
    linger: f64,
    sizes: &str,
    send_slots: Option<u32>,
    receive_slots: Option<u32>,
    tx_buffers: Option<u32>,
    rx_buffers: Option<u32>,
    buffer_bytes: Option<u32>,
    max_flows: Option<u32>,
    flow_credit: Option<u32>,
) -> PyResult<Channel> {
    let mut geometry = match sizes {
        "default" => Geometry::DEFAULT,
        "small" => Geometry::SMALL,
        "large" => Geometry::LARGE,
        _ => return Err(PyValueError::new_err("sizes is \"default\", \"small\" or \"large\"")),
    };
    for (chosen, field) in [
        (send_slots, &mut geometry.send_slots),
        (receive_slots, &mut geometry.receive_slots),
        (tx_buffers, &mut geometry.tx_buffers),
        (rx_buffers, &mut geometry.rx_buffers),
        (buffer_bytes, &mut geometry.buffer_bytes),
        (max_flows, &mut geometry.max_flows),
        (flow_credit, &mut geometry.flow_credit),
    ] {
        *field = chosen.unwrap_or(*field);
    }
    let mut options = AttachOptions::new()
        .geometry(geometry)
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
    options = match engine {
        None => options,
        Some(Engine::Number(number)) => options.engine(number),
        Some(Engine::Name(name)) => options.engine_named(&name).or_raise(py)?,
    };
    if let Some(linger) = duration(Some(linger))? {
        options = options.linger(linger);
    }
    let inner = py.detach(|| options.attach()).or_raise(py)?;
    Ok(Channel { inner })
}

/// How an engine is named.
#[derive(FromPyObject)]
pub(crate) enum Engine {
    Number(u32),
    Name(String),
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
    /// Slots of the send ring.
    send_slots: u32,
    /// Slots of the receive ring.
    receive_slots: u32,
    /// Buffers to send from.
    tx_buffers: u32,
    /// Buffers to receive into.
    rx_buffers: u32,
    /// Bytes of a buffer.
    buffer_bytes: u32,
    /// Most flows at a time.
    max_flows: u32,
    /// Messages of one flow that may be sent and not yet acknowledged.
    flow_credit: u32,
}

/// A message of a flow in channel mode, with the flow that it came on.
#[pyclass(module = "machnet", frozen, get_all)]
pub(crate) struct Arrival {
    /// The flow, as `send_to` takes it.
    flow: u32,
    /// The flow's peer, as (host, port).
    peer: (String, u16),
    /// The flow's own end, as (host, port).
    local: (String, u16),
    /// The message.
    message: Py<PyAny>,
}

impl Arrival {
    fn new(py: Python<'_>, arrival: machnet_client::Arrival) -> PyResult<Self> {
        Ok(Self {
            flow: arrival.flow.handle(),
            peer: address::show(arrival.peer),
            local: address::show(arrival.local),
            message: Message::new(arrival.message).into_pyobject(py)?.unbind(),
        })
    }
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

    /// As `listen`, but flows are accepted by themselves, in channel mode: their messages come out of `recv_any`.
    #[pyo3(signature = (address, backlog=0))]
    fn listen_any(&self, py: Python<'_>, address: &Bound<'_, PyAny>, backlog: u32) -> PyResult<Listener> {
        let address = address::parse(py, address)?;
        py.detach(|| self.inner.listen_channel_mode(address, backlog)).or_raise(py).map(Listener::new)
    }

    /// Waits for the next message of any flow in channel mode (`Flow.enter_channel_mode`, `listen_any`), in order of arrival, at
    /// most `timeout` seconds. The end of such a flow is no error here: its number is refused from then on.
    #[pyo3(signature = (timeout=None, *, cancel=None))]
    fn recv_any(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<Arrival> {
        let arrival = match self.inner.try_recv_any().or_raise(py)? {
            Some(arrival) => arrival,
            None => {
                Patience::new(py, duration(timeout)?, cancel)?.wait(py, |wait| self.inner.recv_any(wait))?
            }
        };
        Arrival::new(py, arrival)
    }

    /// The next message of any flow in channel mode, if one is there.
    fn try_recv_any(&self, py: Python<'_>) -> PyResult<Option<Arrival>> {
        self.inner.try_recv_any().or_raise(py)?.map(|arrival| Arrival::new(py, arrival)).transpose()
    }

    /// Sends on a flow in channel mode: `Arrival.flow`, or what `Flow.enter_channel_mode` or `find_flow` answered. Waits for room, at
    /// most `timeout` seconds; after `TimedOut` nothing was sent.
    #[pyo3(signature = (flow, message, timeout=None, *, cancel=None))]
    fn send_to(
        &self,
        py: Python<'_>,
        flow: u32,
        message: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        cancel: Option<&Canceller>,
    ) -> PyResult<()> {
        if self.try_send_to(py, flow, message)? {
            return Ok(());
        }
        // Nobody may write to the bytes while the interpreter is free.
        let bytes = View::of(message)?.bytes().to_vec();
        let patience = Patience::new(py, duration(timeout)?, cancel)?;
        patience.wait(py, |wait| self.inner.send_to(FlowId::from_handle(flow), &bytes, wait))
    }

    /// As `send_to` if there is room now; says whether.
    fn try_send_to(&self, py: Python<'_>, flow: u32, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let view = View::of(message)?;
        match self.inner.try_send_to(FlowId::from_handle(flow), view.bytes()) {
            Err(Error::WouldBlock) => Ok(false),
            outcome => outcome.or_raise(py).map(|()| true),
        }
    }

    /// The flow in channel mode between a peer and this end.
    fn find_flow(&self, py: Python<'_>, peer: &Bound<'_, PyAny>, local: &Bound<'_, PyAny>) -> PyResult<u32> {
        let (peer, local) = (address::parse(py, peer)?, address::parse(py, local)?);
        self.inner.find_flow(peer, local).or_raise(py).map(FlowId::handle)
    }

    /// Closes a flow in channel mode, in order.
    fn close_flow(&self, py: Python<'_>, flow: u32) -> PyResult<()> {
        self.inner.close_flow(FlowId::from_handle(flow)).or_raise(py)
    }

    /// What the sidecar knows of a flow in channel mode. A rare call, as `Flow.stats`.
    fn flow_stats(&self, py: Python<'_>, flow: u32) -> PyResult<FlowStats> {
        py.detach(|| self.inner.flow_stats(FlowId::from_handle(flow))).or_raise(py).map(FlowStats::from)
    }

    /// For an event loop over many flows: what came since the last call, at most `most`, as pairs of a token (`set_token`) and
    /// events (`machnet.News`, or'ed), so that the loop tries only those. Each is told once, as often as something comes. From the first
    /// call on only this call empties `fileno()`: when it has answered fewer than `most`, either that is readable or nothing has
    /// come since.
    #[pyo3(signature = (most=64))]
    fn take_news(&self, py: Python<'_>, most: usize) -> PyResult<Vec<(u64, u32)>> {
        let mut news = Vec::new();
        self.inner.take_news(&mut news, most).or_raise(py)?;
        Ok(news.into_iter().map(|news| (news.token, news.events)).collect())
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
        let Geometry {
            send_slots,
            receive_slots,
            tx_buffers,
            rx_buffers,
            buffer_bytes,
            max_flows,
            flow_credit,
        } = info.geometry;
        ChannelInfo {
            channel: info.channel,
            engine: info.engine,
            sidecar_pid: info.sidecar_pid,
            local: address::show(info.local),
            send_slots,
            receive_slots,
            tx_buffers,
            rx_buffers,
            buffer_bytes,
            max_flows,
            flow_credit,
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
