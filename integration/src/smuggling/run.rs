//! All cases through all proxies. Lanes of a proxy work at the same time, and so do proxies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use anyhow::{Context, Result};

use super::cases::{self, AnswerWanted, CorpusCase, RequestWanted};
use super::corpus_proxies::{CorpusProxies, CorpusProxy, LANES};
use super::exchange::{AnswerOutcome, CorpusLane, Quiet, RequestOutcome, ask_answer, send_request};
use super::recorder::{ByteRecorder, record};
use super::verdicts::{answer_problems, request_problems};
use crate::lab::Served;
use crate::site::Site;

/// Hosts, endpoints and proxies.
pub struct CorpusBed {
    lanes: BTreeMap<CorpusProxy, Vec<CorpusLane>>,
    proxies: CorpusProxies,
    _endpoints: Served,
    site: Site,
}

/// A case, and what was seen of it through each proxy.
pub type CaseSeen<V, O> = (CorpusCase<V>, BTreeMap<CorpusProxy, O>);

/// What was seen of the whole corpus.
pub struct CorpusRun {
    /// Of requests.
    pub requests: Vec<CaseSeen<RequestWanted, RequestOutcome>>,
    /// Of answers.
    pub answers: Vec<CaseSeen<AnswerWanted, AnswerOutcome>>,
}

impl CorpusBed {
    /// Starts all of it.
    pub fn start() -> Result<Self> {
        let site = Site::new()?;
        let mut lanes = BTreeMap::new();
        let mut recorders = Vec::new();
        for proxy in CorpusProxy::ALL {
            let own: Vec<CorpusLane> = (0..LANES)
                .map(|lane| {
                    let recorder = ByteRecorder::default();
                    recorders.push((proxy.endpoint(lane), recorder.clone()));
                    CorpusLane {
                        to: proxy.address(lane),
                        recorder,
                    }
                })
                .collect();
            lanes.insert(proxy, own);
        }
        Ok(Self {
            lanes,
            _endpoints: record(&site.farm, recorders)?,
            proxies: CorpusProxies::start(&site)?,
            site,
        })
    }

    /// Sends all of it.
    pub fn run(&self) -> Result<CorpusRun> {
        let again = |problems: Vec<String>| !problems.is_empty();
        Ok(CorpusRun {
            requests: self.all(cases::requests()?, |proxy, lane, case| {
                let outcome = send_request(lane, case, Quiet::SHORT)?;
                match proxy == CorpusProxy::Fairway && again(request_problems(case, &outcome)) {
                    true => send_request(lane, case, Quiet::LONG),
                    false => Ok(outcome),
                }
            })?,
            answers: self.all(cases::answers()?, |proxy, lane, case| {
                let outcome = ask_answer(lane, case, Quiet::SHORT)?;
                match proxy == CorpusProxy::Fairway && again(answer_problems(case, &outcome)) {
                    true => ask_answer(lane, case, Quiet::LONG),
                    false => Ok(outcome),
                }
            })?,
        })
    }

    /// Ends all of it; Fairway has to end well.
    pub fn stop(self) -> Result<()> {
        self.proxies.stop()
    }

    fn all<V: Sync, O: Send>(
        &self,
        cases: Vec<CorpusCase<V>>,
        work: impl Fn(CorpusProxy, &CorpusLane, &CorpusCase<V>) -> io::Result<O> + Sync,
    ) -> Result<Vec<CaseSeen<V, O>>> {
        let outcomes: Vec<_> = cases.iter().map(|_| Mutex::new(BTreeMap::new())).collect();
        let next: BTreeMap<CorpusProxy, AtomicUsize> = CorpusProxy::ALL
            .map(|proxy| (proxy, AtomicUsize::new(0)))
            .into();
        let one = |proxy: CorpusProxy, lane: &CorpusLane| -> Result<()> {
            let next = next.get(&proxy).context("a proxy")?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(case), Some(to)) = (cases.get(index), outcomes.get(index)) else {
                    return Ok(());
                };
                let outcome = work(proxy, lane, case)
                    .with_context(|| format!("{} through {proxy}", case.name))?;
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.insert(proxy, outcome);
            }
        };
        self.site.client.run(|| {
            thread::scope(|scope| {
                let lanes = self.lanes.iter();
                let lanes = lanes.flat_map(|(proxy, own)| own.iter().map(|lane| (*proxy, lane)));
                let threads: Vec<_> = lanes
                    .map(|(proxy, lane)| scope.spawn(move || one(proxy, lane)))
                    .collect();
                threads.into_iter().try_for_each(|it| match it.join() {
                    Ok(outcome) => outcome,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
            })
        })?;
        let outcomes = outcomes
            .into_iter()
            .map(|it| it.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(cases.into_iter().zip(outcomes).collect())
    }
}
