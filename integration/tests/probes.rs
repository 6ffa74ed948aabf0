//! Probes are answered, whatever other clients of the same address do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::{ADMIN, Fairway};
use fairway_integration::in_cluster::Installed;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, edge_pool, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, at, server};
use fairway_integration::{clients, tests, wait};

tests![
    every_listener_of_the_process_answers_a_probe_beside_two_hundred_clients_that_misbehave,
    a_controller_answers_a_probe_beside_two_hundred_clients_that_misbehave,
    one_health_check_port_under_siege_leaves_that_of_another_service_alone,
    a_port_or_a_health_check_that_another_process_holds_is_said_wherever_people_look,
    a_process_whose_manifests_can_not_be_read_is_not_ready_and_says_why,
];

/// The most that kubelet waits for a probe unless told otherwise (`timeoutSeconds`), and load balancers
/// wait longer.
const TIMEOUT: Duration = Duration::from_secs(1);

const CLIENTS: usize = 200;

#[derive(Clone, Copy, Debug)]
enum Crowd {
    Idle,
    SlowHeads,
    NeverRead,
}

impl Crowd {
    const ALL: [Self; 3] = [Self::Idle, Self::SlowHeads, Self::NeverRead];

    fn come(self, to: SocketAddr, path: &str) -> Result<Vec<TcpStream>> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = clients::connect_tcp(to)?;
            let head = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n");
            match self {
                Self::Idle => {}
                Self::SlowHeads => stream.write_all(b"G")?,
                Self::NeverRead => stream.write_all(head.as_bytes())?,
            }
            clients.push(stream);
        }
        Ok(clients)
    }

    /// What they go on with, until it is said that it is over.
    fn go_on(self, clients: &mut [TcpStream], over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            if matches!(self, Self::SlowHeads) {
                for client in &mut *clients {
                    // Some were told to go.
                    let _ = client.write_all(b"x");
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn probe(to: SocketAddr, path: &str) -> Result<u16> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let took = began.elapsed();
    ensure!(took < TIMEOUT, "it took {took:?}");
    let head = String::from_utf8_lossy(&head);
    Ok(head.trim_start_matches("HTTP/1.1 ").parse()?)
}

/// Probes that path of an address beside every crowd, which asks for another one.
fn besieged(to: SocketAddr, path: &str, costly: &str) -> Result<()> {
    for crowd in Crowd::ALL {
        let mut clients = crowd.come(to, costly)?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| crowd.go_on(&mut clients, &over));
            let probed = (0..10).try_for_each(|n| {
                std::thread::sleep(Duration::from_millis(100));
                let status = probe(to, path);
                let status = status.with_context(|| format!("{to}{path}, {crowd:?}, probe {n}"))?;
                ensure!(status == 200, "{to}{path}, {crowd:?}, probe {n}: {status}");
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            probed
        })?;
    }
    Ok(())
}

/// A Service that is asked for at a health check port of its own.
fn checked(name: &str, port: u16) -> String {
    let spec = format!(
        "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: {port}, \
         ports: [{{port: 80}}]"
    );
    all(&[&service(name, &spec), &slice(name, 80, &[server(0)])])
}

fn every_listener_of_the_process_answers_a_probe_beside_two_hundred_clients_that_misbehave()
-> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway =
        Fairway::prepare(&site.edge)?.arguments(&["--metrics", "0.0.0.0:9902", "--workers", "1"]);
    fairway.write("shop.yaml", &all(&[&edge_pool(), &checked("shop", 31_999)]))?;
    fairway.launch()?;
    fairway.ready()?;
    // Both paths that probes take, and what costs most there.
    site.edge.run(|| {
        besieged(ADMIN, "/livez", "/metrics")?;
        besieged(ADMIN, "/readyz", "/api/v1/listeners")
    })?;
    site.client.run(|| {
        besieged(at(EDGE, 9902), "/livez", "/metrics")?;
        besieged(at(EDGE, 9902), "/readyz", "/metrics")?;
        besieged(at(EDGE, 31_999), "/healthz", "/healthz")
    })?;
    // People are still answered, too.
    ensure!(fairway.cli_output(&["get", "services"])?.contains("shop"));
    Ok(())
}

fn a_controller_answers_a_probe_beside_two_hundred_clients_that_misbehave() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let host = Host::new("one")?;
    cluster.attach(&host)?;
    let mut controller = Fairway::member(&host, "controller", &it.account("fairway-controller")?)?;
    controller.launch()?;
    controller.ready()?;
    host.run(|| {
        besieged(ADMIN, "/livez", "/metrics")?;
        besieged(ADMIN, "/readyz", "/api/v1/services")
    })
}

fn one_health_check_port_under_siege_leaves_that_of_another_service_alone() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--workers", "1"]);
    let manifests = [
        edge_pool(),
        checked("shop", 31_999),
        checked("mail", 31_998),
    ];
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    fairway.write("all.yaml", &all(&manifests))?;
    fairway.launch()?;
    fairway.ready()?;
    site.client.run(|| {
        let crowd = Crowd::Idle.come(at(EDGE, 31_999), "/")?;
        let kept = clients::connect_tcp(at(EDGE, 31_998))?;
        for _ in 0..10 {
            ensure!(probe(at(EDGE, 31_998), "/")? == 200);
            ensure!(probe(at(EDGE, 31_999), "/")? == 200);
        }
        // No one of the other Service had to go for them.
        let answer = clients::http_get_from(kept, at(EDGE, 31_998), "/")?;
        ensure!(answer.status == 200);
        drop(crowd);
        Ok(())
    })
}

/// The process can do its work, so it is ready: what it can't do is the state of one Service, and stands
/// wherever people look for it.
fn a_port_or_a_health_check_that_another_process_holds_is_said_wherever_people_look() -> Result<()>
{
    let site = Site::new()?;
    let _web = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _holder = named(
        &site.edge,
        &[("other", at(EDGE, 22)), ("other", "0.0.0.0:30500".parse()?)],
    )?;
    let mut fairway = Fairway::prepare(&site.edge)?;
    let own = pool("own", &[&format!("{EDGE}-{EDGE}")]);
    let ssh = service("ssh", "type: LoadBalancer, ports: [{port: 22}]").replace(
        "metadata: {name: ssh}",
        "metadata: {name: ssh, annotations: {fairway.dev/pool: own}}",
    );
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30500, \
                 ports: [{port: 80}]";
    let manifests = [
        edge_pool(),
        own,
        ssh,
        slice("ssh", 22, &[server(0)]),
        service("local", local),
        slice("local", 80, &[server(0)]),
        service("well", "type: LoadBalancer, ports: [{port: 80}]"),
        slice("well", 80, &[server(0)]),
    ];
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    fairway.write("all.yaml", &all(&manifests))?;
    fairway.launch()?;
    fairway.ready()?;
    ensure!(fairway.get("/readyz")?.status == 200);
    let services = wait::until_some("all is said", || {
        let table = fairway.cli_output(&["get", "services", "-o", "wide"])?;
        ensure!(table.matches("PortInUse").count() == 2, "{table}");
        Ok(table)
    })?;
    for line in services.lines().skip(1) {
        let serving = if line.contains(" well ") {
            "1/1"
        } else {
            "0/1"
        };
        ensure!(line.contains(serving), "{services}");
    }
    let listeners = fairway.cli_output(&["get", "listeners", "-o", "wide"])?;
    for words in [["ssh", "vip"], ["local", "health-check"]] {
        let is_it = |line: &&str| words.iter().all(|word| line.contains(word));
        let line = listeners.lines().find(is_it).context(words[1])?;
        ensure!(line.contains("PortInUse"), "{listeners}");
    }
    let gateways = fairway.cli_output(&["get", "gateways", "-o", "wide"])?;
    ensure!(
        gateways.contains(" True ") && gateways.contains("listeners can't take traffic"),
        "{gateways}"
    );
    let failed: Vec<_> = fairway
        .list("gateways")?
        .iter()
        .map(|row| row["failed"].clone())
        .collect();
    ensure!(failed.iter().all(|it| it.as_u64() >= Some(2)), "{failed:?}");
    for (name, word) in [
        ("default/ssh", "198.51.100.1:22"),
        ("default/local", ":30500"),
    ] {
        fairway.explains(name, &[word])?;
        let programmed = fairway.state_file(name)?;
        let conditions = programmed["status"]["conditions"].as_array().cloned();
        let conditions = conditions.unwrap_or_default();
        let is_it = |it: &&serde_json::Value| it["type"] == "fairway.dev/Programmed";
        let said = conditions.iter().find(is_it).context("no condition")?;
        ensure!(
            said["status"] == "False" && said["reason"] == "PortInUse",
            "{said}"
        );
    }
    Ok(())
}

fn a_process_whose_manifests_can_not_be_read_is_not_ready_and_says_why() -> Result<()> {
    let site = Site::new()?;
    let _web = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = Fairway::prepare(&site.edge)?;
    let manifests = [
        edge_pool(),
        service("web", "type: LoadBalancer, ports: [{port: 80}]"),
        slice("web", 80, &[server(0)]),
    ];
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    fairway.write("all.yaml", &all(&manifests))?;
    fairway.launch()?;
    fairway.ready()?;
    fairway.stop()?;
    // A mount that has failed: the directory is there, and it is another one, or none.
    let aside = fairway.manifests().with_extension("aside");
    std::fs::rename(fairway.manifests(), &aside)?;
    fairway.launch()?;
    // What was in force is served from memory, as the process says.
    fairway.problem(&["manifests"])?;
    let told = fairway.cli(&["get", "services"])?;
    let table = String::from_utf8_lossy(&told.stdout).into_owned();
    let problems = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(problems.contains("problem: "), "{problems}");
    ensure!(table.contains("web"), "{table}");
    std::fs::rename(&aside, fairway.manifests())?;
    fairway.ready()?;
    wait::until_some("nothing is wrong any more", || {
        let told = fairway.cli(&["get", "services"])?;
        ensure!(told.stderr.is_empty(), "{told:?}");
        Ok(())
    })
}
