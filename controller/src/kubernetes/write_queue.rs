//! The writes that wait or are on their way, in the order of a [`FairQueue`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_config::exchange::Write;
use fairway_config::object::ObjectKey;
use tokio::sync::{Notify, mpsc};

use super::fair_queue::{FairQueue, Sign, Ticket, Urgency};
use crate::feed::lock;
use crate::store::{WriteKey, WriteOutcome};

/// How many writes may be on their way at a time; one namespace alone may have half of them.
const MOST: usize = 64;

/// How long a process that is told to stop waits for writes that are on their way.
const FINISH: Duration = Duration::from_secs(1);

/// What is to be done about one object.
#[derive(Debug)]
pub(super) enum WriteJob {
    /// Write a decision, and send its outcome.
    Write {
        write: Write,
        since: Option<Instant>,
        reply: mpsc::Sender<(WriteKey, WriteOutcome)>,
    },
    /// Repair finalizer and annotation of a Service, after this wait.
    Repair(ObjectKey, Duration),
}

/// Writes that wait or are on their way.
#[derive(Debug)]
pub(super) struct WriteQueue {
    queue: Mutex<FairQueue<ObjectKey, WriteJob>>,
    /// A job came.
    pub(super) came: Notify,
    /// A job has ended.
    ended: Notify,
    /// No job begins any more.
    closed: AtomicBool,
}

impl Default for WriteQueue {
    fn default() -> Self {
        Self {
            queue: Mutex::new(FairQueue::new(MOST)),
            came: Notify::new(),
            ended: Notify::new(),
            closed: false.into(),
        }
    }
}

impl WriteQueue {
    /// Adds a job.
    pub(super) fn push(&self, key: ObjectKey, part: u8, urgency: Urgency, job: WriteJob) {
        let namespace = key.namespace.clone().unwrap_or_default();
        let former = lock(&self.queue).push(&namespace, (key, part), urgency, job);
        self.came.notify_one();
        if let Some(WriteJob::Write { write, reply, .. }) = former {
            // The channel has room for every outcome.
            let _ = reply.try_send((WriteKey::of(&write), WriteOutcome::Superseded));
        }
    }

    /// Queues the repair of finalizer and annotation of a Service.
    pub(super) fn repair(&self, key: ObjectKey, waited: Duration) {
        self.push(
            key.clone(),
            2,
            Urgency::Usual,
            WriteJob::Repair(key, waited),
        );
    }

    /// Notes what an answer in this namespace says of how busy the API server is.
    pub(super) fn answered(&self, namespace: &Arc<str>, sign: Sign) {
        lock(&self.queue).answered(namespace, sign, Instant::now());
    }

    /// A job has ended.
    pub(super) fn ended(&self, ticket: Ticket) {
        lock(&self.queue).ended(ticket);
        self.ended.notify_waiters();
    }

    /// Begins no further job, and waits a moment for those that are on their way. True: all have
    /// ended.
    pub(super) async fn finish(&self) -> bool {
        self.closed.store(true, Ordering::Relaxed);
        let all_ended = async {
            loop {
                let ended = self.ended.notified();
                if lock(&self.queue).running() == 0 {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(FINISH, all_ended).await.is_ok()
    }

    /// How many writes are on their way that are not late.
    pub(super) fn prompt(&self) -> usize {
        lock(&self.queue).prompt()
    }

    /// How many writes are late or wait behind one that is.
    pub(super) fn held_up(&self) -> usize {
        let held_back = lock(&self.queue).held_back();
        held_back
            .iter()
            .map(|(_, late, waiting)| late + waiting)
            .sum()
    }

    /// A sentence for each namespace in which writes are not answered.
    pub(super) fn problems(&self) -> Vec<String> {
        let held_back = lock(&self.queue).held_back().into_iter();
        let sentence = |(namespace, late, waiting): (Arc<str>, usize, usize)| {
            format!(
                "the API server does not answer {late} writes in namespace {namespace}, and {waiting} \
                 more wait for that: a webhook for that namespace may hang. Other namespaces go on"
            )
        };
        held_back.map(sentence).collect()
    }

    /// Begins every job that may begin now. Answers with when to call it again even if nothing
    /// happens.
    pub(super) fn begin(&self, mut begin: impl FnMut(Ticket, WriteJob)) -> Option<Instant> {
        let (mut queue, now) = (lock(&self.queue), Instant::now());
        queue.tick(now);
        let is_closed = || self.closed.load(Ordering::Relaxed);
        while !is_closed()
            && let Some((ticket, job)) = queue.next(now)
        {
            begin(ticket, job);
        }
        queue.next_late()
    }
}
