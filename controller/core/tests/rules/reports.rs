//! What gateways say, where it is much.

use fairway_config::exchange::{
    ClaimKind, ListenerReport, ListenerState, RefusedEndpoint, Report, Unlisted,
};
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::service::Notice;

use crate::world::{World, pool, service, settings};

#[test]
fn a_few_things_are_named_and_the_rest_is_counted_listed_or_not() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    let report = |gateway: &str, unlisted| Report {
        gateway: gateway.into(),
        applied: None,
        listeners: (0..4)
            .map(|port| ListenerReport {
                listen: ListenAddr(([10, 0, 0, 1], port).into()),
                protocol: Protocol::Tcp,
                port,
                kind: ClaimKind::Vip,
                state: ListenerState::Failed {
                    reason: "PortInUse".into(),
                    message: "it is taken".into(),
                },
            })
            .collect(),
        refused_endpoints: (0..4)
            .map(|port| RefusedEndpoint {
                endpoint: EndpointAddr(([127, 0, 0, 1], port).into()),
                why: "is a loopback address".into(),
            })
            .collect(),
        eligible_endpoints: 0,
        notices: (0..4)
            .map(|n| Notice {
                reason: "Odd".into(),
                message: format!("it is odd {n}"),
            })
            .collect(),
        unlisted,
    };
    let unlisted = Unlisted {
        failing_listeners: 10,
        refused_endpoints: 20,
        notices: 30,
    };
    world.say("shop", report("east", unlisted));
    world.say("shop", report("west", Unlisted::default()));
    let ends = |kind: &str, words: &str| {
        let message = &world.status("shop").conditions.get(kind).unwrap().message;
        assert!(message.ends_with(words), "{message}");
    };
    ends("fairway.dev/Programmed", "; 15 more listeners fail");
    // Both refuse the same.
    ends(
        "fairway.dev/EndpointsAllowed",
        "; 21 more endpoints are refused",
    );
    ends("fairway.dev/GatewayNotice", "; 35 more notices");
}
