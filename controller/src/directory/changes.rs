//! What subscribers have to be told when an object has changed.

use std::sync::Arc;

use fairway_config::exchange::Change;
use fairway_config::object::{Kind, Object, ObjectKey};

use super::live_service::Live;

/// Adds what subscribers have to be told of one object.
pub(super) fn difference(
    key: &ObjectKey,
    before: Option<&Live>,
    after: Option<&Live>,
    changes: &mut Vec<Change>,
) {
    let former = before.map(|live| &live.winner.entry.object);
    let latter = after.map(|live| &live.winner.entry.object);
    if key.kind == Kind::Service {
        let stored = |live: &Live| live.service.as_ref().map(|it| Arc::clone(&it.stored));
        let (former, latter) = (before.and_then(stored), after.and_then(stored));
        if let Some(name) = key.namespaced_name()
            && former != latter
        {
            changes.push(Change::Service(name, latter));
        }
        return;
    }
    if former == latter {
        return;
    }
    if let Some(Object::Endpoints(slices)) = former {
        for slice in slices {
            let goes_on = matches!(latter, Some(Object::Endpoints(latter))
                if latter.iter().any(|other| other.name == slice.name));
            if !goes_on {
                changes.push(Change::EndpointSlice(slice.name.clone(), true, None));
            }
        }
    }
    // Whoever decides goes on from what an earlier run has written.
    let said = after.and_then(|live| live.pool.as_ref());
    if let (None, Some(status)) = (before, said) {
        let status = Arc::new(status.clone());
        changes.push(Change::PoolStatus(Arc::clone(&key.name), status));
    }
    match (latter, key.namespaced_name()) {
        (Some(object), _) => changes.extend(as_changes(object)),
        (None, Some(name)) => match key.kind {
            Kind::EndpointSlice => changes.push(Change::EndpointSlice(name, false, None)),
            Kind::Secret => changes.push(Change::Secret(name, None)),
            _ => {}
        },
        (None, None) => {
            let name = Arc::clone(&key.name);
            match key.kind {
                Kind::Namespace => changes.push(Change::Namespace(name, None)),
                Kind::Node => changes.push(Change::Node(name, None)),
                Kind::AddressPool => changes.push(Change::Pool(name, None)),
                Kind::BgpPeer => changes.push(Change::BgpPeer(name, None)),
                _ => {}
            }
        }
    }
}

/// The changes that tell of an object as it is now. A Service is told of together with what it holds, not
/// here.
fn as_changes(object: &Object) -> Vec<Change> {
    match object {
        Object::EndpointSlice(it) => {
            vec![Change::EndpointSlice(
                it.name.clone(),
                false,
                Some(Arc::clone(it)),
            )]
        }
        Object::Endpoints(slices) => slices
            .iter()
            .map(|it| Change::EndpointSlice(it.name.clone(), true, Some(Arc::clone(it))))
            .collect(),
        Object::Node(it) => vec![Change::Node(Arc::clone(&it.name), Some(Arc::clone(it)))],
        Object::Namespace(it) => {
            vec![Change::Namespace(
                Arc::clone(&it.name),
                Some(Arc::clone(it)),
            )]
        }
        Object::Secret(it) => vec![Change::Secret(it.name.clone(), Some(Arc::clone(it)))],
        Object::Pool(it) => vec![Change::Pool(Arc::clone(&it.name), Some(Arc::clone(it)))],
        Object::BgpPeer(it) => {
            vec![Change::BgpPeer(Arc::clone(&it.name), Some(Arc::clone(it)))]
        }
        Object::Service(_) | Object::Other { .. } => Vec::new(),
    }
}
