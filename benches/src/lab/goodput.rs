//! What the lab is asked: how much arrives, how soon a loss is repaired, who gets what of a bottleneck.

use super::machnet::{Load, MachnetNode};
use super::{Lab, Node, Path};
use crate::stats::to_f64;
use machnet_engine::proto::Config;

/// A millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// 12 Gb/s: what the paper's cloud machines have (section 6).
pub const RATE: u64 = 12_000_000_000;
/// Messages of the figures.
pub const MESSAGE_BYTES: u32 = 32 << 10;

/// When a run is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Time before.
    pub warm_up_ns: u64,
    /// For how long.
    pub for_ns: u64,
}

impl Measured {
    /// Long enough for a transport that repairs losses in round trips.
    pub const SHORT: Self = Self { warm_up_ns: 20 * MILLISECOND, for_ns: 100 * MILLISECOND };
}

/// One of our hosts that sends 32 KiB messages without end to another one.
pub fn pair(message_bytes: u32) -> Vec<MachnetNode> {
    vec![
        MachnetNode::new(Config::default(), 1, &[Load::endless(1, message_bytes)]),
        MachnetNode::new(Config::default(), 2, &[]),
    ]
}

/// `senders` of our hosts that send to one more, each beginning `apart_ns` after the one before.
pub fn crowd(senders: usize, apart_ns: u64) -> Vec<MachnetNode> {
    let sender = |(begins_ns, host): (u64, usize)| {
        let load = Load { begins_ns, ..Load::endless(senders, MESSAGE_BYTES) };
        MachnetNode::new(Config::default(), host as u64, &[load])
    };
    let times = (0..).map(|nth| nth * apart_ns);
    let mut nodes: Vec<_> = times.zip(0..senders).map(sender).collect();
    nodes.push(MachnetNode::new(Config::default(), senders as u64, &[]));
    nodes
}

/// What arrived at the last host, in millionths of what the path could carry.
pub fn per_million<N: Node>(path: Path, nodes: Vec<N>, measured: Measured, seed: u64) -> u64 {
    let mut lab = Lab::new(path, nodes, seed);
    let receiver = lab.nodes.len() - 1;
    lab.run(measured.warm_up_ns, |_| false);
    let before = lab.nodes[receiver].received_bytes();
    lab.run(measured.warm_up_ns + measured.for_ns, |_| false);
    let bytes = lab.nodes[receiver].received_bytes() - before;
    let ideal = path.ideal_bytes_per_second() / 1_000 * (measured.for_ns / MILLISECOND);
    bytes * 1_000_000 / ideal
}

/// The last datagram of a message of `message_bytes` is lost: how much later is it whole, in round trips?
pub fn tail_loss_rtts(rtt_ns: u64, message_bytes: u32) -> f64 {
    let [clean, lossy] = [false, true].map(|lose| delivery_ns(rtt_ns, message_bytes, lose));
    to_f64(lossy - clean) / to_f64(rtt_ns)
}

/// How long a message takes on a flow that carried many before it.
fn delivery_ns(rtt_ns: u64, message_bytes: u32, lose_last: bool) -> u64 {
    const WARM_UP: u64 = 200;
    const FOR_EVER: u64 = u64::MAX / 2;
    let load = Load { messages: Some(WARM_UP + 1), outstanding: 1, ..Load::endless(1, message_bytes) };
    let sender = MachnetNode::new(Config::default(), 1, &[load]);
    let nodes = vec![sender, MachnetNode::new(Config::default(), 2, &[])];
    let mut lab = Lab::new(Path::new(RATE, rtt_ns), nodes, 7);
    lab.run(FOR_EVER, |nodes| nodes[0].acknowledged() >= WARM_UP);
    let began_ns = lab.now_ns();
    if lose_last {
        let mut left = message_bytes;
        lab.eats = Some(Box::new(move |_, to, datagram| {
            let carried = if to == 1 { MachnetNode::payload_bytes(datagram) } else { 0 };
            left = left.saturating_sub(carried);
            let is_last = carried > 0 && left == 0;
            if is_last {
                left = u32::MAX;
            }
            is_last
        }));
    }
    lab.run(FOR_EVER, |nodes| nodes[1].received_messages() > WARM_UP);
    lab.now_ns() - began_ns
}

/// Jain's index of what each of `flows` flows got of one bottleneck, from 1 / `flows` to 1.
pub fn jain(path: Path, flows: usize, apart_ns: u64) -> f64 {
    let mut lab = Lab::new(path, crowd(flows, apart_ns), 7);
    let acknowledged = |lab: &Lab<MachnetNode>| -> Vec<u64> {
        lab.nodes[..flows].iter().map(MachnetNode::acknowledged).collect()
    };
    lab.run(100 * MILLISECOND, |_| false);
    let before = acknowledged(&lab);
    lab.run(300 * MILLISECOND, |_| false);
    let shares: Vec<f64> =
        acknowledged(&lab).iter().zip(&before).map(|(now, then)| to_f64(now - then)).collect();
    let (sum, squares) =
        shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    sum * sum / squares / to_f64(flows as u64)
}

/// Percent of what was sent that was sent for nothing, on a path that loses nothing but holds half of all datagrams back for
/// up to `held_ns`; and goodput in millionths.
pub fn reordering(rtt_ns: u64, held_ns: u64) -> (f64, u64) {
    let path = Path { reorder: 500_000, held_ns, ..Path::new(RATE, rtt_ns) };
    let mut lab = Lab::new(path, pair(MESSAGE_BYTES), 7);
    lab.run(120 * MILLISECOND, |_| false);
    let counters = lab.nodes[0].counters();
    let spurious = to_f64(counters.retransmissions) / to_f64(counters.datagrams_sent) * 100.0;
    let ideal = path.ideal_bytes_per_second() / 1_000 * 120;
    (spurious, lab.nodes[1].received_bytes() * 1_000_000 / ideal)
}
