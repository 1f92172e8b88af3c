//! Numbers that wrap on the wire and do not in the core.

/// The full number nearest to `near` whose low half is `low`. There are none below zero: a peer that names one means a
/// number that is far ahead, which no caller believes.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
pub(super) fn expand(low: u32, near: u64) -> u64 {
    let ahead = low.wrapping_sub(near as u32);
    if ahead < 1 << 31 {
        near.saturating_add(u64::from(ahead))
    } else {
        near.checked_sub(u64::from(ahead.wrapping_neg())).unwrap_or(near.saturating_add(u64::from(ahead)))
    }
}

/// The low half, as it goes on the wire.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the wire carries the low half")]
pub(super) const fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_finds_the_nearest_number_on_both_sides_of_a_wrap() {
        let near = (7_u64 << 32) + 5;
        for delta in [-3_i64, -6, -1000, 0, 1, 4000, (1 << 31) - 1, -(1 << 31) + 1] {
            let number = near.checked_add_signed(delta).unwrap();
            assert_eq!(expand(low(number), near), number, "delta {delta}");
        }
    }
    #[test]
    fn there_are_no_numbers_below_zero() {
        assert_eq!(expand(u32::MAX, 5), u64::from(u32::MAX));
        assert_eq!(expand(u32::MAX, 1 << 32), u64::from(u32::MAX));
        assert_eq!(expand(4, 5), 4);
    }
}
