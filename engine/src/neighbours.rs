//! What the engines of one sidecar hand each other: datagrams that landed at the wrong one, and whole messages between
//! applications of this host whose channels are on different engines (`bridge`).
//!
//! Engines share no flow, no table and no lock. Between them are queues of a fixed size: one inbox of frames for each engine,
//! and one queue of parcels for each ordered pair of engines, so that none can fill what another needs. A datagram that finds
//! the inbox full is dropped and counted, and its sender repeats it, as with a network card; a parcel that finds its queue full
//! waits with the engine that sends it.
//!
//! ```text
//!   state of an engine's bell     QUIET --mail()--> MAIL --collect()--> QUIET
//!                                 QUIET --try_sleep()--> ASLEEP --mail(): ring the pipe--> MAIL
//! ```

use crate::bridge::Parcel;
use crate::frames::{self, Frame};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use machnet_client::socket;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// Parcels that one engine may have waiting at another.
pub(crate) const PARCELS: usize = 128;

/// Parcels that an engine takes from each of its neighbours in one cycle.
const PARCEL_BURST: usize = 64;

const QUIET: u8 = 0;
const MAIL: u8 = 1;
const ASLEEP: u8 = 2;

/// How an engine learns that something lies in its queues.
struct Bell {
    state: CachePadded<AtomicU8>,
    /// Written only to wake a sleeper.
    pipe: OwnedFd,
}

impl Bell {
    /// Something was put into a queue of this engine: it looks, or is woken.
    fn mail(&self) {
        // SYNC: mail visible. What was pushed before is found by whoever goes from MAIL to QUIET after this look.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == MAIL {
            return;
        }
        if self.state.swap(MAIL, Ordering::AcqRel) == ASLEEP {
            // An engine that is gone needs nothing any more.
            let _: socket::Ring = socket::ring(self.pipe.as_fd(), false);
        }
    }
}

/// What one engine handed to others and took from them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HandOver {
    /// Datagrams given to the engine that they belong to.
    pub out: u64,
    /// Datagrams that others handed to this one.
    pub taken: u64,
    /// Datagrams dropped because the other engine's inbox was full.
    pub dropped: u64,
    /// Times that a parcel had to wait because the other engine's queue was full.
    pub parcels_waited: u64,
    /// Times that a sleeping neighbour was woken.
    pub wakes: u64,
}

impl HandOver {
    /// Every counter with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("handed_over_out", self.out),
            ("handed_over_in", self.taken),
            ("handed_over_dropped", self.dropped),
            ("parcels_waited", self.parcels_waited),
            ("neighbours_woken", self.wakes),
        ]
        .into_iter()
    }
}

/// Where datagrams of an engine lie that landed elsewhere.
#[derive(Debug)]
pub(crate) struct Inbox {
    frames: frames::Receiver,
    /// Datagrams taken so far.
    pub(crate) taken: u64,
}

impl Inbox {
    /// Hands up to [`crate::driver::RECEIVE_BURST`] datagrams to `each`: sender, our port, the engine where it landed, payload. Says how
    /// many.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(SocketAddr, u16, u8, &[u8])) -> usize {
        let taken = self.frames.receive(|f| each(f.from, f.to_port, f.landed, f.datagram()));
        self.taken += taken as u64;
        taken
    }
}

/// One engine's ends of everything between it and the others.
pub struct Neighbours {
    engine: u8,
    bells: Arc<[Bell]>,
    /// Readable when a neighbour woke us.
    woken: OwnedFd,
    inbox: Option<Inbox>,
    inboxes: Vec<frames::Sender>,
    /// Exchanged for an empty one when it is handed over full.
    frame: Frame,
    /// By neighbour; our own place is never used.
    incoming: Vec<Arc<ArrayQueue<Parcel>>>,
    outgoing: Vec<Arc<ArrayQueue<Parcel>>>,
    /// Parcels that found no room, by neighbour: those that tell of flows, at most a few for each.
    waiting: Vec<VecDeque<Parcel>>,
    /// How many of them there are.
    waiting_count: usize,
    /// Neighbours whose queues got something since the last [`Self::deliver`], one bit each.
    to_notify: u32,
    counters: HandOver,
}

/// Most engines that can be joined: each is a bit of a mask.
const MOST_ENGINES: usize = 32;

/// Connects `engines` engines with each other; datagrams have at most `max_datagram` bytes.
pub fn join(engines: usize, max_datagram: usize) -> io::Result<Vec<Neighbours>> {
    assert!((1..=MOST_ENGINES).contains(&engines), "an engine is a bit of a mask");
    let (mut bells, mut pipes) = (Vec::new(), Vec::new());
    for _ in 0..engines {
        let (woken, pipe) = socket::pipe()?;
        bells.push(Bell { state: CachePadded::new(AtomicU8::new(QUIET)), pipe });
        pipes.push(woken);
    }
    let bells: Arc<[Bell]> = bells.into();
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..engines).map(|_| frames::ring(max_datagram)).unzip();
    let queues: Vec<Vec<_>> = (0..engines)
        .map(|_| (0..engines).map(|_| Arc::new(ArrayQueue::new(PARCELS))).collect::<Vec<_>>())
        .collect();
    let ends = pipes.into_iter().zip(receivers).enumerate();
    let neighbours = ends.map(|(engine, (woken, inbox))| Neighbours {
        engine: u8::try_from(engine).unwrap_or(u8::MAX),
        bells: Arc::clone(&bells),
        woken,
        inbox: Some(Inbox { frames: inbox, taken: 0 }),
        inboxes: inboxes.clone(),
        frame: Frame::new(max_datagram),
        incoming: (0..engines).map(|from| Arc::clone(&queues[from][engine])).collect(),
        outgoing: queues[engine].clone(),
        waiting: (0..engines).map(|_| VecDeque::new()).collect(),
        waiting_count: 0,
        to_notify: 0,
        counters: HandOver::default(),
    });
    Ok(neighbours.collect())
}

impl Neighbours {
    /// Which of the engines this is.
    pub fn engine(&self) -> u8 {
        self.engine
    }

    /// How many engines there are, this one included.
    pub fn engines(&self) -> usize {
        self.bells.len()
    }

    /// What was handed over so far, but for what was taken, which the inbox counts.
    pub(crate) fn counters(&self) -> HandOver {
        self.counters
    }

    /// Readable when a neighbour woke us.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Reads what the neighbours rang.
    pub(crate) fn drain_bell(&self) {
        let _: socket::Drained = socket::drain(self.woken.as_fd());
    }

    /// Gives a datagram that landed here to the engine that it belongs to. If that one's inbox is full it is lost, and
    /// counted.
    pub fn hand_over(&mut self, engine: u8, from: SocketAddr, to_port: u16, datagram: &[u8]) {
        let Some(inbox) = self.inboxes.get(usize::from(engine)).filter(|_| engine != self.engine) else {
            self.counters.dropped += 1;
            return;
        };
        let Some(room) = self.frame.bytes.get_mut(..datagram.len()) else {
            self.counters.dropped += 1;
            return;
        };
        room.copy_from_slice(datagram);
        self.frame.len = u32::try_from(datagram.len()).unwrap_or(0);
        (self.frame.from, self.frame.to_port, self.frame.landed) = (from, to_port, self.engine);
        if inbox.exchange(std::slice::from_mut(&mut self.frame)) == 0 {
            self.counters.dropped += 1;
            return;
        }
        self.counters.out += 1;
        self.to_notify |= 1 << engine;
    }

    /// Whether something lies in our queues.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.bells[usize::from(self.engine)].state.load(Ordering::Relaxed) == MAIL
    }

    /// From here on what neighbours put into our queues is news again. Everything that lies there now has to be taken, or
    /// [`Self::look_again`] be called.
    pub(crate) fn collect(&self) {
        self.bells[usize::from(self.engine)].state.store(QUIET, Ordering::Relaxed);
        // SYNC: mail visible
        fence(Ordering::SeqCst);
    }

    /// Not everything was taken: the next cycle goes on.
    pub(crate) fn look_again(&self) {
        self.bells[usize::from(self.engine)].state.store(MAIL, Ordering::Relaxed);
    }

    /// Our inbox, to be read beside the rest of us: once.
    pub(crate) fn take_inbox(&mut self) -> Option<Inbox> {
        self.inbox.take()
    }

    /// The next parcel of a neighbour, if it has one and had not its turn already: `taken` were taken in this cycle.
    pub(crate) fn next_parcel(&self, from: usize, taken: usize) -> Option<Parcel> {
        if taken >= PARCEL_BURST {
            if !self.incoming[from].is_empty() {
                self.look_again();
            }
            return None;
        }
        self.incoming[from].pop()
    }

    /// Whether a parcel for this neighbour would be taken now. Nobody else fills the queue, so the answer stays true.
    pub(crate) fn has_room(&self, engine: u8) -> bool {
        let at = usize::from(engine);
        self.waiting[at].is_empty() && !self.outgoing[at].is_full()
    }

    /// A flow has to wait until [`Self::has_room`].
    pub(crate) fn count_wait(&mut self) {
        self.counters.parcels_waited += 1;
    }

    /// Sends a parcel. What finds no room waits here, and goes before what is sent later.
    pub(crate) fn post(&mut self, engine: u8, parcel: Parcel) {
        let at = usize::from(engine);
        self.to_notify |= 1 << engine;
        let refused = if self.waiting[at].is_empty() { self.outgoing[at].push(parcel) } else { Err(parcel) };
        if let Err(parcel) = refused {
            self.counters.parcels_waited += 1;
            self.waiting_count += 1;
            self.waiting[at].push_back(parcel);
        }
    }

    /// Sends what waited for room, as far as there is room now.
    pub(crate) fn retry(&mut self) {
        if self.waiting_count == 0 {
            return;
        }
        for (engine, (waiting, queue)) in self.waiting.iter_mut().zip(&self.outgoing).enumerate() {
            while let Some(parcel) = waiting.pop_front() {
                if let Err(parcel) = queue.push(parcel) {
                    waiting.push_front(parcel);
                    break;
                }
                self.to_notify |= 1 << engine;
                self.waiting_count -= 1;
            }
        }
    }

    /// Whether parcels wait for room.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting_count > 0
    }

    /// Tells the neighbours of what lies in their queues, and wakes those that sleep.
    #[inline]
    pub(crate) fn notify(&mut self) {
        if self.to_notify != 0 {
            self.notify_all();
        }
    }

    #[inline(never)]
    fn notify_all(&mut self) {
        let mut mask = std::mem::take(&mut self.to_notify);
        while mask != 0 {
            let bell = &self.bells[mask.trailing_zeros() as usize];
            self.counters.wakes += u64::from(bell.state.load(Ordering::Relaxed) == ASLEEP);
            bell.mail();
            mask &= mask - 1;
        }
    }

    /// We are about to sleep. `false`: something lies in our queues. Call [`Self::wake_up`] after the sleep.
    pub(crate) fn try_sleep(&self) -> bool {
        let state = &self.bells[usize::from(self.engine)].state;
        // SYNC: mail visible. A neighbour that pushed before sees ASLEEP and rings, or has made it MAIL.
        state.compare_exchange(QUIET, ASLEEP, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// We do not sleep any more.
    pub(crate) fn wake_up(&self) {
        let state = &self.bells[usize::from(self.engine)].state;
        // Mail that came meanwhile stays.
        let _: Result<u8, u8> = state.compare_exchange(ASLEEP, QUIET, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours")
            .field("engine", &self.engine)
            .field("engines", &self.bells.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::DESCRIPTORS;
    use crate::sys::{Epoll, Watch};

    fn from() -> SocketAddr {
        "10.0.0.1:7".parse().unwrap()
    }

    fn pair() -> (Neighbours, Neighbours) {
        let mut all = join(2, 100).unwrap();
        let second = all.pop().unwrap();
        (all.pop().unwrap(), second)
    }

    #[test]
    fn a_datagram_is_taken_by_the_engine_it_was_handed_to_with_all_that_is_known_of_it() {
        let (mut zero, mut one) = pair();
        zero.hand_over(1, from(), 9, b"datagram");
        assert!(!one.has_mail());
        zero.notify();
        assert!(one.has_mail());
        one.collect();
        let mut inbox = one.take_inbox().unwrap();
        let mut seen = Vec::new();
        inbox.receive(|from, port, landed, bytes| seen.push((from, port, landed, bytes.to_vec())));
        assert_eq!(seen, [(from(), 9, 0, b"datagram".to_vec())]);
        assert!(!one.has_mail());
        assert_eq!((zero.counters().out, inbox.taken), (1, 1));
    }

    #[test]
    fn what_finds_the_inbox_full_is_dropped_and_counted_and_the_rest_is_in_order() {
        let (mut zero, mut one) = pair();
        let more = 44;
        for number in 0..DESCRIPTORS + more {
            zero.hand_over(1, from(), 9, &number.to_le_bytes());
        }
        assert_eq!((zero.counters().out, zero.counters().dropped), (DESCRIPTORS as u64, more as u64));
        let mut inbox = one.take_inbox().unwrap();
        let mut expected = 0_usize;
        let mut take = || {
            inbox.receive(|_, _, _, bytes| {
                assert_eq!(bytes, expected.to_le_bytes());
                expected += 1;
            })
        };
        while take() > 0 {}
        assert_eq!(expected, DESCRIPTORS);
        zero.hand_over(1, from(), 9, b"again");
        assert_eq!(inbox.receive(|_, _, _, bytes| assert_eq!(bytes, b"again")), 1);
    }

    #[test]
    fn what_no_engine_could_take_is_dropped() {
        let (mut zero, _one) = pair();
        zero.hand_over(2, from(), 9, b"there is no such engine");
        zero.hand_over(0, from(), 9, b"that is ourselves");
        zero.hand_over(1, from(), 9, &[0; 101]);
        assert_eq!((zero.counters().out, zero.counters().dropped), (0, 3));
    }

    #[test]
    fn parcels_that_find_no_room_wait_in_order_and_none_is_lost() {
        let (mut zero, one) = pair();
        let total = 3 * PARCELS;
        let id = crate::bridge::tests::id;
        for number in 0..total {
            zero.post(1, Parcel::Taken { to: id(number), messages: 1 });
        }
        assert!(zero.has_waiting() && !zero.has_room(1));
        assert_eq!(zero.counters().parcels_waited, (total - PARCELS) as u64);
        let mut expected = 0;
        while expected < total {
            let mut taken = 0;
            while let Some(parcel) = one.next_parcel(0, taken) {
                assert!(matches!(parcel, Parcel::Taken { to, .. } if to == id(expected)));
                (taken, expected) = (taken + 1, expected + 1);
            }
            assert!(taken > 0 && taken <= PARCEL_BURST);
            zero.retry();
        }
        assert!(!zero.has_waiting() && zero.has_room(1));
    }

    /// Sleeps as an engine does whenever it has nothing. A lost wake-up ends the test after its patience.
    #[test]
    fn a_sleeper_is_woken_for_everything_that_comes() {
        const EACH: usize = 20_000;
        let mut all = join(3, 16).unwrap();
        let mut sleeper = all.remove(0);
        let mut inbox = sleeper.take_inbox().unwrap();
        let mut epoll = Epoll::new().unwrap();
        epoll.add(sleeper.wake_fd(), 0, Watch::Readable).unwrap();
        let senders: Vec<_> = all
            .into_iter()
            .map(|mut sender| {
                std::thread::spawn(move || {
                    let mut sent = 0;
                    while sent < EACH {
                        let before = sender.counters().out;
                        for _ in 0..1 + sent % 3 {
                            sender.hand_over(0, from(), 9, b"wake up");
                        }
                        sender.notify();
                        sent += usize::try_from(sender.counters().out - before).unwrap();
                        if sent.is_multiple_of(5) {
                            std::thread::yield_now();
                        }
                    }
                    sent
                })
            })
            .collect();
        let (mut taken, mut sleeps) = (0, 0);
        while taken < 2 * EACH {
            if sleeper.has_mail() {
                sleeper.collect();
                let got = inbox.receive(|_, _, _, bytes| assert_eq!(bytes, b"wake up"));
                if got == crate::driver::RECEIVE_BURST {
                    sleeper.look_again();
                }
                taken += got;
            } else if sleeper.try_sleep() {
                sleeps += 1;
                let woken = epoll.wait(Some(20_000_000_000), |_| {}).unwrap();
                assert!(woken > 0, "a wake-up was lost: {taken} of {} came", 2 * EACH);
                sleeper.drain_bell();
                sleeper.wake_up();
            }
        }
        let sent: usize = senders.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(sent >= taken && sleeps > 0);
    }
}
