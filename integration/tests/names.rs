//! Names that stand in for endpoints.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, slice_with};
use fairway_integration::servers::{Dnsmasq, named};
use fairway_integration::site::{EDGE_INSIDE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    an_external_name_follows_its_record,
    the_last_answer_stays_while_the_name_server_is_away,
    a_slice_of_names_is_resolved,
    a_name_that_points_inwards_is_refused,
    a_plain_external_name_service_is_listed_and_carries_nothing,
];

const NAME_SERVER: &str = "192.0.2.30:53";

fn by_name(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, annotations: \
         {{fairway.dev/external-name: {name}, fairway.dev/addresses: \"{}\"}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n",
        vip(1)
    )
}

fn start(site: &Site, manifests: &str) -> Result<Fairway> {
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--name-server", NAME_SERVER]);
    fairway.write("shop.yaml", manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

fn name_server(site: &Site, records: &[(&str, IpAddr)]) -> Result<Dnsmasq> {
    Dnsmasq::start(&site.farm, NAME_SERVER.parse()?, 1, records)
}

fn who(site: &Site) -> Option<String> {
    site.client.run(|| clients::who(at(vip(1), 80)).ok())
}

/// A site with the servers `a` and `b`, where the name `shop.test` is that of `a`.
fn shop_test() -> Result<(Site, Served, Dnsmasq)> {
    let site = Site::new()?;
    let place = [("a", at(server(0), 80)), ("b", at(server(1), 80))];
    let servers = named(&site.farm, &place)?;
    let dns = name_server(&site, &[("shop.test", server(0))])?;
    Ok((site, servers, dns))
}

fn an_external_name_follows_its_record() -> Result<()> {
    let (site, _servers, dns) = shop_test()?;
    let _fairway = start(&site, &all(&[&edge_pool(), &by_name("shop.test")]))?;
    wait::until("the name is resolved", || {
        who(&site).as_deref() == Some("a")
    })?;
    dns.set(&[("shop.test", server(1))])?;
    // Its time to live is one second.
    wait::until("the new answer is used", || {
        who(&site).as_deref() == Some("b")
    })
}

fn the_last_answer_stays_while_the_name_server_is_away() -> Result<()> {
    let (site, _servers, dns) = shop_test()?;
    let fairway = start(&site, &all(&[&edge_pool(), &by_name("shop.test")]))?;
    wait::until("the name is resolved", || {
        who(&site).as_deref() == Some("a")
    })?;
    drop(dns);
    // Longer than the record's time to live, and long enough for some attempts to fail.
    wait::always(Duration::from_secs(4), "the last answer is used", || {
        who(&site).as_deref() == Some("a")
    })?;
    fairway.says("default/shop", &["shop.test"])?;
    let _dns = name_server(&site, &[("shop.test", server(1))])?;
    // Between two attempts that fail there is up to half a minute.
    wait::until("the name server is asked again", || {
        who(&site).as_deref() == Some("b")
    })
}

fn a_slice_of_names_is_resolved() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _dns = name_server(&site, &[("backend.test", server(0))])?;
    let service = format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: shop, annotations: {{fairway.dev/addresses: \"{}\"}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n",
        vip(1)
    );
    let slice = slice_with(
        "shop",
        &[("", "TCP", 8080)],
        &["{addresses: [\"backend.test\"]}"],
    );
    let _fairway = start(&site, &all(&[&edge_pool(), &service, &slice]))?;
    wait::until("the name is resolved", || {
        who(&site).as_deref() == Some("a")
    })
}

fn a_name_that_points_inwards_is_refused() -> Result<()> {
    let site = Site::new()?;
    // Something does answer there, so that dialling it would be seen.
    let inside = [
        ("loopback", at([127, 0, 0, 1].into(), 80)),
        ("host", at(EDGE_INSIDE, 80)),
    ];
    let _inside = named(&site.edge, &inside)?;
    let dns = name_server(&site, &[("shop.test", [127, 0, 0, 1].into())])?;
    let fairway = start(&site, &all(&[&edge_pool(), &by_name("shop.test")]))?;
    for (answer, word) in [
        (IpAddr::from([127, 0, 0, 1]), "loopback"),
        (EDGE_INSIDE, "this host"),
        ([169, 254, 169, 254].into(), "link-local"),
        (vip(7), "pool"),
    ] {
        dns.set(&[("shop.test", answer)])?;
        fairway.says("default/shop", &[&answer.to_string(), word])?;
        ensure!(who(&site).is_none(), "{answer} was dialled");
    }
    Ok(())
}

fn a_plain_external_name_service_is_listed_and_carries_nothing() -> Result<()> {
    let site = Site::new()?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\n\
                   spec: {type: ExternalName, externalName: shop.example.com}\n";
    let fairway = start(&site, &all(&[&edge_pool(), service]))?;
    let table = fairway.cli_output(&["get", "services"])?;
    let row = table
        .lines()
        .find(|line| line.contains("alias"))
        .unwrap_or_default();
    let columns: Vec<&str> = row.split_whitespace().collect();
    ensure!(
        columns.get(..6)
            == Some(&[
                "default",
                "alias",
                "ExternalName",
                "<none>",
                "shop.example.com",
                "<none>"
            ]),
        "{table}"
    );
    ensure!(fairway.list("listeners")?.is_empty());
    Ok(())
}
