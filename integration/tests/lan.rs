//! The LAN itself, without Fairway: what tests of failover stand on, and that its judge finds what it should.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::lab::PacketSocket;
use fairway_integration::lan::announcers::Announcers;
use fairway_integration::lan::departure::{EdgeDeparture, TrialPlan};
use fairway_integration::lan::frames;
use fairway_integration::lan::judge;
use fairway_integration::lan::keepalived::Keepaliveds;
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::outage::{AttemptEnd, figures};
use fairway_integration::lan::prober::Prober;
use fairway_integration::lan::trial;
use fairway_integration::servers::named;
use fairway_integration::{tests, wait};
use rustix::process::Signal;

tests![
    an_address_that_is_moved_is_followed_by_judge_client_and_cache,
    an_address_on_two_hosts_is_found_to_be_there,
    a_bridge_that_snoops_keeps_questions_from_who_has_not_joined,
    parted_hosts_do_not_reach_each_other_until_they_are_put_together,
    a_cable_that_is_pulled_takes_the_carrier,
    a_deaf_edge_does_not_hear_and_is_heard,
    keepalived_without_its_cable_is_followed_and_frozen_it_answers_on,
];

/// How long each address must have one owner.
const SETTLED: Duration = Duration::from_millis(300);

fn set(lan: &Lan, edge: u8, verb: &str, address: IpAddr) -> Result<()> {
    let (length, nodad) = match address {
        IpAddr::V4(_) => (32, ""),
        IpAddr::V6(_) => (128, " nodad"),
    };
    lan.edge(edge)?.host.ip(&format!(
        "address {verb} {address}/{length} dev {INTERFACE}{nodad}"
    ))
}

/// Says to all that an address is on this edge now.
fn announce(lan: &Lan, edge: u8, address: Ipv4Addr) -> Result<()> {
    let edge = lan.edge(edge)?;
    let frame = frames::arp_request((edge.hardware(), address), address);
    edge.host
        .run(|| PacketSocket::open(INTERFACE)?.send(&frame))?;
    Ok(())
}

fn an_address_that_is_moved_is_followed_by_judge_client_and_cache() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let IpAddr::V4(v4) = vip(1) else {
        anyhow::bail!("it is of IPv4");
    };
    let any: IpAddr = [0_u16; 8].into();
    let _servers = lan
        .edges
        .iter()
        .map(|edge| named(&edge.host, &[(&edge.name, (any, 80).into())]))
        .collect::<Result<Vec<_>>>()?;
    for address in [vip(1), vip6(1)] {
        set(&lan, 1, "add", address)?;
    }
    let observer = lan.observe(&[vip(1), vip6(1)], ASKED_EVERY)?;
    let owners = observer.settled(&[vip(1), vip6(1)], SETTLED)?;
    let hardware = |n: u8| -> Result<[u8; 6]> { Ok(lan.edge(n)?.hardware()) };
    ensure!(
        owners.values().all(|it| Some(*it) == hardware(1).ok()),
        "{owners:?}"
    );

    let prober = Prober::start(&lan.client, SocketAddr::new(v4.into(), 80))?;
    let served = |prober: &Prober, by: &str| {
        let last = prober.ended().pop();
        let end = last.map(|it| it.end);
        matches!(end, Some(AttemptEnd::Answered(line)) if line.starts_with(by))
    };
    wait::until("edge-1 serves", || served(&prober, "edge-1 "))?;
    // Nobody has it until four attempts have failed for that.
    for address in [vip(1), vip6(1)] {
        set(&lan, 1, "delete", address)?;
    }
    wait::until("attempts fail", || figures(&prober.ended()).failed >= 4)?;
    for address in [vip(1), vip6(1)] {
        set(&lan, 2, "add", address)?;
    }
    announce(&lan, 2, v4)?;
    wait::until("edge-2 serves", || served(&prober, "edge-2 "))?;
    let owners = observer.settled(&[vip(1), vip6(1)], SETTLED)?;
    ensure!(
        owners.values().all(|it| Some(*it) == hardware(2).ok()),
        "{owners:?}"
    );
    let figures = figures(&prober.finish()?);
    ensure!(figures.outage >= Duration::from_millis(40), "{figures:?}");
    let known = lan.neighbor(&lan.client, v4.into())?;
    ensure!(
        known.as_ref().map(|it| it.0) == Some(hardware(2)?),
        "{known:?}"
    );

    let heard = observer.finish()?;
    for address in [vip(1), vip6(1)] {
        let spans = judge::spans(&heard, address);
        let who: Vec<_> = spans.iter().map(|it| it.hardware).collect();
        ensure!(who == [hardware(1)?, hardware(2)?], "{spans:?}");
    }
    ensure!(
        judge::overlaps(&heard).is_empty(),
        "{:?}",
        judge::overlaps(&heard)
    );
    Ok(())
}

fn an_address_on_two_hosts_is_found_to_be_there() -> Result<()> {
    let lan = Lan::new(2, Snooping::Mld)?;
    for (address, edge) in [(vip(1), 1), (vip6(1), 1), (vip(1), 2), (vip6(1), 2)] {
        set(&lan, edge, "add", address)?;
    }
    let observer = lan.observe(&[vip(1), vip6(1)], ASKED_EVERY)?;
    wait::until("it is seen of both addresses", || {
        let overlaps = judge::overlaps(&observer.heard());
        let long = overlaps
            .iter()
            .filter(|it| it.span() > Duration::from_secs(1));
        long.map(|it| it.address)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            == 2
    })
}

fn a_bridge_that_snoops_keeps_questions_from_who_has_not_joined() -> Result<()> {
    for (snooping, wanted) in [(Snooping::Off, true), (Snooping::Mld, false)] {
        let lan = Lan::new(2, snooping)?;
        let (one, other) = (lan.edge(1)?, lan.edge(2)?);
        let socket = other.host.run(|| PacketSocket::open(INTERFACE))?;
        let observer = lan.observe(&[one.ip6()], ASKED_EVERY)?;
        let mut buffer = vec![0; 2048];
        // At first the bridge itself has to learn who has joined.
        observer.settled(&[one.ip6()], SETTLED)?;
        while socket.receive(&mut buffer)?.is_some() {}
        // Who has joined is asked, and answers.
        observer.settled(&[one.ip6()], SETTLED * 2)?;
        let mut questions = 0;
        while let Some((frame, _)) = socket.receive(&mut buffer)? {
            // Who is asked for is the last part of what is asked.
            let asked = frame.get(62..78) == Some(&octets(one.ip6()));
            questions += u32::from(asked && frame.get(54) == Some(&135));
        }
        ensure!((questions > 3) == wanted, "{snooping:?}: {questions}");
        ensure!(wanted || questions == 0, "{snooping:?}: {questions}");
    }
    Ok(())
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn parted_hosts_do_not_reach_each_other_until_they_are_put_together() -> Result<()> {
    let lan = Lan::new(3, Snooping::Mld)?;
    let all: Vec<IpAddr> = lan
        .edges
        .iter()
        .flat_map(|it| [it.ip(), it.ip6()])
        .collect();
    let [near, far] = [&all[..4], &all[4..]];
    let (observer, apart) = (
        lan.observe(&all, ASKED_EVERY)?,
        lan.observe_apart(&all, ASKED_EVERY)?,
    );
    for observer in [&observer, &apart] {
        observer.settled(&all, SETTLED)?;
    }
    lan.part(&[lan.edge(3)?])?;
    for (observer, reached, lost) in [(&observer, near, far), (&apart, far, near)] {
        wait::until("one side is reached, and the other one is not", || {
            let since = Instant::now().checked_sub(SETTLED);
            let heard = since.map(|it| observer.heard_since(it)).unwrap_or_default();
            let named = judge::last_named(&heard, &all);
            reached.iter().all(|it| named.contains_key(it))
                && lost.iter().all(|it| !named.contains_key(it))
        })?;
    }
    lan.heal(&[lan.edge(3)?])?;
    for observer in [&observer, &apart] {
        observer.settled(&all, SETTLED)?;
    }
    Ok(())
}

fn a_cable_that_is_pulled_takes_the_carrier() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let edge = lan.edge(1)?;
    let carrier = || -> Result<bool> {
        let arguments = ["-oneline", "link", "show", "dev", INTERFACE];
        let line = edge
            .host
            .run(|| fairway_integration::clients::output("ip", &arguments))?;
        Ok(line.contains("LOWER_UP"))
    };
    ensure!(carrier()?);
    lan.unplug(edge)?;
    wait::until("the carrier is lost", || carrier().is_ok_and(|it| !it))?;
    lan.plug(edge)?;
    wait::until("the carrier is back", || carrier().is_ok_and(|it| it))?;
    lan.observe(&[edge.ip()], ASKED_EVERY)?
        .settled(&[edge.ip()], SETTLED)?;
    Ok(())
}

fn a_deaf_edge_does_not_hear_and_is_heard() -> Result<()> {
    let lan = Lan::new(3, Snooping::Off)?;
    let [one, two, three] = [lan.edge(1)?, lan.edge(2)?, lan.edge(3)?];
    let _servers: Result<Vec<_>> = lan
        .edges
        .iter()
        .map(|edge| named(&edge.host, &[(&edge.name, SocketAddr::new(edge.ip(), 80))]))
        .collect();
    let brief = Duration::from_millis(500);
    let reaches = |from: &fairway_integration::lan::network::LanEdge, to: IpAddr| {
        let to = SocketAddr::new(to, 80);
        from.host
            .run(|| std::net::TcpStream::connect_timeout(&to, brief).is_ok())
    };
    lan.deafen(one, &[two])?;
    // What two says does not arrive, an answer neither.
    ensure!(!reaches(one, two.ip()) && !reaches(two, one.ip()));
    ensure!(reaches(one, three.ip()) && reaches(three, two.ip()));
    // What one says does.
    let socket = two.host.run(|| std::net::UdpSocket::bind((two.ip(), 7)))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    one.host.run(|| {
        let own = std::net::UdpSocket::bind((one.ip(), 0))?;
        own.send_to(b"?", (two.ip(), 7))
    })?;
    ensure!(socket.recv(&mut [0; 8]).context("nothing arrived")? == 1);
    lan.undeafen(one)?;
    wait::until("it hears again", || reaches(one, two.ip()))
}

fn keepalived_without_its_cable_is_followed_and_frozen_it_answers_on() -> Result<()> {
    let lan = Lan::new(2, Snooping::Mld)?;
    let addresses = [vip(1), vip6(1)];
    let mut keepaliveds = Keepaliveds::start(&lan, &addresses, 80, 0.1)?;
    let plan = TrialPlan {
        addresses: &addresses,
        port: 80,
        departure: EdgeDeparture::Unplugged,
        held: 3,
        patience: wait::SOON,
    };
    // Who is away does not answer.
    let record = trial::run(&lan, &mut keepaliveds, &plan)?;
    ensure!(record.seen.len() == 2, "{:?}", record.seen);
    for (address, figures) in &record.seen {
        ensure!(
            figures.failed > 0 && figures.outage < plan.patience,
            "{address}: {figures:?}"
        );
        ensure!(record.owners[0][address] != record.owners[1][address]);
    }
    // Whose process is frozen does: the kernel answers. This is what the judge is for.
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    let owners = observer.settled(&addresses, SETTLED)?;
    let owner = lan.edge_with(owners[&vip(1)])?;
    keepaliveds.signal(owner, Signal::STOP)?;
    wait::until("two answer at once for long", || {
        judge::longest_overlap(&observer.heard()) > Duration::from_secs(1)
    })?;
    keepaliveds.signal(owner, Signal::CONT)?;
    observer.settled(&addresses, SETTLED)?;
    Ok(())
}
