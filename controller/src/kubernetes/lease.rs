//! Takes part in a leader election over a Lease.

use std::time::{Duration, Instant};

use fairway_config::annotations::DEFAULT_CLASS;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::answers::is_refusal;
use super::election::{DURATION, LeaseCandidate, LeaseRecord, Move, RETRY};
use super::leader_rights;
use super::leadership::{Leadership, Moment};
use super::settings::REQUEST;

/// How many characters of a class are in the name of its Lease, which can't be longer than 253.
const LONGEST_CLASS: usize = 200;

/// How often it is asked whether this process has the rights of a leader, and how often where it
/// lacks one.
const RIGHTS: Duration = Duration::from_secs(60);
const RIGHTS_LACKING: Duration = Duration::from_secs(10);

/// The pause after a try for which the API server was too busy.
const REFUSED: Duration = Duration::from_millis(200);

/// The Lease that the controllers of this class elect their leader by: controllers of different classes
/// do different work, and each class has a leader of its own.
pub fn lease_name(class: &str) -> String {
    const NAME: &str = "fairway-controller";
    if class == DEFAULT_CLASS {
        return NAME.to_owned();
    }
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let readable: String = class.chars().map(plain).take(LONGEST_CLASS).collect();
    // FNV-1a: two classes that differ by a dot or a capital letter alone have different Leases.
    let hash = class.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{NAME}-{}-{hash:08x}", readable.trim_matches('-'))
}

/// Takes part in an election.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    candidate: LeaseCandidate,
    /// The Lease as it was last seen: a write names this version.
    lease: Option<Lease>,
    leadership: Leadership,
    /// When it was last asked whether this process may do what a leader does.
    asked_rights: Option<Instant>,
    lacks_rights: bool,
    client: Client,
    namespace: String,
}

impl Elector {
    /// A candidate for the Lease of that name. `identity` is this process' own and no other's.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            candidate: LeaseCandidate::new(identity),
            lease: None,
            leadership: Leadership::default(),
            asked_rights: None,
            lacks_rights: false,
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// Whether this process leads, for whoever is about to write.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Takes part until it is told to stop, and gives the Lease back then. `leads` turns true when
    /// this process may begin, and false when it has to end what it began.
    pub async fn run(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut fault = None;
        loop {
            let asked = Moment::now();
            let outcome = tokio::time::timeout(REQUEST, self.attempt(asked)).await;
            // The API server was busy: the next try has to come soon.
            let refused = matches!(&outcome, Ok(Err(error)) if is_refusal(error));
            let error = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the API server did not answer in time".to_owned()),
            };
            if error.is_some() && !refused {
                // Whether the write took effect is not known.
                self.lease = None;
            }
            if let Some(error) = error.as_ref().filter(|_| fault != error) {
                tracing::warn!(error, lease = self.name, "no election");
                metrics::counter!("fairway_store_errors_total", "operation" => "lease")
                    .increment(1);
            }
            fault = error;
            self.leadership.tried(fault.clone());
            self.tell(&leads);
            self.ask_rights().await;
            // A leader whose time is over must say so at once, and not with the next try.
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
        if self.leadership.holds() {
            self.leadership.set(None);
            if !self.leadership.must_expire() {
                self.give_back().await;
            }
        }
    }

    /// While this process does not lead, asks now and then whether it has the rights of a leader.
    async fn ask_rights(&mut self) {
        let wait = match self.lacks_rights {
            true => RIGHTS_LACKING,
            false => RIGHTS,
        };
        let is_due = self.asked_rights.is_none_or(|at| at.elapsed() >= wait);
        if self.leadership.holds() || !is_due {
            return;
        }
        let question = leader_rights::missing(self.client.clone(), &self.namespace);
        // Without an answer the former one counts.
        if let Ok(Ok(missing)) = tokio::time::timeout(REQUEST, question).await {
            self.asked_rights = Some(Instant::now());
            self.lacks_rights = missing.is_some();
            self.leadership.asked_rights(missing);
        }
    }

    fn tell(&mut self, leads: &watch::Sender<bool>) {
        if !self.leadership.holds() {
            self.candidate.lost();
            self.leadership.set(None);
        }
        let leading = self.leadership.holds();
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
    async fn attempt(&mut self, asked: Moment) -> kube::Result<()> {
        // A leader goes on from what it wrote last; if that is stale, the write is refused.
        let lease = match self.lease.take() {
            Some(lease) if self.leadership.holds() => Some(lease),
            _ => self.leases.get_opt(&self.name).await?,
        };
        let next = self
            .candidate
            .consider(lease.as_ref().map(record), asked.instant());
        let now = MicroTime(jiff::Timestamp::now());
        let parameters = PostParams::default();
        let answer = match next {
            Move::Wait => {
                self.candidate.lost();
                self.leadership.set(None);
                self.leadership.follows(asked);
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
                self.candidate.won(record(&lease), asked.instant());
                self.leadership.set(Some(asked));
                self.lease = Some(lease);
                Ok(())
            }
            // Another process was faster; the next try looks at what it wrote.
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

    /// Gives the Lease back, so that another process can lead at once.
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
        // Where this fails the Lease runs out by itself.
        let _ = tokio::time::timeout(REQUEST, answer).await;
    }
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

fn record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    LeaseRecord {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.max(1).unsigned_abs().into()),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_class_has_a_lease_of_its_own_with_a_name_that_kubernetes_takes() {
        assert_eq!(lease_name(DEFAULT_CLASS), "fairway-controller");
        let long = format!("example.com/{}", "x".repeat(300));
        let classes = ["a.b/c", "a/b.c", "A.b/c", "a.b/C", "a-b/c", "x", "-", &long];
        let names: BTreeSet<String> = classes.iter().map(|it| lease_name(it)).collect();
        assert_eq!(names.len(), classes.len(), "{names:?}");
        for name in names {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() < 254 && name.chars().all(plain), "{name}");
            assert!(name.starts_with("fairway-controller-"), "{name}");
        }
    }
}
