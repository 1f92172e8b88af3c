//! What the demo measures: which paths, which sizes, for how long.

use super::company::Company;
use crate::cli::bench::MAX_UDP_MESSAGE;
use crate::cli::bench::summary::Summary;
use serde::Serialize;
use std::time::Duration;

/// One way from the client process to the server process: a row of the table for each size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    /// Client, its sidecar, UDP, the server's sidecar, server.
    Machnet,
    /// The same over AF_PACKET, on a pair of interfaces made for it.
    Packet,
    /// The same over AF_XDP, on such a pair.
    Xdp,
    /// The same over DPDK's shared memory interface.
    Memif,
    /// Client and server attached to one sidecar.
    SameHost,
    /// TCP between processes that sleep while they wait.
    TcpBlocking,
    /// TCP between processes that never sleep.
    TcpSpinning,
    /// UDP between processes that sleep while they wait.
    Udp,
}

impl Path {
    /// Every path, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::Machnet,
        Self::Packet,
        Self::Xdp,
        Self::Memif,
        Self::SameHost,
        Self::TcpBlocking,
        Self::TcpSpinning,
        Self::Udp,
    ];

    /// Those with sidecars of their own, which not every machine and user may have.
    pub(crate) const WIRED: [Self; 3] = [Self::Packet, Self::Xdp, Self::Memif];

    /// The name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Machnet => "machnet udp",
            Self::Packet => "machnet packet",
            Self::Xdp => "machnet xdp",
            Self::Memif => "machnet dpdk, memif",
            Self::SameHost => "machnet same host",
            Self::TcpBlocking => "kernel TCP, blocking",
            Self::TcpSpinning => "kernel TCP, spinning",
            Self::Udp => "kernel UDP, blocking",
        }
    }

    /// Why messages of this size cannot go this way, if so.
    pub(crate) fn excuse(self, size: usize) -> Option<String> {
        let is_too_long = self == Self::Udp && size > MAX_UDP_MESSAGE;
        is_too_long.then(|| format!("not measured: a UDP datagram carries at most {MAX_UDP_MESSAGE} bytes"))
    }
}

/// Bytes of the messages.
pub(crate) const SIZES: [usize; 4] = [64, 1024, 32 * 1024, 8 << 20];
/// Unanswered messages while throughput is measured.
pub(crate) const THROUGHPUT_WINDOW: usize = 8;

/// How long each cell takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Before each measurement.
    pub(crate) warm_up: Duration,
    /// One message at a time.
    pub(crate) latency: Duration,
    /// [`THROUGHPUT_WINDOW`] messages at a time.
    pub(crate) throughput: Duration,
}

/// 25 to 40 seconds in all: 19 to 31 cells of 1.2 seconds and the processes' starts.
pub(crate) const FULL: Plan = Plan {
    warm_up: Duration::from_millis(100),
    latency: Duration::from_millis(600),
    throughput: Duration::from_millis(400),
};

/// 8 to 14 seconds in all.
pub(crate) const QUICK: Plan = Plan {
    warm_up: Duration::from_millis(30),
    latency: Duration::from_millis(180),
    throughput: Duration::from_millis(120),
};

/// What was found for one path and size.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) path: Path,
    pub(crate) size: usize,
    pub(crate) found: Found,
}

/// Numbers, or why there are none.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Measured(Numbers),
    NotMeasured(String),
}

/// The numbers of a cell.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Numbers {
    /// Round trips, one message at a time.
    pub(crate) latency_us: Summary,
    /// Round trips a second, several at a time.
    pub(crate) messages_per_second: f64,
    /// The same in 10^6 bytes a second, each way.
    pub(crate) megabytes_per_second: f64,
    /// Messages without an answer in both measurements.
    pub(crate) lost: u64,
}

/// Everything that the demo found.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) cells: Vec<Cell>,
    /// Paths that could not be had here: why, and what helps.
    pub(crate) absent: Vec<(Path, String)>,
    /// Engines of each sidecar.
    pub(crate) engines: u32,
    /// Processors that the demo's processes shared.
    pub(crate) processors: usize,
    /// Who else used them meanwhile.
    pub(crate) company: Company,
    pub(crate) took: Duration,
}

impl Results {
    /// The numbers of one path and size, if they were measured.
    pub(crate) fn numbers(&self, path: Path, size: usize) -> Option<&Numbers> {
        let cell = self.cells.iter().find(|cell| cell.path == path && cell.size == size)?;
        match &cell.found {
            Found::Measured(numbers) => Some(numbers),
            Found::NotMeasured(_) => None,
        }
    }
}
