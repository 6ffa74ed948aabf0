//! Tells people about Services by Events.
//!
//! Events are told beside the work and never hold it up: what can't be told in time is counted and
//! dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_controller_core::events::Event;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Sent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;

use super::REQUEST;
use super::known::Record;

/// Events that wait, at most.
const WAITING: usize = 16_384;

/// Requests on their way at a time: few, for statuses go first.
const CONCURRENT: usize = 4;

/// The same is not told of a Service again for so long, and so many Services are remembered.
const SAME: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 4096;

/// Takes events and does not wait.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    sender: mpsc::Sender<(ObjectReference, Event)>,
}

impl Teller {
    /// A teller, and the task that does its work until the teller is dropped.
    pub(super) fn new(client: Client, instance: Arc<str>) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender }, tell(client, instance, receiver))
    }

    /// Tells this of a Service.
    pub(super) fn tell(&self, record: &Record, events: Vec<Event>) {
        let name = &record.stored.service.name;
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(name.namespace.to_string()),
            name: Some(name.name.to_string()),
            uid: Some(record.uid.to_string()),
            ..ObjectReference::default()
        };
        for event in events {
            if event.is_warning {
                tracing::warn!(service = %name, reason = event.reason, "{}", event.message);
            } else {
                tracing::info!(service = %name, reason = event.reason, "{}", event.message);
            }
            if self.sender.try_send((about.clone(), event)).is_err() {
                metrics::counter!("fairway_events_dropped_total").increment(1);
            }
        }
    }
}

async fn tell(
    client: Client,
    instance: Arc<str>,
    receiver: mpsc::Receiver<(ObjectReference, Event)>,
) {
    let mut said = Said::default();
    let events = futures::stream::unfold(receiver, async |mut receiver| {
        let event = receiver.recv().await?;
        Some((event, receiver))
    });
    let news = events.filter(|(about, event)| {
        let is_new = said.is_new(about, event, Instant::now());
        std::future::ready(is_new)
    });
    news.for_each_concurrent(CONCURRENT, |(about, event)| {
        let (client, instance) = (client.clone(), Arc::clone(&instance));
        async move {
            let namespace = about.namespace.clone().unwrap_or_default();
            let events: Api<Sent> = Api::namespaced(client, &namespace);
            let made = made(about, event, &instance);
            let parameters = PostParams::default();
            let answer = tokio::time::timeout(REQUEST, events.create(&parameters, &made)).await;
            if !matches!(answer, Ok(Ok(_))) {
                metrics::counter!("fairway_events_dropped_total").increment(1);
                tracing::debug!(?answer, "an event could not be told");
            }
        }
    })
    .await;
}

fn made(about: ObjectReference, event: Event, instance: &str) -> Sent {
    let now = jiff::Timestamp::now();
    let mut note = event.message;
    // The API takes a kibibyte.
    if note.len() > 1020 {
        let end = note.floor_char_boundary(1020);
        note.truncate(end);
        note.push('…');
    }
    Sent {
        metadata: ObjectMeta {
            // As client-go names them; a generated name may not end with a dot before its ending.
            name: Some(format!(
                "{}.{:x}",
                about.name.as_deref().unwrap_or("service"),
                now.as_nanosecond()
            )),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Sync".to_owned()),
        reason: Some(event.reason),
        type_: Some(
            if event.is_warning {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        note: Some(note),
        event_time: Some(MicroTime(now)),
        regarding: Some(about),
        reporting_controller: Some("fairway.dev/controller".to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Sent::default()
    }
}

/// What was said lately.
#[derive(Default)]
struct Said {
    last: HashMap<(Option<String>, String, String), Instant>,
    order: VecDeque<(Option<String>, String, String)>,
}

impl Said {
    fn is_new(&mut self, about: &ObjectReference, event: &Event, now: Instant) -> bool {
        let key = (
            about.uid.clone(),
            event.reason.clone(),
            event.message.clone(),
        );
        if self.last.get(&key).is_some_and(|at| now < *at + SAME) {
            return false;
        }
        if self.last.insert(key.clone(), now).is_none() {
            self.order.push_back(key);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.last.remove(&oldest);
            }
        }
        true
    }
}
