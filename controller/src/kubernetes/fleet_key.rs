//! Makes the key of the fleet, where a pool announces on layer 2 and there is none.
//!
//! The install has an empty Secret, which the controller that leads fills once. So neither may make Secrets or read
//! others: a role names this one. A key that is there is never replaced, for gateways that have two keys do not hear
//! each other and would own everything twice.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_config::exchange::FleetKey;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::fleet_watch::{KEY, SECRET, read};
use super::settings::REQUEST;
use super::store_context::StoreContext;
use crate::feed::lock;

/// How often it is looked whether a key is wanted and there is none.
const LOOK: Duration = Duration::from_secs(5);

/// Makes the key when it is needed. Ends when it is there.
pub(super) async fn keep(shared: &StoreContext) {
    let secrets: Api<Secret> = Api::namespaced(shared.client.clone(), &shared.settings.namespace);
    let mut fault: Option<String> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let is_wanted = lock(&shared.cache).announces_on_layer2();
        if !is_wanted || !shared.settings.leadership.holds() {
            continue;
        }
        match tokio::time::timeout(REQUEST, make(&secrets)).await {
            Ok(Ok(())) => return,
            failed => {
                let error = match failed {
                    Ok(Err(error)) => error,
                    _ => "the API server did not answer in time".to_owned(),
                };
                if fault.as_ref() != Some(&error) {
                    metrics::counter!("fairway_store_errors_total", "operation" => "write")
                        .increment(1);
                    tracing::warn!(
                        secret = SECRET,
                        error,
                        "the gateways get no key, so they announce nothing on layer 2"
                    );
                    fault = Some(error);
                }
            }
        }
    }
}

/// Makes the key, if there is none.
async fn make(secrets: &Api<Secret>) -> Result<(), String> {
    let secret = secrets.get_opt(SECRET).await;
    let secret = secret.map_err(|error| error.to_string())?;
    let Some(secret) = secret else {
        return Err(format!(
            "there is no Secret {SECRET}: it is among the manifests of this version"
        ));
    };
    match read(&secret) {
        Ok(None) => {}
        Ok(Some(_)) => {
            tracing::debug!(secret = SECRET, "the gateways have a key");
            return Ok(());
        }
        Err(length) => {
            return Err(format!(
                "it has a key of {length} bytes, and is to have {}; remove the key, and another one is made",
                FleetKey::LENGTH
            ));
        }
    }
    let key = random().map_err(|error| error.to_string())?;
    // Of this version alone: a key that another process has put in stays.
    let patch = json!({
        "metadata": {"resourceVersion": secret.resource_version()},
        "data": {KEY: STANDARD.encode(key)},
    });
    let parameters = PatchParams::default();
    match secrets
        .patch(SECRET, &parameters, &Patch::Merge(patch))
        .await
    {
        Ok(_) => {
            tracing::info!(secret = SECRET, "a key for the gateways is made");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Bytes that nobody can guess; see random(4).
fn random() -> io::Result<[u8; FleetKey::LENGTH]> {
    let mut bytes = [0; FleetKey::LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_another_one() {
        let keys = [random().unwrap(), random().unwrap()];
        assert_ne!(keys[0], keys[1]);
        assert!(keys.iter().all(|key| *key != [0; FleetKey::LENGTH]));
    }
}
