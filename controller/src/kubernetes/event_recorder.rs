//! Writes Events of Services, which `kubectl describe service` shows.
//!
//! Events are written beside the work and never hold it up: those that can't be written in time are
//! counted and dropped. While many addresses and statuses are being written, an Event is sent now and then
//! only, and the others follow. Where the API server is busy (429) they are written a little later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_config::names::ServiceName;
use fairway_controller_core::events::{Event, NODE_ASSIGNED};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Sent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::{Notify, mpsc};

use super::answers::insist;
use super::event_log::{EventLog, LogLine};
use super::fair_queue::{FairQueue, Urgency};
use super::service_record::ServiceRecord;
use super::settings::REQUEST;
use super::traffic_events::TrafficEvents;
use super::write_queue::WriteQueue;
use crate::feed::lock;

/// How many Events may wait.
const WAITING: usize = 16_384;

/// How many of them may be of one namespace.
const WAITING_IN_ONE: usize = WAITING / 4;

/// Requests on their way at a time: the API server shall have its time for statuses.
const CONCURRENT: usize = 1;

/// From so many writes of addresses and statuses on their way on, one Event is sent each time this has
/// passed.
const MANY_WRITES: usize = 8;
const PACE: Duration = Duration::from_millis(100);

/// The pauses after which an Event is sent again that is refused each time: four seconds in all.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2700),
];

/// How long the same Event of a Service is not repeated, and how many Events are remembered for
/// that.
const SAME: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 4096;

/// Takes Events without waiting.
#[derive(Clone, Debug)]
pub(super) struct EventRecorder {
    sender: mpsc::Sender<Telling>,
    traffic: Arc<Mutex<TrafficEvents>>,
    log: Arc<SharedLog>,
}

impl EventRecorder {
    /// An event recorder, and the task that sends and logs what it is given until the recorder is dropped.
    pub(super) fn new(
        client: Client,
        instance: Arc<str>,
        writes: Arc<WriteQueue>,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let recorder = Self {
            sender,
            traffic: Arc::default(),
            log: Arc::default(),
        };
        let log = Arc::clone(&recorder.log);
        let task = async move {
            tokio::select! {
                () = tell(client, instance, writes, receiver) => {}
                () = log.write() => {}
            }
        };
        (recorder, task)
    }

    /// Logs something of a Service of which there is no Event. What has the same reason at the same time is one
    /// line.
    pub(super) fn log(&self, record: &ServiceRecord, event: &Event) {
        let name = &record.stored.service.name;
        self.log.note(name, event, Instant::now());
    }

    /// Writes these Events of a Service, and logs them.
    pub(super) fn tell(&self, record: &ServiceRecord, events: Vec<Event>) {
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
            let now = Instant::now();
            if event.is_of_traffic && !lock(&self.traffic).take(&record.uid, &event, now) {
                continue;
            }
            // A gateway that dies leaves all its addresses to others at once.
            let is_assigned = event.reason == NODE_ASSIGNED;
            if event.is_warning || event.is_of_traffic || is_assigned {
                self.log.note(name, &event, now);
            } else {
                tracing::info!(service = %name, reason = event.reason, "{}", event.message);
            }
            if self.sender.try_send((about.clone(), event)).is_err() {
                metrics::counter!("fairway_events_dropped_total").increment(1);
            }
        }
    }
}

/// What is to be logged of Events.
#[derive(Debug, Default)]
struct SharedLog {
    log: Mutex<EventLog>,
    came: Notify,
}

impl SharedLog {
    fn note(&self, service: &ServiceName, event: &Event, now: Instant) {
        lock(&self.log).note(service, event, now);
        self.came.notify_one();
    }

    /// Writes each batch when it has ended, for ever.
    async fn write(&self) {
        loop {
            let (lines, next) = {
                let mut log = lock(&self.log);
                (log.take_due(Instant::now()), log.next())
            };
            lines.iter().for_each(LogLine::write);
            let ended = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended => {}
                () = self.came.notified() => {}
            }
        }
    }
}

impl Drop for SharedLog {
    /// What was told until the end is logged.
    fn drop(&mut self) {
        let rest = lock(&self.log).take_all(Instant::now());
        rest.iter().for_each(LogLine::write);
    }
}

/// An event about an object.
type Telling = (ObjectReference, Event);

async fn tell(
    client: Client,
    instance: Arc<str>,
    writes: Arc<WriteQueue>,
    mut receiver: mpsc::Receiver<Telling>,
) {
    let said = Mutex::new(Said::default());
    // A fair queue: a webhook that hangs for one namespace holds up no other.
    let mut queue: FairQueue<u64, Telling> = FairQueue::new(CONCURRENT);
    let (mut running, mut waiting, mut count) = (FuturesUnordered::new(), 0, 0u64);
    let mut last_sent = Instant::now();
    loop {
        let now = Instant::now();
        queue.tick(now);
        let next_send = next_send(writes.prompt(), last_sent);
        while next_send <= now
            && let Some((ticket, (about, event))) = queue.next(now)
        {
            (waiting, last_sent) = (waiting - 1, now);
            let sending = send(client.clone(), about, event, &instance, &said);
            running.push(async move {
                sending.await;
                ticket
            });
        }
        let next_send = (waiting > 0 && next_send > now).then_some(next_send);
        let wake = queue.next_late().into_iter().chain(next_send).min();
        let late = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ticket) = running.next(), if !running.is_empty() => queue.ended(ticket),
            () = late => {}
            telling = receiver.recv() => {
                let Some((about, event)) = telling else { return };
                let namespace: Arc<str> = about.namespace.as_deref().unwrap_or_default().into();
                if waiting >= WAITING || queue.waiting_in(&namespace) >= WAITING_IN_ONE {
                    metrics::counter!("fairway_events_dropped_total").increment(1);
                    continue;
                }
                // Which of those of traffic are told has been decided.
                let is_new = event.is_of_traffic || lock(&said).is_new(key(&about, &event), now);
                if !is_new {
                    continue;
                }
                (waiting, count) = (waiting + 1, count + 1);
                queue.push(&namespace, (count, 0), Urgency::Usual, (about, event));
            }
        }
    }
}

/// From when on an Event may be sent, while so many writes are on their way in time.
fn next_send(writes: usize, last_sent: Instant) -> Instant {
    match writes < MANY_WRITES {
        true => last_sent,
        false => last_sent + PACE,
    }
}

async fn send(
    client: Client,
    about: ObjectReference,
    event: Event,
    instance: &str,
    said: &Mutex<Said>,
) {
    let namespace = about.namespace.clone().unwrap_or_default();
    let events: Api<Sent> = Api::namespaced(client, &namespace);
    let key = key(&about, &event);
    let made = made(about, event, instance);
    let parameters = PostParams::default();
    let answer = insist(&PAUSES, || async {
        Some(tokio::time::timeout(REQUEST, events.create(&parameters, &made)).await)
    });
    let answer = answer.await;
    if !matches!(answer, Some(Ok(Ok(_)))) {
        dropped(said, &key);
        tracing::debug!(?answer, "an event could not be told");
    }
}

/// Where the same Event comes again it must be sent.
fn dropped(said: &Mutex<Said>, key: &EventKey) {
    lock(said).forget(key);
    metrics::counter!("fairway_events_dropped_total").increment(1);
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

/// What makes two events the same: the object's UID, the reason, and the message.
type EventKey = (Option<String>, String, String);

fn key(about: &ObjectReference, event: &Event) -> EventKey {
    let (reason, message) = (event.reason.clone(), event.message.clone());
    (about.uid.clone(), reason, message)
}

/// The Events that were sent lately, or are being sent.
#[derive(Default)]
struct Said {
    last: HashMap<EventKey, Instant>,
    order: VecDeque<EventKey>,
}

impl Said {
    /// Whether this Event has to be sent. From now on it has not.
    fn is_new(&mut self, key: EventKey, now: Instant) -> bool {
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

    /// It could not be sent.
    fn forget(&mut self, key: &EventKey) {
        if self.last.remove(key).is_some() {
            self.order.retain(|it| it != key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn events_wait_while_many_statuses_are_written_and_not_for_ever() {
        let now = Instant::now();
        for (writes, wait) in [
            (0, Duration::ZERO),
            (MANY_WRITES - 1, Duration::ZERO),
            (MANY_WRITES, PACE),
            (1000, PACE),
        ] {
            assert_eq!(next_send(writes, now), now + wait, "{writes}");
        }
    }

    #[test]
    fn what_could_not_be_said_is_news_again() {
        let (mut said, now) = (Said::default(), Instant::now());
        let key = |message: &str| (None, "Assigned".to_owned(), message.to_owned());
        assert!(said.is_new(key("a"), now) && !said.is_new(key("a"), now));
        said.forget(&key("a"));
        assert!(said.order.is_empty());
        assert!(said.is_new(key("a"), now) && !said.is_new(key("a"), now));
        assert!(said.is_new(key("a"), now + SAME));
        for other in 0..REMEMBERED {
            assert!(said.is_new(key(&other.to_string()), now));
        }
        assert_eq!(
            (said.last.len(), said.order.len()),
            (REMEMBERED, REMEMBERED)
        );
    }
}
