//! Other hands on the same objects: people, tenants, and whatever else writes.

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::{AtWork, FINALIZER, Installed};
use fairway_integration::servers::named;
use fairway_integration::site::{at, server};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    a_status_or_finalizer_that_a_person_edits_is_put_right,
    conditions_and_finalizers_of_others_stay,
    a_node_port_that_a_person_changes_moves_no_address,
    a_live_service_changes_its_protocol,
    a_service_goes_through_every_type_and_comes_back,
    a_service_made_anew_under_the_same_name_is_served,
    a_tenant_takes_no_address_that_is_not_theirs,
    no_annotation_hurts_the_others,
];

fn a_status_or_finalizer_that_a_person_edits_is_put_right() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    it.says("web", "fairway.dev/Programmed", &["True"])?;
    let right = it.get("web")?["status"].clone();
    for edit in [
        json!({"loadBalancer": null}),
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}),
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}),
        json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}),
        json!({"loadBalancer": {"ingress": [
            right["loadBalancer"]["ingress"][0], {"hostname": "lb.example.com"},
        ]}}),
        json!({"conditions": null}),
        json!({"conditions": null, "loadBalancer": null}),
    ] {
        it.change_status("web", edit.clone())?;
        wait::until_some(&format!("the status is right after {edit}"), || {
            let mut status = it.get("web")?["status"].clone();
            let mut wanted = right.clone();
            // Since when counts from the edit on.
            for status in [&mut status, &mut wanted] {
                for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                    condition["lastTransitionTime"] = Value::Null;
                }
            }
            ensure!(status == wanted, "{status}");
            Ok(())
        })?;
    }
    for finalizers in [json!(null), json!(["example.com/theirs"])] {
        it.change("web", json!({"metadata": {"finalizers": finalizers}}))?;
        wait::until_some("the finalizer is back", || {
            let finalizers = it.finalizers("web")?;
            ensure!(it.has_finalizer("web")?, "{finalizers:?}");
            Ok(())
        })?;
    }
    it.change("web", json!({"metadata": {"finalizers": [FINALIZER]}}))?;
    it.has("web", &[web.ip])?;
    it.answers(web.ip, 80, Some("a"))
}

fn conditions_and_finalizers_of_others_stay() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    it.service("web", "type: ClusterIP, ports: [{port: 80}]")?;
    let scanned = json!({
        "type": "example.com/Scanned", "status": "True", "reason": "Clean", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    it.change(
        "web",
        json!({"metadata": {"finalizers": ["example.com/theirs"]}}),
    )?;
    it.change_status("web", json!({"conditions": [scanned]}))?;
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    it.address("web")?;
    let theirs = || {
        let service = it.get("web")?;
        let conditions = service["status"]["conditions"].as_array().cloned();
        let there = conditions.is_some_and(|all| all.contains(&scanned));
        ensure!(there, "{service}");
        ensure!(
            it.finalizers("web")?
                .iter()
                .any(|it| it == "example.com/theirs")
        );
        Ok(service)
    };
    theirs()?;
    it.change("web", json!({"spec": {"type": "ClusterIP"}}))?;
    wait::until_some("ours is taken back and theirs stays", || {
        let service = theirs()?;
        let left = service["status"]["conditions"]
            .as_array()
            .map_or(0, Vec::len);
        ensure!(left == 1 && it.finalizers("web")?.len() == 1, "{service}");
        Ok(())
    })?;
    it.change("web", json!({"metadata": {"finalizers": null}}))
}

fn a_node_port_that_a_person_changes_moves_no_address() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    for number in [30061, 30062] {
        let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": number}]);
        it.change("web", json!({"spec": {"ports": ports}}))?;
        wait::until_some("the gateway has heard of it", || {
            let ports = it.gateway.node_ports("shop/web")?;
            ensure!(ports == [number], "{ports:?}");
            Ok(())
        })?;
        it.answers(web.ip, 80, Some("a"))?;
        it.has("web", &[web.ip])?;
    }
    Ok(())
}

fn a_live_service_changes_its_protocol() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    for protocols in [&["UDP"][..], &["TCP", "UDP"], &["TCP"], &["UDP", "TCP"]] {
        let port = |protocol: &&str| json!({"name": protocol.to_lowercase(), "port": 80, "protocol": protocol});
        let ports: Vec<Value> = protocols.iter().map(port).collect();
        it.change("web", json!({"spec": {"ports": ports}}))?;
        let there = |protocol: &str| protocols.contains(&protocol).then_some("a");
        it.answers(web.ip, 80, there("TCP"))?;
        it.answers_udp(web.ip, 80, there("UDP"))?;
        it.has("web", &[web.ip])?;
    }
    Ok(())
}

fn a_service_goes_through_every_type_and_comes_back() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    for kind in ["NodePort", "ClusterIP"] {
        it.change("web", json!({"spec": {"type": kind}}))?;
        it.taken_back("web")?;
    }
    it.answers(web.ip, 80, None)?;
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    it.answers(it.address("web")?, 80, Some("a"))
}

fn a_service_made_anew_under_the_same_name_is_served() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin_with(&cluster, &["203.0.113.1-203.0.113.2"], &[])?;
    let _servers = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    it.pod("web", 0, server(0), "node-a")?;
    let make = || it.asking(("shop", "web"), json!({}), json!({}));
    make()?;
    it.address("web")?;
    for _ in 0..5 {
        let former = it.get("web")?["metadata"]["uid"].clone();
        cluster.delete("Service", "shop", "web")?;
        // The name is taken until the finalizer is gone.
        wait::until_some("it is made anew", make)?;
        ensure!(it.get("web")?["metadata"]["uid"] != former);
        it.address("web")?;
    }
    it.answers(it.address("web")?, 80, Some("a"))?;
    // Nothing of the former ones is left behind: the other address is free.
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    Ok(())
}

fn a_tenant_takes_no_address_that_is_not_theirs() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool_of(
        "staff",
        "addresses: [203.0.113.64/28], \
         namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}",
    )?;
    let _controller = it.controlled()?;
    cluster.namespace("tenant")?;
    let key = json!({"fairway.dev/sharing-key": "k", "fairway.dev/sharing-namespaces": "*"});
    it.asking(("shop", "alone"), json!({}), json!({}))?;
    it.asking(
        ("shop", "shares"),
        json!({"fairway.dev/sharing-key": "k"}),
        json!({}),
    )?;
    let (alone, shares) = (it.address("alone")?, it.address("shares")?);
    cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {name: tenant, namespace: tenant}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}\n\
         subjects: [{kind: User, name: tenant, apiGroup: rbac.authorization.k8s.io}]\n",
    )?;
    let tenant = cluster.kubeconfig_of_user("tenant", None)?;
    let outside = ["192.0.2.200", "127.0.0.1", "224.0.0.1", "0.0.0.0", "::1"].map(str::to_owned);
    let mut wishes = vec![
        alone.to_string(),
        shares.to_string(),
        server(18).to_string(),
    ];
    wishes.extend(["203.0.113.64".to_owned(), "198.18.0.1".to_owned()]);
    wishes.extend(outside);
    let names = [
        "fairway.dev/addresses",
        "metallb.io/loadBalancerIPs",
        "lbipam.cilium.io/ips",
        "kube-vip.io/loadbalancerIPs",
    ];
    let mut made = Vec::new();
    for (n, wish) in wishes.iter().enumerate() {
        let mut asks = key.clone();
        asks[names[n % names.len()]] = json!(wish);
        // MetalLB's way to say who shares, from one side alone.
        asks["metallb.io/allow-shared-ip"] = json!("k");
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("wish-{n}"), "namespace": "tenant", "annotations": asks},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 7000 + n}], "externalIPs": [wish]},
            "status": {"loadBalancer": {"ingress": [{"ip": wish}]}},
        });
        // The API server itself refuses some external addresses.
        let output = cluster.kubectl_as(&tenant, &["create", "-f", "-"], &object.to_string())?;
        if output.status.success() {
            made.push(n);
        } else {
            let mut object = object;
            object["spec"]["externalIPs"] = Value::Null;
            let output =
                cluster.kubectl_as(&tenant, &["create", "-f", "-"], &object.to_string())?;
            ensure!(output.status.success(), "{output:?}");
            made.push(n);
        }
    }
    for n in made {
        let name = format!("wish-{n}");
        let what = format!("{name} ({}) is refused or gets another", wishes[n]);
        let service = cluster.wait_for(("Service", "tenant", &name), &what, |service| {
            !service["status"]["conditions"].is_null()
        })?;
        let status = service["status"].to_string();
        ensure!(
            !status.contains(&format!("\"ip\":\"{}\"", wishes[n])),
            "{}: {status}",
            wishes[n]
        );
    }
    // A status is for the controller to write.
    let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": alone}]}}}).to_string();
    let arguments = [
        "patch",
        "service",
        "wish-0",
        "-n",
        "tenant",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    let output = cluster.kubectl_as(&tenant, &arguments, "")?;
    ensure!(!output.status.success(), "{output:?}");
    it.has("alone", &[alone])?;
    it.has("shares", &[shares])
}

fn no_annotation_hurts_the_others() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut it = AtWork::begin_with(&cluster, &["203.0.113.0/24"], &[])?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    let names = [
        "fairway.dev/addresses",
        "fairway.dev/pool",
        "fairway.dev/sharing-key",
        "fairway.dev/sharing-namespaces",
        "fairway.dev/forward-to",
        "fairway.dev/balance",
        "fairway.dev/deny-source-ranges",
        "fairway.dev/external-name",
        "fairway.dev/timeout-idle",
        "fairway.dev/weight",
        "fairway.dev/health-check",
        "fairway.dev/unknown",
        "metallb.io/loadBalancerIPs",
        "lbipam.cilium.io/ips",
        "kube-vip.io/loadbalancerHostname",
        "service.cilium.io/src-ranges-policy",
        "kube-vip.io/ignore",
    ];
    let long = "203.0.113.1,".repeat(20_000);
    let values = [
        "",
        " ",
        ",,,,",
        "\u{0}",
        "🛣️",
        "-1",
        "1e999",
        "99999999999999999999",
        "0.0.0.0/0,::/0",
        "*",
        "../../etc/passwd",
        "{\"a\":",
        "true",
        &long,
    ];
    let mut all = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let asks: serde_json::Map<String, Value> = names
            .iter()
            // All of them together may be 256 KiB.
            .filter(|_| value.len() < 1000)
            .chain(names.iter().take(usize::from(value.len() >= 1000)))
            .map(|name| ((*name).to_owned(), json!(value)))
            .collect();
        all.push(json!({
            "metadata": {"name": format!("odd-{n}"), "annotations": asks},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 81}]},
        }));
    }
    cluster.create_all("Service", "shop", &all)?;
    // What comes later is served all the same.
    it.asking(
        ("shop", "next"),
        json!({}),
        json!({"selector": {"app": "web"}}),
    )?;
    it.answers(it.address("next")?, 80, Some("a"))?;
    it.answers(web.ip, 80, Some("a"))?;
    for process in [&mut it.controller, &mut it.gateway] {
        ensure!(process.process()?.ended()?.is_none());
        process.ready()?;
    }
    it.has("web", &[web.ip])
}
