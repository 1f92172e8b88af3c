//! What rtnetlink says of one interface, and how an XDP program is tied to it where the kernel has no links for that.

use crate::driver::MacAddress;
use crate::driver::netlink::{attributes, u16_at, u32_at};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};

const NETLINK_ROUTE: i32 = 0;

// Message types and flags.
const MESSAGE_ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACKNOWLEDGE: u16 = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

// Attributes of an interface.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const XDP: u16 = 43;
const XDP_DESCRIPTOR: u16 = 1;
const XDP_ATTACHED: u16 = 2;
const XDP_FLAGS: u16 = 3;
const XDP_PROGRAM: u16 = 4;

const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
/// Larger than any answer about one interface.
const ANSWER_BYTES: usize = 32_768;
/// Most messages that are looked at for one answer.
const MOST_MESSAGES: usize = 16;

/// An interface as it is now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: MacAddress,
    pub(super) mtu: usize,
    /// What made it (`veth`, `tun`); empty for what has hardware below it.
    pub(super) kind: String,
    /// Queues that were made with it.
    pub(super) rx_queues: u32,
    /// Queues that were made with it.
    pub(super) tx_queues: u32,
    /// The number of the XDP program that is tied to it.
    pub(super) xdp_program: Option<u32>,
}

/// A socket that asks about the interfaces of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    answer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket =
            Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_ROUTE)))?;
        // The kernel answers before `send` returns, so nothing is ever waited for.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, answer: vec![0; ANSWER_BYTES], sequence: 0 })
    }

    /// The interface of that name; none if there is none.
    pub(super) fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Request::new(GET_LINK, FLAG_REQUEST, 0);
        request.attribute(NAME, &[name.as_bytes(), &[0]].concat());
        self.link(request)
    }

    /// The interface of that number; none if there is none.
    pub(super) fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.link(Request::new(GET_LINK, FLAG_REQUEST, index))
    }

    fn link(&mut self, request: Request) -> io::Result<Option<Link>> {
        match self.ask(request) {
            Ok(Some(link)) => Ok(Some(link)),
            Ok(None) => Err(io::Error::other("rtnetlink answered without an interface")),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ties the program with that descriptor to the interface, or none with -1.
    pub(super) fn set_xdp(&mut self, index: u32, program: i32, flags: u32) -> io::Result<()> {
        let mut request = Request::new(SET_LINK, FLAG_REQUEST | FLAG_ACKNOWLEDGE, index);
        let mut nested = Vec::new();
        attribute(&mut nested, XDP_DESCRIPTOR, &program.to_ne_bytes());
        attribute(&mut nested, XDP_FLAGS, &flags.to_ne_bytes());
        request.attribute(XDP | NESTED, &nested);
        self.ask(request).map(drop)
    }

    /// Sends the request and reads its answer: an interface, or that it is done.
    fn ask(&mut self, request: Request) -> io::Result<Option<Link>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&request.finish(self.sequence))?;
        for _ in 0..MOST_MESSAGES {
            let length = self.socket.read(&mut self.answer)?;
            if let Some(answer) = parse(&self.answer[..length], self.sequence) {
                return answer;
            }
        }
        Err(io::Error::other("rtnetlink answered what nobody asked"))
    }
}

/// A request in the making.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, index: u32) -> Self {
        let mut bytes = vec![0; HEADER_BYTES + LINK_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&index.to_ne_bytes());
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        attribute(&mut self.0, kind, value);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a request has a few bytes");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// Appends an attribute, padded to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute has a few bytes");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The answer to the request with that number, if it is in the datagram.
fn parse(mut bytes: &[u8], sequence: u32) -> Option<io::Result<Option<Link>>> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = length as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            break;
        }
        let (message, body) = (&bytes[..length], &bytes[HEADER_BYTES..length]);
        if u32_at(message, 8) == Some(sequence) {
            match kind {
                MESSAGE_ERROR => {
                    let code = u32_at(body, 0)?.cast_signed();
                    return Some(if code == 0 {
                        Ok(None)
                    } else {
                        Err(io::Error::from_raw_os_error(code.saturating_neg()))
                    });
                }
                NEW_LINK => return parse_link(body).map(|link| Ok(Some(link))),
                _ => {}
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(body, 4)?, ..Link::default() };
    for (kind, value) in attributes(body.get(LINK_BYTES..)?) {
        match kind {
            ADDRESS => link.mac = value.try_into().map(MacAddress).unwrap_or_default(),
            NAME => link.name = text(value),
            MTU => link.mtu = u32_at(value, 0)? as usize,
            RX_QUEUES => link.rx_queues = u32_at(value, 0)?,
            TX_QUEUES => link.tx_queues = u32_at(value, 0)?,
            LINK_INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == LINK_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            XDP => link.xdp_program = xdp_program(value),
            _ => {}
        }
    }
    Some(link)
}

fn xdp_program(nested: &[u8]) -> Option<u32> {
    let is_attached = attributes(nested)
        .any(|(kind, value)| kind == XDP_ATTACHED && value.first().is_some_and(|mode| *mode != 0));
    let number = attributes(nested).find(|(kind, _)| *kind == XDP_PROGRAM);
    is_attached.then(|| number.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_by_name_and_by_number_and_nothing_where_nothing_is() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link_by_name("lo").unwrap().expect("every namespace has a loopback");
        assert_eq!((link.name.as_str(), link.xdp_program), ("lo", None));
        assert!(link.mtu > 0 && link.rx_queues > 0 && link.tx_queues > 0);
        assert_eq!(netlink.link_by_index(link.index).unwrap(), Some(link));
        assert_eq!(netlink.link_by_name("nosuch0").unwrap(), None);
        assert_eq!(netlink.link_by_index(u32::MAX / 2).unwrap(), None);
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_no_answer_and_no_panic() {
        let mut request = Request::new(NEW_LINK, 0, 7);
        request.attribute(NAME, b"eth0\0");
        request.attribute(ADDRESS, &[2, 0, 0, 0, 0, 1]);
        request.attribute(MTU, &1_500_u32.to_ne_bytes());
        let mut nested = Vec::new();
        attribute(&mut nested, XDP_ATTACHED, &[1]);
        attribute(&mut nested, XDP_PROGRAM, &9_u32.to_ne_bytes());
        request.attribute(XDP, &nested);
        let whole = request.finish(3);
        let link = parse(&whole, 3).unwrap().unwrap().unwrap();
        assert_eq!((link.index, link.name.as_str(), link.mtu), (7, "eth0", 1_500));
        assert_eq!((link.mac, link.xdp_program), (MacAddress([2, 0, 0, 0, 0, 1]), Some(9)));
        assert!(parse(&whole, 4).is_none(), "the answer to another question");
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut], 3).is_none(), "cut to {cut} bytes");
        }
    }
}
