//! Numbers and tables as people read them.

use std::fmt::Write;
use std::time::Duration;

/// A count of bytes: `64 B`, `1 kB`, `32 kB`, `8 MiB`; other counts in bytes.
pub(crate) fn bytes(count: usize) -> String {
    const KILO: usize = 1024;
    const MEGA: usize = 1024 * 1024;
    match count {
        0 => "0 B".to_owned(),
        _ if count.is_multiple_of(MEGA) => format!("{} MiB", count / MEGA),
        _ if count.is_multiple_of(KILO) => format!("{} kB", count / KILO),
        _ => format!("{count} B"),
    }
}

/// A span with three digits that matter: `12.3 us`, `1.23 ms`, `1.23 s`.
pub(crate) fn span(nanos: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let nanos = nanos as f64;
    match nanos {
        n if n < 1e6 => format!("{} us", three_digits(n / 1e3)),
        n if n < 1e9 => format!("{} ms", three_digits(n / 1e6)),
        n => format!("{} s", three_digits(n / 1e9)),
    }
}

/// The nanoseconds of a span, as histograms count them.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A rate with three digits that matter: `812`, `81.2 k`, `1.23 M`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 1e3 => three_digits(r),
        r if r < 1e6 => format!("{} k", three_digits(r / 1e3)),
        r => format!("{} M", three_digits(r / 1e6)),
    }
}

/// Three digits that matter, and all digits before the point.
pub(crate) fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// How the columns of a table stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table of words in columns that are as wide as they must be. No colours, no frames: it may go into a file.
#[derive(Debug)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            aligns: columns.iter().map(|column| column.1).collect(),
            rows: vec![columns.iter().map(|column| column.0.to_owned()).collect()],
        }
    }

    /// Adds a row. A row that is shorter than the table ends early; its last cell may be any length.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds an empty line.
    pub(crate) fn gap(&mut self) {
        self.rows.push(Vec::new());
    }

    /// The table, each line ended, each indented by two spaces.
    pub(crate) fn render(&self) -> String {
        let mut widths = vec![0; self.aligns.len()];
        for row in &self.rows {
            let last = if row.len() < widths.len() { row.len().saturating_sub(1) } else { row.len() };
            for (width, cell) in widths.iter_mut().zip(&row[..last]) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.aligns) {
                let _ = match align {
                    Align::Left => write!(line, "  {cell:<width$}"),
                    Align::Right => write!(line, "  {cell:>width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Breaks a text at spaces so that no line is longer than `columns`; lines after the first are indented by `indent`.
pub(crate) fn wrap(text: &str, columns: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > columns {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits_that_matter() {
        assert_eq!(span(1_234), "1.23 us");
        assert_eq!(span(12_345), "12.3 us");
        assert_eq!(span(999_999), "1000 us");
        assert_eq!(span(1_234_567), "1.23 ms");
        assert_eq!(span(61_000_000_000), "61.0 s");
        assert_eq!(rate(812.4), "812");
        assert_eq!(rate(81_240.0), "81.2 k");
        assert_eq!(rate(2_500_000.0), "2.50 M");
        assert_eq!((bytes(64), bytes(1024), bytes(8 << 20)), ("64 B".into(), "1 kB".into(), "8 MiB".into()));
    }

    #[test]
    fn a_table_has_straight_columns_and_no_trailing_spaces() {
        let mut table = Table::new(&[("path", Align::Left), ("p50", Align::Right)]);
        table.row(["machnet udp".to_owned(), "9 us".to_owned()]);
        table.gap();
        table.row(["TCP".to_owned(), "10.5 us".to_owned()]);
        assert_eq!(
            table.render(),
            "  path             p50\n  machnet udp     9 us\n\n  TCP          10.5 us\n"
        );
    }

    #[test]
    fn a_wrapped_text_keeps_within_its_columns() {
        let text = wrap("one two three four five", 10, 2);
        assert_eq!(text, "one two\n  three\n  four\n  five");
    }
}
