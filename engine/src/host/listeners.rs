//! Who listens: here, and on the other engines of the sidecar.

use super::{Host, Listener};
use crate::counters::Counter;
use crate::proto::Reason;

impl Host {
    /// A channel listens. The controller has seen to it that the port is free.
    pub fn listen(&mut self, channel: u64, port: u16, id: u32, backlog: u32) {
        if let Some(tenant) = self.find(channel) {
            let listener = Listener { tenant, id, backlog, waiting: 0 };
            self.listeners.entry(port).or_default().push(listener);
            self.listener_ports.insert(id, port);
        }
    }

    /// A channel of another engine listens.
    pub fn listens_elsewhere(&mut self, port: u16, engine: u8, id: u32) {
        self.directory.insert(port, (engine, id));
    }

    /// A listener of another engine is given up. The port may be a later one's already.
    pub fn unlisten_elsewhere(&mut self, port: u16, id: u32) {
        if self.directory.get(&port).is_some_and(|&(_, listener)| listener == id) {
            self.directory.remove(&port);
        }
    }

    /// The other engine whose channel listens on a port, if one does and none of ours.
    pub fn listening_engine(&self, port: u16) -> Option<u8> {
        let &(engine, _) = self.directory.get(&port)?;
        (!self.listeners.contains_key(&port)).then_some(engine)
    }

    /// A listener is given up. Flows that it did not accept stay, for the caller to end: answers whose they are, if there
    /// are any.
    pub fn unlisten(&mut self, id: u32) -> Option<u32> {
        let port = self.listener_ports.remove(&id)?;
        let list = self.listeners.get_mut(&port)?;
        let place = list.iter().position(|listener| listener.id == id)?;
        let listener = list.remove(place);
        if list.is_empty() {
            self.listeners.remove(&port);
        }
        (listener.waiting > 0).then_some(listener.tenant)
    }

    /// All listeners of a tenant are given up.
    pub(crate) fn forget_listeners(&mut self, tenant: u32) {
        let of_tenant = |list: &Vec<Listener>| {
            list.iter().filter(|listener| listener.tenant == tenant).map(|l| l.id).collect::<Vec<_>>()
        };
        let ids: Vec<u32> = self.listeners.values().flat_map(of_tenant).collect();
        for id in ids {
            self.unlisten(id);
        }
    }

    /// Every listener of this engine, with its tenant.
    pub(crate) fn all_listeners(&self) -> Vec<(u32, u32)> {
        self.listeners.values().flatten().map(|listener| (listener.tenant, listener.id)).collect()
    }

    /// Ports on which a tenant listens.
    pub fn ports_of(&self, tenant: u32) -> Vec<u16> {
        let listens = |list: &Vec<Listener>| list.iter().any(|listener| listener.tenant == tenant);
        let mut ports: Vec<u16> =
            self.listeners.iter().filter(|(_, list)| listens(list)).map(|(&port, _)| port).collect();
        ports.sort_unstable();
        ports
    }

    /// The application accepted a flow, or it ended before.
    pub(crate) fn accepted(&mut self, id: u32) {
        if let Some(port) = self.listener_ports.get(&id)
            && let Some(list) = self.listeners.get_mut(port)
            && let Some(listener) = list.iter_mut().find(|listener| listener.id == id)
        {
            listener.waiting = listener.waiting.saturating_sub(1);
        }
    }

    /// Tenants whose backlog on this port is full.
    pub(crate) fn full_listeners(&self, port: u16) -> Vec<u32> {
        let list = self.listeners.get(&port).map_or(&[][..], Vec::as_slice);
        list.iter().filter(|listener| listener.waiting >= listener.backlog).map(|l| l.tenant).collect()
    }

    /// The tenant and listener that take the next flow for a port.
    pub(crate) fn find_listener(&mut self, port: u16) -> Result<(u32, u32), Reason> {
        let Some(list) = self.listeners.get(&port) else {
            self.counters.count(Counter::NobodyListens);
            return Err(Reason::Refused);
        };
        for listener in list {
            let seat = self.look(listener.tenant);
            let takes_part = seat.fault.is_none() && seat.leaving.is_none();
            // One that releases flows without reading of their end would be told of ever more.
            let reads = !seat.tenant.has_too_many_events();
            if takes_part && reads && listener.waiting < listener.backlog && seat.tenant.has_flow_room() {
                return Ok((listener.tenant, listener.id));
            }
        }
        self.counters.count(Counter::BacklogFull);
        Err(Reason::Busy)
    }
}
