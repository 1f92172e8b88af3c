//! Figures 10 to 13: what loss, overload and reordering cost, in virtual time. The same every run.
//!
//! Goodput is in per cent of what full datagrams could carry over the link, less those that the path loses. Beside ours: the
//! original's window and timer, the TCP of smoltcp in the same network, and what theory says of TCP Reno.

use machnet_benches::figure;
use machnet_benches::lab::goodput::{self, MESSAGE_BYTES, MILLISECOND, Measured, RATE};
use machnet_benches::lab::tcp::TcpNode;
use machnet_benches::lab::window::WindowNode;
use machnet_benches::lab::{Node, Path};
use machnet_benches::stats::to_f64;
use smoltcp::socket::tcp::CongestionControl;

const RTT_NS: u64 = 50_000;
/// Losses in a million, and the figure of each.
const LOSSES: [(u32, Option<&str>); 5] = [
    (0, None),
    (1_000, Some("goodput-0.1pct")),
    (10_000, Some("goodput-1pct")),
    (50_000, Some("goodput-5pct")),
    (100_000, Some("goodput-10pct")),
];
/// For transports that wait for seconds after a loss.
const LONG: Measured = Measured { warm_up_ns: 1_000 * MILLISECOND, for_ns: 6_000 * MILLISECOND };
const TAIL_RTTS_NS: [u64; 3] = [50_000, 200_000, 1_000_000];
const FLOWS: usize = 16;

fn main() {
    println!("A network in virtual time: 12 Gb/s, a round trip of 50 us, queues of 256 datagrams.");
    losses();
    tails();
    bottleneck();
    reorderings();
}

fn percent(per_million: u64) -> f64 {
    to_f64(per_million) / 10_000.0
}

fn losses() {
    println!("\nGoodput of one flow, messages of 32 KiB, per cent:");
    println!("loss      ours  window+timer  smoltcp Reno  smoltcp Cubic  Reno's formula");
    for (loss, name) in LOSSES {
        let path = Path { loss, ..Path::new(RATE, RTT_NS) };
        let ours = percent(goodput::per_million(path, goodput::pair(MESSAGE_BYTES), Measured::SHORT, 7));
        // Without losses nothing waits, and a long run would only take long.
        let measured = if loss == 0 { Measured::SHORT } else { LONG };
        let window = vec![WindowNode::new(Some(1)), WindowNode::new(None)];
        println!(
            "{:>4.1} %  {ours:>6.1}  {:>12.3}  {:>12.3}  {:>13.3}  {:>14}",
            f64::from(loss) / 10_000.0,
            of(path, window, measured),
            of(path, tcp(CongestionControl::Reno), measured),
            of(path, tcp(CongestionControl::Cubic), measured),
            reno_formula(&path),
        );
        if let Some(name) = name {
            figure(name, ours);
        }
    }
}

fn of<N: Node>(path: Path, nodes: Vec<N>, measured: Measured) -> f64 {
    percent(goodput::per_million(path, nodes, measured, 7))
}

fn tcp(control: CongestionControl) -> Vec<TcpNode> {
    vec![TcpNode::new(0, Some(1), control), TcpNode::new(1, None, control)]
}

/// What Reno gets at best (Mathis and others, 1997): a segment times the root of 3 / (2 x loss) each round trip.
fn reno_formula(path: &Path) -> String {
    if path.loss == 0 {
        return "100".to_owned();
    }
    let window = (1.5 / (f64::from(path.loss) / 1e6)).sqrt();
    let bytes_per_second = window * 1_448.0 * 1e9 / to_f64(path.rtt_ns);
    format!("{:.1}", (bytes_per_second / to_f64(path.ideal_bytes_per_second()) * 100.0).min(100.0))
}

fn tails() {
    println!("\nThe last datagram of a message is lost: so many round trips later the message is whole.");
    println!("round trip     64 B   8 KiB  32 KiB");
    let mut worst = 0.0_f64;
    for rtt_ns in TAIL_RTTS_NS {
        let row = [64, 8 << 10, MESSAGE_BYTES].map(|bytes| goodput::tail_loss_rtts(rtt_ns, bytes));
        println!("{:>7} us  {:>7.2} {:>7.2} {:>7.2}", rtt_ns / 1_000, row[0], row[1], row[2]);
        worst = row.into_iter().fold(worst, f64::max);
    }
    figure("tail-loss-rtts", worst);
}

fn bottleneck() {
    println!("\nSeveral senders, one receiver: goodput of its link, per cent.");
    for senders in [1, 10, 100] {
        let nodes = goodput::crowd(senders, 0);
        let value = percent(goodput::per_million(Path::new(RATE, RTT_NS), nodes, Measured::SHORT, 7));
        println!("{senders:>3} senders  {value:>6.1}");
        if senders == 100 {
            figure("incast-goodput", value);
        }
    }
    println!("\nJain's index of {FLOWS} flows that share a bottleneck for 200 ms:");
    println!("round trip  all at once  1 ms apart");
    let mut worst = 1.0_f64;
    for rtt_ns in [RTT_NS, 1_000_000] {
        let row = [0, MILLISECOND].map(|apart_ns| goodput::jain(Path::new(RATE, rtt_ns), FLOWS, apart_ns));
        println!("{:>7} us  {:>11.3}  {:>10.3}", rtt_ns / 1_000, row[0], row[1]);
        worst = row.into_iter().fold(worst, f64::min);
    }
    figure("jain-16", worst);
}

fn reorderings() {
    println!("\nHalf of all datagrams are held back, none is lost:");
    println!("held back for up to  sent for nothing  goodput");
    for held_ns in [10_000, RTT_NS, 200_000, 1_000_000] {
        let (spurious, per_million) = goodput::reordering(RTT_NS, held_ns);
        println!("{:>16} us  {spurious:>14.2} %  {:>5.1} %", held_ns / 1_000, percent(per_million));
        if held_ns == RTT_NS {
            figure("spurious-retransmissions", spurious);
        }
    }
}
