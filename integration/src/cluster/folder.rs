//! Where a control plane keeps its files.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A folder in memory. Nobody outside this process's mount namespace sees it, and it goes with the
/// namespace whatever becomes of the process.
#[derive(Debug)]
pub(super) struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub(super) fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-cluster-")?;
        mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            // What is not written takes no memory; 20,000 Services are 300 MB.
            Some(c"size=4g,mode=0700"),
        )
        .context("no tmpfs for the control plane")?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Lazily: a program that was just killed may hold a file a moment longer.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
