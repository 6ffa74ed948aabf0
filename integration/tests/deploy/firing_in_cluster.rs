//! From a state of a real cluster to the alert that people get.

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, at, server};
use fairway_integration::wait;
use rustix::process::Signal;
use serde_json::json;

use crate::firing::scrape;
use crate::timeline::{LONG, Timeline};

/// Waits until the controller counts one in each of these series, and returns that scrape.
fn counted(controller: &Fairway, series: &[&str]) -> Result<String> {
    wait::until_some(&format!("the metrics count {series:?}"), || {
        let exposition = scrape(controller)?;
        for series in series {
            let line = format!("{series} 1");
            ensure!(exposition.lines().any(|it| it == line), "{exposition}");
        }
        Ok::<_, anyhow::Error>(exposition)
    })
}

pub(crate) fn an_alert_fires_where_no_gateway_serves_as_told() -> Result<()> {
    let no_gateway = ("FairwayNoGateway", "");
    let down = ("FairwayGatewayDown", "state=\"silent\"");
    let not_served = |reason| ("FairwayServicesNotServed", reason);
    let behind = not_served("reason=\"GatewayBehind\"");
    let other = not_served("reason=\"Other\"");
    let is_no_gateway = "fairway_services_programmed{reason=\"NoGateway\"}";

    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let mut controller = it.controlled()?;
    let _web = it.web()?;
    let none = counted(&controller, &[is_no_gateway])?;
    Timeline::of(&none).fires(&[no_gateway], &[down, behind, other])?;

    let mut gateway = it.gateway(&[])?;
    let programmed = "fairway_services_programmed{reason=\"Programmed\"}";
    let ready = "fairway_gateways{state=\"ready\"}";
    let well = counted(&controller, &[programmed, ready])?;
    Timeline::of(&well).fires(&[], &[no_gateway, down, behind, other])?;

    // A port that another process of the edge holds.
    let _sshd = named(&it.site.edge, &[("sshd", at(EDGE, 22))])?;
    it.pool("own", &[&format!("{EDGE}-{EDGE}")])?;
    it.asking(
        ("shop", "taken"),
        json!({"fairway.dev/addresses": EDGE.to_string()}),
        json!({"ports": [{"port": 22}]}),
    )?;
    it.pod("taken", 0, server(0), "node-a")?;
    let is_other = "fairway_services_programmed{reason=\"Other\"}";
    let taken = counted(&controller, &[is_other])?;
    Timeline::of(&taken).fires(&[other], &[no_gateway, behind])?;
    cluster.delete("Service", "shop", "taken")?;
    counted(&controller, &[programmed, ready])?;

    // It stands still, and a Service changes.
    gateway.process()?.signal(Signal::STOP)?;
    it.service("next", "ports: [{port: 80}]")?;
    let is_behind = "fairway_services_programmed{reason=\"GatewayBehind\"}";
    let late = counted(&controller, &[is_behind, ready])?;
    Timeline::of(&late).fires(&[behind], &[no_gateway, down])?;
    cluster.delete("Service", "shop", "next")?;

    // It is dead, and does not come back.
    gateway.kill();
    let silent = "fairway_gateways{state=\"silent\"}";
    let dead = counted(&controller, &[is_no_gateway, silent])?;
    let alerts = &[no_gateway, down];
    Timeline::of(&dead).fires(alerts, &[behind, other])?;
    controller.restart()?;
    let restarted = counted(&controller, &[is_no_gateway, silent])?;
    let states = [(Some(&*dead), LONG), (None, 2), (Some(&*restarted), LONG)];
    Timeline::states(&states).fires_throughout(LONG + 5, alerts)?;
    // Nor does the controller: others say so.
    let states = [(Some(&*dead), LONG), (None, LONG)];
    Timeline::states(&states).fires(&[("FairwayDown", ""), ("FairwayAbsent", "")], alerts)?;

    // One that is stopped is no fault, but nobody serves.
    gateway.launch()?;
    gateway.ready()?;
    counted(&controller, &[programmed, ready])?;
    gateway.stop()?;
    let stopped = "fairway_gateways{state=\"stopped\"}";
    let stopped = counted(&controller, &[is_no_gateway, stopped])?;
    Timeline::of(&stopped).fires(&[no_gateway], &[down])
}

pub(crate) fn an_alert_fires_when_the_api_server_takes_no_status() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.8"])?;
    cluster.apply(GUARD)?;
    it.asking(("shop", "probe"), json!({}), json!({"type": "ClusterIP"}))?;
    wait::until("the rule is in force", || {
        it.change_status("probe", json!({"conditions": []}))
            .is_err()
    })?;
    let mut controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    let alert = &[("FairwayWritesRejected", "")];
    Timeline::of(&scrape(&controller)?).fires(&[], alert)?;
    it.service("web", "ports: [{port: 80}]")?;
    let rejected = |controller: &Fairway| {
        wait::until_some("a status is not taken", || {
            let count = controller.metric("fairway_rejected_writes", &[])?;
            ensure!(count > 0.0, "{count}");
            scrape(controller)
        })
    };
    let before = rejected(&controller)?;
    Timeline::of(&before).fires(alert, &[("FairwayNoController", "")])?;
    controller.restart()?;
    let after = rejected(&controller)?;
    let states = [(Some(&*before), LONG), (None, 2), (Some(&*after), LONG)];
    Timeline::states(&states).fires_throughout(LONG + 5, alert)?;
    cluster.delete("ValidatingAdmissionPolicyBinding", "", "no-status")?;
    it.address("web").map(drop)
}

/// A rule of the cluster: nobody writes a status of a Service of the namespace `shop`.
const GUARD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-status}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}
  validations:
  - {expression: 'false', message: 'nobody writes here', reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-status}
spec: {policyName: no-status, validationActions: [Deny]}
";
