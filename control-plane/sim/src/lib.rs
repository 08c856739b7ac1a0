//! The whole control plane on virtual time, from a seed.
//!
//! A [`Sim`] is a cluster in one thread: the API server over a store in memory, all controllers, the scheduler, and
//! nodes that run the real pod workers over a fake container runtime. Time is tokio's paused clock, so an hour of
//! waiting takes no time, and everything random comes from the seed: the same seed gives the same [`Trace`], write by
//! write.
//!
//! [`invariants`] are checked at every single write.

pub mod invariants;
mod node;
mod sim;
mod trace;

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod servers_tests;
#[cfg(test)]
mod sets_tests;
#[cfg(test)]
mod tests;

pub use sim::{Sim, simulate};
pub use trace::{RecordingStore, Trace};
