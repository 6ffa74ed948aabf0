//! Follows symbolic links: where a path ends, and which names on the way decide it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// So many links are followed, as the kernel does (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// By directory: the names in it that decide where links of the manifests lead, and for each name the
/// manifests whose content is there. A link or a directory on the way is no manifest's content.
pub(super) type LinkTargets = BTreeMap<PathBuf, BTreeMap<String, BTreeSet<Arc<str>>>>;

/// A path, followed to its end.
#[derive(Debug)]
pub(super) struct LinkPath {
    /// Where it ends: without links, `.` and `..`. What is not there is taken as it is written.
    pub(super) end: PathBuf,
    /// Every directory on the way with the name that was looked up in it, up to the end or to the first
    /// name that is not there.
    pub(super) turns: Vec<(PathBuf, OsString)>,
}

/// Follows a path from link to link.
pub(super) fn follow(path: &Path) -> LinkPath {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut todo: VecDeque<OsString> = VecDeque::new();
    put_in_front(&mut todo, &path);
    let mut end = PathBuf::from("/");
    let mut turns = Vec::new();
    let (mut links, mut is_there) = (0, true);
    while let Some(name) = todo.pop_front() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => end = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                end.pop();
            }
            Some(Component::Normal(_)) => {
                let next = end.join(&name);
                let found = fs::symlink_metadata(&next);
                if is_there {
                    turns.push((end.clone(), name));
                }
                is_there &= found.is_ok();
                let target = match found {
                    Ok(found) if found.is_symlink() && links < MAX_LINKS => {
                        fs::read_link(&next).ok()
                    }
                    _ => None,
                };
                match target {
                    Some(target) => {
                        links += 1;
                        put_in_front(&mut todo, &target);
                    }
                    None => end = next,
                }
            }
            _ => {}
        }
    }
    LinkPath { end, turns }
}

fn put_in_front(todo: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        todo.push_front(component.as_os_str().to_owned());
    }
}

/// Notes where the link of a manifest, or of a directory of manifests, leads.
pub(super) fn note(targets: &mut LinkTargets, link: &Path, manifest: &Arc<str>) {
    let followed = follow(link);
    let last = followed.turns.len().saturating_sub(1);
    for (n, (directory, name)) in followed.turns.into_iter().enumerate() {
        let names = targets.entry(directory).or_default();
        let manifests = names
            .entry(name.to_string_lossy().into_owned())
            .or_default();
        if n == last {
            manifests.insert(Arc::clone(manifest));
        }
    }
}

/// The first link below a directory for which `is_it` is true. Links to directories are followed; names
/// that begin with a dot, and directories that can't be listed, are passed over.
pub(super) fn find(top: &Path, is_it: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut open = vec![top.to_owned()];
    let mut entered = BTreeSet::new();
    while let Some(directory) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) if entered.insert(follow(&directory).end) => entries,
            _ => continue,
        };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() && is_it(&path) => return Some(path),
                // What is no directory can't be listed.
                Ok(kind) if kind.is_symlink() || kind.is_dir() => open.push(path),
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_ends_where_the_kernel_says() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        symlink("a", top.join("relative")).unwrap();
        symlink(top.join("a/b"), top.join("absolute")).unwrap();
        symlink("relative/b/file", top.join("chain")).unwrap();
        symlink("../..", top.join("a/b/up")).unwrap();
        for path in [
            "a/b/file",
            "relative/b/file",
            "absolute/file",
            "chain",
            "a/../a/./b/file",
            "absolute/../b/file",
            "a/b/up/chain",
        ] {
            let path = top.join(path);
            assert_eq!(follow(&path).end, path.canonicalize().unwrap(), "{path:?}");
        }
        // What is not there is taken as it is written.
        symlink("nowhere/x", top.join("dangling")).unwrap();
        assert_eq!(follow(&top.join("dangling/y")).end, top.join("nowhere/x/y"));
        assert_eq!(follow(&top.join("none/../z")).end, top.join("z"));
        symlink("loop", top.join("loop")).unwrap();
        assert_eq!(follow(&top.join("loop")).end, top.join("loop"));
    }

    #[test]
    fn every_name_that_decides_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("one")).unwrap();
        fs::write(top.join("one/a.yaml"), "").unwrap();
        symlink("one", top.join("current")).unwrap();
        symlink("current/a.yaml", top.join("first")).unwrap();
        symlink("absent/deep/b.yaml", top.join("second")).unwrap();
        let mut targets = LinkTargets::new();
        note(&mut targets, &top.join("first"), &"x.yaml".into());
        note(&mut targets, &top.join("second"), &"y.yaml".into());
        let names: Vec<_> = targets[&top].keys().map(String::as_str).collect();
        assert_eq!(names, ["absent", "current", "first", "one", "second"]);
        // Above, too: a directory on the way may be moved away.
        let name = top.file_name().unwrap().to_str().unwrap();
        assert!(targets[top.parent().unwrap()][name].is_empty());
        assert!(targets[&top]["current"].is_empty());
        assert!(targets[&top.join("one")]["a.yaml"].contains("x.yaml"));
    }
}
