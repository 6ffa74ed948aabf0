//! UDP flows: who keeps them, where they go, and what a client is told.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, slice_of, slice_with};
use fairway_integration::servers::named_udp;
use fairway_integration::site::{Site, at, client, server, server6, vip, vip6};
use fairway_integration::{clients, tests, wait};

tests![
    a_service_that_opens_thousands_of_flows_leaves_those_of_another_alone,
    three_thousand_flows_of_one_address_are_all_kept_while_there_is_room,
    three_thousand_flows_of_one_address_are_all_kept_where_files_are_few,
    where_the_host_has_no_port_left_a_service_still_gets_its_first_flow,
    flows_go_where_they_went_after_a_restart,
    a_thousand_flows_go_where_they_went_after_a_kill_and_only_the_share_of_a_change_moves,
    a_datagram_that_an_endpoint_refuses_goes_to_the_next_one,
    a_client_whose_endpoints_all_refuse_is_told_so,
    without_the_right_to_tell_clients_of_refusals_the_log_says_what_that_means,
    a_terminating_endpoint_that_serves_keeps_its_flows_and_gets_no_new_ones,
];

const PORT: u16 = 53;

fn dns(name: &str, address: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, annotations: {{fairway.dev/addresses: \"{address}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: {name}}}, \
         ports: [{{port: {PORT}, protocol: UDP}}]}}\n"
    )
}

fn endpoints(name: &str, endpoints: &[IpAddr]) -> String {
    slice_of(name, &[("", "UDP", PORT)], endpoints)
}

/// Two Services of one endpoint each: `quiet` at [`vip`] 1 and `loud` at 2.
fn quiet_and_loud(site: &Site) -> Result<(Served, String)> {
    let servers = named_udp(
        &site.farm,
        &[("a", at(server(0), PORT)), ("b", at(server(1), PORT))],
    )?;
    let manifests = all(&[
        &edge_pool(),
        &dns("quiet", vip(1)),
        &endpoints("quiet", &[server(0)]),
        &dns("loud", vip(2)),
        &endpoints("loud", &[server(1)]),
    ]);
    Ok((servers, manifests))
}

/// So many clients of a Service, each a socket of its own.
fn sockets(from: IpAddr, to: SocketAddr, count: usize) -> Result<Vec<UdpSocket>> {
    let sockets = (0..count).map(|_| clients::udp(Some(from), to));
    Ok(sockets.collect::<io::Result<_>>()?)
}

/// Who answers each, and how it is seen there: the same as long as the flow is the same.
fn answers(sockets: &[UdpSocket]) -> Result<Vec<String>> {
    let answers = sockets.iter().map(|socket| clients::ask_udp(socket, "who"));
    Ok(answers.collect::<io::Result<_>>()?)
}

/// How many answers are the same.
fn alike(before: &[String], after: &[String]) -> usize {
    let pairs = before.iter().zip(after);
    pairs.filter(|(one, other)| one == other).count()
}

fn a_service_that_opens_thousands_of_flows_leaves_those_of_another_alone() -> Result<()> {
    let site = Site::new()?;
    let (_servers, manifests) = quiet_and_loud(&site)?;
    // The same in both ways to say it.
    let as_flag = Fairway::prepare(&site.edge)?.arguments(&["--udp-flows", "600"]);
    let as_variable = Fairway::prepare(&site.edge)?.environment(&[("FAIRWAY_UDP_FLOWS", "600")]);
    for mut fairway in [as_flag, as_variable] {
        fairway.write("dns.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        site.client.run(|| {
            // A third of all: less than half, which is the fair share, on each worker.
            let quiet = sockets(client(0), at(vip(1), PORT), 200)?;
            let before = answers(&quiet)?;
            for n in 0..20 {
                let loud = sockets(client(1 + n), at(vip(2), PORT), 150)?;
                answers(&loud)?;
            }
            let after = answers(&quiet)?;
            let kept = alike(&before, &after);
            ensure!(kept == 200, "{kept} of 200 flows are the same");
            let evicted = |name: &str| {
                let label = format!("service=\"{name}\"");
                fairway.metric("fairway_flows_evicted_total", &[&label])
            };
            ensure!(evicted("quiet")? == 0.0 && evicted("loud")? > 2_000.0);
            let active = fairway.metric("fairway_flows_active", &[])?;
            ensure!(active <= 600.0, "{active} flows");
            Ok(())
        })?;
        fairway.logs(&["no room for more UDP flows", "--udp-flows", "default/loud"])?;
        fairway.stop()?;
    }
    Ok(())
}

fn three_thousand_flows_of_one_address_are_all_kept_while_there_is_room() -> Result<()> {
    three_thousand_flows_of_one_address_are_kept(|fairway| fairway)
}

fn three_thousand_flows_of_one_address_are_all_kept_where_files_are_few() -> Result<()> {
    three_thousand_flows_of_one_address_are_kept(|fairway| fairway.open_files(6_000))
}

fn three_thousand_flows_of_one_address_are_kept(set: fn(Fairway) -> Fairway) -> Result<()> {
    let site = Site::new()?;
    let _server = named_udp(&site.farm, &[("a", at(server(0), PORT))])?;
    let manifests = all(&[
        &edge_pool(),
        &dns("dns", vip(1)),
        &endpoints("dns", &[server(0)]),
    ]);
    let mut fairway = set(Fairway::prepare(&site.edge)?);
    fairway.write("dns.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    site.client.run(|| {
        let nat = sockets(client(0), at(vip(1), PORT), 3_000)?;
        let before = answers(&nat)?;
        let after = answers(&nat)?;
        let kept = alike(&before, &after);
        ensure!(kept == 3_000, "{kept} of 3,000 flows are the same");
        let evicted = fairway.metric("fairway_flows_evicted_total", &[])?;
        ensure!(evicted == 0.0, "{evicted} flows had to go");
        Ok(())
    })
}

fn where_the_host_has_no_port_left_a_service_still_gets_its_first_flow() -> Result<()> {
    let site = Site::new()?;
    site.edge
        .sysctl("ipv4/ip_local_port_range", "40000 40399")?;
    let (_servers, manifests) = quiet_and_loud(&site)?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--udp-flows", "5000"]);
    fairway.write("dns.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    site.client.run(|| {
        let loud = sockets(client(0), at(vip(2), PORT), 600)?;
        answers(&loud)?;
        let quiet = sockets(client(1), at(vip(1), PORT), 40)?;
        let before = answers(&quiet)?;
        answers(&loud)?;
        ensure!(answers(&quiet)? == before, "its flows have stayed");
        anyhow::Ok(())
    })?;
    fairway.logs(&["no room for more UDP flows", "net.ipv4.ip_local_port_range"])?;
    let label = ["service=\"quiet\""];
    let evicted = fairway.metric("fairway_flows_evicted_total", &label)?;
    ensure!(evicted == 0.0, "{evicted} flows of the quiet one");
    Ok(())
}

fn flows_go_where_they_went_after_a_restart() -> Result<()> {
    let site = Site::new()?;
    let names = ["a", "b", "c", "d"];
    let servers: Vec<(&str, SocketAddr)> = (0..4_u8)
        .map(|n| (names[usize::from(n)], at(server(n), PORT)))
        .collect();
    let _servers = named_udp(&site.farm, &servers)?;
    let addresses: Vec<IpAddr> = (0..4).map(server).collect();
    let manifests = all(&[
        &edge_pool(),
        &dns("dns", vip(1)),
        &endpoints("dns", &addresses),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    site.client.run(|| {
        let clients = sockets(client(0), at(vip(1), PORT), 60)?;
        // The last one first: in turn they would come to others.
        let names = || -> Result<Vec<String>> {
            let names = clients.iter().rev().map(clients::who_on);
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.reverse();
            Ok(names)
        };
        let first: io::Result<Vec<_>> = clients.iter().map(clients::who_on).collect();
        let before = first?;
        ensure!(
            before.iter().collect::<BTreeSet<_>>().len() == 4,
            "{before:?}"
        );
        for kill in [false, true] {
            if kill {
                fairway.kill();
            }
            fairway.restart()?;
            let after = wait::until_some("all are answered", &names)?;
            ensure!(before == after, "killed: {kill}: {before:?} {after:?}");
        }
        Ok(())
    })
}

/// The names of endpoints, each of which is the server of that number.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A Service of an IP version, and what follows from it.
struct OfFamily {
    manifests: String,
    vip: IpAddr,
    server: fn(u8) -> IpAddr,
}

impl OfFamily {
    fn all() -> [Self; 2] {
        let v6 = dns("dns", vip6(1)).replace("selector:", "ipFamilies: [IPv6], selector:");
        let pool = "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: six}\n\
                    spec: {addresses: [\"2001:db8:f::/120\"]}\n";
        [
            Self {
                manifests: all(&[&edge_pool(), &dns("dns", vip(1))]),
                vip: vip(1),
                server,
            },
            Self {
                manifests: all(&[pool, &v6]),
                vip: vip6(1),
                server: server6,
            },
        ]
    }
}

fn a_thousand_flows_go_where_they_went_after_a_kill_and_only_the_share_of_a_change_moves()
-> Result<()> {
    for family in OfFamily::all() {
        let site = Site::new()?;
        let server = family.server;
        let servers: Vec<(&str, SocketAddr)> = (0_u8..)
            .zip(NAMES)
            .map(|(n, name)| (name, at(server(n), PORT)))
            .collect();
        let _servers = named_udp(&site.farm, &servers)?;
        let serve = |fairway: &Fairway, numbers: std::ops::Range<u8>| {
            let addresses: Vec<IpAddr> = numbers.map(server).collect();
            fairway.write("slice.yaml", &endpoints("dns", &addresses))
        };
        let mut fairway = Fairway::prepare(&site.edge)?;
        fairway.write("dns.yaml", &family.manifests)?;
        serve(&fairway, 0..4)?;
        fairway.launch()?;
        fairway.ready()?;
        let to = at(family.vip, PORT);
        let clients = site.client.run(|| {
            let clients = (0..1_000).map(|_| clients::udp(None, to));
            clients.collect::<io::Result<Vec<_>>>()
        })?;
        let ask = || -> Result<Vec<String>> {
            // In another order than before: who is asked first does not matter.
            let names = clients.iter().rev().map(clients::who_on);
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.reverse();
            Ok(names)
        };
        let names_after_a_kill = |fairway: &mut Fairway, numbers| {
            fairway.kill();
            serve(fairway, numbers)?;
            fairway.restart()?;
            wait::until_some("all are answered", &ask)
        };
        let first: io::Result<Vec<_>> = clients.iter().map(clients::who_on).collect();
        let first = first?;
        let same = names_after_a_kill(&mut fairway, 0..4)?;
        ensure!(first == same, "the same endpoints, other choices");

        // One more of five: a fifth of the flows goes there, and nowhere else.
        let more = names_after_a_kill(&mut fairway, 0..5)?;
        let moved: Vec<_> = same.iter().zip(&more).filter(|(a, b)| a != b).collect();
        ensure!(moved.iter().all(|(_, to)| **to == "e"), "{moved:?}");
        // Binomial: 200 on average, and the standard deviation is 13.
        ensure!((120..=280).contains(&moved.len()), "{}", moved.len());

        // One less: its flows go elsewhere, the others stay.
        let less = names_after_a_kill(&mut fairway, 1..5)?;
        for (before, after) in more.iter().zip(&less) {
            ensure!((before == "a") == (before != after), "{before} {after}");
        }
        fairway.stop()?;
    }
    Ok(())
}

fn a_datagram_that_an_endpoint_refuses_goes_to_the_next_one() -> Result<()> {
    let site = Site::new()?;
    // Nobody is at the others' ports.
    let _server = named_udp(&site.farm, &[("a", at(server(0), PORT))])?;
    let addresses: Vec<IpAddr> = (0..4).map(server).collect();
    let manifests = all(&[
        &edge_pool(),
        &dns("dns", vip(1)),
        &endpoints("dns", &addresses),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    // Of several datagrams at once the host tells of the first alone (net.ipv4.icmp_ratelimit), and of
    // fifty at once in all (icmp_msgs_burst): twelve clients have at most 36 refused.
    site.farm.sysctl("ipv4/icmp_ratelimit", "0")?;
    site.client.run(|| {
        for n in 0..12 {
            let socket = clients::udp(Some(client(n)), at(vip(1), PORT))?;
            socket.set_read_timeout(Some(clients::PATIENCE))?;
            // Once: nobody asks again.
            socket.send(b"who")?;
            let mut answer = [0; 64];
            let length = socket
                .recv(&mut answer)
                .with_context(|| format!("client {n}"))?;
            ensure!(answer.get(..2) == Some(b"a "), "{length}");
        }
        Ok(())
    })?;
    let refused = fairway.metric("fairway_connect_errors_total", &["reason=\"refused\""])?;
    ensure!(refused >= 1.0, "{refused} were refused");
    Ok(())
}

fn a_client_whose_endpoints_all_refuse_is_told_so() -> Result<()> {
    let site = Site::new()?;
    for sysctl in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        site.farm.sysctl(sysctl, "0")?;
    }
    let v6 = format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: six, annotations: {{fairway.dev/addresses: \"{}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: six}}, ipFamilies: [IPv6], \
         ports: [{{port: {PORT}, protocol: UDP}}]}}\n",
        vip6(1)
    );
    let pool = "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: six}\n\
                spec: {addresses: [\"2001:db8:f::/120\"]}\n";
    let manifests = all(&[
        &edge_pool(),
        pool,
        &dns("dns", vip(1)),
        &endpoints("dns", &[server(0), server(1), server(2)]),
        &v6,
        &endpoints("six", &[server6(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    site.client.run(|| {
        for to in [at(vip(1), PORT), at(vip6(1), PORT)] {
            for round in 0..3 {
                let socket = clients::udp(None, to)?;
                socket.set_read_timeout(Some(clients::PATIENCE))?;
                socket.send(b"who")?;
                let error = socket.recv(&mut [0; 64]).err();
                let error = error.with_context(|| format!("{to} answered"))?;
                ensure!(
                    error.kind() == io::ErrorKind::ConnectionRefused,
                    "{to}, round {round}: {error}"
                );
            }
        }
        Ok(())
    })?;
    let dropped = fairway.metric("fairway_datagrams_dropped_total", &["reason=\"refused\""])?;
    ensure!(dropped >= 6.0, "{dropped} were dropped");
    Ok(())
}

fn without_the_right_to_tell_clients_of_refusals_the_log_says_what_that_means() -> Result<()> {
    let site = Site::new()?;
    let mut fairway =
        Fairway::prepare(&site.edge)?.capabilities(&["NET_ADMIN", "NET_BIND_SERVICE"]);
    fairway.write("pool.yaml", &edge_pool())?;
    fairway.launch()?;
    fairway.ready()?;
    fairway.logs(&["no CAP_NET_RAW", "its own time-out"])?;
    fairway.stop()?;
    let mut fairway = fairway.capabilities(&["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"]);
    fairway.launch()?;
    fairway.ready()?;
    let said = fairway.process()?.said();
    ensure!(!said.contains("CAP_NET_RAW"), "{said}");
    // It is given up as soon as the sockets are open.
    let status = std::fs::read_to_string(format!("/proc/{}/status", fairway.process()?.id()))?;
    for field in ["CapEff:", "CapPrm:"] {
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let value = u64::from_str_radix(value.context(field)?.trim(), 16)?;
        ensure!(value == 1 << 10 | 1 << 12, "{field} {value:x}");
    }
    Ok(())
}

fn a_terminating_endpoint_that_serves_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_udp(
        &site.farm,
        &[("a", at(server(0), PORT)), ("b", at(server(1), PORT))],
    )?;
    let fairway = Fairway::prepare(&site.edge)?;
    let mut fairway = fairway;
    let ready = |n| format!("{{addresses: [\"{}\"]}}", server(n));
    let conditions = |n, conditions: &str| {
        format!(
            "{{addresses: [\"{}\"], conditions: {{{conditions}}}}}",
            server(n)
        )
    };
    let write = |fairway: &Fairway, endpoints: &[String]| {
        let slice = slice_with("dns", &[("", "UDP", PORT)], endpoints);
        fairway.write("slice.yaml", &slice)
    };
    fairway.write("dns.yaml", &all(&[&edge_pool(), &dns("dns", vip(1))]))?;
    write(&fairway, &[ready(0), ready(1)])?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(vip(1), PORT);
    site.client.run(|| {
        let clients = sockets(client(0), to, 30)?;
        let before = answers(&clients)?;
        ensure!(before.iter().any(|answer| answer.starts_with("a ")));
        let terminating = conditions(0, "ready: false, serving: true, terminating: true");
        write(&fairway, &[terminating, ready(1)])?;
        wait::until("new clients are served by the other alone", || {
            (0..8).all(|_| clients::who_udp(None, to).is_ok_and(|name| name == "b"))
        })?;
        ensure!(answers(&clients)? == before, "its flows have stayed");
        // It serves no more: its flows go at once, and the others stay.
        let gone = conditions(0, "ready: false, serving: false, terminating: true");
        write(&fairway, &[gone, ready(1)])?;
        wait::until_some("its flows go to the other", || {
            let after = answers(&clients)?;
            ensure!(after.iter().all(|answer| answer.starts_with("b ")));
            let mut both = before.iter().zip(&after);
            ensure!(both.all(|(before, after)| before.starts_with("a ") || before == after));
            anyhow::Ok(())
        })
    })
}
