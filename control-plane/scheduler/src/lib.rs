//! The scheduler: which node each pod goes to.
//!
//! [`schedule::schedule`] decides, purely, from a [`snapshot::Snapshot`]: [`filters`] say which nodes are possible,
//! [`scores`] which of them is best, [`devices`] which devices a pod gets there, and [`preemption`] how room is made if none is. [`run`] keeps the snapshot up to
//! date, takes pods from the queue by priority, and carries the decisions out.

pub mod devices;
pub mod filters;
pub mod preemption;
pub mod queue;
mod run;
pub mod schedule;
pub mod scores;
pub mod snapshot;
pub mod views;
mod volumes;

pub use run::run;
