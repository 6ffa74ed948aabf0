//! `fairway explain`: sentences about one Service.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use fairway_config::view::Explanation;

use crate::args::{ExplainArgs, Explainable};

/// Prints what the process at the admin address knows of the Service.
pub(crate) fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let Explainable::Service = args.kind;
    let path = format!(
        "/api/v1/explain/{}/{}",
        crate::client::encode(&args.name.namespace),
        crate::client::encode(&args.name.name)
    );
    let body = crate::client::get(args.asked.admin, &path)?;
    let explanation: Explanation = serde_json::from_slice(&body)
        .with_context(|| format!("{} did not answer as Fairway does", args.asked.admin))?;
    crate::outcome::print(&render(&explanation))
}

/// As text: a heading a section, a sentence a line.
pub(crate) fn render(explanation: &Explanation) -> String {
    let mut text = format!("Service {}\n", explanation.service);
    for section in &explanation.sections {
        let _ = write!(text, "\n{}\n", section.title);
        for sentence in &section.sentences {
            let _ = writeln!(text, "  {}", crate::table::printable(sentence));
        }
    }
    text
}
