//! `machnet up` with the drivers that need more than a socket: what it says where something is missing, and real processes on real
//! interfaces.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cli_support;
mod netns;

use cli_support::{Directory, Running, finish, machnet, run, signal};
use netns::{End, Link};
use std::process::{Command, Stdio};

const UP: [&str; 4] = ["up", "--no-config", "--driver", "packet"];

/// `machnet up` that must fail in the network of that end; answers what it said.
fn refused(link: &Link, end: End, words: &[&str]) -> String {
    let directory = Directory::new("refused");
    let socket = directory.0.join("m.sock");
    let mut command = machnet(&UP);
    command.args(["--socket", socket.to_str().unwrap()]).args(words);
    let (code, _, err) = link.run_in(end, || finish(command));
    assert_eq!(code, 1, "{err}");
    err
}

fn start(link: &Link, end: End, directory: &Directory, name: &str) -> (Running, String) {
    let socket = directory.0.join(name).to_str().unwrap().to_owned();
    let mut command = machnet(&UP);
    command.args(["--socket", &socket, "--address", &link.address(end).to_string()]);
    let mut process = link.run_in(end, || Running::spawn(command));
    let line = process.line();
    assert!(line.contains("driver packet") && line.contains(&link.address(end).to_string()), "{line}");
    (process, socket)
}

#[test]
fn every_driver_is_listed_with_what_it_needs() {
    let (code, out, err) = run(&["up", "--list-drivers"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for name in ["udp", "packet", "xdp", "dpdk"] {
        let at = out.lines().position(|line| line.starts_with(&format!("{name} "))).unwrap();
        let needs = out.lines().nth(at + 1).unwrap();
        assert!(needs.trim().starts_with("needs "), "{needs}");
    }
    for part in ["CAP_NET_RAW", "unshare -Urn", "CAP_BPF", "plugin"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
}

#[test]
fn an_interface_or_address_that_is_not_there_is_answered_with_what_is() {
    let Some(link) = Link::new() else { return };
    let own = link.address(End::Left).to_string();
    let err = refused(&link, End::Left, &["--address", &own, "--interface", "eth9"]);
    assert!(err.contains("there is no interface eth9"), "{err}");
    assert!(err.contains(&format!("mn0 ({own}/24)")), "{err}");
    let err = refused(&link, End::Left, &["--address", "192.0.2.7"]);
    assert!(err.contains("no interface of this host has the address 192.0.2.7"), "{err}");
    let err = refused(&link, End::Left, &["--address", "192.0.2.7", "--interface", "mn0"]);
    assert!(err.contains("ip address add 192.0.2.7/24 dev mn0"), "{err}");
    link.ip(End::Left, "link add mn1 type veth peer name mn2");
    let err = refused(&link, End::Left, &["--address", &own, "--interface", "mn1"]);
    assert!(err.contains(&format!("{own} is an address of mn0, not of mn1")), "{err}");
}

#[test]
fn without_the_right_it_says_how_to_give_it() {
    let Some(link) = Link::new() else { return };
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: setpriv (package util-linux) is not installed");
        return;
    }
    let directory = Directory::new("right");
    let socket = directory.0.join("m.sock");
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-net_raw", "--bounding-set=-net_raw", env!("CARGO_BIN_EXE_machnet")]);
    command.args(UP).args(["--socket", socket.to_str().unwrap()]);
    command.args(["--address", &link.address(End::Left).to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, _, err) = link.run_in(End::Left, || finish(command));
    assert_eq!(code, 1, "{err}");
    for part in ["CAP_NET_RAW", "setcap cap_net_raw+ep", "unshare -Urn", "--driver udp"] {
        assert!(err.contains(part), "{part} is missing in {err}");
    }
}

#[test]
fn a_sidecar_that_was_killed_is_followed_at_once_by_the_next_on_the_same_interface() {
    let Some(link) = Link::new() else { return };
    let directory = Directory::new("killed-packet");
    let (_left, left_socket) = start(&link, End::Left, &directory, "left.sock");
    let other = link.address(End::Right).to_string();
    let ping = || run(&["ping", &other, "--count", "3", "--socket", &left_socket]);
    for _ in 0..3 {
        let (mut right, _) = start(&link, End::Right, &directory, "right.sock");
        let (code, out, err) = ping();
        assert_eq!(code, 0, "{out}{err}");
        signal(right.pid(), "KILL");
        right.end();
    }
    let (mut right, _) = start(&link, End::Right, &directory, "right.sock");
    assert_eq!(ping().0, 0);
    signal(right.pid(), "TERM");
    assert!(right.end().success());
}

#[test]
fn a_second_sidecar_on_the_same_address_is_told_who_has_it() {
    let Some(link) = Link::new() else { return };
    let directory = Directory::new("second-packet");
    let (first, _) = start(&link, End::Left, &directory, "first.sock");
    let err = refused(&link, End::Left, &["--address", &link.address(End::Left).to_string()]);
    assert!(err.contains(&format!("process {}", first.pid())), "{err}");
}

#[test]
fn the_status_shows_the_driver_and_what_its_socket_counts() {
    let Some(link) = Link::new() else { return };
    let directory = Directory::new("status-packet");
    let (_left, left_socket) = start(&link, End::Left, &directory, "left.sock");
    let (_right, _) = start(&link, End::Right, &directory, "right.sock");
    let other = link.address(End::Right).to_string();
    assert_eq!(run(&["ping", &other, "--count", "3", "--socket", &left_socket]).0, 0);
    let (code, out, _) = run(&["status", "--counters", "--socket", &left_socket]);
    assert_eq!(code, 0);
    for part in ["driver packet", "path_frames_received", "path_arp_received"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
}
