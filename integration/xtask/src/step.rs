//! Running one thing at a time: what it is, how long it took, how it ended.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cache;

/// Runs `command` as the step `name`, its output going where this process's goes.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<(), String> {
    timed(name, || {
        finish(
            name,
            command.status().map(|status| status.success()),
            command,
        )
    })
}

/// Runs `command` like [`run`] and hands each line of its standard output on, having printed it.
pub(crate) fn run_lines(
    name: &str,
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<(), String> {
    read_lines(name, command, |text| {
        println!("{text}");
        line(text);
    })
}

/// Runs `command` like [`run`] and hands each line of its standard output on, which is printed nowhere.
pub(crate) fn read_lines(
    name: &str,
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<(), String> {
    timed(name, || {
        let outcome = command
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                if let Some(stdout) = child.stdout.take() {
                    for bytes in BufReader::new(stdout).split(b'\n') {
                        line(&String::from_utf8_lossy(&bytes?));
                    }
                }
                child.wait()
            });
        finish(name, outcome.map(|status| status.success()), command)
    })
}

/// Does `work` as the step `name`.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    eprintln!("==> {name}");
    let start = Instant::now();
    let outcome = work();
    let verdict = if outcome.is_ok() { "done" } else { "FAILED" };
    eprintln!(
        "<== {name}: {verdict} in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    outcome
}

/// Cargo in the work tree `root`, building into `target`.
pub(crate) fn cargo(root: &Path, target: &Path) -> Command {
    // CARGO is set by the cargo that runs this program: the same toolchain goes on.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("CARGO_TARGET_DIR", target);
    if let Err(e) = cache::make_own(root, target) {
        eprintln!("{}: {e}", target.display());
    }
    // What `cargo run` says of this program is not said of what is built: build scripts that look at
    // it would run again, and all that rests on them be built again.
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for name in std::env::vars_os().map(|(name, _)| name) {
        if name.to_str().is_some_and(own) {
            command.env_remove(name);
        }
    }
    command
}

fn finish(name: &str, outcome: std::io::Result<bool>, command: &Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy();
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{name} failed")),
        Err(e) => Err(format!("{name}: {program} could not be run: {e}")),
    }
}

/// Sums of what test programs say of their tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestTally {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were left out by an attribute.
    pub(crate) ignored: u64,
}

impl TestTally {
    /// Adds what a line says, if it is a summary:
    /// `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up_and_other_lines_do_not_count() {
        let mut tally = TestTally::default();
        for line in [
            "running 4 tests",
            "test three_passed ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "prints test result: ok. 100 passed; 0 failed",
        ] {
            tally.add(line);
        }
        assert_eq!(
            tally,
            TestTally {
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn a_command_that_fails_fails_its_step() {
        assert!(run("true", &mut Command::new("true")).is_ok());
        assert_eq!(
            run("false", &mut Command::new("false")),
            Err("false failed".to_owned())
        );
        let mut lines = Vec::new();
        let mut echo = Command::new("echo");
        assert!(
            run_lines("echo", echo.arg("hello"), |line| lines
                .push(line.to_owned()))
            .is_ok()
        );
        assert_eq!(lines, ["hello"]);
    }
}
