//! The echo examples in Rust and C, and a C program written for the original library, talk to each other through two sidecars.
//! Without a C compiler the tests with C programs say so and do nothing.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Bounds every wait, against hangs only.
const PATIENCE: Duration = Duration::from_secs(120);
const SIZES: [usize; 8] = [1, 64, 113, 1460, 4096, 65_536, 1_000_003, 8 * 1024 * 1024];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where cargo puts programs and libraries of the profile of this test.
fn output_folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_machnet")).parent().unwrap()
}

/// Ends its process when dropped.
struct Running {
    child: Child,
    first_line: String,
}

impl Running {
    /// Starts a program and waits for its first line.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first_line = String::new();
        output.read_line(&mut first_line).unwrap();
        assert!(!first_line.is_empty(), "{command:?} ended: {}", child.wait().unwrap());
        // Read on, so that the program never waits for its reader.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { child, first_line }
    }

    /// Waits for the program's own end.
    fn ends(mut self) -> bool {
        for _ in 0..PATIENCE.as_millis() / 10 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("a program did not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One host: a sidecar on a loopback address of its own.
struct Host {
    address: String,
    socket: PathBuf,
    sidecar: Option<Running>,
}

impl Host {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let address = format!("127.{}.{}.{number}", 64 + (process >> 8) % 128, process & 0xff);
        let socket = std::env::temp_dir().join(format!("machnet-examples-{process}-{number}.sock"));
        let sidecar = Running::start(
            Command::new(env!("CARGO_BIN_EXE_machnet"))
                .args(["up", "--no-config", "--log-level", "warn", "--address", &address, "--socket"])
                .arg(&socket),
        );
        Self { address, socket, sidecar: Some(sidecar) }
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("MACHNET_SOCKET", &self.socket);
        command
    }

    fn serve(&self, program: &Path, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(program, arguments))
    }

    /// Runs a program to its end, which has to be a good one, and returns what it printed.
    fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let output = self.outcome(program, arguments);
        let (printed, complained) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{program:?} {arguments:?} ended with {}\n{printed}{complained}",
            output.status
        );
        printed
    }

    fn outcome(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command(program, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) =
            (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
        for _ in 0..PATIENCE.as_millis() / 10 {
            if let Some(status) = child.try_wait().unwrap() {
                return Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("{program:?} {arguments:?} did not end\n{}", text(&stderr.join().unwrap()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.sidecar.take());
        let _ = fs::remove_file(&self.socket);
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
}

/// The C programs and the Rust example, built once.
struct Programs {
    rust_echo: PathBuf,
    /// None without a C compiler.
    c: Option<CPrograms>,
}

struct CPrograms {
    echo: PathBuf,
    compat: PathBuf,
    flows: PathBuf,
}

fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let profile = output_folder().file_name().unwrap().to_str().unwrap();
        let target = output_folder().parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(workspace()).env("CARGO_TARGET_DIR", target);
        build.args(["build", "--quiet", "-p", "machnet-examples"]);
        if profile == "release" {
            build.arg("--release");
        }
        succeed(&mut build);
        Programs { rust_echo: output_folder().join("echo"), c: c_programs(profile, target) }
    })
}

fn c_programs(profile: &str, target: &Path) -> Option<CPrograms> {
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if Command::new(&cc).arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no C compiler `{cc}`; install one or set CC");
        return None;
    }
    succeed(Command::new(workspace().join("ffi/build.sh")).arg(profile).env("CARGO_TARGET_DIR", target));
    let link = |source: &str, library: &str| {
        let source = workspace().join(source);
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_stem().unwrap());
        succeed(
            Command::new(&cc)
                .args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I"])
                .arg(workspace().join("ffi/include"))
                .arg(&source)
                .arg("-o")
                .arg(&program)
                .arg("-L")
                .arg(output_folder())
                .arg(format!("-Wl,-rpath,{}", output_folder().display()))
                .args([library, "-lpthread"]),
        );
        program
    };
    Some(CPrograms {
        echo: link("examples/c/echo.c", "-lmachnet"),
        compat: link("ffi/tests/c/compat.c", "-lmachnet_shim"),
        flows: link("ffi/tests/c/flows.c", "-lmachnet"),
    })
}

/// Runs the echo of two hosts with every size.
fn echo_every_size(server: &Path, client: &Path) {
    let (a, b) = (Host::start(), Host::start());
    let place = format!("{}:888", b.address);
    let serving = b.serve(server, &["server", &place]);
    assert!(serving.first_line.contains(&place), "{}", serving.first_line);
    for size in SIZES {
        let count = if size > 1_000_000 { "3" } else { "20" };
        let printed = a.run(client, &["client", &place, &size.to_string(), count]);
        assert_eq!(printed, format!("{count} messages of {size} bytes came back intact\n"));
    }
}

#[test]
fn the_rust_echo_answers_the_rust_echo() {
    echo_every_size(&programs().rust_echo, &programs().rust_echo);
}

#[test]
fn the_c_echo_answers_the_rust_echo() {
    let Some(c) = &programs().c else { return };
    echo_every_size(&c.echo, &programs().rust_echo);
}

#[test]
fn the_rust_echo_answers_the_c_echo() {
    let Some(c) = &programs().c else { return };
    echo_every_size(&programs().rust_echo, &c.echo);
}

#[test]
fn a_program_for_the_original_library_only_has_to_be_compiled_again() {
    let Some(c) = &programs().c else { return };
    let (a, b) = (Host::start(), Host::start());
    let serving = b.serve(&c.compat, &["server", &b.address, "31"]);
    let printed = a.run(&c.compat, &["client", &a.address, &b.address, "31"]);
    assert_eq!(printed, "all checks hold\n");
    assert!(serving.ends());
}

#[test]
fn a_program_for_the_original_library_answers_a_flow_of_the_new_one() {
    let Some(c) = &programs().c else { return };
    let (a, b) = (Host::start(), Host::start());
    let _serving = b.serve(&c.compat, &["server", &b.address, "31"]);
    for size in SIZES {
        a.run(&programs().rust_echo, &["client", &format!("{}:31", b.address), &size.to_string(), "3"]);
    }
}

#[test]
fn two_c_programs_of_one_sidecar_talk_to_each_other() {
    let Some(c) = &programs().c else { return };
    let host = Host::start();
    let place = format!("{}:889", host.address);
    let _serving = host.serve(&c.echo, &["server", &place]);
    for size in SIZES {
        host.run(&c.echo, &["client", &place, &size.to_string(), "3"]);
    }
}

#[test]
fn loans_batches_events_and_closes_work_from_c() {
    let Some(c) = &programs().c else { return };
    let (a, b) = (Host::start(), Host::start());
    let _serving = b.serve(&c.echo, &["server", &format!("{}:32", b.address)]);
    let printed = a.run(&c.flows, &["checks", &b.address, "32"]);
    assert_eq!(printed, "all checks hold\n");
    a.run(&c.flows, &["nobody", &b.address, "33"]);
}

#[test]
fn a_storm_of_cancels_loses_no_message_and_doubles_none_in_c() {
    let Some(c) = &programs().c else { return };
    let (a, b) = (Host::start(), Host::start());
    let _serving = b.serve(&c.echo, &["server", &format!("{}:32", b.address)]);
    let printed = a.run(&c.flows, &["storm", &b.address, "32"]);
    assert_eq!(printed, "100000 messages, each once\n");
}

#[test]
fn a_killed_sidecar_ends_a_blocking_receive_and_not_the_process() {
    let Some(c) = &programs().c else { return };
    let (mut a, b) = (Host::start(), Host::start());
    let _serving = b.serve(&c.echo, &["server", &format!("{}:32", b.address)]);
    let waiting = a.serve(&c.flows, &["lost", &b.address, "32"]);
    assert_eq!(waiting.first_line, "waiting\n");
    drop(a.sidecar.take());
    assert!(waiting.ends());
}

#[test]
fn the_echo_says_what_helps_when_there_is_no_sidecar_and_when_nobody_listens() {
    let host = Host::start();
    let mut echoes = vec![programs().rust_echo.clone()];
    echoes.extend(programs().c.as_ref().map(|c| c.echo.clone()));
    for echo in echoes {
        let place = format!("{}:700", host.address);
        let outcome = host.outcome(&echo, &["client", &place]);
        assert!(!outcome.status.success());
        assert!(text(&outcome.stderr).contains(&format!("{place} refused")), "{}", text(&outcome.stderr));

        let nowhere = Command::new(&echo)
            .args(["client", &place])
            .env("MACHNET_SOCKET", "/nonexistent/machnet.sock")
            .output()
            .unwrap();
        let complaint = text(&nowhere.stderr);
        assert!(!nowhere.status.success());
        assert!(
            complaint.contains("/nonexistent/machnet.sock") && complaint.contains("machnet up"),
            "{complaint}"
        );

        assert_eq!(host.outcome(&echo, &["sing"]).status.code(), Some(2));
    }
}
