//! No part of the datapath: what [`crate::uplink_xdp`] is measured against, and with.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use xebec_ebpf_layout::{YARDSTICK_BYTES, flow_counters};

use crate::flows;
use crate::frame::Frame as _;

/// How each packet that is sent begins. Overwritten by the loader.
#[unsafe(no_mangle)]
pub static YARDSTICK: [u8; YARDSTICK_BYTES] = [0; YARDSTICK_BYTES];

/// Sends the packet. The kernel takes packets that have come back for the next ones, with what was written to them meanwhile.
#[xdp]
pub fn xdp_send(ctx: XdpContext) -> u32 {
    // SAFETY: the pointer is to a static; nothing writes to it after loading.
    let begin = unsafe { core::ptr::read_volatile(&raw const YARDSTICK) };
    if ctx.write(0, &begin).is_ok() { XDP_TX } else { XDP_ABORTED }
}

/// Sends everything back as it came: no program can forward more.
#[xdp]
pub fn xdp_back(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Counts what arrives.
#[xdp]
pub fn xdp_sink(_ctx: XdpContext) -> u32 {
    flows::count(flow_counters::CARRIED_BY_XDP);
    XDP_DROP
}
