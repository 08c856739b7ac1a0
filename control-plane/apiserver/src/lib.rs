//! The Kubernetes API: request chain, verbs, watch cache and streams.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod reader;
