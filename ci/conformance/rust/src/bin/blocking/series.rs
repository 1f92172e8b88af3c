//! Series of messages, and those who answer them.

use crate::Ending;
use crate::commands::Agent;
use machnet_client::{Error, Flow, Wait};
use machnet_conformance::command::{Answer, Command, after, fault};
use machnet_conformance::content::Series;
use machnet_conformance::numbers::Sums;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::ops::Range;

const BATCH: usize = 32;

/// Checks that each message is the next.
struct Expected {
    series: Series,
    next: u32,
    first: u32,
}

impl Expected {
    fn new(series: Series, first: u32) -> Self {
        Self { series, next: first, first }
    }

    fn take(&mut self, message: &[u8]) -> bool {
        let is_next = self.series.number_of(message) == Some(self.next);
        if is_next {
            self.next += 1;
        }
        is_next
    }

    fn received(&self) -> u32 {
        self.next - self.first
    }

    fn wrong(&self) -> Value {
        json!({ "received": self.received(), "ok": false, "number": self.next })
    }
}

impl Agent {
    pub(crate) fn send_series(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        let (wait, first) = (ending.wait(command.timeout()?), numbers.start);
        let how = command.text_or("how", "copy")?;
        if how == "batch" {
            return send_batches(&flow, &series, numbers, wait);
        }
        for number in numbers.clone() {
            let outcome = match how {
                "copy" => flow.send_with(&series.message(number), wait),
                "loan" => flow.lend_with(series.length(number), wait).and_then(|mut loan| {
                    series.fill(number, &mut loan);
                    loan.send()
                }),
                "try" => match flow.try_send(&series.message(number)) {
                    Err(Error::WouldBlock) => return Ok(json!({ "sent": number - first })),
                    outcome => outcome,
                },
                _ => return fault(format!("send_series has no how {how}")),
            };
            outcome.map_err(after(json!({ "sent": number - first })))?;
        }
        Ok(json!({ "sent": numbers.len() }))
    }

    pub(crate) fn recv_series(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, numbers) = (self.flow(command)?, command.numbers()?);
        let mut expected = Expected::new(command.series()?, numbers.start);
        let (wait, timeout) = (ending.wait(command.timeout()?), command.timeout()?);
        let largest = expected.series.lengths.iter().copied().max().unwrap_or(0);
        let mut buffer = vec![0; largest];
        while expected.next < numbers.end {
            let done = json!({ "received": expected.received() });
            let is_right = match command.text_or("how", "copy")? {
                "copy" | "loan" | "iterator" => flow.recv_with(wait).map(|message| expected.take(&message)),
                "into" => flow.recv_into(&mut buffer, wait).map(|count| expected.take(&buffer[..count])),
                "batch" => {
                    let (mut batch, most) = (Vec::new(), BATCH.min((numbers.end - expected.next) as usize));
                    let outcome = flow.recv_many(&mut batch, most, wait);
                    outcome.map(|_| batch.len() <= most && batch.iter().all(|message| expected.take(message)))
                }
                "event_fd" => drain_ready(&flow, &mut expected, numbers.end, timeout),
                how => return fault(format!("recv_series has no how {how}")),
            };
            if !is_right.map_err(after(done))? {
                return Ok(expected.wrong());
            }
        }
        Ok(json!({ "received": expected.received(), "ok": true }))
    }

    pub(crate) fn drain(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, series) = (self.flow(command)?, command.series()?);
        let wait = ending.wait(command.timeout()?);
        let (mut sums, mut all_right) = (Sums::default(), true);
        loop {
            match flow.recv_with(wait) {
                Ok(message) => match series.number_of(&message) {
                    Some(number) => sums.add(number),
                    None => all_right = false,
                },
                Err(Error::Closed) => break,
                Err(error) => return Err(after(json!({ "count": sums.count }))(error)),
            }
        }
        Ok(json!({ "count": sums.count, "sum": sums.sum, "squares": sums.squares, "ok": all_right }))
    }

    pub(crate) fn ping(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, numbers) = (self.flow(command)?, command.numbers()?);
        let mut expected = Expected::new(command.series()?, numbers.start);
        let wait = ending.wait(command.timeout()?);
        for number in numbers {
            let done = json!({ "received": expected.received() });
            let answer = flow
                .send_with(&expected.series.message(number), wait)
                .and_then(|()| flow.recv_with(wait))
                .map_err(after(done))?;
            if !expected.take(&answer) {
                return Ok(expected.wrong());
            }
        }
        Ok(json!({ "received": expected.received(), "ok": true }))
    }

    pub(crate) fn echo(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, wait) = (self.flow(command)?, ending.wait(command.timeout()?));
        let (mut messages, mut bytes) = (0, 0);
        loop {
            let outcome = flow.recv_with(wait).and_then(|message| {
                flow.send_with(&message, wait)?;
                Ok(message.len())
            });
            match outcome {
                Ok(length) => {
                    messages += 1;
                    bytes += length;
                }
                Err(Error::Closed) => return Ok(json!({ "messages": messages, "bytes": bytes })),
                Err(error) => return Err(after(json!({ "messages": messages, "bytes": bytes }))(error)),
            }
        }
    }

    pub(crate) fn supply(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        let wait = ending.wait(command.timeout()?);
        for number in numbers.clone() {
            flow.recv_with(wait)
                .and_then(|_| flow.send_with(&series.message(number), wait))
                .map_err(after(json!({ "sent": number - numbers.start })))?;
        }
        Ok(json!({ "sent": numbers.len() }))
    }
}

fn send_batches(flow: &Flow, series: &Series, numbers: Range<u32>, wait: Wait<'_>) -> Answer {
    let (first, mut next) = (numbers.start, numbers.start);
    while next < numbers.end {
        let messages: Vec<Vec<u8>> = (next..numbers.end).take(BATCH).map(|n| series.message(n)).collect();
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let sent = flow.send_many(&slices, wait).map_err(after(json!({ "sent": next - first })))?;
        next += u32::try_from(sent).unwrap_or(u32::MAX);
    }
    Ok(json!({ "sent": numbers.len() }))
}

/// Waits for the channel's descriptor, then takes what is there; says whether all was right.
fn drain_ready(
    flow: &Flow,
    expected: &mut Expected,
    end: u32,
    timeout: Option<std::time::Duration>,
) -> machnet_client::Result<bool> {
    let attachment = flow.attachment();
    let descriptor = attachment.event_fd()?;
    // First what came before the descriptor was asked for.
    loop {
        while expected.next < end {
            match flow.try_recv()? {
                Some(message) if expected.take(&message) => {}
                Some(_) => return Ok(false),
                None => break,
            }
        }
        if expected.next == end {
            return Ok(true);
        }
        let timeout = timeout.map(|limit| limit.try_into().unwrap_or(rustix::event::Timespec::default()));
        let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref());
        if ready.map_err(std::io::Error::from)? == 0 {
            return Err(Error::TimedOut);
        }
    }
}
