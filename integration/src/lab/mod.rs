//! Hosts, wires and programs.
//!
//! A host is a network namespace that no file stands for: it is held by the thread that made it and
//! by open descriptors, so the kernel takes it away with its interfaces whatever becomes of the test.

mod enter;
mod host;
mod packet_socket;
mod process;
mod sys;

pub use enter::enter;
pub use host::{Host, Served, wire};
pub use packet_socket::PacketSocket;
pub use process::{Process, note, take_journal};
