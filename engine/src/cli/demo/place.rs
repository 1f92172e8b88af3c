//! Where the demo's sidecars live: a directory of their own and a UDP port that is free on both addresses.

use super::plan;
use crate::cli::{Exit, Failure, Outcome, sys};
use std::fs::{self, DirBuilder};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The first sidecar's address: the client's side.
pub(crate) const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
/// The second sidecar's address: the server's side. Linux takes all of 127.0.0.0/8 for itself.
pub(crate) const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const PREFIX: &str = "machnet-demo-";
const SOCKETS: [&str; 2] = ["first.sock", "second.sock"];
const MEMIF: &str = "memif.sock";
/// Ports that are tried, so that a demo beside a sidecar or another demo finds its own.
const PORTS: std::ops::Range<u16> = 31_700..31_900;

/// A directory that goes when this value goes.
#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
}

impl Place {
    /// Makes the directory, for this user only.
    pub(crate) fn new() -> Outcome<Self> {
        let parent = std::env::temp_dir();
        remove_leftovers(&parent);
        let directory = parent.join(format!("{PREFIX}{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot make the directory {}: {error}", directory.display()))
        })?;
        Ok(Self { directory })
    }

    /// The socket of the first (0) or second (1) sidecar.
    pub(crate) fn socket(&self, index: usize) -> String {
        self.directory.join(SOCKETS[index]).to_string_lossy().into_owned()
    }
}

impl Place {
    /// The socket of the first (0) or second (1) sidecar of a path that has sidecars of its own.
    pub(crate) fn socket_of(&self, path: plan::Path, index: usize) -> String {
        let number = plan::Path::WIRED.iter().position(|wired| *wired == path).unwrap_or(0);
        self.directory.join(format!("{number}-{}", SOCKETS[index])).to_string_lossy().into_owned()
    }

    /// The socket of DPDK's memif.
    pub(crate) fn memif(&self) -> String {
        self.directory.join(MEMIF).to_string_lossy().into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes exactly what a demo makes, and the directory only if nothing else is in it.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let name = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
        if SOCKETS.iter().chain([&MEMIF]).any(|socket| name.starts_with(socket)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// A demo that was killed outright could not clean up. Its processes are gone; the next demo removes its directory.
fn remove_leftovers(parent: &Path) {
    let our_user = fs::metadata("/proc/self").map(|process| process.uid()).ok();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse().ok())
        else {
            continue;
        };
        let is_ours = entry.metadata().ok().map(|directory| directory.uid()) == our_user;
        if is_ours && !sys::process_exists(pid) {
            remove(&entry.path());
        }
    }
}

/// A UDP port that is free on both addresses now.
pub(crate) fn free_udp_port() -> Outcome<u16> {
    let start = usize::try_from(std::process::id()).unwrap_or(0) % PORTS.len();
    let is_free = |port: &u16| [FIRST, SECOND].iter().all(|&ip| UdpSocket::bind((ip, *port)).is_ok());
    PORTS.cycle().skip(start).take(PORTS.len()).find(is_free).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!(
                "no UDP port from {} to {} is free on both {FIRST} and {SECOND}; does this system allow {SECOND}?",
                PORTS.start,
                PORTS.end - 1
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_value_and_leftovers_of_the_dead_go_too() {
        let place = Place::new().unwrap();
        let directory = place.directory.clone();
        fs::write(place.socket(0), "").unwrap();
        drop(place);
        assert!(!directory.exists());

        // No process has this number: the kernel's limit is 4,194,304.
        let left = std::env::temp_dir().join(format!("{PREFIX}4194305"));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join(SOCKETS[1]), "").unwrap();
        drop(Place::new().unwrap());
        assert!(!left.exists());
    }
}
