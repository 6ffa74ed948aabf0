//! Flags of a process that takes over from another one, in a Pod or elsewhere.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How a process starts where another one runs.
#[derive(Debug, Args)]
pub(crate) struct TakeOverArgs {
    /// Go on where the process that has this --state stands, with its sockets and connections, and what it announces on
    /// networks, to routers and in the kernel's table; that one ends, or stands by in its Pod. Without such a process,
    /// start as usual
    #[arg(long, env = "FAIRWAY_TAKE_OVER", requires = "state")]
    pub(crate) take_over: bool,
}

/// The Pod that a process runs in.
#[derive(Debug, Args)]
pub(crate) struct PodArgs {
    /// The UID of the Pod that this process runs in. Once another Pod has taken over, it waits for its end and does not
    /// end by itself: it stands by
    #[arg(
        long,
        env = "FAIRWAY_POD",
        value_name = "UID",
        requires = "take_over",
        hide_short_help = true
    )]
    pub(crate) pod: Option<String>,
    /// A Unix socket of this container's own, where `fairway probe` asks [default: none]
    #[arg(
        long,
        env = "FAIRWAY_PROBE_SOCKET",
        value_name = "PATH",
        hide_short_help = true
    )]
    pub(crate) probe_socket: Option<PathBuf>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// What to ask
    #[arg(value_enum, default_value_t = ProbeQuestion::Ready)]
    pub(crate) question: ProbeQuestion,
    /// The socket of the process to ask
    #[arg(long, env = "FAIRWAY_PROBE_SOCKET", value_name = "PATH")]
    pub(crate) probe_socket: PathBuf,
}

/// What is asked of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeQuestion {
    /// Whether it answers at all
    Alive,
    /// Whether its node is served
    Ready,
}
