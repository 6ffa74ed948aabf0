//! A gateway on loopback addresses, and the objects and peers that a test gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fairway_config::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use fairway_config::exchange::{
    Batch, Change, Held, ListenerState, Report, ReportBatch, StoredService,
};
use fairway_config::names::{NamespacedName, ServiceName};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{AppProtocol, Service, ServicePort, ServiceType};
use fairway_gateway::{Gateway, GatewaySettings};
use fairway_gateway_core::build::RouteSettings;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, with a bound.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("waited in vain")
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let held = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    held.await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// An address of 127.0.0.0/8 that no other test of this machine uses just now.
pub fn vip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id() & 0xffff;
    let [_, _, high, low] = process.to_be_bytes();
    let [_, _, _, host] = next.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | (low & 63), high ^ low, host))
}

/// Set where external addresses are steered; see `steered.rs`.
pub const STEERING: &str = "FAIRWAY_TEST_STEERING";

/// Whether this is the run with steering.
pub fn is_steered() -> bool {
    std::env::var_os(STEERING).is_some()
}

/// Runs tests of this program once more in a network namespace where external addresses are steered. Returns
/// what they said.
pub fn again_with_steering(arguments: &[&str]) -> String {
    // Steering takes the rights of the host's own root (CAP_BPF).
    let output = std::process::Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" \"$@\"",
        ])
        .arg(std::env::current_exe().expect("a program knows where it is"))
        .args(arguments)
        .env(STEERING, "1")
        .output()
        .expect("unshare(1) of util-linux is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Whether this process has a program that the kernel asks: without the rights there would be none, and
/// nothing but a line in the log.
fn steers() -> bool {
    let files = std::fs::read_dir("/proc/self/fd").expect("there is /proc");
    let mut links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    links.any(|link| link.to_string_lossy().contains("bpf_link"))
}

/// A gateway that runs, and the ways in and out of it.
pub struct Running {
    pub gateway: Gateway,
    pub objects: mpsc::Sender<Batch>,
    pub shutdown: CancellationToken,
    reports: mpsc::UnboundedReceiver<ReportBatch>,
    last: BTreeMap<ServiceName, Report>,
}

/// Settings for tests: loopback may be dialled, no routes are made.
pub fn settings() -> GatewaySettings {
    let core = RouteSettings {
        allow_loopback: true,
        node_addresses: Some(vec![]),
        ..RouteSettings::new("test".into())
    };
    GatewaySettings {
        workers: 2,
        make_local: false,
        // It would be asked for every connection of this host: so in a network namespace alone.
        steering: is_steered(),
        drain_timeout: Duration::from_millis(300),
        ..GatewaySettings::new("test".into(), core)
    }
}

impl Running {
    /// Starts a gateway with these objects.
    pub async fn start(settings: GatewaySettings, changes: Vec<Change>) -> Self {
        let steering = settings.steering;
        let (objects, incoming) = mpsc::channel(16);
        let (outgoing, reports) = mpsc::unbounded_channel();
        let outgoing = std::sync::Arc::new(move |said| drop(outgoing.send(said)));
        let shutdown = CancellationToken::new();
        let gateway =
            Gateway::start(settings, incoming, outgoing, shutdown.clone()).expect("starts");
        let running = Self {
            gateway,
            objects,
            shutdown,
            reports,
            last: BTreeMap::new(),
        };
        running.send(changes).await;
        let gateway = &running.gateway;
        until("the gateway is ready", || async {
            gateway.missing().is_empty()
        })
        .await;
        assert_eq!(steers(), steering, "steering");
        running
    }

    /// Tells the gateway of changes.
    pub async fn send(&self, changes: Vec<Change>) {
        self.objects
            .send(Batch::synced(changes))
            .await
            .expect("the gateway runs");
    }

    /// Waits until a listener is so.
    pub async fn listener(&self, addr: SocketAddr, is: impl Fn(&ListenerState) -> bool) {
        until("a listener has the state", || async {
            let rows = self.gateway.listeners();
            rows.iter()
                .any(|row| row.listener.listen == ListenAddr(addr) && is(&row.listener.state))
        })
        .await;
    }

    /// Waits until a listener takes traffic.
    pub async fn listening(&self, addr: SocketAddr) {
        self.listener(addr, |state| *state == ListenerState::Listening)
            .await;
    }

    /// Waits for a report of a Service that is so.
    pub async fn report(&mut self, service: &ServiceName, is: impl Fn(Option<&Report>) -> bool) {
        within(async {
            while !is(self.last.get(service)) {
                let said = self.reports.recv().await.expect("the gateway runs");
                for (name, report) in said.reports {
                    match report {
                        Some(report) => self.last.insert(name, Report::clone(&report)),
                        None => self.last.remove(&name),
                    };
                }
            }
        })
        .await;
    }

    /// Stops the gateway and waits for its end.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within(self.gateway.finished()).await;
    }
}

/// A Service of type LoadBalancer, as it is stored.
pub struct Spec {
    pub name: ServiceName,
    pub service: Service,
    pub held: Held,
}

pub fn name(name: &str) -> ServiceName {
    NamespacedName::new("default", name)
}

/// A Service with one port on a VIP.
pub fn service(of: &str, vip: IpAddr, port: u16, protocol: Protocol) -> Spec {
    let ports = vec![ServicePort::new(protocol, port)];
    let service = Service::new(name(of), ServiceType::LoadBalancer, ports);
    let held = Held {
        addresses: vec![vip],
        ..Held::default()
    };
    Spec {
        name: name(of),
        service,
        held,
    }
}

impl Spec {
    /// The Service as it comes out of a store.
    pub fn change(&self) -> Change {
        let stored = StoredService {
            held: self.held.clone(),
            ..StoredService::new(Arc::new(self.service.clone()))
        };
        Change::Service(self.name.clone(), Some(Arc::new(stored)))
    }

    /// The Service is gone.
    pub fn gone(&self) -> Change {
        Change::Service(self.name.clone(), None)
    }

    /// Its endpoints are these. They may have different ports: each gets a slice of its own.
    pub fn endpoints(&self, endpoints: &[SocketAddr]) -> Vec<Change> {
        let hosts: Vec<_> = endpoints
            .iter()
            .map(|addr| (EndpointHost::Ip(addr.ip()), addr.port()))
            .collect();
        self.hosts(&hosts)
    }

    /// The same with hosts that may be names. A test uses eight at most.
    pub fn hosts(&self, hosts: &[(EndpointHost, u16)]) -> Vec<Change> {
        let protocol = self
            .service
            .ports
            .first()
            .map_or(Protocol::Tcp, |port| port.protocol);
        let slices = (0..8).map(|n| {
            let slice_name = NamespacedName::new("default", format!("{}-{n}", self.name.name));
            let slice = hosts.get(n).map(|(host, port)| {
                Arc::new(EndpointSlice {
                    ports: vec![SlicePort {
                        name: "".into(),
                        protocol,
                        port: Some(*port),
                        app: AppProtocol::Opaque,
                    }],
                    endpoints: vec![SliceEndpoint::new(host.clone(), true)],
                    ..EndpointSlice::new(slice_name.clone(), self.name.clone())
                })
            });
            Change::EndpointSlice(slice_name, false, slice)
        });
        slices.collect()
    }

    /// The Service and its endpoints.
    pub fn with(&self, endpoints: &[SocketAddr]) -> Vec<Change> {
        let mut changes = vec![self.change()];
        changes.extend(self.endpoints(endpoints));
        changes
    }
}

/// A TCP server that greets with its own address and a line end, then echoes until the client has
/// said all, and says `bye`.
pub async fn echo() -> SocketAddr {
    echo_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
}

/// The same at an address.
pub async fn echo_at(addr: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(addr).await.expect("binds");
    let addr = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{addr}\n").as_bytes()).await;
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.write_all(b"bye").await;
                }
            });
        }
    });
    addr
}

/// Connects and reads the greeting: who is behind.
pub async fn greeted(vip: SocketAddr) -> (TcpStream, SocketAddr) {
    within(async {
        let mut stream = TcpStream::connect(vip).await.expect("connects");
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await.expect("is greeted") {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        let line = String::from_utf8(line).expect("is text");
        (stream, line.parse().expect("is an address"))
    })
    .await
}

/// A TCP socket of IPv4 that is not bound or connected yet.
pub fn tcp_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets")
}

/// A UDP server that answers with its own address, a space and what it was sent.
pub async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let addr = socket.local_addr().expect("is bound");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((bytes, client)) = socket.recv_from(&mut buffer).await {
            let mut answer = format!("{addr} ").into_bytes();
            answer.extend_from_slice(&buffer[..bytes]);
            let _ = socket.send_to(&answer, client).await;
        }
    });
    addr
}

/// A place where nobody listens, on an address of its own: a port of another one may be given to a
/// socket at any moment.
pub fn dead() -> SocketAddr {
    SocketAddr::new(vip(), 9)
}

/// The distinct things that come out of a number of tries.
pub async fn distinct<T: Ord, F: Future<Output = T>>(
    tries: usize,
    mut one: impl FnMut() -> F,
) -> BTreeSet<T> {
    let mut found = BTreeSet::new();
    for _ in 0..tries {
        found.insert(one().await);
    }
    found
}

/// A client that takes none of the ports that the others take.
pub fn client_from(from: u16, vip: SocketAddr) -> socket2::Socket {
    let client = tcp_socket();
    client
        .bind(&SocketAddr::from(([127, 0, 0, 1], from)).into())
        .unwrap();
    client.connect(&vip.into()).unwrap();
    client
}
