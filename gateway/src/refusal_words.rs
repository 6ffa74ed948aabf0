//! Why clients were refused, in words.

use std::num::NonZeroU32;

use fairway_gateway_core::route::RoutePort;

use crate::counters::Rejection;

/// What was in the way, as the end of a sentence: `over connections-per-client 20`.
pub(crate) fn in_words(why: Rejection, route: &RoutePort) -> String {
    let limits = &route.limits;
    let number = |limit: Option<NonZeroU32>| limit.map_or_else(String::new, |it| format!(" {it}"));
    match why {
        Rejection::ConnectionsPerClient => {
            format!("over connections-per-client{}", number(limits.per_client))
        }
        Rejection::ConnectionRate => {
            let rate = limits.rate.map_or_else(String::new, |it| format!(" {it}"));
            format!("over new-connections-per-second{rate}")
        }
        Rejection::FlowsPerClient => {
            format!("over udp-flows-per-client{}", number(limits.per_client))
        }
        Rejection::SourceRange => "not in loadBalancerSourceRanges".to_owned(),
        Rejection::DenyRange => "in deny-source-ranges".to_owned(),
        Rejection::NoEndpoint => "there was no endpoint".to_owned(),
        Rejection::Loop => "they came from a node that this port forwards to".to_owned(),
        Rejection::Limit => "no file descriptor or no UDP flow was left".to_owned(),
        Rejection::ProxyProtocol => "no PROXY protocol header that counts".to_owned(),
        Rejection::Unreadable => {
            "what the Service says of limits and of whom to keep out can't be read".to_owned()
        }
    }
}
