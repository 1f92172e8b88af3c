//! The public structs, in the layouts that programs for the original C library were compiled with.
//! This file alone becomes `machnet_common.h`.

use std::ffi::c_void;

/// The largest message: 8 MiB, in bytes.
pub const MACHNET_MSG_MAX_LEN: usize = 8_388_608;

/// One flow as one side sees it. All fields are in host byte order, so 10.0.0.1 is `0x0A000001`.
///
/// `machnet_connect` answers it with `src` = this side and `dst` = the peer, ready for `machnet_send`. On a received
/// message `src` is the peer and `dst` is this side: swap both pairs to reply.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MachnetFlow {
    /// IPv4 address of the sender.
    pub src_ip: u32,
    /// IPv4 address of the receiver.
    pub dst_ip: u32,
    /// Flow port of the sender.
    pub src_port: u16,
    /// Flow port of the receiver.
    pub dst_port: u16,
}

/// The name that C programs use.
#[expect(non_camel_case_types, reason = "the C name")]
pub type MachnetFlow_t = MachnetFlow;

/// One piece of memory of a message.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachnetIovec {
    /// First byte. May be NULL only if `len` is 0.
    pub base: *mut c_void,
    /// Length in bytes.
    pub len: usize,
}

/// The name that C programs use.
#[expect(non_camel_case_types, reason = "the C name")]
pub type MachnetIovec_t = MachnetIovec;

/// One message that is spread over several pieces of memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MachnetMsgHdr {
    /// Length of the message in bytes. Send: how many bytes of the pieces are the message, so the pieces hold at least
    /// as many. Receive: set to the length of the message received.
    pub msg_size: u32,
    /// Send: the flow, `src` = this side. Receive: set to the flow, `src` = the peer.
    pub flow_info: MachnetFlow_t,
    /// The pieces, in order. Neither they nor their lengths are changed by a receive.
    pub msg_iov: *mut MachnetIovec_t,
    /// Number of pieces.
    pub msg_iovlen: usize,
    /// Reserved. Ignored by a send, set to 0 by a receive.
    pub flags: u16,
}

/// The name that C programs use.
#[expect(non_camel_case_types, reason = "the C name")]
pub type MachnetMsgHdr_t = MachnetMsgHdr;
