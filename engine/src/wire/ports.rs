//! UDP ports: they name nothing, they only decide where a network card's hash puts a datagram (paper, section 4.2).

/// UDP ports that follow one another: at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`, both included; `None` if that is none.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// One port.
    pub const fn only(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    /// Each of them, in order.
    pub fn ports(self) -> impl Iterator<Item = u16> + use<> {
        self.first..=self.last
    }

    /// Whether the port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// The UDP ports of a datagram as it was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Pair {
    /// The sender's port.
    pub from: u16,
    /// The receiver's port.
    pub to: u16,
}

impl Pair {
    /// A pair of ports, of which none is zero.
    pub const fn new(from: u16, to: u16) -> Option<Self> {
        if from > 0 && to > 0 { Some(Self { from, to }) } else { None }
    }
}
