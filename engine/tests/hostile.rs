//! A hostile application: it attaches by the real protocol and scribbles over everything that it can reach, round by round.
//! Each round ends in a named fault of its channel, or in nothing; never in a panic, a stall, or harm to a neighbour.
//!
//! `HOSTILE_ROUNDS` says how many rounds (default 1,000), `HOSTILE_SEED` the seed of the first; the next round has the next
//! seed. A failure prints the seed that repeats its round with `HOSTILE_ROUNDS=1`.
#![allow(
    unreachable_pub,
    missing_debug_implementations,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a test, in several files"
)]

mod common;

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/control.rs"]
mod control;
#[path = "hostile/dice.rs"]
mod dice;
#[path = "hostile/neighbour.rs"]
mod neighbour;
#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/seals.rs"]
mod seals;
#[path = "hostile/sys.rs"]
mod sys;

use attacks::{Expect, HARMLESS, LAST, Places};
use common::{TestSidecar, eventually};
use dice::Dice;
use machnet_client::control::{Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::shm::ring::PeerFault;
use machnet_engine::config::IdlePolicy;
use machnet_engine::status::{EngineStatus, Status};
use neighbour::Neighbours;
use raw::{Outcome, Raw, TINY};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEFAULT_ROUNDS: u64 = 1_000;
/// From so many rounds on each kind of fault must have occurred.
const ROUNDS_FOR_ALL: u64 = 500;

/// One sidecar test at a time, so that descriptors and threads can be counted.
static ALONE: Mutex<()> = Mutex::new(());
static SEED: AtomicU64 = AtomicU64::new(0);
static PROGRESS: AtomicU64 = AtomicU64::new(0);
/// What the round does just now.
static DOING: Mutex<&str> = Mutex::new("preparing");

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

/// Past the capturing of test output: the process may abort.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "hostile: {text}");
}

fn say_how_to_repeat(why: &str) {
    let seed = SEED.load(Ordering::Relaxed);
    let doing = DOING.try_lock().map_or("?", |doing| *doing);
    say(&format!("{why} while `{doing}`; repeat with HOSTILE_SEED={seed} HOSTILE_ROUNDS=1"));
}

/// Whatever panics, here or in the sidecar, names the seed; so does a stall.
fn watch() -> Arc<AtomicBool> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        say_how_to_repeat("a panic");
    }));
    let over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&over);
    std::thread::spawn(move || {
        let (mut last, mut quiet) = (u64::MAX, 0);
        while !until.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(500));
            let now = PROGRESS.load(Ordering::Relaxed);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            if quiet > 180 {
                say_how_to_repeat("STALL: no progress for 90 s");
                std::process::abort();
            }
        }
    });
    over
}

fn status(path: &Path) -> Status {
    let socket = raw::connect(path);
    socket.send(&Request::Status.encode(), &[]).expect("the request goes");
    let mut text = String::new();
    loop {
        let record = socket.receive().expect("the status comes");
        let Ok(Reply::StatusText { last, text: piece }) = Reply::decode(&record.bytes) else {
            panic!("no status but {record:?}");
        };
        text += &piece;
        if last {
            return serde_json::from_str(&text).expect("the status is JSON");
        }
    }
}

fn fault_counters(path: &Path) -> BTreeMap<PeerFaultName, u64> {
    let engines = status(path).engines;
    assert!(!engines.is_empty(), "the engines answer");
    let of = |engine: &EngineStatus, label: &str| *engine.counters.get(label).expect("the counter is shown");
    let value = |label: &str| engines.iter().map(|engine| of(engine, label)).sum();
    PeerFault::ALL.into_iter().map(|fault| (fault.label(), value(fault.label()))).collect()
}

type PeerFaultName = &'static str;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("there is /proc").count()
}

/// Threads of sidecars in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("there is /proc");
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("machnet-")).count()
}

/// Two sidecars on loopback addresses of their own, one UDP port: the attacked one and a peer.
fn two_sidecars(engines: u32) -> (TestSidecar, TestSidecar) {
    let pid = std::process::id();
    let address = |host: u8| Ipv4Addr::new(127, 64 + (pid >> 8 & 63) as u8, pid as u8, host);
    let free = UdpSocket::bind((address(1), 0)).expect("a port is free");
    let port = free.local_addr().expect("it has an address").port();
    drop(free);
    let start = |host, engines| {
        TestSidecar::start(&address(host).to_string(), |config| {
            (config.udp_port, config.idle, config.linger_ms) = (port, IdlePolicy::Block, 20);
            config.engines = engines;
        })
    };
    // The peer has one engine: how many flows find their way is for other tests.
    (start(1, engines), start(2, 1))
}

fn do_now(what: &'static str) {
    *DOING.lock().expect("nobody panics with it") = what;
}

/// One round. Answers what was tried and what came of it, for the tally.
fn round(path: &Path, seed: u64, places: &Places) -> (String, Option<PeerFault>) {
    let mut dice = Dice::new(seed);
    match dice.below(200) {
        0..30 => {
            let (name, attack) = dice.pick(control::ALL);
            do_now(name);
            attack(path, &mut dice);
            return (name.to_owned(), None);
        }
        30 => {
            let (name, attack) = dice.pick(control::SELDOM);
            do_now(name);
            attack(path, &mut dice);
            return (name.to_owned(), None);
        }
        31..35 => {
            do_now("seals");
            seals::try_all(path);
            return ("seals".to_owned(), None);
        }
        _ => {}
    }
    let geometry = if dice.chance(75) { TINY } else { Geometry::SMALL };
    do_now("attach");
    let mut raw = Raw::attach(path, geometry, &mut dice);
    let mut names = String::new();
    for _ in 0..dice.below(3) {
        let (name, attack) = dice.pick(HARMLESS);
        names = names + name + ", ";
        do_now(name);
        attack(&mut raw, &mut dice, places);
        assert_eq!(raw.settle(), Outcome::Alive, "{names}is harmless");
    }
    let (name, attack) = dice.pick(LAST);
    names += name;
    do_now(name);
    let outcome = match attack(&mut raw, &mut dice, places) {
        Expect::Fault(fault) => {
            let outcome = raw.end();
            assert_eq!(outcome, Outcome::Fault(fault), "{names}");
            outcome
        }
        Expect::Nothing => {
            let outcome = raw.settle();
            assert_eq!(outcome, Outcome::Alive, "{names}");
            outcome
        }
        Expect::Either => raw.settle(),
    };
    match outcome {
        Outcome::Fault(fault) => (name.to_owned(), Some(fault)),
        Outcome::Alive => (name.to_owned(), None),
        Outcome::Gone => panic!("{names}: the channel ended without a reason"),
    }
}

#[test]
fn a_hostile_application_harms_nobody_but_itself() {
    let _alone = ALONE.lock();
    attack(1, number("HOSTILE_ROUNDS").unwrap_or(DEFAULT_ROUNDS));
}

#[test]
fn a_hostile_application_harms_nobody_on_other_engines() {
    let _alone = ALONE.lock();
    attack(3, number("HOSTILE_ROUNDS").unwrap_or(DEFAULT_ROUNDS).div_ceil(4));
}

fn attack(engines: u32, rounds: u64) {
    let first = number("HOSTILE_SEED").unwrap_or_else(|| getrandom::u64().expect("random numbers") >> 16);
    say(&format!("HOSTILE_SEED={first} HOSTILE_ROUNDS={rounds}, {engines} engines"));
    let over = watch();
    let (sidecar, peer) = two_sidecars(engines);
    let path = sidecar.sidecar().socket();
    let mut neighbours = Neighbours::default();
    neighbours.pair("local", sidecar.attach(), sidecar.attach());
    neighbours.pair("remote", peer.attach(), sidecar.attach());
    let (near, far) = (sidecar.attach(), peer.attach());
    let places = Places {
        greeter: neighbours.greeter("far greeter", &far),
        neighbour: neighbours.greeter("near greeter", &near),
        nobody: Ipv4Addr::new(127, 200, 200, 200).into(),
    };
    std::thread::sleep(Duration::from_secs(2));
    neighbours.assert_well();
    let (messages, median, high, longest) = neighbours.take_times();
    say(&format!("quiet: {messages} round trips, median {median} us, p99 {high} us, longest {longest} us"));
    // Several engines open source ports as flows come and go.
    let descriptors = || if engines == 1 { descriptors() } else { 0 };
    let channels = || status(path).engines.iter().map(|engine| engine.channels.len()).sum::<usize>();
    let before = (descriptors(), threads(), channels());

    let mut tally: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for index in 0..rounds {
        let seed = first.wrapping_add(index);
        SEED.store(seed, Ordering::Relaxed);
        PROGRESS.store(index, Ordering::Relaxed);
        let (name, fault) = round(path, seed, &places);
        if let Some(fault) = fault {
            *tally.entry(fault.label()).or_default() += 1;
        }
        *ends.entry(format!("{name}: {}", fault.map_or("nothing", PeerFault::label))).or_default() += 1;
        neighbours.assert_well();
    }
    let exchanged = neighbours.exchanged.load(Ordering::Relaxed);
    eventually("the neighbours go on", || neighbours.exchanged.load(Ordering::Relaxed) > exchanged + 10);
    let (messages, median, high, longest) = neighbours.take_times();
    say(&format!(
        "attacked: {messages} round trips, median {median} us, p99 {high} us, longest {longest} us"
    ));
    for (end, times) in &ends {
        say(&format!("{times:>6} {end}"));
    }
    eventually("descriptors, threads and channels are as before", || {
        before == (descriptors(), threads(), channels())
    });
    let counted = fault_counters(path);
    for (label, &times) in &counted {
        assert!(times >= tally.get(label).copied().unwrap_or(0), "{label} is counted each time: {counted:?}");
        assert!(times > 0 || rounds < ROUNDS_FOR_ALL, "{label} never occurred: {counted:?}");
    }
    neighbours.assert_well();
    neighbours.stop();
    over.store(true, Ordering::Relaxed);
}

#[test]
fn sealed_memory_stays_sealed() {
    let _alone = ALONE.lock();
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    seals::try_all(sidecar.sidecar().socket());
}
