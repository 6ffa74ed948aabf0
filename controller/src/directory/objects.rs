//! Every object that is in force: its last good form, what a Service holds, and what is not on disk yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_config::exchange::{Change, PoolStatus, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::object::{Kind, Object, ObjectKey};
use fairway_config::time::Timestamp;

use super::catalog::{Catalog, Winner};
use super::changes::difference;
use super::decision_log;
use super::live_service::{Live, LiveService, bring_service};
use super::memory::{self, MemoryRecord, ServiceMemory};
use super::render;
use crate::state::disk::FileWrite;
use crate::state::journal::Line;

/// Every object that is in force.
#[derive(Default)]
pub(super) struct LiveObjects {
    live: BTreeMap<ObjectKey, Live>,
    /// What an earlier run remembered of objects that no manifest has declared yet.
    remembered: BTreeMap<ObjectKey, RememberedObject>,
    /// Objects whose line in the journal is out of date.
    pub(super) records_due: BTreeSet<ObjectKey>,
    /// Services and pools whose view is out of date.
    pub(super) shown_due: BTreeSet<ObjectKey>,
}

/// What is known of an object of an earlier run.
struct RememberedObject {
    first_seen: Timestamp,
    service: Option<ServiceMemory>,
    pool: Option<PoolStatus>,
}

/// A write that was made from the present version of its object.
pub(super) struct AcceptedWrite {
    key: ObjectKey,
    outcome: NewForm,
}

enum NewForm {
    Service(LiveService),
    Pool(PoolStatus),
}

impl LiveObjects {
    /// Takes in what an earlier run remembered.
    pub(super) fn restore(
        &mut self,
        records: Vec<MemoryRecord>,
        catalog: &mut Catalog,
        now: Timestamp,
    ) {
        for record in records {
            let key = record.entry.key.clone();
            let remembered = RememberedObject {
                first_seen: record.first_seen,
                service: record.service,
                pool: record.pool,
            };
            self.remembered.insert(key.clone(), remembered);
            match record.source {
                Some(source) => catalog.remember(source, record.entry),
                None => {
                    // The file that declared it is not known: it is in force when a manifest declares it.
                    self.records_due.insert(key);
                }
            }
        }
        self.refresh(catalog, catalog.keys(), now);
        // All of this came from the disk.
        self.records_due.retain(|key| !self.live.contains_key(key));
    }

    /// Takes the present form of these objects from the catalog. Answers with what subscribers have to be
    /// told.
    pub(super) fn refresh(
        &mut self,
        catalog: &Catalog,
        keys: BTreeSet<ObjectKey>,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in keys {
            let before = self.live.remove(&key);
            let after = catalog
                .winner(&key)
                .map(|winner| self.bring(winner, before.as_ref(), now));
            let persisted = |live: &Live| {
                (
                    Arc::clone(&live.winner.file),
                    live.service.as_ref().map(|it| it.stored.version),
                )
            };
            let same = match (&before, &after) {
                (Some(before), Some(after)) => {
                    before.winner.entry.json == after.winner.entry.json
                        && persisted(before) == persisted(after)
                }
                _ => false,
            };
            if !same {
                self.records_due.insert(key.clone());
                if matches!(key.kind, Kind::Service | Kind::AddressPool) {
                    self.shown_due.insert(key.clone());
                }
            }
            difference(&key, before.as_ref(), after.as_ref(), &mut changes);
            if let Some(after) = after {
                self.live.insert(key, after);
            }
        }
        changes
    }

    /// The new form of an object, with what its former self or an earlier run had.
    fn bring(&mut self, winner: Winner, before: Option<&Live>, now: Timestamp) -> Live {
        let remembered = self.remembered.remove(&winner.entry.key);
        let RememberedObject {
            first_seen,
            service: memory,
            pool,
        } = remembered.unwrap_or(RememberedObject {
            first_seen: now,
            service: None,
            pool: None,
        });
        let service = match &winner.entry.object {
            Object::Service(service) => {
                let before = before.and_then(|live| live.service.as_ref());
                Some(bring_service(service, &winner, before, memory, first_seen))
            }
            _ => None,
        };
        Live {
            first_seen: before.map_or(first_seen, |before| before.first_seen),
            pool: before.map_or(pool, |before| before.pool.clone()),
            winner,
            service,
        }
    }

    /// Forgets what an earlier run remembered and no manifest declares.
    pub(super) fn forget_the_rest(&mut self) {
        for (key, _) in std::mem::take(&mut self.remembered) {
            self.records_due.insert(key.clone());
            self.shown_due.insert(key);
        }
    }

    /// Every object that is in force, as changes.
    pub(super) fn everything(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, live) in &self.live {
            difference(key, None, Some(live), &mut changes);
        }
        changes
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Checks that a decision was made from the present version of its object. Nothing: it was not, and
    /// has to be made again.
    pub(super) fn accept(&self, write: Write) -> Option<AcceptedWrite> {
        match write {
            Write::Service {
                name,
                version,
                held,
                status,
            } => {
                let key = service_key(&name);
                let service = self.live.get(&key)?.service.as_ref()?;
                if service.stored.version != version {
                    return None;
                }
                let stored = StoredService {
                    held,
                    status,
                    version: version + 1,
                    ..StoredService::clone(&service.stored)
                };
                let service = LiveService {
                    uid: Arc::clone(&service.uid),
                    // A status may be told before it is on disk; what a Service holds may not.
                    recorded: service.recorded && stored.held == service.stored.held,
                    stored: Arc::new(stored),
                };
                Some(AcceptedWrite {
                    key,
                    outcome: NewForm::Service(service),
                })
            }
            // In standalone mode Fairway is the allocator, and asks nobody for node ports.
            Write::NodePorts { .. } => None,
            // `fairway get peers` says how the sessions of the gateway in this process are.
            Write::BgpPeer { .. } => None,
            Write::Pool { name, status } => {
                let key = ObjectKey {
                    kind: Kind::AddressPool,
                    namespace: None,
                    name,
                };
                self.live.contains_key(&key).then_some(AcceptedWrite {
                    key,
                    outcome: NewForm::Pool(status),
                })
            }
        }
    }

    /// The line that has to be in the journal before an accepted write takes effect. Nothing where the
    /// write gives out nothing and changes a status alone.
    ///
    /// # Errors
    /// Where the object is gone or can't be encoded.
    pub(super) fn durable(&self, accepted: &AcceptedWrite) -> Result<Option<Line>, String> {
        let key = &accepted.key;
        let live = self.live.get(key).ok_or("the object is gone")?;
        match &accepted.outcome {
            NewForm::Service(service) if !service.recorded => {
                record(key, live, Some(service)).map(Some)
            }
            NewForm::Service(_) | NewForm::Pool(_) => Ok(None),
        }
    }

    /// An accepted write takes effect. What has to be on disk for it is there.
    pub(super) fn commit(&mut self, accepted: AcceptedWrite) -> Option<Change> {
        let live = self.live.get_mut(&accepted.key)?;
        self.shown_due.insert(accepted.key.clone());
        match accepted.outcome {
            NewForm::Service(mut service) => {
                if service.recorded {
                    self.records_due.insert(accepted.key);
                } else {
                    self.records_due.remove(&accepted.key);
                    service.recorded = true;
                }
                let stored = Arc::clone(&service.stored);
                let before = live.service.replace(service);
                decision_log::tell(before.as_ref().map(|it| &*it.stored), &stored);
                Some(Change::Service(stored.service.name.clone(), Some(stored)))
            }
            NewForm::Pool(status) => {
                let before = live.pool.as_ref().map(|it| &it.probing);
                let is_news = before.is_none_or(|it| *it != status.probing);
                let probing = Arc::new(status.probing.clone());
                live.pool = Some(status);
                is_news.then(|| Change::Probing(Arc::clone(&accepted.key.name), probing))
            }
        }
    }

    /// The line of this object is in the journal.
    pub(super) fn recorded(&mut self, key: &ObjectKey) {
        self.records_due.remove(key);
        if let Some(service) = self.live.get_mut(key).and_then(|it| it.service.as_mut()) {
            service.recorded = true;
        }
    }

    /// The line for an object in the journal; a removal where there is no such object.
    pub(super) fn record(&self, key: &ObjectKey) -> Result<Line, String> {
        match self.live.get(key) {
            Some(live) => record(key, live, live.service.as_ref()),
            None => Ok(Line {
                key: key.clone(),
                content: None,
            }),
        }
    }

    /// Whether everything that an earlier run remembered is in force or forgotten: then [`records`] has
    /// everything that has to be in the journal.
    ///
    /// [`records`]: LiveObjects::records
    pub(super) fn is_complete(&self) -> bool {
        self.remembered.is_empty()
    }

    /// The lines of all objects that are in force.
    pub(super) fn records(&self) -> Result<Vec<Line>, String> {
        self.live.keys().map(|key| self.record(key)).collect()
    }

    /// The view of an object; a removal where there is no such object.
    pub(super) fn shown(&self, key: &ObjectKey) -> Result<FileWrite, String> {
        let Some(live) = self.live.get(key) else {
            return Ok(FileWrite {
                path: memory::shown(key),
                content: None,
                private: false,
            });
        };
        let Some(service) = &live.service else {
            return show_pool(
                key,
                live,
                live.pool.as_ref().unwrap_or(&PoolStatus::default()),
            );
        };
        let manifest = parse(live)?;
        Ok(FileWrite {
            path: memory::shown(key),
            content: Some(render::yaml(&render::service(
                manifest,
                &service.stored,
                &service.uid,
            ))?),
            private: false,
        })
    }
}

fn record(key: &ObjectKey, live: &Live, service: Option<&LiveService>) -> Result<Line, String> {
    let memory = service.map(|service| ServiceMemory {
        uid: Arc::clone(&service.uid),
        version: service.stored.version,
        held: service.stored.held.clone(),
        status: service.stored.status.clone(),
    });
    let content = memory::encode(
        &live.winner.file,
        live.first_seen,
        &live.winner.entry.json,
        memory.as_ref(),
    );
    Ok(Line {
        key: key.clone(),
        content: Some(content.map_err(|error| error.to_string())?),
    })
}

fn show_pool(key: &ObjectKey, live: &Live, status: &PoolStatus) -> Result<FileWrite, String> {
    let document = render::pool(parse(live)?, live.first_seen, status);
    Ok(FileWrite {
        path: memory::shown(key),
        content: Some(render::yaml(&document)?),
        private: false,
    })
}

fn parse(live: &Live) -> Result<serde_json::Value, String> {
    serde_json::from_str(&live.winner.entry.json).map_err(|error| error.to_string())
}

/// The key of a Service.
pub(super) fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: Some(Arc::clone(&name.namespace)),
        name: Arc::clone(&name.name),
    }
}
