//! The directory store from outside: files go in, changes and files come out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod absence;
mod apart;
mod bed;
mod changes;
mod crash;
mod handover;
mod links;
mod memory;
mod mounts;
mod order;
mod reading;
mod recovery;
