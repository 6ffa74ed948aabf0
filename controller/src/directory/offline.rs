//! Reads manifests once, as a store would, without running anything.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fairway_config::document::documents;
use fairway_config::object;
use fairway_config::problem::Problem;
use fairway_config::validate::Located;

use super::scan::{self, ReadError, Sighting};

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

impl Declared {
    fn add(&mut self, shown: &str, path: &Path) {
        self.files += 1;
        let text = match scan::read(path) {
            Ok(text) => text.text,
            Err(ReadError::Unreadable(why)) => return self.problem(shown, &why),
            Err(ReadError::Moving) => {
                return self.problem(shown, "changed while it was read, or is no file; try again");
            }
        };
        let file: Arc<str> = shown.into();
        let documents = match documents(&text) {
            Ok(documents) => documents,
            Err(error) => return self.problems.push(error.problem(&file)),
        };
        for document in documents {
            match object::read(&document.value) {
                Ok(object::Read {
                    key: Some(key),
                    object,
                }) => {
                    self.objects.push(Located {
                        place: document.place(&file),
                        key,
                        object,
                    });
                }
                // Of a kind that is none of ours.
                Ok(object::Read { key: None, .. }) => {}
                Err(unreadable) => {
                    let object = &unreadable.object;
                    let problems = unreadable.problems.into_iter();
                    self.problems
                        .extend(problems.map(|it| document.problem(&file, object, it)));
                }
            }
        }
    }

    fn problem(&mut self, file: &str, message: &str) {
        self.problems.push(Problem {
            file: file.into(),
            document: 0,
            object: String::new(),
            field: String::new(),
            message: message.to_owned(),
        });
    }
}
