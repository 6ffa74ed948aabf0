//! Network namespaces for tests.

use fairway_namespaces::Namespaces;
pub(super) use fairway_namespaces::run;

/// Whether this is the run of that test in a network namespace of its own, with the rights of the host's own root
/// (CAP_BPF). Outside it makes that run, and waits for it.
pub(super) fn in_namespace(test: &str) -> bool {
    Namespaces::NetworkOfRoot.is_inside(test)
}
