//! Floods, conflicts, and interfaces that change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fairway_integration::lab::PacketSocket;
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::{frames, judge};
use fairway_integration::wait;

use crate::responder::{Responder, SETTLED, table};

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(v6) => bail!("{v6} is of IPv6"),
    }
}

pub(crate) fn a_flood_of_requests_holds_up_no_announcement() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let responder = Responder::start(&lan.edge(1)?.host, &[vip(1)])?;
    let flooding = AtomicBool::new(true);
    let hardware = lan.edge(2)?.hardware();
    let from = v4(lan.edge(2)?.ip())?;
    // For the owned address and for others, as fast as one thread can.
    let asked = [
        frames::arp_request((hardware, from), v4(vip(1))?),
        frames::arp_request((hardware, from), v4(vip(77))?),
    ];
    let socket = lan.edge(2)?.host.run(|| PacketSocket::open(INTERFACE))?;
    let (sent, outcome) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0_u64;
            while flooding.load(Ordering::Relaxed) {
                sent += asked
                    .iter()
                    .filter(|frame| socket.send(frame).is_ok())
                    .count() as u64;
            }
            sent
        });
        let outcome = (|| -> Result<()> {
            let overheard = lan.overhear()?;
            thread::sleep(Duration::from_millis(300));
            overheard.forget();
            // While it lasts, an address is taken and announced, and answered for.
            let taken = Instant::now();
            responder.own(&[vip(1), vip(2)], 2)?;
            wait::until("the new address is announced", || {
                overheard
                    .heard()
                    .iter()
                    .any(|it| it.naming.address == vip(2))
            })?;
            ensure!(
                taken.elapsed() < Duration::from_secs(5),
                "{:?}",
                taken.elapsed()
            );
            let observer = lan.observe(&[vip(2)], ASKED_EVERY)?;
            observer.settled(&[vip(2)], Duration::from_secs(1))?;
            ensure!(
                !responder.process.said().contains("has not turned"),
                "{}",
                responder.process.said()
            );
            Ok(())
        })();
        flooding.store(false, Ordering::Relaxed);
        (flood.join(), outcome)
    });
    outcome?;
    let sent = sent.unwrap_or_default();
    ensure!(sent > 20_000, "no flood: {sent}");
    Ok(())
}

pub(crate) fn four_thousand_addresses_are_announced_at_a_bounded_rate() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let owned: Vec<IpAddr> = (0..2000).flat_map(|n| [vip(n), vip6(n)]).collect();
    let responder = Responder::start(&lan.edge(1)?.host, &[])?;
    let overheard = lan.overhear()?;
    let taken = Instant::now();
    responder.own(&owned, 1)?;
    wait::until_some("each address is announced", || {
        let heard: BTreeSet<IpAddr> = overheard
            .heard()
            .iter()
            .map(|it| it.naming.address)
            .collect();
        ensure!(
            owned.iter().all(|it| heard.contains(it)),
            "{} of {}",
            heard.len(),
            owned.len()
        );
        Ok(())
    })?;
    let took = taken.elapsed();
    let heard = overheard.finish()?;
    // 500 at once, and 2,000 in a second; the observer may be late, not the announcements early.
    let most = 600 + 2 * took.as_millis();
    ensure!(
        heard.len() as u128 <= most,
        "{} frames in {took:?}",
        heard.len()
    );
    ensure!(took < Duration::from_secs(20), "{took:?}");
    let observer = lan.observe(&[vip(1999), vip6(1999), vip(0)], ASKED_EVERY)?;
    observer.settled(&[vip(1999), vip6(1999), vip(0)], SETTLED)?;
    Ok(())
}

pub(crate) fn a_forged_frame_is_answered_by_one_announcement() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let (one, other) = (lan.edge(1)?, lan.edge(2)?);
    let observer = lan.overhear()?;
    let responder = Responder::start(&one.host, &[vip(1)])?;
    // The announcements of the first seconds are over when the sixth one has been heard, in both forms.
    wait::until("the address was announced six times", || {
        let requests = observer.heard();
        requests
            .iter()
            .filter(|it| it.naming.address == vip(1))
            .count()
            >= 12
    })?;
    let forged = frames::arp_request((other.hardware(), v4(vip(1))?), v4(vip(1))?);
    let socket = other.host.run(|| PacketSocket::open(INTERFACE))?;
    observer.forget();
    for _ in 0..100 {
        socket.send(&forged)?;
    }
    let ours = || {
        let heard = observer.heard().into_iter().map(|it| it.naming);
        heard
            .filter(|it| it.address == vip(1) && it.hardware == one.hardware())
            .count()
    };
    wait::until("it is defended", || ours() > 0)?;
    // No second one soon.
    wait::always(Duration::from_secs(2), "it is defended once", || {
        ours() == 1
    })?;
    ensure!(
        !responder.process.said().contains("conflict"),
        "{}",
        responder.process.said()
    );
    Ok(())
}

pub(crate) fn a_host_with_the_same_address_is_a_conflict() -> Result<()> {
    let lan = Lan::new(2, Snooping::Mld)?;
    let responder = Responder::start(&lan.edge(1)?.host, &[vip(1), vip6(1)])?;
    // It says nothing to all of itself.
    lan.edge(2)?.host.ip(&format!(
        "address add {}/32 dev {INTERFACE}\naddress add {}/128 dev {INTERFACE} nodad",
        vip(1),
        vip6(1)
    ))?;
    for address in [vip(1), vip6(1)] {
        responder.says(&format!("conflict {address} 02:00:00:00:01:02"))?;
    }
    Ok(())
}

pub(crate) fn an_interface_may_go_and_come_back_with_another_hardware_address() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let edge = lan.edge(1)?;
    let responder = Responder::start(&edge.host, &[vip(1), vip6(1)])?;
    let both = [vip(1), vip6(1)];
    let observer = lan.observe(&both, ASKED_EVERY)?;
    observer.settled(&both, SETTLED)?;
    edge.host.ip(&format!("link set dev {INTERFACE} down"))?;
    responder.says("fault the interface is down")?;
    observer.forget();
    edge.host.ip(&format!("link set dev {INTERFACE} up"))?;
    observer.settled(&both, SETTLED)?;
    let told = |hardware: [u8; 6], address: IpAddr| {
        observer.heard().iter().any(|it| {
            it.naming.address == address && it.naming.hardware == hardware && !it.naming.is_answer
        })
    };
    wait::until("both are announced at link up", || {
        both.iter().all(|it| told(edge.hardware(), *it))
    })?;
    edge.host.ip(&format!(
        "link set dev {INTERFACE} address 02:00:00:00:77:77"
    ))?;
    let new = [2, 0, 0, 0, 0x77, 0x77];
    wait::until("both are announced with the new hardware address", || {
        both.iter().all(|it| told(new, *it))
    })?;
    let owners = observer.settled(&both, Duration::from_secs(1))?;
    ensure!(owners.values().all(|it| *it == new), "{owners:?}");
    Ok(())
}

pub(crate) fn an_address_that_is_probed_for_is_found_free_or_taken() -> Result<()> {
    let lan = Lan::new(2, Snooping::Mld)?;
    let responder = Responder::start(&lan.edge(1)?.host, &[])?;
    let (free, free6) = (vip(40), vip6(40));
    let (taken, taken6) = (vip(41), vip6(41));
    lan.edge(2)?.host.ip(&format!(
        "address add {taken}/16 dev {INTERFACE}\naddress add {taken6}/64 dev {INTERFACE} nodad"
    ))?;
    for (address, outcome) in [
        (free, "Free"),
        (free6, "Free"),
        (taken, "Taken(02:00:00:00:01:02)"),
        (taken6, "Taken(02:00:00:00:01:02)"),
    ] {
        responder.tell(&format!("probe {address}"))?;
        responder.says(&format!("probed {address} {outcome}"))?;
    }
    Ok(())
}

pub(crate) fn an_address_of_an_interface_stays_reachable_and_is_told() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let host = &lan.edge(1)?.host;
    host.addresses(INTERFACE, &[(vip(9), 16)])?;
    let responder = Responder::start(host, &[])?;
    responder.says(&format!("kernel answers for {}", vip(9)))?;
    let written = table(host)?;
    ensure!(written.contains("198.19.1.0-198.19.1.8"), "{written}");
    let observer = lan.observe(&[vip(9), vip(1)], ASKED_EVERY)?;
    observer.settled(&[vip(9)], SETTLED)?;
    ensure!(judge::spans(&observer.heard(), vip(1)).is_empty());
    Ok(())
}
