//! SCTP (RFC 9260): what its first chunk says, its checksum, and the refusal of an association.
//!
//! The checksum is a CRC32c of header and chunks, and does not see IP's addresses. Ports are the header's first word; a change
//! of them changes the checksum by what the CRC makes of that change followed by as many zeros as there are bytes
//! behind it, whatever those bytes are: a product of polynomials (modulo the CRC's), for which nothing is read but the length.

use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{DropReason, Port};

use crate::frame::Frame;
use crate::nat::{self, Tuple, fold16, store};
use crate::packet::{ETH_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Kind, MORE_FRAGMENTS, Packet, tcp};
use crate::reject;

/// Chunk types.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// In an ABORT: the tag is the receiver's own, for the sender knows none.
const TAG_REFLECTED: u8 = 1;

/// Where the checksum is in the header.
const CHECKSUM: usize = 8;
/// Where the first chunk begins.
const CHUNK: usize = 12;

/// The polynomial, its highest power in the lowest bit, as all values here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// What eight times as many zero bits as the index has bytes multiply a checksum by: up to 255 bytes, and 256 times as many.
static BYTES: [u32; 256] = powers(1);
static PAGES: [u32; 256] = powers(256);

const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(a & 1))
}

/// The product of two polynomials. No branches: the verifier would follow each. And a function that the kernel checks by itself,
/// once, not on each way to it, for it is global.
#[unsafe(no_mangle)]
#[inline(never)]
pub const extern "C" fn sctp_product(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & 0_u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = times_x(b);
        bit += 1;
    }
    product
}

/// The first 256 powers of x to the 8 times `step`.
const fn powers(step: u32) -> [u32; 256] {
    let mut base = ONE;
    let mut bits = 0;
    while bits < 8 * step {
        base = times_x(base);
        bits += 1;
    }
    let mut out = [ONE; 256];
    let mut index = 1;
    while index < out.len() {
        out[index] = sctp_product(out[index - 1], base);
        index += 1;
    }
    out
}

/// The first chunk of a packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    ports: [u16; 2],
    tag: u32,
    check: u32,
    chunk: u8,
    flags: u8,
    length: u16,
}

/// What a packet's first chunk says of its association, in the terms of TCP.
#[inline(always)]
pub fn flags(chunk: u8) -> u8 {
    match chunk {
        INIT => tcp::SYN,
        INIT_ACK => tcp::SYN | tcp::ACK,
        ABORT | SHUTDOWN_COMPLETE => tcp::RST,
        _ => tcp::ACK,
    }
}

/// The type of the first chunk, if it is there.
#[inline(always)]
pub fn first_chunk(ctx: &impl Frame, l4: usize) -> Option<u8> {
    ctx.read(l4 + CHUNK)
}

/// Two ports as they are summed.
#[inline(always)]
fn word(src: Port, dst: Port) -> u32 {
    let ([a, b], [c, d]) = (src.0.to_ne_bytes(), dst.0.to_ne_bytes());
    u32::from_le_bytes([a, b, c, d])
}

/// Writes the ports of `to`, and what becomes of the checksum. One that is zero is left to be done, by a network card or by
/// the kernel on the packet's way out.
#[inline(always)]
pub fn rewrite(ctx: &impl Frame, packet: &Packet, to: &Tuple) -> Result<(), DropReason> {
    let key = &packet.key;
    let (old, new) = (word(key.src_port, key.dst_port), word(to.src_port, to.dst_port));
    if old == new {
        return Ok(());
    }
    // How long the whole would be is not said in its first fragment. (SCTP does not send what would have to be fragmented.)
    if packet.fragment().1 & MORE_FRAGMENTS != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let l4 = packet.l4 as usize;
    let check: u32 = ctx.read(l4 + CHECKSUM).ok_or(DropReason::RewriteFailed)?;
    let mut sum = nat::change(old, new);
    if check != 0 {
        let length = packet.payload_length();
        let distance = sctp_product(BYTES[(length & 0xff) as usize], PAGES[(length >> 8 & 0xff) as usize]);
        let after = (u32::from_le(check) ^ sctp_product(old ^ new, distance)).to_le();
        sum += nat::change(check, after);
        ctx.write(l4 + CHECKSUM, &after)?;
    }
    ctx.adjust_sum(sum);
    ctx.write(l4, &[to.src_port.0, to.dst_port.0])
}

/// The checksum of the header and one chunk without a body, the checksum's own place being zero.
#[inline(always)]
fn checksum(head: &Head) -> u32 {
    let chunk =
        u32::from_le_bytes([head.chunk, head.flags, head.length.to_ne_bytes()[0], head.length.to_ne_bytes()[1]]);
    let mut crc = u32::MAX;
    crc = sctp_product(crc ^ word(Port(head.ports[0]), Port(head.ports[1])), BYTES[4]);
    crc = sctp_product(crc ^ u32::from_le(head.tag), BYTES[4]);
    crc = sctp_product(crc, BYTES[4]);
    crc = sctp_product(crc ^ chunk, BYTES[4]);
    (!crc).to_le()
}

/// Turns the packet into the ABORT that answers it (RFC 9260 section 8.4), addressed to who sent it; false if it is not to be
/// answered.
#[inline(always)]
pub fn abort(ctx: &TcContext, packet: &Packet) -> Result<bool, DropReason> {
    let l4 = packet.l4 as usize;
    let header = ETH_LEN + if packet.is_v6() { IPV6_LEN } else { IPV4_LEN };
    // With options or extensions there would be more to change; nobody sends those.
    if !packet.is(Kind::Flow) || l4 != header {
        return Ok(false);
    }
    let Ok(old) = ctx.load::<Head>(l4) else { return Ok(false) };
    let (tag, flags) = match old.chunk {
        ABORT | COOKIE_ACK | SHUTDOWN_COMPLETE => return Ok(false),
        // The tag that its sender wants to hear.
        INIT => match ctx.load::<u32>(l4 + size_of::<Head>()) {
            Ok(tag) => (tag, 0),
            Err(_) => return Ok(false),
        },
        _ => (old.tag, TAG_REFLECTED),
    };
    // SAFETY: the context the kernel gave us.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (l4 + size_of::<Head>()) as u32, 0) } != 0 {
        return Err(DropReason::RewriteFailed);
    }
    let ports = [old.ports[1], old.ports[0]];
    let mut new = Head { ports, tag, check: 0, chunk: ABORT, flags, length: 4_u16.to_be() };
    if old.check != 0 {
        new.check = checksum(&new);
    }
    store(ctx, l4, &new)?;
    address_back(ctx, packet)?;
    reject::turn_round(ctx)?;
    Ok(true)
}

/// Writes the IP header of an answer: the addresses change places, and there is less behind it.
#[inline(always)]
fn address_back(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.is_v6() {
        store(ctx, ETH_LEN, &Ipv6 { length: (size_of::<Head>() as u16).to_be(), ..packet.ip6 })?;
        return store(ctx, ETH_LEN + 8, &[packet.key.dst, packet.key.src]);
    }
    let ip = &packet.ip;
    let total_length = ((IPV4_LEN + size_of::<Head>()) as u16).to_be();
    let sum = u64::from(!ip.check) + nat::change(u32::from(ip.total_length), u32::from(total_length));
    store(ctx, ETH_LEN, &Ipv4 { total_length, check: !fold16(sum), src: ip.dst, dst: ip.src, ..*ip })
}
