//! The service proxy: from Services and EndpointSlices to the maps that the kernel looks into.
//!
//! - [`desired`] compiles one service to its frontends and backend sets. Pure.
//! - [`world`] knows all services, and says which frontends differ after a change. Pure.
//! - [`model`] mirrors the maps, and plans the writes in an order that shows no reader a half state. Pure.
//! - [`sync`] carries the plan out; [`run`] follows the API and drives them.

pub mod desired;
pub mod model;
pub mod sync;
pub mod views;
pub mod world;

mod run;

pub use run::{Config, LoadBalancerAddresses, run};

#[cfg(test)]
mod tests;
