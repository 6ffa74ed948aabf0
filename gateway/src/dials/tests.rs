#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use fairway_config::net::Protocol;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::health::LAPSE;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort};
use fairway_gateway_core::service_lines::LINES;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const KEY: PortKey = PortKey {
    protocol: Protocol::Tcp,
    port: 80,
};

fn addr(last: u8) -> EndpointAddr {
    EndpointAddr(SocketAddr::from(([10, 0, 0, last], 80)))
}

fn port(service: &ServiceName, endpoints: u8, dials: &Dials) -> Arc<Port> {
    let eligible = (1..=endpoints).map(|last| Endpoint::new(addr(last)));
    let endpoints = EndpointSet::new(eligible.collect(), Vec::new());
    let route = RoutePort::new(service.clone(), KEY, endpoints);
    Arc::new(Port::with_changes(
        Arc::new(route),
        1,
        dials.changes().clone(),
    ))
}

fn fail(port: &Port, endpoint: u8, times: u32, now: u64) {
    for _ in 0..times {
        let state = port.endpoint(addr(endpoint));
        port.dial_failed(&state, DialFailure::Refused, Duration::ZERO, Tick(now));
    }
}

/// A control task over these Services, whose clock is set by hand.
struct ControlBench {
    dials: Dials,
    services: BTreeMap<ServiceName, Vec<(PortKey, Arc<Port>)>>,
    start: Instant,
}

impl ControlBench {
    fn new(services: usize, endpoints: u8) -> Self {
        let dials = Dials::default();
        let names = (0..services).map(|n| ServiceName::new("shop", format!("s{n:03}")));
        let services = names.map(|name| {
            let port = port(&name, endpoints, &dials);
            (name, vec![(KEY, port)])
        });
        Self {
            services: services.collect(),
            dials,
            start: Instant::now(),
        }
    }

    fn port(&self, service: usize) -> Arc<Port> {
        self.services.values().nth(service).unwrap()[0].1.clone()
    }

    /// Looks at that time, as the control task does that was told in time.
    fn look(&mut self, millis: u64) -> Vec<String> {
        let now = self.start + Duration::from_millis(millis);
        self.dials.schedule(now);
        let services = &self.services;
        let ports =
            |service: &ServiceName| services.get(service).map(Vec::as_slice).unwrap_or_default();
        let now = now + PAUSE;
        let changed = self.dials.look(ports, Tick(millis), now);
        changed.iter().map(ToString::to_string).collect()
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct LogLines(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl LogLines {
    fn of(work: impl FnOnce()) -> Vec<String> {
        let lines = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn one_warning_names_service_and_endpoint_and_one_line_says_that_it_is_over() {
    let mut bench = ControlBench::new(1, 2);
    let port = bench.port(0);
    let lines = LogLines::of(|| {
        fail(&port, 1, 5, 0);
        assert_eq!(bench.look(0), ["shop/s000"]);
        fail(&port, 1, 100, 2_000);
        assert_eq!(bench.look(2_000), [""; 0], "nothing new");
        port.dial_worked(&port.endpoint(addr(1)), Duration::ZERO, Tick(4_000));
        assert_eq!(bench.look(4_000), ["shop/s000"]);
    });
    let [warning, over] = &lines[..] else {
        panic!("{lines:#?}");
    };
    for word in ["WARN", "shop/s000", "80/TCP", "10.0.0.1:80", "refused"] {
        assert!(warning.contains(word), "{warning} has no {word}");
    }
    for word in ["INFO", "shop/s000", "10.0.0.1:80", "reached again"] {
        assert!(over.contains(word), "{over} has no {word}");
    }
}

#[test]
fn what_nobody_dials_any_more_is_not_said_to_be_unreachable_for_ever() {
    let mut bench = ControlBench::new(1, 1);
    let port = bench.port(0);
    fail(&port, 1, 3, 0);
    assert_eq!(bench.look(0), ["shop/s000"]);
    assert_eq!(port.unreachable().len(), 1);
    assert!(bench.dials.due().is_some(), "it is looked at again, untold");
    let later = u64::try_from(LAPSE.as_millis()).unwrap() + 1;
    let lines = LogLines::of(|| assert_eq!(bench.look(later), ["shop/s000"]));
    assert!(port.unreachable().is_empty());
    assert!(lines[0].contains("nobody dials it"), "{lines:?}");
    assert_eq!(bench.dials.due(), None);
}

#[test]
fn a_thousand_endpoints_that_fail_make_a_bounded_number_of_lines_and_hide_no_other_service() {
    let mut bench = ControlBench::new(40, 100);
    let lines = LogLines::of(|| {
        for second in 0..30 {
            for service in 0..10 {
                let port = bench.port(service);
                for endpoint in 1..=100 {
                    // Up and down, each second.
                    let state = port.endpoint(addr(endpoint));
                    port.dial_worked(&state, Duration::ZERO, Tick(second * 1000));
                    fail(&port, endpoint, 3, second * 1000);
                }
            }
            if second == 10 {
                fail(&bench.port(39), 1, 3, 10_000);
            }
            bench.look(second * 1000);
        }
    });
    assert!(lines.len() <= LINES * 2, "{} lines", lines.len());
    // Ten Services have used up all there is; one more has had none of it, and that is said.
    assert!(lines.iter().any(|line| line.contains("s000")));
    assert!(lines.iter().any(|line| line.contains("s009")), "{lines:#?}");
}

#[test]
fn a_listener_says_so_only_where_every_endpoint_of_its_port_is_unreachable() {
    let mut bench = ControlBench::new(1, 2);
    let port = bench.port(0);
    let name = ServiceName::new("shop", "s000");
    let ports = [(KEY, port.clone())];
    let clock = Clock::start();
    let state = |bench: &ControlBench, of: ListenerState| {
        let mut listeners = [ListenerReport {
            listen: fairway_config::net::ListenAddr(([192, 0, 2, 1], 80).into()),
            protocol: Protocol::Tcp,
            port: 80,
            kind: fairway_config::exchange::ClaimKind::Vip,
            state: of,
        }];
        bench.dials.mark(&name, &ports, &mut listeners, &clock);
        let [listener] = listeners;
        listener.state
    };
    fail(&port, 1, 3, 0);
    bench.look(0);
    assert_eq!(
        state(&bench, ListenerState::Listening),
        ListenerState::Listening
    );
    fail(&port, 2, 3, 2_000);
    bench.look(2_000);
    let ListenerState::Unreachable { message } = state(&bench, ListenerState::Listening) else {
        panic!("it does not say so");
    };
    assert!(
        message.contains("10.0.0.1:80") && message.contains("10.0.0.2:80"),
        "{message}"
    );
    // What is worse stays.
    let failed = ListenerState::Failed {
        reason: "PortInUse".to_owned(),
        message: String::new(),
    };
    assert_eq!(state(&bench, failed.clone()), failed);
}
