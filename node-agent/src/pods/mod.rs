//! Pods on this node, from the object to running containers and back to a status.
//!
//! [`manager::PodManager`] follows the pods bound to the node and gives each a [`worker`]; the worker asks [`plan`]
//! what to do, does it, and reports what [`status`] makes of it.

pub mod admission;
pub mod backoff;
pub mod context;
pub mod env;
pub mod images;
pub mod manager;
pub mod plan;
pub mod resize;
pub mod resources;
pub mod spec;
pub mod start;
pub mod state;
pub mod status;
pub mod sysctls;
pub mod worker;

pub use context::{Allocatable, Context, Parts};
pub use manager::{PodManager, PodManagerConfig};
