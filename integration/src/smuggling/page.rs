//! Where the proxies differ, as a page in Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::cases::{AnswerVerdict, CorpusCase, RequestVerdict, RequestWanted};
use super::corpus_proxies::CorpusProxy;
use super::escapes::shown;
use super::exchange::{AnswerOutcome, RequestOutcome, is_endpoints};
use super::run::CorpusRun;
use super::verdicts::sent;

/// So many letters of a case are shown.
const SHOWN: usize = 150;

/// The tables.
pub fn page(run: &CorpusRun) -> String {
    let mut text = String::new();
    summary(run, &mut text);
    let head = "| name | bytes | wanted | HAProxy | nginx | Fairway |\n|---|---|---|---|---|---|\n";
    let _ = write!(text, "\n## Requests\n");
    let mut kind = "";
    for (case, outcomes) in &run.requests {
        let words = words(outcomes, |it| request_words(case, it));
        if agree(&words) {
            continue;
        }
        if kind != case.kind {
            kind = case.kind;
            let _ = write!(text, "\n### {kind}\n\n{head}");
        }
        let wanted = match &case.wanted.verdict {
            RequestVerdict::Accept(_) => "accept",
            RequestVerdict::Refuse { .. } => "refuse",
            RequestVerdict::Either(_) => "either",
            RequestVerdict::Wait(_) => "wait",
        };
        row(&mut text, case, wanted, &words);
    }
    let _ = write!(text, "\n## Answers of endpoints\n");
    kind = "";
    for (case, outcomes) in &run.answers {
        let words = words(outcomes, |it| answer_words(case.wanted.method, it));
        if agree(&words) {
            continue;
        }
        if kind != case.kind {
            kind = case.kind;
            let _ = write!(text, "\n### {kind}\n\n{head}");
        }
        let wanted = match case.wanted.verdict {
            AnswerVerdict::Pass => "pass",
            AnswerVerdict::Refuse => "refuse",
            AnswerVerdict::Cut => "cut",
            AnswerVerdict::Either => "either",
        };
        row(&mut text, case, wanted, &words);
    }
    text
}

fn summary(run: &CorpusRun, text: &mut String) {
    let _ = write!(
        text,
        "{} requests and {} answers. Of requests:\n\n\
         | | arrive | refused | wait | malformed at the endpoint | more requests than may arrive |\n|---|---|---|---|---|---|\n",
        run.requests.len(),
        run.answers.len()
    );
    for proxy in CorpusProxy::ALL {
        let all = || {
            let all = run.requests.iter();
            all.filter_map(|(case, outcomes)| Some((case, outcomes.get(&proxy)?)))
        };
        let count = |is: &dyn Fn(&CorpusCase<RequestWanted>, &RequestOutcome) -> bool| {
            all().filter(|(case, it)| is(case, it)).count()
        };
        let arrive = count(&|_, it| !it.arrived.requests.is_empty());
        let malformed = count(&|_, it| it.arrived.fault.is_some());
        let refused = count(&|_, it| it.arrived.requests.is_empty() && refusal(it).is_some());
        let wait = count(&|_, it| {
            it.arrived.requests.is_empty() && it.client.bytes.is_empty() && !it.client.is_over
        });
        let more = count(&|case, it| it.arrived.requests.len() > most(&case.wanted.verdict));
        let _ = writeln!(
            text,
            "| {proxy} | {arrive} | {refused} | {wait} | {malformed} | {more} |"
        );
    }
}

/// How many requests may arrive.
fn most(verdict: &RequestVerdict) -> usize {
    match verdict {
        RequestVerdict::Accept(most) | RequestVerdict::Either(most) => *most,
        RequestVerdict::Refuse { after, .. } => after + 1,
        RequestVerdict::Wait(most) => most + 1,
    }
}

fn words<O>(
    outcomes: &BTreeMap<CorpusProxy, O>,
    words: impl Fn(&O) -> String,
) -> BTreeMap<CorpusProxy, String> {
    let all = outcomes.iter();
    all.map(|(proxy, it)| (*proxy, words(it))).collect()
}

/// Whether all did the same; a refusal is one with whatever status.
fn agree(words: &BTreeMap<CorpusProxy, String>) -> bool {
    let without_digits = |text: &String| {
        let is_status = text.len() == 3 && text.bytes().all(|it| it.is_ascii_digit());
        match is_status {
            true => "refused".to_owned(),
            false => text.clone(),
        }
    };
    let different: BTreeSet<String> = words.values().map(without_digits).collect();
    different.len() == 1
}

fn row<V>(
    text: &mut String,
    case: &CorpusCase<V>,
    wanted: &str,
    words: &BTreeMap<CorpusProxy, String>,
) {
    let of = |proxy| words.get(&proxy).map_or("", String::as_str);
    let _ = writeln!(
        text,
        "| {} | {} | {wanted} | {} | {} | {} |",
        case.name,
        code(&shown(&case.script.bytes(), SHOWN)),
        of(CorpusProxy::HaProxy),
        of(CorpusProxy::Nginx),
        of(CorpusProxy::Fairway),
    );
}

/// As code in a table.
fn code(text: &str) -> String {
    let text = text.replace('|', "\\|");
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// The status of a refusal by the proxy.
fn refusal(outcome: &RequestOutcome) -> Option<u16> {
    let (answers, _) = outcome.client.answers(&outcome.method);
    let refusals = answers.iter().filter(|it| !is_endpoints(it));
    refusals.map(|it| it.status).next()
}

fn request_words(case: &CorpusCase<RequestWanted>, outcome: &RequestOutcome) -> String {
    let mut words = Vec::new();
    let arrived = &outcome.arrived.requests;
    let sent = sent(case).unwrap_or_default();
    match arrived.as_slice() {
        [] => {}
        [request] => {
            let line = format!("{} {}", request.method, request.target);
            let same = shown(&case.script.bytes(), usize::MAX).contains(&line);
            words.push(match same {
                true => "arrives".to_owned(),
                false => format!("arrives as {}", code(&line)),
            });
            if sent.first().is_some_and(|it| it.body != request.body) {
                words.push("with another body".to_owned());
            }
        }
        several => words.push(format!("{} arrive", several.len())),
    }
    if let Some(fault) = outcome.arrived.fault {
        words.push(format!("goes on malformed ({fault})"));
    }
    match refusal(outcome) {
        Some(status) => words.push(status.to_string()),
        None if arrived.is_empty() && outcome.arrived.fault.is_none() => {
            words.push(match outcome.client.is_over {
                true => "closes".to_owned(),
                false => "waits".to_owned(),
            });
        }
        None => {}
    }
    if outcome.probe.is_some() {
        words.push("**the next client is not answered as it should be**".to_owned());
    }
    words.join(", ")
}

fn answer_words(method: &str, outcome: &AnswerOutcome) -> String {
    let (answers, fault) = outcome.client.answers(method);
    let mut words: Vec<String> = Vec::new();
    match answers.as_slice() {
        [] => words.push(
            match (outcome.client.is_over, outcome.client.bytes.is_empty()) {
                (true, true) => "closes".to_owned(),
                (true, false) => "cut".to_owned(),
                (false, _) => "waits".to_owned(),
            },
        ),
        [one] => words.push(format!("{}, {} bytes", one.status, one.body.len())),
        several => words.push(format!("**{} answers**", several.len())),
    }
    if let Some(fault) = fault.filter(|it| *it != "an answer that is not whole") {
        words.push(format!("malformed ({fault})"));
    }
    let next = outcome.next.as_ref().map(|it| it.answers("GET").0);
    if next.is_some_and(|it| {
        it.iter()
            .any(|it| it.status == 200 && it.body != b"GET /next")
    }) {
        words.push("**the next request gets another answer**".to_owned());
    }
    if outcome.probe.is_some() {
        words.push("**the next client is not answered as it should be**".to_owned());
    }
    words.join(", ")
}
