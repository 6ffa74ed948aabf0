//! Addresses that gateways announce on layer 2: who owns one, and what it makes of `Programmed`.

use std::sync::Arc;

use fairway_config::announce::{Announcement, Layer2Announcement};
use fairway_config::conditions::{ADDRESS_CONFLICT, ANNOUNCED, PROGRAMMED};
use fairway_config::exchange::{
    AddressConflict, AddressReport, AddressState, GatewayProgress, ListenerState,
};
use fairway_config::pool::AddressPool;
use fairway_config::time::Timestamp;
use fairway_controller_core::AddressCount;

use crate::programmed::{failed, in_cluster, says};
use crate::world::{World, pool, service, settings};

/// The address that the first Service gets.
const ADDRESS: &str = "10.0.0.1";

fn announced_pool() -> AddressPool {
    AddressPool {
        announce: Arc::new(Announcement {
            layer2: Some(Layer2Announcement::default()),
            ..Announcement::default()
        }),
        ..pool()
    }
}

fn report(state: AddressState, term: u64) -> AddressReport {
    AddressReport {
        state,
        owner: None,
        since: Timestamp(1_800_000_000),
        term,
        why: "edge-9 was not heard of for 500 ms".into(),
        interfaces: vec!["br0".into()],
        conflict: None,
        successor: None,
        probe: None,
    }
}

fn contested(state: AddressState, term: u64) -> AddressReport {
    AddressReport {
        conflict: Some(AddressConflict {
            hardware_address: "52:54:00:00:00:01".into(),
            since: Timestamp(1_800_000_000),
        }),
        ..report(state, term)
    }
}

/// How a gateway serves the Service.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Serves {
    Gone,
    Behind,
    Well,
    NoEndpoints,
    Fails,
}

/// What it says of the address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Nothing,
    Owned(u64),
    /// It owns the address, and another host answers for it, too.
    Contested(u64),
    Elsewhere,
    Unowned,
    InUse,
}

impl Says {
    fn term(self) -> Option<u64> {
        match self {
            Self::Owned(term) | Self::Contested(term) => Some(term),
            _ => None,
        }
    }

    fn report(self) -> Option<AddressReport> {
        match self {
            Self::Nothing => None,
            Self::Owned(term) => Some(report(AddressState::Owned, term)),
            Self::Contested(term) => Some(contested(AddressState::Owned, term)),
            Self::Elsewhere => Some(AddressReport {
                owner: Some("edge-9".into()),
                ..report(AddressState::Elsewhere, 9)
            }),
            Self::Unowned => Some(report(AddressState::Unowned, 0)),
            Self::InUse => Some(contested(AddressState::Conflict, 0)),
        }
    }
}

/// The reason of `Programmed` where these gateways are all that there are, and nothing is announced.
fn unannounced(gateways: &[(Serves, Says)]) -> &'static str {
    let any = |is: Serves| gateways.iter().any(|(serves, _)| *serves == is);
    match () {
        () if gateways.iter().all(|(serves, _)| *serves == Serves::Gone) => "NoGateway",
        () if any(Serves::Fails) => "PortInUse",
        () if any(Serves::Well) => "Programmed",
        () if any(Serves::NoEndpoints) => "NoEndpoints",
        () => "GatewayBehind",
    }
}

/// What a gateway says of itself that serves so.
fn progress(serves: Serves, revision: u64) -> GatewayProgress {
    match serves {
        Serves::Gone => GatewayProgress::Gone,
        Serves::Behind => GatewayProgress::Behind {
            why: "it starts".to_owned(),
        },
        Serves::Well | Serves::NoEndpoints | Serves::Fails => GatewayProgress::Applied {
            revision,
            since_start: true,
            untold: Default::default(),
        },
    }
}

/// The reason, the owner, and whether there is a conflict.
fn wanted(gateways: &[(Serves, Says)], lasts: bool) -> (&'static str, Option<usize>, bool) {
    let lives =
        |(serves, says): &(Serves, Says), what: Says| *serves != Serves::Gone && *says == what;
    let any = |what: Says| gateways.iter().any(|it| lives(it, what));
    let mut owners: Vec<(u64, usize)> = Vec::new();
    for (n, (serves, says)) in gateways.iter().enumerate() {
        let term = says.term().filter(|_| *serves != Serves::Gone);
        owners.extend(term.map(|term| (term, n)));
    }
    owners.sort_by_key(|(term, n)| (std::cmp::Reverse(*term), *n));
    let owner = owners.first().map(|(_, n)| *n);
    if owners.len() > 1 && lasts {
        return ("AddressConflict", owner, true);
    }
    if let Some(n) = owner {
        let is_contested = matches!(gateways[n].1, Says::Contested(_));
        return (unannounced(&gateways[n..=n]), owner, is_contested);
    }
    let whole = unannounced(gateways);
    match () {
        // One that is not heard, as another one says.
        () if any(Says::Elsewhere) && whole == "Programmed" => ("GatewayBehind", Some(9), false),
        () if any(Says::Elsewhere) => (whole, Some(9), false),
        () if any(Says::InUse) => ("AddressConflict", None, true),
        () if whole != "Programmed" => (whole, None, false),
        () if lasts && any(Says::Unowned) => ("AddressNotAnnounced", None, false),
        () => ("GatewayBehind", None, false),
    }
}

#[test]
fn a_service_is_programmed_where_one_live_gateway_owns_its_address_and_serves_it() {
    use Says::{Contested, Elsewhere, InUse, Nothing, Owned, Unowned};
    use Serves::{Behind, Fails, Gone, NoEndpoints, Well};
    let states: Vec<(Serves, Says)> = [Gone, Behind, Well, NoEndpoints, Fails]
        .into_iter()
        .flat_map(|serves| {
            let says = [
                Nothing,
                Owned(5),
                Owned(6),
                Contested(5),
                Elsewhere,
                Unowned,
                InUse,
            ];
            says.map(|says| (serves, says))
        })
        .collect();
    let mut cases: Vec<Vec<(Serves, Says)>> = states.iter().map(|it| vec![*it]).collect();
    for one in &states {
        cases.extend(states.iter().map(|other| vec![*one, *other]));
    }
    for gateways in cases {
        let mut world = World::new(in_cluster(), vec![announced_pool()]);
        world.put([service("shop", 1)]);
        let revision = world.revision;
        for (n, (serves, said)) in gateways.iter().enumerate() {
            let name = &*format!("edge-{n}");
            world.gateway(name, progress(*serves, revision));
            match serves {
                NoEndpoints => world.say_of_another("shop", says(name, &[], 0)),
                Fails => world.say_of_another("shop", says(name, &[(80, failed())], 1)),
                Gone | Behind | Well => {}
            }
            world.address(name, ADDRESS, said.report());
        }
        for seconds in [0, 10] {
            world.pass(seconds);
            // All go on.
            for (n, (serves, _)) in gateways.iter().enumerate() {
                world.gateway(&format!("edge-{n}"), progress(*serves, revision));
            }
            let (reason, owner, is_contested) = wanted(&gateways, seconds > 0);
            let what = format!("{gateways:?} after {seconds} s");
            assert_eq!(
                world.condition("shop", PROGRAMMED),
                Some((reason == "Programmed", reason)),
                "{what}"
            );
            let name = owner.map(|n| format!("edge-{n}"));
            let sentence = name
                .as_ref()
                .map(|it| format!("announcing from node \"{it}\" with protocol \"layer2\""));
            let said = world.status("shop").conditions.get(ANNOUNCED);
            assert_eq!(said.map(|it| it.message.clone()), sentence, "{what}");
            let conflict = world.condition("shop", ADDRESS_CONFLICT);
            assert_eq!(
                conflict,
                is_contested.then_some((true, "AddressConflict")),
                "{what}"
            );
            assert_eq!(world.owners("shop"), [name], "{what}");
            let counted = match (is_contested, owner) {
                (true, _) => AddressCount::Conflict,
                (false, Some(_)) => AddressCount::Owned,
                (false, None) if reason == "AddressNotAnnounced" => AddressCount::Unowned,
                (false, None) => AddressCount::Idle,
            };
            let counts = world.counts().addresses;
            let counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counts, [(counted, 1)], "{what}");
        }
    }
}

#[test]
fn an_address_that_goes_from_one_gateway_to_another_is_announced_all_the_time() {
    let mut world = World::new(in_cluster(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    for name in ["edge-1", "edge-2"] {
        world.applied(name, 100);
    }
    let owned = |term| Some(report(AddressState::Owned, term));
    world.address("edge-1", ADDRESS, owned(5));
    const WELL: Option<(bool, &str)> = Some((true, "Programmed"));
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // It stops, and goes on answering until the other one has it.
    world.stops("edge-1");
    assert_eq!(world.owners("shop"), [Some("edge-1".to_owned())]);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    world.applied("edge-1", 101);
    // The one that takes it says so first, and the other one may be dead.
    world.address("edge-2", ADDRESS, owned(6));
    assert_eq!(world.owners("shop"), [Some("edge-2".to_owned())]);
    world.pass(9);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    assert_eq!(world.condition("shop", ADDRESS_CONFLICT), None);
    let elsewhere = AddressReport {
        owner: Some("edge-2".into()),
        ..report(AddressState::Elsewhere, 6)
    };
    world.address("edge-1", ADDRESS, Some(elsewhere));
    world.pass(100);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // One that has died says nothing new, and is heard no more.
    world.address("edge-1", ADDRESS, owned(5));
    assert!(world.is_overtaken(ADDRESS, "edge-1") && !world.is_overtaken(ADDRESS, "edge-2"));
    world.pass(20);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    assert_eq!(world.condition("shop", ADDRESS_CONFLICT), None);
    assert_eq!(world.owners("shop"), [Some("edge-2".to_owned())]);
    // Two that go on are told of, and that it is over, too.
    world.applied("edge-1", 102);
    assert!(!world.is_overtaken(ADDRESS, "edge-1"));
    let twice = "10.0.0.1 is owned by edge-2 and edge-1 at once: they do not hear each other";
    assert_eq!(world.message("shop", PROGRAMMED), twice);
    assert_eq!(world.message("shop", ADDRESS_CONFLICT), twice);
    world.gateway("edge-1", GatewayProgress::Gone);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    assert_eq!(world.condition("shop", ADDRESS_CONFLICT), None);
}

#[test]
fn a_gateway_that_is_cut_off_from_the_cluster_owns_what_others_say_that_it_owns() {
    let mut world = World::new(in_cluster(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    for name in ["edge-1", "edge-2"] {
        world.applied(name, 100);
    }
    let elsewhere = || AddressReport {
        owner: Some("edge-1".into()),
        ..report(AddressState::Elsewhere, 5)
    };
    world.address("edge-1", ADDRESS, Some(report(AddressState::Owned, 5)));
    world.address("edge-2", ADDRESS, Some(elsewhere()));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    // Its Lease runs out.
    world.address("edge-1", ADDRESS, None);
    world.gateway("edge-1", GatewayProgress::Gone);
    world.pass(100);
    let owner = Some("edge-1".to_owned());
    assert_eq!(world.owners("shop"), [owner]);
    assert_eq!(
        world.message("shop", ANNOUNCED),
        "announcing from node \"edge-1\" with protocol \"layer2\""
    );
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((false, "GatewayBehind"))
    );
    let sentence = "10.0.0.1 is owned by edge-1, as edge-2 says, which hears it. The controller does not hear \
                    edge-1. Whether edge-1 serves the Service is not known";
    assert_eq!(world.message("shop", PROGRAMMED), sentence);
    // It is heard again.
    world.applied("edge-1", 100);
    world.address("edge-1", ADDRESS, Some(report(AddressState::Owned, 5)));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    // It is cut off and dies: the other one takes the address.
    world.address("edge-1", ADDRESS, None);
    world.gateway("edge-1", GatewayProgress::Gone);
    world.address("edge-2", ADDRESS, Some(report(AddressState::Owned, 6)));
    assert_eq!(world.owners("shop"), [Some("edge-2".to_owned())]);
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
}

#[test]
fn two_owners_that_go_on_are_told_of_after_a_while() {
    let mut world = World::new(in_cluster(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    for (name, term) in [("edge-1", 5), ("edge-2", 6)] {
        world.applied(name, 100);
        world.address(name, ADDRESS, Some(report(AddressState::Owned, term)));
    }
    // What a Lease says that was on its way is no evidence.
    world.pass(1);
    world.applied("edge-1", 101);
    world.pass(9);
    assert_eq!(world.condition("shop", ADDRESS_CONFLICT), None);
    world.applied("edge-1", 102);
    let twice = "10.0.0.1 is owned by edge-2 and edge-1 at once: they do not hear each other";
    assert_eq!(world.message("shop", ADDRESS_CONFLICT), twice);
}

#[test]
fn people_are_told_who_owns_an_address_since_when_and_why() {
    let mut world = World::new(in_cluster(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    world.applied("edge-1", 100);
    let told = |world: &World| world.explain("shop", "Address").last().unwrap().clone();
    assert_eq!(told(&world), "No gateway has said yet who owns 10.0.0.1.");
    world.address("edge-1", ADDRESS, Some(report(AddressState::Owned, 5)));
    let why = "since 2027-01-15T08:00:00Z, because edge-9 was not heard of for 500 ms.";
    assert_eq!(told(&world), format!("10.0.0.1 is owned by edge-1 {why}"));
    world.address("edge-1", ADDRESS, Some(report(AddressState::Unowned, 0)));
    assert_eq!(
        told(&world),
        format!("10.0.0.1 is owned by no gateway {why}")
    );
    world.pass(10);
    let message = world.message("shop", PROGRAMMED);
    assert_eq!(message, format!("10.0.0.1 is owned by no gateway {why}"));
}

#[test]
fn a_pool_that_announces_nothing_does_not_ask_who_owns_its_addresses() {
    let mut world = World::new(in_cluster(), vec![pool()]);
    world.put([service("shop", 1)]);
    world.applied("edge-1", 100);
    world.address("edge-1", ADDRESS, Some(report(AddressState::Unowned, 0)));
    world.pass(100);
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    assert_eq!(world.condition("shop", ANNOUNCED), None);
    assert!(world.owners("shop").is_empty());
    // From now on it does.
    world.pool(announced_pool());
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((false, "AddressNotAnnounced"))
    );
}

#[test]
fn in_one_process_the_gateway_says_which_other_one_announces() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    let mut shop = service("shop", 1);
    shop.asks.addresses = vec![ADDRESS.parse().unwrap()];
    world.put([shop]);
    world.say("shop", says("here", &[(80, ListenerState::Listening)], 1));
    const BEHIND: Option<(bool, &str)> = Some((false, "GatewayBehind"));
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    let elsewhere = Says::Elsewhere.report();
    for (report, reason, owner) in [
        (Says::Unowned.report(), "AddressNotAnnounced", None),
        (Says::Owned(5).report(), "Programmed", Some("here")),
        (elsewhere.clone(), "Programmed", Some("edge-9")),
        (Says::InUse.report(), "AddressConflict", None),
    ] {
        world.address("here", ADDRESS, report);
        let is = Some((reason == "Programmed", reason));
        assert_eq!(world.condition("shop", PROGRAMMED), is);
        assert_eq!(world.owners("shop"), [owner.map(str::to_owned)]);
    }
    // What was written stays until the gateway is heard again, of addresses, too.
    world.address("here", ADDRESS, elsewhere);
    let before = world.status("shop").clone();
    world.restart(settings(), vec![announced_pool()]);
    world.say("shop", says("here", &[(80, ListenerState::Listening)], 1));
    assert_eq!(*world.status("shop"), before);
    world.address("here", ADDRESS, Says::Unowned.report());
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((false, "AddressNotAnnounced"))
    );
}
