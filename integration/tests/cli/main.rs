//! The commands and the admin address, as people and scripts see them.

mod running;
mod typed;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice};
use fairway_integration::site::{EDGE, Site, server, vip};
use fairway_integration::{clients, programs, tests, wait};
use running::{edge, fairway, text};
use serde_json::Value;
use typed::*;

tests![
    demo_does_a_round_and_ends_well,
    demo_runs_until_it_is_interrupted,
    get_prints_tables_and_json_and_yaml,
    get_knows_namespaces,
    explain_says_why,
    explain_says_where_there_is_no_such_service,
    explain_of_what_is_held_back_says_so_and_fails,
    validate_accepts_what_is_good,
    validate_reports_every_problem_at_once,
    crds_can_be_read,
    completions_are_printed,
    wrong_usage_ends_with_2,
    a_process_that_is_not_there_is_said,
    get_takes_what_a_kubectl_user_types,
    get_watch_prints_what_changes,
    explain_takes_what_a_kubectl_user_types,
    a_variable_that_is_empty_is_as_one_that_is_not_set,
    a_gateway_is_ready_when_services_are_said_to_be_served,
    an_admin_address_is_named_as_people_do,
    an_address_that_is_no_fairway_is_said_to_be_none,
    a_misspelt_variable_is_named_by_every_command,
    standalone_says_what_directories_it_can_not_work_with,
    the_log_names_services_and_counts_what_comes_in_batches,
    the_admin_address_serves_health_api_and_status_page,
    readyz_waits_for_every_listener,
    the_metrics_address_serves_metrics_and_health_alone,
    logs_can_be_json,
    flags_are_environment_variables_too,
];

fn manifests(folder: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("manifests")
        .join(folder)
        .display()
        .to_string()
}

fn demo_does_a_round_and_ends_well() -> Result<()> {
    let host = Host::new("home")?;
    let mut command = Command::new(programs::fairway()?);
    command.args(["demo", "--once"]);
    // Whom this host trusts is of no concern where nothing is spoken to in TLS.
    command.env("SSL_CERT_FILE", "/nowhere");
    let output = host.run(|| command.output())?;
    let said = text(&output.stdout);
    ensure!(
        output.status.code() == Some(0),
        "{said}{}",
        text(&output.stderr)
    );
    for word in [
        "NAMESPACE",
        "EXTERNAL-IP",
        "LoadBalancer",
        "NodePort",
        "(ok)",
    ] {
        ensure!(said.contains(word), "'{word}' is not in: {said}");
    }
    Ok(())
}

fn demo_runs_until_it_is_interrupted() -> Result<()> {
    let host = Host::new("home")?;
    let mut command = Command::new(programs::fairway()?);
    command.arg("demo");
    let mut process = host.spawn(command)?;
    let page: SocketAddr = wait::until_some("the status page is named", || {
        let said = process.said();
        let url = said
            .rsplit("http://")
            .next()
            .filter(|rest| *rest != said)
            .context("no URL")?;
        let end = url
            .find(|c: char| c == '/' || c.is_whitespace())
            .unwrap_or(url.len());
        anyhow::Ok(url[..end].parse()?)
    })?;
    let page = host.run(|| clients::http_get(page, "/"))?;
    ensure!(page.status == 200 && page.body.contains("LoadBalancer"));
    ensure!(process.ended()?.is_none(), "it did not stay");
    process.signal(rustix::process::Signal::INT)?;
    let status = process.wait(wait::SOON)?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

fn get_prints_tables_and_json_and_yaml() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    let tables = [
        (
            "services",
            "NAMESPACE NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) SERVING ENDPOINTS AGE",
        ),
        ("endpoints", "NAMESPACE SERVICE PORT ENDPOINT STATE"),
        ("pools", "NAME TOTAL USED AVAILABLE"),
        ("gateways", "NAME VERSION READY HEARS ADDRESSES LISTENING"),
        ("listeners", "NAMESPACE SERVICE LISTEN PROTOCOL KIND STATE"),
    ];
    for (what, wanted) in tables {
        let table = fairway.cli_output(&["get", what])?;
        let heading: Vec<&str> = table
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        ensure!(heading.join(" ").starts_with(wanted), "{table}");
        ensure!(table.lines().count() > 1, "{table}");
        ensure!(
            table.lines().all(|line| line == line.trim_end()),
            "lines end in spaces: {table:?}"
        );
        let wide = fairway.cli_output(&["get", what, "-o", "wide"])?;
        ensure!(
            wide.lines().next().map(str::len) > table.lines().next().map(str::len),
            "{wide}"
        );
        let json: Value = serde_json::from_str(&fairway.cli_output(&["get", what, "-o", "json"])?)?;
        ensure!(
            json["items"]
                .as_array()
                .is_some_and(|items| !items.is_empty()),
            "{json}"
        );
        let yaml = fairway.cli_output(&["get", what, "-o", "yaml"])?;
        let yaml: Value = serde_saphyr::from_str(&yaml)?;
        ensure!(
            yaml["items"].as_array().map(Vec::len) == json["items"].as_array().map(Vec::len),
            "{yaml}"
        );
    }
    let node_port = fairway
        .node_ports("default/shop")?
        .first()
        .copied()
        .context("none")?;
    let table = fairway.cli_output(&["get", "services"])?;
    let row: Vec<&str> = table
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ports = format!("80:{node_port}/TCP");
    let wanted = [
        "default",
        "shop",
        "LoadBalancer",
        "<none>",
        "203.0.113.1",
        &ports,
    ];
    ensure!(row.get(..6) == Some(&wanted), "{table}");
    Ok(())
}

fn get_knows_namespaces() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    fairway.write(
        "other.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: tenant}\n\
         spec: {ports: [{port: 80}]}\n",
    )?;
    wait::until_some("the Service is listed", || fairway.service("tenant/other"))?;
    let everywhere = fairway.cli_output(&["get", "services"])?;
    ensure!(
        everywhere.contains("shop") && everywhere.contains("other"),
        "{everywhere}"
    );
    let tenants = fairway.cli_output(&["get", "services", "-n", "tenant"])?;
    ensure!(
        !tenants.contains("shop") && tenants.contains("other"),
        "{tenants}"
    );
    ensure!(tenants.starts_with("NAME "), "{tenants}");
    Ok(())
}

fn explain_says_why() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    let node_port = fairway
        .node_ports("default/shop")?
        .first()
        .copied()
        .context("none")?;
    fairway.explains(
        "default/shop",
        &[
            "203.0.113.1",
            "edge",
            &node_port.to_string(),
            &server(0).to_string(),
            "shop.yaml",
        ],
    )?;
    // An endpoint that gets nothing, and why.
    let resting = slice("shop", 8080, &[server(0)]).replace(
        "]}]",
        "]}, {addresses: [192.0.2.12], conditions: {ready: false}}]",
    );
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &resting,
    ]);
    fairway.write("shop.yaml", &manifests)?;
    fairway.explains("default/shop", &["192.0.2.12", "not ready"])
}

fn explain_of_what_is_held_back_says_so_and_fails() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    let explain = || fairway.cli(&["explain", "service", "default/shop"]);
    ensure!(explain()?.status.success());
    let good = all(&[&edge_pool(), &load_balancer("shop", vip(1), 80, 8080)]);
    let held_back = |what: &str| {
        wait::until_some(&format!("explain fails: {what}"), || {
            let output = explain()?;
            let said = text(&output.stdout);
            ensure!(output.status.code() == Some(1), "{output:?}");
            ensure!(
                said.contains("Held back") && said.contains("shop.yaml"),
                "{said}"
            );
            ensure!(
                said.contains("203.0.113.1"),
                "what is in force is said, too: {said}"
            );
            Ok(())
        })
    };
    let wrong_type = good.replace("port: 80", "port: [80]");
    ensure!(wrong_type != good);
    fairway.write("shop.yaml", &wrong_type)?;
    held_back("an object that can't be read")?;
    fairway.write("shop.yaml", "{{{ no YAML")?;
    held_back("a file that can't be read")?;
    fairway.write("shop.yaml", &good)?;
    wait::until_some("it is as it should be", || {
        let output = explain()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
}

fn explain_says_where_there_is_no_such_service() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    let output = fairway.cli(&["explain", "service", "default/nobody"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        text(&output.stderr).contains("default/nobody"),
        "{output:?}"
    );
    Ok(())
}

fn validate_accepts_what_is_good() -> Result<()> {
    for folder in ["hand-written", "cluster"] {
        let output = fairway(&["validate", &manifests(folder)])?;
        ensure!(output.status.code() == Some(0), "{folder}: {output:?}");
    }
    Ok(())
}

fn validate_reports_every_problem_at_once() -> Result<()> {
    let output = fairway(&["validate", &manifests("broken")])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = text(&output.stdout) + &text(&output.stderr);
    for words in [
        &["not-yaml.yaml"][..],
        &["fields.yaml", "document 1", "spec.ports[0].port"],
        &["fields.yaml", "spec.ports[1].port", "70000"],
        &["fields.yaml", "spec.sessionAffinity", "Always"],
        &["fields.yaml", "document 2", "spec.addresses[0]"],
        &["fields.yaml", "document 2", "spec.addresses[1]"],
    ] {
        ensure!(
            said.lines()
                .any(|line| words.iter().all(|word| line.contains(word))),
            "no line has {words:?}: {said}"
        );
    }
    let missing = fairway(&["validate", "/nowhere/at/all"])?;
    ensure!(!missing.status.success() && text(&missing.stderr).contains("/nowhere/at/all"));
    Ok(())
}

fn crds_can_be_read() -> Result<()> {
    let output = fairway(&["crds"])?;
    let crds: Vec<Value> = serde_saphyr::from_multiple(&text(&output.stdout))?;
    let names: Vec<_> = crds.iter().map(|crd| &crd["metadata"]["name"]).collect();
    ensure!(
        names == ["addresspools.fairway.dev", "bgppeers.fairway.dev"],
        "{names:?}"
    );
    let crd = &crds[0];
    ensure!(crd["kind"] == "CustomResourceDefinition", "{crd}");
    ensure!(crd["spec"]["names"]["shortNames"][0] == "apool", "{crd}");
    ensure!(crd["spec"]["scope"] == "Cluster", "{crd}");
    let version = &crd["spec"]["versions"][0];
    ensure!(version["name"] == "v1alpha1" && version["subresources"]["status"].is_object());
    ensure!(
        version["additionalPrinterColumns"]
            .as_array()
            .is_some_and(|all| all.len() >= 3)
    );
    Ok(())
}

fn completions_are_printed() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let output = fairway(&["completions", shell])?;
        ensure!(
            output.status.success() && text(&output.stdout).contains("standalone"),
            "{shell}"
        );
    }
    Ok(())
}

fn wrong_usage_ends_with_2() -> Result<()> {
    for arguments in [
        &["stand-alone"][..],
        &["standalone"],
        &["get", "horses"],
        &["explain", "pod", "web"],
        &["explain", "service"],
        &["explain", "one/web", "--namespace", "other"],
        &["get", "services", "--admin", "nowhere at all"],
        &["get", "services", "--admin", "127.0.0.1"],
        &[
            "standalone",
            "--manifests",
            "/tmp",
            "--state",
            "/tmp",
            "--node-port-range",
            "9-1",
        ],
        &[
            "standalone",
            "--manifests",
            "/tmp",
            "--state",
            "/tmp",
            "--forward-to",
            "moon",
        ],
    ] {
        let output = fairway(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {output:?}");
        ensure!(!output.stderr.is_empty(), "{arguments:?} says nothing");
    }
    Ok(())
}

fn a_process_that_is_not_there_is_said() -> Result<()> {
    let output = fairway(&["get", "services", "--admin", "127.0.0.1:1"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = text(&output.stderr);
    ensure!(
        said.contains("127.0.0.1:1") && said.contains("--admin"),
        "{said}"
    );
    Ok(())
}

fn the_admin_address_serves_health_api_and_status_page() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    ensure!(fairway.get("/livez")?.status == 200);
    ensure!(fairway.get("/readyz")?.status == 200);
    let page = fairway.get("/")?;
    ensure!(page.status == 200 && page.body.contains("shop"), "{page:?}");
    ensure!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    let metrics = fairway.get("/metrics")?;
    ensure!(
        metrics.body.contains("fairway_build_info{"),
        "{}",
        metrics.body
    );
    for metric in [
        "fairway_pool_addresses",
        "fairway_node_ports",
        "fairway_services",
        "fairway_sync_duration_seconds",
        "fairway_programming_duration_seconds",
        "fairway_store_errors_total",
        "fairway_manifest_errors",
        "process_resident_memory_bytes",
    ] {
        ensure!(
            metrics.body.contains(&format!("# TYPE {metric} ")),
            "{metric} is not there"
        );
    }
    for what in ["services", "endpoints", "pools", "gateways", "listeners"] {
        ensure!(!fairway.list(what)?.is_empty(), "{what}");
    }
    ensure!(fairway.get("/nowhere")?.status == 404);
    Ok(())
}

fn readyz_waits_for_every_listener() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::prepare(&site.edge)?;
    let many: Vec<String> = (0..100)
        .flat_map(|n| {
            let name = format!("s{n:03}");
            [
                load_balancer(&name, vip(n), 80, 80),
                slice(&name, 80, &[server(0)]),
            ]
        })
        .chain([fairway_integration::manifest::pool(
            "edge",
            &["203.0.113.0/24"],
        )])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    fairway.write("many.yaml", &all(&many))?;
    fairway.launch()?;
    fairway.ready()?;
    // All of it is there now: nothing is waited for any more.
    let listening = |row: &&Value| row["state"]["state"] == "listening";
    let listeners = fairway.list("listeners")?;
    let failed = listeners.iter().find(|row| !listening(row));
    ensure!(failed.is_none(), "{failed:?}");
    let vips = listeners.iter().filter(|row| row["kind"] == "vip").count();
    ensure!(vips == 100, "{vips} of 100");
    for n in 0..100 {
        let file = fairway.state_file(&format!("default/s{n:03}"))?;
        ensure!(
            file["status"]["loadBalancer"]["ingress"][0]["ip"].is_string(),
            "{file}"
        );
    }
    Ok(())
}

fn the_metrics_address_serves_metrics_and_health_alone() -> Result<()> {
    let (_fairway, site, _served) = edge(&["--metrics", "198.51.100.1:9902"])?;
    let to = SocketAddr::new(EDGE, 9902);
    let get = |path: &str| site.client.run(|| clients::http_get(to, path));
    ensure!(get("/metrics")?.body.contains("fairway_build_info{"));
    ensure!(get("/livez")?.status == 200 && get("/readyz")?.status == 200);
    for path in ["/", "/api/v1/services", "/api/v1/explain/default/shop"] {
        ensure!(get(path)?.status == 404, "{path} is there");
    }
    // And the admin address is not to be seen from outside.
    ensure!(
        site.client
            .run(|| clients::connect_tcp(SocketAddr::new(EDGE, 9901)).is_err())
    );
    Ok(())
}

fn logs_can_be_json() -> Result<()> {
    let (mut fairway, _site, _served) = edge(&["--log-format", "json"])?;
    fairway.stop()?;
    // The process is gone; what it said is in the journal of this thread.
    let journal = fairway_integration::lab::take_journal();
    let lines: Vec<&str> = journal
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    ensure!(!lines.is_empty(), "{journal}");
    for line in lines {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            entry["level"].is_string() && entry["timestamp"].is_string(),
            "{line}"
        );
    }
    Ok(())
}

fn flags_are_environment_variables_too() -> Result<()> {
    let host = Host::new("alone")?;
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(programs::fairway()?);
    command
        .arg("standalone")
        .env("FAIRWAY_MANIFESTS", folder.path().join("manifests"))
        .env("FAIRWAY_STATE", folder.path().join("state"));
    command
        .env("FAIRWAY_ADMIN", "127.0.0.1:7777")
        .env("FAIRWAY_LOG_FORMAT", "json");
    std::fs::create_dir(folder.path().join("manifests"))?;
    let _process = host.spawn(command)?;
    let to = "127.0.0.1:7777".parse()?;
    wait::until("the admin address answers", || {
        host.run(|| clients::http_get(to, "/livez").is_ok_and(|response| response.status == 200))
    })
}
