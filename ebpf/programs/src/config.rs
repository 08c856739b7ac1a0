//! What the loader set.

use xebec_ebpf_layout::{Addr, Config};

/// Overwritten by the loader before the verifier reads it.
#[unsafe(no_mangle)]
pub static CONFIG: Config = Config::ZERO;

/// Reads a field of the configuration. Volatile, or the compiler would take the zeros above for the truth.
macro_rules! config {
    ($field:ident) => {{
        // SAFETY: the pointer is to a field of a static; nothing writes to it after loading.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::CONFIG.$field) }
    }};
}
pub(crate) use config;

/// Whether the programs look at IPv6. Where not, the verifier removes all that is for it.
#[inline(always)]
pub fn dual_stack() -> bool {
    config!(dual_stack) != 0
}

/// Whether `addr` is in the network of its family that these fields hold.
macro_rules! is_in {
    ($addr:expr, $net:ident, $mask:ident, $net6:ident, $mask6:ident) => {
        if $addr.is_v4() {
            $addr.v4_word() & config!($mask) == config!($net)
        } else {
            dual_stack() && $addr.is_in(&config!($net6), &config!($mask6))
        }
    };
}

/// Whether `addr` is a pod of this node.
#[inline(always)]
pub fn in_pod_net(addr: &Addr) -> bool {
    is_in!(addr, pod_net, pod_mask, pod6_net, pod6_mask)
}

/// Whether `addr` is a pod of the cluster.
#[inline(always)]
pub fn in_cluster_net(addr: &Addr) -> bool {
    is_in!(addr, cluster_net, cluster_mask, cluster6_net, cluster6_mask)
}

/// Whether `addr` is set apart for services.
#[inline(always)]
pub fn in_service_net(addr: &Addr) -> bool {
    is_in!(addr, service_net, service_mask, service6_net, service6_mask)
}

/// The node's main address in the family of `addr`; zeros if it has none.
#[inline(always)]
pub fn node_like(addr: &Addr) -> Addr {
    if dual_stack() && !addr.is_v4() { config!(node6) } else { config!(node) }
}

/// Whether `port` (machine's byte order) is a NodePort.
#[inline(always)]
pub fn is_node_port(port: u16) -> bool {
    let [first, last] = config!(node_ports);
    port >= first && port <= last
}
