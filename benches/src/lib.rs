//! What the benches share: processors, clocks, percentiles, the floor of the machine, and a sidecar to measure.
//!
//! A bench is a program `benches/src/bin/NAME.rs`. It prints what a reader wants to see, and for each of its figures one line
//! `figure: NAME VALUE` by [`figure`]; `ci/bench.sh` holds those against the goals of `ci/goals.txt`. Speed is a ratio to a
//! floor or a peer of the same run, averaged over several starts: between starts ratios move by tens of per cent.

pub mod application;
pub mod bare;
pub mod callgrind;
pub mod chain;
pub mod command;
pub mod cpu;
pub mod echo;
pub mod fabric;
pub mod first_contact;
pub mod flood;
pub mod floor;
pub mod hand_over;
pub mod lab;
pub mod network;
pub mod own_peer;
pub mod paths;
pub mod peers;
pub mod place;
pub mod real;
pub mod rig;
pub mod roles;
pub mod stats;
pub mod strace;
pub mod usage;

/// Bytes of a small message.
pub const MESSAGE_BYTES: usize = 64;

/// Says one figure: the line that `ci/bench.sh` looks for.
pub fn figure(name: &str, value: f64) {
    // Of what should be nothing, the little that is there is shown.
    let digits = if value.abs() < 0.01 { 4 } else { 3 };
    println!("figure: {name} {value:.digits$}");
}
