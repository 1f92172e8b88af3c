//! What the benches share: processors, clocks, percentiles, the floor of the machine, and a sidecar to measure.
//!
//! A bench is a program `benches/src/bin/NAME.rs`. It prints what a reader wants to see, and for each of its figures one line
//! `figure: NAME VALUE` by [`figure`]; `ci/bench.sh` holds those against the goals of `ci/goals.txt`. Speed is a ratio to a
//! floor or a peer of the same run, averaged over several starts: between starts ratios move by tens of per cent.

pub mod callgrind;
pub mod command;
pub mod cpu;
pub mod floor;
pub mod rig;
pub mod roles;
pub mod stats;
pub mod strace;

/// Says one figure: the line that `ci/bench.sh` looks for.
pub fn figure(name: &str, value: f64) {
    println!("figure: {name} {value:.3}");
}
