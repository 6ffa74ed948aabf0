//! What was given out stays given out.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, load_balancer, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{Site, at, server, vip};
use fairway_integration::{clients, programs, tests, wait};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

tests![
    the_state_is_the_whole_service,
    addresses_and_node_ports_survive_a_restart_in_any_order_of_files,
    the_state_is_whole_after_a_kill_at_any_moment,
    nothing_is_released_while_the_manifests_are_away,
    a_directory_that_comes_back_half_releases_nothing_at_once,
    a_full_disk_loses_nothing,
    a_pool_that_is_edited_takes_no_address_away,
    a_second_process_says_who_holds_the_state,
    an_address_that_was_wished_for_in_the_status_is_granted,
];

fn shop_server(site: &Site) -> Result<Served> {
    named(&site.farm, &[("a", at(server(0), 80))])
}

fn shop() -> String {
    all(&[
        &service("shop", "type: LoadBalancer, ports: [{port: 80}]"),
        &slice("shop", 80, &[server(0)]),
    ])
}

fn who(site: &Site, to: SocketAddr) -> Option<String> {
    site.client.run(|| clients::who(to).ok())
}

/// What a Service holds: its name, addresses, node ports.
type Holding = (String, Vec<String>, Vec<u16>);

/// What each Service holds.
fn held(fairway: &Fairway) -> Result<Vec<Holding>> {
    let mut held = Vec::new();
    for row in fairway.list("services")? {
        let name = format!(
            "{}/{}",
            row["namespace"].as_str().unwrap_or_default(),
            row["name"].as_str().unwrap_or_default()
        );
        held.push((
            name.clone(),
            fairway.external_ips(&name)?,
            fairway.node_ports(&name)?,
        ));
    }
    Ok(held)
}

fn the_state_is_the_whole_service() -> Result<()> {
    let site = Site::new()?;
    let fairway = Fairway::start(
        &site.edge,
        &[("pool.yaml", &edge_pool()), ("shop.yaml", &shop())],
    )?;
    let address = fairway.address("default/shop")?;
    let node_port = fairway.node_ports("default/shop")?;
    let file = fairway.state_file("default/shop")?;
    ensure!(
        file["apiVersion"] == "v1" && file["kind"] == "Service",
        "{file}"
    );
    ensure!(file["spec"]["selector"]["app"] == "shop", "{file}");
    ensure!(
        file["spec"]["ports"][0]["nodePort"].as_u64() == node_port.first().map(|n| u64::from(*n))
    );
    let ingress = &file["status"]["loadBalancer"]["ingress"][0];
    ensure!(
        ingress["ip"] == address.as_str() && ingress["ipMode"] == "Proxy",
        "{file}"
    );
    ensure!(ingress["ports"][0]["port"] == 80, "{file}");
    let conditions = file["status"]["conditions"]
        .as_array()
        .context("no conditions")?;
    ensure!(
        conditions
            .iter()
            .any(|c| c["type"] == "fairway.dev/AddressAssigned" && c["status"] == "True")
    );
    Ok(())
}

fn addresses_and_node_ports_survive_a_restart_in_any_order_of_files() -> Result<()> {
    let site = Site::new()?;
    let spec = "type: LoadBalancer, ports: [{port: 80}]";
    let mut fairway = Fairway::start(&site.edge, &[("pool.yaml", &edge_pool())])?;
    // In an order that is not that of the names.
    for name in ["m", "c", "z", "a"] {
        fairway.write(&format!("{name}.yaml"), &service(name, spec))?;
        fairway.address(&format!("default/{name}"))?;
    }
    let before = held(&fairway)?;
    fairway.stop()?;
    for name in ["m", "c", "z", "a"] {
        fairway.remove(&format!("{name}.yaml"))?;
    }
    let together: Vec<String> = ["z", "a", "m", "c"].map(|name| service(name, spec)).into();
    let together: Vec<&str> = together.iter().map(String::as_str).collect();
    fairway.write("0-all.yaml", &all(&together))?;
    fairway.restart()?;
    ensure!(
        held(&fairway)? == before,
        "{before:?} became {:?}",
        held(&fairway)?
    );
    Ok(())
}

fn the_state_is_whole_after_a_kill_at_any_moment() -> Result<()> {
    let site = Site::new()?;
    let spec = "type: LoadBalancer, ports: [{port: 80}]";
    let names: Vec<String> = (0..12).map(|n| format!("s{n:02}")).collect();
    let mut fairway = Fairway::start(&site.edge, &[("pool.yaml", &edge_pool())])?;
    let mut known: Vec<Holding> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        fairway.write(&format!("{name}.yaml"), &service(name, spec))?;
        // From before the file is noticed to after its status is written.
        thread::sleep(Duration::from_millis(3 * n as u64));
        fairway.kill();
        for file in walk(&fairway.state().join("services"))? {
            if file
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let text = fs::read_to_string(&file)?;
                let object: serde_json::Value =
                    serde_saphyr::from_str(&text).with_context(|| format!("{text:?}"))?;
                ensure!(
                    object["kind"] == "Service",
                    "{} is not whole: {text}",
                    file.display()
                );
            }
        }
        fairway.launch()?;
        fairway.ready().with_context(|| format!("after kill {n}"))?;
        fairway.address(&format!("default/{name}"))?;
        let now = held(&fairway)?;
        for was in &known {
            ensure!(now.contains(was), "{was:?} has changed: {now:?}");
        }
        known = now;
    }
    Ok(())
}

fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // It is there from the first Service on.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    Ok(files)
}

fn nothing_is_released_while_the_manifests_are_away() -> Result<()> {
    let site = Site::new()?;
    let _server = shop_server(&site)?;
    let mut fairway = Fairway::start(
        &site.edge,
        &[("pool.yaml", &edge_pool()), ("shop.yaml", &shop())],
    )?;
    let before = held(&fairway)?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let away = fairway.folder().join("away");
    fs::rename(fairway.manifests(), &away)?;
    let name = fairway.manifests().to_string_lossy().into_owned();
    fairway.problem(&[&name])?;
    wait::always(Duration::from_secs(2), "the Service answers", || {
        who(&site, to).as_deref() == Some("a")
    })?;
    // Across a restart too.
    fairway.stop()?;
    fairway.launch()?;
    wait::until("the Service answers after a restart", || {
        who(&site, to).as_deref() == Some("a")
    })?;
    // The gateway may serve what is remembered before the controller has been heard of.
    wait::until("everything is held again", || {
        held(&fairway).is_ok_and(|held| held == before)
    })?;
    // An empty directory in its place, as under a mount point, is no deletion either.
    fs::create_dir(fairway.manifests())?;
    wait::always(Duration::from_secs(3), "the Service answers", || {
        who(&site, to).as_deref() == Some("a")
    })?;
    fs::remove_dir(fairway.manifests())?;
    fs::rename(&away, fairway.manifests())?;
    fairway.write(
        "late.yaml",
        &service("late", "type: LoadBalancer, ports: [{port: 80}]"),
    )?;
    fairway.address("default/late")?;
    ensure!(held(&fairway)?.contains(before.first().context("no Service")?));
    wait::until("the problem is gone", || {
        fairway
            .get("/api/v1/problems")
            .is_ok_and(|response| !response.body.contains(&name))
    })
}

fn a_directory_that_comes_back_half_releases_nothing_at_once() -> Result<()> {
    let site = Site::new()?;
    let _server = shop_server(&site)?;
    let fairway = Fairway::start(
        &site.edge,
        &[
            ("pool.yaml", &edge_pool()),
            ("shop.yaml", &shop()),
            (
                "other.yaml",
                &service("other", "type: LoadBalancer, ports: [{port: 80}]"),
            ),
        ],
    )?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let away = fairway.folder().join("away");
    fs::rename(fairway.manifests(), &away)?;
    fairway.problem(&["manifests"])?;
    // It comes back file by file; the Service is in the last one.
    fs::create_dir(fairway.manifests())?;
    for name in ["pool.yaml", "other.yaml"] {
        fs::copy(away.join(name), fairway.manifests().join(name))?;
    }
    wait::always(Duration::from_secs(2), "the Service answers", || {
        who(&site, to).as_deref() == Some("a")
    })?;
    fs::copy(
        away.join("shop.yaml"),
        fairway.manifests().join("shop.yaml"),
    )?;
    wait::always(Duration::from_secs(2), "the Service answers", || {
        who(&site, to).as_deref() == Some("a")
    })
}

/// Unmounts at the end.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn a_full_disk_loses_nothing() -> Result<()> {
    let site = Site::new()?;
    let _server = shop_server(&site)?;
    let folder = tempfile::tempdir()?;
    let options = c"size=1m";
    mount(
        "tmpfs",
        folder.path(),
        "tmpfs",
        MountFlags::empty(),
        Some(options),
    )?;
    let mounted = Mounted(folder.path().to_owned());
    let mut fairway = Fairway::prepare(&site.edge)?.state_in(folder.path());
    fairway.write("pool.yaml", &edge_pool())?;
    fairway.write("shop.yaml", &shop())?;
    fairway.launch()?;
    fairway.ready()?;
    let before = held(&fairway)?;
    let to = at(fairway.address("default/shop")?.parse()?, 80);
    let ballast = folder.path().join("ballast");
    // To the last byte: write(2) says when there is no more.
    let full = fs::write(&ballast, vec![0; 2 << 20]);
    ensure!(full.is_err(), "the disk is not full");
    fairway.write(
        "late.yaml",
        &service("late", "type: LoadBalancer, ports: [{port: 80}]"),
    )?;
    wait::until("the failure is counted", || {
        fairway
            .metric("fairway_store_errors_total", &[])
            .is_ok_and(|n| n >= 1.0)
    })?;
    ensure!(who(&site, to).as_deref() == Some("a"));
    let file = fairway.state_file("default/shop")?;
    ensure!(
        file["status"]["loadBalancer"]["ingress"][0]["ip"].is_string(),
        "{file}"
    );
    // A restart with a full disk loses nothing either.
    fairway.kill();
    fairway.launch()?;
    wait::until("the Service answers after a restart", || {
        who(&site, to).as_deref() == Some("a")
    })?;
    let first = before.first().context("no Service")?;
    wait::until("the Service holds what it held", || {
        held(&fairway).is_ok_and(|held| held.contains(first))
    })?;
    fs::remove_file(&ballast)?;
    fairway.address("default/late")?;
    fairway.ready()?;
    wait::until("what waited is written", || {
        fairway.state_file("default/late").is_ok()
    })?;
    drop(fairway);
    drop(mounted);
    Ok(())
}

fn a_pool_that_is_edited_takes_no_address_away() -> Result<()> {
    let site = Site::new()?;
    let _server = shop_server(&site)?;
    let mut fairway = Fairway::start(
        &site.edge,
        &[("pool.yaml", &edge_pool()), ("shop.yaml", &shop())],
    )?;
    let address = fairway.address("default/shop")?;
    let to = at(address.parse()?, 80);
    fairway.write("pool.yaml", &pool("edge", &["203.0.113.128/28"]))?;
    fairway.says("default/shop", &["OutOfPool", &address])?;
    fairway.restart()?;
    ensure!(fairway.address("default/shop")? == address);
    ensure!(who(&site, to).as_deref() == Some("a"));
    fairway.remove("pool.yaml")?;
    fairway.write("other.yaml", &load_balancer("other", vip(9), 80, 80))?;
    fairway.says("default/other", &["AddressInNoPool"])?;
    ensure!(who(&site, to).as_deref() == Some("a"));
    Ok(())
}

fn a_second_process_says_who_holds_the_state() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::start(&site.edge, &[("pool.yaml", &edge_pool())])?;
    let first = fairway.process()?.id().to_string();
    let mut command = Command::new(programs::fairway()?);
    command
        .arg("standalone")
        .arg("--manifests")
        .arg(fairway.manifests());
    command
        .arg("--state")
        .arg(fairway.state())
        .args(["--admin", "127.0.0.1:9902"]);
    let mut second = site.edge.spawn(command)?;
    let status = second.wait(wait::SOON)?;
    ensure!(status.code() == Some(2), "{status}");
    wait::until("it says who holds it", || second.said().contains(&first))?;
    Ok(())
}

fn an_address_that_was_wished_for_in_the_status_is_granted() -> Result<()> {
    let site = Site::new()?;
    // As kubectl get -o yaml prints it: node port and address are in it.
    let wish = "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\n\
        spec: {type: LoadBalancer, ports: [{port: 80, nodePort: 31468}]}\n\
        status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}\n";
    let fairway = Fairway::start(
        &site.edge,
        &[("pool.yaml", &edge_pool()), ("shop.yaml", wish)],
    )?;
    ensure!(fairway.external_ips("default/shop")? == ["203.0.113.7"]);
    ensure!(fairway.node_ports("default/shop")? == [31468]);
    // A wish that can't be granted is none: the Service gets another address.
    let taken = wish
        .replace("{name: shop}", "{name: twin}")
        .replace(", nodePort: 31468", "");
    fairway.write("twin.yaml", &taken)?;
    let other = fairway.address("default/twin")?;
    ensure!(other != "203.0.113.7", "{other}");
    Ok(())
}
