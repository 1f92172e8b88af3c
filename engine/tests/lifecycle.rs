//! Applications come, misbehave, and go in every way; the sidecar stays as it was.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use common::{PATIENCE, TestSidecar, eventually};
use machnet_client::control::{ANY_ENGINE, FailureCode, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::shm::layout::RING_OFFSET;
use machnet_client::{AttachOptions, Error};
use machnet_engine::status::Status;
use raw::{RawApp, connect, hello, reply};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: some of them count the descriptors of this process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status(path: &Path) -> Status {
    let socket = connect(path);
    socket.send(&Request::Status.encode(), &[]).unwrap();
    let mut text = String::new();
    loop {
        match reply(&socket) {
            Some(Reply::StatusText { last, text: piece }) => {
                text.push_str(&piece);
                if last {
                    return serde_json::from_str(&text).unwrap();
                }
            }
            other => panic!("no status: {other:?}"),
        }
    }
}

fn counter(path: &Path, name: &str) -> u64 {
    status(path).engines.iter().map(|engine| engine.counters[name]).sum()
}

fn channels(path: &Path) -> usize {
    status(path).engines.iter().map(|engine| engine.channels.len()).sum()
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// Runs `role` of [`a_child_application`] in a process of its own.
fn spawn(role: &str, sidecar: &TestSidecar, port: u16) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_application", "--nocapture"])
        .env("MACHNET_TEST_ROLE", role)
        .env("MACHNET_TEST_SOCKET", sidecar.sidecar().socket())
        .env("MACHNET_TEST_PORT", format!("{}", sidecar.at(port)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: what the processes of the other tests do.
#[test]
fn a_child_application() {
    let Ok(role) = std::env::var("MACHNET_TEST_ROLE") else { return };
    let socket = std::env::var("MACHNET_TEST_SOCKET").unwrap();
    let app = AttachOptions::new().socket(socket).name("child").attach().unwrap();
    let flow = app.connect(std::env::var("MACHNET_TEST_PORT").unwrap()).unwrap();
    match role.as_str() {
        "send and exit" => {
            for number in 0..100_u32 {
                flow.send(&number.to_le_bytes()).unwrap();
            }
            flow.send(&vec![7; 300_000]).unwrap();
            std::process::exit(0);
        }
        "send and be killed" => {
            flow.send(b"ready").unwrap();
            loop {
                flow.send_timeout(&[1; 1000], PATIENCE).unwrap();
            }
        }
        "fork and be killed" => {
            flow.send(b"ready").unwrap();
            // The child inherits nothing but holds the control socket's file open only if it is not closed on exec; a
            // sleeping child process shows that the end is noticed all the same.
            let mut child = Command::new("sleep").arg("3").spawn().unwrap();
            std::thread::sleep(PATIENCE);
            child.wait().unwrap();
        }
        other => panic!("no role {other}"),
    }
}

/// One engine for all applications, and one for each.
const ENGINES: [u32; 2] = [1, 3];

#[test]
fn an_application_that_sends_and_exits_has_sent() {
    let _alone = alone();
    ENGINES.into_iter().for_each(sends_and_exits);
}

fn sends_and_exits(engines: u32) {
    let sidecar =
        TestSidecar::start("127.0.0.1", |config| (config.linger_ms, config.engines) = (2_000, engines));
    let server = sidecar.attach();
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let mut child = spawn("send and exit", &sidecar, listener.local_addr().port());
    let flow = listener.accept_timeout(PATIENCE).unwrap();
    assert!(child.wait().unwrap().success());
    for number in 0..100_u32 {
        assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), &number.to_le_bytes());
    }
    assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), &vec![7; 300_000]);
    assert!(matches!(flow.recv_timeout(PATIENCE), Err(Error::Closed)));
}

#[test]
fn the_peers_of_a_killed_application_are_told_and_its_memory_is_freed() {
    let _alone = alone();
    ENGINES.into_iter().for_each(is_killed);
}

fn is_killed(engines: u32) {
    let sidecar = TestSidecar::start("127.0.0.1", |config| config.engines = engines);
    let path = sidecar.sidecar().socket().to_owned();
    let server = sidecar.attach();
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    for role in ["send and be killed", "fork and be killed"] {
        let mut child = spawn(role, &sidecar, listener.local_addr().port());
        let flow = listener.accept_timeout(PATIENCE).unwrap();
        assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), b"ready");
        child.kill().unwrap();
        child.wait().unwrap();
        let end = loop {
            match flow.recv_timeout(PATIENCE) {
                Ok(message) => assert_eq!(&*message, &[1; 1000]),
                Err(error) => break error,
            }
        };
        assert!(matches!(end, Error::Closed | Error::Reset { .. }), "{end:?}");
        eventually("the channel is gone", || channels(&path) == 1);
    }
}

#[test]
fn an_application_that_breaks_a_rule_ends_alone() {
    let _alone = alone();
    ENGINES.into_iter().for_each(breaks_a_rule);
}

fn breaks_a_rule(engines: u32) {
    let sidecar = TestSidecar::start("127.0.0.1", |config| config.engines = engines);
    let path = sidecar.sidecar().socket().to_owned();
    let (server, client) = (sidecar.attach(), sidecar.attach());
    let listener = server.listen("0.0.0.0:0", 8).unwrap();
    let flow = client.connect(listener.local_addr()).unwrap();
    let accepted = listener.accept_timeout(PATIENCE).unwrap();
    // | sequence u32 | kind u8 | count u8 | inline length u16 |, then | flow u32 | argument u32 |
    let faults = [
        ("peer_fault_sequence", 77_u64, 0_u64),
        ("peer_fault_kind", 1 | 99 << 32, 0),
        ("peer_fault_length", 1 | 1 << 32 | 500 << 48, 500 << 32),
        ("peer_fault_flow", 1 | 1 << 32 | 5 << 48, 3 | 5 << 32),
        ("peer_fault_flow", 1 | 4 << 32, 0),
    ];
    for (name, head, more) in faults {
        let before = counter(&path, name);
        let raw = RawApp::attach(&path, Geometry::SMALL);
        raw.store(RING_OFFSET + 8, more);
        raw.store(RING_OFFSET, head);
        raw.ring();
        let end = std::iter::from_fn(|| reply(&raw.socket)).last();
        assert!(matches!(end, Some(Reply::Failed { code: FailureCode::Unexpected, .. })), "{end:?}");
        assert_eq!(counter(&path, name), before + 1, "{name}");
        flow.send(b"still here").unwrap();
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"still here");
    }
    assert_eq!(counter(&path, "channels_faulted"), 5);
    assert_eq!(channels(&path), 2);
}

#[test]
fn what_cannot_be_attached_is_refused_with_its_reason() {
    let _alone = alone();
    let sidecar = TestSidecar::start("127.0.0.1", |config| config.max_channels = 1);
    let path = sidecar.sidecar().socket().to_owned();
    let ask = |request: Request| {
        let socket = connect(&path);
        socket.send(&request.encode(), &[]).unwrap();
        match reply(&socket) {
            Some(Reply::Failed { code, .. }) => code,
            other => panic!("not refused: {other:?}"),
        }
    };
    let odd = Geometry { send_slots: 100, ..Geometry::SMALL };
    assert_eq!(ask(hello(odd, ANY_ENGINE)), FailureCode::Geometry);
    assert_eq!(ask(hello(Geometry::SMALL, 5)), FailureCode::NoEngine);
    let named = AttachOptions::new().socket(&path).engine_named("engine5").unwrap().attach();
    let text = named.expect_err("there is no such engine").to_string();
    assert_eq!(text, "the sidecar has no engine5: it has engine0");
    let Request::Hello { geometry, doorbell, engine, name, .. } = hello(Geometry::SMALL, ANY_ENGINE) else {
        unreachable!()
    };
    let future = Request::Hello { versions: (900, 901), geometry, doorbell, engine, name };
    assert_eq!(ask(future), FailureCode::Version);
    assert_eq!(
        ask(Request::Listen { request: 1, local: sidecar.at(1), backlog: 1 }),
        FailureCode::Unexpected
    );
    let _only = sidecar.attach();
    assert_eq!(ask(hello(Geometry::SMALL, ANY_ENGINE)), FailureCode::Full);
    assert!(matches!(sidecar.options().attach(), Err(Error::AttachRefused { .. })));
}

#[test]
fn a_malformed_record_ends_its_connection_and_is_counted() {
    let _alone = alone();
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let path = sidecar.sidecar().socket().to_owned();
    for record in [&b"\xff"[..], b"\x01\x02", b"\x02", &[1; 60_000]] {
        let socket = connect(&path);
        socket.send(record, &[]).unwrap();
        assert_eq!(reply(&socket), None, "the connection ends");
    }
    assert_eq!(status(&path).controller["malformed_records"], 4);
}

#[test]
fn connections_that_never_attach_do_not_keep_others_out() {
    let _alone = alone();
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let path = sidecar.sidecar().socket().to_owned();
    let silent: Vec<_> = (0..200).map(|_| connect(&path)).collect();
    let _app = sidecar.attach();
    assert!(status(&path).controller["pending_dropped"] >= 100);
    drop(silent);
}

#[test]
fn a_second_sidecar_on_the_same_socket_or_address_is_told_so() {
    use machnet_engine::config::Config;
    use machnet_engine::sidecar::{Sidecar, StartError};
    let _alone = alone();
    let sidecar = TestSidecar::start("127.0.0.1", |_| {});
    let taken = sidecar.sidecar();
    let config = Config { socket: taken.socket().to_owned(), udp_port: 0, ..Config::default() };
    assert!(matches!(Sidecar::start(&config), Err(StartError::SocketInUse { .. })));
    let directory = common::scratch_directory();
    let socket = directory.join("other.sock");
    let config =
        Config { socket: socket.clone(), udp_port: taken.local_address().port(), ..Config::default() };
    assert!(matches!(Sidecar::start(&config), Err(StartError::Driver(_))));
    assert!(!socket.exists(), "what was made is removed again");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_thousand_applications_that_come_and_go_leave_nothing_behind() {
    let _alone = alone();
    come_and_go(1, 1_000);
}

#[test]
fn applications_that_come_and_go_on_several_engines_leave_nothing_behind() {
    let _alone = alone();
    come_and_go(3, 300);
}

fn come_and_go(engines: u32, rounds: usize) {
    let sidecar =
        TestSidecar::start("127.0.0.1", |config| (config.linger_ms, config.engines) = (50, engines));
    let path = sidecar.sidecar().socket().to_owned();
    let server = sidecar.attach();
    let listener = server.listen("0.0.0.0:0", 64).unwrap();
    let round = |number: usize| {
        if number.is_multiple_of(50) {
            let mut child = spawn("send and be killed", &sidecar, listener.local_addr().port());
            let flow = listener.accept_timeout(PATIENCE).unwrap();
            assert_eq!(&*flow.recv_timeout(PATIENCE).unwrap(), b"ready");
            child.kill().unwrap();
            child.wait().unwrap();
        } else if number.is_multiple_of(2) {
            let app = sidecar.options().geometry(Geometry::SMALL).attach().unwrap();
            let flow = app.connect(listener.local_addr()).unwrap();
            flow.send(b"hello and good bye").unwrap();
            let _accepted = listener.accept_timeout(PATIENCE).unwrap();
        } else {
            // As a process that dies at once leaves it: the socket hangs up, nothing was closed.
            drop(RawApp::attach(&path, Geometry::SMALL));
        }
    };
    let settled = || {
        eventually("all channels are gone", || channels(&path) == 1);
        // The sidecar's end of the last status connection goes a moment after ours.
        std::thread::sleep(std::time::Duration::from_millis(100));
        (entries("/proc/self/fd"), entries("/proc/self/task"), resident_pages())
    };
    (0..100).for_each(round);
    let before = settled();
    (100..100 + rounds).for_each(round);
    let after = settled();
    assert_eq!(before.0, after.0, "descriptors");
    assert_eq!(before.1, after.1, "threads");
    assert!(after.2 < before.2 + 2048, "memory in pages: {} before, {} after", before.2, after.2);
    assert_eq!(channels(&path), 1);
}

fn resident_pages() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}
