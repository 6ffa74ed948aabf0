//! Clients that are far over a limit: what that costs others, and whom the kernel refuses.

use std::io::Read as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::bench::backend::{BenchServers, KEEPS};
use fairway_integration::bench::flood::flood;
use fairway_integration::bench::requests;
use fairway_integration::dual_stack::{PLAIN, addresses, pools, service};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{at, client, server};
use fairway_integration::{clients, wait};

use crate::bed::{hold, rejected, site};

pub(crate) fn a_refused_flood_reaches_no_worker_and_is_counted() -> Result<()> {
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let manifests = all(&[
        &pools(),
        &service("shop", &[("connections-per-client", "1")], PLAIN),
        &slice("shop", 8080, &[server(0)]),
        &service("other", &[], PLAIN),
        &slice("other", 8080, &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(addresses(&fairway, "shop")?[0], 80);
    let other = at(addresses(&fairway, "other")?[0], 80);
    let refused = site.client.run(|| -> Result<f64> {
        let _held = hold(client(1), to, false)?;
        let began = Instant::now();
        let (mut refused, mut early, mut others) = (0_u32, 0_u32, 0_u32);
        while began.elapsed() < Duration::from_secs(3) {
            refused += 1;
            match clients::connect_tcp_from(client(1), to) {
                // The kernel has answered the first packet.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => early += 1,
                Err(error) => return Err(error.into()),
                Ok(mut stream) => ensure!(!matches!(stream.read(&mut [0; 1]), Ok(1))),
            }
            if refused % 100 == 0 {
                clients::who_from(client(1), other).context("the same client elsewhere")?;
                // Its connection of a moment ago may still count: then it is refused, too.
                wait::until_some("another client", || {
                    clients::who_from(client(2), to).inspect_err(|_| others += 1)
                })?;
            }
        }
        println!("{refused} refused, {early} of them before they were accepted");
        // One in a second is accepted, and judged anew.
        ensure!(
            refused - early <= 12,
            "{} of {refused} were accepted",
            refused - early
        );
        Ok((refused + others).into())
    })?;
    wait::until_some("all are counted", || {
        let counted = rejected(&fairway, "shop", "connections_per_client");
        ensure!((counted - refused).abs() < 1.0, "{counted} of {refused}");
        Ok(())
    })?;
    fairway.explains(
        "default/shop",
        &["in the last minute", "over connections-per-client 1"],
    )
}

pub(crate) fn an_address_that_passes_to_another_service_takes_no_refusal_along() -> Result<()> {
    let site = site()?;
    let _plain = named(
        &site.farm,
        &[("a", at(server(0), 8080)), ("b", at(server(1), 8080))],
    )?;
    let document = |name: &str, limit: &str, endpoint: IpAddr| {
        let said = [
            ("connections-per-client", limit),
            ("addresses", "203.0.113.5"),
        ];
        all(&[
            &pools(),
            &service(name, &said, PLAIN).replace("PreferDualStack", "SingleStack"),
            &slice(name, 8080, &[endpoint]),
        ])
    };
    let fairway = Fairway::start(&site.edge, &[("it.yaml", &document("one", "1", server(0)))])?;
    let to = at("203.0.113.5".parse()?, 80);
    site.client.run(|| -> Result<()> {
        let _held = hold(client(1), to, false)?;
        for _ in 0..3 {
            ensure!(hold(client(1), to, false).is_err(), "a second");
        }
        fairway.write("it.yaml", &document("two", "2", server(1)))?;
        wait::until("the other Service has the address", || {
            // Still refused, or not any more: the kernel is told to go on refusing as long as that lasts.
            let _ = hold(client(1), to, false);
            clients::who_from(client(2), to).is_ok_and(|who| who == "b")
        })?;
        let who = clients::who_from(client(1), to)?;
        ensure!(who == "b", "{who}");
        Ok(())
    })
}

/// The short form of `cargo xtask bench limits`: only what is wrong by a wide margin fails here.
pub(crate) fn another_service_hardly_notices_a_flood_that_is_refused() -> Result<()> {
    const SPAN: Duration = Duration::from_secs(3);
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _backend = BenchServers::start(&site.farm, &[server(1)])?;
    let manifests = all(&[
        &pools(),
        &service("flooded", &[("connections-per-client", "1")], PLAIN),
        &slice("flooded", 8080, &[server(0)]),
        &service("other", &[], &PLAIN.replace("8080", &KEEPS.to_string())),
        &slice("other", KEEPS, &[server(1)]),
    ]);
    for arguments in [&[] as &[&str], &["--no-steering"]] {
        let mut fairway = Fairway::prepare(&site.edge)?
            .arguments(arguments)
            .log("warn");
        fairway.write("all.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        let to = at(addresses(&fairway, "flooded")?[0], 80);
        let other = at(addresses(&fairway, "other")?[0], 80);
        site.client.run(|| -> Result<()> {
            let _held = hold(client(1), to, false)?;
            let mut calm = requests::paced(other, 8, 200.0, SPAN)?;
            let (measured, flooded) = std::thread::scope(|scope| {
                let flooding = scope.spawn(|| flood(client(1), to, 3_000.0, SPAN));
                (requests::paced(other, 8, 200.0, SPAN), flooding.join())
            });
            let flooded = flooded.map_err(|_| anyhow::anyhow!("the flood panicked"))??;
            let (calm, hit) = (calm.latency(0.99), measured?.latency(0.99));
            println!("{arguments:?}: p99 {calm:?}, flooded {hit:?}; {flooded:?}");
            ensure!(flooded.served == 0 && flooded.lost == 0, "{flooded:?}");
            ensure!(flooded.begun > 1_000, "{flooded:?}");
            ensure!(
                hit < 10 * calm + Duration::from_millis(100),
                "{hit:?}, not {calm:?}"
            );
            Ok(())
        })?;
        fairway.stop()?;
    }
    Ok(())
}
