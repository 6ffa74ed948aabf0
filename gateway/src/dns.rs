//! DNS names as endpoints: their addresses are asked for again when the record's time to live is over.
//!
//! The last addresses stay in use until an answer has others, so a name server that fails takes no endpoint
//! away. «No such name» (NXDOMAIN) and «no addresses» count as failures, too: they are reported, and whoever
//! has removed the name can remove the Service's endpoint.
//!
//! The number of queries under way is bounded, for all names and for each namespace ([`Queries`]). So thousands of
//! unanswered names of one namespace do not delay the names of another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// The bounds of the time after which a name is asked for again; between them the time to live counts.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);

/// The back-off after failures: the first pause, doubled each time up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// How long a name server has for an answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The most answers that wait for the control task.
const ANSWERS: usize = 256;

/// The most names that are asked for at once: in all, and of one namespace. Each takes two sockets.
const QUERIES: usize = 32;
const QUERIES_OF_ONE: usize = 8;

/// An answer about a name.
#[derive(Debug)]
pub(crate) struct DnsAnswer {
    pub(crate) name: Arc<str>,
    /// Its addresses, ordered, or what is wrong.
    pub(crate) addresses: Result<Vec<IpAddr>, String>,
}

/// The names that are in use, their addresses, and the tasks that ask for them.
#[derive(Debug)]
pub(crate) struct DnsNames {
    resolver: Option<TokioResolver>,
    /// Why there is no resolver.
    unusable: String,
    asking: JoinSet<()>,
    queries: Queries,
    known: BTreeMap<Arc<str>, KnownAddresses>,
    sender: mpsc::Sender<DnsAnswer>,
    answers: mpsc::Receiver<DnsAnswer>,
}

/// Bounds the queries that are under way.
#[derive(Debug)]
struct Queries {
    all: Arc<Semaphore>,
    by_namespace: BTreeMap<Arc<str>, Arc<Semaphore>>,
}

/// The permits for a query: one of the namespace and one of all.
#[derive(Clone, Debug)]
struct QueryPermits {
    of_namespace: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
}

impl Queries {
    fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(QUERIES)),
            by_namespace: BTreeMap::new(),
        }
    }

    /// The permits for a name that these namespaces use. It counts for the namespace with the fewest names, so that
    /// the many names of another one do not delay it.
    fn of(&mut self, namespaces: &BTreeSet<Arc<str>>) -> QueryPermits {
        let names = |namespace: &&Arc<str>| {
            let of_namespace = self.by_namespace.get(*namespace);
            of_namespace.map_or(0, Arc::strong_count)
        };
        let new = || Arc::new(Semaphore::new(QUERIES_OF_ONE));
        let of_namespace = match namespaces.iter().min_by_key(names).cloned() {
            Some(fewest) => {
                let of_namespace = self.by_namespace.entry(fewest);
                of_namespace.or_insert_with(new).clone()
            }
            None => new(),
        };
        QueryPermits {
            of_namespace,
            of_all: self.all.clone(),
        }
    }

    /// Forgets namespaces that have no name any more.
    fn forget_unused(&mut self) {
        self.by_namespace
            .retain(|_, permits| Arc::strong_count(permits) > 1);
    }
}

impl QueryPermits {
    /// Waits for both permits. Only a few queries of one namespace wait for the second one, so nobody waits long
    /// there.
    async fn turn(&self) -> (Option<SemaphorePermit<'_>>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        let of_namespace = self.of_namespace.acquire().await.ok();
        (of_namespace, self.of_all.acquire().await.ok())
    }
}

/// The last answer about a name, and the task that asks for it.
#[derive(Debug)]
struct KnownAddresses {
    addresses: Vec<IpAddr>,
    problem: Option<String>,
    asking: Option<AbortHandle>,
}

impl DnsNames {
    /// Uses this name server, or those of `/etc/resolv.conf`.
    pub(crate) fn new(name_server: Option<SocketAddr>) -> Self {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let (resolver, unusable) = match resolver(name_server) {
            Ok(resolver) => (Some(resolver), String::new()),
            Err(error) => {
                tracing::warn!(%error, "no usable name server: names as backends stay unresolved");
                (None, format!("no usable name server: {error}"))
            }
        };
        Self {
            resolver,
            unusable,
            asking: JoinSet::new(),
            queries: Queries::new(),
            known: BTreeMap::new(),
            sender,
            answers,
        }
    }

    /// Begins to ask for names that Services of these namespaces use, and stops where no namespace is given.
    pub(crate) fn want(
        &mut self,
        changed: impl IntoIterator<Item = (Arc<str>, BTreeSet<Arc<str>>)>,
    ) {
        for (name, namespaces) in changed {
            if namespaces.is_empty() {
                let known = self.known.remove(&name);
                if let Some(asking) = known.and_then(|known| known.asking) {
                    asking.abort();
                }
            } else if !self.known.contains_key(&name) {
                self.ask(name, &namespaces);
            }
        }
        while self.asking.try_join_next().is_some() {}
        self.queries.forget_unused();
    }

    fn ask(&mut self, name: Arc<str>, namespaces: &BTreeSet<Arc<str>>) {
        let permits = self.queries.of(namespaces);
        let asking = self.resolver.clone().map(|resolver| {
            let sender = self.sender.clone();
            self.asking
                .spawn(keep_asking(resolver, name.clone(), permits, sender))
        });
        let problem = asking.is_none().then(|| self.unusable.clone());
        let known = KnownAddresses {
            addresses: Vec::new(),
            problem,
            asking,
        };
        self.known.insert(name, known);
    }

    /// Waits for the next answer, and takes all that are there.
    pub(crate) async fn answers(&mut self) -> Vec<DnsAnswer> {
        let mut answers = Vec::new();
        self.answers.recv_many(&mut answers, ANSWERS).await;
        answers
    }

    /// Takes an answer in. Returns whether the addresses have changed, and whether the problem has.
    pub(crate) fn learn(&mut self, answer: DnsAnswer) -> (bool, bool) {
        let Some(known) = self.known.get_mut(&answer.name) else {
            return (false, false);
        };
        match answer.addresses {
            Ok(addresses) => {
                let mended = known.problem.take().is_some();
                let changed = known.addresses != addresses;
                known.addresses = addresses;
                (changed, mended)
            }
            Err(problem) => {
                let changed = known.problem.as_ref() != Some(&problem);
                if changed {
                    tracing::warn!(name = %answer.name, problem, "name not resolved");
                }
                known.problem = Some(problem);
                (false, changed)
            }
        }
    }

    /// Whether nothing has been heard of a name yet.
    pub(crate) fn awaits_answers(&self) -> bool {
        let mut known = self.known.values();
        known.any(|it| it.addresses.is_empty() && it.problem.is_none())
    }

    /// The addresses of a name.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.known
            .get(name)
            .map(|known| known.addresses.clone())
            .unwrap_or_default()
    }

    /// What is wrong with a name, as a sentence.
    pub(crate) fn problem(&self, name: &str) -> Option<String> {
        let known = self.known.get(name)?;
        let problem = known.problem.as_ref()?;
        Some(if known.addresses.is_empty() {
            format!("{name} does not resolve: {problem}")
        } else {
            format!("{name} does not resolve any more, its last answer stays in use: {problem}")
        })
    }
}

fn resolver(name_server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match name_server {
        Some(address) => {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(vec![server]),
                TokioRuntimeProvider::default(),
            )
        }
        None => TokioResolver::builder_tokio()?,
    };
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = ATTEMPTS;
    // The time to live is watched here. A cache would hide how much of it is left.
    options.cache_size = 0;
    builder.build()
}

/// The task that asks for one name again and again.
async fn keep_asking(
    resolver: TokioResolver,
    name: Arc<str>,
    permits: QueryPermits,
    answers: mpsc::Sender<DnsAnswer>,
) {
    let mut retry = RETRY_FIRST;
    loop {
        let turn = permits.turn().await;
        let answer = ask(&resolver, &name).await;
        drop(turn);
        let (addresses, pause) = match answer {
            Ok((addresses, time_to_live)) => {
                retry = RETRY_FIRST;
                (Ok(addresses), time_to_live.clamp(SOONEST, LATEST))
            }
            Err(problem) => {
                let pause = retry;
                retry = (retry * 2).min(RETRY_LONGEST);
                (Err(problem), pause)
            }
        };
        if answers
            .send(DnsAnswer {
                name: name.clone(),
                addresses,
            })
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Asks for the addresses of a name and their time to live. Where one address family is not answered, this fails,
/// and the last addresses of both families stay in use.
async fn ask(resolver: &TokioResolver, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
    let (v4, v6) = join(
        resolver.lookup(name, RecordType::A),
        resolver.lookup(name, RecordType::AAAA),
    )
    .await;
    let mut addresses = BTreeSet::new();
    let mut until = Instant::now() + LATEST;
    let mut none = String::new();
    for answer in [v4, v6] {
        match answer {
            Ok(lookup) => {
                until = until.min(lookup.valid_until());
                addresses.extend(found(&lookup));
            }
            Err(error) if error.is_nx_domain() => "there is no such name".clone_into(&mut none),
            Err(error) if error.is_no_records_found() => {
                if none.is_empty() {
                    "the name has no addresses".clone_into(&mut none);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    if addresses.is_empty() {
        return Err(none);
    }
    Ok((
        addresses.into_iter().collect(),
        until.saturating_duration_since(Instant::now()),
    ))
}

fn found(lookup: &Lookup) -> impl Iterator<Item = IpAddr> + '_ {
    lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn namespaces(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[tokio::test]
    async fn thousands_of_names_of_one_namespace_leave_another_one_its_turn() {
        let mut queries = Queries::new();
        let mut tasks = JoinSet::new();
        let under_way = Arc::new(Semaphore::new(0));
        for _ in 0..5_000 {
            let (permits, under_way) = (queries.of(&namespaces(&["many"])), under_way.clone());
            tasks.spawn(async move {
                let _turn = permits.turn().await;
                under_way.add_permits(1);
                // Nobody answers.
                std::future::pending::<()>().await;
            });
        }
        while under_way.available_permits() < QUERIES_OF_ONE {
            tokio::task::yield_now().await;
        }
        // Also for a name that both want.
        for wanted_by in [&["other"][..], &["many", "other"]] {
            let permits = queries.of(&namespaces(wanted_by));
            let turn = tokio::time::timeout(Duration::from_secs(20), permits.turn());
            assert!(turn.await.is_ok(), "{wanted_by:?}");
        }
        assert_eq!(under_way.available_permits(), QUERIES_OF_ONE);
        tasks.shutdown().await;
        queries.forget_unused();
        assert!(queries.by_namespace.is_empty());
    }
}
