//! What passes through: large and small, in both directions, and what real programs speak.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, load_balancer, service, slice, slice_of};
use fairway_integration::servers::{
    Dnsmasq, Nginx, echo, grpc_client, grpc_server, iperf, websocket_echo,
};
use fairway_integration::site::{Site, at, server, vip};
use fairway_integration::{clients, tests, wait};
use serde_json::Value;

tests![
    large_downloads_and_uploads_arrive_whole,
    websockets_and_grpc_pass_through_plain_tcp,
    dns_works_over_udp_and_tcp,
    iperf_runs_both_ways_over_tcp_and_udp,
    each_direction_ends_on_its_own,
    large_datagrams_pass,
];

fn large_downloads_and_uploads_arrive_whole() -> Result<()> {
    const SIZE: usize = 100 << 20;
    let site = Site::new()?;
    let nginx = Nginx::start(&site.farm, at(server(0), 80))?;
    // No two blocks are alike, so that one that is lost or comes twice is noticed.
    let content: Vec<u8> = (0..SIZE as u64 / 8)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    fs::write(nginx.file("large"), &content)?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("files", vip(1), 80, 80),
        &slice("files", 80, &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("files.yaml", &manifests)])?;
    let got = fairway.folder().join("got");
    let (got_text, url) = (got.to_string_lossy(), format!("http://{}", vip(1)));
    let curl = |arguments: &[&str]| {
        let arguments = [&["-sS", "--fail", "--max-time", "300"], arguments].concat();
        site.client.run(|| clients::output("curl", &arguments))
    };
    curl(&["-o", &got_text, &format!("{url}/large")])?;
    ensure!(
        fs::read(&got)? == content,
        "the download is not what was sent"
    );
    curl(&["--upload-file", &got_text, &format!("{url}/copy")])?;
    ensure!(
        fs::read(nginx.file("copy"))? == content,
        "the upload is not what was sent"
    );
    let labels = ["namespace=\"default\"", "service=\"files\""];
    for metric in [
        "fairway_transmit_bytes_total",
        "fairway_receive_bytes_total",
    ] {
        // The client has the last bytes before they are counted.
        wait::until_some(&format!("{metric} has all bytes"), || {
            let bytes = fairway.metric(metric, &labels)?;
            ensure!(bytes >= SIZE as f64, "{bytes}");
            Ok(())
        })?;
    }
    Ok(())
}

fn websockets_and_grpc_pass_through_plain_tcp() -> Result<()> {
    let site = Site::new()?;
    let _echo = websocket_echo(&site.farm, at(server(0), 8080))?;
    let _grpc = grpc_server(&site.farm, 9000)?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("chat", vip(1), 80, 8080),
        &slice("chat", 8080, &[server(0)]),
        &load_balancer("calls", vip(2), 443, 9000),
        &slice("calls", 9000, &[server(0), server(1)]),
    ]);
    let _fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    let url = format!("ws://{}/", vip(1));
    let answer = site.client.run(|| clients::websocket(&url, "hello"))?;
    ensure!(answer == "hello", "{answer}");
    for case in [
        "empty_unary",
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
    ] {
        grpc_client(&site.client, at(vip(2), 443), case)?;
    }
    Ok(())
}

fn dns_works_over_udp_and_tcp() -> Result<()> {
    let site = Site::new()?;
    let _dns = Dnsmasq::start(&site.farm, at(server(0), 53), 60, &[("shop.test", vip(9))])?;
    let spec = "type: LoadBalancer, ports: [{name: dns, port: 53, protocol: UDP}, \
                {name: dns-tcp, port: 53, protocol: TCP}]";
    let manifests = all(&[
        &edge_pool(),
        &service("dns", spec),
        &slice_of(
            "dns",
            &[("dns", "UDP", 53), ("dns-tcp", "TCP", 53)],
            &[server(0)],
        ),
    ]);
    let fairway = Fairway::start(&site.edge, &[("dns.yaml", &manifests)])?;
    let name_server = format!("@{}", fairway.address("default/dns")?);
    for transport in ["+notcp", "+tcp"] {
        let arguments = [&name_server, transport, "+short", "+tries=2", "shop.test"];
        let answer = site.client.run(|| clients::output("dig", &arguments))?;
        ensure!(answer.trim() == vip(9).to_string(), "{transport}: {answer}");
    }
    Ok(())
}

fn iperf_runs_both_ways_over_tcp_and_udp() -> Result<()> {
    let site = Site::new()?;
    let spec = "type: LoadBalancer, ports: [{name: t, port: 5201}, \
                {name: u, port: 5201, protocol: UDP}]";
    let manifests = all(&[
        &edge_pool(),
        &service("speed", spec),
        &slice_of(
            "speed",
            &[("t", "TCP", 5201), ("u", "UDP", 5201)],
            &[server(0)],
        ),
    ]);
    let fairway = Fairway::start(&site.edge, &[("speed.yaml", &manifests)])?;
    let to = at(fairway.address("default/speed")?.parse()?, 5201);
    let measure = |arguments: &[&str]| -> Result<Value> {
        let report = iperf(&site.farm, at(server(0), 5201), &site.client, to, arguments)?;
        Ok(report["end"].clone())
    };
    // More than all buffers on the way hold. At the end iperf3 counts what has been read by then.
    const SIZE: &str = "128M";
    for arguments in [&["--bytes", SIZE][..], &["--bytes", SIZE, "--reverse"]] {
        let end = measure(arguments)?;
        let received = end["sum_received"]["bytes"].as_u64().context("no bytes")?;
        ensure!(received > 16 << 20, "{arguments:?}: {received} bytes");
    }
    // As many datagrams as the smallest buffer on the way holds: however late whoever has to read
    // them gets a processor, none is dropped.
    let datagrams = [
        "--udp",
        "--blockcount",
        "60",
        "--length",
        "1200",
        "--bitrate",
        "500K",
    ];
    for more in [&[][..], &["--reverse"]] {
        let arguments = [&datagrams[..], more].concat();
        let end = measure(&arguments)?;
        let lost = end["sum"]["lost_packets"].as_u64().context("no loss")?;
        let received = end["sum_received"]["packets"]
            .as_u64()
            .context("no packets")?;
        ensure!(
            lost == 0 && received > 0,
            "{arguments:?}: {received} received, {lost} lost"
        );
    }
    Ok(())
}

fn each_direction_ends_on_its_own() -> Result<()> {
    let site = Site::new()?;
    let _echo = echo(&site.farm, at(server(0), 7))?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("echo", vip(1), 7, 7),
        &slice("echo", 7, &[server(0)]),
    ]);
    let _fairway = Fairway::start(&site.edge, &[("echo.yaml", &manifests)])?;
    site.client.run(|| {
        let mut stream = clients::connect_tcp(at(vip(1), 7))?;
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let mut reader = stream.try_clone()?;
        let reading = std::thread::spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)?;
        let back = reading.join().ok().context("the reader panicked")??;
        ensure!(
            back == sent,
            "{} of {} bytes came back",
            back.len(),
            sent.len()
        );
        Ok(())
    })
}

fn large_datagrams_pass() -> Result<()> {
    let site = Site::new()?;
    let _echo = site.farm.serve(move || {
        let socket = std::net::UdpSocket::bind(at(server(0), 7))?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..length], peer).await;
            }
        })
    })?;
    let spec = "type: LoadBalancer, ports: [{port: 7, protocol: UDP}]";
    let manifests = all(&[
        &edge_pool(),
        &service("echo", spec),
        &slice_of("echo", &[("", "UDP", 7)], &[server(0)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("echo.yaml", &manifests)])?;
    let to = at(fairway.address("default/echo")?.parse()?, 7);
    site.client.run(|| {
        let socket = clients::udp(None, to)?;
        // An empty one, one of a usual packet, one of several fragments, the largest there is.
        for length in [0, 1, 1472, 9000, 65_507] {
            let sent: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
            let mut back = vec![0; 65_536];
            // One that was sent twice comes back twice, the second time among the next.
            wait::until_some(&format!("{length} bytes come back"), || {
                socket.send(&sent)?;
                let got = socket.recv(&mut back)?;
                ensure!(back[..got] == sent, "{got} bytes came back");
                Ok(())
            })?;
        }
        Ok(())
    })
}
