//! The contract of a LoadBalancer provider, judged by a real API server.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::Installed;
use fairway_integration::servers::named;
use fairway_integration::site::{server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    a_service_gets_its_address_its_status_and_its_traffic,
    a_service_of_another_class_stays_untouched_to_the_byte,
    the_finalizer_is_there_while_there_is_a_load_balancer,
    a_deleted_service_is_torn_down_and_goes,
];

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn who(installed: &Installed<'_>, to: SocketAddr) -> Option<String> {
    installed.site.client.run(|| clients::who(to).ok())
}

fn a_service_gets_its_address_its_status_and_its_traffic() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _servers = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    let gateway = it.gateway(&["--default-class"])?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    cluster.node("node-a", &[server(9)], &[])?;
    it.service("web", "ports: [{port: 80, targetPort: http}]")?;
    it.pod("web", 0, server(0), "node-a")?;
    let address = it.address("web")?;
    ensure!(address == vip(1), "{address}");
    wait::until("the address answers", || {
        who(&it, at(address, 80)).as_deref() == Some("a")
    })?;
    it.says(
        "web",
        "AddressAssigned",
        &["True", "Assigned", "203.0.113.1"],
    )?;
    it.says("web", "Programmed", &["True"])?;
    let service = it.get("web")?;
    let ingress = &service["status"]["loadBalancer"]["ingress"][0];
    ensure!(ingress["ipMode"] == "Proxy", "{ingress}");
    ensure!(ingress["ports"][0]["port"] == 80, "{ingress}");
    let table = cluster.kubectl(&["get", "service", "web", "-n", "shop"])?;
    ensure!(table.contains("203.0.113.1"), "{table}");
    wait::until_some("the events tell it", || {
        let events = it.events("web")?;
        let told = ["EnsuringLoadBalancer", "EnsuredLoadBalancer"];
        ensure!(
            told.iter().all(|it| events.contains(&(*it).to_owned())),
            "{events:?}"
        );
        Ok(())
    })?;
    ensure!(gateway.external_ips("shop/web")? == ["203.0.113.1"]);
    Ok(())
}

fn a_service_of_another_class_stays_untouched_to_the_byte() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    it.service(
        "theirs",
        "loadBalancerClass: example.com/lb, ports: [{port: 80}]",
    )?;
    cluster.kubectl(&[
        "patch",
        "service",
        "theirs",
        "-n",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}"#,
    ])?;
    let before = it.get("theirs")?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.service("ours", "ports: [{port: 80}]")?;
    it.address("ours")?;
    ensure!(it.get("theirs")? == before);
    Ok(())
}

fn the_finalizer_is_there_while_there_is_a_load_balancer() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.service("web", "ports: [{port: 80}]")?;
    for _ in 0..2 {
        let address = it.address("web")?;
        ensure!(address == vip(1), "{address}");
        ensure!(it.finalizers("web")? == [FINALIZER]);
        set_type(&cluster, "web", "ClusterIP")?;
        wait::until_some("everything is taken back", || {
            ensure!(it.finalizers("web")?.is_empty());
            ensure!(it.addresses("web")?.is_empty());
            let conditions = it.get("web")?["status"]["conditions"].clone();
            ensure!(conditions.is_null(), "{conditions}");
            Ok::<_, anyhow::Error>(())
        })?;
        set_type(&cluster, "web", "LoadBalancer")?;
    }
    Ok(())
}

fn set_type(cluster: &Cluster, name: &str, kind: &str) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"type\":\"{kind}\"}}}}");
    cluster.kubectl(&["patch", "service", name, "-n", "shop", "-p", &patch])?;
    Ok(())
}

fn a_deleted_service_is_torn_down_and_goes() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _servers = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    it.pool("edge", &["203.0.113.1"])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    let gateway = it.gateway(&["--default-class"])?;
    cluster.node("node-a", &[server(9)], &[])?;
    it.service("web", "ports: [{port: 80, targetPort: http}]")?;
    it.pod("web", 0, server(0), "node-a")?;
    let address = it.address("web")?;
    wait::until("the address answers", || {
        who(&it, at(address, 80)).is_some()
    })?;
    // Waits until the object is gone.
    cluster.kubectl(&["delete", "service", "web", "-n", "shop", "--timeout=60s"])?;
    wait::until("its listeners are gone", || {
        gateway.list("listeners").is_ok_and(|rows| rows.is_empty())
    })?;
    // The address is free for the next.
    it.service("next", "ports: [{port: 80}]")?;
    ensure!(it.address("next")? == address);
    Ok(())
}
