//! Fairway installed in a cluster, as its manifests do it: under its own accounts and roles.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Pod};
use crate::fairway::Fairway;
use crate::lab::Host;
use crate::site::Site;
use crate::{clients, wait};

/// The namespace that the manifests install into.
pub const NAMESPACE: &str = "fairway-system";

/// The manifests that users apply.
pub const MANIFESTS: &str = include_str!("../../deploy/manifests/fairway.yaml");

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
        ])?;
        // It is established a moment before it is served.
        wait::until_some("AddressPools are served", || {
            cluster.list("addresspools", "", "").map(drop)
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

    fn run_gateway(
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
        gateway.ready()?;
        Ok(gateway)
    }

    /// A pool of these addresses.
    pub fn pool(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.cluster.apply(&format!(
            "{{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, \
             spec: {{addresses: {addresses:?}}}}}"
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

    /// What TCP answers to a client of the site; nothing where nobody does.
    pub fn who(&self, ip: IpAddr, port: u16) -> Option<String> {
        let to = SocketAddr::new(ip, port);
        self.site.client.run(|| clients::who(to).ok())
    }

    /// Waits until that server answers there over TCP, or nobody where there is no name.
    pub fn answers(&self, ip: IpAddr, port: u16, name: Option<&str>) -> Result<()> {
        wait::until_some(&format!("{name:?} answers at {ip} port {port}"), || {
            let who = self.who(ip, port);
            ensure!(who.as_deref() == name, "{who:?}");
            Ok(())
        })
    }

    /// While `act` goes on that server answers every new connection there, and an old one.
    pub fn served_while(
        &self,
        to: SocketAddr,
        name: &str,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let ends = AtomicBool::new(false);
        let probe = || -> Result<()> {
            let mut open = clients::connect_tcp(to)?;
            while !ends.load(Ordering::Relaxed) {
                let old = clients::ask(&mut open, "who").context("an old connection")?;
                let new = clients::who(to).context("a new connection")?;
                let same = old.split_whitespace().next() == Some(name);
                ensure!(same && new == name, "{old} {new}");
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        thread::scope(|scope| {
            let probing = scope.spawn(|| self.site.client.run(probe));
            let acted = act();
            ends.store(true, Ordering::Relaxed);
            let probed = probing.join().map_err(|_| anyhow!("it panicked"))?;
            acted.and(probed.context("traffic stopped"))
        })
    }

    /// [`answers`](Self::answers) over UDP.
    pub fn answers_udp(&self, ip: IpAddr, port: u16, name: Option<&str>) -> Result<()> {
        let to = SocketAddr::new(ip, port);
        wait::until_some(&format!("{name:?} answers at {to} over UDP"), || {
            let who = self.site.client.run(|| clients::who_udp(None, to).ok());
            ensure!(who.as_deref() == name, "{who:?}");
            Ok(())
        })
    }

    /// The Service as the API server has it.
    pub fn get(&self, name: &str) -> Result<Value> {
        self.cluster.get_json("Service", "shop", name)
    }

    /// The external addresses in its status.
    pub fn addresses(&self, name: &str) -> Result<Vec<String>> {
        let service = self.get(name)?;
        let ingress = service.pointer("/status/loadBalancer/ingress");
        let ingress = ingress.and_then(Value::as_array).into_iter().flatten();
        let ips = ingress.filter_map(|entry| entry.get("ip")?.as_str());
        Ok(ips.map(str::to_owned).collect())
    }

    /// Waits until it has an address, and says which is its first.
    pub fn address(&self, name: &str) -> Result<IpAddr> {
        wait::until_some(&format!("{name} has an address"), || {
            let addresses = self.addresses(name)?;
            let first = addresses.first().context("pending")?;
            Ok::<_, anyhow::Error>(first.parse()?)
        })
    }

    /// Its condition of that type: status, reason and message, a blank between them.
    pub fn condition(&self, name: &str, kind: &str) -> Result<String> {
        let service = self.get(name)?;
        let conditions = service
            .pointer("/status/conditions")
            .and_then(Value::as_array);
        let found = conditions
            .into_iter()
            .flatten()
            .find(|it| it.get("type").and_then(Value::as_str) == Some(kind));
        let found = found.with_context(|| format!("no {kind}: {service}"))?;
        let field = |name: &str| crate::fairway::text(found, name).to_owned();
        Ok(format!(
            "{} {} {}",
            field("status"),
            field("reason"),
            field("message")
        ))
    }

    /// Waits until a condition has each of `words`.
    pub fn says(&self, name: &str, kind: &str, words: &[&str]) -> Result<()> {
        wait::until_some(&format!("{kind} of {name} says {words:?}"), || {
            let said = self.condition(name, kind)?;
            ensure!(words.iter().all(|word| said.contains(word)), "{said}");
            Ok(())
        })
    }

    /// Its finalizers.
    pub fn finalizers(&self, name: &str) -> Result<Vec<String>> {
        let service = self.get(name)?;
        let list = service
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array);
        let list = list.into_iter().flatten().filter_map(Value::as_str);
        Ok(list.map(str::to_owned).collect())
    }

    /// Waits until there is an Event about it with that reason and each of `words`.
    pub fn tells(&self, name: &str, reason: &str, words: &[&str]) -> Result<()> {
        wait::until_some(&format!("{reason} of {name} tells {words:?}"), || {
            let events = self.cluster.list("events.events.k8s.io", "shop", "")?;
            let field = |event: &Value, path: &str| {
                let text = event.pointer(path).and_then(Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let told: Vec<(String, String)> = events
                .iter()
                .filter(|event| field(event, "/regarding/name") == name)
                .map(|event| (field(event, "/reason"), field(event, "/note")))
                .collect();
            let found = told
                .iter()
                .any(|(why, note)| why == reason && words.iter().all(|it| note.contains(it)));
            ensure!(found, "{told:?}");
            Ok(())
        })
    }

    /// Reasons of the Events about it, in the order of time.
    pub fn events(&self, name: &str) -> Result<Vec<String>> {
        let text = self.cluster.kubectl(&[
            "get",
            "events.events.k8s.io",
            "-n",
            "shop",
            "--field-selector",
            &format!("regarding.name={name}"),
            "--sort-by=.eventTime",
            "-o",
            "jsonpath={range .items[*]}{.reason}{\"\\n\"}{end}",
        ])?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Lays the fields of one object over those of another.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
