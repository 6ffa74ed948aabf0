//! The contract of a LoadBalancer provider, judged by a real API server.

use anyhow::{Result, ensure};
use fairway_integration::cluster::{Cluster, Pod, WatchEvent};
use fairway_integration::in_cluster::{ADDRESSES, AtWork, FINALIZER, Installed, health_says};
use fairway_integration::servers::{echo, named, named_udp};
use fairway_integration::site::{EDGE, at, client, server, server6, vip, vip6};
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    a_service_gets_its_address_its_status_and_its_traffic,
    a_service_of_another_class_stays_untouched_to_the_byte,
    the_finalizer_comes_with_the_address_and_goes_after_it,
    a_finalizer_that_is_not_taken_with_the_status_follows_it,
    the_finalizer_is_there_while_there_is_a_load_balancer,
    a_deleted_service_is_torn_down_and_goes,
    without_default_class_only_services_of_our_class_are_ours,
    a_live_service_changes_its_type_and_its_ports,
    both_families_and_both_protocols_are_served,
    without_node_ports_there_is_traffic_and_the_address_stays_when_they_come,
    source_ranges_and_affinity_change_on_a_live_service,
    a_port_that_another_process_holds_is_said_and_taken_when_free,
    the_health_check_port_answers_while_the_policy_is_local,
];

fn a_service_gets_its_address_its_status_and_its_traffic() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web_with("ports: [{port: 80, targetPort: http}]")?;
    ensure!(web.ip == vip(1), "{}", web.ip);
    it.answers(web.ip, 80, Some("a"))?;
    it.says(
        "web",
        "fairway.dev/AddressAssigned",
        &["True", "Assigned", "203.0.113.1"],
    )?;
    it.says("web", "fairway.dev/Programmed", &["True"])?;
    let service = it.get("web")?;
    let ingress = &service["status"]["loadBalancer"]["ingress"][0];
    ensure!(ingress["ipMode"] == "Proxy", "{ingress}");
    ensure!(ingress["ports"][0]["port"] == 80, "{ingress}");
    let table = cluster.kubectl(&["get", "service", "web", "-n", "shop"])?;
    ensure!(table.contains("203.0.113.1"), "{table}");
    for reason in ["EnsuringLoadBalancer", "EnsuredLoadBalancer"] {
        it.tells("web", reason, &[])?;
    }
    ensure!(it.gateway.external_ips("shop/web")? == ["203.0.113.1"]);
    // Who has written it.
    let shown = ["get", "service", "web", "-n", "shop", "-o", "json"];
    let shown = cluster.kubectl(&[&shown[..], &["--show-managed-fields"]].concat())?;
    let shown: Value = serde_json::from_str(&shown)?;
    let managed = shown["metadata"]["managedFields"].as_array();
    let status = managed.into_iter().flatten();
    let status = status.filter(|it| it["fieldsV1"]["f:status"].is_object());
    let managers: Vec<&Value> = status.map(|it| &it["manager"]).collect();
    ensure!(managers == ["fairway"], "{managers:?}");
    Ok(())
}

fn a_service_of_another_class_stays_untouched_to_the_byte() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let spec = "loadBalancerClass: example.com/lb, ports: [{port: 80}]";
    // One that has what only we would write, one that changes, one that goes.
    for name in ["theirs", "changes", "goes"] {
        it.service(name, spec)?;
        it.change_status(
            name,
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}),
        )?;
    }
    it.change("theirs", json!({"metadata": {"finalizers": [FINALIZER]}}))?;
    it.change(
        "changes",
        json!({"spec": {"externalTrafficPolicy": "Local"}}),
    )?;
    let before = ["theirs", "changes"].map(|name| it.get(name));
    cluster.delete("Service", "shop", "goes")?;
    // Services are heard of in the order of their changes.
    it.service("ours", "ports: [{port: 80}]")?;
    it.address("ours")?;
    it.says("ours", "fairway.dev/Programmed", &["False NoEndpoints"])?;
    for (name, before) in ["theirs", "changes"].into_iter().zip(before) {
        let (before, now) = (before?, it.get(name)?);
        ensure!(now == before, "{before} is {now}");
        // The API server has Events of its own about cluster addresses.
        let mut told = it.events(name)?;
        told.retain(|reason| reason.contains("LoadBalancer"));
        ensure!(told.is_empty(), "{told:?}");
    }
    // Their node ports are served as any Service's are, their external addresses are not.
    let mut listeners = it.gateway.list("listeners")?;
    listeners.retain(|row| row["kind"] == "vip" && row["service"] != "ours");
    ensure!(listeners.is_empty(), "{listeners:?}");
    // Nobody asks for the finalizer's end but whoever has put it there.
    it.change("theirs", json!({"metadata": {"finalizers": null}}))
}

fn the_finalizer_comes_with_the_address_and_goes_after_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    let told = cluster.watch("Service", "shop")?;
    it.service("web", "ports: [{port: 80}]")?;
    it.address("web")?;
    it.change("web", json!({"spec": {"type": "NodePort"}}))?;
    it.taken_back("web")?;
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    it.address("web")?;
    cluster.delete("Service", "shop", "web")?;
    // Every state that it went through, in order.
    let mut steps = Vec::new();
    loop {
        let WatchEvent { kind, object, .. } = told.recv_timeout(wait::SOON)?;
        let finalizers = object["metadata"]["finalizers"].to_string();
        if kind == "DELETED" {
            break;
        }
        let has_address = object["status"]["loadBalancer"]["ingress"].is_array();
        let step = (finalizers.contains(FINALIZER), has_address);
        if steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    let (nothing, finalizer, both) = ((false, false), (true, false), (true, true));
    let wanted = [nothing, both, finalizer, nothing, both, finalizer];
    ensure!(steps == wanted, "(finalizer, address): {steps:?}");
    Ok(())
}

/// A rule of the cluster: who writes a status of a Service writes no finalizer with it.
const STATUS_ALONE: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: status-alone}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}
  matchConditions:
  - {name: adds, expression: 'has(object.metadata.finalizers) && !has(oldObject.metadata.finalizers)'}
  mutations:
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: \"remove\", path: \"/metadata/finalizers\"}]'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: status-alone}
spec: {policyName: status-alone}
";

fn a_finalizer_that_is_not_taken_with_the_status_follows_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    cluster.apply(STATUS_ALONE)?;
    it.service("web", "type: ClusterIP, ports: [{port: 80}]")?;
    wait::until_some("the rule is in force", || {
        let finalizers = |list| json!({"metadata": {"finalizers": list}});
        let service = ("Service", "shop", "web");
        cluster.patch(service, "", &finalizers(json!(null)))?;
        cluster.patch(
            service,
            "status",
            &finalizers(json!(["example.com/theirs"])),
        )?;
        ensure!(it.finalizers("web")?.is_empty());
        Ok(())
    })?;
    let _controller = it.controlled()?;
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    it.address("web")?;
    wait::until_some("the finalizer is there", || {
        ensure!(it.finalizers("web")? == [FINALIZER]);
        Ok(())
    })?;
    cluster.delete("MutatingAdmissionPolicyBinding", "", "status-alone")
}

fn the_finalizer_is_there_while_there_is_a_load_balancer() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    it.service("web", "ports: [{port: 80}]")?;
    for _ in 0..2 {
        it.has("web", &[vip(1)])?;
        ensure!(it.finalizers("web")? == [FINALIZER]);
        it.change("web", json!({"spec": {"type": "ClusterIP"}}))?;
        it.taken_back("web")?;
        it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    }
    Ok(())
}

fn a_deleted_service_is_torn_down_and_goes() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    // Waits until the object is gone.
    cluster.kubectl(&["delete", "service", "web", "-n", "shop", "--timeout=60s"])?;
    listens_no_more(&it)?;
    // The address is free for the next.
    it.service("next", "ports: [{port: 80}]")?;
    it.has("next", &[web.ip])
}

fn listens_no_more(it: &AtWork<'_>) -> Result<()> {
    wait::until_some("its listeners are gone", || {
        let rows = it.gateway.list("listeners")?;
        ensure!(rows.is_empty(), "{rows:?}");
        Ok(())
    })
}

fn without_default_class_only_services_of_our_class_are_ours() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    it.service("classless", "ports: [{port: 80}]")?;
    let ignore = json!({"kube-vip.io/ignore": "true"});
    let class = json!({"loadBalancerClass": "fairway.dev/gateway"});
    it.asking(("shop", "ignored"), ignore, class.clone())?;
    let before = (it.get("classless")?, it.get("ignored")?);
    let controller = it.controller("controller-1", &[])?;
    let gateway = it.gateway(&[])?;
    it.asking(("shop", "ours"), json!({}), class)?;
    let address = it.address("ours")?;
    ensure!(it.finalizers("ours")? == [FINALIZER]);
    ensure!((it.get("classless")?, it.get("ignored")?) == before);
    // People are told so where they ask, and that the API server lets nobody set a class later.
    controller.explains("shop/classless", &["--default-class", "make it anew"])?;
    gateway.explains("shop/classless", &["says nothing of it"])?;
    gateway.explains("shop/ours", &[&format!("it has {address}")])?;
    let late = json!({"spec": {"loadBalancerClass": "fairway.dev/gateway"}});
    ensure!(it.change("classless", late).is_err());

    // With the type the class may go, and with it whatever was ours.
    let away = json!({"spec": {"type": "NodePort", "loadBalancerClass": null}});
    it.change("ours", away)?;
    it.taken_back("ours")?;
    // What comes back is another's to look after.
    it.change("ours", json!({"spec": {"type": "LoadBalancer"}}))?;
    it.asking(
        ("shop", "next"),
        json!({}),
        json!({"loadBalancerClass": "fairway.dev/gateway"}),
    )?;
    ensure!(it.address("next")? == address);
    ensure!(it.addresses("ours")?.is_empty());
    ensure!(it.finalizers("ours")?.is_empty());
    Ok(())
}

fn a_live_service_changes_its_type_and_its_ports() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let _tcp = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&it.site.farm, &[("a", at(server(0), 80))])?;
    let ports = |port: u16| {
        json!([
            {"name": "tcp", "port": port, "targetPort": 80},
            {"name": "udp", "port": port, "targetPort": 80, "protocol": "UDP"},
        ])
    };
    it.asking(
        ("shop", "web"),
        json!({}),
        json!({"type": "ClusterIP", "ports": ports(80)}),
    )?;
    it.pod("web", 0, server(0), "node-a")?;
    it.change("web", json!({"spec": {"type": "NodePort"}}))?;
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    let address = it.address("web")?;
    it.answers(address, 80, Some("a"))?;
    it.answers_udp(address, 80, Some("a"))?;

    let mut moved = ports(80);
    for (port, number) in [(0, 30050), (1, 30051)] {
        moved[port]["nodePort"] = json!(number);
    }
    it.change("web", json!({"spec": {"ports": moved}}))?;
    it.answers(address, 80, Some("a"))?;
    it.change("web", json!({"spec": {"ports": ports(8080)}}))?;
    it.answers(address, 8080, Some("a"))?;
    it.answers_udp(address, 8080, Some("a"))?;
    it.answers(address, 80, None)?;
    ensure!(it.addresses("web")? == [address.to_string()]);
    wait::until_some("the status names the new ports", || {
        let ports = it.get("web")?["status"]["loadBalancer"]["ingress"][0]["ports"].clone();
        let wanted = json!([
            {"port": 8080, "protocol": "TCP"}, {"port": 8080, "protocol": "UDP"},
        ]);
        ensure!(ports == wanted, "{ports}");
        Ok(())
    })?;

    cluster.delete("Pod", "shop", "web-0")?;
    it.answers(address, 8080, None)?;
    it.answers_udp(address, 8080, None)?;
    it.pod("web", 1, server(0), "node-a")?;
    it.answers(address, 8080, Some("a"))?;
    it.answers_udp(address, 8080, Some("a"))?;
    ensure!(it.addresses("web")? == [address.to_string()]);

    it.change("web", json!({"spec": {"type": "ClusterIP"}}))?;
    it.answers(address, 8080, None)?;
    it.answers_udp(address, 8080, None)?;
    it.taken_back("web")?;
    listens_no_more(&it)
}

fn both_families_and_both_protocols_are_served() -> Result<()> {
    let cluster = Cluster::shared()?;
    let pool = ["203.0.113.1-203.0.113.9", "2001:db8:f::1-2001:db8:f::9"];
    let it = AtWork::begin_with(&cluster, &pool, &[])?;
    let ends = [server(0), server6(0)].map(|ip| ("a", at(ip, 80)));
    let _tcp = named(&it.site.farm, &ends)?;
    let _udp = named_udp(&it.site.farm, &ends)?;
    let ports = json!([
        {"name": "tcp", "port": 80},
        {"name": "udp", "port": 80, "protocol": "UDP"},
    ]);
    for (name, policy, wanted) in [
        (
            "both",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            vec![vip(1), vip6(1)],
        ),
        ("six", json!({"ipFamilies": ["IPv6"]}), vec![vip6(2)]),
        (
            "six-first",
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            vec![vip6(3), vip(2)],
        ),
    ] {
        let mut spec = json!({"ports": ports, "selector": {"app": "web"}});
        for (key, value) in policy.as_object().into_iter().flatten() {
            spec[key.as_str()] = value.clone();
        }
        it.asking(("shop", name), json!({}), spec)?;
        it.has(name, &wanted)?;
    }
    cluster.pod(&Pod {
        namespace: "shop",
        name: "web-0",
        labels: &[("app", "web")],
        ips: &[server(0), server6(0)],
        node: "node-a",
        ..Pod::default()
    })?;
    for address in [vip(1), vip6(1), vip6(2), vip(2), vip6(3)] {
        it.answers(address, 80, Some("a"))?;
        it.answers_udp(address, 80, Some("a"))?;
    }
    // The second family goes, its address with it; the first stays.
    it.change("both", json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))?;
    it.has("both", &[vip(1)])?;
    it.answers(vip6(1), 80, None)?;
    it.answers(vip(1), 80, Some("a"))
}

fn without_node_ports_there_is_traffic_and_the_address_stays_when_they_come() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web_with("allocateLoadBalancerNodePorts: false, ports: [{port: 80}]")?;
    it.answers(web.ip, 80, Some("a"))?;
    let node_port = || anyhow::Ok(it.get("web")?["spec"]["ports"][0]["nodePort"].clone());
    ensure!(node_port()?.is_null(), "{}", node_port()?);
    it.change(
        "web",
        json!({"spec": {"allocateLoadBalancerNodePorts": true}}),
    )?;
    ensure!(node_port()?.is_u64(), "{}", node_port()?);
    it.answers(web.ip, 80, Some("a"))?;
    // The opt-out leaves the ports that are there.
    it.change(
        "web",
        json!({"spec": {"allocateLoadBalancerNodePorts": false}}),
    )?;
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    ensure!(node_port()?.is_u64(), "{}", node_port()?);
    it.has("web", &[web.ip])?;
    it.answers(web.ip, 80, Some("a"))
}

fn source_ranges_and_affinity_change_on_a_live_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let servers = [
        ("a", at(server(0), 80)),
        ("b", at(server(1), 80)),
        ("c", at(server(2), 80)),
    ];
    let _servers = named(&it.site.farm, &servers)?;
    it.service("web", "ports: [{port: 80}]")?;
    for n in 0..3 {
        it.pod("web", usize::from(n), server(n), "node-a")?;
    }
    let address = it.address("web")?;
    let from = |n: u8| {
        let work = || clients::who_from(client(n), at(address, 80)).ok();
        it.site.client.run(work)
    };
    let let_in = |wanted: [bool; 2]| {
        wait::until_some(&format!("clients are let in: {wanted:?}"), || {
            let are = [from(0).is_some(), from(1).is_some()];
            ensure!(are == wanted, "{are:?}");
            Ok(())
        })
    };
    let_in([true, true])?;
    let (first, second) = (format!("{}/32", client(0)), format!("{}/32", client(1)));
    for (ranges, wanted) in [
        (vec![first.as_str()], [true, false]),
        (vec![&second], [false, true]),
        (vec![&first, &second], [true, true]),
        (vec!["192.0.2.200/32"], [false, false]),
        (vec![], [true, true]),
    ] {
        it.change("web", json!({"spec": {"loadBalancerSourceRanges": ranges}}))?;
        let_in(wanted)?;
        ensure!(it.addresses("web")? == [address.to_string()]);
    }

    let different = || {
        let mut names: Vec<String> = (0..15).filter_map(|_| from(0)).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        (all, names.len())
    };
    for policy in ["Cluster", "Local"] {
        it.change("web", json!({"spec": {"externalTrafficPolicy": policy}}))?;
        for (affinity, one) in [("ClientIP", true), ("None", false)] {
            it.change("web", json!({"spec": {"sessionAffinity": affinity}}))?;
            let what = format!("15 requests with affinity {affinity} and policy {policy}");
            wait::until_some(&what, || {
                let (all, names) = different();
                ensure!(all == 15 && (names == 1) == one, "{all} of {names}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn a_port_that_another_process_holds_is_said_and_taken_when_free() -> Result<()> {
    let cluster = Cluster::shared()?;
    // Whoever listens on all addresses has the port of each, where connections are not steered.
    let without = [("FAIRWAY_NO_STEERING", "true")];
    let it = AtWork::begin_with(&cluster, ADDRESSES, &without)?;
    let other = echo(&it.site.edge, at([0, 0, 0, 0].into(), 8080))?;
    let web = it.web_with("ports: [{name: a, port: 80}, {name: b, port: 8080, targetPort: 80}]")?;
    it.answers(web.ip, 80, Some("a"))?;
    let ports = || {
        let service = it.get("web")?;
        anyhow::Ok(service["status"]["loadBalancer"]["ingress"][0]["ports"].clone())
    };
    wait::until_some("the status has an error at that port alone", || {
        let ports = ports()?;
        ensure!(ports[0].get("error").is_none(), "{ports}");
        ensure!(ports[1]["error"] == "PortInUse", "{ports}");
        Ok(())
    })?;
    let words = ["False", "PortInUse", "8080", "edge-1"];
    it.says("web", "fairway.dev/Programmed", &words)?;
    it.tells("web", "PortInUse", &["8080"])?;
    drop(other);
    it.answers(web.ip, 8080, Some("a"))?;
    it.says("web", "fairway.dev/Programmed", &["True"])?;
    wait::until_some("the error is gone", || {
        let ports = ports()?;
        ensure!(ports[1].get("error").is_none(), "{ports}");
        Ok(())
    })
}

fn the_health_check_port_answers_while_the_policy_is_local() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web_with("externalTrafficPolicy: Local, ports: [{port: 80}]")?;
    it.answers(web.ip, 80, Some("a"))?;
    let port = it.health_port("web")?;
    // Every endpoint is as near as any other to a gateway that is no node of the cluster.
    health_says(&it.site.client, at(EDGE, port), "web", 1)?;
    cluster.delete("Pod", "shop", "web-0")?;
    health_says(&it.site.client, at(EDGE, port), "web", 0)?;
    it.change("web", json!({"spec": {"externalTrafficPolicy": "Cluster"}}))?;
    wait::until("the health check is closed", || {
        let ask = || clients::http_get(at(EDGE, port), "/");
        it.site.client.run(ask).is_err()
    })?;
    it.has("web", &[web.ip])
}
