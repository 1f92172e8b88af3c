//! `machnet bench`: over a sidecar and over the kernel, closed and open loop.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cli_support;
use cli_support::{Directory, Running, Sidecar, run, signal};
use serde_json::Value;
use std::thread;
use std::time::Duration;

/// The address that a bench server announces.
fn serving(server: &mut Running) -> String {
    let line: Value = serde_json::from_str(&server.line()).unwrap();
    line["serving"].as_str().unwrap().to_owned()
}

fn kernel_server(over: &str) -> (Running, String) {
    let arguments = ["bench", "server", "--json", "--port", "0", "--address", "127.0.0.1", "--over", over];
    let mut server = Running::start(&arguments);
    let address = serving(&mut server);
    (server, address)
}

fn measure(arguments: &[&str]) -> Value {
    let (code, out, err) = run(&[&["bench", "client", "--json"], arguments].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    serde_json::from_str(&out).unwrap()
}

/// Stops the server for 100 ms in the middle of an open loop and looks for it in the latencies.
fn a_stopped_server_shows(server: &Running, client: &[&str]) {
    let pid = server.pid();
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(900));
        signal(pid, "STOP");
        thread::sleep(Duration::from_millis(100));
        signal(pid, "CONT");
    });
    let common = ["--rate", "1000", "--seconds", "1.5", "--warm-up", "0.3"];
    let report = measure(&[client, &common].concat());
    stopper.join().unwrap();
    assert_eq!(report["messages"], 1500, "{report}");
    assert_eq!((&report["lost"], &report["damaged"]), (&Value::from(0), &Value::from(0)));
    let latency = &report["latency_us"];
    assert!(latency["p999"].as_f64().unwrap() >= 90_000.0, "{report}");
    // About a hundred of 1,500 messages met the stop, so the median knows nothing of it.
    assert!(latency["p50"].as_f64().unwrap() < 50_000.0, "{report}");
}

#[test]
fn a_server_that_stops_for_100_ms_shows_in_the_open_loop_over_tcp() {
    let (server, address) = kernel_server("tcp");
    a_stopped_server_shows(&server, &[&address, "--over", "tcp"]);
}

#[test]
fn a_server_that_stops_for_100_ms_shows_in_the_open_loop_over_machnet() {
    let directory = Directory::new("bench-stop");
    let sidecar = Sidecar::start(&directory, "one");
    let mut server =
        Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &sidecar.socket]);
    let address = serving(&mut server);
    a_stopped_server_shows(&server, &[&address, "--socket", &sidecar.socket]);
}

#[test]
fn the_closed_loop_counts_every_message_of_every_size_and_connection() {
    let directory = Directory::new("bench-closed");
    let (near, far) = (Sidecar::start(&directory, "near"), Sidecar::start(&directory, "far"));
    let mut server = Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &far.socket]);
    let address = serving(&mut server);
    for (size, window, connections, count) in
        [("1", "1", "1", 500), ("64", "8", "3", 500), ("32k", "8", "1", 200), ("8M", "3", "1", 5)]
    {
        let count_text = count.to_string();
        let report = measure(&[
            &address,
            "--socket",
            &near.socket,
            "--size",
            size,
            "--window",
            window,
            "--connections",
            connections,
            "--count",
            &count_text,
            "--warm-up",
            "0",
        ]);
        let connections: u64 = connections.parse().unwrap();
        let messages = report["messages"].as_u64().unwrap();
        assert!(messages >= count * connections, "{report}");
        assert_eq!((&report["lost"], &report["damaged"]), (&Value::from(0), &Value::from(0)), "{report}");
        assert!(report["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn the_kernel_paths_measure_every_size_that_they_can_carry() {
    let (_tcp, tcp) = kernel_server("tcp");
    let (_udp, udp) = kernel_server("udp");
    for size in ["1", "64", "32k", "8M"] {
        let report = measure(&[
            &tcp,
            "--over",
            "tcp",
            "--size",
            size,
            "--window",
            "4",
            "--count",
            "20",
            "--warm-up",
            "0",
        ]);
        assert_eq!((&report["lost"], &report["damaged"]), (&Value::from(0), &Value::from(0)), "{report}");
    }
    let report = measure(&[&udp, "--over", "udp", "--size", "32k", "--count", "20", "--warm-up", "0"]);
    assert!(report["messages"].as_u64().unwrap() >= 20);
    let (code, _, err) = run(&["bench", "client", &udp, "--over", "udp", "--size", "8M"]);
    assert_eq!(code, 2);
    assert!(err.contains("at most 65507 bytes"), "{err}");
}

#[test]
fn progress_is_shown_on_request_and_the_summary_is_readable() {
    let (_server, address) = kernel_server("tcp");
    let (code, out, err) = run(&[
        "bench",
        "client",
        &address,
        "--over",
        "tcp",
        "--seconds",
        "1.2",
        "--warm-up",
        "0",
        "--progress",
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("messages/s"), "{err}");
    assert!(out.contains("p99.9") && out.contains("throughput") && out.contains("0 damaged"), "{out}");
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'));
}

#[test]
fn a_server_that_is_not_there_is_the_peers_fault() {
    let (code, _, err) = run(&["bench", "client", "127.0.0.1:9", "--over", "tcp"]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("127.0.0.1:9") && err.contains("--over tcp"), "{err}");
    let (code, _, err) = run(&["bench", "client", "127.0.0.1:9", "--over", "udp"]);
    assert_eq!(code, 4, "{err}");
}

#[test]
fn a_server_with_once_ends_after_its_first_client() {
    let arguments =
        ["bench", "server", "--json", "--port", "0", "--address", "127.0.0.1", "--over", "tcp", "--once"];
    let mut server = Running::start(&arguments);
    let address = serving(&mut server);
    measure(&[&address, "--over", "tcp", "--count", "10", "--warm-up", "0"]);
    assert!(server.end().success());
}

/// A client in the middle of a long measurement over a sidecar.
fn client_in_the_middle(address: &str, socket: &str) -> Running {
    let arguments =
        ["bench", "client", address, "--socket", socket, "--seconds", "600", "--warm-up", "0", "--progress"];
    let mut client = Running::start(&arguments);
    assert!(client.error_line().contains("answered"));
    client
}

#[test]
fn a_client_whose_sidecar_is_killed_says_so_at_once() {
    let directory = Directory::new("bench-lost");
    let sidecar = Sidecar::start(&directory, "one");
    let mut server =
        Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &sidecar.socket]);
    let address = serving(&mut server);
    let mut client = client_in_the_middle(&address, &sidecar.socket);
    signal(sidecar.process.pid(), "KILL");
    assert_eq!(client.end().code(), Some(3));
    assert!(client.said().contains("the sidecar is gone"));
    assert_eq!(server.end().code(), Some(3));
}

#[test]
fn a_client_whose_server_is_killed_says_so_and_the_sidecar_lives_on() {
    let directory = Directory::new("bench-gone");
    let (near, far) = (Sidecar::start(&directory, "near"), Sidecar::start(&directory, "far"));
    let mut server = Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &far.socket]);
    let address = serving(&mut server);
    let mut client = client_in_the_middle(&address, &near.socket);
    signal(server.pid(), "KILL");
    assert_eq!(client.end().code(), Some(4));
    assert!(client.said().contains("server"));
    assert_eq!(run(&["ping", &far.address, "-c", "1", "--socket", &near.socket]).0, 0);
}
