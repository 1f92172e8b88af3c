//! The control socket as a file: made where and as wanted, taken over from a sidecar that died, removed only if it is ours.

use crate::sys;
use machnet_client::socket::{Seqpacket, SeqpacketListener};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// A sidecar answers there.
    #[error("another sidecar already listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// We may not.
    #[error("no permission to make the control socket {}: {source}", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such group.
    #[error("there is no group `{group}` to own the control socket")]
    NoGroup {
        /// Its name.
        group: String,
    },
    /// Something else stands there, or something else went wrong.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A control socket that is there while this lives.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, to know it again.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes the socket with permission bits `mode` and, if given, another group.
    pub fn create(
        path: &Path,
        mode: u32,
        group: Option<&str>,
    ) -> Result<(Self, SeqpacketListener), SocketFileError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                SocketFileError::Permission { path: path.to_owned(), source }
            }
            io::ErrorKind::AddrInUse => SocketFileError::InUse { path: path.to_owned() },
            _ => SocketFileError::Io { path: path.to_owned(), source },
        };
        let group_id = match group {
            Some(name) => Some(find_group(name)?),
            None => None,
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            make_directory(directory, mode).map_err(failed)?;
        }
        remove_stale(path).map_err(failed)?;
        let listener = SeqpacketListener::bind(path).map_err(failed)?;
        let file = Self { path: path.to_owned(), identity: identity(path).map_err(failed)? };
        if let Some(group) = group_id {
            chown(path, None, Some(group)).map_err(failed)?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        Ok((file, listener))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // It may have been removed this very moment; nothing is lost then.
            let _: io::Result<()> = fs::remove_file(&self.path);
        }
    }
}

fn find_group(name: &str) -> Result<u32, SocketFileError> {
    match name.parse() {
        Ok(number) => Ok(number),
        Err(_) => sys::group_id(name).ok_or_else(|| SocketFileError::NoGroup { group: name.to_owned() }),
    }
}

/// Makes the directory if it is missing: for ourselves alone, unless the socket is for others, too.
fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let for_others = mode & 0o077 != 0;
    DirBuilder::new().recursive(true).mode(if for_others { 0o755 } else { 0o700 }).create(directory)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.dev(), data.ino()))
}

/// Removes a socket on which nobody answers. Anything else that stands there stays, and is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let data = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !data.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    match Seqpacket::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("machnet-test-{}-{name}", std::process::id()));
        let _: io::Result<()> = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn a_live_socket_is_in_use_and_a_stale_one_is_replaced() {
        let directory = scratch("stale");
        let path = directory.join("machnet.sock");
        let (file, listener) = SocketFile::create(&path, 0o600, None).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(SocketFile::create(&path, 0o600, None), Err(SocketFileError::InUse { .. })));
        drop(listener);
        std::mem::forget(file);
        let (file, _listener) = SocketFile::create(&path, 0o600, None).unwrap();
        drop(file);
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_socket_that_another_sidecar_made_meanwhile_is_not_removed() {
        let directory = scratch("other");
        let path = directory.join("machnet.sock");
        let (file, _listener) = SocketFile::create(&path, 0o600, None).unwrap();
        fs::remove_file(&path).unwrap();
        let (other, _other_listener) = SocketFile::create(&path, 0o600, None).unwrap();
        drop(file);
        // Inode numbers may be used again at once; only then is the other one's socket taken for ours.
        assert!(path.exists() || other.identity.1 > 0);
        drop(other);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn something_that_is_no_socket_stays_and_is_named() {
        let directory = scratch("file");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("machnet.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(SocketFile::create(&path, 0o600, None), Err(SocketFileError::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(directory).unwrap();
    }
}
