//! `Programmed`: what gateways that live, are behind or fail make of it.

use fairway_config::conditions::PROGRAMMED;
use fairway_config::exchange::{ClaimKind, GatewayProgress, ListenerReport, ListenerState, Report};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::pool::Forwarding;
use fairway_controller_core::{GatewayCount, ProgrammedCount, Settings};

use crate::world::{World, other_pool, pool, port, service, settings};

/// Gateways are processes of their own.
pub(crate) fn in_cluster() -> Settings {
    Settings {
        allocates_node_ports: false,
        gateways_tell: true,
        nodes_forward: true,
        ..settings()
    }
}

/// What a gateway says of a Service: these listeners, and so many endpoints.
pub(crate) fn says(gateway: &str, listeners: &[(u16, ListenerState)], endpoints: usize) -> Report {
    Report {
        listeners: listeners
            .iter()
            .map(|(port, state)| ListenerReport {
                listen: ListenAddr(([10, 0, 0, 1], *port).into()),
                protocol: Protocol::Tcp,
                port: *port,
                kind: ClaimKind::Vip,
                state: state.clone(),
            })
            .collect(),
        eligible_endpoints: endpoints,
        ..Report::new(gateway.into())
    }
}

pub(crate) fn failed() -> ListenerState {
    ListenerState::Failed {
        reason: "PortInUse".to_owned(),
        message: "another process holds the port".to_owned(),
    }
}

fn unreachable() -> ListenerState {
    ListenerState::Unreachable {
        message: "10.9.9.9:80 refuses".to_owned(),
    }
}

/// How a gateway is to a Service with the ports 80 and 81.
#[derive(Clone, Copy, Debug)]
enum Is {
    Gone,
    Behind,
    /// It has applied an earlier revision.
    Earlier,
    Well,
    /// It has not renewed its Lease since the controller began.
    Found,
    Untold,
    NoEndpoints,
    /// One port has none.
    NoneAt81,
    Unreachable,
    Fails,
}

#[test]
fn programmed_is_true_only_while_a_live_gateway_serves_every_port_of_this_version() {
    use Is::*;
    const TRUE: &str = "Programmed";
    let cases: &[(&[Is], &str, (usize, usize))] = &[
        (&[], "NoGateway", (0, 0)),
        (&[Gone], "NoGateway", (0, 0)),
        (&[Behind], "GatewayBehind", (0, 1)),
        (&[Earlier], "GatewayBehind", (0, 1)),
        (&[Untold], "GatewayBehind", (0, 1)),
        (&[Gone, Behind], "GatewayBehind", (0, 1)),
        (&[Well], TRUE, (1, 1)),
        (&[Found], TRUE, (1, 1)),
        (&[Gone, Behind, Earlier, Untold, Well], TRUE, (1, 4)),
        (&[NoEndpoints], "NoEndpoints", (0, 1)),
        (&[NoneAt81], "NoEndpoints", (0, 1)),
        (&[NoEndpoints, NoneAt81, Behind], "NoEndpoints", (0, 3)),
        (&[NoEndpoints, Well], TRUE, (1, 2)),
        (&[Unreachable], "EndpointsUnreachable", (0, 1)),
        (&[NoEndpoints, Unreachable], "EndpointsUnreachable", (0, 2)),
        (&[Unreachable, Well], TRUE, (1, 2)),
        (&[Fails], "PortInUse", (0, 1)),
        (&[Well, Fails], "PortInUse", (1, 2)),
        (&[NoEndpoints, Fails, Behind], "PortInUse", (0, 3)),
        (&[Well, Well, Well], TRUE, (3, 3)),
    ];
    for (gateways, reason, serving) in cases {
        let mut world = World::new(in_cluster(), vec![pool()]);
        let mut shop = service("shop", 1);
        shop.ports.push(port(Protocol::Tcp, 81, None));
        world.put([shop]);
        let revision = world.revision;
        for (n, is) in gateways.iter().enumerate() {
            let name = &*format!("edge-{n}");
            let applied = |revision, since_start, untold: &[&str]| GatewayProgress::Applied {
                revision,
                since_start,
                untold: untold.iter().map(|it| (*it).into()).collect(),
            };
            world.gateway(
                name,
                match is {
                    Gone => GatewayProgress::Gone,
                    Behind => GatewayProgress::Behind {
                        why: "it starts".to_owned(),
                    },
                    Earlier => applied(revision - 1, true, &[]),
                    Found => applied(revision, false, &[]),
                    Untold => applied(revision, true, &["web"]),
                    Well | NoEndpoints | NoneAt81 | Unreachable | Fails => {
                        applied(revision, true, &["other"])
                    }
                },
            );
            let report = match is {
                NoEndpoints => says(name, &[], 0),
                NoneAt81 => says(name, &[(81, ListenerState::Refusing)], 1),
                Unreachable => says(name, &[(80, unreachable())], 1),
                Fails => says(name, &[(80, failed())], 1),
                _ => continue,
            };
            world.say_of_another("shop", report);
        }
        assert_eq!(
            world.condition("shop", PROGRAMMED),
            Some((*reason == TRUE, *reason)),
            "{gateways:?}"
        );
        assert_eq!(world.serving("shop"), *serving, "{gateways:?}");
        // People are told the condition's sentence, and then what each gateway says.
        let said = world.explain("shop", "Traffic");
        let message = world.message("shop", PROGRAMMED).trim_end_matches('.');
        assert_eq!(said[0], format!("{message}."), "{gateways:?}");
        let words = |is: &Is| match is {
            Gone => "does not count: it was stopped",
            Behind | Earlier | Untold => "has not yet said that it has programmed",
            Well | Found => "serves it",
            NoEndpoints => "refuses clients at ports 80/TCP, 81/TCP",
            NoneAt81 => "refuses clients at port 81/TCP",
            Unreachable => "reaches no endpoint for port 80/TCP: 10.9.9.9:80 refuses.",
            Fails => "does not take its traffic: 10.0.0.1:80/TCP: another process holds the port.",
        };
        assert_eq!(said.len(), gateways.len() + 1, "{said:?}");
        for (n, is) in gateways.iter().enumerate() {
            let sentence = format!("Gateway edge-{n} {}", words(is));
            assert!(
                said.iter().any(|it| it.starts_with(&sentence)),
                "{sentence}: {said:?}"
            );
        }
        // And the same is counted.
        let counts = world.counts();
        let reason = match *reason {
            "PortInUse" => "Other",
            reason => reason,
        };
        let counted = |count: &ProgrammedCount| usize::from(count.as_str() == reason);
        let wanted = ProgrammedCount::ALL.map(|it| (it, counted(&it)));
        assert_eq!(counts.programmed, wanted.into(), "{gateways:?}");
        let silent = gateways.iter().filter(|is| matches!(is, Gone)).count();
        assert_eq!(counts.gateways[&GatewayCount::Silent], silent);
        assert_eq!(
            counts.gateways[&GatewayCount::Ready],
            gateways.len() - silent
        );
    }
}

#[test]
fn each_change_of_a_service_waits_for_a_gateway_that_has_applied_it() {
    let mut world = World::new(in_cluster(), vec![pool()]);
    const BEHIND: Option<(bool, &str)> = Some((false, "GatewayBehind"));
    const WELL: Option<(bool, &str)> = Some((true, "Programmed"));
    world.applied("edge", 100);
    world.put([service("shop", 1)]);
    // It has applied much, but what the Service was given is newer in any case.
    world.revision = 200;
    let mut changed = service("shop", 1);
    changed.ports[0].port = 81;
    world.put([changed.clone()]);
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    world.applied("edge", 200);
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    world.applied("edge", 201);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // It was restored from a backup, and begins again.
    world.applied("edge", 150);
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    world.applied("edge", 300);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // Another Service's change is nothing to this one.
    world.put([service("late", 2)]);
    world.applied("edge", 299);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
}

#[test]
fn what_a_predecessor_wrote_stays_until_a_gateway_is_heard_that_lives() {
    let mut world = World::new(in_cluster(), vec![pool()]);
    const WELL: Option<(bool, &str)> = Some((true, "Programmed"));
    let found = |revision| GatewayProgress::Applied {
        revision,
        since_start: false,
        untold: Default::default(),
    };
    world.put([service("shop", 1), service("edited", 2)]);
    world.applied("edge", world.revision);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // What its Lease says is older than what the leader before wrote last.
    let before = world.revision - 1;
    world.restart_with(in_cluster(), vec![pool()], &[("edge", found(before))]);
    assert_eq!(world.condition("edited", PROGRAMMED), WELL);
    // A Service that changes is judged.
    let mut edited = service("edited", 2);
    edited.ports[0].port = 81;
    world.put([edited]);
    const BEHIND: Option<(bool, &str)> = Some((false, "GatewayBehind"));
    assert_eq!(world.condition("edited", PROGRAMMED), BEHIND);
    assert_eq!(world.condition("shop", PROGRAMMED), WELL);
    // It renews its Lease, and has applied no more: now it counts.
    world.applied("edge", 0);
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    // None that lives: nothing is kept.
    world.applied("edge", 100);
    world.restart_with(
        in_cluster(),
        vec![pool()],
        &[("edge", GatewayProgress::Gone)],
    );
    const NONE: Option<(bool, &str)> = Some((false, "NoGateway"));
    assert_eq!(world.condition("shop", PROGRAMMED), NONE);
}

#[test]
fn without_an_address_or_with_nobody_to_carry_it_nothing_is_programmed() {
    let mut by_nodes = other_pool("nodes", "10.1.0.1", "10.1.0.3");
    by_nodes.forwarding = Forwarding::Node;
    by_nodes.auto_assign = false;
    let mut world = World::new(in_cluster(), vec![pool(), by_nodes]);
    let mut elsewhere = service("elsewhere", 4);
    elsewhere.asks.pool = Some("nodes".into());
    let mut sctp = service("sctp", 0);
    sctp.ports = vec![port(Protocol::Sctp, 80, None)];
    let three = [service("shop", 1), service("late", 3), elsewhere];
    world.put([sctp]);
    world.put(three);
    world.applied("edge", 100);
    for (name, reason) in [
        ("shop", "Programmed"),
        ("late", "AddressNotAssigned"),
        ("elsewhere", "Programmed"),
        ("sctp", "UnsupportedProtocol"),
    ] {
        let is = Some((reason == "Programmed", reason));
        assert_eq!(world.condition(name, PROGRAMMED), is, "{name}");
    }
}

#[test]
fn what_only_gateways_do_is_named_where_the_nodes_carry_the_traffic() {
    let mut by_nodes = pool();
    by_nodes.forwarding = Forwarding::Node;
    let odd = || {
        let mut shop = service("shop", 1);
        shop.asks.deny_source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
        shop.ports.push(port(Protocol::Sctp, 81, None));
        shop
    };
    let mut world = World::new(in_cluster(), vec![by_nodes.clone()]);
    world.put([odd()]);
    world.put([service("plain", 1)]);
    let accepted = |world: &World, name: &str| {
        let status = world.status(name);
        let found = status.conditions.get("fairway.dev/Accepted");
        found.map(|it| (it.reason.to_string(), it.message.clone()))
    };
    let (reason, message) = accepted(&world, "shop").unwrap();
    assert_eq!(reason, "ForwardingNode");
    assert!(
        message.contains("fairway.dev/deny-source-ranges"),
        "{message}"
    );
    assert!(
        !message.contains("SCTP"),
        "kube-proxy carries it: {message}"
    );
    assert_eq!(accepted(&world, "plain"), None);
    // Where gateways carry it, the one has effect and the other has none.
    world.pool(pool());
    assert_eq!(accepted(&world, "shop").unwrap().0, "UnsupportedProtocol");
    // Without a cluster there is no kube-proxy.
    let mut world = World::new(settings(), vec![by_nodes]);
    world.put([service("shop", 1)]);
    let wanted = Some((false, "PoolNotUsable"));
    assert_eq!(
        world.condition("shop", "fairway.dev/AddressAssigned"),
        wanted
    );
}

#[test]
fn in_one_process_a_report_counts_for_the_form_of_the_service_that_it_is_of() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    const BEHIND: Option<(bool, &str)> = Some((false, "GatewayBehind"));
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    let listens = says("here", &[(80, ListenerState::Listening)], 1);
    world.say("shop", listens.clone());
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    // Of another form of it, or without its listener, it is no evidence.
    world.say_of_another("shop", listens.clone());
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    world.say("shop", says("here", &[], 1));
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
    world.say("shop", listens);
    let mut changed = service("shop", 1);
    changed.ports[0].port = 81;
    world.put([changed]);
    assert_eq!(world.condition("shop", PROGRAMMED), BEHIND);
}

#[test]
fn what_a_gateway_reports_ends_in_programmed_and_in_the_ports() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    let error = |world: &World| world.status("shop").ingress[0].ports[0].error.clone();
    world.say("shop", says("east", &[(80, ListenerState::Listening)], 1));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    world.say("shop", says("west", &[(80, failed())], 1));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((false, "PortInUse"))
    );
    assert_eq!(
        world.message("shop", PROGRAMMED),
        "Gateway west, 10.0.0.1:80/TCP: another process holds the port"
    );
    assert_eq!(error(&world).as_deref(), Some("PortInUse"));
    world.say("shop", says("west", &[(80, ListenerState::Refusing)], 0));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    assert_eq!(error(&world), None);
}

#[test]
fn in_one_process_what_was_said_stays_until_the_gateway_is_heard_again() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    world.say("shop", says("east", &[(80, failed())], 1));
    let before = world.status("shop").clone();
    world.now = 500;
    world.restart(settings(), vec![pool()]);
    assert_eq!(*world.status("shop"), before);
    world.say("shop", says("east", &[(80, ListenerState::Listening)], 1));
    assert_eq!(
        world.condition("shop", PROGRAMMED),
        Some((true, "Programmed"))
    );
    assert_eq!(world.status("shop").ingress[0].ports[0].error, None);
}

#[test]
fn a_word_that_concerns_all_services_is_taken_in_a_few_at_a_time() {
    let mut world = World::new(
        in_cluster(),
        vec![other_pool("edge", "10.1.0.0", "10.1.3.255")],
    );
    for n in 0..600 {
        world.put([service(&format!("s{n}"), n)]);
    }
    world.applied("edge", 10_000);
    assert!(world.largest < 200, "{} writes at a time", world.largest);
    for n in 0..600 {
        let is = world.condition(&format!("s{n}"), PROGRAMMED);
        assert_eq!(is, Some((true, "Programmed")));
    }
}
