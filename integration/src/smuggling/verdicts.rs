//! What may be seen of a case.

use super::cases::{AnswerVerdict, AnswerWanted, CorpusCase, RequestVerdict, RequestWanted};
use super::escapes::shown;
use super::exchange::{AnswerOutcome, RequestOutcome, is_endpoints};
use super::strict::{Come, StrictAnswer, StrictRequest};

/// What is wrong with what was seen of a request; nothing where all is as it has to be.
pub fn request_problems(case: &CorpusCase<RequestWanted>, outcome: &RequestOutcome) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(fault) = outcome.arrived.fault {
        problems.push(format!("what is malformed arrived ({fault})"));
    }
    problems.extend(outcome.probe.clone());
    let arrived = outcome.arrived.requests.len();
    let (answers, fault) = outcome.client.answers(&outcome.method);
    if let Some(fault) = fault {
        problems.push(format!("the client saw {fault}"));
    }
    let of_endpoint = answers.iter().take_while(|it| is_endpoints(it)).count();
    let refusals: Vec<u16> = answers
        .iter()
        .skip(of_endpoint)
        .map(|it| it.status)
        .collect();
    let wanted = match &case.wanted.verdict {
        RequestVerdict::Accept(wanted) => {
            if of_endpoint != *wanted || !refusals.is_empty() {
                problems.push(format!("{wanted} answers were wanted"));
            }
            problems.extend(changed(case, outcome));
            *wanted..=*wanted
        }
        RequestVerdict::Refuse { after, statuses } => {
            let [refusal] = refusals.as_slice() else {
                problems.push("one refusal was wanted".to_owned());
                return seen(problems, arrived, outcome);
            };
            if !statuses.contains(refusal) {
                problems.push(format!("{statuses:?} was wanted"));
            }
            if !outcome.client.is_over {
                problems.push("the connection goes on".to_owned());
            }
            *after..=*after
        }
        RequestVerdict::Either(most) => {
            let refused = refusals.len() == 1 || outcome.client.is_over;
            if arrived < *most && !refused {
                problems.push("neither accepted nor refused".to_owned());
            }
            if arrived == *most {
                problems.extend(changed(case, outcome));
            }
            0..=*most
        }
        RequestVerdict::Wait(wanted) => *wanted..=*wanted,
    };
    if !wanted.contains(&arrived) {
        problems.push(format!(
            "of at most {} requests came {arrived}",
            wanted.end()
        ));
    }
    problems.extend(fields(&case.wanted, outcome));
    seen(problems, arrived, outcome)
}

/// Adds what was seen to problems, so that they can be understood.
fn seen(mut problems: Vec<String>, arrived: usize, outcome: &RequestOutcome) -> Vec<String> {
    if !problems.is_empty() {
        problems.push(format!(
            "{arrived} arrived, the client saw \"{}\"{}, the endpoint \"{}\"",
            shown(&outcome.client.bytes, 160),
            match outcome.client.is_over {
                true => " and the end",
                false => "",
            },
            shown(&outcome.arrived.bytes, 400)
        ));
    }
    problems
}

/// The requests that were sent, where they are well-formed.
pub fn sent(case: &CorpusCase<RequestWanted>) -> Option<Vec<StrictRequest>> {
    let bytes = case.script.bytes();
    let mut bytes = bytes.as_slice();
    // RFC 9112, section 2.2.
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    StrictRequest::read_all(bytes).ok()
}

/// What arrived otherwise than it was sent.
fn changed(case: &CorpusCase<RequestWanted>, outcome: &RequestOutcome) -> Vec<String> {
    let sent = sent(case).unwrap_or_default();
    let pairs = sent.iter().zip(&outcome.arrived.requests);
    let mut problems = Vec::new();
    for (sent, arrived) in pairs {
        let target = origin_form(&sent.target);
        if (sent.method.as_str(), target.as_str()) != (&*arrived.method, &*arrived.target) {
            problems.push(format!(
                "{} {} arrived as {} {}",
                sent.method, sent.target, arrived.method, arrived.target
            ));
        }
        if sent.body != arrived.body {
            problems.push(format!(
                "another body arrived: \"{}\"",
                shown(&arrived.body, 100)
            ));
        }
    }
    problems
}

/// A target as it reaches an endpoint (RFC 9112, section 3.2.1).
fn origin_form(target: &str) -> String {
    let Some((scheme, rest)) = target.split_once("://") else {
        return target.to_owned();
    };
    if !scheme.bytes().all(|it| it.is_ascii_alphabetic()) {
        return target.to_owned();
    }
    match rest.find(['/', '?']) {
        None => "/".to_owned(),
        Some(at) => {
            let path = rest.get(at..).unwrap_or_default();
            match path.starts_with('?') {
                true => format!("/{path}"),
                false => path.to_owned(),
            }
        }
    }
}

fn fields(wanted: &RequestWanted, outcome: &RequestOutcome) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(request) = outcome.arrived.requests.first() else {
        return problems;
    };
    for name in &wanted.lacks {
        if let Some(value) = request.values(name).next() {
            problems.push(format!("{name}: {} arrived", shown(value, 80)));
        }
    }
    for (name, value) in &wanted.has {
        if !request.values(name).any(|it| it == value.as_bytes()) {
            problems.push(format!("{name}: {value} did not arrive"));
        }
    }
    problems
}

/// What is wrong with what was seen of an answer.
pub fn answer_problems(case: &CorpusCase<AnswerWanted>, outcome: &AnswerOutcome) -> Vec<String> {
    let wanted = &case.wanted;
    let (answers, fault) = outcome.client.answers(wanted.method);
    let mut problems: Vec<String> = outcome.probe.iter().cloned().collect();
    if answers.len() > 1 {
        problems.push(format!("the client saw {} answers", answers.len()));
    }
    let first = answers.first();
    let is_502 = first.is_some_and(|it| it.status == 502) && fault.is_none();
    let is_cut = first.is_none() && outcome.client.is_over;
    match wanted.verdict {
        AnswerVerdict::Pass => {
            let said = StrictAnswer::read(&case.script.bytes(), wanted.method, case.script.closes);
            match (said, first) {
                (Ok(Come::Whole(said, _)), Some(seen)) => {
                    if (seen.status, &seen.body) != (said.status, &said.body) {
                        problems.push("the answer is another one".to_owned());
                    }
                }
                (Ok(Come::Whole(..)), None) => problems.push("no whole answer came".to_owned()),
                (other, _) => problems.push(format!("the corpus is wrong: {other:?}")),
            }
        }
        AnswerVerdict::Refuse if !is_502 => problems.push("502 was wanted".to_owned()),
        AnswerVerdict::Cut if !is_502 && !is_cut => {
            problems.push("an answer that is cut was wanted".to_owned());
        }
        AnswerVerdict::Either if first.is_none() && !outcome.client.is_over => {
            problems.push("the client waits".to_owned());
        }
        _ => {}
    }
    let malformed = fault.filter(|it| *it != "an answer that is not whole");
    problems.extend(malformed.map(|it| format!("the client saw what is malformed ({it})")));
    if let Some(answer) = first {
        let forbidden = wanted.lacks.iter().copied();
        let chunked = (wanted.minor == 0).then_some("transfer-encoding");
        for name in forbidden.chain(chunked) {
            if let Some(value) = answer.value(name) {
                problems.push(format!("the client saw {name}: {}", shown(value, 80)));
            }
        }
    }
    if let Some(next) = &outcome.next {
        let (answers, fault) = next.answers("GET");
        let good = matches!(answers.as_slice(), [it] if it.body == b"GET /next");
        let ended = next.bytes.is_empty() && next.is_over;
        if !ended && (!good || fault.is_some()) {
            let bytes = shown(&next.bytes, 120);
            problems.push(format!("the next request was answered \"{bytes}\""));
        }
    }
    if !problems.is_empty() {
        problems.push(format!(
            "the client saw \"{}\"{}",
            shown(&outcome.client.bytes, 300),
            match outcome.client.is_over {
                true => " and the end",
                false => "",
            }
        ));
    }
    problems
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::smuggling::cases;

    #[test]
    fn what_has_to_be_accepted_is_well_formed() {
        let cases = cases::requests().unwrap();
        assert!(cases.len() >= 300, "only {} requests", cases.len());
        for case in &cases {
            let RequestVerdict::Accept(wanted) = case.wanted.verdict else {
                continue;
            };
            let sent = sent(case).unwrap_or_else(|| panic!("{} is malformed", case.name));
            assert_eq!(sent.len(), wanted, "{}", case.name);
        }
        let answers = cases::answers().unwrap();
        assert!(answers.len() >= 60, "only {} answers", answers.len());
        for case in answers
            .iter()
            .filter(|it| it.wanted.verdict == AnswerVerdict::Pass)
        {
            let bytes = case.script.bytes();
            let said = StrictAnswer::read(&bytes, case.wanted.method, case.script.closes);
            assert!(
                matches!(said, Ok(Come::Whole(..))),
                "{}: {said:?}",
                case.name
            );
        }
    }

    #[test]
    fn targets_become_origin_forms() {
        for (target, wanted) in [
            ("/a", "/a"),
            ("*", "*"),
            ("http://h/a?b", "/a?b"),
            ("http://h", "/"),
            ("http://h?b", "/?b"),
            ("/a://b", "/a://b"),
        ] {
            assert_eq!(origin_form(target), wanted);
        }
    }
}
