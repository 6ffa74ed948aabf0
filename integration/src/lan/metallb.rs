//! MetalLB's speaker on every edge, as its layer 2 mode is used: memberlist says which speakers live, and each speaker
//! works out by itself which of them announces an address. What it needs of a cluster is a real control plane.
//!
//! The addresses are local on each edge, and a server of the edge itself answers there, as kube-proxy would on each Node:
//! nothing is forwarded, and an edge whose speaker has ended goes on serving whoever still sends to it. Both are to
//! MetalLB's favour. So is that its controller has nothing to do: the Services have their addresses.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;

use super::announcers::Announcers;
use super::edge_programs::{EdgePrograms, is_named};
use super::network::{INTERFACE, Lan, LanEdge};
use crate::cluster::{Cluster, Pod};
use crate::{programs, site, wait};

const NAMESPACE: &str = "metallb-system";
const POOLS: &str = "ipaddresspools.metallb.io";
const ADVERTISEMENTS: &str = "l2advertisements.metallb.io";
/// What speakers are found by, as in MetalLB's own manifests.
const LABELS: [(&str, &str); 2] = [("app", "metallb"), ("component", "speaker")];

/// A speaker on each edge of a LAN, the servers beside it, and the cluster that they read.
#[derive(Debug)]
pub struct MetalLbs {
    programs: EdgePrograms,
    cluster: Cluster,
}

impl MetalLbs {
    /// Started on each edge; they announce these addresses.
    pub fn start(lan: &Lan, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let cluster = Cluster::start()?;
        let speaker = programs::tool("speaker")?;
        // The definitions of its objects, as they came with the program.
        let folder = speaker.with_file_name("crds");
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            cluster.apply(&fs::read_to_string(entry?.path())?)?;
        }
        // The API server serves them a moment later.
        for kind in [POOLS, ADVERTISEMENTS] {
            wait::until_some("MetalLB's objects are known", || cluster.path(kind, "", ""))?;
        }
        cluster.namespace(NAMESPACE)?;
        announced(&cluster, addresses, port)?;
        let mut all = Self {
            programs: EdgePrograms::default(),
            cluster,
        };
        // Speakers read once whom they are to join, when they start.
        for edge in &lan.edges {
            cluster_member(&all.cluster, edge)?;
        }
        for edge in &lan.edges {
            let local = addresses.iter().map(|it| (*it, host_bits(*it)));
            edge.host.addresses("lo", &local.collect::<Vec<_>>())?;
            // As kube-proxy sets it for MetalLB (strictARP): the kernel answers for an interface's own addresses alone.
            edge.host.run(|| -> Result<()> {
                let all = Path::new("/proc/sys/net/ipv4/conf/all");
                fs::write(all.join("arp_ignore"), "1")?;
                Ok(fs::write(all.join("arp_announce"), "2")?)
            })?;
            all.programs.serve(edge, port)?;
            all.launch(edge)?;
        }
        Ok(all)
    }

    fn launch(&mut self, edge: &LanEdge) -> Result<()> {
        let labels = LABELS.map(|(name, value)| format!("{name}={value}"));
        let mut command = Command::new(programs::tool("speaker")?);
        command
            .args(["--namespace", NAMESPACE, "--node-name", &edge.name])
            .args(["--pod-name", &edge.name, "--host", "127.0.0.1"])
            .args(["--ml-bindaddr", &edge.ip().to_string()])
            .args(["--ml-bindport", "7946", "--ml-labels", &labels.join(",")])
            .args(["--log-level", "warn"])
            .env("KUBECONFIG", self.cluster.admin());
        self.programs.launch(edge, command)
    }
}

fn host_bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The pool, and a Service at each address.
fn announced(cluster: &Cluster, addresses: &[IpAddr], port: u16) -> Result<()> {
    let ranges: Vec<String> = addresses
        .iter()
        .map(|it| format!("{it}/{}", host_bits(*it)))
        .collect();
    let object = |kind: &str, spec| {
        json!({"apiVersion": "metallb.io/v1beta1", "kind": kind,
            "metadata": {"name": "all", "namespace": NAMESPACE}, "spec": spec})
    };
    let pool = object("IPAddressPool", json!({"addresses": ranges}));
    cluster.create(POOLS, NAMESPACE, &pool)?;
    let advertisement = object("L2Advertisement", json!({"interfaces": [INTERFACE]}));
    cluster.create(ADVERTISEMENTS, NAMESPACE, &advertisement)?;
    for (n, address) in addresses.iter().enumerate() {
        let name = format!("s{n}");
        let family = match address {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        };
        let service = json!({"metadata": {"name": name}, "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ipFamilyPolicy": "SingleStack", "ipFamilies": [family], "ports": [{"port": port}],
        }});
        cluster.create("Service", "default", &service)?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        cluster.patch(("Service", "default", &name), "status", &status)?;
        let endpoint = match address {
            IpAddr::V4(_) => site::server(0),
            IpAddr::V6(_) => site::server6(0),
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": port}],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
        });
        cluster.create("endpointslices", "default", &slice)?;
    }
    Ok(())
}

/// The edge as a Node, with the Pod of its speaker.
fn cluster_member(cluster: &Cluster, edge: &LanEdge) -> Result<()> {
    cluster.attach(&edge.host)?;
    let ips = [edge.ip(), edge.ip6()];
    cluster.node(&edge.name, &ips, &[])?;
    cluster.pod(&Pod {
        namespace: NAMESPACE,
        name: &edge.name,
        labels: &LABELS,
        ips: &ips,
        node: &edge.name,
        ..Pod::default()
    })
}

impl Announcers for MetalLbs {
    fn signal(&mut self, edge: &LanEdge, signal: Signal) -> Result<()> {
        self.programs.on(edge)?.signal(signal)?;
        if signal == Signal::KILL {
            self.programs.killed(edge);
        }
        Ok(())
    }

    fn revive(&mut self, edge: &LanEdge) -> Result<()> {
        self.programs.ended(edge)?;
        self.launch(edge)
    }

    fn has_served(&self, edge: &LanEdge, line: &str) -> bool {
        is_named(edge, line)
    }
}
