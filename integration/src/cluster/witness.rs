//! Somebody who looks at Services all the time: for what must not be so at any moment.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Cluster;
use super::component::DOOR_PORT;
use crate::lab::Process;
use crate::{programs, wait};

/// Sees every state that the Services of a namespace go through, in order, from when it was made
/// until the API server ends its watch.
#[derive(Debug)]
pub struct Witness<'a> {
    cluster: &'a Cluster,
    namespace: String,
    process: Process,
}

/// Who holds which addresses, by the Service's name; those that hold none are left out.
pub type Holders = BTreeMap<String, Vec<String>>;

impl Cluster {
    /// Begins to look at the Services of a namespace.
    pub fn witness(&self, namespace: &str) -> Result<Witness<'_>> {
        let mut command = Command::new(programs::find("curl")?);
        command.args(["--silent", "--no-buffer"]).arg(format!(
            "http://127.0.0.1:{DOOR_PORT}/api/v1/namespaces/{namespace}/services?watch=true"
        ));
        Ok(Witness {
            cluster: self,
            namespace: namespace.to_owned(),
            process: self.host.spawn(command)?,
        })
    }

    /// Who holds which addresses now.
    pub fn holders(&self, namespace: &str) -> Result<Holders> {
        let services = self.list("Service", namespace, "")?;
        let holders = services.iter().map(addresses);
        Ok(holders.filter(|(_, held)| !held.is_empty()).collect())
    }
}

impl Witness<'_> {
    /// At no moment until now did two Services hold the same address, and where `keeps`, none that
    /// held one had another or none later unless it was deleted. What is held now.
    pub fn testifies(&self, keeps: bool) -> Result<Holders> {
        let now = self.cluster.holders(&self.namespace)?;
        wait::until_some("the witness has seen what there is now", || {
            let seen = replay(&self.process.said(), keeps);
            match seen {
                // What is wrong stays wrong.
                Err(wrong) => Ok(Err(wrong)),
                Ok(seen) if seen == now => Ok(Ok(seen)),
                Ok(seen) => Err(format!("it has seen {seen:?}")),
            }
        })?
    }
}

fn replay(said: &str, keeps: bool) -> Result<Holders> {
    let mut holders = Holders::new();
    let mut held_by: BTreeMap<String, String> = BTreeMap::new();
    for line in said.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let (name, now) = match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => addresses(&event["object"]),
            Some("DELETED") => (addresses(&event["object"]).0, Vec::new()),
            _ => continue,
        };
        let former = holders.remove(&name).unwrap_or_default();
        let ends = event["type"] == "DELETED"
            || event["object"]["metadata"]["deletionTimestamp"].is_string();
        ensure!(
            !keeps || ends || former.is_empty() || former == now,
            "{name} had {former:?} and then {now:?}"
        );
        for address in &former {
            held_by.remove(address);
        }
        for address in &now {
            let other = held_by.insert(address.clone(), name.clone());
            ensure!(other.is_none(), "{address} is held by {name} and {other:?}");
        }
        if !now.is_empty() {
            holders.insert(name, now);
        }
    }
    Ok(holders)
}

fn addresses(service: &Value) -> (String, Vec<String>) {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let ips = ingress.into_iter().flatten();
    let ips = ips.filter_map(|entry| Some(entry["ip"].as_str()?.to_owned()));
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    (name.to_owned(), ips.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn story(events: &[(&str, &str, &str)]) -> String {
        let line = |(kind, name, ip): &(&str, &str, &str)| {
            let ingress = if ip.is_empty() {
                json!(null)
            } else {
                json!([{"ip": ip}])
            };
            let status = json!({"loadBalancer": {"ingress": ingress}});
            let object = json!({"metadata": {"name": name}, "status": status});
            format!("{}\n", json!({"type": kind, "object": object}))
        };
        events.iter().map(line).collect()
    }

    #[test]
    fn an_address_that_two_hold_for_a_moment_is_seen() {
        let fine = [
            ("ADDED", "a", ""),
            ("MODIFIED", "a", "192.0.2.1"),
            ("MODIFIED", "a", "192.0.2.1"),
            ("DELETED", "a", "192.0.2.1"),
            ("ADDED", "b", "192.0.2.1"),
        ];
        assert_eq!(replay(&story(&fine), true).unwrap().len(), 1);
        let twice = [
            ("ADDED", "a", "192.0.2.1"),
            ("ADDED", "b", "192.0.2.1"),
            ("DELETED", "a", ""),
        ];
        assert!(replay(&story(&twice), false).is_err());
        let moved = [("ADDED", "a", "192.0.2.1"), ("MODIFIED", "a", "192.0.2.2")];
        assert!(replay(&story(&moved), true).is_err());
        assert!(replay(&story(&moved), false).is_ok());
        let lost = [("ADDED", "a", "192.0.2.1"), ("MODIFIED", "a", "")];
        assert!(replay(&story(&lost), true).is_err());
    }
}
