//! Who is answered by whom, and what neighbors learn.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fairway_gateway_core::fleet::RIGHT;
use fairway_integration::lab::Host;
use fairway_integration::lan::judge;
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::{clients, wait};
use rustix::process::Signal;

use crate::responder::{Responder, SETTLED, table};

pub(crate) fn the_owner_answers_and_nobody_else() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    // What the kernels would answer for, if nothing kept them.
    let _one = Responder::start(&lan.edge(1)?.host, &[vip(1), vip6(1)])?;
    let _other = Responder::start(&lan.edge(2)?.host, &[vip(2), vip6(2)])?;
    let all = [vip(1), vip6(1), vip(2), vip6(2), vip(3), vip6(3)];
    let observer = lan.observe(&all, ASKED_EVERY)?;
    let owners = observer.settled(&all[..4], SETTLED)?;
    let (one, other) = (lan.edge(1)?.hardware(), lan.edge(2)?.hardware());
    for (address, owner) in [
        (vip(1), one),
        (vip6(1), one),
        (vip(2), other),
        (vip6(2), other),
    ] {
        ensure!(
            owners.get(&address) == Some(&owner),
            "{address}: {owners:?}"
        );
    }
    let heard = observer.finish()?;
    for nobodys in [vip(3), vip6(3)] {
        let spans = judge::spans(&heard, nobodys);
        ensure!(spans.is_empty(), "{nobodys}: {spans:?}");
    }
    ensure!(
        judge::overlaps(&heard).is_empty(),
        "{:?}",
        judge::overlaps(&heard)
    );
    Ok(())
}

pub(crate) fn a_process_that_is_killed_or_stopped_answers_no_longer() -> Result<()> {
    for signal in [Signal::KILL, Signal::STOP] {
        let lan = Lan::new(1, Snooping::Off)?;
        let owned = [vip(1), vip6(1)];
        let responder = Responder::start(&lan.edge(1)?.host, &owned)?;
        let observer = lan.observe(&owned, Duration::from_millis(5))?;
        observer.settled(&owned, SETTLED)?;
        let gone = Instant::now();
        responder.process.signal(signal)?;
        // As long as a right lasts, and as long as it takes to hear of an answer on a busy machine.
        let silent_from = gone + RIGHT + Duration::from_millis(50);
        thread::sleep(Duration::from_secs(1));
        let late = observer.heard_since(silent_from);
        ensure!(late.is_empty(), "{signal:?}: {late:?}");
        if signal == Signal::STOP {
            // The machine was asleep, or the process starved. When it goes on, it answers again once it has a right.
            responder.process.signal(Signal::CONT)?;
            observer.settled(&owned, SETTLED)?;
        }
    }
    Ok(())
}

pub(crate) fn the_table_outlives_a_kill_is_taken_over_and_goes_with_a_clean_end() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let edge = lan.edge(1)?;
    ensure!(table(&edge.host).is_err());
    let mut responder = Responder::start(&edge.host, &[vip(1)])?;
    let written = table(&edge.host)?;
    let addresses = "198.19.1.0-198.20.0.255";
    let wanted = [
        "type filter hook input priority filter; policy accept;".to_owned(),
        format!("arp daddr ip {addresses} drop"),
        "type filter hook output priority filter; policy accept;".to_owned(),
        format!("arp saddr ip {addresses} goto sender"),
        format!(
            "oifname \"{INTERFACE}\" arp saddr ip set {} accept",
            edge.ip()
        ),
        "arp saddr ip set 0.0.0.0".to_owned(),
    ];
    for line in &wanted {
        ensure!(written.contains(line.as_str()), "no «{line}» in {written}");
    }
    responder.process.signal(Signal::KILL)?;
    responder.process.wait(wait::SOON)?;
    ensure!(table(&edge.host)? == written);
    // Nobody answers, although the route is there.
    let observer = lan.observe(&[vip(1)], ASKED_EVERY)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(observer.heard().is_empty(), "{:?}", observer.heard());

    let responder = Responder::start(&edge.host, &[vip(1)])?;
    ensure!(table(&edge.host)? == written);
    observer.settled(&[vip(1)], SETTLED)?;
    responder.end()?;
    ensure!(table(&edge.host).is_err(), "{}", table(&edge.host)?);
    Ok(())
}

pub(crate) fn a_table_that_somebody_removes_or_empties_is_made_again() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let host = &lan.edge(1)?.host;
    let _responder = Responder::start(host, &[vip(1)])?;
    let written = table(host)?;
    for harm in [
        "flush ruleset",
        "flush table arp fairway",
        "flush chain arp fairway sender",
        "insert rule arp fairway input accept",
    ] {
        let words: Vec<&str> = harm.split(' ').collect();
        host.run(|| clients::output("nft", &words))?;
        wait::until(&format!("the table is there again after: {harm}"), || {
            table(host).is_ok_and(|now| now == written)
        })?;
    }
    Ok(())
}

/// Sends a datagram from an external address to the client, for whom the sender has no neighbor entry.
fn send_from(host: &Host, from: IpAddr, to: IpAddr) -> Result<()> {
    // Whether there was an entry does not matter.
    let _ = host.ip(&format!("neighbour delete {to} dev {INTERFACE}"));
    host.run(|| -> Result<()> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.send_to(b"x", (to, 9))?;
        Ok(())
    })
}

pub(crate) fn who_does_not_own_an_address_and_sends_from_it_does_not_take_it_away() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let (one, other) = (lan.edge(1)?, lan.edge(2)?);
    // A socket may be bound to an IPv6 address that is local by a route.
    other.host.sysctl("ipv6/ip_nonlocal_bind", "1")?;
    let owner = Responder::start(&one.host, &[vip(1), vip6(1)])?;
    let bystander = Responder::start(&other.host, &[])?;
    let client: IpAddr = "198.19.0.101".parse()?;
    // Number 101.
    let client6: IpAddr = "2001:db8:c::65".parse()?;
    let known = |address| -> Result<Option<[u8; 6]>> {
        Ok(lan.neighbor(&lan.client, address)?.map(|it| it.0))
    };
    // The client learns where the addresses are.
    lan.client.run(|| -> Result<()> {
        for to in [vip(1), vip6(1)] {
            let from: IpAddr = if to.is_ipv4() { client } else { client6 };
            UdpSocket::bind((from, 0))?.send_to(b"x", SocketAddr::new(to, 9))?;
        }
        Ok(())
    })?;
    for address in [vip(1), vip6(1)] {
        wait::until_some("the client knows the owner", || {
            ensure!(
                known(address)? == Some(one.hardware()),
                "{:?}",
                known(address)?
            );
            Ok(())
        })?;
    }
    let overheard = lan.overhear()?;
    send_from(&other.host, vip(1), client)?;
    send_from(&other.host, vip6(1), client6)?;
    // It has resolved the client by now, and said who it is.
    for (address, to) in [(other.ip(), client), (other.ip6(), client6)] {
        wait::until_some(
            &format!("{to} is known to edge-2, and asked by {address}"),
            || {
                let entry = lan.neighbor(&other.host, to)?;
                ensure!(entry.is_some(), "{entry:?}");
                Ok(())
            },
        )?;
    }
    let asked_as: Vec<_> = overheard.heard().into_iter().map(|it| it.naming).collect();
    ensure!(
        asked_as.iter().any(|it| it.address == other.ip()),
        "{asked_as:?}"
    );
    let stolen = asked_as.iter().filter(|it| it.hardware == other.hardware());
    let stolen: Vec<_> = stolen
        .filter(|it| [vip(1), vip6(1)].contains(&it.address))
        .collect();
    ensure!(stolen.is_empty(), "{stolen:?}");
    for address in [vip(1), vip6(1)] {
        ensure!(
            known(address)? == Some(one.hardware()),
            "{address}: {:?}",
            known(address)?
        );
    }
    // Without the table it would: the test can fail.
    bystander.end()?;
    send_from(&other.host, vip(1), client)?;
    wait::until_some("the address is taken away", || {
        let naming = overheard.heard().into_iter().map(|it| it.naming);
        let naming: Vec<_> = naming.collect();
        let stolen = naming
            .iter()
            .any(|it| it.address == vip(1) && it.hardware == other.hardware());
        ensure!(stolen, "{naming:?}");
        Ok(())
    })?;
    drop(owner);
    Ok(())
}

pub(crate) fn a_neighbor_that_asks_the_owner_alone_is_answered() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let edge = lan.edge(1)?;
    let _responder = Responder::start(&edge.host, &[vip(1), vip6(1)])?;
    let [a, b, c, d, e, f] = edge.hardware();
    for address in [vip(1), vip6(1)] {
        // In the state PROBE the kernel asks whom it knows, and nobody else (RFC 4861, 7.3.3; arp(7)).
        lan.client.ip(&format!(
            "neighbour replace {address} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev {INTERFACE} nud probe"
        ))?;
        wait::until_some(&format!("{address} is reachable"), || {
            let entry = lan.neighbor(&lan.client, address)?;
            let state = entry.as_ref().map(|it| it.1.as_str());
            ensure!(state == Some("REACHABLE"), "{entry:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub(crate) fn an_address_that_passes_to_another_edge_is_followed_at_once() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let (one, other) = (lan.edge(1)?, lan.edge(2)?);
    let both = [vip(1), vip6(1)];
    let first = Responder::start(&one.host, &both)?;
    let second = Responder::start(&other.host, &[])?;
    let heard = lan.overhear()?;
    lan.client.run(|| -> Result<()> {
        for to in both {
            let any: IpAddr = if to.is_ipv4() {
                [0; 4].into()
            } else {
                [0_u16; 8].into()
            };
            UdpSocket::bind((any, 0))?.send_to(b"x", SocketAddr::new(to, 9))?;
        }
        Ok(())
    })?;
    let is_at = |address, hardware| {
        wait::until_some(&format!("{address} is known at {hardware:02x?}"), || {
            let entry = lan.neighbor(&lan.client, address)?;
            ensure!(entry.as_ref().map(|it| it.0) == Some(hardware), "{entry:?}");
            Ok(())
        })
    };
    for address in both {
        is_at(address, one.hardware())?;
    }
    heard.forget();
    first.own(&[], 1)?;
    second.own(&both, 2)?;
    for address in both {
        is_at(address, other.hardware())?;
    }
    // In every form, and more than once.
    wait::until_some("each address is announced three times", || {
        let heard = heard.heard();
        for address in both {
            let told = heard.iter().filter(|it| {
                it.naming.address == address
                    && it.naming.hardware == other.hardware()
                    && !it.naming.is_answer
            });
            let count = told.count();
            let forms = if address.is_ipv4() { 2 } else { 1 };
            ensure!(count >= 3 * forms, "{address}: {count} times");
        }
        Ok(())
    })
}

pub(crate) fn a_bridge_that_snoops_passes_solicitations_to_the_owner() -> Result<()> {
    let lan = Lan::new(2, Snooping::Mld)?;
    let one = Responder::start(&lan.edge(1)?.host, &[])?;
    let observer = lan.observe(&[vip6(0x4242)], ASKED_EVERY)?;
    thread::sleep(Duration::from_millis(500));
    ensure!(observer.heard().is_empty());
    one.own(&[vip6(0x4242)], 1)?;
    let owners = observer.settled(&[vip6(0x4242)], SETTLED)?;
    ensure!(
        owners
            .values()
            .all(|it| lan.edge(1).is_ok_and(|edge| *it == edge.hardware()))
    );
    // The bridge knows it from a report.
    let groups = || {
        lan.switch
            .run(|| clients::output("bridge", &["mdb", "show"]))
    };
    let port = lan.edge(1)?.port();
    let is_joined = |groups: &str| {
        let group = "ff02::1:ff0f:4242";
        let mut lines = groups.lines();
        lines.any(|line| line.contains(group) && line.contains(&port))
    };
    wait::until_some("the bridge knows that edge-1 has joined", || {
        let groups = groups()?;
        ensure!(is_joined(&groups), "{groups}");
        Ok(())
    })?;
    // And from another one that it has left.
    one.own(&[], 2)?;
    wait::until_some("the bridge knows that edge-1 has left", || {
        let groups = groups()?;
        ensure!(!is_joined(&groups), "{groups}");
        Ok(())
    })
}
