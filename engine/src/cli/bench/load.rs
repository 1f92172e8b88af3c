//! The two ways to load a connection, and what is counted meanwhile.
//!
//! **Closed loop**: at most `window` messages are unanswered; an answer lets the next one go. It measures what a client sees
//! that waits for its answers, and at a larger window the throughput.
//!
//! **Open loop**: messages have a timetable that does not depend on answers, as requests of many users have. Latency counts
//! from the time in the timetable: if the server stands still for 100 ms, every message that should have been sent meanwhile
//! waited too, although the client could not send it. A loop that counts from the actual send would leave those out
//! ("coordinated omission").

use super::link::{Answer, Link};
use super::summary::new_histogram;
use crate::cli::{Exit, Failure, Outcome, clock, text};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// On a path that loses messages, an unanswered one is lost after so long.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// On one that does not, so much silence means that the server is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// After the last message of an open loop, answers are awaited so long.
const TAIL_LIMIT: Duration = Duration::from_secs(10);
/// A connection that takes no message now is asked again after so long.
const CREDIT_PATIENCE: Duration = Duration::from_millis(1);
/// Most unanswered messages that an open loop remembers on a path without credit.
const OPEN_LOOP_LIMIT: usize = 65_536;
/// How one connection is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) pace: Pace,
    /// Whether an open loop spins until its next message is due.
    pub(crate) spins: bool,
    /// Before this much time has passed nothing counts.
    pub(crate) warm_up: Duration,
    /// Messages to measure, if limited.
    pub(crate) count: Option<u64>,
    /// Time to measure, if limited.
    pub(crate) duration: Option<Duration>,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// When fewer than `window` are unanswered.
    Closed { window: usize },
    /// So many a second, first one after `offset`.
    Open { per_second: f64, offset: Duration },
}

/// What one connection counted.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) latency: Histogram<u64>,
    pub(crate) messages: u64,
    pub(crate) lost: u64,
    pub(crate) damaged: u64,
    pub(crate) elapsed: Duration,
}

struct Unanswered {
    number: u64,
    /// When it was sent, or should have been.
    since: Instant,
}

struct Run<'a, L: Link + ?Sized> {
    link: &'a mut L,
    load: Load,
    progress: &'a AtomicU64,
    measure_from: Instant,
    unanswered: VecDeque<Unanswered>,
    measured: Measured,
    next_number: u64,
    last_answer: Instant,
}

/// Loads a connection until the load's end. `progress` counts the measured answers while it runs.
pub(crate) fn run(link: &mut (impl Link + ?Sized), load: Load, progress: &AtomicU64) -> Outcome<Measured> {
    let start = clock::now();
    let measured =
        Measured { latency: new_histogram(), messages: 0, lost: 0, damaged: 0, elapsed: Duration::ZERO };
    let mut run = Run {
        link,
        load,
        progress,
        measure_from: start + load.warm_up,
        unanswered: VecDeque::with_capacity(1024),
        measured,
        next_number: 0,
        last_answer: start,
    };
    match load.pace {
        Pace::Closed { window } => run.closed_loop(window)?,
        Pace::Open { per_second, offset } => run.open_loop(start + offset, per_second)?,
    }
    let end = run.last_answer.max(run.measure_from);
    run.measured.elapsed = end.duration_since(run.measure_from);
    Ok(run.measured)
}

impl<L: Link + ?Sized> Run<'_, L> {
    fn closed_loop(&mut self, window: usize) -> Outcome {
        // When the message that could not be sent yet was first tried.
        let mut held_since = None;
        while !self.has_measured_enough() {
            while self.unanswered.len() < window {
                let since = *held_since.get_or_insert_with(clock::now);
                if !self.link.try_send(self.next_number)? {
                    break;
                }
                held_since = None;
                self.unanswered.push_back(Unanswered { number: self.next_number, since });
                self.next_number += 1;
            }
            // Without an unanswered message there is nothing to receive: credit is what must come back, and soon.
            let patience = if self.unanswered.is_empty() { CREDIT_PATIENCE } else { LOST_AFTER };
            self.receive_all(patience)?;
        }
        Ok(())
    }

    fn open_loop(&mut self, first: Instant, per_second: f64) -> Outcome {
        let due = |number: u64| {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 messages")]
            let seconds = number as f64 / per_second;
            first + Duration::from_secs_f64(seconds)
        };
        let last_due = self.load.duration.map(|duration| self.measure_from + duration);
        let count_ends = |run: &Self| run.load.count.is_some_and(|count| run.measured.messages >= count);
        loop {
            let mut next_due = due(self.next_number);
            let mut is_blocked = false;
            while next_due <= clock::now() && last_due.is_none_or(|last| next_due < last) {
                is_blocked = self.is_full() || !self.link.try_send(self.next_number)?;
                if is_blocked {
                    break;
                }
                self.unanswered.push_back(Unanswered { number: self.next_number, since: next_due });
                self.next_number += 1;
                next_due = due(self.next_number);
            }
            if last_due.is_some_and(|last| next_due >= last) || count_ends(self) {
                return self.await_tail();
            }
            self.rest_until(next_due, is_blocked)?;
        }
    }

    /// Receives until the next message is due. The client wakes up a few microseconds late, and they count: messages wait for
    /// a sleeping client as for a sleeping server. One that spins is on time, at the price of a processor.
    fn rest_until(&mut self, next_due: Instant, is_blocked: bool) -> Outcome {
        let patience = match is_blocked {
            true => CREDIT_PATIENCE,
            false if self.load.spins => Duration::ZERO,
            false => next_due.saturating_duration_since(clock::now()),
        };
        self.receive_all(patience)
    }

    /// The slowest answers come last, and they are what is looked for.
    fn await_tail(&mut self) -> Outcome {
        if self.load.count.is_some_and(|count| self.measured.messages >= count) {
            return Ok(());
        }
        let limit = if self.link.loses() { LOST_AFTER } else { TAIL_LIMIT };
        let gives_up_at = clock::now() + limit;
        while !self.unanswered.is_empty() && clock::now() < gives_up_at {
            self.receive_all(limit)?;
        }
        let from = self.measure_from;
        let lost = self.unanswered.iter().filter(|message| message.since >= from).count();
        self.measured.lost += lost as u64;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.link.loses() && self.unanswered.len() >= OPEN_LOOP_LIMIT
    }

    /// Waits for an answer at most `patience`, then takes what else is there.
    fn receive_all(&mut self, patience: Duration) -> Outcome {
        let Some(first) = self.link.receive(patience)? else { return self.on_silence(patience) };
        let now = clock::now();
        self.on_answer(first, now);
        while !self.unanswered.is_empty() {
            let Some(more) = self.link.receive_more()? else { break };
            self.on_answer(more, clock::now());
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: Answer, now: Instant) {
        let Some(number) = answer else {
            // Whatever it was meant to be, it answers the oldest.
            self.unanswered.pop_front();
            self.measured.damaged += 1;
            return;
        };
        // Answers come in order, or on a path that loses messages with gaps; what is no longer awaited came too late.
        let place = self.unanswered.iter().position(|message| self.link.visible(message.number) == number);
        let Some(place) = place else {
            self.measured.damaged += u64::from(!self.link.loses());
            return;
        };
        if place > 0 {
            let skipped = self.unanswered.drain(..place).count();
            self.measured.lost += skipped as u64;
        }
        let Some(message) = self.unanswered.pop_front() else { return };
        self.last_answer = now;
        if message.since >= self.measure_from {
            self.measured.latency.saturating_record(text::nanos(now.duration_since(message.since)));
            self.measured.messages += 1;
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_silence(&mut self, patience: Duration) -> Outcome {
        let now = clock::now();
        let oldest = self.unanswered.front().map_or(now, |message| message.since);
        let silence = now.duration_since(oldest.max(self.last_answer));
        if self.link.loses() {
            let has_waited = silence >= LOST_AFTER;
            if has_waited {
                self.measured.lost += self.unanswered.drain(..).count() as u64;
            }
            // A path that answers nothing at all is no measurement.
            if self.measured.messages == 0 && now.duration_since(self.last_answer) > Duration::from_secs(3) {
                return Err(Failure::new(
                    Exit::Peer,
                    "no answer for 3 s: does the server run, over udp as well?",
                ));
            }
            return Ok(());
        }
        if patience > Duration::ZERO && silence > SILENCE_LIMIT {
            let text = format!("no answer for {} s: the server stands still", SILENCE_LIMIT.as_secs());
            return Err(Failure::new(Exit::Peer, text));
        }
        Ok(())
    }

    fn has_measured_enough(&self) -> bool {
        let enough = self.load.count.is_some_and(|count| self.measured.messages >= count);
        // At least one, however slow: a measurement of nothing helps nobody.
        let time_is_up = || {
            let end = self.load.duration.map(|duration| self.measure_from + duration);
            end.is_some_and(|end| clock::now() >= end) && self.measured.messages > 0
        };
        enough || time_is_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after a delay that the test decides, in order, and stands still when told.
    struct Fake {
        waiting: VecDeque<(u64, Instant)>,
        stall: Option<(Instant, Instant)>,
        credit: usize,
        lose_every: u64,
    }

    impl Fake {
        fn new() -> Self {
            Self { waiting: VecDeque::new(), stall: None, credit: usize::MAX, lose_every: 0 }
        }
        fn ready_at(&self, sent_at: Instant) -> Instant {
            match self.stall {
                Some((from, to)) if sent_at >= from && sent_at < to => to,
                _ => sent_at,
            }
        }
    }

    impl Link for Fake {
        fn try_send(&mut self, number: u64) -> Outcome<bool> {
            if self.waiting.len() >= self.credit {
                return Ok(false);
            }
            if self.lose_every == 0 || !number.is_multiple_of(self.lose_every) {
                let now = clock::now();
                self.waiting.push_back((number, self.ready_at(now)));
            }
            Ok(true)
        }
        fn receive(&mut self, patience: Duration) -> Outcome<Option<Answer>> {
            let end = clock::now() + patience;
            loop {
                if let Some(answer) = self.receive_more()? {
                    return Ok(Some(answer));
                }
                if clock::now() >= end {
                    return Ok(None);
                }
                std::thread::yield_now();
            }
        }
        fn receive_more(&mut self) -> Outcome<Option<Answer>> {
            let is_ready = self.waiting.front().is_some_and(|(_, ready)| clock::now() >= *ready);
            Ok(if is_ready { self.waiting.pop_front().map(|(number, _)| Some(number)) } else { None })
        }
        fn visible(&self, number: u64) -> u64 {
            number
        }
        fn loses(&self) -> bool {
            self.lose_every > 0
        }
    }

    fn load(pace: Pace, count: Option<u64>, duration: Option<Duration>) -> Load {
        Load { pace, spins: false, warm_up: Duration::ZERO, count, duration }
    }

    #[test]
    fn a_closed_loop_counts_each_message_once() {
        let progress = AtomicU64::new(0);
        let mut link = Fake::new();
        let measured = run(&mut link, load(Pace::Closed { window: 4 }, Some(1000), None), &progress).unwrap();
        assert!(measured.messages >= 1000 && measured.messages < 1004);
        assert_eq!((measured.lost, measured.damaged), (0, 0));
        assert_eq!(progress.load(Ordering::Relaxed), measured.messages);
    }

    #[test]
    fn an_open_loop_finds_a_stall_in_all_messages_that_it_held_up() {
        let now = clock::now();
        let mut link = Fake::new();
        link.credit = 8;
        link.stall = Some((now + Duration::from_millis(100), now + Duration::from_millis(200)));
        let pace = Pace::Open { per_second: 2000.0, offset: Duration::ZERO };
        let measured =
            run(&mut link, load(pace, None, Some(Duration::from_millis(400))), &AtomicU64::new(0)).unwrap();
        assert_eq!((measured.messages, measured.lost), (800, 0));
        // A quarter of the messages met the stall, on average half of it.
        let p90_ms = measured.latency.value_at_quantile(0.9) / 1_000_000;
        let max_ms = measured.latency.max() / 1_000_000;
        assert!((45..100).contains(&p90_ms), "{p90_ms}");
        assert!(max_ms >= 95, "{max_ms}");
    }

    #[test]
    fn losses_are_counted_and_do_not_stop_the_loop() {
        let mut link = Fake::new();
        link.lose_every = 10;
        let pace = Pace::Closed { window: 20 };
        let measured = run(&mut link, load(pace, Some(100), None), &AtomicU64::new(0)).unwrap();
        assert!(measured.messages >= 100);
        assert!((10..=14).contains(&measured.lost), "{}", measured.lost);
    }

    #[test]
    fn warm_up_does_not_count() {
        let mut link = Fake::new();
        let mut load = load(Pace::Closed { window: 1 }, None, Some(Duration::from_millis(20)));
        load.warm_up = Duration::from_millis(20);
        let started = clock::now();
        let measured = run(&mut link, load, &AtomicU64::new(0)).unwrap();
        assert!(clock::now().duration_since(started) >= Duration::from_millis(40));
        assert!(measured.elapsed <= clock::now().duration_since(started) - Duration::from_millis(20));
    }
}
