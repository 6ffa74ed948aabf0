//! One owner of a state directory at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::TakeError;

/// A lock on the state directory. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // Only for the message: an owner that has not written its name yet still has the
                // lock.
                let mut owner = String::new();
                let _ = (&file).take(4096).read_to_string(&mut owner);
                let (pid, command) = match owner.trim_end().split_once('\n') {
                    Some((pid, command)) => (pid.to_owned(), command.to_owned()),
                    None => ("unknown".to_owned(), "unknown".to_owned()),
                };
                return Err(TakeError::Locked {
                    state: state.to_owned(),
                    pid,
                    command,
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let command: Vec<_> = std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let owner = format!("{}\n{}\n", std::process::id(), command.join(" "));
        // The name is for a message alone: a full disk must not keep Fairway from starting.
        let named = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(owner.as_bytes()));
        if let Err(error) = named {
            tracing::warn!(%error, path = %path.display(), "can't write the owner's name");
        }
        Ok(Self { file })
    }
}

/// Makes a directory and those above it, where they are missing.
pub(crate) fn make_directory(path: &Path) -> Result<(), TakeError> {
    std::fs::create_dir_all(path).map_err(|source| TakeError::State {
        path: PathBuf::from(path),
        source,
    })
}
