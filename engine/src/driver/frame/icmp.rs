//! The few messages of ICMP (RFC 792) that a host of ours answers or sends.
//!
//! ```text
//!   0      1      2          4                           8
//!   | kind | code | checksum | number, or what it is for | what came
//! ```

use super::checksum::Sum;

/// Bytes before what came.
pub(super) const HEADER: usize = 8;
/// Bytes of a refused packet that are sent back: its IPv4 header and the UDP header.
pub(super) const QUOTED: usize = 28;

const ECHO_ANSWER: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const PORT_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

/// What an ICMP message that arrived is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message<'a> {
    /// Someone wants this back; it begins with the number.
    Echo(&'a [u8]),
    /// A router had to drop a packet because it was too large.
    FragmentationNeeded,
    /// Anything else.
    Other,
}

impl<'a> Message<'a> {
    /// The message; none if it is cut short or damaged.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        if !Sum::default().bytes(bytes).is_intact() {
            return None;
        }
        Some(match header[..2] {
            [ECHO, 0] => Self::Echo(&bytes[4..]),
            [UNREACHABLE, FRAGMENTATION_NEEDED] => Self::FragmentationNeeded,
            _ => Self::Other,
        })
    }
}

/// Writes the answer to [`Message::Echo`]: `out` has four bytes more than what came.
pub(super) fn emit_echo_answer(out: &mut [u8], came: &[u8]) {
    out[..4].copy_from_slice(&[ECHO_ANSWER, 0, 0, 0]);
    out[4..].copy_from_slice(came);
    write_checksum(out);
}

/// Writes that nobody has the UDP port that `packet`, of which the first [`QUOTED`] bytes are sent back, went to.
pub(super) fn emit_port_unreachable(out: &mut [u8], packet: &[u8]) {
    out[..HEADER].copy_from_slice(&[UNREACHABLE, PORT_UNREACHABLE, 0, 0, 0, 0, 0, 0]);
    out[HEADER..].copy_from_slice(&packet[..QUOTED]);
    write_checksum(out);
}

fn write_checksum(message: &mut [u8]) {
    let sum = Sum::default().bytes(message).checksum();
    message[2..4].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> Vec<u8> {
        let mut echo = vec![ECHO, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7];
        write_checksum(&mut echo);
        echo
    }

    #[test]
    fn an_echo_is_answered_with_what_came() {
        let echo = echo();
        let Some(Message::Echo(came)) = Message::parse(&echo) else { panic!() };
        let mut answer = [0xee; 11];
        emit_echo_answer(&mut answer, came);
        assert_eq!(answer[4..], echo[4..]);
        assert_eq!(Message::parse(&answer), Some(Message::Other));
        assert_eq!(answer[0], ECHO_ANSWER);
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_none() {
        let echo = echo();
        assert!((0..HEADER).all(|len| Message::parse(&echo[..len]).is_none()));
        for bit in 0..echo.len() * 8 {
            let mut damaged = echo.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Message::parse(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_refusal_quotes_the_headers_of_what_it_refuses() {
        let packet: Vec<u8> = (0..60).collect();
        let mut out = [0xee; HEADER + QUOTED];
        emit_port_unreachable(&mut out, &packet);
        assert_eq!(out[HEADER..], packet[..QUOTED]);
        assert_eq!(Message::parse(&out), Some(Message::Other));
        out[1] = FRAGMENTATION_NEEDED;
        out[2..4].fill(0);
        write_checksum(&mut out);
        assert_eq!(Message::parse(&out), Some(Message::FragmentationNeeded));
    }
}
