//! The flags of `drain`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use fairway_config::drained::EndpointPlace;

use super::{ClusterArgs, duration};
use crate::address;

/// Flags of `drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node whose gateway is to own no address any more
    #[arg(required_unless_present_any = ["endpoint", "endpoints_on"],
          conflicts_with_all = ["endpoint", "endpoints_on"])]
    pub(crate) node: Option<String>,
    /// Instead, keep new connections away from the endpoints at this address, or from the one at this address and port,
    /// of a gateway without a cluster. Those that are open go on. It is kept over restarts
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) endpoint: Option<EndpointPlace>,
    /// The same for all endpoints on this node
    #[arg(long, value_name = "NODE", conflicts_with = "endpoint")]
    pub(crate) endpoints_on: Option<String>,
    /// Wait until the endpoints have no connection left
    #[arg(long, conflicts_with_all = ["node", "undo", "simulate"])]
    pub(crate) wait: bool,
    /// Change nothing: print who would take each address
    #[arg(long, conflicts_with_all = ["undo", "endpoint", "endpoints_on"])]
    pub(crate) simulate: bool,
    /// Let the gateway take addresses again, of which none moves back by itself; or let the endpoints have new
    /// connections again
    #[arg(long)]
    pub(crate) undo: bool,
    /// How long to wait: until other gateways have taken all addresses, or the gateway says that it drains no more
    /// [default: 60s]; with --wait, until no connection is left [default: without end]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The admin address of a gateway without a cluster, on this host; :PORT is one of this host [default: the
    /// gateway of the cluster; for endpoints 127.0.0.1:9901]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::admin)]
    pub(crate) admin: Option<SocketAddr>,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}
