//! `fairway drain` for endpoints of a gateway without a cluster: new connections go elsewhere, those that are open go on,
//! and it is kept until it is undone.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Output;
use std::thread;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice, slice_of, slice_with};
use fairway_integration::servers::{named, named_http, named_udp};
use fairway_integration::site::{Site, at, client, server, vip};
use fairway_integration::{clients, programs, tests, wait};
use serde_json::Value;

tests![
    new_connections_go_elsewhere_and_open_ones_go_on_until_it_is_undone,
    flows_go_on_and_new_ones_go_elsewhere,
    a_client_with_affinity_goes_elsewhere_and_the_last_one_is_not_drained,
    the_endpoints_of_a_node_are_drained_together,
    what_can_not_be_drained_is_refused,
    a_file_that_can_not_be_read_is_a_problem,
];

/// Where endpoints listen.
const PORT: u16 = 8080;

/// What the command printed, and how it ended.
fn said(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    let said = said.join("");
    ensure!(output.status.code() == Some(code), "not {code}: {output:?}");
    for word in words {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }
    Ok(said)
}

/// Three servers behind one Service, with what its spec begins with.
struct Bed {
    site: Site,
    fairway: Fairway,
    _servers: Served,
}

impl Bed {
    fn new(extra: &str, count: u8) -> Result<Self> {
        let site = Site::new()?;
        let servers: Vec<(String, SocketAddr)> = (0..count)
            .map(|n| (format!("server-{n}"), at(server(n), PORT)))
            .collect();
        let servers: Vec<_> = servers.iter().map(|(name, at)| (&**name, *at)).collect();
        let servers = named(&site.farm, &servers)?;
        let service = load_balancer("shop", vip(1), 80, PORT);
        let spec = format!("type: LoadBalancer, {extra}");
        let service = service.replace("type: LoadBalancer,", &spec);
        let endpoints: Vec<IpAddr> = (0..count).map(server).collect();
        let manifests = all(&[&edge_pool(), &service, &slice("shop", PORT, &endpoints)]);
        let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
        fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
        Ok(Self {
            site,
            fairway,
            _servers: servers,
        })
    }

    /// Who serves so many clients.
    fn served_by(&self, clients: usize) -> Result<BTreeSet<String>> {
        let who = || clients::who(at(vip(1), 80));
        let names = (0..clients).map(|_| Ok(self.site.client.run(who)?));
        names.collect()
    }

    fn row(&self, of: IpAddr) -> Result<Value> {
        let address = format!("{of}:{PORT}");
        let rows = self.fairway.list("endpoints")?;
        let row = rows
            .into_iter()
            .find(|row| text(row, "endpoint") == address);
        row.with_context(|| format!("{address} is not listed"))
    }
}

fn names(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|n| format!("server-{n}")).collect()
}

fn new_connections_go_elsewhere_and_open_ones_go_on_until_it_is_undone() -> Result<()> {
    let mut bed = Bed::new("", 2)?;
    // One that stays open, to the server that is to be drained.
    let mut open = loop {
        let mut stream = bed
            .site
            .client
            .run(|| clients::connect_tcp(at(vip(1), 80)))?;
        if clients::ask(&mut stream, "who")?.contains("server-0") {
            break stream;
        }
    };
    let address = server(0).to_string();
    let drain = ["drain", "--endpoint", &*address];
    let name = format!("{address}:{PORT} of default/shop (80/TCP)");
    let printed = bed.fairway.cli(&drain)?;
    said(
        &printed,
        0,
        &[&format!(
            "{name} gets no new connections: 1 connection is left."
        )],
    )?;
    ensure!(bed.served_by(40)? == names(&[1]));
    let row = bed.row(server(0))?;
    let (state, why) = (text(&row, "state"), text(&row, "why"));
    ensure!(state == "draining" && row["active"] == 1, "{row}");
    ensure!(text(&row, "draining").starts_with("20"), "{row}");
    ensure!(
        why.starts_with("is drained since 20") && why.ends_with("; connections left: 1"),
        "{why}"
    );
    let table = bed
        .fairway
        .cli_output(&["get", "endpoints", "-o", "wide"])?;
    ensure!(table.contains("draining"), "{table}");
    let drained = bed
        .fairway
        .metric("fairway_endpoints", &["state=\"draining\""])?;
    ensure!(drained == 1.0, "{drained}");
    bed.fairway
        .explains("default/shop", &["is drained since", "fairway drain"])?;
    ensure!(clients::ask(&mut open, "who")?.contains("server-0"));

    // In time there is one left, and it is waited for the end of it.
    let waiting = [&drain[..], &["--wait"]].concat();
    let limited = [&waiting[..], &["--timeout", "500ms"]].concat();
    said(
        &bed.fairway.cli(&limited)?,
        1,
        &["connections and flows left: 1"],
    )?;
    let printed = thread::scope(|scope| -> Result<Output> {
        let printed = scope.spawn(|| bed.fairway.cli(&waiting));
        wait::until("it is waited", || !printed.is_finished())?;
        ensure!(clients::ask(&mut open, "who")?.contains("server-0"));
        ensure!(!printed.is_finished(), "one is left");
        drop(open);
        printed.join().ok().context("it panicked")?
    })?;
    said(&printed, 0, &["No connection is left."])?;

    // It is kept, with its time.
    let since = text(&bed.row(server(0))?, "draining").to_owned();
    bed.fairway.restart()?;
    ensure!(bed.served_by(20)? == names(&[1]));
    let row = bed.row(server(0))?;
    ensure!(text(&row, "draining") == since, "{row}, and not {since}");

    let undo = [&drain[..], &["--undo"]].concat();
    said(
        &bed.fairway.cli(&undo)?,
        0,
        &[&format!("{name} may get new connections.")],
    )?;
    ensure!(bed.served_by(20)? == names(&[0, 1]));
    ensure!(bed.row(server(0))?.get("draining").is_none());
    said(&bed.fairway.cli(&undo)?, 1, &["is drained by that name"])?;
    bed.fairway.restart()?;
    ensure!(bed.served_by(20)? == names(&[0, 1]));
    bed.fairway.stop()
}

fn flows_go_on_and_new_ones_go_elsewhere() -> Result<()> {
    let site = Site::new()?;
    let servers = [("a", at(server(0), 53)), ("b", at(server(1), 53))];
    let _servers = named_udp(&site.farm, &servers)?;
    let service = load_balancer("dns", vip(1), 53, 53);
    let manifests = all(&[
        &edge_pool(),
        &service.replace("port: 53,", "port: 53, protocol: UDP,"),
        &slice_of("dns", &[("", "UDP", 53)], &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    fairway.says("default/dns", &["fairway.dev/Programmed=True"])?;
    site.client.run(|| -> Result<()> {
        let old: Vec<_> = (0..40)
            .map(|_| clients::udp(Some(client(0)), at(vip(1), 53)))
            .collect::<Result<_, _>>()?;
        let ask = |socket| clients::ask_udp(socket, "who");
        let before: Vec<_> = old.iter().map(ask).collect::<Result<_, _>>()?;
        let endpoint = at(server(0), 53).to_string();
        said(
            &fairway.cli(&["drain", "--endpoint", &endpoint])?,
            0,
            &["flows are left"],
        )?;
        let after: Vec<_> = old.iter().map(ask).collect::<Result<_, _>>()?;
        ensure!(before == after, "{before:?} and then {after:?}");
        ensure!(before.iter().any(|it| it.starts_with('a')), "{before:?}");
        for _ in 0..40 {
            let who = clients::who_udp(Some(client(0)), at(vip(1), 53))?;
            ensure!(who == "b", "{who}");
        }
        Ok(())
    })?;
    fairway.stop()
}

fn a_client_with_affinity_goes_elsewhere_and_the_last_one_is_not_drained() -> Result<()> {
    let mut bed = Bed::new("sessionAffinity: ClientIP, ", 2)?;
    let mine = bed.served_by(5)?;
    ensure!(mine.len() == 1, "{mine:?}");
    let (own, other) = match mine == names(&[0]) {
        true => (0, 1),
        false => (1, 0),
    };
    let drain = |n: u8| {
        let address = server(n).to_string();
        bed.fairway.cli(&["drain", "--endpoint", &address])
    };
    said(&drain(own)?, 0, &["gets no new connections"])?;
    ensure!(bed.served_by(5)? == names(&[other]));
    // Nobody would be left.
    let printed = drain(other)?;
    said(&printed, 1, &["gets new connections all the same"])?;
    let served = bed.served_by(5)?;
    ensure!(served.len() == 1, "{served:?}");
    let row = bed.row(server(other))?;
    ensure!(text(&row, "state") == "eligible", "{row}");
    ensure!(text(&row, "why").contains("no other one is ready"), "{row}");
    bed.fairway.explains(
        "default/shop",
        &["no ready endpoint but those that are drained"],
    )?;
    bed.fairway.stop()
}

fn the_endpoints_of_a_node_are_drained_together() -> Result<()> {
    let site = Site::new()?;
    let servers: Vec<(String, SocketAddr)> = (0..3)
        .map(|n| (format!("server-{n}"), at(server(n), PORT)))
        .collect();
    let servers: Vec<_> = servers.iter().map(|(name, at)| (&**name, *at)).collect();
    let _servers = named_http(&site.farm, &servers)?;
    let service = load_balancer("web", vip(1), 80, PORT);
    let service = service.replace("port: 80,", "port: 80, appProtocol: http,");
    let endpoint = |n: u8, node: &str| {
        let ip = server(n);
        format!("{{addresses: [\"{ip}\"], nodeName: {node}}}")
    };
    let endpoints = [endpoint(0, "one"), endpoint(1, "one"), endpoint(2, "two")];
    let slice = slice_with("web", &[("", "TCP", PORT)], &endpoints);
    let manifests = all(&[&edge_pool(), &service, &slice]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    fairway.says("default/web", &["fairway.dev/Programmed=True"])?;
    let served_by = || -> Result<BTreeSet<String>> {
        // One connection of a client with many requests: each is a new choice.
        site.client.run(|| {
            let mut stream = clients::connect_tcp(at(vip(1), 80))?;
            let names = (0..30).map(|_| {
                let answer = clients::http_get_on(&mut stream, "web", "/")?;
                let seen: Value = serde_json::from_str(&answer.body)?;
                Ok(text(&seen, "server").to_owned())
            });
            names.collect()
        })
    };
    ensure!(served_by()? == names(&[0, 1, 2]));
    let drain = ["drain", "--endpoints-on", "one"];
    let printed = said(&fairway.cli(&drain)?, 0, &["gets no new connections"])?;
    ensure!(printed.lines().count() == 2, "{printed}");
    ensure!(served_by()? == names(&[2]));
    // By its address one of them stays drained.
    let address = server(1).to_string();
    said(&fairway.cli(&["drain", "--endpoint", &address])?, 0, &[])?;
    let undo = [&drain[..], &["--undo"]].concat();
    said(&fairway.cli(&undo)?, 1, &["is drained still"])?;
    ensure!(served_by()? == names(&[0, 2]));
    fairway.stop()
}

fn what_can_not_be_drained_is_refused() -> Result<()> {
    let bed = Bed::new("", 2)?;
    let fairway = &bed.fairway;
    for (arguments, code, words) in [
        (
            &["--endpoint", "192.0.2.77"][..],
            1,
            "no Service has an endpoint with the address 192.0.2.77",
        ),
        (
            &["--endpoint", "192.0.2.11:81"],
            1,
            "no Service has an endpoint 192.0.2.11:81",
        ),
        (
            &["--endpoints-on", "nowhere"],
            1,
            "no Service has an endpoint on node nowhere",
        ),
        (&["--endpoint", "web"], 2, "is no IP address of an endpoint"),
        (
            &["--endpoint", "192.0.2.11", "edge"],
            2,
            "cannot be used with",
        ),
        (
            &["--endpoint", "192.0.2.11", "--simulate"],
            2,
            "cannot be used with",
        ),
        (&["edge", "--wait"], 2, "cannot be used with"),
        (&[], 2, "required"),
    ] {
        let all = [&["drain"], arguments].concat();
        said(&fairway.cli(&all)?, code, &[words])?;
    }
    // Another user of the host may look at everything, and move nothing.
    let program = programs::fairway()?.display().to_string();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    for (command, code, words) in [
        (&["get", "endpoints"][..], 0, "192.0.2.11:8080"),
        (
            &["drain", "--endpoint", "192.0.2.11"],
            1,
            "user 65534 may not move traffic",
        ),
    ] {
        let all = [&nobody, &[&*program][..], command].concat();
        said(
            &bed.site.edge.run(|| clients::run("setpriv", &all))?,
            code,
            &[words],
        )?;
    }
    ensure!(!fairway.state().join("drained.json").exists());

    // A gateway of a cluster says what is to be done there.
    let folder = fairway.folder().join("kubeconfig");
    fs::write(
        &folder,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{name: c, cluster: {server: \"http://127.0.0.1:9\"}}]\n\
         users: [{name: u, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n",
    )?;
    let mut member = Fairway::member(&bed.site.farm, "gateway", &folder)?;
    member.launch()?;
    wait::until("its admin address answers", || {
        member
            .get("/livez")
            .is_ok_and(|answer| answer.status == 200)
    })?;
    let refused = member.cli(&["drain", "--endpoint", "192.0.2.11"])?;
    said(
        &refused,
        1,
        &[
            "belongs to a cluster",
            "kubectl drain",
            "fairway.dev/weight",
        ],
    )?;
    member.kill();
    Ok(())
}

fn a_file_that_can_not_be_read_is_a_problem() -> Result<()> {
    let mut bed = Bed::new("", 2)?;
    bed.fairway.stop()?;
    let file = bed.fairway.state().join("drained.json");
    fs::write(&file, "[{]")?;
    bed.fairway.restart()?;
    ensure!(bed.served_by(20)? == names(&[0, 1]));
    bed.fairway.problem(&["drained.json", "can't be read"])?;
    let address = server(0).to_string();
    let refused = bed.fairway.cli(&["drain", "--endpoint", &address])?;
    said(&refused, 1, &["drained.json", "remove it"])?;
    ensure!(fs::read_to_string(&file)? == "[{]", "it is left as it is");
    bed.fairway.stop()
}
