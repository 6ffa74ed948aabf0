//! Kubeconfigs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::addresses::API_PORT;
use super::certificates::Identity;

/// How a kubeconfig's user shows who it is.
pub(super) enum Credentials<'a> {
    /// A client certificate.
    Certificate(&'a Identity),
    /// A token.
    Token(&'a str),
}

/// Writes a kubeconfig. `server` is an address of the API server.
pub(super) fn write_kubeconfig(
    path: &Path,
    authority: &Path,
    server: Ipv4Addr,
    credentials: &Credentials<'_>,
) -> Result<()> {
    let user = match credentials {
        Credentials::Certificate(identity) => json!({
            "client-certificate": identity.certificate,
            "client-key": identity.key,
        }),
        Credentials::Token(token) => json!({"token": token}),
    };
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{server}:{API_PORT}"),
            "certificate-authority": authority,
        }}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    });
    fs::write(path, serde_json::to_vec_pretty(&config)?).with_context(|| path.display().to_string())
}
