//! Access to the cluster: kubeconfigs, and the programs that use them.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Cluster;
use super::addresses::API_ADDRESS;
use super::kubeconfig::{Credentials, write_kubeconfig};
use crate::clients::succeeded;
use crate::programs;

/// How long `kubectl` or `helm` may run, in seconds.
const LIMIT: &str = "120";

impl Cluster {
    /// The administrator's kubeconfig, for use on any host that is [attached](Cluster::attach).
    pub fn admin(&self) -> &Path {
        &self.files.admin
    }

    /// A kubeconfig for a user, who has what roles are bound to that name and that group.
    pub fn kubeconfig_of_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let file = file_name(&format!("user {user} {}", group.unwrap_or_default()));
        let identity = self.authority.client(&file, user, group)?;
        self.kubeconfig(&file, &Credentials::Certificate(&identity))
    }

    /// A kubeconfig for a ServiceAccount, which has to exist; valid for a day.
    pub fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.kubeconfig_of_token(namespace, name, "", Value::Null)
    }

    /// The same with a token that is bound to a Node, as that of a Pod is which runs there.
    pub fn kubeconfig_on_node(&self, namespace: &str, name: &str, node: &str) -> Result<PathBuf> {
        let object = self.get("Node", "", node)?.context("no such Node")?;
        let uid = &object["metadata"]["uid"];
        let bound = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid});
        self.kubeconfig_of_token(namespace, name, node, bound)
    }

    fn kubeconfig_of_token(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        bound: Value,
    ) -> Result<PathBuf> {
        let account = self.path("ServiceAccount", namespace, name)?;
        let answer = self.create_at(
            &format!("{account}/token"),
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                    "spec": {"expirationSeconds": 86_400, "boundObjectRef": bound}}),
        )?;
        let token = answer["status"]["token"].as_str().context("no token")?;
        let file = file_name(&format!("account {namespace} {name} {node}"));
        self.kubeconfig(&file, &Credentials::Token(token))
    }

    /// What `kubectl` prints for the administrator; its failure is one.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        succeeded(
            "kubectl",
            arguments,
            &self.kubectl_as(self.admin(), arguments, "")?,
        )
    }

    /// Runs `kubectl` on the control plane's host with that kubeconfig and that standard input.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<Output> {
        self.client("kubectl", kubeconfig, arguments, input)
    }

    /// Whether whoever has that kubeconfig may do what the words after `kubectl auth can-i` say.
    pub fn may(&self, kubeconfig: &Path, question: &str) -> Result<bool> {
        let mut arguments = vec!["auth", "can-i"];
        arguments.extend(question.split(' '));
        let output = self.kubectl_as(kubeconfig, &arguments, "")?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => bail!("{output:?}"),
        }
    }

    /// What `helm` prints for the administrator; its failure is one.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        succeeded(
            "helm",
            arguments,
            &self.client("helm", self.admin(), arguments, "")?,
        )
    }

    /// `kubectl apply` of manifests, as the administrator.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let arguments = ["apply", "-f", "-"];
        let output = self.kubectl_as(self.admin(), &arguments, manifests)?;
        succeeded("kubectl", &arguments, &output).map(drop)
    }

    fn kubeconfig(&self, file: &str, credentials: &Credentials<'_>) -> Result<PathBuf> {
        let path = self.files.folder.join(format!("{file}.kubeconfig"));
        write_kubeconfig(
            &path,
            &self.authority.certificate(),
            API_ADDRESS,
            credentials,
        )?;
        Ok(path)
    }

    fn client(
        &self,
        program: &str,
        kubeconfig: &Path,
        arguments: &[&str],
        input: &str,
    ) -> Result<Output> {
        let mut file = tempfile::tempfile()?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        let mut command = Command::new(programs::find("timeout")?);
        command
            .arg(LIMIT)
            .arg(programs::tool(program)?)
            .args(arguments)
            // The tests must not use caches and plugins of the person who runs them.
            .env("HOME", &self.files.folder)
            .env("KUBECONFIG", kubeconfig)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .current_dir(&self.files.folder)
            .stdin(Stdio::from(file));
        self.host
            .run(|| command.output())
            .with_context(|| format!("{program} can't be run"))
    }
}

/// `name` with only those characters that a file name can have.
fn file_name(name: &str) -> String {
    name.trim()
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-")
}
