//! The driver `dpdk`: network cards and virtual devices through DPDK's poll-mode drivers, which the kernel's stack never sees.
//!
//! DPDK itself is in a plugin library with a small C interface (`dpdk/`), opened at run time, so that the sidecar needs no DPDK where
//! it is not used. One process has one environment of DPDK. Each engine has a queue pair and a pool of buffers of its own; a
//! cycle is one burst received and one sent.
//!
//! docs/drivers/dpdk.md has the commands.

pub mod abi;
mod device;
mod environment;
mod plugin;
pub mod port;
mod queue;
mod rings;
mod shared;

pub use device::{Device, DeviceError};
pub use plugin::{ABI, LinkedDriver, LoadError};
pub use queue::DpdkQueue;

use self::device::Kernel;
use self::plugin::Plugin;
use self::port::{PlanError, Wanted};
use self::shared::{Opened, Shared};
use crate::config::{Choice, Config, source_ports};
use crate::driver::frame::{FrameDriver, Framed, LinkState, Setup};
use crate::driver::{MacAddress, Route};
use crate::proto::PortRange;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The plugin's file name.
pub const PLUGIN_FILE: &str = "libmachnet_dpdk.so";
/// The poll-mode drivers that our tests pass frames through. There was no network card to run the others on.
pub const TESTED_DRIVERS: &[&str] =
    &["net_af_packet", "net_memif", "net_tap", "net_vhost", "net_virtio_user"];
/// Where the plugin lies, seen from the folder of the program.
const BESIDE_THE_PROGRAM: &[&str] = &["", "../lib/machnet", "../lib", "../dpdk"];
/// Where it lies else; then the system looks in its own folders.
const LIBRARY_FOLDERS: &[&str] = &["/usr/local/lib/machnet", "/usr/lib/machnet"];

/// A card gets so many looks, so far apart, until its link is up: nine seconds. Then the sidecar goes on without.
const LINK_LOOKS: u32 = 90;
const LINK_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What driver `dpdk` needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The card or virtual device.
    pub device: Device,
    /// One queue pair for each engine.
    pub queues: u16,
    /// Bytes of the largest IP packet; none: as the port has it.
    pub mtu: Option<u32>,
    /// Whether memory comes from huge pages.
    pub hugepages: Choice,
    /// The plugin library; none: looked for.
    pub plugin: Option<PathBuf>,
    /// Whether the interface of the default route may be taken.
    pub force: bool,
}

/// Why a device cannot be opened. Each is one sentence, with the command that helps where there is one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no plugin.
    #[error(
        "driver dpdk needs its plugin {PLUGIN_FILE}, which is in none of {folders}: build it with dpdk/build.sh (needs libdpdk-dev) and name it with --dpdk-plugin FILE"
    )]
    NoPlugin {
        /// Where it was looked for.
        folders: String,
    },
    /// The plugin cannot be used.
    #[error("cannot use the plugin of driver dpdk: {source}")]
    Plugin {
        /// What is wrong with it.
        source: LoadError,
    },
    /// The device cannot be taken.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There are too few huge pages.
    #[error(
        "driver dpdk needs huge pages, and there are too few free ones; as root: sysctl -w vm.nr_hugepages={pages} (or start with --hugepages off, which only works with an IOMMU or a virtual device)"
    )]
    HugePages {
        /// How many of 2 MiB would do.
        pages: u64,
    },
    /// DPDK's environment does not start.
    #[error("DPDK does not start ({source}): {said}")]
    Start {
        /// What it answered.
        source: io::Error,
        /// What it logged.
        said: String,
    },
    /// This process runs DPDK for another card.
    #[error("this process already runs DPDK for another device, and one process can run it once")]
    OtherDevice,
    /// The port is not as it has to be.
    #[error("{device} cannot be used: {source}")]
    Plan {
        /// The device.
        device: String,
        /// What does not fit.
        source: PlanError,
    },
    /// DPDK refuses.
    #[error("DPDK cannot use {device}: {doing} failed: {source}{}{said}", if said.is_empty() { "" } else { "; " })]
    Port {
        /// The device.
        device: String,
        /// What was tried.
        doing: &'static str,
        /// What it answered.
        source: io::Error,
        /// What it logged.
        said: String,
    },
    /// A setting is missing or does not fit.
    #[error("{0}")]
    Setting(String),
    /// The system refuses something else.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { doing, source }
}

/// What a plugin says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PluginInfo {
    /// Its file.
    pub path: PathBuf,
    /// The release of DPDK inside.
    pub dpdk: String,
    /// The drivers that are linked in.
    pub drivers: Vec<LinkedDriver>,
}

/// The plugin at `path`, or the one that is found, and what is in it.
pub fn plugin_info(path: Option<&Path>) -> Result<PluginInfo, OpenError> {
    let path = find_plugin(path)?;
    let plugin = load(&path)?;
    Ok(PluginInfo { path, dpdk: plugin.version(), drivers: plugin.drivers() })
}

/// The plugin's file: the one that was named, or the first that exists.
fn find_plugin(named: Option<&Path>) -> Result<PathBuf, OpenError> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let program = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let beside = program.iter().flat_map(|folder| BESIDE_THE_PROGRAM.iter().map(|below| folder.join(below)));
    let folders: Vec<PathBuf> = beside.chain(LIBRARY_FOLDERS.iter().map(PathBuf::from)).collect();
    let files = folders.iter().map(|folder| folder.join(PLUGIN_FILE));
    files.into_iter().find(|file| file.exists()).ok_or_else(|| {
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        OpenError::NoPlugin { folders: folders.join(", ") }
    })
}

/// Opens the plugin, once per file: it stays for the rest of the process.
fn load(path: &Path) -> Result<&'static Plugin, OpenError> {
    static LOADED: Mutex<Vec<(PathBuf, &'static Plugin)>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, plugin)) = loaded.iter().find(|(of, _)| of == path) {
        return Ok(plugin);
    }
    let plugin = Plugin::load(path).map_err(|source| OpenError::Plugin { source })?;
    let plugin: &'static Plugin = Box::leak(Box::new(plugin));
    loaded.push((path.to_owned(), plugin));
    Ok(plugin)
}

/// Opens what the settings name: a network path for each engine.
pub fn open(config: &Config) -> Result<Vec<Framed<DpdkQueue>>, OpenError> {
    let setup = setup(config)?;
    let device = match (&config.pci, &config.vdev) {
        (Some(card), _) => Device::Card(card.clone()),
        (None, Some(device)) => Device::Virtual(device.clone()).with_lasting_mac(setup.address),
        (None, None) => return Err(OpenError::Setting("driver dpdk needs --pci or --vdev".to_owned())),
    };
    let queues = u16::try_from(config.engines.max(1)).unwrap_or(u16::MAX);
    let settings = Settings {
        device,
        queues,
        mtu: config.mtu,
        hugepages: config.hugepages,
        plugin: config.dpdk_plugin.clone(),
        force: config.force,
    };
    Ok(Framed::group(&setup, open_queues(&settings)?))
}

/// What the host is on its network: all from the settings, because the kernel knows nothing of it.
fn setup(config: &Config) -> Result<Setup, OpenError> {
    let (IpAddr::V4(address), Some(prefix_bits)) = (config.address, config.prefix) else {
        let text = "driver dpdk needs an IPv4 address with the length of its network's prefix, such as --address 10.0.0.5/24";
        return Err(OpenError::Setting(text.to_owned()));
    };
    let mut routes = config.routes.clone();
    if let Some(gateway) = config.gateway {
        routes.push(Route { network: Ipv4Addr::UNSPECIFIED, prefix_bits: 0, via: Some(gateway) });
    }
    let ports = source_ports(config.udp_ports.as_ref(), config.udp_port, config.engines.max(1));
    let ports = PortRange::new(*ports.start(), *ports.end())
        .ok_or_else(|| OpenError::Setting("driver dpdk needs a UDP port, not 0".to_owned()))?;
    Ok(Setup {
        address,
        prefix_bits,
        routes,
        neighbours: config.neighbours.clone(),
        vlan: config.vlan,
        udp_port: config.udp_port,
        ports,
        mtu: config.mtu.map(|mtu| mtu as usize),
        // Not even on an interface of the kernel: the operator gives this host an address that the kernel does not have.
        kernel_answers: false,
    })
}

/// Opens a device: a frame driver for each engine.
pub fn open_queues(settings: &Settings) -> Result<Vec<DpdkQueue>, OpenError> {
    let plugin = load(&find_plugin(settings.plugin.as_deref())?)?;
    let Settings { device, queues, mtu, .. } = settings;
    let kernel = Kernel::running();
    kernel.check(device, &plugin.drivers(), settings.force)?;
    let memory = environment::choose_memory(settings.hugepages, device, *queues, &kernel)?;
    let cpus = crate::sys::allowed_cpus().map_err(io_error("asking for the processors of this process"))?;
    environment::start(plugin, device, memory, &cpus)?;

    let wanted = Wanted { queues: *queues, mtu: *mtu };
    let opened = Opened::new(plugin, device, wanted)?;
    let Opened { info, plan, lacks, .. } = &opened;
    for lack in lacks {
        if lack.is_warning() {
            tracing::warn!("{device}: {lack}");
        } else {
            tracing::info!("{device}: {lack}");
        }
    }
    let mac = MacAddress(info.mac);
    tracing::info!(
        "{device}: {} on {}, hardware address {mac}, {} queues of {} and {} descriptors, MTU {}",
        info.driver,
        plugin.version(),
        plan.queues,
        plan.rx_descriptors,
        plan.tx_descriptors,
        plan.mtu
    );
    let shared = Arc::new(Shared::new(plugin, device.clone(), wanted, &opened)?);
    let queue = |number| DpdkQueue::new(Arc::clone(&shared), number, 0, &opened.port, mac, plan);
    let mut queues =
        (0..plan.queues).map(queue).collect::<io::Result<Vec<_>>>().map_err(io_error("taking a queue"))?;
    wait_for_link(device, &mut queues[0]);
    Ok(queues)
}

/// A card's link may need seconds after a start. A virtual device waits for its peer, which may come when it likes.
fn wait_for_link(device: &Device, queue: &mut DpdkQueue) {
    if queue.link() == LinkState::Up {
        return;
    }
    if let Device::Virtual(_) = device {
        tracing::info!("{device}: the link is down; messages pass when the other end is there");
        return;
    }
    tracing::info!("{device}: waiting for its link");
    for _ in 0..LINK_LOOKS {
        thread::sleep(LINK_LOOK_PAUSE);
        if queue.link() == LinkState::Up {
            tracing::info!("{device}: the link is up");
            return;
        }
    }
    tracing::warn!("{device}: still no link; going on, and messages pass when it is up");
}
