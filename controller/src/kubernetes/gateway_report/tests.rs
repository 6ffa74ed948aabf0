use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::time::Timestamp;

use super::*;

fn status() -> GatewaySelfReport {
    let row = GatewayRow {
        name: "edge-1".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        why: String::new(),
        listening: 1,
        failed: 0,
        addresses: 0,
        connections: 0,
        flows: 0,
        started: String::new(),
        omitted: 0,
        draining: None,
        members: 0,
        heard: 0,
        silent: Vec::new(),
    };
    GatewaySelfReport::new(row, 7)
}

fn listener(port: u16, kind: ClaimKind, state: ListenerState) -> ListenerReport {
    ListenerReport {
        listen: ListenAddr(([203, 0, 113, 1], port).into()),
        protocol: Protocol::Tcp,
        port,
        kind,
        state,
    }
}

fn report(state: ListenerState, endpoints: usize) -> Arc<Report> {
    Arc::new(Report {
        listeners: vec![listener(80, ClaimKind::Vip, state)],
        eligible_endpoints: endpoints,
        ..Report::new("edge-1".into())
    })
}

fn well() -> Arc<Report> {
    report(ListenerState::Listening, 3)
}

fn refusing() -> Arc<Report> {
    report(ListenerState::Refusing, 0)
}

fn failing() -> Arc<Report> {
    let state = ListenerState::Failed {
        reason: "PortInUse".to_owned(),
        message: "it is taken".to_owned(),
    };
    report(state, 1)
}

fn shop(name: &str) -> ServiceName {
    ServiceName::new("web", name)
}

/// What a controller reads of it.
fn read(reports: &BTreeMap<ServiceName, Arc<Report>>) -> (GatewaySelfReport, Decoded) {
    read_with(reports, &BTreeMap::new())
}

/// The same, where it says something of external addresses, too.
fn read_with(
    reports: &BTreeMap<ServiceName, Arc<Report>>,
    addresses: &BTreeMap<IpAddr, Arc<AddressReport>>,
) -> (GatewaySelfReport, Decoded) {
    let annotations = encode(status(), reports, addresses);
    assert!(annotations.len() <= MAX_BYTES, "{}", annotations.len());
    let gateway = decode_gateway(&annotations.gateway).unwrap();
    let services = decode_services(&"edge-1".into(), &annotations.services).unwrap();
    (gateway, services)
}

#[test]
fn what_is_well_is_counted_and_what_is_not_is_reported() {
    let unreachable = ListenerState::Unreachable {
        message: "10.0.0.1:80 refuses".to_owned(),
    };
    let (gateway, decoded) = read(&BTreeMap::from([
        (shop("well"), well()),
        (shop("none"), refusing()),
        (shop("fails"), failing()),
        (shop("unreachable"), report(unreachable.clone(), 2)),
        (shop("half"), report(ListenerState::Refusing, 1)),
    ]));
    assert_eq!((gateway.applied, gateway.untold.len()), (7, 0));
    let said = |name: &str| {
        let report = decoded.reports.get(&shop(name));
        report.map(|it| (it.eligible_endpoints, it.listeners.clone()))
    };
    assert_eq!(said("well"), None);
    assert_eq!(decoded.endpoints.get(&shop("well")), Some(3));
    assert_eq!(decoded.endpoints.get(&shop("unknown")), None);
    assert_eq!(said("none"), Some((0, vec![])));
    assert_eq!(said("fails"), Some((1, failing().listeners.clone())));
    let listeners = vec![listener(80, ClaimKind::Vip, unreachable)];
    assert_eq!(said("unreachable"), Some((2, listeners)));
    let listeners = vec![listener(80, ClaimKind::Vip, ListenerState::Refusing)];
    assert_eq!(said("half"), Some((1, listeners)));
}

/// What a gateway says of so many addresses: it owns every third one.
fn addresses(count: u32) -> BTreeMap<IpAddr, Arc<AddressReport>> {
    let of = |n: u32| {
        let is_owned = n.is_multiple_of(3);
        let report = AddressReport {
            state: match is_owned {
                true => AddressState::Owned,
                false => AddressState::Elsewhere,
            },
            owner: (!is_owned).then(|| format!("edge-{}", n % 3 + 1).into()),
            since: Timestamp(1_800_000_000 + i64::from(n)),
            term: 1_800_000_000_000 + u64::from(n),
            why: format!("edge-{} was not heard of for 500 ms", n % 7).into(),
            interfaces: vec!["br0".into()],
            conflict: None,
            successor: None,
            probe: None,
        };
        (
            IpAddr::from((0xcb00_7100 + n).to_be_bytes()),
            Arc::new(report),
        )
    };
    (0..count).map(of).collect()
}

#[test]
fn what_is_said_of_addresses_is_read_again_and_leaves_room_for_services() {
    let few = addresses(30);
    let (_, decoded) = read_with(&BTreeMap::from([(shop("none"), refusing())]), &few);
    assert_eq!(decoded.addresses, few);
    assert_eq!(decoded.reports.len(), 1);
    // 20,000 Services of which most have no endpoint, and 4,000 addresses.
    let named = |n: usize| ServiceName::new(format!("team-{}", n % 40), format!("app-{n}-api"));
    let all: BTreeMap<_, _> = (0..20_000).map(|n| (named(n), refusing())).collect();
    let (gateway, decoded) = read_with(&all, &addresses(4000));
    assert_eq!((gateway.row.omitted, decoded.reports.len()), (0, 20_000));
    let owned = |it: &&Arc<AddressReport>| it.state == AddressState::Owned;
    assert_eq!(
        decoded.addresses.values().filter(owned).count(),
        4000 / 3 + 1
    );
}

#[test]
fn what_an_older_version_says_names_no_addresses() {
    let mut text: serde_json::Value =
        serde_json::from_str(&serde_json::to_string(&status()).unwrap()).unwrap();
    let fields = text.as_object_mut().unwrap();
    assert!(!fields.contains_key("addresses"));
    fields["row"].as_object_mut().unwrap().remove("addresses");
    let read = decode_gateway(&text.to_string()).unwrap();
    assert!(read.addresses.is_empty() && read.row.addresses == 0);
}

#[test]
fn twenty_thousand_services_have_room_also_where_most_have_no_endpoint() {
    let named = |n: usize| ServiceName::new(format!("team-{}", n % 40), format!("app-{n}-api"));
    let all: BTreeMap<_, _> = (0..20_000)
        .map(|n| match n % 10 {
            0 => (named(n), well()),
            _ => (named(n), refusing()),
        })
        .collect();
    let (gateway, decoded) = read(&all);
    assert_eq!((gateway.row.omitted, gateway.untold.len()), (0, 0));
    assert_eq!(decoded.reports.len(), 18_000);
}

#[test]
fn what_can_t_be_said_is_told_by_namespace_and_no_namespace_takes_the_room_of_another() {
    // Words that can't be compressed much.
    let noise = |seed: u64| -> String {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let letter = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'a' + (state % 26) as u8)
        };
        (0..80).map(letter).collect()
    };
    let failing = |seed: u64| {
        let mut report = Report::clone(&failing());
        report.listeners[0].state = ListenerState::Failed {
            reason: "PortInUse".to_owned(),
            message: noise(seed),
        };
        Arc::new(report)
    };
    let mut reports: BTreeMap<_, _> = (0..20_000)
        .map(|n| (ServiceName::new("many", format!("s{n}")), failing(n)))
        .collect();
    reports.insert(ServiceName::new("small", "z"), failing(77_777));
    let (gateway, decoded) = read(&reports);
    assert!(gateway.row.omitted > 0);
    assert_eq!(decoded.reports.len() + gateway.row.omitted, 20_001);
    assert_eq!(gateway.untold, ["many".into()].into());
    assert!(
        decoded
            .reports
            .contains_key(&ServiceName::new("small", "z"))
    );
}

#[test]
fn of_one_service_a_few_things_are_said_and_the_rest_is_counted() {
    let mut much = Report::clone(&failing());
    let state = much.listeners[0].state.clone();
    let vips = (0..1_000).map(|n| listener(n, ClaimKind::Vip, state.clone()));
    let node_ports = (0..100).map(|n| listener(n, ClaimKind::NodePort, state.clone()));
    much.listeners = node_ports.chain(vips).collect();
    for n in 0..1_000_u16 {
        much.refused_endpoints.push(RefusedEndpoint {
            endpoint: EndpointAddr(([127, 0, 0, 1], n).into()),
            why: "is a loopback address".to_owned(),
        });
        much.notices.push(Notice {
            reason: "PortNotInEndpointSlices".into(),
            message: format!("port {n} has no endpoints"),
        });
    }
    let (_, decoded) = read(&BTreeMap::from([(shop("a"), Arc::new(much))]));
    let much = &decoded.reports[&shop("a")];
    let ports = much.listeners.iter().filter(|it| it.kind == ClaimKind::Vip);
    assert_eq!(ports.count(), PORTS);
    let named = |it: &&ListenerReport| matches!(&it.state, ListenerState::Failed { message, .. } if !message.is_empty());
    assert_eq!(much.listeners.iter().filter(named).count(), NAMED);
    let lists = (much.refused_endpoints.len(), much.notices.len());
    assert_eq!(lists, (NAMED, NAMED));
    let rest = Unlisted {
        failing_listeners: 1_100 - NAMED - PORTS,
        refused_endpoints: 1_000 - NAMED,
        notices: 1_000 - NAMED,
    };
    assert_eq!(much.unlisted, rest);
}

#[test]
fn what_unpacks_to_more_than_any_gateway_says_is_refused() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(9));
    packed.write_all(b"{\"services\": [").unwrap();
    let blanks = vec![b' '; 1 << 20];
    for _ in 0..(MAX_UNPACKED >> 20) + 1 {
        packed.write_all(&blanks).unwrap();
    }
    packed.write_all(b"]}").unwrap();
    let text = STANDARD.encode(packed.finish().unwrap());
    assert!(decode_services(&"x".into(), &text).is_err());
}

#[test]
fn of_more_sessions_than_there_is_room_for_the_same_ones_are_told_and_the_rest_is_counted() {
    let names = (0..SESSIONS + 44).map(|n| format!("tor-{n:04}"));
    let sessions = names.rev().map(|name| BgpPeerRow {
        name,
        why: "it refuses ".repeat(1000),
        ..BgpPeerRow::default()
    });
    let mut report = status();
    report.set_sessions(sessions.collect());
    let annotations = encode(report, &BTreeMap::new(), &BTreeMap::new());
    assert!(annotations.len() <= MAX_BYTES);
    let told = decode_gateway(&annotations.gateway).unwrap();
    assert_eq!(told.untold_sessions, 44);
    let last = format!("tor-{:04}", SESSIONS - 1);
    assert_eq!(told.sessions.last().map(|it| &*it.name), Some(&*last));
}
