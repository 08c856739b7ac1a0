//! What a Kubernetes object is, without any I/O: the resource table, and everything that can be said of an object from
//! its schema and its kind alone.
//!
//! The table ([`resource`]) has a row for each kind and version. A row names the schema, the strategy (the few
//! functions that differ from kind to kind) and the columns. Everything else is a visitor over the schema, the same
//! for all kinds.

pub mod address_range;
pub mod apply;
pub mod cel;
pub mod columns;
pub mod convert;
pub mod cron;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod field;
pub mod go;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod pod_security;
pub mod policy;
pub mod policy_types;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod resource;
pub mod selector;
pub mod status;
pub mod table;
pub mod types;
pub mod validate;
pub mod walk;
