//! Other ways to pass 64 bytes between two threads or processes, each polled by both sides, measured like our own.
//!
//! A ping-pong answers the mean one-way time in nanoseconds (half a round trip), a stream the messages per second.

use crate::{MESSAGE_BYTES, cpu, stats::to_f64};
use crossbeam_queue::ArrayQueue;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// What is passed: nothing is checked, nothing acknowledged.
pub type Element = [u64; MESSAGE_BYTES / 8];

/// Places of each queue: as many as our rings have by default.
pub const PLACES: usize = 1024;

/// Both ends of a queue for one producer and one consumer, as closures that say whether it worked.
pub trait Queue {
    /// The producing end.
    type Producer: Send;
    /// The consuming end.
    type Consumer: Send;
    /// A new queue.
    fn make() -> (Self::Producer, Self::Consumer);
    /// Puts an element in, or says that there is no room.
    fn push(producer: &mut Self::Producer, element: Element) -> bool;
    /// Takes an element, if there is one.
    fn pop(consumer: &mut Self::Consumer) -> Option<Element>;
}

/// rtrb: a ring for one producer and one consumer without a lock.
#[derive(Debug)]
pub struct Rtrb;

impl Queue for Rtrb {
    type Producer = rtrb::Producer<Element>;
    type Consumer = rtrb::Consumer<Element>;
    fn make() -> (Self::Producer, Self::Consumer) {
        rtrb::RingBuffer::new(PLACES)
    }
    #[inline]
    fn push(producer: &mut Self::Producer, element: Element) -> bool {
        producer.push(element).is_ok()
    }
    #[inline]
    fn pop(consumer: &mut Self::Consumer) -> Option<Element> {
        consumer.pop().ok()
    }
}

/// crossbeam-channel's bounded channel.
#[derive(Debug)]
pub struct CrossbeamChannel;

impl Queue for CrossbeamChannel {
    type Producer = crossbeam_channel::Sender<Element>;
    type Consumer = crossbeam_channel::Receiver<Element>;
    fn make() -> (Self::Producer, Self::Consumer) {
        crossbeam_channel::bounded(PLACES)
    }
    #[inline]
    fn push(producer: &mut Self::Producer, element: Element) -> bool {
        producer.try_send(element).is_ok()
    }
    #[inline]
    fn pop(consumer: &mut Self::Consumer) -> Option<Element> {
        consumer.try_recv().ok()
    }
}

/// crossbeam-queue's `ArrayQueue`.
#[derive(Debug)]
pub struct CrossbeamArrayQueue;

impl Queue for CrossbeamArrayQueue {
    type Producer = std::sync::Arc<ArrayQueue<Element>>;
    type Consumer = std::sync::Arc<ArrayQueue<Element>>;
    fn make() -> (Self::Producer, Self::Consumer) {
        let queue = std::sync::Arc::new(ArrayQueue::new(PLACES));
        (std::sync::Arc::clone(&queue), queue)
    }
    #[inline]
    fn push(producer: &mut Self::Producer, element: Element) -> bool {
        producer.push(element).is_ok()
    }
    #[inline]
    fn pop(consumer: &mut Self::Consumer) -> Option<Element> {
        consumer.pop()
    }
}

#[inline]
fn push_spinning<Q: Queue>(producer: &mut Q::Producer, element: Element) {
    while !Q::push(producer, element) {
        std::hint::spin_loop();
    }
}

#[inline]
fn pop_spinning<Q: Queue>(consumer: &mut Q::Consumer) -> Element {
    loop {
        if let Some(element) = Q::pop(consumer) {
            return element;
        }
        std::hint::spin_loop();
    }
}

/// Ping-pong over two of these queues.
pub fn one_way_ns<Q: Queue>(rounds: u32) -> f64 {
    let ((mut ping, mut pinged), (mut pong, mut ponged)) = (Q::make(), Q::make());
    on_two_processors(
        move || {
            mean_one_way_ns(rounds, |round| {
                push_spinning::<Q>(&mut ping, [round; MESSAGE_BYTES / 8]);
                std::hint::black_box(pop_spinning::<Q>(&mut ponged));
            })
        },
        move || {
            for _ in 0..rounds_with_warm_up(rounds) {
                let element = pop_spinning::<Q>(&mut pinged);
                push_spinning::<Q>(&mut pong, element);
            }
        },
    )
}

/// Messages per second in one direction.
pub fn per_second<Q: Queue>(messages: u32) -> f64 {
    let (mut producer, mut consumer) = Q::make();
    on_two_processors(
        move || {
            mean_rate(messages, || {
                std::hint::black_box(pop_spinning::<Q>(&mut consumer));
            })
        },
        move || {
            for number in 0..rounds_with_warm_up(messages) {
                push_spinning::<Q>(&mut producer, [number; MESSAGE_BYTES / 8]);
            }
        },
    )
}

/// Ping-pong over a pair of stream sockets of the kernel that are polled without waiting.
pub fn socket_one_way_ns(rounds: u32) -> io::Result<f64> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok(on_two_processors(
        move || {
            mean_one_way_ns(rounds, |_| {
                ours.write_all(&[1; MESSAGE_BYTES]).expect("a socket takes one message");
                read_spinning(&mut ours);
            })
        },
        move || {
            for _ in 0..rounds_with_warm_up(rounds) {
                read_spinning(&mut theirs);
                theirs.write_all(&[1; MESSAGE_BYTES]).expect("a socket takes one message");
            }
        },
    ))
}

fn read_spinning(socket: &mut UnixStream) {
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        match socket.read(&mut bytes) {
            Ok(length) => return assert_eq!(length, MESSAGE_BYTES, "small writes come whole"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the peer is there"),
        }
    }
}

/// Rounds with those before the clock starts.
pub fn rounds_with_warm_up(rounds: u32) -> u64 {
    u64::from(rounds) + u64::from(rounds / 10)
}

/// Half of the mean time of a round.
#[inline]
pub fn mean_one_way_ns(rounds: u32, round: impl FnMut(u64)) -> f64 {
    mean_ns(rounds, round) / 2.0
}

/// Times of `once` per second.
#[inline]
pub fn mean_rate(rounds: u32, mut once: impl FnMut()) -> f64 {
    1e9 / mean_ns(rounds, |_| once())
}

#[inline]
fn mean_ns(rounds: u32, mut round: impl FnMut(u64)) -> f64 {
    let warm_up = rounds_with_warm_up(rounds) - u64::from(rounds);
    for number in 0..warm_up {
        round(number);
    }
    let (time, ()) = cpu::timed(|| {
        for number in 0..u64::from(rounds) {
            round(number);
        }
    });
    time.as_secs_f64() * 1e9 / to_f64(u64::from(rounds))
}

/// Runs both in threads of their own on the first two processors, and answers what the first one said.
pub fn on_two_processors<T: Send>(first: impl FnOnce() -> T + Send, second: impl FnOnce() + Send) -> T {
    let cpus = &cpu::available();
    std::thread::scope(|scope| {
        let outcome = scope.spawn(move || {
            cpu::pin(cpus, 0);
            first()
        });
        scope.spawn(move || {
            cpu::pin(cpus, 1);
            second();
        });
        outcome.join().expect("a peer's thread does not fail")
    })
}
