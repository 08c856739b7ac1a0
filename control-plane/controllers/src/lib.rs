//! The controllers: pure planners, and the executor that carries plans out.

mod claim;
pub mod context;
pub mod deployment;
pub mod endpoints;
pub mod load_balancer;
pub mod namespace_contents;
pub mod nodeipam;
pub mod replicaset;
pub mod runtime;
pub mod views;
