//! The worst that one UDP client or endpoint does to the rest: another Service's clients are answered, and
//! soon.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Served};
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice, slice_of};
use fairway_integration::servers::{echo, named_udp};
use fairway_integration::site::{Site, at, client, server, vip};
use fairway_integration::{clients, tests, wait};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

tests![
    a_flood_from_forged_addresses_holds_up_no_other_service,
    a_flood_at_endpoints_that_refuse_holds_up_no_other_service,
    an_endpoint_that_answers_a_thousandfold_holds_up_no_other_service,
    the_largest_datagrams_and_fragments_hold_up_no_other_service,
    forged_icmp_errors_hold_up_no_other_service_and_end_no_flow,
    ten_thousand_flows_that_end_at_once_hold_up_no_other_service,
];

const PORT: u16 = 53;

/// The address of the Service that the floods are for.
fn target() -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 3)
}

/// So many packets a second a flood has at most: the machine has other things to do, too.
const RATE: u64 = 20_000;

/// How often the others are asked during a flood, over TCP and over UDP.
const ASKED: usize = 400;

/// Of a hundred answers ninety-nine take no longer. A worker that is held up takes seconds; a machine on which
/// the flood itself has a processor takes some tens of milliseconds.
const SOON: Duration = Duration::from_millis(250);

/// A site with two Services that nobody floods, and one that is flooded.
struct Flooded {
    site: Site,
    fairway: Fairway,
    _others: [Served; 2],
}

impl Flooded {
    /// The endpoints of the flooded Service are these servers.
    fn new(endpoints: &[IpAddr]) -> Result<Self> {
        Self::with(endpoints, &[])
    }

    fn with(endpoints: &[IpAddr], arguments: &[&str]) -> Result<Self> {
        let site = Site::new()?;
        let others = [
            echo(&site.farm, at(server(0), 8080))?,
            named_udp(&site.farm, &[("quiet", at(server(0), PORT))])?,
        ];
        let dns = |name: &str, address: IpAddr| {
            format!(
                "apiVersion: v1\nkind: Service\n\
                 metadata: {{name: {name}, annotations: {{fairway.dev/addresses: \"{address}\"}}}}\n\
                 spec: {{type: LoadBalancer, selector: {{app: {name}}}, \
                 ports: [{{port: {PORT}, protocol: UDP}}]}}\n"
            )
        };
        let manifests = all(&[
            &edge_pool(),
            &load_balancer("shop", vip(1), 80, 8080),
            &slice("shop", 8080, &[server(0)]),
            &dns("quiet", vip(2)),
            &slice_of("quiet", &[("", "UDP", PORT)], &[server(0)]),
            &dns("flooded", target().into()),
        ]);
        // A line for each datagram would be the flood.
        let mut fairway = Fairway::prepare(&site.edge)?
            .log("info")
            .arguments(arguments);
        fairway.write("all.yaml", &manifests)?;
        fairway.write(
            "flooded.yaml",
            &slice_of("flooded", &[("", "UDP", PORT)], endpoints),
        )?;
        fairway.launch()?;
        fairway.ready()?;
        Ok(Self {
            site,
            fairway,
            _others: others,
        })
    }

    /// Sends packets from a host, as `packet` makes them from their number, while the others are asked.
    /// `arrives` says how much of the flood has arrived.
    fn others_are_answered_during(
        &self,
        from: &Host,
        send: impl Fn(u64) -> Result<()> + Sync,
        arrives: impl Fn(&Fairway) -> Result<f64>,
    ) -> Result<()> {
        let quiet = self
            .site
            .client
            .run(|| clients::udp(Some(client(0)), at(vip(2), PORT)))?;
        // `NAME PEER`: another peer would be another flow.
        let before = clients::ask_udp(&quiet, "who")?;
        let stop = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                from.run(|| -> Result<()> {
                    let began = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        send(number)?;
                        let due = Duration::from_nanos(number * 1_000_000_000 / RATE);
                        if number.is_multiple_of(64) {
                            thread::sleep(due.saturating_sub(began.elapsed()));
                        }
                    }
                    Ok(())
                })
            });
            let outcome = wait::until_some("the flood arrives", || {
                let arrived = arrives(&self.fairway)?;
                ensure!(arrived >= 200.0, "{arrived}");
                Ok(())
            })
            .and_then(|()| self.others_are_answered(&quiet, &before));
            stop.store(true, Ordering::Relaxed);
            let flooded = flood.join();
            flooded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            outcome
        })?;
        println!(
            "{} sent, {} arrived",
            sent.into_inner(),
            arrives(&self.fairway)?
        );
        Ok(())
    }

    fn others_are_answered(&self, quiet: &UdpSocket, before: &str) -> Result<()> {
        let (mut tcp, mut udp, mut new) = (Vec::new(), Vec::new(), Vec::new());
        self.site.client.run(|| -> Result<()> {
            let mut stream = clients::connect_tcp(at(vip(1), 80))?;
            for n in 0..ASKED {
                let began = Instant::now();
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0])?;
                tcp.push(began.elapsed());
                let began = Instant::now();
                let after = clients::ask_udp(quiet, "who")?;
                udp.push(began.elapsed());
                ensure!(
                    after == before,
                    "its flow is another one: {before}, {after}"
                );
                if n.is_multiple_of(4) {
                    let began = Instant::now();
                    let name = clients::who_udp(Some(client(1)), at(vip(2), PORT))?;
                    ensure!(name == "quiet");
                    new.push(began.elapsed());
                }
            }
            Ok(())
        })?;
        for (what, mut took) in [("TCP", tcp), ("UDP", udp), ("new UDP flows", new)] {
            took.sort();
            let at = |share: usize| took.get((took.len() - 1) * share / 100).copied();
            let (half, most) = (at(50).context("none")?, at(99).context("none")?);
            println!("{what}: median {half:?}, p99 {most:?}");
            ensure!(most <= SOON, "{what}: {most:?}");
        }
        Ok(())
    }
}

/// A raw socket, whose packets have their IP headers.
fn raw() -> Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::RAW),
    )?)
}

/// An IPv4 packet; the kernel fills in checksum and length. `fragment` are the flags and the offset.
fn ipv4(
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    number: u16,
    fragment: u16,
    body: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend(number.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(body);
    packet
}

/// A UDP datagram without a checksum.
fn datagram(from: u16, to: u16, body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for word in [from, to, 8 + body.len() as u16, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(body);
    datagram
}

/// The address and port of a forged client, another one for each number.
fn forged(number: u64) -> (Ipv4Addr, u16) {
    let host = 100 + (number % 150) as u8;
    let port = 1024 + (number / 150 % 60_000) as u16;
    (Ipv4Addr::new(198, 51, 100, host), port)
}

fn sent(socket: &OwnedFd, to: Ipv4Addr, packet: &[u8]) -> Result<()> {
    let to = SocketAddr::V4(SocketAddrV4::new(to, 0));
    match sendto(socket, packet, SendFlags::empty(), &to) {
        // The network is full, as it is in a flood.
        Ok(_) | Err(rustix::io::Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("a packet to {to}")),
    }
}

/// Sends one datagram from a forged client to the flooded Service.
fn forged_datagram(socket: &OwnedFd, number: u64) -> Result<()> {
    let (from, port) = forged(number);
    let body = datagram(port, PORT, b"who");
    let packet = ipv4(17, from, target(), number as u16, 0, &body);
    sent(socket, target(), &packet)
}

/// How many datagrams of clients of the flooded Service were counted.
fn received(fairway: &Fairway) -> Result<f64> {
    let labels = ["service=\"flooded\"", "direction=\"receive\""];
    fairway.metric("fairway_datagrams_total", &labels)
}

fn a_flood_from_forged_addresses_holds_up_no_other_service() -> Result<()> {
    let it = Flooded::new(&[server(1)])?;
    let _server = named_udp(&it.site.farm, &[("flooded", at(server(1), PORT))])?;
    let socket = it.site.client.run(raw)?;
    it.others_are_answered_during(
        &it.site.client,
        |number| forged_datagram(&socket, number),
        received,
    )
}

fn a_flood_at_endpoints_that_refuse_holds_up_no_other_service() -> Result<()> {
    let all: Vec<IpAddr> = (1..12).map(server).collect();
    let it = Flooded::new(&all)?;
    it.site.farm.sysctl("ipv4/icmp_ratelimit", "0")?;
    // A host of its own limits them in all; a hundred hosts do not.
    it.site.farm.sysctl("ipv4/icmp_msgs_per_sec", "1000000")?;
    it.site.farm.sysctl("ipv4/icmp_msgs_burst", "100000")?;
    let socket = it.site.client.run(raw)?;
    it.others_are_answered_during(
        &it.site.client,
        |number| forged_datagram(&socket, number),
        |fairway| {
            fairway.metric(
                "fairway_datagrams_dropped_total",
                &["service=\"flooded\"", "reason=\"refused\""],
            )
        },
    )
}

/// A server that answers each datagram with a thousand.
fn amplifier(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(async move {
            let mut buffer = [0; 2048];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
                for _ in 0..1_000 {
                    let _ = socket.send_to(&[7; 1_200], peer).await;
                }
            }
        })
    })
}

fn an_endpoint_that_answers_a_thousandfold_holds_up_no_other_service() -> Result<()> {
    let it = Flooded::new(&[server(1)])?;
    let _server = amplifier(&it.site.farm, at(server(1), PORT))?;
    let askers = it.site.client.run(|| {
        let askers = (0..200).map(|_| clients::udp(Some(client(2)), at(target().into(), PORT)));
        askers.collect::<std::io::Result<Vec<_>>>()
    })?;
    it.others_are_answered_during(
        &it.site.client,
        |number| {
            let asker = askers.get(number as usize % askers.len());
            let asker = asker.context("no asker")?;
            if number.is_multiple_of(10) {
                asker.send(b"x")?;
            }
            Ok(())
        },
        |fairway| {
            let labels = ["service=\"flooded\"", "direction=\"transmit\""];
            fairway.metric("fairway_datagrams_total", &labels)
        },
    )
}

fn the_largest_datagrams_and_fragments_hold_up_no_other_service() -> Result<()> {
    let it = Flooded::new(&[server(1)])?;
    let _server = named_udp(&it.site.farm, &[("flooded", at(server(1), PORT))])?;
    let socket = it.site.client.run(raw)?;
    let to = at(target().into(), PORT);
    let large = it.site.client.run(|| clients::udp(Some(client(2)), to))?;
    it.others_are_answered_during(
        &it.site.client,
        |number| {
            if number.is_multiple_of(20) {
                large.send(&[7; 65_507])?;
                return Ok(());
            }
            // The first fragment of a datagram, or a later one; the others never come.
            let (from, port) = forged(number);
            let offset = if number.is_multiple_of(2) { 0 } else { 100 };
            let body = datagram(port, PORT, &[7; 792]);
            let packet = ipv4(17, from, target(), number as u16, 0x2000 | offset, &body);
            sent(&socket, target(), &packet)
        },
        received,
    )
}

fn forged_icmp_errors_hold_up_no_other_service_and_end_no_flow() -> Result<()> {
    let it = Flooded::new(&[server(1)])?;
    let _server = named_udp(&it.site.farm, &[("flooded", at(server(1), PORT))])?;
    let socket = it.site.farm.run(raw)?;
    let asker = it
        .site
        .client
        .run(|| clients::udp(Some(client(2)), at(target().into(), PORT)))?;
    let edge = Ipv4Addr::new(192, 0, 2, 1);
    let IpAddr::V4(flooded) = server(1) else {
        bail!("an IPv6 server");
    };
    it.others_are_answered_during(
        &it.site.farm,
        |number| {
            if number.is_multiple_of(64) {
                // It may be told that a datagram was refused: the flood says so of its flow.
                let _ = asker.send(b"who");
            }
            // An endpoint says of every port of ours that it was unreachable from there. Which ones are
            // another endpoint's it can't know, and what it says in that one's name has to have the right port.
            let port = 32_768 + (number % 28_232) as u16;
            let quoted = ipv4(17, edge, flooded, 0, 0, &datagram(port, PORT, b""));
            let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
            body.extend(quoted);
            let sum = checksum(&body);
            body.splice(2..4, sum.to_be_bytes());
            let packet = ipv4(1, flooded, edge, number as u16, 0, &body);
            sent(&socket, edge, &packet)
        },
        |fairway| {
            let labels = ["service=\"flooded\"", "reason=\"refused\""];
            // Each time the flood comes by the port of a flow.
            let refused = fairway.metric("fairway_connect_errors_total", &labels)?;
            Ok(refused * 200.0)
        },
    )
}

fn ten_thousand_flows_that_end_at_once_hold_up_no_other_service() -> Result<()> {
    let it = Flooded::with(&[server(1)], &["--workers", "1"])?;
    // Servers that say nothing, and refuse nothing.
    let _servers = it.site.farm.run(|| -> Result<_> {
        let bound = [1, 2].map(|n| UdpSocket::bind(at(server(n), PORT)));
        let [one, other] = bound;
        Ok((one?, other?))
    })?;
    let socket = it.site.client.run(raw)?;
    let flows = || {
        it.fairway
            .metric("fairway_flows_active", &["service=\"flooded\""])
    };
    let mut number = 0;
    // The least of several: the machine may be late, and the gateway would be each time.
    let mut least = Duration::MAX;
    for next in [2, 1, 2] {
        wait::until_some("there are ten thousand flows", || {
            for _ in 0..50 {
                for _ in 0..100 {
                    forged_datagram(&socket, number)?;
                    number += 1;
                }
                thread::sleep(Duration::from_millis(5));
            }
            let flows = flows()?;
            ensure!(flows >= 10_000.0, "{flows}");
            Ok(())
        })?;
        let stop = AtomicBool::new(false);
        let longest = thread::scope(|scope| {
            let echo = scope.spawn(|| it.site.client.run(|| longest_echo(&stop)));
            let other = slice_of("flooded", &[("", "UDP", PORT)], &[server(next)]);
            let outcome = it.fairway.write("flooded.yaml", &other).and_then(|()| {
                wait::until_some("all flows have ended", || {
                    let flows = flows()?;
                    ensure!(flows == 0.0, "{flows}");
                    Ok(())
                })
            });
            stop.store(true, Ordering::Relaxed);
            let longest = echo.join();
            let longest = longest.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.and(longest)
        })?;
        println!("an echo took {longest:?} at most");
        least = least.min(longest);
    }
    ensure!(least <= SOON, "{least:?}");
    Ok(())
}

/// The longest that an echo takes until it is told to stop.
fn longest_echo(stop: &AtomicBool) -> Result<Duration> {
    let mut stream = clients::connect_tcp(at(vip(1), 80))?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        longest = longest.max(began.elapsed());
    }
    Ok(longest)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
