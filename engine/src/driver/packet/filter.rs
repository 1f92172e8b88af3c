//! Which frames the kernel copies into our ring: a classic BPF program (bpf(4), RFC 9669's ancestor), put together by hand.
//!
//! Everything else that the interface carries, an operator's SSH for one, passes us without a copy and without a wake-up. The
//! program only saves work: whoever gets a frame checks all of it again.
//!
//! ```text
//!  0      6      12    14                 23              30
//! +------+------+-----+------------------+-----+---------+----------+   +----------------+
//! | dst  | src  | type| IPv4: ihl ... 20:| pro-| 26: src | 30: dst  |...| UDP: src, dst  |
//! |      |      |     | flags, offset    | tocol         |          |   | at 14 + 4 ihl  |
//! +------+------+-----+------------------+-----+---------+----------+   +----------------+
//!                     | ARP:    28: sender's address     | 38: target's address
//! ```
//! A VLAN tag is not in the frame here: the kernel has taken it out and keeps it beside.

use std::net::Ipv4Addr;

use socket2::SockFilter;

use crate::proto::PortRange;

const ETHER_TYPE: u32 = 12;
const IP_LENGTH: u32 = 14;
const IP_FRAGMENT: u32 = 20;
const IP_PROTOCOL: u32 = 23;
const IP_DESTINATION: u32 = 30;
/// Of the UDP destination port, beyond the length of the IP header.
const UDP_DESTINATION: u32 = 14 + 2;
const ARP_SENDER: u32 = 28;
const ARP_TARGET: u32 = 38;

const TYPE_IPV4: u32 = 0x0800;
const TYPE_ARP: u32 = 0x0806;
const PROTOCOL_UDP: u32 = 17;
const FRAGMENT_OFFSET_BITS: u32 = 0x1fff;
const VLAN_NUMBER_BITS: u32 = 0x0fff;

/// The last of the kinds (`sll_pkttype`) that we take: 0 is to this host, 1 to everybody. Others are to groups, to other hosts,
/// and what this host sends itself.
const LAST_KIND: u32 = libc::PACKET_BROADCAST as u32;

/// What a program answers: so many bytes of the frame are wanted.
const WHOLE_FRAME: u32 = 0x0004_0000;

/// What a driver wants to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    /// Our address.
    pub(super) address: Ipv4Addr,
    /// Our UDP ports.
    pub(super) ports: PortRange,
    /// Frames with this VLAN number; none: those that belong to no VLAN.
    pub(super) vlan: Option<u16>,
    /// Only ARP and our UDP ports: the kernel has the address, too, and answers what else comes for it.
    pub(super) kernel_answers: bool,
}

/// Where a test leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Next,
    Arp,
    Accept,
    Drop,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An instruction that does not branch.
    Do { code: u16, value: u32 },
    /// Branches by a comparison of the accumulator with the value, or with the index register.
    Test { code: u16, value: u32, yes: To, no: To },
    /// Not an instruction: what leads there comes here.
    Here(To),
}

const fn code(code: u32) -> u16 {
    assert!(code <= u16::MAX as u32, "an instruction's code has 16 bits");
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let code = code as u16;
    code
}

/// Loads the word, half word or byte at that place of the frame into the accumulator.
fn load(size: u32, at: u32) -> Step {
    Step::Do { code: code(libc::BPF_LD | libc::BPF_ABS | size), value: at }
}

/// Loads something that the kernel knows of the frame.
fn load_fact(which: libc::c_int) -> Step {
    load(libc::BPF_W, (libc::SKF_AD_OFF + which).cast_unsigned())
}

fn test(comparison: u32, value: u32, yes: To, no: To) -> Step {
    Step::Test { code: code(libc::BPF_JMP | libc::BPF_K | comparison), value, yes, no }
}

fn steps(wanted: &Wanted) -> Vec<Step> {
    let address = wanted.address.to_bits();
    let mut steps = vec![load_fact(libc::SKF_AD_PKTTYPE), test(libc::BPF_JGT, LAST_KIND, To::Drop, To::Next)];
    // Number 0 is a priority without a VLAN; and a frame without a tag shows number 0.
    steps.extend([
        load_fact(libc::SKF_AD_VLAN_TAG),
        Step::Do { code: code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K), value: VLAN_NUMBER_BITS },
        test(libc::BPF_JEQ, u32::from(wanted.vlan.unwrap_or(0)), To::Next, To::Drop),
        load(libc::BPF_H, ETHER_TYPE),
        test(libc::BPF_JEQ, TYPE_ARP, To::Arp, To::Next),
        test(libc::BPF_JEQ, TYPE_IPV4, To::Next, To::Drop),
        load(libc::BPF_W, IP_DESTINATION),
    ]);
    if wanted.kernel_answers {
        steps.extend([
            test(libc::BPF_JEQ, address, To::Next, To::Drop),
            load(libc::BPF_B, IP_PROTOCOL),
            test(libc::BPF_JEQ, PROTOCOL_UDP, To::Next, To::Drop),
            load(libc::BPF_H, IP_FRAGMENT),
            test(libc::BPF_JSET, FRAGMENT_OFFSET_BITS, To::Drop, To::Next),
            Step::Do { code: code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH), value: IP_LENGTH },
            Step::Do { code: code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND), value: UDP_DESTINATION },
            test(libc::BPF_JGE, u32::from(wanted.ports.first()), To::Next, To::Drop),
            test(libc::BPF_JGT, u32::from(wanted.ports.last()), To::Drop, To::Accept),
        ]);
    } else {
        steps.push(test(libc::BPF_JEQ, address, To::Accept, To::Drop));
    }
    // Questions and answers to us, and announcements, which name the same address twice.
    steps.extend([
        Step::Here(To::Arp),
        load(libc::BPF_W, ARP_TARGET),
        test(libc::BPF_JEQ, address, To::Accept, To::Next),
        Step::Do { code: code(libc::BPF_MISC | libc::BPF_TAX), value: 0 },
        load(libc::BPF_W, ARP_SENDER),
        Step::Test {
            code: code(libc::BPF_JMP | libc::BPF_X | libc::BPF_JEQ),
            value: 0,
            yes: To::Accept,
            no: To::Drop,
        },
        Step::Here(To::Accept),
        Step::Do { code: code(libc::BPF_RET | libc::BPF_K), value: WHOLE_FRAME },
        Step::Here(To::Drop),
        Step::Do { code: code(libc::BPF_RET | libc::BPF_K), value: 0 },
    ]);
    steps
}

/// The program as the kernel takes it.
pub(super) fn program(wanted: &Wanted) -> Vec<SockFilter> {
    let steps = steps(wanted);
    let is_instruction = |step: &&Step| !matches!(step, Step::Here(_));
    let place = |to: To| {
        let at = steps.iter().position(|step| matches!(step, Step::Here(here) if *here == to));
        steps[..at.expect("every label is placed once")].iter().filter(is_instruction).count()
    };
    let distance = |from: usize, to: To| match to {
        To::Next => 0,
        to => u8::try_from(place(to) - from - 1).expect("a program of some thirty instructions"),
    };
    let instructions = steps.iter().filter(is_instruction).enumerate();
    instructions
        .filter_map(|(at, step)| match *step {
            Step::Do { code, value } => Some(SockFilter::new(code, 0, 0, value)),
            Step::Test { code, value, yes, no } => {
                Some(SockFilter::new(code, distance(at, yes), distance(at, no), value))
            }
            Step::Here(_) => None,
        })
        .collect()
}

/// The program that takes nothing.
pub(super) fn nothing() -> [SockFilter; 1] {
    [SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixDatagram;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn wanted() -> Wanted {
        let ports = PortRange::new(31_580, 31_643).unwrap();
        Wanted { address: OURS, ports, vlan: None, kernel_answers: true }
    }

    /// A frame with an IPv4 header of `words` words, the rest as given.
    fn ipv4(to: Ipv4Addr, words: u8, protocol: u8, fragment: u16, port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x40 | words, 0, 0, 40, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend(PEER.octets());
        frame.extend(to.octets());
        frame.resize(14 + usize::from(words) * 4, 1);
        frame.extend([0x7b, 0x5c]);
        frame.extend(port.to_be_bytes());
        frame.extend([0; 12]);
        frame
    }

    fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0xff; 12];
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        frame
    }

    /// Lets the kernel itself judge: it runs the same programs in front of any datagram socket.
    fn takes(program: &[SockFilter], frame: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        socket2::SockRef::from(&receiver).attach_filter(program).unwrap();
        receiver.set_nonblocking(true).unwrap();
        sender.send(frame).unwrap();
        let mut bytes = [0; 2_048];
        match receiver.recv(&mut bytes) {
            Ok(length) => {
                assert_eq!(&bytes[..length], frame, "a frame is taken whole");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }

    #[test]
    fn only_arp_about_us_and_datagrams_to_our_ports_are_taken() {
        let program = program(&wanted());
        for (frame, is_taken, what) in [
            (ipv4(OURS, 5, 17, 0, 31_580), true, "our first port"),
            (ipv4(OURS, 5, 17, 0, 31_643), true, "our last port"),
            (ipv4(OURS, 5, 17, 0, 31_579), false, "the port before"),
            (ipv4(OURS, 5, 17, 0, 31_644), false, "the port behind"),
            (ipv4(OURS, 5, 17, 0, 22), false, "another port"),
            (ipv4(OURS, 5, 6, 0, 31_580), false, "TCP"),
            (ipv4(OURS, 5, 1, 0, 31_580), false, "ICMP: the kernel answers"),
            (ipv4(OTHERS, 5, 17, 0, 31_580), false, "another address of the host"),
            (ipv4(OURS, 15, 17, 0, 31_600), true, "the longest IP header"),
            (ipv4(OURS, 15, 17, 0, 22), false, "the longest IP header to another port"),
            (ipv4(OURS, 5, 17, 0x4000, 31_580), true, "do not fragment"),
            (ipv4(OURS, 5, 17, 0x2000, 31_580), true, "a first fragment, for the counter"),
            (ipv4(OURS, 5, 17, 0x2001, 31_580), false, "a later fragment, which has no ports"),
            (ipv4(OURS, 5, 17, 0, 31_580)[..37].to_vec(), false, "cut in the port"),
            (ipv4(OURS, 5, 17, 0, 31_580)[..13].to_vec(), false, "cut in the Ethernet header"),
            (Vec::new(), false, "an empty frame"),
            (arp(PEER, OURS), true, "a question to us, or an answer"),
            (arp(PEER, PEER), true, "an announcement"),
            (arp(PEER, OTHERS), false, "a question to another host"),
            (arp(PEER, OURS)[..41].to_vec(), false, "ARP, cut"),
            ([vec![2; 12], vec![0x86, 0xdd], vec![0; 60]].concat(), false, "IPv6"),
        ] {
            assert_eq!(takes(&program, &frame), is_taken, "{what}");
        }
    }

    #[test]
    fn whoever_has_the_address_alone_gets_all_that_is_sent_to_it() {
        let program = program(&Wanted { kernel_answers: false, ..wanted() });
        for (frame, is_taken, what) in [
            (ipv4(OURS, 5, 17, 0, 31_580), true, "our port"),
            (ipv4(OURS, 5, 17, 0, 22), true, "a port that nobody has"),
            (ipv4(OURS, 5, 1, 0, 0), true, "ICMP"),
            (ipv4(OURS, 5, 6, 0, 22), true, "TCP"),
            (ipv4(OTHERS, 5, 17, 0, 31_580), false, "an address of the kernel"),
            (arp(PEER, OURS), true, "ARP"),
            (arp(PEER, OTHERS), false, "ARP for the kernel"),
        ] {
            assert_eq!(takes(&program, &frame), is_taken, "{what}");
        }
    }

    #[test]
    fn a_driver_in_a_vlan_takes_nothing_without_a_tag_and_the_empty_program_takes_nothing_at_all() {
        let tagged = program(&Wanted { vlan: Some(7), ..wanted() });
        for frame in [ipv4(OURS, 5, 17, 0, 31_580), arp(PEER, OURS)] {
            assert!(!takes(&tagged, &frame));
            assert!(!takes(&nothing(), &frame));
        }
    }

    #[test]
    fn the_last_port_of_all_is_a_port() {
        let ports = PortRange::new(65_000, 65_535).unwrap();
        let program = program(&Wanted { ports, ..wanted() });
        assert!(takes(&program, &ipv4(OURS, 5, 17, 0, 65_535)));
        assert!(!takes(&program, &ipv4(OURS, 5, 17, 0, 64_999)));
    }
}
