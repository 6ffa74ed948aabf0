//! Fairway as its users install it: by Helm, with the commands of deploy/README.md and of the chart's
//! notes, under the arguments that the chart gives its two workloads.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::{Cluster, Pod};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::NAMESPACE;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{Site, at, server, vip};
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    helm_installs_upgrades_and_removes_a_fairway_that_works,
    the_unit_of_an_appliance_has_the_rights_that_it_needs,
];

fn project(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    Ok(path.canonicalize()?.display().to_string())
}

/// Runs the `helm` command of deploy/README.md that begins so, with more arguments.
fn helm(cluster: &Cluster, begins: &str, more: &[&str]) -> Result<String> {
    let readme = fs::read_to_string(project("deploy/README.md")?)?;
    let joined = readme.replace("\\\n", " ");
    let line = joined.lines().find(|line| line.starts_with(begins));
    let line = line.with_context(|| format!("no line begins with {begins}"))?;
    let chart = project("deploy/helm/fairway")?;
    let words = line.split_whitespace().skip(1);
    let words = words.map(|word| match word.trim_matches('\'') {
        "deploy/helm/fairway" => &chart,
        word => word,
    });
    cluster.helm(&words.chain(more.iter().copied()).collect::<Vec<_>>())
}

/// What stands between <<'END' and END: what a person pastes.
fn pasted(notes: &str) -> Vec<&str> {
    let blocks = notes.split("kubectl apply -f - <<'END'\n").skip(1);
    blocks
        .filter_map(|block| Some(block.split_once("\nEND\n")?.0))
        .collect()
}

const PROBES: [&str; 2] = ["livenessProbe", "readinessProbe"];

/// One of the two workloads, run on a host as a kubelet would: with the arguments, the account and the
/// capabilities of its Pod.
struct Workload<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    kind: &'a str,
    command: &'static str,
    /// The host's address in the cluster.
    ip: String,
}

impl Workload<'_> {
    fn pod(&self) -> Result<Value> {
        let name = format!("fairway-{}", self.command);
        let mut workload = self.cluster.get_json(self.kind, NAMESPACE, &name)?;
        Ok(workload["spec"]["template"]["spec"].take())
    }

    fn start(&self) -> Result<Fairway> {
        let pod = self.pod()?;
        let account = pod["serviceAccountName"].as_str().context("no account")?;
        let account = self
            .cluster
            .kubeconfig_of_service_account(NAMESPACE, account)?;
        let container = &pod["containers"][0];
        let mut arguments = container["args"].as_array().context("no args")?.iter();
        ensure!(arguments.next().and_then(Value::as_str) == Some(self.command));
        let mut fairway = Fairway::member(self.host, self.command, &account)?;
        let state = fairway.state().display().to_string();
        let arguments: Vec<String> = arguments
            .filter_map(Value::as_str)
            .map(|text| {
                text.replace("$(POD_IP)", &self.ip)
                    .replace("$(NODE_NAME)", "edge-1")
                    .replace("$(POD_NAME)", "fairway-controller-0")
                    // Where the DaemonSet mounts its folder of the host.
                    .replace("/var/lib/fairway", &state)
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let rights = &container["securityContext"]["capabilities"];
        ensure!(rights["drop"] == json!(["ALL"]), "{rights}");
        let added = rights["add"].as_array().into_iter().flatten();
        let added: Vec<&str> = added.filter_map(Value::as_str).collect();
        let socket = fairway.folder().join("probe.sock").display().to_string();
        fairway = fairway
            .arguments(&arguments)
            .capabilities(&added)
            .environment(&[("FAIRWAY_PROBE_SOCKET", &socket)]);
        fairway.launch()?;
        match container[PROBES[0]].get("exec") {
            Some(_) => Self::run_probes(container, &fairway, &socket)?,
            None => self.probe(container)?,
        }
        Ok(fairway)
    }

    /// Runs what a kubelet runs in the container until all is well.
    fn run_probes(container: &Value, fairway: &Fairway, socket: &str) -> Result<()> {
        for probe in PROBES {
            let command = container[probe]["exec"]["command"].as_array();
            let command = command.context("no command")?.iter();
            let words: Vec<&str> = command.filter_map(Value::as_str).collect();
            let (program, words) = words.split_first().context("no program")?;
            ensure!(*program == "fairway", "{program}");
            let words = [words, &["--probe-socket", socket]].concat();
            wait::until_some(&format!("the {probe} is well"), || {
                fairway.cli_output(&words).map(drop)
            })?;
        }
        Ok(())
    }

    /// Asks what a kubelet asks until all is well.
    fn probe(&self, container: &Value) -> Result<()> {
        let port = container["ports"][0]["containerPort"].as_u64();
        let to = at(self.ip.parse()?, port.context("no port")?.try_into()?);
        for probe in PROBES {
            let path = container[probe]["httpGet"]["path"].as_str();
            let path = path.context("no path")?;
            wait::until_some(&format!("{} answers to the {probe}", self.command), || {
                let answer = self.host.run(|| clients::http_get(to, path))?;
                ensure!(answer.status == 200, "{answer:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A UDP Service over the Pod of the notes. `class` is a line of its spec.
fn udp_service(address: std::net::IpAddr, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: dns, annotations: {{fairway.dev/addresses: \"{address}\"}}}}\n\
         spec:\n{class}\n  type: LoadBalancer\n  selector: {{app: hello}}\n  \
         ports: [{{port: 53, protocol: UDP}}]\n"
    )
}

fn helm_installs_upgrades_and_removes_a_fairway_that_works() -> Result<()> {
    let cluster = Cluster::shared()?;
    let site = Site::new()?;
    let edge = cluster.attach(&site.edge)?.0.to_string();
    let host = Host::new("controller")?;
    let beside = cluster.attach(&host)?.0.to_string();
    cluster.node("edge-1", &[edge.parse()?], &[])?;

    let notes = helm(&cluster, "helm install fairway", &[])?;
    let controller = Workload {
        cluster: &cluster,
        host: &host,
        kind: "Deployment",
        command: "controller",
        ip: beside,
    };
    let gateway = Workload {
        host: &site.edge,
        kind: "DaemonSet",
        command: "gateway",
        ip: edge,
        ..controller
    };
    let mut running = (controller.start()?, gateway.start()?);

    // The notes, with the Pod that a Deployment would have made.
    let [service] = pasted(&notes)[..] else {
        bail!("a Service alone was expected: {notes}");
    };
    cluster.apply(service)?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    cluster.pod(&Pod {
        name: "hello-0",
        labels: &[("app", "hello")],
        ips: &[server(0)],
        node: "edge-1",
        ..Pod::default()
    })?;
    let answers = |n: u8, who: Option<&str>| {
        wait::until_some(&format!("{who:?} answers at {}", vip(n)), || {
            let answer = site.client.run(|| clients::who(at(vip(n), 80)).ok());
            ensure!(answer.as_deref() == who, "{answer:?}");
            Ok(())
        })
    };
    answers(16, Some("a"))?;
    // The Pod takes no datagrams: with the capabilities that the chart gives, a client is told so.
    site.farm.sysctl("ipv4/icmp_ratelimit", "0")?;
    let class = service
        .lines()
        .find(|line| line.contains("loadBalancerClass"));
    cluster.apply(&udp_service(vip(25), class.context("no class")?))?;
    wait::until_some("a UDP client is told that the port is unreachable", || {
        let asked = site.client.run(|| clients::who_udp(None, at(vip(25), 53)));
        let error = asked.err().context("it is answered")?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
        Ok(())
    })?;
    let table = cluster.kubectl(&["get", "apool"])?;
    ensure!(table.contains("edge "), "{table}");

    // Other values: Services without a class are ours, too.
    let unset = service
        .lines()
        .filter(|line| !line.contains("loadBalancerClass"));
    let unset = unset.collect::<Vec<_>>().join("\n");
    cluster.apply(&unset.replace("name: hello", "name: classless"))?;
    helm(
        &cluster,
        "helm upgrade fairway",
        &["--set", "defaultClass=true"],
    )?;
    running.0.stop()?;
    running.1.stop()?;
    let running = (controller.start()?, gateway.start()?);
    answers(16, Some("a"))?;
    answers(17, Some("a"))?;

    // In the order of the README: the Services first.
    for name in ["hello", "classless", "dns"] {
        cluster.kubectl(&["delete", "service", name, "--timeout=60s"])?;
    }
    answers(16, None)?;
    drop(running);
    helm(&cluster, "helm uninstall fairway", &[])?;
    for kind in [
        "Deployment",
        "DaemonSet",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "PodDisruptionBudget",
    ] {
        let left = cluster.list(kind, "", "app.kubernetes.io/name=fairway")?;
        ensure!(left.is_empty(), "{kind}: {left:?}");
    }
    ensure!(cluster.list("AddressPool", "", "")?.is_empty());
    for kind in ["addresspools", "bgppeers"] {
        cluster.get_json("crd", "", &format!("{kind}.fairway.dev"))?;
    }
    Ok(())
}

fn the_unit_of_an_appliance_has_the_rights_that_it_needs() -> Result<()> {
    let unit = fs::read_to_string(project("deploy/systemd/fairway.service")?)?;
    let field = |name: &str| {
        let mut lines = unit.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(key, _)| *key == name);
        found
            .map(|(_, value)| value)
            .with_context(|| format!("no {name}"))
    };
    ensure!(field("ExecStart")? == "/usr/local/bin/fairway standalone");
    let bound = field("CapabilityBoundingSet")?;
    // Who is nobody gets them by their being ambient.
    ensure!(field("AmbientCapabilities")? == bound && field("DynamicUser")? == "yes");
    let names = bound
        .split(' ')
        .filter_map(|name| name.strip_prefix("CAP_"));

    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let mut fairway = Fairway::prepare(&site.edge)?.capabilities(&names.collect::<Vec<_>>());
    let shop = [
        edge_pool(),
        load_balancer("shop", vip(1), 80, 8080),
        slice("shop", 8080, &[server(0)]),
    ];
    fairway.write("shop.yaml", &all(&shop.each_ref().map(String::as_str)))?;
    fairway.launch()?;
    fairway.ready()?;
    // A local route, and a port below 1024.
    let who = site.client.run(|| clients::who(at(vip(1), 80)))?;
    ensure!(who == "a", "{who}");
    fairway.stop()
}
