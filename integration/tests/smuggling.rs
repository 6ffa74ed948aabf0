//! A corpus of malformed and border-case HTTP/1 messages, through Fairway and beside it through HAProxy and nginx.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use fairway_integration::smuggling::cases::RequestVerdict;
use fairway_integration::smuggling::corpus_proxies::CorpusProxy;
use fairway_integration::smuggling::run::{CorpusBed, CorpusRun};
use fairway_integration::smuggling::verdicts::{answer_problems, request_problems};
use fairway_integration::tests;

tests![
    may run beside others;
    no_message_is_taken_for_two_or_for_another_one,
];

/// What arrives through Fairway and not through HAProxy and nginx, and why it may.
const LAXER: &[(&str, &str)] = &[(
    "target-of-30000-letters",
    "its head is as large as Fairway lets heads be, and has one meaning",
)];

/// Faults that are known. One that is mended has to leave the list.
const KNOWN_FAULTS: &[(&str, &str)] = &[];

fn no_message_is_taken_for_two_or_for_another_one() -> Result<()> {
    let bed = CorpusBed::start()?;
    let run = bed.run()?;
    let mut found = problems(&run);
    for name in laxer(&run) {
        if !LAXER.iter().any(|(it, _)| *it == name) {
            let problem = "HAProxy and nginx refuse it".to_owned();
            found.entry(name).or_default().push(problem);
        }
    }
    let mut text = String::new();
    for (name, problems) in &found {
        if !KNOWN_FAULTS.iter().any(|(it, _)| it == name) {
            let _ = writeln!(text, "{name}: {}", problems.join("; "));
        }
    }
    for (name, _) in KNOWN_FAULTS {
        if !found.contains_key(name) {
            let _ = writeln!(text, "{name} is no fault any more");
        }
    }
    ensure!(text.is_empty(), "{} lines:\n{text}", text.lines().count());
    bed.stop()
}

fn problems(run: &CorpusRun) -> BTreeMap<&'static str, Vec<String>> {
    let mut found = BTreeMap::new();
    for (case, outcomes) in &run.requests {
        let outcome = outcomes.get(&CorpusProxy::Fairway);
        let problems = outcome.map(|it| request_problems(case, it));
        found.insert(case.name, problems.unwrap_or_default());
    }
    for (case, outcomes) in &run.answers {
        let outcome = outcomes.get(&CorpusProxy::Fairway);
        let problems = outcome.map(|it| answer_problems(case, it));
        found.insert(case.name, problems.unwrap_or_default());
    }
    found.retain(|_, problems| !problems.is_empty());
    found
}

/// Requests that neither peer lets arrive, and Fairway does, where the RFC leaves it open.
fn laxer(run: &CorpusRun) -> Vec<&'static str> {
    let open = run
        .requests
        .iter()
        .filter(|(case, _)| matches!(case.wanted.verdict, RequestVerdict::Either(_)));
    open.filter(|(_, outcomes)| {
        let arrives = |proxy| {
            let outcome = outcomes.get(&proxy);
            outcome.is_some_and(|it| !it.arrived.requests.is_empty())
        };
        arrives(CorpusProxy::Fairway)
            && !arrives(CorpusProxy::HaProxy)
            && !arrives(CorpusProxy::Nginx)
    })
    .map(|(case, _)| case.name)
    .collect()
}
