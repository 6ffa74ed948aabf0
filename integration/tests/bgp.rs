//! Addresses that routers are told of: two gateways, BIRD as their router, a client behind it.
//!
//! ```text
//!   client ──── router ─┬── edge-1 ──── farm 1
//!                 BIRD  └── edge-2 ──── farm 2
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::text;
use fairway_integration::load::Load;
use fairway_integration::manifest::all;
use fairway_integration::routers::routed::{
    ID, OURS, RoutedSite, THEIRS, edge, edge6, endpoints, fairway, peer, peer_is, router, router6,
    session, started,
};
use fairway_integration::routers::{Bird, Frr, GoBgp, RoughRouter, Roughness};
use fairway_integration::site::{at, vip, vip6};
use fairway_integration::{clients, tests, wait};
use rustix::process::Signal;

tests![
    a_router_learns_addresses_of_two_gateways_and_spreads_clients_over_them,
    an_address_without_endpoint_is_withdrawn_and_no_session_ends,
    a_gateway_that_is_killed_is_left_at_once,
    a_gateway_that_freezes_is_left_at_once_and_comes_back,
    a_gateway_that_is_told_to_stop_is_left_before_it_stops_listening,
    a_password_has_to_be_the_same_on_both_sides,
    a_wrong_as_is_said_and_mended,
    a_router_of_the_own_as_gets_preference_and_communities,
    a_router_with_ttl_security_over_ipv6_learns_ipv4_by_an_ipv6_next_hop,
    with_ttl_security_only_a_router_on_the_link_is_heard,
    a_router_without_an_address_is_found_on_its_link,
    frr_learns_addresses_and_leaves_a_frozen_gateway,
    gobgp_learns_both_families_of_two_gateways,
    rough_routers_harm_nobody,
    a_full_table_takes_no_memory,
];

fn a_router_learns_addresses_of_two_gateways_and_spreads_clients_over_them() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let sessions: String = (1..=2).map(|n| session(n, "bfd on;")).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let gateways = [started(&site, 1, "bfd: {}")?, started(&site, 2, "bfd: {}")?];
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    bird.reaches(vip6(1), &[edge6(1), edge6(2)])?;
    let both: BTreeSet<String> = ["edge-1", "edge-2"].map(str::to_owned).into();
    for address in [vip(1), vip6(1)] {
        ensure!(site.answers(address)? == both, "{address}");
    }
    let [one, _] = &gateways;
    peer_is(
        one,
        "tor",
        "Established",
        &["\"prefixes\":2", "\"bfd\":\"Up\""],
    )?;
    let table = one.cli_output(&["get", "peers"])?;
    let heading: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        heading
            == [
                "NAME", "GATEWAY", "ADDRESS", "ASN", "STATE", "SINCE", "PREFIXES", "BFD", "WHY"
            ],
        "{table}"
    );
    ensure!(
        table.contains("198.18.1.1") && table.contains("64513"),
        "{table}"
    );
    one.explains(
        "default/web",
        &["203.0.113.1/32 is announced to the router tor"],
    )?;
    let label = ["peer=\"tor\""];
    for (metric, wanted) in [
        ("fairway_bgp_session_up", 1.0),
        ("fairway_bfd_session_up", 1.0),
        ("fairway_bgp_prefixes", 2.0),
    ] {
        let is = one.metric(metric, &label)?;
        ensure!((is - wanted).abs() < 0.1, "{metric}: {is}");
    }
    Ok(())
}

fn an_address_without_endpoint_is_withdrawn_and_no_session_ends() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let sessions: String = (1..=2).map(|n| session(n, "")).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let (one, two) = (started(&site, 1, "")?, started(&site, 2, "")?);
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    let before = one.metric("fairway_bgp_updates_total", &["direction=\"transmit\""])?;
    one.remove("endpoints.yaml")?;
    bird.reaches(vip(1), &[edge(2)])?;
    bird.reaches(vip6(1), &[edge6(2)])?;
    // One message for each address.
    let after = one.metric("fairway_bgp_updates_total", &["direction=\"transmit\""])?;
    ensure!((after - before - 2.0).abs() < 0.1, "{before} {after}");
    one.write("endpoints.yaml", &endpoints())?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    // The Service goes.
    two.remove("web.yaml")?;
    bird.reaches(vip(1), &[edge(1)])?;
    bird.reaches(vip6(1), &[edge6(1)])?;
    for gateway in [one, two] {
        let mut gateway = gateway;
        let said = gateway.process()?.said();
        let count = said.matches("session with a router established").count();
        ensure!(count == 1, "{count} sessions");
    }
    Ok(())
}

/// How long it takes from `act` until the router reaches the address by the second gateway alone.
fn left_after(bird: &Bird, act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    act()?;
    bird.reaches(vip(1), &[edge(2)])?;
    Ok(began.elapsed())
}

fn a_gateway_that_is_killed_is_left_at_once() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let sessions: String = (1..=2).map(|n| session(n, "bfd on;")).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let (mut one, _two) = (started(&site, 1, "bfd: {}")?, started(&site, 2, "bfd: {}")?);
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])?;
    // The kernel ends the connection of a killed process, so this does not need BFD.
    let took = left_after(&bird, || one.process()?.signal(Signal::KILL))?;
    println!("killed: {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(1), "{took:?}");
    one.restart()?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    // The whole host is cut off: nothing ends the connection.
    let took = left_after(&bird, || site.edge(1)?.host.ip("link set dev up down"))?;
    println!("link down: {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(1), "{took:?}");
    Ok(())
}

fn a_gateway_that_freezes_is_left_at_once_and_comes_back() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let sessions: String = (1..=2).map(|n| session(n, "bfd on;")).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let (mut one, _two) = (started(&site, 1, "bfd: {}")?, started(&site, 2, "bfd: {}")?);
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])?;
    let took = left_after(&bird, || one.process()?.signal(Signal::STOP))?;
    println!("frozen: {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(1), "{took:?}");
    one.process()?.signal(Signal::CONT)?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])
}

fn a_gateway_that_is_told_to_stop_is_left_before_it_stops_listening() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let told =
        "import filter { if (65535, 0) ~ bgp_community then print \"leaves: \", net; accept; };";
    let more = format!("bfd on; ipv4 {{ {told} }}; ipv6 {{ {told} }};");
    let sessions: String = (1..=2).map(|n| session(n, &more)).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let (mut one, _two) = (started(&site, 1, "bfd: {}")?, started(&site, 2, "bfd: {}")?);
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    ensure!(!bird.said().contains("leaves: "), "{}", bird.said());
    let load = Load::start(&site.client, at(vip(1), 80), Duration::from_millis(10))?;
    wait::until("clients are answered", || load.ended() > 20)?;
    load.take();
    one.process()?.signal(Signal::TERM)?;
    bird.reaches(vip(1), &[edge(2)])?;
    one.process()?.wait(wait::SOON)?;
    wait::until("clients went on", || load.ended() > 50)?;
    load.settle()?;
    // One that was under way by the first gateway as the router turned to the second ends there.
    let tally = load.take();
    ensure!(tally.bad.len() <= 2, "{:?}", tally.bad);
    // The router was told before that they will go (RFC 8326).
    let told = bird.said();
    for prefix in ["203.0.113.1/32", "2001:db8:f::1/128"] {
        let line = format!("leaves: {prefix}");
        ensure!(told.matches(&line).count() == 1, "{line}: {told}");
    }
    let said = one.process()?.said();
    ensure!(!said.contains("routers may not know"), "{said}");
    Ok(())
}

fn a_password_has_to_be_the_same_on_both_sides() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let bird = Bird::start(&site.router, ID, &session(1, "password \"right\";"))?;
    let one = started(&site, 1, "password: wrong")?;
    peer_is(&one, "tor", "Idle", &["does not answer", "password"])?;
    one.explains("default/web", &["is not announced to the router tor"])?;
    one.write(
        "peers.yaml",
        &peer("tor", THEIRS, router(1), "password: right"),
    )?;
    bird.reaches(vip(1), &[edge(1)])?;
    peer_is(&one, "tor", "Established", &[])?;
    // It is in no answer and in no log.
    let mut one = one;
    let rows = one.get("/api/v1/peers")?.body;
    let said = one.process()?.said();
    ensure!(
        !rows.contains("right") && !said.contains("\"right\""),
        "{rows}"
    );
    Ok(())
}

fn a_wrong_as_is_said_and_mended() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let bird = Bird::start(&site.router, ID, &session(1, ""))?;
    let wrong = peer("tor", 64_999, router(1), "");
    let one = fairway(site.edge(1)?, "{bgp: {}}", &[&wrong])?;
    wait::until_some("the AS is said to be wrong", || {
        let rows = one.get("/api/v1/peers")?.body;
        let words = ["its AS is 64513, and 64999 is expected", "Bad Peer AS"];
        match words.iter().any(|word| rows.contains(word)) {
            true => Ok(()),
            false => bail!("{rows}"),
        }
    })?;
    one.write("peers.yaml", &peer("tor", THEIRS, router(1), ""))?;
    bird.reaches(vip(1), &[edge(1)])
}

fn a_router_of_the_own_as_gets_preference_and_communities() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let inner = format!(
        "protocol bgp edge1 from fairway {{ local {} as {OURS}; neighbor {} as {OURS}; direct; }}\n",
        router(1),
        edge(1)
    );
    let bird = Bird::start(&site.router, ID, &inner)?;
    let tor = peer("tor", OURS, router(1), "");
    let announce = "{bgp: {communities: [\"64512:7\", \"large:64512:1:2\"], localPreference: 150, \
                    aggregationLength: 28}}";
    let one = fairway(site.edge(1)?, announce, &[&tor])?;
    bird.established("edge1")?;
    bird.reaches(vip(1), &[edge(1)])?;
    let shown = bird.ask(&["show", "route", "for", "203.0.113.1", "all"])?;
    for word in [
        "203.0.113.0/28",
        "BGP.local_pref: 150",
        "(64512,7)",
        "(64512, 1, 2)",
    ] {
        ensure!(shown.contains(word), "{word}: {shown}");
    }
    one.explains("default/web", &["203.0.113.0/28 is announced"])?;
    // Of a gateway that drains it is the last choice, until that ends.
    let drain = ["drain", "edge-1", "--admin", ":9901"];
    for (undo, preference, is_last) in [(&[][..], "0", true), (&["--undo"], "150", false)] {
        one.cli_output(&[&drain[..], undo].concat())?;
        wait::until_some("the router is told", || {
            let shown = bird.ask(&["show", "route", "for", "203.0.113.1", "all"])?;
            ensure!(
                shown.contains(&format!("BGP.local_pref: {preference}\n")),
                "{shown}"
            );
            ensure!(shown.contains("(65535,0)") == is_last, "{shown}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}

fn a_router_with_ttl_security_over_ipv6_learns_ipv4_by_an_ipv6_next_hop() -> Result<()> {
    let site = RoutedSite::new(1)?;
    // The gateway's link has no IPv4 address.
    site.edge(1)?
        .host
        .ip(&format!("address del {}/24 dev up", edge(1)))?;
    let session6 = format!(
        "protocol bgp edge1 {{ local {} as {THEIRS}; neighbor {} as {OURS}; ttl security on; \
         connect delay time 1; error wait time 1, 2; \
         ipv4 {{ import all; export none; extended next hop on; }}; \
         ipv6 {{ import all; export none; }}; }}\n",
        router6(1),
        edge6(1)
    );
    let bird = Bird::start(&site.router, ID, &session6)?;
    let tor = peer("tor", THEIRS, router6(1), "");
    let one = fairway(site.edge(1)?, "{bgp: {}}", &[&tor])?;
    bird.reaches(vip6(1), &[edge6(1)])?;
    bird.reaches(vip(1), &[edge6(1)])?;
    peer_is(&one, "tor", "Established", &["\"prefixes\":2"])
}

fn with_ttl_security_only_a_router_on_the_link_is_heard() -> Result<()> {
    let site = RoutedSite::new(1)?;
    // A BIRD without TTL security sends with a TTL of 1, as from far away.
    let v6 = |more: &str| {
        format!(
            "protocol bgp edge6 from fairway {{ local {} as {THEIRS}; neighbor {} as {OURS}; {more} }}\n",
            router6(1),
            edge6(1)
        )
    };
    let bird = Bird::start(&site.router, ID, &(session(1, "") + &v6("")))?;
    let peers = |more: &str| {
        [
            peer("tor", THEIRS, router(1), more),
            peer("tor6", THEIRS, router6(1), more),
        ]
    };
    let [tor, tor6] = peers("ttlSecurity: true");
    let one = fairway(site.edge(1)?, "{bgp: {}}", &[&tor, &tor6])?;
    let dropped = || {
        let counts = site
            .edge(1)?
            .host
            .run(|| clients::output("nstat", &["-asz", "TcpExtTCPMinTTLDrop"]))?;
        let line = counts.lines().find(|line| line.contains("MinTTLDrop"));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        Ok::<u64, anyhow::Error>(count.context("no such count")?.parse()?)
    };
    for name in ["tor", "tor6"] {
        peer_is(&one, name, "OpenSent", &["ttlSecurity"])?;
    }
    wait::until_some("what comes with a low TTL is dropped", || {
        let count = dropped()?;
        ensure!(count > 6, "{count}");
        Ok(())
    })?;
    for row in one.list("peers")? {
        ensure!(text(&row, "state") == "OpenSent", "{row}");
    }
    // Without it they are heard, and so they are with it on both sides.
    let heard = |peers: [String; 2]| {
        one.write("peers.yaml", &all(&[&peers[0], &peers[1]]))?;
        for name in ["tor", "tor6"] {
            peer_is(&one, name, "Established", &["\"prefixes\":2"])?;
        }
        Ok::<(), anyhow::Error>(())
    };
    heard(peers(""))?;
    bird.configure(
        ID,
        &(session(1, "ttl security on;") + &v6("ttl security on;")),
    )?;
    heard(peers("ttlSecurity: true"))
}

fn a_router_without_an_address_is_found_on_its_link() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let unnumbered = format!(
        "protocol radv {{ interface \"e1\" {{ max ra interval 4; }}; }}\n\
         protocol bgp tor {{ local as {THEIRS}; neighbor range fe80::/10 as {OURS}; interface \"e1\"; \
         dynamic name \"edge\"; hold time 9; connect delay time 1; error wait time 1, 2; \
         ipv4 {{ import all; export none; extended next hop on; }}; \
         ipv6 {{ import all; export none; }}; }}\n"
    );
    let bird = Bird::start(&site.router, ID, &unnumbered)?;
    let tor = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\n\
         spec: {{myASN: {OURS}, dynamicASN: external, interface: up, holdTime: 9s, connectTime: 2s}}\n"
    );
    let one = fairway(site.edge(1)?, "{bgp: {}}", &[&tor])?;
    bird.reaches(vip(1), &[edge(1)])?;
    bird.reaches(vip6(1), &[edge6(1)])?;
    peer_is(&one, "tor", "Established", &["64513", "\"up\""])
}

fn frr_learns_addresses_and_leaves_a_frozen_gateway() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let neighbor = edge(1);
    let frr = Frr::start(
        &site.router,
        &format!(
            "router bgp {THEIRS}\n bgp router-id {ID}\n no bgp ebgp-requires-policy\n \
             neighbor {neighbor} remote-as {OURS}\n neighbor {neighbor} bfd\n \
             neighbor {neighbor} password right\n neighbor {neighbor} timers connect 1\n \
             address-family ipv6 unicast\n  neighbor {neighbor} activate\n exit-address-family\n"
        ),
    )?;
    let mut one = started(&site, 1, "bfd: {}, password: right")?;
    let (v4, v6) = (
        "show bgp ipv4 unicast 203.0.113.1/32",
        "show bgp ipv6 unicast 2001:db8:f::1/128",
    );
    frr.says(v4, &["198.18.1.2", "valid", "best"])?;
    frr.says(v6, &["2001:db8:18:1::2", "valid", "best"])?;
    frr.says("show bfd peers", &["Status: up"])?;
    peer_is(
        &one,
        "tor",
        "Established",
        &["\"bfd\":\"Up\"", "\"prefixes\":2"],
    )?;
    let began = Instant::now();
    one.process()?.signal(Signal::STOP)?;
    frr.says(v4, &["not in table"])?;
    let took = began.elapsed();
    println!("frozen, FRR: {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(3), "{took:?}");
    one.process()?.signal(Signal::CONT)?;
    frr.says(v4, &["198.18.1.2", "valid", "best"])
}

fn gobgp_learns_both_families_of_two_gateways() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let neighbours = [edge(1), edge(2)];
    let gobgp = GoBgp::start(&site.router, (ID, THEIRS), &neighbours, (OURS, "right"))?;
    let announce = "{bgp: {communities: [\"64512:7\", \"large:64512:1:2\"]}}";
    let mut gateways = Vec::new();
    for n in 1..=2 {
        let tor = peer("tor", THEIRS, router(n), "password: right");
        gateways.push(fairway(site.edge(n)?, announce, &[&tor])?);
    }
    let (v4, v6) = ("203.0.113.1/32", "2001:db8:f::1/128");
    // AS_PATH, the community 64512:7, and the large one.
    let words = ["64512", "4227858439", "\"LocalData1\":1"];
    gobgp.learns(v4, &[edge(1), edge(2)], &words)?;
    gobgp.learns(v6, &[edge6(1), edge6(2)], &words)?;
    // Without endpoints, one has nothing to tell.
    gateways[0].remove("endpoints.yaml")?;
    gobgp.learns(v4, &[edge(2)], &words)?;
    gobgp.learns(v6, &[edge6(2)], &words)?;
    peer_is(&gateways[0], "tor", "Established", &["\"prefixes\":0"])?;
    gateways[0].write("endpoints.yaml", &endpoints())?;
    gobgp.learns(v4, &[edge(1), edge(2)], &words)?;
    gateways[1].process()?.signal(Signal::KILL)?;
    gobgp.learns(v4, &[edge(1)], &words)?;
    gobgp.learns(v6, &[edge6(1)], &words)
}

fn rough_routers_harm_nobody() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let bird = Bird::start(&site.router, ID, &session(1, "bfd on;"))?;
    let place = |n: u8| IpAddr::from(Ipv4Addr::new(198, 18, 1, 100 + n));
    let all_rough = [
        Roughness::Closes,
        Roughness::Garbage,
        Roughness::Deaf,
        // They never end.
        Roughness::FullTable(usize::MAX),
        Roughness::Refreshes,
    ];
    let mut routers = Vec::new();
    let mut peers = vec![peer("tor", THEIRS, router(1), "bfd: {}")];
    for (n, roughness) in (1..).zip(all_rough) {
        site.router.addresses("e1", &[(place(n), 24)])?;
        routers.push(RoughRouter::start(
            &site.router,
            at(place(n), 1179),
            roughness,
        )?);
        peers.push(peer(
            &format!("rough-{n}"),
            64_666,
            place(n),
            "peerPort: 1179",
        ));
    }
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    let mut one = fairway(site.edge(1)?, "{bgp: {}}", &peers)?;
    bird.reaches(vip(1), &[edge(1)])?;
    let [closes, garbage, _, full, _] = &routers[..] else {
        bail!("five routers");
    };
    for name in ["rough-4", "rough-5"] {
        peer_is(&one, name, "Established", &[])?;
    }
    wait::until("a router sends without an end", || full.sent() > 10)?;
    // What is received has a share of a processor.
    let process = one.process()?;
    let (before, began) = (process.ran("fairway-bgp")?, Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let ran = process.ran("fairway-bgp")? - before;
    let share = ran.as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "two routers that send without an end: {share:.2} of a processor, {} UPDATEs",
        full.sent()
    );
    ensure!(share < 0.4, "{share:.2} of a processor");
    wait::until("each was dialled more than once", || {
        closes.dialled() > 3 && garbage.dialled() > 3
    })?;
    peer_is(&one, "rough-1", "Idle", &["closed the connection"])?;
    peer_is(&one, "rough-2", "Idle", &["Connection Not Synchronized"])?;
    peer_is(&one, "rough-3", "Established", &[])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])?;
    let said = one.process()?.said();
    let lines = said
        .lines()
        .filter(|line| line.contains("no session with a router"));
    ensure!(lines.count() < 20, "a line for each attempt: {said}");
    Ok(())
}

fn a_full_table_takes_no_memory() -> Result<()> {
    // As many prefixes as the whole Internet has: 1,000 UPDATEs with a thousand each.
    const UPDATES: usize = 1000;
    let site = RoutedSite::new(1)?;
    let bird = Bird::start(&site.router, ID, &session(1, "bfd on;"))?;
    let tor = peer("tor", THEIRS, router(1), "bfd: {}");
    let one = fairway(site.edge(1)?, "{bgp: {}}", &[&tor])?;
    bird.reaches(vip(1), &[edge(1)])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])?;
    let memory = || one.metric("process_resident_memory_bytes", &[]);
    let before = memory()?;
    let place = Ipv4Addr::new(198, 18, 1, 101).into();
    site.router.addresses("e1", &[(place, 24)])?;
    let full = RoughRouter::start(&site.router, at(place, 1179), Roughness::FullTable(UPDATES))?;
    let full_peer = peer("full", 64_666, place, "peerPort: 1179");
    one.write("peers.yaml", &all(&[&tor, &full_peer]))?;
    let received = || {
        let labels = ["peer=\"full\"", "direction=\"receive\""];
        one.metric("fairway_bgp_updates_total", &labels)
    };
    wait::until_some("all UPDATEs came", || match received()? {
        count if count >= UPDATES as f64 => Ok(()),
        count => bail!("{count} of {}", full.sent()),
    })?;
    let grown = (memory()? - before) / f64::from(1 << 20);
    println!(
        "memory grew by {grown:.1} MiB for {} prefixes",
        UPDATES * 1000
    );
    ensure!(grown < 16.0, "{grown} MiB");
    // And the other session has noticed nothing.
    let rows = one.get("/api/v1/peers")?.body;
    ensure!(!rows.contains("BFD hears nothing"), "{rows}");
    peer_is(&one, "full", "Established", &[])?;
    peer_is(&one, "tor", "Established", &["\"bfd\":\"Up\""])
}
