//! The node agent: pods, images, volumes, probes, streams, service proxy and DNS.

pub mod agent;
pub mod api;
pub mod check;
pub mod devices;
pub mod disk;
pub mod dns;
pub mod drain;
pub mod events;
pub mod eviction;
pub mod images;
pub mod logger;
pub mod network;
mod news;
pub mod node;
pub mod pause;
pub mod pods;
pub mod policy;
pub mod probes;
pub mod proxy;
pub mod runtime;
pub mod server;
pub mod sight;
pub mod stats;
pub mod streams;
pub mod volumes;

pub use agent::{AgentConfig, AgentError, AgentTls, run};
