//! kube-proxy, in nftables mode.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::Cluster;
use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// A kube-proxy that runs on a host of the lab until this is dropped. Its rules stay, as they do on
/// a node, until the host goes.
///
/// Its node port rules are for the addresses that the Node object has, and they and those for
/// external addresses are for whatever comes in, or goes out, by any interface of the host. Traffic
/// that does not arrive through a Pod's interface is masqueraded as soon as it is for an external
/// address, so servers see the node.
#[derive(Debug)]
pub struct KubeProxy {
    process: Process,
    host: Host,
}

/// Where it tells whether it has written all it knows.
const HEALTH: u16 = 10256;

impl Cluster {
    /// Runs kube-proxy on `host`, which has to be [attached](Cluster::attach), as the proxy of the
    /// Node `node`, which has to exist. When this returns it has written its first rules.
    pub fn kube_proxy(&self, host: &Host, node: &str) -> Result<KubeProxy> {
        let kubeconfig = self.kubeconfig_of_user("system:kube-proxy", None)?;
        let config = self.files.folder.join(format!("kube-proxy-{node}.yaml"));
        // JSON is YAML.
        let text = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": node,
            "clientConnection": {"kubeconfig": kubeconfig},
            "healthzBindAddress": format!("0.0.0.0:{HEALTH}"),
            "metricsBindAddress": "127.0.0.1:10249",
            // The table's size belongs to the machine: it can't be set from a namespace.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "nftables": {"minSyncPeriod": "100ms"},
        });
        fs::write(&config, serde_json::to_vec_pretty(&text)?)?;
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            host.sysctl(family, "1")?;
        }
        let nft = programs::find("nft")?;
        let folder = nft.parent().unwrap_or(Path::new("/")).to_string_lossy();
        let mut command = Command::new(programs::tool("kube-proxy")?);
        command
            .arg("--config")
            .arg(&config)
            // It looks for nft there.
            .env("PATH", format!("{folder}:/usr/sbin:/usr/bin:/sbin:/bin"));
        let mut proxy = KubeProxy {
            process: host.spawn(command)?,
            host: host.clone(),
        };
        proxy.ready()?;
        Ok(proxy)
    }
}

impl KubeProxy {
    /// The program.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn ready(&mut self) -> Result<()> {
        wait::until_some("kube-proxy has written its rules", || {
            if let Some(status) = self.process.ended()? {
                bail!("it ended with {status}: {}", self.process.said());
            }
            let at = SocketAddr::from(([127, 0, 0, 1], HEALTH));
            let answer = self
                .host
                .run(|| clients::http_get(at, "/healthz"))
                .with_context(|| self.process.said())?;
            if answer.status != 200 {
                bail!("{} {}", answer.status, answer.body);
            }
            // It is healthy before its first round, too. Its table appears with all that is in it.
            let table = ["list", "table", "ip", "kube-proxy"];
            self.host.run(|| clients::output("nft", &table)).map(drop)
        })
    }
}
