//! The pod network.
//!
//! As the pod worker sees it: [`PodNetwork`]. Behind it:
//! - [`setup`] prepares the node and loads the datapath;
//! - [`pod_network`] connects pods, by the CNI library and the datapath;
//! - [`xdp`] has the uplink's driver forward, where that is worth it;
//! - [`peers`] says which routes, tunnels and addresses the other nodes call for (pure), [`load_balancer`] which node
//!   answers for which load balancer address, [`pools`] which may (pure), and [`run`] follows the API and carries both out;
//! - [`announce`] tells neighbours of addresses; [`handover`] says which node had an address before (pure);
//! - [`alive`] notices nodes that have died, sooner than the API does; [`mtu`] how large packets to other nodes may be;
//!   [`flow_table`] when there are more flows than the node can keep.

pub mod alive;
pub mod announce;
pub mod flow_table;
pub mod handover;
pub mod load_balancer;
pub mod mtu;
pub mod nodes;
pub mod peers;
pub mod pod_network;
pub mod pools;
pub mod run;
pub mod setup;
pub mod xdp;

#[cfg(test)]
mod tests;

pub use setup::{LoadBalancerMode, Network, NetworkConfig, NetworkConfig4, NetworkConfig6, SetupError, Tunnel};
pub use xdp::{Xdp, XdpState};

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIdentity {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// A pod's addresses, the primary one first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddresses(pub Vec<IpAddr>);

/// Why a pod could not be connected.
#[derive(Debug, thiserror::Error)]
#[error("pod {}/{}: {message}", pod.namespace, pod.name)]
pub struct NetworkError {
    /// Which pod.
    pub pod: PodIdentity,
    /// What happened, and what to do.
    pub message: String,
}

/// Connects pods to the network.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the network namespace pinned at `netns` an interface and addresses. Doing it again for the same pod
    /// returns the same addresses.
    async fn setup(&self, pod: &PodIdentity, netns: &Path) -> Result<PodAddresses, NetworkError>;

    /// Takes them away. A pod that has none is no error.
    async fn teardown(&self, pod: &PodIdentity, netns: &Path) -> Result<(), NetworkError>;

    /// Forgets every pod that is not in `live`: what a crash left behind.
    async fn collect(&self, live: &[PodIdentity]) -> Result<(), NetworkError>;
}
