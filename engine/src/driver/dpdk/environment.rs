//! DPDK's environment: one per process, started by a thread of its own.

use super::device::{Device, Kernel};
use super::plugin::{self, Plugin};
use super::port::PortPlan;
use super::{OpenError, io_error};
use crate::config::Choice;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

/// Memory in MiB where there are no huge pages, if nothing asks for more.
const SMALLEST_MEMORY_MIB: u64 = 256;
/// What DPDK needs for itself.
const OWN_MEMORY_BYTES: u64 = 32 << 20;
/// A frame of the largest packets that are planned for, before a port can be asked.
const LARGEST_BUFFER: u32 = 9_216;

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    /// Free huge pages, without a file system of them.
    HugePages,
    /// Plain pages, so many MiB, taken at once.
    Plain(u64),
}

/// Which memory to take. Cards work without huge pages only where there is an IOMMU, and slowly: one says so, or has none.
pub(super) fn choose_memory(
    choice: Choice,
    device: &Device,
    queues: u16,
    kernel: &Kernel,
) -> Result<Memory, OpenError> {
    let plan = PortPlan { queues, buffers: 1_023, buffer_bytes: LARGEST_BUFFER, ..PortPlan::default() };
    let plain = Memory::Plain(SMALLEST_MEMORY_MIB.max((plan.memory_bytes() + OWN_MEMORY_BYTES) >> 20));
    let small = PortPlan { buffer_bytes: 2_048, ..plan };
    let needed = small.memory_bytes() + OWN_MEMORY_BYTES;
    let enough = kernel.free_huge_pages() >= needed;
    match choice {
        Choice::Off => Ok(plain),
        Choice::Auto | Choice::On if enough => Ok(Memory::HugePages),
        Choice::Auto if matches!(device, Device::Virtual(_)) => Ok(plain),
        Choice::Auto | Choice::On => Err(OpenError::HugePages { pages: needed.div_ceil(2 << 20) }),
    }
}

/// DPDK's command line. One logical core that is all of `cpus` at once: so DPDK binds no thread to a processor.
pub(super) fn arguments(device: &Device, memory: Memory, cpus: &[u32], process: u32) -> Vec<String> {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["machnet".to_owned(), "--no-telemetry".to_owned()];
    match memory {
        // One file per kind of page, because the peer of a vhost-user device maps them all.
        Memory::HugePages => arguments.extend(["--in-memory", "--single-file-segments"].map(str::to_owned)),
        Memory::Plain(mib) => {
            arguments.extend(["--no-huge", "--no-shconf", "-m"].map(str::to_owned));
            arguments.push(mib.to_string());
        }
    }
    arguments.push(format!("--file-prefix=machnet-{process}"));
    arguments.push(format!("--lcores=0@({})", cpus.join(",")));
    match device {
        Device::Card(text) => arguments.extend(["-a".to_owned(), text.clone()]),
        Device::Virtual(_) => arguments.push("--no-pci".to_owned()),
    }
    arguments
}

/// The one environment of this process, if it was started, with what it was started for.
static STARTED: Mutex<Option<Started>> = Mutex::new(None);

/// Cards that DPDK may touch; none: virtual devices only.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Started {
    card: Option<String>,
}

/// Starts DPDK if this process has not yet.
pub(super) fn start(
    plugin: &'static Plugin,
    device: &Device,
    memory: Memory,
    cpus: &[u32],
) -> Result<(), OpenError> {
    let wanted = Started {
        card: match device {
            Device::Card(text) => Some(text.clone()),
            Device::Virtual(_) => None,
        },
    };
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*started {
        Some(present) if *present == wanted || wanted.card.is_none() => return Ok(()),
        Some(_) => return Err(OpenError::OtherDevice),
        None => {}
    }
    let arguments = arguments(device, memory, cpus, std::process::id());
    tracing::debug!("starting {} with: {}", plugin.version(), arguments.join(" "));
    // DPDK binds the thread that starts it and counts it among its own; this one does nothing else, and stays.
    let (tell, outcome) = mpsc::channel();
    let body = move || {
        let result = plugin.start(&arguments);
        let goes_on = result.is_ok();
        if tell.send(result).is_ok() && goes_on {
            loop {
                thread::park();
            }
        }
    };
    let thread = thread::Builder::new().name("dpdk-main".to_owned()).spawn(body);
    thread.map_err(io_error("starting DPDK's thread"))?;
    let result = outcome.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")));
    // Even a failed start cannot be repeated in the same process.
    *started = Some(wanted);
    result.map_err(|source| OpenError::Start { source, said: plugin::take_errors() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_card_and_binds_no_thread() {
        let card = Device::Card("0000:00:05.0".to_owned());
        let line = arguments(&card, Memory::HugePages, &[0, 3], 77).join(" ");
        assert_eq!(
            line,
            "machnet --no-telemetry --in-memory --single-file-segments --file-prefix=machnet-77 --lcores=0@(0,3) -a 0000:00:05.0"
        );
        let virtual_one = Device::Virtual("net_memif0,role=server".to_owned());
        let line = arguments(&virtual_one, Memory::Plain(256), &[1], 77).join(" ");
        assert_eq!(
            line,
            "machnet --no-telemetry --no-huge --no-shconf -m 256 --file-prefix=machnet-77 --lcores=0@(1) --no-pci"
        );
        // Together they are refused.
        assert!(!line.contains("--in-memory"));
    }

    #[test]
    fn a_virtual_device_goes_without_huge_pages_and_a_card_only_when_told() {
        let none = Kernel::running_at("there-is-no-such-folder");
        let card = Device::Card("0000:00:05.0".to_owned());
        let vdev = Device::Virtual("net_memif0".to_owned());
        assert_eq!(choose_memory(Choice::Auto, &vdev, 1, &none).unwrap(), Memory::Plain(256));
        assert_eq!(choose_memory(Choice::Off, &card, 1, &none).unwrap(), Memory::Plain(256));
        assert_eq!(choose_memory(Choice::Off, &card, 64, &none).unwrap(), Memory::Plain(627));
        for (choice, device) in [(Choice::On, &vdev), (Choice::On, &card), (Choice::Auto, &card)] {
            let error = choose_memory(choice, device, 1, &none).unwrap_err().to_string();
            assert!(error.contains("sysctl -w vm.nr_hugepages=18"), "{error}");
        }
    }
}
