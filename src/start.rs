//! How every long-running command starts: what it takes over, its listeners, and then what is its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use fairway_gateway::icmp::IcmpSockets;
use fairway_gateway::layer2::Layer2;

use crate::admin_listeners::AdminListeners;
use crate::args::{ProcessArgs, TrafficArgs};
use crate::kept_signals;
use crate::launch::Launcher;
use crate::probe::ProbeSocket;
use crate::process::{ProcessBase, RunEnd, RunningProcess, Traffic};
use crate::signals::{OtherSignals, stop_signal};
use crate::take_over::{self, FoundProcess, TakeOverPlan};

/// What a process has besides, where another one may take over from it.
#[derive(Default)]
struct TakeOverParts {
    plan: Option<TakeOverPlan>,
    launcher: Option<Launcher>,
    /// Where the kubelet is answered.
    probe: Option<PathBuf>,
}

/// Runs a long-running command until SIGTERM or SIGINT; a second one does not wait for connections
/// to end. The listeners of the process are bound before anything else, so that a person who starts
/// a second process gets the error at once.
pub(crate) fn run(
    args: &ProcessArgs,
    start: impl AsyncFnOnce(ProcessBase) -> anyhow::Result<RunningProcess>,
) -> anyhow::Result<ExitCode> {
    run_with(args, TakeOverParts::default(), start)?;
    Ok(ExitCode::SUCCESS)
}

fn run_with(
    args: &ProcessArgs,
    parts: TakeOverParts,
    start: impl AsyncFnOnce(ProcessBase) -> anyhow::Result<RunningProcess>,
) -> anyhow::Result<RunEnd> {
    let _rest_of_log = crate::logs::start(args.log_format, "info")?;
    let TakeOverParts {
        plan,
        launcher,
        probe,
    } = parts;
    runtime()?.block_on(async {
        let (mut signals, others) = (stop_signal()?, OtherSignals::listen()?);
        kept_signals::take().context("signals can't be taken")?;
        let probe = probe.as_deref().map(ProbeSocket::open).transpose();
        let probe = probe.context("--probe-socket can't be listened on")?;
        let asked = match &plan {
            Some(plan) => plan.ask(&mut signals, probe.as_ref()).await?,
            None => FoundProcess::Nobody,
        };
        let mut handing = match asked {
            FoundProcess::Process(process) => Some(*process),
            FoundProcess::Nobody => None,
            FoundProcess::Stop => return Ok(RunEnd::Ended),
        };
        let is_late = handing.is_none() && plan.as_ref().is_some_and(|plan| plan.takes_over);
        let listeners = match handing.as_mut() {
            Some(handing) => AdminListeners::bind(args, plan.as_ref(), Some(handing))?,
            None => take_over::after_another(
                is_late,
                |_| true,
                || AdminListeners::bind(args, plan.as_ref(), None),
            )?,
        };
        let mut base = ProcessBase::new(listeners)?;
        base.handing = handing;
        base.plan = plan;
        base.is_late = is_late;
        base.launcher = launcher;
        let mut process = start(base).await?;
        if let Some(probe) = &probe {
            process.tell(probe);
        }
        process.answer(others);
        let end = process.run(&mut signals).await?;
        // Told while it ended.
        match signals.has_come().await {
            true => Ok(RunEnd::Ended),
            false => Ok(end),
        }
    })
}

/// The same for a process that carries traffic. `probe`: the socket at which the kubelet is answered.
pub(crate) fn run_with_traffic(
    args: &ProcessArgs,
    traffic: TrafficArgs,
    (plan, probe): (Option<TakeOverPlan>, Option<PathBuf>),
    start: impl AsyncFnOnce(ProcessBase, Traffic) -> anyhow::Result<RunningProcess>,
) -> anyhow::Result<ExitCode> {
    // First: what it starts is to have all rights.
    let launcher = plan.as_ref().map(|_| Launcher::start()).transpose();
    let launcher = launcher.context("a thread can't be started")?;
    // Both before the process starts other threads, which then have no CAP_NET_RAW. A thread of the responder keeps
    // it, for interfaces come and go.
    let layer2 = Layer2::start().context("the threads that answer ARP can't be started")?;
    let icmp_sockets = IcmpSockets::open();
    let traffic = Traffic::new(traffic, icmp_sockets, layer2.clone())?;
    let parts = TakeOverParts {
        plan: plan.map(|plan| traffic.agree(plan)),
        launcher: launcher.clone(),
        probe,
    };
    let end = run_with(args, parts, async |base| start(base, traffic).await);
    layer2.stop();
    match (end?, launcher) {
        (RunEnd::Anew(anew), Some(launcher)) => {
            Err(launcher.again(anew)).context("this process can't begin anew, to stand by")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The runtime of everything but traffic: a scrape or a large write must not hold up a connection,
/// so the gateway's threads are its own.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("fairway-admin")
        .enable_all()
        .build()
        .context("the runtime can't be started")
}
