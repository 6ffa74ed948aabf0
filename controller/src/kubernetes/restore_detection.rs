//! Watches that notice that the cluster was restored from a backup of etcd.
//!
//! The `resourceVersion` of objects grows. In a cluster that was restored from a backup it begins
//! again at an older one, and a watch that goes on where it ended is told nothing until the
//! versions have come that far again, which may take days. So the present version is asked for:
//! where it is older than one that was seen before, everything is listed anew.
//!
//! Where the backup is only a moment old, the versions have soon come as far again, and the watch
//! would not tell what changed on the way there. But a restore takes some seconds: where a watch
//! has failed, and the API server does not answer when the version is first asked for, everything
//! is listed anew, too. After a restart most API servers demand that anyway (410).

use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::settings::REQUEST;
use crate::feed::lock;
use crate::retry_queue::doubled;

/// How often the present version is asked for while nothing is wrong: bookmarks, which kube does
/// not show us, let a watch go on from a version that no object has.
const ASK: Duration = Duration::from_secs(60);

/// How long after a failure of a watch the version is asked for: a backup is not restored while the
/// API server runs. Where it does not answer it is asked again, after a wait that doubles up to the
/// longest.
const ASK_SOON: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(20);

/// An event of a watch.
#[derive(Debug)]
pub(super) enum News<K> {
    /// Something has happened to an object, or to the list of all.
    Event(Event<K>),
    /// Nothing has happened, and the API server answers: a watch that goes on where it was cut off
    /// is silent until an object changes.
    Alive,
}

/// The events of the objects of one kind, for ever. After an error it tries again, with a back-off
/// from 0.8 to 30 s; where the API server does not have a version any more (410), or not yet, it
/// lists again.
pub(super) fn watched<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = Result<News<K>, Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let seen = Arc::new(WatchHistory::default());
    let watch = RestartableWatch {
        events: begin(&api, &config),
        asked: ask(&api, &seen),
    };
    futures::stream::unfold(watch, move |mut watch| {
        let (api, config, seen) = (api.clone(), config.clone(), Arc::clone(&seen));
        async move {
            loop {
                tokio::select! {
                    event = watch.events.next() => {
                        let event = event?;
                        seen.note(&event);
                        return Some((event.map(News::Event), watch));
                    }
                    answer = &mut watch.asked => {
                        watch.asked = ask(&api, &seen);
                        match answer {
                            VersionAnswer::Alive => return Some((Ok(News::Alive), watch)),
                            VersionAnswer::Unsure => {}
                            VersionAnswer::Rewound => {
                                tracing::warn!(
                                    path = api.resource_url(),
                                    "the API server's versions have gone back: everything is \
                                     listed anew"
                                );
                                watch.events = begin(&api, &config);
                            }
                            VersionAnswer::Away => watch.events = begin(&api, &config),
                        }
                    }
                }
            }
        }
    })
}

struct RestartableWatch<K> {
    events: BoxStream<'static, Result<Event<K>, Error>>,
    /// The answer to the question for the present version.
    asked: BoxFuture<'static, VersionAnswer>,
}

/// What an answer with the present version says of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VersionAnswer {
    /// The watch is, or is about to be, alive.
    Alive,
    /// Nothing.
    Unsure,
    /// The versions have gone back.
    Rewound,
    /// They may have gone back and come as far again.
    Away,
}

/// What a watch failed with last, where it has brought nothing since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It was cut off, or could not begin.
    Watch,
    /// RBAC does not allow it: that a list is answered says nothing of the watch.
    Refusal,
    /// It could not list: its next list will show that it works.
    List,
}

impl Fault {
    fn of(error: &Error) -> Self {
        let code = match error {
            Error::InitialListFailed(_) | Error::NoResourceVersion => return Self::List,
            Error::WatchStartFailed(kube::Error::Api(status)) | Error::WatchError(status) => {
                status.code
            }
            _ => 0,
        };
        // A 410 is followed by a list, a 429 by another try.
        match code {
            400..=499 if !matches!(code, 410 | 429) => Self::Refusal,
            _ => Self::Watch,
        }
    }

    /// What an answer means for a watch that failed like this. `quiet`: it has not failed for
    /// longer than it waits between two tries.
    fn answered(self, quiet: bool) -> VersionAnswer {
        match self {
            Self::None | Self::Watch => VersionAnswer::Alive,
            Self::Refusal if quiet => VersionAnswer::Alive,
            Self::Refusal | Self::List => VersionAnswer::Unsure,
        }
    }
}

/// What is known of a watch.
#[derive(Debug, Default)]
struct WatchHistory {
    newest: AtomicU64,
    fault: Mutex<Fault>,
    /// The watch has failed, and no list has begun since.
    cut: AtomicBool,
    failed: Notify,
}

impl WatchHistory {
    fn note<K: Resource>(&self, event: &Result<Event<K>, Error>) {
        match event {
            Ok(Event::Apply(it) | Event::InitApply(it) | Event::Delete(it)) => {
                self.version(it.resource_version().as_deref());
                *lock(&self.fault) = Fault::None;
            }
            Ok(Event::InitDone) => *lock(&self.fault) = Fault::None,
            // A list that has begun has not succeeded yet.
            Ok(Event::Init) => self.cut.store(false, Ordering::Relaxed),
            Err(error) => {
                self.cut.store(true, Ordering::Relaxed);
                *lock(&self.fault) = Fault::of(error);
                self.failed.notify_one();
            }
        }
    }

    /// What an answer with this version means. `away`: the question had been asked before without
    /// an answer; `quiet`: see [`Fault::answered`].
    fn answered(&self, version: Option<&str>, away: bool, quiet: bool) -> VersionAnswer {
        let newest = self.newest.load(Ordering::Relaxed);
        let now = self.version(version);
        let was_cut = self.cut.swap(false, Ordering::Relaxed);
        if now.is_some_and(|now| now < newest) {
            self.newest
                .store(now.unwrap_or_default(), Ordering::Relaxed);
            VersionAnswer::Rewound
        } else if away && was_cut {
            VersionAnswer::Away
        } else {
            lock(&self.fault).answered(quiet)
        }
    }

    /// Versions are numbers (KEP-5504); one that is not a number says nothing.
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

/// Waits for the time to ask for the present version, and for an answer.
fn ask<K>(api: &Api<K>, seen: &Arc<WatchHistory>) -> BoxFuture<'static, VersionAnswer>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (api, seen) = (api.clone(), Arc::clone(seen));
    Box::pin(async move {
        // A list of one object without a version: the answer has the present version.
        let least = ListParams::default().limit(1);
        let (mut wait, mut away) = (ASK_SOON, false);
        loop {
            let failed = tokio::time::timeout(ASK, seen.failed.notified()).await;
            tokio::time::sleep(spread(wait, RandomState::new().hash_one(()))).await;
            let answer = tokio::time::timeout(REQUEST, api.list_metadata(&least)).await;
            match answer {
                Ok(Ok(list)) => {
                    let version = list.metadata.resource_version;
                    return seen.answered(version.as_deref(), away, failed.is_err());
                }
                // The kind is not installed, or RBAC refuses: the watch reports that.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
                    wait = ASK_SOON;
                }
                // The API server is away or busy.
                answer => {
                    let busy =
                        matches!(&answer, Ok(Err(kube::Error::Api(status))) if status.code == 429);
                    away |= !busy;
                    wait = doubled(wait, LONGEST);
                    seen.failed.notify_one();
                }
            }
        }
    })
}

/// A wait with jitter: up to half as long again, by `chance`. When an API server fails, all watches
/// of all processes fail together, and they must not come back together.
fn spread(wait: Duration, chance: u64) -> Duration {
    const STEPS: u32 = 1024;
    let steps = u32::try_from(chance % u64::from(STEPS)).unwrap_or_default();
    wait + wait / 2 / STEPS * steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn status(code: u16) -> Box<Status> {
        Box::new(Status::failure("no", "No").with_code(code))
    }

    #[test]
    fn an_answer_says_that_a_watch_lives_where_it_would_not_say_so_itself() {
        let refused = |code| Error::WatchStartFailed(kube::Error::Api(status(code)));
        let list = Error::InitialListFailed(kube::Error::Api(status(503)));
        for (error, at_once, later) in [
            (refused(503), VersionAnswer::Alive, VersionAnswer::Alive),
            (refused(429), VersionAnswer::Alive, VersionAnswer::Alive),
            (
                Error::WatchError(status(410)),
                VersionAnswer::Alive,
                VersionAnswer::Alive,
            ),
            (refused(403), VersionAnswer::Unsure, VersionAnswer::Alive),
            (list, VersionAnswer::Unsure, VersionAnswer::Unsure),
        ] {
            let fault = Fault::of(&error);
            assert_eq!(fault.answered(false), at_once, "{error}");
            assert_eq!(fault.answered(true), later, "{error}");
        }
        assert_eq!(Fault::None.answered(false), VersionAnswer::Alive);
    }

    #[test]
    fn a_list_that_has_begun_mends_nothing_and_one_that_ends_does() {
        type Object = kube::core::PartialObjectMeta<k8s_openapi::api::core::v1::Service>;
        let seen = WatchHistory::default();
        let failed = Error::WatchStartFailed(kube::Error::Api(status(403)));
        seen.note::<Object>(&Err(failed));
        seen.note::<Object>(&Ok(Event::Init));
        assert_eq!(*lock(&seen.fault), Fault::Refusal);
        seen.note::<Object>(&Ok(Event::InitDone));
        assert_eq!(*lock(&seen.fault), Fault::None);
    }

    #[test]
    fn after_an_absence_everything_is_listed_anew_where_the_watch_did_not_do_so_itself() {
        type Object = kube::core::PartialObjectMeta<k8s_openapi::api::core::v1::Service>;
        let failed = || Error::WatchStartFailed(kube::Error::Api(status(503)));
        let seen = WatchHistory::default();
        assert_eq!(
            seen.answered(Some("100"), false, true),
            VersionAnswer::Alive
        );
        // Back at 90, and at 120 when it is asked: nobody can tell.
        seen.note::<Object>(&Err(failed()));
        assert_eq!(seen.answered(Some("120"), true, false), VersionAnswer::Away);
        assert_eq!(
            seen.answered(Some("121"), false, true),
            VersionAnswer::Alive
        );
        // It was there all the time, or the watch was.
        seen.note::<Object>(&Err(failed()));
        assert_eq!(
            seen.answered(Some("122"), false, false),
            VersionAnswer::Alive
        );
        assert_eq!(
            seen.answered(Some("123"), true, false),
            VersionAnswer::Alive
        );
        // The watch has begun to list by itself.
        seen.note::<Object>(&Err(failed()));
        seen.note::<Object>(&Ok(Event::Init));
        assert_eq!(
            seen.answered(Some("124"), true, false),
            VersionAnswer::Alive
        );
        // And what has gone back has, whoever was away.
        seen.note::<Object>(&Err(failed()));
        assert_eq!(
            seen.answered(Some("90"), true, false),
            VersionAnswer::Rewound
        );
        assert_eq!(
            seen.answered(Some("91"), false, false),
            VersionAnswer::Alive
        );
    }

    #[test]
    fn a_wait_is_spread_over_half_as_much_again() {
        for wait in [ASK_SOON, LONGEST] {
            let all: Vec<_> = (0..2048).map(|chance| spread(wait, chance)).collect();
            assert!(all.iter().all(|it| (wait..wait * 3 / 2).contains(it)));
            assert_eq!(all.first(), Some(&wait));
            assert!(all.iter().any(|it| *it > wait * 7 / 5));
        }
    }
}
