//! ARP for load balancer addresses: no interface has them, so the kernel would not answer (RFC 826).

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Addr, lb_address_flags};

use crate::config::config;
use crate::deliver;
use crate::maps::LB_ADDRESSES;
use crate::nat::store;
use crate::packet::ETH_LEN;

/// An ARP packet for IPv4 over Ethernet. The addresses are in pairs of bytes, for they are not aligned to more.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_mac: [u16; 3],
    sender: [u16; 2],
    target_mac: [u16; 3],
    target: [u16; 2],
}

const ETHERNET: u16 = 1_u16.to_be();
const IPV4: u16 = 0x0800_u16.to_be();
const REQUEST: u16 = 1_u16.to_be();
const REPLY: u16 = 2_u16.to_be();

/// Answers a request for an address this node owns, and gives up one that another node announces; leaves everything else to
/// the kernel.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> i32 {
    let pass = TC_ACT_OK;
    let Ok(request) = ctx.load::<Arp>(ETH_LEN) else { return pass };
    if request.hardware != ETHERNET || request.protocol != IPV4 || request.operation != REQUEST {
        return pass;
    }
    let target = u32::from(request.target[0]) | u32::from(request.target[1]) << 16;
    let target = u32::from_ne_bytes(target.to_le_bytes());
    let target = Addr::from_v4_word(target);
    // SAFETY: read at once.
    match unsafe { LB_ADDRESSES.get(target) } {
        Some(flags) if *flags & lb_address_flags::OWNED != 0 => {}
        _ => return pass,
    }
    let mac = config!(uplink_mac);
    let own = [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ];
    if request.sender == request.target {
        // An announcement (RFC 5227 section 3): another node has taken the address, and it does not wait for our agent,
        // which may be away, to let go of it.
        if request.sender_mac != own {
            let _ = LB_ADDRESSES.remove(target);
        }
        return pass;
    }
    let reply = Arp {
        operation: REPLY,
        sender_mac: own,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
        ..request
    };
    if store(ctx, ETH_LEN, &reply).is_err() || store(ctx, 0, &[request.sender_mac, own]).is_err() {
        return pass;
    }
    deliver::back(ctx)
}
