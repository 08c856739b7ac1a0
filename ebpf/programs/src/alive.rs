//! Answers to other nodes that ask whether this one lives.
//!
//! They want to know who carries packets, and that is not the agent: it may crash, hang or be replaced while every
//! connection goes on. So the answer comes from where the packets are carried.

use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{ALIVE_PORT, ALIVE_QUESTION, DropReason, Port, proto};

use crate::config::node_like;
use crate::nat::{self, Tuple};
use crate::packet::{Kind, Packet, UDP_LEN};
use crate::{deliver, reject};

/// Whether somebody asks. Not from the port that answers come from: two nodes could be made to answer each other for ever.
#[inline(always)]
pub fn is_asked(ctx: &TcContext, packet: &Packet) -> bool {
    let key = &packet.key;
    key.proto == proto::UDP
        && key.dst_port == Port::new(ALIVE_PORT)
        && key.src_port != Port::new(ALIVE_PORT)
        && packet.is(Kind::Flow)
        && key.dst == node_like(&key.dst)
        && ctx.load(packet.l4 as usize + UDP_LEN).is_ok_and(|word: [u8; ALIVE_QUESTION.len()]| word == ALIVE_QUESTION)
}

/// Sends the question back.
#[inline(always)]
pub fn answer(ctx: &TcContext, packet: &Packet, to: &mut Tuple) -> Result<i32, DropReason> {
    let key = &packet.key;
    to.src = key.dst;
    to.dst = key.src;
    to.src_port = key.dst_port;
    to.dst_port = key.src_port;
    to.direct_return = 0;
    nat::rewrite(ctx, packet, to, false)?;
    reject::turn_round(ctx)?;
    Ok(deliver::back(ctx))
}
