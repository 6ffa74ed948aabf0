//! Routers that gateways announce addresses to: real ones, and one that misbehaves.

mod bird;
mod frr;
mod rough;

pub use bird::Bird;
pub use frr::Frr;
pub use rough::{RoughRouter, Roughness};
