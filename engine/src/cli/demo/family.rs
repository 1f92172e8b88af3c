//! The processes of the demo: started together, watched, and gone when the demo is, however it ends.

use crate::cli::sys::{Signals, die_with_parent, enter_namespace};
use crate::cli::{Exit, Failure, Outcome, clock};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Lines of a dead child's standard error that are shown.
const SHOWN_LINES: usize = 5;

/// What happens to the family.
#[derive(Debug)]
enum Event {
    /// A line on a child's standard output.
    Line(usize, String),
    /// A child's standard output ended, and so the child did or will at once.
    Ended(usize),
    /// The user wants an end.
    Interrupted,
}

#[derive(Debug)]
struct Member {
    name: String,
    child: Child,
    stderr: Option<JoinHandle<VecDeque<String>>>,
    /// What it said while another was waited for.
    unread: VecDeque<String>,
    is_awaited: bool,
}

/// Children of this process. Dropped, it kills those that live; if this process dies first, the kernel does.
#[derive(Debug)]
pub(crate) struct Family {
    members: Vec<Member>,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

/// One member of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemberId(usize);

impl Family {
    /// No children yet; from now on Ctrl-C is noticed between and during the waits below. To be called by the main thread,
    /// which must also start the children: they die with the thread that started them.
    pub(crate) fn new() -> Outcome<Self> {
        let (sender, events) = mpsc::channel();
        let mut signals =
            Signals::install().map_err(|error| anyhow::anyhow!("cannot watch for signals: {error}"))?;
        let interrupts = sender.clone();
        thread::spawn(move || while signals.wait().is_ok() && interrupts.send(Event::Interrupted).is_ok() {});
        Ok(Self { members: Vec::new(), events, sender })
    }

    /// Starts this program with `arguments`, without the settings of this process's environment.
    pub(crate) fn start(&mut self, name: &str, arguments: &[&str]) -> Outcome<MemberId> {
        self.start_in(None, name, arguments)
    }

    /// The same, in another network namespace.
    pub(crate) fn start_in(
        &mut self,
        namespace: Option<&OwnedFd>,
        name: &str,
        arguments: &[&str],
    ) -> Outcome<MemberId> {
        let cannot = |error| anyhow::anyhow!("cannot start {name}: {error}");
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("MACHNET_") {
                command.env_remove(variable);
            }
        }
        command.env_remove("NOTIFY_SOCKET");
        die_with_parent(&mut command);
        if let Some(namespace) = namespace {
            enter_namespace(&mut command, namespace);
        }
        let mut child = command.spawn().map_err(cannot)?;
        let id = self.members.len();
        if let Some(stdout) = child.stdout.take() {
            let sender = self.sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(Event::Line(id, line));
                }
                let _ = sender.send(Event::Ended(id));
            });
        }
        let stderr = child.stderr.take().map(|stderr| thread::spawn(move || last_lines(stderr)));
        self.members.push(Member {
            name: name.to_owned(),
            child,
            stderr,
            unread: VecDeque::new(),
            is_awaited: false,
        });
        Ok(MemberId(id))
    }

    /// Waits for the next line that a member says. It and all others must live so long.
    pub(crate) fn await_line(&mut self, member: MemberId, patience: Duration) -> Outcome<String> {
        match self.await_event(member, patience)? {
            Some(line) => Ok(line),
            None => Err(self.obituary(member.0)),
        }
    }

    /// Waits until a member has ended well, and returns the last line that it said. All others must live so long.
    pub(crate) fn await_end(&mut self, member: MemberId, patience: Duration) -> Outcome<String> {
        let mut last = String::new();
        while let Some(line) = self.await_event(member, patience)? {
            last = line;
        }
        let status = self.members[member.0].child.wait().map_err(anyhow::Error::from)?;
        if !status.success() {
            return Err(self.obituary(member.0));
        }
        self.members[member.0].is_awaited = true;
        Ok(last)
    }

    /// Ends a member that the others do not need.
    pub(crate) fn dismiss(&mut self, member: MemberId) {
        let member = &mut self.members[member.0];
        member.is_awaited = true;
        // Errors mean that it is gone already.
        let _ = member.child.kill();
        let _ = member.child.wait();
    }

    /// The member's next line, or nothing when it ended.
    fn await_event(&mut self, member: MemberId, patience: Duration) -> Outcome<Option<String>> {
        if let Some(line) = self.members[member.0].unread.pop_front() {
            return Ok(Some(line));
        }
        let gives_up_at = clock::now() + patience;
        loop {
            let left = gives_up_at.saturating_duration_since(clock::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Line(id, line)) if id == member.0 => return Ok(Some(line)),
                Ok(Event::Line(id, line)) => self.members[id].unread.push_back(line),
                Ok(Event::Ended(id)) if id == member.0 => return Ok(None),
                Ok(Event::Ended(id)) if self.members[id].is_awaited => {}
                Ok(Event::Ended(id)) => return Err(self.obituary(id)),
                Ok(Event::Interrupted) => return Err(Failure::new(Exit::Interrupted, "interrupted")),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let name = &self.members[member.0].name;
                    let text = format!("{name} said nothing for {} s", patience.as_secs());
                    return Err(Failure::new(Exit::Failed, text));
                }
            }
        }
    }

    /// Who died, of what, and what it said last.
    fn obituary(&mut self, id: usize) -> Failure {
        let first = self.first_dead(id);
        let member = &mut self.members[first];
        // Its output has ended, so it is dead or about to be.
        let _ = member.child.kill();
        let how = match member.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let lines = member.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let mut text = format!("{} (process {}) ended: {how}", member.name, member.child.id());
        if lines.is_empty() {
            text.push_str("; it said nothing on standard error");
        } else {
            text.push_str("; its last lines on standard error:");
            for line in lines {
                text.push_str("\n  ");
                text.push_str(&line);
            }
        }
        Failure::new(Exit::Failed, text)
    }
}

impl Family {
    /// The cause of a death: children end because the ones that they need, which were started earlier, ended.
    fn first_dead(&mut self, id: usize) -> usize {
        let ends_at = clock::now() + INQUEST;
        loop {
            let is_dead =
                |member: &mut Member| !member.is_awaited && matches!(member.child.try_wait(), Ok(Some(_)));
            if let Some(earlier) = self.members[..id].iter_mut().position(is_dead) {
                return earlier;
            }
            if clock::now() >= ends_at {
                return id;
            }
            thread::sleep(INQUEST_STEP);
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for member in self.members.iter_mut().rev() {
            // Errors mean that it is gone already.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

/// How long an obituary looks for a cause.
const INQUEST: Duration = Duration::from_millis(100);
const INQUEST_STEP: Duration = Duration::from_millis(5);

fn last_lines(stream: impl Read) -> VecDeque<String> {
    let mut last = VecDeque::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if last.len() == SHOWN_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}
