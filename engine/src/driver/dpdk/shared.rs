//! What the queues of a port have in common: how it is opened, and opened again when its device comes back.

use super::device::Device;
use super::plugin::{self, CONTROL, Plugin, RawPort};
use super::port::{self, Lack, PortInfo, PortPlan, Wanted};
use super::{OpenError, io_error};
use crate::driver::MacAddress;
use crate::driver::frame::LinkState;
use crate::driver::sys;
use socket2::Socket;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// `MACHNET_DPDK_LINK_UP` and `MACHNET_DPDK_LINK_GONE`.
const LINK_UP: i32 = 1;
const LINK_GONE: i32 = 2;

/// A port, and how to get it back.
#[derive(Debug)]
pub(super) struct Shared {
    plugin: &'static Plugin,
    device: Device,
    wanted: Wanted,
    info: PortInfo,
    /// The kernel's interface that the device sits on.
    below: Option<Below>,
    state: Mutex<State>,
}

/// An interface of the kernel, watched from the network namespace that the device was opened in.
#[derive(Debug)]
struct Below {
    /// Any socket of that namespace.
    socket: Socket,
    name: CString,
    /// Its number when the device was opened: another one of the same name is another interface.
    index: Mutex<u32>,
}

impl Below {
    fn new(name: &str) -> io::Result<Self> {
        let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        let below = Self { socket, name, index: Mutex::new(0) };
        *below.index.lock().unwrap_or_else(PoisonError::into_inner) = below.index_now().unwrap_or(0);
        Ok(below)
    }

    /// Whether frames can pass through the interface of that number; none: it is not there any more.
    fn now(&self, index: u32) -> Option<bool> {
        Some(sys::interface_now(self.socket.as_fd(), index).ok()?.is_running)
    }

    /// The number of the interface that has the name now.
    fn index_now(&self) -> io::Result<u32> {
        sys::interface_index(self.socket.as_fd(), &self.name)
    }
}

#[derive(Debug)]
struct State {
    generation: u64,
    port: Weak<RawPort>,
    plan: PortPlan,
    mac: MacAddress,
}

/// A port that was set up.
pub(super) struct Opened {
    pub(super) port: Arc<RawPort>,
    pub(super) info: PortInfo,
    pub(super) plan: PortPlan,
    pub(super) lacks: Vec<Lack>,
}

impl Opened {
    /// Makes the device if it is a virtual one, and sets its port up.
    pub(super) fn new(plugin: &'static Plugin, device: &Device, wanted: Wanted) -> Result<Self, OpenError> {
        let failed = |doing| {
            move |source| OpenError::Port {
                device: device.to_string(),
                doing,
                source,
                said: plugin::take_errors(),
            }
        };
        let alone = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
        plugin::take_errors();
        let is_virtual = matches!(device, Device::Virtual(_));
        if is_virtual {
            device.remove_dead_socket();
            plugin.plug(device.text()).map_err(failed("making it"))?;
        }
        let port = plugin.open(device.name(), is_virtual);
        // A port that fails from here on is closed when it is dropped, which takes the lock.
        drop(alone);
        let mut port = port.map_err(failed("finding its port"))?;
        let info = port.info().map_err(failed("asking what it can"))?;
        let (mut plan, lacks) = port::plan(&info, wanted)
            .map_err(|source| OpenError::Plan { device: device.to_string(), source })?;
        let set_up = |port: &mut RawPort, plan: &PortPlan| {
            let _alone = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
            port.set_up(plan)
        };
        let mut result = set_up(&mut port, &plan);
        if result.is_err() && plan.rx_interrupts {
            // Whether they are there depends on the kernel's driver below, too, which no one tells.
            tracing::debug!("{device}: without receive interrupts ({})", plugin::take_errors());
            plan.rx_interrupts = false;
            result = set_up(&mut port, &plan);
        }
        result.map_err(failed("setting it up"))?;
        Ok(Self { port: Arc::new(port), info, plan, lacks })
    }
}

impl Shared {
    pub(super) fn new(
        plugin: &'static Plugin,
        device: Device,
        wanted: Wanted,
        opened: &Opened,
    ) -> Result<Self, OpenError> {
        let below = match device.kernel_interface() {
            Some(name) => Some(Below::new(name).map_err(io_error("watching the interface"))?),
            None => None,
        };
        let state = State {
            generation: 0,
            port: Arc::downgrade(&opened.port),
            plan: opened.plan,
            mac: MacAddress(opened.info.mac),
        };
        Ok(Self { plugin, device, wanted, info: opened.info.clone(), below, state: Mutex::new(state) })
    }

    pub(super) fn driver(&self) -> &str {
        &self.info.driver
    }

    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    /// Whether frames pass.
    pub(super) fn link(&self, port: &RawPort) -> LinkState {
        if let Some(below) = &self.below {
            let index = *below.index.lock().unwrap_or_else(PoisonError::into_inner);
            // DPDK's drivers do not tell: they hold sockets, which know of no carrier, and of another interface of the name nothing.
            match below.now(index) {
                None => return LinkState::Gone,
                Some(false) => return LinkState::Down,
                Some(true) => {}
            }
        }
        match port.link() {
            LINK_UP => LinkState::Up,
            LINK_GONE => LinkState::Gone,
            _ => LinkState::Down,
        }
    }

    /// Opens the port again if `generation` is the last one and nobody uses it any more; or tells of the newer one.
    pub(super) fn reopen(&self, generation: u64) -> io::Result<(u64, Arc<RawPort>, MacAddress, PortPlan)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation > generation
            && let Some(port) = state.port.upgrade()
        {
            return Ok((state.generation, port, state.mac, state.plan));
        }
        if state.port.strong_count() > 0 {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another engine has not let go of the device yet",
            ));
        }
        if let Some(below) = &self.below {
            let index = below.index_now()?;
            *below.index.lock().unwrap_or_else(PoisonError::into_inner) = index;
        }
        let opened = Opened::new(self.plugin, &self.device, self.wanted)
            .map_err(|error| io::Error::other(error.to_string()))?;
        state.generation += 1;
        state.port = Arc::downgrade(&opened.port);
        state.plan = opened.plan;
        state.mac = MacAddress(opened.info.mac);
        Ok((state.generation, opened.port, state.mac, state.plan))
    }
}
