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

/// Whether `addr` is a pod of this node.
#[inline(always)]
pub fn in_pod_net(addr: &Addr) -> bool {
    addr.is_v4() && addr.v4_word() & config!(pod_mask) == config!(pod_net)
}

/// Whether `addr` is a pod of the cluster.
#[inline(always)]
pub fn in_cluster_net(addr: &Addr) -> bool {
    addr.is_v4() && addr.v4_word() & config!(cluster_mask) == config!(cluster_net)
}

/// Whether `addr` is set apart for services.
#[inline(always)]
pub fn in_service_net(addr: &Addr) -> bool {
    addr.is_v4() && addr.v4_word() & config!(service_mask) == config!(service_net)
}

/// Whether `port` (machine's byte order) is a NodePort.
#[inline(always)]
pub fn is_node_port(port: u16) -> bool {
    let [first, last] = config!(node_ports);
    port >= first && port <= last
}
