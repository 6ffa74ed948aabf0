//! Who the client is: what servers are told, and what is believed of those before us.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use fairway_integration::dual_stack::{HTTP, PLAIN, addresses, client6, pools, service};
use fairway_integration::fairway::Fairway;
use fairway_integration::hostile::Random;
use fairway_integration::manifest::{all, slice};
use fairway_integration::servers::{Nginx, echo, named, named_http};
use fairway_integration::site::{Site, at, client, server};
use fairway_integration::{clients, programs, tests, wait};
use serde_json::Value;

tests![
    nginx_sees_the_client_by_either_version_and_family,
    a_trusted_proxy_announces_its_clients_and_nobody_else_does,
    headers_of_http_are_kept_from_trusted_proxies_alone,
    slow_and_fuzzed_headers_cost_their_own_connection,
    what_can_not_be_read_closes_the_port_and_is_said,
];

/// A header of version 1.
fn line(source: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let to_ip = if source.is_ipv4() {
        "203.0.113.1"
    } else {
        "2001:db8:f::1"
    };
    format!(
        "PROXY {family} {} {to_ip} {} {}\r\n",
        source.ip(),
        source.port(),
        to.port()
    )
    .into_bytes()
}

/// A header of version 2, with a field that nobody knows.
fn binary(source: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut behind = Vec::new();
    match source.ip() {
        IpAddr::V4(v4) => {
            behind.extend(v4.octets());
            behind.extend([203, 0, 113, 1]);
        }
        IpAddr::V6(v6) => {
            behind.extend(v6.octets());
            behind.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1).octets());
        }
    }
    behind.extend(source.port().to_be_bytes());
    behind.extend(to.port().to_be_bytes());
    behind.extend([0xE0, 0, 3, 1, 2, 3]);
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    header.push(family);
    header.extend(
        u16::try_from(behind.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    header.extend(behind);
    header
}

/// A connection from an address, after which these bytes were sent.
fn sent(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> std::io::Result<TcpStream> {
    let mut stream = clients::connect_tcp_from(from, to)?;
    stream.write_all(bytes)?;
    Ok(stream)
}

fn nginx_sees_the_client_by_either_version_and_family() -> Result<()> {
    let site = Site::new()?;
    let _nginx = Nginx::told(&site.farm, at(server(0), 8080))?;
    let mut documents = vec![pools()];
    let mut names = Vec::new();
    for version in ["v1", "v2"] {
        for (kind, port) in [("tcp", PLAIN), ("http", HTTP)] {
            let name = format!("{kind}-{version}");
            documents.push(service(&name, &[("proxy-protocol", version)], port));
            documents.push(slice(&name, 8080, &[server(0)]));
            names.push(name);
        }
    }
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let fairway = Fairway::start(&site.edge, &[("told.yaml", &all(&documents))])?;
    for name in &names {
        for (from, to) in [client(4), client6(4)]
            .into_iter()
            .zip(addresses(&fairway, name)?)
        {
            let to = at(to, 80);
            site.client.run(|| {
                let stream = clients::connect_tcp_from(from, to)?;
                let local = stream.local_addr()?;
                let said = clients::http_get_from(stream, to, "/")?.body;
                let mut said = said.split(' ');
                let mut next = || said.next().context("too little was said");
                let client = (next()?.parse::<IpAddr>()?, next()?.parse::<u16>()?);
                let destination = (next()?.parse::<IpAddr>()?, next()?.parse::<u16>()?);
                ensure!(
                    client == (local.ip(), local.port()),
                    "{name}: {client:?}, not {local}"
                );
                ensure!(
                    destination == (to.ip(), to.port()),
                    "{name}: {destination:?}, not {to}"
                );
                Ok(())
            })?;
        }
        // Several requests of one connection have the same client.
        let to = at(addresses(&fairway, name)?[0], 80);
        let (mut stream, local) = site.client.run(|| {
            let stream = clients::connect_tcp_from(client(5), to)?;
            let local = stream.local_addr()?;
            anyhow::Ok((stream, local))
        })?;
        for _ in 0..3 {
            let said = clients::http_get_on(&mut stream, "web", "/")?.body;
            let client = format!("{} {} ", local.ip(), local.port());
            ensure!(said.starts_with(&client), "{name}: {said}");
        }
    }
    Ok(())
}

fn a_trusted_proxy_announces_its_clients_and_nobody_else_does() -> Result<()> {
    let site = Site::new()?;
    let _nginx = Nginx::told(&site.farm, at(server(0), 8080))?;
    let _echo = echo(&site.farm, at(server(1), 8080))?;
    let _web = named_http(&site.farm, &[("a", at(server(2), 8080))])?;
    let trusted = format!("{},{}", client(0), client6(0));
    let chained = [
        ("accept-proxy-protocol", trusted.as_str()),
        ("proxy-protocol", "v2"),
    ];
    let ranges = "LoadBalancer, loadBalancerSourceRanges: [192.168.7.0/24, \"2001:db8:7::/64\"], ";
    let in_ranges = |name, port| {
        let service = service(name, &chained, port);
        service.replace("LoadBalancer, ", ranges)
    };
    let manifests = all(&[
        &pools(),
        &in_ranges("tcp", PLAIN),
        &slice("tcp", 8080, &[server(0)]),
        &in_ranges("http", HTTP),
        &slice("http", 8080, &[server(0)]),
        &service("echo", &[("accept-proxy-protocol", &trusted)], PLAIN),
        &slice("echo", 8080, &[server(1)]),
        &service("open", &[("accept-proxy-protocol", &trusted)], HTTP),
        &slice("open", 8080, &[server(2)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("trusted.yaml", &manifests)])?;
    let four: SocketAddr = "192.168.7.9:1234".parse()?;
    let six: SocketAddr = "[2001:db8:7::9]:1234".parse()?;
    let outside: SocketAddr = "192.168.8.9:1234".parse()?;
    let refused = |from: IpAddr, to: SocketAddr, bytes: &[u8]| -> bool {
        let mut stream = match sent(from, to, bytes) {
            Ok(stream) => stream,
            Err(_) => return true,
        };
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        !matches!(stream.read(&mut [0; 1]), Ok(1))
    };
    for name in ["tcp", "http"] {
        let [to4, to6] = addresses(&fairway, name)?.map(|ip| at(ip, 80));
        site.client.run(|| {
            // The peer's family and the client's have nothing to do with each other.
            for (from, to) in [(client(0), to4), (client6(0), to6)] {
                for source in [four, six] {
                    for header in [line(source, to), binary(source, to)] {
                        let stream = sent(from, to, &header)?;
                        let said = clients::http_get_from(stream, to, "/")?.body;
                        let wanted = format!("{} {} ", source.ip(), source.port());
                        ensure!(said.starts_with(&wanted), "{name} from {from}: {said}");
                        let is_named = said.ends_with(&format!(" {}", source.ip()));
                        ensure!(is_named == (name == "http"), "{name}: {said}");
                    }
                }
                // Outside of the source ranges; without a header; with none that counts; the proxy's own, which has an
                // address of its own to be judged by.
                for header in [
                    line(outside, to),
                    binary(outside, to),
                    Vec::new(),
                    b"PROXY TCP4 0.0.0.0 203.0.113.1 1 2\r\n".to_vec(),
                    b"PROXY UNKNOWN\r\n".to_vec(),
                ] {
                    ensure!(refused(from, to, &header), "{name} from {from}: {header:?}");
                }
            }
            // Anybody else is judged by the own address, whatever is announced.
            for (from, to) in [(client(1), to4), (client6(1), to6)] {
                for header in [line(four, to), binary(four, to), Vec::new()] {
                    ensure!(refused(from, to, &header), "{name} from {from}: {header:?}");
                }
            }
            Ok(())
        })?;
    }
    // By request, it is no request, and nothing of it reaches a server.
    let to = at(addresses(&fairway, "open")?[0], 80);
    site.client.run(|| {
        for forged in [line(four, to), binary(four, to)] {
            let stream = sent(client(1), to, &forged)?;
            let answer = clients::http_get_from(stream, to, "/");
            ensure!(!matches!(&answer, Ok(it) if it.status == 200), "{answer:?}");
        }
        let stream = clients::connect_tcp_from(client(1), to)?;
        let seen: Value = serde_json::from_str(&clients::http_get_from(stream, to, "/")?.body)?;
        ensure!(seen["connection"] == 1, "{seen}");
        let told = seen["headers"]["x-forwarded-for"].as_str();
        ensure!(told == Some(&*client(1).to_string()), "{seen}");
        Ok(())
    })?;
    // What anybody else sends is payload; what a trusted one sends behind its header is, too.
    let to = at(addresses(&fairway, "echo")?[0], 80);
    site.client.run(|| {
        for (from, before) in [(client(1), Vec::new()), (client(0), binary(four, to))] {
            for forged in [line(four, to), binary(four, to)] {
                let mut stream = sent(from, to, &[before.as_slice(), &forged].concat())?;
                stream.shutdown(std::net::Shutdown::Write)?;
                let mut back = Vec::new();
                stream.read_to_end(&mut back)?;
                ensure!(back == forged, "{from}: {back:?}");
            }
        }
        Ok(())
    })
}

fn headers_of_http_are_kept_from_trusted_proxies_alone() -> Result<()> {
    let site = Site::new()?;
    let _server = named_http(&site.farm, &[("a", at(server(0), 8080))])?;
    let trusted = client(0).to_string();
    let manifests = all(&[
        &pools(),
        &service("web", &[("trusted-proxies", &trusted)], HTTP),
        &slice("web", 8080, &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("web.yaml", &manifests)])?;
    let url = format!("http://{}/", addresses(&fairway, "web")?[0]);
    let headers = |from: IpAddr| -> Result<Value> {
        let from = from.to_string();
        let mut arguments = vec!["-sS", "--fail", "--interface", &from];
        for header in [
            "X-Forwarded-For: 192.168.7.9",
            "X-Forwarded-Proto: https",
            "Forwarded: for=192.168.7.9",
            "X_Forwarded_For: 192.168.9.9",
            "X_Forwarded_Proto: https",
        ] {
            arguments.extend(["-H", header]);
        }
        arguments.push(&url);
        let answer = site.client.run(|| clients::output("curl", &arguments))?;
        Ok(serde_json::from_str::<Value>(&answer)?["headers"].clone())
    };
    let kept = headers(client(0))?;
    let chain = format!("192.168.7.9, {}", client(0));
    ensure!(kept["x-forwarded-for"] == chain.as_str(), "{kept}");
    ensure!(kept["x-forwarded-proto"] == "https", "{kept}");
    let chain = format!("for=192.168.7.9, for={};proto=http", client(0));
    ensure!(kept["forwarded"] == chain.as_str(), "{kept}");
    let replaced = headers(client(1))?;
    ensure!(
        replaced["x-forwarded-for"] == client(1).to_string().as_str(),
        "{replaced}"
    );
    ensure!(replaced["x-forwarded-proto"] == "http", "{replaced}");
    ensure!(replaced.get("forwarded").is_none(), "{replaced}");
    for headers in [kept, replaced] {
        ensure!(!headers.to_string().contains('_'), "{headers}");
    }
    Ok(())
}

/// Something like a header, or its beginning.
fn fuzz(random: &mut Random, to: SocketAddr) -> Vec<u8> {
    let source = at(client(9), 7);
    let pieces: [Vec<u8>; 9] = [
        line(source, to),
        binary(source, to),
        b"PROXY ".to_vec(),
        b"PROXY UNKNOWN".to_vec(),
        b"TCP6 ::1 ::1 1 2".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
        vec![0x21, 0x11, 0xff, 0xff],
        vec![0x20, 0, 0, 0],
        (0..random.below(200))
            .map(|_| random.below(256) as u8)
            .collect(),
    ];
    let mut bytes: Vec<u8> = (0..1 + random.below(3))
        .flat_map(|_| pieces[random.below(pieces.len())].clone())
        .collect();
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }
    bytes.truncate(1 + random.below(bytes.len() * 2));
    bytes
}

fn slow_and_fuzzed_headers_cost_their_own_connection() -> Result<()> {
    const SEED: u64 = 20_261_130;
    const FUZZED: usize = 2000;
    println!("seed {SEED}");
    let site = Site::new()?;
    let _echo = echo(&site.farm, at(server(0), 8080))?;
    let _servers = named_http(&site.farm, &[("a", at(server(1), 8080))])?;
    let trusted = client(0).to_string();
    let accept = [("accept-proxy-protocol", trusted.as_str())];
    let manifests = all(&[
        &pools(),
        &service("plain", &accept, PLAIN),
        &slice("plain", 8080, &[server(0)]),
        &service("web", &accept, HTTP),
        &slice("web", 8080, &[server(1)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    let plain = at(addresses(&fairway, "plain")?[0], 80);
    let web = at(addresses(&fairway, "web")?[0], 80);
    let header = line(at(client(9), 7), plain);
    let mut random = Random::new(SEED);
    site.client.run(|| -> Result<()> {
        // Somebody's connection through all of it.
        let mut good = sent(client(0), plain, &header)?;
        // As many as would be noticed, each with a part of a header.
        let slow: Vec<TcpStream> = (0..300)
            .map(|n| sent(client(0), [plain, web][n % 2], &header[..n % header.len()]))
            .collect::<Result<_, _>>()?;
        for round in 0..FUZZED {
            let to = [plain, web][round % 2];
            // A reset may come while it is written.
            if let Ok(stream) = sent(client(0), to, &fuzz(&mut random, to)) {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            if round % 100 == 0 {
                let answer = clients::ask(&mut good, "still here")?;
                ensure!(answer == "still here", "round {round}: {answer}");
                let stream = sent(client(0), web, &header)?;
                let response = clients::http_get_from(stream, web, "/")?;
                ensure!(response.status == 200, "round {round}: {response:?}");
            }
        }
        // The slow ones are refused when their time is over.
        for mut stream in slow {
            ensure!(
                !matches!(stream.read(&mut [0; 1]), Ok(1)),
                "a slow one is answered"
            );
        }
        let answer = clients::ask(&mut good, "still here")?;
        ensure!(answer == "still here", "{answer}");
        Ok(())
    })?;
    wait::until("nothing is left open", || {
        fairway.metric("fairway_connections_active", &[]).ok() == Some(0.0)
    })?;
    let refused = fairway.metric("fairway_rejected_total", &["reason=\"proxy_protocol\""])?;
    // Of the slow ones those that have sent nothing count, too.
    ensure!(refused > 300.0, "{refused}");
    Ok(())
}

fn what_can_not_be_read_closes_the_port_and_is_said() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let document = |annotations: &[(&str, &str)]| {
        all(&[
            &pools(),
            &service(
                "shop",
                annotations,
                "{name: web, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}",
            ),
            &slice_of_web(),
        ])
    };
    let bad = document(&[("accept-proxy-protocol", "80=198.51.100.0/240")]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &bad)])?;
    let words = ["accept-proxy-protocol", "nobody is let in at this port"];
    fairway.says("default/shop", &words)?;
    fairway.explains("default/shop", &words)?;
    let to = at(addresses(&fairway, "shop")?[0], 80);
    let is_let_in = || site.client.run(|| clients::who(to).is_ok());
    ensure!(!is_let_in(), "somebody got in");
    let said = programs::fairway_with_input(&["validate", "-"], bad.as_bytes())?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    // Elsewhere it does not matter, and that UDP has none is said.
    let good = document(&[("proxy-protocol", "80=v1,53/UDP=v2")]);
    fairway.write("shop.yaml", &good)?;
    fairway.says("default/shop", &["53/UDP is carried without"])?;
    let open = document(&[]);
    fairway.write("shop.yaml", &open)?;
    wait::until("clients are let in", is_let_in)
}

fn slice_of_web() -> String {
    fairway_integration::manifest::slice_of("shop", &[("web", "TCP", 8080)], &[server(0)])
}
