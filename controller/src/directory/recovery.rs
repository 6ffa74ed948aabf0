//! Reads what an earlier run left in the state directory.
//!
//! The journal counts. The views, `services/NAMESPACE/NAME.yaml`, say the same for people, so they are a
//! second copy of what each Service holds. Where a Service has a view, and the journal lacks the Service
//! or has an older version of it, the journal has lost lines: it was emptied, removed, cut short or
//! restored from an old copy. Then the view counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fairway_config::exchange::{Held, PoolStatus};
use fairway_config::object::{self, Kind, ObjectKey};
use fairway_config::problem::Problem;

use super::manifest::ManifestObject;
use super::memory::{self, MemoryRecord, ServiceMemory};
use super::parallel;
use crate::state::disk::is_temporary;
use crate::state::journal::{self, Contents, Journal};
use crate::status_json;

/// How many files a problem names; of the others it says how many there are.
const NAMED: usize = 5;

/// What was read from the state directory.
pub(super) struct Loaded {
    pub(super) journal: Journal,
    pub(super) records: Vec<MemoryRecord>,
    /// What of it was lost.
    pub(super) problems: Vec<Problem>,
}

/// Reads the state directory. Temporary files of writes that a crash interrupted are removed.
pub(super) fn load(state: &Path) -> io::Result<Loaded> {
    let mut views = Vec::new();
    for top in ["services", "pools"] {
        list(&state.join(top), &mut views)?;
    }
    let journal_is_there = state.join(journal::PATH).try_exists()?;
    let (journal, contents) = Journal::open(state)?;
    let mut losses = Losses {
        missing: !journal_is_there,
        empty: contents.records.is_empty() && contents.removed.is_empty(),
        ..Losses::default()
    };
    let mut records = decode(&contents, &mut losses);
    let expected: BTreeMap<PathBuf, &MemoryRecord> = records
        .values()
        .map(|record| (state.join(memory::shown(&record.entry.key)), record))
        .collect();
    let found = parallel::map(&views, |view| compare(view, expected.get(view).copied()));
    for (view, found) in views.iter().zip(found) {
        match found {
            Comparison::Same => {}
            Comparison::Newer(memory, key) => {
                if let Some(record) = records.get_mut(&key) {
                    // After a crash a view may be newer by a status alone: that is no loss.
                    let same = record.service.as_ref().map(|it| &it.held) == Some(&memory.held);
                    record.service = Some(memory);
                    losses.outdated += usize::from(!same);
                }
            }
            Comparison::Pool(status, key) => {
                if let Some(record) = records.get_mut(&key) {
                    record.pool = Some(status);
                }
            }
            Comparison::Unknown(record) => {
                let key = &record.entry.key;
                let is_loss = key.kind == Kind::Service
                    && !contents.removed.contains(&key.to_string())
                    && !losses.unreadable.contains(&key.to_string());
                losses.unknown += usize::from(is_loss);
                records.entry(key.clone()).or_insert(record);
            }
            Comparison::Unreadable if view.starts_with(state.join("services")) => {
                losses.lost.push(view.clone());
            }
            // Of a pool's view only the times of its conditions are used.
            Comparison::Unreadable => {}
        }
    }
    losses.used = losses.missing && state.join(memory::ROOT).try_exists()?;
    Ok(Loaded {
        journal,
        records: records.into_values().collect(),
        problems: losses.problem(state).into_iter().collect(),
    })
}

/// What the lines of the journal say.
fn decode(contents: &Contents, losses: &mut Losses) -> BTreeMap<ObjectKey, MemoryRecord> {
    let broken = contents.broken.iter();
    losses.faults = broken.map(|(n, why)| format!("line {n} {why}")).collect();
    let lines: Vec<_> = contents.records.iter().collect();
    let decoded = parallel::map(&lines, |(_, json)| memory::decode(json));
    let mut records = BTreeMap::new();
    for ((key, _), decoded) in lines.into_iter().zip(decoded) {
        match decoded {
            Ok(record) => {
                records.insert(record.entry.key.clone(), record);
            }
            Err(why) => {
                losses.faults.push(format!("the line of {key} {why}"));
                losses.unreadable.insert(key.clone());
            }
        }
    }
    records
}

/// What a view says in comparison with the journal.
enum Comparison {
    /// The same.
    Same,
    /// A later version of the same object.
    Newer(ServiceMemory, ObjectKey),
    /// The status of a pool, which the journal does not have.
    Pool(PoolStatus, ObjectKey),
    /// An object that the journal does not have.
    Unknown(MemoryRecord),
    /// It can't be read, and the journal does not have its object.
    Unreadable,
}

fn compare(view: &Path, known: Option<&MemoryRecord>) -> Comparison {
    let Some(known) = known else {
        let text = fs::read_to_string(view).ok();
        return match text.and_then(|text| recover(&text)) {
            Some(record) => Comparison::Unknown(record),
            None => Comparison::Unreadable,
        };
    };
    let Some(memory) = &known.service else {
        let text = fs::read_to_string(view).ok();
        let status = text.and_then(|text| recover(&text)?.pool);
        return match status {
            Some(status) => Comparison::Pool(status, known.entry.key.clone()),
            None => Comparison::Same,
        };
    };
    // Nearly all views are up to date: they are not parsed.
    let newer = fs::read_to_string(view)
        .ok()
        .filter(|text| version(text).is_some_and(|it| it > memory.version))
        .and_then(|text| recover(&text)?.service)
        .filter(|newer| newer.uid == memory.uid && newer.version > memory.version);
    match newer {
        Some(newer) => Comparison::Newer(newer, known.entry.key.clone()),
        None => Comparison::Same,
    }
}

/// The `resourceVersion` in the text of a view, found without parsing it.
fn version(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("\n  resourceVersion: ")?;
    let value = rest.lines().next()?;
    value.trim_matches(['"', '\'', ' ']).parse().ok()
}

/// An object as its view shows it: a Service with what it holds, a pool with its age.
fn recover(text: &str) -> Option<MemoryRecord> {
    let document = fairway_config::document::documents(text).ok()?.pop()?;
    let (key, object) = match object::read(&document.value) {
        Ok(object::ReadObject {
            key: Some(key),
            object,
            ..
        }) => (key, object),
        _ => return None,
    };
    let created = document.value.pointer("/metadata/creationTimestamp")?;
    let first_seen = created.as_str()?.parse().ok()?;
    let service = match &object {
        object::Object::Pool(_) => None,
        object::Object::Service(service) => {
            let status = status_json::read_own(document.value.get("status")?).ok()?;
            let version = document.value.pointer("/metadata/resourceVersion")?;
            Some(ServiceMemory {
                uid: service.uid.clone()?,
                version: version.as_str()?.parse().ok()?,
                held: Held {
                    addresses: service.status_addresses.clone(),
                    node_ports: service.node_ports(),
                    health_check_node_port: service.health_check_node_port,
                },
                status,
            })
        }
        _ => return None,
    };
    let is_pool = matches!(object, object::Object::Pool(_));
    Some(MemoryRecord {
        pool: is_pool.then(|| status_json::read_pool(&document.value)),
        source: None,
        first_seen,
        entry: ManifestObject {
            key,
            number: 0,
            json: document.value.to_string().into(),
            object,
        },
        service,
    })
}

/// What was lost of the state that an earlier run left.
#[derive(Default)]
struct Losses {
    /// There is no journal.
    missing: bool,
    /// The journal is empty.
    empty: bool,
    /// The directory was in use before, though there is no journal.
    used: bool,
    /// Lines of the journal that can't be read, a clause each.
    faults: Vec<String>,
    /// Objects whose line can't be read.
    unreadable: BTreeSet<String>,
    /// How many Services have a view and no line in the journal.
    unknown: usize,
    /// How many Services have a view that is newer than their line and says that they hold something
    /// else.
    outdated: usize,
    /// Views that can't be read, of objects that have no line.
    lost: Vec<PathBuf>,
}

impl Losses {
    /// All of it as one problem; nothing where nothing was lost.
    fn problem(&self, state: &Path) -> Option<Problem> {
        let path = state.join(journal::PATH);
        let mut said = Vec::new();
        if !self.faults.is_empty() {
            let why = self.faults.join("; ");
            said.push(format!(
                "some of the state can't be read ({why}): {}; what Services hold was taken from \
                 services/ where it could be",
                set_aside(&path)
            ));
        }
        let taken = self.unknown + self.outdated;
        if taken > 0 {
            let what = match (self.missing, self.empty, self.unknown) {
                (true, _, _) => "is missing",
                (_, true, _) => "is empty",
                (_, _, 0) => "is older than what services/ shows",
                _ => "lacks Services that services/ shows",
            };
            let services = match taken {
                1 => "one Service holds".to_owned(),
                _ => format!("{taken} Services hold"),
            };
            said.push(format!("{what}: what {services} was taken from services/"));
        }
        if taken == 0 && self.used && self.lost.is_empty() {
            said.push(
                "is missing, and services/ shows nothing, though this directory was in use before: \
                 what Services held is not known, and they may get other addresses and node ports"
                    .to_owned(),
            );
        }
        if !self.lost.is_empty() {
            let named: Vec<_> = self
                .lost
                .iter()
                .take(NAMED)
                .map(|view| {
                    view.strip_prefix(state)
                        .unwrap_or(view)
                        .display()
                        .to_string()
                })
                .collect();
            let more = match self.lost.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            said.push(format!(
                "says nothing of {}{more}, which can't be read either: what is shown there is lost",
                named.join(", ")
            ));
        }
        if said.is_empty() {
            return None;
        }
        let message = said.join("; it ");
        tracing::error!(file = %path.display(), why = message, "some of the state was lost");
        Some(Problem::of_file(&*path.to_string_lossy(), message))
    }
}

/// Keeps a copy of a journal that can't be read whole: its file is written anew without what is
/// broken. A clause that says where.
fn set_aside(path: &Path) -> String {
    let aside = path.with_extension("corrupt");
    match fs::copy(path, &aside) {
        Ok(_) => format!("a copy is {}", aside.display()),
        Err(error) => format!("it could not be copied: {error}"),
    }
}

/// All views below a directory. Temporary files of interrupted writes are removed.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else if is_temporary(&name) {
            let _ = fs::remove_file(entry.path());
        } else if name.ends_with(".yaml") {
            files.push(entry.path());
        }
    }
    Ok(())
}
