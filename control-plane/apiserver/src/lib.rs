//! The Kubernetes API: request chain, verbs, watch cache and streams.
//!
//! The path of a request is [`chain`], top to bottom. What is stored is all in memory ([`cache`]), in the form in which
//! it is served; reads come from there, writes go to the store and are seen there before they are answered.
//!
//! Nothing here knows a kind: kinds are rows of `xebec_schema::registry`, verbs are files of [`verbs`], what is served
//! below an object is in [`subresource`], and what decides about requests is plugged in ([`extension`]).

pub mod admission;
pub mod aggregation;
pub mod allocate;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
pub mod chain;
mod compaction;
mod component_status;
pub mod computed;
pub mod config_file;
mod conversion;
mod definitions;
pub mod discovery;
mod event_ttl;
pub mod extension;
pub mod fairness;
mod health;
mod json;
pub mod members;
pub mod metrics;
mod profiling;
pub mod query;
pub mod reader;
pub mod request;
pub mod resource_metrics;
pub mod respond;
pub mod reviews;
mod serve;
pub mod server;
pub mod standard;
pub mod subresource;
pub mod token_request;
mod trail;
pub mod verbs;
pub mod versions;
mod virtual_kinds;
mod warnings;
pub mod webhook;
mod websocket;

#[cfg(test)]
mod test_reader;

pub use extension::Extensions;
pub use server::{ApiServer, Config};
