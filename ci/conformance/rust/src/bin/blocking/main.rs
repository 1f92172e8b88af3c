//! The agent of the conformance suite over the blocking calls of `machnet-client`. ci/conformance/README.md specifies it.

mod commands;
mod series;
mod storm;
mod streams;

use commands::Agent;
use machnet_client::{Canceller, Wait};
use machnet_conformance::command::{Answer, Command, Failure, fault, to_line};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How the calls of one command may be ended.
#[derive(Clone, Default)]
struct Ending {
    canceller: Option<Canceller>,
}

impl Ending {
    fn wait(&self, timeout: Option<Duration>) -> Wait<'_> {
        let wait = Wait::from(timeout);
        match &self.canceller {
            Some(canceller) => wait.or_until(canceller),
            None => wait,
        }
    }
}

struct Task {
    thread: JoinHandle<()>,
    answer: Receiver<Answer>,
    ending: Ending,
}

type Tasks = HashMap<String, Task>;

fn start(agent: &Arc<Agent>, tasks: &mut Tasks, command: &Command) -> Answer {
    let (name, inner) = (command.text("task")?, command.inner()?);
    let ending = Ending { canceller: agent.canceller_for(&inner) };
    let (sender, answer) = channel();
    let (agent, of_thread) = (Arc::clone(agent), ending.clone());
    let thread = std::thread::spawn(move || {
        let _ = sender.send(agent.run(&inner, &of_thread)); // Nobody asks after `clear`.
    });
    tasks.insert(name.to_owned(), Task { thread, answer, ending });
    Ok(json!({}))
}

fn join(tasks: &mut Tasks, command: &Command) -> Answer {
    let name = command.text("task")?;
    let Some(task) = tasks.get(name) else { return fault(format!("no task {name}")) };
    let limit = command.timeout()?;
    let answer = match limit {
        Some(limit) => task.answer.recv_timeout(limit),
        None => task.answer.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    match answer {
        Err(RecvTimeoutError::Timeout) => Ok(json!({ "running": true })),
        Err(RecvTimeoutError::Disconnected) => {
            tasks.remove(name);
            fault("the task ended without an answer")
        }
        Ok(answer) => {
            if let Some(task) = tasks.remove(name) {
                let _ = task.thread.join(); // It has answered, so it did not panic.
            }
            answer
        }
    }
}

fn cancel(tasks: &Tasks, command: &Command) -> Answer {
    let name = command.text("task")?;
    match tasks.get(name).map(|task| &task.ending.canceller) {
        Some(Some(canceller)) => {
            canceller.cancel();
            Ok(json!({}))
        }
        Some(None) => fault(format!("the command of task {name} has no channel")),
        None => fault(format!("no task {name}")),
    }
}

fn clear(agent: &Agent, tasks: &mut Tasks) -> Answer {
    for task in tasks.values() {
        if let Some(canceller) = &task.ending.canceller {
            canceller.cancel();
        }
    }
    agent.end_all();
    for (_, task) in tasks.drain() {
        let _ = task.thread.join(); // What it says no longer matters.
    }
    agent.forget_all();
    Ok(json!({}))
}

fn answer(agent: &Arc<Agent>, tasks: &Mutex<Tasks>, command: &Command) -> Answer {
    let tasks = &mut *tasks.lock().unwrap_or_else(PoisonError::into_inner);
    match command.text("op")? {
        "start" => start(agent, tasks, command),
        "join" => join(tasks, command),
        "cancel" => cancel(tasks, command),
        "clear" => clear(agent, tasks),
        "fork" => Err(Failure::Unsupported(commands::NO_FORK)),
        _ => agent.run(command, &Ending::default()),
    }
}

fn main() -> std::io::Result<()> {
    let (agent, tasks) = (Arc::new(Agent::default()), Mutex::new(Tasks::new()));
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let command = Command::parse(&line?);
        let is_last = command.as_ref().is_ok_and(|c| c.0.get("op") == Some(&Value::from("exit")));
        let answer = match command {
            _ if is_last => Ok(json!({})),
            Ok(command) => answer(&agent, &tasks, &command),
            Err(failure) => Err(failure),
        };
        writeln!(output, "{}", to_line(answer))?;
        output.flush()?;
        if is_last {
            break;
        }
    }
    // Threads that still wait do not keep a program that is asked to end.
    std::process::exit(0)
}
