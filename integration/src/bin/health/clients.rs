//! Clients that come one after the other, and what became of each.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fairway_integration::lab::{Host, Served};
use fairway_integration::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::MissedTickBehavior;

use crate::endpoints::{FAILING, PortKind, name};

/// Clients begin so often.
pub(crate) const EVERY: Duration = Duration::from_millis(20);
/// How long a client waits for its answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A client that waits so long says that it is slow.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

/// One client.
#[derive(Clone, Debug)]
pub(crate) struct ServedClient {
    /// After the first one began.
    pub(crate) began: Duration,
    pub(crate) took: Duration,
    /// Who answered; nothing: nobody did.
    pub(crate) by: Option<String>,
}

impl ServedClient {
    pub(crate) fn is_well(&self) -> bool {
        self.by.is_some() && self.took < SLOW
    }

    pub(crate) fn is_by_failing(&self) -> bool {
        self.by.as_deref() == Some(&*name(FAILING))
    }
}

#[derive(Default)]
struct ClientRecords {
    ended: Vec<ServedClient>,
    running: usize,
    is_over: bool,
}

/// Clients, until this is dropped.
pub(crate) struct Clients {
    records: Arc<Mutex<ClientRecords>>,
    pub(crate) start: Instant,
    _served: Served,
}

impl Clients {
    pub(crate) fn start(host: &Host, to: SocketAddr, kind: PortKind) -> Result<Self> {
        let records = Arc::<Mutex<ClientRecords>>::default();
        let (all, start) = (records.clone(), Instant::now());
        let served = host.serve(move || {
            Ok(async move {
                let mut ticks = tokio::time::interval(EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                loop {
                    ticks.tick().await;
                    if locked(&all).is_over {
                        std::future::pending::<()>().await;
                    }
                    locked(&all).running += 1;
                    let all = all.clone();
                    tokio::spawn(async move {
                        let began = start.elapsed();
                        let asked = tokio::time::timeout(PATIENCE, ask(to, kind)).await;
                        let record = ServedClient {
                            began,
                            took: start.elapsed().saturating_sub(began),
                            by: asked.ok().and_then(Result::ok),
                        };
                        let mut all = locked(&all);
                        all.ended.push(record);
                        all.running -= 1;
                    });
                }
            })
        })?;
        Ok(Self {
            records,
            start,
            _served: served,
        })
    }

    /// Those that have ended, in the order in which they began.
    pub(crate) fn records(&self) -> Vec<ServedClient> {
        let mut records = locked(&self.records).ended.clone();
        records.sort_by_key(|it| it.began);
        records
    }

    /// Begins no more; all of them.
    pub(crate) fn end(self) -> Result<Vec<ServedClient>> {
        locked(&self.records).is_over = true;
        wait::until("all clients have ended", || {
            locked(&self.records).running == 0
        })?;
        Ok(self.records())
    }
}

fn locked(records: &Mutex<ClientRecords>) -> MutexGuard<'_, ClientRecords> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(to: SocketAddr, kind: PortKind) -> Result<String> {
    match kind {
        PortKind::Tcp | PortKind::Http => ask_http(to).await,
        PortKind::Dns => ask_dns(to).await,
    }
}

/// A connection with a request.
async fn ask_http(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let request = "GET /name HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    ensure!(!body.is_empty(), "{answer}");
    Ok(body.to_owned())
}

/// A flow with a question for `a.test`; each server says another address.
async fn ask_dns(to: SocketAddr) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(to).await?;
    let question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01";
    socket.send(question).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    let [.., number] = answer.get(..length).context("too long")? else {
        anyhow::bail!("an empty answer");
    };
    // The record of the address is the last one, and its last byte the server's number.
    ensure!(length > question.len() + 4, "no address");
    Ok(name(*number))
}
