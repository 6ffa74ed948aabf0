//! How the connections of a port are spread, in a sentence of `explain`.

use fairway_config::balance::Balance;
use fairway_gateway_core::route::RoutePort;

/// The sentence; none where the Service says nothing of it.
pub(crate) fn sentence(route: &RoutePort) -> Option<String> {
    let Balance {
        algorithm,
        slow_start,
    } = route.options.balance?;
    let (key, algorithm) = (route.key, algorithm.as_str());
    if route.affinity.is_some() {
        return Some(format!(
            "On port {key} clients keep their endpoints (sessionAffinity: ClientIP), which goes before {algorithm}."
        ));
    }
    let slow_start = slow_start.map_or_else(String::new, |time| {
        format!("; one that comes back has its full share after {time:?}")
    });
    Some(format!(
        "Endpoints of port {key} are chosen by {algorithm}{slow_start}."
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use fairway_config::balance::BalanceAlgorithm;
    use fairway_config::names::ServiceName;
    use fairway_config::net::Protocol;
    use fairway_config::service::PortKey;
    use fairway_gateway_core::route::EndpointSet;

    use super::*;

    #[test]
    fn it_names_the_algorithm_and_what_goes_before_it() {
        let key = PortKey {
            protocol: Protocol::Tcp,
            port: 443,
        };
        let service = ServiceName::new("web", "shop");
        let mut route = RoutePort::new(service, key, EndpointSet::default());
        assert_eq!(sentence(&route), None);
        route.options.balance = Some(Balance {
            algorithm: BalanceAlgorithm::LeastConnections,
            slow_start: Some(Duration::from_secs(30)),
        });
        assert_eq!(
            sentence(&route).unwrap(),
            "Endpoints of port 443/TCP are chosen by least-connections; one that comes back has its full share after 30s."
        );
        route.affinity = Some(Duration::from_secs(10));
        assert_eq!(
            sentence(&route).unwrap(),
            "On port 443/TCP clients keep their endpoints (sessionAffinity: ClientIP), which goes before least-connections."
        );
    }
}
