//! A Service as the API server has it, and what a write has to know of it.

use std::sync::Arc;

use fairway_config::exchange::{Status, StoredService};
use serde_json::Value;

use super::status::{Contested, TakenCondition};

/// The finalizer of a LoadBalancer provider (k8s.io/cloud-provider).
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Which controller has taken a Service: only that one writes what the Service has, until it has given
/// everything back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceOwner {
    /// None.
    Nobody,
    /// This one.
    Us,
    /// The controller of this name.
    Other(Arc<str>),
}

/// What a write has to know of a Service.
#[derive(Clone, Debug)]
pub(super) struct ServiceRecord {
    pub(super) stored: Arc<StoredService>,
    pub(super) uid: Arc<str>,
    pub(super) resource_version: Box<str>,
    /// `metadata.finalizers`.
    pub(super) finalizers: Box<[Box<str>]>,
    /// See [`status::ParsedStatus::foreign`].
    pub(super) foreign: Box<[Value]>,
    /// Which controller has given what the status says.
    pub(super) taken: Option<TakenCondition>,
    /// What a controller has written that would take the Service, too.
    pub(super) contested: Option<Contested>,
    /// Whether this controller would take it, and another one has it.
    pub(super) is_lost: bool,
    /// Which controller has taken it.
    pub(super) owner: ServiceOwner,
    /// Whether the annotation names this controller.
    pub(super) is_marked: bool,
    /// Whether this controller takes the Service, or has taken it and keeps it.
    pub(super) ours: bool,
}

impl ServiceRecord {
    /// Whether it has the finalizer of a load balancer and the annotation of this controller.
    pub(super) fn is_claimed(&self) -> bool {
        self.is_marked && self.finalizers.iter().any(|it| **it == *FINALIZER)
    }

    /// Whether it should have both: from before the first address is given until the last is taken
    /// back.
    pub(super) fn wants_claim(&self) -> bool {
        self.ours && !self.stored.service.deleting
    }

    /// Whether the status names the controller of this name, where it has something to say.
    pub(super) fn names(&self, identity: &str) -> bool {
        let is_named = self.taken.as_ref().is_some_and(|it| *it.by == *identity);
        is_named || self.stored.status == Status::default()
    }

    /// Whether the controller of this name has said that it would take the Service, too.
    pub(super) fn is_contested_by(&self, identity: &str) -> bool {
        self.contested
            .as_ref()
            .is_some_and(|it| *it.by == *identity)
    }

    /// The controller that has said that it would take the Service, too, which the one of this name has.
    pub(super) fn contender(&self, identity: &str) -> Option<&str> {
        let said = self.contested.as_ref().map(|it| &*it.by);
        said.filter(|by| self.owner == ServiceOwner::Us && *by != identity)
    }

    /// Whether all but addresses and conditions is not as it should be. Finalizer and annotation are left
    /// where a process was killed after it had emptied the status; and a person can take them away.
    pub(super) fn needs_repair(&self, identity: &str) -> bool {
        let status = &self.stored.status;
        if self.is_lost {
            return self.contested.is_none();
        }
        if self.is_contested_by(identity) {
            return true;
        }
        if self.wants_claim() {
            let is_right = self.is_claimed() && self.names(identity);
            !is_right && !self.stored.held.addresses.is_empty()
        } else {
            self.owner == ServiceOwner::Us
                && status.ingress.is_empty()
                && status.conditions.is_empty()
        }
    }
}
