//! A new process takes over from an old one that announces by BGP, or holds routes of the kernel. No router notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::lab::Host;
use fairway_integration::load::Load;
use fairway_integration::manifest::all;
use fairway_integration::routers::noticed::{BfdWatch, BirdKnows, RouteWatch, link};
use fairway_integration::routers::routed::{
    ID, OURS, RoutedSite, THEIRS, edge, edge6, endpoints, fairway, peer, peer_is, router, router6,
    session, started, web,
};
use fairway_integration::routers::{Bird, Frr, GoBgp, kernel_table};
use fairway_integration::site::{at, vip, vip6};
use fairway_integration::upgrade::UPGRADE;
use fairway_integration::upgrade::line::{
    AnnouncedAfter, ProcessLine, counted, kill, moment, rounds, seed, spread,
};
use fairway_integration::{clients, tests, wait};
use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value;

tests![
    a_router_notices_nothing_of_several_upgrades,
    sessions_with_other_settings_end_with_a_word_and_others_go_on,
    what_a_kill_of_either_process_does_to_a_session_is_what_that_one_carried_alone,
    routes_of_the_kernel_stay_through_upgrades_and_go_with_the_last_process,
    what_a_kill_of_either_process_does_to_routes_is_what_that_one_carried_alone,
    frr_notices_nothing_of_upgrades,
    gobgp_notices_nothing_of_upgrades,
    a_session_with_a_router_that_was_found_on_its_link_goes_on,
    a_router_that_has_no_session_gets_one_with_the_new_process,
];

/// How long two packets of BFD may be apart: they are at most 100 ms apart, and a router waits for 300.
const GAP: Duration = Duration::from_millis(200);

/// The session over IPv6 at BIRD.
fn session6(more: &str) -> String {
    format!(
        "protocol bgp edge6 from fairway {{ local {} as {THEIRS}; neighbor {} as {OURS}; {more} }}\n",
        router6(1),
        edge6(1)
    )
}

/// Waits until BIRD has learnt both addresses by both sessions, and BFD is up.
fn settled(bird: &Bird, gateway: &Fairway) -> Result<()> {
    for name in ["tor", "tor6"] {
        let words = ["\"prefixes\":2", "\"bfd\":\"Up\""];
        peer_is(gateway, name, "Established", &words)?;
    }
    bird.reaches(vip(1), &[edge(1)])?;
    bird.reaches(vip6(1), &[edge6(1)])
}

fn a_router_notices_nothing_of_several_upgrades() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let sessions = session(1, "bfd on; password \"right\";") + &session6("bfd on;");
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let peers = [
        peer("tor", THEIRS, router(1), "bfd: {}, password: right"),
        peer("tor6", THEIRS, router6(1), "bfd: {}"),
    ];
    let mut gateway = fairway(site.edge(1)?, "{bgp: {}}", &[&peers[0], &peers[1]])?;
    settled(&bird, &gateway)?;
    let load = Load::start(&site.client, at(vip(1), 80), Duration::from_millis(5))?;
    let mut old = site.client.run(|| clients::connect_tcp(at(vip(1), 80)))?;
    clients::ask(&mut old, "who")?;
    wait::until("clients are answered", || load.ended() > 20)?;
    load.take();
    let known = || BirdKnows::ask(&bird, &["edge1", "edge6"]);
    let (before, since) = (known()?, since(&gateway)?);
    let routes = RouteWatch::start(&site.router)?;
    let bfd = BfdWatch::start(&site.router, "e1")?;
    for round in 0..6 {
        gateway.upgrade()?;
        settled(&bird, &gateway)?;
        let (gap, count, not_up) = bfd.take();
        println!("upgrade {round}: at most {gap:?} between two of {count} packets of BFD");
        ensure!(not_up == 0, "{not_up} packets say that BFD is not up");
        ensure!(gap < GAP, "a gap of {gap:?}");
        same_since(&since, &self::since(&gateway)?)?;
        before.same(&known()?)?;
        ensure!(routes.changes().is_empty(), "{:?}", routes.changes());
        clients::ask(&mut old, "who")?;
    }
    load.settle()?;
    let tally = load.take();
    println!("{} answered", tally.good);
    ensure!(tally.bad.is_empty(), "{:?}", tally.bad);
    stays(|| before.same(&known()?))?;
    // What changes is told as ever, and a process that freezes is left.
    gateway.remove("endpoints.yaml")?;
    bird.reaches(vip(1), &[])?;
    gateway.write("endpoints.yaml", &endpoints())?;
    settled(&bird, &gateway)?;
    gateway.process()?.signal(Signal::STOP)?;
    bird.reaches(vip(1), &[])?;
    gateway.process()?.signal(Signal::CONT)?;
    settled(&bird, &gateway)
}

/// What a router knows stays the same for longer than the hold time of nine seconds.
fn stays(same: impl Fn() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(11) {
        same()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Since when sessions are established, as the gateway says.
fn since(gateway: &Fairway) -> Result<Vec<i64>> {
    let rows = gateway.list("peers")?;
    let seconds = rows.iter().map(|row| {
        let since: fairway_config::time::Timestamp = text(row, "since").parse()?;
        Ok(since.0)
    });
    seconds.collect()
}

/// Whether these are the same times, but for what is lost where seconds are rounded.
fn same_since(before: &[i64], after: &[i64]) -> Result<()> {
    let is_same = |(one, other): (&i64, &i64)| one.abs_diff(*other) <= 1;
    let is_same = before.len() == after.len() && before.iter().zip(after).all(is_same);
    ensure!(is_same, "{before:?} {after:?}");
    Ok(())
}

/// Manifests in a folder of their own.
fn manifests(folder: &Path, announce: &str, peers: &[&str]) -> Result<PathBuf> {
    fs::create_dir(folder)?;
    for (name, text) in [
        ("web.yaml", web(announce)),
        ("endpoints.yaml", endpoints()),
        ("peers.yaml", all(peers)),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(folder.to_owned())
}

fn sessions_with_other_settings_end_with_a_word_and_others_go_on() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let sessions = session(1, "") + &session6("");
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let line = ProcessLine::new(&site.edge(1)?.host)?;
    let folders = tempfile::TempDir::with_prefix("fairway-manifests-")?;
    let tor = peer("tor", THEIRS, router(1), "");
    let tor6 = peer("tor6", THEIRS, router6(1), "");
    let hold_time = tor6.replace("holdTime: 9s", "holdTime: 12s");
    let router_id = hold_time.replace("holdTime", "routerID: 198.18.9.9, holdTime");
    let marked = "{bgp: {communities: [\"64512:7\"]}}";
    let steps: [(&str, Vec<&str>, &str); 5] = [
        ("{bgp: {}}", vec![&tor, &tor6], ""),
        (
            "{bgp: {}}",
            vec![&tor, &hold_time],
            "Other configuration change",
        ),
        (
            "{bgp: {}}",
            vec![&tor, &router_id],
            "Other configuration change",
        ),
        ("{bgp: {}}", vec![&tor], "Peer de-configured"),
        (marked, vec![&tor], ""),
    ];
    let mut running: Option<Fairway> = None;
    let mut first = None;
    for (number, (announce, peers, says)) in steps.into_iter().enumerate() {
        let folder = manifests(&folders.path().join(number.to_string()), announce, &peers)?;
        let heard = bird.said().len();
        let next = line.started(&folder)?;
        if let Some(mut before) = running.take() {
            next.logs(&["session with a router goes on peer=tor "])?;
            let status = before.process()?.wait(UPGRADE)?;
            ensure!(status.success(), "{status}");
        }
        for name in ["tor", "tor6"].into_iter().take(peers.len()) {
            peer_is(&next, name, "Established", &["\"prefixes\":2"])?;
        }
        bird.reaches(vip(1), &[edge(1)])?;
        wait::until_some("the router knows", || {
            let said = bird.said();
            let said = said.get(heard..).unwrap_or_default();
            let is_told = says.is_empty() || said.contains(&format!("edge6: Received: {says}"));
            ensure!(is_told && !said.contains("edge1: "), "{said}");
            let shown = bird.ask(&["show", "route", "for", "203.0.113.1", "all"])?;
            ensure!(
                shown.contains("(64512,7)") == (announce == marked),
                "{shown}"
            );
            Ok(())
        })?;
        let knows = BirdKnows::ask(&bird, &["edge1"])?;
        let (state, since) = knows.first_session();
        println!("{state} {since:?}");
        let since = since.context("no time")?;
        let is_same = first.get_or_insert(since).abs_diff(since) <= 10;
        ensure!(is_same && state.contains("up"), "{state} {since} {first:?}");
        running = Some(next);
    }
    Ok(())
}

fn what_a_kill_of_either_process_does_to_a_session_is_what_that_one_carried_alone() -> Result<()> {
    let seed = seed();
    println!("seed {seed}");
    let site = RoutedSite::new(1)?;
    let bird = Bird::start(&site.router, ID, &session(1, "bfd on;"))?;
    let line = ProcessLine::new(&site.edge(1)?.host)?;
    let folders = tempfile::TempDir::with_prefix("fairway-manifests-")?;
    let tor = peer("tor", THEIRS, router(1), "bfd: {}");
    let folder = manifests(&folders.path().join("all"), "{bgp: {}}", &[&tor])?;
    let mut gateway = line.started(&folder)?;
    let settle = |gateway: &mut Fairway| {
        let words = ["\"prefixes\":2", "\"bfd\":\"Up\""];
        peer_is(gateway, "tor", "Established", &words)?;
        bird.reaches(vip(1), &[edge(1)])
    };
    settle(&mut gateway)?;
    let known = || BirdKnows::ask(&bird, &["edge1"]);
    let mut before = known()?;
    let mut outcomes = Vec::new();
    for number in 0..rounds() {
        let (kills_old, after) = moment(spread(seed + number));
        let outcome;
        let goes_on = "session with a router goes on";
        (gateway, outcome) = kill(&line, gateway, (kills_old, after), goes_on, settle)?;
        let now = known()?;
        println!("old {kills_old}, after {after:?}: {outcome:?}");
        if outcome == AnnouncedAfter::Stays {
            let same = before.same(&now);
            same.with_context(|| format!("old {kills_old}, after {after:?}"))?;
        }
        before = now;
        outcomes.push((kills_old, outcome));
    }
    // Two that write on one connection write what is no message.
    let said = bird.said();
    let is_wrong = ["header", "Header", "synchronized", "Malformed", "Invalid"];
    ensure!(!is_wrong.iter().any(|it| said.contains(it)), "{said}");
    counted(&outcomes);
    Ok(())
}

fn table_has(host: &Host, count: usize) -> Result<()> {
    wait::until_some(&format!("the table has {count} routes"), || {
        let routes = kernel_table(host)?;
        ensure!(routes.len() == count, "{routes:?}");
        Ok(())
    })
}

/// The process that removes the routes of this one.
fn keeper(gateway: &mut Fairway) -> Result<Pid> {
    let of = gateway.process()?.id().to_string();
    wait::until_some("there is a keeper", || {
        let listed = clients::output("ps", &["--ppid", &of, "-o", "pid=,stat=,args="])?;
        let mut lines = listed.lines();
        let line = lines.find(|line| line.contains("keep-kernel-routes") && !line.contains(" Z"));
        let line = line.with_context(|| format!("no keeper: {listed}"))?;
        let number = line.split_whitespace().next().context("no number")?;
        Pid::from_raw(number.parse()?).context("no process")
    })
}

const ROUTES: &str = "{routes: kernel}";

fn host_bird(host: &Host) -> Result<Bird> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let example = root.join("deploy/examples/kernel-routes/bird.conf");
    Bird::with_configuration(host, &fs::read_to_string(example)?)
}

fn routes_of_the_kernel_stay_through_upgrades_and_go_with_the_last_process() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let tor = Bird::start(&site.router, ID, &session(1, ""))?;
    let host = &site.edge(1)?.host;
    let _of_host = host_bird(host)?;
    let mut gateway = fairway(site.edge(1)?, ROUTES, &[])?;
    tor.reaches(vip(1), &[edge(1)])?;
    tor.reaches(vip6(1), &[edge6(1)])?;
    table_has(host, 2)?;
    let interface = link(host, "fairway-routes")?;
    let before = BirdKnows::ask(&tor, &["edge1"])?;
    let load = Load::start(&site.client, at(vip(1), 80), Duration::from_millis(5))?;
    let watches = [RouteWatch::start(host)?, RouteWatch::start(&site.router)?];
    for round in 0..5 {
        let old = keeper(&mut gateway)?;
        gateway.upgrade()?;
        let new = keeper(&mut gateway)?;
        wait::until("the old keeper has ended", || {
            test_kill_process(old).is_err()
        })?;
        println!("upgrade {round}: {old:?}, {new:?}");
        let now = link(host, "fairway-routes")?;
        ensure!(now == interface, "{interface}\n{now}");
        before.same(&BirdKnows::ask(&tor, &["edge1"])?)?;
        gateway.explains("default/web", &["251 has a route to 203.0.113.1"])?;
        for watch in &watches {
            ensure!(watch.changes().is_empty(), "{:?}", watch.changes());
        }
    }
    load.settle()?;
    let tally = load.take();
    ensure!(tally.bad.is_empty(), "{:?}", tally.bad);
    drop(load);
    // All is as ever.
    gateway.remove("endpoints.yaml")?;
    table_has(host, 0)?;
    gateway.write("endpoints.yaml", &endpoints())?;
    table_has(host, 2)?;
    let stopped = keeper(&mut gateway)?;
    rustix::process::kill_process(stopped, Signal::STOP)?;
    wait::until_some("there is another keeper", || {
        ensure!(keeper(&mut gateway)? != stopped);
        Ok::<_, anyhow::Error>(())
    })?;
    table_has(host, 2)?;
    gateway.upgrade()?;
    gateway.process()?.signal(Signal::STOP)?;
    table_has(host, 0)?;
    gateway.process()?.signal(Signal::CONT)?;
    table_has(host, 2)?;
    // The last one is killed, and then both at once.
    gateway.upgrade()?;
    keeper(&mut gateway)?;
    gateway.kill();
    table_has(host, 0)?;
    gateway.restart()?;
    table_has(host, 2)?;
    gateway.upgrade()?;
    let both = keeper(&mut gateway)?;
    gateway.process()?.signal(Signal::STOP)?;
    rustix::process::kill_process(both, Signal::KILL)?;
    gateway.kill();
    table_has(host, 0)?;
    gateway.restart()?;
    table_has(host, 2)?;
    // A stop removes them.
    gateway.upgrade()?;
    gateway.stop()?;
    table_has(host, 0)
}

fn what_a_kill_of_either_process_does_to_routes_is_what_that_one_carried_alone() -> Result<()> {
    let seed = seed();
    println!("seed {seed}");
    let site = RoutedSite::new(1)?;
    let host = &site.edge(1)?.host;
    let line = ProcessLine::new(host)?;
    let folders = tempfile::TempDir::with_prefix("fairway-manifests-")?;
    let folder = manifests(&folders.path().join("all"), ROUTES, &[])?;
    let mut gateway = line.started(&folder)?;
    let settle = |gateway: &mut Fairway| {
        keeper(gateway)?;
        gateway.explains("default/web", &["251 has a route to 203.0.113.1"])?;
        table_has(host, 2)
    };
    settle(&mut gateway)?;
    let mut watch = RouteWatch::start(host)?;
    let mut outcomes = Vec::new();
    for number in 0..rounds() {
        let (kills_old, after) = moment(spread(seed + number));
        let outcome;
        let goes_on = "goes on with the kernel's routes";
        (gateway, outcome) = kill(&line, gateway, (kills_old, after), goes_on, settle)?;
        println!("old {kills_old}, after {after:?}: {outcome:?}");
        outcomes.push((kills_old, outcome));
        if outcome == AnnouncedAfter::Stays {
            let changes = watch.changes();
            // Those of this host's own table come and go with the process that serves.
            let changes: Vec<_> = changes.iter().filter(|it| it.contains("251")).collect();
            ensure!(
                changes.is_empty(),
                "old {kills_old}, after {after:?}: {changes:?}"
            );
        } else {
            watch = RouteWatch::start(host)?;
        }
    }
    counted(&outcomes);
    gateway.kill();
    table_has(host, 0)
}

fn frr_notices_nothing_of_upgrades() -> Result<()> {
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
    let mut gateway = started(&site, 1, "bfd: {}, password: right")?;
    frr.says(
        "show bgp ipv4 unicast 203.0.113.1/32",
        &["198.18.1.2", "valid", "best"],
    )?;
    frr.says(
        "show bgp ipv6 unicast 2001:db8:f::1/128",
        &["valid", "best"],
    )?;
    frr.says("show bfd peers", &["Status: up"])?;
    peer_is(
        &gateway,
        "tor",
        "Established",
        &["\"bfd\":\"Up\"", "\"prefixes\":2"],
    )?;
    let counts = || {
        let said = frr.ask(&format!("show bgp neighbors {neighbor} json"))?;
        let said: Value = serde_json::from_str(&said)?;
        let of = &said[neighbor.to_string()];
        let bfd = frr.ask("show bfd peers counters json")?;
        let bfd: Value = serde_json::from_str(&bfd)?;
        let bfd = &bfd[0];
        ensure!(of["connectionsEstablished"].is_u64(), "{said}");
        ensure!(bfd["session-down"].is_u64(), "{bfd}");
        let updates = &of["messageStats"]["updatesRecv"];
        Ok::<_, anyhow::Error>(format!(
            "{} {} {updates} {} {}",
            of["connectionsEstablished"],
            of["connectionsDropped"],
            bfd["session-up"],
            bfd["session-down"]
        ))
    };
    let before = counts()?;
    println!("{before}");
    for round in 0..3 {
        gateway.upgrade()?;
        peer_is(
            &gateway,
            "tor",
            "Established",
            &["\"bfd\":\"Up\"", "\"prefixes\":2"],
        )?;
        let now = counts()?;
        ensure!(now == before, "upgrade {round}: {now}, and {before} before");
    }
    stays(|| {
        let now = counts()?;
        ensure!(now == before, "{now}, and {before} before");
        Ok(())
    })
}

fn gobgp_notices_nothing_of_upgrades() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let gobgp = GoBgp::start(&site.router, (ID, THEIRS), &[edge(1)], (OURS, "right"))?;
    let tor = peer("tor", THEIRS, router(1), "password: right");
    let mut gateway = fairway(site.edge(1)?, "{bgp: {}}", &[&tor])?;
    let (v4, v6) = ("203.0.113.1/32", "2001:db8:f::1/128");
    gobgp.learns(v4, &[edge(1)], &[])?;
    gobgp.learns(v6, &[edge6(1)], &[])?;
    // When each path was learnt stands in it, and when the session began.
    let known = || {
        let neighbor: Value = serde_json::from_str(&gobgp.ask(&["neighbor", "-j"])?)?;
        let state = &neighbor[0]["timers"]["state"]["uptime"];
        let updates = &neighbor[0]["state"]["messages"]["received"]["update"];
        ensure!(!state.is_null() && !updates.is_null(), "{neighbor}");
        Ok::<_, anyhow::Error>(format!(
            "{state} {updates} {:?} {:?}",
            gobgp.ways(v4)?,
            gobgp.ways(v6)?
        ))
    };
    let before = known()?;
    for round in 0..3 {
        gateway.upgrade()?;
        peer_is(&gateway, "tor", "Established", &["\"prefixes\":2"])?;
        let now = known()?;
        ensure!(now == before, "upgrade {round}:\n{before}\n{now}");
    }
    Ok(())
}

fn a_session_with_a_router_that_was_found_on_its_link_goes_on() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let unnumbered = format!(
        "protocol radv {{ interface \"e1\" {{ max ra interval 4; }}; }}\n\
         protocol bgp tor {{ local as {THEIRS}; neighbor range fe80::/10 as {OURS}; interface \"e1\"; \
         dynamic name \"edge\"; hold time 9; connect delay time 1; error wait time 1, 2; bfd on; \
         ipv4 {{ import all; export none; extended next hop on; }}; \
         ipv6 {{ import all; export none; }}; }}\n"
    );
    let bird = Bird::start(&site.router, ID, &unnumbered)?;
    let tor = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\n\
         spec: {{myASN: {OURS}, dynamicASN: external, interface: up, holdTime: 9s, connectTime: 2s, \
         bfd: {{}}}}\n"
    );
    let mut gateway = fairway(site.edge(1)?, "{bgp: {}}", &[&tor])?;
    let settle = |gateway: &Fairway| {
        peer_is(
            gateway,
            "tor",
            "Established",
            &["\"bfd\":\"Up\"", "\"prefixes\":2"],
        )?;
        bird.reaches(vip(1), &[edge(1)])?;
        BirdKnows::ask(&bird, &["edge1"])
    };
    let before = settle(&gateway)?;
    for _ in 0..2 {
        gateway.upgrade()?;
        before.same(&settle(&gateway)?)?;
    }
    // It is looked for every five seconds.
    stays(|| before.same(&BirdKnows::ask(&bird, &["edge1"])?))
}

fn a_router_that_has_no_session_gets_one_with_the_new_process() -> Result<()> {
    let site = RoutedSite::new(1)?;
    // It knows another password, and BFD is there.
    let bird = Bird::start(&site.router, ID, &session(1, "bfd on; password \"right\";"))?;
    let mut gateway = started(&site, 1, "bfd: {}, password: wrong")?;
    peer_is(&gateway, "tor", "Idle", &["does not answer"])?;
    gateway.upgrade()?;
    peer_is(&gateway, "tor", "Idle", &["does not answer"])?;
    let right = peer("tor", THEIRS, router(1), "bfd: {}, password: right");
    gateway.write("peers.yaml", &right)?;
    peer_is(&gateway, "tor", "Established", &["\"bfd\":\"Up\""])?;
    let before = BirdKnows::ask(&bird, &["edge1"])?;
    gateway.upgrade()?;
    peer_is(&gateway, "tor", "Established", &["\"bfd\":\"Up\""])?;
    before.same(&BirdKnows::ask(&bird, &["edge1"])?)
}
