//! Who listens on which port of the sidecar: the one table that all engines' channels share.

use std::collections::HashMap;

/// Ports from here on are given to listeners that want any.
const FIRST_FREE_PORT: u16 = 32_768;

/// A listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) channel: u64,
    pub(super) listener: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Ports {
    owners: HashMap<u16, Owner>,
    next_free: u16,
}

impl Ports {
    pub(super) fn new() -> Self {
        Self { owners: HashMap::new(), next_free: FIRST_FREE_PORT }
    }

    /// Gives `port` (0: any that is free) to `owner`. An error names who has it, or nobody if none is free.
    pub(super) fn take(&mut self, port: u16, owner: Owner) -> Result<u16, Option<Owner>> {
        let port = if port == 0 { self.find_free().ok_or(None)? } else { port };
        if let Some(other) = self.owners.get(&port) {
            return Err(Some(*other));
        }
        self.owners.insert(port, owner);
        Ok(port)
    }

    fn find_free(&mut self) -> Option<u16> {
        for _ in FIRST_FREE_PORT..=u16::MAX {
            let port = self.next_free;
            self.next_free = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            if !self.owners.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Frees the port of a listener if `channel` has it, and answers which it is.
    pub(super) fn release(&mut self, owner: Owner) -> Option<u16> {
        let port = self.owners.iter().find_map(|(&port, other)| (*other == owner).then_some(port))?;
        self.owners.remove(&port);
        Some(port)
    }

    /// Frees all ports of a channel, and answers which they are and the listeners that had them.
    pub(super) fn release_all(&mut self, channel: u64) -> Vec<(u16, u32)> {
        let of_channel =
            |(&port, owner): (&u16, &Owner)| (owner.channel == channel).then_some((port, owner.listener));
        let released: Vec<_> = self.owners.iter().filter_map(of_channel).collect();
        for (port, _) in &released {
            self.owners.remove(port);
        }
        released
    }

    /// How many ports a channel has.
    pub(super) fn count(&self, channel: u64) -> usize {
        self.owners.values().filter(|owner| owner.channel == channel).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_owner_until_it_is_released_and_port_zero_finds_a_free_one() {
        let mut ports = Ports::new();
        let (first, second) = (Owner { channel: 1, listener: 1 }, Owner { channel: 2, listener: 2 });
        assert_eq!(ports.take(80, first), Ok(80));
        assert_eq!(ports.take(80, second), Err(Some(first)));
        assert_eq!(ports.take(0, second), Ok(FIRST_FREE_PORT));
        assert_eq!(ports.take(0, second), Ok(FIRST_FREE_PORT + 1));
        assert_eq!(ports.release(Owner { channel: 2, listener: 1 }), None);
        assert_eq!(ports.release(first), Some(80));
        assert_eq!(ports.take(80, second), Ok(80));
        assert_eq!(ports.count(2), 3);
        let mut released = ports.release_all(2);
        released.sort_unstable();
        assert_eq!(released, [(80, 2), (FIRST_FREE_PORT, 2), (FIRST_FREE_PORT + 1, 2)]);
        assert_eq!(ports.count(2), 0);
    }

    #[test]
    fn when_all_ports_are_taken_none_is_found() {
        let mut ports = Ports::new();
        for _ in FIRST_FREE_PORT..=u16::MAX {
            assert!(ports.take(0, Owner { channel: 1, listener: 1 }).is_ok());
        }
        assert_eq!(ports.take(0, Owner { channel: 1, listener: 1 }), Err(None));
    }
}
