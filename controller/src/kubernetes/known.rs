//! What is known of the objects in an API server, and what subscribers have to hear of it.
//!
//! A value: events of watches and answers to writes go in, [`Change`]s come out. Both can show the
//! same version of an object, in any order; an older one changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::conditions;
use fairway_config::exchange::{Change, Held, Status, StoredService};
use fairway_config::names::ServiceName;
use fairway_config::object::{self, Kind, Object, ObjectKey};
use fairway_config::problem::{DocumentPlace, Problem};
use fairway_config::service::{Service, ServiceType};
use fairway_config::time::Timestamp;
use serde_json::Value;

use super::revision::RevisionReached;
use super::status;

/// The finalizer of a LoadBalancer provider (k8s.io/cloud-provider).
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Which Services of type LoadBalancer are ours.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// `spec.loadBalancerClass`.
    pub(super) name: Arc<str>,
    /// Those without a class, too.
    pub(super) is_default: bool,
}

impl Class {
    /// Whether it is for Fairway to look after this Service.
    pub(super) fn has(&self, service: &Service) -> bool {
        let ours = match &service.class {
            Some(class) => *class == self.name,
            None => self.is_default,
        };
        service.kind == ServiceType::LoadBalancer && ours && !service.asks.ignore
    }
}

/// What a write has to know of a Service.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) stored: Arc<StoredService>,
    pub(super) uid: Arc<str>,
    pub(super) resource_version: Box<str>,
    /// `metadata.finalizers`.
    pub(super) finalizers: Box<[Box<str>]>,
    /// See [`status::Read::foreign`].
    pub(super) foreign: Box<[Value]>,
    /// Whether Fairway looks after it.
    pub(super) ours: bool,
}

impl Record {
    /// Whether the API server keeps the object for us until everything is given back.
    pub(super) fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|it| **it == *FINALIZER)
    }

    /// Whether it should: from before the first address is given to after the last is taken back.
    pub(super) fn wants_finalizer(&self) -> bool {
        self.ours && !self.stored.service.deleting
    }

    /// Whether it holds an address without the finalizer, which somebody took away.
    fn lacks_finalizer(&self) -> bool {
        self.wants_finalizer() && !self.has_finalizer() && !self.stored.held.addresses.is_empty()
    }

    /// Whether everything was given back and only the finalizer is left: what remains of a process
    /// that was killed between the two writes. One that another provider may have set is left alone.
    /// Or the other way round: the finalizer alone is missing.
    pub(super) fn is_stray(&self, class: &Class) -> bool {
        if self.lacks_finalizer() {
            return true;
        }
        let status = &self.stored.status;
        self.has_finalizer()
            && !self.wants_finalizer()
            && (self.ours || class.is_default)
            && self
                .stored
                .service
                .class
                .as_ref()
                .is_none_or(|it| *it == class.name)
            && status.ingress.is_empty()
            && status.conditions.is_empty()
    }
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Known {
    class: Class,
    /// Whether this process decides what Services hold; else the status says it.
    decides: bool,
    services: HashMap<ObjectKey, Record>,
    /// The other objects, with their version.
    others: BTreeMap<ObjectKey, Option<u64>>,
    /// Nodes, namespaces and pools as they were told: each concerns many Services, and most of what an
    /// API server has to say of one, heartbeats and counts, concerns none.
    told: BTreeMap<ObjectKey, Object>,
    /// Objects that have been met since the list of their kind began, while it goes on.
    listed: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Up to which revision all Services are known.
    reached: RevisionReached,
    /// Counts what was taken in; a Service's version.
    version: u64,
}

impl Known {
    pub(super) fn new(class: Class, decides: bool) -> Self {
        Self {
            class,
            decides,
            services: HashMap::new(),
            others: BTreeMap::new(),
            told: BTreeMap::new(),
            listed: BTreeMap::new(),
            problems: BTreeMap::new(),
            reached: RevisionReached::default(),
            version: 0,
        }
    }

    /// A list of all objects of this kind begins.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.listed.insert(kind, BTreeSet::new());
        if kind == Kind::Service {
            self.reached.begin();
        }
    }

    /// The list has ended: what it did not show is gone.
    pub(super) fn end(&mut self, kind: Kind) -> Vec<Change> {
        let Some(listed) = self.listed.remove(&kind) else {
            return Vec::new();
        };
        if kind == Kind::Service {
            self.reached.end();
        }
        let known = match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            _ => self.of_kind(kind),
        };
        let gone = known.into_iter().filter(|key| !listed.contains(key));
        gone.filter_map(|key| self.forget(&key)).collect()
    }

    fn of_kind(&self, kind: Kind) -> Vec<ObjectKey> {
        let all = self.others.keys();
        all.filter(|key| key.kind == kind).cloned().collect()
    }

    /// An object is there, as it is in `document` (with apiVersion and kind).
    pub(super) fn put(&mut self, kind: Kind, document: &Value, now: Timestamp) -> Option<Change> {
        let read = object::read(document);
        let key = match &read {
            Ok(read) => read.key.clone(),
            Err(unreadable) => unreadable.key.clone(),
        };
        let key = key?;
        let listed = self.listed.get_mut(&kind);
        let met = listed.is_none_or(|listed| !listed.insert(key.clone()));
        let text = document
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if kind == Kind::Service {
            match version(document) {
                u64::MAX => {}
                version => self.reached.meet(version),
            }
        }
        if self.is_known(&key, text, met) {
            return None;
        }
        match read {
            Ok(read) => {
                self.problems.remove(&key);
                if let Object::Pool(pool) = &read.object
                    && !pool.problems.is_empty()
                {
                    let (place, shown) = (DocumentPlace::default(), key.to_string());
                    let problems = pool.problems.iter().cloned();
                    let problems = problems.map(|it| place.problem(&shown, it));
                    self.problems.insert(key.clone(), problems.collect());
                }
                self.take(key, read.object, document, text, now)
            }
            // The last good form stays in force.
            Err(unreadable) => {
                let place = DocumentPlace::default();
                let problems = unreadable.problems.into_iter();
                let problems = problems.map(|it| place.problem(&unreadable.object, it));
                self.problems.insert(key, problems.collect());
                None
            }
        }
    }

    /// An object was there when an earlier process wrote it down. What the API server says of it
    /// counts, before and after.
    pub(super) fn recall(&mut self, document: &Value, now: Timestamp) -> Option<Change> {
        let read = object::read(document).ok()?;
        let key = read.key?;
        if self.is_there(&key) {
            return None;
        }
        let version = document.pointer("/metadata/resourceVersion");
        let version = version.and_then(Value::as_str).unwrap_or_default();
        self.take(key, read.object, document, version, now)
    }

    /// Whether an object is known.
    pub(super) fn is_there(&self, key: &ObjectKey) -> bool {
        self.services.contains_key(key) || self.others.contains_key(key)
    }

    /// Whether an object is known in this version or in a newer one.
    ///
    /// Versions are numbers that grow (KEP-5504). Where one is not, what comes last is newest. An
    /// object that a list shows and that has not been `met` since it began is as the list shows it:
    /// in a cluster that was restored from a backup versions begin again at an older one.
    fn is_known(&self, key: &ObjectKey, version: &str, met: bool) -> bool {
        let known = match self.services.get(key) {
            Some(record) => record.resource_version.parse().ok(),
            None => self.others.get(key).copied().flatten(),
        };
        let (known, version): (Option<u64>, Option<u64>) = (known, version.parse().ok());
        known.zip(version).is_some_and(|(known, new)| match met {
            true => new <= known,
            false => new == known,
        })
    }

    fn take(
        &mut self,
        key: ObjectKey,
        object: Object,
        document: &Value,
        resource_version: &str,
        now: Timestamp,
    ) -> Option<Change> {
        let object = match object {
            Object::Node(it) if self.decides => Object::Node(bare(&it)),
            object => object,
        };
        let concerns_many = matches!(
            object,
            Object::Node(_) | Object::Namespace(_) | Object::Pool(_)
        );
        let is_told = concerns_many && self.told.get(&key) == Some(&object);
        if concerns_many && !is_told {
            self.told.insert(key.clone(), object.clone());
        }
        let change = match object {
            Object::Service(service) => {
                return Some(self.take_service(key, service, document, resource_version, now));
            }
            Object::EndpointSlice(it) => Change::EndpointSlice(it.name.clone(), false, Some(it)),
            Object::Node(it) => Change::Node(Arc::clone(&it.name), Some(it)),
            Object::Namespace(it) => Change::Namespace(Arc::clone(&it.name), Some(it)),
            Object::Pool(it) => Change::Pool(Arc::clone(&it.name), Some(it)),
            Object::Secret(it) => Change::Secret(it.name.clone(), Some(it)),
            // v1 Endpoints are mirrored into EndpointSlices by the cluster itself.
            Object::Endpoints(_) | Object::Other { .. } => return None,
        };
        self.others.insert(key, resource_version.parse().ok());
        (!is_told).then_some(change)
    }

    fn take_service(
        &mut self,
        key: ObjectKey,
        service: Arc<Service>,
        document: &Value,
        resource_version: &str,
        now: Timestamp,
    ) -> Change {
        let name = service.name.clone();
        let uid: Arc<str> = service.uid.clone().unwrap_or_default();
        let former = self.services.get(&key).filter(|former| former.uid == uid);
        // What is the same is shared: it shows that only the status is new.
        let service = match former {
            Some(former) if former.stored.service == service => Arc::clone(&former.stored.service),
            _ => service,
        };
        // A gateway has no class: it serves what a controller has taken, as the conditions say.
        let ours = self.decides && self.class.has(&service);
        let status::Read {
            mut status,
            foreign,
        } = status::read(document);
        // The conditions tell a Service that was ours, before its type or class changed.
        let was_ours = status.conditions.contains_key(conditions::ADDRESS_ASSIGNED);
        if !ours && !was_ours {
            // Another provider's, to the byte.
            status = Default::default();
        }
        let held = Held {
            // What a person wrote into the status is no decision of ours.
            addresses: match former.filter(|_| self.decides) {
                Some(former) => former.stored.held.addresses.clone(),
                None => status.ingress.iter().map(|ingress| ingress.ip).collect(),
            },
            node_ports: service
                .ports
                .iter()
                .filter_map(|port| Some((port.key(), port.node_port?)))
                .collect(),
            health_check_node_port: service.health_check_node_port,
        };
        let first_seen = former.map_or(now, |former| former.stored.first_seen);
        let finalizers = document.pointer("/metadata/finalizers");
        let finalizers = finalizers.and_then(Value::as_array).into_iter().flatten();
        let shown = |status: &Status| -> Vec<IpAddr> {
            status.ingress.iter().map(|ingress| ingress.ip).collect()
        };
        let revision = version(document);
        // A list may show it as it was long ago and again is, and not what it was in between.
        let alike = former.filter(|former| {
            !self.reached.is_listing()
                && former.stored.service.is_served_alike(&service)
                && shown(&former.stored.status) == shown(&status)
        });
        let revision = alike.map_or(revision, |it| it.stored.revision.min(revision));
        self.version += 1;
        let stored = Arc::new(StoredService {
            service,
            held,
            status,
            version: self.version,
            revision,
            first_seen,
            source: None,
            source_problem: None,
        });
        let record = Record {
            stored: Arc::clone(&stored),
            uid,
            resource_version: resource_version.into(),
            finalizers: finalizers
                .filter_map(|it| it.as_str().map(Box::from))
                .collect(),
            foreign,
            ours,
        };
        self.services.insert(key, record);
        Change::Service(name, Some(stored))
    }

    /// A write of ours has come about on the Service with this `uid`: this is what it holds from
    /// now on. Where it is gone meanwhile, or another one of the same name is there, that has been
    /// told.
    pub(super) fn wrote(
        &mut self,
        key: &ObjectKey,
        uid: &str,
        addresses: Vec<IpAddr>,
        document: &Value,
        now: Timestamp,
    ) -> Option<Change> {
        let record = self.services.get_mut(key).filter(|it| *it.uid == *uid)?;
        let differs = record.stored.held.addresses != addresses;
        if differs {
            Arc::make_mut(&mut record.stored).held.addresses = addresses;
        }
        let change = self.put(Kind::Service, document, now);
        if change.is_some() || !differs {
            return change;
        }
        // A watch was faster than the answer, and told this version with what was held before.
        self.version += 1;
        let record = self.services.get_mut(key)?;
        let stored = Arc::make_mut(&mut record.stored);
        stored.version = self.version;
        let name = stored.service.name.clone();
        Some(Change::Service(name, Some(Arc::clone(&record.stored))))
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, document: &Value) -> Option<Change> {
        let key = match object::read(document) {
            Ok(read) => read.key,
            Err(unreadable) => unreadable.key,
        };
        self.forget(&key?)
    }

    fn forget(&mut self, key: &ObjectKey) -> Option<Change> {
        self.problems.remove(key);
        self.told.remove(key);
        let was_there = self.services.remove(key).is_some() | self.others.remove(key).is_some();
        if !was_there {
            return None;
        }
        let name = key.namespaced_name();
        Some(match key.kind {
            Kind::Service => Change::Service(name?, None),
            Kind::EndpointSlice => Change::EndpointSlice(name?, false, None),
            Kind::Endpoints => Change::EndpointSlice(name?, true, None),
            Kind::Secret => Change::Secret(name?, None),
            Kind::Node => Change::Node(Arc::clone(&key.name), None),
            Kind::Namespace => Change::Namespace(Arc::clone(&key.name), None),
            Kind::AddressPool => Change::Pool(Arc::clone(&key.name), None),
        })
    }

    /// What is known of a Service.
    pub(super) fn service(&self, key: &ObjectKey) -> Option<&Record> {
        self.services.get(key)
    }

    /// Whether the finalizer alone is not as it should be; see [`Record::is_stray`].
    pub(super) fn is_stray(&self, key: &ObjectKey) -> bool {
        let record = self.services.get(key);
        record.is_some_and(|record| record.is_stray(&self.class))
    }

    /// Every change of a Service up to this revision has been taken in.
    pub(super) fn revision(&self) -> u64 {
        self.reached.get()
    }

    /// What was written down has every Service up to this revision.
    pub(super) fn stand_in(&mut self, newest: u64) {
        self.reached.stand_in(newest);
    }

    /// The Services that can't be read as they are now.
    pub(super) fn held_back_services(&self) -> Vec<ServiceName> {
        let services = self.problems.keys().filter(|key| key.kind == Kind::Service);
        services.filter_map(|key| key.namespaced_name()).collect()
    }

    /// What is held back, and why.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.values().flatten().cloned().collect()
    }
}

/// Its `metadata.resourceVersion`: a number that grows (KEP-5504). Where it is none no gateway can be
/// taken to have applied it.
pub(super) fn version(document: &Value) -> u64 {
    let version = document.pointer("/metadata/resourceVersion");
    let version = version.and_then(Value::as_str);
    version.and_then(|it| it.parse().ok()).unwrap_or(u64::MAX)
}

/// A Node without its labels, of which a controller has no use.
fn bare(node: &Node) -> Arc<Node> {
    Arc::new(Node {
        labels: BTreeMap::new(),
        ..node.clone()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
