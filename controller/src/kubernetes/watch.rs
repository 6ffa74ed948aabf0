//! Watches the objects of one kind, for ever.

use std::pin::pin;

use fairway_config::object::Kind;
use futures::StreamExt as _;
use kube::api::Api;
use kube::runtime::watcher::{Config, Error, Event};

use super::api_document::{ApiDocument, resource};
use super::restore_detection::{News, watched};
use super::settings::{REQUEST, WATCH_SECONDS, may_be_unknown};
use super::store_context::StoreContext;
use crate::feed::lock;

/// Objects in one page of a list. A Node is as large as a dozen others, because it names its
/// container images.
const PAGE: u32 = 500;
const PAGE_OF_NODES: u32 = 50;

/// Watches the objects of one kind, until the future is dropped.
pub(super) async fn run(shared: &StoreContext, kind: Kind) {
    match kind {
        // Only the labels of Namespaces are needed.
        Kind::Namespace => objects::<true>(shared, kind).await,
        _ => objects::<false>(shared, kind).await,
    }
}

async fn objects<const META: bool>(shared: &StoreContext, kind: Kind) {
    let api: Api<ApiDocument<META>> = Api::all_with(shared.client.clone(), &resource(kind));
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        page_size: Some(match kind {
            Kind::Node => PAGE_OF_NODES,
            _ => PAGE,
        }),
        // Nobody reaches a headless Service through a gateway.
        label_selector: (kind == Kind::EndpointSlice)
            .then(|| "!service.kubernetes.io/headless".to_owned()),
        ..Config::default()
    };
    let mut events = pin!(watched(api, config));
    let mut was_unknown = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(News::Alive) => lock(&shared.progress).works(kind),
            Ok(News::Event(event)) => {
                let event = match event {
                    Event::Init => ObjectEvent::Begins,
                    Event::InitDone => ObjectEvent::Ends,
                    Event::InitApply(it) | Event::Apply(it) => {
                        ObjectEvent::There(it.into_value(kind))
                    }
                    Event::Delete(it) => ObjectEvent::Gone(it.into_value(kind)),
                };
                // That a list begins does not say that it will succeed.
                if !matches!(event, ObjectEvent::Begins) {
                    was_unknown = false;
                    lock(&shared.progress).works(kind);
                }
                shared.see(kind, event);
            }
            Err(error) => {
                if may_be_unknown(kind) && is_unknown(shared, kind, &error).await {
                    if !was_unknown {
                        tracing::info!(%kind, "the cluster does not know this kind: there is none");
                    }
                    was_unknown = true;
                    lock(&shared.progress).works(kind);
                    shared.see(kind, ObjectEvent::Begins);
                    shared.see(kind, ObjectEvent::Ends);
                    continue;
                }
                let is_refused = matches!(code_of(&error), 401 | 403 | 404);
                lock(&shared.progress).fails(kind, explain(kind, &error), is_refused);
            }
        }
    }
}

/// Whether a watch failed because the API server has no such kind. To whoever has no right to list it,
/// it says so of kinds that it has and of those that it has not: then its own list of kinds tells,
/// which everybody may read.
async fn is_unknown(shared: &StoreContext, kind: Kind, error: &Error) -> bool {
    match code_of(error) {
        404 => true,
        403 => {
            let known = shared.client.list_api_group_resources(kind.api_version());
            match tokio::time::timeout(REQUEST, known).await {
                Ok(Ok(known)) => {
                    let plural = resource(kind).plural;
                    known.resources.iter().all(|it| it.name != plural)
                }
                Ok(Err(kube::Error::Api(status))) => status.code == 404,
                Ok(Err(_)) | Err(_) => false,
            }
        }
        _ => false,
    }
}

/// An event of a watch.
pub(super) enum ObjectEvent {
    /// A list of everything begins.
    Begins,
    /// The list has ended.
    Ends,
    /// An object is there, in this form.
    There(serde_json::Value),
    /// An object is gone; its last form.
    Gone(serde_json::Value),
}

/// What is wrong with a watch, and what to do about it where that is known.
fn explain(kind: Kind, error: &Error) -> String {
    let code = code_of(error);
    let plural = resource(kind).plural;
    match (code, kind) {
        (404, Kind::AddressPool) => format!(
            "{plural} can't be listed: their CustomResourceDefinition is not installed \
             (fairway crds | kubectl apply -f -)"
        ),
        (403, _) => format!("{plural} can't be listed: RBAC does not allow it ({error})"),
        _ => format!("{plural} can't be watched: {error}"),
    }
}

/// The HTTP status of the answer; 0 where there was none.
fn code_of(error: &Error) -> u16 {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchError(status) => status.code,
        _ => 0,
    }
}
