//! Tests from outside: the whole of Fairway in network namespaces, with real servers behind it and
//! real clients in front.
//!
//! Reading order:
//! - [`lab`]: hosts (network namespaces), wires between them, programs that run in them.
//! - [`site`]: the usual three hosts: clients, the edge that Fairway runs on, the farm of servers.
//! - [`nodes`]: two nodes with pods behind them.
//! - [`servers`], [`clients`] and [`load`]: what stands behind Fairway, and who asks; [`three`]: three servers, and who of
//!   them answered; [`rolling`]: servers that are replaced.
//! - [`routers`]: routers that gateways announce addresses to.
//! - [`fairway`]: a Fairway under test: its manifests, its state, its admin address, its end.
//! - [`lan`]: gateways that announce addresses on a LAN, and who judges them.
//! - [`cluster`]: a real Kubernetes control plane.
//! - [`in_cluster`], [`workers`]: Fairway installed in it, and nodes with kube-proxies.
//! - [`kubelet`]: gateways' Pods, each container with a root of its own.
//! - [`manifest`]: manifests that would be tedious to write out; [`dual_stack`]: Services with an address of each family.
//! - [`hostile`]: what a tenant may write who means harm.
//! - [`harness`]: `main` of a test program; [`standstill`]: machines that are too busy for some tests.
//! - [`smuggling`]: malformed messages through Fairway and its peers, to an endpoint that records bytes.
//! - [`mod@bench`]: clients and servers that cost little, for benchmarks.
//! - [`figures`]: tables, for the measuring programs in `bin`.
//!
//! Invariants:
//! - Nothing is left behind: a namespace lives as long as the thread that made it, a program is
//!   killed when its handle goes or when this process dies, files are in temporary folders.
//! - Nothing leaves the machine: no host has a way out of the lab.
//! - What can't run fails and says why; nothing is skipped.
//! - Whatever takes time is waited for with [`wait::until`]; nothing sleeps and hopes.

pub mod bench;
pub mod clients;
pub mod cluster;
pub mod dual_stack;
pub mod fairway;
pub mod figures;
pub mod harness;
pub mod hostile;
pub mod in_cluster;
pub mod kubelet;
pub mod lab;
pub mod lan;
pub mod load;
pub mod manifest;
pub mod nodes;
pub mod programs;
pub mod rolling;
pub mod routers;
pub mod servers;
pub mod site;
pub mod smuggling;
pub mod standstill;
pub mod systemd;
pub mod three;
pub mod upgrade;
pub mod wait;
pub mod workers;
