//! Questions to the kernel about interfaces, addresses and routes (rtnetlink(7)), answered as plain values.
//!
//! ```text
//!  0      4     6      8      12       16                       what follows, aligned to 4
//! +------+-----+------+------+--------+----------------------+  +------+-----+---------------+
//! | len  | type| flags| seq. | sender | a structure by type  |  | len  | kind| value         | ...
//! +------+-----+------+------+--------+----------------------+  +------+-----+---------------+
//! ```
//! All numbers are in the processor's own byte order. The kernel's answers are parsed as bytes from outside all the same.

use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const ALIGNMENT: usize = 4;

/// `NLM_F_REQUEST` and `NLM_F_DUMP` of linux/netlink.h.
const REQUEST_ALL: u16 = 0x001 | 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

/// Room for one record of answers; the kernel fills up to 32 KiB at a time.
const RECORD_BYTES: usize = 64 << 10;

/// Most records of one answer; a table that is longer is cut rather than read for ever.
const MAX_RECORDS: usize = 4_096;

/// The kernel answers at once; only a bug of ours would wait longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One message of an answer: what it is about, and its attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// The structure at its beginning.
    pub(super) fixed: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Message<'a> {
    /// The value of the first attribute of that kind.
    pub(super) fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        attributes(self.attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A 32-bit attribute.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.attribute(kind).and_then(|value| u32_at(value, 0))
    }
}

/// Kinds and values of a list of attributes.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The two highest bits say how the value is meant, not what it is.
    const KIND_BITS: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & KIND_BITS;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Asks for everything of one kind in the network namespace of the calling thread. `question` is the structure behind the
/// header; `answer_type` and `fixed_bytes` say what the answer's messages are.
pub(super) fn dump(
    question_type: u16,
    question: &[u8],
    answer_type: u16,
    fixed_bytes: usize,
    mut each: impl FnMut(Message<'_>),
) -> io::Result<()> {
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&request(question_type, question))?;
    let mut record = vec![0; RECORD_BYTES];
    for _ in 0..MAX_RECORDS {
        let bytes = (&socket).read(&mut record)?;
        if !read_record(&record[..bytes], answer_type, fixed_bytes, &mut each)? {
            return Ok(());
        }
    }
    Ok(())
}

fn request(question_type: u16, question: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + question.len()).expect("a question is a few bytes long");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + question.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(question_type.to_ne_bytes());
    bytes.extend(REQUEST_ALL.to_ne_bytes());
    // Sequence number and sender: one question for each socket needs neither.
    bytes.extend([0; 8]);
    bytes.extend(question);
    bytes
}

/// Hands over the messages of one record. `false`: the answer is complete.
fn read_record(
    mut rest: &[u8],
    answer_type: u16,
    fixed_bytes: usize,
    each: &mut impl FnMut(Message<'_>),
) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let Ok(length) = usize::try_from(length) else { break };
        let Some(body) = rest.get(HEADER_BYTES..length) else { break };
        match kind {
            MESSAGE_DONE => return Ok(false),
            MESSAGE_ERROR => {
                let code = u32_at(body, 0).map_or(0, u32::cast_signed);
                return if code == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            kind if kind == answer_type => {
                if let Some((fixed, attributes)) = body.split_at_checked(fixed_bytes) {
                    each(Message { fixed, attributes });
                }
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    // A record without a message that can be read would make the next read wait for nothing.
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER_BYTES + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    #[test]
    fn messages_are_found_with_their_attributes_until_the_answer_ends() {
        let body: Vec<u8> =
            [vec![7; 8], attribute(3, b"eth0\0"), attribute(0x8004, &1500_u32.to_ne_bytes())].concat();
        let record = [message(16, &body), message(17, &body), message(MESSAGE_DONE, &[0; 4])].concat();
        let mut seen = Vec::new();
        let goes_on = read_record(&record, 16, 8, &mut |found| {
            assert_eq!(found.fixed, [7; 8]);
            seen.push((found.attribute(3).map(<[u8]>::to_vec), found.number(4), found.number(5)));
        });
        assert!(!goes_on.unwrap());
        assert_eq!(seen, [(Some(b"eth0\0".to_vec()), Some(1500), None)]);
        assert!(read_record(&message(16, &body), 16, 8, &mut |_| {}).unwrap());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let record = message(MESSAGE_ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = read_record(&record, 16, 8, &mut |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_breaks_nothing() {
        let body = [vec![7; 8], attribute(3, b"eth0\0"), attribute(4, &[1, 2, 3, 4])].concat();
        let record = message(16, &body);
        for cut in 0..record.len() {
            let mut seen = 0;
            assert!(read_record(&record[..cut], 16, 8, &mut |_| seen += 1).unwrap());
            assert_eq!(seen, 0, "{cut}");
        }
        // Lengths that lie: a message shorter than its header, an attribute longer than its message.
        let mut lies = record.clone();
        lies[0] = 3;
        assert!(read_record(&lies, 16, 8, &mut |_| panic!("no message")).unwrap());
        let mut lies = record;
        lies[HEADER_BYTES + 8] = 200;
        let mut values = Vec::new();
        assert!(read_record(&lies, 16, 8, &mut |found| values.push(found.attribute(3).is_some())).unwrap());
        assert_eq!(values, [false]);
    }
}
