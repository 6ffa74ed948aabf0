//! The API server that the flags name.

use fairway_controller::kubernetes::{self, Connection};

use crate::args::ApiServerArgs;
use crate::outcome::WrongConfiguration;

/// A client of the API server that the flags name.
///
/// # Errors
/// Where no API server is known, or its kubeconfig can't be read.
pub(crate) async fn connect(args: ApiServerArgs) -> anyhow::Result<Connection> {
    kubernetes::connect(args.kubeconfig, args.context)
        .await
        .map_err(|error| WrongConfiguration(error.to_string()).into())
}
