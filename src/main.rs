//! `fairway`: arguments and wiring, nothing else.
//!
//! Reading order: [`args`] is every command and flag; [`process`] is what every long-running
//! command is made of, [`start`] how it starts, [`signals`] and [`systemd`] what it says to whoever runs it, [`take_over`] how another process goes on with its work and [`launch`] how that one is started ([`kept_signals`]: without a signal that is lost),
//! [`pods`] which of several Pods has its turn and [`probe`] what the kubelet is told of one; [`standalone`] wires
//! controller and gateway over a directory, for itself and for [`demo`]; [`controller`] (with
//! [`leader`]) and [`gateway`] each wire one of them over an API server ([`api_server`]); [`views`] is what the
//! admin address shows; [`peers`] reads the other gateways of a fleet; [`outcome`] is what a command comes to; [`get`],
//! [`explain`], [`drain`], [`validate`] and
//! [`import`] are the commands that print and end.

mod address;
mod admin_listeners;
mod api_server;
mod args;
mod client;
mod controller;
mod demo;
mod drain;
mod drained;
mod environment;
mod explain;
mod gateway;
mod get;
mod import;
mod kept_signals;
mod launch;
mod leader;
mod listing;
mod logs;
mod outcome;
mod peers;
mod pods;
mod probe;
mod process;
mod signals;
mod standalone;
mod start;
mod systemd;
mod table;
mod take_over;
mod transparent;
mod validate;
mod views;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, CliCommand};
use outcome::{WrongConfiguration, print};

/// jemalloc. A thread of its own returns unused memory within a second; the settings are in
/// `.cargo/config.toml`, because they are compiled in.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Clap prints wrong usage itself and ends with 2.
    let cli = match Cli::from_arg_matches(&environment::without_empty(Cli::command()).get_matches())
    {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    let names = names.iter().map(String::as_str);
    for warning in environment::warnings(&Cli::command(), names) {
        let _ = writeln!(std::io::stderr(), "fairway: warning: {warning}");
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // To standard error and not to the log, where the person who typed the command reads
            // it.
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
        CliCommand::Demo(args) => demo::run(args),
        CliCommand::Standalone(args) => standalone::run(args),
        CliCommand::Controller(args) => controller::run(*args),
        CliCommand::Gateway(args) => gateway::run(args),
        CliCommand::Get(args) => get::run(args),
        CliCommand::Explain(args) => explain::run(args),
        CliCommand::Drain(args) => drain::run(args),
        CliCommand::Validate(args) => validate::run(args),
        CliCommand::Import(args) => import::run(args),
        CliCommand::Probe(args) => probe::run(args),
        CliCommand::Crds => {
            let crds = fairway_config::crd::crds();
            let texts: Vec<String> = crds
                .iter()
                .map(serde_saphyr::to_string)
                .collect::<Result<_, _>>()?;
            print(&texts.join("---\n"))
        }
        CliCommand::StartSuccessor { command } => launch::start(&command),
        CliCommand::KeepKernelRoutes => {
            fairway_gateway::kernel_routes::keeper::keep()?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fairway", &mut text);
            print(&String::from_utf8(text)?)
        }
    }
}
