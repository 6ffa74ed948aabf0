//! A Service as the API server has it, and what a write has to know of it.

use std::sync::Arc;

use fairway_config::exchange::StoredService;
use serde_json::Value;

/// The finalizer of a LoadBalancer provider (k8s.io/cloud-provider).
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Which controller has taken a Service, as its annotation `fairway.dev/controller` says: only that
/// one writes to it, until it has given everything back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceOwner {
    /// None.
    Nobody,
    /// This one.
    Us,
    /// The controller of this other class.
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

    /// Whether only finalizer and annotation are wrong. A process that was killed after it had
    /// emptied the status leaves them behind; and a person can remove them.
    pub(super) fn needs_repair(&self) -> bool {
        let status = &self.stored.status;
        if self.wants_claim() {
            !self.is_claimed() && !self.stored.held.addresses.is_empty()
        } else {
            self.owner == ServiceOwner::Us
                && status.ingress.is_empty()
                && status.conditions.is_empty()
        }
    }
}
