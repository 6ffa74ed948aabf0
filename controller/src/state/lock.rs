//! One owner of a state directory at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::TakeError;

/// A lock on the state directory. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// Another process has it, too: it is that one's to release.
    is_shared: bool,
}

/// The process that has a state directory, as it has signed. Only for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateOwner {
    /// Its number.
    pub pid: String,
    /// How it was started.
    pub command: String,
}

/// Who has a state directory now; none: nobody, or that can't be read. The directory is left as it is.
pub fn state_owner(state: &Path) -> Option<StateOwner> {
    let file = File::open(state.join("lock")).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Some(signed(&file)),
        // The file is closed, and with it the lock goes.
        _ => None,
    }
}

/// An owner that has not written its name yet still has the lock.
fn signed(file: &File) -> StateOwner {
    let mut owner = String::new();
    let _ = file.take(4096).read_to_string(&mut owner);
    let (pid, command) = owner
        .trim_end()
        .split_once('\n')
        .unwrap_or(("unknown", "unknown"));
    StateOwner {
        pid: pid.to_owned(),
        command: command.to_owned(),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_shared {
            return;
        }
        // Closing it is not enough: a child that another thread has just forked may have the
        // descriptor, too.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(state: &Path) -> Result<Self, TakeError> {
        let path = state.join("lock");
        let failed = |source| TakeError::State {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let StateOwner { pid, command } = signed(&file);
                return Err(TakeError::Locked {
                    state: state.to_owned(),
                    pid,
                    command,
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let mut lock = Self {
            file,
            is_shared: false,
        };
        lock.sign(&path);
        Ok(lock)
    }

    /// A lock that another process has handed over (`flock(2)`: it belongs to the open file, not to a process).
    pub(crate) fn of(file: OwnedFd, state: &Path) -> Self {
        let mut lock = Self {
            file: file.into(),
            is_shared: false,
        };
        lock.sign(&state.join("lock"));
        lock
    }

    /// The lock for another process. From now on this one does not release it.
    pub(crate) fn share(&mut self) -> io::Result<OwnedFd> {
        let file = self.file.as_fd().try_clone_to_owned()?;
        self.is_shared = true;
        Ok(file)
    }

    /// The other process does not have it any more.
    pub(crate) fn keep(&mut self) {
        self.is_shared = false;
    }

    /// Writes who has the lock into the file.
    fn sign(&mut self, path: &Path) {
        let command: Vec<_> = std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let owner = format!("{}\n{}\n", std::process::id(), command.join(" "));
        // The name is for a message alone: a full disk must not keep Fairway from starting.
        let file = &mut self.file;
        let named = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(owner.as_bytes()));
        if let Err(error) = named {
            tracing::warn!(%error, path = %path.display(), "can't write the owner's name");
        }
    }
}

/// Makes a directory and those above it, where they are missing.
pub(crate) fn make_directory(path: &Path) -> Result<(), TakeError> {
    std::fs::create_dir_all(path).map_err(|source| TakeError::State {
        path: PathBuf::from(path),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_owner_is_known_as_long_as_it_has_the_lock() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(state_owner(state.path()), None, "nobody ever had it");
        let lock = Lock::take(state.path()).unwrap();
        let owner = state_owner(state.path()).unwrap();
        assert_eq!(owner.pid, std::process::id().to_string());
        assert!(matches!(
            Lock::take(state.path()),
            Err(TakeError::Locked { pid, .. }) if pid == owner.pid
        ));
        drop(lock);
        assert_eq!(state_owner(state.path()), None, "its name is left");
        let _next = Lock::take(state.path()).unwrap();
    }
}
