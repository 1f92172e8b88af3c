//! How to attach: where the sidecar is, which engine, what sizes, how to wait.

use crate::attachment::Attachment;
use crate::channel::Channel;
use crate::control::{ANY_ENGINE, DoorbellKind};
use crate::error::{Error, Result};
use crate::shm::Geometry;
use crate::wait::WaitPolicy;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a sidecar of the system listens.
pub const SYSTEM_SOCKET: &str = "/run/machnet/machnet.sock";
/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "MACHNET_SOCKET";

/// Everything that can be chosen at attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) engine: u32,
    pub(crate) doorbell: DoorbellKind,
    pub(crate) geometry: Geometry,
    pub(crate) name: Option<String>,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) linger: Duration,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            socket: None,
            engine: ANY_ENGINE,
            doorbell: DoorbellKind::default(),
            geometry: Geometry::DEFAULT,
            name: None,
            wait_policy: WaitPolicy::Auto,
            linger: Duration::from_secs(1),
        }
    }
}

impl AttachOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sidecar's control socket. Else `$MACHNET_SOCKET`, else the user's own if it exists, else the system's.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The engine that shall serve the channel; default: the sidecar chooses.
    #[must_use]
    pub fn engine(mut self, engine: u32) -> Self {
        self.engine = engine;
        self
    }

    /// As [`Self::engine`], by the engine's name or number as text; see [`engine_number`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the text is neither.
    pub fn engine_named(self, name: &str) -> Result<Self> {
        Ok(self.engine(engine_number(name)?))
    }

    /// What `event_fd` is: a pipe (default) or a socket.
    #[must_use]
    pub fn doorbell(mut self, kind: DoorbellKind) -> Self {
        self.doorbell = kind;
        self
    }

    /// The channel's sizes.
    #[must_use]
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = geometry;
        self
    }

    /// The name that `machnet status` shows; default: the program's.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// How blocking calls wait.
    #[must_use]
    pub fn wait_policy(mut self, policy: WaitPolicy) -> Self {
        self.wait_policy = policy;
        self
    }

    /// How long `close` of the channel waits for what was sent to be acknowledged; default 1 s.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Attaches; the handle may be used from any thread.
    ///
    /// # Errors
    /// [`Error::NoSidecar`], [`Error::SocketPermission`], [`Error::Version`], [`Error::AttachRefused`],
    /// [`Error::NoEngine`], [`Error::TimedOut`] after 5 s, [`Error::InvalidArgument`] for impossible sizes.
    pub fn attach(self) -> Result<Attachment> {
        Ok(Attachment::new(self.attach_channel()?))
    }

    /// Attaches; the handle is for one thread at a time and takes no lock.
    ///
    /// # Errors
    /// As for [`Self::attach`].
    pub fn attach_channel(self) -> Result<Channel> {
        if let Some(fault) = self.geometry.fault() {
            return Err(Error::invalid(fault));
        }
        crate::attach::attach(self)
    }

    /// The socket that will be tried.
    pub fn socket_path(&self) -> PathBuf {
        if let Some(path) = &self.socket {
            return path.clone();
        }
        socket_candidates().into_iter().next().unwrap_or_else(|| SYSTEM_SOCKET.into())
    }

    pub(crate) fn program_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let program = std::env::args_os().next().unwrap_or_default();
            Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned()
        })
    }
}

/// The number of an engine that is named as `machnet status` does: "engine0", "engine 0" or "0".
///
/// # Errors
/// [`Error::InvalidArgument`] for any other text.
pub fn engine_number(name: &str) -> Result<u32> {
    let number = name.strip_prefix("engine").map_or(name, |rest| rest.strip_prefix(' ').unwrap_or(rest));
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    let parsed = number.parse().ok().filter(|&parsed| is_number && parsed != ANY_ENGINE);
    parsed.ok_or_else(|| Error::invalid(format!("{name:?} is no engine: \"engine0\" is one, or its number")))
}

/// Where `machnet up` listens if not told otherwise: root at the system's place, others in their runtime directory.
pub fn default_socket_path() -> PathBuf {
    let user = crate::socket::effective_user();
    if user == 0 {
        return SYSTEM_SOCKET.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => Path::new(&directory).join("machnet/machnet.sock"),
        None => PathBuf::from(format!("/tmp/machnet-{user}/machnet.sock")),
    }
}

/// The socket that attach uses if none is named: `$MACHNET_SOCKET` alone if it is set; else the user's own if it exists,
/// then the system's.
pub fn socket_candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let own = default_socket_path();
    let system = PathBuf::from(SYSTEM_SOCKET);
    let mut candidates = Vec::new();
    if own != system && own.exists() {
        candidates.push(own);
    }
    candidates.push(system);
    candidates
}

/// Attaches with the defaults: `AttachOptions::new().attach()`.
///
/// # Errors
/// As for [`AttachOptions::attach`].
pub fn attach() -> Result<Attachment> {
    AttachOptions::new().attach()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named_as_status_names_them_or_by_number() {
        for (name, number) in
            [("engine0", 0), ("engine 3", 3), ("12", 12), ("engine4294967294", 4_294_967_294)]
        {
            assert_eq!(engine_number(name).ok(), Some(number), "{name}");
        }
        for name in
            ["", "engine", "engine ", "engine-1", "-1", "+1", "Engine0", "engine  1", "4294967295", "1 "]
        {
            assert!(matches!(engine_number(name), Err(Error::InvalidArgument { .. })), "{name}");
        }
    }
}
