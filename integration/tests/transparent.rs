//! Endpoints that see their clients' own addresses: `fairway.dev/client-address: transparent`.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, pool};
use fairway_integration::nodes::{Nodes, client, ips_of, pod};
use fairway_integration::servers::Nginx;
use fairway_integration::site::at;
use fairway_integration::{clients, tests, wait};

tests![
    an_endpoint_on_the_own_node_sees_the_client,
    load_is_even_over_two_nodes_and_every_endpoint_sees_the_client,
    where_there_is_no_way_back_it_is_said_and_clients_are_served,
    rules_outlive_a_kill_and_go_when_nobody_asks,
    connections_keep_their_clients_address_in_an_upgrade,
    nobody_but_a_gateway_is_relayed,
    a_gateway_dials_only_endpoints_that_it_knows,
    a_gateway_outside_the_cluster_is_the_way_back_or_says_so,
    without_the_capability_clients_are_served_and_it_is_said,
    a_header_tells_the_client_where_the_way_back_is_lost,
];

/// A Service of each family with the pods of both nodes, and the rest of the objects.
fn manifests(pods: [u8; 2], annotations: &str) -> String {
    let mut documents = vec![pool("edge", &["203.0.113.0/28", "2001:db8:f::/124"])];
    for (node, address) in [("a", "192.0.2.1"), ("b", "192.0.2.2")] {
        documents.push(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        ));
    }
    for (name, family, index) in [("four", "IPv4", 0), ("six", "IPv6", 1)] {
        documents.push(format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: {name}, annotations: {{{annotations}}}}}\n\
             spec: {{selector: {{app: {name}}}, type: LoadBalancer, ipFamilies: [{family}], ports: [\
             {{name: tcp, port: 80, targetPort: 8080}}, \
             {{name: http, port: 81, targetPort: 8081, appProtocol: http}}]}}\n"
        ));
        let mut endpoints = Vec::new();
        for (node, number, count) in [("a", 1, pods[0]), ("b", 2, pods[1])] {
            for n in 1..=count {
                let address = pod(number, n)[index];
                endpoints.push(format!("{{addresses: [\"{address}\"], nodeName: {node}}}"));
            }
        }
        documents.push(format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {family}\n\
             ports: [{{name: tcp, port: 8080}}, {{name: http, port: 8081}}]\n\
             endpoints: [{}]\n",
            endpoints.join(", ")
        ));
    }
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    all(&documents)
}

/// Where the gateways are.
const PEERS: &str = "a=192.0.2.1,b=192.0.2.2";

const TRANSPARENT: &str = "fairway.dev/client-address: transparent";

/// Who was seen, for each endpoint that answered.
fn seen(nodes: &Nodes, to: IpAddr, index: usize) -> Result<BTreeMap<String, bool>> {
    nodes.client.run(|| {
        let mut all = BTreeMap::new();
        for turn in 0..6 {
            let from = client(turn % 3)[index];
            let (name, saw) = asked(from, to)?;
            all.insert(name, saw == from);
        }
        Ok(all)
    })
}

/// A gateway on that node, not started yet.
fn gateway(host: &Host, peers: &str, key: &str, text: &str) -> Result<Fairway> {
    let mut fairway = Fairway::prepare(host)?;
    let file = fairway.folder().join("key");
    std::fs::write(&file, key)?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    let file = file.display().to_string();
    let name = host.name().to_owned();
    fairway = fairway.arguments(&[
        "--node-name",
        &name,
        "--peers",
        peers,
        "--peers-key-file",
        &file,
    ]);
    fairway.write("all.yaml", text)?;
    Ok(fairway)
}

fn started(host: &Host, text: &str) -> Result<Fairway> {
    let mut fairway = gateway(host, PEERS, "a secret of these gateways", text)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

/// The address of each Service, as `a` has given it.
fn addresses(fairway: &Fairway) -> Result<[IpAddr; 2]> {
    let of = |name: &str| -> Result<IpAddr> {
        let found = fairway.external_ips(&format!("default/{name}"))?;
        Ok(found.first().context("no address")?.parse()?)
    };
    Ok([of("four")?, of("six")?])
}

/// Who answered a client at the plain port, and whom it saw.
fn asked(from: IpAddr, to: IpAddr) -> Result<(String, IpAddr)> {
    let mut stream = clients::connect_tcp_from(from, at(to, 80))?;
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let (name, peer) = line.trim().split_once(' ').context("half an answer")?;
    Ok((name.to_owned(), peer.parse::<SocketAddr>()?.ip()))
}

/// Whom a server of HTTP saw.
fn asked_http(from: IpAddr, to: IpAddr) -> Result<IpAddr> {
    let to = at(to, 81);
    let stream = clients::connect_tcp_from(from, to)?;
    let said = clients::http_get_from(stream, to, "/")?.body;
    let said: serde_json::Value = serde_json::from_str(&said).context(said)?;
    let peer = said["peer"].as_str().context("no peer")?;
    Ok(peer.parse::<SocketAddr>()?.ip())
}

fn an_endpoint_on_the_own_node_sees_the_client() -> Result<()> {
    let nodes = Nodes::new([1, 0])?;
    let _served = nodes.serve()?;
    let fairway = started(&nodes.a, &manifests([1, 0], TRANSPARENT))?;
    let to = addresses(&fairway)?;
    nodes.client.run(|| {
        for n in 0..3 {
            for (from, to) in client(n).into_iter().zip(to) {
                let (name, saw) = asked(from, to)?;
                ensure!(
                    (name.as_str(), saw) == ("pod-1-1", from),
                    "{from}: {name} saw {saw}"
                );
                let saw = asked_http(from, to)?;
                ensure!(saw == from, "HTTP from {from}: {saw}");
            }
        }
        Ok(())
    })
}

fn load_is_even_over_two_nodes_and_every_endpoint_sees_the_client() -> Result<()> {
    let nodes = Nodes::new([1, 2])?;
    let _served = nodes.serve()?;
    let text = manifests([1, 2], TRANSPARENT);
    let _there = started(&nodes.b, &text)?;
    let fairway = started(&nodes.a, &text)?;
    let to = addresses(&fairway)?;
    nodes.client.run(|| {
        for (index, to) in to.into_iter().enumerate() {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for turn in 0..300_u16 {
                let from = client((turn % 3) as u8)[index];
                let (name, saw) = asked(from, to)?;
                ensure!(saw == from, "{name} saw {saw} and not {from}");
                *counts.entry(name).or_default() += 1;
            }
            ensure!(
                counts.len() == 3 && counts.values().all(|count| (95..=105).contains(count)),
                "{counts:?}"
            );
            for turn in 0..9 {
                let from = client(turn % 3)[index];
                let saw = asked_http(from, to)?;
                ensure!(saw == from, "HTTP from {from}: {saw}");
            }
        }
        Ok(())
    })
}

fn where_there_is_no_way_back_it_is_said_and_clients_are_served() -> Result<()> {
    let nodes = Nodes::new([1, 1])?;
    let _served = nodes.serve()?;
    let text = manifests([1, 1], TRANSPARENT);
    let fairway = started(&nodes.a, &text)?;
    let to = addresses(&fairway)?;
    let round = |expected: Option<IpAddr>| -> Result<()> {
        nodes.client.run(|| {
            for turn in 0..6 {
                let from = client(turn % 3)[0];
                let (name, saw) = asked(from, to[0])?;
                let wanted = if name == "pod-1-1" {
                    Some(from)
                } else {
                    expected
                };
                ensure!(
                    wanted.is_none_or(|it| it == saw),
                    "{name} saw {saw} for {from}"
                );
            }
            Ok(())
        })
    };
    // Nobody dials on b.
    round(Some("192.0.2.1".parse()?))?;
    let loss = "endpoints on node b see the address of gateway a in place of the client's";
    fairway.explains("default/four", &[loss])?;
    fairway.says("default/four", &["ClientAddressLost"])?;
    let said = fairway.cli_output(&["explain", "service", "default/four"])?;
    ensure!(!said.contains("endpoints on node a see"), "{said}");
    let lost = fairway.metric(
        "fairway_client_address_lost_total",
        &["reason=\"not_relayed\""],
    )?;
    ensure!(lost >= 3.0, "{lost}");
    // Now somebody does.
    let there = started(&nodes.b, &text)?;
    wait::until_some("b dials", || {
        nodes.client.run(|| {
            for turn in 0..2 {
                let from = client(turn)[0];
                let (name, saw) = asked(from, to[0])?;
                ensure!(saw == from, "{name} saw {saw}");
            }
            Ok(())
        })
    })?;
    wait::until_some("the loss is over", || {
        let said = fairway.cli_output(&["explain", "service", "default/four"])?;
        ensure!(!said.contains(loss), "{said}");
        anyhow::Ok(())
    })?;
    drop(there);
    round(Some("192.0.2.1".parse()?))
}

/// What a program says on a host, given as one line.
fn said(host: &Host, command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    host.run(|| clients::output(program, &words))
}

/// The rules of the kernel that answers need are there, or are not.
fn rules_are(host: &Host, there: bool) -> Result<()> {
    let table = said(host, "nft list tables")?;
    ensure!(table.contains("inet fairway") == there, "{table}");
    for family in ["-4", "-6"] {
        let rule = said(host, &format!("ip {family} rule"))?;
        let count = rule.matches("fwmark 0x2000/0x2000 lookup 252").count();
        ensure!(count == usize::from(there), "{rule}");
    }
    Ok(())
}

fn connections_keep_their_clients_address_in_an_upgrade() -> Result<()> {
    let nodes = Nodes::new([1, 0])?;
    let _served = nodes.serve()?;
    let mut fairway = started(&nodes.a, &manifests([1, 0], TRANSPARENT))?;
    let to = addresses(&fairway)?;
    let open = || -> Result<Vec<(TcpStream, String)>> {
        let all = (0..3).flat_map(|n| client(n).into_iter().zip(to));
        let all = all.map(|(from, to)| {
            let mut stream = clients::connect_tcp_from(from, at(to, 80))?;
            let seen = clients::ask(&mut stream, "who")?;
            let own = stream.local_addr()?.ip().to_string();
            ensure!(seen.contains(&own), "{own} is not in {seen}");
            Ok((stream, seen))
        });
        all.collect()
    };
    let mut old = nodes.client.run(open)?;
    for round in 0..2 {
        fairway.upgrade()?;
        for (stream, seen) in &mut old {
            let now = clients::ask(stream, "who")?;
            ensure!(now == *seen, "upgrade {round}: {now}, and not {seen}");
        }
        rules_are(&nodes.a, true)?;
        nodes.client.run(open)?;
    }
    // Nobody asks for it any more, but for the connections that have gone over twice.
    fairway.write("all.yaml", &manifests([1, 0], ""))?;
    wait::until_some("the endpoint sees the gateway", || {
        nodes.client.run(|| {
            let from = client(0)[0];
            let (_, saw) = asked(from, to[0])?;
            ensure!(saw != from, "{saw}");
            Ok(())
        })
    })?;
    rules_are(&nodes.a, true)?;
    for (stream, seen) in &mut old {
        ensure!(clients::ask(stream, "who")? == *seen, "{seen}");
    }
    drop(old);
    wait::until_some("the rules have gone", || rules_are(&nodes.a, false))
}

fn rules_outlive_a_kill_and_go_when_nobody_asks() -> Result<()> {
    let nodes = Nodes::new([1, 0])?;
    let _served = nodes.serve()?;
    let text = manifests([1, 0], TRANSPARENT);
    let mut fairway = started(&nodes.a, &text)?;
    let to = addresses(&fairway)?;
    let rules = |command: &str| -> Result<String> {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        nodes.a.run(|| clients::output(program, &words))
    };
    let stand = || -> Result<()> {
        let table = rules("nft list tables")?;
        ensure!(table.contains("inet fairway"), "{table}");
        for family in ["-4", "-6"] {
            let rule = rules(&format!("ip {family} rule"))?;
            let count = rule.matches("fwmark 0x2000/0x2000 lookup 252").count();
            ensure!(count == 1, "{rule}");
            let route = rules(&format!("ip {family} route show table 252"))?;
            ensure!(route.contains("local default"), "{route}");
        }
        Ok(())
    };
    let sees = |wanted: bool| -> Result<()> {
        nodes.client.run(|| {
            for (from, to) in client(0).into_iter().zip(to) {
                let (_, saw) = asked(from, to)?;
                ensure!((saw == from) == wanted, "{from}: {saw}");
            }
            Ok(())
        })
    };
    stand()?;
    sees(true)?;
    // Somebody removes a part of them.
    rules("ip -4 rule del pref 70")?;
    rules("ip -6 route flush table 252")?;
    rules("nft delete table inet fairway")?;
    wait::until_some("they are made again", stand)?;
    sees(true)?;
    fairway.kill();
    stand()?;
    // Half of them is left for the next process, with another mark.
    for command in [
        "ip -6 rule del pref 70",
        "ip -4 rule del pref 70",
        "ip -4 rule add fwmark 0x1000/0x1000 lookup 252 pref 70 proto 70",
    ] {
        rules(command)?;
    }
    fairway.launch()?;
    fairway.ready()?;
    stand()?;
    sees(true)?;
    // A connection goes on without the annotation, and has the rules until it ends.
    let mut stream = nodes
        .client
        .run(|| clients::connect_tcp_from(client(1)[0], at(to[0], 80)))?;
    let seen = clients::ask(&mut stream, "who")?;
    fairway.write("all.yaml", &manifests([1, 0], ""))?;
    wait::until_some("nobody asks for it any more", || sees(false))?;
    stand()?;
    ensure!(clients::ask(&mut stream, "who")? == seen, "{seen}");
    drop(stream);
    let gone = || -> Result<()> {
        let table = rules("nft list tables")?;
        ensure!(!table.contains("inet fairway"), "{table}");
        for family in ["-4", "-6"] {
            let rule = rules(&format!("ip {family} rule"))?;
            ensure!(!rule.contains("252"), "{rule}");
        }
        Ok(())
    };
    wait::until_some("they are gone", gone)?;
    fairway.write("all.yaml", &text)?;
    wait::until_some("they are back", stand)?;
    fairway.kill();
    // The next one is not asked for them.
    fairway.write("all.yaml", &manifests([1, 0], ""))?;
    fairway.launch()?;
    fairway.ready()?;
    wait::until_some("what was left is gone", gone)?;
    fairway.write("all.yaml", &text)?;
    wait::until_some("they are back again", stand)?;
    fairway.stop()?;
    gone()
}

fn nobody_but_a_gateway_is_relayed() -> Result<()> {
    let nodes = Nodes::new([1, 1])?;
    let _served = nodes.serve()?;
    let text = manifests([1, 1], TRANSPARENT);
    let _there = started(&nodes.b, &text)?;
    let relay: SocketAddr = "192.0.2.2:9903".parse()?;
    nodes.a.run(|| {
        // It says a number, and ends whatever is no request.
        let header = {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x2f".to_vec();
            header.extend([198, 51, 100, 7, 10, 2, 1, 2, 1, 0, 0x1f, 0x90]);
            header.extend([0xE0, 0, 32]);
            header.extend([0; 32]);
            header
        };
        for said in [
            header.clone(),
            b"GET / HTTP/1.0\r\n\r\n".to_vec(),
            header[..40].to_vec(),
        ] {
            let mut stream = TcpStream::connect(relay)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut greeting = [0; 20];
            stream.read_exact(&mut greeting)?;
            ensure!(greeting.starts_with(b"FWR1"), "{greeting:?}");
            stream.write_all(&said)?;
            let answer = stream.read(&mut [0; 1]);
            ensure!(!matches!(answer, Ok(1)), "{said:?} was answered");
        }
        Ok(())
    })?;
    // One with another key is served by plain dials, and says so.
    let mut fairway = gateway(&nodes.a, PEERS, "quite another secret", &text)?;
    fairway.launch()?;
    fairway.ready()?;
    let to = addresses(&fairway)?;
    nodes.client.run(|| {
        for turn in 0..6 {
            let from = client(turn % 3)[0];
            let (name, saw) = asked(from, to[0])?;
            let wanted = if name == "pod-1-1" {
                from
            } else {
                "192.0.2.1".parse()?
            };
            ensure!(saw == wanted, "{name} saw {saw}");
        }
        anyhow::Ok(())
    })?;
    fairway.explains("default/four", &["does not believe this one"])
}

fn a_gateway_dials_only_endpoints_that_it_knows() -> Result<()> {
    let nodes = Nodes::new([1, 1])?;
    let _served = nodes.serve()?;
    let text = manifests([1, 1], TRANSPARENT);
    // On b one of the two Services does not ask for it.
    let (four, rest) = text
        .split_once("metadata: {name: six")
        .context("no second Service")?;
    let of_six = format!(
        "{}metadata: {{name: six{rest}",
        four.replace(TRANSPARENT, "")
    );
    let _there = started(&nodes.b, &of_six)?;
    let fairway = started(&nodes.a, &text)?;
    let to = addresses(&fairway)?;
    let all = |a, b| BTreeMap::from([("pod-1-1".to_owned(), a), ("pod-2-1".to_owned(), b)]);
    ensure!(seen(&nodes, to[1], 1)? == all(true, true), "IPv6");
    ensure!(seen(&nodes, to[0], 0)? == all(true, false), "IPv4");
    let lost = fairway.metric(
        "fairway_client_address_lost_total",
        &["reason=\"not_known\""],
    )?;
    ensure!((lost - 3.0).abs() < 0.1, "{lost}");
    Ok(())
}

fn a_gateway_outside_the_cluster_is_the_way_back_or_says_so() -> Result<()> {
    let nodes = Nodes::new([1, 1])?;
    let _served = nodes.serve()?;
    // The gateway is no node. Pods of «a» have it as their default route, those of b have not.
    let text = manifests([1, 1], TRANSPARENT).replace("name: a}\nstatus", "name: x}\nstatus");
    let text = text.replace("nodeName: a", "nodeName: x");
    let mut fairway = gateway(&nodes.a, "a=192.0.2.1", "a secret of this gateway", &text)?;
    fairway.launch()?;
    fairway.ready()?;
    let to = addresses(&fairway)?;
    let all = |a, b| BTreeMap::from([("pod-1-1".to_owned(), a), ("pod-2-1".to_owned(), b)]);
    for (index, to) in to.into_iter().enumerate() {
        let seen = seen(&nodes, to, index)?;
        ensure!(seen == all(true, false), "{seen:?}");
    }
    let said = "endpoints on node b see the address of gateway a in place of the client's";
    fairway.explains("default/four", &[said])?;
    fairway.explains("default/four", &["does not come back to the gateway"])?;
    let said = fairway.cli_output(&["explain", "service", "default/four"])?;
    ensure!(!said.contains("endpoints on node x"), "{said}");
    Ok(())
}

fn without_the_capability_clients_are_served_and_it_is_said() -> Result<()> {
    let nodes = Nodes::new([1, 0])?;
    let _served = nodes.serve()?;
    // Without it nothing makes the external addresses local.
    nodes
        .a
        .ip("address add 203.0.113.0/32 dev lo\naddress add 2001:db8:f::/128 dev lo")?;
    let text = manifests([1, 0], TRANSPARENT);
    let fairway = gateway(&nodes.a, PEERS, "a secret of these gateways", &text)?;
    let mut fairway = fairway.capabilities(&["NET_BIND_SERVICE"]);
    fairway.launch()?;
    fairway.ready()?;
    let to = addresses(&fairway)?;
    let seen = seen(&nodes, to[0], 0)?;
    ensure!(
        seen == BTreeMap::from([("pod-1-1".to_owned(), false)]),
        "{seen:?}"
    );
    fairway.says("default/four", &["ClientAddressLost"])?;
    fairway.explains("default/four", &["(CAP_NET_ADMIN, nftables)"])
}

fn a_header_tells_the_client_where_the_way_back_is_lost() -> Result<()> {
    let nodes = Nodes::new([0, 1])?;
    let pod = &nodes.pods[0];
    let _nginx = Nginx::told(pod, at(ips_of(pod)[0], 8080))?;
    let both = format!("{TRANSPARENT}, fairway.dev/proxy-protocol: v2");
    // The other Service asks for no header.
    let text = manifests([0, 1], &both);
    let (four, six) = text
        .split_once("metadata: {name: six")
        .context("no second")?;
    let six = six.replace(", fairway.dev/proxy-protocol: v2", "");
    let fairway = started(&nodes.a, &format!("{four}metadata: {{name: six{six}"))?;
    let [four, six] = addresses(&fairway)?;
    let to = at(four, 80);
    nodes.client.run(|| {
        for n in 0..3 {
            let from = client(n)[0];
            let stream = clients::connect_tcp_from(from, to)?;
            let said = clients::http_get_from(stream, to, "/")?.body;
            ensure!(said.starts_with(&format!("{from} ")), "{said}");
        }
        anyhow::Ok(())
    })?;
    let lost = fairway.metric(
        "fairway_client_address_lost_total",
        &["reason=\"not_relayed\""],
    )?;
    ensure!((lost - 3.0).abs() < 0.1, "{lost}");
    // Nobody listens there, so this ends with an error.
    let _ = nodes.client.run(|| asked(client(0)[1], six));
    fairway.explains("default/six", &["in place of the client's"])?;
    let said = fairway.cli_output(&["explain", "service", "default/four"])?;
    ensure!(
        !said.contains("ClientAddressLost") && !said.contains("in place of"),
        "{said}"
    );
    Ok(())
}
