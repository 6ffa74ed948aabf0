//! What people type: as a kubectl user expects it, and a sentence where it can't be.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, edge_pool, load_balancer, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, server, vip};
use fairway_integration::{clients, programs, wait};
use serde_json::Value;

use crate::running::{edge, fairway, text};

pub(crate) fn get_takes_what_a_kubectl_user_types() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    fairway.write(
        "other.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: tenant}\n\
         spec: {ports: [{port: 80}]}\n",
    )?;
    wait::until_some("the Service is listed", || fairway.service("tenant/other"))?;
    for (arguments, lines, words) in [
        (&["-A"][..], 3, &["shop", "other", "NAMESPACE"][..]),
        (&["--all-namespaces"], 3, &["shop", "other"]),
        (&["-A", "-n", "tenant"], 3, &["shop", "other"]),
        (&["shop"], 2, &["shop"]),
        (&["shop", "other"], 3, &["shop", "other"]),
        (&["tenant/other"], 2, &["other"]),
        (&["other", "-n", "tenant"], 2, &["other"]),
        (&["shop", "other", "--no-headers"], 2, &["shop", "other"]),
    ] {
        let table = fairway.cli_output(&[&["get", "services"], arguments].concat())?;
        ensure!(table.lines().count() == lines, "{arguments:?}: {table}");
        ensure!(
            words.iter().all(|word| table.contains(word)),
            "{arguments:?}: {table}"
        );
    }
    let shop = fairway.cli_output(&["get", "services", "shop"])?;
    for arguments in [
        &["svc", "shop"][..],
        &["service", "shop"],
        &["svc/shop"],
        &["service/shop"],
        &["services/shop"],
        &["services/default/shop"],
    ] {
        let table = fairway.cli_output(&[&["get"], arguments].concat())?;
        // The age may have changed.
        let cut = |table: &str| table.rsplit_once(' ').map(|(front, _)| front.to_owned());
        ensure!(cut(&table) == cut(&shop), "{arguments:?}: {table}");
    }
    let here = fairway.cli_output(&["get", "services/shop", "-n", "default"])?;
    ensure!(here.lines().count() == 2 && here.contains("shop"), "{here}");
    let both = fairway.cli_output(&["get", "svc/shop", "svc/other", "-o", "name"])?;
    ensure!(both == "service/shop\nservice/other\n", "{both}");
    for (what, wanted) in [
        ("endpoints", "endpoints/shop\n"),
        ("pools", "addresspool.fairway.dev/edge\n"),
        (
            "addresspool.fairway.dev/edge",
            "addresspool.fairway.dev/edge\n",
        ),
    ] {
        let names = fairway.cli_output(&["get", what, "-o", "name"])?;
        ensure!(names == wanted, "{what}: {names}");
    }
    let names = fairway.cli_output(&["get", "listeners", "-o", "name"])?;
    ensure!(names.contains("listener/203.0.113.1:80\n"), "{names}");
    for (arguments, word) in [
        (&["get", "svc/shop", "pools/edge"][..], "one type at a time"),
        (&["get", "svc/shop", "other"], "one type at a time"),
        (&["get", "svc/"], "a name is missing"),
        (
            &["get", "pods"],
            "services, endpoints, pools, gateways, addresses, listeners, peers",
        ),
        (
            &["get", "pod/shop"],
            "services, endpoints, pools, gateways, addresses, listeners, peers",
        ),
    ] {
        let output = fairway.cli(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {output:?}");
        ensure!(text(&output.stderr).contains(word), "{output:?}");
    }
    // One that was asked for by name is an object, as for kubectl, and several are a list.
    let one: Value =
        serde_json::from_str(&fairway.cli_output(&["get", "svc", "shop", "-o", "json"])?)?;
    ensure!(one["name"] == "shop", "{one}");
    let endpoints = fairway.cli_output(&["get", "endpoints", "shop"])?;
    ensure!(endpoints.contains(&server(0).to_string()), "{endpoints}");
    for arguments in [
        &["get", "services", "nobody"][..],
        &["get", "services", "shop", "-n", "tenant"],
        &["get", "pools", "nobody"],
        &["get", "svc/nobody"],
        &["get", "gateways/nobody", "-o", "name"],
        &["get", "endpoints", "nobody", "-o", "json"],
    ] {
        let output = fairway.cli(arguments)?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
        ensure!(
            text(&output.stderr).contains("nothing of the name"),
            "{output:?}"
        );
    }
    let nothing = fairway.cli(&["get", "services", "-n", "empty"])?;
    ensure!(
        nothing.status.success() && nothing.stdout.is_empty(),
        "{nothing:?}"
    );
    ensure!(text(&nothing.stderr).contains("No resources found in empty namespace."));
    Ok(())
}

pub(crate) fn get_watch_prints_what_changes() -> Result<()> {
    let (fairway, site, _served) = edge(&[])?;
    let mut command = Command::new(programs::fairway()?);
    command.args(["get", "services", "-w"]);
    let mut watching = site.edge.spawn(command)?;
    let lines = |word: &str| {
        watching
            .said()
            .lines()
            .filter(|line| line.contains(word))
            .count()
    };
    wait::until("what is there is printed", || lines("shop") == 1)?;
    fairway.write("next.yaml", &load_balancer("next", vip(2), 80, 8080))?;
    wait::until("what is new is printed", || lines("next") >= 1)?;
    wait::until("its address is printed", || lines("203.0.113.2") >= 1)?;
    ensure!(
        lines("shop") == 1 && lines("NAMESPACE") == 1,
        "{}",
        watching.said()
    );
    let before = lines("next");
    fairway.remove("next.yaml")?;
    wait::until("what is gone is printed", || lines("next") > before)?;
    ensure!(watching.ended()?.is_none());
    Ok(())
}

pub(crate) fn explain_takes_what_a_kubectl_user_types() -> Result<()> {
    let (fairway, _site, _served) = edge(&[])?;
    for arguments in [
        &["service", "default/shop"][..],
        &["default/shop"],
        &["shop"],
        &["-n", "default", "shop"],
        &["service", "shop", "-n", "default"],
        &["svc/shop", "-n", "default"],
        &["svc/shop"],
        &["service/default/shop"],
        &["services", "shop"],
    ] {
        let said = fairway.cli_output(&[&["explain"], arguments].concat())?;
        ensure!(
            said.starts_with("Service default/shop\n"),
            "{arguments:?}: {said}"
        );
    }
    fairway.write(
        "twin.yaml",
        &load_balancer("shop", vip(2), 80, 8080)
            .replace("name: shop", "name: shop, namespace: other"),
    )?;
    wait::until_some("the other is listed", || fairway.service("other/shop"))?;
    let output = fairway.cli(&["explain", "shop"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        text(&output.stderr).contains("default, other"),
        "{output:?}"
    );
    for arguments in [
        &["explain", "-n", "nowhere", "shop"][..],
        &["describe", "svc", "shop", "-n", "nowhere"],
        &["explain", "svc/shop", "-n", "nowhere"],
    ] {
        let none = fairway.cli(arguments)?;
        ensure!(none.status.code() == Some(1), "{none:?}");
        ensure!(
            text(&none.stderr).contains("there is no Service nowhere/shop"),
            "{none:?}"
        );
    }
    Ok(())
}

pub(crate) fn a_variable_that_is_empty_is_as_one_that_is_not_set() -> Result<()> {
    let site = Site::new()?;
    // All that a command takes, and each is named in its help.
    let mut command = Command::new(programs::fairway()?);
    let help = text(&command.args(["standalone", "--help"]).output()?.stdout);
    let variables: Vec<&str> = help
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .collect();
    ensure!(variables.len() > 15, "{variables:?}");
    let empty: Vec<_> = variables.iter().map(|name| (*name, "")).collect();
    // Those that the test sets itself are flags.
    let mut fairway = Fairway::prepare(&site.edge)?.environment(&empty);
    fairway.write("pool.yaml", &edge_pool())?;
    fairway.launch()?;
    fairway.ready()?;
    for arguments in [&["get", "pools"][..], &["get", "gateways"]] {
        let mut command = Command::new(programs::fairway()?);
        command.args(arguments).envs(empty.iter().copied());
        let output = site.edge.run(|| command.output())?;
        ensure!(output.status.success(), "{output:?}");
    }
    // What is needed is asked for, and not taken to be the present directory.
    let mut command = Command::new(programs::fairway()?);
    command
        .arg("standalone")
        .env("FAIRWAY_MANIFESTS", "")
        .env("FAIRWAY_STATE", "");
    let output = command.output()?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(text(&output.stderr).contains("--manifests"), "{output:?}");
    Ok(())
}

pub(crate) fn a_gateway_is_ready_when_services_are_said_to_be_served() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::prepare(&site.edge)?;
    let served = named(&site.farm, &[("a", SocketAddr::new(server(0), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0)]),
    ]);
    fairway.write("shop.yaml", &manifests)?;
    // Looked at from the first moment on, again and again.
    for _ in 0..5 {
        fairway.launch()?;
        let serving = wait::until_some("the Service is served", || {
            let services = fairway.get("/api/v1/services")?.body;
            let services: Value = serde_json::from_str(&services)?;
            ensure!(services["items"][0]["serving"] == 1, "{services}");
            Ok(services)
        })?;
        let gateways: Value = serde_json::from_str(&fairway.get("/api/v1/gateways")?.body)?;
        ensure!(
            gateways["items"][0]["ready"] == true,
            "{serving} {gateways}"
        );
        fairway.kill();
    }
    drop(served);
    Ok(())
}

pub(crate) fn an_admin_address_is_named_as_people_do() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--metrics", ":9902"]);
    fairway.write("pool.yaml", &edge_pool())?;
    fairway.launch()?;
    fairway.ready()?;
    for admin in ["localhost:9901", ":9901", "9901", "http://127.0.0.1:9901/"] {
        let output = fairway.cli(&["get", "pools", "--admin", admin])?;
        ensure!(output.status.success(), "{admin}: {output:?}");
    }
    // Metrics are for others: without a host they are on all addresses.
    let to = SocketAddr::new(EDGE, 9902);
    let live = site.client.run(|| clients::http_get(to, "/livez"))?;
    ensure!(live.status == 200, "{live:?}");
    // They are no admin address, and say so.
    let output = fairway.cli(&["get", "pools", "--admin", ":9902"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(text(&output.stderr).contains("--metrics"), "{output:?}");
    Ok(())
}

pub(crate) fn an_address_that_is_no_fairway_is_said_to_be_none() -> Result<()> {
    let site = Site::new()?;
    let _web = named(&site.edge, &[("a", "127.0.0.1:8001".parse()?)])?;
    let mut command = Command::new(programs::find("nginx")?);
    let folder = tempfile::tempdir()?;
    let configuration = folder.path().join("nginx.conf");
    // nginx removes its pid file at its end, so that has to be a file of its own.
    let pid = folder.path().join("nginx.pid");
    std::fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid {}; error_log stderr; events {{}} http {{ access_log off; \
             server {{ listen 127.0.0.1:8003; location / {{ return 404; }} }} \
             server {{ listen 127.0.0.1:8004; location / {{ return 200 \"<html>\"; }} }} }}",
            pid.display()
        ),
    )?;
    command.arg("-c").arg(&configuration);
    let _nginx = site.edge.spawn(command)?;
    wait::until("nginx listens", || {
        site.edge
            .run(|| clients::connect_tcp(SocketAddr::from(([127, 0, 0, 1], 8003))).is_ok())
    })?;
    for admin in ["127.0.0.1:8001", "127.0.0.1:8003", "127.0.0.1:8004"] {
        for arguments in [&["get", "services"][..], &["explain", "a/b"]] {
            let mut command = Command::new(programs::fairway()?);
            command.args(arguments).args(["--admin", admin]);
            let output = site.edge.run(|| command.output())?;
            let said = text(&output.stderr);
            ensure!(output.status.code() == Some(1), "{admin}: {output:?}");
            ensure!(said.contains(admin) && !said.contains("<html>"), "{said}");
            ensure!(said.lines().count() == 1, "{said}");
            ensure!(
                said.contains("no Fairway") || said.contains("does not speak HTTP"),
                "{said}"
            );
        }
    }
    Ok(())
}

pub(crate) fn a_misspelt_variable_is_named_by_every_command() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let folder = empty.path().display().to_string();
    for arguments in [
        &["get", "services", "--admin", "127.0.0.1:1"][..],
        &["explain", "a/b", "--admin", "127.0.0.1:1"],
        &["standalone", "--manifests", &folder, "--state", &folder],
        &["controller", "--kubeconfig", "/nowhere"],
        &["gateway", "--kubeconfig", "/nowhere"],
        &["validate", &folder],
        &["import", "metallb", "--from", "/nowhere"],
        &["crds"],
    ] {
        let mut command = Command::new(programs::fairway()?);
        command.args(arguments).env("FAIRWAY_DRAIN_TIME", "5s");
        let host = Host::new("alone")?;
        let output = host.run(|| command.output())?;
        let said = text(&output.stderr);
        ensure!(
            said.contains("FAIRWAY_DRAIN_TIME") && said.contains("is FAIRWAY_DRAIN_TIMEOUT meant?"),
            "{arguments:?}: {said}"
        );
    }
    Ok(())
}

pub(crate) fn standalone_says_what_directories_it_can_not_work_with() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("manifests"))?;
    std::os::unix::fs::symlink(path("manifests"), path("link"))?;
    for (manifests, state, word) in [
        (
            "manifests",
            "manifests/state",
            "lies in the manifest directory",
        ),
        ("manifests", "link/state", "lies in the manifest directory"),
        ("manifests", "manifests", "is the state directory"),
        (
            "link/../manifests",
            "manifests/a/b",
            "lies in the manifest directory",
        ),
        ("nowhere", "state", "make it"),
    ] {
        let output = fairway(&[
            "standalone",
            "--manifests",
            &path(manifests),
            "--state",
            &path(state),
            "--admin",
            "127.0.0.1:0",
        ])?;
        let said = text(&output.stderr);
        ensure!(
            output.status.code() == Some(2),
            "{manifests} {state}: {output:?}"
        );
        ensure!(said.contains(word), "{manifests} {state}: {said}");
    }
    Ok(())
}

pub(crate) fn the_log_names_services_and_counts_what_comes_in_batches() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::prepare(&site.edge)?.log("info");
    let many: Vec<String> = (0..200)
        .flat_map(|n| {
            let name = format!("s{n:03}");
            [
                service(&name, "type: LoadBalancer, ports: [{port: 80}]"),
                slice(&name, 80, &[server(0)]),
            ]
        })
        .chain([pool("edge", &["203.0.113.0-203.0.113.198"])])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    fairway.write("many.yaml", &all(&many))?;
    fairway.launch()?;
    fairway.ready()?;
    let said = fairway.process()?.said();
    let count = |words: &[&str]| {
        let lines = said.lines();
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    };
    ensure!(count(&["external address assigned"]) == 199, "{said}");
    let address = fairway.address("default/s007")?;
    ensure!(
        count(&["external address assigned", "default/s007", &address]) == 1,
        "{said}"
    );
    ensure!(
        count(&["external address pending", "default/s", "reason"]) == 1,
        "{said}"
    );
    // Batches are few, whatever comes in them.
    let routes = count(&["made local by routes"]);
    ensure!((1..20).contains(&routes), "{routes} lines: {said}");
    let others =
        said.lines().count() - count(&["external address"]) - count(&["node ports assigned"]);
    ensure!(others < 40, "{others} lines: {said}");
    Ok(())
}
