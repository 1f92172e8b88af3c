//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words.
//!
//! The words are added as they lie in memory, whatever the order of bytes of this machine: the sum of swapped words is the
//! swapped sum, so only what is not in memory has to be swapped.

/// A sum to which more can be added.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sum(u64);

/// Bytes added at a time: what compilers make vector instructions of.
const BLOCK: usize = 32;

impl Sum {
    /// Adds bytes; an odd last one counts as if a zero followed. They must begin at an even place of what is summed up.
    #[must_use]
    #[inline]
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0_u64; BLOCK / 4];
        let blocks = bytes.chunks_exact(BLOCK);
        let mut rest = blocks.remainder();
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        // Below 2^64 by far: a frame has no more words than that.
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        let words = rest.chunks_exact(4);
        rest = words.remainder();
        for word in words {
            sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        while let [a, b, after @ ..] = rest {
            sum += u64::from(u16::from_ne_bytes([*a, *b]));
            rest = after;
        }
        if let [last] = rest {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds a number that will stand in the packet.
    #[must_use]
    #[inline]
    pub(super) fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The sum itself, as it is written into a packet whose checksum the network card completes.
    #[inline]
    pub(super) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        for _ in 0..4 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
        let folded = sum as u16;
        folded.to_ne_bytes()
    }

    /// The checksum as it is written into a packet.
    #[inline]
    pub(super) fn checksum(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// Whether what was summed up, its checksum included, is as it was sent.
    #[inline]
    pub(super) fn is_intact(self) -> bool {
        self.checksum() == [0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rng::Rng;

    /// As RFC 1071 says it, word by word.
    fn plainly(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap().to_be_bytes()
    }

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&example).folded(), [0xdd, 0xf2]);
        assert_eq!(Sum::default().bytes(&example).checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn every_length_and_place_gives_what_the_plain_way_gives() {
        let mut rng = Rng::new([1, 2]);
        let bytes: Vec<u8> = (0..9_100).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        for length in (0..200).chain([1_471, 1_472, 8_999, 9_000]) {
            for start in 0..8 {
                let part = &bytes[start..start + length];
                let sum = Sum::default().bytes(part);
                assert_eq!(sum.folded(), plainly(part), "{length} bytes from {start}");
                assert!(Sum::default().bytes(part).bytes(&sum.checksum()).is_intact());
            }
        }
        let ones = vec![0xff; 9_000];
        assert_eq!(Sum::default().bytes(&ones).folded(), [0xff, 0xff]);
    }

    #[test]
    fn a_number_counts_as_the_bytes_that_it_becomes() {
        let one = Sum::default().word(0x1234).word(0xfedc).folded();
        assert_eq!(one, Sum::default().bytes(&[0x12, 0x34, 0xfe, 0xdc]).folded());
    }
}
