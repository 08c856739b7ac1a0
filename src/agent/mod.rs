//! `xebec agent`: a node of a cluster.

pub mod config;
pub mod discovery;
pub mod identity;
