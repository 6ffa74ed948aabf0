//! Bytes from clients to servers and back, over every kind of listener.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::bench::backend::{BenchServers, ECHOES};
use fairway_integration::bench::datagrams::{self, Datagrams};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{
    all, edge_pool, load_balancer, pool, service, slice, slice_of,
};
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{
    BLACK_HOLE, EDGE, EDGE_INSIDE, Site, at, client, server, server6, vip, vip6,
};
use fairway_integration::{clients, tests, wait};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

tests![
    tcp_reaches_an_endpoint_by_address_and_by_node_port,
    udp_reaches_an_endpoint_by_address_and_by_node_port,
    rows_of_datagrams_pass_where_the_mtu_is_smaller_than_they_are,
    tcp_and_udp_use_one_port_number,
    both_families_carry_traffic,
    node_ports_are_not_served_on_pool_addresses,
    source_ranges_guard_the_address_and_not_the_node_port,
    a_service_without_endpoints_refuses_at_once,
    a_connection_is_tried_on_the_remaining_endpoints,
    what_an_endpoint_said_before_its_reset_arrives_whatever_else_is_said,
    traffic_is_counted,
];

fn tcp_reaches_an_endpoint_by_address_and_by_node_port() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let fairway = Fairway::start(
        &site.edge,
        &[(
            "shop.yaml",
            &all(&[
                &edge_pool(),
                &load_balancer("shop", vip(1), 80, 8080),
                &slice("shop", 8080, &[server(0)]),
            ]),
        )],
    )?;
    let node_port = *fairway
        .node_ports("default/shop")?
        .first()
        .context("no node port")?;
    ensure!(
        (30086..=32767).contains(&node_port),
        "{node_port} is not in the dynamic band"
    );
    site.client.run(|| {
        for to in [at(vip(1), 80), at(EDGE, node_port)] {
            ensure!(clients::who(to).with_context(|| to.to_string())? == "a");
        }
        Ok(())
    })?;
    // On every address of the host, the inner one included.
    site.farm.run(|| {
        ensure!(clients::who(at(EDGE_INSIDE, node_port))? == "a");
        Ok(())
    })
}

fn udp_reaches_an_endpoint_by_address_and_by_node_port() -> Result<()> {
    let site = Site::new()?;
    let _server = named_udp(&site.farm, &[("a", at(server(0), 5353))])?;
    let spec = "type: LoadBalancer, ports: [{port: 53, protocol: UDP, targetPort: 5353}]";
    let manifests = all(&[
        &edge_pool(),
        &service("dns", spec),
        &slice_of("dns", &[("", "UDP", 5353)], &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    let address: IpAddr = fairway.address("default/dns")?.parse()?;
    let node_port = *fairway
        .node_ports("default/dns")?
        .first()
        .context("no node port")?;
    site.client.run(|| {
        for to in [at(address, 53), at(EDGE, node_port)] {
            // Connected sockets: an answer from any other address would not be heard.
            let socket = clients::udp(Some(client(3)), to)?;
            for _ in 0..3 {
                let answer = clients::ask_udp(&socket, "who").with_context(|| to.to_string())?;
                ensure!(answer.starts_with("a "), "{answer}");
            }
        }
        Ok(())
    })
}

/// Some of them are sent as one, which a device with a smaller MTU does not take; and then one by one,
/// in fragments.
fn rows_of_datagrams_pass_where_the_mtu_is_smaller_than_they_are() -> Result<()> {
    const LENGTH: usize = 1400;
    for (inside, outside) in [(1280, 1500), (1500, 1280), (1280, 1280)] {
        let site = Site::new()?;
        site.edge.ip(&format!(
            "link set back mtu {inside}\nlink set front mtu {outside}"
        ))?;
        site.farm.ip(&format!("link set dev up mtu {inside}"))?;
        site.client.ip(&format!("link set dev up mtu {outside}"))?;
        let _servers = BenchServers::start(&site.farm, &[server(0)])?;
        let spec = format!("type: LoadBalancer, ports: [{{port: {ECHOES}, protocol: UDP}}]");
        let manifests = all(&[
            &edge_pool(),
            &service("echo", &spec),
            &slice_of("echo", &[("", "UDP", ECHOES)], &[server(0)]),
        ]);
        let fairway = Fairway::start(&site.edge, &[("echo.yaml", &manifests)])?;
        let to = at(fairway.address("default/echo")?.parse()?, ECHOES);
        let load = Datagrams {
            flows: 4,
            length: LENGTH,
            window: 32,
        };
        let span = Duration::from_millis(300);
        let outcome = site.client.run(|| datagrams::echo(to, load, span))?;
        ensure!(
            outcome.count >= 100,
            "{inside}, {outside}: {} came back, {} did not",
            outcome.count,
            outcome.failed
        );
    }
    Ok(())
}

fn tcp_and_udp_use_one_port_number() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(&site.farm, &[("tcp", at(server(0), 53))])?;
    let _udp = named_udp(&site.farm, &[("udp", at(server(0), 53))])?;
    let spec = "type: LoadBalancer, ports: [\
                {name: t, port: 53, protocol: TCP, nodePort: 30053}, \
                {name: u, port: 53, protocol: UDP, nodePort: 30053}]";
    let manifests = all(&[
        &edge_pool(),
        &service("dns", spec),
        &slice_of("dns", &[("t", "TCP", 53), ("u", "UDP", 53)], &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    ensure!(fairway.node_ports("default/dns")? == [30053, 30053]);
    let address: IpAddr = fairway.address("default/dns")?.parse()?;
    site.client.run(|| {
        for to in [at(address, 53), at(EDGE, 30053)] {
            ensure!(clients::who(to)? == "tcp");
            ensure!(clients::who_udp(None, to)? == "udp");
        }
        Ok(())
    })
}

fn both_families_carry_traffic() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(
        &site.farm,
        &[("four", at(server(0), 8080)), ("six", at(server6(0), 8080))],
    )?;
    let _udp = named_udp(
        &site.farm,
        &[("four", at(server(0), 8080)), ("six", at(server6(0), 8080))],
    )?;
    let spec = "type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [\
                {name: t, port: 80, targetPort: 8080}, \
                {name: u, port: 80, protocol: UDP, targetPort: 8080}]";
    let ports = [("t", "TCP", 8080), ("u", "UDP", 8080)];
    let manifests = all(&[
        &pool("edge", &["203.0.113.0/28", "2001:db8:f::/120"]),
        &service("shop", spec),
        &slice_of("shop", &ports, &[server(0)]),
        &slice_of("shop", &ports, &[server6(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let addresses = fairway.external_ips("default/shop")?;
    ensure!(addresses.len() == 2, "{addresses:?}");
    let known = ["four", "six"];
    site.client.run(|| {
        for address in &addresses {
            let to = at(address.parse()?, 80);
            let who = clients::who(to).with_context(|| to.to_string())?;
            ensure!(known.contains(&who.as_str()), "{who}");
            let who = clients::who_udp(None, to).with_context(|| to.to_string())?;
            ensure!(known.contains(&who.as_str()), "{who}");
        }
        Ok(())
    })?;
    ensure!(
        addresses
            .iter()
            .any(|address| address.starts_with("2001:db8:f::"))
    );
    ensure!(!addresses.contains(&vip6(256).to_string()));
    Ok(())
}

fn node_ports_are_not_served_on_pool_addresses() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let node_port = *fairway
        .node_ports("default/shop")?
        .first()
        .context("no node port")?;
    site.client.run(|| {
        ensure!(clients::who(at(EDGE, node_port))? == "a");
        let refused = clients::connect_tcp(at(vip(1), node_port));
        ensure!(
            refused.is_err(),
            "the node port is open on an external address"
        );
        Ok(())
    })
}

fn source_ranges_guard_the_address_and_not_the_node_port() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 80))])?;
    let spec = format!(
        "type: LoadBalancer, loadBalancerSourceRanges: [\"{}/32\"], ports: [\
         {{name: t, port: 80, nodePort: 30080}}, {{name: u, port: 80, protocol: UDP, nodePort: 30080}}]",
        client(1)
    );
    let manifests = all(&[
        &edge_pool(),
        &service("guarded", &spec),
        &slice_of(
            "guarded",
            &[("t", "TCP", 80), ("u", "UDP", 80)],
            &[server(0)],
        ),
    ]);
    let fairway = Fairway::start(&site.edge, &[("guarded.yaml", &manifests)])?;
    let address = at(fairway.address("default/guarded")?.parse()?, 80);
    site.client.run(|| {
        ensure!(clients::who_from(client(1), address)? == "a");
        ensure!(clients::who_udp(Some(client(1)), address)? == "a");
        ensure!(clients::who_from(client(2), address).is_err(), "TCP got in");
        ensure!(
            clients::who_udp(Some(client(2)), address).is_err(),
            "UDP got in"
        );
        ensure!(clients::who_from(client(2), at(EDGE, 30080))? == "a");
        ensure!(clients::who_udp(Some(client(2)), at(EDGE, 30080))? == "a");
        Ok(())
    })?;
    // Each client is counted, and of UDP each datagram.
    let rejected = |protocol| {
        let labels = [protocol, "reason=\"source_range\""];
        fairway.metric("fairway_rejected_total", &labels)
    };
    let before = rejected("protocol=\"UDP\"")?;
    ensure!(before >= 1.0, "{before}");
    site.client.run(|| -> Result<()> {
        let socket = clients::udp(Some(client(2)), address)?;
        for _ in 0..3 {
            socket.send(b"?")?;
        }
        for _ in 0..3 {
            ensure!(clients::who_from(client(2), address).is_err());
        }
        Ok(())
    })?;
    wait::until("all are counted", || {
        let tcp = rejected("protocol=\"TCP\"").ok();
        let udp = rejected("protocol=\"UDP\"").ok();
        tcp == Some(4.0) && udp == Some(before + 3.0)
    })
}

fn a_service_without_endpoints_refuses_at_once() -> Result<()> {
    let site = Site::new()?;
    let spec = "type: LoadBalancer, ports: [{name: t, port: 80, nodePort: 30080}, \
                {name: u, port: 80, protocol: UDP, nodePort: 30080}]";
    let manifests = all(&[&edge_pool(), &service("empty", spec)]);
    let fairway = Fairway::start(&site.edge, &[("empty.yaml", &manifests)])?;
    let address: IpAddr = fairway.address("default/empty")?.parse()?;
    site.client.run(|| {
        for to in [at(address, 80), at(EDGE, 30080)] {
            // The kinds of the errors say that nobody had to wait for a time-out.
            let error = clients::who(to)
                .err()
                .with_context(|| format!("{to} answered"))?;
            let refused = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
            ensure!(refused.contains(&error.kind()), "TCP to {to}: {error}");
            let socket = clients::udp(None, to)?;
            socket.set_read_timeout(Some(clients::PATIENCE))?;
            socket.send(b"anyone?")?;
            let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
            ensure!(
                error.kind() == ErrorKind::ConnectionRefused,
                "UDP to {to}: {error}"
            );
        }
        Ok(())
    })
}

fn a_connection_is_tried_on_the_remaining_endpoints() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("good", at(server(0), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        // server(1) refuses, the black hole hangs.
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0), server(1), BLACK_HOLE]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    site.client.run(|| {
        for n in 0..6 {
            let who = clients::who(at(vip(1), 80)).with_context(|| format!("connection {n}"))?;
            ensure!(who == "good", "{who}");
        }
        Ok(())
    })?;
    let labels = ["service=\"shop\""];
    for reason in ["refused", "timeout"] {
        let reason = format!("reason=\"{reason}\"");
        let errors = fairway.metric("fairway_connect_errors_total", &[labels[0], &reason])?;
        ensure!(errors >= 1.0, "{reason} was not counted");
    }
    Ok(())
}

/// A worker that finds both at once, the answer with the reset and what its client says, is not to look
/// at the client first: what is written to a socket that was reset takes its error away.
fn what_an_endpoint_said_before_its_reset_arrives_whatever_else_is_said() -> Result<()> {
    let site = Site::new()?;
    let to = at(server(0), 80);
    let listener = site.farm.run(|| TcpListener::bind(to))?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, &[server(0)]),
    ]);
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--workers", "1"]);
    fairway.write("shop.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    let mut pairs = Vec::new();
    for _ in 0..8 {
        let mut client = site.client.run(|| clients::connect_tcp(at(vip(1), 80)))?;
        let (mut server, _) = listener.accept()?;
        // Both ways are open before the worker stands still.
        let mut byte = [0];
        client.write_all(b"?")?;
        server.read_exact(&mut byte)?;
        server.write_all(b"!")?;
        client.read_exact(&mut byte)?;
        pairs.push((client, server));
    }
    let process = fairway.process()?.id();
    fairway.process()?.signal(Signal::STOP)?;
    wait::until("the process stands still", || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|after| after.starts_with(" T"))
    })?;
    let mut waiting = Vec::new();
    for (mut client, mut server) in pairs {
        server.write_all(b"the answer")?;
        set_socket_linger(&server, Some(Duration::ZERO))?;
        drop(server);
        client.write_all(b"something else")?;
        waiting.push(client);
    }
    fairway.process()?.signal(Signal::CONT)?;
    for (number, mut client) in waiting.into_iter().enumerate() {
        let mut all = Vec::new();
        // A reset follows.
        let _ = client.read_to_end(&mut all);
        ensure!(all == b"the answer", "connection {number}: {all:?}");
    }
    Ok(())
}

fn traffic_is_counted() -> Result<()> {
    let site = Site::new()?;
    let _tcp = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 80))])?;
    let spec =
        "type: LoadBalancer, ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]";
    let manifests = all(&[
        &edge_pool(),
        &service("shop", spec),
        &slice_of("shop", &[("t", "TCP", 80), ("u", "UDP", 80)], &[server(0)]),
        &service("quiet", "type: LoadBalancer, ports: [{port: 80}]"),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let labels = ["namespace=\"default\"", "service=\"shop\"", "port=\"80\""];
    let tcp = [labels.as_slice(), &["protocol=\"TCP\""]].concat();
    let udp = [labels.as_slice(), &["protocol=\"UDP\""]].concat();
    site.client.run(|| -> Result<()> {
        let mut held = clients::connect_tcp(to)?;
        clients::ask(&mut held, "who")?;
        wait::until("an open connection is counted", || {
            fairway
                .metric("fairway_connections_active", &tcp)
                .is_ok_and(|n| n == 1.0)
        })?;
        drop(held);
        for _ in 0..4 {
            clients::who(to)?;
        }
        // All at a time, so that each has a port of its own and is a flow of its own.
        let sockets: Vec<UdpSocket> = (0..4)
            .map(|_| clients::udp(None, to))
            .collect::<Result<_, _>>()?;
        for socket in &sockets {
            clients::ask_udp(socket, "who")?;
        }
        Ok(())
    })?;
    let metric = |name: &str, labels: &[&str]| fairway.metric(name, labels);
    wait::until("five connections are counted", || {
        metric("fairway_connections_total", &tcp).is_ok_and(|n| n == 5.0)
            && metric("fairway_connections_active", &tcp).is_ok_and(|n| n == 0.0)
    })?;
    // A client has its answer before that is counted.
    wait::until("eight datagrams are counted", || {
        metric("fairway_datagrams_total", &udp).is_ok_and(|n| n >= 8.0)
    })?;
    ensure!(metric("fairway_flows_active", &udp)? == 4.0);
    ensure!(metric("fairway_connect_duration_seconds_count", &tcp)? == 5.0);
    ensure!(metric("fairway_build_info", &[])? == 1.0);
    let all = fairway.get("/metrics")?.body;
    // Without traffic there are the series that alerts rest on, and no more.
    let quiet = || all.lines().filter(|it| it.contains("service=\"quiet\""));
    ensure!(
        quiet().any(|it| it.starts_with("fairway_endpoints{")) && quiet().count() <= 8,
        "{:?}",
        quiet().collect::<Vec<_>>()
    );
    ensure!(!quiet().any(|it| it.starts_with("fairway_receive_bytes_total")));
    // A Service's series go with the Service.
    fairway.write("shop.yaml", &edge_pool())?;
    wait::until("its series are gone", || {
        fairway
            .get("/metrics")
            .is_ok_and(|response| !response.body.contains("service=\"shop\""))
    })
}
