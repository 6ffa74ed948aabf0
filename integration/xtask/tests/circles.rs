//! No circle of files: two files of one crate never use each other, neither directly nor by way of
//! others. What both need belongs into a third, smaller file.
//!
//! Read are the paths that a file names (`crate::…`, `super::…`, `self::…`, a child module's name),
//! in `use` lines and elsewhere. `mod` declarations and re-exports do not count; a name that is
//! re-exported stands for the file that it comes from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The names of the modules around something, outermost first; the crate's root has none.
type ModulePath = Vec<String>;

/// A module: the file that it is in, and what it names.
#[derive(Debug)]
struct Module {
    file: PathBuf,
    /// The paths that it names, each with its line.
    named: Vec<(Vec<String>, usize)>,
    /// The names that its `use` lines bind, for itself, for modules in it, and where they are
    /// re-exported for others, too; each with the path that it stands for.
    bound: Vec<(String, Vec<String>)>,
}

/// One compilation unit: the modules below one root file.
type Crate = BTreeMap<ModulePath, Module>;

/// Who uses whom, and where: a line and the path that is named there.
type Uses = BTreeMap<PathBuf, BTreeMap<PathBuf, (usize, String)>>;

#[test]
fn no_files_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    let mut found = Vec::new();
    let mut files = 0;
    for start in roots(&root) {
        let unit = read(&start);
        files += unit.values().filter(|module| module.file != start).count();
        found.extend(circles(&unit).iter().map(|circle| told(circle, &root)));
    }
    assert!(files > 200, "only {files} files were read");
    assert!(
        found.is_empty(),
        "{} circles of files:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn a_circle_is_found_whichever_way_its_files_name_each_other() {
    let circle_of = |files: &[(&str, &str)]| {
        let folder = std::env::temp_dir().join(format!("circles-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let unit = read(&folder.join("lib.rs"));
        let names: Vec<Vec<String>> = circles(&unit)
            .iter()
            .map(|circle| {
                let short =
                    |file: &PathBuf| file.strip_prefix(&folder).unwrap().display().to_string();
                circle.keys().map(short).collect()
            })
            .collect();
        fs::remove_dir_all(&folder).unwrap();
        names
    };
    let none: Vec<Vec<String>> = Vec::new();
    let lib = "mod a; mod b;";
    for (a, b) in [
        ("use crate::b::B;", "use super::a::A;"),
        ("use crate::{b::{self, B}};", "fn f() { crate::a::f() }"),
        ("fn f() { let x = '\"'; super::b::g() }", "use crate::a;"),
        ("mod inner { use super::super::b; }", "use crate::a::*;"),
    ] {
        let found = circle_of(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b)]);
        assert_eq!(found, [["a.rs", "b.rs"]], "{a} {b}");
    }
    // Through a third, and through a re-export.
    let three = [
        ("lib.rs", "mod a; mod b; mod c; pub use c::C;"),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::C;"),
        ("c.rs", "use crate::a::A;"),
    ];
    assert_eq!(circle_of(&three), [["a.rs", "b.rs", "c.rs"]]);
    // A parent and its child.
    let family = [
        ("lib.rs", "mod a;"),
        ("a.rs", "mod b; fn f() { b::g() }"),
        ("a/b.rs", "use super::A;"),
    ];
    assert_eq!(circle_of(&family), [["a/b.rs", "a.rs"]]);
    for (a, b) in [
        (
            "use crate::b::B;",
            "/// See [`crate::a`].\n// use crate::a;\nconst X: &str = \"crate::a::A\";",
        ),
        ("pub(crate) use crate::b::B;", "use crate::a::A;"),
        ("mod tests { use super::*; }", "use crate::a::A;"),
        (
            "fn f<'a>(x: &'a str) -> impl Sized + use<'a> { x.b }",
            "use crate::a::A;",
        ),
    ] {
        let found = circle_of(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b)]);
        assert_eq!(found, none, "{a} {b}");
    }
}

/// The root file of every crate, test, benchmark and program of the workspace.
fn roots(root: &Path) -> Vec<PathBuf> {
    let members = [
        "",
        "config",
        "controller",
        "controller/core",
        "gateway",
        "gateway/core",
        "integration",
        "integration/namespaces",
        "integration/xtask",
    ];
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let listed = manifest.split("members = [").nth(1).unwrap();
    let listed = listed.split(']').next().unwrap().matches('"').count() / 2;
    assert_eq!(
        listed + 1,
        members.len(),
        "the members of the workspace changed"
    );
    let mut found = Vec::new();
    for member in members {
        let member = root.join(member);
        found.extend(["src/lib.rs", "src/main.rs"].map(|name| member.join(name)));
        for folder in ["src/bin", "tests", "benches"] {
            let Ok(entries) = fs::read_dir(member.join(folder)) else {
                continue;
            };
            for entry in entries {
                let path = entry.unwrap().path();
                found.push(if path.is_dir() {
                    path.join("main.rs")
                } else {
                    path
                });
            }
        }
    }
    found.retain(|path| path.is_file() && path.extension().is_some_and(|it| it == "rs"));
    found.sort();
    found
}

/// Reads the file `start` and every file that it declares.
fn read(start: &Path) -> Crate {
    let mut unit = Crate::new();
    let folder = start.parent().unwrap().to_owned();
    let mut waiting = vec![(Vec::new(), start.to_owned(), folder)];
    while let Some((at, file, folder)) = waiting.pop() {
        let text = fs::read_to_string(&file).unwrap();
        for name in Reader::new(&text, &at, &file).read(&mut unit) {
            let mut inside = folder.clone();
            // The modules in braces around the declaration are folders.
            inside.extend(&name[at.len()..name.len() - 1]);
            let last = name.last().unwrap();
            let below = inside.join(last);
            let own = inside.join(format!("{last}.rs"));
            let file = if let Some(path) = path_attribute(&text, last) {
                file.with_file_name(path)
            } else if own.is_file() {
                own
            } else {
                below.join("mod.rs")
            };
            waiting.push((name, file, below));
        }
    }
    unit
}

/// The file that an attribute names for the module.
fn path_attribute<'a>(text: &'a str, module: &str) -> Option<&'a str> {
    let (before, _) = text.split_once(&format!("\nmod {module};"))?;
    let attribute = before.lines().last()?.strip_prefix("#[path = \"")?;
    attribute.strip_suffix("\"]")
}

/// Takes the words of one file apart.
struct Reader<'a> {
    words: Vec<(&'a str, usize)>,
    at: ModulePath,
    file: &'a Path,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, at: &ModulePath, file: &'a Path) -> Self {
        Self {
            words: words(text),
            at: at.clone(),
            file,
        }
    }

    fn word(&self, at: usize) -> &'a str {
        self.words.get(at).map_or("", |(word, _)| word)
    }

    /// Adds the modules of the file; those that it declares and that are files of their own.
    fn read(mut self, unit: &mut Crate) -> Vec<ModulePath> {
        let (mut declared, mut depth, mut opened) = (Vec::new(), 0, Vec::new());
        self.enter(unit);
        let mut at = 0;
        while at < self.words.len() {
            match self.word(at) {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if opened.last() == Some(&depth) {
                        opened.pop();
                        self.at.pop();
                    }
                }
                "mod" if matches!(self.word(at + 2), ";" | "{") => {
                    self.at.push(self.word(at + 1).to_owned());
                    if self.word(at + 2) == "{" {
                        opened.push(depth);
                        depth += 1;
                        self.enter(unit);
                    } else {
                        declared.push(self.at.clone());
                        self.at.pop();
                    }
                    at += 2;
                }
                "use" if self.word(at + 1) != "<" => {
                    let is_export = matches!(self.word(at.wrapping_sub(1)), "pub" | ")");
                    let line = self.words[at].1;
                    let mut paths = Vec::new();
                    at = self.tree(at + 1, &mut Vec::new(), &mut paths);
                    let module = unit.get_mut(&self.at).unwrap();
                    for (path, name) in paths {
                        if !is_export {
                            module.named.push((path.clone(), line));
                        }
                        module.bound.push((name, path));
                    }
                }
                _ if self.word(at + 1) == "::"
                    && !matches!(self.word(at.wrapping_sub(1)), "::" | ".") =>
                {
                    let (mut path, line) = (Vec::new(), self.words[at].1);
                    while self.word(at + 1) == "::" {
                        path.push(self.word(at).to_owned());
                        at += 2;
                    }
                    path.push(self.word(at).to_owned());
                    unit.get_mut(&self.at).unwrap().named.push((path, line));
                }
                _ => {}
            }
            at += 1;
        }
        declared
    }

    fn enter(&self, unit: &mut Crate) {
        let module = Module {
            file: self.file.to_owned(),
            named: Vec::new(),
            bound: Vec::new(),
        };
        unit.entry(self.at.clone()).or_insert(module);
    }

    /// Reads a tree of a `use` line from `at`; where it ends.
    fn tree(
        &self,
        mut at: usize,
        before: &mut Vec<String>,
        into: &mut Vec<(Vec<String>, String)>,
    ) -> usize {
        let length = before.len();
        loop {
            match self.word(at) {
                "{" => {
                    at += 1;
                    while self.word(at) != "}" {
                        at = self.tree(at, before, into);
                        at += usize::from(self.word(at) == ",");
                    }
                    at += 1;
                    break;
                }
                "::" => {}
                "," | "}" | ";" | "" => {
                    if before.last().is_some_and(|last| last == "self") && before.len() > 1 {
                        before.pop();
                    }
                    let name = before.last().cloned().unwrap_or_default();
                    into.push((before.clone(), name));
                    break;
                }
                "as" => {
                    into.push((before.clone(), self.word(at + 1).to_owned()));
                    at += 2;
                    break;
                }
                name => before.push(name.to_owned()),
            }
            at += 1;
        }
        before.truncate(length);
        at
    }
}

/// The words of Rust source: names, `::`, and single signs; comments and literals are left out.
fn words(text: &str) -> Vec<(&str, usize)> {
    let bytes = text.as_bytes();
    let (mut words, mut at, mut line) = (Vec::new(), 0, 1);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    while at < bytes.len() {
        let start = at;
        let rest = &text[at..];
        let quotes = rest.trim_start_matches(['b', 'c', 'r']);
        let raw = rest.len() > quotes.len() && rest[..rest.len() - quotes.len()].contains('r');
        let hashes = quotes.len() - quotes.trim_start_matches('#').len();
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let mut depth = 0;
            while at < bytes.len() {
                let (step, change) = match &bytes[at..] {
                    [b'/', b'*', ..] => (2, 1),
                    [b'*', b'/', ..] => (2, -1),
                    _ => (1, 0),
                };
                at += step;
                depth += change;
                if depth == 0 {
                    break;
                }
            }
        } else if raw && quotes[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = at + (rest.len() - quotes.len()) + hashes + 1;
            at = begin
                + text[begin..]
                    .find(&end)
                    .unwrap_or(text.len() - begin - end.len())
                + end.len();
        } else if quotes.starts_with('"') && rest.len() - quotes.len() < 2 {
            at += rest.len() - quotes.len() + 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if bytes[at] == b'\'' {
            let mut after = rest.chars().skip(1);
            let first = after.next();
            let length = first.map_or(1, char::len_utf8);
            if first == Some('\\') {
                at += 3;
                while at < bytes.len() && bytes[at] != b'\'' {
                    at += 1;
                }
                at += 1;
            } else if after.next() == Some('\'') {
                at += length + 2;
            } else {
                at += 1;
                while at < bytes.len() && is_name(bytes[at]) {
                    at += 1;
                }
            }
        } else if is_name(bytes[at]) {
            while at < bytes.len() && is_name(bytes[at]) {
                at += 1;
            }
            words.push((&text[start..at], line));
        } else if rest.starts_with("::") {
            at += 2;
            words.push(("::", line));
        } else {
            at += 1;
            if !bytes[start].is_ascii_whitespace() {
                words.push((&text[start..at], line));
            }
        }
        line += bytes[start..at.min(bytes.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
    }
    words
}

/// The module that `path`, named in the module `at`, leads to.
fn target<'a>(
    unit: &'a Crate,
    at: &ModulePath,
    path: &[String],
    depth: usize,
) -> Option<&'a Module> {
    let mut names = path.iter().map(String::as_str).peekable();
    let mut here: ModulePath = match names.peek()? {
        &"crate" => Vec::new(),
        &"self" | &"super" => at.clone(),
        name => {
            let mut child = at.clone();
            child.push((*name).to_owned());
            unit.get(&child)?;
            at.clone()
        }
    };
    while let Some(name) = names.next_if(|name| matches!(*name, "crate" | "self" | "super")) {
        if name == "super" {
            here.pop();
        }
    }
    while let Some(name) = names.next() {
        let mut below = here.clone();
        below.push(name.to_owned());
        if unit.contains_key(&below) {
            here = below;
            continue;
        }
        let module = unit.get(&here)?;
        let bound = module.bound.iter().find(|(as_name, _)| as_name == name);
        if let Some((_, from)) = bound
            && depth < 8
        {
            let mut whole = from.clone();
            whole.extend(names.map(str::to_owned));
            return target(unit, &here, &whole, depth + 1);
        }
        break;
    }
    unit.get(&here)
}

/// Each circle: the files in it, with what they use of each other.
fn circles(unit: &Crate) -> Vec<Uses> {
    let mut uses = Uses::new();
    for (at, module) in unit {
        for (path, line) in &module.named {
            if let Some(other) = target(unit, at, path, 0)
                && other.file != module.file
            {
                let of = uses.entry(module.file.clone()).or_default();
                of.entry(other.file.clone())
                    .or_insert_with(|| (*line, path.join("::")));
            }
        }
    }
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = uses
        .keys()
        .map(|file| {
            let (mut seen, mut waiting) = (BTreeSet::new(), vec![file]);
            while let Some(next) = waiting.pop() {
                for other in uses.get(next).into_iter().flat_map(BTreeMap::keys) {
                    if seen.insert(other) {
                        waiting.push(other);
                    }
                }
            }
            (file, seen)
        })
        .collect();
    let mut found: Vec<Uses> = Vec::new();
    for (file, others) in &reached {
        if !others.contains(file) || found.iter().any(|circle| circle.contains_key(*file)) {
            continue;
        }
        let is_in = |other: &PathBuf| {
            others.contains(other) && reached.get(other).is_some_and(|it| it.contains(file))
        };
        let circle = uses.iter().filter(|(file, _)| is_in(file));
        let circle = circle.map(|(file, of)| {
            let of = of.iter().filter(|(other, _)| is_in(other));
            let of = of.map(|(other, at)| (other.clone(), at.clone())).collect();
            (file.clone(), of)
        });
        found.push(circle.collect());
    }
    found
}

/// A circle as lines for people.
fn told(circle: &Uses, root: &Path) -> String {
    let short = |file: &Path| {
        file.strip_prefix(root)
            .unwrap_or(file)
            .display()
            .to_string()
    };
    let mut lines = vec!["these files use each other:".to_owned()];
    for (file, of) in circle {
        for (other, (line, path)) in of {
            lines.push(format!(
                "  {}:{line} uses {}: {path}",
                short(file),
                short(other)
            ));
        }
    }
    lines.join("\n")
}
