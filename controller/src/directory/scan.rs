//! Finds manifests below a directory and reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_config::document;

use super::links::{self, LinkTargets};

/// A larger manifest is not read: 20,000 Services with all that a cluster adds take a third of it.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// What tells two contents of a file apart without reading it: size, times, identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) identity: FileIdentity,
    size: u64,
    modified: (i64, i64),
    /// When content, owner or mode of the file last changed (ctime), which no program can set back.
    changed: (i64, i64),
}

/// What tells a file or directory from another one of the same name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: FileIdentity::of(metadata),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Seconds and nanoseconds of the last change of any kind, since 1970.
    pub(super) fn changed(&self) -> (i64, i64) {
        self.changed
    }
}

/// What was found under the name of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    /// A file, perhaps by way of a link.
    File {
        /// Its size, times and identity.
        stamp: Stamp,
        /// It was reached through a link: a change usually swaps the link and does not write in place.
        link: bool,
    },
    /// Something is there and can't be read; a clause that says why.
    Unreadable(String),
}

/// Everything below the manifest directory.
#[derive(Debug)]
pub(super) struct Survey {
    /// The identity of the manifest directory.
    pub(super) root: FileIdentity,
    /// Manifests by their path below the root.
    pub(super) files: BTreeMap<Arc<str>, Sighting>,
    /// Directories by their path below the root, the root itself under the empty one.
    pub(super) directories: BTreeMap<Arc<str>, FileIdentity>,
    /// Directories below the root that are there and can't be listed, and why.
    pub(super) unlisted: BTreeMap<Arc<str>, String>,
    /// Names that lead into Fairway's own state directory, where there are no manifests.
    pub(super) own: BTreeSet<Arc<str>>,
    /// Where the links lead: these places are watched, too. Empty where there are no links.
    pub(super) targets: LinkTargets,
}

/// Fairway's own state directory, which is never read for manifests: what is written there after each
/// change would be taken for a change.
#[derive(Clone, Debug)]
pub(super) struct OwnState {
    /// Without links.
    path: PathBuf,
    identity: Option<FileIdentity>,
}

impl OwnState {
    /// Of that path.
    pub(super) fn new(state: &Path) -> Self {
        Self {
            path: links::follow(state).end,
            identity: fs::metadata(state).ok().map(|it| FileIdentity::of(&it)),
        }
    }

    /// Whether the path without links is it or lies in it.
    pub(super) fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.path)
    }

    /// Whether it lies below the path without links.
    pub(super) fn is_below(&self, path: &Path) -> bool {
        self.path.starts_with(path)
    }

    /// Whether the directory is it, perhaps mounted at another place.
    pub(super) fn is(&self, directory: &Metadata) -> bool {
        self.identity == Some(FileIdentity::of(directory))
    }
}

/// Whether a file of this name is a manifest.
pub(super) fn is_manifest(name: &str) -> bool {
    !name.starts_with('.')
        && [".yaml", ".yml", ".json"]
            .iter()
            .any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// Walks everything below `root`. `enter` is called for each directory before it is listed, so that a
/// watch that it sets misses nothing. What leads into `own` is not entered.
///
/// # Errors
/// Where the root itself can't be read.
pub(super) fn survey(
    root: &Path,
    own: Option<&OwnState>,
    enter: &mut dyn FnMut(&str, &Path),
) -> io::Result<Survey> {
    let metadata = fs::metadata(root)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("is not a directory"));
    }
    let mut survey = Survey {
        root: FileIdentity::of(&metadata),
        files: BTreeMap::new(),
        directories: BTreeMap::new(),
        unlisted: BTreeMap::new(),
        own: BTreeSet::new(),
        targets: LinkTargets::new(),
    };
    // A link that leads back up names a directory that has been entered before.
    let mut entered = BTreeSet::from([survey.root]);
    let mut open = vec![(Arc::<str>::from(""), survey.root)];
    while let Some((directory, identity)) = open.pop() {
        survey.directories.insert(Arc::clone(&directory), identity);
        let path = root.join(&*directory);
        enter(&directory, &path);
        match list(&path) {
            Ok(names) => {
                for name in names.iter().rev() {
                    let below = join(&directory, name);
                    if let Some(identity) = survey.meet(root, own, below.clone(), name)
                        && entered.insert(identity)
                    {
                        open.push((below, identity));
                    }
                }
            }
            Err(error) if directory.is_empty() => return Err(error),
            // It was removed after its name was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                survey.directories.remove(&directory);
            }
            Err(error) => {
                survey
                    .unlisted
                    .insert(directory, format!("can't be listed: {error}"));
            }
        }
    }
    Ok(survey)
}

impl Survey {
    /// Notes one name. Answers with the directory to enter, if it is one.
    fn meet(
        &mut self,
        root: &Path,
        own: Option<&OwnState>,
        below: Arc<str>,
        name: &str,
    ) -> Option<FileIdentity> {
        let path = root.join(&*below);
        let link = fs::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
        if link {
            links::note(&mut self.targets, &path, &below);
            if own.is_some_and(|own| own.holds(&links::follow(&path).end)) {
                self.own.insert(below);
                return None;
            }
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && own.is_some_and(|own| own.is(&metadata)) => {
                self.own.insert(below);
            }
            Ok(metadata) if metadata.is_dir() => return Some(FileIdentity::of(&metadata)),
            found if is_manifest(name) => {
                if let Some(sighting) = sighting(found, link) {
                    self.files.insert(below, sighting);
                }
            }
            _ => {}
        }
        None
    }
}

/// What is at `path` now; nothing where nothing is.
pub(super) fn look(path: &Path) -> Option<Sighting> {
    let link = fs::symlink_metadata(path).ok()?.is_symlink();
    sighting(fs::metadata(path), link)
}

fn sighting(found: io::Result<Metadata>, link: bool) -> Option<Sighting> {
    match found {
        Ok(metadata) if metadata.is_file() => Some(Sighting::File {
            stamp: Stamp::of(&metadata),
            link,
        }),
        Ok(metadata) => Some(Sighting::Unreadable(format!(
            "is {} and not a file",
            kind(&metadata)
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !link => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Sighting::Unreadable(
            "is a link to something that is not there".to_owned(),
        )),
        Err(error) => Some(Sighting::Unreadable(format!("can't be looked at: {error}"))),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// A manifest's text, with the stamp it was read under.
pub(super) struct ManifestText {
    pub(super) stamp: Stamp,
    pub(super) text: String,
}

/// Why a manifest could not be read.
#[derive(Debug)]
pub(super) enum ManifestReadError {
    /// It was removed, or changed while it was read: look again.
    Moving,
    /// A clause that says why.
    Unreadable(String),
}

/// Reads a manifest whole. Nothing but a regular file is read from, whatever has taken its name
/// since it was looked at, and opening it never waits.
pub(super) fn read(path: &Path) -> Result<ManifestText, ManifestReadError> {
    use ManifestReadError::{Moving, Unreadable};
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Moving,
        _ => Unreadable(format!("can't be read: {error}")),
    };
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Moving);
    }
    let stamp = Stamp::of(&metadata);
    let mut bytes = Vec::with_capacity(stamp.size.min(MAX_BYTES) as usize + 1);
    if stamp.size <= MAX_BYTES {
        file.by_ref()
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    if stamp.size.max(bytes.len() as u64) > MAX_BYTES {
        return Err(Unreadable(format!(
            "is larger than {} MiB: split it",
            MAX_BYTES >> 20
        )));
    }
    if Stamp::of(&file.metadata().map_err(failed)?) != stamp {
        return Err(Moving);
    }
    match document::decode(bytes) {
        Ok(text) => Ok(ManifestText { stamp, text }),
        Err(error) => Err(Unreadable(error.to_string())),
    }
}

/// The names in a directory, sorted, without those that are passed over.
fn list(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        match entry?.file_name().into_string() {
            Ok(name) if name.starts_with('.') => {}
            Ok(name) => names.push(name),
            // A name that is not UTF-8 can be neither shown nor written into the journal.
            Err(name) => tracing::warn!(?name, ?directory, "passed over: the name is not UTF-8"),
        }
    }
    names.sort();
    Ok(names)
}

fn join(directory: &str, name: &str) -> Arc<str> {
    if directory.is_empty() {
        name.into()
    } else {
        format!("{directory}/{name}").into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn files(root: &Path) -> Vec<String> {
        let survey = survey(root, None, &mut |_, _| {}).unwrap();
        survey.files.keys().map(|path| path.to_string()).collect()
    }

    #[test]
    fn manifests_are_found_by_their_endings_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        fs::create_dir_all(root.path().join(".git")).unwrap();
        for name in [
            "a.yaml",
            "b/c/d.yml",
            "b/e.json",
            "b/f.txt",
            ".g.yaml",
            ".git/h.yaml",
            "b/.yaml",
        ] {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(files(root.path()), ["a.yaml", "b/c/d.yml", "b/e.json"]);
    }

    #[test]
    fn links_are_followed_and_loops_are_not() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("x.yaml"), "").unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        symlink(root.path(), root.path().join("b/c/up")).unwrap();
        symlink("loop.yaml", root.path().join("loop.yaml")).unwrap();
        symlink(elsewhere.path(), root.path().join("z")).unwrap();
        symlink(elsewhere.path().join("x.yaml"), root.path().join("y.yaml")).unwrap();
        let survey = survey(root.path(), None, &mut |_, _| {}).unwrap();
        let paths: Vec<_> = survey.files.keys().map(|path| &**path).collect();
        assert_eq!(paths, ["loop.yaml", "y.yaml", "z/x.yaml"]);
        assert!(matches!(survey.files["loop.yaml"], Sighting::Unreadable(_)));
        assert!(matches!(
            survey.files["y.yaml"],
            Sighting::File { link: true, .. }
        ));
        let elsewhere = elsewhere.path().canonicalize().unwrap();
        assert!(survey.targets[&elsewhere]["x.yaml"].contains("y.yaml"));
    }

    #[test]
    fn the_state_directory_is_never_entered() {
        let top = tempfile::tempdir().unwrap();
        let (root, state) = (top.path().join("manifests"), top.path().join("state"));
        fs::create_dir_all(root.join("shop")).unwrap();
        fs::create_dir_all(state.join("services/web")).unwrap();
        fs::write(state.join("services/web/a.yaml"), "").unwrap();
        symlink(top.path(), root.join("above")).unwrap();
        symlink(&state, root.join("shop/itself")).unwrap();
        symlink("../../state/services", root.join("shop/services")).unwrap();
        symlink("../state/services/web/a.yaml", root.join("a.yaml")).unwrap();
        let own = OwnState::new(&state);
        let survey = survey(&root, Some(&own), &mut |_, _| {}).unwrap();
        assert_eq!(survey.files.keys().count(), 0, "{:?}", survey.files);
        let own: Vec<_> = survey.own.iter().map(|path| &**path).collect();
        let wanted = ["a.yaml", "above/state", "shop/itself", "shop/services"];
        assert_eq!(own, wanted);
    }

    #[test]
    fn special_files_are_named_and_never_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pipe.yaml");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(
            look(&path),
            Some(Sighting::Unreadable("is a FIFO and not a file".to_owned()))
        );
        // Even where it took the place of a file after that was looked at, nothing waits for it.
        assert!(matches!(read(&path), Err(ManifestReadError::Moving)));
    }

    #[test]
    fn what_is_no_text_or_too_much_of_it_is_refused_in_words() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        fs::write(&path, b"kind: \xff").unwrap();
        match read(&path) {
            Err(ManifestReadError::Unreadable(why)) => {
                assert_eq!(why, "is not UTF-8 text (byte 7)")
            }
            _ => panic!(),
        }
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        match read(&path) {
            Err(ManifestReadError::Unreadable(why)) => {
                assert_eq!(why, "is larger than 64 MiB: split it")
            }
            _ => panic!(),
        }
    }
}
