//! The programs of the control plane and how they are called.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::addresses::{API_ADDRESS, API_ADDRESS_6, API_PORT, DOOR_PORT};
use super::certificates::{Authority, Identity};
use crate::programs;

/// A program of the control plane, in the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// etcd.
    Etcd,
    /// `kubectl proxy`: the way in for [`Cluster::request`](super::Cluster::request), with the
    /// administrator's rights.
    Door,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
}

impl Component {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 4] = [
        Self::Etcd,
        Self::Door,
        Self::ApiServer,
        Self::ControllerManager,
    ];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Door => "kubectl",
        }
    }

    /// The port that it listens on when it runs.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Etcd => 2379,
            Self::ApiServer => API_PORT,
            Self::ControllerManager => 10257,
            Self::Door => DOOR_PORT,
        }
    }
}

/// Controllers whose work tests look at. Left out is what needs kubelets: without their heartbeats
/// the node lifecycle controller would declare every node dead.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
];

/// The files that the control plane runs on.
#[derive(Debug)]
pub(super) struct Files {
    /// Everything is below it.
    pub(super) folder: PathBuf,
    /// What the API server shows itself with.
    pub(super) server: Identity,
    /// kube-controller-manager's kubeconfig.
    pub(super) controller_manager: PathBuf,
    /// The administrator's kubeconfig.
    pub(super) admin: PathBuf,
}

/// The names and addresses that the API server is reached under.
pub(super) fn server_names() -> Vec<String> {
    let mut names = vec![API_ADDRESS.to_string(), API_ADDRESS_6.to_string()];
    // The Service `kubernetes` has the first address of each range.
    names.extend(
        [
            "127.0.0.1",
            "::1",
            "10.96.0.1",
            "fd00:96::1",
            "localhost",
            "kubernetes.default.svc",
        ]
        .map(str::to_owned),
    );
    names
}

/// How a component is started.
pub(super) fn command(
    component: Component,
    files: &Files,
    authority: &Authority,
) -> Result<Command> {
    let own = Ipv4Addr::LOCALHOST.into();
    let mut command = program(component.name(), &files.folder)?;
    command.args(match component {
        Component::Etcd => etcd(&files.folder, own),
        Component::ApiServer => api_server(files, authority, own, API_ADDRESS.into()),
        Component::ControllerManager => controller_manager(files, authority),
        Component::Door => vec![
            "proxy".to_owned(),
            format!("--port={DOOR_PORT}"),
            format!("--kubeconfig={}", files.admin.display()),
            // By default it keeps people from pods' shells.
            "--reject-paths=^$".to_owned(),
        ],
    });
    Ok(command)
}

/// A program of the control plane that has its files in this folder.
pub(super) fn program(name: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new(programs::tool(name)?);
    command.current_dir(folder).env("HOME", folder);
    Ok(command)
}

/// The arguments of an etcd that has clients at this address.
pub(super) fn etcd(folder: &Path, ip: IpAddr) -> Vec<String> {
    let clients = format!("http://{ip}:2379");
    vec![
        "--name=lab".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-cluster=lab=http://127.0.0.1:2380".to_owned(),
        // Nothing here has to outlive a power cut.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// The arguments of an API server over the etcd at this address, which others find at `advertised`.
pub(super) fn api_server(
    files: &Files,
    authority: &Authority,
    etcd: IpAddr,
    advertised: IpAddr,
) -> Vec<String> {
    vec![
        format!("--etcd-servers=http://{etcd}:2379"),
        format!("--advertise-address={advertised}"),
        "--bind-address=::".to_owned(),
        format!("--secure-port={API_PORT}"),
        format!("--tls-cert-file={}", files.server.certificate.display()),
        format!("--tls-private-key-file={}", files.server.key.display()),
        format!("--client-ca-file={}", authority.certificate().display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!(
            "--service-account-signing-key-file={}",
            authority.token_key().display()
        ),
        format!(
            "--service-account-key-file={}",
            authority.token_public_key().display()
        ),
        "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

fn controller_manager(files: &Files, authority: &Authority) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", files.controller_manager.display()),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--leader-elect=false".to_owned(),
        // Each controller has its own role, as kubeadm has it.
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            authority.token_key().display()
        ),
        format!("--root-ca-file={}", authority.certificate().display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={}", files.server.certificate.display()),
        format!("--tls-private-key-file={}", files.server.key.display()),
        // A cluster of thousands of Services is made in seconds here.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
        "--profiling=false".to_owned(),
    ]
}
