//! The node agent: pods, images, volumes, probes, streams, service proxy and DNS.

pub mod network;
pub mod runtime;
