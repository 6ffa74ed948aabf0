//! Which endpoint a client gets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{
    all, edge_pool, load_balancer, service, slice, slice_of, slice_with,
};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, at, client, server, vip};
use fairway_integration::three::{count, three};
use fairway_integration::{clients, tests, wait};

tests![
    endpoints_get_equal_shares,
    client_ip_keeps_a_tcp_client_through_a_restart,
    client_ip_keeps_a_udp_client_through_a_restart,
    few_clients_move_when_an_endpoint_goes,
    ready_endpoints_come_before_terminating_ones,
    not_ready_endpoints_are_published_where_asked_for,
    local_means_this_nodes_endpoints_and_the_health_check_says_so,
    local_on_a_gateway_that_is_no_node_uses_all_endpoints,
    named_target_ports_are_followed,
    a_service_without_selector_uses_its_endpoints,
    endpoint_slices_count_before_endpoints,
    a_slice_of_weight_zero_is_in_maintenance,
];

fn both_protocols(name: &str, more: &str) -> String {
    let spec = format!(
        "type: LoadBalancer, {more} ports: [{{name: t, port: 80}}, \
         {{name: u, port: 80, protocol: UDP}}]"
    );
    service(name, &spec)
}

fn ports() -> [(&'static str, &'static str, u16); 2] {
    [("t", "TCP", 80), ("u", "UDP", 80)]
}

fn endpoints_get_equal_shares() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = all(&[
        &edge_pool(),
        &both_protocols("shop", ""),
        &slice_of("shop", &ports(), &[server(0), server(1), server(2)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let equal = BTreeMap::from([("a", 10), ("b", 10), ("c", 10)].map(|(k, n)| (k.to_owned(), n)));
    site.client.run(|| {
        let tcp: Vec<String> = (0..30)
            .map(|_| clients::who(to))
            .collect::<Result<_, _>>()?;
        ensure!(count(tcp.clone()) == equal, "TCP: {:?}", count(tcp));
        // A datagram's endpoint follows from the client's address and port: equal over many of them.
        let sockets: Vec<UdpSocket> = (20_000..20_300)
            .map(|port| {
                let socket = UdpSocket::bind(at(client(0), port))?;
                socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                socket.connect(to)?;
                Ok(socket)
            })
            .collect::<io::Result<_>>()?;
        let udp: Vec<String> = sockets
            .iter()
            .map(clients::who_on)
            .collect::<Result<_, _>>()?;
        let shares = count(udp);
        let is_fair = shares.len() == 3 && shares.values().all(|n| (70..=130).contains(n));
        ensure!(is_fair, "UDP: {shares:?}");
        Ok(())
    })
}

fn client_ip_keeps_a_tcp_client_through_a_restart() -> Result<()> {
    kept_through_a_restart(clients::who_from)
}

fn client_ip_keeps_a_udp_client_through_a_restart() -> Result<()> {
    kept_through_a_restart(|client, to| clients::who_udp(Some(client), to))
}

fn kept_through_a_restart(
    who: impl Fn(IpAddr, SocketAddr) -> std::io::Result<String> + Sync,
) -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = all(&[
        &edge_pool(),
        &both_protocols("shop", "sessionAffinity: ClientIP,"),
        &slice_of("shop", &ports(), &[server(0), server(1), server(2)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let round = || -> Result<Vec<String>> {
        site.client.run(|| {
            (0..20)
                .map(|n| who(client(n), to).with_context(|| format!("client {n}")))
                .collect()
        })
    };
    let first = round()?;
    ensure!(
        first.iter().collect::<BTreeSet<_>>().len() > 1,
        "all clients are on one endpoint"
    );
    ensure!(round()? == first, "a client has moved");
    fairway.stop()?;
    fairway.restart()?;
    ensure!(round()? == first, "a client has moved with a restart");
    // By the node port too a client is kept.
    let node_port = *fairway
        .node_ports("default/shop")?
        .last()
        .context("no node port")?;
    let udp_port = *fairway
        .node_ports("default/shop")?
        .first()
        .context("no node port")?;
    site.client.run(|| {
        for n in 0..5 {
            let by = |port| -> BTreeSet<String> {
                (0..3)
                    .filter_map(|_| who(client(n), at(EDGE, port)).ok())
                    .collect()
            };
            // One of the two is TCP's and one is UDP's; they may be one number.
            let seen: BTreeSet<String> = by(node_port).union(&by(udp_port)).cloned().collect();
            ensure!(seen.len() == 1, "client {n} by node port: {seen:?}");
        }
        Ok(())
    })
}

fn few_clients_move_when_an_endpoint_goes() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let with = |servers: &[IpAddr]| {
        all(&[
            &edge_pool(),
            &both_protocols("shop", "sessionAffinity: ClientIP,"),
            &slice_of("shop", &ports(), servers),
        ])
    };
    let everyone = [server(0), server(1), server(2)];
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &with(&everyone))])?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let round = || -> Result<Vec<String>> {
        site.client.run(|| {
            Ok((0..30)
                .map(|n| clients::who_from(client(n), to))
                .collect::<Result<_, _>>()?)
        })
    };
    let before = round()?;
    fairway.write("shop.yaml", &with(&[server(0), server(1)]))?;
    wait::until("nobody is on c", || {
        round().is_ok_and(|who| !who.contains(&"c".to_owned()))
    })?;
    let after = round()?;
    for (n, (was, is)) in before.iter().zip(&after).enumerate() {
        ensure!(
            was == "c" || was == is,
            "client {n} went from {was} to {is}, though {was} is there"
        );
    }
    Ok(())
}

fn ready_endpoints_come_before_terminating_ones() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let with = |conditions: [&str; 3]| {
        let endpoints: Vec<String> = (0..3)
            .zip(conditions)
            .map(|(n, conditions)| {
                format!(
                    "{{addresses: [\"{}\"], conditions: {{{conditions}}}}}",
                    server(n)
                )
            })
            .collect();
        all(&[
            &edge_pool(),
            &load_balancer("shop", vip(1), 80, 80),
            &slice_with("shop", &[("", "TCP", 80)], &endpoints),
        ])
    };
    let leaving = "ready: false, serving: true, terminating: true";
    let gone = "ready: false, serving: false, terminating: true";
    let ready = "ready: true";
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &with([ready, leaving, gone]))])?;
    let seen = || -> BTreeSet<String> {
        site.client.run(|| {
            (0..6)
                .filter_map(|_| clients::who(at(vip(1), 80)).ok())
                .collect()
        })
    };
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    ensure!(seen() == only("a"), "{:?}", seen());
    fairway.write(
        "shop.yaml",
        &with(["ready: false, serving: false", leaving, gone]),
    )?;
    wait::until("the terminating one serves, since none is ready", || {
        seen() == only("b")
    })?;
    fairway.write(
        "shop.yaml",
        &with(["ready: false, serving: false", gone, gone]),
    )?;
    wait::until("nobody serves", || seen().is_empty())?;
    fairway.write("shop.yaml", &with(["ready: null", gone, ready]))?;
    wait::until("unknown counts as ready", || {
        seen() == BTreeSet::from(["a".to_owned(), "c".to_owned()])
    })
}

fn not_ready_endpoints_are_published_where_asked_for() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let spec = "type: LoadBalancer, publishNotReadyAddresses: true, ports: [{port: 80}]";
    let endpoint = format!(
        "{{addresses: [\"{}\"], conditions: {{ready: false}}}}",
        server(0)
    );
    let manifests = all(&[
        &edge_pool(),
        &service("shop", spec),
        &slice_with("shop", &[("", "TCP", 80)], &[endpoint]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    ensure!(site.client.run(|| clients::who(to))? == "a");
    Ok(())
}

fn node(name: &str, ip: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
         status: {{addresses: [{{type: InternalIP, address: \"{ip}\"}}]}}\n"
    )
}

fn local(nodes: [&str; 2]) -> String {
    let endpoints: Vec<String> = (0..2)
        .zip(nodes)
        .map(|(n, node)| format!("{{addresses: [\"{}\"], nodeName: {node}}}", server(n)))
        .collect();
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]";
    all(&[
        &edge_pool(),
        &service("shop", spec),
        &slice_with("shop", &[("", "TCP", 80)], &endpoints),
        &node("here", EDGE),
        &node("there", server(15)),
    ])
}

fn local_means_this_nodes_endpoints_and_the_health_check_says_so() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--node-name", "here"]);
    fairway.write("shop.yaml", &local(["here", "there"]))?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let seen = || -> BTreeSet<String> {
        site.client
            .run(|| (0..6).filter_map(|_| clients::who(to).ok()).collect())
    };
    ensure!(seen() == BTreeSet::from(["a".to_owned()]), "{:?}", seen());
    let row = fairway.service("default/shop")?;
    let port = row["healthCheckNodePort"]
        .as_u64()
        .context("no healthCheckNodePort")?;
    let health = at(EDGE, u16::try_from(port)?);
    let check = || site.client.run(|| clients::http_get(health, "/"));
    let response = check()?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(
        response.header("x-load-balancing-endpoint-weight") == Some("1"),
        "{response:?}"
    );
    let body: serde_json::Value = serde_json::from_str(&response.body)?;
    ensure!(
        body["service"]["name"] == "shop" && body["localEndpoints"] == 1,
        "{body}"
    );

    fairway.write("shop.yaml", &local(["there", "there"]))?;
    wait::until("the health check says that there is none", || {
        check().is_ok_and(|response| response.status == 503)
    })?;
    ensure!(seen().is_empty(), "{:?}", seen());
    fairway.write("shop.yaml", &local(["there", "here"]))?;
    wait::until("traffic follows the endpoint", || {
        seen() == BTreeSet::from(["b".to_owned()])
    })?;
    ensure!(check()?.status == 200);
    fairway.write("shop.yaml", &edge_pool())?;
    wait::until("the health check goes with its Service", || {
        site.client.run(|| clients::connect_tcp(health).is_err())
    })
}

fn local_on_a_gateway_that_is_no_node_uses_all_endpoints() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--node-name", "outside"]);
    fairway.write("shop.yaml", &local(["here", "there"]))?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let seen: BTreeSet<String> = site
        .client
        .run(|| (0..6).filter_map(|_| clients::who(to).ok()).collect());
    ensure!(
        seen == BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        "{seen:?}"
    );
    fairway.says("default/shop", &["local", "node"])
}

fn named_target_ports_are_followed() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(
        &site.farm,
        &[
            ("web", at(server(0), 8080)),
            ("admin", at(server(1), 9090)),
            ("web2", at(server(2), 8081)),
        ],
    )?;
    let spec = "type: LoadBalancer, ports: [\
                {name: web, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: admin}]";
    // A name may stand for another number on other endpoints: then there is a slice for each.
    let second = slice_of("shop", &[("web", "TCP", 8081)], &[server(2)])
        .replace("name: shop-ipv4", "name: shop-second");
    let manifests = all(&[
        &edge_pool(),
        &service("shop", spec),
        &slice_of("shop", &[("web", "TCP", 8080)], &[server(0)]),
        &second,
        &slice_of("shop", &[("admin", "TCP", 9090)], &[server(1)])
            .replace("name: shop-ipv4", "name: shop-third"),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let address: IpAddr = fairway.address("default/shop")?.parse()?;
    site.client.run(|| {
        let web: BTreeSet<String> = (0..4)
            .map(|_| clients::who(at(address, 80)))
            .collect::<Result<_, _>>()?;
        ensure!(
            web == BTreeSet::from(["web".to_owned(), "web2".to_owned()]),
            "{web:?}"
        );
        ensure!(clients::who(at(address, 81))? == "admin");
        Ok(())
    })
}

const OUTSIDE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: old}\n\
    spec: {type: LoadBalancer, ports: [{port: 80}]}\n---\n\
    apiVersion: v1\nkind: Endpoints\nmetadata: {name: old}\n\
    subsets: [{addresses: [{ip: 192.0.2.11}], notReadyAddresses: [{ip: 192.0.2.12}], ports: [{port: 80}]}]\n";

fn a_service_without_selector_uses_its_endpoints() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let fairway = Fairway::start(
        &site.edge,
        &[("pool.yaml", &edge_pool()), ("old.yaml", OUTSIDE)],
    )?;
    let to = at(fairway.address("default/old")?.parse()?, 80);
    let seen: BTreeSet<String> = site
        .client
        .run(|| (0..4).filter_map(|_| clients::who(to).ok()).collect());
    ensure!(seen == BTreeSet::from(["a".to_owned()]), "{seen:?}");
    Ok(())
}

fn endpoint_slices_count_before_endpoints() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let fairway = Fairway::start(
        &site.edge,
        &[
            ("pool.yaml", &edge_pool()),
            ("old.yaml", OUTSIDE),
            ("slice.yaml", &slice("old", 80, &[server(2)])),
        ],
    )?;
    let to = at(fairway.address("default/old")?.parse()?, 80);
    let seen = || -> BTreeSet<String> {
        site.client
            .run(|| (0..4).filter_map(|_| clients::who(to).ok()).collect())
    };
    ensure!(seen() == BTreeSet::from(["c".to_owned()]), "{:?}", seen());
    fairway.remove("slice.yaml")?;
    wait::until("the Endpoints count again", || {
        seen() == BTreeSet::from(["a".to_owned()])
    })
}

fn a_slice_of_weight_zero_is_in_maintenance() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let resting = slice("shop", 80, &[server(1)]).replace(
        "name: shop-ipv4,",
        "name: shop-resting, annotations: {fairway.dev/weight: \"0\"},",
    );
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, &[server(0)]),
        &resting,
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let seen: BTreeSet<String> = site.client.run(|| {
        (0..4)
            .filter_map(|_| clients::who(at(vip(1), 80)).ok())
            .collect()
    });
    ensure!(seen == BTreeSet::from(["a".to_owned()]), "{seen:?}");
    fairway.explains("default/shop", &[&server(1).to_string(), "weight"])
}
