//! Who is answered, and how.

use super::*;

#[test]
fn who_asks_for_an_owned_ipv4_address_is_answered() {
    let reply = |to: &str| format!("{OURS} > {CLIENT}: 203.0.113.1 tells {to} ({CLIENT})");
    let table = [
        (request(v4(9), CLIENT, v4(1)), reply("203.0.113.9")),
        // A probe (RFC 5227): who asks has no address yet.
        (
            request(Ipv4Addr::UNSPECIFIED, CLIENT, v4(1)),
            reply("0.0.0.0"),
        ),
        // Another address.
        (request(v4(9), CLIENT, v4(2)), "nothing".to_owned()),
        // Somebody announces our address: that is no question.
        (request(v4(1), OTHER, v4(1)), "nothing".to_owned()),
        // What would be sent to all stations, or to ourselves.
        (
            request(v4(9), HardwareAddress::BROADCAST, v4(1)),
            "nothing".to_owned(),
        ),
        (
            request(v4(9), HardwareAddress::NONE, v4(1)),
            "nothing".to_owned(),
        ),
        (request(v4(9), OURS, v4(1)), "nothing".to_owned()),
    ];
    for (frame, wanted) in table {
        assert_eq!(answer(&mut responder(), &frame), wanted, "{}", say(&frame));
    }
}

#[test]
fn who_solicits_an_owned_ipv6_address_is_answered() {
    let client = v6(9);
    let by_group = asking(client, v6(1));
    let told = format!(
        "{OURS} > {CLIENT}: {} tells {client} of {} at {OURS}, solicited, override",
        v6(1),
        v6(1)
    );
    let table = [
        (by_group, told.clone()),
        // To the address itself, and without an option: neighbours ask so whether it is still there.
        (
            NeighborSolicitation {
                destination: v6(1),
                source_hardware: None,
                ..by_group
            },
            told,
        ),
        // Duplicate address detection: the answer goes to all nodes.
        (
            NeighborSolicitation::detection(v6(1)),
            format!(
                "{OURS} > 33:33:00:00:00:01: {} tells ff02::1 of {} at {OURS}, override",
                v6(1),
                v6(1)
            ),
        ),
        // Other addresses; the second is in the same group.
        (asking(client, v6(2)), "nothing".to_owned()),
        (
            asking(client, Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0xab, 1)),
            "nothing".to_owned(),
        ),
        // What would be sent to a group.
        (
            NeighborSolicitation {
                source_hardware: Some(HardwareAddress::BROADCAST),
                ..by_group
            },
            "nothing".to_owned(),
        ),
    ];
    for (asked, wanted) in table {
        let frame = solicitation(&asked);
        assert_eq!(answer(&mut responder(), &frame), wanted, "{asked:?}");
    }
}

#[test]
fn nothing_is_answered_or_announced_once_the_right_is_over() {
    let frames = [
        request(v4(9), CLIENT, v4(1)),
        solicitation(&asking(v6(9), v6(1))),
        solicitation(&NeighborSolicitation::detection(v6(1))),
    ];
    let right = at(QUIET);
    for frame in &frames {
        let mut responder = responder();
        assert!(responder.receive(right, right, frame).is_some());
        let late = right.after(Duration::from_nanos(1));
        assert_eq!(responder.receive(late, right, frame), None);
    }
    let mut responder = Responder::new(OURS);
    responder.set_owned(at(0), &terms(&[v4(1).into()], 1));
    assert_eq!(responder.next_due(at(1), at(0)), None);
    assert_eq!(
        responder.due_at(at(1), at(0)),
        None,
        "it is waited for nothing"
    );
    assert!(
        responder.next_due(at(2), at(300)).is_some(),
        "with a new right it goes on"
    );
}

#[test]
fn a_priority_tag_is_passed_over_and_that_of_a_vlan_is_not() {
    let plain = request(v4(9), CLIENT, v4(1));
    let tagged = |tag: [u8; 2]| {
        let (addresses, rest) = plain.split_at(12);
        [addresses, &[0x81, 0x00], &tag, rest].concat()
    };
    assert_ne!(answer(&mut responder(), &tagged([0xe0, 0])), "nothing");
    assert_eq!(answer(&mut responder(), &tagged([0xe0, 5])), "nothing");
}

#[test]
fn a_message_that_rfc_4861_has_a_node_discard_is_discarded() {
    let packet = asking(v6(9), v6(1)).write();
    assert!(NeighborMessage::read(&packet).is_some());
    let padded = [packet.clone(), vec![0; 10]].concat();
    assert!(
        NeighborMessage::read(&padded).is_some(),
        "padding is no harm"
    );
    // Byte, what it becomes, whether the checksum is made right again.
    for (place, byte, repaired) in [
        (7, 254, false),  // a router has forwarded it
        (42, 0, false),   // a wrong checksum
        (41, 1, true),    // a code
        (48, 0xff, true), // a multicast target
        (65, 0, true),    // an option without a length
        (65, 2, true),    // an option longer than the message
        (6, 17, false),   // UDP
        (0, 0x40, false), // IPv4
    ] {
        let mut packet = packet.clone();
        *packet.get_mut(place).unwrap() = byte;
        if repaired {
            repair(&mut packet);
        }
        assert_eq!(NeighborMessage::read(&packet), None, "{place}");
    }
    // Detection with the asker's hardware address, or to another group.
    let detection = NeighborSolicitation::detection(v6(1));
    for wrong in [
        NeighborSolicitation {
            source_hardware: Some(CLIENT),
            ..detection
        },
        NeighborSolicitation {
            destination: v6(1),
            ..detection
        },
    ] {
        assert_eq!(NeighborMessage::read(&wrong.write()), None);
    }
    // Solicited, and yet to all nodes.
    let told = NeighborAdvertisement {
        source: v6(9),
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        target: v6(9),
        is_solicited: true,
        overrides: true,
        target_hardware: Some(CLIENT),
    };
    assert_eq!(NeighborMessage::read(&told.write()), None);
}

fn repair(packet: &mut [u8]) {
    packet.get_mut(42..44).unwrap().fill(0);
    let address = |at: usize| Ipv6Addr::from(*packet[at..].first_chunk::<16>().unwrap());
    let sum = crate::checksum::icmp_v6_checksum(address(8), address(24), &packet[40..]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn who_asks_without_an_end_makes_no_storm_for_all_nodes() {
    let mut responder = responder();
    let frame = solicitation(&NeighborSolicitation::detection(v6(1)));
    let answers = (0..10_000).filter(|ms| {
        let answer = responder.receive(at(QUIET + ms), FOREVER, &frame);
        answer.is_some()
    });
    let count = answers.count();
    assert!((1_000..=1_050).contains(&count), "{count} in ten seconds");
}
