//! Series of messages, those who answer them, and the storm.

use crate::commands::{Agent, within};
use machnet_client::aio::AsyncFlow;
use machnet_client::{Error, Message};
use machnet_conformance::command::{Answer, Command, Failure, after, fault};
use machnet_conformance::content::content;
use machnet_conformance::numbers::Sums;
use serde_json::json;
use std::sync::Arc;

impl Agent {
    pub(crate) async fn send_series(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        for number in numbers.clone() {
            let (message, sent) = (series.message(number), number - numbers.start);
            let outcome = match command.text_or("how", "copy")? {
                "copy" => within(command.timeout()?, flow.send(&message)).await,
                "try" => match flow.flow().try_send(&message) {
                    Err(Error::WouldBlock) => return Ok(json!({ "sent": sent })),
                    outcome => outcome,
                },
                _ => return Err(Failure::Unsupported("machnet_client::aio has no such call that waits")),
            };
            outcome.map_err(after(json!({ "sent": sent })))?;
        }
        Ok(json!({ "sent": numbers.len() }))
    }

    pub(crate) async fn recv_series(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        if !matches!(command.text_or("how", "copy")?, "copy" | "loan" | "iterator") {
            return Err(Failure::Unsupported("machnet_client::aio has no such call that waits"));
        }
        for number in numbers.clone() {
            let received = number - numbers.start;
            let outcome = within(command.timeout()?, flow.recv()).await;
            let message = outcome.map_err(after(json!({ "received": received })))?;
            if series.number_of(&message) != Some(number) {
                return Ok(json!({ "received": received, "ok": false, "number": number }));
            }
        }
        Ok(json!({ "received": numbers.len(), "ok": true }))
    }

    pub(crate) async fn drain(&self, command: &Command) -> Answer {
        let (flow, series) = (self.flow(command)?, command.series()?);
        let (mut sums, mut all_right) = (Sums::default(), true);
        loop {
            match within(command.timeout()?, flow.recv()).await {
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

    pub(crate) async fn ping(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        for number in numbers.clone() {
            let (message, received) = (series.message(number), number - numbers.start);
            let exchange = async {
                flow.send(&message).await?;
                flow.recv().await
            };
            let answer = within(command.timeout()?, exchange).await;
            if series.number_of(&answer.map_err(after(json!({ "received": received })))?) != Some(number) {
                return Ok(json!({ "received": received, "ok": false, "number": number }));
            }
        }
        Ok(json!({ "received": numbers.len(), "ok": true }))
    }

    pub(crate) async fn echo(&self, command: &Command) -> Answer {
        let flow = self.flow(command)?;
        let (mut messages, mut bytes) = (0, 0);
        loop {
            let turn = async {
                let message = flow.recv().await?;
                flow.send(&message).await?;
                Ok(message.len())
            };
            match within(command.timeout()?, turn).await {
                Ok(length) => {
                    messages += 1;
                    bytes += length;
                }
                Err(Error::Closed) => return Ok(json!({ "messages": messages, "bytes": bytes })),
                Err(error) => return Err(after(json!({ "messages": messages, "bytes": bytes }))(error)),
            }
        }
    }

    pub(crate) async fn supply(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        for number in numbers.clone() {
            let message = series.message(number);
            let turn = async {
                flow.recv().await?;
                flow.send(&message).await
            };
            let outcome = within(command.timeout()?, turn).await;
            outcome.map_err(after(json!({ "sent": number - numbers.start })))?;
        }
        Ok(json!({ "sent": numbers.len() }))
    }

    pub(crate) async fn cancel_storm(&self, command: &Command) -> Answer {
        let (flow, series, numbers) = (self.flow(command)?, command.series()?, command.numbers()?);
        let (mut cancelled, mut won, demand) = (0, 0, content(0, 1));
        for number in numbers.clone() {
            let received = number - numbers.start;
            if recv_cancelled(&flow).await?.is_some() {
                return Ok(json!({ "received": received, "cancelled": cancelled, "won": won, "ok": false }));
            }
            cancelled += 1;
            within(command.timeout()?, flow.send(&demand)).await?;
            let message = match recv_cancelled(&flow).await? {
                Some(message) => {
                    won += 1;
                    message
                }
                None => {
                    cancelled += 1;
                    within(command.timeout()?, flow.recv()).await?
                }
            };
            if series.number_of(&message) != Some(number) {
                return Ok(json!({ "received": received, "cancelled": cancelled, "won": won, "ok": false }));
            }
        }
        Ok(json!({ "received": numbers.len(), "cancelled": cancelled, "won": won, "ok": true }))
    }
}

/// A receive in a task of its own, which is aborted at once; a message, if it was faster.
async fn recv_cancelled(flow: &Arc<AsyncFlow>) -> Result<Option<Message>, Failure> {
    let own = Arc::clone(flow);
    let task = tokio::spawn(async move { own.recv().await });
    // Its first turn: a future that was never polled has not begun to wait.
    tokio::task::yield_now().await;
    task.abort();
    match task.await {
        Ok(outcome) => Ok(Some(outcome?)),
        Err(error) if error.is_cancelled() => Ok(None),
        Err(error) => fault(error.to_string()),
    }
}
