//! `externalTrafficPolicy: Local` and addresses that are announced on layer 2: an address is where an endpoint is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::lan::announcers::Announcers as _;
use fairway_integration::lan::gateways::{self, LanGateways, announced_pool};
use fairway_integration::lan::network::{Lan, LanEdge, Snooping, vip};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::manifest::{all, load_balancer, slice, slice_with};
use fairway_integration::servers::named;
use fairway_integration::site::server;
use fairway_integration::{clients, tests, wait};
use rustix::process::Signal;
use serde_json::Value;

tests![an_address_is_where_a_service_of_policy_local_has_an_endpoint];

const WEB: u16 = 80;
const MAIL: u16 = 25;

/// How long an address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_secs(1);

/// Nodes, a pool with one address, and `web` there, with policy Local and endpoints on these Nodes.
fn manifests(lan: &Lan, web_on: &[&str], with_mail: bool) -> String {
    let shared = "annotations: {fairway.dev/sharing-key: one, ";
    let mut documents = vec![announced_pool(&[&vip(1).to_string()])];
    for LanEdge { name, number, .. } in &lan.edges {
        documents.push(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             status: {{addresses: [{{type: InternalIP, address: 198.19.0.{number}}}]}}\n"
        ));
    }
    let web = load_balancer("web", vip(1), WEB, gateways::TARGET);
    let web = web.replace("annotations: {", shared);
    documents.push(web.replace(
        "spec: {",
        "spec: {externalTrafficPolicy: Local, healthCheckNodePort: 30500, ",
    ));
    let endpoint = |node: &&str| format!("{{addresses: [\"{}\"], nodeName: {node}}}", server(0));
    let endpoints: Vec<_> = web_on.iter().map(endpoint).collect();
    documents.push(slice_with(
        "web",
        &[("", "TCP", gateways::TARGET)],
        &endpoints,
    ));
    if with_mail {
        let mail = load_balancer("mail", vip(1), MAIL, gateways::TARGET);
        documents.push(mail.replace("annotations: {", shared));
        documents.push(slice("mail", gateways::TARGET, &[server(0)]));
    }
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    all(&documents)
}

fn an_address_is_where_a_service_of_policy_local_has_an_endpoint() -> Result<()> {
    let lan = Lan::new(3, Snooping::Mld)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let mut gateways = LanGateways::start(&lan, &manifests(&lan, &["edge-2"], false))?;
    let observer = lan.observe(&[vip(1)], ASKED_EVERY)?;
    let owner = || -> Result<String> {
        let owners = observer.settled(&[vip(1)], SETTLED)?;
        let hardware = owners.get(&vip(1)).context("nobody has it")?;
        Ok(lan.edge_with(*hardware)?.name.clone())
    };
    let is_owned_by = |name: &str| {
        wait::until_some(&format!("{name} has the address"), || match owner()? {
            it if it == name => Ok(()),
            other => bail!("{other} has it"),
        })
    };
    let served = |port: u16| {
        let to = SocketAddr::new(vip(1), port);
        wait::until_some(&format!("a client is served at port {port}"), || {
            let who = lan.client.run(|| clients::who(to))?;
            ensure!(who == "farm", "{who}");
            anyhow::Ok(())
        })
    };
    fn tell(lan: &Lan, gateways: &mut LanGateways, web_on: &[&str], mail: bool) -> Result<()> {
        for edge in &lan.edges {
            let text = manifests(lan, web_on, mail);
            gateways.on(edge)?.write("all.yaml", &text)?;
        }
        Ok(())
    }

    is_owned_by("edge-2")?;
    served(WEB)?;
    let mut held = lan
        .client
        .run(|| clients::connect_tcp(SocketAddr::new(vip(1), WEB)))?;
    clients::ask(&mut held, "who")?;
    // The endpoint moves, and the address with it. A connection that was there goes on.
    tell(&lan, &mut gateways, &["edge-3"], false)?;
    is_owned_by("edge-3")?;
    served(WEB)?;
    clients::ask(&mut held, "who").context("a connection has ended that was there before")?;

    // Nobody has an endpoint: nobody owns the address, and it is said why.
    tell(&lan, &mut gateways, &["worker"], false)?;
    for edge in &lan.edges {
        let gateway = gateways.on(edge)?;
        wait::until_some("it is said why nobody owns the address", || {
            let rows = gateway.list("addresses")?;
            let row = rows.first().context("it is not listed")?;
            let says = row.to_string().contains("externalTrafficPolicy: Local");
            match row.get("state").and_then(Value::as_str) {
                Some("unowned") if says => Ok(()),
                _ => bail!("{row}"),
            }
        })?;
    }

    // Another Service at the address is served by any Node, and then goes where the first one has an endpoint.
    tell(&lan, &mut gateways, &["worker"], true)?;
    let first = owner()?;
    served(MAIL)?;
    let other = lan.edges.iter().find(|it| it.name != first);
    let other = other.context("there are three")?;
    tell(&lan, &mut gateways, &[&other.name], true)?;
    is_owned_by(&other.name)?;
    served(MAIL)?;
    served(WEB)?;

    // That Node dies: the others do not wait for its endpoint to be gone.
    gateways.signal(other, Signal::KILL)?;
    wait::until_some("another one has the address", || match owner()? {
        it if it != other.name => Ok(()),
        _ => bail!("it is where it was"),
    })?;
    served(MAIL)?;
    Ok(())
}
