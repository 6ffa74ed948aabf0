//! `fairway`: arguments and wiring, nothing else.
//!
//! Reading order: [`args`] is every command and flag; [`process`] is what every long-running
//! command is made of; [`standalone`] wires controller and gateway over a directory, for itself and
//! for [`demo`], [`cluster`] each of them over an API server; [`views`] is what the admin address
//! shows; [`outcome`] is what a command comes to;
//! [`get`], [`explain`], [`validate`] and [`import`] are the commands that print and end.

mod args;
mod client;
mod cluster;
mod demo;
mod explain;
mod get;
mod import;
mod logs;
mod outcome;
mod process;
mod standalone;
mod table;
mod validate;
mod views;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};
use outcome::{WrongConfiguration, print};

/// Gives back what is not used any more within a second, from a thread of its own: how it is set is
/// in `.cargo/config.toml`, for it is built in.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Clap prints wrong usage itself and ends with 2.
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // To standard error, not to the log: whoever typed the command reads it there.
            let _ = writeln!(std::io::stderr(), "fairway: {error:#}");
            if error.is::<WrongConfiguration>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Standalone(args) => standalone::run(args),
        Command::Controller(args) => cluster::controller(*args),
        Command::Gateway(args) => cluster::gateway(args),
        Command::Get(args) => get::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Import(args) => import::run(args),
        Command::Crds => {
            let crds = fairway_config::crd::crds();
            let texts: Vec<String> = crds
                .iter()
                .map(serde_saphyr::to_string)
                .collect::<Result<_, _>>()?;
            print(&texts.join("---\n"))
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fairway", &mut text);
            print(&String::from_utf8(text)?)
        }
    }
}
