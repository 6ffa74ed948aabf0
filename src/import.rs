//! `fairway import metallb`: AddressPools and BGPPeers for what MetalLB has, and the difference in words.
//!
//! Standard output is the manifests alone, so that `kubectl apply -f -` can stand behind it;
//! everything else is on standard error.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fairway_config::crd::{AddressPoolSpec, BgpPeerSpec};
use fairway_config::document::{decode, documents};
use fairway_config::import::{Imported, metallb};
use fairway_controller::kubernetes::Connection;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api_server::connect;
use crate::args::{ImportArgs, ImportFrom};
use crate::outcome::WrongConfiguration;
use crate::start;

/// What is read, as kubectl takes it.
const READ: &str = "ipaddresspools,l2advertisements,bgpadvertisements,bgppeers.metallb.io,\
    bfdprofiles,communities,services";

/// How many objects are asked for at a time.
const PAGE: u32 = 500;

/// How long one answer of the API server may take.
const REQUEST: Duration = Duration::from_secs(30);

/// Prints the pools and peers and what is different; ends with 1 where there is nothing to import, or
/// where one could not be created.
pub(crate) fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportFrom::Metallb = args.what;
    start::runtime()?.block_on(async {
        let client = match args.from.is_empty() || args.apply {
            true => Some(connect(args.api_server).await?),
            false => None,
        };
        let input = match (&client, args.from.is_empty()) {
            (Some(client), true) => cluster(client).await?,
            _ => files(&args.from)?,
        };
        let imported = metallb(&input);
        tell(&imported);
        if imported.pools.is_empty() {
            bail!(
                "there is no IPAddressPool to import; kubectl get \
                 {READ} -A -o yaml shows what is read"
            );
        }
        let peers = imported.peers.iter().map(|peer| peer.manifest());
        let pools = imported.pools.iter().map(|pool| pool.manifest());
        let objects: Vec<Value> = peers.chain(pools).collect();
        let manifests: Vec<String> = objects
            .iter()
            .map(serde_saphyr::to_string)
            .collect::<Result<_, _>>()?;
        crate::outcome::print(&manifests.join("---\n"))?;
        match client.filter(|_| args.apply) {
            Some(client) => create(&client, objects).await,
            None => {
                say("Nothing was changed: --apply creates these objects.");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// Prints one line to standard error; that nobody reads it is no error.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn tell(imported: &Imported) {
    for line in &imported.said {
        say(line);
    }
    for warning in &imported.warnings {
        say(&format!("warning: {warning}"));
    }
}

/// Every document of the files; `-` is standard input.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in paths {
        let text = text(path)
            .with_context(|| path.display().to_string())
            .map_err(|error| WrongConfiguration(format!("{error:#}")))?;
        let documents =
            documents(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        all.extend(documents.into_iter().map(|document| document.value));
    }
    Ok(all)
}

fn text(path: &Path) -> std::io::Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        bytes
    } else {
        std::fs::read(path)?
    };
    decode(bytes).map_err(std::io::Error::other)
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The same objects from a cluster.
async fn cluster(client: &Connection) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for resource in [
        resource("metallb.io", "v1beta1", "IPAddressPool", "ipaddresspools"),
        resource(
            "metallb.io",
            "v1beta1",
            "L2Advertisement",
            "l2advertisements",
        ),
        resource(
            "metallb.io",
            "v1beta1",
            "BGPAdvertisement",
            "bgpadvertisements",
        ),
        resource("metallb.io", "v1beta2", "BGPPeer", "bgppeers"),
        resource("metallb.io", "v1beta1", "BFDProfile", "bfdprofiles"),
        resource("metallb.io", "v1beta1", "Community", "communities"),
        resource("", "v1", "Service", "services"),
    ] {
        let listed = list(client, &resource, &mut all).await;
        listed.with_context(|| format!("{} can't be listed", resource.plural))?;
    }
    Ok(all)
}

async fn list(
    client: &Connection,
    resource: &ApiResource,
    all: &mut Vec<Value>,
) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let answer = tokio::time::timeout(REQUEST, api.list(&parameters)).await?;
        let page = match answer {
            Ok(page) => page,
            // The kind is not installed, so there are no objects of it.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(told(error)),
        };
        for object in page.items {
            // The items of a list have no `kind`.
            let mut value = json!(object);
            value["apiVersion"] = json!(resource.api_version);
            value["kind"] = json!(resource.kind);
            all.push(value);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

/// The message of the API server; the rest of its answer is for programs.
fn told(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{} ({})", status.message, status.code),
        error => error.into(),
    }
}

/// Creates the objects; what is there stays as it is.
async fn create(client: &Connection, objects: Vec<Value>) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object)?;
        let (kind, plural) = match &object.types {
            Some(types) if types.kind == "BGPPeer" => ("BGPPeer", "bgppeers"),
            _ => ("AddressPool", "addresspools"),
        };
        let api: Api<DynamicObject> = Api::all_with(
            client.clone(),
            &resource("fairway.dev", "v1alpha1", kind, plural),
        );
        let name = object.metadata.name.clone().unwrap_or_default();
        let failed = || format!("{kind} {name} could not be created");
        let parameters = PostParams::default();
        let created = api.create(&parameters, &object);
        match tokio::time::timeout(REQUEST, created)
            .await
            .with_context(failed)?
        {
            Ok(_) => say(&format!("{kind} {name} created.")),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = tokio::time::timeout(REQUEST, api.get(&name)).await;
                let there = there
                    .with_context(failed)?
                    .map_err(told)
                    .with_context(failed)?;
                let is_same = match kind {
                    "BGPPeer" => same::<BgpPeerSpec>(&there, &object),
                    _ => same::<AddressPoolSpec>(&there, &object),
                };
                if is_same {
                    say(&format!("{kind} {name} is there already, just so."));
                } else {
                    code = ExitCode::FAILURE;
                    say(&format!(
                        "fairway: {kind} {name} is there already and differs: it stays as it is; \
                         kubectl diff -f - shows how"
                    ));
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!("the cluster knows no {kind}s: fairway crds | kubectl apply -f - teaches it")
            }
            Err(error) => return Err(told(error).context(failed())),
        }
    }
    Ok(code)
}

/// Whether two objects declare the same, with the defaults of their kind.
fn same<T: DeserializeOwned + PartialEq>(a: &DynamicObject, b: &DynamicObject) -> bool {
    let spec = |object: &DynamicObject| {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        serde_json::from_value::<T>(spec).ok()
    };
    spec(a).is_some() && spec(a) == spec(b)
}
