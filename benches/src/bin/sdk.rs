//! What each language adds to C (figures 18 and 19): the same clients in each, beside what their users would otherwise take.
//!
//! One thread on the first processor is the sidecar's engine and the server at once; the client is alone on the second. So
//! never more threads spin than there are processors, and all clients meet the same server. A client is a program that
//! benches/sdk/build.sh makes and benches/sdk/README.md describes. In each start every client has its turn, C before each other
//! language: ratios and differences are taken within a start, and the figures are their medians.

use machnet_benches::echo::{self, Echo, Pipes};
use machnet_benches::rig::{self, Rig};
use machnet_benches::roles::{self, Ended, Role};
use machnet_benches::stats::median;
use machnet_benches::{cpu, figure};
use machnet_engine::driver::memory::MemoryDriver;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CLIENT: &str = "client";
const SERVER: &str = "server";
const STARTS: usize = 5;
/// No measure takes so long.
const LONGEST: Duration = Duration::from_secs(60);
/// What a client answers to something that its language does not have.
const NOT_HERE: i32 = 3;
const ECHO_PORT: u16 = 7000;
const TICKER_PORT: u16 = 7001;

/// What carries the messages of an API.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Machnet,
    Tcp,
    Zmq,
}

struct Api {
    name: &'static str,
    shown: &'static str,
    over: Over,
    /// Whether it waits by its runtime, whose own wake-up is measured beside it.
    is_async: bool,
}

struct Language {
    name: &'static str,
    apis: &'static [Api],
}

const fn machnet(name: &'static str, shown: &'static str, is_async: bool) -> Api {
    Api { name, shown, over: Over::Machnet, is_async }
}

const fn tcp(shown: &'static str) -> Api {
    Api { name: "net", shown, over: Over::Tcp, is_async: false }
}

const LANGUAGES: [Language; 5] = [
    Language { name: "c", apis: &[machnet("sync", "C", false)] },
    Language {
        name: "python",
        apis: &[
            machnet("sync", "Python", false),
            machnet("async", "Python, machnet.aio", true),
            tcp("  asyncio streams, TCP"),
            Api { name: "zmq", shown: "  pyzmq, TCP", over: Over::Zmq, is_async: false },
        ],
    },
    Language {
        name: "go",
        apis: &[
            machnet("sync", "Go, Flow", true),
            machnet("stream", "Go, net.Conn over Machnet", false),
            tcp("  Go net, TCP"),
        ],
    },
    Language {
        name: "node",
        apis: &[
            machnet("sync", "Node, try calls", false),
            machnet("async", "Node, promises", true),
            tcp("  node:net, TCP"),
        ],
    },
    Language {
        name: "csharp",
        apis: &[
            machnet("sync", "C#", false),
            machnet("async", "C#, ValueTask", true),
            tcp("  .NET sockets, TCP"),
        ],
    },
];

/// One thing that is measured.
struct Measure {
    /// By this the table is found again.
    name: &'static str,
    /// What the client is told.
    command: &'static str,
    bytes: u32,
    window: u32,
    warm_up: u32,
    count: u32,
    pause_us: u32,
}

const SMALL: u32 = 64;
const LARGE: u32 = 32 * 1024;

const LATENCY: Measure = measure("latency", "latency", SMALL, 1, 1_000, 8_000);
const RATE: Measure = measure("rate", "window", SMALL, 32, 4_000, 40_000);
const LARGE_LATENCY: Measure = measure("latency32k", "latency", LARGE, 1, 1_000, 8_000);
const LARGE_RATE: Measure = measure("rate32k", "window", LARGE, 8, 1_000, 8_000);
/// The pause is ten times what the server takes for a batch.
const CALLS: Measure = Measure { pause_us: 150, ..measure("calls", "calls", SMALL, 32, 200, 1_500) };
/// So long apart that the client sleeps meanwhile.
const WAKE_UP: Measure = Measure { pause_us: 500, ..measure("wakeup", "wakeup", 16, 1, 100, 700) };
/// The same of the bare runtime.
const PIPE: Measure = Measure { name: "pipe", ..WAKE_UP };

const MEASURES: [&Measure; 7] = [&LATENCY, &RATE, &LARGE_LATENCY, &LARGE_RATE, &CALLS, &WAKE_UP, &PIPE];

const fn measure(
    name: &'static str,
    command: &'static str,
    bytes: u32,
    window: u32,
    warm_up: u32,
    count: u32,
) -> Measure {
    Measure { name, command, bytes, window, warm_up, count, pause_us: 0 }
}

fn main() -> io::Result<()> {
    match roles::role() {
        Some((role, arguments)) if role == CLIENT => Err(become_program(&arguments, 1)),
        Some((role, arguments)) if role == SERVER => Err(become_program(&arguments, 0)),
        Some((role, _)) => Err(io::Error::other(format!("there is no role {role}"))),
        None if std::env::args().nth(1).as_deref() == Some("--serve") => serve(),
        None => compare(&Options::of_command_line()?),
    }
}

/// Engine and server alone, to try or to profile a client by hand, until the standard input ends.
fn serve() -> io::Result<()> {
    let mut start = Start::new()?;
    let host = rig::ADDRESS.split(':').next().unwrap_or_default();
    println!("--socket {} --at {host}:{ECHO_PORT}", text(start.rig.socket())?);
    echo::beside_engine(&mut start.rig, &mut start.server, || io::copy(&mut io::stdin(), &mut io::sink()))
        .map(|_| ())
}

/// Becomes another program, on one processor, which the kernel ends when the bench dies. Answers why it could not.
fn become_program(arguments: &[String], processor: usize) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    cpu::pin(&cpu::available(), processor);
    match arguments {
        [program, arguments @ ..] => Command::new(program).args(arguments).exec(),
        [] => io::Error::other("the role takes a program"),
    }
}

/// What is left out, to try out a client: `--languages c,go`, `--measures calls,wakeup`, `--starts 1`.
struct Options {
    languages: Option<Vec<String>>,
    measures: Option<Vec<String>>,
    starts: usize,
}

impl Options {
    fn of_command_line() -> io::Result<Self> {
        let mut options = Self { languages: None, measures: None, starts: STARTS };
        let mut arguments = std::env::args().skip(1);
        let list = |value: String| Some(value.split(',').map(str::to_owned).collect());
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            match name.as_str() {
                "--languages" => options.languages = list(value),
                "--measures" => options.measures = list(value),
                "--starts" => options.starts = value.parse().map_err(io::Error::other)?,
                _ => {
                    let usage = "options: --languages c,go  --measures calls,wakeup  --starts 1";
                    return Err(io::Error::other(usage));
                }
            }
        }
        Ok(options)
    }
}

fn is_chosen(names: Option<&Vec<String>>, name: &str) -> bool {
    names.is_none_or(|names| names.iter().any(|chosen| chosen == name))
}

/// Where benches/sdk/build.sh put the clients.
fn program_of(language: &str) -> io::Result<PathBuf> {
    let folder = match std::env::var_os("MACHNET_SDK_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()?.with_file_name("").join("../sdk"),
    };
    Ok(folder.join(language))
}

/// What was measured: by language, API, measure and the key of the client's answer, one number for each start.
#[derive(Default)]
struct Found(BTreeMap<(&'static str, &'static str, &'static str, String), Vec<f64>>);

impl Found {
    fn starts(&self, language: &'static str, api: &'static str, of: &Measure, key: &str) -> &[f64] {
        self.0.get(&(language, api, of.name, key.to_owned())).map_or(&[], Vec::as_slice)
    }

    fn middle(&self, language: &'static str, api: &'static str, of: &Measure, key: &str) -> Option<f64> {
        let starts = self.starts(language, api, of, key);
        (!starts.is_empty()).then(|| median(starts))
    }
}

fn compare(options: &Options) -> io::Result<()> {
    let mut languages = Vec::new();
    for language in LANGUAGES.iter().filter(|language| is_chosen(options.languages.as_ref(), language.name)) {
        let program = program_of(language.name)?;
        if program.exists() {
            languages.push((language, program));
        } else {
            println!("SKIPPED {}: its client was not built (benches/sdk/build.sh)", language.name);
        }
    }
    let mut found = Found::default();
    let mut skipped = BTreeMap::new();
    for _ in 0..options.starts {
        let mut start = Start::new()?;
        for of in MEASURES.iter().filter(|of| is_chosen(options.measures.as_ref(), of.name)) {
            for (language, program) in &languages {
                for api in language.apis.iter().filter(|api| applies(api, of)) {
                    match start.measure(program, api, of)? {
                        Outcome::Measured(numbers) => {
                            for (key, number) in numbers {
                                found
                                    .0
                                    .entry((language.name, api.name, of.name, key))
                                    .or_default()
                                    .push(number);
                            }
                        }
                        Outcome::NotHere => {
                            skipped.entry((language.name, api.name)).or_insert(of.name);
                        }
                    }
                }
            }
        }
    }
    for ((language, api), measure) in skipped {
        println!("SKIPPED {language} {api} {measure}: the client says that it does not have it (see above)");
    }
    let shown: Vec<&Language> = languages.iter().map(|(language, _)| *language).collect();
    print(&found, &shown, options.starts);
    figures(&found);
    Ok(())
}

fn applies(api: &Api, of: &Measure) -> bool {
    match of.name {
        "calls" => api.over == Over::Machnet && api.name != "stream",
        "wakeup" => api.over == Over::Machnet && (api.is_async || api.name == "sync"),
        "pipe" => api.is_async,
        _ => true,
    }
}

enum Outcome {
    Measured(Vec<(String, f64)>),
    NotHere,
}

/// A sidecar with its server, and pipes, for the clients of one start.
struct Start {
    rig: Rig<MemoryDriver>,
    server: Echo,
    pipes: Pipes,
    directory: PathBuf,
}

impl Start {
    fn new() -> io::Result<Self> {
        let directory = rig::scratch_directory()?;
        let mut rig = Rig::loop_back();
        let server = rig.while_running(|options| Echo::open(options, ECHO_PORT, TICKER_PORT));
        Ok(Self { rig, server, pipes: Pipes::new(&directory)?, directory })
    }

    fn measure(&mut self, program: &Path, api: &Api, of: &Measure) -> io::Result<Outcome> {
        let socket = text(self.rig.socket())?;
        let run = |at: &str, pipe: Option<&str>| {
            let numbers =
                [of.bytes, of.window, of.warm_up, of.count, of.pause_us].map(|number| number.to_string());
            let mut arguments = vec![text(program)?, api.name.into(), of.command.into()];
            let names = ["--bytes", "--window", "--warm-up", "--count", "--pause-us"];
            for (name, value) in names.into_iter().zip(numbers) {
                arguments.extend([name.to_owned(), value]);
            }
            arguments.extend(["--socket".into(), socket.clone(), "--at".into(), at.into()]);
            arguments.extend(pipe.into_iter().flat_map(|pipe| ["--pipe".to_owned(), pipe.to_owned()]));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            outcome(Role::start(CLIENT, &arguments, true)?, &arguments)
        };
        let host = rig::ADDRESS.split(':').next().unwrap_or_default();
        let port = if of.name == WAKE_UP.name { TICKER_PORT } else { ECHO_PORT };
        if of.name == PIPE.name {
            let path = text(self.pipes.path())?;
            let pause = Duration::from_micros(of.pause_us.into());
            return self.pipes.beside(of.count.into(), pause, || run("127.0.0.1:1", Some(&path)));
        }
        match api.over {
            Over::Machnet => {
                echo::beside_engine(&mut self.rig, &mut self.server, || run(&format!("{host}:{port}"), None))
            }
            Over::Tcp => echo::beside_tcp(|at| run(&at.to_string(), None))?,
            Over::Zmq => {
                // It says where it serves.
                let mut server = Role::start(SERVER, &[&text(program)?, "zmq", "serve"], true)?;
                let at = server.line();
                at.map_or(Ok(Outcome::NotHere), |at| run(at.trim(), None))
            }
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

fn text(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("a path in UTF-8"))
}

/// Waits for a client's end and takes what it found.
fn outcome(client: Role, arguments: &[&str]) -> io::Result<Outcome> {
    let Ended { output, code } = client.end_within(LONGEST)?;
    if code == Some(NOT_HERE) {
        return Ok(Outcome::NotHere);
    }
    let wrong =
        || io::Error::other(format!("{} ended with {code:?} and said {output:?}", arguments.join(" ")));
    if code != Some(0) {
        return Err(wrong());
    }
    let answer: BTreeMap<String, serde_json::Value> = serde_json::from_str(&output).map_err(|_| wrong())?;
    let numbers = answer.into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?)));
    Ok(Outcome::Measured(numbers.collect()))
}

fn print(found: &Found, languages: &[&Language], starts: usize) {
    println!(
        "Engine and server on one processor, the client alone on the other; medians of {starts} starts."
    );
    println!(
        "                                 64 B, one by one    window 32   32 KiB, one by one   window 8"
    );
    println!("                               p50 us    p99 us     K msgs/s    p50 us    p99 us       MB/s");
    for (language, api) in rows(languages) {
        let middle = |of: &Measure, key: &str| found.middle(language, api.name, of, key);
        println!(
            "{:<29}{}{}{}{}{}{}",
            api.shown,
            cell(middle(&LATENCY, "p50_ns").map(|ns| ns / 1e3), 8, 1),
            cell(middle(&LATENCY, "p99_ns").map(|ns| ns / 1e3), 10, 1),
            cell(middle(&RATE, "messages_per_second").map(|rate| rate / 1e3), 13, 0),
            cell(middle(&LARGE_LATENCY, "p50_ns").map(|ns| ns / 1e3), 10, 1),
            cell(middle(&LARGE_LATENCY, "p99_ns").map(|ns| ns / 1e3), 10, 1),
            cell(middle(&LARGE_RATE, "messages_per_second").map(|rate| rate * f64::from(LARGE) / 1e6), 11, 0),
        );
    }
    println!();
    println!(
        "Calls of 64 B when nothing has to be waited for: ns for one send and one receive, and how much more than C."
    );
    println!(
        "                                 single     added    (each start)    32 a time     added    (each start)      late"
    );
    for (language, api) in rows(languages).filter(|(_, api)| applies(api, &CALLS)) {
        let middle = |key: &str| found.middle(language, api.name, &CALLS, key);
        let more = |key: &str| added(found, language, api.name, key);
        println!(
            "{:<29}{}{}{:>16}{}{}{:>16}{}",
            api.shown,
            cell(middle("single_ns"), 10, 1),
            cell(median_of(&more("single_ns")), 10, 1),
            spread(&more("single_ns")),
            cell(middle("batched_ns"), 13, 1),
            cell(median_of(&more("batched_ns")), 10, 1),
            spread(&more("batched_ns")),
            cell(middle("late"), 10, 0),
        );
    }
    println!();
    println!("From a send to where a sleeping receiver goes on, beside a bare pipe of the same runtime.");
    println!("                               p50 us    p99 us   pipe p50    pipe p99   over the pipe");
    for (language, api) in rows(languages).filter(|(_, api)| applies(api, &WAKE_UP)) {
        let middle = |of: &Measure, key: &str| found.middle(language, api.name, of, key).map(|ns| ns / 1e3);
        println!(
            "{:<29}{}{}{}{}{}",
            api.shown,
            cell(middle(&WAKE_UP, "p50_ns"), 8, 1),
            cell(middle(&WAKE_UP, "p99_ns"), 10, 1),
            cell(middle(&PIPE, "p50_ns"), 11, 1),
            cell(middle(&PIPE, "p99_ns"), 12, 1),
            cell(median_of(&over_pipe(found, language, api.name)), 16, 2),
        );
    }
}

fn rows<'a>(languages: &'a [&'a Language]) -> impl Iterator<Item = (&'static str, &'static Api)> + 'a {
    languages.iter().flat_map(|language| language.apis.iter().map(|api| (language.name, api)))
}

fn cell(value: Option<f64>, width: usize, digits: usize) -> String {
    match value {
        Some(value) => format!("{value:>width$.digits$}"),
        None => format!("{:>width$}", "-"),
    }
}

/// What `of` makes of two series, start by start.
fn paired(left: &[f64], right: &[f64], of: fn(f64, f64) -> f64) -> Vec<f64> {
    left.iter().zip(right).map(|(&left, &right)| of(left, right)).collect()
}

/// The middle one, if there is any.
fn median_of(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

/// Least and most, as a table shows them.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    least.zip(most).map_or_else(String::new, |(least, most)| format!("{least:.0} to {most:.0}"))
}

/// What a language adds to C, in nanoseconds a message, in each start.
fn added(found: &Found, language: &'static str, api: &'static str, key: &str) -> Vec<f64> {
    if language == "c" {
        return Vec::new();
    }
    let starts = |language, api| found.starts(language, api, &CALLS, key);
    paired(starts(language, api), starts("c", "sync"), |ours, of_c| ours - of_c)
}

fn over_pipe(found: &Found, language: &'static str, api: &'static str) -> Vec<f64> {
    let starts = |of| found.starts(language, api, of, "p50_ns");
    paired(starts(&WAKE_UP), starts(&PIPE), |ours, bare| ours / bare)
}

fn figures(found: &Found) {
    let say = |name: &str, starts: Vec<f64>| {
        if let Some(value) = median_of(&starts) {
            figure(name, value);
        }
    };
    println!();
    let over_c = |of, key| {
        paired(found.starts("go", "sync", of, key), found.starts("c", "sync", of, key), |go, c| go / c)
    };
    say("go-p99-over-c-32k", over_c(&LARGE_LATENCY, "p99_ns"));
    say("go-throughput-over-c-32k", over_c(&LARGE_RATE, "messages_per_second"));
    for language in ["python", "node", "csharp"] {
        say(&format!("{language}-added-ns"), added(found, language, "sync", "single_ns"));
        if language != "csharp" {
            say(&format!("{language}-batched-added-ns"), added(found, language, "sync", "batched_ns"));
        }
    }
    for (language, api) in [("python", "async"), ("go", "sync"), ("node", "async"), ("csharp", "async")] {
        say(&format!("{language}-async-over-raw-wakeup"), over_pipe(found, language, api));
    }
}
