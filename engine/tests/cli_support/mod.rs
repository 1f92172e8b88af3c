//! What the tests of the command share: running it, watching it, signalling it, and never leaving it behind.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The command with `arguments`, without settings from the environment of the test.
pub(crate) fn machnet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_machnet"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MACHNET_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").env_remove("NOTIFY_SOCKET").env("RUST_BACKTRACE", "0");
    command
}

/// Runs to the end: exit code, standard output, standard error.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    finish(machnet(arguments))
}

/// Runs a prepared command to its end, which must come.
pub(crate) fn finish(mut command: Command) -> (i32, String, String) {
    let child = command.spawn().unwrap();
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => text_of(output.unwrap()),
        Err(_) => {
            signal(id, "KILL");
            panic!("{command:?} did not end");
        }
    }
}

fn text_of(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Sends a signal by the shell: the workspace has no `unsafe` outside its fences.
pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).stderr(Stdio::null()).status();
}

/// Whether there is a process of that number that is more than an entry waiting for its parent.
pub(crate) fn is_alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let state = state.and_then(|stat| stat.rsplit(')').next().map(|rest| rest.trim_start().to_owned()));
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 20 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("in vain: {what}");
}

/// A process that is killed when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(machnet(arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output. If there is none, what it said on standard error fails the test.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line; it said: {}", self.said()))
    }

    /// The next line of its standard error.
    pub(crate) fn error_line(&mut self) -> String {
        self.errors
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("it said nothing more on standard error"))
    }

    /// What is left of its standard error, until it ends.
    pub(crate) fn said(&mut self) -> String {
        let _ = self.child.kill();
        self.errors.iter().collect::<Vec<_>>().join("\n")
    }

    /// The rest of its standard output, until it ends.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        rest.join("\n")
    }

    /// Waits for its end, which must come.
    pub(crate) fn end(&mut self) -> ExitStatus {
        for _ in 0..PATIENCE.as_millis() / 10 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("process {} did not end", self.pid());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A directory that goes with the test.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("machnet-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

static NEXT_HOST: AtomicU8 = AtomicU8::new(1);

/// A loopback address that no other test uses now: Linux answers for all of 127.0.0.0/8.
pub(crate) fn fresh_address() -> IpAddr {
    let part = |number: u32| u8::try_from(number % 250 + 1).unwrap();
    let host = NEXT_HOST.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, part(std::process::id() / 250), part(std::process::id()), host))
}

/// A sidecar of its own, with its socket in `directory`.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) process: Running,
    pub(crate) socket: String,
    pub(crate) address: String,
    pub(crate) first_line: String,
}

impl Sidecar {
    pub(crate) fn start(directory: &Directory, name: &str) -> Self {
        Self::start_with(directory, name, &[])
    }

    pub(crate) fn start_with(directory: &Directory, name: &str, more: &[&str]) -> Self {
        let socket = directory.0.join(format!("{name}.sock")).to_str().unwrap().to_owned();
        let address = fresh_address().to_string();
        let arguments = ["up", "--no-config", "--socket", &socket, "--address", &address];
        let mut process = Running::start(&[&arguments, more].concat());
        let first_line = process.line();
        Self { process, socket, address, first_line }
    }

    pub(crate) fn socket_exists(&self) -> bool {
        Path::new(&self.socket).exists()
    }
}
