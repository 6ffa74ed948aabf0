//! What people see who ask kubectl: its whole output, held to the files in `shown/`.
//!
//! Ages, dates and identifiers are replaced, and runs of blanks become two: the width of a column
//! depends on what is in it. Run with `FAIRWAY_WRITE_SHOWN=1` the tests write the files anew.

use std::path::Path;

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::Installed;
use fairway_integration::servers::{echo, named};
use fairway_integration::site::{server, vip};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    kubectl_shows_a_service_that_is_well,
    kubectl_shows_a_service_that_gets_no_address,
    kubectl_shows_a_service_with_a_port_that_is_taken,
    kubectl_shows_pools,
];

/// Runs the commands and holds what they print to `shown/NAME.txt`.
fn holds(cluster: &Cluster, name: &str, commands: &[&str]) -> Result<()> {
    let mut seen = String::new();
    for command in commands {
        let arguments: Vec<&str> = command.split(' ').collect();
        let printed = cluster.kubectl(&arguments)?;
        seen += &format!("$ kubectl {command}\n{}\n", masked(&printed));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/shown/{name}.txt"));
    if std::env::var_os("FAIRWAY_WRITE_SHOWN").is_some() {
        std::fs::write(&path, &seen)?;
    }
    let wanted = std::fs::read_to_string(&path)?;
    ensure!(seen == wanted, "{} is not:\n{seen}", path.display());
    Ok(())
}

/// With what differs from run to run replaced.
fn masked(text: &str) -> String {
    let mut all = String::new();
    // The API server looks after cluster addresses that it believes lost or held wrongly, and at times
    // too soon.
    let of_others = |word: &str| {
        ["ClusterIP", "IPAddress", "UnknownError"]
            .iter()
            .any(|reason| word.starts_with(reason))
    };
    let ours = |line: &&str| !line.split_whitespace().any(of_others);
    for line in text.lines().filter(ours) {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let columns = rest.split("  ").map(str::trim);
        let columns: Vec<String> = columns.filter(|it| !it.is_empty()).map(mask).collect();
        let mut line = columns.join("  ");
        for field in ["UID:", "Resource Version:"] {
            if line.starts_with(field) {
                line = format!("{field}  …");
            }
        }
        all += &format!("{indent}{line}\n");
    }
    all
}

fn mask(column: &str) -> String {
    let is_age = |word: &str| {
        let mut digits = 0;
        let fits = word.chars().all(|it| {
            digits += usize::from(it.is_ascii_digit());
            it.is_ascii_digit() || "smhd".contains(it)
        });
        fits && digits > 0 && word.ends_with(['s', 'm', 'h', 'd'])
    };
    let is_time = |word: &str| word.len() == 20 && word.ends_with('Z') && word.contains('T');
    let words = column.split(' ').map(|word| match word {
        age if is_age(age) => "AGE",
        time if is_time(time) => "TIME",
        other => other,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Waits until the controller has heard of a gateway that is ready: until then it warns that there
/// is none.
fn knows_a_gateway(controller: &Fairway) -> Result<()> {
    wait::until_some("the controller knows the gateway", || {
        let rows = controller.list("gateways")?;
        let is_ready = rows.iter().any(|row| row["ready"] == true);
        ensure!(is_ready, "{rows:?}");
        Ok(())
    })
}

/// The commands that people ask about the Service `shop/NAME` with.
fn about(name: &str) -> Vec<String> {
    vec![
        format!("get svc {name} -n shop"),
        format!("get svc {name} -n shop -o wide"),
        format!("describe svc {name} -n shop"),
        format!("get events -n shop --field-selector involvedObject.name={name}"),
    ]
}

fn service_holds(cluster: &Cluster, file: &str, name: &str) -> Result<()> {
    let commands = about(name);
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    holds(cluster, file, &commands)
}

/// Ports with numbers of their own, which are shown.
fn spec(address: &str, ports: Value) -> Value {
    json!({"clusterIP": address, "ports": ports})
}

fn kubectl_shows_a_service_that_is_well() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _servers = named(&it.site.farm, &[("a", (server(0), 80).into())])?;
    let controller = it.controller("controller-1", &["--default-class"])?;
    let _gateway = it.gateway(&[])?;
    knows_a_gateway(&controller)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    cluster.node("node-a", &[server(9)], &[])?;
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    it.asking(("shop", "web"), json!({}), spec("10.96.0.80", ports))?;
    it.pod("web", 0, server(0), "node-a")?;
    it.answers(it.address("web")?, 80, Some("a"))?;
    it.tells("web", "EnsuringLoadBalancer", &[])?;
    it.tells("web", "EnsuredLoadBalancer", &[])?;
    cluster.wait_for_endpoints("shop", "web", &[server(0)])?;
    service_holds(&cluster, "well", "web")
}

fn kubectl_shows_a_service_that_gets_no_address() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.pool("edge", &["203.0.113.1"])?;
    it.pool_of("spare", "addresses: [203.0.113.16/28], autoAssign: false")?;
    it.service("first", "ports: [{port: 80}]")?;
    ensure!(it.address("first")? == vip(1));
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    it.asking(("shop", "late"), json!({}), spec("10.96.0.81", ports))?;
    it.tells("late", "EnsuringLoadBalancer", &[])?;
    it.tells(
        "late",
        "SyncLoadBalancerFailed",
        &["PoolExhausted", "spare"],
    )?;
    // Without a slice its endpoints are shown as unknown.
    wait::until_some("it has a slice", || {
        ensure!(!cluster.slices("shop", "late")?.is_empty());
        Ok::<_, anyhow::Error>(())
    })?;
    service_holds(&cluster, "pending", "late")
}

fn kubectl_shows_a_service_with_a_port_that_is_taken() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _servers = named(&it.site.farm, &[("a", (server(0), 80).into())])?;
    let _other = echo(&it.site.edge, ([0, 0, 0, 0], 8080).into())?;
    let controller = it.controller("controller-1", &["--default-class"])?;
    // Steered, it would not be in the way.
    let _gateway = it.gateway(&["--no-steering"])?;
    knows_a_gateway(&controller)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    cluster.node("node-a", &[server(9)], &[])?;
    let ports = json!([
        {"name": "http", "port": 80, "nodePort": 30080},
        {"name": "more", "port": 8080, "targetPort": 80, "nodePort": 30081},
    ]);
    it.asking(("shop", "crowded"), json!({}), spec("10.96.0.82", ports))?;
    it.pod("crowded", 0, server(0), "node-a")?;
    it.tells("crowded", "EnsuringLoadBalancer", &[])?;
    it.tells("crowded", "EnsuredLoadBalancer", &[])?;
    it.tells("crowded", "PortInUse", &["8080"])?;
    cluster.wait_for_endpoints("shop", "crowded", &[server(0)])?;
    it.answers(it.address("crowded")?, 80, Some("a"))?;
    service_holds(&cluster, "port-in-use", "crowded")
}

fn kubectl_shows_pools() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.pool("edge", &["203.0.113.1", "2001:db8:f::1-2001:db8:f::9"])?;
    it.pool("twin", &["203.0.113.0/29"])?;
    it.pool_of(
        "staff",
        "addresses: [203.0.113.64/28], autoAssign: false, priority: 10, quotaPerNamespace: 2, \
         namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}",
    )?;
    let both = json!({"ipFamilyPolicy": "RequireDualStack"});
    it.asking(("shop", "web"), json!({}), both)?;
    it.address("web")?;
    for (name, used) in [("edge", 1), ("twin", 1), ("staff", 0)] {
        let what = format!("the status of {name} is settled");
        cluster.wait_for(("AddressPool", "", name), &what, |pool| {
            let conditions = pool["status"]["conditions"].as_array();
            let overlaps = conditions.is_some_and(|all| {
                all.iter()
                    .any(|it| it["type"] == "Overlaps" && it["status"] == "True")
            });
            pool["status"]["ipv4"]["used"] == used
                && (name != "edge" || pool["status"]["ipv6"]["used"] == used)
                && overlaps == (name != "staff")
        })?;
    }
    wait::until("all are ready", || {
        let table = cluster.kubectl(&["get", "apool"]).unwrap_or_default();
        table.matches("True").count() >= 3
    })?;
    holds(
        &cluster,
        "pools",
        &[
            "get apool",
            "get apool -o wide",
            "describe apool edge",
            "describe apool staff",
        ],
    )
}
