//! The Kubernetes API: request chain, verbs, watch cache and streams.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod json;
pub mod reader;
#[cfg(test)]
mod test_reader;
