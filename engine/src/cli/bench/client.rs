//! `machnet bench client`: connects, loads every connection on a thread of its own, adds up.

use super::kernel::{TcpLink, UdpLink};
use super::link::{Link, MachnetLink};
use super::load::{self, Load, Measured, Pace};
use super::summary::{Report, Summary, new_histogram};
use super::{ClientArguments, DEFAULT_PORT, MAX_UDP_MESSAGE, Over};
use crate::cli::peer::{Wait, resolve};
use crate::cli::{Exit, Failure, Outcome, clock, complain, say, sys, text};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(super) fn run(arguments: &ClientArguments) -> Outcome {
    let peer = resolve(&arguments.peer, DEFAULT_PORT)?;
    let mut links = connect(arguments, peer)?;
    let progress = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        if arguments.progress || std::io::stderr().is_terminal() {
            scope.spawn(|| show_progress(&progress, &is_over));
        }
        let count = links.len();
        let workers: Vec<_> = links
            .iter_mut()
            .enumerate()
            .map(|(index, link)| {
                let load = load_of(arguments, index, count);
                let progress = &progress;
                scope.spawn(move || {
                    sys::sleep_exactly();
                    load::run(link.as_mut(), load, progress)
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|_| Err(Failure::new(Exit::Failed, "a thread panicked"))))
            .collect::<Outcome<Vec<Measured>>>()
    })?;
    let report = add_up(arguments, peer, &measured);
    if arguments.common.json {
        let json = serde_json::to_string(&report).map_err(anyhow::Error::from)?;
        say(json);
    } else {
        print(&report);
    }
    match report.damaged {
        0 => Ok(()),
        damaged => Err(Failure::new(Exit::Failed, format!("{damaged} answers were not what was sent"))),
    }
}

fn connect(arguments: &ClientArguments, peer: SocketAddr) -> Outcome<Vec<Box<dyn Link>>> {
    let common = &arguments.common;
    let spins = common.wait == Wait::Spin;
    let connections = 0..arguments.connections;
    match common.over {
        Over::Machnet => {
            let options = common.attach.options("machnet bench client").wait_policy(common.wait.policy());
            let attachment = options.attach()?;
            let link = |_| -> Outcome<Box<dyn Link>> {
                let flow = attachment.connect_timeout(peer, None, None)?;
                Ok(Box::new(MachnetLink::new(flow, arguments.size)?))
            };
            connections.map(link).collect()
        }
        Over::Tcp => connections
            .map(|_| Ok(Box::new(TcpLink::connect(peer, arguments.size, spins)?) as Box<dyn Link>))
            .collect(),
        Over::Udp if arguments.size > MAX_UDP_MESSAGE => {
            let text =
                format!("a UDP datagram carries at most {MAX_UDP_MESSAGE} bytes, not {}", arguments.size);
            Err(Failure::new(Exit::Usage, text))
        }
        Over::Udp => connections
            .map(|_| Ok(Box::new(UdpLink::connect(peer, arguments.size, spins)?) as Box<dyn Link>))
            .collect(),
    }
}

/// The load of connection `index` of `count`: in the open loop they share the rate and take turns.
fn load_of(arguments: &ClientArguments, index: usize, count: usize) -> Load {
    #[expect(clippy::cast_precision_loss, reason = "at most 256 connections")]
    let pace = match arguments.rate {
        Some(rate) => Pace::Open {
            per_second: rate / count as f64,
            offset: Duration::from_secs_f64(index as f64 / rate),
        },
        None => Pace::Closed { window: arguments.window },
    };
    let duration = match (arguments.seconds, arguments.count) {
        (None, None) => Some(DEFAULT_DURATION),
        (given, _) => given,
    };
    Load {
        pace,
        spins: arguments.common.wait == Wait::Spin,
        warm_up: arguments.warm_up,
        count: arguments.count,
        duration,
    }
}

fn add_up(arguments: &ClientArguments, peer: SocketAddr, all: &[Measured]) -> Report {
    let mut latency = new_histogram();
    for one in all {
        // Both have the same bounds.
        let _ = latency.add(&one.latency);
    }
    let messages: u64 = all.iter().map(|one| one.messages).sum();
    let elapsed = all.iter().map(|one| one.elapsed).max().unwrap_or_default().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with few digits")]
    let messages_per_second = if elapsed > 0.0 { messages as f64 / elapsed } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "at most 8 MiB")]
    let megabytes = arguments.size as f64 / 1e6;
    Report {
        over: arguments.common.over.name().to_owned(),
        peer: peer.to_string(),
        size_bytes: arguments.size,
        connections: all.len(),
        window: arguments.rate.is_none().then_some(arguments.window),
        rate: arguments.rate,
        seconds: elapsed,
        messages,
        lost: all.iter().map(|one| one.lost).sum(),
        damaged: all.iter().map(|one| one.damaged).sum(),
        messages_per_second,
        megabytes_per_second: messages_per_second * megabytes,
        latency_us: Summary::of(&latency),
    }
}

fn print(report: &Report) {
    let pace = match (report.rate, report.window) {
        (Some(rate), _) => format!("{} messages/s intended", text::rate(rate)),
        (None, window) => format!("at most {} unanswered", window.unwrap_or(1)),
    };
    let connections = if report.connections == 1 { "1 connection" } else { "connections" };
    let count = if report.connections == 1 { String::new() } else { format!("{} ", report.connections) };
    say(format_args!(
        "{} to {}: {} messages, {count}{connections}, {pace}",
        report.over,
        report.peer,
        text::bytes(report.size_bytes)
    ));
    let latency = report.latency_us;
    let from = if report.rate.is_some() { "  (from the intended time of sending)" } else { "" };
    say(format_args!(
        "  round trip    p50 {:.1} us, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}{from}",
        latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    ));
    say(format_args!(
        "  throughput    {} messages/s, {} MB/s each way",
        text::rate(report.messages_per_second),
        text::three_digits(report.megabytes_per_second)
    ));
    say(format_args!(
        "  counted       {} answered, {} lost, {} damaged, in {:.2} s",
        report.messages, report.lost, report.damaged, report.seconds
    ));
}

/// A line on standard error that is written anew: on a terminal in its place, else below.
fn show_progress(progress: &AtomicU64, is_over: &AtomicBool) {
    let in_place = std::io::stderr().is_terminal();
    let started = clock::now();
    let mut shown_at = started;
    let mut before = 0;
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        let now = clock::now();
        if now.duration_since(shown_at) < PROGRESS_EVERY {
            continue;
        }
        let count = progress.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a rate is shown with few digits")]
        let per_second = (count - before) as f64 / now.duration_since(shown_at).as_secs_f64();
        let line = format!(
            "{:5.1} s: {count} answered, {} messages/s",
            now.duration_since(started).as_secs_f64(),
            text::rate(per_second)
        );
        if in_place {
            let _ = write!(std::io::stderr(), "\r{line:<60}");
        } else {
            complain(line);
        }
        (shown_at, before) = (now, count);
    }
    if in_place {
        let _ = write!(std::io::stderr(), "\r{:<60}\r", "");
    }
}
