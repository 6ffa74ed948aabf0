//! The rights that a leader needs (RBAC), and whether this process has them.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

/// Verb, API group, resource and subresource of what a leader does in the whole cluster.
const OF_A_LEADER: &[(&str, &str, &str, &str)] = &[
    ("list", "", "services", ""),
    ("watch", "", "services", ""),
    ("patch", "", "services", ""),
    ("patch", "", "services", "status"),
    ("list", "", "namespaces", ""),
    ("watch", "", "namespaces", ""),
    ("list", "", "nodes", ""),
    ("watch", "", "nodes", ""),
    ("list", "fairway.dev", "addresspools", ""),
    ("watch", "fairway.dev", "addresspools", ""),
    ("patch", "fairway.dev", "addresspools", "status"),
    ("list", "fairway.dev", "bgppeers", ""),
    ("watch", "fairway.dev", "bgppeers", ""),
    ("patch", "fairway.dev", "bgppeers", "status"),
];

/// The same in Fairway's own namespace.
const IN_ITS_NAMESPACE: &[(&str, &str, &str, &str)] = &[
    ("create", "coordination.k8s.io", "leases", ""),
    ("update", "coordination.k8s.io", "leases", ""),
    ("list", "coordination.k8s.io", "leases", ""),
    ("watch", "coordination.k8s.io", "leases", ""),
];

/// The question whether this process may do that.
pub(super) fn review(attributes: ResourceAttributes) -> SelfSubjectAccessReview {
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// What keeps this process from leading, in words; nothing where it is allowed everything.
///
/// # Errors Where the API server does not answer.
pub(super) async fn missing(client: Client, namespace: &str) -> kube::Result<Option<String>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    let everywhere = OF_A_LEADER.iter().map(|it| (it, None));
    let here = IN_ITS_NAMESPACE.iter().map(|it| (it, Some(namespace)));
    for ((verb, group, resource, subresource), namespace) in everywhere.chain(here) {
        let text = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
        let question = review(ResourceAttributes {
            verb: text(verb),
            group: text(group),
            resource: text(resource),
            subresource: text(subresource),
            namespace: namespace.map(str::to_owned),
            ..ResourceAttributes::default()
        });
        let answer = reviews.create(&PostParams::default(), &question).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            let what = match *subresource {
                "" => (*resource).to_owned(),
                subresource => format!("{resource}/{subresource}"),
            };
            return Ok(Some(format!("RBAC does not allow it to {verb} {what}")));
        }
    }
    Ok(None)
}
