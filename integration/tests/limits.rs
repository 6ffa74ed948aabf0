//! Clients that behave badly, and what runs out.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, load_balancer, service, slice, slice_of};
use fairway_integration::servers::{mute, named, named_udp, talkative};
use fairway_integration::site::{BLACK_HOLE, Site, at, client, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    out_of_file_descriptors_accepting_pauses_and_goes_on,
    a_steered_port_that_has_its_share_turns_away_and_another_is_served,
    clients_that_send_nothing_are_in_nobodys_way,
    a_client_that_never_reads_costs_little_memory,
    a_backend_that_hangs_is_in_nobodys_way,
    a_backend_that_never_reads_costs_little_memory,
    more_flows_than_there_are_descriptors_end_nothing,
];

fn shop(port: u16) -> String {
    all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, port),
        &slice("shop", port, &[server(0)]),
    ])
}

/// Resident memory of a process in KiB.
fn memory(fairway: &mut Fairway) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", fairway.process()?.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn out_of_file_descriptors_accepting_pauses_and_goes_on() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    // With sockets of its own: what is steered can't wait, see below.
    let mut fairway = Fairway::prepare(&site.edge)?
        .open_files(256)
        .arguments(&["--no-steering"]);
    fairway.write("shop.yaml", &shop(80))?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(vip(1), 80);
    site.client.run(|| {
        // Each costs two descriptors there; what is not accepted waits in the kernel.
        let mut held: Vec<TcpStream> = (0..250)
            .map(|_| clients::connect_tcp(to))
            .collect::<Result<_, _>>()?;
        for stream in &mut held {
            stream.write_all(b"who\n")?;
            stream.set_nonblocking(true)?;
        }
        let served = |held: &[TcpStream]| -> Vec<usize> {
            let answered = |stream: &TcpStream| stream.peek(&mut [0]).is_ok_and(|n| n > 0);
            (0..held.len()).filter(|n| answered(&held[*n])).collect()
        };
        wait::until("twenty are served", || served(&held).len() >= 20)?;
        wait::until("accepting pauses", || {
            fairway
                .metric("fairway_accept_pauses_total", &[])
                .is_ok_and(|n| n >= 1.0)
        })?;
        let served = served(&held);
        ensure!(served.len() < 200, "{} of 250 were served", served.len());
        // What is open goes on.
        for n in served {
            held[n].set_nonblocking(false)?;
            clients::ask(&mut held[n], "who").context("an open connection has suffered")?;
        }
        ensure!(fairway.process()?.ended()?.is_none());
        drop(held);
        wait::until("new connections are served again", || {
            clients::who(to).is_ok()
        })
    })?;
    wait::until("the admin address answers", || {
        fairway
            .get("/livez")
            .is_ok_and(|response| response.status == 200)
    })
}

fn a_steered_port_that_has_its_share_turns_away_and_another_is_served() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = Fairway::prepare(&site.edge)?.open_files(256);
    let other = [
        &*shop(80),
        &load_balancer("other", vip(2), 80, 80),
        &slice("other", 80, &[server(0)]),
    ];
    fairway.write("shop.yaml", &all(&other))?;
    fairway.launch()?;
    fairway.ready()?;
    fairway.logs(&["steered by the kernel"])?;
    site.client.run(|| {
        let held: Vec<TcpStream> = (0..250)
            .filter_map(|_| clients::connect_tcp(at(vip(1), 80)).ok())
            .collect();
        wait::until("who comes too much is turned away", || {
            fairway
                .metric(
                    "fairway_rejected_total",
                    &["reason=\"limit\"", "service=\"shop\""],
                )
                .is_ok_and(|n| n >= 1.0)
        })?;
        // Those of another Service are not in its way, and what is open goes on.
        for _ in 0..3 {
            ensure!(clients::who(at(vip(2), 80))? == "a");
        }
        let served = held.into_iter().filter_map(|mut stream| {
            let answer = clients::ask(&mut stream, "who").ok()?;
            answer.starts_with("a ").then_some(stream)
        });
        let served: Vec<TcpStream> = served.collect();
        ensure!(
            (20..200).contains(&served.len()),
            "{} of 250 were served",
            served.len()
        );
        drop(served);
        wait::until("new connections are served again", || {
            clients::who(at(vip(1), 80)).is_ok()
        })
    })
}

fn clients_that_send_nothing_are_in_nobodys_way() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &shop(80))])?;
    let before = memory(&mut fairway)?;
    let to = at(vip(1), 80);
    site.client.run(|| {
        let idle: Vec<TcpStream> = (0..1000)
            .map(|_| clients::connect_tcp(to))
            .collect::<Result<_, _>>()?;
        for _ in 0..20 {
            clients::who(to)?;
        }
        wait::until("they are counted", || {
            fairway
                .metric("fairway_connections_active", &["service=\"shop\""])
                .is_ok_and(|n| n >= idle.len() as f64)
        })
    })?;
    let grown = memory(&mut fairway)?.saturating_sub(before);
    ensure!(grown < 1000 * 16, "1,000 idle connections took {grown} KiB");
    Ok(())
}

fn a_client_that_never_reads_costs_little_memory() -> Result<()> {
    let site = Site::new()?;
    let _flood = talkative(&site.farm, at(server(0), 80))?;
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &shop(80))])?;
    let before = memory(&mut fairway)?;
    let mut lazy: Vec<TcpStream> = site.client.run(|| {
        (0..50)
            .map(|_| clients::connect_tcp(at(vip(1), 80)))
            .collect::<Result<_, _>>()
    })?;
    wait::until("buffers are full", || {
        let sent = || {
            fairway
                .metric("fairway_transmit_bytes_total", &[])
                .unwrap_or(0.0)
        };
        let earlier = sent();
        std::thread::sleep(Duration::from_millis(300));
        earlier > 0.0 && sent() == earlier
    })?;
    let grown = memory(&mut fairway)?.saturating_sub(before);
    ensure!(
        grown < 50 * 1024,
        "50 clients that never read took {grown} KiB"
    );
    // One that reads after all gets on.
    let mut buffer = vec![0; 1 << 20];
    lazy[0].read_exact(&mut buffer)?;
    ensure!(buffer.iter().all(|byte| *byte == b'x'));
    Ok(())
}

fn a_backend_that_hangs_is_in_nobodys_way() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _mute = mute(&site.farm, at(server(1), 80))?;
    let manifests = all(&[
        &shop(80),
        &load_balancer("hanging", vip(2), 80, 80),
        &slice("hanging", 80, &[BLACK_HOLE]),
        &load_balancer("mute", vip(3), 80, 80),
        &slice("mute", 80, &[server(1)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    site.client.run(|| {
        let mut waiting: Vec<TcpStream> = (0..100)
            .map(|n| clients::connect_tcp(at(vip(2 + n % 2), 80)))
            .collect::<Result<_, _>>()?;
        for _ in 0..20 {
            clients::who(at(vip(1), 80))?;
        }
        // Who waits for a backend that never answers is told so after a time.
        let first = waiting.first_mut().context("nobody waits")?;
        first.set_read_timeout(Some(Duration::from_secs(30)))?;
        let _ = first.write_all(b"hello?\n");
        ensure!(
            !matches!(first.read(&mut [0]), Ok(1..)),
            "the black hole has answered"
        );
        Ok(())
    })?;
    let errors = fairway.metric("fairway_connect_errors_total", &["reason=\"timeout\""])?;
    ensure!(errors >= 1.0, "{errors}");
    Ok(())
}

fn a_backend_that_never_reads_costs_little_memory() -> Result<()> {
    let site = Site::new()?;
    let _mute = mute(&site.farm, at(server(0), 80))?;
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &shop(80))])?;
    let before = memory(&mut fairway)?;
    site.client.run(|| {
        let block = vec![b'x'; 1 << 16];
        let mut eager: Vec<TcpStream> = (0..20)
            .map(|_| clients::connect_tcp(at(vip(1), 80)))
            .collect::<Result<_, _>>()?;
        for stream in &mut eager {
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            // Until nothing more is taken.
            while stream.write(&block).is_ok() {}
        }
        let grown = memory(&mut fairway)?.saturating_sub(before);
        ensure!(
            grown < 20 * 1024,
            "20 backends that never read took {grown} KiB"
        );
        Ok(())
    })
}

fn more_flows_than_there_are_descriptors_end_nothing() -> Result<()> {
    let site = Site::new()?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 53))])?;
    let _tcp = named(&site.farm, &[("a", at(server(0), 53))])?;
    let spec =
        "type: LoadBalancer, ports: [{name: u, port: 53, protocol: UDP}, {name: t, port: 53}]";
    let mut fairway = Fairway::prepare(&site.edge)?.open_files(256);
    let manifests = all(&[
        &edge_pool(),
        &service("dns", spec),
        &slice_of("dns", &[("u", "UDP", 53), ("t", "TCP", 53)], &[server(0)]),
    ]);
    fairway.write("dns.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(fairway.address("default/dns")?.parse()?, 53);
    site.client.run(|| {
        let kept = clients::udp(Some(client(1)), to)?;
        let answer = clients::ask_udp(&kept, "who")?;
        for n in 0..600_u32 {
            // Each of them a flow; only some can be had.
            let socket = clients::udp(Some(client((n % 30) as u8)), to)?;
            let _ = socket.send(b"who");
            // The server sees one that is used from where it saw it at first: it is the same flow.
            if n % 5 == 0 {
                let again = clients::ask_udp(&kept, "who")?;
                ensure!(again == answer, "{answer}, then {again}, after {n} others");
            }
        }
        wait::until("the admin address answers", || {
            fairway
                .get("/livez")
                .is_ok_and(|response| response.status == 200)
        })?;
        // TCP still has descriptors, and a flow that is used is served.
        clients::who(to).context("TCP")?;
        let again = clients::ask_udp(&kept, "who")?;
        ensure!(again == answer, "{answer}, then {again}");
        Ok(())
    })
}
