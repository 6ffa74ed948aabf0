//! The shell of the gateway: from stored objects to bytes on an endpoint.
//!
//! Reading order:
//! 1. [`gateway`]: the handle that the rest of the program holds; [`settings`]; [`reports`];
//! 2. `control`: the control task, which alone decides: objects in, routes built, listeners programmed, reports
//!    out. It is fed by `host` (the addresses of this host), `dns` (names as endpoints) and `dials` (unreachable
//!    endpoints); it fills `published`, from which `endpoint_rows` and others show;
//! 3. [`announcing`]: what may be announced, as the control task says; [`fleet`]: on layer 2, together with other
//!    gateways, on a thread of its own, with `network` (interfaces and subnets); [`layer2`]: answers ARP and
//!    Neighbor Discovery for addresses that this gateway owns; `passing`: connections that another gateway has of
//!    them; `bgp`: tells routers, on a thread, too; [`kernel_routes`]: makes routes for a routing daemon on the same
//!    host; `stalls`: whether this gateway can serve at all;
//! 4. `programmer`: opens and closes listeners, with `socket` (binding), `local` (routes that make a VIP local)
//!    and `steering` (the kernel hands connections over; `bpf`, its programs, which `passing` has, too); `slot`: a
//!    listen address and what it serves; `binding`: its sockets; `change_log`: one log line for many changes;
//! 5. `worker`: the two threads of a worker, one for `engine`, one for `tasks`; `task_context`: what the tasks of
//!    one worker share; `shared`: what all workers share; `heartbeat`: shows that a runtime is not stuck;
//! 6. `engine`: TCP connections from the accept until the client has the last byte, and UDP flows, with
//!    `delivery` (of the last bytes), `pipes` (for splice), `descriptors` and `flow_pool` (the budgets of file
//!    descriptors and of UDP flows), [`icmp`] (port unreachable for UDP clients) and `hops` (against forwarding
//!    loops); `health`: `healthCheckNodePort`;
//! 7. [`port`]: what TCP, UDP and HTTP share of a port; [`routed`]: its route, with the endpoints that get traffic
//!    now; [`endpoint_state`]: what it knows of one endpoint; `port_clients`: how much of it each client has;
//!    `open_connection`: counts a client's connection of it;
//!    `client_origin`: whose connection it is; [`counters`]: what its metrics are made of; `connecting` and
//!    `source_address`: how endpoints are dialled; `checks`: asks endpoints whether they work, on a thread of its own;
//! 8. [`http`]: ports that are balanced by request, as far as they speak h2, on pingora; HTTP/1 is the engine's
//!    (`engine/http`); `connection_use`: which kept connections to endpoints a request may use;
//! 9. [`admin`], [`metrics`]: what people and scrapers see.
//!
//! Invariants:
//! - A failure is the state of one listener, which is tried again until it works. It never ends the process.
//! - A connection takes no lock that another worker holds for long: the route is replaced as a whole, never
//!   edited.
//! - A change of one Service concerns its own listeners alone. A listen address that passes from one Service to
//!   another keeps its sockets.
//! - Memory is bounded by what is open: an idle connection holds no buffer, a slow reader holds one.
//! - Only routes with Fairway's own protocol number are ever removed, and a route stays until the clients of its
//!   address have all bytes, or the time to drain is over.

pub mod address_changes;
pub mod admin;
pub mod announcing;
mod balancing;
mod bgp;
mod binding;
mod bpf;
mod change_log;
mod checks;
mod client_origin;
pub mod clock;
mod connecting;
mod connection_use;
mod control;
pub mod counters;
mod delivery;
mod descriptors;
mod dial_changes;
mod dials;
mod dns;
mod endpoint_rows;
pub mod endpoint_state;
mod engine;
pub mod fleet;
mod flow_pool;
pub mod gateway;
mod handed;
mod health;
mod heartbeat;
mod hops;
mod host;
pub mod http;
pub mod icmp;
mod inherited;
mod kernel_blocks;
pub mod kernel_routes;
pub mod layer2;
mod limits_shown;
pub mod local;
pub mod metrics;
mod netfilter;
mod network;
mod node_proxy;
mod open_connection;
mod own_http;
mod passing;
mod pinning;
mod pipes;
pub mod port;
mod port_clients;
mod programmer;
mod published;
mod receive_meter;
mod refusal_log;
mod refusal_words;
pub mod reports;
pub mod routed;
mod seal;
pub mod settings;
mod shared;
mod slot;
mod socket;
mod socket_token;
mod source_address;
mod stalls;
mod steering;
pub mod take_over;
mod task_context;
mod tasks;
pub mod transparent;
mod urgency;
mod worker;

pub use crate::gateway::Gateway;
pub use crate::settings::GatewaySettings;
