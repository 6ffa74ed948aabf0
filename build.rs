//! Says which commit is built: the `revision` of `fairway_build_info`.

#![allow(clippy::print_stdout, reason = "that is how Cargo is told")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=FAIRWAY_REVISION");
    let given = std::env::var("FAIRWAY_REVISION").ok();
    let given = given.filter(|revision| !revision.is_empty());
    let revision = given.or_else(revision_of_checkout);
    let revision = revision.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=FAIRWAY_REVISION={revision}");
}

/// The commit that is checked out here; nothing outside a checkout.
fn revision_of_checkout() -> Option<String> {
    // Another project's checkout may be around the sources of this one.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // The file that each commit, checkout and reset appends to; where there is none (a fresh clone has
    // one) the commit is the one of the first build.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
