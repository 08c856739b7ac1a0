//! Connections through a load balancer address that has moved here.
//!
//! A new connection any node can take: all choose the same backend. One that stands is known to the node that had the
//! address before, whose own address may be what the backend talks to. So what belongs to no connection known here is
//! handed on to that node through the tunnel, as direct return hands packets on, with no port in place of the backend's.

use xebec_ebpf_layout::{Addr, Port, proto};

use crate::config::config;
use crate::maps::FORMER_OWNERS;
use crate::packet::Packet;

/// Says that the receiver is to know better.
pub const NO_PORT: Port = Port(0);

/// An address at the node that may know this packet's connection.
#[inline(always)]
pub fn former_owner(packet: &Packet) -> Option<Addr> {
    let key = &packet.key;
    if config!(vxlan_ifindex) == 0 || key.proto != proto::TCP || packet.is_syn() {
        return None;
    }
    // SAFETY: copied at once.
    unsafe { FORMER_OWNERS.get(key.dst) }.copied()
}
