//! The native half of the Python package `machnet`: calls of `machnet-client`, with Python's buffers, exceptions and signals.
//!
//! Everything is tried once with the interpreter held, because most calls take less time than letting go of it; whatever has to
//! wait, waits without it.

mod address;
mod buffer;
mod channel;
mod errors;
mod fast;
mod flow;
mod held;
mod listener;
mod message;
mod stats;
mod stream;
mod wait;

use pyo3::prelude::*;

/// Native calls of the package `machnet`. They rely on the interpreter's lock ([`held`]).
#[pymodule(gil_used = true)]
fn _machnet(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("ERROR_CODES", errors::codes(module.py())?)?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<channel::ChannelInfo>()?;
    module.add_class::<channel::Arrival>()?;
    module.add_class::<channel::Canceller>()?;
    module.add_class::<flow::Flow>()?;
    module.add_class::<listener::Listener>()?;
    module.add_class::<listener::PendingConnect>()?;
    module.add("Message", message::class(module.py())?)?;
    module.add_class::<message::Loan>()?;
    module.add_class::<stats::FlowStats>()?;
    module.add_class::<stream::RawStream>()?;
    fast::install(module.py())?;
    module.add_function(wrap_pyfunction!(channel::attach, module)?)
}
