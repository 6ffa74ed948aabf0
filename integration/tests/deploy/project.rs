//! Where the project's files are.

use std::path::{Path, PathBuf};

/// A file of the project's, by its path from the top.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
