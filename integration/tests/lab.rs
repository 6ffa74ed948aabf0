//! The lab itself, without Fairway: what the other tests stand on.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::lab::{Host, wire};
use fairway_integration::servers::{
    Dnsmasq, Nginx, echo, grpc_client, grpc_server, iperf, mute, named, named_http, named_udp,
    websocket_echo,
};
use fairway_integration::site::{BLACK_HOLE, EDGE_INSIDE, Site, server, server6};
use fairway_integration::{clients, programs, tests};

tests![
    a_host_sees_nothing_of_the_machine,
    a_program_ends_with_its_handle,
    two_hosts_on_a_wire_reach_each_other,
    the_farm_has_no_way_to_the_clients,
    named_servers_say_who_they_are_and_who_asks,
    an_echo_keeps_half_closed_connections,
    a_black_hole_answers_nothing,
    nginx_gives_and_takes_files,
    dnsmasq_answers_and_changes_its_answers,
    grpc_iperf_and_websocket_servers_serve,
    http_servers_tell_versions_apart,
];

fn a_host_sees_nothing_of_the_machine() -> Result<()> {
    let host = Host::new("alone")?;
    let links = host.run(|| clients::output("ip", &["-oneline", "link"]))?;
    ensure!(
        links.lines().all(|line| line.contains(": lo:")) && !links.is_empty(),
        "{links}"
    );
    Ok(())
}

fn a_program_ends_with_its_handle() -> Result<()> {
    let host = Host::new("alone")?;
    let mut command = Command::new(programs::find("sleep")?);
    command.arg("1000");
    let process = host.spawn(command)?;
    let path = format!("/proc/{}", process.id());
    ensure!(std::fs::exists(&path)?);
    drop(process);
    ensure!(!std::fs::exists(&path)?);
    Ok(())
}

fn two_hosts_on_a_wire_reach_each_other() -> Result<()> {
    let (one, other) = (Host::new("one")?, Host::new("other")?);
    wire((&one, "a"), (&other, "b"))?;
    let addresses: [(IpAddr, IpAddr, u8); 2] = [
        ("192.0.2.1".parse()?, "192.0.2.2".parse()?, 24),
        ("2001:db8::1".parse()?, "2001:db8::2".parse()?, 64),
    ];
    for (mine, theirs, length) in addresses {
        one.addresses("a", &[(mine, length)])?;
        other.addresses("b", &[(theirs, length)])?;
        let at = SocketAddr::new(theirs, 7000);
        let _named = named(&other, &[("other", at)])?;
        ensure!(one.run(|| clients::who(at))? == "other");
    }
    Ok(())
}

fn the_farm_has_no_way_to_the_clients() -> Result<()> {
    let site = Site::new()?;
    let to = SocketAddr::new(fairway_integration::site::client(0), 7000);
    ensure!(site.farm.run(|| clients::connect_tcp(to).is_err()));
    Ok(())
}

fn named_servers_say_who_they_are_and_who_asks() -> Result<()> {
    let site = Site::new()?;
    let (a, b) = (
        SocketAddr::new(server(0), 7000),
        SocketAddr::new(server6(1), 7000),
    );
    let _tcp = named(&site.farm, &[("a", a), ("b", b)])?;
    let _udp = named_udp(&site.farm, &[("a", a), ("b", b)])?;
    site.edge.run(|| {
        let mut stream = clients::connect_tcp(a)?;
        let own = stream.local_addr()?;
        ensure!(clients::ask(&mut stream, "who")? == format!("a {own}"));
        ensure!(clients::ask(&mut stream, "and again")? == format!("a {own}"));
        ensure!(clients::who_from(EDGE_INSIDE, a)? == "a");
        ensure!(clients::who(b)? == "b");
        ensure!(clients::who_udp(None, a)? == "a");
        ensure!(clients::who_udp(None, b)? == "b");
        Ok(())
    })
}

fn an_echo_keeps_half_closed_connections() -> Result<()> {
    let site = Site::new()?;
    let at = SocketAddr::new(server(0), 7000);
    let _echo = echo(&site.farm, at)?;
    site.edge.run(|| {
        let mut stream = clients::connect_tcp(at)?;
        stream.write_all(b"first half")?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = String::new();
        stream.read_to_string(&mut back)?;
        ensure!(back == "first half", "{back}");
        Ok(())
    })
}

fn a_black_hole_answers_nothing() -> Result<()> {
    let site = Site::new()?;
    let mute_at = SocketAddr::new(server(0), 7000);
    let _mute = mute(&site.farm, mute_at)?;
    let brief = Duration::from_millis(300);
    site.edge.run(|| {
        let error = std::net::TcpStream::connect_timeout(&SocketAddr::new(BLACK_HOLE, 80), brief)
            .err()
            .context("it was accepted")?;
        ensure!(error.kind() == std::io::ErrorKind::TimedOut, "{error}");
        let mut stream = clients::connect_tcp(mute_at)?;
        stream.set_read_timeout(Some(brief))?;
        ensure!(stream.read(&mut [0]).is_err());
        Ok(())
    })
}

fn nginx_gives_and_takes_files() -> Result<()> {
    let site = Site::new()?;
    let nginx = Nginx::start(&site.farm, SocketAddr::new(server(0), 80))?;
    std::fs::write(nginx.file("hello"), "a file")?;
    let url = format!("http://{}/", server(0));
    let curl = |arguments: &[&str]| site.edge.run(|| clients::output("curl", arguments));
    ensure!(curl(&["-sS", "--fail", &format!("{url}hello")])? == "a file");
    let upload = nginx.file("hello");
    let upload = upload.to_string_lossy();
    curl(&[
        "-sS",
        "--fail",
        "--upload-file",
        &upload,
        &format!("{url}copy"),
    ])?;
    ensure!(std::fs::read_to_string(nginx.file("copy"))? == "a file");
    Ok(())
}

fn dnsmasq_answers_and_changes_its_answers() -> Result<()> {
    let site = Site::new()?;
    let at = SocketAddr::new(server(0), 53);
    let dns = Dnsmasq::start(&site.farm, at, 1, &[("shop.test", server(1))])?;
    let server_argument = format!("@{}", at.ip());
    let dig = |more: &[&str]| {
        let arguments = [&[&server_argument, "+noall", "+answer", "shop.test"], more].concat();
        site.edge.run(|| clients::output("dig", &arguments))
    };
    for transport in ["+notcp", "+tcp"] {
        let answer = dig(&[transport])?;
        ensure!(answer.contains(&server(1).to_string()), "{answer}");
    }
    dns.set(&[("shop.test", server(2))])?;
    fairway_integration::wait::until("the record has changed", || {
        dig(&[]).is_ok_and(|answer| answer.contains(&server(2).to_string()))
    })
}

fn grpc_iperf_and_websocket_servers_serve() -> Result<()> {
    let site = Site::new()?;
    let _grpc = grpc_server(&site.farm, 7001)?;
    grpc_client(&site.edge, SocketAddr::new(server(0), 7001), "large_unary")?;

    let at = SocketAddr::new(server(0), 5201);
    let report = iperf(&site.farm, at, &site.edge, at, &["--bytes", "64M"])?;
    let received = &report["end"]["sum_received"]["bytes"];
    ensure!(received.as_u64() >= Some(1 << 20), "{received}");

    let at = SocketAddr::new(server(0), 7002);
    let _echo = websocket_echo(&site.farm, at)?;
    let answer = site
        .edge
        .run(|| clients::websocket(&format!("ws://{at}/"), "hello"))?;
    ensure!(answer == "hello", "{answer}");
    Ok(())
}

fn http_servers_tell_versions_apart() -> Result<()> {
    let site = Site::new()?;
    let at = SocketAddr::new(server(0), 7000);
    let _http = named_http(&site.farm, &[("a", at)])?;
    let url = format!("http://{at}/some/path");
    for (flag, version) in [
        ("--http1.1", "HTTP/1.1"),
        ("--http2-prior-knowledge", "HTTP/2.0"),
    ] {
        let seen = site
            .edge
            .run(|| clients::output("curl", &["-sS", flag, &url]))?;
        let seen: serde_json::Value = serde_json::from_str(&seen)?;
        ensure!(
            seen["version"] == version && seen["path"] == "/some/path",
            "{seen}"
        );
    }
    Ok(())
}
