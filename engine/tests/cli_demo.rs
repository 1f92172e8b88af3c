//! `machnet demo`: real processes, one table, nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cli_support;
use cli_support::{Running, eventually, is_alive, run, signal};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn directory_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("machnet-demo-{pid}"))
}

/// A demo whose sidecars and servers (seven processes) are up.
fn demo_in_the_middle() -> (Running, Vec<u32>) {
    let demo = Running::start(&["demo", "--quick"]);
    let mut family = Vec::new();
    eventually("the demo's processes are there", || {
        family = children(demo.pid());
        family.len() >= 7
    });
    assert!(directory_of(demo.pid()).exists());
    (demo, family)
}

/// Rows of drivers, which need rights or a library.
fn is_wired(row: &Value) -> bool {
    ["machnet packet", "machnet xdp", "machnet dpdk, memif"].iter().any(|path| row["path"] == *path)
}

#[test]
fn the_quick_demo_measures_every_path_and_compares_it() {
    let demo = Running::start(&["demo", "--quick", "--json"]);
    let pid = demo.pid();
    let (out, mut demo) = {
        let mut demo = demo;
        (demo.rest(), demo)
    };
    assert!(demo.end().success(), "{}", demo.said());
    let results: Value = serde_json::from_str(&out).unwrap();
    let rows = results["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8 * 4);
    for row in rows {
        // What needs rights or a library may be missing, with a reason; here it cannot be known which.
        let is_wired =
            ["machnet packet", "machnet xdp", "machnet dpdk, memif"].iter().any(|path| row["path"] == *path);
        if is_wired && row["not_measured"].is_string() {
            assert!(row["not_measured"].as_str().unwrap().len() > 10, "{row}");
            let sentence = format!("`{}` was not measured", row["path"].as_str().unwrap());
            assert!(results["sentences"].to_string().contains(&sentence), "{sentence}");
            continue;
        }
        let is_possible = !(row["path"] == "kernel UDP, blocking" && row["size_bytes"] == 8 << 20);
        assert_eq!(row["not_measured"].is_string(), !is_possible, "{row}");
        if is_possible {
            let number = |name: &str| row["latency_us"][name].as_f64().unwrap();
            assert!(number("p50") > 0.0 && number("p99") >= number("p50"), "{row}");
            assert!(row["messages_per_second"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    assert!(results["comparisons"].as_array().unwrap().len() >= 22);
    let sentences = results["sentences"].to_string();
    for part in ["rented virtual machine", "kernel's network stack", "dpdk", "p50", "p99"] {
        assert!(sentences.contains(part), "{part}");
    }
    assert!(!directory_of(pid).exists());
}

#[test]
fn the_demo_runs_with_four_engines_on_both_ends() {
    let demo = Running::start(&["demo", "--quick", "--json", "--engines", "4"]);
    let (out, mut demo) = {
        let mut demo = demo;
        (demo.rest(), demo)
    };
    assert!(demo.end().success(), "{}", demo.said());
    let results: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(results["engines"], 4);
    for row in results["rows"].as_array().unwrap() {
        let of_machnet = row["path"].as_str().unwrap().starts_with("machnet")
            && !(is_wired(row) && row["not_measured"].is_string());
        assert!(!of_machnet || row["messages_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn a_demo_that_is_killed_leaves_no_process() {
    let (mut demo, family) = demo_in_the_middle();
    signal(demo.pid(), "KILL");
    demo.end();
    eventually("all processes of the demo are gone", || !family.iter().any(|&pid| is_alive(pid)));
    // Its directory could not be removed by a dead process; the next demo does it.
    let left = directory_of(demo.pid());
    let (mut next, _) = demo_in_the_middle();
    assert!(!left.exists());
    signal(next.pid(), "TERM");
    assert_eq!(next.end().code(), Some(130));
}

#[test]
fn ctrl_c_ends_the_demo_and_everything_it_made() {
    let (mut demo, family) = demo_in_the_middle();
    signal(demo.pid(), "INT");
    assert_eq!(demo.end().code(), Some(130));
    assert!(!family.iter().any(|&pid| is_alive(pid)));
    assert!(!directory_of(demo.pid()).exists());
}

#[test]
fn the_death_of_a_child_is_explained_and_ends_the_demo() {
    let (mut demo, family) = demo_in_the_middle();
    // The second process is the second sidecar.
    signal(family[1], "KILL");
    let status = demo.end();
    assert_eq!(status.code(), Some(1));
    let said = demo.said();
    assert!(said.contains("the second sidecar") && said.contains("SIGKILL"), "{said}");
    assert!(!family.iter().any(|&pid| is_alive(pid)));
    assert!(!directory_of(demo.pid()).exists());
}

#[test]
fn the_demo_explains_itself() {
    let (code, out, _) = run(&["demo", "--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("--quick") && out.contains("leaves nothing behind"), "{out}");
}
