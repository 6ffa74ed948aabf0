//! Turns the text of one manifest into the objects that it declares.

use std::sync::Arc;

use fairway_config::document::documents;
use fairway_config::lint;
use fairway_config::object::{self, Object, ObjectKey, ReadObject};
use fairway_config::problem::Problem;

/// An object that a manifest declares.
#[derive(Debug)]
pub(super) struct ManifestObject {
    pub(super) key: ObjectKey,
    /// Which document of its file, counted from 1; 0 where it is known from an earlier run alone.
    pub(super) number: usize,
    pub(super) object: Object,
    /// The document as compact JSON, every field that was read of it. As text it takes a fifth of the memory of
    /// a tree.
    pub(super) json: Box<str>,
}

/// A document that can't be decoded, and what it is about, where that can be told.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) key: Option<ObjectKey>,
    pub(super) number: usize,
    /// What is wrong, for the Service that it is about.
    pub(super) why: Arc<str>,
}

/// What a manifest holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) entries: Vec<ManifestObject>,
    pub(super) broken: Vec<Broken>,
    pub(super) problems: Vec<Problem>,
    /// Kinds that were passed over, as `apps/v1 Deployment`.
    pub(super) passed_over: Vec<String>,
}

/// Reads a manifest. An error holds back the file as a whole.
pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Manifest, Problem> {
    let documents = documents(text).map_err(|error| error.problem(file))?;
    let mut manifest = Manifest::default();
    for document in documents {
        match object::read(&document.value) {
            Ok(ReadObject {
                key,
                object,
                warnings,
            }) => {
                let shown = key.as_ref().map(ToString::to_string).unwrap_or_default();
                let of_fields = key
                    .iter()
                    .flat_map(|key| lint::warnings(&document.value, key.kind));
                let all = warnings.into_iter().chain(of_fields);
                let all = all.map(|it| document.warning(file, &shown, it));
                manifest.problems.extend(all);
                match (key, object) {
                    (Some(key), object) => {
                        let all = object.problems().iter().cloned();
                        let all = all.map(|it| document.problem(file, &shown, it));
                        manifest.problems.extend(all);
                        manifest.entries.push(ManifestObject {
                            key,
                            number: document.number,
                            object,
                            json: document.value.to_string().into(),
                        });
                    }
                    (None, Object::Other { api_version, kind }) => {
                        manifest.passed_over.push(format!("{api_version} {kind}"));
                    }
                    (None, _) => {}
                }
            }
            Err(unreadable) => {
                let problems: Vec<_> = unreadable
                    .problems
                    .into_iter()
                    .map(|problem| document.problem(file, &unreadable.object, problem))
                    .collect();
                // A field that is missing may be there under a misspelt name.
                let key = unreadable.key.iter();
                let of_fields = key.flat_map(|key| lint::warnings(&document.value, key.kind));
                let of_fields = of_fields.map(|it| document.warning(file, &unreadable.object, it));
                manifest.problems.extend(of_fields);
                let why: Vec<_> = problems
                    .iter()
                    .map(|problem| match problem.field.as_str() {
                        "" => problem.message.clone(),
                        field => format!("{field} {}", problem.message),
                    })
                    .collect();
                manifest.broken.push(Broken {
                    key: unreadable.key,
                    number: document.number,
                    why: why.join("; ").into(),
                });
                manifest.problems.extend(problems);
            }
        }
    }
    Ok(manifest)
}
