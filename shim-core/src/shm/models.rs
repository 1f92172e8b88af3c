//! Loom models of the memory contract: every interleaving, and every reordering that the memory model allows, of a few
//! steps on both sides. Run with `RUSTFLAGS="--cfg loom" cargo test -p machnet-client --lib --release loom`.
//!
//! That the models can fail was tried: without the fence in `Ringer::must_ring`, or without the one in `Sleeper::arm`,
//! `loom_no_wake_up_is_lost` ends in a sleeper that nobody rings; with a Relaxed store of the sequence number in
//! `Producer::publish`, `loom_a_slot_is_seen_whole` sees a slot without its words; and with a Relaxed store of the head in
//! `Consumer::tell_head`, or a Relaxed load of it, `loom_a_slot_is_not_overwritten_before_it_was_read` finds a race.
#![expect(
    unsafe_code,
    reason = "fence: a cell beside each slot, whose use loom checks, has to be shared by threads"
)]

use super::atomic::{AtomicU64, Ordering};
use super::bell::{REASON_CREDIT, REASON_RECEIVE, Ringer, Sleeper};
use super::layout::{ARMED_OFFSET, RUNG_OFFSET};
use super::ring::{Consumer, Memory, Producer, ReadWords, SlotHead, WritableMemory};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

const WORDS: usize = 3;
const SLOTS: u32 = 2;
const HEAD: usize = 8;
const RING: usize = 16;

/// Memory of loom atomics. The doorbell's words lie at their places in the layout, which are mapped into a few.
struct Words {
    bell: [AtomicU64; 2],
    head: [AtomicU64; 1],
    slots: [[AtomicU64; WORDS]; SLOTS as usize],
    /// Stand for the bytes of each slot: loom fails if they are written while they may be read.
    bytes: [UnsafeCell<()>; SLOTS as usize],
}

// SAFETY: the atomics are `Sync`, and what the cells hold is never reached: loom only records that it would be.
unsafe impl Sync for Words {}

impl Words {
    fn new() -> Self {
        let slot = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            bell: std::array::from_fn(|_| AtomicU64::new(0)),
            head: [AtomicU64::new(0)],
            slots: std::array::from_fn(|_| slot()),
            bytes: std::array::from_fn(|_| UnsafeCell::new(())),
        }
    }

    fn at<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        let words: &[AtomicU64] = match offset {
            ARMED_OFFSET => &self.bell[..1],
            RUNG_OFFSET => &self.bell[1..],
            HEAD => &self.head,
            _ => &self.slots[(offset - RING) / (WORDS * 8)],
        };
        words.try_into().unwrap()
    }
}

impl Memory for Words {
    fn words<const N: usize>(&self, offset: usize) -> ReadWords<'_, N> {
        ReadWords::new(self.at(offset))
    }
}

impl WritableMemory for Words {
    fn words_mut<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        self.at(offset)
    }
}

fn publish(producer: &mut Producer<WORDS>, ours: &Words, number: u64) {
    let place = (producer.next_offset() - RING) / (WORDS * 8);
    producer.publish(ours, SlotHead { kind: 1, count: 0, length: 0 }, |words| {
        ours.bytes[place].with_mut(|_| ());
        words[1].store(number, Ordering::Relaxed);
        words[2].store(number + 100, Ordering::Relaxed);
    });
}

/// The next slot's number, its words checked against each other.
fn take(consumer: &mut Consumer<WORDS>, theirs: &Words) -> Option<u64> {
    let slot = consumer.peek(theirs).unwrap()?;
    theirs.bytes[(consumer.next_offset() - RING) / (WORDS * 8)].with(|_| ());
    let number = slot.word(1);
    assert_eq!(slot.word(2), number + 100, "a slot was seen in parts");
    consumer.advance();
    Some(number)
}

#[test]
fn loom_a_slot_is_seen_whole() {
    loom::model(|| {
        let producing = Arc::new(Words::new());
        let consuming = Arc::new(Words::new());
        let (ours, theirs) = (Arc::clone(&producing), Arc::clone(&consuming));
        let other = thread::spawn(move || {
            let mut producer = Producer::<WORDS>::new(RING, SLOTS, HEAD);
            for number in 1..=2 {
                assert!(producer.free(&*theirs, 1).unwrap() >= 1);
                publish(&mut producer, &ours, number);
            }
        });
        let mut consumer = Consumer::<WORDS>::new(RING, SLOTS, HEAD);
        let mut expected = 1;
        for _ in 0..3 {
            if let Some(number) = take(&mut consumer, &producing) {
                assert_eq!(number, expected);
                expected += 1;
            }
        }
        other.join().unwrap();
    });
}

#[test]
fn loom_a_slot_is_not_overwritten_before_it_was_read() {
    loom::model(|| {
        let producing = Arc::new(Words::new());
        let consuming = Arc::new(Words::new());
        let mut producer = Producer::<WORDS>::new(RING, SLOTS, HEAD);
        publish(&mut producer, &producing, 1);
        publish(&mut producer, &producing, 2);
        let (theirs, ours) = (Arc::clone(&producing), Arc::clone(&consuming));
        let other = thread::spawn(move || {
            let mut consumer = Consumer::<WORDS>::new(RING, SLOTS, HEAD);
            assert_eq!(take(&mut consumer, &theirs), Some(1));
            consumer.tell_head(&*ours);
            assert_eq!(take(&mut consumer, &theirs), Some(2));
            consumer.tell_head(&*ours);
            (consumer, theirs)
        });
        // The ring is full until the head says otherwise.
        let mut next = 3;
        for _ in 0..2 {
            let free = producer.free(&*consuming, 1).unwrap();
            assert!(free <= SLOTS);
            if free > 0 && next == 3 {
                publish(&mut producer, &producing, next);
                next += 1;
            }
        }
        let (mut consumer, theirs) = other.join().unwrap();
        assert_eq!(take(&mut consumer, &theirs), (next == 4).then_some(3));
    });
}

#[test]
fn loom_no_wake_up_is_lost() {
    loom::model(|| {
        let sleeping = Arc::new(Words::new());
        let ringing = Arc::new(Words::new());
        let (ours, theirs) = (Arc::clone(&ringing), Arc::clone(&sleeping));
        let other = thread::spawn(move || {
            let mut producer = Producer::<WORDS>::new(RING, SLOTS, HEAD);
            let mut ringer = Ringer::default();
            publish(&mut producer, &ours, 1);
            ringer.must_ring(&*ours, &*theirs, REASON_RECEIVE)
        });
        let mut consumer = Consumer::<WORDS>::new(RING, SLOTS, HEAD);
        let mut sleeper = Sleeper::default();
        sleeper.arm(&*sleeping, REASON_RECEIVE);
        let found = take(&mut consumer, &ringing).is_some();
        let rang = other.join().unwrap();
        assert!(found || rang, "it sleeps, and nobody rings");
        assert_eq!(sleeper.rung(&*ringing), rang);
    });
}

#[test]
fn loom_the_three_states_of_the_doorbell() {
    loom::model(|| {
        let sleeping = Arc::new(Words::new());
        let ringing = Arc::new(Words::new());
        let (ours, theirs) = (Arc::clone(&ringing), Arc::clone(&sleeping));
        let other = thread::spawn(move || {
            let mut ringer = Ringer::default();
            let rings = [(); 2].map(|()| ringer.must_ring(&*ours, &*theirs, REASON_RECEIVE));
            let wrong_reason = ringer.must_ring(&*ours, &*theirs, REASON_CREDIT);
            (u32::from(rings[0]) + u32::from(rings[1]), wrong_reason)
        });
        let mut sleeper = Sleeper::default();
        assert!(!sleeper.rung(&*ringing), "polling: nobody may have rung");
        sleeper.arm(&*sleeping, REASON_RECEIVE);
        let seen_early = sleeper.rung(&*ringing);
        sleeper.disarm(&*sleeping);
        let (rings, wrong_reason) = other.join().unwrap();
        assert!(rings <= 1, "one ring per arming");
        assert!(!wrong_reason, "rung for a reason that was not asked for");
        assert!(u32::from(seen_early) <= rings);
        // A ring under way when we disarmed is seen later, until its byte was read.
        assert_eq!(sleeper.rung(&*ringing), rings == 1);
        sleeper.drained(true);
        sleeper.arm(&*sleeping, REASON_CREDIT);
        assert!(!sleeper.rung(&*ringing), "an arming anew was not answered yet");
    });
}

#[test]
fn loom_arming_again_is_rung_again() {
    loom::model(|| {
        let sleeping = Arc::new(Words::new());
        let ringing = Arc::new(Words::new());
        let (ours, theirs) = (Arc::clone(&ringing), Arc::clone(&sleeping));
        let other = thread::spawn(move || {
            let mut producer = Producer::<WORDS>::new(RING, SLOTS, HEAD);
            let mut ringer = Ringer::default();
            let mut rings = 0;
            for number in 1..=2 {
                publish(&mut producer, &ours, number);
                rings += u32::from(ringer.must_ring(&*ours, &*theirs, REASON_RECEIVE));
            }
            rings
        });
        let mut consumer = Consumer::<WORDS>::new(RING, SLOTS, HEAD);
        let mut sleeper = Sleeper::default();
        let mut taken = 0;
        for _ in 0..2 {
            sleeper.arm(&*sleeping, REASON_RECEIVE);
            taken += u32::from(take(&mut consumer, &ringing).is_some());
        }
        let rings = other.join().unwrap();
        // Asleep after the second arming with something untaken: that arming or, if it came between, the first was answered.
        assert!(taken == 2 || rings > 0, "{taken} taken, {rings} rings");
    });
}

/// What the lock of an attachment protects, as far as news go.
struct Desk {
    consumer: Consumer<WORDS>,
    sleeper: Sleeper,
    /// Taken from the ring and not told.
    list: Vec<u64>,
    /// Rings whose bytes may be read.
    due: u32,
    read: u32,
}

impl Desk {
    fn look(&mut self, theirs: &Words) {
        while let Some(number) = take(&mut self.consumer, theirs) {
            self.list.push(number);
        }
    }

    /// `Core::take_news`; the doorbell's bytes are a count.
    fn take_news(&mut self, ours: &Words, theirs: &Words, bytes: &AtomicU64) -> usize {
        self.look(theirs);
        let mut told = std::mem::take(&mut self.list).len();
        if self.sleeper.is_answered(theirs) {
            self.due += 1;
            self.sleeper.arm(ours, REASON_RECEIVE);
            self.look(theirs);
            told += std::mem::take(&mut self.list).len();
        }
        // The byte is written a moment after RUNG: what is not there yet is read the next time.
        let there = u32::try_from(bytes.load(Ordering::SeqCst)).unwrap() - self.read;
        let now = there.min(self.due);
        self.due -= now;
        self.read += now;
        told
    }
}

/// One thread takes the news, another's calls drain the ring beside it and leave the doorbell alone. That the model can fail was
/// tried: without the second look it ends in a descriptor that nobody makes readable, and so it does if the other thread arms and reads the
/// bytes as well.
#[test]
fn loom_news_that_another_thread_took_from_the_ring_are_announced() {
    loom::model(|| {
        let sleeping = Arc::new(Words::new());
        let ringing = Arc::new(Words::new());
        let bytes = Arc::new(AtomicU64::new(0));
        let mut desk = Desk {
            consumer: Consumer::new(RING, SLOTS, HEAD),
            sleeper: Sleeper::default(),
            list: Vec::new(),
            due: 0,
            read: 0,
        };
        desk.sleeper.arm(&*sleeping, REASON_RECEIVE);
        let desk = Arc::new(loom::sync::Mutex::new(desk));
        let (ours, theirs, doorbell) = (Arc::clone(&ringing), Arc::clone(&sleeping), Arc::clone(&bytes));
        let engine = thread::spawn(move || {
            let mut producer = Producer::<WORDS>::new(RING, SLOTS, HEAD);
            let mut ringer = Ringer::default();
            for number in 1..=2 {
                publish(&mut producer, &ours, number);
                if ringer.must_ring(&*ours, &*theirs, REASON_RECEIVE) {
                    doorbell.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let (theirs, shared) = (Arc::clone(&ringing), Arc::clone(&desk));
        let other = thread::spawn(move || shared.lock().unwrap().look(&theirs));
        let told = desk.lock().unwrap().take_news(&sleeping, &ringing, &bytes);
        engine.join().unwrap();
        other.join().unwrap();
        let read = desk.lock().unwrap().read;
        let is_readable = bytes.load(Ordering::SeqCst) > u64::from(read);
        assert!(told == 2 || is_readable, "{told} told, and the loop sleeps");
        // Whoever is woken by that finds the rest.
        let more = desk.lock().unwrap().take_news(&sleeping, &ringing, &bytes);
        assert_eq!(told + more, 2);
    });
}
