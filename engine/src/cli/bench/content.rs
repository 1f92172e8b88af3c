//! What measured messages contain, and the cheap check that an answer is what was sent.

/// The messages of one connection: a pattern with the message's number at the front and its complement at the end.
#[derive(Debug)]
pub(crate) struct Content {
    bytes: Vec<u8>,
}

/// Bytes of a number.
const NUMBER: usize = size_of::<u64>();
/// From this size on a message has its number at both ends and pattern between.
const BOTH_ENDS: usize = 3 * NUMBER;

impl Content {
    /// Messages of `size` bytes, at least 1.
    pub(crate) fn new(size: usize) -> Self {
        // Neighbouring bytes and neighbouring kilobytes differ, so that a shifted or repeated piece shows.
        let byte = |i: usize| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap_or(0);
        Self { bytes: (0..size.max(1)).map(byte).collect() }
    }

    /// The message that was stamped last.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message of that number.
    pub(crate) fn stamp(&mut self, number: u64) -> &[u8] {
        let size = self.bytes.len();
        let front = NUMBER.min(size);
        self.bytes[..front].copy_from_slice(&number.to_le_bytes()[..front]);
        if size >= BOTH_ENDS {
            self.bytes[size - NUMBER..].copy_from_slice(&(!number).to_le_bytes());
        }
        &self.bytes
    }

    /// As much of the number as a message of this size carries.
    pub(crate) fn visible(&self, number: u64) -> u64 {
        match self.bytes.len() {
            size if size < NUMBER => number & ((1 << (8 * size)) - 1),
            _ => number,
        }
    }

    /// The (visible) number of an answer; nothing if it is not what was sent. Looks at both ends and at eight bytes somewhere
    /// between, another place for each number, so that the check costs the same at every size.
    pub(crate) fn check(&self, answer: &[u8]) -> Option<u64> {
        let size = self.bytes.len();
        if answer.len() != size {
            return None;
        }
        let front = NUMBER.min(size);
        let mut number = [0; NUMBER];
        number[..front].copy_from_slice(&answer[..front]);
        let number = u64::from_le_bytes(number);
        if size < BOTH_ENDS {
            let same = answer[front..] == self.bytes[front..];
            return same.then_some(number);
        }
        let places = size - BOTH_ENDS + 1;
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = NUMBER + usize::try_from(spread).unwrap_or(0) % places;
        let intact = answer[size - NUMBER..] == (!number).to_le_bytes()
            && answer[place..place + NUMBER] == self.bytes[place..place + NUMBER];
        intact.then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_returns_its_number() {
        for size in [1, 2, 7, 8, 9, 23, 24, 25, 64, 1024, 70_000] {
            let mut content = Content::new(size);
            for number in [0, 1, 255, 256, 1 << 40] {
                let message = content.stamp(number).to_vec();
                assert_eq!(message.len(), size);
                assert_eq!(content.check(&message), Some(content.visible(number)), "{size} {number}");
            }
        }
    }

    #[test]
    fn a_changed_answer_is_noticed() {
        let mut content = Content::new(64);
        let good = content.stamp(7).to_vec();
        assert_eq!(content.check(&good[..63]), None);
        let mut noticed = 0;
        for place in 0..64 {
            let mut bad = good.clone();
            bad[place] ^= 1;
            noticed += usize::from(content.check(&bad) != Some(7));
        }
        assert!(noticed >= 24, "ends and one word between: {noticed}");
    }

    #[test]
    fn a_piece_in_the_wrong_place_is_noticed_before_long() {
        let mut content = Content::new(32 * 1024);
        let unnoticed = (0..100).filter(|&number| {
            let mut bad = content.stamp(number).to_vec();
            bad.copy_within(8..16_000, 9);
            content.check(&bad) == Some(number)
        });
        assert!(unnoticed.count() < 70);
    }
}
