//! Figure 26: strangers that ask for connections and never go on leave nothing behind, byte for byte.
//!
//! The only test of its program, so that the counting allocator sees nothing else.

use machnet_benches::flood::Flooded;
use machnet_engine::status::ChannelStatus;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// SYNs on the path of each engine, before and while bytes are counted.
const WARM_UP: u64 = 20_000;
const SYNS: u64 = 100_000;

#[test]
fn a_flood_of_syns_leaves_no_byte_and_no_entry_of_any_table() {
    for engines in [1, 4] {
        let mut flooded = Flooded::new(engines);
        flooded.flood(WARM_UP);
        let region = Region::new(ALLOCATOR);
        let answers = flooded.flood(SYNS);
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{engines} engines");
        assert_eq!(change.bytes_allocated, change.bytes_deallocated, "{engines} engines");
        // All are answered, but for those that found a neighbour's inbox full.
        let asked = SYNS * u64::from(engines);
        assert!(answers <= asked && answers > asked / 2, "{answers} answers to {asked} SYNs");
        let status = flooded.status().unwrap();
        for engine in &status.engines {
            assert_eq!(engine.learned, [], "{engines} engines");
            let flows = |channel: &ChannelStatus| channel.flows.len();
            assert_eq!(engine.channels.iter().map(flows).sum::<usize>(), 0, "{engines} engines");
            assert_eq!(engine.counters["accepted"], 0, "{engines} engines");
        }
    }
}
