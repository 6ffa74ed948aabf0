//! What real people have: manifests written by hand, and what kubectl prints.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{EDGE, Site, at, client, server, vip};
use fairway_integration::{clients, tests};

tests![
    hand_written_manifests_work_as_they_are,
    the_output_of_kubectl_works_as_it_is
];

/// Fairway on a folder of integration/manifests, which it only reads.
fn start(site: &Site, folder: &str) -> Result<Fairway> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("manifests")
        .join(folder);
    let mut fairway = Fairway::prepare(&site.edge)?.manifests_in(manifests);
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

/// The row of `get services` for a Service, as columns; the age left out.
fn row(table: &str, namespace: &str, name: &str) -> Vec<String> {
    table
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .find(|columns| columns.get(..2) == Some(&[namespace.to_owned(), name.to_owned()]))
        .map(|columns| columns.into_iter().skip(2).take(4).collect())
        .unwrap_or_default()
}

fn hand_written_manifests_work_as_they_are() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(
        &site.farm,
        &[
            ("whoami-1", at(server(0), 8080)),
            ("whoami-2", at(server(1), 8080)),
            ("whoami-3", at(server(2), 8080)),
            ("web", at(server(3), 80)),
            ("shop", at(server(4), 8080)),
            ("legacy", at(server(5), 443)),
            ("dns-tcp", at(server(6), 5353)),
        ],
    )?;
    let _udp = named_udp(&site.farm, &[("dns-udp", at(server(6), 5353))])?;
    let fairway = start(&site, "hand-written")?;

    let table = fairway.cli_output(&["get", "services"])?;
    let address = |name: &str| fairway.address(name);
    let (legacy, dns) = (address("default/legacy")?, address("default/dns")?);
    let legacy_port = fairway
        .node_ports("default/legacy")?
        .first()
        .copied()
        .context("none")?;
    let legacy_ports = format!("8443:{legacy_port}/TCP");
    for (namespace, name, wanted) in [
        (
            "lab",
            "whoami",
            ["NodePort", "<none>", "<none>", "8080:30062/TCP"],
        ),
        (
            "default",
            "web",
            ["NodePort", "<none>", "<none>", "80:30144/TCP"],
        ),
        (
            "web",
            "shop",
            ["LoadBalancer", "<none>", "203.0.113.10", "80:31468/TCP"],
        ),
        (
            "default",
            "legacy",
            ["LoadBalancer", "<none>", &legacy, &legacy_ports],
        ),
        (
            "default",
            "dns",
            ["LoadBalancer", "<none>", &dns, "53:30053/UDP,53:30053/TCP"],
        ),
        (
            "default",
            "database",
            ["ClusterIP", "None", "<none>", "5432/TCP"],
        ),
        (
            "default",
            "search",
            ["ExternalName", "<none>", "search.example.com", "<none>"],
        ),
    ] {
        ensure!(
            row(&table, namespace, name) == wanted,
            "{namespace}/{name}: {table}"
        );
    }

    site.client.run(|| {
        let mut seen = BTreeSet::new();
        for n in 0..20 {
            let ask = || clients::who_from(client(n), at(EDGE, 30062));
            let who = ask()?;
            ensure!(ask()? == who, "client {n} was not kept");
            seen.insert(who);
        }
        ensure!(
            seen == BTreeSet::from(["whoami-1".to_owned(), "whoami-2".to_owned()]),
            "{seen:?}"
        );
        ensure!(clients::who(at(EDGE, 30144))? == "web");
        ensure!(clients::who(at(vip(10), 80))? == "shop");
        ensure!(clients::who(at(EDGE, 31468))? == "shop");
        ensure!(clients::who(at(legacy.parse()?, 8443))? == "legacy");
        for to in [at(dns.parse()?, 53), at(EDGE, 30053)] {
            ensure!(clients::who(to)? == "dns-tcp");
            ensure!(clients::who_udp(None, to)? == "dns-udp");
        }
        Ok(())
    })
}

fn the_output_of_kubectl_works_as_it_is() -> Result<()> {
    let site = Site::new()?;
    // The pods' network, to which the edge has a way.
    let pods = ["10.42.0.8", "10.42.1.12", "10.42.1.20"].map(|pod| (pod.parse::<IpAddr>(), 32));
    for (pod, length) in pods {
        site.farm.addresses("up", &[(pod?, length)])?;
    }
    site.edge
        .ip(&format!("route add 10.42.0.0/16 via {}", server(0)))?;
    let pod = |text: &str, port| anyhow::Ok(at(text.parse()?, port));
    let _servers = named(
        &site.farm,
        &[
            ("traefik-1", pod("10.42.0.8", 8000)?),
            ("traefik-2", pod("10.42.1.12", 8000)?),
            ("secure-1", pod("10.42.0.8", 8443)?),
            ("secure-2", pod("10.42.1.12", 8443)?),
            ("registry", pod("10.42.1.20", 8080)?),
        ],
    )?;
    let fairway = start(&site, "cluster")?;

    let table = fairway.cli_output(&["get", "services"])?;
    for (namespace, name, wanted) in [
        (
            "default",
            "kubernetes",
            ["ClusterIP", "10.43.0.1", "<none>", "443/TCP"],
        ),
        // Address and node ports are those that it had: a wish that was granted.
        (
            "kube-system",
            "traefik",
            [
                "LoadBalancer",
                "10.43.118.4",
                "203.0.113.6",
                "80:31468/TCP,443:30917/TCP",
            ],
        ),
        (
            "tools",
            "registry",
            ["NodePort", "10.43.77.20", "<none>", "8080:30062/TCP"],
        ),
    ] {
        ensure!(
            row(&table, namespace, name) == wanted,
            "{namespace}/{name}: {table}"
        );
    }
    site.client.run(|| {
        let both = |to, names: [&str; 2]| -> Result<()> {
            let seen: BTreeSet<String> =
                (0..4).map(|_| clients::who(to)).collect::<Result<_, _>>()?;
            ensure!(seen == names.map(str::to_owned).into(), "{to}: {seen:?}");
            Ok(())
        };
        both(at(vip(6), 80), ["traefik-1", "traefik-2"])?;
        both(at(EDGE, 30917), ["secure-1", "secure-2"])?;
        ensure!(clients::who(at(EDGE, 30062))? == "registry");
        Ok(())
    })?;
    let state = fairway.state_file("kube-system/traefik")?;
    ensure!(
        state["metadata"]["uid"] == "7cb1a1ad-96f5-4a7f-a1f3-9b0d2e4c35b0",
        "{state}"
    );
    ensure!(
        state["status"]["loadBalancer"]["ingress"][0]["ipMode"] == "Proxy",
        "{state}"
    );
    Ok(())
}
