//! Honest applications beside the attacker: what they send arrives, intact and in order, and how long it takes is measured.

use crate::common::PATIENCE;
use crate::dice::Dice;
use machnet_client::{Attachment, Error, Flow, Listener};
use machnet_engine::clock::Clock;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Messages of one connection; then another is made, so that places in tables are used again.
const MESSAGES: u64 = 48;
const GREETED: usize = 4;

/// Threads of honest applications, until stopped.
#[derive(Default)]
pub struct Neighbours {
    stop: Arc<AtomicBool>,
    threads: Vec<(String, JoinHandle<()>)>,
    pub exchanged: Arc<AtomicU64>,
    times_ns: Arc<Mutex<Vec<u64>>>,
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// | number | checksum of the rest | bytes that follow from number and dice |
fn message(number: u64, dice: &mut Dice) -> Vec<u8> {
    let len = match dice.below(10) {
        0 => 4_001 + dice.below(36_000),
        1..=3 => 97 + dice.below(3_900),
        _ => dice.below(97),
    };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend([0; 8]);
    bytes.extend((0..len).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(131)) as u8));
    let sum = checksum(&bytes[16..]);
    bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn assert_intact(bytes: &[u8], number: u64, whose: &str) {
    assert!(bytes.len() >= 16, "{whose}: a message of {} bytes", bytes.len());
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(word(0), number, "{whose}: messages come in order, each once");
    assert_eq!(word(8), checksum(&bytes[16..]), "{whose}: message {number} is intact");
}

impl Neighbours {
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        self.threads.push((name.to_owned(), std::thread::spawn(run)));
    }

    /// An application that echoes what one other says, and that other.
    pub fn pair(&mut self, name: &'static str, server: Attachment, client: Attachment) {
        let listener = server.listen("0.0.0.0:0", 8).expect("listens");
        let to = listener.local_addr();
        // The echo stays until the other has ended: a listener that goes first refuses the last connection.
        let talking = Arc::new(());
        let client_is_there = Arc::downgrade(&talking);
        self.spawn(name, move || echo(name, &listener, &client_is_there));
        let (stop, exchanged, times) =
            (Arc::clone(&self.stop), Arc::clone(&self.exchanged), Arc::clone(&self.times_ns));
        self.spawn(name, move || {
            let _talking = talking;
            let mut dice = Dice::new(name.len() as u64);
            while !stop.load(Ordering::Relaxed) {
                talk(name, &client, to, &mut dice, &exchanged, &times);
            }
        });
    }

    /// An application that takes every flow, says a few things, and reads little.
    pub fn greeter(&mut self, name: &'static str, attachment: &Attachment) -> SocketAddr {
        let listener = attachment.listen("0.0.0.0:0", 16).expect("listens");
        let at = listener.local_addr();
        let stop = Arc::clone(&self.stop);
        self.spawn(name, move || greet(&listener, &stop));
        at
    }

    /// A neighbour that failed fails the test.
    pub fn assert_well(&mut self) {
        if let Some(at) = self.threads.iter().position(|(_, thread)| thread.is_finished()) {
            let (name, thread) = self.threads.swap_remove(at);
            thread.join().unwrap_or_else(|_| panic!("neighbour {name} failed, see above"));
            panic!("neighbour {name} ended early");
        }
    }

    /// Messages since the last call, and their median, 99th percentile and longest time in microseconds.
    pub fn take_times(&self) -> (usize, u64, u64, u64) {
        let mut times = std::mem::take(&mut *self.times_ns.lock().expect("no neighbour failed"));
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or(0) / 1000;
        (times.len(), at(500), at(990), times.last().copied().unwrap_or(0) / 1000)
    }

    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (name, thread) in self.threads.drain(..) {
            thread.join().unwrap_or_else(|_| panic!("neighbour {name} failed, see above"));
        }
    }
}

fn echo(name: &str, listener: &Listener, client: &Weak<()>) {
    while client.strong_count() > 0 {
        let flow = match listener.accept_timeout(Duration::from_millis(100)) {
            Ok(flow) => flow,
            Err(Error::TimedOut) => continue,
            Err(error) => panic!("{name}: accept: {error}"),
        };
        for number in 0.. {
            match flow.recv_timeout(PATIENCE) {
                Ok(message) => {
                    assert_intact(&message, number, name);
                    flow.send_timeout(&message, PATIENCE).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                Err(Error::Closed) => break,
                Err(error) => panic!("{name}: the server receives: {error}"),
            }
        }
    }
}

fn talk(
    name: &str,
    client: &Attachment,
    to: SocketAddr,
    dice: &mut Dice,
    exchanged: &AtomicU64,
    times: &Mutex<Vec<u64>>,
) {
    let clock = Clock::start();
    let flow = client
        .connect_timeout(to, None, Some(PATIENCE))
        .unwrap_or_else(|error| panic!("{name}: connect: {error}"));
    let (mut sent, mut under_way) = (0, VecDeque::new());
    for number in 0..MESSAGES {
        while sent < MESSAGES && under_way.len() < 3 {
            under_way.push_back(clock.now());
            flow.send_timeout(&message(sent, dice), PATIENCE)
                .unwrap_or_else(|error| panic!("{name}: send: {error}"));
            sent += 1;
        }
        let back = flow.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{name}: receive: {error}"));
        assert_intact(&back, number, name);
        let since = under_way.pop_front().expect("it was sent");
        times.lock().expect("no neighbour failed").push(clock.now().since(since).as_nanos());
        exchanged.fetch_add(1, Ordering::Relaxed);
        // Leave the attacker some processor time.
        std::thread::sleep(Duration::from_micros(300));
    }
    flow.close().unwrap_or_else(|error| panic!("{name}: close: {error}"));
}

fn greet(listener: &Listener, stop: &AtomicBool) {
    let mut flows: VecDeque<Flow> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept_timeout(Duration::from_millis(20)) {
            Ok(flow) => {
                for len in [5, 112, 113, 3000] {
                    // The other one may be gone, or too small.
                    let _ = flow.try_send(&vec![1; len]);
                }
                flows.push_back(flow);
            }
            Err(Error::TimedOut) => {
                flows.pop_front();
            }
            Err(error) => panic!("the greeter accepts: {error}"),
        }
        if flows.len() > GREETED {
            let flow = flows.pop_front().expect("more than none");
            while let Ok(Some(_)) = flow.try_recv() {}
        }
    }
}
