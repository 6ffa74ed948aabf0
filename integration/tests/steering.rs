//! Connections to external addresses are steered by the kernel: no address and port has a socket of
//! its own, and what the host itself listens at does not stand in the way.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Served};
use fairway_integration::manifest::{
    all, load_balancer, pool, service, slice, slice_of, slice_with,
};
use fairway_integration::servers::{brief, named, named_udp};
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server, server6, vip, vip6};
use fairway_integration::{clients, tests, wait};

tests![
    a_port_that_the_host_uses_at_all_its_addresses_is_served_at_an_external_one,
    whom_the_kernel_refuses_for_want_of_endpoints_is_counted,
    whom_the_kernel_refuses_at_an_address_of_the_hosts_own_is_counted,
    whom_another_process_answers_at_a_closed_port_is_not_counted,
    at_an_address_of_the_hosts_own_what_the_host_has_comes_first,
    after_a_restart_under_load_every_port_is_served_at_once,
    thousands_of_places_take_no_sockets_and_change_without_them,
    nothing_is_left_of_one_that_was_killed,
    without_steering_every_place_has_sockets_of_its_own,
];

/// What a host itself has at port 22 of all its addresses: says who it is, and closes.
fn sshd(edge: &Host) -> Result<Served> {
    named(edge, &[("sshd", "0.0.0.0:22".parse()?)])
}

fn a_port_that_the_host_uses_at_all_its_addresses_is_served_at_an_external_one() -> Result<()> {
    let site = Site::new()?;
    let _sshd = sshd(&site.edge)?;
    let _server = named(
        &site.farm,
        &[("git", at(server(0), 22)), ("git6", at(server6(0), 22))],
    )?;
    let families = "ipFamilyPolicy: RequireDualStack";
    let spec = format!("type: LoadBalancer, {families}, ports: [{{port: 22}}]");
    let manifests = all(&[
        &pool(
            "edge",
            &["203.0.113.1-203.0.113.9", "2001:db8:f::1-2001:db8:f::9"],
        ),
        &service("git", &spec),
        &slice("git", 22, &[server(0)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("git.yaml", &manifests)])?;
    fairway.logs(&["steered by the kernel"])?;
    site.client.run(|| {
        for to in [at(vip(1), 22), at(vip6(1), 22)] {
            ensure!(clients::who(to).with_context(|| to.to_string())? == "git");
        }
        // The host's own address is the host's.
        ensure!(clients::who(at(EDGE, 22))? == "sshd");
        Ok(())
    })?;
    // Without an endpoint it is refused: what the host has there is not for who asks the Service.
    fairway.write(
        "git.yaml",
        &all(&[
            &pool(
                "edge",
                &["203.0.113.1-203.0.113.9", "2001:db8:f::1-2001:db8:f::9"],
            ),
            &service("git", &spec),
        ]),
    )?;
    fairway.settle("gone")?;
    site.client.run(|| {
        for to in [at(vip(1), 22), at(vip6(1), 22)] {
            let refused = clients::connect_tcp(to)
                .err()
                .map(|error| error.to_string());
            ensure!(
                refused.as_ref().is_some_and(|why| why.contains("refused")),
                "{to}: {refused:?}"
            );
        }
        ensure!(clients::who(at(EDGE, 22))? == "sshd");
        Ok(())
    })
}

fn whom_the_kernel_refuses_for_want_of_endpoints_is_counted() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("web", at(server(0), 80))])?;
    let empty = all(&[
        &pool("edge", &["203.0.113.1-203.0.113.9"]),
        &load_balancer("web", vip(1), 80, 80),
        &load_balancer("dns", vip(2), 53, 53).replace("port: 53,", "port: 53, protocol: UDP,"),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("web.yaml", &empty)])?;
    let counted = |fairway: &Fairway, of: &str| {
        let labels = [&*format!("service=\"{of}\""), "reason=\"no_endpoint\""];
        fairway.metric("fairway_rejected_total", &labels)
    };
    ensure!(counted(&fairway, "web")? == 0.0);
    let knock = |times: usize| {
        site.client.run(|| {
            for _ in 0..times {
                ensure!(clients::connect_tcp(at(vip(1), 80)).is_err());
                let socket = clients::udp(None, at(vip(2), 53))?;
                socket.send(b"?")?;
            }
            Ok(())
        })
    };
    knock(5)?;
    for of in ["web", "dns"] {
        let count = counted(&fairway, of)?;
        ensure!(count == 5.0, "{of}: {count}");
    }
    // Neither a scrape nor an endpoint that comes and goes starts the count anew.
    knock(2)?;
    fairway.write("web.yaml", &all(&[&empty, &slice("web", 80, &[server(0)])]))?;
    fairway.settle("there")?;
    ensure!(site.client.run(|| clients::who(at(vip(1), 80)))? == "web");
    ensure!(counted(&fairway, "web")? == 7.0);
    fairway.write("web.yaml", &empty)?;
    fairway.settle("gone")?;
    knock(3)?;
    let count = counted(&fairway, "web")?;
    ensure!(count == 10.0, "{count}");
    let count = counted(&fairway, "dns")?;
    ensure!(count == 10.0, "{count}");
    fairway.stop()
}

/// The clients of a Service that were rejected, over one protocol.
fn rejected(fairway: &Fairway, service: &str, protocol: &str, reason: &str) -> Result<f64> {
    let labels = [
        &*format!("service=\"{service}\""),
        &*format!("protocol=\"{protocol}\""),
        &*format!("reason=\"{reason}\""),
    ];
    fairway.metric("fairway_rejected_total", &labels)
}

/// A site whose edge tells each client that a datagram was refused: by default the kernel tells one host once a second.
fn frank() -> Result<Site> {
    let site = Site::new()?;
    site.edge.sysctl("ipv4/icmp_ratelimit", "0")?;
    site.edge.sysctl("ipv6/icmp/ratelimit", "0")?;
    Ok(site)
}

/// A host on the side of an address of the edge.
fn near(site: &Site, place: SocketAddr) -> &Host {
    if place.ip() == EDGE_INSIDE {
        &site.farm
    } else {
        &site.client
    }
}

/// One client over TCP and one datagram; all of them are refused.
fn knock(site: &Site, places: &[SocketAddr]) -> Result<()> {
    for place in places {
        near(site, *place).run(|| {
            ensure!(clients::connect_tcp(*place).is_err(), "{place} answers");
            let socket = clients::udp(None, *place)?;
            socket.set_read_timeout(Some(clients::PATIENCE))?;
            socket.send(b"?")?;
            let answer = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
            let refused = Err(std::io::ErrorKind::ConnectionRefused);
            ensure!(answer == refused, "UDP {place}: {answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until no UDP socket of the edge is at these ports: what comes while one is being closed is lost.
fn are_closed(site: &Site, places: &[SocketAddr]) -> Result<()> {
    wait::until_some("the UDP ports are closed", || {
        let open = site.edge.run(|| clients::output("ss", &["-Hnul"]))?;
        for place in places {
            ensure!(!open.contains(&format!(":{} ", place.port())), "{open}");
        }
        Ok(())
    })
}

/// That one answers there over both protocols.
fn answers(site: &Site, place: SocketAddr, name: &str) -> Result<()> {
    near(site, place).run(|| {
        let (tcp, udp) = (clients::who(place)?, clients::who_udp(None, place)?);
        ensure!(tcp == name && udp == name, "{place}: {tcp}, {udp}");
        Ok(())
    })
}

/// The ports of a Service that has both protocols at port 80 and at a node port.
fn both(node_port: u16) -> String {
    format!(
        "ports: [{{name: t, port: 80, nodePort: {node_port}}}, \
         {{name: u, port: 80, protocol: UDP, nodePort: {node_port}}}]"
    )
}

fn whom_the_kernel_refuses_at_an_address_of_the_hosts_own_is_counted() -> Result<()> {
    let site = frank()?;
    let _tcp = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 80))])?;
    let edge6: IpAddr = "2001:db8:c::1".parse()?;
    let empty = all(&[
        &pool("host", &[&format!("{EDGE}-{EDGE}")]),
        &service("web", &format!("type: LoadBalancer, {}", both(30080))),
        &service(
            "dual",
            &format!(
                "type: NodePort, ipFamilyPolicy: RequireDualStack, {}",
                both(30081)
            ),
        ),
        "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n",
        // It has an endpoint, which is not on this node.
        &service(
            "local",
            &format!(
                "type: NodePort, externalTrafficPolicy: Local, {}",
                both(30082)
            ),
        ),
        &slice_with(
            "local",
            &[("t", "TCP", 80), ("u", "UDP", 80)],
            &[format!(
                "{{addresses: [\"{}\"], nodeName: there}}",
                server(0)
            )],
        ),
    ]);
    let endpoint = slice_of("web", &[("t", "TCP", 80), ("u", "UDP", 80)], &[server(0)]);
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--node-name", "here"]);
    fairway.write("web.yaml", &empty)?;
    fairway.launch()?;
    fairway.ready()?;
    let counts = |fairway: &Fairway, service: &str| -> Result<(f64, f64)> {
        let of = |protocol| rejected(fairway, service, protocol, "no_endpoint");
        Ok((of("TCP")?, of("UDP")?))
    };
    for (service, places) in [
        ("web", vec![at(EDGE, 80), at(EDGE_INSIDE, 30080)]),
        ("dual", vec![at(EDGE_INSIDE, 30081), at(edge6, 30081)]),
        ("local", vec![at(EDGE_INSIDE, 30082)]),
    ] {
        ensure!(counts(&fairway, service)? == (0.0, 0.0), "{service}");
        (0..3).try_for_each(|_| knock(&site, &places))?;
        let each = 3.0 * places.len() as f64;
        let counted = counts(&fairway, service)?;
        ensure!(
            counted == (each, each),
            "{service}: {counted:?}, and not {each}"
        );
    }
    // Those are counted, too, whom nobody has asked for when an endpoint comes. While there is one nobody is.
    let places = [at(EDGE, 80), at(EDGE_INSIDE, 30080)];
    knock(&site, &places)?;
    fairway.write("web.yaml", &all(&[&empty, &endpoint]))?;
    fairway.settle("there")?;
    for place in places {
        answers(&site, place, "a")?;
    }
    let counted = counts(&fairway, "web")?;
    ensure!(counted == (8.0, 8.0), "{counted:?}");
    fairway.write("web.yaml", &empty)?;
    fairway.settle("gone")?;
    are_closed(&site, &places)?;
    knock(&site, &places)?;
    let counted = counts(&fairway, "web")?;
    ensure!(counted == (10.0, 10.0), "{counted:?}");
    fairway.stop()?;

    // Without steering they are refused as well, and nobody sees them.
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--no-steering"]);
    fairway.write("web.yaml", &empty)?;
    fairway.launch()?;
    fairway.ready()?;
    knock(&site, &places)?;
    let counted = counts(&fairway, "web")?;
    ensure!(counted == (0.0, 0.0), "{counted:?}");
    fairway.stop()
}

fn whom_another_process_answers_at_a_closed_port_is_not_counted() -> Result<()> {
    let site = frank()?;
    let _server = named(&site.farm, &[("web", at(server(0), 80))])?;
    let _server = named_udp(&site.farm, &[("web", at(server(0), 80))])?;
    let empty = all(&[
        &pool("host", &[&format!("{EDGE}-{EDGE}")]),
        &service("web", &format!("type: LoadBalancer, {}", both(30080))),
    ]);
    let endpoint = slice_of("web", &[("t", "TCP", 80), ("u", "UDP", 80)], &[server(0)]);
    // These ports have been open, and are closed.
    let mut fairway = Fairway::start(&site.edge, &[("web.yaml", &all(&[&empty, &endpoint]))])?;
    let places = [at(EDGE, 80), at(EDGE_INSIDE, 30080)];
    ensure!(site.client.run(|| clients::who(at(EDGE, 80)))? == "web");
    fairway.write("web.yaml", &empty)?;
    fairway.settle("gone")?;
    are_closed(&site, &places)?;
    let counts = || -> Result<(f64, f64)> {
        let of = |protocol| rejected(&fairway, "web", protocol, "no_endpoint");
        Ok((of("TCP")?, of("UDP")?))
    };
    knock(&site, &places)?;
    let (mut expected, any) = (2.0, "0.0.0.0".parse()?);
    let counted = counts()?;
    ensure!(counted == (expected, expected), "{counted:?}");
    for [one, other] in [[EDGE, EDGE_INSIDE], [any, any]] {
        let ours = [("host", at(one, 80)), ("host", at(other, 30080))];
        let tcp = named(&site.edge, &ours)?;
        let udp = named_udp(&site.edge, &ours)?;
        for place in places {
            answers(&site, place, "host")?;
        }
        let counted = counts()?;
        ensure!(counted == (expected, expected), "{one}: {counted:?}");
        drop((tcp, udp));
        knock(&site, &places)?;
        expected += 2.0;
        let counted = counts()?;
        ensure!(counted == (expected, expected), "{one}: {counted:?}");
    }
    // Nor is it counted where the Service has endpoints again before anybody has asked.
    let ours = [("host", at(EDGE, 80)), ("host", at(EDGE_INSIDE, 30080))];
    let tcp = named(&site.edge, &ours)?;
    for place in places {
        ensure!(near(&site, place).run(|| clients::who(place))? == "host");
    }
    fairway.write("web.yaml", &all(&[&empty, &endpoint]))?;
    for listener in ["192.0.2.1:30080/TCP", "198.51.100.1:80/TCP"] {
        fairway.logs(&[listener, "PortInUse"])?;
    }
    let counted = counts()?;
    ensure!(counted == (expected, expected), "{counted:?}");
    drop(tcp);
    wait::until("the Service answers again", || {
        places
            .iter()
            .all(|place| answers(&site, *place, "web").is_ok())
    })
}

fn at_an_address_of_the_hosts_own_what_the_host_has_comes_first() -> Result<()> {
    let site = Site::new()?;
    let _sshd = sshd(&site.edge)?;
    let _server = named(
        &site.farm,
        &[("git", at(server(0), 22)), ("web", at(server(0), 80))],
    )?;
    let manifests = all(&[
        &pool("edge", &[&format!("{EDGE}-{EDGE}")]),
        &service(
            "git",
            "type: LoadBalancer, ports: [{name: ssh, port: 22}, {name: http, port: 80}]",
        ),
        &slice_of(
            "git",
            &[("ssh", "TCP", 22), ("http", "TCP", 80)],
            &[server(0)],
        ),
    ]);
    let mut fairway = Fairway::prepare(&site.edge)?;
    fairway.write("git.yaml", &manifests)?;
    fairway.launch()?;
    site.client.run(|| {
        wait::until("the Service answers where nobody else does", || {
            clients::who(at(EDGE, 80)).is_ok_and(|who| who == "web")
        })
    })?;
    fairway.logs(&["PortInUse"])?;
    ensure!(site.client.run(|| clients::who(at(EDGE, 22)))? == "sshd");
    Ok(())
}

/// A connection that the other end ends first: that one keeps it in TIME-WAIT for a minute.
fn greet(to: SocketAddr) -> Result<()> {
    let mut all = Vec::new();
    clients::connect_tcp(to)?.read_to_end(&mut all)?;
    ensure!(all == b"hello", "{all:?}");
    Ok(())
}

fn after_a_restart_under_load_every_port_is_served_at_once() -> Result<()> {
    let site = Site::new()?;
    let _brief = brief(&site.farm, at(server(0), 80))?;
    let manifests = all(&[
        &pool("edge", &[&format!("{EDGE}-{EDGE}")]),
        &service(
            "web",
            "type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]",
        ),
        &slice("web", 80, &[server(0)]),
    ]);
    let metrics = "127.0.0.1:9902";
    for arguments in [
        &["--metrics", metrics][..],
        &["--metrics", metrics, "--no-steering"],
    ] {
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
        fairway.write("web.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        let everywhere = |times: usize| -> Result<()> {
            for _ in 0..times {
                site.client.run(|| greet(at(EDGE, 80)))?;
                site.farm.run(|| greet(at(EDGE_INSIDE, 30080)))?;
            }
            for _ in 0..times.min(20) {
                let metrics = metrics.parse()?;
                let livez = || clients::http_get(metrics, "/livez");
                ensure!(site.edge.run(livez)?.status == 200);
            }
            Ok(())
        };
        wait::until("all answer", || everywhere(1).is_ok())?;
        for killed in [true, false] {
            everywhere(300)?;
            if killed {
                fairway.kill();
            } else {
                fairway.stop()?;
            }
            let began = Instant::now();
            fairway.launch()?;
            wait::until("all answer again", || everywhere(1).is_ok())?;
            fairway.ready()?;
            let took = began.elapsed();
            ensure!(took < Duration::from_secs(20), "{arguments:?}: {took:?}");
        }
        fairway.stop()?;
    }
    Ok(())
}

fn thousands_of_places_take_no_sockets_and_change_without_them() -> Result<()> {
    const SERVICES: usize = 1500;
    let site = Site::new()?;
    let _server = named(
        &site.farm,
        &[("a", at(server(0), 8080)), ("b", at(server(1), 8080))],
    )?;
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, \
                ports: [{name: one, port: 80}, {name: two, port: 443}]";
    let ports = [("one", "TCP", 8080), ("two", "TCP", 8080)];
    let of = |n: usize, to| slice_of(&format!("s{n}"), &ports, &[to]);
    let mut parts = vec![pool("edge", &["10.128.0.0/16"])];
    parts.extend((0..SERVICES).map(|n| service(&format!("s{n}"), spec)));
    parts.extend((1..SERVICES).map(|n| of(n, server(0))));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    site.client.ip("route add 10.128.0.0/16 via 198.51.100.1")?;
    let manifests = [("all.yaml", &*all(&parts)), ("one.yaml", &of(0, server(0)))];
    let mut fairway = Fairway::start(&site.edge, &manifests)?;
    let files = fs::read_dir(format!("/proc/{}/fd", fairway.process()?.id()))?.count();
    ensure!(files < 200, "{files} files are open");
    let address = fairway.address("default/s0")?.parse()?;
    site.client.run(|| {
        for port in [80, 443] {
            ensure!(clients::who(at(address, port))? == "a");
        }
        Ok(())
    })?;
    fairway.write("one.yaml", &of(0, server(1)))?;
    site.client.run(|| {
        wait::until("the other one answers", || {
            clients::who(at(address, 443)).is_ok_and(|who| who == "b")
        })
    })
}

fn nothing_is_left_of_one_that_was_killed() -> Result<()> {
    let site = Site::new()?;
    let _sshd = sshd(&site.edge)?;
    let _server = named(&site.farm, &[("git", at(server(0), 22))])?;
    let manifests = all(&[
        &pool("edge", &["203.0.113.1-203.0.113.9"]),
        &load_balancer("git", vip(1), 22, 22),
        &slice("git", 22, &[server(0)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("git.yaml", &manifests)])?;
    let who = |to| site.client.run(|| clients::who(to));
    ensure!(who(at(vip(1), 22))? == "git");
    fairway.kill();
    // Its local route is still there, and nothing takes what comes but the host.
    wait::until("the kernel has let go", || {
        who(at(vip(1), 22)).is_ok_and(|who| who == "sshd")
    })?;
    fairway.restart()?;
    ensure!(who(at(vip(1), 22))? == "git");
    ensure!(who(at(EDGE, 22))? == "sshd");
    Ok(())
}

fn without_steering_every_place_has_sockets_of_its_own() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let manifests = all(&[
        &pool("edge", &["203.0.113.1-203.0.113.9"]),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0)]),
    ]);
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--no-steering"]);
    fairway.write("shop.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    site.client.run(|| {
        ensure!(clients::who(at(vip(1), 80))? == "a");
        Ok(())
    })?;
    site.edge.run(|| {
        ensure!(
            TcpListener::bind(at(vip(1), 80)).is_err(),
            "nobody listens there"
        );
        Ok(())
    })
}
