//! An append-only file (write-ahead log): what Fairway remembers of its objects, a line for each
//! change.
//!
//! A file for each object would be made and removed with every change, and file systems are slow at
//! that: ext4 searches past every inode that was freed in the last minutes. Here a change of any
//! number of objects is one write and one fdatasync(2).
//!
//! A line is the object's key, a tab, and what is remembered of it as JSON; nothing after the tab:
//! the object is gone. The last line of a key counts. A line that a crash cut short has no newline
//! and does not count: nobody was told that it was written. When most lines are out of date the
//! file is rewritten beside its place and renamed over it (compaction).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fairway_config::object::ObjectKey;

use super::disk::{Disk, FileWrite};

/// Where it is, below the state directory.
pub(crate) const PATH: &str = "memory.jsonl";

/// Out-of-date lines below this number of bytes are not worth a rewrite.
const SLACK: u64 = 1 << 20;

/// What is remembered of one object from now on; no content: it is gone.
pub(crate) struct Line {
    pub(crate) key: ObjectKey,
    pub(crate) content: Option<Vec<u8>>,
}

/// The file, open for as long as the state directory is ours: it can be written to when there are
/// no file descriptors left.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// How many bytes of it count.
    len: u64,
    /// How many bytes it would have after a rewrite.
    live: u64,
}

/// What a file held.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// What is remembered of each key, as JSON.
    pub(crate) records: BTreeMap<String, String>,
    /// The keys whose last line says that they are gone.
    pub(crate) removed: BTreeSet<String>,
    /// Lines that can't be read, counted from 1, and why.
    pub(crate) broken: Vec<(usize, &'static str)>,
    /// When the file was last written to.
    pub(crate) written: Option<SystemTime>,
}

/// Reads the file where another process writes it, and leaves it as it is.
///
/// # Errors
/// It can't be read. A file that is not there has nothing in it.
pub(crate) fn read(state: &Path) -> io::Result<Contents> {
    let mut file = match File::open(state.join(PATH)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    bytes.truncate(whole(&bytes));
    let written = Some(file.metadata()?.modified()?);
    Ok(Contents {
        written,
        ..contents(&bytes)
    })
}

/// How many bytes belong to whole lines.
fn whole(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte == b'\n');
    last.map_or(0, |end| end + 1)
}

impl Journal {
    /// Opens or makes the file and reads it.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, Contents)> {
        let path = state.join(PATH);
        let mut file = open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = whole(&bytes);
        bytes.truncate(whole);
        let contents = Contents {
            written: Some(file.metadata()?.modified()?),
            ..contents(&bytes)
        };
        let live = contents
            .records
            .iter()
            .map(|(key, json)| key.len() + json.len() + 2)
            .sum();
        let journal = Self {
            path,
            file,
            len: as_u64(whole),
            live: as_u64(live),
        };
        // A line without its newline must not become the beginning of the next one.
        journal.file.set_len(journal.len)?;
        Ok((journal, contents))
    }

    /// Appends lines. When it returns without an error all of them survive a crash; with one, none
    /// of them counts.
    pub(crate) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let bytes = encode(lines);
        let written = self
            .file
            .write_all_at(&bytes, self.len)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What may be left of them is overwritten by the next lines, or cut off when the file
            // is opened.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += as_u64(bytes.len());
        Ok(())
    }

    /// Whether more than half of it is out of date.
    pub(crate) fn is_mostly_history(&self) -> bool {
        self.len > 2 * self.live + SLACK
    }

    /// Rewrites it with these lines alone.
    pub(crate) fn rewrite(&mut self, disk: &Disk, lines: &[Line]) -> io::Result<()> {
        let content = encode(lines);
        let len = as_u64(content.len());
        let write = FileWrite {
            path: PATH.into(),
            content: Some(content),
            private: true,
        };
        disk.apply(&[write])
            .into_iter()
            .collect::<io::Result<()>>()?;
        self.file = open(&self.path)?;
        (self.len, self.live) = (len, len);
        Ok(())
    }

    /// Rewrites it without its out-of-date lines, from the file itself: only the keys and one line
    /// at a time are in memory.
    pub(crate) fn compact(&mut self, disk: &Disk) -> io::Result<()> {
        let mut last = HashMap::new();
        self.each_line(|at, line| {
            let Some(tab) = line.iter().position(|byte| *byte == b'\t') else {
                return Ok(());
            };
            let (key, content) = line.split_at(tab);
            // A tab and the end of the line.
            if content.len() > 2 {
                last.insert(key.to_vec(), at);
            } else {
                last.remove(key);
            }
            Ok(())
        })?;
        let live: HashSet<u64> = last.into_values().collect();
        let mut len = 0;
        disk.replace(Path::new(PATH), |file| {
            let mut out = BufWriter::new(file);
            self.each_line(|at, line| {
                if !live.contains(&at) {
                    return Ok(());
                }
                len += as_u64(line.len());
                out.write_all(line)
            })?;
            out.flush()
        })?;
        self.file = open(&self.path)?;
        (self.len, self.live) = (len, len);
        Ok(())
    }

    /// Each line that counts, where it begins and with its end.
    fn each_line(&self, mut act: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(&self.path)?).take(self.len);
        let (mut at, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            act(at, &line)?;
            at += as_u64(read);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // The memory of a Secret holds its key.
    options.mode(0o600).open(path)
}

fn encode(lines: &[Line]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(line.key.to_string().bytes());
        bytes.push(b'\t');
        bytes.extend(line.content.iter().flatten());
        bytes.push(b'\n');
    }
    bytes
}

fn contents(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let Ok(line) = std::str::from_utf8(line) else {
            contents.broken.push((number + 1, "is no text"));
            continue;
        };
        match line.split_once('\t') {
            Some((key, "")) => {
                contents.records.remove(key);
                contents.removed.insert(key.to_owned());
            }
            Some((key, json)) => {
                contents.removed.remove(key);
                contents.records.insert(key.to_owned(), json.to_owned());
            }
            None => contents.broken.push((number + 1, "has no key")),
        }
    }
    contents
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    fn line(key: &str, content: Option<&str>) -> Line {
        Line {
            key: key.parse().unwrap(),
            content: content.map(|content| content.as_bytes().to_vec()),
        }
    }

    fn records(state: &Path) -> Vec<(String, String)> {
        let (_, contents) = Journal::open(state).unwrap();
        assert!(contents.broken.is_empty(), "{:?}", contents.broken);
        contents.records.into_iter().collect()
    }

    #[test]
    fn the_last_line_of_a_key_counts() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        let first = [
            line("Service a/x", Some("1")),
            line("Service a/y", Some("2")),
        ];
        journal.append(&first).unwrap();
        journal.append(&[line("Service a/x", Some("3"))]).unwrap();
        journal.append(&[line("Service a/y", None)]).unwrap();
        assert_eq!(
            records(state.path()),
            [("Service a/x".to_owned(), "3".to_owned())]
        );
    }

    #[test]
    fn a_crash_at_any_byte_leaves_what_was_acknowledged() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        journal
            .append(&[line("Service a/x", Some("{\"old\":1}"))])
            .unwrap();
        let acknowledged = fs::read(state.path().join(PATH)).unwrap();
        let next = [
            line("Service a/x", Some("{\"new\":1}")),
            line("Node n", Some("{}")),
        ];
        journal.append(&next).unwrap();
        let all = fs::read(state.path().join(PATH)).unwrap();
        for cut in acknowledged.len()..all.len() {
            fs::write(state.path().join(PATH), &all[..cut]).unwrap();
            let left = records(state.path());
            let x = &left.iter().find(|(key, _)| key == "Service a/x").unwrap().1;
            assert!(
                x == "{\"old\":1}" || x == "{\"new\":1}",
                "cut at {cut}: {x}"
            );
            // What is added afterwards does not hang on what was cut short.
            let (mut journal, _) = Journal::open(state.path()).unwrap();
            journal.append(&[line("Node m", Some("{}"))]).unwrap();
            assert!(records(state.path()).contains(&("Node m".to_owned(), "{}".to_owned())));
        }
    }

    #[test]
    fn history_is_dropped_when_it_is_most_of_the_file() {
        let state = tempfile::tempdir().unwrap();
        let disk = Disk::new(state.path().to_owned());
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        let large = "x".repeat(1 << 12);
        let mut rounds = 0;
        while !journal.is_mostly_history() {
            journal
                .append(&[line("Service a/x", Some(&large))])
                .unwrap();
            rounds += 1;
        }
        assert!(rounds > 100, "{rounds}");
        journal
            .rewrite(&disk, &[line("Service a/x", Some("last"))])
            .unwrap();
        assert!(!journal.is_mostly_history());
        journal.append(&[line("Service a/y", Some("1"))]).unwrap();
        let left = records(state.path());
        assert_eq!(left.len(), 2);
        assert_eq!(left[0].1, "last");
        assert!(fs::metadata(state.path().join(PATH)).unwrap().len() < 100);
    }

    #[test]
    fn it_is_written_anew_from_itself() {
        let state = tempfile::tempdir().unwrap();
        let disk = Disk::new(state.path().to_owned());
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        for round in 0..50 {
            let text = round.to_string();
            let lines = [
                line("Service a/x", Some(&text)),
                line("Node n", Some(&text)),
                line(&format!("Node gone-{round}"), Some(&text)),
            ];
            journal.append(&lines).unwrap();
            journal
                .append(&[line(&format!("Node gone-{round}"), None)])
                .unwrap();
        }
        let before = records(state.path());
        journal.compact(&disk).unwrap();
        let file = fs::read_to_string(state.path().join(PATH)).unwrap();
        assert_eq!(file, "Service a/x\t49\nNode n\t49\n");
        assert_eq!(records(state.path()), before);
        // It goes on where it was.
        journal.append(&[line("Node m", Some("1"))]).unwrap();
        journal.compact(&disk).unwrap();
        assert_eq!(records(state.path()).len(), 3);
    }

    #[test]
    fn a_line_that_is_none_is_named_and_spoils_no_other() {
        let state = tempfile::tempdir().unwrap();
        fs::write(
            state.path().join(PATH),
            b"Node a\t{}\n\xff\xfe\nnonsense\nNode b\t{}\n",
        )
        .unwrap();
        let (_, contents) = Journal::open(state.path()).unwrap();
        assert_eq!(contents.records.len(), 2);
        assert_eq!(contents.broken, [(2, "is no text"), (3, "has no key")]);
    }
}
