//! Where what is built for tests is kept: outside the clone, in the user's cache directory, so that
//! a second clone on the same machine is tested in a short time too.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// The top of the work tree.
pub(crate) fn root() -> PathBuf {
    // This crate lies in integration/xtask.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Cargo's target directory: the user's choice, else below [`folder`].
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| folder().join("target"), PathBuf::from)
}

/// The folder for the Go programs that `go.mod` and `go.sum` in `module` ask for, `what` being which
/// of them and how they are linked. Another version of any of them is another folder, so a folder
/// that is complete is never stale.
pub(crate) fn go_programs(module: &Path, what: &[&str]) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    for name in ["go.mod", "go.sum"] {
        let path = module.join(name);
        fs::read(&path)
            .map_err(|e| format!("{} can't be read: {e}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(folder()
        .join("go")
        .join(format!("{:016x}", hasher.finish())))
}

/// Fairway's folder in the user's cache directory.
fn folder() -> PathBuf {
    below(
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        env::home_dir(),
    )
}

/// XDG Base Directory Specification: `$XDG_CACHE_HOME` counts if it is absolute, else `~/.cache`.
fn below(xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    xdg.filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("fairway")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_user_keeps_caches() {
        let home = || Some(PathBuf::from("/home/ann"));
        let table = [
            (Some("/caches"), home(), "/caches/fairway"),
            (None, home(), "/home/ann/.cache/fairway"),
            (Some("relative"), home(), "/home/ann/.cache/fairway"),
        ];
        for (xdg, home, wanted) in table {
            assert_eq!(below(xdg.map(PathBuf::from), home), PathBuf::from(wanted));
        }
        assert!(below(None, None).is_absolute());
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("integration/xtask/Cargo.toml").is_file());
    }
}
