//! The control plane restarts, refuses, goes back in time, loses a kind: traffic never stops, and
//! in the end everything is as it should be, with no address given twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fairway_config::time::Timestamp;
use fairway_integration::cluster::{Cluster, Component};
use fairway_integration::in_cluster::{AtWork, DEFAULT_CLASS, MANIFESTS, NAMESPACE, Web};
use fairway_integration::site::vip;
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    a_restarted_api_server_and_an_expired_watch_miss_nothing,
    etcd_is_away_longer_than_a_term_and_nothing_moves,
    refused_for_too_many_requests_it_converges,
    a_clock_that_jumps_changes_nothing,
    a_cluster_restored_from_a_backup_is_served_as_it_is_now,
    addresses_stay_while_the_definition_of_pools_is_gone,
];

/// Fairway at work, and the Service [`Web`], which is served.
struct Shop<'a> {
    it: AtWork<'a>,
    web: Web,
}

impl<'a> Shop<'a> {
    fn open(cluster: &'a Cluster, addresses: &[&str]) -> Result<Self> {
        Self::open_with(cluster, addresses, &[])
    }

    fn open_with(
        cluster: &'a Cluster,
        addresses: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let it = AtWork::begin_with(cluster, addresses, environment)?;
        let web = it.web()?;
        it.answers(web.ip, 80, Some("a"))?;
        Ok(Self { it, web })
    }

    /// While `act` goes on every new connection to `web` is served, and so is an old one.
    fn served_while(&self, act: impl FnOnce() -> Result<()>) -> Result<()> {
        self.it.served_while(self.web.to, "a", act)
    }

    /// Makes Services without traffic, and waits until each has an address of its own.
    fn more(&self, names: impl Iterator<Item = String>) -> Result<()> {
        let service = |name: &String| {
            json!({"metadata": {"name": name}, "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"port": 81}],
            }})
        };
        let names: Vec<String> = names.collect();
        let all: Vec<Value> = names.iter().map(service).collect();
        self.it.cluster.create_all("Service", "shop", &all)?;
        for name in &names {
            self.it.address(name)?;
        }
        self.is_sound()
    }

    /// No two Services have the same address, and `web` has the one it had.
    fn is_sound(&self) -> Result<()> {
        let holders = self.it.cluster.holders("shop")?;
        let mut all: Vec<&String> = holders.values().flatten().collect();
        all.sort();
        ensure!(all.windows(2).all(|two| two[0] != two[1]), "{holders:?}");
        ensure!(
            holders.get("web") == Some(&vec![self.web.ip.to_string()]),
            "{holders:?}"
        );
        Ok(())
    }
}

/// A restart of the API server makes it forget what happened before, so that a watch can't go on
/// where it ended (410). What happened meanwhile nobody is told: a Service is gone all the same.
fn a_restarted_api_server_and_an_expired_watch_miss_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shop = Shop::open(&cluster, &["203.0.113.1-203.0.113.2"])?;
    shop.more(["gone".to_owned()].into_iter())?;
    let freed = shop.it.address("gone")?;
    wait::until("the gateway knows it", || {
        shop.it.gateway.service("shop/gone").is_ok()
    })?;
    shop.served_while(|| {
        cluster.stop_component(Component::ApiServer)?;
        // /registry/services/specs/shop/gone
        let body = r#"{"key": "L3JlZ2lzdHJ5L3NlcnZpY2VzL3NwZWNzL3Nob3AvZ29uZQ=="}"#;
        let url = "http://127.0.0.1:2379/v3/kv/deleterange";
        let arguments = ["-sf", "-d", body, url];
        let answer = cluster.host().run(|| clients::output("curl", &arguments))?;
        ensure!(answer.contains("\"deleted\":\"1\""), "{answer}");
        for process in [&shop.it.controller, &shop.it.gateway] {
            process.problem(&["services can't be watched"])?;
        }
        cluster.start_component(Component::ApiServer)?;
        wait::until("the gateway has forgotten it", || {
            shop.it.gateway.service("shop/gone").is_err()
        })?;
        shop.more(["next".to_owned()].into_iter())?;
        ensure!(shop.it.address("next")? == freed);
        Ok(())
    })?;
    shop.it.controller.logs(&["too old resource version"])?;
    shop.it.gateway.logs(&["too old resource version"])?;
    Ok(())
}

/// How long etcd is away while nobody leads.
const AWAY: Duration = Duration::from_secs(30);

fn etcd_is_away_longer_than_a_term_and_nothing_moves() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shop = Shop::open(&cluster, &["203.0.113.0/24"])?;
    shop.more((0..10).map(|n| format!("before-{n}")))?;
    let before = cluster.holders("shop")?;
    shop.served_while(|| {
        cluster.stop_component(Component::Etcd)?;
        shop.it.controller.logs(&["no longer leading"])?;
        wait::always(AWAY, "the address answers", || {
            shop.it.who(shop.web.to).as_deref() == Some("a")
        })?;
        cluster.start_component(Component::Etcd)?;
        cluster.wait_until_ready(Component::ApiServer)?;
        shop.more((0..10).map(|n| format!("after-{n}")))
    })?;
    let after = cluster.holders("shop")?;
    for (name, addresses) in &before {
        ensure!(after.get(name) == Some(addresses), "{name}: {after:?}");
    }
    Ok(())
}

/// From now on the API server takes one of Fairway's requests at a time, and refuses every other
/// (429).
fn throttle(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: flowcontrol.apiserver.k8s.io/v1\nkind: PriorityLevelConfiguration\n\
         metadata: {{name: fairway-throttled}}\n\
         spec: {{type: Limited, limited: {{nominalConcurrencyShares: 0, \
         lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {{type: Reject}}}}}}\n---\n\
         apiVersion: flowcontrol.apiserver.k8s.io/v1\nkind: FlowSchema\n\
         metadata: {{name: fairway-throttled}}\n\
         spec:\n  matchingPrecedence: 2\n\
         \x20 priorityLevelConfiguration: {{name: fairway-throttled}}\n  rules:\n\
         \x20 - subjects: [{{kind: Group, group: {{name: 'system:serviceaccounts:{NAMESPACE}'}}}}]\n\
         \x20   resourceRules: [{{verbs: ['*'], apiGroups: ['*'], resources: ['*'], \
         clusterScope: true, namespaces: ['*']}}]\n",
    ))
}

/// How many of Fairway's requests the API server has `dispatched` or `rejected` since.
fn requests(cluster: &Cluster, what: &str) -> Result<f64> {
    let url = "http://127.0.0.1:8001/metrics";
    let metrics = cluster
        .host()
        .run(|| clients::output("curl", &["-sf", url]))?;
    let name = format!("apiserver_flowcontrol_{what}_requests_total{{");
    let level = "priority_level=\"fairway-throttled\"";
    let lines = metrics.lines();
    let ours = lines.filter(|line| line.starts_with(&name) && line.contains(level));
    let counts = ours.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(counts.sum())
}

fn refused_for_too_many_requests_it_converges() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shop = Shop::open(&cluster, &["203.0.113.0/24"])?;
    shop.more((0..10).map(|n| format!("before-{n}")))?;
    let before = cluster.holders("shop")?;
    shop.it.pool("more", &["10.20.0.0/16"])?;
    throttle(&cluster)?;
    wait::until_some("it is so", || {
        let taken = requests(&cluster, "dispatched")?;
        ensure!(taken > 0.0, "{taken}");
        Ok(())
    })?;
    shop.served_while(|| {
        let mut made = 0;
        // However fast the answers come: sooner or later two requests meet. What has been refused by
        // then was made good, for each round waits for all of its own.
        wait::until_some("a request was refused", || {
            shop.more((made..made + 50).map(|n| format!("after-{n}")))?;
            made += 50;
            let refused = requests(&cluster, "rejected")?;
            ensure!(refused > 0.0, "of {made} Services' requests none");
            Ok(())
        })?;
        shop.more((made..made + 50).map(|n| format!("after-{n}")))
    })?;
    let after = cluster.holders("shop")?;
    for (name, addresses) in &before {
        ensure!(after.get(name) == Some(addresses), "{name}: {after:?}");
    }
    Ok(())
}

/// Where a clock is set: `faketime`'s library reads how far it is off from a file at every look.
/// What counts spans of time goes on as it did, as it does when a clock is set.
fn clock(at: &Path) -> Result<[(&'static str, String); 4]> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let libraries = folders.map(|it| it.path().join("faketime/libfaketimeMT.so.1"));
    let library: PathBuf = libraries
        .into_iter()
        .find(|it| it.exists())
        .context("libfaketime is not installed; `cargo xtask test` says how to get it")?;
    Ok([
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", at.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

fn a_clock_that_jumps_changes_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let folder = tempfile::TempDir::with_prefix("fairway-clock-")?;
    let file = folder.path().join("offset");
    fs::write(&file, "+0")?;
    let environment = clock(&file)?;
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let shop = Shop::open_with(&cluster, &["203.0.113.0/24"], &environment)?;
    // Somebody with another clock waits for the Lease to run out.
    let other = shop.it.controller("controller-2", &[DEFAULT_CLASS])?;
    let led = lease(&cluster)?;
    shop.served_while(|| {
        for (n, (offset, days)) in [("+3650d", 3650), ("-1500d", -1500), ("+0", 0)]
            .into_iter()
            .enumerate()
        {
            // In one step: an empty file is no offset.
            let next = file.with_extension("next");
            fs::write(&next, offset)?;
            fs::rename(&next, &file)?;
            // Long enough for whoever compares that time with a clock to have looked at it often.
            for _ in 0..RENEWALS {
                is_renewed(&cluster, days)?;
            }
            shop.more([format!("more-{n}")].into_iter())?;
            let now = lease(&cluster)?;
            for field in ["holderIdentity", "leaseTransitions"] {
                ensure!(now[field] == led[field], "{offset}: {led} {now}");
            }
            ensure!(other.list("services")?.is_empty(), "two lead");
            wait::until_some("the gateway is heard", || {
                let rows = shop.it.controller.list("gateways")?;
                ensure!(rows.len() == 1 && rows[0]["ready"] == true, "{rows:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// How many renewals of a Lease are waited for. Whoever waits for its end looks at it as often as
/// whoever has it renews it.
const RENEWALS: usize = 5;

/// In seconds.
const DAY: i64 = 86_400;

fn lease(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.get_json("Lease", NAMESPACE, "fairway-controller")?["spec"].take())
}

/// Waits until the Lease is renewed once more, by a clock that is so many days ahead.
fn is_renewed(cluster: &Cluster, days: i64) -> Result<()> {
    let before = lease(cluster)?;
    wait::until_some("the Lease is renewed by that clock", || {
        let spec = lease(cluster)?;
        let renewed = spec["renewTime"].as_str().context("no time")?;
        let renewed: Timestamp = renewed.parse()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let ahead = renewed.0 - i64::try_from(now)?;
        // Half a day is more than any machine takes to tell.
        ensure!((ahead - days * DAY).abs() < DAY / 2, "{ahead} s ahead");
        ensure!(spec["renewTime"] != before["renewTime"], "{spec}");
        Ok(())
    })
}

/// Runs etcd on this copy of its data from now on, or makes a copy of what it has.
fn with_etcd_stopped(cluster: &Cluster, act: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    for component in [Component::ApiServer, Component::Etcd] {
        cluster.stop_component(component)?;
    }
    act(&cluster.folder().join("etcd"))?;
    for component in [Component::Etcd, Component::ApiServer] {
        cluster.start_component(component)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    clients::output("cp", &["-a", &from, &to]).map(drop)
}

/// The versions of objects begin again at an older one, and what happened since has not happened.
fn a_cluster_restored_from_a_backup_is_served_as_it_is_now() -> Result<()> {
    let cluster = Cluster::start()?;
    let shop = Shop::open(&cluster, &["203.0.113.1-203.0.113.9"])?;
    shop.more(["stays".to_owned()].into_iter())?;
    let stays = shop.it.address("stays")?;
    let backup = cluster.folder().join("backup");
    with_etcd_stopped(&cluster, |data| copy(data, &backup))?;

    // What the backup does not know: one Service has gone, and another has its address.
    cluster.delete("Service", "shop", "stays")?;
    cluster.wait_gone("Service", "shop", "stays")?;
    shop.more(["unborn-1", "unborn-2"].map(str::to_owned).into_iter())?;
    ensure!(shop.it.address("unborn-1")? == stays);
    let much = (0..500).map(|n| json!({"metadata": {"name": format!("note-{n}")}}));
    cluster.create_all("ConfigMap", "shop", &much.collect::<Vec<_>>())?;

    shop.served_while(|| {
        with_etcd_stopped(&cluster, |data| {
            fs::rename(data, data.with_extension("lost"))?;
            copy(&backup, data)
        })?;
        let witness = cluster.witness("shop")?;
        ensure!(shop.it.address("stays")? == stays);
        shop.more(["next-1", "next-2"].map(str::to_owned).into_iter())?;
        let held = witness.testifies(true)?;
        ensure!(
            held.get("stays") == Some(&vec![stays.to_string()]),
            "{held:?}"
        );
        // Both know of what is there now, and of nothing else.
        for process in [&shop.it.controller, &shop.it.gateway] {
            wait::until_some("it knows what there is", || {
                for (name, addresses) in &held {
                    let has = process.external_ips(&format!("shop/{name}"))?;
                    ensure!(has == *addresses, "{name}: {has:?}");
                }
                for name in ["shop/unborn-1", "shop/unborn-2"] {
                    ensure!(process.service(name).is_err(), "{name} is there");
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

fn addresses_stay_while_the_definition_of_pools_is_gone() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shop = Shop::open(&cluster, &["203.0.113.1-203.0.113.9"])?;
    let it = &shop.it;
    ensure!(shop.web.ip == vip(1));
    let definition = "crd/addresspools.fairway.dev";
    shop.served_while(|| {
        cluster.kubectl(&["delete", definition, "--timeout=60s"])?;
        for process in [&shop.it.controller, &shop.it.gateway] {
            process.problem(&["CustomResourceDefinition is not installed"])?;
        }
        it.says("web", "fairway.dev/OutOfPool", &["True", "203.0.113.1"])?;
        it.service("next", "ports: [{port: 80}]")?;
        it.says("next", "fairway.dev/AddressAssigned", &["False", "NoPools"])?;
        shop.is_sound()?;

        cluster.apply(MANIFESTS)?;
        let established = "--for=condition=Established";
        cluster.kubectl(&["wait", established, "--timeout=60s", definition])?;
        it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
        ensure!(it.address("next")? == vip(2));
        wait::until_some("its address is of a pool again", || {
            let service = it.get("web")?;
            ensure!(
                !service["status"]
                    .to_string()
                    .contains("fairway.dev/OutOfPool"),
                "{service}"
            );
            Ok(())
        })?;
        shop.is_sound()
    })
}
