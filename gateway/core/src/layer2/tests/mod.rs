#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod announcements;
mod answers;
mod conflicts;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::frame::{ARP, EthernetFrame, IP_V6, ethernet};
use super::*;
use crate::fleet::BootTime;

const OURS: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 1]);
const CLIENT: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 0xc1]);
const OTHER: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 0xee]);

/// The right lasts until then, unless a test says something else.
const FOREVER: BootTime = BootTime(Duration::from_secs(1_000_000));

fn at(milliseconds: u64) -> BootTime {
    BootTime(Duration::from_millis(1_000_000 + milliseconds))
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xab, last)
}

fn terms(addresses: &[IpAddr], term: u64) -> BTreeMap<IpAddr, u64> {
    addresses.iter().map(|address| (*address, term)).collect()
}

/// One that owns 203.0.113.1 and 2001:db8::ab:1, and has announced them.
fn responder() -> Responder {
    let mut responder = Responder::new(OURS);
    responder.set_owned(at(0), &terms(&[v4(1).into(), v6(1).into()], 1));
    for ms in 0..=5000 {
        while responder.next_due(at(ms), FOREVER).is_some() {}
    }
    responder
}

/// A time at which nothing of that is left to be sent.
const QUIET: u64 = 6000;

fn request(sender: Ipv4Addr, hardware: HardwareAddress, target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpPacket {
        operation: ArpOperation::Request,
        sender_hardware: hardware,
        sender,
        target_hardware: HardwareAddress::NONE,
        target,
    };
    ethernet(HardwareAddress::BROADCAST, hardware, ARP, &packet.write())
}

fn solicitation(asked: &NeighborSolicitation) -> Vec<u8> {
    ethernet(OURS, CLIENT, IP_V6, &asked.write())
}

fn asking(source: Ipv6Addr, target: Ipv6Addr) -> NeighborSolicitation {
    NeighborSolicitation {
        source,
        destination: solicited_node(target),
        target,
        source_hardware: Some(CLIENT),
    }
}

/// A frame in words.
fn say(bytes: &[u8]) -> String {
    let to = HardwareAddress(*bytes.first_chunk().unwrap());
    let frame = EthernetFrame::read(bytes).unwrap();
    let from = frame.source;
    let what = match frame.kind {
        ARP => {
            let it = ArpPacket::read(frame.payload).unwrap();
            let (hardware, target) = (it.target_hardware, it.target);
            match it.operation {
                ArpOperation::Request => format!("who has {target}, tell {}", it.sender),
                ArpOperation::Reply => format!("{} tells {target} ({hardware})", it.sender),
            }
        }
        _ => match NeighborMessage::read(frame.payload).unwrap() {
            NeighborMessage::Solicitation(it) => {
                format!(
                    "who has {}, tell {} by {}",
                    it.target, it.source, it.destination
                )
            }
            NeighborMessage::Advertisement(it) => format!(
                "{} tells {} of {} at {:?}{}{}",
                it.source,
                it.destination,
                it.target,
                it.target_hardware.unwrap(),
                if it.is_solicited { ", solicited" } else { "" },
                if it.overrides { ", override" } else { "" },
            ),
        },
    };
    format!("{from} > {to}: {what}")
}

fn answer(responder: &mut Responder, frame: &[u8]) -> String {
    let answer = responder.receive(at(QUIET), FOREVER, frame);
    answer.map_or_else(|| "nothing".to_owned(), |it| say(&it.bytes))
}

fn any_hardware() -> impl Strategy<Value = HardwareAddress> {
    prop_oneof![
        Just(OURS),
        Just(CLIENT),
        Just(HardwareAddress::BROADCAST),
        any::<[u8; 6]>().prop_map(HardwareAddress),
    ]
}

/// A frame that is nearly right: one of ours, with some bytes changed, cut, or with more after it.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        Just(request(v4(9), CLIENT, v4(1))),
        Just(solicitation(&asking(v6(9), v6(1)))),
        Just(solicitation(&NeighborSolicitation::detection(v6(1)))),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (good, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut frame, changes, end, is_cut)| {
            for (place, byte) in changes {
                let place = place.index(frame.len());
                *frame.get_mut(place).unwrap() = byte;
            }
            if is_cut {
                frame.truncate(end.index(frame.len()));
            }
            frame
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_do_harm(
        frames in proptest::collection::vec(
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..120), nearly_right()],
            0..20,
        ),
    ) {
        let mut responder = responder();
        for (n, frame) in frames.iter().enumerate() {
            let now = at(QUIET + n as u64);
            if let Some(answer) = responder.receive(now, FOREVER, frame) {
                // What it says is well formed, by us, of an address of ours, and goes to one or to all nodes.
                let said = say(&answer.bytes);
                prop_assert!(said.starts_with(&OURS.to_string()), "{said}");
                prop_assert!(
                    said.contains("203.0.113.1 tells") || said.contains(&format!("of {}", v6(1))),
                    "{said}"
                );
            }
            while let Some(frame) = responder.next_due(now, FOREVER) {
                say(&frame.bytes);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(
        source in any::<u128>().prop_map(Ipv6Addr::from_bits),
        target in any::<u128>().prop_map(Ipv6Addr::from_bits),
        hardware in proptest::option::of(any_hardware()),
        overrides in any::<bool>(),
        sender in any::<u32>().prop_map(Ipv4Addr::from_bits),
        is_request in any::<bool>(),
    ) {
        prop_assume!(!source.is_multicast() && !target.is_multicast() && !source.is_unspecified());
        let asked = NeighborSolicitation {
            source,
            destination: solicited_node(target),
            target,
            source_hardware: hardware,
        };
        prop_assert_eq!(
            NeighborMessage::read(&asked.write()),
            Some(NeighborMessage::Solicitation(asked))
        );
        let told = NeighborAdvertisement {
            source: target,
            destination: source,
            target,
            is_solicited: true,
            overrides,
            target_hardware: hardware,
        };
        prop_assert_eq!(
            NeighborMessage::read(&told.write()),
            Some(NeighborMessage::Advertisement(told))
        );
        let packet = ArpPacket {
            operation: if is_request { ArpOperation::Request } else { ArpOperation::Reply },
            sender_hardware: hardware.unwrap_or(OTHER),
            sender,
            target_hardware: OURS,
            target: v4(1),
        };
        prop_assert_eq!(ArpPacket::read(&packet.write()), Some(packet));
    }
}
