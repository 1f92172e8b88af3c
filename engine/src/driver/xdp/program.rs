//! The program that the kernel runs for each frame of the interface: ours go to our sockets, all others on to the kernel.
//!
//! It is some forty instructions, put together here for the address, the ports and the VLAN of one sidecar. That needs neither
//! a compiler for BPF nor a loader library, and what the kernel checks is what stands below.
//!
//! ```text
//! frame of at least Ethernet + [VLAN tag] + IPv4 + UDP bytes?      no: pass
//! EtherType IPv4, or our VLAN's tag and then IPv4?                 no: pass
//! version 4, no options?                                           no: pass
//! no fragment (offset and "more fragments" are 0)?                 no: pass
//! protocol UDP?                                                    no: pass
//! to our address?                                                  no: pass
//! to one of our ports?                                             no: pass
//! the socket of the receive queue that it came by; none there?         pass
//! ```

use crate::proto::PortRange;
use std::net::Ipv4Addr;

/// Which frames are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    /// The address that they are for; none: any.
    pub address: Option<Ipv4Addr>,
    /// The UDP ports that they are for.
    pub ports: PortRange,
    /// The VLAN that they have to be tagged with; none: untagged frames.
    pub vlan: Option<u16>,
}

/// One instruction as the kernel reads it (`struct bpf_insn`).
pub(super) type Instruction = [u8; 8];

/// What the program answers: the frame goes its usual way through the kernel.
pub(super) const XDP_PASS: u32 = 2;

/// Helper function `bpf_redirect_map`.
const REDIRECT_MAP: i32 = 51;

// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

// Lengths and places in the headers.
const ETHERNET_BYTES: i16 = 14;
const TAG_BYTES: i16 = 4;
const IPV4_BYTES: i16 = 20;
const UDP_BYTES: i16 = 8;
const ETHERTYPE_AT: i16 = 12;
const TAG_CONTROL_AT: i16 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_VLAN: u16 = 0x8100;
const VLAN_NUMBER_MASK: u16 = 0x0fff;
const VERSION_4_WITHOUT_OPTIONS: i32 = 0x45;
const FRAGMENT_AT: i16 = 6;
/// "More fragments" and the offset; "don't fragment" is of no concern.
const FRAGMENT_MASK: u16 = 0x3fff;
const PROTOCOL_AT: i16 = 9;
const PROTOCOL_UDP: i32 = 17;
const DESTINATION_AT: i16 = 16;
const DESTINATION_PORT_AT: i16 = 2;

/// A register of the machine.
#[derive(Clone, Copy)]
enum Register {
    /// What a call returned, and the program's answer.
    R0 = 0,
    /// The context at first; first argument of a call.
    R1 = 1,
    /// Second argument of a call; the frame until then.
    R2 = 2,
    /// Third argument of a call; the frame's end until then.
    R3 = 3,
    /// What was read from the frame.
    R4 = 4,
    /// Survives a call, as the kernel has it; here: the context.
    R6 = 6,
}
use Register::{R0, R1, R2, R3, R4, R6};

/// How many bytes a load takes. The value is the size field of the operation.
#[derive(Clone, Copy)]
enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// When a jump is taken. The value is the operation field.
#[derive(Clone, Copy)]
enum If {
    NotEqual = 0x50,
    Above = 0x20,
    Below = 0xa0,
}

/// Puts instructions one behind the other. All jumps go to one place: the end, where the frame is passed on.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<usize>,
}

impl Assembler {
    fn push(&mut self, operation: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        // The two registers are bit fields, which C lays out by the byte order.
        let registers =
            if cfg!(target_endian = "little") { to as u8 | from << 4 } else { (to as u8) << 4 | from };
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        self.code.push([operation, registers, o0, o1, i0, i1, i2, i3]);
    }

    /// `to = *(size *)(from + offset)`, in the byte order of this machine.
    fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.push(0x61 | size as u8, to, from as u8, offset, 0);
    }

    /// `to = from`
    fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from as u8, 0, 0);
    }

    /// `to = value`
    fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    /// `to += value`
    fn add(&mut self, to: Register, value: i16) {
        self.push(0x07, to, 0, 0, i32::from(value));
    }

    /// `to &= mask`
    fn mask(&mut self, to: Register, mask: u16) {
        self.push(0x57, to, 0, 0, i32::from(mask));
    }

    /// `to = (u16) ntohs(to)`
    fn half_from_network_order(&mut self, to: Register) {
        self.push(0xdc, to, 0, 0, 16);
    }

    /// Passes the frame on if a 32-bit comparison of `left` with `right` holds.
    fn pass_if(&mut self, left: Register, when: If, right: i32) {
        self.jumps.push(self.code.len());
        self.push(0x06 | when as u8, left, 0, 0, right);
    }

    /// Passes the frame on if `left > right`, both pointers.
    fn pass_if_beyond(&mut self, left: Register, right: Register) {
        self.jumps.push(self.code.len());
        self.push(0x05 | 0x08 | If::Above as u8, left, right as u8, 0, 0);
    }

    /// `to = the map with that descriptor`: two instructions long.
    fn load_map(&mut self, to: Register, descriptor: i32) {
        const PSEUDO_MAP_DESCRIPTOR: u8 = 1;
        self.push(0x18, to, PSEUDO_MAP_DESCRIPTOR, 0, descriptor);
        self.push(0, R0, 0, 0, 0);
    }

    /// `r0 = function(r1, r2, r3)`
    fn call(&mut self, function: i32) {
        self.push(0x85, R0, 0, 0, function);
    }

    /// Ends with `r0` as the answer.
    fn exit(&mut self) {
        self.push(0x95, R0, 0, 0, 0);
    }

    /// The end, to which all jumps go.
    fn pass(mut self) -> Vec<Instruction> {
        let end = self.code.len();
        for &at in &self.jumps {
            let distance = i16::try_from(end - at - 1).expect("some forty instructions");
            self.code[at][2..4].copy_from_slice(&distance.to_ne_bytes());
        }
        self.set(R0, XDP_PASS.cast_signed());
        self.exit();
        self.code
    }
}

/// `value` as a load of two bytes in network order finds it on this machine.
fn loaded(value: u16) -> u16 {
    value.to_be()
}

/// The program that gives what `wanted` says to the socket that the map with this descriptor has for the receive queue.
pub(super) fn assemble(wanted: &Match, map: i32) -> Vec<Instruction> {
    let ip = ETHERNET_BYTES + if wanted.vlan.is_some() { TAG_BYTES } else { 0 };
    let udp = ip + IPV4_BYTES;
    let mut code = Assembler::default();
    code.copy(R6, R1);
    code.load(Size::Word, R2, R6, DATA);
    code.load(Size::Word, R3, R6, DATA_END);
    code.copy(R4, R2);
    code.add(R4, udp + UDP_BYTES);
    code.pass_if_beyond(R4, R3);

    if let Some(vlan) = wanted.vlan {
        code.load(Size::Half, R4, R2, ETHERTYPE_AT);
        code.pass_if(R4, If::NotEqual, i32::from(loaded(ETHERTYPE_VLAN)));
        code.load(Size::Half, R4, R2, TAG_CONTROL_AT);
        code.mask(R4, loaded(VLAN_NUMBER_MASK));
        code.pass_if(R4, If::NotEqual, i32::from(loaded(vlan)));
    }
    code.load(Size::Half, R4, R2, ip - 2);
    code.pass_if(R4, If::NotEqual, i32::from(loaded(ETHERTYPE_IPV4)));
    code.load(Size::Byte, R4, R2, ip);
    code.pass_if(R4, If::NotEqual, VERSION_4_WITHOUT_OPTIONS);
    code.load(Size::Half, R4, R2, ip + FRAGMENT_AT);
    code.mask(R4, loaded(FRAGMENT_MASK));
    code.pass_if(R4, If::NotEqual, 0);
    code.load(Size::Byte, R4, R2, ip + PROTOCOL_AT);
    code.pass_if(R4, If::NotEqual, PROTOCOL_UDP);
    if let Some(address) = wanted.address {
        code.load(Size::Word, R4, R2, ip + DESTINATION_AT);
        code.pass_if(R4, If::NotEqual, i32::from_ne_bytes(address.octets()));
    }
    code.load(Size::Half, R4, R2, udp + DESTINATION_PORT_AT);
    code.half_from_network_order(R4);
    code.pass_if(R4, If::Below, i32::from(wanted.ports.first()));
    code.pass_if(R4, If::Above, i32::from(wanted.ports.last()));

    code.load(Size::Word, R2, R6, RX_QUEUE_INDEX);
    code.load_map(R1, map);
    // What the call answers where the map has no socket for the queue (Linux 5.3).
    code.set(R3, XDP_PASS.cast_signed());
    code.call(REDIRECT_MAP);
    code.exit();
    code.pass()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: PortRange = PortRange::new(31_580, 31_643).unwrap();

    #[test]
    fn every_jump_leads_to_the_end_that_passes_the_frame_on() {
        for (address, vlan) in [(None, None), (Some([10, 0, 0, 1].into()), None), (None, Some(7))] {
            let code = assemble(&Match { address, ports: PORTS, vlan }, 3);
            let end = code.len() - 2;
            let is_jump =
                |code: &Instruction| matches!(code[0] & 7, 5 | 6) && !matches!(code[0], 0x85 | 0x95);
            let jumps: Vec<usize> = (0..code.len()).filter(|&at| is_jump(&code[at])).collect();
            assert!(jumps.len() >= 7);
            for at in jumps {
                let distance = i16::from_ne_bytes([code[at][2], code[at][3]]);
                assert_eq!(at + 1 + usize::try_from(distance).unwrap(), end, "instruction {at}");
            }
            assert_eq!((code[end][0], code[end][4], code[end + 1][0]), (0xb7, 2, 0x95));
        }
    }
}
