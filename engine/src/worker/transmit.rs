//! Datagrams out: the core says what, the driver lends room, the bytes come from the tenants.

use super::{TRANSMIT_BURST, TRANSMIT_BURST_BYTES, Worker};
use crate::counters::Counter;
use crate::driver::Driver;
use crate::host::Host;
use crate::proto::time::Instant;
use crate::proto::{Body, Endpoint, Transmit};

impl<D: Driver> Worker<D> {
    #[inline]
    pub(super) fn transmit(&mut self, now: Instant) -> usize {
        if self.endpoint.has_transmit() || self.driver.is_transmit_pending() {
            self.transmit_all(now)
        } else {
            0
        }
    }

    #[inline(never)]
    fn transmit_all(&mut self, now: Instant) -> usize {
        let mut sent = 0;
        let mut sent_bytes = 0;
        while sent < TRANSMIT_BURST && sent_bytes < TRANSMIT_BURST_BYTES {
            let Some(transmit) = self.endpoint.poll_transmit(now) else { break };
            sent += 1;
            let len = transmit.header_len + transmit.body_len;
            let Self { driver, endpoint, host, .. } = self;
            if let Some(out) = driver.lend(transmit.from_port, transmit.to, len) {
                fill(endpoint, host, &transmit, out);
            } else {
                let _: Result<(), _> = driver.flush();
                let Some(out) = driver.lend(transmit.from_port, transmit.to, len) else {
                    host.counters.count(Counter::TransmitNoRoom);
                    break;
                };
                fill(endpoint, host, &transmit, out);
            }
            driver.commit(len);
            sent_bytes += len;
        }
        if (sent > 0 || self.driver.is_transmit_pending())
            && let Err(error) = self.driver.flush()
        {
            self.path_failed(&error);
        }
        sent
    }
}

fn fill(endpoint: &Endpoint, host: &Host, transmit: &Transmit, out: &mut [u8]) {
    let (header, body) = out.split_at_mut(transmit.header_len);
    endpoint.emit_header(header);
    match transmit.body {
        Body::Empty => {}
        Body::Padding { .. } => body.fill(0),
        Body::Segment { message, offset, .. } => {
            let flow = transmit.flow.expect("a segment belongs to a flow");
            host.sender(flow).copy_out(message.0, offset, body);
        }
        Body::Bundle { .. } => {
            let flow = transmit.flow.expect("a bundle belongs to a flow");
            let tenant = host.sender(flow);
            let mut rest = body;
            for &(message, len) in endpoint.bundle() {
                let (length, after) = rest.split_at_mut(2);
                length.copy_from_slice(&len.to_be_bytes());
                let (bytes, after) = after.split_at_mut(usize::from(len));
                tenant.copy_out(message.0, 0, bytes);
                rest = after;
            }
        }
    }
}
