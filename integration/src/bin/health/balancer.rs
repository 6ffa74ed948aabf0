//! Who balances, and with which checks.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Process;
use fairway_integration::manifest::{all, edge_pool, slice_of};
use fairway_integration::programs;
use fairway_integration::site::{EDGE, Site, at, server, vip};
use tempfile::TempDir;

use crate::endpoints::{PORT, PortKind, SERVERS};

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthWay {
    /// By its traffic alone, which is the default.
    FairwayByTraffic,
    /// With checks, too.
    Fairway,
    HaProxy,
}

impl HealthWay {
    /// Those that carry such a port. HAProxy carries no UDP.
    pub(crate) fn of(kind: PortKind) -> &'static [Self] {
        match kind {
            PortKind::Tcp | PortKind::Http => {
                &[Self::FairwayByTraffic, Self::Fairway, Self::HaProxy]
            }
            PortKind::Dns => &[Self::FairwayByTraffic, Self::Fairway],
        }
    }

    pub(crate) fn start(self, site: &Site, kind: PortKind) -> Result<RunningBalancer> {
        Ok(match self {
            Self::FairwayByTraffic => RunningBalancer::fairway(site, kind, "")?,
            Self::Fairway => RunningBalancer::fairway(site, kind, &check(kind))?,
            Self::HaProxy => RunningBalancer::haproxy(site, kind)?,
        })
    }
}

impl fmt::Display for HealthWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FairwayByTraffic => "Fairway without checks",
            Self::Fairway => "Fairway",
            Self::HaProxy => "HAProxy",
        })
    }
}

/// The annotation.
fn check(kind: PortKind) -> String {
    match kind {
        PortKind::Tcp => r"tcp;send=GET /name HTTP/1.0\r\n\r\n;expect=200 OK;timeout=1s".to_owned(),
        PortKind::Http => "http:/name;timeout=1s".to_owned(),
        // A question for `a.test`, as it is asked over TCP; the answer has its number.
        PortKind::Dns => format!(
            r"tcp;port={PORT};send=\x00\x18\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01;expect=\x12\x34;timeout=1s"
        ),
    }
}

/// What balances, while it runs.
pub(crate) enum RunningBalancer {
    Fairway(Box<Fairway>),
    HaProxy(Process, TempDir),
}

impl RunningBalancer {
    fn fairway(site: &Site, kind: PortKind, check: &str) -> Result<Self> {
        let check = match check {
            "" => String::new(),
            check => format!(", fairway.dev/health-check: '{check}'"),
        };
        let (protocol, said) = match kind {
            PortKind::Tcp => ("TCP", ""),
            PortKind::Http => ("TCP", ", appProtocol: http"),
            PortKind::Dns => ("UDP", ", protocol: UDP"),
        };
        let service = format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: shop, annotations: {{fairway.dev/addresses: \"{}\"{check}}}}}\n\
             spec: {{type: LoadBalancer, selector: {{app: shop}}, ports: [{{port: 80{said}}}]}}\n",
            vip(1)
        );
        let endpoints: Vec<IpAddr> = (0..SERVERS).map(server).collect();
        let slice = slice_of("shop", &[("", protocol, PORT)], &endpoints);
        let manifests = all(&[&edge_pool(), &service, &slice]);
        let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
        fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
        Ok(Self::Fairway(Box::new(fairway)))
    }

    fn haproxy(site: &Site, kind: PortKind) -> Result<Self> {
        let (mode, settings) = match kind {
            PortKind::Http => (
                "http",
                "  retry-on all-retryable-errors\n  option httpchk GET /name\n",
            ),
            _ => (
                "tcp",
                "  option tcp-check\n  tcp-check send GET\\ /name\\ HTTP/1.0\\r\\n\\r\\n\n  \
                 tcp-check expect string 200\\ OK\n",
            ),
        };
        // What Fairway's defaults are, in its words: how long a dial may take, that the next server is tried then, and
        // when a check is made, sooner where something changes, and counts.
        let mut text = format!(
            "global\n  nbthread 2\n  no log\ndefaults\n  mode {mode}\n  timeout connect 1500ms\n  timeout client 60s\n  \
             timeout server 60s\n  timeout check 1s\n  retries 3\n  option redispatch 1\n  balance roundrobin\n\
             listen shop\n  bind {EDGE}:81\n{settings}  default-server check inter 2s fastinter 1s fall 3 rise 2\n"
        );
        for number in 0..SERVERS {
            let _ = writeln!(text, "  server s{number} {}:{PORT}", server(number));
        }
        let folder = TempDir::with_prefix("fairway-haproxy-")?;
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text)?;
        let mut command = Command::new(programs::find("haproxy")?);
        command.arg("-db").arg("-f").arg(&file);
        Ok(Self::HaProxy(site.edge.spawn(command)?, folder))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Fairway(_) => at(vip(1), 80),
            Self::HaProxy(..) => at(EDGE, 81),
        }
    }

    pub(crate) fn stop(self) {
        match self {
            // Clients of a stopped server would be waited for.
            Self::Fairway(mut fairway) => fairway.kill(),
            Self::HaProxy(process, folder) => drop((process, folder)),
        }
    }
}
