//! The CNI plugin: pod interfaces and addresses.
//!
//! - [`ipam`] leases addresses from the node's range, as files.
//! - [`connect`] makes the veth pair, with the pod's half in its namespace.
//! - [`plugin`] is the CNI specification 1.1 over both, for any runtime: `xebec` invoked as `xebec-cni`.
//! - [`netlink`] is what they, and the agent's routes, say to the kernel.
//!
//! The agent calls the first two in process.

pub mod connect;
pub mod ipam;
pub mod netlink;
pub mod plugin;
pub mod sysctl;

pub use plugin::main;
