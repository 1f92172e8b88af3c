//! The plugin library, opened at run time: dpdk/machnet_dpdk.h in Rust.
//!
//! What is declared here is what stands there; a test compares sizes and offsets (`abi.rs`). A library is never closed again: DPDK's
//! threads live in it.
#![expect(
    unsafe_code,
    reason = "dlopen, and calls of C functions through the table that the plugin hands out"
)]

use super::port::{Limits, PortInfo, PortPlan};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

/// `MACHNET_DPDK_ABI`: the one that this sidecar knows.
pub const ABI: u32 = 1;
/// `MACHNET_DPDK_NAME_BYTES`.
const NAME_BYTES: usize = 64;
/// Most lines of errors that are kept to explain why something failed.
const KEPT_LINES: usize = 4;

/// `struct machnet_dpdk_frame`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RawFrame {
    pub(super) bytes: *mut u8,
    pub(super) buffer: *mut c_void,
    pub(super) length: u32,
    pub(super) flags: u32,
}

impl RawFrame {
    pub(super) const NONE: Self =
        Self { bytes: ptr::null_mut(), buffer: ptr::null_mut(), length: 0, flags: 0 };
}

/// `struct machnet_dpdk_limits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawLimits {
    pub(super) max: u16,
    pub(super) min: u16,
    pub(super) align: u16,
    pub(super) reserved: u16,
}

/// `struct machnet_dpdk_port_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RawPortInfo {
    pub(super) driver: [c_char; NAME_BYTES],
    pub(super) rx_offload_capa: u64,
    pub(super) tx_offload_capa: u64,
    pub(super) flow_type_rss_offloads: u64,
    pub(super) min_rx_bufsize: u32,
    pub(super) max_rx_pktlen: u32,
    pub(super) dev_flags: u32,
    pub(super) reserved: u32,
    pub(super) max_rx_queues: u16,
    pub(super) max_tx_queues: u16,
    pub(super) min_mtu: u16,
    pub(super) max_mtu: u16,
    pub(super) mtu: u16,
    pub(super) mac: [u8; 6],
    pub(super) rx_desc: RawLimits,
    pub(super) tx_desc: RawLimits,
}

/// `struct machnet_dpdk_port_plan`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawPortPlan {
    pub(super) rx_offloads: u64,
    pub(super) tx_offloads: u64,
    pub(super) rss_functions: u64,
    pub(super) buffer_bytes: u32,
    pub(super) buffers: u32,
    pub(super) queues: u16,
    pub(super) rx_descriptors: u16,
    pub(super) tx_descriptors: u16,
    pub(super) mtu: u16,
    pub(super) rx_interrupts: u32,
    pub(super) dev_flags: u32,
}

/// `struct machnet_dpdk_driver`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawDriver {
    pub(super) name: *const c_char,
    pub(super) ids: *const [u16; 4],
    pub(super) id_count: u64,
}

/// `struct machnet_dpdk_port`: opaque.
#[repr(C)]
#[derive(Debug)]
pub(super) struct OpaquePort {
    _nothing: [u8; 0],
}

/// `struct machnet_dpdk_queue`: opaque.
#[repr(C)]
#[derive(Debug)]
pub(super) struct OpaqueQueue {
    _nothing: [u8; 0],
}

type Log = extern "C" fn(level: c_int, line: *const c_char);
type Each = extern "C" fn(context: *mut c_void, name: *const c_char, value: u64);

/// `struct machnet_dpdk_table`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Table {
    pub(super) abi: u32,
    pub(super) size: u32,
    pub(super) version: unsafe extern "C" fn() -> *const c_char,
    pub(super) drivers: unsafe extern "C" fn(count: *mut u64) -> *const RawDriver,
    pub(super) start: unsafe extern "C" fn(argc: c_int, argv: *const *const c_char, log: Log) -> c_int,
    pub(super) plug: unsafe extern "C" fn(device: *const c_char) -> c_int,
    pub(super) open: unsafe extern "C" fn(name: *const c_char, port: *mut *mut OpaquePort) -> c_int,
    pub(super) info: unsafe extern "C" fn(port: *mut OpaquePort, into: *mut RawPortInfo) -> c_int,
    pub(super) set_up: unsafe extern "C" fn(port: *mut OpaquePort, plan: *const RawPortPlan) -> c_int,
    pub(super) queue: unsafe extern "C" fn(port: *mut OpaquePort, number: u16) -> *mut OpaqueQueue,
    pub(super) close: unsafe extern "C" fn(port: *mut OpaquePort, unplug: c_int),
    pub(super) link: unsafe extern "C" fn(port: *mut OpaquePort) -> c_int,
    pub(super) mtu: unsafe extern "C" fn(port: *mut OpaquePort) -> c_int,
    pub(super) statistics:
        unsafe extern "C" fn(port: *mut OpaquePort, each: Each, context: *mut c_void) -> c_int,
    pub(super) missed: unsafe extern "C" fn(port: *mut OpaquePort) -> u64,
    pub(super) thread_begins: unsafe extern "C" fn() -> c_int,
    pub(super) thread_ends: unsafe extern "C" fn(),
    pub(super) receive:
        unsafe extern "C" fn(queue: *mut OpaqueQueue, frames: *mut RawFrame, room: u32) -> u32,
    pub(super) lend: unsafe extern "C" fn(queue: *mut OpaqueQueue, frames: *mut RawFrame, wanted: u32) -> u32,
    pub(super) send: unsafe extern "C" fn(
        queue: *mut OpaqueQueue,
        frames: *const RawFrame,
        count: u32,
        refused: *mut u32,
    ) -> u32,
    pub(super) give_back: unsafe extern "C" fn(queue: *mut OpaqueQueue, frames: *const RawFrame, count: u32),
    pub(super) receive_fd: unsafe extern "C" fn(queue: *mut OpaqueQueue) -> c_int,
    pub(super) wake_on_receive: unsafe extern "C" fn(queue: *mut OpaqueQueue, on: c_int) -> c_int,
}

/// A poll-mode driver that is linked into the plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedDriver {
    /// Such as `net_ena`.
    pub name: String,
    /// PCI vendor and device, and vendor and device of the subsystem; 0xffff: any.
    pub ids: Vec<[u16; 4]>,
}

impl LinkedDriver {
    /// Whether it is for the card with these numbers, as in [`Self::ids`].
    pub fn fits(&self, card: [u16; 4]) -> bool {
        let is_any = |id: u16| id == u16::MAX;
        self.ids.iter().any(|ids| ids.iter().zip(card).all(|(&id, of_card)| is_any(id) || id == of_card))
    }
}

/// Why a library cannot be the plugin.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// The system could not open it.
    #[error("{text}")]
    Open {
        /// What the system said.
        text: String,
    },
    /// It is another library.
    #[error("{} is not Machnet's plugin for DPDK", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another release of Machnet.
    #[error(
        "{} is of another release: it has interface {found}, and this sidecar needs {ABI}; build it again with dpdk/build.sh",
        path.display()
    )]
    OtherAbi {
        /// The file.
        path: PathBuf,
        /// The number it tells.
        found: u32,
    },
}

/// An open plugin.
#[derive(Debug)]
pub(super) struct Plugin {
    table: &'static Table,
}

/// What DPDK said last of what failed.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A line of DPDK's log. Errors are kept, too, so that a failed call can be explained.
extern "C" fn log_line(level: c_int, line: *const c_char) {
    const ERROR: c_int = 3;
    // SAFETY: the plugin hands over a line that ends in a zero and lives as long as the call.
    let line = unsafe { CStr::from_ptr(line) }.to_string_lossy();
    if level > ERROR {
        tracing::debug!("{line}");
        return;
    }
    tracing::debug!("error of {line}");
    let mut kept = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT_LINES {
        kept.remove(0);
    }
    kept.push(line.into_owned());
}

/// The errors that DPDK logged since this was last asked, in one line.
pub(super) fn take_errors() -> String {
    let lines = std::mem::take(&mut *ERRORS.lock().unwrap_or_else(PoisonError::into_inner));
    lines.join("; ")
}

fn result_of(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a text with a zero in it"))
}

impl Plugin {
    /// Opens the library at `path`; a name without a slash is looked for as the system looks for libraries.
    pub(super) fn load(path: &Path) -> Result<Self, LoadError> {
        let not_ours = || LoadError::NotOurs { path: path.to_owned() };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| not_ours())?;
        // SAFETY: a C string; what the library's constructors do is DPDK's business.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(LoadError::Open { text: last_dl_error() });
        }
        // SAFETY: an open library and a C string.
        let symbol = unsafe { libc::dlsym(library, c"machnet_dpdk_table".as_ptr()) };
        if symbol.is_null() {
            return Err(not_ours());
        }
        // SAFETY: the plugin's only function has this signature in every release of it.
        let hand_out: unsafe extern "C" fn() -> *const Table = unsafe { std::mem::transmute(symbol) };
        // SAFETY: it takes nothing and answers a pointer to a constant.
        let table = unsafe { hand_out() };
        if table.is_null() {
            return Err(not_ours());
        }
        // SAFETY: tables of all releases begin with these two numbers.
        let [abi, size] = unsafe { table.cast::<[u32; 2]>().read() };
        if abi != ABI || (size as usize) < size_of::<Table>() {
            return Err(LoadError::OtherAbi { path: path.to_owned(), found: abi });
        }
        // SAFETY: the number says that it is a table as declared here; the library stays, so it is there for ever.
        Ok(Self { table: unsafe { &*table } })
    }

    /// The release of DPDK.
    pub(super) fn version(&self) -> String {
        // SAFETY: a function of the table that answers a constant C string.
        unsafe { CStr::from_ptr((self.table.version)()) }.to_string_lossy().into_owned()
    }

    /// The drivers that are linked in.
    pub(super) fn drivers(&self) -> Vec<LinkedDriver> {
        let mut count = 0;
        // SAFETY: the function writes the number of the elements that it answers.
        let first = unsafe { (self.table.drivers)(&raw mut count) };
        let owned = |driver: &RawDriver| LinkedDriver {
            // SAFETY: a constant C string.
            name: unsafe { CStr::from_ptr(driver.name) }.to_string_lossy().into_owned(),
            // SAFETY: so many constant elements.
            ids: unsafe { list(driver.ids, driver.id_count) }.to_vec(),
        };
        // SAFETY: so many constant elements.
        unsafe { list(first, count) }.iter().map(owned).collect()
    }

    /// Starts DPDK's environment with this command line. The calling thread belongs to it from then on.
    pub(super) fn start(&self, arguments: &[String]) -> io::Result<()> {
        let arguments = arguments.iter().map(|text| c_string(text)).collect::<io::Result<Vec<_>>>()?;
        let pointers: Vec<_> = arguments.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        // SAFETY: so many C strings, which the plugin copies.
        result_of(unsafe { (self.table.start)(count, pointers.as_ptr(), log_line) })
    }

    /// Makes a virtual device.
    pub(super) fn plug(&self, device: &str) -> io::Result<()> {
        let device = c_string(device)?;
        // SAFETY: a C string that outlives the call.
        result_of(unsafe { (self.table.plug)(device.as_ptr()) })
    }

    /// Takes the port of a device; `unplug`: the device goes with it.
    pub(super) fn open(&self, name: &str, unplug: bool) -> io::Result<RawPort> {
        let name = c_string(name)?;
        let mut port = ptr::null_mut();
        // SAFETY: a C string, and room for a pointer.
        result_of(unsafe { (self.table.open)(name.as_ptr(), &raw mut port) })?;
        let port = NonNull::new(port).ok_or_else(|| io::Error::other("the plugin gave no port"))?;
        Ok(RawPort { table: self.table, port, unplug })
    }
}

/// # Safety
/// `first` is null or points to `count` elements that are never changed.
unsafe fn list<T>(first: *const T, count: u64) -> &'static [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or(0)) }
}

fn last_dl_error() -> String {
    // SAFETY: answers null or a C string that lives until the thread's next dl call; it is copied here.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason is known".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A port, closed when dropped. Its calls are made under one lock of all ports, but for those that may go beside.
#[derive(Debug)]
pub(super) struct RawPort {
    pub(super) table: &'static Table,
    port: NonNull<OpaquePort>,
    unplug: bool,
}

// SAFETY: the plugin's ports are not bound to a thread. `info` and `set_up` need `&mut`; the others may be called at the same time.
unsafe impl Send for RawPort {}
// SAFETY: as above.
unsafe impl Sync for RawPort {}

/// DPDK's calls that make, change and take away devices, one at a time.
pub(super) static CONTROL: Mutex<()> = Mutex::new(());

impl RawPort {
    pub(super) fn info(&mut self) -> io::Result<PortInfo> {
        // SAFETY: zeros are valid for arrays of integers.
        let mut raw: RawPortInfo = unsafe { std::mem::zeroed() };
        // SAFETY: an open port, and room for the answer.
        result_of(unsafe { (self.table.info)(self.port.as_ptr(), &raw mut raw) })?;
        let limits = |raw: RawLimits| Limits { max: raw.max, min: raw.min, align: raw.align };
        // SAFETY: the plugin ends the name with a zero inside the array.
        let driver = unsafe { CStr::from_ptr(raw.driver.as_ptr()) };
        Ok(PortInfo {
            driver: driver.to_string_lossy().into_owned(),
            mac: raw.mac,
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            rx_desc: limits(raw.rx_desc),
            tx_desc: limits(raw.tx_desc),
            min_mtu: raw.min_mtu,
            max_mtu: raw.max_mtu,
            mtu: raw.mtu,
            min_rx_bufsize: raw.min_rx_bufsize,
            max_rx_pktlen: raw.max_rx_pktlen,
            rx_offload_capa: raw.rx_offload_capa,
            tx_offload_capa: raw.tx_offload_capa,
            flow_type_rss_offloads: raw.flow_type_rss_offloads,
            dev_flags: raw.dev_flags,
        })
    }

    /// Sets the port up and starts it.
    pub(super) fn set_up(&mut self, plan: &PortPlan) -> io::Result<()> {
        let raw = RawPortPlan {
            rx_offloads: plan.rx_offloads,
            tx_offloads: plan.tx_offloads,
            rss_functions: plan.rss_functions,
            buffer_bytes: plan.buffer_bytes,
            buffers: plan.buffers,
            queues: plan.queues,
            rx_descriptors: plan.rx_descriptors,
            tx_descriptors: plan.tx_descriptors,
            mtu: plan.mtu,
            rx_interrupts: u32::from(plan.rx_interrupts),
            dev_flags: plan.dev_flags,
        };
        // SAFETY: an open port, and a plan that outlives the call.
        result_of(unsafe { (self.table.set_up)(self.port.as_ptr(), &raw const raw) })
    }

    /// One queue, while the port lives.
    pub(super) fn queue(&self, number: u16) -> Option<NonNull<OpaqueQueue>> {
        // SAFETY: an open port.
        NonNull::new(unsafe { (self.table.queue)(self.port.as_ptr(), number) })
    }

    /// `MACHNET_DPDK_LINK_*`.
    pub(super) fn link(&self) -> c_int {
        // SAFETY: an open port.
        unsafe { (self.table.link)(self.port.as_ptr()) }
    }

    pub(super) fn missed(&self) -> u64 {
        // SAFETY: an open port.
        unsafe { (self.table.missed)(self.port.as_ptr()) }
    }

    pub(super) fn statistics(&self, mut each: &mut dyn FnMut(&str, u64)) {
        extern "C" fn one(context: *mut c_void, name: *const c_char, value: u64) {
            // SAFETY: the pointer that `statistics` handed over, which outlives its call.
            let each = unsafe { &mut *context.cast::<&mut dyn FnMut(&str, u64)>() };
            // SAFETY: a C string that lives as long as this call.
            each(&unsafe { CStr::from_ptr(name) }.to_string_lossy(), value);
        }
        let context: *mut &mut dyn FnMut(&str, u64) = &raw mut each;
        // SAFETY: an open port, and a context that `one` understands. A port that counts nothing answers an error: no statistics.
        let _: c_int = unsafe { (self.table.statistics)(self.port.as_ptr(), one, context.cast()) };
    }
}

impl Drop for RawPort {
    fn drop(&mut self) {
        let _alone = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: an open port, which nobody uses any more: queues keep their port alive.
        unsafe { (self.table.close)(self.port.as_ptr(), c_int::from(self.unplug)) };
    }
}
