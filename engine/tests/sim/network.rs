//! The network between the hosts: one directed link for each pair, with everything that goes wrong on it.

use crate::content::checksum;
use crate::dice::Dice;
use crate::report::Totals;

/// Bytes of the IPv4 and UDP headers below a UDP payload.
pub(crate) const IP_UDP_HEADERS: u32 = 28;

/// One direction between two hosts. Chances are in parts per million, times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) delay_ns: u64,
    pub(crate) jitter_ns: u64,
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// A copy that comes again long after, when its flow may be gone.
    pub(crate) ghost: u32,
    pub(crate) reorder: u32,
    pub(crate) corrupt: u32,
    /// Zero: no limit.
    pub(crate) bytes_per_second: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) mtu: u32,
    /// How many partitions lie across the link now.
    pub(crate) cuts: u32,
    /// When the last partition ended.
    pub(crate) healed_ns: u64,
    /// When the first of the current partitions began.
    pub(crate) cut_ns: u64,
    busy_until_ns: u64,
    last_arrival_ns: u64,
}

impl Link {
    /// A link without faults.
    pub(crate) const fn clean(delay_ns: u64, mtu: u32) -> Self {
        Self {
            delay_ns,
            jitter_ns: 0,
            loss: 0,
            duplicate: 0,
            ghost: 0,
            reorder: 0,
            corrupt: 0,
            bytes_per_second: 0,
            queue_bytes: 1 << 20,
            mtu,
            cuts: 0,
            healed_ns: 0,
            cut_ns: 0,
            busy_until_ns: 0,
            last_arrival_ns: 0,
        }
    }

    /// What fails at random stops failing; delays and limits stay.
    pub(crate) const fn calm_down(&mut self) {
        self.loss = 0;
        self.duplicate = 0;
        self.ghost = 0;
        self.reorder = 0;
        self.corrupt = 0;
    }

    /// When the copies of `bytes`, sent now, arrive: none, one or two times. May flip bits of `bytes` and then checks, as
    /// the receiver's network card does, that the UDP checksum tells.
    pub(crate) fn carry(
        &mut self,
        now_ns: u64,
        bytes: &mut [u8],
        dice: &mut Dice,
        totals: &mut Totals,
    ) -> [Option<u64>; 2] {
        let wire_bytes = bytes.len() as u64 + u64::from(IP_UDP_HEADERS);
        if self.cuts > 0 {
            totals.cut += 1;
            return [None; 2];
        }
        if wire_bytes > u64::from(self.mtu) {
            totals.too_large += 1;
            return [None; 2];
        }
        if dice.chance(self.loss) {
            totals.lost += 1;
            return [None; 2];
        }
        let Some(leaves_ns) = self.enqueue(now_ns, wire_bytes, totals) else { return [None; 2] };
        if dice.chance(self.corrupt) && corrupted(bytes, dice, totals) {
            return [None; 2];
        }
        let first = self.arrival(leaves_ns, dice, totals);
        [Some(first), self.copy(first, dice, totals)]
    }

    fn enqueue(&mut self, now_ns: u64, wire_bytes: u64, totals: &mut Totals) -> Option<u64> {
        if self.bytes_per_second == 0 {
            return Some(now_ns);
        }
        let starts_ns = self.busy_until_ns.max(now_ns);
        let waiting_bytes = (starts_ns - now_ns) * self.bytes_per_second / 1_000_000_000;
        if waiting_bytes > self.queue_bytes {
            totals.queue_full += 1;
            return None;
        }
        self.busy_until_ns = starts_ns + wire_bytes * 1_000_000_000 / self.bytes_per_second;
        Some(self.busy_until_ns)
    }

    fn arrival(&mut self, leaves_ns: u64, dice: &mut Dice, totals: &mut Totals) -> u64 {
        let base_ns = leaves_ns + self.delay_ns + dice.between(0, self.jitter_ns);
        if dice.chance(self.reorder) {
            totals.reordered += 1;
            return base_ns + dice.between(1_000, 2 * self.delay_ns + 50_000);
        }
        self.last_arrival_ns = self.last_arrival_ns.max(base_ns);
        self.last_arrival_ns
    }

    fn copy(&self, first_ns: u64, dice: &mut Dice, totals: &mut Totals) -> Option<u64> {
        if dice.chance(self.duplicate) {
            totals.duplicated += 1;
            return Some(first_ns + dice.between(0, 100_000));
        }
        if dice.chance(self.ghost) {
            totals.ghosts += 1;
            return Some(first_ns + dice.log_between(1_000_000, 4_000_000_000));
        }
        None
    }
}

/// Flips a few bits. True if the checksum notices, so that the datagram is dropped. Ones' complement sums miss some pairs of
/// flips; those datagrams are dropped too, and counted, because no transport without a checksum of its own could notice.
fn corrupted(bytes: &mut [u8], dice: &mut Dice, totals: &mut Totals) -> bool {
    let before = checksum(bytes);
    let flips = dice.between(1, 4);
    let clean = bytes.to_vec();
    for _ in 0..flips {
        let bit = dice.between(0, bytes.len() as u64 * 8 - 1) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    if clean == bytes {
        return false;
    }
    if checksum(bytes) == before {
        totals.corrupted_unnoticed += 1;
    }
    totals.corrupted += 1;
    true
}
