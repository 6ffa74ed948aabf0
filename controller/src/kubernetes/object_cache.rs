//! The latest version of every object of an API server, and what subscribers have to be told.
//!
//! A value without I/O: it takes events of watches and answers to writes, and answers with
//! [`Change`]s. Both can show the same version of an object, in any order; an older version changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::annotations::CONTROLLER;
use fairway_config::cluster::Node;
use fairway_config::conditions;
use fairway_config::exchange::{Change, Held, Status, StoredService};
use fairway_config::names::{ClusterName, NamespacedName, ServiceName};
use fairway_config::object::{self, Kind, Object, ObjectKey};
use fairway_config::problem::{DocumentPlace, Problem, Severity};
use fairway_config::service::Service;
use fairway_config::time::Timestamp;
use serde_json::Value;

use super::cluster_statuses::{self, ClusterStatuses, StatusReader};
use super::object_metadata::{list_of_texts, version};
use super::ownership::ControllerIdentity;
use super::revision::RevisionReached;
use super::service_record::{FINALIZER, ServiceOwner, ServiceRecord};
use super::status;

/// The objects of an API server.
#[derive(Debug)]
pub(super) struct ObjectCache {
    controller: ControllerIdentity,
    /// Whether this process decides what Services hold; else the status says it.
    decides: bool,
    services: HashMap<ObjectKey, ServiceRecord>,
    /// The other objects, with their version.
    others: BTreeMap<ObjectKey, Option<u64>>,
    /// Nodes, namespaces, pools and BGPPeers as subscribers were told of them. Each concerns many
    /// Services, and most changes of one (heartbeats, counts, conditions) concern none.
    told: BTreeMap<ObjectKey, Object>,
    statuses: ClusterStatuses,
    /// While a list goes on: the objects that were seen since it began.
    listed: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Up to which revision all Services are known.
    reached: RevisionReached,
    /// Services that this controller would take, and the name of the one that has them.
    of_others: BTreeMap<ObjectKey, Arc<str>>,
    /// Counts the changes of Services: the version of a Service.
    version: u64,
}

impl ObjectCache {
    pub(super) fn new(controller: ControllerIdentity, decides: bool) -> Self {
        Self {
            controller,
            decides,
            services: HashMap::new(),
            others: BTreeMap::new(),
            told: BTreeMap::new(),
            statuses: ClusterStatuses::default(),
            listed: BTreeMap::new(),
            problems: BTreeMap::new(),
            reached: RevisionReached::default(),
            of_others: BTreeMap::new(),
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
                let own = read.object.problems();
                if !own.is_empty() {
                    let (place, shown) = (DocumentPlace::default(), key.to_string());
                    let problems = own.iter().cloned();
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

    /// The status of an AddressPool or BGPPeer is as it is in `document`: from a watch, before [`Self::put`] takes the
    /// object in, or in the answer to a write.
    pub(super) fn put_status(&mut self, kind: Kind, document: &Value) -> Option<Change> {
        if !matches!(kind, Kind::AddressPool | Kind::BgpPeer) {
            return None;
        }
        let name: ClusterName = document.pointer("/metadata/name")?.as_str()?.into();
        let key = cluster_statuses::key_of(kind, &name);
        let met = self.listed.get(&kind).is_none_or(|it| it.contains(&key));
        let reader = match self.decides {
            true => StatusReader::Controller,
            false => StatusReader::Gateway,
        };
        self.statuses
            .put(&key, document, met, reader, &self.controller)
    }

    /// What the API server holds of the statuses of AddressPools and BGPPeers.
    pub(super) fn statuses(&self) -> &ClusterStatuses {
        &self.statuses
    }

    /// Takes an object from the snapshot of an earlier process. What the API server says of it
    /// counts, whether it came before or comes later.
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
            Object::Node(_) | Object::Namespace(_) | Object::Pool(_) | Object::BgpPeer(_)
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
            Object::BgpPeer(it) => Change::BgpPeer(Arc::clone(&it.name), Some(it)),
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
        let finalizers: Box<[Box<str>]> = list_of_texts(document, "/metadata/finalizers");
        let status::ParsedStatus {
            mut status,
            foreign,
            taken,
            contested,
        } = status::read(document);
        let takes = self.decides && self.controller.takes(&service);
        let marked = self.controller.marked(document);
        let is_marked = marked == ServiceOwner::Us;
        let is_given = status.conditions.contains_key(conditions::ADDRESS_ASSIGNED);
        let named = taken.as_ref().map(|taken| self.controller.owner(&taken.by));
        let marked = match (named, marked) {
            // The annotation alone gives a Service to no other controller.
            (Some(ServiceOwner::Us), _) => ServiceOwner::Us,
            (Some(other), ServiceOwner::Us | ServiceOwner::Other(_)) => other,
            // Nor does it give us what another provider serves.
            (None, ServiceOwner::Us) if !takes && !is_given && !status.ingress.is_empty() => {
                ServiceOwner::Nobody
            }
            (_, marked) => marked,
        };
        let owner = match (marked, former.map(|former| &former.owner)) {
            // A person removed the annotation, and this controller has not given back what it gave.
            (ServiceOwner::Nobody, Some(ServiceOwner::Us))
                if takes
                    || status != Status::default()
                    || finalizers.iter().any(|it| **it == *FINALIZER) =>
            {
                ServiceOwner::Us
            }
            (marked, _) => marked,
        };
        let given: Vec<IpAddr> = status.ingress.iter().map(|ingress| ingress.ip).collect();
        let ours = takes && matches!(owner, ServiceOwner::Nobody | ServiceOwner::Us);
        // A gateway has no class: it serves what a controller of its namespace has taken, as the
        // conditions say.
        let is_of_our_namespace = taken
            .as_ref()
            .is_none_or(|it| self.controller.is_of_our_namespace(&it.by));
        let is_served = !self.decides && is_given && is_of_our_namespace;
        if !ours && owner != ServiceOwner::Us && !is_served {
            // It belongs to another controller: its status is not ours to read.
            status = Status::default();
        }
        let (service, addresses) = match (&owner, former) {
            (ServiceOwner::Other(class), _) if self.decides => (of_other(&service, class), given),
            // What a person wrote into the status is no decision of this controller.
            (_, Some(former)) if self.decides => (service, former.stored.held.addresses.clone()),
            _ => {
                let addresses = status.ingress.iter().map(|ingress| ingress.ip);
                (service, addresses.collect())
            }
        };
        // The same allocation shows others that only the status is new.
        let service = match former {
            Some(former) if former.stored.service == service => Arc::clone(&former.stored.service),
            _ => service,
        };
        let held = Held {
            addresses,
            node_ports: service.node_ports(),
            health_check_node_port: service.health_check_node_port,
        };
        let first_seen = former.map_or(now, |former| former.stored.first_seen);
        let shown = |status: &Status| -> Vec<IpAddr> {
            status.ingress.iter().map(|ingress| ingress.ip).collect()
        };
        let revision = version(document);
        // A list may show a form that the Service had before and has again, and not the form in
        // between.
        let alike = former.filter(|former| {
            !self.reached.is_listing()
                && former.stored.service.is_served_alike(&service)
                && shown(&former.stored.status) == shown(&status)
        });
        let revision = alike.map_or(revision, |it| it.stored.revision.min(revision));
        let is_lost = takes && matches!(owner, ServiceOwner::Other(_));
        self.note_other(&key, &owner, is_lost);
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
        let record = ServiceRecord {
            stored: Arc::clone(&stored),
            uid,
            resource_version: resource_version.into(),
            finalizers,
            foreign,
            taken,
            contested,
            owner,
            is_lost,
            is_marked,
            ours,
        };
        self.services.insert(key, record);
        Change::Service(name, Some(stored))
    }

    /// Notes a Service that this controller would take and another one has.
    fn note_other(&mut self, key: &ObjectKey, owner: &ServiceOwner, is_lost: bool) {
        match owner {
            ServiceOwner::Other(other) if is_lost => {
                let is_news = !self.of_others.values().any(|known| known == other);
                self.of_others.insert(key.clone(), Arc::clone(other));
                if is_news {
                    tracing::warn!(
                        service = %key, %other, controller = %self.controller.identity(),
                        "another controller has taken a Service that this one would take; it stays there"
                    );
                }
            }
            _ => {
                self.of_others.remove(key);
            }
        }
    }

    /// A write to the Service with this `uid` has succeeded: this is what it holds from now on.
    /// Where the Service is gone meanwhile, or another one has its name, subscribers know of that
    /// already.
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
        // The watch brought this version before the answer came, and told it with what was held
        // before.
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
        self.of_others.remove(key);
        self.told.remove(key);
        self.statuses.remove(key);
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
            Kind::BgpPeer => Change::BgpPeer(Arc::clone(&key.name), None),
        })
    }

    /// A Service, as it is in the cache.
    pub(super) fn service(&self, key: &ObjectKey) -> Option<&ServiceRecord> {
        self.services.get(key)
    }

    /// Whether all but addresses and conditions is not as it should be; see [`ServiceRecord::needs_repair`].
    pub(super) fn needs_repair(&self, key: &ObjectKey) -> bool {
        let record = self.services.get(key);
        record.is_some_and(|record| record.needs_repair(self.identity()))
    }

    /// The Services that this controller has, and that another one would take, by the name of that one.
    pub(super) fn contended(&self) -> BTreeMap<String, Vec<ObjectKey>> {
        let mut contended: BTreeMap<String, Vec<ObjectKey>> = BTreeMap::new();
        for (key, record) in &self.services {
            if let Some(by) = record.contender(self.identity()) {
                contended
                    .entry(by.to_owned())
                    .or_default()
                    .push(key.clone());
            }
        }
        contended
    }

    /// Whether the addresses of a pool are announced on layer 2.
    pub(super) fn announces_on_layer2(&self) -> bool {
        self.told_of(Kind::AddressPool).any(|object| match object {
            Object::Pool(pool) => pool.announce.layer2.is_some(),
            _ => false,
        })
    }

    /// The Secrets that BGPPeers name.
    pub(super) fn password_secrets(&self) -> BTreeSet<NamespacedName> {
        let peers = self.told_of(Kind::BgpPeer);
        let peers = peers.filter_map(|object| match object {
            Object::BgpPeer(peer) => peer.password_secret.clone(),
            _ => None,
        });
        peers.collect()
    }

    /// The objects of one kind, without those of others: there may be thousands of Nodes and Namespaces.
    fn told_of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let first = ObjectKey {
            kind,
            namespace: None,
            name: Arc::from(""),
        };
        let all = self.told.range(first..);
        let all = all.take_while(move |(key, _)| key.kind == kind);
        all.map(|(_, object)| object)
    }

    /// Which controller this one is.
    pub(super) fn controller(&self) -> &ControllerIdentity {
        &self.controller
    }

    /// The controller's name among the controllers of the cluster.
    pub(super) fn identity(&self) -> &Arc<str> {
        self.controller.identity()
    }

    /// Up to which revision every change of a Service has been taken in.
    pub(super) fn revision(&self) -> u64 {
        self.reached.get()
    }

    /// The snapshot has every Service up to this revision.
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
        let held_back = self.problems.values().flatten().cloned();
        held_back.chain(self.problems_with_others()).collect()
    }

    /// One problem for each other controller, however many Services there are.
    fn problems_with_others(&self) -> impl Iterator<Item = Problem> {
        let mut by_class: BTreeMap<&Arc<str>, (usize, &ObjectKey)> = BTreeMap::new();
        for (key, class) in &self.of_others {
            by_class.entry(class).or_insert((0, key)).0 += 1;
        }
        by_class.into_iter().map(|(other, (count, first))| Problem {
            object: first.to_string(),
            field: format!("metadata.annotations[{CONTROLLER}]"),
            severity: Severity::Warning,
            ..Problem::of_file("", format!(
                "{} taken by the controller {other}. This controller, {}, would take {} too and \
                 leaves {} alone. Give each class, and --default-class, to the controllers of one \
                 namespace only; where the other one is gone for good, remove the annotation",
                match count {
                    1 => "It is".to_owned(),
                    more => format!("It and {} more Services are", more - 1),
                },
                self.identity(),
                if count == 1 { "it" } else { "them" },
                if count == 1 { "it" } else { "them" },
            ))
        })
    }
}

/// A Service that another controller has, in the form that the core is told.
fn of_other(service: &Arc<Service>, class: &Arc<str>) -> Arc<Service> {
    let mut service = Service::clone(service);
    service.asks.other_controller = Some(Arc::clone(class));
    Arc::new(service)
}

/// A Node without its labels, which a controller does not need.
fn bare(node: &Node) -> Arc<Node> {
    Arc::new(Node {
        labels: BTreeMap::new(),
        ..node.clone()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
