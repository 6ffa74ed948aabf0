//! What a Service asks for by its annotations, all dialects merged.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{AnnotationSupport, FAIRWAY, PREFIX, dialects, parse};
use crate::field::{Shown, nearest};
use crate::net::IpFamily;
use crate::service::{Asks, ForwardTo, Notice, RequestKind, SharingNamespaces, UnreadableRequest};

/// The texts that are merged. Nothing in them makes reading fail: what can't be read is a notice.
/// Where it would restrict something it restricts everything (fail closed): where an address can't
/// be read the Service gets none, a list of refused clients that can't be read refuses all clients.
#[derive(Clone, Copy, Debug)]
pub struct RequestTexts<'a> {
    /// `metadata.annotations`.
    pub annotations: &'a BTreeMap<&'a str, &'a str>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<&'a str>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: &'a [&'a str],
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What is asked for.
    pub asks: Asks,
    /// Which clients are let in; empty: all. Where the list can't be read no client is let in: a
    /// typo must not open a Service to everybody.
    pub source_ranges: Vec<IpNet>,
    /// What was not understood, or not followed.
    pub notices: Vec<Notice>,
}

/// Notices of one Service, at most: they end in a condition, and a list may have entries by the ten
/// thousand. How many more there are is said.
const MOST_NOTICES: usize = 20;

/// Merges what the annotations and the older fields ask for.
pub fn merge(texts: &RequestTexts<'_>) -> Merged {
    let mut reader = RequestReader {
        texts,
        notices: Vec::new(),
        omitted: 0,
        unreadable: Vec::new(),
        misspelt: Vec::new(),
        closed_by: None,
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
        other_controller: None,
        deny_source_ranges: reader.denied(),
        unreadable: Vec::new(),
    };
    let mut merged = Merged {
        asks,
        ..Merged::default()
    };
    reader.admitted(&mut merged);
    if let Some(why) = reader.closed_by {
        merged.source_ranges = parse::nobody();
        reader.notices.push(why);
    }
    merged.asks.unreadable = reader.unreadable;
    if reader.omitted > 0 {
        let message = format!("{} more are not listed", reader.omitted);
        reader
            .notices
            .push(Notice::new("InvalidAnnotation", message));
    }
    merged.notices = reader.notices;
    merged
}

struct RequestReader<'s, 'a> {
    texts: &'s RequestTexts<'a>,
    notices: Vec<Notice>,
    /// How many there was no room for.
    omitted: usize,
    unreadable: Vec<UnreadableRequest>,
    /// Names that requests were probably meant to have, each with what is said of it.
    misspelt: Vec<(&'static str, String)>,
    /// What says whom to keep out, and can't be read.
    closed_by: Option<Notice>,
}

impl<'a> RequestReader<'_, 'a> {
    fn notice(&mut self, reason: &str, message: String) {
        if self.notices.len() >= MOST_NOTICES {
            self.omitted += 1;
            return;
        }
        self.notices.push(Notice::new(reason, message));
    }

    /// Notes that a request can't be read; nothing is given in its place.
    fn refuse(&mut self, what: RequestKind, message: String) {
        self.unreadable.push(UnreadableRequest { what, message });
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.texts
            .annotations
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    /// Names below `fairway.dev/` that are misspelt, misplaced or not acted on yet, and those of the
    /// other dialects that are nearly a request.
    fn own_annotations(&mut self) {
        let is_own = |name: &str| {
            name.get(..PREFIX.len())
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
        };
        for name in self.texts.annotations.keys().copied() {
            if !is_own(name) {
                if let Some(meant) = typing_error(name) {
                    self.misspelt(name, Some(meant));
                }
                continue;
            }
            let support = FAIRWAY
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, support)| *support);
            if self.notices.len() >= MOST_NOTICES && support.is_none() {
                // Its meaning is not guessed.
                self.omitted += 1;
                continue;
            }
            match support {
                Some(AnnotationSupport::OnService) => {}
                Some(AnnotationSupport::OnEndpointSlice) => self.notice(
                    "UnknownAnnotation",
                    format!("{name} belongs on an EndpointSlice and does nothing on a Service"),
                ),
                Some(AnnotationSupport::NotYetInForce) => self.notice(
                    "NotYetInForce",
                    format!("{name} is not acted on by this version of Fairway"),
                ),
                None => {
                    let meant = nearest(name, FAIRWAY.iter().map(|(known, _)| *known));
                    self.misspelt(name, meant);
                }
            }
        }
    }

    /// An unknown annotation that is probably a misspelt request: the request counts as unreadable.
    fn misspelt(&mut self, name: &str, meant: Option<&'static str>) {
        let hint = meant
            .map(|known| format!("; is {known} meant?"))
            .unwrap_or_default();
        let message = format!("{} is no annotation that Fairway knows{hint}", Shown(name));
        self.notice("UnknownAnnotation", message.clone());
        let Some(meant) = meant.filter(|it| self.get(it).is_none()) else {
            return;
        };
        let says_whom_to_keep_out = [
            super::DENY_SOURCE_RANGES,
            super::PROXY_PROTOCOL,
            super::ACCEPT_PROXY_PROTOCOL,
            super::CONNECTIONS_PER_CLIENT,
            super::NEW_CONNECTIONS_PER_SECOND,
            super::UDP_FLOWS_PER_CLIENT,
            super::UDP_FLOWS,
            dialects::SOURCE_RANGES,
            dialects::CILIUM_SOURCE_RANGES_POLICY,
        ];
        if says_whom_to_keep_out.contains(&meant) {
            let name = Shown(name);
            let message = format!(
                "{name} probably means {meant}, which must not be missed: nobody is let in until the name is right"
            );
            self.closed_by = Some(Notice::new("InvalidAnnotation", message));
        } else if meant == dialects::KUBE_VIP_IGNORE {
            self.refuse(RequestKind::Other, message);
        } else {
            self.misspelt.push((meant, message));
        }
    }

    /// Whether a misspelt one of these names would have won over the one that did.
    fn would_have_won(&self, names: &[&str], winner: Option<&str>) -> Option<String> {
        let rank = |name: &str| names.iter().position(|it| *it == name);
        let of_winner = winner.and_then(rank).unwrap_or(names.len());
        let mut misspelt = self.misspelt.iter();
        let (_, message) =
            misspelt.find(|(meant, _)| rank(meant).is_some_and(|it| it < of_winner))?;
        Some(message.clone())
    }

    /// The value of several names that mean the same, in the order in which they win. The first
    /// that is there wins, and is returned with its name; each that differs from it is a notice.
    fn first<T: PartialEq>(
        &mut self,
        names: &[&'a str],
        read: impl Fn(&mut Self, &str, &str) -> T,
    ) -> Option<(&'a str, T)> {
        let mut won: Option<(&'a str, T)> = None;
        for name in names {
            let Some(text) = self.get(name) else {
                continue;
            };
            let value = read(self, name, text);
            match &won {
                None => won = Some((*name, value)),
                Some((winner, first)) if *first != value => {
                    let winner = (*winner).to_owned();
                    self.conflict(&winner, name);
                }
                Some(_) => {}
            }
        }
        won
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
        let by_annotation = self.first(ADDRESS_NAMES, Self::address_list);
        let field = "spec.loadBalancerIP";
        let by_field = self
            .texts
            .load_balancer_ip
            .map(|text| self.address_list(field, text.trim()));
        let winner = by_annotation.as_ref().map(|(winner, _)| *winner);
        let misspelt = self.would_have_won(ADDRESS_NAMES, winner);
        let mut asked = match (by_annotation, by_field) {
            (Some((winner, asked)), by_field) => {
                if by_field.is_some() && winner.starts_with("metallb.") {
                    self.notice(
                        "ConflictingAnnotations",
                        format!(
                            "{winner} and {field} are both set, which MetalLB refuses: {winner} is followed; remove {field}"
                        ),
                    );
                } else if by_field.is_some_and(|by_field| by_field != asked) {
                    self.conflict(winner, field);
                }
                asked
            }
            (None, by_field) => by_field.unwrap_or_default(),
        };
        if let Some(message) = misspelt {
            asked = AddressList {
                addresses: Vec::new(),
                unreadable: Some(message),
            };
        }
        if let Some(message) = asked.unreadable {
            self.refuse(RequestKind::Addresses, message);
        }
        asked.addresses
    }

    /// Requested addresses, one of a family.
    fn address_list(&mut self, name: &str, text: &str) -> AddressList {
        let mut list = AddressList::default();
        for item in parse::list(text) {
            match parse::address(item) {
                Err(why) => {
                    let message = format!("{name} {why}");
                    self.notice(
                        "InvalidAddress",
                        format!("{message}: no other address is given in its place"),
                    );
                    list.unreadable.get_or_insert(message);
                }
                Ok(address) => {
                    let family = IpFamily::of(address);
                    let taken = list
                        .addresses
                        .iter()
                        .find(|other| IpFamily::of(**other) == family)
                        .copied();
                    match taken {
                        None => list.addresses.push(address),
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
        list.addresses.sort();
        list
    }

    fn pool(&mut self) -> Option<Arc<str>> {
        const MUST: &str = "the name of one AddressPool";
        let found = self.first(POOL_NAMES, |reader, name, text| {
            if parse::is_dns_subdomain(text) {
                return Some(Arc::from(text));
            }
            reader.invalid(name, text, MUST, "no address of another pool is given");
            None
        });
        let winner = found.as_ref().map(|(winner, _)| *winner);
        if let Some(message) = self.would_have_won(POOL_NAMES, winner) {
            self.refuse(RequestKind::Other, message);
        }
        let (name, pool) = found?;
        if pool.is_none() {
            let text = self.get(name).unwrap_or_default();
            let message = format!("{name} is '{}', must be {MUST}", Shown(text));
            self.refuse(RequestKind::Other, message);
        }
        pool
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
            |_, _, text| Arc::from(text),
        )
        .map(|(_, key)| key)
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
                        return SharingNamespaces::All;
                    }
                    if parse::is_dns_label(item) {
                        listed.push(Arc::from(item));
                    } else {
                        reader.invalid(name, item, "the name of a namespace", LEFT_OUT);
                    }
                }
                listed.sort();
                listed.dedup();
                if listed.is_empty() {
                    return SharingNamespaces::Own;
                }
                SharingNamespaces::Listed(listed)
            },
        )
        .map(|(_, namespaces)| namespaces)
        .unwrap_or_default()
    }

    fn forward_to(&mut self) -> Option<ForwardTo> {
        match self.get(super::FORWARD_TO)? {
            "endpoints" => Some(ForwardTo::Endpoints),
            "node-ports" => Some(ForwardTo::NodePorts),
            other => {
                let must = "endpoints or node-ports";
                self.invalid(super::FORWARD_TO, other, must, LEFT_OUT);
                None
            }
        }
    }

    fn hostname(&mut self, name: &str) -> Option<Arc<str>> {
        let text = self.get(name)?;
        if parse::is_hostname(text) {
            return Some(Arc::from(text));
        }
        self.invalid(name, text, "a DNS name", LEFT_OUT);
        None
    }

    /// An API server takes less into a status than can be looked up.
    fn status_hostname(&mut self) -> Option<Arc<str>> {
        let name = dialects::KUBE_VIP_HOSTNAME;
        let text = self.get(name)?;
        if parse::is_dns_subdomain(text) && parse::is_hostname(text) {
            return Some(Arc::from(text));
        }
        self.invalid(name, text, "a DNS name in lower case", LEFT_OUT);
        None
    }

    fn ignore(&mut self) -> bool {
        const NAME: &str = dialects::KUBE_VIP_IGNORE;
        match self.get(NAME) {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                let must = "true or false";
                self.invalid(NAME, other, must, "no address is given");
                let message = format!("{NAME} is '{}', must be {must}", Shown(other));
                self.refuse(RequestKind::Other, message);
                false
            }
        }
    }

    /// `so` says what follows from it.
    fn invalid(&mut self, name: &str, text: &str, must: &str, so: &str) {
        self.notice(
            "InvalidAnnotation",
            format!("{name} is '{}', must be {must}: {so}", Shown(text)),
        );
    }

    /// Refused clients. An entry that can't be read may stand for anybody. What is said of single ports stands with them
    /// (`options`).
    fn denied(&mut self) -> Vec<IpNet> {
        let name = super::DENY_SOURCE_RANGES;
        let text = self.get(name).filter(|text| !text.contains('='));
        let text = text.unwrap_or_default();
        let (ranges, all_read) = self.ranges(name, parse::list(text));
        if !all_read {
            self.closed_by = Some(unreadable_ranges(name));
        }
        ranges
    }

    /// `loadBalancerSourceRanges`: the field, else the annotation that was there before it; under
    /// Cilium's policy `deny` they say who is refused.
    fn admitted(&mut self, merged: &mut Merged) {
        let field = "spec.loadBalancerSourceRanges";
        let mut name = field;
        let mut given: Vec<&str> = self.texts.source_ranges.to_vec();
        if let Some(text) = self.get(dialects::SOURCE_RANGES) {
            let older: Vec<&str> = parse::list(text).collect();
            if given.is_empty() {
                name = dialects::SOURCE_RANGES;
                given = older;
            } else if !given.iter().map(|range| range.trim()).eq(older) {
                self.conflict(field, dialects::SOURCE_RANGES);
            }
        }
        let (ranges, all_read) = self.ranges(name, given.iter().copied());
        match self.get(dialects::CILIUM_SOURCE_RANGES_POLICY) {
            Some("deny") => {
                let denied = &mut merged.asks.deny_source_ranges;
                let mut met: HashSet<IpNet> = denied.iter().copied().collect();
                denied.extend(ranges.into_iter().filter(|range| met.insert(*range)));
                if !all_read {
                    self.closed_by = Some(unreadable_ranges(name));
                }
            }
            None | Some("allow") => {
                // A range less lets fewer in, but no range at all would let in everybody.
                if ranges.is_empty() && !given.is_empty() {
                    self.closed_by = Some(unreadable_ranges(name));
                }
                merged.source_ranges = ranges;
            }
            Some(other) => {
                let name = dialects::CILIUM_SOURCE_RANGES_POLICY;
                self.invalid(name, other, "allow or deny", LEFT_OUT);
                // It is not known whether these are ranges to let in or to keep out.
                if !given.is_empty() {
                    self.closed_by = Some(unreadable_ranges(name));
                }
                merged.source_ranges = ranges;
            }
        }
    }

    /// The ranges, and whether all of them can be read.
    fn ranges<'t>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = &'t str>,
    ) -> (Vec<IpNet>, bool) {
        let mut ranges = Vec::new();
        let mut met = HashSet::new();
        let mut all_read = true;
        for item in items {
            match parse::cidr(item) {
                Ok(range) if !met.insert(range) => {}
                Ok(range) => ranges.push(range),
                Err(why) => {
                    all_read = false;
                    self.notice("InvalidSourceRange", format!("{name} {why}: {LEFT_OUT}"));
                }
            }
        }
        (ranges, all_read)
    }
}

/// The annotations that ask for addresses, in the order in which they win.
const ADDRESS_NAMES: &[&str] = &[
    super::ADDRESSES,
    dialects::METALLB_ADDRESSES,
    dialects::METALLB_OLD_ADDRESSES,
    dialects::CILIUM_ADDRESSES,
    dialects::CILIUM_OLD_ADDRESSES,
    dialects::KUBE_VIP_ADDRESSES,
];

/// The annotations that ask for a pool, in the order in which they win.
const POOL_NAMES: &[&str] = &[
    super::POOL,
    dialects::METALLB_POOL,
    dialects::METALLB_OLD_POOL,
];

/// The annotations that keep clients out, or Fairway away from the Service.
const RESTRICTING_NAMES: &[&str] = &[
    super::DENY_SOURCE_RANGES,
    dialects::SOURCE_RANGES,
    dialects::CILIUM_SOURCE_RANGES_POLICY,
    dialects::KUBE_VIP_IGNORE,
];

/// How many letters of a name may be mistyped.
const MISTYPED: usize = 2;

/// The request or restriction that a name of another prefix was probably meant to be. Looked for in
/// every annotation of every Service, so lengths are compared first.
pub(crate) fn typing_error(name: &str) -> Option<&'static str> {
    let all = [ADDRESS_NAMES, POOL_NAMES, RESTRICTING_NAMES];
    let near = |known: &&&str| known.len().abs_diff(name.len()) <= MISTYPED;
    let mut lower = None;
    for known in all.into_iter().flatten().filter(near) {
        if *known == name || dialects::ALL.contains(&name) {
            return None;
        }
        let lower: &String = lower.get_or_insert_with(|| name.to_ascii_lowercase());
        if strsim::osa_distance(lower, &known.to_ascii_lowercase()) <= MISTYPED {
            return Some(known);
        }
    }
    None
}

/// What follows from a value that is no more than a hint, or whose absence restricts more.
const LEFT_OUT: &str = "it is left out";

/// What one list of requested addresses says.
#[derive(Debug, Default, PartialEq)]
struct AddressList {
    addresses: Vec<IpAddr>,
    /// Why one of its entries can't be read.
    unreadable: Option<String>,
}

fn unreadable_ranges(name: &str) -> Notice {
    Notice::new(
        "InvalidSourceRange",
        format!("{name} can't be read as a whole: nobody is let in until it can"),
    )
}
