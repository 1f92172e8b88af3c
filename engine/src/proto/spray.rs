//! How many SYNs the paper's handshake sends at once (section 4.2).

/// Most SYNs of one batch, however often it was doubled.
const MAX_BATCH: u32 = 1_024;
/// 1.0 in fixed point.
const ONE: u64 = 1 << 32;
/// 1 - sqrt 0.95 in fixed point, rounded down: each direction may fail this often.
const MAY_FAIL: u64 = 108_751_000;

/// So many packets on random pairs that at least one lands at one of `engines` engines with a probability of sqrt 0.95:
/// ln(1 - sqrt 0.95) / ln(1 - 1/n), rounded up; 13 for 4 engines, 28 for 8.
pub(super) fn batch(engines: u8) -> u32 {
    let engines = u64::from(engines.max(1));
    let mut fails = ONE;
    let mut packets = 0;
    while fails > MAY_FAIL && packets < MAX_BATCH {
        // Rounded up, so that the batch is never too small.
        fails = (fails * (engines - 1)).div_ceil(engines);
        packets += 1;
    }
    packets
}

/// The batch after `attempts` that did not succeed: twice as large each time.
pub(super) fn next_batch(engines: u8, attempts: u32) -> u32 {
    batch(engines).saturating_mul(1 << attempts.min(16)).min(MAX_BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_those_of_the_papers_formula() {
        for engines in 1..=255_u8 {
            let n = f64::from(engines);
            let exact = if engines == 1 { 1.0 } else { (1.0 - 0.95_f64.sqrt()).ln() / (1.0 - 1.0 / n).ln() };
            let expected = format!("{}", exact.ceil());
            assert_eq!(batch(engines).to_string(), expected, "{engines} engines");
        }
        assert_eq!((batch(1), batch(2), batch(4), batch(8)), (1, 6, 13, 28));
    }

    #[test]
    fn each_attempt_doubles_the_batch_up_to_its_bound() {
        let batches: Vec<u32> = (0..9).map(|attempts| next_batch(4, attempts)).collect();
        assert_eq!(batches, [13, 26, 52, 104, 208, 416, 832, 1_024, 1_024]);
        assert_eq!(next_batch(255, u32::MAX), MAX_BATCH);
    }
}
