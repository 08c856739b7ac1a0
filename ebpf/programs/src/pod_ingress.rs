//! The host side of a pod's veth pair, outwards: every packet to an isolated pod, those of SCTP, and those to others that come
//! by the kernel's own forwarding. ([`crate::deliver`] takes the short way to pods that no policy selects.)

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Direction, DropReason, LocalPod, StepKind, proto};

use crate::maps::{LOCAL_PODS, Scratch};
use crate::{association, event, packet, policy, trace};

const PASS: i32 = TC_ACT_OK;

#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let Some(scratch) = packet::take(&ctx) else { return PASS };
    let result = ingress(&ctx, scratch);
    event::verdict(&ctx, &scratch.packet.key, result)
}

#[inline(always)]
fn ingress(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, DropReason> {
    let Scratch { packet, back, .. } = &mut *scratch;
    // SAFETY: copied at once.
    let Some(pod) = (unsafe { LOCAL_PODS.get(packet.key.dst) }) else { return Ok(PASS) };
    let pod: LocalPod = *pod;
    if pod.is_isolated() {
        policy::judge(ctx, packet, back, &pod, Direction::Ingress)?;
    } else {
        trace::policy(StepKind::NotSelected, Direction::Ingress, [0; 2], [0; 2]);
    }
    if packet.key.proto == proto::SCTP {
        association::receive(ctx, scratch)?;
    }
    Ok(PASS)
}
