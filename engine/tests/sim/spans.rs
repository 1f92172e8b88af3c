//! Which bytes of a message have come.

/// A set of byte ranges of one message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Vec<(u32, u32)>);

impl Spans {
    /// Adds `start..end` and answers how many of its bytes are new.
    pub(crate) fn add(&mut self, start: u32, end: u32) -> u32 {
        let first = self.0.partition_point(|(_, known_end)| *known_end < start);
        let last = self.0.partition_point(|(known_start, _)| *known_start <= end);
        let touched = &self.0[first..last];
        let merged_start = touched.first().map_or(start, |(known, _)| start.min(*known));
        let merged_end = touched.last().map_or(end, |(_, known)| end.max(*known));
        let before: u32 = touched.iter().map(|(known_start, known_end)| known_end - known_start).sum();
        self.0.splice(first..last, [(merged_start, merged_end)]);
        merged_end - merged_start - before
    }
}
