//! Endpoints of a port that die, refuse, reset, flap and come back under traffic, as a seeded simulation of all that
//! decides where a connection goes: what is known of each endpoint, which of them get traffic, and how they are tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::PortKey;
use fairway_gateway_core::attempts::Attempts;
use fairway_gateway_core::available::{Available, AvailableEndpoint, LiveEndpoint, most_out};
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::endpoint_health::EndpointHealth;
use fairway_gateway_core::health::{
    HealthFailure, HealthSuccess, HealthVerdict, LONGEST_WAIT, TRIAL_TIME,
};
use fairway_gateway_core::pick::Balancer;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort, Tick};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that takes at least this long is slow.
const SLOW: Duration = Duration::from_secs(1);

/// What an endpoint does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Serves,
    Refuses,
    Silent,
    Resets,
}

#[derive(Clone, Debug, Default)]
struct Server(Arc<EndpointHealth>);

impl LiveEndpoint for Server {
    fn active(&self) -> u64 {
        0
    }

    fn claim_trial(&self, now: Tick) -> bool {
        self.0.claim_trial(now)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    is_served: bool,
    took: Duration,
    /// The endpoints that were dialled.
    dials: usize,
}

/// A port and its servers, with a clock of its own.
struct World {
    seed: u64,
    random: u64,
    now: Tick,
    route: RoutePort,
    balancer: Balancer,
    servers: Vec<(Server, Behaviour)>,
    available: Available<Server>,
    clients: u32,
}

impl World {
    fn new(seed: u64, servers: usize, affinity: Option<Duration>) -> Self {
        let addresses = (1..).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n));
        let eligible = addresses
            .take(servers)
            .map(|ip| Endpoint::new(EndpointAddr(SocketAddr::new(ip.into(), 80))));
        let key = PortKey {
            protocol: Protocol::Tcp,
            port: 80,
        };
        let endpoints = EndpointSet::new(eligible.collect(), Vec::new());
        let route = RoutePort {
            affinity,
            ..RoutePort::new(ServiceName::new("web", "shop"), key, endpoints)
        };
        let servers = vec![(); servers];
        let servers: Vec<_> = servers
            .iter()
            .map(|()| (Server::default(), Behaviour::Serves))
            .collect();
        let mut world = Self {
            seed,
            random: seed,
            now: Tick(1_000_000),
            route,
            balancer: Balancer::new(seed),
            servers,
            available: Available::new([]),
            clients: 0,
        };
        world.renew();
        world
    }

    /// splitmix64.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Sorts the endpoints out, and checks what has to be so at any time.
    fn renew(&mut self) {
        let eligible = self.route.endpoints.eligible.iter();
        let all = eligible.zip(&self.servers);
        self.available = Available::new(all.map(|(endpoint, (server, _))| AvailableEndpoint {
            endpoint: endpoint.clone(),
            verdict: server.0.verdict(),
            state: server.clone(),
        }));
        let (seed, now) = (self.seed, self.now);
        assert!(
            !self.available.endpoints.is_empty(),
            "seed {seed}, {now:?}: the last is out"
        );
        let most = most_out(self.servers.len());
        assert!(
            self.available.out.len() <= most,
            "seed {seed}, {now:?}: too many are out"
        );
    }

    fn wait(&mut self, millis: u64) {
        self.now.0 += millis;
    }

    fn place(&self, addr: EndpointAddr) -> usize {
        let mut eligible = self.route.endpoints.eligible.iter();
        eligible.position(|endpoint| endpoint.addr == addr).unwrap()
    }

    /// One connection, from beginning to end. The clock goes on by what it takes.
    fn connect(&mut self, client: u32) -> Ended {
        let client = IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + client));
        let began = self.now;
        let mut attempts = Attempts::default();
        let mut dials = 0;
        let mut is_served = false;
        while attempts.may_try(self.now) {
            let picked = self.balancer.pick(
                &self.route,
                &self.available,
                client,
                self.now,
                attempts.tried(),
            );
            let Some(picked) = picked else {
                break;
            };
            let patience = attempts.patience(&picked).duration(CONNECT_TIMEOUT);
            let addr = picked.at.endpoint.addr;
            if picked.is_doubtful && picked.at.state.0.verdict() == HealthVerdict::Healthy {
                self.renew();
            }
            let (server, behaviour) = self.servers[self.place(addr)].clone();
            let dialled = self.now;
            dials += 1;
            self.wait(1);
            let health = &server.0;
            let changed = match behaviour {
                Behaviour::Serves => {
                    is_served = true;
                    health.connected(self.now) | health.worked(HealthSuccess::FirstByte, self.now)
                }
                Behaviour::Resets => {
                    health.connected(self.now) | health.failed(HealthFailure::Reset, self.now)
                }
                Behaviour::Refuses => {
                    attempts.failed(addr);
                    health.dial_failed(DialFailure::Refused, dialled, self.now)
                }
                Behaviour::Silent => {
                    self.wait(u64::try_from(patience.as_millis()).unwrap());
                    attempts.failed(addr);
                    health.dial_failed(DialFailure::Timeout, dialled, self.now)
                }
            };
            if changed {
                self.renew();
            }
            if matches!(behaviour, Behaviour::Serves | Behaviour::Resets) {
                break;
            }
        }
        Ended {
            is_served,
            took: Duration::from_millis(self.now.0 - began.0),
            dials,
        }
    }

    fn connect_anew(&mut self) -> Ended {
        self.clients += 1;
        self.connect(self.clients)
    }
}

#[test]
fn of_clients_one_after_the_other_one_is_slow_while_an_endpoint_is_silent() {
    for servers in 2..6 {
        for seed in 0..50 {
            let mut world = World::new(seed, servers, None);
            world.servers[seed as usize % servers].1 = Behaviour::Silent;
            let mut slow = 0;
            // Ten minutes of them, a fifth of a second apart.
            for _ in 0..3000 {
                let ended = world.connect_anew();
                assert!(ended.is_served, "seed {seed}");
                assert!(
                    ended.took < Duration::from_secs(2),
                    "seed {seed}: {ended:?}"
                );
                slow += usize::from(ended.took >= SLOW);
                world.wait(200);
            }
            assert_eq!(slow, 1, "{servers} servers, seed {seed}");
        }
    }
}

#[test]
fn clients_with_affinity_have_one_slow_connection_in_all_as_well() {
    for seed in 0..50 {
        let mut world = World::new(seed, 3, Some(Duration::from_secs(3600)));
        let before: Vec<_> = (0..30)
            .map(|client| {
                world.connect(client);
                let tried = &[];
                let client = IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + client));
                let picked =
                    world
                        .balancer
                        .pick(&world.route, &world.available, client, world.now, tried);
                picked.unwrap().at.endpoint.addr
            })
            .collect();
        let dead = seed as usize % 3;
        world.servers[dead].1 = Behaviour::Silent;
        let mut slow = 0;
        for round in 0..100 {
            let ended = world.connect(round % 30);
            slow += usize::from(ended.took >= SLOW);
            assert!(ended.is_served);
            world.wait(100);
        }
        assert!(slow <= 1, "seed {seed}: {slow}");
        world.servers[dead].1 = Behaviour::Serves;
        world.wait(70_000);
        for client in 0..30 {
            world.connect(client);
        }
        for (client, before) in (0..).zip(&before) {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + client));
            let picked =
                world
                    .balancer
                    .pick(&world.route, &world.available, client, world.now, &[]);
            assert_eq!(
                picked.unwrap().at.endpoint.addr,
                *before,
                "seed {seed}: they return"
            );
        }
    }
}

#[test]
fn a_server_that_resets_costs_five_connections_and_then_one_in_a_while() {
    for seed in 0..50 {
        let mut world = World::new(seed, 2, None);
        world.servers[1].1 = Behaviour::Resets;
        // A minute of them, ten a second.
        let failed = (0..600).filter(|_| {
            world.wait(100);
            !world.connect_anew().is_served
        });
        let failed = failed.count();
        // Five, and trials after 2, 4, 8, 16 and 32 s.
        assert!((8..=10).contains(&failed), "seed {seed}: {failed}");
    }
}

#[test]
fn a_server_that_starts_anew_is_taken_back_within_five_seconds() {
    for seed in 0..50 {
        let mut world = World::new(seed, 3, None);
        world.servers[2].1 = Behaviour::Refuses;
        let mut dials = 0;
        for _ in 0..1000 {
            let ended = world.connect_anew();
            assert!(
                ended.is_served && ended.took < SLOW,
                "seed {seed}: {ended:?}"
            );
            dials += ended.dials;
            world.wait(100);
        }
        // Three to find out, and one in five seconds.
        assert!(dials < 1000 + 3 + 25, "seed {seed}: {dials}");
        world.servers[2].1 = Behaviour::Serves;
        for _ in 0..52 {
            world.connect_anew();
            world.wait(100);
        }
        assert!(world.available.out.is_empty(), "seed {seed}");
    }
}

#[test]
fn one_that_is_there_is_found_among_dead_ones() {
    for servers in 2..5 {
        for seed in 0..50 {
            let mut world = World::new(seed, servers, None);
            for server in &mut world.servers {
                server.1 = Behaviour::Refuses;
            }
            for _ in 0..20 {
                assert!(!world.connect_anew().is_served);
                world.wait(300);
            }
            // All have failed, and any of them may be left alone.
            world.servers[seed as usize % servers].1 = Behaviour::Serves;
            for _ in 0..100 {
                assert!(
                    world.connect_anew().is_served,
                    "{servers} servers, seed {seed}"
                );
                world.wait(10);
            }
        }
    }
}

#[test]
fn whatever_happens_all_are_back_when_all_serve() {
    use Behaviour::{Refuses, Resets, Serves, Silent};
    for seed in 0..300 {
        let servers = 1 + (seed as usize) % 7;
        let affinity = (seed % 3 == 0).then_some(Duration::from_secs(60));
        let mut world = World::new(seed, servers, affinity);
        for _ in 0..500 {
            if world.random(10) == 0 {
                let which = usize::try_from(world.random(servers as u64)).unwrap();
                let behaviour = usize::try_from(world.random(5)).unwrap();
                world.servers[which].1 = [Serves, Serves, Refuses, Silent, Resets][behaviour];
            }
            let pause = world.random(1000);
            world.wait(pause);
            let serves = |(_, behaviour): &(Server, Behaviour)| *behaviour == Serves;
            let resets = |(_, behaviour): &(Server, Behaviour)| *behaviour == Resets;
            let can_serve = world.servers.iter().filter(|it| serves(it)).count() > 0;
            let may_reset = world.servers.iter().any(resets);
            let ended = world.connect_anew();
            if can_serve && !may_reset && servers <= 3 {
                assert!(
                    ended.is_served,
                    "seed {seed}: {ended:?}, {:?}",
                    world.servers
                );
            }
        }
        for server in &mut world.servers {
            server.1 = Serves;
        }
        world.wait(u64::try_from((LONGEST_WAIT + TRIAL_TIME).as_millis()).unwrap());
        for _ in 0..300 {
            assert!(world.connect_anew().is_served, "seed {seed}");
        }
        assert!(world.available.out.is_empty(), "seed {seed}");
        let healthy = world
            .available
            .all()
            .all(|it| it.verdict == HealthVerdict::Healthy);
        assert!(healthy, "seed {seed}");
    }
}
