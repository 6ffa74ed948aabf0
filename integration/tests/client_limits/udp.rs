//! Limits of UDP flows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use fairway_integration::clients;
use fairway_integration::dual_stack::{addresses, client6, pools, service};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, slice_of};
use fairway_integration::servers::named_udp;
use fairway_integration::site::{at, client, server};

use crate::bed::{ELSEWHERE, rejected, site};

pub(crate) fn udp_flows_have_limits_of_their_own() -> Result<()> {
    let site = site()?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 5353))])?;
    let ports = "{name: dns, port: 53, protocol: UDP, targetPort: 5353}";
    let document = |name: &str, annotations: &[(&str, &str)]| {
        all(&[
            &service(name, annotations, ports),
            &slice_of(name, &[("dns", "UDP", 5353)], &[server(0)]),
        ])
    };
    let manifests = all(&[
        &pools(),
        &document("each", &[("udp-flows-per-client", "3")]),
        &document("all", &[("udp-flows", "53=5")]),
        &document("one", &[("udp-flows", "1")]),
        &document("other", &[]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    let asks = |from: IpAddr, to: SocketAddr| -> Result<bool> {
        let socket = clients::udp(Some(from), to)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send(b"who")?;
        Ok(socket.recv(&mut [0; 64]).is_ok())
    };
    for (mine, other, which) in [(client(1), client(2), 0), (client6(1), ELSEWHERE, 1)] {
        let to = at(addresses(&fairway, "each")?[which], 53);
        site.client.run(|| -> Result<()> {
            let held: Vec<_> = (0..3)
                .map(|_| clients::udp(Some(mine), to))
                .collect::<Result<_, _>>()?;
            for socket in &held {
                clients::who_on(socket)?;
            }
            for _ in 0..5 {
                ensure!(!asks(mine, to)?, "{to}: a fourth flow");
            }
            // The flows that are there go on, and another client has its own.
            for socket in &held {
                clients::who_on(socket)?;
            }
            ensure!(asks(other, to)?, "{to}: another client");
            Ok(())
        })?;
    }
    ensure!(rejected(&fairway, "each", "flows_per_client") >= 10.0);
    // Of the whole port: the newest stay, and another Service loses nothing.
    let to = at(addresses(&fairway, "all")?[0], 53);
    let elsewhere = at(addresses(&fairway, "other")?[0], 53);
    site.client.run(|| -> Result<()> {
        let neighbour = clients::udp(Some(client(3)), elsewhere)?;
        clients::who_on(&neighbour)?;
        let ports: BTreeSet<u16> = (0..40)
            .map(|n| {
                let socket = clients::udp(Some(client(4 + n % 20)), to)?;
                clients::who_on(&socket)?;
                Ok(socket.local_addr()?.port())
            })
            .collect::<Result<_>>()?;
        ensure!(!ports.is_empty());
        clients::who_on(&neighbour)?;
        Ok(())
    })?;
    let flows = |name: &str| {
        let label = format!("service=\"{name}\"");
        fairway.metric("fairway_flows_active", &[&label])
    };
    let (of_all, of_other) = (flows("all")?, flows("other")?);
    ensure!((4.0..=6.0).contains(&of_all), "{of_all} flows");
    ensure!(of_other == 1.0, "{of_other} flows of the other one");
    fairway.explains("default/all", &["5 flows"])?;
    // The flow that fills a port may be another worker's, and of another address than the one that comes.
    let both = addresses(&fairway, "one")?.map(|ip| at(ip, 53));
    site.client.run(|| -> Result<()> {
        for n in 0..20 {
            ensure!(asks(client(n), both[0])?, "client {n} by IPv4");
            ensure!(asks(client6(n.into()), both[1])?, "client {n} by IPv6");
        }
        Ok(())
    })?;
    let of_one = flows("one")?;
    let workers = std::thread::available_parallelism()?.get();
    ensure!(of_one <= 2.0 * workers as f64, "{of_one} flows");
    Ok(())
}
