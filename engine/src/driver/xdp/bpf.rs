//! FENCE: bpf(2), which std and socket2 do not know: a map of sockets, the program, and the link that ties it to an interface.
#![expect(unsafe_code, reason = "fence: bpf(2) exists only as a system call that takes pointers")]

use super::program::{self, Instruction, Match};
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// Commands.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
/// Attach type of XDP programs.
const ATTACH_XDP: u32 = 37;

/// How the kernel names program and map to whoever looks (`bpftool`, `ip link`).
const NAME: [u8; 16] = *b"machnet_xdp\0\0\0\0\0";
/// The license that the program is loaded with; it calls nothing that asks for the GPL.
const LICENSE: &[u8] = b"MIT\0";
/// Bytes of the verifier's reasons that are kept.
const LOG_BYTES: usize = 4096;

/// Calls bpf(2) with one of the argument structures below.
///
/// # Safety
/// `arguments` is the structure that the command takes, and its pointers are valid for the call.
unsafe fn bpf<T>(command: libc::c_int, arguments: &mut T) -> io::Result<libc::c_int> {
    let pointer: *mut T = arguments;
    // SAFETY: the size is that of the structure; the caller vouches for what it holds.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// As of [`bpf`]; the command returns a new descriptor.
unsafe fn bpf_descriptor<T>(command: libc::c_int, arguments: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: passed on to the caller.
    let raw = unsafe { bpf(command, arguments) }?;
    // SAFETY: the kernel just made the descriptor for us; it is closed on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn address_of<T: ?Sized>(value: &T) -> u64 {
    let pointer: *const T = value;
    pointer.cast::<u8>().expose_provenance() as u64
}

fn size_u32<T: ?Sized>(value: &T) -> u32 {
    u32::try_from(size_of_val(value)).expect("a few kilobytes")
}

/// The sockets of all receive queues of an interface.
#[derive(Debug)]
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// A map for the queues 0 to `queues` - 1.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Arguments {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
            inner_map: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut arguments = Arguments {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
            map_flags: 0,
            inner_map: 0,
            numa_node: 0,
            name: NAME,
        };
        // SAFETY: the arguments of this command; no pointers.
        unsafe { bpf_descriptor(MAP_CREATE, &mut arguments) }.map(Self)
    }

    /// From now on, what comes by `queue` and is ours goes to `socket`. It leaves the map when it is closed.
    pub(super) fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        #[repr(C)]
        struct Arguments {
            map: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let value = socket.as_raw_fd();
        let mut arguments = Arguments {
            map: self.0.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: address_of(&queue),
            value: address_of(&value),
            flags: 0,
        };
        // SAFETY: the arguments of this command; key and value are of the map's sizes and outlive the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut arguments) }.map(drop)
    }
}

/// The program, checked by the kernel.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Gives the program to the kernel. An error of its verifier comes with the reasons that it gave.
    pub(super) fn load(wanted: &Match, map: &SocketMap) -> io::Result<Self> {
        let code = program::assemble(wanted, map.0.as_raw_fd());
        match Self::load_code(&code, None) {
            // The program is right, or our tests would not pass: what the verifier says goes to whoever runs a kernel of another mind.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let mut log = vec![0; LOG_BYTES];
                Self::load_code(&code, Some(&mut log)).map_err(|error| {
                    let text: Vec<u8> = log.into_iter().take_while(|byte| *byte != 0).collect();
                    io::Error::new(
                        error.kind(),
                        format!("{error}: {}", String::from_utf8_lossy(&text).trim()),
                    )
                })
            }
            other => other,
        }
    }

    fn load_code(code: &[Instruction], log: Option<&mut Vec<u8>>) -> io::Result<Self> {
        #[repr(C)]
        struct Arguments {
            program_type: u32,
            instructions: u32,
            code: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            attach_type: u32,
        }
        // The kernel reads instructions of eight bytes; make sure of their alignment.
        let code: Vec<u64> = code.iter().map(|code| u64::from_ne_bytes(*code)).collect();
        let (log_size, log) = match log {
            Some(log) => (size_u32(log.as_slice()), log.as_mut_ptr().expose_provenance() as u64),
            None => (0, 0),
        };
        let mut arguments = Arguments {
            program_type: PROG_TYPE_XDP,
            instructions: u32::try_from(code.len()).expect("some forty instructions"),
            code: address_of(code.as_slice()),
            license: address_of(LICENSE),
            log_level: u32::from(log_size > 0),
            log_size,
            log,
            kernel_version: 0,
            flags: 0,
            name: NAME,
            interface: 0,
            attach_type: ATTACH_XDP,
        };
        // SAFETY: the arguments of this command; code, license and log outlive the call, with the lengths given.
        unsafe { bpf_descriptor(PROG_LOAD, &mut arguments) }.map(Self)
    }

    /// Ties the program to an interface of this thread's network namespace, until the returned descriptor is closed: so
    /// it goes with the process, however that ends. `flags` says in which mode. Linux 5.9.
    pub(super) fn link(&self, interface: u32, flags: u32) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Arguments {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        let mut arguments = Arguments {
            program: self.0.as_raw_fd().cast_unsigned(),
            interface,
            attach_type: ATTACH_XDP,
            flags,
        };
        // SAFETY: the arguments of this command; no pointers.
        unsafe { bpf_descriptor(LINK_CREATE, &mut arguments) }
    }

    /// The number of its descriptor, as netlink wants it.
    pub(super) fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// What the program answers for `frame`, without any interface.
    #[cfg(test)]
    pub(super) fn answer(&self, frame: &[u8]) -> io::Result<u32> {
        #[repr(C)]
        struct Arguments {
            program: u32,
            answer: u32,
            in_bytes: u32,
            out_bytes: u32,
            input: u64,
            output: u64,
            repeat: u32,
            duration: u32,
        }
        let mut arguments = Arguments {
            program: self.0.as_raw_fd().cast_unsigned(),
            answer: 0,
            in_bytes: size_u32(frame),
            out_bytes: 0,
            input: address_of(frame),
            output: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: the arguments of this command; the frame outlives the call, and nothing is written but the arguments.
        unsafe { bpf(PROG_TEST_RUN, &mut arguments) }?;
        Ok(arguments.answer)
    }
}

#[cfg(test)]
mod tests;
