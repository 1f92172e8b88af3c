//! Tests of the simulator itself: seeds replay, every fault happens, and the checker notices what is broken on purpose.

use crate::mutant::{Mutant, Mutation};
use crate::report::Totals;
use crate::runner::{Options, run_caught};
use crate::scenario::Scenario;
use crate::world::Watch;

/// A test: true if it passed.
type Test = fn(u64) -> Result<(), String>;

const TESTS: &[(&str, Test)] = &[
    ("a_seed_replays_exactly", a_seed_replays_exactly),
    ("different_seeds_differ", different_seeds_differ),
    ("content_is_the_same_from_any_offset", content_is_the_same_from_any_offset),
    ("spans_count_each_byte_once", spans_count_each_byte_once),
    ("every_kind_of_fault_happens", every_kind_of_fault_happens),
    ("the_checker_notices_what_is_broken", the_checker_notices_what_is_broken),
];

/// Runs the tests that the filter names. True if all passed.
pub(crate) fn run_all(options: &Options) -> bool {
    let mut good = true;
    for (name, test) in TESTS {
        if options.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        match test(options.first_seed) {
            Ok(()) => println!("test {name} ... ok"),
            Err(text) => {
                println!("test {name} ... FAILED (SIM_SEED={})\n{text}", options.first_seed);
                good = false;
            }
        }
    }
    good
}

fn a_seed_replays_exactly(first: u64) -> Result<(), String> {
    for seed in first..first + 40 {
        let once = run_caught(Scenario::new(seed, None), Mutant::none(), Watch::default());
        let again = run_caught(Scenario::new(seed, None), Mutant::none(), Watch::default());
        if once.hash != again.hash || once.totals != again.totals {
            return Err(format!("seed {seed}, kind {}: {:x} and {:x}", once.kind, once.hash, again.hash));
        }
    }
    Ok(())
}

fn different_seeds_differ(first: u64) -> Result<(), String> {
    let hash = |seed| run_caught(Scenario::new(seed, Some("loss")), Mutant::none(), Watch::default()).hash;
    if hash(first) == hash(first + 1) { Err("two seeds have one hash".to_owned()) } else { Ok(()) }
}

fn content_is_the_same_from_any_offset(seed: u64) -> Result<(), String> {
    let key = crate::content::key(seed, 3, 1, 7);
    let mut whole = [0; 100];
    crate::content::fill(key, 0, &mut whole);
    for start in 0..50 {
        for len in 0..50 {
            let mut part = vec![0; len];
            crate::content::fill(key, start, &mut part);
            if part != whole[start..start + len] {
                return Err(format!("{len} bytes from {start} differ"));
            }
        }
    }
    whole[99] ^= 1;
    if crate::content::matches(key, &whole) {
        Err("a changed byte is not noticed".to_owned())
    } else {
        Ok(())
    }
}

fn spans_count_each_byte_once(seed: u64) -> Result<(), String> {
    let mut dice = crate::dice::Dice::new(seed, 9);
    let mut spans = crate::spans::Spans::default();
    let mut model = [false; 200];
    for _ in 0..300 {
        let start = dice.between(0, 199);
        let end = dice.between(start + 1, 200);
        let fresh = model[start as usize..end as usize]
            .iter_mut()
            .filter(|known| !**known)
            .map(|known| *known = true);
        let expected = fresh.count() as u32;
        let told = spans.add(start as u32, end as u32);
        if told != expected {
            return Err(format!("{start}..{end}: {told} new bytes instead of {expected}"));
        }
    }
    Ok(())
}

/// Rounds over all kinds until every fault has happened.
const ROUNDS: u64 = 40;

/// Totals that those rounds must not leave at zero.
const MUST_HAPPEN: &[&str] = &[
    "connected",
    "refused",
    "busy",
    "connect_timeouts",
    "closed",
    "finished",
    "reset",
    "aborted",
    "delivered",
    "large_delivered",
    "acknowledged",
    "unacknowledged",
    "retransmissions",
    "bundles",
    "lost",
    "duplicated",
    "ghosts",
    "reordered",
    "corrupted",
    "queue_full",
    "too_large",
    "cut",
    "to_nobody",
    "partitions",
    "narrowed",
    "restarts",
    "naps",
    "no_room",
    "ring_full",
    "no_credit",
    "unread_pauses",
    "stranger_sent",
    "stranger_answered",
    "flood_syns",
    "handed_over",
    "hand_over_lost",
    "inbox_full",
    "to_closed_port",
    "rehashes",
    "clock_jumps",
    "direct_checks",
    "idle_checks",
    "peeks",
];

fn every_kind_of_fault_happens(first: u64) -> Result<(), String> {
    let mut totals = Totals::default();
    let mut missing = Vec::new();
    for seed in first..first + ROUNDS {
        for (kind, _) in crate::kinds::KINDS {
            let outcome = run_caught(Scenario::new(seed, Some(kind)), Mutant::none(), Watch::default());
            if let Some(violation) = outcome.violation {
                return Err(format!("seed {seed}, kind {kind}: {}: {}", violation.rule, violation.text));
            }
            totals.add(&outcome.totals);
        }
        let list = totals.list();
        let happened = |name: &str| list.iter().any(|(known, value)| *known == name && *value > 0);
        missing = MUST_HAPPEN.iter().filter(|name| !happened(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
    }
    Err(format!("never happened in {ROUNDS} rounds: {missing:?}"))
}

/// What is broken, in which kind of scenario, and which rules may notice.
const BROKEN: &[(Mutation, &str, &[&str])] = &[
    (Mutation::SwapByte, "calm", &["intact", "order"]),
    (Mutation::DropDelivery, "calm", &["finished", "order", "counters", "once", "closed", "acknowledged"]),
    (Mutation::RepeatDelivery, "calm", &["once", "order", "acknowledged"]),
    (Mutation::SwapDeliveries, "calm", &["order", "acknowledged", "once", "counters", "closed", "finished"]),
    (Mutation::LoseDiscard, "aborts", &["handles"]),
    (
        Mutation::LoseAcknowledgement,
        "calm",
        &["acknowledged", "unacknowledged", "starved", "counters", "finished", "handles", "send"],
    ),
    (Mutation::SwapAcknowledgements, "calm", &["acknowledged"]),
    (Mutation::EarlyAcknowledgement, "calm", &["acknowledged"]),
    (Mutation::LoseEnd, "calm", &["end", "starved", "counters"]),
    (Mutation::MiscountUnacknowledged, "aborts", &["unacknowledged"]),
    (Mutation::WrongReason, "aborts", &["reason"]),
    (Mutation::Starve, "calm", &["starved"]),
    (Mutation::NoTimers, "loss", &["starved", "connect", "end", "silence"]),
    (Mutation::Chatter, "idle", &["silence"]),
    (Mutation::LoudReply, "strangers", &["amplification"]),
    (Mutation::LargeDatagram, "calm", &["size"]),
    (Mutation::SecretRehash, "engines", &["direct"]),
    (Mutation::SlowHandOver, "engines", &["round-trip"]),
    (Mutation::LoseHandOvers, "engines", &["round-trip", "connect", "starved", "end"]),
    (Mutation::LateTimers, "connects", &["connect", "starved", "end"]),
];

/// Seeds to try until the fault bites: not each scenario gives each fault its chance.
const TRIES: u64 = 400;

fn the_checker_notices_what_is_broken(first: u64) -> Result<(), String> {
    for (mutation, kind, rules) in BROKEN {
        let mut caught = false;
        for seed in first..first + TRIES {
            let mutant = Mutant::new(*mutation, (seed % 3) as u32);
            let outcome = run_caught(Scenario::new(seed, Some(kind)), mutant, Watch::default());
            let Some(violation) = outcome.violation else { continue };
            if !rules.contains(&violation.rule) {
                return Err(format!(
                    "{mutation:?}, seed {seed}: {} instead of {rules:?}: {}",
                    violation.rule, violation.text
                ));
            }
            caught = true;
            break;
        }
        if !caught {
            return Err(format!("{mutation:?} is not noticed in {TRIES} seeds of kind {kind} from {first}"));
        }
    }
    Ok(())
}
