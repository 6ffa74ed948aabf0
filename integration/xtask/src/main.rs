//! The project's own commands: `cargo xtask`.
//!
//! Depends on the standard library alone, because it has to compile before anything that the other
//! crates need (cmake, a C++ compiler) is installed.
//!
//! - [`arguments`]: what was asked for.
//! - [`needs`]: which programs the tests need, and how to get them.
//! - [`path`]: where programs are.
//! - [`cache`]: where what is built for tests is kept.
//! - [`tools`]: the Go programs that tests run.
//! - [`programs`]: the test programs, and which of them run at once.
//! - [`step`]: running one thing, with its duration and its outcome.
//! - [`commands`]: `test`, `bench`, `measure`, `tools`.

mod arguments;
mod cache;
mod commands;
mod needs;
mod path;
mod programs;
mod step;
mod tools;

use std::process::ExitCode;

use arguments::{Ask, USAGE};

fn main() -> ExitCode {
    let ask = match arguments::parse(std::env::args().skip(1)) {
        Ok(ask) => ask,
        Err(problem) => {
            eprintln!("xtask: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = match ask {
        Ask::Help => {
            println!("{USAGE}");
            Ok(())
        }
        Ask::Test { install, filter } => commands::test(install, filter.as_deref()),
        Ask::Bench { filter } => commands::bench(filter.as_deref()),
        Ask::Peers => commands::peers(),
        Ask::Health => commands::health(),
        Ask::Rolling => commands::rolling(),
        Ask::Upgrade => commands::upgrade(),
        Ask::Corpus => commands::corpus(),
        Ask::Failover { runs } => commands::failover(runs),
        Ask::Versions { before } => commands::versions(&before),
        Ask::Limits { rounds } => commands::limits(rounds),
        Ask::Measure => commands::measure(),
        Ask::Tools => commands::tools(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
