//! The test programs: which there are, which of them may run beside others, and running them.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::path::with_path;

/// So many programs run beside each other. They mostly wait, and most of them have a control plane of half a gigabyte.
const AT_ONCE: usize = 3;

/// What a program is asked, and what it answers where it may run beside others (`integration/src/harness.rs`).
const QUESTION: &str = "--may-run-beside-others";
const BESIDE_OTHERS: &str = "may run beside others";

/// A program that runs tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestProgram {
    /// Its first source file.
    source: PathBuf,
    /// Where it is.
    executable: PathBuf,
    /// The folder of its package, in which it runs.
    package: PathBuf,
}

impl TestProgram {
    /// Reads a message of `cargo test --no-run --message-format=json`: nothing where it is about something else.
    pub(crate) fn parse(message: &str) -> Option<Self> {
        // Targets have a `test`, too: whether they may have tests.
        let (_, profile) = message.split_once("\"profile\":")?;
        let (profile, _) = profile.split_once('}')?;
        let is_test = message.contains("\"reason\":\"compiler-artifact\"")
            && profile.contains("\"test\":true");
        let path = |name| text(message, name).map(PathBuf::from);
        is_test.then_some(())?;
        Some(Self {
            source: path("src_path")?,
            executable: path("executable")?,
            package: path("manifest_path")?.parent()?.to_owned(),
        })
    }

    /// Whether it says that it may run beside others. What does not know the question has the machine for itself.
    fn may_run_beside_others(&self) -> bool {
        let answer = self.command().arg(QUESTION).output();
        answer.is_ok_and(|it| {
            it.status.success() && it.stdout.trim_ascii() == BESIDE_OTHERS.as_bytes()
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package);
        with_path(&mut command);
        command
    }

    /// Its first source file, as people name it.
    fn name(&self, job: &TestJob<'_>) -> String {
        let source = self.source.strip_prefix(job.root);
        source.unwrap_or(&self.source).display().to_string()
    }

    fn heading(&self, job: &TestJob<'_>) -> String {
        let executable = self.executable.display();
        format!("     Running {} ({executable})", self.name(job))
    }

    /// Runs it and hands on each line that it prints, in the order in which it does. How long it took, and whether its
    /// tests passed.
    fn run(&self, job: &TestJob<'_>, mut line: impl FnMut(&str)) -> (Duration, io::Result<bool>) {
        let start = Instant::now();
        let outcome = self.spawn(job).and_then(|(mut child, output)| {
            for bytes in BufReader::new(output).split(b'\n') {
                line(&String::from_utf8_lossy(&bytes?));
            }
            Ok(child.wait()?.success())
        });
        (start.elapsed(), outcome)
    }

    /// Starts it; what it prints comes out of the pipe, which ends when all have ended that it started.
    fn spawn(&self, job: &TestJob<'_>) -> io::Result<(Child, PipeReader)> {
        let (output, input) = io::pipe()?;
        let mut command = self.command();
        command
            .args(job.filter)
            .envs(job.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input);
        Ok((command.spawn()?, output))
    }

    /// The last line about it; it is noted if it failed.
    fn verdict(
        &self,
        job: &TestJob<'_>,
        (took, outcome): (Duration, io::Result<bool>),
        failed: &mut BTreeSet<String>,
    ) -> String {
        let name = self.name(job);
        let verdict = match outcome {
            Ok(true) => "done".to_owned(),
            Ok(false) => "FAILED".to_owned(),
            Err(error) => format!("FAILED ({error})"),
        };
        let line = format!("     {name}: {verdict} in {:.1} s\n", took.as_secs_f64());
        if verdict != "done" {
            failed.insert(name);
        }
        line
    }
}

/// The text with that name in a message of cargo.
fn text(message: &str, name: &str) -> Option<String> {
    let (_, rest) = message.split_once(&format!("\"{name}\":\""))?;
    let mut found = String::new();
    let mut letters = rest.chars();
    loop {
        match letters.next()? {
            '"' => return Some(found),
            // Of what JSON writes with a backslash, names of files have quotes and backslashes.
            '\\' => found.push(letters.next()?),
            letter => found.push(letter),
        }
    }
}

/// How programs are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestJob<'a> {
    /// The work tree, from which sources are named.
    pub(crate) root: &'a Path,
    /// Only tests whose names contain this.
    pub(crate) filter: Option<&'a str>,
    /// What is added to the environment.
    pub(crate) environment: &'a [(&'static str, PathBuf)],
}

/// Runs all of them, and `print`s what they print: of one that has the machine for itself line by line, of those that run
/// beside others when they have ended. The error names those whose tests did not all pass.
pub(crate) fn run_all(
    mut programs: Vec<TestProgram>,
    job: TestJob<'_>,
    mut print: impl FnMut(&str) + Send,
) -> Result<(), String> {
    programs.sort();
    let (beside, alone): (Vec<_>, Vec<_>) = programs
        .into_iter()
        .partition(TestProgram::may_run_beside_others);
    let mut failed = BTreeSet::new();
    for program in &alone {
        print(&program.heading(&job));
        let outcome = program.run(&job, &mut print);
        print(&program.verdict(&job, outcome, &mut failed));
    }
    let next = AtomicUsize::new(0);
    let shared = Mutex::new((print, &mut failed));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(program) = beside.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut lines = vec![program.heading(&job)];
                    let outcome = program.run(&job, |line| lines.push(line.to_owned()));
                    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let (print, failed) = &mut *shared;
                    lines.push(program.verdict(&job, outcome, failed));
                    lines.iter().for_each(|line| print(line));
                }
            });
        }
    });
    match failed.is_empty() {
        true => Ok(()),
        false => {
            let failed: Vec<String> = failed.into_iter().collect();
            Err(format!("tests failed in {}", failed.join(", ")))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::{env, fs};

    use super::*;

    const MESSAGE: &str = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/it#0.1.0","manifest_path":"/w/it/Cargo.toml","target":{"kind":["test"],"crate_types":["bin"],"name":"bgp","src_path":"/w/it/tests/a \"b\".rs","edition":"2024","doc":false,"doctest":false,"test":true},"profile":{"opt_level":"0","debuginfo":2,"debug_assertions":true,"overflow_checks":true,"test":true},"features":[],"filenames":["/t/bgp-1"],"executable":"/t/bgp-1","fresh":true}"#;

    #[test]
    fn cargos_messages_about_test_programs_are_read() {
        let program = TestProgram::parse(MESSAGE).unwrap();
        assert_eq!(program.source, Path::new("/w/it/tests/a \"b\".rs"));
        assert_eq!(program.executable, Path::new("/t/bgp-1"));
        assert_eq!(program.package, Path::new("/w/it"));
        let others = [
            MESSAGE.replace("compiler-artifact", "build-finished"),
            MESSAGE.replace("\"executable\":\"/t/bgp-1\"", "\"executable\":null"),
            MESSAGE.replace(
                "\"overflow_checks\":true,\"test\":true",
                "\"overflow_checks\":true,\"test\":false",
            ),
            String::new(),
        ];
        for message in others {
            assert_eq!(TestProgram::parse(&message), None, "{message}");
        }
    }

    /// A folder that goes with this, with programs of shell lines in it.
    struct ShellPrograms(PathBuf);

    impl ShellPrograms {
        fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("fairway-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn program(&self, name: &str, lines: &str) -> TestProgram {
            let executable = self.0.join(name);
            // Another process writes it: a file that this one has open can't be run by who is forked meanwhile.
            let mut write = Command::new("sh");
            write.args(["-c", "printf '%s' \"$2\" > \"$1\"; chmod +x \"$1\"", "sh"]);
            write.arg(&executable).arg(format!("#!/bin/sh\n{lines}\n"));
            assert!(write.status().unwrap().success());
            TestProgram {
                source: executable.clone(),
                executable,
                package: self.0.clone(),
            }
        }

        fn run(&self, programs: Vec<TestProgram>) -> (Result<(), String>, Vec<String>) {
            let job = TestJob {
                root: &self.0,
                filter: Some("word"),
                environment: &[("GIVEN", PathBuf::from("value"))],
            };
            let mut lines = Vec::new();
            let outcome = run_all(programs, job, |line| lines.push(line.to_owned()));
            (outcome, lines)
        }
    }

    impl Drop for ShellPrograms {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Answers the question as one that may run beside others.
    const MAY: &str =
        "[ \"$1\" = --may-run-beside-others ] && echo may run beside others && exit 0";

    #[test]
    fn those_that_may_run_at_once_and_others_alone() {
        let shell = ShellPrograms::new("at-once");
        // Each waits until the other one is there.
        let meets = |own: &str, other: &str| {
            format!(
                "{MAY}\n[ ! -e alone ] || exit 1\ntouch {own}\nn=0\n\
                 while [ ! -e {other} ]; do n=$((n + 1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done"
            )
        };
        // It does not know the question, and takes it for a filter.
        let alone = "[ ! -e alone ] && [ ! -e one ] || exit 1\n\
                     touch alone; sleep 0.2; [ ! -e one ] || exit 1; rm alone";
        let programs = vec![
            shell.program("a", &meets("one", "other")),
            shell.program("b", &meets("other", "one")),
            shell.program("c", alone),
            shell.program("d", alone),
        ];
        let (outcome, lines) = shell.run(programs);
        assert_eq!(outcome, Ok(()), "{lines:?}");
    }

    #[test]
    fn what_each_prints_stays_together_and_who_fails_is_named() {
        let shell = ShellPrograms::new("prints");
        let prints = |name: &str, end: u8| {
            let lines =
                format!("echo {name} $1; echo $GIVEN >&2; sleep 0.2; echo {name}; exit {end}");
            shell.program(name, &format!("{MAY}\n{lines}"))
        };
        let programs = vec![
            prints("a", 0),
            prints("b", 1),
            prints("c", 1),
            shell.program("d", "echo d; exit 0"),
        ];
        let (outcome, lines) = shell.run(programs);
        assert_eq!(outcome, Err("tests failed in b, c".to_owned()));
        let text = lines.join("\n");
        for name in ["a", "b", "c"] {
            let together = format!("\n{name} word\nvalue\n{name}\n     {name}: ");
            assert!(text.contains(&together), "{text}");
        }
        for line in ["b: FAILED in 0.", "a: done in 0.", "d: done in 0."] {
            assert!(text.contains(line), "{text}");
        }
    }
}
