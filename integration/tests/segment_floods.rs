//! The worst that a host on the segment does to gateways: it sends as fast as it can to the threads that run before all
//! others. No address moves, clients are served, and the threads take no more than their share of a processor.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fairway_integration::lab::PacketSocket;
use fairway_integration::lan::frames;
use fairway_integration::lan::gateways::{
    FLEET_PORT, LanGateways, PORT, announced_pool, endpoints, services,
};
use fairway_integration::lan::network::{INTERFACE, Lan, LanEdge, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::servers::named;
use fairway_integration::{clients, tests};

tests![what_a_neighbor_sends_as_fast_as_it_can_moves_no_address_and_takes_no_processor];

/// How long each flood lasts.
const LASTS: Duration = Duration::from_millis(1500);

/// How long each address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_millis(500);

/// What a thread may have of a processor: a fifth for what it receives, and what else it does.
const SHARE: f64 = 0.35;

/// The hardware address of the attacker.
const ATTACKER: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// A flood: its name, the thread that it is for, and its frames.
type Flood = (&'static str, &'static str, Vec<Vec<u8>>);

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is of IPv6"),
    }
}

fn v6(address: IpAddr) -> Result<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(address) => bail!("{address} is of IPv4"),
    }
}

/// What is sent to these edges. All of it goes to them alone: what a client believes of forged ARP is not looked at.
fn floods(edges: &[LanEdge]) -> Result<Vec<Flood>> {
    let (stranger, stranger6) = (Ipv4Addr::new(198, 19, 0, 200), v6(vip6(0x200))?);
    let (ours, ours6) = (v4(vip(1))?, v6(vip6(1))?);
    let mut floods: Vec<Flood> = [
        ("requests", "fairway-layer2"),
        ("claims", "fairway-layer2"),
        ("solicitations and advertisements", "fairway-layer2"),
        ("garbage", "fairway-fleet"),
        ("forged heartbeats", "fairway-fleet"),
    ]
    .map(|(name, thread)| (name, thread, Vec::new()))
    .into();
    for edge in edges {
        let [requests, claims, discovery, garbage, forged] = &mut floods[..] else {
            bail!("five floods");
        };
        let to_edge = |mut frame: Vec<u8>| {
            frame[..6].copy_from_slice(&edge.hardware());
            frame
        };
        let own = (edge.hardware(), v4(edge.ip())?);
        let own6 = (edge.hardware(), v6(edge.ip6())?);
        requests
            .2
            .push(to_edge(frames::arp_request((ATTACKER, stranger), ours)));
        for n in 0..32 {
            let forged = [2, 0, 0, 0, 9, n];
            claims.2.push(frames::arp_reply((forged, ours), own));
        }
        let asked = to_edge(frames::solicitation((ATTACKER, stranger6), ours6));
        let mut with_wrong_sum = asked.clone();
        with_wrong_sum[56] ^= 1;
        let unspecified = to_edge(frames::solicitation(
            (ATTACKER, Ipv6Addr::UNSPECIFIED),
            ours6,
        ));
        let claimed = frames::advertisement((ATTACKER, ours6), own6);
        discovery
            .2
            .extend([asked, with_wrong_sum, unspecified, claimed]);
        let place = |address: Ipv4Addr| SocketAddrV4::new(address, FLEET_PORT);
        let to = (own.0, place(own.1));
        for length in [0, 50, 1400] {
            let payload = vec![0x5a; length];
            garbage.2.push(frames::udp_datagram(
                (ATTACKER, place(stranger)),
                to,
                &payload,
            ));
        }
        let others = edges.iter().filter(|it| it.number != edge.number);
        for other in others {
            // With the hardware address of the other one, the flood would be against the bridge: it would take the place
            // of the other.
            let from = (ATTACKER, place(v4(other.ip())?));
            let name = other.name.as_bytes();
            let payload = [b"FWF1", &[name.len() as u8][..], name, &[0x5a; 100]].concat();
            forged.2.push(frames::udp_datagram(from, to, &payload));
        }
    }
    Ok(floods)
}

fn what_a_neighbor_sends_as_fast_as_it_can_moves_no_address_and_takes_no_processor() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let _farm = named(&lan.farm, &endpoints())?;
    let both = [vip(1), vip6(1)];
    let pool = announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, services(&both)].join("---\n");
    let mut gateways = LanGateways::prepare(&lan, &manifests, |_, it| it.log("info"))?;
    gateways.launch()?;
    let observer = lan.observe(&both, ASKED_EVERY)?;
    let mut owners = observer.settled(&both, Duration::from_secs(1))?;
    let attacker = &lan.other_witness;
    let socket = attacker.run(|| PacketSocket::open(INTERFACE))?;
    let edges: Vec<[u8; 6]> = lan.edges.iter().map(LanEdge::hardware).collect();
    let answered = |span: Duration| -> Result<usize> {
        lan.client.run(|| {
            let mut stream = clients::connect_tcp(SocketAddr::new(vip(1), PORT))?;
            let began = Instant::now();
            let (mut count, mut byte) = (0, [0]);
            while began.elapsed() < span {
                stream.write_all(b"who\n")?;
                while byte[0] != b'\n' {
                    stream.read_exact(&mut byte)?;
                }
                byte = [0];
                count += 1;
            }
            Ok(count)
        })
    };
    println!("no flood: {} answers", answered(LASTS)?);
    let mut faults = Vec::new();
    for (flood, thread, frames) in floods(&lan.edges)? {
        let ran = |gateways: &mut LanGateways| -> Result<Vec<Duration>> {
            let edges = lan.edges.iter();
            edges
                .map(|edge| gateways.on(edge)?.process()?.ran(thread))
                .collect()
        };
        observer.forget();
        let (before, began) = (ran(&mut gateways)?, Instant::now());
        let stop = AtomicBool::new(false);
        let (sent, count) = thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) && began.elapsed() < LASTS * 3 {
                    let taken = frames.iter().filter(|frame| socket.send(frame).is_ok());
                    sent += taken.count() as u64;
                }
                sent
            });
            let count = answered(LASTS);
            stop.store(true, Ordering::Relaxed);
            (flooding.join().unwrap_or_default(), count)
        });
        let (after, took) = (ran(&mut gateways)?, began.elapsed());
        let shares: Vec<f64> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (*after - *before).as_secs_f64() / took.as_secs_f64())
            .collect();
        let heard = observer.heard();
        let moved = heard.iter().filter(|it| {
            edges.contains(&it.naming.hardware)
                && owners.get(&it.naming.address) != Some(&it.naming.hardware)
                && both.contains(&it.naming.address)
        });
        let moved = moved.count();
        println!(
            "{flood}: {sent} frames in {took:?}; {thread}: {shares:.2?}; {count:?} answers; {moved} moved"
        );
        ensure!(sent > 20_000, "no flood: {sent}");
        if shares.iter().any(|share| *share > SHARE) {
            faults.push(format!(
                "{flood}: {thread} took {shares:.2?} of a processor"
            ));
        }
        if moved > 0 {
            faults.push(format!("{flood}: another gateway answered {moved} times"));
        }
        if !count.is_ok_and(|it| it > 10) {
            faults.push(format!("{flood}: clients were not served"));
        }
        let now = observer.settled(&both, SETTLED)?;
        if now != owners {
            faults.push(format!(
                "{flood}: {now:02x?} are the owners, and were {owners:02x?}"
            ));
        }
        owners = now;
    }
    ensure!(faults.is_empty(), "{faults:#?}");
    for edge in &lan.edges {
        let said = gateways.on(edge)?.process()?.said();
        let lines = said.lines().count();
        ensure!(lines < 60, "{lines} lines: {said}");
        let pauses = gateways
            .on(edge)?
            .metric("fairway_receive_pauses_total", &["of=\"arp_and_ndp\""])?;
        println!("{}: {lines} lines, {pauses} pauses", edge.name);
    }
    Ok(())
}
