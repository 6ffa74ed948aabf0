//! What a Service asks for by its annotations, all dialects merged.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{FAIRWAY, PREFIX, Standing, dialects, parse};
use crate::field::{Shown, nearest};
use crate::net::IpFamily;
use crate::service::{Asks, ForwardTo, Notice, SharingNamespaces};

/// The texts that are merged. Nothing in them can make reading fail: what can't be understood is a
/// notice, and the Service works on without it.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `metadata.annotations`.
    pub annotations: &'a BTreeMap<&'a str, &'a str>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<&'a str>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: &'a [&'a str],
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What is asked for.
    pub asks: Asks,
    /// Who is let in; empty lets everyone in. Where ranges were given and none of them can be
    /// read, nobody is: a slip must not open a Service to the world.
    pub source_ranges: Vec<IpNet>,
    /// What was not understood, or not followed.
    pub notices: Vec<Notice>,
}

/// Notices of one Service, at most: they end in a condition, and a list may have entries by the ten
/// thousand. How many more there are is said.
const MOST_NOTICES: usize = 20;

/// Merges what the annotations and the older fields ask for.
pub fn merge(sources: &Sources<'_>) -> Merged {
    let mut reader = Reader {
        sources,
        notices: Vec::new(),
        omitted: 0,
    };
    reader.own_annotations();
    let asks = Asks {
        addresses: reader.addresses(),
        pool: reader.pool(),
        sharing_key: reader.sharing_key(),
        sharing_namespaces: reader.sharing_namespaces(),
        forward_to: reader.forward_to(),
        external_name: reader.hostname(super::EXTERNAL_NAME),
        hostname: reader.status_hostname(),
        ignore: reader.ignore(),
        deny_source_ranges: reader.denied(),
    };
    let mut merged = Merged {
        asks,
        ..Merged::default()
    };
    reader.admitted(&mut merged);
    if reader.omitted > 0 {
        let message = format!("{} more are not listed", reader.omitted);
        let reason = Arc::from("InvalidAnnotation");
        reader.notices.push(Notice { reason, message });
    }
    merged.notices = reader.notices;
    merged
}

struct Reader<'s, 'a> {
    sources: &'s Sources<'a>,
    notices: Vec<Notice>,
    /// How many there was no room for.
    omitted: usize,
}

impl<'a> Reader<'_, 'a> {
    fn notice(&mut self, reason: &str, message: String) {
        if self.notices.len() >= MOST_NOTICES {
            self.omitted += 1;
            return;
        }
        self.notices.push(Notice {
            reason: Arc::from(reason),
            message,
        });
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.sources
            .annotations
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    /// Names below `fairway.dev/` that are misspelt, misplaced or not acted on yet.
    fn own_annotations(&mut self) {
        let own: Vec<&str> = self
            .sources
            .annotations
            .range(PREFIX..)
            .map(|(name, _)| *name)
            .take_while(|name| name.starts_with(PREFIX))
            .collect();
        for name in own {
            if self.notices.len() >= MOST_NOTICES && !FAIRWAY.iter().any(|(it, _)| *it == name) {
                // What it could have been meant for is not worth finding out.
                self.omitted += 1;
                continue;
            }
            let standing = FAIRWAY
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, standing)| *standing);
            match standing {
                Some(Standing::OnService) => {}
                Some(Standing::OnEndpointSlice) => self.notice(
                    "UnknownAnnotation",
                    format!("{name} belongs on an EndpointSlice and does nothing on a Service"),
                ),
                // What is asked for is what is done anyway.
                Some(Standing::NotYetInForce)
                    if name == super::BALANCE && self.get(name) == Some("round-robin") => {}
                Some(Standing::NotYetInForce) => self.notice(
                    "NotYetInForce",
                    format!("{name} is not acted on by this version of Fairway"),
                ),
                None => {
                    let hint = nearest(name, FAIRWAY.iter().map(|(known, _)| *known))
                        .map(|known| format!("; is {known} meant?"))
                        .unwrap_or_default();
                    self.notice(
                        "UnknownAnnotation",
                        format!("{} is no annotation that Fairway knows{hint}", Shown(name)),
                    );
                }
            }
        }
    }

    /// The values of several names that mean the same, in the order in which they win. The first
    /// that is there wins; each that differs from it is a notice.
    fn first<T: PartialEq>(
        &mut self,
        names: &[&'a str],
        read: impl Fn(&mut Self, &str, &str) -> Option<T>,
    ) -> Option<T> {
        let given: Vec<(&str, &str)> = names
            .iter()
            .filter_map(|name| self.get(name).map(|text| (*name, text)))
            .collect();
        let mut won: Option<(&str, Option<T>)> = None;
        for (name, text) in given {
            let value = read(self, name, text);
            match &won {
                None => won = Some((name, value)),
                Some((winner, first)) if *first != value => {
                    let winner = (*winner).to_owned();
                    self.conflict(&winner, name);
                }
                Some(_) => {}
            }
        }
        won.and_then(|(_, value)| value)
    }

    fn conflict(&mut self, winner: &str, loser: &str) {
        self.notice(
            "ConflictingAnnotations",
            format!(
                "{winner} and {loser} ask for different things: {winner} is followed; remove one of them"
            ),
        );
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        const NAMES: &[&str] = &[
            super::ADDRESSES,
            dialects::METALLB_ADDRESSES,
            dialects::METALLB_OLD_ADDRESSES,
            dialects::CILIUM_ADDRESSES,
            dialects::CILIUM_OLD_ADDRESSES,
            dialects::KUBE_VIP_ADDRESSES,
        ];
        let by_annotation = self.first(NAMES, |reader, name, text| {
            Some(reader.address_list(name, text))
        });
        let field = "spec.loadBalancerIP";
        let Some(text) = self.sources.load_balancer_ip.map(str::trim) else {
            return by_annotation.unwrap_or_default();
        };
        let by_field = self.address_list(field, text);
        let winner = NAMES
            .iter()
            .find(|name| self.get(name).is_some())
            .copied()
            .unwrap_or_default();
        match by_annotation {
            None => by_field,
            Some(addresses) => {
                if winner.starts_with("metallb.") {
                    self.notice(
                        "ConflictingAnnotations",
                        format!(
                            "{winner} and {field} are both set, which MetalLB refuses: {winner} is followed; remove {field}"
                        ),
                    );
                } else if addresses != by_field {
                    self.conflict(winner, field);
                }
                addresses
            }
        }
    }

    /// Requested addresses, one of a family.
    fn address_list(&mut self, name: &str, text: &str) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for item in parse::list(text) {
            match parse::address(item) {
                Err(why) => {
                    self.notice("InvalidAddress", format!("{name} {why}: it is left out"));
                }
                Ok(address) => {
                    let family = IpFamily::of(address);
                    let taken = addresses
                        .iter()
                        .find(|other| IpFamily::of(**other) == family)
                        .copied();
                    match taken {
                        None => addresses.push(address),
                        Some(taken) if taken == address => {}
                        Some(taken) => self.notice(
                            "InvalidAddress",
                            format!(
                                "{name} has two {family} addresses, a Service gets one of a family: {taken} is followed, {address} is left out"
                            ),
                        ),
                    }
                }
            }
        }
        // IPv4 and IPv6 in any order ask for the same.
        addresses.sort();
        addresses
    }

    fn pool(&mut self) -> Option<Arc<str>> {
        self.first(
            &[
                super::POOL,
                dialects::METALLB_POOL,
                dialects::METALLB_OLD_POOL,
            ],
            |reader, name, text| {
                if parse::is_dns_subdomain(text) {
                    return Some(Arc::from(text));
                }
                reader.invalid(name, text, "the name of one AddressPool");
                None
            },
        )
    }

    fn sharing_key(&mut self) -> Option<Arc<str>> {
        self.first(
            &[
                super::SHARING_KEY,
                dialects::METALLB_SHARING_KEY,
                dialects::METALLB_OLD_SHARING_KEY,
                dialects::CILIUM_SHARING_KEY,
                dialects::CILIUM_OLD_SHARING_KEY,
            ],
            |_, _, text| Some(Arc::from(text)),
        )
    }

    fn sharing_namespaces(&mut self) -> SharingNamespaces {
        self.first(
            &[
                super::SHARING_NAMESPACES,
                dialects::CILIUM_SHARING_NAMESPACES,
                dialects::CILIUM_OLD_SHARING_NAMESPACES,
            ],
            |reader, name, text| {
                let mut listed: Vec<Arc<str>> = Vec::new();
                for item in parse::list(text) {
                    if item == "*" {
                        return Some(SharingNamespaces::All);
                    }
                    if parse::is_dns_label(item) {
                        listed.push(Arc::from(item));
                    } else {
                        reader.invalid(name, item, "the name of a namespace");
                    }
                }
                listed.sort();
                listed.dedup();
                if listed.is_empty() {
                    return None;
                }
                Some(SharingNamespaces::Listed(listed))
            },
        )
        .unwrap_or_default()
    }

    fn forward_to(&mut self) -> Option<ForwardTo> {
        match self.get(super::FORWARD_TO)? {
            "endpoints" => Some(ForwardTo::Endpoints),
            "node-ports" => Some(ForwardTo::NodePorts),
            other => {
                self.invalid(super::FORWARD_TO, other, "endpoints or node-ports");
                None
            }
        }
    }

    fn hostname(&mut self, name: &str) -> Option<Arc<str>> {
        let text = self.get(name)?;
        if parse::is_hostname(text) {
            return Some(Arc::from(text));
        }
        self.invalid(name, text, "a DNS name");
        None
    }

    /// An API server takes less into a status than can be looked up.
    fn status_hostname(&mut self) -> Option<Arc<str>> {
        let name = dialects::KUBE_VIP_HOSTNAME;
        let text = self.get(name)?;
        if parse::is_dns_subdomain(text) && parse::is_hostname(text) {
            return Some(Arc::from(text));
        }
        self.invalid(name, text, "a DNS name in lower case");
        None
    }

    fn ignore(&mut self) -> bool {
        match self.get(dialects::KUBE_VIP_IGNORE) {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                self.invalid(dialects::KUBE_VIP_IGNORE, other, "true or false");
                false
            }
        }
    }

    fn invalid(&mut self, name: &str, text: &str, must: &str) {
        self.notice(
            "InvalidAnnotation",
            format!(
                "{name} is '{}', must be {must}: it is left out",
                Shown(text)
            ),
        );
    }

    /// Refused clients. An entry that can't be read is left out: it would refuse nobody.
    fn denied(&mut self) -> Vec<IpNet> {
        let text = self.get(super::DENY_SOURCE_RANGES).unwrap_or_default();
        self.ranges(super::DENY_SOURCE_RANGES, parse::list(text))
    }

    /// `loadBalancerSourceRanges`: the field, else the annotation that was there before it; under
    /// Cilium's policy `deny` they say who is refused.
    fn admitted(&mut self, merged: &mut Merged) {
        let field = "spec.loadBalancerSourceRanges";
        let mut name = field;
        let mut given: Vec<&str> = self.sources.source_ranges.to_vec();
        if let Some(text) = self.get(dialects::SOURCE_RANGES) {
            let older: Vec<&str> = parse::list(text).collect();
            if given.is_empty() {
                name = dialects::SOURCE_RANGES;
                given = older;
            } else if !given.iter().map(|range| range.trim()).eq(older) {
                self.conflict(field, dialects::SOURCE_RANGES);
            }
        }
        let ranges = self.ranges(name, given.iter().copied());
        match self.get(dialects::CILIUM_SOURCE_RANGES_POLICY) {
            Some("deny") => {
                let denied = &mut merged.asks.deny_source_ranges;
                let mut met: HashSet<IpNet> = denied.iter().copied().collect();
                denied.extend(ranges.into_iter().filter(|range| met.insert(*range)));
                return;
            }
            None | Some("allow") => {}
            Some(other) => self.invalid(
                dialects::CILIUM_SOURCE_RANGES_POLICY,
                other,
                "allow or deny",
            ),
        }
        merged.source_ranges = if ranges.is_empty() && !given.is_empty() {
            self.notice(
                "InvalidSourceRange",
                format!("{name} has no range that can be read: nobody is let in until it has"),
            );
            parse::nobody()
        } else {
            ranges
        };
    }

    fn ranges<'t>(&mut self, name: &str, items: impl Iterator<Item = &'t str>) -> Vec<IpNet> {
        let mut ranges = Vec::new();
        let mut met = HashSet::new();
        for item in items {
            match parse::cidr(item) {
                Ok(range) if !met.insert(range) => {}
                Ok(range) => ranges.push(range),
                Err(why) => self.notice(
                    "InvalidSourceRange",
                    format!("{name} {why}: it is left out"),
                ),
            }
        }
        ranges
    }
}
