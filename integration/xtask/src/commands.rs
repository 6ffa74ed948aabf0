//! The commands.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::path::with_path;
use crate::programs::{self, TestJob, TestProgram};
use crate::step::{self, TestTally, cargo};
use crate::tools::GoModule;
use crate::{cache, needs, tools};

/// Everything that has to hold before a change is good; see `cargo xtask help`.
pub(crate) fn test(install: bool, filter: Option<&str>) -> Result<(), String> {
    let start = Instant::now();
    let (root, target) = (cache::root(), cache::target());
    step::timed("what the tests need", || {
        needs::ensure(needs::Work::Tests, install)
    })?;
    let tools = tools_path(&root, tools::MODULES)?;

    if filter.is_none() {
        step::run(
            "format",
            with_path(&mut cargo(&root, &target)).args(["fmt", "--all", "--check"]),
        )?;
        step::run(
            "clippy",
            with_path(&mut cargo(&root, &target)).args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
        )?;
    } else {
        eprintln!("==> format, clippy and documentation are left out, because a filter was given");
    }
    step::run(
        "build",
        with_path(&mut cargo(&root, &target)).args(["build", "--workspace"]),
    )?;

    let programs = test_programs(&root, &target)?;
    let mut tally = TestTally::default();
    let job = TestJob {
        root: &root,
        filter,
        environment: &[
            ("FAIRWAY_BIN", target.join("debug/fairway")),
            ("FAIRWAY_TEST_TOOLS", tools),
        ],
    };
    let outcome = step::timed("tests", || {
        programs::run_all(programs, job, |line| {
            println!("{line}");
            tally.add(line);
        })
    });
    let mut doc_tests = cargo(&root, &target);
    doc_tests
        .args(["test", "--workspace", "--doc", "--no-fail-fast", "--"])
        .args(filter);
    let doc_tests = step::run_lines("doc tests", with_path(&mut doc_tests), |line| {
        tally.add(line)
    });
    let outcome = outcome.and(doc_tests);
    if outcome.is_ok() && filter.is_none() {
        let mut doc = cargo(&root, &target);
        doc.args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings");
        step::run("documentation", with_path(&mut doc))?;
    }
    eprintln!("==> all of it took {:.0} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    outcome?;
    match tally {
        TestTally {
            ignored: 0,
            passed: 0,
            ..
        } => match filter {
            Some(filter) => Err(format!("no test has '{filter}' in its name")),
            None => Err("no test was run".to_owned()),
        },
        TestTally { ignored: 0, .. } => Ok(()),
        // What can't run fails: a test that nobody runs is worse than none.
        TestTally { ignored, .. } => Err(format!("{ignored} tests are marked as ignored")),
    }
}

/// Builds the test programs; what they are.
fn test_programs(root: &Path, target: &Path) -> Result<Vec<TestProgram>, String> {
    let mut build = cargo(root, target);
    build.args(["test", "--workspace", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    let mut programs = Vec::new();
    step::read_lines("build of the tests", with_path(&mut build), |line| {
        programs.extend(TestProgram::parse(line));
    })?;
    Ok(programs)
}

/// `cargo bench` for the benchmarks of the pure crates.
pub(crate) fn bench(filter: Option<&str>) -> Result<(), String> {
    let mut bench = cargo(&cache::root(), &cache::target());
    bench
        .args(["bench", "--package", "fairway-controller-core", "--package"])
        .args(["fairway-gateway-core", "--benches", "--"])
        .args(filter);
    step::run("benchmarks", with_path(&mut bench))
}

/// Measures the cores, and a release build from outside, alone and in a cluster, and writes the
/// tables.
pub(crate) fn measure() -> Result<(), String> {
    let (root, target) = (cache::root(), cache::target());
    build_release(&["measure", "scale"])?;
    let tools = tools_path(&root, tools::MODULES)?;
    bench(None)?;
    let mut page = String::new();
    for program in ["measure", "scale"] {
        let mut measure = measuring(program);
        measure
            .env("FAIRWAY_TEST_TOOLS", &tools)
            .env("CRITERION_RESULTS", target.join("criterion"));
        page += &printed(program, &mut measure)?;
    }
    write(&root.join("integration/FIGURES.md"), &page)
}

/// Measures Fairway beside its peers, and writes the tables.
pub(crate) fn peers() -> Result<(), String> {
    let root = cache::root();
    step::timed("what the peers need", || {
        needs::ensure(needs::Work::Peers, true)
    })?;
    build_release(&["peers"])?;
    let mut peers = measuring("peers");
    peers
        .arg(root.join("integration/PEERS.json"))
        // It starts none of them.
        .env("FAIRWAY_TEST_TOOLS", "");
    let page = printed("peers", &mut peers)?;
    write(&root.join("integration/PEERS.md"), &page)
}

/// Measures Fairway beside an earlier build, and prints the ratios.
pub(crate) fn versions(before: &str) -> Result<(), String> {
    step::timed("what the measuring needs", || {
        needs::ensure(needs::Work::Tests, true)
    })?;
    build_release(&["versions"])?;
    let mut versions = measuring("versions");
    // It starts none of them.
    versions.arg(before).env("FAIRWAY_TEST_TOOLS", "");
    printed("versions", &mut versions).map(|_| ())
}

/// Measures how long clients are not served when a gateway departs, and writes the tables of as many runs as usual.
pub(crate) fn failover(runs: Option<u32>) -> Result<(), String> {
    let root = cache::root();
    step::timed("what the measuring needs", || {
        needs::ensure(needs::Work::Tests, true)
    })?;
    let tools = tools_path(&root, tools::MODULES.iter().chain([&tools::METALLB]))?;
    build_release(&["failover"])?;
    let mut failover = measuring("failover");
    failover
        .args(runs.map(|runs| runs.to_string()))
        .env("FAIRWAY_TEST_TOOLS", tools);
    let page = printed("failover", &mut failover)?;
    match runs {
        None => write(&root.join("integration/FAILOVER.md"), &page),
        Some(_) => Ok(()),
    }
}

/// Measures what a Service notices of clients that another one refuses, and writes the tables of as many rounds as usual.
pub(crate) fn limits(rounds: Option<u32>) -> Result<(), String> {
    let rounds = rounds.map(|rounds| rounds.to_string());
    match beside_peers("limits", rounds.clone())? {
        page if rounds.is_none() => write(&cache::root().join("integration/LIMITS.md"), &page),
        _ => Ok(()),
    }
}

/// Measures how clients fare while an endpoint fails, beside HAProxy, and writes the table.
pub(crate) fn health() -> Result<(), String> {
    let page = beside_peers("health", None)?;
    write(&cache::root().join("integration/HEALTH.md"), &page)
}

/// Measures what clients notice of rolling updates, beside HAProxy and nginx, and writes the table.
pub(crate) fn rolling() -> Result<(), String> {
    let page = beside_peers("rolling", None)?;
    write(&cache::root().join("integration/ROLLING.md"), &page)
}

/// Sends malformed messages through Fairway and its peers, and writes where they differ.
pub(crate) fn corpus() -> Result<(), String> {
    let page = beside_peers("corpus", None)?;
    write(&cache::root().join("integration/SMUGGLING.md"), &page)
}

/// Measures upgrades under traffic and kills meanwhile, and writes the tables.
pub(crate) fn upgrade() -> Result<(), String> {
    let page = beside_peers("upgrade", None)?;
    write(&cache::root().join("integration/UPGRADE.md"), &page)
}

/// Runs a program that measures Fairway beside its peers; its page.
fn beside_peers(
    program: &str,
    arguments: impl IntoIterator<Item = String>,
) -> Result<String, String> {
    step::timed("what the peers need", || {
        needs::ensure(needs::Work::Peers, true)
    })?;
    let tools = tools_path(&cache::root(), [&tools::SERVERS])?;
    build_release(&[program])?;
    let mut measuring = measuring(program);
    measuring.args(arguments).env("FAIRWAY_TEST_TOOLS", tools);
    printed(program, &mut measuring)
}

/// Builds Fairway and measuring programs for release.
fn build_release(programs: &[&str]) -> Result<(), String> {
    let mut build = cargo(&cache::root(), &cache::target());
    build.args(["build", "--release", "--package", "fairway"]);
    build.args(["--package", "fairway-integration", "--bin", "fairway"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    step::run("release build", with_path(&mut build))
}

/// A measuring program, to be run.
fn measuring(program: &str) -> Command {
    let release = cache::target().join("release");
    let mut command = Command::new(release.join(program));
    command
        .env("FAIRWAY_BIN", release.join("fairway"))
        .current_dir(cache::root());
    command
}

/// Runs it; what it printed.
fn printed(name: &str, command: &mut Command) -> Result<String, String> {
    let mut page = String::new();
    step::run_lines(name, with_path(command), |line| {
        page.push_str(line);
        page.push('\n');
    })?;
    Ok(page)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{} can't be written: {e}", path.display()))
}

/// Prints where the Go programs are, having built them where they were not.
pub(crate) fn tools() -> Result<(), String> {
    let modules = tools::MODULES.iter().chain([&tools::METALLB]);
    println!("{}", tools_path(&cache::root(), modules)?.display());
    Ok(())
}

/// The folders of the Go programs, written as `$PATH` is.
fn tools_path<'a>(
    root: &Path,
    modules: impl IntoIterator<Item = &'a GoModule>,
) -> Result<PathBuf, String> {
    env::join_paths(tools::ensure(root, modules)?)
        .map(PathBuf::from)
        .map_err(|e| format!("the cache can't be in a folder of that name: {e}"))
}
