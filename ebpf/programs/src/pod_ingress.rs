//! The host side of a pod's veth pair, outwards: every packet to an isolated pod, and those to others that come by the
//! kernel's own forwarding. ([`crate::deliver`] takes the short way to pods that no policy selects.)

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xebec_ebpf_layout::{Direction, LocalPod, StepKind};

use crate::maps::{LOCAL_PODS, Scratch};
use crate::{event, packet, policy, trace};

const PASS: i32 = TC_ACT_OK;

#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let Some(Scratch { packet, back, .. }) = packet::take(&ctx) else { return PASS };
    // SAFETY: copied at once.
    let Some(pod) = (unsafe { LOCAL_PODS.get(packet.key.dst) }) else { return PASS };
    let pod: LocalPod = *pod;
    if !pod.is_isolated() {
        trace::policy(StepKind::NotSelected, Direction::Ingress, [0; 2], [0; 2]);
        return PASS;
    }
    let result = policy::judge(&ctx, packet, back, &pod, Direction::Ingress).map(|()| PASS);
    event::verdict(&ctx, &packet.key, result)
}
