//! Ports whose appProtocol is HTTP: balanced by request.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, service, slice};
use fairway_integration::servers::{Nginx, grpc_client, grpc_server, named_http, websocket_echo};
use fairway_integration::site::{Site, at, client, server};
use fairway_integration::{clients, tests, wait};
use serde_json::Value;

tests![
    requests_of_one_connection_are_balanced_and_connections_are_kept,
    affinity_holds_for_requests,
    the_server_learns_who_asks,
    http1_and_h2c_are_told_apart,
    grpc_passes_through_h2c,
    websockets_are_upgraded,
    failures_name_their_reason,
    a_request_is_tried_on_the_remaining_endpoints,
    large_bodies_arrive_whole,
    a_change_of_endpoints_counts_from_the_next_request,
    a_client_that_dribbles_its_request_is_cut_off,
    a_malformed_request_is_answered_400,
];

fn web(protocol: &str, more: &str, endpoints: &[IpAddr]) -> String {
    let spec = format!(
        "type: LoadBalancer, {more} ports: [{{port: 80, targetPort: 8080, appProtocol: {protocol}}}]"
    );
    all(&[
        &edge_pool(),
        &service("web", &spec),
        &slice("web", 8080, endpoints),
    ])
}

fn start(site: &Site, manifests: &str) -> Result<(Fairway, SocketAddr)> {
    let fairway = Fairway::start(&site.edge, &[("web.yaml", manifests)])?;
    let to = at(fairway.address("default/web")?.parse()?, 80);
    Ok((fairway, to))
}

/// What the servers saw of `n` requests on one connection of the client's.
fn requests(site: &Site, to: SocketAddr, n: usize, arguments: &[&str]) -> Result<Vec<Value>> {
    let url = format!("http://{to}/path");
    let mut all = vec!["-sS", "--fail", "-w", "\n"];
    all.extend(arguments);
    all.extend(std::iter::repeat_n(url.as_str(), n));
    let output = site.client.run(|| clients::output("curl", &all))?;
    let seen: Vec<Value> = output
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(seen.len() == n, "{output}");
    Ok(seen)
}

fn requests_of_one_connection_are_balanced_and_connections_are_kept() -> Result<()> {
    let site = Site::new()?;
    let servers = [("a", at(server(0), 8080)), ("b", at(server(1), 8080))];
    let _servers = named_http(&site.farm, &servers)?;
    let (_fairway, to) = start(&site, &web("http", "", &[server(0), server(1)]))?;
    let seen = requests(&site, to, 20, &[])?;
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &seen {
        *shares
            .entry(request["server"].as_str().unwrap_or_default())
            .or_default() += 1;
        ensure!(
            request["connection"] == 1,
            "a connection to the server was not kept: {request}"
        );
    }
    ensure!(
        shares == BTreeMap::from([("a", 10), ("b", 10)]),
        "{shares:?}"
    );
    Ok(())
}

fn affinity_holds_for_requests() -> Result<()> {
    let site = Site::new()?;
    let servers = [("a", at(server(0), 8080)), ("b", at(server(1), 8080))];
    let _servers = named_http(&site.farm, &servers)?;
    let (_fairway, to) = start(
        &site,
        &web(
            "http",
            "sessionAffinity: ClientIP,",
            &[server(0), server(1)],
        ),
    )?;
    let mut by_server = BTreeMap::new();
    for n in 0..10 {
        let interface = client(n).to_string();
        let seen = requests(&site, to, 4, &["--interface", &interface])?;
        let servers: Vec<&Value> = seen.iter().map(|request| &request["server"]).collect();
        ensure!(
            servers.windows(2).all(|two| two[0] == two[1]),
            "client {n}: {servers:?}"
        );
        *by_server.entry(servers[0].to_string()).or_insert(0) += 1;
    }
    ensure!(by_server.len() == 2, "all clients are on one endpoint");
    Ok(())
}

fn the_server_learns_who_asks() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    let (_fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    let interface = client(4).to_string();
    let forged = ["--interface", &interface, "-H", "X-Forwarded-Proto: https"];
    let seen = requests(&site, to, 1, &forged)?;
    let headers = &seen[0]["headers"];
    let chain = headers["x-forwarded-for"].as_str().unwrap_or_default();
    ensure!(
        chain.rsplit(", ").next() == Some(interface.as_str()),
        "{headers}"
    );
    ensure!(headers["x-forwarded-proto"] == "http", "{headers}");
    ensure!(headers["host"] == to.ip().to_string(), "{headers}");
    ensure!(seen[0]["path"] == "/path", "{}", seen[0]);
    Ok(())
}

fn http1_and_h2c_are_told_apart() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    for (protocol, version) in [("http", "HTTP/1.1"), ("kubernetes.io/h2c", "HTTP/2.0")] {
        let (_fairway, to) = start(&site, &web(protocol, "", &[server(0)]))?;
        for flag in ["--http1.1", "--http2-prior-knowledge"] {
            // One request a connection: curl 7.88 can't use an h2c one twice, whoever serves it.
            let seen = requests(&site, to, 1, &[flag])?;
            ensure!(
                seen[0]["version"] == version,
                "{protocol}, {flag}: {}",
                seen[0]
            );
        }
    }
    Ok(())
}

fn grpc_passes_through_h2c() -> Result<()> {
    let site = Site::new()?;
    let _grpc = grpc_server(&site.farm, 8080)?;
    let (_fairway, to) = start(
        &site,
        &web("kubernetes.io/h2c", "", &[server(0), server(1)]),
    )?;
    for case in [
        "empty_unary",
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "cancel_after_begin",
        "cancel_after_first_response",
        "status_code_and_message",
        "custom_metadata",
    ] {
        grpc_client(&site.client, to, case)?;
    }
    Ok(())
}

fn websockets_are_upgraded() -> Result<()> {
    let site = Site::new()?;
    let _echo = websocket_echo(&site.farm, at(server(0), 8080))?;
    for protocol in ["http", "kubernetes.io/ws"] {
        let (_fairway, to) = start(&site, &web(protocol, "", &[server(0)]))?;
        let url = format!("ws://{to}/chat");
        for text in ["hello", &"long ".repeat(100_000)] {
            let answer = site
                .client
                .run(|| clients::websocket(&url, text))
                .context(protocol)?;
            ensure!(answer == text, "{} bytes came back", answer.len());
        }
    }
    Ok(())
}

fn failures_name_their_reason() -> Result<()> {
    let site = Site::new()?;
    let servers = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    let (fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    let mut kept = site.client.run(|| clients::connect_tcp(to))?;
    let response = clients::http_get_on(&mut kept, "web", "/")?;
    ensure!(response.status == 200, "{response:?}");
    // The server ends; its address refuses.
    drop(servers);
    let response = site.client.run(|| clients::http_get(to, "/"))?;
    ensure!(response.status == 502, "{response:?}");
    ensure!(
        response.header("x-fairway-error") == Some("connect_refused"),
        "{response:?}"
    );
    ensure!(response.body.contains("connect_refused"), "{response:?}");
    // No endpoint is left. Nobody is let in any more, and who is in is told so.
    fairway.write("web.yaml", &web("http", "", &[]))?;
    wait::until("nobody is let in", || {
        site.client.run(|| clients::http_get(to, "/").is_err())
    })?;
    let response = clients::http_get_on(&mut kept, "web", "/")?;
    ensure!(
        response.status == 503 && response.header("x-fairway-error") == Some("no_endpoint"),
        "{response:?}"
    );
    Ok(())
}

fn a_request_is_tried_on_the_remaining_endpoints() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(&site.farm, &[("good", at(server(0), 8080))])?;
    let (_fairway, to) = start(&site, &web("http", "", &[server(0), server(1), server(2)]))?;
    let seen = requests(&site, to, 10, &[])?;
    ensure!(
        seen.iter().all(|request| request["server"] == "good"),
        "{seen:?}"
    );
    Ok(())
}

fn large_bodies_arrive_whole() -> Result<()> {
    const SIZE: u64 = 30 << 20;
    let site = Site::new()?;
    let nginx = Nginx::start(&site.farm, at(server(0), 8080))?;
    let content: Vec<u8> = (0..SIZE / 8)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    std::fs::write(nginx.file("large"), &content)?;
    let (fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    let got = fairway.folder().join("got");
    let (got_text, url) = (got.to_string_lossy(), format!("http://{to}"));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = |arguments: &[&str]| {
            let arguments = [&["-sS", "--fail", "--max-time", "300", version], arguments].concat();
            site.client.run(|| clients::output("curl", &arguments))
        };
        curl(&["-o", &got_text, &format!("{url}/large")])?;
        ensure!(
            std::fs::read(&got)? == content,
            "{version}: the download differs"
        );
        curl(&["--upload-file", &got_text, &format!("{url}/copy")])?;
        ensure!(
            std::fs::read(nginx.file("copy"))? == content,
            "{version}: the upload differs"
        );
        std::fs::remove_file(nginx.file("copy"))?;
    }
    Ok(())
}

fn a_change_of_endpoints_counts_from_the_next_request() -> Result<()> {
    let site = Site::new()?;
    let servers = [("a", at(server(0), 8080)), ("b", at(server(1), 8080))];
    let _servers = named_http(&site.farm, &servers)?;
    let (fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    site.client.run(|| {
        let mut stream = clients::connect_tcp(to)?;
        // One connection of the client's all along.
        let mut ask = || -> Result<String> {
            let response = clients::http_get_on(&mut stream, "web", "/")?;
            let seen: Value = serde_json::from_str(&response.body)?;
            Ok(seen["server"].as_str().unwrap_or_default().to_owned())
        };
        ensure!(ask()? == "a");
        fairway.write("web.yaml", &web("http", "", &[server(1)]))?;
        wait::until("requests go to b", || {
            ask().is_ok_and(|server| server == "b")
        })
    })
}

fn a_client_that_dribbles_its_request_is_cut_off() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    let (_fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    site.client.run(|| {
        let mut stream = clients::connect_tcp(to)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: web\r\n")?;
        // A header line now and then, as slowloris sends them, so that no read times out.
        let start = Instant::now();
        wait::until("the connection is cut", || {
            let sent = stream.write_all(b"X-More: y\r\n");
            let mut buffer = [0; 256];
            let got = stream.read(&mut buffer);
            sent.is_err()
                || got.is_ok()
                || got.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        })?;
        ensure!(
            start.elapsed() > Duration::from_secs(5),
            "after {:?}",
            start.elapsed()
        );
        Ok(())
    })
}

fn a_malformed_request_is_answered_400() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    let (_fairway, to) = start(&site, &web("http", "", &[server(0)]))?;
    site.client.run(|| {
        for request in [
            "NONSENSE\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nBad Name: x\r\n\r\n",
        ] {
            let mut stream = clients::connect_tcp(to)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            // A reset after the answer is an end, too.
            let _ = stream.read_to_string(&mut answer);
            ensure!(
                answer.starts_with("HTTP/1.1 400"),
                "{request:?} was answered {answer:?}"
            );
        }
        // And the next one is served.
        ensure!(clients::http_get(to, "/")?.status == 200);
        Ok(())
    })
}
