//! What a cluster may do to a provider that is no fault of either.

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::Installed;
use fairway_integration::{tests, wait};
use serde_json::json;

tests![a_status_that_admission_forbids_is_the_state_of_that_service];

/// A rule of the cluster against statuses of Services with the label `guarded`.
const GUARD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: guard}
spec:
  failurePolicy: Fail
  matchConstraints:
    objectSelector: {matchLabels: {guarded: 'yes'}}
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}
  validations:
  - {expression: 'false', message: 'nobody writes here', reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: guard}
spec: {policyName: guard, validationActions: [Deny]}
";

fn a_status_that_admission_forbids_is_the_state_of_that_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    cluster.apply(GUARD)?;
    let guarded = |name: &str, kind: &str| {
        let metadata = json!({"name": name, "labels": {"guarded": "yes"}});
        let spec = json!({"type": kind, "ports": [{"port": 80}]});
        cluster
            .create(
                "Service",
                "shop",
                &json!({"metadata": metadata, "spec": spec}),
            )
            .map(drop)
    };
    guarded("probe", "ClusterIP")?;
    wait::until("the rule is in force", || {
        it.change_status("probe", json!({"conditions": []}))
            .is_err()
    })?;
    let mut controller = it.controller("controller-1", &["--default-class"])?;
    guarded("one", "LoadBalancer")?;
    let words = ["Rejected", "nobody writes here"];
    it.tells("one", "SyncLoadBalancerFailed", &words)?;
    controller.problem(&["Service shop/one", "nobody writes here"])?;
    controller.explains("shop/one", &["nobody writes here"])?;
    ensure!(controller.metric("fairway_rejected_writes", &[])? > 0.0);
    // Neither the process nor anybody else is held up.
    controller.ready()?;
    it.service("two", "ports: [{port: 80}]")?;
    let other = it.address("two")?;
    ensure!(it.addresses("one")?.is_empty());

    // What was decided stands, and is written as soon as it may be.
    cluster.delete("ValidatingAdmissionPolicyBinding", "", "guard")?;
    ensure!(it.address("one")? != other);
    wait::until_some("nothing is refused any more", || {
        let refused = controller.metric("fairway_rejected_writes", &[])?;
        ensure!(refused == 0.0, "{refused}");
        Ok::<_, anyhow::Error>(())
    })
}
