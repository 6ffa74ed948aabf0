//! What tests make: pools, Services, Pods, and changes of them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use super::Installed;
use crate::cluster::Pod;
use crate::lab::Served;
use crate::servers::{named, named_udp};
use crate::site::{at, server};

/// The Service `shop/web`, whose one Pod answers on port 80 of [`server`] 0 as `a`, over TCP and UDP.
#[derive(Debug)]
pub struct Web {
    /// Its external address.
    pub ip: IpAddr,
    /// That and its port.
    pub to: SocketAddr,
    _servers: [Served; 2],
}

impl Installed<'_> {
    /// Makes the Service [`Web`] on port 80 and waits until it has its address and its endpoint.
    pub fn web(&self) -> Result<Web> {
        self.web_with("ports: [{port: 80}]")
    }

    /// The same with another spec, whose first port is 80.
    pub fn web_with(&self, spec: &str) -> Result<Web> {
        let place = [("a", at(server(0), 80))];
        let servers = [
            named(&self.site.farm, &place)?,
            named_udp(&self.site.farm, &place)?,
        ];
        self.service("web", spec)?;
        self.pod("web", 0, server(0), "node-a")?;
        self.cluster
            .wait_for_endpoints("shop", "web", &[server(0)])?;
        let ip = self.address("web")?;
        Ok(Web {
            ip,
            to: at(ip, 80),
            _servers: servers,
        })
    }

    /// A pool of these addresses.
    pub fn pool(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.pool_of(name, &format!("addresses: {addresses:?}"))
    }

    /// A pool with that spec.
    pub fn pool_of(&self, name: &str, spec: &str) -> Result<()> {
        self.cluster.apply(&format!(
            "{{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, \
             spec: {{{spec}}}}}"
        ))
    }

    /// A Service of type LoadBalancer in the namespace `shop` that selects `app: NAME`; `spec` is
    /// more of its spec.
    pub fn service(&self, name: &str, spec: &str) -> Result<()> {
        self.cluster.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{type: LoadBalancer, selector: {{app: {name}}}, {spec}}}}}"
        ))
    }

    /// A ready Pod of the Service `name`, at this address.
    pub fn pod(&self, name: &str, number: usize, ip: IpAddr, node: &str) -> Result<()> {
        self.cluster.pod(&Pod {
            namespace: "shop",
            name: &format!("{name}-{number}"),
            labels: &[("app", name)],
            ips: &[ip],
            node,
            ports: &[("http", "TCP", 80)],
            ..Pod::default()
        })
    }

    /// A [`service`](Self::service) with annotations, in any namespace.
    pub fn asking(&self, (namespace, name): (&str, &str), asks: Value, spec: Value) -> Result<()> {
        let mut full = json!({
            "type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}],
        });
        merge(&mut full, spec);
        let metadata = json!({"name": name, "annotations": asks});
        let object = json!({"metadata": metadata, "spec": full});
        self.cluster.create("Service", namespace, &object).map(drop)
    }

    /// Changes a Service of the namespace `shop` by a JSON merge patch.
    pub fn change(&self, name: &str, patch: Value) -> Result<()> {
        let service = ("Service", "shop", name);
        self.cluster.patch(service, "", &patch).map(drop)
    }

    /// Changes its status, as a person may.
    pub fn change_status(&self, name: &str, patch: Value) -> Result<()> {
        let service = ("Service", "shop", name);
        let patch = json!({"status": patch});
        self.cluster.patch(service, "status", &patch).map(drop)
    }
}

/// Lays the fields of one object over those of another.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
