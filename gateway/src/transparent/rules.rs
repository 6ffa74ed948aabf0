//! What makes the kernel take in packets that endpoints send to a client's address, where this process has dialled
//! from it: `nft list table inet fairway`, `ip rule`, `ip route show table 252`.
//!
//! ```text
//! table inet fairway {
//!     chain prerouting {
//!         type filter hook prerouting priority mangle; policy accept;
//!         socket transparent 1 meta mark set meta mark or 0x2000
//!     }
//! }
//! 70: from all fwmark 0x2000/0x2000 lookup 252 proto 70
//! local default dev lo table 252 proto 70
//! ```
//!
//! They stand while a Service asks for them or a connection needs them, and stay when the process is killed: its
//! connections are gone then, so no packet is of a transparent socket, and the rules do nothing. The next process
//! takes them over or removes them. Whoever else removes them is told in the log, and they are made again.

use std::io;

use fairway_config::net::IpFamily;
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;

use crate::local::{PROTOCOL, errno};
use crate::netfilter::{PacketHook, RuleExpressions, TableBatch, TableFamily, count_rules};

/// The name of the table of nftables.
const NAME: &str = "fairway";
const CHAIN: &str = "prerouting";

/// The routing table: FRR imports none from 252 on, and Calico has those up to 250.
const TABLE: u8 = 252;

/// The priority of the rules: behind the kernel's own table of local addresses (0).
const PRIORITY: u32 = 70;

/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Why the rules do not stand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// Of nftables.
    #[error("nftables: {0}")]
    Netfilter(#[from] io::Error),
    /// Of rules and routes.
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct WayBackRules {
    /// The bits that mark packets; none: nothing is changed on this host, not even what others have left.
    mark: Option<u32>,
    handle: Option<Handle>,
    /// Whether they were put and not removed since.
    stand: bool,
    /// What was said last of why they do not.
    said: Option<String>,
    /// Whether what a former process has left behind was taken over or removed.
    has_taken_over: bool,
}

impl WayBackRules {
    /// Nothing is done yet.
    pub(crate) fn new(mark: Option<u32>) -> Self {
        Self {
            mark,
            handle: None,
            stand: false,
            said: None,
            has_taken_over: false,
        }
    }

    /// Whether they were put and not removed since.
    pub(crate) fn stand(&self) -> bool {
        self.stand
    }

    /// Puts the rules where they are wanted, and else removes them. To be called again from time to time: somebody may
    /// have removed them. Returns whether they stand.
    pub(crate) async fn settle(&mut self, are_wanted: bool) -> bool {
        let Some(mark) = self.mark else {
            return false;
        };
        if !are_wanted {
            if self.stand || !self.has_taken_over {
                self.remove().await;
            }
            return false;
        }
        if self.stand && self.are_whole(mark).await.unwrap_or(true) {
            return true;
        }
        if self.stand {
            tracing::warn!(
                "the table «inet fairway» of nftables, or what belongs to it, was removed or changed: it is made again"
            );
        }
        let put = self.put(mark).await;
        // What was put of them is to be removed, too.
        self.has_taken_over = put.is_ok();
        let error = put.as_ref().err().map(ToString::to_string);
        if let Some(error) = error.as_ref().filter(|it| self.said.as_ref() != Some(it)) {
            tracing::warn!(%error, "endpoints can't be dialled from clients' addresses");
        } else if put.is_ok() && !self.stand {
            tracing::info!("endpoints can be dialled from clients' addresses (nftables, ip rule)");
        }
        self.said = error;
        self.stand = put.is_ok();
        self.stand
    }

    /// Removes the rules.
    async fn remove(&mut self) {
        self.has_taken_over = true;
        let was = std::mem::replace(&mut self.stand, false);
        self.said = None;
        if let Err(error) = self.take_away().await
            && was
        {
            tracing::warn!(%error, "what brings packets to clients' addresses back was not removed");
        }
    }

    fn handle(&mut self) -> Result<Handle, RulesError> {
        if let Some(handle) = &self.handle {
            return Ok(handle.clone());
        }
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        self.handle = Some(handle.clone());
        Ok(handle)
    }

    async fn put(&mut self, mark: u32) -> Result<(), RulesError> {
        let mut batch = emptied();
        batch.add_table();
        batch.add_chain(CHAIN, Some(PacketHook::Prerouting));
        let rule = RuleExpressions::default().of_transparent_socket();
        batch.add_rule(CHAIN, &rule.set_mark(mark));
        batch.commit()?;
        let handle = self.handle()?;
        for family in IpFamily::ALL {
            let added = put_in(&handle, family, mark).await;
            match added {
                // A host may have no IPv6.
                Err(_) if family == IpFamily::IPv6 && !has_ipv6() => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn are_whole(&mut self, mark: u32) -> Result<bool, RulesError> {
        if count_rules(TableFamily::Inet, NAME)? != Some(1) {
            return Ok(false);
        }
        let handle = self.handle()?;
        for family in IpFamily::ALL {
            if family == IpFamily::IPv6 && !has_ipv6() {
                continue;
            }
            let rules = rules(&handle, family).await?;
            if !rules.iter().any(|rule| is_right(rule, mark)) || !has_route(&handle, family).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn take_away(&mut self) -> Result<(), RulesError> {
        // First the one that sends packets to the others.
        let removed = match count_rules(TableFamily::Inet, NAME) {
            Ok(Some(_)) => emptied().commit(),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let handle = self.handle()?;
        for family in IpFamily::ALL {
            if family == IpFamily::IPv6 && !has_ipv6() {
                continue;
            }
            for rule in rules(&handle, family).await? {
                handle.rule().del(rule).execute().await?;
            }
            if has_route(&handle, family).await? {
                handle.route().del(route(family)).execute().await?;
            }
        }
        Ok(removed?)
    }
}

async fn put_in(handle: &Handle, family: IpFamily, mark: u32) -> Result<(), RulesError> {
    let mut is_there = false;
    for rule in rules(handle, family).await? {
        if is_right(&rule, mark) && !is_there {
            is_there = true;
        } else {
            handle.rule().del(rule).execute().await?;
        }
    }
    if !is_there {
        let mut add = handle.rule().add();
        *add.message_mut() = rule_of(family, mark);
        unless_there(add.execute().await)?;
    }
    unless_there(handle.route().add(route(family)).execute().await)?;
    Ok(())
}

/// Our rule.
fn rule_of(family: IpFamily, mark: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = number(family);
    rule.header.table = TABLE;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(mark),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    rule
}

/// Whether it is our rule for these bits.
fn is_right(rule: &RuleMessage, mark: u32) -> bool {
    let wanted = rule_of(IpFamily::IPv4, mark);
    let mut wanted = wanted.attributes.iter();
    wanted.all(|attribute| rule.attributes.contains(attribute))
}

/// A batch that begins by removing the table. It is added first, for what is not there can't be removed.
fn emptied() -> TableBatch {
    let mut batch = TableBatch::new(TableFamily::Inet, NAME);
    batch.add_table();
    batch.remove_table();
    batch
}

fn number(family: IpFamily) -> AddressFamily {
    match family {
        IpFamily::IPv4 => AddressFamily::Inet,
        IpFamily::IPv6 => AddressFamily::Inet6,
    }
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
        || std::path::Path::new("/proc/net/if_inet6").exists()
}

/// The rules that are ours, by whatever process.
async fn rules(handle: &Handle, family: IpFamily) -> Result<Vec<RuleMessage>, RulesError> {
    let version = match family {
        IpFamily::IPv4 => IpVersion::V4,
        IpFamily::IPv6 => IpVersion::V6,
    };
    let found: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await?;
    let ours = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
    let is_ours =
        |rule: &RuleMessage| rule.header.table == TABLE && rule.attributes.contains(&ours);
    Ok(found.into_iter().filter(is_ours).collect())
}

fn route(family: IpFamily) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: number(family),
        table: TABLE,
        protocol: RouteProtocol::from(PROTOCOL),
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    route.attributes.push(RouteAttribute::Oif(LOOPBACK));
    route
}

async fn has_route(handle: &Handle, family: IpFamily) -> Result<bool, RulesError> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = number(family);
    filter.header.table = TABLE;
    let mut found = handle.route().get(filter).execute();
    let mut has = false;
    // All of them: the answer of the kernel is to be read whole.
    while let Some(route) = found.try_next().await? {
        has |= route.header.table == TABLE
            && route.header.kind == RouteType::Local
            && route.header.protocol == RouteProtocol::from(PROTOCOL)
            && route.header.destination_prefix_length == 0;
    }
    Ok(has)
}

/// That it is there already is no failure.
fn unless_there(done: Result<(), rtnetlink::Error>) -> Result<(), RulesError> {
    match done {
        Err(error) if errno(&error) == Some(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}
