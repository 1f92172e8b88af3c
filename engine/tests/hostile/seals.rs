//! Attempts to take back what the seals gave away: the right to write, the size, the pages.

use crate::raw::{Raw, TINY, Welcomed};
use crate::sys::{self, Area};
use machnet_client::control::DoorbellKind;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn file(region: &OwnedFd) -> File {
    region.try_clone().expect("a descriptor is duplicated").into()
}

/// Everything that must be refused after the attach.
pub fn try_all(path: &Path) {
    let made = Welcomed::new(path, TINY, DoorbellKind::Pipe);
    let g = made.geometry;
    // Made before the seals, so that it stays writable.
    let early = Area::map(made.region.as_fd(), g.application_bytes(), true).expect("its own region");
    let mut raw = made.mapped();
    let (own, engines) = (&raw.made.region, &raw.made.engine_region);
    let bytes = g.application_bytes();
    for length in [0, bytes as u64 - 4096, bytes as u64 + 4096, 1 << 40] {
        assert!(file(own).set_len(length).is_err(), "its own region keeps its size");
        assert!(file(engines).set_len(length).is_err(), "the engine's region keeps its size");
    }
    assert!(sys::punch_hole(own.as_fd(), bytes).is_err(), "no hole in its own region");
    assert!(sys::punch_hole(engines.as_fd(), g.engine_bytes()).is_err(), "no hole in the engine's region");
    assert!(early.remove_pages().is_err(), "no hole through an early mapping");
    assert!(Area::map(own.as_fd(), bytes, true).is_err(), "no later writable mapping of its own region");
    let late = Area::map(own.as_fd(), bytes, false).expect("it can be read");
    assert!(late.make_writable().is_err(), "no right to write afterwards");
    assert!(file(own).write_at(&[1], 4096).is_err(), "no write past the mapping");
    for seals in [libc::F_SEAL_WRITE, libc::F_SEAL_SEAL, libc::F_SEAL_GROW] {
        assert!(sys::add_seals(own.as_fd(), seals).is_err(), "no more seals on its own region");
        assert!(sys::add_seals(engines.as_fd(), seals).is_err(), "no more seals on the engine's region");
    }
    if let Ok(again) = reopen(own) {
        assert!(Area::map(again.as_fd(), bytes, true).is_err(), "nor by opening it again");
    }
    assert!(file(engines).write_at(&[1], 0).is_err(), "the engine's region is not written");
    assert!(Area::map(engines.as_fd(), g.engine_bytes(), true).is_err(), "nor mapped for writing");
    let theirs = Area::map(engines.as_fd(), g.engine_bytes(), false).expect("it can be read");
    assert!(theirs.make_writable().is_err(), "nor made writable");
    drop(theirs);
    as_a_stranger(&raw);
    assert!(raw.pair().is_some(), "the channel works on");
}

fn reopen(region: &OwnedFd) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", region.as_raw_fd()))
}

/// An application of another user cannot open the engine's region for writing, nor change its mode. (Between processes of
/// one user the regions are no boundary, and root may do everything.)
fn as_a_stranger(raw: &Raw) {
    let engines = &raw.made.engine_region;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if sys::is_root() && !sys::become_nobody() {
                return; // Root without the right to be somebody else: nothing to be shown here.
            }
            assert!(reopen(engines).is_err(), "the engine's region is not opened for writing");
            if sys::is_root() {
                assert!(sys::change_mode(engines.as_fd(), 0o600).is_err(), "its mode stays");
            }
        });
    });
}
