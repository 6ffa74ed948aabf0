//! Watches for a gateway the Secrets that BGPPeers name as `passwordSecret`.
//!
//! RBAC knows Secrets by their names alone, so an install says which ones gateways may read (the chart's
//! `gateway.passwordSecrets`), in Fairway's own namespace, and each is watched by itself.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use fairway_config::bgp_peer::{MAX_PASSWORD, PasswordProblem, PeerPassword};
use fairway_config::exchange::Change;
use fairway_config::names::NamespacedName;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use tokio::task::{AbortHandle, JoinSet};

use super::settings::WATCH_SECONDS;
use super::store_context::StoreContext;
use crate::feed::lock;

/// The type of such a Secret, and where in it the password is.
const TYPE: &str = "kubernetes.io/basic-auth";
const KEY: &str = "password";

/// Watches them, for ever.
pub(super) async fn watch(shared: Arc<StoreContext>) {
    let mut watches = JoinSet::new();
    let mut watched: BTreeMap<NamespacedName, AbortHandle> = BTreeMap::new();
    loop {
        let wanted = lock(&shared.cache).password_secrets();
        watched.retain(|name, watch| {
            let is_wanted = wanted.contains(name);
            if !is_wanted {
                watch.abort();
                shared.publish(vec![Change::PeerPassword(name.clone(), None)]);
            }
            is_wanted
        });
        for name in wanted {
            let followed = name.clone();
            let watch = || watches.spawn(follow(Arc::clone(&shared), followed));
            watched.entry(name).or_insert_with(watch);
        }
        shared.bgp_peers_changed.notified().await;
        while watches.try_join_next().is_some() {}
    }
}

/// Watches one, for ever.
async fn follow(shared: Arc<StoreContext>, name: NamespacedName) {
    let mut told = None;
    let mut tell = |said: Result<PeerPassword, PasswordProblem>| {
        if told.as_ref() != Some(&said) {
            if let Err(PasswordProblem { why, .. }) = &said {
                tracing::warn!(secret = %name, %why, "the password of a BGPPeer can't be had");
            }
            shared.publish(vec![Change::PeerPassword(name.clone(), Some(said.clone()))]);
            told = Some(said);
        }
    };
    let namespace = &*shared.settings.namespace;
    if &*name.namespace != namespace {
        tell(Err(wrong(format!(
            "names a Secret of another namespace than Fairway's own, {namespace}: gateways read those alone"
        ))));
        return std::future::pending().await;
    }
    let secrets: Api<Secret> = Api::namespaced(shared.client.clone(), namespace);
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        field_selector: Some(format!("metadata.name={}", name.name)),
        ..Config::default()
    };
    let mut events = pin!(watcher(secrets, config).default_backoff());
    let (mut is_there, mut was_listed) = (false, false);
    let absent = || {
        Err(wrong(format!(
            "names the Secret {}, which is not there",
            name.name
        )))
    };
    while let Some(event) = events.next().await {
        match event {
            // What is known stays so while the API server is away.
            Err(_) if was_listed => {}
            Err(error) => {
                let why = format!(
                    "names the Secret {}, which can't be read (may gateways read it? \
                     gateway.passwordSecrets of the chart): {error}",
                    name.name
                );
                tell(Err(PasswordProblem {
                    why: why.into(),
                    is_read: false,
                }));
            }
            Ok(Event::Init) => is_there = false,
            Ok(Event::InitApply(secret) | Event::Apply(secret)) => {
                is_there = true;
                tell(read(&secret).map_err(wrong));
            }
            Ok(Event::InitDone) => {
                was_listed = true;
                if !is_there {
                    tell(absent());
                }
            }
            Ok(Event::Delete(_)) => tell(absent()),
        }
    }
}

/// A Secret is not as it has to be.
fn wrong(why: String) -> PasswordProblem {
    PasswordProblem {
        why: why.into(),
        is_read: true,
    }
}

/// The password in a Secret. The error is what is to be said of the field that names it.
fn read(secret: &Secret) -> Result<PeerPassword, String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let of_type = secret.type_.as_deref().unwrap_or("Opaque");
    if of_type != TYPE {
        return Err(format!(
            "names the Secret {name}, which is of type {of_type} and not {TYPE}"
        ));
    }
    let bytes = secret.data.as_ref().and_then(|data| data.get(KEY));
    let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    match text {
        Some(text) if (1..=MAX_PASSWORD).contains(&text.len()) => Ok(PeerPassword::new(text)),
        _ => Err(format!(
            "names the Secret {name}, whose key {KEY} is no text of 1 to {MAX_PASSWORD} bytes"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_a_text_that_the_kernel_takes_as_key() {
        let read_as = |of_type: &str, key: &str, text: &[u8]| {
            let document = serde_json::json!({
                "metadata": {"name": "tor"},
                "type": of_type,
                "data": {key: k8s_openapi::ByteString(text.to_vec())},
            });
            read(&serde_json::from_value(document).unwrap())
        };
        assert_eq!(&**read_as(TYPE, KEY, b"hush").as_ref().unwrap(), "hush");
        assert!(read_as(TYPE, KEY, &[b'x'; MAX_PASSWORD]).is_ok());
        for (of_type, key, text) in [
            ("Opaque", KEY, &b"hush"[..]),
            (TYPE, "username", b"hush"),
            (TYPE, KEY, b""),
            (TYPE, KEY, &[b'x'; MAX_PASSWORD + 1]),
            (TYPE, KEY, b"\xff"),
        ] {
            let why = read_as(of_type, key, text).unwrap_err();
            assert!(why.starts_with("names the Secret tor"), "{why}");
            assert!(!why.contains("hush"), "{why}");
        }
    }
}
