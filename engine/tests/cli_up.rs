//! `machnet up`, `status` and `ping` with real sidecars.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cli_support;
use cli_support::{
    Directory, PATIENCE, Running, Sidecar, eventually, finish, is_alive, machnet, run, signal,
};
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

#[test]
fn up_says_where_it_listens_and_sigterm_ends_it_in_order() {
    let directory = Directory::new("up");
    for name in ["TERM", "INT"] {
        let mut sidecar = Sidecar::start(&directory, name);
        let line = &sidecar.first_line;
        for part in
            [&sidecar.socket, &sidecar.address, ":31580", "driver udp", "1 engine", "idle policy auto"]
        {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        assert!(sidecar.process.line().contains("machnet ping"));
        signal(sidecar.process.pid(), name);
        assert!(sidecar.process.end().success());
        assert!(!sidecar.socket_exists());
        assert_eq!(run(&["status", "--socket", &sidecar.socket]).0, 3);
    }
}

#[test]
fn a_service_manager_is_told_when_the_sidecar_is_ready_and_when_it_stops() {
    let directory = Directory::new("notify");
    let path = directory.0.join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket = directory.0.join("m.sock");
    let address = cli_support::fresh_address().to_string();
    let mut command =
        machnet(&["up", "--no-config", "--socket", socket.to_str().unwrap(), "--address", &address]);
    command.env("NOTIFY_SOCKET", &path);
    let mut sidecar = Running::spawn(command);
    let next = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    signal(sidecar.pid(), "TERM");
    assert_eq!(next(), "STOPPING=1");
    assert!(sidecar.end().success());
}

#[test]
fn a_second_sidecar_on_the_same_socket_or_address_is_refused_with_the_reason() {
    let directory = Directory::new("in-use");
    let first = Sidecar::start(&directory, "first");
    let other = cli_support::fresh_address().to_string();
    let (code, _, err) = run(&["up", "--no-config", "--socket", &first.socket, "--address", &other]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&first.socket), "{err}");
    let socket = directory.0.join("second.sock");
    let (code, _, err) =
        run(&["up", "--no-config", "--socket", socket.to_str().unwrap(), "--address", &first.address]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&first.address), "{err}");
    assert!(is_alive(first.process.pid()));
    assert_eq!(run(&["status", "--socket", &first.socket]).0, 0);
}

#[test]
fn a_sidecar_that_was_killed_leaves_no_obstacle() {
    let directory = Directory::new("killed");
    let mut first = Sidecar::start(&directory, "same");
    signal(first.process.pid(), "KILL");
    first.process.end();
    let again = Sidecar::start(&directory, "same");
    assert_eq!(run(&["status", "--socket", &again.socket]).0, 0);
}

#[test]
fn status_shows_applications_as_a_table_and_as_json() {
    let directory = Directory::new("status");
    let sidecar = Sidecar::start(&directory, "one");
    let mut server = Running::start(&["bench", "server", "--port", "7777", "--socket", &sidecar.socket]);
    assert!(server.line().contains("7777"));
    let (code, out, err) = run(&["status", "--socket", &sidecar.socket]);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [&sidecar.address, "machnet bench server", "machnet ping (built in)", ":7777", "driver udp"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    assert!(!out.contains('\u{1b}'));
    let (code, out, _) = run(&["status", "--json", "--socket", &sidecar.socket]);
    assert_eq!(code, 0);
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["pid"], sidecar.process.pid());
    let channels = status["engines"][0]["channels"].as_array().unwrap();
    let of_server = channels.iter().find(|channel| channel["pid"] == server.pid()).unwrap();
    assert_eq!(of_server["name"], "machnet bench server");
    assert_eq!(of_server["listeners"].as_array().unwrap().len(), 1);
    drop(server);
    eventually("the server's channel goes when the server is killed", || {
        !run(&["status", "--socket", &sidecar.socket]).1.contains("machnet bench server")
    });
}

#[test]
fn several_engines_are_announced_listed_and_pinged() {
    let directory = Directory::new("engines");
    let near = Sidecar::start_with(&directory, "near", &["--engines", "4"]);
    let far = Sidecar::start_with(&directory, "far", &["--engines", "2", "--spread", "learned"]);
    assert!(near.first_line.contains("4 engines"), "{}", near.first_line);
    let mut server = Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &far.socket]);
    let line: Value = serde_json::from_str(&server.line()).unwrap();
    let address = line["serving"].as_str().unwrap();
    let mut client = Running::start(&[
        "bench",
        "client",
        address,
        "--seconds",
        "600",
        "--warm-up",
        "0",
        "--progress",
        "--socket",
        &near.socket,
    ]);
    assert!(client.error_line().contains("answered"));
    let (code, out, err) = run(&["ping", &far.address, "-c", "20", "-i", "0", "--socket", &near.socket]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = run(&["status", "--flows", "--socket", &near.socket]);
    assert_eq!(code, 0);
    for part in ["engine 0:", "engine 3:", "UDP ports", "handed over", "reached by UDP ports", &far.address] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let (_, out, _) = run(&["status", "--json", "--socket", &far.socket]);
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["engines"].as_array().unwrap().len(), 2);
    signal(client.pid(), "INT");
    client.end();
}

#[test]
fn settings_of_engines_that_cannot_be_followed_are_explained() {
    let directory = Directory::new("engines-wrong");
    let socket = directory.0.join("m.sock");
    let up = |more: &[&str]| {
        let address = cli_support::fresh_address().to_string();
        let start = ["up", "--no-config", "--address", &address, "--socket", socket.to_str().unwrap()];
        let (code, _, err) = run(&[&start, more].concat());
        assert_eq!(code, 2, "{err}");
        err
    };
    assert!(up(&["--engines", "17"]).contains("a number from 1 to 16"));
    assert!(up(&["--cpus", "1023"]).contains("may not run on processor 1023"));
    assert!(up(&["--engines", "2", "--cpus", "0"]).contains("one for each engine"));
    assert!(up(&["--engines", "4", "--udp-ports", "31580-31599"]).contains("52 are needed"));
    assert!(up(&["--pin", "--cpus", "0"]).contains("cannot be used with"));
}

#[test]
fn pinned_engines_say_where_they_are() {
    let directory = Directory::new("pinned");
    let sidecar = Sidecar::start_with(&directory, "one", &["--pin"]);
    let (_, out, _) = run(&["status", "--socket", &sidecar.socket]);
    assert!(out.contains("on processor "), "{out}");
}

#[test]
fn ping_times_each_answer_and_sums_up() {
    let directory = Directory::new("ping");
    let (near, far) = (Sidecar::start(&directory, "near"), Sidecar::start(&directory, "far"));
    let (code, out, err) = run(&["ping", &far.address, "-c", "3", "-i", "0.01", "--socket", &near.socket]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(
        out.lines().filter(|line| line.contains(": message ") && line.ends_with('s')).count(),
        3,
        "{out}"
    );
    assert!(out.contains("3 sent, 3 answered, 0.0 % lost") && out.contains("min/p50/p99/max"), "{out}");

    let (code, out, err) = run(&[
        "ping",
        &far.address,
        "-c",
        "200",
        "-i",
        "0",
        "-s",
        "1000",
        "--json",
        "--socket",
        &near.socket,
    ]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["answered"], &summary["damaged"]), (&Value::from(200), &Value::from(0)));

    // The sidecar of this host answers as well.
    assert_eq!(run(&["ping", &near.address, "-c", "1", "--socket", &near.socket]).0, 0);
}

#[test]
fn ping_is_ended_by_ctrl_c_with_its_summary() {
    let directory = Directory::new("ping-int");
    let sidecar = Sidecar::start(&directory, "one");
    let mut ping = Running::start(&["ping", &sidecar.address, "-i", "60", "--socket", &sidecar.socket]);
    assert!(ping.line().contains("64 bytes a message"));
    assert!(ping.line().contains("message 1"));
    signal(ping.pid(), "INT");
    assert!(ping.rest().contains("1 sent, 1 answered"));
    assert!(ping.end().success());
}

#[test]
fn ping_explains_a_host_without_sidecar_and_a_sidecar_without_echo() {
    let directory = Directory::new("ping-fail");
    let near = Sidecar::start_with(&directory, "near", &["--connect-timeout-ms", "300"]);
    let silent = Sidecar::start_with(&directory, "silent", &["--ping-port", "0"]);
    let nobody = cli_support::fresh_address().to_string();
    let (code, _, err) = run(&["ping", &nobody, "-c", "1", "--socket", &near.socket]);
    assert_eq!(code, 4, "{err}");
    for part in [&nobody, "UDP port 31580", "firewall", "machnet up"] {
        assert!(err.contains(part), "{part} is missing in {err}");
    }
    let (code, _, err) = run(&["ping", &silent.address, "-c", "1", "--socket", &near.socket]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("ping_port") && err.contains(&silent.address), "{err}");
    let port = format!("{}:999", silent.address);
    let (code, _, err) = run(&["ping", &port, "-c", "1", "--socket", &near.socket]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("no application listens on port 999"), "{err}");
}

#[test]
fn a_host_that_is_away_fails_within_the_default_time() {
    let directory = Directory::new("away");
    let near = Sidecar::start(&directory, "near");
    let nobody = cli_support::fresh_address().to_string();
    let mut command = machnet(&["ping", &nobody, "-c", "1", "--socket", &near.socket]);
    command.env("MACHNET_WHATEVER", "is of no interest here");
    let (code, out, err) = finish(command);
    assert_eq!(code, 4, "{out}{err}");
    assert!(err.contains("no answer from"), "{err}");
}

#[test]
fn a_user_without_rights_on_the_socket_is_told_what_helps() {
    let directory = Directory::new("rights");
    let sidecar = Sidecar::start_with(&directory, "private", &["--socket-mode", "0600"]);
    let machnet_path = env!("CARGO_BIN_EXE_machnet");
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", machnet_path];
    let mut command = Command::new("setpriv");
    command.args(as_nobody).arg("--version").stdin(Stdio::null());
    // Only root can become nobody, and nobody must be able to reach the program.
    if !command.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: cannot run {machnet_path} as another user");
        return;
    }
    for arguments in [&["status"][..], &["ping", "127.0.0.1"]] {
        let mut command = Command::new("setpriv");
        command.args(as_nobody).args(arguments).args(["--socket", &sidecar.socket]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (code, _, err) = finish(command);
        assert_eq!(code, 3, "{err}");
        assert!(
            err.contains("no permission") && err.contains(&sidecar.socket) && err.contains("group"),
            "{err}"
        );
    }
}

#[test]
fn a_second_signal_ends_a_sidecar_that_still_closes() {
    let directory = Directory::new("second");
    let (near, far) = (
        Sidecar::start_with(&directory, "near", &["--linger-ms", "60000"]),
        Sidecar::start(&directory, "far"),
    );
    let mut near = near;
    let mut server = Running::start(&["bench", "server", "--json", "--port", "0", "--socket", &far.socket]);
    let line: Value = serde_json::from_str(&server.line()).unwrap();
    let address = line["serving"].as_str().unwrap();
    let mut client = Running::start(
        &["bench", "client", address, "--size", "8M", "--window", "4", "--seconds", "600"]
            .iter()
            .copied()
            .chain(["--socket", &near.socket, "--warm-up", "0", "--progress"])
            .collect::<Vec<_>>(),
    );
    assert!(client.error_line().contains("answered"));
    // The far host is silent from now on, so the messages on their way cannot be delivered.
    signal(far.process.pid(), "STOP");
    signal(near.process.pid(), "TERM");
    while !near.process.error_line().contains("closing all connections") {}
    signal(near.process.pid(), "TERM");
    assert!(near.process.end().code().is_some());
    signal(far.process.pid(), "CONT");
}
