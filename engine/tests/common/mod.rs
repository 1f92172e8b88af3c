//! What the tests of whole sidecars share: one in this process, on a socket of its own, and applications attached to it.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use machnet_client::control::{Reply, Request};
use machnet_client::socket::Seqpacket;
use machnet_client::{AttachOptions, Attachment};
use machnet_engine::config::{Config, IdlePolicy};
use machnet_engine::driver::Driver;
use machnet_engine::sidecar::{Sidecar, StartError};
use machnet_engine::status::Status;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// No step of a test takes so long; a test that hangs ends with it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar that lives as long as the test, and its directory.
pub struct TestSidecar {
    pub sidecar: Option<Sidecar>,
    directory: PathBuf,
}

pub fn scratch_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("machnet-test-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

impl TestSidecar {
    /// A sidecar on `address` with any UDP port; `change` may change more.
    pub fn start(address: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(address, |mut config| {
            change(&mut config);
            Sidecar::start(&config)
        })
    }

    /// A sidecar whose only engine has this network path.
    pub fn start_over<D: Driver + 'static>(driver: D) -> Self {
        let address = driver.local_address().ip().to_string();
        Self::start_with(&address, |config| Sidecar::start_over(&config, vec![driver]))
    }

    /// A sidecar with an engine for each of these network paths.
    pub fn start_over_all<D: Driver + 'static>(drivers: Vec<D>) -> Self {
        let address = drivers[0].local_address().ip().to_string();
        Self::start_with(&address, |config| Sidecar::start_over(&config, drivers))
    }

    fn start_with(address: &str, start: impl FnOnce(Config) -> Result<Sidecar, StartError>) -> Self {
        let directory = scratch_directory();
        let config = Config {
            socket: directory.join("machnet.sock"),
            socket_mode: 0o600,
            address: address.parse().expect("an address"),
            udp_port: 0,
            idle: IdlePolicy::Auto,
            linger_ms: 300,
            ..Config::default()
        };
        let sidecar = start(config).expect("the sidecar starts");
        Self { sidecar: Some(sidecar), directory }
    }

    pub fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().expect("not shut down yet")
    }

    pub fn options(&self) -> AttachOptions {
        AttachOptions::new().socket(self.sidecar().socket())
    }

    pub fn attach(&self) -> Attachment {
        self.options().attach().expect("attaches")
    }

    pub fn ip(&self) -> IpAddr {
        self.sidecar().local_address().ip()
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

impl Drop for TestSidecar {
    fn drop(&mut self) {
        drop(self.sidecar.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What a sidecar tells of itself.
pub fn status(sidecar: &TestSidecar) -> Status {
    status_at(sidecar.sidecar().socket())
}

/// What the sidecar at this socket tells of itself.
pub fn status_at(socket: &Path) -> Status {
    let socket = Seqpacket::connect(socket).expect("the sidecar listens");
    socket.send(&Request::Status.encode(), &[]).expect("sends");
    let mut text = String::new();
    loop {
        match Reply::decode(&socket.receive().expect("an answer").bytes) {
            Ok(Reply::StatusText { last, text: piece }) => {
                text.push_str(&piece);
                if last {
                    return serde_json::from_str(&text).expect("JSON");
                }
            }
            other => panic!("no status: {other:?}"),
        }
    }
}

/// A counter, summed over all engines.
pub fn counter(sidecar: &TestSidecar, name: &str) -> u64 {
    status(sidecar).engines.iter().map(|engine| engine.counters[name]).sum()
}

/// Bytes that differ by message and place.
pub fn pattern(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(131)).to_le_bytes()[0]).collect()
}

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let steps = 4000;
    for _ in 0..steps {
        if done() {
            return;
        }
        std::thread::sleep(PATIENCE / steps);
    }
    panic!("not within {PATIENCE:?}: {what}");
}
