//! What a tenant may write into a Service who means harm, or can't type.
//!
//! All of it follows from a seed, so that a failure can be had again.

use fairway_config::annotations::{FAIRWAY, dialects};
use serde_json::{Map, Value, json};

/// Annotation names of the dialects that Fairway understands.
const DIALECTS: &[&str] = &[
    dialects::METALLB_ADDRESSES,
    dialects::METALLB_OLD_ADDRESSES,
    dialects::METALLB_POOL,
    dialects::METALLB_OLD_POOL,
    dialects::METALLB_SHARING_KEY,
    dialects::METALLB_OLD_SHARING_KEY,
    dialects::CILIUM_ADDRESSES,
    dialects::CILIUM_OLD_ADDRESSES,
    dialects::CILIUM_SHARING_KEY,
    dialects::CILIUM_OLD_SHARING_KEY,
    dialects::CILIUM_SHARING_NAMESPACES,
    dialects::CILIUM_OLD_SHARING_NAMESPACES,
    dialects::CILIUM_SHARING_PODS,
    dialects::CILIUM_SOURCE_RANGES_POLICY,
    dialects::KUBE_VIP_ADDRESSES,
    dialects::KUBE_VIP_IGNORE,
    dialects::KUBE_VIP_HOSTNAME,
    dialects::SOURCE_RANGES,
];

/// Values that have nothing to do with what there is.
const VALUES: &[&str] = &[
    "",
    " ",
    ",",
    ",,,,",
    "\u{0}",
    "\u{202e}1.311.302",
    "🛣️",
    "١٢٣",
    "-1",
    "+5",
    "1e999",
    "NaN",
    "18446744073709551616",
    "true",
    "false",
    "*",
    ".*",
    "null",
    "{}",
    "{\"a\":",
    "[]",
    "../../etc/passwd",
    "$(reboot)",
    "%s%n",
    "a\nb: c\n---\nkind: Node",
    "endpoints",
    "node-ports",
    "transparent",
    "v1",
    "deny",
    "0s",
    "1000000h",
    "localhost",
    "-.example..com",
    "xn--.example.com",
    "0.0.0.0",
    "::",
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0/0,::/0",
    "255.255.255.255",
    "127.0.0.1",
    "::1",
    "224.0.0.1",
    "ff02::1",
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "0xcb007101",
    "3405803777",
    "203.0.113",
    "203.0.113.1:80",
    "[2001:db8::1]:80",
    "203.0.113.0/33",
    "203.0.113.9-203.0.113.1",
];

/// Random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0…`n`-1; 0 where there is none.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        usize::try_from(self.next() % n.max(1)).unwrap_or_default()
    }

    /// True in one of `n` cases.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> Option<&'a T> {
        all.get(self.below(all.len())).copied()
    }
}

/// What there is to be had from others: addresses, sharing keys, names.
#[derive(Clone, Debug)]
pub struct Aims<'a> {
    /// Addresses that others hold or that nobody should.
    pub addresses: &'a [&'a str],
    /// Whatever else others use: sharing keys, pools, namespaces.
    pub words: &'a [&'a str],
}

/// The spec and metadata of a Service called `name`, as an API server takes it.
pub fn service(random: &mut Random, name: &str, aims: &Aims<'_>) -> Value {
    let own: Vec<&str> = FAIRWAY.iter().map(|(name, _)| *name).collect();
    let mut annotations = Map::new();
    for _ in 0..random.below(6) {
        let names = if random.one_in(2) { &own[..] } else { DIALECTS };
        let key = random.pick(names).unwrap_or("fairway.dev/unknown");
        annotations.insert(key.to_owned(), value(random, aims).into());
    }
    // Most wishes mean something only beside a sharing key.
    if random.one_in(2) {
        for (names, value) in [
            (
                &[
                    "fairway.dev/sharing-key",
                    dialects::METALLB_SHARING_KEY,
                    dialects::CILIUM_SHARING_KEY,
                ][..],
                random.pick(aims.words).unwrap_or("k").to_owned(),
            ),
            (
                &[
                    "fairway.dev/sharing-namespaces",
                    dialects::CILIUM_SHARING_NAMESPACES,
                ],
                "*".to_owned(),
            ),
            (
                &[
                    "fairway.dev/addresses",
                    dialects::METALLB_ADDRESSES,
                    dialects::CILIUM_ADDRESSES,
                    dialects::KUBE_VIP_ADDRESSES,
                ],
                addresses(random, aims),
            ),
        ] {
            let key = random.pick(names).unwrap_or_default();
            annotations.insert(key.to_owned(), value.into());
        }
    }
    let mut ports = Map::new();
    for _ in 0..=random.below(3) {
        let protocol = ["TCP", "UDP", "SCTP"][random.below(3)];
        let port = [80, 81, 443, 30_080, 65_535][random.below(5)];
        let port_name = format!("{}-{port}", protocol.to_lowercase());
        let port = json!({"name": port_name, "port": port, "protocol": protocol});
        ports.insert(port_name, port);
    }
    let ports: Vec<Value> = ports.into_iter().map(|(_, port)| port).collect();
    let mut spec = json!({
        "type": "LoadBalancer",
        "allocateLoadBalancerNodePorts": random.one_in(8),
        "selector": {"app": name},
        "ports": ports,
    });
    if random.one_in(4) {
        spec["loadBalancerIP"] = value(random, aims).into();
    }
    if random.one_in(8) {
        spec["externalTrafficPolicy"] = "Local".into();
    }
    if random.one_in(8) {
        spec["loadBalancerClass"] = "fairway.dev/gateway".into();
    }
    if random.one_in(8) {
        spec["sessionAffinity"] = "ClientIP".into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": annotations},
        "spec": spec,
    })
}

fn value(random: &mut Random, aims: &Aims<'_>) -> String {
    match random.below(8) {
        0..3 => addresses(random, aims),
        3 => random.pick(aims.words).unwrap_or_default().to_owned(),
        // An object's annotations may have 256 KiB.
        4 if random.one_in(4) => {
            let part = random.pick(aims.addresses).unwrap_or("a");
            format!("{part},").repeat(1 + random.below(2000))
        }
        5 if random.one_in(4) => "é".repeat(random.below(10_000)),
        _ => random.pick(VALUES).unwrap_or_default().to_owned(),
    }
}

/// Somebody's address, or several, in one of the ways that one can be written.
fn addresses(random: &mut Random, aims: &Aims<'_>) -> String {
    let mut all = Vec::new();
    for _ in 0..=random.below(3) {
        let address = random.pick(aims.addresses).unwrap_or("203.0.113.1");
        all.push(match random.below(8) {
            0 => format!("{address}/32"),
            1 => format!("{address}-{address}"),
            2 => format!("::ffff:{address}"),
            3 => format!(" {address} "),
            _ => address.to_owned(),
        });
    }
    all.join(",")
}
