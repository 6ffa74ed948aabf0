//! Routers that gateways announce addresses to: real ones, and one that misbehaves; [`routed`]: gateways behind one.

mod bird;
mod frr;
mod rough;
pub mod routed;

pub use bird::Bird;
pub use frr::Frr;
pub use rough::{RoughRouter, Roughness};
