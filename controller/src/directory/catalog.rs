//! Which file declares which object, and which of them is in force.
//!
//! A value without I/O: it takes what was read and answers with the objects that may have changed. It
//! has two rules. What can't be read stays as it was last read: a file as a whole, or one object of it.
//! Where two documents declare the same object, the one with the first path counts (and in one file the
//! first document).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_config::object::ObjectKey;
use fairway_config::problem::Problem;

use super::manifest::{Manifest, ManifestObject};
use super::scan::Stamp;

/// Every manifest that was read and is not deleted.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<Arc<str>, File>,
    claims: BTreeMap<ObjectKey, BTreeSet<(Arc<str>, usize)>>,
    /// Objects that several documents declare.
    contested: BTreeSet<ObjectKey>,
    /// Files with problems.
    troubled: BTreeSet<Arc<str>>,
    /// Whether the problems may have changed since [`Catalog::take_news`].
    news: bool,
}

/// One manifest.
#[derive(Debug, Default)]
struct File {
    /// Its stamp when it was read; nothing where it has to be read (again).
    stamp: Option<Stamp>,
    declared: Vec<Declaration>,
    /// Why the file as a whole is held back.
    held: Option<Arc<str>>,
    problems: Vec<Problem>,
}

#[derive(Clone, Debug)]
struct Declaration {
    entry: Arc<ManifestObject>,
    /// Why this object alone is held back.
    held: Option<Arc<str>>,
}

/// The declaration that is in force.
#[derive(Debug)]
pub(super) struct Winner {
    pub(super) file: Arc<str>,
    pub(super) entry: Arc<ManifestObject>,
    /// Why an earlier form of the object stays in force, where that is so.
    pub(super) held: Option<Arc<str>>,
}

impl Catalog {
    /// The paths of all files, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether anything is known of a file.
    pub(super) fn knows(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Whether a file has been read in the form that has this stamp.
    pub(super) fn is_current(&self, path: &str, stamp: &Stamp) -> bool {
        self.files
            .get(path)
            .is_some_and(|file| file.stamp.as_ref() == Some(stamp))
    }

    /// The stamp of a file when it was last read.
    pub(super) fn stamp(&self, path: &str) -> Option<&Stamp> {
        self.files.get(path)?.stamp.as_ref()
    }

    /// Whether no object is declared.
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// The objects that are declared.
    pub(super) fn keys(&self) -> BTreeSet<ObjectKey> {
        self.claims.keys().cloned().collect()
    }

    /// An earlier run read this from a file of that name.
    pub(super) fn remember(&mut self, path: Arc<str>, entry: ManifestObject) {
        let key = entry.key.clone();
        let file = self.files.entry(Arc::clone(&path)).or_default();
        file.declared.push(Declaration {
            entry: Arc::new(entry),
            held: None,
        });
        let index = file.declared.len() - 1;
        self.claim(key, path, index);
    }

    /// A file was read. Returns the objects that may have changed by it.
    pub(super) fn read(
        &mut self,
        path: &Arc<str>,
        stamp: Stamp,
        manifest: Manifest,
    ) -> BTreeSet<ObjectKey> {
        let before = self.files.remove(path).unwrap_or_default();
        let mut declared: Vec<_> = manifest
            .entries
            .into_iter()
            .map(|entry| Declaration {
                entry: Arc::new(entry),
                held: None,
            })
            .collect();
        let present: BTreeSet<_> = declared.iter().map(|it| it.entry.key.clone()).collect();
        let nameless = manifest.broken.iter().find(|broken| broken.key.is_none());
        // A map, because a file may hold a hundred thousand broken documents.
        let broken: BTreeMap<_, _> = manifest
            .broken
            .iter()
            .rev()
            .filter_map(|broken| Some((broken.key.as_ref()?, broken)))
            .collect();
        for former in &before.declared {
            let key = &former.entry.key;
            if present.contains(key) {
                continue;
            }
            let broken = broken.get(key).copied();
            // A broken document without a name may be any of the objects that are missing.
            if let Some(broken) = broken.or(nameless) {
                declared.push(Declaration {
                    entry: Arc::clone(&former.entry),
                    held: Some(match broken.number {
                        0 => Arc::clone(&broken.why),
                        number => format!("document {number}: {}", broken.why).into(),
                    }),
                });
            }
        }
        let after = File {
            stamp: Some(stamp),
            declared,
            held: None,
            problems: manifest.problems,
        };
        self.replace(path, before, after)
    }

    /// A file can't be read: what it declared stays. `problem` where this is one of the file's own
    /// and not of the directory. Returns the objects that may have changed.
    pub(super) fn hold(
        &mut self,
        path: &Arc<str>,
        stamp: Option<Stamp>,
        why: Arc<str>,
        problem: Option<Problem>,
    ) -> BTreeSet<ObjectKey> {
        let before = self.files.remove(path).unwrap_or_default();
        if before.held.as_ref() == Some(&why)
            && before.stamp == stamp
            && before.problems.iter().eq(problem.iter())
        {
            // Nothing has changed, as nearly always while the worker looks for a directory that is away.
            self.files.insert(Arc::clone(path), before);
            return BTreeSet::new();
        }
        let after = File {
            stamp,
            declared: before.declared.clone(),
            held: Some(why),
            problems: problem.into_iter().collect(),
        };
        self.replace(path, before, after)
    }

    /// A file is gone for good. Returns the objects that may have changed.
    pub(super) fn forget(&mut self, path: &Arc<str>) -> BTreeSet<ObjectKey> {
        let before = self.files.remove(path).unwrap_or_default();
        self.news |= self.troubled.remove(path);
        let mut changed = BTreeSet::new();
        for (index, declared) in before.declared.iter().enumerate() {
            self.unclaim(&declared.entry.key, path, index);
            changed.insert(declared.entry.key.clone());
        }
        changed
    }

    /// The declaration of an object that is in force.
    pub(super) fn winner(&self, key: &ObjectKey) -> Option<Winner> {
        let (path, index) = self.claims.get(key)?.first()?;
        let file = self.files.get(path)?;
        let declared = file.declared.get(*index)?;
        Some(Winner {
            file: Arc::clone(path),
            entry: Arc::clone(&declared.entry),
            held: file.held.clone().or_else(|| declared.held.clone()),
        })
    }

    /// Whether [`problems`] may have changed since the last call.
    ///
    /// [`problems`]: Catalog::problems
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// All problems, in the order of paths. Costs as much as there are problems, however many files there are.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self
            .troubled
            .iter()
            .filter_map(|path| self.files.get(path))
            .flat_map(|file| file.problems.iter().cloned())
            .chain(self.contested.iter().flat_map(|key| self.contest(key)))
            .collect();
        problems.sort();
        problems
    }

    /// The problems of an object that is declared twice or more: one for each document that doesn't
    /// count, which names the one that does.
    fn contest(&self, key: &ObjectKey) -> Vec<Problem> {
        let mut places = self
            .claims
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|(path, index)| {
                Some((
                    path,
                    self.files.get(path)?.declared.get(*index)?.entry.number,
                ))
            });
        let Some((winner, number)) = places.next() else {
            return Vec::new();
        };
        places
            .map(|(path, document)| Problem {
                document,
                object: key.to_string(),
                ..Problem::of_file(
                    Arc::clone(path),
                    format!(
                        "is declared in {} too, which counts because its path comes first: remove one",
                        place(winner, number)
                    ),
                )
            })
            .collect()
    }

    /// Puts a file in the place of its former self, which has been taken out of the map.
    fn replace(&mut self, path: &Arc<str>, before: File, after: File) -> BTreeSet<ObjectKey> {
        let mut changed = BTreeSet::new();
        self.news |= before.problems != after.problems;
        if after.problems.is_empty() {
            self.troubled.remove(path);
        } else {
            self.troubled.insert(Arc::clone(path));
        }
        let held = before.held != after.held;
        let same = |a: &Declaration, b: &Declaration| {
            a.held == b.held
                && a.entry.key == b.entry.key
                && a.entry.number == b.entry.number
                && a.entry.json == b.entry.json
        };
        for (index, former) in before.declared.iter().enumerate() {
            if !after.declared.get(index).is_some_and(|it| same(former, it)) || held {
                changed.insert(former.entry.key.clone());
            }
            self.unclaim(&former.entry.key, path, index);
        }
        for (index, latter) in after.declared.iter().enumerate() {
            if !before
                .declared
                .get(index)
                .is_some_and(|it| same(latter, it))
            {
                changed.insert(latter.entry.key.clone());
            }
            self.claim(latter.entry.key.clone(), Arc::clone(path), index);
        }
        self.files.insert(Arc::clone(path), after);
        changed
    }

    fn claim(&mut self, key: ObjectKey, path: Arc<str>, index: usize) {
        let claims = self.claims.entry(key.clone()).or_default();
        claims.insert((path, index));
        if claims.len() > 1 {
            self.contested.insert(key);
            self.news = true;
        }
    }

    fn unclaim(&mut self, key: &ObjectKey, path: &Arc<str>, index: usize) {
        let Some(claims) = self.claims.get_mut(key) else {
            return;
        };
        claims.remove(&(Arc::clone(path), index));
        self.news |= self.contested.contains(key);
        if claims.len() < 2 {
            self.contested.remove(key);
        }
        if claims.is_empty() {
            self.claims.remove(key);
        }
    }
}

/// A file and the number of a document in it, as people are shown it.
pub(super) fn place(file: &str, number: usize) -> String {
    match number {
        0 | 1 => file.to_owned(),
        number => format!("{file}, document {number}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::manifest;
    use super::super::scan::{self, Sighting};
    use super::*;

    /// Reads `text` as a manifest; whether something else is wrong by it, and what is.
    fn read(catalog: &mut Catalog, path: &str, text: &str) -> (bool, Vec<String>) {
        let path: Arc<str> = path.into();
        let Some(Sighting::File { stamp, .. }) = scan::look(std::path::Path::new("/proc/self/exe"))
        else {
            panic!("this program is there");
        };
        match manifest::parse(&path, text) {
            Ok(manifest) => catalog.read(&path, stamp, manifest),
            Err(problem) => catalog.hold(&path, Some(stamp), "why".into(), Some(problem)),
        };
        told(catalog)
    }

    fn told(catalog: &mut Catalog) -> (bool, Vec<String>) {
        let problems = catalog.problems();
        let problems = problems.iter().map(|it| it.file.to_string()).collect();
        (catalog.take_news(), problems)
    }

    #[test]
    fn what_is_wrong_is_news_when_it_changes_and_not_else() {
        let node = |name: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
        let mut catalog = Catalog::default();
        let nothing: Vec<String> = Vec::new();
        assert_eq!(
            read(&mut catalog, "a", &node("a")),
            (false, nothing.clone())
        );
        assert_eq!(read(&mut catalog, "b", "kind: ["), (true, vec!["b".into()]));
        assert_eq!(
            read(&mut catalog, "c", &node("c")),
            (false, vec!["b".into()])
        );
        assert_eq!(read(&mut catalog, "b", &node("b")), (true, nothing.clone()));
        // The same object twice.
        assert_eq!(
            read(&mut catalog, "c", &node("a")),
            (true, vec!["c".into()])
        );
        catalog.forget(&"a".into());
        assert_eq!(told(&mut catalog), (true, nothing.clone()));
        read(&mut catalog, "a", "kind: [");
        catalog.forget(&"a".into());
        assert_eq!(told(&mut catalog), (true, nothing));
    }
}
