//! `fairway import metallb`: over files, and over a cluster that has MetalLB's objects.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::{Installed, MANIFESTS};
use fairway_integration::{programs, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    files_become_pools_that_validate_accepts,
    standard_input_is_read_and_errors_have_their_codes,
    a_cluster_is_read_and_its_pools_are_created_once,
    every_live_address_stays_as_it_is_when_fairway_takes_over,
];

/// As `kubectl get ipaddresspools,l2advertisements,bgppeers.metallb.io,services -A -o yaml` prints them.
const OBJECTS: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: first-pool, namespace: metallb-system}
  spec:
    addresses: [192.168.10.0/24, 192.168.9.1-192.168.9.5, 'fc00:f853:0ccd:e799::/124']
    avoidBuggyIPs: true
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: expensive, namespace: metallb-system}
  spec:
    addresses: [42.176.25.64/30]
    autoAssign: false
    serviceAllocation: {priority: 50, namespaces: [shop, web]}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: example, namespace: metallb-system}
- apiVersion: metallb.io/v1beta2
  kind: BGPPeer
  metadata: {name: tor, namespace: metallb-system}
  spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, holdTime: 1m30s}
";

const SERVICE: &str = "
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {type: LoadBalancer, ports: [{port: 80}]}
  status: {loadBalancer: {ingress: [{ip: 192.168.10.7, ipMode: VIP}]}}
- apiVersion: v1
  kind: Service
  metadata: {name: old, namespace: shop}
  spec: {type: LoadBalancer, ports: [{port: 80}]}
  status: {loadBalancer: {ingress: [{ip: 192.168.77.7, ipMode: VIP}]}}
";

fn fairway(arguments: &[&str], input: &str) -> Result<Output> {
    programs::fairway_with_input(arguments, input.as_bytes())
}

fn ended(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = text(&output.stderr);
    ensure!(output.status.code() == Some(code), "{output:?}");
    for word in words {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The documents on standard output.
fn printed(output: &Output) -> Result<Vec<Value>> {
    let documents = fairway_config::document::documents(&text(&output.stdout))?;
    Ok(documents.into_iter().map(|it| it.value).collect())
}

fn files_become_pools_that_validate_accepts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let metallb = write("metallb.yaml", OBJECTS)?;
    let services = write("services.yaml", &format!("kind: List\nitems:{SERVICE}"))?;
    let output = fairway(&["import", "metallb", "--from", &metallb, &services], "")?;
    ended(
        &output,
        0,
        &[
            "BGPPeer metallb-system/tor of MetalLB becomes BGPPeer tor of Fairway.",
            "IPAddressPool metallb-system/first-pool becomes AddressPool first-pool.",
            "AddressPool first-pool: avoidBuggyIPs becomes avoidEnds",
            "AddressPool expensive: autoAssign: false",
            "warning: Service shop/old holds 192.168.77.7",
            "2 Services without a loadBalancerClass",
            "--apply",
        ],
    )?;
    let pools = printed(&output)?;
    let specs: Vec<_> = pools.iter().map(|pool| &pool["spec"]).collect();
    ensure!(
        specs
            == [
                &json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
                    "holdTime": "1m30s"}),
                &json!({"addresses": ["42.176.25.64/30"], "autoAssign": false, "priority": 50,
                    "announce": {"layer2": {}}, "namespaceSelector": {"matchExpressions": [{"operator": "In",
                        "key": "kubernetes.io/metadata.name", "values": ["shop", "web"]}]}}),
                &json!({"addresses": ["192.168.10.0/24", "192.168.9.1-192.168.9.5",
                    "fc00:f853:ccd:e799::-fc00:f853:ccd:e799::f"], "autoAssign": true,
                    "announce": {"layer2": {}}, "avoidEnds": true}),
                &json!({"addresses": ["192.168.77.7"], "autoAssign": false}),
            ],
        "{pools:#?}"
    );
    let manifests = write("pools.yaml", &text(&output.stdout))?;
    let checked = fairway(&["validate", &manifests], "")?;
    ended(&checked, 0, &[])?;
    ensure!(
        text(&checked.stdout).contains("4 objects in 1 file: no problems"),
        "{checked:?}"
    );
    Ok(())
}

fn standard_input_is_read_and_errors_have_their_codes() -> Result<()> {
    let output = fairway(&["import", "metallb", "--from", "-"], OBJECTS)?;
    ended(&output, 0, &["first-pool"])?;
    ensure!(printed(&output)?.len() == 3, "{output:?}");
    for (arguments, input, code, words) in [
        (
            vec!["--from", "-"],
            "kind: Pod",
            1,
            "there is no IPAddressPool",
        ),
        (vec!["--from", "-"], "a: [", 1, "not YAML"),
        (vec!["--from", "/nowhere/a.yaml"], "", 2, "/nowhere/a.yaml"),
        (
            vec!["--kubeconfig", "/nowhere/config"],
            "",
            2,
            "/nowhere/config",
        ),
        (vec!["--no-such-flag"], "", 2, "--no-such-flag"),
    ] {
        let arguments = [&["import", "metallb"], arguments.as_slice()].concat();
        let output = fairway(&arguments, input)?;
        ended(&output, code, &[words])?;
        ensure!(output.stdout.is_empty(), "{output:?}");
    }
    ended(&fairway(&["import", "haproxy"], "")?, 2, &["metallb"])
}

/// A CRD of MetalLB's that takes everything.
fn crd(kind: &str, plural: &str, version: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.metallb.io")},
        "spec": {"group": "metallb.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// `fairway import metallb` on the control plane's host.
fn import(cluster: &Cluster, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs::fairway()?);
    command.args(["import", "metallb", "--kubeconfig"]);
    command.arg(kubeconfig).args(arguments);
    Ok(cluster.host().run(|| command.output())?)
}

/// MetalLB's kinds and objects.
fn metallb(cluster: &Cluster) -> Result<()> {
    // BGPAdvertisements are left out: a cluster without a kind has none of it.
    for (kind, plural, version) in [
        ("IPAddressPool", "ipaddresspools", "v1beta1"),
        ("L2Advertisement", "l2advertisements", "v1beta1"),
        ("BGPPeer", "bgppeers", "v1beta2"),
    ] {
        cluster.apply(&crd(kind, plural, version).to_string())?;
        let name = format!("crd/{plural}.metallb.io");
        cluster.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            &name,
        ])?;
    }
    // A kind is established a moment before it is found.
    wait::until_some("the objects are taken", || cluster.apply(OBJECTS))
}

/// Waits until Fairway's kinds are served: established they are a moment before.
fn served(cluster: &Cluster) -> Result<()> {
    wait::until_some("Fairway's kinds are served", || {
        cluster.list("addresspools", "", "")?;
        cluster.list("bgppeers.fairway.dev", "", "").map(drop)
    })
}

fn a_cluster_is_read_and_its_pools_are_created_once() -> Result<()> {
    let cluster = Cluster::shared()?;
    for namespace in ["shop", "metallb-system"] {
        cluster.namespace(namespace)?;
    }
    let admin = cluster.admin();
    // No MetalLB there yet.
    ended(
        &import(&cluster, admin, &[])?,
        1,
        &["there is no IPAddressPool"],
    )?;
    metallb(&cluster)?;
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
         spec: {type: LoadBalancer, ports: [{port: 80}]}}",
    )?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.168.77.7"}]}}});
    cluster.patch(("Service", "shop", "web"), "status", &status)?;

    let dry = import(&cluster, admin, &[])?;
    ended(
        &dry,
        0,
        &["Service shop/web holds 192.168.77.7", "Nothing was changed"],
    )?;
    ensure!(printed(&dry)?.len() == 4, "{dry:?}");
    let early = import(&cluster, admin, &["--apply"])?;
    ended(&early, 1, &["fairway crds | kubectl apply -f -"])?;

    cluster.apply(MANIFESTS)?;
    for crd in ["crd/addresspools.fairway.dev", "crd/bgppeers.fairway.dev"] {
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", crd])?;
    }
    served(&cluster)?;
    let first = import(&cluster, admin, &["--apply"])?;
    ended(
        &first,
        0,
        &["BGPPeer tor created.", "AddressPool first-pool created."],
    )?;
    let peer = cluster.get_json("bgppeers.fairway.dev", "", "tor")?;
    ensure!(peer["spec"]["peerPort"] == 179, "{peer}");
    ensure!(first.stdout == dry.stdout, "{first:?}");
    let pool = cluster.get_json("addresspools", "", "expensive")?;
    ensure!(pool["spec"]["autoAssign"] == false, "{pool}");
    let again = import(&cluster, admin, &["--apply"])?;
    ended(
        &again,
        0,
        &[
            "BGPPeer tor is there already, just so.",
            "AddressPool expensive is there already, just so.",
        ],
    )?;
    cluster.patch(
        ("addresspools", "", "expensive"),
        "",
        &json!({"spec": {"priority": 7}}),
    )?;
    let other = import(&cluster, admin, &["--apply"])?;
    ended(
        &other,
        1,
        &["AddressPool expensive is there already and differs"],
    )?;
    let pool = cluster.get_json("addresspools", "", "expensive")?;
    ensure!(pool["spec"]["priority"] == 7, "{pool}");
    // What was printed is what kubectl takes for the same.
    let output = cluster.kubectl_as(admin, &["apply", "-f", "-"], &text(&dry.stdout))?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn every_live_address_stays_as_it_is_when_fairway_takes_over() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    cluster.namespace("metallb-system")?;
    cluster.namespace("web")?;
    cluster.namespace("mail")?;
    metallb(&cluster)?;
    let shares = json!({"metallb.universe.tf/allow-shared-ip": "dns"});
    let held = [
        // Given by the pool, in no order.
        (("shop", "auto"), json!({}), 80, json!(["192.168.10.200"])),
        (("mail", "auto"), json!({}), 80, json!(["192.168.9.3"])),
        // Asked for, in both spellings.
        (
            ("shop", "asked"),
            json!({"metallb.io/loadBalancerIPs": "192.168.10.7"}),
            80,
            json!(["192.168.10.7"]),
        ),
        (
            ("web", "pool"),
            json!({"metallb.universe.tf/address-pool": "expensive"}),
            80,
            json!(["42.176.25.66"]),
        ),
        // One address for two.
        (
            ("shop", "dns-1"),
            shares.clone(),
            53,
            json!(["192.168.10.9"]),
        ),
        (("shop", "dns-2"), shares, 853, json!(["192.168.10.9"])),
        // The last of a /24, which the pool would not give, and one of no pool any more.
        (("shop", "end"), json!({}), 80, json!(["192.168.10.255"])),
        (("shop", "gone"), json!({}), 80, json!(["192.168.77.7"])),
        // A pool that is not for its namespace any more.
        (("mail", "moved"), json!({}), 80, json!(["42.176.25.65"])),
    ];
    for ((namespace, name), annotations, port, addresses) in &held {
        let service = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
        });
        cluster.create("Service", namespace, &service)?;
        let ingress: Vec<Value> = addresses
            .as_array()
            .into_iter()
            .flatten()
            .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
            .collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        cluster.patch(("Service", namespace, name), "status", &status)?;
    }
    served(&cluster)?;
    ended(&import(&cluster, cluster.admin(), &["--apply"])?, 0, &[])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    // One that comes now is given its address after all others have been seen to.
    it.service("new", "ports: [{port: 80}]")?;
    let new = it.address("new")?.to_string();
    for ((namespace, name), _, _, addresses) in &held {
        let what = format!("{namespace}/{name} is Fairway's, with what it had");
        let service = cluster.wait_for(("Service", namespace, name), &what, |service| {
            let conditions = &service["status"]["conditions"];
            let conditions = conditions.as_array().into_iter().flatten();
            conditions
                .filter(|it| it["type"] == "fairway.dev/AddressAssigned")
                .any(|it| it["status"] == "True")
        })?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        let now: Vec<&Value> = ingress.into_iter().flatten().map(|it| &it["ip"]).collect();
        ensure!(json!(now) == *addresses, "{what}: {service}");
        ensure!(
            !now.contains(&&json!(new)),
            "{new} is given twice: {service}"
        );
    }
    Ok(())
}
