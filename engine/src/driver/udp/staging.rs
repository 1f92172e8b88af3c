//! Where datagrams wait between `commit` and `flush`.
//!
//! ```text
//!   bytes   | sent already | datagram | datagram | dg | datagram | free ................ |
//!           0              ^ runs[first].offset                  ^ tail                  capacity
//!   runs                   [ to A: 2 of 1000, 1 of 400 ][ to B  ]
//! ```
//!
//! Datagrams lie end to end, so neighbours of equal length from one port to one address are already the one slice that GSO wants.

use std::net::SocketAddr;
use std::ops::Range;

/// Most datagrams in one run: the kernel's `UDP_MAX_SEGMENTS`, which was 64 until Linux 6.9.
pub(super) const MAX_RUN_DATAGRAMS: u16 = 64;

/// Most bytes in one run: the largest IPv4 packet less its headers (RFC 768, RFC 791).
pub(super) const MAX_RUN_BYTES: usize = 65_507;

/// Most runs that wait at a time: the descriptors of the LCD NIC's queue (paper, section 3.1).
pub(super) const MAX_RUNS: usize = 256;

/// Datagrams from one port to one address that lie end to end: all of one length but for the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The port that it leaves from.
    pub(super) from_port: u16,
    /// The destination.
    pub(super) to: SocketAddr,
    /// Where the first datagram begins.
    pub(super) offset: usize,
    /// Bytes of all datagrams.
    pub(super) total_bytes: usize,
    /// Bytes of each datagram but the last.
    pub(super) segment_bytes: u16,
    /// How many datagrams.
    pub(super) datagrams: u16,
}

impl Run {
    /// Where the bytes lie in the staging.
    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.total_bytes
    }

    /// Where the bytes of the first datagram lie.
    pub(super) fn first_range(&self) -> Range<usize> {
        self.offset..self.offset + self.total_bytes.min(usize::from(self.segment_bytes))
    }

    fn takes(&self, from_port: u16, to: SocketAddr, len: usize) -> bool {
        let segment_bytes = usize::from(self.segment_bytes);
        let ends_with_a_whole_one = self.total_bytes == segment_bytes * usize::from(self.datagrams);
        ends_with_a_whole_one
            && self.to == to
            && self.from_port == from_port
            && len > 0
            && len <= segment_bytes
            && self.datagrams < MAX_RUN_DATAGRAMS
            && self.total_bytes + len <= MAX_RUN_BYTES
    }
}

/// The transmit queue.
#[derive(Debug)]
pub(super) struct Staging {
    bytes: Vec<u8>,
    tail: usize,
    runs: Vec<Run>,
    first: usize,
    lent: Option<(u16, SocketAddr, usize)>,
    merges: bool,
}

impl Staging {
    /// Room for `capacity` bytes in all. With `merges`, runs are made of neighbours that GSO can send together.
    pub(super) fn new(capacity: usize, merges: bool) -> Self {
        let runs = Vec::with_capacity(MAX_RUNS);
        Self { bytes: vec![0; capacity], tail: 0, runs, first: 0, lent: None, merges }
    }

    /// From now on every datagram is a run of its own.
    pub(super) fn stop_merging(&mut self) {
        self.merges = false;
    }

    /// Room for a datagram of `len` bytes, if there is any.
    #[inline]
    pub(super) fn lend(&mut self, from_port: u16, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if self.runs.len() == MAX_RUNS || len > self.bytes.len() - self.tail {
            return None;
        }
        self.lent = Some((from_port, to, len));
        Some(&mut self.bytes[self.tail..self.tail + len])
    }

    /// Queues the first `len` bytes of what was lent last.
    #[inline]
    pub(super) fn commit(&mut self, len: usize) {
        let (from_port, to, lent_len) = self.lent.take().expect("a datagram is lent before it is committed");
        assert!(len <= lent_len, "{len} bytes committed of {lent_len} lent");
        let offset = self.tail;
        self.tail += len;
        // A run that was partly sent begins later, but still ends where the next datagram begins.
        match self.runs.last_mut() {
            Some(run) if self.merges && run.takes(from_port, to, len) => {
                run.total_bytes += len;
                run.datagrams += 1;
                return;
            }
            _ => {}
        }
        let segment_bytes = u16::try_from(len).expect("UDP payloads are below 64 KiB");
        self.runs.push(Run { from_port, to, offset, total_bytes: len, segment_bytes, datagrams: 1 });
    }

    /// All staged bytes; [`Run::range`] points into them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What waits, oldest first.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[self.first..]
    }

    /// Takes the first `count` runs off the queue and returns how many datagrams they were.
    pub(super) fn advance(&mut self, count: usize) -> u64 {
        let datagrams = self.runs()[..count].iter().map(|run| u64::from(run.datagrams)).sum();
        self.first += count;
        datagrams
    }

    /// Takes the first datagram of the first run off the queue.
    pub(super) fn advance_datagram(&mut self) {
        let run = &mut self.runs[self.first];
        let bytes = run.first_range().len();
        run.offset += bytes;
        run.total_bytes -= bytes;
        run.datagrams -= 1;
        if run.datagrams == 0 {
            self.first += 1;
        }
    }

    /// Makes room at the end again by moving what still waits to the front.
    pub(super) fn compact(&mut self) {
        let start = match self.runs().first() {
            None => {
                self.runs.clear();
                (self.tail, self.first) = (0, 0);
                return;
            }
            Some(run) => run.offset,
        };
        if self.first == 0 && start == 0 {
            return;
        }
        self.runs.drain(..self.first);
        self.first = 0;
        self.bytes.copy_within(start..self.tail, 0);
        self.tail -= start;
        for run in &mut self.runs {
            run.offset -= start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7))
    }

    fn put(staging: &mut Staging, to: u8, len: usize, fill: u8) {
        staging.lend(7, address(to), len).unwrap().fill(fill);
        staging.commit(len);
    }

    fn shapes(staging: &Staging) -> Vec<(u16, u16, usize)> {
        staging.runs().iter().map(|run| (run.segment_bytes, run.datagrams, run.total_bytes)).collect()
    }

    #[test]
    fn equal_neighbours_to_one_address_become_one_run_and_a_shorter_one_ends_it() {
        let mut staging = Staging::new(10_000, true);
        for len in [1000, 1000, 400, 400, 500, 500] {
            put(&mut staging, 1, len, 0);
        }
        put(&mut staging, 2, 500, 0);
        put(&mut staging, 1, 500, 0);
        assert_eq!(
            shapes(&staging),
            [(1000, 3, 2400), (400, 1, 400), (500, 2, 1000), (500, 1, 500), (500, 1, 500)]
        );
    }

    #[test]
    fn datagrams_from_different_ports_are_different_runs() {
        let mut staging = Staging::new(1000, true);
        for from_port in [7, 7, 8, 7] {
            staging.lend(from_port, address(1), 10).unwrap().fill(0);
            staging.commit(10);
        }
        let ports: Vec<_> = staging.runs().iter().map(|run| (run.from_port, run.datagrams)).collect();
        assert_eq!(ports, [(7, 2), (8, 1), (7, 1)]);
    }

    #[test]
    fn a_run_stops_at_64_datagrams_and_at_the_largest_ip_packet() {
        let mut staging = Staging::new(1_000_000, true);
        for _ in 0..65 {
            put(&mut staging, 1, 10, 0);
        }
        for _ in 0..3 {
            put(&mut staging, 2, 30_000, 0);
        }
        assert_eq!(shapes(&staging), [(10, 64, 640), (10, 1, 10), (30_000, 2, 60_000), (30_000, 1, 30_000)]);
    }

    #[test]
    fn empty_datagrams_are_never_joined() {
        let mut staging = Staging::new(100, true);
        for len in [0, 0, 5, 0] {
            put(&mut staging, 1, len, 0);
        }
        assert_eq!(shapes(&staging), [(0, 1, 0), (0, 1, 0), (5, 1, 5), (0, 1, 0)]);
    }

    #[test]
    fn lend_says_no_when_bytes_or_runs_run_out() {
        let mut staging = Staging::new(1000, true);
        put(&mut staging, 1, 600, 0);
        assert!(staging.lend(7, address(1), 401).is_none());
        assert!(staging.lend(7, address(1), 400).is_some());
        let mut staging = Staging::new(1000, false);
        for _ in 0..MAX_RUNS {
            put(&mut staging, 1, 1, 0);
        }
        assert!(staging.lend(7, address(1), 1).is_none());
    }

    #[test]
    fn what_was_not_sent_keeps_its_bytes_when_it_moves_to_the_front() {
        let mut staging = Staging::new(1000, true);
        put(&mut staging, 1, 100, 1);
        put(&mut staging, 2, 200, 2);
        put(&mut staging, 2, 150, 3);
        assert_eq!(staging.advance(1), 1);
        staging.advance_datagram();
        staging.compact();
        put(&mut staging, 3, 10, 4);
        let runs: Vec<Run> = staging.runs().to_vec();
        assert_eq!(runs.len(), 2);
        assert!(staging.bytes()[runs[0].range()].iter().all(|byte| *byte == 3));
        assert_eq!(runs[0].range(), 0..150);
        assert!(staging.bytes()[runs[1].range()].iter().all(|byte| *byte == 4));
    }
}
