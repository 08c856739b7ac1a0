//! The service proxy: from Services and EndpointSlices to the maps that the kernel looks into.
//!
//! - [`views`] is what is kept of the objects.
//! - [`desired`] compiles one service to its frontends and backend sets, by [`topology`] and [`maglev`]. Pure.
//! - [`world`] knows all services, and says which frontends differ after a change. Pure.
//! - [`model`] mirrors the maps, and plans the writes in an order that shows no reader a half state. Pure.
//! - [`sync`] carries the plan out; [`run`](run()) follows the API and drives them.
//! - [`sockets`] ends datagram sockets whose endpoint is gone; [`health`] answers load balancers' health checks.

pub mod desired;
pub mod health;
pub mod maglev;
pub mod model;
mod namespace;
pub mod sockets;
pub mod sync;
pub mod topology;
pub mod views;
pub mod world;

mod run;

pub use run::{Config, LoadBalancerAddresses, NameQuestion, Outputs, run};

#[cfg(test)]
mod tests;
