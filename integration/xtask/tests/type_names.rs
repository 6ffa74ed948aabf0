//! One word, one meaning: the name of a type stands once in the repository.
//!
//! Read are the structs, enums, traits and type aliases below every `src` folder of the workspace, tests'
//! modules left out. Associated types are named by the trait that they belong to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that stand twice, and why each of them may.
const ALLOWED: &[(&str, &str)] = &[];

#[test]
fn the_name_of_a_type_stands_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    let mut files = Vec::new();
    find(&root, &mut files);
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &files {
        let shown = file.strip_prefix(&root).unwrap().display();
        for (name, line) in types(&fs::read_to_string(file).unwrap()) {
            places
                .entry(name)
                .or_default()
                .push(format!("{shown}:{line}"));
        }
    }
    assert!(places.len() > 500, "only {} types were found", places.len());
    places.retain(|_, places| places.len() > 1);
    let allowed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for name in &allowed {
        assert!(
            places.contains_key(*name),
            "{name} stands once: it needs no exception any more"
        );
    }
    let found: Vec<String> = places
        .iter()
        .filter(|(name, _)| !allowed.contains(name.as_str()))
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert!(
        found.is_empty(),
        "{} names of types stand more than once; give each of them a word of its own:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn types_are_found_and_tests_are_passed_over() {
    let text = "
/// struct Comment
pub struct One<T>(T);
pub(crate) enum Two {
    A,
}
impl Iterator for One<u8> {
    type Item = u8;
}
fn work() {
    struct Three;
}
type Four = Box<One<u8>>;
pub(in crate::a) trait Five {}
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    struct Hidden;
    mod inner {
        enum HiddenToo {}
    }
}
#[cfg(test)]
mod elsewhere;
unsafe trait Six {}
";
    let names: Vec<(String, usize)> = types(text);
    let wanted = [
        ("One", 3),
        ("Two", 4),
        ("Three", 11),
        ("Four", 13),
        ("Five", 14),
        ("Six", 25),
    ];
    assert_eq!(names, wanted.map(|(name, line)| (name.to_owned(), line)));
}

/// The Rust files below every `src` folder; modules of tests have files and folders called `tests`.
fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    let passed_over = ["target", "tests", "benches"];
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap())
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !passed_over.contains(&name) {
            find(&path, files);
        }
        let is_source = path.components().any(|it| it.as_os_str() == "src");
        if is_source && name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// The types that a file declares, each with its line. It is formatted by rustfmt: an item begins its
/// line, and a module ends with a brace that stands as far in as its beginning.
fn types(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut of_tests: Option<&str> = None;
    let mut is_for_tests = false;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        if let Some(begins) = of_tests {
            if line.strip_prefix(begins) == Some("}") {
                of_tests = None;
            }
            continue;
        }
        if code.starts_with("#[cfg(test)]") {
            is_for_tests = true;
            continue;
        }
        if code.starts_with('#') {
            continue;
        }
        if std::mem::take(&mut is_for_tests) && code.ends_with('{') {
            of_tests = Some(indent);
            continue;
        }
        let mut words = code.split_whitespace().peekable();
        if words.peek().is_some_and(|it| it.starts_with("pub")) {
            // `pub(in crate::a)` is two words.
            let visibility = words.next();
            if visibility == Some("pub(in") {
                words.next();
            }
        }
        words.next_if_eq(&"unsafe");
        let name = match words.next() {
            Some("struct" | "enum" | "trait" | "union") => words.next(),
            Some("type") if indent.is_empty() => words.next(),
            _ => None,
        };
        let end = |c: char| !c.is_alphanumeric() && c != '_';
        let name = name.and_then(|it| it.split(end).next());
        if let Some(name) = name.filter(|it| it.starts_with(char::is_uppercase)) {
            found.push((name.to_owned(), number + 1));
        }
    }
    found
}
