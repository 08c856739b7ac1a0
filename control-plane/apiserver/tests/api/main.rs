//! The API as clients see it, in process, over a store in memory.

mod aggregation;
mod apply;
mod chain;
mod client;
mod connect;
mod crds;
mod create;
mod delete;
mod durable;
mod harness;
mod list;
mod patch;
mod paths;
mod read;
mod subresources;
mod update;
mod watch;
mod wire;
