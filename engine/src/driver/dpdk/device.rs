//! Which device is meant, and whether it can be taken: what the kernel says of it, before DPDK is asked.
//!
//! DPDK's own answer to most of these is "no port". Each gets one sentence with the command that helps.

use super::plugin::LinkedDriver;
use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Kernel drivers that hand a card to a program.
const USER_DRIVERS: &[&str] = &["vfio-pci", "igb_uio", "uio_pci_generic", "uio_hv_generic"];
/// DPDK drivers that work beside the kernel's: the card stays with it.
const BESIDE_THE_KERNEL: &[&str] = &["mlx5_pci", "mlx5_eth", "mlx4_pci", "net_mlx4", "net_mana"];
/// Arguments of virtual devices that name an interface of the kernel, by their driver.
const INTERFACE_ARGUMENTS: &[(&str, &str)] = &[
    ("net_af_packet", "iface"),
    ("eth_af_packet", "iface"),
    ("net_af_xdp", "iface"),
    ("net_pcap", "iface"),
    ("net_tap", "remote"),
];

/// A device of DPDK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Device {
    /// A network card, by its PCI address or, on Hyper-V, its VMBus identity; arguments may follow a comma.
    Card(String),
    /// A virtual device with its arguments, such as `net_memif0,role=server`.
    Virtual(String),
}

impl Device {
    /// As DPDK's command line has it, arguments and all.
    pub fn text(&self) -> &str {
        let (Self::Card(text) | Self::Virtual(text)) = self;
        text
    }

    /// The name of its port.
    pub fn name(&self) -> &str {
        self.text().split(',').next().unwrap_or_default()
    }

    /// The same device with a hardware address that follows from the host's IP address, if it would else have another one at each
    /// start: peers do not soon believe that a host whom they talk with has become another.
    pub(super) fn with_lasting_mac(self, address: Ipv4Addr) -> Self {
        let is_random = |name: &str| name.starts_with("net_memif") || name.starts_with("net_virtio_user");
        match self {
            Self::Virtual(text) if is_random(&text) && !text.contains(",mac=") => {
                let [a, b, c, d] = address.octets();
                Self::Virtual(format!("{text},mac=02:4d:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
            }
            other => other,
        }
    }

    /// The file of the socket that a virtual device makes, if it makes one.
    fn own_socket(&self) -> Option<&Path> {
        let Self::Virtual(text) = self else { return None };
        let argument = |key: &str| {
            let parts = text.split(',').filter_map(|part| part.split_once('='));
            parts.clone().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        if self.name().starts_with("net_memif") {
            let is_file = argument("role") == Some("server") && argument("socket-abstract") == Some("no");
            argument("socket").filter(|_| is_file).map(Path::new)
        } else if self.name().starts_with("net_vhost") {
            argument("iface").filter(|_| argument("client") != Some("1")).map(Path::new)
        } else {
            None
        }
    }

    /// Removes the file of a socket that a program left behind that was killed: DPDK would not start on it.
    pub(super) fn remove_dead_socket(&self) {
        let Some(path) = self.own_socket() else { return };
        // Whatever kind of socket it is: only one that nobody has any more refuses.
        if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            return;
        }
        let is_dead = UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if is_dead && fs::remove_file(path).is_ok() {
            tracing::info!("{self}: removed the socket {}, which nobody has any more", path.display());
        }
    }

    /// The interface of the kernel that a virtual device sits on.
    pub fn kernel_interface(&self) -> Option<&str> {
        let Self::Virtual(text) = self else { return None };
        let mut parts = text.split(',');
        let name = parts.next()?;
        let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let (_, key) = INTERFACE_ARGUMENTS.iter().find(|(of, _)| *of == driver)?;
        parts.find_map(|part| part.split_once('=').filter(|(name, _)| name == key).map(|(_, value)| value))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a device cannot be taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is none at this address.
    #[error(
        "there is no PCI device {card}; `lspci -D | grep -i -e ethernet -e network` lists the network cards of this host"
    )]
    NoSuchCard {
        /// The address.
        card: String,
    },
    /// The plugin has no driver for it.
    #[error(
        "the DPDK plugin has no driver for {card} ({vendor:04x}:{device:04x}); `machnet up --list-drivers` names those that it has, and --driver packet works with every card of the kernel's"
    )]
    NoDriver {
        /// The address.
        card: String,
        /// The PCI vendor.
        vendor: u16,
        /// The PCI device.
        device: u16,
    },
    /// The plugin has no driver of that name.
    #[error(
        "the DPDK plugin has no driver for the virtual device {device}; `machnet up --list-drivers` names those that it has"
    )]
    NoVirtualDriver {
        /// The device.
        device: String,
    },
    /// The kernel's driver has it.
    #[error(
        "{card} is still with the kernel's driver {driver}; as root: modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci {card} (the kernel then loses {interfaces})"
    )]
    KernelDriver {
        /// The address.
        card: String,
        /// The kernel's driver.
        driver: String,
        /// What the kernel calls it.
        interfaces: String,
    },
    /// No driver at all has it.
    #[error(
        "no kernel driver hands {card} out; as root: modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci {card}"
    )]
    Unbound {
        /// The address.
        card: String,
    },
    /// There is no IOMMU, and VFIO was not told to go without.
    #[error(
        "VFIO cannot hand {card} out because this machine has no IOMMU; if it is a virtual machine without one, as root: echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, and bind the card again"
    )]
    NoIommu {
        /// The address.
        card: String,
    },
    /// Its group of VFIO may not be opened.
    #[error("this user may not open {path}; as root: chown {user} {path}, or run machnet as root", path = path.display())]
    NoRights {
        /// The file.
        path: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// Another program has it.
    #[error("another program uses {card} ({path} is busy): `fuser -v {path}` names it", path = path.display())]
    Busy {
        /// The address.
        card: String,
        /// The file.
        path: PathBuf,
    },
    /// The host's way to the world.
    #[error(
        "the default route of this host leads through {interface}, which {device} would take; --force takes it all the same, and connections to this host may break"
    )]
    DefaultRoute {
        /// The interface.
        interface: String,
        /// The device.
        device: String,
    },
    /// The kernel does not have the interface that a virtual device names.
    #[error("there is no interface {interface}, which {device} is to use; `ip link` lists the interfaces")]
    NoInterface {
        /// The interface.
        interface: String,
        /// The device.
        device: String,
    },
}

/// The kernel's files, below `/` or where a test has some like them.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    root: PathBuf,
}

impl Kernel {
    pub(super) fn running() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// One whose files lie elsewhere.
    #[cfg(test)]
    pub(super) fn running_at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether the device may be taken, as far as the kernel knows.
    pub(super) fn check(
        &self,
        device: &Device,
        drivers: &[LinkedDriver],
        force: bool,
    ) -> Result<(), DeviceError> {
        match device {
            Device::Card(_) if is_pci(device.name()) => self.check_card(device.name(), drivers, force),
            // What VMBus has is for DPDK to find.
            Device::Card(_) => Ok(()),
            Device::Virtual(_) => {
                // Older names of the same drivers.
                let older = |name: &str| name.replacen("net_", "eth_", 1);
                let is_of = |name: &str| {
                    let device = device.name();
                    device.starts_with(name)
                        || device.starts_with(&older(name))
                        || name.strip_prefix("net_").is_some_and(|short| device.starts_with(short))
                };
                if !drivers.iter().any(|driver| is_of(&driver.name)) {
                    return Err(DeviceError::NoVirtualDriver { device: device.to_string() });
                }
                self.check_virtual(device, force)
            }
        }
    }

    fn check_virtual(&self, device: &Device, force: bool) -> Result<(), DeviceError> {
        let Some(interface) = device.kernel_interface() else { return Ok(()) };
        let (interface, device) = (interface.to_owned(), device.to_string());
        // Asked by name in the namespace of this thread, not by /sys, which may be that of another.
        if !self.interfaces().contains(&interface) {
            return Err(DeviceError::NoInterface { interface, device });
        }
        if !force && self.default_route_leads_through(&interface) {
            return Err(DeviceError::DefaultRoute { interface, device });
        }
        Ok(())
    }

    fn check_card(&self, card: &str, drivers: &[LinkedDriver], force: bool) -> Result<(), DeviceError> {
        let folder = self.root.join("sys/bus/pci/devices").join(card);
        let owned = || card.to_owned();
        if !folder.exists() {
            return Err(DeviceError::NoSuchCard { card: owned() });
        }
        let interfaces = names_in(&folder.join("net"));
        if let Some(interface) = interfaces.iter().find(|name| self.default_route_leads_through(name))
            && !force
        {
            return Err(DeviceError::DefaultRoute { interface: interface.clone(), device: owned() });
        }
        let id = |name: &str| hexadecimal(&folder.join(name)).unwrap_or(u16::MAX);
        let ids = ["vendor", "device", "subsystem_vendor", "subsystem_device"].map(id);
        let Some(driver) = drivers.iter().find(|driver| driver.fits(ids)) else {
            return Err(DeviceError::NoDriver { card: owned(), vendor: ids[0], device: ids[1] });
        };
        if BESIDE_THE_KERNEL.contains(&driver.name.as_str()) {
            return Ok(());
        }
        match link_name(&folder.join("driver")) {
            Some(driver) if USER_DRIVERS.contains(&driver.as_str()) => {
                if driver == "vfio-pci" {
                    self.check_group(card, &folder)
                } else {
                    Ok(())
                }
            }
            Some(driver) => {
                let interfaces = if interfaces.is_empty() { "it".to_owned() } else { interfaces.join(", ") };
                Err(DeviceError::KernelDriver { card: owned(), driver, interfaces })
            }
            None => Err(DeviceError::Unbound { card: owned() }),
        }
    }

    /// Whether VFIO would give the card's group to this process. The group is opened and closed again, which changes nothing.
    fn check_group(&self, card: &str, folder: &Path) -> Result<(), DeviceError> {
        let Some(group) = link_name(&folder.join("iommu_group")) else {
            return Err(DeviceError::NoIommu { card: card.to_owned() });
        };
        let files =
            [group.clone(), format!("noiommu-{group}")].map(|name| self.root.join("dev/vfio").join(name));
        let Some(path) = files.into_iter().find(|path| path.exists()) else { return Ok(()) };
        match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(DeviceError::NoRights { path, user: machnet_client::socket::effective_user() })
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                Err(DeviceError::Busy { card: card.to_owned(), path })
            }
            // Anything else DPDK explains better.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The interfaces of this network namespace: the first words of `/proc/net/dev`, behind two lines of headings.
    fn interfaces(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("proc/thread-self/net/dev")).unwrap_or_default();
        let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
        text.lines().skip(2).filter_map(name).collect()
    }

    /// `/proc/net/route` has a line per route: interface, network, gateway, flags, three counters, mask; numbers in hexadecimal.
    fn default_route_leads_through(&self, interface: &str) -> bool {
        let text = fs::read_to_string(self.root.join("proc/thread-self/net/route")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            words.len() > 7 && words[0] == interface && words[1] == "00000000" && words[7] == "00000000"
        })
    }

    /// Bytes of free huge pages of every size.
    pub(super) fn free_huge_pages(&self) -> u64 {
        let folder = self.root.join("sys/kernel/mm/hugepages");
        let free = |name: &String| {
            let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = fs::read_to_string(folder.join(name).join("free_hugepages")).ok()?;
            Some(size * 1_024 * count.trim().parse::<u64>().ok()?)
        };
        names_in(&folder).iter().filter_map(free).sum()
    }
}

/// "0000:00:05.0".
fn is_pci(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().all(is_hex) && parts.iter().map(|part| part.len()).eq([4, 2, 2, 1])
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The last part of what a symbolic link points to.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// A file with a number such as 0x8086.
fn hexadecimal(path: &Path) -> Option<u16> {
    let text = fs::read_to_string(path).ok()?;
    u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const CARD: &str = "0000:00:05.0";

    /// A kernel with one card.
    struct Fake {
        kernel: Kernel,
    }

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("machnet-dpdk-{name}-{}", std::process::id()));
            let fake = Self { kernel: Kernel { root } };
            for (file, text) in [
                ("vendor", "0x1d0f\n"),
                ("device", "0xec20\n"),
                ("subsystem_vendor", "0x1d0f\n"),
                ("subsystem_device", "0xec20\n"),
            ] {
                fake.write(&format!("{}/{file}", Self::card()), text);
            }
            fake.write("proc/thread-self/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
            fake.write("proc/thread-self/net/dev", "Inter-|\n face |\n  eth0: 1 2\n  eth1: 1 2\n");
            fake
        }

        fn card() -> String {
            format!("sys/bus/pci/devices/{CARD}")
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.kernel.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn bind(&self, driver: &str) {
            let link = self.kernel.root.join(Self::card()).join("driver");
            let _ = fs::remove_file(&link);
            symlink(format!("../../../../bus/pci/drivers/{driver}"), link).unwrap();
        }

        fn check(&self, device: &Device, force: bool) -> Result<(), DeviceError> {
            let driver = |name: &str, ids| LinkedDriver { name: name.to_owned(), ids };
            let ena = driver("net_ena", vec![[0x1d0f, 0xec20, 0xffff, 0xffff]]);
            let drivers = [ena, driver("net_af_packet", Vec::new()), driver("net_memif", Vec::new())];
            self.kernel.check(device, &drivers, force)
        }

        fn says(&self, device: &Device, words: &[&str]) {
            let text = self.check(device, false).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains('\n'), "one sentence: {text}");
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.kernel.root).unwrap();
        }
    }

    fn card() -> Device {
        Device::Card(CARD.to_owned())
    }

    #[test]
    fn a_card_that_cannot_be_taken_gets_the_sentence_that_helps() {
        let fake = Fake::new("card");
        fake.says(
            &Device::Card("0000:00:06.0".to_owned()),
            &["there is no PCI device 0000:00:06.0", "lspci"],
        );
        fake.says(&card(), &["no kernel driver", "dpdk-devbind.py --bind=vfio-pci 0000:00:05.0"]);
        fake.bind("ena");
        fake.write(&format!("{}/net/eth1/mtu", Fake::card()), "1500");
        fake.says(&card(), &["still with the kernel's driver ena", "dpdk-devbind.py", "loses eth1"]);
        fake.bind("vfio-pci");
        fake.says(&card(), &["no IOMMU", "enable_unsafe_noiommu_mode"]);
        symlink("../../kernel/iommu_groups/7", fake.kernel.root.join(Fake::card()).join("iommu_group"))
            .unwrap();
        assert_eq!(fake.check(&card(), false), Ok(()));
        fake.write("dev/vfio/7", "");
        assert_eq!(fake.check(&card(), false), Ok(()));
        fake.write(&format!("{}/device", Fake::card()), "0x0001\n");
        fake.says(&card(), &["no driver for 0000:00:05.0 (1d0f:0001)", "--list-drivers"]);
    }

    #[test]
    fn the_interface_of_the_default_route_is_only_taken_by_force() {
        let fake = Fake::new("route");
        fake.bind("vfio-pci");
        symlink("../../kernel/iommu_groups/7", fake.kernel.root.join(Fake::card()).join("iommu_group"))
            .unwrap();
        fake.write(&format!("{}/net/eth0/mtu", Fake::card()), "1500");
        fake.says(&card(), &["default route", "eth0", "0000:00:05.0", "--force"]);
        assert_eq!(fake.check(&card(), true), Ok(()));
        let on = |interface: &str| Device::Virtual(format!("net_af_packet0,iface={interface},qpairs=2"));
        fake.says(&on("eth0"), &["default route", "eth0", "--force"]);
        assert_eq!(fake.check(&on("eth0"), true), Ok(()));
        assert_eq!(fake.check(&on("eth1"), false), Ok(()));
        fake.says(&on("eth7"), &["no interface eth7", "ip link"]);
        assert_eq!(fake.check(&Device::Virtual("net_memif0,role=server".to_owned()), false), Ok(()));
        fake.says(
            &Device::Virtual("net_nonsense0".to_owned()),
            &["no driver", "net_nonsense0", "--list-drivers"],
        );
    }

    #[test]
    fn a_device_of_random_address_gets_one_that_lasts() {
        let with = |text: &str| {
            let device = Device::Virtual(text.to_owned()).with_lasting_mac([10, 0, 0, 200].into());
            device.text().to_owned()
        };
        assert_eq!(with("net_memif0,role=server"), "net_memif0,role=server,mac=02:4d:0a:00:00:c8");
        assert_eq!(with("net_memif0,mac=02:00:00:00:00:01"), "net_memif0,mac=02:00:00:00:00:01");
        assert_eq!(with("net_af_packet0,iface=eth1"), "net_af_packet0,iface=eth1");
    }

    #[test]
    fn the_interface_of_a_virtual_device_stands_in_its_arguments() {
        let interface = |text: &str| Device::Virtual(text.to_owned()).kernel_interface().map(str::to_owned);
        assert_eq!(interface("net_af_packet3,blocksz=4096,iface=eth9").as_deref(), Some("eth9"));
        assert_eq!(interface("net_tap0,iface=dtap0"), None);
        assert_eq!(interface("net_tap0,iface=dtap0,remote=eth9").as_deref(), Some("eth9"));
        assert_eq!(interface("net_memif0,role=client"), None);
        assert_eq!(interface("net_null0"), None);
    }

    #[test]
    fn a_socket_that_nobody_has_any_more_is_removed_and_no_other() {
        let fake = Fake::new("socket");
        let path = fake.kernel.root.join("memif.sock");
        let device = |role: &str| {
            Device::Virtual(format!("net_memif0,role={role},socket={},socket-abstract=no", path.display()))
        };
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        device("server").remove_dead_socket();
        assert!(path.exists(), "somebody listens");
        drop(listener);
        device("client").remove_dead_socket();
        assert!(path.exists(), "not ours to remove");
        device("server").remove_dead_socket();
        assert!(!path.exists());
        fake.write("memif.sock", "no socket");
        device("server").remove_dead_socket();
        assert!(path.exists(), "a file is not a socket");
    }

    #[test]
    fn free_huge_pages_of_all_sizes_count() {
        let fake = Fake::new("huge");
        assert_eq!(fake.kernel.free_huge_pages(), 0);
        fake.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n");
        fake.write("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
        assert_eq!(fake.kernel.free_huge_pages(), (3 << 21) + (1 << 30));
    }
}
