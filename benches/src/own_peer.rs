//! One thread that is client and server at once: what a round trip costs when nobody but the engine takes part.

use crate::stats::Latencies;
use crate::{cpu, rig};
use machnet_client::{AttachOptions, Channel, FlowId};
use std::net::SocketAddr;

/// The message of the benches that send small ones.
pub const MESSAGE: [u8; 64] = [7; 64];

/// A channel with a flow to itself, over the network of its sidecar.
#[derive(Debug)]
pub struct OwnPeer {
    /// The channel.
    pub channel: Channel,
    /// The end that asks.
    pub client: FlowId,
    /// The end that answers.
    pub server: FlowId,
}

impl OwnPeer {
    /// Attaches and connects to itself on a port that must be free.
    pub fn open(options: AttachOptions, port: u16) -> Self {
        let mut channel = options.attach_channel().expect("the sidecar is there");
        let elsewhere: SocketAddr = rig::ELSEWHERE.parse().expect("an address");
        let (client, server) = rig::connect_to_self(&mut channel, (elsewhere.ip(), port).into());
        Self { channel, client, server }
    }

    /// A request and its response, looking for both without a pause.
    #[inline]
    pub fn round_trip(&mut self) {
        let Self { channel, client, server } = self;
        for (from, to) in [(*client, *server), (*server, *client)] {
            channel.try_send(from, &MESSAGE).expect("one message has room");
            let mut buffer = [0; MESSAGE.len()];
            while channel.try_recv_into(to, &mut buffer).expect("the flow lives").is_none() {
                std::hint::spin_loop();
            }
            std::hint::black_box(&buffer);
        }
    }

    /// Round trips one at a time, after some that are not counted.
    pub fn round_trips(&mut self, warm_up: u32, rounds: u32) -> Latencies {
        let mut latencies = Latencies::default();
        for round in 0..warm_up + rounds {
            let before = cpu::now();
            self.round_trip();
            if round >= warm_up {
                latencies.record_since(before);
            }
        }
        latencies
    }
}
