//! Steady traffic, for tests of changes that clients must not notice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::lab::{Host, Served};
use crate::wait;

/// How long an answer is waited for. A connection that is lost ends at once or never: a shorter
/// time would only fail on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks [`named`](crate::servers::named) servers who they are, each time on a new connection, until
/// this is dropped. No request waits for another; where the machine is late, requests are left out.
#[derive(Debug)]
pub struct Load {
    counted: Arc<Mutex<Counted>>,
    _client: Served,
}

#[derive(Debug, Default)]
struct Counted {
    tally: Tally,
    /// How many have begun, which is the number of the next.
    begun: u64,
    /// Those that have not ended.
    running: BTreeSet<u64>,
}

/// The outcomes of requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were answered.
    pub good: usize,
    /// What was wrong with the others.
    pub bad: Vec<String>,
}

impl Load {
    /// Asks from `host`, once every `every`.
    pub fn start(host: &Host, to: SocketAddr, every: Duration) -> Result<Self> {
        let counted = Arc::<Mutex<Counted>>::default();
        let all = counted.clone();
        let client = host.serve(move || {
            Ok(async move {
                let mut ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                loop {
                    ticks.tick().await;
                    let all = all.clone();
                    let number = {
                        let mut all = locked(&all);
                        let number = all.begun;
                        all.begun += 1;
                        all.running.insert(number);
                        number
                    };
                    tokio::spawn(async move {
                        let asked = timeout(PATIENCE, ask(to)).await;
                        let mut all = locked(&all);
                        all.running.remove(&number);
                        match asked.unwrap_or_else(|late| Err(late.into())) {
                            Ok(()) => all.tally.good += 1,
                            Err(e) => all.tally.bad.push(format!("{e:#}")),
                        }
                    });
                }
            })
        })?;
        Ok(Self {
            counted,
            _client: client,
        })
    }

    /// Waits until a hundred requests have ended since [`take`](Self::take) was last called. At least
    /// 95 of a hundred were answered, as Kubernetes' own test of a rolling update asks.
    pub fn mostly_good(&self, what: &str) -> Result<()> {
        wait::until("there were a hundred requests", || self.ended() >= 100)?;
        let Tally { good, bad } = self.take();
        let all = good + bad.len();
        ensure!(
            good * 100 >= all * 95,
            "{what}: {} of {all} were lost: {bad:?}",
            bad.len()
        );
        Ok(())
    }

    /// What became of the requests that ended since this was last called.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut locked(&self.counted).tally)
    }

    /// Waits until every request that has begun by now has ended.
    pub fn settle(&self) -> Result<()> {
        let begun = locked(&self.counted).begun;
        wait::until("what has begun has ended", || {
            let counted = locked(&self.counted);
            counted.running.range(..begun).next().is_none()
        })
    }

    /// How many have ended since then.
    pub fn ended(&self) -> usize {
        let counted = locked(&self.counted);
        counted.tally.good + counted.tally.bad.len()
    }
}

fn locked(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await.context("connecting")?;
    stream.write_all(b"who\n").await.context("asking")?;
    let mut answer = String::new();
    let mut stream = BufReader::new(stream);
    stream.read_line(&mut answer).await.context("reading")?;
    ensure!(answer.ends_with('\n'), "an answer that was cut: {answer:?}");
    Ok(())
}
