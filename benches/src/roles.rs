//! A bench with several processes starts itself again in other roles.
//!
//! `main` asks [`role`] first: a child was started as `BENCH --role NAME ARGUMENTS` and finds both there. A child ends when
//! its parent's end of its standard input is closed, so that none outlives a bench that was killed.

use crate::place::Place;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The role that this process was started in, with its arguments; nothing in the bench's first process.
pub fn role() -> Option<(String, Vec<String>)> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("--role") {
        return None;
    }
    let name = arguments.next()?;
    std::thread::spawn(|| {
        let _: io::Result<usize> = io::stdin().read(&mut [0]); // Returns when the parent is gone.
        std::process::exit(0);
    });
    Some((name, arguments.collect()))
}

/// What a child left behind.
#[derive(Debug)]
pub struct Ended {
    /// What it printed.
    pub output: String,
    /// How it exited, if no signal ended it.
    pub code: Option<i32>,
}

/// A child in a role. Dropped, it is ended and waited for.
#[derive(Debug)]
pub struct Role(Child);

impl Role {
    /// Starts this program again. Its standard output is a pipe if `piped`, else the bench's own.
    pub fn start(name: &str, arguments: &[&str], piped: bool) -> io::Result<Self> {
        Self::start_at(&Place::default(), name, arguments, piped)
    }

    /// As [`Self::start`], in another network, on another processor or in another scheduling class.
    pub fn start_at(place: &Place, name: &str, arguments: &[&str], piped: bool) -> io::Result<Self> {
        let output = if piped { Stdio::piped() } else { Stdio::inherit() };
        let program = std::env::current_exe()?;
        let mut command = place.command(&program);
        command.args(["--role", name]).args(arguments).stdin(Stdio::piped()).stdout(output);
        if let Some(file) = &place.errors {
            command.stderr(std::fs::File::create(file)?);
        }
        Ok(Self(command.spawn()?))
    }

    /// As [`Self::start`] with a pipe, in a network namespace that is made for it.
    pub fn start_in_new_network(name: &str) -> io::Result<Self> {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(std::env::current_exe()?).args(["--role", name]);
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// The child's process number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> io::Result<String> {
        let output = self.0.stdout.as_mut().ok_or_else(|| io::Error::other("its output is not a pipe"))?;
        let mut line = String::new();
        // One byte at a time, so that nothing of what comes after is taken.
        BufReader::with_capacity(1, output).read_line(&mut line)?;
        if line.is_empty() { Err(io::Error::other("a child ended before it said a line")) } else { Ok(line) }
    }

    /// Waits for its end and answers what it printed.
    pub fn output(mut self) -> io::Result<String> {
        let mut text = String::new();
        if let Some(output) = &mut self.0.stdout {
            output.read_to_string(&mut text)?;
        }
        self.0.wait()?;
        Ok(text)
    }

    /// Waits for its end, and ends it if that takes longer than `longest`. Its output is piped.
    pub fn end_within(mut self, longest: Duration) -> io::Result<Ended> {
        let output = self.0.stdout.take().ok_or_else(|| io::Error::other("its output is not a pipe"))?;
        let (told, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = { output }.read_to_string(&mut text);
            // Nobody listens any more when it took too long.
            let _: Result<(), mpsc::SendError<_>> = told.send(read.map(|_| text));
        });
        let output = outcome
            .recv_timeout(longest)
            .map_err(|_| io::Error::other(format!("a child has not ended after {longest:?}")))??;
        Ok(Ended { output, code: self.0.wait()?.code() })
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _: io::Result<()> = self.0.kill(); // It may have ended by itself.
        let _: io::Result<std::process::ExitStatus> = self.0.wait();
    }
}

/// `Child::wait` closes the child's input first, by which a role would think that its parent is gone. Answers whether it
/// ended well.
pub fn wait_with_open_input(child: &mut Child) -> io::Result<bool> {
    let input = child.stdin.take();
    let status = child.wait()?;
    drop(input);
    Ok(status.success())
}
