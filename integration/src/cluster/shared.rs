//! One control plane for the tests of a program, which take it one after the other.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::request::{self, Request};
use super::{Cluster, kinds, locked};
use crate::{lab, wait};

/// How long the clean-up after a test may take.
const CLEAN_UP: Duration = Duration::from_secs(60);

/// Only names and dates, whatever the kind.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

static PLANE: Mutex<Plane> = Mutex::new(Plane::Down);

enum Plane {
    /// Nobody has asked for it, or the last one could not be cleaned.
    Down,
    /// It could not be started: to try again for each test would take minutes to say the same.
    Failed(String),
    Up(Arc<Cluster>, BTreeSet<String>),
}

/// The control plane that a program's tests share, for as long as one of them has it. When it is
/// given back, what has been stopped or paused runs again and every object that was made is deleted,
/// finalizers and all; objects that were there before must be there still, but if they were edited
/// they stay so. Where that fails the next test gets a new control plane.
pub struct SharedCluster {
    cluster: Arc<Cluster>,
    plane: MutexGuard<'static, Plane>,
}

impl Cluster {
    /// The control plane that the tests of this program share, started by the first that asks.
    /// Waits until no other test has it.
    ///
    /// Whatever talks to the cluster has to be dropped before the [`SharedCluster`] is: take it first.
    pub fn shared() -> Result<SharedCluster> {
        let mut plane = locked(&PLANE);
        if let Plane::Failed(why) = &*plane {
            bail!("the control plane could not be started: {why}");
        }
        if let Plane::Up(cluster, _) = &*plane {
            return Ok(SharedCluster {
                cluster: cluster.clone(),
                plane,
            });
        }
        let started = Self::start().and_then(|cluster| {
            let baseline = cluster.inventory()?.into_iter().map(|it| it.path).collect();
            // What is said during a good start would bury what is said during a test.
            drop(cluster.news());
            Ok((Arc::new(cluster), baseline))
        });
        match started {
            Ok((cluster, baseline)) => {
                *plane = Plane::Up(cluster.clone(), baseline);
                Ok(SharedCluster { cluster, plane })
            }
            Err(e) => {
                *plane = Plane::Failed(format!("{e:#}"));
                Err(e)
            }
        }
    }
}

/// Ends the shared control plane; called when the tests of a program are through.
pub fn end() {
    *locked(&PLANE) = Plane::Down;
}

impl Deref for SharedCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for SharedCluster {
    fn drop(&mut self) {
        lab::note(self.cluster.news());
        let Plane::Up(cluster, baseline) = &*self.plane else {
            return;
        };
        if let Err(e) = cluster.mend().and_then(|()| cluster.clean_up(baseline)) {
            eprintln!("the control plane is thrown away, it can't be cleaned: {e:#}");
            *self.plane = Plane::Down;
        }
    }
}

/// What the clean-up knows of an object.
struct Item {
    path: String,
    /// Its namespace, or its name where it is one.
    within: String,
    is_namespace: bool,
    /// It was deleted and waits for finalizers or for a grace period.
    ending: bool,
    /// It has finalizers whose owner may not come any more.
    finalizers: bool,
}

impl Cluster {
    /// Every object that there is, but for those that follow from others by themselves: events, and
    /// the records of addresses that Services have.
    fn inventory(&self) -> Result<Vec<Item>> {
        let kinds: Vec<kinds::ClusterKind> = kinds::discover(&self.host)?
            .into_iter()
            .filter(|kind| {
                ["list", "delete"]
                    .iter()
                    .all(|verb| kind.verbs.iter().any(|it| it == verb))
            })
            .filter(|kind| !matches!(kind.plural.as_str(), "events" | "ipaddresses"))
            .collect();
        let paths: Vec<String> = kinds.iter().map(|kind| kind.path("", "")).collect();
        let requests: Vec<Request<'_>> = paths
            .iter()
            .map(|path| Request {
                method: "GET",
                path,
                accept: METADATA,
                body: None,
            })
            .collect();
        let mut all = Vec::new();
        for (kind, (status, list)) in kinds.iter().zip(request::send_all(&self.host, &requests)?) {
            match status {
                // An empty list is `null` of some kinds.
                200 => {
                    let items = list["items"].as_array().into_iter().flatten();
                    all.extend(items.map(|item| known(kind, item)));
                }
                // The kind went while it was being looked at.
                404 => {}
                _ => bail!("{} can't be listed: {status}", kind.plural),
            }
        }
        Ok(all)
    }

    /// Deletes what is not in `baseline`, and waits until it is gone.
    fn clean_up(&self, baseline: &BTreeSet<String>) -> Result<()> {
        wait::until_some_within(CLEAN_UP, "nothing of the test is left", || {
            let now = self.inventory()?;
            let extra: Vec<&Item> = now
                .iter()
                .filter(|item| !baseline.contains(&item.path))
                .collect();
            if !extra.is_empty() {
                self.sweep(&extra)?;
                let paths: Vec<&str> = extra.iter().map(|item| item.path.as_str()).collect();
                return Err(anyhow!("{}", paths.join(", ")));
            }
            Ok(())
        })?;
        let now: BTreeSet<String> = self.inventory()?.into_iter().map(|it| it.path).collect();
        // Who holds a lease renews or renames it.
        match baseline
            .iter()
            .find(|path| !now.contains(*path) && !path.contains("/leases/"))
        {
            Some(path) => bail!("{path} is missing"),
            None => Ok(()),
        }
    }

    /// Goes once over what is to be gone. What is refused is tried again by the next one.
    fn sweep(&self, extra: &[&Item]) -> Result<()> {
        let delete = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        let unbind = json!({"metadata": {"finalizers": null}});
        let steps: Vec<(&str, String, &str, Value)> = extra
            .iter()
            .map(|item| {
                let path = item.path.clone();
                if item.is_namespace && item.ending {
                    let empty = extra
                        .iter()
                        .all(|other| other.is_namespace || other.within != item.within);
                    if empty {
                        // The controller would do the same, in some seconds.
                        let body = json!({
                            "apiVersion": "v1",
                            "kind": "Namespace",
                            "metadata": {"name": item.within},
                            "spec": {"finalizers": []},
                        });
                        return ("PUT", format!("{path}/finalize"), "application/json", body);
                    }
                    return ("GET", path, "application/json", Value::Null);
                }
                if item.ending && item.finalizers {
                    let media_type = "application/merge-patch+json";
                    return ("PATCH", path, media_type, unbind.clone());
                }
                ("DELETE", path, "application/json", delete.clone())
            })
            .collect();
        let requests: Vec<Request<'_>> = steps
            .iter()
            .map(|(method, path, media_type, body)| Request {
                method,
                path,
                accept: "application/json",
                body: (!body.is_null()).then_some((media_type, body)),
            })
            .collect();
        request::send_all(&self.host, &requests).map(drop)
    }
}

fn known(kind: &kinds::ClusterKind, item: &Value) -> Item {
    let metadata = &item["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let is_namespace = kind.plural == "namespaces";
    Item {
        path: kind.path(text("namespace"), text("name")),
        within: text(if is_namespace { "name" } else { "namespace" }).to_owned(),
        is_namespace,
        ending: metadata["deletionTimestamp"].is_string(),
        // The API server itself takes that of a definition away when it has deleted its objects.
        finalizers: kind.plural != "customresourcedefinitions"
            && metadata["finalizers"]
                .as_array()
                .is_some_and(|all| !all.is_empty()),
    }
}
