//! Which UDP ports a sidecar sends from, and how many that must be.

use std::ops::RangeInclusive;

/// Most engines of one sidecar.
pub const MAX_ENGINES: u32 = 16;

/// Source ports that each engine gets where none are chosen: more than what 16 engines on both sides need.
pub const PORTS_PER_ENGINE: u16 = 64;

/// Port pairs that one side must try so that, with as many tries of the other side, both directions of a flow reach the
/// right one of `engines` engines with probability 0.95: ln(1 - sqrt 0.95) / ln(1 - 1/n) (paper, section 4.2), rounded up.
pub fn pairs_needed(engines: u32) -> u16 {
    if engines <= 1 {
        return 1;
    }
    let miss = 1.0 - 0.95_f64.sqrt();
    let pairs = miss.ln() / (1.0 - 1.0 / f64::from(engines)).ln();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "72 for the most engines")]
    let pairs = pairs.ceil() as u16;
    pairs
}

/// The source ports of all engines: those that were chosen, or [`PORTS_PER_ENGINE`] for each engine from the port that they
/// receive at (fewer where the port numbers end).
pub fn source_ports(
    chosen: Option<&RangeInclusive<u16>>,
    receive_port: u16,
    engines: u32,
) -> RangeInclusive<u16> {
    match chosen {
        // A test's sidecar may receive at any port.
        Some(chosen) if chosen.contains(&receive_port) => chosen.clone(),
        _ => {
            let count = u32::from(PORTS_PER_ENGINE) * engines;
            let last = u16::try_from(u32::from(receive_port) + count - 1).unwrap_or(u16::MAX);
            receive_port..=last
        }
    }
}

/// The part of the source ports that is one engine's own: engines that sent from the same ports would need a lock, or a
/// socket that several programs may bind.
pub fn share(all: &RangeInclusive<u16>, engine: u32, engines: u32) -> RangeInclusive<u16> {
    let total = u32::from(*all.end()) - u32::from(*all.start()) + 1;
    let each = (total / engines).max(1);
    let first = (u32::from(*all.start()) + engine * each).min(u32::from(*all.end()));
    let last = if engine + 1 == engines { u32::from(*all.end()) } else { first + each - 1 };
    let port = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);
    port(first)..=port(last.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_what_the_paper_says_rounded_up() {
        assert_eq!([1, 2, 4, 8].map(pairs_needed), [1, 6, 13, 28]);
        assert_eq!(pairs_needed(16), 57);
    }

    #[test]
    fn what_is_not_chosen_is_enough_for_any_number_of_engines_and_below_what_linux_gives_away() {
        for engines in 1..=MAX_ENGINES {
            let all = source_ports(None, crate::config::DEFAULT_UDP_PORT, engines);
            assert!(
                *all.end() < 32_768,
                "{engines}: Linux gives ports from 32768 on to outgoing connections"
            );
            for engine in 0..engines {
                let own = share(&all, engine, engines);
                assert!(own.len() >= usize::from(pairs_needed(MAX_ENGINES)), "{engines}: {own:?}");
            }
        }
    }

    #[test]
    fn shares_cover_the_range_and_do_not_overlap() {
        for (all, engines) in [(1000..=1063, 4), (1000..=1066, 4), (1000..=1000, 1), (65_500..=65_535, 5)] {
            let shares = (0..engines).flat_map(|engine| share(&all, engine, engines));
            assert!(shares.eq(all.clone()), "{all:?} among {engines}");
        }
    }

    #[test]
    fn a_receive_port_near_the_end_of_the_numbers_leaves_fewer() {
        assert_eq!(source_ports(None, 65_530, 2), 65_530..=65_535);
        assert_eq!(source_ports(Some(&(2_000..=2_100)), 2_000, 2), 2_000..=2_100);
    }
}
