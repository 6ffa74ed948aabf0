//! Gateways of a cluster are upgraded as a DaemonSet does it: a new Pod beside the old one, which ends when the new one is
//! ready. No client notices, and nothing flaps.

use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::{Cluster, Component, Pod, WatchEvent};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{Installed, NAMESPACE};
use fairway_integration::kubelet::{GRACE, Kubelet, NodePod};
use fairway_integration::lab::Served;
use fairway_integration::load::Load;
use fairway_integration::site::{EDGE, at, server, vip};
use fairway_integration::upgrade::{
    self, CheckedStreams, DATAGRAMS, Download, ECHO, HELD, HTTP, HeldRequest, LINES, NODE_PORT,
    OldClients, SERVERS,
};
use fairway_integration::{tests, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

tests![
    clients_that_are_older_than_several_rollouts_notice_none,
    a_pod_that_does_not_agree_says_what_differs_and_the_other_one_serves_on,
    a_container_that_is_killed_loses_only_what_it_carried_alone,
    a_container_that_was_superseded_does_not_take_over_back,
    a_rollout_that_is_taken_back_halfway_ends_at_the_old_pod,
    where_the_new_pod_is_gone_for_long_the_old_one_serves_again,
    a_pod_that_still_carries_http_is_as_ready_as_the_one_that_serves,
    a_rollout_that_is_taken_back_while_http_drains_ends_at_the_old_pod,
    a_rollout_while_the_api_server_is_away_closes_nothing,
];

/// A node whose gateway is in Pods, and a Service.
struct NodeInCluster<'a> {
    kubelet: Kubelet,
    _servers: Vec<Served>,
    _controller: Fairway,
    cluster: &'a Cluster,
    // Last: the others run on its hosts.
    it: Installed<'a>,
}

impl<'a> NodeInCluster<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let it = Installed::new(cluster)?;
        let servers = upgrade::serve(&it.site.farm)?;
        let announce = "announce: {layer2: {interfaces: [front]}}";
        it.pool_of(
            "edge",
            &format!("addresses: [203.0.113.1-203.0.113.9], {announce}"),
        )?;
        cluster.node("node-a", &[server(18)], &[])?;
        let controller = it.controller("controller-1", &["--default-class"])?;
        let port = |name: &str, port: u16, more: Value| {
            let mut all = json!({"name": name, "port": port, "protocol": "TCP"});
            for (field, value) in more.as_object().into_iter().flatten() {
                all[field] = value.clone();
            }
            all
        };
        let ports = json!([
            port("lines", LINES, json!({"nodePort": NODE_PORT})),
            port("echo", ECHO, json!({})),
            port("web", HTTP, json!({"appProtocol": "http"})),
            port("held", HELD, json!({"appProtocol": "http"})),
            port("dns", DATAGRAMS, json!({"protocol": "UDP"})),
        ]);
        let asks = json!({"fairway.dev/addresses": vip(1).to_string()});
        it.asking(("shop", "shop"), asks, json!({"ports": ports}))?;
        for n in 0..SERVERS {
            cluster.pod(&Pod {
                namespace: "shop",
                name: &format!("shop-{n}"),
                labels: &[("app", "shop")],
                ips: &[server(n)],
                node: "node-a",
                ..Pod::default()
            })?;
        }
        let account = it.account("fairway-gateway")?;
        let kubelet = Kubelet::new(&it.site.edge, "edge-1", &account)?;
        Ok(Self {
            kubelet,
            _servers: servers,
            _controller: controller,
            cluster,
            it,
        })
    }

    /// The first Pod, which serves.
    fn first(&mut self) -> Result<NodePod> {
        let mut pod = self.kubelet.start(&[])?;
        pod.ready()?;
        self.it.answers(vip(1), LINES, Some("a"))?;
        for kind in ["fairway.dev/Programmed", "fairway.dev/Announced"] {
            self.it.says("shop", kind, &["True"])?;
        }
        Ok(pod)
    }

    fn old(&self, connections: usize, flows: usize) -> Result<OldClients> {
        OldClients::open(&self.it.site, connections, flows)
    }

    /// Every state of the Service from now on.
    fn watch(&self) -> Result<SteadyService> {
        let first = self.it.get("shop")?;
        let events = self.cluster.watch("Service", "shop")?;
        Ok(SteadyService { first, events })
    }
}

/// A Service that is to stay as it is.
struct SteadyService {
    first: Value,
    events: Receiver<WatchEvent>,
}

impl SteadyService {
    /// What people see of it: its addresses, and of each condition all but its words.
    fn seen(service: &Value) -> Value {
        let conditions = service.pointer("/status/conditions");
        let conditions = conditions.and_then(Value::as_array).into_iter().flatten();
        let conditions = conditions.map(|it| json!([it["type"], it["status"], it["reason"]]));
        json!([
            service["status"]["loadBalancer"],
            conditions.collect::<Vec<_>>()
        ])
    }

    /// It has been the same all the time. Returns how many events there were.
    fn check(&self) -> Result<usize> {
        let mut count = 0;
        for event in self.events.try_iter() {
            count += 1;
            ensure!(event.kind == "MODIFIED", "{event:?}");
            let (was, is) = (Self::seen(&self.first), Self::seen(&event.object));
            ensure!(was == is, "it was {was} and is {is}");
        }
        Ok(count)
    }
}

fn unchanged(old: &mut OldClients, when: &str) -> Result<()> {
    let changed = old.changed();
    ensure!(changed == (0, 0), "{when}: {changed:?} changed");
    Ok(())
}

fn clients_that_are_older_than_several_rollouts_notice_none() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut pod = node.first()?;
    let mut old = node.old(200, 60)?;
    let client = node.it.site.client.clone();
    let streams = CheckedStreams::start(&client, at(vip(1), ECHO), 16)?;
    let every = Duration::from_millis(4);
    let loads = [at(vip(1), LINES), at(EDGE, NODE_PORT)].map(|to| Load::start(&client, to, every));
    let steady = node.watch()?;
    let mut sockets = Vec::new();
    for round in 0..4 {
        let download = Download::begin(&client)?;
        pod = node.kubelet.roll(pod, &[])?;
        unchanged(&mut old, &format!("rollout {round}"))?;
        download.finish()?;
        println!("rollout {round}: {:?}", streams.longest_pause());
        ensure!(streams.wrong().is_empty(), "{:?}", streams.wrong());
        sockets.push(pod.sockets()?);
    }
    streams.end()?;
    for load in loads {
        let load = load?;
        load.settle()?;
        let tally = load.take();
        println!("{} answered", tally.good);
        ensure!(tally.bad.is_empty(), "{:?}", tally.bad);
    }
    println!(
        "{} events of the Service; sockets: {sockets:?}",
        steady.check()?
    );
    let (first, last) = (sockets.first(), sockets.last());
    ensure!(last < first.map(|it| it + 40).as_ref(), "{sockets:?}");
    // The last one ends as usual.
    let status = pod.terminate(GRACE)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn a_pod_that_does_not_agree_says_what_differs_and_the_other_one_serves_on() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let pod = node.first()?;
    let mut old = node.old(8, 4)?;
    let steady = node.watch()?;
    for (argument, says) in [
        (
            "--namespace=other",
            "--namespace is fairway-system there and other here",
        ),
        ("--no-steering", "--no-steering is"),
    ] {
        let mut new = node.kubelet.start(&[argument])?;
        let status = new.ended()?;
        new.says(says)?;
        ensure!(status.code() == Some(2), "{status}");
        // And so when the kubelet starts it again.
        new.start_container()?;
        ensure!(new.ended()?.code() == Some(2));
        unchanged(&mut old, argument)?;
    }
    steady.check()?;
    let mut pod = node.kubelet.roll(pod, &[])?;
    unchanged(&mut old, "a Pod that agrees")?;
    pod.probe("alive")
}

fn a_container_that_is_killed_loses_only_what_it_carried_alone() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut pod = node.first()?;
    let seed = seed();
    println!("seed {seed}");
    let (mut before, mut between, mut after) = (0, 0, 0);
    for number in 0..10 {
        let mut old = node.old(40, 10)?;
        // Of the new one: from its start until it serves.
        let delay = Duration::from_micros(spread(seed + number) % 320_000);
        let mut new = node.kubelet.start(&[])?;
        std::thread::sleep(delay);
        new.kill()?;
        let begun = pod.said()?.contains("another process takes over");
        let over = match begun {
            true => wait::until_some("the old one knows how it went", || {
                let said = pod.said()?;
                let went = said.contains(" handed over: what");
                ensure!(went || said.contains("goes on with all"), "{said}");
                Ok::<_, anyhow::Error>(went)
            })?,
            false => false,
        };
        if over {
            after += 1;
            // The kubelet starts it again; nobody hands over to it, and it serves.
            new.start_container()?;
            new.ready()?;
            let status = pod.terminate(GRACE)?;
            ensure!(status.success(), "{status}");
            pod = new;
        } else {
            // What was the new one's already is lost with it. All else the old one has, and whoever comes.
            let lost = old.renew(&node.it.site)?;
            let said = pod.said()?;
            let line = said.lines().rfind(|it| it.contains("goes on with all"));
            let number = |name: &str| -> usize {
                let words = line.unwrap_or_default().split_whitespace();
                let found = words.rev().find_map(|it| it.strip_prefix(name));
                found.and_then(|it| it.parse().ok()).unwrap_or_default()
            };
            let alone = (number("connections="), number("flows="));
            ensure!(
                lost.0 <= alone.0 && lost.1 <= alone.1,
                "{lost:?} of {alone:?}"
            );
            match begun {
                true => between += 1,
                false => before += 1,
            }
            // The next one begins with a log of its own.
            pod = node.kubelet.roll(pod, &[])?;
        }
        node.it.answers(vip(1), LINES, Some("a"))?;
        println!("killed after {delay:?}: begun {begun}, over {over}");
    }
    println!("{before} before, {between} meanwhile, {after} after");
    Ok(())
}

fn a_container_that_was_superseded_does_not_take_over_back() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut first = node.first()?;
    let mut old = node.old(24, 8)?;
    let steady = node.watch()?;
    let mut second = node.kubelet.start(&[])?;
    second.ready()?;
    // It lives, and waits for its end; the node is served.
    first.says("it stands by")?;
    for question in ["alive", "ready"] {
        first.probe(question)?;
    }
    // The kubelet starts a container again that has ended.
    first.kill()?;
    first.start_container()?;
    first.says("it stands by")?;
    first.probe("ready")?;
    unchanged(&mut old, "the old container was started again")?;
    // A third Pod takes over from the second one, and not from the first one.
    let mut third = node.kubelet.start(&[])?;
    third.ready()?;
    second.says("it stands by")?;
    unchanged(&mut old, "a third Pod")?;
    for pod in [first, second] {
        let status = pod.terminate(GRACE)?;
        ensure!(status.success(), "{status}");
    }
    unchanged(&mut old, "the others are gone")?;
    steady.check()?;
    third.probe("ready")
}

fn a_rollout_that_is_taken_back_halfway_ends_at_the_old_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut first = node.first()?;
    let mut old = node.old(40, 10)?;
    let load = Load::start(
        &node.it.site.client,
        at(vip(1), LINES),
        Duration::from_millis(5),
    )?;
    let steady = node.watch()?;
    let mut second = node.kubelet.start(&[])?;
    second.ready()?;
    first.says("it stands by")?;
    unchanged(&mut old, "the new one has taken over")?;
    // The DaemonSet deletes the new one, for the old one is of the wanted revision and ready.
    let status = second.terminate(GRACE)?;
    ensure!(status.success(), "{status}");
    first.ready()?;
    unchanged(&mut old, "the old one has taken over back")?;
    load.settle()?;
    let tally = load.take();
    ensure!(tally.bad.is_empty(), "{:?}", tally.bad);
    println!("{} answered, {} events", tally.good, steady.check()?);
    // It is the one that serves, and a newer one takes over from it.
    let mut third = node.kubelet.roll(first, &[])?;
    unchanged(&mut old, "the next rollout")?;
    third.probe("ready")
}

fn where_the_new_pod_is_gone_for_long_the_old_one_serves_again() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut first = node.first()?;
    let mut second = node.kubelet.start(&[])?;
    second.ready()?;
    first.says("it stands by")?;
    second.kill()?;
    wait::until_some("the old one is not ready", || match first.probe("ready") {
        Ok(()) => bail!("it is"),
        Err(why) => {
            ensure!(format!("{why:#}").contains("no newer process"), "{why:#}");
            Ok(())
        }
    })?;
    // The container of the new one is started again only after a while: the old one serves meanwhile.
    first.ready()?;
    node.it.answers(vip(1), LINES, Some("a"))?;
    let mut old = node.old(24, 8)?;
    second.start_container()?;
    second.ready()?;
    unchanged(&mut old, "the new one is back")?;
    // At any moment: when it has just handed over, too.
    first.signal(Signal::TERM)?;
    let status = first.ended()?;
    ensure!(status.success(), "{status}");
    unchanged(&mut old, "the old one is gone")?;
    second.probe("ready")
}

/// Waits until that Pod is not ready, and says so in these words. It must be carrying HTTP to its end all the time.
fn is_not_ready(pod: &mut NodePod, words: &str) -> Result<()> {
    wait::until_some("it is not ready", || match pod.probe("ready") {
        Ok(()) => bail!("it is"),
        Err(why) => {
            ensure!(format!("{why:#}").contains(words), "{why:#}");
            Ok(())
        }
    })?;
    let said = pod.said()?;
    ensure!(!said.contains("stopped"), "{said}");
    Ok(())
}

fn a_pod_that_still_carries_http_is_as_ready_as_the_one_that_serves() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut first = node.first()?;
    let _held = HeldRequest::begin(&node.it.site.client)?;
    let mut second = node.kubelet.start(&[])?;
    second.ready()?;
    first.says("what is left here drains")?;
    first.probe("ready")?;
    // The process that serves is there, and does nothing.
    second.signal(Signal::STOP)?;
    is_not_ready(&mut first, "does not answer")?;
    second.signal(Signal::CONT)?;
    first.ready()?;
    // And now it is gone, for longer than the kubelet takes to start it again at first.
    second.kill()?;
    is_not_ready(&mut first, "no newer process serves")?;
    first.says("what is left here is cut")?;
    // It has waited for the other one already.
    first.says("starting as usual")?;
    let said = first.said()?;
    ensure!(!said.contains("it stands by"), "{said}");
    first.ready()?;
    node.it.answers(vip(1), LINES, Some("a"))?;
    let mut old = node.old(24, 8)?;
    second.start_container()?;
    second.ready()?;
    unchanged(&mut old, "the new one is back")
}

fn a_rollout_that_is_taken_back_while_http_drains_ends_at_the_old_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let mut first = node.first()?;
    let mut old = node.old(24, 8)?;
    let _held = HeldRequest::begin(&node.it.site.client)?;
    let steady = node.watch()?;
    let mut second = node.kubelet.start(&[])?;
    second.ready()?;
    first.says("what is left here drains")?;
    // Two seconds later the first one has asked how it is.
    second.signal(Signal::STOP)?;
    is_not_ready(&mut first, "does not answer")?;
    second.signal(Signal::CONT)?;
    first.ready()?;
    let status = second.terminate(GRACE)?;
    ensure!(status.success(), "{status}");
    first.ready()?;
    unchanged(&mut old, "the old one has taken over back")?;
    steady.check()?;
    node.it.answers(vip(1), LINES, Some("a"))
}

fn a_rollout_while_the_api_server_is_away_closes_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut node = NodeInCluster::new(&cluster)?;
    let pod = node.first()?;
    let mut old = node.old(24, 8)?;
    let steady = node.watch()?;
    cluster.pause_component(Component::ApiServer)?;
    let rolled = node.kubelet.roll(pod, &[]);
    let answered = node.it.who(at(vip(1), LINES));
    let is_same = unchanged(&mut old, "the API server is away");
    cluster.resume_component(Component::ApiServer)?;
    let mut pod = rolled?;
    is_same?;
    ensure!(answered.as_deref() == Some("a"), "{answered:?}");
    // It is heard again: this one tells how it is, and nothing has changed.
    let lease = ("Lease", NAMESPACE, "fairway-gateway-edge-1");
    let renewed = || -> Result<String> {
        let lease = node.cluster.get_json(lease.0, lease.1, lease.2)?;
        let at = lease["spec"]["renewTime"].as_str();
        Ok(at.context("never")?.to_owned())
    };
    let before = renewed()?;
    wait::until_some("the Lease is renewed", || {
        let now = renewed()?;
        ensure!(now != before, "{now}");
        Ok(())
    })?;
    unchanged(&mut old, "the API server is back")?;
    steady.check()?;
    pod.probe("ready")
}

/// A number that differs from run to run, or that of the environment: what a failure has printed.
fn seed() -> u64 {
    let given = std::env::var("FAIRWAY_TEST_SEED").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_secs())
    })
}

/// Bits that look random (SplitMix64).
fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
