//! The demo's table and JSON.

use super::compare::{comparisons, sentences};
use super::plan::{Found, Results, SIZES, THROUGHPUT_WINDOW};
use crate::cli::text::{self, Align, Table, three_digits};

/// Widest line.
const COLUMNS: usize = 100;

/// The table and, below it, what it says.
pub(crate) fn text(results: &Results) -> String {
    let mut table = Table::new(&[
        ("message", Align::Left),
        ("path", Align::Left),
        ("p50", Align::Right),
        ("p99", Align::Right),
        ("messages/s", Align::Right),
        ("MB/s", Align::Right),
    ]);
    let mut size = 0;
    for cell in &results.cells {
        let mut first = String::new();
        if cell.size != size {
            size = cell.size;
            first = text::bytes(size);
            table.gap();
        }
        let mut row = vec![first, cell.path.name().to_owned()];
        match &cell.found {
            Found::Measured(numbers) => row.extend([
                micros(numbers.latency_us.p50),
                micros(numbers.latency_us.p99),
                text::rate(numbers.messages_per_second),
                three_digits(numbers.megabytes_per_second),
            ]),
            Found::NotMeasured(reason) => row.push(reason.clone()),
        }
        table.row(row);
    }
    let mut out = format!(
        "Round trips between two processes on this machine ({} processors{}), measured in {:.0} s.\n\
         p50, p99: half of the answers, 99 of 100, came within this time, one message at a time.\n\
         messages/s, MB/s: answers a second, and their bytes (each way), with {THROUGHPUT_WINDOW} messages at a time.\n\n",
        results.processors,
        if results.engines == 1 { String::new() } else { format!(", {} engines a sidecar", results.engines) },
        results.took.as_secs_f64(),
    );
    out.push_str(&table.render());
    out.push('\n');
    for sentence in sentences(results) {
        out.push_str(&text::wrap(&format!("* {sentence}"), COLUMNS, 2));
        out.push('\n');
    }
    out
}

fn micros(micros: f64) -> String {
    match micros {
        us if us < 1e3 => format!("{} us", three_digits(us)),
        us if us < 1e6 => format!("{} ms", three_digits(us / 1e3)),
        us => format!("{} s", three_digits(us / 1e6)),
    }
}

/// The same for programs.
pub(crate) fn json(results: &Results) -> String {
    let rows: Vec<_> = results
        .cells
        .iter()
        .map(|cell| {
            let head = (cell.path.name(), cell.size);
            match &cell.found {
                Found::Measured(numbers) => serde_json::json!({
                    "path": head.0, "size_bytes": head.1,
                    "latency_us": numbers.latency_us,
                    "messages_per_second": numbers.messages_per_second,
                    "megabytes_per_second": numbers.megabytes_per_second,
                    "lost": numbers.lost,
                }),
                Found::NotMeasured(reason) => serde_json::json!({
                    "path": head.0, "size_bytes": head.1, "not_measured": reason,
                }),
            }
        })
        .chain(results.absent.iter().flat_map(|(path, reason)| {
            SIZES.map(
                |size| serde_json::json!({ "path": path.name(), "size_bytes": size, "not_measured": reason }),
            )
        }))
        .collect();
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engines": results.engines,
        "processors": results.processors,
        "processors_used_by_others": results.company.programs,
        "processors_stolen": results.company.machines,
        "seconds": results.took.as_secs_f64(),
        "throughput_window": THROUGHPUT_WINDOW,
        "rows": rows,
        "comparisons": comparisons(results),
        "sentences": sentences(results),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::results;
    use super::*;

    #[test]
    fn the_text_fits_a_hundred_columns_and_has_no_escape_codes() {
        for micros in [0.5, 12.3456, 99_999.0, 12_345_678.0] {
            let text = text(&results(|_, size| micros * if size > 1 << 20 { 10.0 } else { 1.0 }));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= COLUMNS, "{widest}\n{text}");
            assert!(!text.contains('\u{1b}'));
            assert!(text.contains("a UDP datagram carries at most 65507 bytes"));
        }
    }

    #[test]
    fn the_json_has_a_row_for_every_path_and_size() {
        let value: serde_json::Value = serde_json::from_str(&json(&results(|_, _| 10.0))).unwrap();
        assert_eq!(value["rows"].as_array().unwrap().len(), 32);
        assert_eq!(value["rows"][0]["latency_us"]["p50"], 10.0);
    }
}
