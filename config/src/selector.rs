//! Kubernetes label selectors, as kube-core has them.

pub use kube_core::{Expression, Selector, SelectorExt};
