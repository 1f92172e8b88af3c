//! A window of 32 packets and a timer of three seconds, and nothing else: what the original has, as a host of the lab.
//!
//! The receiver acknowledges every packet, and names the first that is missing. What is lost is sent again when the timer fires.

use super::Node;

const WINDOW_PACKETS: u64 = 32;
const TIMER_NS: u64 = 3_000_000_000;
/// Payload of a packet, and the bytes of IP, UDP and its own header in front (the original's header has 54).
const PAYLOAD_BYTES: usize = 1_418;
const HEADER_BYTES: usize = 54;
const IP_UDP_BYTES: u64 = 28;

/// A host that sends without end to another, or receives.
#[derive(Debug)]
pub struct WindowNode {
    to: Option<usize>,
    /// Sender: the first packet that is not acknowledged, the next to send for the first time, and packets to send again.
    base: u64,
    next: u64,
    again: Option<u64>,
    timer_ns: u64,
    /// Receiver: the first packet that is missing, and which of the 64 behind it are there.
    missing: u64,
    there: u64,
    answers: Vec<(usize, u64)>,
}

impl WindowNode {
    /// A host that sends to `to`, or receives.
    pub fn new(to: Option<usize>) -> Self {
        let (base, next, again, timer_ns) = (0, 0, None, 0);
        Self { to, base, next, again, timer_ns, missing: 0, there: 0, answers: Vec::new() }
    }

    fn receive(&mut self, from: usize, number: u64) {
        if (self.missing..self.missing + u64::from(u64::BITS)).contains(&number) {
            self.there |= 1 << (number - self.missing);
        }
        let whole = self.there.trailing_ones();
        self.missing += u64::from(whole);
        self.there = self.there.checked_shr(whole).unwrap_or(0);
        self.answers.push((from, self.missing));
    }
}

impl Node for WindowNode {
    fn handle(&mut self, now_ns: u64, from: usize, bytes: &[u8]) {
        let number = u64::from_be_bytes(*bytes.first_chunk().expect("every packet has a number"));
        if self.to.is_none() {
            self.receive(from, number);
        } else if number > self.base {
            self.base = number;
            self.timer_ns = now_ns + TIMER_NS;
        }
    }

    fn wake(&mut self, now_ns: u64) {
        if self.to.is_some() && self.timer_ns <= now_ns {
            self.again = (self.next > self.base).then_some(self.base);
            self.timer_ns = now_ns + TIMER_NS;
        }
    }

    fn next_wake(&self) -> Option<u64> {
        self.to.map(|_| self.timer_ns)
    }

    fn poll_transmit(&mut self, _: u64) -> Option<(usize, Vec<u8>)> {
        let mut bytes = vec![0; HEADER_BYTES];
        let Some(to) = self.to else {
            let (to, missing) = self.answers.pop()?;
            bytes[..8].copy_from_slice(&missing.to_be_bytes());
            return Some((to, bytes));
        };
        let number = match self.again.take() {
            Some(number) => number,
            None if self.next < self.base + WINDOW_PACKETS => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        bytes.resize(HEADER_BYTES + PAYLOAD_BYTES, 0);
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Some((to, bytes))
    }

    fn hidden_bytes(&self) -> u64 {
        IP_UDP_BYTES
    }

    fn received_bytes(&self) -> u64 {
        self.missing * PAYLOAD_BYTES as u64
    }
}
