//! Reads manifests once, as a store would, without running anything.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fairway_config::document::{self, Document, documents};
use fairway_config::lint;
use fairway_config::object::{self, ReadObject};
use fairway_config::problem::Problem;
use fairway_config::validate::Located;

use super::scan::{self, ManifestReadError, Sighting};

/// What the manifests at one path declare.
#[derive(Debug, Default)]
pub struct Declared {
    /// The objects, in the order of paths.
    pub objects: Vec<Located>,
    /// What can't be read, and why.
    pub problems: Vec<Problem>,
    /// How many files were read.
    pub files: usize,
}

/// Reads a manifest, or every manifest below a directory by the rules of `--manifests`. Files are
/// named by `path` and the path below it.
///
/// # Errors
/// Where there is nothing at `path`, or the directory can't be listed.
pub fn declared(path: &Path) -> io::Result<Declared> {
    let mut declared = Declared::default();
    if !fs::metadata(path)?.is_dir() {
        declared.add(&path.display().to_string(), path);
        return Ok(declared);
    }
    let survey = scan::survey(path, None, &mut |_, _| {})?;
    for (directory, why) in &survey.unlisted {
        declared.problem(&path.join(&**directory).display().to_string(), why);
    }
    for (file, sighting) in &survey.files {
        let full = path.join(&**file);
        let shown = full.display().to_string();
        match sighting {
            Sighting::File { .. } => declared.add(&shown, &full),
            Sighting::Unreadable(why) => declared.problem(&shown, why),
        }
    }
    Ok(declared)
}

/// What these bytes declare, which come from no file: `shown` stands in for its name.
pub fn declared_bytes(shown: &str, bytes: Vec<u8>) -> Declared {
    let mut declared = Declared {
        files: 1,
        ..Declared::default()
    };
    match document::decode(bytes) {
        Ok(text) => declared.add_text(shown, &text),
        Err(error) => declared.problem(shown, &error.to_string()),
    }
    declared
}

impl Declared {
    fn add(&mut self, shown: &str, path: &Path) {
        self.files += 1;
        match scan::read(path) {
            Ok(text) => self.add_text(shown, &text.text),
            Err(ManifestReadError::Unreadable(why)) => self.problem(shown, &why),
            Err(ManifestReadError::Moving) => {
                self.problem(shown, "changed while it was read, or is no file; try again");
            }
        }
    }

    fn add_text(&mut self, shown: &str, text: &str) {
        let file: Arc<str> = shown.into();
        let documents = match documents(text) {
            Ok(documents) => documents,
            Err(error) => return self.problems.push(error.problem(&file)),
        };
        for document in documents {
            match object::read(&document.value) {
                Ok(read) => self.add_object(&file, &document, read),
                Err(unreadable) => {
                    let object = &unreadable.object;
                    let problems = unreadable.problems.into_iter();
                    self.problems
                        .extend(problems.map(|it| document.problem(&file, object, it)));
                    // A field that is missing may be there under a misspelt name.
                    let key = unreadable.key.iter();
                    let of_fields = key.flat_map(|key| lint::warnings(&document.value, key.kind));
                    self.problems
                        .extend(of_fields.map(|it| document.warning(&file, object, it)));
                }
            }
        }
    }

    fn add_object(&mut self, file: &Arc<str>, document: &Document, read: ReadObject) {
        let shown = read.key.as_ref().map(ToString::to_string);
        let shown = shown.unwrap_or_default();
        let of_fields = read
            .key
            .iter()
            .flat_map(|key| lint::warnings(&document.value, key.kind));
        let all = read.warnings.into_iter().chain(of_fields);
        self.problems
            .extend(all.map(|it| document.warning(file, &shown, it)));
        // A document without a key is of a kind that Fairway does not use.
        if let Some(key) = read.key {
            self.objects.push(Located {
                place: document.place(file),
                key,
                object: read.object,
            });
        }
    }

    fn problem(&mut self, file: &str, message: &str) {
        self.problems.push(Problem::of_file(file, message));
    }
}
