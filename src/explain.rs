//! `fairway explain`: sentences about one Service.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use fairway_config::names::ServiceName;
use fairway_config::view::{Explanation, List, ServiceRow};

use crate::args::ExplainArgs;
use crate::outcome::WrongConfiguration;

/// Prints what the process at the admin address knows of the Service.
pub(crate) fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let name = name(&args)?;
    let path = format!(
        "/api/v1/explain/{}/{}",
        crate::client::encode(&name.namespace),
        crate::client::encode(&name.name)
    );
    let body = crate::client::get(args.asked.admin, &path)?;
    let explanation: Explanation = serde_json::from_slice(&body)
        .with_context(|| format!("{} did not answer as Fairway does", args.asked.admin))?;
    let code = crate::outcome::print(&render(&explanation))?;
    // The last change is not in force: a script that waits for it must not go on.
    Ok(match explanation.held_back {
        true => ExitCode::FAILURE,
        false => code,
    })
}

/// Which Service is meant.
fn name(args: &ExplainArgs) -> anyhow::Result<ServiceName> {
    let wrong = |why: String| Err(anyhow::Error::from(WrongConfiguration(why)));
    let is_kind = |word: &str| matches!(word, "service" | "services" | "svc");
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    let word = match words[..] {
        [kind, name] if is_kind(kind) => name,
        [kind, _] => return wrong(format!("'{kind}' can't be explained, a service can")),
        [word] if is_kind(word) => {
            return wrong("name the Service: NAME or NAMESPACE/NAME".to_owned());
        }
        [word] => match word.split_once('/') {
            // As in service/NAME. A namespace may have that name, too: then with --namespace.
            Some((kind, name)) if is_kind(kind) && !name.is_empty() => name,
            _ => word,
        },
        _ => return wrong("name one Service".to_owned()),
    };
    let (front, name) = match word.split_once('/') {
        Some((front, name)) => (Some(front), name),
        None => (None, word),
    };
    match (front, &args.namespace) {
        (Some(front), Some(namespace)) if front != namespace => wrong(format!(
            "'{word}' names the namespace {front}, and --namespace {namespace}"
        )),
        (Some(front), _) => Ok(ServiceName::new(front, name)),
        (None, Some(namespace)) => Ok(ServiceName::new(&**namespace, name)),
        (None, None) => search(args, name),
    }
}

/// The one Service of that name, in whatever namespace.
fn search(args: &ExplainArgs, name: &str) -> anyhow::Result<ServiceName> {
    let body = crate::client::get(args.asked.admin, "/api/v1/services")?;
    let list: List<ServiceRow> = serde_json::from_slice(&body)
        .with_context(|| format!("{} did not answer as Fairway does", args.asked.admin))?;
    let rows = list.items.iter().filter(|row| row.name == name);
    let namespaces: Vec<&str> = rows.map(|row| &*row.namespace).collect();
    match namespaces[..] {
        [namespace] => Ok(ServiceName::new(namespace, name)),
        // It may be a Service that can't be read, which has no row.
        [] => Ok(ServiceName::new("default", name)),
        _ => bail!(
            "there is a Service {name} in several namespaces ({}): name one with --namespace",
            namespaces.join(", ")
        ),
    }
}

/// As text: a heading for each section, a line for each sentence.
pub(crate) fn render(explanation: &Explanation) -> String {
    let mut text = format!("Service {}\n", explanation.service);
    if explanation.held_back {
        text +=
            "Held back: what was asked for or decided last is not in force. The reason is below.\n";
    }
    for section in &explanation.sections {
        let _ = write!(text, "\n{}\n", section.title);
        for sentence in &section.sentences {
            let _ = writeln!(text, "  {}", crate::table::printable(sentence));
        }
    }
    text
}
