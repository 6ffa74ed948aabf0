//! Connections and flows that are silent, and peers that take nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, slice, slice_of};
use fairway_integration::servers::{mute, named, named_http, named_udp, talkative};
use fairway_integration::site::{Site, at, client, server};
use fairway_integration::{clients, tests, wait};

tests![
    connections_that_are_silent_for_too_long_end_and_others_go_on,
    an_edit_of_the_idle_time_is_for_connections_that_are_there,
    flows_live_as_long_as_the_annotation_says,
    a_client_that_takes_nothing_is_reset_and_one_that_waits_is_not,
    an_endpoint_that_takes_nothing_is_reset,
];

/// A Service with an idle time, or without.
fn service(name: &str, idle: Option<&str>, ports: &str) -> String {
    let idle = idle.map(|idle| format!("fairway.dev/timeout-idle: \"{idle}\""));
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, annotations: {{{}}}}}\n\
         spec: {{selector: {{app: {name}}}, type: LoadBalancer, ports: [{ports}]}}\n",
        idle.unwrap_or_default()
    )
}

const PLAIN: &str = "{port: 80, targetPort: 8080}";
const HTTP: &str = "{port: 80, targetPort: 8080, appProtocol: http}";

fn address(fairway: &Fairway, name: &str, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = fairway.address(&format!("default/{name}"))?.parse()?;
    Ok(at(ip, port))
}

/// When a connection ends of which nothing more is expected; a byte that comes is an error.
fn end_of(mut stream: TcpStream, limit: Duration) -> Result<Duration> {
    let began = Instant::now();
    stream.set_read_timeout(Some(limit))?;
    match stream.read(&mut [0; 1]) {
        Ok(0) => Ok(began.elapsed()),
        Ok(_) => anyhow::bail!("a byte came"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            anyhow::bail!("still open after {limit:?}")
        }
        Err(_) => Ok(began.elapsed()),
    }
}

fn timeouts(fairway: &Fairway, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    let found = fairway.metric("fairway_connection_timeouts_total", &[&reason]);
    found.unwrap_or(0.0)
}

fn connections_that_are_silent_for_too_long_end_and_others_go_on() -> Result<()> {
    let site = Site::new()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _web = named_http(&site.farm, &[("a", at(server(1), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        &service("plain", Some("3s"), PLAIN),
        &slice("plain", 8080, &[server(0)]),
        &service("web", Some("3s"), HTTP),
        &slice("web", 8080, &[server(1)]),
        &service("any", None, PLAIN),
        &slice("any", 8080, &[server(0)]),
    ]);
    for arguments in [&[] as &[&str], &["--no-steering"]] {
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
        fairway.write("all.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        let plain = address(&fairway, "plain", 80)?;
        let web = address(&fairway, "web", 80)?;
        let any = address(&fairway, "any", 80)?;
        site.client.run(|| -> Result<()> {
            let asked = |to: SocketAddr| -> Result<TcpStream> {
                let mut stream = clients::connect_tcp(to)?;
                clients::ask(&mut stream, "who")?;
                Ok(stream)
            };
            let mut busy = asked(plain)?;
            let mut free = asked(any)?;
            let silent: Vec<TcpStream> = (0..50).map(|_| asked(plain)).collect::<Result<_>>()?;
            let never = clients::connect_tcp(plain)?;
            let mut kept = clients::connect_tcp(web)?;
            clients::http_get_on(&mut kept, "web", "/")?;
            let began = Instant::now();
            let ends = std::thread::scope(|scope| -> Result<Vec<Duration>> {
                let handles: Vec<_> = silent
                    .into_iter()
                    .chain([never, kept])
                    .map(|stream| scope.spawn(|| end_of(stream, Duration::from_secs(15))))
                    .collect();
                // Meanwhile one says something every second.
                while began.elapsed() < Duration::from_secs(8) {
                    clients::ask(&mut busy, "who").context("the busy one")?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                let ends = handles.into_iter();
                let ends = ends.map(|handle| match handle.join() {
                    Ok(end) => end,
                    Err(_) => anyhow::bail!("a thread panicked"),
                });
                ends.collect()
            })?;
            for end in ends {
                let range = Duration::from_millis(2_700)..Duration::from_millis(6_000);
                ensure!(range.contains(&end), "{arguments:?}: ended after {end:?}");
            }
            clients::ask(&mut free, "who").context("without a limit")?;
            ensure!(end_of(busy, Duration::from_secs(15))? > Duration::from_secs(1));
            Ok(())
        })?;
        let count = timeouts(&fairway, "idle");
        ensure!(count == 53.0, "{count}");
        fairway.explains(
            "default/plain",
            &["connections end after 3s without a byte"],
        )?;
        fairway.stop()?;
    }
    Ok(())
}

fn an_edit_of_the_idle_time_is_for_connections_that_are_there() -> Result<()> {
    let site = Site::new()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let document = |idle: Option<&str>| {
        all(&[
            &edge_pool(),
            &service("plain", idle, PLAIN),
            &slice("plain", 8080, &[server(0)]),
        ])
    };
    let fairway = Fairway::start(&site.edge, &[("it.yaml", &document(Some("1h")))])?;
    let to = address(&fairway, "plain", 80)?;
    site.client.run(|| -> Result<()> {
        let asked = || -> Result<TcpStream> {
            let mut stream = clients::connect_tcp(to)?;
            clients::ask(&mut stream, "who")?;
            Ok(stream)
        };
        let old = asked()?;
        // Longer than the first check, so that the next one would be in more than half an hour.
        std::thread::sleep(Duration::from_secs(11));
        fairway.write("it.yaml", &document(Some("2s")))?;
        let end = end_of(old, Duration::from_secs(20))?;
        ensure!(end < Duration::from_secs(10), "ended after {end:?}");
        // And the other way.
        let mut young = asked()?;
        fairway.write("it.yaml", &document(None))?;
        fairway.explains("default/plain", &["takes traffic"])?;
        wait::until("there is no limit any more", || {
            fairway
                .cli_output(&["explain", "default/plain"])
                .is_ok_and(|said| !said.contains("without a byte"))
        })?;
        std::thread::sleep(Duration::from_secs(5));
        clients::ask(&mut young, "who").context("it was silent for 5 s")?;
        Ok(())
    })
}

fn flows_live_as_long_as_the_annotation_says() -> Result<()> {
    let site = Site::new()?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 5353))])?;
    let ports = "{name: one, port: 53, protocol: UDP, targetPort: 5353}, \
                 {name: two, port: 54, protocol: UDP, targetPort: 5353}";
    let manifests = all(&[
        &edge_pool(),
        &service("dns", Some("53=2s"), ports),
        &slice_of(
            "dns",
            &[("one", "UDP", 5353), ("two", "UDP", 5353)],
            &[server(0)],
        ),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    let flows = |port: u16| {
        let label = format!("port=\"{port}\"");
        fairway.metric("fairway_flows_active", &[&label]).ok()
    };
    let (short, long) = (address(&fairway, "dns", 53)?, address(&fairway, "dns", 54)?);
    let busy = site.client.run(|| -> Result<_> {
        for n in 0..20 {
            for to in [short, long] {
                clients::who_udp(Some(client(n % 10)), to)?;
            }
        }
        let busy = clients::udp(Some(client(11)), short)?;
        clients::who_on(&busy)?;
        Ok(busy)
    })?;
    ensure!(flows(53) == Some(21.0) && flows(54) == Some(20.0));
    let began = Instant::now();
    wait::until_within(
        Duration::from_secs(10),
        "the silent ones have ended",
        || {
            // One that speaks stays.
            let _ = clients::who_on(&busy);
            flows(53) == Some(1.0)
        },
    )?;
    let took = began.elapsed();
    ensure!(took > Duration::from_secs(1), "{took:?}");
    ensure!(flows(54) == Some(20.0), "of the other port");
    Ok(())
}

fn a_client_that_takes_nothing_is_reset_and_one_that_waits_is_not() -> Result<()> {
    let site = Site::new()?;
    let _flood = talkative(&site.farm, at(server(0), 8080))?;
    let _quiet = named(&site.farm, &[("a", at(server(1), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        &service("much", None, PLAIN),
        &slice("much", 8080, &[server(0)]),
        &service("quiet", None, PLAIN),
        &slice("quiet", 8080, &[server(1)]),
    ]);
    for arguments in [
        &["--reader-timeout", "3s"] as &[&str],
        &["--reader-timeout", "3s", "--no-steering"],
    ] {
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
        fairway.write("all.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        let much = address(&fairway, "much", 80)?;
        let quiet = address(&fairway, "quiet", 80)?;
        site.client.run(|| -> Result<()> {
            let mut waiting = clients::connect_tcp(quiet)?;
            clients::ask(&mut waiting, "who")?;
            let mut slow = clients::connect_tcp(much)?;
            let lazy: Vec<TcpStream> = (0..20)
                .map(|_| clients::connect_tcp(much))
                .collect::<Result<_, _>>()?;
            let began = Instant::now();
            let mut buffer = vec![0; 1 << 20];
            wait::until_within(Duration::from_secs(40), "all lazy ones are reset", || {
                // Slow is not lazy.
                let _ = slow.read(&mut buffer);
                std::thread::sleep(Duration::from_millis(200));
                timeouts(&fairway, "client") == 20.0
            })?;
            let took = began.elapsed();
            println!("{arguments:?}: {took:?}");
            ensure!(took > Duration::from_secs(2), "{took:?}");
            for mut stream in lazy {
                let end = loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => anyhow::bail!("that was no reset"),
                        Ok(_) => {}
                        Err(error) => break error.kind(),
                    }
                };
                ensure!(end == ErrorKind::ConnectionReset, "{end:?}");
            }
            ensure!(slow.read(&mut buffer)? > 0, "the slow one");
            clients::ask(&mut waiting, "who").context("nothing waited for it")?;
            Ok(())
        })?;
        fairway.stop()?;
    }
    Ok(())
}

fn an_endpoint_that_takes_nothing_is_reset() -> Result<()> {
    let site = Site::new()?;
    let _mute = mute(&site.farm, at(server(0), 8080))?;
    let manifests = all(&[
        &edge_pool(),
        &service("mute", None, PLAIN),
        &slice("mute", 8080, &[server(0)]),
    ]);
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--reader-timeout", "2s"]);
    fairway.write("all.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    let to = address(&fairway, "mute", 80)?;
    site.client.run(|| -> Result<()> {
        let mut waiting = clients::connect_tcp(to)?;
        waiting.write_all(b"a")?;
        let mut stream = clients::connect_tcp(to)?;
        stream.set_write_timeout(Some(Duration::from_secs(40)))?;
        let block = vec![b'x'; 1 << 16];
        let began = Instant::now();
        let end = loop {
            if let Err(error) = stream.write_all(&block) {
                break error.kind();
            }
        };
        let took = began.elapsed();
        println!("reset after {took:?}");
        ensure!(
            matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{end:?}"
        );
        ensure!(took < Duration::from_secs(30), "{took:?}");
        // The endpoint's kernel has taken its byte: nothing waits.
        let is_open = end_of(waiting, Duration::from_secs(3)).is_err();
        ensure!(is_open, "the one that nothing waits for");
        Ok(())
    })?;
    ensure!(timeouts(&fairway, "endpoint") == 1.0);
    Ok(())
}
