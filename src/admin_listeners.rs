//! The listeners of a process for people and scrapers: `--admin` and `--metrics`.

use std::net::{SocketAddr, TcpListener};

use fairway_gateway::take_over::successor::HandingProcess;

use crate::args::ProcessArgs;
use crate::outcome::WrongConfiguration;
use crate::take_over::{self, TakeOverPlan};

/// The listeners of a process for `--admin` and `--metrics`.
pub(crate) struct AdminListeners {
    pub(crate) admin: TcpListener,
    pub(crate) metrics: Option<TcpListener>,
}

impl AdminListeners {
    /// Binds the addresses that the flags name, or has the listeners of a process that hands over.
    pub(crate) fn bind(
        args: &ProcessArgs,
        plan: Option<&TakeOverPlan>,
        mut handing: Option<&mut HandingProcess>,
    ) -> anyhow::Result<Self> {
        let other = || plan.and_then(TakeOverPlan::other);
        let mut listener = |name, address, flag| {
            let inherited = take_over::inherited(handing.as_deref_mut(), name, address);
            inherited.map_or_else(|| bind_beside(address, flag, other), Ok)
        };
        let admin = listener(take_over::ADMIN, args.admin, "--admin")?;
        let metrics = args.metrics;
        let metrics = metrics.map(|address| listener(take_over::METRICS, address, "--metrics"));
        Ok(Self {
            admin,
            metrics: metrics.transpose()?,
        })
    }

    /// The same listeners for another process.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<(&'static str, TcpListener)>> {
        let admin = (take_over::ADMIN, Some(&self.admin));
        let all = [admin, (take_over::METRICS, self.metrics.as_ref())];
        let all = all.into_iter();
        let there = all.filter_map(|(name, listener)| Some((name, listener?)));
        there
            .map(|(name, listener)| Ok((name, listener.try_clone()?)))
            .collect()
    }

    /// All their addresses: no traffic may be sent there.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let all = [Some(&self.admin), self.metrics.as_ref()];
        let all = all.into_iter().flatten().map(TcpListener::local_addr);
        Ok(all.collect::<Result<_, _>>()?)
    }
}

/// Binds an address that a flag names.
pub(crate) fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    bind_beside(address, flag, || None)
}

/// The same. `other` says which process may be in the way, and what to do about it.
fn bind_beside(
    address: SocketAddr,
    flag: &str,
    other: impl Fn() -> Option<String>,
) -> anyhow::Result<TcpListener> {
    const UNKNOWN: &str = "; another process (another Fairway?) listens there: name another one";
    TcpListener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => other().unwrap_or_else(|| UNKNOWN.to_owned()),
            std::io::ErrorKind::AddrNotAvailable => "; this host has no such address".to_owned(),
            _ => String::new(),
        };
        WrongConfiguration(format!(
            "{flag} {address} can't be listened on: {error}{hint}"
        ))
        .into()
    })
}
