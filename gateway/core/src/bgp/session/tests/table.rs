//! A router that knows what it was told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::bgp::decode;
use crate::bgp::message::{BgpMessage, BgpNotification};

/// What a router knows by the UPDATEs that it has got: written apart from `encode`.
#[derive(Default)]
pub(super) struct Table {
    pub(super) routes: BTreeMap<IpNet, Vec<(u8, Vec<u8>)>>,
    pub(super) updates: usize,
    unread: Vec<u8>,
    pub(super) notification: Option<BgpNotification>,
    pub(super) ends: usize,
}

impl Table {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while let Some(length) = decode::length(&self.unread).unwrap() {
            if self.unread.len() < length {
                return;
            }
            let message: Vec<u8> = self.unread.drain(..length).collect();
            match decode::decode(&message).unwrap() {
                BgpMessage::Update => self.update(&message[19..]),
                BgpMessage::Notification(it) => self.notification = Some(it),
                _ => {}
            }
        }
    }

    fn update(&mut self, body: &[u8]) {
        self.updates += 1;
        if body == [0, 0, 0, 0] {
            self.ends += 1;
        }
        let (withdrawn, rest) = sized(body);
        for prefix in prefixes(withdrawn, false) {
            self.routes.remove(&prefix);
        }
        let (mut rest, announced) = sized(rest);
        let mut attributes = Vec::new();
        let mut all = prefixes(announced, false);
        while let [flags, kind, more @ ..] = rest {
            let (value, after) = match flags & 0x10 {
                0 => more[1..].split_at(more[0].into()),
                _ => sized(more),
            };
            match kind {
                14 => {
                    let is_v6 = value[1] == 2;
                    let hop = usize::from(value[3]);
                    attributes.push((14, value[4..4 + hop].to_vec()));
                    all.extend(prefixes(&value[5 + hop..], is_v6));
                }
                15 => {
                    self.ends += usize::from(value.len() == 3);
                    for prefix in prefixes(&value[3..], value[1] == 2) {
                        self.routes.remove(&prefix);
                    }
                }
                kind => attributes.push((*kind, value.to_vec())),
            }
            rest = after;
        }
        for prefix in all {
            self.routes.insert(prefix, attributes.clone());
        }
    }

    pub(super) fn prefixes(&self) -> Vec<String> {
        self.routes.keys().map(ToString::to_string).collect()
    }

    pub(super) fn attribute(&self, prefix: &str, kind: u8) -> Option<&[u8]> {
        let all = self.routes.get(&prefix.parse().unwrap())?;
        let found = all.iter().find(|(it, _)| *it == kind)?;
        Some(&found.1)
    }
}

fn sized(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[2..].split_at(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

fn prefixes(mut bytes: &[u8], is_v6: bool) -> Vec<IpNet> {
    let mut all = Vec::new();
    while let [length, rest @ ..] = bytes {
        let (address, rest) = rest.split_at(usize::from(length.div_ceil(8)));
        let mut octets = [0; 16];
        octets[..address.len()].copy_from_slice(address);
        let address: IpAddr = match is_v6 {
            true => octets.into(),
            false => [octets[0], octets[1], octets[2], octets[3]].into(),
        };
        all.push(IpNet::new(address, *length).unwrap());
        bytes = rest;
    }
    all
}
