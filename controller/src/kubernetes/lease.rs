//! Takes part in an election over a Lease, and says who leads.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::election::{Candidate, DURATION, Move, RETRY, Record};
use super::pace::is_refusal;
use super::settings::REQUEST;
use super::term::Term;

/// After a try for which the API server had no room.
const REFUSED: Duration = Duration::from_millis(200);

/// Takes part in an election.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    candidate: Candidate,
    /// The Lease as it was last seen: what a move is made from.
    lease: Option<Lease>,
    term: Term,
}

impl Elector {
    /// A candidate for the Lease of that name. `identity` is this process' own and no other's.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            candidate: Candidate::new(identity),
            lease: None,
            term: Term::default(),
        }
    }

    /// Whether this process leads, for whoever is about to write.
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Takes part until it is told to stop, and then gives back what it has. `leads` turns true
    /// when this process may begin, and false when it has to end what it began.
    pub async fn run(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut fault = None;
        loop {
            let asked = Instant::now();
            let outcome = tokio::time::timeout(REQUEST, self.attempt(asked)).await;
            // Nothing has happened; the next try may have more luck, and has to have it soon.
            let refused = matches!(&outcome, Ok(Err(error)) if is_refusal(error));
            let error = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the API server did not answer in time".to_owned()),
            };
            if error.is_some() && !refused {
                // What the server has now is not known.
                self.lease = None;
            }
            if let Some(error) = error.as_ref().filter(|_| fault != error) {
                tracing::warn!(error, lease = self.name, "no election");
                metrics::counter!("fairway_store_errors_total", "operation" => "lease")
                    .increment(1);
            }
            fault = error;
            self.tell(&leads);
            // A leader whose time is over must not wait for the next try to say so.
            let left = self.candidate.leads_until();
            let left = left.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = if refused { REFUSED } else { RETRY };
            let wait = left.map_or(wait, |left| left.min(wait));
            let wait = wait.max(Duration::from_millis(10));
            if stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                break;
            }
            self.tell(&leads);
        }
        leads.send_replace(false);
        if self.term.holds() {
            self.term.set(None);
            self.give_back().await;
        }
    }

    fn tell(&mut self, leads: &watch::Sender<bool>) {
        let now = Instant::now();
        if self
            .candidate
            .leads_until()
            .is_some_and(|until| until <= now)
        {
            self.candidate.lost();
        }
        self.term.set(self.candidate.leads_until());
        let leading = self.term.holds();
        let changed = leads.send_if_modified(|said| std::mem::replace(said, leading) != leading);
        if changed {
            let holder = self.lease.as_ref().map(holder).unwrap_or_default();
            if leading {
                tracing::info!(lease = self.name, identity = self.identity, "leading");
            } else {
                tracing::warn!(lease = self.name, holder, "no longer leading");
            }
        }
    }

    /// One try to take or renew the Lease.
    async fn attempt(&mut self, asked: Instant) -> kube::Result<()> {
        // A leader goes on from what it wrote last; if that is stale, the write is refused.
        let lease = match self.lease.take() {
            Some(lease) if self.term.holds() => Some(lease),
            _ => self.leases.get_opt(&self.name).await?,
        };
        let next = self.candidate.consider(lease.as_ref().map(record), asked);
        let now = MicroTime(jiff::Timestamp::now());
        let parameters = PostParams::default();
        let answer = match next {
            Move::Wait => {
                self.candidate.lost();
                self.lease = lease;
                return Ok(());
            }
            Move::Create => {
                let made = self.made(now.clone(), Some(now), 0, None);
                self.leases.create(&parameters, &made).await
            }
            Move::Take {
                version,
                transitions,
                renews,
            } => {
                let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
                let acquired = spec.and_then(|spec| spec.acquire_time.clone());
                let acquired = acquired.filter(|_| renews).or_else(|| Some(now.clone()));
                let made = self.made(now, acquired, transitions, Some(version));
                self.leases.replace(&self.name, &parameters, &made).await
            }
        };
        match answer {
            Ok(lease) => {
                self.candidate.won(record(&lease), asked);
                self.lease = Some(lease);
                Ok(())
            }
            // Somebody was faster; what they wrote is looked at the next time.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => {
                self.lease = lease.filter(|_| is_refusal(&error));
                Err(error)
            }
        }
    }

    fn made(
        &self,
        now: MicroTime,
        acquired: Option<MicroTime>,
        transitions: i32,
        version: Option<String>,
    ) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: acquired,
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets the next one begin at once.
    async fn give_back(&mut self) {
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let parameters = PostParams::default();
        let answer = self.leases.replace(&self.name, &parameters, &lease);
        // Where it does not come about the lease runs out by itself.
        let _ = tokio::time::timeout(REQUEST, answer).await;
    }
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Record {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.max(1).unsigned_abs().into()),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}
