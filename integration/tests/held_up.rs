//! What a webhook that hangs for one namespace holds up, and who is ready to lead.

use std::cell::RefCell;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, Component, service_without_node_ports};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed, NAMESPACE};
use fairway_integration::lab::Host;
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    a_webhook_that_hangs_for_one_namespace_holds_up_no_other_and_no_end,
    a_controller_that_cannot_lead_is_not_ready,
];

/// So many Services stand behind the webhook.
const BEHIND: usize = 50;

/// All others together take no longer, on a machine that is busy; it was 200 seconds.
const OTHERS: Duration = Duration::from_secs(60);

/// A controller that is told to stop takes no longer; what it would wait for takes 30 seconds ([`UNANSWERED`]).
const END: Duration = Duration::from_secs(20);

/// After so many seconds the API server gives the webhook up.
const UNANSWERED: u64 = 30;

/// A webhook that takes connections and never says anything, for changes of Services in one namespace.
/// It goes with this value.
struct Hanging<'a> {
    cluster: &'a Cluster,
    listener: TcpListener,
    /// The connections of the API server. One that is closed would end what hangs.
    calls: RefCell<Vec<TcpStream>>,
}

const WEBHOOK: &str = "hangs";

impl<'a> Hanging<'a> {
    fn begin(cluster: &'a Cluster, namespace: &str) -> Result<Self> {
        let listener = cluster.host().run(|| TcpListener::bind("127.0.0.1:0"))?;
        listener.set_nonblocking(true)?;
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": WEBHOOK},
            "webhooks": [{
                "name": "hangs.example.com",
                "clientConfig": {"url": format!("https://{}/", listener.local_addr()?)},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
                    "resources": ["services", "services/status"],
                }],
                "sideEffects": "None", "timeoutSeconds": UNANSWERED, "failurePolicy": "Fail",
                "admissionReviewVersions": ["v1"],
            }],
        });
        cluster.apply(&webhook.to_string())?;
        Ok(Self {
            cluster,
            listener,
            calls: RefCell::default(),
        })
    }

    /// Waits until the API server asks for one more change. It waits for the answer for some seconds then, and so does
    /// whoever makes the change.
    fn wait_for_call(&self) -> Result<()> {
        // Those that are there may be of changes that were given up.
        self.take_calls();
        wait::until("a change hangs", || self.take_calls() > 0)
    }

    /// Returns how many were new.
    fn take_calls(&self) -> usize {
        let mut calls = self.calls.borrow_mut();
        let before = calls.len();
        calls.extend(std::iter::from_fn(|| {
            self.listener.accept().ok().map(|(stream, _)| stream)
        }));
        calls.len() - before
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        let _ = self
            .cluster
            .delete("ValidatingWebhookConfiguration", "", WEBHOOK);
    }
}

fn services(count: usize) -> Vec<Value> {
    let names = (0..count).map(|n| format!("web-{n}"));
    names
        .map(|name| service_without_node_ports(&name))
        .collect()
}

fn a_webhook_that_hangs_for_one_namespace_holds_up_no_other_and_no_end() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    cluster.namespace("slow")?;
    let mut controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    let hanging = Hanging::begin(&cluster, "slow")?;
    cluster.create_all("Service", "slow", &services(BEHIND))?;
    wait::until_some("the controller says what is not answered", || {
        let problems = controller.get("/api/v1/problems")?.body;
        ensure!(problems.contains("namespace slow"), "{problems}");
        Ok(())
    })?;
    let began = Instant::now();
    cluster.create_all("Service", "shop", &services(30))?;
    cluster.wait_for_holders("shop", 30)?;
    ensure!(began.elapsed() < OTHERS, "{:?}", began.elapsed());
    // That is the state of those Services, and the controller is ready.
    controller.ready()?;
    ensure!(cluster.holders("slow")?.is_empty());
    // Between two tries nothing is on its way, and the Lease would be given back.
    hanging.wait_for_call()?;
    let began = Instant::now();
    controller.stop()?;
    ensure!(began.elapsed() < END, "{:?}", began.elapsed());
    // What may be on its way ends before another controller begins.
    let lease = cluster.get_json("Lease", NAMESPACE, "fairway-controller")?;
    let holder = lease["spec"]["holderIdentity"].as_str();
    ensure!(holder.is_some_and(|it| !it.is_empty()), "{lease}");
    drop(hanging);
    let _next = it.controller("controller-2", &[DEFAULT_CLASS])?;
    cluster.wait_for_holders("slow", BEHIND)?;
    cluster.wait_for_holders("shop", 30)
}

/// A controller of that account, which has begun.
fn begun(it: &Installed<'_>, name: &str, kubeconfig: &std::path::Path) -> Result<(Host, Fairway)> {
    let host = Host::new(name)?;
    it.cluster.attach(&host)?;
    let mut controller = Fairway::member(&host, "controller", kubeconfig)?.arguments(&[
        "--node-name",
        name,
        DEFAULT_CLASS,
    ]);
    controller.launch()?;
    Ok((host, controller))
}

/// It is not ready, and says why.
fn is_not_ready(controller: &Fairway, words: &str) -> Result<()> {
    wait::until_some(&format!("it says that {words}"), || {
        let answer = controller.get("/readyz")?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.body);
        ensure!(answer.body.contains(words), "{}", answer.body);
        Ok(())
    })?;
    wait::always(Duration::from_secs(3), "it is not ready", || {
        controller.get("/readyz").is_ok_and(|it| it.status == 503)
    })
}

const READS_LEASES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads-leases, namespace: fairway-system}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads-leases, namespace: fairway-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads-leases}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
";

fn a_controller_that_cannot_lead_is_not_ready() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let leader = it.controller("leader", &[DEFAULT_CLASS])?;
    let follower = it.controller("follower", &[DEFAULT_CLASS])?;
    // One may not even read the Lease; the other sees that somebody leads, and could not.
    cluster.apply(READS_LEASES)?;
    let nobody = cluster.kubeconfig_of_user("nobody", None)?;
    let reader = cluster.kubeconfig_of_user("reader", None)?;
    let (_host, blind) = begun(&it, "blind", &nobody)?;
    let (_other, barred) = begun(&it, "barred", &reader)?;
    is_not_ready(&blind, "forbidden")?;
    is_not_ready(&barred, "this one could not: RBAC does not allow it")?;
    ensure!(leader.get("/readyz")?.status == 200 && follower.get("/readyz")?.status == 200);
    // Without an API server nobody knows who leads.
    cluster.stop_component(Component::ApiServer)?;
    for controller in [&leader, &follower] {
        is_not_ready(controller, "has not seen lately")?;
    }
    cluster.start_component(Component::ApiServer)?;
    for mut controller in [leader, follower] {
        controller.ready().context("it is ready again")?;
    }
    Ok(())
}
