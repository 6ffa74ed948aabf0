//! `fairway import metallb`: AddressPools for what MetalLB has, and the difference in words.
//!
//! Standard output is the manifests alone, so that `kubectl apply -f -` can stand behind it;
//! everything else is on standard error.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fairway_config::crd::AddressPoolSpec;
use fairway_config::document::{decode, documents};
use fairway_config::import::{Imported, ImportedPool, metallb};
use fairway_controller::kubernetes::Connection;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};

use crate::api_server::connect;
use crate::args::{ImportArgs, ImportFrom};
use crate::outcome::WrongConfiguration;
use crate::process;

/// How many objects are asked for at a time.
const PAGE: u32 = 500;

/// How long one answer of the API server may take.
const REQUEST: Duration = Duration::from_secs(30);

/// Prints the pools and what is different; ends with 1 where there is nothing to import, or where a
/// pool could not be created.
pub(crate) fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportFrom::Metallb = args.what;
    process::runtime()?.block_on(async {
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
                 ipaddresspools,l2advertisements,bgpadvertisements,services -A -o yaml shows what \
                 is read"
            );
        }
        let manifests: Vec<String> = imported
            .pools
            .iter()
            .map(|pool| serde_saphyr::to_string(&pool.manifest()))
            .collect::<Result<_, _>>()?;
        crate::outcome::print(&manifests.join("---\n"))?;
        match client.filter(|_| args.apply) {
            Some(client) => create(&client, &imported.pools).await,
            None => {
                say("Nothing was changed: --apply creates these AddressPools.");
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

/// Creates the pools; what is there stays as it is.
async fn create(client: &Connection, pools: &[ImportedPool]) -> anyhow::Result<ExitCode> {
    let resource = resource("fairway.dev", "v1alpha1", "AddressPool", "addresspools");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut code = ExitCode::SUCCESS;
    for pool in pools {
        let name = &pool.name;
        let failed = || format!("AddressPool {name} could not be created");
        let object: DynamicObject = serde_json::from_value(pool.manifest())?;
        let parameters = PostParams::default();
        let created = api.create(&parameters, &object);
        match tokio::time::timeout(REQUEST, created)
            .await
            .with_context(failed)?
        {
            Ok(_) => say(&format!("AddressPool {name} created.")),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = tokio::time::timeout(REQUEST, api.get(name)).await;
                let there = there
                    .with_context(failed)?
                    .map_err(told)
                    .with_context(failed)?;
                if same(&there, pool) {
                    say(&format!("AddressPool {name} is there already, just so."));
                } else {
                    code = ExitCode::FAILURE;
                    say(&format!(
                        "fairway: AddressPool {name} is there already and differs: it stays as it \
                         is; kubectl diff -f - shows how"
                    ));
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                "the cluster knows no AddressPools: fairway crds | kubectl apply -f - teaches it"
            ),
            Err(error) => return Err(told(error).context(failed())),
        }
    }
    Ok(code)
}

/// Whether the pool in the cluster declares the same.
fn same(there: &DynamicObject, pool: &ImportedPool) -> bool {
    let spec = there.data.get("spec").cloned().unwrap_or_default();
    serde_json::from_value::<AddressPoolSpec>(spec).is_ok_and(|spec| spec == pool.spec)
}
