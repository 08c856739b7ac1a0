//! Network policy: from NetworkPolicies, Namespaces and Pods to the maps by which the kernel judges packets.
//!
//! - [`rules`] is what policies say, in a form that has one meaning: a [`rules::RuleSet`] judges an
//!   [`rules::Identity`]. [`parse`] and [`admin`] read it from the API's objects. Pure.
//! - [`compile`] turns a rule set and an identity into entries of the kernel's rule map. Pure.
//! - [`world`] knows all policies, namespaces and pods, and says which entries differ after a change. Pure.
//! - [`domains`] is names of hosts in rules, and the addresses that lookups found for them. Pure. [`ear`] brings those from
//!   the DNS server, before it answers; [`journal`] keeps them for the next agent.
//! - [`sync`] carries the writes out; [`run`] follows the API and drives them.
//!
//! A pod's rule set is everything that its policies say of one direction; pods of one Deployment share it. A peer's
//! identity is which of the selectors and blocks that are named anywhere match it, so there are only as many as policies
//! can tell apart. Both are numbered by a hash of what they mean: an agent that starts finds the maps as it would write
//! them, and touches only what differs.

pub mod admin;
pub mod compile;
pub mod domains;
pub mod ear;
pub mod explain;
pub mod journal;
pub mod parse;
pub mod rules;
pub mod sync;
pub mod views;
pub mod world;

mod run;

pub use ear::{Ear, Lookups};
pub use run::{Gate, Questions, run};

#[cfg(test)]
mod tests;
