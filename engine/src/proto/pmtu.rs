//! Path size discovery (RFC 8899): 1,200 bytes of UDP payload until a padded probe proved more.

/// What every path takes.
pub(super) const BASE: u32 = 1_200;
/// Sizes worth a try below the bound: IPv4 MTU 9000, 1500, 1460, 1280, less 28 bytes of IP and UDP.
const LADDER: [u32; 4] = [8_972, 1_472, 1_432, 1_252];
/// A size that was lost so often does not pass.
const MAX_TRIES: u8 = 3;
/// So often large packets were lost, none acknowledged between: the path has become narrower.
const BLACK_HOLE: u8 = 4;

/// Discovery for one flow.
#[derive(Debug, Clone)]
pub(super) struct PathSize {
    /// Proved.
    current: u32,
    /// To be tried next; `current` when there is nothing to try.
    candidate: u32,
    tries: u8,
    in_flight: bool,
    large_losses: u8,
}

impl PathSize {
    /// `bound` is the smaller of both sides' largest UDP payload.
    pub(super) fn new(bound: u32) -> Self {
        let current = bound.min(BASE);
        Self { current, candidate: bound, tries: 0, in_flight: false, large_losses: 0 }
    }

    /// Largest UDP payload that data may use.
    #[inline]
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    /// A probe of this size is worth sending now.
    pub(super) fn probe_wanted(&self) -> Option<u32> {
        (self.candidate > self.current && !self.in_flight).then_some(self.candidate)
    }

    pub(super) fn on_probe_sent(&mut self) {
        self.in_flight = true;
    }

    pub(super) fn on_probe_acked(&mut self, size: u32) {
        self.in_flight = false;
        self.tries = 0;
        if size > self.current {
            self.current = size;
            self.candidate = size;
        }
    }

    pub(super) fn on_probe_lost(&mut self, size: u32) {
        self.in_flight = false;
        if size != self.candidate {
            return;
        }
        self.tries += 1;
        if self.tries >= MAX_TRIES {
            self.step_down(size);
        }
    }

    /// A data packet larger than the base arrived.
    #[inline]
    pub(super) fn on_large_acked(&mut self) {
        self.large_losses = 0;
    }

    /// Data packets larger than the base were lost, one or many at once. Answers whether the path became narrower: cut segments anew.
    pub(super) fn on_large_lost(&mut self) -> bool {
        self.large_losses = self.large_losses.saturating_add(1);
        if self.large_losses < BLACK_HOLE || self.current <= BASE {
            return false;
        }
        let failed = self.current;
        self.current = self.current.min(BASE);
        self.large_losses = 0;
        self.step_down(failed);
        true
    }

    fn step_down(&mut self, failed: u32) {
        self.tries = 0;
        self.candidate =
            LADDER.into_iter().find(|&size| size < failed).unwrap_or(self.current).max(self.current);
    }
}
