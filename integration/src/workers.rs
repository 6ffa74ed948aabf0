//! Nodes of the cluster as they are: each with a real kube-proxy, and pods behind it.
//!
//! ```text
//!   every attached host ──── worker N ──── pods of worker N
//!   198.18.0.0/16            its Node's     10.244.N.1 │ 10.244.N.10…29
//!                            InternalIP
//! ```
//! The pods of a worker share one namespace: they differ in their addresses, and reach everything
//! through their worker.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, anyhow};

use crate::cluster::{KubeProxy, Pod};
use crate::in_cluster::Installed;
use crate::lab::{Host, wire};

/// A node of the cluster.
#[derive(Debug)]
pub struct Worker {
    /// The Node's name: `worker-1`, …
    pub name: String,
    /// Its InternalIP.
    pub ip: IpAddr,
    /// Where its kube-proxy runs.
    pub host: Host,
    /// Where its pods run.
    pub pods: Host,
    number: u8,
    _proxy: KubeProxy,
}

impl Worker {
    /// The address of its pod number `n` (0…19).
    pub fn pod_ip(&self, n: u8) -> IpAddr {
        Ipv4Addr::new(10, 244, self.number, 10 + n).into()
    }

    /// Makes a ready Pod of the Service `shop/NAME` on it, with the address number `n`, which is
    /// also the end of its name: `NAME-WORKER-n`.
    pub fn pod(&self, it: &Installed<'_>, service: &str, n: u8) -> Result<()> {
        it.cluster.pod(&Pod {
            namespace: "shop",
            name: &self.pod_name(service, n),
            labels: &[("app", service)],
            ips: &[self.pod_ip(n)],
            node: &self.name,
            ports: &[("http", "TCP", 80)],
            ..Pod::default()
        })
    }

    /// What [`pod`](Self::pod) calls it.
    pub fn pod_name(&self, service: &str, n: u8) -> String {
        format!("{service}-{}-{n}", self.number)
    }

    fn join(it: &Installed<'_>, number: u8) -> Result<Self> {
        let name = format!("worker-{number}");
        let (host, pods) = (Host::new(&name)?, Host::new(&format!("pods-{number}"))?);
        let ip = IpAddr::from(it.cluster.attach(&host)?.0);
        wire((&host, "pods"), (&pods, "eth0"))?;
        let router = Ipv4Addr::new(10, 244, number, 1);
        host.addresses("pods", &[(router.into(), 24)])?;
        let all: Vec<(IpAddr, u8)> = (10..30)
            .map(|n| (Ipv4Addr::new(10, 244, number, n).into(), 24))
            .collect();
        pods.addresses("eth0", &all)?;
        pods.ip(&format!("route add default via {router}"))?;
        it.site
            .edge
            .ip(&format!("route add 10.244.{number}.0/24 via {ip}"))?;
        it.cluster.node(&name, &[ip], &[])?;
        let proxy = it.cluster.kube_proxy(&host, &name)?;
        Ok(Self {
            name,
            ip,
            host,
            pods,
            number,
            _proxy: proxy,
        })
    }
}

/// Nodes with kube-proxies, whose pods reach each other and are reached from the edge.
pub fn workers<const N: usize>(it: &Installed<'_>) -> Result<[Worker; N]> {
    let numbers = (1..).take(N);
    let all: Vec<Worker> = numbers
        .map(|number| Worker::join(it, number))
        .collect::<Result<_>>()?;
    for worker in &all {
        for other in all.iter().filter(|other| other.number != worker.number) {
            let (number, ip) = (other.number, other.ip);
            worker
                .host
                .ip(&format!("route add 10.244.{number}.0/24 via {ip}"))?;
        }
    }
    all.try_into()
        .map_err(|all: Vec<Worker>| anyhow!("{} workers", all.len()))
}
