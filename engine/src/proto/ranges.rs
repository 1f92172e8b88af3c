//! Sets of numbers that mostly are one run: which bytes of a message are there, which packets were received.

use std::collections::VecDeque;

/// The bytes of one message that are there: a prefix and, after losses, pieces behind it in ascending order.
#[derive(Debug, Default, Clone)]
pub(super) struct ByteRanges {
    prefix: u32,
    pieces: Vec<(u32, u32)>,
}

impl ByteRanges {
    /// Adds `start..end`. Answers how many of these bytes are new.
    pub(super) fn insert(&mut self, start: u32, end: u32) -> u32 {
        if start <= self.prefix && self.pieces.is_empty() {
            let fresh = end.saturating_sub(self.prefix);
            self.prefix = self.prefix.max(end);
            return fresh;
        }
        self.insert_piece(start.max(self.prefix), end.max(self.prefix))
    }

    fn insert_piece(&mut self, start: u32, end: u32) -> u32 {
        if start >= end {
            return 0;
        }
        let first = self.pieces.partition_point(|&(_, stop)| stop < start);
        let after = self.pieces.partition_point(|&(begin, _)| begin <= end);
        let held: u32 =
            self.pieces[first..after].iter().map(|&(b, e)| e.min(end).saturating_sub(b.max(start))).sum();
        let merged_start =
            self.pieces.get(first).map_or(start, |&(b, _)| if first < after { b.min(start) } else { start });
        let merged_end = if first < after { self.pieces[after - 1].1.max(end) } else { end };
        self.pieces.splice(first..after, [(merged_start, merged_end)]);
        if let Some(&(begin, stop)) = self.pieces.first()
            && begin <= self.prefix
        {
            self.prefix = self.prefix.max(stop);
            self.pieces.remove(0);
        }
        end - start - held
    }

    /// All of `0..len` is there.
    #[inline]
    pub(super) fn fill(&mut self, len: u32) {
        self.prefix = self.prefix.max(len);
        if !self.pieces.is_empty() {
            self.pieces.clear();
        }
    }

    /// Whether all of `0..len` is there.
    pub(super) fn is_whole(&self, len: u32) -> bool {
        self.prefix >= len
    }

    /// Whether all of `start..end` is there.
    pub(super) fn contains(&self, start: u32, end: u32) -> bool {
        end <= self.prefix || self.pieces.iter().any(|&(b, e)| b <= start && end <= e)
    }

    /// How many separate pieces lie behind the prefix.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

/// Most ranges of received packet numbers that are remembered. What was lost leaves a gap for good, so a path that loses and
/// reorders needs many.
const MAX_PACKET_RANGES: usize = 256;

/// Received packet numbers: ranges in descending order, the newest ones only.
#[derive(Debug)]
pub(super) struct PacketRanges {
    /// Inclusive, highest first.
    ranges: VecDeque<(u64, u64)>,
    /// Everything up to here counts as received: forgotten or before the beginning.
    floor: u64,
}

impl PacketRanges {
    /// Nothing above `floor` was received.
    pub(super) fn new(floor: u64) -> Self {
        Self { ranges: VecDeque::new(), floor }
    }

    /// Highest number received, or the floor.
    #[inline]
    pub(super) fn largest(&self) -> u64 {
        self.ranges.front().map_or(self.floor, |&(_, end)| end)
    }

    /// Whether `number` was received, or is too old to know.
    pub(super) fn contains(&self, number: u64) -> bool {
        number <= self.floor || self.ranges.iter().any(|&(start, end)| start <= number && number <= end)
    }

    /// Notes `number`, which is not contained. Answers whether it is the next one in order.
    #[inline]
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if let Some(first) = self.ranges.front_mut()
            && number == first.1 + 1
        {
            first.1 = number;
            return true;
        }
        self.insert_slow(number)
    }

    fn insert_slow(&mut self, number: u64) -> bool {
        let in_order = self.ranges.is_empty() && number == self.floor + 1;
        let place = self.ranges.iter().position(|&(start, _)| start <= number).unwrap_or(self.ranges.len());
        // `place` is the range below; the one above it is at `place - 1`.
        let joins_below = self.ranges.get(place).is_some_and(|&(_, end)| end + 1 == number);
        let joins_above = place > 0 && self.ranges[place - 1].0 == number + 1;
        match (joins_below, joins_above) {
            (true, true) => {
                let (start, _) = self.ranges[place];
                self.ranges[place - 1].0 = start;
                self.ranges.remove(place);
            }
            (true, false) => self.ranges[place].1 = number,
            (false, true) => self.ranges[place - 1].0 = number,
            (false, false) => self.ranges.insert(place, (number, number)),
        }
        if self.ranges.len() > MAX_PACKET_RANGES
            && let Some((_, end)) = self.ranges.pop_back()
        {
            self.floor = self.floor.max(end);
        }
        in_order
    }

    /// Whether nothing is missing above the floor.
    pub(super) fn is_gapless(&self) -> bool {
        match self.ranges.len() {
            0 => true,
            1 => self.ranges[0].0 == self.floor + 1,
            _ => false,
        }
    }

    /// In which range `number` is, counted from the newest, if it is in one.
    pub(super) fn place_of(&self, number: u64) -> Option<usize> {
        let place = self.ranges.iter().position(|&(start, _)| start <= number)?;
        (number <= self.ranges[place].1).then_some(place)
    }

    /// The first run: its highest number and how many follow below it.
    #[inline]
    pub(super) fn first(&self) -> (u64, u16) {
        self.run(0)
    }

    /// The run at `place`: its highest number and how many follow below it.
    #[inline]
    pub(super) fn run(&self, place: usize) -> (u64, u16) {
        let &(start, end) = self.ranges.get(place).unwrap_or(&(self.floor, self.floor));
        (end, u16::try_from(end - start).unwrap_or(u16::MAX))
    }

    /// The ranges behind the one at `place` as `(gap - 1, run - 1)` pairs, downwards, as far as they can be said.
    pub(super) fn rest(&self, place: usize) -> impl Iterator<Item = (u16, u16)> + '_ {
        let longest = u64::from(u16::MAX);
        let pairs = self.ranges.iter().skip(place).zip(self.ranges.iter().skip(place + 1));
        // Of a run that is too long to be said, the upper part is; what is behind it is too far away.
        pairs.take_while(move |&(&(start, end), _)| end - start <= longest).map_while(
            |(&(above, _), &(start, end))| {
                let gap = u16::try_from(above - end - 2).ok()?;
                Some((gap, u16::try_from(end - start).unwrap_or(u16::MAX)))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_run_that_is_too_long_to_be_said_is_said_in_part() {
        let mut ranges = PacketRanges::new(0);
        (1..=70_000).for_each(|number| {
            ranges.insert(number);
        });
        ranges.insert(70_002);
        assert_eq!(ranges.first(), (70_002, 0));
        assert_eq!(ranges.rest(0).collect::<Vec<_>>(), [(0, u16::MAX)]);
        ranges.insert(140_000);
        assert_eq!(ranges.rest(0).count(), 0, "that gap cannot be said");
    }

    proptest! {
        #[test]
        fn byte_ranges_agree_with_a_bitmap(pieces in prop::collection::vec((0u32..200, 1u32..40), 1..60)) {
            let mut ranges = ByteRanges::default();
            let mut bitmap = [false; 256];
            for (start, len) in pieces {
                let fresh = (start..start + len).filter(|&at| !bitmap[at as usize]).count();
                (start..start + len).for_each(|at| bitmap[at as usize] = true);
                prop_assert_eq!(ranges.insert(start, start + len) as usize, fresh);
                let whole = bitmap.iter().take_while(|&&there| there).count();
                let whole = u32::try_from(whole).unwrap();
                prop_assert!(ranges.is_whole(whole));
                prop_assert!(!ranges.is_whole(whole + 1));
            }
        }

        #[test]
        fn packet_ranges_agree_with_a_set(numbers in prop::collection::vec(1u64..60, 1..80)) {
            let mut ranges = PacketRanges::new(0);
            let mut set = std::collections::BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
                if set.insert(number) {
                    ranges.insert(number);
                }
                prop_assert_eq!(Some(&ranges.largest()), set.last());
            }
            let (largest, run) = ranges.first();
            let mut said: std::collections::BTreeSet<u64> = (largest - u64::from(run)..=largest).collect();
            let mut low = largest - u64::from(run);
            for (gap, run) in ranges.rest(0) {
                let high = low - u64::from(gap) - 2;
                low = high - u64::from(run);
                said.extend(low..=high);
            }
            prop_assert_eq!(said, set);
        }
    }
}
