//! The agent of the conformance suite over `machnet_client::aio`, for tokio. ci/conformance/README.md specifies it.

mod commands;
mod series;
mod streams;

use commands::Agent;
use machnet_conformance::command::{Answer, Command, fault, to_line};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::timeout;

type Tasks = HashMap<String, JoinHandle<Answer>>;

fn start(agent: &Arc<Agent>, tasks: &mut Tasks, command: &Command) -> Answer {
    let (name, inner, agent) = (command.text("task")?, command.inner()?, Arc::clone(agent));
    tasks.insert(name.to_owned(), tokio::spawn(async move { agent.run(&inner).await }));
    Ok(json!({}))
}

async fn join(tasks: &mut Tasks, command: &Command) -> Answer {
    let name = command.text("task")?;
    let Some(task) = tasks.get_mut(name) else { return fault(format!("no task {name}")) };
    let outcome = match command.timeout()? {
        Some(limit) => match timeout(limit, &mut *task).await {
            Ok(outcome) => outcome,
            Err(_) => return Ok(json!({ "running": true })),
        },
        None => task.await,
    };
    tasks.remove(name);
    match outcome {
        Ok(answer) => answer,
        Err(error) if error.is_cancelled() => Ok(json!({ "cancelled": true })),
        Err(error) => fault(error.to_string()),
    }
}

async fn clear(agent: &Agent, tasks: &mut Tasks) -> Answer {
    for (_, task) in tasks.drain() {
        task.abort();
        let _ = task.await; // What it says no longer matters.
    }
    agent.end_all().await;
    Ok(json!({}))
}

async fn answer(agent: &Arc<Agent>, tasks: &mut Tasks, command: &Command) -> Answer {
    match command.text("op")? {
        "start" => start(agent, tasks, command),
        "join" => join(tasks, command).await,
        "cancel" => match tasks.get(command.text("task")?) {
            Some(task) => {
                task.abort();
                Ok(json!({}))
            }
            None => fault("no such task"),
        },
        "clear" => clear(agent, tasks).await,
        _ => agent.run(command).await,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let (agent, mut tasks) = (Arc::new(Agent::default()), Tasks::new());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command = Command::parse(&line);
        let is_last = command.as_ref().is_ok_and(|c| c.0.get("op") == Some(&Value::from("exit")));
        let answer = match command {
            _ if is_last => Ok(json!({})),
            Ok(command) => answer(&agent, &mut tasks, &command).await,
            Err(failure) => Err(failure),
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", to_line(answer))?;
        output.flush()?;
        if is_last {
            break;
        }
    }
    // The thread that reads standard input does not keep a program that is asked to end.
    std::process::exit(0)
}
