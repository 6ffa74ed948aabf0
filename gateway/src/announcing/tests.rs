#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fairway_config::announce::Layer2Announcement;
use fairway_config::cluster::Node;
use fairway_config::exchange::Batch;
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool};
use fairway_config::selector::{Expression, Selector};
use fairway_gateway_core::build::RouteSettings;

use super::*;

struct World {
    builder: Builder,
    announcing: Announcing,
    seen: watch::Receiver<Arc<Announceable>>,
    services: BTreeMap<ServiceName, AnnouncedService>,
}

impl World {
    fn new() -> Self {
        let member = FleetMember {
            name: "edge-2".into(),
            addresses: vec!["192.0.2.12/24".parse().unwrap()],
        };
        let announcing = Announcing::new("edge-1".into(), [member], None);
        Self {
            builder: Builder::new(RouteSettings::new("edge-1".into())),
            seen: announcing.subscribe(),
            announcing,
            services: BTreeMap::new(),
        }
    }

    /// As the control task does.
    fn apply(&mut self, changes: Vec<Change>) {
        let batch = Batch::synced(changes);
        self.announcing.apply(&batch.changes);
        self.builder.apply(&batch);
        if self.announcing.settle(&self.builder) {
            let all = self.services.iter();
            let all = all.map(|(service, it)| (service, copy(it)));
            self.announcing.set_services(all);
        }
    }

    fn service(&mut self, name: &str, listeners: &[(&str, ListenerState)]) {
        self.announce(name, listeners, None);
    }

    /// A Service with `externalTrafficPolicy: Local`, whose endpoints are on these Nodes.
    fn local(&mut self, name: &str, listeners: &[(&str, ListenerState)], nodes: &[&str]) {
        let nodes = nodes.iter().map(|name| (*name).into()).collect();
        self.announce(name, listeners, Some(Arc::new(nodes)));
    }

    fn announce(
        &mut self,
        name: &str,
        listeners: &[(&str, ListenerState)],
        local_nodes: Option<Arc<BTreeSet<ClusterName>>>,
    ) {
        let name = ServiceName::new("default", name);
        let service = AnnouncedService {
            listeners: listeners.iter().cloned().map(listener).collect(),
            local_nodes,
            reach: EndpointReach::default(),
        };
        self.announcing.set_service(&name, &service);
        self.services.insert(name, service);
    }

    /// `ADDRESS POOL`, and `able` where it is; why it is not where its Services lack an endpoint, and the Nodes that are
    /// preferred.
    fn addresses(&mut self) -> Vec<String> {
        let seen = self.seen.borrow_and_update();
        let line = |(address, it): (&IpAddr, &AnnouncedAddress)| {
            let able = match (it.is_able, it.lacks_local_endpoint) {
                (true, _) => " able",
                (false, true) => " without",
                (false, false) => "",
            };
            let preferred = it.local_nodes.iter().map(|name| format!(" <{name}"));
            let preferred: String = preferred.collect();
            format!("{address} {}{able}{preferred}", it.pool)
        };
        seen.addresses.iter().map(line).collect()
    }

    /// The addresses of routes in the kernel, or why there is none.
    fn kernel_routes(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        let line = |(address, wanted): (IpAddr, Result<(), NotAnnounced>)| match wanted {
            Ok(()) => address.to_string(),
            Err(why) => format!("{address} not: {why:?}"),
        };
        seen.kernel_routes().map(line).collect()
    }

    fn owners(&mut self, pool: &str) -> Vec<String> {
        let seen = self.seen.borrow_and_update();
        let owners = seen.pools[pool].owners.iter();
        owners.map(ToString::to_string).collect()
    }
}

fn copy(it: &AnnouncedService) -> AnnouncedService {
    AnnouncedService {
        listeners: it.listeners.clone(),
        local_nodes: it.local_nodes.clone(),
        reach: it.reach,
    }
}

fn listener((listen, state): (&str, ListenerState)) -> ListenerReport {
    let listen: std::net::SocketAddr = listen.parse().unwrap();
    ListenerReport {
        listen: ListenAddr(listen),
        protocol: Protocol::Tcp,
        port: listen.port(),
        kind: if listen.port() < 30_000 {
            ClaimKind::Vip
        } else {
            ClaimKind::NodePort
        },
        state,
    }
}

fn pool(name: &str, priority: i32, net: &str, announcement: Announcement) -> Change {
    let block = AddressBlock {
        range: AddressRange::of_net(net.parse().unwrap()),
        avoid_ends: false,
    };
    let pool = AddressPool {
        priority,
        announce: Arc::new(announcement),
        ..AddressPool::new(name.into(), vec![block])
    };
    Change::Pool(name.into(), Some(Arc::new(pool)))
}

fn layer2(selector: Selector) -> Announcement {
    Announcement {
        layer2: Some(Layer2Announcement {
            node_selector: selector,
            ..Layer2Announcement::default()
        }),
        ..Announcement::default()
    }
}

fn unreachable() -> ListenerState {
    let message = "none answers".to_owned();
    ListenerState::Unreachable { message }
}

fn failed() -> ListenerState {
    ListenerState::Failed {
        reason: "PortInUse".to_owned(),
        message: String::new(),
    }
}

#[test]
fn an_address_is_able_while_one_listener_of_one_service_takes_traffic_there() {
    use ListenerState::{Listening, Refusing};
    let mut world = World::new();
    world.apply(vec![pool(
        "a",
        1,
        "203.0.113.0/28",
        layer2(Selector::default()),
    )]);
    assert_eq!(world.addresses(), [""; 0]);
    for (service, listeners, wanted) in [
        (
            "web",
            &[("203.0.113.1:80", Listening)][..],
            &["203.0.113.1 a able"][..],
        ),
        ("web", &[("203.0.113.1:80", Refusing)], &["203.0.113.1 a"]),
        ("web", &[("203.0.113.1:80", failed())], &["203.0.113.1 a"]),
        (
            "web",
            &[("203.0.113.1:80", unreachable())],
            &["203.0.113.1 a able"],
        ),
        // One of two ports is enough.
        (
            "web",
            &[("203.0.113.1:80", failed()), ("203.0.113.1:81", Listening)],
            &["203.0.113.1 a able"],
        ),
        ("web", &[("203.0.113.1:80", Refusing)], &["203.0.113.1 a"]),
        // So is one of two Services.
        (
            "mail",
            &[("203.0.113.1:25", Listening)],
            &["203.0.113.1 a able"],
        ),
        (
            "mail",
            &[("203.0.113.2:25", Listening)],
            &["203.0.113.1 a", "203.0.113.2 a able"],
        ),
        // Neither node ports nor addresses outside the pool count.
        (
            "mail",
            &[
                ("203.0.113.3:30025", Listening),
                ("192.0.2.1:25", Listening),
            ],
            &["203.0.113.1 a"],
        ),
        ("web", &[], &[]),
    ] {
        world.service(service, listeners);
        assert_eq!(world.addresses(), wanted, "{service} {listeners:?}");
    }
}

#[test]
fn an_address_goes_where_a_service_of_policy_local_has_an_endpoint() {
    use ListenerState::{Listening, Refusing};
    let mut world = World::new();
    world.apply(vec![pool(
        "a",
        1,
        "203.0.113.0/28",
        layer2(Selector::default()),
    )]);
    let (web, mail, dns) = ("203.0.113.1:80", "203.0.113.1:25", "203.0.113.1:53");
    // Alone: where its endpoints are.
    world.local("web", &[(web, Refusing)], &["edge-2"]);
    assert_eq!(world.addresses(), ["203.0.113.1 a without <edge-2"]);
    world.local("web", &[(web, Listening)], &["edge-1", "edge-2"]);
    assert_eq!(world.addresses(), ["203.0.113.1 a able <edge-1 <edge-2"]);
    // It has an endpoint here, and the listener can't stand.
    world.local("web", &[(web, failed())], &["edge-1"]);
    assert_eq!(world.addresses(), ["203.0.113.1 a"]);
    world.local("web", &[(web, Refusing)], &[]);
    assert_eq!(world.addresses(), ["203.0.113.1 a without"]);
    // Another Service is served from anywhere: it decides while the first one has no endpoint.
    world.service("mail", &[(mail, Listening)]);
    assert_eq!(world.addresses(), ["203.0.113.1 a able"]);
    world.local("web", &[(web, Refusing)], &["edge-2", "worker"]);
    assert_eq!(
        world.addresses(),
        ["203.0.113.1 a able <edge-2 <worker"],
        "the first one is served there alone"
    );
    // Two of policy Local, which have no Node in common: either may have it.
    world.local("dns", &[(dns, Listening)], &["edge-1"]);
    assert_eq!(
        world.addresses(),
        ["203.0.113.1 a able <edge-1 <edge-2 <worker"]
    );
    world.local("dns", &[], &[]);
    world.service("mail", &[(mail, Refusing)]);
    assert_eq!(world.addresses(), ["203.0.113.1 a <edge-2 <worker"]);
    world.service("web", &[(web, Listening)]);
    assert_eq!(world.addresses(), ["203.0.113.1 a able"]);
}

#[test]
fn an_address_is_a_route_where_its_local_endpoints_are() {
    let mut world = World::new();
    let routes = Announcement {
        kernel_routes: true,
        ..Announcement::default()
    };
    world.apply(vec![
        pool("a", 1, "203.0.113.0/28", routes),
        pool("b", 1, "203.0.113.16/28", layer2(Selector::default())),
    ]);
    let (web, dns) = ("203.0.113.1:80", "203.0.113.1:53");
    world.service("other", &[("203.0.113.17:80", ListenerState::Listening)]);
    world.service("web", &[(web, ListenerState::Listening)]);
    assert_eq!(world.kernel_routes(), ["203.0.113.1"]);
    world.service("web", &[(web, ListenerState::Refusing)]);
    assert_eq!(world.kernel_routes(), ["203.0.113.1 not: NotServed"]);
    // A Node without a gateway can't take the address, so the other Service at it is served from here.
    world.service("web", &[(web, ListenerState::Listening)]);
    world.local("dns", &[(dns, ListenerState::Refusing)], &["worker"]);
    assert_eq!(world.kernel_routes(), ["203.0.113.1"]);
    // A gateway on a Node with an endpoint can.
    world.local("dns", &[(dns, ListenerState::Refusing)], &["edge-2"]);
    assert_eq!(world.kernel_routes(), ["203.0.113.1 not: LeftToOthers"]);
    let nodes = ["edge-1", "edge-2"];
    world.local("dns", &[(dns, ListenerState::Listening)], &nodes);
    assert_eq!(world.kernel_routes(), ["203.0.113.1"]);
    // Alone at its address it needs an endpoint on this Node.
    world.service("web", &[]);
    world.local("dns", &[(dns, ListenerState::Refusing)], &["worker"]);
    assert_eq!(
        world.kernel_routes(),
        ["203.0.113.1 not: LacksLocalEndpoint"]
    );
}

#[test]
fn pools_that_change_concern_the_addresses_that_are_there() {
    let mut world = World::new();
    world.service("web", &[("203.0.113.1:80", ListenerState::Listening)]);
    world.service("far", &[("203.0.113.200:80", ListenerState::Listening)]);
    let announced = || layer2(Selector::default());
    for (changes, wanted) in [
        // It says nothing of announcing.
        (
            vec![pool("a", 5, "203.0.113.0/24", Announcement::default())],
            &[][..],
        ),
        (
            vec![pool("a", 5, "203.0.113.0/24", announced())],
            &["203.0.113.1 a able", "203.0.113.200 a able"],
        ),
        // Of overlapping pools the one counts that the address belongs to.
        (
            vec![pool("b", 1, "203.0.113.0/28", Announcement::default())],
            &["203.0.113.200 a able"],
        ),
        (
            vec![pool("b", 1, "203.0.113.0/28", announced())],
            &["203.0.113.1 b able", "203.0.113.200 a able"],
        ),
        (
            vec![Change::Pool("a".into(), None)],
            &["203.0.113.1 b able"],
        ),
        (vec![Change::Pool("b".into(), None)], &[]),
    ] {
        world.apply(changes);
        assert_eq!(world.addresses(), wanted);
    }
}

#[test]
fn the_owners_of_a_pool_follow_from_nodes_and_gateways() {
    let mut world = World::new();
    let edge = Expression::Equal("edge".to_owned(), "true".to_owned());
    world.apply(vec![
        pool("all", 1, "203.0.113.0/28", layer2(Selector::default())),
        pool("edge", 1, "203.0.113.16/28", layer2(edge.into())),
    ]);
    assert_eq!(world.owners("all"), ["edge-1", "edge-2"]);
    assert_eq!(world.owners("edge"), [""; 0]);
    let node = |name: &str| {
        let node = Node {
            name: name.into(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            zone: None,
            labels: [("edge".to_owned(), "true".to_owned())].into(),
            excluded: None,
            draining: None,
        };
        Change::Node(name.into(), Some(Arc::new(node)))
    };
    let member = |name: &str| {
        let member = FleetMember {
            name: name.into(),
            addresses: Vec::new(),
        };
        Change::Member(name.into(), Some(Arc::new(member)))
    };
    world.apply(vec![node("edge-2"), node("edge-3")]);
    assert_eq!(world.owners("edge"), ["edge-2"]);
    world.apply(vec![member("edge-3"), member("edge-1"), node("edge-1")]);
    assert_eq!(world.owners("edge"), ["edge-1", "edge-2", "edge-3"]);
    assert!(
        !world.seen.borrow().members.contains_key("edge-1"),
        "that is itself"
    );
    world.apply(vec![Change::Member("edge-2".into(), None)]);
    assert_eq!(world.owners("all"), ["edge-1", "edge-3"]);
}

#[test]
fn a_gateway_drains_while_somebody_has_asked_it_to_or_its_own_node_says_so() {
    let mut world = World::new();
    let node = |name: &str, draining| {
        let node = Node {
            name: name.into(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            zone: None,
            labels: BTreeMap::new(),
            excluded: None,
            draining,
        };
        Change::Node(name.into(), Some(Arc::new(node)))
    };
    let is = |world: &World| world.seen.borrow().draining.clone();
    world.apply(vec![
        node("edge-1", None),
        node("edge-2", Some("it is cordoned")),
    ]);
    assert_eq!(is(&world), None, "another one's Node");
    world.apply(vec![node("edge-1", Some("it is cordoned"))]);
    assert_eq!(is(&world).as_deref(), Some("of its Node: it is cordoned"));
    world.announcing.set_asked_to_drain(true);
    world.apply(vec![node("edge-1", None)]);
    assert_eq!(is(&world).as_deref(), Some("fairway drain has asked it to"));
    world.announcing.set_asked_to_drain(false);
    world.apply(Vec::new());
    assert_eq!(is(&world), None);
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let mut world = World::new();
    world.apply(vec![pool(
        "a",
        1,
        "203.0.113.0/28",
        layer2(Selector::default()),
    )]);
    world.service("web", &[("203.0.113.1:80", ListenerState::Listening)]);
    let _ = world.addresses();
    world.service("web", &[("203.0.113.1:80", unreachable())]);
    world.service("far", &[("192.0.2.1:80", ListenerState::Listening)]);
    world.apply(Vec::new());
    assert!(!world.seen.has_changed().unwrap());
}

#[test]
fn a_change_of_one_service_copies_nothing_where_pools_and_probes_are_kept() {
    let mut world = World::new();
    world.apply(vec![pool(
        "a",
        1,
        "203.0.113.0/28",
        layer2(Selector::default()),
    )]);
    world.service("web", &[("203.0.113.1:80", ListenerState::Listening)]);
    // As the fleet's thread does.
    let kept = {
        let seen = world.seen.borrow();
        (seen.pools.clone(), seen.probing.clone())
    };
    let before = Arc::as_ptr(&world.seen.borrow());
    world.service("other", &[("203.0.113.2:80", ListenerState::Listening)]);
    assert_eq!(Arc::as_ptr(&world.seen.borrow()), before);
    assert!(Arc::ptr_eq(&world.seen.borrow().pools, &kept.0));
    assert_eq!(world.seen.borrow().addresses.len(), 2);
}
