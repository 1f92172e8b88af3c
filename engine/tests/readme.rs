//! README.md is run, not believed: its commands as two machines with a sidecar each, its programs compiled and talking to
//! each other, its quoted errors compared with the library's. A code block says in its first line how it is checked:
//!
//! | after the language | what happens |
//! |---|---|
//! | `run` | runs, on the machine that builds (sh), or is built (rust, c, toml) |
//! | `run=A`, `run=B` | runs on machine A or B and must succeed within a minute |
//! | `run=B background` | runs until the end of the test |
//! | `run=server`, `run=client` | the program is compiled, and runs on B or A |
//! | `error=NAME` | is the text of that error of the library, letter for letter |
//! | `tested-by=FILE` | that test reads it from this page and runs it |
//! | `elsewhere=STEP` | its commands are run by that step of ci/test.sh |
//! | `skip=reason` | cannot be run here, for this reason |
//!
//! The two machines are loopback addresses of this one: 10.0.0.5 becomes 127.0.31.5 and 10.0.0.6 127.0.31.6.

use machnet_client::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often it is looked whether a command has ended.
const POLL: Duration = Duration::from_millis(10);
/// Looks at one command of the README before it counts as hung: three minutes.
const COMMAND_POLLS: u32 = 18_000;
/// Times that a command is tried while what was started before it does not answer yet.
const START_TRIES: u32 = 50;

/// A fenced block of the page.
struct Block {
    line: usize,
    language: String,
    /// The words behind the language.
    marks: Vec<String>,
    text: String,
}

impl Block {
    fn has(&self, mark: &str) -> bool {
        self.marks.iter().any(|m| m == mark)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the repository").to_path_buf()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README.md")
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    for (at, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { line: at + 1, language, marks: words.collect(), text: String::new() });
            }
            (Some(_), Some(block)) => found.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none() && !found.is_empty(), "a block of README.md is not closed");
    found
}

/// Processes that are ended, the last started first, whatever becomes of the test.
#[derive(Default)]
struct Background(Vec<(String, Child)>);

impl Drop for Background {
    fn drop(&mut self) {
        for (_, child) in self.0.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The two machines of the page.
struct Machines {
    name: &'static str,
    folder: PathBuf,
    background: Background,
}

impl Machines {
    fn new(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for tests is writable");
        Self { name, folder, background: Background::default() }
    }

    /// A shell that believes to be on `machine`.
    fn shell(&self, machine: &str, script: &str) -> Command {
        let script = script.replace("10.0.0.5", "127.0.31.5").replace("10.0.0.6", "127.0.31.6");
        let binary = Path::new(env!("CARGO_BIN_EXE_machnet"));
        let path = format!(
            "{}:{}",
            binary.parent().expect("a binary lies in a folder").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut shell = Command::new("sh");
        shell.args(["-euc", &script]).current_dir(root()).stdin(Stdio::null()).stdout(Stdio::piped());
        // `make demo` takes the binary that is there, and measures for a shorter time.
        shell.env("PATH", path).env("MACHNET", binary).env("ARGS", "--quick");
        // No configuration of whoever runs the test.
        shell.env("XDG_CONFIG_HOME", &self.folder);
        // The socket's path is short: a Unix socket has room for 107 bytes.
        shell.env("MACHNET_SOCKET", self.socket(machine));
        shell
    }

    fn socket(&self, machine: &str) -> PathBuf {
        std::env::temp_dir().join(format!(
            "machnet-readme-{}-{}-{machine}.sock",
            self.name,
            std::process::id()
        ))
    }

    fn run(&self, machine: &str, script: &str) -> String {
        let child = self.shell(machine, script).stderr(Stdio::piped()).spawn().expect("there is a shell");
        let (ok, text) = finish(child);
        assert!(ok, "on machine {machine}:\n{script}\n{text}");
        text
    }

    fn start(&mut self, machine: &str, script: &str) {
        // `exec`, so that ending the child ends the program and not only the shell around it.
        let script = format!("exec {}", script.trim());
        let log = fs::File::create(self.folder.join(format!("{}.log", self.background.0.len())))
            .expect("the folder for tests is writable");
        let mut shell = self.shell(machine, &script);
        shell.stdout(Stdio::null()).stderr(log);
        self.background.0.push((script, shell.spawn().expect("there is a shell")));
    }

    /// Tries `script` until it succeeds: what was started a moment ago may not answer yet.
    fn run_soon(&mut self, machine: &str, script: &str) -> String {
        let mut last = String::new();
        for _ in 0..START_TRIES {
            let child = self.shell(machine, script).stderr(Stdio::piped()).spawn().expect("there is a shell");
            let (ok, text) = finish(child);
            if ok {
                return text;
            }
            self.assert_background_lives();
            last = text;
            std::thread::sleep(10 * POLL);
        }
        panic!("on machine {machine}:\n{script}\n{last}");
    }

    fn assert_background_lives(&mut self) {
        for (at, (script, child)) in self.background.0.iter_mut().enumerate() {
            if let Some(status) = child.try_wait().expect("our own child can be waited for") {
                let log = fs::read_to_string(self.folder.join(format!("{at}.log"))).unwrap_or_default();
                panic!("`{script}` ended with {status}:\n{log}");
            }
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.background = Background::default();
        for machine in ["A", "B"] {
            let _ = fs::remove_file(self.socket(machine)); // A killed sidecar leaves it.
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits for the end of a child with both outputs piped; says whether it succeeded, and what it wrote.
fn finish(mut child: Child) -> (bool, String) {
    let mut pipes: Vec<Box<dyn Read + Send>> = Vec::new();
    pipes.extend(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    pipes.extend(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let readers: Vec<_> = pipes
        .into_iter()
        .map(|mut pipe| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        })
        .collect();
    let mut status = None;
    for _ in 0..COMMAND_POLLS {
        status = child.try_wait().expect("our own child can be waited for");
        if status.is_some() {
            break;
        }
        std::thread::sleep(POLL);
    }
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text: String = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    (status.is_some_and(|status| status.success()), text)
}

#[test]
fn the_commands_of_the_readme_work_on_two_machines() {
    let mut machines = Machines::new("commands");
    for block in blocks(&readme()).iter().filter(|block| block.language == "sh") {
        match block.value("run") {
            Some(machine) if block.has("background") => machines.start(machine, &block.text),
            Some(machine) => drop(machines.run_soon(machine, &block.text)),
            None if block.has("run") => drop(machines.run("A", &block.text)),
            None => {}
        }
    }
    machines.assert_background_lives();
}

#[test]
fn the_programs_of_the_readme_compile_and_talk_to_each_other() {
    let page = blocks(&readme());
    let text_of = |language: &str, run: &str| {
        let block = page.iter().find(|b| b.language == language && b.value("run") == Some(run));
        block
            .map(|b| b.text.clone())
            .unwrap_or_else(|| panic!("README.md has no {language} block with run={run}"))
    };
    let mut machines = Machines::new("programs");
    let programs =
        build_rust(&machines.folder, &page, &text_of("rust", "server"), &text_of("rust", "client"));
    machines.start("B", "machnet up --address 10.0.0.6 --udp-port 31581");
    machines.start("A", "machnet up --address 10.0.0.5 --udp-port 31581");
    machines.run_soon("B", "machnet status");
    machines.run_soon("A", "machnet status");
    machines.start("B", &programs.join("server").display().to_string());
    let client = format!("{} 10.0.0.6:7000", programs.join("client").display());
    let answer = machines.run_soon("A", &client);
    assert!(answer.contains("answered: hello"), "{answer}");

    let client = build_c(&machines.folder, &text_of("c", "client"));
    let answer = machines.run_soon("A", &format!("{} 10.0.0.6", client.display()));
    assert!(answer.contains("answered: hello"), "{answer}");
}

/// Builds both programs as a reader would, in a package of their own; returns the folder that they are in.
fn build_rust(folder: &Path, page: &[Block], server: &str, client: &str) -> PathBuf {
    let manifest =
        page.iter().find(|b| b.language == "toml" && b.has("run")).expect("README.md shows a Cargo.toml");
    let here = root().join("shim-core");
    let local = manifest
        .text
        .replace("git = \"https://github.com/machnet/machnet\"", &format!("path = \"{}\"", here.display()));
    assert_ne!(local, manifest.text, "the Cargo.toml of README.md names the repository");
    fs::create_dir_all(folder.join("src/bin")).expect("writable");
    let package = "[package]\nname = \"reader\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(folder.join("Cargo.toml"), format!("{package}{local}")).expect("writable");
    fs::write(folder.join("src/bin/server.rs"), server).expect("writable");
    fs::write(folder.join("src/bin/client.rs"), client).expect("writable");
    // The versions that the workspace has, so that nothing is fetched.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("writable");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-target");
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(&target)
        .env_remove("RUSTFLAGS")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a cargo");
    let (ok, text) = finish(cargo);
    assert!(ok, "the Rust programs of README.md do not compile:\n{text}");
    target.join("debug")
}

/// Builds the C program against the library of the workspace.
fn build_c(folder: &Path, source: &str) -> PathBuf {
    let (file, program) = (folder.join("client.c"), folder.join("c-client"));
    fs::write(&file, source).expect("writable");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-target");
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--locked", "-p", "machnet-ffi", "--target-dir"])
        .arg(&target)
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a cargo");
    let (ok, text) = finish(cargo);
    assert!(ok, "libmachnet does not build:\n{text}");
    let compiler = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"])
        .arg(&program)
        .arg(&file)
        .arg(format!("-I{}", root().join("ffi/include").display()))
        .arg(target.join("debug/libmachnet.a"))
        .args(["-lpthread", "-ldl", "-lm"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a C compiler");
    let (ok, text) = finish(compiler);
    assert!(ok, "the C program of README.md does not compile:\n{text}");
    program
}

#[test]
fn the_quoted_errors_are_those_of_the_library() {
    let socket = || PathBuf::from("/run/machnet/machnet.sock");
    let peer = "10.0.0.6:7000".parse().expect("an address");
    let address = "10.0.0.9:7000".parse().expect("an address");
    let known = [
        ("NoSidecar", Error::NoSidecar { socket: socket() }),
        ("SocketPermission", Error::SocketPermission { socket: socket() }),
        ("AddressNotLocal", Error::AddressNotLocal { address }),
        ("ConnectTimedOut", Error::ConnectTimedOut { peer, udp_port: 31580 }),
        ("Refused", Error::Refused { peer }),
    ];
    let page = blocks(&readme());
    for (name, error) in &known {
        let block = page.iter().find(|block| block.value("error") == Some(name));
        let block = block.unwrap_or_else(|| panic!("README.md does not quote {name}"));
        assert_eq!(block.text.trim_end(), error.to_string(), "README.md line {}", block.line);
    }
    let quoted = page.iter().filter(|block| block.value("error").is_some()).count();
    assert_eq!(quoted, known.len(), "README.md quotes an error that this test does not know");
}

#[test]
fn every_code_block_says_how_it_is_checked() {
    let steps = fs::read_to_string(root().join("ci/test.sh")).expect("there is a ci/test.sh");
    for block in blocks(&readme()) {
        let known = block.language == "text"
            || block.has("run")
            || ["run", "error", "skip"].iter().any(|name| block.value(name).is_some());
        if let Some(file) = block.value("tested-by") {
            let test = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(test.contains("README.md"), "README.md line {}: {file} does not read it", block.line);
            continue;
        }
        let Some(step) = block.value("elsewhere") else {
            assert!(known, "README.md line {}: the block does not say how it is checked", block.line);
            continue;
        };
        let (_, step) = steps.split_once(&format!("step_{step}() {{")).expect("the step exists");
        let step = step.split("\n}").next().unwrap_or("");
        for command in block.text.lines().filter(|line| !line.starts_with("export ")) {
            assert!(step.contains(command), "README.md line {}: {command} is not run there", block.line);
        }
    }
}

#[test]
fn the_words_of_specialists_come_after_how_it_works() {
    let page = readme();
    let (before, after) = page.split_once("\n## How it works").expect("README.md tells how it works");
    for word in ["kernel bypass", "kernel-bypass", "dpdk", "hugepage", "huge page"] {
        assert!(!before.to_lowercase().contains(word), "`{word}` stands before \"How it works\"");
    }
    let has_rss = before.split(|c: char| !c.is_alphanumeric()).any(|word| word == "RSS");
    assert!(!has_rss && after.contains("RSS"), "RSS is explained, but only there");
}
