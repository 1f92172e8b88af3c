//! The golden table of goodput: a change of congestion control or of loss recovery shows as a difference of this table, to be
//! read and committed with it.
//!
//! `GOLDEN=write cargo test -p machnet-benches --test goodput` writes the table anew.

use machnet_benches::lab::Path;
use machnet_benches::lab::goodput::{MILLISECOND, Measured, pair, per_million};
use std::fmt::Write;

const GIGABIT: u64 = 1_000_000_000;
const LOSSES: [u32; 5] = [0, 1_000, 10_000, 50_000, 100_000];
const RTTS_NS: [u64; 3] = [50_000, 500_000, 5_000_000];
const SIZES: [u32; 4] = [64, 1 << 10, 32 << 10, 1 << 20];
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/goodput.txt");

#[test]
fn goodput_by_loss_round_trip_and_message_size_is_as_the_table_says() {
    let mut table = String::from(
        "Goodput of one flow over 2.5 Gb/s in thousandths of the ideal, by loss, round trip and message size.\n\
         Written by `GOLDEN=write cargo test -p machnet-benches --test goodput`.\n\n\
         loss    round trip      64 B     1 KiB    32 KiB     1 MiB\n",
    );
    for loss in LOSSES {
        for rtt_ns in RTTS_NS {
            let path = Path { loss, ..Path::new(5 * GIGABIT / 2, rtt_ns) };
            write!(table, "{:>4.1} %  {:>7} us", f64::from(loss) / 10_000.0, rtt_ns / 1_000).unwrap();
            for size in SIZES {
                // A thousand round trips, within reason.
                let for_ns = (rtt_ns * 1_000).clamp(50 * MILLISECOND, 150 * MILLISECOND);
                let measured = Measured { warm_up_ns: 60 * MILLISECOND, for_ns };
                write!(table, "  {:>8}", per_million(path, pair(size), measured, 1) / 1_000).unwrap();
            }
            table.push('\n');
        }
    }
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(TABLE, &table).unwrap();
    }
    let kept = std::fs::read_to_string(TABLE).unwrap_or_default();
    assert!(
        kept == table,
        "goodput changed. If that is meant, write the table anew and commit it:\n\
         GOLDEN=write cargo test -p machnet-benches --test goodput\n\nkept:\n{kept}\nnow:\n{table}"
    );
}
