//! Runs seeds on several threads and tells what came of them.

use crate::kinds::KINDS;
use crate::mutant::Mutant;
use crate::oracle::Violation;
use crate::report::Totals;
use crate::scenario::Scenario;
use crate::world::{Outcome, Watch, run};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Seeds between two lines of progress.
const PROGRESS: u64 = 1_000;

/// The command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) first_seed: u64,
    pub(crate) seeds: Option<u64>,
    pub(crate) jobs: u64,
    pub(crate) kind: Option<String>,
    pub(crate) trace: bool,
    pub(crate) list: bool,
    /// Where to write a capture of the datagrams.
    pub(crate) pcap: Option<String>,
    /// Goes on after a violation and tells them all.
    pub(crate) keep_going: bool,
    /// What `cargo test` was asked for by name.
    pub(crate) filter: Option<String>,
}

impl Options {
    /// Reads arguments and environment. Flags of the usual test harness are taken and ignored.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let jobs = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let mut options = Self { jobs, ..Self::default() };
        let mut seed = std::env::var("SIM_SEED").ok();
        options.trace = std::env::var("SIM_TRACE").is_ok_and(|value| value == "1");
        while let Some(argument) = arguments.next() {
            let mut value = |name: &str| arguments.next().ok_or_else(|| format!("{name} needs a value"));
            match argument.as_str() {
                "--seeds" => options.seeds = Some(number(&value("--seeds")?)?),
                "--seed" => {
                    seed = Some(value("--seed")?);
                    options.seeds = options.seeds.or(Some(1));
                }
                "--jobs" => options.jobs = number(&value("--jobs")?)?.clamp(1, 256),
                "--kind" => options.kind = Some(value("--kind")?),
                "--trace" => options.trace = true,
                "--pcap" => options.pcap = Some(value("--pcap")?),
                "--list" => options.list = true,
                "--keep-going" => options.keep_going = true,
                "--test-threads" | "--skip" | "--format" | "--color" => drop(value(&argument)?),
                flag if flag.starts_with('-') => {}
                name => options.filter = Some(name.to_owned()),
            }
        }
        if let Some(kind) = &options.kind
            && !KINDS.iter().any(|(name, _)| name == kind)
        {
            return Err(format!("there is no kind {kind}; --list names them"));
        }
        if options.pcap.is_some() && options.seeds != Some(1) {
            return Err("--pcap is for one --seed".to_owned());
        }
        options.first_seed = match seed {
            Some(text) => number(&text)?,
            None => u64::from(getrandom::u32().map_err(|error| error.to_string())?),
        };
        Ok(options)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are findings; the runner prints them itself.
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        LAST_PANIC.with(|last| last.replace(text));
    }));
}

/// Runs one scenario; a panic becomes a violation.
pub(crate) fn run_caught(scenario: Scenario, mutant: Mutant, watch: Watch) -> Outcome {
    let kind = scenario.kind;
    catch_unwind(AssertUnwindSafe(|| run(scenario, mutant, watch))).unwrap_or_else(|_| {
        let text = LAST_PANIC.with(RefCell::take);
        let violation = Some(Violation { rule: "panic", text, at_ns: 0 });
        Outcome { kind, violation, hash: 0, totals: Totals { seeds: 1, ..Totals::default() }, pcap: None }
    })
}

fn tell(options: &Options, seed: u64, outcome: &Outcome, violation: &Violation) {
    let kind = options.kind.as_ref().map_or_else(String::new, |kind| format!(" --kind {kind}"));
    println!("sim: VIOLATION in seed {seed}, kind {}, at {} us", outcome.kind, violation.at_ns / 1_000);
    println!("sim:   {}: {}", violation.rule, violation.text);
    println!("sim:   commit: {}", commit());
    println!("sim:   repeat: cargo test -p machnet-engine --test sim -- --seed {seed}{kind} --trace");
}

/// What is being tested, for whoever repeats it.
fn commit() -> String {
    let asked = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let told = asked.ok().filter(|output| output.status.success());
    told.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Runs `count` seeds from the first one on.
pub(crate) fn run_seeds(options: &Options, count: u64) -> Result<Totals, ()> {
    println!("sim: SIM_SEED={} {count} seeds on {} threads", options.first_seed, options.jobs);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let watch = Watch { printing: options.trace, pcap: options.pcap.is_some() };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || (failed.load(Ordering::Relaxed) && !options.keep_going) {
                        return;
                    }
                    let seed = options.first_seed.wrapping_add(index);
                    let scenario = Scenario::new(seed, options.kind.as_deref());
                    let outcome = run_caught(scenario, Mutant::none(), watch);
                    if let (Some(path), Some(bytes)) = (&options.pcap, &outcome.pcap) {
                        std::fs::write(path, bytes).expect("the capture can be written");
                    }
                    let mut totals = totals.lock().unwrap();
                    totals.add(&outcome.totals);
                    if let Some(violation) = &outcome.violation {
                        failed.store(true, Ordering::Relaxed);
                        tell(options, seed, &outcome, violation);
                    }
                    if totals.seeds % PROGRESS == 0 {
                        println!("sim: {} of {count} seeds, {} datagrams", totals.seeds, totals.datagrams);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap();
    let lines: Vec<String> = totals.list().iter().map(|(name, value)| format!("{name} {value}")).collect();
    println!("sim: {}", lines.join(", "));
    if failed.load(Ordering::Relaxed) {
        return Err(());
    }
    println!("sim: {} seeds without a violation", totals.seeds);
    Ok(totals)
}
