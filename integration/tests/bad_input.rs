//! Bad input is said where people look, and everything else works on. In each of these tests a
//! Service that is well keeps answering.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{
    all, edge_pool, load_balancer, pool, service, slice, slice_with,
};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    text_that_is_not_yaml_holds_back_its_file,
    a_wrong_type_in_a_field_holds_back_its_object,
    what_was_there_stays_in_force_across_a_restart,
    an_unknown_protocol_is_a_condition,
    a_node_port_out_of_range_is_a_condition,
    a_node_port_of_another_is_a_condition,
    an_address_outside_every_pool_is_a_condition,
    an_address_of_another_is_a_condition,
    an_exhausted_pool_is_a_condition,
    overlapping_pools_are_said_and_give_no_address_twice,
    a_sharing_key_with_clashing_ports_is_a_condition,
    another_namespaces_address_is_not_joined_without_its_consent,
    external_ips_are_not_honoured,
    endpoints_that_must_not_be_dialled_are_refused,
    a_port_that_another_process_holds_is_taken_once_it_is_free,
    an_address_that_cannot_be_bound_is_said,
    the_same_object_in_two_files_is_said,
    a_file_of_many_megabytes_does_no_harm,
    links_that_loop_are_not_followed,
];

/// A site whose Service `good` answers on 203.0.113.15:80, and stays the first of its names.
struct Scene {
    fairway: Fairway,
    site: Site,
    _server: Served,
}

impl Scene {
    fn new(manifests: &[(&str, &str)]) -> Result<Self> {
        let site = Site::new()?;
        let server_a = named(&site.farm, &[("a", at(server(0), 80))])?;
        let mut fairway = Fairway::prepare(&site.edge)?;
        let good = all(&[
            &edge_pool(),
            &load_balancer("good", vip(15), 80, 80),
            &slice("good", 80, &[server(0)]),
        ]);
        fairway.write("good.yaml", &good)?;
        for (name, text) in manifests {
            fairway.write(name, text)?;
        }
        fairway.launch()?;
        let scene = Self {
            fairway,
            site,
            _server: server_a,
        };
        scene.good()?;
        Ok(scene)
    }

    fn who(&self, to: SocketAddr) -> Option<String> {
        self.site.client.run(|| clients::who(to).ok())
    }

    fn good(&self) -> Result<()> {
        wait::until("the good Service answers", || {
            self.who(at(vip(15), 80)).as_deref() == Some("a")
        })
    }
}

fn text_that_is_not_yaml_holds_back_its_file() -> Result<()> {
    let scene = Scene::new(&[("bad.yaml", "kind: Service\n\tmetadata: [}\n")])?;
    scene.fairway.problem(&["bad.yaml"])?;
    scene.fairway.logs(&["bad.yaml"])?;
    wait::until("it is counted", || {
        scene
            .fairway
            .metric("fairway_manifest_errors", &[])
            .is_ok_and(|n| n == 1.0)
    })?;
    scene
        .fairway
        .write("bad.yaml", &service("mended", "ports: [{port: 80}]"))?;
    wait::until("it is mended", || {
        scene.fairway.service("default/mended").is_ok()
            && scene
                .fairway
                .metric("fairway_manifest_errors", &[])
                .is_ok_and(|n| n == 0.0)
    })?;
    scene.good()
}

fn a_wrong_type_in_a_field_holds_back_its_object() -> Result<()> {
    let text = all(&[
        &service("wrong", "type: LoadBalancer, ports: [{port: eighty}]"),
        &load_balancer("right", vip(1), 80, 80),
        &slice("right", 80, &[server(0)]),
    ]);
    let scene = Scene::new(&[("bad.yaml", &text)])?;
    scene
        .fairway
        .problem(&["bad.yaml", "wrong", "spec.ports[0].port"])?;
    wait::until("the other object of the file counts", || {
        scene.who(at(vip(1), 80)).as_deref() == Some("a")
    })?;
    scene.good()
}

fn what_was_there_stays_in_force_across_a_restart() -> Result<()> {
    let fine = all(&[
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, &[server(0)]),
    ]);
    let mut scene = Scene::new(&[("shop.yaml", &fine)])?;
    scene.fairway.ready()?;
    scene.fairway.write("shop.yaml", "kind: [")?;
    scene.fairway.problem(&["shop.yaml"])?;
    scene
        .fairway
        .says("default/shop", &["last good form", "shop.yaml"])?;
    let answers = |scene: &Scene| {
        wait::until("it answers", || {
            scene.who(at(vip(1), 80)).as_deref() == Some("a")
        })
    };
    answers(&scene)?;
    scene.fairway.stop()?;
    scene.fairway.launch()?;
    answers(&scene)?;
    scene.fairway.problem(&["shop.yaml"])?;
    // A wrong object alone holds back itself, and what it was stays.
    let wrong = fine.replace("port: 80,", "port: eighty,");
    scene.fairway.write("shop.yaml", &wrong)?;
    scene.fairway.problem(&["shop.yaml", "port"])?;
    answers(&scene)?;
    scene.good()
}

fn an_unknown_protocol_is_a_condition() -> Result<()> {
    let spec =
        "type: LoadBalancer, ports: [{name: s, port: 80, protocol: SCTP}, {name: t, port: 80}]";
    let text = all(&[&service("mixed", spec), &slice("mixed", 80, &[server(0)])]);
    let text = text.replace("name: \"\"", "name: t");
    let scene = Scene::new(&[("mixed.yaml", &text)])?;
    scene.fairway.says("default/mixed", &["SCTP"])?;
    let address: IpAddr = scene.fairway.address("default/mixed")?.parse()?;
    wait::until("its other port answers", || {
        scene.who(at(address, 80)).as_deref() == Some("a")
    })?;
    scene.good()
}

fn a_node_port_out_of_range_is_a_condition() -> Result<()> {
    let spec = "type: LoadBalancer, ports: [{port: 80, nodePort: 8080}]";
    let text = all(&[&service("shop", spec), &slice("shop", 80, &[server(0)])]);
    let scene = Scene::new(&[("shop.yaml", &text)])?;
    scene.fairway.says(
        "default/shop",
        &["NodePortOutOfRange", "8080", "30000-32767"],
    )?;
    scene.fairway.explains("default/shop", &["8080"])?;
    let address: IpAddr = scene.fairway.address("default/shop")?.parse()?;
    wait::until("its address answers", || {
        scene.who(at(address, 80)).as_deref() == Some("a")
    })?;
    scene.good()
}

fn a_node_port_of_another_is_a_condition() -> Result<()> {
    let spec = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let mut scene = Scene::new(&[(
        "1.yaml",
        &all(&[&service("first", spec), &slice("first", 80, &[server(0)])]),
    )])?;
    scene.fairway.ready()?;
    scene.fairway.write("2.yaml", &service("second", spec))?;
    scene.fairway.says(
        "default/second",
        &["NodePortHeld", "30080", "default/first"],
    )?;
    ensure!(scene.who(at(EDGE, 30080)).as_deref() == Some("a"));
    scene.good()
}

fn an_address_outside_every_pool_is_a_condition() -> Result<()> {
    let scene = Scene::new(&[("far.yaml", &load_balancer("far", vip(200), 80, 80))])?;
    scene
        .fairway
        .says("default/far", &["AddressInNoPool", "203.0.113.200"])?;
    scene.fairway.explains("default/far", &["203.0.113.200"])?;
    let table = scene.fairway.cli_output(&["get", "services"])?;
    let row = table
        .lines()
        .find(|line| line.contains(" far "))
        .unwrap_or_default();
    ensure!(row.contains("<pending>"), "{table}");
    // A tenant's manifest must not be able to take what no pool gives.
    ensure!(scene.who(at(vip(200), 80)).is_none());
    scene.good()
}

fn an_address_of_another_is_a_condition() -> Result<()> {
    let scene = Scene::new(&[])?;
    scene
        .fairway
        .write("thief.yaml", &load_balancer("thief", vip(15), 80, 80))?;
    scene
        .fairway
        .says("default/thief", &["203.0.113.15", "default/good"])?;
    scene.good()
}

fn an_exhausted_pool_is_a_condition() -> Result<()> {
    let many: Vec<String> = (0..17)
        .map(|n| {
            service(
                &format!("s{n:02}"),
                "type: LoadBalancer, ports: [{port: 81}]",
            )
        })
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let scene = Scene::new(&[("many.yaml", &all(&many))])?;
    // Sixteen addresses, of which `good` has one.
    scene
        .fairway
        .says("default/s15", &["PoolExhausted", "edge"])?;
    scene.fairway.says("default/s16", &["PoolExhausted"])?;
    wait::until("none is available", || {
        scene
            .fairway
            .metric("fairway_pool_addresses", &["state=\"available\""])
            .is_ok_and(|n| n == 0.0)
    })?;
    // One that is let go goes to the first that waits.
    let fewer = all(&many[1..]);
    let freed = scene.fairway.address("default/s00")?;
    scene.fairway.write("many.yaml", &fewer)?;
    ensure!(scene.fairway.address("default/s15")? == freed);
    scene.good()
}

fn overlapping_pools_are_said_and_give_no_address_twice() -> Result<()> {
    let scene = Scene::new(&[("twin.yaml", &pool("twin", &["203.0.113.8-203.0.113.20"]))])?;
    wait::until_some("the overlap is said", || {
        let pools = serde_json::to_string(&scene.fairway.list("pools")?)?;
        ensure!(pools.contains("Overlaps"), "{pools}");
        anyhow::Ok(())
    })?;
    let many: Vec<String> = (0..20)
        .map(|n| {
            service(
                &format!("s{n:02}"),
                "type: LoadBalancer, ports: [{port: 81}]",
            )
        })
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    scene.fairway.write("many.yaml", &all(&many))?;
    let mut given = Vec::new();
    for n in 0..20 {
        given.push(scene.fairway.address(&format!("default/s{n:02}"))?);
    }
    given.sort();
    let count = given.len();
    given.dedup();
    ensure!(given.len() == count, "an address was given twice");
    scene.good()
}

fn a_sharing_key_with_clashing_ports_is_a_condition() -> Result<()> {
    let sharing = |name: &str, port: u16| {
        load_balancer(name, vip(3), port, 80).replace(
            "annotations: {",
            "annotations: {fairway.dev/sharing-key: us, ",
        )
    };
    let text = all(&[
        &sharing("one", 80),
        &slice("one", 80, &[server(0)]),
        &sharing("two", 81),
        &slice("two", 80, &[server(0)]),
    ]);
    let scene = Scene::new(&[("both.yaml", &text)])?;
    for port in [80, 81] {
        wait::until("both answer on one address", || {
            scene.who(at(vip(3), port)).is_some()
        })?;
    }
    scene.fairway.write("third.yaml", &sharing("three", 80))?;
    scene
        .fairway
        .says("default/three", &["SharingPortClash", "80", "default/one"])?;
    scene.good()
}

fn another_namespaces_address_is_not_joined_without_its_consent() -> Result<()> {
    let sharing = |name: &str, port: u16, more: &str| {
        let annotations = format!("annotations: {{fairway.dev/sharing-key: us, {more}");
        load_balancer(name, vip(3), port, 80).replace("annotations: {", &annotations)
    };
    let host = sharing("host", 80, "");
    let guest_text = sharing("guest", 81, "fairway.dev/sharing-namespaces: default, ").replace(
        "metadata: {name: guest,",
        "metadata: {name: guest, namespace: tenant,",
    );
    let mut scene = Scene::new(&[("host.yaml", &host)])?;
    scene.fairway.ready()?;
    scene.fairway.write("guest.yaml", &guest_text)?;
    scene
        .fairway
        .says("tenant/guest", &["SharingWithoutConsent", "default/host"])?;
    let consenting = sharing("host", 80, "fairway.dev/sharing-namespaces: tenant, ");
    scene.fairway.write("host.yaml", &consenting)?;
    ensure!(scene.fairway.address("tenant/guest")? == vip(3).to_string());
    scene.good()
}

fn external_ips_are_not_honoured() -> Result<()> {
    let spec = format!("externalIPs: [\"{}\"], ports: [{{port: 80}}]", vip(5));
    let text = all(&[&service("grab", &spec), &slice("grab", 80, &[server(0)])]);
    let scene = Scene::new(&[("grab.yaml", &text)])?;
    scene.fairway.says("default/grab", &["externalIPs"])?;
    ensure!(scene.who(at(vip(5), 80)).is_none());
    scene.good()
}

fn endpoints_that_must_not_be_dialled_are_refused() -> Result<()> {
    let scene = Scene::new(&[])?;
    // Something answers there, so that dialling it would be seen.
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let _inside = named(
        &scene.site.edge,
        &[
            ("loopback", at(loopback, 7777)),
            ("host", at(EDGE_INSIDE, 7777)),
        ],
    )?;
    let refused: [(IpAddr, u16, &str); 6] = [
        (loopback, 7777, "loopback"),
        (loopback, 9901, "loopback"),
        (EDGE_INSIDE, 7777, "this host"),
        ([169, 254, 169, 254].into(), 80, "link-local"),
        ([224, 0, 0, 1].into(), 80, "multicast"),
        (vip(15), 80, "pool"),
    ];
    for (n, (address, port, why)) in refused.into_iter().enumerate() {
        let name = format!("inwards{n}");
        let endpoint = format!("{{addresses: [\"{address}\"]}}");
        let text = all(&[
            &load_balancer(&name, vip(1), 80, port),
            &slice_with(&name, &[("", "TCP", port)], &[endpoint]),
        ]);
        scene.fairway.write("inwards.yaml", &text)?;
        let name = format!("default/{name}");
        scene
            .fairway
            .says(&name, &["EndpointsRefused", &address.to_string(), why])?;
        scene
            .fairway
            .explains(&name, &[&address.to_string(), why])?;
        ensure!(
            scene.who(at(vip(1), 80)).is_none(),
            "{address}:{port} was dialled"
        );
    }
    scene.good()
}

fn a_port_that_another_process_holds_is_taken_once_it_is_free() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let holder = named(&site.edge, &[("holder", at(EDGE, 30080))])?;
    let spec = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let mut fairway = Fairway::prepare(&site.edge)?;
    fairway.write(
        "shop.yaml",
        &all(&[&service("shop", spec), &slice("shop", 80, &[server(0)])]),
    )?;
    fairway.launch()?;
    fairway.says("default/shop", &["PortInUse", "30080"])?;
    let listeners = fairway.cli_output(&["get", "listeners", "-o", "wide"])?;
    ensure!(listeners.contains("PortInUse"), "{listeners}");
    // The same port is served where nobody else has it.
    ensure!(site.farm.run(|| clients::who(at(EDGE_INSIDE, 30080)))? == "a");
    drop(holder);
    wait::until("the port is taken", || {
        site.client
            .run(|| clients::who(at(EDGE, 30080)).is_ok_and(|who| who == "a"))
    })?;
    fairway.ready()
}

fn an_address_that_cannot_be_bound_is_said() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("a", at(server(0), 80))])?;
    let spec = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    // An address that this host does not have.
    let foreign = server(7).to_string();
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&[
        "--node-address",
        &foreign,
        "--node-address",
        &EDGE.to_string(),
    ]);
    fairway.write(
        "shop.yaml",
        &all(&[&service("shop", spec), &slice("shop", 80, &[server(0)])]),
    )?;
    fairway.launch()?;
    fairway.says("default/shop", &[&foreign])?;
    wait::until("the other address serves", || {
        site.client
            .run(|| clients::who(at(EDGE, 30080)).is_ok_and(|who| who == "a"))
    })
}

fn the_same_object_in_two_files_is_said() -> Result<()> {
    let first = all(&[
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, &[server(0)]),
    ]);
    let second = load_balancer("shop", vip(2), 80, 80);
    let scene = Scene::new(&[("1-shop.yaml", &first), ("2-shop.yaml", &second)])?;
    scene
        .fairway
        .problem(&["1-shop.yaml", "2-shop.yaml", "shop"])?;
    ensure!(scene.fairway.address("default/shop")? == vip(1).to_string());
    scene.good()
}

fn a_file_of_many_megabytes_does_no_harm() -> Result<()> {
    let mut scene = Scene::new(&[])?;
    let mut file = fs::File::create(scene.fairway.manifests().join("huge.yaml"))?;
    let line = format!("# {}\n", "x".repeat(1 << 16));
    for _ in 0..1024 {
        file.write_all(line.as_bytes())?;
    }
    file.write_all(b"junk: [\n")?;
    drop(file);
    scene.fairway.problem(&["huge.yaml"])?;
    scene.good()?;
    // A small file that unfolds to a large one (a billion laughs).
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let below = format!("*a{}, ", n - 1).repeat(10);
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", below.trim_end_matches(", ")));
    }
    scene.fairway.write("laughs.yaml", &laughs)?;
    scene.fairway.problem(&["laughs.yaml"])?;
    let status = fs::read_to_string(format!("/proc/{}/status", scene.fairway.process()?.id()))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse()?;
    ensure!(peak < 500_000, "the process took {peak} kB");
    scene.good()
}

fn links_that_loop_are_not_followed() -> Result<()> {
    let scene = Scene::new(&[])?;
    let folder = scene.fairway.manifests();
    fs::create_dir(folder.join("below"))?;
    symlink("..", folder.join("below/up"))?;
    symlink("round.yaml", folder.join("round.yaml"))?;
    symlink("nowhere", folder.join("dangling.yaml"))?;
    // As a mounted ConfigMap is laid out.
    let outside = scene.fairway.folder().join("data");
    fs::create_dir(&outside)?;
    let shop = all(&[
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, &[server(0)]),
    ]);
    fs::write(outside.join("shop.yaml"), shop)?;
    symlink(&outside, folder.join("..data"))?;
    symlink("..data/shop.yaml", folder.join("shop.yaml"))?;
    wait::until("the linked manifest counts", || {
        scene.who(at(vip(1), 80)).as_deref() == Some("a")
    })?;
    let services = scene.fairway.list("services")?;
    ensure!(services.len() == 2, "{services:?}");
    scene.good()
}
