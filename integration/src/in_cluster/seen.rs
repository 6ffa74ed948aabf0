//! What people see of a Service: its status, its conditions, its Events.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{FINALIZER, Installed};
use crate::fairway::text;
use crate::wait;

impl Installed<'_> {
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

    /// Waits until its external addresses are these.
    pub fn has(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let wanted: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        wait::until_some(&format!("{name} has {wanted:?}"), || {
            let has = self.addresses(name)?;
            ensure!(has == wanted, "{has:?}");
            Ok(())
        })
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
        let field = |name: &str| text(found, name).to_owned();
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

    /// Waits until nothing of Fairway's is left on it.
    pub fn taken_back(&self, name: &str) -> Result<()> {
        wait::until_some(&format!("everything is taken back of {name}"), || {
            let service = self.get(name)?;
            ensure!(
                service["status"] == json!({"loadBalancer": {}}),
                "{service}"
            );
            ensure!(!self.has_finalizer(name)?, "{service}");
            Ok(())
        })
    }

    /// Whether it has the finalizer of a load balancer.
    pub fn has_finalizer(&self, name: &str) -> Result<bool> {
        Ok(self.finalizers(name)?.iter().any(|it| it == FINALIZER))
    }

    /// The port of its health check.
    pub fn health_port(&self, name: &str) -> Result<u16> {
        let port = self.get(name)?["spec"]["healthCheckNodePort"].as_u64();
        Ok(port.context("the API server gave none")?.try_into()?)
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
