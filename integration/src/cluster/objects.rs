//! Objects: reading and writing any, and making those that stand for servers of the lab.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::request::{self, Request};
use super::{Cluster, kinds};
use crate::wait;

/// A Pod that stands for a server. There is no kubelet: what its status says is what it is given
/// here.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What Services select.
    pub labels: &'a [(&'a str, &'a str)],
    /// Where the server is; one address, or one of each family.
    pub ips: &'a [IpAddr],
    /// The Node that it runs on.
    pub node: &'a str,
    /// Whether it is ready.
    pub ready: bool,
    /// Ports that have a name, with their protocol, for Services whose `targetPort` is a name.
    pub ports: &'a [(&'a str, &'a str, u16)],
}

impl Default for Pod<'_> {
    /// Ready, in the namespace `default`, without a name, address or node.
    fn default() -> Self {
        Self {
            namespace: "default",
            name: "",
            labels: &[],
            ips: &[],
            node: "",
            ready: true,
            ports: &[],
        }
    }
}

/// A Service of type LoadBalancer without node ports, of which there are fewer than tests make Services.
pub fn service_without_node_ports(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "selector": {"app": "web"}, "ports": [{"port": 80}],
    }})
}

impl Cluster {
    /// One request as the administrator: the method, the path from `/api` on, and what is sent. A
    /// `PATCH` is a JSON merge patch. The answer's status and body, whatever they are.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let media_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        request::send(
            &self.host,
            &Request {
                method,
                path,
                accept: "application/json",
                body: body.map(|body| (media_type, body)),
            },
        )
    }

    /// The path of an object; of all objects of the kind where `name` is empty. Kinds are called as
    /// in kubectl: `svc`, `Service`, `endpointslices.discovery.k8s.io`. `namespace` does not count
    /// where the kind has none.
    pub fn path(&self, kind: &str, namespace: &str, name: &str) -> Result<String> {
        let find = |kinds: &[kinds::ClusterKind]| {
            kinds
                .iter()
                .find(|it| it.is_called(kind))
                .map(|it| it.path(namespace, name))
        };
        let mut kinds = super::locked(&self.kinds);
        if let Some(path) = find(&kinds) {
            return Ok(path);
        }
        // It may have been defined since.
        *kinds = kinds::discover(&self.host)?;
        find(&kinds).with_context(|| format!("the API server knows no {kind}"))
    }

    /// An object, if it is there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let path = self.path(kind, namespace, name)?;
        match self.request("GET", &path, None)? {
            (200, object) => Ok(Some(object)),
            (404, _) => Ok(None),
            (status, body) => bail!("GET {path}: {status} {}", request::message(&body)),
        }
    }

    /// An object, which must be there.
    pub fn get_json(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.get(kind, namespace, name)?
            .with_context(|| format!("there is no {kind} {namespace}/{name}"))
    }

    /// All objects of a kind, of all namespaces where `namespace` is empty; `selector` is a label
    /// selector or empty.
    pub fn list(&self, kind: &str, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let mut path = self.path(kind, namespace, "")?;
        if !selector.is_empty() {
            path += &format!("?labelSelector={}", selector.replace('=', "%3D"));
        }
        match request::get(&self.host, &path, "application/json")?["items"].take() {
            Value::Array(items) => Ok(items),
            Value::Null => Ok(Vec::new()),
            _ => bail!("GET {path}: no list"),
        }
    }

    /// Creates an object from its whole document, with defaults of its own for `namespace`.
    pub fn create(&self, kind: &str, namespace: &str, object: &Value) -> Result<Value> {
        self.create_at(&self.path(kind, namespace, "")?, object)
    }

    /// Creates many objects of a kind, one after the other over one connection. The first that is
    /// refused is the error, those before and after it are made all the same.
    pub fn create_all(&self, kind: &str, namespace: &str, objects: &[Value]) -> Result<()> {
        let path = self.path(kind, namespace, "")?;
        let requests: Vec<Request<'_>> = objects
            .iter()
            .map(|object| Request {
                method: "POST",
                path: &path,
                accept: "application/json",
                body: Some(("application/json", object)),
            })
            .collect();
        for answer in request::send_all(&self.host, &requests)? {
            accepted("POST", &path, answer)?;
        }
        Ok(())
    }

    /// Changes an object by a JSON merge patch (RFC 7396). `subresource` is `status` or empty.
    pub fn patch(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        subresource: &str,
        patch: &Value,
    ) -> Result<Value> {
        let mut path = self.path(kind, namespace, name)?;
        if !subresource.is_empty() {
            path += &format!("/{subresource}");
        }
        accepted("PATCH", &path, self.request("PATCH", &path, Some(patch))?)
    }

    /// Deletes an object and does not wait until it is gone.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let path = self.path(kind, namespace, name)?;
        accepted("DELETE", &path, self.request("DELETE", &path, None)?).map(drop)
    }

    /// Waits until an object is there and `condition` holds for it.
    pub fn wait_for(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        what: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        wait::until_some(what, || {
            let object = self.get_json(kind, namespace, name)?;
            if condition(&object) {
                return Ok(object);
            }
            bail!("{object}")
        })
    }

    /// Waits until an object is gone.
    pub fn wait_gone(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        wait::until_some(&format!("{kind} {namespace}/{name} is gone"), || match self
            .get(kind, namespace, name)?
        {
            None => Ok(()),
            Some(object) => bail!("{object}"),
        })
    }

    /// A namespace in which Pods can be made.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.create_at("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
        // Admission refuses Pods before that.
        self.wait_for(
            ("ServiceAccount", name, "default"),
            "the account is made",
            |_| true,
        )
        .map(drop)
    }

    /// A ready Node with these internal addresses and labels.
    pub fn node(&self, name: &str, internal_ips: &[IpAddr], labels: &[(&str, &str)]) -> Result<()> {
        let labels: serde_json::Map<String, Value> = [("kubernetes.io/hostname", name)]
            .iter()
            .chain(labels)
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        self.create(
            "Node",
            "",
            &json!({"metadata": {"name": name, "labels": labels}}),
        )?;
        // Admission taints a new node; what takes that back is part of the node lifecycle
        // controller, which does not run here.
        self.patch(("Node", "", name), "", &json!({"spec": {"taints": null}}))?;
        let mut addresses: Vec<Value> = internal_ips
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        self.patch(
            ("Node", "", name),
            "status",
            &json!({"status": {"addresses": addresses, "conditions": [ready_condition(true)]}}),
        )
        .map(drop)
    }

    /// Says of a Node whether it is ready.
    pub fn set_node_ready(&self, name: &str, ready: bool) -> Result<()> {
        self.patch(
            ("Node", "", name),
            "status",
            &json!({"status": {"conditions": [ready_condition(ready)]}}),
        )
        .map(drop)
    }

    /// A running Pod.
    pub fn pod(&self, pod: &Pod<'_>) -> Result<()> {
        let labels: serde_json::Map<String, Value> = pod
            .labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let ports: Vec<Value> = pod
            .ports
            .iter()
            .map(|(name, protocol, port)| {
                json!({"name": name, "protocol": protocol, "containerPort": port})
            })
            .collect();
        self.create(
            "Pod",
            pod.namespace,
            &json!({
                "metadata": {"name": pod.name, "labels": labels},
                "spec": {
                    "nodeName": pod.node,
                    "automountServiceAccountToken": false,
                    // Nobody would confirm its end.
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "server", "image": "server", "ports": ports}],
                },
            }),
        )?;
        let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": ip})).collect();
        self.patch(
            ("Pod", pod.namespace, pod.name),
            "status",
            &json!({"status": {
                "phase": "Running",
                "podIP": pod.ips.first(),
                "podIPs": ips,
                "conditions": [ready_condition(pod.ready)],
            }}),
        )
        .map(drop)
    }

    /// Says of a Pod whether it is ready.
    pub fn set_pod_ready(&self, namespace: &str, name: &str, ready: bool) -> Result<()> {
        self.patch(
            ("Pod", namespace, name),
            "status",
            &json!({"status": {"conditions": [ready_condition(ready)]}}),
        )
        .map(drop)
    }

    /// Begins the end of a Pod: it stays, terminating, until it is deleted with
    /// [`delete`](Self::delete) or the clean-up takes it.
    pub fn terminate_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let path = self.path("Pod", namespace, name)?;
        let options = json!({"gracePeriodSeconds": 3600});
        accepted(
            "DELETE",
            &path,
            self.request("DELETE", &path, Some(&options))?,
        )
        .map(drop)
    }

    /// The EndpointSlices of a Service, in the order of their names.
    pub fn slices(&self, namespace: &str, service: &str) -> Result<Vec<Value>> {
        let selector = format!("kubernetes.io/service-name={service}");
        self.list("endpointslices", namespace, &selector)
    }

    /// Waits until the ready endpoints of a Service are exactly these.
    pub fn wait_for_endpoints(
        &self,
        namespace: &str,
        service: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let mut wanted: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        wanted.sort();
        let what = format!("{namespace}/{service} has the endpoints {wanted:?}");
        wait::until_some(&what, || {
            let slices = self.slices(namespace, service)?;
            let mut ready: Vec<&str> = slices
                .iter()
                .filter_map(|slice| slice["endpoints"].as_array())
                .flatten()
                .filter(|endpoint| endpoint["conditions"]["ready"] != json!(false))
                .filter_map(|endpoint| endpoint["addresses"][0].as_str())
                .collect();
            ready.sort_unstable();
            if ready == wanted {
                return Ok(());
            }
            bail!("{ready:?}")
        })
    }

    pub(super) fn create_at(&self, path: &str, object: &Value) -> Result<Value> {
        accepted("POST", path, self.request("POST", path, Some(object))?)
    }
}

fn ready_condition(ready: bool) -> Value {
    json!({
        "type": "Ready",
        "status": if ready { "True" } else { "False" },
        "reason": "Lab",
    })
}

fn accepted(method: &str, path: &str, (status, body): (u16, Value)) -> Result<Value> {
    if !(200..300).contains(&status) {
        bail!("{method} {path}: {status} {}", request::message(&body));
    }
    Ok(body)
}
