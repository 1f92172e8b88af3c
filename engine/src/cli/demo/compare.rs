//! How the paths compare with TCP in this run: ratios, and the sentences made of them. Nothing here knows a result beforehand.

use super::plan::{Path, Results, SIZES};
use super::wires::remedy;
use crate::cli::text::{self, three_digits};
use serde::Serialize;

/// Ratios within this distance of 1 are called equal: less than two runs differ.
const EQUAL_WITHIN: f64 = 0.03;

/// One path beside one kind of TCP, at one size. All ratios: more than 1 is better than TCP.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) path: &'static str,
    pub(crate) beside: &'static str,
    pub(crate) size_bytes: usize,
    /// TCP's median round trip over the path's.
    pub(crate) p50_times_faster: f64,
    /// The same for the 99th percentile.
    pub(crate) p99_times_faster: f64,
    /// The path's throughput over TCP's.
    pub(crate) throughput_times: f64,
}

/// From so many processors on, used by others, the numbers come with a warning.
const NOTABLE_COMPANY: f64 = 0.15;

const COMPARED: [Path; 6] = [Path::Machnet, Path::Packet, Path::Xdp, Path::Memif, Path::SameHost, Path::Udp];
const TCP: [Path; 2] = [Path::TcpBlocking, Path::TcpSpinning];

/// What a path is compared with: those that not everybody can have, briefly.
fn beside(path: Path) -> &'static [Path] {
    if Path::WIRED.contains(&path) { &TCP[..1] } else { &TCP }
}

/// Every comparison that the results allow.
pub(crate) fn comparisons(results: &Results) -> Vec<Comparison> {
    let mut all = Vec::new();
    for path in COMPARED {
        for tcp in beside(path) {
            all.extend(SIZES.into_iter().filter_map(|size| compare(results, path, *tcp, size)));
        }
    }
    all
}

fn compare(results: &Results, path: Path, tcp: Path, size: usize) -> Option<Comparison> {
    let (ours, theirs) = (results.numbers(path, size)?, results.numbers(tcp, size)?);
    let ratio = |over: f64, under: f64| if under > 0.0 { over / under } else { f64::INFINITY };
    Some(Comparison {
        path: path.name(),
        beside: tcp.name(),
        size_bytes: size,
        p50_times_faster: ratio(theirs.latency_us.p50, ours.latency_us.p50),
        p99_times_faster: ratio(theirs.latency_us.p99, ours.latency_us.p99),
        throughput_times: ratio(ours.messages_per_second, theirs.messages_per_second),
    })
}

/// The sentences below the table.
pub(crate) fn sentences(results: &Results) -> Vec<String> {
    let all = comparisons(results);
    // First of all, whether the numbers are worth reading.
    let mut sentences = company(results);
    for path in COMPARED {
        for &tcp in beside(path) {
            let of: Vec<&Comparison> =
                all.iter().filter(|c| c.path == path.name() && c.beside == tcp.name()).collect();
            if of.is_empty() {
                continue;
            }
            let list = |ratio: fn(&Comparison) -> f64, words| {
                let each =
                    |c: &&Comparison| format!("{} {}", text::bytes(c.size_bytes), verdict(ratio(c), words));
                of.iter().map(each).collect::<Vec<_>>().join(", ")
            };
            sentences.push(format!(
                "{} beside {}: at p50 {}; at p99 {}.",
                path.name(),
                tcp.name(),
                list(|c| c.p50_times_faster, ("faster", "slower")),
                list(|c| c.p99_times_faster, ("faster", "slower")),
            ));
            if tcp == Path::TcpBlocking && path != Path::Udp && !Path::WIRED.contains(&path) {
                sentences.push(format!(
                    "Throughput of {} beside {}: {}.",
                    path.name(),
                    tcp.name(),
                    list(|c| c.throughput_times, ("more", "less"))
                ));
            }
        }
    }
    sentences.extend(facts(results));
    sentences
}

/// `1.8x faster`, `1.2x slower`, `equal`.
fn verdict(ratio: f64, (better, worse): (&str, &str)) -> String {
    match ratio {
        r if (r - 1.0).abs() <= EQUAL_WITHIN => "equal".to_owned(),
        r if r > 1.0 => format!("{}x {better}", three_digits(r)),
        r => format!("{}x {worse}", three_digits(1.0 / r)),
    }
}

/// What the rows mean, and what this machine and this run do to them.
fn facts(results: &Results) -> Vec<String> {
    let mut facts = vec![
        format!(
            "The row for a rented virtual machine is `{}`: it needs no special network card and no rights. Between two \
             machines the network's own time is added to it as to TCP and UDP.",
            Path::Machnet.name()
        ),
        format!(
            "`{}` still goes through the kernel's network stack, packet by packet, as TCP does; `{}` and `{}` pass most of it by, \
             and `{}` all of it: what its row shows is Machnet itself, between two processes that share memory instead of a \
             network.",
            Path::Machnet.name(),
            Path::Packet.name(),
            Path::Xdp.name(),
            Path::Memif.name()
        ),
        format!(
            "`{}` is for two applications of one machine: their sidecar copies from one to the other, and no packet is made.",
            Path::SameHost.name()
        ),
    ];
    // Client, server and two sidecars.
    const BUSY: usize = 4;
    if results.processors < BUSY {
        facts.push(format!(
            "This machine has {} processors for the {BUSY} processes of `{}` (client, two sidecars, server), so they wait for \
             each other; TCP's work is done by its two processes and the kernel.",
            results.processors,
            Path::Machnet.name()
        ));
    }
    for (path, reason) in &results.absent {
        let reason = reason.trim_end_matches('.');
        facts.push(format!("`{}` was not measured: {reason}. What helps: {}.", path.name(), remedy(*path)));
    }
    let lost: u64 = SIZES.iter().filter_map(|&size| results.numbers(Path::Udp, size)).map(|n| n.lost).sum();
    if lost > 0 {
        facts.push(format!("{} lost {lost} messages in this run; nobody repeats them.", Path::Udp.name()));
    }
    facts
}

/// A warning, if somebody else used a good part of a processor.
fn company(results: &Results) -> Vec<String> {
    let company = results.company;
    let mut warnings = Vec::new();
    if company.programs >= NOTABLE_COMPANY {
        warnings.push(format!(
            "Other programs used {:.1} of the {} processors on average during this run, so it says little: every path waits \
             for them, those that do not sleep most. Try again when the machine is quiet.",
            company.programs, results.processors
        ));
    }
    if company.machines >= NOTABLE_COMPANY {
        warnings.push(format!(
            "The host below this virtual machine kept {:.1} of its {} processors for others during this run.",
            company.machines, results.processors
        ));
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::company::Company;
    use super::super::plan::{Cell, Found, Numbers};
    use super::*;
    use crate::cli::bench::summary::Summary;
    use std::time::Duration;

    /// Results in which every number follows from `micros`.
    pub(crate) fn results(micros: impl Fn(Path, usize) -> f64) -> Results {
        let mut cells = Vec::new();
        for size in SIZES {
            for path in Path::ALL {
                let p50 = micros(path, size);
                let found = match path.excuse(size) {
                    Some(reason) => Found::NotMeasured(reason),
                    None => Found::Measured(Numbers {
                        latency_us: Summary { p50, p99: 2.0 * p50, ..Summary::default() },
                        messages_per_second: 1e6 / p50,
                        megabytes_per_second: 64.0 / p50,
                        lost: 0,
                    }),
                };
                cells.push(Cell { path, size, found });
            }
        }
        Results {
            cells,
            absent: Vec::new(),
            engines: 1,
            processors: 2,
            company: Company::default(),
            took: Duration::from_secs(25),
        }
    }

    #[test]
    fn the_sentences_follow_the_numbers_in_both_directions() {
        let fast = results(|path, _| if path == Path::Machnet { 10.0 } else { 20.0 });
        let text = sentences(&fast).join("\n");
        assert!(text.contains(
            "machnet udp beside kernel TCP, blocking: at p50 64 B 2.00x faster, 1 kB 2.00x faster"
        ));
        assert!(text.contains("machnet same host beside kernel TCP, blocking: at p50 64 B equal"));
        let slow = results(|path, _| if path == Path::Machnet { 50.0 } else { 20.0 });
        let text = sentences(&slow).join("\n");
        assert!(text.contains("machnet udp beside kernel TCP, spinning: at p50 64 B 2.50x slower"), "{text}");
        assert!(text.contains("Throughput of machnet udp beside kernel TCP, blocking: 64 B 2.50x less"));
        assert!(!text.contains("faster"));
    }

    #[test]
    fn a_busy_machine_is_named_as_such() {
        let mut run = results(|_, _| 10.0);
        assert!(!sentences(&run).join("\n").contains("says little"));
        run.company = Company { programs: 1.27, machines: 0.2 };
        let text = sentences(&run).join("\n");
        assert!(
            text.contains("Other programs used 1.3 of the 2 processors")
                && text.contains("kept 0.2 of its 2")
        );
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        let some = comparisons(&results(|_, _| 10.0));
        assert!(!some.iter().any(|c| c.path == Path::Udp.name() && c.size_bytes == 8 << 20));
        assert_eq!(some.len(), 2 * (4 + 4 + 3) + 3 * 4);
    }
}
