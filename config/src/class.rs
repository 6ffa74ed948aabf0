//! Which LoadBalancer Services a controller takes, by their `spec.loadBalancerClass`.

use std::sync::Arc;

use crate::service::{Service, ServiceType};

/// Which Services of type LoadBalancer a controller takes.
///
/// In a cluster the controller's name among the others is its namespace with this class.
#[derive(Clone, Debug)]
pub struct ClassFilter {
    /// The `spec.loadBalancerClass` of the Services that it takes.
    pub name: Arc<str>,
    /// Whether it takes Services without a class, too.
    pub is_default: bool,
}

impl ClassFilter {
    /// Whether the controller takes this Service. A Service that is being deleted, or that another
    /// controller has taken already, is no exception here.
    pub fn takes(&self, service: &Service) -> bool {
        let has_class = match &service.class {
            Some(class) => *class == self.name,
            None => self.is_default,
        };
        service.kind == ServiceType::LoadBalancer && has_class && !service.asks.ignore
    }
}
