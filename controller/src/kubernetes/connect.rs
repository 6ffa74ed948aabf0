//! Makes a client for the API server.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// What requests say of who sends them. An API server writes the word before the slash into `managedFields`.
const PROGRAM: &str = concat!("fairway/", env!("CARGO_PKG_VERSION"));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file that was named can't be used.
    #[error("the kubeconfig {path} can't be used: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No file was named, and neither KUBECONFIG nor a service account is there.
    #[error(
        "no API server is known: name a kubeconfig with --kubeconfig or KUBECONFIG, or run in a Pod \
         with a service account ({source})"
    )]
    Unknown {
        /// Why neither could be used.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kubeconfig or the service account can't be used.
    #[error("the client can't be set up: {source}")]
    Client {
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client for the API server that `kubeconfig` names, else KUBECONFIG, else the service account
/// of the Pod. Does not connect yet.
///
/// # Errors
/// Where none of them is there or can be read. An API server that does not answer is no error here.
pub async fn connect(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<Client, ConnectError> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ConnectError::File {
                path: path.clone(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(&path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(failed)?
        }
        None if options.context.is_some() => {
            Config::from_kubeconfig(&options)
                .await
                .map_err(|source| ConnectError::Unknown {
                    source: source.into(),
                })?
        }
        None => Config::infer()
            .await
            .map_err(|source| ConnectError::Unknown {
                source: source.into(),
            })?,
    };
    config.connect_timeout = Some(CONNECT);
    let program = HeaderValue::from_static(PROGRAM);
    config.headers.push((USER_AGENT, program));
    // The caller retries what is refused for now (429, 503), with what it knows by then.
    config.default_retry = false;
    Client::try_from(config).map_err(|source| ConnectError::Client {
        source: Box::new(source),
    })
}
