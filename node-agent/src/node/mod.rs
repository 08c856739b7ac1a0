//! The node itself: its object, its conditions, its lease.

pub mod lease;
pub mod machine;
pub mod register;
pub mod status;

pub use machine::Machine;
pub use register::{NodeConfig, Problems, run};
