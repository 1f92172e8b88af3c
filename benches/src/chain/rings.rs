//! Bare rings: those of the floor, in memory that all processes of a row share, with a bell for each process.

use super::{BURST, Link};
use machnet_client::shm::region::{self, Mapping, Write};
use machnet_client::shm::ring::WritableMemory;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Processes of a row.
pub const MEMBERS: usize = 4;
const SLOTS: u64 = 256;
/// One cache line: the sequence number and 48 bytes of payload, as in the floor.
const SLOT_WORDS: usize = 8;
const RING_WORDS: usize = 2_048;
const RING_BYTES: usize = RING_WORDS * 8;
/// A ring each way between neighbours.
const RINGS: usize = 2 * (MEMBERS - 1);
/// A cache line for each member: whether it sleeps.
const FLAG_BYTES: usize = 64;
const REGION_BYTES: usize = RINGS * RING_BYTES + 4_096;
const _: () = assert!(MEMBERS * FLAG_BYTES <= 4_096 && RING_WORDS as u64 == SLOTS * SLOT_WORDS as u64);

/// The rings of a row, and a pipe for each member that wakes it. Children open them by the files of /proc that
/// [`Self::arguments`] names.
#[derive(Debug)]
pub struct Row {
    region: OwnedFd,
    bells: [(OwnedFd, OwnedFd); MEMBERS],
}

impl Row {
    /// Empty rings.
    pub fn new() -> io::Result<Self> {
        let bell = || rustix::pipe::pipe().map_err(io::Error::from);
        let bells = [bell()?, bell()?, bell()?, bell()?];
        Ok(Self { region: region::create(c"machnet-row", REGION_BYTES)?, bells })
    }

    /// What a member is told to find the row: [`Member::open`] takes it.
    pub fn arguments(&self, member: usize) -> Vec<String> {
        let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let bells = self.bells.iter().flat_map(|(read, write)| [path(read), path(write)]);
        [member.to_string(), path(&self.region)].into_iter().chain(bells).collect()
    }
}

/// A member of a row in its own process.
#[derive(Debug)]
pub struct Member {
    number: usize,
    mapping: &'static Mapping<Write>,
    bells: Vec<PathBuf>,
}

impl Member {
    /// Opens what [`Row::arguments`] said. The mapping lives as long as the process.
    pub fn open(arguments: &[String]) -> io::Result<Self> {
        let [number, region, bells @ ..] = arguments else {
            return Err(io::Error::other("a member of a row is told its number and its files"));
        };
        let number = number.parse().map_err(io::Error::other)?;
        let region = OpenOptions::new().read(true).write(true).open(region)?;
        let mapping = Box::leak(Box::new(Mapping::<Write>::writable(&region, REGION_BYTES)?));
        if bells.len() != 2 * MEMBERS || number >= MEMBERS {
            return Err(io::Error::other("not a row of four"));
        }
        Ok(Self { number, mapping, bells: bells.iter().map(PathBuf::from).collect() })
    }

    /// Its place in the row, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The link to the member before or behind it.
    pub fn link(&self, neighbour: usize) -> io::Result<Rings> {
        let own = &self.bells[2 * self.number];
        let bell = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(own)?;
        let other = &self.bells[2 * neighbour + 1];
        let their_bell = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(other)?;
        let flag = |member: usize| &self.mapping.words_mut::<1>(RINGS * RING_BYTES + member * FLAG_BYTES)[0];
        Ok(Rings {
            incoming: self.mapping.words_mut(ring(neighbour, self.number) * RING_BYTES),
            outgoing: self.mapping.words_mut(ring(self.number, neighbour) * RING_BYTES),
            taken: 0,
            put: 0,
            is_asleep: flag(self.number),
            are_they_asleep: flag(neighbour),
            bell,
            their_bell,
        })
    }
}

/// Which ring leads from one member to its neighbour.
fn ring(from: usize, to: usize) -> usize {
    if to > from { from } else { MEMBERS - 1 + to }
}

/// A member's end of the two rings that join it with a neighbour.
#[derive(Debug)]
pub struct Rings {
    incoming: &'static [AtomicU64; RING_WORDS],
    outgoing: &'static [AtomicU64; RING_WORDS],
    taken: u64,
    put: u64,
    is_asleep: &'static AtomicU64,
    are_they_asleep: &'static AtomicU64,
    bell: File,
    their_bell: File,
}

fn slot(ring: &[AtomicU64; RING_WORDS], position: u64) -> &[AtomicU64] {
    let start = usize::try_from(position % SLOTS).unwrap_or(0) * SLOT_WORDS;
    &ring[start..start + SLOT_WORDS]
}

impl Rings {
    fn has_input(&self) -> bool {
        // SYNC: payload visible
        slot(self.incoming, self.taken)[0].load(Ordering::Acquire) == self.taken + 1
    }
}

impl Link for Rings {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let mut count = 0;
        while count < BURST && self.has_input() {
            let slot = slot(self.incoming, self.taken);
            let number = slot[1].load(Ordering::Relaxed);
            let rest = slot[2..7].iter().fold(0, |all, word| all ^ word.load(Ordering::Relaxed));
            std::hint::black_box(rest);
            each(number);
            self.taken += 1;
            count += 1;
        }
        Ok(count)
    }

    #[inline]
    fn put(&mut self, number: u64) -> io::Result<()> {
        let slot = slot(self.outgoing, self.put);
        for word in &slot[1..7] {
            word.store(number, Ordering::Relaxed);
        }
        self.put += 1;
        slot[0].store(self.put, Ordering::Release); // SYNC: payload visible
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        fence(Ordering::SeqCst); // Either we see that they sleep, or they see what we put.
        if self.are_they_asleep.load(Ordering::Relaxed) != 0 {
            match self.their_bell.write(&[1]) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.is_asleep.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.has_input()
    }

    fn end_sleep(&mut self) {
        self.is_asleep.store(0, Ordering::Relaxed);
        // It is empty when nobody rang.
        let _: io::Result<usize> = (&self.bell).read(&mut [0; 64]);
    }
}
