//! The attach handshake: the memory of a channel is made, given to the application, sealed, and mapped.

use crate::tenant::{Bells, Identity, Tenant};
use machnet_client::control::{DoorbellKind, FailureCode, OLDEST_VERSION, VERSION};
use machnet_client::shm::Geometry;
use machnet_client::shm::atomic::Ordering;
use machnet_client::shm::layout::{self, MAGIC};
use machnet_client::shm::region::{self, Mapping, Write};
use machnet_client::shm::ring::WritableMemory;
use machnet_client::socket;
use std::io;
use std::os::fd::OwnedFd;

/// A channel between Welcome and Mapped.
#[derive(Debug)]
pub(super) struct PendingAttach {
    geometry: Geometry,
    identity: Identity,
    /// Kept until the application has mapped it and it can be sealed.
    application_region: OwnedFd,
    ours: Mapping<Write>,
    bells: Bells,
    pub(super) engine: u32,
}

/// The version that both sides speak.
pub(super) fn agree_on_version(theirs: (u32, u32)) -> Result<u32, (FailureCode, String)> {
    let version = theirs.1.min(VERSION);
    if version < theirs.0 || version < OLDEST_VERSION {
        let text = format!(
            "this sidecar speaks versions {OLDEST_VERSION} to {VERSION} of the channel, the application {} to {}",
            theirs.0, theirs.1
        );
        return Err((FailureCode::Version, text));
    }
    Ok(version)
}

impl PendingAttach {
    /// Makes the memory and the doorbell. Answers what goes to the application with the Welcome, in its order.
    pub(super) fn make(
        geometry: Geometry,
        doorbell: DoorbellKind,
        identity: Identity,
        engine: u32,
    ) -> io::Result<(Self, Vec<OwnedFd>)> {
        let application_region = region::create(c"machnet-application", geometry.application_bytes())?;
        let engine_region = region::create(c"machnet-engine", geometry.engine_bytes())?;
        let ours = Mapping::writable(&engine_region, geometry.engine_bytes())?;
        write_header(&ours);
        let mut given = vec![application_region.try_clone()?, region::read_only(&engine_region)?];
        let bells = match doorbell {
            DoorbellKind::Pipe => {
                let (application_reads, we_write) = socket::pipe()?;
                let (we_read, application_writes) = socket::pipe()?;
                given.push(application_reads);
                given.push(application_writes);
                Bells { application: we_write, engine: Some(we_read) }
            }
            DoorbellKind::Socket => {
                let (our_end, application_end) = socket::stream_pair()?;
                given.push(application_end);
                Bells { application: our_end, engine: None }
            }
        };
        Ok((Self { geometry, identity, application_region, ours, bells, engine }, given))
    }

    /// The application has mapped its region: from now on nobody can map it for writing, cut it or punch holes into it.
    pub(super) fn seal(self) -> io::Result<Tenant> {
        region::seal_writer(&self.application_region)?;
        if !region::is_sealed(&self.application_region)? {
            return Err(io::Error::other("the application's region took no seals"));
        }
        let theirs = Mapping::read_only(&self.application_region, self.geometry.application_bytes())?;
        Ok(Tenant::new(self.identity, self.geometry, theirs, self.ours, self.bells))
    }

    /// Number of the channel to be.
    pub(super) fn channel(&self) -> u64 {
        self.identity.channel
    }
}

/// Magic and version for the application's eyes, the magic last: what it marks is complete.
fn write_header(ours: &Mapping<Write>) {
    let words = ours.words_mut::<2>(0);
    words[1].store(u64::from(layout::VERSION), Ordering::Relaxed);
    words[0].store(MAGIC, Ordering::Release);
}
