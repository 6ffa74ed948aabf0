//! Watches Services all the time, for conditions that must never hold, not even for a moment.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::{Cluster, WatchEvent, request};
use crate::wait;

/// Sees every state that the Services of a namespace go through, in order, from when it was made.
#[derive(Debug)]
pub struct Witness<'a> {
    cluster: &'a Cluster,
    namespace: String,
    seen: Seen,
    told: Receiver<WatchEvent>,
}

/// Who holds which addresses, by the Service's name; those that hold none are left out.
pub type Holders = BTreeMap<String, Vec<String>>;

impl Cluster {
    /// Begins to look at the Services of a namespace.
    pub fn witness(&self, namespace: &str) -> Result<Witness<'_>> {
        let path = self.path("Service", namespace, "")?;
        let list = request::get(&self.host, &path, "application/json")?;
        let mut seen = Seen::default();
        for service in list["items"].as_array().into_iter().flatten() {
            seen.see("ADDED", service, false)?;
        }
        Ok(Witness {
            cluster: self,
            namespace: namespace.to_owned(),
            seen,
            told: self.watch_from(path, &list)?,
        })
    }

    /// Who holds which addresses now.
    pub fn holders(&self, namespace: &str) -> Result<Holders> {
        let services = self.list("Service", namespace, "")?;
        let holders = services.iter().map(addresses);
        Ok(holders.filter(|(_, held)| !held.is_empty()).collect())
    }

    /// Waits until so many Services hold an address; how long it takes depends on how many there are.
    pub fn wait_for_holders(&self, namespace: &str, count: usize) -> Result<()> {
        let mut held = 0;
        while held < count {
            held = wait::until_some(
                &format!("more than {held} in {namespace} have addresses"),
                || {
                    let now = self.holders(namespace)?.len();
                    ensure!(now > held, "{now}");
                    Ok(now)
                },
            )?;
        }
        Ok(())
    }
}

impl Witness<'_> {
    /// Checks that at no moment until now two Services held the same address, and where `keeps`,
    /// that no Service lost or changed its address unless it was deleted. Answers with what is held
    /// now. Can be called once.
    pub fn testifies(mut self, keeps: bool) -> Result<Holders> {
        let now = self.cluster.holders(&self.namespace)?;
        let seen = &mut self.seen;
        wait::until_some("the witness has seen what there is now", || {
            for told in self.told.try_iter() {
                // A fault that was seen stays.
                if let Err(wrong) = seen.see(&told.kind, &told.object, keeps) {
                    return Ok(Err(wrong));
                }
            }
            match seen.holders == now {
                true => Ok(Ok(now.clone())),
                false => Err(format!("it has seen {:?}", seen.holders)),
            }
        })?
    }
}

#[derive(Debug, Default)]
struct Seen {
    holders: Holders,
    held_by: BTreeMap<String, String>,
}

impl Seen {
    fn see(&mut self, kind: &str, object: &Value, keeps: bool) -> Result<()> {
        let (name, now) = match kind {
            "ADDED" | "MODIFIED" => addresses(object),
            "DELETED" => (addresses(object).0, Vec::new()),
            _ => bail!("the witness can't go on: {object}"),
        };
        let former = self.holders.remove(&name).unwrap_or_default();
        let ends = kind == "DELETED" || object["metadata"]["deletionTimestamp"].is_string();
        ensure!(
            !keeps || ends || former.is_empty() || former == now,
            "{name} had {former:?} and then {now:?}"
        );
        for address in &former {
            self.held_by.remove(address);
        }
        for address in &now {
            let other = self.held_by.insert(address.clone(), name.clone());
            ensure!(other.is_none(), "{address} is held by {name} and {other:?}");
        }
        if !now.is_empty() {
            self.holders.insert(name, now);
        }
        Ok(())
    }
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

    fn replay(events: &[(&str, &str, &str)], keeps: bool) -> Result<Holders> {
        let mut seen = Seen::default();
        for (kind, name, ip) in events {
            let ingress = match ip.is_empty() {
                true => json!(null),
                false => json!([{"ip": ip}]),
            };
            let status = json!({"loadBalancer": {"ingress": ingress}});
            let object = json!({"metadata": {"name": name}, "status": status});
            seen.see(kind, &object, keeps)?;
        }
        Ok(seen.holders)
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
        assert_eq!(replay(&fine, true).unwrap().len(), 1);
        let twice = [
            ("ADDED", "a", "192.0.2.1"),
            ("ADDED", "b", "192.0.2.1"),
            ("DELETED", "a", ""),
        ];
        assert!(replay(&twice, false).is_err());
        let moved = [("ADDED", "a", "192.0.2.1"), ("MODIFIED", "a", "192.0.2.2")];
        assert!(replay(&moved, true).is_err());
        assert!(replay(&moved, false).is_ok());
        let lost = [("ADDED", "a", "192.0.2.1"), ("MODIFIED", "a", "")];
        assert!(replay(&lost, true).is_err());
    }
}
