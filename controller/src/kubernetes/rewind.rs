//! Watches that notice when an API server's past has changed.
//!
//! Versions of objects grow. In a cluster that was restored from a backup of etcd they begin again at
//! an older one, and a watch that goes on from where it ended is told nothing until the versions have
//! come that far again, which may take days. Whoever asks for the present version sees it: where it is
//! older than one that was met before, everything is listed anew.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::REQUEST;

/// How often the present version is asked for while nothing is wrong: a bookmark, which nobody here
/// sees, lets a watch go on from a version that no object has.
const ASK: Duration = Duration::from_secs(60);

/// How long after a watch has failed it is asked for: a backup is not restored under an API server
/// that runs.
const ASK_SOON: Duration = Duration::from_secs(2);

/// What happens to the objects of one kind, for ever. Errors are tried again, with a back-off from
/// 0.8 to 30 s; a version that the API server has no longer (410), or not yet, makes it list again.
pub(super) fn watched<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let seen = Arc::new(Seen::default());
    let watch = Watch {
        events: begin(&api, &config),
        rewound: rewound(&api, &seen),
    };
    futures::stream::unfold(watch, move |mut watch| {
        let (api, config, seen) = (api.clone(), config.clone(), Arc::clone(&seen));
        async move {
            loop {
                tokio::select! {
                    event = watch.events.next() => {
                        let event = event?;
                        seen.note(&event);
                        return Some((event, watch));
                    }
                    () = &mut watch.rewound => {
                        tracing::warn!(
                            path = api.resource_url(),
                            "the API server's versions have gone back: everything is listed anew"
                        );
                        watch.events = begin(&api, &config);
                        watch.rewound = rewound(&api, &seen);
                    }
                }
            }
        }
    })
}

struct Watch<K> {
    events: BoxStream<'static, Result<Event<K>, Error>>,
    /// Ends when the versions have gone back.
    rewound: BoxFuture<'static, ()>,
}

/// What a watch has met.
#[derive(Debug, Default)]
struct Seen {
    newest: AtomicU64,
    failed: Notify,
}

impl Seen {
    fn note<K: Resource>(&self, event: &Result<Event<K>, Error>) {
        match event {
            Ok(Event::Apply(it) | Event::InitApply(it) | Event::Delete(it)) => {
                self.version(it.resource_version().as_deref());
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(_) => self.failed.notify_one(),
        }
    }

    /// Versions are numbers (KEP-5504); where one is not, it says nothing.
    fn version(&self, version: Option<&str>) -> Option<u64> {
        let version = version?.parse().ok()?;
        self.newest.fetch_max(version, Ordering::Relaxed);
        Some(version)
    }
}

fn begin<K>(api: &Api<K>, config: &Config) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api.clone(), config.clone())
        .default_backoff()
        .boxed()
}

/// Waits until the present version is older than the newest that was met.
fn rewound<K>(api: &Api<K>, seen: &Arc<Seen>) -> BoxFuture<'static, ()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (api, seen) = (api.clone(), Arc::clone(seen));
    Box::pin(async move {
        // As little as a list can be; without a version it says what is so now.
        let least = ListParams::default().limit(1);
        loop {
            let _ = tokio::time::timeout(ASK, seen.failed.notified()).await;
            tokio::time::sleep(ASK_SOON).await;
            let newest = seen.newest.load(Ordering::Relaxed);
            let answer = tokio::time::timeout(REQUEST, api.list_metadata(&least)).await;
            match answer {
                Ok(Ok(list)) => {
                    let now = seen.version(list.metadata.resource_version.as_deref());
                    if now.is_some_and(|now| now < newest) {
                        seen.newest
                            .store(now.unwrap_or_default(), Ordering::Relaxed);
                        return;
                    }
                }
                // It knows no such kind, or does not let us see it: the watch says so.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {}
                // It is not there yet.
                Ok(Err(_)) | Err(_) => seen.failed.notify_one(),
            }
        }
    })
}
