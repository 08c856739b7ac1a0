//! The TCP maximum segment size, lowered to what the tunnel, or the way to another node, carries.
//!
//! Path MTU discovery would find it too, at the price of a lost segment for each connection, and of fragments where ICMP
//! is filtered. So each side of a connection through it hears a size that fits (RFC 9293 section 3.7.1).

use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{DropReason, proto};

use crate::nat;
use crate::packet::{Kind, Packet, tcp};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
/// IP and TCP headers without options.
const HEADERS: u32 = 40;
/// The same of IPv6.
const HEADERS_V6: u32 = 60;
/// Options looked at; the size is the first that any stack sends.
const OPTIONS_MAX: u32 = 10;

/// Lowers the size that a SYN announces to what fits into packets of `mtu` bytes.
#[inline(always)]
pub fn clamp(ctx: &TcContext, packet: &Packet, mtu: u32) -> Result<(), DropReason> {
    let headers = if packet.is_v6() { HEADERS_V6 } else { HEADERS };
    if packet.key.proto != proto::TCP || !packet.is(Kind::Flow) || packet.tcp_flags & tcp::SYN == 0 || mtu <= headers {
        return Ok(());
    }
    let most = (mtu - headers) as u16;
    let l4 = packet.l4 as usize;
    let Ok(offset) = ctx.load::<u8>(l4 + 12) else { return Ok(()) };
    let end = ((offset >> 4) as usize) << 2;
    let mut at = 20;
    for _ in 0..OPTIONS_MAX {
        if at + 4 > end {
            break;
        }
        let Ok(option) = ctx.load::<[u8; 4]>(l4 + at) else { break };
        match option {
            [END, ..] => break,
            [NO_OPERATION, ..] => at += 1,
            [SEGMENT_SIZE, 4, high, low] => {
                if u16::from_be_bytes([high, low]) <= most {
                    break;
                }
                // The checksum counts pairs of bytes; the option may begin at an odd one.
                let [new_high, new_low] = most.to_be_bytes();
                let (old, new) = if at % 2 == 0 {
                    (u16::from_ne_bytes([high, low]), u16::from_ne_bytes([new_high, new_low]))
                } else {
                    (u16::from_ne_bytes([low, high]), u16::from_ne_bytes([new_low, new_high]))
                };
                nat::replace_l4(ctx, l4 + 16, u64::from(!u32::from(old)) + u64::from(new), 0)?;
                return nat::store(ctx, l4 + at + 2, &[new_high, new_low]);
            }
            [_, length, ..] if length >= 2 => at += length as usize,
            _ => break,
        }
    }
    Ok(())
}
