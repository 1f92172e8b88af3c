//! An application without the library: it says what it wants on the control socket and writes what it wants into its region.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use machnet_client::control::{ANY_ENGINE, DoorbellKind, Reply, Request, VERSION};
use machnet_client::shm::Geometry;
use machnet_client::shm::region::{Mapping, Read, Write};
use machnet_client::shm::ring::WritableMemory;
use machnet_client::socket::Seqpacket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

#[allow(dead_code, reason = "each test uses a part of it")]
pub struct RawApp {
    pub socket: Seqpacket,
    pub channel: u64,
    pub geometry: Geometry,
    pub ours: Mapping<Write>,
    pub theirs: Mapping<Read>,
    pub region: OwnedFd,
    bells: Vec<OwnedFd>,
}

pub fn hello(geometry: Geometry, engine: u32) -> Request {
    Request::Hello {
        versions: (1, VERSION),
        geometry,
        doorbell: DoorbellKind::Pipe,
        engine,
        name: "raw".to_owned(),
    }
}

pub fn connect(path: &Path) -> Seqpacket {
    let socket = Seqpacket::connect(path).expect("the sidecar listens");
    socket.set_receive_timeout(10_000).expect("takes a timeout");
    socket
}

/// The next reply, or nothing at the end of the connection.
pub fn reply(socket: &Seqpacket) -> Option<Reply> {
    let record = socket.receive().ok()?;
    (!record.bytes.is_empty()).then(|| Reply::decode(&record.bytes).expect("the sidecar speaks well"))
}

impl RawApp {
    pub fn attach(path: &Path, geometry: Geometry) -> Self {
        let socket = connect(path);
        socket.send(&hello(geometry, ANY_ENGINE).encode(), &[]).expect("sends");
        let record = socket.receive().expect("an answer");
        let Ok(Reply::Welcome { channel, geometry, .. }) = Reply::decode(&record.bytes) else {
            panic!("no welcome: {:?}", Reply::decode(&record.bytes));
        };
        let mut descriptors = record.descriptors.into_iter();
        let region = descriptors.next().expect("our region");
        let engine_region = descriptors.next().expect("the engine's region");
        let ours = Mapping::writable(&region, geometry.application_bytes()).expect("maps");
        let theirs = Mapping::read_only(&engine_region, geometry.engine_bytes()).expect("maps");
        assert!(
            Mapping::writable(&engine_region, geometry.engine_bytes()).is_err(),
            "an application cannot write where the engine writes"
        );
        socket.send(&Request::Mapped.encode(), &[]).expect("sends");
        assert_eq!(reply(&socket), Some(Reply::Attached));
        assert!(
            Mapping::writable(&region, geometry.application_bytes()).is_err(),
            "once attached, nobody maps the region for writing again"
        );
        Self { socket, channel, geometry, ours, theirs, region, bells: descriptors.collect() }
    }

    pub fn store(&self, offset: usize, word: u64) {
        self.ours.words_mut::<1>(offset)[0].store(word, Ordering::SeqCst);
    }

    /// Wakes the engine, whether it asked for it or not.
    pub fn ring(&self) {
        let _ = machnet_client::socket::ring(self.bells[1].as_fd(), false);
    }
}
