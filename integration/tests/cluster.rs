//! The control plane that other tests stand on: that it is a real one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{API_ADDRESS, Cluster, Component, KubeProxy, Pod};
use fairway_integration::lab::{Host, Served};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, server, server6, vip};
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    programs_answer_with_their_versions,
    an_attached_host_reaches_the_api_server_and_only_with_credentials,
    a_service_with_a_selector_gets_slices_that_follow_its_pods,
    a_service_without_a_selector_gets_its_endpoints_mirrored,
    a_role_is_all_that_an_account_may,
    a_user_has_what_is_bound_to_its_group,
    a_quota_counts_load_balancers,
    many_objects_are_made_and_a_refusal_is_told,
    kube_proxy_serves_cluster_addresses_and_node_ports,
    kube_proxy_captures_an_external_address_unless_its_mode_is_proxy,
    the_control_plane_survives_restarts_and_pauses,
    an_api_server_with_other_arguments_is_the_usual_one_after_the_test,
    what_a_test_made_is_gone_before_the_next,
    helm_installs_and_uninstalls_a_chart,
];

fn programs_answer_with_their_versions() -> Result<()> {
    let cluster = Cluster::shared()?;
    let versions: Value = serde_json::from_str(&cluster.kubectl(&["version", "-o", "json"])?)?;
    for side in ["clientVersion", "serverVersion"] {
        ensure!(versions[side]["gitVersion"] == "v1.36.3", "{versions}");
    }
    let helm = cluster.helm(&["version", "--template", "{{.Version}}"])?;
    ensure!(helm.trim() == "v3.22.0", "{helm}");
    Ok(())
}

fn an_attached_host_reaches_the_api_server_and_only_with_credentials() -> Result<()> {
    let cluster = Cluster::shared()?;
    let host = Host::new("visitor")?;
    cluster.attach(&host)?;
    let url = services_url();
    let status = host.run(status_for_anybody)?;
    ensure!(status == "403", "{status}");
    let config: Value = serde_json::from_slice(&std::fs::read(cluster.admin())?)?;
    let file = |section: &str, entry: &str, field: &str| -> Result<String> {
        let path = config[section][0][entry][field].as_str();
        Ok(path.with_context(|| config.to_string())?.to_owned())
    };
    let status = host.run(|| {
        let arguments = [
            "--cacert",
            &file("clusters", "cluster", "certificate-authority")?,
            "--cert",
            &file("users", "user", "client-certificate")?,
            "--key",
            &file("users", "user", "client-key")?,
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ];
        clients::output("curl", &arguments)
    })?;
    ensure!(status == "200", "{status}");
    Ok(())
}

fn services_url() -> String {
    format!("https://{API_ADDRESS}:6443/api/v1/services")
}

/// What the API server says to somebody without credentials.
fn status_for_anybody() -> Result<String> {
    let url = services_url();
    let arguments = ["-sk", "-o", "/dev/null", "-w", "%{http_code}", &url];
    clients::output("curl", &arguments)
}

/// A namespace `shop` with a node and the Service `web`, which selects `app: web`.
fn shop(cluster: &Cluster, spec: &str) -> Result<()> {
    cluster.namespace("shop")?;
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, \
         spec: {{selector: {{app: web}}, {spec}}}}}"
    ))
}

fn web_pod<'a>(name: &'a str, ips: &'a [IpAddr]) -> Pod<'a> {
    Pod {
        namespace: "shop",
        name,
        labels: &[("app", "web")],
        ips,
        node: "node-a",
        ports: &[("http", "TCP", 8080)],
        ..Pod::default()
    }
}

fn a_service_with_a_selector_gets_slices_that_follow_its_pods() -> Result<()> {
    let cluster = Cluster::shared()?;
    let zone = [("topology.kubernetes.io/zone", "east")];
    cluster.node("node-a", &[server(9)], &zone)?;
    shop(
        &cluster,
        "ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: http}]",
    )?;
    let both = [server(0), server6(0)];
    cluster.pod(&web_pod("web-0", &both))?;
    cluster.wait_for_endpoints("shop", "web", &both)?;
    let slices = cluster.slices("shop", "web")?;
    let families: BTreeMap<&str, &Value> = slices
        .iter()
        .filter_map(|slice| Some((slice["addressType"].as_str()?, slice)))
        .collect();
    ensure!(families.keys().eq(["IPv4", "IPv6"].iter()), "{slices:?}");
    let four = families["IPv4"];
    let maker = "endpointslice.kubernetes.io/managed-by";
    ensure!(
        four["metadata"]["labels"][maker] == "endpointslice-controller.k8s.io"
            && four["ports"][0]["port"] == 8080
            && four["endpoints"][0]["nodeName"] == "node-a"
            && four["endpoints"][0]["zone"] == "east"
            && four["endpoints"][0]["targetRef"]["name"] == "web-0",
        "{four}"
    );

    cluster.pod(&web_pod("web-1", &[server(1)]))?;
    cluster.set_pod_ready("shop", "web-0", false)?;
    cluster.wait_for_endpoints("shop", "web", &[server(1)])?;

    cluster.terminate_pod("shop", "web-1")?;
    wait::until("the slice says that the pod ends", || {
        cluster.slices("shop", "web").is_ok_and(|slices| {
            slices
                .iter()
                .filter_map(|slice| slice["endpoints"].as_array())
                .flatten()
                .any(|endpoint| {
                    let conditions = &endpoint["conditions"];
                    *conditions == json!({"ready": false, "serving": true, "terminating": true})
                })
        })
    })
}

fn a_service_without_a_selector_gets_its_endpoints_mirrored() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 5432}]}}\n---\n\
         {apiVersion: v1, kind: Endpoints, metadata: {name: db}, \
         subsets: [{addresses: [{ip: 192.0.2.11}], ports: [{port: 5432}]}]}",
    )?;
    cluster.wait_for_endpoints("default", "db", &[server(0)])?;
    let slices = cluster.slices("default", "db")?;
    let maker = "endpointslice.kubernetes.io/managed-by";
    ensure!(
        slices[0]["metadata"]["labels"][maker] == "endpointslicemirroring-controller.k8s.io",
        "{slices:?}"
    );
    Ok(())
}

/// Whether `kubectl` with that kubeconfig is let do it; a refusal must be RBAC's.
fn may(cluster: &Cluster, kubeconfig: &Path, arguments: &[&str]) -> Result<bool> {
    let output = cluster.kubectl_as(kubeconfig, arguments, "")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || stderr.contains("forbidden"),
        "{stderr}"
    );
    Ok(output.status.success())
}

fn a_role_is_all_that_an_account_may() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("shop")?;
    cluster.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: shop}}\n---\n\
         {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, \
         metadata: {name: reader, namespace: shop}, \
         rules: [{apiGroups: [''], resources: [services], verbs: [get, list]}]}\n---\n\
         {apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, \
         metadata: {name: reader, namespace: shop}, \
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}, \
         subjects: [{kind: ServiceAccount, name: reader, namespace: shop}]}",
    )?;
    let reader = cluster.kubeconfig_of_service_account("shop", "reader")?;
    ensure!(may(
        &cluster,
        &reader,
        &["get", "services", "--namespace=shop"]
    )?);
    for forbidden in [
        &["get", "services", "--namespace=default"][..],
        &["get", "pods", "--namespace=shop"],
        &["get", "nodes"],
        &[
            "create",
            "service",
            "clusterip",
            "mine",
            "--tcp=80",
            "--namespace=shop",
        ],
    ] {
        ensure!(!may(&cluster, &reader, forbidden)?, "{forbidden:?}");
    }
    Ok(())
}

fn a_user_has_what_is_bound_to_its_group() -> Result<()> {
    let cluster = Cluster::shared()?;
    let outsider = cluster.kubeconfig_of_user("ann", None)?;
    let insider = cluster.kubeconfig_of_user("ann", Some("staff"))?;
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "staff",
        "--clusterrole=view",
        "--group=staff",
    ])?;
    ensure!(may(&cluster, &insider, &["get", "services"])?);
    ensure!(!may(&cluster, &outsider, &["get", "services"])?);
    ensure!(!may(
        &cluster,
        &insider,
        &["delete", "service", "kubernetes"]
    )?);
    Ok(())
}

fn a_quota_counts_load_balancers() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("shop")?;
    cluster.kubectl(&[
        "create",
        "quota",
        "few",
        "--hard=services.loadbalancers=1",
        "--namespace=shop",
    ])?;
    // Admission lets nothing through before the controller has counted.
    cluster.wait_for(("quota", "shop", "few"), "it is counted", |quota| {
        quota["status"]["used"]["services.loadbalancers"] == "0"
    })?;
    let service = |name: &str| {
        json!({"metadata": {"name": name},
               "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
    };
    cluster.create("svc", "shop", &service("one"))?;
    let refused = cluster.create("svc", "shop", &service("two"));
    let why = refused.err().context("a second was let through")?;
    ensure!(why.to_string().contains("exceeded quota"), "{why}");
    Ok(())
}

fn many_objects_are_made_and_a_refusal_is_told() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("shop")?;
    let services = |names: std::ops::Range<u32>| -> Vec<Value> {
        names
            .map(|n| {
                json!({"metadata": {"name": format!("web-{n}")},
                       "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                                "ports": [{"port": 80}]}})
            })
            .collect()
    };
    cluster.create_all("svc", "shop", &services(0..300))?;
    let twice = cluster.create_all("svc", "shop", &services(299..302));
    let why = twice.err().context("a name was given twice")?;
    ensure!(why.to_string().contains("already exists"), "{why}");
    ensure!(cluster.list("svc", "shop", "")?.len() == 302);
    Ok(())
}

/// A site whose edge is a node with a kube-proxy, and in front of one server the Service
/// `shop/web`.
struct Node {
    site: Site,
    service: Value,
    _proxy: KubeProxy,
    _server: Served,
}

fn node_with_kube_proxy(cluster: &Cluster, kind: &str) -> Result<Node> {
    let site = Site::new()?;
    let server_named = named(&site.farm, &[("a", SocketAddr::new(server(0), 8080))])?;
    cluster.attach(&site.edge)?;
    cluster.node("node-a", &[EDGE], &[])?;
    shop(
        cluster,
        &format!("type: {kind}, ports: [{{port: 80, targetPort: 8080}}]"),
    )?;
    cluster.pod(&web_pod("web-0", &[server(0)]))?;
    cluster.wait_for_endpoints("shop", "web", &[server(0)])?;
    let proxy = cluster.kube_proxy(&site.edge, "node-a")?;
    Ok(Node {
        service: cluster.get_json("svc", "shop", "web")?,
        site,
        _proxy: proxy,
        _server: server_named,
    })
}

fn kube_proxy_serves_cluster_addresses_and_node_ports() -> Result<()> {
    let cluster = Cluster::shared()?;
    let node = node_with_kube_proxy(&cluster, "NodePort")?;
    let spec = &node.service["spec"];
    let cluster_ip: IpAddr = spec["clusterIP"].as_str().context("no address")?.parse()?;
    let node_port = spec["ports"][0]["nodePort"].as_u64().context("no port")?;
    let node_port = SocketAddr::new(EDGE, u16::try_from(node_port)?);
    node.site
        .client
        .ip("route add 10.96.0.0/16 via 198.51.100.1")?;
    // Nothing of the address range is on a wire: a route only has to choose the source address.
    node.site.edge.ip("route add 10.96.0.0/16 via 192.0.2.11")?;
    for (host, to) in [
        (&node.site.client, node_port),
        (&node.site.edge, SocketAddr::new(cluster_ip, 80)),
    ] {
        wait::until_some(&format!("{to} is served"), || {
            let who = host.run(|| clients::who(to))?;
            ensure!(who == "a", "{who}");
            anyhow::Ok(())
        })?;
    }
    // Without an endpoint it refuses.
    cluster.set_pod_ready("shop", "web-0", false)?;
    wait::until("the node port refuses", || {
        node.site
            .client
            .run(|| clients::connect_tcp(node_port).is_err())
    })
}

fn kube_proxy_captures_an_external_address_unless_its_mode_is_proxy() -> Result<()> {
    let cluster = Cluster::shared()?;
    let node = node_with_kube_proxy(&cluster, "LoadBalancer")?;
    // Who has the address while kube-proxy leaves it alone.
    node.site.edge.addresses("lo", &[(vip(1), 32)])?;
    let to = SocketAddr::new(vip(1), 80);
    let _gateway = named(&node.site.edge, &[("gateway", to)])?;
    for (mode, wanted) in [("Proxy", "gateway"), ("VIP", "a"), ("Proxy", "gateway")] {
        let ingress = json!({"ip": vip(1), "ipMode": mode});
        cluster.patch(
            ("svc", "shop", "web"),
            "status",
            &json!({"status": {"loadBalancer": {"ingress": [ingress]}}}),
        )?;
        wait::until_some(&format!("in mode {mode} {wanted} answers"), || {
            let who = node.site.client.run(|| clients::who(to))?;
            ensure!(who == wanted, "{who}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

fn the_control_plane_survives_restarts_and_pauses() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("shop")?;
    cluster.stop_component(Component::ApiServer)?;
    ensure!(cluster.get("namespace", "", "shop").is_err());
    cluster.start_component(Component::ApiServer)?;
    cluster.get_json("namespace", "", "shop")?;

    cluster.stop_component(Component::Etcd)?;
    cluster.start_component(Component::Etcd)?;
    cluster.wait_for(("namespace", "", "shop"), "etcd has it still", |_| true)?;

    cluster.pause_component(Component::Etcd)?;
    // Readiness asks etcd, and gives up on it after some seconds.
    wait::until("the API server is not ready", || {
        !matches!(cluster.request("GET", "/readyz", None), Ok((200, _)))
    })?;
    cluster.resume_component(Component::Etcd)?;
    cluster.wait_until_ready(Component::ApiServer)?;

    // The controllers have come back to work too.
    cluster.node("node-a", &[server(9)], &[])?;
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
         spec: {selector: {app: web}, ports: [{port: 80}]}}",
    )?;
    wait::until_within(Duration::from_secs(60), "a pod can be made", || {
        cluster.pod(&web_pod("web-0", &[server(0)])).is_ok()
    })?;
    cluster.wait_for_endpoints("shop", "web", &[server(0)])
}

fn an_api_server_with_other_arguments_is_the_usual_one_after_the_test() -> Result<()> {
    {
        let cluster = Cluster::shared()?;
        cluster.stop_component(Component::ApiServer)?;
        cluster.start_component_with(Component::ApiServer, &["--anonymous-auth=false"])?;
        let status = cluster.host().run(status_for_anybody)?;
        ensure!(status == "401", "{status}");
    }
    let cluster = Cluster::shared()?;
    let status = cluster.host().run(status_for_anybody)?;
    ensure!(status == "403", "{status}");
    Ok(())
}

fn what_a_test_made_is_gone_before_the_next() -> Result<()> {
    // No test ends this one.
    let id = |cluster: &Cluster| cluster.process_id(Component::Door);
    let before = {
        let cluster = Cluster::shared()?;
        cluster.namespace("shop")?;
        cluster.node("node-a", &[server(9)], &[])?;
        cluster.pod(&web_pod("web-0", &[server(0)]))?;
        cluster.terminate_pod("shop", "web-0")?;
        cluster.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: held, namespace: shop, \
             finalizers: [fairway.dev/held]}, spec: {ports: [{port: 80}]}}\n---\n\
             {apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, \
             metadata: {name: things.fairway.test}, spec: {group: fairway.test, \
             names: {kind: Thing, plural: things}, scope: Cluster, \
             versions: [{name: v1, served: true, storage: true, \
             schema: {openAPIV3Schema: {type: object}}}]}}",
        )?;
        wait::until_some("a thing can be made", || {
            let thing = json!({"apiVersion": "fairway.test/v1", "kind": "Thing",
                               "metadata": {"name": "one"}});
            cluster.create("thing", "", &thing)
        })?;
        cluster.pause_component(Component::ControllerManager)?;
        id(&cluster)?
    };
    let cluster = Cluster::shared()?;
    // It was cleaned, not replaced.
    ensure!(id(&cluster)? == before);
    for (kind, name) in [
        ("namespace", "shop"),
        ("node", "node-a"),
        ("crd", "things.fairway.test"),
    ] {
        ensure!(cluster.get(kind, "", name)?.is_none(), "{kind} {name}");
    }
    Ok(())
}

fn helm_installs_and_uninstalls_a_chart() -> Result<()> {
    let cluster = Cluster::shared()?;
    let chart = cluster.folder().join("chart");
    std::fs::create_dir_all(chart.join("templates"))?;
    std::fs::write(
        chart.join("Chart.yaml"),
        "{apiVersion: v2, name: note, version: 0.1.0, kubeVersion: '>=1.36'}",
    )?;
    std::fs::write(
        chart.join("templates/note.yaml"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: {{ .Release.Name }}}}",
    )?;
    let chart = chart.to_string_lossy();
    cluster.helm(&["install", "mine", &chart])?;
    cluster.get_json("configmap", "default", "mine")?;
    cluster.helm(&["uninstall", "mine", "--wait"])?;
    cluster.wait_gone("configmap", "default", "mine")
}
