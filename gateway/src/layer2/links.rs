//! The thread that opens interfaces for the responder, and keeps the kernel quiet.
//!
//! All that it does may take long: the kernel makes such calls wait for each other. The responder waits for none of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::AddressRange;
use fairway_gateway_core::layer2::HardwareAddress;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::time::Instant;

use super::arp_guard::ArpGuard;
use super::faults::SegmentFault;
use super::groups::GroupMemberships;
use super::host_links::{HostLinks, new_to_neighbors, read};
use super::shared::{Layer2Shared, OpenLink};
use super::sockets::SegmentSockets;

/// How often interfaces are read anyway: the kernel may drop notices when many come at once.
const RESYNC: Duration = Duration::from_secs(30);

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The shortest time between two reads.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether the table of nftables is still there: whoever loads a rule set of his own removes it.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum LinksError {
    #[error("netlink: {0}")]
    Open(#[from] io::Error),
    #[error("netlink: {0}")]
    Read(#[from] rtnetlink::Error),
    #[error("netlink: the connection closed")]
    Closed,
}

/// What the kernel says has happened to interfaces.
type Notices = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// What the handle wants of this thread.
#[derive(Debug, Default)]
struct WantedLinks {
    interfaces: BTreeSet<Box<str>>,
    guarded: Option<Vec<AddressRange>>,
    owned: BTreeMap<Box<str>, Arc<BTreeMap<IpAddr, u64>>>,
    is_stopping: bool,
}

impl WantedLinks {
    fn is_nothing(&self) -> bool {
        self.interfaces.is_empty() && self.guarded.as_ref().is_none_or(Vec::is_empty)
    }
}

/// What this thread has opened.
struct LinksThread<'a> {
    shared: &'a Layer2Shared,
    open: BTreeMap<Box<str>, OpenLink>,
    groups: BTreeMap<Box<str>, GroupMemberships>,
    guard: ArpGuard,
    /// Closed when the responder has let go of them, for it must not wait for that.
    retired: Vec<Arc<SegmentSockets>>,
}

/// Runs until the responder is stopped.
pub(super) fn run(shared: &Layer2Shared) {
    keep_two_capabilities();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "interfaces are not watched: nothing is announced on layer 2");
            return;
        }
    };
    let mut thread = LinksThread {
        shared,
        open: BTreeMap::new(),
        groups: BTreeMap::new(),
        guard: ArpGuard::default(),
        retired: Vec::new(),
    };
    runtime.block_on(thread.run());
    if !shared.read(|state| state.is_left) {
        thread.guard.put_back();
    }
}

/// Packet sockets need CAP_NET_RAW; nftables and the settings of interfaces CAP_NET_ADMIN.
fn keep_two_capabilities() {
    let kept = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN;
    let dropped = capabilities(None).and_then(|had| {
        let sets = CapabilitySets {
            effective: had.permitted & kept,
            permitted: had.permitted & kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    });
    if let Err(error) = dropped {
        tracing::debug!(%error, "capabilities not given up");
    }
}

impl LinksThread<'_> {
    async fn run(&mut self) {
        loop {
            let wanted = self.wanted();
            if wanted.is_stopping {
                return;
            }
            if wanted.is_nothing() {
                self.apply(&HostLinks::new(), &BTreeSet::new());
                self.shared.links.notified().await;
                continue;
            }
            if let Err(error) = self.follow().await {
                tracing::warn!(%error, "interfaces are not watched, trying again");
                let stopped = self.shared.links.notified();
                let _ = tokio::time::timeout(RETRY, stopped).await;
            }
        }
    }

    fn wanted(&self) -> WantedLinks {
        self.shared.read(|state| WantedLinks {
            interfaces: state.wanted.clone(),
            guarded: state.guarded.clone(),
            owned: state.owned.clone(),
            is_stopping: state.is_stopping,
        })
    }

    /// Follows what happens to interfaces, as long as something is wanted.
    async fn follow(&mut self) -> Result<(), LinksError> {
        // Subscribed before the first read, so that no change is missed in between.
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut notices) = rtnetlink::new_multicast_connection(&groups)?;
        let connection = tokio::spawn(connection);
        let result = self.follow_notices(&handle, &mut notices).await;
        connection.abort();
        result
    }

    async fn follow_notices(
        &mut self,
        handle: &Handle,
        notices: &mut Notices,
    ) -> Result<(), LinksError> {
        let mut links = read(handle).await?;
        let mut new = BTreeSet::new();
        let mut read_at = Instant::now() + RESYNC;
        let mut not_before = Instant::now() + PAUSE;
        let mut look = tokio::time::interval(LOOK);
        self.apply(&links, &new);
        loop {
            tokio::select! {
                () = self.shared.links.notified() => self.apply(&links, &BTreeSet::new()),
                notice = notices.next() => {
                    let Some((notice, _)) = notice else {
                        return Err(LinksError::Closed);
                    };
                    new.extend(new_to_neighbors(&notice));
                    // One read is enough for all notices that come meanwhile.
                    read_at = read_at.min(not_before);
                }
                _ = look.tick() => self.guard.look(),
                () = tokio::time::sleep_until(read_at) => {
                    links = read(handle).await?;
                    not_before = Instant::now() + PAUSE;
                    read_at = Instant::now() + RESYNC;
                    self.apply(&links, &std::mem::take(&mut new));
                }
            }
            let wanted = self.wanted();
            if wanted.is_stopping || wanted.is_nothing() {
                return Ok(());
            }
        }
    }

    /// Opens and closes what has to be. `new` are the interfaces whose neighbors have to be told anew.
    fn apply(&mut self, links: &HostLinks, new: &BTreeSet<u32>) {
        let wanted = self.wanted();
        let mut faults = BTreeMap::new();
        let before = std::mem::take(&mut self.open);
        let of_host = links.values().filter_map(|link| link.hardware).collect();
        let of_host = Arc::new(of_host);
        for name in &wanted.interfaces {
            match self.open(name, before.get(name), links, new, &of_host) {
                Ok(link) => drop(self.open.insert(name.clone(), link)),
                Err(fault) => drop(faults.insert(name.clone(), fault)),
            }
        }
        for (name, link) in before {
            let is_same = |now: &OpenLink| Arc::ptr_eq(&now.sockets, &link.sockets);
            if !self.open.get(&name).is_some_and(is_same) {
                self.retired.push(link.sockets);
                self.groups.remove(&name);
            }
        }
        // The guard goes first: what is answered from now on is answered by the responder alone.
        if let Some(guarded) = &wanted.guarded {
            self.guard.set(guarded, &wanted.interfaces, links);
            let told = Some(guarded.clone());
            self.shared.say(|state| state.told = told);
        }
        self.join_groups(&wanted);
        self.say(faults);
        self.retired
            .retain(|sockets| Arc::strong_count(sockets) > 1);
    }

    /// An interface as it is now.
    fn open(
        &self,
        name: &str,
        before: Option<&OpenLink>,
        links: &HostLinks,
        new: &BTreeSet<u32>,
        of_host: &Arc<BTreeSet<HardwareAddress>>,
    ) -> Result<OpenLink, SegmentFault> {
        let link = links.get(name).ok_or(SegmentFault::Missing)?;
        if let Some(fault) = link.fault() {
            return Err(fault);
        }
        let hardware = link.hardware.ok_or(SegmentFault::NotEthernet)?;
        if let Some(before) = before.filter(|it| it.sockets.index == link.index) {
            return Ok(OpenLink {
                sockets: before.sockets.clone(),
                hardware,
                of_host: of_host.clone(),
                news: before.news + u64::from(new.contains(&link.index)),
            });
        }
        let sockets = SegmentSockets::open(link.index).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => SegmentFault::NotPermitted,
            _ => SegmentFault::Failed(format!("packet socket: {error}").into()),
        })?;
        tracing::info!(interface = name, hardware_address = %hardware, "answering on an interface");
        Ok(OpenLink {
            sockets: Arc::new(sockets),
            hardware,
            of_host: of_host.clone(),
            news: 0,
        })
    }

    fn join_groups(&mut self, wanted: &WantedLinks) {
        for (name, link) in &self.open {
            let owned = wanted.owned.get(name);
            let owned = owned.into_iter().flat_map(|owned| owned.keys());
            let groups = self.groups.entry(name.clone());
            let groups = groups.or_insert_with(|| GroupMemberships::new(link.sockets.index));
            groups.set(name, owned);
        }
    }

    fn say(&self, faults: BTreeMap<Box<str>, SegmentFault>) {
        let links = self.open.clone();
        let is_new = self.shared.say(|state| {
            let news = |links: &BTreeMap<Box<str>, OpenLink>| {
                let news = links.iter().map(|(name, link)| {
                    let sockets = Arc::as_ptr(&link.sockets);
                    (name.clone(), sockets, link.hardware, link.news, link.of_host.clone())
                });
                news.collect::<Vec<_>>()
            };
            let is_new = news(&state.links) != news(&links);
            for (name, fault) in &faults {
                if state.faults.get(name) != Some(fault) {
                    tracing::warn!(interface = &**name, %fault, "nothing is answered on an interface");
                }
            }
            // An interface that is wanted since a moment ago is looked at next.
            let late = state.faults.iter().filter(|(name, _)| {
                state.wanted.contains(*name)
                    && !links.contains_key(*name)
                    && !faults.contains_key(*name)
            });
            let late: Vec<_> = late.map(|(name, it)| (name.clone(), it.clone())).collect();
            state.faults = faults.into_iter().chain(late).collect();
            state.links = links;
            state.kernel_answers = self.guard.kernel_answers();
            state.own_in_guard = self.guard.own_addresses().clone();
            state.version += u64::from(is_new);
            is_new
        });
        if is_new {
            self.shared.wake_responder();
        }
    }
}
