//! The scheduler: which node a pod runs on.
//!
//! [`schedule::schedule`] decides, purely, from a [`snapshot::Snapshot`] and a pod; [`preempt::preempt`] says which pods
//! would have to go if no node can take it. [`run()`] feeds them from watches and carries out what they say.

mod affinity;
mod filter;
pub mod preempt;
mod queue;
pub mod resources;
mod run;
pub mod schedule;
mod score;
pub mod snapshot;
mod spread;
pub mod views;

pub use run::run;
