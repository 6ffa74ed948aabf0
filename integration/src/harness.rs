//! `main` of a test program: like libtest's, but alone in its process until it has moved into
//! namespaces of its own.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{cluster, lab, programs};

/// One test: its name and what it does.
pub type Test = (&'static str, fn() -> Result<()>);

/// Asks a test program whether it may run beside others: it says [`BESIDE_OTHERS`] then, and runs no test.
/// `cargo xtask test` asks so; what does not answer, or does not know the question, runs alone.
const QUESTION: &str = "--may-run-beside-others";

/// The answer of one that may.
const BESIDE_OTHERS: &str = "may run beside others";

/// Makes `main` of a test program from its tests.
///
/// A program has the machine for itself, so that its tests may look at how long things take. One that begins with
/// `may run beside others;` gives that up: nothing in it may fail for being slow, but after
/// [`SOON`](crate::wait::SOON). Such programs mostly wait, and `cargo xtask test` runs some of them at a time.
#[macro_export]
macro_rules! tests {
    (may run beside others; $($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::harness::run_beside_others(&[$((stringify!($test), $test)),+])
        }
    };
    ($($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::harness::run(&[$((stringify!($test), $test)),+])
        }
    };
}

/// What [`run`] does, for a program that may run beside others.
pub fn run_beside_others(tests: &[Test]) -> ExitCode {
    if env::args().nth(1).is_some_and(|it| it == QUESTION) {
        println!("{BESIDE_OTHERS}");
        return ExitCode::SUCCESS;
    }
    run(tests)
}

/// Runs the tests that the command line asks for. Where the lab can't be had, all of them fail with
/// the reason.
pub fn run(tests: &[Test]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests wait more than they work.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let lab = if arguments.list {
        Ok(())
    } else {
        prepare().map_err(|e| format!("{e:#}"))
    };
    let trials = tests.iter().map(|&(name, test)| {
        let lab = lab.clone();
        Trial::test(name, move || {
            lab?;
            attempt(test)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    cluster::end();
    if conclusion.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What a program has to do first that runs in the lab, while it has one thread: finds the programs
/// that it will start, and leaves the machine's own network.
pub fn prepare() -> Result<()> {
    raise_open_files();
    programs::prepare()?;
    lab::enter()
}

/// Lets this process have as many files open as it may: tests hold thousands of connections, both
/// ends of each, and the usual soft limit is 1024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where it fails, the test that has too few says so.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Runs one test; a failure comes with what the programs said that it ran.
fn attempt(test: fn() -> Result<()>) -> Result<(), Failed> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(test));
    let journal = lab::take_journal();
    let why = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => format!("{e:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned()),
    };
    Err(format!("{why}\n{journal}").into())
}
