//! The two files of cases. A line is `NAME VERDICT BYTES`; `[KIND]` begins a kind; lines that begin with `#` tell of
//! the case below them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::escapes::ByteScript;

/// The requests.
const REQUESTS: &str = include_str!("../../corpus/http1.txt");
/// The answers of endpoints.
const ANSWERS: &str = include_str!("../../corpus/http1_answers.txt");

/// One case.
#[derive(Clone, Debug)]
pub struct CorpusCase<V> {
    /// Its name.
    pub name: &'static str,
    /// What kind it is of.
    pub kind: &'static str,
    /// What Fairway has to do.
    pub wanted: V,
    /// The bytes as they are written.
    pub written: &'static str,
    /// The bytes.
    pub script: ByteScript,
}

/// What has to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestWanted {
    /// Whether it arrives.
    pub verdict: RequestVerdict,
    /// Fields that have to arrive with the first request, with their values.
    pub has: Vec<(&'static str, &'static str)>,
    /// Fields that must not arrive.
    pub lacks: Vec<&'static str>,
}

/// Whether a request arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestVerdict {
    /// `accept` or `accept=N`: so many requests arrive, and each is answered.
    Accept(usize),
    /// `refuse`, `refuse=501|400`, `refuse,after=1`: so many requests arrive, then one is refused and the connection ends.
    Refuse {
        /// The requests before it.
        after: usize,
        /// The status that it may have.
        statuses: Vec<u16>,
    },
    /// `either` or `either=N`: at most so many requests arrive, and what does not is refused.
    Either(usize),
    /// `wait` or `wait=N`: so many requests arrive, and of the rest nothing that is whole.
    Wait(usize),
}

/// What has to become of an endpoint's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerWanted {
    /// What the client has to see.
    pub verdict: AnswerVerdict,
    /// The method that is asked with.
    pub method: &'static str,
    /// The version that is asked with: 0 for HTTP/1.0.
    pub minor: u8,
    /// Fields that the client must not see.
    pub lacks: Vec<&'static str>,
}

/// What a client has to see of an endpoint's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerVerdict {
    /// The answer: its status, its body, its end.
    Pass,
    /// 502.
    Refuse,
    /// The beginning of the answer and the end of the connection, so that it is no whole answer; or 502.
    Cut,
    /// Any of these, but no second answer.
    Either,
}

/// The requests of the corpus.
pub fn requests() -> Result<Vec<CorpusCase<RequestWanted>>> {
    read(REQUESTS, request_wanted).context("http1.txt")
}

/// The answers of the corpus.
pub fn answers() -> Result<Vec<CorpusCase<AnswerWanted>>> {
    read(ANSWERS, answer_wanted).context("http1_answers.txt")
}

fn read<V>(
    text: &'static str,
    wanted: impl Fn(&'static str) -> Result<V>,
) -> Result<Vec<CorpusCase<V>>> {
    let mut names = BTreeSet::new();
    let mut cases = Vec::new();
    let mut kind = None;
    for (number, line) in text.lines().enumerate() {
        let place = || format!("line {}: {line}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            kind = Some(name);
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let name = words.next().with_context(place)?;
        let verdict = words.next().with_context(place)?;
        let written = words.next().with_context(place)?;
        ensure!(names.insert(name), "{}: the name stands twice", place());
        cases.push(CorpusCase {
            name,
            kind: kind.with_context(place)?,
            wanted: wanted(verdict).with_context(place)?,
            written,
            script: ByteScript::read(written).with_context(place)?,
        });
    }
    Ok(cases)
}

/// `WORD=VALUE`, `WORD:VALUE` or a word alone.
fn parts(verdict: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let words = verdict.split(',');
    words.map(|word| word.split_once(['=', ':']).unwrap_or((word, "")))
}

fn request_wanted(text: &'static str) -> Result<RequestWanted> {
    let mut parts = parts(text);
    let (word, value) = parts.next().context("no verdict")?;
    let count = || match value {
        "" => Ok(1),
        number => number.parse().context("no number"),
    };
    let mut wanted = RequestWanted {
        verdict: match word {
            "accept" => RequestVerdict::Accept(count()?),
            "either" => RequestVerdict::Either(count()?),
            "wait" if value.is_empty() => RequestVerdict::Wait(0),
            "wait" => RequestVerdict::Wait(count()?),
            "refuse" if value.is_empty() => RequestVerdict::Refuse {
                after: 0,
                statuses: vec![400],
            },
            "refuse" => RequestVerdict::Refuse {
                after: 0,
                statuses: value
                    .split('|')
                    .map(|it| it.parse().context("no status"))
                    .collect::<Result<_>>()?,
            },
            _ => bail!("{word} is no verdict"),
        },
        has: Vec::new(),
        lacks: Vec::new(),
    };
    for (word, value) in parts {
        match (word, &mut wanted.verdict) {
            ("after", RequestVerdict::Refuse { after, .. }) => *after = value.parse()?,
            ("has", _) => wanted
                .has
                .push(value.split_once('=').context("has:NAME=VALUE")?),
            ("lacks", _) => wanted.lacks.push(value),
            _ => bail!("{word} says nothing"),
        }
    }
    Ok(wanted)
}

fn answer_wanted(text: &'static str) -> Result<AnswerWanted> {
    let mut parts = parts(text);
    let (word, _) = parts.next().context("no verdict")?;
    let mut wanted = AnswerWanted {
        verdict: match word {
            "pass" => AnswerVerdict::Pass,
            "refuse" => AnswerVerdict::Refuse,
            "cut" => AnswerVerdict::Cut,
            "either" => AnswerVerdict::Either,
            _ => bail!("{word} is no verdict"),
        },
        method: "GET",
        minor: 1,
        lacks: Vec::new(),
    };
    for (word, value) in parts {
        match word {
            "method" => wanted.method = value,
            "minor" => wanted.minor = value.parse()?,
            "lacks" => wanted.lacks.push(value),
            _ => bail!("{word} says nothing"),
        }
    }
    Ok(wanted)
}
