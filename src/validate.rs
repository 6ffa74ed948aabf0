//! `fairway validate`: every problem at once, without running anything.
//!
//! Four checks of the same objects: each document by itself, the objects against each other, what
//! the controller would assign on an empty edge, and what a gateway would refuse to dial.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use fairway_config::annotations::DEFAULT_CLASS;
use fairway_config::conditions::{ADDRESS_ASSIGNED, NODE_PORTS_ALLOCATED};
use fairway_config::endpoints::{EndpointHost, EndpointSlice};
use fairway_config::exchange::{Batch, Change, StoredService, Write};
use fairway_config::field::{FieldProblem, nearest};
use fairway_config::object::Object;
use fairway_config::pool::Forwarding;
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_config::validate::{self, Located};
use fairway_controller::directory::{Declared, declared, declared_bytes};
use fairway_controller_core::{NodePortRange, Settings, State};
use fairway_gateway_core::guard::Guard;
use serde_json::json;

use crate::args::{ValidateArgs, ValidateOutput};
use crate::outcome::WrongConfiguration;

/// Checks the paths, prints what is wrong, ends with 1 where there is an error. Warnings alone are
/// no reason to fail.
pub(crate) fn run(args: ValidateArgs) -> anyhow::Result<ExitCode> {
    let mut all = Declared::default();
    for path in &args.paths {
        let Declared {
            objects,
            problems,
            files,
        } = read(path)
            .with_context(|| path.display().to_string())
            .map_err(|error| WrongConfiguration(format!("{error:#}")))?;
        all.objects.extend(objects);
        all.problems.extend(problems);
        all.files += files;
    }
    let range = args.node_ports.node_port_range;
    let mut problems = all.problems;
    problems.extend(validate::check(
        &all.objects,
        &(range.first()..=range.last()),
    ));
    // The check above reports contradictions between objects, with the field. The controller finds
    // the rest: a pool that is too small, a quota, selectors that select nothing.
    let told: Vec<String> = problems
        .iter()
        .filter(|problem| problem.is_error())
        .map(|problem| problem.object.clone())
        .collect();
    problems.extend(
        pending(&all.objects, range)
            .into_iter()
            .filter(|it| !told.contains(&it.object)),
    );
    problems.extend(refused(&all.objects));
    problems.extend(misspelt_classes(&all.objects));
    problems.extend(carried_by_nodes(&all.objects));
    problems.sort();
    problems.dedup();
    let counted = ObjectCounts {
        objects: all.objects.len(),
        files: all.files,
        errors: problems.iter().filter(|it| it.is_error()).count(),
        warnings: problems.iter().filter(|it| !it.is_error()).count(),
    };
    match args.output {
        Some(ValidateOutput::Json) => {
            let whole = json!({
                "objects": counted.objects,
                "files": counted.files,
                "errors": counted.errors,
                "warnings": counted.warnings,
                "problems": problems,
            });
            crate::outcome::print(&format!("{}\n", serde_json::to_string_pretty(&whole)?))?;
        }
        None => {
            for problem in &problems {
                crate::outcome::print(&format!("{problem}\n"))?;
            }
            crate::outcome::print(&format!("{counted}\n"))?;
        }
    }
    Ok(if counted.errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a path declares; `-` is the standard input.
fn read(path: &Path) -> std::io::Result<Declared> {
    if path != Path::new("-") {
        return declared(path);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(declared_bytes("standard input", bytes))
}

/// How many objects and files were read, and how many problems they have.
struct ObjectCounts {
    objects: usize,
    files: usize,
    errors: usize,
    warnings: usize,
}

impl fmt::Display for ObjectCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (objects, files) = (count(self.objects, "object"), count(self.files, "file"));
        write!(f, "{objects} in {files}: ")?;
        match (self.errors, self.warnings) {
            (0, 0) => f.write_str("no problems"),
            (errors, 0) => f.write_str(&count(errors, "error")),
            (0, warnings) => write!(f, "no errors, {}", count(warnings, "warning")),
            (errors, warnings) => {
                let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
                write!(f, "{errors}, {warnings}")
            }
        }
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 {
        format!("{n} {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// Warnings for Services with a misspelt class: no controller would take them.
fn misspelt_classes(objects: &[Located]) -> Vec<Problem> {
    let of_service = |located: &Located| {
        let Object::Service(service) = &located.object else {
            return None;
        };
        let class = service.class.as_deref()?;
        if class == DEFAULT_CLASS {
            return None;
        }
        let meant = nearest(class, [DEFAULT_CLASS])?;
        let problem = FieldProblem {
            field: "spec.loadBalancerClass".to_owned(),
            message: format!("is '{class}', which is not Fairway's; is {meant} meant?"),
        };
        Some(located.place.warning(&located.key.to_string(), problem))
    };
    objects.iter().filter_map(of_service).collect()
}

/// Warnings for pools whose traffic kube-proxy carries, and for Services that ask for one and for what only gateways
/// do.
fn carried_by_nodes(objects: &[Located]) -> Vec<Problem> {
    let is_by_nodes = |name: &str| {
        objects.iter().any(|located| match &located.object {
            Object::Pool(pool) => *pool.name == *name && pool.forwarding == Forwarding::Node,
            _ => false,
        })
    };
    let warning = |located: &Located| {
        let (field, message) = match &located.object {
            Object::Pool(pool) if pool.forwarding == Forwarding::Node => (
                "spec.forwarding",
                "is Node: kube-proxy carries the traffic, on nodes of a cluster that run gateways; fairway standalone \
                 gives out nothing of such a pool"
                    .to_owned(),
            ),
            Object::Service(service) => {
                let pool = service.asks.pool.as_ref().filter(|it| is_by_nodes(it))?;
                let features = service.gateway_features();
                let message = format!(
                    "asks for an address of the pool {pool}, whose traffic kube-proxy carries (forwarding: Node): no \
                     effect of {}",
                    features.join(", ")
                );
                (!features.is_empty()).then_some(("", message))?
            }
            _ => return None,
        };
        let field = field.to_owned();
        let problem = FieldProblem { field, message };
        Some(located.place.warning(&located.key.to_string(), problem))
    };
    objects.iter().filter_map(warning).collect()
}

/// Errors for endpoints that no gateway dials, wherever it runs. (The addresses of a host are known
/// on that host alone.)
fn refused(objects: &[Located]) -> Vec<Problem> {
    let mut guard = Guard::new(false);
    for located in objects {
        if let Object::Pool(pool) = &located.object {
            let ranges = pool.blocks.iter().map(|block| block.range).collect();
            guard.set_pool(&pool.name, Some((pool.precedence(), ranges)));
        }
    }
    let mut problems = Vec::new();
    for located in objects {
        let slices: &[Arc<EndpointSlice>] = match &located.object {
            Object::EndpointSlice(slice) => std::slice::from_ref(slice),
            Object::Endpoints(slices) => slices,
            _ => &[],
        };
        for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
            let EndpointHost::Ip(address) = &endpoint.address else {
                continue;
            };
            if let Err(refusal) = guard.check(*address) {
                let field = String::new();
                let message = format!("the endpoint {address} is never dialled: it {refusal}");
                let problem = FieldProblem { field, message };
                problems.push(located.place.problem(&located.key.to_string(), problem));
            }
        }
    }
    problems
}

/// Errors for what the controller could not assign on an edge with these objects alone. Nothing
/// where there is no pool among them: then the pools are kept elsewhere.
fn pending(objects: &[Located], node_ports: NodePortRange) -> Vec<Problem> {
    if !objects
        .iter()
        .any(|located| matches!(located.object, Object::Pool(_)))
    {
        return Vec::new();
    }
    // Whether they are for a cluster can't be seen.
    let mut state = State::new(Settings {
        nodes_forward: true,
        ..Settings::standalone(DEFAULT_CLASS.into(), node_ports)
    });
    let mut places = BTreeMap::new();
    let mut changes = Vec::new();
    for located in objects {
        match &located.object {
            Object::Service(service) => {
                // The first of two with one name counts; the other has been reported.
                if places.insert(service.name.clone(), located).is_none() {
                    let stored = StoredService::new(Arc::clone(service));
                    changes.push(Change::Service(
                        service.name.clone(),
                        Some(Arc::new(stored)),
                    ));
                }
            }
            Object::Pool(pool) => {
                changes.push(Change::Pool(pool.name.clone(), Some(Arc::clone(pool))));
            }
            Object::Namespace(it) => {
                changes.push(Change::Namespace(it.name.clone(), Some(Arc::clone(it))));
            }
            Object::Node(it) => changes.push(Change::Node(it.name.clone(), Some(Arc::clone(it)))),
            Object::EndpointSlice(_)
            | Object::Endpoints(_)
            | Object::Secret(_)
            | Object::BgpPeer(_)
            | Object::Other { .. } => {}
        }
    }
    state.apply(&Batch::synced(changes));
    let mut problems = Vec::new();
    for write in state.settle(Timestamp::default()) {
        let Write::Service { name, status, .. } = write else {
            continue;
        };
        let Some(located) = places.get(&name) else {
            continue;
        };
        for (kind, condition) in status.conditions.iter() {
            if [ADDRESS_ASSIGNED, NODE_PORTS_ALLOCATED].contains(&&**kind) && !condition.status {
                problems.push(located.place.problem(
                    &located.key.to_string(),
                    FieldProblem {
                        field: String::new(),
                        message: condition.message.trim_end_matches('.').to_owned(),
                    },
                ));
            }
        }
    }
    problems
}
