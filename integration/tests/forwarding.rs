//! `--forward-to node-ports`: traffic goes to the nodes' own node ports.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, service, slice, slice_of};
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    traffic_goes_to_the_node_ports_of_the_nodes,
    excluded_nodes_get_none,
    an_annotation_forwards_one_service_to_node_ports,
    a_gateway_never_forwards_to_itself,
    two_gateways_on_each_others_nodes_make_no_loop,
    a_node_that_is_forwarded_to_is_turned_away_whomever_it_announces,
];

fn node(name: &str, ip: IpAddr, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}{more}}}\n\
         status: {{addresses: [{{type: InternalIP, address: \"{ip}\"}}]}}\n"
    )
}

/// How a connection ends for a client that is turned away: before or after it was accepted, and
/// before or after the client has sent its line.
const ENDED: [ErrorKind; 4] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
];

const PORTS: &str = "type: LoadBalancer, ports: [{name: t, port: 80, nodePort: 31468}, \
                     {name: u, port: 80, protocol: UDP, nodePort: 31468}]";

fn start(site: &Site, arguments: &[&str], manifests: &[&str]) -> Result<Fairway> {
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
    fairway.write("all.yaml", &all(manifests))?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

fn seen(site: &Site, to: SocketAddr) -> BTreeSet<String> {
    site.client
        .run(|| (0..6).filter_map(|_| clients::who(to).ok()).collect())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn traffic_goes_to_the_node_ports_of_the_nodes() -> Result<()> {
    let site = Site::new()?;
    let nodes = [("n1", at(server(0), 31468)), ("n2", at(server(1), 31468))];
    let _tcp = named(&site.farm, &nodes)?;
    let _udp = named_udp(&site.farm, &nodes)?;
    let fairway = start(
        &site,
        &["--forward-to", "node-ports"],
        &[
            &edge_pool(),
            &service("shop", PORTS),
            &node("n1", server(0), ""),
            &node("n2", server(1), ""),
            // Endpoints inside the cluster, which this gateway can't reach and needs not know.
            &slice_of(
                "shop",
                &[("t", "TCP", 8080), ("u", "UDP", 8080)],
                &[[10, 42, 0, 7].into()],
            ),
        ],
    )?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    ensure!(
        seen(&site, to) == names(["n1", "n2"]),
        "{:?}",
        seen(&site, to)
    );
    let udp: BTreeSet<String> = site.client.run(|| {
        (0..6)
            .filter_map(|_| clients::who_udp(None, to).ok())
            .collect()
    });
    ensure!(udp == names(["n1", "n2"]), "{udp:?}");
    Ok(())
}

fn excluded_nodes_get_none() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(
        &site.farm,
        &[
            ("n1", at(server(0), 31468)),
            ("n2", at(server(1), 31468)),
            ("n3", at(server(2), 31468)),
        ],
    )?;
    let label = ", labels: {node.kubernetes.io/exclude-from-external-load-balancers: \"\"}";
    let tainted = node("n3", server(2), "")
        + "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n";
    let fairway = start(
        &site,
        &["--forward-to", "node-ports"],
        &[
            &edge_pool(),
            &service("shop", PORTS),
            &node("n1", server(0), ""),
            &node("n2", server(1), label),
            &tainted,
        ],
    )?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    ensure!(seen(&site, to) == names(["n1"]), "{:?}", seen(&site, to));
    // A node that comes back takes part again.
    let manifests = all(&[
        &edge_pool(),
        &service("shop", PORTS),
        &node("n1", server(0), ""),
        &node("n2", server(1), ""),
    ]);
    fairway.write("all.yaml", &manifests)?;
    wait::until("n2 takes part", || seen(&site, to) == names(["n1", "n2"]))
}

fn an_annotation_forwards_one_service_to_node_ports() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(
        &site.farm,
        &[
            ("node", at(server(0), 31468)),
            ("endpoint", at(server(1), 80)),
        ],
    )?;
    let to_nodes = service("shop", PORTS).replace(
        "{name: shop}",
        "{name: shop, annotations: {fairway.dev/forward-to: node-ports}}",
    );
    let fairway = start(
        &site,
        &[],
        &[
            &edge_pool(),
            &to_nodes,
            &service("direct", "type: LoadBalancer, ports: [{port: 80}]"),
            &slice("direct", 80, &[server(1)]),
            &node("n1", server(0), ""),
        ],
    )?;
    let to = |name: &str| anyhow::Ok(at(fairway.address(name)?.parse()?, 80));
    ensure!(seen(&site, to("default/shop")?) == names(["node"]));
    ensure!(seen(&site, to("default/direct")?) == names(["endpoint"]));
    Ok(())
}

fn a_gateway_never_forwards_to_itself() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(&site.farm, &[("n1", at(server(0), 31468))])?;
    let fairway = start(
        &site,
        &["--forward-to", "node-ports", "--node-name", "edge"],
        &[
            &edge_pool(),
            &service("shop", PORTS),
            &node("edge", EDGE_INSIDE, ""),
            &node("n1", server(0), ""),
        ],
    )?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    ensure!(seen(&site, to) == names(["n1"]), "{:?}", seen(&site, to));
    fairway.explains("default/shop", &[&EDGE_INSIDE.to_string(), "this host"])
}

fn two_gateways_on_each_others_nodes_make_no_loop() -> Result<()> {
    let site = Site::new()?;
    let manifests = all(&[
        &edge_pool(),
        &service("shop", PORTS),
        &node("one", EDGE_INSIDE, ""),
        &node("two", server(0), ""),
    ]);
    let start = |host, name| -> Result<Fairway> {
        let mut fairway =
            Fairway::prepare(host)?.arguments(&["--forward-to", "node-ports", "--node-name", name]);
        fairway.write("all.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        Ok(fairway)
    };
    let (one, two) = (start(&site.edge, "one")?, start(&site.farm, "two")?);
    let address: IpAddr = one.address("default/shop")?.parse()?;
    ensure!(address == vip(0) || address == vip(1), "{address}");
    let connections = |fairway: &Fairway| {
        let sum = |name| {
            fairway
                .metric(name, &["service=\"shop\""])
                .unwrap_or(f64::MAX)
        };
        sum("fairway_connections_total") + sum("fairway_datagrams_total")
    };
    site.client.run(|| {
        for to in [at(address, 80), at(EDGE, 31468)] {
            // Refused, and not held until a client gives up.
            let Err(error) = clients::who(to) else {
                bail!("somebody answered at {to}");
            };
            ensure!(ENDED.contains(&error.kind()), "{to}: {error}");
            if let Ok(socket) = clients::udp(None, to) {
                for _ in 0..5 {
                    let _ = socket.send(b"who");
                }
            }
        }
        Ok(())
    })?;
    // Twelve connections and datagrams came from outside. A loop would make thousands in a moment.
    wait::always(Duration::from_secs(2), "there is no loop", || {
        connections(&one) + connections(&two) < 100.0
    })
}

fn a_node_that_is_forwarded_to_is_turned_away_whomever_it_announces() -> Result<()> {
    let site = Site::new()?;
    let _node = named(&site.farm, &[("n1", at(server(0), 31468))])?;
    let announced = "annotations: {fairway.dev/accept-proxy-protocol: 192.0.2.0/24}";
    let service = service("shop", PORTS);
    let fairway = start(
        &site,
        &["--forward-to", "node-ports", "--node-name", "edge"],
        &[
            &edge_pool(),
            &service.replace("{name: shop}", &format!("{{name: shop, {announced}}}")),
            &node("n1", server(0), ""),
        ],
    )?;
    let asks = |from: IpAddr| {
        site.farm.run(|| -> std::io::Result<String> {
            let mut stream = clients::connect_tcp_from(from, at(EDGE_INSIDE, 31468))?;
            clients::ask(
                &mut stream,
                "PROXY TCP4 198.51.100.7 203.0.113.1 1 80\r\nwho",
            )
        })
    };
    // A proxy of the same network, and the node itself.
    let answer = asks(server(1))?;
    ensure!(answer.starts_with("n1 "), "{answer}");
    let refused = asks(server(0));
    ensure!(refused.is_err(), "{refused:?}");
    let loops = fairway.metric("fairway_rejected_total", &["reason=\"loop\""])?;
    ensure!(loops == 1.0, "{loops}");
    Ok(())
}
