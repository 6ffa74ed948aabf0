//! Where what is built for tests is kept: outside the clone, in the user's cache directory, so that
//! a second clone on the same machine is tested in a short time too.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// The top of the work tree.
pub(crate) fn root() -> PathBuf {
    // Cargo says where this crate lies when it runs it; where it was built may be another tree.
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    // This crate lies in integration/xtask.
    Path::new(&here)
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Cargo's target directory: the user's choice, else below [`folder`].
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| folder().join("target"), PathBuf::from)
}

/// Makes cargo build this tree's own crates anew where another tree was built into `target` last. Cargo knows
/// them by their place in a tree and by the time of their files, so an older tree would be tested by
/// the programs of the other one.
pub(crate) fn make_own(root: &Path, target: &Path) -> io::Result<()> {
    let note = target.join("work-tree");
    let own = root.as_os_str().as_encoded_bytes();
    if fs::read(&note).is_ok_and(|last| last == own) {
        return Ok(());
    }
    for profile in ["debug", "release"] {
        let Ok(units) = fs::read_dir(target.join(profile).join(".fingerprint")) else {
            continue;
        };
        for unit in units {
            let unit = unit?;
            let name = unit.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("fairway") || name.starts_with("xtask") {
                fs::remove_dir_all(unit.path())?;
            }
        }
    }
    fs::create_dir_all(target)?;
    fs::write(note, own)
}

/// The folder for the Go programs that `go.mod` and `go.sum` in `module` ask for, or whose sources are in folders of
/// `module`, `what` being which of them and how they are linked. Another version of any of them is another folder, so a
/// folder that is complete is never stale.
pub(crate) fn go_programs(module: &Path, what: &[&str]) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let fault = |path: &Path, e| format!("{} can't be read: {e}", path.display());
    let mut files = vec![module.join("go.mod"), module.join("go.sum")];
    files.extend(own_sources(module).map_err(|e| fault(module, e))?);
    for path in files {
        fs::read(&path)
            .map_err(|e| fault(&path, e))?
            .hash(&mut hasher);
    }
    Ok(folder()
        .join("go")
        .join(format!("{:016x}", hasher.finish())))
}

/// The files in the folders of a module, in an order that stays.
fn own_sources(module: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(module)? {
        let path = entry?.path();
        if path.is_dir() {
            for file in fs::read_dir(path)? {
                files.insert(file?.path());
            }
        }
    }
    Ok(files)
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
    fn another_source_of_an_own_program_is_another_folder() {
        let module = env::temp_dir().join(format!("fairway-module-{}", std::process::id()));
        fs::create_dir_all(module.join("server")).unwrap();
        for name in ["go.mod", "go.sum", "server/main.go"] {
            fs::write(module.join(name), "one").unwrap();
        }
        let one = go_programs(&module, &["server"]).unwrap();
        assert_eq!(go_programs(&module, &["server"]), Ok(one.clone()));
        fs::write(module.join("server/main.go"), "other").unwrap();
        let other = go_programs(&module, &["server"]).unwrap();
        fs::remove_dir_all(&module).unwrap();
        assert_ne!(one, other);
    }

    #[test]
    fn own_crates_are_built_anew_where_another_tree_was_built_last() {
        let target = env::temp_dir().join(format!("fairway-target-{}", std::process::id()));
        let units = target.join("debug/.fingerprint");
        let there = || {
            let names = fs::read_dir(&units).unwrap();
            let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
            names.collect::<Vec<_>>()
        };
        for (root, own_stay) in [("/a", false), ("/a", true), ("/b", false), ("/a", false)] {
            for unit in ["fairway-1", "fairway-config-2", "xtask-3", "kube-4"] {
                fs::create_dir_all(units.join(unit)).unwrap();
            }
            make_own(Path::new(root), &target).unwrap();
            let count = if own_stay { 4 } else { 1 };
            assert_eq!(there().len(), count, "{root}: {:?}", there());
        }
        fs::remove_dir_all(&target).unwrap();
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("integration/xtask/Cargo.toml").is_file());
    }
}
