//! Fairway installed in a cluster, as its manifests do it: under its own accounts and roles.
//!
//! Reading order:
//! - this module: what is installed, and who runs.
//! - `fleet`: gateways that share addresses on one network.
//! - `making`: pools, Services and Pods.
//! - `seen`: what people see of a Service.
//! - `traffic`: which server answers.

mod fleet;
mod making;
mod seen;
mod traffic;

use std::ops::Deref;
use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::fairway::Fairway;
use crate::lab::Host;
use crate::site::{Site, server};
use crate::wait;
pub use fleet::{ClusterFleet, served_by};
pub use making::Web;
pub use traffic::{Flow, health_says};

/// The namespace that the manifests install into.
pub const NAMESPACE: &str = "fairway-system";

/// The manifests that users apply.
pub const MANIFESTS: &str = include_str!("../../../deploy/manifests/fairway.yaml");

/// What a Service of type LoadBalancer has until it is torn down.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// The flag by which Services without a class are Fairway's.
pub const DEFAULT_CLASS: &str = "--default-class";

/// The addresses of the usual pool.
pub const ADDRESSES: &[&str] = &["203.0.113.1-203.0.113.9"];

/// A cluster with Fairway's objects in it, and a site beside it whose edge is attached.
pub struct Installed<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Clients, edge and servers.
    pub site: Site,
}

impl<'a> Installed<'a> {
    /// Applies the manifests and makes the namespace `shop`.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        let site = Site::new()?;
        cluster.attach(&site.edge)?;
        cluster.apply(MANIFESTS)?;
        cluster.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/addresspools.fairway.dev",
            "crd/bgppeers.fairway.dev",
        ])?;
        // They are established a moment before they are served.
        wait::until_some("Fairway's kinds are served", || {
            cluster.list("addresspools", "", "")?;
            cluster.list("bgppeers.fairway.dev", "", "").map(drop)
        })?;
        cluster.namespace("shop")?;
        Ok(Self { cluster, site })
    }

    /// A kubeconfig of one of the two accounts.
    pub fn account(&self, name: &str) -> Result<PathBuf> {
        self.cluster.kubeconfig_of_service_account(NAMESPACE, name)
    }

    /// A controller on a host of its own, running.
    pub fn controller(&self, name: &str, arguments: &[&str]) -> Result<Fairway> {
        self.controller_in(name, arguments, &[])
    }

    /// The same, with more of an environment.
    pub fn controller_in(
        &self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Fairway> {
        let host = Host::new(name)?;
        self.cluster.attach(&host)?;
        let mut controller =
            Fairway::member(&host, "controller", &self.account("fairway-controller")?)?
                .arguments(&["--node-name", name])
                .arguments(arguments)
                .environment(environment);
        controller.launch()?;
        controller.ready()?;
        Ok(controller)
    }

    /// A gateway on the edge, running.
    pub fn gateway(&self, arguments: &[&str]) -> Result<Fairway> {
        self.gateway_in(arguments, &[])
    }

    /// The same, with more of an environment.
    pub fn gateway_in(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Fairway> {
        self.run_gateway((&self.site.edge, "edge-1"), arguments, environment)
    }

    /// A gateway on a host that is attached to the cluster, running.
    pub fn gateway_on(&self, host: &Host, name: &str, arguments: &[&str]) -> Result<Fairway> {
        self.run_gateway((host, name), arguments, &[])
    }

    /// A gateway on each of these hosts, of these names. They start together.
    pub fn gateways_on<'h>(
        &self,
        places: impl IntoIterator<Item = (&'h Host, &'h str)>,
    ) -> Result<Vec<Fairway>> {
        let places = places.into_iter();
        let mut gateways = places
            .map(|place| self.launch_gateway(place, &[], &[]))
            .collect::<Result<Vec<_>>>()?;
        gateways.iter_mut().try_for_each(Fairway::ready)?;
        Ok(gateways)
    }

    fn run_gateway(
        &self,
        place: (&Host, &str),
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Fairway> {
        let mut gateway = self.launch_gateway(place, arguments, environment)?;
        gateway.ready()?;
        Ok(gateway)
    }

    fn launch_gateway(
        &self,
        (host, name): (&Host, &str),
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Fairway> {
        let account = self.account("fairway-gateway")?;
        let mut gateway = Fairway::member(host, "gateway", &account)?
            .arguments(&["--node-name", name])
            .arguments(arguments)
            .environment(environment);
        gateway.launch()?;
        Ok(gateway)
    }

    /// The pool `edge` of [`ADDRESSES`], the Node `node-a`, and a controller that takes Services
    /// without a class.
    pub fn controlled(&self) -> Result<Fairway> {
        self.controlled_in(ADDRESSES, &[])
    }

    fn controlled_in(&self, addresses: &[&str], environment: &[(&str, &str)]) -> Result<Fairway> {
        self.pool("edge", addresses)?;
        self.cluster.node("node-a", &[server(18)], &[])?;
        self.controller_in("controller-1", &[DEFAULT_CLASS], environment)
    }
}

/// Fairway at work: what [`controlled`](Installed::controlled) makes, and a gateway on the edge.
pub struct AtWork<'a> {
    /// The controller.
    pub controller: Fairway,
    /// The gateway.
    pub gateway: Fairway,
    // Last: they run on its hosts.
    installed: Installed<'a>,
}

impl<'a> AtWork<'a> {
    /// Both are ready.
    pub fn begin(cluster: &'a Cluster) -> Result<Self> {
        Self::begin_with(cluster, ADDRESSES, &[])
    }

    /// The same with other addresses in the pool, and with more of an environment.
    pub fn begin_with(
        cluster: &'a Cluster,
        addresses: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let installed = Installed::new(cluster)?;
        Ok(Self {
            controller: installed.controlled_in(addresses, environment)?,
            gateway: installed.gateway_in(&[], environment)?,
            installed,
        })
    }
}

impl<'a> Deref for AtWork<'a> {
    type Target = Installed<'a>;

    fn deref(&self) -> &Self::Target {
        &self.installed
    }
}
