//! A gateway and its fleet: what it does with what is not a fleet's message, and what there is of it where nothing is
//! announced. What clients see when a gateway departs is in `failover.rs`.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, PacketSocket};
use fairway_integration::lan::frames;
use fairway_integration::manifest::{all, edge_pool, load_balancer, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, at, client, server, server6, vip, vip6};
use fairway_integration::{clients, programs, tests, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

tests![
    without_a_pool_that_announces_there_is_no_thread_no_socket_and_no_rule,
    what_is_no_message_of_the_fleet_is_counted_by_reason_and_said_once,
    an_address_is_owned_while_it_can_be_served_and_its_interface_is_up,
    who_can_not_hear_its_peers_owns_nothing,
    an_address_that_another_host_uses_is_passed_over_and_not_announced_until_it_is_free,
    peers_that_can_not_be_meant_end_the_process_with_what_to_do,
];

/// Where gateways hear each other.
const FLEET: u16 = 9902;

/// A pool that is announced on layer 2 by an interface.
fn announced(interface: &str) -> String {
    format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: edge}}\n\
         spec: {{addresses: [203.0.113.0/28], announce: {{layer2: {{interfaces: [{interface}]}}}}}}\n"
    )
}

/// The manifests of a Service with one address and one server.
fn web(pool: &str) -> String {
    all(&[
        pool,
        &load_balancer("web", vip(1), 80, 7000),
        &slice("web", 7000, &[server(0)]),
    ])
}

/// A gateway on the edge, prepared, that has a peer which nobody has seen.
fn with_peer(site: &Site, manifests: &str) -> Result<Fairway> {
    let fairway = Fairway::prepare(&site.edge)?;
    let key = key(&fairway)?;
    fairway.write("all.yaml", manifests)?;
    let key = key.to_string_lossy().into_owned();
    Ok(fairway.arguments(&[
        "--node-name",
        "edge-1",
        "--peers",
        "edge-1=198.51.100.1,edge-2=198.51.100.2",
        "--peers-key-file",
        &key,
    ]))
}

fn key(fairway: &Fairway) -> Result<PathBuf> {
    let path = fairway.folder().join("key");
    fs::write(&path, "a key that nobody guesses")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// What the gateway says of the address, once it is in that state.
fn address_is(fairway: &Fairway, state: &str, words: &[&str]) -> Result<Value> {
    wait::until_some(
        &format!("the address is {state}, and its report says {words:?}"),
        || {
            let rows = fairway.list("addresses")?;
            let row = rows.into_iter().next().context("it is not listed")?;
            let text = row.to_string();
            let is_state = row.get("state").and_then(Value::as_str) == Some(state);
            match is_state && words.iter().all(|word| text.contains(word)) {
                true => Ok(row),
                false => bail!("{text}"),
            }
        },
    )
}

/// The UDP ports that are open on a host.
fn udp_ports(host: &Host) -> Result<String> {
    host.run(|| clients::output("ss", &["-Hlnu"]))
}

fn without_a_pool_that_announces_there_is_no_thread_no_socket_and_no_rule() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = with_peer(&site, &web(&edge_pool()))?;
    fairway.launch()?;
    fairway.ready()?;
    let threads = |fairway: &mut Fairway| -> Result<String> {
        let tasks = format!("/proc/{}/task", fairway.process()?.id());
        let names =
            fs::read_dir(tasks)?.map(|task| Ok(fs::read_to_string(task?.path().join("comm"))?));
        Ok(names.collect::<Result<Vec<_>>>()?.join(" "))
    };
    let packet_sockets = || site.edge.run(|| fs::read_to_string("/proc/net/packet"));
    let tables = || {
        site.edge
            .run(|| clients::output("nft", &["list", "tables"]))
    };
    ensure!(!threads(&mut fairway)?.contains("fairway-fleet"));
    ensure!(!udp_ports(&site.edge)?.contains(&format!(":{FLEET}")));
    ensure!(
        packet_sockets()?.lines().count() == 1,
        "{}",
        packet_sockets()?
    );
    ensure!(!tables()?.contains("fairway"), "{}", tables()?);

    // And there is, when it does.
    fairway.write("all.yaml", &web(&announced("front")))?;
    address_is(&fairway, "owned", &[])?;
    ensure!(threads(&mut fairway)?.contains("fairway-fleet"));
    ensure!(udp_ports(&site.edge)?.contains(&format!(":{FLEET}")));
    ensure!(tables()?.contains("fairway"), "{}", tables()?);
    Ok(())
}

fn what_is_no_message_of_the_fleet_is_counted_by_reason_and_said_once() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = with_peer(&site, &web(&announced("front")))?;
    fairway.launch()?;
    fairway.ready()?;
    address_is(&fairway, "owned", &[])?;
    // The other one is not there, and that is seen.
    let silent = ["state=\"silent\""];
    wait::until_some("a gateway is silent", || {
        let silent = fairway.metric("fairway_fleet_members", &silent)?;
        ensure!(silent == 1.0, "{silent}");
        Ok(())
    })?;
    let to = SocketAddr::new(EDGE, FLEET);
    let send = |bytes: &[u8]| -> Result<()> {
        site.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            // As no router has passed it on.
            socket.set_ttl(255)?;
            for _ in 0..10 {
                socket.send_to(bytes, to)?;
            }
            Ok(())
        })
    };
    send(b"")?;
    send(b"GET / HTTP/1.1\r\n\r\n")?;
    send(&[&b"FWF1"[..], &[7; 200]].concat())?;
    for (reason, count) in [("format", 20.0), ("key", 10.0)] {
        let labels = [&*format!("reason=\"{reason}\"")];
        wait::until_some(&format!("{count} are refused for {reason}"), || {
            let refused = fairway.metric("fairway_heartbeat_rejected_total", &labels)?;
            ensure!(refused == count, "{refused}");
            Ok(())
        })?;
    }
    let said = fairway.process()?.said();
    for reason in ["reason=\"format\"", "reason=\"key\""] {
        ensure!(said.matches(reason).count() == 1, "{reason}:\n{said}");
    }
    // It goes on as before, and nothing is taken at an external address.
    address_is(&fairway, "owned", &[])?;
    let taken =
        |fairway: &Fairway| fairway.metric("fairway_heartbeats_total", &["direction=\"receive\""]);
    let before = taken(&fairway)?;
    site.client.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_ttl(255)?;
        socket.send_to(b"FWF1", SocketAddr::new(vip(1), FLEET))?;
        Ok(())
    })?;
    fairway.settle("marker")?;
    ensure!(taken(&fairway)? == before);
    Ok(())
}

fn an_address_is_owned_while_it_can_be_served_and_its_interface_is_up() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("web", at(server(0), 7000))])?;
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &web(&announced("front")))])?;
    let row = address_is(&fairway, "owned", &["no other gateway", "front"])?;
    ensure!(row.get("term").and_then(Value::as_u64) > Some(0), "{row}");
    ensure!(site.client.run(|| clients::who(at(vip(1), 80)))? == "web");

    // Without an endpoint nothing listens.
    let nothing = all(&[&announced("front"), &load_balancer("web", vip(1), 80, 7000)]);
    fairway.write("all.yaml", &nothing)?;
    address_is(&fairway, "unowned", &["no Service takes traffic"])?;
    fairway.write("all.yaml", &web(&announced("front")))?;
    address_is(&fairway, "owned", &[])?;

    site.edge.ip("link set front down")?;
    address_is(&fairway, "unowned", &["the interface front is down"])?;
    site.edge.ip("link set front up")?;
    address_is(&fairway, "owned", &[])?;

    fairway.write("all.yaml", &web(&announced("lan0")))?;
    address_is(&fairway, "unowned", &["this host has no interface lan0"])?;
    fairway.write("all.yaml", &web(&edge_pool()))?;
    wait::until_some("nothing is said of the address any more", || {
        let rows = fairway.list("addresses")?;
        ensure!(rows.is_empty(), "{rows:?}");
        Ok(())
    })
}

fn who_can_not_hear_its_peers_owns_nothing() -> Result<()> {
    let site = Site::new()?;
    // Somebody else has the port.
    let other = site
        .edge
        .run(|| UdpSocket::bind(SocketAddr::new(EDGE, FLEET)))?;
    let mut fairway = with_peer(&site, &web(&announced("front")))?;
    fairway.launch()?;
    fairway.ready()?;
    address_is(
        &fairway,
        "unowned",
        &["other gateways can't be heard on front", "in use"],
    )?;
    drop(other);
    address_is(&fairway, "owned", &[])?;
    Ok(())
}

/// Whether somebody answers the client that asks who has an address.
fn is_answered(site: &Site, address: IpAddr) -> Result<bool> {
    let IpAddr::V4(v4) = client(0) else {
        bail!("it is of IPv4");
    };
    site.client.run(|| {
        let frame = match address {
            IpAddr::V4(asked) => frames::arp_request((HARDWARE, v4), asked),
            IpAddr::V6(asked) => {
                let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x11);
                frames::solicitation((HARDWARE, v6), asked)
            }
        };
        let socket = PacketSocket::open("up")?;
        let mut buffer = vec![0; 2048];
        for _ in 0..3 {
            socket.send(&frame)?;
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(100) {
                let mut fds = [PollFd::new(&socket, PollFlags::IN)];
                let time = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                poll(&mut fds, Some(&time))?;
                while let Some((frame, _)) = socket.receive(&mut buffer)? {
                    let naming = frames::naming(frame);
                    if naming.is_some_and(|it| it.is_answer && it.address == address) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    })
}

/// The client's hardware address.
const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// Another host has the first address of the pool in each family.
fn an_address_that_another_host_uses_is_passed_over_and_not_announced_until_it_is_free()
-> Result<()> {
    let site = Site::new()?;
    let used = [vip(1), vip6(1)];
    site.client
        .ip("link set dev up address 02:00:00:00:00:77")?;
    for address in used {
        let nodad = if address.is_ipv6() {
            "/128 nodad"
        } else {
            "/32"
        };
        site.client
            .ip(&format!("address add {address}{nodad} dev up"))?;
    }
    let pool = "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: edge}\n\
                spec: {addresses: [203.0.113.1-203.0.113.9, '2001:db8:f::1-2001:db8:f::9'], \
                announce: {layer2: {interfaces: [front]}}}\n";
    let mut fairway = Fairway::prepare(&site.edge)?;
    fairway.write("pool.yaml", pool)?;
    fairway.launch()?;
    fairway.ready()?;
    let both = "type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: 7000}]";
    let web = |name: &str| all(&[&service(name, both), &slice(name, 7000, &[server(0)])]);
    let took = |fairway: &Fairway, name: &str| -> Result<Duration> {
        let began = Instant::now();
        fairway.write(&format!("{name}.yaml"), &web(name))?;
        wait::until_some("it has its addresses", || {
            let ips = fairway.external_ips(&format!("default/{name}"))?;
            ensure!(ips.len() == 2, "{ips:?}");
            Ok(())
        })?;
        Ok(began.elapsed())
    };
    // Both in turn, each within a second.
    let past_used = took(&fairway, "web")?;
    ensure!(fairway.external_ips("default/web")? == ["203.0.113.2", "2001:db8:f::2"]);
    let free = took(&fairway, "more")?;
    ensure!(fairway.external_ips("default/more")? == ["203.0.113.3", "2001:db8:f::3"]);
    println!("addresses after {free:?}; where the first two are used: {past_used:?}");
    ensure!(
        free >= Duration::from_millis(700),
        "nobody was asked: {free:?}"
    );
    let hardware = "02:00:00:00:00:77";
    fairway.explains(
        "default/web",
        &["203.0.113.1 was not given", "2001:db8:f::1", hardware],
    )?;
    fairway.logs(&["AddressConflict", "203.0.113.1 is not given", hardware])?;
    let pools = fairway.list("pools")?;
    ensure!(
        format!("{pools:?}").contains("other hosts use them"),
        "{pools:?}"
    );

    // Who asks for it has it at once, and nobody hears of it.
    let asked = all(&[
        &load_balancer("asked", vip(1), 80, 7000),
        &load_balancer("asked6", vip6(1), 80, 7000).replace(
            "selector:",
            "ipFamilies: [IPv6], ipFamilyPolicy: SingleStack, selector:",
        ),
        &slice("asked", 7000, &[server(0)]),
        &slice("asked6", 7000, &[server6(0)]),
    ]);
    fairway.write("asked.yaml", &asked)?;
    for (name, address) in [("asked", used[0]), ("asked6", used[1])] {
        fairway.says(
            &format!("default/{name}"),
            &["AddressConflict", "is not announced", hardware],
        )?;
        ensure!(fairway.external_ips(&format!("default/{name}"))? == [address.to_string()]);
        let rows = fairway.list("addresses")?;
        let row = rows
            .iter()
            .find(|row| row.to_string().contains(&format!("\"{address}\"")));
        let row = row.context("it is not listed")?.to_string();
        ensure!(row.contains("conflict") && row.contains(hardware), "{row}");
        ensure!(!is_answered(&site, address)?, "{address} is announced");
    }
    // And those that nobody else has.
    for address in [vip(2), vip6(2)] {
        wait::until_some("it is answered for", || {
            ensure!(is_answered(&site, address)?, "{address}");
            Ok::<(), anyhow::Error>(())
        })?;
    }
    // The other host goes.
    for address in used {
        let length = if address.is_ipv6() { 128 } else { 32 };
        site.client
            .ip(&format!("address del {address}/{length} dev up"))?;
    }
    for (name, address) in [("asked", used[0]), ("asked6", used[1])] {
        wait::until_some("it is announced", || {
            ensure!(
                is_answered(&site, address)?,
                "{address}: {}",
                fairway.conditions(&format!("default/{name}"))?
            );
            let said = fairway.conditions(&format!("default/{name}"))?;
            ensure!(!said.contains("AddressConflict"), "{said}");
            Ok::<(), anyhow::Error>(())
        })?;
    }
    // From now on it is ours: whoever answers for it as well takes nothing from it.
    site.client
        .ip(&format!("address add {}/32 dev up", used[0]))?;
    fairway.says(
        "default/asked",
        &["AddressConflict", "Another host answers for 203.0.113.1"],
    )?;
    ensure!(fairway.list("addresses")?.iter().any(|row| {
        let row = row.to_string();
        row.contains("\"203.0.113.1\"") && row.contains("\"owned\"")
    }));
    Ok(())
}

fn peers_that_can_not_be_meant_end_the_process_with_what_to_do() -> Result<()> {
    let site = Site::new()?;
    let fairway = Fairway::prepare(&site.edge)?;
    let key = key(&fairway)?.to_string_lossy().into_owned();
    let short = fairway.folder().join("short");
    fs::write(&short, "short")?;
    fs::set_permissions(&short, fs::Permissions::from_mode(0o600))?;
    let open = fairway.folder().join("open");
    fs::write(&open, "a key that everybody reads")?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644))?;
    let [short, open] = [short, open].map(|it| it.to_string_lossy().into_owned());
    let peer = "edge-2=198.51.100.2";
    for (arguments, said) in [
        (&["--peers", "edge-2=edge-2.example"][..], "write NAME=IP"),
        (&["--peers", "198.51.100.2"], "write NAME=IP"),
        (&["--peers", peer], "--peers takes --peers-key-file"),
        (&["--peers", peer, "--peers-key-file", &short], "16"),
        (&["--peers", peer, "--peers-key-file", &open], "chmod 0600"),
        (
            &["--peers", peer, "--peers-key-file", "/no/such/file"],
            "can't be read",
        ),
        (&["--fleet-port", "0"], "--fleet-port"),
        (
            &[
                "--peers",
                "a=198.51.100.2,b=198.51.100.2",
                "--peers-key-file",
                &key,
            ],
            "198.51.100.2 is",
        ),
    ] {
        let mut command = Command::new(programs::fairway()?);
        command
            .arg("standalone")
            .arg("--manifests")
            .arg(fairway.manifests());
        command.arg("--state").arg(fairway.state()).args(arguments);
        let output = site.edge.run(|| command.output())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{arguments:?}: {output:?}");
        ensure!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    Ok(())
}
