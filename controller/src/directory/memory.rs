//! What Fairway remembers of each object, as it stands in the journal.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_config::exchange::{Held, PoolStatus, Status};
use fairway_config::object::{self, Kind, ObjectKey};
use fairway_config::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::manifest::ManifestObject;
use super::scan::FileIdentity;
use crate::state::disk::FileWrite;
use crate::status_json::{self, HeldShape, StatusShape};

/// Where [`root`] is kept, below the state directory.
pub(super) const ROOT: &str = "root.json";

/// The last good form of an object and what goes with it.
#[derive(Debug)]
pub(super) struct MemoryRecord {
    /// The file that declares it; nothing where that is lost.
    pub(super) source: Option<Arc<str>>,
    pub(super) first_seen: Timestamp,
    pub(super) entry: ManifestObject,
    pub(super) service: Option<ServiceMemory>,
    /// Of a pool: what its view says. The journal has nothing of it.
    pub(super) pool: Option<PoolStatus>,
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
struct RecordShape<'a, S> {
    source: Option<Arc<str>>,
    first_seen: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<ServiceShape<S>>,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

/// The status is of one type where it is written, and of another where it is read.
#[derive(Serialize, Deserialize)]
struct ServiceShape<S> {
    uid: Arc<str>,
    version: u64,
    held: HeldShape,
    status: S,
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
            status: StatusShape::from(&service.status),
        }),
        manifest: serde_json::from_str(json)?,
    })
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(text: &str) -> Result<MemoryRecord, String> {
    let shape: RecordShape<'_, Value> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let value = serde_json::from_str(shape.manifest.get()).map_err(|error| error.to_string())?;
    let (key, object) = match object::read(&value) {
        Ok(object::ReadObject {
            key: Some(key),
            object,
            ..
        }) => (key, object),
        Ok(_) => return Err("holds no object that is remembered".to_owned()),
        Err(unreadable) => return Err(format!("holds a malformed {}", unreadable.object)),
    };
    let service = shape.service.map(|service| {
        Ok::<_, String>(ServiceMemory {
            uid: service.uid,
            version: service.version,
            held: service.held.into(),
            status: status_json::read_own(&service.status)?,
        })
    });
    Ok(MemoryRecord {
        source: shape.source,
        first_seen: shape
            .first_seen
            .parse()
            .map_err(|_| "firstSeen is no time")?,
        entry: ManifestObject {
            key,
            number: 0,
            object,
            json: shape.manifest.get().into(),
        },
        service: service.transpose()?,
        pool: None,
    })
}

/// Which directory the manifests were read from. Another one in its place may be a mount that
/// failed.
pub(super) fn root(identity: FileIdentity) -> FileWrite {
    FileWrite {
        path: ROOT.into(),
        content: Some(format!("[{},{}]\n", identity.device, identity.inode).into_bytes()),
        private: false,
    }
}

/// What [`root`] wrote; without it the directory is taken to be the same.
pub(super) fn load_root(state: &Path) -> Option<FileIdentity> {
    let text = fs::read_to_string(state.join(ROOT)).ok()?;
    let (device, inode) = serde_json::from_str(&text).ok()?;
    Some(FileIdentity { device, inode })
}
