//! Names as backends: what DNS says of them, asked again when the record's time is over.
//!
//! An answer stays until there is another one: a name server that goes away takes no backend with
//! it. «No such name» and «no addresses» are no answers either in that sense; a name that is really
//! gone is reported, and whoever took it away takes the Service's endpoint away too.

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
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// A name is asked for again after its record's time to live, within these bounds.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);

/// After a failure it is asked for again after the first, then after ever longer times.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// How long one name server has for one answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Answers that may wait to be taken.
const ANSWERS: usize = 256;

/// What was found out about a name.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) name: Arc<str>,
    /// Its addresses in order, or what is wrong.
    pub(crate) addresses: Result<Vec<IpAddr>, String>,
}

/// What names stand for just now, and who asks for them.
#[derive(Debug)]
pub(crate) struct Names {
    resolver: Option<TokioResolver>,
    /// Why there is no resolver.
    unusable: String,
    asking: JoinSet<()>,
    known: BTreeMap<Arc<str>, Known>,
    sender: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

/// What is known of one name.
#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    problem: Option<String>,
    asking: Option<AbortHandle>,
}

impl Names {
    /// Asks that name server, or those of `/etc/resolv.conf`.
    pub(crate) fn new(name_server: Option<SocketAddr>) -> Self {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let (resolver, unusable) = match resolver(name_server) {
            Ok(resolver) => (Some(resolver), String::new()),
            Err(error) => {
                tracing::warn!(%error, "no usable name server: names as backends stay unresolved");
                (None, format!("no usable name server: {error}"))
            }
        };
        let asking = JoinSet::new();
        Self {
            resolver,
            unusable,
            asking,
            known: BTreeMap::new(),
            sender,
            answers,
        }
    }

    /// These names are wanted from now on (true), or not any more.
    pub(crate) fn want(&mut self, changed: BTreeMap<Arc<str>, bool>) {
        for (name, wanted) in changed {
            if !wanted {
                let known = self.known.remove(&name);
                if let Some(asking) = known.and_then(|known| known.asking) {
                    asking.abort();
                }
            } else if !self.known.contains_key(&name) {
                self.ask(name);
            }
        }
        while self.asking.try_join_next().is_some() {}
    }

    fn ask(&mut self, name: Arc<str>) {
        let asking = self.resolver.clone().map(|resolver| {
            self.asking
                .spawn(keep_asking(resolver, name.clone(), self.sender.clone()))
        });
        let problem = asking.is_none().then(|| self.unusable.clone());
        let known = Known {
            addresses: Vec::new(),
            problem,
            asking,
        };
        self.known.insert(name, known);
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }

    /// Takes an answer in: whether the addresses changed, and whether what is wrong with the name
    /// did.
    pub(crate) fn learn(&mut self, answer: Answer) -> (bool, bool) {
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

    /// What a name stands for.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.known
            .get(name)
            .map(|known| known.addresses.clone())
            .unwrap_or_default()
    }

    /// What is wrong with a name, in a sentence.
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
    // The time to live is kept by us; a cache would only hide how much of it is left.
    options.cache_size = 0;
    builder.build()
}

/// Asks for one name again and again.
async fn keep_asking(resolver: TokioResolver, name: Arc<str>, answers: mpsc::Sender<Answer>) {
    let mut retry = RETRY_FIRST;
    loop {
        let (addresses, pause) = match ask(&resolver, &name).await {
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
            .send(Answer {
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

/// The addresses of a name and for how long they hold. An answer is whole or none: where one family
/// is not answered, the last answer of both stays.
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
