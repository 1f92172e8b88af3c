//! Contents of messages, made of a seed and a length on both sides.

use std::sync::OnceLock;

const TABLE_BYTES: usize = 65_521;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut x: u32 = 2_463_534_242;
        let next = |_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x.to_be_bytes()[0]
        };
        (0..TABLE_BYTES).map(next).collect()
    })
}

fn begin(seed: u64, offset: usize) -> usize {
    let start = (seed * 7919) % TABLE_BYTES as u64;
    (usize::try_from(start).expect("less than the table") + offset) % TABLE_BYTES
}

/// Pieces of the table that follow each other, `length` bytes in all.
fn pieces(seed: u64, offset: usize, length: usize) -> impl Iterator<Item = &'static [u8]> {
    let (mut at, mut left) = (begin(seed, offset), length);
    std::iter::from_fn(move || {
        let count = left.min(TABLE_BYTES - at);
        let piece = &table()[at..at + count];
        at = 0;
        left -= count;
        (count > 0).then_some(piece)
    })
}

/// Writes `content(seed, buffer.len())` into `buffer`.
pub fn fill(buffer: &mut [u8], seed: u64) {
    let length = buffer.len();
    let mut rest = buffer;
    for piece in pieces(seed, 0, length) {
        let (head, tail) = rest.split_at_mut(piece.len());
        head.copy_from_slice(piece);
        rest = tail;
    }
}

/// `content(seed, length)`.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(&mut bytes, seed);
    bytes
}

/// Whether `bytes` is what stands in the content of `seed` from byte `offset` on.
pub fn is_content(bytes: &[u8], seed: u64, offset: usize) -> bool {
    let mut rest = bytes;
    pieces(seed, offset, bytes.len()).all(|piece| {
        let (head, tail) = rest.split_at(piece.len());
        rest = tail;
        head == piece
    })
}

/// Messages that carry their number.
#[derive(Clone, Debug)]
pub struct Series {
    /// The seed of message 0.
    pub seed: u64,
    /// Lengths in bytes, over and over.
    pub lengths: Vec<usize>,
}

impl Series {
    /// Length of message `number` in bytes.
    pub fn length(&self, number: u32) -> usize {
        self.lengths[number as usize % self.lengths.len()]
    }

    /// Writes message `number` into room of its length.
    pub fn fill(&self, number: u32, room: &mut [u8]) {
        room[..4].copy_from_slice(&number.to_le_bytes());
        fill(&mut room[4..], self.seed + u64::from(number));
    }

    /// Message `number`.
    pub fn message(&self, number: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.length(number)];
        self.fill(number, &mut bytes);
        bytes
    }

    /// The number of a message, if it is a right one.
    pub fn number_of(&self, message: &[u8]) -> Option<u32> {
        let (number, rest) = message.split_first_chunk()?;
        let number = u32::from_le_bytes(*number);
        let is_right = message.len() == self.length(number)
            && is_content(rest, self.seed.checked_add(u64::from(number))?, 0);
        is_right.then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_those_of_the_specification() {
        assert_eq!(content(0, 8), [0x2b, 0x94, 0x7b, 0x77, 0xd2, 0x16, 0x50, 0x29]);
        assert_eq!(content(1, 8), [0x57, 0xf4, 0xdb, 0x96, 0xb0, 0x02, 0xdd, 0x95]);
        assert_eq!(content(65520, 8), [0x95, 0xa5, 0x4c, 0x47, 0x4c, 0x27, 0xec, 0xb6]);
        let series = Series { seed: 7, lengths: vec![8] };
        assert_eq!(series.message(3), [3, 0, 0, 0, 0xaf, 0xff, 0xea, 0x8d]);
        assert_eq!(series.number_of(&series.message(3)), Some(3));
    }

    #[test]
    fn one_wrong_byte_is_found_wherever_it_is() {
        let mut bytes = content(5, 200_000);
        assert!(is_content(&bytes, 5, 0) && is_content(&bytes[70_000..], 5, 70_000));
        for at in [0, 65_520, 65_521, 199_999] {
            bytes[at] ^= 1;
            assert!(!is_content(&bytes, 5, 0));
            bytes[at] ^= 1;
        }
    }
}
