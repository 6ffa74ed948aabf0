//! Others that have our addresses, or new ones.

use std::collections::BTreeSet;

use super::*;
use crate::layer2::ndp::ALL_NODES;

/// Frames that were sent from one time to another, by kind.
fn sent(responder: &mut Responder, from: u64, to: u64) -> Vec<(u64, FrameKind)> {
    let mut sent = Vec::new();
    for ms in from..to {
        while let Some(frame) = responder.next_due(at(ms), FOREVER) {
            if !matches!(frame.kind, FrameKind::Announcement(_)) {
                sent.push((ms, frame.kind));
            }
        }
    }
    sent
}

#[test]
fn a_forged_frame_is_defended_once_and_asked_after() {
    let told = NeighborAdvertisement {
        source: v6(1),
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        target: v6(1),
        is_solicited: false,
        overrides: true,
        target_hardware: Some(OTHER),
    };
    let table: [(IpAddr, Vec<u8>); 2] = [
        (v4(1).into(), request(v4(1), OTHER, v4(1))),
        (v6(1).into(), ethernet(OURS, OTHER, IP_V6, &told.write())),
    ];
    for (address, forged) in table {
        let mut responder = responder();
        // A thousand of them in a second.
        for n in 0..1000 {
            assert_eq!(responder.receive(at(QUIET + n), FOREVER, &forged), None);
        }
        let sent = sent(&mut responder, QUIET, QUIET + 9000);
        assert_eq!(
            sent,
            [
                (QUIET + 300, FrameKind::Defence(address)),
                (QUIET + 1000, FrameKind::Probe),
            ],
            "{address}"
        );
        assert_eq!(
            responder.conflicts(),
            BTreeMap::new(),
            "no word of it later"
        );
    }
}

#[test]
fn who_forges_a_new_hardware_address_in_each_frame_makes_no_news() {
    let mut responder = responder();
    for n in (0..60_000_u64).step_by(10) {
        let [.., high, low] = n.to_be_bytes();
        let forged = HardwareAddress([2, 0, 0, 1, high, low]);
        let frame = request(v4(1), forged, v4(1));
        responder.receive(at(QUIET + n), FOREVER, &frame);
        if n == 0 || n > 25_000 {
            // That one is seen all the time.
            let frame = request(v4(1), OTHER, v4(1));
            responder.receive(at(QUIET + n), FOREVER, &frame);
        }
        while responder.next_due(at(QUIET + n), FOREVER).is_some() {}
        let told = responder.conflicts();
        let told: Vec<_> = told.values().map(|it| it.hardware_address).collect();
        let first = HardwareAddress([2, 0, 0, 1, 0, 0]);
        match n {
            ..1_000 => assert_eq!(told, []),
            1_000..25_000 => assert_eq!(told, [first], "{n}"),
            25_000.. => assert_eq!(told.len(), 1, "{n}"),
        }
    }
    // One has been seen for the last 25 seconds.
    let told = responder.conflicts();
    assert!(told.values().all(|it| it.since == at(QUIET)), "{told:?}");
}

#[test]
fn thousands_of_forged_frames_are_answered_at_a_bounded_rate() {
    let mut responder = Responder::new(OURS);
    let all: Vec<Ipv4Addr> = (0..4_000_u32)
        .map(|n| Ipv4Addr::from_bits(0xc613_0100 + n))
        .collect();
    let owned = all.iter().map(|it| (IpAddr::V4(*it), 1)).collect();
    responder.set_owned(at(0), &owned);
    let mut sent = 0;
    for ms in 0..20_000 {
        if ms == 10_000 {
            for address in &all {
                let forged = request(*address, OTHER, *address);
                responder.receive(at(ms), FOREVER, &forged);
            }
        }
        let mut now = 0;
        while responder.next_due(at(ms), FOREVER).is_some() {
            now += 1;
        }
        if ms > 10_000 {
            sent += now;
            assert!(
                sent <= 600 + 2 * (ms - 10_000),
                "{sent} in {} ms",
                ms - 10_000
            );
        }
    }
    assert!(sent >= 8_000, "each is defended and asked for: {sent}");
}

#[test]
fn one_that_goes_on_is_a_conflict_until_it_is_gone() {
    let mut responder = responder();
    let forged = request(v4(1), OTHER, v4(9));
    responder.receive(at(QUIET), FOREVER, &forged);
    let mut defences = Vec::new();
    let mut stated = None;
    for ms in QUIET..QUIET + 60_000 {
        while let Some(frame) = responder.next_due(at(ms), FOREVER) {
            match frame.kind {
                FrameKind::Defence(_) => defences.push(ms),
                // It answers when it is asked, for half a minute.
                FrameKind::Probe if ms < QUIET + 30_000 => {
                    let reply = ArpPacket {
                        operation: ArpOperation::Reply,
                        sender_hardware: OTHER,
                        sender: v4(1),
                        target_hardware: OURS,
                        target: Ipv4Addr::UNSPECIFIED,
                    };
                    let reply = ethernet(OURS, OTHER, ARP, &reply.write());
                    responder.receive(at(ms), FOREVER, &reply);
                }
                _ => {}
            }
        }
        let conflicts = responder.conflicts();
        if ms < QUIET + 1000 {
            assert!(conflicts.is_empty());
        } else if ms < QUIET + 30_000 {
            let conflict = conflicts.get(&v4(1).into()).unwrap();
            assert_eq!(conflict.hardware_address, OTHER);
            assert_eq!(conflict.since, at(QUIET));
            stated = Some(ms);
        }
    }
    assert!(stated.is_some());
    assert_eq!(responder.conflicts(), BTreeMap::new(), "it has gone");
    // At once, and again while it is seen, at most every ten seconds.
    assert_eq!(defences.first(), Some(&(QUIET + 300)));
    assert!(defences.len() > 1, "{defences:?}");
    let apart = defences.windows(2).all(|pair| pair[1] - pair[0] >= 10_000);
    assert!(apart, "{defences:?}");
}

#[test]
fn one_that_only_answers_who_asks_is_found_soon_and_as_long_as_the_address_is_ours() {
    let quiet_host = |responder: &mut Responder, ms: u64| {
        while let Some(frame) = responder.next_due(at(ms), FOREVER) {
            let asks = say(&frame.bytes);
            if asks.contains("who has 203.0.113.1, tell 0.0.0.0") {
                let reply = ArpPacket {
                    operation: ArpOperation::Reply,
                    sender_hardware: OTHER,
                    sender: v4(1),
                    target_hardware: OURS,
                    target: Ipv4Addr::UNSPECIFIED,
                };
                let reply = ethernet(OURS, OTHER, ARP, &reply.write());
                responder.receive(at(ms), FOREVER, &reply);
            } else if asks.contains(&format!("tell :: by {}", solicited_node(v6(1)))) {
                let told = NeighborAdvertisement {
                    source: v6(1),
                    destination: ALL_NODES,
                    target: v6(1),
                    is_solicited: false,
                    overrides: true,
                    target_hardware: Some(OTHER),
                };
                let told = ethernet(OURS, OTHER, IP_V6, &told.write());
                responder.receive(at(ms), FOREVER, &told);
            }
        }
    };
    let both: [IpAddr; 2] = [v4(1).into(), v6(1).into()];
    // It is there when the address is taken, or comes long after.
    for comes in [0, 300_000] {
        let mut responder = Responder::new(OURS);
        responder.set_owned(at(0), &terms(&both, 1));
        for ms in 0..comes {
            while responder.next_due(at(ms), FOREVER).is_some() {}
        }
        assert_eq!(responder.conflicts(), BTreeMap::new());
        let found = (comes..comes + 32_000).find(|ms| {
            quiet_host(&mut responder, *ms);
            responder.conflicts().len() == 2
        });
        let found = found.expect("it is found") - comes;
        assert!(comes > 0 || found < 3_500, "{found} ms");
    }
}

#[test]
fn another_gateway_that_takes_the_address_over_is_no_conflict() {
    let mut responder = responder();
    let forged = request(v4(1), OTHER, v4(1));
    responder.receive(at(QUIET), FOREVER, &forged);
    assert!(sent(&mut responder, QUIET, QUIET + 300).is_empty());
    // By now it has heard of the new term.
    responder.set_owned(at(QUIET + 300), &terms(&[v6(1).into()], 1));
    responder.receive(at(QUIET + 1500), FOREVER, &forged);
    assert!(sent(&mut responder, QUIET + 300, QUIET + 5000).is_empty());
    assert_eq!(responder.conflicts(), BTreeMap::new());
}

#[test]
fn another_interface_of_this_host_is_no_conflict() {
    let mut responder = responder();
    responder.set_host_hardware([OTHER]);
    for ms in [0, 1500, 3000] {
        responder.receive(at(QUIET + ms), FOREVER, &request(v4(1), OTHER, v4(1)));
    }
    assert!(sent(&mut responder, QUIET, QUIET + 5000).is_empty());
    assert_eq!(responder.conflicts(), BTreeMap::new());
}

#[test]
fn a_new_address_is_free_when_nobody_answers_within_a_second() {
    let free: IpAddr = v4(50).into();
    let free6: IpAddr = v6(0x50).into();
    let taken: IpAddr = v4(51).into();
    let taken6: IpAddr = v6(0x51).into();
    let mut responder = Responder::new(OURS);
    responder.probe(at(0), [free, free6, taken, taken6]);
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let mut results = Vec::new();
    for ms in 0..1000 {
        // Without any right: it owns nothing.
        while let Some(frame) = responder.next_due(at(ms), BootTime::default()) {
            assert!(!frame.kind.claims());
            *asked.entry(say(&frame.bytes)).or_default() += 1;
        }
        if ms == 250 {
            // One that probes as well has no address yet.
            let probe = request(Ipv4Addr::UNSPECIFIED, OTHER, v4(50));
            responder.receive(at(ms), BootTime::default(), &probe);
            let reply = request(v4(51), CLIENT, v4(9));
            responder.receive(at(ms), BootTime::default(), &reply);
            let told = NeighborAdvertisement {
                source: v6(0x51),
                destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                target: v6(0x51),
                is_solicited: false,
                overrides: false,
                target_hardware: Some(CLIENT),
            };
            let told = ethernet(HardwareAddress::BROADCAST, CLIENT, IP_V6, &told.write());
            responder.receive(at(ms), BootTime::default(), &told);
        }
        results.extend(responder.take_probe_results());
    }
    let results: BTreeMap<_, _> = results.iter().map(|it| (it.address, it.outcome)).collect();
    let wanted = [
        (free, ProbeOutcome::Free),
        (free6, ProbeOutcome::Free),
        (taken, ProbeOutcome::Taken(CLIENT)),
        (taken6, ProbeOutcome::Taken(CLIENT)),
    ];
    assert_eq!(results, BTreeMap::from(wanted));
    let times: BTreeSet<usize> = asked.values().copied().collect();
    assert_eq!(times, BTreeSet::from([2, 3]), "{asked:?}");
    assert!(
        asked
            .keys()
            .any(|it| it.contains("who has 203.0.113.50, tell 0.0.0.0"))
    );
    let group = solicited_node(v6(0x50));
    assert!(
        asked
            .keys()
            .any(|it| it.ends_with(&format!("tell :: by {group}")))
    );
}

#[test]
fn a_probe_on_a_link_that_goes_away_has_no_answer() {
    let mut responder = Responder::new(OURS);
    responder.probe(at(0), [v4(50).into()]);
    responder.link_is_gone();
    let wanted = ProbeResult {
        address: v4(50).into(),
        outcome: ProbeOutcome::Unknown,
    };
    assert_eq!(responder.take_probe_results(), [wanted]);
}

#[test]
fn thousands_of_probes_do_not_keep_announcements_waiting() {
    let mut responder = responder();
    let many = (0..4000).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)));
    responder.probe(at(QUIET), many);
    // The rate is used up.
    while responder.next_due(at(QUIET), FOREVER).is_some() {}
    let due = responder.due_at(at(QUIET), FOREVER);
    assert!(due.is_some_and(|due| at(QUIET) < due), "{due:?}");
    let now = at(QUIET + 10);
    responder.set_owned(now, &terms(&[v4(1).into(), v6(1).into(), v4(2).into()], 1));
    let said: Vec<_> = (0..4)
        .filter_map(|_| responder.next_due(now, FOREVER))
        .collect();
    let claims = said.iter().filter(|it| it.kind.claims());
    assert!(claims.count() >= 2, "{said:?}");
    let mut results = Vec::new();
    for ms in QUIET + 10..QUIET + 8000 {
        while responder.next_due(at(ms), FOREVER).is_some() {}
        results.extend(responder.take_probe_results());
    }
    assert_eq!(results.len(), 4000);
}
