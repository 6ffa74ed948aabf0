//! The commands.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::step::{self, Tally, cargo};
use crate::{cache, needs};

/// Everything that has to hold before a change is good; see `cargo xtask help`.
pub(crate) fn test(install: bool, filter: Option<&str>) -> Result<(), String> {
    let start = Instant::now();
    let (root, target) = (cache::root(), cache::target());
    step::timed("what the tests need", || needs::ensure(install))?;
    let tools = go_programs(&root)?;

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

    let mut tally = Tally::default();
    let mut tests = cargo(&root, &target);
    tests
        .args(["test", "--workspace", "--no-fail-fast", "--"])
        .args(filter)
        .env("FAIRWAY_BIN", target.join("debug/fairway"))
        .env("FAIRWAY_TEST_TOOLS", tools);
    let outcome = step::run_lines("tests", with_path(&mut tests), |line| tally.add(line));
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
        Tally {
            ignored: 0,
            passed: 0,
            ..
        } => match filter {
            Some(filter) => Err(format!("no test has '{filter}' in its name")),
            None => Err("no test was run".to_owned()),
        },
        Tally { ignored: 0, .. } => Ok(()),
        // What can't run fails: a test that nobody runs is worse than none.
        Tally { ignored, .. } => Err(format!("{ignored} tests are marked as ignored")),
    }
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

/// Measures the cores, and a release build from outside, and writes the tables.
pub(crate) fn measure() -> Result<(), String> {
    let (root, target) = (cache::root(), cache::target());
    let mut build = cargo(&root, &target);
    build.args(["build", "--release", "--bin", "fairway"]);
    build.args([
        "--package",
        "fairway",
        "--package",
        "fairway-integration",
        "--bin",
        "measure",
    ]);
    step::run("release build", with_path(&mut build))?;
    bench(None)?;
    let mut measure = Command::new(target.join("release/measure"));
    measure
        .env("FAIRWAY_BIN", target.join("release/fairway"))
        .env("CRITERION_RESULTS", target.join("criterion"))
        .current_dir(&root);
    let mut page = String::new();
    step::run_lines("measure", with_path(&mut measure), |line| {
        page.push_str(line);
        page.push('\n');
    })?;
    let path = root.join("integration/FIGURES.md");
    fs::write(&path, page).map_err(|e| format!("{} can't be written: {e}", path.display()))
}

/// Prints where the Go programs are, having built them where they were not.
pub(crate) fn tools() -> Result<(), String> {
    println!("{}", go_programs(&cache::root())?.display());
    Ok(())
}

/// Builds the Go programs of integration/go into their folder in the cache. The folder appears in
/// one step, so it is whole wherever it is.
fn go_programs(root: &Path) -> Result<PathBuf, String> {
    let module = root.join("integration/go");
    let folder = cache::go_programs(&module)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let unfinished = folder.with_extension(format!("unfinished-{}", std::process::id()));
    let fault = |e: std::io::Error| format!("{} can't be written: {e}", unfinished.display());
    fs::create_dir_all(&unfinished).map_err(fault)?;
    let mut build = Command::new("go");
    build
        .current_dir(&module)
        .args(["build", "-o"])
        .arg(&unfinished)
        .arg("tool");
    step::run("Go programs", with_path(&mut build))?;
    match fs::rename(&unfinished, &folder) {
        Ok(()) => Ok(folder),
        // Another run was faster; its programs are the same.
        Err(_) if folder.is_dir() => fs::remove_dir_all(&unfinished)
            .map_err(fault)
            .map(|()| folder),
        Err(e) => Err(fault(e)),
    }
}

/// Lets the program and what it starts find what [`needs`] found.
fn with_path(command: &mut Command) -> &mut Command {
    if let Ok(path) = env::join_paths(needs::search_path()) {
        command.env("PATH", path);
    }
    command
}
