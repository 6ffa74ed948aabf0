//! What a process or a test opens is not inherited by programs that are started meanwhile (`FD_CLOEXEC`, fcntl(2)).
//!
//! A socket that another program has as well stays open when it is closed here: a connection goes on counting, a port stays
//! taken, and a peer never hears the end. The standard library, Tokio and socket2 set the flag by themselves. rustix
//! and libc set it where they are told to, so all their calls that open something are looked at, in tests, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// Functions of rustix (by their module) and of libc that can't set the flag. Others can take their place.
const WITHOUT: &[(&str, &[&str])] = &[
    ("net", &["socket", "accept", "acceptfrom"]),
    ("pipe", &["pipe"]),
    ("io", &["dup", "dup2"]),
];
const WITHOUT_OF_LIBC: &[&str] = &[
    "socket(",
    "accept(",
    "pipe(",
    "dup(",
    "dup2(",
    "epoll_create(",
];

/// Functions that set it where their arguments say so.
const WITH: &[&str] = &[
    "socket_with",
    "accept_with",
    "acceptfrom_with",
    "socketpair",
    "pipe_with",
    "dup3",
    "eventfd",
    "epoll::create",
    "inotify::init",
    "memfd_create",
    "timerfd_create",
    "openat",
    "libc::open",
    "libc::accept4",
    "libc::pipe2",
    "libc::epoll_create1",
];

/// The flags may be named in so many lines before the call.
const BEFORE: usize = 12;

#[test]
fn what_is_opened_is_not_inherited() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    let mut files = Vec::new();
    find(&root, &mut files);
    assert!(files.len() > 500, "only {} files", files.len());
    let (mut found, mut calls) = (Vec::new(), 0);
    for file in &files {
        let shown = file.strip_prefix(&root).unwrap().display();
        // What this file is about stands in it.
        if shown.to_string().ends_with("tests/close_on_exec.rs") {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        let read = read(&text);
        calls += read.calls;
        let lines = read.inherited.into_iter();
        found.extend(lines.map(|(line, what)| format!("{shown}:{line}: {what}")));
    }
    assert!(calls > 10, "only {calls} calls were found");
    assert!(
        found.is_empty(),
        "programs that are started inherit what is opened here; say CLOEXEC:\n{}",
        found.join("\n")
    );
}

#[test]
fn calls_are_found_and_judged() {
    let text = "
use rustix::net::{AddressFamily, socket, socket_with};
use rustix::pipe::{
    PipeFlags, pipe,
};
fn socket_of() {
    let good = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let good = rustix::net::accept_with(
        &listener,
        flags,
    );
    // eventfd(0, EventfdFlags::empty()) in a comment
    let also_good = stream.accept();
}
fn bad() {



    let bad = eventfd(0, EventfdFlags::NONBLOCK)?;
    let bad = rustix::io::dup(&it)?;
    let bad = unsafe { libc::socket(1, 2, 3) };



    let no = epoll::create(CreateFlags::empty());
}
";
    let read = read(text);
    let lines: Vec<usize> = read.inherited.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 20, 21, 22, 26], "{:?}", read.inherited);
    assert_eq!(read.calls, 4);
}

/// What a file opens.
#[derive(Default)]
struct Opened {
    /// How many calls there are that can set the flag.
    calls: usize,
    /// Where it is not set.
    inherited: Vec<(usize, String)>,
}

fn read(text: &str) -> Opened {
    let mut opened = Opened::default();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect();
    for (number, line) in lines.iter().enumerate() {
        let mut say = |what: &str| opened.inherited.push((number + 1, what.to_owned()));
        for (module, names) in WITHOUT {
            let path = format!("rustix::{module}::");
            let imported = imported(&lines[number..], &path);
            for name in *names {
                let called = line.contains(&format!("{path}{name}("));
                if called || imported.iter().any(|it| it == name) {
                    say(name);
                }
            }
        }
        let of_libc = WITHOUT_OF_LIBC.iter();
        of_libc
            .filter(|name| line.contains(&format!("libc::{name}")))
            .for_each(|name| say(name));
        for name in WITH.iter().filter(|name| is_called(line, name)) {
            opened.calls += 1;
            let from = number.saturating_sub(BEFORE);
            // A flag of another function says nothing of this one.
            let before = &lines[from..number];
            let begins = before.iter().rposition(|line| line.contains("fn "));
            let before = &before[begins.unwrap_or(0)..];
            let whole = [before, &lines[number..(number + 8).min(lines.len())]].concat();
            if !whole.iter().any(|line| line.contains("CLOEXEC")) {
                opened.inherited.push((number + 1, (*name).to_owned()));
            }
        }
    }
    opened
}

/// What a declaration that begins with the first of these lines imports of a module.
fn imported(lines: &[&str], path: &str) -> Vec<String> {
    let Some((_, names)) = lines[0].split_once(&format!("use {path}")) else {
        return Vec::new();
    };
    let rest = [&[names], &lines[1..]].concat().join(" ");
    let names = rest.split(';').next().unwrap();
    let names = names.split(|c: char| !c.is_alphanumeric() && c != '_');
    names.map(str::to_owned).collect()
}

/// Whether a line calls a function of that name, and no method and no function whose name ends so.
fn is_called(line: &str, name: &str) -> bool {
    let call = format!("{name}(");
    line.match_indices(&call).any(|(at, _)| {
        let before = &line[..at];
        let is_part = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        !is_part && !before.ends_with("fn ")
    })
}

/// All Rust files.
fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                find(&path, files);
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}
