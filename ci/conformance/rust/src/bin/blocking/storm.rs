//! Receives that are cancelled.

use crate::commands::Agent;
use machnet_client::{Canceller, Error, Flow, Message, Wait};
use machnet_conformance::command::{Answer, Command};
use machnet_conformance::content::content;
use serde_json::{Value, json};
use std::sync::mpsc::{Sender, channel};

impl Agent {
    pub(crate) fn cancel_storm(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        let (timeout, demand) = (command.timeout()?, content(0, 1));
        let (mut cancelled, mut won) = (0, 0);
        let (helper, requests) = channel::<Canceller>();
        std::thread::spawn(move || requests.iter().for_each(|canceller| canceller.cancel()));
        for number in numbers.clone() {
            if recv_cancelled(&flow, &helper)?.is_some() {
                return Ok(found(number - numbers.start, cancelled, won, false));
            }
            cancelled += 1;
            flow.send_with(&demand, timeout)?;
            let message = match recv_cancelled(&flow, &helper)? {
                Some(message) => {
                    won += 1;
                    message
                }
                None => {
                    cancelled += 1;
                    flow.recv_with(timeout)?
                }
            };
            if series.number_of(&message) != Some(number) {
                return Ok(found(number - numbers.start, cancelled, won, false));
            }
        }
        Ok(found(numbers.end - numbers.start, cancelled, won, true))
    }
}

fn found(received: u32, cancelled: u32, won: u32, is_right: bool) -> Value {
    json!({ "received": received, "cancelled": cancelled, "won": won, "ok": is_right })
}

/// A receive that another thread cancels at once; a message, if it was faster.
fn recv_cancelled(flow: &Flow, helper: &Sender<Canceller>) -> machnet_client::Result<Option<Message>> {
    let canceller = flow.attachment().canceller();
    let _ = helper.send(canceller.clone()); // The thread lives as long as the sender.
    match flow.recv_with(Wait::until(&canceller)) {
        Err(Error::Cancelled) => Ok(None),
        outcome => outcome.map(Some),
    }
}
