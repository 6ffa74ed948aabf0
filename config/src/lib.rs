//! What users declare, parsed once into domain types.
//!
//! Everything here is a pure function of its arguments: no runtime, no clock, no Kubernetes client.
//! Past this crate there is no raw Kubernetes object: a [`service::Service`] that exists
//! has been checked.
//!
//! Reading order:
//! 1. [`net`]: protocols, families, addresses, ranges; [`names`]: what objects are called;
//! 2. [`service`], [`endpoints`], [`cluster`], [`pool`] and how it is announced ([`announce`]),
//!    [`bgp_peer`]: the objects; [`port_options`]: what annotations say of one port ([`balance`], [`health_check`],
//!    [`port_limits`]);
//!    [`class`]: which Services a controller takes;
//! 3. [`annotations`]: every annotation name that Fairway understands, in one place;
//! 4. [`document`] turns text into documents, [`field`] reads fields and collects problems,
//!    [`object`] turns one document into one object; [`validate`] checks what several of them say
//!    together and [`lint`] what nobody else has checked in files, [`crd`] is the schema of our own
//!    kinds; [`sharing`]: who may share an address;
//! 5. [`exchange`]: what passes through a store between controller and gateway; [`conditions`]: the
//!    conditions of Services and pools that Fairway writes;
//! 6. [`view`]: what people are shown; [`drained`]: which endpoints they have drained;
//! 7. [`import`]: coming from another load balancer.
//!
//! Invariants:
//! - Reading a document reports every problem in it, each with the field it is in.
//! - What is malformed (a wrong type) holds the object back; what is well-formed and wrong (an
//!   annotation that names no address) is a [`service::Notice`] on an object that otherwise works.
//! - Nothing that a document holds can panic.

pub mod annotations;
pub mod announce;
pub mod balance;
pub mod bgp_peer;
pub mod class;
pub mod cluster;
pub mod conditions;
pub mod crd;
pub mod document;
pub mod drained;
pub mod endpoints;
pub mod exchange;
pub mod field;
pub mod health_check;
pub mod import;
pub mod lint;
pub mod names;
pub mod net;
pub mod object;
pub mod pool;
pub mod port_limits;
pub mod port_options;
pub mod problem;
pub mod selector;
pub mod service;
pub mod sharing;
pub mod time;
pub mod validate;
pub mod view;
