//! What Fairway remembers of each object, as it stands in the journal.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_config::exchange::{Held, Status};
use fairway_config::object::{self, Kind, ObjectKey};
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::manifest::Entry;
use super::parallel;
use super::scan::Identity;
use crate::shape::{HeldShape, StatusShape};
use crate::state::disk::{FileWrite, is_temporary};
use crate::state::journal::{self, Journal};

/// Where [`root`] is kept, below the state directory.
const ROOT: &str = "root.json";

/// The last good form of an object and what goes with it.
#[derive(Debug)]
pub(super) struct Record {
    /// The file that declares it; nothing where that is lost.
    pub(super) source: Option<Arc<str>>,
    pub(super) first_seen: Timestamp,
    pub(super) entry: Entry,
    pub(super) service: Option<ServiceMemory>,
}

/// What is remembered of a Service besides.
#[derive(Clone, Debug)]
pub(super) struct ServiceMemory {
    pub(super) uid: Arc<str>,
    pub(super) version: u64,
    pub(super) held: Held,
    pub(super) status: Status,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordShape<'a> {
    source: Option<Arc<str>>,
    first_seen: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<ServiceShape>,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct ServiceShape {
    uid: Arc<str>,
    version: u64,
    held: HeldShape,
    status: StatusShape,
}

/// Where a Service or an AddressPool is shown, below the state directory.
pub(super) fn shown(key: &ObjectKey) -> PathBuf {
    match key.kind {
        Kind::AddressPool => place("pools", key, "yaml"),
        _ => place("services", key, "yaml"),
    }
}

fn place(top: &str, key: &ObjectKey, ending: &str) -> PathBuf {
    let mut path = PathBuf::from(top);
    path.extend(key.namespace.as_deref());
    // A name may be 253 bytes long and a file name 255, with an ending and a mark while it is
    // written. Names are ASCII.
    match key.name.get(..200) {
        Some(front) if key.name.len() > 240 => {
            path.push(format!("{front}~{:016x}.{ending}", fnv1a(&key.name)));
        }
        _ => path.push(format!("{}.{ending}", key.name)),
    }
    path
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): names files, so it has to be the same for ever.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// What the journal holds of an object.
pub(super) fn encode(
    source: &Arc<str>,
    first_seen: Timestamp,
    json: &str,
    service: Option<&ServiceMemory>,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&RecordShape {
        source: Some(Arc::clone(source)),
        first_seen: first_seen.to_string(),
        service: service.map(|service| ServiceShape {
            uid: Arc::clone(&service.uid),
            version: service.version,
            held: (&service.held).into(),
            status: (&service.status).into(),
        }),
        manifest: serde_json::from_str(json)?,
    })
}

fn decode(text: &str) -> Result<Record, String> {
    let shape: RecordShape<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let value = serde_json::from_str(shape.manifest.get()).map_err(|error| error.to_string())?;
    let (key, object) = match object::read(&value) {
        Ok(object::Read {
            key: Some(key),
            object,
        }) => (key, object),
        Ok(_) => return Err("holds no object that is remembered".to_owned()),
        Err(unreadable) => return Err(format!("holds a malformed {}", unreadable.object)),
    };
    Ok(Record {
        source: shape.source,
        first_seen: shape
            .first_seen
            .parse()
            .map_err(|_| "firstSeen is no time")?,
        entry: Entry {
            key,
            number: 0,
            object,
            json: shape.manifest.get().into(),
        },
        service: shape.service.map(|service| ServiceMemory {
            uid: service.uid,
            version: service.version,
            held: service.held.into(),
            status: service.status.into(),
        }),
    })
}

/// Which directory the manifests were read from. Another one in its place may be a mount that
/// failed.
pub(super) fn root(identity: Identity) -> FileWrite {
    FileWrite {
        path: ROOT.into(),
        content: Some(format!("[{},{}]\n", identity.device, identity.inode).into_bytes()),
        private: false,
    }
}

/// What [`root`] wrote; without it the directory is taken to be the same.
pub(super) fn load_root(state: &Path) -> Option<Identity> {
    let text = fs::read_to_string(state.join(ROOT)).ok()?;
    let (device, inode) = serde_json::from_str(&text).ok()?;
    Some(Identity { device, inode })
}

/// What was remembered when the state directory was taken over.
pub(super) struct Loaded {
    pub(super) journal: Journal,
    pub(super) records: Vec<Record>,
    /// What of it could not be read.
    pub(super) problems: Vec<Problem>,
}

/// Reads everything that is remembered. Files that were never put in their place are removed.
pub(super) fn load(state: &Path) -> io::Result<Loaded> {
    let mut views = Vec::new();
    for top in ["services", "pools"] {
        list(&state.join(top), &mut views)?;
    }
    let (journal, contents) = Journal::open(state)?;
    let lines: Vec<_> = contents.records.into_iter().collect();
    let decoded = parallel::map(&lines, |(_, json)| decode(json));
    let mut records = BTreeMap::new();
    let mut broken = contents.broken.into_iter();
    let mut faults: Vec<String> = broken
        .by_ref()
        .map(|(n, why)| format!("line {n} {why}"))
        .collect();
    for ((key, _), decoded) in lines.iter().zip(decoded) {
        match decoded {
            Ok(record) => {
                records.insert(record.entry.key.clone(), record);
            }
            Err(why) => faults.push(format!("the line of {key} {why}")),
        }
    }
    let mut problems = Vec::new();
    if !faults.is_empty() {
        for record in views.iter().filter_map(|view| recover(view)) {
            // A second best gives way to what was remembered as it should be.
            records.entry(record.entry.key.clone()).or_insert(record);
        }
        problems.push(set_aside(state, &faults));
    }
    let records = records.into_values().collect();
    Ok(Loaded {
        journal,
        records,
        problems,
    })
}

/// Keeps a copy of a journal that can't be read whole: its file is written anew without what is
/// broken.
fn set_aside(state: &Path, faults: &[String]) -> Problem {
    let path = state.join(journal::PATH);
    let aside = path.with_extension("corrupt");
    let kept = match fs::copy(&path, &aside) {
        Ok(_) => format!("a copy is {}", aside.display()),
        Err(error) => format!("it could not be copied: {error}"),
    };
    let why = faults.join("; ");
    tracing::error!(file = %path.display(), why, "some of the state can't be read");
    Problem {
        file: path.to_string_lossy().into(),
        document: 0,
        object: String::new(),
        field: String::new(),
        message: format!(
            "some of the state can't be read ({why}): {kept}; what Services hold was taken from \
             services/ where it could be"
        ),
    }
}

/// A Service whose memory is lost is shown to people in a file of its own, which is as good for
/// what it holds.
fn recover(view: &Path) -> Option<Record> {
    let text = fs::read_to_string(view).ok()?;
    let document = fairway_config::document::documents(&text).ok()?.pop()?;
    let (key, object) = match object::read(&document.value) {
        Ok(object::Read {
            key: Some(key),
            object,
        }) => (key, object),
        _ => return None,
    };
    let object::Object::Service(service) = &object else {
        return None;
    };
    let status: StatusShape = serde_json::from_value(document.value.get("status")?.clone()).ok()?;
    let version = document.value.pointer("/metadata/resourceVersion")?;
    let memory = ServiceMemory {
        uid: service.uid.clone()?,
        version: version.as_str()?.parse().ok()?,
        held: Held {
            addresses: service.status_addresses.clone(),
            node_ports: service
                .ports
                .iter()
                .filter_map(|port| Some((port.key(), port.node_port?)))
                .collect(),
            health_check_node_port: service.health_check_node_port,
        },
        status: status.into(),
    };
    Some(Record {
        source: None,
        first_seen: service.created?,
        entry: Entry {
            key,
            number: 0,
            json: document.value.to_string().into(),
            object,
        },
        service: Some(memory),
    })
}

/// All files below a directory, deep; those half written go.
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
