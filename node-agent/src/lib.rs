//! The node agent: pods, images, volumes, probes, streams, service proxy and DNS.

pub mod dns;
pub mod network;
pub mod runtime;
