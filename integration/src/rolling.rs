//! Backends of a Service that are replaced one after the other while requests go on.
//!
//! [`roll`] is the whole of it; `backends`: what is replaced; `balancer`: who balances, and how it is told of that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::lab::{Host, Served};
use crate::servers::GracefulServer;
use crate::site::Site;
use crate::wait;

mod backends;
mod balancer;

pub use backends::{BACKENDS, BackendEnd};
pub use balancer::RollingWay;

use backends::Backends;
use balancer::RollingBalancer;

/// The time between two requests: 500 in a second.
const EVERY: Duration = Duration::from_millis(2);

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request, on a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestWay {
    /// A line over plain TCP.
    Line,
    /// A GET.
    Get,
    /// A POST with a short body.
    Post,
}

/// The outcomes of requests of one way.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts {
    /// How many were answered.
    pub good: usize,
    /// How many could not connect.
    pub unconnected: usize,
    /// How many had no answer, or a bad one, on a connection.
    pub unanswered: usize,
    /// What was wrong with some of them.
    pub faults: Vec<String>,
}

impl fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            good,
            unconnected,
            unanswered,
            faults,
        } = self;
        write!(
            f,
            "{good} answered, {unconnected} not connected, {unanswered} not answered"
        )?;
        match faults.first() {
            Some(fault) => write!(f, " ({fault})"),
            None => Ok(()),
        }
    }
}

/// Requests in turn of each way, 500 in a second, until this is dropped. None waits for another.
#[derive(Debug)]
pub struct RequestLoad {
    counts: Arc<Mutex<LoadState>>,
    _client: Served,
}

#[derive(Debug, Default)]
struct LoadState {
    counts: BTreeMap<RequestWay, RequestCounts>,
    begun: usize,
    ended: usize,
    is_over: bool,
}

impl RequestLoad {
    /// Asks from `host`.
    pub fn start(host: &Host, to: SocketAddr, ways: &[RequestWay]) -> Result<Self> {
        let counts = Arc::<Mutex<LoadState>>::default();
        let (all, ways) = (counts.clone(), ways.to_owned());
        let client = host.serve(move || {
            Ok(async move {
                let mut ticks = interval(EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                for way in ways.iter().cycle() {
                    ticks.tick().await;
                    if locked(&all).is_over {
                        std::future::pending::<()>().await;
                    }
                    locked(&all).begun += 1;
                    tokio::spawn(count(all.clone(), to, *way));
                }
            })
        })?;
        Ok(Self {
            counts,
            _client: client,
        })
    }

    /// Waits until so many more have ended.
    pub fn go_on(&self, more: usize) -> Result<()> {
        let until = locked(&self.counts).ended + more;
        wait::until("requests go on", || locked(&self.counts).ended >= until)
    }

    /// Begins no more, and waits for those under way.
    pub fn finish(self) -> Result<BTreeMap<RequestWay, RequestCounts>> {
        locked(&self.counts).is_over = true;
        wait::until("all requests have ended", || {
            let state = locked(&self.counts);
            state.ended == state.begun
        })?;
        Ok(std::mem::take(&mut locked(&self.counts).counts))
    }
}

fn locked(state: &Mutex<LoadState>) -> MutexGuard<'_, LoadState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn count(all: Arc<Mutex<LoadState>>, to: SocketAddr, way: RequestWay) {
    let connected = timeout(PATIENCE, TcpStream::connect(to)).await;
    let (is_connected, outcome) = match connected.map_err(anyhow::Error::from) {
        Ok(Ok(stream)) => {
            let asked = timeout(PATIENCE, ask(stream, way)).await;
            (true, asked.unwrap_or_else(|late| Err(late.into())))
        }
        Ok(Err(error)) => (false, Err(error.into())),
        Err(late) => (false, Err(late)),
    };
    let mut state = locked(&all);
    state.ended += 1;
    let counts = state.counts.entry(way).or_default();
    match (outcome, is_connected) {
        (Ok(()), _) => counts.good += 1,
        (Err(error), is_connected) => {
            if counts.faults.len() < 5 {
                counts.faults.push(format!("{error:#}"));
            }
            match is_connected {
                true => counts.unanswered += 1,
                false => counts.unconnected += 1,
            }
        }
    }
}

async fn ask(mut stream: TcpStream, way: RequestWay) -> Result<()> {
    let request = match way {
        RequestWay::Line => "who\n",
        RequestWay::Get => "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
        RequestWay::Post => {
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        }
    };
    stream
        .write_all(request.as_bytes())
        .await
        .context("asking")?;
    let mut answer = String::new();
    if way == RequestWay::Line {
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut answer).await.context("reading")?;
        if !answer.ends_with('\n') {
            bail!("an answer that was cut: {answer:?}");
        }
        return Ok(());
    }
    stream
        .read_to_string(&mut answer)
        .await
        .context("reading")?;
    if !answer.starts_with("HTTP/1.1 200 ") || !answer.contains("server-") {
        let first = answer.lines().next().unwrap_or("nothing");
        bail!("an answer that is not right: {first:?}");
    }
    Ok(())
}

/// The rest of traffic before and after.
pub const CALM: usize = 300;

/// Replaces all backends so often, and says what became of the requests meanwhile.
pub fn roll(
    way: RollingWay,
    is_http: bool,
    end: BackendEnd,
    rounds: usize,
) -> Result<BTreeMap<RequestWay, RequestCounts>> {
    let site = Site::new()?;
    let start = match is_http {
        true => GracefulServer::http,
        false => GracefulServer::lines,
    };
    let mut backends = Backends::start(&site.farm, start)?;
    let balancer = RollingBalancer::start(way, &site, is_http, &backends.listed())?;
    let ways = match is_http {
        true => &[RequestWay::Get, RequestWay::Post][..],
        false => &[RequestWay::Line],
    };
    let load = RequestLoad::start(&site.client, way.address(), ways)?;
    load.go_on(CALM)?;
    for _ in 0..rounds {
        backends.replace(end, |listed| {
            balancer.list(listed)?;
            match end {
                BackendEnd::After(_) => Ok(()),
                BackendEnd::AtOnce => load.go_on(CALM),
            }
        })?;
    }
    load.go_on(CALM)?;
    let counts = load.finish()?;
    balancer.stop()?;
    Ok(counts)
}
