//! A copy of the ARP frames of the interface. The XDP program passes them all on to the kernel, which answers for its address;
//! what the kernel learns we would have to ask it for, so we listen ourselves.

use super::sys;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// Every protocol: before the kernel gives a tagged frame to the VLAN's own interface, and with it the tag.
const ETHERTYPE_ALL: u16 = 3;
const ADDRESSES_BYTES: usize = 12;
const TAG_BYTES: usize = 4;
/// `PACKET_IGNORE_OUTGOING` (Linux 4.20).
const IGNORE_OUTGOING: libc::c_int = 23;
/// Larger than any ARP frame with its padding.
const FRAME_BYTES: usize = 128;

/// The tap.
#[derive(Debug)]
pub(super) struct ArpTap {
    socket: Socket,
    vlan: Option<u16>,
    buffer: [u8; FRAME_BYTES + TAG_BYTES],
}

impl ArpTap {
    /// Listens at the interface: to untagged ARP frames, or to those of one VLAN.
    pub(super) fn open(interface: u32, vlan: Option<u16>) -> io::Result<Self> {
        // Bound to no protocol at first: nothing comes before the filter stands.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(vlan))?;
        // Refused by older kernels: then we hear our own questions, too, which teach nothing.
        let _: io::Result<()> =
            crate::driver::sys::set_option(socket.as_fd(), libc::SOL_PACKET, IGNORE_OUTGOING, 1);
        let protocol = if vlan.is_some() { ETHERTYPE_ALL } else { ETHERTYPE_ARP };
        sys::bind_to_protocol(&socket, interface, protocol)?;
        Ok(Self { socket, vlan, buffer: [0; FRAME_BYTES + TAG_BYTES] })
    }

    /// The socket: readable while frames wait.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next frame, with its tag where there is one; none if none waits. An error is of the interface.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let length = match self.socket.read(&mut self.buffer[..FRAME_BYTES]) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(vlan) = self.vlan.filter(|_| length > ADDRESSES_BYTES) else {
            return Ok(Some(&self.buffer[..length]));
        };
        // The kernel took the tag out; the filter saw which it was.
        self.buffer.copy_within(ADDRESSES_BYTES..length, ADDRESSES_BYTES + TAG_BYTES);
        self.buffer[ADDRESSES_BYTES..ADDRESSES_BYTES + 2].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        self.buffer[ADDRESSES_BYTES + 2..ADDRESSES_BYTES + 4].copy_from_slice(&vlan.to_be_bytes());
        Ok(Some(&self.buffer[..length + TAG_BYTES]))
    }
}

/// Lets ARP frames through that are not tagged, or tagged with `vlan`, and cuts what is longer than any.
fn filter(vlan: Option<u16>) -> Vec<SockFilter> {
    // Classic BPF: load a half-word of the frame, load a word of what the kernel knows, compare, mask, return.
    let load_half = |at: u32| SockFilter::new(0x28, 0, 0, at);
    let load_known = |what: i32| SockFilter::new(0x20, 0, 0, (AD_OFFSET + what).cast_unsigned());
    let equal = |value: u32, no: u8| SockFilter::new(0x15, 0, no, value);
    let and = |mask: u32| SockFilter::new(0x54, 0, 0, mask);
    let answer = |bytes: u32| SockFilter::new(0x06, 0, 0, bytes);
    let kept = u32::try_from(FRAME_BYTES).expect("a constant");
    let arp = u32::from(ETHERTYPE_ARP);
    match vlan {
        None => {
            vec![load_half(12), equal(arp, 3), load_known(TAG_PRESENT), equal(0, 1), answer(kept), answer(0)]
        }
        Some(vlan) => vec![
            load_half(12),
            equal(arp, 6),
            load_known(TAG_PRESENT),
            equal(1, 4),
            load_known(TAG),
            and(0xfff),
            equal(u32::from(vlan), 1),
            answer(kept),
            answer(0),
        ],
    }
}

// What the kernel knows of a frame, as addresses of a filter (`SKF_AD_*`).
const AD_OFFSET: i32 = -0x1000;
const TAG: i32 = 44;
const TAG_PRESENT: i32 = 48;
