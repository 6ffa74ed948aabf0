//! A fleet of gateways on one network under a control plane.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{DEFAULT_CLASS, Installed};
use crate::cluster::Cluster;
use crate::fairway::{Fairway, text};
use crate::lab::Served;
use crate::lan::network::{INTERFACE, Lan, Snooping};
use crate::lan::observer::{ASKED_EVERY, LanObserver};
use crate::lan::outage::{AttemptEnd, OutageFigures, figures};
use crate::lan::prober::Prober;
use crate::servers::named;
use crate::site::{at, server};
use crate::wait;

const EDGES: u8 = 3;

/// The port of its Services and of their servers.
const PORT: u16 = 80;

const ANNOUNCED: &str = "fairway.dev/Announced";
const PROGRAMMED: &str = "fairway.dev/Programmed";

/// So many attempts of a client must have been answered one after the other.
const SERVED: usize = 50;

/// Three gateways on one network, under a control plane, with a controller beside them.
pub struct ClusterFleet<'a> {
    /// One for each edge of the network, in their order.
    pub gateways: Vec<Fairway>,
    /// The controller.
    pub controller: Fairway,
    /// The network.
    pub lan: Lan,
    _servers: Served,
    // Last: they run on its hosts.
    /// What is installed.
    pub it: Installed<'a>,
}

impl<'a> ClusterFleet<'a> {
    /// Started; every gateway hears the others.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        let it = Installed::new(cluster)?;
        let lan = Lan::new(EDGES, Snooping::Off)?;
        let servers = named(&lan.farm, &[("a", at(server(0), PORT))])?;
        let announce = format!("announce: {{layer2: {{interfaces: [{INTERFACE}]}}}}");
        it.pool_of(
            "lan",
            &format!("addresses: [198.19.1.1-198.19.1.9], {announce}"),
        )?;
        let controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
        for edge in &lan.edges {
            cluster.attach(&edge.host)?;
            cluster.node(&edge.name, &[edge.ip()], &[])?;
        }
        let places = lan.edges.iter().map(|edge| (&edge.host, &*edge.name));
        let gateways = it.gateways_on(places)?;
        // The key of the fleet comes some seconds after the gateways. They say themselves whom they hear: what stands in
        // their Leases of that is up to ten seconds old.
        wait::until_some("all gateways hear each other", || {
            for gateway in &gateways {
                let heard = gateway.metric("fairway_fleet_members", &["state=\"heard\""])?;
                ensure!(heard == f64::from(EDGES - 1), "{heard}");
            }
            Ok(())
        })?;
        Ok(Self {
            gateways,
            controller,
            lan,
            _servers: servers,
            it,
        })
    }

    /// A Service with an endpoint; `asks` is more of its spec.
    pub fn service(&self, name: &str, asks: &str) -> Result<()> {
        self.it
            .service(name, &format!("ports: [{{port: {PORT}}}]{asks}"))?;
        self.it.pod(name, 0, server(0), "edge-1")
    }

    /// The rows of `get addresses` of the controller of an address that is so.
    pub fn rows(&self, address: IpAddr, state: &str) -> Result<Vec<serde_json::Value>> {
        let mut rows = self.controller.list("addresses")?;
        let address = address.to_string();
        rows.retain(|row| text(row, "address") == address && text(row, "state") == state);
        Ok(rows)
    }

    /// The place of the gateway that owns an address, as everybody says who can be asked: the frames on the network, the
    /// gateways that live, the controller, the Service, its Event.
    pub fn owner(
        &self,
        observer: &LanObserver,
        (service, address): (&str, IpAddr),
    ) -> Result<usize> {
        let owners = observer.settled(&[address], ASKED_EVERY * 20)?;
        let edge = self.lan.edge_with(owners[&address])?;
        let name = &edge.name;
        wait::until_some(&format!("{name} owns {address}"), || {
            // What a dead one said last is no row.
            let rows = self.rows(address, "owned")?;
            let owners: Vec<&str> = rows.iter().map(|row| text(row, "gateway")).collect();
            ensure!(owners == [name], "{rows:?}");
            Ok(())
        })?;
        let announces = format!("announcing from node \"{name}\" with protocol \"layer2\"");
        self.it.says(service, ANNOUNCED, &["True", &announces])?;
        self.it.says(service, PROGRAMMED, &["True"])?;
        self.it.tells(service, "nodeAssigned", &[&announces])?;
        let label = [&*format!("address=\"{address}\"")];
        let owned = |n: usize| {
            // One that was killed says nothing.
            let gateway = self.gateways.get(n)?;
            gateway.metric("fairway_vip_owned", &label).ok()
        };
        let places = 0..self.gateways.len();
        wait::until_some("the metrics say so", || {
            let owners: Vec<usize> = places.clone().filter(|n| owned(*n) == Some(1.0)).collect();
            ensure!(owners == [usize::from(edge.number) - 1], "{owners:?}");
            Ok(())
        })?;
        Ok(usize::from(edge.number) - 1)
    }

    /// Kills the gateway at that place while a client goes on. Whoever owns the address then is not it.
    pub fn kill(&mut self, number: usize, prober: &Prober) -> Result<()> {
        self.gateways[number].kill();
        served_by(prober)
    }

    /// Cuts the gateway at that place off from the API server while a client uses an address; what the client saw.
    pub fn cut_off_from_api_server(
        &self,
        number: usize,
        address: IpAddr,
        time: Duration,
    ) -> Result<OutageFigures> {
        let edge = self
            .lan
            .edges
            .get(number)
            .context("there is no such edge")?;
        let prober = Prober::start(&self.lan.client, at(address, PORT))?;
        served_by(&prober)?;
        edge.host.ip("link set dev api down")?;
        let cut = Instant::now();
        wait::until_within(2 * time, "it was cut off for so long", || {
            cut.elapsed() >= time
        })?;
        let figures = figures(&prober.finish()?);
        edge.host.ip("link set dev api up")?;
        Ok(figures)
    }
}

/// Waits until a row of attempts was answered that began after now.
pub fn served_by(prober: &Prober) -> Result<()> {
    let ended = prober.ended().len();
    wait::until_some("a client is served", || {
        let attempts = prober.last(SERVED);
        let bad = attempts
            .iter()
            .filter(|it| !matches!(it.end, AttemptEnd::Answered(_)))
            .count();
        ensure!(
            prober.ended().len() > ended + SERVED && bad == 0,
            "{bad} fail"
        );
        Ok(())
    })
}
